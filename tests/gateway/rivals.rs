//! Pushes to a manifest through one gateway and its deletion through another: never both at the registry, and none undecided.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::crash::Process;
use crate::stage::{Mode, Stage, digest, json};
use crate::world::REPOSITORY;

/// Shorter than anything is held up here.
const SHORT_MS: u64 = 300;
/// Longer than a test takes.
const NEVER_MS: u64 = 300_000;

/// What a gateway answered.
#[derive(Debug)]
struct Answered {
    status: StatusCode,
    comes_again: bool,
    body: String,
}

impl Answered {
    /// Not now, but later; for this reason.
    fn is_later(&self, words: &str) {
        assert_eq!(self.status, StatusCode::SERVICE_UNAVAILABLE, "{self:?}");
        assert!(self.comes_again && json(&self.body)["errors"][0]["code"] == "UNAVAILABLE", "{self:?}");
        assert!(self.body.contains(words), "{words:?} is not in {self:?}");
    }

    /// For a tag that may not go.
    fn is_denied(&self, tag: &str) {
        assert_eq!(self.status, StatusCode::CONFLICT, "{self:?}");
        let words = json(&self.body)["errors"][0]["message"].as_str().expect("text").to_owned();
        assert!(words.contains(&format!("tag \"{tag}\" may not be deleted")), "{words}");
    }
}

fn send(stage: &Stage, method: &str, gateway: SocketAddr, reference: &str, body: &str) -> JoinHandle<Answered> {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let url = format!("http://{gateway}/v2/{REPOSITORY}/manifests/{reference}");
    let request = stage.client.request(method, url).body(body.to_owned());
    tokio::spawn(async move {
        let answer = request.send().await.expect("answered");
        let (status, comes_again) = (answer.status(), answer.headers().contains_key("retry-after"));
        Answered { status, comes_again, body: answer.text().await.expect("text") }
    })
}

async fn push(stage: &Stage, gateway: SocketAddr, tag: &str, content: &str) -> Answered {
    send(stage, "PUT", gateway, tag, content).await.expect("ran")
}

async fn delete(stage: &Stage, gateway: SocketAddr, content: &str) -> Answered {
    send(stage, "DELETE", gateway, &digest(content), "").await.expect("ran")
}

/// Until so many changes have reached the registry; from then on it works.
async fn until_at_work(stage: &Stage, changes: usize) {
    stage.until("it reached the registry", async |stage| stage.registry.changes().len() == changes).await;
    stage.registry.set(Mode::Works);
}

/// A deletion that the registry has and did not carry out yet, of a manifest under a tag or under none; and how many changes it had before.
async fn deletion_at_work(stage: &Stage, gateway: SocketAddr, is_bound: bool) -> (usize, JoinHandle<Answered>) {
    if is_bound {
        stage.push("old", "one").await;
    } else {
        stage.registry.put(REPOSITORY, &digest("one"), "one");
    }
    let before = stage.registry.changes().len();
    stage.registry.set(Mode::DoesWhenTold);
    let deleting = send(stage, "DELETE", gateway, &digest("one"), "");
    until_at_work(stage, before + 1).await;
    (before, deleting)
}

/// What the registry was asked to delete.
fn deletions(stage: &Stage) -> Vec<String> {
    stage.registry.changes().into_iter().filter(|line| line.starts_with("DELETE ")).collect()
}

fn short(settings: &mut tagledger::server::gateway::Settings) {
    (settings.hold_wait_ms, settings.idle_timeout_ms) = (SHORT_MS, 10_000);
}

