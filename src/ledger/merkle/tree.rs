//! A growing tree, and reading the nodes of one that has grown.
//!
//! Nodes are named `(level, index)`: the root of the complete subtree over leaves `[index << level, (index + 1) << level)`.
//! Complete subtrees never change, so each is written once. Roots of incomplete ones are computed from them when asked for.

use std::ops::Range;

use super::hash::{Hash, empty_root, node_hash};

/// A place to read complete subtrees from.
pub trait Nodes {
    /// Why a read failed.
    type Error;

    /// The root of the complete subtree `(level, index)`. Only asked for subtrees that lie inside the tree.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// A new complete subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Height above the leaves.
    pub level: u8,
    /// Position within the level, from 0.
    pub index: u64,
    /// Its root.
    pub hash: Hash,
}

/// The right edge of a tree: all that is needed to append to it and to know its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees that make up the tree, largest (leftmost) first: one for each bit of `size`.
    edge: Vec<Hash>,
}

impl Tree {
    /// Reads the right edge of a tree of `size` leaves.
    pub fn load<N: Nodes>(nodes: &N, size: u64) -> Result<Self, N::Error> {
        let edge = edge_of(size).map(|(level, index)| nodes.node(level, index)).collect::<Result<_, _>>()?;
        Ok(Self { size, edge })
    }

    /// The tree of `size` leaves with this right edge, largest subtree first: a hash for each bit of the size.
    pub fn from_edge(size: u64, edge: Vec<Hash>) -> Option<Self> {
        (u32::try_from(edge.len()) == Ok(size.count_ones())).then_some(Self { size, edge })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf; `written` gets the subtrees it completes, lowest first.
    pub fn append(&mut self, leaf: Hash, mut written: impl FnMut(Node)) {
        let (mut hash, mut level, mut index) = (leaf, 0, self.size);
        written(Node { level, index, hash });
        while index % 2 == 1 {
            let left = self.edge.pop().expect("an odd index has a complete left sibling on the edge");
            hash = node_hash(&left, &hash);
            level += 1;
            index /= 2;
            written(Node { level, index, hash });
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// The Merkle tree hash, RFC 6962 section 2.1.
    pub fn root(&self) -> Hash {
        edge_root(&self.edge)
    }

    /// The subtrees on the edge, largest first.
    pub fn edge(&self) -> impl Iterator<Item = Node> + '_ {
        edge_of(self.size).zip(&self.edge).map(|((level, index), &hash)| Node { level, index, hash })
    }
}

/// The root of the tree with this right edge, largest subtree first.
pub fn edge_root(edge: &[Hash]) -> Hash {
    let mut edge = edge.iter().rev();
    let Some(&last) = edge.next() else { return empty_root() };
    edge.fold(last, |right, left| node_hash(left, &right))
}

/// The complete subtrees that make up the tree of `size` leaves, largest first.
fn edge_of(size: u64) -> impl Iterator<Item = (u8, u64)> {
    (0..64u8).rev().filter(move |level| size >> level & 1 == 1).map(move |level| (level, (size >> level) - 1))
}

/// The root of the subtree over `leaves`, as it occurs in some RFC 6962 tree: it starts at a multiple of the power of two
/// that covers it.
pub fn subtree<N: Nodes>(nodes: &N, leaves: Range<u64>) -> Result<Hash, N::Error> {
    let length = leaves.end - leaves.start;
    if length == 0 {
        return Ok(empty_root());
    }
    if length.is_power_of_two() {
        let level = u8::try_from(length.trailing_zeros()).expect("at most 63");
        return nodes.node(level, leaves.start >> level);
    }
    let split = leaves.start + largest_power_below(length);
    Ok(node_hash(&subtree(nodes, leaves.start..split)?, &subtree(nodes, split..leaves.end)?))
}

/// RFC 6962's k: the largest power of two smaller than `n`, for `n > 1`.
pub(super) fn largest_power_below(n: u64) -> u64 {
    debug_assert!(n > 1);
    1 << (63 - (n - 1).leading_zeros())
}

/// Nodes in memory: of a batch, or of trees small enough.
#[derive(Debug, Clone, Default)]
pub struct MemoryNodes {
    /// Of each level, by rising index: as a tree that grows makes them.
    levels: Vec<Vec<(u64, Hash)>>,
}

impl MemoryNodes {
    /// Keeps a node.
    pub fn insert(&mut self, node: Node) {
        let at = usize::from(node.level);
        if self.levels.len() <= at {
            self.levels.resize_with(at + 1, Vec::new);
        }
        let level = &mut self.levels[at];
        if level.last().is_none_or(|(last, _)| *last < node.index) {
            return level.push((node.index, node.hash));
        }
        match level.binary_search_by_key(&node.index, |(index, _)| *index) {
            Ok(at) => level[at].1 = node.hash,
            Err(at) => level.insert(at, (node.index, node.hash)),
        }
    }
}

impl FromIterator<Node> for MemoryNodes {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Self {
        let mut kept = Self::default();
        nodes.into_iter().for_each(|node| kept.insert(node));
        kept
    }
}

/// A node was asked for that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tree has no node {index} on level {level}")]
pub struct MissingNode {
    /// Height above the leaves.
    pub level: u8,
    /// Position within the level.
    pub index: u64,
}

impl Nodes for MemoryNodes {
    type Error = MissingNode;

    fn node(&self, level: u8, index: u64) -> Result<Hash, MissingNode> {
        let missing = MissingNode { level, index };
        let nodes = self.levels.get(usize::from(level)).ok_or(missing)?;
        let at = nodes.binary_search_by_key(&index, |(index, _)| *index).map_err(|_| missing)?;
        Ok(nodes[at].1)
    }
}
