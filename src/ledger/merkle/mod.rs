//! The Merkle tree of RFC 6962 section 2.1, over SHA-256.
//!
//! Split by what one asks of it: [`hash`] (leaves and nodes), [`tree`] (growing), [`proof`] (inclusion and consistency),
//! [`multi`] (many leaves at once), [`tile`] (C2SP tlog-tiles coordinates). Where the nodes are kept is left to whoever
//! implements [`Nodes`].

pub mod hash;
pub mod multi;
pub mod proof;
pub mod tile;
pub mod tree;

pub use hash::Hash;
pub use tree::{Nodes, Tree};
