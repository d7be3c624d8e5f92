//! Copies of a ledger: made ([`backup`]), and put together to a ledger again ([`restore`], [`rebuild`]).
//!
//! The entries are all that can't be recomputed, so a copy of a ledger is a copy of its entries with a checkpoint over them. There
//! are four kinds: a database, even a damaged one; a folder in the form of tlog-tiles, which is what a backup is; a mirror, which
//! serves that over HTTP; and evidence that clients saved. None of them is believed: each entry must be signed for its place,
//! and together they must lead to a signed checkpoint.

pub mod backup;
mod http;
pub mod rebuild;
pub mod restore;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::client::saved;
use crate::engine::check::Tell;
use crate::engine::derive::{Derivation, DeriveError, Fit, Signers, examined};
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::ledger::entry::{Body, SignedEntry, entry_hash};
use crate::ledger::keys::{Chain, KeyChange};
use crate::ledger::merkle::Tree;
use crate::ledger::merkle::tile::{TILE_WIDTH, Tile, TilePath, split_bundle};
use crate::ledger::statement;
use crate::server::data_dir::is_there;
use crate::server::fsck::CareError;
use crate::server::keys::PublicKeys;
use crate::store::rocks::RocksStore;
use crate::store::rows;

/// Entries that are read and examined at once: whole bundles.
const AT_ONCE: usize = 8 * BUNDLE;
/// Entries of a bundle, as a step of ranges.
const BUNDLE: usize = 256;
/// Longest checkpoint read, in bytes.
const MAX_CHECKPOINT: usize = 64 * 1024;
/// The name of a copy's checkpoint, as tlog-tiles has it.
pub const CHECKPOINT: &str = "checkpoint";

/// Why a copy does not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It can't be read.
    #[error("{copy}: {reason}")]
    Unreadable {
        /// Which copy.
        copy: String,
        /// Why.
        reason: String,
    },
    /// Its checkpoint is not of this ledger.
    #[error("{copy} is no copy of this ledger: its checkpoint: {error}")]
    Other {
        /// Which copy.
        copy: String,
        /// What is wrong with it.
        error: CheckpointError,
    },
    /// Of this ledger by its name, and by none of its keys.
    #[error(
        "{copy} is of this ledger by its name, and no key that is known here opens its checkpoint: {error}; if a later key signed it, give a copy with newer keys first; if an earlier one did, earlier.vkeys is missing beside ledger.vkey, or too short: put it back from a backup, or write the public keys before the one in force into it, one a line, the first one first, as tagledger key show prints them; otherwise leave it out"
    )]
    Unopened {
        /// Which copy, or file.
        copy: String,
        /// What is wrong with it.
        error: CheckpointError,
    },
    /// Nobody has these entries.
    #[error(
        "entry {first} is in none of the copies, and the ledger has signed a checkpoint over {size} entries with the root {root}{}; name more copies with --from",
        why.as_ref().map_or(String::new(), |why| format!(" ({why})"))
    )]
    Gap {
        /// The first of them.
        first: u64,
        /// How many there must be.
        size: u64,
        /// Their root.
        root: String,
        /// Why what a copy has instead is not the entry.
        why: Option<String>,
    },
    /// They lead elsewhere than what was signed.
    #[error(
        "the first {size} entries of the copies have the root {found}, but the ledger has signed a checkpoint over {size} entries with the root {expected}{by}: these are not copies of one log. Nothing was changed"
    )]
    OtherRoot {
        /// How many.
        size: u64,
        /// What they lead to.
        found: String,
        /// What was signed.
        expected: String,
        /// Where that is from.
        by: String,
    },
    /// Nobody in force signed it.
    #[error(
        "the checkpoint over {size} entries that {by} has is not signed by the key in force at its end: {error}; find one that is, with --from or --checkpoint"
    )]
    NotInForce {
        /// Where it is from.
        by: String,
        /// How many entries it is over.
        size: u64,
        /// Why it does not count.
        error: CheckpointError,
    },
    /// They can't be derived.
    #[error(transparent)]
    Derive(#[from] DeriveError),
}

/// Reads what is at a path of a copy; nothing where it has none.
type Get<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, String> + 'a;

/// One copy of the entries.
pub struct Copy {
    name: String,
    kind: Kind,
    /// The signed checkpoints in it, as notes, the newest last.
    checkpoints: Vec<(String, Checkpoint)>,
}

