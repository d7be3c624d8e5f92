//! `tagledgerd backup`: the entries, the newest checkpoint and the keys, in a folder that a mirror could serve.
//!
//! It reads the database beside the server that writes to it ([`RocksStore::open_beside`]), and goes no further than the
//! high-water mark: up to there everything is on disk and was published. A bundle of 256 entries never changes, so the next
//! backup adds to the folder what is new. The checkpoint is replaced last: until then the folder is the earlier backup. What is
//! in the folder afterwards is read again, and must lead to the checkpoint.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CHECKPOINT, Copy, derive, entries_of, in_force, led_back, opened, same_root};
use crate::engine::check::Tell;
use crate::engine::derive::{Derivation, Sealing};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::entry::entry_hash;
use crate::ledger::merkle::Tree;
use crate::ledger::merkle::tile::{TILE_WIDTH, Tile, TilePath, push_bundled, split_bundle};
use crate::server::data_dir::{DataDirError, is_there, lock, sync, write_synced};
use crate::server::fsck::{CareError, Progress, room};
use crate::server::high_water::HighWater;
use crate::server::keys::{self, PublicKeys};
use crate::store::log_tree::StoredNodes;
use crate::store::rocks::RocksStore;
use crate::store::{ReadError, rows};

/// Attempts to open the database beside a server that is just removing a file.
const ATTEMPTS: u32 = 5;

/// What is to be copied, and where to.
#[derive(Debug)]
pub struct Backup {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the high-water mark is.
    pub high_water: PathBuf,
    /// The folder of the backup; made, if it is not there.
    pub to: PathBuf,
    /// Leave the private key and the token out.
    pub without_key: bool,
    /// Only compare the copy with its checkpoint, instead of checking it from end to end.
    pub quick: bool,
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackedUp {
    /// Entries in it.
    pub size: u64,
    /// Entries that it had before.
    pub before: u64,
    /// Bundles that were written.
    pub written: u64,
    /// Of those, bundles that were there and not what they must be.
    pub mended: u64,
}

impl Backup {
    /// Backs up, verifies the copy, and says what was done.
    pub fn run(self) -> Result<(), CareError> {
        let progress = Progress::new();
        let done = self.make(&mut |step, done, of| progress.tell(step, done, of));
        progress.end();
        let BackedUp { size, before, written, mended } = done?;
        let mended = if mended > 0 { format!(", {mended} of them in place of damaged ones") } else { String::new() };
        let checked =
            if self.quick { "the root of its entries is that of its checkpoint" } else { "checked from end to end" };
        println!(
            "{} holds {size} entries, {} of them new; {written} bundles written{mended}; {checked}",
            self.to.display(),
            size - before
        );
        if !self.without_key {
            println!("it holds the private key, too: keep it as safe as the original (--without-key leaves it out)");
        }
        Ok(())
    }

    /// The same, silently.
    pub fn make(&self, tell: &mut Tell<'_>) -> Result<BackedUp, CareError> {
        let keys = PublicKeys::read(&self.data_dir)?;
        if !self.without_key {
            keys.demand_private(&self.data_dir)?;
        }
        let note = HighWater::new(self.high_water.clone()).read(true)?.unwrap_or_default();
        let mark = Checkpoint::open_by(&note, keys.all()).map(|(checkpoint, _)| checkpoint).map_err(CareError::Mark)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.to).map_err(CareError::io(&self.to))?;
        let _lock = lock(&self.to).map_err(|error| match error {
            DataDirError::InUse { path, holder } => CareError::BackupInUse { path, holder },
            error => error.into(),
        })?;
        let notes = tempfile::tempdir().map_err(CareError::io(&std::env::temp_dir()))?;
        let store = open_beside(&self.data_dir.join("db"), notes.path())?;
        let keys = led_back(&keys, &|range| entries_of(&store, range));
        let earlier = earlier(&self.to, &keys)?;
        let before = earlier.map_or(0, |earlier| earlier.size);
        if before > mark.size {
            return Err(CareError::Behind { to: self.to.display().to_string(), before, size: mark.size });
        }
        let found = rows::tree_size(&store).map_err(CareError::Read)?;
        if found < mark.size {
            return Err(CareError::Short { found, known: mark.size });
        }
        // Before anything of an earlier backup is replaced: it may be of another history.
        let nodes = StoredNodes::new(&store);
        let at = |size: u64| Tree::load(&nodes, size).map_err(CareError::Read);
        if let Some(earlier) = &earlier {
            same_root(&at(earlier.size)?, earlier, &format!(" (the earlier backup in {})", self.to.display()))?;
        }
        same_root(&at(mark.size)?, &mark, " (the high-water mark)")?;
        let mut done = BackedUp { size: mark.size, before, written: 0, mended: 0 };
        let mut tree = Tree::default();
        for index in 0..mark.size.div_ceil(TILE_WIDTH) {
            let tile = Tile { index, width: TILE_WIDTH.min(mark.size - index * TILE_WIDTH) };
            for hash in self.bundle(&store, tile, &mut done)? {
                tree.append(hash, |_| {});
                if let Some(earlier) = earlier.filter(|earlier| earlier.size == tree.size()) {
                    same_root(&tree, &earlier, &format!(" (the earlier backup in {})", self.to.display()))?;
                }
            }
            tell("entries", tree.size(), Some(mark.size));
        }
        same_root(&tree, &mark, " (the high-water mark)")?;
        self.keys()?;
        write_synced(&self.to.join(CHECKPOINT), note.as_bytes(), 0o644)?;
        sync(&self.to)?;
        self.forget(before, mark.size);
        if self.quick {
            same_bytes(&self.to, &keys)?
        } else {
            verify(&self.to, &keys, &self.to, tell)?
        };
        Ok(done)
    }

