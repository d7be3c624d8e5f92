//! The program itself between a real ledger and Debian's docker-registry.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tagledger::proto::Outcome;
use tagledger::server::config::Config;

use crate::fake::{Fake, digest_of};
use crate::world::{REGISTRY, World, happened};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "{}";
const SECRET: &str = "scanner-secret";

/// The registry's program; installed, if it is not there.
fn docker_registry() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        if let Some(program) = std::env::var_os("TAGLEDGER_DOCKER_REGISTRY") {
            return program.into();
        }
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/setup");
        let output = Command::new(setup).arg("registry").output().expect("tools/setup runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let program =
            said.lines().find_map(|line| line.strip_prefix("export TAGLEDGER_DOCKER_REGISTRY=")).map(str::trim);
        let needed = "this test needs docker-registry; run: eval \"$(tools/setup registry)\"";
        PathBuf::from(program.expect(needed).trim_matches('\''))
    };
    PROGRAM.get_or_init(find).clone()
}

/// Of an address that nothing else here listens on or connects from: a port of 127.0.0.1 may be another's again before the registry
/// has it.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.2:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A running docker-registry; it ends with this.
struct RealRegistry {
    address: SocketAddr,
    child: Child,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RealRegistry {
    /// One that announces what happens at a URL, if there is one.
    async fn start(notify: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: \
             '{}/data'}}\n  delete: {{enabled: true}}\nhttp: {{addr: '{address}'}}\n",
            folder.path().display()
        );
        if let Some(url) = notify {
            config.push_str(&format!(
                "notifications:\n  endpoints:\n    - name: ledger\n      url: {url}\n      headers: {{Authorization: ['Bearer \
                 {SECRET}']}}\n      timeout: 5s\n      threshold: 3\n      backoff: 200ms\n      ignore: {{mediatypes: \
                 [application/octet-stream], actions: [pull]}}\n"
            ));
        }
        let file = folder.path().join("registry.yml");
        std::fs::write(&file, config).expect("written");
        let child = Command::new(docker_registry())
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        let registry = Self { address, child, client, _folder: folder };
        let began = Instant::now();
        while registry.client.get(registry.url("/v2/")).send().await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "docker-registry answers");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Puts the blob that all images share into a repository.
    async fn prepare(&self, repository: &str) {
        let begun =
            self.client.post(self.url(&format!("/v2/{repository}/blobs/uploads/"))).send().await.expect("begun");
        let location = begun.headers()["location"].to_str().expect("text").to_owned();
        let query = if location.contains('?') { '&' } else { '?' };
        let put = self.client.put(format!("{location}{query}digest={}", digest_of(CONFIG))).body(CONFIG);
        assert_eq!(put.send().await.expect("put").status(), StatusCode::CREATED);
    }

    /// Pushes an image; its digest.
    async fn push(&self, repository: &str, tag: &str, content: &str) -> String {
        push(&self.client, self.address, repository, tag, content).await
    }

    async fn delete(&self, repository: &str, digest: &str) {
        let deleted = self.client.delete(self.url(&format!("/v2/{repository}/manifests/{digest}"))).send().await;
        assert_eq!(deleted.expect("an answer").status(), StatusCode::ACCEPTED);
    }

    /// What a tag points to, by the registry's own word; empty: nothing.
    async fn bound(&self, repository: &str, tag: &str) -> String {
        let head = self.client.head(self.url(&format!("/v2/{repository}/manifests/{tag}"))).header("accept", MANIFEST);
        let answer = head.send().await.expect("an answer");
        answer
            .headers()
            .get("docker-content-digest")
            .map_or(String::new(), |digest| digest.to_str().expect("text").into())
    }

    async fn tags(&self, repository: &str) -> Vec<String> {
        let list = self.client.get(self.url(&format!("/v2/{repository}/tags/list"))).send().await.expect("an answer");
        let list: Value = serde_json::from_slice(&list.bytes().await.expect("a body")).expect("JSON");
        list["tags"].as_array().into_iter().flatten().map(|tag| tag.as_str().expect("text").to_owned()).collect()
    }

    /// Ledger and registry say the same of every tag that either has.
    async fn agrees(&self, world: &World, repository: &str, known: &[String]) {
        let mut tags = self.tags(repository).await;
        tags.extend(known.iter().cloned());
        for tag in tags {
            assert_eq!(world.bound(repository, &tag).await, self.bound(repository, &tag).await, "{repository}:{tag}");
        }
        world.check_ledger().await;
    }
}

