//! The state of one subject at a time, from the entries on both sides of that time.

use std::collections::{BTreeMap, HashMap};

use super::question::{StateClaim, VersionClaim};
use super::verdict::subject_words;
use super::{AnswerError, beside};
use crate::ledger::entry::Body;
use crate::ledger::evidence::VerifiedEntries;
use crate::ledger::names::Digest;
use crate::ledger::statement::{Kind, Statement};
use crate::ledger::subject::{Effect, Subject, effect_on, named_by};
use crate::proto::Outcome;

/// The state of a subject at a time, as entries show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whose.
    pub subject: Subject,
    /// The last entry at or before the time. None: there was none.
    pub at: Option<Place>,
    /// The entry that came next, after the time. With it, `at` is proven to be the last before; without it, that nothing
    /// came in between is the server's word.
    pub next: Option<Place>,
    /// What the subject pointed to or ran. None: nothing.
    pub setting: Option<Setting>,
    /// How much of the setting follows from the entries shown.
    pub grounds: Grounds,
}

/// What shows the state after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounds {
    /// The entries show what it is and which of them set it: the last, or the one just before it.
    Shown,
    /// The last entry says which digest is bound. Which entry had bound it is the server's word: the digest may have gone
    /// and come back since.
    Confirmed,
    /// The last entry left the state as it was. That nothing else changed it since the entry that is said to have set it is
    /// the server's word.
    Inherited,
}

/// A digest, and the entry that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What.
    pub digest: Digest,
    /// By which entry.
    pub set_by: Place,
}

/// An entry's place in the log and in its subject's history. Exists only for entries that name the subject.
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

    /// The digest at the time, or that there was none, follows from the entries shown: also that nothing came in between.
    pub fn digest_is_proven(&self) -> bool {
        self.next.is_some() && self.grounds != Grounds::Inherited
    }
}

/// The verified entries, by the subjects they name.
pub(super) struct Named<'a> {
    entries: &'a VerifiedEntries,
    histories: HashMap<Subject, BTreeMap<u64, Mention>>,
}

/// An entry that names a subject, and what it says of it.
#[derive(Clone)]
pub(super) struct Mention {
    pub(super) place: Place,
    pub(super) effect: Effect,
    /// It says that there is nothing bound, without having changed that.
    pub(super) finds_nothing: bool,
}

impl<'a> Named<'a> {
    /// Sorts entries by subject. Two entries in one place of a history are refused: the ledger contradicts itself.
    pub(super) fn new(entries: &'a VerifiedEntries) -> Result<Self, AnswerError> {
        let mut histories: HashMap<Subject, BTreeMap<u64, Mention>> = HashMap::new();
        for (index, entry) in entries.iter() {
            let Body::Record(record, statement) = &entry.body else { continue };
            for reference in &record.subjects {
                let Some(subject) = named_by(statement, reference) else { continue };
                let effect = effect_on(&subject, record.outcome(), statement);
                let finds_nothing = effect == Effect::Keeps && finds_nothing(&subject, record.outcome(), statement);
                let place = Place { index, version: reference.version, recorded_at_us: record.recorded_at_us };
                let mention = Mention { place, effect, finds_nothing };
                let words = subject_words(&subject);
                let history = histories.entry(subject).or_default();
                // Entries come by rising index, so versions must rise too.
                if let Some((&last, _)) = history.last_key_value().filter(|(last, _)| **last >= reference.version) {
                    return Err(AnswerError::Disorder { index, subject: words, version: reference.version, last });
                }
                history.insert(reference.version, mention);
            }
        }
        Ok(Self { entries, histories })
    }

    /// All of them.
    pub(super) fn entries(&self) -> &VerifiedEntries {
        self.entries
    }

