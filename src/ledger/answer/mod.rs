//! Answers: what follows from evidence for a question.
//!
//! A server answers a question with evidence. [`Claimed::check`] verifies it ([`super::evidence`], [`super::subject_proof`])
//! and derives the whole answer from it alone, also that nothing is missing: what a server says beside its evidence is not
//! even looked at. The verdict ([`Verdict`]) says in words what was checked.
//!
//! [`Proven::contradiction`] holds two pieces of evidence against each other: an honest ledger never contradicts itself, so
//! two that do are a proof of misbehaviour.

mod contradiction;
mod form;
mod history;
mod list;
mod principals;
mod proven;
mod question;
mod receipt;
mod state;
mod verdict;

#[cfg(test)]
mod tests;

pub use contradiction::Contradiction;
pub use history::{History, HistoryVersion};
pub use list::List;
use list::{Lister, repository_member, tag_member, wanted, workload_member};
pub use principals::PrincipalsAt;
pub use proven::Proven;
pub use question::{Part, Question, RepositoryName};
pub use receipt::{Recorded, check_receipt};
pub use state::{Place, Setting, State};
pub use verdict::{Verdict, subject_words};

use super::checkpoint::CheckpointError;
use super::evidence::{EvidenceError, VerifiedEntries};
use super::keys::Keys;
use super::merkle::Hash;
use super::merkle::proof::{ProofError, root_from_inclusion, verify_consistency};
use super::statement::Violation;
use super::subject::Subject;
use super::subject_proof::SubjectProofError;
use crate::proto;

/// A question, and what is said to answer it: nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// What was asked.
    pub question: Question,
    /// The evidence, page by page; at least one.
    pub pages: Vec<proto::Evidence>,
    /// Consistency proofs between the checkpoints of the pages, where these differ; for [`Question::Inclusion`] also from
    /// the tree asked about.
    pub growth: Vec<Growth>,
    /// For [`Question::Inclusion`] the audit path of the entry in the tree asked about; else empty.
    pub path: Vec<Hash>,
    /// If the ledger changed its key: what shows how ([`super::keys::Chain::follow`]).
    pub keys: Option<proto::Evidence>,
}

/// A consistency proof between two sizes of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// Size of the smaller tree, at least 1.
    pub older: u64,
    /// Size of the larger tree.
    pub newer: u64,
    /// RFC 6962 section 2.1.2.
    pub hashes: Vec<Hash>,
}

/// What follows from the evidence. Exists only for evidence that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// The time that states are given for: the one asked for, but no later than when the checkpoint of the first page was closed.
    pub as_of_us: Option<u64>,
    /// How far it reaches, where it says that nothing else is in the log.
    pub reach: Option<Reach>,
    /// What was found.
    pub finding: Finding,
    /// The entries that show it.
    pub entries: VerifiedEntries,
    /// Subjects that were proven under the map roots of the commitments.
    pub subject_count: usize,
}

/// The smallest log that an answer rests on. Its pages may be of several, and what came after the first is in none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Its size.
    pub size: u64,
    /// When it was closed.
    pub closed_at_us: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The state of one subject.
    State(State),
    /// The states of the members of catalogues.
    States(List<State>),
    /// The members of a catalogue whose states differ, with both states.
    Changes(List<(State, State)>),
    /// A part of a history.
    History(History),
    /// Who was known, and every change until then.
    Principals(PrincipalsAt),
    /// The entry at this index.
    Entry(u64),
    /// The entry is in the tree of this size, which the checkpoint's continues.
    Inclusion {
        /// Position in the log.
        index: u64,
        /// Leaves of the tree.
        tree_size: u64,
        /// Its root.
        root: Hash,
        /// The audit path in it.
        path: Vec<Hash>,
    },
}

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The evidence itself does not hold.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// A text or a time that no ledger accepts.
    #[error("the question is malformed: {0}")]
    Form(Violation),
    /// The evidence is not about what was asked.
    #[error("the evidence does not answer the question: {0}")]
    BesideThePoint(String),
    /// What is said of a subject does not hold.
    #[error("the proof of subject {key}: {error}")]
    Subject {
        /// Its key in hexadecimal.
        key: String,
        /// Why.
        error: SubjectProofError,
    },
    /// Subjects are proven under the map root of the last leaf, which is not shown.
    #[error("the evidence lacks the commitment that closes the checkpoint of size {size}")]
    Unclosed {
        /// Size of the checkpoint.
        size: u64,
    },
    /// Nothing is shown of a subject that the answer rests on.
    #[error("the evidence shows nothing of {subject} as of the time asked for")]
    NotShown {
        /// The subject in words.
        subject: String,
    },
    /// A version is left out, or an end is not shown.
    #[error("version {expected} of {subject} is missing from the evidence; the history has {count}")]
    Gap {
        /// The subject in words.
        subject: String,
        /// Which version has to be there.
        expected: u64,
        /// Versions in all.
        count: u64,
    },
    /// An entry is needed that is not in the evidence.
    #[error("entry {index} is not in the evidence")]
    Missing {
        /// Which.
        index: u64,
    },
    /// An entry is said to have set the state of a subject that it says nothing about: a proof of misbehaviour.
    #[error(
        "the history says that entry {index} set the state of {subject}, but the ledger signed an entry that does not name it"
    )]
    NotNamed {
        /// The entry.
        index: u64,
        /// The subject in words.
        subject: String,
    },
    /// A history says of an entry what the entry does not say: a proof of misbehaviour.
    #[error("{what} of entry {index} is {claimed} in the history, but the ledger signed {signed}")]
    Contradiction {
        /// The entry.
        index: u64,
        /// Which fact.
        what: &'static str,
        /// As the history has it.
        claimed: String,
        /// What follows from the entry.
        signed: String,
    },
    /// The evidence contradicts itself: a proof of misbehaviour.
    #[error("the ledger contradicts itself: {0}")]
    Misbehaviour(#[from] Contradiction),
    /// A receipt says of an entry what the entry does not say.
    #[error("{what} of entry {index} is claimed to be {claimed}, but the ledger signed {signed}")]
    Receipt {
        /// The entry.
        index: u64,
        /// Which fact.
        what: &'static str,
        /// The server's word.
        claimed: String,
        /// What the entry says.
        signed: String,
    },
    /// A proof about another tree size than the checkpoint's does not hold.
    #[error("the proof for the tree of size {tree_size} does not hold: {error}")]
    Proof {
        /// Leaves of the tree.
        tree_size: u64,
        /// Why.
        error: ProofError,
    },
}

