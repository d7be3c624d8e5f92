//! System calls that fail under the real server, by strace's fault injection and the kernel's limit on the size of files.
//!
//! Whatever fails: nothing is acknowledged from then on, health and logs say why, reading goes on, and once the cause is gone a
//! restart has everything that was acknowledged, byte for byte, and writes on.

#![cfg(feature = "server")]

mod world;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::evidence::verify;
use tagledger::ledger::note::Vkey;
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::{self, AppendRequest, GetCheckpointRequest, GetEntryRequest};
use tagledger::server::config::Config;
use tagledger::store::rocks::RocksStore;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use world::{World, digest, happened, submission};

/// Appends until something fails; by then it has.
const PATIENCE: usize = 20_000;

/// The real program, perhaps with something in its way.
struct Server {
    child: Child,
    address: String,
    log: PathBuf,
}

/// What is wrong with the machine.
enum Fault {
    Nothing,
    /// strace's `inject=`: which call fails, how, and from which one on; and on which files.
    Inject(&'static str, On),
    /// No file may become larger than this, in KiB.
    FileSize(u64),
}

/// What is hit, of the database's files mostly.
#[derive(Clone, Copy, PartialEq)]
enum On {
    /// Its log files.
    Logs,
    /// Its sorted files, which are made when memory for newest writes is full.
    Tables,
    /// The list of its files, once it is called [`ARMED`].
    Manifest,
    /// A file beside it in the data directory.
    Side(&'static str),
    /// The folder that the data directory is in.
    Parent,
}

/// The leaves of the subject map on disk.
const LEAVES: On = On::Side("db/map/leaves");

/// What the manifest is called while writing it fails. strace looks at names when a call is made; the server has the file open.
const ARMED: &str = "MANIFEST-armed";

impl Server {
    fn start(data_dir: &Path, fault: &Fault) -> Self {
        let log = data_dir.with_extension("log");
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut command = Self::command(data_dir, fault);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("bash and strace are installed");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it greets");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        assert!(address.starts_with("http://"), "greeted with {line:?}; {}", read(&log));
        Self { child, address, log }
    }

    /// What it says when it does not start.
    fn refusal(data_dir: &Path, fault: &Fault) -> String {
        let printed = Self::command(data_dir, fault).output().expect("strace is installed");
        let said = String::from_utf8_lossy(&printed.stderr).into_owned();
        // An exit in order, not an abort.
        assert!(printed.status.code() == Some(1) && printed.stdout.is_empty(), "{}: {said}", printed.status);
        said
    }

    fn command(data_dir: &Path, fault: &Fault) -> Command {
        let program = env!("CARGO_BIN_EXE_tagledgerd");
        let mut command = match fault {
            Fault::Nothing => Command::new(program),
            Fault::Inject(inject, on) => {
                let call = inject.split(':').next().expect("a call");
                let mut strace = Command::new("strace");
                // As a grandchild, so that the server is this process's own child.
                strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
                strace.arg("-e").arg(format!("inject={inject}"));
                let files = match on {
                    On::Logs => numbered(data_dir, "log"),
                    On::Tables => numbered(data_dir, "sst"),
                    On::Manifest => vec![data_dir.join("db").join(ARMED)],
                    On::Side(name) => vec![data_dir.join(name)],
                    On::Parent => vec![data_dir.parent().expect("a folder").to_owned()],
                };
                for file in files {
                    strace.arg("-P").arg(file);
                }
                strace.arg(program);
                strace
            }
            Fault::FileSize(kibibytes) => {
                let mut bash = Command::new("bash");
                // Ignored, the signal lets the call fail instead of ending the process.
                bash.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kibibytes}; exec {program} \"$@\"")).arg("bash");
                bash
            }
        };
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        command
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).expect("an address").connect().await.expect("it listens")
    }

    /// What HTTP answers: status line and body.
    fn http(&self, path: &str) -> String {
        let host = self.address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// The same where a call hangs: strace keeps that thread until the process is gone. Returns how long all others took to end.
    fn stop_hung(mut self) -> std::time::Duration {
        let id = self.child.id().to_string();
        let status = || read(&Path::new("/proc").join(&id).join("status"));
        let field = |name: &str| {
            let line = status().lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
            line.expect("a field")
        };
        let strace = field("TracerPid:");
        let begin = std::time::Instant::now();
        assert!(Command::new("kill").arg(&id).status().expect("kill is there").success());
        soon("it ends", || field("State:").starts_with('Z'));
        let took = begin.elapsed();
        assert!(Command::new("kill").args(["-9", &strace]).status().expect("kill is there").success());
        assert!(self.child.wait().expect("it ends").success());
        took
    }

    /// By SIGTERM, as an operator would.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(id).status().expect("kill is there").success());
        self.child.wait().expect("it ends");
    }
}

