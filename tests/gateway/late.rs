//! What a registry carries out long after it left it unanswered: until then nobody else gets the tag.

use reqwest::StatusCode;

use crate::stage::{Mode, Stage, digest};

/// Until then what is late may come.
const BOUND_MS: u64 = 6_000;
/// Longer than a test takes.
const NEVER_MS: u64 = 300_000;

/// Gives up long before the registry does it, and holds the tag until the bound.
async fn stage(bound_ms: u64) -> Stage {
    Stage::with(|settings| {
        (settings.idle_timeout_ms, settings.hold_wait_ms, settings.late_bound_ms) = (300, 200, bound_ms);
    })
    .await
}

#[tokio::test]
async fn a_push_that_comes_late_keeps_its_tag_until_it_came() {
    let stage = stage(NEVER_MS).await;
    stage.registry.set(Mode::DoesLate);
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::GATEWAY_TIMEOUT);
    stage.registry.set(Mode::Works);
    // Two looks that saw nothing would be through by now.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let other = stage.another_gateway().await;
    for gateway in [stage.gateway.address, other.address] {
        let url = format!("http://{gateway}/v2/team/app/manifests/v1");
        let answer = stage.client.put(url).body("two").send().await.expect("answered");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "the first may come yet");
        assert!(answer.headers().contains_key("retry-after"));
    }
    stage.registry.do_what_is_late();
    stage.until("it came", async |stage| stage.bound("v1").await == digest("one")).await;
    let (status, body) = stage.push("v1", "two").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert_eq!(stage.registry.digest_of("team/app", "v1"), Some(digest("one")));
    stage.settled().await;
    stage.agrees().await;
}

#[tokio::test]
async fn a_delete_that_comes_late_takes_nothing_that_was_pushed_since() {
    for reference in ["latest".to_owned(), digest("one")] {
        let stage = stage(NEVER_MS).await;
        stage.push("latest", "one").await;
        stage.registry.set(Mode::DoesLate);
        assert_eq!(stage.delete(&reference).await.0, StatusCode::GATEWAY_TIMEOUT);
        stage.registry.set(Mode::Works);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(stage.push("latest", "two").await.0, StatusCode::SERVICE_UNAVAILABLE, "{reference}");
        stage.registry.do_what_is_late();
        stage.until("it is gone", async |stage| stage.bound("latest").await.is_empty()).await;
        assert_eq!(stage.push("latest", "two").await.0, StatusCode::CREATED);
        stage.settled().await;
        stage.agrees().await;
    }
}

#[tokio::test]
async fn what_did_not_come_until_the_bound_is_settled_as_that() {
    let stage = stage(BOUND_MS).await;
    for mode in [Mode::Stalls, Mode::Breaks, Mode::Answers(504)] {
        stage.registry.set(mode);
        let begun = tokio::time::Instant::now();
        assert!(stage.push("v1", "one").await.0.is_server_error());
        stage.registry.set(Mode::Works);
        stage.settled().await;
        assert!(begun.elapsed() >= std::time::Duration::from_millis(BOUND_MS), "{mode:?}: {:?}", begun.elapsed());
        assert_eq!(stage.log().await.last().map(String::as_str), Some("v1 observe: UNCHANGED"), "{mode:?}");
    }
    // The registry itself says that it is over.
    stage.registry.set(Mode::Answers(500));
    let begun = tokio::time::Instant::now();
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    stage.registry.set(Mode::Works);
    stage.settled().await;
    assert!(begun.elapsed() < std::time::Duration::from_millis(BOUND_MS), "{:?}", begun.elapsed());
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::CREATED);
    stage.agrees().await;
}

#[tokio::test]
async fn an_intent_whose_gateway_is_gone_is_settled_when_it_came_or_can_not_come_any_more() {
    let stage = Stage::with(|settings| {
        (settings.hold_bound_ms, settings.idle_timeout_ms, settings.hold_wait_ms) = (1_200, 500, 200);
        (settings.connect_timeout_ms, settings.ledger_timeout_ms, settings.late_bound_ms) = (100, 500, 3_000);
    })
    .await;
    for (tag, comes) in [("v1", true), ("v2", false)] {
        let intended = tokio::time::Instant::now();
        stage.intend(tag, "lost").await;
        tokio::time::sleep(std::time::Duration::from_millis(1_400)).await;
        assert_eq!(stage.push(tag, "after").await.0, StatusCode::SERVICE_UNAVAILABLE, "it may come yet");
        if comes {
            stage.registry.put("team/app", tag, "lost");
            stage.until("it came", async |stage| stage.push(tag, "after").await.0 == StatusCode::CONFLICT).await;
        } else {
            stage.until("it does not", async |stage| stage.push(tag, "after").await.0 == StatusCode::CREATED).await;
            assert!(intended.elapsed() >= std::time::Duration::from_millis(4_200), "{:?}", intended.elapsed());
        }
        stage.agrees().await;
    }
}