#[tokio::test]
async fn a_manifest_is_not_deleted_while_a_tag_is_pushed_to_it_through_another_gateway() {
    for tag in ["v1", "latest"] {
        for is_bound in [true, false] {
            let stage = Stage::with(short).await;
            let other = stage.another_gateway().await;
            if is_bound {
                assert_eq!(stage.push("old", "one").await.0, StatusCode::CREATED);
            }
            stage.registry.set(Mode::DoesWhenTold);
            let pushing = send(&stage, "PUT", other.address, tag, "one");
            until_at_work(&stage, 1 + usize::from(is_bound)).await;
            let intent = stage.entry(&format!("{tag} push INTENDED: NOTED")).await;

            let words = format!(
                "tag registry.example/team/app:{tag} is about to be pushed to manifest {} by the intent in entry {intent} ",
                digest("one")
            );
            delete(&stage, stage.gateway.address, "one").await.is_later(&words);
            assert_eq!(deletions(&stage), Vec::<String>::new());
            let said = stage.log().await;
            let taken_back = match is_bound {
                true => ["old delete-digest INTENDED: NOTED", "old delete-digest REFUSED: FAILED"],
                false => ["- delete-digest INTENDED: UNCHANGED", "- delete-digest REFUSED: FAILED"],
            };
            assert_eq!(said[said.len() - 2..], taken_back, "nothing is left half done");

            stage.registry.do_what_is_late();
            assert_eq!(pushing.await.expect("ran").status, StatusCode::CREATED);
            stage.agrees().await;
            let answered = delete(&stage, stage.gateway.address, "one").await;
            if tag == "v1" {
                answered.is_denied("v1");
                assert_eq!(stage.bound("v1").await, digest("one"));
            } else {
                assert_eq!(answered.status, StatusCode::ACCEPTED);
            }
            stage.agrees().await;
        }
    }
}

#[tokio::test]
async fn a_deletion_that_waited_for_a_push_is_decided_with_its_tag() {
    for (tag, status) in [("v1", StatusCode::CONFLICT), ("latest", StatusCode::ACCEPTED)] {
        let stage = Stage::with(|settings| settings.idle_timeout_ms = 10_000).await;
        let other = stage.another_gateway().await;
        stage.push("old", "one").await;
        stage.registry.set(Mode::DoesWhenTold);
        let pushing = send(&stage, "PUT", other.address, tag, "one");
        until_at_work(&stage, 2).await;
        let deleting = send(&stage, "DELETE", stage.gateway.address, &digest("one"), "");
        stage
            .until("it is taken back", async |stage| {
                stage.log().await.last().is_some_and(|last| last == "old delete-digest REFUSED: FAILED")
            })
            .await;
        stage.registry.do_what_is_late();
        assert_eq!(pushing.await.expect("ran").status, StatusCode::CREATED);
        assert_eq!(deleting.await.expect("ran").status, status);
        stage.agrees().await;
    }
}

#[tokio::test]
async fn a_push_that_may_come_late_keeps_its_manifest_also_from_its_own_gateway() {
    let stage = Stage::with(|settings| {
        (settings.hold_wait_ms, settings.idle_timeout_ms, settings.late_bound_ms) = (SHORT_MS, 500, NEVER_MS);
    })
    .await;
    stage.registry.set(Mode::DoesLate);
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::GATEWAY_TIMEOUT);
    stage.registry.set(Mode::Works);
    delete(&stage, stage.gateway.address, "one").await.is_later("app:v1 is about to be pushed");
    stage.registry.do_what_is_late();
    stage.until("it came", async |stage| stage.bound("v1").await == digest("one")).await;
    delete(&stage, stage.gateway.address, "one").await.is_denied("v1");
    assert_eq!(deletions(&stage), Vec::<String>::new());
    stage.agrees().await;
}

