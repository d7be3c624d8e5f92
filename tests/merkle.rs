//! The Merkle core against two others: `rs_merkle`, and the recursive definitions of RFC 6962 written down as they stand
//! there.
//!
//! Exhaustive for all trees of up to 300 leaves, which reaches past one full tile of 256 and through every shape of right
//! edge. Beyond that, trees of up to 2^63 leaves whose leaves are all alike: their hashes depend on the number of leaves
//! only, so the definitions can still be followed to the letter. Every proof is corrupted hash by hash and must be refused.

mod random;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use sha2::{Digest as _, Sha256};
use tagledger::ledger::merkle::hash::{Rfc6962, empty_root};
use tagledger::ledger::merkle::multi::{multi_proof, verify_multi};
use tagledger::ledger::merkle::proof::{
    ProofError, consistency_proof, inclusion_proof, path_length, root_from_inclusion, verify_consistency,
    verify_inclusion,
};
use tagledger::ledger::merkle::tree::{MemoryNodes, MissingNode, Node};
use tagledger::ledger::merkle::{Hash, Nodes, Tree};

use random::Random;

/// Largest tree that is tested exhaustively.
const LARGEST: u64 = 300;

#[test]
fn roots_are_those_of_rs_merkle_and_of_the_definition_at_every_size() {
    let definition = Definition::new(LARGEST);
    let mut tree = Tree::default();
    assert_eq!(tree.root(), empty_root());
    for size in 1..=LARGEST {
        tree.append(definition.leaves[at(size - 1)], |_| {});
        assert_eq!(tree.size(), size);
        assert_eq!(tree.root(), definition.root(0..size), "size {size}");
        assert_eq!(Some(tree.root()), definition.oracle(size).root(), "size {size}");
    }
}

#[test]
fn a_loaded_tree_is_the_tree_that_was_appended_to() {
    let definition = Definition::new(LARGEST);
    let (mut tree, mut nodes) = (Tree::default(), MemoryNodes::default());
    assert_eq!(Tree::load(&nodes, 0), Ok(tree.clone()));
    for size in 1..=LARGEST {
        tree.append(definition.leaves[at(size - 1)], |node| nodes.insert(node));
        let loaded = Tree::load(&nodes, size).expect("all nodes were kept");
        assert_eq!(loaded, tree, "size {size}");
        // And it grows into the same tree.
        let (mut one, mut other) = (loaded, tree.clone());
        one.append([7; 32], |_| {});
        other.append([7; 32], |_| {});
        assert_eq!(one, other, "size {size}");
    }
    assert_eq!(Tree::load(&nodes, LARGEST + 1), Err(MissingNode { level: 0, index: LARGEST }));
}

#[test]
fn every_complete_subtree_is_written_once_lowest_first_with_its_last_leaf() {
    let definition = Definition::new(LARGEST);
    let mut tree = Tree::default();
    for index in 0..LARGEST {
        let mut written = Vec::new();
        tree.append(definition.leaves[at(index)], |node| written.push(node));
        let completed = (0..64).take_while(|level| (index + 1) % (1 << level) == 0);
        let expected: Vec<Node> = completed
            .map(|level| {
                let leaves = (index + 1 - (1 << level))..index + 1;
                Node { level, index: index >> level, hash: definition.root(leaves) }
            })
            .collect();
        assert_eq!(written, expected, "leaf {index}");
    }
}

#[test]
fn the_edge_is_the_complete_subtrees_that_make_up_the_tree() {
    let definition = Definition::new(LARGEST);
    let mut tree = Tree::default();
    assert_eq!(tree.edge().count(), 0);
    for size in 1..=LARGEST {
        tree.append(definition.leaves[at(size - 1)], |_| {});
        let mut begin = 0;
        for node in tree.edge() {
            assert_eq!(node.index << node.level, begin, "size {size}");
            let end = begin + (1 << node.level);
            assert_eq!(node.hash, definition.root(begin..end), "size {size}");
            begin = end;
        }
        assert_eq!(begin, size);
        assert!(tree.edge().zip(tree.edge().skip(1)).all(|(left, right)| left.level > right.level), "size {size}");
    }
}

