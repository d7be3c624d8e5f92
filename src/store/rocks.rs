//! The embedded store: RocksDB, one column family a table, every commit synced.

mod logs;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice, DBRawIterator,
    DEFAULT_COLUMN_FAMILY_NAME, FlushOptions, Options, PrefixRange, ReadOptions, SnapshotWithThreadMode, WriteBatch,
    WriteOptions,
};

use self::logs::refuse_endless;
use super::rows::{self, FORMAT, OtherFormat};
use super::{Batch, Change, CommitError, Cursor, Read, ReadError, Row, Store, Table};

/// Memory for blocks read from disk, shared by all tables, in bytes.
const BLOCK_CACHE: usize = 64 << 20;
/// Memory for one table's newest writes, in bytes, before others are begun; so many are merged into one file. Rows are put into their place in a list
/// of them, and the shorter that is, the more of it is near the processor.
const WRITE_BUFFER: usize = 4 << 20;
const WRITE_BUFFERS: i32 = 4;
/// And for the filter of their keys, as a part of that.
const MEMORY_FILTER: f64 = 0.02;
/// What RocksDB adds to a row of a batch, in bytes, about.
const ROW: usize = 8;
/// Files of a table's newest writes before they are merged with what is there.
const YOUNG_FILES: i32 = 8;
/// RocksDB writes each file that was only moved to its last level a second time, once no snapshot needs the order of its rows any more: the
/// rows lose a number that does not compress. For a log, in which all files are moved, that is everything twice. So old that it
/// may do so no file gets. Only as text can this be set.
const WRITTEN_ONCE: &str = "bottommost_file_compaction_delay=4294967295";

/// A RocksDB database.
pub struct RocksStore {
    db: DB,
    writes: Writes,
    /// Goes after the database is closed, for fields go in the order they are written in.
    in_use: Arc<()>,
    /// Dropped after the database.
    _open: Open,
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// That it is on disk.
    Synced,
    /// Nothing: what is made can be made again, until [`RocksStore::finish`].
    InBulk,
    /// It is refused.
    None,
}

/// Why a database was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// RocksDB says no.
    #[error("cannot open the database in {path}: {reason}")]
    Refused {
        /// Where.
        path: String,
        /// Its words.
        reason: String,
    },
    /// Written by other software. Nothing in it was changed.
    #[error("the database in {path} {error}")]
    OtherFormat {
        /// Where.
        path: String,
        /// Which.
        error: OtherFormat,
    },
}

/// Databases that are open in this process.
static DATABASES: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Open;

impl Open {
    fn new() -> Self {
        DATABASES.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        DATABASES.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many databases this process has open. RocksDB aborts a process that ends while it closes one, so whoever leaves
/// that to other threads waits for them.
pub fn open_databases() -> usize {
    DATABASES.load(Ordering::SeqCst)
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
        check(path, &Options::default())?;
        let db = DB::open_cf_descriptors(&options, path, families()).map_err(|error| refused(path, error))?;
        Ok(Self::of(db, Writes::Synced))
    }

    /// Opens a database that nobody else has open, and changes nothing in it. What RocksDB has to say goes into another folder.
    pub fn open_read_only(path: &Path, notes: &Path) -> Result<Self, OpenError> {
        let mut options = existing(notes);
        options.set_max_open_files(512);
        check(path, &options)?;
        let db = DB::open_cf_descriptors_read_only(&options, path, families(), false);
        db.map(|db| Self::of(db, Writes::None)).map_err(|error| refused(path, error))
    }

    /// Reads a database as it is now, also while a server writes to it. `notes` is an empty folder for this reader.
    pub fn open_beside(path: &Path, notes: &Path) -> Result<Self, OpenError> {
        let mut options = existing(notes);
        // The server removes files it no longer needs; those that are open stay readable.
        options.set_max_open_files(-1);
        let db = DB::open_cf_descriptors_as_secondary(&options, path, notes, families());
        db.map(|db| Self::of(db, Writes::None)).map_err(|error| refused(path, error))
    }

    /// Makes a database that is filled in one go: nothing of it is sure to be on disk before [`Self::finish`].
    pub fn create(path: &Path) -> Result<Self, OpenError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_error_if_exists(true);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(1);
        let db = DB::open_cf_descriptors(&options, path, families());
        db.map(|db| Self::of(db, Writes::InBulk)).map_err(|error| refused(path, error))
    }

