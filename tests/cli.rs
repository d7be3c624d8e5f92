//! The command line as transcripts: what is typed, and what is read, against a real server.
//!
//! Each file of `tests/cli/` is one story with a server, a trust folder and a home of its own:
//!
//! ```text
//! Words of explanation.
//! $ tagledger at registry.example/team/app:v1
//! what it prints
//! ! what it prints to standard error
//! [exit 4]
//! % serve other content
//! ```
//!
//! `$A` to `$F` stand for digests of one digit, `$VKEY` for the ledger's key and `$OTHERKEY` for another one of the same
//! origin, `@3` for the time of entry 3. Variables may be set before the command. In what is printed, times, hashes, keys,
//! random event ids, the server and folders have words of their own (TIME, HASH, ...), `[..]` matches anything within a
//! line, and `...` any lines.
//! Lines with `%` are stage directions ([`Stage::direct`]). A run with `TAGLEDGER_UPDATE_TRANSCRIPTS=1` writes what is
//! printed into the files; read the difference before you commit it.

#![cfg(feature = "server")]

mod immutable;
#[path = "cli/proxy.rs"]
mod proxy;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use immutable::immutable;
use proxy::{Answer, Proxy};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::note::Skey;

/// Makes `v*` immutable in a new ledger: its entry 1.
async fn set_policy(address: String, token: String) -> Result<(), Box<dyn std::error::Error>> {
    use prost::Message as _;
    use tagledger::proto::{
        self, append_service_client::AppendServiceClient, query_service_client::QueryServiceClient,
    };
    let mut query = QueryServiceClient::connect(address.clone()).await?;
    if query.get_policy(proto::GetPolicyRequest::default()).await?.into_inner().set_by > 0 {
        return Ok(());
    }
    let change = proto::PolicyChange { policy: immutable(&["registry.example/**:v*"]), replaces: String::new() };
    let kind = Some(proto::statement::Kind::PolicyChange(change));
    let statement = proto::Statement { kind, ..proto::Statement::default() }.encode_to_vec();
    let submission = Some(proto::Submission { statement, ..Default::default() });
    let mut request = tonic::Request::new(proto::AppendRequest { submission });
    request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse()?);
    AppendServiceClient::connect(address).await?.append(request).await?;
    Ok(())
}

#[test]
fn recording_says_what_the_ledger_made_of_it() {
    play("record");
}

#[test]
fn principals_come_change_and_go_and_the_log_says_so() {
    play("principal");
}

#[test]
fn tags_are_answered_for_now_and_then() {
    play("tags");
}

#[test]
fn workloads_and_changes_are_answered_for_now_and_then() {
    play("runs");
}

#[test]
fn the_log_is_shown_as_a_log() {
    play("log");
}

#[test]
fn saved_answers_are_checked_without_a_server() {
    play("saved");
}

#[test]
fn a_key_is_pinned_on_first_use_and_a_changed_one_refused() {
    play("pin");
}

#[test]
fn a_fork_is_called_a_fork_and_a_rollback_a_rollback() {
    play("fork");
}

#[test]
fn whoever_is_in_between_is_not_believed() {
    play("lies");
}

#[test]
fn an_audit_finds_what_is_not_as_it_must_be() {
    play("audit");
}

#[test]
fn a_policy_is_shown_tried_compared_set_and_imported() {
    play("policy");
}

#[test]
fn help_tells_a_commands_own_options_from_the_global_ones() {
    play("help");
}

#[test]
fn bad_input_is_refused_with_what_would_be_right() {
    play("bad-input");
}

