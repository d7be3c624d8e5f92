//! The trust folder: which key each server has, and the last checkpoint of each log.
//!
//! ```text
//! known_ledgers              lines "server vkey", as in ssh's known_hosts
//! keys/<log>.json            what shows how a log changed its key, if it did
//! checkpoints/<log>.note     the newest checkpoint that was verified
//! forks/<log>-…              both checkpoints of every fork or rollback; those by a replaced key, and what shows the next
//! audits/<log>.state         what the last audit found, to go on from
//! refused/<log>-….json       the last answers that did not verify
//! lock                       held while one of them is changed
//! ```
//!
//! Files are replaced atomically and changed under the lock, so several commands may run at once. Everything in here is
//! public; what matters is that nobody else can write it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::saved;
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::ledger::keys::{Chain, ChainError, Keys};
use crate::ledger::note::{KeyError, Origin, Vkey};
use crate::proto;

/// Most answers that are kept which did not verify,
const MAX_REFUSED: usize = 32;
/// and how long they may be together, in bytes; the last is kept however long it is.
const MAX_REFUSED_LENGTH: u64 = 64 << 20;

/// Why the trust folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
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
    /// A line that is not "server vkey".
    #[error("{}:{line}: {error}; a line is \"server vkey\"", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        error: KeyError,
    },
    /// One origin with several keys.
    #[error(
        "{} pins different keys for {origin}, of which none is known to have followed the other: ask its operator, and remove the wrong line",
        path.display()
    )]
    SeveralKeys {
        /// Which file.
        path: PathBuf,
        /// The log.
        origin: String,
    },
    /// Kept keys that do not follow from the pinned one.
    #[error(
        "the keys kept in {} are not usable: {error}; move the file away to ask the server anew", path.display()
    )]
    Keys {
        /// Which file.
        path: PathBuf,
        /// What is wrong with them.
        error: Box<ChainError>,
    },
    /// A remembered checkpoint by a key that had been replaced before.
    #[error(
        "{error}. It was remembered in {}, and is kept as proof in {}; once the operator has answered, move the first away to begin anew",
        path.display(), kept.display()
    )]
    Retired {
        /// Where it was remembered.
        path: PathBuf,
        /// Whose it is.
        error: CheckpointError,
        /// Where it is kept.
        kept: PathBuf,
    },
    /// A remembered checkpoint that is none.
    #[error(
        "the remembered checkpoint {} is not usable: {error}; move the file away to begin anew, trusting the server",
        path.display()
    )]
    Checkpoint {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: CheckpointError,
    },
}

impl TrustError {
    /// It is about what was signed, not about files.
    pub fn is_verification(&self) -> bool {
        matches!(self, Self::SeveralKeys { .. } | Self::Keys { .. } | Self::Retired { .. })
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct TrustFolder {
    path: PathBuf,
}

/// A checkpoint that was verified before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The signed note.
    pub note: String,
    /// What it says.
    pub checkpoint: Checkpoint,
}

impl TrustFolder {
    /// The folder at a path; it is made when something is to be kept.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where keys are pinned.
    pub fn known_ledgers(&self) -> PathBuf {
        self.path.join("known_ledgers")
    }

    /// The key pinned for a server.
    pub fn key_of_server(&self, server: &str) -> Result<Option<Vkey>, TrustError> {
        Ok(self.pins()?.into_iter().find(|(pinned, _)| pinned == server).map(|(_, vkey)| vkey))
    }

    /// The key pinned for a log, under whatever server.
    pub fn key_of_origin(&self, origin: &str) -> Result<Option<Vkey>, TrustError> {
        let mut keys = self.pins()?.into_iter().map(|(_, vkey)| vkey).filter(|vkey| vkey.origin().as_str() == origin);
        let Some(first) = keys.next() else { return Ok(None) };
        if keys.any(|other| other != first) {
            return Err(TrustError::SeveralKeys { path: self.known_ledgers(), origin: origin.to_owned() });
        }
        Ok(Some(first))
    }

