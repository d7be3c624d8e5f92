//! Asks the registry whether a claim about a tag is true, and records what it says.
//!
//! A webhook announces; it does not prove. Distribution announces a push before the tag is written, announces concurrent
//! pushes out of order, and loses what waits when it stops. So where a source's registry can be asked, every claim about a
//! tag is followed by a look: HEAD the manifest, and record a `TagObserved` with assurance CONFIRMED. If the registry agrees
//! with the ledger that entry is UNCHANGED; if not it is a DRIFT, which sets the binding to what is really there.
//!
//! What is believed: a digest that agrees with the ledger, at once. Anything else (another digest, or nothing) only when two
//! looks in a row, with a pause between them, say the same: the announcement may be ahead of the tag. That a tag is absent is
//! moreover believed only from a registry's own error message: a 404 may come from anything that answers HTTP.
//!
//! All of it runs beside the webhook and never holds it up: a bounded queue, one look per tag at a time, a newer claim in
//! place of one that waits. What waits is lost when the service stops; those claims stay CLAIMED until the next about the
//! same tag.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, redirect};
use sha2::{Digest as _, Sha256, Sha512};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::metrics::Metrics;
use super::port::{Claim, LedgerPort, PortError};
use super::source::{RegistryAccess, SourceConfig, SourceName};
use crate::ledger::names::{Digest, TagRef};
use crate::proto;

/// Everything a tag may be: with one missing, a registry answers 404 for a tag that exists.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const DIGEST_HEADER: &str = "docker-content-digest";
/// Largest manifest that is read to be hashed; registries accept no larger ones (distribution-spec, "Pushing Manifests").
const MAX_MANIFEST_LENGTH: usize = 4 << 20;
/// Redirects followed, all within the same origin: credentials go nowhere else.
const MAX_REDIRECTS: usize = 3;
/// Looks made anew because the tag got new entries while the registry was asked.
const MAX_CHANGES: usize = 8;

/// How fast, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Longest wait for one answer of a registry.
    pub timeout: Duration,
    /// Between two looks that must agree.
    pub pause: Duration,
    /// After a first failure; doubles with each, up to [`Pace::longest_backoff`].
    pub backoff: Duration,
    /// Longest wait after a failure.
    pub longest_backoff: Duration,
    /// Requests for one claim, failed or not, until it is given up.
    pub attempts: usize,
    /// Tags looked at side by side.
    pub parallel: usize,
    /// Claims that may wait; what comes on top is counted and logged, not checked.
    pub waiting: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            pause: Duration::from_secs(2),
            backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(30),
            attempts: 8,
            parallel: 8,
            waiting: 10_000,
        }
    }
}

/// A claim to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) source: SourceName,
    pub(super) tag: TagRef,
    /// Index of the entry that recorded the claim.
    pub(super) index: u64,
    /// The claim's event id.
    pub(super) event_id: String,
}

/// Claims that wait to be checked. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    limit: usize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<TagRef, Look>,
    /// The tags of `waiting`, in order of arrival.
    order: VecDeque<TagRef>,
    /// Tags that are being looked at.
    busy: HashSet<TagRef>,
}

impl Queue {
    fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), limit, changed: Notify::new() }))
    }

    /// Adds a claim, in place of an older one about the same tag; `false`: too many wait already.
    pub(super) fn offer(&self, look: Look) -> bool {
        let mut state = self.state();
        if let Some(waiting) = state.waiting.get_mut(&look.tag) {
            // A retry of an older claim must not displace a newer one.
            if waiting.index <= look.index {
                *waiting = look;
            }
            return true;
        }
        if state.waiting.len() >= self.0.limit {
            return false;
        }
        state.order.push_back(look.tag.clone());
        state.waiting.insert(look.tag.clone(), look);
        drop(state);
        self.0.changed.notify_one();
        true
    }

    /// The claim that has waited longest, of those whose tag nobody is looking at.
    fn take(&self) -> Option<(Look, Busy)> {
        let mut state = self.state();
        let position = state.order.iter().position(|tag| !state.busy.contains(tag))?;
        let tag = state.order.remove(position)?;
        let look = state.waiting.remove(&tag).expect("every tag in order waits");
        state.busy.insert(tag.clone());
        Some((look, Busy { queue: self.clone(), tag }))
    }

    fn is_waiting(&self, tag: &TagRef) -> bool {
        self.state().waiting.contains_key(tag)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two writes under the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, nobody else looks at the tag.
#[derive(Debug)]
struct Busy {
    queue: Queue,
    tag: TagRef,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.queue.state().busy.remove(&self.tag);
        self.queue.0.changed.notify_one();
    }
}