/// `tagledger history … | head -1` ends quietly.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut stage = Stage::new();
    stage.direct("serve");
    for _ in 0..3 {
        let pushed = stage.tagledger(&["record", "push", "registry.example/team/app:latest", "--digest", "$A"]);
        assert!(pushed.status.success(), "{pushed:?}");
    }
    let mut command = stage.command();
    command.args(["watch", "--from", "0", "--limit", "3"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tagledger starts");
    // Nobody reads.
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Pages are turned as far as the answer goes, or the limit.
#[test]
fn long_lists_are_whole() {
    let mut stage = Stage::new();
    stage.direct("serve");
    // One page has at most a thousand items.
    let many = 1100;
    stage.append_tags("team/app", many);
    let listed = |stage: &Stage, arguments: &[&str]| {
        let printed = stage.tagledger(arguments);
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        String::from_utf8_lossy(&printed.stdout).lines().filter(|line| line.starts_with("tag-")).count()
    };
    assert_eq!(listed(&stage, &["tags", "registry.example/team/app"]), many);
    assert_eq!(listed(&stage, &["tags", "registry.example/team/app", "--limit", "1050"]), 1050);
    let path = stage.dir.path().join("many.json");
    let path = path.to_str().expect("a path");
    assert_eq!(listed(&stage, &["tags", "registry.example/team/app", "--save", path]), many);
    // While the ledger goes on, each page has a checkpoint of its own; one more proof makes them one answer.
    let busy = stage.dir.path().join("busy.json");
    let busy = busy.to_str().expect("a path");
    let is_through = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !is_through.load(Ordering::Relaxed) {
                stage.append_tags("team/other", 3);
            }
        });
        assert_eq!(listed(&stage, &["tags", "registry.example/team/app", "--save", busy]), many);
        is_through.store(true, Ordering::Relaxed);
        writer.join().expect("it wrote");
    });
    let saved = fs::read_to_string(busy).expect("saved");
    assert_eq!(saved.matches("\"checkpoint\"").count(), 3, "two pages, and what seals them");
    stage.direct("stop");
    for path in [path, busy] {
        assert_eq!(listed(&stage, &["verify", path]), many);
    }
}

fn play(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli").join(format!("{name}.txt"));
    let script = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut stage = Stage::new();
    let mut printed = String::new();
    let mut wrong = Vec::new();
    for block in blocks(&script) {
        printed.push_str(&block.head);
        printed.push('\n');
        if let Some(direction) = block.head.strip_prefix("% ") {
            stage.direct(direction);
        }
        let Some(typed) = block.head.strip_prefix("$ ") else { continue };
        let found = stage.type_in(typed);
        if matches(&block.expected, &found) {
            printed.push_str(&block.expected);
        } else {
            wrong.push(format!("{}\n--- expected\n{}--- found\n{found}", block.head, block.expected));
            printed.push_str(&found);
        }
    }
    if std::env::var_os("TAGLEDGER_UPDATE_TRANSCRIPTS").is_some() {
        fs::write(&path, printed).expect("the transcript is writable");
    } else if !wrong.is_empty() {
        panic!("{} differs in {} places:\n\n{}", path.display(), wrong.len(), wrong.join("\n"));
    }
}

/// A line that is typed, directed or told, and what must follow it.
struct Block {
    head: String,
    expected: String,
}

fn blocks(script: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in script.lines() {
        let is_output = blocks.last().is_some_and(|block| block.head.starts_with("$ "));
        // A story is told between the commands: its lines begin with '#'.
        if line.starts_with("$ ") || line.starts_with("% ") || line.starts_with('#') || !is_output {
            blocks.push(Block { head: line.to_owned(), expected: String::new() });
        } else if let Some(block) = blocks.last_mut() {
            block.expected.push_str(line);
            block.expected.push('\n');
        }
    }
    blocks
}

/// Line by line; `...` stands for any number of lines. Blank lines around the output do not count.
fn matches(expected: &str, found: &str) -> bool {
    let lines = |text: &str| text.trim_matches('\n').lines().map(str::to_owned).collect::<Vec<_>>();
    lines_match(&lines(expected), &lines(found))
}