    /// Pins a key for a server, unless one is pinned already. Returns the pinned one, and whether it is new.
    pub fn pin(&self, server: &str, vkey: &Vkey) -> Result<(Vkey, bool), TrustError> {
        let _lock = self.lock()?;
        if let Some(pinned) = self.key_of_server(server)? {
            return Ok((pinned, false));
        }
        // One key at a time, wherever it is served from.
        if self.key_of_origin(vkey.origin().as_str())?.is_some_and(|known| known != *vkey) {
            return Err(TrustError::SeveralKeys { path: self.known_ledgers(), origin: vkey.origin().to_string() });
        }
        let path = self.known_ledgers();
        let mut text = read(&path)?.unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{server} {vkey}\n"));
        write(&path, &text)?;
        Ok((vkey.clone(), true))
    }

    /// The keys of the log of a trusted key, as far as it was followed, and what shows them.
    pub fn keys(&self, trusted: &Vkey) -> Result<Option<(Chain, proto::Evidence)>, TrustError> {
        let path = self.keys_path(trusted.origin());
        let Some(text) = read(&path)? else { return Ok(None) };
        let evidence = saved::keys_from_text(&text).ok_or(ChainError::NoChange(0));
        let followed = evidence.and_then(|evidence| Ok((Chain::follow(&evidence, trusted)?, evidence)));
        followed.map(Some).map_err(|error| TrustError::Keys { path, error: Box::new(error) })
    }

