//! Receipts: that an append became the entry the server says it became.

use super::{AnswerError, beside};
use crate::ledger::entry::Body;
use crate::ledger::evidence::VerifiedEntries;
use crate::proto::{self, Outcome};

/// What became of a statement, as its entry shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Position of the (first) entry in the log.
    pub index: u64,
    /// What the ledger made of the statement.
    pub outcome: Outcome,
    /// The event id was known before, and nothing new was recorded: the server says so, or the entry is older than the
    /// sending.
    pub duplicate: bool,
    /// Entries that the statement became. Above 1 the server's word.
    pub claimed_count: u32,
}

/// Holds a receipt against the entry: it carries the statement that was sent, byte for byte, and the receipt's outcome.
/// `size_before` is the size of the log before the sending: an entry below it was there already, whatever the receipt says.
pub fn check_receipt(
    receipt: &proto::Receipt,
    statement: &[u8],
    size_before: u64,
    entries: &VerifiedEntries,
) -> Result<Recorded, AnswerError> {
    let index = receipt.index;
    let entry = entries.get(index).ok_or(AnswerError::Missing { index })?;
    let Body::Record(record, _) = &entry.body else {
        return Err(beside(format!("entry {index} is a commitment, not the statement sent")));
    };
    if record.statement != statement {
        return Err(beside(format!("entry {index} holds another statement than the one sent")));
    }
    for (what, claimed, signed) in [
        ("the outcome", receipt.outcome().as_str_name(), record.outcome().as_str_name()),
        ("the rule", &receipt.rule, &record.rule),
        ("the detail", &receipt.detail, &record.detail),
    ] {
        if claimed != signed {
            let (claimed, signed) = (claimed.to_owned(), signed.to_owned());
            return Err(AnswerError::Receipt { index, what, claimed, signed });
        }
    }
    let (outcome, duplicate) = (record.outcome(), receipt.duplicate || index < size_before);
    Ok(Recorded { index, outcome, duplicate, claimed_count: receipt.entry_count })
}
