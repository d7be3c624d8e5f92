//! The one client of registries: asks what a tag is, and what there is.
//!
//! HEAD the manifest with every media type it may have, and with `If-None-Match` where it is known what to expect: 304 then says
//! that nothing changed, and makes no pull event. Where no digest is named, GET it and hash its bytes (distribution-spec, "Pulling
//! manifests"). That a tag is absent is believed only from a registry's own error message: a 404 may come from anything that
//! answers HTTP. Lists are in `listing`, tokens in `token`, the pace in `gate`.
//!
//! Credentials go to the registry, and to the realm of its tokens; nowhere else that it points to. What to make of an answer is
//! left to the caller, and so is asking again after [`Settings::attempts`].

mod gate;
pub mod listing;
pub mod token;

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, IF_NONE_MATCH};
use reqwest::{Method, Response, StatusCode, redirect};
use sha2::{Digest as _, Sha256, Sha512};

use self::gate::{Gate, backoff, retry_after};
use self::token::{Challenge, Scope, Tokens};
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
/// Longest manifest unless told otherwise, in bytes: what every registry should take, and no client should exceed
/// (distribution-spec, "Pushing Manifests").
pub const MAX_MANIFEST_LENGTH: usize = 4 << 20;
/// Longest error message that is read.
const MAX_ERROR_LENGTH: usize = 1 << 20;
/// Redirects followed, all within the same origin: credentials go nowhere else.
const MAX_REDIRECTS: usize = 3;
const USER_AGENT: &str = concat!("tagledger/", env!("CARGO_PKG_VERSION"));

/// Why a registry gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskError {
    /// It may do later.
    Unreachable(String),
    /// It will say the same again.
    Refused(String),
}

impl AskError {
    /// In words.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Unreachable(reason) | Self::Refused(reason) => reason,
        }
    }
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

/// How patiently a registry is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Longest wait for one whole answer.
    pub timeout: Duration,
    /// Requests a second; `None`: as many as are made.
    pub rate: Option<f64>,
    /// Requests for one answer, before the caller hears of a failure.
    pub attempts: u32,
    /// After a first failure; doubles with each, up to [`Settings::longest_wait`].
    pub backoff: Duration,
    /// Longest wait before another attempt, also if the registry asks for more.
    pub longest_wait: Duration,
    /// Most pages of a list.
    pub pages: usize,
    /// Longest manifest that is read to be hashed, in bytes.
    pub manifest_limit: usize,
}

impl Settings {
    /// For a caller that has patience of its own.
    pub(super) fn once(timeout: Duration) -> Self {
        Self { timeout, rate: None, attempts: 1, ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            rate: Some(20.0),
            attempts: 5,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(120),
            pages: 5000,
            manifest_limit: MAX_MANIFEST_LENGTH,
        }
    }
}

/// A registry that can be asked.
pub(super) struct Registry {
    access: RegistryAccess,
    client: reqwest::Client,
    settings: Settings,
    gate: Gate,
    tokens: Tokens,
}

impl Registry {
    pub(super) fn new(access: RegistryAccess, settings: Settings) -> Result<Self, String> {
        // reqwest is built without a crypto provider of its own. An error means that one was installed before: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            .redirect(redirect::Policy::custom(within_origin));
        if !access.base.is_https() {
            // Without TLS no root certificates are needed, and a machine without any must not fail over that.
            client = client.tls_certs_only([]);
        }
        if access.base.is_loopback() {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| in_full(&error))?;
        Ok(Self { access, client, gate: Gate::new(settings.rate), settings, tokens: Tokens::default() })
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
    /// `recorded` is what is expected: the registry may answer that this is still so; it also tells which algorithm to hash with
    /// where the registry names no digest.
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
        let scope = Scope::Pull(repository.clone());
        let mut headers = manifest_types();
        // distribution-spec leaves it open; Distribution compares with the digest in quotes.
        let known = recorded.and_then(|digest| Some((digest, HeaderValue::try_from(format!("\"{digest}\"")).ok()?)));
        if let Some((_, tag)) = &known {
            headers.insert(IF_NONE_MATCH, tag.clone());
        }
        let head = self.send(Method::HEAD, &url, &scope, &headers, authorization).await?;
        match (head.status(), named_digest(head.headers()), known) {
            (StatusCode::OK, Some(digest), _) => return Ok(Some(digest)),
            (StatusCode::NOT_MODIFIED, named, Some((known, _))) => {
                return Ok(Some(named.unwrap_or_else(|| known.clone())));
            }
            // No digest, no HEAD, or no tag: the body has to tell.
            (StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, ..) => {}
            (status, ..) => return Err(unusable(status)),
        }
        let response = self.send(Method::GET, &url, &scope, &manifest_types(), authorization).await?;
        match (response.status(), named_digest(response.headers())) {
            (StatusCode::OK, Some(digest)) => Ok(Some(digest)),
            (StatusCode::OK, None) => Ok(Some(hashed(&read(response, self.settings.manifest_limit).await?, recorded))),
            (StatusCode::NOT_FOUND, _) => absent(response).await.map(|()| None),
            (status, _) => Err(unusable(status)),
        }
    }

