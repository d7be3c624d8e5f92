//! Test vectors for verifiers in any language, and the program that makes them.
//!
//! `TAGLEDGER_WRITE_VECTORS=1 cargo test --test vectors` writes `tests/vectors/*.json`; without it the files are compared, so
//! a change to a format can't slip in unseen. Independently of how they were made, every file is then read as a stranger would
//! read it: what it calls valid is checked, and what it calls refused must be refused. `tests/vectors/README.md` describes the
//! files; `docs/SPEC.md` the formats.

#[path = "vectors/against.rs"]
mod against;
#[path = "vectors/authority.rs"]
mod authority;
#[path = "vectors/evidence.rs"]
mod evidence;
#[path = "vectors/example.rs"]
mod example;
#[path = "vectors/ledger.rs"]
mod ledger;
#[path = "vectors/log.rs"]
mod log;
#[path = "vectors/page.rs"]
mod page;
#[path = "vectors/policy.rs"]
mod policy;
#[path = "vectors/principals.rs"]
mod principals;
#[path = "vectors/refused.rs"]
mod refused;
#[path = "vectors/replay.rs"]
mod replay;
#[path = "vectors/succession.rs"]
mod succession;
#[path = "vectors/values.rs"]
mod values;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use prost::Message as _;
use serde_json::{Value, json};

use tagledger::ledger::merkle::hash::{empty_root, leaf_hash, node_hash};
use tagledger::ledger::merkle::multi::{multi_proof, verify_multi};
use tagledger::ledger::merkle::proof::{consistency_proof, inclusion_proof, verify_consistency, verify_inclusion};
use tagledger::ledger::merkle::tile::{Tile, TilePath};
use tagledger::ledger::merkle::tree::MemoryNodes;
use tagledger::ledger::merkle::{Hash, Tree};
use tagledger::ledger::names::{Registry, Repository};
use tagledger::ledger::note::{Skey, Vkey};
use tagledger::ledger::signature;
use tagledger::ledger::statement::{Statement, Workload};
use tagledger::ledger::subject::Subject;
use tagledger::proto;
use tagledger::proto::principal_change;
use tagledger::proto::statement::Kind;

use ledger::little_ledger::{change_policy, digest as sha256, set_policy};
use values::{at, because, bytes, changed, hash, hashes, hexes, list, number, path, read, swapped, text, with};

const ORIGIN: &str = "ledger.example/vectors";
const LEDGER_SEED: [u8; 32] = [1; 32];
const PRODUCER_SEED: [u8; 32] = [2; 32];
const WITNESS_SEED: [u8; 32] = [3; 32];
const FIRST_TIME_US: u64 = 1_767_225_600_000_000;
const IMMUTABLE: &str = "registry.example:5000/team/**:v*";

#[test]
fn the_files_are_what_this_program_writes() {
    let files = [
        ("keys.json", keys()),
        ("merkle.json", merkle()),
        ("subjects.json", subjects()),
        ("statements.json", statements()),
        ("policy.json", policy::policy()),
        ("log.json", log::log()),
        ("tiles.json", tiles()),
        ("evidence.json", evidence::evidence()),
        ("replay.json", replay::replay()),
        ("succession.json", succession::succession()),
    ];
    let mut differing = Vec::new();
    for (name, content) in files {
        let text = format!("{content:#}\n");
        if std::env::var_os("TAGLEDGER_WRITE_VECTORS").is_some() {
            std::fs::write(path(name), &text).expect("the folder can be written");
        }
        if std::fs::read_to_string(path(name)).ok() != Some(text) {
            differing.push(name);
        }
    }
    assert!(
        differing.is_empty(),
        "{differing:?} are not what the code makes; if a format is meant to change, write them with TAGLEDGER_WRITE_VECTORS=1"
    );
}

// Making them.

