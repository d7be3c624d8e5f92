//! Whether the registry lets a client change a repository at all: asked before anything is recorded, or said of the ledger.
//!
//! The registry is asked with the client's own headers for the same method on an upload that does not exist, in the same
//! repository. That needs the same rights as the change itself and does nothing (distribution-spec, "Error Codes":
//! BLOB_UPLOAD_UNKNOWN). Where it is turned away, so is the client, by the registry's own answer: its challenge names the right
//! scope. A stranger thus leaves no entry, and learns of no binding.
//!
//! A user's name is in the header only with basic authentication. It is worth something if the registry takes it and takes
//! nobody without: a registry without authentication takes any.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use axum::http::{Method, Response, StatusCode};

use super::Gateway;
use super::change::random_id;
use super::errors::Refusal;
use super::target::Target;
use super::upstream::Outgoing;
use crate::edge::port::GatewayPort;
use crate::ledger::names::Repository;

/// What the registry says of a client.
pub(super) enum Judged {
    /// It may.
    Accepted,
    /// It may not, or the registry does not say now. Nothing was decided.
    Refused(Response<Body>),
}

impl<P: GatewayPort> Gateway<P> {
    /// Asks the registry.
    pub(super) async fn judge(
        &self,
        method: &Method,
        repository: &Repository,
        headers: &HeaderMap,
    ) -> Result<Judged, Refusal> {
        let answer = self.ask_as_if(method, repository, headers.clone()).await?;
        let status = answer.status();
        if status.is_redirection() {
            let message =
                format!("the registry answers {status} and points elsewhere; its address is configured wrongly");
            return Err(Refusal::upstream(StatusCode::BAD_GATEWAY, message));
        }
        let is_refused = turns_away(status)
            || status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        Ok(if is_refused { Judged::Refused(answer) } else { Judged::Accepted })
    }

    /// Whether it is for its credentials that a client was accepted.
    pub(super) async fn demands_credentials(
        &self,
        method: &Method,
        repository: &Repository,
        headers: &HeaderMap,
    ) -> bool {
        let mut headers = headers.clone();
        headers.remove(AUTHORIZATION);
        self.ask_as_if(method, repository, headers).await.is_ok_and(|answer| turns_away(answer.status()))
    }

    async fn ask_as_if(
        &self,
        method: &Method,
        repository: &Repository,
        mut headers: HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        headers.remove(CONTENT_TYPE);
        let path_and_query = Target::Upload(repository.clone(), random_id()).path();
        let outgoing = Outgoing { method: method.clone(), path_and_query, headers };
        Ok(self.upstream.send(outgoing, reqwest::Body::default()).await?)
    }
}

fn turns_away(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
}
