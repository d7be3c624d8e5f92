//! Replaying a log: the whole state machine, fed with entries in order, that refuses the first entry which is not exactly
//! what the rules make of all before it.
//!
//! A log is more than its entries: outcomes, versions, histories and the subject map follow from them, and so do the policy and
//! the principals.
//! [`Replay`] works all of that out anew and compares. What an honest ledger wrote passes; whatever it changed, left out,
//! judged otherwise or hid in a history is found at the entry where it happened, or at the commitment after it. It checks, of
//! each entry:
//!
//! - that it is canonically encoded and signed by the ledger ([`examine`], which needs no state and so can run in parallel);
//! - its index, and that time rises;
//! - of a record: the form of principal and producer; that the principals in force before it allow its principal to state this,
//!   with this assurance and signature; that its event id is new; that outcome, rule, detail and subjects with
//!   their versions and names are what [`transition`] gives under the policy in force; that a statement with several entries
//!   has all of them, one after the other;
//! - of a commitment: that its map root and size are those of the map over everything before it.
//!
//! What can't be seen from the log alone is left out: whether a principal that did not sign was there at all, and whether
//! somebody else was shown another log (compare [`Replay::root`] with checkpoints). Records from before the first principal change
//! are nobody's to judge; [`Counts::unjudged`] tells how many.
//! [`state`] saves a replay, to go on from there another day.

pub mod state;
mod subjects;
#[cfg(test)]
mod tests;
pub mod what_if;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::subjects::{Kept, Subjects};
use self::what_if::WhatIf;
use super::answer::subject_words;
use super::checkpoint::Checkpoint;
use super::entry::{Body, EntryError, SignedEntry, entry_hash};
use super::history::history_leaf;
use super::hold::{Held, must_wait};
use super::keys::{self, Chain, Keys};
use super::map::Top;
use super::merkle::{Hash, Tree};
use super::note::Vkey;
use super::policy::Policy;
use super::principals::authority::Unauthorized;
use super::principals::{ChangeError, Principals};
use super::statement::{Kind, Statement, check_text};
use super::subject::{SubjectKey, named_by};
use super::time::rfc3339;
use super::transition::{Step, transition};
use crate::proto::{self, Outcome};

/// Longest name of a principal, in bytes.
const MAX_PRINCIPAL_LENGTH: usize = 128;

/// The first entry that is not what it must be. Nothing after it means anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index}: {lie}")]
pub struct ReplayError {
    /// Its position in the log.
    pub index: u64,
    /// What is wrong with it.
    pub lie: Lie,
}

