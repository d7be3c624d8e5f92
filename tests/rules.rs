//! The rules against a table, a plain model, and the readers of the log.
//!
//! - The table: every state of one tag, every statement about it, every disposition, with and without a rule that makes it
//!   immutable, and what must come of it, written by hand.
//! - The model: random statements over a few repositories, tags, digests and workloads; what each does, computed once more
//!   from nothing but the words of the specification.
//! - The readers: a verifier has only the records, and reads from them which subjects an entry belongs to (`named_by`) and what
//!   it does to each (`effect_on`). It must arrive where the rules did.
//!
//! Every test writes through [`World`], which checks each record as a reader, and ends in `check_ledger()`, which recomputes
//! all histories from the encoded entries alone.

mod immutable;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use prost::Message as _;

use tagledger::ledger::entry::{Body, MAX_ENTRY_LENGTH, SignedEntry, sign_record};
use tagledger::ledger::hold::{self, Held, must_wait};
use tagledger::ledger::names::{Digest, Registry, Repository, Tag};
use tagledger::ledger::note::Skey;
use tagledger::ledger::policy::{MAX_ID_LENGTH, MAX_TEXT_LENGTH, Policy};
use tagledger::ledger::referrer::subject_of;
use tagledger::ledger::statement::{
    Kind as Parsed, MAX_POLICY_STATEMENT_LENGTH, MAX_STATEMENT_LENGTH, Phase, Statement, TagName,
};
use tagledger::ledger::subject::{Effect, Subject, SubjectKey, effect_on, named_by};
use tagledger::ledger::transition::{Binding, Step, SubjectState, TAGS_PER_ENTRY, View, transition};
use tagledger::proto;
use tagledger::proto::statement::Kind;
use tagledger::proto::{Disposition, Outcome};

use immutable::immutable;

use Disposition::{Happened, Intended, Refused, Requested};
use Outcome::{Applied, Denied, Drift, Failed, Noted, Unchanged, Violation};

const REGISTRY: &str = "r.example";
const A: char = 'a';
const B: char = 'b';
const C: char = 'c';

// The table.

/// State of the tag, statement, and what comes of it: if the tag is free, if it is immutable and the statement asks, if it is
/// immutable and the statement tells; and the state afterwards, where it changes.
const TABLE: [(&str, &str, Outcome, Outcome, Outcome, &str); 28] = [
    ("never", "push A", Applied, Applied, Applied, "bound A"),
    ("never", "push B", Applied, Applied, Applied, "bound B"),
    ("never", "delete", Unchanged, Unchanged, Unchanged, ""),
    ("never", "delete manifest A", Unchanged, Unchanged, Unchanged, ""),
    ("never", "observe A", Applied, Applied, Applied, "bound A"),
    ("never", "observe B", Applied, Applied, Applied, "bound B"),
    ("never", "observe absent", Unchanged, Unchanged, Unchanged, ""),
    ("bound A", "push A", Unchanged, Unchanged, Unchanged, ""),
    ("bound A", "push B", Applied, Denied, Violation, "bound B"),
    ("bound A", "delete", Applied, Denied, Violation, "unbound A"),
    ("bound A", "delete manifest A", Applied, Denied, Violation, "unbound A"),
    ("bound A", "observe A", Unchanged, Unchanged, Unchanged, ""),
    ("bound A", "observe B", Drift, Violation, Violation, "bound B"),
    ("bound A", "observe absent", Drift, Violation, Violation, "unbound A"),
    ("unbound A", "push A", Applied, Applied, Applied, "bound A"),
    ("unbound A", "push B", Applied, Denied, Violation, "bound B"),
    ("unbound A", "delete", Unchanged, Unchanged, Unchanged, ""),
    ("unbound A", "delete manifest A", Unchanged, Unchanged, Unchanged, ""),
    ("unbound A", "observe A", Drift, Drift, Drift, "bound A"),
    ("unbound A", "observe B", Drift, Violation, Violation, "bound B"),
    ("unbound A", "observe absent", Unchanged, Unchanged, Unchanged, ""),
    ("bound B", "push A", Applied, Denied, Violation, "bound A"),
    ("bound B", "push B", Unchanged, Unchanged, Unchanged, ""),
    ("bound B", "delete", Applied, Denied, Violation, "unbound B"),
    ("bound B", "delete manifest A", Unchanged, Unchanged, Unchanged, ""),
    ("bound B", "observe A", Drift, Violation, Violation, "bound A"),
    ("bound B", "observe B", Unchanged, Unchanged, Unchanged, ""),
    ("bound B", "observe absent", Drift, Violation, Violation, "unbound B"),
];

#[test]
fn every_statement_about_a_tag_in_every_state_does_what_the_table_says() {
    for (state, statement, free, asked, told, after) in TABLE {
        for (immutable, disposition) in [
            (false, Requested),
            (false, Happened),
            (false, Refused),
            (true, Requested),
            (true, Happened),
            (true, Refused),
            (false, Intended),
            (true, Intended),
        ] {
            let is_observation = statement.starts_with("observe");
            if is_observation && disposition != Happened {
                continue;
            }
            let expected = match (immutable, disposition) {
                (_, Refused) => Failed,
                (false, Intended) if free == Applied => Noted,
                (false, _) => free,
                (true, Intended) if asked == Applied => Noted,
                (true, Requested | Intended) => asked,
                (true, _) => told,
            };
            let case = format!("{state}, {statement}, {disposition:?}, immutable: {immutable}");
            let mut world = World::new(if immutable { &["r.example/app:*"] } else { &[] });
            bring_to(&mut world, state);
            let before = world.tag("app", "v1");
            assert_eq!(shown(&before), state, "{case}");
            let index = world.next_index();
            let steps = world.say(statement_of(statement, disposition));
            assert_eq!(steps.len(), 1, "{case}");
            assert_eq!(steps[0].outcome, expected, "{case}: {}", steps[0].detail);

            let changes = matches!(expected, Applied | Violation | Drift);
            let binding = world.tag("app", "v1");
            let aim = match statement {
                "push A" => hold::Aim::Push(digest(A)),
                "push B" => hold::Aim::Push(digest(B)),
                "delete" => hold::Aim::Delete,
                _ => hold::Aim::DeleteManifest,
            };
            let held = (expected == Noted).then_some(hold::Hold { index, by: "ci".into(), aim });
            assert_eq!(world.hold("app", "v1"), held, "{case}");
            if changes {
                assert_eq!(shown(&binding), after, "{case}");
                assert_eq!(set_by(&binding), Some(index), "{case}");
            } else {
                assert_eq!(binding, before, "{case}");
            }
            let by_rule = matches!(expected, Denied | Violation);
            assert_eq!(steps[0].rule, if by_rule { "r.example/app:*" } else { "" }, "{case}");
            if by_rule {
                let entry = format!("entry {}", set_by(&before).expect("was bound once"));
                assert!(steps[0].detail.contains(&entry), "{case}: {}", steps[0].detail);
            }
            world.check_ledger();
        }
    }
}

fn bring_to(world: &mut World, state: &str) {
    let statements: &[&str] = match state {
        "never" => &[],
        "bound A" => &["push A"],
        "unbound A" => &["push A", "delete"],
        "bound B" => &["push A", "push B"],
        _ => panic!("no such state: {state}"),
    };
    // It happened, whatever the rules say.
    for statement in statements {
        world.say(statement_of(statement, Happened));
    }
}

fn statement_of(text: &str, disposition: Disposition) -> Kind {
    match text {
        "push A" => push("app", "v1", A, disposition),
        "push B" => push("app", "v1", B, disposition),
        "delete" => delete("app", "v1", disposition),
        "delete manifest A" => delete_manifest("app", A, disposition),
        "observe A" => observe("app", "v1", Some(A)),
        "observe B" => observe("app", "v1", Some(B)),
        "observe C" => observe("app", "v1", Some(C)),
        "observe absent" => observe("app", "v1", None),
        _ => panic!("no such statement: {text}"),
    }
}

fn shown(binding: &Binding) -> String {
    let letter = |digest: &Digest| digest.as_str()[7..8].to_uppercase();
    match binding {
        Binding::Never => "never".to_owned(),
        Binding::Bound { digest, .. } => format!("bound {}", letter(digest)),
        Binding::Unbound { last, .. } => format!("unbound {}", letter(last)),
    }
}

fn set_by(binding: &Binding) -> Option<u64> {
    match binding {
        Binding::Never => None,
        Binding::Bound { set_by, .. } | Binding::Unbound { set_by, .. } => Some(*set_by),
    }
}

// Holds.

