//! Planning a batch: a pure function from what the store holds, a clock reading and the waiting requests to the rows to
//! commit and the answers to give. It touches nothing, so a model can check it.
//!
//! A request is all or none. Its statements are decided in order, each against the state the one before left; what was decided
//! is signed by other threads meanwhile, and then put into the log and into the histories. The batch closes with a commitment
//! to the subject map, and the signed checkpoint over all of it is among the rows: what is on disk after the commit is provable
//! at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use sha2::{Digest as _, Sha256};

use super::clock;
use super::known::{Bound, Events, Known, Learned};
use super::trial::Trial;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::entry::{MAX_ENTRY_LENGTH, entry_hash, sign_commitment, sign_record};
use crate::ledger::history::{history_leaf, map_leaf};
use crate::ledger::hold::{Held, must_wait};
use crate::ledger::keys::{self, Chain};
use crate::ledger::map::{self, LeafHash, LeafHashes};
use crate::ledger::merkle::Hash;
use crate::ledger::merkle::tree::MemoryNodes;
use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::note::{Origin, Skey, Vkey};
use crate::ledger::policy::Policy;
use crate::ledger::principals::authority::{Shown, Unauthorized};
use crate::ledger::principals::{ChangeError, Principals};
use crate::ledger::statement::{Kind, Statement};
use crate::ledger::subject::{Subject, SubjectKey};
use crate::ledger::transition::{Binding, Step, SubjectState, Touch, View, transition};
use crate::proto::{self, Outcome};
use crate::store::log_tree::LogTree;
use crate::store::rows::{self, Event, Head, SubjectRow, Version};
use crate::store::{Batch, Read, ReadError};

/// Most entries that one request becomes. A deletion by digest becomes one for every 256 tags that are bound to it.
const MAX_REQUEST_ENTRIES: usize = 2048;
/// Past so many entries nothing more is taken into a batch.
const FULL_BATCH: usize = 4096;
/// Records that are signed one after the other: fewer are not worth waking another thread for.
const SIGNED_IN_A_ROW: usize = 16;

/// A statement that passed the door: parsed, authenticated, its signature checked.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What it says.
    pub statement: Statement,
    /// Its producer's bytes, which are what is recorded.
    pub bytes: Vec<u8>,
    /// Whom the ledger authenticated.
    pub principal: String,
    /// How far.
    pub assurance: proto::Assurance,
    /// The producer's signature, already checked.
    pub producer: Option<proto::Producer>,
    /// What its principal showed to prove who it is, looked at again when it is recorded; `None`: it is the ledger's own.
    pub shown: Option<Shown>,
    /// Record it only if its tag's history has exactly this many entries.
    pub only_at_version: Option<u64>,
}

/// What a batch is planned on.
pub struct Base<'a> {
    /// What is committed, or at least all but the last batch.
    pub read: &'a dyn Read,
    /// What earlier batches left: the last one, wherever it is not committed yet.
    pub known: &'a Known,
    /// The tree over it.
    pub tree: &'a LogTree,
    /// The upper part of the subject map over it.
    pub top: &'a map::Top,
    /// The leaves of that map.
    pub leaves: &'a dyn LeafHashes<Error = ReadError>,
    /// Time of its last entry; 0 if there is none.
    pub last_time_us: u64,
    /// The rules in force after it.
    pub policy: &'a Policy,
    /// Who may state what after it.
    pub principals: &'a Arc<Principals>,
    /// Whose signatures are the ledger's after it.
    pub keys: &'a Arc<Chain>,
    /// What makes entries and checkpoint of it: the ledger's key.
    pub seal: &'a dyn Seal,
}

/// Makes entries of what is planned, and the checkpoint: the ledger's key signs them; [`super::derive`] has them from a log.
pub trait Seal {
    /// Begins to make the entries of records, which follow those that it was given before.
    fn records(&self, records: Vec<proto::Record>) -> Sealed;

