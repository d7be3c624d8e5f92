//! A part of one subject's history: all of its versions in a span of time, or the first of them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::AnswerError;
use super::proven::Proven;
use super::question::Part;
use super::state::{Place, Setting, check_neighbours, setting};
use super::verdict::subject_words;
use crate::ledger::subject::Subject;
use crate::ledger::subject_proof::{ProvenSubject, ProvenVersion};

/// Versions of a subject's history that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Whose.
    pub subject: Subject,
    /// In the order asked for.
    pub versions: Vec<HistoryVersion>,
    /// As many as were asked for: there may be more. Otherwise these are all.
    pub is_cut: bool,
    /// Versions in all as of the commitment. 0: the subject never occurred.
    pub count: u64,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryVersion {
    /// The entry.
    pub place: Place,
    /// What is in force after it. None: nothing.
    pub after: Option<Setting>,
}

impl Proven {
    /// The part of a history that was asked for, up to its last moment.
    pub(super) fn history(&self, subject: &Subject, part: Part, last_us: u64) -> Result<History, AnswerError> {
        let times = part.since_us..=last_us;
        let mut refused = AnswerError::NotShown { subject: subject_words(subject) };
        for proven in self.of(subject, last_us) {
            match take(subject, proven, &times, part) {
                Ok((taken, is_cut)) => {
                    check_neighbours(subject, proven, &self.entries)?;
                    let version = |(version, proven): (u64, ProvenVersion)| {
                        let after = setting(subject, version, &proven, &self.entries)?;
                        Ok(HistoryVersion { place: Place::new(version, &proven), after })
                    };
                    let versions = taken.into_iter().map(version).collect::<Result<_, AnswerError>>()?;
                    return Ok(History { subject: subject.clone(), versions, is_cut, count: proven.count });
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

/// The versions in a span of time, in the order asked for, once nothing is missing among them nor at their ends. An end that
/// was not reached for the limit is none.
fn take(
    subject: &Subject,
    proven: &ProvenSubject,
    times: &RangeInclusive<u64>,
    part: Part,
) -> Result<(Vec<(u64, ProvenVersion)>, bool), AnswerError> {
    let limit = if part.limit == 0 { usize::MAX } else { usize::try_from(part.limit).unwrap_or(usize::MAX) };
    let inside = |version: &ProvenVersion| times.contains(&version.recorded_at_us);
    let mut taken: Vec<_> = proven.versions.iter().filter(|(_, version)| inside(version)).collect();
    if part.newest_first {
        taken.reverse();
    }
    let is_cut = taken.len() >= limit;
    taken.truncate(limit);
    let is_before = |version: &ProvenVersion| version.recorded_at_us < *times.start();
    let before = proven.versions.iter().rfind(|(_, version)| is_before(version));
    let after = proven.versions.iter().find(|(_, version)| version.recorded_at_us > *times.end());
    // What stands before the first version of the span, and what after the last: a version, or an end of the history.
    let (mut begin, mut end) =
        (before.map_or(0, |(version, _)| version + 1), after.map_or(proven.count, |(version, _)| *version));
    let outermost = taken.last().map(|(version, _)| **version);
    match (is_cut, part.newest_first, outermost) {
        (true, false, Some(last)) => end = last + 1,
        (true, true, Some(first)) => begin = first,
        _ => {}
    }
    let shown: BTreeSet<u64> = taken.iter().map(|(version, _)| **version).collect();
    match (begin..end).find(|version| !shown.contains(version)) {
        Some(expected) => Err(AnswerError::Gap { subject: subject_words(subject), expected, count: proven.count }),
        // Nor is there one too many: times of entries rise, and so do those of versions.
        None => Ok((taken.into_iter().map(|(version, proven)| (*version, *proven)).collect(), is_cut)),
    }
}
