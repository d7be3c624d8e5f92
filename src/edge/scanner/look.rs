//! One look at one tag: what the ledger has, what the registry has, and what follows.
//!
//! The ledger is read first, and what is recorded holds only if the tag has got no entry since: an announcement that arrives in
//! between wins. That the two differ is believed only when two looks with a pause between them see the same; the announcement
//! may be on its way, and one 404 proves nothing. The second look also reads the manifest: what a registry names is held against the bytes.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;

use super::report::Kind;
use super::state::{Other, SeenTag};
use super::{Settings, Shared};
use crate::edge::port::{Intent, PortError, Recorded, ScannerPort, Standing, TagView};
use crate::edge::registry::AskError;
use crate::ledger::names::{Digest, TagRef};
use crate::proto;

/// Entries of a tag's history that are read to find an open claim.
const MAX_ENTRIES: u64 = 100;
/// Tries at a ledger that cannot answer now, and the first wait between them.
const LEDGER_TRIES: u32 = 5;
const LEDGER_WAIT: Duration = Duration::from_millis(500);

/// A tag to look at.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) tag: TagRef,
    /// What the ledger had when its repository was listed; none: read it.
    pub(super) view: Option<TagView>,
    /// What is remembered of it.
    pub(super) known: SeenTag,
    /// When its repository was last listed without it; 0: never.
    pub(super) absent_us: u64,
    /// Looks already made in this round.
    pub(super) looks: u32,
    /// Not to be looked at before, microseconds since the Unix epoch.
    pub(super) not_before_us: u64,
}

impl Job {
    /// Whether what is remembered says that the round, which began then, has counted it.
    pub(super) fn was_counted(&self, started_us: u64) -> bool {
        self.known.other.as_ref().is_some_and(|other| other.since_us >= started_us)
    }
}

/// What a look came to.
#[derive(Debug)]
pub(super) enum Looked {
    /// Both say the same, and nothing is open.
    Agreed { seen: Option<Digest>, interval: Interval, at_us: u64, version: u64 },
    /// The ledger now says what the registry says.
    Recorded { found: Found, at_us: u64, version: u64, recorded: Option<Recorded> },
    /// It was seen once: look again.
    Seen { found: Found, at_us: u64 },
    /// Somebody is about to change it: look again.
    Held { intent: Intent, ledger: Option<Digest> },
    /// It got new entries meanwhile: look again.
    Changed { found: Found },
    /// The registry did not answer, or not believably.
    Failed { error: AskError, ledger: Option<Digest> },
    /// The ledger does not take it.
    Refused { found: Found, reason: String },
}

/// What a look saw.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) ledger: Option<Digest>,
    pub(super) seen: Option<Digest>,
    pub(super) interval: Interval,
    pub(super) checks: Option<u64>,
}

/// Between which looks something came about, microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    /// Last seen otherwise; 0: never.
    pub(super) last_us: u64,
    /// First seen like this.
    pub(super) first_us: u64,
}

impl Job {
    /// Since when the tag is as it is now `seen`, as far as is known.
    fn interval(&self, seen: Option<&Digest>, now_us: u64) -> Interval {
        let known = &self.known;
        let is = |digest: &Option<String>| digest.as_deref() == seen.map(Digest::as_str);
        let otherwise_us = if known.since_us > 0 { known.seen_us } else { self.absent_us };
        let (last_us, first_us) = match &known.other {
            Some(Other { digest, since_us }) if is(digest) => (otherwise_us, *since_us),
            _ if known.since_us > 0 && is(&known.digest) => (known.before_us, known.since_us),
            _ => (otherwise_us, now_us),
        };
        // A clock that was set back must not make nonsense of it.
        Interval { last_us: last_us.min(first_us), first_us }
    }
}

