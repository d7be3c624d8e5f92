//! Answers of the ledger that are lost on their way: what it may have recorded is settled, so that no tag stays held.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use reqwest::StatusCode;
use tagledger::proto::{self, Disposition};

use crate::proxy::{Answer, Proxy};
use crate::stage::{RULE, Stage, digest};
use crate::world::{self, World};

/// Does something with a gateway that reaches its ledger through a proxy, once the ledger, the gateway's folder and the proxy are
/// prepared.
fn through_a_proxy(
    prepare: impl AsyncFnOnce(&World, &Path),
    lie: impl FnOnce(&Proxy),
    act: impl AsyncFnOnce(&Stage, &Proxy),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let world = runtime.block_on(async {
        let world = World::with_rules(&[RULE]).await;
        prepare(&world, folder.path()).await;
        world
    });
    // It has a runtime of its own, which must neither be built nor dropped within another.
    let proxy = Proxy::before(&world.address.to_string());
    lie(&proxy);
    let ledger = format!("http://127.0.0.1:{}", proxy.port);
    runtime.block_on(async {
        let stage = Stage::before(world, &ledger, |settings| {
            settings.hold_wait_ms = 200;
            settings.journal = folder.path().join("journal");
        })
        .await;
        act(&stage, &proxy).await;
    });
}

/// The journal of a gateway that refused as many changes as there is room for.
fn fill(folder: &Path, tag: impl Fn(usize) -> String) {
    let line = |number: usize| {
        let event_id = format!("gateway/{number}/intent");
        let intent = world::push(&tag(number), &digest("old"), Disposition::Intended);
        let statement = proto::Statement { event_id, ..intent }.encode_to_vec();
        format!("open {number} {}\nrefused {number}\n", BASE64.encode(statement))
    };
    let lines: String = (0..1000).map(line).collect();
    std::fs::write(folder.join("journal"), lines).expect("written");
}

#[test]
fn whatever_is_heard_of_an_intent_that_was_recorded_its_tag_does_not_stay_held() {
    through_a_proxy(
        async |_, _| {},
        |_| {},
        async |stage, proxy| {
            stage.until("it is ready", async |stage| stage.get("/readyz").await.0 == StatusCode::OK).await;
            let busy = tonic::Status::resource_exhausted("x");
            let lies: [(&str, &dyn Fn()); 4] = [
                ("v1", &|| proxy.lose("Append", tonic::Status::unavailable("x"))),
                ("v2", &|| proxy.edit("Append", |response| *response = proto::AppendResponse::default())),
                // What it takes to check the receipt is refused.
                ("v3", &|| {
                    let busy = busy.clone();
                    proxy.lie("GetConsistencyProof", move || Answer::status(&busy));
                }),
                ("v4", &|| {
                    let nobody = tonic::Status::unauthenticated("x");
                    proxy.lie("GetConsistencyProof", move || Answer::status(&nobody));
                }),
            ];
            for (tag, lie) in lies {
                lie();
                assert_eq!(stage.push(tag, "one").await.0, StatusCode::SERVICE_UNAVAILABLE, "{tag}");
                assert_eq!(stage.log().await.last(), Some(&format!("{tag} push INTENDED: NOTED")));
                proxy.forward();
                stage.settled().await;
                assert_eq!(stage.log().await.last(), Some(&format!("{tag} push REFUSED: FAILED")));
                assert_eq!(stage.push(tag, "two").await.0, StatusCode::CREATED, "{tag}");
            }
            assert_eq!(stage.registry.changes().len(), 4, "the second of each alone");
            // What the ledger refuses it has not: nothing is left to settle, and nothing recorded.
            proxy.lie("Append", move || Answer::status(&busy));
            assert_eq!(stage.push("v6", "one").await.0, StatusCode::SERVICE_UNAVAILABLE);
            stage.settled().await;
            stage.agrees().await;
        },
    );
}

#[test]
fn where_there_is_no_room_for_a_refused_change_the_ledger_is_not_asked() {
    through_a_proxy(
        async |_, folder| fill(folder, |number| format!("v{number}")),
        |proxy| proxy.lose("Append", tonic::Status::unavailable("x")),
        async |stage, proxy| {
            let (status, body) = stage.push("v-new", "one").await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(body.contains("too many changes that were refused wait"), "{body}");
            assert!(stage.get("/metrics").await.1.contains("tagledger_gateway_forgotten_total 1\n"));
            proxy.forward();
            // Nor would it pass if the tag were held.
            stage.until("there is room", async |stage| stage.push("v-new", "one").await.0 == StatusCode::CREATED).await;
            assert_eq!(
                stage.log().await.iter().filter(|line| line.starts_with("v-new")).collect::<Vec<_>>(),
                ["v-new push INTENDED: NOTED", "v-new push HAPPENED: APPLIED"]
            );
            stage.world.check_ledger().await;
        },
    );
}

#[test]
fn refused_changes_of_a_tag_that_somebody_holds_keep_nobody_from_another() {
    through_a_proxy(
        async |world, folder| {
            world.recorded(&world::push("v1", &digest("theirs"), Disposition::Intended)).await;
            fill(folder, |_| "v1".to_owned());
        },
        |_| {},
        async |stage, _| {
            stage.until("there is room", async |stage| stage.push("v2", "one").await.0 == StatusCode::CREATED).await;
            let (_, figures) = stage.get("/metrics").await;
            // Eight are settled side by side.
            let open = |number| figures.contains(&format!("tagledger_gateway_open {number}\n"));
            assert!((992..1000).any(open), "no more than it takes is forgotten: {figures}");
            assert_eq!(stage.log().await[0], "v1 push INTENDED: NOTED");
            stage.world.check_ledger().await;
        },
    );
}
