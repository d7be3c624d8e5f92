//! One subject: its state at a time, and its history.

use std::collections::BTreeSet;
use std::ops::Range;

use prost::Message as _;

use super::page::{Cursor, Page};
use super::{QueryError, Reader, check_time};
use crate::engine::ReadError;
use crate::ledger::names::Digest;
use crate::ledger::statement::TagName;
use crate::ledger::subject::{Subject, SubjectKey, digest_of};
use crate::proto;
use crate::store::rows::{self, Version};

impl Reader<'_> {
    /// What a tag pointed to at a time.
    pub fn resolve(&self, tag: &TagName, at_us: i64) -> Result<proto::ResolveTagResponse, QueryError> {
        let as_of_us = self.moment("at_us", at_us)?;
        let mut used = BTreeSet::new();
        let (state, digest) = self.state_at(&Subject::Tag(tag.clone()), as_of_us, self.head.size, &mut used)?;
        Ok(proto::ResolveTagResponse {
            as_of_us,
            state: Some(state),
            digest,
            evidence: Some(self.closed_evidence(used)?),
            evidence_left_out: false,
        })
    }

    /// How many entries the history of a tag has.
    pub fn tag_version(&self, tag: &TagName) -> Result<(u64, Option<Digest>), ReadError> {
        let state = rows::subject(&*self.rows, &Subject::Tag(tag.clone()).key())?;
        Ok((state.count, state.binding.digest().cloned()))
    }

    /// Everything asserted about a tag.
    pub fn tag_history(
        &self,
        tag: &TagName,
        request: &proto::ListTagHistoryRequest,
    ) -> Result<proto::ListTagHistoryResponse, QueryError> {
        let since_us = check_time("since_us", request.since_us)?;
        let until_us = check_time("until_us", request.until_us)?;
        let mut question = request.clone();
        (question.page_size, question.page_token) = (0, String::new());
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", 0), &question.encode_to_vec())?;
        let key = Subject::Tag(tag.clone()).key();
        let total = self.count_below(&key, cursor.size)?;
        let first = if since_us == 0 { 0 } else { self.count_until(&key, total, since_us - 1)? };
        let last = if until_us == 0 { total } else { self.count_until(&key, total, until_us - 1)?.max(first) };
        let (versions, next) = self.slice(&key, first..last, &cursor, request.newest_first)?;
        Ok(proto::ListTagHistoryResponse {
            evidence: Some(self.closed_evidence(versions.iter().map(|version| version.index).collect())?),
            evidence_left_out: false,
            versions,
            next_page_token: next,
            total,
        })
    }

    /// Every entry that names a digest.
    pub fn sightings(
        &self,
        digest: &Digest,
        request: &proto::ListDigestSightingsRequest,
    ) -> Result<proto::ListDigestSightingsResponse, QueryError> {
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, ("at_us", 0), digest.as_str().as_bytes())?;
        let key = Subject::Digest(digest.clone()).key();
        let total = self.count_below(&key, cursor.size)?;
        let (versions, next) = self.slice(&key, 0..total, &cursor, false)?;
        Ok(proto::ListDigestSightingsResponse {
            evidence: Some(self.closed_evidence(versions.iter().map(|version| version.index).collect())?),
            evidence_left_out: false,
            versions,
            next_page_token: next,
            total,
        })
    }

    /// A subject at a time: its version then, the one after, and the digest in force. `used` collects the entries.
    pub(super) fn state_at(
        &self,
        subject: &Subject,
        as_of_us: u64,
        size: u64,
        used: &mut BTreeSet<u64>,
    ) -> Result<(proto::StateAt, String), QueryError> {
        let key = subject.key();
        let count = self.count_below(&key, size)?;
        let until = self.count_until(&key, count, as_of_us)?;
        let version =
            |at: u64| -> Result<proto::Version, ReadError> { Ok(on_wire(at, rows::version(&*self.rows, &key, at)?)) };
        let at = until.checked_sub(1).map(version).transpose()?;
        let next = (until < count).then(|| version(until)).transpose()?;
        used.extend(at.iter().chain(&next).map(|version| version.index));
        let mut digest = String::new();
        if let Some(setter) = at.as_ref().and_then(|version| version.effective.checked_sub(1)) {
            used.insert(setter);
            let statement = self.statement(setter)?;
            digest = digest_of(&statement).map(Digest::to_string).unwrap_or_default();
        }
        Ok((proto::StateAt { at, next }, digest))
    }

    /// A subject at two times, if it differs.
    #[allow(clippy::type_complexity, reason = "the four parts of a change, used once each")]
    pub(super) fn change(
        &self,
        subject: &Subject,
        from_us: u64,
        cursor: &Cursor,
        used: &mut BTreeSet<u64>,
    ) -> Result<Option<(proto::StateAt, String, proto::StateAt, String)>, QueryError> {
        let mut named = BTreeSet::new();
        let (from, from_digest) = self.state_at(subject, from_us, cursor.size, &mut named)?;
        let (to, to_digest) = self.state_at(subject, cursor.as_of_us, cursor.size, &mut named)?;
        if from_digest == to_digest {
            return Ok(None);
        }
        used.append(&mut named);
        Ok(Some((from, from_digest, to, to_digest)))
    }

    /// How many versions of a subject lie below a size of the log.
    pub(super) fn count_below(&self, key: &SubjectKey, size: u64) -> Result<u64, ReadError> {
        let count = rows::subject(&*self.rows, key)?.count;
        if size >= self.head.size { Ok(count) } else { self.bisect(key, count, |version| version.index < size) }
    }

    /// How many of the first `count` versions were recorded at or before a time.
    pub(super) fn count_until(&self, key: &SubjectKey, count: u64, time_us: u64) -> Result<u64, ReadError> {
        if time_us >= self.head.recorded_at_us {
            return Ok(count);
        }
        self.bisect(key, count, |version| version.recorded_at_us <= time_us)
    }

    /// How many versions from the first on satisfy `holds`, which no later one does after one that doesn't.
    fn bisect(&self, key: &SubjectKey, count: u64, holds: impl Fn(&Version) -> bool) -> Result<u64, ReadError> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(&rows::version(&*self.rows, key, middle)?) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// One page of a history.
    fn slice(
        &self,
        key: &SubjectKey,
        range: Range<u64>,
        cursor: &Cursor,
        newest_first: bool,
    ) -> Result<(Vec<proto::Version>, String), QueryError> {
        let skip = cursor.position[0];
        let limit = u64::try_from(cursor.limit).expect("a page is small");
        let left = (range.end - range.start).saturating_sub(skip);
        let taken = left.min(limit);
        let mut versions = Vec::new();
        for step in skip..skip + taken {
            let at = if newest_first { range.end - 1 - step } else { range.start + step };
            versions.push(on_wire(at, rows::version(&*self.rows, key, at)?));
        }
        let next = if left > limit { cursor.token([skip + taken, 0]) } else { String::new() };
        Ok((versions, next))
    }
}

fn on_wire(version: u64, row: Version) -> proto::Version {
    proto::Version { version, index: row.index, recorded_at_us: row.recorded_at_us, effective: row.effective }
}
