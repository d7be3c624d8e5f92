//! Real clients with a real registry: `docker-registry`, and skopeo, buildah and podman as Debian has them.
//!
//! `tools/test` installs them. Without root the two that keep images need no more than their plainest store (`vfs`) and
//! isolation (`chroot`), in folders of the test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tagledger::server::gateway::Settings;

use crate::stage::{RULE, Running, Stage, digest};
use crate::world::World;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_copies_and_deletes_and_prints_why_it_may_not() {
    let real = Real::start().await;
    let [one, two] = ["one", "two"].map(|name| real.image(name));
    let app = real.reference("team/app");

    real.skopeo(&["copy", &one, &format!("{app}:v1")]).succeeds();
    real.skopeo(&["copy", &one, &format!("{app}:v1")]).succeeds();
    let denied = real.skopeo(&["copy", &two, &format!("{app}:v1")]).fails();
    assert!(denied.contains("tag \"v1\" is immutable since entry"), "{denied}");
    real.skopeo(&["copy", &two, &format!("{app}:latest")]).succeeds();
    real.skopeo(&["copy", &one, &format!("{app}:latest")]).succeeds();

    // By digest, to another tag and into another repository, which mounts the blobs.
    let by_digest = format!("{app}@{}", real.digest("team/app", "v1").await.expect("pushed"));
    real.skopeo(&["copy", &by_digest, &format!("{app}:stable")]).succeeds();
    real.skopeo(&["copy", &by_digest, &format!("{}:v1", real.reference("team/other"))]).succeeds();
    assert_eq!(real.digest("team/other", "v1").await, real.digest("team/app", "v1").await);

    // An index with its children first.
    let index = real.index("both", &["one", "two"]);
    real.skopeo(&["copy", "--all", &index, &format!("{app}:v2")]).succeeds();
    let inspected = real.skopeo(&["inspect", "--raw", &format!("{app}:v2")]).succeeds();
    assert_eq!(digest(&inspected), real.digest("team/app", "v2").await.expect("pushed"), "as it was");
    let denied =
        real.skopeo(&["copy", "--all", &real.index("reversed", &["two", "one"]), &format!("{app}:v2")]).fails();
    assert!(denied.contains("tag \"v2\" is immutable"), "{denied}");

    // skopeo deletes by digest: whatever has it goes.
    let denied = real.skopeo(&["delete", &format!("{app}:latest")]).fails();
    assert!(
        denied.contains("tag \"v1\" may not be deleted") || denied.contains("tag \\\"v1\\\" may not be deleted"),
        "{denied}"
    );
    real.skopeo(&["copy", &two, &format!("{app}:nightly")]).succeeds();
    real.skopeo(&["delete", &format!("{app}:nightly")]).succeeds();
    assert_eq!(real.digest("team/app", "nightly").await, None);
    real.skopeo(&["copy", &format!("{app}:v1"), &format!("oci:{}/pulled", real.folder())]).succeeds();
    real.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_and_podman_push_and_pull_and_print_why_they_may_not() {
    let real = Real::start().await;
    let app = real.reference("team/app").replace("docker://", "");
    let layer = PathBuf::from(real.folder()).join("layer.tar");
    std::fs::write(&layer, tar("hello.txt", b"built")).expect("written");

    let container = real.buildah(&["from", "scratch"]).succeeds();
    let container = container.trim();
    real.buildah(&["add", container, layer.to_str().expect("text"), "/layer.tar"]).succeeds();
    real.buildah(&["commit", container, "local/built"]).succeeds();
    let push = |tag: &str| real.buildah(&["push", "--tls-verify=false", "local/built", &format!("{app}:{tag}")]);
    push("v1").succeeds();
    push("v1").succeeds();
    real.buildah(&["config", "--label", "a=b", container]).succeeds();
    real.buildah(&["commit", container, "local/built"]).succeeds();
    let denied = push("v1").fails();
    assert!(denied.contains("tag \"v1\" is immutable since entry"), "{denied}");
    push("latest").succeeds();

    real.podman(&["pull", "--tls-verify=false", &format!("{app}:latest")]).succeeds();
    real.podman(&["push", "--tls-verify=false", &format!("{app}:latest"), &format!("{app}:again")]).succeeds();
    real.podman(&["import", layer.to_str().expect("text"), "local/imported"]).succeeds();
    let push = |tag: &str| real.podman(&["push", "--tls-verify=false", "local/imported", &format!("{app}:{tag}")]);
    let denied = push("v1").fails();
    assert!(denied.contains("tag \"v1\" is immutable since entry"), "{denied}");
    push("v3").succeeds();
    push("latest").succeeds();
    real.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_has_ranges_mounts_and_deletes_by_digest_only() {
    let real = Real::start().await;
    real.skopeo(&["copy", &real.image("one"), &format!("{}:v1", real.reference("team/app"))]).succeeds();
    let url = |path: &str| format!("http://{}{path}", real.gateway.address);
    // skopeo has compressed it.
    let manifest =
        real.client.get(url("/v2/team/app/manifests/v1")).header("accept", IMAGE).send().await.expect("answered");
    let manifest: serde_json::Value = serde_json::from_str(&manifest.text().await.expect("text")).expect("a manifest");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let blob = real.client.get(url(&format!("/v2/team/app/blobs/{layer}"))).header("range", "bytes=0-8");
    let part = blob.send().await.expect("answered");
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.expect("read").len(), 9);
    let mount = real.client.post(url(&format!("/v2/team/mounted/blobs/uploads/?mount={layer}&from=team/app")));
    let mounted = mount.send().await.expect("answered");
    assert_eq!(mounted.status(), 201);
    let location = mounted.headers()["location"].to_str().expect("text").to_owned();
    assert_eq!(real.client.head(url(&location)).send().await.expect("answered").status(), 200);
    let begun = real.client.post(url("/v2/team/app/blobs/uploads/")).send().await.expect("answered");
    let location = begun.headers()["location"].to_str().expect("text").to_owned();
    assert!(location.starts_with("/v2/team/app/blobs/uploads/") && location.contains("?_state="), "{location}");
    let whole = url(&format!("{location}&digest={}", digest("whole")));
    assert_eq!(real.client.put(whole).body("whole").send().await.expect("answered").status(), 201);
    // Distribution 2.8 deletes no tag by its name; that is recorded as what it is.
    let free = format!("{}:free", real.reference("team/app"));
    real.skopeo(&["copy", &real.image("two"), &free]).succeeds();
    let refused = real.client.delete(url("/v2/team/app/manifests/free")).send().await.expect("answered");
    match refused.status().as_u16() {
        400 => assert_eq!(real.last().await, "free delete REFUSED: FAILED"),
        202 => assert_eq!(real.last().await, "free delete HAPPENED: APPLIED"),
        other => panic!("{other}: {}", refused.text().await.unwrap_or_default()),
    }
    real.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_judges_who_pushes_before_anything_is_recorded() {
    // bcrypt of "right".
    let users = "robot:$2b$04$7DTcmk.H2.pU9xVdl4z2QeLW8GoKYNsUNvhstDp9eU4dNGGgdar3i\n";
    let real = Real::start_for(Some(users)).await;
    let tag = format!("{}:v1", real.reference("team/app"));
    let push =
        |name: &str, credentials: &str| real.skopeo(&["copy", "--dest-creds", credentials, &real.image(name), &tag]);
    push("one", "robot:wrong").fails();
    let url = format!("http://{}/v2/team/app/manifests/v1", real.gateway.address);
    let attempt = async |method: reqwest::Method, user: Option<&str>| {
        let mut request = real.client.request(method, &url).body("{}");
        if let Some(password) = user {
            request = request.basic_auth("robot", Some(password));
        }
        request.send().await.expect("answered")
    };
    let before = real.world.entries().await.len();
    push("one", "robot:right").succeeds();
    let said = crate::stage::lines(&real.world).await;
    assert_eq!(
        said.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
        ["v1 push INTENDED: NOTED", "v1 push HAPPENED: APPLIED"]
    );
    let bound = real.world.entries().await.len();
    assert!(bound > before);
    for method in [reqwest::Method::PUT, reqwest::Method::DELETE] {
        for user in [None, Some("wrong")] {
            let answer = attempt(method.clone(), user).await;
            assert_eq!(answer.status(), 401, "{method} {user:?}");
            assert_eq!(answer.headers()["www-authenticate"], "Basic realm=\"the registry\"");
            let said = answer.text().await.expect("text");
            assert!(said.contains("UNAUTHORIZED") && !said.contains("immutable"), "{said}");
        }
    }
    assert_eq!(real.world.entries().await.len(), bound, "strangers leave nothing");
    let denied = push("two", "robot:right").fails();
    assert!(denied.contains("tag \"v1\" is immutable"), "{denied}");
    for bytes in real.world.entries().await.iter().skip(before) {
        let entry = tagledger::ledger::entry::SignedEntry::decode(bytes).expect("an entry");
        if let tagledger::ledger::entry::Body::Record(_, statement) = entry.body {
            assert_eq!(statement.message.actor, "robot", "the registry took the name");
        }
    }
    real.world.check_ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_agrees_with_the_ledger_whatever_two_gateways_push_and_delete_at_once() {
    let real = Real::start().await;
    let gateway = async |name: &str| {
        let settings = Stage::settings(&real.world, &real.registry.to_string(), &real.folder.path().join(name));
        Running::start(Settings { name: name.into(), changes_per_second: 0, ..settings }).await
    };
    let (one, other) = (gateway("one").await, gateway("other").await);
    // What all manifests speak of.
    let url = |path: &str| format!("http://{}{path}", real.registry);
    let begun = real.client.post(url("/v2/team/app/blobs/uploads/")).send().await.expect("answered");
    let location = begun.headers()["location"].to_str().expect("text").to_owned();
    let whole = real.client.put(format!("{location}&digest={}", digest("{}"))).body("{}");
    assert_eq!(whole.send().await.expect("answered").status(), 201);
    let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("{}"), "size": 2 });
    let manifest = |name: &str| {
        let annotations = json!({ "name": name });
        json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": [], "annotations": annotations })
            .to_string()
    };
    crate::rivals::contend(&real.client, [one.address, other.address], 8, manifest).await;
    let said = crate::stage::lines(&real.world).await;
    assert!(!said.iter().any(|line| line.text.contains("VIOLATION")), "{said:#?}");
    real.agrees().await;
}

/// A ledger, a gateway and `docker-registry`.
struct Real {
    world: World,
    gateway: Running,
    registry: SocketAddr,
    client: reqwest::Client,
    folder: tempfile::TempDir,
    process: Child,
}

/// What a program said.
struct Ran(Output, String);

impl Ran {
    fn succeeds(self) -> String {
        let said = String::from_utf8_lossy(&self.0.stderr).into_owned();
        assert!(self.0.status.success(), "{}: {said}", self.1);
        String::from_utf8(self.0.stdout).expect("text")
    }

    /// What it printed for its user. Clients escape quotes in their own way.
    fn fails(self) -> String {
        assert!(!self.0.status.success(), "{} succeeded", self.1);
        String::from_utf8_lossy(&self.0.stderr).replace('\\', "")
    }
}

impl Real {
    async fn start() -> Self {
        Self::start_for(None).await
    }

    /// For these users alone, if any are given: lines of an htpasswd file.
    async fn start_for(users: Option<&str>) -> Self {
        let program = std::env::var("TAGLEDGER_DOCKER_REGISTRY");
        let program = program.expect("run it by tools/test, or first: eval \"$(tools/setup registry clients)\"");
        let folder = tempfile::tempdir().expect("a folder");
        // Nothing else here listens on this address or connects from it: a port of 127.0.0.1 may be another's again before the registry
        // has it.
        let registry = std::net::TcpListener::bind("127.0.0.2:0").and_then(|listener| listener.local_addr());
        let registry = registry.expect("a free port");
        let config = folder.path().join("registry.yml");
        let mut text = json!({
            "version": "0.1",
            "log": { "level": "error" },
            "storage": {
                "filesystem": { "rootdirectory": folder.path().join("registry") },
                "delete": { "enabled": true },
            },
            "http": { "addr": registry.to_string(), "secret": "of this test" },
        });
        if let Some(users) = users {
            let path = folder.path().join("users");
            std::fs::write(&path, users).expect("written");
            text["auth"] = json!({ "htpasswd": { "realm": "the registry", "path": path } });
        }
        std::fs::write(&config, text.to_string()).expect("written");
        let process = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let deadline = Instant::now() + Duration::from_secs(15);
        while std::net::TcpStream::connect(registry).is_err() {
            assert!(Instant::now() < deadline, "docker-registry listens");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::write(folder.path().join("auth.json"), "{}").expect("written");
        let world = World::with_rules(&[RULE]).await;
        let settings = Stage::settings(&world, &registry.to_string(), folder.path());
        let gateway = Running::start(settings).await;
        Self { world, gateway, registry, client: crate::stage::client(), folder, process }
    }

    fn folder(&self) -> &str {
        self.folder.path().to_str().expect("text")
    }

    fn reference(&self, repository: &str) -> String {
        format!("docker://{}/{repository}", self.gateway.address)
    }

    /// What a tag is in the registry, past the gateway.
    async fn digest(&self, repository: &str, tag: &str) -> Option<String> {
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.registry);
        let docker = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
        let request = self.client.head(url).header("accept", format!("{IMAGE}, {INDEX}, {docker}"));
        let answer = request.send().await.expect("answered");
        let digest =
            answer.headers().get("docker-content-digest").map(|digest| digest.to_str().expect("text").to_owned());
        digest.filter(|_| answer.status() == 200)
    }

    async fn agrees(&self) {
        for line in crate::stage::lines(&self.world).await.into_iter().filter(|line| !line.tag.is_empty()) {
            let (repository, tag) = (line.repository, line.tag);
            let there = self.digest(&repository, &tag).await.unwrap_or_default();
            let bound = crate::stage::bound(&self.world, &repository, &tag).await;
            assert_eq!(bound, there, "{repository}:{tag}");
        }
        self.world.check_ledger().await;
    }

    async fn last(&self) -> String {
        crate::stage::lines(&self.world).await.pop().expect("something is recorded").text
    }

    fn skopeo(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("skopeo");
        let policy = self.folder.path().join("policy.json");
        std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).expect("written");
        command.arg("--policy").arg(&policy).arg(arguments[0]);
        match arguments[0] {
            "copy" => command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]),
            _ => command.arg("--tls-verify=false"),
        };
        self.ran(command.args(&arguments[1..]))
    }

    fn buildah(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("buildah");
        self.ran(self.store(&mut command).args(arguments).env("BUILDAH_ISOLATION", "chroot"))
    }

    fn podman(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("podman");
        self.ran(self.store(&mut command).args(["--cgroup-manager", "cgroupfs"]).args(arguments))
    }

    fn store<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let folder = self.folder.path();
        command.args(["--storage-driver", "vfs", "--root"]).arg(folder.join("images"));
        command.arg("--runroot").arg(folder.join("run"))
    }

    fn ran(&self, command: &mut Command) -> Ran {
        let home = self.folder.path();
        let command = command
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home)
            .env("TMPDIR", home)
            .env("REGISTRY_AUTH_FILE", home.join("auth.json"));
        let ran = command.stdin(Stdio::null()).output();
        let words = format!("{command:?}");
        Ran(ran.unwrap_or_else(|error| panic!("{words}: {error}; run the tests by tools/test")), words)
    }

    /// An OCI layout of one image, made of its name.
    fn image(&self, name: &str) -> String {
        let layout = self.layout(name);
        let manifest = layout.image(name);
        layout.finish(&manifest)
    }

    /// An OCI layout of an index.
    fn index(&self, name: &str, images: &[&str]) -> String {
        let layout = self.layout(name);
        let manifests: Vec<_> = images
            .iter()
            .zip(["amd64", "arm64"])
            .map(|(image, architecture)| {
                let mut described = layout.image(image);
                described["platform"] = json!({ "architecture": architecture, "os": "linux" });
                described
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        layout.finish(&layout.blob(index.to_string().as_bytes(), INDEX))
    }

    fn layout(&self, name: &str) -> Layout {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.join("blobs/sha256")).expect("made");
        Layout(path)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Layout(PathBuf);

impl Layout {
    fn blob(&self, content: &[u8], media_type: &str) -> serde_json::Value {
        let digest = digest_of(content);
        std::fs::write(self.0.join("blobs").join(digest.replace(':', "/")), content).expect("written");
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    fn image(&self, name: &str) -> serde_json::Value {
        let layer = tar("hello.txt", format!("I am image {name}.").as_bytes());
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": self.blob(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(&layer, "application/vnd.oci.image.layer.v1.tar")],
        });
        self.blob(manifest.to_string().as_bytes(), IMAGE)
    }

    fn finish(&self, described: &serde_json::Value) -> String {
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(self.0.join(name), value.to_string()).expect("written");
        };
        write("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }));
        write("index.json", json!({ "schemaVersion": 2, "manifests": [described] }));
        format!("oci:{}", self.0.display())
    }
}

fn digest_of(content: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(content)))
}

/// An archive of one file (POSIX ustar).
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
