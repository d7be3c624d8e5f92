//! Another key, with the real programs: announced, followed forward and backward, under load and under kill -9; and what is
//! refused on the way.

#![cfg(feature = "server")]

#[path = "keys/copies.rs"]
mod copies;
#[path = "keys/files.rs"]
mod files;
#[path = "cli/proxy.rs"]
mod proxy;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use tagledger::client::trust::TrustFolder;
use tagledger::client::{Credentials, RemoteLedger};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::keys::KeyChange;
use tagledger::ledger::note::{Skey, Vkey};
use tagledger::proto;

/// The real server; killed when it is dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(data_dir: &Path, overlap_days: u32) -> Self {
        let config = data_dir.with_extension("toml");
        fs::write(&config, format!("[keys]\noverlap_days = {overlap_days}\n")).expect("written");
        let mut process = tagledgerd()
            .args(["serve", "--listen", "127.0.0.1:0", "--config", path(&config), "--data-dir", path(data_dir)])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it greets");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        assert!(address.starts_with("http://127.0.0.1:"), "greeted with {line:?}");
        Self { process, address }
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it was killed");
    }

    fn stop(mut self) {
        let done = Command::new("kill").arg(self.process.id().to_string()).status().expect("kill runs");
        assert!(done.success());
        assert!(self.process.wait().expect("it ends").success());
    }

    fn checkpoint(&self) -> String {
        let printed =
            Command::new("curl").args(["-s", &format!("{}/checkpoint", self.address)]).output().expect("curl");
        String::from_utf8(printed.stdout).expect("text")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tagledgerd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn said(printed: &Output) -> String {
    // As one line: it is wrapped to the width of a terminal.
    let text = String::from_utf8_lossy(&[printed.stdout.as_slice(), &printed.stderr].concat()).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn good(printed: Output) -> String {
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    said(&printed)
}

fn refused(printed: Output, code: i32) -> String {
    assert_eq!(printed.status.code(), Some(code), "{}", said(&printed));
    said(&printed)
}

/// A ledger's directory, and clients of it.
struct Place {
    folder: tempfile::TempDir,
    data_dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("ledger");
        Self { folder, data_dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `tagledger`, as somebody who has a trust folder of this name, and the operator's token.
    fn cli(&self, server: &Server, trust: &str, arguments: &[&str]) -> Output {
        self.offline(
            trust,
            &[&["--server", &server.address, "--token-file", path(&self.data_dir.join("token"))], arguments].concat(),
        )
    }

    fn offline(&self, trust: &str, arguments: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tagledger"));
        program.env_clear().args(["--trust", path(&self.at(trust))]).args(arguments).output().expect("it runs")
    }

    fn push(&self, server: &Server, trust: &str, tag: &str) -> String {
        let digest = format!("sha256:{}", "a".repeat(64));
        good(self.cli(
            server,
            trust,
            &["record", "push", &format!("registry.example/team/app:{tag}"), "--digest", &digest],
        ))
    }

    fn prepare(&self) -> String {
        let printed =
            tagledgerd().args(["key", "prepare", "--data-dir", path(&self.data_dir)]).output().expect("it runs");
        assert!(printed.status.success(), "{}", said(&printed));
        let line = String::from_utf8(printed.stdout).expect("text");
        line.trim().strip_prefix("tagledger key announce ").expect("what announces it").to_owned()
    }

    /// Announces another key, and returns it.
    fn change_key(&self, server: &Server, trust: &str) -> Vkey {
        let change = self.prepare();
        let told = good(self.cli(server, trust, &["key", "announce", &change]));
        assert!(told.contains("APPLIED"), "{told}");
        let change = proto::KeyChange::decode(BASE64.decode(change).expect("base64").as_slice()).expect("a change");
        change.vkey.parse().expect("a key")
    }

    fn vkey(&self) -> Vkey {
        self.text("ledger.vkey").trim().parse().expect("a key")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.data_dir.join(name)).unwrap_or_default()
    }

    fn pinned(&self, trust: &str) -> String {
        fs::read_to_string(self.at(trust).join("known_ledgers")).expect("pinned")
    }

    /// What the real program says when it does not start.
    fn refusal(&self) -> String {
        refused(
            tagledgerd()
                .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", path(&self.data_dir)])
                .output()
                .expect("it runs"),
            1,
        )
    }
}

/// The verifier that was written from the specification alone.
fn second_verifier(arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec/verify.py");
    let mut python = Command::new("python3");
    if let Some(packages) = std::env::var_os("TAGLEDGER_PYTHONPATH") {
        python.env("PYTHONPATH", packages);
    }
    python.arg("-B").arg(program).args(arguments).output().expect("python3, as `tools/setup python` provides it")
}

/// Waits for what the server does by itself.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn whoever_pinned_the_old_key_follows_and_whoever_pins_the_new_one_can_check_what_was_before() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    let first = place.vkey();
    place.push(&server, "old", "v1");
    let tag = "registry.example/team/app:v1";
    let (before, between, after) = (place.at("before.json"), place.at("between.json"), place.at("after.json"));
    good(place.cli(&server, "old", &["at", tag, "--save", path(&before)]));
    let second = place.change_key(&server, "admin");
    assert_ne!(first, second);
    place.push(&server, "admin", "v2");

    // Forward, with no more than the old key.
    assert!(place.pinned("old").contains(&first.to_string()));
    let told = good(place.cli(&server, "old", &["at", tag, "--save", path(&after)]));
    let (one, two) = (hex::encode(first.hash()), hex::encode(second.hash()));
    assert!(told.contains(&format!("key {one} announced key {two} in entry ")), "{told}");
    assert!(told.contains(&format!("keys {one}, and {two} from entry ")), "{told}");
    assert!(!place.pinned("old").contains(&first.to_string()) && place.pinned("old").contains(&second.to_string()));
    good(place.cli(&server, "old", &["audit"]));
    let shown = good(place.cli(&server, "old", &["key", "show"]));
    assert!(shown.contains(&first.to_string()) && shown.contains(&second.to_string()), "{shown}");

    // Without a server, under either key, and under no other.
    for vkey in [&first, &second] {
        let told = good(place.offline("nobody", &["verify", path(&after), "--vkey", &vkey.to_string()]));
        assert!(told.contains("announced key"), "{told}");
    }
    let stranger = Skey::from_seed(first.origin().clone(), &[9; 32]).vkey().to_string();
    let told = refused(place.offline("nobody", &["verify", path(&after), "--vkey", &stranger]), 3);
    assert!(told.contains("the trusted key, ") && told.contains("is none of them"), "{told}");

    // Backward: somebody who never knew the old key.
    let told = refused(place.offline("nobody", &["verify", path(&before), "--vkey", &second.to_string()]), 3);
    assert!(told.contains("not signed by"), "{told}");
    good(place.cli(&server, "new", &["checkpoint"]));
    assert!(place.pinned("new").contains(&second.to_string()));
    let told = good(place.offline("new", &["verify", path(&before)]));
    assert!(
        told.contains(&format!(
            "not proven: that the log of the later keys continues this one: key {one} was replaced"
        )),
        "{told}"
    );
    good(place.offline("new", &["verify", path(&before), "--against", path(&after)]));
    good(place.offline("old", &["verify", path(&before), "--against", path(&after)]));

    // Both sign for a while: who follows nothing is served too.
    let lines = |note: &str| note.split_once("\n\n").expect("signed").1.lines().count();
    assert_eq!(lines(&server.checkpoint()), 2);
    soon("the files follow", || place.vkey() == second && place.text("earlier.vkeys").trim() == first.to_string());
    assert_eq!(place.text("ledger.key").lines().count(), 2);
    server.stop();
    // Until that is over: then the old private key is nowhere any more.
    let server = Server::start(&place.data_dir, 0);
    soon("the old key goes", || place.text("ledger.key").lines().count() == 1);
    assert_eq!(fs::metadata(place.data_dir.join("ledger.key")).expect("there").permissions().mode() & 0o777, 0o600);
    place.push(&server, "old", "v3");
    assert_eq!(lines(&server.checkpoint()), 1);
    good(place.cli(&server, "old", &["audit", "--from", "last"]));
    good(place.cli(&server, "late", &["at", tag]));

    // And once more, over both.
    good(place.cli(&server, "new", &["at", tag, "--save", path(&between)]));
    let third = place.change_key(&server, "old");
    good(place.cli(&server, "new", &["at", tag, "--save", path(&after)]));
    // What was saved in the middle shows nothing of the newest key, and holds for whoever followed to it.
    good(place.offline("new", &["verify", path(&between)]));
    good(place.offline("new", &["verify", path(&between), "--against", path(&after)]));
    let told = refused(place.offline("nobody", &["verify", path(&between), "--vkey", &third.to_string()]), 3);
    assert!(told.contains("is none of them"), "{told}");
    for vkey in [&first, &second, &third].map(Vkey::to_string) {
        good(place.offline("nobody", &["verify", path(&after), "--vkey", &vkey]));
        good(second_verifier(&["evidence", "--vkey", &vkey, path(&after)]));
        good(second_verifier(&["replay", "--vkey", &vkey, &server.address]));
    }
    good(second_verifier(&["against", "--vkey", &second.to_string(), path(&before), path(&after)]));
    refused(second_verifier(&["evidence", "--vkey", &stranger, path(&after)]), 3);
    refused(second_verifier(&["evidence", "--vkey", &second.to_string(), path(&before)]), 3);
    assert!(place.pinned("new").contains(&third.to_string()));
}

#[test]
fn what_does_not_fit_is_refused_with_what_to_do() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    place.push(&server, "admin", "v1");
    let first = place.vkey();
    let announce = |change: &proto::KeyChange, code| {
        let text = BASE64.encode(change.encode_to_vec());
        refused(place.cli(&server, "admin", &["key", "announce", &text]), code)
    };
    let key = |seed| Skey::from_seed(first.origin().clone(), &[seed; 32]);
    let told = announce(&KeyChange::to_next(&first, &key(7)), 1);
    assert!(told.contains("does not have the private key of") && told.contains("tagledgerd key prepare"), "{told}");
    let told = announce(&KeyChange::to_next(&key(8).vkey(), &key(7)), 1);
    assert!(told.contains("the key in force is") && told.contains("make one that replaces the key in force"), "{told}");
    let prepared = place.prepare();
    assert_eq!(place.prepare(), prepared, "until it is announced it stays the same");
    let mut forged = proto::KeyChange::decode(BASE64.decode(&prepared).expect("base64").as_slice()).expect("a change");
    forged.consent[0] ^= 1;
    let told = refused(place.cli(&server, "admin", &["key", "announce", &BASE64.encode(forged.encode_to_vec())]), 2);
    assert!(told.contains("is not the consent of the new key"), "{told}");
    let told = refused(place.cli(&server, "admin", &["key", "announce", "nonsense"]), 2);
    assert!(told.contains("not what `tagledgerd key prepare` printed"), "{told}");

    // Only an admin.
    let add = ["principal", "add", "ci", "--role", "writer,reader", "--repository", "**"];
    let token = place.at("ci.token");
    good(place.cli(&server, "admin", &[&add[..], &["--token-out", path(&token)]].concat()));
    let as_ci = ["--server", &server.address, "--token-file", path(&token), "key", "announce", &prepared];
    let told = refused(place.offline("ci", &as_ci), 1);
    assert!(told.contains("admin"), "{told}");

    good(place.cli(&server, "admin", &["key", "announce", &prepared]));
    let told = refused(place.cli(&server, "admin", &["key", "announce", &prepared]), 1);
    assert!(told.contains("the key in force is"), "{told}");
    server.stop();

    // Files: what others may read, and a key that is not there.
    let (file, keys) = (place.data_dir.join("ledger.key"), place.text("ledger.key"));
    let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
    for mode in [0o640, 0o604] {
        set(mode);
        assert!(place.refusal().contains("chmod 600"));
        let printed =
            tagledgerd().args(["key", "prepare", "--data-dir", path(&place.data_dir)]).output().expect("it runs");
        assert!(refused(printed, 1).contains("chmod 600"));
    }
    set(0o600);
    let old = keys.lines().next().expect("a key");
    fs::write(&file, format!("{old}\n")).expect("written");
    let told = place.refusal();
    assert!(told.contains("is not in ledger.key; put it back from a backup"), "{told}");
    let run = |arguments: &[&str]| {
        tagledgerd().args(arguments).args(["--data-dir", path(&place.data_dir)]).output().expect("it runs")
    };
    // Nothing is prepared, or copied as if it were all; what only reads goes on.
    assert!(refused(run(&["key", "prepare"]), 1).contains("does not hold the private key of"));
    let to = place.at("backup-without");
    assert!(refused(run(&["backup", "--to", path(&to)]), 1).contains("does not hold the private key of"));
    good(run(&["backup", "--without-key", "--to", path(&to)]));
    good(run(&["fsck"]));
    fs::write(&file, keys).expect("written");
    Server::start(&place.data_dir, 30).stop();
}