fn keys() -> Value {
    let (ledger, producer) = (skey(), producer());
    let vkey = ledger.vkey().to_string();
    let (name_and_hash, _) = vkey.rsplit_once('+').expect("a vkey");
    let key = ledger.vkey().key().to_bytes();
    let with = |bytes: &[u8]| format!("{name_and_hash}+{}", BASE64.encode(bytes));
    let mut neutral_element = [0; 32];
    neutral_element[0] = 1;
    let small_order = named_key(&neutral_element);
    json!({
        "comment": "Keys for tests. Their seeds are public: never trust them for anything else.",
        "ledger": {
            "origin": ORIGIN,
            "seed": hex::encode(LEDGER_SEED),
            "public_key": hex::encode(key),
            "key_hash": hex::encode(ledger.vkey().hash()),
            "vkey": vkey,
            "skey": ledger.to_text().to_string(),
        },
        "producer": {
            "seed": hex::encode(PRODUCER_SEED),
            "public_key": hex::encode(producer.verifying_key().as_bytes()),
            "key_id": signature::key_id(&producer.verifying_key()),
        },
        "refused_vkeys": [
            { "vkey": vkey.replace("vectors", "victors"), "reason": "the hash is that of another name" },
            { "vkey": vkey.replacen(&hex::encode(ledger.vkey().hash()), "00000000", 1), "reason": "the hash is not the key's" },
            { "vkey": vkey.replacen(&hex::encode(ledger.vkey().hash()), &hex::encode_upper(ledger.vkey().hash()), 1),
              "reason": "the hash is in upper case" },
            { "vkey": with(&[&[2], &key[..]].concat()), "reason": "the type byte is not 1, Ed25519" },
            { "vkey": with(&[&[1], &key[..31]].concat()), "reason": "the key has 31 bytes" },
            { "vkey": small_order, "reason": "the key is a point of small order" },
            { "vkey": named_key_of("tagledger.v1.entry", &key), "reason": "the origin begins like a signature prefix" },
        ],
    })
}

/// A vkey whose hash is right, around whatever key.
fn named_key(key: &[u8; 32]) -> String {
    named_key_of(ORIGIN, key)
}

fn named_key_of(origin: &str, key: &[u8; 32]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest([origin.as_bytes(), b"\n\x01", key].concat());
    format!("{origin}+{}+{}", hex::encode(&hash[..4]), BASE64.encode([&[1], &key[..]].concat()))
}

/// The trees of 0 to 8 leaves, as in the tests of certificate-transparency.
fn merkle() -> Value {
    let leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let bytes: Vec<Vec<u8>> = leaves.iter().map(|leaf| hex::decode(leaf).expect("hexadecimal")).collect();
    let (mut tree, mut nodes) = (Tree::default(), MemoryNodes::default());
    let mut roots = vec![empty_root()];
    for leaf in &bytes {
        tree.append(leaf_hash(leaf), |node| nodes.insert(node));
        roots.push(tree.root());
    }
    let hash = |index: u64| leaf_hash(&bytes[at(index)]);
    let root = |size: u64| hex::encode(roots[at(size)]);

    let inclusion = |index: u64, size: u64, path: &[Hash]| json!({ "index": index, "size": size, "leaf_hash": hex::encode(hash(index)), "path": hexes(path), "root": root(size) });
    let path = |index, size| inclusion_proof(&nodes, index, size).expect("there");
    let consistency = |first: u64, second: u64, path: &[Hash]| json!({ "first": first, "second": second, "first_root": root(first), "second_root": root(second), "path": hexes(path) });
    let between = |first, second| consistency_proof(&nodes, first, second).expect("there");
    let multi = |indexes: &[u64], size: u64, proof: &[Hash]| {
        let leaves: Vec<Value> =
            indexes.iter().map(|&index| json!({ "index": index, "leaf_hash": hex::encode(hash(index)) })).collect();
        json!({ "leaves": leaves, "size": size, "proof": hexes(proof), "root": root(size) })
    };
    let subsets: [(&[u64], u64); 7] = [
        (&[0], 1),
        (&[2], 7),
        (&[0, 1], 8),
        (&[3, 4], 8),
        (&[0, 6], 7),
        (&[1, 2, 5], 6),
        (&[0, 1, 2, 3, 4, 5, 6, 7], 8),
    ];
    let of = |indexes: &[u64], size| multi_proof(&nodes, indexes, size).expect("there");

    json!({
        "leaves": bytes.iter().map(|leaf| json!({ "leaf": hex::encode(leaf), "hash": hex::encode(leaf_hash(leaf)) })).collect::<Vec<_>>(),
        "node": { "left": hex::encode(hash(0)), "right": hex::encode(hash(1)), "hash": hex::encode(node_hash(&hash(0), &hash(1))) },
        "roots": roots.iter().map(hex::encode).collect::<Vec<_>>(),
        "inclusion": {
            "valid": (1..=8).flat_map(|size| (0..size).map(move |index| (index, size)))
                .map(|(index, size)| inclusion(index, size, &path(index, size))).collect::<Vec<_>>(),
            "refused": [
                because("a hash is changed", inclusion(3, 7, &changed(path(3, 7), 1))),
                because("a hash is missing", inclusion(3, 7, &path(3, 7)[1..])),
                because("a hash trails", inclusion(3, 7, &[path(3, 7), vec![[0; 32]]].concat())),
                because("two hashes are swapped", inclusion(3, 7, &swapped(path(3, 7)))),
                because("it is the path of another leaf", inclusion(3, 7, &path(2, 7))),
                because("it is the path in another tree", inclusion(3, 4, &path(3, 7))),
                because("the index is the size", with(inclusion(6, 7, &path(6, 7)), "index", json!(7))),
                because("the tree is empty", with(with(inclusion(0, 1, &[]), "size", json!(0)), "root", json!(root(0)))),
            ],
        },
        "consistency": {
            "valid": (1..=8).flat_map(|second| (1..=second).map(move |first| (first, second)))
                .map(|(first, second)| consistency(first, second, &between(first, second))).collect::<Vec<_>>(),
            "refused": [
                because("a hash is changed", consistency(3, 7, &changed(between(3, 7), 0))),
                because("a hash is missing", consistency(3, 7, &between(3, 7)[1..])),
                because("a hash trails", consistency(3, 7, &[between(3, 7), vec![[0; 32]]].concat())),
                because("two hashes are swapped", consistency(3, 7, &swapped(between(3, 7)))),
                because("it is the proof from another size", consistency(4, 7, &between(3, 7))),
                because("it is the proof to another size", consistency(3, 8, &between(3, 7))),
                because("the sizes are the wrong way round", consistency(7, 3, &between(3, 7))),
                because("an empty tree proves nothing", consistency(0, 7, &[])),
                because("one size has one root", with(consistency(7, 7, &[]), "second_root", json!(root(6)))),
                because("one size needs no hashes", consistency(7, 7, &[[0; 32]])),
            ],
        },
        "multi": {
            "valid": subsets.iter().map(|(indexes, size)| multi(indexes, *size, &of(indexes, *size))).collect::<Vec<_>>(),
            "refused": [
                because("a hash is changed", multi(&[1, 2, 5], 6, &changed(of(&[1, 2, 5], 6), 0))),
                because("a hash is missing", multi(&[1, 2, 5], 6, &of(&[1, 2, 5], 6)[1..])),
                because("a hash trails", multi(&[1, 2, 5], 6, &[of(&[1, 2, 5], 6), vec![[0; 32]]].concat())),
                because("a hash trails where none is needed", multi(&[0, 1], 2, &[[0; 32]])),
                because("two hashes are swapped", multi(&[1, 2, 5], 6, &swapped(of(&[1, 2, 5], 6)))),
                because("it is the proof of other leaves", multi(&[0, 2, 5], 6, &of(&[1, 2, 5], 6))),
                because("the indexes fall", multi(&[1, 0], 8, &of(&[0, 1], 8))),
                because("an index stands twice", multi(&[0, 0], 8, &of(&[0], 8))),
                because("there are no leaves", with(multi(&[], 1, &[]), "root", json!(root(1)))),
                because("an index is the size", multi(&[0, 1], 1, &[])),
            ],
        },
    })
}

