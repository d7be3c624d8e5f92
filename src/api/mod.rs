//! gRPC and HTTP.
