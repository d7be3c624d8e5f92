//! A gateway that is killed between intent and outcome. The ledger runs beside the test, on other threads: the program asks it before
//! it says where it listens.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use reqwest::StatusCode;

use crate::stage::{Mode, Stage, digest};
use crate::world;

/// The real program.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Process {
    /// Before the stage's registry, to its ledger. `name`: of its journal; the same name goes on with it.
    pub(crate) fn start(stage: &Stage, name: &str) -> Self {
        Self::start_with(stage, name, "")
    }

    /// The same with more settings.
    pub(crate) fn start_with(stage: &Stage, name: &str, more: &str) -> Self {
        let folder = stage.folder.path();
        let config = folder.join(format!("{name}.toml"));
        let text =
            format!("look_pause_ms = 50\nidle_timeout_ms = 2000\nlate_bound_ms = 8000\nhold_wait_ms = 200\n{more}");
        std::fs::write(&config, text).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
            .arg("gateway")
            .args(["--listen", "127.0.0.1:0", "--registry", world::REGISTRY])
            .arg("--upstream")
            .arg(format!("http://{}", stage.registry.address))
            .arg("--ledger")
            .arg(format!("http://{}", stage.world.address))
            .arg("--token-file")
            .arg(stage.world.data_dir.join("token"))
            .arg("--trust")
            .arg(folder.join(format!("{name}-trust")))
            .arg("--journal")
            .arg(folder.join(format!("{name}-journal")))
            .arg("--config")
            .arg(&config)
            .env("TAGLEDGER_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().rsplit("://").next().and_then(|text| text.parse().ok());
        Self { address: address.unwrap_or_else(|| panic!("{line:?} names no address")), child }
    }

    /// As `kill -HUP` does.
    pub(crate) fn hang_up(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().expect("it runs").success());
    }

    /// As `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// The most memory it ever had, in kB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_between_intent_and_outcome_settles_it_at_the_next_start() {
    for (mode, became) in
        [(Mode::DoesAndStalls, "latest observe: APPLIED"), (Mode::Stalls, "latest observe: UNCHANGED")]
    {
        let stage = Stage::new().await;
        stage.push("latest", "before").await;
        stage.registry.set(mode);
        let gateway = Process::start(&stage, "mortal");
        let url = format!("http://{}/v2/team/app/manifests/latest", gateway.address);
        let pushing = tokio::spawn(stage.client.put(url).body("after").send());
        stage.until("it reached the registry", async |stage| stage.registry.changes().len() == 2).await;
        assert_eq!(stage.log().await.last().map(String::as_str), Some("latest push INTENDED: NOTED"));
        gateway.kill();
        assert!(pushing.await.expect("ran").is_err(), "the client heard nothing");
        stage.registry.set(Mode::Works);

        let _again = Process::start(&stage, "mortal");
        stage.until("it is settled", async |stage| stage.log().await.last().is_some_and(|last| last == became)).await;
        stage.agrees().await;
        let expected = if mode == Mode::Stalls { digest("before") } else { digest("after") };
        assert_eq!(stage.bound("latest").await, expected);
        assert_eq!(stage.push("latest", "and on").await.0, StatusCode::CREATED, "nothing holds the tag");
        stage.agrees().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_in_the_journal_that_never_reached_the_ledger_changes_nothing() {
    use base64::Engine as _;
    use prost::Message as _;
    let stage = Stage::new().await;
    stage.push("latest", "before").await;
    let mut intent = world::push("latest", &digest("after"), tagledger::proto::Disposition::Intended);
    intent.event_id = "gateway/abc/intent".into();
    let line =
        format!("open abc {}\nopen torn", base64::engine::general_purpose::STANDARD.encode(intent.encode_to_vec()));
    std::fs::write(stage.folder.path().join("left-journal"), line).expect("written");
    let _gateway = Process::start(&stage, "left");
    stage
        .until("it is settled", async |stage| {
            stage.log().await.last().is_some_and(|last| last == "latest observe: UNCHANGED")
        })
        .await;
    stage.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_carries_out_after_its_gateway_was_killed_keeps_its_tag_until_then() {
    let stage = Stage::new().await;
    stage.registry.set(Mode::DoesLate);
    let gateway = Process::start(&stage, "mortal");
    let url = |gateway: &Process| format!("http://{}/v2/team/app/manifests/v1", gateway.address);
    let pushing = tokio::spawn(stage.client.put(url(&gateway)).body("late").send());
    stage.until("it reached the registry", async |stage| stage.registry.changes().len() == 1).await;
    gateway.kill();
    assert!(pushing.await.expect("ran").is_err(), "the client heard nothing");
    stage.registry.set(Mode::Works);
    let again = Process::start(&stage, "mortal");
    let answer = stage.client.put(url(&again)).body("another").send().await.expect("answered");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "it may come yet");
    assert_eq!(stage.registry.digest_of("team/app", "v1"), None, "it was too early to tell");
    stage.registry.do_what_is_late();
    stage
        .until("it came", async |stage| stage.log().await.last().is_some_and(|last| last == "v1 observe: APPLIED"))
        .await;
    let answer = stage.client.put(url(&again)).body("another").send().await.expect("answered");
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    assert_eq!(stage.bound("v1").await, digest("late"));
    stage.agrees().await;
}
