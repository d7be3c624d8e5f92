//! The history of a subject: its entries in order, as a tree of RFC 6962 of its own.
//!
//! A leaf names the entry by index and by hash, so a history can't be shown with other entries, and says what is in force
//! after it, so that a state is proven without all that came before. A history only grows; its tree is a [`Tree`] as the
//! log's is.

use super::merkle::hash::leaf_hash;
use super::merkle::{Hash, Tree};
use super::subject::SubjectKey;
use crate::ledger::map::Leaf;

/// The hash of a history's leaf: `SHA-256(0x00 || 0x01 || u64 BE index || leaf hash of the entry || u64 BE effective)`.
pub fn history_leaf(index: u64, entry_hash: &Hash, effective: u64) -> Hash {
    let mut leaf = [0; 49];
    leaf[0] = 0x01;
    leaf[1..9].copy_from_slice(&index.to_be_bytes());
    leaf[9..41].copy_from_slice(entry_hash);
    leaf[41..].copy_from_slice(&effective.to_be_bytes());
    leaf_hash(&leaf)
}

/// What the subject map holds of a subject with this history.
pub fn map_leaf(key: SubjectKey, history: &Tree) -> Leaf {
    Leaf { key, count: history.size(), root: history.root() }
}
