//! Who was known at a time: what follows from every change of principals until then.

use std::collections::BTreeMap;

use super::history::History;
use super::proven::Proven;
use super::question::Part;
use super::{AnswerError, Place};
use crate::ledger::entry::Body;
use crate::ledger::principals::Principals;
use crate::ledger::statement::Kind;
use crate::ledger::subject::Subject;
use crate::proto::Outcome;

/// The principals at a time, and how they came to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalsAt {
    /// All that were known.
    pub principals: Principals,
    /// Of each, the entry that made it what it was.
    pub set_by: BTreeMap<String, Place>,
    /// Every change until then.
    pub history: History,
}

impl Proven {
    /// Makes every change until a time again. A ledger refuses a change that can't be made, and says what became of the
    /// others, so one that is recorded otherwise is a proof of misbehaviour.
    pub(super) fn principals(&self, at_us: u64) -> Result<PrincipalsAt, AnswerError> {
        let history = self.history(&Subject::Principals, Part::default(), at_us)?;
        let (mut principals, mut set_by) = (Principals::default(), BTreeMap::new());
        for version in &history.versions {
            let index = version.place.index;
            let entry = self.entries.get(index).ok_or(AnswerError::Missing { index })?;
            let Body::Record(record, statement) = &entry.body else { continue };
            let Kind::PrincipalChange { change } = &statement.kind else { continue };
            if record.outcome() != Outcome::Applied {
                continue;
            }
            let wrong = |signed: String| AnswerError::Contradiction {
                index,
                what: "what became of the principals",
                claimed: record.detail.clone(),
                signed,
            };
            principals = principals.after(change).map_err(|error| wrong(error.to_string()))?;
            if record.detail != principals.summary() {
                return Err(wrong(format!("changes that leave {}", principals.summary())));
            }
            match change.principal() {
                Some(_) => set_by.insert(change.name().to_owned(), version.place),
                None => set_by.remove(change.name()),
            };
        }
        Ok(PrincipalsAt { principals, set_by, history })
    }
}
