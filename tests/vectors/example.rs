//! The worked example of `docs/SPEC.md`, recomputed: what stands there is what the code makes.

use std::path::Path;

use prost::Message as _;

use tagledger::ledger::entry::{SignedEntry, entry_hash};
use tagledger::ledger::history::history_leaf;
use tagledger::ledger::map::{Leaf, hashed, node_hash as map_node, root_of};
use tagledger::ledger::merkle::Hash;
use tagledger::ledger::merkle::hash::node_hash;
use tagledger::ledger::note::Skey;
use tagledger::ledger::subject::{Subject, SubjectKey};
use tagledger::proto;
use tagledger::proto::statement::Kind;

use crate::ledger::little_ledger::LittleLedger;

const TAG: &str = "docker.io/library/nginx:1.27";
const DIGEST: &str = "sha256:00b81f952d40055cb8f30e7c9307832936287b66ca08fee15f26a0ac35619c6a";
const BEGUN_US: u64 = 1_795_244_560_000_000;
const RECORDED_US: u64 = 1_795_244_565_000_000;

/// Its values, each with what it is. Numbers of bytes are written as such.
fn values() -> Vec<(&'static str, String)> {
    let seed: [u8; 32] = std::array::from_fn(|position| u8::try_from(position).expect("below 32"));
    let skey = Skey::from_seed("ledger.example/tags".parse().expect("an origin"), &seed);
    let mut ledger = LittleLedger::empty(skey, BEGUN_US, 1);
    ledger.commit();
    let pushed = proto::Statement {
        kind: Some(Kind::TagPush(proto::TagPush {
            registry: "docker.io".into(),
            repository: "library/nginx".into(),
            tag: "1.27".into(),
            digest: DIGEST.into(),
            media_type: String::new(),
            disposition: proto::Disposition::Happened.into(),
            settles: 0,
        })),
        event_id: "build-1841".into(),
        actor: "ci".into(),
        ..proto::Statement::default()
    };
    let statement = pushed.encode_to_vec();
    ledger.add_but(&pushed.into(), |_, draft| draft.record.recorded_at_us = RECORDED_US);
    ledger.commit();

    let vkey = ledger.skey.vkey();
    let entries = ledger.entries();
    let hashes: Vec<Hash> = entries.iter().map(|entry| entry_hash(entry)).collect();
    let proto::Entry { body: Some(proto::entry::Body::Record(record)), .. } =
        proto::Entry::decode(&entries[1][..]).expect("own entry")
    else {
        panic!("entry 1 is a record")
    };
    SignedEntry::decode(&entries[2]).expect("own entry").verify(&vkey).expect("own signature");

    let tag = Subject::Tag(TAG.parse().expect("a reference"));
    let leaves: Vec<Leaf> = ledger.map_at(3).values().copied().collect();
    let hex_of = |hash: &Hash| hex::encode(hash);
    let mut values = vec![
        ("the public key", hex::encode(vkey.key().as_bytes())),
        ("the key hash", hex::encode(vkey.hash())),
        ("the vkey", vkey.to_string()),
        ("the length of the statement", format!("{} bytes", statement.len())),
        ("the length of the record", format!("{} bytes", record.len())),
        ("the length of entry 1", format!("{} bytes", entries[1].len())),
        ("node of leaves 0 and 1", hex_of(&node_hash(&hashes[0], &hashes[1]))),
        ("the root", hex_of(&node_hash(&node_hash(&hashes[0], &hashes[1]), &hashes[2]))),
        ("the checkpoint", ledger.checkpoint_at(3).sign(&ledger.skey)),
        ("the tag's history leaf", hex_of(&history_leaf(1, &hashes[1], 2))),
        ("the history leaf of the others", hex_of(&history_leaf(1, &hashes[1], 0))),
        ("the tag's key", hex::encode(tag.key().0)),
        ("the digest's key", hex::encode(Subject::Digest(DIGEST.parse().expect("a digest")).key().0)),
        ("the key of all repositories", hex::encode(Subject::Repositories.key().0)),
    ];
    for (entry, hash) in entries.iter().zip(&hashes) {
        values.extend([("an entry", hex::encode(entry)), ("a leaf hash", hex_of(hash))]);
    }
    for leaf in &leaves {
        values.extend([("a key of the map", hex::encode(leaf.key.0)), ("a leaf of the map", hex_of(&leaf.hash()))]);
        assert_eq!(leaf.count, 1);
    }
    values.extend(nodes(&leaves, 0));
    let root = &ledger.evidence(&[2]).entries[0].entry;
    assert!(hex::encode(root).contains(&hex_of(&root_of(&hashed(&leaves), 0))), "the root of the map is in entry 2");
    values
}

/// The nodes of a map that lie above more than one key.
fn nodes(leaves: &[Leaf], depth: usize) -> Vec<(&'static str, String)> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let is_one = |leaf: &&Leaf| leaf.key.bit(depth);
    let one: Vec<Leaf> = leaves.iter().filter(is_one).copied().collect();
    let zero: Vec<Leaf> = leaves.iter().filter(|leaf| !is_one(leaf)).copied().collect();
    let node = map_node(&root_of(&hashed(&zero), depth + 1), &root_of(&hashed(&one), depth + 1));
    let below = [nodes(&zero, depth + 1), nodes(&one, depth + 1)].concat();
    [vec![("a node of the map", hex::encode(node))], below].concat()
}

/// Section 20 of the specification, without white space: hexadecimal is broken into lines there.
fn section() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SPEC.md");
    let text = std::fs::read_to_string(path).expect("docs/SPEC.md is there");
    let (_, after) = text.split_once("\n## 20. ").expect("a section 20");
    let (section, _) = after.split_once("\n## ").expect("an end of section 20");
    squeezed(section)
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn the_worked_example_of_the_specification_is_what_the_code_makes() {
    let section = section();
    let mut rest = section.clone();
    for (what, value) in values() {
        let value = squeezed(&value);
        assert!(section.contains(&value), "{what} is not in section 20 of docs/SPEC.md: {value}");
        rest = rest.replace(&value, " ");
    }
    // And nothing else that looks like one of them.
    rest = rest.replace(DIGEST, " ");
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let stale = rest.split(|c| !is_digit(c)).find(|run| run.len() >= 40);
    assert_eq!(stale, None, "this stands in section 20 of docs/SPEC.md, and nothing makes it");
}

#[test]
fn the_subject_keys_of_the_worked_example_are_those_that_the_specification_describes() {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new().chain_update(b"tagledger.v1.subject\n\x01");
    for component in ["docker.io", "library/nginx", "1.27"] {
        hash = hash.chain_update([0, 0, 0, u8::try_from(component.len()).expect("short")]).chain_update(component);
    }
    let tag = Subject::Tag(TAG.parse().expect("a reference"));
    assert_eq!(SubjectKey(hash.finalize().into()), tag.key());
}
