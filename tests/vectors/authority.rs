//! The part of `replay.json` about principals: honest logs of who may state what, and each way to lie about it.

use tagledger::ledger::note::Skey;
use tagledger::ledger::signature;
use tagledger::proto::Assurance::{self, Authenticated, Claimed, Confirmed, Signed};
use tagledger::proto::Disposition::Happened;
use tagledger::proto::deployment::Phase::Started;
use tagledger::proto::statement::Kind;
use tagledger::proto::{
    self, Credential, Grant, Outcome, Principal, PrincipalChange, Revocation, Role, StatementKind, principal_change,
};

use prost::Message as _;

use crate::ledger::little_ledger::{
    LittleLedger, Submission, attest, change_policy, delete, deployment, digest, observe, push,
};
use crate::replay::{Cases, empty};

/// The names of the file, a line for each statement.
const FIRST_LIE: u64 = 9;

fn vkey(seed: u8) -> String {
    Skey::from_seed("producer.example".parse().expect("a name"), &[seed; 32]).vkey().to_string()
}

pub(crate) fn change(name: &str, principal: Option<Principal>) -> Kind {
    let change = match principal {
        Some(principal) => principal_change::Change::Principal(principal),
        None => principal_change::Change::Revocation(Revocation {}),
    };
    Kind::PrincipalChange(PrincipalChange { name: name.into(), change: Some(change) })
}

/// Somebody with these roles and a token, who may speak for these repositories.
pub(crate) fn principal(token: u8, roles: &[Role], repositories: &[&str], kinds: &[StatementKind]) -> Principal {
    let repositories: Vec<String> = repositories.iter().map(|&pattern| pattern.into()).collect();
    let grant = Grant { repositories, kinds: kinds.iter().map(|kind| i32::from(*kind)).collect() };
    Principal {
        roles: roles.iter().map(|role| i32::from(*role)).collect(),
        grants: if grant.repositories.is_empty() { vec![] } else { vec![grant] },
        requires: vec![Credential::Token.into()],
        token_sha256: vec![vec![token; 32]],
        ..Principal::default()
    }
}

pub(crate) fn operator() -> Principal {
    principal(1, &[Role::Reader, Role::Writer, Role::Scanner, Role::Admin], &["**"], &[])
}

pub(crate) fn ci() -> Principal {
    principal(2, &[Role::Writer], &["r/app", "r/team/**"], &[StatementKind::TagPush, StatementKind::TagDelete])
}

/// Shows nothing but a signature, by one of these keys.
fn signer(seeds: &[u8]) -> Principal {
    let mut keys: Vec<String> = seeds.iter().map(|seed| vkey(*seed)).collect();
    keys.sort();
    Principal {
        requires: vec![Credential::Signature.into()],
        token_sha256: vec![],
        keys,
        ..principal(0, &[Role::Writer], &["r/**"], &[])
    }
}

/// Shows a signature and a token.
fn both(seed: u8) -> Principal {
    let requires = [Credential::Token, Credential::Signature].map(i32::from).to_vec();
    Principal { requires, token_sha256: vec![vec![seed; 32]], ..signer(&[seed]) }
}

pub(crate) fn by(principal: &str, kind: Kind) -> Submission {
    with(principal, Authenticated, kind)
}

fn with(principal: &str, assurance: Assurance, kind: Kind) -> Submission {
    Submission { principal: principal.into(), assurance, ..kind.into() }
}

/// Signed by the key of a seed: what is sent, or something else.
fn signed(principal: &str, seed: u8, kind: Kind, signed: Kind) -> Submission {
    let sent = |kind| proto::Statement { kind: Some(kind), event_id: "job-1".into(), ..Default::default() };
    signed_as(principal, seed, sent(kind), &sent(signed))
}

fn signed_as(principal: &str, seed: u8, sent: proto::Statement, signed: &proto::Statement) -> Submission {
    let skey = Skey::from_seed("producer.example".parse().expect("a name"), &[seed; 32]);
    let message = signature::statement_message(&signed.encode_to_vec());
    let signature = signature::sign(skey.key(), &message).to_vec();
    let key_id = signature::key_id(&skey.key().verifying_key());
    let producer = Some(proto::Producer { key_id, signature });
    Submission { principal: principal.into(), assurance: Signed, producer, ..sent.into() }
}

/// The same without an event id.
fn repeatable(principal: &str, seed: u8, kind: Kind) -> Submission {
    let sent = proto::Statement { kind: Some(kind), ..Default::default() };
    signed_as(principal, seed, sent.clone(), &sent)
}

fn signed_with_event(event_id: &str, principal: &str, seed: u8, kind: Kind) -> Submission {
    let sent = proto::Statement { kind: Some(kind), event_id: event_id.into(), ..Default::default() };
    signed_as(principal, seed, sent.clone(), &sent)
}

