//! Who may do what, over real sockets: every role against every call, every combination of credentials, TLS, and limits.

#![cfg(feature = "server")]

#[path = "principals/certificates.rs"]
mod certificates;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certificates::{Authority, Files, write_private};
use prost::Message as _;
use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest as _, Sha256};
use tagledger::ledger::note::Skey;
use tagledger::ledger::signature::{key_id, sign, statement_message};
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::query_service_client::QueryServiceClient;
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, Credential, Role, StatementKind, principal_change};
use tagledger::server::config::Config;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use world::{BEGUN, World, delete, delete_manifest, deploy, digest, happened, submission};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

// Who there is.

fn principal(token: &str, roles: &[Role], patterns: &[&str], kinds: &[StatementKind]) -> proto::Principal {
    let grant = proto::Grant {
        repositories: patterns.iter().map(|&pattern| pattern.into()).collect(),
        kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
    };
    proto::Principal {
        roles: roles.iter().map(|role| i32::from(*role)).collect(),
        grants: if patterns.is_empty() { vec![] } else { vec![grant] },
        requires: vec![Credential::Token.into()],
        token_sha256: vec![Sha256::digest(token).to_vec()],
        ..proto::Principal::default()
    }
}

fn writer(token: &str) -> proto::Principal {
    principal(token, &[Role::Writer], &["**"], &[])
}

fn change(name: &str, principal: Option<proto::Principal>) -> proto::Statement {
    let change = match principal {
        Some(principal) => principal_change::Change::Principal(principal),
        None => principal_change::Change::Revocation(proto::Revocation {}),
    };
    let change = proto::PrincipalChange { name: name.into(), change: Some(change) };
    proto::Statement { kind: Some(Kind::PrincipalChange(change)), ..Default::default() }
}

fn producer(seed: u8) -> Skey {
    Skey::from_seed("producer.example".parse().expect("a name"), &[seed; 32])
}

fn signed(statement: &proto::Statement, by: &Skey, over: &[u8]) -> proto::Submission {
    let producer = proto::Producer {
        key_id: key_id(&by.key().verifying_key()),
        signature: sign(by.key(), &statement_message(over)).to_vec(),
    };
    proto::Submission { statement: statement.encode_to_vec(), producer: Some(producer), only_at_version: None }
}

fn bearer<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    request
}

async fn send(channel: &Channel, token: &str, submission: proto::Submission) -> Result<proto::Receipt, Status> {
    let request = bearer(proto::AppendRequest { submission: Some(submission) }, token);
    let response = AppendServiceClient::new(channel.clone()).append(request).await?.into_inner();
    Ok(response.receipt.expect("a receipt"))
}

async fn say(channel: &Channel, token: &str, statement: &proto::Statement) -> Result<proto::Receipt, Status> {
    send(channel, token, submission(statement)).await
}

fn code(result: &Result<proto::Receipt, Status>) -> Code {
    result.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

// Roles.

#[test]
fn every_role_may_state_what_it_is_for_and_nothing_else() {
    runtime().block_on(async {
        let world = World::new().await;
        for (name, roles) in [
            ("reader", &[Role::Reader][..]),
            ("writer", &[Role::Writer]),
            ("scanner", &[Role::Scanner]),
            ("admin", &[Role::Admin]),
        ] {
            let patterns: &[&str] = if matches!(roles[0], Role::Writer | Role::Scanner) { &["**"] } else { &[] };
            world.recorded(&change(name, Some(principal(name, roles, patterns, &[])))).await;
        }
        let observed = proto::TagObserved {
            registry: "registry.example".into(),
            repository: "team/app".into(),
            tag: "v1".into(),
            ..Default::default()
        };
        let attested = proto::Attestation {
            digest: digest('a'),
            predicate_type: "https://slsa.dev/provenance/v1".into(),
            envelope_digest: digest('b'),
            result: 1,
            ..Default::default()
        };
        let of = |kind| proto::Statement { kind: Some(kind), ..Default::default() };
        let statements = [
            ("push", happened("v1", &digest('a')), "writer"),
            ("delete", delete("v1"), "writer"),
            ("delete of a manifest", delete_manifest(&digest('a')), "writer"),
            ("deployment", deploy("prod", "web", "v1", &digest('a')), "writer"),
            ("attestation", of(Kind::Attestation(attested)), "writer"),
            ("observation", of(Kind::TagObserved(observed)), "writer scanner"),
            ("policy", world::policy(&["registry.example/other:v*"]), "admin"),
            ("principal", change("new", Some(principal("new", &[Role::Reader], &[], &[]))), "admin"),
        ];
        for (what, statement, allowed) in &statements {
            for name in ["reader", "writer", "scanner", "admin"] {
                let expected = if allowed.contains(name) { Code::Ok } else { Code::PermissionDenied };
                let result = say(&world.channel, name, statement).await;
                assert_eq!(code(&result), expected, "{what} by {name}: {result:?}");
            }
        }
        world.check_ledger().await;
    });
}

/// Every call that reads, as its status and whether it needs to be a reader where reading is closed.
async fn reads(channel: &Channel, token: &str) -> BTreeMap<&'static str, Code> {
    let (mut log, mut query) = (LogServiceClient::new(channel.clone()), QueryServiceClient::new(channel.clone()));
    let place = || ("registry.example".to_owned(), "team/app".to_owned());
    let mut found = BTreeMap::new();
    macro_rules! ask {
        ($client:ident . $method:ident, $message:expr) => {
            let answer = $client.$method(bearer($message, token)).await;
            found.insert(stringify!($method), answer.map_or_else(|status| status.code(), |_| Code::Ok));
        };
    }
    ask!(log.get_ledger, proto::GetLedgerRequest {});
    ask!(log.get_keys, proto::GetKeysRequest {});
    ask!(log.get_checkpoint, proto::GetCheckpointRequest {});
    ask!(log.get_consistency_proof, proto::GetConsistencyProofRequest { first: 1, second: 3 });
    ask!(log.get_entry, proto::GetEntryRequest { by: Some(proto::get_entry_request::By::Index(0)) });
    ask!(log.list_entries, proto::ListEntriesRequest { begin: 0, end: 1 });
    ask!(log.get_inclusion_proof, proto::GetInclusionProofRequest { index: 0, tree_size: 0 });
    ask!(log.get_multi_proof, proto::GetMultiProofRequest { indexes: vec![0], tree_size: 0 });
    ask!(log.watch, proto::WatchRequest::default());
    let (registry, repository) = place();
    let tag = proto::ResolveTagRequest { registry, repository, tag: "v1".into(), ..Default::default() };
    ask!(query.resolve_tag, tag);
    let (registry, repository) = place();
    let history = proto::ListTagHistoryRequest { registry, repository, tag: "v1".into(), ..Default::default() };
    ask!(query.list_tag_history, history);
    let (registry, repository) = place();
    ask!(query.list_tags, proto::ListTagsRequest { registry, repository, ..Default::default() });
    let sightings = proto::ListDigestSightingsRequest { digest: digest('a'), ..Default::default() };
    ask!(query.list_digest_sightings, sightings);
    ask!(query.list_running, proto::ListRunningRequest::default());
    let (registry, repository) = place();
    ask!(query.diff_repository, proto::DiffRepositoryRequest { registry, repository, ..Default::default() });
    let environment = "prod".to_owned();
    ask!(query.diff_environment, proto::DiffEnvironmentRequest { environment, ..Default::default() });
    ask!(query.prove_subject, proto::ProveSubjectRequest { key: vec![0; 32], begin: 0, end: 0 });
    ask!(query.list_principal_changes, proto::ListPrincipalChangesRequest::default());
    found
}

