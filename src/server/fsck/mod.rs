//! `tagledgerd fsck`: a ledger that does not run, looked at from end to end.
//!
//! What is compared is in [`crate::engine::check`]; here are the files around it (keys, high-water mark, what RocksDB itself can't
//! open or read), the room to derive into, and the report (`show`).

mod show;

use std::io;
use std::path::{Path, PathBuf};

use super::copies::{CHECKPOINT, CopyError, backup, keys_of};
use super::data_dir::{DataDirError, Existing, is_there};
use super::high_water::{HighWater, HighWaterError};
use super::keys::PublicKeys;
use crate::engine::check::{Damage, Findings, Tell, check};
use crate::engine::derive::DeriveError;
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::store::rocks::{OpenError, RocksStore};
use crate::store::{CommitError, Read as _, ReadError, Table};
pub use show::Progress;

/// Why a ledger can't be checked, rebuilt, backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The high-water mark.
    #[error(transparent)]
    HighWater(#[from] HighWaterError),
    /// A database.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// What is made beside it.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// A copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A row of the database.
    #[error(transparent)]
    Read(ReadError),
    /// What is made can't be brought to disk.
    #[error(transparent)]
    Commit(CommitError),
    /// The high-water mark is no checkpoint of the ledger.
    #[error("the high-water mark: {0}")]
    Mark(CheckpointError),
    /// A backup would lose entries.
    #[error(
        "the backup in {to} has {before} entries, and the ledger only {size}: was an older copy put back? Nothing was changed; that backup can help to restore it: tagledgerd restore --from {to}"
    )]
    Behind {
        /// Where it is.
        to: String,
        /// Its entries.
        before: u64,
        /// The ledger's.
        size: u64,
    },
    /// The database does not reach the high-water mark.
    #[error(
        "the database has {found} entries, but a checkpoint over {known} was signed; see tagledgerd restore --help"
    )]
    Short {
        /// Its entries.
        found: u64,
        /// Those of the mark.
        known: u64,
    },
    /// The folder of the backup is being written to, or looked at.
    #[error(
        "the backup in {path} is in use by {holder}; wait until that has ended, or choose another folder with --to"
    )]
    BackupInUse {
        /// The folder.
        path: String,
        /// Who uses it.
        holder: String,
    },
    /// More may have been signed than anything here knows of.
    #[error(
        "the newest checkpoint that is known here ({by}) is over {size} entries, and more may have been acknowledged after it: the ledger was not stopped in order, or the copies are of before. To go on from less than was signed would be a second history. Ask clients, mirrors, auditors and witnesses for the newest checkpoint that they saw (clients keep one in their trust folder), and give it with --checkpoint FILE, also if it is this one; or go on under another name: --new-origin NAME --into DIR. Nothing was changed"
    )]
    MayBeBehind {
        /// Where it is from.
        by: String,
        /// Its entries.
        size: u64,
    },
    /// More was recorded than any checkpoint here is over.
    #[error(
        "{copy} has entry {size}, which the ledger signed, and the newest checkpoint that is known here ({by}) is over {size} entries only: more was recorded after it. Find a newer checkpoint (clients keep one in their trust folder, mirrors and witnesses have theirs), and give it with --checkpoint FILE. Nothing was changed"
    )]
    RecordedAfter {
        /// Which copy.
        copy: String,
        /// Where the checkpoint is from.
        by: String,
        /// Its entries.
        size: u64,
    },
    /// The database is elsewhere, and that place is not there.
    #[error(
        "{0} is a link that leads nowhere; mount what it leads to, or remove the link to have the database made there"
    )]
    LostLink(String),
    /// The new log may not have the name of the old one.
    #[error("the ledger is {0} already: a new origin is another one")]
    SameOrigin(String),
    /// Something is where something new is to be made.
    #[error("{0} is there already; name a directory that is not")]
    InTheWay(String),
    /// Nothing says what was signed.
    #[error("neither database nor copies hold a checkpoint that the ledger signed; name a copy with --from")]
    NoCheckpoint,
    /// Neither a ledger nor a backup with its keys.
    #[error("{0} holds no ledger, and none of the copies its private key; name a backup that does with --from")]
    NoKeys(String),
    /// Nothing says how far the ledger came.
    #[error(
        "{0} is missing, so nothing tells what the newest checkpoint is that the ledger signed; give the newest that you can get with --checkpoint (a client's trust folder has one, a mirror, a witness). The one of a backup will do only if nothing was recorded after it: otherwise the ledger would sign a second history"
    )]
    NoMark(String),
    /// The system says no.
    #[error("{path}: {reason}")]
    Io {
        /// Which file or directory.
        path: String,
        /// The system's words.
        reason: io::Error,
    },
}

impl CareError {
    /// With the path that it is about.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |reason| Self::Io { path, reason }
    }
}

