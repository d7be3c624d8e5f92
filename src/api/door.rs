//! The door: what a submission must pass before it is queued.
//!
//! Everything that does not depend on the ledger's state is checked here, in parallel, before the sequencer sees it:
//! encoding, names, limits, signature.

use super::principals::Principal;
use crate::engine::plan::Submission;
use crate::ledger::statement::{Kind, Statement, Violation};
use crate::ledger::subject::tag_of;
use crate::proto;

/// Most statements of one request.
pub const MAX_STATEMENTS: usize = 1000;
/// Most bytes of statements in one request.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Admits the statements of a request, or says everything that is wrong with them.
pub fn admit(principal: &Principal, submissions: Vec<proto::Submission>) -> Result<Vec<Submission>, Vec<Violation>> {
    let count = submissions.len();
    if count == 0 || count > MAX_STATEMENTS {
        let message = format!("are {count}; 1 to {MAX_STATEMENTS} are allowed");
        return Err(vec![Violation::new("submissions", "COUNT", message)]);
    }
    let bytes: usize = submissions.iter().map(|submission| submission.statement.len()).sum();
    if bytes > MAX_REQUEST_BYTES {
        let message = format!("have {bytes} bytes of statements; at most {MAX_REQUEST_BYTES} are allowed");
        return Err(vec![Violation::new("submissions", "TOO_LONG", message)]);
    }
    let mut admitted = Vec::with_capacity(count);
    let mut violations = Vec::new();
    for (position, submission) in submissions.into_iter().enumerate() {
        match admit_one(principal, submission) {
            Ok(submission) => admitted.push(submission),
            Err(found) => violations.extend(found.into_iter().map(|v| v.at_statement(position, count))),
        }
    }
    if violations.is_empty() { Ok(admitted) } else { Err(violations) }
}

fn admit_one(principal: &Principal, submission: proto::Submission) -> Result<Submission, Vec<Violation>> {
    let statement = Statement::parse(&submission.statement)?;
    if matches!(statement.kind, Kind::PolicyChange { .. }) && !principal.may_administer() {
        let message = format!("is not for principal {:?}: only an administrator may change the policy", principal.name);
        return Err(vec![Violation::new("policy_change", "NOT_ALLOWED", message)]);
    }
    if submission.only_at_version.is_some() && tag_of(&statement).is_none() {
        let message = "is for statements about one tag";
        return Err(vec![Violation::new("only_at_version", "NOT_ALLOWED", message)]);
    }
    let assurance = principal
        .check_signature(&submission.statement, submission.producer.as_ref())
        .map_err(|violation| vec![violation])?;
    Ok(Submission {
        statement,
        bytes: submission.statement,
        principal: principal.name.clone(),
        assurance,
        producer: submission.producer,
        only_at_version: submission.only_at_version,
    })
}
