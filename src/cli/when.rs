//! Times as people type them, in microseconds since the Unix epoch.
//!
//! | typed | means |
//! |---|---|
//! | `2026-11-21T10:07:00Z`, `…+01:00`, `…[Europe/Paris]` | that moment |
//! | `2026-11-21 10:07`, `2026-11-21` | that moment in the local zone; midnight without a time |
//! | `14:00`, `14:00 yesterday`, `yesterday 14:00`, `today` | the same, by the local calendar |
//! | `3 days ago`, `1h 30m ago` | counted back on the local calendar |
//! | `1795255620s`, `…ms`, `…us` | Unix time |
//! | `now` | now |

use jiff::civil::{Date, DateTime, Time};
use jiff::{Span, Timestamp, Zoned};

use super::Failure;
use super::show::words;
use crate::ledger::time::MAX_TIME_US;

const ACCEPTED: &str = "write RFC 3339 (2026-11-21T10:07:00Z), a local time (2026-11-21 10:07, 14:00, \"14:00 \
                        yesterday\"), \"3 days ago\", a Unix time with unit (1795255620s), or now";

/// A time for a question: now is not a number, for only the ledger knows its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// As of the newest entry.
    Now,
    /// At this time.
    At(u64),
}

impl Moment {
    /// As questions carry it.
    pub(super) fn as_us(self) -> u64 {
        match self {
            Self::Now => 0,
            Self::At(time_us) => time_us,
        }
    }
}

/// For clap: the moment that is meant at the moment of asking.
pub(super) fn moment(text: &str) -> Result<Moment, String> {
    parse(text, &Zoned::now())
}

/// For clap: a time that must be a number, so "now" is the caller's.
pub(super) fn time_us(text: &str) -> Result<u64, String> {
    let now = Zoned::now();
    match parse(text, &now)? {
        Moment::At(time_us) => Ok(time_us),
        Moment::Now => in_range(now.timestamp()),
    }
}

/// Two times, each with its option, of which the first may not be the later one. 0 is now, or no bound.
pub(super) fn check_order(from: (&str, u64), to: (&str, u64)) -> Result<(), Failure> {
    if to.1 == 0 || from.1 <= to.1 {
        return Ok(());
    }
    let [(from, from_us), (to, to_us)] = [from, to];
    let (from_time, to_time) = (words(from_us), words(to_us));
    Err(Failure::Usage(format!("{from} is {from_time}, which is after {to}, {to_time}; exchange them")))
}

fn parse(text: &str, now: &Zoned) -> Result<Moment, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(Moment::Now);
    }
    if let Some(time_us) = unix_time(text)? {
        return time_in_range(time_us).map(Moment::At);
    }
    let found = text.parse::<Timestamp>().ok();
    let found = found.or_else(|| text.parse::<Zoned>().ok().map(|zoned| zoned.timestamp()));
    let found = found.or_else(|| civil(text, now).and_then(|civil| local(civil, now)));
    match found {
        Some(timestamp) => in_range(timestamp).map(Moment::At),
        None => ago(text, now).and_then(in_range).map(Moment::At),
    }
}

/// `1795255620s`, `…ms` or `…us`.
fn unix_time(text: &str) -> Result<Option<u64>, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        _ if number.is_empty() => return Ok(None),
        "s" => 1_000_000,
        "ms" => 1000,
        "us" => 1,
        "" => return Err(format!("{text:?} has no unit; write {text}s, {text}ms or {text}us for a Unix time")),
        _ => return Ok(None),
    };
    let time_us = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    time_us.map(Some).ok_or_else(|| format!("{text:?} is too far ahead"))
}

/// A date, a time, or both, in either order.
fn civil(text: &str, now: &Zoned) -> Option<DateTime> {
    if let Some(day) = day(text, now) {
        return Some(day.at(0, 0, 0, 0));
    }
    if let Some(time) = time_of_day(text) {
        return Some(now.date().to_datetime(time));
    }
    if let Ok(both) = text.parse::<DateTime>() {
        return Some(both);
    }
    let (first, second) = text.split_once(' ')?;
    let (first, second) = (first.trim(), second.trim());
    let of = |date: &str, time: &str| Some(day(date, now)?.to_datetime(time_of_day(time)?));
    of(first, second).or_else(|| of(second, first))
}

fn day(text: &str, now: &Zoned) -> Option<Date> {
    match text {
        "today" => Some(now.date()),
        "yesterday" => now.date().yesterday().ok(),
        // jiff reads a date from a date with a time, too, and drops the time.
        text if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') => text.parse().ok(),
        _ => None,
    }
}

