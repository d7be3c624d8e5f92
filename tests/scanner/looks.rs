//! What a look comes to: what is recorded, when, with which interval, and what is not.

use std::collections::BTreeMap;
use std::time::Duration;

use tagledger::edge::port::{PortError, Recorded, ScannerPort, Standing, TagView};
use tagledger::edge::scanner::{Kind, ScanError};
use tagledger::ledger::names::{Registry, Repository, Tag, TagRef};
use tagledger::proto::{self, Outcome};
use tagledger::server::over_grpc::OverGrpc;
use tonic::Code;

use crate::fake::{Says, digest_of};
use crate::stage::{Stage, found, is_there, only};
use crate::world::{happened, push, submission};

const APP: &str = "team/app";

#[tokio::test]
async fn what_nobody_announced_is_recorded_once_with_the_interval_in_which_it_came_about() {
    let stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    stage.fake.put("team/other", "v1", "one");
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(found(&report), ["unannounced app:v1", "unannounced other:v1"]);
    assert_eq!((report.repositories, report.tags, report.agreed), (2, 2, 2));
    let first = stage.observations().await;
    assert_eq!(first.len(), 2);
    assert!(first.iter().all(|(seen, record)| {
        seen.digest == one && record.outcome() == Outcome::Applied && seen.last_seen_us == 0 && seen.first_seen_us > 0
    }));
    // Nothing changed: nothing is recorded, and the registry only says so.
    stage.fake.forget();
    let size = stage.world.entries().await.len();
    let report = stage.scan().await;
    assert!(report.is_complete() && report.findings.is_empty() && report.agreed == 2, "{report:?}");
    assert_eq!(stage.world.entries().await.len(), size, "the ledger does not fill with what did not change");
    let looks: Vec<_> = stage.fake.asked().into_iter().filter(crate::fake::Asked::is_look).collect();
    assert!(looks.iter().all(|look| look.method == "HEAD" && look.header("if-none-match") == format!("\"{one}\"")));
    assert_eq!(looks.len(), 2);
    // It moves, and a tag is new: both lie between the last round and this one.
    let two = stage.fake.put(APP, "v1", "two");
    stage.fake.put(APP, "v2", "two");
    let report = stage.scan().await;
    assert_eq!(found(&report), ["retagged app:v1", "unannounced app:v2"]);
    let seen = stage.observations().await;
    for (seen, record) in &seen[2..] {
        assert_eq!(seen.digest, two);
        assert!(seen.last_seen_us >= first[0].0.first_seen_us, "{seen:?}: when it was last seen otherwise");
        assert!(seen.first_seen_us > seen.last_seen_us && seen.first_seen_us <= record.recorded_at_us);
        let expected = if seen.tag == "v1" { Outcome::Drift } else { Outcome::Applied };
        assert_eq!(record.outcome(), expected);
    }
    // It vanishes.
    stage.fake.remove(APP, "v1");
    let report = stage.scan().await;
    let finding = only(&report, Kind::Vanished);
    assert_eq!((finding.ledger.as_deref(), &finding.registry), (Some(two.as_str()), &None));
    assert!(finding.last_seen_us > 0 && finding.first_seen_us > finding.last_seen_us);
    assert_eq!(stage.world.bound(APP, "v1").await, "");
    // And stays so.
    let size = stage.world.entries().await.len();
    assert!(stage.scan().await.findings.is_empty());
    assert_eq!(stage.world.entries().await.len(), size);
    stage.agrees().await;
}

#[tokio::test]
async fn a_claim_that_the_registry_bears_out_is_confirmed_once_and_at_once() {
    let stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    let claim = stage.world.recorded(&happened("v1", &one)).await.index;
    let report = stage.scan().await;
    let finding = only(&report, Kind::Unconfirmed);
    assert_eq!((finding.checks_entry, finding.outcome.as_deref()), (Some(claim), Some("UNCHANGED")));
    let seen = stage.observations().await;
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].0.checks_entry, seen[0].0.digest.as_str()), (claim + 1, one.as_str()));
    assert!(report.is_complete() && stage.scan().await.findings.is_empty());
    // The next claim is another one, although it says the same.
    let again = stage.world.recorded(&happened("v1", &one)).await.index;
    assert_eq!(only(&stage.scan().await, Kind::Unconfirmed).checks_entry, Some(again));
    assert!(stage.scan().await.findings.is_empty());
    // Without its state a scanner confirms nothing twice.
    std::fs::remove_file(stage.state()).expect("there");
    let size = stage.world.entries().await.len();
    assert!(stage.scan().await.findings.is_empty());
    assert_eq!(stage.world.entries().await.len(), size);
    stage.agrees().await;
}

