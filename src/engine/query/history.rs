//! One subject: its state at a time, and its history.

use std::ops::Range;

use prost::Message as _;

use super::page::{Cursor, Page};
use super::{QueryError, Reader, Shown, check_time};
use crate::engine::ReadError;
use crate::ledger::names::Digest;
use crate::ledger::statement::{Kind, Statement, TagName};
use crate::ledger::subject::{Subject, SubjectKey, digest_of};
use crate::proto;
use crate::store::rows::{self, Version};

/// Most versions that one proof of a subject covers.
const MAX_PROVEN_VERSIONS: u64 = 300_000;

/// What of a history is asked for.
struct Asked<'a> {
    since_us: i64,
    until_us: i64,
    newest_first: bool,
    page: Page<'a>,
    /// What all pages of one answer are asked with.
    question: &'a [u8],
}

/// One page of it.
struct Part {
    versions: Vec<proto::Version>,
    next_page_token: String,
    /// How many versions the history has in all.
    total: u64,
}

impl Reader<'_> {
    /// What a tag pointed to at a time.
    pub fn resolve(
        &self,
        tag: &TagName,
        request: &proto::ResolveTagRequest,
    ) -> Result<proto::ResolveTagResponse, QueryError> {
        let as_of_us = self.moment("at_us", request.at_us)?;
        let mut shown = Shown::default();
        let (state, digest) = self.state_at(&Subject::Tag(tag.clone()), as_of_us, &mut shown)?;
        Ok(proto::ResolveTagResponse {
            as_of_us,
            state: Some(state),
            digest,
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// Which policy was in force at a time.
    pub fn policy_at(&self, request: &proto::GetPolicyRequest) -> Result<proto::GetPolicyResponse, QueryError> {
        let as_of_us = self.moment("at_us", request.at_us)?;
        let mut shown = Shown::default();
        let (state, digest) = self.state_at(&Subject::Policy, as_of_us, &mut shown)?;
        let set_by = state.at.as_ref().and_then(|at| at.effective.checked_sub(1));
        let text = match set_by.map(|index| self.statement(index)).transpose()? {
            Some(Statement { kind: Kind::PolicyChange { policy, .. }, .. }) => policy.text().to_owned(),
            _ => String::new(),
        };
        Ok(proto::GetPolicyResponse {
            as_of_us,
            state: Some(state),
            text,
            digest,
            set_by: set_by.unwrap_or_default(),
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// How many entries the history of a tag has.
    pub fn tag_version(&self, tag: &TagName) -> Result<(u64, Option<Digest>), ReadError> {
        let row = rows::subject(&*self.rows, &Subject::Tag(tag.clone()).key())?;
        Ok((row.history.size(), row.binding.digest().cloned()))
    }

    /// Everything asserted about a tag.
    pub fn tag_history(
        &self,
        tag: &TagName,
        request: &proto::ListTagHistoryRequest,
    ) -> Result<proto::ListTagHistoryResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token, question.without_evidence) = (0, String::new(), false);
        let asked = Asked {
            since_us: request.since_us,
            until_us: request.until_us,
            newest_first: request.newest_first,
            page: Page { size: request.page_size, token: &request.page_token },
            question: &question.encode_to_vec(),
        };
        let mut shown = Shown::default();
        let Part { versions, next_page_token, total } =
            self.part(Subject::Tag(tag.clone()).key(), &asked, &mut shown)?;
        Ok(proto::ListTagHistoryResponse {
            versions,
            next_page_token,
            total,
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// Every change of principals until a time.
    pub fn principal_changes(
        &self,
        request: &proto::ListPrincipalChangesRequest,
    ) -> Result<proto::ListPrincipalChangesResponse, QueryError> {
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", request.at_us), &request.at_us.to_be_bytes())?;
        let key = Subject::Principals.key();
        let total = self.count_until(&key, cursor.as_of_us)?;
        let mut shown = Shown::default();
        let (versions, next_page_token) = self.slice(key, 0..total, &cursor, false, &mut shown)?;
        Ok(proto::ListPrincipalChangesResponse {
            versions,
            next_page_token,
            total,
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// Every change of the ledger's key, with its entry, and that there are no others.
    pub fn key_changes(&self) -> Result<proto::Evidence, QueryError> {
        let key = Subject::Keys.key();
        let mut shown = Shown::default();
        shown.subject(key);
        for (version, row) in (0..).zip(rows::versions(&*self.rows, &key, 0..rows::count(&*self.rows, &key)?)?) {
            shown.version(key, version, row);
        }
        Ok(self.closed_evidence(shown)?)
    }

    /// Every entry that names a digest.
    pub fn sightings(
        &self,
        digest: &Digest,
        request: &proto::ListDigestSightingsRequest,
    ) -> Result<proto::ListDigestSightingsResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token, question.without_evidence) = (0, String::new(), false);
        let asked = Asked {
            since_us: request.since_us,
            until_us: request.until_us,
            newest_first: request.newest_first,
            page: Page { size: request.page_size, token: &request.page_token },
            question: &question.encode_to_vec(),
        };
        let mut shown = Shown::default();
        let Part { versions, next_page_token, total } =
            self.part(Subject::Digest(digest.clone()).key(), &asked, &mut shown)?;
        Ok(proto::ListDigestSightingsResponse {
            versions,
            next_page_token,
            total,
            evidence: self.answered(request.without_evidence, shown)?,
            evidence_left_out: request.without_evidence,
        })
    }

    /// Proves a part of a history, or that there is none.
    pub fn prove_subject(
        &self,
        request: &proto::ProveSubjectRequest,
    ) -> Result<proto::ProveSubjectResponse, QueryError> {
        let message = || format!("has {} bytes; a subject key has 32", request.key.len());
        let invalid = |_| QueryError::Invalid { field: "key", reason: "LENGTH", message: message() };
        let key = request.key.as_slice().try_into().map(SubjectKey).map_err(invalid)?;
        let count = rows::count(&*self.rows, &key)?;
        let part = part_of(request.begin, request.end, count)?;
        let next = part.end;
        let mut shown = Shown::default();
        shown.subject(key);
        for (version, row) in (part.start..).zip(rows::versions(&*self.rows, &key, part)?) {
            shown.version_alone(key, version, row);
        }
        // Recorded since, perhaps: without it the part would seem to be cut.
        if next < count {
            shown.version(key, next, rows::version(&*self.rows, &key, next)?);
        }
        Ok(proto::ProveSubjectResponse { evidence: Some(self.closed_evidence(shown)?) })
    }

    /// A subject at a time: its version then, the one after, and the digest in force.
    pub(super) fn state_at(
        &self,
        subject: &Subject,
        at_us: u64,
        shown: &mut Shown,
    ) -> Result<(proto::StateAt, String), QueryError> {
        let key = subject.key();
        shown.subject(key);
        let count = rows::count(&*self.rows, &key)?;
        let until = self.count_of(&key, count, at_us)?;
        let mut version = |at: u64| -> Result<proto::Version, ReadError> {
            let row = rows::version(&*self.rows, &key, at)?;
            shown.version(key, at, row);
            Ok(on_wire(at, row))
        };
        let at = until.checked_sub(1).map(&mut version).transpose()?;
        let next = (until < count).then(|| version(until)).transpose()?;
        let mut digest = String::new();
        if let Some(setter) = at.as_ref().and_then(|version| version.effective.checked_sub(1)) {
            shown.entry(setter);
            digest = digest_of(&self.statement(setter)?).map(Digest::to_string).unwrap_or_default();
        }
        Ok((proto::StateAt { at, next }, digest))
    }

    /// How many versions of a subject were recorded at or before a time.
    pub(super) fn count_until(&self, key: &SubjectKey, time_us: u64) -> Result<u64, ReadError> {
        self.count_of(key, rows::count(&*self.rows, key)?, time_us)
    }

    /// The same of a history with `count` of them in all.
    fn count_of(&self, key: &SubjectKey, count: u64, time_us: u64) -> Result<u64, ReadError> {
        if time_us >= self.head.recorded_at_us {
            return Ok(count);
        }
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let is_before = rows::version(&*self.rows, key, middle)?.recorded_at_us <= time_us;
            if is_before { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// One page of the part of a history that is asked for.
    fn part(&self, key: SubjectKey, asked: &Asked<'_>, shown: &mut Shown) -> Result<Part, QueryError> {
        let since_us = check_time("since_us", asked.since_us)?;
        let until_us = check_time("until_us", asked.until_us)?;
        let cursor = self.cursor(asked.page, ("at_us", 0), asked.question)?;
        let total = self.count_until(&key, cursor.as_of_us)?;
        let before = |time_us: u64| self.count_until(&key, time_us - 1).map(|count| count.min(total));
        let first = if since_us == 0 { 0 } else { before(since_us)? };
        let last = if until_us == 0 { total } else { before(until_us)?.max(first) };
        let (versions, next_page_token) = self.slice(key, first..last, &cursor, asked.newest_first, shown)?;
        Ok(Part { versions, next_page_token, total })
    }

    /// One page of a history. It shows the version on either side too, as far as there is one: so the page has no gap to what
    /// comes before and after it, and a part that is bounded by times is shown to be all between them.
    fn slice(
        &self,
        key: SubjectKey,
        range: Range<u64>,
        cursor: &Cursor,
        newest_first: bool,
        shown: &mut Shown,
    ) -> Result<(Vec<proto::Version>, String), QueryError> {
        let length = range.end - range.start;
        let skip = cursor.position[0].min(length);
        let taken = cursor.limit.min(length - skip);
        let begin = if newest_first { range.end - skip - taken } else { range.start + skip };
        let page = begin..begin + taken;
        let with_neighbours = begin.saturating_sub(1)..(page.end + 1).min(rows::count(&*self.rows, &key)?);
        shown.subject(key);
        let mut versions = Vec::new();
        for (at, row) in (with_neighbours.start..).zip(rows::versions(&*self.rows, &key, with_neighbours)?) {
            shown.version(key, at, row);
            if page.contains(&at) {
                if let Some(setter) = row.effective.checked_sub(1) {
                    shown.entry(setter);
                }
                versions.push(on_wire(at, row));
            }
        }
        if newest_first {
            versions.reverse();
        }
        let next = if skip + taken < length { cursor.token([skip + taken, 0]) } else { String::new() };
        Ok((versions, next))
    }
}

/// The versions of a history of `count` that are asked for, as far as they exist.
fn part_of(begin: u64, end: u64, count: u64) -> Result<Range<u64>, QueryError> {
    if begin > end {
        let allowed = format!("it must be at most the end, {end}");
        return Err(QueryError::OutOfRange { field: "begin", value: begin, allowed });
    }
    let end = end.min(count);
    let begin = begin.min(end);
    if end - begin > MAX_PROVEN_VERSIONS {
        let message = format!("asks for {} versions; at most {MAX_PROVEN_VERSIONS} are allowed", end - begin);
        return Err(QueryError::Invalid { field: "end", reason: "TOO_MANY", message });
    }
    Ok(begin..end)
}

fn on_wire(version: u64, row: Version) -> proto::Version {
    proto::Version { version, index: row.index, recorded_at_us: row.recorded_at_us, effective: row.effective }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_history_ends_where_it_does_and_is_not_too_long() {
        assert_eq!(part_of(2, 5, 10), Ok(2..5));
        assert_eq!(part_of(2, u64::MAX, 10), Ok(2..10));
        assert_eq!(part_of(20, u64::MAX, 10), Ok(10..10));
        assert_eq!(part_of(0, 0, 0), Ok(0..0));
        assert!(matches!(part_of(3, 2, 10), Err(QueryError::OutOfRange { field: "begin", .. })));
        assert_eq!(part_of(1, u64::MAX, MAX_PROVEN_VERSIONS + 1), Ok(1..MAX_PROVEN_VERSIONS + 1));
        let error = part_of(0, u64::MAX, MAX_PROVEN_VERSIONS + 1).expect_err("one too many");
        assert!(error.to_string().contains("300001 versions; at most 300000"), "{error}");
    }
}
