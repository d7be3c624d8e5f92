//! `tagledgerd restore`: a ledger whose database is too old, or gone, or of another history, made whole from copies.
//!
//! Under its own name a ledger may only go on from the newest checkpoint that it ever signed: less would be a second history. So
//! the entries are put together from the copies and from what is left of the database, up to the newest checkpoint that is
//! known (the high-water mark, those of the copies), and must have exactly its root. That it is the newest of all must be sure:
//! the ledger was stopped in order at it, or somebody says so (`--checkpoint`). The new database takes the place of the old one,
//! which stays beside it.
//!
//! What a crash may leave is refused at the start, and restored by the same command: first the mark is what the new database
//! will reach, and only then does that take its place.
//!
//! Where the entries are nowhere to be had, their loss can't be hidden: what is left goes on as another log, under a new origin and a
//! new key. Each entry is signed anew, with the same content, time and place.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backup::copy_file;
use super::{CHECKPOINT, Copy, Known, derive, in_force, keys_of, opened, without_retired};
use crate::engine::check::Tell;
use crate::engine::derive::{Derivation, Sealing};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::Origin;
use crate::server::data_dir::{DataDir, Existing, is_there, lock, sync, write_synced};
use crate::server::fsck::{CareError, Progress, room};
use crate::server::high_water::{HighWater, HighWaterError};
use crate::server::keys::{self, PublicKeys};
use crate::store::rocks::RocksStore;

/// What is to be restored, and from what.
#[derive(Debug)]
pub struct Restore {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the high-water mark is.
    pub high_water: PathBuf,
    /// Copies: folders and addresses. What is left of the database is one, too.
    pub from: Vec<String>,
    /// The newest checkpoint that anybody knows, where the high-water mark may be behind, or is lost.
    pub checkpoint: Option<PathBuf>,
}

/// What is left is to go on as another log.
#[derive(Debug)]
pub struct Anew {
    /// Its name.
    pub origin: Origin,
    /// Its data directory, which is made.
    pub into: PathBuf,
}

impl Restore {
    /// Restores, and says what was done.
    pub fn run(self) -> Result<(), CareError> {
        let progress = Progress::new();
        let done = self.make(&mut |step, done, of| progress.tell(step, done, of));
        progress.end();
        println!("{}", done?);
        Ok(())
    }

    /// Goes on as another log, and says what that means.
    pub fn run_anew(self, anew: &Anew) -> Result<(), CareError> {
        let progress = Progress::new();
        let done = self.make_anew(anew, &mut |step, done, of| progress.tell(step, done, of));
        progress.end();
        println!("{}", done?);
        Ok(())
    }

    /// Restores under the same name; what was done, in words.
    pub fn make(&self, tell: &mut Tell<'_>) -> Result<String, CareError> {
        let directory = self.directory()?;
        let keys = &keys_of(directory.path(), directory.keys(), &self.from);
        keys.demand_private(directory.path())?;
        let database = real_place(&directory.database())?;
        let copies = self.copies(&database, keys)?;
        let mut known = self.marks(keys)?;
        known.extend(copies.iter().flat_map(recorded));
        known.retain(|(.., known)| known.size > 0);
        let known = without_retired(known, &copies, keys)?;
        let newest = known.iter().max_by_key(|(.., known)| known.size);
        let (by, _, target) = newest.ok_or(CareError::NoCheckpoint)?.clone();
        let size = target.size;
        for copy in &copies {
            if copy.has_entry(size, keys)? {
                return Err(CareError::RecordedAfter { copy: copy.name().to_owned(), by, size });
            }
        }
        let reached = |copy: &Copy| known.iter().any(|(by, _, known)| by == copy.name() && *known == target);
        if copies.last().is_some_and(|copy| copy.name() == database.display().to_string() && reached(copy)) {
            return Ok(format!(
                "nothing to restore: {} ends at {} entries with the root {}, the newest checkpoint known ({by}). Is it damaged otherwise? tagledgerd fsck tells, and tagledgerd rebuild makes a new one",
                database.display(),
                target.size,
                hex::encode(target.root)
            ));
        }
        let mark = HighWater::new(self.high_water.clone());
        // One that somebody gives says that there is none after it, and not that any other is the newest.
        let given = self.checkpoint.as_ref().map(|path| path.display().to_string());
        let is_said = known.iter().any(|(by, _, known)| Some(by) == given.as_ref() && *known == target);
        if !is_said && !mark.is_closed_at(&target, keys) {
            return Err(CareError::MayBeBehind { by, size });
        }
        // Beside the database, which may be on another disk: what is made there is only renamed.
        let room = room(database.parent().unwrap_or(directory.path()))?;
        let made = room.path().join("db");
        let store = RocksStore::create(&made)?;
        let mut derivation = Derivation::begin(&store, Sealing::Recorded, keys.first())?;
        let due: Vec<_> = known.iter().map(|(by, _, known)| (by.clone(), *known)).collect();
        derive(&copies, keys, &target, &due, &mut derivation, tell)?;
        let note = in_force(&known, &target, derivation.keys())?;
        derivation.finish(note.clone())?;
        store.finish().map_err(CareError::Commit)?;
        drop((store, copies));
        note_begun(directory.path())?;
        mark.close(&note)?;
        let kept = take_its_place(&made, &database)?;
        let kept = kept.map_or(String::new(), |kept| format!(" What was there before is in {}.", kept.display()));
        Ok(format!(
            "{} holds {} entries with the root {}, as the ledger signed them ({by}).{kept} Start the service: it goes on from there",
            database.display(),
            target.size,
            hex::encode(target.root)
        ))
    }

