//! How HTTP, webhooks and metrics reach the ledger of this very process.

use std::ops::Range;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use prost::Message as _;

use crate::api::http::{LogHead, LogSource};
use crate::api::limits::{Limits, Who};
use crate::edge::port::{Claim, LedgerPort, PortError, TagView};
use crate::engine::plan::{Rejected, Submission};
use crate::engine::{AppendError, Ledger, ReadError};
use crate::ledger::merkle::Hash;
use crate::ledger::names::TagRef;
use crate::ledger::statement::{Statement, Violation};
use crate::proto;
use crate::server::panics;

/// The edge's port, onto this process's ledger.
pub struct InProcess {
    ledger: Ledger,
    limits: Limits,
}

impl InProcess {
    /// A port onto `ledger`, through which each source states as much as `limits` allow.
    pub fn new(ledger: Ledger, limits: Limits) -> Self {
        Self { ledger, limits }
    }

    /// Counts statements for the source that they are of, but for those that are recorded already: it repeats what was refused.
    fn spend(&self, submissions: &[Submission]) -> Result<(), PortError> {
        let unread = |error: ReadError| PortError::Unavailable(error.to_string());
        for (principal, count) in self.ledger.new_by_principal(submissions).map_err(unread)? {
            let spent = self.limits.spend(Who::Principal(principal), count);
            spent.map_err(|error| PortError::Overloaded(error.to_string()))?;
        }
        Ok(())
    }
}

impl LedgerPort for InProcess {
    async fn record(&self, claims: Vec<Claim>) -> Result<Vec<proto::Receipt>, PortError> {
        let submissions = claims.into_iter().map(submission).collect::<Result<Vec<_>, _>>()?;
        self.spend(&submissions)?;
        let appended = self.ledger.append(submissions).await.map_err(|error| match error {
            AppendError::Invalid(violations) => PortError::Invalid(words(&violations)),
            AppendError::Rejected(Rejected::Conflict { event_id, index, .. }) => {
                PortError::Conflict { event_id, index }
            }
            AppendError::Rejected(Rejected::Changed { .. }) => PortError::Changed,
            AppendError::Rejected(Rejected::Held { tag, index }) => PortError::Held { tag, index },
            AppendError::Rejected(
                rejected @ (Rejected::Unauthorized { .. }
                | Rejected::Principals { .. }
                | Rejected::Keys { .. }
                | Rejected::TooManyEntries),
            ) => PortError::Invalid(rejected.to_string()),
            AppendError::Rejected(Rejected::ChangingKey | Rejected::BatchIsFull)
            | AppendError::Overloaded
            | AppendError::Shortage(_)
            | AppendError::Stopped(_)
            | AppendError::Unread(_) => PortError::Unavailable(error.to_string()),
        })?;
        Ok(appended.receipts)
    }

    fn has_room(&self) -> bool {
        self.ledger.shortage().borrow().is_none()
    }

    async fn tag(&self, tag: &TagRef) -> Result<TagView, PortError> {
        let found = self.ledger.read(|reader| reader.tag_version(tag)).and_then(|found| found);
        let (version, digest) = found.map_err(|error| PortError::Unavailable(error.to_string()))?;
        Ok(TagView { version, digest })
    }
}

fn submission(claim: Claim) -> Result<Submission, PortError> {
    let bytes = claim.statement.encode_to_vec();
    let statement = Statement::parse(&bytes).map_err(|violations| PortError::Invalid(words(&violations)))?;
    Ok(Submission {
        statement,
        bytes,
        principal: claim.principal,
        assurance: claim.assurance,
        producer: None,
        shown: None,
        only_at_version: claim.only_at_version,
    })
}

fn words(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
}

/// The log, for the C2SP endpoints.
pub struct EngineSource {
    ledger: Ledger,
}

impl EngineSource {
    /// Reads from `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }
}

impl LogSource for EngineSource {
    fn checkpoint(&self) -> Result<LogHead, String> {
        let newest = self.ledger.newest();
        let newest = newest.borrow();
        Ok(LogHead { size: newest.head.size, note: newest.head.checkpoint.clone() })
    }

    fn hashes(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, String> {
        self.ledger.read(|reader| reader.nodes(level, range)).and_then(|read| read).map_err(|error| error.to_string())
    }

    fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, String> {
        self.ledger.read(|reader| reader.entries(range)).and_then(|read| read).map_err(|error| error.to_string())
    }

    fn health(&self) -> Result<(), String> {
        self.ledger.health()
    }
}

/// Adds the ledger's own figures to what `/metrics` shows.
pub fn register_metrics(registry: &mut Registry, ledger: &Ledger) {
    registry.register_collector(Box::new(LedgerFigures { ledger: ledger.clone() }));
}

/// Read off the ledger whenever somebody asks.
struct LedgerFigures {
    ledger: Ledger,
}

impl std::fmt::Debug for LedgerFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LedgerFigures")
    }
}

impl Collector for LedgerFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let size = self.ledger.newest().borrow().head.size;
        let mut gauge = |name, help, value: u64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge("tree_size", "Entries under the newest signed checkpoint", size)?;
        gauge("accepts_entries", "1 while appends are accepted", u64::from(self.ledger.accepts_entries()))?;
        gauge("clock_alarm", "1 if the clock is beyond its bounds", u64::from(self.ledger.clock_alarm()))?;
        let panics = ConstCounter::new(panics::count());
        let help = "Bugs of the service that were hit; after one, restart";
        panics.encode(encoder.encode_descriptor("panics", help, None, panics.metric_type())?)?;
        let mut family = encoder.encode_descriptor(
            "outcomes",
            "Statements recorded since the start, by outcome",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (outcome, count) in self.ledger.outcomes() {
            let labels = [("outcome", outcome)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
