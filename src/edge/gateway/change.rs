//! Changes of tags: the intent before, the outcome after.
//!
//! A change goes through these steps. From the second on it is in a task of its own, which a client that hangs up does not end:
//!
//! 1. nobody else in this process changes the tag ([`super::locks`]);
//! 2. the intent stands in the journal, then in the ledger: DENIED ends here, and NOTED holds the tag against every other
//!    gateway. A tag that the ledger lets change and has no binding of is looked at first: the registry may have had it
//!    before there was a ledger. What is found is recorded, and decided anew by whatever policy is in force then;
//! 3. a push and a deletion of one manifest keep out of each other's way, whatever the tag ([`super::rivals`]);
//! 4. the registry is asked;
//! 5. what it said is recorded, and ends the hold. Where that can't be told from its answer, or there was none, or the ledger
//!    is gone, [`super::settle`] goes on until it is known. A request that was left unanswered keeps its hold until the
//!    registry can be expected not to carry it out any more.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::json;
use tokio::time::Instant;

use super::Gateway;
use super::errors::{Code, Refusal};
use super::journal::Left;
use super::locks::Guard;
use super::unknown::Manifest;
use super::upstream::{Outgoing, Unanswered};
use super::waiting::Waiting;
use crate::edge::port::{GatewayPort, Intent, PortError, Recorded};
use crate::ledger::names::{Digest, Registry, Repository, TagRef};
use crate::ledger::statement::{Kind, Statement};
use crate::proto::{self, Disposition, Outcome};

const DIGEST_HEADER: &str = "docker-content-digest";
/// The tags that a push by parameters has set (distribution-spec, "Pushing manifests with tags").
const TAG_HEADER: &str = "oci-tag";

/// What is to become of a tag, or of a manifest with all its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Aim {
    Push { tag: TagRef, digest: Digest, media_type: String },
    Delete { tag: TagRef },
    DeleteManifest { registry: Registry, repository: Repository, digest: Digest },
}

impl Aim {
    pub(super) fn tag(&self) -> Option<&TagRef> {
        match self {
            Self::Push { tag, .. } | Self::Delete { tag } => Some(tag),
            Self::DeleteManifest { .. } => None,
        }
    }

    /// Repository and reference to look at, to see what became of it.
    pub(super) fn place(&self) -> (&Repository, &str) {
        match self {
            Self::Push { tag, .. } | Self::Delete { tag } => (&tag.repository, tag.tag.as_str()),
            Self::DeleteManifest { repository, digest, .. } => (repository, digest.as_str()),
        }
    }

    /// What a look finds if it came about.
    pub(super) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Push { digest, .. } => Some(digest),
            Self::Delete { .. } | Self::DeleteManifest { .. } => None,
        }
    }

    /// The statement of it.
    fn kind(&self, disposition: Disposition, settles: Option<u64>) -> proto::statement::Kind {
        let (disposition, settles) = (disposition.into(), settles.map_or(0, |index| index + 1));
        match self.clone() {
            Self::Push { tag, digest, media_type } => proto::statement::Kind::TagPush(proto::TagPush {
                registry: tag.registry.to_string(),
                repository: tag.repository.to_string(),
                tag: tag.tag.to_string(),
                digest: digest.to_string(),
                media_type,
                disposition,
                settles,
            }),
            Self::Delete { tag } => proto::statement::Kind::TagDelete(proto::TagDelete {
                registry: tag.registry.to_string(),
                repository: tag.repository.to_string(),
                tag: tag.tag.to_string(),
                disposition,
                settles,
            }),
            Self::DeleteManifest { registry, repository, digest } => {
                proto::statement::Kind::ManifestDelete(proto::ManifestDelete {
                    registry: registry.to_string(),
                    repository: repository.to_string(),
                    digest: digest.to_string(),
                    disposition,
                    settles,
                })
            }
        }
    }
}

