//! As whom a gateway and a scanner come to their ledger: what they show it, over TLS, and the roles that they need.

#![cfg(feature = "server")]

#[path = "principals/certificates.rs"]
mod certificates;
#[allow(unused_imports, reason = "the scanner's tests use the rest")]
#[path = "scanner/fake.rs"]
mod fake;
#[allow(dead_code, unused_imports, reason = "the gateway's tests use the rest")]
#[path = "gateway/stage.rs"]
mod stage;
mod world;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use certificates::{Files, write_private};
use fake::Fake;
use reqwest::StatusCode;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stage::{Registry, Running, client};
use tagledger::ledger::note::Skey;
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, Credential, Role, StatementKind, principal_change};
use tagledger::server::gateway::Settings;
use tagledger::server::over_grpc::LedgerSettings;
use tonic::Request;
use tonic::transport::Channel;
use world::{REGISTRY, World, submission};

/// What a gateway states.
const GATEWAY_KINDS: [StatementKind; 4] =
    [StatementKind::TagPush, StatementKind::TagDelete, StatementKind::ManifestDelete, StatementKind::TagObserved];

fn principal(token: &str, roles: &[Role], kinds: &[StatementKind]) -> proto::Principal {
    let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
    let grants = vec![proto::Grant { repositories: vec![format!("{REGISTRY}/**")], kinds }];
    proto::Principal {
        roles: roles.iter().map(|role| i32::from(*role)).collect(),
        grants,
        requires: vec![Credential::Token.into()],
        token_sha256: vec![Sha256::digest(token).to_vec()],
        ..proto::Principal::default()
    }
}

/// The same, who has to show a certificate and a signature as well.
fn guarded(name: &str, key: &Skey, principal: proto::Principal) -> proto::Principal {
    let requires = [Credential::Token, Credential::Certificate, Credential::Signature];
    proto::Principal {
        requires: requires.iter().map(|credential| i32::from(*credential)).collect(),
        certificate_names: vec![name.to_owned()],
        keys: vec![key.vkey().to_string()],
        ..principal
    }
}

async fn add(channel: &Channel, token: &str, name: &str, principal: proto::Principal) {
    let change =
        proto::PrincipalChange { name: name.into(), change: Some(principal_change::Change::Principal(principal)) };
    let statement = proto::Statement { kind: Some(Kind::PrincipalChange(change)), ..Default::default() };
    let mut request = Request::new(proto::AppendRequest { submission: Some(submission(&statement)) });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    AppendServiceClient::new(channel.clone()).append(request).await.expect("recorded");
}

