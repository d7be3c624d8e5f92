//! The log as a log: entries by place or hash, and proofs between any sizes.

use std::ops::Range;

use super::{QueryError, Reader, bytes};
use crate::engine::ReadError;
use crate::ledger::merkle::multi::multi_proof;
use crate::ledger::merkle::proof::{consistency_proof, inclusion_proof};
use crate::ledger::merkle::tree::subtree;
use crate::ledger::merkle::{Hash, Nodes as _};
use crate::proto;
use crate::store::rows;

/// Most leaves of one multi-proof.
pub const MAX_PROOF_LEAVES: usize = 1024;
impl Reader<'_> {
    /// One entry with its proof.
    pub fn entry(&self, index: u64) -> Result<proto::Evidence, QueryError> {
        self.check_index("index", index, self.head.size)?;
        Ok(self.evidence([index].into())?)
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
        self.tree().range(level, range)
    }

    /// The audit path of a leaf in the tree of a size (0: the checkpoint's).
    pub fn inclusion(&self, index: u64, size: u64) -> Result<proto::GetInclusionProofResponse, QueryError> {
        let size = self.tree_size("tree_size", size)?;
        self.check_index("index", index, size)?;
        let tree = self.tree();
        Ok(proto::GetInclusionProofResponse {
            index,
            tree_size: size,
            leaf_hash: tree.node(0, index)?.to_vec(),
            hashes: bytes(inclusion_proof(&tree, index, size)?),
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
            hashes: bytes(consistency_proof(&self.tree(), first, second)?),
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
        let tree = self.tree();
        let leaves = indexes.iter().map(|&index| Ok(tree.node(0, index)?.to_vec()));
        Ok(proto::GetMultiProofResponse {
            indexes: indexes.to_vec(),
            tree_size: size,
            leaf_hashes: leaves.collect::<Result<_, ReadError>>()?,
            hashes: bytes(multi_proof(&tree, indexes, size)?),
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

    fn root(&self, size: u64) -> Result<Hash, ReadError> {
        if size == self.head.size { Ok(self.moment.root) } else { subtree(&self.tree(), 0..size) }
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
}

fn at_most(size: u64) -> String {
    format!("the newest checkpoint has size {size}")
}
