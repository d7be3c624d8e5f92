//! `record`: what producers assert, from the command line.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use prost::Message as _;

use super::name::Image;
use super::when::time_us;
use super::{Answering, Failure, Globals, Outcome, Output, secret, show};
use crate::client::{Receipt, RemoteLedger};
use crate::ledger::names::{Digest, TagRef};
use crate::ledger::note::Skey;
use crate::ledger::statement::{Statement, Violation};
use crate::proto::{self, Disposition, statement::Kind};

/// Record a push, a deletion, a deployment or an observation
///
/// The entry is on disk, synced and in a signed checkpoint before this returns; its proof is checked before it is shown.
#[derive(Debug, Subcommand)]
#[command(after_help = "Writing needs a token: the first one is in the file `token` of the server's data directory.")]
pub(super) enum Record {
    /// Record that a tag was pointed at a digest, or ask for it
    Push(Push),
    /// Record that a tag, or a digest with all its tags, was deleted, or ask for it
    Delete(Delete),
    /// Record that a workload started, stopped, or was seen running an image
    Deploy(Deploy),
    /// Record what somebody saw a tag point to in the registry
    Observe(Observe),
}

/// Record that a tag was pointed at a digest, or ask for it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tagledger record push registry.example/team/app:v1 --digest sha256:… --token-file token\n  \
    tagledger record push registry.example/team/app:prod --digest sha256:… --requested --actor alice && deploy\n\n\
    A denied request is recorded, and exits 1."
)]
pub(super) struct Push {
    /// The tag, registry/repository:tag, or with @digest
    #[arg(value_name = "REF")]
    image: Image,
    /// What it points to
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
    /// Media type of the manifest
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    media_type: String,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    common: Sent,
}

/// Record that a tag, or a digest with all its tags, was deleted, or ask for it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger record delete registry.example/team/app:v1\n  \
    tagledger record delete registry.example/team/app@sha256:…")]
pub(super) struct Delete {
    /// The tag, registry/repository:tag, or registry/repository@digest
    #[arg(value_name = "REF")]
    image: Image,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    common: Sent,
}

/// Record that a workload started, stopped, or was seen running an image
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tagledger record deploy registry.example/team/app:v1@sha256:… --env prod --workload web"
)]
pub(super) struct Deploy {
    /// The image, registry/repository[:tag][@digest]
    #[arg(value_name = "IMAGE")]
    image: Image,
    /// The digest that runs, if the image doesn't say it
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
    /// The environment, like prod
    #[arg(long, value_name = "ENV")]
    env: String,
    /// The workload
    #[arg(long, value_name = "NAME")]
    workload: String,
    /// The cluster it runs in
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    cluster: String,
    /// The namespace it runs in
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    namespace: String,
    /// The container in it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    container: String,
    /// What became of it
    #[arg(long, value_enum, default_value = "started")]
    phase: Phase,
    #[command(flatten)]
    common: Sent,
}

/// Record what somebody saw a tag point to in the registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tagledger record observe registry.example/team/app:v1 --digest sha256:…")]
pub(super) struct Observe {
    /// The tag, registry/repository:tag
    #[arg(value_name = "REF")]
    tag: TagRef,
    /// What it pointed to
    #[arg(long, value_name = "DIGEST", required_unless_present = "absent", conflicts_with = "absent")]
    digest: Option<Digest>,
    /// It was not there
    #[arg(long)]
    absent: bool,
    /// Index of the entry whose claim this look checked
    #[arg(long, value_name = "INDEX")]
    checks_entry: Option<u64>,
    /// When the tag was last seen otherwise, as RFC 3339 or like "3 days ago"
    #[arg(long, value_name = "TIME", value_parser = time_us, requires = "first_seen")]
    last_seen: Option<u64>,
    /// When it was first seen like this
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    first_seen: Option<u64>,
    #[command(flatten)]
    common: Sent,
}

