//! The webhook over a real socket: what registries send, what goes wrong on the way, and what the registry says afterwards.
//!
//! The ledger behind the port is a plain one in memory; the registry that is asked is a server on loopback that says what
//! each test wants it to.

#![cfg(feature = "server")]

mod world;

use std::collections::HashMap;
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use prometheus_client::registry::Registry;
use prost::Message as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tagledger::edge::aside::Limits;
use tagledger::edge::confirm::Pace;
use tagledger::edge::metrics::Metrics;
use tagledger::edge::port::{Claim, LedgerPort, PortError, TagView};
use tagledger::edge::source::{Credentials, RegistryAccess, Secret, SourceConfig};
use tagledger::edge::webhook::{MAX_BODY_LENGTH, WebhookConfig, webhook};
use tagledger::ledger::names::TagRef;
use tagledger::proto;
use tagledger::proto::statement::Kind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const V1: &str = "application/vnd.docker.distribution.events.v1+json";
const V2: &str = "application/vnd.docker.distribution.events.v2+json";
const PATH: &str = "/webhooks/distribution/lab";
const PUSH_V1: &str = include_str!("payloads/distribution/captured-manifest-push-tag-v1.json");
const OVERWRITE_V1: &str = include_str!("payloads/distribution/captured-manifest-overwrite-v1.json");
const BLOB_PUSH: &str = include_str!("payloads/distribution/captured-blob-push.json");
const DELETE_TRIPLE: [&str; 3] = [
    include_str!("payloads/distribution/captured-delete-by-digest-1of3-manifest.json"),
    include_str!("payloads/distribution/captured-delete-by-digest-2of3-tag-v1.json"),
    include_str!("payloads/distribution/captured-delete-by-digest-3of3-tag-prod.json"),
];
/// What the captured push and the captured overwrite point `v1` to.
const FIRST: &str = "sha256:00b81f952d40055cb8f30e7c9307832936287b66ca08fee15f26a0ac35619c6a";
const SECOND: &str = "sha256:ce8b81217dfdf193e51115cf042aff7b6a8b9a474837afa0928be77465f01ddd";

/// A ledger in memory: event ids, versions and bindings as the real one has them, no proofs.
#[derive(Default)]
struct Memory {
    state: Mutex<Held>,
    /// It cannot write.
    is_down: AtomicBool,
    /// There is hardly any room on its disk.
    is_nearly_full: AtomicBool,
    /// It takes this long to write, in milliseconds.
    delay_ms: AtomicUsize,
    /// So many records find that the tag has changed.
    changes: AtomicUsize,
    largest_call: AtomicUsize,
}

#[derive(Default, Clone)]
struct Held {
    entries: Vec<Claim>,
    first: HashMap<(String, String), usize>,
    /// By tag: number of entries, and digest.
    tags: HashMap<String, (u64, String)>,
}

impl Held {
    fn append(&mut self, claim: &Claim) -> Result<proto::Receipt, PortError> {
        let (tag, digest) = match claim.statement.kind.clone().expect("a kind") {
            Kind::TagPush(push) => (Some(push.tag), push.digest),
            Kind::TagDelete(delete) => (Some(delete.tag), String::new()),
            Kind::TagObserved(seen) => (Some(seen.tag), seen.digest),
            Kind::ManifestDelete(_) => (None, String::new()),
            other => panic!("{other:?}"),
        };
        if tag.as_deref() == Some("unwelcome") {
            return Err(PortError::Invalid("this ledger does not like the tag".into()));
        }
        let id = (claim.principal.clone(), claim.statement.event_id.clone());
        if let Some(&first) = self.first.get(&id) {
            if self.entries[first].statement.encode_to_vec() != claim.statement.encode_to_vec() {
                return Err(PortError::Conflict { event_id: id.1, index: first as u64 });
            }
            return Ok(proto::Receipt { index: first as u64, entry_count: 1, duplicate: true, ..Default::default() });
        }
        let mut receipt =
            proto::Receipt { index: self.entries.len() as u64, entry_count: 1, ..proto::Receipt::default() };
        receipt.set_outcome(proto::Outcome::Applied);
        if let Some(tag) = tag {
            let (version, bound) = self.tags.entry(tag).or_default();
            if claim.only_at_version.is_some_and(|expected| expected != *version) {
                return Err(PortError::Changed);
            }
            *version += 1;
            if *bound == digest {
                receipt.set_outcome(proto::Outcome::Unchanged);
            } else if claim.assurance == proto::Assurance::Confirmed {
                receipt.set_outcome(proto::Outcome::Drift);
            }
            *bound = digest;
        }
        self.first.insert(id, self.entries.len());
        self.entries.push(claim.clone());
        Ok(receipt)
    }
}

