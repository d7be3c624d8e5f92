//! The one thread that writes.
//!
//! It takes what is waiting (no timer: the batch is what arrived while the last commit was in flight), plans it, commits it
//! synced, publishes it, and only then answers. Told so, it commits to what there is without any new record. A commit that
//! fails leaves it unknown what is on disk; writing on could sign two histories. So the sequencer stops for good, says why,
//! and a restart recovers from what is there. A panic is the same: nobody knows how far it came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::clock::{Bounds, Oddity, ReadClock, Standstill};
use super::plan::{Accepted, Base, Plan, Rejected, plan, plan_idle};
use super::tops::Tops;
use super::{AppendError, Command, Committed, Tally, Waiting};
use crate::ledger::map;
use crate::ledger::merkle::Tree;
use crate::ledger::note::Skey;
use crate::ledger::policy::Policy;
use crate::ledger::principals::Principals;
use crate::proto;
use crate::store::Store;
use crate::store::leaf_pages::LeafPages;

/// Most requests that wait; past that they are refused as overload.
pub(super) const QUEUE_LENGTH: usize = 8192;
/// Most statements in one commit. A request is never split, so a batch may exceed this by its last request.
const BATCH_STATEMENTS: usize = 2048;
/// Most bytes of statements in one commit, likewise.
const BATCH_BYTES: usize = 8 << 20;

/// What the thread owns. Nobody else touches any of it.
pub(super) struct Sequencer {
    pub(super) store: Arc<dyn Store>,
    pub(super) skey: Skey,
    /// The rules in force.
    pub(super) policy: Policy,
    /// Who may state what, also for those who let callers in. It changes before anybody hears of the change.
    pub(super) principals: watch::Sender<Arc<Principals>>,
    pub(super) clock: ReadClock,
    pub(super) bounds: Bounds,
    pub(super) standstill: Standstill,
    /// For how long the clock has stood still, in microseconds.
    pub(super) stood_us: u64,
    /// The tree over everything committed.
    pub(super) tree: Tree,
    /// The upper part of the subject map over it.
    pub(super) top: map::Top,
    /// The leaves of that map.
    pub(super) leaves: LeafPages,
    /// The same for readers.
    pub(super) tops: Arc<Tops>,
    /// Time of the last committed entry.
    pub(super) last_time_us: u64,
    pub(super) newest: watch::Sender<Arc<Committed>>,
    pub(super) stopped: watch::Sender<Option<String>>,
    /// Whether the clock was beyond its bounds at the last commit.
    pub(super) clock_alarm: Arc<AtomicBool>,
    /// Statements recorded since the start, by outcome.
    pub(super) outcomes: Arc<Tally>,
    /// Set when something was recorded.
    pub(super) has_news: Arc<AtomicBool>,
}

