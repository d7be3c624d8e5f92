//! The gateway: a reverse proxy before a registry that lets no tag change without the ledger's word.
//!
//! Everything but the writing and deleting of manifests is forwarded as it is (`upstream`). Those are carried out for whom the
//! registry lets (`judge`), as `change` says: the intent before, the outcome after. What a request is about, `target` decides, strictly; while the
//! ledger can't be reached, [`protection`] does. [`journal`] and `settle` see to it that what was begun is settled.
//!
//! Listening is left to the server.

mod appends;
mod change;
mod errors;
pub mod figures;
pub mod journal;
mod judge;
mod locks;
mod memory;
pub mod protection;
mod rivals;
mod settle;
mod target;
mod unknown;
mod upstream;
mod waiting;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap};
use axum::http::{Method, Response, StatusCode, Version};
use axum::response::IntoResponse as _;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256, Sha512};
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio::time::{Instant, timeout_at};

use self::change::{Aim, Change, Client};
use self::errors::{Code, Refusal};
use self::figures::Figures;
use self::journal::{Journal, JournalError};
use self::judge::Judged;
use self::locks::Locks;
pub use self::memory::PART as MEMORY_PART;
use self::memory::{Held, Memory};
use self::protection::{Protection, Unreachable};
use self::target::{Reference, Target, tags_of};
use self::upstream::{Caller, Outgoing, Upstream};
use super::port::{GatewayPort, PortError};
use super::source::{BaseUrl, Credentials, RegistryAccess};
use crate::ledger::names::{Digest, Registry, Repository, TagRef};

/// Intents settled side by side.
const SETTLING: usize = 8;
/// Questions at a time for what was recorded of a manifest: of one that much is said about, the answer takes megabytes.
const HISTORIES: usize = 4;
/// Longest media type that is recorded (SPEC section 4).
const MAX_MEDIA_TYPE: usize = 256;
/// Most of a body that is read and forgotten once it is too long, in bytes, and for how long.
const FORGOTTEN: usize = 16 << 20;
const FORGETTING: Duration = Duration::from_secs(5);

/// What a gateway does.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// What it calls itself in entries.
    pub name: String,
    /// What the registry is called in entries.
    pub registry: Registry,
    /// Where the registry is.
    pub upstream: BaseUrl,
    /// For looks; what clients ask for goes with their own.
    pub credentials: Option<Credentials>,
    /// Where they may go for a token, also by plain http and to another port.
    pub token_realm: Option<String>,
    /// The registry gets the `Host` that clients sent.
    pub keeps_host: bool,
    /// Paths outside the API that are forwarded, as where tokens are had.
    pub passed: Vec<String>,
    /// Longest manifest, in bytes.
    pub manifest_limit: usize,
    /// Most bytes of manifests that are held at once, of all changes under way; of one client address a quarter.
    pub manifest_memory: usize,
    /// What passes while the ledger can't be reached.
    pub when_unreachable: Unreachable,
    /// How long a client waits for a tag that somebody else changes or holds.
    pub hold_wait: Duration,
    /// How old an intent has to be for its gateway to be gone.
    pub hold_bound: Duration,
    /// How long after nobody waits for it any more the registry may still carry out a request that it has.
    pub late_bound: Duration,
    /// How long the whole of a manifest may take to come.
    pub manifest_timeout: Duration,
    /// Whose `X-Forwarded-` headers are believed, and passed on: what stands between clients and the gateway.
    pub proxies: Vec<IpAddr>,
    /// Clients speak TLS to the gateway.
    pub has_tls: bool,
    /// Between two looks that have to agree.
    pub look_pause: Duration,
    /// How long a call to the ledger may take.
    pub ledger_timeout: Duration,
    /// Until the registry takes a connection.
    pub connect_timeout: Duration,
    /// Until the registry's answer begins, and between two pieces of a body.
    pub idle_timeout: Duration,
    /// How often the policy is fetched.
    pub policy_every: Duration,
    /// Where what is under way is kept over a crash; none: in memory only.
    pub journal: Option<PathBuf>,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The client for the registry.
    #[error("cannot prepare to reach the registry: {0}")]
    Upstream(String),
}

/// Whether somebody at an address, where it is known, may attempt a change now; if not, after how long.
///
/// Every attempt is an entry of the ledger for ever, denied ones too, and who may not write to the registry can still attempt.
pub type Attempts = Box<dyn Fn(Option<IpAddr>) -> Result<(), Duration> + Send + Sync>;

