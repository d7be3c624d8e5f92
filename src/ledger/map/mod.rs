//! The subject map: for every subject that ever occurred, how long its history is and that history's root, under one root.
//!
//! The map is a binary tree over the bits of subject keys, most significant first, in which a subtree of one key is that
//! key's leaf and a subtree of none is zeros:
//!
//! ```text
//! root(S, depth) = 32 zero bytes                                                   S is empty
//!                  SHA-256(0x02 || key || u64 BE count || history root)            S has one key
//!                  SHA-256(0x03 || root(S with bit 0, depth + 1) || root(S with bit 1, depth + 1))
//! ```
//!
//! So its root depends on what is in it and on nothing else, and each root says exactly one thing about every key: its count
//! and history, or that it is not there. Here is what the root and the proofs are ([`proof`]); [`top`] keeps the upper part of
//! a large map in memory. Where leaves are kept is left to whoever implements [`Leaves`].

pub mod proof;
pub mod top;

use std::collections::BTreeMap;
use std::convert::Infallible;

use sha2::{Digest as _, Sha256};

pub use proof::{MapProof, MapProofError, Terminal};
pub use top::{Outline, Part, Top};

use super::merkle::Hash;
use super::subject::SubjectKey;

/// The root of a subtree without keys.
pub const EMPTY: Hash = [0; 32];

/// Bits of a key, and so the deepest a leaf can lie.
pub const MAX_DEPTH: usize = 256;

/// What the map holds of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaf {
    /// Which subject.
    pub key: SubjectKey,
    /// Number of entries in its history, at least 1.
    pub count: u64,
    /// Root of its history tree.
    pub root: Hash,
}

/// A place to read the leaves of a map from.
pub trait Leaves {
    /// Why a read failed.
    type Error;

    /// The leaves whose keys begin with the first `depth` bits of `path`, by rising key.
    fn under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<Leaf>, Self::Error>;
}

/// A leaf as the tree above it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafHash {
    /// Which subject.
    pub key: SubjectKey,
    /// [`Leaf::hash`].
    pub hash: Hash,
}

/// A place to read the hashes of leaves from, which is all that an update needs.
pub trait LeafHashes {
    /// Why a read failed.
    type Error;

    /// The leaves whose keys begin with the first `depth` bits of `path`, by rising key.
    fn hashes_under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<LeafHash>, Self::Error>;
}

impl<L: Leaves> LeafHashes for L {
    type Error = L::Error;

    fn hashes_under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<LeafHash>, L::Error> {
        Ok(hashed(&self.under(path, depth)?))
    }
}

/// Leaves in memory: for tests, tools, and maps small enough.
impl Leaves for BTreeMap<SubjectKey, Leaf> {
    type Error = Infallible;

    fn under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<Leaf>, Infallible> {
        let inside = self.range(path.first_below(depth)..).map(|(_, leaf)| *leaf);
        Ok(inside.take_while(|leaf| leaf.key.shares(path, depth)).collect())
    }
}

impl Leaf {
    /// `SHA-256(0x02 || key || u64 BE count || history root)`.
    pub fn hash(&self) -> Hash {
        let hash = Sha256::new().chain_update([0x02]).chain_update(self.key.0);
        hash.chain_update(self.count.to_be_bytes()).chain_update(self.root).finalize().into()
    }

    /// What the tree above sees of it.
    pub fn hashed(&self) -> LeafHash {
        LeafHash { key: self.key, hash: self.hash() }
    }
}

/// What the tree above sees of some leaves.
pub fn hashed(leaves: &[Leaf]) -> Vec<LeafHash> {
    leaves.iter().map(Leaf::hashed).collect()
}

impl SubjectKey {
    /// The bit at a depth: what decides between the left and the right subtree there.
    pub fn bit(&self, depth: usize) -> bool {
        self.0[depth / 8] >> (7 - depth % 8) & 1 == 1
    }