impl From<Violation> for AnswerError {
    fn from(violation: Violation) -> Self {
        Self::Form(violation)
    }
}

impl From<CheckpointError> for AnswerError {
    fn from(error: CheckpointError) -> Self {
        Self::Evidence(error.into())
    }
}

impl Claimed {
    /// Evidence under one checkpoint.
    pub fn new(question: Question, pages: Vec<proto::Evidence>) -> Self {
        Self { question, pages, growth: Vec::new(), path: Vec::new(), keys: None }
    }

    /// Verifies the evidence under the ledger's keys, and derives the answer from it.
    pub fn check(&self, keys: &impl Keys) -> Result<Answer, AnswerError> {
        form::check(&self.question)?;
        let proven = self.prove(keys)?;
        if let Some(contradiction) = proven.contradiction(&proven) {
            return Err(contradiction.into());
        }
        let moment_us = self.moment_us(&proven)?;
        let finding = self.finding(&proven, moment_us.unwrap_or_default())?;
        let reach = moment_us.and_then(|at_us| proven.reach(at_us));
        let as_of_us = moment_us.filter(|_| self.question.until_us().is_some());
        let (question, subject_count) = (self.question.clone(), proven.subject_count());
        Ok(Answer { question, as_of_us, reach, finding, entries: proven.entries, subject_count })
    }

    /// Verifies the evidence under the ledger's keys, whatever it is to answer.
    pub fn prove(&self, keys: &impl Keys) -> Result<Proven, AnswerError> {
        Proven::new(self, keys)
    }

    /// The proof between two sizes, in whatever order; empty if there is none, which is right where none is needed.
    fn growth_between(&self, one: u64, other: u64) -> &[Hash] {
        let (older, newer) = (one.min(other), one.max(other));
        let growth = self.growth.iter().find(|growth| growth.older == older && growth.newer == newer);
        growth.map_or(&[], |growth| &growth.hashes)
    }

    /// The last moment that the answer is about: the one asked for, but none after the checkpoint of the first page was closed.
    fn moment_us(&self, proven: &Proven) -> Result<Option<u64>, AnswerError> {
        Ok(match (&self.question, self.question.until_us()) {
            (Question::TagHistory { part, .. } | Question::Sightings { part, .. }, _) => {
                Some(part.last_us(proven.now_us()?))
            }
            (_, Some(asked_us)) => Some(clamp(asked_us, proven.now_us()?)),
            _ => None,
        })
    }