fn lines_match(expected: &[String], found: &[String]) -> bool {
    match (expected.split_first(), found.split_first()) {
        (None, None) => true,
        (Some((line, rest)), _) if line == "..." => (0..=found.len()).any(|skip| lines_match(rest, &found[skip..])),
        (Some((line, rest)), Some((other, others))) => line_matches(line, other) && lines_match(rest, others),
        _ => false,
    }
}

/// `[..]` stands for anything.
fn line_matches(expected: &str, found: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| found.strip_prefix(first)) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty() || (expected.ends_with("[..]") && last.is_empty())
}

/// The first bundle of entries with one of them changed, and signed by the ledger all the same: a record APPLIED for no
/// reason, or a commitment a microsecond later.
fn retold(tile: &str, bytes: &[u8], index: usize, how: &str, skey: &Skey) -> Vec<u8> {
    use tagledger::ledger::entry::{Body, SignedEntry, sign_commitment, sign_record};
    use tagledger::ledger::merkle::tile::{push_bundled, split_bundle};
    if !tile.starts_with("entries/") {
        return bytes.to_vec();
    }
    let mut bundle = Vec::new();
    for (position, entry) in split_bundle(bytes).expect("a bundle").into_iter().enumerate() {
        if position != index {
            push_bundled(&mut bundle, entry);
            continue;
        }
        match (SignedEntry::decode(entry).expect("an entry").body, how) {
            (Body::Record(mut record, _), "APPLIED") => {
                record.set_outcome(tagledger::proto::Outcome::Applied);
                record.rule.clear();
                record.detail.clear();
                push_bundled(&mut bundle, &sign_record(&record, skey));
            }
            (Body::Commitment(mut commitment), "later") => {
                commitment.recorded_at_us += 1;
                push_bundled(&mut bundle, &sign_commitment(&commitment, skey));
            }
            (body, _) => panic!("{body:?} cannot be told as {how}"),
        }
    }
    bundle
}

