//! Opening a ledger: what must hold before the sequencer may sign anything.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::known::Known;
use super::plan::{Base, plan_genesis};
use super::signer::Signer;
use super::{Committed, Options};
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::ledger::entry::{Body, SignedEntry};
use crate::ledger::keys::{Chain, Keys as _};
use crate::ledger::map;
use crate::ledger::merkle::Tree;
use crate::ledger::merkle::tree::MemoryNodes;
use crate::ledger::note::{Origin, Skey, Vkey};
use crate::ledger::policy::Policy;
use crate::ledger::principals::Principals;
use crate::ledger::statement::Kind;
use crate::ledger::subject::{Subject, SubjectKey};
use crate::ledger::transition::Binding;
use crate::proto::{self, Outcome};
use crate::store::leaf_pages::{LeafPages, ScratchError};
use crate::store::log_tree::{LogTree, StoredNodes};
use crate::store::rows::{self, FORMAT, OtherFormat, StoredLeaves};
use crate::store::{CommitError, Read, ReadError, Store};

/// Leaves that are put into their pages at a time while the map is read.
const LEAVES: usize = 4096;
/// Bits of a key that say in which part it is when the map is read.
const PART_BITS: usize = 4;

/// Why a ledger is not opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// Written by other software.
    #[error("the database {0}")]
    OtherFormat(OtherFormat),
    /// Another ledger's database.
    #[error("the database belongs to origin {found:?}, not {expected:?}; point --data-dir at the right directory")]
    OtherOrigin {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Its newest checkpoint was not signed by this ledger's key.
    #[error("the newest checkpoint in the database: {0}; is ledger.key the key it was written with?")]
    Checkpoint(#[from] CheckpointError),
    /// Nobody can sign.
    #[error("the private keys can't be read: {0}")]
    Keys(String),
    /// The key in force is not there.
    #[error(
        "the key in force is {in_force}, and its private key is not in ledger.key; put it back from a backup: without it this ledger can't go on, but as another one (tagledgerd restore --new-origin)"
    )]
    NoKey {
        /// The key in force.
        in_force: String,
    },
    /// A ledger that has begun before, without its entries.
    #[error(
        "the database is gone, but this ledger has begun before: beginning anew would be a second log under the same key; bring it back with tagledgerd restore, from a backup or a mirror (see tagledgerd restore --help)"
    )]
    Lost,
    /// An older copy was put back.
    #[error(
        "the database ends at {found} entries (root {found_root}), but a checkpoint over {known} entries (root {known_root}) was signed: an older copy was put back, and appending to it would sign a second history. Put the newer database back, or bring the missing entries back from a backup or mirror: tagledgerd restore --from COPY; or go on under another name: tagledgerd restore --new-origin NAME --into DIR"
    )]
    RolledBack {
        /// Entries in the database.
        found: u64,
        /// Their root.
        found_root: String,
        /// Entries of the checkpoint.
        known: u64,
        /// Their root.
        known_root: String,
    },
    /// It is another history than the one a checkpoint was signed over.
    #[error(
        "the first {size} entries of the database have the root {found_root}, but a checkpoint over {size} entries with the root {known_root} was signed: this is another history. Keep this database for analysis, and put the right one back, or bring it back from a backup or mirror: tagledgerd restore --from COPY"
    )]
    OtherHistory {
        /// Entries of the checkpoint.
        size: u64,
        /// The root of as many in the database.
        found_root: String,
        /// The root that was signed.
        known_root: String,
    },
    /// What should be a checkpoint of this ledger is none.
    #[error("the high-water mark: {0}; put a checkpoint of this ledger into the file")]
    HighWater(CheckpointError),
    /// Its parts contradict each other.
    #[error(
        "the database is damaged: {0}; keep this directory as it is, and see \"A damaged database\" in docs/OPERATIONS.md"
    )]
    Inconsistent(String),
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The first commitment can't be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The operating system gives no thread.
    #[error("cannot start the threads that write: {0}")]
    Thread(String),
}

