//! What writes.
//!
//! It commits what the [sequencer](super::sequencer) planned, synced and in its order, publishes it, and only then answers. A
//! commit that fails leaves it unknown what is on disk; writing on could sign two histories. So the committer stops for good,
//! says why, and a restart recovers from what is there. A panic is the same.
//!
//! While there is more to plan it writes on a thread of its own. A lone batch is written by the sequencer itself: to wake
//! another thread for it takes longer than there is to gain.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::known::Forgotten;
use super::moments::{Moment, Moments};
use super::plan::{Accepted, Plan, Rejected};
use super::{AppendError, Committed, Reply, Tally};
use crate::ledger::keys::{Chain, Keys as _};
use crate::ledger::principals::Principals;
use crate::proto;
use crate::store::Store;

/// Why nothing is written any more after a panic.
pub(super) const BUG: &str = "a bug was hit while a batch was written, and the log says where";

/// Why nothing is written any more after an end in order.
pub(super) const SHUT_DOWN: &str = "it was shut down";

/// Where the answers go, one for each request of a batch.
pub(super) type Answers = Vec<Reply>;

/// What the committer is told.
pub(super) enum Order {
    /// Write this.
    Commit {
        /// Entries before it.
        first: u64,
        plan: Box<Plan>,
        answers: Answers,
        /// What is not known any more since it was planned.
        forgotten: Forgotten,
    },
    /// It can't go on, for this reason.
    Fail { reason: String, answers: Answers },
    /// Nothing comes any more.
    Close,
}

impl Order {
    /// Lets those who wait for it know that nobody takes it any more.
    pub(super) fn refuse(self) {
        if let Self::Commit { answers, .. } | Self::Fail { answers, .. } = self {
            // They find out why when they see that nobody answers.
            drop(answers);
        }
    }
}

/// Where orders are given: to the thread, or carried out here.
pub(super) struct Desk {
    committer: Arc<Committer>,
    orders: SyncSender<Order>,
    thread: JoinHandle<()>,
    /// Orders that the thread has, or is about to be given.
    given: Arc<AtomicUsize>,
}

impl Desk {
    /// Starts the thread.
    pub(super) fn open(committer: Committer) -> io::Result<Self> {
        let (committer, given) = (Arc::new(committer), Arc::<AtomicUsize>::default());
        // No room in between: when an order is taken, the one before it is carried out.
        let (orders, taken) = sync_channel(0);
        let (of_thread, of_thread_given) = (Arc::clone(&committer), Arc::clone(&given));
        let run = move || of_thread.run(&taken, &of_thread_given);
        let thread = std::thread::Builder::new().name("committer".into()).spawn(run)?;
        Ok(Self { committer, orders, thread, given })
    }

    /// Gives an order. Where nothing else is to be done meanwhile, and nothing is being written, it is carried out at once. Returns
    /// whether another one can be given.
    pub(super) fn give(&self, order: Order, is_lone: bool) -> bool {
        if is_lone && self.given.load(Ordering::Acquire) == 0 {
            return self.committer.carry_out(order);
        }
        let fails = matches!(order, Order::Fail { .. });
        self.given.fetch_add(1, Ordering::Relaxed);
        match self.orders.send(order) {
            Ok(()) => !fails,
            Err(order) => {
                order.0.refuse();
                false
            }
        }
    }

    /// Nothing comes any more.
    pub(super) fn close(self) {
        let Self { committer, orders, thread, .. } = self;
        // Whoever waits for the end may open the store again.
        drop(committer);
        let _ = orders.send(Order::Close);
        let _ = thread.join();
    }

    /// Nothing is taken any more. Returns when everybody can know why.
    pub(super) fn abandon(self) {
        let Self { orders, thread, .. } = self;
        drop(orders);
        let _ = thread.join();
    }
}