    /// The entry of a commitment.
    fn commitment(&self, commitment: &proto::Commitment) -> Vec<u8>;

    /// The signed note of a checkpoint; of one over a change of the key, with the new key's line.
    fn checkpoint(&self, checkpoint: &Checkpoint, changes_key: bool) -> String;

    /// Whether it could go on with this key.
    fn can_change_to(&self, vkey: &Vkey) -> bool;

    /// The log's name.
    fn origin(&self) -> &Origin;
}

/// Entries that are made, or being made.
pub enum Sealed {
    /// These.
    Made(Vec<Vec<u8>>),
    /// By another thread.
    Begun(Receiver<Vec<Vec<u8>>>),
}

impl Sealed {
    fn wait(self) -> Vec<Vec<u8>> {
        match self {
            Self::Made(entries) => entries,
            Self::Begun(entries) => entries.recv().expect("whoever makes them hits no bug"),
        }
    }
}

/// Signs on other threads; whoever waits for what they make is none of rayon's.
impl Seal for Arc<Skey> {
    fn records(&self, records: Vec<proto::Record>) -> Sealed {
        let skey = Arc::clone(self);
        let is_few = records.len() < SIGNED_IN_A_ROW;
        let sign = move || records.iter().map(|record| sign_record(record, &skey)).collect();
        if is_few {
            return Sealed::Made(sign());
        }
        let (made, entries) = sync_channel(1);
        rayon::spawn(move || {
            // Nobody may wait for them any more. A bug ends whoever does, and not the process.
            let _ = catch_unwind(AssertUnwindSafe(|| made.send(sign())));
        });
        Sealed::Begun(entries)
    }

    fn commitment(&self, commitment: &proto::Commitment) -> Vec<u8> {
        sign_commitment(commitment, self)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, _: bool) -> String {
        checkpoint.sign(self)
    }

    fn can_change_to(&self, _: &Vkey) -> bool {
        false
    }

    fn origin(&self) -> &Origin {
        Skey::origin(self)
    }
}

/// A batch ready to be committed.
pub struct Plan {
    /// The rows. Empty if nothing new is to be recorded.
    pub batch: Batch,
    /// The tree after the commit.
    pub tree: LogTree,
    /// The upper part of the subject map after the commit.
    pub top: map::Top,
    /// The leaves that are then others than before, by rising key.
    pub leaves: Vec<LeafHash>,
    /// The rules in force after the commit, if they are others than before.
    pub policy: Option<Policy>,
    /// Who may state what after the commit.
    pub principals: Arc<Principals>,
    /// Whose signatures are the ledger's after the commit.
    pub keys: Arc<Chain>,
    /// The state of the log after the commit; `None`: nothing new is to be recorded.
    pub head: Option<Head>,
    /// The new entries, from `base.tree.size()` on.
    pub entries: Vec<Vec<u8>>,
    /// The subtrees the new entries complete, and the edge they grew on: enough to prove the new entries.
    pub nodes: MemoryNodes,
    /// For each request, in order, what became of it.
    pub decisions: Vec<Result<Vec<Accepted>, Rejected>>,
    /// What the next batch has to know.
    pub learned: Learned,
}

/// What became of one statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// Recorded.
    New(proto::Receipt),
    /// Its event id was known; this is where.
    Duplicate(Event),
}

