//! Claims that wait to be checked with their registry.
//!
//! Bounded; one look per tag at a time; a newer claim takes the place of one that waits, for only the newest matters.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::source::SourceName;
use crate::ledger::names::TagRef;

/// A claim to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) source: SourceName,
    pub(super) tag: TagRef,
    /// Index of the entry that recorded the claim.
    pub(super) index: u64,
    /// The claim's event id.
    pub(super) event_id: String,
}

/// Claims that wait to be checked. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    limit: usize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<TagRef, Look>,
    /// The tags of `waiting`, in order of arrival.
    order: VecDeque<TagRef>,
    /// Tags that are being looked at.
    busy: HashSet<TagRef>,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), limit, changed: Notify::new() }))
    }

    /// Adds a claim, in place of an older one about the same tag; `false`: too many wait already.
    pub(super) fn offer(&self, look: Look) -> bool {
        let mut state = self.state();
        if let Some(waiting) = state.waiting.get_mut(&look.tag) {
            // A retry of an older claim must not displace a newer one.
            if waiting.index <= look.index {
                *waiting = look;
            }
            return true;
        }
        if state.waiting.len() >= self.0.limit {
            return false;
        }
        state.order.push_back(look.tag.clone());
        state.waiting.insert(look.tag.clone(), look);
        drop(state);
        self.0.changed.notify_one();
        true
    }

    /// The claim that has waited longest, of those whose tag nobody is looking at.
    pub(super) fn take(&self) -> Option<(Look, Busy)> {
        let mut state = self.state();
        let position = state.order.iter().position(|tag| !state.busy.contains(tag))?;
        let tag = state.order.remove(position)?;
        let look = state.waiting.remove(&tag).expect("every tag in order waits");
        state.busy.insert(tag.clone());
        Some((look, Busy { queue: self.clone(), tag }))
    }

    pub(super) fn is_waiting(&self, tag: &TagRef) -> bool {
        self.state().waiting.contains_key(tag)
    }

    /// Completes when there may be something to take.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two writes under the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, nobody else looks at the tag.
#[derive(Debug)]
pub(super) struct Busy {
    queue: Queue,
    tag: TagRef,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.queue.state().busy.remove(&self.tag);
        self.queue.0.changed.notify_one();
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn look(tag: &str, index: u64) -> Look {
        Look {
            source: "lab".parse().expect("valid"),
            tag: format!("r.example/team/app:{tag}").parse().expect("canonical"),
            index,
            event_id: format!("event-{index}"),
        }
    }

    #[test]
    fn a_newer_claim_takes_the_place_of_one_that_waits() {
        let queue = Queue::new(10);
        for claim in [look("a", 1), look("b", 2), look("a", 3), look("b", 1)] {
            assert!(queue.offer(claim));
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        let indexes: Vec<_> = taken.iter().map(|(look, _)| look.index).collect();
        assert_eq!(indexes, [3, 2], "in the order in which the tags came, and no retry displaces a newer claim");
    }

    #[test]
    fn nobody_looks_at_a_tag_twice_at_a_time() {
        let queue = Queue::new(10);
        assert!(queue.offer(look("a", 1)));
        let (_, busy) = queue.take().expect("one waits");
        assert!(queue.offer(look("a", 2)) && queue.offer(look("b", 3)));
        let (other, _busy_b) = queue.take().expect("another tag");
        assert_eq!(other.index, 3);
        assert!(queue.take().is_none());
        drop(busy);
        assert_eq!(queue.take().map(|(look, _)| look.index), Some(2));
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = Queue::new(1);
        assert!(queue.offer(look("a", 1)));
        assert!(!queue.offer(look("b", 2)));
        assert!(queue.offer(look("a", 3)), "this one only takes a place that is taken");
    }
}