/// What a request is read as: path and parameters as they would be forwarded; `None` if it is refused.
pub fn understood(method: &Method, path: &str, query: Option<&str>, registry: &Registry) -> Option<String> {
    let target = Target::parse(path, registry, &[]).ok()?;
    target.check(method).ok()?;
    let tags = if *method == Method::PUT && matches!(target, Target::Manifest(..)) {
        tags_of(query).ok()?
    } else {
        Vec::new()
    };
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    Some(if query.is_empty() { target.path() } else { format!("{}?{}", target.path(), query.join("&")) })
}

/// A gateway.
pub struct Gateway<P> {
    config: GatewayConfig,
    port: P,
    upstream: Upstream,
    looks: super::registry::Registry,
    locks: Locks,
    journal: Journal,
    protection: Protection,
    policy_may_be_new: Notify,
    settling: Arc<Semaphore>,
    /// Asked for what else is recorded of a manifest.
    histories: Semaphore,
    attempts: Attempts,
    memory: Arc<Memory>,
    /// Read by every change under way.
    changing: Arc<RwLock<()>>,
    /// Why the ledger could not be reached the last time.
    ledger_trouble: std::sync::Mutex<Option<String>>,
    /// Why it did not take what was to be recorded the last time.
    untaken: std::sync::Mutex<Option<PortError>>,
    figures: Figures,
}

impl<P: GatewayPort> Gateway<P> {
    /// A gateway to the ledger behind `port`. What one before left open is settled from now on.
    pub fn new(
        config: GatewayConfig,
        port: P,
        attempts: Attempts,
        figures: Figures,
    ) -> Result<Arc<Self>, GatewayError> {
        let upstream =
            Upstream::new(config.upstream.clone(), config.keeps_host, config.connect_timeout, config.idle_timeout)
                .map_err(GatewayError::Upstream)?;
        let (base, credentials) = (config.upstream.clone(), config.credentials.clone());
        let access = RegistryAccess { base, credentials, token_realm: config.token_realm.clone() };
        let patience = super::registry::Settings::once(config.idle_timeout);
        let patience = super::registry::Settings { manifest_limit: config.manifest_limit, ..patience };
        let looks = super::registry::Registry::new(access, patience).map_err(GatewayError::Upstream)?;
        let (journal, left) = Journal::open(config.journal.as_deref())?;
        let gateway = Arc::new(Self {
            port,
            upstream,
            looks,
            locks: Locks::default(),
            journal,
            protection: Protection::default(),
            policy_may_be_new: Notify::new(),
            attempts,
            memory: Memory::new(config.manifest_memory),
            settling: Arc::new(Semaphore::new(SETTLING)),
            histories: Semaphore::new(HISTORIES),
            changing: Arc::default(),
            ledger_trouble: std::sync::Mutex::new(Some("it was not asked yet".to_owned())),
            untaken: std::sync::Mutex::default(),
            figures,
            config,
        });
        gateway.settle_left(left);
        Ok(gateway)
    }

    /// All requests that are not the gateway's own.
    pub fn routes(self: &Arc<Self>) -> Router {
        let gateway = Arc::clone(self);
        Router::new().fallback(move |request: Request| async move { gateway.handle(request).await })
    }

