//! Lists: the members of a catalogue at a time, each with its state.
//!
//! A catalogue's history is its members in order of appearance. Shown from the first on without a gap, up to the version that
//! came after the time or to the end, it proves that there are no others; and each member's own history proves what it was.

use super::AnswerError;
use super::proven::Proven;
use super::state::State;
use super::verdict::subject_words;
use crate::ledger::entry::Body;
use crate::ledger::statement::{Kind, Statement};
use crate::ledger::subject::{Subject, tag_of};

/// What a list was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T> {
    /// What was asked for, in order of first appearance.
    pub items: Vec<T>,
    /// As many as were asked for: there may be more. Otherwise these are all.
    pub is_cut: bool,
    /// Members of the catalogues by that time that were looked at: the items and what is none of them.
    pub looked_at: u64,
}

/// Puts a list together.
pub(super) struct Lister<'a, T> {
    pub(super) proven: &'a Proven,
    pub(super) at_us: u64,
    /// Most items; 0: all.
    pub(super) limit: u64,
    pub(super) list: List<T>,
}

impl<'a, T> Lister<'a, T> {
    pub(super) fn new(proven: &'a Proven, at_us: u64, limit: u64) -> Self {
        Self { proven, at_us, limit, list: List { items: Vec::new(), is_cut: false, looked_at: 0 } }
    }

    /// Goes through the members of a catalogue; `item` says what a member contributes.
    pub(super) fn add(
        &mut self,
        catalogue: &Subject,
        item: &dyn Fn(&Statement) -> Result<Option<T>, AnswerError>,
    ) -> Result<(), AnswerError> {
        self.each(catalogue, &mut |lister, statement| {
            lister.list.looked_at += 1;
            lister.list.items.extend(item(statement)?);
            Ok(())
        })
    }

    /// Goes through the members of a catalogue until the list is long enough.
    pub(super) fn each(
        &mut self,
        catalogue: &Subject,
        visit: &mut dyn FnMut(&mut Self, &Statement) -> Result<(), AnswerError>,
    ) -> Result<(), AnswerError> {
        let (members, gap) = self.proven.members(catalogue, self.at_us)?;
        for index in members {
            if self.is_full() {
                return Ok(());
            }
            let entry = self.proven.entries.get(index).ok_or(AnswerError::Missing { index })?;
            let Body::Record(_, statement) = &entry.body else { return Err(AnswerError::Missing { index }) };
            visit(self, statement)?;
        }
        // Also where it is the last member that made the list long enough.
        let is_full = self.is_full();
        gap.filter(|_| !is_full).map_or(Ok(()), Err)
    }

    fn is_full(&mut self) -> bool {
        let found = u64::try_from(self.list.items.len()).unwrap_or(u64::MAX);
        self.list.is_cut = self.limit > 0 && found >= self.limit;
        self.list.is_cut
    }
}

impl Proven {
    /// The entries by which the members of a catalogue appeared by a time, as far as they are shown without a gap, and what
    /// is missing from them.
    fn members(&self, catalogue: &Subject, at_us: u64) -> Result<(Vec<u64>, Option<AnswerError>), AnswerError> {
        let mut best = None;
        for proven in self.of(catalogue, at_us) {
            let by_then = proven.versions.iter().take_while(|(_, version)| version.recorded_at_us <= at_us);
            let members: Vec<u64> =
                by_then.zip(0..).take_while(|((found, _), at)| *found == at).map(|((_, v), _)| v.index).collect();
            let expected = u64::try_from(members.len()).unwrap_or(u64::MAX);
            let ends = match proven.versions.get(&expected) {
                Some(next) => next.recorded_at_us > at_us,
                None => proven.count == expected,
            };
            if ends {
                return Ok((members, None));
            }
            let gap = AnswerError::Gap { subject: subject_words(catalogue), expected, count: proven.count };
            if best.as_ref().is_none_or(|(found, _): &(Vec<u64>, _)| found.len() < members.len()) {
                best = Some((members, Some(gap)));
            }
        }
        best.ok_or_else(|| AnswerError::NotShown { subject: subject_words(catalogue) })
    }
}

/// The tag by which a statement put itself into the catalogue of a repository.
pub(super) fn tag_member(statement: &Statement) -> Result<Subject, AnswerError> {
    tag_of(statement).map(Subject::Tag).ok_or_else(|| super::beside("a catalogue of tags holds what names none"))
}

/// The tags of the repository by which a statement put itself into the catalogue of repositories.
pub(super) fn repository_member(statement: &Statement) -> Result<Subject, AnswerError> {
    let name =
        tag_of(statement).ok_or_else(|| super::beside("the catalogue of repositories holds what names no tag"))?;
    Ok(Subject::TagsOf(name.registry, name.repository))
}

/// The workload by which a statement put itself into the catalogue of an environment.
pub(super) fn workload_member(statement: &Statement) -> Result<&crate::ledger::statement::Workload, AnswerError> {
    match &statement.kind {
        Kind::Deployment { workload, .. } => Ok(workload),
        _ => Err(super::beside("a catalogue of workloads holds what is no deployment")),
    }
}

/// The states that a list was asked for: with something in force, or all.
pub(super) fn wanted(state: State, everything: bool) -> Option<State> {
    (everything || state.setting.is_some()).then_some(state)
}