#[tokio::test]
async fn nothing_is_pushed_to_a_manifest_while_it_is_deleted_through_another_gateway() {
    for is_bound in [true, false] {
        let stage = Stage::with(short).await;
        let other = stage.another_gateway().await;
        let (before, deleting) = deletion_at_work(&stage, other.address, is_bound).await;
        let said = stage.log().await;
        let intent = stage.entry(said.last().expect("intended")).await;

        let words = format!(
            "manifest {} is about to be deleted by the intent of operator in entry {intent} of the ledger",
            digest("one")
        );
        push(&stage, stage.gateway.address, "v1", "one").await.is_later(&words);
        // Several tags at once are one push.
        let many = format!("{}?tag=v2&tag=latest", digest("one"));
        push(&stage, stage.gateway.address, &many, "one").await.is_later(&words);
        assert_eq!(stage.registry.changes().len(), before + 1, "nothing of it reached the registry");
        let taken_back = [
            "v1 push INTENDED: NOTED",
            "v1 push REFUSED: FAILED",
            "latest push INTENDED: NOTED",
            "v2 push INTENDED: NOTED",
            "latest push REFUSED: FAILED",
            "v2 push REFUSED: FAILED",
        ];
        assert_eq!(stage.log().await[said.len()..], taken_back);
        // Another manifest, and the same one elsewhere, are not concerned.
        assert_eq!(push(&stage, stage.gateway.address, "v3", "three").await.status, StatusCode::CREATED);
        assert_eq!(stage.put("/v2/team/else/manifests/v1", "one").await.0, StatusCode::CREATED);

        stage.registry.do_what_is_late();
        assert_eq!(deleting.await.expect("ran").status, StatusCode::ACCEPTED);
        assert_eq!(push(&stage, stage.gateway.address, "v1", "one").await.status, StatusCode::CREATED);
        assert_eq!(stage.registry.digest_of(REPOSITORY, "v1"), Some(digest("one")));
        for tag in ["old", "v1"] {
            assert_eq!(stage.bound(tag).await, stage.registry.digest_of(REPOSITORY, tag).unwrap_or_default(), "{tag}");
        }
        stage.world.check_ledger().await;
    }
}

#[tokio::test]
async fn a_push_waits_for_a_deletion_and_goes_on_whatever_became_of_it() {
    for is_bound in [true, false] {
        for refuses in [true, false] {
            let stage = Stage::with(|settings| settings.idle_timeout_ms = 10_000).await;
            let other = stage.another_gateway().await;
            let (before, deleting) = deletion_at_work(&stage, other.address, is_bound).await;
            if refuses {
                // By then it is not there any more.
                stage.registry.forget(REPOSITORY, &digest("one"));
            }
            let pushing = send(&stage, "PUT", stage.gateway.address, "v1", "one");
            stage
                .until("it waits", async |stage| {
                    stage.log().await.last().is_some_and(|last| last == "v1 push INTENDED: NOTED")
                })
                .await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!pushing.is_finished() && stage.registry.changes().len() == before + 1, "it waits");
            stage.registry.do_what_is_late();
            let status = if refuses { StatusCode::NOT_FOUND } else { StatusCode::ACCEPTED };
            assert_eq!(deleting.await.expect("ran").status, status);
            assert_eq!(pushing.await.expect("ran").status, StatusCode::CREATED);
            stage.settled().await;
            stage.agrees().await;
            assert_eq!(stage.bound("v1").await, digest("one"));
        }
    }
}

