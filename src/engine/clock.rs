//! The ledger's clock: strictly increasing, whatever the machine's clock does; and whether that is to be believed.
//!
//! Beside the machine's clock there is one that nobody sets, which counts from the start of the process. From it follows what the
//! machine's clock ought to show. One that is far ahead of that is not believed until it is set right, however many entries were recorded under
//! it meanwhile, or until a restart: that begins with the time of the last entry ([decision 46](../../docs/decisions/0046-a-clock-that-leapt.md)).

use std::time::{Duration, Instant};

/// Reads the machine's clock: microseconds since the Unix epoch.
pub type ReadClock = std::sync::Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// The time of the next entry after one at `last_us`.
pub fn next_time(last_us: u64, reading_us: u64) -> u64 {
    reading_us.max(last_us + 1)
}

/// How far the clock may be off before that is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Ahead of what it ought to show, in microseconds.
    pub ahead_us: u64,
    /// Behind the last entry, in microseconds; and standing still.
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
    /// Further ahead of what it ought to show than the bound: an alarm.
    LeaptAhead {
        /// By how much, in microseconds.
        ahead_us: u64,
    },
    /// Nothing but this reading for longer than the bound: an alarm.
    StandsStill {
        /// For how long, in microseconds.
        stood_us: u64,
    },
}

impl Oddity {
    /// Whether it is beyond the bounds.
    pub fn is_alarm(self) -> bool {
        !matches!(self, Self::StoodOrSteppedBack { alarm: false, .. })
    }
}

/// Looks at the machine's clock, from reading to reading.
#[derive(Debug)]
pub struct Watch {
    bounds: Bounds,
    standstill: Standstill,
    /// The newest reading that there was no alarm about, and when that was. From here on only the other clock counts.
    believed: Option<(u64, Instant)>,
}

impl Watch {
    /// Of a ledger whose last entry is from `last_us` (0: there is none yet).
    pub fn new(bounds: Bounds, last_us: u64, now: Instant) -> Self {
        Self { bounds, standstill: Standstill::new(now), believed: (last_us > 0).then_some((last_us, now)) }
    }

    /// What is odd about a reading, while the last entry is from `last_us`.
    pub fn see(&mut self, last_us: u64, reading_us: u64, now: Instant) -> Option<Oddity> {
        let stood_us = self.standstill.see(reading_us, now);
        let ought_us =
            self.believed.map(|(believed_us, at)| believed_us.saturating_add(us(now.saturating_duration_since(at))));
        let ahead_us = ought_us.map_or(0, |ought_us| reading_us.saturating_sub(ought_us));
        let behind_us = last_us.checked_sub(reading_us);
        let is_behind = |behind_us| behind_us > self.bounds.behind_us;
        let oddity = match behind_us {
            _ if ahead_us > self.bounds.ahead_us => Some(Oddity::LeaptAhead { ahead_us }),
            Some(behind_us) if is_behind(behind_us) => Some(Oddity::StoodOrSteppedBack { behind_us, alarm: true }),
            _ if stood_us > self.bounds.behind_us => Some(Oddity::StandsStill { stood_us }),
            Some(behind_us) => Some(Oddity::StoodOrSteppedBack { behind_us, alarm: false }),
            None => None,
        };
        if !oddity.is_some_and(Oddity::is_alarm) {
            self.believed = Some((reading_us, now));
        }
        oddity
    }
}

/// How often the same is said of the clock.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Says what is odd about the clock: when it begins, and then now and then, for there may be thousands of commits a second.
#[derive(Debug, Default)]
pub struct Herald {
    /// What was said last, and when.
    said: Option<(Oddity, Instant)>,
}

impl Herald {
    /// Whether this is to be said now.
    pub fn is_due(&mut self, oddity: Oddity, now: Instant) -> bool {
        let is_same = |said: Oddity| {
            (std::mem::discriminant(&said), said.is_alarm()) == (std::mem::discriminant(&oddity), oddity.is_alarm())
        };
        let is_due =
            !self.said.is_some_and(|(said, at)| is_same(said) && now.saturating_duration_since(at) < SAY_AGAIN_AFTER);
        if is_due {
            self.said = Some((oddity, now));
        }
        is_due
    }