/// The database's files of a kind that there may be: the next ones are numbered on.
fn numbered(data_dir: &Path, kind: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data_dir.join("db")).expect("a database");
    let number = |name: String| name.split(['.', '-']).find_map(|part| part.parse::<u64>().ok());
    let names = files.filter_map(|file| file.expect("listed").file_name().into_string().ok());
    // What RocksDB has to say is kept by time.
    let newest = names.filter(|name| !name.starts_with("LOG")).filter_map(number).max();
    let newest = newest.expect("numbered files");
    (newest..newest + 60).map(|number| data_dir.join("db").join(format!("{number:06}.{kind}"))).collect()
}

/// The list of the database's files, as it is now.
fn current_manifest(data_dir: &Path) -> PathBuf {
    data_dir.join("db").join(read(&data_dir.join("db/CURRENT")).trim())
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("readable")
}

fn token(data_dir: &Path) -> String {
    read(&data_dir.join("token")).trim().to_owned()
}

async fn append(channel: &Channel, token: &str, number: usize) -> Result<proto::AppendResponse, Status> {
    record(channel, token, &happened(&format!("t{number}"), &digest('a'))).await
}

/// About 15 KiB.
fn fat(number: usize) -> proto::Statement {
    let attribute = |at: usize| proto::Attribute { key: format!("key-{at:02}"), value: format!("{number:0480}") };
    proto::Statement { attributes: (0..30).map(attribute).collect(), ..happened(&format!("t{number}"), &digest('a')) }
}

async fn record(channel: &Channel, token: &str, statement: &proto::Statement) -> Result<proto::AppendResponse, Status> {
    let statement = submission(statement);
    let mut request = Request::new(AppendRequest { submission: Some(statement) });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    Ok(AppendServiceClient::new(channel.clone()).append(request).await?.into_inner())
}

