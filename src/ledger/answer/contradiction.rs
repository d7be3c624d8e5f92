//! Contradictions between pieces of evidence.
//!
//! A ledger signs one log, and in each commitment one map over all that came before. So two checkpoints of one size have one
//! root, an index has one entry, and a history as of a commitment has every entry before it that names the subject, at the
//! version that the entry says. Evidence that verifies under one key and breaks any of these was made by a ledger that
//! misbehaved; the evidence is the proof, for everybody who trusts the key.

use super::proven::{Proven, ProvenPage};
use super::verdict::subject_words;
use crate::ledger::entry::Body;
use crate::ledger::subject::{Subject, named_by};
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
    /// A history that has another entry in the place of one which belongs there.
    #[error(
        "it signed entry {index} as version {version} of {subject}, and in the commitment of the log of size {size} a history \
         that skips it: entry {other} is version {other_version} there"
    )]
    Replaced {
        /// The entry.
        index: u64,
        /// The subject in words.
        subject: String,
        /// The version that the entry says it is.
        version: u64,
        /// Size of the checkpoint that the commitment closes.
        size: u64,
        /// Another entry.
        other: u64,
        /// The version that it has in the history.
        other_version: u64,
    },
    /// Two histories of one subject.
    #[error(
        "it committed to two histories of subject {key}: they differ in version {version}, or one is shorter later"
    )]
    TwoHistories {
        /// The subject's key in hexadecimal.
        key: String,
        /// A version that is in one of them only.
        version: u64,
    },
}

/// An entry that says which version of which subject it is.
struct Mention {
    index: u64,
    subject: Subject,
    version: u64,
}

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
        let (mine, theirs) = (self.mentions(), other.mentions());
        out_of_order(mine.iter().chain(&theirs))
            .or_else(|| other.pages.iter().find_map(|page| skipped(&mine, page)))
            .or_else(|| self.pages.iter().find_map(|page| skipped(&theirs, page)))
            .or_else(|| self.pages.iter().find_map(|page| other.pages.iter().find_map(|two| differing(page, two))))
    }

    fn mentions(&self) -> Vec<Mention> {
        let mut mentions = Vec::new();
        for (index, entry) in self.entries.iter() {
            let Body::Record(record, statement) = &entry.body else { continue };
            for reference in &record.subjects {
                let Some(subject) = named_by(statement, reference) else { continue };
                mentions.push(Mention { index, subject, version: reference.version });
            }
        }
        mentions
    }
}

/// Versions of one subject rise as the log does.
fn out_of_order<'a>(mentions: impl Iterator<Item = &'a Mention>) -> Option<Contradiction> {
    let mut all: Vec<_> = mentions.map(|mention| (mention.subject.key(), mention.index, mention)).collect();
    all.sort_by_key(|(key, index, _)| (*key, *index));
    all.dedup_by_key(|(key, index, mention)| (*key, *index, mention.version));
    let mut pairs = all.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    let pair = pairs.find(|pair| pair[0].2.version >= pair[1].2.version || pair[0].1 == pair[1].1)?;
    let (one, other) = (pair[0].2, pair[1].2);
    Some(Contradiction::Disorder {
        subject: subject_words(&one.subject),
        one: one.index,
        version: one.version,
        other: other.index,
        other_version: other.version,
    })
}

/// An entry that a history as of a later commitment does not have in its place.
fn skipped(mentions: &[Mention], page: &ProvenPage) -> Option<Contradiction> {
    mentions.iter().filter(|mention| mention.index + 1 < page.size).find_map(|mention| {
        let Mention { index, version, .. } = *mention;
        let ProvenSubject { count, versions, .. } = page.subjects.get(&mention.subject.key())?;
        let subject = subject_words(&mention.subject);
        if *count <= version {
            return Some(Contradiction::Skipped { index, subject, version, size: page.size, count: *count });
        }
        let (other_version, other) = versions.iter().find(|(found, shown)| match (*found).cmp(&version) {
            std::cmp::Ordering::Less => shown.index >= index,
            std::cmp::Ordering::Equal => shown.index != index,
            std::cmp::Ordering::Greater => shown.index <= index,
        })?;
        let (size, other, other_version) = (page.size, other.index, *other_version);
        Some(Contradiction::Replaced { index, subject, version, size, other, other_version })
    })
}

/// A history that later was shorter, or other.
fn differing(one: &ProvenPage, other: &ProvenPage) -> Option<Contradiction> {
    let (older, newer) = if one.size <= other.size { (one, other) } else { (other, one) };
    older.subjects.values().find_map(|before| {
        let after = newer.subjects.get(&before.key)?;
        let two = |version| Contradiction::TwoHistories { key: hex::encode(before.key.0), version };
        if after.count < before.count {
            return Some(two(after.count));
        }
        let mut differing = before.versions.iter().filter(|(version, leaf)| {
            after
                .versions
                .get(version)
                .is_some_and(|other| (other.index, other.effective) != (leaf.index, leaf.effective))
        });
        differing.next().map(|(version, _)| two(*version))
    })
}
