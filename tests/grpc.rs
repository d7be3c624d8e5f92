//! The gRPC services, over a real socket.

mod world;

use tagledger::ledger::entry::Body;
use tagledger::ledger::names::{Repository, TagRef};
use tagledger::ledger::statement::{Kind, Statement, Workload};
use tagledger::ledger::subject::{Subject, tag_of};
use tagledger::ledger::subject_proof::ProvenVersion;
use tagledger::proto;
use tagledger::proto::append_stream_response::Result as StreamResult;
use tagledger::proto::query_service_client::QueryServiceClient;
use tagledger::proto::{Outcome, get_entry_request::By};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use world::{
    BEGUN, REGISTRY, REPOSITORY, World, delete, delete_manifest, deploy, digest, happened, policy, prove, push,
    requested, submission,
};

type Runtime = tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn resolve(tag: &str, at_us: i64) -> proto::ResolveTagRequest {
    let (registry, repository) = (REGISTRY.into(), REPOSITORY.into());
    proto::ResolveTagRequest { registry, repository, tag: tag.into(), at_us, without_evidence: false }
}

fn time(us: u64) -> i64 {
    i64::try_from(us).expect("a time")
}

/// The fields that a status refuses, with their reasons.
fn refused(status: &tonic::Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| (violation.field, violation.reason)).collect()
}

#[test]
fn a_tag_is_answered_for_every_moment_of_its_life() {
    runtime().block_on(async {
        let world = World::new().await;
        let (a, b) = (digest('a'), digest('b'));
        let mut times = Vec::new();
        for statement in [happened("v1", &a), happened("v1", &a), happened("v1", &b), delete("v1"), happened("v1", &a)]
        {
            let index = world.recorded(&statement).await.index;
            let entry = world.log().get_entry(proto::GetEntryRequest { by: Some(By::Index(index)) }).await;
            let evidence = entry.expect("an entry").into_inner().evidence.expect("evidence");
            let body = tagledger::ledger::entry::SignedEntry::decode(&evidence.entries[0].entry).expect("valid").body;
            times.push((index, body.recorded_at_us()));
        }
        let expected = [&*a, &a, &b, "", &a];
        for ((index, at_us), expected) in times.iter().zip(expected) {
            let answer = world.query().resolve_tag(resolve("v1", time(*at_us))).await.expect("resolved").into_inner();
            assert_eq!(answer.digest, *expected, "at entry {index}");
            let state = answer.state.expect("a state");
            assert_eq!(state.at.expect("a version").index, *index);
            let before =
                world.query().resolve_tag(resolve("v1", time(*at_us - 1))).await.expect("resolved").into_inner();
            assert_eq!(before.state.expect("a state").next.expect("a next version").index, *index);
        }
        let never = world.query().resolve_tag(resolve("v2", 0)).await.expect("answered").into_inner();
        assert_eq!((never.digest.as_str(), never.state.expect("a state").at), ("", None));
        world.check_ledger().await;
    });
}

#[test]
fn an_immutable_tag_refuses_and_reports() {
    runtime().block_on(async {
        let world = World::with_rules(&["registry.example/team/**:v*"]).await;
        let (a, b) = (digest('a'), digest('b'));
        let first = world.recorded(&requested("v1", &a)).await;
        assert_eq!(first.outcome(), Outcome::Applied);
        assert_eq!(world.recorded(&requested("v1", &a)).await.outcome(), Outcome::Unchanged);
        let denied = world.recorded(&requested("v1", &b)).await;
        assert_eq!(denied.outcome(), Outcome::Denied);
        assert_eq!(denied.rule, "registry.example/team/**:v*");
        assert!(denied.detail.contains(&format!("entry {}", first.index)), "{}", denied.detail);
        assert_eq!(denied.binding.expect("a binding").digest, a);
        let violation = world.recorded(&happened("v1", &b)).await;
        assert_eq!(violation.outcome(), Outcome::Violation);
        assert_eq!(violation.binding.expect("a binding").digest, b);
        world.check_ledger().await;
    });
}

#[test]
fn of_many_concurrent_requests_for_an_immutable_tag_one_wins_and_is_named() {
    runtime().block_on(async {
        let world = std::sync::Arc::new(World::with_rules(&["registry.example/**:*"]).await);
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..16u8 {
            let world = std::sync::Arc::clone(&world);
            racers.spawn(async move {
                let digit = char::from_digit(u32::from(racer), 16).expect("a digit");
                world.recorded(&requested("v1", &digest(digit))).await
            });
        }
        let receipts = racers.join_all().await;
        let winners: Vec<_> = receipts.iter().filter(|r| r.outcome() == Outcome::Applied).collect();
        assert_eq!(winners.len(), 1);
        for loser in receipts.iter().filter(|receipt| receipt.outcome() != Outcome::Applied) {
            assert_eq!(loser.outcome(), Outcome::Denied);
            assert!(loser.detail.contains(&format!("since entry {} ", winners[0].index)), "{}", loser.detail);
        }
        world.check_ledger().await;
    });
}

#[test]
fn the_same_event_is_recorded_once_and_other_content_under_its_id_is_a_conflict() {
    runtime().block_on(async {
        let world = World::new().await;
        let mut event = happened("v1", &digest('a'));
        event.event_id = "event-1".into();
        let first = world.recorded(&event).await;
        let again = world.recorded(&event).await;
        assert_eq!((again.index, again.duplicate, first.duplicate), (first.index, true, false));
        let mut other = happened("v1", &digest('b'));
        other.event_id = "event-1".into();
        let status = world.record(&other).await.expect_err("a conflict");
        assert_eq!(status.code(), Code::AlreadyExists);
        assert!(status.message().contains(&format!("entry {}", first.index)), "{}", status.message());
        // A batch with one conflict records nothing of it.
        let before = world.entries().await.len();
        let submissions = vec![submission(&happened("v9", &digest('c'))), submission(&other)];
        let batch = world.with_token(proto::AppendBatchRequest { submissions });
        let status = world.append().append_batch(batch).await.expect_err("a conflict");
        assert_eq!(refused(&status), [("submissions[1].statement.event_id".into(), "EVENT_ID_TAKEN".into())]);
        // So does one that contradicts itself.
        let twins = ["a", "b"].map(|digit| {
            let mut twin = happened("v9", &digest(digit.chars().next().expect("a digit")));
            twin.event_id = "twin".into();
            submission(&twin)
        });
        let batch = world.with_token(proto::AppendBatchRequest { submissions: twins.into() });
        assert_eq!(world.append().append_batch(batch).await.expect_err("a conflict").code(), Code::AlreadyExists);
        assert_eq!(world.check_ledger().await.len(), before);
    });
}

#[test]
fn while_a_tag_is_held_what_asks_about_it_is_told_by_whom_and_to_come_again() {
    runtime().block_on(async {
        let world = World::new().await;
        let intent = world.recorded(&push("v1", &digest('a'), proto::Disposition::Intended)).await;
        assert_eq!(intent.outcome(), proto::Outcome::Noted);
        let asked = push("v1", &digest('b'), proto::Disposition::Requested);
        let status = world.record(&asked).await.expect_err("it has to wait");
        assert_eq!(status.code(), Code::Aborted);
        let words = format!("tag registry.example/team/app:v1 is held by the intent in entry {}", intent.index);
        assert!(status.message().starts_with(&words), "{}", status.message());
        let details = status.get_error_details();
        assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
        let info = details.error_info().expect("who holds it");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("TAG_HELD", "tagledger"));
        assert_eq!(info.metadata["tag"], "registry.example/team/app:v1");
        assert_eq!(info.metadata["index"], intent.index.to_string());
        // Facts do not wait, and what became of it lets the next one in.
        assert_eq!(world.recorded(&happened("v1", &digest('c'))).await.outcome(), proto::Outcome::Applied);
        let mut settled = happened("v1", &digest('a'));
        let Some(proto::statement::Kind::TagPush(message)) = &mut settled.kind else { unreachable!("as made") };
        message.settles = intent.index + 1;
        assert_eq!(world.recorded(&settled).await.outcome(), proto::Outcome::Applied);
        assert_eq!(world.recorded(&asked).await.outcome(), proto::Outcome::Applied);
        world.check_ledger().await;
    });
}

