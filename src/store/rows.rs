//! What the rows mean: keys, values, and their encoding.
//!
//! Keys are big-endian, so that byte order is the order of the numbers in them. Values that are not plain bytes are encoded
//! with bincode, here and nowhere else: its bytes are never signed, hashed or shown, so it can be replaced by bumping
//! [`FORMAT`]. (It is unmaintained, RUSTSEC-2025-0141; that it is pinned and confined to this file is the exception's price.)

use std::cell::RefCell;
use std::ops::Range;

use bincode::{Decode, Encode};

use super::log_tree::{self, StoredNodes};
use super::{Batch, Cursor, Read, ReadError, Table};
use crate::ledger::entry::{Body, SignedEntry};
use crate::ledger::history::{history_leaf, map_leaf};
use crate::ledger::hold::{Aim, Hold};
use crate::ledger::map::{Leaf, LeafHashes, Leaves, MAX_DEPTH};
use crate::ledger::merkle::tree::edge_root;
use crate::ledger::merkle::{Hash, Nodes, Tree};
use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::subject::SubjectKey;
use crate::ledger::transition::{Binding, SubjectState};

/// The version of everything below. A store with another one is refused.
pub const FORMAT: u32 = 5;

/// A store was written by other software. There is no conversion: what an older one lacks was never signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "has format {found}, and this version reads format {FORMAT} only: go on with the tagledgerd that wrote it, or begin a new ledger in another directory"
)]
pub struct OtherFormat {
    /// Its format.
    pub found: u32,
}

const KEY_FORMAT: &[u8] = b"format";
const KEY_ORIGIN: &[u8] = b"origin";
/// Where the newest state of the log is, in the table of facts.
pub const KEY_HEAD: &[u8] = b"head";

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

/// A subject's newest state, and the tree of its history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectRow {
    /// Over all entries of its history.
    pub history: Tree,
    /// What it points to or runs.
    pub binding: Binding,
    /// Who is about to change it.
    pub hold: Option<Hold>,
}

impl SubjectRow {
    /// What the rules need to know of it.
    pub fn state(&self) -> SubjectState {
        SubjectState { count: self.history.size(), binding: self.binding.clone(), hold: self.hold.clone() }
    }
}

#[derive(Encode, Decode)]
enum BindingRow {
    Never,
    Bound { digest: DigestRow, set_by: u64 },
    Unbound { last: DigestRow, set_by: u64 },
}

/// Whose intent it is stands in its entry.
#[derive(Encode, Decode)]
struct HoldRow {
    index: u64,
    aim: AimRow,
}

#[derive(Encode, Decode)]
enum AimRow {
    Push(DigestRow),
    Delete,
    DeleteManifest,
}

impl HoldRow {
    fn of(hold: &Hold) -> Self {
        let aim = match &hold.aim {
            Aim::Push(digest) => AimRow::Push(DigestRow::of(digest)),
            Aim::Delete => AimRow::Delete,
            Aim::DeleteManifest => AimRow::DeleteManifest,
        };
        Self { index: hold.index, aim }
    }

    fn hold(&self, by: String) -> Hold {
        let aim = match &self.aim {
            AimRow::Push(digest) => Aim::Push(digest.digest()),
            AimRow::Delete => Aim::Delete,
            AimRow::DeleteManifest => Aim::DeleteManifest,
        };
        Hold { index: self.index, by, aim }
    }
}

/// A digest in half the bytes of its text.
#[derive(Encode, Decode)]
enum DigestRow {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

impl DigestRow {
    fn of(digest: &Digest) -> Self {
        let (algorithm, digits) = digest.as_str().split_once(':').expect("a digest names its algorithm");
        let bytes = hex::decode(digits).expect("a digest is hexadecimal");
        match algorithm {
            "sha256" => Self::Sha256(bytes.try_into().expect("32 bytes")),
            "sha512" => Self::Sha512(bytes.try_into().expect("64 bytes")),
            other => unreachable!("no digest is parsed with the algorithm {other}"),
        }
    }

