//! Deriving a ledger from its entries: every row that ought to exist, made by what made them the first time.
//!
//! The log is the database; all else follows from it. So a [`Derivation`] takes entries one after the other, plans each batch
//! again with the planner of the running ledger ([`super::plan`]), and writes the rows into a store of its own. The one thing
//! it can't do again is sign: entries are sealed with the bytes that were recorded (`Recorded`), which must be those that the
//! rules lead to; and the newest checkpoint is the one that was recorded. `fsck` compares what comes out with what is there,
//! `rebuild` and `restore` keep it. Under a new origin everything is signed anew instead.
//!
//! Whether the ledger signed the entries is looked at beforehand, side by side ([`examined`]).

use std::cell::RefCell;
use std::sync::Arc;

use super::known::Known;
use super::plan::{Accepted, Base, Seal, Sealed, Submission, Writer};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::entry::{Body, EntryError, SignedEntry};
use crate::ledger::hold::{Held, must_wait};
use crate::ledger::keys::{Chain, Keys as _};
use crate::ledger::map;
use crate::ledger::merkle::Hash;
use crate::ledger::note::{Origin, Skey, Vkey, without_others};
use crate::ledger::policy::Policy;
use crate::ledger::principals::Principals;
use crate::ledger::statement::{Kind, Statement};
use crate::proto::{self, Outcome};
use crate::store::leaf_pages::{LeafPages, ScratchError};
use crate::store::log_tree::LogTree;
use crate::store::rows::{self, Head};
use crate::store::{Batch, CommitError, ReadError, Store};

/// Entries that are examined at once.
pub const EXAMINED_AT_ONCE: usize = 2048;

/// So few entries are examined sooner than a thread begins.
const FEW: usize = 8;

/// Why no more can be derived. What came before the batch it is in is derived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// It is not what the rules make of all before it.
    #[error("entry {index} does not follow from the entries before it: {what}")]
    Unlike {
        /// Which entry.
        index: u64,
        /// How it differs.
        what: String,
    },
    /// What was derived can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was derived can't be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Keys that may have signed entries of a ledger: those that are known, and those that its entries bring. Which of them was to
/// sign an entry is told when it is derived.
#[derive(Debug, Clone)]
pub struct Signers(Vec<Vkey>);

impl Signers {
    /// These, of which there is at least one.
    pub fn new(known: impl IntoIterator<Item = Vkey>) -> Self {
        Self(known.into_iter().collect())
    }

    /// Also a key that an entry brings.
    fn learn(&mut self, entry: &SignedEntry) {
        if let Body::Record(_, statement) = &entry.body
            && let Kind::KeyChange { change } = &statement.kind
            && !self.0.contains(change.vkey())
        {
            self.0.push(change.vkey().clone());
        }
    }

    /// The key that an entry is signed by; neighbours mostly are by the same one.
    fn signer(&self, entry: &SignedEntry, before: &mut usize) -> Result<[u8; 32], EntryError> {
        let mut held = entry.verify(&self.0[*before]);
        if held.is_err()
            && let Some(other) = self.0.iter().position(|vkey| entry.verify(vkey).is_ok())
        {
            (held, *before) = (Ok(()), other);
        }
        held.map(|()| *self.0[*before].key().as_bytes())
    }
}

/// An entry that the ledger signed for its place.
#[derive(Debug)]
pub struct Fit {
    entry: SignedEntry,
    /// The key that it is signed by.
    signer: [u8; 32],
}

impl Fit {
    /// The keys after it, if it changes them, and the key in force signed it.
    pub fn keys_after(&self, keys: &Chain) -> Option<Chain> {
        let index = self.entry.body.index();
        if let Body::Record(record, statement) = &self.entry.body
            && let Kind::KeyChange { change } = &statement.kind
            && record.outcome() == Outcome::Applied
            && *keys.of_entry(index).key().as_bytes() == self.signer
        {
            return keys.after(change, index).ok();
        }
        None
    }
}

