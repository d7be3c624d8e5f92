//! Somebody between client and server: passes calls on, and lies when told to. It has no key; what it can do is replay, cut,
//! make up what nobody signs, and, where the ledger itself lies, hand out what it signed.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use axum::serve::ListenerExt as _;
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

/// A proxy on a port of its own, until it is dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    calls: Arc<Mutex<Calls>>,
    _runtime: tokio::runtime::Runtime,
}

/// What was answered last, what is answered instead, and what is made of an answer, by the name of the method.
#[derive(Default)]
struct Calls {
    seen: HashMap<String, Answer>,
    lies: HashMap<String, Lie>,
    edits: HashMap<String, Edit>,
    tile_lie: Option<TileLie>,
}

type Lie = Box<dyn FnMut() -> Answer + Send>;
type Edit = Box<dyn FnMut(Answer) -> Answer + Send>;
/// From the path of a tile and what is in it to what is served instead; nothing, if it is not served.
type TileLie = Box<dyn FnMut(&str, &[u8]) -> Option<Vec<u8>> + Send>;

/// The answer to a unary call.
#[derive(Clone)]
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Proxy {
    /// Stands before a server.
    pub(crate) fn before(address: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let calls = Arc::new(Mutex::new(Calls::default()));
        let (listener, channel) = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            (listener, Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy())
        });
        let port = listener.local_addr().expect("bound").port();
        let router = Router::new().fallback(handle).with_state((channel, calls.clone()));
        // A thousand small answers would wait 40 ms each.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a TCP socket"));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { port, calls, _runtime: runtime }
    }

    /// Tells the truth again.
    pub(crate) fn forward(&self) {
        let mut calls = self.calls();
        calls.lies.clear();
        calls.edits.clear();
        calls.tile_lie = None;
    }

    /// From now on tiles are other ones.
    pub(crate) fn lie_in_tiles(&self, lie: impl FnMut(&str, &[u8]) -> Option<Vec<u8>> + Send + 'static) {
        self.calls().tile_lie = Some(Box::new(lie));
    }

    /// From now on a method is answered as it was answered last.
    pub(crate) fn replay(&self, method: &str) {
        let answer = self.calls().seen.get(method).unwrap_or_else(|| panic!("{method} was not called")).clone();
        self.lie(method, move || answer.clone());
    }

    /// From now on a method is answered like this.
    pub(crate) fn lie(&self, method: &str, lie: impl FnMut() -> Answer + Send + 'static) {
        self.calls().lies.insert(method.to_owned(), Box::new(lie));
    }

    /// From now on what a method is answered with is changed on its way.
    pub(crate) fn edit<M: Message + Default>(&self, method: &str, mut change: impl FnMut(&mut M) + Send + 'static) {
        let edit = move |answer: Answer| {
            let mut message = answer.decode::<M>();
            change(&mut message);
            Answer::message(&message)
        };
        self.calls().edits.insert(method.to_owned(), Box::new(edit));
    }

    /// From now on a method does what it does, and whoever called it hears an error.
    pub(crate) fn lose(&self, method: &str, status: tonic::Status) {
        self.calls().edits.insert(method.to_owned(), Box::new(move |_| Answer::status(&status)));
    }

    /// The message that a method was answered with last.
    pub(crate) fn seen<M: Message + Default>(&self, method: &str) -> M {
        self.calls().seen.get(method).unwrap_or_else(|| panic!("{method} was not called")).decode()
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().expect("nobody panicked")
    }
}

impl Answer {
    /// A message, and that all is well.
    pub(crate) fn message(message: &impl Message) -> Self {
        let mut body = vec![0];
        let length = u32::try_from(message.encoded_len()).expect("a small message");
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&message.encode_to_vec());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Self { status: StatusCode::OK, headers: grpc(), body: body.into(), trailers: Some(trailers) }
    }

    fn decode<M: Message + Default>(&self) -> M {
        // A byte for compression and four for the length come before it.
        M::decode(&self.body[5..]).expect("the message of this method")
    }

    /// An error.
    pub(crate) fn status(status: &tonic::Status) -> Self {
        let mut headers = grpc();
        status.add_header(&mut headers).expect("a status fits into headers");
        Self { status: StatusCode::OK, headers, body: Bytes::new(), trailers: None }
    }
}

fn grpc() -> HeaderMap {
    HeaderMap::from_iter([(axum::http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))])
}

async fn handle(
    State((mut channel, calls)): State<(Channel, Arc<Mutex<Calls>>)>,
    request: Request<Body>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap_or_default().to_owned();
    let lie = calls.lock().expect("nobody panicked").lies.get_mut(&method).map(|lie| lie());
    let answer = match lie {
        Some(answer) => answer,
        None => {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("the server is there");
            let response = channel.call(request.map(tonic::body::Body::new)).await.expect("it answers");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a whole answer");
            let trailers = body.trailers().cloned();
            let mut answer = Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers };
            let mut calls = calls.lock().expect("nobody panicked");
            if let (Some(tile), Some(lie)) = (path.strip_prefix("/tile/"), &mut calls.tile_lie) {
                answer.headers.remove(axum::http::header::CONTENT_LENGTH);
                match lie(tile, &answer.body) {
                    Some(body) => answer.body = body.into(),
                    None => answer.status = StatusCode::NOT_FOUND,
                }
            }
            calls.seen.insert(method.clone(), answer.clone());
            match calls.edits.get_mut(&method) {
                Some(edit) if !answer.body.is_empty() => edit(answer),
                _ => answer,
            }
        }
    };
    let trailers = answer.trailers.map(Ok::<_, std::convert::Infallible>);
    let body = Full::new(answer.body).with_trailers(std::future::ready(trailers));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