/// What it takes to write.
pub(super) struct Committer {
    pub(super) store: Arc<dyn Store>,
    /// Who may state what, for those who let callers in. It changes before anybody hears of the change.
    pub(super) principals: watch::Sender<Arc<Principals>>,
    /// Whose signatures are the ledger's.
    pub(super) keys: watch::Sender<Arc<Chain>>,
    /// What readers need of each state.
    pub(super) moments: Arc<Moments>,
    pub(super) newest: watch::Sender<Arc<Committed>>,
    pub(super) stopped: watch::Sender<Option<String>>,
    /// Statements recorded since the start, by outcome.
    pub(super) outcomes: Arc<Tally>,
    /// Set when something was recorded.
    pub(super) has_news: Arc<AtomicBool>,
}

impl Committer {
    /// Runs until it is told to end, or a commit fails.
    fn run(self: Arc<Self>, orders: &Receiver<Order>, given: &AtomicUsize) {
        while let Ok(order) = orders.recv() {
            if matches!(order, Order::Close) {
                let stopped = self.stopped.clone();
                drop(self);
                stopped.send_replace(Some(SHUT_DOWN.into()));
                return;
            }
            if !self.carry_out(order) {
                return;
            }
            given.fetch_sub(1, Ordering::Release);
        }
    }

    /// Returns whether it can go on.
    fn carry_out(&self, order: Order) -> bool {
        match order {
            Order::Commit { first, plan, answers, forgotten } => {
                let written = catch_unwind(AssertUnwindSafe(|| self.commit(first, *plan)));
                let Written { decisions, committed, superseded } = match written.unwrap_or_else(|_| Err(BUG.to_owned()))
                {
                    Ok(written) => written,
                    Err(reason) => return self.fail(reason, answers),
                };
                for (answer, decision) in answers.into_iter().zip(decisions) {
                    let decided = decision.map(|accepted| (accepted, Arc::clone(&committed)));
                    // A client that left has its entry all the same; with an event id it can ask again.
                    let _ = answer.send(decided.map_err(AppendError::from));
                }
                // Freed while nobody waits.
                drop((superseded, forgotten));
                true
            }
            Order::Fail { reason, answers } => self.fail(reason, answers),
            Order::Close => false,
        }
    }

    fn fail(&self, reason: String, answers: Answers) -> bool {
        tracing::error!(reason, "the sequencer stops: appends are refused until a restart");
        // Health is red before anybody hears of it.
        self.stopped.send_replace(Some(reason.clone()));
        for answer in answers {
            let _ = answer.send(Err(AppendError::Stopped(reason.clone())));
        }
        false
    }

    fn commit(&self, first: u64, plan: Plan) -> Result<Written, String> {
        let Some(head) = plan.head else {
            let committed = Arc::clone(&self.newest.borrow());
            return Ok(Written { decisions: plan.decisions, committed, superseded: (None, None) });
        };
        // First of all: a reader may see the rows before the commit returns, and also where it returns an error.
        let moment = self.moments.put(Moment::new(plan.tree, plan.top));
        self.store.commit(first, plan.batch).map_err(|error| error.to_string())?;
        // Durable from here on.
        if let Some(policy) = plan.policy {
            tracing::info!(digest = %policy.digest(), "another policy is in force");
        }
        if !Arc::ptr_eq(&plan.principals, &self.principals.borrow()) {
            tracing::info!(count = plan.principals.len(), digest = %plan.principals.digest(), "the principals have changed");
            self.principals.send_replace(plan.principals);
        }
        if !Arc::ptr_eq(&plan.keys, &self.keys.borrow()) {
            tracing::warn!(vkey = %plan.keys.newest(), "the ledger signs with another key from now on");
            self.keys.send_replace(plan.keys);
        }
        let committed = Arc::new(Committed { head, first, entries: plan.entries, nodes: plan.nodes });
        let before = self.newest.send_replace(Arc::clone(&committed));
        self.tell(&plan.decisions);
        Ok(Written { decisions: plan.decisions, committed, superseded: (moment, Some(before)) })
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
}

/// What was written.
struct Written {
    decisions: Vec<Result<Vec<Accepted>, Rejected>>,
    committed: Arc<Committed>,
    /// What it took the place of.
    superseded: (Option<Arc<Moment>>, Option<Arc<Committed>>),
}