/// What it takes to check a receipt.
const FOR_ALL_PRINCIPALS: [&str; 4] = ["get_ledger", "get_keys", "get_checkpoint", "get_consistency_proof"];

async fn http(address: SocketAddr, path: &str, token: &str) -> u16 {
    http_as("GET", address, path, token).await
}

async fn http_as(method: &str, address: SocketAddr, path: &str, token: &str) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    String::from_utf8_lossy(&answer[9..12]).parse().expect("a status")
}

async fn metrics(address: SocketAddr) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let request = "GET /metrics HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[test]
fn where_reading_needs_a_role_every_read_does_and_health_does_not() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let open = World::open(&path).await;
        for (name, role) in [("reader", Role::Reader), ("admin", Role::Admin)] {
            open.recorded(&change(name, Some(principal(name, &[role], &[], &[])))).await;
        }
        open.recorded(&change("writer", Some(writer("writer")))).await;
        for token in ["", "writer", "unknown"] {
            let codes = reads(&open.channel, token).await;
            assert!(codes.values().all(|code| *code == Code::Ok), "open to all: {codes:?}");
            assert_eq!(http(open.address, "/tile/0/000.p/1", token).await, 200);
        }
        open.stop().await;
        let config: Config = toml::from_str("reads = \"reader\"").expect("a configuration");
        let world = World::open_with(&path, config).await;
        assert!(reads(&world.channel, "reader").await.values().all(|code| *code == Code::Ok));
        for (token, known, others) in [
            ("", Code::Unauthenticated, Code::Unauthenticated),
            ("unknown", Code::Unauthenticated, Code::Unauthenticated),
            ("writer", Code::Ok, Code::PermissionDenied),
            ("admin", Code::Ok, Code::PermissionDenied),
        ] {
            for (call, code) in reads(&world.channel, token).await {
                let expected = if FOR_ALL_PRINCIPALS.contains(&call) { known } else { others };
                assert_eq!(code, expected, "{call} with token {token:?}");
            }
        }
        for (token, checkpoint, tile) in
            [("", 401, 401), ("unknown", 401, 401), ("writer", 200, 403), ("reader", 200, 200)]
        {
            assert_eq!(http(world.address, "/checkpoint", token).await, checkpoint, "{token:?}");
            for path in ["/tile/0/000.p/1", "/tile/entries/000.p/1", "/tile/x", "/no/such/path"] {
                let status = http(world.address, path, token).await;
                assert!(status == tile || (tile == 200 && status == 404), "{path} with {token:?}: {status}");
            }
            for path in ["/healthz", "/readyz", "/metrics", "/"] {
                assert_eq!(http(world.address, path, token).await, 200, "{path} is open");
            }
        }
        use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
        HealthClient::new(world.channel.clone()).check(HealthCheckRequest::default()).await.expect("open");
        let result = say(&world.channel, "writer", &happened("v1", &digest('a'))).await;
        assert_eq!(code(&result), Code::Ok, "a writer need not read");
        world.stop().await;
    });
}

