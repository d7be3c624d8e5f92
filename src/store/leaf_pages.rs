//! The hashes of the subject map's leaves, in a file where each is found with one read.
//!
//! An update of the map needs the hashes of the leaves beside the changed one. They follow from the table of subjects, but to
//! find a place in that table every sorted run of the database is searched, which costs more than everything else of an
//! update. So whoever updates the map keeps this copy beside it: pages of up to 32 leaves that begin with the same bits, and in
//! memory where each page is (extendible hashing, for keys are hashes already). Pages that were asked for or changed lately are in
//! memory, and written when nobody asks for them any more: by a thread of its own, for nobody has to wait for that. What is
//! read stays in the system's cache of files as long as there is room.
//!
//! The file is not synced while it is in use. It is filled anew whenever the table is read at the start, and kept only from an end
//! in order to the next start ([`kept_map`](super::kept_map)). A checksum of each page is in memory, and kept with the map: a page that is not
//! what was written last is an error and never a wrong root.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread::JoinHandle;

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
/// Pages that are kept in memory, at least, after those of the last batch: 32 MiB of them. The pages of a ledger of a million
/// entries are about twice as many.
const KEPT: usize = 1 << 14;

/// The hashes of all leaves. The caller puts every change, or it is out of step with the map.
pub struct LeafPages {
    file: Arc<File>,
    /// For the first `bits` bits of a key the page its leaves begin on.
    directory: Vec<u32>,
    bits: u32,
    pages: Vec<Page>,
    kept: RefCell<Kept>,
    /// A page could not be put where it belongs: what is here is not what was put.
    is_broken: bool,
}

/// Pages that were asked for or changed lately.
#[derive(Default)]
struct Kept {
    /// Since the others grew old.
    young: HashMap<u32, KeptPage>,
    old: HashMap<u32, KeptPage>,
    leaving: Option<Leaving>,
}

/// The leaves of a page, and of those that go on from it.
struct KeptPage {
    leaves: Vec<LeafHash>,
    /// The file does not have them yet. They are on one page then.
    is_new: bool,
}

impl Kept {
    /// What is done with a page is done here: it is among the young ones then.
    fn with<T>(
        &mut self,
        page: u32,
        read: impl FnOnce() -> io::Result<Vec<LeafHash>>,
        work: impl FnOnce(&mut KeptPage) -> T,
    ) -> io::Result<T> {
        let Self { young, old, leaving } = self;
        match young.entry(page) {
            Entry::Occupied(mut kept) => Ok(work(kept.get_mut())),
            Entry::Vacant(place) => {
                let kept = match (old.remove(&page), leaving.as_ref().and_then(|leaving| leaving.pages.get(&page))) {
                    (Some(kept), _) => kept,
                    (None, Some(leaving)) => KeptPage { leaves: with_room(&leaving.leaves), is_new: false },
                    (None, None) => KeptPage { leaves: read()?, is_new: false },
                };
                Ok(work(place.insert(kept)))
            }
        }
    }
}

/// Pages that were written, and their checksums.
type Written = Vec<(u32, u32)>;

/// Pages that nobody asked for lately. Those that are new are on their way into the file.
struct Leaving {
    pages: Arc<HashMap<u32, KeptPage>>,
    writing: Option<Writing>,
}

/// Nobody else writes to these pages before it has ended.
enum Writing {
    Begun(JoinHandle<io::Result<Written>>),
    Done(io::Result<Written>),
}

impl Leaving {
    fn new(file: &Arc<File>, pages: HashMap<u32, KeptPage>) -> Self {
        let pages = Arc::new(pages);
        let of_thread = (Arc::clone(file), Arc::clone(&pages));
        let begun =
            std::thread::Builder::new().name("leaves".into()).spawn(move || write_new(&of_thread.0, &of_thread.1));
        let writing = match begun {
            Ok(thread) => Writing::Begun(thread),
            // The system has no thread to spare: it takes longer.
            Err(_) => Writing::Done(write_new(file, &pages)),
        };
        Self { pages, writing: Some(writing) }
    }

    /// Waits until they are written, and returns their checksums. After an error there is no other end.
    fn end(&mut self) -> io::Result<Written> {
        match self.writing.take() {
            Some(Writing::Begun(thread)) => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a bug was hit while it was written")))
            }
            Some(Writing::Done(done)) => done,
            None => Err(not_written()),
        }
    }
}

impl Drop for Leaving {
    /// Whoever opens the file after this was dropped has it alone.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn not_written() -> io::Error {
    io::Error::other("it could not be written before")
}

