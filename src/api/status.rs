//! The one table from errors to statuses.
//!
//! Every refusal of a field is a `google.rpc.BadRequest` that names it; every "later" carries a `google.rpc.RetryInfo`.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::door::Refused;
use super::limits::TooMuch;
use super::principals::AuthError;
use crate::engine::AppendError;
use crate::engine::ReadError;
use crate::engine::plan::Rejected;
use crate::engine::query::QueryError;
use crate::ledger::principals::authority::Unauthorized;
use crate::ledger::statement::Violation;
use crate::proto;

/// Most refused fields that an answer names.
const MAX_VIOLATIONS: usize = 10;
/// When a client may ask again after "too much" or "not now".
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Fields that are refused.
pub fn invalid(violations: &[Violation]) -> Status {
    let words = violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ");
    bad_request(Code::InvalidArgument, words, violations)
}

/// An append that was not made.
pub fn of_append(error: &AppendError) -> Status {
    match error {
        AppendError::Invalid(violations) => invalid(violations),
        AppendError::Rejected(rejected @ Rejected::Conflict { position, of, event_id, index }) => {
            let message =
                format!("{event_id:?} was used for another statement, recorded as entry {index}; use a new id");
            let violation = Violation::new("event_id", "EVENT_ID_TAKEN", message).at_statement(*position, *of);
            bad_request(Code::AlreadyExists, rejected.to_string(), &[violation])
        }
        AppendError::Rejected(Rejected::Keys { position, of, error }) => {
            let violation = Violation::new("key_change", "REFUSED", format!("is refused: {error}"));
            bad_request(Code::FailedPrecondition, error.to_string(), &[violation.at_statement(*position, *of)])
        }
        AppendError::Rejected(Rejected::ChangingKey | Rejected::BatchIsFull) => retry(Code::Aborted, error.to_string()),
        AppendError::Rejected(Rejected::TooManyEntries) => Status::failed_precondition(error.to_string()),
        AppendError::Rejected(Rejected::Changed { .. }) => Status::aborted(error.to_string()),
        AppendError::Rejected(Rejected::Held { tag, index }) => {
            let holder = [("tag", tag.clone()), ("index", index.to_string())];
            let mut details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
            details.set_error_info("TAG_HELD", "tagledger", holder.map(|(name, value)| (name.to_owned(), value)));
            Status::with_error_details(Code::Aborted, error.to_string(), details)
        }
        AppendError::Rejected(Rejected::Unauthorized { unauthorized, .. }) => of_unauthorized(unauthorized),
        AppendError::Rejected(Rejected::Principals { position, of, error }) => {
            let violation = Violation::new("principal_change", "REFUSED", format!("is refused: {error}"));
            bad_request(Code::FailedPrecondition, error.to_string(), &[violation.at_statement(*position, *of)])
        }
        AppendError::Overloaded | AppendError::Shortage(_) => retry(Code::ResourceExhausted, error.to_string()),
        AppendError::Stopped(_) => retry(Code::Unavailable, error.to_string()),
        AppendError::Unread(error) => recorded_but_unread(error),
    }
}

/// A question that is not answered.
pub fn of_query(error: &QueryError) -> Status {
    match error {
        QueryError::OutOfRange { field, value, allowed } => {
            let violation = Violation::new(*field, "OUT_OF_RANGE", format!("is {value}; {allowed}"));
            bad_request(Code::OutOfRange, error.to_string(), &[violation])
        }
        QueryError::Invalid { field, reason, message } => invalid(&[Violation::new(*field, reason, message.clone())]),
        QueryError::NoSuchLeaf(_) => Status::not_found(error.to_string()),
        QueryError::Read(error) => of_read(error),
    }
}

/// A read that failed.
pub fn of_read(error: &ReadError) -> Status {
    match error {
        ReadError::Storage { .. } => retry(Code::Unavailable, error.to_string()),
        ReadError::Damaged { .. } => Status::data_loss(error.to_string()),
    }
}

/// Statements were recorded, and what proves it can't be read: nothing to be repeated.
pub fn recorded_but_unread(error: &ReadError) -> Status {
    Status::data_loss(format!(
        "the statements are recorded, but their proof can't be read: {error}; do not send them again"
    ))
}

/// A caller who may not.
pub fn of_auth(error: &AuthError) -> Status {
    match error {
        AuthError::NoReader(_) => Status::permission_denied(error.to_string()),
        AuthError::Missing
        | AuthError::Unknown
        | AuthError::BadCertificate(_)
        | AuthError::Certificate(_)
        | AuthError::Credentials(_) => Status::unauthenticated(error.to_string()),
    }
}

