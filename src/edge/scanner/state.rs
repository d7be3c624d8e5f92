//! What a scanner remembers between rounds: when it last saw each tag, and as what; and how far a round came.
//!
//! One file of JSON, replaced as a whole, so that it is the old or the new one after a crash. It holds nothing that the ledger
//! needs: without it, the next round looks at everything anew, records nothing twice (the ledger knows what it has), and of what
//! changed meanwhile it cannot say since when; what it had seen once and wanted to look at again begins anew, too.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::ledger::names::Registry;

/// Number of the format; others are not read.
const FORMAT: u32 = 1;
/// Between two states kept on the way.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// And no more of the time than one part in so many goes into keeping it.
const KEEP_SHARE: u32 = 20;

/// What is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// The registry, as the ledger calls it.
    registry: String,
    /// The round that is under way, or was when the scanner was interrupted.
    pub(super) round: Option<Report>,
    pub(super) repositories: BTreeMap<String, Seen>,
}

/// A repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    /// When all its tags were last listed, microseconds since the Unix epoch; 0: never.
    pub(super) listed_us: u64,
    /// When all of them had been looked at.
    pub(super) done_us: u64,
    pub(super) tags: BTreeMap<String, SeenTag>,
}

/// A tag.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeenTag {
    /// What it pointed to; none: it was not there, or has not been seen twice yet.
    pub(super) digest: Option<String>,
    /// When it was last seen otherwise; 0: never.
    pub(super) before_us: u64,
    /// When it was first seen like this; 0: it never was.
    pub(super) since_us: u64,
    /// When it was last seen like this.
    pub(super) seen_us: u64,
    /// Entries in the tag's history in the ledger when all of them were looked after; 0: never.
    pub(super) version: u64,
    /// What was seen instead, once: not believed before it is seen again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) other: Option<Other>,
}

/// Another state than the one believed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Other {
    /// What was seen; none: the tag was not there.
    pub(super) digest: Option<String>,
    /// When first.
    pub(super) since_us: u64,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// Read, write, ...
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another scanner is at work.
    #[error("another scanner uses {}; stop it, or give this one a directory of its own with --state", path.display())]
    InUse {
        /// The lock.
        path: PathBuf,
    },
    /// Not a state, or not of this format.
    #[error(
        "{} is not the state of a scanner of this version ({reason}); move it away to begin anew: nothing is recorded twice, but \
         since when something changed will not be known",
        path.display()
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The state of another registry.
    #[error("{} is about the registry {found}; give each registry a directory of its own with --state", path.display())]
    OtherRegistry {
        /// Which file.
        path: PathBuf,
        /// Its registry.
        found: String,
    },
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(registry: &Registry) -> Self {
        Self { format: FORMAT, registry: registry.to_string(), round: None, repositories: BTreeMap::new() }
    }
}

/// A state as it is kept, read and written again; none if it is not one of this registry.
pub fn kept_again(bytes: &[u8], registry: &Registry) -> Option<Vec<u8>> {
    let state = StateFile::parse(Path::new("scan.json"), bytes, registry).ok()?;
    serde_json::to_vec(&state).ok()
}

/// The file, held by this scanner alone; or none, and then what is known is forgotten with the process.
#[derive(Debug)]
pub(super) struct StateFile {
    path: Option<PathBuf>,
    _lock: Option<File>,
    kept: Instant,
    took: Duration,
}