/// The tag is "bound A" and immutable by now, or it is not; somebody intends something, which was allowed at that time; and
/// then this is said, and this comes of it. What does not settle leaves the hold.
const SETTLING: [(&str, &str, bool, Outcome, Outcome, &str, bool); 24] = [
    // intent, then, naming the intent; if free, if immutable; the tag afterwards, and whether it is still held
    ("push B", "push B", true, Applied, Applied, "bound B", false),
    ("push B", "push B", false, Applied, Violation, "bound B", true),
    ("push B", "push A", true, Unchanged, Unchanged, "bound A", true),
    ("push B", "delete", true, Applied, Violation, "unbound A", true),
    ("push B", "observe B", true, Applied, Applied, "bound B", false),
    ("push B", "observe B", false, Applied, Applied, "bound B", true),
    ("push B", "observe A", true, Unchanged, Unchanged, "bound A", false),
    ("push B", "observe A", false, Unchanged, Unchanged, "bound A", true),
    ("push B", "observe C", true, Drift, Violation, "bound C", false),
    ("push B", "observe C", false, Drift, Violation, "bound C", true),
    ("push B", "observe absent", true, Drift, Violation, "unbound A", false),
    ("delete", "delete", true, Applied, Applied, "unbound A", false),
    ("delete", "delete", false, Applied, Violation, "unbound A", true),
    ("delete", "delete manifest A", true, Applied, Violation, "unbound A", true),
    ("delete", "observe absent", true, Applied, Applied, "unbound A", false),
    ("delete", "observe absent", false, Applied, Applied, "unbound A", true),
    ("delete", "observe A", true, Unchanged, Unchanged, "bound A", false),
    ("delete", "observe B", true, Drift, Violation, "bound B", false),
    ("delete manifest A", "delete manifest A", true, Applied, Applied, "unbound A", false),
    // What takes the digest from under the tag ends the hold: the deletion of the manifest has nothing to do with it any more.
    ("delete manifest A", "delete manifest A", false, Applied, Violation, "unbound A", false),
    ("delete manifest A", "push B", false, Applied, Violation, "bound B", false),
    ("delete manifest A", "observe absent", false, Applied, Applied, "unbound A", false),
    ("delete manifest A", "observe absent", true, Applied, Applied, "unbound A", false),
    ("delete manifest A", "observe A", true, Unchanged, Unchanged, "bound A", false),
];

#[test]
fn what_becomes_of_an_intent_is_recorded_as_the_table_says_whatever_the_policy_is_by_then() {
    for (intent, then, names_it, free, forbidden, after, stays_held) in SETTLING {
        for is_immutable in [false, true] {
            let case = format!("{intent} intended, {then}, naming it: {names_it}, immutable by then: {is_immutable}");
            let mut world = World::new(&[]);
            bring_to(&mut world, "bound A");
            let holder = world.next_index();
            assert_eq!(world.outcome(statement_of(intent, Intended)), Noted, "{case}");
            assert_eq!(shown(&world.tag("app", "v1")), "bound A", "{case}");
            if is_immutable {
                world.say(policy(&immutable(&["r.example/app:*"])));
            }
            let kind = statement_of(then, Happened);
            let step = world.say(if names_it { naming(kind, holder) } else { kind }).remove(0);
            assert_eq!(step.outcome, if is_immutable { forbidden } else { free }, "{case}: {}", step.detail);
            assert_eq!(shown(&world.tag("app", "v1")), after, "{case}");
            assert_eq!(world.hold("app", "v1").map(|hold| hold.index), stays_held.then_some(holder), "{case}");
            world.check_ledger();
        }
    }
}

#[test]
fn nobody_but_who_intended_can_say_what_became_of_it_and_anybody_can_look() {
    for (intent, then, _, _, _, after, stays_held) in SETTLING.into_iter().filter(|row| row.2) {
        let is_a_look = then.starts_with("observe");
        // As if it named nothing.
        let (_, _, _, free, forbidden, after, stays_held) = match is_a_look {
            true => ("", "", true, Unchanged, Unchanged, after, stays_held),
            false => {
                let unnamed = SETTLING.into_iter().find(|row| (row.0, row.1, row.2) == (intent, then, false));
                let Some(row) = unnamed else { continue };
                row
            }
        };
        for is_immutable in [false, true] {
            let case = format!("{intent} intended, {then} by somebody else, immutable by then: {is_immutable}");
            let mut world = World::new(&[]);
            bring_to(&mut world, "bound A");
            let holder = world.next_index();
            assert_eq!(world.outcome(statement_of(intent, Intended)), Noted, "{case}");
            if is_immutable {
                world.say(policy(&immutable(&["r.example/app:*"])));
            }
            let step = world.say_as("somebody else", naming(statement_of(then, Happened), holder)).remove(0);
            if !is_a_look {
                assert_eq!(step.outcome, if is_immutable { forbidden } else { free }, "{case}: {}", step.detail);
            }
            assert_eq!(shown(&world.tag("app", "v1")), after, "{case}");
            assert_eq!(world.hold("app", "v1").map(|hold| hold.index), stays_held.then_some(holder), "{case}");
        }
    }
    let mut world = World::new(&[]);
    let holder = world.next_index();
    assert_eq!(world.outcome(push("app", "v1", A, Intended)), Noted);
    let refused = naming(push("app", "v1", A, Refused), holder);
    world.say_as("somebody else", refused.clone());
    assert_eq!(world.hold("app", "v1").map(|hold| hold.index), Some(holder));
    world.say(refused);
    assert_eq!(world.hold("app", "v1"), None);
}

#[test]
fn what_was_refused_upstream_is_failed_and_ends_the_hold_of_its_intent_only() {
    for intent in ["push B", "delete", "delete manifest A"] {
        let mut world = World::new(&[]);
        bring_to(&mut world, "bound A");
        let holder = world.next_index();
        world.say(statement_of(intent, Intended));
        assert_eq!(world.outcome(statement_of(intent, Refused)), Failed);
        assert_eq!(world.outcome(naming(statement_of(intent, Refused), holder + 1)), Failed);
        assert_eq!(world.hold("app", "v1").map(|hold| hold.index), Some(holder), "{intent}");
        assert_eq!(world.outcome(naming(statement_of(intent, Refused), holder)), Failed);
        assert_eq!(world.hold("app", "v1"), None, "{intent}");
        assert_eq!(shown(&world.tag("app", "v1")), "bound A");
        world.check_ledger();
    }
}

#[test]
fn while_a_tag_is_held_whatever_asks_about_it_waits_and_whatever_tells_does_not() {
    let mut world = World::new(&[]);
    bring_to(&mut world, "bound A");
    world.say(push("app", "other", B, Happened));
    let holder = world.next_index();
    world.say(statement_of("push B", Intended));
    for text in ["push A", "push B", "delete", "delete manifest A"] {
        for (disposition, waits) in [(Requested, true), (Intended, true), (Happened, false), (Refused, false)] {
            let held = world.must_wait(statement_of(text, disposition));
            assert_eq!(held.as_ref().map(|held| held.index), waits.then_some(holder), "{text}, {disposition:?}");
            assert!(held.is_none_or(|held| held.tag.to_string() == "r.example/app:v1"), "{text}");
        }
    }
    for free in [
        observe("app", "v1", Some(C)),
        push("app", "other", A, Intended),
        delete_manifest("app", B, Intended),
        push("other", "v1", A, Requested),
        deploy("web", Some("v1"), A, Phase::Started),
    ] {
        assert_eq!(world.must_wait(free.clone()), None, "{free:?}");
    }
    assert_eq!(world.outcome(naming(push("app", "v1", B, Happened), holder)), Applied);
    assert_eq!(world.must_wait(push("app", "v1", A, Intended)), None);
    world.check_ledger();
}

#[test]
fn the_deletion_of_a_manifest_under_many_tags_holds_all_of_them_for_its_first_entry() {
    let mut world = World::new(&[]);
    let tags: Vec<String> = (0..TAGS_PER_ENTRY + 3).map(|number| format!("t{number:04}")).collect();
    for tag in &tags {
        world.say(push("app", tag, A, Happened));
    }
    world.say(push("app", "other", B, Happened));
    let holder = world.next_index();
    let steps = world.say(delete_manifest("app", A, Intended));
    assert_eq!(steps.iter().map(|step| step.outcome).collect::<Vec<_>>(), [Noted, Noted]);
    let held = |world: &World, tag: &str| world.hold("app", tag).map(|hold| hold.index);
    assert!(tags.iter().all(|tag| held(&world, tag) == Some(holder)));
    assert_eq!(held(&world, "other"), None);
    // The rules change in between; what was allowed goes through, and takes with it what came under the digest meanwhile only
    // as what it is, a violation.
    world.say(policy(&immutable(&["r.example/app:*"])));
    let steps = world.say(naming(delete_manifest("app", A, Happened), holder));
    assert_eq!(steps.iter().map(|step| step.outcome).collect::<Vec<_>>(), [Applied, Applied]);
    assert!(tags.iter().all(|tag| held(&world, tag).is_none() && world.tag("app", tag).digest().is_none()));

    let mut world = World::new(&[]);
    world.say(push("app", "a", A, Happened));
    let holder = world.next_index();
    world.say(delete_manifest("app", A, Intended));
    world.say(push("app", "b", A, Happened));
    world.say(policy(&immutable(&["r.example/app:*"])));
    assert_eq!(world.outcome(naming(delete_manifest("app", A, Happened), holder)), Violation);
    assert_eq!((world.tag("app", "a").digest(), world.tag("app", "b").digest()), (None, None));
    world.check_ledger();
}