#[test]
fn a_batch_is_one_commit_and_its_evidence_holds_every_entry() {
    runtime().block_on(async {
        let world = World::new().await;
        let submissions: Vec<_> = (0..100).map(|n| submission(&happened(&format!("v{n}"), &digest('a')))).collect();
        let request = world.with_token(proto::AppendBatchRequest { submissions });
        let answer = world.append().append_batch(request).await.expect("recorded").into_inner();
        let indexes: Vec<u64> = answer.receipts.iter().map(|receipt| receipt.index).collect();
        assert_eq!(indexes, (BEGUN..BEGUN + 100).collect::<Vec<u64>>());
        world.check_evidence(&answer.evidence.expect("evidence"), &indexes);
        // What a ledger begins with, the hundred, and one commitment.
        assert_eq!(world.check_ledger().await.len() as u64, BEGUN + 101);
    });
}

#[test]
fn a_deletion_by_digest_unbinds_thousands_of_tags_in_several_entries_of_one_batch() {
    runtime().block_on(async {
        let world = World::new().await;
        for chunk in 0..2 {
            let submissions: Vec<_> =
                (0..300).map(|n| submission(&happened(&format!("v{chunk}-{n}"), &digest('a')))).collect();
            let request = world.with_token(proto::AppendBatchRequest { submissions });
            world.append().append_batch(request).await.expect("recorded");
        }
        let receipt = world.recorded(&delete_manifest(&digest('a'))).await;
        assert_eq!((receipt.outcome(), receipt.entry_count), (Outcome::Applied, 3));
        let request = proto::ListTagsRequest {
            registry: REGISTRY.into(),
            repository: REPOSITORY.into(),
            page_size: 1000,
            ..proto::ListTagsRequest::default()
        };
        assert!(world.query().list_tags(request).await.expect("listed").into_inner().tags.is_empty());
        world.check_ledger().await;
    });
}

#[test]
fn a_stream_answers_each_statement_in_order_and_survives_refusals() {
    runtime().block_on(async {
        let world = World::new().await;
        let messages: Vec<_> = (0..3000)
            .map(|n| {
                let bad = n % 100 == 7;
                let tag = if bad { "not a tag".to_owned() } else { format!("v{n}") };
                proto::AppendStreamRequest { submission: Some(submission(&happened(&tag, &digest('a')))) }
            })
            .collect();
        let request = world.with_token(tokio_stream::iter(messages));
        let mut answers = world.append().append_stream(request).await.expect("a stream").into_inner();
        let (mut count, mut last) = (0, 0);
        while let Some(answer) = answers.message().await.expect("an answer") {
            match answer.result.expect("a result") {
                StreamResult::Recorded(recorded) => {
                    let index = recorded.receipt.expect("a receipt").index;
                    assert!(index > last, "entries come in the order of the stream");
                    world.check_evidence(&recorded.evidence.expect("evidence"), &[index]);
                    last = index;
                }
                StreamResult::Refused(refusal) => {
                    assert_eq!(count % 100, 7);
                    assert_eq!(refusal.code, i32::from(Code::InvalidArgument));
                    assert_eq!(refusal.violations[0].field, "submission.statement.tag_push.tag");
                }
            }
            count += 1;
        }
        assert_eq!(count, 3000);
        world.check_ledger().await;
    });
}