    /// Keeps the policy up to date, for as long as it is polled.
    pub async fn follow_policy(&self) {
        loop {
            let trouble = match self.port.policy().await {
                Ok(policy) => {
                    self.protection.saw(policy);
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "can't fetch the policy");
                    Some(error.to_string())
                }
            };
            let pause = if trouble.is_some() { Duration::from_secs(2) } else { self.config.policy_every };
            *self.ledger_trouble.lock().expect("nobody panics while holding it") = trouble;
            tokio::select! {
                () = tokio::time::sleep(pause.min(self.config.policy_every)) => {}
                () = self.policy_may_be_new.notified() => {}
            }
        }
    }

    /// Whether changes are taken; if not, why.
    pub fn readiness(&self) -> Result<(), String> {
        let trouble = self.ledger_trouble.lock().expect("nobody panics while holding it").clone();
        match trouble {
            Some(reason) if !self.protection.is_known() => Err(format!("no policy was seen yet: {reason}")),
            Some(reason) => Err(format!("the ledger can't be asked: {reason}")),
            None => Ok(()),
        }
    }

    /// Brings the gauge of what is not settled up to date.
    pub fn count_open(&self) {
        self.figures.open.set(i64::try_from(self.journal.count()).unwrap_or(i64::MAX));
    }

    /// How many intents are not settled.
    pub fn open_intents(&self) -> usize {
        self.journal.count()
    }

    /// Waits until no change is under way. What is still to be settled stays in the journal.
    pub async fn finished(&self) {
        drop(self.changing.write().await);
    }

    async fn handle(self: Arc<Self>, request: Request) -> Response<Body> {
        match Arc::clone(&self).answer(request).await {
            Ok(response) => response,
            Err(refusal) => {
                self.figures.request("refused");
                refusal.into_response()
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request) -> Result<Response<Body>, Refusal> {
        check_form(&request)?;
        let target = Target::parse(request.uri().path(), &self.config.registry, &self.config.passed)?;
        target.check(request.method())?;
        let asked_host = request.headers().get(HOST).cloned();
        let is_write = matches!(*request.method(), Method::PUT | Method::DELETE);
        let mut response = match target {
            Target::Manifest(repository, reference) if is_write => {
                self.figures.request("change");
                Arc::clone(&self).write(request, repository, reference).await?
            }
            target => {
                self.figures.request("forwarded");
                let caller = self.caller(&request);
                let (parts, body) = request.into_parts();
                let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                let outgoing = Outgoing {
                    method: parts.method,
                    path_and_query: target.path() + &query,
                    headers: self.upstream.headers(&parts.headers, &caller),
                };
                self.upstream.stream(outgoing, body).await?
            }
        };
        self.upstream.relocate(response.headers_mut(), asked_host.as_ref());
        Ok(response)
    }

    fn caller(&self, request: &Request) -> Caller {
        let peer = request.extensions().get::<ConnectInfo<IpAddr>>().map(|ConnectInfo(address)| *address);
        Caller::new(peer, request.headers(), &self.config.proxies, self.config.has_tls)
    }

    /// The writing or deleting of a manifest.
    async fn write(
        self: Arc<Self>,
        request: Request,
        repository: Repository,
        reference: Reference,
    ) -> Result<Response<Body>, Refusal> {
        let caller = self.caller(&request);
        (self.attempts)(caller.client).map_err(Refusal::too_many)?;
        let (parts, body) = request.into_parts();
        let mut client = Client::of(&parts.headers, caller.client, &self.config.name);
        let name = |tag| TagRef { registry: self.config.registry.clone(), repository: repository.clone(), tag };
        let named = match &reference {
            Reference::Tag(tag) => Some(name(tag.clone())),
            Reference::Digest(_) => None,
        };
        let tags = tags_of(parts.uri.query())?;
        if parts.method == Method::DELETE && !tags.is_empty() {
            let message = "a deletion names its tag in the path";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, Code::Unsupported, message));
        }
        let headers = self.upstream.headers(&parts.headers, &caller);
        // Before the manifest is read: who may not push holds no memory.
        match self.judge(&parts.method, &repository, &headers).await {
            Ok(Judged::Accepted) => {}
            Ok(Judged::Refused(answer)) => {
                self.figures.change("unauthorized");
                forget_the_rest(body).await;
                return Ok(answer);
            }
            Err(refusal) => {
                forget_the_rest(body).await;
                return Err(refusal);
            }
        }
        if client.names_somebody() && !self.demands_credentials(&parts.method, &repository, &headers).await {
            client.is_nobody();
        }
        let mut path_and_query = Target::Manifest(repository.clone(), reference.clone()).path();
        let mut body_bytes = Bytes::new();
        let mut memory = None;
        let mut aims: Vec<Aim> = Vec::new();
        if parts.method == Method::PUT {
            let held;
            (body_bytes, held) = self.manifest(&parts.headers, body, caller.client).await?;
            memory = Some(held);
            let digest = digest_of(&reference, &body_bytes)?;
            let media_type = media_type(&parts.headers);
            let separators = std::iter::once('?').chain(std::iter::repeat('&'));
            path_and_query.extend(separators.zip(&tags).map(|(separator, tag)| format!("{separator}tag={tag}")));
            let mut all: Vec<TagRef> = tags.into_iter().map(name).chain(named.clone()).collect();
            all.sort_by(|one, other| one.tag.cmp(&other.tag));
            all.dedup();
            let aim = |tag| Aim::Push { tag, digest: digest.clone(), media_type: media_type.clone() };
            aims.extend(all.into_iter().map(aim));
        } else {
            aims.push(match reference {
                Reference::Tag(tag) => Aim::Delete { tag: name(tag) },
                Reference::Digest(digest) => Aim::DeleteManifest {
                    registry: self.config.registry.clone(),
                    repository: repository.clone(),
                    digest,
                },
            });
        }
        let outgoing = Outgoing { method: parts.method, path_and_query, headers };
        let change = Change { repository, aims, named, outgoing, body: body_bytes, client };
        // Whoever hangs up while they wait for their turn leave nothing behind.
        let deadline = Instant::now() + self.config.hold_wait;
        let guard = timeout_at(deadline, self.alone(&change)).await.map_err(|_| {
            self.figures.change("refused");
            Refusal::later("other changes of the same tag are under way for too long; try again later")
        })?;
        let under_way = Arc::clone(&self.changing).read_owned().await;
        // In a task of its own: a client that hangs up must not leave it half done.
        let carried_out = tokio::spawn(async move {
            let response = self.carry_out(change, deadline).await;
            drop((guard, under_way, memory));
            response
        });
        carried_out.await.map_err(|error| {
            tracing::error!(%error, "a change ended in a panic; this is a bug");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unavailable, "the gateway failed")
        })
    }

    /// The whole body of a push, and the leave to hold it.
    async fn manifest(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        from: Option<IpAddr>,
    ) -> Result<(Bytes, Held), Refusal> {
        let limit = self.config.manifest_limit;
        let too_large = || {
            let message = format!("a manifest may have at most {limit} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limit) {
            forget_the_rest(body).await;
            return Err(too_large());
        }
        // Not as much as is promised: who promises and does not send must take no memory.
        let mut bytes = Vec::with_capacity(length.unwrap_or(4096).min(4096));
        let mut held = self.memory.begin(from);
        let broken = |status, message: &str| Refusal::new(status, Code::ManifestInvalid, message);
        let deadline = Instant::now() + self.config.manifest_timeout;
        loop {
            let until = deadline.min(Instant::now() + self.config.idle_timeout);
            let frame = timeout_at(until, body.frame()).await;
            let frame = frame.map_err(|_| broken(StatusCode::REQUEST_TIMEOUT, "the manifest did not come in time"))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| broken(StatusCode::BAD_REQUEST, "the manifest broke off before its end"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                forget_the_rest(body).await;
                return Err(too_large());
            }
            if !held.grow(data.len()) {
                return Err(Refusal::later(
                    "the manifests of other changes take all the memory that there is for them; try again later",
                ));
            }
            bytes.extend_from_slice(&data);
        }
        if bytes.is_empty() {
            return Err(broken(StatusCode::BAD_REQUEST, "the manifest is empty"));
        }
        Ok((bytes.into(), held))
    }
}

