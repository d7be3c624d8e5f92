//! A store that tells other rows than it holds: one tale for who reads, one for the sequencer, which then signs it.
//!
//! Readers read from snapshots, the sequencer from the store itself, so each can be told its own. What is committed is kept as
//! it is, and a tale ends without a trace.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tagledger::store::memory::MemoryStore;
use tagledger::store::{Batch, Change, CommitError, Cursor, Read, ReadError, Row, Store, Table};

/// Rows in place of the true ones; `None` where there is said to be none.
type Tale = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// A dishonest store over an honest one.
pub(crate) struct LyingStore {
    /// What is so.
    pub(crate) truth: MemoryStore,
    to_readers: Mutex<Tale>,
    to_sequencer: Mutex<Tale>,
}

impl LyingStore {
    pub(crate) fn new(truth: MemoryStore) -> Self {
        Self { truth, to_readers: Mutex::default(), to_sequencer: Mutex::default() }
    }

    /// Readers are told that these changes had been made.
    pub(crate) fn tell_readers(&self, changes: Batch) {
        *self.to_readers.lock().expect("nobody panicked") = tale(changes);
    }

    /// So is the sequencer.
    pub(crate) fn tell_sequencer(&self, changes: Batch) {
        *self.to_sequencer.lock().expect("nobody panicked") = tale(changes);
    }

    /// Everybody is told the truth again.
    pub(crate) fn repent(&self) {
        self.tell_readers(Batch::default());
        self.tell_sequencer(Batch::default());
    }
}

fn tale(changes: Batch) -> Tale {
    let owned = |change: Change<'_>| ((change.table, change.key.to_vec()), change.value.map(<[u8]>::to_vec));
    changes.changes().map(owned).collect()
}

impl Read for LyingStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        get(&self.truth, &self.to_sequencer.lock().expect("nobody panicked"), table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        cursor(&self.truth, &self.to_sequencer.lock().expect("nobody panicked"), table, prefix)
    }
}

impl Store for LyingStore {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        self.truth.commit(expected_size, batch)
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        self.truth.scratch()
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        let tale = self.to_readers.lock().expect("nobody panicked").clone();
        Box::new(Told { truth: self.truth.snapshot(), tale })
    }
}

/// A snapshot, with a tale over it.
struct Told<'a> {
    truth: Box<dyn Read + Send + 'a>,
    tale: Tale,
}

impl Read for Told<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        get(&*self.truth, &self.tale, table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        cursor(&*self.truth, &self.tale, table, prefix)
    }
}

fn get(truth: &dyn Read, tale: &Tale, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    match tale.get(&(table, key.to_vec())) {
        Some(row) => Ok(row.clone()),
        None => truth.get(table, key),
    }
}

/// Over all rows at once: there are not many.
fn cursor<'a>(truth: &dyn Read, tale: &Tale, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
    let mut rows = BTreeMap::new();
    let mut true_rows = truth.cursor(table, prefix);
    let mut row = true_rows.seek(prefix).expect("memory can be read");
    while let Some((key, value)) = row {
        rows.insert(key.to_vec(), value.to_vec());
        row = true_rows.next().expect("memory can be read");
    }
    for ((_, key), value) in tale.iter().filter(|((of, key), _)| *of == table && key.starts_with(prefix)) {
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
    Box::new(ToldRows { rows: rows.into_iter().collect(), at: usize::MAX })
}

struct ToldRows {
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// The row last shown.
    at: usize,
}

impl ToldRows {
    fn show(&mut self, at: usize) -> Option<Row<'_>> {
        self.at = at;
        self.rows.get(at).map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl Cursor for ToldRows {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'_>>, ReadError> {
        Ok(self.show(self.rows.partition_point(|(found, _)| found.as_slice() < key)))
    }

    fn next(&mut self) -> Result<Option<Row<'_>>, ReadError> {
        Ok(self.show(self.at.saturating_add(1)))
    }
}