/// Why a request was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// An event id is taken.
    #[error("the event id {event_id:?} was used for another statement, recorded as entry {index}; use a new id")]
    Conflict {
        /// Which statement of the request.
        position: usize,
        /// Of how many.
        of: usize,
        /// The id.
        event_id: String,
        /// Its first entry.
        index: u64,
    },
    /// A tag is held by somebody who is about to change it.
    #[error(
        "tag {tag} is held by the intent in entry {index}, of which it is not known yet what became; ask again later"
    )]
    Held {
        /// Which tag.
        tag: String,
        /// Index of the intent.
        index: u64,
    },
    /// Who sends it may not state this, or may no longer: the principals may have changed since it was let in.
    #[error("{unauthorized}")]
    Unauthorized {
        /// Which statement of the request.
        position: usize,
        /// Of how many.
        of: usize,
        /// Why.
        unauthorized: Unauthorized,
    },
    /// A change of principals that is not made.
    #[error("{error}")]
    Principals {
        /// Which statement of the request.
        position: usize,
        /// Of how many.
        of: usize,
        /// Why.
        error: ChangeError,
    },
    /// A change of the ledger's key that is not made.
    #[error("{error}")]
    Keys {
        /// Which statement of the request.
        position: usize,
        /// Of how many.
        of: usize,
        /// Why.
        error: KeyChangeError,
    },
    /// It would become too many entries.
    #[error(
        "the statements of this request would become more than {MAX_REQUEST_ENTRIES} entries, for a deletion by digest becomes one for every 256 tags that were ever bound to the digest; send fewer of them in one request"
    )]
    TooManyEntries,
    /// Others have become so many entries already that these come later.
    #[error("the ledger is recording deletions that become very many entries; send it once more")]
    BatchIsFull,
    /// The batch ends with a change of the ledger's key.
    #[error("the ledger is just changing its key; send it once more")]
    ChangingKey,
    /// The tag has new entries.
    #[error("the tag's history has {found} entries, not {expected}")]
    Changed {
        /// What the caller saw.
        expected: u64,
        /// What there is.
        found: u64,
    },
}

/// Why the ledger does not change its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyChangeError {
    /// It does not fit.
    #[error(transparent)]
    Unfit(#[from] keys::ChangeError),
    /// Nobody could sign afterwards.
    #[error(
        "the ledger does not have the private key of {0}; make one with tagledgerd key prepare, on its machine, and announce that"
    )]
    NotPrepared(String),
    /// Its batch ends with it.
    #[error("a change of the ledger's key is sent alone, not together with other statements")]
    NotAlone,
}

/// Plans the batch for `requests`. A change of the key ends it: what comes after belongs into the next.
pub fn plan(base: &Base<'_>, reading_us: u64, requests: &[Vec<Submission>]) -> Result<Plan, ReadError> {
    let mut writer = Writer::new(base, clock::next_time(base.last_time_us, reading_us));
    let mut decisions = Vec::with_capacity(requests.len());
    for request in requests {
        decisions.push(if writer.changes_key() {
            Err(Rejected::ChangingKey)
        } else if writer.places.len() >= FULL_BATCH {
            Err(Rejected::BatchIsFull)
        } else {
            writer.decide(request)?
        });
    }
    writer.finish(decisions)
}

/// Plans a batch of nothing but its commitment: until now nothing else was recorded.
pub fn plan_idle(base: &Base<'_>, reading_us: u64) -> Result<Plan, ReadError> {
    Writer::new(base, clock::next_time(base.last_time_us, reading_us)).close(Vec::new())
}

/// Plans the first batch of a new ledger: its identity, and a commitment over nothing.
pub fn plan_genesis(base: &Base<'_>, reading_us: u64) -> Result<Plan, ReadError> {
    let mut writer = Writer::new(base, reading_us.max(1));
    rows::put_identity(&mut writer.batch, base.seal.origin().as_str());
    writer.close(Vec::new())
}

/// Collects a batch.
pub(super) struct Writer<'a> {
    base: &'a Base<'a>,
    pub(super) next_time_us: u64,
    pub(super) batch: Batch,
    tree: LogTree,
    top: map::Top,
    /// The map's leaves that change, once they are known.
    leaves: Vec<LeafHash>,
    /// Set once the batch has changed it.
    policy: Option<Policy>,
    new_nodes: MemoryNodes,
    /// Records that are decided, and yet to be signed.
    records: Vec<proto::Record>,
    /// What becomes of those before them.
    sealed: Vec<Sealed>,
    /// For each record that is decided its places in histories.
    places: Vec<Vec<Place>>,
    entries: Vec<Vec<u8>>,
    pub(super) overlay: Overlay<'a>,
    /// Whose signatures are the ledger's after it.
    pub(super) keys: Arc<Chain>,
}

