//! Deletes by digest where the registry has tags that the ledger never heard of.

use reqwest::StatusCode;

use crate::stage::{Mode, Stage, digest, json};
use crate::world::REPOSITORY;

/// Of a gateway that knows the policy.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.until("it is ready", async |stage| stage.get("/readyz").await.0 == StatusCode::OK).await;
    stage
}

#[tokio::test]
async fn a_protected_tag_from_before_the_ledger_is_not_deleted_with_its_manifest() {
    let stage = stage().await;
    for tag in ["v1", "latest"] {
        stage.registry.put(REPOSITORY, tag, "old");
    }
    stage.registry.put(REPOSITORY, "other", "new");
    // What the registry shows is shown to this client.
    let robot = "Basic cm9ib3Q6cmlnaHQ=";
    stage.registry.lock(robot);
    let url = stage.url(&format!("/v2/{REPOSITORY}/manifests/{}", digest("old")));
    let delete = async || stage.client.delete(&url).header("authorization", robot).send().await.expect("answered");
    let answer = delete().await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let said = json(&answer.text().await.expect("text"));
    assert!(said["errors"][0]["message"].as_str().expect("text").contains("\"v1\" may not be deleted"), "{said}");
    assert!(stage.registry.changes().is_empty());
    let log = ["latest observe: APPLIED", "v1 observe: APPLIED", "latest+v1 delete-digest INTENDED: DENIED"];
    assert_eq!(stage.log().await, log, "and nothing of the tag of another manifest");
    assert_eq!((stage.bound("v1").await, stage.bound("other").await), (digest("old"), String::new()));
    // It is not looked for again.
    let looked = |stage: &Stage| stage.registry.requests().iter().filter(|line| line.ends_with("manifests/v1")).count();
    let before = looked(&stage);
    assert_eq!(delete().await.status(), StatusCode::CONFLICT);
    assert_eq!(looked(&stage), before);
    stage.world.check_ledger().await;
}

#[tokio::test]
async fn a_free_tag_from_before_the_ledger_goes_with_its_manifest_and_is_recorded() {
    let stage = stage().await;
    stage.registry.put(REPOSITORY, "latest", "old");
    assert_eq!(stage.delete(&digest("old")).await.0, StatusCode::ACCEPTED);
    let log =
        ["latest observe: APPLIED", "latest delete-digest INTENDED: NOTED", "latest delete-digest HAPPENED: APPLIED"];
    assert_eq!(stage.log().await, log);
    stage.agrees().await;
}

#[tokio::test]
async fn where_its_tags_can_not_be_listed_a_manifest_is_deleted_only_if_no_rule_protects_any() {
    let stage = stage().await;
    stage.registry.put(REPOSITORY, "v1", "old");
    stage.registry.put("free/app", "latest", "old");
    stage.registry.set(Mode::ListsNoTags);
    let (status, body) = stage.delete(&digest("old")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let said = json(&body)["errors"][0]["message"].as_str().expect("text").to_owned();
    assert!(said.contains("can't tell which tags of team/app") && said.contains("tagledgerd scan"), "{said}");
    assert!(stage.registry.changes().is_empty() && stage.log().await.is_empty());
    let free = stage.send("DELETE", &format!("/v2/free/app/manifests/{}", digest("old")), "").await;
    assert_eq!(free.status(), StatusCode::ACCEPTED);
    stage.registry.set(Mode::Works);
    assert_eq!(stage.delete(&digest("old")).await.0, StatusCode::CONFLICT);
    stage.world.check_ledger().await;
}

#[tokio::test]
async fn more_unknown_tags_than_can_be_looked_at_are_for_a_scan() {
    let stage = stage().await;
    for number in 0..10_001 {
        stage.registry.put(REPOSITORY, &format!("t{number}"), "old");
    }
    let (status, body) = stage.delete(&digest("old")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains("the ledger does not know 10001, more than 10000"), "{body}");
    assert!(!stage.registry.requests().iter().any(|line| line.starts_with("HEAD ")), "none was looked at");
    assert!(stage.registry.changes().is_empty());
}