/// An intent of which it is not recorded yet what became.
#[derive(Debug, Clone)]
pub(super) struct Open {
    /// Makes its event ids: random, so that a repetition is one entry and nobody else has it.
    pub(super) id: String,
    pub(super) aim: Aim,
    /// As it is (to be) recorded.
    pub(super) intent: proto::Statement,
    /// Its entry, once that is known.
    pub(super) entry: Option<Intent>,
    /// The ledger was not asked about it.
    pub(super) is_unasked: bool,
    /// Others keep away until it is settled: from its tags; or, if it is the deletion of a manifest, from pushing that.
    pub(super) holds: bool,
    /// It changes nothing that the ledger knows of.
    pub(super) is_idle: bool,
    /// Not later than others kept away, where this process began it.
    pub(super) since: Option<Instant>,
    /// What the registry said, if it did: HAPPENED or REFUSED.
    pub(super) known: Option<Disposition>,
    /// Since when nobody waits for the registry any more that has the request and did not answer it: it may carry it out yet.
    pub(super) abandoned: Option<Instant>,
    /// The client's, lent for a look.
    pub(super) authorization: Option<HeaderValue>,
}

impl Open {
    fn new(id: String, aim: Aim, intent: proto::Statement, authorization: Option<HeaderValue>) -> Self {
        Self {
            id,
            aim,
            intent,
            entry: None,
            is_unasked: false,
            holds: false,
            is_idle: false,
            since: None,
            known: None,
            abandoned: None,
            authorization,
        }
    }

    /// What a journal kept of a gateway that is gone, and with it its connections; whatever it had sent by then, if anything.
    pub(super) fn read(id: &str, left: &Left) -> Option<Self> {
        let statement = Statement::parse(&left.statement).ok()?;
        let aim = match statement.kind {
            Kind::TagPush { tag, digest, .. } => Aim::Push { tag, digest, media_type: String::new() },
            Kind::TagDelete { tag, .. } => Aim::Delete { tag },
            Kind::ManifestDelete { registry, repository, digest, .. } => {
                Aim::DeleteManifest { registry, repository, digest }
            }
            _ => return None,
        };
        let (id, intent) = (id.to_owned(), statement.message);
        let known = left.is_refused.then_some(Disposition::Refused);
        let abandoned = (!left.is_refused).then(Instant::now);
        Some(Self { known, abandoned, ..Self::new(id, aim, intent, None) })
    }

    /// It is recorded, and allowed.
    pub(super) fn note_entry(&mut self, recorded: &Recorded) {
        self.entry = Some(Intent { index: recorded.index, recorded_at_us: recorded.recorded_at_us });
        self.is_idle = recorded.outcome == Outcome::Unchanged;
        let deletes_manifest = matches!(self.aim, Aim::DeleteManifest { .. });
        self.holds = recorded.outcome == Outcome::Noted || (self.is_idle && deletes_manifest);
    }

    /// Index of its entry, once that is known.
    pub(super) fn index(&self) -> Option<u64> {
        self.entry.map(|entry| entry.index)
    }

    /// What became of it, as a statement.
    pub(super) fn outcome(&self, disposition: Disposition) -> proto::Statement {
        let kind = Some(self.aim.kind(disposition, self.index()));
        proto::Statement { kind, event_id: format!("gateway/{}/outcome", self.id), ..self.intent.clone() }
    }

    /// What a look found of its tag, as a statement.
    pub(super) fn observation(&self, tag: &TagRef, seen: Option<&Digest>) -> proto::Statement {
        let event_id = format!("gateway/{}/look", self.id);
        let kind = Some(observed(tag, seen, self.index()));
        proto::Statement { kind, event_id, ..self.intent.clone() }
    }
}

/// That something was seen of a tag; of which entry it checks the claim.
pub(super) fn observed(tag: &TagRef, seen: Option<&Digest>, checks: Option<u64>) -> proto::statement::Kind {
    proto::statement::Kind::TagObserved(proto::TagObserved {
        registry: tag.registry.to_string(),
        repository: tag.repository.to_string(),
        tag: tag.tag.to_string(),
        digest: seen.map(Digest::to_string).unwrap_or_default(),
        checks_entry: checks.map_or(0, |index| index + 1),
        last_seen_us: 0,
        first_seen_us: 0,
    })
}

/// Who asks, for the record.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    pub(super) authorization: Option<HeaderValue>,
    statement: proto::Statement,
}

impl Client {
    /// From a request's headers. A name is the client's word until the registry was asked.
    pub(super) fn of(headers: &HeaderMap, peer: Option<std::net::IpAddr>, source: &str) -> Self {
        let mut authorization = headers.get(AUTHORIZATION).cloned();
        if let Some(authorization) = &mut authorization {
            // Never printed.
            authorization.set_sensitive(true);
        }
        let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(|text| cut(text, 256));
        let pairs =
            [("client.addr", peer.map(|peer| peer.to_string())), ("client.user_agent", text(headers.get(USER_AGENT)))];
        let attribute = |(key, value): (&str, Option<String>)| {
            value.filter(|value| !value.is_empty()).map(|value| proto::Attribute { key: key.to_owned(), value })
        };
        let statement = proto::Statement {
            actor: authorization.as_ref().and_then(basic_user).unwrap_or_default(),
            source: cut(source, 256),
            attributes: pairs.into_iter().filter_map(attribute).collect(),
            ..proto::Statement::default()
        };
        Self { authorization, statement }
    }