/// What is known of a page without reading it; of one that the file does not have as it is, only where it goes on and its depth.
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
        Self::of(file, (0..count).collect(), bits, pages)
    }

    fn of(file: File, directory: Vec<u32>, bits: u32, pages: Vec<Page>) -> Self {
        Self { file: Arc::new(file), directory, bits, pages, kept: RefCell::default(), is_broken: false }
    }

    /// Puts leaves, by rising key and each key once, over what was there.
    pub fn put(&mut self, changed: &[LeafHash]) -> Result<(), ScratchError> {
        let mut rest = changed;
        while let Some(first) = rest.first() {
            let page = self.page_of(&first.key);
            let depth = usize::from(self.pages[page as usize].depth);
            let (here, beyond) = rest.split_at(rest.partition_point(|leaf| leaf.key.shares(&first.key, depth)));
            let too_many = self.with(page, |kept| {
                here.iter().for_each(|leaf| put_into(&mut kept.leaves, leaf));
                kept.is_new = true;
                (kept.leaves.len() > PAGE_LEAVES).then(|| std::mem::take(&mut kept.leaves))
            })?;
            if let Some(leaves) = too_many {
                self.is_broken = true;
                self.place(page, leaves)?;
                self.is_broken = false;
            }
            rest = beyond;
        }
        self.age()
    }

    /// Writes pages that nobody asked for lately, if there are many, and forgets them.
    pub fn age(&mut self) -> Result<(), ScratchError> {
        if self.kept.get_mut().young.len() >= KEPT { Ok(self.turn()?) } else { Ok(()) }
    }

    /// What was young is old, and what was old goes.
    fn turn(&mut self) -> io::Result<()> {
        if self.is_broken {
            return Err(not_written());
        }
        self.wait()?;
        let kept = self.kept.get_mut();
        let gone = std::mem::replace(&mut kept.old, std::mem::take(&mut kept.young));
        kept.leaving = Some(Leaving::new(&self.file, gone));
        Ok(())
    }

    /// Waits until what is being written is written. Where it could not be, what should have been stays here, and nothing that is here
    /// is forgotten any more.
    fn wait(&mut self) -> io::Result<()> {
        let kept = self.kept.get_mut();
        let Some(leaving) = &mut kept.leaving else { return Ok(()) };
        for (page, checksum) in leaving.end()? {
            let leaves = u8::try_from(leaving.pages[&page].leaves.len()).expect("at most a page");
            self.pages[page as usize] = Page { checksum, leaves, ..self.pages[page as usize] };
        }
        kept.leaving = None;
        Ok(())
    }

    /// What it takes besides the file to go on with it, once that is on disk.
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
        is_whole.then(|| Self::of(file, directory, bits, pages))
    }

    /// Brings all of it to disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.turn()?;
        self.turn()?;
        self.wait()?;
        self.file.sync_data()
    }

    /// Bytes of memory this takes besides the file, without what hash tables and the allocator add.
    pub fn memory(&self) -> u64 {
        let kept = self.kept.borrow();
        let leaving = kept.leaving.iter().flat_map(|leaving| leaving.pages.values());
        let kept = kept.young.values().chain(kept.old.values()).chain(leaving);
        let bytes = self.directory.capacity() * size_of::<u32>()
            + self.pages.capacity() * size_of::<Page>()
            + kept.map(|kept| kept.leaves.capacity() * LEAF).sum::<usize>();
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

    /// Does something with the leaves of a page, and of those that go on from it.
    fn with<T>(&self, page: u32, work: impl FnOnce(&mut KeptPage) -> T) -> io::Result<T> {
        if self.is_broken {
            return Err(not_written());
        }
        self.kept.borrow_mut().with(page, || self.read(page), work)
    }

    fn read(&self, first: u32) -> Result<Vec<LeafHash>, io::Error> {
        let (mut found, mut at, mut bytes) = (Vec::with_capacity(PAGE_LEAVES), first, [0; PAGE_LEAVES * LEAF]);
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
        let is_new = leaves.len() <= PAGE_LEAVES;
        if is_new || !self.may_split(u32::from(depth)) {
            if !is_new {
                let leaving = &self.kept.get_mut().leaving;
                let leaving = leaving.as_ref().and_then(|leaving| leaving.pages.get(&page));
                if leaving.is_some_and(|leaving| leaving.is_new) {
                    // An older form of this page is on its way into the file.
                    self.wait()?;
                }
                self.write(page, &leaves)?;
            }
            self.kept.get_mut().young.insert(page, KeptPage { leaves, is_new });
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
        self.place(page, with_room(zero))?;
        self.place(half, with_room(one))
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
            let checksum = write_page(&self.file, at, chunk)?;
            let page = &mut self.pages[at as usize];
            page.checksum = checksum;
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

/// Writes the pages that the file does not have yet, and returns their checksums.
fn write_new(file: &File, pages: &HashMap<u32, KeptPage>) -> io::Result<Written> {
    let mut new: Vec<_> = pages.iter().filter(|(_, kept)| kept.is_new).collect();
    new.sort_unstable_by_key(|(page, _)| **page);
    new.into_iter().map(|(page, kept)| Ok((*page, write_page(file, *page, &kept.leaves)?))).collect()
}

/// Writes the leaves of a page, and returns their checksum.
fn write_page(file: &File, page: u32, leaves: &[LeafHash]) -> io::Result<u32> {
    let (mut bytes, mut length) = ([0; PAGE_LEAVES * LEAF], 0);
    for leaf in leaves {
        bytes[length..length + 32].copy_from_slice(&leaf.key.0);
        bytes[length + 32..length + LEAF].copy_from_slice(&leaf.hash);
        length += LEAF;
    }
    file.write_all_at(&bytes[..length], offset(page))?;
    Ok(crc32fast::hash(&bytes[..length]))
}

/// These leaves, and room for as many as a page takes.
fn with_room(leaves: &[LeafHash]) -> Vec<LeafHash> {
    let mut page = Vec::with_capacity(leaves.len().max(PAGE_LEAVES));
    page.extend_from_slice(leaves);
    page
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
        let (mut found, first) = (Vec::new(), path.first_below(depth));
        let mut at = self.place_of(&first);
        // Most of the time all of them are on one page. Many places of the directory may lead to the same.
        loop {
            let page = self.directory[at];
            let page_depth = usize::from(self.pages[page as usize].depth);
            let take = |kept: &mut KeptPage| {
                let begin = kept.leaves.partition_point(|leaf| leaf.key < first);
                found.extend(kept.leaves[begin..].iter().take_while(|leaf| leaf.key.shares(path, depth)));
            };
            self.with(page, take).map_err(ScratchError::from)?;
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
        pages.sync().expect("written");
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
    fn what_could_not_be_written_stays_and_nothing_more_is_written() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read_only = || File::open(file.path()).expect("a file");
        let (mut pages, mut model) = (LeafPages::new(read_only(), 1000), Model::new());
        put(&mut pages, &mut model, (0..500).map(|number| leaf(number, 0)));
        for _ in 0..3 {
            assert!(pages.sync().is_err());
            check(&pages, &model, &leaf(0, 0).key, 0);
            put(&mut pages, &mut model, (400..600).map(|number| leaf(number, 0)));
        }
        // Noticed also where nobody asks for it.
        let (mut many, mut batches) = (LeafPages::new(read_only(), 80_000 * BEGIN_WITH), (0..60_000).step_by(3000));
        let mut put = |begin| {
            let mut leaves: Vec<LeafHash> = (begin..begin + 3000).map(|number| leaf(number, 0)).collect();
            leaves.sort_unstable_by_key(|leaf| leaf.key);
            many.put(&leaves)
        };
        assert!(batches.any(|begin| put(begin).is_err()));
        // A page that has to go on elsewhere is written at once. What can't be is nowhere, and so nothing is answered any more.
        let mut alike: Vec<LeafHash> = (0..100).map(|number| leaf(number, 160)).collect();
        alike.sort_unstable_by_key(|leaf| leaf.key);
        let mut pages = LeafPages::new(read_only(), 0);
        for _ in 0..2 {
            assert!(pages.put(&alike).is_err());
            assert!(pages.hashes_under(&alike[0].key, 0).is_err());
            assert!(pages.sync().is_err());
        }
    }

    #[test]
    fn pages_that_change_while_an_older_form_of_them_is_written_are_as_they_were_put_last() {
        let (mut pages, mut model) = (pages(2000), Model::new());
        for round in 0..40u64 {
            // Some of them grow into chains.
            let alike = (round * 10..round * 10 + 20).map(|number| leaf(number, 160));
            let others =
                (0..1000).map(|number| LeafHash { hash: [u8::try_from(round).expect("small"); 32], ..leaf(number, 0) });
            put(&mut pages, &mut model, alike.chain(others.skip(usize::try_from(round % 7).expect("small"))));
            pages.turn().expect("begun");
            check(&pages, &model, &leaf(round, 0).key, 8);
        }
        pages.sync().expect("written");
        let index = pages.index();
        let again = LeafPages::with_index(pages.file.try_clone().expect("a file"), &index).expect("an index");
        check(&again, &model, &leaf(0, 0).key, 0);
    }

    #[test]
    fn only_so_many_pages_are_kept_and_what_was_forgotten_is_read_again() {
        let (mut pages, mut model) = (pages(80_000 * BEGIN_WITH), Model::new());
        for begin in (0..60_000).step_by(3000) {
            put(&mut pages, &mut model, (begin..begin + 3000).map(|number| leaf(number, 0)));
            let kept = pages.kept.borrow();
            assert!(kept.young.len() + kept.old.len() <= 2 * (KEPT + 3000), "{begin}");
            assert!(kept.leaving.as_ref().is_none_or(|leaving| leaving.pages.len() <= KEPT + 3000), "{begin}");
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
        pages.sync().expect("written");
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
