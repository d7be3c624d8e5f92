//! Requests in shapes that could get past a check: nothing that changes a tag reaches the registry unrecorded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Bytes;
use reqwest::StatusCode;

use crate::stage::{Stage, digest, json};

/// Sends bytes as they are, and returns whatever comes back until the connection ends or falls silent.
fn raw(stage: &Stage, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(stage.gateway.address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("set");
    stream.write_all(bytes).expect("sent");
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..length]);
        // There is always an answer; what follows it, if anything does, comes at once.
        stream.set_read_timeout(Some(Duration::from_millis(700))).expect("set");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Each of these has one answer, and after it the registry has seen no change but those that the log has. Where the answer is not a
/// refusal (202, 200), what could pass for a second request was none.
#[tokio::test(flavor = "multi_thread")]
async fn odd_shapes_never_get_past_the_check() {
    let stage = Stage::new().await;
    stage.push("v1", "one").await;
    let put = |target: &str| {
        format!("PUT {target} HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nConnection: close\r\n\r\ntwo").into_bytes()
    };
    let by_digest = format!("/v2/team/app/manifests/{}", digest("two"));
    let mut shapes: Vec<(String, Vec<u8>, &str)> = [
        ("/v2/team/app/manifests/v%31", "400 NAME_INVALID"),
        ("/v2/team/app/m%61nifests/v1", "400 NAME_INVALID"),
        ("/v2/team%2Fapp/manifests/v1", "400 NAME_INVALID"),
        ("/v2/team/app%2fmanifests%2fv1", "400 NAME_INVALID"),
        ("/v2/team/%2e%2e/team/app/manifests/v1", "400 NAME_INVALID"),
        ("/v2/team/x/../app/manifests/v1", "400 NAME_INVALID"),
        ("/v2/./team/app/manifests/v1", "400 NAME_INVALID"),
        ("/v2//team/app/manifests/v1", "400 NAME_INVALID"),
        ("//v2/team/app/manifests/v1", "404 UNSUPPORTED"),
        ("/v2/team/app/manifests/v1/", "404 UNSUPPORTED"),
        ("/v2/team/app/manifests//v1", "404 UNSUPPORTED"),
        ("/v2/team/app/MANIFESTS/v1", "404 UNSUPPORTED"),
        ("/v2/Team/app/manifests/v1", "400 NAME_INVALID"),
        ("/V2/team/app/manifests/v1", "404 UNSUPPORTED"),
        ("/v2/team/app/manifests/v1:2", "400 DIGEST_INVALID"),
        ("/v2/team/app/manifests/v1%00", "400 NAME_INVALID"),
        ("/v2/team/app/manifests/v1?tag=v1%20", "400 TAG_INVALID"),
        ("/v2/team/app/manifests/v1?TAG=v1", "400 UNSUPPORTED"),
        ("/v2/team/app/manifests/v1?x=1", "400 UNSUPPORTED"),
        ("/v2/_catalog", "405 UNSUPPORTED"),
        ("/v2/_catalog/manifests/v1", "400 NAME_INVALID"),
        ("/v2/team/app/manifests/b/blobs/uploads/v1", "403 DENIED"),
        ("/v2/team/app/blobs/uploads/../../manifests/v1", "400 NAME_INVALID"),
        ("/v2/team/app/blobs/uploads/%2e%2e%2f%2e%2e%2fmanifests%2fv1", "400 NAME_INVALID"),
        ("http://g/v2/team/app/manifests/v1", "400 UNSUPPORTED"),
        ("g:80", "400 UNSUPPORTED"),
        ("*", "404 UNSUPPORTED"),
        ("/v2/team/app/manifests/v1#x", "409 DENIED"),
        ("\\v2\\team\\app\\manifests\\v1", "400"),
        ("/v2/team/app/manifests/v1;jsessionid=1", "400 TAG_INVALID"),
    ]
    .map(|(target, expected)| (target.to_owned(), put(target), expected))
    .into();
    for method in ["POST", "PATCH", "put", "Put", "PUTT", "OPTIONS", "TRACE", "CONNECT", "MOVE", "PROPFIND", "PURGE"] {
        let head = format!(
            "{method} /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nConnection: close\r\n\r\ntwo"
        );
        shapes.push((method.to_owned(), head.into_bytes(), "405 UNSUPPORTED"));
    }
    let smuggled = "PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\ntwo";
    for (name, expected, head, body) in [
        ("two lengths", "400", "Content-Length: 3\r\nContent-Length: 4\r\n", "two"),
        ("a list of lengths", "400", "Content-Length: 3, 4\r\n", "two"),
        ("a length with a sign", "400", "Content-Length: +3\r\n", "two"),
        ("a negative length", "400", "Content-Length: -3\r\n", "two"),
        ("a length in hexadecimal", "400", "Content-Length: 0x3\r\n", "two"),
        ("a folded header", "400", "X-A: b\r\n c\r\nContent-Length: 3\r\n", "two"),
        ("a folded length", "400", "Content-Length:\r\n 3\r\n", "two"),
        ("a space before the colon", "400", "Content-Length : 3\r\n", "two"),
        ("an encoding nobody knows", "400", "Transfer-Encoding: xchunked\r\n", "3\r\ntwo\r\n0\r\n\r\n"),
        ("an encoding that is not last", "400", "Transfer-Encoding: chunked, gzip\r\n", "3\r\ntwo\r\n0\r\n\r\n"),
        (
            "an encoding with a tab",
            "409 DENIED",
            "Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n",
            "3\r\ntwo\r\n0\r\n\r\n",
        ),
        ("a chunk that is none", "400 MANIFEST_INVALID", "Transfer-Encoding: chunked\r\n", "zz\r\ntwo\r\n0\r\n\r\n"),
        ("two hosts", "400 UNSUPPORTED", "Host: other\r\nContent-Length: 3\r\n", "two"),
        ("a NUL in a header", "400", "X-A: \0\r\nContent-Length: 3\r\n", "two"),
        ("another method in a header", "409 DENIED", "X-HTTP-Method-Override: DELETE\r\nContent-Length: 3\r\n", "two"),
    ] {
        let request = format!("PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\n{head}\r\n{body}");
        shapes.push((name.to_owned(), request.into_bytes(), expected));
    }
    // Both a length and an encoding; whoever takes the one sees a second request in what the other counts as the body.
    for (name, head) in [
        ("length and encoding", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        ("encoding and length", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
    ] {
        let request = format!("POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nHost: g\r\n{head}\r\n0\r\n\r\n{smuggled}");
        shapes.push((name.to_owned(), request.into_bytes(), "202"));
    }
    let hidden = format!("GET /v2/ HTTP/1.1\r\nHost: g\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    shapes.push(("a request in the body of a GET".to_owned(), hidden.into_bytes(), "200"));
    shapes.push(("HTTP/0.9".to_owned(), b"PUT /v2/team/app/manifests/v1\r\n\r\n".to_vec(), "400"));
    shapes.push((
        "HTTP/1.0 with an encoding".to_owned(),
        b"PUT /v2/team/app/manifests/v1 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n".to_vec(),
        "400",
    ));
    shapes.push((
        "a bare line feed".to_owned(),
        b"PUT /v2/team/app/manifests/v1 HTTP/1.1\nHost: g\nContent-Length: 3\n\ntwo".to_vec(),
        "409 DENIED",
    ));
    shapes.push((
        "another digest than the body's".to_owned(),
        put(&by_digest.replace("sha256:", "sha256:0").replace(&digest("two")[70..], "")),
        "400 DIGEST_INVALID",
    ));
    shapes.push((
        "the digest of something else".to_owned(),
        put(&format!("/v2/team/app/manifests/{}", digest("else"))),
        "400 DIGEST_INVALID",
    ));
    shapes.push(("a short digest".to_owned(), put("/v2/team/app/manifests/sha256:abc"), "400 DIGEST_INVALID"));
    shapes.push(("tags by parameter".to_owned(), put(&format!("{by_digest}?tag=v1")), "409 DENIED"));
    shapes.push((
        "a delete with parameters".to_owned(),
        b"DELETE /v2/team/app/manifests/other?tag=v1 HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n".to_vec(),
        "400 UNSUPPORTED",
    ));

    for (name, bytes, expected) in shapes {
        let answer = raw(&stage, &bytes);
        // Every status that came back, and the code of the gateway's own words; without one it is the HTTP library that refuses.
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect();
        let code = answer.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let answered: Vec<&str> = statuses.into_iter().chain(code).collect();
        assert_eq!(answered.join(" "), expected, "{name}: {answer}");
        let writes: Vec<String> =
            stage.registry.changes().into_iter().filter(|line| line.contains("manifests")).collect();
        assert_eq!(writes, ["PUT /v2/team/app/manifests/v1"], "{name}: {answer}");
        assert_eq!(stage.registry.digest_of("team/app", "v1"), Some(digest("one")), "{name}");
    }
    let reached = stage.registry.requests();
    assert!(
        reached.iter().all(|line| !line.contains('%') && !line.contains("//") && !line.contains("..")),
        "{reached:#?}"
    );
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_manifest_and_expect_continue_and_keep_alive_work() {
    let stage = Stage::new().await;
    let request = "PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n2\r\nne\r\n0\r\n\r\n\
                   PUT /v2/team/app/manifests/v2 HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\none\
                   GET /v2/ HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n";
    let answer = raw(&stage, request.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 201 Created").count(), 2, "{answer}");
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(stage.bound("v1").await, digest("one"));
    assert_eq!(stage.bound("v2").await, digest("one"));
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_too_large_too_slow_or_cut_short_leaves_no_trace() {
    let stage = Stage::with(|settings| (settings.manifest_limit, settings.idle_timeout_ms) = (1000, 300)).await;
    assert_eq!(stage.push("v1", &"x".repeat(1000)).await.0, StatusCode::CREATED);
    let (status, body) = stage.push("v2", &"x".repeat(1001)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json(&body)["errors"][0]["code"], "SIZE_INVALID");
    let chunked = format!(
        "PUT /v2/team/app/manifests/v2 HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1024)
    );
    assert!(raw(&stage, chunked.as_bytes()).starts_with("HTTP/1.1 413"));
    let slow = raw(&stage, b"PUT /v2/team/app/manifests/v2 HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nsome");
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    {
        let mut stream = TcpStream::connect(stage.gateway.address).expect("connected");
        stream
            .write_all(b"PUT /v2/team/app/manifests/v2 HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nsome")
            .expect("sent");
    }
    assert_eq!(stage.push("v2", "").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(stage.log().await, ["v1 push INTENDED: NOTED", "v1 push HAPPENED: APPLIED"]);
    assert_eq!(stage.registry.changes().len(), 1);
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_four_mebibytes_passes_and_one_byte_more_is_told_so_unless_more_is_allowed() {
    const LIMIT: usize = tagledger::edge::registry::MAX_MANIFEST_LENGTH;
    assert_eq!(LIMIT, 4 * 1024 * 1024, "distribution-spec, \"Pushing Manifests\"");
    let (most, more) = ("x".repeat(LIMIT), "x".repeat(LIMIT + 1));
    let stage = Stage::new().await;
    assert_eq!(stage.push("v1", &most).await.0, StatusCode::CREATED);
    let whole = stage.send("PUT", "/v2/team/app/manifests/v2", &more).await;
    // Without a length before it.
    let frame =
        |piece: &[u8]| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::copy_from_slice(piece)));
    let pieces: Vec<_> = more.as_bytes().chunks(1 << 16).map(frame).collect();
    let pieces = reqwest::Body::wrap(http_body_util::StreamBody::new(futures_util::stream::iter(pieces)));
    let chunked = stage.client.put(stage.url("/v2/team/app/manifests/v2")).body(pieces).send().await.expect("answered");
    for answer in [whole, chunked] {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let error = json(&answer.text().await.expect("text"))["errors"][0].clone();
        assert_eq!(error["code"], "SIZE_INVALID");
        assert_eq!(error["message"], "a manifest may have at most 4194304 bytes");
    }
    assert_eq!(stage.log().await, ["v1 push INTENDED: NOTED", "v1 push HAPPENED: APPLIED"]);
    stage.agrees().await;
    let stage = Stage::with(|settings| settings.manifest_limit = LIMIT + 1).await;
    assert_eq!(stage.push("v1", &more).await.0, StatusCode::CREATED);
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_slow_to_come_take_no_more_memory_than_an_address_has() {
    // A quarter of it.
    let stage = Stage::with(|settings| (settings.manifest_limit, settings.manifest_memory) = (1000, 6000)).await;
    let begun =
        format!("PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(900));
    let slow = Mutex::new(Vec::new());
    stage
        .until("there is no room", async |stage| {
            // Another one each time: the one that comes while `latest` is in hand is itself refused.
            let mut connection = TcpStream::connect(stage.gateway.address).expect("connected");
            connection.write_all(begun.as_bytes()).expect("sent");
            slow.lock().expect("not poisoned").push(connection);
            let answer = stage.send("PUT", "/v2/team/app/manifests/latest", &"y".repeat(700)).await;
            answer.status() == StatusCode::SERVICE_UNAVAILABLE && answer.headers().contains_key("retry-after")
        })
        .await;
    drop(slow);
    stage
        .until("there is room again", async |stage| {
            stage.push("latest", &"y".repeat(700)).await.0 == StatusCode::CREATED
        })
        .await;
    stage.agrees().await;
}

#[tokio::test]
async fn one_address_attempts_only_so_many_changes() {
    let stage = Stage::with(|settings| settings.changes_per_second = 1).await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(stage.delete("never-there").await.0);
    }
    // Ten seconds' worth at once.
    assert_eq!(statuses[..10], [StatusCode::NOT_FOUND; 10]);
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    stage
        .until("it is told when to come again", async |stage| {
            let answer = stage.send("DELETE", "/v2/team/app/manifests/never-there", "").await;
            let is_too_many = answer.status() == StatusCode::TOO_MANY_REQUESTS;
            assert!(!is_too_many || answer.headers()["retry-after"] == "1", "one a second");
            is_too_many
        })
        .await;
    assert!(stage.log().await.len() < 40, "what is not admitted leaves no entry");
}