/// A place in a history, and what comes there.
struct Place {
    key: SubjectKey,
    number: u64,
    version: Version,
}

impl<'a> Writer<'a> {
    pub(super) fn new(base: &'a Base<'a>, first_time_us: u64) -> Self {
        Self {
            base,
            next_time_us: first_time_us,
            batch: Batch::default(),
            tree: base.tree.clone(),
            top: base.top.clone(),
            leaves: Vec::new(),
            policy: None,
            new_nodes: base.tree.edge().collect(),
            records: Vec::new(),
            sealed: Vec::new(),
            places: Vec::new(),
            entries: Vec::new(),
            overlay: Overlay {
                read: base.read,
                known: base.known,
                leaves: base.leaves,
                subjects: RefCell::default(),
                changed: BTreeSet::new(),
                bound: Bound::new(),
                events: Events::new(),
                principals: Arc::clone(base.principals),
                origin: base.seal.origin(),
            },
            keys: Arc::clone(base.keys),
        }
    }

    /// Whether the batch changes the ledger's key, and so is at its end.
    pub(super) fn changes_key(&self) -> bool {
        !Arc::ptr_eq(&self.keys, self.base.keys)
    }

    /// Plans a request, all of it or nothing.
    fn decide(&mut self, request: &[Submission]) -> Result<Result<Vec<Accepted>, Rejected>, ReadError> {
        let known = match self.known(request)? {
            Err(rejected) => return Ok(Err(rejected)),
            Ok(known) => known,
        };
        let accepted = request.iter().zip(known).map(|(submission, known)| self.accept(submission, known));
        accepted.collect::<Result<_, _>>().map(Ok)
    }

    /// Where the event ids of a request were used before it, or why it can't be recorded. Looks at all of it before anything of it
    /// is planned.
    fn known(&self, request: &[Submission]) -> Result<Result<Vec<Option<Event>>, Rejected>, ReadError> {
        let mut all_known = Vec::with_capacity(request.len());
        let mut own: HashMap<(&str, &str), [u8; 32]> = HashMap::new();
        // As each statement of the request finds them: one may change them for the next.
        let mut principals = Arc::clone(&self.overlay.principals);
        for (position, submission) in request.iter().enumerate() {
            let of = request.len();
            let Submission { principal, shown, statement, .. } = submission;
            if let Err(unauthorized) = principals.admits(principal, shown.as_ref(), statement) {
                return Ok(Err(Rejected::Unauthorized { position, of, unauthorized }));
            }
            let event_id = submission.statement.event_id.as_str();
            let known = self.overlay.event(principal, event_id)?;
            // What is known is answered with its first entry, whatever the tag's history is by now.
            if let (Some(expected), None) = (submission.only_at_version, &known) {
                let found = match crate::ledger::subject::tag_of(&submission.statement) {
                    Some(tag) => self.overlay.subject(&Subject::Tag(tag).key())?.count,
                    None => 0,
                };
                if found != expected {
                    return Ok(Err(Rejected::Changed { expected, found }));
                }
            }
            if let (Kind::PrincipalChange { change }, None) = (&statement.kind, &known)
                && !own.contains_key(&(principal.as_str(), event_id))
                && !principals.are_as(change)
            {
                match principals.after_shown(change, shown.as_ref()) {
                    Ok(after) => principals = Arc::new(after),
                    Err(error) => return Ok(Err(Rejected::Principals { position, of, error })),
                }
            }
            if let (Kind::KeyChange { change }, None) = (&statement.kind, &known) {
                let fits = match self.keys.after(change, self.next_index()) {
                    _ if of > 1 => Err(KeyChangeError::NotAlone),
                    Err(error) => Err(error.into()),
                    Ok(_) if !self.base.seal.can_change_to(change.vkey()) => {
                        Err(KeyChangeError::NotPrepared(change.vkey().to_string()))
                    }
                    Ok(_) => Ok(()),
                };
                if let Err(error) = fits {
                    return Ok(Err(Rejected::Keys { position, of, error }));
                }
            }
            if event_id.is_empty() {
                all_known.push(None);
                continue;
            }
            let hash: [u8; 32] = Sha256::digest(&submission.bytes).into();
            let conflict = match (&known, own.get(&(submission.principal.as_str(), event_id))) {
                (Some(event), _) => (event.statement_hash != hash).then_some(event.index),
                // Twice in one request: the first of them would get the next index.
                (None, Some(first)) => (*first != hash).then_some(self.next_index()),
                (None, None) => None,
            };
            if let Some(index) = conflict {
                return Ok(Err(Rejected::Conflict { position, of, event_id: event_id.to_owned(), index }));
            }
            own.insert((&submission.principal, event_id), hash);
            all_known.push(known);
        }
        Ok(self.held(request, &all_known)?.map_or(Ok(all_known), Err))
    }

