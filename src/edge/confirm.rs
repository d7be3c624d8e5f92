//! Asks the registry whether a claim about a tag is true, and records what it says.
//!
//! A webhook announces; it does not prove. Distribution announces a push before the tag is written, announces concurrent
//! pushes out of order, and loses what waits when it stops. So where a source's registry can be asked, every claim about a
//! tag is followed by a look: HEAD the manifest, and record a `TagObserved` with assurance CONFIRMED. If the registry agrees
//! with the ledger that entry is UNCHANGED; if not it is a DRIFT, which sets the binding to what is really there.
//!
//! What is believed: a digest that agrees with the ledger, at once. Anything else (another digest, or nothing) only when two
//! looks in a row, with a pause between them, say the same: the announcement may be ahead of the tag.
//!
//! All of it runs beside the webhook and never holds it up. What waits (`super::looks`) is lost when the service stops; those
//! claims stay CLAIMED until the next about the same tag. How a registry is asked: `super::registry`.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::looks::{Look, Queue};
use super::metrics::Metrics;
use super::port::{Claim, LedgerPort, PortError};
use super::registry::{AskError, Registry, Settings};
use super::source::{SourceConfig, SourceName};
use crate::ledger::names::{Digest, TagRef};
use crate::proto;

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
                let registry = Registry::new(access.clone(), Settings::once(pace.timeout))
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
                () = confirmer.queue.changed() => {}
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
                Err(error @ (PortError::Unavailable(_) | PortError::Overloaded(_))) => {
                    tries.failed("ledger", error.to_string()).await?
                }
                Err(
                    error @ (PortError::Changed
                    | PortError::Invalid(_)
                    | PortError::Held { .. }
                    | PortError::Untrusted(_)
                    | PortError::Unchecked(_)),
                ) => {
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
        last_seen_us: 0,
        first_seen_us: 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_looks_fit_into_the_ledger_and_differ() {
        assert_eq!(derived_id("891c57ce"), "confirm:891c57ce");
        let (a, b) = (derived_id(&"a".repeat(128)), derived_id(&"b".repeat(128)));
        assert!(a != b && a.len() <= 128);
    }
}
