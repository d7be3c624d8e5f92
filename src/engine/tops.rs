//! The upper part of the subject map for every state of the ledger that a reader may find in the store.
//!
//! A snapshot says which state it is of by the size of its log. It can be newer than what was published last, for a commit is
//! visible before it is acknowledged, and older than what was committed meanwhile.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use crate::ledger::map::Top;

/// States that are kept. They share nearly everything; a reader who comes too late takes a new snapshot.
const KEPT: usize = 16;

/// The newest of them, by size of the log.
pub(super) struct Tops(Mutex<VecDeque<(u64, Top)>>);

impl Tops {
    pub(super) fn new(size: u64, top: Top) -> Self {
        Self(Mutex::new([(size, top)].into()))
    }

    /// Adds the state that is about to be committed.
    pub(super) fn put(&self, size: u64, top: Top) {
        let superseded = {
            let mut tops = self.lock();
            tops.push_back((size, top));
            if tops.len() > KEPT { tops.pop_front() } else { None }
        };
        // Freed by the writer, while no reader waits.
        drop(superseded);
    }

    /// That of a size, if it is still kept.
    pub(super) fn at(&self, size: u64) -> Option<Top> {
        self.lock().iter().rev().find(|(of, _)| *of == size).map(|(_, top)| top.clone())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Top)>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}