fn subjects() -> Value {
    let (registry, repository, tag) = ("registry.example:5000", "team/app", "v1");
    let digest = sha256('a');
    let workload = ["prod", "eu-1", "shop", "checkout", "web"];
    let parsed: Registry = registry.parse().expect("valid");
    let name = format!("{registry}/{repository}:{tag}").parse().expect("valid");
    let within = Repository::parse(&parsed, repository).expect("valid");
    let of_each_kind: Vec<(Subject, Vec<&str>)> = vec![
        (Subject::Tag(name), vec![registry, repository, tag]),
        (Subject::Digest(digest.parse().expect("valid")), vec![&digest]),
        (Subject::Workload(workload_of(&workload)), workload.to_vec()),
        (Subject::Workload(workload_of(&["prod", "", "", "checkout", ""])), vec!["prod", "", "", "checkout", ""]),
        (Subject::TagsOf(parsed, within), vec![registry, repository]),
        (Subject::Repositories, vec![]),
        (Subject::Environments, vec![]),
        (Subject::WorkloadsOf("prod".into()), vec!["prod"]),
        (Subject::Policy, vec![]),
        (Subject::Principals, vec![]),
        (Subject::Keys, vec![]),
    ];
    let shown = of_each_kind.into_iter().map(|(subject, components)| {
        json!({
            "kind": subject.kind().as_str_name(),
            "number": i32::from(subject.kind()),
            "components": components,
            "key": hex::encode(subject.key().0),
        })
    });
    json!({ "subjects": shown.collect::<Vec<_>>() })
}

