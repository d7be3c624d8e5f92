//! Proofs of what a map says of one key, presence and absence alike.
//!
//! A proof is the roots beside the key's path, from the root of the map down, and what the path ends in. Since each node has
//! one preimage, a root allows one answer for each key, whoever made the tree.

use super::{EMPTY, Leaf, MAX_DEPTH, hashed, node_hash, root_of};
use crate::ledger::merkle::Hash;
use crate::ledger::subject::SubjectKey;

/// What a map says of one key, with the hashes that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapProof {
    /// The roots beside the path, from the root of the map down.
    pub siblings: Vec<Hash>,
    /// What the path ends in.
    pub terminal: Terminal,
}

/// What the path of a key ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// The key's own leaf.
    Own {
        /// Its count.
        count: u64,
        /// Its history's root.
        root: Hash,
    },
    /// Another key's leaf: the key is not in the map.
    Other(Leaf),
    /// An empty subtree: the key is not in the map.
    Empty,
}

/// Why a map proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapProofError {
    /// Longer than any path.
    #[error("the map proof has {found} hashes; a path has at most {MAX_DEPTH}")]
    TooLong {
        /// What it has.
        found: usize,
    },
    /// Another key's leaf is shown that can't stand at the end of this path.
    #[error("the map proof ends in a leaf whose key does not share the first {depth} bits of the path")]
    ElsewhereLeaf {
        /// Bits it would have to share.
        depth: usize,
    },
    /// The key's own leaf is shown as if it were another's.
    #[error("the map proof claims absence with the leaf of the very key")]
    NotOther,
    /// A leaf without entries.
    #[error("the map proof shows a history without entries")]
    NoEntries,
    /// The hashes lead elsewhere.
    #[error("the map proof does not lead to the map root of the commitment")]
    Root,
}

impl MapProof {
    /// Checks the proof for a key against a map root.
    pub fn verify(&self, key: &SubjectKey, root: &Hash) -> Result<(), MapProofError> {
        let depth = self.siblings.len();
        if depth > MAX_DEPTH {
            return Err(MapProofError::TooLong { found: depth });
        }
        let end = match self.terminal {
            Terminal::Own { count: 0, .. } | Terminal::Other(Leaf { count: 0, .. }) => {
                return Err(MapProofError::NoEntries);
            }
            Terminal::Own { count, root } => Leaf { key: *key, count, root }.hash(),
            Terminal::Other(leaf) if leaf.key == *key => return Err(MapProofError::NotOther),
            Terminal::Other(leaf) if !leaf.key.shares(key, depth) => {
                return Err(MapProofError::ElsewhereLeaf { depth });
            }
            Terminal::Other(leaf) => leaf.hash(),
            Terminal::Empty => EMPTY,
        };
        let join = |(below, depth): (Hash, usize), beside: &Hash| {
            let depth = depth - 1;
            (if key.bit(depth) { node_hash(beside, &below) } else { node_hash(&below, beside) }, depth)
        };
        let (found, _) = self.siblings.iter().rev().fold((end, depth), join);
        if found == *root { Ok(()) } else { Err(MapProofError::Root) }
    }

    /// What the map says: count and root of the history, or nothing.
    pub fn history(&self) -> Option<(u64, Hash)> {
        match self.terminal {
            Terminal::Own { count, root } => Some((count, root)),
            Terminal::Other(_) | Terminal::Empty => None,
        }
    }
}

/// Completes a proof whose siblings lead down to `depth`, where the subtree holds exactly these leaves.
pub(super) fn prove_below(key: &SubjectKey, mut leaves: &[Leaf], depth: usize, mut siblings: Vec<Hash>) -> MapProof {
    for depth in depth.. {
        let terminal = match leaves {
            [] => Terminal::Empty,
            [leaf] if leaf.key == *key => Terminal::Own { count: leaf.count, root: leaf.root },
            [leaf] => Terminal::Other(*leaf),
            _ => {
                let (zero, one) = leaves.split_at(leaves.partition_point(|leaf| !leaf.key.bit(depth)));
                let (mine, beside) = if key.bit(depth) { (one, zero) } else { (zero, one) };
                siblings.push(root_of(&hashed(beside), depth + 1));
                leaves = mine;
                continue;
            }
        };
        return MapProof { siblings, terminal };
    }
    unreachable!("two keys differ in one of their bits")
}
