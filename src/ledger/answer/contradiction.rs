//! Contradictions between pieces of evidence.
//!
//! A ledger signs one log, and in each commitment one map over all that came before. So two checkpoints of one size have one
//! root, an index has one entry, and a history as of a commitment has every entry before it that names the subject, at the
//! version that the entry says. Evidence that verifies under one key and breaks any of these was made by a ledger that
//! misbehaved; the evidence is the proof, for everybody who trusts the key.

use std::collections::{BTreeMap, HashSet};

use super::proven::Proven;
use super::verdict::subject_words;
use crate::ledger::entry::Body;
use crate::ledger::referrer::subject_of;
use crate::ledger::statement::{Kind, Statement};
use crate::ledger::subject::{Subject, SubjectKey, digest_of, named_by, tag_of};
use crate::ledger::subject_proof::ProvenSubject;

/// Two things that one ledger signed and that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Two logs.
    #[error("it signed two checkpoints of size {size} with different roots")]
    TwoRoots {
        /// Of both.
        size: u64,
    },
    /// Two entries in one place of the log.
    #[error("it signed two different entries as entry {index}")]
    TwoEntries {
        /// Of both.
        index: u64,
    },
    /// An entry that keeps itself out of a history.
    #[error("it signed entry {index}, which belongs to {subject}, without naming it")]
    Unnamed {
        /// The entry.
        index: u64,
        /// The subject in words.
        subject: String,
    },
    /// An entry that puts itself into a history.
    #[error("it signed entry {index} as one about {subject}, to which it does not belong")]
    Misnamed {
        /// The entry.
        index: u64,
        /// The subject in words.
        subject: String,
    },
    /// Two entries in one place of a history, or in an order that is not the log's.
    #[error("it signed entry {one} as version {version} of {subject}, and entry {other} as version {other_version}")]
    Disorder {
        /// The subject in words.
        subject: String,
        /// An entry.
        one: u64,
        /// Its version.
        version: u64,
        /// Another entry.
        other: u64,
        /// Its version.
        other_version: u64,
    },
    /// A history that ends before an entry which belongs to it.
    #[error(
        "it signed entry {index} as version {version} of {subject}, and in the commitment of the log of size {size} a history \
         that skips it: {count} versions in all"
    )]
    Skipped {
        /// The entry.
        index: u64,
        /// The subject in words.
        subject: String,
        /// The version that the entry says it is.
        version: u64,
        /// Size of the checkpoint that the commitment closes.
        size: u64,
        /// Versions in the history as of then.
        count: u64,
    },
    /// Two histories of one subject, of which the later does not continue the earlier.
    #[error(
        "it committed to two histories of subject {key}: one of {older} versions, and later one of {newer} that does not continue it"
    )]
    TwoHistories {
        /// The subject's key in hexadecimal.
        key: String,
        /// Versions in the one that was committed to first.
        older: u64,
        /// Versions in the other.
        newer: u64,
    },
}

/// An entry that says which version of which subject it is.
struct Mention {
    index: u64,
    subject: Subject,
    key: SubjectKey,
    version: u64,
}

/// By subject: the size of a checkpoint, and what its map says.
type Proofs<'a> = BTreeMap<SubjectKey, Vec<(u64, &'a ProvenSubject)>>;

