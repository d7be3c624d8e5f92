//! Reading a ledger over gRPC, and trusting only what verifies.
