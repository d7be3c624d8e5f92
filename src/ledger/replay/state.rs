//! A replay saved, so that the next audit goes on where this one ended.
//!
//! ```text
//! tagledger audit state 3\n
//! header, one line of JSON\n
//! each subject, by rising key:   key (32) || u64 BE count || its history's right edge (32 for each bit of count)
//!                                || 0: never bound
//!                                   or 1 bound, 2 unbound || u8 length || digest || u64 BE set by
//!                                || 0: not held
//!                                   or 1 by a push || u64 BE intent || u8 length || its principal || u8 length || digest
//!                                   or 2 by a delete, 3 by that of a manifest || u64 BE intent || u8 length || its principal
//! each tag ever bound, rising:    place (32) || u8 length || tag || 1 if it is bound, 0 if it was
//! each event id in use, rising:  hash (32)
//! each principal, by name:       u32 BE length || the encoded change that made it what it is
//! SHA-256 of all before (32)
//! ```
//!
//! A state says what its maker's audit found; nobody else can check that without the log. So trust one only as far as whoever
//! made and kept it. What can be checked is: that no byte changed by accident; that it fits the pinned key; that the last entry
//! it covers is a commitment signed by the ledger to just these histories of just these subjects; and that the ledger signed
//! the checkpoint it was made under. Whoever goes on from it has yet to check that its root is that of a prefix of the log.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::sync::Arc;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::subjects::{Row, Subjects};
use super::{Counts, Replay};
use crate::ledger::checkpoint::{Checkpoint, CheckpointError};
use crate::ledger::entry::{Body, EntryError, SignedEntry};
use crate::ledger::hold::{Aim, Hold};
use crate::ledger::keys::{Chain, Keys};
use crate::ledger::map::Top;
use crate::ledger::merkle::{Hash, Tree};
use crate::ledger::names::{Digest, Tag};
use crate::ledger::policy::{Policy, PolicyError};
use crate::ledger::principals::{Change, Principals};
use crate::ledger::statement::MAX_STATEMENT_LENGTH;
use crate::ledger::subject::SubjectKey;
use crate::ledger::transition::Binding;
use crate::proto;

const MAGIC: &str = "tagledger audit state 3";
/// Longest header: a policy, a note, an entry, and the rest.
const MAX_HEADER_LENGTH: u64 = 512 * 1024;

/// Why a state can't be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else, or by another version.
    #[error("it is not the state of an audit that this version understands")]
    Magic,
    /// Cut short or changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Of another log.
    #[error("it is of the log {found}, and the log of {expected} does not begin so")]
    OtherLog {
        /// Its key.
        found: String,
        /// The pinned key.
        expected: String,
    },
    /// The checkpoint in it.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The commitment in it.
    #[error("its last commitment: {0}")]
    Commitment(#[from] EntryError),
    /// The policy in it.
    #[error("its policy: {0}")]
    Policy(#[from] PolicyError),
    /// The subjects in it are not those that the ledger committed to.
    #[error("the histories in it are not those that the ledger committed to in entry {index}")]
    OtherMap {
        /// The commitment.
        index: u64,
    },
}

/// What the first lines say: enough to tell states apart without reading them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The first key of the log.
    pub vkey: String,
    /// Those that followed it, and the first entry of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    later_keys: Vec<(String, u64)>,
    /// Number of entries replayed.
    pub size: u64,
    /// The right edge of the log's tree over them, in hexadecimal, largest subtree first.
    edge: Vec<String>,
    /// The checkpoint that the audit went, or was going, up to.
    pub checkpoint: String,
    /// The last entry, a commitment, in hexadecimal.
    commitment: String,
    /// Text of the policy in force.
    policy: String,
    counts: Counts,
    subjects: u64,
    bound: u64,
    events: u64,
    principals: u64,
}

