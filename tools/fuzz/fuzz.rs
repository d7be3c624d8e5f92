//! One program for all targets: libFuzzer makes the bytes, `TAGLEDGER_FUZZ_TARGET` says which target gets them.

#![no_main]

mod targets;

use std::sync::LazyLock;

use targets::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("TAGLEDGER_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, target)) => *target,
        None => panic!("TAGLEDGER_FUZZ_TARGET is {wanted:?}; one of {:?} is wanted", TARGETS.map(|(name, _)| name)),
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