/// A statement that is not let in.
pub fn of_refused(refused: &Refused) -> Status {
    match refused {
        Refused::Invalid(violations) => invalid(violations),
        Refused::Unauthorized(unauthorized) => of_unauthorized(unauthorized),
    }
}

/// A statement that whoever sends it may not make, or not so.
pub fn of_unauthorized(unauthorized: &Unauthorized) -> Status {
    match unauthorized {
        Unauthorized::Role { .. } | Unauthorized::Grant { .. } => Status::permission_denied(unauthorized.to_string()),
        Unauthorized::Repeatable { .. } => {
            invalid(&[Violation::new("event_id", "REQUIRED", format!("must be there: {unauthorized}"))])
        }
        Unauthorized::Unknown(_)
        | Unauthorized::Credential { .. }
        | Unauthorized::Assurance { .. }
        | Unauthorized::Key { .. }
        | Unauthorized::Signature { .. } => Status::unauthenticated(unauthorized.to_string()),
    }
}

/// More than the caller may ask for.
pub fn of_limit(error: &TooMuch) -> Status {
    let details = ErrorDetails::with_retry_info(Some(error.retry_after));
    Status::with_error_details(Code::ResourceExhausted, error.to_string(), details)
}

/// A request whose body dribbles.
pub fn too_slow() -> Status {
    Status::deadline_exceeded("the request did not arrive in time; nothing of it was done")
}

/// Nobody waits for the answer any more.
pub fn deadline_exceeded() -> Status {
    Status::deadline_exceeded(
        "the deadline that came with the request has passed; a statement may be recorded all the same: with an event id, asking \
         again says so",
    )
}

/// The server ends, and a stream with it.
pub fn stops() -> Status {
    retry(
        Code::Unavailable,
        "the ledger stops; what was not answered may be recorded: ask again with the same event id".into(),
    )
}

/// A bug of ours, which the log says more of.
pub fn bug() -> Status {
    Status::internal("a bug was hit while this was answered; the server's log says where")
}

/// The same for who speaks plain HTTP.
pub fn bug_over_http(is_grpc: bool) -> Response {
    over_http(bug(), StatusCode::INTERNAL_SERVER_ERROR, is_grpc)
}

/// The same for a request that did not arrive in time.
pub fn too_slow_over_http(is_grpc: bool) -> Response {
    over_http(too_slow(), StatusCode::REQUEST_TIMEOUT, is_grpc)
}

fn over_http(status: Status, code: StatusCode, is_grpc: bool) -> Response {
    if is_grpc {
        return status.into_http();
    }
    (code, format!("{}\n", status.message())).into_response()
}

/// A status at the end of a stream.
pub fn in_trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Only a message that is no header can't be added, and these are ours.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// A reader who was one when the stream began.
pub fn no_reader_any_more() -> Status {
    Status::unauthenticated("the principal was revoked or may not read any more: the stream ends here")
}

/// The same, for a statement of a stream, which goes on.
pub fn refusal(status: &Status) -> proto::Refusal {
    let violations = status.get_error_details().bad_request().map(|bad| bad.field_violations.clone());
    let violation = |violation: FieldViolation| proto::FieldViolation {
        field: violation.field,
        description: violation.description,
        reason: violation.reason,
    };
    proto::Refusal {
        code: status.code().into(),
        message: status.message().to_owned(),
        violations: violations.unwrap_or_default().into_iter().map(violation).collect(),
    }
}

fn bad_request(code: Code, message: String, violations: &[Violation]) -> Status {
    let violation = |violation: &Violation| FieldViolation {
        field: violation.field.clone(),
        description: violation.message.clone(),
        reason: violation.reason.to_owned(),
        ..FieldViolation::default()
    };
    // A status travels in headers, which are bounded; a request can hold thousands of bad fields.
    let shown = &violations[..violations.len().min(MAX_VIOLATIONS)];
    let details = ErrorDetails::with_bad_request(shown.iter().map(violation).collect::<Vec<_>>());
    let message = match violations.len() {
        count if count > MAX_VIOLATIONS => format!("{count} fields are refused; the first {MAX_VIOLATIONS} are named"),
        _ => message,
    };
    Status::with_error_details(code, message, details)
}

fn retry(code: Code, message: String) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(RETRY_AFTER)))
}