    fn finding(&self, proven: &Proven, at_us: u64) -> Result<Finding, AnswerError> {
        Ok(match &self.question {
            Question::TagAt { tag, .. } => Finding::State(proven.state(&Subject::Tag(tag.clone()), at_us)?),
            Question::TagsAt { repository, include_unbound, limit, .. } => {
                let mut lister = Lister::new(proven, at_us, *limit);
                lister.add(&repository.tags(), &|statement| {
                    Ok(wanted(proven.state(&tag_member(statement)?, at_us)?, *include_unbound))
                })?;
                Finding::States(lister.list)
            }
            Question::RepositoriesAt { limit, .. } => {
                let mut lister = Lister::new(proven, at_us, *limit);
                lister.add(&Subject::Repositories, &|statement| {
                    Ok(Some(proven.state(&repository_member(statement)?, at_us)?))
                })?;
                Finding::States(lister.list)
            }
            Question::RunningAt { environment, workload, include_stopped, limit, .. } => {
                let mut lister = Lister::new(proven, at_us, *limit);
                let state = |statement: &_| {
                    let member = workload_member(statement)?;
                    if !workload.is_empty() && member.workload != *workload {
                        return Ok(None);
                    }
                    Ok(wanted(proven.state(&Subject::Workload(member.clone()), at_us)?, *include_stopped))
                };
                if environment.is_empty() {
                    lister.each(&Subject::Environments, &mut |lister, statement| {
                        let environment = workload_member(statement)?.environment.clone();
                        lister.add(&Subject::WorkloadsOf(environment), &state)
                    })?;
                } else {
                    lister.add(&Subject::WorkloadsOf(environment.clone()), &state)?;
                }
                Finding::States(lister.list)
            }
            Question::RepositoryDiff { repository, from_us, limit, .. } => {
                let mut lister = Lister::new(proven, at_us, *limit);
                lister.add(&repository.tags(), &|statement| {
                    change(proven, &tag_member(statement)?, (*from_us).min(at_us), at_us)
                })?;
                Finding::Changes(lister.list)
            }
            Question::EnvironmentDiff { environment, from_us, limit, .. } => {
                let mut lister = Lister::new(proven, at_us, *limit);
                lister.add(&Subject::WorkloadsOf(environment.clone()), &|statement| {
                    let subject = Subject::Workload(workload_member(statement)?.clone());
                    change(proven, &subject, (*from_us).min(at_us), at_us)
                })?;
                Finding::Changes(lister.list)
            }
            Question::TagHistory { tag, part } => {
                Finding::History(proven.history(&Subject::Tag(tag.clone()), *part, at_us)?)
            }
            Question::Sightings { digest, part } => {
                Finding::History(proven.history(&Subject::Digest(digest.clone()), *part, at_us)?)
            }
            Question::PolicyAt { .. } => Finding::State(proven.state(&Subject::Policy, at_us)?),
            Question::Principals { .. } => Finding::Principals(proven.principals(at_us)?),
            Question::Entry { index } => entry(|found, _| found == *index, &proven.entries)?,
            Question::Leaf { hash } => entry(|_, found| found == hash, &proven.entries)?,
            Question::Inclusion { index, tree_size } => self.inclusion(*index, *tree_size, &proven.entries)?,
        })
    }

    fn inclusion(&self, index: u64, asked_size: u64, entries: &VerifiedEntries) -> Result<Finding, AnswerError> {
        let checkpoint = entries.checkpoint();
        let tree_size = if asked_size == 0 { checkpoint.size } else { asked_size };
        let leaf = entries.get(index).ok_or(AnswerError::Missing { index })?.hash;
        let wrong = |error| AnswerError::Proof { tree_size, error };
        let root = root_from_inclusion(index, tree_size, &leaf, &self.path).map_err(wrong)?;
        let growth = self.growth_between(tree_size, checkpoint.size);
        verify_consistency(tree_size, checkpoint.size, &root, &checkpoint.root, growth).map_err(wrong)?;
        Ok(Finding::Inclusion { index, tree_size, root, path: self.path.clone() })
    }
}

fn change(proven: &Proven, subject: &Subject, from_us: u64, to_us: u64) -> Result<Option<(State, State)>, AnswerError> {
    let (from, to) = (proven.state(subject, from_us)?, proven.state(subject, to_us)?);
    Ok((from.digest() != to.digest()).then_some((from, to)))
}

fn entry(is_asked_for: impl Fn(u64, &Hash) -> bool, entries: &VerifiedEntries) -> Result<Finding, AnswerError> {
    let found = entries.iter().find(|(index, entry)| is_asked_for(*index, &entry.hash));
    let (index, _) = found.ok_or_else(|| beside("it holds another entry"))?;
    Ok(Finding::Entry(index))
}

/// The time that an answer is for; 0 asks for now.
fn clamp(asked_us: u64, now_us: u64) -> u64 {
    if asked_us == 0 { now_us } else { asked_us.min(now_us) }
}

impl Answer {
    /// Whether a log that goes on after this size could answer otherwise: the question reaches to the end of the log, or to
    /// a time after that log was closed.
    pub fn could_change_after(&self, size: u64) -> bool {
        let until_us = match &self.question {
            Question::TagHistory { part, .. } | Question::Sightings { part, .. } => part.until_us,
            Question::Inclusion { tree_size, .. } => return *tree_size == 0,
            question => match question.until_us() {
                Some(until_us) => until_us,
                None => return false,
            },
        };
        let closing = size.checked_sub(1).and_then(|index| self.entries.get(index));
        until_us == 0 || closing.is_none_or(|closing| closing.body.recorded_at_us() < until_us)
    }
}

fn beside(what: impl Into<String>) -> AnswerError {
    AnswerError::BesideThePoint(what.into())
}
