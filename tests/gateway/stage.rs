//! A ledger, a gateway, and a registry in memory that keeps what reached it and misbehaves on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Response};
use http_body_util::BodyExt as _;
use reqwest::StatusCode;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tagledger::ledger::entry::{Body as EntryBody, SignedEntry};
use tagledger::ledger::statement::{Kind, Statement};
use tagledger::ledger::subject::{place_of, tag_of};
use tagledger::proto::{self, Disposition};
use tagledger::server::gateway::{Settings, serve};
use tagledger::server::over_grpc::LedgerSettings;
use tokio::sync::oneshot;

use crate::world::{self, World};

pub(crate) const RULE: &str = "registry.example/team/**:v*";
/// What somebody sends from whom the registry hides everything.
pub(crate) const STRANGER: &str = "Bearer stranger";
const PATIENCE: Duration = Duration::from_secs(15);

/// All of it.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) registry: Registry,
    pub(crate) gateway: Running,
    pub(crate) client: reqwest::Client,
    pub(crate) folder: tempfile::TempDir,
    settings: Settings,
}

/// A gateway of this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(settings: Settings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (started, running) = oneshot::channel();
        let ended = tokio::spawn(async move {
            let told = |address| {
                let _ = started.send(address);
            };
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(settings, told, shutdown).await.expect("it serves");
        });
        Self { address: running.await.expect("it starts"), stop: Some(stop), ended }
    }

    /// Stops it, and waits until it is gone.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().expect("running").send(());
        self.ended.await.expect("it ends well");
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let world = World::with_rules(&[RULE]).await;
        let ledger = format!("http://{}", world.address);
        Self::before(world, &ledger, change).await
    }

    /// With a ledger that is reached through another address.
    pub(crate) async fn before(world: World, ledger: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let registry = Registry::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Self::settings(&world, &registry.address.to_string(), folder.path());
        settings.ledger.url = Some(ledger.to_owned());
        settings.idle_timeout_ms = 1_000;
        change(&mut settings);
        let gateway = Running::start(settings.clone()).await;
        Self { world, registry, gateway, client: client(), folder, settings }
    }

    /// Of a gateway before the registry at an address, that keeps what it keeps in a folder.
    pub(crate) fn settings(world: &World, registry: &str, folder: &std::path::Path) -> Settings {
        Settings {
            listen: "127.0.0.1:0".parse().expect("an address"),
            upstream: Some(format!("http://{registry}")),
            registry: Some(world::REGISTRY.to_owned()),
            ledger: LedgerSettings {
                url: Some(format!("http://{}", world.address)),
                token_file: Some(world.data_dir.join("token")),
                trust: Some(folder.join("trust")),
                ..LedgerSettings::default()
            },
            late_bound_ms: 400,
            journal: folder.join("journal"),
            look_pause_ms: 50,
            policy_every_ms: 200,
            ledger_timeout_ms: 2_000,
            ..Settings::default()
        }
    }

    /// Another gateway before the same registry, to the same ledger.
    pub(crate) async fn another_gateway(&self) -> Running {
        let journal = self.folder.path().join("other-journal");
        let trust = Some(self.folder.path().join("other-trust"));
        let ledger = LedgerSettings { trust, ..self.settings.ledger.clone() };
        Running::start(Settings { journal, ledger, name: "other".into(), ..self.settings.clone() }).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> reqwest::Response {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.client.request(method, self.url(path)).body(body.to_owned());
        request.header("content-type", "application/vnd.oci.image.manifest.v1+json").send().await.expect("answered")
    }

    pub(crate) async fn put(&self, path: &str, content: &str) -> (StatusCode, String) {
        let answer = self.send("PUT", path, content).await;
        (answer.status(), answer.text().await.expect("text"))
    }

    pub(crate) async fn push(&self, tag: &str, content: &str) -> (StatusCode, String) {
        self.put(&format!("/v2/{}/manifests/{tag}", world::REPOSITORY), content).await
    }

    pub(crate) async fn delete(&self, reference: &str) -> (StatusCode, String) {
        let answer = self.send("DELETE", &format!("/v2/{}/manifests/{reference}", world::REPOSITORY), "").await;
        (answer.status(), answer.text().await.expect("text"))
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(self.url(path)).send().await.expect("answered");
        (answer.status(), answer.text().await.expect("text"))
    }

    /// Records an intent as a gateway would that is then never heard of again. Returns its entry.
    pub(crate) async fn intend(&self, tag: &str, content: &str) -> u64 {
        self.world.recorded(&world::push(tag, &digest(content), Disposition::Intended)).await.index
    }

    /// Says of such an intent that nothing came of it.
    pub(crate) async fn refuse(&self, tag: &str, content: &str, index: u64) {
        let mut refused = world::push(tag, &digest(content), Disposition::Refused);
        let Some(proto::statement::Kind::TagPush(push)) = &mut refused.kind else { unreachable!("a push") };
        push.settles = index + 1;
        self.world.recorded(&refused).await;
    }

    /// How many intents the gateway has not settled.
    pub(crate) async fn open(&self) -> usize {
        let (_, figures) = self.get("/metrics").await;
        let line = figures.lines().find_map(|line| line.strip_prefix("tagledger_gateway_open "));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no figure: {figures}"))
    }

    /// What a tag is in the ledger; empty: nothing.
    pub(crate) async fn bound(&self, tag: &str) -> String {
        bound(&self.world, world::REPOSITORY, tag).await
    }

    /// Every record about a tag, in short: "v1 push INTENDED: NOTED".
    pub(crate) async fn log(&self) -> Vec<String> {
        lines(&self.world).await.into_iter().map(|line| line.text).collect()
    }

    /// Index of the last record that reads so.
    pub(crate) async fn entry(&self, line: &str) -> u64 {
        let lines = lines(&self.world).await;
        let found = lines.iter().rev().find(|found| found.text == line);
        found.unwrap_or_else(|| panic!("no {line:?} among {lines:#?}")).index
    }

    /// Ledger and registry say the same of every tag; the log holds.
    pub(crate) async fn agrees(&self) {
        let mut tags: std::collections::BTreeSet<String> = self
            .log()
            .await
            .iter()
            .filter_map(|line| line.split(' ').next())
            .flat_map(|tags| tags.split('+'))
            .map(str::to_owned)
            .collect();
        tags.extend(self.registry.tags(world::REPOSITORY));
        for tag in tags.iter().filter(|tag| tag.as_str() != "-") {
            let there = self.registry.digest_of(world::REPOSITORY, tag).unwrap_or_default();
            assert_eq!(self.bound(tag).await, there, "{tag}: {:#?}", self.log().await);
        }
        self.world.check_ledger().await;
    }

    /// Waits until the gateway has nothing open.
    pub(crate) async fn settled(&self) {
        self.until("all is settled", async |stage| stage.open().await == 0).await;
    }

    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let begun = tokio::time::Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "waited for: {what}; the log is {:#?}", self.log().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    client.tls_certs_only([]).build().expect("a client")
}

