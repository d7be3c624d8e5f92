//! What is under way, on disk: so that a gateway that died finds what it has to settle.
//!
//! A line when a change begins, with the intent as it is (to be) recorded, one when it is refused because the ledger can't be
//! reached, and one when it is known, and recorded, what became of it:
//!
//! ```text
//! open <id> <the intent's statement, base64>
//! refused <id>
//! done <id>
//! ```
//!
//! The line is written before the intent is recorded. After a crash the intent is recorded once more: its event id makes
//! that the same entry, and so tells which. Lines go to the operating system, not through to the disk: what a power failure
//! takes from the journal is still held in the ledger, and whoever next wants the tag settles it. Only what passes without
//! the ledger is brought to the disk first, as nobody else knows of it. The file is written anew beside itself and takes
//! its own place, so that there is always a whole one.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Most changes under way or still to be settled. Past that nothing new is begun.
pub(super) const MAX_OPEN: usize = 10_000;
/// How many of them may be refused ones, which wait only to be recorded, before the ledger is asked about no more that may be: who is
/// refused all the time must not keep others from changing anything. Those under way by then come on top.
const MAX_REFUSED: usize = 1_000;
/// Its owner's alone.
const MODE: u32 = 0o600;
/// The file is written anew once it has this many lines of what is done.
const MAX_DONE: usize = 10_000;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("cannot use the journal {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// Anybody could put another file in its place.
    #[error("the journal's folder {folder} may be written by anybody (mode {mode:04o}); run: chmod o-w {folder}")]
    LooseFolder {
        /// Which.
        folder: String,
        /// Its mode.
        mode: u32,
    },
    /// Another gateway has it.
    #[error("the journal {path} is in use by another gateway; give each its own with --journal")]
    InUse {
        /// Which.
        path: String,
    },
}

/// The journal; without a file it lasts as long as the process.
pub(super) struct Journal(Mutex<Inner>);

struct Inner {
    path: PathBuf,
    file: Option<File>,
    open: BTreeMap<String, Left>,
    /// How many of them were refused.
    refused: usize,
    done: usize,
    append: Append,
    /// The last line may be half a one: nothing is appended to it.
    is_torn: bool,
}

/// What is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The intent, as it is (to be) recorded.
    pub statement: Vec<u8>,
    /// Nothing was sent to the registry, and nothing will be.
    pub is_refused: bool,
}

/// How a line is written.
type Append = fn(&mut File, &[u8]) -> io::Result<()>;

