//! Answers, as of a time.
//!
//! A [`Reader`] sees one state of the ledger: a checkpoint and the rows that were committed with it. Times mean recorded
//! times, so "as of T" is a prefix of the log; within one subject it is a prefix of the history, found by bisection. Every
//! answer names the entries it rests on and carries them with their proof.
//!
//! Lists come in pages. A page token pins the moment all pages answer for, and belongs to one question.

use std::collections::BTreeSet;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::ledger::entry::{Body, SignedEntry};
use crate::ledger::merkle::multi::multi_proof;
use crate::ledger::merkle::proof::{consistency_proof, inclusion_proof};
use crate::ledger::merkle::tree::subtree;
use crate::ledger::merkle::{Hash, hash::leaf_hash};
use crate::ledger::names::{Digest, Registry, Repository};
use crate::ledger::statement::{Kind, Statement, TagName, Workload};
use crate::ledger::subject::{Subject, SubjectKey, digest_of, tag_of};
use crate::ledger::time::MAX_TIME_US;
use crate::proto;
use crate::store::rows::{self, Head, StoredNodes, Version};
use crate::store::{Read, ReadError};

/// Items on a page, if the question doesn't say.
pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// Most items on a page.
pub const MAX_PAGE_SIZE: u32 = 1000;
/// Most leaves of one multi-proof.
pub const MAX_PROOF_LEAVES: usize = 1024;
/// Most members of a catalogue that one page looks at; a page may hold fewer items, and still not be the last.
const MAX_SCANNED: u64 = 4000;

/// Why a question is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A number lies outside of what there is.
    #[error("{field} is {value}; {allowed}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: String,
    },
    /// A field makes no sense.
    #[error("{field} {message}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// Stable word for programs.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// There is no such entry.
    #[error("no entry has the leaf hash {0}")]
    NoSuchLeaf(String),
    /// The store.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// One state of the ledger.
pub struct Reader<'a> {
    rows: Box<dyn Read + Send + 'a>,
    head: Head,
}

/// What a page is asked with.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Items wanted; 0: the default.
    pub size: u32,
    /// From the page before; empty: the first page.
    pub token: &'a str,
}

/// Where a page begins, and the moment it answers for.
struct Cursor {
    as_of_us: u64,
    /// Number of entries that moment covers: what came later is not there for these pages.
    size: u64,
    position: [u64; 2],
    limit: usize,
    question: [u8; 8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rows: Box<dyn Read + Send + 'a>) -> Result<Self, ReadError> {
        let head = rows::head(&*rows)?
            .ok_or_else(|| ReadError::Damaged { table: "meta", what: "the head is missing".into() })?;
        Ok(Self { rows, head })
    }

    /// Size, time and signed checkpoint.
    pub fn head(&self) -> &Head {
        &self.head
    }

    // The log as a log.

    /// One entry with its proof.
    pub fn entry(&self, index: u64) -> Result<proto::Evidence, QueryError> {
        self.check_index("index", index, self.head.size)?;
        self.evidence([index].into())
    }

    /// One entry by its leaf hash, with its proof.
    pub fn entry_by_leaf(&self, hash: &[u8]) -> Result<proto::Evidence, QueryError> {
        if hash.len() != 32 {
            let message = format!("has {} bytes; a leaf hash has 32", hash.len());
            return Err(QueryError::Invalid { field: "leaf_hash", reason: "LENGTH", message });
        }
        match rows::index_of_leaf(&*self.rows, hash)? {
            Some(index) => self.entry(index),
            None => Err(QueryError::NoSuchLeaf(hex::encode(hash))),
        }
    }

    /// The bytes of some entries, which lie inside the checkpoint.
    pub fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, ReadError> {
        rows::entries(&*self.rows, range)
    }