/// A state that was read.
pub struct Loaded {
    /// Ready for the next entry.
    pub replay: Replay,
    /// The checkpoint that the audit went, or was going, up to, as signed.
    pub note: String,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// Saves a replay whose last entry is a commitment, with the checkpoint that its audit goes up to.
///
/// Panics if it is another: there is nothing yet that the ledger committed to.
pub fn save(replay: &Replay, note: &str, to: impl Write) -> io::Result<()> {
    let commitment = replay.closed_by.as_ref().expect("only a closed replay is saved");
    let Subjects { rows, bound, principals, .. } = &replay.subjects;
    let header = Header {
        vkey: replay.keys.first().to_string(),
        later_keys: keys_of(&replay.keys),
        size: replay.size(),
        edge: replay.log.edge().map(|node| hex::encode(node.hash)).collect(),
        checkpoint: note.to_owned(),
        commitment: hex::encode(commitment),
        policy: replay.policy.text().to_owned(),
        counts: replay.counts,
        subjects: replay.top.size(),
        bound: count(bound.len()),
        events: count(replay.events.len()),
        principals: count(principals.len()),
    };
    let mut out = Hashing { inner: io::BufWriter::new(to), hash: Sha256::new() };
    writeln!(out, "{MAGIC}")?;
    serde_json::to_writer(&mut out, &header)?;
    writeln!(out)?;
    for (key, row) in rows {
        put_row(&mut out, key, row)?;
    }
    for ((place, tag), is_bound) in bound {
        out.write_all(place)?;
        put_short(&mut out, tag.as_bytes())?;
        out.write_all(&[u8::from(*is_bound)])?;
    }
    let mut events: Vec<&Hash> = replay.events.iter().collect();
    events.sort_unstable();
    for event in events {
        out.write_all(event)?;
    }
    for change in principals.changes() {
        out.write_all(&u32::try_from(change.len()).expect("a statement is short").to_be_bytes())?;
        out.write_all(change)?;
    }
    let Hashing { mut inner, hash } = out;
    inner.write_all(&hash.finalize())?;
    inner.flush()
}

/// Only the header of a state. It is not checked.
pub fn header(from: impl Read) -> Result<Header, StateError> {
    read_header(&mut io::BufReader::new(from))
}

/// Reads a state of the log with these keys, and checks what can be checked of it.
pub fn load(from: impl Read, keys: &impl Keys) -> Result<Loaded, StateError> {
    let mut from = Hashing { inner: io::BufReader::new(from), hash: Sha256::new() };
    let header = read_header(&mut from)?;
    let own = known(&header, keys).ok_or_else(|| {
        let found = header.later_keys.last().map_or(&header.vkey, |(vkey, _)| vkey).clone();
        StateError::OtherLog { found, expected: keys.newest().to_string() }
    })?;
    let checkpoint = Checkpoint::open(&header.checkpoint, keys)?;
    let commitment =
        hex::decode(&header.commitment).map_err(|_| StateError::Damaged("its last entry is no commitment"))?;
    let policy = Policy::parse(&header.policy)?;
    let log = read_log(&header)?;
    let mut replay = Replay { log, policy, counts: header.counts, ..Replay::new(keys.first().clone()) };
    replay.keys = own;
    for _ in 0..header.subjects {
        let (key, row) = read_row(&mut from)?;
        if replay.subjects.rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(StateError::Damaged("its subjects do not rise"));
        }
        replay.subjects.rows.insert(key, row);
    }
    for _ in 0..header.bound {
        let place = array(&mut from)?;
        let tag = String::from_utf8(short(&mut from)?).ok().filter(|tag| tag.parse::<Tag>().is_ok());
        let tag = tag.ok_or(StateError::Damaged("a tag in it is none"))?;
        let is_bound = match array(&mut from)? {
            [0] => false,
            [1] => true,
            _ => return Err(StateError::Damaged("a tag in it is neither bound nor was")),
        };
        replay.subjects.bound.insert((place, tag.into_boxed_str()), is_bound);
    }
    for _ in 0..header.events {
        replay.events.insert(array(&mut from)?);
    }
    let changes = (0..header.principals).map(|_| read_change(&mut from)).collect::<Result<Vec<_>, _>>()?;
    let principals = Principals::of_changes(changes);
    replay.subjects.principals = Arc::new(principals.ok_or(StateError::Damaged("its principals are none"))?);
    let Hashing { mut inner, hash } = from;
    let expected: Hash = hash.finalize().into();
    if array::<32>(&mut inner)? != expected {
        return Err(StateError::Damaged("its checksum is that of another content"));
    }
    if inner.read(&mut [0])? != 0 {
        return Err(StateError::Damaged("something follows it"));
    }
    close(&mut replay, commitment)?;
    if checkpoint.size < replay.size() || (checkpoint.size == replay.size() && checkpoint.root != replay.root()) {
        return Err(StateError::Damaged("its checkpoint is not over what it covers"));
    }
    Ok(Loaded { replay, note: header.checkpoint, checkpoint })
}