    /// That something was seen of a tag on its way, for the record; of which entry it checks the claim.
    pub(super) fn saw(&self, tag: &TagRef, digest: &Digest, checks: Option<u64>) -> proto::Statement {
        let event_id = format!("gateway/{}/before", random_id());
        proto::Statement { kind: Some(observed(tag, Some(digest), checks)), event_id, ..self.statement.clone() }
    }

    /// Whether it gives a name.
    pub(super) fn names_somebody(&self) -> bool {
        !self.statement.actor.is_empty()
    }

    /// Its name is worth nothing.
    pub(super) fn is_nobody(&mut self) {
        self.statement.actor.clear();
    }
}

fn basic_user(authorization: &HeaderValue) -> Option<String> {
    let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(encoded.trim()).ok())??;
    let text = String::from_utf8(decoded).ok()?;
    Some(cut(text.split(':').next()?, 256))
}

/// Without control characters, and no longer than `length` bytes.
fn cut(text: &str, length: usize) -> String {
    let mut cut: String = text.chars().filter(|c| !c.is_control()).collect();
    while cut.len() > length {
        cut.pop();
    }
    cut
}

/// A change as a client asks for it.
pub(super) struct Change {
    pub(super) repository: Repository,
    /// Tags rise. None: a manifest is pushed, and no tag.
    pub(super) aims: Vec<Aim>,
    /// The tag in the path: the registry's answer speaks of it without naming it.
    pub(super) named: Option<TagRef>,
    pub(super) outgoing: Outgoing,
    pub(super) body: Bytes,
    pub(super) client: Client,
}

/// How an intent was taken.
enum Taken {
    /// Go on.
    Go(Open),
    /// It changes nothing, so nobody is kept from a tag. A push goes on, and is looked at afterwards.
    Same(Open),
    /// Go on without the ledger; what is there is recorded later.
    Unrecorded(Open),
    /// No.
    Denied(Recorded),
}

impl<P: GatewayPort> Gateway<P> {
    /// Carries out a change of what is [alone](Self::alone), to the end. Somebody else's hold is waited for until the deadline.
    pub(super) async fn carry_out(self: Arc<Self>, change: Change, deadline: Instant) -> Response<Body> {
        let mut taken = Vec::with_capacity(change.aims.len());
        for aim in &change.aims {
            match self.take(aim, &change.client, deadline).await {
                Ok(Taken::Denied(denied)) => {
                    self.release(taken).await;
                    self.figures.change("denied");
                    self.policy_may_be_new.notify_one();
                    let standing = match aim.tag() {
                        Some(tag) => self.port.standing_of(tag).await.ok(),
                        None => None,
                    };
                    let current = standing.and_then(|standing| standing.view.digest);
                    return denial(aim, &denied, current.as_ref()).into_response();
                }
                Ok(Taken::Go(open) | Taken::Same(open) | Taken::Unrecorded(open)) => taken.push(open),
                Err(refusal) => {
                    self.release(taken).await;
                    self.figures.change("refused");
                    return refusal.into_response();
                }
            }
        }
        let waited = match self.await_deletions(&taken, deadline).await {
            // What the ledger had of a tag, so that nothing was decided about it, may be gone with its manifest.
            Ok(true) if taken.iter().any(|open| open.is_idle) => {
                Err(Refusal::later("its manifest was just deleted, and tags with it; try again"))
            }
            waited => waited,
        };
        if let Err(refusal) = waited {
            self.release(taken).await;
            self.figures.change("refused");
            return refusal.into_response();
        }
        if taken.iter().any(|open| self.may_outlast(open)) {
            self.release(taken).await;
            self.figures.change("refused");
            return Refusal::later("getting ready took so long that the tag may be somebody else's by now; try again")
                .into_response();
        }
        let answer = self.upstream.send(change.outgoing, change.body.into()).await;
        let is_over = match &answer {
            Ok(response) => ends(response.status()),
            Err(Unanswered::Unsent(_)) => true,
            Err(_) => false,
        };
        let abandoned = (!is_over).then(Instant::now);
        for open in taken {
            let became = match &answer {
                Ok(response) => {
                    became(&open.aim, change.named.as_ref(), response, self.lends(open.authorization.as_ref()))
                }
                // Nothing was sent, so nothing came about.
                Err(Unanswered::Unsent(_)) => Some(Disposition::Refused),
                Err(_) => None,
            };
            // What passed without the ledger may have been followed by more before it is recorded: only what is there then, looked
            // at under a hold, is in order.
            // The same goes for what was not held: somebody else may have changed the tag meanwhile.
            let may_be_old = !open.holds && became == Some(Disposition::Happened);
            self.settle_first(Open { known: became.filter(|_| !may_be_old), abandoned, ..open }).await;
        }
        match answer {
            Ok(response) => {
                self.figures.change(if response.status().is_success() { "passed" } else { "failed" });
                response
            }
            Err(unanswered) => {
                tracing::warn!(repository = %change.repository, %unanswered, "a change has no answer");
                self.figures.change("unanswered");
                Refusal::from(unanswered).into_response()
            }
        }
    }

