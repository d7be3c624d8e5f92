//! The hashes of the subject map's leaves, in a file where each is found with one read.
//!
//! An update of the map needs the hashes of the leaves beside the changed one. They follow from the table of subjects, but to
//! find a place in that table every sorted run of the database is searched, which costs more than everything else of an
//! update. So whoever updates the map keeps this copy beside it: pages of up to 31 leaves that begin with the same bits, and in
//! memory where each page is (extendible hashing, for keys are hashes already). What is read stays in the system's cache of
//! files as long as there is room, and what was asked for lately in memory.
//!
//! The file is not synced while it is in use. It is filled anew whenever the table is read at the start, and kept only from an end
//! in order to the next start ([`kept_map`](super::kept_map)). A checksum of each page is in memory, and kept with the map: a page that is not
//! what was written last is an error and never a wrong root.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::ledger::map::{LeafHash, LeafHashes, split};
use crate::ledger::subject::SubjectKey;
use crate::store::ReadError;

/// Bytes of a leaf: its key and its hash.
const LEAF: usize = 64;
/// Most leaves of a page. A page is half of what the system reads and writes at least.
const PAGE_LEAVES: usize = 32;
/// Leaves on a page, on average, that a map of known size begins with: few pages are full by chance, and few nearly empty.
const BEGIN_WITH: u64 = 20;
/// How far the directory may outgrow the pages, in bits. Somebody who chooses names so that their keys begin alike gets long
/// chains of pages and not a large directory.
const SPREAD_BITS: u32 = 4;
/// Bits of the largest directory.
const MAX_BITS: u32 = 30;
/// Pages that are kept in memory, at least, after those of the last batch. A few of them are in nearly every batch.
const KEPT: usize = 4096;

/// The hashes of all leaves. The caller puts every change, or it is out of step with the map.
pub struct LeafPages {
    file: File,
    /// For the first `bits` bits of a key the page its leaves begin on.
    directory: Vec<u32>,
    bits: u32,
    pages: Vec<Page>,
    kept: RefCell<Kept>,
}

/// Leaves of pages that were asked for or changed lately, as they are in the file.
#[derive(Debug, Default)]
struct Kept {
    /// Since the others grew old.
    young: HashMap<u32, Vec<LeafHash>>,
    old: HashMap<u32, Vec<LeafHash>>,
    /// Room for others.
    spare: Vec<Vec<LeafHash>>,
}

impl Kept {
    fn take(&mut self, page: u32) -> Option<Vec<LeafHash>> {
        self.young.remove(&page).or_else(|| self.old.remove(&page))
    }

    fn room(&mut self) -> Vec<LeafHash> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PAGE_LEAVES + 1))
    }

    /// Forgets what nobody asked for lately.
    fn age(&mut self) {
        if self.young.len() < KEPT {
            return;
        }
        let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        let room = KEPT.saturating_sub(self.spare.len());
        self.spare.extend(forgotten.into_values().take(room).map(|mut leaves| {
            leaves.clear();
            leaves
        }));
    }
}

/// What is known of a page without reading it.
#[derive(Debug, Clone, Copy)]
struct Page {
    /// Of its leaves, as they were written last.
    checksum: u32,
    /// The page that goes on where this one is full and can't be split; 0: none. No other page leads to page 0.
    next: u32,
    leaves: u8,
    /// How many bits all keys here have in common, as far as the directory knows.
    depth: u8,
}

const EMPTY_PAGE: Page = Page { checksum: 0, next: 0, leaves: 0, depth: 0 };

