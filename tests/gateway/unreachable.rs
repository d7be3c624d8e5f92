//! A ledger that can't be reached: what is protected waits, what is not may pass and is recorded later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::StatusCode;
use tagledger::edge::gateway::protection::Unreachable;
use tagledger::server::config::Config;
use tagledger::server::gateway::Settings;
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{Mode, RULE, Stage, digest, json};
use crate::world::World;

/// The way to the ledger, which can be shut.
struct Door {
    address: SocketAddr,
    open: Arc<AtomicBool>,
    shut: Arc<tokio::sync::Notify>,
}

impl Door {
    async fn to(ledger: SocketAddr, is_open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let door = Self { address, open: Arc::new(AtomicBool::new(is_open)), shut: Arc::default() };
        let (open, shut) = (Arc::clone(&door.open), Arc::clone(&door.shut));
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let shut = Arc::clone(&shut);
                tokio::spawn(async move {
                    let Ok(mut to) = TcpStream::connect(ledger).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        () = shut.notified() => {}
                    }
                });
            }
        });
        door
    }

    fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.shut.notify_waiters();
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

async fn stage(mode: Unreachable, is_open: bool) -> (Stage, Door) {
    stage_with(mode, is_open, |_| {}).await
}

async fn stage_with(mode: Unreachable, is_open: bool, more: impl FnOnce(&mut Settings)) -> (Stage, Door) {
    let world = World::with_rules(&[RULE]).await;
    let door = Door::to(world.address, is_open).await;
    let ledger = format!("http://{}", door.address);
    let stage = Stage::before(world, &ledger, |settings| {
        settings.when_ledger_unreachable = mode;
        settings.ledger_timeout_ms = 500;
        more(settings);
    })
    .await;
    (stage, door)
}

async fn ready(stage: &Stage) {
    stage.until("it is ready", async |stage| stage.get("/readyz").await.0 == StatusCode::OK).await;
}

