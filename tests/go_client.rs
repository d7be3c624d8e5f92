//! A verifier that others wrote: Go's `golang.org/x/mod/sumdb/{note,tlog}`, as `tests/go/main.go`, against a real server.
//!
//! It must accept the ledger as the server serves it, and refuse it once a proxy in between flips one bit of a tile, of an
//! entry or of the checkpoint, or once the log no longer extends a checkpoint that was kept. A new ledger begins with a
//! commitment, and each batch adds one: of n pushes in one batch come n + 2 entries.

#![cfg(feature = "server")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use prost::Message as _;
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::{AppendBatchRequest, Disposition, Statement, Submission, TagPush, statement};

#[test]
fn the_go_client_verifies_the_checkpoint_and_every_entry() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    // More than one full tile and bundle, then partial ones.
    server.append(600);
    let kept = data.path().join("kept");
    let first = verify(server.address, &server, &["-save", path(&kept)]);
    assert_accepted(&first, "604 of 604 entries");

    server.append(3);
    let second = verify(server.address, &server, &["-older", path(&kept)]);
    assert_accepted(&second, "608 of 608 entries");
    assert_accepted(&second, "extends the older checkpoint of 604 entries");
}

#[test]
fn the_go_client_refuses_one_flipped_bit_wherever_it_is() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(data.path());
    server.append(300);
    let proxy = |corrupted| verify(corrupting_proxy(server.address, corrupted), &server, &[]);
    assert_accepted(&proxy("/nothing"), "304 of 304 entries");
    for corrupted in [
        "/checkpoint",
        "/tile/0/000",
        "/tile/0/001.p/48",
        "/tile/1/000.p/1",
        "/tile/entries/000",
        "/tile/entries/001.p/48",
    ] {
        assert_refused(&proxy(corrupted), corrupted);
    }
}

#[test]
fn the_go_client_calls_a_fork_a_fork() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (left, right) = (data.path().join("left"), data.path().join("right"));
    Server::start(&left).append(10);
    copy_directory(&left, &right);
    let kept = data.path().join("kept");
    let server = Server::start(&left);
    server.append(1);
    assert_accepted(&verify(server.address, &server, &["-save", path(&kept)]), "16 of 16 entries");
    drop(server);

    // The same ledger, with the same key, goes on from the same point with something else.
    let server = Server::start(&right);
    server.append(2);
    assert_refused(&verify(server.address, &server, &["-older", path(&kept)]), "a fork");
    assert_accepted(&verify(server.address, &server, &[]), "17 of 17 entries");
}

// --- the Go program ----------------------------------------------------------------------------------------------------

/// Runs it against an address, with the server's own key.
fn verify(address: SocketAddr, server: &Server, more: &[&str]) -> Output {
    Command::new(go_program())
        .args(["-url", &format!("http://{address}"), "-vkey", &server.vkey])
        .args(more)
        .output()
        .expect("the Go program starts")
}

fn assert_accepted(output: &Output, expected: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(expected), "expected {expected:?} in {output:?}");
}

fn assert_refused(output: &Output, why: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("not verified"), "{why} went unnoticed: {output:?}");
}

/// Compiled once for all tests of this file.
fn go_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-client");
        let built = Command::new("go")
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOFLAGS", "")
            .args(["build", "-o"])
            .arg(&program)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go/main.go"))
            .output();
        let needed = "this test needs Go and golang.org/x/mod; run: apt-get install golang-go golang-golang-x-mod-dev";
        let built = built.unwrap_or_else(|error| panic!("go does not start ({error}); {needed}"));
        assert!(built.status.success(), "{needed}\n{}", String::from_utf8_lossy(&built.stderr));
        program
    })
}

// --- the server --------------------------------------------------------------------------------------------------------

/// A running tagledgerd; dropped, it is killed.
struct Server {
    process: Child,
    address: SocketAddr,
    vkey: String,
    token: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", path(data)])
            .env_remove("TAGLEDGER_CONFIG")
            .stdout(Stdio::piped())
            .spawn()
            .expect("tagledgerd starts");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let address = lines
            .find_map(|line| line.expect("text").split_once("http://").map(|(_, address)| address.trim().to_owned()))
            .expect("tagledgerd prints its address before it ends")
            .parse()
            .expect("an address");
        // Whatever else it prints must not block it.
        thread::spawn(move || lines.for_each(drop));
        let read = |file: &str| std::fs::read_to_string(data.join(file)).expect(file).trim().to_owned();
        Self { process, address, vkey: read("ledger.vkey"), token: read("token") }
    }

    /// Records pushes of as many tags, in one batch, which a commitment closes.
    fn append(&self, count: u16) {
        let submissions = (0..count)
            .map(|n| Submission { statement: push(n).encode_to_vec(), producer: None, only_at_version: None })
            .collect();
        let mut request = tonic::Request::new(AppendBatchRequest { submissions });
        let token = format!("Bearer {}", self.token).parse().expect("printable");
        request.metadata_mut().insert("authorization", token);
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let mut client =
                AppendServiceClient::connect(format!("http://{}", self.address)).await.expect("the server listens");
            client.append_batch(request).await.expect("the batch is recorded");
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn push(n: u16) -> Statement {
    let pushed = TagPush {
        registry: "registry.example".into(),
        repository: "team/app".into(),
        tag: format!("v{n}"),
        digest: format!("sha256:{n:064x}"),
        media_type: String::new(),
        disposition: Disposition::Happened.into(),
        settles: 0,
    };
    Statement { kind: Some(statement::Kind::TagPush(pushed)), ..Statement::default() }
}

fn copy_directory(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp starts");
    assert!(copied.success());
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

// --- the proxy ---------------------------------------------------------------------------------------------------------

/// Hands every request on to `upstream`, and flips one bit in the middle of the body of what is asked for as `corrupted`.
fn corrupting_proxy(upstream: SocketAddr, corrupted: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            thread::spawn(move || hand_on(client, upstream, corrupted));
        }
    });
    address
}

fn hand_on(mut client: TcpStream, upstream: SocketAddr, corrupted: &str) {
    let mut lines = BufReader::new(client.try_clone().expect("a socket")).lines();
    let Some(Ok(request)) = lines.next() else { return };
    // All of it, or closing the connection would reset it.
    lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
    let asked_for = request.split(' ').nth(1).expect("METHOD PATH VERSION");
    // HTTP/1.0 and no headers: the answer comes neither compressed nor in chunks, and ends with the connection.
    let mut server = TcpStream::connect(upstream).expect("the server listens");
    server.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    write!(server, "GET {asked_for} HTTP/1.0\r\nHost: {upstream}\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).expect("an answer");
    if asked_for == corrupted {
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head and a body") + 4;
        let middle = body + (answer.len() - body) / 2;
        answer[middle] ^= 1;
    }
    let _ = client.write_all(&answer);
}