    /// Keeps the keys of a log, and pins the newest of them wherever an earlier one was.
    pub fn keep_keys(&self, keys: &Chain, evidence: &proto::Evidence) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        // Another command may have come further in the meantime.
        if let Ok(Some((kept, _))) = self.keys(keys.first())
            && kept.continues(keys)
        {
            return Ok(());
        }
        write(&self.keys_path(keys.first().origin()), &saved::keys_to_text(evidence))?;
        let path = self.known_ledgers();
        let Some(before) = read(&path)? else { return Ok(()) };
        let (earlier, newest) = (keys.all().map(Vkey::to_string).collect::<Vec<_>>(), keys.newest().to_string());
        let line = |line: &str| match line.split_once(' ') {
            Some((server, vkey)) if earlier.iter().any(|known| known == vkey.trim()) => format!("{server} {newest}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = before.lines().map(line).collect();
        if text == before { Ok(()) } else { write(&path, &text) }
    }

    /// The last checkpoint of a log that was verified.
    pub fn checkpoint(&self, keys: &impl Keys) -> Result<Option<Remembered>, TrustError> {
        let path = self.checkpoint_path(keys.first().origin());
        let Some(note) = read(&path)? else { return Ok(None) };
        match Checkpoint::open(&note, keys) {
            Ok(checkpoint) => Ok(Some(Remembered { note, checkpoint })),
            Err(error @ CheckpointError::Retired { .. }) => {
                let kept = self.keep_proof(keys.first().origin(), "retired", "note", &note)?;
                Err(TrustError::Retired { path, error, kept })
            }
            Err(error) => Err(TrustError::Checkpoint { path, error }),
        }
    }

    /// Replaces the remembered checkpoint by a newer one, if it is still `old`. False: somebody else was faster, and the new
    /// one must be compared with what they left.
    pub fn remember(&self, keys: &impl Keys, old: Option<&Remembered>, note: &str) -> Result<bool, TrustError> {
        let _lock = self.lock()?;
        if self.checkpoint(keys)?.as_ref() != old {
            return Ok(false);
        }
        write(&self.checkpoint_path(keys.first().origin()), note)?;
        Ok(true)
    }

    /// Keeps two checkpoints that contradict each other.
    pub fn keep_fork(&self, origin: &Origin, remembered: &Remembered, seen: &str) -> Result<[PathBuf; 2], TrustError> {
        let _lock = self.lock()?;
        let keep = |kind: &str, note: &str| self.keep_proof(origin, kind, "note", note);
        Ok([keep("remembered", &remembered.note)?, keep("seen", seen)?])
    }

    /// Keeps what shows the keys of a log, beside a checkpoint that none of them could have signed when they did.
    pub fn keep_keys_as_proof(&self, origin: &Origin, evidence: &proto::Evidence) -> Result<PathBuf, TrustError> {
        self.keep_proof(origin, "keys", "json", &saved::keys_to_text(evidence))
    }

    /// Named by content: the same fork seen again needs no second copy, another one gets its own. So it needs no lock either.
    fn keep_proof(&self, origin: &Origin, kind: &str, extension: &str, text: &str) -> Result<PathBuf, TrustError> {
        let name = format!("{}-{kind}-{}.{extension}", file_name(origin), short_hash(text));
        let path = self.path.join("forks").join(name);
        write(&path, text).map(|()| path)
    }

    /// Where the state of the last audit of a log is kept.
    pub fn audit_state(&self, origin: &Origin) -> PathBuf {
        self.path.join("audits").join(format!("{}.state", file_name(origin)))
    }

    /// Keeps evidence that was refused, as a file of evidence, and lets go of what was kept long before: a server that lies
    /// to every question must not fill the disk.
    pub fn keep_refused(&self, origin: &Origin, text: &str) -> Result<PathBuf, TrustError> {
        let _lock = self.lock()?;
        let folder = self.path.join("refused");
        let path = folder.join(format!("{}-{}.json", file_name(origin), short_hash(text)));
        write(&path, text)?;
        prune(&folder, &path).map_err(|source| TrustError::Io { what: "tidy up", path: folder, source })?;
        Ok(path)
    }

    fn pins(&self) -> Result<Vec<(String, Vkey)>, TrustError> {
        let path = self.known_ledgers();
        let text = read(&path)?.unwrap_or_default();
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let parse = |(line, text): (usize, &str)| {
            let (server, vkey) = text.split_once(' ').unwrap_or((text, ""));
            match vkey.trim().parse() {
                Ok(vkey) => Ok((server.to_owned(), vkey)),
                Err(error) => Err(TrustError::Line { path: path.clone(), line, error }),
            }
        };
        lines.map(parse).collect()
    }

    fn keys_path(&self, origin: &Origin) -> PathBuf {
        self.path.join("keys").join(format!("{}.json", file_name(origin)))
    }

    fn checkpoint_path(&self, origin: &Origin) -> PathBuf {
        self.path.join("checkpoints").join(format!("{}.note", file_name(origin)))
    }

    /// Held until the returned file is dropped.
    fn lock(&self) -> Result<File, TrustError> {
        let path = self.path.join("lock");
        let wrong = |what| {
            let path = path.clone();
            move |source| TrustError::Io { what, path, source }
        };
        fs::create_dir_all(&self.path).map_err(wrong("make the folder of"))?;
        let lock = File::options().create(true).append(true).open(&path).map_err(wrong("open"))?;
        lock.lock().map_err(wrong("lock"))?;
        Ok(lock)
    }
}

/// Removes the oldest files of a folder, but for `newest`, until there are no more, and no larger, than are kept.
fn prune(folder: &Path, newest: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let about = file.metadata()?;
        if about.is_file() {
            files.push((file.path() == newest, about.modified()?, about.len(), file.path()));
        }
    }
    files.sort();
    let (mut count, mut length) = (files.len(), files.iter().map(|(_, _, length, _)| length).sum::<u64>());
    for (is_newest, _, its_length, path) in files {
        if is_newest || (count <= MAX_REFUSED && length <= MAX_REFUSED_LENGTH) {
            break;
        }
        fs::remove_file(path)?;
        (count, length) = (count - 1, length - its_length);
    }
    Ok(())
}

/// A file name for a log: readable, and different for different origins.
fn file_name(origin: &Origin) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let readable: String = origin.as_str().chars().take(80).map(plain).collect();
    format!("{}-{}", readable.trim_start_matches('.'), short_hash(origin.as_str()))
}

fn short_hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..8])
}

fn read(path: &Path) -> Result<Option<String>, TrustError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TrustError::Io { what: "read", path: path.to_owned(), source }),
    }
}