/// What was acknowledged: entries by index.
type Acknowledged = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

async fn write_until_it_dies(ledger: RemoteLedger, writer: u32, seen: Acknowledged) {
    for number in 0.. {
        let push = proto::TagPush {
            registry: "registry.example".into(),
            repository: "team/app".into(),
            tag: format!("writer{writer}"),
            digest: format!("sha256:{number:064x}"),
            disposition: proto::Disposition::Happened.into(),
            ..proto::TagPush::default()
        };
        let statement = proto::Statement { kind: Some(proto::statement::Kind::TagPush(push)), ..Default::default() };
        match ledger.record(statement, None).await {
            Ok(receipt) => {
                let index = receipt.recorded.index;
                let entry = receipt.answer.entries.get(index).expect("shown").bytes.clone();
                assert_eq!(seen.lock().expect("held").insert(index, entry), None, "entry {index} twice");
            }
            Err(error) => {
                // It may be dead. What it says while it lives holds, whichever key is in force.
                assert!(!error.is_verification(), "{error}");
                return;
            }
        }
    }
}

#[test]
fn a_change_of_the_key_under_load_survives_kill_9_at_any_moment() {
    let place = Place::new();
    let seen = Acknowledged::default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut server = Server::start(&place.data_dir, 30);
    let first = place.vkey();
    let mut changes = Vec::new();
    for round in 0..9_u64 {
        let token = place.text("token");
        let address: tagledger::client::Server = server.address.parse().expect("an address");
        // All of them pinned whatever was in force when they first came.
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let credentials = Credentials { token: Some(token.trim().to_owned().into()), ..Credentials::default() };
                let trust = TrustFolder::new(place.at(&format!("writer{writer}")));
                let (address, seen) = (address.clone(), Arc::clone(&seen));
                runtime.spawn(async move {
                    let (ledger, _) =
                        RemoteLedger::open(address, credentials, trust, None).await.expect("it is served");
                    write_until_it_dies(ledger, writer, seen).await;
                })
            })
            .collect();
        let enough = seen.lock().expect("held").len() + 30;
        soon("nothing is acknowledged", || seen.lock().expect("held").len() >= enough);
        let change = place.prepare();
        if round % 3 > 0 {
            let mut announcing = Command::new(env!("CARGO_BIN_EXE_tagledger"))
                .env_clear()
                .args(["--trust", path(&place.at("admin")), "--server", &server.address])
                .args(["--token-file", path(&place.data_dir.join("token")), "key", "announce", &change])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it runs");
            if round % 3 == 1 {
                // Somewhere before, in, or after it.
                std::thread::sleep(Duration::from_millis(5 + 7 * round));
            } else {
                assert!(announcing.wait().expect("it ends").success(), "round {round}");
                std::thread::sleep(Duration::from_millis(2 * round));
            }
            server.kill();
            let _ = announcing.wait();
        } else {
            server.kill();
        }
        for writer in writers {
            runtime.block_on(writer).expect("a writer only ends when the server does");
        }
        server = Server::start(&place.data_dir, 30);
        let shown = place.cli(&server, "oldest", &["--vkey", &first.to_string(), "key", "show", "--json"]);
        let document: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        changes.push(document["keys"].as_array().expect("keys").len() - 1);
        soon("the files follow", || {
            let newest = document["keys"].as_array().and_then(|keys| keys.last()).expect("a key")["vkey"].clone();
            newest == place.vkey().to_string()
        });
    }
    let count = *changes.last().expect("rounds");
    println!("keys after each kill: {changes:?}; {} entries acknowledged", seen.lock().expect("held").len());
    assert!((3..=6).contains(&count), "each acknowledged change counts, and none twice: {changes:?}");
    // Whoever comes back with the first key alone finds everything that was acknowledged.
    good(place.cli(&server, "oldest", &["--vkey", &first.to_string(), "audit"]));
    runtime.block_on(async {
        let trust = TrustFolder::new(place.at("reader"));
        let address = server.address.parse().expect("an address");
        let (ledger, _) =
            RemoteLedger::open(address, Credentials::default(), trust, Some(first)).await.expect("served");
        let seen = std::mem::take(&mut *seen.lock().expect("held"));
        for (index, entry) in &seen {
            let question = tagledger::ledger::answer::Question::Entry { index: *index };
            let (answer, _) = ledger.ask(question).await.expect("answered");
            assert_eq!(answer.entries.get(*index).map(|found| &found.bytes), Some(entry), "entry {index}");
        }
    });
    server.stop();
    good(tagledgerd().args(["fsck", "--data-dir", path(&place.data_dir)]).output().expect("it runs"));
}

