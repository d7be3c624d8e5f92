//! The thread that decides what is written, and in which order.
//!
//! It takes what is waiting (no timer: the batch is what arrived while the last one was planned), plans it on what the batches
//! before it leave, and hands it to the [committer](super::committer). While that writes, it plans what has come meanwhile: what is
//! planned so is acknowledged by nobody, and lost together with the batch it stands on if that can't be written. A panic is the
//! end: nobody knows how far it came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;

use super::clock::{Herald, Oddity, ReadClock, Watch};
use super::committer::{Answers, BUG, Desk, Order};
use super::ending::Ending;
use super::known::{Forgotten, Known};
use super::plan::{Base, Plan, Submission, plan, plan_idle};
use super::signer::{ReadKeys, Signer};
use super::{Command, LastMap, Waiting};
use crate::ledger::keys::Chain;
use crate::ledger::map;
use crate::ledger::policy::Policy;
use crate::ledger::principals::Principals;
use crate::ledger::statement::Kind;
use crate::store::Store;
use crate::store::leaf_pages::LeafPages;
use crate::store::log_tree::LogTree;

/// Most requests that wait; past that they are refused as overload.
pub(super) const QUEUE_LENGTH: usize = 8192;
/// Most statements in one commit. A request is never split, so a batch may exceed this by its last request.
const BATCH_STATEMENTS: usize = 2048;
/// Most bytes of statements in one commit, likewise.
const BATCH_BYTES: usize = 8 << 20;

/// What the thread owns: the ledger as it is after the last batch that was planned. Nobody else touches any of it.
pub(super) struct Sequencer {
    pub(super) store: Arc<dyn Store>,
    pub(super) signer: Signer,
    /// Where the private keys are.
    pub(super) read_keys: ReadKeys,
    /// How long checkpoints carry the line of a key that was replaced.
    pub(super) overlap_us: u64,
    /// Whose signatures are the ledger's.
    pub(super) keys: Arc<Chain>,
    /// The rules in force.
    pub(super) policy: Policy,
    /// Who may state what.
    pub(super) principals: Arc<Principals>,
    pub(super) clock: ReadClock,
    /// Whether that is to be believed. Others look, too.
    pub(super) watch: Arc<Mutex<Watch>>,
    pub(super) herald: Herald,
    pub(super) tree: LogTree,
    /// The upper part of the subject map.
    pub(super) top: map::Top,
    /// The leaves of that map.
    pub(super) leaves: LeafPages,
    /// What the store may not have yet.
    pub(super) known: Known,
    /// Time of the last entry.
    pub(super) last_time_us: u64,
    /// Where the map goes once nothing more is planned.
    pub(super) last_map: LastMap,
    pub(super) ending: Arc<Ending>,
    pub(super) desk: Desk,
}

