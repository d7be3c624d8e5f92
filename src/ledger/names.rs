//! Canonical names: registry, repository, tag, digest.
//!
//! A name is canonical before it is signed, so that one thing has one name in the log. What is not canonical is refused
//! with the canonical form in the message; nothing is rewritten silently. Grammars: OCI distribution-spec ("Pulling
//! manifests") for repositories and tags, OCI image-spec ("Digests") for digests.

use std::fmt;
use std::str::FromStr;

/// Longest registry or repository, in bytes.
pub const MAX_NAME_LENGTH: usize = 255;
/// Longest tag, in bytes.
pub const MAX_TAG_LENGTH: usize = 128;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("is {length} bytes long; at most {limit} are allowed")]
    TooLong {
        /// What it has.
        length: usize,
        /// What it may have.
        limit: usize,
    },
    /// A valid name, written in another than its canonical form.
    #[error("is not canonical; write {0:?}")]
    NotCanonical(String),
    /// Outside the grammar.
    #[error("{found:?} is not a {what}: {expected}")]
    Grammar {
        /// The kind of name.
        what: &'static str,
        /// What was found.
        found: String,
        /// The grammar in words.
        expected: &'static str,
    },
    /// A digest of the wrong length.
    #[error("a {algorithm} digest has {expected} hexadecimal digits, this one has {found}")]
    DigestLength {
        /// `sha256` or `sha512`.
        algorithm: &'static str,
        /// How many it needs.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A digest of an algorithm that the ledger does not know.
    #[error("digest algorithm {0:?} is not supported; use sha256 or sha512")]
    DigestAlgorithm(String),
}

impl NameError {
    /// A stable word for programs, as in `google.rpc.BadRequest`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "REQUIRED",
            Self::TooLong { .. } => "TOO_LONG",
            Self::NotCanonical(_) => "NOT_CANONICAL",
            Self::Grammar { .. } => "INVALID_FORMAT",
            Self::DigestLength { .. } => "DIGEST_LENGTH",
            Self::DigestAlgorithm(_) => "DIGEST_ALGORITHM",
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The canonical text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// A registry: host in lower case, with its port if that is not 443.
    Registry
}
name! {
    /// A repository inside a registry, `library/nginx`.
    Repository
}
name! {
    /// A tag.
    Tag
}
name! {
    /// A digest, `sha256:` or `sha512:` in lower-case hexadecimal.
    Digest
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        bounded(text, MAX_NAME_LENGTH)?;
        let refuse = || NameError::Grammar {
            what: "registry",
            found: shown(text),
            expected: "a host name, an IPv4 or a bracketed IPv6 address, with a port if it is not 443",
        };
        let canonical = text.to_ascii_lowercase();
        let (host, port) = split_port(&canonical).ok_or_else(refuse)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // An address has many spellings; this writes the one of RFC 5952.
            Some(address) => format!("[{}]", address.parse::<std::net::Ipv6Addr>().map_err(|_| refuse())?),
            None if matches!(host, "index.docker.io" | "registry-1.docker.io") => "docker.io".to_owned(),
            None if host.split('.').all(is_host_label) => host.to_owned(),
            None => return Err(refuse()),
        };
        let canonical = match port.map(|digits| digits.parse::<u16>()) {
            None | Some(Ok(443)) => host,
            Some(Ok(port)) if port > 0 => format!("{host}:{port}"),
            Some(_) => return Err(refuse()),
        };
        if canonical != text {
            return Err(NameError::NotCanonical(canonical));
        }
        Ok(Self(canonical))
    }
}