    /// Goes on as another log; what that means, in words.
    pub fn make_anew(&self, anew: &Anew, tell: &mut Tell<'_>) -> Result<String, CareError> {
        let directory = Existing::open(&self.data_dir)?;
        let keys = &keys_of(directory.path(), directory.keys(), &self.from);
        if &anew.origin == keys.origin() {
            return Err(CareError::SameOrigin(anew.origin.to_string()));
        }
        if is_there(&anew.into) {
            return Err(CareError::InTheWay(anew.into.display().to_string()));
        }
        let copies = self.copies(&directory.database(), keys)?;
        let known = without_retired(copies.iter().flat_map(recorded).collect(), &copies, keys)?;
        let newest = known.iter().max_by_key(|(.., known)| known.size);
        let target = newest.ok_or(CareError::NoCheckpoint)?.2;
        let new = DataDir::open(&anew.into, Some(&anew.origin))?;
        let skey = Arc::new(new.take_key());
        let database = new.database();
        let store = RocksStore::create(&database)?;
        let mut derivation = Derivation::begin(&store, Sealing::Anew(&skey), keys.first())?;
        derive(&copies, keys, &target, &[], &mut derivation, tell)?;
        in_force(&known, &target, derivation.keys())?;
        let checkpoint = Checkpoint { size: derivation.size(), root: derivation.root() };
        let note = checkpoint.sign(&skey);
        derivation.finish(note.clone())?;
        store.finish().map_err(CareError::Commit)?;
        // Principals are in the log: who could write before, can again, and with the same tokens.
        copy_file(&self.data_dir.join("token"), &anew.into.join("token"), 0o600)?;
        HighWater::new(new.high_water()).close(&note)?;
        new.note_begun()?;
        sync(&anew.into)?;
        Ok(format!(
            "{} is a new ledger, {}, with the {} entries that were left of {}, each signed anew.\n\
             - Clients must pin its key: {}\n\
             - Receipts, evidence and checkpoints of {} stay what they are, and prove nothing about the new log; nor the other way round.\n\
             - What {} recorded after that is not in it. Tell its users from when on, and keep {} as it is: it explains.\n\
             - Principals, policy, bindings, histories and event ids go on as they were, with the same tokens.",
            anew.into.display(),
            anew.origin,
            target.size,
            keys.origin(),
            skey.vkey(),
            keys.origin(),
            keys.origin(),
            self.data_dir.display(),
        ))
    }