#[test]
fn only_what_happened_or_was_refused_settles() {
    for disposition in [Requested, Intended] {
        for text in ["push A", "delete", "delete manifest A"] {
            let kind = naming(statement_of(text, disposition), 6);
            let refused = Statement::parse(&statement(kind).encode_to_vec()).expect_err("refused");
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert_eq!(refused[0].reason, "NOT_ALLOWED");
            assert!(refused[0].field.ends_with(".settles") && refused[0].message.contains("is 7"), "{}", refused[0]);
        }
    }
}

/// The same, as what became of an intent.
fn naming(mut kind: Kind, index: u64) -> Kind {
    match &mut kind {
        Kind::TagPush(push) => push.settles = index + 1,
        Kind::TagDelete(delete) => delete.settles = index + 1,
        Kind::ManifestDelete(delete) => delete.settles = index + 1,
        Kind::TagObserved(seen) => seen.checks_entry = index + 1,
        other => panic!("{other:?} settles nothing"),
    }
    kind
}

// Stories.

#[test]
fn of_two_that_ask_for_the_same_new_tag_the_second_is_told_who_won() {
    let mut world = World::new(&["r.example/app:v*"]);
    world.say(attest(C));
    let winner = world.next_index();
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Applied);
    let step = world.say(push("app", "v1", B, Requested)).remove(0);
    assert_eq!((step.outcome, step.rule.as_str()), (Denied, "r.example/app:v*"));
    let words = format!("tag \"v1\" is immutable since entry {winner} bound it to {}", digest(A));
    assert_eq!(step.detail, words);
    assert_eq!(world.tag("app", "v1"), bound(A, winner));
    world.check_ledger();
}

#[test]
fn an_immutable_tag_comes_back_after_a_delete_with_its_own_digest_only() {
    let mut world = World::new(&["r.example/app:v*"]);
    world.say(push("app", "v1", A, Requested));
    assert_eq!(world.outcome(delete("app", "v1", Requested)), Denied);
    let unbound_by = world.next_index();
    assert_eq!(world.outcome(delete("app", "v1", Happened)), Violation);
    let step = world.say(push("app", "v1", B, Requested)).remove(0);
    assert_eq!(step.outcome, Denied);
    let words =
        format!("tag \"v1\" is immutable: it may only come back as {}, which entry {unbound_by} unbound", digest(A));
    assert_eq!(step.detail, words);
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Applied);
    assert_eq!(world.outcome(push("app", "v1", B, Requested)), Denied);
    // A second delete does not make it forget.
    world.say(delete("app", "v1", Happened));
    world.say(delete("app", "v1", Happened));
    assert_eq!(world.outcome(push("app", "v1", B, Requested)), Denied);
    // Once the world has moved it all the same, that is what holds.
    assert_eq!(world.outcome(push("app", "v1", B, Happened)), Violation);
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Denied);
    assert_eq!(world.outcome(push("app", "v1", B, Requested)), Unchanged);
    world.check_ledger();
}

#[test]
fn a_free_tag_comes_back_after_a_delete_with_whatever_is_pushed() {
    for digest in [A, B] {
        let mut world = World::new(&["r.example/app:v*"]);
        world.say(push("app", "latest", A, Requested));
        assert_eq!(world.outcome(delete("app", "latest", Requested)), Applied);
        assert_eq!(world.outcome(delete("app", "latest", Requested)), Unchanged);
        let index = world.next_index();
        assert_eq!(world.outcome(push("app", "latest", digest, Requested)), Applied);
        assert_eq!(world.tag("app", "latest"), bound(digest, index));
        world.check_ledger();
    }
}

#[test]
fn in_a_rolling_update_the_stop_of_the_old_container_does_not_stop_the_new_one() {
    let mut world = World::new(&[]);
    assert_eq!(world.outcome(deploy("web", None, A, Phase::Started)), Applied);
    assert_eq!(world.outcome(deploy("web", None, A, Phase::Started)), Unchanged, "a second replica");
    let started_by = world.next_index();
    assert_eq!(world.outcome(deploy("web", None, B, Phase::Started)), Applied);
    assert_eq!(world.outcome(deploy("web", None, A, Phase::Stopped)), Unchanged);
    assert_eq!(world.workload("web"), bound(B, started_by));
    assert_eq!(world.outcome(deploy("web", None, B, Phase::Observed)), Unchanged);
    assert_eq!(world.outcome(deploy("web", None, B, Phase::Stopped)), Applied);
    assert_eq!(world.workload("web").digest(), None);
    assert_eq!(world.outcome(deploy("web", None, B, Phase::Stopped)), Unchanged);
    assert_eq!(world.outcome(deploy("web", None, B, Phase::Observed)), Applied);
    world.check_ledger();
}

#[test]
fn a_deployment_that_disagrees_with_its_tag_is_drift_and_moves_the_workload_but_not_the_tag() {
    let mut world = World::new(&[]);
    let pushed_by = world.next_index();
    world.say(push("app", "v1", A, Happened));
    assert_eq!(world.outcome(deploy("web", Some("v1"), A, Phase::Started)), Applied);
    let index = world.next_index();
    let step = world.say(deploy("web", Some("v1"), B, Phase::Started)).remove(0);
    assert_eq!((step.outcome, step.rule.as_str()), (Drift, ""));
    assert_eq!(step.detail, format!("recorded is {}, by entry {pushed_by}", digest(A)));
    assert_eq!(world.workload("web"), bound(B, index));
    assert_eq!(world.tag("app", "v1"), bound(A, pushed_by));
    // It goes on to disagree, and is said to every time.
    assert_eq!(world.outcome(deploy("web", Some("v1"), B, Phase::Observed)), Drift);
    // That the wrong one stops is no disagreement.
    assert_eq!(world.outcome(deploy("web", Some("v1"), B, Phase::Stopped)), Applied);
    // What runs under a deleted tag disagrees as well.
    world.say(delete("app", "v1", Happened));
    assert_eq!(world.outcome(deploy("web", Some("v1"), A, Phase::Started)), Drift);
    world.check_ledger();
}

#[test]
fn a_tag_that_was_never_bound_has_nothing_to_disagree_with() {
    let mut world = World::new(&["**:*"]);
    assert_eq!(world.outcome(push("app", "v1", A, Refused)), Failed);
    assert_eq!(world.outcome(deploy("web", Some("v1"), B, Phase::Started)), Applied);
    assert_eq!(world.outcome(deploy("web", Some("v2"), B, Phase::Observed)), Unchanged);
    assert_eq!(world.tag("app", "v1"), Binding::Never, "a deployment binds no tag");
    assert_eq!(world.outcome(observe("app", "v1", Some(C))), Applied);
    assert_eq!(world.outcome(observe("app", "v2", Some(C))), Applied);
    world.check_ledger();
}

#[test]
fn an_observation_that_disagrees_sets_the_tag() {
    let mut world = World::new(&["r.example/app:v*"]);
    world.say(push("app", "latest", A, Happened));
    world.say(push("app", "v1", A, Happened));
    let index = world.next_index();
    assert_eq!(world.outcome(observe("app", "latest", Some(B))), Drift);
    assert_eq!(world.tag("app", "latest"), bound(B, index));
    let index = world.next_index();
    assert_eq!(world.outcome(observe("app", "v1", Some(B))), Violation);
    assert_eq!(world.tag("app", "v1"), bound(B, index));
    assert_eq!(world.outcome(observe("app", "latest", None)), Drift);
    assert_eq!(world.tag("app", "latest").digest(), None);
    assert_eq!(world.outcome(observe("app", "latest", None)), Unchanged);
    world.check_ledger();
}

