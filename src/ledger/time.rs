//! Times: microseconds since the Unix epoch, and the bounds outside of which nobody means what they wrote.

use jiff::Timestamp;

/// 9999-12-31T23:59:59.999999Z, the last time that RFC 3339 can write.
pub const MAX_TIME_US: u64 = 253_402_300_799_999_999;

/// How far ahead of the ledger's clock a producer may say that something occurred: one day.
pub const MAX_AHEAD_US: u64 = 86_400_000_000;

/// RFC 3339 in UTC with microseconds: `2026-11-21T10:07:00.000000Z`.
pub fn rfc3339(time_us: u64) -> String {
    let timestamp = i64::try_from(time_us.min(MAX_TIME_US)).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    // jiff ends a day before RFC 3339 does.
    timestamp.map_or_else(|| format!("{time_us}us"), |timestamp| format!("{timestamp:.6}"))
}
