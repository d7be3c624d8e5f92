//! What follows from changes, and what is judged by it. `tests/vectors/authority.rs` has a log for each way to lie about it.

use proptest::prelude::*;
use prost::Message as _;

use super::authority::{Shown, Unauthorized};
use super::*;
use crate::ledger::statement::Statement;
use crate::proto::{self, Credential, principal_change, statement::Kind};

fn definition(token: u8, roles: &[Role]) -> proto::Principal {
    let speaks = roles.iter().any(|role| matches!(role, Role::Writer | Role::Scanner));
    let grant = proto::Grant { repositories: vec!["r/**".into()], kinds: vec![] };
    proto::Principal {
        roles: roles.iter().map(|role| i32::from(*role)).collect(),
        grants: if speaks { vec![grant] } else { vec![] },
        requires: vec![Credential::Token.into()],
        token_sha256: vec![vec![token; 32]],
        ..proto::Principal::default()
    }
}

fn change(name: &str, principal: Option<proto::Principal>) -> Change {
    let change = match principal {
        Some(principal) => principal_change::Change::Principal(principal),
        None => principal_change::Change::Revocation(proto::Revocation {}),
    };
    Change::parse(&proto::PrincipalChange { name: name.into(), change: Some(change) }).expect("valid")
}

fn admin() -> Principals {
    Principals::default().after(&change("admin", Some(definition(1, &[Role::Admin])))).expect("an admin")
}

#[test]
fn the_digest_is_that_of_the_specification() {
    // From another program: printf 'tagledger.v1.principals\n' | sha256sum
    let none = "sha256:38483e22d47d87204e340f7331a64e6366d6d038b09a45082af3189baa27a697";
    assert_eq!(Principals::default().digest().as_str(), none);
    let one = admin();
    let bytes = one.changes().next().expect("one").to_vec();
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    let expected = Sha256::digest([b"tagledger.v1.principals\n".as_slice(), &length, &bytes].concat());
    assert_eq!(one.digest().as_str(), format!("sha256:{}", hex::encode(expected)));
    assert_eq!(one.summary(), format!("1 principal, {}", one.digest()));
}

#[test]
fn there_are_only_so_many() {
    let mut principals = admin();
    for number in 1..MAX_PRINCIPALS {
        let mut definition = definition(0, &[Role::Reader]);
        definition.token_sha256 = vec![Sha256::digest(number.to_be_bytes()).to_vec()];
        principals = principals.after(&change(&format!("p{number}"), Some(definition))).expect("room");
    }
    assert_eq!(principals.len(), MAX_PRINCIPALS);
    let one_more = change("one-more", Some(definition(2, &[Role::Reader])));
    assert_eq!(principals.after(&one_more), Err(ChangeError::TooMany));
    let without = principals.after(&change("p7", None)).expect("revoked");
    assert!(without.after(&one_more).is_ok());
}

#[test]
fn credentials_count_only_together_and_only_its_own() {
    let mut both = definition(2, &[Role::Writer]);
    both.requires = vec![1, 2];
    both.certificate_names = vec!["ci.example".into()];
    let principals = admin().after(&change("ci", Some(both))).expect("added");
    let ci = principals.get("ci").expect("known");
    let shown = |token: Option<u8>, names: &[&str]| Shown {
        token: token.map(|byte| [byte; 32]),
        certificate_names: names.iter().map(|&name| name.into()).collect(),
        ..Shown::default()
    };
    assert_eq!(ci.accepts(&shown(Some(2), &["other.example", "ci.example"]), false), Ok(()));
    for (token, names) in [
        (None, &[][..]),
        (Some(2), &[]),
        (None, &["ci.example"]),
        (Some(1), &["ci.example"]),
        (Some(2), &["c.example"]),
    ] {
        let refused = ci.accepts(&shown(token, names), false);
        assert!(matches!(refused, Err(Unauthorized::Credential { .. })), "{token:?} {names:?}: {refused:?}");
    }
}

#[test]
fn each_of_its_tokens_counts_and_no_other() {
    let mut two = definition(2, &[Role::Writer]);
    two.token_sha256.push(vec![3; 32]);
    let principals = admin().after(&change("ci", Some(two))).expect("added");
    let ci = principals.get("ci").expect("known");
    let is_accepted = |token: [u8; 32]| ci.accepts(&Shown { token: Some(token), ..Shown::default() }, false).is_ok();
    assert!(is_accepted([2; 32]) && is_accepted([3; 32]));
    for at in 0..32 {
        let mut close = [3; 32];
        close[at] ^= 1;
        assert!(!is_accepted(close), "another byte {at}");
    }
    assert!(!is_accepted([1; 32]), "another's");
}

/// Changes of a few names, each with a token of its own or a neighbour's.
fn any_changes() -> impl Strategy<Value = Vec<(u8, Option<(u8, bool)>)>> {
    prop::collection::vec((0..4u8, prop::option::weighted(0.8, (0..5u8, any::<bool>()))), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_for_there_is_an_admin_and_each_credential_is_one_principals(asked in any_changes()) {
        let mut principals = Principals::default();
        for (name, to) in asked {
            let definition = to.map(|(token, is_admin)| {
                definition(token, if is_admin { &[Role::Admin] } else { &[Role::Writer] })
            });
            let Ok(after) = principals.after(&change(&format!("p{name}"), definition)) else { continue };
            principals = after;
            prop_assert!(principals.iter().any(|principal| principal.has(Role::Admin)));
            let mut tokens: Vec<_> = principals.iter().flat_map(|principal| principal.tokens().to_vec()).collect();
            tokens.sort_unstable();
            tokens.dedup();
            prop_assert_eq!(tokens.len(), principals.len());
            // What is kept of them makes them again.
            let changes = principals.changes().map(|bytes| {
                Change::parse(&proto::PrincipalChange::decode(bytes).expect("encoded")).expect("valid")
            });
            prop_assert_eq!(Principals::of_changes(changes), Some(principals.clone()));
        }
    }

    #[test]
    fn a_pattern_that_is_accepted_can_be_matched_with(pattern in "[a-c*?\\[\\]{}!^,\\-\\\\/:.é]{1,24}") {
        let mut definition = definition(2, &[Role::Writer]);
        definition.grants[0].repositories = vec![pattern];
        let message = proto::PrincipalChange {
            name: "ci".into(),
            change: Some(principal_change::Change::Principal(definition)),
        };
        if let Ok(change) = Change::parse(&message) {
            let principals = admin().after(&change).expect("added");
            let delete = proto::TagDelete {
                registry: "a".into(),
                repository: "b".into(),
                tag: "c".into(),
                disposition: proto::Disposition::Happened.into(), settles: 0 };
            let bytes = proto::Statement { kind: Some(Kind::TagDelete(delete)), ..Default::default() }.encode_to_vec();
            let statement = Statement::parse(&bytes).expect("valid");
            let _ = principals.get("ci").expect("known").authorises(&statement);
        }
    }
}