/// Whether to ask or to tell; it happened, if nothing is said.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Asked {
    /// Ask: may I? The ledger decides, and records its decision
    #[arg(long)]
    requested: bool,
    /// Tell that it was attempted, and that the registry refused
    #[arg(long)]
    refused: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Phase {
    Started,
    Stopped,
    Observed,
}

/// What every statement may carry, and how it is sent.
#[derive(Debug, Args)]
pub(super) struct Sent {
    /// Makes it idempotent: the same id again is answered with the first entry [default: a random one]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    event_id: String,
    /// When it happened by your clock; kept and shown, never proven
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    occurred_at: Option<u64>,
    /// Who did it
    #[arg(long, value_name = "WHO", default_value = "", hide_default_value = true)]
    actor: String,
    /// Where the statement is made
    #[arg(long, value_name = "WHERE", default_value = "", hide_default_value = true)]
    source: String,
    /// The build or pipeline run behind it
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    ci_run: String,
    /// W3C trace id
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    trace_id: String,
    /// Anything else; may be repeated
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// Sign the statement with this private key (a file in signed-note form)
    #[arg(long, value_name = "FILE", env = "TAGLEDGER_SIGN_KEY")]
    sign_key: Option<PathBuf>,
    #[command(flatten)]
    answering: Answering,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "write key=value".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Record {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let (kind, common) = match self {
            Self::Push(push) => push.statement()?,
            Self::Delete(delete) => delete.statement()?,
            Self::Deploy(deploy) => deploy.statement()?,
            Self::Observe(observe) => observe.statement(),
        };
        common.send(kind, globals).await
    }
}

impl Push {
    fn statement(self) -> Result<(Kind, Sent), Failure> {
        let digest = one_digest(self.image.digest, self.digest)?;
        let tag = self.image.tag.ok_or_else(|| usage("the reference has no tag; write registry/repository:tag"))?;
        let push = proto::TagPush {
            registry: self.image.repository.registry.to_string(),
            repository: self.image.repository.repository.to_string(),
            tag: tag.to_string(),
            digest: digest.to_string(),
            media_type: self.media_type,
            disposition: self.asked.disposition().into(),
            settles: 0,
        };
        Ok((Kind::TagPush(push), self.common))
    }
}

impl Delete {
    fn statement(self) -> Result<(Kind, Sent), Failure> {
        let registry = self.image.repository.registry.to_string();
        let repository = self.image.repository.repository.to_string();
        let disposition = self.asked.disposition().into();
        let kind = match (self.image.tag, self.image.digest) {
            (Some(tag), None) => Kind::TagDelete(proto::TagDelete {
                registry,
                repository,
                tag: tag.to_string(),
                disposition,
                settles: 0,
            }),
            (None, Some(digest)) => {
                let digest = digest.to_string();
                Kind::ManifestDelete(proto::ManifestDelete { registry, repository, digest, disposition, settles: 0 })
            }
            _ => return Err(usage("write registry/repository:tag or registry/repository@digest, one of the two")),
        };
        Ok((kind, self.common))
    }
}

impl Deploy {
    fn statement(self) -> Result<(Kind, Sent), Failure> {
        let digest = one_digest(self.image.digest, self.digest)?;
        let phase = match self.phase {
            Phase::Started => proto::deployment::Phase::Started,
            Phase::Stopped => proto::deployment::Phase::Stopped,
            Phase::Observed => proto::deployment::Phase::Observed,
        };
        let deployment = proto::Deployment {
            environment: self.env,
            cluster: self.cluster,
            namespace: self.namespace,
            workload: self.workload,
            container: self.container,
            image: Some(proto::Image {
                registry: self.image.repository.registry.to_string(),
                repository: self.image.repository.repository.to_string(),
                tag: self.image.tag.map(|tag| tag.to_string()).unwrap_or_default(),
                digest: digest.to_string(),
            }),
            phase: phase.into(),
        };
        Ok((Kind::Deployment(deployment), self.common))
    }
}

