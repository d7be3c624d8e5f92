//! tagledger: an append-only ledger of container tags.
//!
//! Every tag-to-digest binding, and every attempted change, is a signed entry in a Merkle-tree transparency log. The layers,
//! from the inside out (`docs/ARCHITECTURE.md` is the tour, `tests/architecture.rs` holds the arrows):
//!
//! - [`ledger`]: names, formats, rules and proofs. Pure: bytes and values in, bytes and values out.
//! - `store`: rows on disk, behind one narrow trait.
//! - `engine`: the sequencer that writes, and the queries that read.
//! - `api`: gRPC and HTTP. `edge`: registries that post events.
//! - [`client`] and [`cli`]: verified reading, for people.

pub mod cli;
pub mod client;
pub mod ledger;
pub mod proto;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod edge;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod store;

/// Of every request much is allocated on one thread and freed on another. RocksDB allocates here too.
#[cfg(feature = "server")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
