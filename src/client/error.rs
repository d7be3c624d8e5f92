//! Why a remote ledger gave no answer that can be trusted.

use std::path::PathBuf;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::ask::{MAX_ITEMS, MAX_LENGTH};
use super::trust::TrustError;
use crate::ledger::answer::AnswerError;
use crate::ledger::checkpoint::CheckpointError;
use crate::ledger::evidence::{EvidenceError, ForkError};
use crate::ledger::keys::{ChainError, TwoSuccessors};
use crate::ledger::note::KeyError;

/// Why a remote ledger gave no answer that can be trusted. [`ClientError::is_verification`] tells a server that could not
/// answer from one that answered what does not verify.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error("{found:?} is not a server: {expected}; write http://127.0.0.1:7420 or 127.0.0.1:7420")]
    Address {
        /// What was given.
        found: String,
        /// What is wrong with it.
        expected: &'static str,
    },
    /// Nobody there.
    #[error(
        "no ledger answers at {server} ({reason}); start it with `tagledgerd serve`, or name another one with --server"
    )]
    Unreachable {
        /// Where.
        server: String,
        /// In the system's words.
        reason: String,
    },
    /// A token that cannot be sent.
    #[error("the token has characters that cannot be sent; it must be printable ASCII")]
    Token,
    /// The server answered with an error.
    #[error("{}", words_of(.0))]
    Call(Box<Status>),
    /// An answer lacks a part that it must have.
    #[error("the server's answer has no {0}; is it a tagledgerd of another version?")]
    Incomplete(&'static str),
    /// Page after page, and no end to be seen.
    #[error("the server's answer does not end: {0}; nothing of it is shown")]
    Endless(&'static str),
    /// More than can be held and kept.
    #[error(
        "the answer has more than {MAX_ITEMS} items, or more than {} MiB; narrow the question, or take the first with --limit",
        MAX_LENGTH / (1024 * 1024)
    )]
    TooMuch,
    /// The trust folder.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The server names a key that is none.
    #[error("the server's key is not usable: {0}")]
    Key(#[from] KeyError),
    /// The server names another key than the pinned one.
    #[error(
        "the key of {server} has changed: pinned is\n  {pinned}\nbut it now presents\n  {presented}\n\
         The pinned key did not announce it: somebody may be impersonating the ledger, or its operator began a new one. Nothing was read. If the operator \
         confirms the new key, remove the line for this server from {}, and ask again", known_ledgers.display()
    )]
    KeyChanged {
        /// Which server.
        server: String,
        /// The key it had.
        pinned: String,
        /// The key it has.
        presented: String,
        /// Where keys are pinned.
        known_ledgers: PathBuf,
    },
    /// The keys that the server presents do not follow from the one that is trusted.
    #[error(
        "the keys that {server} presents do not follow from the trusted one: {error}. Nothing was read, and the trusted key stays; ask the ledger's operator"
    )]
    Keys {
        /// Which server.
        server: String,
        /// Why not.
        error: Box<ChainError>,
    },
    /// One key, followed by two.
    #[error(
        "FORK: {0}. Nothing was read; ask the operator and other users of the ledger which of them they were shown"
    )]
    TwoSuccessors(#[from] TwoSuccessors),
    /// A checkpoint that is not one of this ledger.
    #[error("the server's checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Evidence that does not hold.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// An answer that does not follow from its evidence.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The same, and what was served is kept.
    #[error("{error}. Nothing of it is shown; what was served is kept in {}", kept.display())]
    Refused {
        /// Why it does not follow.
        error: AnswerError,
        /// The evidence, for `tagledger verify`.
        kept: PathBuf,
    },
    /// Two checkpoints by one key that are not of one log.
    #[error(
        "FORK: {error}. Both checkpoints are signed by the pinned key; they are kept in\n  {}\n  {}\n\
         Keep these files, and ask the operator and other users of {origin} which checkpoints they have seen",
        kept[0].display(), kept[1].display()
    )]
    Fork {
        /// The log.
        origin: String,
        /// What is wrong.
        error: ForkError,
        /// The remembered checkpoint and the new one.
        kept: [PathBuf; 2],
    },
    /// The server is behind what it has signed before.
    #[error(
        "ROLLBACK: {server} answers from a log of {seen} entries, but {remembered} were seen before under the same key. Both \
         checkpoints are kept in\n  {}\n  {}\nEntries may have been lost or hidden; ask the operator",
        kept[0].display(), kept[1].display()
    )]
    Rollback {
        /// Which server.
        server: String,
        /// The size it has now.
        seen: u64,
        /// The size it had.
        remembered: u64,
        /// The remembered checkpoint and the new one.
        kept: [PathBuf; 2],
    },
    /// The server does not prove that its log continues.
    #[error("the server does not prove that its log of {newer} entries continues the one of {older}: {reason}")]
    Unproven {
        /// The smaller size.
        older: u64,
        /// The larger size.
        newer: u64,
        /// The server's words.
        reason: String,
    },
}