    /// Whether there was an alarm, and its end was not said yet.
    pub fn is_over(&mut self) -> bool {
        self.said.take_if(|(said, _)| said.is_alarm()).is_some()
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Finds out whether the machine's clock stands still while time goes by. Between two readings nothing shows it.
#[derive(Debug)]
struct Standstill {
    reading_us: u64,
    since: Instant,
}

impl Standstill {
    /// With no reading yet.
    fn new(now: Instant) -> Self {
        Self { reading_us: 0, since: now }
    }

    /// For how long the clock has shown nothing but this reading, in microseconds; 0 if it has moved.
    fn see(&mut self, reading_us: u64, now: Instant) -> u64 {
        if reading_us != self.reading_us {
            *self = Self { reading_us, since: now };
        }
        us(now.saturating_duration_since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { ahead_us: 100_000_000, behind_us: 10_000_000 };
    const SECOND_US: u64 = 1_000_000;

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
        assert_eq!([next_time(0, 5_000), next_time(50, 51), next_time(50, 50), next_time(50, 39)], [5_000, 51, 51, 51]);
    }

    /// A ledger that commits at each reading: what is odd at (seconds since the start, seconds that the clock shows).
    struct Script {
        begin: Instant,
        last_us: u64,
        watch: Watch,
    }

    impl Script {
        fn new(last: u64) -> Self {
            let (begin, last_us) = (Instant::now(), last * SECOND_US);
            Self { begin, last_us, watch: Watch::new(BOUNDS, last_us, begin) }
        }

        fn at(&mut self, since: u64, shows: u64) -> Option<Oddity> {
            let reading_us = shows * SECOND_US;
            let seen = self.watch.see(self.last_us, reading_us, self.begin + Duration::from_secs(since));
            self.last_us = next_time(self.last_us, reading_us);
            seen
        }
    }

    fn leapt(seconds: u64) -> Option<Oddity> {
        Some(Oddity::LeaptAhead { ahead_us: seconds * SECOND_US })
    }

    fn behind(behind_us: u64, alarm: bool) -> Option<Oddity> {
        Some(Oddity::StoodOrSteppedBack { behind_us, alarm })
    }

    #[test]
    fn a_clock_that_leapt_ahead_is_not_believed_while_it_stays_there_whatever_is_recorded() {
        let mut script = Script::new(1_000);
        assert_eq!([script.at(1, 1_001), script.at(2, 1_102)], [None, None], "at the bound");
        assert_eq!(script.at(3, 1_204), leapt(101));
        assert_eq!([script.at(4, 1_205), script.at(500, 1_701)], [leapt(101), leapt(101)]);
        assert_eq!(script.at(501, 1_800), leapt(199));
        // Set right it is behind what was recorded, until time has caught up with that.
        assert_eq!(script.at(502, 1_602), behind(198 * SECOND_US, true));
        // Ahead once more it was not set right.
        assert_eq!(script.at(503, 1_801), leapt(198));
        assert_eq!(script.at(700, 1_800), behind(SECOND_US, false));
        assert_eq!(script.at(702, 1_802), None);
    }

    #[test]
    fn an_idle_ledger_is_not_behind_its_clock() {
        let mut script = Script::new(1_000);
        assert_eq!(script.at(1, 1_001), None);
        assert_eq!(script.at(10_000, 11_000), None);
        assert_eq!(script.at(10_001, 11_101), None);
        assert_eq!(script.at(10_002, 11_203), leapt(101));
    }

    #[test]
    fn what_the_last_entry_says_is_believed_after_a_restart() {
        // Recorded under the clock as it is.
        assert_eq!(Script::new(9_000).at(1, 9_050), None);
        // Off for long, or a clock that is wrong: nobody can tell until somebody says so.
        let mut script = Script::new(1_000);
        assert_eq!([script.at(0, 9_000), script.at(1, 9_001)], [leapt(8_000), leapt(8_000)]);
        // Nothing was recorded ever.
        let mut script = Script::new(0);
        assert_eq!([script.at(0, 9_000), script.at(1, 9_001)], [None, None]);
    }

    #[test]
    fn behind_the_last_entry_and_standing_still_are_alarms_past_the_bound() {
        let mut script = Script::new(1_000);
        assert_eq!([script.at(1, 1_000), script.at(2, 990)], [behind(0, false), behind(10 * SECOND_US + 1, true)]);
        let mut script = Script::new(1_000);
        assert_eq!(script.at(1, 1_001), None);
        assert_eq!([script.at(2, 1_001), script.at(11, 1_001)], [behind(0, false), behind(1, false)]);
        assert_eq!(script.at(12, 1_001), Some(Oddity::StandsStill { stood_us: 11 * SECOND_US }));
        assert_eq!(script.at(13, 1_002), None);
    }

    #[test]
    fn what_is_odd_is_said_once_and_then_once_a_minute() {
        let begin = Instant::now();
        let mut herald = Herald::default();
        let (back, far_back) = (behind(7, false).expect("odd"), behind(70, true).expect("odd"));
        let far_ahead = leapt(7).expect("odd");
        let mut due = |oddity, ms| herald.is_due(oddity, begin + Duration::from_millis(ms));
        assert_eq!([due(far_ahead, 0), due(leapt(8).expect("odd"), 1), due(far_ahead, 59_999)], [true, false, false]);
        assert_eq!([due(far_ahead, 60_000), due(far_ahead, 60_001)], [true, false]);
        assert_eq!([due(far_back, 60_002), due(far_back, 60_003), due(back, 60_004)], [true, false, true]);
        assert!(!herald.is_over(), "it was no alarm");
        assert!(!herald.is_due(back, begin + Duration::from_secs(61)));
        assert!(herald.is_due(far_back, begin + Duration::from_secs(62)));
        assert!(herald.is_over() && !herald.is_over());
        assert!(herald.is_due(far_back, begin + Duration::from_secs(63)), "it begins again");
    }
}
