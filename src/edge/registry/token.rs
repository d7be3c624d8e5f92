//! The token flow of registries: a challenge names a realm, the realm gives a token, and the registry takes that.
//!
//! (Distribution, "Token Authentication Specification".) A token is kept for its scope until it expires. The configured
//! credentials go to the realm and to the registry, and a realm is only believed if nobody on the way could have named it, or
//! read what is sent to it: see `Realm::new`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::{AskError, read, unreachable, within_origin};
use crate::edge::source::{Credentials, RegistryAccess, is_loopback};
use crate::ledger::names::Repository;

/// Longest answer of a realm.
const MAX_ANSWER_LENGTH: usize = 1 << 20;
/// How long a token is good for if its realm does not say, and the least that it may say (the same specification).
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// The most that is believed of that.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);
/// A token is not used in the last part of its life: clocks differ, and requests take time.
const LIFE_USED: f64 = 0.8;

/// What a request is about, and so what a token has to be for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// Reading one repository.
    Pull(Repository),
    /// Listing all repositories.
    Catalogue,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull(repository) => write!(f, "repository:{repository}:pull"),
            Self::Catalogue => f.write_str("registry:catalog:*"),
        }
    }
}

/// Tokens of one registry.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    kept: Mutex<HashMap<Scope, (HeaderValue, Instant)>>,
    /// Held while a token is fetched: of many requests that are challenged at once, one asks.
    fetching: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// The `Authorization` for a scope, if there is one that is good for a while.
    pub(super) fn get(&self, scope: &Scope) -> Option<HeaderValue> {
        let kept = self.kept();
        kept.get(scope).filter(|(_, until)| *until > Instant::now()).map(|(header, _)| header.clone())
    }

    /// Gets a token, unless somebody else just got one after the `refused` one.
    pub(super) async fn renew(
        &self,
        client: &Client,
        access: &RegistryAccess,
        scope: &Scope,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, AskError> {
        let _alone = self.fetching.lock().await;
        if let Some(header) = self.get(scope).filter(|header| Some(header) != refused) {
            return Ok(header);
        }
        let realm = Realm::new(&challenge.realm, access).map_err(AskError::Refused)?;
        let (header, life) = fetch(client, access, &realm, scope, challenge).await?;
        self.kept().insert(scope.clone(), (header.clone(), Instant::now() + life.mul_f64(LIFE_USED)));
        Ok(header)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Scope, (HeaderValue, Instant)>> {
        // Nothing panics between two writes under the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(
    client: &Client,
    access: &RegistryAccess,
    realm: &Realm,
    scope: &Scope,
    challenge: &Challenge,
) -> Result<(HeaderValue, Duration), AskError> {
    let mut url = realm.url.clone();
    let wanted = challenge.scope.clone().unwrap_or_else(|| scope.to_string());
    if let Some(service) = &challenge.service {
        url.query_pairs_mut().append_pair("service", service);
    }
    url.query_pairs_mut().append_pair("scope", &wanted);
    // The registry's client may know no root certificates, as the registry itself needs none.
    let own = (!access.base.is_https() && url.scheme() == "https").then(client_of_realm).transpose()?;
    let mut request = own.as_ref().unwrap_or(client).get(url);
    if let (Some(Credentials { user, password }), true) = (&access.credentials, realm.may_have_credentials) {
        request = request.basic_auth(user, Some(password.as_str()));
    }
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        let reason = format!("its token realm {} answers {status}", realm.named());
        return Err(if status.is_server_error() || status.as_u16() == 429 {
            AskError::Unreachable(reason)
        } else {
            AskError::Refused(format!("{reason}; configure a user that may pull"))
        });
    }
    let body = read(response, MAX_ANSWER_LENGTH).await?;
    let unusable = || AskError::Refused(format!("its token realm {} answers without a token", realm.named()));
    granted(&body).ok_or_else(unusable)
}

/// The token that a realm answers with, as it is shown to the registry, and how long it is good for.
pub fn granted(body: &[u8]) -> Option<(HeaderValue, Duration)> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    let life = answer.expires_in.map_or(SHORTEST_LIFE, Duration::from_secs);
    Some((header, life.clamp(SHORTEST_LIFE, LONGEST_LIFE)))
}

