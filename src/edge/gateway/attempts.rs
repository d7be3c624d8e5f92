//! How many changes one client address may attempt: a bucket each, that holds a burst and fills again with time.
//!
//! Every attempt is an entry of the ledger for ever, denied ones too, and whoever may not write to the registry can still
//! attempt.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Addresses remembered at once. Past that, all others share one bucket.
const MAX_ADDRESSES: usize = 10_000;
/// Seconds of the rate that may come at once.
const BURST_SECONDS: f64 = 10.0;

/// The buckets.
pub(super) struct Attempts {
    per_second: f64,
    buckets: Mutex<HashMap<Option<IpAddr>, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Attempts {
    /// So many a second in the long run; 0: any number.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), buckets: Mutex::default() }
    }

    /// Counts an attempt; false: too many. `address`: none where it is not known.
    pub(super) fn admit(&self, address: Option<IpAddr>, now: Instant) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let burst = self.per_second * BURST_SECONDS;
        let filled = |bucket: &Bucket| {
            let seconds = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + seconds * self.per_second).min(burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = address.map(customer);
        if buckets.len() >= MAX_ADDRESSES && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| filled(bucket) < burst);
            if buckets.len() >= MAX_ADDRESSES {
                key = None;
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: burst, at: now });
        (bucket.left, bucket.at) = (filled(bucket), now);
        let admitted = bucket.left >= 1.0;
        if admitted {
            bucket.left -= 1.0;
        }
        admitted
    }
}

/// Of IPv6 the first half, which is one customer.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_its_rate_and_others_have_their_own() {
        let attempts = Attempts::new(2);
        let (one, other) = (Some("192.0.2.1".parse().expect("valid")), Some("192.0.2.2".parse().expect("valid")));
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| attempts.admit(one, now)).count(), 20);
        assert!(attempts.admit(other, now));
        let later = now + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| attempts.admit(one, later)).count(), 6);
        assert!((0..100).all(|_| Attempts::new(0).admit(one, now)));
    }

    #[test]
    fn addresses_beyond_those_remembered_share_a_bucket() {
        let attempts = Attempts::new(1);
        let now = Instant::now();
        let address = |number: u32| Some(IpAddr::V4((0x0a00_0000 + number).into()));
        for number in 0..10_000 {
            assert!(attempts.admit(address(number), now));
        }
        assert_eq!((20_000..20_100).filter(|number| attempts.admit(address(*number), now)).count(), 10);
    }
}
