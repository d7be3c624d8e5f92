//! How much one principal, or one address without a principal, may ask for: requests or statements a second, requests at
//! once, and memory; and how much all of them together.
//!
//! A bucket holds `burst`, and gets `per_second` more each second; a request takes one out, and each further statement in it
//! another. Where it is empty, the answer says after how long to ask again. What a request has sent, and what its answer has
//! ready for who does not take it, counts as memory until it is gone. Limits are in memory and of this server alone.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Callers remembered at once. Past that, addresses share one bucket.
const MAX_CALLERS: usize = 10_000;
/// One caller's part of the memory of all: a quarter, so that three who take all they can leave room for others.
const PART: usize = 4;
const MEBIBYTE: usize = 1 << 20;
/// When to ask again where memory or places are short: they are given back within moments, or it is an attack.
const SHORTLY: Duration = Duration::from_secs(1);

/// The limits of one caller; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Requests and statements a second, in the long run.
    pub per_second: u32,
    /// How many of them at once after a rest.
    pub burst: u32,
    /// Requests that are being answered at once.
    pub concurrent: u32,
}

impl Default for Limit {
    fn default() -> Self {
        Self { per_second: 10_000, burst: 20_000, concurrent: 512 }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// MiB that requests and answers of all callers may hold; of one caller a quarter of it. 0: any.
    pub memory_mib: usize,
    /// Requests of all callers that are being answered at once; 0: any number.
    pub concurrent: usize,
    /// Connections at once, if the system gives as many files; 0: any number.
    pub connections: usize,
    /// Of them from one IPv4 address or IPv6 /64; 0: any number.
    pub connections_per_address: usize,
    /// How long a client may take to begin, and to send a request's head.
    pub head_seconds: u64,
    /// How long a request's body may take. Streams may last.
    pub body_seconds: u64,
    /// How long a client may leave what it asked for untaken.
    pub unread_seconds: u64,
    /// How long an HTTP/2 connection may be silent before it is asked for a sign of life, and how long it may take to give one.
    pub silent_seconds: u64,
    /// Of each principal.
    pub principal: Limit,
    /// Of each address that shows no credentials.
    pub address: Limit,
    /// Of a principal by name, instead.
    pub principals: BTreeMap<String, Limit>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            memory_mib: 256,
            concurrent: 4096,
            connections: 8192,
            connections_per_address: 2048,
            head_seconds: 10,
            body_seconds: 30,
            unread_seconds: 60,
            silent_seconds: 20,
            principal: Limit::default(),
            address: Limit::default(),
            principals: BTreeMap::new(),
        }
    }
}

impl LimitSettings {
    /// How long a request's body may take.
    pub fn body_time(&self) -> Duration {
        Duration::from_secs(self.body_seconds.max(1))
    }
}

/// Who is limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// A principal.
    Principal(String),
    /// An address; of IPv6 the first half, which is one customer.
    Address(IpAddr),
    /// Addresses beyond those that can be remembered.
    Others,
}

impl Who {
    /// Somebody without a name.
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let bits = address.to_bits() >> 64 << 64;
                Self::Address(IpAddr::V6(bits.into()))
            }
            address => Self::Address(address),
        }
    }
}

/// Too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TooMuch {
    message: String,
    /// After how long to ask again.
    pub retry_after: Duration,
}

/// The limits of all callers.
#[derive(Clone)]
pub struct Limits {
    settings: Arc<LimitSettings>,
    callers: Arc<Mutex<Callers>>,
}

#[derive(Default)]
struct Callers {
    known: HashMap<Who, Caller>,
    /// Requests of all that are being answered.
    in_flight: usize,
    /// Bytes that all of them hold.
    held: usize,
}

struct Caller {
    /// As of `at`.
    left: f64,
    at: Instant,
    in_flight: u32,
    /// Bytes that its requests hold.
    held: usize,
}