fn client_of_realm() -> Result<Client, AskError> {
    let client = Client::builder()
        .user_agent(super::USER_AGENT)
        .timeout(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::custom(within_origin));
    client.build().map_err(unreachable)
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Where tokens come from.
#[derive(Debug, PartialEq, Eq)]
struct Realm {
    url: Url,
    /// Nobody between here and the registry could have made this realm up.
    may_have_credentials: bool,
}

impl Realm {
    /// A realm that a registry named. It is asked over TLS, or on this machine if the registry is there as well. Where the
    /// registry itself is reached without TLS, the challenge proves nothing of where it comes from, so credentials go to a realm
    /// on the registry's own host only.
    /// By plain http they go to the registry's own host and port only, or to the realm that is configured.
    fn new(text: &str, access: &RegistryAccess) -> Result<Self, String> {
        let base = &access.base;
        let url: Url = text.parse().map_err(|_| "it asks for a token, but its realm is not a URL".to_owned())?;
        let named = |url: &Url| format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        if !url.username().is_empty() || url.password().is_some() || url.host_str().is_none() {
            return Err("it asks for a token, but its realm is not a plain address".to_owned());
        }
        let both_local = base.is_loopback() && is_loopback(&url);
        match url.scheme() {
            "https" => {}
            "http" if both_local => {}
            _ => return Err(format!("its token realm {} is neither https nor on this machine", named(&url))),
        }
        let is_configured = access.token_realm.as_deref() == Some(text);
        let may_have_credentials = is_configured
            || if url.scheme() == "https" {
                base.is_https() || base.is_loopback() || base.has_host_of(&url)
            } else {
                base.has_origin_of(&url)
            };
        if !may_have_credentials && url.scheme() == "http" && access.credentials.is_some() {
            return Err(format!(
                "its token realm {text} is another server, and reached by plain http; name it as its token realm in the configuration, \
                 if the password may go there"
            ));
        }
        Ok(Self { url, may_have_credentials })
    }

    fn named(&self) -> String {
        format!("{}://{}", self.url.scheme(), self.url.authority())
    }
}

/// What a registry wants to see: `WWW-Authenticate: Bearer realm="...",service="...",scope="..."` (RFC 6750 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Who gives tokens.
    pub realm: String,
    /// For whom.
    pub service: Option<String>,
    /// What for.
    pub scope: Option<String>,
}

impl Challenge {
    /// The first challenge for a bearer token, if there is one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| Self::parse(value.to_str().ok()?))
    }

    /// Reads one, if it is for a bearer token.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (name, value) in parameters(rest) {
            match name.as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value).filter(|scope| !scope.is_empty()),
                _ => {}
            }
        }
        Some(Self { realm: realm?, service, scope })
    }
}

/// `name=value` and `name="value"`, separated by commas, which values in quotes may hold (RFC 9110 section 11.2).
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((name, after)) = rest.split_once('=') {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        if after.starts_with('"') {
            chars.next();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => value.push(c),
                }
            }
        } else {
            end = after.find(',').unwrap_or(after.len());
            after[..end].trim().clone_into(&mut value);
        }
        found.push((name.trim().to_ascii_lowercase(), value));
        rest = after[end..].trim_start_matches([' ', ',']);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let read = |text: &str| Challenge::parse(text);
        let challenge = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let (service, scope) = (service.map(str::to_owned), scope.map(str::to_owned));
            Some(Challenge { realm: realm.to_owned(), service, scope })
        };
        assert_eq!(
            read(r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#),
            challenge("https://auth.example/token", Some("r.example"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(
            read(r#"bearer realm=https://a/t, service="x \"y\"""#),
            challenge("https://a/t", Some("x \"y\""), None)
        );
        assert_eq!(
            read(r#"Bearer realm="https://a/t",scope="",error="invalid_token""#),
            challenge("https://a/t", None, None)
        );
        for text in ["", "Bearer", "Bearer service=x", r#"Basic realm="x""#, "Bearer realm", "Bearer =\"", "Bearer \"="]
        {
            assert_eq!(read(text), None, "{text:?}");
        }
        // Never ends in a panic, wherever it is cut.
        let long = r#"Bearer realm="https://a/t",service="r\"é",scope=x"#;
        for (end, _) in long.char_indices() {
            let _ = read(&long[..end]);
        }
    }

    #[test]
    fn realms_are_asked_over_tls_or_on_this_machine() {
        let access = |base: &str, token_realm: Option<&str>| RegistryAccess {
            base: base.parse().expect("a base"),
            credentials: Some(Credentials { user: "u".into(), password: "p".to_owned().into() }),
            token_realm: token_realm.map(str::to_owned),
        };
        let realm = |base: &str, realm: &str| {
            Realm::new(realm, &access(base, None)).map(|realm| realm.may_have_credentials).ok()
        };
        let other = "http://127.0.0.1:6000/token";
        let error = Realm::new(other, &access("http://127.0.0.1:5000", None)).map(drop).expect_err("another port");
        assert!(error.contains("token realm in the configuration"), "{error}");
        let named = Realm::new(other, &access("http://127.0.0.1:5000", Some(other))).expect("it is configured");
        assert!(named.may_have_credentials);
        let stranger = RegistryAccess { credentials: None, ..access("http://127.0.0.1:5000", None) };
        assert!(!Realm::new(other, &stranger).expect("without a password").may_have_credentials);
        for (base, named, expected) in [
            ("https://r.example", "https://auth.example/token", Some(true)),
            ("https://r.example", "http://auth.example/token", None),
            ("https://r.example", "http://127.0.0.1:1/token", None),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token", Some(true)),
            ("http://127.0.0.1:5000", "http://127.0.0.1:6000/token", None),
            ("http://127.0.0.1:5000", "http://localhost:5000/token", None),
            ("http://127.0.0.1:5000", "https://auth.example/token", Some(true)),
            ("http://127.0.0.1:5000", "http://auth.example/token", None),
            ("http://r.example", "https://auth.example/token", Some(false)),
            ("http://r.example", "https://r.example/token", Some(true)),
            ("http://r.example", "http://r.example/token", None),
            ("https://r.example", "https://u:p@auth.example/", None),
            ("https://r.example", "ftp://auth.example/", None),
            ("https://r.example", "file:///etc/passwd", None),
            ("https://r.example", "token", None),
        ] {
            assert_eq!(realm(base, named), expected, "{base} {named}");
        }
    }
}
