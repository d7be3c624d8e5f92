//! The log's tree as it is stored: in tiles, each written once, when it is full.
//!
//! A tile is a row: the 16 nodes of level 4 L from index 16 N on. The nodes of the three levels above them are hashed from those when
//! somebody asks. So an entry costs a fifteenth of a row and 34 bytes instead of two rows and twice as much, and of a path to the
//! root a fifth of the rows is read. What is not in a full tile yet, at most 15 nodes for each of those levels, is in memory
//! ([`LogTree`]), and follows from the entries and from full tiles.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use super::{Batch, Read, ReadError, Table, rows};
use crate::ledger::merkle::hash::{Hash, leaf_hash, node_hash};
use crate::ledger::merkle::tree::Node;
use crate::ledger::merkle::{Nodes, Tree};

/// Levels of the tree in one tile.
const HEIGHT: u8 = 4;
/// Nodes of a tile that are stored.
const WIDTH: u64 = 1 << HEIGHT;
/// Tiles from this level on are kept in memory once they were read: an eighth of a byte for each entry.
const KEPT_FROM: u8 = 2 * HEIGHT;

/// A growing log: its tree, and the nodes that are in no full tile yet.
#[derive(Debug, Clone, Default)]
pub struct LogTree {
    tree: Tree,
    /// For each level that is stored, those of its last tile.
    open: Vec<Vec<Hash>>,
}

impl LogTree {
    /// The log of `size` entries, as the store has it.
    pub fn load(read: &(impl Read + ?Sized), size: u64) -> Result<Self, ReadError> {
        let stored = StoredNodes::new(read);
        let mut open = Vec::new();
        for level in (0..64).step_by(HEIGHT.into()).take_while(|level| size >> level > 0) {
            let count = size >> level;
            open.push(stored.in_tile(level, count - count % WIDTH..count)?);
        }
        Ok(Self { tree: Tree::load(&stored, size)?, open })
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The Merkle tree hash.
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// The subtrees on the edge, largest first.
    pub fn edge(&self) -> impl Iterator<Item = Node> + '_ {
        self.tree.edge()
    }

    /// Appends a leaf, and writes the tiles that are then full; `made` gets the subtrees it completes, lowest first.
    pub fn append(&mut self, leaf: Hash, batch: &mut Batch, mut made: impl FnMut(Node)) {
        let open = &mut self.open;
        self.tree.append(leaf, |node| {
            if node.level.is_multiple_of(HEIGHT) {
                let at = usize::from(node.level / HEIGHT);
                if open.len() == at {
                    open.push(Vec::new());
                }
                open[at].push(node.hash);
                if node.index % WIDTH == WIDTH - 1 {
                    batch.put(Table::Nodes, key(node.level, node.index / WIDTH), open[at].concat());
                    open[at].clear();
                }
            }
            made(node);
        });
    }

    /// A node of which not all is in full tiles.
    fn open_node(&self, level: u8, index: u64) -> Option<Hash> {
        let (stored, height) = (level - level % HEIGHT, level % HEIGHT);
        let open = self.open.get(usize::from(stored / HEIGHT))?;
        let begin = (self.size() >> stored) & !(WIDTH - 1);
        let from = usize::try_from((index << height).checked_sub(begin)?).ok()?;
        open.get(from..from + (1 << height)).map(root_of)
    }
}

/// Tiles of the upper levels, once they were read.
#[derive(Debug, Default)]
pub struct UpperTiles(RwLock<HashMap<(u8, u64), Tile>>);

type Tile = [Hash; 1 << HEIGHT];

/// The nodes of a log, wherever they are.
pub struct LogNodes<'a, R: ?Sized> {
    /// The log, and what of it is in memory.
    pub tree: &'a LogTree,
    /// Its full tiles.
    pub stored: StoredNodes<'a, R>,
}

impl<R: Read + ?Sized> LogNodes<'_, R> {
    /// Nodes of one level side by side.
    pub fn range(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, ReadError> {
        let open = range.clone().find(|index| self.tree.open_node(level, *index).is_some()).unwrap_or(range.end);
        let mut found = self.stored.range(level, range.start..open)?;
        found.extend((open..range.end).filter_map(|index| self.tree.open_node(level, index)));
        Ok(found)
    }
}

impl<R: Read + ?Sized> Nodes for LogNodes<'_, R> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        self.tree.open_node(level, index).map_or_else(|| self.stored.node(level, index), Ok)
    }
}

/// The nodes of a log from the store alone: those in full tiles are read, the others hashed from what is below them.
pub struct StoredNodes<'a, R: ?Sized> {
    read: &'a R,
    upper: Option<&'a UpperTiles>,
}

impl<'a, R: Read + ?Sized> StoredNodes<'a, R> {
    /// Those in `read`.
    pub fn new(read: &'a R) -> Self {
        Self { read, upper: None }
    }

    /// The same, with a memory of the upper ones.
    pub fn with(read: &'a R, upper: &'a UpperTiles) -> Self {
        Self { read, upper: Some(upper) }
    }