#[test]
fn lists_are_complete_over_their_pages_and_stay_at_their_moment() {
    runtime().block_on(async {
        let world = World::new().await;
        for n in 0..25 {
            world.recorded(&happened(&format!("v{n}"), &digest('a'))).await;
            world.recorded(&deploy(&format!("env{}", n % 3), &format!("w{n}"), "", &digest('a'))).await;
            world.recorded(&happened("moving", &digest(char::from_digit(n % 16, 16).expect("a digit")))).await;
        }
        let place = || (REGISTRY.to_owned(), REPOSITORY.to_owned());
        let (mut token, mut tags) = (String::new(), Vec::new());
        loop {
            let (registry, repository) = place();
            let page = world
                .query()
                .list_tags(proto::ListTagsRequest {
                    registry,
                    repository,
                    page_size: 10,
                    page_token: token,
                    ..proto::ListTagsRequest::default()
                })
                .await
                .expect("a page")
                .into_inner();
            tags.extend(page.tags.into_iter().map(|tag| tag.tag));
            // What comes meanwhile belongs to no page of this question.
            world.recorded(&happened(&format!("late{}", tags.len()), &digest('b'))).await;
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let expected: Vec<String> =
            std::iter::once("v0".into()).chain(["moving".into()]).chain((1..25).map(|n| format!("v{n}"))).collect();
        assert_eq!(tags, expected);

        let (mut token, mut workloads) = (String::new(), 0);
        loop {
            let request = proto::ListRunningRequest { page_size: 4, page_token: token, ..Default::default() };
            let page = world.query().list_running(request).await.expect("a page").into_inner();
            workloads += page.workloads.len();
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(workloads, 25);

        for newest_first in [false, true] {
            let (mut token, mut versions) = (String::new(), Vec::new());
            loop {
                let (registry, repository) = place();
                let request = proto::ListTagHistoryRequest {
                    registry,
                    repository,
                    tag: "moving".into(),
                    page_size: 7,
                    page_token: token,
                    newest_first,
                    ..Default::default()
                };
                let page = world.query().list_tag_history(request).await.expect("a page").into_inner();
                assert_eq!(page.total, 25);
                versions.extend(page.versions.into_iter().map(|version| version.version));
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            if newest_first {
                versions.reverse();
            }
            assert_eq!(versions, (0..25).collect::<Vec<u64>>());
        }

        let request = proto::ListDigestSightingsRequest { digest: digest('b'), page_size: 1000, ..Default::default() };
        let sightings = world.query().list_digest_sightings(request).await.expect("a page").into_inner();
        let indexes: Vec<u64> = sightings.versions.iter().map(|version| version.index).collect();
        assert_eq!(sightings.total, u64::try_from(indexes.len()).expect("fits"));
        // The commitment that closes the checkpoint comes with them.
        let proven = prove(&sightings.evidence.expect("evidence"), &world.vkey);
        let shown: Vec<u64> = proven.entries.iter().map(|(index, _)| index).collect();
        assert_eq!(shown[..shown.len() - 1], indexes);

        // A token belongs to its question.
        let first = world
            .query()
            .list_running(proto::ListRunningRequest { page_size: 1, ..Default::default() })
            .await
            .expect("a page")
            .into_inner();
        let request = proto::ListRunningRequest {
            environment: "env1".into(),
            page_token: first.next_page_token,
            ..Default::default()
        };
        let status = world.query().list_running(request).await.expect_err("a foreign token");
        assert_eq!(refused(&status), [("page_token".into(), "FOREIGN_TOKEN".into())]);
        world.check_ledger().await;
    });
}

#[test]
fn differences_between_two_times_are_what_changed() {
    runtime().block_on(async {
        let world = World::new().await;
        world.recorded(&happened("same", &digest('a'))).await;
        world.recorded(&happened("moved", &digest('a'))).await;
        world.recorded(&happened("gone", &digest('a'))).await;
        world.recorded(&deploy("prod", "web", "same", &digest('a'))).await;
        let from_us = time(newest_time(&world).await);
        world.recorded(&happened("moved", &digest('b'))).await;
        world.recorded(&delete("gone")).await;
        world.recorded(&happened("new", &digest('c'))).await;
        world.recorded(&deploy("prod", "web", "moved", &digest('b'))).await;
        let request = proto::DiffRepositoryRequest {
            registry: REGISTRY.into(),
            repository: REPOSITORY.into(),
            from_us,
            ..Default::default()
        };
        let diff = world.query().diff_repository(request).await.expect("a difference").into_inner();
        let changes: Vec<_> =
            diff.changes.iter().map(|c| (c.tag.as_str(), c.from_digest.clone(), c.to_digest.clone())).collect();
        let none = String::new;
        assert_eq!(
            changes,
            [("moved", digest('a'), digest('b')), ("gone", digest('a'), none()), ("new", none(), digest('c'))]
        );
        let request = proto::DiffEnvironmentRequest { environment: "prod".into(), from_us, ..Default::default() };
        let diff = world.query().diff_environment(request).await.expect("a difference").into_inner();
        assert_eq!(diff.changes.len(), 1);
        assert_eq!((&diff.changes[0].from_digest, &diff.changes[0].to_digest), (&digest('a'), &digest('b')));
        world.check_ledger().await;
    });
}

/// Tags and workloads with a past: moved, unbound, refused, deployed, stopped; in between, the times of all that happened.
async fn eventful() -> (World, Vec<u64>) {
    let world = World::with_rules(&["registry.example/team/app:immutable"]).await;
    let (a, b) = (digest('a'), digest('b'));
    let mut stopped = deploy("prod", "web", "v1", &b);
    let Some(proto::statement::Kind::Deployment(deployment)) = &mut stopped.kind else { panic!("a deployment") };
    deployment.phase = proto::deployment::Phase::Stopped.into();
    for statement in [
        happened("v1", &a),
        happened("v2", &a),
        deploy("prod", "web", "v1", &a),
        requested("immutable", &a),
        happened("v1", &b),
        requested("immutable", &b),
        deploy("prod", "web", "v1", &b),
        deploy("test", "web", "v2", &a),
        happened("v1", &b),
        delete("v2"),
        deploy("prod", "worker", "", &a),
        deploy("stage", "worker", "", &b),
        stopped,
        delete_manifest(&b),
        happened("v3", &b),
        happened("v1", &a),
        deploy("test", "batch", "v3", &b),
    ] {
        world.recorded(&statement).await;
    }
    let entries = world.check_ledger().await;
    let times = entries.iter().map(|entry| tagledger::ledger::entry::index_and_time(entry).expect("valid").1);
    let mut times: Vec<u64> = times.flat_map(|time_us| [time_us - 1, time_us]).collect();
    times.extend([1, 0]);
    (world, times)
}

/// Some pairs of times, the last of them with every other.
fn pairs(times: &[u64]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let some = move |step| times.iter().rev().copied().step_by(step);
    some(5).flat_map(move |one| some(3).map(move |other| (one, other)))
}

fn repository() -> Repository {
    let TagRef { repository, .. } = format!("{REGISTRY}/{REPOSITORY}:latest").parse().expect("a tag");
    repository
}

fn tag_subject(tag: &str) -> Subject {
    Subject::Tag(format!("{REGISTRY}/{REPOSITORY}:{tag}").parse().expect("a tag"))
}

fn workload_subject(workload: &proto::Workload) -> Subject {
    Subject::Workload(Workload {
        environment: workload.environment.clone(),
        cluster: workload.cluster.clone(),
        namespace: workload.namespace.clone(),
        workload: workload.workload.clone(),
        container: workload.container.clone(),
    })
}

fn workload_of(statement: &Statement) -> Workload {
    let Kind::Deployment { workload, .. } = &statement.kind else { panic!("{statement:?} is no deployment") };
    workload.clone()
}

#[test]
fn a_state_is_proven_at_every_time_and_so_is_absence() {
    runtime().block_on(async {
        let (world, times) = eventful().await;
        for tag in ["v1", "v2", "v3", "immutable", "never"] {
            for at_us in &times {
                let request = resolve(tag, time(*at_us));
                let mut bare = request.clone();
                bare.without_evidence = true;
                let answer = world.query().resolve_tag(request).await.expect("resolved").into_inner();
                assert!(!answer.evidence_left_out);
                let proven = prove(answer.evidence.as_ref().expect("evidence"), &world.vkey);
                let subject = tag_subject(tag);
                proven.check_state(&subject, answer.as_of_us, answer.state.as_ref(), &answer.digest);
                assert_eq!(proven.subjects.len(), 1);
                let (at, next, _) = proven.state(&subject, answer.as_of_us);
                let shown: Vec<u64> = at.into_iter().chain(next).collect();
                assert_eq!(proven.shown(&subject), shown, "{tag} at {at_us}: no more than it takes");
                assert_eq!(proven.subjects[&subject.key()].count == 0, tag == "never");
                if *at_us == 0 {
                    assert_eq!(Some(answer.as_of_us), proven.entries.closed_at_us());
                }
                let left_out = world.query().resolve_tag(bare).await.expect("resolved").into_inner();
                let expected = proto::ResolveTagResponse { evidence: None, evidence_left_out: true, ..answer };
                assert_eq!(left_out, expected);
            }
        }
    });
}

/// Checks one page of a history: what is shown is the page and the version on either side.
fn check_versions(proven: &world::Proven, subject: &Subject, claimed: &[proto::Version], bounds: [u64; 2]) {
    let history = &proven.subjects[&subject.key()];
    let mut versions: Vec<u64> = claimed.iter().map(|version| version.version).collect();
    versions.sort_unstable();
    let slice = match (versions.first(), versions.last()) {
        (Some(first), Some(last)) => *first..last + 1,
        _ => {
            // Nothing lies between: two neighbours, or the end on one side, show it.
            let [since_us, until_us] = bounds;
            let shown: Vec<_> = history.versions.iter().collect();
            assert!(shown.windows(2).all(|pair| pair[0].0 + 1 == *pair[1].0), "a gap");
            let is_before = |version: &ProvenVersion| version.recorded_at_us < since_us;
            let is_after = |version: &ProvenVersion| until_us > 0 && version.recorded_at_us >= until_us;
            assert!(shown.iter().all(|(_, version)| is_before(version) || is_after(version)), "one is inside");
            assert!(shown.first().is_none_or(|(at, version)| **at == 0 || is_before(version)), "an open begin");
            let after = shown.last().map_or(0, |(at, _)| **at + 1);
            assert!(
                after == history.count || shown.last().is_some_and(|(_, version)| is_after(version)),
                "an open end"
            );
            return;
        }
    };
    let with_neighbours = slice.start.saturating_sub(1)..(slice.end + 1).min(history.count);
    assert_eq!(proven.shown(subject), with_neighbours.collect::<Vec<_>>(), "the page and its neighbours");
    for claim in claimed {
        let shown = history.versions[&claim.version];
        assert_eq!((claim.index, claim.effective), (shown.index, shown.effective));
        assert_eq!(claim.recorded_at_us, shown.recorded_at_us);
        let setter = claim.effective.checked_sub(1);
        assert!(setter.is_none_or(|setter| proven.entries.get(setter).is_some()), "what is in force is shown");
    }
}

#[test]
fn a_part_of_a_history_is_proven_to_be_all_of_it() {
    runtime().block_on(async {
        let (world, times) = eventful().await;
        for tag in ["v1", "never"] {
            let subject = tag_subject(tag);
            for (since_us, until_us) in pairs(&times) {
                for (newest_first, page_size) in [(false, 2), (true, 3), (true, 100)] {
                    let (mut token, mut versions) = (String::new(), Vec::new());
                    let total = loop {
                        let request = proto::ListTagHistoryRequest {
                            registry: REGISTRY.into(),
                            repository: REPOSITORY.into(),
                            tag: tag.into(),
                            since_us: time(since_us),
                            until_us: time(until_us),
                            page_size,
                            page_token: token,
                            newest_first,
                            without_evidence: false,
                        };
                        let mut bare = request.clone();
                        bare.without_evidence = true;
                        let page = world.query().list_tag_history(request).await.expect("a page").into_inner();
                        let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
                        check_versions(&proven, &subject, &page.versions, [since_us, until_us]);
                        assert_eq!(proven.subjects.len(), 1);
                        let left_out = world.query().list_tag_history(bare).await.expect("a page").into_inner();
                        let mut expected = page.clone();
                        (expected.evidence, expected.evidence_left_out) = (None, true);
                        assert_eq!(left_out, expected);
                        token = page.next_page_token;
                        versions.extend(page.versions);
                        if token.is_empty() {
                            break page.total;
                        }
                    };
                    if newest_first {
                        versions.reverse();
                    }
                    let found: Vec<u64> = versions.iter().map(|version| version.version).collect();
                    let first = found.first().copied().unwrap_or_default();
                    assert_eq!(found, (first..first + found.len() as u64).collect::<Vec<_>>(), "without gaps");
                    let inside = |time_us: u64| time_us >= since_us && (until_us == 0 || time_us < until_us);
                    assert!(versions.iter().all(|version| inside(version.recorded_at_us)));
                    if (since_us, until_us) == (0, 0) {
                        assert_eq!(found.len() as u64, total);
                    }
                }
            }
        }
    });
}

#[test]
fn sightings_of_a_digest_are_proven_to_be_all() {
    runtime().block_on(async {
        let (world, times) = eventful().await;
        for digit in ['a', 'b', 'c'] {
            let subject = Subject::Digest(digest(digit).parse().expect("a digest"));
            let mut all = Vec::new();
            let both_ways = |(since_us, until_us)| [(since_us, until_us, false), (since_us, until_us, true)];
            for (since_us, until_us, newest_first) in std::iter::once((0, 0)).chain(pairs(&times)).flat_map(both_ways) {
                let (mut token, mut versions) = (String::new(), Vec::new());
                loop {
                    let request = proto::ListDigestSightingsRequest {
                        digest: digest(digit),
                        page_size: 3,
                        page_token: token,
                        without_evidence: false,
                        since_us: time(since_us),
                        until_us: time(until_us),
                        newest_first,
                    };
                    let mut bare = request.clone();
                    bare.without_evidence = true;
                    let page = world.query().list_digest_sightings(request).await.expect("a page").into_inner();
                    let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
                    check_versions(&proven, &subject, &page.versions, [since_us, until_us]);
                    assert_eq!(proven.subjects[&subject.key()].count, page.total);
                    let left_out = world.query().list_digest_sightings(bare).await.expect("a page").into_inner();
                    let mut expected = page.clone();
                    (expected.evidence, expected.evidence_left_out) = (None, true);
                    assert_eq!(left_out, expected);
                    versions.extend(page.versions);
                    token = page.next_page_token;
                    if token.is_empty() {
                        if newest_first {
                            versions.reverse();
                        }
                        if (since_us, until_us) == (0, 0) {
                            assert_eq!(u64::try_from(versions.len()), Ok(page.total));
                            all.clone_from(&versions);
                        }
                        break;
                    }
                }
                let inside = |us: u64| us >= since_us && (until_us == 0 || us < until_us);
                let expected: Vec<_> = all.iter().filter(|version| inside(version.recorded_at_us)).cloned().collect();
                assert_eq!(versions, expected, "{since_us} to {until_us}, newest first: {newest_first}");
            }
        }
    });
}

#[test]
fn a_list_of_tags_is_proven_complete_page_by_page_while_the_log_grows() {
    runtime().block_on(async {
        let (world, times) = eventful().await;
        let catalogue = Subject::TagsOf(REGISTRY.parse().expect("a name"), repository());
        for (round, at_us) in times.iter().enumerate() {
            let (mut token, mut begin, mut listed, mut states) = (String::new(), 0, Vec::new(), Vec::new());
            loop {
                let request = proto::ListTagsRequest {
                    registry: REGISTRY.into(),
                    repository: REPOSITORY.into(),
                    at_us: time(*at_us),
                    page_size: 2,
                    page_token: token,
                    include_unbound: round % 2 == 0,
                    without_evidence: false,
                };
                let mut bare = request.clone();
                bare.without_evidence = true;
                let page = world.query().list_tags(request).await.expect("a page").into_inner();
                let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
                let history = &proven.subjects[&catalogue.key()].versions;
                let known = history.values().filter(|version| version.recorded_at_us <= page.as_of_us).count() as u64;
                let end = begin + known.min(2);
                assert_eq!(page.next_page_token.is_empty(), known < 3, "there is a next page if there are more");
                for member in proven.members(&catalogue, begin..end) {
                    let tag = tag_of(&member).expect("a member of the catalogue").tag.to_string();
                    let (_, _, digest) = proven.state(&tag_subject(&tag), page.as_of_us);
                    if !digest.is_empty() || round % 2 == 0 {
                        listed.push(tag);
                    }
                }
                for tag in &page.tags {
                    proven.check_state(&tag_subject(&tag.tag), page.as_of_us, tag.state.as_ref(), &tag.digest);
                }
                let left_out = world.query().list_tags(bare).await.expect("a page").into_inner();
                let mut expected = page.clone();
                (expected.evidence, expected.evidence_left_out) = (None, true);
                assert_eq!(left_out, expected);
                states.extend(page.tags.into_iter().map(|tag| tag.tag));
                (begin, token) = (end, page.next_page_token);
                // What comes now is no part of this answer, and yet in the proofs of its later pages.
                world.recorded(&happened(&format!("late{round}-{begin}"), &digest('e'))).await;
                world.recorded(&happened("v1", &digest('e'))).await;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(states, listed, "at {at_us}");
        }
    });
}

#[test]
fn what_ran_is_proven_complete_over_all_environments() {
    runtime().block_on(async {
        let (world, times) = eventful().await;
        let environments = Subject::Environments;
        for (at_us, page_size, environment, workload) in times.iter().flat_map(|at_us| {
            [(1, "", ""), (2, "", "web"), (4, "", ""), (1, "prod", ""), (3, "prod", "worker"), (2, "never", "")]
                .map(|(page_size, environment, workload)| (*at_us, page_size, environment, workload))
        }) {
            let (mut token, mut listed, mut claimed) = (String::new(), Vec::new(), Vec::new());
            let (mut at, mut first) = (0, 0);
            loop {
                let request = proto::ListRunningRequest {
                    environment: environment.into(),
                    workload: workload.into(),
                    at_us: time(at_us),
                    page_size,
                    page_token: token,
                    include_stopped: false,
                    without_evidence: false,
                };
                let mut bare = request.clone();
                bare.without_evidence = true;
                let page = world.query().list_running(request).await.expect("a page").into_inner();
                let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
                let mut left = u64::from(page_size);
                // Goes through the environments as the page must have.
                let begin = at;
                let names: Vec<String> = match environment {
                    "" => {
                        let shown = &proven.subjects[&environments.key()].versions;
                        let known = shown.values().filter(|v| v.recorded_at_us <= page.as_of_us).count() as u64;
                        let last = proven.shown(&environments).len() as u64;
                        assert!(last <= known + 1);
                        let entries = shown.range(begin..begin + known).map(|(_, v)| v.index);
                        entries.map(|index| environment_in(&proven, index)).collect()
                    }
                    only => vec![only.to_owned()],
                };
                let mut names = names.into_iter();
                let is_last = loop {
                    let Some(name) = names.next() else { break true };
                    if left == 0 {
                        break false;
                    }
                    let catalogue = Subject::WorkloadsOf(name);
                    let shown = &proven.subjects[&catalogue.key()].versions;
                    let known = shown.values().filter(|v| v.recorded_at_us <= page.as_of_us).count() as u64;
                    let end = first + known.min(left);
                    for member in proven.members(&catalogue, first..end) {
                        let member = workload_of(&member);
                        if !workload.is_empty() && member.workload != workload {
                            continue;
                        }
                        let subject = Subject::Workload(member.clone());
                        if !proven.state(&subject, page.as_of_us).2.is_empty() {
                            listed.push(format!("{}/{}", member.environment, member.workload));
                        }
                    }
                    left -= end - first;
                    if known > end - first {
                        first = end;
                        break false;
                    }
                    (at, first) = (at + 1, 0);
                };
                assert_eq!(page.next_page_token.is_empty(), is_last, "{environment:?} {workload:?} at {at_us}");
                if environment.is_empty() {
                    // The slice that the page went through, and the next.
                    let end = if first == 0 { at } else { at + 1 };
                    proven.members(&environments, begin..end);
                }
                for item in &page.workloads {
                    let subject = workload_subject(item.workload.as_ref().expect("a workload"));
                    proven.check_state(&subject, page.as_of_us, item.state.as_ref(), &item.digest);
                }
                let left_out = world.query().list_running(bare).await.expect("a page").into_inner();
                let mut expected = page.clone();
                (expected.evidence, expected.evidence_left_out) = (None, true);
                assert_eq!(left_out, expected);
                let names = page.workloads.iter().map(|item| item.workload.as_ref().expect("a workload"));
                claimed.extend(names.map(|workload| format!("{}/{}", workload.environment, workload.workload)));
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(claimed, listed, "{environment:?} {workload:?} at {at_us}");
        }
    });
}

fn environment_in(proven: &world::Proven, index: u64) -> String {
    let entry = proven.entries.get(index).expect("shown");
    let Body::Record(_, statement) = &entry.body else { panic!("a commitment") };
    workload_of(statement).environment
}

#[test]
fn a_difference_is_proven_complete_by_both_states_of_every_member() {
    runtime().block_on(async {
        let (world, times) = eventful().await;
        let tags = Subject::TagsOf(REGISTRY.parse().expect("a name"), repository());
        for (from_us, to_us) in pairs(&times) {
            if to_us != 0 && from_us > to_us {
                continue;
            }
            let (mut token, mut begin, mut changed, mut claimed) = (String::new(), 0, Vec::new(), Vec::new());
            loop {
                let request = proto::DiffRepositoryRequest {
                    registry: REGISTRY.into(),
                    repository: REPOSITORY.into(),
                    from_us: time(from_us),
                    to_us: time(to_us),
                    page_size: 3,
                    page_token: token,
                    without_evidence: false,
                };
                let mut bare = request.clone();
                bare.without_evidence = true;
                let page = world.query().diff_repository(request).await.expect("a page").into_inner();
                let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
                let shown = &proven.subjects[&tags.key()].versions;
                let known = shown.values().filter(|version| version.recorded_at_us <= page.as_of_us).count() as u64;
                let end = begin + known.min(3);
                for member in proven.members(&tags, begin..end) {
                    let tag = tag_of(&member).expect("a tag").tag.to_string();
                    let (_, _, from) = proven.state(&tag_subject(&tag), from_us);
                    let (_, _, to) = proven.state(&tag_subject(&tag), page.as_of_us);
                    if from != to {
                        changed.push((tag, from, to));
                    }
                }
                for change in &page.changes {
                    let subject = tag_subject(&change.tag);
                    proven.check_state(&subject, from_us, change.from.as_ref(), &change.from_digest);
                    proven.check_state(&subject, page.as_of_us, change.to.as_ref(), &change.to_digest);
                }
                let left_out = world.query().diff_repository(bare).await.expect("a page").into_inner();
                let mut expected = page.clone();
                (expected.evidence, expected.evidence_left_out) = (None, true);
                assert_eq!(left_out, expected);
                claimed.extend(page.changes.into_iter().map(|c| (c.tag, c.from_digest, c.to_digest)));
                (begin, token) = (end, page.next_page_token);
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(claimed, changed, "from {from_us} to {to_us}");
        }
        for environment in ["prod", "test", "never"] {
            let catalogue = Subject::WorkloadsOf(environment.into());
            for from_us in times.iter().filter(|from_us| **from_us > 0) {
                let request = proto::DiffEnvironmentRequest {
                    environment: environment.into(),
                    from_us: time(*from_us),
                    ..Default::default()
                };
                let mut bare = request.clone();
                bare.without_evidence = true;
                let page = world.query().diff_environment(request).await.expect("a page").into_inner();
                let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
                let count = proven.subjects[&catalogue.key()].count;
                assert_eq!(count == 0, environment == "never");
                let mut changed = Vec::new();
                for member in proven.members(&catalogue, 0..count) {
                    let subject = Subject::Workload(workload_of(&member));
                    let (_, _, from) = proven.state(&subject, *from_us);
                    let (_, _, to) = proven.state(&subject, page.as_of_us);
                    if from != to {
                        changed.push((subject, from, to));
                    }
                }
                let claimed = page.changes.iter().map(|change| {
                    let subject = workload_subject(change.workload.as_ref().expect("a workload"));
                    (subject, change.from_digest.clone(), change.to_digest.clone())
                });
                assert_eq!(claimed.collect::<Vec<_>>(), changed, "from {from_us}");
                let left_out = world.query().diff_environment(bare).await.expect("a page").into_inner();
                let expected = proto::DiffEnvironmentResponse { evidence: None, evidence_left_out: true, ..page };
                assert_eq!(left_out, expected);
            }
        }
    });
}

#[test]
fn any_part_of_a_history_is_proven_by_itself_and_what_is_no_part_is_refused() {
    use tagledger::ledger::entry::entry_hash;
    use tagledger::ledger::history::history_leaf;
    use tagledger::ledger::merkle::multi::verify_multi;
    use tagledger::ledger::subject_proof::map_proof;
    use tagledger::proto::subject_proof::Terminal;
    runtime().block_on(async {
        let (world, _) = eventful().await;
        let entries = world.entries().await;
        let ask = async |key: Vec<u8>, begin, end| {
            let request = proto::ProveSubjectRequest { key, begin, end };
            world.query().prove_subject(request).await.map(|answer| answer.into_inner().evidence.expect("evidence"))
        };
        let subject = tag_subject("v1");
        for (begin, end) in (0..12).flat_map(|begin| [begin, begin + 1, begin + 3, u64::MAX].map(|end| (begin, end))) {
            let mut evidence = ask(subject.key().0.to_vec(), begin, end).await.expect("proven");
            let proofs = std::mem::take(&mut evidence.subjects);
            let shown = tagledger::ledger::evidence::verify(&evidence, &world.vkey).expect("the entries are proven");
            let closing = shown.iter().last().expect("one").1;
            let Body::Commitment(commitment) = &closing.body else { panic!("a record") };
            let [proof] = proofs.as_slice() else { panic!("{} subjects", proofs.len()) };
            let (key, map) = map_proof(proof).expect("well formed");
            assert_eq!(key, subject.key());
            let root = commitment.map_root.as_slice().try_into().expect("32 bytes");
            assert_eq!(map.verify(&key, &root), Ok(()));
            let Some(Terminal::History(history)) = &proof.terminal else { panic!("it is there") };
            let versions: Vec<u64> = history.leaves.iter().map(|leaf| leaf.version).collect();
            // And the version after those asked for, which bounds them, with its entry.
            let (begin, end) = (begin.min(history.count), end.min(history.count));
            let (bound, next) = ((end + 1).min(history.count), (end < history.count).then_some(end));
            assert_eq!(versions, (begin..bound).collect::<Vec<_>>());
            let next = next.and_then(|next| history.leaves.iter().find(|leaf| leaf.version == next));
            let others: Vec<u64> = shown.iter().map(|(index, _)| index).collect();
            assert_eq!(others[..others.len() - 1], next.map(|leaf| leaf.index).into_iter().collect::<Vec<_>>());
            let leaf = |leaf: &proto::HistoryLeaf| {
                let entry = &entries[usize::try_from(leaf.index).expect("fits")];
                (leaf.version, history_leaf(leaf.index, &entry_hash(entry), leaf.effective))
            };
            let leaves: Vec<_> = history.leaves.iter().map(leaf).collect();
            let hashes: Vec<_> =
                history.proof.iter().map(|hash| hash.as_slice().try_into().expect("32 bytes")).collect();
            if leaves.is_empty() {
                assert!(hashes.is_empty());
            } else {
                let (_, root) = map.history().expect("it is there");
                assert_eq!(verify_multi(&leaves, history.count, &hashes, &root), Ok(()));
            }
        }
        for absent in [tag_subject("never"), Subject::WorkloadsOf("never".into())] {
            let evidence = ask(absent.key().0.to_vec(), 0, u64::MAX).await.expect("proven");
            assert_eq!(prove(&evidence, &world.vkey).subjects[&absent.key()].count, 0);
        }
        let status = ask(vec![1; 31], 0, 1).await.expect_err("no key");
        assert_eq!((status.code(), refused(&status)), (Code::InvalidArgument, vec![("key".into(), "LENGTH".into())]));
        let status = ask(vec![1; 32], 2, 1).await.expect_err("no range");
        assert_eq!((status.code(), refused(&status)[0].0.as_str()), (Code::OutOfRange, "begin"));
    });
}

async fn newest_time(world: &World) -> u64 {
    let entries = world.entries().await;
    tagledger::ledger::entry::index_and_time(entries.last().expect("an entry")).expect("valid").1
}

#[test]
fn proofs_between_any_sizes_verify() {
    use tagledger::ledger::merkle::proof::{verify_consistency, verify_inclusion};
    runtime().block_on(async {
        let world = World::new().await;
        let submissions: Vec<_> = (0..30).map(|n| submission(&happened(&format!("v{n}"), &digest('a')))).collect();
        world
            .append()
            .append_batch(world.with_token(proto::AppendBatchRequest { submissions }))
            .await
            .expect("recorded");
        let size = 32;
        let hash = |bytes: &[u8]| -> [u8; 32] { bytes.try_into().expect("32 bytes") };
        for second in 1..=size {
            for first in 1..=second {
                let request = proto::GetConsistencyProofRequest { first, second };
                let answer = world.log().get_consistency_proof(request).await.expect("a proof").into_inner();
                let path: Vec<_> = answer.hashes.iter().map(|h| hash(h)).collect();
                verify_consistency(first, second, &hash(&answer.first_root), &hash(&answer.second_root), &path)
                    .expect("consistent");
            }
            let index = second - 1;
            let request = proto::GetInclusionProofRequest { index, tree_size: second };
            let answer = world.log().get_inclusion_proof(request).await.expect("a proof").into_inner();
            let path: Vec<_> = answer.hashes.iter().map(|h| hash(h)).collect();
            verify_inclusion(index, second, &hash(&answer.leaf_hash), &path, &hash(&answer.root)).expect("included");
        }
        let by_hash = {
            let request = proto::GetInclusionProofRequest { index: 5, tree_size: 0 };
            let leaf_hash = world.log().get_inclusion_proof(request).await.expect("a proof").into_inner().leaf_hash;
            world.log().get_entry(proto::GetEntryRequest { by: Some(By::LeafHash(leaf_hash)) }).await
        };
        world.check_evidence(&by_hash.expect("found").into_inner().evidence.expect("evidence"), &[5]);
    });
}

#[test]
fn numbers_beyond_the_tree_are_out_of_range_and_say_what_is_allowed() {
    runtime().block_on(async {
        let world = World::new().await;
        world.recorded(&happened("v1", &digest('a'))).await;
        let mut log = world.log();
        let size = BEGUN + 2;
        let statuses = [
            log.get_entry(proto::GetEntryRequest { by: Some(By::Index(size)) }).await.expect_err("beyond"),
            log.get_inclusion_proof(proto::GetInclusionProofRequest { index: 0, tree_size: size + 1 })
                .await
                .expect_err("beyond"),
            log.get_inclusion_proof(proto::GetInclusionProofRequest { index: 2, tree_size: 2 })
                .await
                .expect_err("beyond"),
            log.get_consistency_proof(proto::GetConsistencyProofRequest { first: 0, second: 1 })
                .await
                .expect_err("nothing is consistent with an empty tree"),
            log.get_consistency_proof(proto::GetConsistencyProofRequest { first: 3, second: 2 })
                .await
                .expect_err("first > second"),
            log.get_consistency_proof(proto::GetConsistencyProofRequest { first: 1, second: size + 1 })
                .await
                .expect_err("beyond"),
            log.list_entries(proto::ListEntriesRequest { begin: 0, end: size + 1 }).await.expect_err("beyond"),
            log.list_entries(proto::ListEntriesRequest { begin: 3, end: 2 }).await.expect_err("begin > end"),
            log.watch(proto::WatchRequest { begin: Some(size + 1), ..Default::default() }).await.expect_err("beyond"),
        ];
        for status in statuses {
            assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
            assert_eq!(refused(&status).len(), 1, "{status:?}");
            assert!(status.message().chars().any(|c| c.is_ascii_digit()), "{status:?}");
        }
        for indexes in [vec![], vec![1, 1], vec![2, 1], (0..1025).collect()] {
            let request = proto::GetMultiProofRequest { indexes, tree_size: 0 };
            let status = log.get_multi_proof(request).await.expect_err("refused");
            assert_eq!((status.code(), refused(&status)[0].0.as_str()), (Code::InvalidArgument, "indexes"));
        }
        for at_us in [-1, i64::MIN, i64::MAX] {
            let status = world.query().resolve_tag(resolve("v1", at_us)).await.expect_err("refused");
            assert_eq!((status.code(), refused(&status)[0].0.as_str()), (Code::InvalidArgument, "at_us"));
        }
        let request = proto::DiffEnvironmentRequest { environment: "prod".into(), to_us: -1, ..Default::default() };
        let status = world.query().diff_environment(request).await.expect_err("refused");
        assert_eq!((status.code(), refused(&status)[0].0.as_str()), (Code::InvalidArgument, "to_us"));
        let status = world.query().resolve_tag(proto::ResolveTagRequest::default()).await.expect_err("refused");
        let fields: Vec<String> = refused(&status).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["registry", "repository", "tag"]);
        let request = proto::ListRunningRequest { page_size: 1001, ..Default::default() };
        let status = world.query().list_running(request).await.expect_err("refused");
        assert_eq!((status.code(), refused(&status)[0].0.as_str()), (Code::OutOfRange, "page_size"));
    });
}

#[test]
fn bad_statements_name_the_field_and_record_nothing() {
    runtime().block_on(async {
        let world = World::new().await;
        let mut ahead = happened("v1", &digest('a'));
        ahead.occurred_at_us = time(newest_time(&world).await) + 2 * 86_400_000_000;
        let cases = [
            (happened("v1", "sha256:abc"), "submission.statement.tag_push.digest", "DIGEST_LENGTH"),
            (happened("v1\0", &digest('a')), "submission.statement.tag_push.tag", "INVALID_FORMAT"),
            (happened("", &digest('a')), "submission.statement.tag_push.tag", "REQUIRED"),
            (ahead, "submission.statement.occurred_at_us", "TOO_FAR_AHEAD"),
            (proto::Statement::default(), "submission.statement", "REQUIRED"),
        ];
        for (statement, field, reason) in cases {
            let status = world.record(&statement).await.expect_err("refused");
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(refused(&status), [(field.to_owned(), reason.to_owned())]);
        }
        let submissions = vec![submission(&happened("v1", &digest('a'))); 1001];
        let request = world.with_token(proto::AppendBatchRequest { submissions });
        let status = world.append().append_batch(request).await.expect_err("refused");
        assert_eq!(refused(&status), [("submissions".into(), "COUNT".into())]);
        let huge = proto::Submission { statement: vec![0; 7 << 20], producer: None, only_at_version: None };
        let request = world.with_token(proto::AppendRequest { submission: Some(huge) });
        let status = world.append().append(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert_eq!(world.check_ledger().await.len() as u64, BEGUN);
    });
}

#[test]
fn writing_needs_a_token_and_reading_does_not() {
    runtime().block_on(async {
        let world = World::new().await;
        let request = || proto::AppendRequest { submission: Some(submission(&happened("v1", &digest('a')))) };
        let status = world.append().append(Request::new(request())).await.expect_err("no token");
        assert_eq!(status.code(), Code::Unauthenticated);
        let mut wrong = Request::new(request());
        wrong.metadata_mut().insert("authorization", "Bearer wrong".parse().expect("a header"));
        let status = world.append().append(wrong).await.expect_err("a wrong token");
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(!status.message().contains("wrong"), "a token is not repeated");
        assert_eq!(world.check_ledger().await.len() as u64, BEGUN);
    });
}

#[test]
fn a_watcher_sees_what_it_asked_for_from_where_it_asked_and_as_it_comes() {
    runtime().block_on(async {
        let world = World::new().await;
        world.recorded(&happened("v1", &digest('a'))).await;
        world.recorded(&happened("v2", &digest('a'))).await;
        let request = proto::WatchRequest {
            begin: Some(0),
            registry: REGISTRY.into(),
            repository: REPOSITORY.into(),
            tag: "v1".into(),
            outcomes: vec![Outcome::Applied.into()],
            ..Default::default()
        };
        let mut stream = world.log().watch(request).await.expect("a stream").into_inner();
        let next = async |stream: &mut tonic::Streaming<proto::WatchResponse>| {
            stream.message().await.expect("no error").expect("not ended").entry.expect("an entry").index
        };
        assert_eq!(next(&mut stream).await, BEGUN);
        world.recorded(&happened("v1", &digest('a'))).await;
        world.recorded(&happened("v2", &digest('b'))).await;
        let moved = world.recorded(&happened("v1", &digest('b'))).await;
        assert_eq!(next(&mut stream).await, moved.index);
        let unbound = world.recorded(&delete_manifest(&digest('b'))).await;
        assert_eq!(next(&mut stream).await, unbound.index);
        let status = world
            .log()
            .watch(proto::WatchRequest { tag: "v1".into(), ..Default::default() })
            .await
            .expect_err("a tag of nothing");
        assert_eq!(refused(&status), [("tag".into(), "INCOMPLETE".into())]);
    });
}

#[test]
fn a_ledger_goes_on_after_a_restart_where_it_was() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let world = World::open(&path).await;
        world.recorded(&happened("v1", &digest('a'))).await;
        let before = world.check_ledger().await;
        world.stop().await;
        let world = World::open(&path).await;
        world.recorded(&happened("v1", &digest('b'))).await;
        let after = world.check_ledger().await;
        assert_eq!(after[..before.len()], before[..]);
        world.stop().await;
    });
}

#[test]
fn an_idle_server_commits_as_often_as_its_configuration_says() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ledger.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).expect("written");
            tagledger::server::config::Config::read(&file).expect("a configuration")
        };
        assert_eq!(read("").idle_after(), Some(std::time::Duration::from_secs(600)));
        assert_eq!(read("idle_commitment_seconds = 0").idle_after(), None);
        let world = World::open_with(&folder.path().join("ledger"), read("idle_commitment_seconds = 1")).await;
        let recorded = world.recorded(&happened("v1", &digest('a'))).await;
        let at_us = async || world.query().resolve_tag(resolve("v1", 0)).await.expect("resolved").into_inner().as_of_us;
        let before = at_us().await;
        let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        while at_us().await == before {
            assert!(tokio::time::Instant::now() < patience, "no commitment");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let entries = world.check_ledger().await;
        assert!(entries.len() as u64 > recorded.index + 2);
        world.stop().await;
    });
}

