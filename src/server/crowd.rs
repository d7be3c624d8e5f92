//! How many connections there may be at once, of all clients and of each address. One too many is closed at once: whoever holds
//! the others may close some.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::limits::Who;

/// The bounds, and who is there. Clones share them.
#[derive(Clone)]
pub struct Crowd {
    most: usize,
    each: usize,
    /// What stands for many clients.
    proxies: Arc<[IpAddr]>,
    present: Arc<Mutex<Present>>,
}

#[derive(Default)]
struct Present {
    all: usize,
    by_address: HashMap<Who, usize>,
}

impl Crowd {
    /// At most so many, and so many of one address that is no proxy; 0: any number.
    pub fn new(most: usize, each: usize, proxies: Vec<IpAddr>) -> Self {
        let any_if_0 = |bound: usize| if bound == 0 { usize::MAX } else { bound };
        Self { most: any_if_0(most), each: any_if_0(each), proxies: proxies.into(), present: Arc::default() }
    }

    /// How many at once.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The same, and no more than these.
    pub(super) fn at_most(self, most: usize) -> Self {
        Self { most: self.most.min(most), ..self }
    }

    /// A seat for a connection, until it is dropped; none: there are too many.
    pub fn seat(&self, address: IpAddr) -> Option<Seat> {
        let is_proxy = self.proxies.contains(&address);
        let who = Who::at(address);
        let mut present = self.present();
        let here = present.by_address.get(&who).copied().unwrap_or_default();
        if present.all >= self.most || (here >= self.each && !is_proxy) {
            return None;
        }
        present.all += 1;
        present.by_address.insert(who.clone(), here + 1);
        Some(Seat { crowd: self.clone(), who })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // Nothing panics between two writes under the lock.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
pub struct Seat {
    crowd: Crowd,
    who: Who,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut present = self.crowd.present();
        present.all -= 1;
        if let Some(here) = present.by_address.get_mut(&self.who) {
            *here -= 1;
            if *here == 0 {
                present.by_address.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_all_together_theirs_and_who_goes_makes_room() {
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let crowd = Crowd::new(5, 2, vec![address(9)]);
        let (one, two) = (crowd.seat(address(1)), crowd.seat(address(1)));
        assert!(one.is_some() && two.is_some() && crowd.seat(address(1)).is_none());
        let proxied: Vec<_> = (0..3).filter_map(|_| crowd.seat(address(9))).collect();
        assert_eq!(proxied.len(), 3, "a proxy stands for many");
        assert!(crowd.seat(address(2)).is_none(), "there are five");
        drop(one);
        assert!(crowd.seat(address(2)).is_some() && crowd.seat(address(1)).is_some());
        drop((two, proxied));
        assert!(crowd.present().by_address.is_empty());
    }

    #[test]
    fn no_bound_is_any_number() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let crowd = Crowd::new(0, 0, Vec::new());
        let seats: Vec<_> = (0..10_000).filter_map(|_| crowd.seat(address)).collect();
        assert_eq!(seats.len(), 10_000);
        assert!(crowd.at_most(10_000).seat(address).is_none(), "but not more than there are files for");
        drop(seats);
        let crowd = Crowd::new(1, 0, Vec::new()).at_most(10_000);
        let seat = crowd.seat(address);
        assert!(seat.is_some() && crowd.seat(address).is_none());
    }
}
