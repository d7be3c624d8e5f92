//! The state of one subject at a time, from the two neighbours of its history around that time.

use super::proven::Proven;
use super::verdict::subject_words;
use super::{AnswerError, beside};
use crate::ledger::entry::Body;
use crate::ledger::evidence::VerifiedEntries;
use crate::ledger::names::Digest;
use crate::ledger::statement::Statement;
use crate::ledger::subject::{Effect, Subject, effect_on, named_by};
use crate::ledger::subject_proof::{ProvenSubject, ProvenVersion};
use crate::proto;

/// The state of a subject at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whose.
    pub subject: Subject,
    /// The last entry at or before the time. None: there was none.
    pub at: Option<Place>,
    /// The entry that came next, after the time. None: there is none as of the commitment.
    pub next: Option<Place>,
    /// What the subject pointed to or ran. None: nothing.
    pub setting: Option<Setting>,
    /// Entries in the subject's history as of the commitment. 0: the subject never occurred.
    pub count: u64,
}

/// A digest, and the entry that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What.
    pub digest: Digest,
    /// By which entry.
    pub set_by: Place,
}

/// An entry's place in the log and in its subject's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Position in the log.
    pub index: u64,
    /// Position in the history.
    pub version: u64,
    /// The ledger's clock.
    pub recorded_at_us: u64,
}

impl State {
    /// What the subject pointed to or ran.
    pub fn digest(&self) -> Option<&Digest> {
        self.setting.as_ref().map(|setting| &setting.digest)
    }
}

impl Place {
    pub(super) fn new(version: u64, proven: &ProvenVersion) -> Self {
        Self { index: proven.index, version, recorded_at_us: proven.recorded_at_us }
    }
}

impl Proven {
    /// The state of a subject at a time.
    pub(super) fn state(&self, subject: &Subject, at_us: u64) -> Result<State, AnswerError> {
        let mut refused = AnswerError::NotShown { subject: subject_words(subject) };
        for proven in self.of(subject, at_us) {
            match state(subject, at_us, proven, &self.entries) {
                Ok(state) => return Ok(state),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

fn state(
    subject: &Subject,
    at_us: u64,
    proven: &ProvenSubject,
    entries: &VerifiedEntries,
) -> Result<State, AnswerError> {
    check_neighbours(subject, proven, entries)?;
    let by_then = |version: &ProvenVersion| version.recorded_at_us <= at_us;
    let at = proven.versions.iter().rfind(|(_, version)| by_then(version));
    let next = proven.versions.iter().find(|(_, version)| !by_then(version));
    // Between two versions that follow each other there is no room for a third, nor after the last.
    let expected = at.map_or(0, |(version, _)| version + 1);
    let found = next.map_or(proven.count, |(version, _)| *version);
    if found != expected {
        return Err(AnswerError::Gap { subject: subject_words(subject), expected, count: proven.count });
    }
    let setting = match at {
        Some((version, at)) => setting(subject, *version, at, entries)?,
        None => None,
    };
    let place = |(version, proven): (&u64, &ProvenVersion)| Place::new(*version, proven);
    Ok(State { subject: subject.clone(), at: at.map(place), next: next.map(place), setting, count: proven.count })
}

/// Holds what leaves say of what is in force against the leaves shown before them: an entry that leaves the state alone
/// leaves it as it was, or as an entry in between has set it.
pub(super) fn check_neighbours(
    subject: &Subject,
    proven: &ProvenSubject,
    entries: &VerifiedEntries,
) -> Result<(), AnswerError> {
    for ((before, one), (version, other)) in proven.versions.iter().zip(proven.versions.iter().skip(1)) {
        let (_, effect) = mention(subject, other.index, entries)?;
        let leaves_alone = matches!(effect, Effect::Keeps | Effect::Confirms(_));
        // What was set before the earlier one, or by it, is in force only if it was in force after it.
        let set_before = other.effective.checked_sub(1).is_some_and(|set_by| set_by <= one.index);
        let must_agree = before + 1 == *version || set_before;
        if must_agree && leaves_alone && one.effective != other.effective {
            let (claimed, signed) = (other.effective.to_string(), format!("that it stays {}", one.effective));
            return Err(AnswerError::Contradiction { index: other.index, what: EFFECTIVE, claimed, signed });
        }
    }
    Ok(())
}

/// What is in force after a version: what its leaf says, held against what entries say that set it or leave it alone.
pub(super) fn setting(
    subject: &Subject,
    version: u64,
    proven: &ProvenVersion,
    entries: &VerifiedEntries,
) -> Result<Option<Setting>, AnswerError> {
    let ProvenVersion { index, effective, .. } = *proven;
    let (_, effect) = mention(subject, index, entries)?;
    let wrong = |signed: &dyn ToString| AnswerError::Contradiction {
        index,
        what: EFFECTIVE,
        claimed: effective.to_string(),
        signed: signed.to_string(),
    };
    match &effect {
        Effect::Sets(_) if effective != index + 1 => return Err(wrong(&(index + 1))),
        Effect::Clears if effective != 0 => return Err(wrong(&0)),
        Effect::Confirms(digest) if effective == 0 => return Err(wrong(digest)),
        // A history begins with nothing.
        Effect::Keeps if version == 0 && effective != 0 => return Err(wrong(&0)),
        // It changed nothing: what is in force was set before it.
        Effect::Confirms(_) | Effect::Keeps if effective > index => return Err(wrong(&"an entry before it")),
        _ => {}
    }
    let Some(set_by) = effective.checked_sub(1) else { return Ok(None) };
    let (place, effect_of_setter) = mention(subject, set_by, entries)?;
    let Effect::Sets(digest) = effect_of_setter else {
        let (claimed, signed) = ("a new state".to_owned(), "none".to_owned());
        return Err(AnswerError::Contradiction { index: set_by, what: "the effect", claimed, signed });
    };
    if let Effect::Confirms(confirmed) = effect
        && confirmed != digest
    {
        return Err(wrong(&confirmed));
    }
    if place.version > version {
        return Err(beside(format!("entry {set_by} comes after entry {index}, whose state it is said to have set")));
    }
    Ok(Some(Setting { digest, set_by: place }))
}

const EFFECTIVE: &str = "the entry in force after it (plus one)";

/// Where an entry says that it stands in a subject's history, and what it does to the subject.
fn mention(subject: &Subject, index: u64, entries: &VerifiedEntries) -> Result<(Place, Effect), AnswerError> {
    let entry = entries.get(index).ok_or(AnswerError::Missing { index })?;
    let not_named = || AnswerError::NotNamed { index, subject: subject_words(subject) };
    let Body::Record(record, statement) = &entry.body else { return Err(not_named()) };
    let version = version_in(subject, record, statement).ok_or_else(not_named)?;
    let place = Place { index, version, recorded_at_us: record.recorded_at_us };
    Ok((place, effect_on(subject, record.outcome(), statement)))
}

/// The version of a subject that a record says it is.
fn version_in(subject: &Subject, record: &proto::Record, statement: &Statement) -> Option<u64> {
    let mut references = record.subjects.iter();
    let reference = references.find(|reference| named_by(statement, reference).as_ref() == Some(subject))?;
    Some(reference.version)
}