#[tokio::test]
async fn a_claim_that_the_registry_contradicts_is_drift_and_names_the_claim() {
    let stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    let claim = stage.world.recorded(&happened("v1", &digest_of("two"))).await.index;
    let report = stage.scan().await;
    let finding = only(&report, Kind::Retagged);
    assert_eq!((finding.checks_entry, finding.outcome.as_deref()), (Some(claim), Some("DRIFT")));
    assert_eq!(stage.world.bound(APP, "v1").await, one);
    stage.agrees().await;
}

#[tokio::test]
async fn one_404_vanishes_nothing() {
    let stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    stage.scan().await;
    // HEAD and GET of the first look say that it is gone; the second finds it.
    stage.fake.says(|asked, _| {
        static LOOKS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let first = asked.is_look() && LOOKS.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2;
        first.then(|| Says::unknown("MANIFEST_UNKNOWN"))
    });
    let size = stage.world.entries().await.len();
    let report = stage.scan().await;
    assert!(report.is_complete() && report.findings.is_empty(), "{report:?}");
    assert_eq!(stage.world.entries().await.len(), size);
    assert_eq!(stage.world.bound(APP, "v1").await, one);
}

#[tokio::test]
async fn a_tag_that_is_only_missing_from_the_list_is_not_gone() {
    let stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    stage.scan().await;
    stage
        .fake
        .says(|asked, _| asked.path.contains("/tags/list").then(|| Says::json(serde_json::json!({ "tags": null }))));
    let report = stage.scan().await;
    assert!(report.is_complete() && report.findings.is_empty() && report.tags == 1, "{report:?}");
    // A repository that the catalogue does not list any more is looked after, too.
    stage.fake.says(|asked, _| {
        asked.path.contains("/_catalog").then(|| Says::json(serde_json::json!({ "repositories": [] })))
    });
    let report = stage.scan().await;
    assert!(report.is_complete() && report.findings.is_empty() && report.tags == 1, "{report:?}");
    assert_eq!(stage.world.bound(APP, "v1").await, one);
}

#[tokio::test]
async fn a_repository_that_only_the_ledger_knows_is_gone_through() {
    let stage = Stage::new().await;
    stage.fake.put(APP, "v1", "one");
    let gone = digest_of("gone");
    // Announced, and gone with its repository before anybody scanned: no catalogue and no memory has it.
    let push = proto::TagPush { repository: "team/gone".into(), ..push_of("v1", &gone) };
    stage.world.recorded(&crate::world::statement(proto::statement::Kind::TagPush(push))).await;
    // One of another registry is none of its business.
    let push =
        proto::TagPush { registry: "other.example".into(), repository: "team/else".into(), ..push_of("v1", &gone) };
    stage.world.recorded(&crate::world::statement(proto::statement::Kind::TagPush(push))).await;
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(found(&report), ["unannounced app:v1", "vanished gone:v1"]);
    assert_eq!(report.repositories, 2, "{report:?}");
    assert_eq!(stage.world.bound("team/gone", "v1").await, "");
    // What is excluded by name stays so.
    let mut named = stage;
    named.include = vec!["team/app".into()];
    named.fake.forget();
    assert!(named.scan().await.is_complete());
    assert!(!named.fake.asked().iter().any(|asked| asked.path.contains("gone") || asked.path.contains("_catalog")));
    named.agrees().await;
}

#[tokio::test]
async fn an_announcement_that_arrives_between_two_looks_is_no_silent_retag() {
    let mut stage = Stage::new().await;
    stage.settings.pause = Duration::from_millis(800);
    stage.fake.put(APP, "v1", "one");
    stage.scan().await;
    let two = stage.fake.put(APP, "v1", "two");
    stage.fake.forget();
    let announcing = async {
        while !stage.fake.asked().iter().any(crate::fake::Asked::is_look) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stage.world.recorded(&happened("v1", &two)).await.index
    };
    let (report, claim) = tokio::join!(stage.scan(), announcing);
    assert_eq!(only(&report, Kind::Unconfirmed).checks_entry, Some(claim), "{report:?}");
    stage.agrees().await;
}