/// One run: appends go well, then the fault strikes, then it is gone.
fn strikes(fault: &Fault, words: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    Server::start(&data_dir, &Fault::Nothing).stop();
    let on = if let Fault::Inject(_, on) = fault { Some(*on) } else { None };
    if on == Some(On::Tables) {
        // Otherwise the start makes sorted files of what is in the log.
        RocksStore::open(&data_dir.join("db")).expect("opened").finish().expect("flushed");
    }
    let server = Server::start(&data_dir, fault);
    let manifest = current_manifest(&data_dir);
    if on == Some(On::Manifest) {
        std::fs::rename(&manifest, data_dir.join("db").join(ARMED)).expect("renamed");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (token, vkey) = (token(&data_dir), read(&data_dir.join("ledger.vkey")));
    let vkey: Vkey = vkey.trim().parse().expect("a key");
    let mut acknowledged = BTreeMap::new();
    let mut newest = String::new();
    runtime.block_on(async {
        let channel = server.channel().await;
        let mut failed = None;
        for number in 0..PATIENCE {
            // Sorted files are made, and listed, when there is enough for one.
            let answer = match on {
                Some(On::Tables | On::Manifest) => record(&channel, &token, &fat(number)).await,
                _ => append(&channel, &token, number).await,
            };
            match answer {
                Ok(response) => {
                    let evidence = response.evidence.expect("evidence");
                    verify(&evidence, &vkey).expect("it verifies");
                    acknowledged.extend(evidence.entries.into_iter().map(|entry| (entry.index, entry.entry)));
                    newest = evidence.checkpoint;
                }
                Err(status) => {
                    failed = Some(status);
                    break;
                }
            }
        }
        let status = failed.expect("the fault strikes");
        assert!(acknowledged.len() > 3, "only {} entries before it", acknowledged.len());
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(status.message().contains(words), "{status:?}");
        assert!(status.message().contains("a restart recovers"), "it says what to do: {status:?}");
        // For good, whatever becomes of the disk.
        let again = append(&channel, &token, 0).await.expect_err("refused");
        assert_eq!((again.code(), again.message()), (status.code(), status.message()));
        // Everybody is told why.
        let ready = server.http("/readyz");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains(words), "{ready}");
        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.expect("answered");
        assert_eq!(health.into_inner().status(), ServingStatus::NotServing);
        let log = read(&server.log);
        assert!(log.contains("the sequencer stops") && log.contains(words), "{log}");
        // Reading goes on.
        let mut reader = LogServiceClient::new(channel.clone());
        let note = reader.get_checkpoint(GetCheckpointRequest {}).await.expect("answered").into_inner().checkpoint;
        let seen = Checkpoint::open(&note, &vkey).expect("signed");
        let known = Checkpoint::open(&newest, &vkey).expect("signed");
        assert!(seen.size >= known.size, "{} entries were acknowledged, now {}", known.size, seen.size);
        let (last, bytes) = acknowledged.last_key_value().expect("some");
        let by = Some(proto::get_entry_request::By::Index(*last));
        let entry = reader.get_entry(GetEntryRequest { by }).await.expect("answered").into_inner();
        let evidence = entry.evidence.expect("evidence");
        verify(&evidence, &vkey).expect("it verifies");
        assert!(evidence.entries.iter().any(|entry| entry.entry == *bytes), "entry {last}");
    });
    server.stop();
    // The cause is gone.
    if on == Some(On::Manifest) {
        std::fs::rename(data_dir.join("db").join(ARMED), &manifest).expect("renamed");
    }
    runtime.block_on(async {
        let world = World::open(&data_dir).await;
        world.recorded(&happened("after", &digest('b'))).await;
        let entries = world.check_ledger().await;
        for (index, bytes) in &acknowledged {
            assert_eq!(entries.get(usize::try_from(*index).expect("small")), Some(bytes), "entry {index}");
        }
        let known = Checkpoint::open(&newest, &vkey).expect("signed");
        let request = proto::GetConsistencyProofRequest { first: known.size, second: 0 };
        let answer = world.log().get_consistency_proof(request).await.expect("a proof").into_inner();
        let hash = |bytes: &Vec<u8>| -> [u8; 32] { bytes.as_slice().try_into().expect("32 bytes") };
        let path: Vec<_> = answer.hashes.iter().map(hash).collect();
        let root = hash(&answer.second_root);
        tagledger::ledger::merkle::proof::verify_consistency(known.size, answer.second, &known.root, &root, &path)
            .expect("no signed checkpoint is contradicted");
        world.stop().await;
    });
}

#[test]
fn a_sync_that_fails_stops_acknowledgement() {
    strikes(&Fault::Inject("fdatasync:error=EIO:when=20+", On::Logs), "Input/output error");
    strikes(&Fault::Inject("fdatasync:error=ENOSPC:when=20+", On::Logs), "No space left on device");
    strikes(&Fault::Inject("fdatasync:error=EDQUOT:when=20+", On::Logs), "Disk quota exceeded");
}

#[test]
fn a_write_that_fails_stops_acknowledgement() {
    strikes(&Fault::Inject("write:error=EIO:when=20+", On::Logs), "Input/output error");
    strikes(&Fault::Inject("write:error=ENOSPC:when=20+", On::Logs), "No space left on device");
    strikes(&Fault::Inject("write:error=EDQUOT:when=20+", On::Logs), "Disk quota exceeded");
}

#[test]
fn one_failed_sync_is_as_bad_as_many() {
    // The next one would succeed, but nobody knows what became of the pages it should have written.
    strikes(&Fault::Inject("fdatasync:error=EIO:when=20", On::Logs), "Input/output error");
    strikes(&Fault::Inject("write:error=ENOSPC:when=20", On::Logs), "No space left on device");
}

