//! Ways around who may do what, and how much: repetitions, names in certificates, connections that outlive their certificate,
//! webhooks, intents of others. Each over real sockets.

#![cfg(feature = "server")]

#[path = "principals/certificates.rs"]
mod certificates;
mod world;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use certificates::{Authority, Files, write_private};
use prost::Message as _;
use rcgen::{CertificateParams, DnType};
use sha2::{Digest as _, Sha256};
use tagledger::ledger::note::Skey;
use tagledger::ledger::signature::{key_id, sign, statement_message};
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, Credential, Disposition, Outcome, Role, principal_change};
use tagledger::server::config::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use world::{World, digest, happened, push, submission};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn writer(requires: &[Credential]) -> proto::Principal {
    proto::Principal {
        roles: vec![Role::Writer.into()],
        grants: vec![proto::Grant { repositories: vec!["**".into()], kinds: Vec::new() }],
        requires: requires.iter().map(|credential| i32::from(*credential)).collect(),
        ..proto::Principal::default()
    }
}

fn change(name: &str, principal: proto::Principal) -> proto::Statement {
    let change = Some(principal_change::Change::Principal(principal));
    let change = proto::PrincipalChange { name: name.into(), change };
    proto::Statement { kind: Some(Kind::PrincipalChange(change)), ..Default::default() }
}

/// Somebody who shows a token, which is the name.
async fn with_token(world: &World, name: &str) {
    let principal =
        proto::Principal { token_sha256: vec![Sha256::digest(name).to_vec()], ..writer(&[Credential::Token]) };
    world.recorded(&change(name, principal)).await;
}

async fn send(channel: &Channel, token: &str, submission: proto::Submission) -> Result<proto::Receipt, Status> {
    let mut request = Request::new(proto::AppendRequest { submission: Some(submission) });
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    let response = AppendServiceClient::new(channel.clone()).append(request).await?.into_inner();
    Ok(response.receipt.expect("a receipt"))
}

async fn say(channel: &Channel, token: &str, statement: &proto::Statement) -> Result<proto::Receipt, Status> {
    send(channel, token, submission(statement)).await
}

// Signatures that are all somebody shows.

fn signer() -> Skey {
    Skey::from_seed("producer.example".parse().expect("a name"), &[7; 32])
}

/// What the signer sends; anybody can, who read it in the log.
fn signed(tag: &str, event_id: &str) -> proto::Submission {
    let statement = proto::Statement { event_id: event_id.into(), ..happened(tag, &digest('a')) }.encode_to_vec();
    let producer = proto::Producer {
        key_id: key_id(&signer().key().verifying_key()),
        signature: sign(signer().key(), &statement_message(&statement)).to_vec(),
    };
    proto::Submission { statement, producer: Some(producer), only_at_version: None }
}

async fn with_signature(world: &World) {
    let principal = proto::Principal { keys: vec![signer().vkey().to_string()], ..writer(&[Credential::Signature]) };
    world.recorded(&change("signer", principal)).await;
}

#[test]
fn what_somebody_signed_is_recorded_once_whoever_sends_it() {
    runtime().block_on(async {
        let world = World::new().await;
        with_signature(&world).await;
        let refused = send(&world.channel, "", signed("v1", "")).await.expect_err("anybody could send it again");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let violations = refused.get_error_details().bad_request().expect("the field").field_violations.clone();
        assert_eq!((&*violations[0].field, &*violations[0].reason), ("event_id", "REQUIRED"));
        let first = send(&world.channel, "", signed("v1", "job-1")).await.expect("recorded");
        let size = world.check_ledger().await.len();
        let again = send(&world.channel, "", signed("v1", "job-1")).await.expect("answered");
        assert_eq!((again.index, again.duplicate), (first.index, true));
        assert_eq!(world.check_ledger().await.len(), size);
    });
}

