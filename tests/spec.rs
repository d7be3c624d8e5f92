//! A second verifier, `tests/spec/verify.py`: plain Python, written from `docs/SPEC.md` alone and sharing nothing with us.
//!
//! Where it says something else than we do, one of the two is wrong, or the specification is. It reads the published vectors,
//! evidence files one by one, whole logs in a directory, and what a real server serves and the command line saves.

#[cfg(feature = "server")]
mod immutable;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use tagledger::ledger::merkle::tile::{Tile, TilePath, push_bundled};

/// Exit code where something was checked and does not hold.
const REFUSED: i32 = 3;

#[test]
fn it_agrees_with_every_vector() {
    let output = verify(&["vectors", text(&vectors())]);
    let printed = stdout(&output);
    assert!(output.status.success(), "{printed}");
    for file in std::fs::read_dir(vectors()).expect("the folder is there") {
        let name = file.expect("readable").file_name().into_string().expect("UTF-8");
        if name.ends_with(".json") {
            let cases =
                printed.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))?.split_once(" cases, "));
            let (count, wrong) = cases.unwrap_or_else(|| panic!("{name} was not read: {printed}"));
            assert!(count.parse::<u64>().expect("a number") > 0 && wrong == "0 wrong", "{name}: {printed}");
        }
    }
}

#[test]
fn it_notices_vectors_that_are_not_so() {
    for (file, from, to) in [
        ("keys.json", "\"key_hash\": \"", "\"key_hash\": \"00"),
        ("evidence.json", "\"is_cut\": false", "\"is_cut\": true"),
        ("evidence.json", "\"valid\": true", "\"valid\": false, \"why\": \"no reason\""),
        ("evidence.json", "\"contradiction\": true", "\"contradiction\": false"),
        ("replay.json", "\"index\": 9", "\"index\": 8"),
        ("policy.json", "\"rule\": \"all\"", "\"rule\": \"none\""),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        for copied in ["keys.json", file] {
            std::fs::copy(vectors().join(copied), folder.path().join(copied)).expect("copied");
        }
        let path = folder.path().join(file);
        let content = std::fs::read_to_string(&path).expect("text");
        assert!(content.contains(from), "{from} is in {file}");
        std::fs::write(&path, content.replacen(from, to, 1)).expect("written");
        let output = verify(&["vectors", text(folder.path())]);
        assert_eq!(output.status.code(), Some(REFUSED), "{file}, {from}: {}", stdout(&output));
    }
}

#[test]
fn it_reads_evidence_files_and_says_what_follows_from_each() {
    let file = read("evidence.json");
    let folder = tempfile::tempdir().expect("a folder");
    let vkey = file["vkey"].as_str().expect("a key");
    for (is_proof, command) in [(false, "evidence"), (true, "tlog-proof")] {
        for is_valid in [true, false] {
            let cases = list(&file["cases"]).iter().filter(|case| {
                let name = case["name"].as_str().expect("a name");
                name.starts_with("tlog-proof") == is_proof && case["valid"] == is_valid
            });
            let cases: Vec<&Value> = cases.collect();
            let paths = cases.iter().enumerate().map(|(number, case)| {
                let path = folder.path().join(format!("{command}-{is_valid}-{number}"));
                std::fs::write(&path, case["file"].as_str().expect("text")).expect("written");
                path
            });
            let paths: Vec<PathBuf> = paths.collect();
            let mut arguments = vec![command, "--vkey", vkey];
            arguments.extend(paths.iter().map(|path| text(path)));
            let output = verify(&arguments);
            let printed = stdout(&output);
            let expected = if is_valid { 0 } else { REFUSED };
            assert_eq!(output.status.code(), Some(expected), "{printed}");
            assert!(!cases.is_empty() && printed.lines().count() == cases.len(), "{printed}");
            for ((line, path), case) in printed.lines().zip(&paths).zip(cases) {
                let said = line.strip_prefix(text(path)).unwrap_or_else(|| panic!("{line}"));
                match said.strip_prefix(": ok ") {
                    Some(summary) if is_valid => {
                        let summary: Value = serde_json::from_str(summary).expect("JSON");
                        assert_eq!(summary, case["summary"], "{}", case["name"]);
                    }
                    None if !is_valid => assert!(said.starts_with(": refused: "), "{}: {said}", case["name"]),
                    _ => panic!("{}: {said}", case["name"]),
                }
            }
        }
    }
}

