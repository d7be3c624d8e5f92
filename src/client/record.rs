//! Recording a statement, and believing that it was recorded only once the receipt verifies.

use prost::Message as _;

use super::{ClientError, RemoteLedger};
use crate::ledger::answer::{Answer, Claimed, Question, Recorded, check_receipt};
use crate::ledger::note::Skey;
use crate::ledger::signature::{key_id, sign, statement_message};
use crate::proto;

/// A statement that is durably in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// What became of it.
    pub recorded: Recorded,
    /// Its entry, proven to be in the log.
    pub answer: Answer,
    /// The same, for others to check.
    pub claimed: Claimed,
}

/// What a server answered to a statement; not checked yet.
#[derive(Debug)]
pub struct Appended {
    bytes: Vec<u8>,
    size_before: u64,
    response: proto::AppendResponse,
}

impl RemoteLedger {
    /// Records one statement, signed by its producer if a key is given. Without an event id it gets one of its own: then no
    /// older entry holds the same bytes, and nobody in between can pass off what became of an older statement as what became
    /// of this one.
    pub async fn record(&self, statement: proto::Statement, sign_key: Option<&Skey>) -> Result<Receipt, ClientError> {
        let appended = self.append(statement, None, sign_key).await?;
        self.check(appended).await
    }

    /// Has a statement recorded, and tells what the server answered, which is worth nothing before it is checked. With a version, only
    /// if the history of the statement's tag still has as many entries; otherwise nothing is recorded, and the call fails as
    /// ABORTED.
    pub async fn append(
        &self,
        mut statement: proto::Statement,
        only_at_version: Option<u64>,
        sign_key: Option<&Skey>,
    ) -> Result<Appended, ClientError> {
        // Nothing is written to a ledger that has forked or lost entries.
        let size_before = self.checkpoint().await?.checkpoint.size;
        if statement.event_id.is_empty() {
            statement.event_id = random_event_id();
        }
        let bytes = statement.encode_to_vec();
        let producer = sign_key.map(|skey| proto::Producer {
            key_id: key_id(&skey.key().verifying_key()),
            signature: sign(skey.key(), &statement_message(&bytes)).to_vec(),
        });
        let submission = proto::Submission { statement: bytes.clone(), producer, only_at_version };
        let request = proto::AppendRequest { submission: Some(submission) };
        let response = self.appends().append(request).await?.into_inner();
        Ok(Appended { bytes, size_before, response })
    }

    /// Checks what the server answered. Where this fails, the statement may be recorded all the same.
    pub async fn check(&self, appended: Appended) -> Result<Receipt, ClientError> {
        let Appended { bytes, size_before, response } = appended;
        let receipt = response.receipt.ok_or(ClientError::Incomplete("receipt"))?;
        let evidence = response.evidence.ok_or(ClientError::Incomplete("evidence"))?;
        let mut claimed = Claimed::new(Question::Entry { index: receipt.index }, vec![evidence]);
        let answer = self.checked(|keys| claimed.check(keys)).await??;
        claimed.keys = self.shown_keys();
        let recorded = check_receipt(&receipt, &bytes, size_before, &answer.entries)?;
        self.observe(answer.entries.note()).await?;
        Ok(Receipt { recorded, answer, claimed })
    }
}

/// 128 bits: nobody guesses one, and no two are the same.
fn random_event_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    hex::encode(bytes)
}
