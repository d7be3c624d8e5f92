//! The receiver of webhooks: `POST /webhooks/distribution/{source}`.
//!
//! Authenticates the source, has its events read ([`super::distribution`]), records them, and answers. Three promises:
//!
//! - **Success means durable.** A 2xx is sent after the ledger has everything that was understood, and the folder
//!   ([`super::aside`]) what was not. Only where that folder is full or can't be written is something that was not
//!   understood lost: it is counted and logged, for to refuse it would block the registry's queue.
//! - **Bad content is never a failure.** Distribution retries what is refused for ever, and before anything else: one event
//!   that nobody understands would block its queue. So bad content is set aside and answered 202. Only what a retry can
//!   mend is an error: no secret, or a ledger that cannot write (503, with Retry-After), or would have to on a disk that is nearly full.
//! - **A retry is no second event.** Event ids go into the ledger, which answers a known one with its first entry.
//!
//! | answer | when |
//! |---|---|
//! | 200 | everything was recorded, or needed no recording |
//! | 202 | something was set aside; of a body longer than 8 MiB the beginning |
//! | 400, 408, 413 | the body broke off, did not come in time, or is longer than 256 MiB |
//! | 401 | no secret, or a wrong one |
//! | 404 | no such source |
//! | 503 | the ledger cannot write now, or its disk is nearly full and something were to be set aside |

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::BodyExt as _;

use super::aside::{Aside, Kept, Limits, Misfit};
use super::confirm::{Confirmer, ConfirmerError, Pace};
use super::distribution::{self, Reading};
use super::looks::{Look, Queue};
use super::metrics::{Metrics, SetAside};
use super::port::{Claim, LedgerPort, PortError};
use super::source::SourceConfig;
use crate::ledger::names::TagRef;
use crate::ledger::statement::{Kind, Statement};
use crate::proto;

/// Longest body that is understood, in bytes. A manifest has at most 4 MiB, and its references repeat it.
pub const MAX_BODY_LENGTH: usize = 8 << 20;
/// How much of a longer one is set aside, in bytes.
const KEPT_OF_TOO_LONG: usize = 64 << 10;
/// Longest body that is read to its end, in bytes: nobody's envelope, but somebody's mistake.
const MAX_DISCARDED_LENGTH: usize = 256 << 20;
/// Most statements handed to the ledger at once; a longer envelope is recorded in parts.
pub const MAX_CLAIMS: usize = 1_000;
/// Events of one envelope that are set aside one by one; with more, the whole body is, once.
const MAX_MISFITS: usize = 100;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What a sender is told to wait when the ledger cannot write.
const RETRY_AFTER_SECONDS: &str = "5";

/// What the receiver needs to know.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Who may post.
    pub sources: Vec<SourceConfig>,
    /// Folder for what is not understood.
    pub aside: PathBuf,
    /// How much it may hold.
    pub aside_limits: Limits,
    /// How registries are asked.
    pub pace: Pace,
}

