//! How a gateway or a scanner reaches a ledger on another machine: with the client, so that every receipt is verified under the pinned
//! key before it is believed.
//!
//! The ledger need not be there when the gateway starts: the key is pinned, or compared with the pinned one, at the first
//! call that reaches it.

mod rights;
mod scanner;
mod settings;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::OnceCell;
use tonic::Code;
use tonic_types::StatusExt as _;

pub use self::rights::{Needs, RightsError};
pub use self::settings::{LedgerSettings, LedgerSettingsError, Shown, warn_if_plain};
use crate::client::trust::TrustFolder;
use crate::client::{ClientError, Pin, RemoteLedger, Server};
use crate::edge::port::{GatewayPort, Intended, Intent, PortError, Recorded, ScannerPort, Sighting, Standing, TagView};
use crate::ledger::answer::{Answer, Finding, HistoryVersion, Part, Question};
use crate::ledger::entry::Body;
use crate::ledger::names::{Digest, Registry, Repository, Tag, TagRef};
use crate::ledger::note::Vkey;
use crate::ledger::policy::Policy;
use crate::ledger::statement::Kind;
use crate::proto;

/// Entries of a tag's history in which a gateway looks for an open intent.
const NEWEST: u64 = 16;
/// How many times longer than another one an answer of many pages may take.
const FOR_MANY_PAGES: u32 = 12;

/// A ledger at the other end of a connection.
pub struct OverGrpc {
    server: Server,
    trust: TrustFolder,
    vkey: Option<Vkey>,
    shown: Shown,
    timeout: Duration,
    ledger: OnceCell<RemoteLedger>,
}

impl OverGrpc {
    /// The ledger at `server`, whose key is pinned in `trust`, or given, and which is shown what `shown` holds. No call takes longer than `timeout`.
    pub fn new(server: Server, trust: TrustFolder, vkey: Option<Vkey>, shown: Shown, timeout: Duration) -> Self {
        Self { server, trust, vkey, shown, timeout, ledger: OnceCell::new() }
    }

    async fn ledger(&self) -> Result<&RemoteLedger, ClientError> {
        self.ledger
            .get_or_try_init(|| async {
                let credentials = self.shown.credentials.clone();
                let opening =
                    RemoteLedger::open(self.server.clone(), credentials, self.trust.clone(), self.vkey.clone());
                let (ledger, pin) = opening.await?;
                if pin == Pin::New {
                    let vkey = ledger.vkey();
                    tracing::warn!(server = %self.server, %vkey, "pinned the key that the ledger presents; compare it");
                }
                Ok(ledger)
            })
            .await
    }

    async fn ask(&self, question: Question) -> Result<Answer, PortError> {
        let asking = async { Ok(self.ledger().await?.ask(question).await?.0) };
        self.in_time(asking).await
    }

    /// The same where the answer has many pages.
    async fn ask_at_length(&self, question: Question) -> Result<Answer, PortError> {
        let asking = async { Ok(self.ledger().await?.ask(question).await?.0) };
        within(self.timeout * FOR_MANY_PAGES, &self.server, asking).await
    }

    /// Has a statement recorded, if its tag's history has so many entries where that is given.
    async fn recorded(&self, statement: proto::Statement, only_at: Option<u64>) -> Result<Recorded, PortError> {
        let recording = async {
            let ledger = self.ledger().await?;
            let appended = ledger.append(statement, only_at, self.shown.sign_key.as_ref()).await?;
            Ok(ledger.check(appended).await)
        };
        let receipt = self.in_time(recording).await?.map_err(|error| match port_error(&error) {
            // The statement was taken before: what is refused is only something that it takes to check that.
            error if error.is_refusal() => PortError::Unchecked(error.to_string()),
            error => error,
        })?;
        let index = receipt.recorded.index;
        let Some(Body::Record(record, _)) = receipt.answer.entries.get(index).map(|entry| &entry.body) else {
            return Err(PortError::Untrusted(format!("entry {index} is not shown")));
        };
        let (rule, detail) = (record.rule.clone(), record.detail.clone());
        let recorded_at_us = record.recorded_at_us;
        Ok(Recorded { index, recorded_at_us, outcome: receipt.recorded.outcome, rule, detail })
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, ClientError>> + Send) -> Result<T, PortError> {
        within(self.timeout, &self.server, call).await
    }
}