#[test]
fn a_write_that_is_cut_short_stops_acknowledgement() {
    // The kernel writes what still fits, and fails the rest.
    strikes(&Fault::FileSize(64), "File too large");
}

#[test]
fn a_sorted_file_that_cant_be_written_stops_acknowledgement() {
    strikes(&Fault::Inject("write:error=EIO:when=1+", On::Tables), "Input/output error");
    strikes(&Fault::Inject("write:error=ENOSPC:when=1+", On::Tables), "No space left on device");
    strikes(&Fault::Inject("write:error=EDQUOT:when=1+", On::Tables), "Disk quota exceeded");
    strikes(&Fault::Inject("fdatasync:error=EIO:when=1+", On::Tables), "Input/output error");
}

#[test]
fn a_list_of_files_that_cant_be_written_stops_acknowledgement() {
    strikes(&Fault::Inject("write:error=EIO:when=1+", On::Manifest), "Input/output error");
    strikes(&Fault::Inject("write:error=ENOSPC:when=1+", On::Manifest), "No space left on device");
    strikes(&Fault::Inject("write:error=EDQUOT:when=1+", On::Manifest), "Disk quota exceeded");
    strikes(&Fault::Inject("fdatasync:error=EIO:when=1+", On::Manifest), "Input/output error");
}

#[test]
fn a_mark_that_cant_be_written_stops_acknowledgement() {
    // The first is written before anybody is served.
    strikes(&Fault::Inject("write:error=ENOSPC:when=3+", On::Side("high-water.new")), "No space left on device");
    strikes(&Fault::Inject("fsync:error=EIO:when=3", On::Side("high-water.new")), "Input/output error");
    strikes(&Fault::Inject("rename:error=EIO:when=3+", On::Side("high-water.new")), "Input/output error");
}

/// A ledger with some entries, which are returned: recorded one after the other, beside what else is given to do.
fn recorded(server: &Server, data_dir: &Path, tags: std::ops::Range<usize>) -> BTreeMap<u64, Vec<u8>> {
    let (runtime, token) = (tokio::runtime::Runtime::new().expect("a runtime"), token(data_dir));
    runtime.block_on(async {
        let (channel, mut acknowledged) = (server.channel().await, BTreeMap::new());
        for number in tags {
            let answer = append(&channel, &token, number).await.expect("recorded");
            let entries = answer.evidence.expect("evidence").entries.into_iter();
            acknowledged.extend(entries.map(|entry| (entry.index, entry.entry)));
        }
        acknowledged
    })
}

/// Without the fault it goes on with everything that was acknowledged.
fn goes_on(data_dir: &Path, acknowledged: &BTreeMap<u64, Vec<u8>>) {
    let server = Server::start(data_dir, &Fault::Nothing);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut log = LogServiceClient::new(server.channel().await);
        for (index, bytes) in acknowledged {
            let by = Some(proto::get_entry_request::By::Index(*index));
            let evidence = log.get_entry(GetEntryRequest { by }).await.expect("there").into_inner().evidence;
            let entries = evidence.expect("evidence").entries;
            assert!(entries.iter().any(|entry| entry.entry == *bytes), "entry {index}");
        }
    });
    recorded(&server, data_dir, 900..903);
    assert!(server.http("/readyz").starts_with("HTTP/1.1 200"), "{}", server.http("/readyz"));
    server.stop();
    let fsck = Command::new(env!("CARGO_BIN_EXE_tagledgerd")).args(["fsck", "--data-dir"]).arg(data_dir).output();
    assert!(fsck.expect("it runs").status.success());
}