#[test]
fn it_finds_the_contradictions_between_two_files_and_no_others() {
    let file = read("evidence.json");
    let folder = tempfile::tempdir().expect("a folder");
    for case in list(&file["against"]) {
        let paths = ["one", "other"].map(|name| folder.path().join(name));
        for (path, content) in paths.iter().zip(list(&case["files"])) {
            std::fs::write(path, content.as_str().expect("text")).expect("written");
        }
        let vkey = file["vkey"].as_str().expect("a key");
        let output = verify(&["against", "--vkey", vkey, text(&paths[0]), text(&paths[1])]);
        let expected = if case["contradiction"] == true { REFUSED } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{}: {}", case["name"], stdout(&output));
    }
}

#[test]
fn it_audits_a_log_in_a_directory() {
    let file = read("replay.json");
    let named = |name: &str| {
        list(&file["cases"]).iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("there is no {name}"))
    };
    let replay = |case: &Value| {
        let folder = tempfile::tempdir().expect("a folder");
        write_log(case, folder.path());
        let output = verify(&["replay", "--vkey", case["vkey"].as_str().expect("a key"), text(folder.path())]);
        (output.status.code(), stdout(&output))
    };
    // More than one bundle.
    for name in ["a manifest deleted with 257 tags", "every kind of statement, and every outcome"] {
        let (code, printed) = replay(named(name));
        let entries = list(&named(name)["entries"]).len();
        let root = named(name)["map_root"].as_str().expect("a root");
        assert!(code == Some(0) && printed.starts_with(&format!("ok {entries} entries, ")), "{printed}");
        assert!(printed.contains(root), "{printed}");
    }
    let (code, printed) = replay(named("history that skips an entry"));
    assert!(code == Some(REFUSED) && printed.starts_with("refused: entry 10: "), "{printed}");
    let (code, printed) = replay(named("checkpoint with another root"));
    assert!(code == Some(REFUSED) && printed.starts_with("refused: "), "{printed}");
}

/// A log as the service serves it (SPEC section 10), as far as an audit reads it.
fn write_log(case: &Value, folder: &Path) {
    let entries = list(&case["entries"]).iter().map(|entry| BASE64.decode(entry.as_str().expect("text")));
    let entries: Vec<Vec<u8>> = entries.collect::<Result<_, _>>().expect("base64");
    for (index, entries) in (0..).zip(entries.chunks(256)) {
        let width = u64::try_from(entries.len()).expect("at most 256");
        let path = folder.join(format!("tile/{}", TilePath::Entries(Tile { index, width })));
        let mut bundle = Vec::new();
        entries.iter().for_each(|entry| push_bundled(&mut bundle, entry));
        std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("made");
        std::fs::write(path, bundle).expect("written");
    }
    std::fs::write(folder.join("checkpoint"), case["checkpoint"].as_str().expect("a note")).expect("written");
}

// --- the Python program ------------------------------------------------------------------------------------------------