    fn digest(&self) -> Digest {
        let text = match self {
            Self::Sha256(bytes) => ["sha256:", &hex::encode(bytes)].concat(),
            Self::Sha512(bytes) => ["sha512:", &hex::encode(bytes)].concat(),
        };
        text.parse().expect("canonical")
    }
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
    consecutive(read, (Table::Entries, "entry"), &[], range, |_, entry| Some(entry.to_vec()))
}

/// One entry, which must be there.
pub fn entry(read: &(impl Read + ?Sized), index: u64) -> Result<Vec<u8>, ReadError> {
    read.get(Table::Entries, &index.to_be_bytes())?
        .ok_or_else(|| damaged(Table::Entries, format!("entry {index} is missing")))
}

/// The principal of a record.
fn stated_by(read: &(impl Read + ?Sized), index: u64) -> Result<String, ReadError> {
    match SignedEntry::decode(&entry(read, index)?).map(|entry| entry.body) {
        Ok(Body::Record(record, _)) => Ok(record.principal),
        Ok(Body::Commitment(_)) => Err(damaged(Table::Subjects, format!("a hold names entry {index}, a commitment"))),
        Err(error) => Err(damaged(Table::Entries, format!("entry {index}: {error}"))),
    }
}

/// The index of the entry with a leaf hash.
pub fn index_of_leaf(read: &(impl Read + ?Sized), leaf_hash: &[u8]) -> Result<Option<u64>, ReadError> {
    read.get(Table::Leaves, leaf_hash)?.map(|row| number(Table::Leaves, &row)).transpose()
}

// Subjects.
//
// A row is the length of the history, the edge of its tree (a hash for each bit of the length), binding and hold. The first two
// are a leaf of the subject map, and are read as that without looking at the rest: updating the map reads a dozen rows for
// each subject that changed.

/// Writes a subject's newest state.
pub fn put_subject(batch: &mut Batch, key: &SubjectKey, row: &SubjectRow) {
    let binding = match &row.binding {
        Binding::Never => BindingRow::Never,
        Binding::Bound { digest, set_by } => BindingRow::Bound { digest: DigestRow::of(digest), set_by: *set_by },
        Binding::Unbound { last, set_by } => BindingRow::Unbound { last: DigestRow::of(last), set_by: *set_by },
    };
    let rest = encode(&(binding, row.hold.as_ref().map(HoldRow::of)));
    let count = row.history.size();
    let mut bytes = Vec::with_capacity(8 + 32 * count.count_ones() as usize + rest.len());
    bytes.extend_from_slice(&count.to_be_bytes());
    row.history.edge().for_each(|node| bytes.extend_from_slice(&node.hash));
    bytes.extend_from_slice(&rest);
    batch.put(Table::Subjects, key.0.as_slice(), bytes);
}

/// A subject's newest state; the default for one that never occurred.
pub fn subject(read: &(impl Read + ?Sized), key: &SubjectKey) -> Result<SubjectRow, ReadError> {
    let Some(row) = read.get(Table::Subjects, &key.0)? else { return Ok(SubjectRow::default()) };
    let (count, edge, rest) = history_of(&row)?;
    let (binding, hold): (BindingRow, Option<HoldRow>) = decode(Table::Subjects, rest)?;
    let binding = match binding {
        BindingRow::Never => Binding::Never,
        BindingRow::Bound { digest, set_by } => Binding::Bound { digest: digest.digest(), set_by },
        BindingRow::Unbound { last, set_by } => Binding::Unbound { last: last.digest(), set_by },
    };
    let history = Tree::from_edge(count, edge.to_vec()).expect("as many hashes as bits");
    let hold = hold.map(|hold| stated_by(read, hold.index).map(|by| hold.hold(by))).transpose()?;
    Ok(SubjectRow { history, binding, hold })
}

/// The same, and what the map says it is: an error is any other row than the one that the map has. What the map does not have is not looked
/// for: most subjects that somebody asks for the first time are new.
pub fn subject_in<M: LeafHashes<Error = ReadError> + ?Sized>(
    read: &(impl Read + ?Sized),
    map: &M,
    key: &SubjectKey,
) -> Result<SubjectRow, ReadError> {
    let Some(leaf) = map.hashes_under(key, MAX_DEPTH)?.pop() else { return Ok(SubjectRow::default()) };
    let row = subject(read, key)?;
    if row.history.size() == 0 || map_leaf(*key, &row.history).hashed() != leaf {
        let what = format!("the row of subject {} is not the one that the map has", hex::encode(key.0));
        return Err(damaged(Table::Subjects, what));
    }
    Ok(row)
}

/// How many entries a subject's history has; 0 if it never occurred.
pub fn count(read: &(impl Read + ?Sized), key: &SubjectKey) -> Result<u64, ReadError> {
    let row = read.get(Table::Subjects, &key.0)?;
    row.map_or(Ok(0), |row| history_of(&row).map(|(count, ..)| count))
}

/// The length of a subject's history, the edge of its tree, and the rest of the row.
fn history_of(row: &[u8]) -> Result<(u64, &[Hash], &[u8]), ReadError> {
    let parts = row.split_first_chunk::<8>().and_then(|(count, rest)| {
        let count = u64::from_be_bytes(*count);
        let (edge, rest) = rest.split_at_checked(32 * usize::try_from(count.count_ones()).ok()?)?;
        Some((count, edge.as_chunks().0, rest))
    });
    parts.filter(|(count, ..)| *count > 0).ok_or_else(|| damaged(Table::Subjects, "a row has no history"))
}

/// The leaves of the subject map, as the store has them. Quickest where one is asked near the last.
pub struct StoredLeaves<'a>(RefCell<Box<dyn Cursor + 'a>>);