#[test]
fn a_grant_covers_its_repositories_and_kinds_and_no_others() {
    runtime().block_on(async {
        let world = World::new().await;
        let kinds = [StatementKind::TagPush, StatementKind::Deployment];
        let narrow = principal("ci", &[Role::Writer], &["registry.example/team/a*"], &kinds);
        world.recorded(&change("ci", Some(narrow))).await;
        let push = |registry: &str, repository: &str| {
            let mut statement = happened("v1", &digest('a'));
            if let Some(Kind::TagPush(push)) = &mut statement.kind {
                (push.registry, push.repository) = (registry.into(), repository.into());
            }
            statement
        };
        for (registry, repository, expected) in [
            ("registry.example", "team/app", Code::Ok),
            ("registry.example", "team/app/deeper", Code::PermissionDenied),
            ("registry.example", "team/b", Code::PermissionDenied),
            ("registry.example", "other/app", Code::PermissionDenied),
            ("registry.example:5000", "team/app", Code::PermissionDenied),
            ("xregistry.example", "team/app", Code::PermissionDenied),
        ] {
            let result = say(&world.channel, "ci", &push(registry, repository)).await;
            assert_eq!(code(&result), expected, "{registry}/{repository}");
        }
        assert_eq!(code(&say(&world.channel, "ci", &delete("v1")).await), Code::PermissionDenied);
        let deployed = deploy("prod", "web", "v1", &digest('a'));
        assert_eq!(code(&say(&world.channel, "ci", &deployed).await), Code::Ok);
        // A batch is all or none.
        let before = world.check_ledger().await.len();
        let submissions = vec![submission(&push("registry.example", "team/app")), submission(&delete("v1"))];
        let request = bearer(proto::AppendBatchRequest { submissions }, "ci");
        let status = world.append().append_batch(request).await.expect_err("one of them is not granted");
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(world.check_ledger().await.len(), before);
    });
}

// Tokens.

#[test]
fn tokens_rotate_with_an_overlap_and_a_revoked_one_is_good_for_nothing() {
    runtime().block_on(async {
        let world = World::new().await;
        let with = |tokens: &[&str]| {
            let mut hashes: Vec<Vec<u8>> = tokens.iter().map(|token| Sha256::digest(token).to_vec()).collect();
            hashes.sort();
            change("ci", Some(proto::Principal { token_sha256: hashes, ..writer("") }))
        };
        let pushes = async |token: &str| code(&say(&world.channel, token, &happened("v1", &digest('a'))).await);
        assert_eq!(pushes("old").await, Code::Unauthenticated);
        world.recorded(&with(&["old"])).await;
        assert_eq!((pushes("old").await, pushes("new").await), (Code::Ok, Code::Unauthenticated));
        world.recorded(&with(&["old", "new"])).await;
        assert_eq!((pushes("old").await, pushes("new").await), (Code::Ok, Code::Ok));
        world.recorded(&with(&["new"])).await;
        assert_eq!((pushes("old").await, pushes("new").await), (Code::Unauthenticated, Code::Ok));
        world.recorded(&change("ci", None)).await;
        assert_eq!((pushes("old").await, pushes("new").await), (Code::Unauthenticated, Code::Unauthenticated));
        // What it stated before stays, and is judged by what it was then.
        world.check_ledger().await;
    });
}

#[test]
fn principals_are_the_same_after_a_restart() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let world = World::open(&path).await;
        world.recorded(&change("ci", Some(writer("ci")))).await;
        world.recorded(&change("gone", Some(writer("gone")))).await;
        world.recorded(&change("gone", None)).await;
        // The first token is only the first: another may take its place.
        let everything = [Role::Reader, Role::Writer, Role::Scanner, Role::Admin];
        world.recorded(&change("operator", Some(principal("another", &everything, &["**"], &[])))).await;
        let before = world.check_ledger().await;
        let first = world.token.clone();
        world.stop().await;
        let world = World::open(&path).await;
        assert_eq!(world.check_ledger().await, before, "nothing is recorded anew");
        for (token, expected) in [
            ("ci", Code::Ok),
            ("another", Code::Ok),
            ("gone", Code::Unauthenticated),
            (first.as_str(), Code::Unauthenticated),
        ] {
            assert_eq!(code(&say(&world.channel, token, &happened("v1", &digest('a'))).await), expected, "{token}");
        }
        world.stop().await;
    });
}

#[test]
fn nobody_is_recorded_after_the_entry_that_revokes_him() {
    runtime().block_on(async {
        let world = World::new().await;
        world.recorded(&change("ci", Some(writer("ci")))).await;
        // A stream was let in before; and many calls race with the revocation.
        let (statements, sent) = tokio::sync::mpsc::channel(2000);
        let request = bearer(tokio_stream::wrappers::ReceiverStream::new(sent), "ci");
        let mut stream = world.append().append_stream(request).await.expect("let in").into_inner();
        let message = |number: u32| proto::AppendStreamRequest {
            submission: Some(submission(&happened(&format!("s{number}"), &digest('a')))),
        };
        statements.send(message(0)).await.expect("sent");
        let recorded = |answer: proto::AppendStreamResponse| match answer.result.expect("one") {
            proto::append_stream_response::Result::Recorded(response) => Ok(response.receipt.expect("a receipt").index),
            proto::append_stream_response::Result::Refused(refusal) => Err(refusal.code),
        };
        assert!(recorded(stream.message().await.expect("open").expect("one")).is_ok());
        let calls: Vec<_> = (0..200)
            .map(|number| {
                let channel = world.channel.clone();
                let statement = happened(&format!("t{number}"), &digest('a'));
                tokio::spawn(async move { say(&channel, "ci", &statement).await })
            })
            .collect();
        (1..200).for_each(|number| statements.try_send(message(number)).expect("room"));
        let revoked = world.recorded(&change("ci", None)).await.index;
        let mut refused = 0;
        for call in calls {
            match call.await.expect("no panic") {
                Ok(receipt) => assert!(receipt.index < revoked, "recorded as {} after {revoked}", receipt.index),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
                    refused += 1;
                }
            }
        }
        for _ in 1..200 {
            match recorded(stream.message().await.expect("open").expect("one")) {
                Ok(index) => assert!(index < revoked, "recorded as {index} after {revoked}"),
                Err(code) => {
                    assert_eq!(code, i32::from(Code::Unauthenticated));
                    refused += 1;
                }
            }
        }
        statements.send(message(200)).await.expect("sent");
        assert_eq!(recorded(stream.message().await.expect("open").expect("one")), Err(16), "it is over for the stream");
        assert!(refused < 399, "some were in time");
        world.check_ledger().await;
    });
}