    /// Whether the first `depth` bits are those of another key.
    pub fn shares(&self, other: &Self, depth: usize) -> bool {
        let (bytes, bits) = (depth / 8, depth % 8);
        self.0[..bytes] == other.0[..bytes] && (bits == 0 || (self.0[bytes] ^ other.0[bytes]) >> (8 - bits) == 0)
    }

    /// The smallest key that begins with the first `depth` bits of this one.
    pub fn first_below(&self, depth: usize) -> Self {
        let mut key = *self;
        let (bytes, bits) = (depth / 8, depth % 8);
        if let Some(byte) = key.0.get_mut(bytes) {
            *byte &= !(0xff >> bits);
        }
        key.0.iter_mut().skip(bytes + 1).for_each(|byte| *byte = 0);
        key
    }

    /// This key with the bit at a depth set as told.
    pub fn with_bit(mut self, depth: usize, bit: bool) -> Self {
        let mask = 0x80 >> (depth % 8);
        if bit {
            self.0[depth / 8] |= mask
        } else {
            self.0[depth / 8] &= !mask
        }
        self
    }
}

/// `SHA-256(0x03 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([0x03]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the subtree at a depth that holds exactly these leaves, whose keys rise and share their first `depth` bits.
pub fn root_of(leaves: &[LeafHash], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY,
        [leaf] => leaf.hash,
        _ => {
            let (zero, one) = split(leaves, depth);
            node_hash(&root_of(zero, depth + 1), &root_of(one, depth + 1))
        }
    }
}

/// The leaves on both sides of a node.
pub fn split(leaves: &[LeafHash], depth: usize) -> (&[LeafHash], &[LeafHash]) {
    leaves.split_at(leaves.partition_point(|leaf| !leaf.key.bit(depth)))
}

/// All leaves of both, by rising key; where both have a key, that of `changed`.
pub fn merge(before: &[LeafHash], changed: &[LeafHash]) -> Vec<LeafHash> {
    let mut merged = Vec::with_capacity(before.len() + changed.len());
    let mut before = before.iter().peekable();
    for leaf in changed {
        while let Some(smaller) = before.next_if(|kept| kept.key < leaf.key) {
            merged.push(*smaller);
        }
        before.next_if(|kept| kept.key == leaf.key);
        merged.push(*leaf);
    }
    merged.extend(before);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_go_from_the_most_significant() {
        let mut key = SubjectKey([0; 32]);
        key.0[0] = 0b0100_0000;
        key.0[31] = 1;
        assert_eq!((0..MAX_DEPTH).filter(|depth| key.bit(*depth)).collect::<Vec<_>>(), [1, 255]);
        assert_eq!(key.with_bit(1, false).with_bit(255, false), SubjectKey([0; 32]));
        let other = key.with_bit(9, true);
        assert!((0..=9).all(|depth| key.shares(&other, depth)));
        assert!((10..=MAX_DEPTH).all(|depth| !key.shares(&other, depth)));
        assert!(key.shares(&key, MAX_DEPTH));
        assert_eq!(key.first_below(MAX_DEPTH), key);
        assert_eq!(key.first_below(255), key.with_bit(255, false));
        assert_eq!((key.first_below(2), key.first_below(0)), (key.with_bit(255, false), SubjectKey([0; 32])));
    }

    #[test]
    fn hashes_are_those_of_the_specification() {
        let leaf = Leaf { key: SubjectKey([0x80; 32]), count: 3, root: [7; 32] };
        let mut bytes = vec![0x02];
        bytes.extend([0x80; 32]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend([7; 32]);
        assert_eq!(leaf.hash(), <Hash>::from(Sha256::digest(&bytes)));
        assert_eq!(root_of(&[], 0), [0; 32]);
        assert_eq!(root_of(&[leaf.hashed()], 0), leaf.hash());
        // Both begin with bit 1: the empty left side is hashed as zeros.
        let other = Leaf { key: leaf.key.with_bit(1, true), ..leaf };
        let inner = node_hash(&leaf.hash(), &other.hash());
        assert_eq!(root_of(&hashed(&[leaf, other]), 0), node_hash(&EMPTY, &inner));
    }
}