/// A ledger as it was found.
pub(super) struct Recovered {
    pub(super) tree: LogTree,
    pub(super) top: map::Top,
    pub(super) leaves: LeafPages,
    pub(super) policy: Policy,
    pub(super) principals: Principals,
    pub(super) keys: Chain,
    pub(super) signer: Signer,
    pub(super) last_time_us: u64,
    pub(super) committed: Committed,
}

/// Checks what the store holds; begins a new ledger if it holds nothing.
///
/// Every commit writes entries, tree, indexes and checkpoint in one atomic batch, so after a crash they agree, and this only
/// checks that they do: the checkpoint is this key's, its root is the tree's, its last entry is the commitment that closes
/// the last batch, and nothing lies beyond it. And the subjects are those whose map it commits to: all of them are read for that, since the
/// upper part of their map is needed in memory anyway, or, where that was kept at an end in order, each when it is needed.
pub(super) fn recover(options: &Options) -> Result<Recovered, OpenError> {
    let store = &*options.store;
    let available = (options.keys)().map_err(OpenError::Keys)?;
    let available: Vec<Arc<Skey>> = available.into_iter().map(Arc::new).collect();
    let origin = available.first().map(|skey| skey.origin()).ok_or_else(|| OpenError::Keys("there is none".into()))?;
    match rows::identity(store)? {
        None if options.has_begun => return Err(OpenError::Lost),
        None => begin(options, &available[0])?,
        Some((found, _)) if found != FORMAT => return Err(OpenError::OtherFormat(OtherFormat { found })),
        Some((_, found)) if found != origin.as_str() => {
            return Err(OpenError::OtherOrigin { found, expected: origin.to_string() });
        }
        Some(_) => {}
    }
    let head = rows::head(store)?.ok_or_else(|| OpenError::Inconsistent("it has no checkpoint".into()))?;
    let vkeys: Vec<Vkey> = available.iter().map(|skey| skey.vkey()).collect();
    let (keys, changed_at_us) = keys_in_log(store, origin)?.unwrap_or_else(|| (alone(&head, &vkeys), 0));
    let tree = LogTree::load(store, head.size)?;
    let checkpoint = match Checkpoint::open(&head.checkpoint, &keys) {
        Ok(checkpoint) => checkpoint,
        // An older copy may be from before the keys that are there.
        Err(error) => {
            return Err(
                match options.high_water.as_deref().map(|note| hold_against(note, &tree, store, vkeys.iter())) {
                    Some(Err(rolled_back @ OpenError::RolledBack { .. })) => rolled_back,
                    _ => error.into(),
                },
            );
        }
    };
    if checkpoint.size != head.size || checkpoint.root != tree.root() {
        return Err(OpenError::Inconsistent(format!(
            "its checkpoint is over {} entries, its tree over {}, or their roots differ",
            checkpoint.size, head.size
        )));
    }
    if let Some(note) = &options.high_water {
        hold_against(note, &tree, store, keys.all().chain(&vkeys))?;
    }
    let commitment = last_commitment(options, &head, &keys)?;
    let (top, leaves) = map_of(options, &commitment)?;
    if top.root() != *commitment.map_root || top.size() != commitment.map_size {
        return Err(OpenError::Inconsistent(format!(
            "its {} subjects are not the {} that the last commitment, entry {}, is over, or their histories differ",
            top.size(),
            commitment.map_size,
            commitment.index
        )));
    }
    let policy = policy_in_force(options)?;
    let principals = principals_in_force(options)?;
    let signer = Signer::new(available, &keys, changed_at_us, options.key_overlap_us);
    let signer = signer.ok_or_else(|| OpenError::NoKey { in_force: keys.newest().to_string() })?;
    let committed =
        Committed { first: head.size, entries: Vec::new(), nodes: MemoryNodes::default(), head: head.clone() };
    Ok(Recovered { tree, top, leaves, policy, principals, keys, signer, last_time_us: head.recorded_at_us, committed })
}

