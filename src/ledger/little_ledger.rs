//! A whole ledger in memory, for tests: it plans with [`super::transition`], signs, and proves, as the service does.
//!
//! And it lies, if told to: what it is about to sign ([`Draft`]) and the histories it commits to may be changed, and it goes
//! on from there. `tests/vectors.rs` makes the published test vectors with it, from this same file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use prost::Message as _;

use super::answer::{Claimed, Question};
use super::checkpoint::Checkpoint;
use super::entry::{entry_hash, index_and_time, sign_commitment, sign_record};
use super::history::{history_leaf, map_leaf};
use super::map::{Leaf, Terminal, Top};
use super::merkle::multi::multi_proof;
use super::merkle::proof::{consistency_proof, inclusion_proof};
use super::merkle::tree::MemoryNodes;
use super::merkle::{Hash, Tree};
use super::names::{Digest, Registry, Repository, Tag};
use super::note::Skey;
use super::policy::{Document, Policy, RuleText};
use super::principals::Principals;
use super::statement::{Kind, Statement};
use super::subject::{Subject, SubjectKey};
use super::transition::{Binding, SubjectState, Touch, View, transition};
use crate::proto;

pub(crate) struct LittleLedger {
    /// The key in force.
    pub(crate) skey: Skey,
    /// Those before it, and the first entry that is not theirs.
    pub(crate) replaced: Vec<(Skey, u64)>,
    /// In force for the next statement.
    pub(crate) policy: Policy,
    /// The same.
    pub(crate) principals: Arc<Principals>,
    entries: Vec<Vec<u8>>,
    nodes: MemoryNodes,
    /// The tree after each entry.
    trees: Vec<Tree>,
    pub(crate) states: HashMap<SubjectKey, SubjectState>,
    bound: BTreeMap<(Registry, Repository, Tag), Digest>,
    /// What tags were ever bound to.
    carried: BTreeSet<(Registry, Repository, Digest, Tag)>,
    pub(crate) histories: HashMap<SubjectKey, LittleHistory>,
    /// The map's leaves as of each commitment, by its index.
    maps: BTreeMap<u64, BTreeMap<SubjectKey, Leaf>>,
    /// Time of the last entry.
    clock_us: u64,
    step_us: u64,
}

/// A subject's history: what its leaves are made of, and its tree.
#[derive(Clone, Default)]
pub(crate) struct LittleHistory {
    pub(crate) versions: Vec<LittleVersion>,
    tree: Tree,
    nodes: MemoryNodes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LittleVersion {
    pub(crate) index: u64,
    pub(crate) recorded_at_us: u64,
    pub(crate) effective: u64,
}

/// What somebody sends, as it passed the door.
#[derive(Clone)]
pub(crate) struct Submission {
    pub(crate) statement: proto::Statement,
    pub(crate) principal: String,
    pub(crate) assurance: proto::Assurance,
    pub(crate) producer: Option<proto::Producer>,
}

/// An entry before it is signed, and what it does.
pub(crate) struct Draft {
    pub(crate) record: proto::Record,
    pub(crate) touches: Vec<Touch>,
}

impl View for LittleLedger {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        Ok(self.states.get(key).cloned().unwrap_or_default())
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let here = self.bound.iter().filter(|((a, b, _), bound)| a == registry && b == repository && *bound == digest);
        Ok(here.map(|((_, _, tag), _)| tag.clone()).collect())
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let carried = self.carried.iter();
        let here = carried.filter(|(a, b, c, _)| (a, b, c) == (registry, repository, digest));
        Ok(here.map(|(.., tag)| tag.clone()).collect())
    }

    fn principals(&self) -> Arc<Principals> {
        Arc::clone(&self.principals)
    }
}

impl LittleLedger {
    /// A ledger with nothing in it, and without rules. The service begins one with [`LittleLedger::commit`].
    pub(crate) fn empty(skey: Skey, first_time_us: u64, step_us: u64) -> Self {
        Self {
            skey,
            replaced: Vec::new(),
            policy: Policy::default(),
            principals: Arc::default(),
            entries: Vec::new(),
            nodes: MemoryNodes::default(),
            trees: Vec::new(),
            states: HashMap::new(),
            bound: BTreeMap::new(),
            carried: BTreeSet::new(),
            histories: HashMap::new(),
            maps: BTreeMap::new(),
            clock_us: first_time_us - step_us,
            step_us,
        }
    }