#[test]
fn a_deleted_manifest_takes_its_tags_of_that_repository_with_it_and_no_others() {
    let mut world = World::new(&[]);
    for (repository, tag, digest) in
        [("app", "v2", A), ("app", "v1", A), ("app", "latest", B), ("other", "v1", A), ("app", "gone", A)]
    {
        world.say(push(repository, tag, digest, Happened));
    }
    world.say(delete("app", "gone", Happened));
    let gone = world.tag("app", "gone");
    let steps = world.say(delete_manifest("app", A, Requested));
    assert_eq!(steps.len(), 1);
    assert_eq!(names(&steps[0]), ["", "v1", "v2"], "the digest, then the tags in byte order");
    assert_eq!(world.tag("app", "v1").digest(), None);
    assert_eq!(world.tag("app", "v2").digest(), None);
    assert_eq!(world.tag("app", "gone"), gone, "was unbound already");
    assert!(world.tag("app", "latest").digest().is_some());
    assert!(world.tag("other", "v1").digest().is_some());
    assert_eq!(world.outcome(delete_manifest("app", A, Requested)), Unchanged);
    world.check_ledger();
}

#[test]
fn a_manifest_with_one_immutable_tag_keeps_all_of_them_or_loses_all_of_them_in_violation() {
    for (disposition, outcome) in [(Requested, Denied), (Happened, Violation), (Refused, Failed)] {
        let mut world = World::new(&["r.example/app:v*"]);
        for tag in ["a", "v1", "z"] {
            world.say(push("app", tag, A, Happened));
        }
        let steps = world.say(delete_manifest("app", A, disposition));
        assert_eq!(steps.len(), 1);
        assert_eq!((steps[0].outcome, names(&steps[0])), (outcome, vec!["", "a", "v1", "z"]));
        assert_eq!(steps[0].detail.contains("tag \"v1\" may not be deleted since entry"), disposition != Refused);
        for tag in ["a", "v1", "z"] {
            assert_eq!(world.tag("app", tag).digest().is_none(), disposition == Happened, "{tag}");
        }
        world.check_ledger();
    }
}

#[test]
fn a_manifest_with_many_tags_becomes_several_entries_of_256_tags_each() {
    for (tags, lengths) in
        [(255, vec![255]), (256, vec![256]), (257, vec![256, 1]), (512, vec![256, 256]), (600, vec![256, 256, 88])]
    {
        for (disposition, immutable) in [(Happened, false), (Requested, true), (Refused, false)] {
            let mut world = World::new(if immutable { &["r.example/app:t0000"] } else { &[] });
            for tag in 0..tags {
                world.say(push("app", &format!("t{tag:04}"), A, Happened));
            }
            let before = world.state(&Subject::Digest(digest(A)));
            let first_index = world.next_index();
            let steps = world.say(delete_manifest("app", A, disposition));
            let found: Vec<usize> = steps.iter().map(|step| step.touches.len() - 1).collect();
            assert_eq!(found, lengths, "{tags}");
            let mut next = 0;
            for (position, step) in (0..).zip(&steps) {
                assert_eq!(
                    (step.outcome, &step.rule, &step.detail),
                    (steps[0].outcome, &steps[0].rule, &steps[0].detail)
                );
                assert_eq!(step.touches[0].subject, Subject::Digest(digest(A)));
                assert_eq!(step.touches[0].version, before.count + position);
                for touch in &step.touches[1..] {
                    assert_eq!(touch.name, format!("t{next:04}"));
                    assert_eq!(touch.version, 1);
                    let after = match disposition {
                        Happened => Some(first_index + position),
                        _ => set_by(&touch.before),
                    };
                    assert_eq!(set_by(&touch.after), after);
                    next += 1;
                }
            }
            assert_eq!(next, tags);
            world.check_ledger();
        }
    }
    assert_eq!(TAGS_PER_ENTRY, 256);
}

/// Takes the ten bytes that a number can take at most.
const LAST: u64 = 1 << 63;

#[test]
fn the_largest_entry_that_the_rules_can_make_fits_into_the_log() {
    let id = "i".repeat(MAX_ID_LENGTH);
    let sha512: Digest = format!("sha512:{}", "a".repeat(128)).parse().expect("valid");
    let longest = |number: usize| format!("{number:03}{}", "x".repeat(125));
    let referrer = |number: usize| format!("sha256-{number:064x}.sbom");
    let tags: [&dyn Fn(usize) -> String; 2] = [&longest, &referrer];
    for tag in tags {
        let mut world = World::under(&format!("exempt_referrers = false\n[[rule]]\nid = '{id}'\n"));
        for number in 0..TAGS_PER_ENTRY {
            let tag = tag(number).parse().expect("valid");
            let name = TagName { registry: registry(), repository: repository("app"), tag };
            let mut occurred = |subject: Subject, binding| {
                // After as many entries as there can be.
                world.subjects.insert(subject.key(), (subject, SubjectState { count: LAST, binding, hold: None }));
            };
            if let Some(digest) = subject_of(&name.tag) {
                occurred(Subject::Digest(digest), Binding::Never);
            }
            occurred(Subject::Tag(name), Binding::Bound { digest: sha512.clone(), set_by: LAST });
        }
        let mut statement = proto::Statement {
            kind: Some(Kind::ManifestDelete(proto::ManifestDelete {
                registry: REGISTRY.into(),
                repository: "app".into(),
                digest: sha512.to_string(),
                disposition: Requested.into(),
                settles: 0,
            })),
            ..Default::default()
        };
        statement.attributes =
            (0..17).map(|number| proto::Attribute { key: format!("{number:02}"), value: "v".repeat(940) }).collect();
        let missing = MAX_STATEMENT_LENGTH - statement.encoded_len();
        statement.attributes[16].value += &"v".repeat(missing);
        let bytes = statement.encode_to_vec();
        assert_eq!(bytes.len(), MAX_STATEMENT_LENGTH);
        let parsed = Statement::parse(&bytes).expect("valid");
        let steps = transition(&world, &world.policy, "ci", &parsed, LAST).unwrap_or_else(|never| match never {});
        assert_eq!((steps.len(), steps[0].outcome), (1, Denied));
        assert_within_an_entry(&steps[0], bytes);
    }
    let mut statement = statement(policy(&format!("#{}", "p".repeat(MAX_TEXT_LENGTH - 1))));
    statement.ci_run = "c".repeat(512);
    statement.attributes =
        (0..4).map(|number| proto::Attribute { key: format!("{number:02}"), value: "v".repeat(840) }).collect();
    let missing = MAX_POLICY_STATEMENT_LENGTH - statement.encoded_len();
    statement.attributes[3].value += &"v".repeat(missing);
    let bytes = statement.encode_to_vec();
    assert_eq!(bytes.len(), MAX_POLICY_STATEMENT_LENGTH);
    let world = World::new(&[]);
    let parsed = Statement::parse(&bytes).expect("valid");
    let steps = transition(&world, &world.policy, "ci", &parsed, LAST).unwrap_or_else(|never| match never {});
    assert_within_an_entry(&steps[0], bytes);
}

/// With the longest names of those who say it.
fn assert_within_an_entry(step: &Step, statement: Vec<u8>) {
    let mut record = record_of(step, LAST, statement);
    record.principal = "p".repeat(256);
    record.producer = Some(proto::Producer { key_id: "0123456789abcdef".into(), signature: vec![1; 64] });
    let entry = sign_record(&record, &skey());
    assert!(entry.len() <= MAX_ENTRY_LENGTH, "{} bytes", entry.len());
    assert!(entry.len() > 50_000, "all of it is at its limit: {} bytes", entry.len());
    assert!(SignedEntry::decode(&entry).is_ok());
}

#[test]
fn catalogues_name_what_appears_for_the_first_time_with_the_entry_that_makes_it_appear() {
    let mut world = World::new(&[]);
    let kinds = |steps: Vec<Step>| -> Vec<(i32, u64)> {
        steps[0].touches.iter().map(|touch| (touch.subject.kind().into(), touch.version)).collect()
    };
    use proto::SubjectKind as Kind;
    let expect =
        |pairs: &[(Kind, u64)]| pairs.iter().map(|(kind, version)| (i32::from(*kind), *version)).collect::<Vec<_>>();
    assert_eq!(
        kinds(world.say(push("app", "v1", A, Refused))),
        expect(&[(Kind::Tag, 0), (Kind::Digest, 0), (Kind::TagsOf, 0), (Kind::Repositories, 0)]),
        "also an attempt that failed makes a tag known"
    );
    assert_eq!(kinds(world.say(push("app", "v1", A, Happened))), expect(&[(Kind::Tag, 1), (Kind::Digest, 1)]));
    assert_eq!(kinds(world.say(delete("app", "v2", Happened))), expect(&[(Kind::Tag, 0), (Kind::TagsOf, 1)]));
    assert_eq!(
        kinds(world.say(observe("other", "v1", None))),
        expect(&[(Kind::Tag, 0), (Kind::TagsOf, 0), (Kind::Repositories, 1)])
    );
    assert_eq!(
        kinds(world.say(deploy("web", Some("v3"), A, Phase::Started))),
        expect(&[
            (Kind::Workload, 0),
            (Kind::Digest, 2),
            (Kind::Tag, 0),
            (Kind::TagsOf, 2),
            (Kind::WorkloadsOf, 0),
            (Kind::Environments, 0)
        ])
    );
    assert_eq!(
        kinds(world.say(deploy("db", None, B, Phase::Stopped))),
        expect(&[(Kind::Workload, 0), (Kind::Digest, 0), (Kind::WorkloadsOf, 1)])
    );
    assert_eq!(
        kinds(world.say(deploy("web", None, B, Phase::Observed))),
        expect(&[(Kind::Workload, 1), (Kind::Digest, 1)])
    );
    assert_eq!(kinds(world.say(delete_manifest("app", C, Happened))), expect(&[(Kind::Digest, 0)]));
    assert_eq!(kinds(world.say(attest(C))), expect(&[(Kind::Digest, 1)]));
    world.check_ledger();
}

