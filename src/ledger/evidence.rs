//! Evidence: entries that are proven to be in the log of one ledger.
//!
//! [`verify`] is the only way to get [`VerifiedEntries`]; whoever holds one need not check again. It proves that the ledger
//! with the given key signed each entry, and that each is the leaf it claims to be in the tree of a checkpoint signed by the
//! same key. What the entries mean for a question is left to [`super::answer`]; which key to trust, to the caller.

use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::entry::{Body, EntryError, SignedEntry, entry_hash};
use super::keys::{Chain, Keys};
use super::merkle::Hash;
use super::merkle::hash::empty_root;
use super::merkle::multi::verify_multi;
use super::merkle::proof::{ProofError, verify_consistency};
use super::note::Vkey;
use crate::proto;

/// Why evidence does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The checkpoint is not one of this ledger.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// An entry is not one of this ledger.
    #[error("entry {index}: {error}")]
    Entry {
        /// Where it is said to be.
        index: u64,
        /// What is wrong with it.
        error: EntryError,
    },
    /// An entry was signed for another place in the log.
    #[error("entry {claimed} is in truth entry {signed}")]
    Index {
        /// Where it is said to be.
        claimed: u64,
        /// Where its signed bytes say it is.
        signed: u64,
    },
    /// An entry claims an earlier time than one before it, so "as of" would mean nothing.
    #[error("entry {index} was recorded at {time_us} us, not after the entries before it")]
    TimeNotRising {
        /// The later entry.
        index: u64,
        /// Its time.
        time_us: u64,
    },
    /// The last entry of a checkpoint is not the commitment that must close it.
    #[error("the checkpoint of size {size} does not end with a commitment")]
    NotClosed {
        /// Its size.
        size: u64,
    },
    /// Not a hash.
    #[error("hash {position} of the proof has {length} bytes, not 32")]
    HashLength {
        /// Position in the proof, from 0.
        position: usize,
        /// What it has.
        length: usize,
    },
    /// The entries are not the leaves of the checkpoint's tree.
    #[error("the entries are not proven to be in the log: {0}")]
    Proof(#[from] ProofError),
    /// Two checkpoints of the same key that cannot both belong to one append-only log.
    #[error(transparent)]
    Fork(#[from] ForkError),
}

/// Two checkpoints of one ledger that are not proven to be of one append-only log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForkError {
    /// The same size, and another root: a proof of misbehaviour by itself.
    #[error("two checkpoints of size {size} have different roots")]
    SameSize {
        /// The size.
        size: u64,
    },
    /// The older one is not proven to be a prefix of the newer one.
    #[error("the log of size {newer} is not proven to continue the log of size {older}: {error}")]
    NotAPrefix {
        /// Size of the older checkpoint.
        older: u64,
        /// Size of the newer checkpoint.
        newer: u64,
        /// Why the proof does not hold.
        error: ProofError,
    },
    /// A tree without leaves has one possible root, and this is another.
    #[error("a checkpoint of size 0 has a root that is not the empty tree's")]
    EmptyRoot,
}

/// Entries of one ledger, each signed by it and proven to be in the log that `checkpoint` stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedEntries {
    keys: Chain,
    note: String,
    checkpoint: Checkpoint,
    entries: BTreeMap<u64, VerifiedEntry>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedEntry {
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// The leaf hash of the bytes.
    pub hash: Hash,
    /// What they say.
    pub body: Body,
}

/// Checks evidence against the keys of the ledger it is said to come from.
pub fn verify(evidence: &proto::Evidence, keys: &impl Keys) -> Result<VerifiedEntries, EvidenceError> {
    let checkpoint = Checkpoint::open(&evidence.checkpoint, keys)?;
    let mut entries = BTreeMap::new();
    let mut leaves = Vec::with_capacity(evidence.entries.len());
    for claimed in &evidence.entries {
        let entry = verify_entry(claimed, keys)?;
        leaves.push((claimed.index, entry.hash));
        entries.insert(claimed.index, entry);
    }
    let proof = hashes(&evidence.proof)?;
    if leaves.is_empty() {
        // An answer without entries proves nothing but its checkpoint; then nothing may trail either.
        if let found @ 1.. = proof.len() {
            return Err(ProofError::Length { found, expected: 0 }.into());
        }
    } else {
        verify_multi(&leaves, checkpoint.size, &proof, &checkpoint.root)?;
    }
    let verified = VerifiedEntries { keys: keys.to_chain(), note: evidence.checkpoint.clone(), checkpoint, entries };
    verified.check_order()?;
    Ok(verified)
}