impl ClientError {
    /// Something was answered, and it does not verify.
    pub fn is_verification(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Unreachable { .. }
            | Self::Token
            | Self::Call(_)
            | Self::Incomplete(_)
            | Self::Endless(_)
            | Self::TooMuch
            | Self::Key(_) => false,
            Self::Trust(error) => error.is_verification(),
            Self::KeyChanged { .. }
            | Self::Keys { .. }
            | Self::TwoSuccessors(_)
            | Self::Checkpoint(_)
            | Self::Evidence(_)
            | Self::Answer(_)
            | Self::Refused { .. }
            | Self::Fork { .. }
            | Self::Rollback { .. }
            | Self::Unproven { .. } => true,
        }
    }
}

impl ClientError {
    /// No answer came: what a server says has no source.
    pub(super) fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Call(status) if std::error::Error::source(&**status).is_some())
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// The server could not answer now; it did not refuse.
pub(super) fn is_transient(status: &Status) -> bool {
    // A connection that broke is no answer. What a server says has no source.
    std::error::Error::source(status).is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted | Code::Aborted
        )
}

/// What a terminal does not show, or by which it shows other characters in another order.
pub(crate) fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Control characters written out, as in JSON: what somebody else says may neither begin a line of its own nor move the
/// cursor of a terminal.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_unseen(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A server's error in words, field by field where it says so.
fn words_of(status: &Status) -> String {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    if !violations.is_empty() {
        let lines: Vec<String> =
            violations.iter().map(|violation| format!("{} {}", violation.field, violation.description)).collect();
        return format!("the ledger refused it: {}", visible(&lines.join("; ")));
    }
    let message = visible(status.message());
    match status.code() {
        Code::Unauthenticated if message.contains("token") => {
            format!("{message}; give it with --token-file, TAGLEDGER_TOKEN_FILE or TAGLEDGER_TOKEN")
        }
        Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::NotFound
        | Code::OutOfRange
        | Code::InvalidArgument => message,
        Code::Unimplemented => format!("the server does not know this call ({message}); is it a tagledgerd?"),
        Code::Unavailable => format!("the ledger is unavailable: {message}; try again later"),
        Code::DeadlineExceeded | Code::Cancelled => format!("the server took too long to answer: {message}"),
        code => format!("the server failed: {message} ({code:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_stays_on_its_line() {
        let said = "no\n  proven: all is well\u{1b}[2J\u{9b}1m\r";
        for code in [Code::NotFound, Code::Internal, Code::Unauthenticated, Code::Unimplemented, Code::Unavailable] {
            let words = ClientError::from(Status::new(code, said)).to_string();
            assert!(!words.contains(char::is_control), "{words:?}");
            assert!(words.contains("no\\n  proven: all is well\\u001b[2J\\u009b1m\\u000d"), "{words:?}");
        }
        let details = tonic_types::ErrorDetails::with_bad_request_violation("a\nb", "c\u{1b}d");
        let words = ClientError::from(Status::with_error_details(Code::InvalidArgument, "x", details)).to_string();
        assert_eq!(words, "the ledger refused it: a\\nb c\\u001bd");
    }
}
