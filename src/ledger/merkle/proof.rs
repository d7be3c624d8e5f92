//! Inclusion and consistency proofs, RFC 6962 sections 2.1.1 and 2.1.2.
//!
//! Making one reads nodes; checking one needs nothing but the proof. The checks follow RFC 9162 sections 2.1.3.2 and
//! 2.1.4.2, which state for the same proofs what RFC 6962 leaves to the reader.

use super::hash::{Hash, node_hash};
use super::tree::{Nodes, largest_power_below, subtree};

/// Why a proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is not inside the tree.
    #[error("leaf {index} lies beyond the tree of size {size}")]
    IndexBeyondTree {
        /// The leaf.
        index: u64,
        /// The tree.
        size: u64,
    },
    /// The sizes are in the wrong order, or the older tree is empty and proves nothing.
    #[error("no consistency proof exists from size {first} to size {second}")]
    Sizes {
        /// The older size.
        first: u64,
        /// The newer size.
        second: u64,
    },
    /// Too few or too many hashes; nothing may trail.
    #[error("the proof has {found} hashes, it must have {expected}")]
    Length {
        /// What it has.
        found: usize,
        /// What it must have.
        expected: usize,
    },
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
    /// Leaves of a multi-proof are not rising, or not as many as their hashes.
    #[error("the leaves of a multi-proof must be rising, each with its hash, at least one")]
    Leaves,
}

/// `PATH(index, D[size])`: the siblings from the leaf up.
///
/// Panics if `index >= size`: who asks has checked.
pub fn inclusion_proof<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(index < size, "inclusion proof asked for leaf {index} of {size}");
    let (mut begin, mut end) = (0, size);
    let mut path = Vec::new();
    while end - begin > 1 {
        let split = begin + largest_power_below(end - begin);
        if index < split {
            path.push(subtree(nodes, split..end)?);
            end = split;
        } else {
            path.push(subtree(nodes, begin..split)?);
            begin = split;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root that an inclusion proof leads to. RFC 9162 section 2.1.3.2.
pub fn root_from_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash]) -> Result<Hash, ProofError> {
    if index >= size {
        return Err(ProofError::IndexBeyondTree { index, size });
    }
    let expected = path_length(index, size);
    if path.len() != expected {
        return Err(ProofError::Length { found: path.len(), expected });
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if node % 2 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // A lone right edge moves up without a sibling.
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    Ok(hash)
}

/// Checks an inclusion proof.
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if root_from_inclusion(index, size, leaf, path)? == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// `PROOF(first, D[second])`.
///
/// Panics unless `0 < first <= second`: who asks has checked.
pub fn consistency_proof<N: Nodes>(nodes: &N, first: u64, second: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(0 < first && first <= second, "consistency proof asked from {first} to {second}");
    let (mut begin, mut end) = (0, second);
    let mut path = Vec::new();
    // SUBPROOF's b: the subtree in hand is the whole older tree, whose root the verifier has.
    let mut whole = true;
    while first != end {
        let split = begin + largest_power_below(end - begin);
        if first <= split {
            path.push(subtree(nodes, split..end)?);
            end = split;
        } else {
            path.push(subtree(nodes, begin..split)?);
            begin = split;
            whole = false;
        }
    }
    if !whole {
        path.push(subtree(nodes, begin..end)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that the tree of `first` leaves with `first_root` is a prefix of the other. RFC 9162 section 2.1.4.2.
pub fn verify_consistency(
    first: u64,
    second: u64,
    first_root: &Hash,
    second_root: &Hash,
    path: &[Hash],
) -> Result<(), ProofError> {
    if first == 0 || first > second {
        return Err(ProofError::Sizes { first, second });
    }
    let expected = consistency_length(first, second);
    if path.len() != expected {
        return Err(ProofError::Length { found: path.len(), expected });
    }
    if first == second {
        return if first_root == second_root { Ok(()) } else { Err(ProofError::Root) };
    }
    let (mut node, mut last) = (first - 1, second - 1);
    while node % 2 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // If the older tree is a complete subtree, its root is the start and is not in the proof.
    let mut path = path.iter();
    let start = if first.is_power_of_two() { first_root } else { path.next().expect("length was checked") };
    let (mut old, mut new) = (*start, *start);
    for sibling in path {
        if node % 2 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if old == *first_root && new == *second_root { Ok(()) } else { Err(ProofError::Root) }
}

/// How many hashes the audit path of a leaf has.
pub fn path_length(index: u64, size: u64) -> usize {
    let (mut begin, mut end, mut length) = (0, size, 0);
    while end - begin > 1 {
        let split = begin + largest_power_below(end - begin);
        if index < split {
            end = split
        } else {
            begin = split
        }
        length += 1;
    }
    length
}

fn consistency_length(first: u64, second: u64) -> usize {
    let (mut begin, mut end, mut length, mut whole) = (0, second, 0, true);
    while first != end {
        let split = begin + largest_power_below(end - begin);
        if first <= split {
            end = split;
        } else {
            begin = split;
            whole = false;
        }
        length += 1;
    }
    length + usize::from(!whole)
}