impl Proven {
    /// The first contradiction between two pieces of evidence that verify under one key; the two may be the same.
    pub fn contradiction(&self, other: &Self) -> Option<Contradiction> {
        let (one, two) = (self.entries.checkpoint(), other.entries.checkpoint());
        if one.size == two.size && one.root != two.root {
            return Some(Contradiction::TwoRoots { size: one.size });
        }
        let mut both = self.entries.iter().filter_map(|(index, entry)| Some((index, entry, other.entries.get(index)?)));
        if let Some((index, ..)) = both.find(|(_, mine, theirs)| mine.bytes != theirs.bytes) {
            return Some(Contradiction::TwoEntries { index });
        }
        if let Some(contradiction) = self.misnamed().or_else(|| other.misnamed()) {
            return Some(contradiction);
        }
        // Held against itself, evidence need not be gone through twice.
        let (mine, theirs) = (self.mentions(), if std::ptr::eq(self, other) { Vec::new() } else { other.mentions() });
        let (my_proofs, their_proofs) = (self.proofs(), other.proofs());
        // Each leaf of a proof has its entry here, which says what the leaf says: two entries for one place are in disorder.
        out_of_order(mine.iter().chain(&theirs))
            .or_else(|| skipped(&mine, &their_proofs))
            .or_else(|| skipped(&theirs, &my_proofs))
            .or_else(|| differing(&my_proofs, &their_proofs))
    }

    /// An entry that does not name exactly the subjects that it belongs to.
    fn misnamed(&self) -> Option<Contradiction> {
        self.entries.iter().find_map(|(index, entry)| {
            let Body::Record(record, statement) = &entry.body else { return None };
            let named = |reference| Some((named_by(statement, reference)?, reference.version));
            let named: Vec<(Subject, u64)> = record.subjects.iter().filter_map(named).collect();
            let due = subjects_due(statement, &named);
            let named: HashSet<&Subject> = named.iter().map(|(subject, _)| subject).collect();
            if let Some(subject) = due.iter().find(|subject| !named.contains(subject)) {
                return Some(Contradiction::Unnamed { index, subject: subject_words(subject) });
            }
            let due: HashSet<&Subject> = due.iter().collect();
            let subject = subject_words(named.difference(&due).next()?);
            Some(Contradiction::Misnamed { index, subject })
        })
    }

    /// The proofs of each subject, with the size of the checkpoint under which each was made.
    fn proofs(&self) -> Proofs<'_> {
        let mut proofs = Proofs::new();
        for page in &self.pages {
            for (key, proven) in &page.subjects {
                proofs.entry(*key).or_default().push((page.size, proven));
            }
        }
        proofs
    }

    fn mentions(&self) -> Vec<Mention> {
        let mut mentions = Vec::new();
        for (index, entry) in self.entries.iter() {
            let Body::Record(record, statement) = &entry.body else { continue };
            for reference in &record.subjects {
                let Some(subject) = named_by(statement, reference) else { continue };
                mentions.push(Mention { index, key: subject.key(), subject, version: reference.version });
            }
        }
        mentions
    }
}

/// The subjects that a record belongs to: those of its statement, the digests that referrer tags among them hang on, and the
/// catalogues of what it is the first about (docs/SPEC.md, "Subjects"). Which tags a deletion by digest unbinds only the record says.
fn subjects_due(statement: &Statement, named: &[(Subject, u64)]) -> Vec<Subject> {
    let (tag, digest) = (tag_of(statement).map(Subject::Tag), digest_of(statement).cloned().map(Subject::Digest));
    let mut due = Vec::with_capacity(named.len());
    match &statement.kind {
        Kind::PolicyChange { .. } => due.push(Subject::Policy),
        Kind::PrincipalChange { .. } => due.push(Subject::Principals),
        Kind::KeyChange { .. } => due.push(Subject::Keys),
        Kind::ManifestDelete { .. } => {
            due.extend(digest);
            due.extend(named.iter().map(|(subject, _)| subject).filter(|s| matches!(s, Subject::Tag(_))).cloned());
        }
        Kind::Deployment { workload, .. } => {
            due.push(Subject::Workload(workload.clone()));
            due.extend(digest.into_iter().chain(tag));
        }
        _ => due.extend(tag.into_iter().chain(digest)),
    }
    let hung_on = |subject: &Subject| match subject {
        Subject::Tag(tag) => subject_of(&tag.tag).map(Subject::Digest),
        _ => None,
    };
    due.extend(due.iter().filter_map(hung_on).collect::<Vec<_>>());
    let firsts = named.iter().filter(|(_, version)| *version == 0);
    due.extend(firsts.filter_map(|(subject, _)| catalogue_of(subject)));
    due
}

