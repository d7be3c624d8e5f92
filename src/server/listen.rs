//! Connections: HTTP/1.1 and HTTP/2 on one port, with TLS or without, gRPC told apart by its content type.
//!
//! A connection that sends no request in time, gives no sign of life, or does not take what it asked for, is dropped, and there are
//! only so many at once: files that connections take are files that the database misses. On shutdown no new ones are taken, the
//! ones there finish what they began, and what has not ended within a bound is cut. A handler that panics answers with an error.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::header::CONTENT_TYPE;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::crowd::Crowd;
use super::gathered::in_turns;
use super::tls::{Judged, Served, Tls};
use super::untaken::Untaken;
use crate::api::limits::LimitSettings;
use crate::api::principals::Peer;
use crate::api::status;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long connections may take to finish on shutdown.
const GRACE: Duration = Duration::from_secs(10);
/// Requests of one connection that are answered at once.
const CONCURRENT_STREAMS: u32 = 256;
/// What a client may send of one request, and of all of a connection, before somebody reads it, in bytes.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Longest names and values of a request's head, in bytes; what HTTP/1.1 buffers of it, in bytes.
const MAX_HEAD: u32 = 16 << 10;
const HEAD_BUFFER: usize = 64 << 10;
/// Files that are not for connections: the database holds up to 512 open, and writes new ones.
const OTHER_FILES: u64 = 640;

/// TLS for every connection.
#[derive(Clone)]
pub struct Secured {
    /// What new connections are served with.
    pub served: watch::Receiver<Arc<Served>>,
}

/// Serves with these certificates, and keeps up with their files.
pub fn secured(tls: Tls) -> Secured {
    let served = tls.current();
    tokio::spawn(tls.keep_up());
    Secured { served }
}

/// How long connections are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until a client begins, its handshake included.
    pub begin: Duration,
    /// Until a request's head is there, since the connection began or the answer before was out (HTTP/1.1).
    pub head: Duration,
    /// How long an HTTP/2 connection may be silent before it is asked for a sign of life, and how long it may take to give one.
    pub silent: Duration,
    /// Until a client takes a piece of what it asked for.
    pub unread: Duration,
}

impl From<&LimitSettings> for Patience {
    fn from(limits: &LimitSettings) -> Self {
        let seconds = |seconds: u64| Duration::from_secs(seconds.max(1));
        let head = seconds(limits.head_seconds);
        Self { begin: head, head, silent: seconds(limits.silent_seconds), unread: seconds(limits.unread_seconds) }
    }
}

/// Serves until `shutdown` completes, and a bounded time longer.
pub async fn serve(
    listener: TcpListener,
    secured: Option<Secured>,
    crowd: Crowd,
    grpc: Router,
    http: Router,
    patience: impl Into<Patience>,
    shutdown: impl Future<Output = ()>,
) {
    let Patience { begin: until_begun, head, silent, unread } = patience.into();
    let mut builder = Builder::new(TokioExecutor::new());
    // Runs while a connection rests between two requests, too.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(silent)
        .keep_alive_timeout(silent)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD);
    let builders = [builder.clone().http1_only(), builder.http2_only()];
    let connections = GracefulShutdown::new();
    let most = max_connections(crowd.most());
    let crowd = crowd.at_most(most);
    let (cut, cutting) = watch::channel(false);
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut shutdown => break,
        };
        let address = address_of(&stream);
        let Some(seat) = crowd.seat(address) else {
            tracing::debug!(%address, "a connection is refused: there are as many as may be");
            continue;
        };
        let (grpc, http, builders, secured) = (grpc.clone(), http.clone(), builders.clone(), secured.clone());
        let (watcher, mut cutting) = (connections.watcher(), cutting.clone());
        tokio::spawn(async move {
            let untaken = Untaken::default();
            let serving = async {
                let Ok(Ok(begun)) = tokio::time::timeout(until_begun, begin(stream, address, secured)).await else {
                    return;
                };
                let Begun { stream, is_http2, peer, judged } = begun;
                let of_answers = untaken.clone();
                let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
                    request.extensions_mut().insert(ConnectInfo(peer.address));
                    request.extensions_mut().insert(peer.clone());
                    let is_grpc = is_grpc(&request);
                    let router = if is_grpc { grpc.clone() } else { http.clone() };
                    let answer = router.oneshot(Request::from(request.map(axum::body::Body::new)));
                    let asked = of_answers.asked();
                    async move {
                        let answer = AssertUnwindSafe(answer).catch_unwind().await;
                        let answer = answer.unwrap_or_else(|_| Ok(status::bug_over_http(is_grpc)))?;
                        Ok::<_, Infallible>(answer.map(|body| asked.in_pieces(body)))
                    }
                });
                let [http1, http2] = builders;
                let builder = if is_http2 { http2 } else { http1 };
                let connection = in_turns(
                    untaken.watched(stream),
                    || untaken.is_asked_more(),
                    |stream| watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()),
                );
                let turns = async {
                    match judged {
                        Some(judged) => judged.turns().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(error, "a connection ended early");
                    },
                    () = turns => {}
                }
            };
            tokio::select! {
                () = serving => {}
                () = untaken.longer_than(unread) => {
                    tracing::debug!(%address, "a connection is dropped: what was asked for on it is not taken");
                }
                _ = cutting.wait_for(|cut| *cut) => {}
            }
            drop(seat);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("connections were cut: they did not finish within {} seconds", GRACE.as_secs());
        cut.send_replace(true);
    }
}

/// As many connections as there are files for; raises the soft limit of files as far as the hard one allows.
fn max_connections(wish: usize) -> usize {
    let most = u64::try_from(wish).unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(most.saturating_add(OTHER_FILES));
    let mut files = limit.current.unwrap_or(u64::MAX);
    if files < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok() {
        files = wanted;
    }
    let connections = files.saturating_sub(OTHER_FILES).max(32).min(most);
    if connections < most && wish != usize::MAX {
        tracing::warn!(connections, files, "few open files are allowed, so few connections are; raise the limit");
    }
    usize::try_from(connections).unwrap_or(usize::MAX)
}

/// A connection that is ready for requests.
struct Begun {
    stream: Box<dyn Stream>,
    is_http2: bool,
    peer: Peer,
    /// Its certificate, where there is TLS.
    judged: Option<Judged>,
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Shakes hands, where there is TLS, and finds out what is spoken and by whom.
async fn begin(stream: TcpStream, address: IpAddr, secured: Option<Secured>) -> io::Result<Begun> {
    let Some(Secured { served }) = secured else {
        let is_http2 = begins_http2(&stream).await?;
        let peer = Peer { address, certificate: Ok(Arc::default()) };
        return Ok(Begun { stream: Box::new(stream), is_http2, peer, judged: None });
    };
    let config = Arc::clone(&served.borrow().config);
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let judged = Judged::new(served, session.peer_certificates());
    let certificate = judged.verdict.clone().map(Arc::from).map_err(Arc::from);
    Ok(Begun { stream: Box::new(stream), is_http2, peer: Peer { address, certificate }, judged: Some(judged) })
}

fn address_of(stream: &TcpStream) -> IpAddr {
    stream.peer_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip().to_canonical())
}

/// Whether a client speaks HTTP/2, without taking its first bytes away.
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..length] != HTTP2_PREFACE[..length] {
            return Ok(false);
        }
        if length == HTTP2_PREFACE.len() {
            return Ok(true);
        }
        // Half a preface: the rest is on its way, or the time runs out.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and waited for.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will be given back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_grpc<B>(request: &hyper::Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/grpc"))
}
