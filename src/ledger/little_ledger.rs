//! A whole ledger in memory, for tests: it plans with [`super::transition`], signs, and proves, as the service does.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use prost::Message as _;

use super::answer::{StateClaim, VersionClaim};
use super::checkpoint::Checkpoint;
use super::entry::{entry_hash, sign_commitment, sign_record};
use super::merkle::multi::multi_proof;
use super::merkle::proof::consistency_proof;
use super::merkle::tree::MemoryNodes;
use super::merkle::{Hash, Tree};
use super::names::{Digest, Registry, Repository, Tag};
use super::note::Skey;
use super::policy::Policy;
use super::statement::Statement;
use super::subject::{Subject, SubjectKey};
use super::transition::{SubjectState, View, transition};
use crate::proto;

pub(crate) struct LittleLedger {
    pub(crate) skey: Skey,
    policy: Policy,
    entries: Vec<Vec<u8>>,
    nodes: MemoryNodes,
    /// The tree after each entry.
    trees: Vec<Tree>,
    states: HashMap<SubjectKey, SubjectState>,
    bound: BTreeMap<(Registry, Repository, Tag), Digest>,
    histories: HashMap<SubjectKey, Vec<VersionClaim>>,
    clock_us: u64,
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
}

impl LittleLedger {
    pub(crate) fn new(origin: &str, seed: u8) -> Self {
        Self {
            skey: Skey::from_seed(origin.parse().expect("an origin"), &[seed; 32]),
            policy: Policy::new(&["**:v*"]).expect("a pattern"),
            entries: Vec::new(),
            nodes: MemoryNodes::default(),
            trees: Vec::new(),
            states: HashMap::new(),
            bound: BTreeMap::new(),
            histories: HashMap::new(),
            clock_us: 1_000_000,
        }
    }

    /// Records one statement in a batch of its own, and returns the index of its (first) entry.
    pub(crate) fn record(&mut self, kind: proto::statement::Kind) -> u64 {
        let message = proto::Statement { kind: Some(kind), ..proto::Statement::default() };
        let statement = Statement::parse(&message.encode_to_vec()).expect("valid");
        let first = self.size();
        let Ok(steps) = transition(self, &self.policy, &statement, first);
        for step in steps {
            self.clock_us += 1000;
            let index = self.size();
            let mut subjects = Vec::new();
            for touch in step.touches {
                subjects.push(proto::Subject {
                    kind: touch.subject.kind().into(),
                    version: touch.version,
                    name: touch.name.clone(),
                });
                if let Subject::Tag(tag) = &touch.subject {
                    let key = (tag.registry.clone(), tag.repository.clone(), tag.tag.clone());
                    match touch.after.digest() {
                        Some(digest) => self.bound.insert(key, digest.clone()),
                        None => self.bound.remove(&key),
                    };
                }
                let key = touch.subject.key();
                self.histories.entry(key).or_default().push(VersionClaim {
                    version: touch.version,
                    index,
                    recorded_at_us: self.clock_us,
                    effective: touch.after.effective(),
                });
                self.states.insert(key, SubjectState { count: touch.version + 1, binding: touch.after });
            }
            let record = proto::Record {
                index,
                recorded_at_us: self.clock_us,
                statement: message.encode_to_vec(),
                principal: "ci".into(),
                assurance: proto::Assurance::Authenticated.into(),
                producer: None,
                outcome: step.outcome.into(),
                rule: step.rule,
                detail: step.detail,
                subjects,
            };
            self.append(sign_record(&record, &self.skey));
        }
        self.commit();
        first
    }

    /// Closes the log with a commitment.
    pub(crate) fn commit(&mut self) -> u64 {
        self.clock_us += 1000;
        let index = self.size();
        let commitment = proto::Commitment { index, recorded_at_us: self.clock_us, map_root: vec![0; 32], map_size: 0 };
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

    pub(crate) fn entry(&self, index: u64) -> Vec<u8> {
        self.entries[position(index)].clone()
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
            checkpoint: self.checkpoint_at(size).sign(&self.skey),
            entries: indexes.iter().map(|&index| proto::LogEntry { index, entry: self.entry(index) }).collect(),
            proof: proof.into_iter().map(|hash| hash.to_vec()).collect(),
            subjects: Vec::new(),
        }
    }

    pub(crate) fn evidence(&self, indexes: &[u64]) -> proto::Evidence {
        self.evidence_at(indexes, self.size())
    }

    pub(crate) fn consistency(&self, first: u64, second: u64) -> Vec<Hash> {
        consistency_proof(&self.nodes, first, second).expect("all nodes are kept")
    }

    /// A subject's whole history.
    pub(crate) fn history(&self, subject: &Subject) -> Vec<VersionClaim> {
        self.histories.get(&subject.key()).cloned().unwrap_or_default()
    }

    /// A subject's state at a time, and the entries that show it.
    pub(crate) fn state(&self, subject: &Subject, at_us: u64) -> (StateClaim, Vec<u64>) {
        let history = self.history(subject);
        let at = history.iter().rfind(|version| version.recorded_at_us <= at_us).copied();
        let next = history.iter().find(|version| version.recorded_at_us > at_us).copied();
        let set_by = at.and_then(|at| at.effective.checked_sub(1));
        let digest = set_by.map(|index| self.digest_in(index)).unwrap_or_default();
        let indexes = at.iter().chain(&next).map(|version| version.index).chain(set_by).collect();
        (StateClaim { digest, at, next }, indexes)
    }

    fn digest_in(&self, index: u64) -> String {
        let entry = super::entry::SignedEntry::decode(&self.entry(index)).expect("own entry");
        let super::entry::Body::Record(_, statement) = entry.body else { panic!("a commitment sets nothing") };
        super::subject::digest_of(&statement).expect("what sets a state names a digest").to_string()
    }
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
    })
}

pub(crate) fn delete(tag: &str) -> proto::statement::Kind {
    proto::statement::Kind::TagDelete(proto::TagDelete {
        registry: "r".into(),
        repository: "app".into(),
        tag: tag.into(),
        disposition: proto::Disposition::Happened.into(),
    })
}

pub(crate) fn deploy(
    workload: &str,
    tag: &str,
    digit: char,
    phase: proto::deployment::Phase,
) -> proto::statement::Kind {
    proto::statement::Kind::Deployment(proto::Deployment {
        environment: "prod".into(),
        workload: workload.into(),
        image: Some(proto::Image {
            registry: "r".into(),
            repository: "app".into(),
            tag: tag.into(),
            digest: digest(digit),
        }),
        phase: phase.into(),
        ..proto::Deployment::default()
    })
}
