//! The log's tree as it is stored: in tiles, each written once, when it is full.
//!
//! A tile is a row: the 16 nodes of level 4 L from index 16 N on. The nodes of the three levels above them are hashed from those when
//! somebody asks. So an entry costs a fifteenth of a row and 34 bytes instead of two rows and twice as much, and of a path to the
//! root a fifth of the rows is read. What is not in a full tile yet, at most 15 nodes for each of those levels, is in memory
//! ([`LogTree`]), and follows from the entries and from full tiles.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::{Batch, Read, ReadError, Table, rows};
use crate::ledger::merkle::hash::{Hash, leaf_hash, node_hash};
use crate::ledger::merkle::tree::Node;
use crate::ledger::merkle::{Nodes, Tree};

/// Levels of the tree in one tile.
const HEIGHT: u8 = 4;
/// Nodes of a tile that are stored.
const WIDTH: u64 = 1 << HEIGHT;
const STORED: usize = 1 << HEIGHT;
/// Nodes on the levels between it and the next tile.
const ABOVE: usize = STORED - 2;
/// Tiles from this level on are kept in memory once they were read: four bytes for each entry.
const KEPT_FROM: u8 = HEIGHT;
/// So many of them at most, of a KiB each. Where there are more, those that are asked for are read again.
const KEPT: usize = 1 << 16;

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
        // Those on the edge are known, and every path to the root passes most of them.
        if let Some(node) = self.edge().find(|node| (node.level, node.index) == (level, index)) {
            return Some(node.hash);
        }
        let (stored, height) = (level - level % HEIGHT, level % HEIGHT);
        let open = self.open.get(usize::from(stored / HEIGHT))?;
        let begin = (self.size() >> stored) & !(WIDTH - 1);
        let from = usize::try_from((index << height).checked_sub(begin)?).ok()?;
        open.get(from..from + (1 << height)).map(root_of)
    }
}

/// Tiles of the upper levels, once they were read.
#[derive(Debug, Default)]
pub struct UpperTiles(RwLock<HashMap<(u8, u64), Arc<Tile>>>);

/// A full tile.
#[derive(Debug)]
struct Tile {
    stored: [Hash; STORED],
    /// The three levels above those, one after the other, once one of them was asked for.
    above: OnceLock<[Hash; ABOVE]>,
}

impl Tile {
    /// From a row.
    fn of(row: &[u8]) -> Option<Self> {
        let stored = row.as_chunks().0.try_into().ok().filter(|_| row.len() == STORED * size_of::<Hash>())?;
        Some(Self { stored, above: OnceLock::new() })
    }

    /// Nodes of the level that is stored, from and to an index of the log.
    fn range(&self, range: Range<u64>) -> &[Hash] {
        let at = |index: u64| usize::try_from(index % WIDTH).expect("small");
        &self.stored[at(range.start)..=at(range.end - 1)]
    }

    /// The node so many levels above, at an index of the log on its level.
    fn node(&self, height: u8, index: u64) -> Hash {
        let width = STORED >> height;
        let at = usize::try_from(index).map_or(0, |index| index % width);
        // Before its level come those below it, each twice as long as the next.
        match height {
            0 => self.stored[at],
            _ => self.above()[STORED - 2 * width + at],
        }
    }

    fn above(&self) -> &[Hash; ABOVE] {
        self.above.get_or_init(|| {
            let mut nodes = [[0; size_of::<Hash>()]; ABOVE];
            for at in 0..ABOVE {
                let below = |at: usize| if at < STORED { self.stored[at] } else { nodes[at - STORED] };
                nodes[at] = node_hash(&below(2 * at), &below(2 * at + 1));
            }
            nodes
        })
    }
}

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
    /// The last tile that is not kept, or without a memory the last one of any level: a path to the root asks each for a few nodes.
    last: RefCell<Option<(u8, u64, Arc<Tile>)>>,
}

impl<'a, R: Read + ?Sized> StoredNodes<'a, R> {
    /// Those in `read`.
    pub fn new(read: &'a R) -> Self {
        Self { read, upper: None, last: RefCell::default() }
    }