// Lock-out, and what is no change at all.

#[test]
fn a_change_that_would_lock_everybody_out_is_refused_and_nothing_recorded() {
    runtime().block_on(async {
        let world = World::new().await;
        let refused = async |statement: &proto::Statement, word: &str| {
            let status = world.record(statement).await.expect_err("refused");
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert!(status.message().contains(word), "{status:?}");
        };
        refused(&change("operator", None), "the last with the role admin").await;
        refused(&change("operator", Some(principal("x", &[Role::Reader], &[], &[]))), "the last with").await;
        refused(&change("nobody", None), "not known").await;
        refused(&change("thief", Some(writer(&world.token))), "each needs its own").await;
        // Here no certificate can be shown, so who has to show one can't come in.
        let certified = proto::Principal {
            requires: vec![Credential::Certificate.into()],
            certificate_names: vec!["admin.example".into()],
            ..principal("x", &[Role::Admin], &[], &[])
        };
        refused(&change("operator", Some(certified)), "this server takes none").await;
        assert_eq!(world.check_ledger().await.len() as u64, BEGUN);
        // With another admin it may go, but not the two in one request.
        world.recorded(&change("admin", Some(principal("admin", &[Role::Admin], &[], &[])))).await;
        let both = [change("admin", None), change("operator", None)].map(|statement| submission(&statement));
        let request = world.with_token(proto::AppendBatchRequest { submissions: both.into() });
        let status = world.append().append_batch(request).await.expect_err("both at once");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        // Nor does it help to take them away one by one in one request, with one left who can't come in.
        let keeper = proto::Principal {
            requires: vec![Credential::Certificate.into()],
            certificate_names: vec!["keeper.example".into()],
            token_sha256: vec![],
            ..principal("keeper", &[Role::Admin], &[], &[])
        };
        world.recorded(&change("keeper", Some(keeper))).await;
        let both = [change("admin", None), change("operator", None)].map(|statement| submission(&statement));
        let request = world.with_token(proto::AppendBatchRequest { submissions: both.into() });
        let status = world.append().append_batch(request).await.expect_err("both at once");
        assert!(status.message().contains("this server takes none"), "{status:?}");
        world.recorded(&change("operator", None)).await;
        let result = say(&world.channel, &world.token, &happened("v1", &digest('a'))).await;
        assert_eq!(code(&result), Code::Unauthenticated);
        world.check_ledger().await;
    });
}

#[test]
fn a_stream_of_a_revoked_reader_ends() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let config: Config = toml::from_str("reads = \"reader\"").expect("a configuration");
        let world = World::open_with(&folder.path().join("ledger"), config).await;
        for name in ["kept", "gone"] {
            world.recorded(&change(name, Some(principal(name, &[Role::Reader], &[], &[])))).await;
        }
        let watch = async |token: &str| {
            let request = bearer(proto::WatchRequest::default(), token);
            LogServiceClient::new(world.channel.clone()).watch(request).await.expect("let in").into_inner()
        };
        let (mut kept, mut gone) = (watch("kept").await, watch("gone").await);
        world.recorded(&happened("v1", &digest('a'))).await;
        for stream in [&mut kept, &mut gone] {
            stream.message().await.expect("still let in").expect("an entry");
        }
        world.recorded(&change("gone", None)).await;
        let ended = loop {
            match gone.message().await {
                // What was on its way.
                Ok(Some(_)) => {}
                Ok(None) => panic!("it says why it ends"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
        world.recorded(&happened("v2", &digest('a'))).await;
        kept.message().await.expect("still let in").expect("an entry");
    });
}

#[test]
fn who_takes_all_tokens_from_oneself_still_gets_the_new_one() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let config: Config = toml::from_str("reads = \"reader\"").expect("a configuration");
        let world = World::open_with(&folder.path().join("ledger"), config).await;
        let mut tagledger = std::process::Command::new(env!("CARGO_BIN_EXE_tagledger"));
        tagledger.env_clear().env("HOME", folder.path()).args(["--server", &format!("http://{}", world.address)]);
        tagledger.arg("--token-file").arg(world.data_dir.join("token"));
        tagledger.args(["principal", "rotate", "operator", "--drop-tokens"]);
        let printed =
            tokio::task::spawn_blocking(move || tagledger.output()).await.expect("no panic").expect("it runs");
        let text = format!("{}{}", String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&printed.stderr));
        assert_ne!(printed.status.code(), Some(3), "nobody lied: {text}");
        let token =
            text.split_whitespace().find(|word| word.len() == 43).unwrap_or_else(|| panic!("no token in {text}"));
        let push = happened("v1", &digest('a'));
        assert_eq!(code(&say(&world.channel, &world.token, &push).await), Code::Unauthenticated);
        assert_eq!(code(&say(&world.channel, token, &push).await), Code::Ok);
    });
}