#[test]
fn a_retry_is_answered_with_its_first_entry_whatever_the_version_is_by_then() {
    runtime().block_on(async {
        let world = World::new().await;
        let mut statement = happened("v1", &digest('a'));
        statement.event_id = "once".into();
        let send = async || {
            let submission = proto::Submission { only_at_version: Some(0), ..world::submission(&statement) };
            let request = world.with_token(proto::AppendRequest { submission: Some(submission) });
            world.append().append(request).await
        };
        let first = send().await.expect("recorded").into_inner().receipt.expect("a receipt");
        let again = send().await.expect("answered").into_inner().receipt.expect("a receipt");
        assert_eq!((again.index, again.duplicate), (first.index, true));
        statement.event_id = "another".into();
        let submission = proto::Submission { only_at_version: Some(0), ..world::submission(&statement) };
        let request = world.with_token(proto::AppendRequest { submission: Some(submission) });
        assert_eq!(world.append().append(request).await.expect_err("changed").code(), tonic::Code::Aborted);
        world.check_ledger().await;
    });
}

#[test]
fn a_policy_that_is_set_rules_from_its_entry_on() {
    runtime().block_on(async {
        let world = World::new().await;
        assert_eq!(world.recorded(&requested("v1", &digest('a'))).await.outcome(), Outcome::Applied);
        assert_eq!(world.recorded(&requested("v1", &digest('b'))).await.outcome(), Outcome::Applied);
        assert_eq!(world.recorded(&policy(&["registry.example/team/app:v*"])).await.outcome(), Outcome::Applied);
        assert_eq!(world.recorded(&requested("v1", &digest('a'))).await.outcome(), Outcome::Denied);
        world.check_ledger().await;
    });
}

