//! A small ledger with something of everything: each kind of row, every outcome that a small ledger can have, principals that
//! sign, intents that hold, catalogues, and histories long enough to have trees.

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tagledger::engine::plan::Submission;
use tagledger::ledger::note::Skey;
use tagledger::ledger::signature::{key_id, sign, statement_message};
use tagledger::ledger::statement::Statement;
use tagledger::proto::{self, Disposition, statement::Kind};

use crate::world::{delete, delete_manifest, deploy, digest, happened, policy, push, requested, statement};

/// The key of every rich ledger.
pub(crate) fn skey() -> Skey {
    Skey::from_seed("rich.example/ledger".parse().expect("an origin"), &[3; 32])
}

/// Batches of requests, as they are to be recorded: each inner list is one request, all or none.
pub(crate) fn script() -> Vec<Vec<Submission>> {
    let builder = Skey::from_seed("ci.example".parse().expect("an origin"), &[4; 32]);
    let mut script = vec![
        vec![principal("operator", &[1, 4], &[1], &[])],
        vec![
            principal("ci", &[2], &[3], &[builder.vkey().to_string()]),
            own(&policy(&["registry.example/team/**:v1"])),
        ],
        vec![signed("v1", 'a', "one", &builder), signed("latest", 'a', "two", &builder)],
        vec![by("webhook/main", &happened("v1", &digest('b')))],
        vec![signed("latest", 'b', "three", &builder), signed("v2", 'b', "four", &builder)],
        vec![by("webhook/main", &delete("v2")), by("webhook/main", &happened("v2", &digest('c')))],
    ];
    let again = |n: u8| signed("latest", char::from(b'a' + n % 3), &format!("again-{n}"), &builder);
    script.extend((0..4).map(|n| vec![again(n)]));
    let by_ci = |statement: &proto::Statement| vec![signed_as(statement.clone(), &builder)];
    script.push(by_ci(&deploy("prod", "web", "latest", &digest('a'))));
    script.push(by_ci(&deploy("prod", "web", "latest", &digest('c'))));
    script.push(by_ci(&requested("v1", &digest('d'))));
    script.push(by_ci(&statement(Kind::Attestation(proto::Attestation {
        digest: digest('a'),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        envelope_digest: digest('e'),
        signer: "ci".into(),
        result: proto::attestation::Result::Verified.into(),
    }))));
    script.push(by_ci(&push("held", &digest('f'), Disposition::Intended)));
    script.push(vec![by("webhook/main", &delete_manifest(&digest('a')))]);
    script.push(by_ci(&statement(Kind::TagObserved(proto::TagObserved {
        registry: "other.example".into(),
        repository: "x".into(),
        tag: "seen".into(),
        digest: format!("sha512:{}", "7".repeat(128)),
        ..proto::TagObserved::default()
    }))));
    script
}

/// A statement of the operator's.
pub(crate) fn own(statement: &proto::Statement) -> Submission {
    by("operator", statement)
}

/// A statement in somebody's name.
pub(crate) fn by(principal: &str, statement: &proto::Statement) -> Submission {
    let bytes = statement.encode_to_vec();
    let is_webhook = principal.starts_with("webhook/");
    Submission {
        statement: Statement::parse(&bytes).expect("valid"),
        bytes,
        principal: principal.into(),
        assurance: if is_webhook { proto::Assurance::Claimed } else { proto::Assurance::Authenticated },
        producer: None,
        shown: None,
        only_at_version: None,
    }
}

fn signed(tag: &str, digit: char, event_id: &str, by: &Skey) -> Submission {
    signed_as(proto::Statement { event_id: event_id.into(), ..happened(tag, &digest(digit)) }, by)
}

/// Who shows nothing but signatures names an event in each statement.
fn signed_as(mut statement: proto::Statement, key: &Skey) -> Submission {
    if statement.event_id.is_empty() {
        statement.event_id = hex::encode(Sha256::digest(statement.encode_to_vec()));
    }
    let submission = by("ci", &statement);
    let signature = sign(key.key(), &statement_message(&submission.bytes)).to_vec();
    let producer = Some(proto::Producer { key_id: key_id(&key.key().verifying_key()), signature });
    Submission { assurance: proto::Assurance::Signed, producer, ..submission }
}

fn principal(name: &str, roles: &[i32], requires: &[i32], keys: &[String]) -> Submission {
    let speaks = roles.iter().any(|role| [2, 3].contains(role));
    let everything = proto::Grant { repositories: vec!["**".into()], kinds: Vec::new() };
    let principal = proto::Principal {
        roles: if speaks { vec![2, 3] } else { roles.to_vec() },
        grants: if speaks { vec![everything] } else { Vec::new() },
        requires: requires.to_vec(),
        token_sha256: if requires == [1] { vec![Sha256::digest(name).to_vec()] } else { Vec::new() },
        keys: keys.to_vec(),
        ..proto::Principal::default()
    };
    let change = Some(proto::principal_change::Change::Principal(principal));
    own(&statement(Kind::PrincipalChange(proto::PrincipalChange { name: name.into(), change })))
}