    /// Brings everything to disk.
    pub fn finish(&self) -> Result<(), CommitError> {
        let families = Table::ALL.map(|table| self.family(table));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(|error| CommitError::Storage(error.into_string()))
    }

    fn of(db: DB, writes: Writes) -> Self {
        Self { db, writes, in_use: Arc::default(), _open: Open::new() }
    }

    /// Is gone once the database is closed. The last `Arc` of a store is gone before.
    pub fn in_use(&self) -> Weak<()> {
        Arc::downgrade(&self.in_use)
    }

    fn family(&self, table: Table) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(table.name()).expect("every table was opened")
    }
}

/// What is known before a database is opened.
fn check(path: &Path, options: &Options) -> Result<(), OpenError> {
    refuse_endless(path)
        .map_err(|error| OpenError::Refused { path: path.display().to_string(), reason: error.to_string() })?;
    refuse_other(path, options)
}

/// A database that lacks a table is one whose making was cut short, or one of another format; one that has a table more is of
/// another format. Those stay as they are: once it had the new tables, the software that wrote it could not open it any more.
fn refuse_other(path: &Path, options: &Options) -> Result<(), OpenError> {
    let Ok(tables) = DB::list_cf(options, path) else { return Ok(()) };
    let has = |table: &Table| tables.iter().any(|name| name == table.name());
    let others = tables.iter().filter(|name| Table::ALL.iter().all(|table| table.name() != *name));
    // RocksDB itself has one more.
    let is_whole = Table::ALL.iter().all(has) && others.eq([DEFAULT_COLUMN_FAMILY_NAME]);
    if is_whole || !has(&Table::Meta) {
        return Ok(());
    }
    let meta = DB::open_cf_for_read_only(options, path, [Table::Meta.name()], false);
    let identity = rows::identity(&RocksStore::of(meta.map_err(|error| refused(path, error))?, Writes::None));
    match identity {
        Ok(Some((found, _))) if found != FORMAT => {
            Err(OpenError::OtherFormat { path: path.display().to_string(), error: OtherFormat { found } })
        }
        _ => Ok(()),
    }
}

fn refused(path: &Path, error: rocksdb::Error) -> OpenError {
    OpenError::Refused { path: path.display().to_string(), reason: error.into_string() }
}

/// For a database that must be there and is only read.
fn existing(notes: &Path) -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_db_log_dir(notes);
    options
}

fn families() -> [ColumnFamilyDescriptor; 8] {
    // Not the LRU cache: that is cut into as many as 64 shards, each too small for more than a few hundred blocks.
    let cache = Cache::new_hyper_clock_cache(BLOCK_CACHE, 0);
    Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), family_options(table, &cache)))
}

fn family_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    // In the cache a file's filter and index would each be one block of up to two megabytes, read again for a single row
    // whenever it was pushed out. Outside they take one or two percent of the data in open files.
    blocks.set_cache_index_and_filter_blocks(false);
    blocks.set_format_version(5);
    let mut options = Options::default().get_options_from_string(WRITTEN_ONCE).expect("an option of RocksDB");
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_min_write_buffer_number_to_merge(WRITE_BUFFERS);
    options.set_max_write_buffer_number(2 * WRITE_BUFFERS);
    // Most keys that are asked for are not among the newest writes, and to find that out by searching those costs more than the file does.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMORY_FILTER);
    // Most keys are hashes, so that new files overlap all of what is there: it is written anew half as often as by default.
    options.set_level_zero_file_num_compaction_trigger(YOUNG_FILES);
    // What is asked for in these is there, so that a filter of the last level, which is nearly all of the filters, tells nothing.
    let is_there = matches!(table, Table::Entries | Table::Nodes | Table::Histories);
    options.set_optimize_filters_for_hits(is_there);
    // Hashes do not compress.
    options.set_compression_type(match table {
        Table::Nodes | Table::Leaves | Table::Subjects => DBCompressionType::None,
        _ => DBCompressionType::Lz4,
    });
    options
}