#[test]
fn a_ledger_of_several_keys_is_checked_copied_restored_and_rebuilt() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 0);
    let first = place.vkey();
    place.push(&server, "admin", "v1");
    let run = |arguments: &[&str]| tagledgerd().args(arguments).output().expect("it runs");
    let (data_dir, backup) = (place.data_dir.clone(), place.at("backup"));
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]));
    let older = place.at("older");
    for _ in 0..2 {
        place.change_key(&server, "admin");
        place.push(&server, "admin", "v2");
        if !older.exists() {
            // While it runs, and over a change.
            soon("the mark follows", || {
                run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]).status.success()
            });
        }
    }
    let saved = place.at("saved.json");
    good(place.cli(&server, "admin", &["history", "registry.example/team/app:v2", "--save", path(&saved)]));
    server.stop();
    let fsck = |directory: &Path| good(run(&["fsck", "--data-dir", path(directory)]));
    fsck(&data_dir);
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]));
    good(run(&["fsck", "--data-dir", path(&backup)]));
    let rebuilt = place.at("rebuilt");
    good(run(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&rebuilt)]));
    fsck(&rebuilt);
    let restored = place.at("restored");
    let checkpoint = backup.join("checkpoint");
    good(run(&["restore", "--data-dir", path(&restored), "--from", path(&backup), "--checkpoint", path(&checkpoint)]));
    fsck(&restored);
    for directory in [&rebuilt, &restored] {
        let moved = Place { folder: tempfile::tempdir().expect("a folder"), data_dir: directory.clone() };
        let server = Server::start(directory, 0);
        good(place.cli(&server, "admin", &["audit"]));
        good(moved.cli(&server, "x", &["--vkey", &first.to_string(), "audit"]));
        server.stop();
    }
    // Under another name, which is what is left of a ledger without its key. Its keys there are another matter.
    fs::remove_file(data_dir.join("ledger.key")).expect("removed");
    assert!(place.refusal().contains("ledger.key"));
    let anew = place.at("anew");
    let name = ["--new-origin", "ledger.example/again", "--into", path(&anew)];
    let told = good(run(&[&["restore", "--data-dir", path(&data_dir)], &name[..]].concat()));
    assert!(told.contains("is a new ledger"), "{told}");
    fsck(&anew);
    let server = Server::start(&anew, 0);
    let again = Place { folder: tempfile::tempdir().expect("a folder"), data_dir: anew.clone() };
    good(again.cli(&server, "x", &["audit"]));
    again.change_key(&server, "x");
    good(again.cli(&server, "x", &["audit"]));
    server.stop();
    fsck(&anew);
}

