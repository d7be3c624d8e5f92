//! The upper part of a map in memory: the roots of its subtrees, down to subtrees of about a dozen keys.
//!
//! What lies below is read from where the leaves are kept and hashed again, so an update costs one short read and a few dozen
//! hashes, whatever the map's size. A copy is cheap and keeps its state, for copies share all that did not change between
//! them: a question asked of one moment is answered from the [`Top`] of that moment while the next batch is planned.

use std::collections::HashSet;
use std::sync::Arc;

use super::proof::prove_below;
use super::{EMPTY, LeafHash, LeafHashes, Leaves, MAX_DEPTH, MapProof, merge, node_hash, root_of, split};
use crate::ledger::merkle::Hash;
use crate::ledger::subject::SubjectKey;

/// Most keys of a subtree that is not split. Smaller: more memory, less to read and hash for an update.
const MAX_BUCKET: usize = 20;

/// The upper part of a map.
#[derive(Debug, Clone, Default)]
pub struct Top {
    root: Subtree,
    size: u64,
}

/// What a [`Top`] is, subtree by subtree: a whole one before its halves, the one of the bit 0 before the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outline {
    /// Its halves follow.
    Split,
    /// It is not split; its root.
    Bucket(Hash),
}

/// A subtree: its root, and what is known of its inside.
#[derive(Debug, Clone, Default)]
struct Subtree {
    hash: Hash,
    /// Its halves; none for a bucket, which holds at most [`MAX_BUCKET`] keys.
    halves: Option<Arc<[Subtree; 2]>>,
}

impl Top {
    /// Reads a whole map: `next` gives its leaves by rising key, and then nothing.
    pub fn load<E>(next: impl FnMut() -> Result<Option<LeafHash>, E>) -> Result<Self, E> {
        Part::load(SubjectKey([0; 32]), 0, next).map(|whole| Self::of_parts(vec![whole]))
    }

    /// A map of its parts: all that there are at a depth, in the order of their paths.
    pub fn of_parts(mut parts: Vec<Part>) -> Self {
        assert!(parts.len().is_power_of_two(), "every part is there");
        for depth in (0..parts.len().ilog2()).rev() {
            let depth = usize::try_from(depth).expect("small");
            let mut rest = parts.into_iter();
            parts = std::iter::from_fn(|| Some(rest.next()?.joined(rest.next()?, depth))).collect();
        }
        let Part { subtree, size, .. } = parts.pop().expect("one is left");
        Self { root: subtree, size }
    }

    /// The map of so many keys with this outline; none if the outline is of none. Whether it is the right one, its root tells.
    pub fn of_outline(size: u64, mut next: impl FnMut() -> Option<Outline>) -> Option<Self> {
        Some(Self { root: Subtree::of_outline(&mut next, 0)?, size })
    }

    /// Tells what it is.
    pub fn outline(&self, mut tell: impl FnMut(Outline)) {
        self.root.outline(&mut tell);
    }

    /// The root of the map.
    pub fn root(&self) -> Hash {
        self.root.hash
    }

    /// Number of keys.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of memory that some maps take together, without what the allocator adds. Copies share what they have in common.
    pub fn memory<'a>(tops: impl IntoIterator<Item = &'a Self>) -> u64 {
        let mut counted = HashSet::new();
        tops.into_iter().for_each(|top| top.root.count_into(&mut counted));
        let halves = size_of::<[Subtree; 2]>() + 2 * size_of::<usize>();
        u64::try_from(counted.len() * halves).expect("it is in memory")
    }

    /// Puts leaves, by rising key and each key once, into the map whose other leaves are `kept`. After an error the map is
    /// not usable.
    pub fn update<L: LeafHashes + ?Sized>(&mut self, kept: &L, changed: &[LeafHash]) -> Result<(), L::Error> {
        debug_assert!(changed.windows(2).all(|pair| pair[0].key < pair[1].key), "keys rise");
        self.size += self.root.update(kept, changed, 0)?;
        Ok(())
    }

    /// Proves what the map says of a key.
    pub fn prove<L: Leaves>(&self, kept: &L, key: &SubjectKey) -> Result<MapProof, L::Error> {
        let (mut siblings, mut subtree, mut depth) = (Vec::new(), &self.root, 0);
        while let Some(halves) = &subtree.halves {
            let mine = usize::from(key.bit(depth));
            siblings.push(halves[1 - mine].hash);
            subtree = &halves[mine];
            depth += 1;
        }
        // An empty bucket needs no look: most keys that were never seen end in one of a few.
        let leaves = if subtree.hash == EMPTY { Vec::new() } else { kept.under(key, depth)? };
        Ok(prove_below(key, &leaves, depth, siblings))
    }
}

