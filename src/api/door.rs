//! The door: what a submission must pass before it is queued.
//!
//! Everything that does not depend on the ledger's state is checked here, in parallel, before the sequencer sees it:
//! encoding, names, limits, signature. Who may state what is checked too, by the principals of now; the sequencer has the last
//! word, by those of then.

use std::net::IpAddr;

use super::failures::Reason;
use super::principals::{Access, Caller, check_signature};
use crate::engine::plan::Submission;
use crate::ledger::principals::Principals;
use crate::ledger::principals::authority::Unauthorized;
use crate::ledger::statement::{Statement, Violation};
use crate::ledger::subject::tag_of;
use crate::proto;

/// Most statements of one request.
pub const MAX_STATEMENTS: usize = 1000;
/// Most bytes of statements in one request.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Why statements are not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Fields that are wrong.
    Invalid(Vec<Violation>),
    /// Whoever sends them may not.
    Unauthorized(Unauthorized),
}

/// Admits the statements of a request, or says everything that is wrong with them.
pub fn admit(
    access: &Access,
    caller: &Caller,
    address: IpAddr,
    submissions: Vec<proto::Submission>,
) -> Result<Vec<Submission>, Refused> {
    let count = submissions.len();
    if count == 0 || count > MAX_STATEMENTS {
        let message = format!("are {count}; 1 to {MAX_STATEMENTS} are allowed");
        return Err(Refused::Invalid(vec![Violation::new("submissions", "COUNT", message)]));
    }
    let bytes: usize = submissions.iter().map(|submission| submission.statement.len()).sum();
    if bytes > MAX_REQUEST_BYTES {
        let message = format!("have {bytes} bytes of statements; at most {MAX_REQUEST_BYTES} are allowed");
        return Err(Refused::Invalid(vec![Violation::new("submissions", "TOO_LONG", message)]));
    }
    let principals = access.principals();
    let mut admitted = Vec::with_capacity(count);
    let mut violations = Vec::new();
    for (position, submission) in submissions.into_iter().enumerate() {
        match admit_one(&principals, caller, submission) {
            Ok(submission) => admitted.push(submission),
            Err(Refused::Invalid(found)) => {
                if let Some(signature) = found.iter().find(|violation| violation.field.starts_with("producer")) {
                    access.failures.note(Reason::Signature, address, signature);
                }
                violations.extend(found.into_iter().map(|v| v.at_statement(position, count)));
            }
            Err(refused) => {
                if let Refused::Unauthorized(unauthorized) = &refused {
                    access.failures.note(reason(unauthorized), address, unauthorized);
                }
                return Err(refused);
            }
        }
    }
    if violations.is_empty() { Ok(admitted) } else { Err(Refused::Invalid(violations)) }
}

fn admit_one(principals: &Principals, caller: &Caller, submission: proto::Submission) -> Result<Submission, Refused> {
    let statement = Statement::parse(&submission.statement).map_err(Refused::Invalid)?;
    if submission.only_at_version.is_some() && tag_of(&statement).is_none() {
        let message = "is for statements about one tag";
        return Err(Refused::Invalid(vec![Violation::new("only_at_version", "NOT_ALLOWED", message)]));
    }
    let principal = match &caller.name {
        Some(name) => principals.get(name).ok_or_else(|| Refused::Unauthorized(Unauthorized::Unknown(name.clone())))?,
        // Whoever shows nothing but a signature is known by the key.
        None => {
            let id = submission.producer.as_ref().map_or("", |producer| &producer.key_id);
            let holder = principals.iter().find(|principal| principal.key(id).is_some());
            holder.ok_or_else(|| {
                let message = "must be there, by a key of a principal: no token and no certificate were shown";
                Refused::Invalid(vec![Violation::new("producer", "REQUIRED", message)])
            })?
        }
    };
    let mut shown = caller.shown.clone();
    let assurance = check_signature(principal, &submission.statement, submission.producer.as_ref(), &mut shown)
        .map_err(|violation| Refused::Invalid(vec![violation]))?;
    principal.accepts(&shown, false).map_err(Refused::Unauthorized)?;
    principal.authorises(&statement).map_err(Refused::Unauthorized)?;
    Ok(Submission {
        statement,
        bytes: submission.statement,
        principal: principal.name().to_owned(),
        assurance,
        producer: submission.producer,
        shown: Some(shown),
        only_at_version: submission.only_at_version,
    })
}

fn reason(unauthorized: &Unauthorized) -> Reason {
    match unauthorized {
        Unauthorized::Role { .. } | Unauthorized::Grant { .. } => Reason::Role,
        Unauthorized::Unknown(_) => Reason::Changed,
        Unauthorized::Credential { .. } | Unauthorized::Assurance { .. } => Reason::Credentials,
        Unauthorized::Key { .. } | Unauthorized::Signature { .. } | Unauthorized::Repeatable { .. } => {
            Reason::Signature
        }
    }
}