fn workload_of(parts: &[&str; 5]) -> Workload {
    let [environment, cluster, namespace, workload, container] = parts.map(str::to_owned);
    Workload { environment, cluster, namespace, workload, container }
}

/// One statement of each kind with the producer's signature, and what a ledger refuses.
fn statements() -> Value {
    let valid = story().into_iter().flatten().map(|statement| {
        let bytes = statement.encode_to_vec();
        let signed = signature::sign(&producer(), &signature::statement_message(&bytes));
        json!({ "fields": fields(&statement), "statement": hex::encode(bytes), "signature": hex::encode(signed) })
    });
    json!({
        "valid": valid.collect::<Vec<_>>(),
        "refused": refused_statements(),
        "refused_signatures": refused_statement_signatures(),
    })
}

fn refused_statements() -> Vec<Value> {
    let statement = story().remove(1).remove(0);
    let bytes = statement.encode_to_vec();
    let changed = |change: &dyn Fn(&mut proto::Statement)| {
        let mut changed = statement.clone();
        change(&mut changed);
        changed.encode_to_vec()
    };
    let pushed = |change: &dyn Fn(&mut proto::TagPush)| {
        changed(&|statement| {
            if let Some(Kind::TagPush(push)) = &mut statement.kind {
                change(push);
            }
        })
    };
    let observed = |change: &dyn Fn(&mut proto::TagObserved)| {
        changed(&|statement| {
            if let Some(Kind::TagPush(push)) = statement.kind.take() {
                let (registry, repository, tag) = (push.registry, push.repository, push.tag);
                let mut seen = proto::TagObserved {
                    registry,
                    repository,
                    tag,
                    digest: push.digest,
                    ..proto::TagObserved::default()
                };
                change(&mut seen);
                statement.kind = Some(Kind::TagObserved(seen));
            }
        })
    };
    let attribute = |key: &str| proto::Attribute { key: key.into(), value: "x".into() };
    let policy = |text: &str| {
        let policy = text.to_owned();
        changed(&|statement| statement.kind = Some(set_policy(&policy)))
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("not protobuf", vec![0xff; 8]),
        ("cut short", bytes[..bytes.len() - 1].to_vec()),
        ("a field that the definition does not know", [&bytes[..], b"\xa2\x06\x00"].concat()),
        ("a field at its default, written", [&bytes[..], b"\x9a\x01\x00"].concat()),
        ("a field twice", [&bytes[..], b"\x92\x01\x01x"].concat()),
        ("fields out of order", [b"\xaa\x01\x01x", &bytes[..]].concat()),
        ("no kind", changed(&|statement| statement.kind = None)),
        ("empty registry", pushed(&|push| push.registry.clear())),
        ("registry in upper case", pushed(&|push| push.registry = "Registry.example:5000".into())),
        ("the default port", pushed(&|push| push.registry = "registry.example:443".into())),
        ("an IPv6 registry in another spelling", pushed(&|push| push.registry = "[0:0:0:0:0:0:0:1]".into())),
        (
            "an official image that is not written out",
            pushed(&|push| {
                push.registry = "docker.io".into();
                push.repository = "nginx".into();
            }),
        ),
        ("repository outside the grammar", pushed(&|push| push.repository = "team//app".into())),
        ("tag outside the grammar", pushed(&|push| push.tag = ".v1".into())),
        ("tag of 129 bytes", pushed(&|push| push.tag = "v".repeat(129))),
        ("digest of 63 digits", pushed(&|push| push.digest = sha256('a')[..70].into())),
        ("digest in upper case", pushed(&|push| push.digest = format!("sha256:{}", "A".repeat(64)))),
        ("digest of another algorithm", pushed(&|push| push.digest = format!("sha1:{}", "a".repeat(40)))),
        ("unknown disposition", pushed(&|push| push.disposition = 5)),
        ("settles something, though it only asks", pushed(&|push| push.settles = 1)),
        ("settles something, though it is only intended", pushed(&|push| (push.disposition, push.settles) = (4, 1))),
        (
            "seen otherwise after it was first seen like this",
            observed(&|seen| (seen.last_seen_us, seen.first_seen_us) = (2, 1)),
        ),
        ("last seen otherwise, and first seen never", observed(&|seen| seen.last_seen_us = 1)),
        ("first seen after 9999", observed(&|seen| seen.first_seen_us = 253_402_300_800_000_000)),
        ("no disposition", pushed(&|push| push.disposition = 0)),
        ("NUL in a text", changed(&|statement| statement.actor = "a\0b".into())),
        ("text of 257 bytes", changed(&|statement| statement.source = "s".repeat(257))),
        ("before 1970", changed(&|statement| statement.occurred_at_us = -1)),
        ("after 9999", changed(&|statement| statement.occurred_at_us = 253_402_300_800_000_000)),
        ("attributes out of order", changed(&|statement| statement.attributes = vec![attribute("b"), attribute("a")])),
        ("an attribute twice", changed(&|statement| statement.attributes = vec![attribute("a"), attribute("a")])),
        (
            "33 attributes",
            changed(&|statement| {
                statement.attributes = (0..33).map(|number| attribute(&format!("{number:02}"))).collect();
            }),
        ),
        ("a policy that is not TOML", policy("immutable")),
        ("a policy with a key that nobody knows", policy("mutable = []\n")),
        ("a carriage return in a policy", policy("rule = []\r\n")),
        ("a policy of 60,001 bytes", policy(&" ".repeat(60_001))),
    ];
    let described = cases.into_iter().map(|(reason, bytes)| {
        let violations = Statement::parse(&bytes).expect_err(reason);
        let violations: Vec<Value> = violations
            .iter()
            .map(|violation| json!({ "field": violation.field, "reason": violation.reason }))
            .collect();
        json!({ "reason": reason, "statement": hex::encode(bytes), "violations": violations })
    });
    described.collect()
}