#[test]
fn what_a_replaced_key_alone_signed_after_its_time_is_no_newest_checkpoint() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 0);
    place.push(&server, "admin", "v1");
    let stolen = Skey::from_text(place.text("ledger.key").lines().next().expect("a key")).expect("a key");
    place.change_key(&server, "admin");
    place.push(&server, "admin", "v2");
    soon("the files follow", || !place.text("earlier.vkeys").is_empty());
    server.stop();
    let run = |arguments: &[&str]| tagledgerd().args(arguments).output().expect("it runs");
    let (data_dir, backup, forged) = (place.data_dir.clone(), place.at("backup"), place.at("forged"));
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]));
    let keys: Vec<Vkey> =
        ["earlier.vkeys", "ledger.vkey"].iter().map(|name| place.text(name).trim().parse().expect("a key")).collect();
    let note = fs::read_to_string(backup.join("checkpoint")).expect("there");
    let (newest, _) = Checkpoint::open_by(&note, keys.iter()).expect("signed");
    fs::rename(data_dir.join("db"), place.at("lost")).expect("lost");
    // The same entries, and more than there are.
    for checkpoint in [newest, Checkpoint { size: newest.size + 5, root: [7; 32] }] {
        fs::write(&forged, checkpoint.sign(&stolen)).expect("written");
        let tried = place.at("tried");
        let arguments = |more: &[&str]| {
            let _ = fs::remove_dir_all(&tried);
            fs::create_dir(&tried).expect("made");
            for file in fs::read_dir(&data_dir).expect("a folder") {
                let file = file.expect("listed");
                if file.file_type().expect("a type").is_file() {
                    fs::copy(file.path(), tried.join(file.file_name())).expect("copied");
                }
            }
            run(&[&["restore", "--data-dir", path(&tried), "--from", path(&backup)], more].concat())
        };
        // Nothing that is known besides is less for it.
        let told = good(arguments(&["--checkpoint", path(&forged)]));
        assert!(told.contains(&format!("holds {} entries", newest.size)), "{told}");
        let left = said(&arguments(&["--checkpoint", path(&forged)]));
        assert!(left.contains("left out: a checkpoint"), "{left}");
        good(run(&["fsck", "--data-dir", path(&tried)]));
        let head = fs::read_to_string(tried.join("high-water")).expect("there");
        assert_eq!(Checkpoint::open_by(&head, keys.iter()).expect("signed").1, &keys[1], "by the key in force");
    }
    // Alone it is none.
    fs::write(data_dir.join("high-water"), newest.sign(&stolen)).expect("written");
    fs::write(backup.join("checkpoint"), newest.sign(&stolen)).expect("written");
    let told = refused(run(&["restore", "--data-dir", path(&data_dir), "--from", path(&backup)]), 1);
    assert!(told.contains("left out: a checkpoint") && told.contains("neither database nor copies"), "{told}");
    // Nor for a rebuild, whose head it is not.
    fs::rename(place.at("lost"), data_dir.join("db")).expect("found");
    let rebuilt = place.at("rebuilt");
    let told = refused(run(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&rebuilt)]), 3);
    assert!(told.contains("which checkpoint is the newest"), "{told}");
}

