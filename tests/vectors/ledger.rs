//! The ledger that the unit tests have, from the same file, with its neighbours where it looks for them.

use tagledger::ledger::*;

#[path = "../../src/ledger/little_ledger.rs"]
#[allow(dead_code)]
pub(crate) mod little_ledger;
