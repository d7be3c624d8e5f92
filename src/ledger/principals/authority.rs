//! Whether a statement may be recorded in somebody's name: by the principals in force before its entry.
//!
//! What the server knows besides (which token, which certificate) is judged by [`Principal::accepts`]; what an entry shows of
//! it, by [`Principals::judge`], so that an auditor comes to the same.

use ed25519_dalek::VerifyingKey;

use super::{Principal, Principals};
use crate::ledger::signature::{self, statement_message};
use crate::ledger::statement::{Kind, Statement};
use crate::ledger::subject::place_of;
use crate::proto::{self, Assurance, Credential, Role, StatementKind};

/// How the names of the ledger's own adapters begin. No principal is called so: a name has no slash.
pub const WEBHOOK_PREFIX: &str = "webhook/";

/// Why a statement may not be recorded in a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// Nobody is called so, or nobody any more.
    #[error("principal {0:?} is not known: it never was, or it was revoked")]
    Unknown(String),
    /// The roles do not allow it.
    #[error("principal {principal:?} has {roles}, and a {verb} statement needs the role {needed}")]
    Role {
        /// Who.
        principal: String,
        /// What it has.
        roles: String,
        /// What it said.
        verb: &'static str,
        /// What that takes.
        needed: &'static str,
    },
    /// No grant covers it.
    #[error("no grant of principal {principal:?} covers a {verb} statement{place}")]
    Grant {
        /// Who.
        principal: String,
        /// What it said.
        verb: &'static str,
        /// About what, in words.
        place: String,
    },
    /// A credential that it has to show is missing, or is none of its own.
    #[error("principal {principal:?} has to show {credential}, and {problem}")]
    Credential {
        /// Who.
        principal: String,
        /// What.
        credential: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// The entry says something else of how it was authenticated than can be.
    #[error("principal {principal:?} cannot have the assurance {found}: {why}")]
    Assurance {
        /// Who.
        principal: String,
        /// What the entry says.
        found: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// Signed by a key that is not, or no longer, the principal's.
    #[error("{key_id:?} is not a key of principal {principal:?}")]
    Key {
        /// Who.
        principal: String,
        /// The key.
        key_id: String,
    },
    /// A statement that anybody who reads the log could send again.
    #[error(
        "principal {principal:?} shows nothing but signatures, so each of its statements needs an event_id: without, anybody could send what it signed once more"
    )]
    Repeatable {
        /// Who.
        principal: String,
    },
    /// A signature that does not hold.
    #[error("the producer's signature of principal {principal:?}: {error}")]
    Signature {
        /// Who.
        principal: String,
        /// Why.
        error: signature::SignatureError,
    },
}

/// What somebody showed to prove who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of a token.
    pub token: Option<[u8; 32]>,
    /// The names in a client certificate that a trusted authority signed.
    pub certificate_names: Vec<String>,
    /// The key under which the statement's signature held.
    pub key: Option<VerifyingKey>,
    /// Whether a client certificate can be shown where it came in.
    pub takes_certificates: bool,
}