fn verify(arguments: &[&str]) -> Output {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spec/verify.py");
    let mut command = Command::new("python3");
    if let Some(path) = std::env::var_os("TAGLEDGER_PYTHONPATH") {
        command.env("PYTHONPATH", path);
    }
    let output = command.args(["-B", program]).args(arguments).output();
    let needed = "this test needs python3 and its package cryptography; run: eval \"$(tools/setup python)\"";
    let output = output.unwrap_or_else(|error| panic!("python3 does not start ({error}); {needed}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("ModuleNotFoundError"), "{needed}\n{errors}");
    assert!(errors.is_empty(), "verify.py {arguments:?}: {errors}");
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(vectors().join(name)).expect(name)).expect("JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

// --- a real server -----------------------------------------------------------------------------------------------------

#[cfg(feature = "server")]
mod real {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::thread;

    use prost::Message as _;
    use serde_json::Value;
    use tagledger::proto::append_service_client::AppendServiceClient;
    use tagledger::proto::{AppendBatchRequest, Disposition, Statement, Submission, TagPush, statement};

    use super::immutable::immutable;
    use super::{REFUSED, stdout, text, verify};

    const TAG: &str = "registry.example/team/app:v1";

    #[test]
    fn it_verifies_what_a_real_server_serves_and_the_command_line_saves() {
        let server = Server::start();
        // More tags than one page of a list holds.
        server.append(1010);
        let [a, b, c] = ['a', 'b', 'c'].map(|digit| format!("sha256:{}", digit.to_string().repeat(64)));
        server.run(&["record", "push", TAG, "--digest", &a], 0);
        server.run(&["record", "push", TAG, "--digest", &b, "--requested"], 1);
        server.run(&["record", "push", TAG, "--digest", &c], 0);
        server.run(&["record", "push", "registry.example/team/app:latest", "--digest", &b], 0);
        server.run(&["record", "delete", "registry.example/team/app:latest"], 0);
        server.run(&["record", "deploy", TAG, "--digest", &c, "--env", "prod", "--workload", "web"], 0);
        server.run(&["record", "deploy", TAG, "--digest", &c, "--env", "staging", "--workload", "web"], 0);
        server.run(
            &["record", "deploy", TAG, "--digest", &c, "--env", "prod", "--workload", "web", "--phase", "stopped"],
            0,
        );

        let state = |question: &[&str], exit_code| server.saved(question, exit_code)["state"].clone();
        assert_eq!(state(&["at", TAG], 0)["digest"], *c);
        assert_eq!(state(&["at", "registry.example/team/app:latest"], 4)["digest"], Value::Null);
        let never = state(&["at", "registry.example/team/app:never"], 4);
        assert_eq!((never["at"].clone(), never["total"].clone()), (Value::Null, 0.into()));
        let history = server.saved(&["history", TAG], 0);
        assert_eq!(history["versions"].as_array().map(Vec::len), Some(6));
        let newest = server.saved(&["history", TAG, "--newest-first", "--limit", "2"], 0);
        assert_eq!(newest["versions"].as_array().map(Vec::len), Some(2));
        assert_eq!(server.saved(&["where", &b], 0)["total"], 2);
        let tags = server.saved(&["tags", "registry.example/team/app", "--all"], 0);
        assert_eq!(tags["states"].as_array().map(Vec::len), Some(1012));
        let running = server.saved(&["ran"], 0);
        assert_eq!(running["states"][0]["name"], serde_json::json!(["staging", "", "", "web", ""]));
        assert_eq!(server.saved(&["ran", "--env", "prod", "--all"], 0)["states"].as_array().map(Vec::len), Some(1));
        let from = ["--from", "1 hour ago"];
        let changes = server.saved(&["diff", "--env", "staging", from[0], from[1]], 0);
        assert_eq!(changes["changes"].as_array().map(Vec::len), Some(1));
        assert_eq!(server.saved(&["entry", "5"], 0)["index"], 5);
        assert_eq!(server.saved(&["prove", "5", "--size", "7"], 0)["tree_size"], 7);

        // A receipt against all that was said about its tag.
        let receipt = server.path("receipt.tlog-proof");
        server.run(&["entry", &server.last_entry_of(&history), "--save", &receipt], 0);
        let printed = verify(&["tlog-proof", "--vkey", &server.vkey, &receipt]);
        assert!(printed.status.success(), "{}", stdout(&printed));
        let whole = server.path("history-0.json");
        server.run(&["history", TAG, "--save", &whole], 0);
        let printed = verify(&["against", "--vkey", &server.vkey, &receipt, &whole]);
        assert!(printed.status.success(), "{}", stdout(&printed));

        let address = format!("http://{}", server.address);
        let printed = verify(&["replay", "--vkey", &server.vkey, &address]);
        // Entry 0, the first principal, the policy, the tags, and eight records, each batch with its commitment.
        assert!(printed.status.success() && stdout(&printed).starts_with("ok 1033 entries, "), "{}", stdout(&printed));
        let other = "ledger.example/tags+ab2ed794+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
        let printed = verify(&["evidence", "--vkey", other, &whole]);
        assert_eq!(printed.status.code(), Some(REFUSED), "{}", stdout(&printed));
    }

    /// A running tagledgerd; dropped, it is killed.
    struct Server {
        folder: tempfile::TempDir,
        process: Child,
        address: String,
        vkey: String,
    }

    impl Server {
        /// Tags that begin with v are immutable.
        fn start() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let data = folder.path().join("data");
            let mut process = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
                .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)])
                .env_remove("TAGLEDGER_CONFIG")
                .stdout(Stdio::piped())
                .spawn()
                .expect("tagledgerd starts");
            let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
            let address = lines.find_map(|line| Some(line.expect("text").split_once("http://")?.1.trim().to_owned()));
            let address = address.expect("tagledgerd prints its address before it ends");
            // Whatever else it prints must not block it.
            thread::spawn(move || lines.for_each(drop));
            let vkey = std::fs::read_to_string(data.join("ledger.vkey")).expect("a key").trim().to_owned();
            let server = Self { folder, process, address, vkey };
            std::fs::write(server.path("policy.toml"), immutable(&["registry.example/**:v*"])).expect("written");
            let token = server.path("data/token");
            server.run(&["policy", "set", &server.path("policy.toml"), "--token-file", &token], 0);
            server
        }

        /// Records pushes of as many tags, a thousand in a batch.
        fn append(&self, count: u32) {
            let token = std::fs::read_to_string(self.folder.path().join("data/token")).expect("a token");
            let submissions: Vec<Submission> = (0..count).map(push).collect();
            tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
                let address = format!("http://{}", self.address);
                let mut client = AppendServiceClient::connect(address).await.expect("the server listens");
                for batch in submissions.chunks(1000) {
                    let mut request = tonic::Request::new(AppendBatchRequest { submissions: batch.to_vec() });
                    let bearer = format!("Bearer {}", token.trim()).parse().expect("printable");
                    request.metadata_mut().insert("authorization", bearer);
                    client.append_batch(request).await.expect("the batch is recorded");
                }
            });
        }

        /// What the second verifier makes of the answer to a question.
        fn saved(&self, question: &[&str], exit_code: i32) -> Value {
            let file = self.path("answer.json");
            self.run(&[question, &["--save", &file]].concat(), exit_code);
            let output = verify(&["evidence", "--vkey", &self.vkey, &file]);
            let printed = stdout(&output);
            let summary =
                printed.strip_prefix(&format!("{file}: ok ")).unwrap_or_else(|| panic!("{question:?}: {printed}"));
            serde_json::from_str(summary).expect("JSON")
        }

        fn last_entry_of(&self, history: &Value) -> String {
            let versions = history["versions"].as_array().expect("a list");
            versions.last().expect("there are some")["index"].to_string()
        }

        fn run(&self, arguments: &[&str], exit_code: i32) {
            let output = Command::new(env!("CARGO_BIN_EXE_tagledger"))
                .args(arguments)
                .env("HOME", self.folder.path())
                .env("XDG_STATE_HOME", self.folder.path())
                .env("TAGLEDGER_SERVER", &self.address)
                .env("TAGLEDGER_TOKEN_FILE", self.folder.path().join("data/token"))
                .stdin(Stdio::null())
                .output()
                .expect("tagledger starts");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {errors}");
        }

        fn path(&self, name: &str) -> String {
            text(&self.folder.path().join(name)).to_owned()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn push(number: u32) -> Submission {
        let pushed = TagPush {
            registry: "registry.example".into(),
            repository: "team/app".into(),
            tag: format!("t{number}"),
            digest: format!("sha256:{number:064x}"),
            media_type: String::new(),
            disposition: Disposition::Happened.into(),
            settles: 0,
        };
        let statement = Statement { kind: Some(statement::Kind::TagPush(pushed)), ..Statement::default() };
        Submission { statement: statement.encode_to_vec(), producer: None, only_at_version: None }
    }
}