#[test]
fn whoever_signs_is_limited_and_repetitions_by_others_take_nothing_of_it() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        // A bucket that does not fill up again within the test.
        let text = "[limits.principals.signer]\nper_second = 1\nburst = 50\n";
        let config: Config = toml::from_str(text).expect("a configuration");
        let world = World::open_with(&folder.path().join("ledger"), config).await;
        with_signature(&world).await;
        send(&world.channel, "", signed("v0", "job-0")).await.expect("recorded");
        for _ in 0..100 {
            send(&world.channel, "", signed("v0", "job-0")).await.expect("answered, whoever asks");
        }
        let batch = async |from: usize, to: usize| {
            let submissions = (from..to).map(|n| signed("v1", &format!("job-{n}"))).collect();
            AppendServiceClient::new(world.channel.clone())
                .append_batch(proto::AppendBatchRequest { submissions })
                .await
        };
        batch(1, 41).await.expect("40 of the 49 that are left");
        let refused = batch(41, 71).await.expect_err("30 of less than 20");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.get_details_retry_info().is_some());
        send(&world.channel, "", signed("v0", "job-0")).await.expect("a repetition");
        // A stream waits instead of being refused.
        let messages: Vec<_> = (80..103)
            .map(|n| proto::AppendStreamRequest { submission: Some(signed("v1", &format!("job-{n}"))) })
            .collect();
        let begun = Instant::now();
        let mut client = AppendServiceClient::new(world.channel.clone());
        let mut stream = client.append_stream(tokio_stream::iter(messages)).await.expect("a stream").into_inner();
        let mut answers = 0;
        while let Some(answer) = stream.message().await.expect("no error") {
            assert!(matches!(answer.result, Some(proto::append_stream_response::Result::Recorded(_))), "{answer:?}");
            answers += 1;
        }
        assert_eq!(answers, 23);
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        world.stop().await;
    });
}

// Intents of others.

#[test]
fn the_outcome_of_an_intent_is_for_whoever_intended_and_a_look_is_for_all() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let world = World::open(&path).await;
        with_token(&world, "gateway-a").await;
        with_token(&world, "gateway-b").await;
        let intent = say(&world.channel, "gateway-a", &push("v1", &digest('b'), Disposition::Intended)).await;
        let index = intent.expect("recorded").index;
        world.recorded(&happened("v1", &digest('a'))).await;
        // What was allowed is forbidden by now: only the outcome of the intent may still pass.
        world.recorded(&world::policy(&["registry.example/team/app:v*"])).await;
        let settling = |disposition| {
            let mut statement = push("v1", &digest('b'), disposition);
            if let Some(Kind::TagPush(push)) = &mut statement.kind {
                push.settles = index + 1;
            }
            statement
        };
        let as_b = say(&world.channel, "gateway-b", &settling(Disposition::Refused)).await.expect("a fact");
        assert_eq!(as_b.outcome(), Outcome::Failed);
        let as_b = say(&world.channel, "gateway-b", &settling(Disposition::Happened)).await.expect("a fact");
        assert_eq!(as_b.outcome(), Outcome::Violation, "it was allowed to somebody else");
        let asked = push("v1", &digest('c'), Disposition::Requested);
        let held = say(&world.channel, "gateway-b", &asked).await.expect_err("still held");
        assert_eq!(held.code(), Code::Aborted);
        // After a restart as well: whose it is, is in the log.
        world.recorded(&happened("v1", &digest('a'))).await;
        world.stop().await;
        let world = World::open(&path).await;
        let as_a = say(&world.channel, "gateway-a", &settling(Disposition::Happened)).await.expect("its own");
        assert_eq!(as_a.outcome(), Outcome::Applied);
        let asked = say(&world.channel, "gateway-b", &asked).await.expect("not held any more");
        assert_eq!(asked.outcome(), Outcome::Denied);
        // Anybody who may observe the tag can look.
        let intent = push("other", &digest('b'), Disposition::Intended);
        let index = say(&world.channel, "gateway-a", &intent).await.expect("recorded").index;
        let seen = proto::TagObserved {
            registry: world::REGISTRY.into(),
            repository: world::REPOSITORY.into(),
            tag: "other".into(),
            checks_entry: index + 1,
            ..Default::default()
        };
        say(&world.channel, "gateway-b", &world::statement(Kind::TagObserved(seen))).await.expect("a look");
        let asked = push("other", &digest('c'), Disposition::Requested);
        assert_eq!(say(&world.channel, "gateway-b", &asked).await.expect("free").outcome(), Outcome::Applied);
        world.check_ledger().await;
        world.stop().await;
    });
}