pub(super) async fn look<P: ScannerPort>(shared: &Shared<P>, job: &Job) -> Result<Looked, PortError> {
    let standing = standing(shared, job).await?;
    let Standing { view: TagView { version, digest: ledger }, claim, intent } = standing;
    if let Some(intent) = intent.filter(|intent| is_fresh(*intent, &shared.settings)) {
        return Ok(Looked::Held { intent, ledger });
    }
    // An intent that nobody settles is settled by looking; so it comes before a claim.
    let checks = intent.map(|intent| intent.index).or(claim);
    let expected = job.known.other.as_ref().and_then(|other| other.digest.as_ref()?.parse().ok()).or(ledger.clone());
    let mut seen = match shared.client.ask(&job.tag, expected.as_ref()).await {
        Ok(seen) => seen,
        Err(error) => return Ok(Looked::Failed { error, ledger }),
    };
    let mut now_us = now_us();
    let agrees = seen == ledger;
    if agrees && checks.is_none() {
        let interval = job.interval(seen.as_ref(), now_us);
        return Ok(Looked::Agreed { seen, interval, at_us: now_us, version });
    }
    let at_once = agrees && seen.is_some();
    if !at_once && is_second(job, seen.as_ref()) && seen.is_some() {
        seen = match shared.client.examine(&job.tag).await {
            Ok(seen) => seen,
            Err(error) => return Ok(Looked::Failed { error, ledger }),
        };
        now_us = self::now_us();
    }
    let kind = match (&ledger, &seen) {
        (ledger, seen) if ledger == seen => Kind::Unconfirmed,
        (_, None) => Kind::Vanished,
        (None, Some(_)) => Kind::Unannounced,
        (Some(_), Some(_)) => Kind::Retagged,
    };
    let interval = job.interval(seen.as_ref(), now_us);
    let found = Found { kind, ledger, seen, interval, checks };
    if !at_once && !is_second(job, found.seen.as_ref()) {
        return Ok(Looked::Seen { found, at_us: now_us });
    }
    if shared.settings.dry_run {
        return Ok(Looked::Recorded { found, at_us: now_us, version, recorded: None });
    }
    let statement = observation(shared, &job.tag, &found, now_us);
    match patiently(shared, || shared.port.record_at(statement.clone(), version)).await {
        Ok(recorded) => Ok(Looked::Recorded { found, at_us: now_us, version: version + 1, recorded: Some(recorded) }),
        Err(PortError::Changed | PortError::Held { .. }) => Ok(Looked::Changed { found }),
        Err(error @ (PortError::Invalid(_) | PortError::Conflict { .. })) => {
            Ok(Looked::Refused { found, reason: error.to_string() })
        }
        Err(error) => Err(error),
    }
}

/// What the ledger has; asked for only if something may have happened that was not looked after.
async fn standing<P: ScannerPort>(shared: &Shared<P>, job: &Job) -> Result<Standing, PortError> {
    let looked_after = job.known.version;
    if let Some(view) = job.view.as_ref().filter(|view| view.version == looked_after) {
        return Ok(Standing { view: view.clone(), claim: None, intent: None });
    }
    // The version may have grown since the list was made; a few more than those do no harm.
    let newest = job.view.as_ref().map_or(MAX_ENTRIES, |view| view.version.saturating_sub(looked_after) + 8);
    patiently(shared, || shared.port.standing(&job.tag, newest.min(MAX_ENTRIES))).await
}

/// Whether the same was seen before, and long enough ago.
fn is_second(job: &Job, seen: Option<&Digest>) -> bool {
    let other = job.known.other.as_ref();
    other.is_some_and(|other| other.digest.as_deref() == seen.map(Digest::as_str)) && job.not_before_us <= now_us()
}

fn is_fresh(intent: Intent, settings: &Settings) -> bool {
    let patience_us = u64::try_from(settings.intent_patience.as_micros()).unwrap_or(u64::MAX);
    intent.recorded_at_us.saturating_add(patience_us) > now_us()
}

fn observation<P>(shared: &Shared<P>, tag: &TagRef, found: &Found, now_us: u64) -> proto::Statement {
    let kind = proto::statement::Kind::TagObserved(proto::TagObserved {
        registry: tag.registry.to_string(),
        repository: tag.repository.to_string(),
        tag: tag.tag.to_string(),
        digest: found.seen.as_ref().map(Digest::to_string).unwrap_or_default(),
        checks_entry: found.checks.map_or(0, |index| index + 1),
        last_seen_us: found.interval.last_us,
        first_seen_us: found.interval.first_us,
    });
    proto::Statement {
        kind: Some(kind),
        occurred_at_us: i64::try_from(now_us).unwrap_or_default(),
        source: shared.client.named(),
        ..proto::Statement::default()
    }
}

/// Asks a ledger again that cannot answer now.
pub(super) async fn patiently<P, T, F>(shared: &Shared<P>, call: impl Fn() -> F) -> Result<T, PortError>
where
    F: Future<Output = Result<T, PortError>>,
{
    let (mut tries, mut wait) = (1, LEDGER_WAIT);
    loop {
        match call().await {
            Err(PortError::Unavailable(reason) | PortError::Overloaded(reason) | PortError::Unchecked(reason))
                if tries < LEDGER_TRIES && !shared.is_stopping() =>
            {
                tracing::debug!(reason, "the ledger does not answer; asking again");
                tokio::time::sleep(wait).await;
                (tries, wait) = (tries + 1, wait * 2);
            }
            answered => return answered,
        }
    }
}

/// The scanner's clock, microseconds since the Unix epoch.
pub(super) fn now_us() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}
