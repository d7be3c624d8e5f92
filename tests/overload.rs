//! The real server and clients that ask for more than it can do, that dribble, that do not read, or that leave: its memory stays
//! bounded, others are served, and what was acknowledged stands.

#![cfg(feature = "server")]

mod world;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::{
    self, AppendBatchRequest, AppendRequest, AppendStreamRequest, ListEntriesRequest, WatchRequest,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use world::{World, digest, happened, submission};

/// What everything of the server but requests takes: the program, RocksDB's buffers, threads and their caches, in MiB.
const OWN_MIB: u64 = 250;

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real program.
struct Server {
    process: Process,
    address: String,
    data_dir: PathBuf,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), settings, &[])
    }

    /// On what there is, under another program, which calls it.
    fn start_in(folder: tempfile::TempDir, settings: &str, wrapper: &[String]) -> Self {
        let (data_dir, config) = (folder.path().join("ledger"), folder.path().join("ledger.toml"));
        std::fs::write(&config, settings).expect("written");
        let words = [wrapper, &[env!("CARGO_BIN_EXE_tagledgerd").to_owned()]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = command.arg("--data-dir").arg(&data_dir).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it greets");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        assert!(address.starts_with("127.0.0.1:"), "greeted with {line:?}");
        Self { process: Process(child), address, data_dir, folder }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .expect("an address")
            .connect()
            .await
            .expect("it listens")
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("token")).expect("a token").trim().to_owned()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }

    /// The most memory that it ever had, in MiB.
    fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// By SIGTERM; how long it took to end, and that it ended well.
    fn stop(mut self) -> (Duration, tempfile::TempDir) {
        let begin = Instant::now();
        assert!(Command::new("kill").arg(self.process.0.id().to_string()).status().expect("kill is there").success());
        let status = self.process.0.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", self.log());
        (begin.elapsed(), self.folder)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    request
}

fn push(number: usize, event_id: String) -> proto::Statement {
    proto::Statement { event_id, ..happened(&format!("t{}", number % 50), &digest('a')) }
}

/// About 15 KiB.
fn fat(number: usize) -> proto::Submission {
    let attribute = |at: usize| proto::Attribute { key: format!("key-{at:02}"), value: "v".repeat(480) };
    let attributes = (0..30).map(attribute).collect();
    submission(&proto::Statement { attributes, ..push(number, String::new()) })
}

async fn append(client: &mut AppendServiceClient<Channel>, token: &str, id: usize) -> Result<proto::Receipt, Status> {
    let statement = submission(&push(id, format!("event-{id}")));
    let request = with_token(token, AppendRequest { submission: Some(statement) });
    Ok(client.append(request).await?.into_inner().receipt.expect("a receipt"))
}