    /// A ledger whose entry 0 will be the first statement's, under a rule that no entry says: enough for tests of proofs.
    pub(crate) fn new(origin: &str, seed: u8) -> Self {
        let skey = Skey::from_seed(origin.parse().expect("an origin"), &[seed; 32]);
        let policy = Policy::parse(&immutable(&["**:v*"])).expect("a policy");
        Self { policy, ..Self::empty(skey, 1_001_000, 1000) }
    }

    /// Records one statement in a batch of its own, and returns the index of its (first) entry.
    pub(crate) fn record(&mut self, kind: proto::statement::Kind) -> u64 {
        let first = self.add(&kind.into());
        self.commit();
        first
    }

    /// Records what was sent, without closing the batch, and returns the index of its (first) entry. An honest ledger does
    /// not record an event id twice; this one leaves that to its caller.
    pub(crate) fn add(&mut self, sent: &Submission) -> u64 {
        self.add_but(sent, |_, _| {})
    }

    /// The same, with entries changed before they are signed; they are counted from 0.
    pub(crate) fn add_but(&mut self, sent: &Submission, mut change: impl FnMut(usize, &mut Draft)) -> u64 {
        let first = self.size();
        for (position, mut draft) in self.draft(sent).into_iter().enumerate() {
            change(position, &mut draft);
            self.write(draft);
        }
        first
    }

    /// What the rules make of what was sent: the next entries.
    pub(crate) fn draft(&self, sent: &Submission) -> Vec<Draft> {
        let bytes = sent.statement.encode_to_vec();
        let statement = Statement::parse(&bytes).expect("valid");
        let Ok(steps) = transition(self, &self.policy, &sent.principal, &statement, self.size());
        let times = (1..).map(|step| self.clock_us + step * self.step_us);
        let draft = |((step, index), recorded_at_us): ((super::transition::Step, u64), u64)| {
            let subject = |touch: &Touch| proto::Subject {
                kind: touch.subject.kind().into(),
                version: touch.version,
                name: touch.name.clone(),
            };
            let record = proto::Record {
                index,
                recorded_at_us,
                statement: bytes.clone(),
                principal: sent.principal.clone(),
                assurance: sent.assurance.into(),
                producer: sent.producer.clone(),
                outcome: step.outcome.into(),
                rule: step.rule,
                detail: step.detail,
                subjects: step.touches.iter().map(subject).collect(),
            };
            Draft { record, touches: step.touches }
        };
        steps.into_iter().zip(self.size()..).zip(times).map(draft).collect()
    }

    /// Signs a record and does what it is said to do.
    pub(crate) fn write(&mut self, draft: Draft) {
        let Draft { record, touches } = draft;
        let index = self.size();
        self.clock_us = record.recorded_at_us;
        self.append(sign_record(&record, &self.skey));
        for touch in touches {
            if let Subject::Tag(tag) = &touch.subject {
                let key = (tag.registry.clone(), tag.repository.clone(), tag.tag.clone());
                if let Some(digest) = touch.after.digest() {
                    self.carried.insert((key.0.clone(), key.1.clone(), digest.clone(), key.2.clone()));
                }
                match touch.after.digest() {
                    Some(digest) => self.bound.insert(key, digest.clone()),
                    None => self.bound.remove(&key),
                };
            }
            let changed = matches!(touch.after, Binding::Bound { set_by, .. } if set_by == index);
            if touch.subject == Subject::Policy && changed {
                self.policy = policy_of(&record.statement);
            }
            if touch.subject == Subject::Principals
                && changed
                && let Kind::PrincipalChange { change } = parsed(&record.statement).kind
                // A liar may record one that is refused; then nothing follows from it.
                && let Ok(after) = self.principals.after(&change)
            {
                self.principals = Arc::new(after);
            }
            self.extend_history(touch.key, index, touch.after.effective());
            let state = SubjectState { count: touch.version + 1, binding: touch.after, hold: touch.hold };
            self.states.insert(touch.key, state);
        }
    }

    /// Puts an entry into a history; an honest ledger does so for each subject of each record.
    pub(crate) fn extend_history(&mut self, key: SubjectKey, index: u64, effective: u64) {
        let entry = self.entry(index);
        self.extend_history_by(key, index, &entry, effective);
    }

    /// The same for an entry that is yet to be written, which no honest ledger could.
    pub(crate) fn extend_history_by(&mut self, key: SubjectKey, index: u64, entry: &[u8], effective: u64) {
        let (_, recorded_at_us) = index_and_time(entry).expect("own entry");
        let leaf = history_leaf(index, &entry_hash(entry), effective);
        let LittleHistory { versions, tree, nodes } = self.histories.entry(key).or_default();
        versions.push(LittleVersion { index, recorded_at_us, effective });
        tree.append(leaf, |node| nodes.insert(node));
    }