    /// Finds the entry of a claimed version, and checks that it says of itself what is claimed. What it says about the
    /// binding is yet to be held against `effective`.
    pub(super) fn version(&self, subject: &Subject, claim: &VersionClaim) -> Result<&Mention, AnswerError> {
        let mention = self.mention(subject, claim.index)?;
        let Place { index, version, recorded_at_us } = mention.place;
        if version != claim.version {
            return Err(contradiction(index, "the version", claim.version, version));
        }
        if recorded_at_us != claim.recorded_at_us {
            return Err(contradiction(index, "the time", claim.recorded_at_us, recorded_at_us));
        }
        Ok(mention)
    }

    fn mention(&self, subject: &Subject, index: u64) -> Result<&Mention, AnswerError> {
        if self.entries.get(index).is_none() {
            return Err(AnswerError::Missing { index });
        }
        let mut history = self.history(subject);
        let not_named = || AnswerError::NotNamed { index, subject: subject_words(subject) };
        history.find(|mention| mention.place.index == index).ok_or_else(not_named)
    }

    /// What is known of a subject's history, oldest first.
    fn history(&self, subject: &Subject) -> impl DoubleEndedIterator<Item = &Mention> {
        self.histories.get(subject).into_iter().flat_map(BTreeMap::values)
    }
}

/// Holds a claimed state against the entries it rests on.
pub(super) fn check(
    subject: &Subject,
    at_us: u64,
    claim: &StateClaim,
    named: &Named<'_>,
) -> Result<State, AnswerError> {
    let at = claim.at.map(|version| named.version(subject, &version)).transpose()?;
    let next = claim.next.map(|version| named.version(subject, &version)).transpose()?;
    check_neighbours(at, next, at_us)?;
    if let Some((next, version)) = next.zip(claim.next) {
        check_effective(next, version.effective, claim.at.map(|at| at.effective))?;
    }
    // Whatever else the evidence happens to hold may not contradict the claim.
    let last = named.history(subject).rfind(|mention| mention.place.recorded_at_us <= at_us);
    if let Some(last) = last
        && at.is_none_or(|at| at.place != last.place)
    {
        let claimed = at.map_or("nothing".to_owned(), |at| format!("entry {}", at.place.index));
        return Err(contradiction(last.place.index, "what came last before the time asked for", claimed, "itself"));
    }
    let next = next.map(|mention| mention.place);
    let Some((at, version)) = at.zip(claim.at) else {
        if !claim.digest.is_empty() {
            return Err(beside(format!("a digest is given for {}, which did not exist", subject_words(subject))));
        }
        // Without a neighbour it is the server's word that there is no entry; `at` and `next` say so.
        return Ok(State { subject: subject.clone(), at: None, next, setting: None, grounds: Grounds::Shown });
    };
    let (setting, grounds) = check_setting(subject, at, version.effective, named)?;
    let digest = setting.as_ref().map_or("", |setting| setting.digest.as_str());
    if digest != claim.digest {
        return Err(contradiction(at.place.index, "the digest in force after it", &claim.digest, digest));
    }
    Ok(State { subject: subject.clone(), at: Some(at.place), next, setting, grounds })
}

/// A deletion of what was gone, or a look that saw nothing where nothing was recorded.
fn finds_nothing(subject: &Subject, outcome: Outcome, statement: &Statement) -> bool {
    matches!(
        (subject, outcome, &statement.kind),
        (Subject::Tag(_), Outcome::Unchanged, Kind::TagDelete { .. } | Kind::TagObserved { digest: None, .. })
    )
}

/// The entries before and after the time follow each other, and lie on their sides of it.
fn check_neighbours(at: Option<&Mention>, next: Option<&Mention>, at_us: u64) -> Result<(), AnswerError> {
    let wrong_time =
        |place: &Place| AnswerError::WrongTime { index: place.index, recorded_at_us: place.recorded_at_us, at_us };
    if let Some(at) = at
        && at.place.recorded_at_us > at_us
    {
        return Err(wrong_time(&at.place));
    }
    let Some(Mention { place: next, .. }) = next else { return Ok(()) };
    if next.recorded_at_us <= at_us {
        return Err(wrong_time(next));
    }
    let expected = at.map_or(0, |at| at.place.version.saturating_add(1));
    if next.version != expected {
        return Err(AnswerError::Gap { expected, found: next.version });
    }
    Ok(())
}

