//! Who may write: bearer tokens, and the keys whose statement signatures count.
//!
//! Only the SHA-256 of a token is kept. Tokens are long and random, so a plain hash is enough, and comparing all of them in
//! constant time tells nobody how close a guess was.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tonic::metadata::MetadataMap;

use crate::ledger::signature::{self, key_id, statement_message};
use crate::ledger::statement::Violation;
use crate::proto;

/// Somebody who may write.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Recorded with each of its statements.
    pub name: String,
    /// SHA-256 of its token.
    pub token_sha256: [u8; 32],
    /// Its signing keys.
    pub keys: Vec<VerifyingKey>,
    /// It may only submit signed statements.
    pub require_signature: bool,
}

/// All who may write.
#[derive(Debug, Clone, Default)]
pub struct Principals(Vec<Arc<Principal>>);

/// Why a caller is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token.
    #[error(
        "writing needs the metadata `authorization: Bearer <token>`; the first token is in the file `token` of the server's data directory"
    )]
    Missing,
    /// A token nobody has.
    #[error("the token is not known to this ledger")]
    Unknown,
}

impl Principals {
    /// A list of principals.
    pub fn new(principals: Vec<Principal>) -> Self {
        Self(principals.into_iter().map(Arc::new).collect())
    }

    /// Whose token a call carries.
    pub fn authenticate(&self, metadata: &MetadataMap) -> Result<Arc<Principal>, AuthError> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).ok_or(AuthError::Missing)?;
        let (scheme, token) = header.split_once(' ').ok_or(AuthError::Missing)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(AuthError::Missing);
        }
        let presented: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        // All are compared, whichever matches.
        for principal in &self.0 {
            if bool::from(principal.token_sha256.ct_eq(&presented)) {
                found = Some(Arc::clone(principal));
            }
        }
        found.ok_or(AuthError::Unknown)
    }
}

impl Principal {
    /// Whether it may change what others may do. So far that is the operator with the first token alone.
    pub fn may_administer(&self) -> bool {
        self.name == crate::engine::OPERATOR
    }

    /// Checks a statement's signature, and says how far the producer is known.
    pub fn check_signature(
        &self,
        statement: &[u8],
        producer: Option<&proto::Producer>,
    ) -> Result<proto::Assurance, Violation> {
        let Some(producer) = producer else {
            if self.require_signature {
                let message = format!("must be there: principal {:?} may only submit signed statements", self.name);
                return Err(Violation::new("producer.signature", "REQUIRED", message));
            }
            return Ok(proto::Assurance::Authenticated);
        };
        let key = self.keys.iter().find(|key| key_id(key) == producer.key_id).ok_or_else(|| {
            let shown: String = producer.key_id.chars().take(16).collect();
            let message = format!("{shown:?} is not a key of principal {:?}", self.name);
            Violation::new("producer.key_id", "UNKNOWN_KEY", message)
        })?;
        signature::verify(key, &statement_message(statement), &producer.signature)
            .map(|()| proto::Assurance::Signed)
            .map_err(|error| Violation::new("producer.signature", "BAD_SIGNATURE", error.to_string()))
    }
}