impl Journal {
    /// Opens the file, and returns what a gateway before left open in it.
    pub(super) fn open(path: Option<&Path>) -> Result<(Self, BTreeMap<String, Left>), JournalError> {
        let Some(path) = path else {
            return Ok((Self(Mutex::new(Inner::new(PathBuf::new(), None, BTreeMap::new()))), BTreeMap::new()));
        };
        let shown = || PathBuf::from(path).display().to_string();
        let refuse = |error: io::Error| JournalError::File { path: shown(), reason: error.to_string() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refuse)?;
        let mode = std::fs::metadata(folder).map_err(refuse)?.permissions().mode() & 0o7777;
        if mode & 0o002 != 0 {
            return Err(JournalError::LooseFolder { folder: folder.display().to_string(), mode });
        }
        let mut file = private().open(path).map_err(refuse)?;
        file.try_lock().map_err(|_| JournalError::InUse { path: shown() })?;
        // Written anew between opening and locking, it is a file without a name by now.
        let is_named = |file: &File| Ok(file.metadata()?.ino() == std::fs::metadata(path)?.ino());
        if !is_named(&file).map_err(refuse)? {
            return Err(JournalError::InUse { path: shown() });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(refuse)?;
        let open = read(&text);
        let mut inner = Inner::new(path.to_owned(), Some(file), open.clone());
        inner.rewrite().map_err(refuse)?;
        Ok((Self(Mutex::new(inner)), open))
    }

    /// Notes what is about to begin; false if too much is open.
    pub(super) fn begin(&self, id: &str, statement: &[u8]) -> io::Result<bool> {
        let mut inner = self.0.lock().expect("nobody panics while holding it");
        if inner.open.len() >= MAX_OPEN {
            return Ok(false);
        }
        inner.write(&format!("open {id} {}\n", BASE64.encode(statement)))?;
        inner.open.insert(id.to_owned(), Left { statement: statement.to_vec(), is_refused: false });
        Ok(true)
    }

    /// Whether there is room for one more that was refused.
    pub(super) fn has_room_to_refuse(&self) -> bool {
        self.0.lock().expect("nobody panics while holding it").refused < MAX_REFUSED
    }

    /// Notes that nothing comes of what was begun, and that this is still to be recorded.
    pub(super) fn refuse(&self, id: &str) {
        let mut inner = self.0.lock().expect("nobody panics while holding it");
        let Some(left) = inner.open.get_mut(id).filter(|left| !left.is_refused) else { return };
        left.is_refused = true;
        inner.refused += 1;
        if let Err(error) = inner.write(&format!("refused {id}\n")) {
            // After the next start it counts for one that may have been sent.
            tracing::warn!(%error, "cannot write the journal");
        }
    }

    /// Notes that it is known, and recorded, what became of it.
    pub(super) fn end(&self, id: &str) {
        let mut inner = self.0.lock().expect("nobody panics while holding it");
        let Some(ended) = inner.open.remove(id) else { return };
        inner.refused -= usize::from(ended.is_refused);
        inner.done += 1;
        let written = if inner.done >= MAX_DONE { inner.rewrite() } else { inner.write(&format!("done {id}\n")) };
        if let Err(error) = written {
            // It is settled once more after the next start: the same entry.
            tracing::warn!(%error, "cannot write the journal");
        }
    }

    /// Brings to the disk what was noted.
    pub(super) fn sync(&self) -> io::Result<()> {
        let inner = self.0.lock().expect("nobody panics while holding it");
        inner.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.0.lock().expect("nobody panics while holding it").open.len()
    }
}

impl Inner {
    fn new(path: PathBuf, file: Option<File>, open: BTreeMap<String, Left>) -> Self {
        let refused = open.values().filter(|left| left.is_refused).count();
        Self { path, file, open, refused, done: 0, append: |file, line| file.write_all(line), is_torn: false }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.is_torn {
            self.rewrite()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = (self.append)(file, line.as_bytes());
        self.is_torn = written.is_err();
        written
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.done = 0;
        if self.file.is_none() {
            return Ok(());
        }
        let line = |(id, left): (&String, &Left)| {
            let refused = if left.is_refused { format!("refused {id}\n") } else { String::new() };
            format!("open {id} {}\n{refused}", BASE64.encode(&left.statement))
        };
        let text: String = self.open.iter().map(line).collect();
        let beside = beside(&self.path);
        let mut file = private().open(&beside)?;
        // Locked before it has the name, so that it never is another gateway's to take.
        file.try_lock().map_err(|error| io::Error::other(error.to_string()))?;
        file.set_len(0)?;
        // Also where it lay there already.
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&beside, &self.path)?;
        (self.file, self.is_torn) = (Some(file), false);
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// Who pushed what, and when, is nobody else's to read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(MODE);
    options
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// What the text of a journal leaves open. A line that a crash tore is none.
pub fn read(text: &str) -> BTreeMap<String, Left> {
    let mut open = BTreeMap::<String, Left>::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["open", id, statement] => {
                if let Ok(statement) = BASE64.decode(statement) {
                    open.insert((*id).to_owned(), Left { statement, is_refused: false });
                }
            }
            ["refused", id] => {
                if let Some(left) = open.get_mut(*id) {
                    left.is_refused = true;
                }
            }
            ["done", id] => {
                open.remove(*id);
            }
            _ => tracing::warn!("the journal has a line that is none; it is left out"),
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_not_ended_is_found_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let (journal, open) = Journal::open(Some(&path)).expect("new");
        assert!(open.is_empty());
        assert!(journal.begin("a", b"one").expect("written"));
        assert!(journal.begin("b", b"two").expect("written"));
        journal.end("a");
        assert!(matches!(Journal::open(Some(&path)), Err(JournalError::InUse { .. })));
        drop(journal);
        // A line is torn.
        std::fs::write(&path, std::fs::read_to_string(&path).expect("text") + "open c dGh").expect("written");
        let (journal, open) = Journal::open(Some(&path)).expect("there");
        assert_eq!(open, BTreeMap::from([("b".to_owned(), Left { statement: b"two".to_vec(), is_refused: false })]));
        assert_eq!(journal.count(), 1);
        journal.end("b");
        drop(journal);
        assert!(Journal::open(Some(&path)).expect("there").1.is_empty());
    }

    #[test]
    fn after_a_line_that_did_not_fit_the_next_one_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let (journal, _) = Journal::open(Some(&path)).expect("new");
        let append = |cut: Append| journal.0.lock().expect("not poisoned").append = cut;
        let full: Append = |file, line| {
            file.write_all(&line[..line.len() / 2])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert!(journal.begin("a", b"one").expect("written"));
        append(full);
        journal.begin("b", b"two").expect_err("the disk is full");
        journal.begin("c", b"three").expect_err("still");
        append(|file, line| file.write_all(line));
        assert!(journal.begin("d", b"four").expect("there is room again"));
        // The same for the line that ends one.
        append(full);
        journal.end("a");
        append(|file, line| file.write_all(line));
        assert!(journal.begin("e", b"five").expect("written"));
        drop(journal);
        let left =
            |id: &str, statement: &[u8]| (id.to_owned(), Left { statement: statement.to_vec(), is_refused: false });
        let expected = BTreeMap::from([left("d", b"four"), left("e", b"five")]);
        assert_eq!(Journal::open(Some(&path)).expect("there").1, expected);
    }

    #[test]
    fn it_is_written_anew_beside_itself_and_stays_locked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        std::fs::write(&path, "open a b25l\n").expect("written");
        let before = File::open(&path).expect("there");
        let (journal, open) = Journal::open(Some(&path)).expect("there");
        assert_eq!(open.len(), 1);
        // Whoever has the old file open still reads all of it: it was never cut short.
        assert_eq!(std::io::read_to_string(before).expect("text"), "open a b25l\n");
        assert!(matches!(Journal::open(Some(&path)), Err(JournalError::InUse { .. })));
        journal.end("a");
        journal.sync().expect("on the disk");
        drop(journal);
        // A crash in between leaves a half of it beside, which counts for nothing.
        std::fs::write(beside(&path), "open b dH").expect("written");
        assert!(Journal::open(Some(&path)).expect("there").1.is_empty());
        assert!(!beside(&path).exists());
    }