/// A request that is being answered; it counts until this is dropped.
pub struct InFlight {
    callers: Arc<Mutex<Callers>>,
    who: Who,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut callers = lock(&self.callers);
        callers.in_flight = callers.in_flight.saturating_sub(1);
        if let Some(caller) = callers.known.get_mut(&self.who) {
            caller.in_flight = caller.in_flight.saturating_sub(1);
        }
    }
}

/// Bytes that a request holds; they count until this is dropped.
pub struct Room {
    request: Arc<InFlight>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut callers = lock(&self.request.callers);
        callers.held = callers.held.saturating_sub(self.bytes);
        if let Some(caller) = callers.known.get_mut(&self.request.who) {
            caller.held = caller.held.saturating_sub(self.bytes);
        }
    }
}

fn lock(callers: &Mutex<Callers>) -> MutexGuard<'_, Callers> {
    callers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limits {
    /// With nobody near them yet.
    pub fn new(settings: LimitSettings) -> Self {
        Self { settings: Arc::new(settings), callers: Arc::default() }
    }

    /// As configured.
    pub fn settings(&self) -> &LimitSettings {
        &self.settings
    }

    fn limit(&self, who: &Who) -> Limit {
        match who {
            Who::Principal(name) => self.settings.principals.get(name).copied().unwrap_or(self.settings.principal),
            Who::Address(_) | Who::Others => self.settings.address,
        }
    }

    /// Begins a request.
    pub fn begin(&self, who: Who) -> Result<InFlight, TooMuch> {
        self.begin_at(who, Instant::now())
    }

    fn begin_at(&self, who: Who, now: Instant) -> Result<InFlight, TooMuch> {
        let mut callers = lock(&self.callers);
        self.check_all(&callers)?;
        let who = self.remembered(&mut callers.known, who, now);
        let limit = self.limit(&who);
        let caller = callers.known.entry(who.clone()).or_insert_with(|| Caller::new(limit, now));
        if limit.concurrent > 0 && caller.in_flight >= limit.concurrent {
            let message =
                format!("{} requests are being answered at once, and no more are; wait for one", limit.concurrent);
            return Err(TooMuch { message, retry_after: SHORTLY });
        }
        caller.take(limit, 1, 1, now)?;
        caller.in_flight += 1;
        callers.in_flight += 1;
        drop(callers);
        Ok(InFlight { callers: Arc::clone(&self.callers), who })
    }

    /// Takes so many more out, or none of them.
    pub fn charge(&self, in_flight: &InFlight, count: usize) -> Result<(), TooMuch> {
        let (limit, now) = (self.limit(&in_flight.who), Instant::now());
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut callers = lock(&self.callers);
        let caller = callers.known.entry(in_flight.who.clone()).or_insert_with(|| Caller::new(limit, now));
        // More than the bucket ever holds is taken from one that is full but for the request itself, and paid back.
        caller.take(limit, count, count.min(limit.burst.max(1) - 1), now)
    }

    /// Takes out for so many statements of somebody who is known by nothing but them: the request counts for its address.
    pub fn spend(&self, who: Who, count: usize) -> Result<(), TooMuch> {
        let (limit, now) = (self.limit(&who), Instant::now());
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut callers = lock(&self.callers);
        // More than the bucket ever holds is taken from a full one, and paid back.
        let caller = callers.known.entry(who).or_insert_with(|| Caller::new(limit, now));
        caller.take(limit, count, count.min(limit.burst.max(1)), now)
    }

    /// Whether there is any room for one more of anybody.
    fn check_all(&self, callers: &Callers) -> Result<(), TooMuch> {
        let LimitSettings { memory_mib, concurrent, .. } = *self.settings;
        if concurrent > 0 && callers.in_flight >= concurrent {
            let message = format!("{concurrent} requests of all callers are being answered, and no more are at once");
            return Err(TooMuch { message, retry_after: SHORTLY });
        }
        if memory_mib > 0 && callers.held >= memory_mib * MEBIBYTE {
            let message = format!("the requests of all callers hold {memory_mib} MiB, and no more are taken meanwhile");
            return Err(TooMuch { message, retry_after: SHORTLY });
        }
        Ok(())
    }

    /// Takes memory for what a request has sent, if there is some for this caller.
    pub fn hold(&self, request: &Arc<InFlight>, bytes: usize) -> Result<Room, TooMuch> {
        self.hold_within(request, bytes, PART)
    }

    /// The same for what can wait, as a stream can: half of the caller's part stays for its other requests.
    pub fn hold_patiently(&self, request: &Arc<InFlight>, bytes: usize) -> Result<Room, TooMuch> {
        self.hold_within(request, bytes, 2 * PART)
    }

    fn hold_within(&self, request: &Arc<InFlight>, bytes: usize, part: usize) -> Result<Room, TooMuch> {
        let most = self.settings.memory_mib * MEBIBYTE;
        let callers = lock(&self.callers);
        let held = callers.known.get(&request.who).map_or(0, |caller| caller.held);
        if most > 0 && (callers.held + bytes > most || held + bytes > most / part) {
            let message = format!(
                "what was sent and is not answered yet holds {} MiB of this caller, {} of all; at most {} and {} are held",
                held / MEBIBYTE,
                callers.held / MEBIBYTE,
                most / part / MEBIBYTE,
                most / MEBIBYTE
            );
            return Err(TooMuch { message, retry_after: SHORTLY });
        }
        Ok(self.held(callers, request, bytes))
    }

    /// Counts memory that is held already, as an answer is.
    pub fn note_held(&self, request: &Arc<InFlight>, bytes: usize) -> Room {
        self.held(lock(&self.callers), request, bytes)
    }

    fn held(&self, mut callers: MutexGuard<'_, Callers>, request: &Arc<InFlight>, bytes: usize) -> Room {
        let limit = self.limit(&request.who);
        callers.held += bytes;
        let known = callers.known.entry(request.who.clone());
        known.or_insert_with(|| Caller::new(limit, Instant::now())).held += bytes;
        drop(callers);
        Room { request: Arc::clone(request), bytes }
    }

    /// Where there are too many to remember, forgets those who rest; if that does not help, a stranger counts among others.
    fn remembered(&self, callers: &mut HashMap<Who, Caller>, who: Who, now: Instant) -> Who {
        if callers.len() < MAX_CALLERS || callers.contains_key(&who) || matches!(who, Who::Principal(_)) {
            return who;
        }
        callers.retain(|who, caller| {
            let limit = self.limit(who);
            caller.refill(limit, now);
            caller.in_flight > 0 || caller.held > 0 || caller.left < f64::from(limit.burst)
        });
        if callers.len() < MAX_CALLERS { who } else { Who::Others }
    }
}