#[test]
fn a_database_from_before_the_change_is_refused_as_rolled_back() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 0);
    place.push(&server, "admin", "v1");
    server.stop();
    let older = place.at("older");
    let copied = Command::new("cp").args(["-r", path(&place.data_dir.join("db")), path(&older)]).status().expect("cp");
    assert!(copied.success());
    let server = Server::start(&place.data_dir, 0);
    place.change_key(&server, "admin");
    place.push(&server, "admin", "v2");
    soon("the old key goes", || {
        place.text("ledger.key").lines().count() == 1 || {
            std::thread::sleep(Duration::from_millis(100));
            false
        }
    });
    server.stop();
    fs::remove_dir_all(place.data_dir.join("db")).expect("removed");
    fs::rename(&older, place.data_dir.join("db")).expect("moved");
    let told = place.refusal();
    assert!(told.contains("an older copy was put back"), "{told}");
}

#[test]
fn a_server_that_presents_another_key_without_showing_how_is_refused() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    good(place.cli(&server, "old", &["checkpoint"]));
    server.stop();
    // Another ledger of the same name, as somebody would make one who does not have the key.
    let impostor = Place::new();
    let origin = place.vkey().origin().to_string();
    let made = tagledgerd().args(["init", "--origin", &origin, "--data-dir", path(&impostor.data_dir)]).output();
    good(made.expect("it runs"));
    let server = Server::start(&impostor.data_dir, 30);
    let pins = fs::read_to_string(place.at("old").join("known_ledgers")).expect("pinned");
    let pinned = pins.split_whitespace().nth(1).expect("a key");
    fs::write(place.at("old").join("known_ledgers"), format!("{} {pinned}\n", server.address)).expect("written");
    for changes in 0..2 {
        let told = refused(place.cli(&server, "old", &["checkpoint"]), 3);
        assert!(told.contains("the key of") && told.contains("has changed"), "{told}");
        assert!(told.contains("The pinned key did not announce it"), "{told}");
        if changes == 0 {
            // One that changed its own key presents how that one came about, and that is of no use.
            impostor.change_key(&server, "its-own");
        }
    }
    assert!(place.pinned("old").contains(pinned), "the pin stays");
}

