//! `log.json`: a whole small log, what follows from it, and entries and checkpoints that nobody may accept.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::{Value, json};

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry, entry_hash, sign_commitment, sign_record};
use tagledger::ledger::history::{history_leaf, map_leaf};
use tagledger::ledger::map;
use tagledger::ledger::merkle::Tree;
use tagledger::ledger::merkle::multi::verify_multi;
use tagledger::ledger::merkle::proof::{verify_consistency, verify_inclusion};
use tagledger::ledger::merkle::tile::{push_bundled, split_bundle};
use tagledger::ledger::note::{Skey, Vkey};
use tagledger::ledger::signature;
use tagledger::ledger::subject::{Effect, SubjectKey, effect_on, named_by};
use tagledger::proto;
use tagledger::proto::statement::Kind;

use crate::ledger::little_ledger::{LittleLedger, Submission};
use crate::values::{at, bytes, hash, hashes, hexes, list, number, read, text};
use crate::{FIRST_TIME_US, ORIGIN, WITNESS_SEED, add_group_order, producer, skey, story};

/// The log, what a replay must find, its checkpoint, and proofs for it.
pub(crate) fn log() -> Value {
    let ledger = written();
    let size = ledger.size();
    let checkpoint = ledger.checkpoint_at(size);
    let evidence: Vec<u64> = vec![3, 4, 8, size - 1];
    let multi_proof = ledger.evidence(&evidence).proof;
    let leaf = |leaf: &map::Leaf| {
        json!({
            "key": hex::encode(leaf.key.0),
            "count": leaf.count,
            "root": hex::encode(leaf.root),
            "leaf_hash": hex::encode(leaf.hash()),
        })
    };
    json!({
        "vkey": skey().vkey().to_string(),
        "entries": ledger.entries().iter().map(|entry| described(&ledger, entry)).collect::<Vec<_>>(),
        "map": ledger.map_at(size).values().map(leaf).collect::<Vec<_>>(),
        "checkpoint": { "size": size, "root": hex::encode(checkpoint.root), "note": checkpoint.sign(&skey()) },
        "cosigned": cosigned(&checkpoint),
        "inclusion": (0..size).map(|index| hexes(&ledger.inclusion(index, size))).collect::<Vec<_>>(),
        "earlier": {
            "size": 6,
            "note": ledger.checkpoint_at(6).sign(&skey()),
            "consistency": hexes(&ledger.consistency(6, size)),
        },
        "evidence": { "indexes": evidence, "proof": multi_proof.iter().map(hex::encode).collect::<Vec<_>>() },
        "bundle": hex::encode(bundle_of(ledger.entries())),
        "refused_entries": refused_entries(ledger.entries()),
        "refused_checkpoints": refused_checkpoints(&checkpoint),
    })
}

/// Writes the story as a ledger would: each batch closed by a commitment, and one commitment before all.
fn written() -> LittleLedger {
    let mut ledger = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    ledger.commit();
    for batch in story() {
        for statement in batch {
            ledger.add(&sent(statement));
        }
        ledger.commit();
    }
    ledger
}

/// The producer signs what it asks for, and leaves the rest to its token; the policy is the operator's.
fn sent(statement: proto::Statement) -> Submission {
    match &statement.kind {
        Some(Kind::TagPush(_)) => {
            let signed = signature::sign(&producer(), &signature::statement_message(&statement.encode_to_vec()));
            let key_id = signature::key_id(&producer().verifying_key());
            Submission {
                assurance: proto::Assurance::Signed,
                producer: Some(proto::Producer { key_id, signature: signed.to_vec() }),
                ..statement.into()
            }
        }
        Some(Kind::PolicyChange(_)) => Submission { principal: "operator".into(), ..statement.into() },
        _ => statement.into(),
    }
}

