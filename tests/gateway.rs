//! The gateway before a registry, against a real ledger.
//!
//! Most tests use a registry of their own (`stage`), in memory: it keeps every request that reached it, and can stall, break
//! or lie on demand. `clients` has the real `docker-registry` with skopeo, buildah and podman as they come. Nothing may reach
//! a registry that changes a tag and is not recorded; in the end ledger and registry agree, and the log holds.

#![cfg(feature = "server")]

#[path = "principals/certificates.rs"]
mod certificates;
#[path = "cli/proxy.rs"]
mod proxy;
mod world;

#[path = "gateway/clients.rs"]
mod clients;
#[path = "gateway/crash.rs"]
mod crash;
#[path = "gateway/credentials.rs"]
mod credentials;
#[path = "gateway/forms.rs"]
mod forms;
#[path = "gateway/late.rs"]
mod late;
#[path = "gateway/lost.rs"]
mod lost;
#[path = "gateway/passing.rs"]
mod passing;
#[path = "gateway/rivals.rs"]
mod rivals;
#[path = "gateway/stage.rs"]
mod stage;
#[path = "gateway/strangers.rs"]
mod strangers;
#[path = "gateway/unknown.rs"]
mod unknown;
#[path = "gateway/unreachable.rs"]
mod unreachable;
#[path = "gateway/wire.rs"]
mod wire;

use reqwest::StatusCode;
use serde_json::Value;
use stage::{Mode, STRANGER, Stage, json};

#[tokio::test]
async fn a_push_is_intended_carried_out_and_recorded() {
    let stage = Stage::new().await;
    let (status, _) = stage.push("v1", "one").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(stage.log().await, ["v1 push INTENDED: NOTED", "v1 push HAPPENED: APPLIED"]);
    // The same again changes nothing, and passes.
    let (status, _) = stage.push("v1", "one").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(stage.log().await[2..], ["v1 push INTENDED: UNCHANGED"]);
    assert_eq!(stage.registry.changes().len(), 2);
    stage.agrees().await;
}

#[tokio::test]
async fn an_overwrite_of_an_immutable_tag_is_denied_in_words_and_never_reaches_the_registry() {
    let stage = Stage::new().await;
    stage.push("v1", "one").await;
    let bound_by = stage.entry("v1 push HAPPENED: APPLIED").await;
    let (status, body) = stage.push("v1", "two").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (one, two) = (stage::digest("one"), stage::digest("two"));
    let denied = stage.entry("v1 push INTENDED: DENIED").await;
    let error = &json(&body)["errors"][0];
    assert_eq!(error["code"], "DENIED");
    let words = format!("tag \"v1\" is immutable since entry {bound_by} bound it to {one} (ledger entry {denied})");
    assert_eq!(error["message"], words);
    assert_eq!(error["detail"]["attempted"], format!("push of {two}"));
    assert_eq!(error["detail"]["current"], one);
    assert_eq!(error["detail"]["entry"], denied);
    assert_eq!(stage.registry.changes(), ["PUT /v2/team/app/manifests/v1"]);
    // A tag that no rule covers moves.
    for content in ["one", "two"] {
        assert_eq!(stage.push("latest", content).await.0, StatusCode::CREATED);
    }
    stage.agrees().await;
}

#[tokio::test]
async fn a_denial_says_what_the_tag_is_now_whatever_the_words_speak_of() {
    let stage = Stage::new().await;
    let policy = "[[rule]]\nid = \"never-again\"\ntags = [\"v*\"]\nforbid = [\"recreate\"]\n\n\
                  [[rule]]\nid = \"tested-first\"\ntags = [\"prod*\"]\npromoted_from = [\"canary*\"]\n";
    stage.world.recorded(&world::set_policy(policy)).await;
    let denied = async |tag: &str, content: &str| {
        let (status, body) = stage.push(tag, content).await;
        assert_eq!(status, StatusCode::CONFLICT, "{body}");
        json(&body)["errors"][0].clone()
    };
    // What was deleted is not there, though the words name it.
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::CREATED);
    assert_eq!(stage.delete("v1").await.0, StatusCode::ACCEPTED);
    let error = denied("v1", "two").await;
    assert!(error["message"].as_str().expect("text").contains(&stage::digest("one")), "{error}");
    assert_eq!(error["detail"]["current"], serde_json::Value::Null, "{error}");
    // What may only be promoted to is bound, though the words don't name it.
    assert_eq!(stage.push("canary", "one").await.0, StatusCode::CREATED);
    assert_eq!(stage.push("prod", "one").await.0, StatusCode::CREATED);
    let error = denied("prod", "two").await;
    assert_eq!(error["detail"]["current"], stage::digest("one"), "{error}");
    stage.agrees().await;
}