#[test]
fn a_wrong_token_is_counted_also_where_anybody_may_read() {
    runtime().block_on(async {
        let world = World::new().await;
        assert_eq!(http(world.address, "/checkpoint", "guessed").await, 200);
        let line = "tagledger_authentication_failures_total{reason=\"token\"} 1";
        assert!(metrics(world.address).await.lines().any(|found| found == line));
    });
}

#[test]
fn a_definition_that_makes_no_sense_names_what_is_wrong_with_it() {
    runtime().block_on(async {
        let world = World::new().await;
        let base = || writer("ci");
        let grant = |pattern: &str| vec![proto::Grant { repositories: vec![pattern.into()], kinds: vec![] }];
        let weak = {
            // Of order 1; with its right hash, so that only the key itself is at fault.
            let key = [&[1u8][..], &[1], &[0; 31]].concat();
            let hash = Sha256::digest([b"weak\n".as_slice(), &key].concat());
            use base64::Engine as _;
            format!("weak+{}+{}", hex::encode(&hash[..4]), base64::engine::general_purpose::STANDARD.encode(&key))
        };
        let long = "x".repeat(513);
        let many: Vec<Vec<u8>> = (0..17u8).map(|number| vec![number; 32]).collect();
        let cases: Vec<(&str, proto::Principal, &str, &str)> = vec![
            ("ci", proto::Principal { roles: vec![], ..base() }, "principal.roles", "COUNT"),
            ("ci", proto::Principal { roles: vec![9], ..base() }, "principal.roles", "UNKNOWN_VALUE"),
            ("ci", proto::Principal { roles: vec![4, 2], ..base() }, "principal.roles", "NOT_CANONICAL"),
            ("ci", proto::Principal { grants: vec![], ..base() }, "principal.grants", "COUNT"),
            ("ci", proto::Principal { roles: vec![1], ..base() }, "principal.grants", "COUNT"),
            (
                "ci",
                proto::Principal { grants: grant("a/[b"), ..base() },
                "principal.grants[0].repositories",
                "INVALID_PATTERN",
            ),
            ("ci", proto::Principal { grants: grant(&long), ..base() }, "principal.grants[0].repositories", "TOO_LONG"),
            ("ci", proto::Principal { requires: vec![], ..base() }, "principal.requires", "COUNT"),
            ("ci", proto::Principal { token_sha256: vec![], ..base() }, "principal.token_sha256", "REQUIRED"),
            ("ci", proto::Principal { token_sha256: vec![vec![0; 31]], ..base() }, "principal.token_sha256", "LENGTH"),
            ("ci", proto::Principal { token_sha256: many, ..base() }, "principal.token_sha256", "COUNT"),
            ("ci", proto::Principal { keys: vec![weak], ..base() }, "principal.keys", "INVALID_FORMAT"),
            ("ci", proto::Principal { requires: vec![3], ..base() }, "principal.keys", "REQUIRED"),
            ("Ci", base(), "name", "INVALID_FORMAT"),
            ("webhook/lab", base(), "name", "INVALID_FORMAT"),
            ("", base(), "name", "INVALID_FORMAT"),
        ];
        for (name, definition, field, reason) in cases {
            let status = world.record(&change(name, Some(definition))).await.expect_err(field);
            let details = status.get_details_bad_request().expect("fields").field_violations;
            let found: Vec<(&str, &str)> = details.iter().map(|v| (v.field.as_str(), v.reason.as_str())).collect();
            let field = format!("submission.statement.principal_change.{field}");
            assert!(found.contains(&(field.as_str(), reason)), "{field} {reason}: {found:?}");
        }
        assert_eq!(world.check_ledger().await.len() as u64, BEGUN);
    });
}

// Signatures.

