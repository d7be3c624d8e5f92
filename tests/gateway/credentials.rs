//! The gateway's own user in the registry: with it, it looks at what became of a change, whoever asked for it, also after a crash.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use reqwest::StatusCode;

use crate::certificates::write_private;
use crate::crash::Process;
use crate::stage::{Mode, Registry, Stage, digest};

/// "ci" with its word, who pushes.
const CI: &str = "Basic Y2k6d29yZA==";
/// "robot" with the right word: the gateway's own.
const ROBOT: &str = "Basic cm9ib3Q6cmlnaHQ=";

/// A stage whose gateway has a user of its own.
async fn stage(realm: Option<String>) -> Stage {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("robot.password");
    write_private(&password, "right\n");
    // The files are read before it listens.
    Stage::with(|settings| {
        settings.upstream_user = Some("robot".to_owned());
        settings.upstream_password_file = Some(password);
        settings.upstream_token_realm = realm;
    })
    .await
}

async fn push(stage: &Stage, tag: &str, content: &str) -> (StatusCode, String) {
    let put = stage.client.put(stage.url(&format!("/v2/team/app/manifests/{tag}"))).header("authorization", CI);
    let answer = put.body(content.to_owned()).send().await.expect("answered");
    (answer.status(), answer.text().await.expect("text"))
}

#[tokio::test]
async fn it_looks_as_its_own_user_and_changes_as_the_client() {
    let stage = stage(None).await;
    stage.registry.lock_to(&[CI, ROBOT], Registry::CHALLENGE);
    assert_eq!(push(&stage, "latest", "one").await.0, StatusCode::CREATED);
    stage.registry.set(Mode::DoesAndAnswers(500));
    assert_eq!(push(&stage, "latest", "two").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    stage.registry.set(Mode::Works);
    stage.settled().await;
    assert_eq!(stage.log().await.last().map(String::as_str), Some("latest observe: APPLIED"));
    let looks = stage.registry.authorizations("HEAD");
    assert!(looks.len() >= 2 && looks.iter().all(|sent| sent == ROBOT), "{looks:?}");
    let changes = stage.registry.headers_of("PUT /v2/team/app/manifests/latest");
    assert_eq!(changes["authorization"], CI);
    // What only its own user sees to be gone is gone.
    stage.registry.set(Mode::Answers(404));
    let url = stage.url("/v2/team/app/manifests/latest");
    let deleted = stage.client.delete(url).header("authorization", CI).send().await.expect("answered");
    assert_eq!(deleted.status(), StatusCode::NOT_FOUND);
    stage.settled().await;
    assert_eq!(stage.log().await.last().map(String::as_str), Some("latest observe: UNCHANGED"), "it is still there");
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_it_settles_with_its_own_user_and_without_one_not_at_all() {
    let stage = Stage::new().await;
    let password = stage.folder.path().join("robot.password");
    write_private(&password, "right\n");
    let user = format!("upstream_user = 'robot'\nupstream_password_file = '{}'\n", password.display());
    stage.registry.lock_to(&[CI, ROBOT], Registry::CHALLENGE);
    assert_eq!(push(&stage, "latest", "before").await.0, StatusCode::CREATED);
    stage.registry.set(Mode::DoesAndStalls);
    let gateway = Process::start_with(&stage, "mortal", &user);
    let url = format!("http://{}/v2/team/app/manifests/latest", gateway.address);
    let pushing = tokio::spawn(stage.client.put(url).header("authorization", CI).body("after").send());
    stage.until("it reached the registry", async |stage| stage.registry.changes().len() == 2).await;
    gateway.kill();
    assert!(pushing.await.expect("ran").is_err(), "the client heard nothing");
    stage.registry.set(Mode::Works);

    // The client's word is gone with the process.
    let looked =
        |stage: &Stage, sent: &str| stage.registry.authorizations("HEAD").iter().filter(|s| *s == sent).count();
    let without = Process::start(&stage, "mortal");
    stage.until("it looks, and is turned away", async |stage| looked(stage, "") > 0).await;
    without.kill();
    assert_eq!(stage.log().await.last().map(String::as_str), Some("latest push INTENDED: NOTED"));

    let before = looked(&stage, ROBOT);
    let _again = Process::start_with(&stage, "mortal", &user);
    stage
        .until("it is settled", async |stage| {
            stage.log().await.last().is_some_and(|last| last == "latest observe: APPLIED")
        })
        .await;
    assert!(looked(&stage, ROBOT) > before, "{:?}", stage.registry.authorizations("HEAD"));
    assert_eq!(stage.bound("latest").await, digest("after"));
    stage.agrees().await;
}

/// Where tokens are had, on another port than the registry. Returns its address and what it was shown.
async fn realm() -> (String, Arc<Mutex<Vec<String>>>) {
    let shown: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&shown);
    let token = get(move |headers: HeaderMap| async move {
        let sent = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let is_robot = sent == ROBOT;
        seen.lock().expect("free").push(sent);
        if is_robot { (StatusCode::OK, r#"{"token":"for-robot"}"#) } else { (StatusCode::UNAUTHORIZED, "{}") }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/token", token)).await });
    (format!("http://{address}/token"), shown)
}

#[tokio::test]
async fn its_password_goes_by_plain_http_to_the_realm_that_is_configured_and_to_no_other() {
    let (realm, shown) = realm().await;
    let challenge = format!("Bearer realm=\"{realm}\",service=\"r\"");
    for is_configured in [false, true] {
        let stage = stage(is_configured.then(|| realm.clone())).await;
        stage.registry.lock_to(&[CI, "Bearer for-robot"], &challenge);
        let (status, body) = push(&stage, "v1", "one").await;
        if is_configured {
            assert_eq!(status, StatusCode::CREATED, "{body}");
            assert!(shown.lock().expect("free").contains(&ROBOT.to_owned()));
            let looks = stage.registry.authorizations("HEAD");
            assert_eq!(looks.last().map(String::as_str), Some("Bearer for-robot"), "{looks:?}");
            stage.agrees().await;
        } else {
            assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
            assert!(body.contains("name it as its token realm in the configuration"), "{body}");
            assert!(shown.lock().expect("free").is_empty(), "the password stays here");
            assert_eq!(stage.log().await, ["v1 push INTENDED: NOTED", "v1 push REFUSED: FAILED"]);
        }
    }
}
