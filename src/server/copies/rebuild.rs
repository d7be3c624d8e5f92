//! `tagledgerd rebuild`: a new data directory with everything that follows from the entries of another.
//!
//! For a database whose entries are whole and whose other rows are not. What does not follow from the entries is what others
//! signed: keys are copied, and the newest checkpoint is taken as it was recorded. Where that is damaged, it is signed again,
//! over the same entries, and so with the same signature; signatures of others below it are lost. The result is checked as `fsck` does.
//!
//! The new high-water mark is the newest checkpoint that is known, so what is shorter than that is refused at its start. Where it is not
//! sure that nothing was signed after it, there is none, and somebody has to say what the newest is.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::backup::copy_file;
use super::keys_of;
use super::restore::note_begun;
use crate::engine::check::Tell;
use crate::engine::derive::{Derivation, DeriveError, EXAMINED_AT_ONCE, Sealing, Signers, examined};
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::ledger::keys::{Chain, Keys as _};
use crate::server::data_dir::{Existing, is_there, sync};
use crate::server::fsck::{CareError, Progress, checked};
use crate::server::high_water::HighWater;
use crate::server::keys::{self, PublicKeys, read_private};
use crate::store::rocks::RocksStore;
use crate::store::{Read as _, Table, rows};

/// What is to be rebuilt, and where to.
#[derive(Debug)]
pub struct Rebuild {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where its high-water mark is.
    pub high_water: PathBuf,
    /// The new one, which is made.
    pub into: PathBuf,
}

/// What a rebuild came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Entries in the new database.
    pub size: u64,
    /// What could not be derived, in words.
    pub not_derived: Vec<String>,
    /// The new directory holds everything, by its own check.
    pub is_whole: bool,
}

impl Rebuild {
    /// Rebuilds, checks the result, and says what could not be derived. Returns whether the new ledger is whole.
    pub fn run(self) -> Result<bool, CareError> {
        let progress = Progress::new();
        let done = self.make(&mut |step, done, of| progress.tell(step, done, of));
        progress.end();
        let Rebuilt { size, not_derived, is_whole } = done?;
        println!("{} holds {size} entries, and every row that follows from them", self.into.display());
        not_derived.iter().for_each(|what| println!("not derived: {what}"));
        if is_whole {
            println!(
                "checked: it is whole. Put it into the place of {}, and start the service",
                self.data_dir.display()
            );
        } else {
            println!(
                "it is not sure to reach the newest checkpoint that was signed, so do not serve it as it is: find out which that is, and bring what is missing back with tagledgerd restore --data-dir {} --from COPY --checkpoint FILE",
                self.into.display()
            );
        }
        if self.data_dir.join("db").is_symlink() {
            println!(
                "{} is a link, and the new database is in {}: move it to where it belongs",
                self.data_dir.join("db").display(),
                self.into.join("db").display()
            );
        }
        Ok(is_whole)
    }

    /// The same, silently.
    pub fn make(&self, tell: &mut Tell<'_>) -> Result<Rebuilt, CareError> {
        if is_there(&self.into) {
            return Err(CareError::InTheWay(self.into.display().to_string()));
        }
        let directory = Existing::open(&self.data_dir)?;
        let keys = keys_of(directory.path(), directory.keys(), &[]);
        let notes = tempfile::tempdir().map_err(CareError::io(&std::env::temp_dir()))?;
        let found = RocksStore::open_read_only(&directory.database(), notes.path())?;
        let make = DirBuilder::new().recursive(true).mode(0o700).create(&self.into);
        make.map_err(CareError::io(&self.into))?;
        let mut not_derived = Vec::new();
        let store = RocksStore::create(&self.into.join("db"))?;
        let mut derivation = Derivation::begin(&store, Sealing::Recorded, keys.first())?;
        if let Some(end) = whole_part(&found, &keys, &mut derivation, tell)? {
            not_derived.push(end);
        }
        let derived = Checkpoint { size: derivation.size(), root: derivation.root() };
        let opened = |note: String| opened(note, &keys, derivation.keys());
        let head = rows::head(&found).ok().flatten().and_then(|head| opened(head.checkpoint));
        let newest = self.newest(head.as_ref(), &keys, &opened);
        let is_derived = |note: &String| Checkpoint::open(note, derivation.keys()) == Ok(derived);
        let recorded = head.map(|(note, _)| note).filter(is_derived);
        note_begun(&self.into)?;
        let held = keys::held(&self.data_dir)?;
        for (name, mode) in keys::files(true).chain([("token", 0o600)]) {
            copy_file(&self.data_dir.join(name), &self.into.join(name), mode)?;
        }
        drop(held);
        let mark = HighWater::new(self.into.join("high-water"));
        let newest_unknown = || {
            format!(
                "which checkpoint is the newest that was signed: put the newest that any client, mirror, auditor or witness saw into {}",
                self.into.join("high-water").display()
            )
        };
        match newest {
            Newest::Sure(note) => mark.close(&note)?,
            Newest::AtLeast(note, known) if derived.size < known.size => mark.write(&note)?,
            Newest::AtLeast(note, _) => {
                // Without a head the last entry says nothing: what is there may be too little even for a start.
                if recorded.is_some() {
                    mark.write(&note)?;
                }
                not_derived.push(newest_unknown());
            }
            Newest::Unknown => not_derived.push(newest_unknown()),
        }
        let is_cut = !not_derived.is_empty();
        copy_file(&self.data_dir.join("origin"), &self.into.join("origin"), 0o644)?;
        sync(&self.into)?;
        let note = match recorded {
            Some(note) => Some(note),
            None if is_there(&self.into.join("ledger.key")) => {
                let private = read_private(&self.into, keys.origin())?;
                let in_force = private.iter().find(|skey| skey.vkey() == *derivation.keys().newest());
                if in_force.is_some() {
                    not_derived.push(format!(
                        "signatures of others below the checkpoint over {} entries, if there were any; the ledger's own is the same again",
                        derived.size
                    ));
                }
                in_force.map(|skey| derived.sign(skey))
            }
            None => None,
        };
        let has_head = note.is_some();
        match note {
            Some(note) => derivation.finish(note)?,
            None => not_derived.push(format!(
                "the checkpoint over {} entries: the private key that was in force there ({}) is not in {}",
                derived.size,
                derivation.keys().newest(),
                self.data_dir.display()
            )),
        }
        store.finish().map_err(CareError::Commit)?;
        drop(store);
        if !has_head {
            return Ok(Rebuilt { size: derived.size, not_derived, is_whole: false });
        }
        let new = Existing::open(&self.into)?;
        let is_whole = checked(&new, &mark, &self.into, tell)?.is_whole() && !is_cut;
        Ok(Rebuilt { size: derived.size, not_derived, is_whole })
    }