fn refused_statement_signatures() -> Value {
    let bytes = story().remove(1).remove(0).encode_to_vec();
    let signed = signature::sign(&producer(), &signature::statement_message(&bytes));
    let without_prefix = signature::sign(&producer(), &bytes);
    let mut high = signed;
    add_group_order(&mut high);
    let mut changed = signed;
    changed[0] ^= 1;
    let case = |reason: &str, signature: &[u8]| json!({ "reason": reason, "statement": hex::encode(&bytes), "signature": hex::encode(signature) });
    json!([
        case("a byte is changed", &changed),
        case("it covers the statement without the prefix", &without_prefix),
        case(
            "it is the ledger's, not the producer's",
            &signature::sign(skey().key(), &signature::statement_message(&bytes))
        ),
        case("S is not below the order of the group", &high),
        case("it has 63 bytes", &signed[..63]),
    ])
}

/// Adds L to the second half: the same number modulo L, and so a second signature where verifiers are lax.
fn add_group_order(signature: &mut [u8; 64]) {
    let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").expect("hexadecimal");
    let mut carry = 0;
    for (byte, addend) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(addend) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0, "S + L fits into 32 bytes");
}

fn tiles() -> Value {
    let tile = |index, width| Tile { index, width };
    let hashes = |level, index, width| TilePath::Hashes { level, tile: tile(index, width) };
    let valid = [
        hashes(0, 0, 256),
        hashes(0, 0, 1),
        hashes(0, 5, 255),
        hashes(1, 999, 256),
        hashes(2, 1000, 256),
        hashes(7, 1_234_067, 3),
        hashes(0, (1 << 55) - 1, 256),
        TilePath::Entries(tile(0, 256)),
        TilePath::Entries(tile(1_234_067, 10)),
    ];
    let valid = valid.map(|path| {
        let (level, tile) = match path {
            TilePath::Hashes { level, tile } => (json!(level), tile),
            TilePath::Entries(tile) => (json!("entries"), tile),
        };
        json!({ "path": format!("/tile/{path}"), "level": level, "index": tile.index, "width": tile.width })
    });
    let refused = [
        ("/tile/0/0", "an index has groups of three digits"),
        ("/tile/0/0000", "an index has groups of three digits"),
        ("/tile/0/x000/001", "an index has no leading group of zeros"),
        ("/tile/0/001/234", "all groups but the last begin with x"),
        ("/tile/0/x001", "the last group does not begin with x"),
        ("/tile/00/000", "a level has no leading zero"),
        ("/tile/8/000", "there is no level above 7"),
        ("/tile/-1/000", "a level is a number or \"entries\""),
        ("/tile/0/000.p/0", "a partial tile has at least one hash"),
        ("/tile/0/000.p/256", "a full tile has no width"),
        ("/tile/0/000.p/01", "a width has no leading zero"),
        ("/tile/0/000.p/", "a partial tile has a width"),
        ("/tile/0/000/", "nothing follows"),
        ("/tile/Entries/000", "\"entries\" is in lower case"),
        ("/tile/entries/", "an index is needed"),
    ];
    let covered = [
        ("/tile/0/000", 256),
        ("/tile/0/000.p/5", 5),
        ("/tile/1/000.p/1", 256),
        ("/tile/1/000", 65_536),
        ("/tile/2/000.p/3", 3 * 65_536),
        ("/tile/entries/001", 512),
        ("/tile/entries/001.p/1", 257),
    ];
    json!({
        "valid": valid,
        "refused": refused.map(|(path, reason)| json!({ "path": path, "reason": reason })),
        "covered_from_size": covered.map(|(path, size)| json!({ "path": path, "size": size })),
    })
}

