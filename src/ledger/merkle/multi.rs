//! Multi-proofs: one proof for many leaves of one tree.
//!
//! The hashes go level by level from the leaves up, within a level from left to right: at each level, for every node that is
//! known, its sibling, unless that is known too or lies beyond the tree. For one leaf this is the audit path of RFC 6962.
//! Checking is left to `rs_merkle`, whose proofs have the same shape, once the number of hashes is known to be right: its
//! verifier would accept trailing ones.

use super::hash::{Hash, Rfc6962};
use super::proof::ProofError;
use super::tree::{Nodes, subtree};

/// Proves the leaves at `indexes`, which rise, each below `size`.
///
/// Panics if they don't: who asks has checked.
pub fn multi_proof<N: Nodes>(nodes: &N, indexes: &[u64], size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(are_leaves(indexes, size), "multi-proof asked for {indexes:?} of {size}");
    siblings(indexes, size)
        .into_iter()
        .map(|(level, index)| {
            let begin = index << level;
            subtree(nodes, begin..size.min(begin + (1 << level)))
        })
        .collect()
}

/// Checks that the leaves `(index, leaf hash)` are in the tree of `size` leaves with this root.
pub fn verify_multi(leaves: &[(u64, Hash)], size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    let indexes: Vec<u64> = leaves.iter().map(|(index, _)| *index).collect();
    if let Some(&index) = indexes.iter().find(|&&index| index >= size) {
        return Err(ProofError::IndexBeyondTree { index, size });
    }
    if !are_leaves(&indexes, size) {
        return Err(ProofError::Leaves);
    }
    let expected = siblings(&indexes, size).len();
    if proof.len() != expected {
        return Err(ProofError::Length { found: proof.len(), expected });
    }
    let position = |index: u64| usize::try_from(index).map_err(|_| ProofError::IndexBeyondTree { index, size });
    let indexes = indexes.into_iter().map(position).collect::<Result<Vec<_>, _>>()?;
    let hashes: Vec<Hash> = leaves.iter().map(|(_, hash)| *hash).collect();
    let proof = rs_merkle::MerkleProof::<Rfc6962>::new(proof.to_vec());
    match proof.root(&indexes, &hashes, position(size)?) {
        Ok(found) if found == *root => Ok(()),
        _ => Err(ProofError::Root),
    }
}

fn are_leaves(indexes: &[u64], size: u64) -> bool {
    indexes.last().is_some_and(|&last| last < size) && indexes.windows(2).all(|pair| pair[0] < pair[1])
}

/// The nodes a multi-proof consists of, in its order.
fn siblings(indexes: &[u64], size: u64) -> Vec<(u8, u64)> {
    let mut needed = Vec::new();
    let mut known = indexes.to_vec();
    let (mut level, mut width) = (0, size);
    while width > 1 {
        let mut parents = Vec::with_capacity(known.len());
        for (position, &index) in known.iter().enumerate() {
            let sibling = index ^ 1;
            let is_known = if index % 2 == 0 {
                known.get(position + 1) == Some(&sibling)
            } else {
                position > 0 && known[position - 1] == sibling
            };
            if !is_known && sibling < width {
                needed.push((level, sibling));
            }
            if parents.last() != Some(&(index / 2)) {
                parents.push(index / 2);
            }
        }
        known = parents;
        level += 1;
        width = width.div_ceil(2);
    }
    needed
}
