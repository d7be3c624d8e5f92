//! Bugs that are hit while a request is answered: the caller gets an error and no silence, others are served, health is red.
//!
//! The bugs are in doubles behind the real service: a store that panics when it is read, or when it commits, and a port that
//! panics when a webhook or a gateway records. Nothing in the product can be told to panic.

#![cfg(feature = "server")]

mod world;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use prost::Message;
use prost::bytes::{Buf as _, BufMut as _};
use sha2::{Digest as _, Sha256};
use tagledger::api::failures::Failures;
use tagledger::api::guard::guarded;
use tagledger::api::limits::{Limit, LimitSettings, Limits};
use tagledger::api::principals::{Access, Reads};
use tagledger::api::{grpc, http};
use tagledger::edge::aside;
use tagledger::edge::confirm::Pace;
use tagledger::edge::gateway::figures::Figures;
use tagledger::edge::gateway::protection::Unreachable;
use tagledger::edge::gateway::{Gateway, GatewayConfig};
use tagledger::edge::metrics::Metrics;
use tagledger::edge::port::{
    Claim, GatewayPort, Intended, Intent, LedgerPort, PortError, Recorded, Sighting, Standing, TagView,
};
use tagledger::edge::source::{Secret, SourceConfig};
use tagledger::edge::webhook::{WebhookConfig, webhook};
use tagledger::engine::{Ledger, Options, clock};
use tagledger::ledger::names::{Digest, Registry, Repository, Tag, TagRef};
use tagledger::ledger::note::Skey;
use tagledger::ledger::policy::Policy;
use tagledger::proto;
use tagledger::server::gateway::routes as gateway_routes;
use tagledger::server::in_process::{EngineSource, register_metrics};
use tagledger::server::{listen, panics};
use tagledger::store::memory::MemoryStore;
use tagledger::store::{Batch, CommitError, Cursor, Read, ReadError, Store, Table};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use world::{REGISTRY, REPOSITORY, digest, happened, submission};

/// Longer than any answer takes, shorter than anybody's patience.
const AT_ONCE: Duration = Duration::from_secs(10);
const TOKEN: &str = "0123456789-token-0123456789";
const SECRET: &str = "0123456789-webhook-secret";
const PUSH: &str = include_str!("payloads/distribution/captured-manifest-push-tag-v1.json");

/// Where the bug is.
const NOWHERE: u8 = 0;
const IN_READING: u8 = 1;
const IN_COMMITTING: u8 = 2;

/// A store with a bug.
#[derive(Default)]
struct Buggy {
    store: MemoryStore,
    bug: AtomicU8,
}

impl Buggy {
    fn check(&self) {
        let is_sequencer = std::thread::current().name() == Some("sequencer");
        assert!(is_sequencer || self.bug.load(Ordering::SeqCst) != IN_READING, "the bug that this test is about");
    }
}

impl Read for Buggy {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.check();
        self.store.get(table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        self.check();
        self.store.cursor(table, prefix)
    }
}

impl Store for Buggy {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        assert!(self.bug.load(Ordering::SeqCst) != IN_COMMITTING, "the bug that this test is about");
        self.store.commit(expected_size, batch)
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        self.check();
        self.store.snapshot()
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        self.store.scratch()
    }
}

/// A port with a bug.
struct BuggyPort;

impl LedgerPort for BuggyPort {
    async fn record(&self, _: Vec<Claim>) -> Result<Vec<proto::Receipt>, PortError> {
        panic!("the bug that this test is about")
    }

    fn has_room(&self) -> bool {
        true
    }

    async fn tag(&self, _: &TagRef) -> Result<TagView, PortError> {
        panic!("the bug that this test is about")
    }
}

/// A gateway's port with a bug, in the recording of so many statements to come.
#[derive(Default)]
struct BuggyGatewayPort {
    good: Arc<AtomicU8>,
}