// What the ledger is told, batch by batch.

fn story() -> Vec<Vec<proto::Statement>> {
    let registry = || "registry.example:5000".to_owned();
    let push = |tag: &str, digest: char| {
        Kind::TagPush(proto::TagPush {
            registry: registry(),
            repository: "team/app".into(),
            tag: tag.into(),
            digest: sha256(digest),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            disposition: proto::Disposition::Requested.into(),
            settles: 0,
        })
    };
    let delete = Kind::TagDelete(proto::TagDelete {
        registry: "docker.io".into(),
        repository: "library/nginx".into(),
        tag: "1.27".into(),
        disposition: proto::Disposition::Refused.into(),
        settles: 0,
    });
    let observed = Kind::TagObserved(proto::TagObserved {
        registry: registry(),
        repository: "team/app".into(),
        tag: "v1".into(),
        digest: sha256('a'),
        checks_entry: 4,
        last_seen_us: 1_790_000_000_000_000,
        first_seen_us: 1_790_000_060_000_000,
    });
    let deployment = Kind::Deployment(proto::Deployment {
        environment: "prod".into(),
        cluster: "eu-1".into(),
        namespace: "shop".into(),
        workload: "checkout".into(),
        container: "web".into(),
        image: Some(proto::Image {
            registry: registry(),
            repository: "team/app".into(),
            tag: "v1".into(),
            digest: sha256('b'),
        }),
        phase: proto::deployment::Phase::Started.into(),
    });
    let attestation = Kind::Attestation(proto::Attestation {
        digest: sha256('a'),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        envelope_digest: format!("sha512:{}", "e".repeat(128)),
        signer: "https://ci.example/workflow".into(),
        result: proto::attestation::Result::Verified.into(),
    });
    let manifest_delete = Kind::ManifestDelete(proto::ManifestDelete {
        registry: registry(),
        repository: "team/app".into(),
        digest: sha256('a'),
        disposition: proto::Disposition::Happened.into(),
        settles: 0,
    });
    let plain = |kind| proto::Statement { kind: Some(kind), ..Default::default() };
    let full = proto::Statement {
        kind: Some(push("v1", 'a')),
        event_id: "build-1234/push-1".into(),
        occurred_at_us: 1_767_225_599_000_000,
        actor: "robot$ci".into(),
        source: "ci.example".into(),
        ci_run: "https://ci.example/runs/1234".into(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        attributes: vec![
            proto::Attribute { key: "commit".into(), value: "9f86d08".into() },
            proto::Attribute { key: "müsli".into(), value: String::new() },
        ],
    };
    let policy = change_policy(&[IMMUTABLE]);
    vec![
        vec![plain(policy)],
        vec![full, plain(push("v1", 'b'))],
        vec![plain(delete), plain(observed), plain(deployment), plain(attestation)],
        vec![plain(manifest_delete)],
        // The last: those before are of a log without principals.
        vec![plain(authority::change("operator", Some(authority::operator())))],
    ]
}

/// What the bytes of a statement say, by the names of the proto; fields at their default are left out.
fn fields(statement: &proto::Statement) -> Value {
    let mut fields = json!({
        "event_id": statement.event_id,
        "occurred_at_us": statement.occurred_at_us,
        "actor": statement.actor,
        "source": statement.source,
        "ci_run": statement.ci_run,
        "trace_id": statement.trace_id,
        "attributes": statement.attributes.iter().map(|a| json!({ "key": a.key, "value": a.value })).collect::<Vec<_>>(),
    });
    let (name, mut kind) = match statement.kind.as_ref().expect("set") {
        Kind::TagPush(m) => (
            "tag_push",
            json!({
                "registry": m.registry, "repository": m.repository, "tag": m.tag, "digest": m.digest,
                "media_type": m.media_type, "disposition": m.disposition, "settles": m.settles,
            }),
        ),
        Kind::TagDelete(m) => (
            "tag_delete",
            json!({
                "registry": m.registry, "repository": m.repository, "tag": m.tag, "disposition": m.disposition,
                "settles": m.settles,
            }),
        ),
        Kind::ManifestDelete(m) => (
            "manifest_delete",
            json!({
                "registry": m.registry, "repository": m.repository, "digest": m.digest, "disposition": m.disposition,
                "settles": m.settles,
            }),
        ),
        Kind::TagObserved(m) => (
            "tag_observed",
            json!({
                "registry": m.registry, "repository": m.repository, "tag": m.tag, "digest": m.digest,
                "checks_entry": m.checks_entry,
                "last_seen_us": m.last_seen_us,
                "first_seen_us": m.first_seen_us,
            }),
        ),
        Kind::Deployment(m) => {
            let image = m.image.as_ref().expect("set");
            (
                "deployment",
                json!({
                    "environment": m.environment, "cluster": m.cluster, "namespace": m.namespace,
                    "workload": m.workload, "container": m.container, "phase": m.phase,
                    "image": {
                        "registry": image.registry, "repository": image.repository, "tag": image.tag,
                        "digest": image.digest,
                    },
                }),
            )
        }
        Kind::Attestation(m) => (
            "attestation",
            json!({
                "digest": m.digest, "predicate_type": m.predicate_type, "envelope_digest": m.envelope_digest,
                "signer": m.signer, "result": m.result,
            }),
        ),
        Kind::PolicyChange(m) => ("policy_change", json!({ "policy": m.policy })),
        Kind::KeyChange(m) => {
            ("key_change", json!({ "vkey": m.vkey, "replaces": m.replaces, "consent": hex::encode(&m.consent) }))
        }
        Kind::PrincipalChange(m) => {
            let change = match m.change.as_ref().expect("set") {
                principal_change::Change::Revocation(_) => json!({ "name": m.name, "revocation": {} }),
                principal_change::Change::Principal(p) => json!({
                    "name": m.name,
                    "principal": set(json!({
                        "roles": p.roles,
                        "grants": p.grants.iter().map(|grant| set(json!({
                            "repositories": grant.repositories, "kinds": grant.kinds,
                        }))).collect::<Vec<_>>(),
                        "requires": p.requires,
                        "token_sha256": p.token_sha256.iter().map(hex::encode).collect::<Vec<_>>(),
                        "certificate_names": p.certificate_names,
                        "keys": p.keys,
                    })),
                }),
            };
            ("principal_change", change)
        }
    };
    fields = set(fields);
    kind.as_object_mut().expect("an object").retain(|name, value| name != "settles" || *value != json!(0));
    fields[name] = kind;
    fields
}

/// Without fields at their default.
fn set(mut fields: Value) -> Value {
    let is_set = |value: &Value| *value != json!("") && *value != json!(0) && *value != json!([]);
    fields.as_object_mut().expect("an object").retain(|_, value| is_set(value));
    fields
}

// Reading them, as a stranger would.

#[test]
fn the_keys_hold() {
    let file = read("keys.json");
    let ledger = &file["ledger"];
    let vkey: Vkey = text(&ledger["vkey"]).parse().expect("valid");
    let skey = Skey::from_text(text(&ledger["skey"])).expect("valid");
    assert_eq!(skey.vkey(), vkey);
    assert_eq!(skey.key().as_bytes()[..], bytes(&ledger["seed"]));
    assert_eq!(vkey.key().as_bytes()[..], bytes(&ledger["public_key"]));
    assert_eq!(vkey.hash()[..], bytes(&ledger["key_hash"]));
    assert_eq!(vkey.origin().as_str(), text(&ledger["origin"]));
    let producer = signature::public_key(&bytes(&file["producer"]["public_key"])).expect("valid");
    assert_eq!(signature::key_id(&producer), text(&file["producer"]["key_id"]));
    for refused in list(&file["refused_vkeys"]) {
        assert!(text(&refused["vkey"]).parse::<Vkey>().is_err(), "{}", refused["reason"]);
    }
}

#[test]
fn the_trees_and_proofs_hold_and_the_corrupted_ones_do_not() {
    let file = read("merkle.json");
    let mut tree = Tree::default();
    let roots = hashes(&file["roots"]);
    assert_eq!(roots[0], tree.root());
    for (leaf, root) in list(&file["leaves"]).iter().zip(&roots[1..]) {
        assert_eq!(leaf_hash(&bytes(&leaf["leaf"])), hash(&leaf["hash"]));
        tree.append(hash(&leaf["hash"]), |_| {});
        assert_eq!(tree.root(), *root);
    }
    // The published root of certificate-transparency's eight test leaves.
    assert_eq!(hex::encode(tree.root()), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    let node = &file["node"];
    assert_eq!(node_hash(&hash(&node["left"]), &hash(&node["right"])), hash(&node["hash"]));

    each(&file["inclusion"], |case| {
        let (index, size) = (number(&case["index"]), number(&case["size"]));
        verify_inclusion(index, size, &hash(&case["leaf_hash"]), &hashes(&case["path"]), &hash(&case["root"])).is_ok()
    });
    each(&file["consistency"], |case| {
        let (first, second) = (number(&case["first"]), number(&case["second"]));
        let (first_root, second_root) = (hash(&case["first_root"]), hash(&case["second_root"]));
        verify_consistency(first, second, &first_root, &second_root, &hashes(&case["path"])).is_ok()
    });
    each(&file["multi"], |case| {
        let leaves: Vec<(u64, Hash)> =
            list(&case["leaves"]).iter().map(|leaf| (number(&leaf["index"]), hash(&leaf["leaf_hash"]))).collect();
        verify_multi(&leaves, number(&case["size"]), &hashes(&case["proof"]), &hash(&case["root"])).is_ok()
    });
}

#[test]
fn the_subject_keys_are_the_hashes_that_the_specification_describes() {
    use sha2::Digest as _;
    for subject in list(&read("subjects.json")["subjects"]) {
        let number = u8::try_from(number(&subject["number"])).expect("small");
        let mut hash = sha2::Sha256::new().chain_update(b"tagledger.v1.subject\n").chain_update([number]);
        for component in list(&subject["components"]) {
            let length = u32::try_from(text(component).len()).expect("short");
            hash = hash.chain_update(length.to_be_bytes()).chain_update(text(component));
        }
        assert_eq!(hex::encode(hash.finalize()), text(&subject["key"]), "{}", subject["kind"]);
        let kind = proto::SubjectKind::from_str_name(text(&subject["kind"])).expect("known");
        assert_eq!(i32::from(kind), i32::from(number));
    }
}

#[test]
fn the_statements_hold_and_the_refused_ones_are_refused_for_their_reasons() {
    let file = read("statements.json");
    let producer = signature::public_key(&bytes(&read("keys.json")["producer"]["public_key"])).expect("valid");
    let is_signed = |case: &Value| {
        let message = signature::statement_message(&bytes(&case["statement"]));
        signature::verify(&producer, &message, &bytes(&case["signature"])).is_ok()
    };
    let mut kinds = Vec::new();
    for case in list(&file["valid"]) {
        let parsed = Statement::parse(&bytes(&case["statement"])).expect("valid");
        assert_eq!(fields(&parsed.message), case["fields"]);
        assert!(is_signed(case));
        kinds.push(parsed.verb());
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["attest", "delete", "delete-digest", "observe", "policy", "principal", "push", "start"]);
    for case in list(&file["refused"]) {
        let violations = Statement::parse(&bytes(&case["statement"])).expect_err(text(&case["reason"]));
        let found: Vec<Value> =
            violations.iter().map(|found| json!({ "field": found.field, "reason": found.reason })).collect();
        assert_eq!(json!(found), case["violations"], "{}", case["reason"]);
    }
    for case in list(&file["refused_signatures"]) {
        assert!(!is_signed(case), "{}", case["reason"]);
    }
}

#[test]
fn the_tile_paths_hold_and_the_others_do_not() {
    let file = read("tiles.json");
    let parse = |case: &Value| TilePath::parse(text(&case["path"]).strip_prefix("/tile/").expect("a tile"));
    for case in list(&file["valid"]) {
        let (level, tile) = match parse(case).expect("valid") {
            TilePath::Hashes { level, tile } => (json!(level), tile),
            TilePath::Entries(tile) => (json!("entries"), tile),
        };
        assert_eq!(
            (level, tile.index, tile.width),
            (case["level"].clone(), number(&case["index"]), number(&case["width"]))
        );
    }
    for case in list(&file["refused"]) {
        assert_eq!(parse(case), None, "{}", case["reason"]);
    }
    for case in list(&file["covered_from_size"]) {
        let (path, size) = (parse(case).expect("valid"), number(&case["size"]));
        assert!(path.is_covered_by(size) && !path.is_covered_by(size - 1), "{}", case["path"]);
    }
}

/// What is called valid must be, and what is called refused must not.
fn each(cases: &Value, holds: impl Fn(&Value) -> bool) {
    for case in list(&cases["valid"]) {
        assert!(holds(case), "{case:#}");
    }
    for case in list(&cases["refused"]) {
        assert!(!holds(case), "{}", case["reason"]);
    }
}

fn skey() -> Skey {
    Skey::from_seed(ORIGIN.parse().expect("valid"), &LEDGER_SEED)
}

fn producer() -> SigningKey {
    SigningKey::from_bytes(&PRODUCER_SEED)
}
