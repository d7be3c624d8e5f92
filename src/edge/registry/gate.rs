//! When the next request may go out: so many a second, and none before a registry that is overloaded wants one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

/// Every request of one client passes through it.
#[derive(Debug)]
pub(super) struct Gate {
    /// Between two requests.
    interval: Duration,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    /// The first place in time that nobody has taken.
    next: Instant,
    /// What a registry asked for.
    not_before: Instant,
}

impl Gate {
    /// Lets `rate` requests a second through, one after the other; all at once, if there is none.
    pub(super) fn new(rate: Option<f64>) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate.clamp(0.001, 1e6)));
        let now = Instant::now();
        Self { interval, times: Mutex::new(Times { next: now, not_before: now }) }
    }

    /// Waits for a place.
    pub(super) async fn pass(&self) {
        loop {
            let at = {
                let mut times = self.times();
                let at = times.next.max(times.not_before).max(Instant::now());
                times.next = at + self.interval;
                at
            };
            tokio::time::sleep_until(at).await;
            // In the meantime another request may have been told to wait; that holds for all.
            if self.times().not_before <= Instant::now() {
                return;
            }
        }
    }

    /// Lets nothing through for so long.
    pub(super) fn hold(&self, wait: Duration) {
        let mut times = self.times();
        times.not_before = times.not_before.max(Instant::now() + wait);
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        // Nothing panics between two writes under the lock.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a registry asks to be left alone (RFC 9110 section 10.2.3): seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// A wait that grows with each failure, half of it by chance: clients that failed together do not come back together.
pub(super) fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let grown = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    let mut byte = [0];
    // Without randomness there is no jitter; nothing else depends on it.
    let _ = getrandom::fill(&mut byte);
    grown / 2 + grown.mul_f64(f64::from(byte[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_go_out_one_after_the_other() {
        let (gate, began) = (Gate::new(Some(200.0)), Instant::now());
        for _ in 0..21 {
            gate.pass().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_a_registry_asks_for_holds_for_those_who_wait_already() {
        let (gate, began) = (Gate::new(Some(100.0)), Instant::now());
        gate.pass().await;
        let (second, ()) = tokio::join!(
            async {
                gate.pass().await;
                began.elapsed()
            },
            async { gate.hold(Duration::from_millis(80)) }
        );
        assert!(second >= Duration::from_millis(80), "{second:?}");
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a header"))]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("Sat, 21 Nov 2026 10:00:30 GMT"), Some(30));
        assert_eq!(read("Sat, 21 Nov 2026 09:00:00 GMT"), Some(0), "past");
        for text in ["", "soon", "-1", "1.5"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_wait_grows_and_stays_bounded() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        for failures in 1..80 {
            let wait = backoff(first, longest, failures);
            let grown = first.saturating_mul(1 << (failures - 1).min(10)).min(longest);
            assert!(wait >= grown / 2 && wait <= grown, "{failures}: {wait:?}");
        }
    }
}