impl GatewayPort for BuggyGatewayPort {
    async fn record(&self, _: proto::Statement) -> Result<Recorded, PortError> {
        if self.good.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            panic!("the bug that this test is about")
        }
        let (rule, detail) = (String::new(), String::new());
        Ok(Recorded { index: 7, recorded_at_us: 7, outcome: proto::Outcome::Noted, rule, detail })
    }

    async fn standing_of(&self, _: &TagRef) -> Result<Standing, PortError> {
        let view = TagView { version: 1, digest: digest('a').parse().ok() };
        Ok(Standing { view, claim: None, intent: None })
    }

    async fn record_if_at(&self, statement: proto::Statement, _: u64) -> Result<Recorded, PortError> {
        self.record(statement).await
    }

    async fn tags_of(&self, _: &Registry, _: &Repository) -> Result<BTreeMap<Tag, TagView>, PortError> {
        Ok(BTreeMap::new())
    }

    async fn policy(&self) -> Result<Policy, PortError> {
        Ok(Policy::default())
    }

    async fn intent(&self, _: u64) -> Result<Intended, PortError> {
        Err(PortError::Unavailable("there is none".into()))
    }

    async fn sightings(&self, _: &Digest, _: u64) -> Result<Vec<Sighting>, PortError> {
        Ok(Vec::new())
    }

    async fn holds(&self, _: Intent, _: &TagRef) -> Result<bool, PortError> {
        Ok(false)
    }
}

/// Serves routes on a free port.
async fn served(routes: axum::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let crowd = tagledger::server::crowd::Crowd::new(0, 0, Vec::new());
        let settings = LimitSettings::default();
        listen::serve(listener, None, crowd, axum::Router::new(), routes, &settings, std::future::pending()).await;
    });
    address
}

/// A registry that takes every manifest.
async fn registry() -> SocketAddr {
    served(axum::Router::new().fallback(|body: axum::body::Bytes| async move {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&body)));
        (axum::http::StatusCode::CREATED, [("docker-content-digest", digest)])
    }))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_in_a_change_of_a_gateway_is_answered_turns_it_red_and_leaves_no_tag_locked() {
    panics::watch();
    let good = Arc::new(AtomicU8::new(u8::MAX));
    let config = GatewayConfig {
        name: "gateway".into(),
        registry: REGISTRY.parse().expect("a registry"),
        upstream: format!("http://{}", registry().await).parse().expect("an address"),
        credentials: None,
        token_realm: None,
        keeps_host: false,
        passed: Vec::new(),
        manifest_limit: 1 << 20,
        manifest_memory: 4 << 20,
        when_unreachable: Unreachable::default(),
        hold_wait: AT_ONCE,
        // Longer than everything that comes before.
        hold_bound: AT_ONCE * 6,
        late_bound: AT_ONCE,
        manifest_timeout: AT_ONCE,
        proxies: Vec::new(),
        has_tls: false,
        look_pause: Duration::from_millis(10),
        ledger_timeout: AT_ONCE,
        connect_timeout: AT_ONCE,
        idle_timeout: AT_ONCE,
        policy_every: AT_ONCE,
        journal: None,
    };
    let mut figures = prometheus_client::registry::Registry::default();
    let port = BuggyGatewayPort { good: Arc::clone(&good) };
    let gateway = Gateway::new(config, port, Box::new(|_| Ok(())), Figures::register(&mut figures)).expect("a gateway");
    let following = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.follow_policy().await }
    });
    let address = served(gateway_routes(&gateway, figures)).await;
    let push = |tag: &str| {
        let head = format!(
            "PUT /v2/{REPOSITORY}/manifests/{tag} HTTP/1.1\r\ncontent-type: application/vnd.oci.image.manifest.v1+json"
        );
        http_at(address, &head, "{}")
    };
    assert!(push("v1").starts_with("HTTP/1.1 201"), "{}", push("v1"));
    // In the intent, and in the outcome, when the registry has carried it out.
    for goes_well in [0, 1] {
        good.store(goes_well, Ordering::SeqCst);
        let answer = push("v1");
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("the gateway failed"), "{answer}");
    }
    let ready = http_at(address, "GET /readyz HTTP/1.1", "");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("a bug was hit at tests/panics.rs"), "{ready}");
    assert!(!ready.contains("that this test is about"), "not what it said: {ready}");
    // Whoever comes next gets the tag.
    good.store(u8::MAX, Ordering::SeqCst);
    for tag in ["v1", "v2"] {
        let answer = push(tag);
        assert!(answer.starts_with("HTTP/1.1 201"), "{tag}: {answer}");
    }
    following.abort();
}

