//! What the gateway counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, &'static str)>;

/// The counters. Clones count into the same ones.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub(super) requests: Family<Labels, Counter>,
    pub(super) changes: Family<Labels, Counter>,
    pub(super) unrecorded: Counter,
    pub(super) forgotten: Counter,
    pub(super) settled: Family<Labels, Counter>,
    pub(super) open: Gauge,
}

impl Figures {
    /// Counters that `registry` exposes, as `gateway_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let figures = Self::default();
        registry.register(
            "gateway_requests",
            "Requests, by whether they were forwarded as they are, changed a manifest, or were refused for their form",
            figures.requests.clone(),
        );
        registry.register("gateway_changes", "Changes of tags, by what became of them", figures.changes.clone());
        registry.register(
            "gateway_unrecorded",
            "Changes that passed while the ledger could not be reached, and are recorded later by a look",
            figures.unrecorded.clone(),
        );
        registry.register(
            "gateway_forgotten",
            "Changes refused by the gateway or the registry while the ledger could not be reached of which nothing is recorded: too many waited for that",
            figures.forgotten.clone(),
        );
        registry.register(
            "gateway_settled",
            "Intents settled after the fact, by a known outcome or by a look at the registry",
            figures.settled.clone(),
        );
        registry.register("gateway_open", "Intents of which it is not recorded yet what became", figures.open.clone());
        figures
    }

    pub(super) fn request(&self, kind: &'static str) {
        self.requests.get_or_create(&vec![("kind", kind)]).inc();
    }

    pub(super) fn change(&self, became: &'static str) {
        self.changes.get_or_create(&vec![("became", became)]).inc();
    }

    pub(super) fn settled(&self, by: &'static str) {
        self.settled.get_or_create(&vec![("by", by)]).inc();
    }
}
