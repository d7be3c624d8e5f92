//! What planning knows besides the store.
//!
//! A batch is planned while the one before it is still being written, so what that one changes is kept here, as planning left
//! it: the store may not have it yet. Subjects stay for longer, because a few of them are in nearly every batch, and finding one in
//! the store costs as much as everything else that is done with it.

use std::collections::HashMap;

use crate::ledger::subject::SubjectKey;
use crate::store::rows::{Event, SubjectRow};

/// Subjects that are kept, at least, after those of the last batch.
const KEPT: usize = 50_000;

/// Whether a tag is bound to a digest, under the key of its row; the last one counts.
pub(super) type Bound = Vec<(Vec<u8>, bool)>;
/// Where event ids were first used, under the keys of their rows.
pub(super) type Events = HashMap<Vec<u8>, Event>;

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

/// What nobody needs any more.
#[derive(Debug, Default)]
pub struct Forgotten {
    _subjects: HashMap<SubjectKey, SubjectRow>,
    _last: Learned,
}

impl Known {
    /// Takes in what the newest batch learned. What the one before changed is in the store by the time another is planned. Returns what is
    /// forgotten: to free it takes a while, for which nobody has to wait.
    #[must_use]
    pub fn learn(&mut self, mut learned: Learned) -> Forgotten {
        // Before they are added: what a batch changed stays for one more at least.
        let subjects = if self.young.len() >= KEPT {
            let young = std::mem::replace(&mut self.young, HashMap::with_capacity(KEPT));
            std::mem::replace(&mut self.old, young)
        } else {
            HashMap::new()
        };
        self.young.extend(std::mem::take(&mut learned.subjects));
        Forgotten { _subjects: subjects, _last: std::mem::replace(&mut self.last, learned) }
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
        for begin in (0..200 * 1000).step_by(1000) {
            drop(known.learn(batch(begin..begin + 1000)));
            assert!((begin..begin + 1000).all(|number| known.subject(&key(number)).is_some()), "{begin}");
            assert!(known.young.len() + known.old.len() <= 2 * KEPT + 1000);
        }
        assert!(known.subject(&key(0)).is_none());
    }
}