    /// Whether something in a request has to wait for the intent of somebody else, or for an earlier one of its own. Tries the
    /// statements one after the other, as they would be recorded.
    fn held(&self, request: &[Submission], known: &[Option<Event>]) -> Result<Option<Rejected>, ReadError> {
        let mut trial = Trial::new(&self.overlay);
        let mut policy = self.policy.as_ref().unwrap_or(self.base.policy);
        let (mut index, mut entries) = (self.next_index(), 0);
        let mut tried: BTreeSet<(&str, &str)> = BTreeSet::new();
        for (position, Submission { statement, principal, .. }) in request.iter().enumerate() {
            let id = (principal.as_str(), statement.event_id.as_str());
            if !id.1.is_empty() && (!tried.insert(id) || known[position].is_some()) {
                // A repetition is answered with its first entry, whoever holds the tag by now.
                continue;
            }
            if let Some(Held { tag, index }) = must_wait(&trial, statement)? {
                return Ok(Some(Rejected::Held { tag: tag.to_string(), index }));
            }
            // The last one is decided when it is planned, unless that could become too much.
            if position + 1 == request.len() && !matches!(statement.kind, Kind::ManifestDelete { .. }) {
                break;
            }
            let steps = transition(&trial, policy, principal, statement, index)?;
            if let (Kind::PolicyChange { policy: changed, .. }, Outcome::Applied) = (&statement.kind, steps[0].outcome)
            {
                policy = changed;
            }
            entries += steps.len();
            if entries > MAX_REQUEST_ENTRIES {
                return Ok(Some(Rejected::TooManyEntries));
            }
            index += u64::try_from(steps.len()).expect("a statement becomes a bounded number of entries");
            trial.apply(&steps);
        }
        Ok(None)
    }