/// The file failed.
#[derive(Debug, thiserror::Error)]
#[error("the file of the subject map's leaves: {0}; a restart makes a new one in the data directory")]
pub struct ScratchError(#[from] io::Error);

impl From<ScratchError> for ReadError {
    fn from(error: ScratchError) -> Self {
        Self::Storage { table: "subjects", reason: error.to_string() }
    }
}

impl LeafPages {
    /// Pages for about `expected` leaves, and none in them yet, in a file whose content counts for nothing.
    pub fn new(file: File, expected: u64) -> Self {
        let bits = (expected / BEGIN_WITH + 1).next_power_of_two().ilog2().min(MAX_BITS);
        let depth = u8::try_from(bits).expect("at most 30");
        let count = 1 << bits;
        let pages = vec![Page { depth, ..EMPTY_PAGE }; count as usize];
        Self { file, directory: (0..count).collect(), bits, pages, kept: RefCell::default() }
    }

    /// Puts leaves, by rising key and each key once, over what was there.
    pub fn put(&mut self, changed: &[LeafHash]) -> Result<(), ScratchError> {
        let mut rest = changed;
        while let Some(first) = rest.first() {
            let page = self.page_of(&first.key);
            let depth = usize::from(self.pages[page as usize].depth);
            let (here, beyond) = rest.split_at(rest.partition_point(|leaf| leaf.key.shares(&first.key, depth)));
            let mut leaves = self.leaves(page)?;
            here.iter().for_each(|leaf| put_into(&mut leaves, leaf));
            self.place(page, leaves)?;
            rest = beyond;
        }
        self.age();
        Ok(())
    }

    /// Forgets pages that nobody asked for lately, if there are many.
    pub fn age(&mut self) {
        self.kept.get_mut().age();
    }

    /// What it takes besides the file to go on with it.
    pub(super) fn index(&self) -> Vec<u8> {
        let mut index = Vec::with_capacity(1 + self.directory.len() * 4 + self.pages.len() * 10);
        index.push(u8::try_from(self.bits).expect("at most 30"));
        self.directory.iter().for_each(|page| index.extend(page.to_be_bytes()));
        for Page { checksum, next, leaves, depth } in &self.pages {
            index.extend(checksum.to_be_bytes());
            index.extend(next.to_be_bytes());
            index.extend([*leaves, *depth]);
        }
        index
    }

    /// The pages in a file that go with an index; none if that is of none.
    pub(super) fn with_index(file: File, index: &[u8]) -> Option<Self> {
        let (bits, rest) = index.split_first()?;
        let bits = Some(u32::from(*bits)).filter(|bits| *bits <= MAX_BITS)?;
        let (directory, pages) = rest.split_at_checked(4 << bits)?;
        let directory: Vec<u32> = directory.as_chunks().0.iter().map(|page| u32::from_be_bytes(*page)).collect();
        let (pages, []) = pages.as_chunks::<10>() else { return None };
        let page = |[a, b, c, d, e, f, g, h, leaves, depth]: &[u8; 10]| Page {
            checksum: u32::from_be_bytes([*a, *b, *c, *d]),
            next: u32::from_be_bytes([*e, *f, *g, *h]),
            leaves: *leaves,
            depth: *depth,
        };
        let pages: Vec<Page> = pages.iter().map(page).collect();
        let is_there = |page: u32| usize::try_from(page).is_ok_and(|page| page < pages.len());
        // Pages go on on later ones only, so no chain is endless.
        let is_page = |(number, page): (u32, &Page)| {
            (page.next == 0 || page.next > number && is_there(page.next))
                && usize::from(page.leaves) <= PAGE_LEAVES
                && u32::from(page.depth) <= bits
        };
        let is_whole = directory.iter().all(|page| is_there(*page)) && (0..).zip(&pages).all(is_page);
        is_whole.then(|| Self { file, directory, bits, pages, kept: RefCell::default() })
    }

    /// Brings the file to disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Bytes of memory this takes besides the file, without what hash tables and the allocator add.
    pub fn memory(&self) -> u64 {
        let kept = self.kept.borrow();
        let kept = kept.young.values().chain(kept.old.values()).chain(&kept.spare);
        let bytes = self.directory.capacity() * size_of::<u32>()
            + self.pages.capacity() * size_of::<Page>()
            + kept.map(|leaves| leaves.capacity() * LEAF).sum::<usize>();
        u64::try_from(bytes).expect("it is in memory")
    }

    fn page_of(&self, key: &SubjectKey) -> u32 {
        self.directory[self.place_of(key)]
    }

    /// Where in the directory a key is.
    fn place_of(&self, key: &SubjectKey) -> usize {
        let [a, b, c, d, ..] = key.0;
        usize::try_from(u64::from(u32::from_be_bytes([a, b, c, d])) >> (32 - self.bits)).expect("at most 30 bits")
    }

    /// The leaves of a page and of those that go on from it. They are not kept any more.
    fn leaves(&self, page: u32) -> Result<Vec<LeafHash>, io::Error> {
        let mut kept = self.kept.borrow_mut();
        match kept.take(page) {
            Some(leaves) => Ok(leaves),
            None => self.read(page, kept.room()),
        }
    }

    fn read(&self, first: u32, mut found: Vec<LeafHash>) -> Result<Vec<LeafHash>, io::Error> {
        let (mut at, mut bytes) = (first, [0; PAGE_LEAVES * LEAF]);
        loop {
            let page = &self.pages[at as usize];
            let bytes = &mut bytes[..usize::from(page.leaves) * LEAF];
            self.file.read_exact_at(bytes, offset(at))?;
            if crc32fast::hash(bytes) != page.checksum {
                return Err(io::Error::other(format!("page {at} is not what was written")));
            }
            let (leaves, _) = bytes.as_chunks::<LEAF>();
            found.extend(leaves.iter().map(|leaf| {
                let (key, hash) = leaf.split_at(32);
                LeafHash { key: SubjectKey(key.try_into().expect("half")), hash: hash.try_into().expect("half") }
            }));
            match page.next {
                0 => return Ok(found),
                next => at = next,
            }
        }
    }

    /// Puts these leaves, and no others, onto a page: in halves, on as many pages as they need.
    fn place(&mut self, page: u32, leaves: Vec<LeafHash>) -> Result<(), io::Error> {
        let depth = self.pages[page as usize].depth;
        if leaves.len() <= PAGE_LEAVES || !self.may_split(u32::from(depth)) {
            self.write(page, &leaves)?;
            self.kept.get_mut().young.insert(page, leaves);
            return Ok(());
        }
        // Pages it went on to so far are not used again: what was split once grows on.
        let half = self.add(Page { depth: depth + 1, ..EMPTY_PAGE })?;
        self.pages[page as usize] = Page { depth: depth + 1, ..EMPTY_PAGE };
        let (zero, one) = split(&leaves, usize::from(depth));
        // All of them are here, so each tells where in the directory this page is.
        let width = 1 << (self.bits - u32::from(depth));
        let begin = self.place_of(&leaves[0].key) & !(width - 1);
        self.directory[begin + width / 2..begin + width].fill(half);
        self.place(page, zero.to_vec())?;
        self.place(half, one.to_vec())
    }

    /// Whether the directory can tell the halves of a page at a depth apart; makes it, if it may grow.
    fn may_split(&mut self, depth: u32) -> bool {
        if depth == self.bits && self.bits < (self.pages.len().ilog2() + SPREAD_BITS).min(MAX_BITS) {
            self.directory = self.directory.iter().flat_map(|page| [*page, *page]).collect();
            self.bits += 1;
        }
        depth < self.bits
    }

    /// Writes leaves to a page, and to as many as have to go on from it.
    fn write(&mut self, mut at: u32, leaves: &[LeafHash]) -> Result<(), io::Error> {
        let mut chunks = leaves.chunks(PAGE_LEAVES);
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            let (mut bytes, mut length) = ([0; PAGE_LEAVES * LEAF], 0);
            for leaf in chunk {
                bytes[length..length + 32].copy_from_slice(&leaf.key.0);
                bytes[length + 32..length + LEAF].copy_from_slice(&leaf.hash);
                length += LEAF;
            }
            self.file.write_all_at(&bytes[..length], offset(at))?;
            let page = &mut self.pages[at as usize];
            page.checksum = crc32fast::hash(&bytes[..length]);
            page.leaves = u8::try_from(chunk.len()).expect("at most a page");
            let (depth, next) = (page.depth, page.next);
            match chunks.next() {
                // Leaves are never removed, so no chain becomes shorter.
                None => return Ok(()),
                Some(more) => chunk = more,
            }
            if next == 0 {
                let added = self.add(Page { depth, ..EMPTY_PAGE })?;
                self.pages[at as usize].next = added;
            }
            at = self.pages[at as usize].next;
        }
    }

    fn add(&mut self, page: Page) -> Result<u32, io::Error> {
        let number =
            u32::try_from(self.pages.len()).map_err(|_| io::Error::other("no more pages can be told apart"))?;
        self.pages.push(page);
        Ok(number)
    }
}

