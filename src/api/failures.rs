//! Who was not let in: counted by reason, and logged without any secret. How much is logged is bounded, so that whoever tries all
//! day fills no disk.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Lines that may be logged at once.
const BURST: u32 = 10;
/// One more after each such time.
const PACE: Duration = Duration::from_secs(6);

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was shown.
    Missing,
    /// A token that nobody has.
    Token,
    /// A certificate that does not hold, or that nobody has.
    Certificate,
    /// Not all that the principal has to show.
    Credentials,
    /// A signature that does not hold, or is missing, or by another key.
    Signature,
    /// Known, and without the role or grant.
    Role,
    /// The secret of a webhook, missing or wrong.
    Secret,
    /// Let in, but no longer allowed to when the statement was to be recorded.
    Changed,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Credentials => "credentials",
            Self::Signature => "signature",
            Self::Role => "role",
            Self::Secret => "secret",
            Self::Changed => "changed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
}

/// The count, and the log.
pub struct Failures {
    counts: Family<Labels, Counter>,
    log: Mutex<Bound>,
}

struct Bound {
    left: u32,
    since: Instant,
    suppressed: u64,
}

impl Bound {
    /// Whether one more may be logged, and how many were not since the last.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.since).as_secs() / PACE.as_secs();
        if let Ok(earned @ 1..) = u32::try_from(earned) {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Failures {
    /// With nothing counted yet, shown among the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let counts = Family::<Labels, Counter>::default();
        let help = "Calls and connections that were refused for who made them, by reason";
        registry.register("authentication_failures", help, counts.clone());
        let bound = Bound { left: BURST, since: Instant::now(), suppressed: 0 };
        Self { counts, log: Mutex::new(bound) }
    }

    /// Counts a refusal, and logs it unless there were too many. `error` holds no secret: what was shown is in no error.
    pub fn note(&self, reason: Reason, address: IpAddr, error: &dyn Display) {
        let reason = reason.word();
        self.counts.get_or_create(&Labels { reason }).inc();
        let Some(suppressed) = self.log.lock().ok().and_then(|mut bound| bound.take(Instant::now())) else { return };
        // Longer texts hold names that a stranger chose.
        let error: String = error.to_string().chars().take(300).collect();
        tracing::warn!(reason, %address, suppressed, error, "refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tries_all_day_fills_no_disk() {
        let begin = Instant::now();
        let mut bound = Bound { left: BURST, since: begin, suppressed: 0 };
        // A thousand tries a second, for an hour.
        let tries = (0..3_600_000u64).map(|number| begin + Duration::from_millis(number));
        let logged: Vec<u64> = tries.filter_map(|now| bound.take(now)).collect();
        assert_eq!(logged.len(), 10 + 3600 / 6 - 1);
        assert_eq!(logged[..10], [0; 10]);
        assert_eq!(logged.iter().sum::<u64>() + bound.suppressed + logged.len() as u64, 3_600_000, "all are told of");
    }
}