#[tokio::test]
async fn what_is_recorded_holds_only_for_the_version_that_was_looked_at() {
    let stage = Stage::new().await;
    let world = &stage.world;
    let at = |version: u64, digest: &str| {
        let submission = proto::Submission { only_at_version: Some(version), ..submission(&happened("v1", digest)) };
        world.with_token(proto::AppendRequest { submission: Some(submission) })
    };
    let (one, two) = (digest_of("one"), digest_of("two"));
    world.append().append(at(0, &one)).await.expect("never named");
    let refused = world.append().append(at(0, &two)).await.expect_err("it has one entry by now");
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert!(refused.message().contains("has 1 entries, not 0"), "{refused}");
    let refused = world.append().append(at(2, &two)).await.expect_err("it has one entry only");
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    world.append().append(at(1, &two)).await.expect("as looked at");
    assert_eq!(world.bound(APP, "v1").await, two);
    let policy = crate::world::statement(proto::statement::Kind::Attestation(proto::Attestation {
        digest: one.clone(),
        predicate_type: "p".into(),
        envelope_digest: one,
        signer: String::new(),
        result: 1,
    }));
    let submission = proto::Submission { only_at_version: Some(0), ..submission(&policy) };
    let request = world.with_token(proto::AppendRequest { submission: Some(submission) });
    let refused = world.append().append(request).await.expect_err("about no tag");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("submission.only_at_version"), "{refused}");
    world.check_ledger().await;
}

#[tokio::test]
async fn a_tag_that_somebody_is_about_to_change_is_left_alone_until_that_is_over_or_too_old() {
    let mut stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    stage.scan().await;
    let two = digest_of("two");
    let intent = stage.world.recorded(&push("v1", &two, proto::Disposition::Intended)).await.index;
    // The registry has it already; the gateway has not said so yet.
    stage.fake.put(APP, "v1", "two");
    let size = stage.world.entries().await.len();
    let report = stage.scan().await;
    let finding = only(&report, Kind::Held);
    assert_eq!((finding.checks_entry, finding.ledger.as_deref()), (Some(intent), Some(one.as_str())));
    assert!(!report.is_complete());
    assert_eq!(stage.world.entries().await.len(), size, "nothing was recorded");
    // Nobody settles it: a look does.
    stage.settings.intent_patience = Duration::ZERO;
    let report = stage.scan().await;
    let finding = only(&report, Kind::Retagged);
    assert_eq!((finding.checks_entry, finding.outcome.as_deref()), (Some(intent), Some("APPLIED")));
    assert!(report.is_complete());
    assert_eq!(stage.world.bound(APP, "v1").await, two);
    assert!(stage.scan().await.findings.is_empty());
    stage.agrees().await;
}

#[tokio::test]
async fn a_tag_that_moves_at_every_look_is_left_to_the_next_round() {
    let stage = Stage::new().await;
    stage.fake.put(APP, "v1", "one");
    let fake = stage.fake.clone();
    stage.fake.says(|asked, count| {
        let digest = digest_of(&format!("{count}"));
        asked.is_look().then(|| Says::status(200).with("docker-content-digest", digest))
    });
    let report = stage.scan().await;
    only(&report, Kind::Unsettled);
    assert!(!report.is_complete() && stage.observations().await.is_empty());
    fake.is_honest();
    assert_eq!(found(&stage.scan().await), ["unannounced app:v1"]);
    stage.agrees().await;
}

#[tokio::test]
async fn a_dry_run_reports_and_leaves_ledger_and_state_alone() {
    let mut stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    stage.world.recorded(&happened("v1", &one)).await;
    stage.fake.put(APP, "v2", "two");
    stage.settings.dry_run = true;
    let size = stage.world.entries().await.len();
    let report = stage.scan().await;
    assert_eq!(found(&report), ["unannounced app:v2", "unconfirmed app:v1"]);
    assert!(report.dry_run && report.findings.iter().all(|finding| finding.entry.is_none()));
    assert_eq!(stage.world.entries().await.len(), size);
    assert!(!is_there(&stage.state()));
    stage.settings.dry_run = false;
    assert_eq!(found(&stage.scan().await), ["unannounced app:v2", "unconfirmed app:v1"]);
    stage.agrees().await;
}

