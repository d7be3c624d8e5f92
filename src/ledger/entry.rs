//! Entries: the signed leaves of the log, and their exact bytes.
//!
//! Encoding is protobuf in its one canonical form: decoding re-encodes and compares, so an entry has exactly one byte
//! string. Whoever stores, hashes or serves an entry uses the bytes it was given.

use prost::Message as _;

use super::merkle::{Hash, hash::leaf_hash};
use super::note::{Skey, Vkey};
use super::signature::{self, SignatureError};
use super::statement::{Statement, Violation};
use crate::proto;

/// Longest entry, in bytes: what tlog-tiles can bundle.
pub const MAX_ENTRY_LENGTH: usize = 65_535;

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not protobuf, or not in its canonical form.
    #[error("not a canonically encoded {0}")]
    Encoding(&'static str),
    /// Decodes, but a field has no valid value.
    #[error("{0} is not valid")]
    Field(&'static str),
    /// The statement in it would not have been accepted.
    #[error("its statement is not valid: {0}")]
    Statement(String),
    /// The ledger did not sign it.
    #[error("the ledger's signature: {0}")]
    Signature(#[from] SignatureError),
}

/// A decoded entry: bytes of a stranger until [`SignedEntry::verify`] has passed.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedEntry {
    /// What it says.
    pub body: Body,
    body_bytes: Vec<u8>,
    signature: Vec<u8>,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A statement as the ledger accepted it, and the statement parsed.
    Record(Box<proto::Record>, Box<Statement>),
    /// The close of a batch.
    Commitment(proto::Commitment),
}

impl Body {
    /// Position in the log.
    pub fn index(&self) -> u64 {
        match self {
            Self::Record(record, _) => record.index,
            Self::Commitment(commitment) => commitment.index,
        }
    }

    /// The ledger's clock, microseconds since the Unix epoch.
    pub fn recorded_at_us(&self) -> u64 {
        match self {
            Self::Record(record, _) => record.recorded_at_us,
            Self::Commitment(commitment) => commitment.recorded_at_us,
        }
    }
}

/// Encodes and signs a record.
pub fn sign_record(record: &proto::Record, skey: &Skey) -> Vec<u8> {
    sign_body(record.encode_to_vec(), proto::entry::Body::Record, skey)
}

/// Encodes and signs a commitment.
pub fn sign_commitment(commitment: &proto::Commitment, skey: &Skey) -> Vec<u8> {
    sign_body(commitment.encode_to_vec(), proto::entry::Body::Commitment, skey)
}

fn sign_body(bytes: Vec<u8>, wrap: impl FnOnce(Vec<u8>) -> proto::entry::Body, skey: &Skey) -> Vec<u8> {
    let signature = signature::sign(skey.key(), &signature::entry_message(skey.origin(), &bytes));
    proto::Entry { body: Some(wrap(bytes)), signature: signature.to_vec() }.encode_to_vec()
}

/// The leaf hash of an entry.
pub fn entry_hash(entry: &[u8]) -> Hash {
    leaf_hash(entry)
}

/// Only the index and the time of an entry: enough to search by time without parsing statements.
pub fn index_and_time(entry: &[u8]) -> Result<(u64, u64), EntryError> {
    let entry: proto::Entry = decode(entry, "entry")?;
    match entry.body {
        Some(proto::entry::Body::Record(bytes)) => {
            decode::<proto::Record>(&bytes, "record").map(|record| (record.index, record.recorded_at_us))
        }
        Some(proto::entry::Body::Commitment(bytes)) => {
            decode::<proto::Commitment>(&bytes, "commitment").map(|body| (body.index, body.recorded_at_us))
        }
        None => Err(EntryError::Field("body")),
    }
}

impl SignedEntry {
    /// Decodes an entry. Accepts only the canonical encoding of valid values; the signature is yet to be verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_LENGTH {
            return Err(EntryError::Encoding("entry: it is longer than 65,535 bytes"));
        }
        let entry: proto::Entry = decode(bytes, "entry")?;
        if entry.signature.len() != signature::SIGNATURE_LENGTH {
            return Err(SignatureError::Length(entry.signature.len()).into());
        }
        let (body, body_bytes) = match entry.body {
            None => return Err(EntryError::Field("body")),
            Some(proto::entry::Body::Commitment(bytes)) => {
                let commitment: proto::Commitment = decode(&bytes, "commitment")?;
                if commitment.map_root.len() != 32 {
                    return Err(EntryError::Field("map_root"));
                }
                (Body::Commitment(commitment), bytes)
            }
            Some(proto::entry::Body::Record(bytes)) => {
                let record: proto::Record = decode(&bytes, "record")?;
                let statement = check_record(&record)?;
                (Body::Record(Box::new(record), Box::new(statement)), bytes)
            }
        };
        Ok(Self { body, body_bytes, signature: entry.signature })
    }

    /// Checks that the ledger with this key signed it. A producer's signature is left to whoever knows the producer.
    pub fn verify(&self, vkey: &Vkey) -> Result<(), EntryError> {
        let message = signature::entry_message(vkey.origin(), &self.body_bytes);
        Ok(signature::verify(vkey.key(), &message, &self.signature)?)
    }
}

fn check_record(record: &proto::Record) -> Result<Statement, EntryError> {
    let known = |valid: bool, field| if valid { Ok(()) } else { Err(EntryError::Field(field)) };
    known(proto::Outcome::try_from(record.outcome).is_ok_and(|o| o != proto::Outcome::Unspecified), "outcome")?;
    let assurance = proto::Assurance::try_from(record.assurance);
    known(assurance.is_ok_and(|a| a != proto::Assurance::Unspecified), "assurance")?;
    known(!record.subjects.is_empty(), "subjects")?;
    for subject in &record.subjects {
        let kind = proto::SubjectKind::try_from(subject.kind);
        known(kind.is_ok_and(|kind| kind != proto::SubjectKind::Unspecified), "subjects.kind")?;
    }
    if let Some(producer) = &record.producer {
        known(producer.signature.len() == signature::SIGNATURE_LENGTH, "producer.signature")?;
    }
    Statement::parse(&record.statement).map_err(|violations| {
        EntryError::Statement(violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; "))
    })
}

fn decode<M: prost::Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, EntryError> {
    let message = M::decode(bytes).map_err(|_| EntryError::Encoding(what))?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(EntryError::Encoding(what)) }
}