/// What is in force after an entry, and what shows it.
fn check_setting(
    subject: &Subject,
    at: &Mention,
    effective: u64,
    named: &Named<'_>,
) -> Result<(Option<Setting>, Grounds), AnswerError> {
    let Place { index, version, .. } = at.place;
    // The last entry known to have changed the state, this one included.
    let changed = named.history(subject).rfind(|mention| {
        mention.place.version <= version && matches!(mention.effect, Effect::Sets(_) | Effect::Clears)
    });
    let expected = effective_by_itself(at);
    if let Some(expected) = expected.filter(|expected| *expected != effective) {
        return Err(contradiction(index, EFFECTIVE, effective, expected));
    }
    let Some(set_by) = effective.checked_sub(1) else {
        if let Some(Mention { effect: Effect::Sets(digest), .. }) = changed.filter(|_| expected.is_none()) {
            return Err(contradiction(index, "the digest in force after it", "nothing", digest));
        }
        if let Effect::Confirms(digest) = &at.effect {
            return Err(contradiction(index, "the digest in force after it", "nothing", digest));
        }
        let is_shown =
            expected.is_some() || changed.is_some_and(|changed| changed.place.version.checked_add(1) == Some(version));
        return Ok((None, if is_shown { Grounds::Shown } else { Grounds::Inherited }));
    };
    let setter = named.mention(subject, set_by)?;
    let Effect::Sets(digest) = &setter.effect else {
        return Err(contradiction(set_by, "the effect", "a new state", "none"));
    };
    if changed.is_none_or(|changed| changed.place != setter.place) {
        let last = changed.map_or("nothing".to_owned(), |changed| format!("entry {}", changed.place.index));
        return Err(contradiction(index, "what set the state in force after it", format!("entry {set_by}"), last));
    }
    if let Effect::Confirms(confirmed) = &at.effect
        && confirmed != digest
    {
        return Err(contradiction(index, "the digest in force after it", digest, confirmed));
    }
    let grounds = match &at.effect {
        // Nothing fits between an entry and the one just before it.
        _ if expected.is_some() || setter.place.version.checked_add(1) == Some(version) => Grounds::Shown,
        Effect::Confirms(_) => Grounds::Confirmed,
        _ => Grounds::Inherited,
    };
    Ok((Some(Setting { digest: digest.clone(), set_by: setter.place }), grounds))
}

/// Holds a claimed `effective` against the entry, and against that of the version just before it where this is known.
pub(super) fn check_effective(mention: &Mention, effective: u64, before: Option<u64>) -> Result<(), AnswerError> {
    let index = mention.place.index;
    if let Some(expected) = effective_by_itself(mention).or(before)
        && expected != effective
    {
        return Err(contradiction(index, EFFECTIVE, effective, expected));
    }
    match &mention.effect {
        Effect::Confirms(_) if effective == 0 => Err(contradiction(index, EFFECTIVE, "nothing", "a binding")),
        // It changed nothing: what is in force was set before it.
        Effect::Confirms(_) | Effect::Keeps if effective > index => {
            Err(contradiction(index, EFFECTIVE, effective, "an entry before it"))
        }
        _ => Ok(()),
    }
}

const EFFECTIVE: &str = "the entry in force after it (plus one)";

/// `effective`, where the entry alone decides it.
pub(super) fn effective_by_itself(mention: &Mention) -> Option<u64> {
    match &mention.effect {
        Effect::Sets(_) => Some(mention.place.index + 1),
        Effect::Clears => Some(0),
        // A history begins with nothing.
        Effect::Keeps if mention.finds_nothing || mention.place.version == 0 => Some(0),
        Effect::Keeps | Effect::Confirms(_) => None,
    }
}

pub(super) fn contradiction(
    index: u64,
    what: &'static str,
    claimed: impl ToString,
    signed: impl ToString,
) -> AnswerError {
    AnswerError::Contradiction { index, what, claimed: claimed.to_string(), signed: signed.to_string() }
}