    /// Puts another history in the place of a subject's; an honest ledger never does.
    pub(crate) fn rewrite_history(&mut self, subject: &Subject, versions: &[LittleVersion]) {
        self.histories.remove(&subject.key());
        versions.iter().for_each(|version| self.extend_history(subject.key(), version.index, version.effective));
    }

    /// The key of an entry.
    pub(crate) fn key_of(&self, index: u64) -> &Skey {
        let replaced = self.replaced.iter().find(|(_, until)| index < *until);
        replaced.map_or(&self.skey, |(skey, _)| skey)
    }

    /// Announces another key, in a batch of its own, and goes on with it. Returns the index of the announcement.
    pub(crate) fn change_key(&mut self, next: Skey) -> u64 {
        let change = super::keys::KeyChange::to_next(&self.skey.vkey(), &next);
        let index = self.record(proto::statement::Kind::KeyChange(change));
        let replaced = std::mem::replace(&mut self.skey, next);
        self.replaced.push((replaced, self.size()));
        index
    }

    /// What shows how the key changed, as of a size.
    pub(crate) fn keys_at(&self, size: u64) -> proto::Evidence {
        let changes = self.history(&Subject::Keys).iter().take_while(|change| change.index < size).count() as u64;
        self.shown_at(&[(Subject::Keys, (0..changes).collect())], size)
    }

    /// Closes the log with a commitment.
    pub(crate) fn commit(&mut self) -> u64 {
        self.commit_but(|_| {})
    }

    /// The same, changed before it is signed.
    pub(crate) fn commit_but(&mut self, change: impl FnOnce(&mut proto::Commitment)) -> u64 {
        let index = self.size();
        let leaves: BTreeMap<_, _> = self.histories.iter().map(|(key, h)| (*key, map_leaf(*key, &h.tree))).collect();
        let mut commitment = proto::Commitment {
            index,
            recorded_at_us: self.clock_us + self.step_us,
            map_root: top(&leaves).root().to_vec(),
            map_size: leaves.len() as u64,
        };
        change(&mut commitment);
        self.clock_us = commitment.recorded_at_us;
        self.maps.insert(index, leaves);
        self.append(sign_commitment(&commitment, &self.skey));
        index
    }

    /// Appends whatever bytes, as an honest ledger never would.
    pub(crate) fn append(&mut self, entry: Vec<u8>) {
        let mut tree = self.trees.last().cloned().unwrap_or_default();
        tree.append(entry_hash(&entry), |node| self.nodes.insert(node));
        self.trees.push(tree);
        self.entries.push(entry);
    }

