//! The embedded store: RocksDB, one column family a table, every commit synced.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice, Direction, IteratorMode,
    Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use super::{Batch, CommitError, Read, ReadError, Store, Table, Visit, rows};

/// Memory for blocks read from disk, shared by all tables, in bytes.
const BLOCK_CACHE: usize = 64 << 20;
/// Memory for one table's newest writes, in bytes.
const WRITE_BUFFER: usize = 16 << 20;

/// A RocksDB database.
pub struct RocksStore {
    db: DB,
}

/// Why a database was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot open the database in {path}: {reason}")]
pub struct OpenError {
    /// Where.
    pub path: String,
    /// RocksDB's words.
    pub reason: String,
}

impl RocksStore {
    /// Opens a database, and creates it if there is none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record is an unsynced, unacknowledged batch; anything else that does not check is damage.
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(3);
        options.set_max_open_files(512);
        // The column families share one log; without a bound an idle family would keep old log files for ever.
        options.set_max_total_wal_size(128 << 20);
        let cache = Cache::new_lru_cache(BLOCK_CACHE);
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), family_options(table, &cache)));
        let db = DB::open_cf_descriptors(&options, path, families)
            .map_err(|error| OpenError { path: path.display().to_string(), reason: error.into_string() })?;
        Ok(Self { db })
    }

    fn family(&self, table: Table) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(table.name()).expect("every table was opened")
    }
}

fn family_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER);
    // Hashes do not compress.
    options.set_compression_type(match table {
        Table::Nodes | Table::Leaves => DBCompressionType::None,
        _ => DBCompressionType::Lz4,
    });
    options
}

impl Read for RocksStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        got(table, self.db.get_pinned_cf(self.family(table), key))
    }

    fn scan(&self, table: Table, start: &[u8], visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let mode = IteratorMode::From(start, Direction::Forward);
        visit_all(table, self.db.iterator_cf_opt(self.family(table), ReadOptions::default(), mode), visit)
    }
}

impl Store for RocksStore {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        let found = rows::tree_size(self).map_err(|error| CommitError::Storage(error.to_string()))?;
        if found != expected_size {
            return Err(CommitError::Size { expected: expected_size, found });
        }
        let mut writes = WriteBatch::default();
        for change in &batch.changes {
            match &change.value {
                Some(value) => writes.put_cf(self.family(change.table), &change.key, value),
                None => writes.delete_cf(self.family(change.table), &change.key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(writes, &options).map_err(|error| CommitError::Storage(error.into_string()))
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(RocksSnapshot { store: self, snapshot: self.db.snapshot() })
    }
}

type KeyValue = (Box<[u8]>, Box<[u8]>);

struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl Read for RocksSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        got(table, self.snapshot.get_pinned_cf(self.store.family(table), key))
    }

    fn scan(&self, table: Table, start: &[u8], visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let mode = IteratorMode::From(start, Direction::Forward);
        visit_all(table, self.snapshot.iterator_cf(self.store.family(table), mode), visit)
    }
}

fn got(table: Table, value: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>) -> Result<Option<Vec<u8>>, ReadError> {
    value.map(|value| value.map(|slice| slice.to_vec())).map_err(|error| failed(table, error))
}

fn visit_all(
    table: Table,
    rows: impl Iterator<Item = Result<KeyValue, rocksdb::Error>>,
    visit: &mut Visit<'_>,
) -> Result<(), ReadError> {
    for row in rows {
        let (key, value) = row.map_err(|error| failed(table, error))?;
        if visit(&key, &value).is_break() {
            break;
        }
    }
    Ok(())
}

fn failed(table: Table, error: rocksdb::Error) -> ReadError {
    ReadError::Storage { table: table.name(), reason: error.into_string() }
}
