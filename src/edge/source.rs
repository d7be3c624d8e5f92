//! A source: a registry that may post events, how it proves itself, and how the ledger can ask it.
//!
//! Plain configuration, parsed once. Reading it from a file is left to the server.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::ledger::names::Registry;

/// One source of webhooks.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The last part of its URL, `/webhooks/distribution/<name>`, and of its principal, `webhook/<name>`.
    pub name: SourceName,
    /// What the registry is called in the ledger, whatever its events say.
    pub registry: Registry,
    /// What it must present as a bearer token.
    pub secret: Secret,
    /// Where to ask what a tag really is; `None`: its claims stay claims.
    pub confirm: Option<RegistryAccess>,
}

/// Why a piece of configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The name of a source.
    #[error("source name {0:?} must be 1 to 64 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit")]
    Name(String),
    /// A secret that anybody guesses.
    #[error("the secret of a source must not be empty")]
    EmptySecret,
    /// A secret that no header can carry.
    #[error("the secret of a source must be printable ASCII without spaces")]
    UnprintableSecret,
    /// Where to ask.
    #[error("{url:?} is not the address of a registry: {reason}")]
    Url {
        /// What was given; without what follows an `@`, as that may be a password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A source's name; safe in a path, a file name and a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(String);

impl SourceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How the ledger calls whoever speaks for this source.
    pub fn principal(&self) -> String {
        format!("webhook/{self}")
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SourceName {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = (1..=64).contains(&text.len())
            && text.bytes().next().is_some_and(plain)
            && text.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
        if valid { Ok(Self(text.to_owned())) } else { Err(SourceError::Name(text.to_owned())) }
    }
}

/// The SHA-256 of a secret; the secret itself is not kept.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes a configured secret.
    pub fn new(text: &str) -> Result<Self, SourceError> {
        if text.is_empty() {
            return Err(SourceError::EmptySecret);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SourceError::UnprintableSecret);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether `presented` is the secret. How long it takes tells nothing: hashes are compared, in constant time.
    pub fn matches(&self, presented: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&presented).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How to ask a registry.
#[derive(Debug, Clone)]
pub struct RegistryAccess {
    /// What `/v2/` follows.
    pub base: BaseUrl,
    /// Sent with every request, if given; on plain HTTP the network can read them.
    pub credentials: Option<Credentials>,
    /// Where the credentials may go for a token, also by plain http and to another port.
    pub token_realm: Option<String>,
}

/// `http://host[:port][/prefix]` or `https://...`, without a slash at the end.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl(reqwest::Url);

impl BaseUrl {
    /// The URL of a manifest.
    pub(super) fn manifest(&self, repository: &str, reference: &str) -> String {
        format!("{self}/v2/{repository}/manifests/{reference}")
    }

    /// Whether connections are encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether it is this very machine, which no proxy can reach.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }

    /// Whether a URL is of the same scheme, host and port.
    pub(super) fn has_origin_of(&self, url: &reqwest::Url) -> bool {
        self.0.origin() == url.origin()
    }

    /// Whether a URL is of the same host, at whatever port.
    pub(super) fn has_host_of(&self, url: &reqwest::Url) -> bool {
        self.0.host_str() == url.host_str()
    }
}

/// Whether a URL is of this very machine.
pub(super) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for BaseUrl {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let refuse = |reason: String| {
            let url = text.rsplit_once('@').map_or(text, |(_, rest)| rest).to_owned();
            SourceError::Url { url, reason }
        };
        if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(refuse("it must begin with http:// or https://".to_owned()));
        }
        let url: reqwest::Url = text.parse().map_err(|e| refuse(format!("{e}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("credentials are configured beside the address, not in it".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it must end before any '?' or '#'".to_owned()));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

/// A user of a registry.
#[derive(Clone)]
pub struct Credentials {
    /// Its name.
    pub user: String,
    /// Its password or token.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_are_safe_in_paths_and_file_names() {
        for text in ["lab", "prod-1", "a.b_c", "0"] {
            assert_eq!(text.parse::<SourceName>().map(|name| name.principal()), Ok(format!("webhook/{text}")));
        }
        for text in ["", ".", "..", "-a", "A", "a/b", "a b", "é", &"a".repeat(65)] {
            assert_eq!(text.parse::<SourceName>(), Err(SourceError::Name(text.to_owned())));
        }
    }

    #[test]
    fn only_the_secret_itself_matches_and_nothing_prints_it() {
        let secret = Secret::new("correct-horse").expect("fine");
        assert!(secret.matches(b"correct-horse"));
        for other in ["", "correct-hors", "correct-horse ", "Correct-horse"] {
            assert!(!secret.matches(other.as_bytes()), "{other:?}");
        }
        assert_eq!(Secret::new("").err(), Some(SourceError::EmptySecret));
        assert_eq!(Secret::new("two words").err(), Some(SourceError::UnprintableSecret));
        let credentials = Credentials { user: "robot".into(), password: Zeroizing::new("battery".into()) };
        let printed = format!("{secret:?} {credentials:?}");
        assert!(!printed.contains("horse") && !printed.contains("battery"), "{printed}");
    }

    #[test]
    fn addresses_of_registries_are_http_and_carry_no_secrets() {
        for (text, url) in [
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/v2/team/app/manifests/v1"),
            ("https://r.example/", "https://r.example/v2/team/app/manifests/v1"),
            ("https://r.example/mirror/", "https://r.example/mirror/v2/team/app/manifests/v1"),
        ] {
            assert_eq!(text.parse::<BaseUrl>().map(|base| base.manifest("team/app", "v1")), Ok(url.to_owned()));
        }
        for text in ["", "r.example", "ftp://r.example", "http://", "http://r/?a", "http://r/#a", "http://u:hunter2@r/"]
        {
            let error = text.parse::<BaseUrl>().expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for (text, expected) in [("http://127.0.0.9", true), ("http://[::1]:5", true), ("http://r.example", false)] {
            assert_eq!(text.parse::<BaseUrl>().map(|base| base.is_loopback()), Ok(expected), "{text}");
        }
    }
}