// Certificates.

async fn by_certificate(files: &Files, world: &World) {
    let plain = files.connect(world, None).await.expect("connected");
    let principal = proto::Principal {
        certificate_names: vec!["ci.example".into(), "common name".into()],
        ..writer(&[Credential::Certificate])
    };
    say(&plain, &world.token, &change("ci", principal)).await.expect("recorded");
}

#[test]
fn a_common_name_counts_for_nothing_beside_alternative_names() {
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        by_certificate(&files, &world).await;
        for (alternative, common, expected) in [
            (&[][..], "common name", Code::Ok),
            (&["ci.example"], "anything", Code::Ok),
            (&["other.example"], "common name", Code::Unauthenticated),
            (&["127.0.0.1"], "common name", Code::Unauthenticated),
        ] {
            let names: Vec<String> = alternative.iter().map(|&name| name.to_owned()).collect();
            let mut params = CertificateParams::new(names).expect("parameters");
            params.distinguished_name.push(DnType::CommonName, common);
            let channel = files.connect(&world, Some(&files.clients.sign(params))).await.expect("connected");
            let result = say(&channel, "", &happened("v1", &digest('a'))).await;
            let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
            assert_eq!(code, expected, "{alternative:?} and {common:?}: {result:?}");
        }
        world.stop().await;
    });
}

#[test]
fn a_connection_ends_when_its_certificate_expires() {
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        by_certificate(&files, &world).await;
        let mut params = CertificateParams::new(vec!["ci.example".to_owned()]).expect("parameters");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(4);
        let certified = files.connect(&world, Some(&files.clients.sign(params))).await.expect("connected");
        say(&certified, "", &happened("v1", &digest('a'))).await.expect("it holds");
        let (sender, stays_open) = tokio::sync::mpsc::channel::<proto::AppendStreamRequest>(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(stays_open);
        let mut stream =
            AppendServiceClient::new(certified.clone()).append_stream(requests).await.expect("a stream").into_inner();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.message()).await.expect("it does not go on");
        assert!(ended.is_err(), "{ended:?}");
        drop(sender);
        // The client may not have seen yet that the old connection has ended.
        let mut refused = say(&certified, "", &happened("v1", &digest('b'))).await.expect_err("it is expired");
        for _ in 0..10 {
            if refused.code() != Code::Cancelled {
                break;
            }
            refused = say(&certified, "", &happened("v1", &digest('b'))).await.expect_err("it is expired");
        }
        assert!(refused.message().contains("expired"), "{refused:?}");
        world.stop().await;
    });
}