    /// Plans one statement. `known`: where its event id was used before its request.
    pub(super) fn accept(&mut self, submission: &Submission, known: Option<Event>) -> Result<Accepted, ReadError> {
        let event_id = submission.statement.event_id.as_str();
        let event_key = (!event_id.is_empty()).then(|| rows::event_key(&submission.principal, event_id));
        if let Some(event) = known.or_else(|| self.overlay.planned_event(event_key.as_ref()?)) {
            return Ok(Accepted::Duplicate(event));
        }
        let index = self.next_index();
        let policy = self.policy.as_ref().unwrap_or(self.base.policy);
        let steps = transition(&self.overlay, policy, &submission.principal, &submission.statement, index)?;
        for step in &steps {
            self.record(submission, step)?;
            if let (Kind::PolicyChange { policy, .. }, Outcome::Applied) = (&submission.statement.kind, step.outcome) {
                // In force from the next entry on.
                self.policy = Some(policy.clone());
            }
            if let (Kind::PrincipalChange { change }, Outcome::Applied) = (&submission.statement.kind, step.outcome) {
                let after = self.overlay.principals.after(change);
                self.overlay.principals = Arc::new(after.expect("a change that is refused is not recorded"));
            }
            if let (Kind::KeyChange { change }, Outcome::Applied) = (&submission.statement.kind, step.outcome) {
                let after = self.keys.after(change, index);
                self.keys = Arc::new(after.expect("a change that is refused is not recorded"));
            }
        }
        let entry_count = u32::try_from(steps.len()).expect("a statement becomes a bounded number of entries");
        if let Some(key) = event_key {
            let statement_hash = Sha256::digest(&submission.bytes).into();
            let event = Event { index, entry_count, statement_hash };
            rows::put_event(&mut self.batch, &key, &event);
            self.overlay.events.insert(key, event);
        }
        let first = steps.into_iter().next().expect("every statement becomes at least one entry");
        let binding = first.touches.iter().find(|touch| matches!(touch.subject, Subject::Tag(_))).map(|touch| {
            let set_by = match touch.after {
                Binding::Never => 0,
                Binding::Bound { set_by, .. } | Binding::Unbound { set_by, .. } => set_by,
            };
            let digest = touch.after.digest().map(Digest::to_string).unwrap_or_default();
            proto::Binding { digest, set_by, ever_bound: touch.after != Binding::Never }
        });
        Ok(Accepted::New(proto::Receipt {
            index,
            entry_count,
            outcome: first.outcome.into(),
            rule: first.rule,
            detail: first.detail,
            duplicate: false,
            binding,
        }))
    }

    /// The index of the next entry.
    fn next_index(&self) -> u64 {
        self.tree.size() + u64::try_from(self.places.len()).expect("a batch is in memory")
    }

    fn record(&mut self, submission: &Submission, step: &Step) -> Result<(), ReadError> {
        let (index, recorded_at_us) = (self.next_index(), self.next_time_us);
        self.records.push(proto::Record {
            index,
            recorded_at_us,
            statement: submission.bytes.clone(),
            principal: submission.principal.clone(),
            assurance: submission.assurance.into(),
            producer: submission.producer.clone(),
            outcome: step.outcome.into(),
            rule: step.rule.clone(),
            detail: step.detail.clone(),
            subjects: step.touches.iter().map(named).collect(),
        });
        self.next_time_us += 1;
        let mut places = Vec::with_capacity(step.touches.len());
        for touch in &step.touches {
            let version = Version { index, recorded_at_us, effective: touch.after.effective() };
            places.push(self.touch(touch, version)?);
        }
        self.places.push(places);
        if self.records.len() == SIGNED_IN_A_ROW {
            self.sealed.push(self.base.seal.records(std::mem::take(&mut self.records)));
        }
        Ok(())
    }

    /// Plans what a record makes of a subject, except of its history: that takes the record's hash.
    fn touch(&mut self, touch: &Touch, version: Version) -> Result<Place, ReadError> {
        let key = touch.key;
        let subject = self.overlay.change(key)?;
        assert_eq!(subject.count, touch.version, "the rules count the entries of a history as it does");
        subject.count += 1;
        subject.row.binding = touch.after.clone();
        subject.row.hold = touch.hold.clone();
        let place = Place { key, number: touch.version, version };
        let Subject::Tag(name) = &touch.subject else { return Ok(place) };
        if touch.before.digest() == touch.after.digest() {
            return Ok(place);
        }
        for (digest, is_bound) in [(touch.before.digest(), false), (touch.after.digest(), true)] {
            let Some(digest) = digest else { continue };
            let key = rows::bound_key(&name.registry, &name.repository, digest, &name.tag);
            rows::put_bound(&mut self.batch, &key, is_bound);
            self.overlay.bound.push((key, is_bound));
        }
        Ok(place)
    }

