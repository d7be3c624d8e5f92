//! gRPC and HTTP.

pub mod http;