fn time_of_day(text: &str) -> Option<Time> {
    let is_time = text.contains(':') && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
    is_time.then(|| text.parse().ok()).flatten()
}

fn local(civil: DateTime, now: &Zoned) -> Option<Timestamp> {
    civil.to_zoned(now.time_zone().clone()).ok().map(|zoned| zoned.timestamp())
}

fn ago(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let unknown = || format!("{text:?} is not a time; {ACCEPTED}");
    let span: Span = text.parse().map_err(|_| unknown())?;
    if !span.is_negative() {
        return Err(format!("{text:?} does not say from when; write \"{text} ago\""));
    }
    now.checked_add(span).map(|then| then.timestamp()).map_err(|_| unknown())
}

fn in_range(timestamp: Timestamp) -> Result<u64, String> {
    let time_us = timestamp.as_microsecond();
    u64::try_from(time_us).map_err(|_| "times before 1970 are not recorded".to_owned()).and_then(time_in_range)
}

fn time_in_range(time_us: u64) -> Result<u64, String> {
    match time_us {
        // In questions 0 means now.
        0 => Err("times before 1970 are not recorded, nor is its first microsecond".to_owned()),
        time_us if time_us > MAX_TIME_US => Err("times after 9999-12-31 are not recorded".to_owned()),
        time_us => Ok(time_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses as of a winter noon in Paris, and shows the result in UTC.
    fn read(text: &str) -> String {
        let now: Zoned = "2026-11-21T12:00:00+01:00[Europe/Paris]".parse().expect("a time");
        match parse(text, &now) {
            Ok(Moment::At(time_us)) => crate::ledger::time::rfc3339(time_us).replace(".000000Z", "Z"),
            Ok(Moment::Now) => "now".to_owned(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn moments_with_a_zone_mean_what_they_say() {
        assert_eq!(read("2026-11-21T10:07:00Z"), "2026-11-21T10:07:00Z");
        assert_eq!(read("2026-11-21T10:07:00.123456Z"), "2026-11-21T10:07:00.123456Z");
        assert_eq!(read("2026-11-21T10:07:00+02:00"), "2026-11-21T08:07:00Z");
        assert_eq!(read("2026-07-01T10:07[Europe/Paris]"), "2026-07-01T08:07:00Z");
        assert_eq!(read("1795255620s"), "2026-11-21T10:07:00Z");
        assert_eq!(read("1795255620001ms"), "2026-11-21T10:07:00.001000Z");
        assert_eq!(read("1795255620000001us"), "2026-11-21T10:07:00.000001Z");
        assert_eq!(read("now"), "now");
    }

    #[test]
    fn moments_without_a_zone_are_local() {
        assert_eq!(read("2026-11-21 10:07"), "2026-11-21T09:07:00Z");
        assert_eq!(read("2026-11-21T10:07:30"), "2026-11-21T09:07:30Z");
        assert_eq!(read("2026-07-01"), "2026-06-30T22:00:00Z");
        assert_eq!(read("10:07"), "2026-11-21T09:07:00Z");
        assert_eq!(read("today"), "2026-11-20T23:00:00Z");
        assert_eq!(read("yesterday"), "2026-11-19T23:00:00Z");
        assert_eq!(read("14:00 yesterday"), "2026-11-20T13:00:00Z");
        assert_eq!(read("yesterday 14:00"), "2026-11-20T13:00:00Z");
    }

    #[test]
    fn spans_are_counted_back_on_the_local_calendar() {
        assert_eq!(read("3 days ago"), "2026-11-18T11:00:00Z");
        assert_eq!(read("1h 30m ago"), "2026-11-21T09:30:00Z");
        assert_eq!(read("2 weeks ago"), "2026-11-07T11:00:00Z");
        // The clocks were set back in between: noon stays noon.
        assert_eq!(read("2 months ago"), "2026-09-21T10:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_would_be() {
        assert!(read("soon").contains("is not a time; write RFC 3339"));
        assert!(read("1795255620").contains("has no unit"));
        assert!(read("3 days").contains("\"3 days ago\""));
        assert!(read("1969-12-31T23:59:59Z").contains("before 1970"));
        assert!(read("1970-01-01T00:00:00Z").contains("before 1970"));
        for text in [
            "",
            " ",
            "25:00",
            "2026-11-21 10:07 11:00",
            "today today",
            "2026-13-01",
            "2026-11-21T10:07:00Zz",
            "99999999999999999999s",
            "-5",
        ] {
            assert!(read(text).starts_with("error"), "{text:?} became {}", read(text));
        }
    }
}
