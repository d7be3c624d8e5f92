//! Answers: what follows from verified entries for a question, and what does not.
//!
//! A server answers a question with claims and evidence. [`Claimed::check`] verifies the evidence ([`super::evidence`]), holds
//! every claim against the entries it rests on, and derives the answer from those entries alone. What entries cannot prove
//! stays marked as the server's word: until the subject map exists, that is above all that nothing was left out. The verdict
//! ([`Verdict`]) says both in words.

mod form;
mod history;
mod question;
mod receipt;
mod state;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use history::{After, History, HistoryVersion};
pub use question::{
    Claims, Member, MemberChange, MemberState, Part, Question, RepositoryName, StateClaim, VersionClaim, WorkloadName,
};
pub use receipt::{Recorded, check_receipt};
use state::Named;
pub use state::{Grounds, Place, Setting, State};
pub use verdict::{Verdict, subject_words};

use super::evidence::{EvidenceError, VerifiedEntries, verify};
use super::merkle::Hash;
use super::merkle::proof::{ProofError, root_from_inclusion, verify_consistency};
use super::note::Vkey;
use super::statement::Violation;
use super::subject::Subject;
use crate::proto;

/// An answer as a server gives it: nothing in it is believed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// What was asked.
    pub question: Question,
    /// What was answered, page by page; at least one.
    pub pages: Vec<Page>,
    /// Consistency proofs between the checkpoints of the pages, where these differ.
    pub growth: Vec<Growth>,
}

/// One page of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// What is claimed.
    pub claims: Claims,
    /// What it rests on.
    pub evidence: proto::Evidence,
}

/// A consistency proof between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// Size of the smaller tree, at least 1.
    pub older: u64,
    /// Size of the larger tree.
    pub newer: u64,
    /// RFC 6962 section 2.1.2.
    pub hashes: Vec<Hash>,
}