#[test]
fn a_policy_replaces_only_the_one_that_its_author_saw() {
    runtime().block_on(async {
        let world = World::new().await;
        let replacing = |patterns: &[&str], replaces: &str| {
            let mut statement = policy(patterns);
            if let Some(proto::statement::Kind::PolicyChange(change)) = &mut statement.kind {
                change.replaces = replaces.to_owned();
            }
            statement
        };
        let in_force = async || {
            let asked = proto::GetPolicyRequest::default();
            world.query().get_policy(asked).await.expect("answered").into_inner().digest
        };
        let none = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(world.recorded(&replacing(&["r/a:v1"], none)).await.outcome(), Outcome::Applied);
        let first = in_force().await;
        let denied = world.recorded(&replacing(&["r/a:v2"], none)).await;
        assert_eq!(denied.outcome(), Outcome::Denied);
        assert_eq!(denied.detail, format!("the policy in force is {first}, not {none}"));
        assert_eq!(in_force().await, first);
        assert_eq!(world.recorded(&replacing(&["r/a:v1"], none)).await.outcome(), Outcome::Unchanged);
        assert_eq!(world.recorded(&replacing(&["r/a:v2"], &first)).await.outcome(), Outcome::Applied);
        world.check_ledger().await;
    });
}

#[test]
fn the_policy_is_answered_and_proven_for_every_moment() {
    runtime().block_on(async {
        let world = World::new().await;
        let rules = ["registry.example/team/app:v*"];
        let (first, second) = (world.recorded(&policy(&rules)).await.index, world.recorded(&policy(&[])).await.index);
        let ask = |at_us: u64| proto::GetPolicyRequest { at_us: time(at_us), without_evidence: false };
        let mut times = Vec::new();
        for index in [0, first, second] {
            let entry = world.log().get_entry(proto::GetEntryRequest { by: Some(By::Index(index)) }).await;
            let evidence = entry.expect("an entry").into_inner().evidence.expect("evidence");
            let body = tagledger::ledger::entry::SignedEntry::decode(&evidence.entries[0].entry).expect("valid").body;
            times.push(body.recorded_at_us());
        }
        let text = world::immutable(&rules);
        for (at_us, set_by, text) in [
            (times[0], 0, ""),
            (times[1] - 1, 0, ""),
            (times[1], first, &*text),
            (times[2] - 1, first, &*text),
            (times[2], second, ""),
            (0, second, ""),
        ] {
            let answer = world.query().get_policy(ask(at_us)).await.expect("answered").into_inner();
            assert_eq!((answer.set_by, answer.text.as_str()), (set_by, text), "at {at_us}");
            let proven = prove(answer.evidence.as_ref().expect("evidence"), &world.vkey);
            let moment = if at_us == 0 { answer.as_of_us } else { at_us };
            proven.check_state(&Subject::Policy, moment, answer.state.as_ref(), &answer.digest);
            assert_eq!(answer.digest.is_empty(), set_by == 0);
        }
        world.check_ledger().await;
    });
}