/// The store has everything that a checkpoint was signed over.
fn hold_against<'a>(
    note: &str,
    tree: &LogTree,
    store: &dyn Store,
    // Also keys that an older copy does not know of.
    keys: impl Iterator<Item = &'a Vkey> + Clone,
) -> Result<(), OpenError> {
    let (known, _) = Checkpoint::open_by(note, keys).map_err(OpenError::HighWater)?;
    let known_root = hex::encode(known.root);
    if known.size > tree.size() {
        let (found, found_root) = (tree.size(), hex::encode(tree.root()));
        return Err(OpenError::RolledBack { found, found_root, known: known.size, known_root });
    }
    let found = Tree::load(&StoredNodes::new(store), known.size)?.root();
    if found != known.root {
        let found_root = hex::encode(found);
        return Err(OpenError::OtherHistory { size: known.size, found_root, known_root });
    }
    Ok(())
}

fn begin(options: &Options, skey: &Arc<Skey>) -> Result<(), OpenError> {
    let base = Base {
        read: &*options.store,
        known: &Known::default(),
        tree: &LogTree::default(),
        top: &map::Top::default(),
        leaves: &StoredLeaves::new(&*options.store),
        last_time_us: 0,
        policy: &Policy::default(),
        principals: &Arc::default(),
        keys: &Arc::new(Chain::of(skey.vkey())),
        seal: skey,
    };
    let plan = plan_genesis(&base, (options.clock)())?;
    Ok(options.store.commit(0, plan.batch)?)
}

/// The map after the last commitment: the one that was kept, or else that of the table of subjects.
fn map_of(options: &Options, commitment: &proto::Commitment) -> Result<(map::Top, LeafPages), ReadError> {
    let Some(kept_map) = &options.kept_map else {
        return load_map(&*options.store, options.store.scratch().map_err(ScratchError::from)?, commitment.map_size);
    };
    let root = commitment.map_root.as_slice().try_into().expect("a decoded commitment has a root of 32 bytes");
    if let Some((top, leaves)) = kept_map.take(&root, commitment.map_size) {
        // What is in force follows from these, and nobody looks at them again.
        let mut in_force = [Subject::Policy, Subject::Principals, Subject::Keys].iter();
        match in_force.try_for_each(|subject| rows::subject_in(&*options.store, &leaves, &subject.key()).map(drop)) {
            Ok(()) => return Ok((top, leaves)),
            Err(error) => tracing::warn!(%error, "the map that was kept does not fit; it is made again"),
        }
    }
    load_map(&*options.store, kept_map.begin()?, commitment.map_size)
}