/// The later keys of a chain, as the header has them.
fn keys_of(keys: &Chain) -> Vec<(String, u64)> {
    keys.later().iter().map(|link| (link.vkey.to_string(), link.from)).collect()
}

/// The keys of a state, if those that are known begin with them.
fn known(header: &Header, keys: &impl Keys) -> Option<Chain> {
    let mut chain = keys.to_chain();
    chain.cut(header.later_keys.len());
    (header.vkey == chain.first().to_string() && header.later_keys == keys_of(&chain)).then_some(chain)
}

/// Holds the subjects against the commitment that the ledger signed over them.
fn close(replay: &mut Replay, bytes: Vec<u8>) -> Result<(), StateError> {
    let entry = SignedEntry::decode(&bytes)?;
    entry.verify(replay.keys.of_entry(entry.body.index()))?;
    let Body::Commitment(commitment) = entry.body else {
        return Err(StateError::Damaged("its last entry is no commitment"));
    };
    let index = commitment.index;
    let top = {
        let mut leaves = replay.subjects.leaves();
        Top::load(|| Ok::<_, Infallible>(leaves.next().map(|leaf| leaf.hashed())))
            .unwrap_or_else(|never| match never {})
    };
    if index.checked_add(1) != Some(replay.size()) {
        return Err(StateError::Damaged("its commitment is not its last entry"));
    }
    if (top.root().as_slice(), top.size()) != (commitment.map_root.as_slice(), commitment.map_size) {
        return Err(StateError::OtherMap { index });
    }
    replay.top = top;
    replay.last_time_us = commitment.recorded_at_us;
    replay.closed_by = Some(bytes);
    Ok(())
}

fn read_log(header: &Header) -> Result<Tree, StateError> {
    let hash = |text: &String| hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    let edge: Option<Vec<Hash>> = header.edge.iter().map(hash).collect();
    edge.and_then(|edge| Tree::from_edge(header.size, edge))
        .ok_or(StateError::Damaged("its tree does not fit its size"))
}

fn read_header(from: &mut impl Read) -> Result<Header, StateError> {
    if line(from, MAGIC.len() + 1)?.as_deref() != Some(MAGIC.as_bytes()) {
        return Err(StateError::Magic);
    }
    let limit = usize::try_from(MAX_HEADER_LENGTH).expect("small");
    let header = line(from, limit)?.ok_or(StateError::Damaged("its header is too long"))?;
    serde_json::from_slice(&header).map_err(|_| StateError::Damaged("its header is none"))
}

/// A line without its end; `None` if it is longer than `limit`.
fn line(from: &mut impl Read, limit: usize) -> Result<Option<Vec<u8>>, StateError> {
    let mut line = Vec::new();
    while line.len() < limit {
        let [byte] = array(from)?;
        if byte == b'\n' {
            return Ok(Some(line));
        }
        line.push(byte);
    }
    Ok(None)
}

fn put_row(out: &mut impl Write, key: &SubjectKey, row: &Row) -> io::Result<()> {
    out.write_all(&key.0)?;
    out.write_all(&row.count.to_be_bytes())?;
    out.write_all(row.edge.as_flattened())?;
    put_binding(out, row.binding.as_deref())?;
    put_hold(out, row.hold.as_deref())
}

fn put_binding(out: &mut impl Write, binding: Option<&Binding>) -> io::Result<()> {
    let (kind, digest, set_by) = match binding {
        None | Some(Binding::Never) => return out.write_all(&[0]),
        Some(Binding::Bound { digest, set_by }) => (1, digest, set_by),
        Some(Binding::Unbound { last, set_by }) => (2, last, set_by),
    };
    out.write_all(&[kind])?;
    put_digest(out, digest)?;
    out.write_all(&set_by.to_be_bytes())
}