/// Checks of each entry that the ledger with these keys signed it for its place, on every processor there is.
pub fn examined(entries: &[Vec<u8>], first: u64, signers: &mut Signers) -> Vec<Result<Fit, Unfit>> {
    let decoded = side_by_side(entries.iter(), &|bytes: &Vec<u8>, _: &mut usize| SignedEntry::decode(bytes));
    decoded.iter().flatten().for_each(|entry| signers.learn(entry));
    let signers = &*signers;
    side_by_side((first..).zip(decoded), &|(index, decoded), before| {
        let entry = decoded?;
        let signer = signers.signer(&entry, before)?;
        if entry.body.index() == index { Ok(Fit { entry, signer }) } else { Err(Unfit::Index(entry.body.index())) }
    })
}

/// Does something with each, on every processor there is. What one leaves is for the next.
fn side_by_side<T: Send, U: Send>(all: impl Iterator<Item = T>, each: &(impl Fn(T, &mut usize) -> U + Sync)) -> Vec<U> {
    let run = |part: Vec<T>| {
        let mut before = 0;
        part.into_iter().map(|one| each(one, &mut before)).collect::<Vec<_>>()
    };
    let mut all: Vec<T> = all.collect();
    if all.len() < FEW {
        return run(all);
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let length = all.len().div_ceil(threads).max(1);
    let mut parts = Vec::with_capacity(threads);
    while !all.is_empty() {
        let rest = all.split_off(length.min(all.len()));
        parts.push(std::mem::replace(&mut all, rest));
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| run(part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("an examination does not panic")).collect()
    })
}

/// Why bytes are not the entry of their place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// They are no entry of this ledger.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// They are one of another place.
    #[error("it was signed as entry {0}")]
    Index(u64),
}

/// How what is planned becomes entries.
pub enum Sealing<'a> {
    /// With the bytes that were recorded.
    Recorded,
    /// Signed anew: another log with the same records.
    Anew(&'a Arc<Skey>),
}

/// A ledger that is being derived.
pub struct Derivation<'a> {
    store: &'a dyn Store,
    sealing: Sealing<'a>,
    tree: LogTree,
    top: map::Top,
    leaves: LeafPages,
    known: Known,
    last_time_us: u64,
    policy: Policy,
    principals: Arc<Principals>,
    /// Whose signatures the entries must have.
    signed_by: Chain,
    /// The same for what is derived: its own keys, where everything is signed anew.
    keys: Arc<Chain>,
    /// Entries of a batch whose commitment is still to come.
    open: Vec<(Vec<u8>, SignedEntry)>,
}

impl<'a> Derivation<'a> {
    /// Begins in an empty store, with the log that begins with this key.
    pub fn begin(store: &'a dyn Store, sealing: Sealing<'a>, first: &Vkey) -> Result<Self, DeriveError> {
        let file = store.scratch().map_err(|error| ReadError::from(ScratchError::from(error)))?;
        let keys = match &sealing {
            Sealing::Recorded => first.clone(),
            Sealing::Anew(skey) => skey.vkey(),
        };
        Ok(Self {
            store,
            sealing,
            tree: LogTree::default(),
            top: map::Top::default(),
            leaves: LeafPages::new(file, 0),
            known: Known::default(),
            last_time_us: 0,
            policy: Policy::default(),
            principals: Arc::default(),
            signed_by: Chain::of(first.clone()),
            keys: Arc::new(Chain::of(keys)),
            open: Vec::new(),
        })
    }

    /// Number of entries in whole batches: those whose rows are written.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The root over them.
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// Whose signatures the entries have.
    pub fn keys(&self) -> &Chain {
        &self.signed_by
    }

    /// Takes the next entry, which was examined. A commitment closes its batch, and brings it into the store.
    pub fn push(&mut self, bytes: Vec<u8>, fit: Fit) -> Result<(), DeriveError> {
        let Fit { entry, signer } = fit;
        let index = entry.body.index();
        let due = self.signed_by.of_entry(index);
        if *due.key().as_bytes() != signer {
            let what = format!("it is signed by another key than {due}, which was in force");
            return Err(DeriveError::Unlike { index, what });
        }
        if let Body::Record(record, statement) = &entry.body
            && let Kind::KeyChange { change } = &statement.kind
            && record.outcome() == Outcome::Applied
        {
            let after = self.signed_by.after(change, index);
            self.signed_by = after.map_err(|error| DeriveError::Unlike { index, what: error.to_string() })?;
        }
        let closes = matches!(entry.body, Body::Commitment(_));
        self.open.push((bytes, entry));
        if closes { self.close() } else { Ok(()) }
    }