/// Reads on for a while, and keeps nothing: many clients look for an answer only when all is sent, and not if they can't send it.
async fn forget_the_rest(mut body: Body) {
    let mut left = FORGOTTEN;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(FORGETTING, reading).await;
}

/// What every request has to be, whatever it is about.
fn check_form(request: &Request) -> Result<(), Refusal> {
    let refuse = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, Code::Unsupported, message);
    if !matches!(request.version(), Version::HTTP_11 | Version::HTTP_10) {
        let message = "speak HTTP/1.1 to the gateway";
        return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, Code::Unsupported, message));
    }
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        return Err(refuse("this is no forward proxy: send the path alone"));
    }
    if request.headers().get_all(HOST).iter().count() > 1 {
        return Err(refuse("there is more than one Host"));
    }
    Ok(())
}

/// The digest of a manifest: that of its path, which has to be right, or SHA-256.
fn digest_of(reference: &Reference, manifest: &[u8]) -> Result<Digest, Refusal> {
    let hashed = match reference {
        Reference::Digest(digest) if digest.as_str().starts_with("sha512:") => {
            format!("sha512:{}", hex::encode(Sha512::digest(manifest)))
        }
        _ => format!("sha256:{}", hex::encode(Sha256::digest(manifest))),
    };
    let digest: Digest = hashed.parse().expect("a hash in hexadecimal is a digest");
    match reference {
        Reference::Digest(named) if *named != digest => {
            let message = format!("the manifest's digest is {digest}, not {named}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, message))
        }
        _ => Ok(digest),
    }
}

/// As it can be recorded; empty if it can't.
fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_fine = text.len() <= MAX_MEDIA_TYPE && !text.contains(char::is_control);
    if is_fine { text.to_owned() } else { String::new() }
}
