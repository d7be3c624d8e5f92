//! The ledger's clock: strictly increasing, whatever the machine's clock does.

use std::time::Instant;

/// Reads the machine's clock: microseconds since the Unix epoch.
pub type ReadClock = std::sync::Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// How far the clock may be from the last entry's time before that is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Ahead of it, in microseconds. An idle ledger falls behind by as long as it was idle.
    pub ahead_us: u64,
    /// Behind it, in microseconds.
    pub behind_us: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ahead_us: 30 * 86_400_000_000, behind_us: 10_000_000 }
    }
}

/// What is odd about a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// At or before the last entry's time: the ledger counts on by microseconds.
    StoodOrSteppedBack {
        /// By how much, in microseconds.
        behind_us: u64,
        /// Beyond the bound: an alarm, not just a warning.
        alarm: bool,
    },
    /// Further ahead of the last entry than the bound: an alarm.
    TooFarAhead {
        /// By how much, in microseconds.
        ahead_us: u64,
    },
}

impl Oddity {
    /// Whether it is beyond the bounds.
    pub fn is_alarm(self) -> bool {
        matches!(self, Self::StoodOrSteppedBack { alarm: true, .. } | Self::TooFarAhead { .. })
    }
}

/// The time of the next entry after one at `last_us` (0: there is none yet), and what is odd about the clock.
pub fn next_time(last_us: u64, reading_us: u64, bounds: Bounds) -> (u64, Option<Oddity>) {
    if reading_us > last_us {
        let ahead_us = reading_us - last_us;
        let too_far = last_us > 0 && ahead_us > bounds.ahead_us;
        return (reading_us, too_far.then_some(Oddity::TooFarAhead { ahead_us }));
    }
    let behind_us = last_us - reading_us;
    (last_us + 1, Some(Oddity::StoodOrSteppedBack { behind_us, alarm: behind_us > bounds.behind_us }))
}

/// Finds out whether the machine's clock stands still while time goes by. Between two readings nothing shows it.
#[derive(Debug)]
pub struct Standstill {
    reading_us: u64,
    since: Instant,
}

impl Standstill {
    /// With no reading yet.
    pub fn new(now: Instant) -> Self {
        Self { reading_us: 0, since: now }
    }

    /// For how long the clock has shown nothing but this reading, in microseconds; 0 if it has moved.
    pub fn see(&mut self, reading_us: u64, now: Instant) -> u64 {
        if reading_us != self.reading_us {
            *self = Self { reading_us, since: now };
        }
        u64::try_from(now.duration_since(self.since).as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_stands_still_is_found_out() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut standstill = Standstill::new(begin);
        assert_eq!(standstill.see(7, after(1)), 0);
        assert_eq!(standstill.see(7, after(4)), 3_000_000);
        assert_eq!(standstill.see(7, after(11)), 10_000_000);
        assert_eq!(standstill.see(6, after(12)), 0, "backwards is no standstill");
        assert_eq!(standstill.see(6, after(12)), 0);
    }

    #[test]
    fn time_only_goes_forward() {
        let bounds = Bounds { ahead_us: 100, behind_us: 10 };
        assert_eq!(next_time(0, 5_000, bounds), (5_000, None));
        assert_eq!(next_time(50, 51, bounds), (51, None));
        assert_eq!(next_time(50, 151, bounds), (151, Some(Oddity::TooFarAhead { ahead_us: 101 })));
        let back = |behind_us, alarm| Some(Oddity::StoodOrSteppedBack { behind_us, alarm });
        assert_eq!(next_time(50, 50, bounds), (51, back(0, false)));
        assert_eq!(next_time(50, 40, bounds), (51, back(10, false)));
        assert_eq!(next_time(50, 39, bounds), (51, back(11, true)));
    }
}
