//! What a scanner asks of a ledger, from answers that verify.

use std::collections::BTreeMap;

use super::{OverGrpc, beside};
use crate::edge::port::{PortError, Recorded, ScannerPort, Standing, TagView};
use crate::edge::scanner::standing;
use crate::ledger::answer::{Finding, Part, Question, RepositoryName, State};
use crate::ledger::entry::Body;
use crate::ledger::names::{Registry, Repository, Tag, TagRef};
use crate::ledger::subject::Subject;
use crate::proto;

impl ScannerPort for OverGrpc {
    async fn tags(&self, registry: &Registry, repository: &Repository) -> Result<BTreeMap<Tag, TagView>, PortError> {
        let repository = RepositoryName { registry: registry.clone(), repository: repository.clone() };
        let answer =
            self.ask_at_length(Question::TagsAt { repository, at_us: 0, include_unbound: true, limit: 0 }).await?;
        let Finding::States(list) = answer.finding else { return Err(beside()) };
        let view = |state: State| {
            let Subject::Tag(name) = &state.subject else { return None };
            // As of the moment of the answer: an entry that came after it counts as new.
            let version = state.at.map_or(0, |at| at.version + 1);
            Some((name.tag.clone(), TagView { version, digest: state.digest().cloned() }))
        };
        Ok(list.items.into_iter().filter_map(view).collect())
    }

    async fn repositories(&self, registry: &Registry) -> Result<Vec<Repository>, PortError> {
        let answer = self.ask_at_length(Question::RepositoriesAt { at_us: 0, limit: 0 }).await?;
        let Finding::States(list) = answer.finding else { return Err(beside()) };
        let here = |state: State| match state.subject {
            Subject::TagsOf(of, repository) if of == *registry => Some(repository),
            _ => None,
        };
        Ok(list.items.into_iter().filter_map(here).collect())
    }

    async fn standing(&self, tag: &TagRef, newest: u64) -> Result<Standing, PortError> {
        self.standing_in(tag, Part { newest_first: true, limit: newest.max(1), ..Part::default() }).await
    }

    async fn record_at(&self, statement: proto::Statement, version: u64) -> Result<Recorded, PortError> {
        self.recorded(statement, Some(version)).await
    }
}

impl OverGrpc {
    /// What is open about a tag in the newest entries of its history.
    pub(super) async fn standing_in(&self, tag: &TagRef, part: Part) -> Result<Standing, PortError> {
        let answer = self.ask(Question::TagHistory { tag: tag.clone(), part }).await?;
        let Finding::History(history) = &answer.finding else { return Err(beside()) };
        let newest = history.versions.first();
        let view = TagView {
            version: newest.map_or(0, |newest| newest.place.version + 1),
            digest: newest.and_then(|newest| newest.after.as_ref()).map(|setting| setting.digest.clone()),
        };
        let records =
            history.versions.iter().filter_map(|version| match &answer.entries.get(version.place.index)?.body {
                Body::Record(record, statement) => Some((&**record, &**statement)),
                Body::Commitment(_) => None,
            });
        Ok(standing(view, records))
    }
}