    #[test]
    fn it_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("new");
        let path = inner.join("journal");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        drop(Journal::open(Some(&path)).expect("new"));
        assert_eq!((mode(&path), mode(&inner)), (0o600, 0o700));
        // One from before, and what a crash left beside it.
        for file in [&path, &beside(&path)] {
            std::fs::write(file, "").expect("written");
            std::fs::set_permissions(file, Permissions::from_mode(0o644)).expect("set");
        }
        drop(Journal::open(Some(&path)).expect("there"));
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&inner, Permissions::from_mode(0o757)).expect("set");
        let error = Journal::open(Some(&path)).map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains("chmod o-w"), "{error}");
    }

    #[test]
    fn a_journal_is_bounded() {
        let (journal, _) = Journal::open(None).expect("in memory");
        for number in 0..MAX_OPEN {
            assert!(journal.begin(&number.to_string(), b"x").expect("written"));
        }
        assert!(!journal.begin("more", b"x").expect("written"));
        journal.end("0");
        assert!(journal.begin("more", b"x").expect("written"));
    }

    #[test]
    fn what_was_refused_has_room_for_a_part_of_it_and_stays_beyond_that() {
        let (journal, _) = Journal::open(None).expect("in memory");
        let refuse = |number: usize| {
            let id = number.to_string();
            assert!(journal.begin(&id, b"x").expect("written"));
            for _ in 0..2 {
                journal.refuse(&id);
            }
        };
        for number in 0..MAX_REFUSED {
            assert!(journal.has_room_to_refuse(), "{number}");
            refuse(number);
        }
        assert!(!journal.has_room_to_refuse());
        refuse(MAX_REFUSED);
        assert_eq!(journal.count(), MAX_REFUSED + 1, "it was under way");
        journal.end("0");
        assert!(!journal.has_room_to_refuse());
        journal.end("1");
        assert!(journal.has_room_to_refuse());
    }

    #[test]
    fn what_was_refused_is_refused_after_a_restart_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let (journal, _) = Journal::open(Some(&path)).expect("new");
        for id in ["sent", "refused", "recorded"] {
            assert!(journal.begin(id, b"x").expect("written"));
        }
        journal.refuse("refused");
        journal.refuse("recorded");
        journal.end("recorded");
        drop(journal);
        // The first start writes it anew.
        for _ in 0..2 {
            let (journal, left) = Journal::open(Some(&path)).expect("there");
            let refused: Vec<_> = left.iter().map(|(id, left)| (id.as_str(), left.is_refused)).collect();
            assert_eq!(refused, [("refused", true), ("sent", false)]);
            assert_eq!(journal.0.lock().expect("not poisoned").refused, 1, "and counts");
        }
    }
}
