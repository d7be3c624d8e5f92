//! The data directory: origin, keys, first token, database, and the lock that keeps a second server out.
//!
//! It is initialised once. The file `origin` is written last, so a directory that has one is whole; a start that was cut
//! short before is completed. A ledger without its key can't go on; how it gets another is in [`super::keys`]. And the file `begun` says that
//! the log has a first entry: without the database, such a ledger would begin a second log under the same key.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::keys::{PublicKeys, parse_private, read_private};
use super::secrets::{self, SecretError};
use crate::engine::signer::ReadKeys;
use crate::ledger::note::{KeyError, Origin, Skey};

/// An open, locked data directory.
pub struct DataDir {
    path: PathBuf,
    /// Held as long as the directory is in use.
    lock: File,
    skeys: Vec<Skey>,
    is_new: bool,
}

/// Why a data directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server has it.
    #[error(
        "the data directory {path} is in use by {holder}; stop that server, or choose another directory with --data-dir"
    )]
    InUse {
        /// Which directory.
        path: String,
        /// Who holds it.
        holder: String,
    },
    /// It belongs to another ledger than asked for.
    #[error(
        "the data directory {path} belongs to origin {found:?}, not {wanted:?}; an origin is chosen once: leave --origin out, or choose another directory with --data-dir"
    )]
    OtherOrigin {
        /// Which directory.
        path: String,
        /// Whose it is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The first token's file holds no token.
    #[error(
        "{path} holds no token of at least 16 characters; restore it, or remove the file to do without a first token"
    )]
    Token {
        /// Which file.
        path: String,
    },
    /// A ledger without the files that go with it.
    #[error(
        "{path} holds a ledger but no {file}; restore that file from a backup: without it the ledger can't be continued"
    )]
    Incomplete {
        /// Which directory.
        path: String,
        /// What is missing.
        file: &'static str,
    },
    /// A file that holds a secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A key file, or the origin.
    #[error("{path}: {reason}")]
    Key {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: KeyError,
    },
    /// The key is another ledger's.
    #[error("{path} is the key of origin {found:?}, the directory is of {expected:?}; restore the right key")]
    OtherKey {
        /// Which file.
        path: String,
        /// Whose key it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Private keys, and not the one in force.
    #[error("{path} does not hold the private key of {in_force}, the key in force; put it back from a backup")]
    NotInForce {
        /// Which file.
        path: String,
        /// The key in force.
        in_force: String,
    },
    /// The system says no.
    #[error("{path}: {reason}")]
    Io {
        /// Which file or directory.
        path: String,
        /// The system's words.
        reason: std::io::Error,
    },
}

/// A data directory that is there already, and is only looked at: locked, but nothing in it is made or mended.
pub struct Existing {
    path: PathBuf,
    /// Held as long as the directory is in use.
    _lock: File,
    keys: PublicKeys,
}

impl Existing {
    /// Opens it. It has a public key at least, and a private one only of the same ledger.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        if !is_there(&path.join("origin")) {
            return Err(DataDirError::Incomplete { path: shown(path), file: "origin" });
        }
        Self::locked(path, lock(path)?)
    }

    /// The same, with the lock taken before ([`lock`]).
    pub(super) fn locked(path: &Path, lock: File) -> Result<Self, DataDirError> {
        Ok(Self { path: path.to_owned(), _lock: lock, keys: PublicKeys::read(path)? })
    }

    /// The ledger's public keys.
    pub fn keys(&self) -> &PublicKeys {
        &self.keys
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log has a first entry, whether or not the database is still there.
    pub fn has_begun(&self) -> bool {
        is_there(&self.path.join("begun"))
    }
}

impl DataDir {
    /// Opens a data directory, and initialises it if it is new. `wanted` names the origin a new one gets.
    pub fn open(path: &Path, wanted: Option<&Origin>) -> Result<Self, DataDirError> {
        make(path)?;
        let lock = lock(path)?;
        let is_new = !is_there(&path.join("origin"));
        if is_new {
            if is_there(&path.join("db")) || is_there(&path.join("begun")) {
                return Err(DataDirError::Incomplete { path: shown(path), file: "origin" });
            }
            initialise(path, wanted)?;
        }
        let origin = read_origin(path)?;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != origin) {
            return Err(DataDirError::OtherOrigin {
                path: shown(path),
                found: origin.to_string(),
                wanted: wanted.to_string(),
            });
        }
        let skeys = read_private(path, &origin)?;
        Ok(Self { path: path.to_owned(), lock, skeys, is_new })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It was made just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The first of the ledger's keys that are there, to hand on.
    pub fn take_key(&self) -> Skey {
        let skey = self.skeys.first().expect("a file of keys has one");
        Skey::from_seed(skey.origin().clone(), skey.key().as_bytes())
    }