impl Read for RocksStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        got(table, self.db.get_pinned_cf(self.family(table), key))
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        let rows = self.db.raw_iterator_cf_opt(self.family(table), within(prefix));
        Box::new(RocksCursor { table, rows })
    }
}

impl Store for RocksStore {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        let found = rows::tree_size(self).map_err(|error| CommitError::Storage(error.to_string()))?;
        if found != expected_size {
            return Err(CommitError::Size { expected: expected_size, found });
        }
        let mut writes = WriteBatch::with_capacity_bytes(batch.bytes() + ROW * batch.len());
        for Change { table, key, value } in batch.changes() {
            match value {
                Some(value) => writes.put_cf(self.family(table), key, value),
                None => writes.delete_cf(self.family(table), key),
            }
        }
        let mut options = WriteOptions::default();
        match self.writes {
            Writes::Synced => options.set_sync(true),
            Writes::InBulk => options.disable_wal(true),
            Writes::None => return Err(CommitError::Storage("the database was opened for reading".into())),
        }
        self.db.write_opt(writes, &options).map_err(|error| CommitError::Storage(error.into_string()))
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(RocksSnapshot { store: self, snapshot: self.db.snapshot() })
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        tempfile::tempfile_in(self.db.path())
    }
}

struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl Read for RocksSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        got(table, self.snapshot.get_pinned_cf(self.store.family(table), key))
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        let rows = self.snapshot.raw_iterator_cf_opt(self.store.family(table), within(prefix));
        Box::new(RocksCursor { table, rows })
    }
}

fn got(table: Table, value: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>) -> Result<Option<Vec<u8>>, ReadError> {
    value.map(|value| value.map(|slice| slice.to_vec())).map_err(|error| failed(table, error))
}

/// Reads of keys that begin with a prefix: RocksDB then does not step over the tombstones of others.
fn within(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_range(PrefixRange(prefix));
    options
}

struct RocksCursor<'a> {
    table: Table,
    rows: DBRawIterator<'a>,
}

impl RocksCursor<'_> {
    fn row(&self) -> Result<Option<Row<'_>>, ReadError> {
        match self.rows.item() {
            Some(row) => Ok(Some(row)),
            None => self.rows.status().map(|()| None).map_err(|error| failed(self.table, error)),
        }
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'_>>, ReadError> {
        self.rows.seek(key);
        self.row()
    }

    fn next(&mut self) -> Result<Option<Row<'_>>, ReadError> {
        if self.rows.valid() {
            self.rows.next();
        }
        self.row()
    }
}