    /// Whether a look would go with the client's own credentials.
    pub(super) fn lends(&self, authorization: Option<&HeaderValue>) -> bool {
        self.config.credentials.is_none() && authorization.is_some()
    }

    /// Whether what is sent now may still be under way when others take this for given up. Who waited for a look, or for
    /// another tag of the same request, must not change what somebody else changes too.
    fn may_outlast(&self, open: &Open) -> bool {
        let config = &self.config;
        let needed = config.connect_timeout + config.idle_timeout + config.ledger_timeout;
        open.since.is_some_and(|since| since.elapsed() + needed >= config.hold_bound)
    }

    /// Waits until nobody else in this process changes the same.
    pub(super) async fn alone(&self, change: &Change) -> Guard {
        let repository = change.repository.as_str();
        let tags: Option<Vec<String>> =
            change.aims.iter().map(|aim| aim.tag().map(|tag| tag.tag.to_string())).collect();
        match tags {
            Some(tags) => self.locks.tags(repository, tags.into_iter()).await,
            None => self.locks.repository(repository).await,
        }
    }

    /// Nothing of this comes about: something else of the same request may not.
    async fn release(self: &Arc<Self>, taken: Vec<Open>) {
        for open in taken {
            self.settle_first(Open { known: Some(Disposition::Refused), ..open }).await;
        }
    }

