//! What the gateway has recorded, and whether the ledger took anything the last time it was given something.
//!
//! A ledger may answer every question and still take nothing: its sequencer has stopped, or its disk stands still. So only what was to be
//! recorded tells. While a journal full of refused changes waits, those that wait are what goes on trying ([`super::settle`]).

use super::Gateway;
use crate::edge::port::{GatewayPort, PortError, Recorded};
use crate::proto;

impl<P: GatewayPort> Gateway<P> {
    /// Has a statement recorded.
    pub(super) async fn record(&self, statement: proto::Statement) -> Result<Recorded, PortError> {
        let recorded = self.port.record(statement).await;
        self.heard(recorded)
    }

    /// The same, if the tag's history still has so many entries.
    pub(super) async fn record_if_at(&self, statement: proto::Statement, version: u64) -> Result<Recorded, PortError> {
        let recorded = self.port.record_if_at(statement, version).await;
        self.heard(recorded)
    }

    /// Why the last statement may not have been taken although the ledger did not refuse it; none if it said yes or no.
    pub(super) fn untaken(&self) -> Option<PortError> {
        self.untaken.lock().expect("nobody panics while holding it").clone()
    }

    fn heard(&self, recorded: Result<Recorded, PortError>) -> Result<Recorded, PortError> {
        let untaken = recorded.as_ref().err().filter(|error| !error.is_refusal()).cloned();
        *self.untaken.lock().expect("nobody panics while holding it") = untaken;
        recorded
    }
}