/// A server, and somebody who uses it.
struct Stage {
    dir: tempfile::TempDir,
    port: Option<u16>,
    server: Option<Child>,
    proxy: Option<Proxy>,
    vkey: String,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let producer = Skey::from_seed("producer".parse().expect("a name"), &[7; 32]);
        fs::write(dir.path().join("config.toml"), "# All as it is by itself.\n").expect("written");
        fs::write(dir.path().join("producer.key"), producer.to_text().as_bytes()).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(dir.path().join("producer.key"), private).expect("changed");
        Self { dir, port: None, server: None, proxy: None, vkey: String::new() }
    }

    /// `serve`, `serve other content` (the same origin and key), `serve other key`, `stop`, `change FILE OLD NEW`,
    /// `spoil FILE POSITION` (one character), `proxy` and what it does.
    fn direct(&mut self, direction: &str) {
        let words: Vec<&str> = direction.split(' ').collect();
        match words[..] {
            ["serve"] => self.serve("data"),
            ["serve", "other", "content"] => {
                let (data, other) = (self.dir.path().join("data"), self.dir.path().join("other"));
                fs::create_dir_all(&other).expect("made");
                for file in ["origin", "ledger.key", "ledger.vkey", "token"] {
                    fs::copy(data.join(file), other.join(file)).expect("copied");
                }
                self.serve("other");
            }
            ["serve", "other", "key"] => self.serve("stranger"),
            ["stop"] => self.stop(),
            ["write", file, ref content @ ..] => {
                let text = content.join(" ").replace("\\n", "\n") + "\n";
                fs::write(self.dir.path().join(file), text).expect("written");
            }
            ["change", file, old, new] => {
                let path = self.dir.path().join(file);
                let text = fs::read_to_string(&path).expect("readable");
                assert!(text.contains(old), "{file} has no {old}");
                fs::write(path, text.replacen(old, new, 1)).expect("written");
            }
            ["spoil", file, position] => {
                let (path, position) = (self.dir.path().join(file), position.parse::<usize>().expect("a number"));
                let mut text = fs::read(&path).expect("readable");
                text[position] = if text[position] == b'A' { b'B' } else { b'A' };
                fs::write(path, text).expect("written");
            }
            ["proxy"] => self.proxy = Some(Proxy::before(&self.address())),
            ["proxy", ref does @ ..] => self.direct_proxy(does),
            _ => panic!("no such direction: {direction}"),
        }
    }

    /// `forwards`, `replays METHOD ...`, `has an empty log` with a false root, `never ends` a list of tags, `draws lines`
    /// where a tag was asked for, `serves entry INDEX as APPLIED`, or `later`, signed by the ledger, `withholds entries`,
    /// `cuts entries`.
    fn direct_proxy(&self, does: &[&str]) {
        use tagledger::proto::{GetCheckpointResponse, ListTagsResponse};
        let proxy = self.proxy.as_ref().expect("a proxy");
        match does {
            ["forwards"] => proxy.forward(),
            ["replays", methods @ ..] => methods.iter().for_each(|method| proxy.replay(method)),
            ["has", "an", "empty", "log"] => {
                let skey = fs::read_to_string(self.dir.path().join("data/ledger.key")).expect("a key");
                let skey = Skey::from_text(&skey).expect("the ledger's");
                let checkpoint = Checkpoint { size: 0, root: [1; 32] }.sign(&skey);
                proxy.lie("GetCheckpoint", move || {
                    Answer::message(&GetCheckpointResponse { checkpoint: checkpoint.clone() })
                });
            }
            ["never", "ends"] => {
                let mut page = ListTagsResponse { tags: Vec::new(), ..proxy.seen("ListTags") };
                let mut number = 0;
                proxy.lie("ListTags", move || {
                    number += 1;
                    page.next_page_token = number.to_string();
                    Answer::message(&page)
                });
            }
            ["serves", "entry", index, "as", how] => {
                let (index, how) = (index.parse().expect("a number"), (*how).to_owned());
                let skey = fs::read_to_string(self.dir.path().join("data/ledger.key")).expect("a key");
                let skey = Skey::from_text(&skey).expect("the ledger's");
                proxy.lie_in_tiles(move |tile, bytes| Some(retold(tile, bytes, index, &how, &skey)));
            }
            ["withholds", "entries"] => proxy.lie_in_tiles(|_, _| None),
            ["cuts", "entries"] => proxy.lie_in_tiles(|_, bytes| Some(bytes[..bytes.len() - 1].to_vec())),
            ["draws", "lines"] => proxy.lie("ResolveTag", || {
                Answer::status(&tonic::Status::not_found("nothing\n  proven: all is well\u{1b}[2J"))
            }),
            _ => panic!("a proxy can't do that: {does:?}"),
        }
    }

    /// Serves a data directory: on a free port the first time, later on the same one.
    fn serve(&mut self, data: &str) {
        self.stop();
        let (out, log) = (self.dir.path().join("server.out"), self.dir.path().join("server.log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
            .current_dir(self.dir.path())
            .args(["serve", "--data-dir", data, "--config", "config.toml", "--origin", "ledger.example/test"])
            .args(["--listen", &format!("127.0.0.1:{}", self.port.unwrap_or(0))])
            .env_remove("TAGLEDGER_LISTEN")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).expect("a file"))
            .stderr(fs::File::create(&log).expect("a file"))
            .spawn()
            .expect("tagledgerd starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        let port = loop {
            // Its own word for it: somebody else could be listening where it tried to.
            let greeting = fs::read_to_string(&out).unwrap_or_default();
            let address =
                greeting.split_once("serves on http://127.0.0.1:").and_then(|(_, rest)| rest.split_once('\n'));
            if let Some((port, _)) = address {
                break port.parse().expect("a port");
            }
            let ended = child.try_wait().expect("known");
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "tagledgerd does not serve: {ended:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.server = Some(child);
        self.port = Some(port);
        let token = fs::read_to_string(self.dir.path().join(data).join("token")).expect("a token");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(set_policy(format!("http://127.0.0.1:{port}"), token)).expect("the policy is set");
        let vkey = fs::read_to_string(self.dir.path().join(data).join("ledger.vkey")).expect("a key");
        vkey.trim().clone_into(&mut self.vkey);
    }

    /// Where the server is, or was, or whoever stands before it; before there was one, a port where nobody listens.
    fn address(&self) -> String {
        let proxy = self.proxy.as_ref().map(|proxy| proxy.port);
        format!("127.0.0.1:{}", proxy.or(self.port).unwrap_or(1))
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It has to stand this at any time.
            server.kill().expect("killed");
            server.wait().expect("ended");
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagledger"));
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .env("TAGLEDGER_SERVER", self.address())
            .env("TAGLEDGER_TOKEN_FILE", "data/token")
            .stdin(Stdio::null());
        command
    }

    fn tagledger(&self, arguments: &[&str]) -> Output {
        self.tagledger_with(&[], arguments)
    }

    fn tagledger_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let arguments = arguments.iter().map(|argument| self.expand(argument));
        let variables = variables.iter().map(|(name, value)| (name, self.expand(value)));
        self.command().envs(variables).args(arguments).output().expect("tagledger starts")
    }

    /// Runs a typed line, and returns what it prints in the words of transcripts.
    fn type_in(&self, typed: &str) -> String {
        let words = split(typed);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let program =
            words.iter().position(|word| *word == "tagledger").unwrap_or_else(|| panic!("no command: {typed}"));
        let variables: Vec<_> = words[..program].iter().map(|word| word.split_once('=').expect("NAME=VALUE")).collect();
        let output = self.tagledger_with(&variables, &words[program + 1..]);
        let mut text = String::from_utf8(output.stdout).expect("UTF-8");
        for line in String::from_utf8(output.stderr).expect("UTF-8").lines() {
            text.push_str(format!("! {line}").trim_end());
            text.push('\n');
        }
        match output.status.code() {
            Some(0) => {}
            code => text.push_str(&format!("[exit {}]\n", code.expect("it was not killed"))),
        }
        self.in_words(&text)
    }

    /// `$A` and `@3` as they are.
    fn expand(&self, word: &str) -> String {
        if let Some(index) = word.strip_prefix('@').filter(|rest| rest.bytes().all(|b| b.is_ascii_digit())) {
            let shown = self.tagledger(&["entry", index, "--json"]);
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
            return format!("{}us", shown["entries"][0]["recorded_at"]["us"]);
        }
        let digests = ('A'..='F').map(|digit| (format!("${digit}"), digest(digit)));
        let other = Skey::from_seed("ledger.example/test".parse().expect("an origin"), &[9; 32]).vkey();
        let producer = Skey::from_seed("producer".parse().expect("a name"), &[7; 32]).vkey();
        let word = word
            .replace("$OTHERKEY", &other.to_string())
            .replace("$PRODUCER", &producer.to_string())
            .replace("$VKEY", &self.vkey);
        digests.fold(word, |word, (name, digest)| word.replace(&name, &digest))
    }

    fn in_words(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let hash = self.vkey.split('+').nth(1).unwrap_or("no key").to_owned();
        for (found, word) in [
            (self.vkey.as_str(), "VKEY"),
            (&format!("key {hash}"), "key KEYHASH"),
            (&format!("http://{}", self.address()), "SERVER"),
            (self.dir.path().to_str().expect("a path"), "DIR"),
        ] {
            if !found.is_empty() {
                text = text.replace(found, word);
            }
        }
        for digit in 'A'..='F' {
            text = text.replace(&digest(digit), &format!("${digit}"));
        }
        let is_hex = |word: &str, length| word.len() == length && word.bytes().all(|b| b.is_ascii_hexdigit());
        let replaced = |word: &str| {
            if is_time(word) {
                "TIME".to_owned()
            } else if is_hex(word, 64) && word.bytes().any(|b| b != b'0') {
                "HASH".to_owned()
            } else if is_hex(word, 32) {
                "EVENTID".to_owned()
            } else if let Some((kind, _)) = word.strip_suffix(".note").and_then(|name| name.rsplit_once('-')) {
                format!("{kind}-HASH.note")
            } else {
                word.to_owned()
            }
        };
        for (name, value) in [("\"us\":", "US"), ("\"note\":", "\"NOTE\"")] {
            text = replace_value(&text, name, value);
        }
        let mut out = String::new();
        let mut word = String::new();
        for c in text.chars() {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.') {
                word.push(c);
                continue;
            }
            flush(&mut word, &mut out, replaced);
            out.push(c);
        }
        flush(&mut word, &mut out, replaced);
        out
    }

    /// Records tags in batches, faster than one command each.
    fn append_tags(&self, repository: &str, count: usize) {
        use prost::Message as _;
        use tagledger::proto::{self, append_service_client::AppendServiceClient};
        let submission = |number: usize| {
            let push = proto::TagPush {
                registry: "registry.example".into(),
                repository: repository.into(),
                tag: format!("tag-{number}"),
                digest: digest('A'),
                media_type: String::new(),
                disposition: proto::Disposition::Happened.into(),
                settles: 0,
            };
            let kind = Some(proto::statement::Kind::TagPush(push));
            let statement = proto::Statement { kind, ..proto::Statement::default() }.encode_to_vec();
            proto::Submission { statement, producer: None, only_at_version: None }
        };
        let token = fs::read_to_string(self.dir.path().join("data/token")).expect("a token");
        let server = format!("http://{}", self.address());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut client = AppendServiceClient::connect(server).await.expect("connected");
            let submissions: Vec<_> = (0..count).map(submission).collect();
            for chunk in submissions.chunks(500) {
                let mut request = tonic::Request::new(proto::AppendBatchRequest { submissions: chunk.to_vec() });
                let bearer = format!("Bearer {}", token.trim()).parse().expect("ASCII");
                request.metadata_mut().insert("authorization", bearer);
                client.append_batch(request).await.expect("recorded");
            }
        });
    }
}