/// What follows from the evidence. Exists only for claims that hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// The time that states are given for; for "now", the time that the server named.
    pub as_of_us: Option<u64>,
    /// What was found.
    pub finding: Finding,
    /// The entries that show it.
    pub entries: VerifiedEntries,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The state of each subject, in the server's order.
    States(Vec<State>),
    /// A part of a history.
    History(History),
    /// The subjects whose states differ, with both states.
    Changes(Vec<(State, State)>),
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
    #[error("the answer is malformed: {0}")]
    Form(Violation),
    /// The claims are not about what was asked.
    #[error("the claims do not answer the question: {0}")]
    BesideThePoint(String),
    /// A claim rests on an entry that is not in the evidence.
    #[error("entry {index} is not in the evidence")]
    Missing {
        /// Which.
        index: u64,
    },
    /// A claim rests on an entry that says nothing about its subject.
    #[error("entry {index} does not name {subject}")]
    NotNamed {
        /// The entry.
        index: u64,
        /// The subject in words.
        subject: String,
    },
    /// A claim contradicts what the ledger signed.
    #[error("{what} of entry {index} is claimed to be {claimed}, but the ledger signed {signed}")]
    Contradiction {
        /// The entry.
        index: u64,
        /// Which fact.
        what: &'static str,
        /// The server's word.
        claimed: String,
        /// What follows from the entry.
        signed: String,
    },
    /// The state at a time is claimed from an entry recorded later, or its end from one recorded earlier.
    #[error("entry {index} was recorded at {recorded_at_us} us, on the wrong side of the time asked for, {at_us} us")]
    WrongTime {
        /// The entry.
        index: u64,
        /// When it was recorded.
        recorded_at_us: u64,
        /// The time asked for.
        at_us: u64,
    },
    /// The ledger signed two entries that cannot both be in the subject's history: a proof of misbehaviour.
    #[error("the ledger contradicts itself: entry {index} is version {version} of {subject}, after version {last}")]
    Disorder {
        /// The later entry.
        index: u64,
        /// The subject in words.
        subject: String,
        /// The version it was signed with.
        version: u64,
        /// The version of an entry before it.
        last: u64,
    },
    /// Versions that must follow each other do not.
    #[error("version {expected} of the history is missing; version {found} stands in its place")]
    Gap {
        /// What had to come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A subject is in the answer twice.
    #[error("{0} is in the answer twice")]
    Twice(String),
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

impl Claimed {
    /// Verifies the evidence under the key, and derives the answer from it.
    pub fn check(&self, vkey: &Vkey) -> Result<Answer, AnswerError> {
        form::check(self)?;
        let entries = self.verified_entries(vkey)?;
        let (as_of_us, finding) = self.finding(&entries, &Named::new(&entries)?)?;
        Ok(Answer { question: self.question.clone(), as_of_us, finding, entries })
    }

    fn verified_entries(&self, vkey: &Vkey) -> Result<VerifiedEntries, AnswerError> {
        let (first, rest) = self.pages.split_first().ok_or_else(|| beside("there is no page"))?;
        let mut all = verify(&first.evidence, vkey)?;
        for page in rest {
            let entries = verify(&page.evidence, vkey)?;
            let proof = self.growth_between(all.checkpoint().size, entries.checkpoint().size);
            all = all.join(entries, proof)?;
        }
        Ok(all)
    }

    /// The proof between two sizes, in whatever order; empty if there is none, which is right where none is needed.
    fn growth_between(&self, one: u64, other: u64) -> &[Hash] {
        let (older, newer) = (one.min(other), one.max(other));
        let growth = self.growth.iter().find(|growth| growth.older == older && growth.newer == newer);
        growth.map_or(&[], |growth| &growth.hashes)
    }

    fn finding(&self, entries: &VerifiedEntries, named: &Named<'_>) -> Result<(Option<u64>, Finding), AnswerError> {
        match &self.question {
            Question::TagAt { at_us, .. } => {
                let (as_of_us, states) = self.states(*at_us, named)?;
                if states.len() != 1 {
                    return Err(beside("they are about more or fewer than one tag"));
                }
                Ok((Some(as_of_us), Finding::States(states)))
            }
            Question::TagsAt { at_us, include_unbound: everything, .. }
            | Question::RunningAt { at_us, include_stopped: everything, .. } => {
                let (as_of_us, states) = self.states(*at_us, named)?;
                if let Some(state) = states.iter().find(|state| state.setting.is_none() && !everything) {
                    return Err(beside(format!("nothing is bound to {}", subject_words(&state.subject))));
                }
                Ok((Some(as_of_us), Finding::States(states)))
            }
            Question::RepositoryDiff { from_us, to_us, .. } | Question::EnvironmentDiff { from_us, to_us, .. } => {
                let (as_of_us, changes) = self.changes(*from_us, *to_us, named)?;
                Ok((Some(as_of_us), Finding::Changes(changes)))
            }
            Question::TagHistory { tag, part } => {
                let history = self.history(Subject::Tag(tag.clone()), *part, named)?;
                Ok((None, Finding::History(history)))
            }
            Question::Sightings { digest, part } => {
                let history = self.history(Subject::Digest(digest.clone()), *part, named)?;
                Ok((None, Finding::History(history)))
            }
            Question::Entry { index } => self.entry(|found, _| found == *index, entries),
            Question::Leaf { hash } => self.entry(|_, found| found == hash, entries),
            Question::Inclusion { index, tree_size } => self.inclusion(*index, *tree_size, entries),
        }
    }

    fn states(&self, at_us: u64, named: &Named<'_>) -> Result<(u64, Vec<State>), AnswerError> {
        let mut states = Vec::new();
        let mut as_of = AsOf::asked(at_us);
        for page in &self.pages {
            let Claims::States { as_of_us, states: claims } = &page.claims else {
                return Err(beside("they are no states"));
            };
            let time_us = as_of.settle(*as_of_us)?;
            for claim in claims {
                let subject = self.subject(&claim.member)?;
                states.push(state::check(&subject, time_us, &claim.state, named)?);
            }
        }
        self.check_members(states.iter().map(|state| &state.subject))?;
        self.check_now(at_us, as_of.settled(), named.entries())?;
        Ok((as_of.settled(), states))
    }

    fn changes(&self, from_us: u64, to_us: u64, named: &Named<'_>) -> Result<(u64, Vec<(State, State)>), AnswerError> {
        let mut changes = Vec::new();
        let mut as_of = AsOf::asked(to_us);
        for page in &self.pages {
            let Claims::Changes { as_of_us, changes: claims } = &page.claims else {
                return Err(beside("they are no changes"));
            };
            let to_us = as_of.settle(*as_of_us)?;
            for claim in claims {
                let subject = self.subject(&claim.member)?;
                let from = state::check(&subject, from_us, &claim.from, named)?;
                let to = state::check(&subject, to_us, &claim.to, named)?;
                if from.digest() == to.digest() {
                    return Err(beside(format!("{} did not change", subject_words(&subject))));
                }
                changes.push((from, to));
            }
        }
        self.check_members(changes.iter().map(|(from, _)| &from.subject))?;
        self.check_now(to_us, as_of.settled(), named.entries())?;
        Ok((as_of.settled(), changes))
    }

    fn subject(&self, member: &Member) -> Result<Subject, AnswerError> {
        self.question.subject(member).ok_or_else(|| beside(format!("{member:?} was not asked about")))
    }

    /// Each at most once, and not more than were asked for.
    fn check_members<'a>(&self, subjects: impl Iterator<Item = &'a Subject>) -> Result<(), AnswerError> {
        let mut seen = HashSet::new();
        for subject in subjects {
            if !seen.insert(subject) {
                return Err(AnswerError::Twice(subject_words(subject)));
            }
        }
        self.check_limit(seen.len())
    }

    /// "Now" may not lie before anything that its first page shows: that would be an answer about the past.
    fn check_now(&self, asked_us: u64, at_us: u64, entries: &VerifiedEntries) -> Result<(), AnswerError> {
        let newest = self.pages[0].evidence.entries.last().and_then(|last| entries.get(last.index));
        match newest.map(|entry| (entry.body.index(), entry.body.recorded_at_us())) {
            Some((index, recorded_at_us)) if asked_us == 0 && recorded_at_us > at_us => {
                Err(AnswerError::WrongTime { index, recorded_at_us, at_us })
            }
            _ => Ok(()),
        }
    }

    fn check_limit(&self, found: usize) -> Result<(), AnswerError> {
        match self.question.limit() {
            Some(limit) if usize::try_from(limit).is_ok_and(|limit| found > limit) => {
                Err(beside(format!("{found} were given where at most {limit} were asked for")))
            }
            _ => Ok(()),
        }
    }

    fn history(&self, subject: Subject, part: Part, named: &Named<'_>) -> Result<History, AnswerError> {
        let mut versions = Vec::new();
        let mut total = 0;
        for page in &self.pages {
            let Claims::Versions { versions: page, total: claimed } = &page.claims else {
                return Err(beside("they are no versions"));
            };
            versions.extend_from_slice(page);
            total = *claimed;
        }
        self.check_limit(versions.len())?;
        history::check(subject, part, &versions, total, named)
    }

    fn entry(
        &self,
        is_asked_for: impl Fn(u64, &Hash) -> bool,
        entries: &VerifiedEntries,
    ) -> Result<(Option<u64>, Finding), AnswerError> {
        if self.pages.iter().any(|page| page.claims != Claims::Entry) {
            return Err(beside("they are more than one entry"));
        }
        let found = entries.iter().find(|(index, entry)| is_asked_for(*index, &entry.hash));
        let (index, _) = found.ok_or_else(|| beside("the evidence holds another entry"))?;
        Ok((None, Finding::Entry(index)))
    }

    fn inclusion(
        &self,
        index: u64,
        asked_size: u64,
        entries: &VerifiedEntries,
    ) -> Result<(Option<u64>, Finding), AnswerError> {
        let [Page { claims: Claims::Inclusion { tree_size, root, path, consistency }, .. }] = &self.pages[..] else {
            return Err(beside("they are no inclusion proof"));
        };
        let checkpoint = entries.checkpoint();
        if *tree_size != if asked_size == 0 { checkpoint.size } else { asked_size } {
            return Err(beside(format!("they are about a tree of size {tree_size}")));
        }
        let leaf = entries.get(index).ok_or(AnswerError::Missing { index })?.hash;
        let wrong = |error| AnswerError::Proof { tree_size: *tree_size, error };
        if root_from_inclusion(index, *tree_size, &leaf, path).map_err(wrong)? != *root {
            return Err(wrong(ProofError::Root));
        }
        verify_consistency(*tree_size, checkpoint.size, root, &checkpoint.root, consistency).map_err(wrong)?;
        Ok((None, Finding::Inclusion { index, tree_size: *tree_size, root: *root, path: path.clone() }))
    }
}