/// ```text
///  0 -   1 operator   2 -   3 ci, 4 signer, 5 scanner, 6 reader, 7 admin   8 -
/// ```
pub(crate) fn beginning() -> LittleLedger {
    let mut ledger = empty();
    ledger.commit();
    ledger.add(&by("operator", change("operator", Some(operator()))));
    ledger.commit();
    let scanner = principal(3, &[Role::Scanner], &["r/**"], &[]);
    for (name, principal) in [
        ("ci", ci()),
        ("signer", signer(&[21, 22])),
        ("scanner", scanner),
        ("reader", principal(4, &[Role::Reader], &[], &[])),
        ("admin", principal(5, &[Role::Admin], &[], &[])),
    ] {
        ledger.add(&by("operator", change(name, Some(principal))));
    }
    ledger.commit();
    assert_eq!(ledger.size(), FIRST_LIE);
    ledger
}

pub(crate) fn honest(cases: &mut Cases) {
    let mut ledger = beginning();
    let pushed = |digit| push("v1", digit, Happened);
    for sent in [
        by("ci", pushed('a')),
        by("ci", delete("v1")),
        signed("signer", 21, pushed('b'), pushed('b')),
        signed_with_event("job-2", "signer", 22, attest('b')),
        by("scanner", observe("v1", Some('c'))),
        with("webhook/lab", Claimed, pushed('d')),
        with("webhook/lab", Confirmed, observe("v1", Some('d'))),
        by("admin", change_policy(&["r/app:v*"])),
        // The same again, another key instead of one of two, and nobody any more.
        by("admin", change("ci", Some(ci()))),
        by("operator", change("signer", Some(signer(&[22, 23])))),
        signed_with_event("job-3", "signer", 23, pushed('d')),
        // Who has to show more may sign without an event id.
        by("operator", change("both", Some(both(24)))),
        repeatable("both", 24, push("v2", 'a', Happened)),
        repeatable("both", 24, push("v2", 'a', Happened)),
        by("admin", change("ci", None)),
        // An admin may take itself away, as long as there is another, and come back by it.
        by("operator", change("operator", None)),
        by("admin", change("operator", Some(operator()))),
        by("operator", push("latest", 'a', Happened)),
    ] {
        ledger.add(&sent);
    }
    ledger.commit();
    // What is free again may be another's.
    ledger.add(&by("operator", change("build", Some(ci()))));
    ledger.add(&by("build", push("latest", 'b', Happened)));
    ledger.commit();
    cases.holds("principals that come, change and go, and what they state meanwhile", &ledger);
    let mut ledger = empty();
    ledger.commit();
    ledger.record(push("v1", 'a', Happened));
    ledger.add(&by("operator", change("operator", Some(operator()))));
    ledger.commit();
    cases.holds("a log that had no principals at first", &ledger);
}