impl Sequencer {
    /// Runs until it is told to end, nobody can append any more, or nothing can be written any more.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let ends = loop {
            let NextBatch { requests, commits, ends } = next_batch(&mut commands);
            if let Some(order) = self.ending.is_due(Instant::now()) {
                break Some(order);
            }
            let (requests, answers): (Vec<_>, Answers) =
                requests.into_iter().map(|waiting| (waiting.submissions, waiting.reply)).unzip();
            if !requests.is_empty() || commits {
                let first = self.tree.size();
                let reading_us = (self.clock)();
                let oddity = self.look(reading_us);
                // What it panics over may be half changed, and is never looked at again.
                let planned = catch_unwind(AssertUnwindSafe(|| {
                    self.retire(reading_us, oddity);
                    self.plan(reading_us, &requests, commits)
                }));
                let order = match planned.unwrap_or_else(|_| Err(BUG.to_owned())) {
                    Ok((plan, forgotten)) => Order::Commit { first, plan: Box::new(plan), answers, forgotten },
                    Err(reason) => Order::Fail { reason, answers },
                };
                let is_lone = ends.is_none() && commands.is_empty();
                if !self.desk.give(order, is_lone) {
                    break None;
                }
            }
            if ends.is_some() {
                break ends;
            }
        };
        let Self { store, desk, top, leaves, last_map, .. } = self;
        if matches!(ends, Some(Order::Close)) {
            // Should the last batch not be written after all, the next start finds out.
            *last_map.lock().unwrap_or_else(PoisonError::into_inner) = Some((top, leaves));
        } else {
            // Whoever opens their file again has it alone.
            drop(leaves);
        }
        // Whoever waits for the end may open the store again.
        drop(store);
        // Whoever finds the queue closed asks why it is: that is known before.
        match ends {
            Some(Order::Close) => desk.close(),
            Some(fails) => {
                desk.give(fails, false);
                desk.abandon();
            }
            None => desk.abandon(),
        }
        // Whoever was about to put something into the queue may do so after it is dropped, and would wait for ever.
        commands.close();
        while commands.blocking_recv().is_some() {}
    }

    /// What is odd about the clock, and tells it.
    fn look(&mut self, reading_us: u64) -> Option<Oddity> {
        let now = Instant::now();
        let oddity = super::see(&self.watch, self.last_time_us, reading_us, now);
        if let Some(oddity) = oddity
            && self.herald.is_due(oddity, now)
        {
            tell(oddity);
        }
        if !oddity.is_some_and(Oddity::is_alarm) && self.herald.is_over() {
            tracing::info!("the clock alarm is over");
        }
        oddity
    }

    /// Lets go of a key that was replaced, once its time is over. A clock that is not to be believed does not say so.
    fn retire(&mut self, reading_us: u64, oddity: Option<Oddity>) {
        if !oddity.is_some_and(Oddity::is_alarm) {
            self.signer.at(reading_us);
        }
    }

    fn plan(
        &mut self,
        reading_us: u64,
        requests: &[Vec<Submission>],
        commits: bool,
    ) -> Result<(Plan, Forgotten), String> {
        if let Some(Kind::KeyChange { change }) = requests.last().and_then(|last| Some(&last.first()?.statement.kind)) {
            self.signer.prepare(change.vkey(), &self.read_keys);
        }
        let base = Base {
            read: &*self.store,
            known: &self.known,
            tree: &self.tree,
            top: &self.top,
            leaves: &self.leaves,
            last_time_us: self.last_time_us,
            policy: &self.policy,
            principals: &self.principals,
            keys: &self.keys,
            seal: &self.signer,
        };
        let planned = match requests {
            [] => plan_idle(&base, reading_us),
            _ => plan(&base, reading_us, requests),
        };
        // Where nothing of it was new, the commitment that was asked for is still due.
        let planned = match planned {
            Ok(plan) if plan.entries.is_empty() && commits => {
                plan_idle(&base, reading_us).map(|idle| Plan { decisions: plan.decisions, ..idle })
            }
            planned => planned,
        };
        // Also where nothing is new: to refuse something, subjects are looked at as well.
        self.leaves.age().map_err(|error| error.to_string())?;
        let mut plan = planned.map_err(|error| error.to_string())?;
        let forgotten = self.known.learn(std::mem::take(&mut plan.learned));
        if let Some(head) = &plan.head {
            self.leaves.put(&plan.leaves).map_err(|error| error.to_string())?;
            (self.tree, self.top) = (plan.tree.clone(), plan.top.clone());
            if let Some(policy) = &plan.policy {
                self.policy = policy.clone();
            }
            self.principals = Arc::clone(&plan.principals);
            if !Arc::ptr_eq(&self.keys, &plan.keys) {
                self.keys = Arc::clone(&plan.keys);
                self.signer.change(head.recorded_at_us, self.overlap_us);
            }
            self.last_time_us = head.recorded_at_us;
        }
        Ok((plan, forgotten))
    }
}

fn tell(oddity: Oddity) {
    match oddity {
        Oddity::StoodOrSteppedBack { behind_us, alarm: true } => {
            tracing::error!(behind_us, "clock alarm: the clock is far behind the last entry; check the time source");
        }
        Oddity::StoodOrSteppedBack { behind_us, alarm: false } => {
            tracing::warn!(behind_us, "the clock stood still or stepped back; the ledger counts on by microseconds");
        }
        Oddity::LeaptAhead { ahead_us } => {
            tracing::error!(
                ahead_us,
                "clock alarm: the clock is far ahead of what it ought to show; set it right, or restart if it is right"
            );
        }
        Oddity::StandsStill { stood_us } => {
            tracing::error!(stood_us, "clock alarm: the clock stands still; check the time source");
        }
    }
}

/// What is written in one go.
#[derive(Default)]
struct NextBatch {
    requests: Vec<Waiting>,
    /// A commitment is asked for. Every batch of records has one anyway.
    commits: bool,
    /// Nothing comes after it, and this is how it ends.
    ends: Option<Order>,
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
                let changes_key = request.submissions.iter().any(changes_key);
                batch.requests.push(request);
                // The batch of a change of the key ends with it.
                if changes_key {
                    return batch;
                }
            }
            Some(Command::Commit) => batch.commits = true,
            Some(Command::Wake) => return batch,
            Some(Command::Close) | None => return NextBatch { ends: Some(Order::Close), ..batch },
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

fn changes_key(submission: &Submission) -> bool {
    matches!(submission.statement.kind, Kind::KeyChange { .. })
}