async fn push(client: &reqwest::Client, address: SocketAddr, repository: &str, tag: &str, content: &str) -> String {
    let config =
        json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": digest_of(CONFIG) });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": { "content": content },
    });
    let url = format!("http://{address}/v2/{repository}/manifests/{tag}");
    let manifest = manifest.to_string();
    let put = client.put(url).header("content-type", MANIFEST).body(manifest.clone()).send().await.expect("an answer");
    assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap_or_default());
    digest_of(&manifest)
}

/// The program's command line, for one ledger and one registry.
struct Program<'a> {
    world: &'a World,
    registry: SocketAddr,
    folder: &'a Path,
}

impl Program<'_> {
    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagledgerd"));
        let path = |name: &str| self.folder.join(name).display().to_string();
        command
            .args(["scan", "--registry", REGISTRY, "--registry-url", &format!("http://{}", self.registry)])
            .args(["--ledger", &format!("http://{}", self.world.address), "--trust", &path("trust")])
            .args(["--token-file", &self.world.data_dir.join("token").display().to_string()])
            .args(["--state", &path("state"), "--pause", "300ms", "--json"])
            .args(if more.contains(&"--rate") { &[][..] } else { &["--rate", "1000"][..] })
            .args(more)
            .env_remove("TAGLEDGER_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs to its end; the report, and the exit code.
    async fn run(&self, more: &[&str]) -> (Value, i32) {
        let mut command = captured(self.command(more));
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        (report, output.status.code().expect("it was not killed"))
    }

    async fn complete(&self, more: &[&str]) -> Value {
        let (report, code) = self.run(more).await;
        assert_eq!((&report["complete"], code), (&Value::Bool(true), 0), "{report:#}");
        report
    }
}

