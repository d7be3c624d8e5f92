//! The one layer that every request passes, gRPC and HTTP alike: who it is, whether that is enough, and whether it is too much.
//!
//! It decides by the path alone, before a byte of the message is read. A path that is not in `need_of` is for readers. What it
//! lets through it counts, bodies and answers too (`bodies`), and a caller's deadline is kept. The body of `AppendStream` is counted
//! statement by statement, where it is read.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};

use super::bodies::{Answer, Counted, deadline};
use super::failures::Reason;
use super::limits::{TooMuch, Weight, Who};
use super::principals::{Access, AuthError, Need, Peer};
use super::status;
use super::turns::at_length;

/// How long a probe may take, with its body.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// Of a webhook's body, as much as is kept, in bytes.
const WEBHOOK: usize = 8 << 20;

/// What the path of a request needs.
fn need_of(path: &str) -> Need {
    match path {
        "/tagledger.v1.LogService/GetLedger"
        | "/tagledger.v1.LogService/GetKeys"
        | "/tagledger.v1.LogService/GetCheckpoint"
        | "/tagledger.v1.LogService/GetConsistencyProof"
        | "/checkpoint" => Need::Known,
        "/" | "/healthz" | "/readyz" | "/metrics" => Need::Nothing,
        path if path.starts_with("/tagledger.v1.AppendService/") => Need::Writer,
        path if path.starts_with("/webhooks/") => Need::OwnSecret,
        path if path.starts_with("/grpc.health.") || path.starts_with("/grpc.reflection.") => Need::Nothing,
        _ => Need::Reader,
    }
}

/// What a request takes, by its path.
fn weight_of(path: &str) -> Weight {
    match path {
        "/tagledger.v1.AppendService/AppendStream"
        | "/tagledger.v1.LogService/ListEntries"
        | "/tagledger.v1.LogService/Watch" => Weight::Stream,
        "/tagledger.v1.AppendService/Append"
        | "/tagledger.v1.LogService/GetLedger"
        | "/tagledger.v1.LogService/GetCheckpoint"
        | "/tagledger.v1.LogService/GetConsistencyProof"
        | "/tagledger.v1.LogService/GetInclusionProof"
        | "/checkpoint"
        | "/" => Weight::Light,
        path if path.starts_with("/webhooks/") => Weight::Light,
        path if path.starts_with("/grpc.") => Weight::Stream,
        path if path.starts_with("/tagledger.v1.QueryService/List") || path.starts_with("/tile/entries/") => {
            Weight::Huge
        }
        _ => Weight::Heavy,
    }
}

/// Puts the layer before routes.
pub fn guarded(routes: Router, access: Arc<Access>) -> Router {
    routes.layer(from_fn_with_state(access, guard))
}

async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let need = need_of(request.uri().path());
    let is_grpc = is_grpc(&request);
    let peer = request.extensions().get::<Peer>().cloned().expect("every connection says who is at its other end");
    if is_probe(request.uri().path()) {
        return probe(&access, &peer, request, next, is_grpc).await;
    }
    let admitted = match need {
        Need::Nothing | Need::OwnSecret => Ok(None),
        need => access.admit(need, request.headers(), &peer),
    };
    let caller = match admitted {
        Ok(caller) => caller,
        Err(error) => return not_admitted(&error, is_grpc),
    };
    let name = caller.as_ref().and_then(|caller| caller.name.clone());
    let who = name.map_or_else(|| Who::at(peer.address), Who::Principal);
    let weight = weight_of(request.uri().path());
    let in_flight = match access.limits.begin(who, weight) {
        Ok(in_flight) => Arc::new(in_flight),
        Err(error) => return too_much(&error, is_grpc),
    };
    // Whose webhook it is to be, for the log.
    let path = (need == Need::OwnSecret).then(|| request.uri().path().to_owned());
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    request.extensions_mut().insert(Arc::clone(&in_flight));
    if request.uri().path() != "/tagledger.v1.AppendService/AppendStream" {
        let (kept, patience) = match need {
            // Their receiver has a time for them, and answers by itself.
            Need::OwnSecret => (WEBHOOK, None),
            _ => (usize::MAX, Some(Box::pin(tokio::time::sleep(access.limits.settings().body_time())))),
        };
        let (limits, request_of) = (access.limits.clone(), Arc::clone(&in_flight));
        request = request.map(|body| Body::new(Counted { body, limits, request: request_of, kept, patience }));
    }
    let deadline = deadline(request.headers()).filter(|_| is_grpc);
    let response = match deadline {
        None => next.run(request).await,
        Some(deadline) => match tokio::time::timeout_at(deadline, next.run(request)).await {
            Ok(response) => response,
            Err(_) => return status::deadline_exceeded().into_http(),
        },
    };
    if let Some(path) = path.filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
        access.failures.note(Reason::Secret, peer.address, &format!("the secret of {path} is missing or wrong"));
    }
    if let Some(error) = in_flight.refused() {
        return too_much(error, is_grpc);
    }
    // It is being answered until the last byte is on its way, or nobody waits for it any more.
    let (head, body) = response.into_parts();
    let mut answer = Answer {
        body,
        limits: access.limits.clone(),
        request: in_flight,
        first: None,
        further: Vec::new(),
        piece: None,
        deadline: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
        is_over: false,
    };
    if weight != Weight::Stream {
        let only_reads = !matches!(need, Need::Writer | Need::OwnSecret);
        // Over HTTP it may be compressed here.
        let length =
            if weight == Weight::Huge { at_length(|| answer.make(is_grpc)).await } else { answer.make(is_grpc) };
        if let Err(error) = access.limits.answer(&answer.request, length, only_reads) {
            return too_much(&error, is_grpc);
        }
    }
    Response::from_parts(head, Body::new(answer))
}

/// Answers a probe, which counts beside everything else, and only for its address.
async fn probe(access: &Access, peer: &Peer, request: Request, next: Next, is_grpc: bool) -> Response {
    let _in_flight = match access.probes.begin(Who::at(peer.address), Weight::Light) {
        Ok(in_flight) => in_flight,
        Err(error) => return too_much(&error, is_grpc),
    };
    match tokio::time::timeout(PROBE_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => status::too_slow_over_http(is_grpc),
    }
}

/// Whoever asks whether the service is well gets an answer, however much else it was asked.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/grpc.health.v1.Health/Check")
}

fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/grpc"))
}

fn not_admitted(error: &AuthError, is_grpc: bool) -> Response {
    if is_grpc {
        return status::of_auth(error).into_http();
    }
    let code = if matches!(error, AuthError::NoReader(_)) { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer"), (header::CACHE_CONTROL, "no-store")];
    (code, challenge, format!("{error}\n")).into_response()
}

fn too_much(error: &TooMuch, is_grpc: bool) -> Response {
    if is_grpc {
        return status::of_limit(error).into_http();
    }
    let mut response = (StatusCode::TOO_MANY_REQUESTS, format!("{error}\n")).into_response();
    let seconds = error.retry_after.as_secs_f64().ceil().max(1.0);
    if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.0}")) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}