#[test]
fn inclusion_proofs_are_those_of_rs_merkle_and_of_the_definition() {
    let definition = Definition::new(LARGEST);
    for size in 1..=LARGEST {
        let (nodes, oracle, root) = (definition.nodes(size), definition.oracle(size), definition.root(0..size));
        for index in 0..size {
            let proof = inclusion_proof(&nodes, index, size).expect("only asked for what is there");
            assert_eq!(proof, definition.path(index, 0..size), "{index} of {size}");
            assert_eq!(proof, oracle.proof(&[at(index)]).proof_hashes(), "{index} of {size}");
            assert_eq!(proof.len(), path_length(index, size), "{index} of {size}");
            let leaf = definition.leaves[at(index)];
            assert_eq!(root_from_inclusion(index, size, &leaf, &proof), Ok(root), "{index} of {size}");
            assert_eq!(verify_inclusion(index, size, &leaf, &proof, &root), Ok(()), "{index} of {size}");
        }
    }
}

#[test]
fn a_corrupted_inclusion_proof_is_refused() {
    let definition = Definition::new(LARGEST);
    for size in 1..=LARGEST {
        let (nodes, root) = (definition.nodes(size), definition.root(0..size));
        for index in 0..size {
            let (leaf, proof) = (definition.leaves[at(index)], inclusion_proof(&nodes, index, size).expect("there"));
            for_each_corruption(&proof, |what, corrupted| {
                let verdict = verify_inclusion(index, size, &leaf, corrupted, &root);
                assert_refused(verdict, corrupted.len(), proof.len(), || format!("{index} of {size}, {what}"));
            });
            assert_eq!(verify_inclusion(index, size, &flipped(&leaf), &proof, &root), Err(ProofError::Root));
            assert_eq!(verify_inclusion(index, size, &leaf, &proof, &flipped(&root)), Err(ProofError::Root));
        }
    }
}

#[test]
fn an_inclusion_proof_holds_for_no_other_index() {
    let definition = Definition::new(LARGEST);
    for size in 1..=LARGEST {
        let (nodes, root) = (definition.nodes(size), definition.root(0..size));
        // All others in small trees, the neighbourhood and the far ends in large ones.
        let others = |index: u64| {
            (0..size).filter(move |&other| other != index && (size <= 40 || other.abs_diff(index) <= 4 || other == 0))
        };
        for index in 0..size {
            let (leaf, proof) = (definition.leaves[at(index)], inclusion_proof(&nodes, index, size).expect("there"));
            for other in others(index) {
                assert!(verify_inclusion(other, size, &leaf, &proof, &root).is_err(), "{index} as {other} of {size}");
                let other_leaf = definition.leaves[at(other)];
                assert!(
                    verify_inclusion(index, size, &other_leaf, &proof, &root).is_err(),
                    "leaf {other} at {index} of {size}"
                );
            }
            for beyond in [size, size + 1, size + 255, u64::MAX] {
                let refused = Err(ProofError::IndexBeyondTree { index: beyond, size });
                assert_eq!(verify_inclusion(beyond, size, &leaf, &proof, &root), refused);
            }
        }
        assert!(verify_inclusion(0, 0, &root, &[], &root).is_err(), "the empty tree has no leaves");
    }
}

/// A proof says nothing about the size by itself: leaf 0 has the same path shape in trees of 3 and of 4 leaves. That is why
/// checkpoints sign size and root together, and why the root of the other size must refuse every proof.
#[test]
fn an_inclusion_proof_holds_for_another_size_only_where_the_path_has_the_same_shape() {
    let definition = Definition::new(LARGEST);
    let mut accepted = 0;
    for size in 1..=LARGEST {
        let (nodes, root) = (definition.nodes(size), definition.root(0..size));
        for index in 0..size {
            let (leaf, proof) = (definition.leaves[at(index)], inclusion_proof(&nodes, index, size).expect("there"));
            for other in [size - 1, size + 1, size + 2, size * 2, 1] {
                if other == size || other > LARGEST || index >= other {
                    continue;
                }
                let same_shape = turns(index, other) == turns(index, size);
                let verdict = verify_inclusion(index, other, &leaf, &proof, &root);
                assert_eq!(verdict.is_ok(), same_shape, "{index} of {size} as of {other}");
                accepted += u32::from(same_shape);
                let other_root = definition.root(0..other);
                assert!(
                    verify_inclusion(index, other, &leaf, &proof, &other_root).is_err(),
                    "{index} of {size} under the root of {other}"
                );
            }
        }
    }
    assert!(accepted > 0, "the case that the comment speaks of was met");
}