/// Replaces what follows a name in JSON, up to the end of the value: a number, or a string without quotes in it.
fn replace_value(text: &str, name: &str, value: &str) -> String {
    let mut parts = text.split(name);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let found = part.trim_start();
        let length = match found.strip_prefix('"') {
            Some(rest) => 2 + rest.find('"').unwrap_or(0),
            None => found.bytes().take_while(u8::is_ascii_digit).count(),
        };
        let space = &part[..part.len() - found.len()];
        out.push_str(&format!("{name}{space}{value}{}", &found[length..]));
    }
    out
}

fn flush(word: &mut String, out: &mut String, replaced: impl Fn(&str) -> String) {
    // A sentence may end right after a word.
    let bare = word.trim_end_matches([':', '.']);
    out.push_str(&replaced(bare));
    out.push_str(&word[bare.len()..]);
    word.clear();
}

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_ascii_lowercase().to_string().repeat(64))
}

/// `2026-11-21T10:07:00Z`, with or without microseconds.
fn is_time(word: &str) -> bool {
    let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00Z" || shape == "0000-00-00T00:00:00.000000Z"
}

/// Words, with double quotes around those that have spaces.
fn split(typed: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in typed.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("never empty").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_transcripts_own_rules_hold() {
    assert!(line_matches("a [..] c", "a b c") && line_matches("[..]", "") && line_matches("a[..]", "abc"));
    assert!(!line_matches("a [..] c", "a b d") && !line_matches("a", "ab") && !line_matches("[..]a", "ab"));
    assert!(matches("a\n...\nc\n", "a\nb\nb\nc\n") && matches("a\n...\n", "a\n"));
    assert!(!matches("a\n...\nc\n", "a\nb\n") && !matches("a\n", "a\nb\n"));
    assert_eq!(split("a \"b c\" d=\"e f\""), ["a", "b c", "d=e f"]);
}