#[test]
fn a_start_that_cant_write_what_it_has_to_note_serves_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    // That the log has begun.
    let fault = |inject, name| Fault::Inject(inject, On::Side(name));
    let told = Server::refusal(&data_dir, &fault("fsync:error=EIO:when=1+", "begun.new"));
    assert!(told.contains("begun.new") && told.contains("Input/output error"), "{told}");
    let told = Server::refusal(&data_dir, &fault("openat:error=ENOSPC:when=1+", "begun.new"));
    assert!(told.contains("begun.new") && told.contains("No space left on device"), "{told}");
    // How far it came.
    let told = Server::refusal(&data_dir, &fault("write:error=ENOSPC:when=1+", "high-water.new"));
    assert!(told.contains("the high-water mark") && told.contains("No space left on device"), "{told}");
    let server = Server::start(&data_dir, &Fault::Nothing);
    let acknowledged = recorded(&server, &data_dir, 0..5);
    server.stop();
    assert!(data_dir.join("high-water.closed").exists());
    // That it goes on from where it was stopped in order.
    let told = Server::refusal(&data_dir, &fault("unlink:error=EIO:when=1+", "high-water.closed"));
    assert!(told.contains("the high-water mark") && told.contains("Input/output error"), "{told}");
    goes_on(&data_dir, &acknowledged);
}

#[test]
fn leaves_of_the_map_that_cant_be_written_cost_the_quick_start_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    Server::start(&data_dir, &Fault::Nothing).stop();
    let upper = data_dir.join("db/map/upper");
    for (inject, words) in [
        ("pwrite64:error=EIO:when=1+", "Input/output error"),
        ("pwrite64:error=ENOSPC:when=2+", "No space left on device"),
        ("fdatasync:error=EIO:when=1+", "Input/output error"),
    ] {
        assert!(upper.exists(), "kept by the last one");
        let server = Server::start(&data_dir, &Fault::Inject(inject, LEAVES));
        let (acknowledged, log) = (recorded(&server, &data_dir, 0..60), server.log.clone());
        server.stop();
        let log = read(&log);
        assert!(log.contains("the subject map can't be kept") && log.contains(words), "{inject}: {log}");
        assert!(!upper.exists(), "{inject}");
        goes_on(&data_dir, &acknowledged);
        std::fs::remove_file(data_dir.with_extension("log")).expect("a log");
    }
}

#[test]
fn leaves_of_the_map_that_cant_be_read_stop_acknowledgement() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let server = Server::start(&data_dir, &Fault::Nothing);
    let mut acknowledged = recorded(&server, &data_dir, 0..300);
    server.stop();
    // They were kept, on a dozen pages, and are read when they are asked for: up to three of them by the start.
    let server = Server::start(&data_dir, &Fault::Inject("pread64:error=EIO:when=4+", LEAVES));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (channel, token) = (server.channel().await, token(&data_dir));
        let mut failed = None;
        for number in 1000..1000 + PATIENCE {
            match append(&channel, &token, number).await {
                Ok(response) => {
                    let entries = response.evidence.expect("evidence").entries.into_iter();
                    acknowledged.extend(entries.map(|entry| (entry.index, entry.entry)));
                }
                Err(status) => {
                    failed = Some(status);
                    break;
                }
            }
        }
        let status = failed.expect("the fault strikes");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(status.message().contains("the file of the subject map's leaves: Input/output error"), "{status:?}");
        assert!(status.message().contains("a restart recovers"), "it says what to do: {status:?}");
        let ready = server.http("/readyz");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("Input/output error"), "{ready}");
        assert!(read(&server.log).contains("the sequencer stops"), "{}", read(&server.log));
        // Reading goes on.
        let by = Some(proto::get_entry_request::By::Index(*acknowledged.last_key_value().expect("some").0));
        LogServiceClient::new(channel).get_entry(GetEntryRequest { by }).await.expect("answered");
    });
    server.stop();
    goes_on(&data_dir, &acknowledged);
}

#[test]
fn a_new_data_directory_is_on_disk_before_anything_is_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let told = Server::refusal(&data_dir, &Fault::Inject("fsync:error=EIO:when=1", On::Parent));
    assert!(told.contains("Input/output error"), "{told}");
    assert!(told.contains(&folder.path().display().to_string()), "{told}");
    assert!(!data_dir.join("origin").exists());
    // Also where several folders are made at once.
    let deep = folder.path().join("a/b/ledger");
    let told = Server::refusal(&deep, &Fault::Inject("fsync:error=EIO:when=1", On::Parent));
    assert!(told.contains("a/b") && told.contains("Input/output error"), "{told}");
    Server::start(&deep, &Fault::Nothing).stop();
}