impl Observe {
    fn statement(self) -> (Kind, Sent) {
        let observed = proto::TagObserved {
            registry: self.tag.registry.to_string(),
            repository: self.tag.repository.to_string(),
            tag: self.tag.tag.to_string(),
            digest: self.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            checks_entry: self.checks_entry.map_or(0, |index| index.saturating_add(1)),
            last_seen_us: self.last_seen.unwrap_or_default(),
            first_seen_us: self.first_seen.unwrap_or_default(),
        };
        (Kind::TagObserved(observed), self.common)
    }
}

impl Asked {
    fn disposition(&self) -> Disposition {
        match self {
            Self { requested: true, .. } => Disposition::Requested,
            Self { refused: true, .. } => Disposition::Refused,
            _ => Disposition::Happened,
        }
    }
}

impl Sent {
    async fn send(self, kind: Kind, globals: &Globals) -> Outcome {
        self.check(kind.clone())?;
        let receipt = self.send_to(&globals.open().await?, kind).await?;
        show::receipt(&receipt, &self.answering.output)
    }

    /// Refuses what no ledger accepts, before anybody is asked.
    pub(super) fn check(&self, kind: Kind) -> Result<(), Failure> {
        self.complete(kind)?;
        self.sign_key.as_deref().map(read_key).transpose()?;
        Ok(())
    }

    /// Records a statement of this kind, and keeps the receipt where that is wanted.
    pub(super) async fn send_to(&self, ledger: &RemoteLedger, kind: Kind) -> Result<Receipt, Failure> {
        let statement = self.complete(kind)?;
        let sign_key = self.sign_key.as_deref().map(read_key).transpose()?;
        let receipt = ledger.record(statement, sign_key.as_ref()).await?;
        self.answering.keep(&receipt.claimed)?;
        Ok(receipt)
    }

    pub(super) fn output(&self) -> &Output {
        &self.answering.output
    }

    /// The whole statement, if it is one that a ledger accepts.
    fn complete(&self, kind: Kind) -> Result<proto::Statement, Failure> {
        let mut attributes: Vec<proto::Attribute> = self
            .attributes
            .iter()
            .map(|(key, value)| proto::Attribute { key: key.clone(), value: value.clone() })
            .collect();
        attributes.sort_by(|one, other| one.key.cmp(&other.key));
        let statement = proto::Statement {
            kind: Some(kind),
            event_id: self.event_id.clone(),
            occurred_at_us: self.occurred_at.map_or(0, |time_us| i64::try_from(time_us).unwrap_or(i64::MAX)),
            actor: self.actor.clone(),
            source: self.source.clone(),
            ci_run: self.ci_run.clone(),
            trace_id: self.trace_id.clone(),
            attributes,
        };
        complete(statement)
    }
}

/// A statement, if it is one that a ledger accepts.
pub(super) fn complete(statement: proto::Statement) -> Result<proto::Statement, Failure> {
    match Statement::parse(&statement.encode_to_vec()) {
        Ok(_) => Ok(statement),
        Err(violations) => {
            let words: Vec<String> = violations.iter().map(Violation::to_string).collect();
            Err(Failure::Usage(words.join("; ")))
        }
    }
}

/// The digest in the reference, or the one beside it.
fn one_digest(in_reference: Option<Digest>, beside: Option<Digest>) -> Result<Digest, Failure> {
    match (in_reference, beside) {
        (Some(one), Some(other)) if one != other => Err(usage("the reference and --digest name different digests")),
        (Some(digest), _) | (None, Some(digest)) => Ok(digest),
        (None, None) => Err(usage("which digest? give it with --digest sha256:…, or as …@sha256:…")),
    }
}

pub(super) fn usage(message: &str) -> Failure {
    Failure::Usage(message.to_owned())
}

fn read_key(path: &Path) -> Result<Skey, Failure> {
    let text = secret(path)?;
    Skey::from_text(&text).map_err(|error| Failure::Operational(format!("{}: {error}", path.display())))
}