#[tokio::test]
async fn what_is_protected_waits_and_the_rest_passes_and_is_recorded_once_the_ledger_is_back() {
    let (stage, door) = stage(Unreachable::Protect, true).await;
    ready(&stage).await;
    stage.push("latest", "one").await;
    door.shut();
    let answer = stage.send("PUT", "/v2/team/app/manifests/v1", "two").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    let body = json(&answer.text().await.expect("text"));
    assert!(body["errors"][0]["message"].as_str().expect("text").contains("can't be reached"), "{body}");
    assert_eq!(stage.push("latest", "two").await.0, StatusCode::CREATED);
    assert_eq!(stage.delete(&digest("two")).await.0, StatusCode::SERVICE_UNAVAILABLE, "who knows its tags?");
    assert_eq!(stage.get("/v2/team/app/manifests/latest").await.0, StatusCode::OK, "reading goes on");
    assert_eq!(stage.registry.changes().len(), 2);
    let (_, figures) = stage.get("/metrics").await;
    assert!(figures.contains("tagledger_gateway_unrecorded_total 1"), "{figures}");
    stage.until("it is noticed", async |stage| stage.get("/readyz").await.0 == StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(stage.bound("latest").await, digest("one"));

    door.open();
    stage.settled().await;
    assert_eq!(stage.bound("latest").await, digest("two"));
    let said = stage.log().await;
    assert!(said.contains(&"v1 push REFUSED: FAILED".to_owned()), "the attempt is recorded too: {said:#?}");
    stage.agrees().await;
    assert_eq!(stage.push("v1", "two").await.0, StatusCode::CREATED);
    stage.agrees().await;
}

#[tokio::test]
async fn what_passed_is_recorded_as_what_is_there_in_the_end_in_whatever_order_it_is() {
    let (stage, door) = stage(Unreachable::Protect, true).await;
    ready(&stage).await;
    stage.push("latest", "zero").await;
    door.shut();
    for content in ["one", "two", "three"] {
        assert_eq!(stage.push("latest", content).await.0, StatusCode::CREATED);
    }
    assert_eq!(stage.delete("gone").await.0, StatusCode::NOT_FOUND);
    door.open();
    stage.settled().await;
    assert_eq!(stage.bound("latest").await, digest("three"));
    let said = stage.log().await;
    assert_eq!(said.iter().filter(|line| line.starts_with("latest push HAPPENED")).count(), 1, "{said:#?}");
    // DRIFT where the intent that was settled first was for another of them.
    assert!(said.iter().any(|line| line == "latest observe: APPLIED" || line == "latest observe: DRIFT"), "{said:#?}");
    stage.agrees().await;
}

#[tokio::test]
async fn before_any_policy_was_seen_everything_is_protected() {
    let (stage, door) = stage(Unreachable::Protect, false).await;
    assert_eq!(stage.push("latest", "one").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(stage.registry.changes().is_empty());
    let (status, words) = stage.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(words.contains("no policy was seen yet"), "{words}");
    door.open();
    stage.settled().await;
    assert_eq!(stage.push("latest", "one").await.0, StatusCode::CREATED);
    stage.agrees().await;
}

/// Pushes 1,100 tags, ten at a time: each takes a moment until the ledger is known to be gone. Every answer is this one.
async fn push_many(stage: &Stage, tags: &str, expected: StatusCode) {
    for hundred in 0..11 {
        let mut attempts = tokio::task::JoinSet::new();
        for number in 0..10 {
            let client = stage.client.clone();
            let url = |tag| stage.url(&format!("/v2/team/app/manifests/{tags}{hundred}.{number}.{tag}"));
            let urls: Vec<String> = (0..10).map(url).collect();
            attempts.spawn(async move {
                for url in urls {
                    let answer = client.put(url).body("mine").send().await.expect("answered");
                    assert_eq!(answer.status(), expected);
                }
            });
        }
        attempts.join_all().await;
    }
}

/// What is remembered of 1,100 attempts that were refused: a thousand, and those that were under way by then.
async fn remembered(stage: &Stage) {
    let (_, figures) = stage.get("/metrics").await;
    let figure = |name: &str| {
        let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<usize>().ok()).unwrap_or_else(|| panic!("no {name}: {figures}"))
    };
    let open = figure("tagledger_gateway_open");
    assert!((1000..1010).contains(&open), "those under way come on top: {open}");
    assert_eq!(figure("tagledger_gateway_forgotten_total"), 1100 - open);
    let journal = std::fs::read_to_string(stage.folder.path().join("journal")).expect("text");
    assert_eq!(tagledger::edge::gateway::journal::read(&journal).len(), open);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_again_and_again_while_the_ledger_is_gone_keeps_nobody_from_changing_anything() {
    let (stage, door) = stage_with(Unreachable::Protect, true, |settings| settings.changes_per_second = 0).await;
    ready(&stage).await;
    door.shut();
    push_many(&stage, "v", StatusCode::SERVICE_UNAVAILABLE).await;
    remembered(&stage).await;
    // What is not protected passes all the same.
    assert_eq!(stage.push("latest", "one").await.0, StatusCode::CREATED);
    door.open();
    stage.until("one is recorded", async |stage| stage.push("v1", "one").await.0 == StatusCode::CREATED).await;
    // Recording a thousand attempts may take its time.
    let is_recorded = |line: &String| line.ends_with("push REFUSED: FAILED");
    stage.until("attempts are recorded", async |stage| stage.log().await.iter().any(is_recorded)).await;
    stage.until("what passed is", async |stage| stage.bound("latest").await == digest("one")).await;
    stage.world.check_ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_by_the_registry_again_and_again_while_the_ledger_is_gone_keeps_nobody_either() {
    let (stage, door) = stage_with(Unreachable::Protect, true, |settings| {
        (settings.changes_per_second, settings.idle_timeout_ms) = (0, 10_000);
    })
    .await;
    ready(&stage).await;
    door.shut();
    stage.registry.set(Mode::Answers(400));
    push_many(&stage, "free", StatusCode::BAD_REQUEST).await;
    remembered(&stage).await;
    stage.registry.set(Mode::Works);
    assert_eq!(stage.push("latest", "one").await.0, StatusCode::CREATED);
    door.open();
    stage.until("one is recorded", async |stage| stage.push("v1", "one").await.0 == StatusCode::CREATED).await;
    stage.world.check_ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_answers_and_takes_nothing_is_as_good_as_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("another-disk");
    std::fs::create_dir(&elsewhere).expect("made");
    let config = Config { high_water: Some(elsewhere.join("mark")), ..Config::default() };
    let world = World::open_with(&folder.path().join("ledger"), config).await;
    world.recorded(&crate::world::policy(&[RULE])).await;
    let ledger = format!("http://{}", world.address);
    let stage = Stage::before(world, &ledger, |settings| {
        (settings.changes_per_second, settings.idle_timeout_ms) = (0, 10_000);
    })
    .await;
    ready(&stage).await;
    // Without its high-water mark the sequencer stops; reads go on.
    std::fs::remove_dir_all(&elsewhere).expect("gone");
    let other = crate::world::happened("other", &digest("one"));
    stage.until("it takes nothing", async |stage| stage.world.record(&other).await.is_err()).await;
    stage.registry.set(Mode::Answers(400));
    push_many(&stage, "free", StatusCode::BAD_REQUEST).await;
    remembered(&stage).await;
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::SERVICE_UNAVAILABLE, "it is protected");
    stage.registry.set(Mode::Works);
    assert_eq!(stage.push("latest", "one").await.0, StatusCode::CREATED);
    assert_eq!(stage.get("/readyz").await.0, StatusCode::OK, "it answers");
    stage.world.check_ledger().await;
}

#[tokio::test]
async fn a_ledger_that_has_no_room_lets_nothing_pass_and_reading_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    let world = World::open(&path).await;
    world.recorded(&crate::world::policy(&[RULE])).await;
    world.stop().await;
    // No disk has as much.
    let world = World::open_with(&path, toml::from_str("keep_free_mib = 1000000000000").expect("settings")).await;
    let ledger = format!("http://{}", world.address);
    let stage = Stage::before(world, &ledger, |settings| settings.when_ledger_unreachable = Unreachable::Pass).await;
    ready(&stage).await;
    stage.registry.put("team/app", "latest", "one");
    let answer = stage.send("PUT", "/v2/team/app/manifests/latest", "two").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    let said = answer.text().await.expect("text");
    assert!(said.contains("the ledger does not accept entries for now"), "{said}");
    assert_eq!(stage.delete("latest").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(stage.registry.changes().is_empty());
    assert_eq!(stage.get("/v2/team/app/manifests/latest").await, (StatusCode::OK, "one".to_owned()));
    assert_eq!(stage.get("/readyz").await.0, StatusCode::OK);
    assert!(stage.get("/metrics").await.1.contains("tagledger_gateway_open 0\n"));
}

#[tokio::test]
async fn it_can_be_told_to_refuse_everything_or_to_pass_everything() {
    let (refusing, door) = stage(Unreachable::Refuse, true).await;
    ready(&refusing).await;
    door.shut();
    assert_eq!(refusing.push("latest", "one").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refusing.registry.changes().is_empty());

    let (passing, door) = stage(Unreachable::Pass, true).await;
    passing.push("v1", "one").await;
    door.shut();
    assert_eq!(passing.push("v1", "two").await.0, StatusCode::CREATED);
    door.open();
    passing.settled().await;
    // It is recorded as what it is.
    let said = passing.log().await;
    assert!(said.iter().any(|line| line.ends_with("VIOLATION")), "{said:#?}");
    passing.agrees().await;
}