    /// Signs the rest of what was decided, and puts all of it into the log and the histories.
    fn seal(&mut self) {
        let subjects = self.overlay.subjects.get_mut();
        let first = self.tree.size();
        let last = self.base.seal.records(std::mem::take(&mut self.records));
        let entries = std::mem::take(&mut self.sealed).into_iter().chain([last]).flat_map(Sealed::wait);
        let mut completed = Vec::new();
        for (index, (entry, places)) in (first..).zip(entries.zip(std::mem::take(&mut self.places))) {
            let hash = push(&mut self.batch, &mut self.tree, &mut self.new_nodes, &entry);
            self.entries.push(entry);
            for Place { key, number, version } in places {
                let history = &mut subjects.get_mut(&key).expect("it was touched").row.history;
                assert_eq!(history.size(), number, "histories grow in the order of their entries");
                completed.clear();
                let leaf = history_leaf(index, &hash, version.effective);
                history.append(leaf, |node| completed.extend((node.level > 0).then_some(node.hash)));
                rows::put_version(&mut self.batch, &key, number, &version, &completed);
            }
        }
    }

    /// Writes what became of the subjects, and appends the commitment that closes the batch.
    fn commit(&mut self) -> Result<(), ReadError> {
        let subjects = self.overlay.subjects.get_mut();
        let mut leaves = Vec::with_capacity(self.overlay.changed.len());
        for key in &self.overlay.changed {
            let row = &subjects[key].row;
            rows::put_subject(&mut self.batch, key, row);
            leaves.push(map_leaf(*key, &row.history).hashed());
        }
        self.top.update(self.base.leaves, &leaves)?;
        self.leaves = leaves;
        let commitment = proto::Commitment {
            index: self.tree.size(),
            recorded_at_us: self.next_time_us,
            map_root: self.top.root().to_vec(),
            map_size: self.top.size(),
        };
        self.next_time_us += 1;
        let entry = self.base.seal.commitment(&commitment);
        push(&mut self.batch, &mut self.tree, &mut self.new_nodes, &entry);
        self.entries.push(entry);
        Ok(())
    }

    fn finish(self, decisions: Vec<Result<Vec<Accepted>, Rejected>>) -> Result<Plan, ReadError> {
        if self.places.is_empty() {
            // Nothing but duplicates and refusals: the state of the log stays.
            return Ok(self.into_plan(None, decisions));
        }
        self.close(decisions)
    }

    /// Ends the batch with its commitment and the checkpoint over all of it.
    pub(super) fn close(mut self, decisions: Vec<Result<Vec<Accepted>, Rejected>>) -> Result<Plan, ReadError> {
        self.seal();
        self.commit()?;
        let checkpoint = Checkpoint { size: self.tree.size(), root: self.tree.root() };
        let checkpoint = self.base.seal.checkpoint(&checkpoint, self.changes_key());
        let head = Head { size: self.tree.size(), recorded_at_us: self.next_time_us - 1, checkpoint };
        rows::put_head(&mut self.batch, &head);
        Ok(self.into_plan(Some(head), decisions))
    }

    fn into_plan(self, head: Option<Head>, decisions: Vec<Result<Vec<Accepted>, Rejected>>) -> Plan {
        Plan {
            batch: self.batch,
            tree: self.tree,
            top: self.top,
            leaves: self.leaves,
            policy: self.policy,
            principals: self.overlay.principals,
            keys: self.keys,
            head,
            entries: self.entries,
            nodes: self.new_nodes,
            decisions,
            learned: Learned {
                subjects: self.overlay.subjects.into_inner().into_iter().map(|(key, seen)| (key, seen.row)).collect(),
                bound: self.overlay.bound,
                events: self.overlay.events,
            },
        }
    }
}

/// Appends an entry to the log, and returns its leaf hash.
fn push(batch: &mut Batch, tree: &mut LogTree, new_nodes: &mut MemoryNodes, entry: &[u8]) -> Hash {
    assert!(entry.len() <= MAX_ENTRY_LENGTH, "the limits on statements and tags keep entries below 65,535 bytes");
    let leaf = entry_hash(entry);
    rows::put_entry(batch, tree.size(), &leaf, entry);
    tree.append(leaf, batch, |node| new_nodes.insert(node));
    leaf
}