enum Kind {
    Database(RocksStore),
    Folder { folder: PathBuf, size: u64 },
    Mirror { mirror: http::Mirror, size: u64 },
    Evidence(BTreeMap<u64, Vec<u8>>),
}

impl Copy {
    /// The copy at an address or in a folder. Its checkpoint must be of the ledger with this key.
    pub fn open(at: &str, keys: &PublicKeys) -> Result<Self, CopyError> {
        let Some((kind, note)) = Kind::find(at)? else { return evidence(Path::new(at), keys) };
        let checkpoint = opened(at, &note, keys)?;
        Ok(Self { name: at.to_owned(), kind, checkpoints: vec![(note, checkpoint)] })
    }

    /// The copy in a database that nobody writes to.
    pub fn database(path: &Path, store: RocksStore, keys: &PublicKeys) -> Self {
        let note = rows::head(&store).ok().flatten().map(|head| head.checkpoint);
        let checkpoint = note.and_then(|note| {
            let opened = Checkpoint::open_by(&note, keys.all()).ok()?.0;
            Some((note, opened))
        });
        let checkpoints = checkpoint.into_iter().collect();
        Self { name: path.display().to_string(), kind: Kind::Database(store), checkpoints }
    }

    /// The newest signed checkpoint in it, and its note.
    pub fn checkpoint(&self) -> Option<&(String, Checkpoint)> {
        self.checkpoints.last()
    }

    /// All signed checkpoints in it, each with its note.
    pub fn checkpoints(&self) -> &[(String, Checkpoint)] {
        &self.checkpoints
    }