    /// Writes the checkpoint that was recorded over what is derived. Before, the store is not a ledger.
    pub fn finish(self, checkpoint: String) -> Result<(), DeriveError> {
        let checkpoint = without_others(&checkpoint, self.keys.all());
        let mut batch = Batch::default();
        rows::put_head(&mut batch, &Head { size: self.size(), recorded_at_us: self.last_time_us, checkpoint });
        Ok(self.store.commit(self.size(), batch)?)
    }

    fn close(&mut self) -> Result<(), DeriveError> {
        let entries = std::mem::take(&mut self.open);
        let recorded = match &self.sealing {
            Sealing::Recorded => Some(Recorded::new(self.keys.first().origin(), &entries)),
            Sealing::Anew(_) => None,
        };
        let seal: &dyn Seal = match (&recorded, &self.sealing) {
            (Some(recorded), _) => recorded,
            (None, Sealing::Anew(skey)) => *skey,
            (None, Sealing::Recorded) => unreachable!("made above"),
        };
        let base = Base {
            read: self.store,
            known: &self.known,
            tree: &self.tree,
            top: &self.top,
            leaves: &self.leaves,
            last_time_us: self.last_time_us,
            policy: &self.policy,
            principals: &self.principals,
            keys: &self.keys,
            seal,
        };
        let mut writer = Writer::new(&base, 0);
        if self.tree.size() == 0 {
            rows::put_identity(&mut writer.batch, seal.origin().as_str());
        }
        let (mut at, mut before_us) = (0, self.last_time_us);
        while let Some((_, entry)) = entries.get(at) {
            let (index, time_us) = (entry.body.index(), entry.body.recorded_at_us());
            let unlike = |what: String| DeriveError::Unlike { index, what };
            if time_us <= before_us {
                return Err(unlike(format!("it was recorded at {time_us} us, the entry before it at {before_us} us")));
            }
            writer.next_time_us = time_us;
            let Body::Record(record, statement) = &entry.body else { break };
            if self.tree.size() == 0 {
                return Err(unlike("a log begins with a commitment".to_owned()));
            }
            judge(&writer, record, statement, seal.origin())?.map_err(unlike)?;
            let submission = Submission {
                statement: (**statement).clone(),
                bytes: record.statement.clone(),
                principal: record.principal.clone(),
                assurance: record.assurance(),
                producer: record.producer.clone(),
                shown: None,
                only_at_version: None,
            };
            let known = writer.overlay.event(&submission.principal, &submission.statement.event_id)?;
            match writer.accept(&submission, known)? {
                Accepted::New(receipt) => at += usize::try_from(receipt.entry_count).expect("a bounded number"),
                Accepted::Duplicate(event) => {
                    return Err(unlike(format!("its event id was recorded before, in entry {}", event.index)));
                }
            }
            before_us = entries[at.min(entries.len()) - 1].1.body.recorded_at_us();
        }
        let plan = writer.close(Vec::new())?;
        if let Some((index, what)) = recorded.and_then(Recorded::into_objection) {
            return Err(DeriveError::Unlike { index, what });
        }
        self.store.commit(self.tree.size(), plan.batch)?;
        self.leaves.put(&plan.leaves).map_err(ReadError::from)?;
        (self.tree, self.top, self.principals, self.keys) = (plan.tree, plan.top, plan.principals, plan.keys);
        if let Some(policy) = plan.policy {
            self.policy = policy;
        }
        drop(self.known.learn(plan.learned));
        self.last_time_us = plan.head.expect("a batch was closed").recorded_at_us;
        Ok(())
    }
}