#[tokio::test]
async fn a_scanner_that_may_not_write_says_so_and_one_without_a_ledger_too() {
    let mut stage = Stage::new().await;
    stage.fake.put(APP, "v1", "one");
    let token = std::mem::replace(&mut stage.world.token, "wrong".to_owned());
    let report = stage.scan().await;
    let finding = only(&report, Kind::Unrecorded);
    assert!(finding.reason.contains("token"), "{finding:?}");
    assert!(!report.is_complete());
    stage.world.token = token;
    assert_eq!(found(&stage.scan().await), ["unannounced app:v1"]);
}

/// A ledger that can't be asked about one repository.
struct Without(OverGrpc, &'static str, fn() -> PortError);

impl ScannerPort for Without {
    async fn repositories(&self, registry: &Registry) -> Result<Vec<Repository>, PortError> {
        self.0.repositories(registry).await
    }

    async fn tags(&self, registry: &Registry, repository: &Repository) -> Result<BTreeMap<Tag, TagView>, PortError> {
        if repository.as_str() == self.1 {
            return Err((self.2)());
        }
        self.0.tags(registry, repository).await
    }

    async fn standing(&self, tag: &TagRef, newest: u64) -> Result<Standing, PortError> {
        self.0.standing(tag, newest).await
    }

    async fn record_at(&self, statement: proto::Statement, version: u64) -> Result<Recorded, PortError> {
        self.0.record_at(statement, version).await
    }
}

/// A way to the ledger with a bug: whoever asks how a tag stands panics.
struct Buggy(OverGrpc);

impl ScannerPort for Buggy {
    async fn repositories(&self, registry: &Registry) -> Result<Vec<Repository>, PortError> {
        self.0.repositories(registry).await
    }

    async fn tags(&self, registry: &Registry, repository: &Repository) -> Result<BTreeMap<Tag, TagView>, PortError> {
        self.0.tags(registry, repository).await
    }

    async fn standing(&self, tag: &TagRef, newest: u64) -> Result<Standing, PortError> {
        assert_ne!(tag.tag.as_str(), "v2", "a bug");
        self.0.standing(tag, newest).await
    }

    async fn record_at(&self, statement: proto::Statement, version: u64) -> Result<Recorded, PortError> {
        self.0.record_at(statement, version).await
    }
}

#[tokio::test]
async fn a_look_that_panics_is_a_gap_and_the_others_are_made() {
    let stage = Stage::new().await;
    for tag in ["v1", "v2", "v3"] {
        stage.fake.put(APP, tag, "one");
    }
    let report = stage.scanner_over(Buggy(stage.port())).round().await.expect("it goes on");
    assert!(!report.is_complete(), "{report:?}");
    let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
    assert!(failure.is_gap && failure.what.ends_with("app:v2") && failure.reason.contains("panic"), "{report:?}");
    assert_eq!(found(&report), ["unannounced app:v1", "unannounced app:v3"]);
    // The next round makes up for it.
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(found(&report), ["unannounced app:v2"]);
}

#[tokio::test]
async fn a_repository_that_the_ledger_does_not_tell_of_is_a_gap_and_the_others_are_gone_through() {
    let stage = Stage::new().await;
    for repository in [APP, "team/before", "team/zero"] {
        stage.fake.put(repository, "v1", "one");
    }
    let broken = || PortError::Invalid("permission denied".to_owned());
    let report = stage.scanner_over(Without(stage.port(), APP, broken)).round().await.expect("it goes on");
    assert!(!report.is_complete());
    assert_eq!(found(&report), ["unannounced before:v1", "unannounced zero:v1"]);
    assert_eq!(report.failures.len(), 1, "{report:?}");
    let failure = &report.failures[0];
    assert!(
        failure.is_gap && failure.what.ends_with(APP) && failure.reason.contains("permission denied"),
        "{report:?}"
    );
    // What does not verify ends it.
    let forged = || PortError::Untrusted("forged".to_owned());
    let ended = stage.scanner_over(Without(stage.port(), APP, forged)).round().await;
    assert!(matches!(ended, Err(ScanError::Ledger(PortError::Untrusted(_)))), "{ended:?}");
    // The next round makes up for it.
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(found(&report), ["unannounced app:v1"]);
}

/// What somebody says who pushed to the tag of a repository.
fn push_of(tag: &str, digest: &str) -> proto::TagPush {
    proto::TagPush {
        registry: crate::world::REGISTRY.into(),
        repository: APP.into(),
        tag: tag.into(),
        digest: digest.into(),
        disposition: proto::Disposition::Happened.into(),
        ..proto::TagPush::default()
    }
}