impl StateFile {
    /// The state in a directory, which is made if it is not there.
    pub(super) fn open(folder: Option<&Path>, registry: &Registry) -> Result<(Self, State), StateError> {
        let Some(folder) = folder else {
            let file = Self { path: None, _lock: None, kept: Instant::now(), took: Duration::ZERO };
            return Ok((file, State::new(registry)));
        };
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { what, path, source }
        };
        fs::create_dir_all(folder).map_err(io("make", folder))?;
        let lock_path = folder.join("scan.lock");
        let lock = File::create(&lock_path).map_err(io("make", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: lock_path }),
            Err(TryLockError::Error(source)) => return Err(StateError::Io { what: "lock", path: lock_path, source }),
        }
        let path = folder.join("scan.json");
        let state = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::new(registry),
            Err(source) => return Err(StateError::Io { what: "read", path, source }),
            Ok(bytes) => Self::parse(&path, &bytes, registry)?,
        };
        Ok((Self { path: Some(path), _lock: Some(lock), kept: Instant::now(), took: Duration::ZERO }, state))
    }

    fn parse(path: &Path, bytes: &[u8], registry: &Registry) -> Result<State, StateError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let refuse = |reason: String| StateError::Format { path: path.to_owned(), reason };
        let head: Head = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if head.format != FORMAT {
            return Err(refuse(format!("its format is {}, not {FORMAT}", head.format)));
        }
        let state: State = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if state.registry != registry.as_str() {
            return Err(StateError::OtherRegistry { path: path.to_owned(), found: state.registry });
        }
        Ok(state)
    }

    /// Keeps nothing from now on; the lock stays.
    pub(super) fn read_only(self) -> Self {
        Self { path: None, ..self }
    }

    /// Keeps a state, unless one was kept just now.
    pub(super) fn keep_now_and_then(&mut self, state: &State) -> Result<(), StateError> {
        if self.kept.elapsed() < KEEP_EVERY.max(self.took * KEEP_SHARE) { Ok(()) } else { self.keep(state) }
    }

    /// Replaces the file: it is the old or the new one, also after a crash.
    pub(super) fn keep(&mut self, state: &State) -> Result<(), StateError> {
        let began = Instant::now();
        if let Some(path) = &self.path {
            let write = || -> io::Result<()> {
                let folder = path.parent().unwrap_or(Path::new("."));
                let mut file = tempfile::NamedTempFile::new_in(folder)?;
                let mut buffer = io::BufWriter::new(file.as_file_mut());
                serde_json::to_writer(&mut buffer, state)?;
                buffer.flush()?;
                drop(buffer);
                file.as_file().sync_all()?;
                file.persist(path).map_err(|error| error.error)?;
                File::open(folder)?.sync_all()
            };
            write().map_err(|source| StateError::Io { what: "write", path: path.clone(), source })?;
        }
        (self.kept, self.took) = (Instant::now(), began.elapsed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        "r.example".parse().expect("canonical")
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut file, mut state) = StateFile::open(Some(folder.path()), &registry()).expect("new");
        assert_eq!(state, State::new(&registry()));
        let seen = SeenTag { digest: Some("sha256:x".into()), since_us: 1, seen_us: 2, ..SeenTag::default() };
        let other = Some(Other { digest: None, since_us: 3 });
        let tags = BTreeMap::from([("v1".to_owned(), SeenTag { other, ..seen })]);
        state.repositories.insert("a/b".into(), Seen { listed_us: 1, done_us: 2, tags });
        state.round = Some(Report { started_us: 7, ..Report::default() });
        file.keep(&state).expect("kept");
        drop(file);
        assert_eq!(StateFile::open(Some(folder.path()), &registry()).expect("kept").1, state);
    }

    #[test]
    fn what_is_no_state_of_this_registry_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("scan.json");
        for (text, words) in [
            ("", "is not the state of a scanner"),
            ("{}", "missing field"),
            (r#"{"format":2}"#, "its format is 2, not 1"),
            (r#"{"format":1,"registry":"r.example","round":null,"repositories":{},"more":1}"#, "unknown field"),
            (
                r#"{"format":1,"registry":"other.example","round":null,"repositories":{}}"#,
                "about the registry other.example",
            ),
        ] {
            fs::write(&path, text).expect("written");
            let error = StateFile::open(Some(folder.path()), &registry()).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
    }

    #[test]
    fn two_scanners_do_not_share_a_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_first, _) = StateFile::open(Some(folder.path()), &registry()).expect("alone");
        assert!(matches!(StateFile::open(Some(folder.path()), &registry()), Err(StateError::InUse { .. })));
    }
}