impl Subtree {
    /// Of exactly these leaves.
    fn of(leaves: &[LeafHash], depth: usize) -> Self {
        if leaves.len() <= MAX_BUCKET {
            return Self { hash: root_of(leaves, depth), halves: None };
        }
        let (zero, one) = split(leaves, depth);
        Self::join([Self::of(zero, depth + 1), Self::of(one, depth + 1)])
    }

    fn of_outline(next: &mut impl FnMut() -> Option<Outline>, depth: usize) -> Option<Self> {
        match next()? {
            Outline::Bucket(hash) => Some(Self { hash, halves: None }),
            Outline::Split if depth == MAX_DEPTH => None,
            Outline::Split => {
                Some(Self::join([Self::of_outline(next, depth + 1)?, Self::of_outline(next, depth + 1)?]))
            }
        }
    }

    fn outline(&self, tell: &mut impl FnMut(Outline)) {
        match &self.halves {
            None => tell(Outline::Bucket(self.hash)),
            Some(halves) => {
                tell(Outline::Split);
                halves.iter().for_each(|half| half.outline(tell));
            }
        }
    }

    fn join(halves: [Self; 2]) -> Self {
        Self { hash: node_hash(&halves[0].hash, &halves[1].hash), halves: Some(Arc::new(halves)) }
    }

    /// Collects where halves are kept.
    fn count_into(&self, counted: &mut HashSet<*const [Self; 2]>) {
        if let Some(halves) = &self.halves
            && counted.insert(Arc::as_ptr(halves))
        {
            halves.iter().for_each(|half| half.count_into(counted));
        }
    }

    /// Returns how many of the keys are new.
    fn update<L: LeafHashes + ?Sized>(
        &mut self,
        kept: &L,
        changed: &[LeafHash],
        depth: usize,
    ) -> Result<u64, L::Error> {
        let Some(first) = changed.first() else { return Ok(0) };
        if let Some(halves) = &mut self.halves {
            // Other copies of the map keep theirs.
            let halves = Arc::make_mut(halves);
            let (zero, one) = split(changed, depth);
            let added = halves[0].update(kept, zero, depth + 1)? + halves[1].update(kept, one, depth + 1)?;
            self.hash = node_hash(&halves[0].hash, &halves[1].hash);
            return Ok(added);
        }
        let before = if self.hash == EMPTY { Vec::new() } else { kept.hashes_under(&first.key, depth)? };
        let after = merge(&before, changed);
        *self = Self::of(&after, depth);
        Ok(u64::try_from(after.len() - before.len()).expect("a bucket is small"))
    }
}

/// A part of a map, read by itself: what lies under the first bits of a path.
#[derive(Debug)]
pub struct Part {
    subtree: Subtree,
    size: u64,
    /// Its leaves, as long as they are few enough to be in one bucket with those beside them.
    few: Vec<LeafHash>,
}

impl Part {
    /// Reads the leaves whose keys begin with the first `depth` bits of a path: `next` gives them by rising key, and then nothing.
    pub fn load<E>(
        path: SubjectKey,
        depth: usize,
        mut next: impl FnMut() -> Result<Option<LeafHash>, E>,
    ) -> Result<Self, E> {
        let mut few = Vec::new();
        let next = || {
            let leaf = next()?;
            few.extend(leaf.filter(|_| few.len() <= MAX_BUCKET));
            Ok(leaf)
        };
        let mut source = Source { next, ahead: Vec::new(), size: 0 };
        let subtree = source.subtree(path, depth)?;
        Ok(Self { subtree, size: source.size, few })
    }

    /// Both halves of what lies at a depth.
    fn joined(self, other: Self, depth: usize) -> Self {
        let size = self.size + other.size;
        let mut few = self.few;
        few.extend(other.few);
        if usize::try_from(size).is_ok_and(|size| size <= MAX_BUCKET) {
            return Self { subtree: Subtree { hash: root_of(&few, depth), halves: None }, size, few };
        }
        few.truncate(MAX_BUCKET + 1);
        Self { subtree: Subtree::join([self.subtree, other.subtree]), size, few }
    }
}

/// Leaves as they come, by rising key.
struct Source<N> {
    next: N,
    /// Read, and not yet in a subtree: the first of what is to come.
    ahead: Vec<LeafHash>,
    size: u64,
}

