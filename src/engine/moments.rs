//! What of each state of the ledger that a reader may find in the store is in memory: the upper part of the subject map, and the
//! edge of the log's tree.
//!
//! A snapshot says which state it is of by the size of its log. It can be newer than what was published last, for a commit is
//! visible before it is acknowledged, and older than what was committed meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ledger::map::Top;
use crate::ledger::merkle::Hash;
use crate::store::log_tree::LogTree;

/// States that are kept. They share nearly everything; a reader who comes too late takes a new snapshot.
const KEPT: usize = 16;

/// One of them.
pub(super) struct Moment {
    pub(super) tree: LogTree,
    /// Of that tree: nearly every proof tells it.
    pub(super) root: Hash,
    pub(super) top: Top,
}

impl Moment {
    pub(super) fn new(tree: LogTree, top: Top) -> Self {
        Self { root: tree.root(), tree, top }
    }
}

/// The newest of them.
pub(super) struct Moments(Mutex<VecDeque<Arc<Moment>>>);

impl Moments {
    pub(super) fn new(first: Moment) -> Self {
        Self(Mutex::new([Arc::new(first)].into()))
    }

    /// Adds the state that is about to be committed. Returns the one that is not kept any more: to free it takes a while, for which nobody
    /// has to wait.
    #[must_use]
    pub(super) fn put(&self, moment: Moment) -> Option<Arc<Moment>> {
        let mut moments = self.lock();
        moments.push_back(Arc::new(moment));
        if moments.len() > KEPT { moments.pop_front() } else { None }
    }

    /// That of a log of this size, if it is still kept.
    pub(super) fn at(&self, size: u64) -> Option<Arc<Moment>> {
        self.lock().iter().rev().find(|moment| moment.tree.size() == size).map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Moment>>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}
