//! Reading a ledger over gRPC, and trusting only what verifies.
//!
//! A [`RemoteLedger`] is a server whose key is pinned. What it answers is checked by the pure core
//! ([`crate::ledger::answer`]) under that key, and its checkpoint must be of the same append-only log as the one remembered
//! from before, or nothing of it is shown. [`trust`] keeps keys and checkpoints between runs, [`saved`] keeps answers for
//! others to check without the server, [`audit`] reads the whole log and judges it anew. What to ask and how to show it is left to [`crate::cli`].

mod ask;
pub mod audit;
mod credentials;
mod error;
mod record;
mod remote;
pub mod saved;
mod server;
mod tiles;
pub mod trust;
mod watch;

pub use credentials::{Credentials, Identity};
pub use error::ClientError;
pub(crate) use error::{is_unseen, visible};
pub use record::{Appended, Receipt};
pub use remote::{Pin, RemoteLedger};
pub use server::Server;
pub use watch::{Watched, Watcher};