impl Caller {
    fn new(limit: Limit, now: Instant) -> Self {
        Self { left: f64::from(limit.burst.max(1)), at: now, in_flight: 0, held: 0 }
    }

    fn refill(&mut self, limit: Limit, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * f64::from(limit.per_second)).min(f64::from(limit.burst.max(1)));
        self.at = now;
    }

    /// Takes out `count`, if `due` are there.
    fn take(&mut self, limit: Limit, count: u32, due: u32, now: Instant) -> Result<(), TooMuch> {
        if limit.per_second == 0 {
            return Ok(());
        }
        self.refill(limit, now);
        let due = f64::from(due);
        if self.left >= due {
            self.left -= f64::from(count);
            return Ok(());
        }
        let wait = (due - self.left) / f64::from(limit.per_second);
        let message = format!("more than {} requests or statements a second; ask again later", limit.per_second);
        Err(TooMuch { message, retry_after: Duration::from_secs_f64(wait.clamp(0.001, 3600.0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_second: u32, burst: u32, concurrent: u32) -> Limits {
        let limit = Limit { per_second, burst, concurrent };
        Limits::new(LimitSettings { principal: limit, address: limit, ..LimitSettings::default() })
    }

    #[test]
    fn memory_is_bounded_for_each_and_for_all_and_given_back() {
        let limits = Limits::new(LimitSettings { memory_mib: 8, concurrent: 5, ..LimitSettings::default() });
        let begin = |name: &str| limits.begin(who(name)).map(Arc::new);
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|name| begin(name).expect("a place"));
        assert!(begin("f").is_err_and(|error| error.message.contains("5 requests of all")), "places are bounded too");
        let all: Vec<Room> = [&a, &b, &c, &d].map(|request| limits.hold(request, 2 << 20).expect("its part")).into();
        assert!(limits.hold(&a, 1).is_err(), "no more than its part");
        assert!(limits.hold(&e, 1).is_err(), "all is taken");
        drop(e);
        assert!(begin("f").is_err_and(|error| error.message.contains("8 MiB")), "not even begun");
        drop(all);
        let request = begin("f").expect("a place again");
        drop(limits.note_held(&request, 20 << 20));
        assert!(limits.hold(&request, 2 << 20).is_ok() && limits.hold(&a, 2 << 20).is_ok());
        drop((a, b, c, d, request));
        let callers = lock(&limits.callers);
        assert_eq!((callers.held, callers.in_flight), (0, 0));
    }

    fn who(name: &str) -> Who {
        Who::Principal(name.to_owned())
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let (limits, begin) = (limits(10, 20, 0), Instant::now());
        let passed = |after_ms: u64| {
            (0..100).take_while(|_| limits.begin_at(who("ci"), begin + Duration::from_millis(after_ms)).is_ok()).count()
        };
        assert_eq!((passed(0), passed(0), passed(1000), passed(1100), passed(60_000)), (20, 0, 10, 1, 20));
        let refused = limits.begin_at(who("ci"), begin + Duration::from_secs(60)).err().expect("too much");
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        assert!(limits.begin_at(who("other"), begin).is_ok(), "each has its own");
    }

    #[test]
    fn only_so_many_at_once() {
        let limits = limits(0, 0, 2);
        let (one, _two) = (limits.begin(who("ci")).expect("one"), limits.begin(who("ci")).expect("two"));
        assert!(limits.begin(who("ci")).is_err());
        drop(one);
        assert!(limits.begin(who("ci")).is_ok());
    }

    #[test]
    fn a_batch_is_paid_for_even_if_it_is_larger_than_the_bucket() {
        let limits = limits(10, 20, 0);
        let request = limits.begin(who("ci")).expect("one");
        assert!(limits.charge(&request, 1000).is_ok(), "full but for the request itself");
        let refused = limits.charge(&request, 1).expect_err("981 to pay back");
        assert!(refused.retry_after > Duration::from_secs(97), "{refused:?}");
        // Also where there is no room for more than the request.
        let limits = self::limits(10, 1, 0);
        let request = limits.begin(who("ci")).expect("one");
        assert!(limits.charge(&request, 5).is_ok() && limits.charge(&request, 5).is_err());
    }

    #[test]
    fn strangers_are_told_apart_by_network_and_are_not_remembered_without_end() {
        let network = |text: &str| Who::at(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        let limit = Limit { per_second: 1, burst: 1, concurrent: 0 };
        let limits = Limits::new(LimitSettings { address: limit, concurrent: 0, ..LimitSettings::default() });
        let all: Vec<_> = (0..20_000u32)
            .map(|number| limits.begin(Who::at(IpAddr::V4((number << 8).into()))))
            .filter_map(Result::ok)
            .collect();
        assert!(lock(&limits.callers).known.len() <= MAX_CALLERS + 1);
        assert!(all.len() >= MAX_CALLERS);
    }
}