#[test]
fn connections_end_whose_certificates_the_new_authorities_did_not_sign_and_no_others() {
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        by_certificate(&files, &world).await;
        let (ours, theirs) = (&files.clients, Authority::new("other clients"));
        let stays = files.connect(&world, Some(&theirs.client("ci.example"))).await.expect("connected");
        let plain = files.connect(&world, None).await.expect("connected");
        let ends = files.connect(&world, Some(&ours.client("ci.example"))).await.expect("connected");
        say(&ends, "", &happened("v1", &digest('a'))).await.expect("it holds");
        say(&stays, "", &happened("v1", &digest('a'))).await.expect_err("not signed by an authority");
        let request = proto::WatchRequest::default();
        let mut watching = LogServiceClient::new(plain.clone()).watch(request).await.expect("a stream").into_inner();
        std::fs::write(files.path("clients.pem"), theirs.pem()).expect("written");
        let patience = Instant::now() + Duration::from_secs(20);
        while say(&ends, "", &happened("v1", &digest('a'))).await.is_ok() {
            assert!(Instant::now() < patience, "it goes on under an authority that is none any more");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        say(&stays, "", &happened("v1", &digest('b'))).await.expect("it comes again, and holds");
        // Whoever showed none is not concerned: the stream that was there before still tells what is new.
        let seen = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                let message = watching.message().await.expect("no error").expect("it goes on");
                let entry = message.entry.expect("an entry").entry;
                if entry.windows(digest('b').len()).any(|window| window == digest('b').as_bytes()) {
                    return;
                }
            }
        });
        seen.await.expect("the stream goes on");
        world.stop().await;
    });
}

/// The first bytes that a client of this version says, of TLS 1.2's shape.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let extensions: &[u8] = &[
        0x00, 0x0a, 0, 6, 0, 4, 0x00, 0x1d, 0x00, 0x17, // supported groups: x25519, secp256r1
        0x00, 0x0b, 0, 2, 1, 0, // point formats: uncompressed
        0x00, 0x0d, 0, 6, 0, 4, 0x04, 0x03, 0x08, 0x04, // signature algorithms: ECDSA and RSA-PSS with SHA-256
        0x00, 0x17, 0, 0, // extended master secret
    ];
    let suites: &[u8] = &[0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x09, 0xc0, 0x13];
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("short").to_be_bytes();
    let mut body = [&version[..], &[9; 32], &[0]].concat();
    body.extend_from_slice(&length(suites));
    body.extend_from_slice(suites);
    body.extend_from_slice(&[1, 0]);
    body.extend_from_slice(&length(extensions));
    body.extend_from_slice(extensions);
    let handshake = [&[1, 0][..], &length(&body), &body].concat();
    [&[0x16, 0x03, 0x01][..], &length(&handshake), &handshake].concat()
}

#[test]
fn tls_before_1_2_is_refused_by_name() {
    const ALERT_PROTOCOL_VERSION: [u8; 2] = [2, 70];
    const HANDSHAKE: u8 = 0x16;
    runtime().block_on(async {
        let files = Files::new();
        let world = files.world().await;
        for (version, is_spoken) in [([3, 1], false), ([3, 2], false), ([3, 3], true)] {
            let mut stream = TcpStream::connect(world.address).await.expect("connected");
            stream.write_all(&client_hello(version)).await.expect("sent");
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).await.expect("answered");
            match is_spoken {
                true => assert_eq!((answer[0], answer[5]), (HANDSHAKE, 2), "it goes on with a ServerHello"),
                false => assert_eq!(answer[5..], ALERT_PROTOCOL_VERSION, "{answer:?}"),
            }
        }
        world.stop().await;
    });
}

