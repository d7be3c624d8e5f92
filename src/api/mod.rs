//! gRPC and HTTP.
//!
//! Decodes, authenticates, asks the engine, encodes. What an error looks like on the wire is decided in [`status`] and
//! nowhere else; who is let in, in [`guard`] and [`principals`], and with what, in [`door`].

mod bodies;
pub mod door;
pub mod failures;
pub mod grpc;
pub mod guard;
pub mod http;
pub mod limits;
pub mod principals;
pub mod status;
mod turns;

pub use bodies::timeout as grpc_timeout;