/// What is to be checked.
#[derive(Debug)]
pub struct Fsck {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the high-water mark is.
    pub high_water: PathBuf,
    /// Where there is room for as much as the database takes.
    pub scratch: Option<PathBuf>,
    /// The report as JSON.
    pub json: bool,
}

impl Fsck {
    /// Checks, and prints the report. Returns whether everything is as it must be.
    pub fn run(self) -> Result<bool, CareError> {
        let directory = Existing::open(&self.data_dir)?;
        let mark = HighWater::new(self.high_water);
        let scratch = self.scratch.as_deref().unwrap_or(directory.path());
        let progress = Progress::new();
        let findings = checked(&directory, &mark, scratch, &mut |step, done, of| progress.tell(step, done, of));
        progress.end();
        let findings = findings?;
        let database = directory.database();
        let looked_at = if is_there(&database) { &database } else { directory.path() };
        show::report(&findings, directory.keys().vkey(), looked_at, self.json);
        Ok(findings.is_whole())
    }
}

/// Checks a data directory.
pub fn checked(
    directory: &Existing,
    mark: &HighWater,
    scratch: &Path,
    tell: &mut Tell<'_>,
) -> Result<Findings, CareError> {
    let keys = keys_of(directory.path(), directory.keys(), &[]);
    // With this file RocksDB begins a database.
    if !is_there(&directory.database().join("CURRENT")) {
        if is_there(&directory.path().join(CHECKPOINT)) {
            return checked_backup(directory.path(), &keys, scratch, tell);
        }
        if !directory.has_begun() {
            // It was made, and never served.
            return Ok(Findings::default());
        }
    }
    let mut outside = Findings::default();
    let mark = match mark.read(directory.has_begun()) {
        Ok(note) => note.and_then(|note| marked(&note, &keys, &mut outside)),
        Err(error) => {
            let expected = "the newest checkpoint that the ledger signed";
            outside.tell(around("high-water", error.to_string(), expected));
            None
        }
    };
    let mut findings = checked_database(&directory.database(), &keys, mark.as_ref(), scratch, tell)?;
    outside.damages.into_iter().for_each(|damage| findings.tell(damage));
    Ok(findings)
}

/// Checks a backup, which has no rows but the entries. The first damage ends it: what comes after can't be told any more.
fn checked_backup(
    folder: &Path,
    keys: &PublicKeys,
    scratch: &Path,
    tell: &mut Tell<'_>,
) -> Result<Findings, CareError> {
    let mut findings = Findings::default();
    match backup::verify(folder, keys, scratch, tell) {
        Ok(checkpoint) => (findings.entries, findings.derived) = (checkpoint.size, checkpoint.size),
        Err(CareError::Copy(damage)) => {
            let (place, expected) = ("the entries".to_owned(), "what the checkpoint was signed over".to_owned());
            let found = damage.to_string();
            findings.tell(Damage { table: "backup", place, key: Vec::new(), found, expected });
        }
        Err(error) => return Err(error),
    }
    Ok(findings)
}

/// Checks a database.
pub fn checked_database(
    path: &Path,
    keys: &PublicKeys,
    mark: Option<&Checkpoint>,
    scratch: &Path,
    tell: &mut Tell<'_>,
) -> Result<Findings, CareError> {
    let room = room(scratch)?;
    let notes = room.path().join("notes");
    let found = match RocksStore::open_read_only(path, &notes) {
        Ok(found) => found,
        Err(error @ OpenError::OtherFormat { .. }) => return Err(error.into()),
        Err(error) => {
            let mut findings = Findings::default();
            findings.tell(around("database", error.to_string(), "a database that RocksDB can open"));
            return Ok(findings);
        }
    };
    if mark.is_none() && is_empty(&found) {
        return Ok(Findings::default());
    }
    let beside = RocksStore::create(&room.path().join("db"))?;
    Ok(check(&found, keys.first(), mark, &beside, tell)?)
}

/// Its first start was cut short before there was an entry.
fn is_empty(found: &RocksStore) -> bool {
    Table::ALL.iter().all(|table| matches!(found.cursor(*table, &[]).seek(&[]), Ok(None)))
}

/// A folder of its own that is gone afterwards, for its owner alone.
pub fn room(inside: &Path) -> Result<tempfile::TempDir, CareError> {
    tempfile::Builder::new().prefix("fsck-").tempdir_in(inside).map_err(CareError::io(inside))
}

fn marked(note: &str, keys: &PublicKeys, outside: &mut Findings) -> Option<Checkpoint> {
    match Checkpoint::open_by(note, keys.all()).map(|(checkpoint, _)| checkpoint) {
        Ok(mark) => Some(mark),
        Err(error) => {
            outside.tell(around("high-water", error.to_string(), "a checkpoint that the ledger signed"));
            None
        }
    }
}

fn around(table: &'static str, found: String, expected: &str) -> Damage {
    Damage { table, place: "the file".to_owned(), key: Vec::new(), found, expected: expected.to_owned() }
}