impl<'a> StoredLeaves<'a> {
    /// Those of `read`.
    pub fn new(read: &'a (impl Read + ?Sized)) -> Self {
        Self(RefCell::new(read.cursor(Table::Subjects, &[])))
    }

    /// All of them by rising key, one at each call.
    pub fn all(self) -> impl FnMut() -> Result<Option<Leaf>, ReadError> + 'a {
        self.all_under(SubjectKey([0; 32]), 0)
    }

    /// The same of those whose keys begin with the first `depth` bits of `path`.
    pub fn all_under(self, path: SubjectKey, depth: usize) -> impl FnMut() -> Result<Option<Leaf>, ReadError> + 'a {
        let (mut cursor, mut is_first) = (self.0.into_inner(), true);
        move || {
            let row =
                if std::mem::take(&mut is_first) { cursor.seek(&path.first_below(depth).0)? } else { cursor.next()? };
            let leaf = row.map(|(key, row)| leaf(key, row)).transpose()?;
            Ok(leaf.filter(|leaf| leaf.key.shares(&path, depth)))
        }
    }
}

impl Leaves for StoredLeaves<'_> {
    type Error = ReadError;

    fn under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<Leaf>, ReadError> {
        let mut cursor = self.0.borrow_mut();
        let mut found = Vec::with_capacity(16);
        let mut row = cursor.seek(&path.first_below(depth).0)?;
        while let Some((key, value)) = row {
            let leaf = leaf(key, value)?;
            if !leaf.key.shares(path, depth) {
                break;
            }
            found.push(leaf);
            row = cursor.next()?;
        }
        Ok(found)
    }
}

fn leaf(key: &[u8], row: &[u8]) -> Result<Leaf, ReadError> {
    let key = key.try_into().map_err(|_| damaged(Table::Subjects, "a key is not a subject's"))?;
    let (count, edge, _) = history_of(row)?;
    Ok(Leaf { key: SubjectKey(key), count, root: edge_root(edge) })
}

// Histories.
//
// A row is an entry of the history, and after it the subtrees of more than one entry that it completed, lowest first: as many as
// the number after its own is divisible by two. The single ones are not kept: [`StoredHistory`] makes them of what there is.

/// Writes one entry of a history, and the subtrees of two entries and more that it completes, lowest first.
pub fn put_version(batch: &mut Batch, key: &SubjectKey, version: u64, row: &Version, completed: &[Hash]) {
    batch.put(Table::Histories, history_key(key, version), [encode(row), completed.concat()].concat());
}

/// One entry of a history, which must be there.
pub fn version(read: &(impl Read + ?Sized), key: &SubjectKey, version: u64) -> Result<Version, ReadError> {
    version_row(version, &stored_version(read, key, version)?).map(|(row, _)| row)
}

