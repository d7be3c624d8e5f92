//! Clients that each ask again as soon as they are answered, and what they saw.
//!
//! Such clients don't ask while they wait, so that a server that stops for a second loses one measurement of each and not a
//! second's worth. What they would have seen is put in as the HDR histogram does it: for an answer that took longer than
//! answers do on average there are further ones, each shorter by that average (Tene's correction of coordinated omission).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tonic::Request;

use crate::Failure;

/// What clients saw.
pub(crate) struct Seen {
    /// Answers while it was measured.
    pub(crate) count: u64,
    pub(crate) elapsed: Duration,
    /// Nanoseconds.
    latency: Histogram<u64>,
}

impl Seen {
    pub(crate) fn new(count: u64, elapsed: Duration, latency: Histogram<u64>) -> Self {
        Self { count, elapsed, latency }
    }

    pub(crate) fn per_s(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds below which this part of the answers came, with what was omitted.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        let mean = self.latency.mean().max(1.0);
        let corrected = self.latency.clone_correct(mean as u64);
        corrected.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Microseconds of half of the answers, as they came.
    pub(crate) fn median_us(&self) -> f64 {
        self.latency.value_at_quantile(0.5) as f64 / 1000.0
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds in order")
}

/// What one client saw: answers, and how long they took, in nanoseconds.
pub(crate) type Asked = Result<(u64, Histogram<u64>), Failure>;

/// When to measure: after the beginning, and until told to end.
pub(crate) struct Watch {
    measures: AtomicBool,
    ends: AtomicBool,
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { measures: AtomicBool::new(false), ends: AtomicBool::new(false) })
    }

    pub(crate) fn measures(&self) -> bool {
        self.measures.load(Ordering::Relaxed)
    }

    pub(crate) fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Warms up, measures for a time, and ends. Calls `begin` between the first two.
    pub(crate) async fn run(
        &self,
        warm_up: Duration,
        time: Duration,
        begin: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Duration, Failure> {
        tokio::time::sleep(warm_up).await;
        begin()?;
        let begun = Instant::now();
        self.measures.store(true, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        self.ends.store(true, Ordering::Relaxed);
        Ok(begun.elapsed())
    }
}

/// A client asks until told to end. Each `ask` is one measurement, of as many answers as it returns.
pub(crate) async fn ask_again<F>(
    watch: Arc<Watch>,
    mut ask: impl FnMut() -> F,
) -> Result<(u64, Histogram<u64>), Failure>
where
    F: Future<Output = Result<u64, Failure>>,
{
    let (mut count, mut latency) = (0, histogram());
    while !watch.ends() {
        let begun = Instant::now();
        let answers = ask().await?;
        if watch.measures() && !watch.ends() {
            count += answers;
            latency.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        }
    }
    Ok((count, latency))
}

/// A request of somebody with a token.
pub(crate) fn authorized<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    request
}