/// Each lie, and the word by which our own auditor refuses it.
pub(crate) fn lying(cases: &mut Cases) {
    let pushed = || push("v1", 'a', Happened);
    let elsewhere = || {
        let Kind::TagPush(push) = pushed() else { panic!("a push") };
        Kind::TagPush(proto::TagPush { repository: "apps".into(), ..push })
    };
    let deployed = || Kind::Deployment(deployment("prod", "web", "v1", 'a', Started));
    let (known, role, grant, assurance) = ("is not known", "needs the role", "covers a", "cannot have the assurance");
    let stated: [(&str, &str, &str, Submission); 28] = [
        ("somebody unknown", "nobody is called so", known, by("nobody", pushed())),
        ("nearly a principal", "names are compared whole", known, by("ci ", pushed())),
        ("a reader that writes", "it is no writer", role, by("reader", pushed())),
        ("a scanner that pushes", "it is no writer", role, by("scanner", pushed())),
        ("a scanner that deploys", "it is no writer", role, by("scanner", deployed())),
        ("an admin that writes", "it is no writer", role, by("admin", pushed())),
        ("a writer that changes the policy", "it is no admin", role, by("ci", change_policy(&[]))),
        ("a writer that makes itself admin", "it is no admin", role, by("ci", change("ci", Some(operator())))),
        ("another repository", "r/app is granted, and not r/apps", grant, by("ci", elsewhere())),
        ("another kind of statement", "it may push and delete", grant, by("ci", deployed())),
        ("an observation that is not granted", "it may push and delete", grant, by("ci", observe("v1", None))),
        ("an attestation that is not granted", "it may push and delete", grant, by("ci", attest('a'))),
        (
            "a signature over other bytes",
            "it is over another digest",
            "does not match",
            signed("signer", 21, pushed(), push("v1", 'b', Happened)),
        ),
        (
            "a signature by another key",
            "23 is not its key",
            "is not a key of",
            signed("signer", 23, pushed(), pushed()),
        ),
        ("a key where there is none", "ci has no key", "is not a key of", signed("ci", 21, pushed(), pushed())),
        ("no signature where it is required", "it has to sign", assurance, by("signer", pushed())),
        (
            "a statement that anybody could send again",
            "signer shows nothing but signatures, and it has no event_id",
            "needs an event_id",
            repeatable("signer", 21, pushed()),
        ),
        ("a claim by a principal", "it is authenticated or signs", assurance, with("ci", Claimed, pushed())),
        ("a confirmation by a principal", "only the ledger confirms", assurance, with("ci", Confirmed, pushed())),
        (
            "a webhook that is authenticated",
            "a webhook claims",
            assurance,
            with("webhook/lab", Authenticated, pushed()),
        ),
        ("a webhook that deploys", "it tells of tags", grant, with("webhook/lab", Claimed, deployed())),
        ("a webhook that rules", "it tells of tags", grant, with("webhook/lab", Confirmed, change_policy(&[]))),
        ("the revocation of nobody", "nobody is called so", "can't be revoked", by("admin", change("nobody", None))),
        (
            "a token of another",
            "the hash is ci's",
            "is one of principal",
            by("admin", change("new", Some(principal(2, &[Role::Reader], &[], &[])))),
        ),
        (
            "a key of another",
            "the key is signer's",
            "is one of principal",
            by("admin", change("new", Some(signer(&[22])))),
        ),
        ("a principal of a webhook's name, which is none", "it is not known", known, by("webhook", pushed())),
        ("a change in nobody's name", "nobody is called so", known, by("root", change("ci", None))),
        ("a scanner beyond its grant", "r/** is granted", grant, by("scanner", observed_elsewhere())),
    ];
    for (name, why, word, sent) in stated {
        lie(cases, name, why, FIRST_LIE, word, |ledger| {
            ledger.add(&sent);
        });
    }
    let after = FIRST_LIE + 1;
    lie(cases, "a principal after it was revoked", "ci is revoked", after, known, |ledger| {
        ledger.add(&by("admin", change("ci", None)));
        ledger.add(&by("ci", pushed()));
    });
    lie(cases, "a key after it was taken", "key 21 is signer's no more", after, "is not a key of", |ledger| {
        ledger.add(&by("admin", change("signer", Some(signer(&[22])))));
        ledger.add(&signed("signer", 21, pushed(), pushed()));
    });
    lie(cases, "a key before it was given", "key 23 is not signer's yet", FIRST_LIE, "is not a key of", |ledger| {
        ledger.add(&signed("signer", 23, pushed(), pushed()));
        ledger.add(&by("admin", change("signer", Some(signer(&[22, 23])))));
    });
    lie(cases, "the last admin, revoked", "only admin is left", after, "the last with the role admin", |ledger| {
        ledger.add(&by("admin", change("operator", None)));
        ledger.add(&by("admin", change("admin", None)));
    });
    lie(cases, "the last admin, made a reader", "nobody is left", after, "the last with the role admin", |ledger| {
        ledger.add(&by("admin", change("operator", None)));
        ledger.add(&by("admin", change("admin", Some(principal(5, &[Role::Reader], &[], &[])))));
    });
    let same = || by("admin", change("ci", Some(ci())));
    lie(cases, "a change that is said to be one", "ci is this already", FIRST_LIE, "by the rules", |ledger| {
        ledger.add_but(&same(), |_, draft| draft.record.outcome = Outcome::Applied.into());
    });
    let other = || by("admin", change("ci", None));
    lie(cases, "a change that is said to be none", "ci is revoked by it", FIRST_LIE, "by the rules", |ledger| {
        ledger.add_but(&other(), |_, draft| draft.record.outcome = Outcome::Unchanged.into());
    });
    lie(cases, "other principals than follow", "the digest is of others", FIRST_LIE, "by the rules", |ledger| {
        ledger.add_but(&other(), |_, draft| {
            let (count, _) = draft.record.detail.split_once(", ").expect("a summary");
            draft.record.detail = format!("{count}, {}", digest('a'));
        });
    });
    let mut first = empty();
    first.commit();
    first.add(&by("operator", change("operator", Some(ci()))));
    first.commit();
    cases.lies("a first principal that is no admin", "nobody could add another", 1, "the first principal", &first);
}

fn observed_elsewhere() -> Kind {
    let Kind::TagObserved(seen) = observe("v1", Some('a')) else { panic!("an observation") };
    Kind::TagObserved(proto::TagObserved { registry: "other.example".into(), ..seen })
}

fn lie(cases: &mut Cases, name: &str, why: &str, index: u64, word: &str, lie: impl FnOnce(&mut LittleLedger)) {
    let mut ledger = beginning();
    lie(&mut ledger);
    ledger.commit();
    cases.lies(&format!("principals: {name}"), why, index, word, &ledger);
}