#[test]
fn consistency_proofs_are_those_of_the_definition_for_all_pairs() {
    let definition = Definition::new(LARGEST);
    for second in 1..=LARGEST {
        let (nodes, second_root) = (definition.nodes(second), definition.root(0..second));
        for first in 1..=second {
            let first_root = definition.root(0..first);
            let proof = consistency_proof(&nodes, first, second).expect("only asked for what is there");
            assert_eq!(proof, definition.subproof(first, 0..second, true), "{first} to {second}");
            let verdict = verify_consistency(first, second, &first_root, &second_root, &proof);
            assert_eq!(verdict, Ok(()), "{first} to {second}");
        }
    }
}

#[test]
fn a_corrupted_consistency_proof_is_refused() {
    let definition = Definition::new(LARGEST);
    for second in 1..=LARGEST {
        let (nodes, new) = (definition.nodes(second), definition.root(0..second));
        for first in 1..=second {
            let old = definition.root(0..first);
            let proof = consistency_proof(&nodes, first, second).expect("there");
            for_each_corruption(&proof, |what, corrupted| {
                let verdict = verify_consistency(first, second, &old, &new, corrupted);
                assert_refused(verdict, corrupted.len(), proof.len(), || format!("{first} to {second}, {what}"));
            });
            let refused = Err(ProofError::Root);
            assert_eq!(verify_consistency(first, second, &flipped(&old), &new, &proof), refused, "{first} {second}");
            assert_eq!(verify_consistency(first, second, &old, &flipped(&new), &proof), refused, "{first} {second}");
            if first != second {
                assert!(verify_consistency(first, second, &new, &old, &proof).is_err(), "{first} to {second}");
                let backwards = Err(ProofError::Sizes { first: second, second: first });
                assert_eq!(verify_consistency(second, first, &new, &old, &proof), backwards);
            }
        }
        let from_nothing = Err(ProofError::Sizes { first: 0, second });
        assert_eq!(verify_consistency(0, second, &empty_root(), &new, &[]), from_nothing);
    }
}

