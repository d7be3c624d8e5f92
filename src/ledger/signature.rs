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
const KEY_PREFIX: &str = "tagledger.v1.key\n";

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

/// What the signature of a ledger's next key over the change covers: the text of both verifier keys.
pub fn consent_message(replaces: &str, vkey: &str) -> Vec<u8> {
    [KEY_PREFIX.as_bytes(), replaces.as_bytes(), b"\n", vkey.as_bytes()].concat()
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

#[cfg(test)]
mod tests {
    use ed25519_dalek::Verifier as _;

    use super::*;

    /// The neutral element: a point of order 1.
    const NEUTRAL: [u8; 32] = {
        let mut point = [0; 32];
        point[0] = 1;
        point
    };

    #[test]
    fn a_weak_key_for_which_one_signature_fits_every_message_verifies_nothing() {
        // [S]B - [k]A = B for S = 1 and a neutral A, whatever k is.
        let mut base_point = [0x66; 32];
        base_point[0] = 0x58;
        let signature = [base_point, NEUTRAL].concat();
        let weak = VerifyingKey::from_bytes(&NEUTRAL).expect("a point of the curve");
        for message in [&b"one"[..], b"another"] {
            let lax = ed25519_dalek::Signature::from_slice(&signature).expect("64 bytes");
            assert!(weak.verify(message, &lax).is_ok(), "a lax verifier takes it");
            assert_eq!(verify(&weak, message, &signature), Err(SignatureError::Mismatch));
        }
        assert_eq!(public_key(&NEUTRAL), Err(SignatureError::Key));
    }

    #[test]
    fn a_signature_whose_point_is_of_small_order_is_refused() {
        // Made with the private key: R = the neutral element, S = k a modulo L. Verifiers disagree about it.
        let key = SigningKey::from_bytes(&[7; 32]);
        let s = hex::decode("d4c5323131ff9683cfb3d30197c786c9043f1052d6c2d5293f19d6f36b911104").expect("hexadecimal");
        let signature = [NEUTRAL.to_vec(), s].concat();
        let lax = ed25519_dalek::Signature::from_slice(&signature).expect("64 bytes");
        assert!(key.verifying_key().verify(b"message", &lax).is_ok(), "a lax verifier takes it");
        assert_eq!(verify(&key.verifying_key(), b"message", &signature), Err(SignatureError::Mismatch));
    }

    #[test]
    fn a_signature_over_one_thing_is_none_over_another() {
        let (key, origin) = (SigningKey::from_bytes(&[7; 32]), "ledger.example".parse().expect("valid"));
        let body = b"body";
        let messages =
            [entry_message(&origin, body), statement_message(body), consent_message("body", ""), body.to_vec()];
        for (signed, message) in messages.iter().enumerate() {
            let signature = sign(&key, message);
            for (read, message) in messages.iter().enumerate() {
                assert_eq!(verify(&key.verifying_key(), message, &signature).is_ok(), signed == read);
            }
        }
        assert_eq!(verify(&key.verifying_key(), body, &[0; 63]), Err(SignatureError::Length(63)));
    }
}