/// How an entry differs from what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Not an entry, or not one that this ledger signed.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Signed for another place.
    #[error("it was signed as entry {signed}")]
    Index {
        /// The place.
        signed: u64,
    },
    /// Time does not rise.
    #[error("it was recorded at {}, which is not after the entry before it, {}", rfc3339(*time_us), rfc3339(*before_us))]
    Time {
        /// Its time.
        time_us: u64,
        /// The time of the entry before it.
        before_us: u64,
    },
    /// A log begins with a commitment over nothing.
    #[error("a log begins with a commitment, and this is a record")]
    Beginning,
    /// A name or key id that no ledger writes.
    #[error("{field} {problem}")]
    Form {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Its principal may not state this, or not so.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    /// Signed by another key than the log says.
    #[error("it is signed by another key than {in_force}, which was in force")]
    Key {
        /// The key in force.
        in_force: String,
    },
    /// A change of the ledger's key that no ledger makes.
    #[error(transparent)]
    Keys(#[from] keys::ChangeError),
    /// The batch of such a change goes on.
    #[error("the entry before it changes the ledger's key, and this must be the commitment that closes its batch")]
    Unclosed,
    /// A change of principals that no ledger makes.
    #[error(transparent)]
    Principals(#[from] ChangeError),
    /// The same event id twice: an honest ledger answers the second time with the first entry.
    #[error("the event id {event_id:?} of principal {principal:?} was recorded before, and may not be recorded twice")]
    Repeated {
        /// Whose.
        principal: String,
        /// The id.
        event_id: String,
    },
    /// A statement needs several entries, and they are not all there.
    #[error("entry {first} began a deletion that takes {total} entries; this must be number {number} of them: {found}")]
    Unfinished {
        /// Its first entry.
        first: u64,
        /// How many it takes.
        total: u64,
        /// Which of them is due, from 1.
        number: u64,
        /// What is there instead.
        found: &'static str,
    },
    /// Asked or intended about a tag that somebody else held.
    #[error("it asks to change the tag {tag}, which the intent in entry {holder} held")]
    Held {
        /// The tag.
        tag: String,
        /// Index of the intent.
        holder: u64,
    },
    /// Another outcome than the rules give.
    #[error("its outcome is {}, but by the rules it is {}{}", found.as_str_name().trim_start_matches("OUTCOME_"),
        expected.as_str_name().trim_start_matches("OUTCOME_"), because(detail))]
    Outcome {
        /// What follows from the rules.
        expected: Outcome,
        /// What was recorded.
        found: Outcome,
        /// What the rules say about it.
        detail: String,
    },
    /// Another reason than the rules give.
    #[error("its {field} is {found:?}, but by the rules it is {expected:?}")]
    Reason {
        /// `rule` or `detail`.
        field: &'static str,
        /// What follows from the rules.
        expected: String,
        /// What was recorded.
        found: String,
    },
    /// A subject that is not what the rules give: another one, another version, one too many or too few.
    #[error("subject {} of the record is {found}, but by the rules it is {expected}", position + 1)]
    Subject {
        /// Position in the record, from 0.
        position: usize,
        /// What follows from the rules.
        expected: String,
        /// What was recorded.
        found: String,
    },
    /// The map over everything before it has another root.
    #[error(
        "it commits to the map root {}, but that of everything before it is {}",
        hex::encode(found),
        hex::encode(expected)
    )]
    MapRoot {
        /// What follows from the entries.
        expected: Hash,
        /// What was committed to.
        found: Hash,
    },
    /// The map over everything before it has another size.
    #[error("it commits to a map of {found} subjects, but that of everything before it has {expected}")]
    MapSize {
        /// What follows from the entries.
        expected: u64,
        /// What was committed to.
        found: u64,
    },
}

fn because(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// Why entries are not those of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointLie {
    /// It stands for another number of entries.
    #[error("the checkpoint is of size {found}, and {replayed} entries were replayed")]
    Size {
        /// The checkpoint's.
        found: u64,
        /// The replay's.
        replayed: u64,
    },
    /// It ends within a batch.
    #[error("the checkpoint of size {size} does not end with a commitment")]
    NotClosed {
        /// Its size.
        size: u64,
    },
    /// It stands for other entries.
    #[error(
        "the checkpoint of size {size} has the root {}, but the entries have {}",
        hex::encode(found),
        hex::encode(expected)
    )]
    Root {
        /// Its size.
        size: u64,
        /// What follows from the entries.
        expected: Hash,
        /// What it says.
        found: Hash,
    },
}

/// What was replayed, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Commitments, each with its map root.
    pub commitments: u64,
    /// Records, by the number of their outcome.
    pub outcomes: [u64; 8],
    /// Records from before there was a principal: whose they are is not judged.
    pub unjudged: u64,
}

impl Counts {
    /// All records.
    pub fn records(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Records with an outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }
}

/// An entry that is encoded and signed as it must be; what it says is yet to be compared.
#[derive(Debug)]
pub struct Examined {
    bytes: Vec<u8>,
    hash: Hash,
    entry: SignedEntry,
    /// The key under which its signature held.
    signer: [u8; 32],
}

/// Checks what can be checked of an entry by itself: its encoding, and the ledger's signature by the key that is said to have
/// been in force. Whether it was, the replay tells.
pub fn examine(bytes: &[u8], keys: &impl Keys) -> Result<Examined, EntryError> {
    let entry = SignedEntry::decode(bytes)?;
    let vkey = keys.of_entry(entry.body.index());
    entry.verify(vkey)?;
    let signer = *vkey.key().as_bytes();
    Ok(Examined { bytes: bytes.to_vec(), hash: entry_hash(bytes), entry, signer })
}