/// Checks that a ledger signed an entry for the place where it is said to be. Says nothing about the log.
pub fn verify_entry(claimed: &proto::LogEntry, keys: &impl Keys) -> Result<VerifiedEntry, EvidenceError> {
    let wrong = |error| EvidenceError::Entry { index: claimed.index, error };
    let entry = SignedEntry::decode(&claimed.entry).map_err(wrong)?;
    entry.verify(keys.of_entry(entry.body.index())).map_err(wrong)?;
    if entry.body.index() != claimed.index {
        return Err(EvidenceError::Index { claimed: claimed.index, signed: entry.body.index() });
    }
    Ok(VerifiedEntry { hash: entry_hash(&claimed.entry), bytes: claimed.entry.clone(), body: entry.body })
}

/// Checks that two checkpoints, in whatever order, are of one append-only log. `proof` is the consistency proof from the
/// smaller to the larger, empty where they are of the same size or the smaller one is empty.
pub fn check_same_log(one: &Checkpoint, other: &Checkpoint, proof: &[Hash]) -> Result<(), ForkError> {
    let (older, newer) = if one.size <= other.size { (one, other) } else { (other, one) };
    check_root(older)?;
    if older.size == newer.size && older.root != newer.root {
        return Err(ForkError::SameSize { size: older.size });
    }
    let checked = match older.size {
        // RFC 6962 has no proof from the empty tree: every tree continues it.
        0 if proof.is_empty() => Ok(()),
        0 => Err(ProofError::Length { found: proof.len(), expected: 0 }),
        first => verify_consistency(first, newer.size, &older.root, &newer.root, proof),
    };
    checked.map_err(|error| ForkError::NotAPrefix { older: older.size, newer: newer.size, error })
}

/// A tree without leaves has one possible root: SHA-256 of nothing. Any other is a lie that no proof would find, for every
/// log continues the empty one.
pub fn check_root(checkpoint: &Checkpoint) -> Result<(), ForkError> {
    if checkpoint.size == 0 && checkpoint.root != empty_root() { Err(ForkError::EmptyRoot) } else { Ok(()) }
}

/// The hashes of a proof, from their wire form.
pub fn hashes(proof: &[Vec<u8>]) -> Result<Vec<Hash>, EvidenceError> {
    let hash = |(position, bytes): (usize, &Vec<u8>)| {
        let length = bytes.len();
        bytes.as_slice().try_into().map_err(|_| EvidenceError::HashLength { position, length })
    };
    proof.iter().enumerate().map(hash).collect()
}

impl VerifiedEntries {
    /// The keys that everything is signed by.
    pub fn keys(&self) -> &Chain {
        &self.keys
    }

    /// The key in force at the end of the log.
    pub fn vkey(&self) -> &Vkey {
        self.keys.of_entry(self.checkpoint.size.saturating_sub(1))
    }

    /// The signed checkpoint as it came.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The log that the entries are in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The entry at an index, if it is among them.
    pub fn get(&self, index: u64) -> Option<&VerifiedEntry> {
        self.entries.get(&index)
    }