/// The real server, with the files' certificates.
fn start(files: &Files) -> (Child, SocketAddr) {
    files.config("");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(files.path("ledger.toml"))
        .arg("--data-dir")
        .arg(files.path("ledger"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it greets");
    let address = line.trim().rsplit("//").next().expect("an address").parse().expect("an address");
    (child, address)
}

async fn connect(address: SocketAddr, authority: &Authority) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("localhost");
    Channel::from_shared(format!("https://{address}")).expect("an address").tls_config(tls)?.connect().await
}

#[test]
fn sighup_has_the_certificates_read_anew_and_nobody_is_turned_away() {
    let files = Files::new();
    let (mut server, address) = start(&files);
    runtime().block_on(async {
        let held = connect(address, &files.ca).await.expect("the first certificate");
        let others = Authority::new("other servers");
        let begun = Instant::now();
        for (old, new, what) in [
            (&files.ca, &others, "the other"),
            (&others, &files.ca, "the first again"),
            (&files.ca, &others, "the other again"),
        ] {
            files.serve(&new.server());
            let hung_up =
                Command::new("kill").args(["-HUP", &server.id().to_string()]).status().expect("kill is there");
            assert!(hung_up.success());
            let patience = Instant::now() + Duration::from_secs(10);
            while connect(address, new).await.is_err() {
                assert!(Instant::now() < patience, "{what} is not served");
                // The port is there all the time.
                TcpStream::connect(address).await.expect("the listener stays");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(connect(address, old).await.is_err(), "only {what} is served");
        }
        // The files are looked at every three seconds anyway, counted from the last look: by that alone it would take six at least.
        assert!(begun.elapsed() < Duration::from_secs(6), "it was not the signal: {:?}", begun.elapsed());
        assert!(server.try_wait().expect("it can be asked").is_none(), "it is the same process");
        LogServiceClient::new(held).get_ledger(proto::GetLedgerRequest {}).await.expect("the connection goes on");
    });
    server.kill().expect("it runs");
    server.wait().expect("it ended");
}

// Webhooks.

async fn with_webhook(folder: &Path, limits: &str) -> World {
    write_private(&folder.join("secret"), "a-secret-of-the-lab");
    let text = format!("{limits}\n[webhooks.lab]\nregistry = \"registry.example\"\nsecret_file = \"secret\"\n");
    std::fs::write(folder.join("ledger.toml"), text).expect("written");
    let config = Config::read(&folder.join("ledger.toml")).expect("a configuration");
    World::open_with(&folder.join("ledger"), config).await
}

/// Posts events, pushes of one tag with these ids; returns the status, and the whole answer.
async fn post(address: SocketAddr, secret: &str, ids: &[String]) -> (u16, String) {
    let event = |id: &String| {
        let target = serde_json::json!({ "repository": "team/app", "tag": "v1", "digest": digest('a') });
        serde_json::json!({ "id": id, "action": "push", "target": target })
    };
    let body = serde_json::json!({ "events": ids.iter().map(event).collect::<Vec<_>>() }).to_string();
    let head = format!(
        "POST /webhooks/distribution/lab HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    (answer[9..12].parse().expect("a status"), answer)
}

#[test]
fn whoever_tries_secrets_of_webhooks_is_slowed_down_as_everybody_is() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let world = with_webhook(folder.path(), "[limits.address]\nper_second = 1\nburst = 20").await;
        let mut statuses = Vec::new();
        for guess in 0..30 {
            let (status, answer) = post(world.address, &format!("guess-{guess}"), &["event".into()]).await;
            if status == 429 {
                assert!(answer.to_lowercase().contains("\r\nretry-after: "), "{answer}");
            }
            statuses.push(status);
        }
        assert!(statuses.starts_with(&[401; 20]) && statuses.contains(&429), "{statuses:?}");
        world.stop().await;
    });
}

#[test]
fn a_webhook_states_as_much_as_its_limit_allows_and_repeats_for_nothing() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = "[limits.principals.\"webhook/lab\"]\nper_second = 1\nburst = 20";
        let world = with_webhook(folder.path(), limits).await;
        let ids = |from: usize, to: usize| (from..to).map(|n| format!("event-{n}")).collect::<Vec<_>>();
        let sent = async |ids: &[String]| post(world.address, "a-secret-of-the-lab", ids).await;
        assert_eq!(sent(&ids(0, 15)).await.0, 200);
        let (status, answer) = sent(&ids(15, 30)).await;
        assert_eq!(status, 503, "{answer}");
        assert!(answer.to_lowercase().contains("\r\nretry-after: "), "{answer}");
        for _ in 0..30 {
            assert_eq!(sent(&ids(0, 15)).await.0, 200, "they are recorded");
        }
        let patience = Instant::now() + Duration::from_secs(30);
        while sent(&ids(15, 30)).await.0 != 200 {
            assert!(Instant::now() < patience, "its sender repeats it until it is recorded");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        world.check_ledger().await;
        world.stop().await;
    });
}

