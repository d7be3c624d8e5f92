//! What one principal is: roles, grants, credentials; parsed once from the statement that says so.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::ledger::names::Digest;
use crate::ledger::note::Vkey;
use crate::ledger::policy::Pattern;
use crate::ledger::signature::key_id;
use crate::ledger::statement::{Violation, check_text};
use crate::proto::{self, Credential, Role, StatementKind, principal_change};

/// Longest name, in bytes.
pub const MAX_NAME_LENGTH: usize = 64;
/// Most grants of one principal.
pub const MAX_GRANTS: usize = 32;
/// Most patterns of one grant.
pub const MAX_PATTERNS: usize = 64;
/// Longest pattern, in bytes.
pub const MAX_PATTERN_LENGTH: usize = 512;
/// Most tokens, certificate names, or keys of one principal.
pub const MAX_CREDENTIALS: usize = 16;
/// Longest name in a certificate, in bytes: that of a domain.
pub const MAX_CERTIFICATE_NAME_LENGTH: usize = 253;

/// One principal is to be this, or nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    name: String,
    principal: Option<Arc<Principal>>,
    bytes: Vec<u8>,
    digest: Digest,
}

/// Somebody who may state something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: String,
    roles: Vec<Role>,
    grants: Vec<Grant>,
    requires: Vec<Credential>,
    tokens: Vec<[u8; 32]>,
    certificate_names: Vec<String>,
    keys: Vec<Vkey>,
}

/// Repositories and kinds of statement.
#[derive(Debug, Clone)]
pub struct Grant {
    repositories: Vec<(String, Pattern)>,
    kinds: Vec<StatementKind>,
}

impl PartialEq for Grant {
    fn eq(&self, other: &Self) -> bool {
        self.kinds == other.kinds && self.patterns().eq(other.patterns())
    }
}

impl Eq for Grant {}

impl Grant {
    /// Its patterns of `registry/repository`.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.repositories.iter().map(|(pattern, _)| pattern.as_str())
    }

    /// Its kinds of statement; empty: all that the role allows.
    pub fn kinds(&self) -> &[StatementKind] {
        &self.kinds
    }

    /// Whether it covers a kind of statement about a repository, `registry/repository`. A statement that names none is
    /// covered whatever the patterns.
    pub fn covers(&self, kind: StatementKind, place: Option<&str>) -> bool {
        let covers_place = |place: &str| self.repositories.iter().any(|(_, pattern)| pattern.is_match(place));
        (self.kinds.is_empty() || self.kinds.contains(&kind)) && place.is_none_or(covers_place)
    }
}

impl Principal {
    /// Its name, as entries carry it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it may do.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Whether it has a role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// What it may speak for as a writer or scanner.
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// What it must show, all of it together.
    pub fn requires(&self) -> &[Credential] {
        &self.requires
    }

    /// Whether it must show this.
    pub fn must_show(&self, credential: Credential) -> bool {
        self.requires.contains(&credential)
    }

    /// SHA-256 of its tokens.
    pub fn tokens(&self) -> &[[u8; 32]] {
        &self.tokens
    }

    /// Whether one of its tokens has this SHA-256. All are compared, in constant time: how long that takes tells nobody how close a
    /// guess was.
    pub fn has_token(&self, presented: &[u8; 32]) -> bool {
        self.tokens.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(presented)).into()
    }

    /// Names in its client certificate.
    pub fn certificate_names(&self) -> &[String] {
        &self.certificate_names
    }

    /// Its keys.
    pub fn keys(&self) -> &[Vkey] {
        &self.keys
    }

    /// Its key of this id.
    pub fn key(&self, id: &str) -> Option<&VerifyingKey> {
        self.keys.iter().map(Vkey::key).find(|key| key_id(key) == id)
    }
}

impl Change {
    /// Reads a change, or says everything that is wrong with it.
    pub fn parse(message: &proto::PrincipalChange) -> Result<Self, Vec<Violation>> {
        let mut check = Check { violations: Vec::new() };
        check.name(&message.name);
        let principal = match &message.change {
            None => {
                check.refuse("", "REQUIRED", "must have a principal or a revocation");
                None
            }
            Some(principal_change::Change::Revocation(_)) => None,
            Some(principal_change::Change::Principal(principal)) => check.principal(&message.name, principal),
        };
        if !check.violations.is_empty() {
            return Err(check.violations);
        }
        let bytes = message.encode_to_vec();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes))).parse().expect("a digest");
        Ok(Self { name: message.name.clone(), principal: principal.map(Arc::new), bytes, digest })
    }

    /// Whose.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is to be; `None`: nobody.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// As it is encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `sha256:` of that: what the principals, as a subject, are bound to.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// Whether a text may name a principal. The names with a slash are the ledger's own: `webhook/SOURCE`.
