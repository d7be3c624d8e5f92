//! What is not a change of a tag passes as it is: blobs, uploads, ranges, redirects, credentials, tokens.

use reqwest::StatusCode;

use crate::stage::{Stage, Zeros, digest};

#[tokio::test]
async fn uploads_pass_with_their_locations_rewritten_and_their_state_intact() {
    let stage = Stage::new().await;
    let begun = stage.send("POST", "/v2/team/app/blobs/uploads/", "").await;
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    assert_eq!(begun.headers()["location"], "/v2/team/app/blobs/uploads/u1?_state=a%2Bb");
    let patched = stage.send("PATCH", "/v2/team/app/blobs/uploads/u1?_state=a%2Bb", "some bytes").await;
    assert_eq!(patched.headers()["location"], "/v2/team/app/blobs/uploads/u1?_state=c");
    let put = format!("/v2/team/app/blobs/uploads/u1?_state=c&digest={}", digest("some bytes"));
    assert_eq!(stage.send("PUT", &put, "").await.status(), StatusCode::CREATED);
    let mount = format!("/v2/team/app/blobs/uploads/?mount={}&from=other/app", digest("x"));
    assert_eq!(stage.send("POST", &mount, "").await.status(), StatusCode::CREATED);
    let expected = [
        "POST /v2/team/app/blobs/uploads/".to_owned(),
        "PATCH /v2/team/app/blobs/uploads/u1?_state=a%2Bb".to_owned(),
        format!("PUT {put}"),
        format!("POST {mount}"),
    ];
    assert_eq!(stage.registry.changes(), expected);
    assert_eq!(stage.registry.received(), 10);
    assert_eq!(stage.log().await, Vec::<String>::new(), "no tag, no entry");
}

#[tokio::test]
async fn ranges_redirects_and_challenges_pass_untouched() {
    let stage = Stage::new().await;
    let blob = |content: &str| format!("/v2/team/app/blobs/{}", digest(content));
    let part = stage.client.get(stage.url(&blob("x"))).header("range", "bytes=2-4").send().await.expect("answered");
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 2-4/10");
    assert_eq!(part.text().await.expect("text"), "cde");
    let away = stage.send("GET", &blob("elsewhere"), "").await;
    assert_eq!(away.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(away.headers()["location"], "https://blobs.example/signed?sig=a%2Bb");
    let refused = stage.send("GET", &blob("private"), "").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(refused.headers()["www-authenticate"].to_str().expect("text").contains("https://auth.example/token"));
    let request = stage.client.get(stage.url(&blob("private"))).header("authorization", "Bearer abc");
    assert_eq!(request.send().await.expect("answered").status(), StatusCode::OK);
    let headers = stage.registry.headers_of(&format!("GET {}", blob("private")));
    assert_eq!(headers["authorization"], "Bearer abc");
    assert_eq!(headers["host"], stage.gateway.address.to_string(), "the registry names the gateway in what it answers");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    // A HEAD keeps its length.
    stage.push("latest", "twelve bytes").await;
    let head = stage.client.head(stage.url("/v2/team/app/manifests/latest")).send().await.expect("answered");
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], "12");
    assert_eq!(head.headers()["docker-content-digest"], digest("twelve bytes"));
    assert_eq!(stage.get("/v2/").await.0, StatusCode::OK);
    assert_eq!(stage.get("/v2/_catalog?n=5").await.0, StatusCode::OK);
    assert_eq!(stage.get("/v2/team/app/tags/list?last=a").await.0, StatusCode::OK);
    assert_eq!(stage.get(&format!("/v2/team/app/referrers/{}?artifactType=x", digest("x"))).await.0, StatusCode::OK);
}

#[tokio::test]
async fn paths_where_tokens_are_had_pass_if_they_are_named_and_the_registry_may_have_its_own_host() {
    let stage = Stage::with(|settings| {
        settings.pass = vec!["/service/token".into()];
        settings.host = tagledger::server::gateway::Host::Upstream;
    })
    .await;
    assert_eq!(stage.get("/service/token?service=r&scope=a%3Ab").await.0, StatusCode::OK);
    assert_eq!(stage.get("/service/other").await.0, StatusCode::NOT_FOUND);
    let headers = stage.registry.headers_of("GET /service/token?service=r&scope=a%3Ab");
    assert_eq!(headers["host"], stage.registry.address.to_string());
    assert_eq!(headers["x-forwarded-host"], stage.gateway.address.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_stream_both_ways_through_a_process_that_stays_small() {
    const LENGTH: u64 = 1 << 30;
    let stage = Stage::new().await;
    let gateway = crate::crash::Process::start(&stage, "streaming");
    // Once, so that what is only loaded is not counted.
    let path = format!("/v2/team/app/blobs/{}", digest("huge"));
    let url = |query: &str| format!("http://{}{path}?{query}", gateway.address);
    stage.client.get(url("length=1")).send().await.expect("answered").bytes().await.expect("read");
    let before = gateway.peak_memory();
    let mut down = stage.client.get(url(&format!("length={LENGTH}"))).send().await.expect("answered");
    let mut length = 0;
    while let Some(chunk) = down.chunk().await.expect("a chunk") {
        length += chunk.len() as u64;
    }
    assert_eq!(length, LENGTH);
    let upload = format!("http://{}/v2/team/app/blobs/uploads/u1?digest={}", gateway.address, digest("huge"));
    let body = reqwest::Body::wrap(Zeros { left: LENGTH });
    assert_eq!(stage.client.put(upload).body(body).send().await.expect("answered").status(), StatusCode::CREATED);
    assert_eq!(stage.registry.received(), LENGTH);
    let after = gateway.peak_memory();
    println!("peak memory: {before} kB before, {after} kB after 1 GiB down and 1 GiB up");
    // What was freed the allocator keeps for a moment, on each thread.
    assert!(after < before + 192 * 1024, "{before} kB before, {after} kB after");
}