#[test]
fn messages_that_nobody_counts_are_short() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    runtime().block_on(async {
        let world = World::new().await;
        let mut health = HealthClient::new(world.channel.clone());
        let refused = health.check(HealthCheckRequest { service: "x".repeat(2000) }).await.expect_err("too long");
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        // Of a stream a message is counted once it is whole.
        let statement = vec![1; 100_000];
        let submission = Some(proto::Submission { statement, ..Default::default() });
        let request = world.with_token(tokio_stream::iter([proto::AppendStreamRequest { submission }]));
        let mut answers = world.append().append_stream(request).await.expect("a stream").into_inner();
        let refused = answers.message().await.expect_err("too long");
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        // In a batch there may be as much.
        let submissions = vec![proto::Submission { statement: vec![1; 100_000], ..Default::default() }];
        let request = world.with_token(proto::AppendBatchRequest { submissions });
        let refused = world.append().append_batch(request).await.expect_err("no statement");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        world.stop().await;
    });
}

#[test]
fn health_and_reflection_answer() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    runtime().block_on(async {
        let world = World::new().await;
        for service in ["", "tagledger.v1.AppendService", "tagledger.v1.LogService", "tagledger.v1.QueryService"] {
            let request = HealthCheckRequest { service: service.into() };
            let answer = HealthClient::new(world.channel.clone()).check(request).await.expect("an answer");
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
        }
        use tonic_reflection::pb::v1::ServerReflectionRequest;
        use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = ServerReflectionClient::new(world.channel.clone())
            .server_reflection_info(tokio_stream::iter([request]))
            .await
            .expect("a stream")
            .into_inner();
        let answer = answers.message().await.expect("an answer").expect("one").message_response;
        let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
        let names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
        for name in ["tagledger.v1.AppendService", "tagledger.v1.LogService", "tagledger.v1.QueryService"] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
    });
}