#[test]
fn a_reader_takes_no_subject_that_the_statement_does_not_have() {
    use proto::SubjectKind as Kind;
    let reference = |kind: Kind, name: &str| proto::Subject { kind: kind.into(), version: 0, name: name.into() };
    let parse = |kind| Statement::parse(&statement(kind).encode_to_vec()).expect("valid");
    let pushed = parse(push("app", "v1", A, Happened));
    assert!(named_by(&pushed, &reference(Kind::Tag, "")).is_some());
    assert_eq!(named_by(&pushed, &reference(Kind::Tag, "v1")), None, "the statement says it");
    assert_eq!(named_by(&pushed, &reference(Kind::Tag, "v2")), None);
    for kind in
        [Kind::Workload, Kind::WorkloadsOf, Kind::Environments, Kind::Policy, Kind::Principals, Kind::Unspecified]
    {
        assert_eq!(named_by(&pushed, &reference(kind, "")), None, "{kind:?}");
    }
    let deleted = parse(delete_manifest("app", A, Happened));
    assert!(named_by(&deleted, &reference(Kind::Tag, "v1")).is_some());
    for name in ["", ".v1", "a/b", "a:b"] {
        assert_eq!(named_by(&deleted, &reference(Kind::Tag, name)), None, "{name:?}");
    }
    assert_eq!(named_by(&deleted, &reference(Kind::Digest, "v1")), None);
    assert_eq!(named_by(&parse(delete("app", "v1", Happened)), &reference(Kind::Digest, "")), None);
    assert_eq!(named_by(&parse(observe("app", "v1", None)), &reference(Kind::Digest, "")), None);
    assert_eq!(named_by(&parse(deploy("web", None, A, Phase::Started)), &reference(Kind::Tag, "")), None);
    let attested = parse(attest(A));
    for kind in [Kind::Tag, Kind::TagsOf, Kind::Repositories, Kind::Workload] {
        assert_eq!(named_by(&attested, &reference(kind, "")), None, "{kind:?}");
    }
    assert_eq!(named_by(&pushed, &proto::Subject { kind: 10, ..Default::default() }), None);
}

// The policy.

#[test]
fn a_policy_change_is_applied_if_the_text_is_another_and_rules_from_the_next_entry_on() {
    let mut world = World::new(&[]);
    let rule = &*immutable(&["r.example/app:v*"]);
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Applied);
    assert_eq!(world.outcome(push("app", "v1", B, Requested)), Applied);
    assert_eq!(world.outcome(policy(rule)), Applied);
    let binding = world.state(&Subject::Policy).binding;
    assert_eq!(binding.digest(), Some(Policy::parse(rule).expect("a policy").digest()));
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Denied);
    assert_eq!(world.outcome(policy(rule)), Unchanged);
    assert_eq!(world.state(&Subject::Policy).binding, binding, "what is in force was set before");
    // The same rules in other words are another policy.
    assert_eq!(world.outcome(policy(&format!("{rule} # for good"))), Applied);
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Denied);
    assert_eq!(world.outcome(policy("")), Applied);
    assert_eq!(world.outcome(push("app", "v1", A, Requested)), Applied);
    assert_eq!(world.outcome(policy("")), Unchanged);
    assert_eq!(world.state(&Subject::Policy).count, 5);
    world.check_ledger();
}

#[test]
fn the_first_policy_is_applied_also_if_it_has_no_rules() {
    // No entry set what was in force before, so none could be named as setting it.
    let mut world = World::new(&[]);
    let steps = world.say(policy(""));
    assert_eq!(steps[0].outcome, Applied);
    let subjects: Vec<&Subject> = steps[0].touches.iter().map(|touch| &touch.subject).collect();
    assert_eq!(subjects, [&Subject::Policy], "a policy's digest is no image's");
    assert_eq!(world.outcome(policy("")), Unchanged);
    world.check_ledger();
}

#[test]
fn a_reader_takes_nothing_but_the_policy_from_a_policy_change() {
    use proto::SubjectKind as Kind;
    let changed = Statement::parse(&statement(policy("")).encode_to_vec()).expect("valid");
    for number in 0..=10 {
        let named = named_by(&changed, &proto::Subject { kind: number, ..Default::default() });
        assert_eq!(named, (number == i32::from(Kind::Policy)).then_some(Subject::Policy), "{number}");
    }
    let named = proto::Subject { kind: Kind::Policy.into(), version: 0, name: "policy".into() };
    assert_eq!(named_by(&changed, &named), None, "the statement says it");
}

// The model.

/// One random statement: over two repositories, three tags, three digests and two workloads. What ends in a flag names, if it
/// is set, the intent that holds the tag.
#[derive(Debug, Clone)]
enum Said {
    Push(usize, usize, usize, Disposition, bool),
    Delete(usize, usize, Disposition, bool),
    DeleteManifest(usize, usize, Disposition, bool),
    Observe(usize, usize, Option<usize>, bool),
    /// Workload, tag, digest.
    Deploy(usize, Option<(usize, usize)>, usize, Phase),
    Attest(usize),
}

const REPOSITORIES: [&str; 2] = ["app", "team/other"];
/// The first two are immutable in the first repository.
const TAGS: [&str; 3] = ["v1", "v2", "latest"];
const DIGESTS: [char; 3] = [A, B, C];
const WORKLOADS: [&str; 2] = ["web", "db"];
const IMMUTABLE: [&str; 1] = ["r.example/app:v*"];