/// The state that follows from the first entries of a log.
pub struct Replay {
    /// As the log itself says.
    keys: Chain,
    log: Tree,
    last_time_us: u64,
    /// The last entry, if it is a commitment.
    closed_by: Option<Vec<u8>>,
    policy: Policy,
    subjects: Subjects,
    /// The upper part of the map as of the last commitment.
    top: Top,
    /// Subjects with new entries since, and whether they are new themselves.
    changed: BTreeMap<SubjectKey, bool>,
    /// Hashes of the event ids in use.
    events: HashSet<[u8; 32]>,
    unfinished: Option<Unfinished>,
    counts: Counts,
    what_if: Option<WhatIf>,
}

/// The entries that a statement still has to get.
struct Unfinished {
    first: u64,
    total: u64,
    /// Its first record: the others repeat all of it that the producer said or was.
    record: proto::Record,
    steps: VecDeque<Step>,
}

impl Unfinished {
    /// What is there instead of its next entry.
    fn lie(&self, found: &'static str) -> Lie {
        let left = u64::try_from(self.steps.len()).expect("a bounded number");
        Lie::Unfinished { first: self.first, total: self.total, number: self.total - left + 1, found }
    }
}

impl Replay {
    /// Nothing was replayed yet of the log that begins with this key.
    pub fn new(vkey: Vkey) -> Self {
        Self {
            subjects: Subjects { origin: Some(vkey.origin().clone()), ..Subjects::default() },
            keys: Chain::of(vkey),
            log: Tree::default(),
            last_time_us: 0,
            closed_by: None,
            policy: Policy::default(),
            top: Top::default(),
            changed: BTreeMap::new(),
            events: HashSet::new(),
            unfinished: None,
            counts: Counts::default(),
            what_if: None,
        }
    }

    /// Also tells from now on what another policy would have made of it.
    pub fn also_judge_by(&mut self, policy: Policy) {
        self.what_if = Some(WhatIf::new(policy));
    }

    /// What that policy would have made of what was replayed since.
    pub fn what_if(&self) -> Option<&WhatIf> {
        self.what_if.as_ref()
    }

    /// The keys of the log, as far as it was replayed.
    pub fn keys(&self) -> &Chain {
        &self.keys
    }

    /// Number of entries replayed, and so the index of the next.
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// The root of the log's tree over them.
    pub fn root(&self) -> Hash {
        self.log.root()
    }

    /// The log's tree over them.
    pub fn log(&self) -> &Tree {
        &self.log
    }

    /// The time of the last of them, microseconds since the Unix epoch; 0 before the first.
    pub fn last_time_us(&self) -> u64 {
        self.last_time_us
    }

    /// The last of them is a commitment: what came before it is compared with the ledger's map.
    pub fn is_closed(&self) -> bool {
        self.closed_by.is_some()
    }

    /// What was replayed, in numbers.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of subjects, as of the last commitment.
    pub fn map_size(&self) -> u64 {
        self.top.size()
    }

    /// The policy in force after the last entry.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The principals after the last entry.
    pub fn principals(&self) -> &Arc<Principals> {
        &self.subjects.principals
    }