    /// The same, with a memory of the upper ones.
    pub fn with(read: &'a R, upper: &'a UpperTiles) -> Self {
        Self { upper: Some(upper), ..Self::new(read) }
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
            return Ok(tile.range(range).to_vec());
        }
        match level.checked_sub(HEIGHT) {
            None => range.map(|index| rows::entry(self.read, index).map(|entry| leaf_hash(&entry))).collect(),
            Some(below) => {
                range.map(|index| Ok(root_of(&self.in_tile(below, index * WIDTH..(index + 1) * WIDTH)?))).collect()
            }
        }
    }

    /// A full tile; `None`: it was never full.
    fn tile(&self, level: u8, number: u64) -> Result<Option<Arc<Tile>>, ReadError> {
        if let Some((.., tile)) = self.last.borrow().as_ref().filter(|(of, at, _)| (*of, *at) == (level, number)) {
            return Ok(Some(Arc::clone(tile)));
        }
        let kept = self.upper.filter(|_| level >= KEPT_FROM);
        if let Some(UpperTiles(tiles)) = kept
            && let Some(tile) = tiles.read().unwrap_or_else(PoisonError::into_inner).get(&(level, number))
        {
            return Ok(Some(Arc::clone(tile)));
        }
        let Some(row) = self.read.get(Table::Nodes, &key(level, number))? else { return Ok(None) };
        let tile = Arc::new(Tile::of(&row).ok_or_else(|| {
            let what = format!("tile {number} of level {level} is not 16 hashes");
            ReadError::Damaged { table: Table::Nodes.name(), what }
        })?);
        match kept {
            None => *self.last.borrow_mut() = Some((level, number, Arc::clone(&tile))),
            Some(UpperTiles(tiles)) => {
                let mut tiles = tiles.write().unwrap_or_else(PoisonError::into_inner);
                let too_many = if tiles.len() >= KEPT { std::mem::take(&mut *tiles) } else { HashMap::new() };
                tiles.insert((level, number), Arc::clone(&tile));
                drop(tiles);
                // Freed while nobody waits.
                drop(too_many);
            }
        }
        Ok(Some(tile))
    }
}

impl<R: Read + ?Sized> Nodes for StoredNodes<'_, R> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        let (stored, height) = (level - level % HEIGHT, level % HEIGHT);
        let tile = index >> (HEIGHT - height);
        match self.tile(stored, tile)? {
            Some(tile) => Ok(tile.node(height, index)),
            None => Ok(root_of(&self.in_tile(stored, index << height..(index + 1) << height)?)),
        }
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
    fn only_so_many_tiles_are_kept_and_what_was_let_go_is_read_again() {
        let store = MemoryStore::default();
        let mut batch = Batch::default();
        for number in [7, 9] {
            batch.put(Table::Nodes, key(HEIGHT, number), [[u8::try_from(number).expect("small"); 32]; STORED].concat());
        }
        store.commit(0, batch).expect("stored");
        let upper = UpperTiles::default();
        let kept = || upper.0.read().expect("whole").len();
        let nodes = StoredNodes::with(&store, &upper);
        assert_eq!(nodes.node(HEIGHT, 7 * WIDTH), Ok([7; 32]));
        assert_eq!(kept(), 1);
        // As many as there may be; all of them are the same one.
        let one = Arc::clone(&upper.0.read().expect("whole")[&(HEIGHT, 7)]);
        let others = (0..).map(|number| ((2 * HEIGHT, number), Arc::clone(&one))).take(KEPT - 1);
        upper.0.write().expect("whole").extend(others);
        assert_eq!((nodes.node(HEIGHT, 7 * WIDTH), kept()), (Ok([7; 32]), KEPT), "one that is kept makes no more");
        assert_eq!((nodes.node(HEIGHT, 9 * WIDTH), kept()), (Ok([9; 32]), 1), "one more than there may be");
        assert_eq!((nodes.node(HEIGHT, 7 * WIDTH), kept()), (Ok([7; 32]), 2), "read again");
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
