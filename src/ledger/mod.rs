//! The ledger itself: names, formats, rules and proofs.
//!
//! Pure: bytes and values in, bytes and values out. Time, randomness, files and sockets arrive as arguments, so all of it can
//! be tested without a runtime and used by server and verifier alike. `docs/SPEC.md` describes the same things for people
//! who write a verifier in another language.

pub mod answer;
pub mod checkpoint;
pub mod entry;
pub mod evidence;
pub mod history;
pub mod hold;
pub mod keys;
pub mod map;
pub mod merkle;
pub mod names;
pub mod note;
pub mod policy;
pub mod principals;
pub mod referrer;
pub mod replay;
pub mod signature;
pub mod statement;
pub mod subject;
pub mod subject_proof;
pub mod time;
pub mod tlog_proof;
pub mod transition;

// tests/vectors.rs has it too, and needs other parts of it.
#[cfg(test)]
#[allow(dead_code)]
pub(crate) mod little_ledger;