#[test]
fn ten_times_more_clients_than_it_can_serve_cost_bounded_memory_and_hear_when_to_come_again() {
    const MEMORY_MIB: u64 = 32;
    let limits = "[limits]\nmemory_mib = 32\nconcurrent = 64\n[limits.principal]\nper_second = 0\nconcurrent = 64\n";
    let server = Server::start(limits);
    let token: Arc<str> = server.token().into();
    let (served, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    runtime().block_on(async {
        let mut clients = Vec::new();
        // 640 requests at once, of a MiB each: what is asked to be held is 20 times what may be.
        let batch: Arc<Vec<proto::Submission>> = Arc::new((0..70).map(fat).collect());
        let mut channels = Vec::new();
        for _ in 0..64 {
            channels.push(server.channel().await);
        }
        // For six seconds, or on a busy machine until there was a crowd.
        let begin = Instant::now();
        let goes_on = move |refused: &AtomicUsize| {
            let elapsed = begin.elapsed().as_secs();
            elapsed < 6 || refused.load(Ordering::Relaxed) <= 300 && elapsed < 60
        };
        for channel in channels {
            for _ in 0..10 {
                let (token, batch) = (Arc::clone(&token), Arc::clone(&batch));
                let (served, refused) = (Arc::clone(&served), Arc::clone(&refused));
                let client = AppendServiceClient::new(channel.clone());
                let mut client = client.max_decoding_message_size(64 << 20);
                clients.push(tokio::spawn(async move {
                    while goes_on(&refused) {
                        let request = AppendBatchRequest { submissions: batch.to_vec() };
                        match client.append_batch(with_token(&token, request)).await {
                            Ok(_) => served.fetch_add(1, Ordering::Relaxed),
                            Err(status) => {
                                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                                let details = status.get_error_details();
                                let retry = details.retry_info().and_then(|info| info.retry_delay);
                                tokio::time::sleep(retry.expect("when to come again").min(Duration::from_millis(50)))
                                    .await;
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                    }
                }));
            }
        }
        // Health answers all the while.
        let mut worst = Duration::ZERO;
        while goes_on(&refused) {
            let begin = Instant::now();
            let mut stream = server.connect();
            write!(stream, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            worst = worst.max(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for client in clients {
            client.await.expect("no other answer");
        }
        let (served, refused) = (served.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        println!(
            "{served} batches of a MiB served, {refused} refused; peak {} MiB; health {worst:?}",
            server.peak_mib()
        );
        assert!(served > 0 && refused > 300, "{served} served, {refused} refused");
        // Each byte that may be held is there as it came, decoded, and on its way to disk and back.
        assert!(server.peak_mib() < OWN_MIB + 8 * MEMORY_MIB, "{} MiB", server.peak_mib());
        // It is as well as before.
        let mut client = AppendServiceClient::new(server.channel().await);
        append(&mut client, &token, 1).await.expect("recorded");
    });
    server.stop();
}

#[test]
fn who_does_not_read_holds_up_nobody_and_is_dropped() {
    let server = Server::start("[limits]\nunread_seconds = 2\nsilent_seconds = 60\n");
    let token = server.token();
    runtime().block_on(async {
        // Something to read: 6 MiB of entries.
        let mut client = AppendServiceClient::new(server.channel().await).max_decoding_message_size(64 << 20);
        for _ in 0..2 {
            let request = AppendBatchRequest { submissions: (0..200).map(fat).collect() };
            client.append_batch(with_token(&token, request)).await.expect("recorded");
        }
        let asleep = Arc::new(AtomicUsize::new(0));
        let mut sleepers = Vec::new();
        for number in 0..8 {
            let (channel, token, asleep) = (server.channel().await, token.clone(), Arc::clone(&asleep));
            sleepers.push(tokio::spawn(async move {
                // What is asked for, and not read for longer than the server waits.
                if number % 2 == 0 {
                    let mut log = LogServiceClient::new(channel);
                    let mut stream =
                        log.list_entries(ListEntriesRequest::default()).await.expect("a stream").into_inner();
                    asleep.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    let mut ended = Ok(());
                    while let Some(message) = stream.next().await {
                        ended = message.map(drop);
                    }
                    ended.expect_err("cut")
                } else {
                    let statement = |number| submission(&push(number, String::new()));
                    let statements =
                        (0..20_000).map(move |number| AppendStreamRequest { submission: Some(statement(number)) });
                    let mut client = AppendServiceClient::new(channel);
                    let request = with_token(&token, tokio_stream::iter(statements));
                    let mut stream = client.append_stream(request).await.expect("a stream").into_inner();
                    asleep.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    let mut ended = Ok(());
                    while let Some(message) = stream.next().await {
                        ended = message.map(drop);
                    }
                    ended.expect_err("cut")
                }
            }));
        }
        while asleep.load(Ordering::SeqCst) < 8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut worst = Duration::ZERO;
        let begin = Instant::now();
        for id in 0..50 {
            let begin = Instant::now();
            append(&mut client, &token, id).await.expect("recorded");
            worst = worst.max(begin.elapsed());
        }
        println!(
            "50 appends beside 8 sleepers in {:?}, the slowest {worst:?}; peak {} MiB",
            begin.elapsed(),
            server.peak_mib()
        );
        assert!(worst < Duration::from_secs(4), "an append took {worst:?}");
        for sleeper in sleepers {
            sleeper.await.expect("it was cut");
        }
        assert!(server.peak_mib() < OWN_MIB + 8 * 64, "{} MiB", server.peak_mib());
        append(&mut client, &token, 51).await.expect("recorded");
    });
    server.stop();
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET` of a path in HPACK, without compression.
fn head(path: &str) -> Vec<u8> {
    let literal =
        |index: u8, text: &str| [&[index, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [vec![0x82, 0x86], literal(0x04, path), literal(0x01, "x")].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const RST_STREAM: u8 = 3;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Speaks HTTP/2 as long as the server does, answers its pings if told to, and says how long that was.
fn lives_on(mut stream: TcpStream, answers_pings: bool) -> Duration {
    let begin = Instant::now();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            break;
        }
        if answers_pings
            && head[3] == PING
            && head[4] & ACK == 0
            && stream.write_all(&frame(PING, ACK, 0, &payload)).is_err()
        {
            break;
        }
    }
    begin.elapsed()
}

/// Reads to the end, whatever it is, and says how long that took.
fn hung_up(mut stream: TcpStream) -> Duration {
    let begin = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    begin.elapsed()
}

#[test]
fn a_probe_that_is_dribbled_is_answered_after_two_seconds_and_others_meanwhile() {
    use tower::{Service as _, ServiceExt as _};
    let server = Server::start("[limits]\nbody_seconds = 60\n");
    let probe = async |body: tonic::body::Body| {
        let begin = Instant::now();
        let mut channel = server.channel().await;
        let request = axum::http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body);
        let ready = channel.ready().await.expect("it listens");
        let response = ready.call(request.expect("a request")).await.expect("answered");
        let status = response.headers().get("grpc-status").map(|code| code.to_str().expect("a number").to_owned());
        (status, begin.elapsed())
    };
    // A message of 64 bytes is announced, and one of them comes every 200 ms.
    let byte = |number: usize| {
        let frame = if number == 0 { vec![0, 0, 0, 0, 64] } else { vec![0] };
        Ok::<_, Status>(hyper::body::Frame::data(hyper::body::Bytes::from(frame)))
    };
    let dribbled = tokio_stream::iter(0..64).then(move |number| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        byte(number)
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let slow = probe(tonic::body::Body::new(http_body_util::StreamBody::new(dribbled)));
        let quick = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let whole = http_body_util::Full::new(hyper::body::Bytes::from_static(&[0; 5]));
            probe(tonic::body::Body::new(whole)).await
        };
        let ((late, after), (in_time, quickly)) = tokio::join!(slow, quick);
        let too_slow = i32::from(Code::DeadlineExceeded).to_string();
        assert_eq!(late.as_ref(), Some(&too_slow));
        assert!((Duration::from_millis(1900)..Duration::from_secs(6)).contains(&after), "after {after:?}");
        assert!(in_time.is_none_or(|code| code == "0") && quickly < Duration::from_secs(1), "after {quickly:?}");
    });
}

#[test]
fn whoever_dribbles_or_falls_silent_is_dropped() {
    let server = Server::start(
        "[limits]\nhead_seconds = 1\nbody_seconds = 1\nsilent_seconds = 1\nunread_seconds = 2\nconnections_per_address = 200\n",
    );
    let token = server.token();
    let within = Duration::from_secs(8);
    std::thread::scope(|scope| {
        let mut cases: Vec<(&str, std::thread::ScopedJoinHandle<'_, Duration>)> = Vec::new();
        let mut case = |name, attack: fn(TcpStream) -> Duration| {
            let stream = server.connect();
            cases.push((name, scope.spawn(move || attack(stream))));
        };
        case("nothing", hung_up);
        case("half a preface", |mut stream| {
            stream.write_all(&PREFACE[..10]).expect("sent");
            hung_up(stream)
        });
        case("a preface and nothing more", |mut stream| {
            stream.write_all(PREFACE).expect("sent");
            lives_on(stream, false)
        });
        case("half open: pings stay unanswered", |mut stream| {
            stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).expect("sent");
            lives_on(stream, false)
        });
        case("a head byte by byte", |mut stream| {
            let begin = Instant::now();
            stream.write_all(b"GET /checkpoint HTTP/1.1\r\nhost: x\r\nx-slow: ").expect("sent");
            while begin.elapsed() < Duration::from_secs(20) && stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
            begin.elapsed()
        });
        case("a window that is never opened", |mut stream| {
            let no_window = [0, 4, 0, 0, 0, 0];
            let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head("/checkpoint"));
            stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &no_window), &request].concat()).expect("sent");
            lives_on(stream, true)
        });
        case("answers that nobody takes", |mut stream| {
            let begin = Instant::now();
            stream.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
            let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
            while begin.elapsed() < Duration::from_secs(20) {
                match stream.write_all(&requests) {
                    Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
            begin.elapsed()
        });
        case("a head that goes on and on", |mut stream| {
            let begin = Instant::now();
            let mut attack = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            attack.extend(frame(HEADERS, END_STREAM, 1, &head("/checkpoint")));
            let filler = [&[0x40, 1, b'x', 100][..], &[b'y'; 100]].concat().repeat(100);
            for _ in 0..1000 {
                attack.extend(frame(CONTINUATION, 0, 1, &filler));
            }
            let _ = stream.write_all(&attack);
            lives_on(stream, true);
            begin.elapsed()
        });
        case("requests that are taken back at once", |mut stream| {
            let begin = Instant::now();
            let mut attack = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            for stream in (1..20_000).step_by(2) {
                attack.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("/checkpoint")));
                attack.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            }
            let _ = stream.write_all(&attack);
            lives_on(stream, true);
            begin.elapsed()
        });
        // Meanwhile others are served, and a request whose body does not come is told so.
        runtime().block_on(async {
            let mut client = AppendServiceClient::new(server.channel().await);
            for id in 0..20 {
                append(&mut client, &token, id).await.expect("recorded");
            }
            let mut raw = tonic::client::Grpc::new(server.channel().await);
            raw.ready().await.expect("it listens");
            let never = with_token(&token, tokio_stream::pending::<AppendRequest>());
            let path = "/tagledger.v1.AppendService/Append".parse().expect("a path");
            let codec = tonic_prost::ProstCodec::<AppendRequest, proto::AppendResponse>::default();
            let begin = Instant::now();
            let status = raw.streaming(never, path, codec).await.expect_err("it never came");
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        });
        for (name, attack) in cases {
            let took = attack.join().expect("no panic");
            println!("{name}: dropped after {took:?}");
            assert!(took < within, "{name}: dropped after {took:?}");
        }
    });
    // One address has so many connections, and no more.
    let crowd: Vec<TcpStream> = (0..250).map(|_| server.connect()).collect();
    let dropped = crowd.into_iter().rev().take(40).filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        matches!((&mut &*stream).read(&mut [0]), Ok(0))
    });
    assert!(dropped.count() >= 30, "the last of 250 find no place");
    assert!(server.peak_mib() < OWN_MIB + 64, "{} MiB", server.peak_mib());
    server.stop();
}

#[test]
fn answers_that_nobody_takes_count_and_lock_nobody_else_out() {
    const MEMORY_MIB: u64 = 32;
    let server = Server::start("[limits]\nmemory_mib = 32\nunread_seconds = 6\n");
    let token = server.token();
    runtime().block_on(async {
        let mut client = AppendServiceClient::new(server.channel().await).max_decoding_message_size(64 << 20);
        for _ in 0..2 {
            let request = AppendBatchRequest { submissions: (0..200).map(fat).collect() };
            client.append_batch(with_token(&token, request)).await.expect("recorded");
        }
        // Bundles of nearly 4 MiB, asked for again and again by somebody without a name who never opens a window: 2 GiB of them.
        let request = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("/tile/entries/000"));
        let asked: Vec<u8> = (0..125).flat_map(|number| request(2 * number + 1)).collect();
        let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let began = Instant::now();
        let attackers: Vec<_> = (0..4)
            .map(|_| {
                let mut stream = server.connect();
                stream.write_all(&[PREFACE, &no_window, &asked].concat()).expect("sent");
                std::thread::spawn(move || lives_on(stream, true))
            })
            .collect();
        // And by one who asks for everything in streams.
        let mut sleeping = Vec::new();
        for _ in 0..50 {
            let mut log = LogServiceClient::new(server.channel().await);
            sleeping.push(log.list_entries(ListEntriesRequest::default()).await);
        }
        let mut worst = Duration::ZERO;
        let mut log = LogServiceClient::new(server.channel().await);
        for id in 0..50 {
            let begin = Instant::now();
            append(&mut client, &token, id).await.expect("recorded");
            let by = Some(proto::get_entry_request::By::Index(5));
            log.get_entry(with_token(&token, proto::GetEntryRequest { by })).await.expect("answered");
            worst = worst.max(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("500 bundles asked for and not taken: peak {} MiB, others waited {worst:?}", server.peak_mib());
        assert!(server.peak_mib() < OWN_MIB + 8 * MEMORY_MIB, "{} MiB", server.peak_mib());
        drop(sleeping);
        // Nobody waits for them for ever.
        for attacker in attackers {
            attacker.join().expect("no panic");
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        log.get_entry(proto::GetEntryRequest { by: Some(proto::get_entry_request::By::Index(5)) })
            .await
            .expect("there is room again, for the nameless too");
    });
    server.stop();
}

/// A server on which each sync of the database's log takes half a second.
fn slow_disk(settings: &str) -> Server {
    slower_disk(settings, Duration::from_millis(500))
}

/// The same, with another time.
fn slower_disk(settings: &str, sync: Duration) -> Server {
    let (_, folder) = Server::start(settings).stop();
    let mut strace: Vec<String> =
        ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"].map(Into::into).into();
    strace.extend(["-e".to_owned(), format!("inject=fdatasync:delay_exit={}", sync.as_micros())]);
    for number in 0..60 {
        let file = folder.path().join(format!("ledger/db/{number:06}.log"));
        strace.extend(["-P".to_owned(), file.display().to_string()]);
    }
    Server::start_in(folder, settings, &strace)
}

#[test]
fn appends_that_were_given_up_count_until_they_are_recorded() {
    const MEMORY_MIB: u64 = 32;
    let server = slow_disk("[limits]\nmemory_mib = 32\n[limits.principal]\nper_second = 0\n");
    let token: Arc<str> = server.token().into();
    runtime().block_on(async {
        let batch: Arc<Vec<proto::Submission>> = Arc::new((0..70).map(fat).collect());
        let (mut refused, mut given_up, mut rounds) = (0, 0, 0);
        let begin = Instant::now();
        // A busy machine gives many up before the server has all of them.
        while rounds < 60 || refused < 100 {
            assert!(begin.elapsed() < Duration::from_secs(120), "{given_up} given up, {refused} refused");
            rounds += 1;
            let channel = server.channel().await;
            let attempts = (0..10).map(|_| {
                let (mut client, token, batch) =
                    (AppendServiceClient::new(channel.clone()), Arc::clone(&token), Arc::clone(&batch));
                tokio::spawn(async move {
                    let mut request = with_token(&token, AppendBatchRequest { submissions: batch.to_vec() });
                    request.set_timeout(Duration::from_millis(150));
                    client.append_batch(request).await
                })
            });
            for attempt in attempts.collect::<Vec<_>>() {
                match attempt.await.expect("no panic") {
                    Ok(_) => {}
                    Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
                    Err(_) => given_up += 1,
                }
            }
        }
        println!("{given_up} batches of a MiB given up, {refused} refused; peak {} MiB", server.peak_mib());
        assert!(given_up > 0, "{refused} refused");
        assert!(server.peak_mib() < OWN_MIB + 8 * MEMORY_MIB, "{} MiB", server.peak_mib());
        // Once they are recorded there is room again.
        let mut client = AppendServiceClient::new(server.channel().await);
        let begin = Instant::now();
        while let Err(status) = append(&mut client, &token, 1).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{status:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    server.stop();
}

#[test]
fn quiet_streams_leave_places_for_requests() {
    // Half of them are for callers with credentials.
    let server = Server::start("[limits]\nconcurrent = 40\nstreams = 20\n");
    let token = server.token();
    runtime().block_on(async {
        let mut log = LogServiceClient::new(server.channel().await);
        let mut quiet = Vec::new();
        for _ in 0..10 {
            quiet.push(log.watch(WatchRequest::default()).await.expect("a stream"));
        }
        let status = log.watch(WatchRequest::default()).await.expect_err("one too many");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("10 streams") && status.get_error_details().retry_info().is_some());
        let of_a_principal =
            log.watch(with_token(&token, WatchRequest::default())).await.expect("there is room for those");
        let mut client = AppendServiceClient::new(server.channel().await);
        append(&mut client, &token, 1).await.expect("recorded");
        log.get_checkpoint(proto::GetCheckpointRequest {}).await.expect("answered");
        drop((quiet.pop(), of_a_principal));
        let begin = Instant::now();
        while log.watch(WatchRequest::default()).await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(5), "a place was given back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    server.stop();
}

#[test]
fn what_webhooks_send_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("main.secret");
    std::fs::write(&secret, "a-secret-of-a-registry").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let settings =
        "[limits]\nmemory_mib = 40\n[webhooks.main]\nregistry = \"registry.example\"\nsecret_file = \"main.secret\"\n";
    let server = Server::start_in(folder, settings, &[]);
    let head = |length: usize| {
        format!(
            "POST /webhooks/distribution/main HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer a-secret-of-a-registry\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    // One address may have 10 MiB under way, and has 6 of them in a body that does not end.
    let hold = || {
        let mut slow = server.connect();
        slow.write_all(head(7 << 20).as_bytes()).expect("sent");
        // Where it is refused, the rest is not taken.
        let _ = slow.write_all(&vec![b' '; 6 << 20]);
        slow
    };
    let mut slow = hold();
    let post = |length: usize| {
        let mut stream = server.connect();
        stream.write_all(head(length).as_bytes()).expect("sent");
        // Where it is refused, the rest is not taken.
        let _ = stream.write_all(&vec![b' '; length]);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let begin = Instant::now();
    let refused = loop {
        let answer = post(5 << 20);
        if answer.starts_with("HTTP/1.1 429") {
            break answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{answer}");
        // It found room because the other was not read to its end yet; then that may be the one which was refused.
        drop(slow);
        slow = hold();
    };
    assert!(refused.contains("retry-after") && refused.contains("MiB"), "{refused}");
    drop(slow);
    // What it held is given back. A body that nobody understands is read to its end, and counts only as far as it is kept.
    let begin = Instant::now();
    for length in [5 << 20, 40 << 20] {
        let answer = loop {
            let answer = post(length);
            if !answer.starts_with("HTTP/1.1 429") {
                break answer;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{answer}");
        };
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    server.stop();
}

#[test]
fn a_compressed_request_is_refused_before_it_is_unpacked() {
    // A gibibyte of zeros fits into a mebibyte of gzip: nothing here unpacks what strangers send.
    let server = Server::start("");
    let token = server.token();
    runtime().block_on(async {
        let client = AppendServiceClient::new(server.channel().await);
        let mut client = client.send_compressed(tonic::codec::CompressionEncoding::Gzip);
        let status = append(&mut client, &token, 1).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    });
    server.stop();
}

#[test]
fn a_deadline_is_kept_and_what_was_given_up_is_recorded_once() {
    let server = slow_disk("");
    let token = server.token();
    let folder = runtime().block_on(async {
        let mut client = AppendServiceClient::new(server.channel().await);
        // The server's own word: tonic's client would end the call by itself, so the deadline is in a header it does not know of.
        let mut log = LogServiceClient::new(server.channel().await);
        let mut request = Request::new(WatchRequest::default());
        request.metadata_mut().insert("grpc-timeout", "300m".parse().expect("a header"));
        let begin = Instant::now();
        let mut stream = log.watch(request).await.expect("a stream").into_inner();
        let status = stream.message().await.expect_err("ended");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!((250..3000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
        let mut given_up = 0;
        for id in 0..5 {
            let statement = submission(&push(id, format!("event-{id}")));
            let mut request = with_token(&token, AppendRequest { submission: Some(statement) });
            request.set_timeout(Duration::from_millis(100));
            given_up += usize::from(client.append(request).await.is_err());
        }
        assert!(given_up > 0, "a sync takes longer than anybody waited");
        let mut indexes = Vec::new();
        for id in 0..5 {
            let receipt = append(&mut client, &token, id).await.expect("recorded");
            assert!(receipt.duplicate, "event-{id} was recorded, though nobody waited for it");
            indexes.push(receipt.index);
        }
        indexes.dedup();
        assert_eq!(indexes.len(), 5, "each once");
        drop((client, log, stream));
        server.stop().1
    });
    runtime().block_on(async {
        let world = World::open(&folder.path().join("ledger")).await;
        let entries = world.check_ledger().await;
        let ids = entries.iter().filter(|entry| entry.windows(6).any(|bytes| bytes == b"event-")).count();
        assert_eq!(ids, 5, "each once");
        world.stop().await;
    });
}

#[test]
fn a_deadline_of_an_append_is_the_servers_to_keep() {
    use prost::Message as _;
    let server = slower_disk("", Duration::from_secs(3));
    let token = server.token();
    runtime().block_on(async {
        // Whoever sends this by itself waits for as long as it takes.
        // An error means that it is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
        let call = async |id: usize, timeout: &str| {
            let message = AppendRequest { submission: Some(submission(&push(id, format!("event-{id}")))) };
            let message = message.encode_to_vec();
            let mut body = vec![0];
            body.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
            body.extend(message);
            let begin = Instant::now();
            let answer = client
                .post(format!("http://{}/tagledger.v1.AppendService/Append", server.address))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("authorization", format!("Bearer {token}"))
                .header("grpc-timeout", timeout)
                .body(body)
                .send()
                .await
                .expect("answered");
            let status = answer.headers().get("grpc-status").map(|status| status.to_str().expect("text").to_owned());
            (status, begin.elapsed())
        };
        let (status, took) = call(1, "100m").await;
        assert_eq!(status.as_deref(), Some("4"), "DEADLINE_EXCEEDED");
        assert!((100..2500).contains(&took.as_millis()), "{took:?}: before the disk");
        // With time enough the status comes after the answer, not instead of it.
        assert_eq!(call(2, "60S").await.0, None);
    });
    server.stop();
}

#[test]
fn a_stop_finishes_what_it_acknowledges_refuses_the_rest_and_takes_no_longer_than_it_may() {
    let server = Server::start("");
    let token = server.token();
    let data_dir = server.data_dir.clone();
    let stopping = Arc::new(AtomicBool::new(false));
    let (acknowledged, took, folder) = runtime().block_on(async {
        let mut writers = Vec::new();
        for writer in 0..16 {
            let (channel, token, stopping) = (server.channel().await, token.clone(), Arc::clone(&stopping));
            writers.push(tokio::spawn(async move {
                let mut client = AppendServiceClient::new(channel);
                let mut acknowledged = BTreeMap::new();
                for number in 0.. {
                    let id = writer * 1_000_000 + number;
                    match append(&mut client, &token, id).await {
                        Ok(receipt) => drop(acknowledged.insert(receipt.index, id)),
                        Err(status) => {
                            assert!(stopping.load(Ordering::SeqCst), "{status:?}");
                            // The ledger's own word, or the end of the connection.
                            let is_end = matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown);
                            // What the client calls a connection that was ended in order just when it began something.
                            let is_late = status.code() == Code::Internal && format!("{status:?}").contains("NO_ERROR");
                            assert!(is_end || is_late, "{status:?}");
                            return acknowledged;
                        }
                    }
                }
                unreachable!("a writer ends with the server")
            }));
        }
        // Streams that have no end of their own, and one that is not read.
        let mut log = LogServiceClient::new(server.channel().await);
        let mut watch = log.watch(WatchRequest::default()).await.expect("a stream").into_inner();
        let unread = log.watch(WatchRequest { begin: Some(0), ..Default::default() }).await.expect("a stream");
        let mut quiet = AppendServiceClient::new(server.channel().await);
        let never = with_token(&token, tokio_stream::pending::<AppendStreamRequest>());
        let mut quiet = quiet.append_stream(never).await.expect("a stream").into_inner();
        let mut idle = server.connect();
        write!(idle, "GET /checkpoint HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
        tokio::time::sleep(Duration::from_secs(1)).await;
        stopping.store(true, Ordering::SeqCst);
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        let refusal = quiet.message().await.expect_err("it ends");
        assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
        assert!(refusal.get_error_details().retry_info().is_some(), "{refusal:?}");
        while let Ok(Some(_)) = watch.message().await {}
        let mut acknowledged = BTreeMap::new();
        for writer in writers {
            acknowledged.extend(writer.await.expect("no other answer"));
        }
        let (took, folder) = stopped.await.expect("it stops");
        drop(unread);
        (acknowledged, took, folder)
    });
    println!("{} acknowledged; the stop took {took:?}", acknowledged.len());
    assert!(acknowledged.len() > 16 && took < Duration::from_secs(15), "{} in {took:?}", acknowledged.len());
    check(&data_dir, &acknowledged);
    drop(folder);
}

#[test]
fn a_stop_with_a_full_queue_before_a_slow_disk_takes_no_longer_than_it_may() {
    const STATEMENTS: usize = 500;
    let limits = "[limits]\nmemory_mib = 1024\nconcurrent = 1000\n[limits.principal]\nper_second = 0\n";
    let server = slower_disk(limits, Duration::from_secs(1));
    let (token, data_dir) = (server.token(), server.data_dir.clone());
    let (acknowledged, refused, took, folder) = runtime().block_on(async {
        let channel = server.channel().await;
        // Enough for more than half a minute of commits.
        let requests = (0..160).map(|request| {
            let (mut client, token) = (AppendServiceClient::new(channel.clone()), token.clone());
            let id = move |at| request * STATEMENTS + at;
            let statements = (0..STATEMENTS).map(|at| submission(&push(id(at), format!("event-{}", id(at)))));
            let submissions = statements.collect();
            tokio::spawn(async move {
                let answer = client.append_batch(with_token(&token, AppendBatchRequest { submissions })).await?;
                let receipts = answer.into_inner().receipts.into_iter().map(|receipt| receipt.index);
                Ok::<Vec<(u64, usize)>, Status>(receipts.zip((0..STATEMENTS).map(id)).collect())
            })
        });
        let requests: Vec<_> = requests.collect();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        let (mut acknowledged, mut refused) = (BTreeMap::new(), 0);
        for request in requests {
            match request.await.expect("no panic") {
                Ok(receipts) => acknowledged.extend(receipts),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    refused += 1;
                }
            }
        }
        let (took, folder) = stopped.await.expect("it stops");
        (acknowledged, refused, took, folder)
    });
    println!("{} acknowledged, {refused} batches refused; the stop took {took:?}", acknowledged.len());
    assert!(acknowledged.len() > STATEMENTS && refused > 10 && took < Duration::from_secs(15));
    // It was stopped in order all the same.
    assert!(data_dir.join("high-water.closed").exists());
    check(&data_dir, &acknowledged);
    let entries = runtime().block_on(async {
        let world = World::open(&data_dir).await;
        let entries = world.entries().await;
        world.stop().await;
        entries
    });
    let recorded = entries.iter().filter(|entry| entry.windows(6).any(|bytes| bytes == b"event-")).count();
    assert_eq!(recorded, acknowledged.len(), "what was refused is not in it");
    drop(folder);
}

/// Everything acknowledged is in the log, at its index.
fn check(data_dir: &Path, acknowledged: &BTreeMap<u64, usize>) {
    runtime().block_on(async {
        let world = World::open(data_dir).await;
        let entries = world.check_ledger().await;
        for (index, id) in acknowledged {
            let event = format!("event-{id}");
            let entry = &entries[usize::try_from(*index).expect("small")];
            assert!(entry.windows(event.len()).any(|bytes| bytes == event.as_bytes()), "entry {index} is {event}");
        }
        world.stop().await;
    });
}