// Audits.

#[test]
fn an_audit_goes_on_under_the_principals_of_the_one_before_and_what_changed_them_since() {
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("a folder");
    let (world, state) = runtime.block_on(async {
        let world = World::open(&folder.path().join("ledger")).await;
        for name in ["ci", "gone"] {
            with_token(&world, name).await;
        }
        with_signature(&world).await;
        say(&world.channel, "ci", &happened("v1", &digest('a'))).await.expect("recorded");
        (world, folder.path().join("own.state"))
    });
    let audit = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagledger"));
        command.current_dir(folder.path()).env_clear().env("HOME", folder.path());
        command.env("TAGLEDGER_SERVER", format!("http://{}", world.address)).arg("audit").args(arguments);
        let output = command.output().expect("tagledger starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let whole = audit(&["--state", "own.state"]);
    assert!(whole.contains("all of them now"), "{whole}");
    assert!(state.exists());
    runtime.block_on(async {
        // Who was there before states something first, then changes, then goes; and somebody else comes.
        say(&world.channel, "ci", &happened("v1", &digest('b'))).await.expect("recorded");
        send(&world.channel, "", signed("v1", "job-1")).await.expect("recorded");
        with_token(&world, "late").await;
        let revoked = proto::PrincipalChange {
            name: "gone".into(),
            change: Some(principal_change::Change::Revocation(proto::Revocation {})),
        };
        world.recorded(&world::statement(Kind::PrincipalChange(revoked))).await;
        say(&world.channel, "late", &happened("v1", &digest('c'))).await.expect("recorded");
        say(&world.channel, "gone", &happened("v1", &digest('d'))).await.expect_err("revoked");
    });
    let rest = audit(&["--from", "own.state", "--state", "own.state"]);
    assert!(rest.contains("audited      the first "), "{rest}");
    let none = audit(&["--from", "own.state"]);
    assert!(none.contains("nothing was recorded since"), "{none}");
    runtime.block_on(async { world.stop().await });
}

// Files.

#[test]
fn tokens_and_keys_that_others_may_read_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagledger"));
        command.current_dir(folder.path()).env_clear().env("HOME", folder.path());
        // Nobody listens there: what is refused is refused before.
        command.env("TAGLEDGER_SERVER", "http://127.0.0.1:9").args(arguments);
        let output = command.output().expect("tagledger starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    write_private(&folder.path().join("token"), "a-token-of-somebody");
    write_private(&folder.path().join("key"), &signer().to_text());
    let digest = digest('a');
    let push = ["record", "push", "registry.example/team/app:v1", "--digest", &digest];
    for file in ["token", "key"] {
        let option = if file == "token" { "--token-file" } else { "--sign-key" };
        let with = [&push[..], &[option, file]].concat();
        let (code, said) = run(&with);
        assert!(code == Some(1) && !said.contains("chmod"), "{said}");
        for mode in [0o640, 0o604] {
            let loose = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path().join(file), loose).expect("changed");
            let (code, said) = run(&with);
            assert!(code == Some(1) && said.contains(&format!("run: chmod 600 {file}")), "{said}");
        }
        write_private(&folder.path().join(file), "");
    }
    let world_folder = folder.path().join("webhooks");
    std::fs::create_dir(&world_folder).expect("made");
    let secret = world_folder.join("secret");
    std::fs::write(&secret, "a-secret-of-the-lab").expect("written");
    let text = "[webhooks.lab]\nregistry = \"registry.example\"\nsecret_file = \"secret\"\n";
    std::fs::write(world_folder.join("ledger.toml"), text).expect("written");
    let config = Config::read(&world_folder.join("ledger.toml")).expect("a configuration");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(config.sources().expect_err("others may read it").to_string().contains("chmod 600"));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("changed");
    config.sources().expect("its own alone");
}