/// The entries of a part of a history, which must all be there.
pub fn versions(read: &(impl Read + ?Sized), key: &SubjectKey, range: Range<u64>) -> Result<Vec<Version>, ReadError> {
    let value = |version, row: &[u8]| version_row(version, row).ok().map(|(row, _)| row);
    consecutive(read, (Table::Histories, "version"), &key.0, range, value)
}

fn stored_version(read: &(impl Read + ?Sized), key: &SubjectKey, version: u64) -> Result<Vec<u8>, ReadError> {
    let row = read.get(Table::Histories, &history_key(key, version))?;
    row.ok_or_else(|| damaged(Table::Histories, format!("version {version} of a subject is missing")))
}

/// An entry of a history, and the subtrees it completed.
fn version_row(version: u64, row: &[u8]) -> Result<(Version, &[Hash]), ReadError> {
    let broken = || damaged(Table::Histories, format!("the row of version {version} of a subject does not decode"));
    let (entry, length) = bincode::decode_from_slice(row, bincode::config::standard()).map_err(|_| broken())?;
    let (completed, rest) = row[length..].as_chunks();
    let expected = usize::try_from(version.trailing_ones()).map_err(|_| broken())?;
    if completed.len() == expected && rest.is_empty() { Ok((entry, completed)) } else { Err(broken()) }
}

/// The tree of a subject's history, as the store has it.
pub struct StoredHistory<'a, R: ?Sized> {
    /// Where.
    pub read: &'a R,
    /// Whose.
    pub key: SubjectKey,
}

impl<R: Read + ?Sized> Nodes for StoredHistory<'_, R> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        let beyond = || damaged(Table::Histories, format!("no history has a node {index} on level {level}"));
        // What completes it is its last entry.
        let last = index.checked_add(1).and_then(|next| next.checked_mul(1u64.checked_shl(level.into())?));
        let last = last.ok_or_else(beyond)? - 1;
        let row = stored_version(self.read, &self.key, last)?;
        let (version, completed) = version_row(last, &row)?;
        match usize::from(level).checked_sub(1) {
            None => {
                let entry_hash = StoredNodes::new(self.read).node(0, version.index)?;
                Ok(history_leaf(version.index, &entry_hash, version.effective))
            }
            Some(at) => completed.get(at).copied().ok_or_else(beyond),
        }
    }
}

fn history_key(key: &SubjectKey, version: u64) -> Vec<u8> {
    let mut bytes = key.0.to_vec();
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes
}

// Tags by digest. A row stays when its tag is bound to something else: that it once was is what a promotion asks for.

/// Of a tag that is bound to the digest.
const BOUND: u8 = 1;
/// Of one that was.
const WAS_BOUND: u8 = 0;

/// Writes that a tag is bound to a digest, or that it was.
pub fn put_bound(batch: &mut Batch, key: &[u8], is_bound: bool) {
    batch.put(Table::Bound, key, [if is_bound { BOUND } else { WAS_BOUND }]);
}

/// The key of a tag and a digest.
pub fn bound_key(registry: &Registry, repository: &Repository, digest: &Digest, tag: &Tag) -> Vec<u8> {
    let mut key = bound_prefix(registry, repository, digest);
    key.extend_from_slice(tag.as_str().as_bytes());
    key
}

/// The tag in such a key, if it begins with what those of this digest begin with.
pub fn bound_tag(key: &[u8], prefix: &[u8]) -> Option<Tag> {
    std::str::from_utf8(key.strip_prefix(prefix)?).ok()?.parse().ok()
}

/// The tags that are or ever were bound to a digest, in byte order, and whether they are.
pub fn ever_bound(
    read: &(impl Read + ?Sized),
    registry: &Registry,
    repository: &Repository,
    digest: &Digest,
) -> Result<Vec<(Tag, bool)>, ReadError> {
    let prefix = bound_prefix(registry, repository, digest);
    let mut cursor = read.cursor(Table::Bound, &prefix);
    let mut tags = Vec::new();
    let mut row = cursor.seek(&prefix)?;
    while let Some((key, row_of_tag)) = row {
        let tag = bound_tag(key, &prefix).ok_or_else(|| damaged(Table::Bound, "a key does not end in a tag"))?;
        tags.push((
            tag,
            match row_of_tag {
                [BOUND] => true,
                [WAS_BOUND] => false,
                _ => return Err(damaged(Table::Bound, "a row is neither of a tag that is bound nor of one that was")),
            },
        ));
        row = cursor.next()?;
    }
    Ok(tags)
}