fn described(ledger: &LittleLedger, entry: &[u8]) -> Value {
    let (name, said) = match SignedEntry::decode(entry).expect("own entry").body {
        Body::Commitment(commitment) => {
            let map_root = hex::encode(&commitment.map_root);
            ("commitment", json!({ "map_root": map_root, "map_size": commitment.map_size }))
        }
        Body::Record(record, statement) => {
            let subject = |reference: &proto::Subject| {
                let subject = named_by(&statement, reference).expect("own record");
                let effective = ledger.history(&subject)[at(reference.version)].effective;
                json!({
                    "kind": subject.kind().as_str_name(),
                    "key": hex::encode(subject.key().0),
                    "version": reference.version,
                    "name": reference.name,
                    "effective": effective,
                    "history_leaf": hex::encode(history_leaf(record.index, &entry_hash(entry), effective)),
                })
            };
            let said = json!({
                "statement": hex::encode(&record.statement),
                "principal": record.principal,
                "assurance": record.assurance().as_str_name(),
                "signed_by_producer": record.producer.is_some(),
                "outcome": record.outcome().as_str_name(),
                "rule": record.rule,
                "detail": record.detail,
                "subjects": record.subjects.iter().map(subject).collect::<Vec<_>>(),
            });
            ("record", said)
        }
    };
    let (index, recorded_at_us) = tagledger::ledger::entry::index_and_time(entry).expect("own entry");
    json!({
        "index": index,
        "recorded_at_us": recorded_at_us,
        name: said,
        "entry": hex::encode(entry),
        "leaf_hash": hex::encode(entry_hash(entry)),
    })
}

/// The note with a line of a witness that the verifier does not know.
pub(crate) fn cosigned(checkpoint: &Checkpoint) -> String {
    let note = checkpoint.sign(&skey());
    let text = note.split_inclusive("\n\n").next().expect("a text").trim_end_matches('\n');
    let witness = Skey::from_seed("witness.example".parse().expect("valid"), &WITNESS_SEED);
    let line = witness.sign_note(&format!("{text}\n"));
    format!("{note}{}", line.rsplit_once("\n\n").expect("signed").1)
}

fn bundle_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bundle = Vec::new();
    entries.iter().for_each(|entry| push_bundled(&mut bundle, entry));
    bundle
}

fn refused_entries(entries: &[Vec<u8>]) -> Vec<Value> {
    let (commitment, record) = (&entries[0], &entries[3]);
    let decoded = proto::Entry::decode(&record[..]).expect("own entry");
    let Some(proto::entry::Body::Record(body)) = &decoded.body else { panic!("a record") };
    let changed_record = |change: &dyn Fn(&mut proto::Record)| {
        let mut record = proto::Record::decode(&body[..]).expect("own record");
        change(&mut record);
        sign_record(&record, &skey())
    };
    let signed_by = |signature: [u8; 64]| {
        proto::Entry { body: decoded.body.clone(), signature: signature.to_vec() }.encode_to_vec()
    };
    let origin = skey().origin().clone();
    let other_origin = "ledger.example/other".parse().expect("valid");
    let mut high: [u8; 64] = decoded.signature.clone().try_into().expect("64 bytes");
    add_group_order(&mut high);
    let other = Skey::from_seed(origin.clone(), &[9; 32]);
    let mut changed = record.clone();
    changed[40] ^= 1;
    let map_root = |length| {
        let commitment =
            proto::Commitment { index: 0, recorded_at_us: FIRST_TIME_US, map_root: vec![0; length], map_size: 0 };
        sign_commitment(&commitment, &skey())
    };
    let out_of_order = [&record[record.len() - 66..], &record[..record.len() - 66]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a byte of the body is changed", changed),
        ("the last byte is missing", record[..record.len() - 1].to_vec()),
        ("a byte trails", [&record[..], &[0]].concat()),
        ("an unknown field trails", [&record[..], &[0x20, 0x01]].concat()),
        ("the signature comes before the body", out_of_order),
        ("another entry follows", [&record[..], commitment].concat()),
        (
            "it is signed by another key",
            signed_by(signature::sign(other.key(), &signature::entry_message(&origin, body))),
        ),
        (
            "it is signed for another origin",
            signed_by(signature::sign(skey().key(), &signature::entry_message(&other_origin, body))),
        ),
        ("the signature covers the body without the prefix", signed_by(signature::sign(skey().key(), body))),
        ("S of the signature is not below the order of the group", signed_by(high)),
        ("the outcome is unknown", changed_record(&|record| record.outcome = 8)),
        ("the outcome is missing", changed_record(&|record| record.outcome = 0)),
        ("the assurance is unknown", changed_record(&|record| record.assurance = 5)),
        ("it names no subject", changed_record(&|record| record.subjects.clear())),
        ("a subject has an unknown kind", changed_record(&|record| record.subjects[0].kind = 11)),
        (
            "the producer's signature has 63 bytes",
            changed_record(&|record| {
                record.producer.as_mut().expect("signed").signature.pop();
            }),
        ),
        (
            "its statement has a field that the definition does not know",
            changed_record(&|record| {
                record.statement.extend(b"\xa2\x06\x00");
            }),
        ),
        ("its statement is missing", changed_record(&|record| record.statement.clear())),
        ("the map root has 31 bytes", map_root(31)),
        ("the map root is missing", map_root(0)),
        ("it has no body", [&[0x1a, 64][..], &[0; 64]].concat()),
        ("it is empty", vec![]),
    ];
    cases.into_iter().map(|(reason, entry)| json!({ "reason": reason, "entry": hex::encode(entry) })).collect()
}