#[test]
fn whatever_is_said_in_whatever_order_the_rules_do_what_the_model_does() {
    let given = std::env::var("TAGLEDGER_TEST_SEED").ok().map(|seed| seed.parse().expect("a decimal number"));
    let seed = given.unwrap_or_else(|| getrandom::u64().expect("the system has random numbers"));
    println!("TAGLEDGER_TEST_SEED={seed}");
    let config = Config { cases: 400, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&prop::collection::vec(said(), 1..60), |said| {
        let (mut world, mut model) = (World::new(&IMMUTABLE), Model::default());
        for said in said {
            let index = world.next_index();
            let kind = said.kind(&model);
            let waits_for = world.must_wait(kind.clone()).map(|held| held.index);
            prop_assert_eq!(waits_for, model.waits_for(&said), "{:?}", said);
            if waits_for.is_some() {
                continue;
            }
            let steps = world.say(kind);
            prop_assert_eq!(steps.len(), 1);
            prop_assert_eq!(steps[0].outcome, model.say(&said, index), "{:?}: {}", said, steps[0].detail);
            model.compare(&world);
        }
        world.check_ledger();
        prop_assert_eq!(world.members(), model.members);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("TAGLEDGER_TEST_SEED={seed}: {failure}"));
}

fn said() -> impl Strategy<Value = Said> {
    let disposition = prop_oneof![1 => Just(Requested), 2 => Just(Happened), 1 => Just(Refused), 2 => Just(Intended)];
    let names = any::<bool>;
    let phase = prop_oneof![Just(Phase::Started), Just(Phase::Stopped), Just(Phase::Observed)];
    let asked_by = prop::option::of((0..2usize, 0..3usize));
    prop_oneof![
        4 => (0..2usize, 0..3usize, 0..3usize, disposition.clone(), names())
            .prop_map(|(r, t, d, a, n)| Said::Push(r, t, d, a, n)),
        2 => (0..2usize, 0..3usize, disposition.clone(), names()).prop_map(|(r, t, a, n)| Said::Delete(r, t, a, n)),
        2 => (0..2usize, 0..3usize, disposition, names())
            .prop_map(|(r, d, a, n)| Said::DeleteManifest(r, d, a, n)),
        2 => (0..2usize, 0..3usize, prop::option::of(0..3usize), names())
            .prop_map(|(r, t, d, n)| Said::Observe(r, t, d, n)),
        3 => (0..2usize, asked_by, 0..3usize, phase).prop_map(|(w, t, d, p)| Said::Deploy(w, t, d, p)),
        1 => (0..3usize).prop_map(Said::Attest),
    ]
}

impl Said {
    fn kind(&self, model: &Model) -> Kind {
        let kind = match *self {
            Self::Push(r, t, d, asked, _) => push(REPOSITORIES[r], TAGS[t], DIGESTS[d], asked),
            Self::Delete(r, t, asked, _) => delete(REPOSITORIES[r], TAGS[t], asked),
            Self::DeleteManifest(r, d, asked, _) => delete_manifest(REPOSITORIES[r], DIGESTS[d], asked),
            Self::Observe(r, t, d, _) => observe(REPOSITORIES[r], TAGS[t], d.map(|d| DIGESTS[d])),
            Self::Deploy(w, tag, d, phase) => {
                let (repository, tag) = tag.map_or(("app", None), |(r, t)| (REPOSITORIES[r], Some(TAGS[t])));
                deploy_from(repository, WORKLOADS[w], tag, DIGESTS[d], phase)
            }
            Self::Attest(d) => attest(DIGESTS[d]),
        };
        match model.names(self) {
            Some(holder) => naming(kind, holder),
            None => kind,
        }
    }
}

/// What a thing points to: the digest, the digest before it was unbound, and who set that.
#[derive(Debug, Clone, Copy, Default)]
struct Pointer {
    now: Option<usize>,
    last: Option<usize>,
    set_by: u64,
}

impl Pointer {
    fn point(&mut self, to: Option<usize>, index: u64) {
        self.last = to.or(self.now);
        self.now = to;
        self.set_by = index;
    }

    fn as_binding(self) -> Binding {
        match (self.now, self.last) {
            (Some(now), _) => bound(DIGESTS[now], self.set_by),
            (None, Some(last)) => Binding::Unbound { last: digest(DIGESTS[last]), set_by: self.set_by },
            (None, None) => Binding::Never,
        }
    }
}

/// The specification in its plainest form: a table of tags and a table of workloads.
#[derive(Debug, Default)]
struct Model {
    tags: HashMap<(usize, usize), Pointer>,
    /// Who holds a tag, and what for.
    holds: HashMap<(usize, usize), (u64, Intent)>,
    workloads: HashMap<usize, Pointer>,
    members: HashMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Intent {
    Push(usize),
    Delete,
    DeleteManifest,
}

impl Model {
    fn say(&mut self, said: &Said, index: u64) -> Outcome {
        self.appear(said);
        match *said {
            Said::Push(r, t, d, asked, _) => {
                let settled = self.settle(said, &[(r, t)], asked, Intent::Push(d));
                let forbids = settled.is_empty() && forbids(r, t, self.pointer(r, t), Some(d));
                let (same, aim) = (self.pointer(r, t).now == Some(d), (Intent::Push(d), Some(d)));
                self.change(&[(r, t)], same, forbids, aim, asked, index)
            }
            Said::Delete(r, t, asked, _) => {
                let settled = self.settle(said, &[(r, t)], asked, Intent::Delete);
                let forbids = settled.is_empty() && forbids(r, t, self.pointer(r, t), None);
                self.change(&[(r, t)], self.pointer(r, t).now.is_none(), forbids, (Intent::Delete, None), asked, index)
            }
            Said::DeleteManifest(r, d, asked, _) => {
                let bound = self.bound_to(r, d);
                let settled = self.settle(said, &bound, asked, Intent::DeleteManifest);
                let forbids = bound
                    .iter()
                    .any(|(r, t)| !settled.contains(&(*r, *t)) && forbids(*r, *t, self.pointer(*r, *t), None));
                self.change(&bound, bound.is_empty(), forbids, (Intent::DeleteManifest, None), asked, index)
            }
            Said::Observe(r, t, seen, names) => {
                let before = self.pointer(r, t);
                let held_for = self.holds.get(&(r, t)).map(|(_, intent)| *intent);
                if names {
                    self.holds.remove(&(r, t));
                }
                if before.now == seen {
                    return Unchanged;
                }
                self.point((r, t), seen, index);
                let as_intended = match held_for {
                    Some(Intent::Push(d)) => seen == Some(d),
                    Some(_) => seen.is_none(),
                    None => false,
                };
                match before.last {
                    _ if as_intended => Applied,
                    None => Applied,
                    Some(_) if forbids(r, t, before, seen) => Violation,
                    Some(_) => Drift,
                }
            }
            Said::Deploy(w, tag, d, phase) => {
                let recorded = tag.map(|(r, t)| self.pointer(r, t)).unwrap_or_default();
                let disagrees = recorded.last.is_some() && recorded.now != Some(d);
                let workload = self.workloads.entry(w).or_default();
                match (phase, workload.now == Some(d)) {
                    (Phase::Stopped, false) => return Unchanged,
                    (Phase::Stopped, true) => workload.point(None, index),
                    (_, _) if disagrees => {
                        workload.point(Some(d), index);
                        return Drift;
                    }
                    (_, true) => return Unchanged,
                    (_, false) => workload.point(Some(d), index),
                }
                Applied
            }
            Said::Attest(_) => Noted,
        }
    }

    fn pointer(&self, repository: usize, tag: usize) -> Pointer {
        self.tags.get(&(repository, tag)).copied().unwrap_or_default()
    }

    fn change(
        &mut self,
        tags: &[(usize, usize)],
        same: bool,
        forbidden: bool,
        (intent, to): (Intent, Option<usize>),
        asked: Disposition,
        index: u64,
    ) -> Outcome {
        let outcome = match (same, forbidden, asked) {
            (_, _, Refused) => return Failed,
            (true, _, _) => return Unchanged,
            (false, true, Requested | Intended) => return Denied,
            (false, false, Intended) => {
                self.holds.extend(tags.iter().map(|tag| (*tag, (index, intent))));
                return Noted;
            }
            (false, true, _) => Violation,
            (false, false, _) => Applied,
        };
        for tag in tags {
            self.point(*tag, to, index);
        }
        outcome
    }

    fn point(&mut self, tag: (usize, usize), to: Option<usize>, index: u64) {
        self.tags.entry(tag).or_default().point(to, index);
        if matches!(self.holds.get(&tag), Some((_, Intent::DeleteManifest))) {
            self.holds.remove(&tag);
        }
    }

    fn bound_to(&self, r: usize, d: usize) -> Vec<(usize, usize)> {
        (0..3).map(|t| (r, t)).filter(|(r, t)| self.pointer(*r, *t).now == Some(d)).collect()
    }

    /// The tags that a statement is about.
    fn about(&self, said: &Said) -> Vec<(usize, usize)> {
        match *said {
            Said::Push(r, t, ..) | Said::Delete(r, t, ..) | Said::Observe(r, t, ..) => vec![(r, t)],
            // In the order of their names, as the rules take them.
            Said::DeleteManifest(r, d, ..) => {
                let mut tags = self.bound_to(r, d);
                tags.sort_by_key(|(_, t)| TAGS[*t]);
                tags
            }
            Said::Deploy(..) | Said::Attest(_) => Vec::new(),
        }
    }

    /// Index of the intent that a statement names.
    fn names(&self, said: &Said) -> Option<u64> {
        match said {
            Said::Push(_, _, _, Happened | Refused, true)
            | Said::Delete(_, _, Happened | Refused, true)
            | Said::DeleteManifest(_, _, Happened | Refused, true)
            | Said::Observe(_, _, _, true) => {
                self.about(said).iter().find_map(|tag| self.holds.get(tag)).map(|(index, _)| *index)
            }
            _ => None,
        }
    }

    /// Ends the holds that a statement settles, and says whose they were.
    fn settle(
        &mut self,
        said: &Said,
        tags: &[(usize, usize)],
        asked: Disposition,
        intent: Intent,
    ) -> Vec<(usize, usize)> {
        let (Some(named), Happened | Refused) = (self.names(said), asked) else { return Vec::new() };
        let settled: Vec<_> =
            tags.iter().copied().filter(|tag| self.holds.get(tag) == Some(&(named, intent))).collect();
        settled.iter().for_each(|tag| {
            self.holds.remove(tag);
        });
        settled
    }

    /// Index of the intent that a statement has to wait for.
    fn waits_for(&self, said: &Said) -> Option<u64> {
        match said {
            Said::Push(_, _, _, Requested | Intended, _)
            | Said::Delete(_, _, Requested | Intended, _)
            | Said::DeleteManifest(_, _, Requested | Intended, _) => {
                self.about(said).iter().find_map(|tag| self.holds.get(tag)).map(|(index, _)| *index)
            }
            _ => None,
        }
    }

    /// Who is mentioned for the first time.
    fn appear(&mut self, said: &Said) {
        let tag = match *said {
            Said::Push(r, t, ..)
            | Said::Delete(r, t, ..)
            | Said::Observe(r, t, ..)
            | Said::Deploy(_, Some((r, t)), ..) => Some((REPOSITORIES[r], TAGS[t])),
            _ => None,
        };
        if let Some((repository, tag)) = tag {
            self.list("repositories".into(), repository);
            self.list(format!("tags of {repository}"), tag);
        }
        if let Said::Deploy(w, ..) = said {
            self.list("environments".into(), "prod");
            self.list("workloads of prod".into(), WORKLOADS[*w]);
        }
    }

    fn list(&mut self, catalogue: String, member: &str) {
        let members = self.members.entry(catalogue).or_default();
        if !members.iter().any(|known| known == member) {
            members.push(member.to_owned());
        }
    }

    fn compare(&self, world: &World) {
        for (r, repository) in REPOSITORIES.iter().enumerate() {
            for (t, tag) in TAGS.iter().enumerate() {
                assert_eq!(world.tag(repository, tag), self.pointer(r, t).as_binding(), "{repository}:{tag}");
                let holder = self.holds.get(&(r, t)).map(|(index, _)| *index);
                assert_eq!(world.hold(repository, tag).map(|hold| hold.index), holder, "{repository}:{tag}");
            }
        }
        for (w, workload) in WORKLOADS.iter().enumerate() {
            let pointer = self.workloads.get(&w).copied().unwrap_or_default();
            assert_eq!(world.workload(workload), pointer.as_binding(), "{workload}");
        }
    }
}

/// An immutable tag, once bound, may be that digest and nothing else.
fn forbids(repository: usize, tag: usize, pointer: Pointer, to: Option<usize>) -> bool {
    repository == 0 && tag < 2 && pointer.last.is_some() && to != pointer.last
}

// The world.

/// A ledger without a log: applies what the rules say, and keeps the encoded entries.
struct World {
    policy: Policy,
    subjects: HashMap<SubjectKey, (Subject, SubjectState)>,
    /// What tags were ever bound to.
    carried: BTreeSet<(TagName, Digest)>,
    /// By index; `None` where a commitment would be, so that an entry's index is never its number.
    entries: Vec<Option<Vec<u8>>>,
}

impl World {
    fn new(patterns: &[&str]) -> Self {
        Self::under(&immutable(patterns))
    }

    fn under(policy: &str) -> Self {
        let policy = Policy::parse(policy).expect("policy of the test");
        Self { policy, subjects: HashMap::new(), carried: BTreeSet::new(), entries: vec![None; 3] }
    }

    fn next_index(&self) -> u64 {
        u64::try_from(self.entries.len()).expect("small")
    }

    fn outcome(&mut self, kind: Kind) -> Outcome {
        let steps = self.say(kind);
        assert_eq!(steps.len(), 1);
        steps[0].outcome
    }

    /// Plans a statement, reads each of its records as a verifier would, and applies them.
    fn say(&mut self, kind: Kind) -> Vec<Step> {
        self.say_as("ci", kind)
    }

    /// The same, in another's name.
    fn say_as(&mut self, principal: &str, kind: Kind) -> Vec<Step> {
        let bytes = statement(kind).encode_to_vec();
        let parsed = Statement::parse(&bytes).expect("a valid statement");
        let first_index = self.next_index();
        assert_eq!(must_wait(self, &parsed), Ok(None), "a ledger records nothing that has to wait");
        let steps =
            transition(self, &self.policy, principal, &parsed, first_index).unwrap_or_else(|never| match never {});
        assert!(!steps.is_empty(), "whatever is said is recorded");
        for step in &steps {
            let index = self.next_index();
            let entry = sign_record(&record_of(step, index, bytes.clone()), &skey());
            assert!(entry.len() <= MAX_ENTRY_LENGTH);
            check_as_reader(&entry, step, index);
            for touch in &step.touches {
                let key = touch.subject.key();
                let (_, state) =
                    self.subjects.entry(key).or_insert_with(|| (touch.subject.clone(), SubjectState::default()));
                assert_eq!(state.count, touch.version, "versions have no gap: {:?}", touch.subject);
                assert_eq!(state.binding, touch.before, "{:?}", touch.subject);
                let (binding, hold) = (touch.after.clone(), touch.hold.clone());
                *state = SubjectState { count: touch.version + 1, binding, hold };
                if let (Subject::Tag(name), Some(digest)) = (&touch.subject, touch.after.digest()) {
                    self.carried.insert((name.clone(), digest.clone()));
                }
            }
            self.entries.push(Some(entry));
        }
        if let Parsed::PolicyChange { policy, .. } = parsed.kind
            && steps[0].outcome == Applied
        {
            self.policy = policy;
        }
        self.entries.push(None);
        steps
    }

    fn state(&self, subject: &Subject) -> SubjectState {
        self.subjects.get(&subject.key()).map(|(_, state)| state.clone()).unwrap_or_default()
    }

    fn tag(&self, repository_name: &str, tag: &str) -> Binding {
        let tag = tag.parse().expect("valid");
        let name =
            tagledger::ledger::names::TagRef { registry: registry(), repository: repository(repository_name), tag };
        self.state(&Subject::Tag(name)).binding
    }

    fn hold(&self, repository_name: &str, tag: &str) -> Option<hold::Hold> {
        let tag = tag.parse().expect("valid");
        let name =
            tagledger::ledger::names::TagRef { registry: registry(), repository: repository(repository_name), tag };
        self.state(&Subject::Tag(name)).hold
    }

    fn must_wait(&self, kind: Kind) -> Option<Held> {
        let parsed = Statement::parse(&statement(kind).encode_to_vec()).expect("a valid statement");
        must_wait(self, &parsed).unwrap_or_else(|never| match never {})
    }

    fn workload(&self, name: &str) -> Binding {
        let parsed =
            Statement::parse(&statement(deploy(name, None, A, Phase::Started)).encode_to_vec()).expect("valid");
        let Parsed::Deployment { workload, .. } = parsed.kind else { panic!("a deployment") };
        self.state(&Subject::Workload(workload)).binding
    }

    /// Reads all records again from their bytes.
    fn records(&self) -> impl Iterator<Item = (u64, proto::Record, Statement)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let decoded = SignedEntry::decode(entry.as_ref()?).expect("own entry");
            decoded.verify(&skey().vkey()).expect("own signature");
            let Body::Record(record, statement) = decoded.body else { panic!("a record") };
            assert_eq!(record.index, index);
            Some((index, *record, *statement))
        })
    }

    /// Recomputes every history from the encoded entries, as a verifier does, and compares it with the state that the rules
    /// were given.
    fn check_ledger(&self) {
        // By subject: for each version, the index of its entry and 1 + the index of the entry that is in force after it.
        let mut histories: HashMap<Subject, Vec<(u64, u64)>> = HashMap::new();
        let mut set: HashMap<(Subject, u64), Digest> = HashMap::new();
        for (index, record, statement) in self.records() {
            let outcome = Outcome::try_from(record.outcome).expect("known");
            for reference in &record.subjects {
                let subject = named_by(&statement, reference).expect("names a subject of its statement");
                let history = histories.entry(subject.clone()).or_default();
                assert_eq!(u64::try_from(history.len()), Ok(reference.version), "{subject:?} at {index}");
                assert!(history.last().is_none_or(|(last, _)| *last < index), "{subject:?} twice in {index}");
                let before = history.last().map_or(0, |(_, effective)| *effective);
                let effective = match effect_on(&subject, outcome, &statement) {
                    Effect::Sets(digest) => {
                        set.insert((subject, index + 1), digest);
                        index + 1
                    }
                    Effect::Clears => 0,
                    Effect::Confirms(digest) => {
                        assert_eq!(set.get(&(subject, before)), Some(&digest), "confirmed by {index}");
                        before
                    }
                    Effect::Keeps => before,
                };
                history.push((index, effective));
            }
        }
        assert_eq!(histories.len(), self.subjects.len());
        for (subject, state) in self.subjects.values() {
            let history = &histories[subject];
            assert_eq!(u64::try_from(history.len()), Ok(state.count), "{subject:?}");
            let (_, effective) = *history.last().expect("a subject has an entry");
            assert_eq!(effective, state.binding.effective(), "{subject:?}");
            // What is in force was set by the entry that it names.
            assert_eq!(set.get(&(subject.clone(), effective)), state.binding.digest(), "{subject:?}");
        }
        self.check_catalogues();
    }

    /// Each member once, and all of them.
    fn check_catalogues(&self) {
        let mut listed: HashMap<String, usize> = HashMap::new();
        for (catalogue, members) in self.members() {
            let mut distinct = members.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!(distinct.len(), members.len(), "{catalogue}: {members:?}");
            let word = catalogue.split(' ').next().expect("not empty").to_owned();
            *listed.entry(word).or_default() += members.len();
        }
        let count = |is: fn(&Subject) -> bool| self.subjects.values().filter(|(subject, _)| is(subject)).count();
        let listed = |word: &str| listed.get(word).copied().unwrap_or_default();
        assert_eq!(listed("tags"), count(|subject| matches!(subject, Subject::Tag(_))));
        assert_eq!(listed("workloads"), count(|subject| matches!(subject, Subject::Workload(_))));
        assert_eq!(listed("repositories"), count(|subject| matches!(subject, Subject::TagsOf(..))));
        assert_eq!(listed("environments"), count(|subject| matches!(subject, Subject::WorkloadsOf(_))));
    }

    /// The catalogues as a reader lists them: the member of a version is what its entry mentions for the first time.
    fn members(&self) -> HashMap<String, Vec<String>> {
        let mut catalogues: HashMap<String, Vec<String>> = HashMap::new();
        for (index, record, statement) in self.records() {
            let subjects: Vec<(Subject, u64)> = record
                .subjects
                .iter()
                .map(|reference| (named_by(&statement, reference).expect("checked"), reference.version))
                .collect();
            let new = |is: fn(&Subject) -> Option<String>| {
                let mut new =
                    subjects.iter().filter(|(_, version)| *version == 0).filter_map(|(subject, _)| is(subject));
                let member = new.next().unwrap_or_else(|| panic!("entry {index} adds nobody"));
                assert_eq!(new.next(), None, "entry {index} adds two at once");
                member
            };
            for (subject, _) in &subjects {
                let (catalogue, member) = match subject {
                    Subject::TagsOf(_, repository) => (
                        format!("tags of {repository}"),
                        new(|subject| if let Subject::Tag(name) = subject { Some(name.tag.to_string()) } else { None }),
                    ),
                    Subject::WorkloadsOf(environment) => (
                        format!("workloads of {environment}"),
                        new(|subject| if let Subject::Workload(w) = subject { Some(w.workload.clone()) } else { None }),
                    ),
                    Subject::Repositories => (
                        "repositories".to_owned(),
                        new(|subject| if let Subject::TagsOf(_, r) = subject { Some(r.to_string()) } else { None }),
                    ),
                    Subject::Environments => (
                        "environments".to_owned(),
                        new(|subject| if let Subject::WorkloadsOf(e) = subject { Some(e.clone()) } else { None }),
                    ),
                    Subject::Tag(_)
                    | Subject::Digest(_)
                    | Subject::Workload(_)
                    | Subject::Policy
                    | Subject::Principals
                    | Subject::Keys => {
                        continue;
                    }
                };
                catalogues.entry(catalogue).or_default().push(member);
            }
        }
        catalogues
    }
}