#[test]
fn an_end_in_order_that_cant_be_noted_is_told_and_nothing_is_lost() {
    for inject in ["write:error=ENOSPC:when=1+", "fsync:error=EIO:when=1+"] {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("ledger");
        Server::start(&data_dir, &Fault::Nothing).stop();
        let server = Server::start(&data_dir, &Fault::Inject(inject, On::Side("high-water.closed.new")));
        let (acknowledged, log) = (recorded(&server, &data_dir, 0..5), server.log.clone());
        server.stop();
        assert!(read(&log).contains("it can't be noted that the ledger was stopped in order"), "{}", read(&log));
        assert!(!data_dir.join("high-water.closed").exists(), "nobody believes that it was");
        goes_on(&data_dir, &acknowledged);
    }
}

#[test]
fn a_high_water_mark_whose_disk_hangs_stops_acknowledgement_and_holds_up_no_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    Server::start(&data_dir, &Fault::Nothing).stop();
    // The first is the start's.
    let hangs = "fsync:delay_enter=600000000:when=2+";
    let server = Server::start(&data_dir, &Fault::Inject(hangs, On::Side("high-water.new")));
    let acknowledged = recorded(&server, &data_dir, 0..5);
    soon("health says so", || server.http("/readyz").starts_with("HTTP/1.1 503"));
    let ready = server.http("/readyz");
    assert!(ready.contains("high-water was not written within 30 s: its disk does not answer"), "{ready}");
    let refused = tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(async { append(&server.channel().await, &token(&data_dir), 5).await.expect_err("refused") });
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("its disk does not answer"), "{refused:?}");
    let took = server.stop_hung();
    assert!(took < std::time::Duration::from_secs(25), "{took:?}");
    assert!(!data_dir.join("high-water.closed").exists(), "nobody believes that it was stopped in order");
    goes_on(&data_dir, &acknowledged);
}

#[test]
fn a_high_water_mark_that_hangs_at_the_end_holds_up_no_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    Server::start(&data_dir, &Fault::Nothing).stop();
    let hangs = "fsync:delay_enter=600000000:when=1+";
    let server = Server::start(&data_dir, &Fault::Inject(hangs, On::Side("high-water.closed.new")));
    let acknowledged = recorded(&server, &data_dir, 0..5);
    let log = server.log.clone();
    let took = server.stop_hung();
    assert!(took < std::time::Duration::from_secs(25), "{took:?}");
    assert!(read(&log).contains("it can't be noted that the ledger was stopped in order"), "{}", read(&log));
    goes_on(&data_dir, &acknowledged);
}

/// Makes a key, and announces it.
fn change_key(server: &Server, data_dir: &Path) {
    use base64::Engine as _;
    use prost::Message as _;
    let prepared = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
        .args(["key", "prepare", "--data-dir"])
        .arg(data_dir)
        .output()
        .expect("it runs");
    let printed = String::from_utf8(prepared.stdout).expect("text");
    let change = printed.trim().rsplit(' ').next().expect("a change");
    let change = base64::engine::general_purpose::STANDARD.decode(change).expect("base64");
    let change = proto::KeyChange::decode(change.as_slice()).expect("a change");
    let statement =
        proto::Statement { kind: Some(proto::statement::Kind::KeyChange(change)), ..proto::Statement::default() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        record(&server.channel().await, &token(data_dir), &statement).await.expect("recorded");
    });
}

fn lines(data_dir: &Path, name: &str) -> usize {
    std::fs::read_to_string(data_dir.join(name)).unwrap_or_default().lines().count()
}