impl<N: FnMut() -> Result<Option<LeafHash>, E>, E> Source<N> {
    /// Takes the subtree at the first `depth` bits of a path, which holds the next leaves, if it holds any.
    fn subtree(&mut self, path: SubjectKey, depth: usize) -> Result<Subtree, E> {
        while self.ahead.len() <= MAX_BUCKET
            && let Some(leaf) = (self.next)()?
        {
            self.ahead.push(leaf);
        }
        let inside = self.ahead.iter().take_while(|leaf| leaf.key.shares(&path, depth)).count();
        if inside > MAX_BUCKET && depth < MAX_DEPTH {
            let zero = self.subtree(path.with_bit(depth, false), depth + 1)?;
            let one = self.subtree(path.with_bit(depth, true), depth + 1)?;
            return Ok(Subtree::join([zero, one]));
        }
        let hash = root_of(&self.ahead[..inside], depth);
        self.ahead.drain(..inside);
        self.size += u64::try_from(inside).expect("a bucket is small");
        Ok(Subtree { hash, halves: None })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::ledger::map::{Leaf, MapProofError, Terminal};

    type Model = BTreeMap<SubjectKey, Leaf>;

    fn leaf(number: u64, count: u64) -> Leaf {
        let key = SubjectKey(Sha256::digest(number.to_be_bytes()).into());
        Leaf { key, count, root: Sha256::digest(count.to_be_bytes()).into() }
    }

    fn put(top: &mut Top, model: &mut Model, changed: &[Leaf]) {
        let changed: Model = changed.iter().map(|leaf| (leaf.key, *leaf)).collect();
        let Ok(()) = top.update(model, &all(&changed));
        model.extend(changed);
    }

    fn all(model: &Model) -> Vec<LeafHash> {
        model.values().map(Leaf::hashed).collect()
    }

    fn load(model: &Model) -> Top {
        let mut leaves = model.values();
        let Ok(top) = Top::load(|| Ok::<_, Infallible>(leaves.next().map(Leaf::hashed)));
        top
    }

    fn load_in_parts(model: &Model, depth: usize) -> Top {
        let part = |number: u8| {
            let path = SubjectKey([number.checked_shl(8 - u32::try_from(depth).expect("small")).unwrap_or(0); 32]);
            let mut leaves = model.values().filter(|leaf| leaf.key.shares(&path, depth));
            let Ok(part) = Part::load(path, depth, || Ok::<_, Infallible>(leaves.next().map(Leaf::hashed)));
            part
        };
        Top::of_parts((0..1 << depth).map(part).collect())
    }

    /// Where it is split, and what it holds there.
    fn shape(subtree: &Subtree) -> String {
        let halves = subtree.halves.as_ref().map(|halves| format!("({} {})", shape(&halves[0]), shape(&halves[1])));
        halves.unwrap_or_else(|| hex::encode(&subtree.hash[..4]))
    }

    proptest! {
        #[test]
        fn updates_loading_and_the_definition_agree(batches in prop::collection::vec(
            prop::collection::vec((0..400u64, 1..1000u64), 0..60), 0..12,
        )) {
            let (mut top, mut model) = (Top::default(), Model::new());
            for batch in batches {
                let before = (top.clone(), model.clone());
                put(&mut top, &mut model, &batch.into_iter().map(|(number, count)| leaf(number, count)).collect::<Vec<_>>());
                prop_assert_eq!(top.root(), root_of(&all(&model), 0));
                prop_assert_eq!(top.size(), model.len() as u64);
                prop_assert_eq!(load(&model).root(), top.root());
                prop_assert_eq!(load(&model).size(), top.size());
                for depth in [1, 4] {
                    let parts = load_in_parts(&model, depth);
                    prop_assert_eq!((parts.root(), parts.size()), (top.root(), top.size()));
                    prop_assert_eq!(shape(&parts.root), shape(&load(&model).root));
                }
                let mut outline = Vec::new();
                top.outline(|subtree| outline.push(subtree));
                let mut told = outline.iter().copied();
                let again = Top::of_outline(top.size(), || told.next()).expect("an outline");
                prop_assert_eq!((shape(&again.root), told.len()), (shape(&top.root), 0));
                let mut cut = outline[..outline.len() - 1].iter().copied();
                prop_assert!(Top::of_outline(top.size(), || cut.next()).is_none());
                // The copy still is what it was.
                prop_assert_eq!(before.0.root(), root_of(&all(&before.1), 0));
            }
        }
    }

    #[test]
    fn an_outline_without_end_is_none() {
        assert!(Top::of_outline(1, || Some(Outline::Split)).is_none());
    }

    #[test]
    fn every_key_is_proven_to_be_there_or_not() {
        let (mut top, mut model) = (Top::default(), Model::new());
        for number in 0..300 {
            put(&mut top, &mut model, &[leaf(number, number + 1)]);
            for asked in 0..320 {
                let key = leaf(asked, 0).key;
                let Ok(proof) = top.prove(&model, &key);
                assert_eq!(proof.verify(&key, &top.root()), Ok(()), "{asked} of {number}");
                let expected = (asked <= number).then(|| (asked + 1, leaf(asked, asked + 1).root));
                assert_eq!(proof.history(), expected, "{asked} of {number}");
            }
        }
    }

    #[test]
    fn keys_that_differ_in_their_last_bit_only_are_told_apart() {
        let (mut top, mut model) = (Top::default(), Model::new());
        let one = leaf(1, 1);
        let other = Leaf { key: one.key.with_bit(255, !one.key.bit(255)), ..leaf(2, 2) };
        put(&mut top, &mut model, &[one, other]);
        for leaf in [one, other] {
            let Ok(proof) = top.prove(&model, &leaf.key);
            assert_eq!(proof.siblings.len(), MAX_DEPTH);
            assert_eq!(proof.verify(&leaf.key, &top.root()), Ok(()));
            let mut longer = proof.clone();
            longer.siblings.push([1; 32]);
            assert_eq!(longer.verify(&leaf.key, &top.root()), Err(MapProofError::TooLong { found: 257 }));
        }
    }

    #[test]
    fn every_changed_proof_is_refused() {
        let (mut top, mut model) = (Top::default(), Model::new());
        put(&mut top, &mut model, &(0..100).map(|number| leaf(number, number + 1)).collect::<Vec<_>>());
        let root = top.root();
        for asked in 0..140 {
            let key = leaf(asked, 0).key;
            let Ok(honest) = top.prove(&model, &key);
            let refused = |proof: MapProof| proof.verify(&key, &root).expect_err("a lie");
            for position in 0..honest.siblings.len() {
                let mut changed = honest.clone();
                changed.siblings[position][31] ^= 1;
                refused(changed);
                let mut dropped = honest.clone();
                dropped.siblings.remove(position);
                refused(dropped);
                let mut added = honest.clone();
                added.siblings.insert(position, [5; 32]);
                refused(added);
            }
            let mut trailing = honest.clone();
            trailing.siblings.push([5; 32]);
            assert!(matches!(refused(trailing), MapProofError::Root | MapProofError::ElsewhereLeaf { .. }));
            let with = |terminal| MapProof { terminal, ..honest.clone() };
            match honest.terminal {
                Terminal::Own { count, root } => {
                    // Absence of what is there: an empty end, another's leaf, its own as another's.
                    assert_eq!(refused(with(Terminal::Empty)), MapProofError::Root);
                    let near = Leaf { key: key.with_bit(255, !key.bit(255)), count, root };
                    assert_eq!(refused(with(Terminal::Other(near))), MapProofError::Root);
                    let own = Leaf { key, count, root };
                    assert_eq!(refused(with(Terminal::Other(own))), MapProofError::NotOther);
                    let far = Leaf { key: key.with_bit(0, !key.bit(0)), count, root };
                    let depth = honest.siblings.len();
                    assert_eq!(refused(with(Terminal::Other(far))), MapProofError::ElsewhereLeaf { depth });
                    assert_eq!(refused(with(Terminal::Own { count: count + 1, root })), MapProofError::Root);
                    assert_eq!(refused(with(Terminal::Own { count: 0, root })), MapProofError::NoEntries);
                }
                Terminal::Other(other) => {
                    assert_eq!(refused(with(Terminal::Empty)), MapProofError::Root);
                    let longer = Terminal::Other(Leaf { count: other.count + 1, ..other });
                    assert_eq!(refused(with(longer)), MapProofError::Root);
                    let own = Terminal::Own { count: other.count, root: other.root };
                    assert_eq!(refused(with(own)), MapProofError::Root);
                }
                Terminal::Empty => {
                    let own = Terminal::Own { count: 1, root: [0; 32] };
                    assert_eq!(refused(with(own)), MapProofError::Root);
                }
            }
            let mut beside_nothing = honest.clone();
            beside_nothing.siblings.push(EMPTY);
            refused(beside_nothing);
        }
    }

    #[test]
    fn an_empty_map_has_a_root_and_proves_absence() {
        let (top, model) = (Top::default(), Model::new());
        assert_eq!((top.root(), top.size()), (EMPTY, 0));
        let Ok(proof) = top.prove(&model, &leaf(1, 1).key);
        assert_eq!(proof, MapProof { siblings: Vec::new(), terminal: Terminal::Empty });
        assert_eq!(proof.verify(&leaf(1, 1).key, &EMPTY), Ok(()));
    }
}