#[test]
fn two_successors_of_one_key_are_called_a_fork() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    place.push(&server, "client", "v1");
    server.stop();
    // A thief has everything, as it was then.
    let stolen = Place::new();
    let copied = Command::new("cp").args(["-r", path(&place.data_dir), path(&stolen.data_dir)]).status().expect("cp");
    assert!(copied.success());
    let (saved, forged) = (place.at("saved.json"), place.at("forged.json"));
    let server = Server::start(&place.data_dir, 30);
    place.change_key(&server, "admin");
    place.push(&server, "admin", "v2");
    good(place.cli(&server, "client", &["at", "registry.example/team/app:v1", "--save", path(&saved)]));
    let first = place.text("earlier.vkeys").trim().to_owned();
    server.stop();
    let server = Server::start(&stolen.data_dir, 30);
    stolen.change_key(&server, "thief");
    stolen.push(&server, "thief", "v2");
    good(stolen.cli(&server, "thief", &["at", "registry.example/team/app:v1", "--save", path(&forged)]));
    let ask = ["--server", &server.address, "at", "registry.example/team/app:v1"];
    let told = refused(place.offline("client", &ask), 3);
    assert!(told.contains("FORK") && told.contains(&format!("key {first} announced two successors")), "{told}");
    assert!(told.contains("ask the operator"), "{told}");
    // And the two files prove it to anybody who has the first key.
    let against = ["verify", path(&saved), "--against", path(&forged), "--vkey", &first];
    let told = refused(place.offline("nobody", &against), 3);
    assert!(told.contains("MISBEHAVIOUR") && told.contains("announced two successors"), "{told}");
    let told = refused(place.offline("client", &["verify", path(&forged)]), 3);
    assert!(told.contains("announced two successors"), "{told}");
}