#[tokio::test]
async fn deletes_are_asked_for_too_and_by_digest_for_every_tag_bound_to_it() {
    let stage = Stage::new().await;
    for tag in ["v1", "latest", "nightly"] {
        stage.push(tag, "one").await;
    }
    stage.push("free", "two").await;
    for reference in ["v1", &stage::digest("one")] {
        let (status, body) = stage.delete(reference).await;
        assert_eq!(status, StatusCode::CONFLICT, "{reference}");
        assert!(
            json(&body)["errors"][0]["message"].as_str().expect("text").contains("\"v1\" may not be deleted"),
            "{body}"
        );
    }
    assert_eq!(stage.delete("latest").await.0, StatusCode::ACCEPTED);
    assert_eq!(stage.delete(&stage::digest("two")).await.0, StatusCode::ACCEPTED);
    let said = stage.log().await;
    let last = &said[said.len() - 4..];
    let expected = [
        "latest delete INTENDED: NOTED",
        "latest delete HAPPENED: APPLIED",
        "free delete-digest INTENDED: NOTED",
        "free delete-digest HAPPENED: APPLIED",
    ];
    assert_eq!(last, expected);
    assert_eq!(stage.delete("never-there").await.0, StatusCode::NOT_FOUND);
    stage.agrees().await;
}

#[tokio::test]
async fn tags_given_as_parameters_are_changes_of_their_own_and_one_denial_is_one_for_all() {
    let stage = Stage::new().await;
    stage.push("v1", "one").await;
    let path = |tags: &str| format!("/v2/team/app/manifests/{}?{tags}", stage::digest("two"));
    let (status, body) = stage.put(&path("tag=a&tag=v1"), "two").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert_eq!(stage.registry.changes().len(), 1, "nothing of it was forwarded");
    let (status, _) = stage.put(&path("tag=v3&tag=b"), "two").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!((stage.bound("b").await, stage.bound("v3").await), (stage::digest("two"), stage::digest("two")));
    assert_eq!(stage.bound("a").await, "");
    assert_eq!(
        stage.registry.changes()[1..],
        [format!("PUT /v2/team/app/manifests/{}?tag=b&tag=v3", stage::digest("two"))]
    );
    // A registry that does not know the parameters binds nothing; the ledger finds out by a look.
    stage.registry.set(Mode::IgnoresTags);
    assert_eq!(stage.put(&path("tag=c&tag=v4"), "two").await.0, StatusCode::CREATED);
    stage.settled().await;
    assert_eq!((stage.bound("c").await, stage.bound("v4").await), (String::new(), String::new()));
    stage.agrees().await;
}

#[tokio::test]
async fn a_tag_that_the_registry_had_before_the_ledger_is_found_and_kept() {
    let stage = Stage::new().await;
    stage.registry.put("team/app", "v1", "old");
    stage.registry.put("team/app", "latest", "old");
    assert_eq!(stage.push("v1", "new").await.0, StatusCode::CONFLICT);
    assert_eq!(stage.push("latest", "new").await.0, StatusCode::CREATED, "free all the same");
    stage.registry.put("team/app", "v2", "old");
    assert_eq!(stage.delete("v2").await.0, StatusCode::CONFLICT);
    let said = stage.log().await;
    let expected = ["v1 push INTENDED: NOTED", "v1 observe: APPLIED", "v1 push INTENDED: DENIED"];
    assert_eq!(said[..3], expected);
    // The same digest as there already is no change.
    stage.registry.put("team/app", "v3", "new");
    assert_eq!(stage.push("v3", "new").await.0, StatusCode::CREATED);
    stage.agrees().await;
}