#[test]
fn a_signature_counts_only_over_these_bytes_by_a_key_it_has_now() {
    runtime().block_on(async {
        let world = World::new().await;
        let keys = |seeds: &[u8]| {
            let mut keys: Vec<String> = seeds.iter().map(|seed| producer(*seed).vkey().to_string()).collect();
            keys.sort();
            keys
        };
        let both = vec![Credential::Token.into(), Credential::Signature.into()];
        let signer = |seeds: &[u8]| proto::Principal { requires: both.clone(), keys: keys(seeds), ..writer("ci") };
        world.recorded(&change("ci", Some(signer(&[2, 3])))).await;
        let statement = happened("v1", &digest('a'));
        let bytes = statement.encode_to_vec();
        let other = happened("v1", &digest('b')).encode_to_vec();
        for (token, submission, expected) in [
            ("ci", signed(&statement, &producer(2), &bytes), Code::Ok),
            ("ci", signed(&statement, &producer(3), &bytes), Code::Ok),
            ("ci", signed(&statement, &producer(2), &other), Code::InvalidArgument),
            ("ci", signed(&statement, &producer(4), &bytes), Code::InvalidArgument),
            ("ci", submission(&statement), Code::InvalidArgument),
            ("", signed(&statement, &producer(2), &bytes), Code::Unauthenticated),
            (world.token.as_str(), signed(&statement, &producer(2), &bytes), Code::InvalidArgument),
        ] {
            let result = send(&world.channel, token, submission).await;
            assert_eq!(code(&result), expected, "{result:?}");
        }
        // A key that was taken signs nothing any more; what it signed before still holds.
        world.recorded(&change("ci", Some(signer(&[3])))).await;
        let result = send(&world.channel, "ci", signed(&statement, &producer(2), &bytes)).await;
        assert_eq!(code(&result), Code::InvalidArgument);
        world.check_ledger().await;
        // Whoever needs nothing else is known by the signature alone.
        let alone = proto::Principal {
            requires: vec![Credential::Signature.into()],
            token_sha256: vec![],
            keys: keys(&[5]),
            ..writer("")
        };
        world.recorded(&change("alone", Some(alone))).await;
        let statement = proto::Statement { event_id: "job-1".into(), ..statement };
        let bytes = statement.encode_to_vec();
        for (submission, expected) in [
            (signed(&statement, &producer(5), &bytes), Code::Ok),
            (signed(&statement, &producer(5), &other), Code::InvalidArgument),
            (signed(&statement, &producer(3), &bytes), Code::Unauthenticated),
            (submission(&statement), Code::InvalidArgument),
        ] {
            let result = send(&world.channel, "", submission).await;
            assert_eq!(code(&result), expected, "{result:?}");
        }
        world.check_ledger().await;
    });
}

// Certificates.

#[test]
fn each_combination_of_credentials_lets_in_who_shows_all_of_it_and_nobody_else() {
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        let plain = files.connect(&world, None).await.expect("connected");
        let credentials = [Credential::Token, Credential::Certificate, Credential::Signature];
        let subsets: Vec<Vec<Credential>> =
            (1..8).map(|bits| (0..3).filter(|at| bits >> at & 1 == 1).map(|at| credentials[at]).collect()).collect();
        // One principal for each combination, with credentials of its own, and all of them.
        for (seed, requires) in (10u8..).zip(&subsets) {
            let definition = proto::Principal {
                requires: requires.iter().map(|credential| i32::from(*credential)).collect(),
                certificate_names: vec![format!("client-{seed}.example")],
                keys: vec![producer(seed).vkey().to_string()],
                ..writer(&format!("token-{seed}"))
            };
            let change = change(&format!("principal-{seed}"), Some(definition));
            say(&plain, &world.token, &change).await.expect("recorded");
        }
        for (seed, requires) in (10u8..).zip(&subsets) {
            let client = files.clients.client(&format!("client-{seed}.example"));
            let certified = files.connect(&world, Some(&client)).await.expect("connected");
            for shown in std::iter::once(Vec::new()).chain(subsets.clone()) {
                let channel = if shown.contains(&Credential::Certificate) { &certified } else { &plain };
                let token = if shown.contains(&Credential::Token) { format!("token-{seed}") } else { String::new() };
                // Who shows nothing else needs an event id.
                let mut statement = happened(&format!("v{seed}"), &digest('a'));
                statement.event_id = "job-1".into();
                let submission = match shown.contains(&Credential::Signature) {
                    true => signed(&statement, &producer(seed), &statement.encode_to_vec()),
                    false => submission(&statement),
                };
                let result = send(channel, &token, submission).await;
                let is_enough = requires.iter().all(|credential| shown.contains(credential));
                // Known by something: a token, a certificate, or a signature where that is all it takes.
                assert_eq!(result.is_ok(), is_enough, "{requires:?} and shown {shown:?}: {result:?}");
                if let Err(status) = result {
                    assert!(matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument), "{status:?}");
                }
            }
            // With a certificate of somebody else.
            if requires.contains(&Credential::Certificate) {
                let other = files.clients.client("stranger.example");
                let channel = files.connect(&world, Some(&other)).await.expect("connected");
                let statement = happened(&format!("v{seed}"), &digest('a'));
                let submission = signed(&statement, &producer(seed), &statement.encode_to_vec());
                let result = send(&channel, &format!("token-{seed}"), submission).await;
                assert_eq!(code(&result), Code::Unauthenticated, "{result:?}");
            }
        }
        world.stop().await;
    });
}

#[test]
fn a_certificate_that_does_not_hold_is_no_way_in() {
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        let plain = files.connect(&world, None).await.expect("connected");
        let definition = proto::Principal {
            requires: vec![Credential::Certificate.into()],
            certificate_names: vec!["ci.example".into(), "common name".into()],
            ..writer("x")
        };
        say(&plain, &world.token, &change("ci", Some(definition))).await.expect("recorded");
        let params = |name: &str| CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let pushed = async |client: &(String, String)| -> Result<(), String> {
            let channel = files.connect(&world, Some(client)).await?;
            let result = say(&channel, "", &happened("v1", &digest('a'))).await;
            result.map(drop).map_err(|status| format!("{status:?}"))
        };
        pushed(&files.clients.client("ci.example")).await.expect("it holds");
        let mut by_common_name = CertificateParams::new(Vec::new()).expect("parameters");
        by_common_name.distinguished_name.push(DnType::CommonName, "common name");
        pushed(&files.clients.sign(by_common_name)).await.expect("its common name is one");
        let mut expired = params("ci.example");
        (expired.not_before, expired.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        let mut early = params("ci.example");
        (early.not_before, early.not_after) = (rcgen::date_time_ymd(2200, 1, 1), rcgen::date_time_ymd(2201, 1, 1));
        let own = KeyPair::generate().expect("a key");
        let self_signed = (params("ci.example").self_signed(&own).expect("signed").pem(), own.serialize_pem());
        for (what, client, word) in [
            ("expired", files.clients.sign(expired), "certificate expired"),
            ("not yet valid", files.clients.sign(early), "not valid yet"),
            ("by another authority", Authority::new("clients").client("ci.example"), "does not hold"),
            ("self-signed", self_signed, "does not hold"),
            ("of another name", files.clients.client("cx.example"), "no principal has one of the names"),
        ] {
            let error = pushed(&client).await.expect_err(what);
            assert!(error.contains(word), "{what}: {error}");
        }
        let metrics = metrics_over_tls(&files, &world).await;
        let count = |reason: &str| {
            let line = format!("tagledger_authentication_failures_total{{reason=\"{reason}\"}} ");
            let value = metrics.lines().find_map(|found| found.strip_prefix(&line));
            value.map_or(0, |value| value.parse::<u64>().expect("a number"))
        };
        assert!(count("certificate") >= 5, "{metrics}");
        world.stop().await;
    });
}