/// What a tag is in a ledger; empty: nothing.
pub(crate) async fn bound(world: &World, repository: &str, tag: &str) -> String {
    let request = proto::ResolveTagRequest {
        registry: world::REGISTRY.into(),
        repository: repository.into(),
        tag: tag.into(),
        at_us: 0,
        without_evidence: true,
    };
    world.query().resolve_tag(request).await.expect("answered").into_inner().digest
}

/// A record about tags.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) index: u64,
    pub(crate) repository: String,
    /// Empty if it is about several.
    pub(crate) tag: String,
    pub(crate) text: String,
}

/// All of them.
pub(crate) async fn lines(world: &World) -> Vec<Line> {
    let entries = world.entries().await;
    let decoded = entries.iter().map(|bytes| SignedEntry::decode(bytes).expect("an entry"));
    decoded.zip(0..).filter_map(|(entry, index)| line_of(entry, index)).collect()
}

fn line_of(entry: SignedEntry, index: u64) -> Option<Line> {
    let EntryBody::Record(record, statement) = entry.body else { return None };
    let outcome = record.outcome().as_str_name().trim_start_matches("OUTCOME_").to_owned();
    let (tag, disposition) = match &statement.kind {
        Kind::PolicyChange { .. } | Kind::PrincipalChange { .. } => return None,
        Kind::ManifestDelete { disposition, .. } => {
            let names: Vec<&str> =
                record.subjects.iter().map(|subject| subject.name.as_str()).filter(|name| !name.is_empty()).collect();
            (if names.is_empty() { "-".to_owned() } else { names.join("+") }, Some(disposition))
        }
        Kind::TagPush { disposition, .. } | Kind::TagDelete { disposition, .. } => {
            (named(&statement), Some(disposition))
        }
        _ => (named(&statement), None),
    };
    let disposition = disposition.map(|disposition| format!(" {disposition:?}").to_uppercase()).unwrap_or_default();
    let text = format!("{tag} {}{disposition}: {outcome}", statement.verb());
    let repository = place_of(&statement).map(|(_, repository)| repository.to_string()).unwrap_or_default();
    Some(Line { index, repository, tag: named(&statement), text })
}