#[test]
fn a_list_of_repositories_is_proven_complete_page_by_page() {
    runtime().block_on(async {
        let world = World::new().await;
        let mut names = Vec::new();
        for number in 0..5 {
            let kind = happened("v1", &digest('a')).kind;
            let Some(proto::statement::Kind::TagPush(push)) = kind else { panic!("it is a push") };
            let push = proto::TagPush { repository: format!("team/app{number}"), ..push };
            world.recorded(&world::statement(proto::statement::Kind::TagPush(push))).await;
            names.push(format!("team/app{number}"));
        }
        let (mut token, mut listed) = (String::new(), Vec::new());
        loop {
            let request = proto::ListRepositoriesRequest { page_size: 2, page_token: token, ..Default::default() };
            let page = world.query().list_repositories(request.clone()).await.expect("a page").into_inner();
            let proven = prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
            for found in &page.repositories {
                let registry = found.registry.parse().expect("a name");
                let repository = Repository::parse(&registry, &found.repository).expect("a name");
                let tags = Subject::TagsOf(registry, repository);
                proven.check_state(&tags, page.as_of_us, found.state.as_ref(), "");
            }
            let bare = proto::ListRepositoriesRequest { without_evidence: true, ..request };
            let left_out = world.query().list_repositories(bare).await.expect("a page").into_inner();
            assert_eq!((left_out.repositories, left_out.evidence), (page.repositories.clone(), None));
            listed.extend(page.repositories.into_iter().map(|found| found.repository));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, names);
        // And by whoever believes nobody.
        let folder = tempfile::tempdir().expect("a folder");
        let trust = tagledger::client::trust::TrustFolder::new(folder.path().to_owned());
        let server = format!("http://{}", world.address).parse().expect("an address");
        let opening =
            tagledger::client::RemoteLedger::open(server, Default::default(), trust, Some(world.vkey.clone()));
        let (ledger, _) = opening.await.expect("opened");
        let question = tagledger::ledger::answer::Question::RepositoriesAt { at_us: 0, limit: 0 };
        let (answer, _) = ledger.ask(question).await.expect("verified");
        let tagledger::ledger::answer::Finding::States(list) = &answer.finding else { panic!("a list") };
        assert_eq!((list.items.len(), list.is_cut, list.looked_at), (5, false, 5));
    });
}

