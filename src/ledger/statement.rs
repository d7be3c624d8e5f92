//! Statements: what a producer asserts, parsed once from its exact bytes.
//!
//! [`Statement::parse`] is the only door. It accepts a statement only in its one valid encoding (so that no two byte
//! strings mean the same, and none carries what the ledger did not read) and only with canonical names and bounded fields.
//! Every problem is reported, not just the first. What a statement does to the ledger is left to [`super::transition`].

use prost::Message as _;

use super::keys::KeyChange;
use super::names::{Digest, NameError, Registry, Repository, Tag};
use super::policy::{Policy, PolicyError};
use super::principals::Change;
use super::time::{MAX_AHEAD_US, MAX_TIME_US};
use crate::proto;

/// Longest encoded statement, in bytes. Leaves room in an entry of 65,535 for the tags that a deletion by digest unbinds.
pub const MAX_STATEMENT_LENGTH: usize = 16_384;
/// The same of one that changes the policy: it unbinds nothing, and has a whole policy to say.
pub const MAX_POLICY_STATEMENT_LENGTH: usize = 64_000;
/// Most attributes.
pub const MAX_ATTRIBUTES: usize = 32;

/// One field that is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as in the proto: `tag_push.digest`.
    pub field: String,
    /// Stable word for programs.
    pub reason: &'static str,
    /// Words for people; names the limit.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl Violation {
    /// A violation of one field.
    pub fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason, message: message.into() }
    }

    /// The same, as a field of the request that carries the statement: one alone, or one of several.
    pub fn at_statement(mut self, position: usize, of: usize) -> Self {
        let request = if of == 1 { "submission".to_owned() } else { format!("submissions[{position}]") };
        let field = std::mem::take(&mut self.field);
        self.field = match field.as_str() {
            "statement" => format!("{request}.statement"),
            field if field.starts_with("producer") || field == "only_at_version" => format!("{request}.{field}"),
            field => format!("{request}.statement.{field}"),
        };
        self
    }

    /// A name that is refused.
    pub fn of_name(field: impl Into<String>, error: &NameError) -> Self {
        Self::new(field, error.reason(), error.to_string())
    }
}

/// What a producer asserts.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// What it is about.
    pub kind: Kind,
    /// Idempotency key; empty if none.
    pub event_id: String,
    /// The message as sent, for what the ledger only keeps: actor, source and the like.
    pub message: proto::Statement,
}

/// The kinds of statement, with parsed names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A tag was, or is to be, pointed at a digest.
    TagPush {
        /// Which tag.
        tag: TagName,
        /// Where to.
        digest: Digest,
        /// Asked, done, or refused.
        disposition: Disposition,
        /// Index of the intent of which this is the outcome.
        settles: Option<u64>,
    },
    /// A tag was, or is to be, removed.
    TagDelete {
        /// Which tag.
        tag: TagName,
        /// Asked, done, or refused.
        disposition: Disposition,
        /// Index of the intent of which this is the outcome.
        settles: Option<u64>,
    },
    /// A manifest was, or is to be, deleted, with every tag bound to it.
    ManifestDelete {
        /// Where.
        registry: Registry,
        /// Where in it.
        repository: Repository,
        /// Which manifest.
        digest: Digest,
        /// Asked, done, or refused.
        disposition: Disposition,
        /// Index of the intent of which this is the outcome.
        settles: Option<u64>,
    },
    /// Somebody looked.
    TagObserved {
        /// Which tag.
        tag: TagName,
        /// What it pointed to; `None`: it was absent.
        digest: Option<Digest>,
        /// Index of the entry that the look checked.
        checks: Option<u64>,
    },
    /// A workload's container started, stopped or was seen running.
    Deployment {
        /// Which workload.
        workload: Workload,
        /// Where its image lives.
        registry: Registry,
        /// Where in it.
        repository: Repository,
        /// The tag it was asked for by.
        tag: Option<Tag>,
        /// What runs.
        digest: Digest,
        /// Started, stopped or seen.
        phase: Phase,
    },
    /// Somebody checked a signed statement about a digest.
    Attestation {
        /// The digest attested to.
        digest: Digest,
    },
    /// Other rules are to be in force from the next entry on.
    PolicyChange {
        /// All of them.
        policy: Policy,
        /// Only if the policy in force then has this digest.
        replaces: Option<Digest>,
    },
    /// One principal is to be another, or nobody, from the next entry on.
    PrincipalChange {
        /// All that it is to be.
        change: Box<Change>,
    },
    /// The ledger is to sign with another key, once the batch is closed.
    KeyChange {
        /// From which to which.
        change: Box<KeyChange>,
    },
}

