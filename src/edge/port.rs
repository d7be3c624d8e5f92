//! The port through which the edge speaks to the ledger.
//!
//! Small on purpose: record what a source claims, ask what a tag is. The service implements [`LedgerPort`] in process for its
//! webhooks, [`GatewayPort`] and [`ScannerPort`] over gRPC for a gateway and a scanner, which may run on another machine.

use std::collections::BTreeMap;
use std::future::Future;

use crate::ledger::names::{Digest, Registry, Repository, Tag, TagRef};
use crate::ledger::policy::Policy;
use crate::ledger::statement::Statement;
use crate::proto;

/// What the edge needs of a ledger.
pub trait LedgerPort: Send + Sync + 'static {
    /// Records statements in order, all or none, and returns once they are durable. Statements whose event id is known
    /// already are answered with their first entry.
    fn record(&self, claims: Vec<Claim>) -> impl Future<Output = Result<Vec<proto::Receipt>, PortError>> + Send;

    /// Whether anything may be written on the ledger's disk besides: not while that is nearly full.
    fn has_room(&self) -> bool;

    /// What the ledger holds about a tag now.
    fn tag(&self, tag: &TagRef) -> impl Future<Output = Result<TagView, PortError>> + Send;
}

/// What a scanner needs of a ledger.
pub trait ScannerPort: Send + Sync + 'static {
    /// The repositories of a registry that the ledger ever heard of.
    fn repositories(&self, registry: &Registry) -> impl Future<Output = Result<Vec<Repository>, PortError>> + Send;

    /// The tags of a repository that the ledger knows, bound or not.
    fn tags(
        &self,
        registry: &Registry,
        repository: &Repository,
    ) -> impl Future<Output = Result<BTreeMap<Tag, TagView>, PortError>> + Send;

    /// What the ledger holds about a tag now, and what is open about it in the newest entries of its history, of which at most
    /// so many are read.
    fn standing(&self, tag: &TagRef, newest: u64) -> impl Future<Output = Result<Standing, PortError>> + Send;

    /// Records a statement about a tag in the scanner's own name, if the tag's history still has so many entries; otherwise
    /// [`PortError::Changed`]. Returns once it is durable and proven.
    fn record_at(
        &self,
        statement: proto::Statement,
        version: u64,
    ) -> impl Future<Output = Result<Recorded, PortError>> + Send;
}

/// A tag as the ledger has it, and what is open about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub view: TagView,
    /// Index of the entry that claims something about it, if nobody has looked since.
    pub claim: Option<u64>,
    /// Somebody is about to change it, and has not said yet what became of that.
    pub intent: Option<Intent>,
}

/// An intent that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    /// Index of its entry.
    pub index: u64,
    /// When it was recorded, microseconds since the Unix epoch.
    pub recorded_at_us: u64,
}

/// What a gateway needs of a ledger.
pub trait GatewayPort: Send + Sync + 'static {
    /// Records a statement in the gateway's own name, and returns once it is durable and proven. One whose event id is known
    /// already is answered with its first entry.
    fn record(&self, statement: proto::Statement) -> impl Future<Output = Result<Recorded, PortError>> + Send;

    /// What the ledger holds about a tag now, and who is about to change it.
    fn standing_of(&self, tag: &TagRef) -> impl Future<Output = Result<Standing, PortError>> + Send;

    /// Records a statement about a tag, if the tag's history still has so many entries; otherwise [`PortError::Changed`].
    fn record_if_at(
        &self,
        statement: proto::Statement,
        version: u64,
    ) -> impl Future<Output = Result<Recorded, PortError>> + Send;

    /// The tags of a repository that the ledger knows, bound or not.
    fn tags_of(
        &self,
        registry: &Registry,
        repository: &Repository,
    ) -> impl Future<Output = Result<BTreeMap<Tag, TagView>, PortError>> + Send;

    /// The policy in force.
    fn policy(&self) -> impl Future<Output = Result<Policy, PortError>> + Send;

    /// An intent, by the index of its entry.
    fn intent(&self, index: u64) -> impl Future<Output = Result<Intended, PortError>> + Send;

    /// The entries that change or tell a tag of a digest, or delete its manifest, of those recorded at or after a time, in their order.
    /// Of what this port had recorded before, none is left out.
    fn sightings(
        &self,
        digest: &Digest,
        since_us: u64,
    ) -> impl Future<Output = Result<Vec<Sighting>, PortError>> + Send;

    /// Whether an intent holds a tag.
    fn holds(&self, intent: Intent, tag: &TagRef) -> impl Future<Output = Result<bool, PortError>> + Send;
}

/// An entry that names a digest.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Its index.
    pub index: u64,
    /// When it was recorded, microseconds since the Unix epoch.
    pub recorded_at_us: u64,
    /// Whose it is.
    pub principal: String,
    /// What the ledger made of it.
    pub outcome: proto::Outcome,
    /// What it says.
    pub statement: Statement,
}

/// What somebody is about to make of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intended {
    /// When that was recorded, microseconds since the Unix epoch.
    pub recorded_at_us: u64,
    /// What the tag is to point to; none: it is to go.
    pub digest: Option<Digest>,
}

/// What became of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Index of its entry; of the first, where it became several.
    pub index: u64,
    /// When that was recorded, microseconds since the Unix epoch.
    pub recorded_at_us: u64,
    /// What the ledger made of it.
    pub outcome: proto::Outcome,
    /// The rule that decided; empty if none did.
    pub rule: String,
    /// Why, in words.
    pub detail: String,
}

/// A statement and who vouches for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// "webhook/<source>".
    pub principal: String,
    /// How far the edge could tell who spoke.
    pub assurance: proto::Assurance,
    /// What is claimed.
    pub statement: proto::Statement,
    /// Record it only if the tag's history still has this many entries; otherwise [`PortError::Changed`].
    pub only_at_version: Option<u64>,
}

/// A tag as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagView {
    /// Number of entries in its history.
    pub version: u64,
    /// What it points to.
    pub digest: Option<Digest>,
}

/// Why the ledger did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// A statement is not valid. Asking again will not help.
    #[error("refused: {0}")]
    Invalid(String),
    /// The event id was used for other bytes. Asking again will not help.
    #[error("the event id {event_id:?} is already taken by entry {index}, for other content")]
    Conflict {
        /// The id.
        event_id: String,
        /// Its first entry.
        index: u64,
    },
    /// The tag has new entries since the caller looked.
    #[error("the tag changed in the meantime")]
    Changed,
    /// Somebody is about to change the tag, and nobody has said yet what became of it. Ask again later, or settle it.
    #[error("tag {tag} is held by the intent in entry {index}")]
    Held {
        /// Which tag.
        tag: String,
        /// Index of the intent.
        index: u64,
    },
    /// What the ledger answered does not verify under its pinned key: it is not to be trusted, whatever it says.
    #[error("the ledger's answer does not verify: {0}")]
    Untrusted(String),
    /// The ledger is there and may have recorded a statement, but what it takes to check its receipt was not to be had.
    #[error("the ledger's receipt could not be checked: {0}")]
    Unchecked(String),
    /// The ledger is there, and takes no more from this client for now. Ask again later.
    #[error("the ledger takes no more for now: {0}")]
    Overloaded(String),
    /// The ledger cannot write now, or nobody can reach it. Ask again later.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
}

impl PortError {
    /// The ledger said no, and has no entry of the statement. After any other error it may have one.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Conflict { .. } | Self::Changed | Self::Held { .. } | Self::Overloaded(_) => true,
            Self::Untrusted(_) | Self::Unchecked(_) | Self::Unavailable(_) => false,
        }
    }
}
