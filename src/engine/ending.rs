//! How the sequencer is told to end, past everything that waits in its queue.
//!
//! The queue may be full, and the disk slow: a stop that waited for all of it would take as long as clients and disk please. So what
//! waits is recorded for a while, and then refused: nothing of it is on disk, and nobody was told otherwise.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::committer::Order;

/// How long what waits is still recorded once nothing more is taken. A stop takes this long at most, and two commits.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// What the sequencer was told.
#[derive(Debug, Default)]
pub(super) struct Ending {
    closed: OnceLock<Instant>,
    halted: OnceLock<String>,
}

impl Ending {
    /// Nothing more is taken, and what waits is recorded as far as there is time.
    pub(super) fn close(&self) {
        self.closed.get_or_init(Instant::now);
    }

    /// Nothing is planned any more.
    pub(super) fn halt(&self, reason: String) {
        // The first reason is as good as any.
        let _ = self.halted.set(reason);
    }

    /// Why nothing more is taken, if that is so.
    pub(super) fn refusal(&self) -> Option<String> {
        let closed = self.closed.get().map(|_| "it is shutting down".to_owned());
        self.halted.get().cloned().or(closed)
    }

    /// What is to be done instead of planning what was taken from the queue.
    pub(super) fn is_due(&self, now: Instant) -> Option<Order> {
        if let Some(reason) = self.halted.get() {
            return Some(Order::Fail { reason: reason.clone(), answers: Vec::new() });
        }
        let closed = self.closed.get()?;
        (now.saturating_duration_since(*closed) >= FINISH_WITHIN).then_some(Order::Close)
    }
}
