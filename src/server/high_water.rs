//! The high-water mark: the newest checkpoint known to have been signed, in a file of its own outside the database.
//!
//! A database that is put back from a backup is whole and signed, and only too old: appending to it would sign a second history
//! under the same key. So the ledger's newest checkpoint is kept in a second place, and a ledger whose database does not reach
//! it, or disagrees with it, is not opened (`engine::recovery`).
//!
//! The mark follows the ledger: it is written, synced, before the first request is answered, at the latest [`BEHIND`] after a
//! commit, and when the service stops. So what it can miss is an older copy from within the last second. Where it can't be
//! written, or its disk does not answer, the ledger stops accepting entries. Any signed checkpoint of the ledger may be put into the file, from a client, a
//! mirror or a witness.
//!
//! Beside it, a ledger that was stopped in order leaves the same checkpoint once more: nothing was signed after it. That file is
//! gone, durably, before anything else is signed. Without it, the mark says how far the ledger came at least, and not how far.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::data_dir::beside;
use super::keys::PublicKeys;
use crate::engine::Ledger;
use crate::ledger::checkpoint::Checkpoint;

/// How far the mark is behind the ledger at most, but for the time one synced write takes.
pub const BEHIND: Duration = Duration::from_secs(1);
/// How many seconds a write of it may take. A snapshot of a disk, or a server of files that starts anew, may take most of that.
const WRITTEN_WITHIN: u64 = 30;
/// The same for each of the last two, while others wait for the end.
const CLOSED_WITHIN: u64 = 4;
/// Longest checkpoint, in bytes.
const MAX_LENGTH: u64 = 64 * 1024;

/// The file.
#[derive(Debug, Clone)]
pub struct HighWater(PathBuf);

/// Why there is no mark to rely on.
#[derive(Debug, thiserror::Error)]
pub enum HighWaterError {
    /// The ledger has begun, and nothing says how far it came.
    #[error(
        "{0} is missing, so nothing tells whether the database is the newest; put the newest checkpoint that you trust into it (from another copy of the file, a client's trust folder, a mirror), and start again; if the database is gone or older, see tagledgerd restore --help"
    )]
    Missing(String),
    /// The system says no.
    #[error("the high-water mark {path}: {reason}")]
    Io {
        /// Which file.
        path: String,
        /// The system's words.
        reason: io::Error,
    },
    /// The system says nothing.
    #[error("the high-water mark {path} was not written within {within_seconds} s: its disk does not answer")]
    Hangs {
        /// Which file.
        path: String,
        /// How long it had.
        within_seconds: u64,
    },
}

impl HighWater {
    /// The mark in a file.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The checkpoint in it; none for a ledger that has not begun.
    pub fn read(&self, has_begun: bool) -> Result<Option<String>, HighWaterError> {
        let length = match fs::metadata(&self.0) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_begun => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HighWaterError::Missing(self.0.display().to_string()));
            }
            Err(error) => return Err(self.failed(error)),
        };
        if length > MAX_LENGTH {
            return Err(self.failed(io::Error::other(format!("is {length} bytes long, which no checkpoint is"))));
        }
        fs::read_to_string(&self.0).map(Some).map_err(|error| self.failed(error))
    }

    /// Puts a checkpoint into it. Durable when this returns.
    pub fn write(&self, note: &str) -> Result<(), HighWaterError> {
        put(&self.0, note).map_err(|error| self.failed(error))
    }

    /// Puts the checkpoint into it after which nothing was signed, and says so beside it. Durable when this returns.
    pub fn close(&self, note: &str) -> Result<(), HighWaterError> {
        self.write(note)?;
        put(&self.closed(), note).map_err(|error| self.failed(error))
    }

    /// The same at the end of a service, which waits for no disk that does not answer.
    pub async fn close_in_time(&self, note: String) -> Result<(), HighWaterError> {
        self.timed(|| CLOSED_WITHIN, move |mark| mark.close(&note)).await
    }

    /// From now on something may be signed that is not in it. Durable when this returns.
    pub fn reopen(&self) -> Result<(), HighWaterError> {
        match fs::remove_file(self.closed()) {
            Ok(()) => File::open(self.folder()).and_then(|folder| folder.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|error| self.failed(error))
    }

    /// Whether the ledger was stopped in order at this checkpoint, and not started since.
    pub fn is_closed_at(&self, checkpoint: &Checkpoint, keys: &PublicKeys) -> bool {
        let note = fs::read_to_string(self.closed());
        note.is_ok_and(|note| Checkpoint::open_by(&note, keys.all()).is_ok_and(|(closed, _)| closed == *checkpoint))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        folder_of(&self.0)
    }

    fn closed(&self) -> PathBuf {
        beside(&self.0, ".closed")
    }

    /// Follows a ledger until it ends, and is there when this returns.
    pub async fn follow(self, ledger: Ledger) -> Result<(), HighWaterError> {
        let (mut newest, mut stopped) = (ledger.newest(), ledger.stopped());
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                changed = newest.changed() => is_last = changed.is_err(),
                _ = stopped.wait_for(Option::is_some) => is_last = true,
            }
            let note = newest.borrow_and_update().head.checkpoint.clone();
            let ends = stopped.clone();
            let within = move || if ends.borrow().is_some() { CLOSED_WITHIN } else { WRITTEN_WITHIN };
            self.timed(within, move |mark| mark.write(&note)).await?;
            if !is_last {
                // One write for all commits of a while; the last one is written at once.
                let _ = tokio::time::timeout(BEHIND, stopped.wait_for(Option::is_some)).await;
            }
        }
        Ok(())
    }

    /// Does something with it that may hang. It is left alone then: what a disk keeps, nobody can take back.
    async fn timed(
        &self,
        within: impl Fn() -> u64,
        work: impl FnOnce(&Self) -> Result<(), HighWaterError> + Send + 'static,
    ) -> Result<(), HighWaterError> {
        let mark = self.clone();
        let mut working = tokio::task::spawn_blocking(move || work(&mark));
        // Second by second: a process that stood still itself must not find that all of its time is over.
        let mut waited = 0;
        while waited < within() {
            if let Ok(done) = tokio::time::timeout(Duration::from_secs(1), &mut working).await {
                return done.unwrap_or_else(|bug| Err(self.failed(io::Error::other(bug))));
            }
            waited += 1;
        }
        Err(HighWaterError::Hangs { path: self.0.display().to_string(), within_seconds: waited })
    }

    fn failed(&self, reason: io::Error) -> HighWaterError {
        HighWaterError::Io { path: self.0.display().to_string(), reason }
    }
}

fn put(path: &Path, note: &str) -> io::Result<()> {
    let temporary = beside(path, ".new");
    // Not through a link that somebody put there.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