/// Why there is no receiver.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Two sources of one name.
    #[error("source {0:?} is configured twice")]
    DuplicateSource(String),
    /// The folder for what is not understood.
    #[error("cannot use {folder} to set aside what is not understood: {error}", folder = .folder.display())]
    Aside {
        /// Which.
        folder: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A registry cannot be asked.
    #[error(transparent)]
    Confirmer(#[from] ConfirmerError),
}

/// Builds the receiver: the routes, and what checks claims with registries beside them. Run the latter as a task.
pub fn webhook<P: LedgerPort>(
    config: WebhookConfig,
    port: Arc<P>,
    metrics: Metrics,
) -> Result<(Router, Confirmer<P>), WebhookError> {
    let confirmer = Confirmer::new(Arc::clone(&port), &config.sources, config.pace, metrics.clone())?;
    let mut sources = HashMap::new();
    for source in config.sources {
        let looks = confirmer.checks(&source.name).then(|| confirmer.queue());
        let name = source.name.to_string();
        if sources.insert(name.clone(), Arc::new(Source { config: source, looks })).is_some() {
            return Err(WebhookError::DuplicateSource(name));
        }
    }
    let aside = Aside::open(&config.aside, config.aside_limits)
        .map_err(|error| WebhookError::Aside { folder: config.aside, error })?;
    let receiver = Receiver { sources, port, aside: Arc::new(aside), metrics };
    let router = Router::new()
        .route("/webhooks/distribution/{source}", post(receive::<P>))
        // The limit is counted here, after the secret was checked.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(receiver));
    Ok((router, confirmer))
}

struct Receiver<P> {
    sources: HashMap<String, Arc<Source>>,
    port: Arc<P>,
    aside: Arc<Aside>,
    metrics: Metrics,
}

struct Source {
    config: SourceConfig,
    /// Where its claims wait to be checked, if its registry can be asked.
    looks: Option<Queue>,
}

impl Source {
    fn name(&self) -> &str {
        self.config.name.as_str()
    }
}

async fn receive<P: LedgerPort>(
    State(receiver): State<Arc<Receiver<P>>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let Some(source) = receiver.sources.get(&name).map(Arc::clone) else {
        return plain(StatusCode::NOT_FOUND, "no such source\n");
    };
    if !bearer(request.headers()).is_some_and(|presented| source.config.secret.matches(presented)) {
        receiver.metrics.unauthorised(source.name());
        // It is logged where all who are not let in are, which bounds how often.
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (challenge, plain(StatusCode::UNAUTHORIZED, "send the secret: Authorization: Bearer <secret>\n"))
            .into_response();
    }
    receiver.metrics.received(source.name());
    let understood = is_known_type(request.headers());
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIMEOUT, read(body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n"),
    };
    // As a task of its own: a sender that gives up waiting must not stop the work half way.
    let work = tokio::spawn(async move {
        let mut tally = Tally::default();
        let done = receiver.take(&source, understood, &body, &mut tally).await;
        // Whatever counts requests counts this one until here.
        drop(head);
        (done, tally)
    });
    match work.await {
        Ok((Ok(()), tally)) => {
            let status = if tally.set_aside == 0 { StatusCode::OK } else { StatusCode::ACCEPTED };
            plain(status, tally.to_string())
        }
        Ok((Err(Unavailable), _)) => {
            let later = [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)];
            (later, plain(StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot write now; send it again\n"))
                .into_response()
        }
        Err(error) => {
            tracing::error!(%error, "receiving a webhook ended in a panic; this is a bug");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
        }
    }
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether a body of this type can be an envelope; a body without a type can.
fn is_known_type(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    distribution::MEDIA_TYPES.iter().chain(&["application/json"]).any(|known| essence.eq_ignore_ascii_case(known))
}

/// A body as far as it is kept.
struct Received {
    bytes: Vec<u8>,
    is_whole: bool,
}

/// Reads a body to its end. Of one that is too long only the beginning is kept: refusing it would make its sender repeat
/// it for ever, and hold back everything behind it.
async fn read(mut body: Body) -> Result<Received, Response> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(plain(StatusCode::BAD_REQUEST, "the body broke off before its announced length\n"));
        };
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        if length > MAX_DISCARDED_LENGTH {
            let message = format!("the body is longer than {MAX_DISCARDED_LENGTH} bytes\n");
            return Err(plain(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        if length <= MAX_BODY_LENGTH {
            bytes.extend_from_slice(data);
        }
    }
    let is_whole = length <= MAX_BODY_LENGTH;
    if !is_whole {
        bytes.truncate(KEPT_OF_TOO_LONG);
    }
    Ok(Received { bytes, is_whole })
}

/// The ledger cannot write now.
#[derive(Debug)]
struct Unavailable;

/// What became of a body.
#[derive(Debug, Default)]
struct Tally {
    recorded: usize,
    duplicates: usize,
    ignored: usize,
    set_aside: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { recorded, duplicates, ignored, set_aside } = self;
        writeln!(f, "recorded {recorded}, known before {duplicates}, ignored {ignored}, set aside {set_aside}")
    }
}

/// An event that goes to the folder.
struct Refused {
    event: String,
    reason: String,
    why: SetAside,
}

impl<P: LedgerPort> Receiver<P> {
    /// Records what a body says, and sets aside what it does not say clearly. Done only when both are durable.
    async fn take(
        &self,
        source: &Source,
        is_known_type: bool,
        received: &Received,
        tally: &mut Tally,
    ) -> Result<(), Unavailable> {
        let body = received.bytes.as_slice();
        if !received.is_whole {
            let reason = format!("it is longer than {MAX_BODY_LENGTH} bytes; only its beginning is kept");
            self.set_aside(source, body.to_vec(), reason, SetAside::Body, tally).await?;
            return Ok(());
        }
        if !is_known_type {
            let reason = "its media type is none of the known ones".to_owned();
            self.set_aside(source, body.to_vec(), reason, SetAside::MediaType, tally).await?;
            return Ok(());
        }
        let readings = match distribution::read_envelope(&source.config.registry, body) {
            Ok(readings) => readings,
            Err(error) => {
                self.set_aside(source, body.to_vec(), error.to_string(), SetAside::Body, tally).await?;
                return Ok(());
            }
        };
        let mut claims = Vec::new();
        let mut refused = Vec::new();
        for reading in readings {
            match reading {
                Reading::Claim { statement, event } => claims.push((*statement, event)),
                Reading::Ignored(why) => {
                    tally.ignored += 1;
                    self.metrics.ignored(source.name(), why.as_str());
                }
                Reading::Refused { event, reason } => refused.push(Refused { event, reason, why: SetAside::Event }),
            }
        }
        for part in claims.chunks(MAX_CLAIMS) {
            self.record(source, part, &mut refused, tally).await?;
        }
        self.set_events_aside(source, body, refused, tally).await
    }

    /// Records statements together; if the ledger refuses one of them, each by itself, so that the others are recorded.
    async fn record(
        &self,
        source: &Source,
        claims: &[(proto::Statement, String)],
        refused: &mut Vec<Refused>,
        tally: &mut Tally,
    ) -> Result<(), Unavailable> {
        let together = claims.iter().map(|(statement, _)| claim(source, statement)).collect();
        let (reason, why) = match self.port.record(together).await {
            Ok(receipts) => {
                for ((statement, _), receipt) in claims.iter().zip(&receipts) {
                    self.note(source, statement, receipt, tally);
                }
                return Ok(());
            }
            Err(error @ PortError::Invalid(_)) => (error.to_string(), SetAside::Invalid),
            Err(error @ PortError::Conflict { .. }) => (error.to_string(), SetAside::Conflict),
            // No condition was set and nothing asked for, so neither `Changed` nor `Held` is the content's fault either.
            Err(
                error @ (PortError::Unavailable(_)
                | PortError::Overloaded(_)
                | PortError::Changed
                | PortError::Held { .. }
                | PortError::Untrusted(_)
                | PortError::Unchecked(_)),
            ) => {
                tracing::error!(source = source.name(), %error, "a webhook could not be recorded; its sender will repeat it");
                self.metrics.unavailable(source.name());
                return Err(Unavailable);
            }
        };
        if let [(_, event)] = claims {
            refused.push(Refused { event: event.clone(), reason, why });
            return Ok(());
        }
        for claim in claims {
            Box::pin(self.record(source, std::slice::from_ref(claim), refused, tally)).await?;
        }
        Ok(())
    }

    /// Counts what was recorded, and has it checked with the registry if it is about a tag.
    ///
    /// What was known before is checked too: the service may have stopped between recording and checking.
    fn note(&self, source: &Source, statement: &proto::Statement, receipt: &proto::Receipt, tally: &mut Tally) {
        if receipt.duplicate {
            tally.duplicates += 1;
            self.metrics.duplicate(source.name());
        } else {
            tally.recorded += 1;
            self.metrics.recorded(source.name());
        }
        let (Some(looks), Some(tag)) = (&source.looks, tag_of(statement)) else { return };
        let look = Look {
            source: source.config.name.clone(),
            tag,
            index: receipt.index,
            event_id: statement.event_id.clone(),
        };
        if !looks.offer(look) {
            tracing::warn!(
                source = source.name(),
                claim = receipt.index,
                "too many claims wait to be checked; not this one"
            );
            self.metrics.confirm_failed(source.name(), "queue_full");
        }
    }

    async fn set_events_aside(
        &self,
        source: &Source,
        body: &[u8],
        refused: Vec<Refused>,
        tally: &mut Tally,
    ) -> Result<(), Unavailable> {
        if refused.len() > MAX_MISFITS {
            let reason = format!("{} of its events are refused; the first: {}", refused.len(), refused[0].reason);
            return self.set_aside(source, body.to_vec(), reason, SetAside::Event, tally).await;
        }
        for Refused { event, reason, why } in refused {
            self.set_aside(source, event.into_bytes(), reason, why, tally).await?;
        }
        Ok(())
    }

    /// Keeps what was not understood. If that fails there is only the log left: an error would block the sender's queue. While the
    /// disk is nearly full that queue is blocked anyway, and nothing is kept.
    async fn set_aside(
        &self,
        source: &Source,
        body: Vec<u8>,
        reason: String,
        why: SetAside,
        tally: &mut Tally,
    ) -> Result<(), Unavailable> {
        if !self.port.has_room() {
            tracing::error!(
                source = source.name(),
                reason,
                "not understood, and there is no room to set it aside; its sender will repeat it"
            );
            self.metrics.unavailable(source.name());
            return Err(Unavailable);
        }
        tally.set_aside += 1;
        self.metrics.set_aside(source.name(), why);
        let (aside, name, words) = (Arc::clone(&self.aside), source.name().to_owned(), reason.clone());
        let kept = tokio::task::spawn_blocking(move || {
            aside.keep(&Misfit { source: &name, received_at_us: now_us(), reason: &words, body: &body })
        })
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let source = source.name();
        match kept {
            Ok(Kept::New(file)) => {
                tracing::warn!(source, reason, file = %file.display(), "set aside what was not understood")
            }
            Ok(Kept::Before(_)) => tracing::debug!(source, reason, "not understood, and set aside before"),
            Ok(Kept::Full) => {
                tracing::error!(source, reason, "not understood and not kept: the folder is full; tidy it up")
            }
            Err(error) => tracing::error!(source, reason, %error, "not understood, and could not be set aside"),
        }
        Ok(())
    }
}

/// A bearer token proves who sent the request, not that what it says is so: registries pass on what they are told.
fn claim(source: &Source, statement: &proto::Statement) -> Claim {
    Claim {
        principal: source.config.name.principal(),
        assurance: proto::Assurance::Claimed,
        statement: statement.clone(),
        only_at_version: None,
    }
}

/// The tag that a statement is about.
fn tag_of(statement: &proto::Statement) -> Option<TagRef> {
    use prost::Message as _;
    match Statement::parse(&statement.encode_to_vec()).ok()?.kind {
        Kind::TagPush { tag, .. } | Kind::TagDelete { tag, .. } => Some(tag),
        _ => None,
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}