    /// Complete subtrees of one level.
    pub fn nodes(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, ReadError> {
        rows::node_range(&*self.rows, level, range)
    }

    /// The audit path of a leaf in the tree of a size (0: the checkpoint's).
    pub fn inclusion(&self, index: u64, size: u64) -> Result<proto::GetInclusionProofResponse, QueryError> {
        let size = self.tree_size("tree_size", size)?;
        self.check_index("index", index, size)?;
        Ok(proto::GetInclusionProofResponse {
            index,
            tree_size: size,
            leaf_hash: self.leaf_hash(index)?.to_vec(),
            hashes: bytes(inclusion_proof(&StoredNodes(&*self.rows), index, size)?),
            root: self.root(size)?.to_vec(),
            checkpoint: self.head.checkpoint.clone(),
        })
    }

    /// That one tree is a prefix of another (`second` 0: the checkpoint's).
    pub fn consistency(&self, first: u64, second: u64) -> Result<proto::GetConsistencyProofResponse, QueryError> {
        let second = self.tree_size("second", second)?;
        if first == 0 || first > second {
            let allowed = format!("it must be 1 to {second}, the size of the second tree");
            return Err(QueryError::OutOfRange { field: "first", value: first, allowed });
        }
        Ok(proto::GetConsistencyProofResponse {
            first,
            second,
            first_root: self.root(first)?.to_vec(),
            second_root: self.root(second)?.to_vec(),
            hashes: bytes(consistency_proof(&StoredNodes(&*self.rows), first, second)?),
            checkpoint: self.head.checkpoint.clone(),
        })
    }

    /// One proof for many leaves.
    pub fn multi(&self, indexes: &[u64], size: u64) -> Result<proto::GetMultiProofResponse, QueryError> {
        let size = self.tree_size("tree_size", size)?;
        let invalid = |reason, message: String| QueryError::Invalid { field: "indexes", reason, message };
        if indexes.is_empty() || indexes.len() > MAX_PROOF_LEAVES {
            let message = format!("are {}; 1 to {MAX_PROOF_LEAVES} are allowed", indexes.len());
            return Err(invalid("COUNT", message));
        }
        if let Some(pair) = indexes.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(invalid("NOT_RISING", format!("must rise; {} comes before {}", pair[0], pair[1])));
        }
        self.check_index("indexes", indexes[indexes.len() - 1], size)?;
        let leaves = indexes.iter().map(|&index| Ok(self.leaf_hash(index)?.to_vec()));
        Ok(proto::GetMultiProofResponse {
            indexes: indexes.to_vec(),
            tree_size: size,
            leaf_hashes: leaves.collect::<Result<_, ReadError>>()?,
            hashes: bytes(multi_proof(&StoredNodes(&*self.rows), indexes, size)?),
            root: self.root(size)?.to_vec(),
            checkpoint: self.head.checkpoint.clone(),
        })
    }

    /// Checks the range of a listing of entries (`end` 0: up to the checkpoint).
    pub fn entry_range(&self, begin: u64, end: u64) -> Result<Range<u64>, QueryError> {
        let size = self.head.size;
        let end = if end == 0 { size } else { end };
        if end > size {
            return Err(QueryError::OutOfRange { field: "end", value: end, allowed: at_most(size) });
        }
        if begin > end {
            let allowed = format!("it must be at most the end, {end}");
            return Err(QueryError::OutOfRange { field: "begin", value: begin, allowed });
        }
        Ok(begin..end)
    }