/// Why no registry can be asked at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare to ask the registry of source {source_name:?}: {reason}")]
pub struct ConfirmerError {
    source_name: String,
    reason: String,
}

/// Checks claims with registries.
pub struct Confirmer<P> {
    port: Arc<P>,
    registries: HashMap<SourceName, Registry>,
    queue: Queue,
    pace: Pace,
    metrics: Metrics,
}

/// How a look ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    /// The registry says what the ledger says.
    Agreed,
    /// It says something else, and the ledger now does too.
    Drifted,
    /// The claim had been checked before: it was sent twice.
    Before,
    /// A newer claim waits; it will be looked at instead.
    Superseded,
}

/// How a look failed; the word is the label of the counter.
#[derive(Debug)]
struct Failure {
    word: &'static str,
    reason: String,
}

impl<P: LedgerPort> Confirmer<P> {
    /// Prepares to ask the registries of those sources that have one.
    pub(super) fn new(
        port: Arc<P>,
        sources: &[SourceConfig],
        pace: Pace,
        metrics: Metrics,
    ) -> Result<Self, ConfirmerError> {
        let mut registries = HashMap::new();
        for source in sources {
            if let Some(access) = &source.confirm {
                let registry = Registry::new(access.clone(), &pace)
                    .map_err(|reason| ConfirmerError { source_name: source.name.to_string(), reason })?;
                registries.insert(source.name.clone(), registry);
            }
        }
        Ok(Self { port, registries, queue: Queue::new(pace.waiting), pace, metrics })
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Whether the claims of a source can be checked.
    pub(super) fn checks(&self, source: &SourceName) -> bool {
        self.registries.contains_key(source)
    }

    /// Looks, until `shutdown` completes; looks under way are then given up.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let confirmer = Arc::new(self);
        let mut looks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            while looks.len() < confirmer.pace.parallel {
                let Some((look, busy)) = confirmer.queue.take() else { break };
                let confirmer = Arc::clone(&confirmer);
                looks.spawn(async move {
                    confirmer.settle(&look).await;
                    drop(busy);
                });
            }
            tokio::select! {
                () = &mut shutdown => break,
                () = confirmer.queue.0.changed.notified() => {}
                Some(ended) = looks.join_next(), if !looks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a look at a registry ended in a panic; this is a bug");
                    }
                }
            }
        }
        looks.shutdown().await;
    }

    async fn settle(&self, look: &Look) {
        let (source, tag) = (look.source.as_str(), &look.tag);
        match self.check(look).await {
            Ok(Checked::Agreed) => self.metrics.confirmed(source),
            Ok(Checked::Drifted) => {
                tracing::warn!(source, %tag, claim = look.index, "the registry disagrees with the claim; recorded what it says");
                self.metrics.drifted(source);
            }
            Ok(Checked::Before | Checked::Superseded) => {}
            Err(Failure { word, reason }) => {
                tracing::warn!(source, %tag, claim = look.index, reason, "could not check a claim with the registry");
                self.metrics.confirm_failed(source, word);
            }
        }
    }

    /// Reads the ledger, asks the registry, and records the answer if the ledger still is as it was read.
    async fn check(&self, look: &Look) -> Result<Checked, Failure> {
        let registry = self.registries.get(&look.source).ok_or_else(|| Failure {
            word: "registry",
            reason: "no registry is configured for the source".to_owned(),
        })?;
        let mut tries = Tries::new(&self.pace);
        let mut changes = 0;
        loop {
            let tagged = match self.port.tag(&look.tag).await {
                Ok(tagged) => tagged,
                Err(error) => {
                    tries.failed("ledger", error.to_string()).await?;
                    continue;
                }
            };
            let seen = self.believable(registry, &look.tag, tagged.digest.as_ref(), &mut tries).await?;
            match self.port.record(vec![observation(look, registry, seen, tagged.version)]).await {
                Ok(receipts) => return Ok(judge(&receipts)),
                // The id is taken by an earlier look at the same claim, which saw something else.
                Err(PortError::Conflict { .. }) => return Ok(Checked::Before),
                Err(PortError::Changed) if self.queue.is_waiting(&look.tag) => return Ok(Checked::Superseded),
                Err(PortError::Changed) if changes < MAX_CHANGES => changes += 1,
                Err(error @ PortError::Unavailable(_)) => tries.failed("ledger", error.to_string()).await?,
                Err(error @ (PortError::Changed | PortError::Invalid(_))) => {
                    return Err(Failure { word: "ledger", reason: error.to_string() });
                }
            }
        }
    }

    /// What the tag points to: what the ledger has, seen once, or anything else, seen twice in a row.
    async fn believable(
        &self,
        registry: &Registry,
        tag: &TagRef,
        recorded: Option<&Digest>,
        tries: &mut Tries<'_>,
    ) -> Result<Option<Digest>, Failure> {
        let mut last: Option<Option<Digest>> = None;
        loop {
            match registry.ask(tag, recorded).await {
                Ok(seen) if seen.is_some() && seen.as_ref() == recorded => return Ok(seen),
                Ok(seen) if last.as_ref() == Some(&seen) => return Ok(seen),
                Ok(seen) => {
                    last = Some(seen);
                    tries.again("unsettled").await?;
                }
                Err(AskError::Refused(reason)) => return Err(Failure { word: "refused", reason }),
                Err(AskError::Unreachable(reason)) => tries.failed("unreachable", reason).await?,
            }
        }
    }
}

