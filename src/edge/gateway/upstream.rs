//! The registry behind the gateway: what is sent to it, and what of its answers is passed on.
//!
//! Bodies stream both ways, frame by frame; nothing but manifests is ever held. Headers pass untouched, `Authorization` and
//! `WWW-Authenticate` among them, except for those of one hop (RFC 9110 section 7.6.1) and those with which some servers let
//! a client name another method or path than its request line does. Redirects are the client's to follow: its credentials
//! are never sent to where they point. A `Location` in the registry itself becomes one of the gateway.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Response, StatusCode};
use tokio::time::{Instant, Sleep};

use super::errors::Refusal;
use crate::edge::source::BaseUrl;

/// Headers of one hop, and of this one: lengths and encodings are written anew from the body.
const HOP: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-length",
    "http2-settings",
];
/// With these a client could ask for something else than its request line says.
const DISGUISES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// What proxies say of the client, in their various ways. Registries build locations and realms of it.
const FORWARDED: &str = "x-forwarded-";
const FORWARDED_TOO: [&str; 2] = ["forwarded", "x-real-ip"];

/// Who sent a request, and by what way.
pub(super) struct Caller {
    /// The other end of the connection.
    peer: Option<IpAddr>,
    /// The client, also behind a proxy that is believed.
    pub(super) client: Option<IpAddr>,
    is_proxy: bool,
    has_tls: bool,
}

impl Caller {
    /// `proxies`: who is believed.
    pub(super) fn new(peer: Option<IpAddr>, headers: &HeaderMap, proxies: &[IpAddr], has_tls: bool) -> Self {
        let is_proxy = peer.is_some_and(|peer| proxies.contains(&peer));
        // A proxy adds whom it sees at the end.
        let last = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
        let told = last.and_then(|value| value.rsplit(',').next()?.trim().parse().ok());
        Self { peer, client: told.filter(|_| is_proxy).or(peer), is_proxy, has_tls }
    }
}

/// How the registry is reached.
pub(super) struct Upstream {
    base: BaseUrl,
    client: reqwest::Client,
    keeps_host: bool,
    /// Until an answer begins, once the whole request is sent; and between two pieces of a body.
    idle: Duration,
}

/// A request as it is to be sent.
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// In its one spelling, with the query.
    pub(super) path_and_query: String,
    pub(super) headers: HeaderMap,
}

impl Upstream {
    pub(super) fn new(base: BaseUrl, keeps_host: bool, connect: Duration, idle: Duration) -> Result<Self, String> {
        // reqwest is built without a crypto provider of its own. An error means that one was installed before: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .connect_timeout(connect)
            .redirect(reqwest::redirect::Policy::none())
            // What the registry does not acknowledge is not sent again and again after it was given up.
            .tcp_user_timeout(idle)
            // Host and body framing stay those of HTTP/1.1.
            .http1_only();
        if !base.is_https() {
            client = client.tls_certs_only([]);
        }
        if base.is_loopback() {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| error.to_string())?;
        Ok(Self { base, client, keeps_host, idle })
    }

    /// The headers of a request as the registry gets them.
    pub(super) fn headers(&self, from: &HeaderMap, caller: &Caller) -> HeaderMap {
        let mut headers = passed_on(from);
        let forwarded = |name: &&HeaderName| name.as_str().starts_with(FORWARDED) && !caller.is_proxy;
        let unbelieved: Vec<HeaderName> = headers.keys().filter(forwarded).cloned().collect();
        for name in unbelieved.iter().map(HeaderName::as_str).chain(DISGUISES).chain(FORWARDED_TOO) {
            headers.remove(name);
        }
        let host = headers.remove(header::HOST);
        if let Some(host) = host {
            headers.entry(HeaderName::from_static("x-forwarded-host")).or_insert_with(|| host.clone());
            if self.keeps_host {
                headers.insert(header::HOST, host);
            }
        }
        // What ends TLS in front says so.
        let proto = HeaderName::from_static("x-forwarded-proto");
        headers.entry(proto).or_insert(HeaderValue::from_static(if caller.has_tls { "https" } else { "http" }));
        if let Some(peer) = caller.peer {
            let before = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
            let all = before.map_or_else(|| peer.to_string(), |before| format!("{before}, {peer}"));
            if let Ok(all) = HeaderValue::from_str(&all) {
                headers.insert(HeaderName::from_static("x-forwarded-for"), all);
            }
        }
        headers
    }