/// The catalogue in which a subject appears with its first entry.
fn catalogue_of(subject: &Subject) -> Option<Subject> {
    match subject {
        Subject::Tag(tag) => Some(Subject::TagsOf(tag.registry.clone(), tag.repository.clone())),
        Subject::TagsOf(..) => Some(Subject::Repositories),
        Subject::Workload(workload) => Some(Subject::WorkloadsOf(workload.environment.clone())),
        Subject::WorkloadsOf(_) => Some(Subject::Environments),
        Subject::Digest(_)
        | Subject::Repositories
        | Subject::Environments
        | Subject::Policy
        | Subject::Principals
        | Subject::Keys => None,
    }
}

/// Versions of one subject rise as the log does.
fn out_of_order<'a>(mentions: impl Iterator<Item = &'a Mention>) -> Option<Contradiction> {
    let mut all: Vec<_> = mentions.collect();
    all.sort_by_key(|mention| (mention.key, mention.index));
    all.dedup_by_key(|mention| (mention.key, mention.index, mention.version));
    let mut pairs = all.windows(2).filter(|pair| pair[0].key == pair[1].key);
    let pair = pairs.find(|pair| pair[0].version >= pair[1].version || pair[0].index == pair[1].index)?;
    let (one, other) = (pair[0], pair[1]);
    Some(Contradiction::Disorder {
        subject: subject_words(&one.subject),
        one: one.index,
        version: one.version,
        other: other.index,
        other_version: other.version,
    })
}

/// An entry that a history as of a later commitment is too short for.
fn skipped(mentions: &[Mention], proofs: &Proofs<'_>) -> Option<Contradiction> {
    mentions.iter().find_map(|mention| {
        let Mention { index, version, .. } = *mention;
        let skips = |(size, proven): &&(u64, &ProvenSubject)| index + 1 < *size && proven.count <= version;
        let (size, proven) = proofs.get(&mention.key)?.iter().find(skips)?;
        let (subject, size, count) = (subject_words(&mention.subject), *size, proven.count);
        Some(Contradiction::Skipped { index, subject, version, size, count })
    })
}

/// A history that later was shorter, or other.
fn differing(mine: &Proofs<'_>, theirs: &Proofs<'_>) -> Option<Contradiction> {
    mine.iter().find_map(|(key, mine)| {
        let theirs = theirs.get(key)?;
        let mut pairs = mine.iter().flat_map(|one| theirs.iter().map(move |other| in_order(one, other)));
        let (before, after) = pairs.find(|(before, after)| !may_continue(before, after))?;
        Some(Contradiction::TwoHistories { key: hex::encode(key.0), older: before.count, newer: after.count })
    })
}

fn in_order<'a>(
    one: &(u64, &'a ProvenSubject),
    other: &(u64, &'a ProvenSubject),
) -> (&'a ProvenSubject, &'a ProvenSubject) {
    if one.0 <= other.0 { (one.1, other.1) } else { (other.1, one.1) }
}

/// Whether one proof of a subject does not rule out that a later one is of the same history, as far as both show it.
fn may_continue(before: &ProvenSubject, after: &ProvenSubject) -> bool {
    if after.count < before.count || (after.count == before.count && after.root != before.root) {
        return false;
    }
    let (Some((first, _)), Some((last, _))) = (after.versions.first_key_value(), after.versions.last_key_value())
    else {
        return true;
    };
    // Many pages of one history hardly overlap, and each is held against each.
    before.versions.range(first..=last).all(|(version, leaf)| {
        let other = after.versions.get(version);
        other.is_none_or(|other| (other.index, other.effective) == (leaf.index, leaf.effective))
    })
}