async fn metrics_over_tls(files: &Files, world: &World) -> String {
    use http_body_util::BodyExt as _;
    use tonic::client::GrpcService as _;
    let mut channel = files.connect(world, None).await.expect("connected");
    let uri = format!("https://localhost:{}/metrics", world.address.port());
    let request =
        tonic::codegen::http::Request::builder().uri(uri).body(tonic::body::Body::empty()).expect("a request");
    std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("ready");
    let answer = channel.call(request).await.expect("an answer");
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn certificates_are_read_anew_and_a_broken_file_keeps_the_old_ones() {
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        let ask = async || files.connect(&world, None).await;
        ask().await.expect("the first certificate");
        let held = ask().await.expect("a connection that stays");
        // Broken: what was there stays.
        std::fs::write(files.path("server.pem"), "no certificate").expect("written");
        tokio::time::sleep(Duration::from_secs(4)).await;
        ask().await.expect("the first certificate still");
        // By another authority, which clients so far do not trust.
        let others = Authority::new("other servers");
        files.serve(&others.server());
        let patience = Instant::now() + Duration::from_secs(20);
        while ask().await.is_ok() {
            assert!(Instant::now() < patience, "the new certificate is not served");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        LogServiceClient::new(held).get_ledger(proto::GetLedgerRequest {}).await.expect("it goes on");
        // A key that others may read is not taken.
        files.serve(&files.ca.server());
        std::fs::set_permissions(files.path("server.key"), std::fs::Permissions::from_mode(0o644)).expect("changed");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(ask().await.is_err(), "the loose key is not used");
        std::fs::set_permissions(files.path("server.key"), std::fs::Permissions::from_mode(0o600)).expect("changed");
        let patience = Instant::now() + Duration::from_secs(20);
        while ask().await.is_err() {
            assert!(Instant::now() < patience, "the repaired files are not served");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        world.stop().await;
    });
}

#[test]
fn the_command_line_speaks_tls_and_shows_its_certificate() {
    let runtime = runtime();
    let files = Files::new();
    let world = runtime.block_on(files.world());
    std::fs::write(files.path("ca.pem"), files.ca.pem()).expect("written");
    let (certificate, key) = files.clients.client("ci.example");
    std::fs::write(files.path("ci.pem"), certificate).expect("written");
    write_private(&files.path("ci.key"), &key);
    let server = format!("https://localhost:{}", world.address.port());
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tagledger"));
        command.current_dir(files.folder.path()).env_clear().env("HOME", files.folder.path());
        command.env("TAGLEDGER_SERVER", &server).env("TAGLEDGER_CA_FILE", "ca.pem");
        let output = command.args(arguments).output().expect("tagledger starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let added = run(&[
        "principal",
        "add",
        "ci",
        "--role",
        "writer",
        "--repository",
        "**",
        "--require",
        "certificate",
        "--certificate-name",
        "ci.example",
        "--token-file",
        "ledger/token",
    ]);
    assert_eq!(added.0, Some(0), "{}", added.1);
    let push = ["record", "push", "registry.example/team/app:v1", "--digest", &digest('a')];
    let with = |more: &[&str]| run(&[&push[..], more].concat());
    assert_eq!(with(&["--cert", "ci.pem", "--key", "ci.key"]).0, Some(0));
    let nothing = with(&[]);
    assert_eq!(nothing.0, Some(1));
    assert!(nothing.1.contains("or a client certificate"), "{}", nothing.1);
    let half = with(&["--cert", "ci.pem"]);
    assert_eq!(half.0, Some(2), "{}", half.1);
    std::fs::set_permissions(files.path("ci.key"), std::fs::Permissions::from_mode(0o640)).expect("changed");
    let loose = with(&["--cert", "ci.pem", "--key", "ci.key"]);
    assert_eq!(loose.0, Some(1));
    assert!(loose.1.contains("chmod 600"), "{}", loose.1);
    // The wrong authority for the server, and a server without TLS.
    std::fs::write(files.path("other.pem"), files.clients.pem()).expect("written");
    let distrusted = with(&["--ca-file", "other.pem"]);
    assert_eq!(distrusted.0, Some(1));
    assert!(distrusted.1.contains("UnknownIssuer") || distrusted.1.contains("certificate"), "{}", distrusted.1);
    let mut expired = CertificateParams::new(vec!["ci.example".to_owned()]).expect("parameters");
    (expired.not_before, expired.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let (certificate, key) = files.clients.sign(expired);
    std::fs::write(files.path("old.pem"), certificate).expect("written");
    write_private(&files.path("old.key"), &key);
    let old = with(&["--cert", "old.pem", "--key", "old.key"]);
    assert_eq!(old.0, Some(1));
    assert!(old.1.contains("expired"), "{}", old.1);
    runtime.block_on(world.stop());
}

// Limits, and what is told of failures.

#[test]
fn who_asks_too_much_is_told_when_to_ask_again_and_others_are_not() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let text =
            "[limits.principals.greedy]\nper_second = 5\nburst = 10\n[limits.address]\nper_second = 5\nburst = 40\n";
        let config: Config = toml::from_str(text).expect("a configuration");
        let world = World::open_with(&folder.path().join("ledger"), config).await;
        world.recorded(&change("greedy", Some(writer("greedy")))).await;
        world.recorded(&change("modest", Some(writer("modest")))).await;
        let push = happened("v1", &digest('a'));
        let mut refused = None;
        for number in 0..30 {
            match say(&world.channel, "greedy", &push).await {
                Ok(_) => assert!(number < 20, "a burst of ten, and five a second"),
                Err(status) => {
                    assert!(number >= 10, "a burst of ten is allowed");
                    refused = Some(status);
                    break;
                }
            }
        }
        let status = refused.expect("too much");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let wait = status.get_details_retry_info().expect("when to ask again").retry_delay.expect("a delay");
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        say(&world.channel, "modest", &push).await.expect("others are not limited by it");
        tokio::time::sleep(wait).await;
        say(&world.channel, "greedy", &push).await.expect("as it was told");
        // Batches count each statement; a stream is read as fast as it may be, and not refused.
        let submissions = vec![submission(&push); 30];
        let request = bearer(proto::AppendBatchRequest { submissions }, "greedy");
        let status = world.append().append_batch(request).await.expect_err("thirty at once");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let begun = Instant::now();
        let messages =
            (0..8).map(|_| proto::AppendStreamRequest { submission: Some(submission(&happened("v1", &digest('a')))) });
        let messages: Vec<_> = messages.collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let request = bearer(tokio_stream::iter(messages), "greedy");
        let mut stream = world.append().append_stream(request).await.expect("a stream").into_inner();
        let mut answers = 0;
        while let Some(answer) = stream.message().await.expect("no error") {
            assert!(matches!(answer.result, Some(proto::append_stream_response::Result::Recorded(_))), "{answer:?}");
            answers += 1;
        }
        assert_eq!(answers, 8);
        assert!(begun.elapsed() >= Duration::from_secs(1));
        // Who shows nothing is limited by address.
        let mut last = 200;
        for _ in 0..60 {
            last = http(world.address, "/checkpoint", "").await;
            if last != 200 {
                break;
            }
        }
        assert_eq!(last, 429);
        world.stop().await;
    });
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn failures_are_counted_and_logged_without_a_secret() {
    let logged = Logged::default();
    let writer_of = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer_of.clone())
        .finish();
    // Threads of a runtime each need it; only this test of the process sets one.
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        write_private(&folder.path().join("secret"), "a-secret-of-the-lab");
        let text = "[webhooks.lab]\nregistry = \"registry.example\"\nsecret_file = \"secret\"\n";
        std::fs::write(folder.path().join("ledger.toml"), text).expect("written");
        let config = Config::read(&folder.path().join("ledger.toml")).expect("a configuration");
        let world = World::open_with(&folder.path().join("ledger"), config).await;
        let ci = "a-secret-token-of-ci";
        world.recorded(&change("ci", Some(principal(ci, &[Role::Reader], &[], &[])))).await;
        let push = happened("v1", &digest('a'));
        for (token, expected) in
            [("", Code::Unauthenticated), ("a-guessed-token", Code::Unauthenticated), (ci, Code::PermissionDenied)]
        {
            assert_eq!(code(&say(&world.channel, token, &push).await), expected);
        }
        let bad = signed(&push, &producer(2), b"");
        assert_eq!(code(&send(&world.channel, &world.token, bad).await), Code::InvalidArgument);
        assert_eq!(http_as("POST", world.address, "/webhooks/distribution/lab", "a-guessed-secret").await, 401);
        let metrics = metrics(world.address).await;
        for reason in ["missing", "token", "role", "signature", "secret"] {
            let line = format!("tagledger_authentication_failures_total{{reason=\"{reason}\"}} 1");
            assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
        }
        // Whoever goes on guessing does not fill the log.
        for _ in 0..100 {
            let _ = say(&world.channel, "a-guessed-token", &push).await;
            http_as("POST", world.address, "/webhooks/distribution/lab", "a-guessed-secret").await;
        }
        let text = String::from_utf8(logged.0.lock().expect("no panic").clone()).expect("UTF-8");
        let refusals = text.lines().filter(|line| line.contains("refused")).count();
        assert!((5..=20).contains(&refusals), "{refusals} lines");
        let of_webhook = text.lines().find(|line| line.contains("/webhooks/distribution/lab")).expect("a line");
        assert!(of_webhook.contains("address=127.0.0.1"), "{of_webhook}");
        for secret in [ci, "a-guessed-token", "a-guessed-secret", "a-secret-of-the-lab", world.token.as_str()] {
            assert!(!text.contains(secret), "{secret} is in the log");
        }
        world.stop().await;
    });
}