impl LedgerPort for Memory {
    async fn record(&self, claims: Vec<Claim>) -> Result<Vec<proto::Receipt>, PortError> {
        self.largest_call.fetch_max(claims.len(), Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst) as u64)).await;
        if self.is_down.load(Ordering::SeqCst) {
            return Err(PortError::Unavailable("the disk is full".into()));
        }
        let conditional = claims.iter().any(|claim| claim.only_at_version.is_some());
        let take_one = |left: usize| left.checked_sub(1);
        if conditional && self.changes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok() {
            return Err(PortError::Changed);
        }
        let mut state = self.state.lock().expect("no panic");
        let mut next = state.clone();
        let receipts = claims.iter().map(|claim| next.append(claim)).collect::<Result<_, _>>()?;
        *state = next;
        Ok(receipts)
    }

    fn has_room(&self) -> bool {
        !self.is_nearly_full.load(Ordering::SeqCst)
    }

    async fn tag(&self, tag: &TagRef) -> Result<TagView, PortError> {
        let (version, digest) =
            self.state.lock().expect("no panic").tags.get(tag.tag.as_str()).cloned().unwrap_or_default();
        Ok(TagView { version, digest: digest.parse().ok() })
    }
}

/// A receiver on a socket.
struct Lab {
    address: SocketAddr,
    ledger: Arc<Memory>,
    folder: tempfile::TempDir,
    metrics: Registry,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    confirmer: tokio::task::JoinHandle<()>,
}

/// What a raw sender does when it has sent all it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Listen,
    BreakOff,
}

/// Fast enough for tests.
fn pace() -> Pace {
    Pace {
        timeout: Duration::from_millis(300),
        pause: Duration::from_millis(40),
        backoff: Duration::from_millis(10),
        attempts: 4,
        ..Pace::default()
    }
}

fn source(name: &str, confirm: Option<RegistryAccess>) -> SourceConfig {
    SourceConfig {
        name: name.parse().expect("valid"),
        registry: "127.0.0.1:5000".parse().expect("canonical"),
        secret: Secret::new(&format!("{name}-secret")).expect("valid"),
        confirm,
    }
}

impl Lab {
    async fn start(confirm: Option<RegistryAccess>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Arc::new(Memory::default());
        let mut metrics = Registry::default();
        let config = WebhookConfig {
            sources: vec![source("lab", confirm), source("other", None)],
            aside: folder.path().join("aside"),
            aside_limits: Limits::default(),
            pace: pace(),
        };
        let (router, confirmer) =
            webhook(config, Arc::clone(&ledger), Metrics::register(&mut metrics)).expect("a receiver");
        let address = serve(router).await;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let confirmer = tokio::spawn(confirmer.run(async {
            let _ = stopped.await;
        }));
        Self { address, ledger, folder, metrics, stop: Some(stop), confirmer }
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
        self.post_as(PATH, &[("authorization", "Bearer lab-secret"), ("content-type", V1)], body).await
    }

    async fn post_as(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, String) {
        let mut request = client().post(format!("http://{}{path}", self.address)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        (response.status(), response.text().await.expect("text"))
    }

    /// Sends bytes as they are, and returns all that comes back until the receiver closes.
    async fn send_raw(&self, head: &str, body: &[u8], then: Then) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: lab\r\nauthorization: Bearer lab-secret\r\nconnection: close\r\n{head}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(body).await.expect("sent");
        if then == Then::BreakOff {
            stream.shutdown().await.expect("half closed");
        }
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        read.expect("the receiver closes the connection").expect("read");
        String::from_utf8(answer).expect("text")
    }

    fn entries(&self) -> Vec<Claim> {
        self.ledger.state.lock().expect("no panic").entries.clone()
    }

    fn observations(&self) -> Vec<(Claim, proto::TagObserved)> {
        let seen = |claim: Claim| match claim.statement.kind.clone() {
            Some(Kind::TagObserved(seen)) => Some((claim, seen)),
            _ => None,
        };
        self.entries().into_iter().filter_map(seen).collect()
    }

