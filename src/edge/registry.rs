//! Asks a registry what a tag is.
//!
//! HEAD the manifest with every media type it may have; where no digest is named, GET it and hash its bytes
//! (distribution-spec, "Pulling manifests"). That a tag is absent is believed only from a registry's own error message: a 404
//! may come from anything that answers HTTP. Credentials go to the registry and nowhere it points to. How often to ask, and
//! what to make of an answer, is left to the caller.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, redirect};
use sha2::{Digest as _, Sha256, Sha512};

use super::source::RegistryAccess;
use crate::ledger::names::{Digest, Repository, TagRef};

/// Everything a tag may be: with one missing, a registry answers 404 for a tag that exists.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const DIGEST_HEADER: &str = "docker-content-digest";
/// Largest manifest that is read to be hashed; registries accept no larger ones (distribution-spec, "Pushing Manifests").
const MAX_MANIFEST_LENGTH: usize = 4 << 20;
/// Redirects followed, all within the same origin: credentials go nowhere else.
const MAX_REDIRECTS: usize = 3;
/// Why a registry gave no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// It may do later.
    Unreachable(String),
    /// It will say the same again.
    Refused(String),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(reason) | Self::Refused(reason) => f.write_str(reason),
        }
    }
}

/// A registry that can be asked.
pub(super) struct Registry {
    access: RegistryAccess,
    client: reqwest::Client,
}

impl Registry {
    pub(super) fn new(access: RegistryAccess, timeout: Duration) -> Result<Self, String> {
        // reqwest is built without a crypto provider of its own. An error means that one was installed before: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("tagledger/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(redirect::Policy::custom(within_origin));
        if !access.base.is_https() {
            // Without TLS no root certificates are needed, and a machine without any must not fail over that.
            client = client.tls_certs_only([]);
        }
        if access.base.is_loopback() {
            client = client.no_proxy();
        }
        Ok(Self { access, client: client.build().map_err(|error| in_full(&error))? })
    }

    /// Who was asked, within the limit of a statement's `source`.
    pub(super) fn named(&self) -> String {
        let mut name = self.access.base.to_string();
        // A parsed URL is ASCII.
        name.truncate(256);
        name
    }

    /// What a tag points to; `None`: the registry says that it has no such tag.
    ///
    /// `recorded` only tells which algorithm to hash with where the registry names no digest.
    pub(super) async fn ask(&self, tag: &TagRef, recorded: Option<&Digest>) -> Result<Option<Digest>, AskError> {
        self.ask_as(&tag.repository, tag.tag.as_str(), recorded, None).await
    }

    /// What a reference, a tag or a digest, points to. Where no credentials are configured, `authorization` is sent: somebody
    /// who is already talking to this registry lent it.
    pub(super) async fn ask_as(
        &self,
        repository: &Repository,
        reference: &str,
        recorded: Option<&Digest>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Option<Digest>, AskError> {
        let url = self.access.base.manifest(repository.as_str(), reference);
        let head = self.request(Method::HEAD, &url, authorization).await?;
        match (head.status(), named_digest(head.headers())) {
            (StatusCode::OK, Some(digest)) => return Ok(Some(digest)),
            // No digest, no HEAD, or no tag: the body has to tell.
            (StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => {}
            (status, _) => return Err(unusable(status)),
        }
        let response = self.request(Method::GET, &url, authorization).await?;
        match (response.status(), named_digest(response.headers())) {
            (StatusCode::OK, Some(digest)) => Ok(Some(digest)),
            (StatusCode::OK, None) => Ok(Some(hashed(&read(response).await?, recorded))),
            (StatusCode::NOT_FOUND, _) if is_registry_error(&read(response).await?) => Ok(None),
            (StatusCode::NOT_FOUND, _) => Err(AskError::Refused(
                "it answers 404 without a registry's error message; is the address the registry's?".to_owned(),
            )),
            (status, _) => Err(unusable(status)),
        }
    }

    async fn request(
        &self,
        method: Method,
        url: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, AskError> {
        let mut accept = HeaderMap::new();
        for media_type in MANIFEST_TYPES {
            accept.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let mut request = self.client.request(method, url).headers(accept);
        if let Some(credentials) = &self.access.credentials {
            request = request.basic_auth(&credentials.user, Some(credentials.password.as_str()));
        } else if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(unreachable)
    }
}

/// Follows redirects inside the origin that was asked; any other is left as the answer.
fn within_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let asked = attempt.previous().first().map(reqwest::Url::origin);
    let stays = asked == Some(attempt.url().origin());
    if stays && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// The digest that a response names, if it is one.
fn named_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DIGEST_HEADER)?.to_str().ok()?.parse().ok()
}

/// The digest of a manifest, by the algorithm of the recorded one, or SHA-256.
fn hashed(manifest: &[u8], recorded: Option<&Digest>) -> Digest {
    let text = match recorded {
        Some(digest) if digest.as_str().starts_with("sha512:") => {
            format!("sha512:{}", hex::encode(Sha512::digest(manifest)))
        }
        _ => format!("sha256:{}", hex::encode(Sha256::digest(manifest))),
    };
    text.parse().expect("a hash in hexadecimal is a digest")
}

/// Whether a body is a registry's error message (distribution-spec, "Error Codes").
fn is_registry_error(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|json| json["errors"][0]["code"].is_string())
}

async fn read(mut response: Response) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_MANIFEST_LENGTH {
            return Err(AskError::Refused(format!("its answer is longer than {MAX_MANIFEST_LENGTH} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unusable(status: StatusCode) -> AskError {
    let later =
        status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if later {
        return AskError::Unreachable(format!("it answers {status}"));
    }
    AskError::Refused(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("it answers {status}; configure a user that may pull, by HTTP basic authentication")
        }
        status if status.is_redirection() => {
            format!("it answers {status} and points elsewhere; configure the address it points to")
        }
        status => format!("it answers {status}"),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "reads as map_err(unreachable)")]
fn unreachable(error: reqwest::Error) -> AskError {
    AskError::Unreachable(in_full(&error))
}

/// An error with its causes: reqwest's own words leave out why.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registrys_own_words_say_that_a_tag_is_absent() {
        assert!(is_registry_error(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#));
        for body in ["", "404 page not found", "{}", r#"{"errors":[]}"#, r#"{"errors":[{"code":5}]}"#] {
            assert!(!is_registry_error(body.as_bytes()), "{body}");
        }
    }
}