fn refused_checkpoints(checkpoint: &Checkpoint) -> Vec<Value> {
    assert_eq!(checkpoint.size, 15, "as it is written below");
    let note = checkpoint.sign(&skey());
    let root = BASE64.encode(checkpoint.root);
    let sign = |text: &str| skey().sign_note(text);
    let (text, line) = note.split_once("\n\n").expect("signed");
    let other = Skey::from_seed(skey().origin().clone(), &[9; 32]);
    let wrong_line = sign("something else\n").split_once("\n\n").expect("signed").1.to_owned();
    let cases: Vec<(&str, String)> = vec![
        ("the size is another one than was signed", note.replacen("\n15\n", "\n16\n", 1)),
        ("it is signed by another key of the same name", checkpoint.sign(&other)),
        ("it is of another origin", sign(&format!("ledger.example/other\n15\n{root}\n"))),
        ("it is not signed", format!("{text}\n\n")),
        ("the signature line is cut short", note.trim_end_matches('\n').to_owned()),
        ("a second line by the same key does not match", format!("{note}{wrong_line}")),
        ("the dash is a hyphen", note.replace('\u{2014}', "-")),
        ("an empty line is missing", format!("{text}\n{line}")),
        ("a line trails", format!("{note}x\n")),
        ("it has an extension line", sign(&format!("{ORIGIN}\n15\n{root}\nextension\n"))),
        ("it has two lines", sign(&format!("{ORIGIN}\n15\n"))),
        ("the size has a leading zero", sign(&format!("{ORIGIN}\n015\n{root}\n"))),
        ("the size has a sign", sign(&format!("{ORIGIN}\n+15\n{root}\n"))),
        ("the size is 2^64", sign(&format!("{ORIGIN}\n18446744073709551616\n{root}\n"))),
        ("the root has 31 bytes", sign(&format!("{ORIGIN}\n15\n{}\n", BASE64.encode(&checkpoint.root[..31])))),
        ("the root's base64 is not padded", sign(&format!("{ORIGIN}\n15\n{}\n", root.trim_end_matches('=')))),
        ("it has a carriage return", note.replacen('\n', "\r\n", 1)),
    ];
    cases.into_iter().map(|(reason, note)| json!({ "reason": reason, "note": note })).collect()
}

// Reading it, as a stranger would.

#[test]
fn the_log_holds_and_what_was_corrupted_in_it_does_not() {
    let file = read("log.json");
    let vkey: Vkey = text(&file["vkey"]).parse().expect("valid");
    let checkpoint = Checkpoint::open(text(&file["checkpoint"]["note"]), &vkey).expect("valid");
    assert_eq!(checkpoint.size, number(&file["checkpoint"]["size"]));
    assert_eq!(checkpoint.root, hash(&file["checkpoint"]["root"]));
    assert_eq!(Checkpoint::open(text(&file["cosigned"]), &vkey), Ok(checkpoint));

    let mut tree = Tree::default();
    let entries: Vec<Vec<u8>> = list(&file["entries"]).iter().map(|case| bytes(&case["entry"])).collect();
    for (index, (case, entry)) in (0..).zip(list(&file["entries"]).iter().zip(&entries)) {
        let decoded = SignedEntry::decode(entry).expect("valid");
        decoded.verify(&vkey).expect("signed");
        assert_eq!((decoded.body.index(), number(&case["index"])), (index, index));
        assert_eq!(decoded.body.recorded_at_us(), number(&case["recorded_at_us"]));
        assert_eq!(entry_hash(entry), hash(&case["leaf_hash"]));
        let path = hashes(&list(&file["inclusion"])[at(index)]);
        let verdict = verify_inclusion(index, checkpoint.size, &entry_hash(entry), &path, &checkpoint.root);
        assert_eq!(verdict, Ok(()), "entry {index}");
        tree.append(entry_hash(entry), |_| {});
    }
    assert_eq!((tree.size(), tree.root()), (checkpoint.size, checkpoint.root));
    check_histories(&file);

    let earlier = Checkpoint::open(text(&file["earlier"]["note"]), &vkey).expect("valid");
    let path = hashes(&file["earlier"]["consistency"]);
    let verdict = verify_consistency(earlier.size, checkpoint.size, &earlier.root, &checkpoint.root, &path);
    assert_eq!(verdict, Ok(()));
    let indexes = list(&file["evidence"]["indexes"]).iter().map(number);
    let leaves: Vec<_> = indexes.map(|index| (index, entry_hash(&entries[at(index)]))).collect();
    let proof = hashes(&file["evidence"]["proof"]);
    assert_eq!(verify_multi(&leaves, checkpoint.size, &proof, &checkpoint.root), Ok(()));
    let bundle = bytes(&file["bundle"]);
    assert_eq!(split_bundle(&bundle), Some(entries.iter().map(Vec::as_slice).collect()));

    for case in list(&file["refused_entries"]) {
        let verdict = SignedEntry::decode(&bytes(&case["entry"])).and_then(|entry| entry.verify(&vkey));
        assert!(verdict.is_err(), "{}", case["reason"]);
    }
    for case in list(&file["refused_checkpoints"]) {
        assert!(Checkpoint::open(text(&case["note"]), &vkey).is_err(), "{}", case["reason"]);
    }
}