    /// Sends a request, and returns the answer once it begins. Its body streams.
    pub(super) async fn send(&self, outgoing: Outgoing, body: reqwest::Body) -> Result<Response<Body>, Unanswered> {
        self.send_watched(outgoing, body, None).await
    }

    /// The same with a body that streams: as long as it moves, the answer may take its time.
    pub(super) async fn stream(&self, outgoing: Outgoing, body: Body) -> Result<Response<Body>, Unanswered> {
        let moved = Moved::default();
        let body = reqwest::Body::wrap(Moving::new(body, self.idle, moved.clone()));
        self.send_watched(outgoing, body, Some(moved)).await
    }

    async fn send_watched(
        &self,
        outgoing: Outgoing,
        body: reqwest::Body,
        moved: Option<Moved>,
    ) -> Result<Response<Body>, Unanswered> {
        let Outgoing { method, path_and_query, headers } = outgoing;
        let is_head = method == Method::HEAD;
        let url = format!("{}{path_and_query}", self.base);
        let sending = self.client.request(method, url).headers(headers).body(body).send();
        tokio::pin!(sending);
        let begun = Instant::now();
        let response = loop {
            let last = moved.as_ref().map_or(begun, |moved| moved.last().unwrap_or(begun).max(begun));
            tokio::select! {
                answered = &mut sending => break answered.map_err(|error| Unanswered::of(&error))?,
                () = tokio::time::sleep_until(last + self.idle) => {
                    let last = moved.as_ref().and_then(Moved::last).unwrap_or(begun);
                    if last + self.idle <= Instant::now() {
                        return Err(Unanswered::Slow(self.idle));
                    }
                }
            }
        };
        let response = Response::<reqwest::Body>::from(response);
        let (parts, body) = response.into_parts();
        let mut passed = Response::new(Body::new(Moving::new(Body::new(body), self.idle, Moved::default())));
        *passed.status_mut() = parts.status;
        *passed.headers_mut() = passed_on(&parts.headers);
        if (is_head || passed.body().size_hint().exact().is_none())
            && let Some(length) = parts.headers.get(header::CONTENT_LENGTH)
        {
            passed.headers_mut().insert(header::CONTENT_LENGTH, length.clone());
        }
        Ok(passed)
    }

    /// Turns a `Location` in the registry into one of the gateway; any other is left as it is.
    pub(super) fn relocate(&self, headers: &mut HeaderMap, asked_host: Option<&HeaderValue>) {
        let Some(location) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) else { return };
        let asked_host = asked_host.and_then(|host| host.to_str().ok());
        let Some(local) = self.local(location, asked_host) else { return };
        if let Ok(local) = HeaderValue::from_str(&local) {
            headers.insert(header::LOCATION, local);
        }
    }

    /// Path and query of a location in the registry, as the gateway has them.
    fn local(&self, location: &str, asked_host: Option<&str>) -> Option<String> {
        let base = self.base.to_string();
        let prefix = base.split_once("://")?.1.split_once('/').map_or(String::new(), |(_, path)| format!("/{path}"));
        let path_and_query = match location.split_once("://") {
            // `//host/path` is another host.
            None if location.starts_with('/') && !location.starts_with("//") => location,
            None => return None,
            Some((_, rest)) => {
                let (authority, _) = rest.split_once('/')?;
                let ours = base.split_once("://")?.1;
                let ours = ours.split_once('/').map_or(ours, |(authority, _)| authority);
                if !authority.eq_ignore_ascii_case(ours) && asked_host != Some(authority) {
                    return None;
                }
                &rest[authority.len()..]
            }
        };
        let local = path_and_query.strip_prefix(&prefix).unwrap_or(path_and_query);
        // What is not of the API the client has to ask the registry itself.
        local.starts_with("/v2/").then(|| local.to_owned())
    }
}