/// Registry, repository and tag.
pub type TagName = super::names::TagRef;

/// The key of a workload's history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// "prod".
    pub environment: String,
    /// May be empty, as the next two may.
    pub cluster: String,
    /// A namespace.
    pub namespace: String,
    /// The workload's name.
    pub workload: String,
    /// The container in it.
    pub container: String,
}

/// Whether a statement asks or tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// May I?
    Requested,
    /// It is so.
    Happened,
    /// The registry refused it.
    Refused,
    /// I am about to, unless I may not.
    Intended,
}

/// What became of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Started.
    Started,
    /// Stopped.
    Stopped,
    /// Seen running.
    Observed,
}

impl Statement {
    /// Parses a statement from its producer's bytes, or says everything that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<Violation>> {
        let one = |reason, message: String| vec![Violation::new("statement", reason, message)];
        if bytes.is_empty() {
            return Err(one("REQUIRED", "must not be empty".into()));
        }
        let check_length = |longest: usize| {
            let message = || format!("is {} bytes long; at most {longest} are allowed", bytes.len());
            if bytes.len() > longest { Err(one("TOO_LONG", message())) } else { Ok(()) }
        };
        check_length(MAX_POLICY_STATEMENT_LENGTH)?;
        let message = proto::Statement::decode(bytes)
            .map_err(|e| one("INVALID_ENCODING", format!("is not an encoded tagledger.v1.Statement: {e}")))?;
        if !matches!(message.kind, Some(proto::statement::Kind::PolicyChange(_))) {
            check_length(MAX_STATEMENT_LENGTH)?;
        }
        if message.encode_to_vec() != bytes {
            let what =
                "is not canonically encoded: fields out of order, unknown, repeated, or written at their default";
            return Err(one("NOT_CANONICAL", what.into()));
        }
        let mut check = Check { violations: Vec::new() };
        let kind = check.kind(&message);
        check.envelope(&message);
        match kind {
            Some(kind) if check.violations.is_empty() => Ok(Self { kind, event_id: message.event_id.clone(), message }),
            _ => Err(check.violations),
        }
    }

    /// What depends on the ledger's clock: nothing may have occurred, or been seen, more than a day from now.
    pub fn check_time(&self, now_us: u64) -> Result<(), Violation> {
        let limit = now_us.saturating_add(MAX_AHEAD_US);
        // The last look is not after the first at the new state, so that one is enough.
        let first_seen_us = match &self.message.kind {
            Some(proto::statement::Kind::TagObserved(seen)) => seen.first_seen_us,
            _ => 0,
        };
        let occurred_at_us = u64::try_from(self.message.occurred_at_us).unwrap_or_default();
        for (field, time) in [("occurred_at_us", occurred_at_us), ("tag_observed.first_seen_us", first_seen_us)] {
            if time > limit {
                let message =
                    format!("is {time}, more than a day ahead of the ledger's clock; at most {limit} is allowed");
                return Err(Violation::new(field, "TOO_FAR_AHEAD", message));
            }
        }
        Ok(())
    }

    /// A word for what it is: "push", "delete", "deploy".
    pub fn verb(&self) -> &'static str {
        match &self.kind {
            Kind::TagPush { .. } => "push",
            Kind::TagDelete { .. } => "delete",
            Kind::ManifestDelete { .. } => "delete-digest",
            Kind::TagObserved { .. } => "observe",
            Kind::Deployment { phase: Phase::Started, .. } => "start",
            Kind::Deployment { phase: Phase::Stopped, .. } => "stop",
            Kind::Deployment { phase: Phase::Observed, .. } => "running",
            Kind::Attestation { .. } => "attest",
            Kind::PolicyChange { .. } => "policy",
            Kind::PrincipalChange { .. } => "principal",
            Kind::KeyChange { .. } => "key",
        }
    }
}