async fn within<T>(
    limit: Duration,
    server: &Server,
    call: impl Future<Output = Result<T, ClientError>> + Send,
) -> Result<T, PortError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answered) => answered.map_err(|error| port_error(&error)),
        Err(_) => {
            let seconds = limit.as_secs_f32();
            Err(PortError::Unavailable(format!("{server} did not answer within {seconds} seconds")))
        }
    }
}

impl GatewayPort for OverGrpc {
    async fn record(&self, statement: proto::Statement) -> Result<Recorded, PortError> {
        self.recorded(statement, None).await
    }

    async fn standing_of(&self, tag: &TagRef) -> Result<Standing, PortError> {
        ScannerPort::standing(self, tag, NEWEST).await
    }

    async fn record_if_at(&self, statement: proto::Statement, version: u64) -> Result<Recorded, PortError> {
        self.recorded(statement, Some(version)).await
    }

    async fn tags_of(&self, registry: &Registry, repository: &Repository) -> Result<BTreeMap<Tag, TagView>, PortError> {
        ScannerPort::tags(self, registry, repository).await
    }

    async fn policy(&self) -> Result<Policy, PortError> {
        let answer = self.ask(Question::PolicyAt { at_us: 0 }).await?;
        let Finding::State(state) = &answer.finding else {
            return Err(PortError::Untrusted("the policy has no state".to_owned()));
        };
        // Nobody ever set one: no rules.
        let Some(setting) = &state.setting else { return Ok(Policy::default()) };
        match answer.entries.get(setting.set_by.index).map(|entry| &entry.body) {
            Some(Body::Record(_, statement)) => match &statement.kind {
                Kind::PolicyChange { policy, .. } => Ok(policy.clone()),
                _ => Err(PortError::Untrusted("the policy was set by another kind of statement".to_owned())),
            },
            _ => Err(PortError::Untrusted("the entry that set the policy is not shown".to_owned())),
        }
    }

    async fn intent(&self, index: u64) -> Result<Intended, PortError> {
        let answer = self.ask(Question::Entry { index }).await?;
        let entry = answer.entries.get(index);
        let body = entry.map(|entry| &entry.body);
        let Some(Body::Record(record, statement)) = body else {
            return Err(PortError::Untrusted(format!("entry {index}, which is to be an intent, is none")));
        };
        let digest = match &statement.kind {
            Kind::TagPush { digest, .. } => Some(digest.clone()),
            _ => None,
        };
        Ok(Intended { recorded_at_us: record.recorded_at_us, digest })
    }

    // No answer is from before a receipt that this client has checked.
    async fn sightings(&self, digest: &Digest, since_us: u64) -> Result<Vec<Sighting>, PortError> {
        let part = Part { since_us, ..Part::default() };
        let answer = self.ask(Question::Sightings { digest: digest.clone(), part }).await?;
        let Finding::History(history) = &answer.finding else { return Err(beside()) };
        let sighting = |version: &HistoryVersion| {
            let index = version.place.index;
            let Some(Body::Record(record, statement)) = answer.entries.get(index).map(|entry| &entry.body) else {
                return Some(Err(PortError::Untrusted(format!("entry {index} is not shown"))));
            };
            let is_of_tag =
                matches!(statement.kind, Kind::TagPush { .. } | Kind::TagObserved { .. } | Kind::ManifestDelete { .. });
            is_of_tag.then(|| {
                Ok(Sighting {
                    index,
                    recorded_at_us: record.recorded_at_us,
                    principal: record.principal.clone(),
                    outcome: record.outcome(),
                    statement: (**statement).clone(),
                })
            })
        };
        history.versions.iter().filter_map(sighting).collect()
    }

    async fn holds(&self, intent: Intent, tag: &TagRef) -> Result<bool, PortError> {
        // However much came since: all that could have settled it.
        let part = Part { since_us: intent.recorded_at_us, newest_first: true, ..Part::default() };
        Ok(self.standing_in(tag, part).await?.intent == Some(intent))
    }
}

fn beside() -> PortError {
    PortError::Untrusted("the answer is of another kind than the question".to_owned())
}