fn named(statement: &Statement) -> String {
    tag_of(statement).map(|tag| tag.tag.to_string()).unwrap_or_default()
}

pub(crate) fn digest(content: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// How the registry takes a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Works,
    Answers(u16),
    DoesAndAnswers(u16),
    Breaks,
    DoesAndBreaks,
    Stalls,
    DoesAndStalls,
    DoesSlowly,
    /// When it is told to, after whoever asked is gone.
    DoesLate,
    /// When it is told to.
    DoesWhenTold,
    /// Sooner or later, and no two of them equally soon.
    Dawdles,
    /// Is slow to tell what it has.
    TellsSlowly,
    StoresAnother,
    IgnoresTags,
    /// Works, but for lists.
    ListsNoTags,
    Garbage,
}

/// A registry in memory.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    stop: Arc<tokio::sync::Notify>,
    late: Arc<tokio::sync::Notify>,
}

struct Inner {
    mode: Mode,
    /// Who may do anything at all, as `Authorization` says it; nobody: everybody.
    let_in: Vec<String>,
    /// What it says to the others.
    challenge: String,
    /// (repository, tag or digest) to content.
    manifests: BTreeMap<(String, String), String>,
    requests: Vec<(String, HeaderMap)>,
    received: u64,
}

impl Registry {
    /// What it says to whom it does not let in.
    pub(crate) const CHALLENGE: &str = "Basic realm=\"the registry\"";

    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let inner = Inner {
            mode: Mode::Works,
            let_in: Vec::new(),
            challenge: String::new(),
            manifests: BTreeMap::new(),
            requests: Vec::new(),
            received: 0,
        };
        let registry = Self { address, inner: Arc::new(Mutex::new(inner)), stop: Arc::default(), late: Arc::default() };
        let (serving, stop) = (registry.clone(), Arc::clone(&registry.stop));
        let router = Router::new().fallback(move |request: Request| {
            let registry = serving.clone();
            async move { registry.answer(request).await }
        });
        tokio::spawn(async move {
            let stopping = stop.clone();
            let serving = axum_serve(listener, router);
            tokio::select! {
                () = serving => {}
                () = stopping.notified() => {}
            }
        });
        registry
    }

    pub(crate) async fn stop(&self) {
        self.stop.notify_one();
        // The port is given up at once; connections that were kept alive are refused from now on.
        self.set(Mode::Breaks);
        let deadline = std::time::Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(self.address).await.is_ok() {
            assert!(std::time::Instant::now() < deadline, "it stops");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.inner.lock().expect("free").mode = mode;
    }

    /// Carries out what it was asked for in [`Mode::DoesLate`] or [`Mode::DoesWhenTold`].
    pub(crate) fn do_what_is_late(&self) {
        self.late.notify_one();
    }

    /// From now on only this `Authorization` is let in.
    pub(crate) fn lock(&self, authorization: &str) {
        self.lock_to(&[authorization], Self::CHALLENGE);
    }

    /// From now on only these are let in, and others hear this challenge.
    pub(crate) fn lock_to(&self, authorizations: &[&str], challenge: &str) {
        let mut inner = self.inner.lock().expect("free");
        inner.let_in = authorizations.iter().map(|authorization| (*authorization).to_owned()).collect();
        challenge.clone_into(&mut inner.challenge);
    }

    pub(crate) fn put(&self, repository: &str, reference: &str, content: &str) {
        let mut inner = self.inner.lock().expect("free");
        for reference in [reference.to_owned(), digest(content)] {
            inner.manifests.insert((repository.to_owned(), reference), content.to_owned());
        }
    }

    /// A manifest goes, and its tags with it, as somebody past every gateway would have it.
    pub(crate) fn forget(&self, repository: &str, digest_gone: &str) {
        let mut inner = self.inner.lock().expect("free");
        inner.manifests.retain(|(within, _), content| within != repository || digest(content) != digest_gone);
    }

    pub(crate) fn digest_of(&self, repository: &str, reference: &str) -> Option<String> {
        let inner = self.inner.lock().expect("free");
        inner.manifests.get(&(repository.to_owned(), reference.to_owned())).map(|content| digest(content))
    }

    pub(crate) fn tags(&self, repository: &str) -> Vec<String> {
        let inner = self.inner.lock().expect("free");
        let here = inner.manifests.keys().filter(|(found, reference)| found == repository && !reference.contains(':'));
        here.map(|(_, tag)| tag.clone()).collect()
    }

    /// Everything that reached it, as "METHOD path?query".
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inner.lock().expect("free").requests.iter().map(|(line, _)| line.clone()).collect()
    }

    /// What of it could change something: not reading, nor what is asked of an upload that nobody began.
    pub(crate) fn changes(&self) -> Vec<String> {
        let asks = |line: &str| {
            let id = line.split_once("/blobs/uploads/").map(|(_, id)| id);
            id.is_some_and(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let reads = |line: &String| line.starts_with("GET ") || line.starts_with("HEAD ") || asks(line);
        self.requests().into_iter().filter(|line| !reads(line)).collect()
    }

    pub(crate) fn headers_of(&self, line: &str) -> HeaderMap {
        let inner = self.inner.lock().expect("free");
        let found = inner.requests.iter().rev().find(|(found, _)| found == line);
        found.unwrap_or_else(|| panic!("{line} did not reach it")).1.clone()
    }

    /// The `Authorization` of everything of a method that reached it; empty: none.
    pub(crate) fn authorizations(&self, method: &str) -> Vec<String> {
        let inner = self.inner.lock().expect("free");
        let of_method = inner.requests.iter().filter(|(line, _)| line.starts_with(&format!("{method} ")));
        let value = |headers: &HeaderMap| Some(headers.get("authorization")?.to_str().ok()?.to_owned());
        of_method.map(|(_, headers)| value(headers).unwrap_or_default()).collect()
    }

    /// Bytes of blobs received.
    pub(crate) fn received(&self) -> u64 {
        self.inner.lock().expect("free").received
    }

    async fn answer(self, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri);
        self.inner.lock().expect("free").requests.push((line, parts.headers.clone()));
        let authorization = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
        let (is_let_in, challenge) = {
            let inner = self.inner.lock().expect("free");
            let is_named = inner.let_in.iter().any(|known| Some(known.as_str()) == authorization);
            (inner.let_in.is_empty() || is_named, inner.challenge.clone())
        };
        if !is_let_in {
            let words = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            return answer(401, &[("www-authenticate", &challenge)], words.to_owned());
        }
        let path = parts.uri.path().to_owned();
        let Some((repository, reference)) = path.strip_prefix("/v2/").and_then(|path| path.rsplit_once("/manifests/"))
        else {
            return self.other(&parts, body).await;
        };
        let key = (repository.to_owned(), reference.to_owned());
        if matches!(parts.method, Method::GET | Method::HEAD) {
            if self.inner.lock().expect("free").mode == Mode::TellsSlowly {
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            let found = self.inner.lock().expect("free").manifests.get(&key).cloned();
            let found = found.filter(|_| !is_stranger(&parts.headers));
            return match found {
                Some(content) => answer(200, &[("docker-content-digest", &digest(&content))], content),
                None => unknown(),
            };
        }
        let content = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if is_stranger(&parts.headers) {
            return unknown();
        }
        self.change(&parts, key, &content).await
    }

    async fn change(
        &self,
        parts: &axum::http::request::Parts,
        key: (String, String),
        content: &Bytes,
    ) -> Response<Body> {
        let mode = self.inner.lock().expect("free").mode;
        if mode == Mode::DoesLate {
            let (registry, parts, content) = (self.clone(), parts.clone(), content.clone());
            tokio::spawn(async move {
                registry.late.notified().await;
                registry.carry_out(&parts, key, &content, mode);
            });
            return std::future::pending().await;
        }
        let does = !matches!(mode, Mode::Answers(_) | Mode::Breaks | Mode::Stalls | Mode::Garbage);
        match mode {
            Mode::DoesSlowly => tokio::time::sleep(Duration::from_millis(400)).await,
            Mode::DoesWhenTold => self.late.notified().await,
            Mode::Dawdles => {
                let number = self.inner.lock().expect("free").requests.len() as u64;
                tokio::time::sleep(Duration::from_millis(number * 13 % 37)).await;
            }
            _ => {}
        }
        let mut done = unknown();
        if does {
            done = self.carry_out(parts, key, content, mode);
        }
        match mode {
            Mode::Answers(status) | Mode::DoesAndAnswers(status) => {
                answer(status, &[], format!(r#"{{"errors":[{{"code":"X","message":"as told: {status}"}}]}}"#))
            }
            Mode::Stalls | Mode::DoesAndStalls => std::future::pending().await,
            Mode::Breaks | Mode::DoesAndBreaks => answer(299, &[], String::new()),
            Mode::Garbage => answer(298, &[], String::new()),
            _ => done,
        }
    }

    fn carry_out(
        &self,
        parts: &axum::http::request::Parts,
        (repository, reference): (String, String),
        content: &Bytes,
        mode: Mode,
    ) -> Response<Body> {
        let mut inner = self.inner.lock().expect("free");
        if parts.method == Method::DELETE {
            let Some(gone) = inner.manifests.get(&(repository.clone(), reference.clone())).cloned() else {
                return unknown();
            };
            let by_digest = reference.contains(':');
            inner.manifests.retain(|(within, name), held| {
                !(*within == repository && (*name == reference || by_digest && *held == gone))
            });
            return answer(202, &[], String::new());
        }
        let content = String::from_utf8(content.to_vec()).expect("text");
        let content = if mode == Mode::StoresAnother { content + " and more" } else { content };
        let mut references = vec![reference, digest(&content)];
        let mut set = String::new();
        if mode != Mode::IgnoresTags {
            let query = parts.uri.query().unwrap_or_default();
            let tags: Vec<&str> = query.split('&').filter_map(|parameter| parameter.strip_prefix("tag=")).collect();
            references.extend(tags.iter().map(|tag| (*tag).to_owned()));
            set = tags.join(", ");
        }
        for reference in references {
            inner.manifests.insert((repository.clone(), reference), content.clone());
        }
        let location = format!("http://{}/v2/{repository}/manifests/{}", self.address, digest(&content));
        answer(
            201,
            &[("docker-content-digest", &digest(&content)), ("location", &location), ("oci-tag", &set)],
            String::new(),
        )
    }

    /// Blobs, uploads, and what is passed on without a look.
    async fn other(&self, parts: &axum::http::request::Parts, mut body: Body) -> Response<Body> {
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                self.inner.lock().expect("free").received += data.len() as u64;
            }
        }
        let base = format!("http://{}", self.address);
        if let Some(repository) = path.strip_prefix("/v2/").and_then(|path| path.strip_suffix("/tags/list")) {
            let hides = self.inner.lock().expect("free").mode == Mode::ListsNoTags;
            return if hides {
                answer(405, &[], r#"{"errors":[{"code":"UNSUPPORTED"}]}"#.to_owned())
            } else {
                answer(200, &[], serde_json::json!({ "name": repository, "tags": self.tags(repository) }).to_string())
            };
        }
        match parts.method.as_str() {
            "POST" if query.contains("mount=") => {
                answer(201, &[("location", &format!("/v2/team/app/blobs/{}", digest("x")))], String::new())
            }
            "POST" => answer(
                202,
                &[("location", &format!("{base}/v2/team/app/blobs/uploads/u1?_state=a%2Bb"))],
                String::new(),
            ),
            "PATCH" => {
                answer(202, &[("location", &format!("{base}/v2/team/app/blobs/uploads/u1?_state=c"))], String::new())
            }
            "PUT" => answer(201, &[("location", &format!("{base}/v2/team/app/blobs/x"))], String::new()),
            "GET" if path.ends_with(&digest("elsewhere")) => {
                answer(307, &[("location", "https://blobs.example/signed?sig=a%2Bb")], String::new())
            }
            "GET" if path.ends_with(&digest("private")) && !parts.headers.contains_key("authorization") => {
                let challenge =
                    "Bearer realm=\"https://auth.example/token\",service=\"r\",scope=\"repository:team/app:pull\"";
                answer(401, &[("www-authenticate", challenge)], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.to_owned())
            }
            "GET" if path.ends_with(&digest("huge")) => {
                let length: u64 = query.strip_prefix("length=").and_then(|text| text.parse().ok()).unwrap_or(1 << 20);
                let mut response = Response::new(Body::new(Zeros { left: length }));
                response.headers_mut().insert("content-type", "application/octet-stream".parse().expect("a header"));
                response
            }
            "GET" if parts.headers.contains_key("range") => {
                answer(206, &[("content-range", "bytes 2-4/10")], "cde".to_owned())
            }
            _ => answer(200, &[], "abcdefghij".to_owned()),
        }
    }
}

/// So many bytes, made as they are wanted.
pub(crate) struct Zeros {
    pub(crate) left: u64,
}

impl hyper::body::Body for Zeros {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];
        let length = usize::try_from(self.left.min(PIECE.len() as u64)).expect("small");
        self.left -= length as u64;
        let frame = (length > 0).then(|| Ok(hyper::body::Frame::data(Bytes::from_static(&PIECE[..length]))));
        std::task::Poll::Ready(frame)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = axum::http::StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        response.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    response
}

/// Somebody without rights, to whom nothing is there.
fn is_stranger(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == STRANGER)
}

fn unknown() -> Response<Body> {
    answer(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_owned())
}

/// Serves a router; an answer 299 becomes a connection that breaks, 298 one that says nonsense.
async fn axum_serve(listener: tokio::net::TcpListener, router: Router) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tower::ServiceExt as _;
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let router = router.clone();
        tokio::spawn(async move {
            let raw = Arc::new(Mutex::new(stream.into_std().ok()));
            let stream = raw.lock().expect("free").as_ref().and_then(|stream| stream.try_clone().ok());
            let Some(stream) = stream.and_then(|stream| tokio::net::TcpStream::from_std(stream).ok()) else { return };
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (router, raw) = (router.clone(), Arc::clone(&raw));
                async move {
                    let response = router.oneshot(request.map(Body::new)).await.expect("infallible");
                    if matches!(response.status().as_u16(), 298 | 299)
                        && let Some(mut raw) = raw.lock().expect("free").take()
                    {
                        if response.status().as_u16() == 298 {
                            let _ = raw.set_nonblocking(false);
                            let _ = std::io::Write::write_all(&mut raw, b"this is no HTTP\r\n\r\n");
                        }
                        let _ = raw.shutdown(std::net::Shutdown::Both);
                    }
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
