//! Clients that misbehave on the wire: they cost little, and others are served all the same.

mod world;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tagledger::proto;
use tonic::Code;
use world::{World, digest, happened};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Waits until the server hangs up, and says how long that took.
fn hung_up(mut stream: TcpStream) -> Duration {
    let begin = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "patience ended first"),
    }
    begin.elapsed()
}

#[test]
fn who_does_not_begin_or_does_not_finish_a_request_is_dropped() {
    runtime().block_on(async {
        let world = World::new().await;
        let address = world.address;
        let idlers: Vec<_> = ["", "PRI * HTTP/2.0", "GET /checkpoint HTTP/1.1\r\nhost: x\r\nx-slow: "]
            .map(|beginning| {
                tokio::task::spawn_blocking(move || {
                    let mut stream = TcpStream::connect(address).expect("connected");
                    stream.write_all(beginning.as_bytes()).expect("sent");
                    hung_up(stream)
                })
            })
            .into_iter()
            .collect();
        // Meanwhile others are served.
        world.recorded(&happened("v1", &digest('a'))).await;
        for idler in idlers {
            let patience = idler.await.expect("dropped");
            assert!(patience < Duration::from_secs(20), "{patience:?}");
        }
        world.check_ledger().await;
    });
}

#[test]
fn a_stop_ends_watchers_and_records_what_was_queued() {
    runtime().block_on(async {
        let world = World::new().await;
        world.recorded(&happened("v1", &digest('a'))).await;
        let mut watcher = world.log().watch(proto::WatchRequest::default()).await.expect("a stream").into_inner();
        let begin = Instant::now();
        let folder = world.stop().await;
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert!(watcher.message().await.is_ok_and(|message| message.is_none()), "the stream ends in order");
        drop(folder);
    });
}

#[test]
fn a_question_is_small_and_a_stranger_sends_no_statement() {
    runtime().block_on(async {
        let world = World::new().await;
        let request = proto::ListRunningRequest { environment: "e".repeat(100_000), ..Default::default() };
        let status = world.query().list_running(request).await.expect_err("too long");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        for token in ["Bearer ", "Bearer", "Basic eDp5", ""] {
            let mut request = tonic::Request::new(proto::AppendRequest::default());
            request.metadata_mut().insert("authorization", token.parse().expect("a header"));
            let status = world.append().append(request).await.expect_err("a stranger");
            assert_eq!(status.code(), Code::Unauthenticated, "{token:?}");
        }
    });
}
