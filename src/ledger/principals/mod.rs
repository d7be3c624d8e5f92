//! Who may state what: the principals in force, and how they change.
//!
//! A statement of kind principal change says all that one principal is from the next entry on, or that it is nobody any more
//! ([`change`]). [`Principals`] is what follows from all of them so far; [`authority`] judges a statement by it. The log is
//! their only home: the server, whoever replays the log, and whoever is shown the history of the subject come to the same.
//!
//! Before the first change there are no principals, and so no rule about who may state what. After it there is always one
//! that may change them: a change that would leave none is refused.

pub mod authority;
pub mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::authority::Shown;
use super::names::Digest;
use super::signature::key_id;
use crate::proto::{Credential, Role};
pub use change::{Change, Principal};

/// Most principals at a time.
pub const MAX_PRINCIPALS: usize = 1000;

const DIGEST_PREFIX: &[u8] = b"tagledger.v1.principals\n";

/// All that are known. The default: none ever were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Principals(BTreeMap<String, Known>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    principal: Arc<Principal>,
    /// The encoded change that made it what it is.
    bytes: Arc<[u8]>,
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nobody could change anything any more.
    #[error(
        "principal {0:?} is the last with the role admin: without it nobody could change policy or principals any more; add another admin first"
    )]
    LastAdmin(String),
    /// Nobody could come in any more who may.
    #[error(
        "after this change of principal {0:?} every admin would have to show a client certificate, and this server takes none (tls.client_ca)"
    )]
    NoWayIn(String),
    /// There was no principal, and this one could not make another.
    #[error("the first principal has to have the role admin, and {0:?} has not")]
    FirstAdmin(String),
    /// Nobody of that name.
    #[error("principal {0:?} is not known, so it can't be revoked")]
    Unknown(String),
    /// It would no longer be clear who speaks.
    #[error("a {credential} of principal {name:?} is one of principal {holder:?} already; each needs its own")]
    Taken {
        /// Who was to have it.
        name: String,
        /// What.
        credential: &'static str,
        /// Who has it.
        holder: String,
    },
    /// Too many.
    #[error("there are {MAX_PRINCIPALS} principals, and no more are allowed; revoke one first")]
    TooMany,
}

impl Principals {
    /// None ever were: whoever states something is not judged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Arc<Principal>> {
        self.0.get(name).map(|known| &known.principal)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.0.values().map(|known| &known.principal)
    }

    /// Whether a change would leave its principal as it is.
    pub fn are_as(&self, change: &Change) -> bool {
        self.0.get(change.name()).is_some_and(|known| *known.bytes == *change.bytes())
    }

    /// What they are after a change, or why it is refused.
    pub fn after(&self, change: &Change) -> Result<Self, ChangeError> {
        let name = change.name();
        let mut after = self.clone();
        match change.principal() {
            None if after.0.remove(name).is_none() => return Err(ChangeError::Unknown(name.to_owned())),
            None => {}
            Some(principal) => {
                self.check_is_own(principal)?;
                let known = Known { principal: Arc::clone(principal), bytes: change.bytes().into() };
                after.0.insert(name.to_owned(), known);
            }
        }
        if after.0.len() > MAX_PRINCIPALS {
            return Err(ChangeError::TooMany);
        }
        if !after.iter().any(|principal| principal.has(Role::Admin)) {
            let name = name.to_owned();
            return Err(if self.is_empty() { ChangeError::FirstAdmin(name) } else { ChangeError::LastAdmin(name) });
        }
        Ok(after)
    }

    /// The same where a change comes in with what was shown: some admin has to be left who can come in there. That is no rule of
    /// the log, which knows no servers. `None`: it is the ledger's own.
    pub fn after_shown(&self, change: &Change, shown: Option<&Shown>) -> Result<Self, ChangeError> {
        let after = self.after(change)?;
        let takes_certificates = shown.is_none_or(|shown| shown.takes_certificates);
        let comes_in = |principal: &Principal| takes_certificates || !principal.must_show(Credential::Certificate);
        if after.iter().any(|principal| principal.has(Role::Admin) && comes_in(principal)) {
            return Ok(after);
        }
        Err(ChangeError::NoWayIn(change.name().to_owned()))
    }

    /// `sha256:` of all of them: `"tagledger.v1.principals\n"`, and of each by name the length (u32 BE) and the bytes of its
    /// change.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new().chain_update(DIGEST_PREFIX);
        for known in self.0.values() {
            let length = u32::try_from(known.bytes.len()).expect("a statement is short");
            hash = hash.chain_update(length.to_be_bytes()).chain_update(&*known.bytes);
        }
        format!("sha256:{}", hex::encode(hash.finalize())).parse().expect("a digest in canonical form")
    }

    /// In words, with their digest: what an entry says that changed them.
    pub fn summary(&self) -> String {
        let noun = if self.0.len() == 1 { "principal" } else { "principals" };
        format!("{} {noun}, {}", self.0.len(), self.digest())
    }

    /// The encoded changes that made them what they are, by name: what [`Principals::of_changes`] reads.
    pub fn changes(&self) -> impl Iterator<Item = &[u8]> {
        self.0.values().map(|known| &*known.bytes)
    }

    /// What follows from changes by rising name, without any rule about the order in which they came.
    pub fn of_changes(changes: impl IntoIterator<Item = Change>) -> Option<Self> {
        let mut principals = Self::default();
        for change in changes {
            let principal = Arc::clone(change.principal()?);
            if principals.0.last_key_value().is_some_and(|(last, _)| last.as_str() >= change.name()) {
                return None;
            }
            let known = Known { principal, bytes: change.bytes().into() };
            principals.0.insert(change.name().to_owned(), known);
        }
        let has_admin = principals.iter().any(|principal| principal.has(Role::Admin));
        (has_admin || principals.is_empty()).then_some(principals)
    }

    /// Whom a credential belongs to is never in doubt.
    fn check_is_own(&self, principal: &Principal) -> Result<(), ChangeError> {
        let tokens: BTreeSet<_> = principal.tokens().iter().collect();
        let certificates: BTreeSet<_> = principal.certificate_names().iter().collect();
        let keys: BTreeSet<String> = principal.keys().iter().map(|vkey| key_id(vkey.key())).collect();
        for other in self.iter().filter(|other| other.name() != principal.name()) {
            let credential = if other.tokens().iter().any(|token| tokens.contains(token)) {
                "token"
            } else if other.certificate_names().iter().any(|name| certificates.contains(name)) {
                "certificate name"
            } else if other.keys().iter().any(|vkey| keys.contains(&key_id(vkey.key()))) {
                "key"
            } else {
                continue;
            };
            let (name, holder) = (principal.name().to_owned(), other.name().to_owned());
            return Err(ChangeError::Taken { name, credential, holder });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