#[test]
fn gateways_and_scanners_follow_while_they_run() {
    use tagledger::edge::port::GatewayPort as _;
    use tagledger::server::over_grpc::{OverGrpc, Shown};
    for overlap_days in [0, 30] {
        let place = Place::new();
        let server = Server::start(&place.data_dir, overlap_days);
        let shown = || Shown::token(place.text("token").trim().to_owned().into());
        let port = |trust: &str, vkey| {
            let address = server.address.parse().expect("an address");
            OverGrpc::new(address, TrustFolder::new(place.at(trust)), vkey, shown(), Duration::from_secs(20))
        };
        // One that pinned what it met, and one that was told.
        let ports = [port("pinned", None), port("told", Some(place.vkey()))];
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let record = |tag: &str| {
            let push = proto::TagPush {
                registry: "registry.example".into(),
                repository: "team/app".into(),
                tag: tag.into(),
                digest: format!("sha256:{:064x}", 1),
                disposition: proto::Disposition::Happened.into(),
                ..proto::TagPush::default()
            };
            let statement =
                proto::Statement { kind: Some(proto::statement::Kind::TagPush(push)), ..Default::default() };
            for port in &ports {
                runtime.block_on(port.record(statement.clone())).expect("recorded, and the receipt verified");
            }
        };
        record("v1");
        for round in 0..2 {
            place.change_key(&server, "admin");
            record(&format!("v2-{round}"));
            for port in &ports {
                runtime.block_on(port.policy()).expect("answered, and verified");
            }
        }
    }
}

fn own(statement: &proto::Statement) -> tagledger::engine::plan::Submission {
    let bytes = statement.encode_to_vec();
    tagledger::engine::plan::Submission {
        statement: tagledger::ledger::statement::Statement::parse(&bytes).expect("valid"),
        bytes,
        principal: "operator".into(),
        assurance: proto::Assurance::Authenticated,
        producer: None,
        shown: None,
        only_at_version: None,
    }
}