/// Waits for what the server does by itself.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while !is_so() {
        assert!(std::time::Instant::now() < patience, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The log says which key is in force, so nothing is refused over its files; but health and logs say what is wrong with them.
#[test]
fn files_of_keys_that_cant_be_written_are_told_and_put_in_place_after_the_restart() {
    // A second change ends the time of the first key, whose private one is to go then.
    for (inject, name, words, changes) in [
        ("write:error=ENOSPC:when=1+", "earlier.vkeys.new", "No space left on device", 1),
        ("fsync:error=EIO:when=1+", "ledger.vkey.new", "Input/output error", 1),
        ("rename:error=EIO:when=1+", "ledger.key.new", "Input/output error", 2),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("ledger");
        Server::start(&data_dir, &Fault::Nothing).stop();
        let server = Server::start(&data_dir, &Fault::Inject(inject, On::Side(name)));
        for change in 1..=changes {
            change_key(&server, &data_dir);
            soon("the files follow", || change == changes || lines(&data_dir, "earlier.vkeys") == change);
        }
        soon("health says so", || server.http("/readyz").starts_with("HTTP/1.1 503"));
        let ready = server.http("/readyz");
        assert!(ready.contains("the files of the ledger's keys") && ready.contains(words), "{name}: {ready}");
        let log = read(&server.log);
        assert!(log.contains("health is red until the files of the keys are in place"), "{log}");
        assert!(log.contains(words), "{log}");
        let acknowledged = recorded(&server, &data_dir, 0..5);
        server.stop();
        let server = Server::start(&data_dir, &Fault::Nothing);
        soon("the files follow", || {
            lines(&data_dir, "earlier.vkeys") == changes && lines(&data_dir, "ledger.key") == 2
        });
        server.stop();
        goes_on(&data_dir, &acknowledged);
    }
}

#[test]
fn a_key_that_cant_be_written_is_not_prepared() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let server = Server::start(&data_dir, &Fault::Nothing);
    let before = read(&data_dir.join("ledger.key"));
    for (inject, words) in [
        ("write:error=ENOSPC:when=1+", "No space left on device"),
        ("fsync:error=EIO:when=1+", "Input/output error"),
        ("rename:error=EIO:when=1+", "Input/output error"),
    ] {
        let printed = Command::new("strace")
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={}", inject.split(':').next().expect("a call")))
            .args(["-e", &format!("inject={inject}"), "-P"])
            .arg(data_dir.join("ledger.key.new"))
            .arg(env!("CARGO_BIN_EXE_tagledgerd"))
            .args(["key", "prepare", "--data-dir"])
            .arg(&data_dir)
            .output()
            .expect("strace is installed");
        let told = String::from_utf8_lossy(&printed.stderr);
        assert_eq!(printed.status.code(), Some(1), "{told}");
        assert!(printed.stdout.is_empty() && told.contains("ledger.key") && told.contains(words), "{told}");
        assert_eq!(read(&data_dir.join("ledger.key")), before);
    }
    change_key(&server, &data_dir);
    let acknowledged = recorded(&server, &data_dir, 0..3);
    server.stop();
    goes_on(&data_dir, &acknowledged);
}

#[test]
fn every_acknowledgement_comes_after_a_sync() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    Server::start(&data_dir, &Fault::Nothing).stop();
    let trace = folder.path().join("trace");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // Each sync takes a while, so an answer that did not wait for it would come too early.
    let server = {
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=30000", "-o"]);
        strace.arg(&trace);
        for file in numbered(&data_dir, "log") {
            strace.arg("-P").arg(file);
        }
        strace.arg(env!("CARGO_BIN_EXE_tagledgerd")).args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        let mut child = strace.arg(&data_dir).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("strace");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it greets");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        Server { child, address, log: data_dir.with_extension("log") }
    };
    let token = token(&data_dir);
    let syncs = || read(&trace).lines().filter(|line| line.contains("fdatasync(")).count();
    runtime.block_on(async {
        let channel = server.channel().await;
        let before = syncs();
        for number in 0..10 {
            let started = std::time::Instant::now();
            append(&channel, &token, number).await.expect("recorded");
            assert!(started.elapsed().as_millis() >= 30, "answered after {:?}", started.elapsed());
        }
        let after = syncs();
        assert!(after - before >= 10, "{} syncs for 10 answers, one after the other", after - before);
        // Together they share syncs, and none is answered without.
        let answers: Vec<_> = (10..60)
            .map(|number| {
                let (channel, token) = (channel.clone(), token.clone());
                tokio::spawn(async move { append(&channel, &token, number).await })
            })
            .collect();
        for answer in answers {
            answer.await.expect("no panic").expect("recorded");
        }
        assert!((1..50).contains(&(syncs() - after)), "{} syncs for 50 answers at once", syncs() - after);
    });
    server.stop();
}

