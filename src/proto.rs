//! The protobuf package `tagledger.v1`, compiled by `build.rs` from `proto/`: messages, gRPC client and, with the feature
//! `server`, gRPC server.

#![allow(missing_docs, clippy::all, reason = "generated; proto/ documents every message")]

tonic::include_proto!("tagledger.v1");

/// The encoded `FileDescriptorSet` of the package, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