impl Principal {
    /// Whether what was shown is all that it has to show, and nothing of it is another's. `before_the_statement`: a signature is not
    /// to be had yet.
    pub fn accepts(&self, shown: &Shown, before_the_statement: bool) -> Result<(), Unauthorized> {
        let refuse = |credential, problem| {
            Err(Unauthorized::Credential { principal: self.name().to_owned(), credential, problem })
        };
        if let Some(token) = &shown.token
            && !self.has_token(token)
        {
            return refuse("a token", "the one shown is not one of its own");
        }
        if let Some(key) = &shown.key
            && !self.keys().iter().any(|vkey| vkey.key() == key)
        {
            return refuse("a signature", "the key is not one of its own");
        }
        let has_certificate = shown.certificate_names.iter().any(|name| self.certificate_names().contains(name));
        for credential in self.requires() {
            match credential {
                Credential::Token if shown.token.is_none() => return refuse("a token", "none was shown"),
                Credential::Certificate if shown.certificate_names.is_empty() => {
                    return refuse("a client certificate", "none was shown");
                }
                Credential::Certificate if !has_certificate => {
                    return refuse("a client certificate", "the one shown has none of its names");
                }
                Credential::Signature if shown.key.is_none() && !before_the_statement => {
                    return refuse("a signature over each statement", "this one has none");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether its roles and grants allow a statement, and nobody else could send it once more.
    pub fn authorises(&self, statement: &Statement) -> Result<(), Unauthorized> {
        let principal = || self.name().to_owned();
        let roles = || roles_in_words(self.roles());
        // Its statements are in the log, whole, with their signatures. With an event id, they are recorded once.
        if self.requires() == [Credential::Signature] && statement.event_id.is_empty() {
            return Err(Unauthorized::Repeatable { principal: principal() });
        }
        let Some(kind) = kind_of(statement) else {
            if self.has(Role::Admin) {
                return Ok(());
            }
            let verb = statement.verb();
            return Err(Unauthorized::Role { principal: principal(), roles: roles(), verb, needed: "admin" });
        };
        let allows = self.has(Role::Writer) || (self.has(Role::Scanner) && kind == StatementKind::TagObserved);
        if !allows {
            let needed = if kind == StatementKind::TagObserved { "writer or scanner" } else { "writer" };
            return Err(Unauthorized::Role { principal: principal(), roles: roles(), verb: statement.verb(), needed });
        }
        let place =
            place_of(statement).map(|(registry, repository)| [registry.as_str(), repository.as_str()].join("/"));
        if self.grants().iter().any(|grant| grant.covers(kind, place.as_deref())) {
            return Ok(());
        }
        let place = place.map_or(String::new(), |place| format!(" about {place}"));
        Err(Unauthorized::Grant { principal: principal(), verb: statement.verb(), place })
    }
}

impl Principals {
    /// Judges a record by what it says: its principal, assurance and producer's signature, and the statement with its bytes.
    pub fn judge(&self, record: &proto::Record, statement: &Statement) -> Result<(), Unauthorized> {
        if self.is_empty() {
            return Ok(());
        }
        let name = record.principal.as_str();
        let not_with = |why| Err(Unauthorized::Assurance { principal: name.into(), found: word(record), why });
        if name.starts_with(WEBHOOK_PREFIX) {
            return match record.assurance() {
                Assurance::Claimed | Assurance::Confirmed => judge_adapter(name, statement),
                _ => not_with("a webhook only claims, or is confirmed by the registry"),
            };
        }
        let principal = self.get(name).ok_or_else(|| Unauthorized::Unknown(name.into()))?;
        match (record.assurance(), &record.producer) {
            (Assurance::Signed, Some(producer)) => {
                let key = principal.key(&producer.key_id);
                let unknown = || Unauthorized::Key { principal: name.into(), key_id: producer.key_id.clone() };
                signature::verify(key.ok_or_else(unknown)?, &statement_message(&record.statement), &producer.signature)
                    .map_err(|error| Unauthorized::Signature { principal: name.into(), error })?;
            }
            (Assurance::Authenticated, None) if !principal.must_show(Credential::Signature) => {}
            (Assurance::Authenticated, None) => return not_with("it has to sign its statements"),
            _ => return not_with("a principal is authenticated, or signs"),
        }
        principal.authorises(statement)
    }

    /// Judges a statement that is to be recorded, by what was shown for it. `None`: it is the ledger's own.
    pub fn admits(&self, name: &str, shown: Option<&Shown>, statement: &Statement) -> Result<(), Unauthorized> {
        if self.is_empty() {
            return Ok(());
        }
        if name.starts_with(WEBHOOK_PREFIX) {
            return judge_adapter(name, statement);
        }
        let principal = self.get(name).ok_or_else(|| Unauthorized::Unknown(name.into()))?;
        if let Some(shown) = shown {
            principal.accepts(shown, false)?;
        }
        principal.authorises(statement)
    }
}

/// What the ledger's own adapters tell: what happened to tags.
fn judge_adapter(name: &str, statement: &Statement) -> Result<(), Unauthorized> {
    use StatementKind::{ManifestDelete, TagDelete, TagObserved, TagPush};
    match kind_of(statement) {
        Some(TagPush | TagDelete | ManifestDelete | TagObserved) => Ok(()),
        _ => Err(Unauthorized::Grant { principal: name.to_owned(), verb: statement.verb(), place: String::new() }),
    }
}

/// The kind of a statement, as grants name it; `None` for what only an admin may state.
pub fn kind_of(statement: &Statement) -> Option<StatementKind> {
    match &statement.kind {
        Kind::TagPush { .. } => Some(StatementKind::TagPush),
        Kind::TagDelete { .. } => Some(StatementKind::TagDelete),
        Kind::ManifestDelete { .. } => Some(StatementKind::ManifestDelete),
        Kind::TagObserved { .. } => Some(StatementKind::TagObserved),
        Kind::Deployment { .. } => Some(StatementKind::Deployment),
        Kind::Attestation { .. } => Some(StatementKind::Attestation),
        Kind::PolicyChange { .. } | Kind::PrincipalChange { .. } | Kind::KeyChange { .. } => None,
    }
}

/// A role as people write it.
pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "none",
        Role::Reader => "reader",
        Role::Writer => "writer",
        Role::Scanner => "scanner",
        Role::Admin => "admin",
    }
}

fn roles_in_words(roles: &[Role]) -> String {
    let words: Vec<&str> = roles.iter().map(|role| role_word(*role)).collect();
    let noun = if words.len() == 1 { "the role" } else { "the roles" };
    format!("{noun} {}", words.join(", "))
}

fn word(record: &proto::Record) -> &'static str {
    record.assurance().as_str_name().trim_start_matches("ASSURANCE_")
}