#[test]
fn a_disk_that_is_nearly_full_refuses_appends_until_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let free_mib = || {
        let disk = rustix::fs::statvfs(folder.path()).expect("a disk");
        (disk.f_bavail * disk.f_frsize) >> 20
    };
    // Others use the disk meanwhile, so the steps are large.
    let before_mib = free_mib();
    let config = Config { keep_free_mib: before_mib - before_mib / 8, ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let world = World::open_with(&folder.path().join("ledger"), config).await;
        world.recorded(&happened("v1", &digest('a'))).await;
        let ballast = std::fs::File::create(folder.path().join("ballast")).expect("made");
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, (before_mib / 4) << 20).expect("room");
        let refused = until(&world, |answer| answer.is_err()).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("MiB are free") && refused.message().contains("make room"), "{refused:?}");
        let health = HealthClient::new(world.channel.clone());
        let serving = |service: &'static str| {
            let mut health = health.clone();
            let request = HealthCheckRequest { service: service.into() };
            async move { health.check(request).await.expect("answered").into_inner().status() }
        };
        assert_eq!(serving("tagledger.v1.AppendService").await, ServingStatus::NotServing);
        assert_eq!(serving("tagledger.v1.QueryService").await, ServingStatus::Serving);
        world.check_ledger().await;
        drop(ballast);
        std::fs::remove_file(folder.path().join("ballast")).expect("gone");
        until(&world, |answer| answer.is_ok()).await.expect("accepted again");
        assert_eq!(serving("tagledger.v1.AppendService").await, ServingStatus::Serving);
        world.check_ledger().await;
        world.stop().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_that_is_nearly_full_is_told_by_health() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    World::open(&data_dir).await.stop().await;
    let world = World::open_with(&data_dir, Config { keep_free_mib: 1 << 40, ..Config::default() }).await;
    let mut health = HealthClient::new(world.channel.clone());
    let mut serving = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        // Right after the start it may not be registered yet.
        health.check(request).await.map(|answer| answer.into_inner().status()).ok()
    };
    let began = std::time::Instant::now();
    while serving("tagledger.v1.AppendService").await != Some(ServingStatus::NotServing) {
        assert!(
            began.elapsed() < std::time::Duration::from_secs(10),
            "appends are refused, and health does not say so"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(serving("tagledger.v1.QueryService").await, Some(ServingStatus::Serving));
    let refused = world.record(&happened("v1", &digest('a'))).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_nobody_understands_takes_no_room_on_a_disk_that_is_nearly_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    World::open(&data_dir).await.stop().await;
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the-secret-of-this-test").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let text = format!(
        "keep_free_mib = 1000000000000\n[webhooks.lab]\nregistry = \"registry.example\"\nsecret_file = {secret:?}\n"
    );
    let world = World::open_with(&data_dir, toml::from_str(&text).expect("settings")).await;
    let answer = reqwest::Client::new()
        .post(format!("http://{}/webhooks/distribution/lab", world.address))
        .header("authorization", "Bearer the-secret-of-this-test")
        .body("hello")
        .send()
        .await
        .expect("answered");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(std::fs::read_dir(data_dir.join("aside")).expect("a folder").count(), 0);
    world.stop().await;
}

/// Appends until the answer is as wished, for some seconds.
async fn until(
    world: &World,
    wished: impl Fn(&Result<proto::AppendResponse, Status>) -> bool,
) -> Result<proto::AppendResponse, Status> {
    for number in 0..100 {
        let answer = world.record(&happened(&format!("u{number}"), &digest('b'))).await;
        if wished(&answer) {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it does not change its mind");
}