fn failed(table: Table, error: rocksdb::Error) -> ReadError {
    ReadError::Storage { table: table.name(), reason: error.into_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_another_format_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        // Those of format 4, which had one more than there are, and some of a later one that has one fewer.
        let older = ["meta", "entries", "leaves", "nodes", "subjects", "histories", "history_nodes", "bound", "events"];
        let newer = ["meta", "entries", "leaves", "nodes", "subjects", "histories", "bound"];
        for (format, tables) in [(4, older.as_slice()), (FORMAT + 1, &newer)] {
            let path = folder.path().join(format.to_string());
            let mut options = Options::default();
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            let other = DB::open_cf(&options, &path, tables).expect("made");
            other.put_cf(other.cf_handle("meta").expect("a table"), "format", format.to_be_bytes()).expect("written");
            other.put_cf(other.cf_handle("meta").expect("a table"), "origin", "old.example").expect("written");
            drop(other);
            let notes = folder.path().join("notes");
            for refused in [RocksStore::open(&path), RocksStore::open_read_only(&path, &notes)] {
                let error = refused.err().expect("refused");
                assert!(
                    matches!(error, OpenError::OtherFormat { error: OtherFormat { found }, .. } if found == format)
                );
            }
            // Who wrote it opens it still.
            DB::open_cf(&Options::default(), &path, tables).expect("no table was added");
        }
    }

    #[test]
    fn files_that_were_moved_are_not_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        let store = RocksStore::open(&path).expect("new");
        // Files of rows in their order: they are moved down, as there is nothing to merge them with.
        for number in 0..12u64 {
            let mut batch = Batch::default();
            (0..100).for_each(|at| batch.put(Table::Entries, (number * 100 + at).to_be_bytes(), [7; 100]));
            store.commit(0, batch).expect("stored");
            store.finish().expect("written");
        }
        let entries = store.family(Table::Entries);
        let files = || {
            let all = store.db.live_files().expect("listed").into_iter();
            all.filter(|file| file.column_family_name == Table::Entries.name()).map(|file| (file.name, file.level))
        };
        let settled = || {
            let pending = |what| store.db.property_int_value_cf(entries, what).expect("known").unwrap_or_default();
            pending("rocksdb.compaction-pending") == 0 && pending("rocksdb.num-running-compactions") == 0
        };
        let wait = || {
            while !settled() {
                std::thread::sleep(std::time::Duration::from_millis(10))
            }
        };
        wait();
        let before: std::collections::BTreeSet<_> = files().collect();
        assert!(before.iter().any(|(_, level)| *level > 0), "some were moved: {before:?}");
        // With the last snapshot goes what RocksDB would wait for.
        drop(store.snapshot());
        let mut batch = Batch::default();
        batch.put(Table::Entries, 1200u64.to_be_bytes(), [7; 100]);
        store.commit(0, batch).expect("stored");
        drop(store.snapshot());
        store.finish().expect("written");
        wait();
        let after: std::collections::BTreeSet<_> = files().collect();
        assert!(before.is_subset(&after), "{before:?} became {after:?}");
    }

    #[test]
    fn no_flipped_bit_of_its_logs_makes_rocksdb_read_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        let store = RocksStore::open(&path).expect("new");
        for number in 0..3u8 {
            let mut batch = Batch::default();
            batch.put(Table::Entries, [number; 8], vec![number; 20_000]);
            batch.put(Table::Events, [number], [number]);
            store.commit(0, batch).expect("stored");
        }
        drop(store);
        let current = std::fs::read_to_string(path.join("CURRENT")).expect("a name");
        let files = std::fs::read_dir(&path).expect("listed").map(|file| file.expect("a file").path());
        let logs: Vec<_> = files
            .filter(|file| file.extension().is_some_and(|end| end == "log") || file.ends_with(current.trim_end()))
            .collect();
        assert_eq!(logs.len(), 2, "{logs:?}");
        let (mut refused, mut tried) = (0, 0);
        for log in &logs {
            let whole = std::fs::read(log).expect("read");
            // Not in the middle of a long row of equal bytes, which is what was stored.
            let around = |at: usize| &whole[at.saturating_sub(8)..(at + 8).min(whole.len())];
            for at in (0..whole.len()).filter(|at| around(*at).iter().any(|byte| *byte != whole[*at])) {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << 2;
                std::fs::write(log, &damaged).expect("written");
                tried += 1;
                refused += u32::from(RocksStore::open_read_only(&path, &folder.path().join("notes")).is_err());
            }
            std::fs::write(log, &whole).expect("written");
            RocksStore::open_read_only(&path, &folder.path().join("notes")).expect("whole");
        }
        assert!(refused > 100, "{refused} of {tried}");
    }

    #[test]
    fn a_database_whose_making_was_cut_short_is_completed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        drop(DB::open_cf(&options, &path, ["meta", "entries"]).expect("made"));
        let store = RocksStore::open(&path).expect("completed");
        assert_eq!(rows::tree_size(&store), Ok(0));
    }
}