/// The proof must be refused for the honest roots of other sizes: what two signed checkpoints would say.
#[test]
fn a_consistency_proof_holds_for_no_other_pair_of_checkpoints() {
    const LARGEST: u64 = 40;
    let definition = Definition::new(LARGEST);
    for second in 1..=LARGEST {
        let nodes = definition.nodes(second);
        for first in 1..second {
            let proof = consistency_proof(&nodes, first, second).expect("there");
            for other_second in 1..=LARGEST {
                for other_first in 1..=other_second {
                    if (other_first, other_second) == (first, second) {
                        continue;
                    }
                    let (old, new) = (definition.root(0..other_first), definition.root(0..other_second));
                    assert!(
                        verify_consistency(other_first, other_second, &old, &new, &proof).is_err(),
                        "{first} to {second} as {other_first} to {other_second}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_log_that_rewrote_a_leaf_has_no_consistency_proof_to_show() {
    const LARGEST: u64 = 40;
    let honest = Definition::new(LARGEST);
    for rewritten in 0..LARGEST {
        let mut leaves = honest.leaves.clone();
        leaves[at(rewritten)] = leaf_hash(b"rewritten");
        let forked = Definition::of(leaves);
        for first in rewritten + 1..=LARGEST {
            for second in first..=LARGEST {
                let (old, new) = (honest.root(0..first), forked.root(0..second));
                for definition in [&honest, &forked] {
                    let proof = consistency_proof(&definition.nodes(second), first, second).expect("there");
                    assert!(
                        verify_consistency(first, second, &old, &new, &proof).is_err(),
                        "leaf {rewritten}, {first} to {second}"
                    );
                }
            }
        }
    }
}

#[test]
fn multi_proofs_of_all_pairs_are_right_and_refused_when_corrupted() {
    for size in 2..=40 {
        let definition = Definition::new(size);
        for one in 0..size {
            for other in one + 1..size {
                check_multi_proof(&definition, size, &[one, other], true);
            }
        }
    }
}

#[test]
fn multi_proofs_of_single_leaves_are_audit_paths() {
    let definition = Definition::new(LARGEST);
    for size in 1..=LARGEST {
        let nodes = definition.nodes(size);
        for index in 0..size {
            let proof = multi_proof(&nodes, &[index], size).expect("there");
            assert_eq!(proof, definition.path(index, 0..size), "{index} of {size}");
        }
        check_multi_proof(&definition, size, &[size - 1], true);
    }
}

#[test]
fn multi_proofs_of_neighbours_are_right_and_refused_when_corrupted() {
    let definition = Definition::new(LARGEST);
    for size in 2..=LARGEST {
        for index in 0..size - 1 {
            check_multi_proof(&definition, size, &[index, index + 1], true);
        }
    }
}

#[test]
fn a_multi_proof_of_all_leaves_is_empty_and_binds_every_leaf() {
    let definition = Definition::new(LARGEST);
    for size in 1..=LARGEST {
        let all: Vec<u64> = (0..size).collect();
        assert_eq!(multi_proof(&definition.nodes(size), &all, size), Ok(vec![]), "size {size}");
        check_multi_proof(&definition, size, &all, size <= 40 || size % 64 <= 1);
    }
}

#[test]
fn multi_proofs_of_random_subsets_are_right_and_refused_when_corrupted() {
    let mut random = Random::new();
    let definition = Definition::new(LARGEST);
    for _ in 0..1500 {
        let size = 1 + random.below(LARGEST);
        // From nearly none to nearly all of them.
        let density = 1 + random.below(100);
        let mut indexes: Vec<u64> = (0..size).filter(|_| random.below(100) < density).collect();
        if indexes.is_empty() {
            indexes.push(random.below(size));
        }
        check_multi_proof(&definition, size, &indexes, random.below(10) == 0);
    }
}

#[test]
fn leaves_of_a_multi_proof_must_rise_inside_the_tree_and_be_there() {
    let definition = Definition::new(20);
    for size in 2..=20 {
        let (root, nodes) = (definition.root(0..size), definition.nodes(size));
        let leaf = |index: u64| (index, definition.leaves[at(index)]);
        assert_eq!(verify_multi(&[], size, &[], &root), Err(ProofError::Leaves));
        assert_eq!(verify_multi(&[], size, &[root], &root), Err(ProofError::Leaves));
        for one in 0..size {
            let proof = multi_proof(&nodes, &[one], size).expect("there");
            assert_eq!(verify_multi(&[leaf(one), leaf(one)], size, &proof, &root), Err(ProofError::Leaves));
            for beyond in [size, size + 1, u64::MAX] {
                let refused = Err(ProofError::IndexBeyondTree { index: beyond, size });
                assert_eq!(verify_multi(&[(beyond, leaf(one).1)], size, &proof, &root), refused);
                assert_eq!(verify_multi(&[leaf(one), (beyond, leaf(one).1)], size, &proof, &root), refused);
            }
            for other in one + 1..size {
                let proof = multi_proof(&nodes, &[one, other], size).expect("there");
                let falling = [leaf(other), leaf(one)];
                assert_eq!(verify_multi(&falling, size, &proof, &root), Err(ProofError::Leaves), "{one} {other}");
            }
        }
    }
    assert_eq!(verify_multi(&[], 0, &[], &empty_root()), Err(ProofError::Leaves));
}

#[test]
fn trees_of_up_to_two_to_the_63_leaves_follow_the_definition() {
    let alike = Alike::new();
    for size in large_sizes() {
        let root = alike.root(size);
        let indexes = [0, 1, 2, size / 3, size / 2 - 1, size / 2, size - 3, size - 2, size - 1];
        for index in indexes {
            let proof = inclusion_proof(&alike, index, size).expect("infallible");
            assert_eq!(proof, alike.path(index, size), "{index} of {size}");
            assert_eq!(verify_inclusion(index, size, &alike.leaf(), &proof, &root), Ok(()), "{index} of {size}");
            let refused = Err(ProofError::Length { found: proof.len() - 1, expected: proof.len() });
            assert_eq!(verify_inclusion(index, size, &alike.leaf(), &proof[1..], &root), refused);
            assert_eq!(verify_multi(&[(index, alike.leaf())], size, &proof, &root), Ok(()), "{index} of {size}");
        }
        for first in indexes.into_iter().filter(|&first| first > 0) {
            let proof = consistency_proof(&alike, first, size).expect("infallible");
            assert_eq!(proof, alike.subproof(first, size, true), "{first} to {size}");
            let verdict = verify_consistency(first, size, &alike.root(first), &root, &proof);
            assert_eq!(verdict, Ok(()), "{first} to {size}");
            for hash in 0..proof.len() {
                let mut corrupted = proof.clone();
                corrupted[hash] = flipped(&corrupted[hash]);
                let verdict = verify_consistency(first, size, &alike.root(first), &root, &corrupted);
                assert_eq!(verdict, Err(ProofError::Root), "{first} to {size}, hash {hash}");
            }
        }
        let leaves: Vec<(u64, Hash)> = indexes.iter().map(|&index| (index, alike.leaf())).collect();
        let proof = multi_proof(&alike, &indexes, size).expect("infallible");
        assert_eq!(verify_multi(&leaves, size, &proof, &root), Ok(()), "size {size}");
        for hash in 0..proof.len() {
            let mut corrupted = proof.clone();
            corrupted[hash] = flipped(&corrupted[hash]);
            assert_eq!(verify_multi(&leaves, size, &corrupted, &root), Err(ProofError::Root), "size {size}");
        }
    }
}

#[test]
fn sizes_and_indexes_up_to_the_last_u64_are_refused_without_a_panic() {
    let hash = [1; 32];
    for proof_length in [0, 1, 62, 63, 64, 65, 1000] {
        let proof = vec![hash; proof_length];
        for size in [0, 1, u64::MAX - 1, u64::MAX] {
            for index in [0, 1, u64::MAX - 2, u64::MAX - 1, u64::MAX] {
                assert_eq!(
                    verify_inclusion(index, size, &hash, &proof, &hash).is_ok(),
                    index == 0 && size == 1 && proof_length == 0
                );
                assert_eq!(
                    verify_multi(&[(index, hash)], size, &proof, &hash).is_ok(),
                    index == 0 && size == 1 && proof_length == 0
                );
                assert_eq!(
                    verify_consistency(index, size, &hash, &hash, &proof).is_ok(),
                    index == size && index > 0 && proof_length == 0
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "inclusion proof asked for leaf 3 of 3")]
fn asking_for_the_proof_of_a_leaf_beyond_the_tree_is_a_bug_of_the_caller() {
    let _ = inclusion_proof(&Definition::new(3).nodes(3), 3, 3);
}

#[test]
#[should_panic(expected = "consistency proof asked from 0 to 3")]
fn asking_for_consistency_with_the_empty_tree_is_a_bug_of_the_caller() {
    let _ = consistency_proof(&Definition::new(3).nodes(3), 0, 3);
}

#[test]
#[should_panic(expected = "multi-proof asked for [2, 1] of 3")]
fn asking_for_a_multi_proof_of_falling_leaves_is_a_bug_of_the_caller() {
    let _ = multi_proof(&Definition::new(3).nodes(3), &[2, 1], 3);
}

/// Makes the proof, compares it with both oracles, and checks that it and only it is accepted.
fn check_multi_proof(definition: &Definition, size: u64, indexes: &[u64], corrupt: bool) {
    let case = || format!("{indexes:?} of {size}");
    let root = definition.root(0..size);
    let proof = multi_proof(&definition.nodes(size), indexes, size).expect("only asked for what is there");
    assert_eq!(proof, definition.multi_path(indexes, size), "{}", case());
    let positions: Vec<usize> = indexes.iter().map(|&index| at(index)).collect();
    assert_eq!(proof, definition.oracle(size).proof(&positions).proof_hashes(), "{}", case());
    let leaves: Vec<(u64, Hash)> = indexes.iter().map(|&index| (index, definition.leaves[at(index)])).collect();
    assert_eq!(verify_multi(&leaves, size, &proof, &root), Ok(()), "{}", case());
    if !corrupt {
        return;
    }
    for_each_corruption(&proof, |what, corrupted| {
        let verdict = verify_multi(&leaves, size, corrupted, &root);
        assert_refused(verdict, corrupted.len(), proof.len(), || format!("{}, {what}", case()));
    });
    assert_eq!(verify_multi(&leaves, size, &proof, &flipped(&root)), Err(ProofError::Root), "{}", case());
    for position in 0..leaves.len() {
        let mut corrupted = leaves.clone();
        corrupted[position].1 = flipped(&corrupted[position].1);
        assert_eq!(verify_multi(&corrupted, size, &proof, &root), Err(ProofError::Root), "{}", case());
        let mut dropped = leaves.clone();
        dropped.remove(position);
        assert!(verify_multi(&dropped, size, &proof, &root).is_err(), "{}", case());
        if position > 0 {
            let mut swapped = leaves.clone();
            (swapped[position].1, swapped[position - 1].1) = (swapped[position - 1].1, swapped[position].1);
            assert_eq!(verify_multi(&swapped, size, &proof, &root), Err(ProofError::Root), "{}", case());
        }
        // The same leaf claimed at a free place beside its own.
        for other in [indexes[position].wrapping_sub(1), indexes[position] + 1] {
            let mut moved = leaves.clone();
            moved[position].0 = other;
            if !indexes.contains(&other) {
                assert!(verify_multi(&moved, size, &proof, &root).is_err(), "{}", case());
            }
        }
    }
}

/// Every way of spoiling a proof hash by hash: each hash flipped, dropped, duplicated, swapped with the next; one more before
/// and after.
fn for_each_corruption(proof: &[Hash], mut try_it: impl FnMut(&str, &[Hash])) {
    for position in 0..proof.len() {
        let mut changed = proof.to_vec();
        changed[position] = flipped(&changed[position]);
        try_it("flipped", &changed);
        let mut dropped = proof.to_vec();
        dropped.remove(position);
        try_it("dropped", &dropped);
        let mut doubled = proof.to_vec();
        doubled.insert(position, proof[position]);
        try_it("duplicated", &doubled);
        if position > 0 {
            let mut swapped = proof.to_vec();
            swapped.swap(position - 1, position);
            try_it("swapped", &swapped);
        }
    }
    for extra in [[0; 32], leaf_hash(b"trailing")] {
        try_it("trailing", &[proof, &[extra]].concat());
        try_it("leading", &[&[extra], proof].concat());
    }
}

/// A proof of the wrong length must be called that; one of the right length must lead to another root.
fn assert_refused(verdict: Result<(), ProofError>, found: usize, expected: usize, case: impl Fn() -> String) {
    let reason = if found == expected { ProofError::Root } else { ProofError::Length { found, expected } };
    assert_eq!(verdict, Err(reason), "{}", case());
}

fn flipped(hash: &Hash) -> Hash {
    let mut flipped = *hash;
    flipped[31] ^= 1;
    flipped
}

fn at(index: u64) -> usize {
    usize::try_from(index).expect("small")
}

/// `MTH({d})`
fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::digest([&[0], leaf].concat()).into()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::digest([&[1][..], left, right].concat()).into()
}

/// RFC 6962's k: the largest power of two smaller than n.
fn k(n: u64) -> u64 {
    let mut k = 1;
    // Not `k * 2 < n`, which overflows for the largest trees.
    while k < n - k {
        k *= 2;
    }
    k
}

/// Which way the path to a leaf turns at each node from the root down.
fn turns(index: u64, size: u64) -> Vec<bool> {
    if size == 1 {
        return vec![];
    }
    let k = k(size);
    let (right, rest) = if index < k { (false, turns(index, k)) } else { (true, turns(index - k, size - k)) };
    [vec![right], rest].concat()
}

/// Sizes around every power of two, up to the largest log that tiles can address.
fn large_sizes() -> impl Iterator<Item = u64> {
    (4..=63).flat_map(|power| [-1i64, 0, 1].map(|offset| (1u64 << power).wrapping_add_signed(offset)))
}

/// RFC 6962 section 2.1, to the letter. Hashes of ranges are remembered, nothing else is clever.
struct Definition {
    leaves: Vec<Hash>,
    remembered: RefCell<HashMap<Range<u64>, Hash>>,
    oracles: RefCell<HashMap<u64, std::rc::Rc<rs_merkle::MerkleTree<Rfc6962>>>>,
}

impl Definition {
    fn new(size: u64) -> Self {
        Self::of((0..size).map(|index| leaf_hash(&index.to_be_bytes())).collect())
    }

    fn of(leaves: Vec<Hash>) -> Self {
        Self { leaves, remembered: RefCell::default(), oracles: RefCell::default() }
    }

    /// `MTH(D[begin:end])`
    fn root(&self, range: Range<u64>) -> Hash {
        let n = range.end - range.start;
        if n == 1 {
            return self.leaves[at(range.start)];
        }
        if let Some(hash) = self.remembered.borrow().get(&range) {
            return *hash;
        }
        let split = range.start + k(n);
        let hash = node_hash(&self.root(range.start..split), &self.root(split..range.end));
        self.remembered.borrow_mut().insert(range, hash);
        hash
    }

    /// `PATH(m, D[begin:end])`
    fn path(&self, m: u64, range: Range<u64>) -> Vec<Hash> {
        let n = range.end - range.start;
        if n == 1 {
            return vec![];
        }
        let split = range.start + k(n);
        if m < k(n) {
            [self.path(m, range.start..split), vec![self.root(split..range.end)]].concat()
        } else {
            [self.path(m - k(n), split..range.end), vec![self.root(range.start..split)]].concat()
        }
    }

    /// `SUBPROOF(m, D[begin:end], b)`
    fn subproof(&self, m: u64, range: Range<u64>, b: bool) -> Vec<Hash> {
        let n = range.end - range.start;
        if m == n {
            return if b { vec![] } else { vec![self.root(range)] };
        }
        let split = range.start + k(n);
        if m <= k(n) {
            [self.subproof(m, range.start..split, b), vec![self.root(split..range.end)]].concat()
        } else {
            [self.subproof(m - k(n), split..range.end, false), vec![self.root(range.start..split)]].concat()
        }
    }

    /// The subtrees beside the paths to all the leaves, from the lowest level up, on a level from left to right. A subtree is on
    /// the level of the one it is hashed with.
    fn multi_path(&self, indexes: &[u64], size: u64) -> Vec<Hash> {
        let mut beside = Vec::new();
        self.beside(indexes, 0..size, &mut beside);
        beside.sort_by_key(|(level, begin, _)| (*level, *begin));
        beside.into_iter().map(|(_, _, hash)| hash).collect()
    }

    fn beside(&self, indexes: &[u64], range: Range<u64>, beside: &mut Vec<(u32, u64, Hash)>) {
        let n = range.end - range.start;
        if n == 1 {
            return;
        }
        let split = range.start + k(n);
        for half in [range.start..split, split..range.end] {
            if indexes.iter().any(|index| half.contains(index)) {
                self.beside(indexes, half, beside);
            } else {
                beside.push((k(n).ilog2(), half.start, self.root(half)));
            }
        }
    }

    /// The complete subtrees of the tree as it was at a size.
    fn nodes(&self, size: u64) -> NodesAt<'_> {
        NodesAt { definition: self, size }
    }

    fn oracle(&self, size: u64) -> std::rc::Rc<rs_merkle::MerkleTree<Rfc6962>> {
        let mut oracles = self.oracles.borrow_mut();
        let tree = || std::rc::Rc::new(rs_merkle::MerkleTree::from_leaves(&self.leaves[..at(size)]));
        oracles.entry(size).or_insert_with(tree).clone()
    }
}

struct NodesAt<'a> {
    definition: &'a Definition,
    size: u64,
}

impl Nodes for NodesAt<'_> {
    type Error = MissingNode;

    fn node(&self, level: u8, index: u64) -> Result<Hash, MissingNode> {
        let leaves = index << level..(index + 1) << level;
        if leaves.end > self.size {
            return Err(MissingNode { level, index });
        }
        Ok(self.definition.root(leaves))
    }
}

/// The definition again, for trees whose leaves are all the same: a hash depends on the number of leaves below it only.
struct Alike(RefCell<HashMap<u64, Hash>>);

impl Alike {
    fn new() -> Self {
        Self(RefCell::default())
    }

    fn leaf(&self) -> Hash {
        leaf_hash(b"alike")
    }

    fn root(&self, n: u64) -> Hash {
        if n == 1 {
            return self.leaf();
        }
        if let Some(hash) = self.0.borrow().get(&n) {
            return *hash;
        }
        let hash = node_hash(&self.root(k(n)), &self.root(n - k(n)));
        self.0.borrow_mut().insert(n, hash);
        hash
    }

    fn path(&self, m: u64, n: u64) -> Vec<Hash> {
        if n == 1 {
            return vec![];
        }
        let k = k(n);
        if m < k {
            [self.path(m, k), vec![self.root(n - k)]].concat()
        } else {
            [self.path(m - k, n - k), vec![self.root(k)]].concat()
        }
    }

    fn subproof(&self, m: u64, n: u64, b: bool) -> Vec<Hash> {
        if m == n {
            return if b { vec![] } else { vec![self.root(n)] };
        }
        let k = k(n);
        if m <= k {
            [self.subproof(m, k, b), vec![self.root(n - k)]].concat()
        } else {
            [self.subproof(m - k, n - k, false), vec![self.root(k)]].concat()
        }
    }
}

impl Nodes for Alike {
    type Error = std::convert::Infallible;

    fn node(&self, level: u8, _index: u64) -> Result<Hash, Self::Error> {
        Ok(self.root(1 << level))
    }
}