    /// Takes the tag, unless it may not change.
    async fn take(self: &Arc<Self>, aim: &Aim, client: &Client, deadline: Instant) -> Result<Taken, Refusal> {
        let Some(tag) = aim.tag() else { return self.take_manifest(aim, client, deadline).await };
        let taken = self.intend(aim, client, deadline).await?;
        let index = match &taken {
            Taken::Go(open) => open.index(),
            // A delete of what the ledger calls absent leaves no hold. It must not be under way while others push the tag.
            Taken::Same(open) if matches!(aim, Aim::Delete { .. }) => open.index(),
            _ => return Ok(taken),
        };
        let (repository, reference) = aim.place();
        let standing = self.port.standing_of(tag).await;
        // What the ledger does not know the registry may have all the same. What it knows it has decided about.
        if standing.as_ref().is_ok_and(|standing| standing.view.digest.is_some()) {
            return Ok(taken);
        }
        let seen = self.looks.ask_as(repository, reference, aim.digest(), client.authorization.as_ref()).await;
        match seen {
            Ok(None) => match taken {
                Taken::Same(open) => {
                    self.journal.end(&open.id);
                    let message = format!("tag {} is not there, in the registry nor in the ledger", tag.tag);
                    Err(Refusal::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, message))
                }
                taken => Ok(taken),
            },
            Ok(Some(digest)) if Some(&digest) == aim.digest() => Ok(taken),
            Ok(Some(digest)) => {
                let statement = client.saw(tag, &digest, index);
                // Void if the tag has new entries since before the look.
                let recorded = match standing {
                    Ok(standing) => self.record_if_at(statement, standing.view.version).await,
                    Err(error) => Err(error),
                };
                if let Taken::Go(open) | Taken::Same(open) = taken {
                    match recorded {
                        // The look has settled it.
                        Ok(_) => self.journal.end(&open.id),
                        Err(_) => self.settle_first(Open { known: Some(Disposition::Refused), ..open }).await,
                    }
                }
                recorded.map_err(|error| Refusal::later(error.to_string()))?;
                self.intend(aim, client, deadline).await
            }
            Err(error) => {
                if let Taken::Go(open) | Taken::Same(open) = taken {
                    self.settle_first(Open { known: Some(Disposition::Refused), ..open }).await;
                }
                let message = format!("can't tell what tag {} is in the registry: {error}", tag.tag);
                Err(Refusal::upstream(StatusCode::BAD_GATEWAY, message))
            }
        }
    }

    /// The same for a manifest with all its tags, also those that only the registry knows, and those that are pushed to it meanwhile.
    async fn take_manifest(self: &Arc<Self>, aim: &Aim, client: &Client, deadline: Instant) -> Result<Taken, Refusal> {
        let Aim::DeleteManifest { registry, repository, digest } = aim else {
            return self.intend(aim, client, deadline).await;
        };
        let manifest = Manifest { registry, repository, digest };
        loop {
            let was_asked = self.meet_tags(&manifest, client).await?;
            let taken = self.intend(aim, client, deadline).await?;
            let (Taken::Go(open) | Taken::Same(open)) = &taken else { return Ok(taken) };
            let rival = match open.entry {
                Some(own) if was_asked => self.rival(&manifest, own).await,
                // It is back in between.
                _ => Err(Refusal::later("the ledger could not be reached a moment ago; try again")),
            };
            if rival == Ok(None) {
                return Ok(taken);
            }
            self.settle_first(Open { known: Some(Disposition::Refused), ..open.clone() }).await;
            if let Some(rival) = rival? {
                self.await_rival(&rival, digest, client.authorization.as_ref(), deadline).await?;
            }
        }
    }

    async fn intend(self: &Arc<Self>, aim: &Aim, client: &Client, deadline: Instant) -> Result<Taken, Refusal> {
        // What the ledger may have recorded is never forgotten: where there is no room to remember it, a ledger that takes nothing is
        // not even asked.
        let untaken = if self.journal.has_room_to_refuse() { None } else { self.untaken() };
        let passes = || self.config.when_unreachable.lets_pass(&self.protection, aim.tag());
        let passing = match untaken {
            None => None,
            Some(PortError::Unavailable(reason)) if passes() => Some(reason),
            Some(_) => {
                self.figures.forgotten.inc();
                return Err(Refusal::later(
                    "too many changes that were refused wait until the ledger that is to record them can be reached; try again later",
                ));
            }
        };
        let id = random_id();
        let kind = Some(aim.kind(Disposition::Intended, None));
        let intent = proto::Statement { kind, event_id: format!("gateway/{id}/intent"), ..client.statement.clone() };
        let mut open = Open::new(id, aim.clone(), intent, client.authorization.clone());
        match self.journal.begin(&open.id, &open.intent.encode_to_vec()) {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::later("too many changes wait until the ledger and the registry agree")),
            Err(error) => return Err(Refusal::later(format!("the gateway can't write its journal: {error}"))),
        }
        if let Some(reason) = passing {
            return self.without_ledger(Open { is_unasked: true, ..open }, &reason);
        }
        let mut waiting = Waiting::until(deadline);
        loop {
            let asked = Instant::now();
            match self.record(open.intent.clone()).await {
                Ok(recorded) if recorded.outcome == Outcome::Denied => {
                    self.journal.end(&open.id);
                    return Ok(Taken::Denied(recorded));
                }
                Ok(recorded) => {
                    open.note_entry(&recorded);
                    open.since = open.holds.then_some(asked);
                    return Ok(if open.is_idle { Taken::Same(open) } else { Taken::Go(open) });
                }
                Err(PortError::Held { tag, index }) => {
                    match self.settle_old(&tag, index, client.authorization.as_ref()).await {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(reason) => tracing::warn!(tag, index, reason, "can't settle an old intent"),
                    }
                    if !waiting.pause().await {
                        self.journal.end(&open.id);
                        let message = format!(
                            "tag {tag} is held by the intent in entry {index} of the ledger, of which it is not known yet what became"
                        );
                        return Err(Refusal::later(message));
                    }
                }
                Err(PortError::Unavailable(reason)) => return self.without_ledger(open, &reason),
                // Whoever floods the ledger must not get past it.
                Err(error @ (PortError::Overloaded(_) | PortError::Unchecked(_))) => {
                    return Err(self.without_intent(open, &error, error.to_string()));
                }
                Err(error) => {
                    tracing::error!(%error, "the ledger does not take what the gateway says");
                    let message = format!("the ledger does not take what the gateway says: {error}");
                    return Err(self.without_intent(open, &error, message));
                }
            }
        }
    }

    /// The ledger is there, and what it says is no leave to go on. What it did not refuse it may have recorded.
    fn without_intent(self: &Arc<Self>, open: Open, error: &PortError, message: String) -> Refusal {
        if error.is_refusal() {
            self.journal.end(&open.id);
        } else {
            self.settle_refused(open);
        }
        Refusal::later(message)
    }

    /// The ledger can't be reached; perhaps it has the intent all the same.
    fn without_ledger(self: &Arc<Self>, open: Open, reason: &str) -> Result<Taken, Refusal> {
        let tag = open.aim.tag();
        let what = tag.map_or_else(|| "a manifest".to_owned(), |tag| format!("tag {:?}", tag.tag.as_str()));
        if self.config.when_unreachable.lets_pass(&self.protection, tag) {
            // Nobody else knows of it: it has to outlast a power failure.
            if let Err(error) = self.journal.sync() {
                self.settle_refused(open);
                return Err(Refusal::later(format!("the gateway can't write its journal: {error}")));
            }
            tracing::warn!(what, reason, "passes unrecorded; what is there is recorded once the ledger is back");
            self.figures.unrecorded.inc();
            return Ok(Taken::Unrecorded(open));
        }
        tracing::warn!(what, reason, "refused: the ledger can't be reached");
        self.settle_refused(open);
        Err(Refusal::later(format!(
            "{what} may be protected, and the ledger that knows can't be reached; try again later"
        )))
    }
}

