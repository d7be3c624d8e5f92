//! What the gateway itself answers, in the form of the distribution API: JSON with a code, a message that clients print, and
//! a detail for programs.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// When it is worth while to come again, where that can't be told.
const SHORTLY: Duration = Duration::from_secs(5);

/// Codes of distribution-spec, "Error Codes", and those that registries use beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Denied,
    Unsupported,
    NameInvalid,
    TagInvalid,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    BlobUploadInvalid,
    SizeInvalid,
    TooManyRequests,
    /// Not now; the client may come again.
    Unavailable,
    /// The registry behind the gateway.
    Upstream,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::NameInvalid => "NAME_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Upstream => "UNKNOWN",
        }
    }
}

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) detail: Option<Value>,
    /// When to come again, if that helps.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: None, retry_after: None }
    }

    /// The registry gave no answer that can be passed on.
    pub(super) fn upstream(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, Code::Upstream, message)
    }

    /// Not now.
    pub(super) fn later(message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message);
        Self { retry_after: Some(SHORTLY), ..refusal }
    }

    /// One address wants more than its share.
    pub(super) fn too_many(retry_after: Duration) -> Self {
        let message = "too many changes are attempted from this address; try again later";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, message);
        Self { retry_after: Some(retry_after), ..refusal }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message });
        if let Some(detail) = self.detail {
            error["detail"] = detail;
        }
        let body = Body::from(json!({ "errors": [error] }).to_string());
        let mut response = (self.status, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            // In whole seconds (RFC 9110 section 10.2.3), and not too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
