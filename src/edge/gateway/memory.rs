//! How much manifests may hold at once: of all changes under way, and of one client address a quarter, so that three who take all
//! they can leave room for others.
//!
//! What has come of a manifest counts, not what was promised, until its change is through.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One address's part.
pub const PART: usize = 4;

/// The bound, and what is held.
pub(super) struct Memory {
    /// In bytes.
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl Memory {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// For a manifest of which nothing has come yet, from an address, where it is known.
    pub(super) fn begin(self: &Arc<Self>, from: Option<IpAddr>) -> Held {
        Held { memory: Arc::clone(self), network: from.map(network), bytes: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics between two writes under the lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one manifest holds, until this is dropped.
pub(super) struct Held {
    memory: Arc<Memory>,
    network: Option<IpAddr>,
    bytes: usize,
}

impl Held {
    /// So much more of it has come; whether there is room for that.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let mut taken = self.memory.taken();
        let here = self.network.and_then(|network| taken.by_network.get(&network).copied()).unwrap_or_default();
        if taken.all + bytes > self.memory.most || (self.network.is_some() && here + bytes > self.memory.most / PART) {
            return false;
        }
        taken.all += bytes;
        if let Some(network) = self.network {
            taken.by_network.insert(network, here + bytes);
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.memory.taken();
        taken.all -= self.bytes;
        let Some(network) = self.network else { return };
        if let Some(here) = taken.by_network.get_mut(&network) {
            *here -= self.bytes;
            if *here == 0 {
                taken.by_network.remove(&network);
            }
        }
    }
}

/// Of IPv6 the first half, which is one customer.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_quarter_and_all_together_no_more_than_there_is_and_it_is_given_back() {
        let memory = Memory::new(400);
        let begin = |text: &str| memory.begin(Some(text.parse().expect("an address")));
        let mut one = begin("2001:db8::1");
        assert!(one.grow(60) && one.grow(40) && !one.grow(1), "its quarter");
        assert!(!begin("2001:db8::2").grow(1), "the same customer");
        let mut others = ["192.0.2.1", "192.0.2.2"].map(begin);
        assert!(others.iter_mut().all(|other| other.grow(100)));
        let mut unknown = memory.begin(None);
        assert!(!unknown.grow(101) && unknown.grow(100), "no more than is left, and all of that");
        assert!(!begin("192.0.2.3").grow(1), "all is taken");
        drop(one);
        assert!(begin("2001:db8::2").grow(100) && begin("192.0.2.3").grow(100), "one after the other");
        drop((others, unknown));
        let taken = memory.taken();
        assert!(taken.all == 0 && taken.by_network.is_empty());
    }
}