#[test]
fn an_entry_that_a_replaced_key_signed_is_named_by_fsck_and_a_change_is_alone_in_its_request_and_last_in_its_batch() {
    use tagledger::engine::check::check;
    use tagledger::engine::clock::Bounds;
    use tagledger::engine::plan::{KeyChangeError, Rejected};
    use tagledger::engine::{AppendError, Ledger, Options};
    use tagledger::ledger::entry::{Body, SignedEntry, sign_commitment, sign_record};
    use tagledger::store::memory::MemoryStore;
    use tagledger::store::{Batch, Store as _, rows};

    let key = |seed| Skey::from_seed("engine.example/keys".parse().expect("an origin"), &[seed; 32]);
    let store = Arc::new(MemoryStore::default());
    let clock = std::sync::atomic::AtomicU64::new(1_767_225_600_000_000);
    let options = Options {
        store: store.clone(),
        keys: Arc::new(move || Ok(vec![key(1), key(2)])),
        key_overlap_us: 0,
        has_begun: false,
        high_water: None,
        clock: Arc::new(move || clock.fetch_add(1_000_000, std::sync::atomic::Ordering::SeqCst)),
        clock_bounds: Bounds::default(),
        kept_map: None,
    };
    let push = |tag: &str| {
        let push = proto::TagPush {
            registry: "registry.example".into(),
            repository: "team/app".into(),
            tag: tag.into(),
            digest: format!("sha256:{:064x}", 1),
            disposition: proto::Disposition::Happened.into(),
            ..proto::TagPush::default()
        };
        own(&proto::Statement { kind: Some(proto::statement::Kind::TagPush(push)), ..Default::default() })
    };
    let change = KeyChange::to_next(&key(1).vkey(), &key(2));
    let change = own(&proto::Statement { kind: Some(proto::statement::Kind::KeyChange(change)), ..Default::default() });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (index, change_index) = runtime.block_on(async {
        let ledger = Ledger::open(options).expect("opened");
        let together = ledger.append(vec![push("a"), change.clone()]).await;
        let Err(AppendError::Rejected(Rejected::Keys { position: 1, of: 2, error })) = together.map(|_| ()) else {
            panic!("a change with something else");
        };
        assert_eq!(error, KeyChangeError::NotAlone);
        // Many at once: those that come after the change are not in its batch.
        let mut waiting = Vec::new();
        for tag in 0..40 {
            waiting.push(ledger.enqueue(vec![push(&format!("before{tag}"))], None).await.expect("there is room"));
        }
        let changed = ledger.enqueue(vec![change], None).await.expect("there is room");
        for tag in 0..40 {
            waiting.push(ledger.enqueue(vec![push(&format!("after{tag}"))], None).await.expect("there is room"));
        }
        let mut last = 0;
        for waiting in waiting {
            last = waiting.decided().await.expect("recorded").receipts[0].index;
        }
        let changed = changed.decided().await.expect("recorded").receipts[0].index;
        ledger.close().await;
        (last, changed)
    });
    assert!(index > change_index + 1);
    let closing = SignedEntry::decode(&rows::entry(&*store, change_index + 1).expect("there")).expect("an entry");
    assert!(matches!(closing.body, Body::Commitment(_)), "it closes the batch of the change");
    let checked = || check(&*store, &key(1).vkey(), None, &MemoryStore::default(), &mut |_, _, _| {}).expect("done");
    assert_eq!(checked().damages, []);

    let size = rows::tree_size(&*store).expect("a head");
    let replace = |index: u64, entry: &[u8]| {
        let mut batch = Batch::default();
        let leaf = tagledger::ledger::entry::entry_hash(entry);
        rows::put_entry(&mut batch, index, &leaf, entry);
        store.commit(size, batch).expect("stored");
    };
    // The same content at the same place, by the other key: of what comes after the change, and of the change's own batch.
    for (index, other) in [(index, key(1)), (change_index + 1, key(2)), (change_index, key(2))] {
        let honest = rows::entry(&*store, index).expect("there");
        replace(
            index,
            &match SignedEntry::decode(&honest).expect("an entry").body {
                Body::Record(record, _) => sign_record(&record, &other),
                Body::Commitment(commitment) => sign_commitment(&commitment, &other),
            },
        );
        let found = checked();
        let named = found.damages.iter().any(|damage| {
            damage.place == format!("entry {index}") && damage.found.contains("it is signed by another key than")
        });
        assert!(named, "entry {index}: {:?}", found.damages.first());
        replace(index, &honest);
    }
}