pub fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_NAME_LENGTH).contains(&text.len())
        && text.bytes().next().is_some_and(is_plain)
        && text.bytes().all(|b| is_plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// Collects violations while it parses.
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn refuse(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        let dot = if field.is_empty() { "" } else { "." };
        self.violations.push(Violation::new(format!("principal_change{dot}{field}"), reason, message));
    }

    fn name(&mut self, name: &str) {
        if !is_name(name) {
            let shown: String = name.chars().take(80).collect();
            let message = format!(
                "is {shown:?}; it must be 1 to {MAX_NAME_LENGTH} of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit"
            );
            self.refuse("name", "INVALID_FORMAT", message);
        }
    }

    fn principal(&mut self, name: &str, message: &proto::Principal) -> Option<Principal> {
        let roles = self.values("principal.roles", &message.roles, 1, 4, |value| Role::try_from(value).ok());
        let speaks = roles.iter().any(|role| matches!(role, Role::Writer | Role::Scanner));
        let grants = self.grants(&message.grants, speaks);
        let credential = |value| Credential::try_from(value).ok();
        let requires = self.values("principal.requires", &message.requires, 1, 3, credential);
        let tokens = self.tokens(&message.token_sha256);
        self.certificate_names(&message.certificate_names);
        let keys = self.keys(&message.keys);
        for (credential, field, count) in [
            (Credential::Token, "principal.token_sha256", message.token_sha256.len()),
            (Credential::Certificate, "principal.certificate_names", message.certificate_names.len()),
            (Credential::Signature, "principal.keys", message.keys.len()),
        ] {
            if requires.contains(&credential) && count == 0 {
                self.refuse(field, "REQUIRED", "must not be empty: the principal requires it to be shown");
            }
        }
        if !self.violations.is_empty() {
            return None;
        }
        let certificate_names = message.certificate_names.clone();
        Some(Principal { name: name.to_owned(), roles, grants, requires, tokens, certificate_names, keys })
    }

    fn grants(&mut self, grants: &[proto::Grant], speaks: bool) -> Vec<Grant> {
        let (least, most) = if speaks { (1, MAX_GRANTS) } else { (0, 0) };
        if !(least..=most).contains(&grants.len()) {
            let message = match speaks {
                true => format!("are {}; a writer or scanner has 1 to {MAX_GRANTS}", grants.len()),
                false => "are not for a principal that is neither writer nor scanner".to_owned(),
            };
            self.refuse("principal.grants", "COUNT", message);
            return Vec::new();
        }
        grants.iter().enumerate().map(|(position, grant)| self.grant(position, grant)).collect()
    }

    fn grant(&mut self, position: usize, grant: &proto::Grant) -> Grant {
        let field = format!("principal.grants[{position}]");
        let in_repositories = format!("{field}.repositories");
        self.rising(&in_repositories, &grant.repositories, 1, MAX_PATTERNS);
        let mut repositories = Vec::new();
        for pattern in grant.repositories.iter().take(MAX_PATTERNS) {
            self.text(&in_repositories, pattern, MAX_PATTERN_LENGTH);
            match Pattern::new(pattern) {
                Ok(matcher) => repositories.push((pattern.clone(), matcher)),
                Err(reason) => {
                    let shown: String = pattern.chars().take(80).collect();
                    self.refuse(&in_repositories, "INVALID_PATTERN", format!("{shown:?}: {reason}"));
                }
            }
        }
        let kind = |value| StatementKind::try_from(value).ok();
        let kinds = self.values(&format!("{field}.kinds"), &grant.kinds, 0, 6, kind);
        Grant { repositories, kinds }
    }

    fn tokens(&mut self, tokens: &[Vec<u8>]) -> Vec<[u8; 32]> {
        self.rising("principal.token_sha256", tokens, 0, MAX_CREDENTIALS);
        let hashes: Option<Vec<[u8; 32]>> = tokens.iter().map(|hash| hash.as_slice().try_into().ok()).collect();
        hashes.unwrap_or_else(|| {
            self.refuse("principal.token_sha256", "LENGTH", "has a value that is not 32 bytes long");
            Vec::new()
        })
    }

    fn certificate_names(&mut self, names: &[String]) {
        self.rising("principal.certificate_names", names, 0, MAX_CREDENTIALS);
        for name in names.iter().take(MAX_CREDENTIALS) {
            self.text("principal.certificate_names", name, MAX_CERTIFICATE_NAME_LENGTH);
        }
    }

    fn keys(&mut self, keys: &[String]) -> Vec<Vkey> {
        const FIELD: &str = "principal.keys";
        self.rising(FIELD, keys, 0, MAX_CREDENTIALS);
        let mut parsed: Vec<Vkey> = Vec::new();
        for text in keys.iter().take(MAX_CREDENTIALS) {
            match text.parse::<Vkey>() {
                Ok(vkey) if vkey.to_string() != *text => {
                    self.refuse(FIELD, "NOT_CANONICAL", format!("write {vkey}"));
                }
                Ok(vkey) if parsed.iter().any(|other| key_id(other.key()) == key_id(vkey.key())) => {
                    self.refuse(FIELD, "REPEATED", format!("has the key of {vkey} twice"));
                }
                Ok(vkey) => parsed.push(vkey),
                Err(error) => {
                    let shown: String = text.chars().take(80).collect();
                    self.refuse(FIELD, "INVALID_FORMAT", format!("{shown:?}: {error}"));
                }
            }
        }
        parsed
    }

    /// Numbers of an enum, rising, none of them 0.
    fn values<T>(
        &mut self,
        field: &str,
        values: &[i32],
        least: usize,
        most: usize,
        known: impl Fn(i32) -> Option<T>,
    ) -> Vec<T> {
        self.rising(field, values, least, most);
        if let Some(&value) = values.iter().find(|&&value| value == 0 || known(value).is_none()) {
            self.refuse(field, "UNKNOWN_VALUE", format!("has the value {value}, which is not one of its kind"));
        }
        values.iter().filter_map(|&value| known(value)).collect()
    }

    /// So that a list has one form.
    fn rising<T: Ord>(&mut self, field: &str, values: &[T], least: usize, most: usize) {
        if !(least..=most).contains(&values.len()) {
            let message = format!("are {}; {least} to {most} are allowed", values.len());
            self.refuse(field, "COUNT", message);
        }
        if values.windows(2).any(|pair| pair[0] >= pair[1]) {
            self.refuse(field, "NOT_CANONICAL", "must be sorted, each value once");
        }
    }

    fn text(&mut self, field: &str, value: &str, longest: usize) {
        if let Err(violation) = check_text(field, value, 1, longest) {
            self.refuse(field, violation.reason, violation.message);
        }
    }
}