fn named(touch: &Touch) -> proto::Subject {
    proto::Subject { kind: touch.subject.kind().into(), version: touch.version, name: touch.name.clone() }
}

/// What is committed or known, and on top of it what this batch has planned so far.
pub(super) struct Overlay<'a> {
    read: &'a dyn Read,
    known: &'a Known,
    /// What the map says of the subjects that were read.
    leaves: &'a dyn LeafHashes<Error = ReadError>,
    /// Every subject looked at: each is asked for several times.
    subjects: RefCell<HashMap<SubjectKey, Seen>>,
    /// Which of them this batch changes.
    changed: BTreeSet<SubjectKey>,
    bound: Bound,
    events: Events,
    /// In force for the next entry.
    pub(super) principals: Arc<Principals>,
    origin: &'a Origin,
}

/// A subject, as far as it is planned.
struct Seen {
    /// Its history without the entries that are yet to be signed.
    row: SubjectRow,
    /// Number of entries in its history, with those.
    count: u64,
}

impl Seen {
    fn state(&self) -> SubjectState {
        SubjectState { count: self.count, ..self.row.state() }
    }
}

impl Overlay<'_> {
    fn look(&self, key: &SubjectKey) -> Result<Seen, ReadError> {
        let row = match self.known.subject(key) {
            Some(row) => row.clone(),
            None => rows::subject_in(self.read, self.leaves, key)?,
        };
        Ok(Seen { count: row.history.size(), row })
    }

    /// A subject, to be changed.
    fn change(&mut self, key: SubjectKey) -> Result<&mut Seen, ReadError> {
        self.changed.insert(key);
        if !self.subjects.get_mut().contains_key(&key) {
            let seen = self.look(&key)?;
            self.subjects.get_mut().insert(key, seen);
        }
        Ok(self.subjects.get_mut().get_mut(&key).expect("it was looked at"))
    }

    /// The tags that are or ever were bound to a digest, and whether they are.
    fn ever_bound(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<BTreeMap<Tag, bool>, ReadError> {
        let mut tags: BTreeMap<Tag, bool> =
            rows::ever_bound(self.read, registry, repository, digest)?.into_iter().collect();
        let prefix = rows::bound_prefix(registry, repository, digest);
        for (key, is_bound) in self.known.bound().iter().chain(&self.bound) {
            tags.extend(rows::bound_tag(key, &prefix).map(|tag| (tag, *is_bound)));
        }
        Ok(tags)
    }

    /// Where an event id was first used; an empty one is none.
    pub(super) fn event(&self, principal: &str, event_id: &str) -> Result<Option<Event>, ReadError> {
        if event_id.is_empty() {
            return Ok(None);
        }
        let key = rows::event_key(principal, event_id);
        self.planned_event(&key).map_or_else(|| rows::event(self.read, &key), |planned| Ok(Some(planned)))
    }

    /// The same, of what the store may not have yet.
    fn planned_event(&self, key: &[u8]) -> Option<Event> {
        self.events.get(key).or_else(|| self.known.events().get(key)).cloned()
    }
}

impl View for Overlay<'_> {
    type Error = ReadError;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, ReadError> {
        if let Some(seen) = self.subjects.borrow().get(key) {
            return Ok(seen.state());
        }
        let seen = self.look(key)?;
        let state = seen.state();
        self.subjects.borrow_mut().insert(*key, seen);
        Ok(state)
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, ReadError> {
        let tags = self.ever_bound(registry, repository, digest)?;
        Ok(tags.into_iter().filter(|(_, is_bound)| *is_bound).map(|(tag, _)| tag).collect())
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, ReadError> {
        Ok(self.ever_bound(registry, repository, digest)?.into_keys().collect())
    }

    fn principals(&self) -> Arc<Principals> {
        Arc::clone(&self.principals)
    }

    fn origin(&self) -> Option<&Origin> {
        Some(self.origin)
    }
}