    pub(crate) fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.clock_us
    }

    pub(crate) fn checkpoint_at(&self, size: u64) -> Checkpoint {
        let tree = if size == 0 { Tree::default() } else { self.trees[position(size) - 1].clone() };
        Checkpoint { size, root: tree.root() }
    }

    pub(crate) fn entries(&self) -> &[Vec<u8>] {
        &self.entries
    }

    pub(crate) fn entry(&self, index: u64) -> Vec<u8> {
        self.entries[position(index)].clone()
    }

    /// When an entry was recorded.
    pub(crate) fn time_of(&self, index: u64) -> u64 {
        index_and_time(&self.entry(index)).expect("own entry").1
    }

    /// Evidence for entries as of a size.
    pub(crate) fn evidence_at(&self, indexes: &[u64], size: u64) -> proto::Evidence {
        let mut indexes = indexes.to_vec();
        indexes.sort_unstable();
        indexes.dedup();
        let proof = match indexes.is_empty() {
            true => Vec::new(),
            false => multi_proof(&self.nodes, &indexes, size).expect("all nodes are kept"),
        };
        proto::Evidence {
            checkpoint: self.note_at(size),
            entries: indexes.iter().map(|&index| proto::LogEntry { index, entry: self.entry(index) }).collect(),
            proof: proof.into_iter().map(|hash| hash.to_vec()).collect(),
            subjects: Vec::new(),
        }
    }

    /// The checkpoint as the service signs it: by both keys where one follows the other.
    fn note_at(&self, size: u64) -> String {
        let (due, next) = (self.key_of(size.saturating_sub(1)), self.key_of(size));
        match due.vkey() == next.vkey() {
            true => self.checkpoint_at(size).sign(due),
            false => self.checkpoint_at(size).sign_with(due, next),
        }
    }

    pub(crate) fn evidence(&self, indexes: &[u64]) -> proto::Evidence {
        self.evidence_at(indexes, self.size())
    }

    pub(crate) fn consistency(&self, first: u64, second: u64) -> Vec<Hash> {
        consistency_proof(&self.nodes, first, second).expect("all nodes are kept")
    }

    /// The audit path of an entry.
    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        inclusion_proof(&self.nodes, index, size).expect("all nodes are kept")
    }

    /// A subject's whole history.
    pub(crate) fn history(&self, subject: &Subject) -> Vec<LittleVersion> {
        self.histories.get(&subject.key()).map(|history| history.versions.clone()).unwrap_or_default()
    }

    /// The map's leaves as of the checkpoint of a size.
    pub(crate) fn map_at(&self, size: u64) -> &BTreeMap<SubjectKey, Leaf> {
        &self.maps[&(size - 1)]
    }

    /// What the map of the checkpoint of a size says of a subject, with some of its versions.
    pub(crate) fn subject_proof_at(&self, subject: &Subject, versions: &[u64], size: u64) -> proto::SubjectProof {
        let (key, leaves) = (subject.key(), self.map_at(size));
        let Ok(proof) = top(leaves).prove(leaves, &key);
        let terminal = match proof.terminal {
            Terminal::Empty => proto::subject_proof::Terminal::Empty(proto::EmptySubtree {}),
            Terminal::Other(Leaf { key, count, root }) => proto::subject_proof::Terminal::Other(proto::OtherLeaf {
                key: key.0.to_vec(),
                count,
                root: root.to_vec(),
            }),
            Terminal::Own { count, root } => {
                let history = &self.histories[&key];
                let shown = |version: &u64| {
                    let LittleVersion { index, effective, .. } = history.versions[position(*version)];
                    proto::HistoryLeaf { version: *version, index, effective }
                };
                let hashes = match versions {
                    [] => Vec::new(),
                    versions => multi_proof(&history.nodes, versions, count).expect("all nodes are kept"),
                };
                proto::subject_proof::Terminal::History(proto::HistoryProof {
                    count,
                    root: root.to_vec(),
                    leaves: versions.iter().map(shown).collect(),
                    proof: hashes.into_iter().map(|hash| hash.to_vec()).collect(),
                })
            }
        };
        proto::SubjectProof {
            key: key.0.to_vec(),
            siblings: proof.siblings.into_iter().map(|hash| hash.to_vec()).collect(),
            terminal: Some(terminal),
        }
    }

    /// Evidence as of a size that shows versions of subjects, with their entries, what is in force after each, and the
    /// closing commitment.
    pub(crate) fn shown_at(&self, shown: &[(Subject, Vec<u64>)], size: u64) -> proto::Evidence {
        let mut indexes = vec![size - 1];
        for (subject, versions) in shown {
            let history = self.history(subject);
            for version in versions {
                let LittleVersion { index, effective, .. } = history[position(*version)];
                indexes.extend([Some(index), effective.checked_sub(1)].into_iter().flatten());
            }
        }
        let mut evidence = self.evidence_at(&indexes, size);
        evidence.subjects = shown.iter().map(|(subject, of)| self.subject_proof_at(subject, of, size)).collect();
        evidence.subjects.sort_by(|one, other| one.key.cmp(&other.key));
        evidence
    }

    pub(crate) fn shown(&self, shown: &[(Subject, Vec<u64>)]) -> proto::Evidence {
        self.shown_at(shown, self.size())
    }

    /// The versions that show a subject's state at a time: the last by then, and the next.
    pub(crate) fn around(&self, subject: &Subject, at_us: u64) -> Vec<u64> {
        let history = self.history(subject);
        let by_then = history.iter().take_while(|version| version.recorded_at_us <= at_us).count() as u64;
        (by_then.saturating_sub(1)..(by_then + 1).min(history.len() as u64)).collect()
    }

    /// The honest answer to what a tag was.
    pub(crate) fn tag_at(&self, tag: &super::names::TagRef, at_us: u64) -> Claimed {
        let subject = Subject::Tag(tag.clone());
        let versions = self.around(&subject, if at_us == 0 { u64::MAX } else { at_us });
        let question = Question::TagAt { tag: tag.clone(), at_us };
        Claimed::new(question, vec![self.shown(&[(subject, versions)])])
    }
}

impl From<proto::statement::Kind> for Submission {
    fn from(kind: proto::statement::Kind) -> Self {
        proto::Statement { kind: Some(kind), ..proto::Statement::default() }.into()
    }
}

/// As the principal `ci` with a token sends it.
impl From<proto::Statement> for Submission {
    fn from(statement: proto::Statement) -> Self {
        Self { statement, principal: "ci".into(), assurance: proto::Assurance::Authenticated, producer: None }
    }
}