/// Collects violations while it parses.
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn refuse(&mut self, field: impl Into<String>, reason: &'static str, message: impl Into<String>) {
        self.violations.push(Violation::new(field, reason, message));
    }

    fn kind(&mut self, message: &proto::Statement) -> Option<Kind> {
        use proto::statement::Kind as Wire;
        match &message.kind {
            None => {
                self.refuse("kind", "REQUIRED", "must be one of the kinds of statement");
                None
            }
            Some(Wire::TagPush(push)) => {
                let tag = self.tag_name("tag_push", &push.registry, &push.repository, &push.tag);
                let digest = self.digest("tag_push.digest", &push.digest);
                let disposition = self.disposition("tag_push.disposition", push.disposition);
                let settles = self.settles("tag_push.settles", push.settles, disposition);
                self.text("tag_push.media_type", &push.media_type, 0, 256);
                Some(Kind::TagPush { tag: tag?, digest: digest?, disposition: disposition?, settles })
            }
            Some(Wire::TagDelete(delete)) => {
                let tag = self.tag_name("tag_delete", &delete.registry, &delete.repository, &delete.tag);
                let disposition = self.disposition("tag_delete.disposition", delete.disposition);
                let settles = self.settles("tag_delete.settles", delete.settles, disposition);
                Some(Kind::TagDelete { tag: tag?, disposition: disposition?, settles })
            }
            Some(Wire::ManifestDelete(delete)) => {
                let place = self.place("manifest_delete", &delete.registry, &delete.repository);
                let digest = self.digest("manifest_delete.digest", &delete.digest);
                let disposition = self.disposition("manifest_delete.disposition", delete.disposition);
                let settles = self.settles("manifest_delete.settles", delete.settles, disposition);
                let (registry, repository) = place?;
                let (digest, disposition) = (digest?, disposition?);
                Some(Kind::ManifestDelete { registry, repository, digest, disposition, settles })
            }
            Some(Wire::TagObserved(seen)) => {
                let tag = self.tag_name("tag_observed", &seen.registry, &seen.repository, &seen.tag);
                let digest = match seen.digest.as_str() {
                    "" => Some(None),
                    digest => self.digest("tag_observed.digest", digest).map(Some),
                };
                self.interval(seen);
                Some(Kind::TagObserved { tag: tag?, digest: digest?, checks: seen.checks_entry.checked_sub(1) })
            }
            Some(Wire::Deployment(deployment)) => self.deployment(deployment),
            Some(Wire::Attestation(attestation)) => {
                let digest = self.digest("attestation.digest", &attestation.digest);
                self.text("attestation.predicate_type", &attestation.predicate_type, 1, 256);
                self.digest("attestation.envelope_digest", &attestation.envelope_digest);
                self.text("attestation.signer", &attestation.signer, 0, 256);
                match proto::attestation::Result::try_from(attestation.result) {
                    Ok(proto::attestation::Result::Unspecified) | Err(_) => {
                        self.enumeration("attestation.result", attestation.result, "1 to 3");
                    }
                    Ok(_) => {}
                }
                Some(Kind::Attestation { digest: digest? })
            }
            Some(Wire::PolicyChange(change)) => {
                let refuse =
                    |error: PolicyError| self.refuse("policy_change.policy", error.reason(), error.to_string());
                let policy = Policy::parse(&change.policy).map_err(refuse).ok();
                let replaces = match change.replaces.as_str() {
                    "" => Some(None),
                    digest => self.digest("policy_change.replaces", digest).map(Some),
                };
                Some(Kind::PolicyChange { policy: policy?, replaces: replaces? })
            }
            Some(Wire::PrincipalChange(change)) => match Change::parse(change) {
                Ok(change) => Some(Kind::PrincipalChange { change: Box::new(change) }),
                Err(mut found) => {
                    self.violations.append(&mut found);
                    None
                }
            },
            Some(Wire::KeyChange(change)) => match KeyChange::parse(change) {
                Ok(change) => Some(Kind::KeyChange { change: Box::new(change) }),
                Err(mut found) => {
                    self.violations.append(&mut found);
                    None
                }
            },
        }
    }

    fn deployment(&mut self, message: &proto::Deployment) -> Option<Kind> {
        for (field, value, shortest) in [
            ("deployment.environment", &message.environment, 1),
            ("deployment.cluster", &message.cluster, 0),
            ("deployment.namespace", &message.namespace, 0),
            ("deployment.workload", &message.workload, 1),
            ("deployment.container", &message.container, 0),
        ] {
            self.text(field, value, shortest, 128);
        }
        let phase = match proto::deployment::Phase::try_from(message.phase) {
            Ok(proto::deployment::Phase::Started) => Some(Phase::Started),
            Ok(proto::deployment::Phase::Stopped) => Some(Phase::Stopped),
            Ok(proto::deployment::Phase::Observed) => Some(Phase::Observed),
            Ok(proto::deployment::Phase::Unspecified) | Err(_) => {
                self.enumeration("deployment.phase", message.phase, "1 to 3");
                None
            }
        };
        let Some(image) = &message.image else {
            self.refuse("deployment.image", "REQUIRED", "must say which image runs");
            return None;
        };
        let place = self.place("deployment.image", &image.registry, &image.repository);
        let digest = self.digest("deployment.image.digest", &image.digest);
        let tag = match image.tag.as_str() {
            "" => Some(None),
            tag => self.name("deployment.image.tag", tag.parse()).map(Some),
        };
        let workload = Workload {
            environment: message.environment.clone(),
            cluster: message.cluster.clone(),
            namespace: message.namespace.clone(),
            workload: message.workload.clone(),
            container: message.container.clone(),
        };
        let (registry, repository) = place?;
        Some(Kind::Deployment { workload, registry, repository, tag: tag?, digest: digest?, phase: phase? })
    }

    /// The fields that every statement may carry.
    fn envelope(&mut self, message: &proto::Statement) {
        self.text("event_id", &message.event_id, 0, 128);
        self.text("actor", &message.actor, 0, 256);
        self.text("source", &message.source, 0, 256);
        self.text("ci_run", &message.ci_run, 0, 512);
        self.text("trace_id", &message.trace_id, 0, 64);
        match u64::try_from(message.occurred_at_us) {
            Err(_) => self.refuse(
                "occurred_at_us",
                "BEFORE_1970",
                format!("is {}; times before 1970 are refused", message.occurred_at_us),
            ),
            Ok(time) if time > MAX_TIME_US => self.refuse(
                "occurred_at_us",
                "TOO_FAR_AHEAD",
                format!("is {time}; at most {MAX_TIME_US} (the end of the year 9999) is allowed"),
            ),
            Ok(_) => {}
        }
        if message.attributes.len() > MAX_ATTRIBUTES {
            let found = message.attributes.len();
            self.refuse("attributes", "TOO_MANY", format!("are {found}; at most {MAX_ATTRIBUTES} are allowed"));
            return;
        }
        for (position, attribute) in message.attributes.iter().enumerate() {
            self.text(&format!("attributes[{position}].key"), &attribute.key, 1, 64);
            self.text(&format!("attributes[{position}].value"), &attribute.value, 0, 1024);
        }
        if message.attributes.windows(2).any(|pair| pair[0].key >= pair[1].key) {
            self.refuse("attributes", "NOT_CANONICAL", "must be sorted by key, each key once");
        }
    }

    fn tag_name(&mut self, field: &str, registry: &str, repository: &str, tag: &str) -> Option<TagName> {
        let place = self.place(field, registry, repository);
        let tag = self.name(&format!("{field}.tag"), tag.parse());
        let (registry, repository) = place?;
        Some(TagName { registry, repository, tag: tag? })
    }

    fn place(&mut self, field: &str, registry: &str, repository: &str) -> Option<(Registry, Repository)> {
        let registry: Option<Registry> = self.name(&format!("{field}.registry"), registry.parse());
        // What a repository's canonical form is depends on the registry; with a bad one, the grammar can still be checked.
        let judged_for = registry.clone().or_else(|| "registry.invalid".parse().ok())?;
        let repository = self.name(&format!("{field}.repository"), Repository::parse(&judged_for, repository));
        Some((registry?, repository?))
    }

    fn digest(&mut self, field: &str, text: &str) -> Option<Digest> {
        self.name(field, text.parse())
    }

    fn name<T>(&mut self, field: &str, parsed: Result<T, NameError>) -> Option<T> {
        parsed.map_err(|error| self.violations.push(Violation::of_name(field, &error))).ok()
    }

    fn disposition(&mut self, field: &str, value: i32) -> Option<Disposition> {
        match proto::Disposition::try_from(value) {
            Ok(proto::Disposition::Requested) => Some(Disposition::Requested),
            Ok(proto::Disposition::Happened) => Some(Disposition::Happened),
            Ok(proto::Disposition::Refused) => Some(Disposition::Refused),
            Ok(proto::Disposition::Intended) => Some(Disposition::Intended),
            Ok(proto::Disposition::Unspecified) | Err(_) => {
                self.enumeration(field, value, "1 (REQUESTED), 2 (HAPPENED), 3 (REFUSED) or 4 (INTENDED)");
                None
            }
        }
    }

    /// When something was last seen otherwise, and first seen as it is.
    fn interval(&mut self, seen: &proto::TagObserved) {
        let (last, first) = (seen.last_seen_us, seen.first_seen_us);
        for (field, time) in [("tag_observed.last_seen_us", last), ("tag_observed.first_seen_us", first)] {
            if time > MAX_TIME_US {
                let message = format!("is {time}; at most {MAX_TIME_US} (the end of the year 9999) is allowed");
                self.refuse(field, "TOO_FAR_AHEAD", message);
            }
        }
        if last > first {
            let message =
                format!("is {last}, after first_seen_us, which is {first}: the old state is seen before the new one");
            self.refuse("tag_observed.last_seen_us", "OUT_OF_ORDER", message);
        }
    }

    /// Only what became of something settles.
    fn settles(&mut self, field: &str, value: u64, disposition: Option<Disposition>) -> Option<u64> {
        if value > 0 && matches!(disposition, Some(Disposition::Requested | Disposition::Intended)) {
            self.refuse(
                field,
                "NOT_ALLOWED",
                format!("is {value}; only what HAPPENED or was REFUSED settles an intent"),
            );
        }
        value.checked_sub(1)
    }

    fn enumeration(&mut self, field: &str, value: i32, allowed: &str) {
        let reason = if value == 0 { "REQUIRED" } else { "UNKNOWN_VALUE" };
        self.refuse(field, reason, format!("is {value}; it must be {allowed}"));
    }

    fn text(&mut self, field: &str, value: &str, shortest: usize, longest: usize) {
        if let Err(violation) = check_text(field, value, shortest, longest) {
            self.violations.push(violation);
        }
    }
}

/// Bounds a free text: its length in bytes, and no control characters.
pub fn check_text(field: &str, value: &str, shortest: usize, longest: usize) -> Result<(), Violation> {
    if value.len() < shortest {
        return Err(Violation::new(field, "REQUIRED", "must not be empty"));
    }
    if value.len() > longest {
        let message = format!("is {} bytes long; at most {longest} are allowed", value.len());
        return Err(Violation::new(field, "TOO_LONG", message));
    }
    if let Some(control) = value.chars().find(|c| c.is_control()) {
        return Err(Violation::new(
            field,
            "CONTROL_CHARACTER",
            format!("contains the control character U+{:04X}", u32::from(control)),
        ));
    }
    Ok(())
}
