//! The scanner against real registries and bad ones, with a real ledger behind it.
//!
//! `real` has Debian's docker-registry and the program itself, from its command line; `fake` a registry of our own that says what
//! each test wants it to, and keeps every request. In the end ledger and registry agree, and the log holds.

#![cfg(feature = "server")]

mod world;

#[path = "scanner/bad.rs"]
mod bad;
#[path = "scanner/fake.rs"]
mod fake;
#[path = "scanner/looks.rs"]
mod looks;
#[path = "scanner/real.rs"]
mod real;
#[path = "scanner/stage.rs"]
mod stage;