    /// Reads the private keys that are there by then.
    pub fn read_keys(&self) -> ReadKeys {
        let (path, origin) = (self.path.clone(), self.take_key().origin().clone());
        Arc::new(move || read_private(&path, &origin).map_err(|error| error.to_string()))
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Where the subject map is kept from an end in order to the next start: on the disk of the database.
    pub fn map(&self) -> PathBuf {
        self.database().join("map")
    }

    /// Where the newest checkpoint is kept a second time, unless another place is configured.
    pub fn high_water(&self) -> PathBuf {
        self.path.join("high-water")
    }

    /// Where webhook bodies go that can't be understood.
    pub fn aside(&self) -> PathBuf {
        self.path.join("aside")
    }

    /// The log has a first entry, whether or not the database is still there.
    pub fn has_begun(&self) -> bool {
        is_there(&self.path.join("begun"))
    }

    /// Notes that the log has a first entry. Durable when this returns.
    pub fn note_begun(&self) -> Result<(), DataDirError> {
        if self.has_begun() {
            return Ok(());
        }
        write_synced(&self.path.join("begun"), b"", 0o644)?;
        sync(&self.path)
    }

    /// SHA-256 of the first token; `None` if the operator removed its file.
    pub fn first_token(&self) -> Result<Option<[u8; 32]>, DataDirError> {
        let path = self.path.join("token");
        if !is_there(&path) {
            return Ok(None);
        }
        let token = secrets::text(&path)?;
        let token = token.trim();
        if token.len() < 16 {
            return Err(DataDirError::Token { path: shown(&path) });
        }
        Ok(Some(Sha256::digest(token).into()))
    }

    /// Writes into the lock file who holds it and where it listens, for whoever finds it locked.
    pub fn announce(&self, address: SocketAddr) {
        let text = format!("process {} (serving on {address})\n", std::process::id());
        let mut lock = &self.lock;
        // Only a courtesy: the lock holds without it.
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(text.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(%error, "cannot write into the lock file");
        }
    }
}

/// Keeps others out of a directory for as long as the file is held.
pub(super) fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io(&path))?;
    // A server that is just about to end, or a program that it has just started, may have it for a moment longer.
    let mut tries = 20;
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if tries > 0 => std::thread::sleep(Duration::from_millis(25)),
            locked => break locked,
        }
        tries -= 1;
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                holder => holder.to_owned(),
            };
            return Err(DataDirError::InUse { path: shown(directory), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io(&path)(error)),
    }
    let _ = file.set_len(0);
    let _ = file.write_all(format!("process {}\n", std::process::id()).as_bytes());
    Ok(file)
}

/// Makes keys, token and, last, the origin.
fn initialise(path: &Path, wanted: Option<&Origin>) -> Result<(), DataDirError> {
    let random = |length: usize| {
        let mut bytes = Zeroizing::new(vec![0; length]);
        getrandom::fill(&mut bytes).expect("the system has randomness");
        bytes
    };
    let key_path = path.join("ledger.key");
    let skey = if is_there(&key_path) {
        // A start was cut short after this. The origin is in the key.
        parse_private(&key_path)?.swap_remove(0)
    } else {
        let origin = match wanted {
            Some(origin) => origin.clone(),
            // Unique without asking anybody; who wants a telling name gives one.
            None => format!("tagledger.local/{}", hex::encode(&*random(8))).parse().expect("a valid origin"),
        };
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(random(32).as_slice().try_into().expect("32 bytes"));
        let skey = Skey::from_seed(origin, &seed);
        write_synced(&key_path, format!("{}\n", *skey.to_text()).as_bytes(), 0o600)?;
        skey
    };
    let token = Zeroizing::new(format!("tlt_{}\n", BASE64.encode(&*random(32))));
    write_synced(&path.join("ledger.vkey"), format!("{}\n", skey.vkey()).as_bytes(), 0o644)?;
    if !is_there(&path.join("token")) {
        write_synced(&path.join("token"), token.as_bytes(), 0o600)?;
    }
    sync(path)?;
    write_synced(&path.join("origin"), format!("{}\n", skey.origin()).as_bytes(), 0o644)?;
    sync(path)
}

/// Makes a directory and those that it is in, where they are not there, durably: what is in one that is lost is lost.
fn make(path: &Path) -> Result<(), DataDirError> {
    let parent = |path: &Path| path.parent().map(Path::to_owned).filter(|parent| !parent.as_os_str().is_empty());
    let holders = std::iter::successors(Some(path.to_owned()), |path| parent(path));
    let new: Vec<PathBuf> = holders.take_while(|path| !path.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
    new.iter().try_for_each(|made| sync(parent(made).as_deref().unwrap_or(Path::new("."))))
}

/// Brings to disk which files a directory holds.
pub(super) fn sync(directory: &Path) -> Result<(), DataDirError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io(directory))
}

/// Also a link that leads nowhere is there: nothing is written in its place.
pub(super) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A file's whole name, with something after it: no two files have the same beside them.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Puts a whole file into place, with its content on disk.
pub(super) fn write_synced(path: &Path, content: &[u8], mode: u32) -> Result<(), DataDirError> {
    let temporary = beside(path, ".new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(io(&temporary))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io(&temporary))?;
    fs::rename(&temporary, path).map_err(io(path))
}

pub(super) fn read_origin(directory: &Path) -> Result<Origin, DataDirError> {
    let path = directory.join("origin");
    let text = fs::read_to_string(&path).map_err(io(&path))?;
    text.trim_end_matches('\n').parse().map_err(|reason| DataDirError::Key { path: shown(&path), reason })
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataDirError {
    let path = shown(path);
    move |reason| DataDirError::Io { path, reason }
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}