fn observation(look: &Look, registry: &Registry, seen: Option<Digest>, version: u64) -> Claim {
    let tag = &look.tag;
    let kind = proto::statement::Kind::TagObserved(proto::TagObserved {
        registry: tag.registry.to_string(),
        repository: tag.repository.to_string(),
        tag: tag.tag.to_string(),
        digest: seen.map(|digest| digest.to_string()).unwrap_or_default(),
        checks_entry: look.index + 1,
    });
    // Without the time of the look: a second look at the same claim that sees the same gives the same bytes, and is
    // answered with the first entry.
    let statement = proto::Statement {
        kind: Some(kind),
        event_id: derived_id(&look.event_id),
        source: registry.named(),
        ..proto::Statement::default()
    };
    Claim {
        principal: look.source.principal(),
        assurance: proto::Assurance::Confirmed,
        statement,
        only_at_version: Some(version),
    }
}

/// The event id of the look at a claim; hashed where it would become too long for the ledger.
fn derived_id(claim: &str) -> String {
    let id = format!("confirm:{claim}");
    if id.len() <= 128 { id } else { format!("confirm:sha256:{}", hex::encode(Sha256::digest(claim))) }
}

fn judge(receipts: &[proto::Receipt]) -> Checked {
    match receipts.first() {
        Some(receipt) if receipt.duplicate => Checked::Before,
        Some(receipt) if receipt.outcome() == proto::Outcome::Unchanged => Checked::Agreed,
        _ => Checked::Drifted,
    }
}

/// The patience left for one claim.
struct Tries<'a> {
    pace: &'a Pace,
    made: usize,
    backoff: Duration,
}

