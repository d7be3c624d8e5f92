//! Panics: a bug of ours that was hit makes health red and says where, whichever thread it was.
//!
//! The request that hit it gets an error (`listen`), and the sequencer stops as after a failed commit. What else such a bug left
//! half done nobody knows, so the service calls itself unhealthy from then on; a restart makes it well. The hook is the
//! process's: what it notes is kept once for all ledgers in it.

use std::panic::PanicHookInfo;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::engine::{Defect, Ledger};

static COUNT: AtomicU64 = AtomicU64::new(0);
/// Where the first one was.
static FIRST: LazyLock<watch::Sender<Option<String>>> = LazyLock::new(|| watch::Sender::new(None));

/// From now on panics are noted, and logged instead of printed.
pub fn watch() {
    std::panic::set_hook(Box::new(note));
}

/// How many there were.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Where the first one was, if there was one.
pub fn first() -> Option<String> {
    FIRST.borrow().clone()
}

/// Tells a ledger of the first one, as soon as there is one.
pub async fn tell(ledger: Ledger) {
    let mut first = FIRST.subscribe();
    let mut stopped = ledger.stopped();
    tokio::select! {
        found = first.wait_for(Option::is_some) => {
            if let Some(place) = found.ok().and_then(|place| place.clone()) {
                ledger.set_defect(Defect::Bug, Some(place));
            }
        }
        _ = stopped.wait_for(Option::is_some) => {}
    }
}

fn note(panic: &PanicHookInfo<'_>) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    // Strangers may read health: it names the place, and not the words, which can hold what somebody sent.
    let shown = format!("a bug was hit at {place}; see the log, report it, and restart");
    FIRST.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(shown);
        is_first
    });
    let thread = std::thread::current();
    let (thread, words) = (thread.name().unwrap_or("unnamed"), words(panic));
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(place, thread, words, %backtrace, "a bug was hit: health is red until a restart");
}

fn words<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let words = payload.downcast_ref::<&str>().copied();
    words.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}
