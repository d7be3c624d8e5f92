//! gRPC and HTTP.
//!
//! Decodes, authenticates, asks the engine, encodes. What an error looks like on the wire is decided in [`status`] and
//! nowhere else; who may write, in [`principals`].

pub mod door;
pub mod grpc;
pub mod http;
pub mod principals;
pub mod status;