    // Tags, digests, workloads.

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
        let cursor = self.cursor(page, 0, &question.encode_to_vec())?;
        let key = Subject::Tag(tag.clone()).key();
        let total = self.count_below(&key, cursor.size)?;
        let first = if since_us == 0 { 0 } else { self.count_until(&key, total, since_us - 1)? };
        let last = if until_us == 0 { total } else { self.count_until(&key, total, until_us - 1)?.max(first) };
        let (versions, next) = self.slice(&key, first..last, &cursor, request.newest_first)?;
        Ok(proto::ListTagHistoryResponse {
            evidence: Some(self.closed_evidence(versions.iter().map(|version| version.index).collect())?),
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
        let cursor = self.cursor(page, 0, digest.as_str().as_bytes())?;
        let key = Subject::Digest(digest.clone()).key();
        let total = self.count_below(&key, cursor.size)?;
        let (versions, next) = self.slice(&key, 0..total, &cursor, false)?;
        Ok(proto::ListDigestSightingsResponse {
            evidence: Some(self.closed_evidence(versions.iter().map(|version| version.index).collect())?),
            versions,
            next_page_token: next,
            total,
        })
    }

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
        let cursor = self.cursor(page, request.at_us, &question.encode_to_vec())?;
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
        })
    }

    /// What ran at a time.
    pub fn running(&self, request: &proto::ListRunningRequest) -> Result<proto::ListRunningResponse, QueryError> {
        let mut question = request.clone();
        (question.page_size, question.page_token) = (0, String::new());
        let page = Page { size: request.page_size, token: &request.page_token };
        let cursor = self.cursor(page, request.at_us, &question.encode_to_vec())?;
        let mut used = BTreeSet::new();
        let mut workloads = Vec::new();
        let mut next = None;
        let [first_environment, mut first_workload] = cursor.position;
        for (version, environment) in self.environments(&request.environment, first_environment, &cursor)? {
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
        let cursor = self.cursor(page, request.to_us, &question.encode_to_vec())?;
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
        let cursor = self.cursor(page, request.to_us, &question.encode_to_vec())?;
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
        })
    }

    // Histories.

    /// A subject at a time: its version then, the one after, and the digest in force. `used` collects the entries.
    fn state_at(
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
    fn change(
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
    fn count_below(&self, key: &SubjectKey, size: u64) -> Result<u64, ReadError> {
        let count = rows::subject(&*self.rows, key)?.count;
        if size >= self.head.size { Ok(count) } else { self.bisect(key, count, |version| version.index < size) }
    }

    /// How many of the first `count` versions were recorded at or before a time.
    fn count_until(&self, key: &SubjectKey, count: u64, time_us: u64) -> Result<u64, ReadError> {
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

    // Catalogues.

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
            let is_full = items.is_some_and(|items| items >= cursor.limit) || at + 1 - first >= MAX_SCANNED;
            if is_full && at + 1 < count {
                return Ok(Some(at + 1));
            }
            if is_full {
                break;
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

    // Pieces.

    fn statement(&self, index: u64) -> Result<Statement, ReadError> {
        let bytes = rows::entry(&*self.rows, index)?;
        match SignedEntry::decode(&bytes).map(|entry| entry.body) {
            Ok(Body::Record(_, statement)) => Ok(*statement),
            _ => Err(ReadError::Damaged { table: "entries", what: format!("entry {index} is not a record") }),
        }
    }

    /// Evidence that also holds the last entry of the checkpoint: it says as of when the answer is.
    fn closed_evidence(&self, mut indexes: BTreeSet<u64>) -> Result<proto::Evidence, QueryError> {
        indexes.extend(self.head.size.checked_sub(1));
        self.evidence(indexes)
    }

    fn evidence(&self, indexes: BTreeSet<u64>) -> Result<proto::Evidence, QueryError> {
        let indexes: Vec<u64> = indexes.into_iter().collect();
        let entry = |&index: &u64| Ok(proto::LogEntry { index, entry: rows::entry(&*self.rows, index)? });
        let proof = match indexes.as_slice() {
            [] => Vec::new(),
            indexes => multi_proof(&StoredNodes(&*self.rows), indexes, self.head.size)?,
        };
        Ok(proto::Evidence {
            checkpoint: self.head.checkpoint.clone(),
            entries: indexes.iter().map(entry).collect::<Result<_, ReadError>>()?,
            proof: bytes(proof),
        })
    }

    fn leaf_hash(&self, index: u64) -> Result<Hash, ReadError> {
        Ok(leaf_hash(&rows::entry(&*self.rows, index)?))
    }

    fn root(&self, size: u64) -> Result<Hash, ReadError> {
        subtree(&StoredNodes(&*self.rows), 0..size)
    }

    fn tree_size(&self, field: &'static str, size: u64) -> Result<u64, QueryError> {
        match size {
            0 => Ok(self.head.size),
            size if size <= self.head.size => Ok(size),
            size => Err(QueryError::OutOfRange { field, value: size, allowed: at_most(self.head.size) }),
        }
    }

    fn check_index(&self, field: &'static str, index: u64, size: u64) -> Result<(), QueryError> {
        if index < size {
            return Ok(());
        }
        let allowed = format!("the tree of size {size} has entries 0 to {}", size.saturating_sub(1));
        Err(QueryError::OutOfRange { field, value: index, allowed })
    }

    /// The moment an answer is for: the time asked, but no later than the newest entry's.
    fn moment(&self, field: &'static str, at_us: i64) -> Result<u64, QueryError> {
        match check_time(field, at_us)? {
            0 => Ok(self.head.recorded_at_us),
            time => Ok(time.min(self.head.recorded_at_us)),
        }
    }

    fn cursor(&self, page: Page<'_>, at_us: i64, question: &[u8]) -> Result<Cursor, QueryError> {
        let limit = match page.size {
            0 => DEFAULT_PAGE_SIZE,
            size if size <= MAX_PAGE_SIZE => size,
            size => {
                let allowed = format!("at most {MAX_PAGE_SIZE} are allowed");
                return Err(QueryError::OutOfRange { field: "page_size", value: size.into(), allowed });
            }
        };
        let hash = Sha256::digest(question);
        let question = hash.first_chunk().copied().expect("a hash has more than eight bytes");
        let limit = usize::try_from(limit).expect("a page size fits");
        let as_of_us = self.moment("at_us", at_us)?;
        if page.token.is_empty() {
            return Ok(Cursor { as_of_us, size: self.head.size, position: [0, 0], limit, question });
        }
        let foreign = || QueryError::Invalid {
            field: "page_token",
            reason: "FOREIGN_TOKEN",
            message: "is not one this question was answered with; leave it empty to begin again".into(),
        };
        let bytes = BASE64.decode(page.token).map_err(|_| foreign())?;
        let (token_question, numbers) = bytes.split_first_chunk::<8>().ok_or_else(foreign)?;
        let numbers: Vec<u64> = numbers
            .chunks(8)
            .map(|chunk| chunk.try_into().map(u64::from_be_bytes).map_err(|_| foreign()))
            .collect::<Result<_, _>>()?;
        match numbers[..] {
            [as_of_us, size, first, second]
                if *token_question == question && size <= self.head.size && as_of_us <= self.head.recorded_at_us =>
            {
                Ok(Cursor { as_of_us, size, position: [first, second], limit, question })
            }
            _ => Err(foreign()),
        }
    }
}

impl Cursor {
    fn token(&self, position: [u64; 2]) -> String {
        let mut bytes = self.question.to_vec();
        for number in [self.as_of_us, self.size, position[0], position[1]] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        BASE64.encode(bytes)
    }
}

/// A time of a question; 0 stays 0.
pub fn check_time(field: &'static str, time_us: i64) -> Result<u64, QueryError> {
    let invalid = |reason, message: String| QueryError::Invalid { field, reason, message };
    match u64::try_from(time_us) {
        Err(_) => Err(invalid("BEFORE_1970", format!("is {time_us}; times before 1970 are refused"))),
        Ok(time) if time > MAX_TIME_US => Err(invalid(
            "TOO_FAR_AHEAD",
            format!("is {time}; at most {MAX_TIME_US} (the end of the year 9999) is allowed"),
        )),
        Ok(time) => Ok(time),
    }
}

fn check_order(from_us: u64, to_us: u64) -> Result<(), QueryError> {
    if from_us <= to_us {
        return Ok(());
    }
    let message = format!("is {from_us}, after the time to compare with, {to_us}");
    Err(QueryError::Invalid { field: "from_us", reason: "FROM_AFTER_TO", message })
}

fn at_most(size: u64) -> String {
    format!("the newest checkpoint has size {size}")
}

fn bytes(hashes: Vec<Hash>) -> Vec<Vec<u8>> {
    hashes.into_iter().map(Vec::from).collect()
}

fn on_wire(version: u64, row: Version) -> proto::Version {
    proto::Version { version, index: row.index, recorded_at_us: row.recorded_at_us, effective: row.effective }
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