/// Why there is no answer to pass on. Whether the request was carried out is not known.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It took too long.
    Slow(Duration),
    /// Nobody there, or the connection broke.
    Broken(String),
    /// It was never sent.
    Unsent(String),
}

impl Unanswered {
    fn of(error: &reqwest::Error) -> Self {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        let words = causes.fold(String::new(), |text, cause| format!("{text}: {cause}"));
        let words = words.trim_start_matches(": ").to_owned();
        if error.is_connect() || error.is_builder() { Self::Unsent(words) } else { Self::Broken(words) }
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slow(idle) => write!(f, "the registry did not answer within {} seconds", idle.as_secs_f32()),
            Self::Broken(reason) => write!(f, "the registry broke off: {reason}"),
            Self::Unsent(reason) => write!(f, "the registry can't be reached: {reason}"),
        }
    }
}

impl From<Unanswered> for Refusal {
    fn from(unanswered: Unanswered) -> Self {
        let status = match unanswered {
            Unanswered::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
            Unanswered::Broken(_) | Unanswered::Unsent(_) => StatusCode::BAD_GATEWAY,
        };
        Self::upstream(status, unanswered.to_string())
    }
}

/// Headers without those of one hop.
fn passed_on(from: &HeaderMap) -> HeaderMap {
    let named = from.get_all(header::CONNECTION);
    let named: Vec<String> = named
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let stays = |name: &HeaderName| !HOP.contains(&name.as_str()) && !named.iter().any(|other| other == name.as_str());
    let mut headers = HeaderMap::with_capacity(from.len());
    for (name, value) in from.iter().filter(|(name, _)| stays(name)) {
        headers.append(name.clone(), value.clone());
    }
    headers
}

/// When a body last moved.
#[derive(Clone, Default)]
struct Moved(Arc<Mutex<Option<Instant>>>);

impl Moved {
    fn last(&self) -> Option<Instant> {
        *self.0.lock().expect("nobody panics while holding it")
    }

    fn note(&self) {
        *self.0.lock().expect("nobody panics while holding it") = Some(Instant::now());
    }
}

/// A body that is given up if nothing of it comes for too long.
struct Moving {
    // In a lock, as what carries it must be shareable; only one ever polls it.
    inner: Mutex<(Body, Pin<Box<Sleep>>)>,
    /// Somebody waits for the next piece. How long nobody wanted one is not held against who sends.
    is_awaited: bool,
    idle: Duration,
    moved: Moved,
}

impl Moving {
    fn new(body: Body, idle: Duration, moved: Moved) -> Self {
        moved.note();
        let inner = Mutex::new((body, Box::pin(tokio::time::sleep(idle))));
        Self { inner, is_awaited: false, idle, moved }
    }
}