#[tokio::test]
async fn what_was_seen_before_a_change_is_void_if_the_tag_got_entries_meanwhile() {
    let stage = Stage::new().await;
    stage.registry.put("team/app", "v1", "old");
    stage.registry.set(Mode::TellsSlowly);
    let somebody = async {
        stage
            .until("it is looked at", async |stage| {
                stage.registry.requests().contains(&"HEAD /v2/team/app/manifests/v1".to_owned())
            })
            .await;
        let fact = world::push("v1", &stage::digest("fact"), tagledger::proto::Disposition::Happened);
        stage.world.recorded(&fact).await;
    };
    let ((status, body), ()) = tokio::join!(stage.push("v1", "new"), somebody);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let expected = ["v1 push INTENDED: NOTED", "v1 push HAPPENED: APPLIED", "v1 push REFUSED: FAILED"];
    assert_eq!(stage.log().await, expected, "what was seen is older than the fact");
    assert!(stage.registry.changes().is_empty());
    assert_eq!(stage.bound("v1").await, stage::digest("fact"));
    stage.world.check_ledger().await;
}

#[tokio::test]
async fn what_the_registry_refuses_is_failed_and_what_it_does_not_say_is_looked_at() {
    let stage = Stage::new().await;
    stage.push("latest", "one").await;
    for (mode, status, became) in [
        (Mode::Answers(403), 403, "latest push REFUSED: FAILED"),
        (Mode::DoesAndAnswers(408), 408, "latest observe: APPLIED"),
        (Mode::Answers(307), 307, "latest observe: UNCHANGED"),
        (Mode::Answers(500), 500, "latest observe: UNCHANGED"),
        (Mode::DoesAndAnswers(500), 500, "latest observe: APPLIED"),
        (Mode::Breaks, 502, "latest observe: UNCHANGED"),
        (Mode::DoesAndBreaks, 502, "latest observe: APPLIED"),
        (Mode::Stalls, 504, "latest observe: UNCHANGED"),
        (Mode::DoesAndStalls, 504, "latest observe: APPLIED"),
        (Mode::StoresAnother, 201, "latest observe: DRIFT"),
        (Mode::Garbage, 502, "latest observe: UNCHANGED"),
    ] {
        stage.registry.set(mode);
        let (answered, body) = stage.push("latest", &format!("{mode:?}")).await;
        assert_eq!(answered.as_u16(), status, "{mode:?}: {body}");
        if matches!(status, 502 | 504) {
            assert_eq!(json(&body)["errors"][0]["code"], "UNKNOWN", "{mode:?}: {body}");
        }
        stage.registry.set(Mode::Works);
        stage.settled().await;
        assert_eq!(stage.log().await.last().map(String::as_str), Some(became), "{mode:?}");
        stage.agrees().await;
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_and_nobody_is_judged() {
    let stage = Stage::new().await;
    stage.registry.stop().await;
    for tag in ["latest", "v1"] {
        let (status, body) = stage.push(tag, "one").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    }
    assert_eq!(stage.log().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_half_done() {
    let stage = Stage::new().await;
    stage.registry.set(Mode::DoesSlowly);
    tokio::select! {
        answer = stage.push("latest", "one") => panic!("still at it: {answer:?}"),
        () = stage.until("it is under way", async |stage| stage.registry.changes().len() == 1) => {}
    }
    stage
        .until("it is recorded", async |stage| {
            stage.log().await.last().is_some_and(|last| last == "latest push HAPPENED: APPLIED")
        })
        .await;
    stage.agrees().await;
}

#[tokio::test]
async fn a_gateway_that_is_asked_to_stop_finishes_what_it_began() {
    let stage = Stage::new().await;
    stage.registry.set(Mode::DoesSlowly);
    let other = stage.another_gateway().await;
    let url = format!("http://{}/v2/team/app/manifests/latest", other.address);
    let pushing = tokio::spawn(stage.client.put(url).body("one").send());
    stage.until("it is under way", async |stage| !stage.log().await.is_empty()).await;
    other.stop().await;
    assert_eq!(pushing.await.expect("ran").expect("answered").status(), StatusCode::CREATED);
    assert_eq!(stage.log().await, ["latest push INTENDED: NOTED", "latest push HAPPENED: APPLIED"]);
    stage.agrees().await;
}

#[tokio::test]
async fn two_gateways_that_race_for_one_tag_leave_ledger_and_registry_in_agreement() {
    let stage = Stage::new().await;
    let other = stage.another_gateway().await;
    let addresses = [stage.gateway.address, other.address];
    for tag in ["v1", "latest"] {
        let mut pushes = tokio::task::JoinSet::new();
        for number in 0..12usize {
            let (client, address) = (stage.client.clone(), addresses[number % 2]);
            pushes.spawn(async move {
                let url = format!("http://{address}/v2/team/app/manifests/{tag}");
                client.put(url).body(format!("content {number}")).send().await.expect("answered").status()
            });
        }
        let statuses = pushes.join_all().await;
        let created = statuses.iter().filter(|status| **status == StatusCode::CREATED).count();
        let denied = statuses.iter().filter(|status| **status == StatusCode::CONFLICT).count();
        assert_eq!(created + denied, 12, "{statuses:?}");
        assert_eq!(created, if tag == "v1" { 1 } else { 12 }, "of an immutable tag there is one");
        stage.agrees().await;
    }
    let said = stage.log().await;
    assert!(!said.iter().any(|line| line.contains("VIOLATION") || line.contains("DRIFT")), "{said:#?}");
}

#[tokio::test]
async fn an_intent_whose_gateway_is_gone_is_settled_by_another_after_the_bound() {
    let stage = Stage::with(|settings| {
        (settings.hold_bound_ms, settings.idle_timeout_ms, settings.hold_wait_ms) = (2_000, 500, 10_000);
        (settings.connect_timeout_ms, settings.ledger_timeout_ms) = (100, 500);
    })
    .await;
    stage.push("latest", "one").await;
    // Somebody intends, and is never heard of again; once it came about, once it did not.
    for (did, became) in [(true, "latest observe: APPLIED"), (false, "latest observe: UNCHANGED")] {
        let content = format!("lost {did}");
        stage.intend("latest", &content).await;
        if did {
            stage.registry.put("team/app", "latest", &content);
        }
        assert_eq!(stage.push("latest", "after").await.0, StatusCode::CREATED);
        let said = stage.log().await;
        let expected = [became, "latest push INTENDED: NOTED", "latest push HAPPENED: APPLIED"];
        assert_eq!(said[said.len() - 3..], expected);
        stage.agrees().await;
        stage.push("latest", "one").await;
    }
}

#[tokio::test]
async fn nothing_is_sent_under_a_hold_that_others_may_soon_take_for_given_up() {
    // Two looks of 400 ms each leave less than the registry and the ledger may need.
    let stage = Stage::with(|settings| {
        (settings.hold_bound_ms, settings.idle_timeout_ms) = (2_500, 900);
        (settings.connect_timeout_ms, settings.ledger_timeout_ms) = (100, 1_000);
    })
    .await;
    stage.until("it is ready", async |stage| stage.get("/readyz").await.0 == StatusCode::OK).await;
    stage.registry.set(Mode::TellsSlowly);
    let answer = stage.send("PUT", "/v2/team/app/manifests/v1", "one").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(stage.registry.changes().is_empty(), "nothing reached the registry");
    assert_eq!(stage.log().await, ["v1 push INTENDED: NOTED", "v1 push REFUSED: FAILED"]);
    stage.registry.set(Mode::Works);
    assert_eq!(stage.push("v1", "one").await.0, StatusCode::CREATED);
    stage.agrees().await;
}

#[tokio::test]
async fn who_may_not_see_a_tag_can_not_have_its_deletion_recorded() {
    let stage = Stage::with(|settings| {
        (settings.hold_bound_ms, settings.idle_timeout_ms, settings.hold_wait_ms) = (1_500, 500, 2_500);
        (settings.connect_timeout_ms, settings.ledger_timeout_ms) = (100, 500);
    })
    .await;
    stage.push("latest", "one").await;
    let url = stage.url("/v2/team/app/manifests/latest");
    let delete = || stage.client.delete(&url).header("authorization", STRANGER).send();
    assert_eq!(delete().await.expect("answered").status(), StatusCode::NOT_FOUND);
    stage.settled().await;
    assert_eq!(stage.log().await[2..], ["latest delete INTENDED: NOTED", "latest delete REFUSED: FAILED"]);
    stage.agrees().await;
    // Nor by settling what somebody else left.
    stage.intend("latest", "lost").await;
    assert_eq!(delete().await.expect("answered").status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!stage.log().await.iter().any(|line| line.contains("observe")), "{:#?}", stage.log().await);
    stage.agrees().await;
    // Who may see it can.
    assert_eq!(stage.push("latest", "two").await.0, StatusCode::CREATED);
    stage.agrees().await;
}

#[tokio::test]
async fn what_changes_nothing_races_nobody() {
    let stage = Stage::new().await;
    let other = stage.another_gateway().await;
    // A delete of what is not there ends here: under way, it could take what somebody else pushes meanwhile.
    let (status, body) = stage.delete("latest").await;
    assert_eq!((status, json(&body)["errors"][0]["code"].as_str()), (StatusCode::NOT_FOUND, Some("MANIFEST_UNKNOWN")));
    assert!(stage.registry.changes().is_empty());
    // What the registry has and the ledger does not know is deleted all the same.
    stage.registry.put("team/app", "latest", "unknown");
    assert_eq!(stage.delete("latest").await.0, StatusCode::ACCEPTED);
    stage.agrees().await;
    // The same push again, slowly, while another gateway moves the tag.
    stage.push("latest", "one").await;
    stage.registry.set(Mode::DoesSlowly);
    let url = format!("http://{}/v2/team/app/manifests/latest", other.address);
    let move_it = async {
        stage.until("the slow one is there", async |stage| stage.registry.changes().len() == 3).await;
        stage.registry.set(Mode::Works);
        stage.client.put(&url).body("two").send().await.expect("answered").status()
    };
    let (again, moved) = tokio::join!(stage.push("latest", "one"), move_it);
    assert_eq!((again.0, moved), (StatusCode::CREATED, StatusCode::CREATED));
    stage.settled().await;
    assert_eq!(stage.registry.digest_of("team/app", "latest"), Some(stage::digest("one")), "the slow one came last");
    stage.agrees().await;
}

#[tokio::test]
async fn a_tag_that_somebody_holds_is_answered_with_later() {
    let stage = Stage::with(|settings| settings.hold_wait_ms = 200).await;
    let holder = stage.intend("latest", "theirs").await;
    let answer = stage.send("PUT", "/v2/team/app/manifests/latest", "mine").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    let body: Value = json(&answer.text().await.expect("text"));
    assert!(body["errors"][0]["message"].as_str().expect("text").contains(&format!("entry {holder}")), "{body}");
    assert!(stage.registry.changes().is_empty());
}

#[tokio::test]
async fn however_many_wait_for_a_tag_each_waits_only_for_so_long() {
    let stage = Stage::with(|settings| settings.hold_wait_ms = 1_000).await;
    stage.intend("latest", "theirs").await;
    let begun = std::time::Instant::now();
    let waiting = (0..5).map(async |_| {
        let answer = stage.send("PUT", "/v2/team/app/manifests/latest", "mine").await;
        (answer.status(), answer.headers().contains_key("retry-after"))
    });
    let answers = futures_util::future::join_all(waiting).await;
    assert_eq!(answers, [(StatusCode::SERVICE_UNAVAILABLE, true); 5]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}: not one after the other", begun.elapsed());
    assert!(stage.registry.changes().is_empty());
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_turn_changes_nothing_afterwards() {
    let stage = Stage::new().await;
    let holder = stage.intend("latest", "theirs").await;
    let give_up = async {
        stage.until("the first waits", async |stage| stage.open().await == 1).await;
        let second = stage.client.put(stage.url("/v2/team/app/manifests/latest")).body("second");
        let given_up = second.timeout(std::time::Duration::from_millis(500)).send().await;
        assert!(given_up.is_err_and(|error| error.is_timeout()), "it waits for its turn");
        stage.refuse("latest", "theirs", holder).await;
    };
    let (first, ()) = tokio::join!(stage.push("latest", "first"), give_up);
    assert_eq!(first.0, StatusCode::CREATED);
    // It comes after everybody who waited.
    assert_eq!(stage.push("latest", "third").await.0, StatusCode::CREATED);
    assert_eq!(stage.registry.changes().len(), 2, "{:#?}", stage.log().await);
    stage.agrees().await;
}

#[tokio::test]
async fn it_tells_whether_it_is_well_and_counts_what_it_did() {
    let stage = Stage::new().await;
    stage.until("it is ready", async |stage| stage.get("/readyz").await.0 == StatusCode::OK).await;
    assert_eq!(stage.get("/healthz").await, (StatusCode::OK, "alive\n".to_owned()));
    stage.push("v1", "one").await;
    stage.push("v1", "two").await;
    stage.get("/v2/team/app/manifests/v1:2").await;
    let (_, figures) = stage.get("/metrics").await;
    for line in [
        "tagledger_gateway_changes_total{became=\"passed\"} 1",
        "tagledger_gateway_changes_total{became=\"denied\"} 1",
        "tagledger_gateway_requests_total{kind=\"refused\"} 1",
        "tagledger_gateway_settled_total{by=\"known\"} 1",
        "tagledger_gateway_open 0",
    ] {
        assert!(figures.contains(line), "{line} is not in\n{figures}");
    }
}
