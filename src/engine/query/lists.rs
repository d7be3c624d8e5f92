//! Lists: the members of a catalogue, each at one time or at two.
//!
//! A page goes through a slice of the catalogue, in order of appearance, and shows the state of every member in it: also of
//! those that are then not listed, for that is what proves that they don't belong.

use prost::Message as _;

use super::page::{Cursor, Page};
use super::{QueryError, Reader, Shown, check_time};
use crate::engine::ReadError;
use crate::ledger::names::{Registry, Repository};
use crate::ledger::statement::{Kind, Statement, TagName, Workload};
use crate::ledger::subject::{Subject, tag_of};
use crate::proto;
use crate::store::rows;

/// A member that is not the same at two times.
struct Change<M> {
    member: M,
    from: proto::StateAt,
    from_digest: String,
    to: proto::StateAt,
    to_digest: String,
}

impl Reader<'_> {
    /// The tags of a repository at a time.
    pub fn tags(
        &self,
        registry: &Registry,
        repository: &Repository,
        request: &proto::ListTagsRequest,
    ) -> Result<proto::ListTagsResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token, question.without_evidence) = (0, String::new(), false);
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", request.at_us), &question.encode_to_vec())?;
        let catalogue = Subject::TagsOf(registry.clone(), repository.clone());
        let mut shown = Shown::default();
        let (members, next) =
            self.members(&catalogue, cursor.position[0], cursor.limit, &cursor, &mut shown, tag_of)?;
        let mut tags = Vec::new();
        for name in members {
            let tag = name.tag.to_string();
            let (state, digest) = self.state_at(&Subject::Tag(name), cursor.as_of_us, &mut shown)?;
            if !digest.is_empty() || request.include_unbound {
                tags.push(proto::TagState { tag, digest, state: Some(state) });
            }
        }
        Ok(proto::ListTagsResponse {
            as_of_us: cursor.as_of_us,
            tags,
            next_page_token: next.map_or(String::new(), |at| cursor.token([at, 0])),
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// The repositories that had been seen by a time.
    pub fn repositories(
        &self,
        request: &proto::ListRepositoriesRequest,
    ) -> Result<proto::ListRepositoriesResponse, QueryError> {
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", request.at_us), &request.at_us.to_be_bytes())?;
        let mut shown = Shown::default();
        let catalogue = Subject::Repositories;
        let (members, next) =
            self.members(&catalogue, cursor.position[0], cursor.limit, &cursor, &mut shown, tag_of)?;
        let mut repositories = Vec::new();
        for TagName { registry, repository, .. } in members {
            let names = (registry.to_string(), repository.to_string());
            let (state, _) = self.state_at(&Subject::TagsOf(registry, repository), cursor.as_of_us, &mut shown)?;
            repositories.push(proto::RepositoryState { registry: names.0, repository: names.1, state: Some(state) });
        }
        Ok(proto::ListRepositoriesResponse {
            as_of_us: cursor.as_of_us,
            repositories,
            next_page_token: next.map_or(String::new(), |at| cursor.token([at, 0])),
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// What ran at a time.
    pub fn running(&self, request: &proto::ListRunningRequest) -> Result<proto::ListRunningResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token, question.without_evidence) = (0, String::new(), false);
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", request.at_us), &question.encode_to_vec())?;
        let mut shown = Shown::default();
        let mut workloads = Vec::new();
        let ([mut at, mut first], mut left) = (cursor.position, cursor.limit);
        let next = loop {
            let Some((environment, following)) = self.environment(&request.environment, at, &cursor, &mut shown)?
            else {
                break None;
            };
            let catalogue = Subject::WorkloadsOf(environment);
            let (members, rest) = self.members(&catalogue, first, left, &cursor, &mut shown, workload_of)?;
            for workload in members {
                left -= 1;
                if !request.workload.is_empty() && workload.workload != request.workload {
                    continue;
                }
                let subject = Subject::Workload(workload.clone());
                let (state, digest) = self.state_at(&subject, cursor.as_of_us, &mut shown)?;
                if !digest.is_empty() || request.include_stopped {
                    let workload = Some(on_wire(workload));
                    workloads.push(proto::WorkloadState { workload, digest, state: Some(state) });
                }
            }
            match (rest, following) {
                (Some(rest), _) => break Some([at, rest]),
                (None, Some(following)) if left > 0 => (at, first) = (following, 0),
                (None, following) => break following.map(|at| [at, 0]),
            }
        };
        Ok(proto::ListRunningResponse {
            as_of_us: cursor.as_of_us,
            workloads,
            next_page_token: next.map_or(String::new(), |position| cursor.token(position)),
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// Which tags of a repository differ between two times.
    pub fn diff_repository(
        &self,
        registry: &Registry,
        repository: &Repository,
        request: &proto::DiffRepositoryRequest,
    ) -> Result<proto::DiffRepositoryResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token, question.without_evidence) = (0, String::new(), false);
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("to_us", request.to_us), &question.encode_to_vec())?;
        let catalogue = Subject::TagsOf(registry.clone(), repository.clone());
        let mut shown = Shown::default();
        let of_tag = |change: Change<TagName>| {
            let Change { member, from, from_digest, to, to_digest } = change;
            let tag = member.tag.to_string();
            proto::TagChange { tag, from_digest, to_digest, from: Some(from), to: Some(to) }
        };
        let (changes, next) = self.changes(&catalogue, request.from_us, &cursor, &mut shown, tag_of, Subject::Tag)?;
        Ok(proto::DiffRepositoryResponse {
            as_of_us: cursor.as_of_us,
            changes: changes.into_iter().map(of_tag).collect(),
            next_page_token: next,
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// What ran differently in an environment at two times.
    pub fn diff_environment(
        &self,
        request: &proto::DiffEnvironmentRequest,
    ) -> Result<proto::DiffEnvironmentResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token, question.without_evidence) = (0, String::new(), false);
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("to_us", request.to_us), &question.encode_to_vec())?;
        let catalogue = Subject::WorkloadsOf(request.environment.clone());
        let mut shown = Shown::default();
        let of_workload = |change: Change<Workload>| {
            let Change { member, from, from_digest, to, to_digest } = change;
            let workload = Some(on_wire(member));
            proto::WorkloadChange { workload, from_digest, to_digest, from: Some(from), to: Some(to) }
        };
        let (changes, next) =
            self.changes(&catalogue, request.from_us, &cursor, &mut shown, workload_of, Subject::Workload)?;
        Ok(proto::DiffEnvironmentResponse {
            as_of_us: cursor.as_of_us,
            changes: changes.into_iter().map(of_workload).collect(),
            next_page_token: next,
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// The members of a page of a catalogue that differ between `from_us` and the moment of the page, and the token of the
    /// next page.
    fn changes<M: Clone>(
        &self,
        catalogue: &Subject,
        from_us: i64,
        cursor: &Cursor,
        shown: &mut Shown,
        member_of: impl Fn(&Statement) -> Option<M>,
        subject: impl Fn(M) -> Subject,
    ) -> Result<(Vec<Change<M>>, String), QueryError> {
        let from_us = check_time("from_us", from_us)?;
        if from_us > cursor.as_of_us {
            let message = format!("is {from_us}, after the time to compare with, {}", cursor.as_of_us);
            return Err(QueryError::Invalid { field: "from_us", reason: "FROM_AFTER_TO", message });
        }
        let (members, next) = self.members(catalogue, cursor.position[0], cursor.limit, cursor, shown, member_of)?;
        let mut changes = Vec::new();
        for member in members {
            let subject = subject(member.clone());
            let (from, from_digest) = self.state_at(&subject, from_us, shown)?;
            let (to, to_digest) = self.state_at(&subject, cursor.as_of_us, shown)?;
            if from_digest != to_digest {
                changes.push(Change { member, from, from_digest, to, to_digest });
            }
        }
        Ok((changes, next.map_or(String::new(), |at| cursor.token([at, 0]))))
    }

    /// At most `limit` members of a catalogue that had appeared by the moment of the page, from the one in place `first` on;
    /// and the place of the next, if there is one. Shows them and the one after, whenever that appeared.
    fn members<M>(
        &self,
        catalogue: &Subject,
        first: u64,
        limit: u64,
        cursor: &Cursor,
        shown: &mut Shown,
        member_of: impl Fn(&Statement) -> Option<M>,
    ) -> Result<(Vec<M>, Option<u64>), QueryError> {
        let key = catalogue.key();
        let known = self.count_until(&key, cursor.as_of_us)?;
        let begin = first.min(known);
        let end = begin + limit.min(known - begin);
        shown.subject(key);
        let with_next = begin..(end + 1).min(rows::count(&*self.rows, &key)?);
        let mut members = Vec::new();
        for (at, row) in (begin..).zip(rows::versions(&*self.rows, &key, with_next)?) {
            shown.version(key, at, row);
            if at < end {
                let member = member_of(&self.statement(row.index)?);
                members.push(member.ok_or_else(|| no_member(row.index))?);
            }
        }
        Ok((members, (end < known).then_some(end)))
    }

    /// The environment in a place, and the place of the next: the only one that is asked for, or those of the catalogue that
    /// had appeared by the moment of the page. Shows it and the one after, whenever that appeared.
    fn environment(
        &self,
        only: &str,
        at: u64,
        cursor: &Cursor,
        shown: &mut Shown,
    ) -> Result<Option<(String, Option<u64>)>, QueryError> {
        if !only.is_empty() {
            return Ok((at == 0).then(|| (only.to_owned(), None)));
        }
        let environment_of = |statement: &Statement| workload_of(statement).map(|workload| workload.environment);
        let (mut found, next) = self.members(&Subject::Environments, at, 1, cursor, shown, environment_of)?;
        Ok(found.pop().map(|environment| (environment, next)))
    }
}

fn workload_of(statement: &Statement) -> Option<Workload> {
    match &statement.kind {
        Kind::Deployment { workload, .. } => Some(workload.clone()),
        _ => None,
    }
}

fn no_member(index: u64) -> ReadError {
    ReadError::Damaged {
        table: "histories",
        what: format!("entry {index} is in a catalogue and names no member of it"),
    }
}

fn on_wire(workload: Workload) -> proto::Workload {
    let Workload { environment, cluster, namespace, workload, container } = workload;
    proto::Workload { environment, cluster, namespace, workload, container }
}
