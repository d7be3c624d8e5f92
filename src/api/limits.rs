//! How much one principal, or one address without a principal, may ask for: requests or statements a second, requests at
//! once, and memory; and how much all of them together.
//!
//! A bucket holds `burst`, and gets `per_second` more each second; a request takes one out, and each further statement in it
//! another. Where it is empty, the answer says after how long to ask again. What a request has sent, and what its answer takes,
//! counts as memory until it is gone; some is set aside for the answer from the beginning, so most requests count once. Limits are
//! in memory and of this server alone.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// Of them streams, which may be quiet and last; 0: any number.
    pub streams: usize,
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
            streams: 2048,
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

/// What a request will take, as far as can be told before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A short answer.
    Light,
    /// An answer that may be a few entries with their proofs.
    Heavy,
    /// An answer that may be megabytes.
    Huge,
    /// An answer that comes piece by piece, and may last.
    Stream,
}

impl Weight {
    /// What is set aside for the answer, in bytes: what most take. Pieces of a stream are counted when they are made.
    fn aside(self) -> usize {
        match self {
            Self::Light => 4 << 10,
            Self::Heavy => 64 << 10,
            Self::Huge => 256 << 10,
            Self::Stream => 0,
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
    all: Taken,
    /// Of it by those without a name, of whom there can be any number: half is left for those who have one.
    nameless: Taken,
}

/// What many callers take together.
#[derive(Default)]
struct Taken {
    /// Requests that are being answered.
    in_flight: usize,
    /// Of them streams.
    streams: usize,
    /// Bytes that they hold.
    held: usize,
}

impl Callers {
    fn change(&mut self, who: &Who, change: impl Fn(&mut Taken)) {
        change(&mut self.all);
        if !matches!(who, Who::Principal(_)) {
            change(&mut self.nameless);
        }
    }

    /// What is taken by those with whom a caller shares something, which part of everything they may take, and who they are.
    fn shared(&self, who: &Who) -> impl Iterator<Item = (&Taken, usize, &'static str)> {
        let nameless =
            (!matches!(who, Who::Principal(_))).then_some((&self.nameless, 2, "callers without credentials"));
        [(&self.all, 1, "all callers")].into_iter().chain(nameless)
    }
}

struct Caller {
    /// As of `at`.
    left: f64,
    at: Instant,
    in_flight: u32,
    /// Bytes that its requests hold.
    held: usize,
}

/// A request that is being answered; it counts, with what it holds, until this is dropped.
pub struct InFlight {
    callers: Arc<Mutex<Callers>>,
    who: Who,
    is_stream: bool,
    /// Bytes that it holds until its end; changes under the lock of all callers.
    held: AtomicUsize,
    /// Of them, set aside for the answer.
    aside: AtomicUsize,
    /// Why its body was not read to its end.
    refused: OnceLock<TooMuch>,
}

impl InFlight {
    /// Why its body was not read to its end, if it was too much.
    pub fn refused(&self) -> Option<&TooMuch> {
        self.refused.get()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut callers = lock(&self.callers);
        let held = *self.held.get_mut();
        callers.change(&self.who, |taken| {
            taken.in_flight = taken.in_flight.saturating_sub(1);
            taken.streams = taken.streams.saturating_sub(usize::from(self.is_stream));
            taken.held = taken.held.saturating_sub(held);
        });
        if let Some(caller) = callers.known.get_mut(&self.who) {
            caller.in_flight = caller.in_flight.saturating_sub(1);
            caller.held = caller.held.saturating_sub(held);
        }
    }
}

/// Bytes that a stream holds for a while; they count until this is dropped.
pub struct Room {
    request: Arc<InFlight>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut callers = lock(&self.request.callers);
        callers.change(&self.request.who, |taken| taken.held = taken.held.saturating_sub(self.bytes));
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
    pub fn begin(&self, who: Who, weight: Weight) -> Result<InFlight, TooMuch> {
        self.begin_at(who, weight, Instant::now())
    }

    fn begin_at(&self, who: Who, weight: Weight, now: Instant) -> Result<InFlight, TooMuch> {
        let (is_stream, aside) = (weight == Weight::Stream, weight.aside());
        let mut callers = lock(&self.callers);
        self.check_shared(&callers, &who, is_stream)?;
        let who = self.remembered(&mut callers.known, who, now);
        let limit = self.limit(&who);
        let caller = callers.known.entry(who.clone()).or_insert_with(|| Caller::new(limit, now));
        if limit.concurrent > 0 && caller.in_flight >= limit.concurrent {
            let message =
                format!("{} requests are being answered at once, and no more are; wait for one", limit.concurrent);
            return Err(TooMuch { message, retry_after: SHORTLY });
        }
        let most = self.settings.memory_mib * MEBIBYTE;
        // Whoever has all that one may hold gets nothing new begun, however little that is.
        if most > 0 && caller.held + aside.max(1) > most / PART {
            let held = caller.held;
            return Err(self.no_room(held, callers.all.held, PART));
        }
        caller.take(limit, 1, 1, now)?;
        caller.in_flight += 1;
        caller.held += aside;
        callers.change(&who, |taken| {
            taken.in_flight += 1;
            taken.streams += usize::from(is_stream);
            taken.held += aside;
        });
        drop(callers);
        let (held, aside, refused) = (AtomicUsize::new(aside), AtomicUsize::new(aside), OnceLock::new());
        Ok(InFlight { callers: Arc::clone(&self.callers), who, is_stream, held, aside, refused })
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

    /// Whether there is any room for one more of anybody like this caller.
    fn check_shared(&self, callers: &Callers, who: &Who, is_stream: bool) -> Result<(), TooMuch> {
        let LimitSettings { memory_mib, concurrent, streams, .. } = *self.settings;
        let full = |message: String| Err(TooMuch { message, retry_after: SHORTLY });
        for (taken, part, whose) in callers.shared(who) {
            if is_stream && streams > 0 && taken.streams >= streams.div_ceil(part) {
                return full(format!("{} streams of {whose} are open, and no more are at once", taken.streams));
            }
            if concurrent > 0 && taken.in_flight >= concurrent.div_ceil(part) {
                let count = taken.in_flight;
                return full(format!("{count} requests of {whose} are being answered, and no more are at once"));
            }
            if memory_mib > 0 && taken.held >= memory_mib * MEBIBYTE / part {
                let held = taken.held / MEBIBYTE;
                return full(format!("the requests of {whose} hold {held} MiB, and no more are taken meanwhile"));
            }
        }
        Ok(())
    }

    /// Takes memory for what a request has sent, until the request's end, if there is some for this caller.
    pub fn hold(&self, request: &InFlight, bytes: usize) -> Result<(), TooMuch> {
        let mut callers = self.room_for(request, bytes, PART).inspect_err(|error| {
            let _ = request.refused.set(error.clone());
        })?;
        self.add(&mut callers, request, bytes);
        request.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes memory for an answer that is still to be made, if there is some for this caller.
    pub fn set_aside(&self, request: &InFlight, bytes: usize) -> Result<(), TooMuch> {
        self.hold(request, bytes)?;
        request.aside.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Counts an answer that was made, as far as it is longer than what was set aside for it. What only reads is refused if that is
    /// too much.
    pub fn answer(&self, request: &InFlight, bytes: usize, only_reads: bool) -> Result<(), TooMuch> {
        let more = bytes.saturating_sub(request.aside.load(Ordering::Relaxed));
        if more == 0 {
            return Ok(());
        }
        let mut callers = if only_reads { self.room_for(request, more, PART)? } else { lock(&self.callers) };
        self.add(&mut callers, request, more);
        request.held.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Takes memory for what can wait, as a stream can: half of the caller's part stays for its other requests.
    pub fn hold_patiently(&self, request: &Arc<InFlight>, bytes: usize) -> Result<Room, TooMuch> {
        let mut callers = self.room_for(request, bytes, 2 * PART)?;
        self.add(&mut callers, request, bytes);
        drop(callers);
        Ok(Room { request: Arc::clone(request), bytes })
    }

    /// Counts memory that is held already, as a piece of a stream's answer is.
    pub fn note_held(&self, request: &Arc<InFlight>, bytes: usize) -> Room {
        self.add(&mut lock(&self.callers), request, bytes);
        Room { request: Arc::clone(request), bytes }
    }

    fn room_for(&self, request: &InFlight, bytes: usize, part: usize) -> Result<MutexGuard<'_, Callers>, TooMuch> {
        let most = self.settings.memory_mib * MEBIBYTE;
        let callers = lock(&self.callers);
        let held = callers.known.get(&request.who).map_or(0, |caller| caller.held);
        let is_full = callers.shared(&request.who).any(|(taken, part, _)| taken.held + bytes > most / part);
        if most > 0 && (is_full || held + bytes > most / part) {
            return Err(self.no_room(held, callers.all.held, part));
        }
        Ok(callers)
    }

    fn no_room(&self, held: usize, of_all: usize, part: usize) -> TooMuch {
        let most = self.settings.memory_mib * MEBIBYTE;
        let message = format!(
            "what was sent and is not answered yet, and answers that are not taken, hold {} MiB of this caller, {} of all; at most {} and {} are held",
            held / MEBIBYTE,
            of_all / MEBIBYTE,
            most / part / MEBIBYTE,
            most / MEBIBYTE
        );
        TooMuch { message, retry_after: SHORTLY }
    }

    fn add(&self, callers: &mut Callers, request: &InFlight, bytes: usize) {
        let limit = self.limit(&request.who);
        callers.change(&request.who, |taken| taken.held += bytes);
        let known = callers.known.entry(request.who.clone());
        known.or_insert_with(|| Caller::new(limit, Instant::now())).held += bytes;
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
        let begin = |name: &str| limits.begin(who(name), Weight::Stream).map(Arc::new);
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|name| begin(name).expect("a place"));
        assert!(begin("f").is_err_and(|error| error.message.contains("5 requests of all")), "places are bounded too");
        let all = [&a, &b, &c, &d];
        all.iter().for_each(|request| limits.hold(request, 2 << 20).expect("its part"));
        assert!(limits.hold(&a, 1).is_err() && a.refused().is_some(), "no more than its part");
        assert!(limits.hold(&e, 1).is_err(), "all is taken");
        drop(e);
        assert!(begin("f").is_err_and(|error| error.message.contains("8 MiB")), "not even begun");
        drop((b, c, d));
        assert!(begin("a").is_err_and(|error| error.message.contains("2 MiB of this caller")), "it has its part");
        drop(a);
        let (request, a) = (begin("f").expect("a place again"), begin("a").expect("a place again"));
        drop(limits.note_held(&request, 20 << 20));
        assert!(limits.hold(&request, 2 << 20).is_ok() && limits.hold(&a, 2 << 20).is_ok());
        drop((a, request));
        let callers = lock(&limits.callers);
        for taken in [&callers.all, &callers.nameless] {
            assert_eq!((taken.held, taken.in_flight, taken.streams), (0, 0, 0));
        }
    }

    #[test]
    fn an_answer_counts_beyond_what_was_set_aside_and_one_that_only_reads_is_refused() {
        let limits = Limits::new(LimitSettings { memory_mib: 8, ..LimitSettings::default() });
        let held = || lock(&limits.callers).all.held;
        let request = limits.begin(who("a"), Weight::Heavy).expect("a place");
        assert_eq!(held(), 64 << 10);
        limits.answer(&request, 1000, true).expect("that is there");
        assert_eq!(held(), 64 << 10);
        limits.answer(&request, 1 << 20, true).expect("its part");
        assert_eq!(held(), 1 << 20);
        assert!(limits.answer(&request, 2 << 20, true).is_err(), "too much");
        assert_eq!(held(), 1 << 20);
        limits.answer(&request, 4 << 20, false).expect("what was done is answered");
        assert!(limits.begin(who("a"), Weight::Light).is_err() && limits.begin(who("b"), Weight::Light).is_ok());
        drop(request);
        assert_eq!(held(), 0);
        let request = limits.begin(who("a"), Weight::Light).expect("a place");
        limits.set_aside(&request, 1 << 20).expect("its part");
        limits.answer(&request, 1 << 20, false).expect("that is there");
        assert_eq!(held(), (1 << 20) + (4 << 10));
    }

    #[test]
    fn streams_leave_places_for_what_is_no_stream() {
        let limits = Limits::new(LimitSettings { concurrent: 4, streams: 2, ..LimitSettings::default() });
        let begin = |name: &str, weight| limits.begin(who(name), weight);
        let streams = [begin("a", Weight::Stream).expect("one"), begin("b", Weight::Stream).expect("two")];
        assert!(begin("c", Weight::Stream).is_err_and(|error| error.message.contains("2 streams")));
        let others = [begin("c", Weight::Light).expect("three"), begin("c", Weight::Heavy).expect("four")];
        drop(streams);
        assert!(begin("c", Weight::Stream).is_ok());
        drop(others);
    }

    #[test]
    fn however_many_come_without_a_name_half_is_left_for_those_who_have_one() {
        let settings = LimitSettings { memory_mib: 16, concurrent: 8, streams: 4, ..LimitSettings::default() };
        let limits = Limits::new(settings);
        let stranger = |number: u8, weight| limits.begin(Who::at(IpAddr::from([10, 0, number, 1])), weight);
        let streams: Vec<_> = (0..9).filter_map(|number| stranger(number, Weight::Stream).ok()).collect();
        assert_eq!(streams.len(), 2);
        let requests: Vec<_> = (0..9).filter_map(|number| stranger(number, Weight::Light).ok()).collect();
        assert_eq!(streams.len() + requests.len(), 4);
        let refused = stranger(20, Weight::Light).err().expect("full");
        assert!(refused.message.contains("4 requests of callers without credentials"), "{refused}");
        let named: Vec<_> = (0..4).map(|_| limits.begin(who("ci"), Weight::Light).expect("a place")).collect();
        drop((streams, requests, named));
        let few: Vec<_> = (0..4).map(|number| stranger(number, Weight::Light).expect("a place")).collect();
        let held: Vec<_> = few.iter().filter(|request| limits.hold(request, 3 << 20).is_ok()).collect();
        assert_eq!(held.len(), 2, "8 MiB for all of them");
        let named = limits.begin(who("ci"), Weight::Light).expect("a place");
        assert!(limits.hold(&named, 3 << 20).is_ok());
        drop((few, named));
        let callers = lock(&limits.callers);
        for taken in [&callers.all, &callers.nameless] {
            assert_eq!((taken.held, taken.in_flight, taken.streams), (0, 0, 0));
        }
    }

    fn who(name: &str) -> Who {
        Who::Principal(name.to_owned())
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let (limits, begin) = (limits(10, 20, 0), Instant::now());
        let passed = |after_ms: u64| {
            (0..100)
                .take_while(|_| {
                    limits.begin_at(who("ci"), Weight::Light, begin + Duration::from_millis(after_ms)).is_ok()
                })
                .count()
        };
        assert_eq!((passed(0), passed(0), passed(1000), passed(1100), passed(60_000)), (20, 0, 10, 1, 20));
        let refused =
            limits.begin_at(who("ci"), Weight::Light, begin + Duration::from_secs(60)).err().expect("too much");
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        assert!(limits.begin_at(who("other"), Weight::Light, begin).is_ok(), "each has its own");
    }

    #[test]
    fn only_so_many_at_once() {
        let limits = limits(0, 0, 2);
        let (one, _two) = (
            limits.begin(who("ci"), Weight::Light).expect("one"),
            limits.begin(who("ci"), Weight::Light).expect("two"),
        );
        assert!(limits.begin(who("ci"), Weight::Light).is_err());
        drop(one);
        assert!(limits.begin(who("ci"), Weight::Light).is_ok());
    }

    #[test]
    fn a_batch_is_paid_for_even_if_it_is_larger_than_the_bucket() {
        let limits = limits(10, 20, 0);
        let request = limits.begin(who("ci"), Weight::Light).expect("one");
        assert!(limits.charge(&request, 1000).is_ok(), "full but for the request itself");
        let refused = limits.charge(&request, 1).expect_err("981 to pay back");
        assert!(refused.retry_after > Duration::from_secs(97), "{refused:?}");
        // Also where there is no room for more than the request.
        let limits = self::limits(10, 1, 0);
        let request = limits.begin(who("ci"), Weight::Light).expect("one");
        assert!(limits.charge(&request, 5).is_ok() && limits.charge(&request, 5).is_err());
    }

    #[test]
    fn strangers_are_told_apart_by_network_and_are_not_remembered_without_end() {
        let network = |text: &str| Who::at(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        let limit = Limit { per_second: 1, burst: 1, concurrent: 0 };
        let limits =
            Limits::new(LimitSettings { address: limit, concurrent: 0, memory_mib: 0, ..LimitSettings::default() });
        let all: Vec<_> = (0..20_000u32)
            .map(|number| limits.begin(Who::at(IpAddr::V4((number << 8).into())), Weight::Light))
            .filter_map(Result::ok)
            .collect();
        assert!(lock(&limits.callers).known.len() <= MAX_CALLERS + 1);
        assert!(all.len() >= MAX_CALLERS);
    }
}