    /// The data directory, locked. One that is new, or lost, gets its keys from the copy that came furthest.
    fn directory(&self) -> Result<Existing, CareError> {
        if is_there(&self.data_dir.join("origin")) {
            return Ok(Existing::open(&self.data_dir)?);
        }
        let came_to = |folder: &&Path| {
            let keys = PublicKeys::read(folder).ok().filter(|_| is_there(&folder.join("ledger.key")));
            let size = |keys: &PublicKeys| {
                let note = fs::read_to_string(folder.join(CHECKPOINT)).ok()?;
                Checkpoint::open_by(&note, keys.all()).ok().map(|(checkpoint, _)| checkpoint.size)
            };
            keys.map(|keys| (keys.changes(), size(&keys)))
        };
        let folders = self.from.iter().map(Path::new).filter(|folder| came_to(folder).is_some());
        let Some(folder) = folders.max_by_key(came_to) else {
            return Err(CareError::NoKeys(self.data_dir.display().to_string()));
        };
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data_dir);
        make.map_err(CareError::io(&self.data_dir))?;
        let lock = lock(&self.data_dir)?;
        // Before the keys: with them, and without this, a server would begin a second log.
        note_begun(&self.data_dir)?;
        for (name, mode) in keys::files(true).chain([("token", 0o600), ("origin", 0o644)]) {
            copy_file(&folder.join(name), &self.data_dir.join(name), mode)?;
        }
        sync(&self.data_dir)?;
        Ok(Existing::locked(&self.data_dir, lock)?)
    }

    /// Those that were named, and at last what is left of the database.
    fn copies(&self, database: &Path, keys: &PublicKeys) -> Result<Vec<Copy>, CareError> {
        let mut copies = self.from.iter().map(|at| Copy::open(at, keys)).collect::<Result<Vec<_>, _>>()?;
        if is_there(database) {
            let notes = tempfile::tempdir().map_err(CareError::io(&std::env::temp_dir()))?;
            match RocksStore::open_read_only(database, notes.path()) {
                Ok(store) => copies.push(Copy::database(database, store, keys)),
                Err(error) => eprintln!("tagledgerd: left out: {error}"),
            }
        }
        Ok(copies)
    }

    /// Checkpoints from outside: where they are from, the note, and what it says.
    fn marks(&self, keys: &PublicKeys) -> Result<Vec<Known>, CareError> {
        let mut marks = Vec::new();
        match HighWater::new(self.high_water.clone()).read(true) {
            Ok(note) => marks.extend(note.map(|note| ("the high-water mark".to_owned(), note))),
            Err(HighWaterError::Missing(_)) if self.checkpoint.is_some() => {}
            Err(HighWaterError::Missing(path)) => return Err(CareError::NoMark(path)),
            Err(error) => return Err(error.into()),
        }
        if let Some(path) = &self.checkpoint {
            marks.push((path.display().to_string(), fs::read_to_string(path).map_err(CareError::io(path))?));
        }
        let open = |(by, note): (String, String)| {
            let checkpoint = opened(&by, &note, keys)?;
            Ok((by, note, checkpoint))
        };
        marks.into_iter().map(open).collect()
    }
}

/// The checkpoints of a copy.
fn recorded(copy: &Copy) -> impl Iterator<Item = Known> {
    copy.checkpoints().iter().map(|(note, checkpoint)| (copy.name().to_owned(), note.clone(), *checkpoint))
}

/// Where the database is, or is to be: a link to another disk stays what it is.
fn real_place(database: &Path) -> Result<PathBuf, CareError> {
    if !database.is_symlink() {
        return Ok(database.to_owned());
    }
    fs::canonicalize(database).map_err(|_| CareError::LostLink(database.display().to_string()))
}

/// Says, durably, that the log has a first entry: without its database it is not begun anew.
pub(super) fn note_begun(directory: &Path) -> Result<(), CareError> {
    write_synced(&directory.join("begun"), b"", 0o644)?;
    Ok(sync(directory)?)
}

/// Puts a database into the place of another, which stays beside it. Returns where.
fn take_its_place(made: &Path, database: &Path) -> Result<Option<PathBuf>, CareError> {
    let mut kept = None;
    if is_there(database) {
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let free = (1..).map(|number| database.with_file_name(format!("{name}.before-restore-{number}")));
        let free = free.into_iter().find(|path| !is_there(path)).expect("numbers do not end");
        fs::rename(database, &free).map_err(CareError::io(database))?;
        kept = Some(free);
    }
    fs::rename(made, database).map_err(CareError::io(made))?;
    sync(database.parent().unwrap_or(Path::new("/")))?;
    Ok(kept)
}
