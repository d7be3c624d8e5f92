//! A store in memory, for tests: it fails when told to, in the two ways a disk fails a commit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Batch, Change, CommitError, Cursor, Read, ReadError, Row, Store, Table, rows};

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

/// The rows of one moment: a commit makes new ones if anybody still holds these.
#[derive(Clone, Default)]
struct Moment(Arc<Rows>);

/// Rows in a map.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Moment,
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
        self.lock().rows.0.iter().map(|((table, key), value)| (*table, key.clone(), value.clone())).collect()
    }

    /// Changes rows whatever the size of the log: damage, for tests that look for it.
    pub fn put_unchecked(&self, batch: Batch) {
        apply(&mut self.lock().rows, &batch);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the store")
    }
}

fn apply(rows: &mut Moment, batch: &Batch) {
    let rows = Arc::make_mut(&mut rows.0);
    for Change { table, key, value } in batch.changes() {
        let key = (table, key.to_vec());
        match value {
            Some(value) => rows.insert(key, value.to_vec()),
            None => rows.remove(&key),
        };
    }
}

impl Read for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.lock().rows.get(table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        Box::new(MemoryCursor::new(&self.lock().rows, table, prefix))
    }
}

impl Read for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        Box::new(MemoryCursor::new(self, table, prefix))
    }
}

struct MemoryCursor {
    rows: Moment,
    table: Table,
    prefix: Vec<u8>,
    /// The row last shown.
    shown: Option<(Vec<u8>, Vec<u8>)>,
}

impl MemoryCursor {
    fn new(rows: &Moment, table: Table, prefix: &[u8]) -> Self {
        Self { rows: rows.clone(), table, prefix: prefix.to_vec(), shown: None }
    }

    fn show(&mut self, from: Bound<Vec<u8>>) -> Option<Row<'_>> {
        let from = from.map(|key| (self.table, key));
        let mut rows = self.rows.0.range((from, Bound::Unbounded));
        let found = rows.next().filter(|((table, key), _)| *table == self.table && key.starts_with(&self.prefix));
        self.shown = found.map(|((_, key), value)| (key.clone(), value.clone()));
        self.shown.as_ref().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'_>>, ReadError> {
        Ok(self.show(Bound::Included(key.to_vec())))
    }

    fn next(&mut self) -> Result<Option<Row<'_>>, ReadError> {
        Ok(self.shown.take().and_then(|(key, _)| self.show(Bound::Excluded(key))))
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
        apply(&mut state.rows, &batch);
        if next == NextCommit::FailsAfterStoring {
            return Err(CommitError::Storage("failed on demand, after it was stored".into()));
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(self.lock().rows.clone())
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        tempfile::tempfile()
    }
}
