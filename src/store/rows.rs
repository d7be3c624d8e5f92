//! What the rows mean: keys, values, and their encoding.
//!
//! Keys are big-endian, so that byte order is the order of the numbers in them. Values that are not plain bytes are encoded
//! with bincode, here and nowhere else: its bytes are never signed, hashed or shown, so it can be replaced by bumping
//! [`FORMAT`]. (It is unmaintained, RUSTSEC-2025-0141; that it is pinned and confined to this file is the exception's price.)

use std::ops::{ControlFlow, Range};

use bincode::{Decode, Encode};

use super::{Batch, Read, ReadError, Table, scan_prefix};
use crate::ledger::merkle::{Hash, Nodes, tree::Node};
use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::subject::SubjectKey;
use crate::ledger::transition::{Binding, SubjectState};

/// The version of everything below. A store with a newer one is refused.
pub const FORMAT: u32 = 1;

const KEY_FORMAT: &[u8] = b"format";
const KEY_ORIGIN: &[u8] = b"origin";
const KEY_HEAD: &[u8] = b"head";

/// The newest committed state of the log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// Number of entries.
    pub size: u64,
    /// Time of the last of them.
    pub recorded_at_us: u64,
    /// The signed checkpoint over them.
    pub checkpoint: String,
}

/// One entry of a subject's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Version {
    /// Index of the entry.
    pub index: u64,
    /// Its time.
    pub recorded_at_us: u64,
    /// 1 + index of the entry that set the binding in force after it; 0: unbound.
    pub effective: u64,
}

/// Where an event id was first used.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// Index of the first entry.
    pub index: u64,
    /// Number of entries the statement became.
    pub entry_count: u32,
    /// SHA-256 of the statement's bytes: the same id with other bytes is a conflict.
    pub statement_hash: [u8; 32],
}

#[derive(Encode, Decode)]
struct SubjectRow {
    count: u64,
    binding: BindingRow,
}

#[derive(Encode, Decode)]
enum BindingRow {
    Never,
    Bound { digest: String, set_by: u64 },
    Unbound { last: String, set_by: u64 },
}

fn encode(value: &impl Encode) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard()).expect("rows are plain data")
}

fn decode<T: Decode<()>>(table: Table, bytes: &[u8]) -> Result<T, ReadError> {
    match bincode::decode_from_slice(bytes, bincode::config::standard()) {
        Ok((value, length)) if length == bytes.len() => Ok(value),
        Ok(_) => Err(damaged(table, "a row has trailing bytes")),
        Err(error) => Err(damaged(table, format!("a row does not decode: {error}"))),
    }
}

fn damaged(table: Table, what: impl Into<String>) -> ReadError {
    ReadError::Damaged { table: table.name(), what: what.into() }
}

// Meta.

/// Writes what never changes.
pub fn put_identity(batch: &mut Batch, origin: &str) {
    batch.put(Table::Meta, KEY_FORMAT, FORMAT.to_be_bytes());
    batch.put(Table::Meta, KEY_ORIGIN, origin);
}

/// The format and origin of the store; `None` if it is new.
pub fn identity(read: &(impl Read + ?Sized)) -> Result<Option<(u32, String)>, ReadError> {
    let Some(format) = read.get(Table::Meta, KEY_FORMAT)? else { return Ok(None) };
    let format = format.try_into().map_err(|_| damaged(Table::Meta, "the format is not a number"))?;
    let origin = read.get(Table::Meta, KEY_ORIGIN)?.ok_or_else(|| damaged(Table::Meta, "the origin is missing"))?;
    let origin = String::from_utf8(origin).map_err(|_| damaged(Table::Meta, "the origin is not text"))?;
    Ok(Some((u32::from_be_bytes(format), origin)))
}

/// Writes the newest state of the log.
pub fn put_head(batch: &mut Batch, head: &Head) {
    batch.put(Table::Meta, KEY_HEAD, encode(head));
}

/// The newest state of the log; `None` before the first entry.
pub fn head(read: &(impl Read + ?Sized)) -> Result<Option<Head>, ReadError> {
    read.get(Table::Meta, KEY_HEAD)?.map(|row| decode(Table::Meta, &row)).transpose()
}