    /// Replays the next entry. After an error the replay has ended.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        self.accept(examine(bytes, &self.keys))
    }

    /// The same, for an entry that was examined before, under this log's keys.
    pub fn accept(&mut self, examined: Result<Examined, EntryError>) -> Result<(), ReplayError> {
        let index = self.size();
        self.replay(index, examined).map_err(|lie| ReplayError { index, lie })
    }

    fn replay(&mut self, index: u64, examined: Result<Examined, EntryError>) -> Result<(), Lie> {
        let Examined { bytes, hash, entry, signer } = examined?;
        if entry.body.index() != index {
            return Err(Lie::Index { signed: entry.body.index() });
        }
        let in_force = self.keys.of_entry(index);
        if *in_force.key().as_bytes() != signer {
            return Err(Lie::Key { in_force: in_force.to_string() });
        }
        let (time_us, before_us) = (entry.body.recorded_at_us(), self.last_time_us);
        if time_us <= before_us {
            return Err(Lie::Time { time_us, before_us });
        }
        match entry.body {
            Body::Commitment(commitment) => {
                self.commit(&commitment)?;
                self.closed_by = Some(bytes);
            }
            Body::Record(record, statement) => {
                self.record(*record, &statement, hash)?;
                self.closed_by = None;
            }
        }
        self.last_time_us = time_us;
        self.log.append(hash, |_| {});
        Ok(())
    }

    fn commit(&mut self, commitment: &proto::Commitment) -> Result<(), Lie> {
        if let Some(unfinished) = &self.unfinished {
            return Err(unfinished.lie("a commitment"));
        }
        let changed: Vec<_> = self.changed.keys().map(|key| self.subjects.leaf(key).hashed()).collect();
        let kept = Kept { subjects: &self.subjects, changed: &self.changed };
        self.top.update(&kept, &changed).unwrap_or_else(|never| match never {});
        self.changed.clear();
        let (expected, found) = (self.top.root(), commitment.map_root.as_slice());
        if found != expected {
            let found = found.try_into().expect("a decoded commitment has a root of 32 bytes");
            return Err(Lie::MapRoot { expected, found });
        }
        let (expected, found) = (self.top.size(), commitment.map_size);
        if found != expected {
            return Err(Lie::MapSize { expected, found });
        }
        self.counts.commitments += 1;
        Ok(())
    }

    fn record(&mut self, record: proto::Record, statement: &Statement, hash: Hash) -> Result<(), Lie> {
        if self.size() == 0 {
            return Err(Lie::Beginning);
        }
        if self.keys.closes(record.index) {
            return Err(Lie::Unclosed);
        }
        check_producer(&record)?;
        if self.unfinished.is_none() {
            self.check_authority(&record, statement)?;
        }
        let step = self.next_step(&record, statement)?;
        compare(&record, statement, &step)?;
        for touch in &step.touches {
            if let Some(what_if) = &mut self.what_if {
                what_if.touch(touch);
            }
            let key = touch.key;
            let leaf = history_leaf(record.index, &hash, touch.after.effective());
            let is_new = self.subjects.touch(key, touch, leaf);
            // A subject that is new stays so until the next commitment.
            *self.changed.entry(key).or_default() |= is_new;
        }
        if let Kind::PolicyChange { policy, .. } = &statement.kind
            && step.outcome == Outcome::Applied
        {
            self.policy = policy.clone();
        }
        // What makes the first of them is the beginning of all judging.
        if self.principals().is_empty() && !matches!(statement.kind, Kind::PrincipalChange { .. }) {
            self.counts.unjudged += 1;
        }
        if let Kind::PrincipalChange { change } = &statement.kind
            && step.outcome == Outcome::Applied
        {
            self.subjects.principals = Arc::new(self.principals().after(change)?);
        }
        if let Kind::KeyChange { change } = &statement.kind
            && step.outcome == Outcome::Applied
        {
            self.keys = self.keys.after(change, record.index)?;
        }
        self.counts.outcomes[step.outcome as usize] += 1;
        Ok(())
    }

    /// Whether the record's principal may state this, and whether a ledger would make the change that it asks for.
    fn check_authority(&self, record: &proto::Record, statement: &Statement) -> Result<(), Lie> {
        let principals = self.principals();
        principals.judge(record, statement)?;
        if let Kind::PrincipalChange { change } = &statement.kind
            && !principals.are_as(change)
        {
            principals.after(change)?;
        }
        Ok(())
    }

    /// What the record must be: the next entry of the statement before it, or the first of its own.
    fn next_step(&mut self, record: &proto::Record, statement: &Statement) -> Result<Step, Lie> {
        if let Some(unfinished) = &mut self.unfinished {
            if !is_continued_by(&unfinished.record, record) {
                return Err(unfinished.lie("a record of something else"));
            }
            let step = unfinished.steps.pop_front().expect("an unfinished statement has steps");
            if unfinished.steps.is_empty() {
                self.unfinished = None;
            }
            return Ok(step);
        }
        if !statement.event_id.is_empty() && !self.events.insert(event_hash(&record.principal, &statement.event_id)) {
            let (principal, event_id) = (record.principal.clone(), statement.event_id.clone());
            return Err(Lie::Repeated { principal, event_id });
        }
        let held = must_wait(&self.subjects, statement).unwrap_or_else(|never| match never {});
        if let Some(Held { tag, index }) = held {
            return Err(Lie::Held { tag: tag.to_string(), holder: index });
        }
        let steps = transition(&self.subjects, &self.policy, &record.principal, statement, record.index);
        let mut steps = VecDeque::from(steps.unwrap_or_else(|never| match never {}));
        if let Some(what_if) = &mut self.what_if {
            let others = transition(&self.subjects, &what_if.policy, &record.principal, statement, record.index);
            let others = others.unwrap_or_else(|never| match never {});
            if let (Some(was), Some(would_be)) = (steps.front(), others.first()) {
                what_if.compare(record, statement, was, would_be);
            }
        }
        let total = u64::try_from(steps.len()).expect("a statement becomes a bounded number of entries");
        let first = steps.pop_front().expect("every statement becomes at least one entry");
        if !steps.is_empty() {
            self.unfinished = Some(Unfinished { first: record.index, total, record: record.clone(), steps });
        }
        Ok(first)
    }

    /// Compares with a checkpoint over as many entries as were replayed.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), CheckpointLie> {
        let (size, replayed) = (checkpoint.size, self.size());
        if size != replayed {
            return Err(CheckpointLie::Size { found: size, replayed });
        }
        if checkpoint.root != self.root() {
            return Err(CheckpointLie::Root { size, expected: self.root(), found: checkpoint.root });
        }
        if !self.is_closed() {
            return Err(CheckpointLie::NotClosed { size });
        }
        Ok(())
    }
}