/// The real service over a store with a bug.
struct Stage {
    store: Arc<Buggy>,
    ledger: Ledger,
    address: SocketAddr,
    channel: Channel,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        // What a test says goes through the hook, too.
        let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
        panics::watch();
        let store = Arc::new(Buggy::default());
        let origin = "ledger.example/panics".parse().expect("an origin");
        let ledger = Ledger::open(Options {
            store: Arc::clone(&store) as Arc<dyn Store>,
            keys: tagledger::engine::signer::only(&Skey::from_seed(origin, &[5; 32])),
            key_overlap_us: 0,
            has_begun: false,
            high_water: None,
            clock: Arc::new(clock::system_clock),
            clock_bounds: clock::Bounds::default(),
            kept_map: None,
        });
        let ledger = ledger.expect("it opens");
        ledger.begin_principals(Sha256::digest(TOKEN).into()).await.expect("recorded");
        let folder = tempfile::tempdir().expect("a folder");
        let mut registry = prometheus_client::registry::Registry::with_prefix("tagledger");
        register_metrics(&mut registry, &ledger);
        let metrics = Metrics::register(&mut registry);
        // A request that does not give its place back is noticed soon: a watch that was left takes a moment to give its own back.
        let few = Limit { concurrent: 8, ..Limit::default() };
        let settings = LimitSettings { principal: few, address: few, ..LimitSettings::default() };
        let (limits, failures) = (Limits::new(settings.clone()), Failures::register(&mut registry));
        let access = Arc::new(Access::new(ledger.principals(), Reads::Open, false, limits, failures));
        let source = SourceConfig {
            name: "lab".parse().expect("a name"),
            registry: "registry.example".parse().expect("a registry"),
            secret: Secret::new(SECRET).expect("a secret"),
            confirm: None,
        };
        let aside = folder.path().join("aside");
        let config = WebhookConfig {
            sources: vec![source],
            aside,
            aside_limits: aside::Limits::default(),
            pace: Pace::default(),
        };
        let (webhooks, _) = webhook(config, Arc::new(BuggyPort), metrics).expect("a receiver");
        let http = http::routes(Arc::new(EngineSource::new(ledger.clone())), Arc::new(registry)).merge(webhooks);
        let grpc = guarded(grpc::routes(&ledger, Arc::clone(&access)).await.into_axum_router(), Arc::clone(&access));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let crowd = tagledger::server::crowd::Crowd::new(0, 0, Vec::new());
            listen::serve(listener, None, crowd, grpc, guarded(http, access), &settings, std::future::pending()).await;
        });
        tokio::spawn(panics::tell(ledger.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        Self { store, ledger, address, channel, _folder: folder }
    }

    fn bug(&self, bug: u8) {
        self.store.bug.store(bug, Ordering::SeqCst);
    }

    /// Calls a method with a message, to the end of its answers.
    async fn call(&self, method: &str, message: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.expect("it listens");
        let mut request = Request::new(tokio_stream::once(message));
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("a header"));
        let path = format!("/tagledger.v1.{method}").parse().expect("a path");
        let answered = async {
            let mut answers = client.streaming(request, path, Raw).await?.into_inner();
            let mut all = Vec::new();
            // A watch has no end.
            while let Some(answer) = answers.message().await? {
                all.push(answer);
                if method == "LogService/Watch" {
                    break;
                }
            }
            Ok(all)
        };
        tokio::time::timeout(AT_ONCE, answered).await.unwrap_or_else(|_| panic!("{method} hangs"))
    }

    fn http(&self, head: &str, body: &str) -> String {
        http_at(self.address, head, body)
    }
}

/// What plain HTTP answers, to the end of the connection.
fn http_at(address: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(AT_ONCE)).expect("set");
    let length = body.len();
    let common = format!("host: x\r\nconnection: close\r\ncontent-length: {length}");
    write!(stream, "{head}\r\n{common}\r\n\r\n{body}").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{head:?} hangs: {error}"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Messages as they are on the wire.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// A question to every method, whose answer takes a look into the store.
fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let tag = || (REGISTRY.to_owned(), REPOSITORY.to_owned(), "v1".to_owned());
    let (registry, repository, tag) = tag();
    let of_tag = proto::ResolveTagRequest {
        registry: registry.clone(),
        repository: repository.clone(),
        tag: tag.clone(),
        ..Default::default()
    };
    let history = proto::ListTagHistoryRequest {
        registry: registry.clone(),
        repository: repository.clone(),
        tag,
        ..Default::default()
    };
    let tags =
        proto::ListTagsRequest { registry: registry.clone(), repository: repository.clone(), ..Default::default() };
    let difference = proto::DiffRepositoryRequest { registry, repository, from_us: 1, to_us: 2, ..Default::default() };
    let environment =
        proto::DiffEnvironmentRequest { environment: "prod".into(), from_us: 1, to_us: 2, ..Default::default() };
    let sightings = proto::ListDigestSightingsRequest { digest: digest('a'), ..Default::default() };
    let running = proto::ListRunningRequest { environment: "prod".into(), ..Default::default() };
    let entry = proto::GetEntryRequest { by: Some(proto::get_entry_request::By::Index(0)) };
    let subject = proto::ProveSubjectRequest { key: vec![7; 32], ..Default::default() };
    vec![
        ("LogService/GetEntry", entry.encode_to_vec()),
        ("LogService/ListEntries", proto::ListEntriesRequest::default().encode_to_vec()),
        ("LogService/GetInclusionProof", proto::GetInclusionProofRequest::default().encode_to_vec()),
        ("LogService/GetConsistencyProof", proto::GetConsistencyProofRequest { first: 1, second: 2 }.encode_to_vec()),
        ("LogService/GetMultiProof", proto::GetMultiProofRequest { indexes: vec![0], tree_size: 0 }.encode_to_vec()),
        ("LogService/Watch", proto::WatchRequest { begin: Some(0), ..Default::default() }.encode_to_vec()),
        ("QueryService/ResolveTag", of_tag.encode_to_vec()),
        ("QueryService/ListTagHistory", history.encode_to_vec()),
        ("QueryService/ListTags", tags.encode_to_vec()),
        ("QueryService/ListRepositories", proto::ListRepositoriesRequest::default().encode_to_vec()),
        ("QueryService/ListDigestSightings", sightings.encode_to_vec()),
        ("QueryService/ListRunning", running.encode_to_vec()),
        ("QueryService/DiffRepository", difference.encode_to_vec()),
        ("QueryService/DiffEnvironment", environment.encode_to_vec()),
        ("QueryService/GetPolicy", proto::GetPolicyRequest::default().encode_to_vec()),
        ("QueryService/ListPrincipalChanges", proto::ListPrincipalChangesRequest::default().encode_to_vec()),
        ("QueryService/ProveSubject", subject.encode_to_vec()),
        ("LogService/GetKeys", proto::GetKeysRequest {}.encode_to_vec()),
    ]
}

/// Methods that write, and one statement for each.
fn appends() -> Vec<(&'static str, Vec<u8>)> {
    let submission = || submission(&happened("v1", &digest('b')));
    vec![
        ("AppendService/Append", proto::AppendRequest { submission: Some(submission()) }.encode_to_vec()),
        ("AppendService/AppendBatch", proto::AppendBatchRequest { submissions: vec![submission()] }.encode_to_vec()),
        ("AppendService/AppendStream", proto::AppendStreamRequest { submission: Some(submission()) }.encode_to_vec()),
    ]
}

/// Methods that need nothing but what is in memory.
const FROM_MEMORY: [&str; 2] = ["LogService/GetLedger", "LogService/GetCheckpoint"];

/// Every method of the protocol.
fn methods() -> Vec<String> {
    let mut methods = Vec::new();
    for file in ["append_service", "log_service", "query_service"] {
        let text = std::fs::read_to_string(format!("proto/tagledger/v1/{file}.proto")).expect("readable");
        let service = text.lines().find_map(|line| line.trim().strip_prefix("service ")).expect("a service");
        let service = service.trim_end_matches([' ', '{']);
        let calls = text.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
        methods.extend(calls.map(|call| format!("{service}/{}", call.split('(').next().expect("a name"))));
    }
    methods.sort();
    methods
}