impl<'a> Tries<'a> {
    fn new(pace: &'a Pace) -> Self {
        Self { pace, made: 0, backoff: pace.backoff }
    }

    /// After a failure: waits, longer each time, or gives up.
    async fn failed(&mut self, word: &'static str, reason: String) -> Result<(), Failure> {
        self.count(word, reason)?;
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(self.pace.longest_backoff);
        Ok(())
    }

    /// Before a second look: pauses, or gives up.
    async fn again(&mut self, word: &'static str) -> Result<(), Failure> {
        self.count(word, "the registry says something else each time".to_owned())?;
        tokio::time::sleep(self.pace.pause).await;
        Ok(())
    }

    fn count(&mut self, word: &'static str, reason: String) -> Result<(), Failure> {
        self.made += 1;
        if self.made < self.pace.attempts { Ok(()) } else { Err(Failure { word, reason }) }
    }
}

/// Why a registry gave no answer.
#[derive(Debug)]
enum AskError {
    /// It may do later.
    Unreachable(String),
    /// It will say the same again.
    Refused(String),
}

/// A registry that can be asked.
struct Registry {
    access: RegistryAccess,
    client: reqwest::Client,
}

impl Registry {
    fn new(access: RegistryAccess, pace: &Pace) -> Result<Self, String> {
        // reqwest is built without a crypto provider of its own. An error means that one was installed before: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("tagledger/", env!("CARGO_PKG_VERSION")))
            .timeout(pace.timeout)
            .connect_timeout(pace.timeout)
            .redirect(redirect::Policy::custom(within_origin));
        if !access.base.is_https() {
            // Without TLS no root certificates are needed, and a machine without any must not fail over that.
            client = client.tls_certs_only([]);
        }
        if access.base.is_loopback() {
            client = client.no_proxy();
        }
        Ok(Self { access, client: client.build().map_err(|error| in_full(&error))? })
    }

    /// Who was asked, within the limit of a statement's `source`.
    fn named(&self) -> String {
        let mut name = self.access.base.to_string();
        // A parsed URL is ASCII.
        name.truncate(256);
        name
    }

    /// What a tag points to; `None`: the registry says that it has no such tag.
    ///
    /// `recorded` only tells which algorithm to hash with where the registry names no digest.
    async fn ask(&self, tag: &TagRef, recorded: Option<&Digest>) -> Result<Option<Digest>, AskError> {
        let head = self.request(Method::HEAD, tag).await?;
        match (head.status(), named_digest(head.headers())) {
            (StatusCode::OK, Some(digest)) => return Ok(Some(digest)),
            // No digest, no HEAD, or no tag: the body has to tell.
            (StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => {}
            (status, _) => return Err(unusable(status)),
        }
        let response = self.request(Method::GET, tag).await?;
        match (response.status(), named_digest(response.headers())) {
            (StatusCode::OK, Some(digest)) => Ok(Some(digest)),
            (StatusCode::OK, None) => Ok(Some(hashed(&read(response).await?, recorded))),
            (StatusCode::NOT_FOUND, _) if is_registry_error(&read(response).await?) => Ok(None),
            (StatusCode::NOT_FOUND, _) => Err(AskError::Refused(
                "it answers 404 without a registry's error message; is the address the registry's?".to_owned(),
            )),
            (status, _) => Err(unusable(status)),
        }
    }

    async fn request(&self, method: Method, tag: &TagRef) -> Result<Response, AskError> {
        let url = self.access.base.manifest(tag.repository.as_str(), tag.tag.as_str());
        let mut accept = HeaderMap::new();
        for media_type in MANIFEST_TYPES {
            accept.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let mut request = self.client.request(method, url).headers(accept);
        if let Some(credentials) = &self.access.credentials {
            request = request.basic_auth(&credentials.user, Some(credentials.password.as_str()));
        }
        request.send().await.map_err(unreachable)
    }
}

/// Follows redirects inside the origin that was asked; any other is left as the answer.
fn within_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let asked = attempt.previous().first().map(reqwest::Url::origin);
    let stays = asked == Some(attempt.url().origin());
    if stays && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// The digest that a response names, if it is one.
fn named_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DIGEST_HEADER)?.to_str().ok()?.parse().ok()
}

