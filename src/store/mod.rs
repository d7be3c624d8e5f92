//! Rows on disk, behind one narrow trait.
//!
//! The engine needs four things of a store: one atomic, synced commit, conditional on the tree size it was planned for;
//! point reads; reads in order of keys; and snapshots, so that a question reads one state of the world. [`rocks`] is the embedded
//! store, [`memory`] the double that fails on demand. A replicated store would implement the
//! same trait; so nothing above this module may know RocksDB.
//!
//! What the rows mean is in [`rows`]: keys, values and their encoding; those of the log's tree in [`log_tree`]. [`leaf_pages`] is a copy of some of it in a file
//! of its own, where updating the subject map finds it faster, and [`kept_map`] has both from one run to the next.

pub mod kept_map;
pub mod leaf_pages;
pub mod log_tree;
pub mod memory;
pub mod rocks;
pub mod rows;

use std::fs::File;
use std::io;

/// The tables. Each is a key space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Facts about the ledger: format, origin, newest checkpoint.
    Meta,
    /// Index -> entry bytes.
    Entries,
    /// Leaf hash -> index.
    Leaves,
    /// (level, number) -> full tile of the log's tree.
    Nodes,
    /// Subject key -> its newest state. In this order of keys they are the leaves of the subject map.
    Subjects,
    /// (subject key, version) -> entry of its history, and the subtrees of the history that it completed.
    Histories,
    /// (registry, repository, digest, tag): the tags bound to a digest.
    Bound,
    /// (principal, event id) -> its first entry.
    Events,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Meta,
        Self::Entries,
        Self::Leaves,
        Self::Nodes,
        Self::Subjects,
        Self::Histories,
        Self::Bound,
        Self::Events,
    ];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Entries => "entries",
            Self::Leaves => "leaves",
            Self::Nodes => "nodes",
            Self::Subjects => "subjects",
            Self::Histories => "histories",
            Self::Bound => "bound",
            Self::Events => "events",
        }
    }
}

/// Changes that happen together or not at all: all their bytes one after the other, for there are many of them, made on one thread
/// and written by another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    rows: Vec<Place>,
}

/// Where a row is among the bytes, which begins where the one before ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    table: Table,
    key_end: usize,
    value_end: Option<usize>,
}

/// One row written or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Where.
    pub table: Table,
    /// Which row.
    pub key: &'a [u8],
    /// What it becomes; `None`: it goes.
    pub value: Option<&'a [u8]>,
}

impl Batch {
    /// Writes a row.
    pub fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.change(table, key.as_ref(), Some(value.as_ref()));
    }

    /// Removes a row.
    pub fn delete(&mut self, table: Table, key: impl AsRef<[u8]>) {
        self.change(table, key.as_ref(), None);
    }

    fn change(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        let value_end = value.map(|value| {
            self.bytes.extend_from_slice(value);
            self.bytes.len()
        });
        self.rows.push(Place { table, key_end, value_end });
    }

    /// In order; a later change to a key wins.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let mut begin = 0;
        self.rows.iter().map(move |place| {
            let key = &self.bytes[begin..place.key_end];
            begin = place.value_end.unwrap_or(place.key_end);
            Change { table: place.table, key, value: place.value_end.map(|end| &self.bytes[place.key_end..end]) }
        })
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A read failed, or a row is not what was written. Reads of a healthy disk do neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The storage engine says no.
    #[error("cannot read table {table}: {reason}")]
    Storage {
        /// Where.
        table: &'static str,
        /// Its words.
        reason: String,
    },
    /// A row that must be there is not, or does not decode.
    #[error(
        "table {table} is damaged: {what}; stop the service, keep the directory as it is, and run `tagledgerd fsck`"
    )]
    Damaged {
        /// Where.
        table: &'static str,
        /// Which row, and what is wrong with it.
        what: String,
    },
}

/// Why a batch was not committed. After any of these the caller does not know what is on disk, except after
/// [`CommitError::Size`]: it must stop writing and recover by opening the store again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Somebody else has written.
    #[error("the store holds {found} entries, the batch was planned for {expected}")]
    Size {
        /// What the caller believed.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The storage engine says no.
    #[error("cannot commit: {0}")]
    Storage(String),
}

/// A row: its key and its value.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// Reading.
pub trait Read {
    /// One row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;

    /// A place among the rows whose keys begin with `prefix`. They stay what they are now, whatever is committed meanwhile.
    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a>;
}

/// Rows one after the other, by rising key. Making one costs more than moving it.
pub trait Cursor {
    /// The first row at or after a key, which begins with the cursor's prefix.
    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'_>>, ReadError>;

    /// The row after the last one shown; nothing follows where there was none.
    fn next(&mut self) -> Result<Option<Row<'_>>, ReadError>;
}

/// Reading, writing, and freezing a moment.
pub trait Store: Read + Send + Sync {
    /// Commits a batch atomically and synced to disk, if the store holds `expected_size` entries.
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError>;

    /// The state as of now, whatever is committed meanwhile.
    fn snapshot(&self) -> Box<dyn Read + Send + '_>;

    /// An empty file without a name, which is gone with the process: room for what can be made again.
    fn scratch(&self) -> io::Result<File>;
}