/// Puts a leaf among others, by rising key.
fn put_into(leaves: &mut Vec<LeafHash>, leaf: &LeafHash) {
    match leaves.binary_search_by_key(&leaf.key, |kept| kept.key) {
        Ok(at) => leaves[at] = *leaf,
        Err(at) => leaves.insert(at, *leaf),
    }
}

fn offset(page: u32) -> u64 {
    u64::from(page) * (PAGE_LEAVES * LEAF) as u64
}

impl LeafHashes for LeafPages {
    type Error = ReadError;

    fn hashes_under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<LeafHash>, ReadError> {
        let mut found = Vec::new();
        let mut at = self.place_of(&path.first_below(depth));
        // Most of the time all of them are on one page. Many places of the directory may lead to the same.
        loop {
            let page = self.directory[at];
            let page_depth = usize::from(self.pages[page as usize].depth);
            let leaves = self.leaves(page).map_err(ScratchError::from)?;
            let begin = leaves.partition_point(|leaf| leaf.key < path.first_below(depth));
            found.extend(leaves[begin..].iter().take_while(|leaf| leaf.key.shares(path, depth)));
            self.kept.borrow_mut().young.insert(page, leaves);
            let width = 1 << (self.bits as usize - page_depth);
            at = (at & !(width - 1)) + width;
            if page_depth <= depth
                || at >> (self.bits as usize - depth) != self.place_of(path) >> (self.bits as usize - depth)
            {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    type Model = BTreeMap<SubjectKey, LeafHash>;

    fn pages(expected: u64) -> LeafPages {
        LeafPages::new(tempfile::tempfile().expect("a file"), expected)
    }

    /// A leaf whose key begins with so many bits of zero more than a hash does.
    fn leaf(number: u64, zeros: usize) -> LeafHash {
        let hash: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
        let mut key = [0; 32];
        key[zeros / 8..].copy_from_slice(&hash[..32 - zeros / 8]);
        LeafHash { key: SubjectKey(key), hash: [number.to_le_bytes()[0]; 32] }
    }

    fn put(pages: &mut LeafPages, model: &mut Model, leaves: impl IntoIterator<Item = LeafHash>) {
        let leaves: Model = leaves.into_iter().map(|leaf| (leaf.key, leaf)).collect();
        pages.put(&leaves.values().copied().collect::<Vec<_>>()).expect("written");
        model.extend(leaves);
    }

    fn check(pages: &LeafPages, model: &Model, path: &SubjectKey, depth: usize) {
        let expected: Vec<LeafHash> = model.values().filter(|leaf| leaf.key.shares(path, depth)).copied().collect();
        assert_eq!(pages.hashes_under(path, depth), Ok(expected), "{path:?} at {depth}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_put_last_is_found_under_every_path(
            expected in prop::sample::select(vec![0, 1, 50, 1000, 40_000]),
            batches in prop::collection::vec(prop::collection::vec((0..3000u64, prop::sample::select(vec![0, 0, 0, 8, 24, 40])), 0..300), 0..8),
            asked in prop::collection::vec((0..4000u64, prop::sample::select(vec![0, 8, 40]), 0..=256usize), 1..40),
        ) {
            let (mut pages, mut model) = (pages(expected), Model::new());
            for batch in batches {
                put(&mut pages, &mut model, batch.into_iter().map(|(number, zeros)| leaf(number, zeros)));
                for (number, zeros, depth) in &asked {
                    check(&pages, &model, &leaf(*number, *zeros).key, *depth);
                    check(&pages, &model, &leaf(*number, *zeros).key, *depth % 20);
                }
            }
        }
    }

    #[test]
    fn keys_that_begin_alike_make_long_chains_and_no_large_directory() {
        let (mut pages, mut model) = (pages(0), Model::new());
        put(&mut pages, &mut model, (0..2000).map(|number| leaf(number, 160)));
        put(&mut pages, &mut model, (0..2000).map(|number| leaf(number, 0)));
        put(&mut pages, &mut model, (1000..3000).map(|number| leaf(number, 160)));
        assert!(pages.directory.len() <= pages.pages.len() << SPREAD_BITS, "{} pages", pages.pages.len());
        for depth in [0, 1, 30, 100, 160, 165, 170, 256] {
            check(&pages, &model, &leaf(1, 160).key, depth);
        }
    }

    #[test]
    fn a_page_that_changed_by_itself_is_an_error() {
        let (mut pages, mut model) = (pages(0), Model::new());
        put(&mut pages, &mut model, (0..100).map(|number| leaf(number, 0)));
        let written = pages.file.metadata().expect("a file").len();
        let mut refused = 0;
        for at in (0..written).step_by(97) {
            let mut byte = [0];
            pages.file.read_exact_at(&mut byte, at).expect("read");
            pages.file.write_all_at(&[byte[0] ^ 1], at).expect("written");
            // As once it was forgotten.
            pages.kept = RefCell::default();
            let found = pages.hashes_under(&leaf(0, 0).key, 0);
            let holds = |(page, number): (&Page, u32)| {
                (offset(number)..offset(number) + u64::from(page.leaves) * 64).contains(&at)
            };
            // Where nothing was written, nothing is read.
            let is_read = pages.pages.iter().zip(0..).any(holds);
            assert!(if is_read { found.is_err() } else { found == Ok(model.values().copied().collect()) }, "byte {at}");
            refused += u32::from(is_read);
            pages.file.write_all_at(&byte, at).expect("written");
        }
        assert!(refused > 50, "{refused}");
        pages.file.set_len(0).expect("cut");
        pages.kept = RefCell::default();
        assert!(matches!(pages.hashes_under(&leaf(0, 0).key, 0), Err(ReadError::Storage { .. })));
        assert!(pages.put(&[leaf(0, 0)]).is_err());
    }

    #[test]
    fn only_so_many_pages_are_kept_and_what_was_forgotten_is_read_again() {
        let (mut pages, mut model) = (pages(80_000 * BEGIN_WITH), Model::new());
        for begin in (0..60_000).step_by(3000) {
            put(&mut pages, &mut model, (begin..begin + 3000).map(|number| leaf(number, 0)));
            let kept = pages.kept.borrow();
            assert!(kept.young.len() + kept.old.len() <= 2 * (KEPT + 3000), "{begin}");
            assert!(kept.spare.len() <= KEPT && kept.spare.iter().all(Vec::is_empty), "{begin}");
        }
        for number in (0..60_000).step_by(501) {
            check(&pages, &model, &leaf(number, 0).key, 256);
            check(&pages, &model, &leaf(number, 0).key, 12);
        }
    }

    #[test]
    fn an_index_leads_to_the_same_pages_and_a_broken_one_nowhere() {
        let (mut pages, mut model) = (pages(50), Model::new());
        put(&mut pages, &mut model, (0..500).map(|number| leaf(number, 0)));
        put(&mut pages, &mut model, (0..200).map(|number| leaf(number, 160)));
        let (index, file) = (pages.index(), || pages.file.try_clone().expect("a file"));
        let mut again = LeafPages::with_index(file(), &index).expect("an index");
        for depth in [0, 1, 5, 30, 160, 256] {
            for number in 0..50 {
                check(&again, &model, &leaf(number, 0).key, depth);
                check(&again, &model, &leaf(number, 160).key, depth);
            }
        }
        put(&mut again, &mut model, (400..900).map(|number| leaf(number, 0)));
        check(&again, &model, &leaf(0, 0).key, 0);
        for length in 0..index.len() {
            let cut = LeafPages::with_index(file(), &index[..length]);
            // Whole pages may be missing at its end, if nothing leads to them.
            assert!(cut.is_none_or(|cut| cut.pages.len() < pages.pages.len()), "{length}");
        }
        for at in 0..index.len() {
            let mut broken = index.clone();
            broken[at] ^= 1 << 4;
            // Whatever it leads to, it ends.
            if let Some(other) = LeafPages::with_index(file(), &broken) {
                let _ = other.hashes_under(&leaf(0, 0).key, 0);
            }
        }
    }
}