impl View for World {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        Ok(self.subjects.get(key).map(|(_, state)| state.clone()).unwrap_or_default())
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let is_there = |(subject, state): &(Subject, SubjectState)| match subject {
            Subject::Tag(name) if name.registry == *registry && name.repository == *repository => {
                (state.binding.digest() == Some(digest)).then(|| name.tag.clone())
            }
            _ => None,
        };
        let mut tags: Vec<Tag> = self.subjects.values().filter_map(is_there).collect();
        tags.sort();
        Ok(tags)
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let is_here = |(name, carried): &&(TagName, Digest)| {
            (&name.registry, &name.repository, carried) == (registry, repository, digest)
        };
        Ok(self.carried.iter().filter(is_here).map(|(name, _)| name.tag.clone()).collect())
    }
}

/// From the bytes alone: every subject is named, and the effect on it explains what the rules made of it.
fn check_as_reader(entry: &[u8], step: &Step, index: u64) {
    let Body::Record(record, statement) = SignedEntry::decode(entry).expect("own entry").body else {
        panic!("a record")
    };
    assert_eq!(record.subjects.len(), step.touches.len());
    for (reference, touch) in record.subjects.iter().zip(&step.touches) {
        assert_eq!(named_by(&statement, reference).as_ref(), Some(&touch.subject));
        let expected = match effect_on(&touch.subject, step.outcome, &statement) {
            Effect::Sets(digest) => Binding::Bound { digest, set_by: index },
            Effect::Clears => {
                let last = touch.before.digest().expect("only what is bound is cleared").clone();
                Binding::Unbound { last, set_by: index }
            }
            Effect::Confirms(digest) => {
                assert_eq!(touch.before.digest(), Some(&digest), "{:?}", touch.subject);
                touch.before.clone()
            }
            Effect::Keeps => touch.before.clone(),
        };
        assert_eq!(touch.after, expected, "{:?} by {:?}", touch.subject, step.outcome);
    }
}

