//! Answers, as of a time.
//!
//! A [`Reader`] sees one state of the ledger: a checkpoint, the rows that were committed with it, the upper part of the
//! subject map over them, and the edge of the log's tree. Times mean recorded times, so "as of T" is a prefix of the log; within one subject it is a prefix of
//! the history, found by bisection. Every answer carries what proves it, also that nothing is missing from it (`shown`).
//!
//! What can be asked: `log` (entries and proofs), `history` (one subject), `lists` (many, page by page: `page`).

mod history;
mod lists;
mod log;
mod page;
mod shown;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::ReadError;
use super::moments::Moment;
use crate::ledger::entry::{Body, SignedEntry};
use crate::ledger::merkle::Hash;
use crate::ledger::statement::Statement;
use crate::ledger::time::MAX_TIME_US;
use crate::proto;
use crate::store::Read;
use crate::store::log_tree::{LogNodes, StoredNodes, UpperTiles};
use crate::store::rows::{self, Head};
use shown::Shown;

pub use log::MAX_PROOF_LEAVES;
pub use page::{DEFAULT_PAGE_SIZE, MAX_PAGE_LENGTH, MAX_PAGE_SIZE, fitting};

/// Why a question is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A number lies outside of what there is.
    #[error("{field} is {value}; {allowed}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: String,
    },
    /// A field makes no sense.
    #[error("{field} {message}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// Stable word for programs.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// There is no such entry.
    #[error("no entry has the leaf hash {0}")]
    NoSuchLeaf(String),
    /// The store.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// One state of the ledger.
pub struct Reader<'a> {
    rows: Box<dyn Read + Send + 'a>,
    head: Head,
    moment: Arc<Moment>,
    upper: &'a UpperTiles,
    /// Set by questions whose answer holds as of the newest commitment: they would like to have a newer one.
    has_news: &'a AtomicBool,
}

impl<'a> Reader<'a> {
    /// `head` and `moment` are those of the rows.
    pub(super) fn new(
        rows: Box<dyn Read + Send + 'a>,
        head: Head,
        moment: Arc<Moment>,
        upper: &'a UpperTiles,
        has_news: &'a AtomicBool,
    ) -> Self {
        Self { rows, head, moment, upper, has_news }
    }

    /// The log's tree.
    fn tree(&self) -> LogNodes<'_, dyn Read + Send + 'a> {
        LogNodes { tree: &self.moment.tree, stored: StoredNodes::with(&*self.rows, self.upper) }
    }

    /// Size, time and signed checkpoint.
    pub fn head(&self) -> &Head {
        &self.head
    }

    fn statement(&self, index: u64) -> Result<Statement, ReadError> {
        let bytes = rows::entry(&*self.rows, index)?;
        match SignedEntry::decode(&bytes).map(|entry| entry.body) {
            Ok(Body::Record(_, statement)) => Ok(*statement),
            _ => Err(ReadError::Damaged { table: "entries", what: format!("entry {index} is not a record") }),
        }
    }

    /// The evidence of an answer, unless the question does without.
    fn answered(&self, without_evidence: bool, shown: Shown) -> Result<Option<proto::Evidence>, ReadError> {
        (!without_evidence).then(|| self.closed_evidence(shown)).transpose()
    }

    /// The moment an answer is for: the time asked, but no later than the newest entry's.
    fn moment(&self, field: &'static str, at_us: i64) -> Result<u64, QueryError> {
        match check_time(field, at_us)? {
            0 => Ok(self.head.recorded_at_us),
            time => Ok(time.min(self.head.recorded_at_us)),
        }
    }
}

/// A time of a question; 0 stays 0.
pub fn check_time(field: &'static str, time_us: i64) -> Result<u64, QueryError> {
    let invalid = |reason, message: String| QueryError::Invalid { field, reason, message };
    match u64::try_from(time_us) {
        Err(_) => Err(invalid("BEFORE_1970", format!("is {time_us}; times before 1970 are refused"))),
        Ok(time) if time > MAX_TIME_US => Err(invalid(
            "TOO_FAR_AHEAD",
            format!("is {time}; at most {MAX_TIME_US} (the end of the year 9999) is allowed"),
        )),
        Ok(time) => Ok(time),
    }
}

fn bytes(hashes: Vec<Hash>) -> Vec<Vec<u8>> {
    hashes.into_iter().map(Vec::from).collect()
}