impl HttpBody for Moving {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let (body, sleep) = this.inner.get_mut().expect("nobody panics while holding it");
        if !std::mem::replace(&mut this.is_awaited, true) {
            sleep.as_mut().reset(Instant::now() + this.idle);
        }
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                this.moved.note();
                this.is_awaited = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => match sleep.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err("nothing came for too long".into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.lock().expect("nobody panics while holding it").0.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.inner.lock().expect("nobody panics while holding it").0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(base: &str) -> Upstream {
        let second = Duration::from_secs(1);
        Upstream::new(base.parse().expect("an address"), true, second, second).expect("a client")
    }

    #[test]
    fn a_location_in_the_registry_becomes_one_of_the_gateway_and_keeps_its_query() {
        let upload = "/v2/app/blobs/uploads/1?_state=a%2Bb%3D";
        for (base, location, local) in [
            ("http://r.example:5000", format!("http://r.example:5000{upload}"), Some(upload)),
            ("http://r.example:5000", format!("http://R.example:5000{upload}"), Some(upload)),
            ("http://r.example:5000", format!("https://gateway.example{upload}"), Some(upload)),
            ("http://r.example:5000", upload.to_owned(), Some(upload)),
            ("http://r.example/base", format!("http://r.example/base{upload}"), Some(upload)),
            ("http://r.example:5000", format!("https://blobs.example{upload}"), None),
            ("http://r.example:5000", "//r.example:5000/v2/".to_owned(), None),
            ("http://r.example:5000", "http://r.example:5000/artifacts/1".to_owned(), None),
            ("http://r.example:5000", "http://r.example:50001/v2/".to_owned(), None),
        ] {
            let found = upstream(base).local(&location, Some("gateway.example"));
            assert_eq!(found.as_deref(), local, "{location} in {base}");
        }
    }

    #[tokio::test]
    async fn how_long_nobody_wanted_a_piece_is_not_held_against_who_sends() {
        use http_body_util::BodyExt as _;
        let idle = Duration::from_millis(200);
        let (send, receive) = tokio::sync::mpsc::channel::<Result<_, std::convert::Infallible>>(1);
        let piece = || Ok(hyper::body::Frame::data(Bytes::from_static(b"piece")));
        let pieces = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receive));
        let mut body = Moving::new(Body::new(pieces), idle, Moved::default());
        send.send(piece()).await.expect("taken");
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        // A client that rests; then the next piece is wanted, and is not there yet.
        tokio::time::sleep(2 * idle).await;
        let coming = async {
            tokio::time::sleep(idle / 4).await;
            send.send(piece()).await.expect("taken");
        };
        let (frame, ()) = tokio::join!(body.frame(), coming);
        assert!(frame.is_some_and(|frame| frame.is_ok()));
        let begun = Instant::now();
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()), "nothing came for too long");
        assert!(begun.elapsed() >= idle);
    }

    #[test]
    fn headers_of_one_hop_and_disguises_stay_here_and_the_rest_passes() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("x-http-method-override", "PUT"),
            ("x-original-url", "/v2/app/manifests/v1"),
            ("authorization", "Bearer t"),
            ("host", "gateway.example"),
            ("range", "bytes=1-2"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "front.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "444"),
            ("forwarded", "host=elsewhere.example;proto=https"),
            ("x-real-ip", "192.0.2.3"),
        ] {
            from.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let peer = "192.0.2.2".parse().expect("an address");
        let passed = |proxies: &[IpAddr], has_tls| {
            let caller = Caller::new(Some(peer), &from, proxies, has_tls);
            let passed = upstream("http://r.example").headers(&from, &caller);
            let mut found: Vec<String> =
                passed.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
            found.sort();
            (found, caller.client.expect("known").to_string())
        };
        let own = ["authorization: Bearer t", "host: gateway.example", "range: bytes=1-2"];
        let (found, client) = passed(&[], false);
        assert_eq!(found[..3], own);
        let said = ["x-forwarded-for: 192.0.2.2", "x-forwarded-host: gateway.example", "x-forwarded-proto: http"];
        assert_eq!((&found[3..], client.as_str()), (&said.map(str::to_owned)[..], "192.0.2.2"), "its own word alone");
        assert_eq!(passed(&[], true).0[5], "x-forwarded-proto: https");
        let (found, client) = passed(&[peer], false);
        assert_eq!(found[..3], own);
        let said = [
            "x-forwarded-for: 192.0.2.1, 192.0.2.2",
            "x-forwarded-host: front.example",
            "x-forwarded-port: 444",
            "x-forwarded-proto: https",
        ];
        assert_eq!((&found[3..], client.as_str()), (&said.map(str::to_owned)[..], "192.0.2.1"), "a proxy is believed");
    }
}