    /// The same, from the manifest itself: what a registry names is held against the bytes that it serves.
    pub(super) async fn examine(&self, tag: &TagRef) -> Result<Option<Digest>, AskError> {
        let url = self.access.base.manifest(tag.repository.as_str(), tag.tag.as_str());
        let scope = Scope::Pull(tag.repository.clone());
        let response = self.send(Method::GET, &url, &scope, &manifest_types(), None).await?;
        match response.status() {
            StatusCode::OK => {
                let named = named_digest(response.headers());
                let found = hashed(&read(response, self.settings.manifest_limit).await?, named.as_ref());
                match named {
                    Some(named) if named != found => Err(AskError::Refused(format!(
                        "it names {named} for a manifest whose bytes are {found}; nothing of that is believed"
                    ))),
                    _ => Ok(Some(found)),
                }
            }
            StatusCode::NOT_FOUND => absent(response).await.map(|()| None),
            status => Err(unusable(status)),
        }
    }

    /// One answer: at its pace, with a token where one is wanted, and again after what may pass.
    async fn send(
        &self,
        method: Method,
        url: &str,
        scope: &Scope,
        headers: &HeaderMap,
        lent: Option<&HeaderValue>,
    ) -> Result<Response, AskError> {
        let (mut failures, mut has_renewed) = (0, false);
        // Whoever lent what it was let in with gets no tokens here: they would be for others, too.
        let is_ours = lent.is_none() || self.access.credentials.is_some();
        loop {
            self.gate.pass().await;
            let token = self.tokens.get(scope);
            let mut request = self.client.request(method.clone(), url).headers(headers.clone());
            match (&token, &self.access.credentials, lent) {
                (Some(token), ..) => request = request.header(AUTHORIZATION, token),
                (None, Some(user), _) => request = request.basic_auth(&user.user, Some(user.password.as_str())),
                (None, None, Some(lent)) => request = request.header(AUTHORIZATION, lent),
                (None, None, None) => {}
            }
            let (error, wait) = match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !has_renewed && is_ours => {
                    let Some(challenge) = Challenge::of(response.headers()) else { return Ok(response) };
                    has_renewed = true;
                    let renewing = self.tokens.renew(&self.client, &self.access, scope, &challenge, token.as_ref());
                    match renewing.await {
                        Ok(_) => continue,
                        Err(AskError::Refused(reason)) => return Err(AskError::Refused(reason)),
                        Err(error) => {
                            has_renewed = false;
                            (error, None)
                        }
                    }
                }
                Ok(response) if is_passing(response.status()) => {
                    (unusable(response.status()), retry_after(response.headers(), Timestamp::now()))
                }
                Ok(response) => return Ok(response),
                Err(error) => (unreachable(error), None),
            };
            if let Some(wait) = wait {
                if wait > self.settings.longest_wait {
                    let seconds = wait.as_secs();
                    return Err(AskError::Unreachable(format!("{}, and asks to wait for {seconds} s", error.reason())));
                }
                self.gate.hold(wait);
            }
            failures += 1;
            if failures >= self.settings.attempts {
                return Err(error);
            }
            if wait.is_none() {
                tokio::time::sleep(backoff(self.settings.backoff, self.settings.longest_wait, failures)).await;
            }
        }
    }
}

fn manifest_types() -> HeaderMap {
    MANIFEST_TYPES.iter().map(|media_type| (ACCEPT, HeaderValue::from_static(media_type))).collect()
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

/// The code of a body that is a registry's error message (distribution-spec, "Error Codes").
fn error_code(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    json["errors"][0]["code"].as_str().map(str::to_owned)
}

/// Whether an error says that something is not there. Harbor says NOT_FOUND.
fn says_absent(body: &[u8]) -> bool {
    matches!(error_code(body).as_deref(), Some("MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NOT_FOUND"))
}

/// Holds a 404 against its body.
async fn absent(response: Response) -> Result<(), AskError> {
    if says_absent(&read(response, MAX_ERROR_LENGTH).await?) { Ok(()) } else { Err(no_registry()) }
}

fn no_registry() -> AskError {
    let reason = "it answers 404 without a registry's error message; is the address the registry's?";
    AskError::Refused(reason.to_owned())
}

async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > limit {
            return Err(AskError::Refused(format!("its answer is longer than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Whether an answer may be another one later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn unusable(status: StatusCode) -> AskError {
    if is_passing(status) {
        return AskError::Unreachable(format!("it answers {status}"));
    }
    AskError::Refused(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("it answers {status}; configure a user that may pull")
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
        assert!(says_absent(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#));
        for body in [
            "",
            "404 page not found",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"errors":[{"code":5}]}"#,
            r#"{"errors":[{"code":"DENIED"}]}"#,
        ] {
            assert!(!says_absent(body.as_bytes()), "{body}");
        }
    }
}