/// What the keys of all tags of a digest begin with. Names contain no NUL, so it separates them.
pub fn bound_prefix(registry: &Registry, repository: &Repository, digest: &Digest) -> Vec<u8> {
    [registry.as_str(), repository.as_str(), digest.as_str(), ""].join("\0").into_bytes()
}

// Event ids.

/// Writes where an event id was first used.
pub fn put_event(batch: &mut Batch, key: &[u8], event: &Event) {
    batch.put(Table::Events, key, encode(event));
}

/// Where an event id was first used.
pub fn event(read: &(impl Read + ?Sized), key: &[u8]) -> Result<Option<Event>, ReadError> {
    read.get(Table::Events, key)?.map(|row| decode(Table::Events, &row)).transpose()
}

/// The key of a principal's event id. Neither contains control characters, so NUL separates them.
pub fn event_key(principal: &str, event_id: &str) -> Vec<u8> {
    [principal, event_id].join("\0").into_bytes()
}

// Places in words.

/// What a row is about, for people; `None` if no such key is ever written.
pub fn place(table: Table, key: &[u8]) -> Option<String> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    let subject = |bytes: &[u8]| format!("subject {}", hex::encode(bytes));
    let names = || std::str::from_utf8(key).ok().map(|text| text.split('\0').collect::<Vec<_>>());
    match table {
        Table::Meta => match key {
            KEY_FORMAT => Some("the format".to_owned()),
            KEY_ORIGIN => Some("the origin".to_owned()),
            KEY_HEAD => Some("the head: size, time and newest checkpoint".to_owned()),
            _ => None,
        },
        Table::Entries => Some(format!("entry {}", number(key)?)),
        Table::Leaves => (key.len() == 32).then(|| "the place of the entry with this leaf hash".to_owned()),
        Table::Nodes => log_tree::place(key),
        Table::Subjects => (key.len() == 32).then(|| subject(key)),
        Table::Histories => {
            let (key, version) = key.split_at_checked(32)?;
            Some(format!("version {} of {}", number(version)?, subject(key)))
        }
        Table::Bound => match names()?[..] {
            [registry, repository, digest, tag] => Some(format!("{registry}/{repository}:{tag} at {digest}")),
            _ => None,
        },
        Table::Events => match names()?[..] {
            [principal, event_id] => Some(format!("event id {event_id:?} of {principal:?}")),
            _ => None,
        },
    }
}

/// The index in a key of the table of entries.
pub fn index_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn number(table: Table, bytes: &[u8]) -> Result<u64, ReadError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged(table, "a row is not a number"))
}

