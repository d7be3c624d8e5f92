//! Subject proofs: what a commitment says of one subject, all the way down to entries.
//!
//! Three proofs on top of each other: the map root of the commitment that closes a checkpoint gives count and root of the
//! subject's history ([`MapProof`]), or that there is none; the history's root gives leaves ([`verify_multi`]); a leaf gives
//! an entry by index and hash, and that entry is in the log ([`VerifiedEntries`]) and names the subject with that version.
//! What follows from it for a question is left to [`super::answer`].

use std::collections::BTreeMap;

use super::entry::Body;
use super::evidence::{EvidenceError, VerifiedEntries, VerifiedEntry, hashes};
use super::history::history_leaf;
use super::map::{Leaf, MapProof, MapProofError, Terminal};
use super::merkle::Hash;
use super::merkle::multi::verify_multi;
use super::merkle::proof::ProofError;
use super::subject::{SubjectKey, named_by};
use crate::proto;
use crate::proto::subject_proof::Terminal as WireTerminal;

/// What is proven of one subject as of one commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenSubject {
    /// Which subject.
    pub key: SubjectKey,
    /// Number of entries in its history; 0: it never occurred.
    pub count: u64,
    /// Root of its history; none: it never occurred.
    pub root: Option<Hash>,
    /// Some of its entries, by version.
    pub versions: BTreeMap<u64, ProvenVersion>,
}

/// A leaf of a history. Its entry is in the log and names the subject with this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenVersion {
    /// Position in the log.
    pub index: u64,
    /// The ledger's clock.
    pub recorded_at_us: u64,
    /// 1 + index of the entry that set the state in force after this one; 0: none.
    pub effective: u64,
}

/// Why a subject proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectProofError {
    /// Not a key or a hash.
    #[error("{what} has {length} bytes, not 32")]
    Length {
        /// Which part.
        what: &'static str,
        /// What it has.
        length: usize,
    },
    /// The path ends in nothing that a path can end in.
    #[error("it does not say what its path ends in")]
    NoTerminal,
    /// The map says something else.
    #[error(transparent)]
    Map(#[from] MapProofError),
    /// The leaves are not in the history.
    #[error("the versions are not proven to be in the history of {count}: {error}")]
    History {
        /// Number of entries in the history.
        count: u64,
        /// Why.
        error: ProofError,
    },
    /// A leaf's entry is not shown.
    #[error("entry {index}, version {version} of the history, is not in the evidence")]
    MissingEntry {
        /// Position in the log.
        index: u64,
        /// Position in the history.
        version: u64,
    },
    /// The ledger put an entry into a history that it does not belong to: a proof of misbehaviour.
    #[error(
        "entry {index} stands in the history as version {version}, but does not say so: the ledger contradicts itself"
    )]
    Foreign {
        /// Position in the log.
        index: u64,
        /// Position in the history.
        version: u64,
    },
    /// An entry stands in a history that the commitment could not know.
    #[error("entry {index} stands in a history, but does not lie before the commitment, entry {commitment}")]
    AfterCommitment {
        /// Position in the log.
        index: u64,
        /// Position of the commitment.
        commitment: u64,
    },
    /// Entries of a history in another order than the log's: a proof of misbehaviour.
    #[error("version {version} of the history, entry {index}, does not come after the version before it")]
    Order {
        /// Position in the history.
        version: u64,
        /// Position in the log.
        index: u64,
    },
    /// A hash of a proof is none.
    #[error(transparent)]
    Hash(#[from] Box<EvidenceError>),
}

/// What a subject proof claims about the map, before anything is checked.
pub fn map_proof(proof: &proto::SubjectProof) -> Result<(SubjectKey, MapProof), SubjectProofError> {
    let key = SubjectKey(hash("its key", &proof.key)?);
    let siblings = hashes(&proof.siblings).map_err(Box::new)?;
    let terminal = match &proof.terminal {
        Some(WireTerminal::History(history)) => {
            Terminal::Own { count: history.count, root: hash("the root of its history", &history.root)? }
        }
        Some(WireTerminal::Other(other)) => Terminal::Other(Leaf {
            key: SubjectKey(hash("the key of the other leaf", &other.key)?),
            count: other.count,
            root: hash("the root of the other leaf", &other.root)?,
        }),
        Some(WireTerminal::Empty(proto::EmptySubtree {})) => Terminal::Empty,
        None => return Err(SubjectProofError::NoTerminal),
    };
    Ok((key, MapProof { siblings, terminal }))
}

/// Checks a subject proof under the map root of the commitment at index `commitment`. `entries` are of the same log.
pub fn verify_subject(
    proof: &proto::SubjectProof,
    map_root: &Hash,
    commitment: u64,
    entries: &VerifiedEntries,
) -> Result<ProvenSubject, SubjectProofError> {
    let (key, map) = map_proof(proof)?;
    map.verify(&key, map_root)?;
    let Some(WireTerminal::History(history)) = &proof.terminal else {
        return Ok(ProvenSubject { key, count: 0, root: None, versions: BTreeMap::new() });
    };
    let (count, root) = map.history().expect("its own leaf");
    let mut shown = Vec::with_capacity(history.leaves.len());
    for &proto::HistoryLeaf { version, index, effective } in &history.leaves {
        let entry = entries.get(index).ok_or(SubjectProofError::MissingEntry { index, version })?;
        shown.push((version, index, effective, entry));
    }
    let leaf = |(version, index, effective, entry): &(u64, u64, u64, &VerifiedEntry)| {
        (*version, history_leaf(*index, &entry.hash, *effective))
    };
    let leaves: Vec<(u64, Hash)> = shown.iter().map(leaf).collect();
    let hashes = hashes(&history.proof).map_err(Box::new)?;
    let checked = match (leaves.is_empty(), hashes.len()) {
        (true, 0) => Ok(()),
        (true, found) => Err(ProofError::Length { found, expected: 0 }),
        (false, _) => verify_multi(&leaves, count, &hashes, &root),
    };
    checked.map_err(|error| SubjectProofError::History { count, error })?;
    // From here on the leaves are the ledger's own: what is wrong with them, it signed. Before, anybody may have made them up.
    let mut versions = BTreeMap::new();
    let mut last_index = None;
    for (version, index, effective, entry) in shown {
        if index >= commitment {
            return Err(SubjectProofError::AfterCommitment { index, commitment });
        }
        if !names(&entry.body, &key, version) {
            return Err(SubjectProofError::Foreign { index, version });
        }
        if last_index.is_some_and(|last| index <= last) {
            return Err(SubjectProofError::Order { version, index });
        }
        last_index = Some(index);
        let recorded_at_us = entry.body.recorded_at_us();
        versions.insert(version, ProvenVersion { index, recorded_at_us, effective });
    }
    Ok(ProvenSubject { key, count, root: Some(root), versions })
}

/// Whether an entry says of itself that it is this version of this subject.
fn names(body: &Body, key: &SubjectKey, version: u64) -> bool {
    let Body::Record(record, statement) = body else { return false };
    let mut named = record.subjects.iter().filter(|reference| reference.version == version);
    named.any(|reference| named_by(statement, reference).is_some_and(|subject| subject.key() == *key))
}

fn hash(what: &'static str, bytes: &[u8]) -> Result<Hash, SubjectProofError> {
    bytes.try_into().map_err(|_| SubjectProofError::Length { what, length: bytes.len() })
}