fn parsed(statement: &[u8]) -> Statement {
    Statement::parse(statement).expect("own statement")
}

fn policy_of(statement: &[u8]) -> Policy {
    match parsed(statement).kind {
        super::statement::Kind::PolicyChange { policy, .. } => policy,
        other => panic!("{other:?} changes no policy"),
    }
}

fn top(leaves: &BTreeMap<SubjectKey, Leaf>) -> Top {
    let mut rising = leaves.values();
    let Ok(top) = Top::load(|| Ok::<_, Infallible>(rising.next().map(Leaf::hashed)));
    top
}

fn position(index: u64) -> usize {
    usize::try_from(index).expect("a little ledger")
}

/// The digest made of one hexadecimal digit.
pub(crate) fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

pub(crate) fn push(tag: &str, digit: char, disposition: proto::Disposition) -> proto::statement::Kind {
    proto::statement::Kind::TagPush(proto::TagPush {
        registry: "r".into(),
        repository: "app".into(),
        tag: tag.into(),
        digest: digest(digit),
        media_type: String::new(),
        disposition: disposition.into(),
        settles: 0,
    })
}

pub(crate) fn delete(tag: &str) -> proto::statement::Kind {
    proto::statement::Kind::TagDelete(proto::TagDelete {
        registry: "r".into(),
        repository: "app".into(),
        tag: tag.into(),
        disposition: proto::Disposition::Happened.into(),
        settles: 0,
    })
}

/// What was seen of a tag; `None`: nothing.
pub(crate) fn observe(tag: &str, digit: Option<char>) -> proto::statement::Kind {
    proto::statement::Kind::TagObserved(proto::TagObserved {
        registry: "r".into(),
        repository: "app".into(),
        tag: tag.into(),
        digest: digit.map(digest).unwrap_or_default(),
        checks_entry: 0,
        last_seen_us: 0,
        first_seen_us: 0,
    })
}

pub(crate) fn delete_manifest(digit: char, disposition: proto::Disposition) -> proto::statement::Kind {
    proto::statement::Kind::ManifestDelete(proto::ManifestDelete {
        registry: "r".into(),
        repository: "app".into(),
        digest: digest(digit),
        disposition: disposition.into(),
        settles: 0,
    })
}

pub(crate) fn attest(digit: char) -> proto::statement::Kind {
    proto::statement::Kind::Attestation(proto::Attestation {
        digest: digest(digit),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        envelope_digest: digest('0'),
        signer: String::new(),
        result: proto::attestation::Result::Verified.into(),
    })
}

/// The whole policy: a rule for each `registry/repository:tag`, which is its id too, that makes such tags immutable.
pub(crate) fn change_policy(patterns: &[&str]) -> proto::statement::Kind {
    set_policy(&immutable(patterns))
}

pub(crate) fn set_policy(text: &str) -> proto::statement::Kind {
    proto::statement::Kind::PolicyChange(proto::PolicyChange { policy: text.into(), replaces: String::new() })
}

/// The text of such a policy.
pub(crate) fn immutable(patterns: &[&str]) -> String {
    let rule = |pattern: &&str| {
        let (path, tag) = pattern.rsplit_once(':').expect("registry/repository:tag");
        let of_one_registry = path.split_once('/').filter(|(registry, _)| *registry != "**");
        let (registry, repository) = of_one_registry.unwrap_or(("*", path));
        let list = |pattern: &str| Some(vec![pattern.to_owned()]);
        RuleText {
            id: (*pattern).to_owned(),
            registries: list(registry),
            repositories: list(repository),
            tags: list(tag),
            ..RuleText::default()
        }
    };
    Document { rule: patterns.iter().map(rule).collect(), ..Document::default() }.to_text()
}

pub(crate) fn deploy(
    workload: &str,
    tag: &str,
    digit: char,
    phase: proto::deployment::Phase,
) -> proto::statement::Kind {
    proto::statement::Kind::Deployment(deployment("prod", workload, tag, digit, phase))
}

/// A deployment to be filled in further.
pub(crate) fn deployment(
    environment: &str,
    workload: &str,
    tag: &str,
    digit: char,
    phase: proto::deployment::Phase,
) -> proto::Deployment {
    proto::Deployment {
        environment: environment.into(),
        workload: workload.into(),
        image: Some(proto::Image {
            registry: "r".into(),
            repository: "app".into(),
            tag: tag.into(),
            digest: digest(digit),
        }),
        phase: phase.into(),
        ..proto::Deployment::default()
    }
}
