//! The edge: what registries send, turned into statements.
//!
//! Everything here speaks to the ledger through [`port::LedgerPort`], in process or over the network, and knows nothing of
//! the engine or the store.

pub mod distribution;
pub mod port;