    /// Brings a bundle into the folder, unless it is there; the leaf hashes of what is then there.
    fn bundle(&self, store: &RocksStore, tile: Tile, done: &mut BackedUp) -> Result<Vec<[u8; 32]>, CareError> {
        let path = self.to.join(format!("tile/{}", TilePath::Entries(tile)));
        let hashes =
            |bytes: &[u8]| -> Option<Vec<_>> { Some(split_bundle(bytes)?.into_iter().map(entry_hash).collect()) };
        let there = fs::read(&path).ok();
        let logged = StoredNodes::new(store).range(0, tile.range()).map_err(CareError::Read)?;
        if let Some(found) = there.as_deref().and_then(hashes).filter(|found| *found == logged) {
            return Ok(found);
        }
        let mut bundle = Vec::new();
        for entry in rows::entries(store, tile.range()).map_err(CareError::Read)? {
            push_bundled(&mut bundle, &entry);
        }
        if hashes(&bundle).as_ref() != Some(&logged) {
            let what = format!("the entries from {} on are not those of its tree", tile.range().start);
            return Err(CareError::Read(ReadError::Damaged { table: "entries", what }));
        }
        done.mended += u64::from(there.is_some());
        done.written += 1;
        let folder = path.parent().expect("it is in a folder");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(CareError::io(folder))?;
        write_synced(&path, &bundle, 0o600)?;
        sync(folder)?;
        Ok(hashes(&bundle).expect("as it was made"))
    }

    fn keys(&self) -> Result<(), CareError> {
        // All of them are of one moment, also where the key is changed meanwhile.
        let _held = keys::held(&self.data_dir)?;
        let token = (!self.without_key).then_some(("token", 0o600));
        for (name, mode) in keys::files(!self.without_key).chain([("origin", 0o644)]).chain(token) {
            copy_file(&self.data_dir.join(name), &self.to.join(name), mode)?;
        }
        Ok(())
    }

    /// Removes the last bundle of the earlier backup, which was not full, and has grown.
    fn forget(&self, before: u64, size: u64) {
        let width = before % TILE_WIDTH;
        if width > 0 && before != size {
            let tile = TilePath::Entries(Tile { index: before / TILE_WIDTH, width });
            // It does no harm where it stays.
            let _ = fs::remove_file(self.to.join(format!("tile/{tile}")));
        }
    }
}

/// Checks a backup from end to end: every signature, everything that follows from the entries, the root. Returns its checkpoint.
pub fn verify(folder: &Path, keys: &PublicKeys, scratch: &Path, tell: &mut Tell<'_>) -> Result<Checkpoint, CareError> {
    let copy = [Copy::open(&folder.display().to_string(), keys)?];
    let (note, checkpoint) = copy[0].checkpoint().cloned().ok_or(CareError::NoCheckpoint)?;
    let room = room(scratch)?;
    let beside = RocksStore::create(&room.path().join("db"))?;
    let mut derivation = Derivation::begin(&beside, Sealing::Recorded, keys.first())?;
    derive(&copy, keys, &checkpoint, &[], &mut derivation, tell)?;
    in_force([&(copy[0].name().to_owned(), note, checkpoint)], &checkpoint, derivation.keys())?;
    Ok(checkpoint)
}

/// The bytes in the files, as they are now, have the root of the checkpoint.
fn same_bytes(folder: &Path, keys: &PublicKeys) -> Result<Checkpoint, CareError> {
    let copy = Copy::open(&folder.display().to_string(), keys)?;
    let (_, checkpoint) = copy.checkpoint().cloned().ok_or(CareError::NoCheckpoint)?;
    let mut tree = Tree::default();
    for index in 0..checkpoint.size.div_ceil(TILE_WIDTH) {
        let range = index * TILE_WIDTH..checkpoint.size.min((index + 1) * TILE_WIDTH);
        copy.entries(range)?.values().for_each(|bytes| tree.append(entry_hash(bytes), |_| {}));
    }
    same_root(&tree, &checkpoint, "")?;
    Ok(checkpoint)
}

/// Copies a small file, synced; one that is not there is not there in the copy either.
pub(super) fn copy_file(from: &Path, to: &Path, mode: u32) -> Result<(), CareError> {
    if !is_there(from) {
        return Ok(());
    }
    let content = zeroize::Zeroizing::new(fs::read(from).map_err(CareError::io(from))?);
    Ok(write_synced(to, &content, mode)?)
}

/// The checkpoint of what is in the folder already.
fn earlier(folder: &Path, keys: &PublicKeys) -> Result<Option<Checkpoint>, CareError> {
    let path = folder.join(CHECKPOINT);
    match fs::read_to_string(&path) {
        Ok(note) => {
            let copy = folder.display().to_string();
            Ok(Some(opened(&copy, &note, keys)?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CareError::io(&path)(error)),
    }
}

fn open_beside(path: &Path, notes: &Path) -> Result<RocksStore, CareError> {
    let mut attempt = 1;
    loop {
        match RocksStore::open_beside(path, &notes.join(attempt.to_string())) {
            Ok(store) => return Ok(store),
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(_) => attempt += 1,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