/// Replaces a file: whoever reads it sees the old content or the new one, also after a crash.
pub(super) fn write(path: &Path, text: &str) -> Result<(), TrustError> {
    replace(path, |file| file.write_all(text.as_bytes()))
}

/// The same, for content that is written bit by bit.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), TrustError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let replace = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.{}", std::process::id()));
        let mut file = File::create(&temporary)?;
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    replace().map_err(|source| TrustError::Io { what: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::keys::KeyChange;
    use crate::ledger::note::Skey;

    fn skey(origin: &str, seed: u8) -> Skey {
        Skey::from_seed(origin.parse().expect("an origin"), &[seed; 32])
    }

    fn folder() -> (tempfile::TempDir, TrustFolder) {
        let dir = tempfile::tempdir().expect("a folder");
        let trust = TrustFolder::new(dir.path().join("a/b"));
        (dir, trust)
    }

    #[test]
    fn the_first_key_of_a_server_stays_pinned() {
        let (_dir, trust) = folder();
        let (one, other) = (skey("one.example", 1).vkey(), skey("other.example", 2).vkey());
        assert_eq!(trust.key_of_server("http://a:1").expect("empty"), None);
        assert_eq!(trust.pin("http://a:1", &one).expect("pins"), (one.clone(), true));
        assert_eq!(trust.pin("http://a:1", &other).expect("keeps"), (one.clone(), false));
        assert_eq!(trust.pin("http://b:1", &other).expect("pins"), (other.clone(), true));
        assert_eq!(trust.key_of_origin("one.example").expect("known"), Some(one));
        assert_eq!(trust.key_of_origin("other.example").expect("known"), Some(other));
        assert_eq!(trust.key_of_origin("none.example").expect("unknown"), None);
    }

    #[test]
    fn a_log_has_one_key_wherever_it_is_served() {
        let (_dir, trust) = folder();
        trust.pin("http://a:1", &skey("one.example", 1).vkey()).expect("pins");
        let impostor = trust.pin("http://b:1", &skey("one.example", 2).vkey());
        assert!(matches!(impostor, Err(TrustError::SeveralKeys { .. })));
        assert_eq!(trust.key_of_server("http://b:1").expect("readable"), None);
    }

    #[test]
    fn a_broken_line_is_named() {
        let (_dir, trust) = folder();
        let vkey = skey("one.example", 1).vkey();
        trust.pin("http://a:1", &vkey).expect("pins");
        fs::write(trust.known_ledgers(), format!("# by hand\n\nhttp://a:1 {vkey}\nhttp://b:1 nonsense\n"))
            .expect("write");
        assert!(matches!(trust.key_of_server("http://a:1"), Err(TrustError::Line { line: 4, .. })));
    }

    #[test]
    fn a_checkpoint_is_only_replaced_if_it_is_the_one_compared_with() {
        let (_dir, trust) = folder();
        let skey = skey("one.example/tags", 1);
        let note = |size| Checkpoint { size, root: [1; 32] }.sign(&skey);
        assert_eq!(trust.checkpoint(&skey.vkey()).expect("empty"), None);
        assert!(trust.remember(&skey.vkey(), None, &note(1)).expect("first"));
        assert!(!trust.remember(&skey.vkey(), None, &note(2)).expect("somebody was faster"));
        let old = trust.checkpoint(&skey.vkey()).expect("kept");
        assert_eq!(old.as_ref().map(|old| old.checkpoint.size), Some(1));
        assert!(trust.remember(&skey.vkey(), old.as_ref(), &note(2)).expect("replaced"));
        assert_eq!(trust.checkpoint(&skey.vkey()).expect("kept").map(|kept| kept.note), Some(note(2)));
    }

    #[test]
    fn a_changed_checkpoint_is_refused_by_name() {
        let (_dir, trust) = folder();
        let skey = skey("one.example", 1);
        let note = Checkpoint { size: 7, root: [1; 32] }.sign(&skey);
        trust.remember(&skey.vkey(), None, &note.replace("\n7\n", "\n6\n")).expect("written");
        assert!(matches!(trust.checkpoint(&skey.vkey()), Err(TrustError::Checkpoint { .. })));
    }

    #[test]
    fn a_remembered_checkpoint_that_only_a_replaced_key_signed_is_a_proof_and_kept() {
        let (_dir, trust) = folder();
        let (old, next) = (skey("one.example", 1), skey("one.example", 2));
        let change = KeyChange::parse(&KeyChange::to_next(&old.vkey(), &next)).expect("consented to");
        let keys = Chain::of(old.vkey()).after(&change, 3).expect("it fits");
        let note = |size, skey: &Skey| Checkpoint { size, root: [1; 32] }.sign(skey);
        // Up to the handover it is the old key's, and good.
        trust.remember(&old.vkey(), None, &note(5, &old)).expect("written");
        let remembered = trust.checkpoint(&keys).expect("its own").expect("there");
        trust.remember(&old.vkey(), Some(&remembered), &note(7, &old)).expect("written, as nothing else is known yet");
        let refused = trust.checkpoint(&keys).expect_err("the next key was in force by then");
        assert!(refused.is_verification(), "{refused}");
        let TrustError::Retired { kept, .. } = &refused else { panic!("{refused:?}") };
        assert!(kept.starts_with(trust.path.join("forks")));
        assert_eq!(fs::read_to_string(kept).expect("there"), note(7, &old));
        // Also under the lock.
        assert!(trust.remember(&keys, Some(&remembered), &note(9, &next)).is_err());
    }

    #[test]
    fn both_checkpoints_of_a_fork_are_kept() {
        let (_dir, trust) = folder();
        let skey = skey("one.example", 1);
        let note = |root| Checkpoint { size: 7, root: [root; 32] }.sign(&skey);
        let remembered = Remembered { note: note(1), checkpoint: Checkpoint { size: 7, root: [1; 32] } };
        let kept = trust.keep_fork(skey.origin(), &remembered, &note(2)).expect("kept");
        assert_eq!(kept.map(|path| fs::read_to_string(path).expect("there")), [note(1), note(2)]);
    }

    #[test]
    fn of_what_was_refused_the_last_is_kept_and_not_without_end() {
        let (_dir, trust) = folder();
        let origin = skey("one.example", 1).origin().clone();
        let kept = || fs::read_dir(trust.path.join("refused")).expect("a folder").count();
        let first = trust.keep_refused(&origin, "answer 0").expect("kept");
        for number in 1..100 {
            let path = trust.keep_refused(&origin, &format!("answer {number}")).expect("kept");
            assert_eq!(fs::read_to_string(path).expect("there"), format!("answer {number}"));
            assert_eq!(kept(), MAX_REFUSED.min(number + 1));
        }
        assert!(!first.exists(), "the oldest goes first");
        let long = |digit: &str| digit.repeat(usize::try_from(MAX_REFUSED_LENGTH).expect("small") / 2 + 1);
        trust.keep_refused(&origin, &long("a")).expect("kept");
        let last = trust.keep_refused(&origin, &long("b")).expect("kept");
        assert!(last.exists());
        assert_eq!(kept(), 1, "two of them are too long together, and what is older goes before");
    }

    #[test]
    fn origins_that_look_alike_get_files_of_their_own() {
        let names: Vec<String> =
            ["a/b", "a_b", "a\u{e9}b", ".a"].iter().map(|o| file_name(&o.parse().expect("an origin"))).collect();
        assert!(names.iter().all(|name| !name.contains('/') && !name.starts_with('.')));
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len());
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let (_dir, trust) = folder();
        std::thread::scope(|scope| {
            for number in 0..8u8 {
                let trust = trust.clone();
                scope.spawn(move || {
                    let vkey = skey(&format!("log{number}.example"), number).vkey();
                    trust.pin(&format!("http://a:{number}"), &vkey).expect("pins");
                });
            }
        });
        assert_eq!(trust.pins().expect("readable").len(), 8);
    }
}