fn check_producer(record: &proto::Record) -> Result<(), Lie> {
    let form = |field, problem: String| Lie::Form { field, problem };
    check_text("principal", &record.principal, 1, MAX_PRINCIPAL_LENGTH)
        .map_err(|violation| form("principal", violation.message))?;
    let is_signed = record.assurance() == proto::Assurance::Signed;
    match &record.producer {
        None if is_signed => Err(form("producer", "is missing, although the assurance is SIGNED".to_owned())),
        None => Ok(()),
        Some(_) if !is_signed => {
            let assurance = record.assurance().as_str_name().trim_start_matches("ASSURANCE_");
            Err(form("producer", format!("is there, although the assurance is {assurance}")))
        }
        Some(producer) => {
            let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            let is_key_id = producer.key_id.len() == 16 && producer.key_id.bytes().all(is_digit);
            let problem = || format!("is {:?}, not 16 hexadecimal digits in lower case", producer.key_id);
            if is_key_id { Ok(()) } else { Err(form("producer.key_id", problem())) }
        }
    }
}

/// Whether a record is of the same submission as the one before it.
fn is_continued_by(first: &proto::Record, next: &proto::Record) -> bool {
    first.statement == next.statement
        && first.principal == next.principal
        && first.assurance == next.assurance
        && first.producer == next.producer
}

fn compare(record: &proto::Record, statement: &Statement, step: &Step) -> Result<(), Lie> {
    if record.outcome() != step.outcome {
        return Err(Lie::Outcome { expected: step.outcome, found: record.outcome(), detail: step.detail.clone() });
    }
    for (field, expected, found) in [("rule", &step.rule, &record.rule), ("detail", &step.detail, &record.detail)] {
        if expected != found {
            return Err(Lie::Reason { field, expected: expected.clone(), found: found.clone() });
        }
    }
    for position in 0..step.touches.len().max(record.subjects.len()) {
        let expected = step.touches.get(position).map(|touch| proto::Subject {
            kind: touch.subject.kind().into(),
            version: touch.version,
            name: touch.name.clone(),
        });
        let found = record.subjects.get(position);
        if found != expected.as_ref() {
            let expected = shown(statement, expected.as_ref());
            return Err(Lie::Subject { position, expected, found: shown(statement, found) });
        }
    }
    Ok(())
}

/// A subject of a record in words.
fn shown(statement: &Statement, reference: Option<&proto::Subject>) -> String {
    let Some(reference) = reference else { return "none".to_owned() };
    let version = reference.version;
    match named_by(statement, reference) {
        Some(subject) => format!("{} in version {version}", subject_words(&subject)),
        None => {
            let kind = reference.kind().as_str_name().trim_start_matches("SUBJECT_KIND_");
            format!("a {kind} {:?} that its statement does not name, in version {version}", reference.name)
        }
    }
}

/// Stands for an event id of a principal; what is in use must be known for ever, so it is kept short.
fn event_hash(principal: &str, event_id: &str) -> [u8; 32] {
    let length = u64::try_from(principal.len()).expect("names are short");
    let hash = Sha256::new().chain_update(length.to_be_bytes()).chain_update(principal);
    hash.chain_update(event_id).finalize().into()
}