    /// All of them, by rising index.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, &VerifiedEntry)> {
        self.entries.iter().map(|(index, entry)| (*index, entry))
    }

    /// When the checkpoint's last entry was recorded, if that entry is among them.
    pub fn closed_at_us(&self) -> Option<u64> {
        self.get(self.checkpoint.size.checked_sub(1)?).map(|entry| entry.body.recorded_at_us())
    }

    /// Puts two sets together, as of the larger checkpoint, once `proof` shows that both are of one log.
    pub fn join(mut self, mut other: Self, proof: &[Hash]) -> Result<Self, EvidenceError> {
        check_same_log(&self.checkpoint, &other.checkpoint, proof)?;
        if self.checkpoint.size < other.checkpoint.size {
            std::mem::swap(&mut self, &mut other);
        }
        self.entries.append(&mut other.entries);
        self.check_order()?;
        Ok(self)
    }

    fn check_order(&self) -> Result<(), EvidenceError> {
        check_root(&self.checkpoint)?;
        let mut last_us = None;
        for (index, entry) in self.iter() {
            let time_us = entry.body.recorded_at_us();
            if last_us.is_some_and(|last_us| time_us <= last_us) {
                return Err(EvidenceError::TimeNotRising { index, time_us });
            }
            last_us = Some(time_us);
            // DESIGN: the last leaf of a checkpoint is always a commitment.
            if index + 1 == self.checkpoint.size && matches!(entry.body, Body::Record(..)) {
                return Err(EvidenceError::NotClosed { size: self.checkpoint.size });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::little_ledger::{LittleLedger, push};
    use crate::proto::Disposition::Happened;

    fn ledger() -> LittleLedger {
        let mut ledger = LittleLedger::new("ledger.example", 1);
        for digit in "0123456789".chars() {
            ledger.record(push("latest", digit, Happened));
        }
        ledger
    }

    #[test]
    fn honest_evidence_verifies_for_every_pair_of_entries() {
        let ledger = ledger();
        for one in 0..ledger.size() {
            for other in one..ledger.size() {
                let verified = verify(&ledger.evidence(&[one, other]), &ledger.skey.vkey()).expect("honest");
                assert!(verified.get(one).is_some() && verified.get(other).is_some());
                assert_eq!(verified.checkpoint().size, ledger.size());
            }
        }
    }

    #[test]
    fn every_changed_missing_or_added_hash_is_refused() {
        let (ledger, indexes) = (ledger(), [2, 7, 8, 13]);
        let (honest, vkey) = (ledger.evidence(&indexes), ledger.skey.vkey());
        for position in 0..honest.proof.len() {
            for byte in 0..32 {
                let mut changed = honest.clone();
                changed.proof[position][byte] ^= 1;
                assert_eq!(verify(&changed, &vkey), Err(ProofError::Root.into()), "hash {position} byte {byte}");
            }
            let mut dropped = honest.clone();
            dropped.proof.remove(position);
            assert!(matches!(verify(&dropped, &vkey), Err(EvidenceError::Proof(ProofError::Length { .. }))));
            let mut added = honest.clone();
            added.proof.insert(position, vec![0; 32]);
            assert!(matches!(verify(&added, &vkey), Err(EvidenceError::Proof(ProofError::Length { .. }))));
            let mut cut = honest.clone();
            cut.proof[position].pop();
            assert_eq!(verify(&cut, &vkey), Err(EvidenceError::HashLength { position, length: 31 }));
        }
    }

    #[test]
    fn every_changed_byte_of_an_entry_is_refused() {
        let (ledger, vkey) = (ledger(), ledger().skey.vkey());
        let honest = ledger.evidence(&[4]);
        for byte in 0..honest.entries[0].entry.len() {
            let mut changed = honest.clone();
            changed.entries[0].entry[byte] ^= 1;
            assert!(matches!(verify(&changed, &vkey), Err(EvidenceError::Entry { index: 4, .. })), "byte {byte}");
        }
    }

    #[test]
    fn entries_in_other_places_are_refused() {
        let (ledger, vkey) = (ledger(), ledger().skey.vkey());
        let honest = ledger.evidence(&[4, 6]);
        let mut swapped = honest.clone();
        swapped.entries.swap(0, 1);
        assert_eq!(verify(&swapped, &vkey), Err(ProofError::Leaves.into()));
        let mut exchanged = honest.clone();
        exchanged.entries[0].entry = honest.entries[1].entry.clone();
        assert_eq!(verify(&exchanged, &vkey), Err(EvidenceError::Index { claimed: 4, signed: 6 }));
        let mut twice = honest.clone();
        twice.entries.insert(0, honest.entries[0].clone());
        assert_eq!(verify(&twice, &vkey), Err(ProofError::Leaves.into()));
        let mut dropped = honest.clone();
        dropped.entries.remove(1);
        assert!(matches!(verify(&dropped, &vkey), Err(EvidenceError::Proof(_))));
        let mut added = honest.clone();
        added.entries.insert(1, proto::LogEntry { index: 5, entry: ledger.entry(5) });
        assert!(matches!(verify(&added, &vkey), Err(EvidenceError::Proof(_))));
        let none = proto::Evidence { entries: Vec::new(), ..honest };
        assert!(matches!(verify(&none, &vkey), Err(EvidenceError::Proof(ProofError::Length { expected: 0, .. }))));
    }

    #[test]
    fn entries_of_another_ledger_are_refused_even_where_the_log_has_them() {
        let (mut ledger, other) = (ledger(), LittleLedger::new("ledger.example", 2));
        let foreign =
            proto::Commitment { index: ledger.size(), recorded_at_us: u64::MAX, map_root: vec![0; 32], map_size: 0 };
        ledger.append(crate::ledger::entry::sign_commitment(&foreign, &other.skey));
        let evidence = ledger.evidence(&[foreign.index]);
        assert!(matches!(verify(&evidence, &ledger.skey.vkey()), Err(EvidenceError::Entry { .. })));
        assert!(matches!(verify(&evidence, &other.skey.vkey()), Err(EvidenceError::Checkpoint(_))));
        let renamed = LittleLedger::new("other.example", 1);
        assert!(matches!(verify(&evidence, &renamed.skey.vkey()), Err(EvidenceError::Checkpoint(_))));
    }

    #[test]
    fn a_log_whose_times_do_not_rise_or_that_ends_in_a_record_is_refused() {
        let mut ledger = ledger();
        let early = proto::Commitment { index: ledger.size(), recorded_at_us: 1, map_root: vec![0; 32], map_size: 0 };
        ledger.append(crate::ledger::entry::sign_commitment(&early, &ledger.skey));
        let evidence = ledger.evidence(&[3, early.index]);
        let error = EvidenceError::TimeNotRising { index: early.index, time_us: 1 };
        assert_eq!(verify(&evidence, &ledger.skey.vkey()), Err(error));
        // Entry 2 is a record: no checkpoint may end there.
        let open = ledger.evidence_at(&[2], 3);
        assert_eq!(verify(&open, &ledger.skey.vkey()), Err(EvidenceError::NotClosed { size: 3 }));
    }

    #[test]
    fn sets_join_only_with_proof_that_both_are_of_one_log() {
        let (ledger, vkey) = (ledger(), ledger().skey.vkey());
        let at = |size: u64, indexes: &[u64]| verify(&ledger.evidence_at(indexes, size), &vkey).expect("honest");
        let proof = ledger.consistency(8, 20);
        for (one, other) in [(at(8, &[2]), at(20, &[9])), (at(20, &[9]), at(8, &[2]))] {
            let joined = one.clone().join(other.clone(), &proof).expect("of one log");
            assert_eq!((joined.checkpoint().size, joined.iter().len()), (20, 2));
            assert!(one.clone().join(other.clone(), &[]).is_err());
            assert!(one.clone().join(other.clone(), &proof[1..]).is_err());
            for position in 0..proof.len() {
                let mut changed = proof.clone();
                changed[position][0] ^= 1;
                assert!(one.clone().join(other.clone(), &changed).is_err(), "hash {position}");
            }
        }
        assert!(at(8, &[2]).join(at(8, &[4]), &[]).is_ok());
    }

    #[test]
    fn two_roots_of_one_size_are_a_fork() {
        let (one, mut other) = (ledger(), LittleLedger::new("ledger.example", 1));
        while other.size() < one.size() {
            other.commit();
        }
        let (one, other) = (one.checkpoint_at(one.size()), other.checkpoint_at(one.size()));
        assert_eq!(check_same_log(&one, &other, &[]), Err(ForkError::SameSize { size: one.size }));
        assert_eq!(check_same_log(&one, &one, &[]), Ok(()));
        let empty = Checkpoint { size: 0, root: empty_root() };
        assert_eq!(check_same_log(&empty, &one, &[]), Ok(()));
        let false_empty = Checkpoint { size: 0, root: [1; 32] };
        assert_eq!(check_same_log(&false_empty, &one, &[]), Err(ForkError::EmptyRoot));
    }
}
