//! What planning knows besides the store.
//!
//! A batch is planned while the one before it is still being written, so what that one changes is kept here, as planning left
//! it: the store may not have it yet. Subjects stay for longer, because a few of them are in nearly every batch, and finding one in
//! the store costs as much as everything else that is done with it.

use std::collections::{BTreeMap, HashMap};

use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::subject::SubjectKey;
use crate::store::rows::{Event, SubjectRow};

/// Subjects that are kept, at least, after those of the last batch.
const KEPT: usize = 20_000;

/// Whether a tag is bound to a digest: registry, repository, digest, tag.
pub(super) type Bound = BTreeMap<(Registry, Repository, Digest, Tag), bool>;
/// Where event ids were first used: principal, event id.
pub(super) type Events = HashMap<(String, String), Event>;

/// All of it, as of the last batch that was planned.
#[derive(Debug, Default)]
pub struct Known {
    /// Subjects that were looked at since the others grew old.
    young: HashMap<SubjectKey, SubjectRow>,
    old: HashMap<SubjectKey, SubjectRow>,
    last: Learned,
}

/// What one batch looked at and changed.
#[derive(Debug, Default)]
pub struct Learned {
    /// Each once.
    pub(super) subjects: Vec<(SubjectKey, SubjectRow)>,
    pub(super) bound: Bound,
    pub(super) events: Events,
}

impl Known {
    /// Takes in what the newest batch learned. What the one before changed is in the store by the time another is planned.
    pub fn learn(&mut self, mut learned: Learned) {
        // Before they are added: what a batch changed stays for one more at least.
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.extend(std::mem::take(&mut learned.subjects));
        self.last = learned;
    }

    pub(super) fn subject(&self, key: &SubjectKey) -> Option<&SubjectRow> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn bound(&self) -> &Bound {
        &self.last.bound
    }

    pub(super) fn events(&self) -> &Events {
        &self.last.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> SubjectKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        SubjectKey(key)
    }

    fn batch(numbers: std::ops::Range<usize>) -> Learned {
        Learned { subjects: numbers.map(|number| (key(number), SubjectRow::default())).collect(), ..Learned::default() }
    }

    #[test]
    fn what_the_last_batch_looked_at_is_known_and_what_nobody_looks_at_is_forgotten() {
        let mut known = Known::default();
        for begin in (0..100 * 1000).step_by(1000) {
            known.learn(batch(begin..begin + 1000));
            assert!((begin..begin + 1000).all(|number| known.subject(&key(number)).is_some()), "{begin}");
            assert!(known.young.len() + known.old.len() <= 2 * KEPT + 1000);
        }
        assert!(known.subject(&key(0)).is_none());
    }
}
