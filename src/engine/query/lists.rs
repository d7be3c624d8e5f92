//! Lists: the members of a catalogue, each at one time or at two.

use std::collections::BTreeSet;

use prost::Message as _;

use super::page::{Cursor, Page};
use super::{QueryError, Reader, check_time};
use crate::ledger::names::{Registry, Repository};
use crate::ledger::statement::{Kind, Statement, Workload};
use crate::ledger::subject::{Subject, tag_of};
use crate::proto;
use crate::store::rows;

/// Most members of a catalogue that one page looks at; a page may hold fewer items, and still not be the last.
const MAX_SCANNED: u64 = 4000;
impl Reader<'_> {
    /// The tags of a repository at a time.
    pub fn tags(
        &self,
        registry: &Registry,
        repository: &Repository,
        request: &proto::ListTagsRequest,
    ) -> Result<proto::ListTagsResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token) = (0, String::new());
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", request.at_us), &question.encode_to_vec())?;
        let catalogue = Subject::TagsOf(registry.clone(), repository.clone());
        let mut used = BTreeSet::new();
        let mut tags = Vec::new();
        let next = self.page(&catalogue, cursor.position[0], &cursor, |statement| {
            let Some(name) = tag_of(statement) else { return Ok(None) };
            let tag = name.tag.to_string();
            let mut named = BTreeSet::new();
            let (state, digest) = self.state_at(&Subject::Tag(name), cursor.as_of_us, cursor.size, &mut named)?;
            if digest.is_empty() && !request.include_unbound {
                return Ok(None);
            }
            used.append(&mut named);
            tags.push(proto::TagState { tag, digest, state: Some(state) });
            Ok(Some(tags.len()))
        })?;
        Ok(proto::ListTagsResponse {
            as_of_us: cursor.as_of_us,
            tags,
            next_page_token: next.map_or(String::new(), |at| cursor.token([at, 0])),
            evidence: Some(self.closed_evidence(used)?),
            evidence_left_out: false,
        })
    }

    /// What ran at a time.
    pub fn running(&self, request: &proto::ListRunningRequest) -> Result<proto::ListRunningResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token) = (0, String::new());
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", request.at_us), &question.encode_to_vec())?;
        let mut used = BTreeSet::new();
        let mut workloads = Vec::new();
        let mut next = None;
        let [first_environment, mut first_workload] = cursor.position;
        for (version, environment) in self.environments(&request.environment, first_environment, &cursor)? {
            if workloads.len() >= cursor.limit || cursor.looked.get() >= MAX_SCANNED {
                next = Some([version, first_workload]);
                break;
            }
            let catalogue = Subject::WorkloadsOf(environment);
            let rest = self.page(&catalogue, first_workload, &cursor, |statement| {
                let Kind::Deployment { workload, .. } = &statement.kind else { return Ok(None) };
                if !request.workload.is_empty() && workload.workload != request.workload {
                    return Ok(None);
                }
                let mut named = BTreeSet::new();
                let subject = Subject::Workload(workload.clone());
                let (state, digest) = self.state_at(&subject, cursor.as_of_us, cursor.size, &mut named)?;
                if digest.is_empty() && !request.include_stopped {
                    return Ok(None);
                }
                used.append(&mut named);
                workloads.push(proto::WorkloadState { workload: Some(wire(workload)), digest, state: Some(state) });
                Ok(Some(workloads.len()))
            })?;
            if let Some(at) = rest {
                next = Some([version, at]);
                break;
            }
            first_workload = 0;
        }
        Ok(proto::ListRunningResponse {
            as_of_us: cursor.as_of_us,
            workloads,
            next_page_token: next.map_or(String::new(), |position| cursor.token(position)),
            evidence: Some(self.closed_evidence(used)?),
            evidence_left_out: false,
        })
    }

    /// Which tags of a repository differ between two times.
    pub fn diff_repository(
        &self,
        registry: &Registry,
        repository: &Repository,
        request: &proto::DiffRepositoryRequest,
    ) -> Result<proto::DiffRepositoryResponse, QueryError> {
        let from_us = check_time("from_us", request.from_us)?;
        let mut question = request.clone();
        (question.page_size, question.page_token) = (0, String::new());
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("to_us", request.to_us), &question.encode_to_vec())?;
        check_order(from_us, cursor.as_of_us)?;
        let catalogue = Subject::TagsOf(registry.clone(), repository.clone());
        let mut used = BTreeSet::new();
        let mut changes = Vec::new();
        let next = self.page(&catalogue, cursor.position[0], &cursor, |statement| {
            let Some(name) = tag_of(statement) else { return Ok(None) };
            let tag = name.tag.to_string();
            let Some(change) = self.change(&Subject::Tag(name), from_us, &cursor, &mut used)? else { return Ok(None) };
            let (from, from_digest, to, to_digest) = change;
            changes.push(proto::TagChange { tag, from_digest, to_digest, from: Some(from), to: Some(to) });
            Ok(Some(changes.len()))
        })?;
        Ok(proto::DiffRepositoryResponse {
            as_of_us: cursor.as_of_us,
            changes,
            next_page_token: next.map_or(String::new(), |at| cursor.token([at, 0])),
            evidence: Some(self.closed_evidence(used)?),
            evidence_left_out: false,
        })
    }

    /// What ran differently in an environment at two times.
    pub fn diff_environment(
        &self,
        request: &proto::DiffEnvironmentRequest,
    ) -> Result<proto::DiffEnvironmentResponse, QueryError> {
        let from_us = check_time("from_us", request.from_us)?;
        let mut question = request.clone();
        (question.page_size, question.page_token) = (0, String::new());
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("to_us", request.to_us), &question.encode_to_vec())?;
        check_order(from_us, cursor.as_of_us)?;
        let catalogue = Subject::WorkloadsOf(request.environment.clone());
        let mut used = BTreeSet::new();
        let mut changes = Vec::new();
        let next = self.page(&catalogue, cursor.position[0], &cursor, |statement| {
            let Kind::Deployment { workload, .. } = &statement.kind else { return Ok(None) };
            let subject = Subject::Workload(workload.clone());
            let Some(change) = self.change(&subject, from_us, &cursor, &mut used)? else { return Ok(None) };
            let (from, from_digest, to, to_digest) = change;
            let workload = Some(wire(workload));
            changes.push(proto::WorkloadChange { workload, from_digest, to_digest, from: Some(from), to: Some(to) });
            Ok(Some(changes.len()))
        })?;
        Ok(proto::DiffEnvironmentResponse {
            as_of_us: cursor.as_of_us,
            changes,
            next_page_token: next.map_or(String::new(), |at| cursor.token([at, 0])),
            evidence: Some(self.closed_evidence(used)?),
            evidence_left_out: false,
        })
    }

    /// Visits the members of a catalogue that appeared in time, from one on, until the page is full or enough was looked at.
    /// `visit` says how many items there are, or nothing if the member isn't one. Returns where the next page begins.
    fn page(
        &self,
        catalogue: &Subject,
        first: u64,
        cursor: &Cursor,
        mut visit: impl FnMut(&Statement) -> Result<Option<usize>, QueryError>,
    ) -> Result<Option<u64>, QueryError> {
        let key = catalogue.key();
        let count = self.count_until(&key, self.count_below(&key, cursor.size)?, cursor.as_of_us)?;
        for at in first..count {
            let member = rows::version(&*self.rows, &key, at)?;
            let items = visit(&self.statement(member.index)?)?;
            cursor.looked.set(cursor.looked.get() + 1);
            let is_full = items.is_some_and(|items| items >= cursor.limit) || cursor.looked.get() >= MAX_SCANNED;
            if is_full {
                return Ok((at + 1 < count).then_some(at + 1));
            }
        }
        Ok(None)
    }

    /// The environments to look into, with their place in the catalogue: one, or all from a place on.
    fn environments(&self, only: &str, first: u64, cursor: &Cursor) -> Result<Vec<(u64, String)>, QueryError> {
        if !only.is_empty() {
            return Ok(vec![(0, only.to_owned())]);
        }
        let key = Subject::Environments.key();
        let count = self.count_until(&key, self.count_below(&key, cursor.size)?, cursor.as_of_us)?;
        let mut found = Vec::new();
        for at in first..count {
            let member = rows::version(&*self.rows, &key, at)?;
            if let Kind::Deployment { workload, .. } = self.statement(member.index)?.kind {
                found.push((at, workload.environment));
            }
        }
        Ok(found)
    }
}

fn check_order(from_us: u64, to_us: u64) -> Result<(), QueryError> {
    if from_us <= to_us {
        return Ok(());
    }
    let message = format!("is {from_us}, after the time to compare with, {to_us}");
    Err(QueryError::Invalid { field: "from_us", reason: "FROM_AFTER_TO", message })
}

fn wire(workload: &Workload) -> proto::Workload {
    proto::Workload {
        environment: workload.environment.clone(),
        cluster: workload.cluster.clone(),
        namespace: workload.namespace.clone(),
        workload: workload.workload.clone(),
        container: workload.container.clone(),
    }
}