fn record_of(step: &Step, index: u64, statement: Vec<u8>) -> proto::Record {
    let subject = |touch: &tagledger::ledger::transition::Touch| proto::Subject {
        kind: touch.subject.kind().into(),
        version: touch.version,
        name: touch.name.clone(),
    };
    proto::Record {
        index,
        recorded_at_us: 1_767_225_600_000_000,
        statement,
        principal: "ci".into(),
        assurance: proto::Assurance::Authenticated.into(),
        producer: None,
        outcome: step.outcome.into(),
        rule: step.rule.clone(),
        detail: step.detail.clone(),
        subjects: step.touches.iter().map(subject).collect(),
    }
}

fn names(step: &Step) -> Vec<&str> {
    step.touches.iter().map(|touch| touch.name.as_str()).collect()
}

// Statements.

fn statement(kind: Kind) -> proto::Statement {
    proto::Statement { kind: Some(kind), ..Default::default() }
}

fn push(repository: &str, tag: &str, to: char, disposition: Disposition) -> Kind {
    Kind::TagPush(proto::TagPush {
        registry: REGISTRY.into(),
        repository: repository.into(),
        tag: tag.into(),
        digest: digest(to).to_string(),
        media_type: String::new(),
        disposition: disposition.into(),
        settles: 0,
    })
}

fn delete(repository: &str, tag: &str, disposition: Disposition) -> Kind {
    Kind::TagDelete(proto::TagDelete {
        registry: REGISTRY.into(),
        repository: repository.into(),
        tag: tag.into(),
        disposition: disposition.into(),
        settles: 0,
    })
}

fn delete_manifest(repository: &str, of: char, disposition: Disposition) -> Kind {
    Kind::ManifestDelete(proto::ManifestDelete {
        registry: REGISTRY.into(),
        repository: repository.into(),
        digest: digest(of).to_string(),
        disposition: disposition.into(),
        settles: 0,
    })
}

fn observe(repository: &str, tag: &str, seen: Option<char>) -> Kind {
    Kind::TagObserved(proto::TagObserved {
        registry: REGISTRY.into(),
        repository: repository.into(),
        tag: tag.into(),
        digest: seen.map(|seen| digest(seen).to_string()).unwrap_or_default(),
        checks_entry: 0,
        last_seen_us: 0,
        first_seen_us: 0,
    })
}

fn deploy(workload: &str, tag: Option<&str>, runs: char, phase: Phase) -> Kind {
    deploy_from("app", workload, tag, runs, phase)
}

fn deploy_from(repository: &str, workload: &str, tag: Option<&str>, runs: char, phase: Phase) -> Kind {
    let phase = match phase {
        Phase::Started => proto::deployment::Phase::Started,
        Phase::Stopped => proto::deployment::Phase::Stopped,
        Phase::Observed => proto::deployment::Phase::Observed,
    };
    Kind::Deployment(proto::Deployment {
        environment: "prod".into(),
        workload: workload.into(),
        image: Some(proto::Image {
            registry: REGISTRY.into(),
            repository: repository.into(),
            tag: tag.unwrap_or_default().into(),
            digest: digest(runs).to_string(),
        }),
        phase: phase.into(),
        ..Default::default()
    })
}

fn attest(to: char) -> Kind {
    Kind::Attestation(proto::Attestation {
        digest: digest(to).to_string(),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        envelope_digest: digest('e').to_string(),
        signer: String::new(),
        result: proto::attestation::Result::Verified.into(),
    })
}

fn policy(text: &str) -> Kind {
    Kind::PolicyChange(proto::PolicyChange { policy: text.into(), replaces: String::new() })
}

fn digest(digit: char) -> Digest {
    format!("sha256:{}", digit.to_string().repeat(64)).parse().expect("valid")
}

fn bound(to: char, set_by: u64) -> Binding {
    Binding::Bound { digest: digest(to), set_by }
}

fn registry() -> Registry {
    REGISTRY.parse().expect("valid")
}

fn repository(name: &str) -> Repository {
    Repository::parse(&registry(), name).expect("valid")
}

fn skey() -> Skey {
    Skey::from_seed("ledger.example".parse().expect("valid"), &[7; 32])
}
