//! What the pages of an answer prove together: entries of one log, and parts of the histories of subjects.
//!
//! Each page has a checkpoint of its own, closed by a commitment, and its subject proofs hold as of that commitment. What a
//! question needs of one subject has to come from one proof, made as of the time asked for or later: put together from
//! several commitments it would rest on their agreeing.

use std::collections::{HashMap, HashSet};

use super::verdict::checked;
use super::{AnswerError, Claimed, Reach, beside};
use crate::ledger::entry::Body;
use crate::ledger::evidence::{VerifiedEntries, verify};
use crate::ledger::keys::Keys;
use crate::ledger::merkle::Hash;
use crate::ledger::subject::{Subject, SubjectKey};
use crate::ledger::subject_proof::{ProvenSubject, verify_subject};

/// Verified pages.
#[derive(Debug, Clone, PartialEq)]
pub struct Proven {
    /// The entries of all pages, as of the largest checkpoint among them.
    pub entries: VerifiedEntries,
    pub(super) pages: Vec<ProvenPage>,
}

/// What one page says of subjects.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProvenPage {
    /// Size of its checkpoint.
    pub(super) size: u64,
    /// When that was closed, if the page shows it.
    pub(super) closed_at_us: Option<u64>,
    pub(super) subjects: HashMap<SubjectKey, ProvenSubject>,
}

impl Proven {
    /// Verifies the evidence of all pages.
    pub(super) fn new(claimed: &Claimed, keys: &impl Keys) -> Result<Self, AnswerError> {
        let mut verified = Vec::with_capacity(claimed.pages.len());
        for page in &claimed.pages {
            verified.push(verify(page, keys)?);
        }
        let closings: Vec<_> = verified.iter().map(|page| (page.checkpoint().size, closing(page))).collect();
        let entries = join(verified, claimed)?;
        let mut pages = Vec::with_capacity(closings.len());
        for (page, (size, closing)) in claimed.pages.iter().zip(closings) {
            let mut subjects = HashMap::new();
            if !page.subjects.is_empty() {
                let (map_root, _) = closing.ok_or(AnswerError::Unclosed { size })?;
                for proof in &page.subjects {
                    let key = hex::encode(&proof.key);
                    let proven = verify_subject(proof, &map_root, size - 1, &entries)
                        .map_err(|error| AnswerError::Subject { key: key.clone(), error })?;
                    if subjects.insert(proven.key, proven).is_some() {
                        return Err(beside(format!("subject {key} is proven twice on one page")));
                    }
                }
            }
            pages.push(ProvenPage { size, closed_at_us: closing.map(|(_, time_us)| time_us), subjects });
        }
        Ok(Self { entries, pages })
    }

    /// What was verified, in words.
    pub fn checked(&self) -> String {
        checked(&self.entries, self.subject_count())
    }

    /// When the checkpoint of the first page was closed: the "now" of the answer.
    pub(super) fn now_us(&self) -> Result<u64, AnswerError> {
        let unclosed = AnswerError::Unclosed { size: self.entries.checkpoint().size };
        self.pages.first().and_then(|page| page.closed_at_us).ok_or(unclosed)
    }

    /// How many subjects there are proofs of.
    pub(super) fn subject_count(&self) -> usize {
        self.pages.iter().flat_map(|page| page.subjects.keys()).collect::<HashSet<_>>().len()
    }

    /// How many entries the history of a subject has, as of the first page.
    pub(crate) fn count_of(&self, subject: &Subject) -> Result<u64, AnswerError> {
        let page = self.pages.first().ok_or_else(|| beside("there is no page"))?;
        let proven = page.subjects.get(&subject.key());
        let not_shown = || AnswerError::NotShown { subject: super::subject_words(subject) };
        proven.map(|proven| proven.count).ok_or_else(not_shown)
    }

    /// The smallest log that proofs which reach to a time may rest on.
    pub(super) fn reach(&self, at_us: u64) -> Option<Reach> {
        let closed = |page: &ProvenPage| Some(Reach { size: page.size, closed_at_us: page.closed_at_us? });
        let reaching = self.pages.iter().filter_map(closed).filter(|reach| reach.closed_at_us >= at_us);
        reaching.min_by_key(|reach| reach.size)
    }

    /// The proofs of a subject that reach to a time.
    pub(super) fn of(&self, subject: &Subject, at_us: u64) -> impl Iterator<Item = &ProvenSubject> {
        let key = subject.key();
        let reaching = self.pages.iter().filter(move |page| page.closed_at_us.is_some_and(|closed| closed >= at_us));
        reaching.filter_map(move |page| page.subjects.get(&key))
    }
}

/// The map root that closes the checkpoint of a page, and when it did.
fn closing(page: &VerifiedEntries) -> Option<(Hash, u64)> {
    match &page.get(page.checkpoint().size.checked_sub(1)?)?.body {
        Body::Commitment(commitment) => {
            let root = commitment.map_root.as_slice().try_into().expect("a decoded commitment has a root of 32 bytes");
            Some((root, commitment.recorded_at_us))
        }
        Body::Record(..) => None,
    }
}

/// All entries, once the checkpoints are proven to be of one log.
fn join(pages: Vec<VerifiedEntries>, claimed: &Claimed) -> Result<VerifiedEntries, AnswerError> {
    let mut pages = pages.into_iter();
    let mut all = pages.next().ok_or_else(|| beside("there is no page"))?;
    for page in pages {
        let (one, other) = (all.checkpoint().size, page.checkpoint().size);
        all = all.join(page, claimed.growth_between(one, other))?;
    }
    Ok(all)
}