fn put_hold(out: &mut impl Write, hold: Option<&Hold>) -> io::Result<()> {
    let Some(Hold { index, by, aim }) = hold else { return out.write_all(&[0]) };
    out.write_all(&[match aim {
        Aim::Push(_) => 1,
        Aim::Delete => 2,
        Aim::DeleteManifest => 3,
    }])?;
    out.write_all(&index.to_be_bytes())?;
    put_short(out, by.as_bytes())?;
    if let Aim::Push(digest) = aim { put_digest(out, digest) } else { Ok(()) }
}

fn put_digest(out: &mut impl Write, digest: &Digest) -> io::Result<()> {
    let (_, digits) = digest.as_str().split_once(':').expect("a digest has an algorithm");
    put_short(out, &hex::decode(digits).expect("a digest is in hexadecimal"))
}

fn read_row(from: &mut impl Read) -> Result<(SubjectKey, Row), StateError> {
    let key = SubjectKey(array(from)?);
    let count = u64::from_be_bytes(array(from)?);
    if count == 0 {
        return Err(StateError::Damaged("a subject in it has no entries"));
    }
    let edge = (0..count.count_ones()).map(|_| array(from)).collect::<Result<_, _>>()?;
    let binding = read_binding(from)?.map(Box::new);
    let hold = read_hold(from)?.map(Box::new);
    Ok((key, Row { count, edge, binding, hold }))
}

fn read_binding(from: &mut impl Read) -> Result<Option<Binding>, StateError> {
    let [kind] = array(from)?;
    if kind == 0 {
        return Ok(None);
    }
    let digest = digest(&short(from)?)?;
    let set_by = u64::from_be_bytes(array(from)?);
    match kind {
        1 => Ok(Some(Binding::Bound { digest, set_by })),
        2 => Ok(Some(Binding::Unbound { last: digest, set_by })),
        _ => Err(StateError::Damaged("a binding in it is none")),
    }
}

fn read_hold(from: &mut impl Read) -> Result<Option<Hold>, StateError> {
    let [kind] = array(from)?;
    if kind == 0 {
        return Ok(None);
    }
    let index = u64::from_be_bytes(array(from)?);
    let by = String::from_utf8(short(from)?).map_err(|_| StateError::Damaged("a hold in it is nobody's"))?;
    let aim = match kind {
        1 => Aim::Push(digest(&short(from)?)?),
        2 => Aim::Delete,
        3 => Aim::DeleteManifest,
        _ => return Err(StateError::Damaged("a hold in it is none")),
    };
    Ok(Some(Hold { index, by, aim }))
}

fn read_change(from: &mut impl Read) -> Result<Change, StateError> {
    let none = || StateError::Damaged("a principal in it is none");
    let length = usize::try_from(u32::from_be_bytes(array(from)?)).map_err(|_| none())?;
    if length > MAX_STATEMENT_LENGTH {
        return Err(none());
    }
    let mut bytes = vec![0; length];
    read_exact(from, &mut bytes)?;
    let message = proto::PrincipalChange::decode(bytes.as_slice()).map_err(|_| none())?;
    Change::parse(&message).ok().filter(|change| change.bytes() == bytes).ok_or_else(none)
}

/// The length tells the algorithm.
fn digest(bytes: &[u8]) -> Result<Digest, StateError> {
    let algorithm = if bytes.len() == 64 { "sha512" } else { "sha256" };
    format!("{algorithm}:{}", hex::encode(bytes)).parse().map_err(|_| StateError::Damaged("a digest in it is none"))
}

fn put_short(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&[u8::try_from(bytes.len()).expect("tags, digests and names are short")])?;
    out.write_all(bytes)
}

fn short(from: &mut impl Read) -> Result<Vec<u8>, StateError> {
    let [length] = array(from)?;
    let mut bytes = vec![0; usize::from(length)];
    read_exact(from, &mut bytes)?;
    Ok(bytes)
}

fn array<const N: usize>(from: &mut impl Read) -> Result<[u8; N], StateError> {
    let mut bytes = [0; N];
    read_exact(from, &mut bytes)?;
    Ok(bytes)
}

fn read_exact(from: &mut impl Read, bytes: &mut [u8]) -> Result<(), StateError> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StateError::Damaged("it is cut short"),
        _ => error.into(),
    })
}

fn count(length: usize) -> u64 {
    u64::try_from(length).expect("it is in memory")
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }
}