#[tokio::test]
async fn a_deletion_that_the_registry_refuses_is_over() {
    let stage = Stage::with(short).await;
    let other = stage.another_gateway().await;
    for content in ["bound", "unbound"] {
        if content == "bound" {
            stage.push("old", content).await;
        }
        stage.registry.set(Mode::Answers(405));
        assert_eq!(delete(&stage, other.address, content).await.status, StatusCode::METHOD_NOT_ALLOWED);
        stage.registry.set(Mode::Works);
        let last = stage.log().await.pop().expect("recorded");
        assert!(last.ends_with("delete-digest REFUSED: FAILED"), "{last}");
        let tag = format!("v-{content}");
        assert_eq!(push(&stage, stage.gateway.address, &tag, content).await.status, StatusCode::CREATED);
    }
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_died_over_a_deletion_keeps_nobody_from_its_manifest_once_it_is_back() {
    let stage = Stage::with(|settings| settings.hold_wait_ms = SHORT_MS).await;
    stage.push("old", "one").await;
    stage.registry.set(Mode::DoesAndStalls);
    let gateway = Process::start(&stage, "mortal");
    let deleting = send(&stage, "DELETE", gateway.address, &digest("one"), "");
    until_at_work(&stage, 2).await;
    gateway.kill();
    assert!(deleting.await.is_err(), "the client heard nothing");
    push(&stage, stage.gateway.address, "v1", "one").await.is_later("is about to be deleted");
    let _again = Process::start(&stage, "mortal");
    let begun = Instant::now();
    stage
        .until("it may be pushed", async |stage| {
            push(stage, stage.gateway.address, "v1", "one").await.status == StatusCode::CREATED
        })
        .await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: before any bound", begun.elapsed());
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_died_over_a_deletion_and_stays_away_keeps_nobody_for_longer_than_the_bounds() {
    const BOUNDS: Duration = Duration::from_millis(2_500 + 1_500);
    let stage = Stage::with(|settings| {
        (settings.hold_bound_ms, settings.late_bound_ms, settings.hold_wait_ms) = (2_500, 1_500, SHORT_MS);
        (settings.connect_timeout_ms, settings.idle_timeout_ms, settings.ledger_timeout_ms) = (100, 500, 500);
    })
    .await;
    for content in ["bound", "unbound"] {
        if content == "bound" {
            stage.push("old", content).await;
        }
        let gateway = Process::start(&stage, content);
        let before = stage.registry.changes().len();
        stage.registry.set(Mode::Stalls);
        let deleting = send(&stage, "DELETE", gateway.address, &digest(content), "");
        let begun = Instant::now();
        until_at_work(&stage, before + 1).await;
        gateway.kill();
        assert!(deleting.await.is_err(), "the client heard nothing");
        let tag = format!("v-{content}");
        stage
            .until("it may be pushed", async |stage| {
                push(stage, stage.gateway.address, &tag, content).await.status == StatusCode::CREATED
            })
            .await;
        let waited = begun.elapsed();
        assert!(waited > BOUNDS - Duration::from_millis(500) && waited < BOUNDS * 2, "{waited:?}");
        stage.agrees().await;
    }
}

#[tokio::test]
async fn a_push_of_what_is_bound_already_that_comes_after_the_deletion_is_recorded_as_what_is_there() {
    let stage = Stage::with(short).await;
    let other = stage.another_gateway().await;
    stage.push("latest", "one").await;
    stage.registry.set(Mode::DoesWhenTold);
    // It changes nothing, and so holds nothing.
    let pushing = send(&stage, "PUT", other.address, "latest", "one");
    until_at_work(&stage, 2).await;
    assert_eq!(delete(&stage, stage.gateway.address, "one").await.status, StatusCode::ACCEPTED);
    assert_eq!(stage.bound("latest").await, "");
    stage.registry.do_what_is_late();
    assert_eq!(pushing.await.expect("ran").status, StatusCode::CREATED);
    stage.until("it is looked at", async |stage| stage.bound("latest").await == digest("one")).await;
    stage.agrees().await;
}

#[tokio::test]
async fn a_deletion_of_what_is_not_there_that_may_come_late_keeps_its_manifest() {
    const BOUND_MS: u64 = 6_000;
    let stage = Stage::with(|settings| {
        (settings.hold_wait_ms, settings.idle_timeout_ms, settings.late_bound_ms) = (SHORT_MS, 500, BOUND_MS);
    })
    .await;
    let other = stage.another_gateway().await;
    stage.registry.set(Mode::DoesLate);
    let deleted = delete(&stage, other.address, "one").await;
    assert_eq!(deleted.status, StatusCode::GATEWAY_TIMEOUT);
    let begun = Instant::now();
    stage.registry.set(Mode::Works);
    // That it is not there says nothing: it was not there before.
    tokio::time::sleep(Duration::from_millis(700)).await;
    push(&stage, stage.gateway.address, "v1", "one").await.is_later("is about to be deleted");
    stage.registry.do_what_is_late();
    stage
        .until("it may be pushed", async |stage| {
            push(stage, stage.gateway.address, "v1", "one").await.status == StatusCode::CREATED
        })
        .await;
    assert!(begun.elapsed() > Duration::from_millis(BOUND_MS - 200), "{:?}", begun.elapsed());
    stage.agrees().await;
}

/// Pushes and deletes the same manifests at once through two gateways, and waits until all is settled. A manifest is made of its name.
pub(crate) async fn contend(
    client: &reqwest::Client,
    gateways: [SocketAddr; 2],
    rounds: usize,
    manifest: impl Fn(&str) -> String,
) {
    let mut counted = BTreeMap::<u16, usize>::new();
    for round in 0..rounds {
        let mut under_way = JoinSet::new();
        for lane in 0..4 {
            let name = format!("{round}-{lane}");
            let content = manifest(&name);
            let by_digest = digest(&content);
            let tags = ["v", "free", "v-second", "before"].map(|kind| format!("{kind}-{name}"));
            let send = |(number, (method, reference)): (usize, (reqwest::Method, String))| {
                let url = format!("http://{}/v2/{REPOSITORY}/manifests/{reference}", gateways[(number + round) % 2]);
                let request = client.request(method, url).body(content.clone());
                let pause = Duration::from_millis(((number * 7 + round * 5 + lane * 3) % 23) as u64);
                async move {
                    tokio::time::sleep(pause).await;
                    let request = request.header("content-type", "application/vnd.oci.image.manifest.v1+json");
                    request.send().await.expect("answered").status().as_u16()
                }
            };
            // Some are there before, and are pushed once more.
            if (round + lane) % 2 == 0 {
                assert_eq!(send((lane, (reqwest::Method::PUT, tags[3].clone()))).await, 201);
            }
            let changes = tags.into_iter().map(|tag| (reqwest::Method::PUT, tag));
            let changes = changes.chain(std::iter::repeat_n((reqwest::Method::DELETE, by_digest), 2));
            changes.enumerate().map(send).for_each(|change| drop(under_way.spawn(change)));
        }
        for status in under_way.join_all().await {
            *counted.entry(status).or_default() += 1;
        }
    }
    // Created, deleted, gone, denied, later.
    assert!(counted.keys().all(|status| [201, 202, 404, 409, 503].contains(status)), "{counted:?}");
    let of = |status| counted.get(&status).copied().unwrap_or_default();
    assert!(of(201) > rounds * 8 && of(202) + of(409) > rounds * 3, "not much came about: {counted:?}");
    let begun = Instant::now();
    for gateway in gateways {
        while open(client, gateway).await != "tagledger_gateway_open 0" {
            assert!(begun.elapsed() < Duration::from_secs(15), "all is settled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How many are open in a gateway of this process.
async fn open(client: &reqwest::Client, gateway: SocketAddr) -> String {
    let figures = client.get(format!("http://{gateway}/metrics")).send().await.expect("answered");
    let figures = figures.text().await.expect("text");
    figures.lines().find(|line| line.starts_with("tagledger_gateway_open ")).expect("a figure").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_pushed_and_deleted_at_once_through_two_gateways_ledger_and_registry_agree() {
    let stage = Stage::with(|settings| (settings.changes_per_second, settings.idle_timeout_ms) = (0, 10_000)).await;
    let other = stage.another_gateway().await;
    stage.registry.set(Mode::Dawdles);
    contend(&stage.client, [stage.gateway.address, other.address], 12, |name| format!("manifest {name}")).await;
    let said = stage.log().await;
    assert!(!said.iter().any(|line| line.contains("VIOLATION")), "{said:#?}");
    stage.agrees().await;
}