    /// What is known of the newest checkpoint, from the mark and the head of the database.
    fn newest(
        &self,
        head: Option<&(String, Checkpoint)>,
        keys: &PublicKeys,
        opened: &dyn Fn(String) -> Option<(String, Checkpoint)>,
    ) -> Newest {
        let mark = HighWater::new(self.high_water.clone());
        let marked = mark.read(true).ok().flatten().and_then(opened);
        // Whatever the database ends with: without a mark an older copy can't be told from the newest.
        let Some(marked) = marked else { return Newest::Unknown };
        let (note, known) = match head {
            Some(head) if head.1.size > marked.1.size => head.clone(),
            _ => marked,
        };
        if mark.is_closed_at(&known, keys) { Newest::Sure(note) } else { Newest::AtLeast(note, known) }
    }
}

/// The newest checkpoint that was signed.
enum Newest {
    /// It is this one.
    Sure(String),
    /// It is this one, or one after it.
    AtLeast(String, Checkpoint),
    /// Nothing says.
    Unknown,
}

/// A note by a key of the ledger; not one that is known by then to have been replaced before.
fn opened(note: String, keys: &PublicKeys, derived: &Chain) -> Option<(String, Checkpoint)> {
    let (checkpoint, _) = Checkpoint::open_by(&note, keys.all()).ok()?;
    if let Err(error @ CheckpointError::Retired { .. }) = Checkpoint::open(&note, derived) {
        eprintln!("tagledgerd: left out: a checkpoint: {error}");
        return None;
    }
    Some((note, checkpoint))
}

/// Derives up to the first entry that is not there or does not hold; says which, if there is one.
fn whole_part(
    found: &RocksStore,
    keys: &PublicKeys,
    derivation: &mut Derivation<'_>,
    tell: &mut Tell<'_>,
) -> Result<Option<String>, CareError> {
    let size = rows::head(found).ok().flatten().map(|head| head.size);
    let mut signers = Signers::new(keys.all().cloned());
    let mut due = 0;
    loop {
        let mut chunk = Vec::new();
        while chunk.len() < EXAMINED_AT_ONCE && size.is_none_or(|size| due < size) {
            let Ok(entry) = rows::entry(found, due) else { break };
            chunk.push(entry);
            due += 1;
        }
        let first = due - chunk.len() as u64;
        let is_last = chunk.len() < EXAMINED_AT_ONCE;
        let results = examined(&chunk, first, &mut signers);
        for ((index, bytes), result) in (first..).zip(chunk).zip(results) {
            let from = |what: String| format!("everything from entry {} on: entry {index}: {what}", derivation.size());
            match result {
                Err(unfit) => return Ok(Some(from(unfit.to_string()))),
                Ok(entry) => match derivation.push(bytes, entry) {
                    Ok(()) => {}
                    Err(DeriveError::Unlike { index, what }) => {
                        let from = derivation.size();
                        return Ok(Some(format!("everything from entry {from} on: entry {index}: {what}")));
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
        tell("entries", due, size);
        if is_last {
            // Where no head says how many there are, the last is the one after which there are none.
            let is_missing = match size {
                Some(size) => due < size,
                None => !matches!(found.cursor(Table::Entries, &[]).seek(&due.to_be_bytes()), Ok(None)),
            };
            return Ok(
                is_missing.then(|| format!("everything from entry {} on: entry {due} is missing", derivation.size()))
            );
        }
    }
}