impl Repository {
    /// Parses a repository of a registry; on Docker Hub an official image is written out, `library/nginx`.
    pub fn parse(registry: &Registry, text: &str) -> Result<Self, NameError> {
        bounded(text, MAX_NAME_LENGTH)?;
        if !text.split('/').all(is_repository_component) {
            let lower = text.to_ascii_lowercase();
            if lower.split('/').all(is_repository_component) {
                // What is wrong with the lower case too is said at once; else that is the canonical form.
                return Err(Self::parse(registry, &lower).err().unwrap_or(NameError::NotCanonical(lower)));
            }
            return Err(NameError::Grammar {
                what: "repository",
                found: shown(text),
                expected: "components of a-z and 0-9 joined by '.', '_', '__' or dashes, separated by '/'",
            });
        }
        if registry.as_str() == "docker.io" && !text.contains('/') {
            let written_out = format!("library/{text}");
            bounded(&written_out, MAX_NAME_LENGTH)?;
            return Err(NameError::NotCanonical(written_out));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        bounded(text, MAX_TAG_LENGTH)?;
        let mut bytes = text.bytes();
        let first_is_valid = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first_is_valid || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            return Err(NameError::Grammar {
                what: "tag",
                found: shown(text),
                expected: "a letter, digit or '_', then letters, digits, '_', '.' or '-'",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Digest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        bounded(text, 7 + 128)?;
        let refuse = || NameError::Grammar {
            what: "digest",
            found: shown(text),
            expected: "sha256: and 64, or sha512: and 128, lower-case hexadecimal digits",
        };
        let canonical = text.to_ascii_lowercase();
        let (algorithm, digits) = canonical.split_once(':').ok_or_else(refuse)?;
        let (algorithm, expected) = match algorithm {
            "sha256" => ("sha256", 64),
            "sha512" => ("sha512", 128),
            other => return Err(NameError::DigestAlgorithm(shown(other))),
        };
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        if digits.len() != expected {
            return Err(NameError::DigestLength { algorithm, expected, found: digits.len() });
        }
        if canonical == text { Ok(Self(canonical)) } else { Err(NameError::NotCanonical(canonical)) }
    }
}

impl Digest {
    /// The first characters, for people: `sha256:1c9ff2a0f3b1`.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(7 + 12)]
    }
}

/// What people type: `registry/repository:tag`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagRef {
    /// The registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: Repository,
    /// The tag in that.
    pub tag: Tag,
}

/// Why a typed reference is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefError {
    /// Not of the form at all.
    #[error("{0:?} is not a reference; write {1}")]
    Shape(String, &'static str),
    /// One of its names is refused.
    #[error("{0} {1}")]
    Name(&'static str, NameError),
}

/// Splits `registry/repository` and parses both.
pub fn parse_repository(text: &str) -> Result<(Registry, Repository), RefError> {
    let (registry, repository) =
        text.split_once('/').ok_or_else(|| RefError::Shape(shown(text), "registry/repository"))?;
    let registry: Registry = registry.parse().map_err(|e| RefError::Name("registry", e))?;
    let repository = Repository::parse(&registry, repository).map_err(|e| RefError::Name("repository", e))?;
    Ok((registry, repository))
}

impl FromStr for TagRef {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let shape = || RefError::Shape(shown(text), "registry/repository:tag");
        if text.contains('@') {
            return Err(RefError::Shape(shown(text), "registry/repository:tag, without a digest"));
        }
        let (path, tag) = text.rsplit_once(':').ok_or_else(shape)?;
        if tag.contains('/') || !path.contains('/') {
            return Err(shape());
        }
        let (registry, repository) = parse_repository(path)?;
        let tag = tag.parse().map_err(|e| RefError::Name("tag", e))?;
        Ok(Self { registry, repository, tag })
    }
}

impl fmt::Display for TagRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

fn bounded(text: &str, limit: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > limit => Err(NameError::TooLong { length, limit }),
        _ => Ok(()),
    }
}

/// Other people's text, short enough for a message.
fn shown(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(79).chain(['…']).collect() }
}

fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if let Some(end) = host.find(']') {
        let (address, rest) = host.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => is_port(port).then_some((address, Some(port))),
            None => rest.is_empty().then_some((address, None)),
        };
    }
    match host.split_once(':') {
        Some((host, port)) => is_port(port).then_some((host, Some(port))),
        None => Some((host, None)),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// OCI: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_repository_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let mut seen = false;
    for b in component.bytes() {
        if alphanumeric(b) {
            let valid = separator.is_empty()
                || matches!(separator.as_str(), "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !valid || (!seen && !separator.is_empty()) {
                return false;
            }
            separator.clear();
            seen = true;
        } else if matches!(b, b'.' | b'_' | b'-') {
            separator.push(char::from(b));
        } else {
            return false;
        }
    }
    seen && separator.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_registries_are_accepted_as_they_are() {
        for text in ["docker.io", "127.0.0.1:5000", "registry", "ghcr.io", "[::1]:5000", "a-b.example:80"] {
            assert_eq!(text.parse::<Registry>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn another_spelling_is_refused_with_the_canonical_one() {
        let canonical = |text: &str| match text.parse::<Registry>() {
            Err(NameError::NotCanonical(form)) => form,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(canonical("Docker.IO"), "docker.io");
        assert_eq!(canonical("index.docker.io"), "docker.io");
        assert_eq!(canonical("ghcr.io:443"), "ghcr.io");
        let hub = "docker.io".parse().expect("canonical");
        assert_eq!(Repository::parse(&hub, "nginx"), Err(NameError::NotCanonical("library/nginx".into())));
        assert_eq!(Repository::parse(&hub, "Library/Nginx"), Err(NameError::NotCanonical("library/nginx".into())));
        assert_eq!(Repository::parse(&hub, "Nginx"), Err(NameError::NotCanonical("library/nginx".into())));
        let too_long = Err(NameError::TooLong { length: 263, limit: 255 });
        assert_eq!(Repository::parse(&hub, &"n".repeat(255)), too_long);
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for text in ["", "-a", "a_b", "a..b", "a:", "a:0", "a:99999", "a:080", "a/b", "[::1", "a\0b", "é.io", "a b"] {
            assert!(text.parse::<Registry>().is_err(), "registry {text:?}");
        }
        let registry = "r".parse().expect("canonical");
        for text in ["", "/", "a/", "/a", "a//b", "a.", ".a", "a..b", "a___b", "a._b", "A b", "a\n", "a:b", "-a"] {
            assert!(Repository::parse(&registry, text).is_err(), "repository {text:?}");
        }
        for text in ["a", "a/b", "a.b", "a_b", "a__b", "a---b", "0/1/2", "team/app"] {
            assert!(Repository::parse(&registry, text).is_ok(), "repository {text:?}");
        }
        for text in ["", ".a", "-a", "v1:2", "a b", "a\0", "é", "a/b"] {
            assert!(text.parse::<Tag>().is_err(), "tag {text:?}");
        }
        assert!("a".repeat(128).parse::<Tag>().is_ok());
        assert_eq!("a".repeat(129).parse::<Tag>(), Err(NameError::TooLong { length: 129, limit: 128 }));
    }

    #[test]
    fn ipv6_registries_have_one_spelling() {
        assert!("[2001:db8::1]:5000".parse::<Registry>().is_ok());
        for other in
            ["[2001:db8:0:0:0:0:0:1]:5000", "[2001:0db8::1]:5000", "[2001:db8:0::1]:5000", "[2001:DB8::1]:5000"]
        {
            let refused = Err(NameError::NotCanonical("[2001:db8::1]:5000".into()));
            assert_eq!(other.parse::<Registry>(), refused, "{other}");
        }
    }

    #[test]
    fn digests_have_one_spelling_and_the_right_length() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(format!("sha256:{hex}").parse::<Digest>().is_ok());
        assert!(format!("sha512:{hex}{hex}").parse::<Digest>().is_ok());
        assert_eq!(
            format!("sha256:{}", hex.to_uppercase()).parse::<Digest>(),
            Err(NameError::NotCanonical(format!("sha256:{hex}")))
        );
        assert_eq!(
            format!("sha256:{}", &hex[..60]).parse::<Digest>(),
            Err(NameError::DigestLength { algorithm: "sha256", expected: 64, found: 60 })
        );
        assert_eq!(format!("md5:{hex}").parse::<Digest>(), Err(NameError::DigestAlgorithm("md5".into())));
        assert!(format!("sha256:{}g", &hex[..63]).parse::<Digest>().is_err());
        // 64 characters in 65 bytes: not "64 digits expected, 64 found".
        let accented = format!("sha256:{}é", &hex[..63]).parse::<Digest>();
        assert!(matches!(accented, Err(NameError::Grammar { .. })), "{accented:?}");
        // Lower case would not mend the length.
        let short = Err(NameError::DigestLength { algorithm: "sha256", expected: 64, found: 2 });
        assert_eq!("SHA256:AB".parse::<Digest>(), short);
        assert!("sha256".parse::<Digest>().is_err());
    }

    #[test]
    fn references_are_split_at_the_first_slash_and_the_last_colon() {
        let reference: TagRef = "127.0.0.1:5000/team/app:v1".parse().expect("valid");
        assert_eq!(reference.registry.as_str(), "127.0.0.1:5000");
        assert_eq!(reference.repository.as_str(), "team/app");
        assert_eq!(reference.tag.as_str(), "v1");
        for text in
            ["nginx", "nginx:latest", "docker.io/nginx", "127.0.0.1:5000/app", "r/a:v1@sha256:00", "docker.io/nginx:1"]
        {
            assert!(text.parse::<TagRef>().is_err(), "{text}");
        }
    }
}