/// The upper part of the map in memory, and its leaves in a file, where updates read them; both from the table of subjects, which is
/// read in parts side by side.
pub fn load_map(store: &dyn Store, file: File, expected: u64) -> Result<(map::Top, LeafPages), ReadError> {
    let pages = Mutex::new(LeafPages::new(file, expected));
    let parts = (0..1 << PART_BITS).into_par_iter().map(|number: u8| {
        let path = SubjectKey([number << (8 - PART_BITS); 32]);
        let (mut stored, mut read) = (StoredLeaves::new(store).all_under(path, PART_BITS), Vec::with_capacity(LEAVES));
        map::Part::load(path, PART_BITS, || {
            let leaf = stored()?.map(|leaf| leaf.hashed());
            read.extend(leaf);
            if read.len() == LEAVES || leaf.is_none() {
                pages.lock().unwrap_or_else(PoisonError::into_inner).put(&read)?;
                read.clear();
            }
            Ok::<_, ReadError>(leaf)
        })
    });
    let top = map::Top::of_parts(parts.collect::<Result<_, _>>()?);
    Ok((top, pages.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// The policy that the log says is in force: that of the entry its subject was last set by.
fn policy_in_force(options: &Options) -> Result<Policy, OpenError> {
    let store = &*options.store;
    let (digest, set_by) = match rows::subject(store, &Subject::Policy.key())?.binding {
        Binding::Never => return Ok(Policy::default()),
        Binding::Bound { digest, set_by } => (digest, set_by),
        Binding::Unbound { .. } => return Err(OpenError::Inconsistent("its policy is unbound".into())),
    };
    let entry = SignedEntry::decode(&rows::entry(store, set_by)?);
    if let Ok(Body::Record(_, statement)) = entry.map(|entry| entry.body)
        && let Kind::PolicyChange { policy, .. } = statement.kind
        && *policy.digest() == digest
    {
        return Ok(policy);
    }
    Err(OpenError::Inconsistent(format!("entry {set_by} does not hold the policy in force, {digest}")))
}

/// The principals that follow from every change in the log: their subject's history names the entries.
fn principals_in_force(options: &Options) -> Result<Principals, OpenError> {
    let store = &*options.store;
    let key = Subject::Principals.key();
    let mut principals = Principals::default();
    for version in rows::versions(store, &key, 0..rows::count(store, &key)?)? {
        let index = version.index;
        let broken = |why: String| OpenError::Inconsistent(format!("entry {index} is no change of principals: {why}"));
        let entry = SignedEntry::decode(&rows::entry(store, index)?).map_err(|error| broken(error.to_string()))?;
        let Body::Record(record, statement) = entry.body else { return Err(broken("it is a commitment".into())) };
        let Kind::PrincipalChange { change } = &statement.kind else {
            return Err(broken("it states something else".into()));
        };
        if record.outcome() == Outcome::Applied {
            principals = principals.after(change).map_err(|error| broken(error.to_string()))?;
            if record.detail != principals.summary() {
                return Err(broken(format!("it says {:?}, but leaves {}", record.detail, principals.summary())));
            }
        }
    }
    Ok(principals)
}

/// The key of a log that never changed it: of those that there are, the one that signed its checkpoint.
fn alone(head: &rows::Head, available: &[Vkey]) -> Chain {
    let signer = Checkpoint::open_by(&head.checkpoint, available.iter()).map(|(_, signer)| signer.clone());
    Chain::of(signer.unwrap_or_else(|_| available[0].clone()))
}

/// The keys that follow from every change in the log of this name, and when the last of these was recorded; none if there is none.
/// Each change has to be signed by the key that it replaces.
pub fn keys_in_log(store: &dyn Read, origin: &Origin) -> Result<Option<(Chain, u64)>, OpenError> {
    let key = Subject::Keys.key();
    let mut found: Option<(Chain, u64)> = None;
    for version in rows::versions(store, &key, 0..rows::count(store, &key)?)? {
        let index = version.index;
        let broken = |why: String| OpenError::Inconsistent(format!("entry {index} is no change of the key: {why}"));
        let entry = SignedEntry::decode(&rows::entry(store, index)?).map_err(|error| broken(error.to_string()))?;
        let Body::Record(record, statement) = &entry.body else { return Err(broken("it is a commitment".into())) };
        let Kind::KeyChange { change } = &statement.kind else { return Err(broken("it states something else".into())) };
        if record.outcome() != Outcome::Applied || change.vkey().origin() != origin {
            continue;
        }
        entry.verify(change.replaces()).map_err(|error| broken(error.to_string()))?;
        let before = found.map_or_else(|| Chain::of(change.replaces().clone()), |(keys, _)| keys);
        let after = before.after(change, index).map_err(|error| broken(error.to_string()))?;
        found = Some((after, version.recorded_at_us));
    }
    Ok(found)
}

/// The commitment that closes the log, once nothing lies beyond it.
fn last_commitment(options: &Options, head: &rows::Head, keys: &Chain) -> Result<proto::Commitment, OpenError> {
    let last = head.size.checked_sub(1).ok_or_else(|| OpenError::Inconsistent("it is empty".into()))?;
    let bytes = rows::entry(&*options.store, last)?;
    let damaged = |what: String| OpenError::Inconsistent(format!("its last entry, {last}: {what}"));
    let entry = SignedEntry::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
    entry.verify(keys.of_entry(last)).map_err(|error| damaged(error.to_string()))?;
    if rows::entry(&*options.store, head.size).is_ok() {
        return Err(OpenError::Inconsistent(format!("an entry lies beyond the checkpoint of size {}", head.size)));
    }
    match entry.body {
        Body::Commitment(commitment)
            if commitment.index == last && commitment.recorded_at_us == head.recorded_at_us =>
        {
            Ok(commitment)
        }
        _ => Err(damaged("it is not the commitment that closes the last batch".into())),
    }
}