    /// Whether it has an entry that the ledger signed for this place, which may lie beyond its checkpoints. What a mirror serves
    /// beyond its own is not asked for.
    pub fn has_entry(&self, index: u64, keys: &PublicKeys) -> Result<bool, CopyError> {
        let mut signers = Signers::new(keys.all().cloned());
        let is_ours = |bytes: Vec<u8>| examined(&[bytes], index, &mut signers)[0].is_ok();
        match &self.kind {
            // Nobody else writes there: by whichever key it is signed, more was recorded.
            Kind::Database(store) => Ok(rows::entry(store, index)
                .is_ok_and(|bytes| SignedEntry::decode(&bytes).is_ok_and(|entry| entry.body.index() == index))),
            Kind::Evidence(entries) => Ok(entries.contains_key(&index)),
            Kind::Mirror { size, .. } if *size <= index => Ok(false),
            Kind::Folder { folder, size } if *size <= index => {
                // A backup that was cut short has bundles and no checkpoint for them.
                let (bundle, place) =
                    (index / TILE_WIDTH, usize::try_from(index % TILE_WIDTH).expect("a place in a bundle"));
                let widths = (index % TILE_WIDTH + 1)..=TILE_WIDTH;
                let paths = widths.map(|width| TilePath::Entries(Tile { index: bundle, width }));
                let bundles = paths.filter_map(|path| fs::read(folder.join(format!("tile/{path}"))).ok());
                let entry = |bytes: Vec<u8>| split_bundle(&bytes)?.get(place).map(|entry| entry.to_vec());
                Ok(bundles.filter_map(entry).any(is_ours))
            }
            Kind::Folder { .. } | Kind::Mirror { .. } => Ok(self.entries(index..index + 1)?.into_values().any(is_ours)),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has of a range that lies within one bundle.
    fn entries(&self, range: Range<u64>) -> Result<BTreeMap<u64, Vec<u8>>, CopyError> {
        let unreadable = |reason: String| CopyError::Unreadable { copy: self.name.clone(), reason };
        self.kind.entries(range).map_err(unreadable)
    }
}

impl Kind {
    /// What is at an address or in a folder, and the note of its checkpoint, which nobody has opened yet; nothing where it has none.
    fn find(at: &str) -> Result<Option<(Self, String)>, CopyError> {
        let unreadable = |reason: String| CopyError::Unreadable { copy: at.to_owned(), reason };
        // It says how much is there. Whether that is so, and the ledger's, is looked at by whoever uses it.
        let size = |note: &str| note.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0);
        if at.starts_with("http://") || at.starts_with("https://") {
            let mirror = http::Mirror::new(at).map_err(&unreadable)?;
            let note = mirror.get(CHECKPOINT, MAX_CHECKPOINT).map_err(&unreadable)?;
            let note = note.ok_or_else(|| unreadable("it serves no /checkpoint".to_owned()))?;
            let note = String::from_utf8(note).map_err(|_| unreadable("its checkpoint is not text".to_owned()))?;
            return Ok(Some((Self::Mirror { mirror, size: size(&note) }, note)));
        }
        let folder = PathBuf::from(at);
        match fs::read_to_string(folder.join(CHECKPOINT)) {
            Ok(note) => Ok(Some((Self::Folder { folder, size: size(&note) }, note))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    fn entries(&self, range: Range<u64>) -> Result<BTreeMap<u64, Vec<u8>>, String> {
        let bundle = |size: u64, get: &Get<'_>| {
            let index = range.start / TILE_WIDTH;
            let width = TILE_WIDTH.min(size.saturating_sub(index * TILE_WIDTH));
            if width == 0 {
                return Ok(BTreeMap::new());
            }
            let path = format!("tile/{}", TilePath::Entries(Tile { index, width }));
            let Some(bytes) = get(&path)? else { return Ok(BTreeMap::new()) };
            // One that is cut short is as good as none; what is in another copy may be whole.
            let entries = split_bundle(&bytes).unwrap_or_default();
            let all = (index * TILE_WIDTH..).zip(entries).map(|(index, entry)| (index, entry.to_vec()));
            Ok(all.filter(|(index, _)| range.contains(index)).collect())
        };
        match self {
            Self::Database(store) => Ok(entries_of(store, range)),
            Self::Folder { folder, size } => bundle(*size, &|path| match fs::read(folder.join(path)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("{path}: {error}")),
            }),
            Self::Mirror { mirror, size } => bundle(*size, &|path| mirror.get(path, http::MAX_BUNDLE)),
            Self::Evidence(entries) => Ok(entries.range(range).map(|(index, entry)| (*index, entry.clone())).collect()),
        }
    }
}

/// What is missing in a database or can't be read is not there.
fn entries_of(store: &RocksStore, range: Range<u64>) -> BTreeMap<u64, Vec<u8>> {
    range.filter_map(|index| Some((index, rows::entry(store, index).ok()?))).collect()
}

/// The checkpoint in a note of a copy. Of this ledger's name, and by no key that is known, it may be by a key that should be.
fn opened(copy: &str, note: &str, keys: &PublicKeys) -> Result<Checkpoint, CopyError> {
    let (name, copy) = (keys.origin().as_str(), copy.to_owned());
    match Checkpoint::open_by(note, keys.all()) {
        Ok((checkpoint, _)) => Ok(checkpoint),
        Err(error) if note.lines().next() == Some(name) => Err(CopyError::Unopened { copy, error }),
        Err(error) => Err(CopyError::Other { copy, error }),
    }
}

/// The keys of a ledger, also where `earlier.vkeys` is missing: then the log seems to begin with somebody else's entries, and the
/// changes of the key in what is left of its database, in a backup's folder, or in copies lead back to the first key.
pub fn keys_of(directory: &Path, files: &PublicKeys, from: &[String]) -> PublicKeys {
    // Of another log nothing is read but this.
    let is_of_ledger = |note: &str| Checkpoint::open_by(note, files.all()).is_ok();
    let found = |at: &str| Kind::find(at).ok().flatten().filter(|(_, note)| is_of_ledger(note)).map(|(kind, _)| kind);
    let database = || {
        // With this file RocksDB begins a database.
        let path = directory.join("db");
        let notes = tempfile::tempdir().ok().filter(|_| is_there(&path.join("CURRENT")))?;
        RocksStore::open_read_only(&path, notes.path()).ok().map(Kind::Database)
    };
    let copies = std::iter::once(directory.display().to_string()).chain(from.iter().cloned());
    let places = std::iter::once_with(database).chain(copies.map(|at| found(&at)));
    let mut keys = files.clone();
    for place in places.flatten() {
        keys = led_back(&keys, &|range| place.entries(range).unwrap_or_default());
        if keys.changes() > files.changes() {
            eprintln!("tagledgerd: earlier.vkeys is missing or too short; the log leads back to {}", keys.first());
            break;
        }
    }
    keys
}

/// The same, from entries that are read bundle by bundle; only where the first of them is not by the first key.
fn led_back(keys: &PublicKeys, read: &dyn Fn(Range<u64>) -> BTreeMap<u64, Vec<u8>>) -> PublicKeys {
    let is_by_first =
        |bytes: &Vec<u8>| SignedEntry::decode(bytes).is_ok_and(|entry| entry.verify(keys.first()).is_ok());
    if read(0..1).get(&0).is_none_or(is_by_first) {
        return keys.clone();
    }
    let bundles = (0..).step_by(BUNDLE).map(|begin| read(begin..begin + TILE_WIDTH));
    let entries = bundles.take_while(|entries| !entries.is_empty()).flat_map(BTreeMap::into_values);
    let changes: Vec<KeyChange> = entries.filter_map(|bytes| change_in(&bytes)).collect();
    keys.led_back(&changes)
}

fn change_in(bytes: &[u8]) -> Option<KeyChange> {
    match SignedEntry::decode(bytes).ok()?.body {
        Body::Record(_, statement) => match statement.kind {
            statement::Kind::KeyChange { change } => Some(*change),
            _ => None,
        },
        Body::Commitment(_) => None,
    }
}

/// What clients saved: every file of a folder that is evidence.
fn evidence(folder: &Path, keys: &PublicKeys) -> Result<Copy, CopyError> {
    let name = folder.display().to_string();
    let unreadable = |reason: String| CopyError::Unreadable { copy: name.clone(), reason };
    let mut signers = Signers::new(keys.all().cloned());
    let (mut entries, mut checkpoints) = (BTreeMap::new(), Vec::<(String, Checkpoint)>::new());
    for file in fs::read_dir(folder).map_err(|error| unreadable(error.to_string()))? {
        let path = file.map_err(|error| unreadable(error.to_string()))?.path();
        // Whatever else lies there is none of ours.
        let Ok(claimed) = saved::load(&path) else { continue };
        for page in claimed.pages {
            let checkpoint = match opened(&path.display().to_string(), &page.checkpoint, keys) {
                Ok(checkpoint) => checkpoint,
                Err(CopyError::Other { .. }) => continue,
                // Perhaps the newest, by a key that is not known here.
                Err(error) => return Err(error),
            };
            if checkpoints.iter().all(|(_, known)| *known != checkpoint) {
                checkpoints.push((page.checkpoint, checkpoint));
            }
            for entry in page.entries {
                let is_ours = examined(std::slice::from_ref(&entry.entry), entry.index, &mut signers)[0].is_ok();
                if is_ours {
                    entries.insert(entry.index, entry.entry);
                }
            }
        }
    }
    if checkpoints.is_empty() {
        return Err(unreadable(
            "it is neither a backup or mirror (it has no file \"checkpoint\") nor a folder with evidence of this ledger (as --save writes it)".to_owned(),
        ));
    }
    checkpoints.sort_by_key(|(_, known)| known.size);
    Ok(Copy { name, kind: Kind::Evidence(entries), checkpoints })
}

/// Entries that are signed for their places, from the first copy that has each.
fn signed(
    copies: &[Copy],
    range: Range<u64>,
    signers: &mut Signers,
    target: &Checkpoint,
) -> Result<Vec<(Vec<u8>, Fit)>, CopyError> {
    let mut found: BTreeMap<u64, (Vec<u8>, Fit)> = BTreeMap::new();
    let mut why = None;
    for copy in copies {
        for begin in (range.start..range.end).step_by(BUNDLE) {
            let bundle = begin..range.end.min(begin + TILE_WIDTH);
            if bundle.clone().all(|index| found.contains_key(&index)) {
                continue;
            }
            let entries: Vec<_> = copy.entries(bundle)?.into_iter().filter(|(at, _)| !found.contains_key(at)).collect();
            for (index, bytes) in entries {
                match examined(std::slice::from_ref(&bytes), index, signers).pop() {
                    Some(Ok(entry)) => {
                        found.insert(index, (bytes, entry));
                    }
                    Some(Err(unfit)) => why = Some(format!("{} has something else: {unfit}", copy.name)),
                    None => {}
                }
            }
        }
    }
    match range.clone().find(|index| !found.contains_key(index)) {
        None => Ok(found.into_values().collect()),
        Some(first) => Err(CopyError::Gap { first, size: target.size, root: hex::encode(target.root), why }),
    }
}

/// A checkpoint: where it is from, its note, and what that says.
type Known = (String, String, Checkpoint);

/// Leaves out, and says, what a key signed over more entries than it was in force for: whoever stole a replaced key can do so.
fn without_retired(known: Vec<Known>, copies: &[Copy], keys: &PublicKeys) -> Result<Vec<Known>, CopyError> {
    let by_last = |(_, note, _): &Known| keys.all().last().is_some_and(|last| Checkpoint::open(note, last).is_ok());
    if known.iter().all(by_last) {
        return Ok(known);
    }
    let chain = chain(copies, keys, known.iter().map(|(.., known)| known.size).max().unwrap_or(0))?;
    let counts = |(by, note, _): &Known| match Checkpoint::open(note, &chain) {
        Err(error @ CheckpointError::Retired { .. }) => {
            eprintln!("tagledgerd: left out: a checkpoint ({by}): {error}");
            false
        }
        _ => true,
    };
    Ok(known.into_iter().filter(counts).collect())
}

/// The keys of the ledger, as far as the entries in the copies bring them.
fn chain(copies: &[Copy], keys: &PublicKeys, size: u64) -> Result<Chain, CopyError> {
    let mut signers = Signers::new(keys.all().cloned());
    let mut chain = Chain::of(keys.first().clone());
    for begin in (0..size).step_by(BUNDLE) {
        let mut is_end = true;
        for copy in copies {
            for (index, bytes) in copy.entries(begin..size.min(begin.saturating_add(TILE_WIDTH)))? {
                is_end = false;
                let fit = examined(std::slice::from_ref(&bytes), index, &mut signers).pop();
                if let Some(next) = fit.and_then(Result::ok).and_then(|fit| fit.keys_after(&chain)) {
                    chain = next;
                }
            }
        }
        if is_end {
            break;
        }
    }
    Ok(chain)
}

/// The first note over just this that the key in force at its end signed, or a later one.
fn in_force<'k>(
    known: impl IntoIterator<Item = &'k Known>,
    target: &Checkpoint,
    keys: &Chain,
) -> Result<String, CareError> {
    let mut refused = CareError::NoCheckpoint;
    for (by, note, _) in known.into_iter().filter(|(.., known)| known == target) {
        match Checkpoint::open(note, keys) {
            Ok(_) => return Ok(note.clone()),
            Err(error) => refused = CopyError::NotInForce { by: by.clone(), size: target.size, error }.into(),
        }
    }
    Err(refused)
}

/// Derives a ledger from the copies, up to a checkpoint that was signed. All the checkpoints must be of the same log as the entries.
fn derive(
    copies: &[Copy],
    keys: &PublicKeys,
    target: &Checkpoint,
    known: &[(String, Checkpoint)],
    derivation: &mut Derivation<'_>,
    tell: &mut Tell<'_>,
) -> Result<(), CopyError> {
    let mut signers = Signers::new(keys.all().cloned());
    let mut tree = Tree::default();
    let is_due = |(_, known): &&(String, Checkpoint)| (1..=target.size).contains(&known.size);
    let mut known: Vec<&(String, Checkpoint)> = known.iter().filter(is_due).collect();
    known.sort_by_key(|(_, known)| known.size);
    let mut due = known.into_iter().peekable();
    for begin in (0..target.size).step_by(AT_ONCE) {
        let range = begin..target.size.min(begin + AT_ONCE as u64);
        for (bytes, entry) in signed(copies, range, &mut signers, target)? {
            tree.append(entry_hash(&bytes), |_| {});
            // Before anything else: what is no copy of this log is not derived to its end.
            while let Some((by, known)) = due.next_if(|(_, known)| known.size == tree.size()) {
                same_root(&tree, known, &format!(" ({by})"))?;
            }
            derivation.push(bytes, entry)?;
        }
        tell("entries", tree.size(), Some(target.size));
    }
    same_root(&tree, target, "")
}

fn same_root(tree: &Tree, signed: &Checkpoint, by: &str) -> Result<(), CopyError> {
    if tree.root() == signed.root {
        return Ok(());
    }
    let (found, expected) = (hex::encode(tree.root()), hex::encode(signed.root));
    Err(CopyError::OtherRoot { size: signed.size, found, expected, by: by.to_owned() })
}