/// Runs the program to its end: exit code, standard output, standard error.
async fn tagledgerd(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagledgerd"));
    command.current_dir(folder).env_clear().envs(variables.iter().copied()).args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Why a gateway does not start.
async fn refused(settings: Settings) -> String {
    let started = |_| panic!("it started");
    let serving = tagledger::server::gateway::serve(settings, started, std::future::pending());
    serving.await.expect_err("it does not start").to_string()
}

/// Pushes through a gateway.
async fn push(gateway: &Running, tag: &str) -> (StatusCode, String) {
    let url = format!("http://{}/v2/team/app/manifests/{tag}", gateway.address);
    let put = client().put(url).header("content-type", "application/vnd.oci.image.manifest.v1+json").body("{}");
    let answer = put.send().await.expect("an answer");
    (answer.status(), answer.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_show_a_certificate_and_a_signature_can_be_a_gateway_or_a_scanner() {
    let files = Files::new();
    let world = World::open_with(&files.path("ledger"), files.config("reads = \"reader\"")).await;
    std::fs::write(files.path("ca.pem"), files.ca.pem()).expect("written");
    let channel = files.connect(&world, None).await.expect("connected");
    for (name, seed, roles, kinds) in [
        ("gateway", 1, [Role::Reader, Role::Writer], &GATEWAY_KINDS[..]),
        ("scanner", 2, [Role::Reader, Role::Scanner], &[]),
    ] {
        let key = Skey::from_seed(format!("{name}.example").parse().expect("a name"), &[seed; 32]);
        let definition = guarded(&format!("{name}.example"), &key, principal(name, &roles, kinds));
        add(&channel, &world.token, name, definition).await;
        let (certificate, tls_key) = files.clients.client(&format!("{name}.example"));
        std::fs::write(files.path(&format!("{name}.pem")), certificate).expect("written");
        write_private(&files.path(&format!("{name}.token")), name);
        write_private(&files.path(&format!("{name}.key")), &tls_key);
        write_private(&files.path(&format!("{name}.sign")), &key.to_text());
    }
    let ledger = format!("https://localhost:{}", world.address.port());

    let registry = Registry::start().await;
    let text = format!(
        "listen = '127.0.0.1:0'\nupstream = 'http://{}'\nregistry = '{REGISTRY}'\njournal = 'journal'\n[ledger]\nurl = \
         '{ledger}'\ntoken_file = 'gateway.token'\ntrust = 'gateway-trust'\nca_file = 'ca.pem'\ncertificate = \
         'gateway.pem'\nkey = 'gateway.key'\nsign_key = 'gateway.sign'\n",
        registry.address
    );
    std::fs::write(files.path("gateway.toml"), text).expect("written");
    let settings = Settings::read(&files.path("gateway.toml")).expect("settings");
    let gateway = Running::start(settings.clone()).await;
    let (status, said) = push(&gateway, "v1").await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    gateway.stop().await;
    // Without one of them it does not even start, and says what is missing.
    let all = || settings.ledger.clone();
    for (without, words) in [
        (LedgerSettings { sign_key: None, ..all() }, "has to sign what it states, and sign_key is not set"),
        (LedgerSettings { certificate: None, key: None, ..all() }, "certificate"),
        (LedgerSettings { token_file: None, ..all() }, "token"),
    ] {
        let error = refused(Settings { ledger: without, ..settings.clone() }).await;
        assert!(error.contains(words), "{error}");
    }
    assert!(registry.digest_of("team/app", "v2").is_none());

    let fake = Fake::new().await;
    fake.put("team/app", "v3", "three");
    let url = format!("http://{}", fake.address);
    let base = [
        &["scan", "--registry-url", &url, "--registry", REGISTRY, "--ledger", &ledger, "--token-file", "scanner.token"]
            [..],
        &["--trust", "scan-trust", "--pause", "50ms", "--json"],
    ]
    .concat();
    let shows: [&[&str]; 3] =
        [&["--ca-file", "ca.pem"], &["--cert", "scanner.pem", "--key", "scanner.key"], &["--sign-key", "scanner.sign"]];
    let scan =
        async |shows: &[&[&str]]| tagledgerd(files.folder.path(), &[&base[..], &shows.concat()].concat(), &[]).await;
    let (code, _, said) = scan(&[shows[0], shows[1]]).await;
    assert_eq!(code, Some(1), "without a signature: {said}");
    assert!(said.contains("principal \"scanner\" has to sign what it states, and sign_key is not set"), "{said}");
    let (code, said, complaints) = scan(&shows).await;
    assert_eq!(code, Some(0), "{said} {complaints}");
    let report: Value = serde_json::from_str(&said).expect("a report");
    let found: Vec<&str> =
        report["findings"].as_array().expect("a list").iter().filter_map(|found| found["tag"].as_str()).collect();
    assert!(found.iter().any(|tag| tag.ends_with("team/app:v3")), "{report:#}");

    // Keys that others may read, and what does not go together, are refused at the start.
    for (arguments, words) in [
        (&["--cert", "scanner.pem"][..], "certificate: needs key with it"),
        (&["--key", "scanner.key"], "key: needs certificate with it"),
        (&["--ledger-is-plain"], "certificates are for https:// ledgers"),
    ] {
        let arguments = match arguments {
            ["--ledger-is-plain"] => {
                let plain = base.iter().map(|word| if *word == ledger { "http://localhost:1" } else { word });
                plain.chain(["--ca-file", "ca.pem"]).collect()
            }
            _ => [&base[..], arguments].concat(),
        };
        let (code, _, said) = tagledgerd(files.folder.path(), &arguments, &[]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
    for name in ["scanner.key", "scanner.sign", "scanner.token"] {
        std::fs::set_permissions(files.path(name), std::fs::Permissions::from_mode(0o640)).expect("changed");
        let (code, _, said) = scan(&shows).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("may be read by others (mode 0640); run: chmod 600"), "{said}");
        std::fs::set_permissions(files.path(name), std::fs::Permissions::from_mode(0o600)).expect("changed");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_certificate_alone_is_looked_at_too_before_it_starts() {
    let files = Files::new();
    let world = World::open_with(&files.path("ledger"), files.config("")).await;
    std::fs::write(files.path("ca.pem"), files.ca.pem()).expect("written");
    let channel = files.connect(&world, None).await.expect("connected");
    let by_certificate = |roles: &[Role]| proto::Principal {
        requires: vec![Credential::Certificate.into()],
        token_sha256: Vec::new(),
        certificate_names: vec!["gateway.example".into()],
        ..principal("", roles, &GATEWAY_KINDS)
    };
    let show = |(certificate, key): (String, String)| {
        std::fs::write(files.path("gateway.pem"), certificate).expect("written");
        write_private(&files.path("gateway.key"), &key);
    };
    let registry = Registry::start().await;
    let settings = stage::Stage::settings(&world, &registry.address.to_string(), files.folder.path());
    let ledger = LedgerSettings {
        url: Some(format!("https://localhost:{}", world.address.port())),
        token_file: None,
        trust: Some(files.path("trust")),
        ca_file: Some(files.path("ca.pem")),
        certificate: Some(files.path("gateway.pem")),
        key: Some(files.path("gateway.key")),
        ..LedgerSettings::default()
    };
    let settings = Settings { ledger, ..settings };
    show(files.clients.client("gateway.example"));
    assert!(refused(settings.clone()).await.contains("is nobody's"));
    add(&channel, &world.token, "gateway", by_certificate(&[Role::Scanner])).await;
    let error = refused(settings.clone()).await;
    assert!(error.contains("principal \"gateway\" has not the role writer"), "{error}");
    assert!(error.contains("--require certificate --certificate-name gateway.example"), "{error}");
    assert!(!error.contains("token"), "it needs none: {error}");
    add(&channel, &world.token, "gateway", by_certificate(&[Role::Writer])).await;
    let gateway = Running::start(settings.clone()).await;
    let (status, said) = push(&gateway, "v1").await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    gateway.stop().await;
    // One that is over, and one of somebody else.
    let mut over = rcgen::CertificateParams::new(vec!["gateway.example".to_owned()]).expect("parameters");
    (over.not_before, over.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 2, 1));
    show(files.clients.sign(over));
    let error = refused(settings.clone()).await;
    assert!(error.contains("ledger.certificate: counts from") && error.contains("2020"), "{error}");
    show(files.clients.client("other.example"));
    assert!(refused(settings).await.contains("is nobody's"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_make_no_sense_are_refused_before_anybody_is_asked_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    write_private(&folder.path().join("token"), "a token of some length");
    // What stands where ledger and registry would be.
    let nobody = Fake::new().await;
    let url = nobody.url();
    let scan = ["scan", "--registry-url", &url, "--registry", REGISTRY, "--ledger", &url, "--token-file", "token"];
    for (more, words) in [
        (&["--rate", "0"][..], "rate: is 0; requests a second must be above 0"),
        (&["--parallel", "0"], "parallel: is 0; 1 to 256 are allowed"),
        (&["--repository", "team/[a"], "is not a pattern of repositories"),
    ] {
        let arguments = [&scan[..], &["--trust", "trust"], more].concat();
        let (code, _, said) = tagledgerd(folder.path(), &arguments, &[]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let gateway = ["gateway", "--upstream", &url, "--registry", REGISTRY, "--ledger", &url, "--token-file", "token"];
    for (text, words) in [
        ("upstreem = 'x'", "tagledgerd: gateway.toml: TOML parse error at line 1, column 1"),
        ("upstreem = 'x'", "unknown field `upstreem`, expected one of `listen`, `upstream`,"),
        ("manifest_limit = 0", "manifest_limit: is 0"),
        ("keep_alive_ms = 0", "keep_alive_ms: is 0"),
        ("hold_bound_ms = 1", "hold_bound_ms: must be longer"),
        ("tls = { certificate = 'none.pem', key = 'none.key' }", "cannot read"),
    ] {
        std::fs::write(folder.path().join("gateway.toml"), text).expect("written");
        let arguments = [&gateway[..], &["--trust", "trust", "--config", "gateway.toml"]].concat();
        let (code, _, said) = tagledgerd(folder.path(), &arguments, &[]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let bare = ["gateway", "--upstream", "127.0.0.1:5000", "--registry", REGISTRY, "--token-file", "token"];
    let (_, _, said) = tagledgerd(folder.path(), &[&bare[..], &["--trust", "trust"]].concat(), &[]).await;
    let words = "upstream: \"127.0.0.1:5000\" is not the address of a registry: it must begin with http:// or https://";
    assert!(said.contains(words), "{said}");
    assert!(nobody.asked().is_empty(), "{:?}", nobody.asked());
    assert!(!folder.path().join("trust").exists(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_says_to_the_command_line_counts_nothing_for_gateway_and_scanner() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new().await;
    let fake = Fake::new().await;
    fake.put("team/app", "v1", "one");
    let text = format!(
        "registry_url = '{}'\nregistry = '{REGISTRY}'\npause = '50ms'\n[ledger]\nurl = 'http://{}'\ntoken_file = '{}'\ntrust \
         = 'trust'\n",
        fake.url(),
        world.address,
        world.data_dir.join("token").display()
    );
    std::fs::write(folder.path().join("scan.toml"), text).expect("written");
    let variables = [
        ("TAGLEDGER_SERVER", "http://127.0.0.1:1"),
        ("TAGLEDGER_TOKEN_FILE", "/no/such/token"),
        ("TAGLEDGER_TRUST", "elsewhere"),
    ];
    let (code, said, complaints) = tagledgerd(folder.path(), &["scan", "--config", "scan.toml"], &variables).await;
    assert_eq!(code, Some(0), "{said} {complaints}");
    // Without --json, a table for people; and on the way, where there is no terminal, lines that tell how far it is.
    assert!(said.starts_with("WHAT") && said.contains("\nunannounced  registry.example/team/app:v1  - "), "{said}");
    assert!(said.contains(": 1 repository, 1 tag, of which") && said.ends_with("the round is complete\n"), "{said}");
    for progress in ["a round begins repositories=1", "looking repository=\"team/app\" tags=1", "looking again"] {
        assert!(complaints.contains(progress), "{progress}: {complaints}");
    }
    assert!(folder.path().join("trust/known_ledgers").exists() && !folder.path().join("elsewhere").exists());
    for command in ["gateway", "scan"] {
        let (_, help, _) = tagledgerd(folder.path(), &[command, "--help"], &[]).await;
        assert!(variables.iter().all(|(name, _)| !help.contains(name)), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_reading_is_closed_the_documented_principals_do_for_gateway_and_scanner() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = toml::from_str("reads = \"reader\"").expect("a configuration");
    let world = World::open_with(&folder.path().join("ledger"), config).await;
    // As docs/OPERATIONS.md says.
    add(&world.channel, &world.token, "gateway", principal("gateway", &[Role::Reader, Role::Writer], &GATEWAY_KINDS))
        .await;
    add(&world.channel, &world.token, "scanner", principal("scanner", &[Role::Reader, Role::Scanner], &[])).await;
    for name in ["gateway", "scanner"] {
        write_private(&folder.path().join(name), name);
    }
    let registry = Registry::start().await;
    registry.put("team/app", "before", "{}");
    let settings = stage::Stage::settings(&world, &registry.address.to_string(), folder.path());
    let ledger = LedgerSettings { token_file: Some(folder.path().join("gateway")), ..settings.ledger.clone() };
    let settings = Settings { ledger, ..settings };
    let gateway = Running::start(settings).await;
    let (status, said) = push(&gateway, "v1").await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    // One that the registry had first has to be observed; then both go by their digest.
    let (status, said) = push(&gateway, "before").await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    for reference in ["v1", &stage::digest("{}")] {
        let url = format!("http://{}/v2/team/app/manifests/{reference}", gateway.address);
        let deleted = client().delete(url).send().await.expect("an answer");
        assert_eq!(deleted.status(), StatusCode::ACCEPTED, "{}", deleted.text().await.unwrap_or_default());
    }
    gateway.stop().await;

    let fake = Fake::new().await;
    fake.put("team/app", "v3", "three");
    let (ledger, url) = (format!("http://{}", world.address), fake.url());
    let scan = ["scan", "--registry-url", &url, "--registry", REGISTRY, "--ledger", &ledger, "--token-file", "scanner"];
    let more = ["--trust", "scan-trust", "--pause", "50ms", "--json"];
    let (code, said, complaints) = tagledgerd(folder.path(), &[&scan[..], &more].concat(), &[]).await;
    assert_eq!(code, Some(0), "{said} {complaints}");
    assert!(said.contains("team/app:v3"), "{said}");
    for command in ["gateway", "scan"] {
        let (_, help, _) = tagledgerd(folder.path(), &[command, "--help"], &[]).await;
        assert!(help.contains("tagledger principal add"), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_do_what_it_needs_does_not_start_and_says_what_to_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new().await;
    let registry = Registry::start().await;
    let settings = stage::Stage::settings(&world, &registry.address.to_string(), folder.path());
    let kinds = &GATEWAY_KINDS;
    let elsewhere = |definition: proto::Principal| {
        let mut grants = definition.grants;
        grants[0].repositories = vec!["other.example/**".into()];
        proto::Principal { grants, ..definition }
    };
    for (name, definition, words) in [
        ("looker", principal("looker", &[Role::Scanner], &[]), "has not the role writer"),
        (
            "pusher",
            principal("pusher", &[Role::Writer], &kinds[..1]),
            "has no grant for delete, delete-digest, observe statements",
        ),
        (
            "other",
            elsewhere(principal("other", &[Role::Writer], &kinds[..])),
            "has no grant for push, delete, delete-digest, observe",
        ),
    ] {
        add(&world.channel, &world.token, name, definition).await;
        write_private(&folder.path().join(name), name);
        let ledger = LedgerSettings { token_file: Some(folder.path().join(name)), ..settings.ledger.clone() };
        let error = refused(Settings { ledger, ..settings.clone() }).await;
        assert!(error.contains(&format!("principal \"{name}\" {words}")), "{error}");
        let roles = if name == "looker" { "'scanner,writer'" } else { "writer" };
        let command = format!("tagledger principal add {name} --replace --role {roles} --repository");
        assert!(error.contains(&command), "{error}");
        assert!(error.contains(&format!("--token-out {name}.new.token")), "{error}");
        // A shell runs what is advised, and then it starts.
        let advised = error[error.find("tagledger principal add").expect("a command")..].to_owned();
        let (world_address, admin) = (world.address, world.data_dir.join("token"));
        let (here, programs) = (folder.path().to_owned(), Path::new(env!("CARGO_BIN_EXE_tagledger")).parent());
        let mut shell = Command::new("/bin/sh");
        shell.current_dir(here).env("PATH", programs.expect("a folder")).env("TAGLEDGER_TOKEN_FILE", admin);
        shell
            .env("TAGLEDGER_SERVER", format!("http://{world_address}"))
            .env("TAGLEDGER_TRUST", folder.path().join("cli"));
        let ran = tokio::task::spawn_blocking(move || shell.args(["-c", &advised]).output().expect("a shell"));
        let ran = ran.await.expect("it ends");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let token_file = Some(folder.path().join(format!("{name}.new.token")));
        let ledger = LedgerSettings { token_file, ..settings.ledger.clone() };
        let journal = folder.path().join(format!("{name}.journal"));
        Running::start(Settings { ledger, journal, ..settings.clone() }).await.stop().await;
        // The old token is none any more, so it gets one more way in for what follows.
        add(
            &world.channel,
            &world.token,
            name,
            match name {
                "looker" => principal(name, &[Role::Scanner], &[]),
                "pusher" => principal(name, &[Role::Writer], &kinds[..1]),
                _ => elsewhere(principal(name, &[Role::Writer], kinds)),
            },
        )
        .await;
    }
    write_private(&folder.path().join("nobody"), "nobody");
    let ledger = LedgerSettings { token_file: Some(folder.path().join("nobody")), ..settings.ledger.clone() };
    let error = refused(Settings { ledger, ..settings }).await;
    assert!(error.contains("token"), "{error}");

    let fake = Fake::new().await;
    let (ledger, url) = (format!("http://{}", world.address), fake.url());
    let scan = |token: &'static str| {
        let arguments =
            ["scan", "--registry-url", &url, "--registry", REGISTRY, "--ledger", &ledger, "--token-file", token];
        [&arguments[..], &["--trust", "scan-trust", "--pause", "50ms", "--json"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for (token, works) in [("looker", true), ("pusher", false), ("other", false)] {
        let arguments = scan(token);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, _, said) = tagledgerd(folder.path(), &arguments, &[]).await;
        assert_eq!(code, Some(i32::from(!works)), "{token}: {said}");
        assert!(works || said.contains("has no grant for observe statements"), "{said}");
    }
    assert!(fake.asked().iter().all(|asked| !asked.path.contains("manifests")), "nothing was looked at in vain");
}
