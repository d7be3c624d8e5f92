//! Connections: HTTP/1.1 and HTTP/2 on one port, gRPC told apart by its content type.
//!
//! A connection that sends no request in time, or no sign of life, is dropped. On shutdown no new ones are taken, the ones
//! there finish what they began, and what has not ended within a bound is cut.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection may be silent before it is asked for a sign of life, and how long it may take to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long connections may take to finish on shutdown.
const GRACE: Duration = Duration::from_secs(10);
/// Requests of one connection that are answered at once.
const CONCURRENT_STREAMS: u32 = 1024;

/// Serves until `shutdown` completes, and a bounded time longer.
pub async fn serve(listener: TcpListener, grpc: Router, http: Router, shutdown: impl Future<Output = ()>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .adaptive_window(true);
    let connections = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut shutdown => break,
        };
        let (grpc, http) = (grpc.clone(), http.clone());
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let router = if is_grpc(&request) { grpc.clone() } else { http.clone() };
            router.oneshot(Request::from(request.map(axum::body::Body::new)))
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("connections were cut: they did not finish within {} seconds", GRACE.as_secs());
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