fn port_error(error: &ClientError) -> PortError {
    let status = match error {
        ClientError::Call(status) => status,
        // How to name another one is said otherwise here than on the command line of `tagledger`.
        ClientError::Unreachable { server, reason } => {
            return PortError::Unavailable(format!("nobody answers at {server} ({reason})"));
        }
        // It answers, but not as a ledger does.
        ClientError::Incomplete(_) | ClientError::Endless(_) => return PortError::Untrusted(error.to_string()),
        error if error.is_verification() => return PortError::Untrusted(error.to_string()),
        // The ledger may well be there: no reason to let anything pass without it.
        _ => return PortError::Invalid(error.to_string()),
    };
    let code = match std::error::Error::source(status.as_ref()) {
        None => status.code(),
        // Nobody's answer: made of what became of the connection.
        Some(_) => Code::Unavailable,
    };
    match code {
        Code::Aborted => held(status).unwrap_or(PortError::Changed),
        Code::AlreadyExists => PortError::Conflict { event_id: String::new(), index: 0 },
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => PortError::Invalid(error.to_string()),
        // It answers: this is no reason to let anything pass without it.
        Code::ResourceExhausted => PortError::Overloaded(error.to_string()),
        _ => PortError::Unavailable(error.to_string().trim_start_matches("the ledger is unavailable: ").to_owned()),
    }
}

/// Who holds a tag, where that is why.
fn held(status: &tonic::Status) -> Option<PortError> {
    let info = status.get_details_error_info().filter(|info| info.reason == "TAG_HELD")?;
    let (tag, index) = (info.metadata.get("tag")?.clone(), info.metadata.get("index")?.parse().ok()?);
    Some(PortError::Held { tag, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_takes_no_more_is_not_one_that_is_gone() {
        let of = |code| port_error(&ClientError::Call(Box::new(tonic::Status::new(code, "x"))));
        assert!(matches!(of(Code::ResourceExhausted), PortError::Overloaded(_)));
        assert_eq!(of(Code::Unavailable).to_string(), "the ledger is unavailable: x; try again later");
        // Somebody between the two had enough of the connection: what the ledger did is not known.
        let mut calm = tonic::Status::new(Code::ResourceExhausted, "x");
        calm.set_source(std::sync::Arc::new(std::io::Error::other("reset, enhance your calm")));
        assert!(matches!(port_error(&ClientError::Call(Box::new(calm))), PortError::Unavailable(_)));
    }

    #[test]
    fn only_a_ledger_that_can_not_be_reached_is_unavailable() {
        use crate::client::trust::TrustError;
        use crate::ledger::answer::AnswerError;
        use crate::ledger::note::Vkey;
        let nobody = ClientError::Unreachable { server: "x".into(), reason: "refused".into() };
        assert!(matches!(port_error(&nobody), PortError::Unavailable(_)));
        for error in [
            ClientError::Address { found: "x".into(), expected: "y" },
            ClientError::Token,
            ClientError::TooMuch,
            ClientError::Key("x".parse::<Vkey>().expect_err("no key")),
            ClientError::Trust(TrustError::Io {
                what: "write",
                path: "x".into(),
                source: std::io::Error::other("full"),
            }),
        ] {
            assert!(matches!(port_error(&error), PortError::Invalid(_)), "{error:?}");
        }
        for error in [
            ClientError::Incomplete("key"),
            ClientError::Endless("x"),
            ClientError::Trust(TrustError::SeveralKeys { path: "x".into(), origin: "o".into() }),
            ClientError::KeyChanged {
                server: "s".into(),
                pinned: "a".into(),
                presented: "b".into(),
                known_ledgers: "x".into(),
            },
            ClientError::Answer(AnswerError::Unclosed { size: 1 }),
            ClientError::Refused { error: AnswerError::Unclosed { size: 1 }, kept: "x".into() },
            ClientError::Rollback { server: "s".into(), seen: 1, remembered: 2, kept: ["x".into(), "y".into()] },
            ClientError::Unproven { older: 1, newer: 2, reason: "none".into() },
        ] {
            assert!(matches!(port_error(&error), PortError::Untrusted(_)), "{error:?}");
        }
    }
}