/// Whether a ledger would have recorded a statement at all. Why not, if not.
fn judge(
    writer: &Writer<'_>,
    record: &proto::Record,
    statement: &Statement,
    origin: &Origin,
) -> Result<Result<(), String>, ReadError> {
    if writer.changes_key() {
        return Ok(Err("the entry before it changes the ledger's key, and a commitment is due".to_owned()));
    }
    if let Kind::KeyChange { change } = &statement.kind
        && change.vkey().origin() == origin
        && let Err(error) = writer.keys.after(change, record.index)
    {
        return Ok(Err(error.to_string()));
    }
    let principals = &writer.overlay.principals;
    if let Err(error) = principals.judge(record, statement) {
        return Ok(Err(error.to_string()));
    }
    if let Some(Held { tag, index }) = must_wait(&writer.overlay, statement)? {
        return Ok(Err(format!("the intent in entry {index} held the tag {tag}")));
    }
    if let Kind::PrincipalChange { change } = &statement.kind
        && !principals.are_as(change)
        && let Err(error) = principals.after(change)
    {
        return Ok(Err(error.to_string()));
    }
    Ok(Ok(()))
}

/// Seals a batch with the entries that were recorded of it, and objects where they are not those that were planned.
struct Recorded<'a> {
    origin: &'a Origin,
    entries: RefCell<std::slice::Iter<'a, (Vec<u8>, SignedEntry)>>,
    /// The first that differs, and how.
    objection: RefCell<Option<(u64, String)>>,
}

impl<'a> Recorded<'a> {
    fn new(origin: &'a Origin, entries: &'a [(Vec<u8>, SignedEntry)]) -> Self {
        Self { origin, entries: RefCell::new(entries.iter()), objection: RefCell::default() }
    }

    /// What differs; also an entry that is left over.
    fn into_objection(self) -> Option<(u64, String)> {
        let left = self.entries.into_inner().next();
        let left = left.map(|(_, entry)| (entry.body.index(), "it is one more than its batch has".to_owned()));
        self.objection.into_inner().or(left)
    }

    /// The next entry, which must say this.
    fn next(&self, index: u64, difference: impl FnOnce(&Body) -> Option<String>) -> Vec<u8> {
        let Some((bytes, entry)) = self.entries.borrow_mut().next() else {
            self.object(index, "it is missing: its batch ends before it".to_owned());
            return Vec::new();
        };
        if let Some(what) = difference(&entry.body) {
            self.object(index, what);
        }
        bytes.clone()
    }

    fn object(&self, index: u64, what: String) {
        self.objection.borrow_mut().get_or_insert((index, what));
    }
}

impl Seal for Recorded<'_> {
    fn records(&self, planned: Vec<proto::Record>) -> Sealed {
        let record = |planned: &proto::Record| {
            self.next(planned.index, |found| match found {
                Body::Record(found, _) => (**found != *planned).then(|| record_difference(planned, found)),
                Body::Commitment(_) => Some("it is a commitment, and a record is due".to_owned()),
            })
        };
        Sealed::Made(planned.iter().map(record).collect())
    }

    fn commitment(&self, planned: &proto::Commitment) -> Vec<u8> {
        self.next(planned.index, |found| match found {
            Body::Record(..) => Some("it is a record, and a commitment is due".to_owned()),
            Body::Commitment(found) => (found != planned).then(|| {
                format!(
                    "it commits to {} subjects with the map root {}, and the entries before it lead to {} with {}",
                    found.map_size,
                    hex::encode(&found.map_root),
                    planned.map_size,
                    hex::encode(&planned.map_root)
                )
            }),
        })
    }

    /// The one that was recorded comes at the end ([`Derivation::finish`]); those before it nobody kept.
    fn checkpoint(&self, _: &Checkpoint, _: bool) -> String {
        String::new()
    }

    fn can_change_to(&self, _: &Vkey) -> bool {
        true
    }

    fn origin(&self) -> &Origin {
        self.origin
    }
}

/// The first field in which a record is not what was planned.
fn record_difference(planned: &proto::Record, found: &proto::Record) -> String {
    let fields = |record: &proto::Record| {
        [
            ("index", record.index.to_string()),
            ("time", record.recorded_at_us.to_string()),
            ("outcome", record.outcome().as_str_name().to_owned()),
            ("rule", record.rule.clone()),
            ("detail", record.detail.clone()),
            ("subjects", format!("{:?}", record.subjects)),
        ]
    };
    let mut differences = fields(planned).into_iter().zip(fields(found)).filter(|(planned, found)| planned != found);
    match differences.next() {
        Some(((field, planned), (_, found))) => {
            format!("its {field} is {found:?}, and by the entries before it must be {planned:?}")
        }
        None => "it is not of the same statement as the entry before it".to_owned(),
    }
}