/// The digest of a manifest, by the algorithm of the recorded one, or SHA-256.
fn hashed(manifest: &[u8], recorded: Option<&Digest>) -> Digest {
    let text = match recorded {
        Some(digest) if digest.as_str().starts_with("sha512:") => {
            format!("sha512:{}", hex::encode(Sha512::digest(manifest)))
        }
        _ => format!("sha256:{}", hex::encode(Sha256::digest(manifest))),
    };
    text.parse().expect("a hash in hexadecimal is a digest")
}

/// Whether a body is a registry's error message (distribution-spec, "Error Codes").
fn is_registry_error(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|json| json["errors"][0]["code"].is_string())
}

async fn read(mut response: Response) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_MANIFEST_LENGTH {
            return Err(AskError::Refused(format!("its answer is longer than {MAX_MANIFEST_LENGTH} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unusable(status: StatusCode) -> AskError {
    let later =
        status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if later {
        return AskError::Unreachable(format!("it answers {status}"));
    }
    AskError::Refused(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("it answers {status}; configure a user that may pull, by HTTP basic authentication")
        }
        status if status.is_redirection() => {
            format!("it answers {status} and points elsewhere; configure the address it points to")
        }
        status => format!("it answers {status}"),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "reads as map_err(unreachable)")]
fn unreachable(error: reqwest::Error) -> AskError {
    AskError::Unreachable(in_full(&error))
}

/// An error with its causes: reqwest's own words leave out why.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(tag: &str, index: u64) -> Look {
        Look {
            source: "lab".parse().expect("valid"),
            tag: format!("r.example/team/app:{tag}").parse().expect("canonical"),
            index,
            event_id: format!("event-{index}"),
        }
    }

    #[test]
    fn a_newer_claim_takes_the_place_of_one_that_waits() {
        let queue = Queue::new(10);
        for claim in [look("a", 1), look("b", 2), look("a", 3), look("b", 1)] {
            assert!(queue.offer(claim));
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        let indexes: Vec<_> = taken.iter().map(|(look, _)| look.index).collect();
        assert_eq!(indexes, [3, 2], "in the order in which the tags came, and no retry displaces a newer claim");
    }

    #[test]
    fn nobody_looks_at_a_tag_twice_at_a_time() {
        let queue = Queue::new(10);
        assert!(queue.offer(look("a", 1)));
        let (_, busy) = queue.take().expect("one waits");
        assert!(queue.offer(look("a", 2)) && queue.offer(look("b", 3)));
        let (other, _busy_b) = queue.take().expect("another tag");
        assert_eq!(other.index, 3);
        assert!(queue.take().is_none());
        drop(busy);
        assert_eq!(queue.take().map(|(look, _)| look.index), Some(2));
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = Queue::new(1);
        assert!(queue.offer(look("a", 1)));
        assert!(!queue.offer(look("b", 2)));
        assert!(queue.offer(look("a", 3)), "this one only takes a place that is taken");
    }

    #[test]
    fn ids_of_looks_fit_into_the_ledger_and_differ() {
        assert_eq!(derived_id("891c57ce"), "confirm:891c57ce");
        let (a, b) = (derived_id(&"a".repeat(128)), derived_id(&"b".repeat(128)));
        assert!(a != b && a.len() <= 128);
    }

    #[test]
    fn only_a_registrys_own_words_say_that_a_tag_is_absent() {
        assert!(is_registry_error(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#));
        for body in ["", "404 page not found", "{}", r#"{"errors":[]}"#, r#"{"errors":[{"code":5}]}"#] {
            assert!(!is_registry_error(body.as_bytes()), "{body}");
        }
    }
}