    /// Nodes of one level side by side.
    pub fn range(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, ReadError> {
        let mut found = Vec::new();
        let mut next = range.start;
        while next < range.end {
            if level.is_multiple_of(HEIGHT) {
                let end = ((next / WIDTH + 1) * WIDTH).min(range.end);
                found.extend(self.in_tile(level, next..end)?);
                next = end;
            } else {
                found.push(self.node(level, next)?);
                next += 1;
            }
        }
        Ok(found)
    }

    /// Some of the nodes of one tile.
    fn in_tile(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, ReadError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(tile) = self.tile(level, range.start / WIDTH)? {
            let at = |index: u64| usize::try_from(index % WIDTH).expect("small");
            return Ok(tile[at(range.start)..=at(range.end - 1)].to_vec());
        }
        match level.checked_sub(HEIGHT) {
            None => range.map(|index| rows::entry(self.read, index).map(|entry| leaf_hash(&entry))).collect(),
            Some(below) => {
                range.map(|index| Ok(root_of(&self.in_tile(below, index * WIDTH..(index + 1) * WIDTH)?))).collect()
            }
        }
    }

    /// A full tile; `None`: it was never full.
    fn tile(&self, level: u8, number: u64) -> Result<Option<Tile>, ReadError> {
        let kept = self.upper.filter(|_| level >= KEPT_FROM);
        if let Some(UpperTiles(tiles)) = kept
            && let Some(tile) = tiles.read().unwrap_or_else(PoisonError::into_inner).get(&(level, number))
        {
            return Ok(Some(*tile));
        }
        let Some(row) = self.read.get(Table::Nodes, &key(level, number))? else { return Ok(None) };
        let tile: Tile =
            row.as_chunks().0.try_into().ok().filter(|_| row.len() == size_of::<Tile>()).ok_or_else(|| {
                let what = format!("tile {number} of level {level} is not 16 hashes");
                ReadError::Damaged { table: Table::Nodes.name(), what }
            })?;
        if let Some(UpperTiles(tiles)) = kept {
            tiles.write().unwrap_or_else(PoisonError::into_inner).insert((level, number), tile);
        }
        Ok(Some(tile))
    }
}

impl<R: Read + ?Sized> Nodes for StoredNodes<'_, R> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        let (stored, height) = (level - level % HEIGHT, level % HEIGHT);
        Ok(root_of(&self.in_tile(stored, index << height..(index + 1) << height)?))
    }
}

/// The root over a power of two of nodes, 16 at most.
fn root_of(nodes: &[Hash]) -> Hash {
    match nodes {
        [node] => *node,
        nodes => {
            let (left, right) = nodes.split_at(nodes.len() / 2);
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

fn key(level: u8, number: u64) -> Vec<u8> {
    let mut key = vec![level];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What a key is about, for people.
pub(super) fn place(key: &[u8]) -> Option<String> {
    let (level, number) = key.split_first()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    let from = number.checked_mul(WIDTH)?;
    Some(format!("nodes {from} to {} on level {level}", from.checked_add(WIDTH - 1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::merkle::tree::MemoryNodes;
    use crate::store::Store as _;
    use crate::store::memory::MemoryStore;

    #[test]
    fn every_node_is_found_at_every_size_from_memory_and_from_the_store_alone() {
        let (mut log, store, mut all) = (LogTree::default(), MemoryStore::default(), MemoryNodes::default());
        let upper = UpperTiles::default();
        let mut made = Vec::new();
        for index in 0..4_200u64 {
            let (mut batch, entry) = (Batch::default(), index.to_be_bytes());
            rows::put_entry(&mut batch, index, &leaf_hash(&entry), &entry);
            log.append(leaf_hash(&entry), &mut batch, |node| {
                all.insert(node);
                made.push((node.level, node.index));
            });
            store.commit(0, batch).expect("stored");
            // Around the places where tiles are full, and here and there.
            let near = |width: u64| (index + 3) % width < 5;
            if !(near(4_096) || index < 600 && (near(16) || near(256)) || index % 997 == 0) {
                continue;
            }
            let size = index + 1;
            let loaded = LogTree::load(&store, size).expect("readable");
            assert_eq!((loaded.size(), loaded.root(), &loaded.open), (size, log.root(), &log.open), "{size}");
            let nodes = LogNodes { tree: &log, stored: StoredNodes::with(&store, &upper) };
            for &(level, index) in
                made.iter().filter(|(level, index)| *level > 1 || index % 61 == 0 || index + 40 > size)
            {
                let expected = all.node(level, index).expect("made");
                assert_eq!(nodes.node(level, index), Ok(expected), "{size}: {level} {index}");
                assert_eq!(StoredNodes::new(&store).node(level, index), Ok(expected), "{size}: {level} {index}");
            }
            for level in [0, 3, 4, 8] {
                let range = (size >> level) / 3..size >> level;
                let expected: Vec<Hash> = range.clone().map(|index| all.node(level, index).expect("made")).collect();
                assert_eq!(nodes.range(level, range), Ok(expected), "{size}: level {level}");
            }
        }
    }

    #[test]
    fn a_tile_that_is_none_is_damage() {
        let store = MemoryStore::default();
        let mut batch = Batch::default();
        batch.put(Table::Nodes, key(0, 0), [7; 31]);
        store.commit(0, batch).expect("stored");
        let error = StoredNodes::new(&store).node(0, 3).expect_err("refused");
        assert!(error.to_string().contains("tile 0 of level 0"), "{error}");
    }
}