impl Sequencer {
    /// Runs until it is told to end, nobody can append any more, or a commit fails.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut is_last = false;
        while !is_last {
            let batch = next_batch(&mut commands);
            is_last = batch.is_last;
            let halt = batch.halt.clone();
            // What it panics over may be half changed, and is never looked at again.
            match catch_unwind(AssertUnwindSafe(|| self.write(batch))) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    let reason = "a bug was hit while a batch was written, and the log says where".to_owned();
                    tracing::error!(reason, "the sequencer stops: appends are refused until a restart");
                    self.stopped.send_replace(Some(reason));
                    return;
                }
            }
            if let Some(reason) = halt {
                tracing::error!(reason, "the sequencer stops: appends are refused until a restart");
                self.stopped.send_replace(Some(reason));
                return;
            }
        }
        let Self { store, stopped, .. } = self;
        // Whoever waits for the end may open the store again.
        drop(store);
        stopped.send_replace(Some("it was shut down".into()));
    }

    /// Plans, commits, publishes, answers. An error is fatal.
    fn write(&mut self, batch: NextBatch) -> Result<(), String> {
        let (requests, replies): (Vec<_>, Vec<_>) =
            batch.requests.into_iter().map(|waiting| (waiting.submissions, waiting.reply)).unzip();
        if requests.is_empty() && !batch.commits {
            return Ok(());
        }
        let principals = Arc::clone(&self.principals.borrow());
        let reading_us = (self.clock)();
        self.stood_us = self.standstill.see(reading_us, Instant::now());
        let base = Base {
            read: &*self.store,
            tree: &self.tree,
            top: &self.top,
            leaves: &self.leaves,
            last_time_us: self.last_time_us,
            policy: &self.policy,
            principals: &principals,
            seal: &self.skey,
        };
        let planned = if requests.is_empty() {
            plan_idle(&base, reading_us, self.bounds)
        } else {
            plan(&base, reading_us, self.bounds, &requests)
        };
        // Where nothing of it was new, the commitment that was asked for is still due.
        let planned = match planned {
            Ok(plan) if plan.entries.is_empty() && batch.commits => {
                plan_idle(&base, reading_us, self.bounds).map(|idle| Plan { decisions: plan.decisions, ..idle })
            }
            planned => planned,
        };
        let outcome = planned.map_err(|error| error.to_string()).and_then(|plan| self.commit(plan));
        match outcome {
            Ok((decisions, committed)) => {
                for (reply, decision) in replies.into_iter().zip(decisions) {
                    let answer = decision.map(|accepted| (accepted, Arc::clone(&committed)));
                    // A client that left has its entry all the same; with an event id it can ask again.
                    let _ = reply.send(answer.map_err(AppendError::from));
                }
                Ok(())
            }
            Err(reason) => {
                tracing::error!(reason, "the sequencer stops: appends are refused until a restart");
                // Health is red before anybody hears of it.
                self.stopped.send_replace(Some(reason.clone()));
                for reply in replies {
                    let _ = reply.send(Err(AppendError::Stopped(reason.clone())));
                }
                Err(reason)
            }
        }
    }

    fn commit(&mut self, plan: Plan) -> Result<Written, String> {
        self.report(plan.oddity);
        if plan.entries.is_empty() {
            return Ok((plan.decisions, Arc::clone(&self.newest.borrow())));
        }
        let first = self.tree.size();
        // First of all: a reader may see the rows before the commit returns, and also where it returns an error.
        self.tops.put(plan.tree.size(), plan.top.clone());
        self.store.commit(first, plan.batch).map_err(|error| error.to_string())?;
        // Durable from here on.
        self.leaves.put(&plan.leaves).map_err(|error| error.to_string())?;
        (self.tree, self.top) = (plan.tree, plan.top);
        if let Some(policy) = plan.policy {
            tracing::info!(digest = %policy.digest(), "another policy is in force");
            self.policy = policy;
        }
        if !Arc::ptr_eq(&plan.principals, &self.principals.borrow()) {
            tracing::info!(count = plan.principals.len(), digest = %plan.principals.digest(), "the principals have changed");
            self.principals.send_replace(plan.principals);
        }
        self.last_time_us = plan.head.recorded_at_us;
        let committed = Arc::new(Committed { head: plan.head, first, entries: plan.entries, nodes: plan.nodes });
        self.newest.send_replace(Arc::clone(&committed));
        self.tell(&plan.decisions);
        Ok((plan.decisions, committed))
    }

    /// Counts outcomes, and raises the alarm for what policy forbids and what drifted.
    fn tell(&self, decisions: &[Result<Vec<Accepted>, Rejected>]) {
        for accepted in decisions.iter().flatten().flatten() {
            let Accepted::New(receipt) = accepted else { continue };
            self.outcomes.add(receipt.outcome());
            self.has_news.store(true, Ordering::Relaxed);
            let (index, rule, detail) = (receipt.index, &receipt.rule, &receipt.detail);
            match receipt.outcome() {
                proto::Outcome::Violation => {
                    tracing::error!(index, rule, detail, "violation: it happened against policy")
                }
                proto::Outcome::Drift => tracing::warn!(index, detail, "drift: the world differs from the record"),
                _ => {}
            }
        }
    }

    fn report(&self, oddity: Option<Oddity>) {
        match oddity {
            Some(Oddity::StoodOrSteppedBack { behind_us, alarm: true }) => {
                tracing::error!(
                    behind_us,
                    "clock alarm: the clock is far behind the last entry; check the time source"
                );
            }
            Some(Oddity::StoodOrSteppedBack { behind_us, alarm: false }) => {
                tracing::warn!(
                    behind_us,
                    "the clock stood still or stepped back; the ledger counts on by microseconds"
                );
            }
            Some(Oddity::TooFarAhead { ahead_us }) => {
                tracing::error!(
                    ahead_us,
                    "clock alarm: the clock is far ahead of the last entry; check the time source"
                );
            }
            None => {}
        }
        let stands = self.stood_us > self.bounds.behind_us;
        if stands {
            tracing::error!(stood_us = self.stood_us, "clock alarm: the clock stands still; check the time source");
        }
        let is_off =
            matches!(oddity, Some(Oddity::StoodOrSteppedBack { alarm: true, .. } | Oddity::TooFarAhead { .. }));
        let alarm = is_off || stands;
        self.clock_alarm.store(alarm, Ordering::Relaxed);
    }
}

type Written = (Vec<Result<Vec<Accepted>, Rejected>>, Arc<Committed>);

/// What is written in one go.
#[derive(Default)]
struct NextBatch {
    requests: Vec<Waiting>,
    /// A commitment is asked for. Every batch of records has one anyway.
    commits: bool,
    /// Nothing comes after it.
    is_last: bool,
    /// Nothing may come after it.
    halt: Option<String>,
}

/// Waits for a command, and takes with it what else is waiting.
fn next_batch(commands: &mut mpsc::Receiver<Command>) -> NextBatch {
    let (mut batch, mut statements, mut bytes) = (NextBatch::default(), 0, 0);
    let mut command = commands.blocking_recv();
    loop {
        match command {
            Some(Command::Append(request)) => {
                statements += request.submissions.len();
                bytes += request.submissions.iter().map(|submission| submission.bytes.len()).sum::<usize>();
                batch.requests.push(request);
            }
            Some(Command::Commit) => batch.commits = true,
            Some(Command::Halt(reason)) => return NextBatch { halt: Some(reason), ..batch },
            Some(Command::Close) | None => return NextBatch { is_last: true, ..batch },
        }
        if statements >= BATCH_STATEMENTS || bytes >= BATCH_BYTES {
            return batch;
        }
        command = match commands.try_recv() {
            Ok(command) => Some(command),
            Err(_) => return batch,
        };
    }
}