    fn set_aside(&self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.path().join("aside"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        files.iter().map(|file| serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON")).collect()
    }

    fn count(&self, series: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a count"))
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what}: did not come about within 5 s; {:#?}", self.entries());
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client")
}

fn event(captured: &str) -> Value {
    serde_json::from_str::<Value>(captured).expect("JSON")["events"][0].clone()
}

fn push(id: &str, tag: &str) -> Value {
    let mut push = event(PUSH_V1);
    push["id"] = json!(id);
    push["target"]["tag"] = json!(tag);
    push
}

fn envelope(events: &[Value]) -> String {
    json!({ "events": events }).to_string()
}

fn status_of(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap_or("none")
}

// What is recorded.

#[tokio::test]
async fn a_captured_push_is_recorded_as_the_claim_of_its_source() {
    let lab = Lab::start(None).await;
    assert_eq!(
        lab.post(PUSH_V1).await,
        (StatusCode::OK, "recorded 1, known before 0, ignored 0, set aside 0\n".to_owned())
    );
    let [claim] = <[Claim; 1]>::try_from(lab.entries()).expect("one entry");
    assert_eq!((claim.principal.as_str(), claim.assurance), ("webhook/lab", proto::Assurance::Claimed));
    assert_eq!(claim.only_at_version, None);
    assert!(matches!(claim.statement.kind, Some(Kind::TagPush(push)) if push.digest == FIRST));
}

#[tokio::test]
async fn a_retry_is_answered_with_success_and_recorded_once() {
    let lab = Lab::start(None).await;
    for _ in 0..6 {
        assert_eq!(lab.post(PUSH_V1).await.0, StatusCode::OK);
    }
    assert_eq!(lab.entries().len(), 1);
    assert_eq!(lab.count("webhook_recorded_total{source=\"lab\"}"), 1);
    assert_eq!(lab.count("webhook_duplicates_total{source=\"lab\"}"), 5);
}

#[tokio::test]
async fn the_deletion_by_digest_is_three_entries_tied_by_their_request() {
    let lab = Lab::start(None).await;
    for body in DELETE_TRIPLE {
        assert_eq!(lab.post(body).await.0, StatusCode::OK);
    }
    let entries = lab.entries();
    let kinds: Vec<_> = entries.iter().map(|claim| claim.statement.kind.clone().expect("a kind")).collect();
    assert!(matches!(kinds.as_slice(), [Kind::ManifestDelete(_), Kind::TagDelete(_), Kind::TagDelete(_)]), "{kinds:?}");
    let request = |claim: &Claim| claim.statement.attributes.iter().find(|a| a.key == "request.id").cloned();
    assert!(request(&entries[0]).is_some());
    assert!(entries.iter().all(|claim| request(claim) == request(&entries[0])));
}

#[tokio::test]
async fn what_moves_no_tag_is_counted_and_not_recorded() {
    let lab = Lab::start(None).await;
    let mut pull = event(PUSH_V1);
    pull["action"] = json!("pull");
    assert_eq!(lab.post(BLOB_PUSH).await.0, StatusCode::OK);
    assert_eq!(lab.post(envelope(&[pull.clone(), pull])).await.0, StatusCode::OK);
    assert!(lab.entries().is_empty() && lab.set_aside().is_empty());
    assert_eq!(lab.count("webhook_ignored_total{source=\"lab\",reason=\"pull\"}"), 2);
    assert_eq!(lab.count("webhook_ignored_total{source=\"lab\",reason=\"push_without_tag\"}"), 1);
}

#[tokio::test]
async fn both_versions_of_the_format_are_read_and_an_unknown_one_is_set_aside() {
    let lab = Lab::start(None).await;
    let types = [V1, V2, "application/json", "Application/JSON; charset=utf-8", ""];
    for (number, media_type) in types.into_iter().enumerate() {
        let mut headers = vec![("authorization", "Bearer lab-secret")];
        headers.extend((!media_type.is_empty()).then_some(("content-type", media_type)));
        let body = envelope(&[push(&number.to_string(), "v1")]);
        assert_eq!(lab.post_as(PATH, &headers, body).await.0, StatusCode::OK, "{media_type}");
    }
    assert_eq!(lab.entries().len(), types.len());
    let headers = [("authorization", "Bearer lab-secret"), ("content-type", "application/vnd.example.events.v3+json")];
    assert_eq!(lab.post_as(PATH, &headers, PUSH_V1).await.0, StatusCode::ACCEPTED);
    assert_eq!(lab.entries().len(), types.len());
    assert_eq!(lab.set_aside()[0]["body"], PUSH_V1);
}

#[tokio::test]
async fn a_long_envelope_is_recorded_whole_and_in_order_in_parts() {
    let lab = Lab::start(None).await;
    let events: Vec<Value> = (0..2500).map(|number| push(&format!("event-{number}"), "v1")).collect();
    assert_eq!(lab.post(envelope(&events)).await.0, StatusCode::OK);
    let ids: Vec<String> = lab.entries().into_iter().map(|claim| claim.statement.event_id).collect();
    assert!(ids.iter().enumerate().all(|(number, id)| *id == format!("event-{number}")) && ids.len() == 2500);
    assert_eq!(lab.ledger.largest_call.load(Ordering::SeqCst), 1000);
}

// What is not understood.

#[tokio::test]
async fn the_good_events_of_an_envelope_are_recorded_and_the_bad_ones_set_aside_once() {
    let lab = Lab::start(None).await;
    let bad = push("bad", "not a tag");
    let body = envelope(&[push("first", "v1"), bad.clone(), event(BLOB_PUSH), push("second", "v2")]);
    for answer in
        ["recorded 2, known before 0, ignored 1, set aside 1\n", "recorded 0, known before 2, ignored 1, set aside 1\n"]
    {
        assert_eq!(lab.post(body.clone()).await, (StatusCode::ACCEPTED, answer.to_owned()));
    }
    let ids: Vec<String> = lab.entries().into_iter().map(|claim| claim.statement.event_id).collect();
    assert_eq!(ids, ["first", "second"]);
    let [file] = <[Value; 1]>::try_from(lab.set_aside()).expect("one file");
    assert_eq!(file["source"], "lab");
    assert!(file["reason"].as_str().is_some_and(|reason| reason.contains("tag_push.tag")), "{file}");
    assert_eq!(serde_json::from_str::<Value>(file["body"].as_str().expect("text")).expect("JSON"), bad);
}

#[tokio::test]
async fn what_the_ledger_refuses_is_set_aside_and_does_not_take_the_others_with_it() {
    let lab = Lab::start(None).await;
    assert_eq!(lab.post(envelope(&[push("taken", "v1")])).await.0, StatusCode::OK);
    let body = envelope(&[push("a", "v1"), push("taken", "v2"), push("b", "unwelcome"), push("c", "v3")]);
    assert_eq!(
        lab.post(body).await,
        (StatusCode::ACCEPTED, "recorded 2, known before 0, ignored 0, set aside 2\n".to_owned())
    );
    let ids: Vec<String> = lab.entries().into_iter().map(|claim| claim.statement.event_id).collect();
    assert_eq!(ids, ["taken", "a", "c"]);
    assert_eq!(lab.count("webhook_set_aside_total{source=\"lab\",reason=\"conflict\"}"), 1);
    assert_eq!(lab.count("webhook_set_aside_total{source=\"lab\",reason=\"invalid\"}"), 1);
    let bodies: Vec<Value> = lab
        .set_aside()
        .iter()
        .map(|file| serde_json::from_str(file["body"].as_str().expect("text")).expect("JSON"))
        .collect();
    assert!(bodies.contains(&push("taken", "v2")) && bodies.contains(&push("b", "unwelcome")));
}

#[tokio::test]
async fn bodies_that_are_no_envelopes_are_accepted_and_set_aside() {
    let lab = Lab::start(None).await;
    let truncated = PUSH_V1.trim_end();
    let deep = format!("{{\"events\":{}", "[".repeat(200_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"hello".to_vec(),
        b"{}".to_vec(),
        b"[]".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        truncated[..truncated.len() - 1].into(),
        truncated[..100].into(),
        deep.into(),
    ];
    for body in &bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
        assert_eq!(lab.post(body.clone()).await.0, StatusCode::ACCEPTED, "{shown}");
    }
    assert!(lab.entries().is_empty());
    assert_eq!(lab.set_aside().len(), bodies.len());
    assert_eq!(lab.count("webhook_set_aside_total{source=\"lab\",reason=\"body\"}"), bodies.len() as u64);
}

#[tokio::test]
async fn nothing_is_set_aside_on_a_disk_that_is_nearly_full_and_the_sender_repeats_it() {
    let lab = Lab::start(None).await;
    lab.ledger.is_nearly_full.store(true, Ordering::SeqCst);
    let bodies = ["hello".to_owned(), envelope(&[push("good", "v1"), json!(0)]), envelope(&vec![json!(0); 5000])];
    for body in &bodies {
        let (status, said) = lab.post(body.clone()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
        assert!(said.contains("send it again"), "{said}");
    }
    assert!(lab.set_aside().is_empty());
    assert_eq!(lab.count("webhook_unavailable_total{source=\"lab\"}"), 3);
    lab.ledger.is_nearly_full.store(false, Ordering::SeqCst);
    for body in bodies {
        assert_eq!(lab.post(body).await.0, StatusCode::ACCEPTED);
    }
    assert_eq!((lab.entries().len(), lab.set_aside().len()), (1, 3));
}

#[tokio::test]
async fn a_flood_of_bad_events_is_one_file() {
    let lab = Lab::start(None).await;
    let mut events = vec![json!(0); 5000];
    events.push(push("good", "v1"));
    assert_eq!(lab.post(envelope(&events)).await.0, StatusCode::ACCEPTED);
    assert_eq!((lab.entries().len(), lab.set_aside().len()), (1, 1));
}

// Who may speak.

#[tokio::test]
async fn without_the_secret_of_the_source_nothing_is_read() {
    let lab = Lab::start(None).await;
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer lab-secret2",
        "Bearer other-secret",
        "Basic lab-secret",
        "lab-secret",
    ] {
        let (status, _) = lab.post_as(PATH, &[("authorization", value), ("content-type", V1)], PUSH_V1).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{value:?}");
    }
    assert_eq!(lab.post_as(PATH, &[], "nonsense").await.0, StatusCode::UNAUTHORIZED);
    assert!(lab.entries().is_empty() && lab.set_aside().is_empty());
    assert_eq!(lab.count("webhook_unauthorised_total{source=\"lab\"}"), 9);
    let lower_case_scheme = [("authorization", "bearer lab-secret")];
    assert_eq!(lab.post_as(PATH, &lower_case_scheme, PUSH_V1).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_source_that_nobody_configured_is_not_found_and_not_counted() {
    let lab = Lab::start(None).await;
    for path in
        ["/webhooks/distribution/nobody", "/webhooks/distribution/", "/webhooks/distribution/lab/x", "/webhooks"]
    {
        let (status, _) = lab.post_as(path, &[("authorization", "Bearer lab-secret")], PUSH_V1).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &lab.metrics).expect("text");
    assert!(!text.contains("nobody"));
}

// What goes wrong on the way.

#[tokio::test]
async fn a_chunked_body_is_read() {
    let lab = Lab::start(None).await;
    let (first, second) = PUSH_V1.split_at(100);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let body = format!("{}{}0\r\n\r\n", chunk(first), chunk(second));
    let answer = lab.send_raw("transfer-encoding: chunked\r\n", body.as_bytes(), Then::Listen).await;
    assert_eq!(status_of(&answer), "200", "{answer}");
    assert_eq!(lab.entries().len(), 1);
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_the_senders_error() {
    let lab = Lab::start(None).await;
    let head = format!("content-type: {V1}\r\ncontent-length: {}\r\n", PUSH_V1.len() + 1);
    let answer = lab.send_raw(&head, PUSH_V1.as_bytes(), Then::BreakOff).await;
    assert!(matches!(status_of(&answer), "400" | "none"), "{answer}");
    let answer = lab.send_raw("transfer-encoding: chunked\r\n", b"5\r\n{\"eve", Then::BreakOff).await;
    assert!(matches!(status_of(&answer), "400" | "none"), "{answer}");
    assert!(lab.entries().is_empty() && lab.set_aside().is_empty());
}

#[tokio::test]
async fn a_body_longer_than_its_length_is_cut_there_and_set_aside() {
    let lab = Lab::start(None).await;
    let head = format!("content-type: {V1}\r\ncontent-length: {}\r\n", PUSH_V1.trim_end().len() - 10);
    let answer = lab.send_raw(&head, PUSH_V1.as_bytes(), Then::Listen).await;
    assert_eq!(status_of(&answer), "202", "{answer}");
    assert!(lab.entries().is_empty());
    assert_eq!(lab.set_aside().len(), 1);
}

#[tokio::test]
async fn of_a_body_over_the_limit_the_beginning_is_set_aside_and_one_at_the_limit_is_read() {
    let lab = Lab::start(None).await;
    let mut body = format!("{:x}\r\n", MAX_BODY_LENGTH + 1).into_bytes();
    body.resize(body.len() + MAX_BODY_LENGTH + 1, b' ');
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = lab.send_raw("transfer-encoding: chunked\r\n", &body, Then::Listen).await;
    assert_eq!(status_of(&answer), "202", "{answer}");
    assert_eq!((lab.entries().len(), lab.set_aside().len()), (0, 1));
    let fits = format!("{}{PUSH_V1}", " ".repeat(MAX_BODY_LENGTH - PUSH_V1.len()));
    assert_eq!(lab.post(fits).await.0, StatusCode::OK);
    assert_eq!((lab.entries().len(), lab.set_aside().len()), (1, 1));
}

#[tokio::test]
async fn a_ledger_that_cannot_write_is_the_one_failure_and_a_retry_mends_it() {
    let lab = Lab::start(None).await;
    lab.ledger.is_down.store(true, Ordering::SeqCst);
    let body = envelope(&[push("a", "v1"), json!("bad")]);
    let request = client().post(format!("http://{}{PATH}", lab.address)).bearer_auth("lab-secret").body(body.clone());
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "5");
    assert_eq!(lab.post("nonsense").await.0, StatusCode::ACCEPTED, "bad content needs no ledger");
    lab.ledger.is_down.store(false, Ordering::SeqCst);
    assert_eq!(lab.post(body).await.0, StatusCode::ACCEPTED);
    assert_eq!(lab.entries().len(), 1);
}

#[tokio::test]
async fn a_sender_that_gives_up_waiting_does_not_stop_the_work() {
    let lab = Lab::start(None).await;
    lab.ledger.delay_ms.store(200, Ordering::SeqCst);
    let request = client().post(format!("http://{}{PATH}", lab.address)).bearer_auth("lab-secret").body(PUSH_V1);
    assert!(request.timeout(Duration::from_millis(50)).send().await.is_err_and(|error| error.is_timeout()));
    lab.until("recorded all the same", |lab| lab.count("webhook_recorded_total{source=\"lab\"}") == 1).await;
}

// What the registry says.

/// A request that the registry got.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// What it answers.
#[derive(Debug, Clone)]
struct Says {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    after: Duration,
}

impl Says {
    fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), after: Duration::ZERO }
    }

    fn digest(digest: &str) -> Self {
        Self { headers: vec![("docker-content-digest", digest.to_owned())], ..Self::status(200) }
    }

    /// As Distribution says that there is no such tag.
    fn unknown() -> Self {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec();
        Self { body, ..Self::status(404) }
    }
}

/// A registry on loopback: what it says is a function of the request and of how many came before.
async fn registry(
    says: impl Fn(&Asked, usize) -> Says + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<Asked>>>) {
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let (log, says) = (Arc::clone(&asked), Arc::new(says));
    let router = Router::new().fallback(move |request: Request| {
        let (log, says) = (Arc::clone(&log), Arc::clone(&says));
        async move {
            let (head, _) = request.into_parts();
            let asked = Asked { method: head.method, path: head.uri.path().to_owned(), headers: head.headers };
            let said = {
                let mut log = log.lock().expect("no panic");
                log.push(asked.clone());
                says(&asked, log.len() - 1)
            };
            tokio::time::sleep(said.after).await;
            let mut response = Response::builder().status(said.status);
            for (name, value) in said.headers {
                response = response.header(name, value);
            }
            response.body(Body::from(said.body)).expect("a response")
        }
    });
    (serve(router).await, asked)
}

fn access(address: SocketAddr) -> Option<RegistryAccess> {
    Some(RegistryAccess {
        base: format!("http://{address}").parse().expect("valid"),
        credentials: None,
        token_realm: None,
    })
}

const AGREED: &str = "confirm_agreed_total{source=\"lab\"}";
const DRIFTED: &str = "confirm_drifted_total{source=\"lab\"}";

fn failed(reason: &str) -> String {
    format!("confirm_failed_total{{source=\"lab\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_registry_that_agrees_confirms_the_claim() {
    let (address, asked) = registry(|_, _| Says::digest(FIRST)).await;
    let lab = Lab::start(access(address)).await;
    assert_eq!(lab.post(PUSH_V1).await.0, StatusCode::OK);
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    let [(claim, seen)] = <[_; 1]>::try_from(lab.observations()).expect("one observation");
    assert_eq!((claim.principal.as_str(), claim.assurance), ("webhook/lab", proto::Assurance::Confirmed));
    assert_eq!(claim.only_at_version, Some(1), "the version after the push");
    assert_eq!(claim.statement.event_id, "confirm:891c57ce-ef88-4cf2-99dd-0365b3f5f582");
    assert_eq!((seen.digest.as_str(), seen.checks_entry), (FIRST, 1), "1 + the index of the claim");
    assert_eq!((seen.repository.as_str(), seen.tag.as_str()), ("team/app", "v1"));

    let asked = asked.lock().expect("no panic").clone();
    let [asked] = <[Asked; 1]>::try_from(asked).expect("one look is enough");
    assert_eq!((asked.method, asked.path.as_str()), (Method::HEAD, "/v2/team/app/manifests/v1"));
    assert!(!asked.headers.contains_key(header::AUTHORIZATION));
    let accepted: Vec<_> = asked.headers.get_all(header::ACCEPT).iter().collect();
    assert_eq!(
        accepted,
        [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
        ]
    );
}

#[tokio::test]
async fn a_registry_that_says_something_else_twice_is_believed() {
    let (address, asked) = registry(|_, _| Says::digest(SECOND)).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("drifted", |lab| lab.count(DRIFTED) == 1).await;
    assert_eq!(lab.observations().len(), 1);
    assert_eq!(lab.observations()[0].1.digest, SECOND);
    assert_eq!(asked.lock().expect("no panic").len(), 2);
    assert_eq!(lab.count(AGREED), 0);
}

#[tokio::test]
async fn an_announcement_ahead_of_its_tag_is_no_drift() {
    let before_it_is_written =
        |_: &Asked, number: usize| if number == 0 { Says::digest(FIRST) } else { Says::digest(SECOND) };
    let (address, _) = registry(before_it_is_written).await;
    let lab = Lab::start(access(address)).await;
    lab.post(OVERWRITE_V1).await;
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    assert_eq!(lab.observations()[0].1.digest, SECOND);
    assert_eq!(lab.count(DRIFTED), 0);
}

#[tokio::test]
async fn a_registry_that_never_says_the_same_twice_is_given_up() {
    let (address, asked) = registry(|_, number| Says::digest(&format!("sha256:{number:064}"))).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("given up", |lab| lab.count(&failed("unsettled")) == 1).await;
    assert!(lab.observations().is_empty());
    assert_eq!(asked.lock().expect("no panic").len(), pace().attempts);
}

#[tokio::test]
async fn a_deleted_tag_is_confirmed_absent_by_the_registrys_own_words() {
    let (address, asked) = registry(|_, _| Says::unknown()).await;
    let lab = Lab::start(access(address)).await;
    lab.post(DELETE_TRIPLE[1]).await;
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    assert_eq!(lab.observations()[0].1.digest, "");
    let heads = asked.lock().expect("no panic").iter().filter(|asked| asked.method == Method::HEAD).count();
    assert_eq!(heads, 2, "one 404 is never enough");
}

#[tokio::test]
async fn a_tag_that_is_gone_after_a_push_is_drift() {
    let (address, _) = registry(|_, _| Says::unknown()).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("drifted", |lab| lab.count(DRIFTED) == 1).await;
    assert_eq!(lab.observations()[0].1.digest, "");
}

#[tokio::test]
async fn a_404_that_no_registry_wrote_unbinds_nothing() {
    let page = Says { body: b"<html>404 page not found".to_vec(), ..Says::status(404) };
    let (address, _) = registry(move |_, _| page.clone()).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("given up", |lab| lab.count(&failed("refused")) == 1).await;
    assert!(lab.observations().is_empty());
}

#[tokio::test]
async fn a_registry_that_names_no_digest_has_its_manifest_hashed() {
    let manifest = br#"{"schemaVersion":2}"#.to_vec();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&manifest)));
    let (address, asked) = registry(move |_, _| Says { body: manifest.clone(), ..Says::status(200) }).await;
    let lab = Lab::start(access(address)).await;
    let mut push = push("hashed", "v1");
    push["target"]["digest"] = json!(digest);
    lab.post(envelope(&[push])).await;
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    assert_eq!(lab.observations()[0].1.digest, digest);
    let methods: Vec<Method> = asked.lock().expect("no panic").iter().map(|asked| asked.method.clone()).collect();
    assert_eq!(methods, [Method::HEAD, Method::GET]);
}

#[tokio::test]
async fn a_manifest_too_long_to_hash_is_no_answer() {
    let (address, _) = registry(|_, _| Says { body: vec![b' '; (4 << 20) + 1], ..Says::status(200) }).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("given up", |lab| lab.count(&failed("refused")) == 1).await;
    assert!(lab.observations().is_empty());
}

#[tokio::test]
async fn a_slow_or_broken_registry_is_asked_again_and_holds_nothing_up() {
    let (address, asked) = registry(|_, number| match number {
        0 => Says { after: Duration::from_secs(60), ..Says::digest(FIRST) },
        1 => Says::status(503),
        _ => Says::digest(FIRST),
    })
    .await;
    let lab = Lab::start(access(address)).await;
    let answered = tokio::time::timeout(Duration::from_millis(250), lab.post(PUSH_V1)).await;
    assert_eq!(answered.expect("answered before the registry").0, StatusCode::OK);
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    assert_eq!(asked.lock().expect("no panic").len(), 3);
}

#[tokio::test]
async fn a_registry_that_is_down_is_given_up_after_a_few_tries() {
    let (address, asked) = registry(|_, _| Says::status(500)).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("given up", |lab| lab.count(&failed("unreachable")) == 1).await;
    assert_eq!(asked.lock().expect("no panic").len(), pace().attempts);
    assert_eq!(lab.entries().len(), 1, "the claim stays a claim");
}

#[tokio::test]
async fn a_registry_that_wants_another_user_is_not_pestered() {
    let (address, asked) = registry(|_, _| Says::status(401)).await;
    let lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("given up", |lab| lab.count(&failed("refused")) == 1).await;
    assert_eq!(asked.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn credentials_go_to_the_registry_and_nowhere_it_points_to() {
    let (elsewhere, leaked) = registry(|_, _| Says::digest(SECOND)).await;
    let (address, asked) = registry(move |asked, _| match asked.path.as_str() {
        "/v2/team/app/manifests/v1" => {
            Says { headers: vec![("location", "/moved/v1".to_owned())], ..Says::status(307) }
        }
        "/moved/v1" => Says::digest(FIRST),
        _ => Says { headers: vec![("location", format!("http://{elsewhere}/v2/"))], ..Says::status(307) },
    })
    .await;
    let credentials = Credentials { user: "robot".into(), password: "pass".to_owned().into() };
    let lab =
        Lab::start(access(address).map(|access| RegistryAccess { credentials: Some(credentials), ..access })).await;
    lab.post(PUSH_V1).await;
    lab.until("followed within the registry", |lab| lab.count(AGREED) == 1).await;
    lab.post(envelope(&[push("away", "elsewhere")])).await;
    lab.until("not followed out of it", |lab| lab.count(&failed("refused")) == 1).await;
    // base64("robot:pass")
    let asked = asked.lock().expect("no panic").clone();
    assert!(asked.iter().all(|asked| asked.headers[header::AUTHORIZATION] == "Basic cm9ib3Q6cGFzcw=="), "{asked:?}");
    assert!(leaked.lock().expect("no panic").is_empty());
}

/// base64("robot:pass")
const ROBOT: &str = "Basic cm9ib3Q6cGFzcw==";

/// A real service that a registry announces to, and that confirms with this user: what its tag v1 is after a push was announced.
async fn confirmed_as_robot(registry: SocketAddr, more: &str) -> world::World {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder").keep();
    for (name, secret) in [("secret", "of the lab"), ("password", "pass")] {
        std::fs::write(folder.join(name), format!("{}\n", secret.replace(' ', "-"))).expect("written");
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o600)).expect("set");
    }
    let config = folder.join("ledger.toml");
    let text = format!(
        "[webhooks.lab]\nregistry = '{}'\nsecret_file = 'secret'\nconfirm = 'http://{registry}'\nconfirm_user = \
         'robot'\nconfirm_password_file = 'password'\n{more}",
        world::REGISTRY
    );
    std::fs::write(&config, text).expect("written");
    let config = tagledger::server::config::Config::read(&config).expect("a configuration");
    let world = world::World::open_with(&folder.join("ledger"), config).await;
    let url = format!("http://{}/webhooks/distribution/lab", world.address);
    let posted = client().post(url).header("authorization", "Bearer of-the-lab").body(PUSH_V1).send().await;
    assert_eq!(posted.expect("answered").status(), StatusCode::OK);
    world
}

/// How the last look ended, once there was one: a line of the service's figures.
async fn looked(world: &world::World) -> String {
    let begun = std::time::Instant::now();
    loop {
        let figures = client().get(format!("http://{}/metrics", world.address)).send().await.expect("answered");
        let figures = figures.text().await.expect("text");
        let mut looked = figures.lines().filter(|line| line.starts_with("tagledger_confirm_") && !line.ends_with(" 0"));
        if let Some(line) = looked.next() {
            return line.to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "it looks: {figures}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_confirmed_as_the_user_that_the_configuration_names() {
    let (address, asked) = registry(|asked, _| match asked.headers.get(header::AUTHORIZATION) {
        Some(sent) if sent == ROBOT => Says::digest(FIRST),
        _ => Says { headers: vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], ..Says::status(401) },
    })
    .await;
    let world = confirmed_as_robot(address, "").await;
    assert_eq!(looked(&world).await, "tagledger_confirm_agreed_total{source=\"lab\"} 1");
    assert_eq!(asked.lock().expect("no panic").len(), 1);
    world.check_ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_for_confirming_goes_by_plain_http_to_the_realm_that_is_configured_and_to_no_other() {
    let (realm, shown) = registry(|asked, _| match asked.headers.get(header::AUTHORIZATION) {
        Some(sent) if sent == ROBOT => Says { body: br#"{"token":"for-robot"}"#.to_vec(), ..Says::status(200) },
        _ => Says::status(401),
    })
    .await;
    let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"r\"");
    let (address, _) = registry(move |asked, _| match asked.headers.get(header::AUTHORIZATION) {
        Some(sent) if sent == "Bearer for-robot" => Says::digest(FIRST),
        _ => Says { headers: vec![("www-authenticate", challenge.clone())], ..Says::status(401) },
    })
    .await;
    let world = confirmed_as_robot(address, "").await;
    assert_eq!(looked(&world).await, "tagledger_confirm_failed_total{source=\"lab\",reason=\"refused\"} 1");
    assert!(shown.lock().expect("no panic").is_empty(), "the password stays here");
    let world = confirmed_as_robot(address, &format!("confirm_token_realm = 'http://{realm}/token'\n")).await;
    assert_eq!(looked(&world).await, "tagledger_confirm_agreed_total{source=\"lab\"} 1");
    assert_eq!(shown.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_tag_that_changed_while_the_registry_was_asked_is_looked_at_again() {
    let (address, asked) = registry(|_, _| Says::digest(FIRST)).await;
    let lab = Lab::start(access(address)).await;
    lab.ledger.changes.store(2, Ordering::SeqCst);
    lab.post(PUSH_V1).await;
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    assert_eq!(asked.lock().expect("no panic").len(), 3);
    assert_eq!(lab.observations().len(), 1);
}

#[tokio::test]
async fn of_many_claims_about_a_tag_only_the_first_and_the_newest_are_checked() {
    let (address, asked) = registry(|_, _| Says { after: Duration::from_millis(100), ..Says::digest(FIRST) }).await;
    let lab = Lab::start(access(address)).await;
    lab.post(envelope(&[push("0", "v1")])).await;
    lab.until("asked", |_| !asked.lock().expect("no panic").is_empty()).await;
    for number in 1..10 {
        lab.post(envelope(&[push(&number.to_string(), "v1")])).await;
    }
    lab.until("the newest is checked", |lab| lab.observations().iter().any(|(_, seen)| seen.checks_entry == 10)).await;
    assert_eq!(lab.observations().len(), 1, "the first gave way to the newest, which waited");
    assert_eq!(asked.lock().expect("no panic").len(), 2);
}

#[tokio::test]
async fn a_retried_claim_is_checked_once() {
    let (address, _) = registry(|_, _| Says::digest(FIRST)).await;
    let lab = Lab::start(access(address)).await;
    for _ in 0..3 {
        lab.post(PUSH_V1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lab.until("confirmed", |lab| lab.count(AGREED) == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((lab.observations().len(), lab.count(AGREED)), (1, 1));
}

#[tokio::test]
async fn blobs_and_manifests_by_digest_are_not_asked_about() {
    let (address, asked) = registry(|_, _| Says::digest(FIRST)).await;
    let lab = Lab::start(access(address)).await;
    lab.post(BLOB_PUSH).await;
    lab.post(DELETE_TRIPLE[0]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(asked.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn checking_stops_when_told_even_in_the_middle_of_a_look() {
    let (address, asked) = registry(|_, _| Says { after: Duration::from_secs(60), ..Says::digest(FIRST) }).await;
    let mut lab = Lab::start(access(address)).await;
    lab.post(PUSH_V1).await;
    lab.until("asked", |_| !asked.lock().expect("no panic").is_empty()).await;
    lab.stop.take().expect("not yet stopped").send(()).expect("it listens");
    let ended = tokio::time::timeout(Duration::from_millis(200), &mut lab.confirmer).await;
    ended.expect("it stops at once").expect("without a panic");
    assert_eq!(lab.post(OVERWRITE_V1).await.0, StatusCode::OK, "the receiver does not depend on it");
}

#[tokio::test]
async fn an_envelope_of_millions_of_events_is_set_aside_as_one() {
    let lab = Lab::start(None).await;
    let body = format!("{{\"events\":[{}1]}}", "1,".repeat(1 << 20));
    assert_eq!(lab.post(body).await.0, StatusCode::ACCEPTED);
    assert_eq!((lab.entries().len(), lab.set_aside().len()), (0, 1));
}