/// The rows under a prefix and the numbers of a range, which must all be there.
fn consecutive<T>(
    read: &(impl Read + ?Sized),
    (table, what): (Table, &str),
    prefix: &[u8],
    range: Range<u64>,
    value: impl Fn(u64, &[u8]) -> Option<T>,
) -> Result<Vec<T>, ReadError> {
    let mut found = Vec::new();
    if range.is_empty() {
        return Ok(found);
    }
    let key = |number: u64| [prefix, &number.to_be_bytes()].concat();
    let mut cursor = read.cursor(table, prefix);
    let mut row = cursor.seek(&key(range.start))?;
    for number in range {
        let here = row.filter(|(found, _)| **found == *key(number)).and_then(|(_, row)| value(number, row));
        found.push(here.ok_or_else(|| damaged(table, format!("{what} {number} is missing or broken")))?);
        row = cursor.next()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::little_ledger::{LittleLedger, push};
    use crate::store::memory::MemoryStore;
    use crate::store::{Store, Table};

    #[test]
    fn a_subject_is_read_as_it_was_written() {
        let digests = [format!("sha256:{}", "0123456789abcdef".repeat(4)), format!("sha512:{}", "f0".repeat(64))];
        let bindings = digests.iter().map(|text| text.parse::<Digest>().expect("a digest")).flat_map(|digest| {
            [Binding::Bound { digest: digest.clone(), set_by: 7 }, Binding::Unbound { last: digest, set_by: u64::MAX }]
        });
        let mut ledger = LittleLedger::new("ledger.example", 1);
        let index = ledger.record(push("v1", 'a', crate::proto::Disposition::Intended));
        let intent = ledger.entry(index);
        let mut history = Tree::default();
        for (number, binding) in (0..).zip(std::iter::once(Binding::Never).chain(bindings)) {
            history.append([number; 32], |_| {});
            let (store, mut batch, key) = (MemoryStore::default(), Batch::default(), SubjectKey([number; 32]));
            // Some held, each way.
            let aims = [None, binding.digest().cloned().map(Aim::Push), Some(Aim::Delete), Some(Aim::DeleteManifest)];
            let index = u64::from(number) << 40;
            let hold = aims[usize::from(number) % 4].clone().map(|aim| Hold { index, by: "ci".into(), aim });
            let row = SubjectRow { history: history.clone(), binding, hold };
            put_subject(&mut batch, &key, &row);
            let bytes = batch.changes().next().and_then(|change| change.value).expect("written").to_vec();
            // Whose intent it is stands in its entry.
            put_entry(&mut batch, index, &[number; 32], &intent);
            store.commit(0, batch).expect("stored");
            assert_eq!(subject(&store, &key), Ok(row));
            assert_eq!(count(&store, &key), Ok(u64::from(number) + 1));
            let leaf = StoredLeaves::new(&store).all()().expect("read").expect("one");
            assert_eq!((leaf.key, leaf.count, leaf.root), (key, history.size(), history.root()));
            // Cut short anywhere, or longer, it is damage.
            for length in 0..=bytes.len() {
                let mut broken = bytes[..length].to_vec();
                if length == bytes.len() {
                    broken.push(0);
                }
                let mut batch = Batch::default();
                batch.put(Table::Subjects, key.0, broken);
                store.commit(0, batch).expect("stored");
                assert!(matches!(subject(&store, &key), Err(ReadError::Damaged { .. })), "{length} bytes");
            }
        }
    }

    #[test]
    fn an_entry_of_a_history_has_the_subtrees_it_completes_and_no_others() {
        let (key, row) = (SubjectKey([1; 32]), Version { index: 300, recorded_at_us: 1 << 50, effective: 7 });
        // 7 completes three: pairs of two, four and eight.
        for (number, expected) in [(6, 0), (7, 3)] {
            for count in 0..5usize {
                let (store, mut batch) = (MemoryStore::default(), Batch::default());
                put_version(&mut batch, &key, number, &row, &vec![[9; 32]; count]);
                store.commit(0, batch).expect("stored");
                let found = version(&store, &key, number);
                assert_eq!(found.is_ok(), count == expected, "{number} with {count}: {found:?}");
                assert_eq!(versions(&store, &key, number..number + 1).is_ok(), count == expected);
            }
        }
    }

    #[test]
    fn leaves_are_those_under_a_path_whatever_its_depth() {
        let (store, mut batch) = (MemoryStore::default(), Batch::default());
        let mut history = Tree::default();
        history.append([1; 32], |_| {});
        // Keys that differ early, late, and in the last bit.
        let keys: Vec<SubjectKey> = (0..=255u8)
            .flat_map(|byte| {
                let mut late = SubjectKey([byte; 32]);
                late.0[31] ^= 1;
                [SubjectKey([byte; 32]), late]
            })
            .collect();
        keys.iter().for_each(|key| {
            put_subject(&mut batch, key, &SubjectRow { history: history.clone(), binding: Binding::Never, hold: None });
        });
        store.commit(0, batch).expect("stored");
        let leaves = StoredLeaves::new(&store);
        for path in &keys {
            for depth in (0..20).chain(245..=256) {
                let mut expected: Vec<SubjectKey> =
                    keys.iter().filter(|key| key.shares(path, depth)).copied().collect();
                expected.sort();
                let found = leaves.under(path, depth).expect("read");
                assert_eq!(found.iter().map(|leaf| leaf.key).collect::<Vec<_>>(), expected, "{path:?} at {depth}");
            }
        }
    }
}