impl Answer {
    /// Whether a log that goes on after this size could answer otherwise: the question reaches to the end of the log, or to
    /// a time after that log was closed.
    pub fn could_change_after(&self, size: u64) -> bool {
        let until_us = match &self.question {
            Question::TagAt { at_us, .. } | Question::TagsAt { at_us, .. } | Question::RunningAt { at_us, .. } => {
                *at_us
            }
            Question::RepositoryDiff { to_us, .. } | Question::EnvironmentDiff { to_us, .. } => *to_us,
            Question::TagHistory { part, .. } | Question::Sightings { part, .. } => part.until_us,
            Question::Inclusion { tree_size, .. } => return *tree_size == 0,
            Question::Entry { .. } | Question::Leaf { .. } => return false,
        };
        let closing = size.checked_sub(1).and_then(|index| self.entries.get(index));
        until_us == 0 || closing.is_none_or(|closing| closing.body.recorded_at_us() < until_us)
    }
}

/// The time that the pages of an answer are for.
struct AsOf {
    asked_us: u64,
    settled_us: Option<u64>,
}

impl AsOf {
    fn asked(asked_us: u64) -> Self {
        Self { asked_us, settled_us: None }
    }

    /// The time asked for; for "now" the one that the first page names.
    fn settle(&mut self, claimed_us: u64) -> Result<u64, AnswerError> {
        let time_us = match (self.asked_us, self.settled_us) {
            (0, None) => claimed_us,
            (0, Some(settled_us)) if settled_us != claimed_us => {
                return Err(beside("their pages are as of different times"));
            }
            (0, Some(settled_us)) => settled_us,
            (asked_us, _) => asked_us,
        };
        self.settled_us = Some(time_us);
        Ok(time_us)
    }

    fn settled(&self) -> u64 {
        self.settled_us.unwrap_or(self.asked_us)
    }
}

fn beside(what: impl Into<String>) -> AnswerError {
    AnswerError::BesideThePoint(what.into())
}
