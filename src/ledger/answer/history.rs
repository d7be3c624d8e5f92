//! A part of one subject's history: versions that follow each other without a gap.

use super::question::{Part, VersionClaim};
use super::state::{Mention, Named, Place, check_effective, contradiction, effective_by_itself};
use super::{AnswerError, beside};
use crate::ledger::names::Digest;
use crate::ledger::subject::{Effect, Subject};

/// Versions of a subject's history, as entries show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Whose.
    pub subject: Subject,
    /// In the order asked for.
    pub versions: Vec<HistoryVersion>,
    /// How many versions there are in all: the server's word.
    pub claimed_total: u64,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryVersion {
    /// The entry.
    pub place: Place,
    /// What is in force after it.
    pub after: After,
}

/// What is in force after an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// This digest.
    Bound(Digest),
    /// Nothing.
    Nothing,
    /// Whatever an entry before those shown had set: the server says which.
    SetBefore {
        /// Position in the log; none: nothing was in force.
        claimed_index: Option<u64>,
    },
}

/// Holds claimed versions against their entries.
pub(super) fn check(
    subject: Subject,
    part: Part,
    claims: &[VersionClaim],
    claimed_total: u64,
    named: &Named<'_>,
) -> Result<History, AnswerError> {
    let mut rising = claims.to_vec();
    if part.newest_first {
        rising.reverse();
    }
    let mut versions: Vec<HistoryVersion> = Vec::with_capacity(rising.len());
    let mut effective_before = 0;
    for claim in &rising {
        let mention = named.version(&subject, claim)?;
        check_part(&mention.place, part)?;
        let previous = versions.last();
        check_follows(&mention.place, previous.map(|previous| &previous.place))?;
        let before = previous.map(|previous| (effective_before, &previous.after));
        let after = check_after(mention, claim.effective, before)?;
        effective_before = claim.effective;
        versions.push(HistoryVersion { place: mention.place, after });
    }
    if let Some(last) = versions.last()
        && last.place.version >= claimed_total
    {
        return Err(beside(format!("version {} is given of {claimed_total} in all", last.place.version)));
    }
    if part.newest_first {
        versions.reverse();
    }
    Ok(History { subject, versions, claimed_total })
}

fn check_part(place: &Place, part: Part) -> Result<(), AnswerError> {
    let Place { index, recorded_at_us, .. } = *place;
    let wrong = |at_us| AnswerError::WrongTime { index, recorded_at_us, at_us };
    if recorded_at_us < part.since_us {
        return Err(wrong(part.since_us));
    }
    if part.until_us != 0 && recorded_at_us >= part.until_us {
        return Err(wrong(part.until_us));
    }
    Ok(())
}

fn check_follows(place: &Place, previous: Option<&Place>) -> Result<(), AnswerError> {
    let Some(previous) = previous else { return Ok(()) };
    let expected = previous.version.saturating_add(1);
    if place.version != expected {
        return Err(AnswerError::Gap { expected, found: place.version });
    }
    if place.index <= previous.index {
        return Err(beside(format!("entry {} does not come after entry {}", place.index, previous.index)));
    }
    Ok(())
}

/// What is in force after a version, given `effective` and state after the version before it.
fn check_after(mention: &Mention, effective: u64, before: Option<(u64, &After)>) -> Result<After, AnswerError> {
    let index = mention.place.index;
    check_effective(mention, effective, before.map(|(effective, _)| effective))?;
    match (&mention.effect, before) {
        (Effect::Sets(digest), _) => Ok(After::Bound(digest.clone())),
        (Effect::Clears, _) => Ok(After::Nothing),
        (Effect::Confirms(digest), before) => match before {
            Some((_, After::Bound(bound))) if bound != digest => {
                Err(contradiction(index, "the digest in force after it", bound, digest))
            }
            _ => Ok(After::Bound(digest.clone())),
        },
        (Effect::Keeps, _) if effective_by_itself(mention).is_some() => Ok(After::Nothing),
        (Effect::Keeps, Some((_, after))) => Ok(after.clone()),
        (Effect::Keeps, None) => Ok(After::SetBefore { claimed_index: effective.checked_sub(1) }),
    }
}
