//! What the edge counts, by source.
//!
//! A source that nobody configured is never a label: strangers must not be able to grow the set.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// The counters. Clones count into the same ones.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    received: Family<Labels, Counter>,
    recorded: Family<Labels, Counter>,
    duplicates: Family<Labels, Counter>,
    ignored: Family<Labels, Counter>,
    set_aside: Family<Labels, Counter>,
    unauthorised: Family<Labels, Counter>,
    unavailable: Family<Labels, Counter>,
    confirmed: Family<Labels, Counter>,
    drifted: Family<Labels, Counter>,
    confirm_failed: Family<Labels, Counter>,
}

/// Why something was set aside; the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAside {
    /// The body is of a media type that nobody knows.
    MediaType,
    /// The body is no envelope.
    Body,
    /// An event was not understood.
    Event,
    /// The ledger refused the statement.
    Invalid,
    /// The ledger holds other content under the event's id.
    Conflict,
}

impl SetAside {
    fn as_str(self) -> &'static str {
        match self {
            Self::MediaType => "media_type",
            Self::Body => "body",
            Self::Event => "event",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
        }
    }
}

impl Metrics {
    /// Counters that `registry` exposes, as `webhook_*` and `confirm_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, family) in [
            ("webhook_requests", "Requests from a source that proved itself", &metrics.received),
            ("webhook_recorded", "Events recorded", &metrics.recorded),
            ("webhook_duplicates", "Events that had been recorded before", &metrics.duplicates),
            ("webhook_ignored", "Events that move no tag", &metrics.ignored),
            ("webhook_set_aside", "Bodies and events that were not understood", &metrics.set_aside),
            ("webhook_unauthorised", "Requests with a missing or wrong secret", &metrics.unauthorised),
            ("webhook_unavailable", "Requests put off because the ledger could not write", &metrics.unavailable),
            ("confirm_agreed", "Claims that the registry confirmed", &metrics.confirmed),
            ("confirm_drifted", "Claims after which the registry said something else", &metrics.drifted),
            ("confirm_failed", "Claims that could not be checked with the registry", &metrics.confirm_failed),
        ] {
            registry.register(name, help, family.clone());
        }
        metrics
    }

    pub(super) fn received(&self, source: &str) {
        self.received.get_or_create(&of(source)).inc();
    }

    pub(super) fn recorded(&self, source: &str) {
        self.recorded.get_or_create(&of(source)).inc();
    }

    pub(super) fn duplicate(&self, source: &str) {
        self.duplicates.get_or_create(&of(source)).inc();
    }

    pub(super) fn ignored(&self, source: &str, reason: &'static str) {
        self.ignored.get_or_create(&because(source, reason)).inc();
    }

    pub(super) fn set_aside(&self, source: &str, reason: SetAside) {
        self.set_aside.get_or_create(&because(source, reason.as_str())).inc();
    }

    pub(super) fn unauthorised(&self, source: &str) {
        self.unauthorised.get_or_create(&of(source)).inc();
    }

    pub(super) fn unavailable(&self, source: &str) {
        self.unavailable.get_or_create(&of(source)).inc();
    }

    pub(super) fn confirmed(&self, source: &str) {
        self.confirmed.get_or_create(&of(source)).inc();
    }

    pub(super) fn drifted(&self, source: &str) {
        self.drifted.get_or_create(&of(source)).inc();
    }

    pub(super) fn confirm_failed(&self, source: &str, reason: &'static str) {
        self.confirm_failed.get_or_create(&because(source, reason)).inc();
    }
}

fn of(source: &str) -> Labels {
    vec![("source", source.to_owned())]
}

fn because(source: &str, reason: &'static str) -> Labels {
    vec![("source", source.to_owned()), ("reason", reason.to_owned())]
}