/// What a client takes that was not told to take more.
#[test]
fn pages_of_long_entries_end_before_they_are_too_long_for_any_client() {
    runtime().block_on(async {
        let world = World::new().await;
        let attribute = |number: usize| proto::Attribute { key: format!("k{number:02}"), value: "v".repeat(1000) };
        let long = |number: usize| {
            let mut statement = happened(&format!("t{number:04}"), &digest('a'));
            statement.attributes = (0..15).map(attribute).collect();
            submission(&statement)
        };
        for first in (0..600).step_by(200) {
            let submissions = (first..first + 200).map(long).collect();
            let request = world.with_token(proto::AppendBatchRequest { submissions });
            world.append().append_batch(request).await.expect("recorded");
        }
        let mut client = QueryServiceClient::new(world.channel.clone());
        let (mut token, mut pages, mut tags) = (String::new(), 0, Vec::new());
        loop {
            let request = proto::ListTagsRequest {
                registry: world::REGISTRY.into(),
                repository: world::REPOSITORY.into(),
                page_size: 1000,
                page_token: std::mem::take(&mut token),
                ..Default::default()
            };
            let page = client.list_tags(request).await.expect("4 MiB are enough").into_inner();
            world::prove(page.evidence.as_ref().expect("evidence"), &world.vkey);
            tags.extend(page.tags.into_iter().map(|tag| tag.tag));
            pages += 1;
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(tags, (0..600).map(|number| format!("t{number:04}")).collect::<Vec<_>>());
        assert!((3..=6).contains(&pages), "9 MB of entries on {pages} pages");
        let mut versions = 0;
        loop {
            let request = proto::ListDigestSightingsRequest {
                digest: digest('a'),
                page_size: 1000,
                page_token: token.clone(),
                ..Default::default()
            };
            let page = client.list_digest_sightings(request).await.expect("4 MiB are enough").into_inner();
            versions += page.versions.len();
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(versions, 600);
        world.stop().await;
    });
}
