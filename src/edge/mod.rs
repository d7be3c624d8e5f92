//! The edge: what registries send, turned into statements.
//!
//! Everything here speaks to the ledger through [`port::LedgerPort`], in process or over the network, and knows nothing of
//! the engine or the store.

pub mod aside;
pub mod confirm;
pub mod distribution;
pub mod gateway;
mod looks;
pub mod metrics;
pub mod port;
pub mod registry;
pub mod scanner;
pub mod source;
pub mod webhook;
