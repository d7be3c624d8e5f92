//! Who signs: the key in force, and beside it, for a while, the one before.
//!
//! Which key is in force follows from the log; where the private keys are is for whoever opens the ledger to say ([`ReadKeys`]). They
//! are read again when a change of the key is to be recorded: the new one was prepared while the ledger ran.

use std::error::Error as _;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::plan::{Seal, Sealed};
use super::recovery::OpenError;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::keys::{Chain, Keys as _};
use crate::ledger::note::{Origin, Skey, Vkey};
use crate::proto;

/// Reads the private keys that there are: of a ledger that has not begun, the first is its own.
pub type ReadKeys = Arc<dyn Fn() -> Result<Vec<Skey>, String> + Send + Sync>;

/// A key and no other: of a ledger that keeps it.
pub fn only(skey: &Skey) -> ReadKeys {
    let (origin, seed) = (skey.origin().clone(), Zeroizing::new(*skey.key().as_bytes()));
    Arc::new(move || Ok(vec![Skey::from_seed(origin.clone(), &seed)]))
}

/// Begins the threads that sign, which also read the map at the start: not only when the first of them is needed, for then it
/// may be that the system has none to spare. A process that has such threads keeps them.
pub(super) fn begin_threads() -> Result<(), OpenError> {
    match rayon::ThreadPoolBuilder::new().thread_name(|_| "signer".to_owned()).build_global() {
        Err(error) if error.source().is_some() => Err(OpenError::Thread(error.to_string())),
        _ => Ok(()),
    }
}

/// Signs what a batch becomes.
pub(super) struct Signer {
    /// In force.
    key: Arc<Skey>,
    /// The one before it, and until when it signs checkpoints too, in microseconds since the Unix epoch.
    before: Option<(Arc<Skey>, u64)>,
    /// The one that a change could bring.
    prepared: Option<Arc<Skey>>,
}

impl Signer {
    /// Of these keys those that sign after the last entry. The newest change was recorded at `changed_at_us`.
    pub(super) fn new(available: Vec<Arc<Skey>>, keys: &Chain, changed_at_us: u64, overlap_us: u64) -> Option<Self> {
        let (mut key, mut before) = (None, None);
        let retired = keys.all().rev().nth(1);
        for skey in available {
            match skey.vkey() {
                vkey if vkey == *keys.newest() => key = Some(skey),
                vkey if Some(&vkey) == retired => before = Some((skey, changed_at_us.saturating_add(overlap_us))),
                _ => {}
            }
        }
        Some(Self { key: key?, before, prepared: None })
    }

    /// Takes the key that a change is to bring, if it is among those that there are.
    pub(super) fn prepare(&mut self, vkey: &Vkey, read: &ReadKeys) {
        let available = read().unwrap_or_else(|error| {
            tracing::error!(error, "the ledger's private keys can't be read");
            Vec::new()
        });
        self.prepared = available.into_iter().find(|skey| skey.vkey() == *vkey).map(Arc::new);
    }

    /// Forgets the key before, once its time is over.
    pub(super) fn at(&mut self, now_us: u64) {
        self.before.take_if(|(_, until_us)| *until_us <= now_us);
    }

    /// Goes on with the key that a change brought.
    pub(super) fn change(&mut self, changed_at_us: u64, overlap_us: u64) {
        let Some(prepared) = self.prepared.take() else { return };
        let before = std::mem::replace(&mut self.key, prepared);
        self.before = Some((before, changed_at_us.saturating_add(overlap_us)));
    }
}

impl Seal for Signer {
    fn records(&self, records: Vec<proto::Record>) -> Sealed {
        self.key.records(records)
    }

    fn commitment(&self, commitment: &proto::Commitment) -> Vec<u8> {
        self.key.commitment(commitment)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint, changes_key: bool) -> String {
        match (&self.prepared, &self.before) {
            (Some(next), _) if changes_key => checkpoint.sign_with(&self.key, next),
            (_, Some((before, _))) => checkpoint.sign_with(&self.key, before),
            _ => checkpoint.sign(&self.key),
        }
    }

    fn can_change_to(&self, vkey: &Vkey) -> bool {
        self.prepared.as_ref().is_some_and(|skey| skey.vkey() == *vkey)
    }

    fn origin(&self) -> &Origin {
        self.key.origin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_prepared_is_forgotten_when_the_keys_cannot_be_read_again() {
        let key = |seed: u8| Skey::from_seed("ledger.example".parse().expect("an origin"), &[seed; 32]);
        let next = key(2).vkey();
        let mut signer =
            Signer::new(vec![Arc::new(key(1))], &Chain::of(key(1).vkey()), 0, 0).expect("its key is there");
        let readable: ReadKeys = Arc::new(move || Ok(vec![key(1), key(2)]));
        signer.prepare(&next, &readable);
        assert!(signer.can_change_to(&next));
        let unreadable: ReadKeys = Arc::new(|| Err("no such file".to_owned()));
        signer.prepare(&next, &unreadable);
        assert!(!signer.can_change_to(&next));
    }
}
