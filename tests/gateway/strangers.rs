//! Who may not change a registry can have nothing recorded, and hears nothing of the ledger.

use std::io::Write as _;
use std::net::TcpStream;

use base64::Engine as _;
use reqwest::StatusCode;
use tagledger::ledger::entry::{Body, SignedEntry};

use crate::stage::{Registry, Stage, digest, json};
use crate::world;

/// "robot" with the right word.
const ROBOT: &str = "Basic cm9ib3Q6cmlnaHQ=";

async fn attempt(stage: &Stage, method: &str, tag: &str, authorization: Option<&str>) -> reqwest::Response {
    let url = stage.url(&format!("/v2/{}/manifests/{tag}", world::REPOSITORY));
    let mut request = stage.client.request(method.parse().expect("a method"), url).body("two");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.send().await.expect("answered")
}

/// Who the last record says it was.
async fn last_actor(stage: &Stage) -> String {
    let entries = stage.world.entries().await;
    let mut records = entries.iter().filter_map(|bytes| match SignedEntry::decode(bytes).expect("an entry").body {
        Body::Record(_, statement) => Some(statement.message.actor),
        Body::Commitment(_) => None,
    });
    records.next_back().expect("something is recorded")
}

#[tokio::test]
async fn who_the_registry_turns_away_leaves_no_entry_and_learns_of_no_binding() {
    let stage = Stage::new().await;
    stage.push("v1", "one").await;
    stage.registry.lock(ROBOT);
    let before = stage.world.entries().await.len();
    let wrong = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("robot:wrong"));
    for method in ["PUT", "DELETE"] {
        for tag in ["v1", "v2", "latest"] {
            for authorization in [None, Some(wrong.as_str()), Some("Bearer forged")] {
                let answer = attempt(&stage, method, tag, authorization).await;
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {tag} {authorization:?}");
                // The registry's own words.
                assert_eq!(answer.headers()["www-authenticate"], Registry::CHALLENGE);
                let said = answer.text().await.expect("text");
                assert_eq!(json(&said)["errors"][0]["code"], "UNAUTHORIZED");
                assert!(!said.contains(&digest("one")) && !said.contains("immutable"), "{said}");
            }
        }
    }
    assert_eq!(stage.world.entries().await.len(), before);
    assert_eq!(stage.registry.changes().len(), 1, "nothing of it reached the registry");
    let (_, figures) = stage.get("/metrics").await;
    assert!(figures.contains("tagledger_gateway_changes_total{became=\"unauthorized\"} 18"), "{figures}");
    // Who is let in is, and by its name.
    assert_eq!(attempt(&stage, "PUT", "v2", Some(ROBOT)).await.status(), StatusCode::CREATED);
    assert_eq!(last_actor(&stage).await, "robot");
    assert_eq!(attempt(&stage, "PUT", "v1", Some(ROBOT)).await.status(), StatusCode::CONFLICT);
    assert_eq!(last_actor(&stage).await, "robot");
}

/// Begins a push of 1,000 bytes of which the last hundred never come.
fn dribble(stage: &Stage, more: &str) -> TcpStream {
    let head = format!("PUT /v2/team/app/manifests/v9 HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n{more}\r\n");
    let mut connection = TcpStream::connect(stage.gateway.address).expect("connected");
    connection.write_all(format!("{head}{}", "x".repeat(900)).as_bytes()).expect("sent");
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_registry_turns_away_holds_no_memory_that_others_need() {
    let stage = Stage::with(|settings| (settings.manifest_limit, settings.manifest_memory) = (1000, 4000)).await;
    stage.registry.lock(ROBOT);
    let strangers: Vec<_> = (0..40).map(|_| dribble(&stage, "")).collect();
    // While what they sent arrives, and after that.
    for number in 0..20 {
        let url = stage.url(&format!("/v2/{}/manifests/latest", world::REPOSITORY));
        let push = stage.client.put(url).header("authorization", ROBOT).body(format!("{number:900}"));
        assert_eq!(push.send().await.expect("answered").status(), StatusCode::CREATED);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_holds_no_more_than_its_part_of_the_memory() {
    let stage = Stage::with(|settings| {
        (settings.manifest_limit, settings.manifest_memory) = (1000, 4000);
        settings.proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    let push = async |from: &str| {
        let url = stage.url(&format!("/v2/{}/manifests/latest", world::REPOSITORY));
        let push = stage.client.put(url).header("x-forwarded-for", from).body("y".repeat(700));
        push.send().await.expect("answered").status()
    };
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.push(dribble(&stage, "X-Forwarded-For: 192.0.2.1\r\n"));
        if push("192.0.2.1").await == StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
    }
    assert_eq!(push("192.0.2.1").await, StatusCode::SERVICE_UNAVAILABLE, "it has its part");
    for another in 2..10 {
        assert_eq!(push(&format!("192.0.2.{another}")).await, StatusCode::CREATED);
    }
    drop(slow);
}

#[tokio::test]
async fn a_name_that_nobody_checks_is_not_recorded() {
    let stage = Stage::new().await;
    assert_eq!(attempt(&stage, "PUT", "v1", Some(ROBOT)).await.status(), StatusCode::CREATED);
    assert_eq!(last_actor(&stage).await, "", "this registry lets everybody in");
}

#[tokio::test]
async fn what_a_policy_protects_is_protected_at_once_also_if_only_the_registry_has_it() {
    let world = world::World::new().await;
    let ledger = format!("http://{}", world.address);
    // It reads the policy once, before there is one.
    let stage = Stage::before(world, &ledger, |settings| settings.policy_every_ms = 3_600_000).await;
    stage.until("it is ready", async |stage| stage.get("/readyz").await.0 == StatusCode::OK).await;
    stage.registry.put("team/app", "v1", "old");
    stage.world.recorded(&world::policy(&[crate::stage::RULE])).await;
    assert_eq!(stage.push("v1", "new").await.0, StatusCode::CONFLICT);
    assert_eq!(stage.bound("v1").await, digest("old"));
    stage.agrees().await;
}