#[test]
fn every_method_is_asked() {
    let asked = questions().into_iter().chain(appends()).map(|(method, _)| method).chain(FROM_MEMORY);
    let mut asked: Vec<String> = asked.map(str::to_owned).collect();
    asked.sort();
    assert_eq!(asked, methods());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hits_a_bug_is_told_others_are_served_and_health_is_red() {
    let stage = Stage::new().await;
    for (method, message) in questions() {
        stage.call(method, message).await.unwrap_or_else(|status| panic!("{method} is asked wrongly: {status:?}"));
    }
    stage.bug(IN_READING);
    for (method, message) in questions() {
        for _ in 0..3 {
            let status = stage.call(method, message.clone()).await.expect_err(method);
            assert_eq!(status.code(), Code::Internal, "{method}: {status:?}");
            assert!(status.message().contains("a bug was hit"), "{method}: {status:?}");
        }
    }
    for path in ["/tile/0/000.p/1", "/tile/entries/000.p/1"] {
        let answer = stage.http(&format!("GET {path} HTTP/1.1"), "");
        assert!(answer.starts_with("HTTP/1.1 500"), "{path}: {answer}");
    }
    let type_ = "application/vnd.docker.distribution.events.v1+json";
    let post =
        format!("POST /webhooks/distribution/lab HTTP/1.1\r\nauthorization: Bearer {SECRET}\r\ncontent-type: {type_}");
    for _ in 0..3 {
        let answer = stage.http(&post, PUSH);
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    // What needs no reading goes on, writing too.
    for (method, message) in appends() {
        let answers = stage.call(method, message).await.unwrap_or_else(|status| panic!("{method}: {status:?}"));
        assert_eq!(answers.len(), 1, "{method}");
    }
    for method in FROM_MEMORY {
        stage.call(method, Vec::new()).await.unwrap_or_else(|status| panic!("{method}: {status:?}"));
    }
    for path in ["/", "/checkpoint", "/healthz"] {
        assert!(stage.http(&format!("GET {path} HTTP/1.1"), "").starts_with("HTTP/1.1 200"), "{path}");
    }
    // Everybody can see that something is wrong.
    turns_red(&stage, "").await;
    let ready = stage.http("GET /readyz HTTP/1.1", "");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("a bug was hit at tests/panics.rs"), "{ready}");
    assert!(!ready.contains("that this test is about"), "not what it said: {ready}");
    let metrics = stage.http("GET /metrics HTTP/1.1", "");
    let count = metrics.lines().find_map(|line| line.strip_prefix("tagledger_panics_total ")).expect("a count");
    assert!(count.parse::<u64>().expect("a number") >= 3, "{count}");
    assert!(metrics.contains("tagledger_accepts_entries 1"), "{metrics}");
    assert_eq!(health(&stage, "tagledger.v1.AppendService").await, ServingStatus::Serving);
    // And all is answered again where the bug is not.
    stage.bug(NOWHERE);
    for (method, message) in questions() {
        stage.call(method, message).await.unwrap_or_else(|status| panic!("{method}: {status:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_in_the_sequencer_stops_acknowledgement() {
    for (method, message) in appends() {
        let stage = Stage::new().await;
        stage.bug(IN_COMMITTING);
        let refusal = |answered: Result<Vec<Vec<u8>>, Status>| match answered {
            // A stream says it of each statement.
            Ok(answers) => {
                let answer = proto::AppendStreamResponse::decode(&*answers[0]).expect("an answer");
                let Some(proto::append_stream_response::Result::Refused(refusal)) = answer.result else {
                    panic!("{method} is acknowledged")
                };
                (Code::from(refusal.code), refusal.message)
            }
            Err(status) => (status.code(), status.message().to_owned()),
        };
        let (code, words) = refusal(stage.call(method, message.clone()).await);
        assert_eq!(code, Code::Unavailable, "{method}: {words}");
        // A stream says it of the statement, and then ends with the ledger.
        let says_why = words.contains("a bug was hit") && words.contains("a restart recovers");
        assert!(says_why || (method.ends_with("Stream") && words.contains("the ledger stops")), "{method}: {words}");
        assert!(stage.ledger.health().is_err_and(|reason| reason.contains("a bug was hit")));
        stage.bug(NOWHERE);
        let (code, _) = refusal(stage.call(method, message).await);
        assert_eq!(code, Code::Unavailable, "{method}, for good");
        turns_red(&stage, "tagledger.v1.AppendService").await;
        assert!(stage.http("GET /metrics HTTP/1.1", "").contains("tagledger_accepts_entries 0"));
        // Reading goes on.
        for (method, message) in questions() {
            stage.call(method, message).await.unwrap_or_else(|status| panic!("{method}: {status:?}"));
        }
    }
}

/// A task of its own keeps gRPC's health up to date.
async fn turns_red(stage: &Stage, service: &str) {
    let red = async {
        while health(stage, service).await != ServingStatus::NotServing {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(AT_ONCE, red).await.unwrap_or_else(|_| panic!("the health of {service:?} stays green"));
}

async fn health(stage: &Stage, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(stage.channel.clone()).check(request).await.expect("answered").into_inner().status()
}