/// Versions without a gap, `effective` as it follows from the entries, and what every commitment says of all histories.
fn check_histories(file: &Value) {
    let mut histories: HashMap<String, Vec<u64>> = HashMap::new();
    let mut map: BTreeMap<SubjectKey, Tree> = BTreeMap::new();
    let mut leaves = Vec::new();
    for case in list(&file["entries"]) {
        let (record, statement) = match SignedEntry::decode(&bytes(&case["entry"])).expect("valid").body {
            Body::Record(record, statement) => (record, statement),
            Body::Commitment(commitment) => {
                assert!(case["record"].is_null());
                leaves = map.iter().map(|(key, tree)| map_leaf(*key, tree)).collect();
                assert_eq!(commitment.map_root, map::root_of(&map::hashed(&leaves), 0), "entry {}", commitment.index);
                assert_eq!(hex::encode(&commitment.map_root), text(&case["commitment"]["map_root"]));
                let size = number(&case["commitment"]["map_size"]);
                assert_eq!((commitment.map_size, u64::try_from(leaves.len())), (size, Ok(size)));
                continue;
            }
        };
        let outcome = proto::Outcome::from_str_name(text(&case["record"]["outcome"])).expect("known");
        assert_eq!(i32::from(outcome), record.outcome);
        let described = list(&case["record"]["subjects"]);
        assert_eq!(described.len(), record.subjects.len());
        for (described, reference) in described.iter().zip(&record.subjects) {
            let subject = named_by(&statement, reference).expect("named");
            let key = hex::encode(subject.key().0);
            assert_eq!(key, text(&described["key"]));
            let history = histories.entry(key).or_default();
            assert_eq!(u64::try_from(history.len()), Ok(number(&described["version"])));
            let effective = match effect_on(&subject, outcome, &statement) {
                Effect::Sets(_) => record.index + 1,
                Effect::Clears => 0,
                Effect::Confirms(_) | Effect::Keeps => history.last().copied().unwrap_or_default(),
            };
            assert_eq!(effective, number(&described["effective"]));
            history.push(effective);
            let leaf = history_leaf(record.index, &hash(&case["leaf_hash"]), effective);
            assert_eq!(leaf, hash(&described["history_leaf"]));
            map.entry(subject.key()).or_default().append(leaf, |_| {});
        }
    }
    assert_eq!(
        histories.len(),
        12,
        "two tags, two digests, a workload, five catalogues, the policy and the principals"
    );
    let shown = list(&file["map"]).iter().map(|leaf| (text(&leaf["key"]), number(&leaf["count"]), hash(&leaf["root"])));
    let found: Vec<_> = leaves.iter().map(|leaf| (hex::encode(leaf.key.0), leaf.count, leaf.root)).collect();
    assert!(shown.eq(found.iter().map(|(key, count, root)| (key.as_str(), *count, *root))));
    for (shown, leaf) in list(&file["map"]).iter().zip(&leaves) {
        assert_eq!(hash(&shown["leaf_hash"]), leaf.hash());
    }
}