/// Whether an answer says that the request is over. What comes from something in between that gave up waiting (a timeout, 502, 503,
/// 504 and what proxies add to them) does not.
fn ends(status: StatusCode) -> bool {
    status == StatusCode::INTERNAL_SERVER_ERROR || !(status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT)
}

/// What the registry's answer says of an aim; `None`: that has to be looked at.
fn became(aim: &Aim, named: Option<&TagRef>, response: &Response<Body>, lent: bool) -> Option<Disposition> {
    let status = response.status();
    let header = |name: &str| response.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    match aim {
        Aim::Push { tag, digest, .. } if status.is_success() => {
            let is_set = if Some(tag) == named {
                header(DIGEST_HEADER).next().is_none_or(|named| named == digest.as_str())
            } else {
                header(TAG_HEADER).flat_map(|tags| tags.split(',')).any(|set| set.trim() == tag.tag.as_str())
            };
            is_set.then_some(Disposition::Happened)
        }
        Aim::Delete { .. } | Aim::DeleteManifest { .. } if status.is_success() => Some(Disposition::Happened),
        // It is not there: then perhaps it is as it was to be. Registries say so too to whoever may not see it, and a look on
        // behalf of the same client would hear the same.
        Aim::Delete { .. } | Aim::DeleteManifest { .. } if status == StatusCode::NOT_FOUND && !lent => None,
        Aim::Delete { .. } | Aim::DeleteManifest { .. } if lent && status.is_redirection() => {
            Some(Disposition::Refused)
        }
        // Whoever waited too long, or points elsewhere, may have done it all the same.
        _ if status == StatusCode::REQUEST_TIMEOUT || status.is_redirection() => None,
        _ if status.is_client_error() => Some(Disposition::Refused),
        _ => None,
    }
}

/// With 409, unlike 412 or 500, clients print the message and do not try again.
fn denial(aim: &Aim, denied: &Recorded, current: Option<&Digest>) -> Refusal {
    let attempted = match aim {
        Aim::Push { digest, .. } => format!("push of {digest}"),
        Aim::Delete { .. } => "delete".to_owned(),
        Aim::DeleteManifest { digest, .. } => format!("delete of {digest}"),
    };
    let message = format!("{} (ledger entry {})", denied.detail, denied.index);
    let detail = json!({
        "attempted": attempted,
        "current": current.map(Digest::to_string),
        "entry": denied.index,
        "rule": denied.rule,
        "tag": aim.tag().map(|tag| tag.tag.to_string()),
    });
    Refusal { detail: Some(detail), ..Refusal::new(StatusCode::CONFLICT, Code::Denied, message) }
}

/// 128 bits: no two are the same.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    hex::encode(bytes)
}