/// Number of entries in the store.
pub fn tree_size(read: &(impl Read + ?Sized)) -> Result<u64, ReadError> {
    Ok(head(read)?.map_or(0, |head| head.size))
}

// The log.

/// Writes an entry, and where to find it by its leaf hash.
pub fn put_entry(batch: &mut Batch, index: u64, leaf_hash: &Hash, entry: &[u8]) {
    batch.put(Table::Entries, index.to_be_bytes(), entry);
    batch.put(Table::Leaves, leaf_hash.as_slice(), index.to_be_bytes());
}

/// The entries of a range, which must all be there.
pub fn entries(read: &(impl Read + ?Sized), range: Range<u64>) -> Result<Vec<Vec<u8>>, ReadError> {
    let mut found = Vec::new();
    if range.is_empty() {
        return Ok(found);
    }
    let mut next = range.start;
    read.scan(Table::Entries, &range.start.to_be_bytes(), &mut |key, value| {
        if key != next.to_be_bytes() {
            return ControlFlow::Break(());
        }
        found.push(value.to_vec());
        next += 1;
        if next < range.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if next == range.end { Ok(found) } else { Err(damaged(Table::Entries, format!("entry {next} is missing"))) }
}

/// One entry, which must be there.
pub fn entry(read: &(impl Read + ?Sized), index: u64) -> Result<Vec<u8>, ReadError> {
    read.get(Table::Entries, &index.to_be_bytes())?
        .ok_or_else(|| damaged(Table::Entries, format!("entry {index} is missing")))
}

/// The index of the entry with a leaf hash.
pub fn index_of_leaf(read: &(impl Read + ?Sized), leaf_hash: &[u8]) -> Result<Option<u64>, ReadError> {
    read.get(Table::Leaves, leaf_hash)?.map(|row| number(Table::Leaves, &row)).transpose()
}

/// Writes a complete subtree.
pub fn put_node(batch: &mut Batch, node: &Node) {
    batch.put(Table::Nodes, node_key(node.level, node.index), node.hash.as_slice());
}

/// The complete subtrees of one level at the positions of a range, which must all be there.
pub fn node_range(read: &(impl Read + ?Sized), level: u8, range: Range<u64>) -> Result<Vec<Hash>, ReadError> {
    let mut found = Vec::new();
    if range.is_empty() {
        return Ok(found);
    }
    let mut next = range.start;
    let mut broken = None;
    read.scan(Table::Nodes, &node_key(level, range.start), &mut |key, value| {
        if key != node_key(level, next) {
            return ControlFlow::Break(());
        }
        match value.try_into() {
            Ok(hash) => found.push(hash),
            Err(_) => {
                broken = Some(next);
                return ControlFlow::Break(());
            }
        }
        next += 1;
        if next < range.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    match broken {
        None if next == range.end => Ok(found),
        _ => Err(damaged(Table::Nodes, format!("node {next} on level {level} is missing or not a hash"))),
    }
}

/// The log's tree, as the store has it.
pub struct StoredNodes<'a, R: ?Sized>(pub &'a R);

impl<R: Read + ?Sized> Nodes for StoredNodes<'_, R> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        self.0
            .get(Table::Nodes, &node_key(level, index))?
            .and_then(|row| row.try_into().ok())
            .ok_or_else(|| damaged(Table::Nodes, format!("node {index} on level {level} is missing or not a hash")))
    }
}

fn node_key(level: u8, index: u64) -> Vec<u8> {
    let mut key = vec![level];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

// Subjects.

/// Writes a subject's newest state.
pub fn put_subject(batch: &mut Batch, key: &SubjectKey, state: &SubjectState) {
    let binding = match &state.binding {
        Binding::Never => BindingRow::Never,
        Binding::Bound { digest, set_by } => BindingRow::Bound { digest: digest.to_string(), set_by: *set_by },
        Binding::Unbound { last, set_by } => BindingRow::Unbound { last: last.to_string(), set_by: *set_by },
    };
    batch.put(Table::Subjects, key.0.as_slice(), encode(&SubjectRow { count: state.count, binding }));
}

/// A subject's newest state; the default for one that never occurred.
pub fn subject(read: &(impl Read + ?Sized), key: &SubjectKey) -> Result<SubjectState, ReadError> {
    let Some(row) = read.get(Table::Subjects, &key.0)? else { return Ok(SubjectState::default()) };
    let row: SubjectRow = decode(Table::Subjects, &row)?;
    let digest = |text: String| text.parse::<Digest>().map_err(|e| damaged(Table::Subjects, e.to_string()));
    let binding = match row.binding {
        BindingRow::Never => Binding::Never,
        BindingRow::Bound { digest: text, set_by } => Binding::Bound { digest: digest(text)?, set_by },
        BindingRow::Unbound { last, set_by } => Binding::Unbound { last: digest(last)?, set_by },
    };
    Ok(SubjectState { count: row.count, binding })
}

/// Writes one entry of a history.
pub fn put_version(batch: &mut Batch, key: &SubjectKey, version: u64, row: &Version) {
    batch.put(Table::Histories, history_key(key, version), encode(row));
}

/// One entry of a history, which must be there.
pub fn version(read: &(impl Read + ?Sized), key: &SubjectKey, version: u64) -> Result<Version, ReadError> {
    let row = read.get(Table::Histories, &history_key(key, version))?;
    let row = row.ok_or_else(|| damaged(Table::Histories, format!("version {version} of a subject is missing")))?;
    decode(Table::Histories, &row)
}

fn history_key(key: &SubjectKey, version: u64) -> Vec<u8> {
    let mut bytes = key.0.to_vec();
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes
}

// Tags by digest.

/// Writes that a tag is bound to a digest.
pub fn put_bound(batch: &mut Batch, registry: &Registry, repository: &Repository, digest: &Digest, tag: &Tag) {
    batch.put(Table::Bound, [&bound_prefix(registry, repository, digest), tag.as_str().as_bytes()].concat(), []);
}

/// Removes that a tag is bound to a digest.
pub fn delete_bound(batch: &mut Batch, registry: &Registry, repository: &Repository, digest: &Digest, tag: &Tag) {
    batch.delete(Table::Bound, [&bound_prefix(registry, repository, digest), tag.as_str().as_bytes()].concat());
}

/// The tags bound to a digest, in byte order.
pub fn bound(
    read: &(impl Read + ?Sized),
    registry: &Registry,
    repository: &Repository,
    digest: &Digest,
) -> Result<Vec<Tag>, ReadError> {
    let prefix = bound_prefix(registry, repository, digest);
    let mut tags = Vec::new();
    let mut broken = false;
    scan_prefix(read, Table::Bound, &prefix, &mut |key, _| {
        match std::str::from_utf8(&key[prefix.len()..]).ok().and_then(|text| text.parse().ok()) {
            Some(tag) => tags.push(tag),
            None => broken = true,
        }
        ControlFlow::Continue(())
    })?;
    if broken { Err(damaged(Table::Bound, "a key does not end in a tag")) } else { Ok(tags) }
}

/// Names contain no NUL, so it separates them.
fn bound_prefix(registry: &Registry, repository: &Repository, digest: &Digest) -> Vec<u8> {
    format!("{registry}\0{repository}\0{digest}\0").into_bytes()
}

// Event ids.

/// Writes where an event id was first used.
pub fn put_event(batch: &mut Batch, principal: &str, event_id: &str, event: &Event) {
    batch.put(Table::Events, event_key(principal, event_id), encode(event));
}

/// Where an event id was first used.
pub fn event(read: &(impl Read + ?Sized), principal: &str, event_id: &str) -> Result<Option<Event>, ReadError> {
    read.get(Table::Events, &event_key(principal, event_id))?.map(|row| decode(Table::Events, &row)).transpose()
}

/// Neither contains control characters, so NUL separates them.
fn event_key(principal: &str, event_id: &str) -> Vec<u8> {
    format!("{principal}\0{event_id}").into_bytes()
}

fn number(table: Table, bytes: &[u8]) -> Result<u64, ReadError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged(table, "a row is not a number"))
}
