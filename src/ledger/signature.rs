//! Ed25519, with a different prefix for each thing that is signed.
//!
//! Verification is the strict rule of `ed25519-dalek`: canonical encodings, no small-order keys or points. Two verifiers
//! that follow it never disagree about a signature. The prefixes keep a signature over one thing from passing as one over
//! another; since the ledger signs its checkpoints with the same key, no origin may begin like a prefix.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::note::Origin;

/// Bytes of a signature.
pub const SIGNATURE_LENGTH: usize = 64;

const ENTRY_PREFIX: &str = "tagledger.v1.entry\n";
const STATEMENT_PREFIX: &str = "tagledger.v1.statement\n";

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 64 bytes.
    #[error("a signature has 64 bytes, this one has {0}")]
    Length(usize),
    /// Made by another key, or over other bytes.
    #[error("the signature does not match: another key, or other bytes")]
    Mismatch,
    /// A public key that is not 32 bytes of a valid, strong point.
    #[error("not a usable Ed25519 public key")]
    Key,
}

/// What the ledger's signature over an entry covers.
pub fn entry_message(origin: &Origin, body: &[u8]) -> Vec<u8> {
    [ENTRY_PREFIX.as_bytes(), origin.as_str().as_bytes(), b"\n", body].concat()
}

/// What a producer's signature over a statement covers.
pub fn statement_message(statement: &[u8]) -> Vec<u8> {
    [STATEMENT_PREFIX.as_bytes(), statement].concat()
}

/// Signs.
pub fn sign(key: &SigningKey, message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
    key.sign(message).to_bytes()
}

/// Checks, strictly.
pub fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    let bytes = signature.try_into().map_err(|_| SignatureError::Length(signature.len()))?;
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(bytes)).map_err(|_| SignatureError::Mismatch)
}

/// Parses a public key and refuses weak ones.
pub fn public_key(bytes: &[u8]) -> Result<VerifyingKey, SignatureError> {
    let bytes: &[u8; 32] = bytes.try_into().map_err(|_| SignatureError::Key)?;
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| SignatureError::Key)?;
    if key.is_weak() { Err(SignatureError::Key) } else { Ok(key) }
}

/// The name of a producer's key: the first 8 bytes of the public key's SHA-256, in hexadecimal.
pub fn key_id(key: &VerifyingKey) -> String {
    hex::encode(&Sha256::digest(key.as_bytes())[..8])
}