/// Nothing but the command: what it prints is caught.
fn captured(mut command: Command) -> Command {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The findings as `kind tag`.
fn found(report: &Value) -> Vec<String> {
    let words = |finding: &Value| {
        let tag = finding["tag"].as_str().expect("text").rsplit(':').next().expect("a tag").to_owned();
        format!("{} {tag}", finding["kind"].as_str().expect("text"))
    };
    let mut found: Vec<String> = report["findings"].as_array().expect("a list").iter().map(words).collect();
    found.sort();
    found
}

/// A ledger that takes webhooks as `lab`, and does not look into the registry itself.
async fn ledger(folder: &Path) -> World {
    let secret = folder.join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("changed");
    let config = format!("[webhooks.lab]\nregistry = '{REGISTRY}'\nsecret_file = '{}'\n", secret.display());
    let config: Config = toml::from_str(&config).expect("a configuration");
    World::open_with(&folder.join("ledger"), config).await
}

/// How many pushes are recorded.
async fn announced(world: &World) -> usize {
    world.records().await.iter().filter(|(_, statement)| statement.verb() == "push").count()
}

fn webhook(world: &World) -> String {
    format!("http://{}/webhooks/distribution/lab", world.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_everything_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = ledger(folder.path()).await;
    let registry = RealRegistry::start(None).await;
    let scan = Program { world: &world, registry: registry.address, folder: folder.path() };
    registry.prepare("team/app").await;
    let mut digests = BTreeMap::new();
    for tag in ["v1", "v2", "v3"] {
        digests.insert(tag, registry.push("team/app", tag, tag).await);
    }
    let known = ["v1", "v2", "v3", "v4"].map(str::to_owned);
    let report = scan.complete(&["--dry-run"]).await;
    assert_eq!(found(&report), ["unannounced v1", "unannounced v2", "unannounced v3"]);
    assert!(world.observations().await.is_empty());
    let report = scan.complete(&["--once"]).await;
    assert_eq!(found(&report), ["unannounced v1", "unannounced v2", "unannounced v3"]);
    registry.agrees(&world, "team/app", &known).await;
    let size = world.entries().await.len();
    assert!(found(&scan.complete(&["--once"]).await).is_empty());
    assert_eq!(world.entries().await.len(), size, "what did not change is not recorded again");

    let moved = registry.push("team/app", "v1", "another").await;
    registry.push("team/app", "v4", "v4").await;
    registry.delete("team/app", &digests["v2"]).await;
    let report = scan.complete(&["--once", "--repository", "team/**"]).await;
    assert_eq!(found(&report), ["retagged v1", "unannounced v4", "vanished v2"]);
    for finding in report["findings"].as_array().expect("a list") {
        let (last, first) =
            (finding["last_seen"].as_str().expect("known"), finding["first_seen"].as_str().expect("known"));
        assert!(last < first, "{finding:#}");
    }
    let seen = world.observations().await;
    let (last, record) = seen.iter().rev().find(|(seen, _)| seen.tag == "v1").expect("recorded");
    assert_eq!((last.digest.as_str(), record.outcome()), (moved.as_str(), Outcome::Drift));
    assert!(last.last_seen_us > 0 && last.last_seen_us < last.first_seen_us);
    registry.agrees(&world, "team/app", &known).await;
    // The command line shows the interval.
    let mut shown = Command::new(env!("CARGO_BIN_EXE_tagledger"));
    shown
        .args([
            "--server",
            &format!("http://{}", world.address),
            "--trust",
            &folder.path().join("cli").display().to_string(),
        ])
        .args(["history", &format!("{REGISTRY}/team/app:v1")]);
    let mut shown = captured(shown);
    let output = tokio::task::spawn_blocking(move || shown.output().expect("it runs")).await.expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("between ") && text.contains(" by the producer's clock"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_notifications_leave_out_is_found_and_the_others_are_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = ledger(folder.path()).await;
    // Every second envelope is lost on the way.
    let (passed, arrived) = (webhook(&world), Arc::new(AtomicUsize::new(0)));
    let (client, count) =
        (reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client"), arrived.clone());
    let lossy = Router::new().route(
        "/",
        post(move |headers: HeaderMap, body: Bytes| {
            let (client, passed, number) = (client.clone(), passed.clone(), count.fetch_add(1, Ordering::SeqCst));
            async move {
                if number % 2 == 0 {
                    let request = client.post(passed).headers(
                        headers
                            .into_iter()
                            .filter_map(|(name, value)| {
                                let name =
                                    name.filter(|name| matches!(name.as_str(), "authorization" | "content-type"))?;
                                Some((name, value))
                            })
                            .collect(),
                    );
                    let answer = request.body(body).send().await.expect("the ledger answers");
                    assert!(answer.status().is_success(), "{}", answer.status());
                }
                StatusCode::OK
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, lossy).await });
    let registry = RealRegistry::start(Some(format!("http://{address}/"))).await;
    registry.prepare("team/app").await;
    let tags: Vec<String> = (0..12).map(|number| format!("v{number}")).collect();
    for tag in &tags {
        registry.push("team/app", tag, tag).await;
    }
    let began = Instant::now();
    while arrived.load(Ordering::SeqCst) < tags.len() || announced(&world).await < tags.len() / 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "all were announced, and what passed is recorded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let scan = Program { world: &world, registry: registry.address, folder: folder.path() };
    let report = scan.complete(&["--once"]).await;
    let kinds = |kind: &str| report["counts"][kind].as_u64().expect("a number");
    assert_eq!((kinds("unannounced"), kinds("unconfirmed"), report["agreed"].as_u64()), (6, 6, Some(12)), "{report:#}");
    for (seen, record) in world.observations().await {
        let expected = if seen.checks_entry > 0 { Outcome::Unchanged } else { Outcome::Applied };
        assert_eq!(record.outcome(), expected, "{seen:?}");
    }
    registry.agrees(&world, "team/app", &tags).await;
    assert!(found(&scan.complete(&["--once"]).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_race_of_eight_pushers_ledger_and_registry_agree_on_every_tag() {
    const TAGS: usize = 40;
    const PUSHERS: usize = 8;
    let folder = tempfile::tempdir().expect("a folder");
    let world = ledger(folder.path()).await;
    let registry = RealRegistry::start(Some(webhook(&world))).await;
    registry.prepare("team/app").await;
    let tags: Vec<String> = (0..TAGS).map(|number| format!("v{number}")).collect();
    // A scanner goes round and round while they push.
    let scan = Program { world: &world, registry: registry.address, folder: folder.path() };
    let mut looping =
        scan.command(&["--every", "100ms"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut pushers = tokio::task::JoinSet::new();
    for pusher in 0..PUSHERS {
        let (client, address, tags) = (registry.client.clone(), registry.address, tags.clone());
        pushers.spawn(async move {
            for tag in tags {
                push(&client, address, "team/app", &tag, &format!("{tag} by {pusher}")).await;
            }
        });
    }
    while let Some(pushed) = pushers.join_next().await {
        pushed.expect("pushed");
    }
    let began = Instant::now();
    loop {
        let claims = announced(&world).await;
        if claims == TAGS * PUSHERS {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{claims} of {} were announced", TAGS * PUSHERS);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Asked to stop, it stops well, and leaves a whole state behind.
    let id = looping.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    let reports: Vec<String> =
        BufReader::new(looping.stdout.take().expect("piped")).lines().map(|line| line.expect("text")).collect();
    assert!(looping.wait().expect("it ends").success());
    assert!(reports.iter().all(|report| serde_json::from_str::<Value>(report).is_ok()), "a report a line: {reports:?}");
    let report = scan.complete(&["--once"]).await;
    assert_eq!(report["agreed"].as_u64(), report["tags"].as_u64());
    registry.agrees(&world, "team/app", &tags).await;
    let report = scan.complete(&["--once"]).await;
    assert!(found(&report).is_empty() && report["tags"] == TAGS, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_that_is_killed_goes_on_where_it_was() {
    const TAGS: usize = 200;
    let folder = tempfile::tempdir().expect("a folder");
    let world = ledger(folder.path()).await;
    let fake = Fake::new().await;
    for number in 0..TAGS {
        let digest = fake.put("team/app", &format!("v{number}"), "one");
        world.recorded(&happened(&format!("v{number}"), &digest)).await;
    }
    let scan = Program { world: &world, registry: fake.address, folder: folder.path() };
    let mut child =
        scan.command(&["--once", "--rate", "50"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let began = Instant::now();
    let remembered = || -> usize {
        let text = std::fs::read_to_string(folder.path().join("state/scan.json")).unwrap_or_default();
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        state["repositories"]["team/app"]["tags"].as_object().map_or(0, serde_json::Map::len)
    };
    while remembered() < 40 {
        assert!(began.elapsed() < Duration::from_secs(20), "it remembers on the way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // SIGKILL.
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    let kept = remembered();
    assert!(kept < TAGS, "it was killed in the middle");
    fake.forget();
    let report = scan.complete(&["--once"]).await;
    assert_eq!(
        (report["tags"].as_u64(), report["agreed"].as_u64()),
        (Some(TAGS as u64), Some(TAGS as u64)),
        "{report:#}"
    );
    assert!(report["started"].as_str() < report["finished"].as_str());
    let looks = fake.asked().iter().filter(|asked| asked.is_look()).count();
    assert_eq!(looks, TAGS - kept, "what was remembered is not looked at again");
    // Each claim was confirmed once, also those whose confirmation was recorded and not yet remembered.
    let seen = world.observations().await;
    let checked: std::collections::BTreeSet<u64> = seen.iter().map(|(seen, _)| seen.checks_entry).collect();
    assert_eq!((seen.len(), checked.len()), (TAGS, TAGS));
    world.check_ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_is_missing_and_how_it_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = ledger(folder.path()).await;
    let fake = Fake::new().await;
    fake.put("team/app", "v1", "one");
    fake.put("team/tmp-1", "v1", "one");
    let scan = Program { world: &world, registry: fake.address, folder: folder.path() };
    // What is left out is not asked for.
    let report = scan.complete(&["--exclude", "team/tmp-*"]).await;
    assert_eq!(report["repositories"], 1);
    assert!(fake.asked().iter().all(|asked| !asked.path.contains("tmp")));
    // Incomplete: 1, with the reason in the report.
    fake.says(|asked, _| asked.path.contains("/tags/list").then(|| crate::fake::Says::status(403)));
    let (report, code) = scan.run(&["--once"]).await;
    assert_eq!((code, &report["complete"]), (1, &Value::Bool(false)));
    assert!(report["failures"][0]["reason"].as_str().expect("text").contains("403 Forbidden"), "{report:#}");
    // A ledger under another key: 3.
    let wrong = std::fs::read_to_string(folder.path().join("trust/known_ledgers")).expect("pinned");
    let other = World::new().await;
    let forged = wrong.replace(&world.vkey.to_string(), &other.vkey.to_string());
    let pins = folder.path().join("trust/known_ledgers");
    std::fs::write(&pins, forged).expect("written");
    let run = |more: &'static [&'static str]| {
        let mut command = captured(scan.command(more));
        async move {
            let output =
                tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let (code, said) = run(&["--once"]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("has changed"), "{said}");
    std::fs::write(&pins, wrong).expect("written");
    // Called wrongly: 2. Nobody's address: 1.
    for (more, expected, words) in [
        (&["--once", "--every", "1m"] as &'static [&str], 2, "cannot be used with"),
        (&["--every", "soon"], 2, "is not a length of time"),
        (&["--rate", "0"], 1, "rate: is 0; requests a second must be above 0"),
        (&["--repository", "team/[a"], 1, "is not a pattern of repositories"),
    ] {
        let (code, said) = run(more).await;
        assert_eq!(code, Some(expected), "{more:?}: {said}");
        assert!(said.contains(words), "{more:?}: {said}");
    }
}
