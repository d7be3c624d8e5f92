//! A store in memory, for tests: it fails when told to, in the two ways a disk fails a commit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use super::{Batch, CommitError, Read, ReadError, Store, Table, Visit, rows};

/// How the next commit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NextCommit {
    /// Well.
    #[default]
    Succeeds,
    /// It is refused, and nothing is stored.
    IsRefused,
    /// It is stored, and the caller is told that it failed.
    FailsAfterStoring,
}

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Rows in a map.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    next: NextCommit,
}

impl MemoryStore {
    /// Decides how the next commit goes; the ones after it succeed again.
    pub fn next_commit(&self, next: NextCommit) {
        self.lock().next = next;
    }

    /// What would be found after a crash now: everything committed. For opening again.
    pub fn reopen(&self) -> Self {
        Self { state: Mutex::new(State { rows: self.lock().rows.clone(), next: NextCommit::Succeeds }) }
    }

    /// Every row, for comparing two stores byte for byte.
    pub fn dump(&self) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        self.lock().rows.iter().map(|((table, key), value)| (*table, key.clone(), value.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the store")
    }
}

impl Read for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Read::get(&self.lock().rows, table, key)
    }

    fn scan(&self, table: Table, start: &[u8], visit: &mut Visit<'_>) -> Result<(), ReadError> {
        // A copy, so that `visit` may read the store itself.
        let rows = self.lock().rows.clone();
        rows.scan(table, start, visit)
    }
}

impl Read for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(BTreeMap::get(self, &(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], visit: &mut Visit<'_>) -> Result<(), ReadError> {
        for ((found, key), value) in self.range((Bound::Included((table, start.to_vec())), Bound::Unbounded)) {
            if *found != table || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        let mut state = self.lock();
        let found = rows::tree_size(&state.rows).map_err(|error| CommitError::Storage(error.to_string()))?;
        if found != expected_size {
            return Err(CommitError::Size { expected: expected_size, found });
        }
        let next = std::mem::take(&mut state.next);
        if next == NextCommit::IsRefused {
            return Err(CommitError::Storage("refused on demand".into()));
        }
        for change in batch.changes {
            let key = (change.table, change.key);
            match change.value {
                Some(value) => state.rows.insert(key, value),
                None => state.rows.remove(&key),
            };
        }
        if next == NextCommit::FailsAfterStoring {
            return Err(CommitError::Storage("failed on demand, after it was stored".into()));
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(self.lock().rows.clone())
    }
}
