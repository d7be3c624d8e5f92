//! The engine: one sequencer that decides, one committer that writes, and questions that read.
//!
//! [`Ledger`] is the handle that everything above holds. Its pieces: [`plan`] (what to write: pure), [`sequencer`] (the one
//! thread that plans), [`committer`] (the one that writes what was planned), [`known`] (what is planned and not yet written),
//! [`recovery`] (what must hold before it may), [`query`] (answers, as of a time), `moments` (what those need
//! of each state), `idle` (a commitment now and then while nothing is written), `ending` (how the sequencer is told to end), [`signer`] (whose key signs), [`clock`]. Beside it, with no
//! ledger running: [`mod@derive`] (all rows once more, from the entries), [`check`] (whether what is there is that).

pub mod check;
pub mod clock;
pub mod committer;
pub mod derive;
mod ending;
mod idle;
pub mod known;
mod moments;
pub mod plan;
pub mod query;
pub mod recovery;
pub mod sequencer;
pub mod signer;
mod trial;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::entry::{SignedEntry, index_and_time};
use crate::ledger::keys::{Chain, Keys as _, Link};
use crate::ledger::map;
use crate::ledger::merkle::multi::multi_proof;
use crate::ledger::merkle::tree::MemoryNodes;
use crate::ledger::merkle::{Hash, Nodes};
use crate::ledger::note::Vkey;
use crate::ledger::principals::Principals;
use crate::ledger::statement::{Statement, Violation};
use crate::proto;
pub use crate::store::ReadError;
use crate::store::Store;
use crate::store::kept_map::KeptMap;
use crate::store::leaf_pages::LeafPages;
use crate::store::log_tree::{StoredNodes, UpperTiles};
use crate::store::rows::{self, Head};
use moments::{Moment, Moments};
use plan::{Accepted, Rejected, Submission};
use query::Reader;

/// The first principal of a ledger.
pub const OPERATOR: &str = "operator";
/// Snapshots that a reader takes before it gives up. It needs another one if it was held up for many commits.
const SNAPSHOTS: usize = 64;

/// What a ledger is opened with.
pub struct Options {
    /// Where the rows are.
    pub store: Arc<dyn Store>,
    /// The ledger's private keys.
    pub keys: signer::ReadKeys,
    /// How long checkpoints carry the line of a key that was replaced, in microseconds.
    pub key_overlap_us: u64,
    /// It was opened before, so its store may not be empty.
    pub has_begun: bool,
    /// A checkpoint that it signed, from outside of the store, which may not be behind it.
    pub high_water: Option<String>,
    /// Reads the machine's clock.
    pub clock: clock::ReadClock,
    /// When the clock is an alarm.
    pub clock_bounds: clock::Bounds,
    /// Where the subject map is kept from an end in order to the next start ([`Ledger::keep_map`]); none: it is read from the store each time.
    /// Whoever opens it again there has let go of the [`Ledger`] before, or kept its map.
    pub kept_map: Option<KeptMap>,
}

/// A running ledger. Cheap to clone; the sequencer ends with the last clone, or when it is told to.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
}

/// What the sequencer is told.
enum Command {
    /// Record this.
    Append(Waiting),
    /// Commit to what there is, even if nothing is new.
    Commit,
    /// Finish what came before, and end.
    Close,
    /// Look how it is to end.
    Wake,
}

struct Shared {
    store: Arc<dyn Store>,
    keys: watch::Receiver<Arc<Chain>>,
    clock: clock::ReadClock,
    newest: watch::Receiver<Arc<Committed>>,
    principals: watch::Receiver<Arc<Principals>>,
    moments: Arc<Moments>,
    /// Upper tiles of the log's tree, once they were read.
    upper: UpperTiles,
    /// How the sequencer is told to end.
    ending: Arc<ending::Ending>,
    /// Why appends are refused for good, once they are.
    stopped: watch::Receiver<Option<String>>,
    /// Why appends are refused for the time being.
    shortage: watch::Sender<Option<String>>,
    /// What was found wrong with the service itself, by who found it.
    defects: watch::Sender<BTreeMap<Defect, String>>,
    /// Whether that clock is to be believed.
    watch: Arc<Mutex<clock::Watch>>,
    outcomes: Arc<Tally>,
    kept_map: Option<KeptMap>,
    /// The map, once it does not change any more.
    last_map: LastMap,
    /// Since the last commitment of an idle ledger something was recorded, or evidence asked for.
    has_news: Arc<AtomicBool>,
}

/// The upper part of the map and its leaves, as an end in order left them.
type LastMap = Arc<Mutex<Option<(map::Top, LeafPages)>>>;

/// What can be wrong with the service itself while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// A bug was hit.
    Bug,
    /// The files of its keys are not what the log says, and can't be made so.
    KeyFiles,
    /// What keeps it from signing two histories can't be written.
    HighWater,
}

/// Counts by outcome.
#[derive(Default)]
struct Tally([AtomicU64; 8]);

impl Tally {
    fn add(&self, outcome: proto::Outcome) {
        if let Some(count) = usize::try_from(i32::from(outcome)).ok().and_then(|at| self.0.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A commit, as readers see it: the state of the log, and what it takes to prove its newest entries from memory.
pub struct Committed {
    /// Size, time and signed checkpoint.
    pub head: Head,
    /// Index of the first of `entries`.
    first: u64,
    entries: Vec<Vec<u8>>,
    nodes: MemoryNodes,
}

/// What is held for a request until it is recorded or refused, also where nobody waits for that any more.
pub type Held = Option<Arc<dyn Any + Send + Sync>>;

/// A request in the sequencer's queue.
struct Waiting {
    submissions: Vec<Submission>,
    reply: Reply,
}

/// Where the answer to a request goes.
struct Reply {
    answer: oneshot::Sender<Result<Decided, AppendError>>,
    _held: Held,
}

impl Reply {
    /// Fails if nobody waits for it.
    fn send(self, decided: Result<Decided, AppendError>) -> Result<(), Result<Decided, AppendError>> {
        self.answer.send(decided)
    }
}

/// What became of a request's statements, and the commit that holds them.
type Decided = (Vec<Accepted>, Arc<Committed>);

/// Why statements were not recorded. Unless said otherwise, nothing of the request is on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A statement is refused.
    #[error("{}", .0.iter().map(Violation::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// The ledger's state forbids it.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The queue is full.
    #[error("the ledger has more requests waiting than it can hold; try again in a moment")]
    Overloaded,
    /// The disk is nearly full. Nothing of the request is on it.
    #[error("the ledger does not accept entries for now: {0}; reads go on")]
    Shortage(String),
    /// The sequencer has stopped. Whether this very request is on disk is not known; with an event id, asking again after
    /// the restart answers that.
    #[error("the ledger does not accept entries: {0}; reads go on, and a restart recovers")]
    Stopped(String),
    /// They are recorded, but what the answer needs besides can't be read.
    #[error("the statements are recorded, but the answer can't be made: {0}")]
    Unread(ReadError),
}

/// The answer to an append.
pub struct Appended {
    /// One for each statement.
    pub receipts: Vec<proto::Receipt>,
    /// The commit that made them durable, or a later one.
    pub committed: Arc<Committed>,
}

impl Ledger {
    /// Recovers the ledger from its store, or begins a new one, and starts its sequencer.
    pub fn open(options: Options) -> Result<Self, recovery::OpenError> {
        signer::begin_threads()?;
        let recovered = recovery::recover(&options)?;
        let store = Arc::clone(&options.store);
        let (newest_sender, newest) = watch::channel(Arc::new(recovered.committed));
        let (stopped_sender, stopped) = watch::channel(None);
        let (principals_sender, principals) = watch::channel(Arc::new(recovered.principals));
        let (keys_sender, keys) = watch::channel(Arc::new(recovered.keys));
        let (queue, waiting) = mpsc::channel(sequencer::QUEUE_LENGTH);
        let watch = clock::Watch::new(options.clock_bounds, recovered.last_time_us, Instant::now());
        let watch = Arc::new(Mutex::new(watch));
        let outcomes = Arc::new(Tally::default());
        let has_news = Arc::new(AtomicBool::new(false));
        let begin = Moment::new(recovered.tree.clone(), recovered.top.clone());
        let moments = Arc::new(Moments::new(begin));
        let ending = Arc::<ending::Ending>::default();
        let last_map = LastMap::default();
        let shared = Shared {
            store,
            keys,
            clock: Arc::clone(&options.clock),
            newest,
            principals,
            moments: Arc::clone(&moments),
            upper: UpperTiles::default(),
            ending: Arc::clone(&ending),
            stopped,
            shortage: watch::Sender::new(None),
            defects: watch::Sender::default(),
            watch: Arc::clone(&watch),
            outcomes: Arc::clone(&outcomes),
            kept_map: options.kept_map,
            last_map: Arc::clone(&last_map),
            has_news: Arc::clone(&has_news),
        };
        let committer = committer::Committer {
            store: Arc::clone(&options.store),
            principals: principals_sender,
            keys: keys_sender,
            moments,
            newest: newest_sender,
            stopped: stopped_sender,
            outcomes,
            has_news,
        };
        let thread = |error: std::io::Error| recovery::OpenError::Thread(error.to_string());
        let desk = committer::Desk::open(committer).map_err(thread)?;
        let sequencer = sequencer::Sequencer {
            store: options.store,
            signer: recovered.signer,
            read_keys: options.keys,
            overlap_us: options.key_overlap_us,
            keys: Arc::clone(&shared.keys.borrow()),
            policy: recovered.policy,
            principals: Arc::clone(&shared.principals.borrow()),
            clock: options.clock,
            watch,
            herald: clock::Herald::default(),
            tree: recovered.tree,
            top: recovered.top,
            leaves: recovered.leaves,
            known: known::Known::default(),
            last_time_us: recovered.last_time_us,
            last_map,
            ending,
            desk,
        };
        let run = move || sequencer.run(waiting);
        std::thread::Builder::new().name("sequencer".into()).spawn(run).map_err(thread)?;
        Ok(Self { shared: Arc::new(shared), queue })
    }

    /// The public key in force.
    pub fn vkey(&self) -> Vkey {
        self.shared.keys.borrow().newest().clone()
    }

    /// Whose signatures are the ledger's, and notice of every change.
    pub fn keys(&self) -> watch::Receiver<Arc<Chain>> {
        self.shared.keys.clone()
    }

    /// When the key in force was announced; 0 if it is the first.
    pub fn key_changed_at_us(&self) -> Result<u64, ReadError> {
        let Some(index) = self.shared.keys.borrow().later().last().map(Link::announced_in) else { return Ok(0) };
        let entry = rows::entry(&*self.shared.store, index)?;
        let damaged = |error| ReadError::Damaged { table: "entries", what: format!("entry {index}: {error}") };
        index_and_time(&entry).map(|(_, time_us)| time_us).map_err(damaged)
    }

    /// The clock's reading, microseconds since the Unix epoch.
    pub fn now_us(&self) -> u64 {
        (self.shared.clock)()
    }

    /// The same; none while the clock is not to be believed.
    pub fn believed_now_us(&self) -> Option<u64> {
        let now_us = self.now_us();
        let last_us = self.shared.newest.borrow().head.recorded_at_us;
        let oddity = see(&self.shared.watch, last_us, now_us, Instant::now());
        (!oddity.is_some_and(clock::Oddity::is_alarm)).then_some(now_us)
    }

    /// The newest commit, and notice of every one after it.
    pub fn newest(&self) -> watch::Receiver<Arc<Committed>> {
        self.shared.newest.clone()
    }

    /// Who may state what, and notice of every change.
    pub fn principals(&self) -> watch::Receiver<Arc<Principals>> {
        self.shared.principals.clone()
    }

    /// Why appends are refused, if they are, or what else is wrong.
    pub fn health(&self) -> Result<(), String> {
        let reason = self.shared.stopped.borrow().clone().or_else(|| self.shared.shortage.borrow().clone());
        reason.or_else(|| self.shared.defects.borrow().values().next().cloned()).map_or(Ok(()), Err)
    }

    /// Whether appends are accepted.
    pub fn accepts_entries(&self) -> bool {
        self.shared.stopped.borrow().is_none() && self.check_accepts().is_ok()
    }

    /// Something is wrong with the service, though it goes on, or is well again: for health. Returns whether that is news.
    pub fn set_defect(&self, defect: Defect, reason: Option<String>) -> bool {
        self.shared.defects.send_if_modified(|defects| {
            let before = match &reason {
                Some(reason) => defects.insert(defect, reason.clone()),
                None => defects.remove(&defect),
            };
            before != reason
        })
    }

    /// Notice of that.
    pub fn defects(&self) -> watch::Receiver<BTreeMap<Defect, String>> {
        self.shared.defects.subscribe()
    }

    /// Refuses appends for a reason, or accepts them again. What is queued is still recorded.
    pub fn set_shortage(&self, reason: Option<String>) {
        self.shared.shortage.send_if_modified(|shortage| {
            match (&shortage, &reason) {
                (None, Some(reason)) => tracing::error!(reason, "appends are refused until there is more room"),
                (Some(_), None) => tracing::info!("there is room again: appends are accepted"),
                _ => {}
            }
            let turned = shortage.is_some() != reason.is_some();
            *shortage = reason;
            turned
        });
    }

    /// Notice of a shortage that begins or ends.
    pub fn shortage(&self) -> watch::Receiver<Option<String>> {
        self.shared.shortage.subscribe()
    }

    /// Notice of the sequencer's end.
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.shared.stopped.clone()
    }

    /// Whether the machine's clock is beyond its bounds.
    pub fn clock_alarm(&self) -> bool {
        self.believed_now_us().is_none()
    }

    /// Statements recorded since the start, by outcome.
    pub fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let named = |(at, count): (usize, &AtomicU64)| {
            let outcome = proto::Outcome::try_from(i32::try_from(at).ok()?).ok()?;
            let name = outcome.as_str_name().strip_prefix("OUTCOME_")?;
            (outcome != proto::Outcome::Unspecified).then(|| (name, count.load(Ordering::Relaxed)))
        };
        self.shared.outcomes.0.iter().enumerate().filter_map(named).collect()
    }

    /// Records statements, all or none, and returns when they are durable, in a signed checkpoint and provable.
    pub async fn append(&self, submissions: Vec<Submission>) -> Result<Appended, AppendError> {
        self.append_holding(submissions, None).await
    }

    /// The same, holding on to something for as long as they are in the queue.
    pub async fn append_holding(&self, submissions: Vec<Submission>, held: Held) -> Result<Appended, AppendError> {
        self.check_accepts()?;
        self.check_times(&submissions)?;
        let (reply, answer) = oneshot::channel();
        let reply = Reply { answer: reply, _held: held };
        self.queue.try_send(Command::Append(Waiting { submissions, reply })).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => self.stopped_error(),
        })?;
        InQueue { ledger: self.clone(), answer }.decided().await
    }

    /// Puts statements into the queue, once there is room, and returns with their place taken: what is put in later is
    /// recorded later. For streams, whose flow control this is.
    pub async fn enqueue(&self, submissions: Vec<Submission>, held: Held) -> Result<InQueue, AppendError> {
        self.check_accepts()?;
        self.check_times(&submissions)?;
        let (reply, answer) = oneshot::channel();
        let reply = Reply { answer: reply, _held: held };
        self.queue.send(Command::Append(Waiting { submissions, reply })).await.map_err(|_| self.stopped_error())?;
        Ok(InQueue { ledger: self.clone(), answer })
    }

    fn check_accepts(&self) -> Result<(), AppendError> {
        if let Some(reason) = self.shared.ending.refusal() {
            // It may have ended for a reason of its own.
            return Err(AppendError::Stopped(self.shared.stopped.borrow().clone().unwrap_or(reason)));
        }
        match &*self.shared.shortage.borrow() {
            Some(reason) => Err(AppendError::Shortage(reason.clone())),
            None => Ok(()),
        }
    }

    /// Records who the first principal is, unless there is one already: an admin named [`OPERATOR`] with every role, that shows the
    /// token with this hash.
    pub async fn begin_principals(&self, token_sha256: [u8; 32]) -> Result<(), AppendError> {
        if !self.shared.principals.borrow().is_empty() {
            return Ok(());
        }
        let everything = proto::Grant { repositories: vec!["**".into()], kinds: Vec::new() };
        let roles = [proto::Role::Reader, proto::Role::Writer, proto::Role::Scanner, proto::Role::Admin];
        let principal = proto::Principal {
            roles: roles.map(i32::from).to_vec(),
            grants: vec![everything],
            requires: vec![proto::Credential::Token.into()],
            token_sha256: vec![token_sha256.to_vec()],
            ..proto::Principal::default()
        };
        let change = Some(proto::principal_change::Change::Principal(principal));
        let change = proto::PrincipalChange { name: OPERATOR.into(), change };
        self.append_own(proto::statement::Kind::PrincipalChange(change)).await
    }

    /// Records what the ledger itself states, in the name of the operator.
    async fn append_own(&self, kind: proto::statement::Kind) -> Result<(), AppendError> {
        let bytes = proto::Statement { kind: Some(kind), ..proto::Statement::default() }.encode_to_vec();
        let submission = Submission {
            statement: Statement::parse(&bytes).map_err(AppendError::Invalid)?,
            bytes,
            principal: OPERATOR.into(),
            assurance: proto::Assurance::Authenticated,
            producer: None,
            shown: None,
            only_at_version: None,
        };
        self.append(vec![submission]).await?;
        Ok(())
    }

    /// Of each principal, how many statements are new. One with an event id that is recorded is answered with its first entry,
    /// whoever sends it again, and so is nobody's doing.
    pub fn new_by_principal(&self, submissions: &[Submission]) -> Result<BTreeMap<String, usize>, ReadError> {
        let mut new = BTreeMap::new();
        for Submission { principal, statement, .. } in submissions {
            let id = statement.event_id.as_str();
            if id.is_empty() || rows::event(&*self.shared.store, &rows::event_key(principal, id))?.is_none() {
                *new.entry(principal.clone()).or_default() += 1;
            }
        }
        Ok(new)
    }

    /// Nothing may have occurred more than a day from now.
    fn check_times(&self, submissions: &[Submission]) -> Result<(), AppendError> {
        let now_us = self.now_us();
        let late = |(position, submission): (usize, &Submission)| {
            let violation = submission.statement.check_time(now_us).err()?;
            Some(violation.at_statement(position, submissions.len()))
        };
        let violations: Vec<Violation> = submissions.iter().enumerate().filter_map(late).collect();
        if violations.is_empty() { Ok(()) } else { Err(AppendError::Invalid(violations)) }
    }

    fn stopped_error(&self) -> AppendError {
        let reason = self.shared.stopped.borrow().clone();
        AppendError::Stopped(reason.unwrap_or_else(|| "it is shutting down".into()))
    }

    /// Ends the sequencer: what is queued is recorded as far as there is time, everything else is refused. Returns when it has let go of
    /// the store.
    pub async fn close(&self) {
        self.shared.ending.close();
        // Fails if it has ended already, also while this waits for room.
        let _ = self.queue.send(Command::Close).await;
        let _ = self.stopped().wait_for(Option::is_some).await;
    }

    /// The sequencer has ended in order: everything it signed is in the newest commit, or was never shown to anybody.
    pub fn was_closed(&self) -> bool {
        self.shared.stopped.borrow().as_deref() == Some(committer::SHUT_DOWN)
    }

    /// Keeps the subject map for the next start, if the ledger was closed in order. Blocks on the disk; whoever ends the process meanwhile loses
    /// nothing else.
    pub fn keep_map(&self) {
        let last_map = self.shared.last_map.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(kept_map), Some((top, mut leaves))) = (&self.shared.kept_map, last_map) else { return };
        if self.was_closed()
            && let Err(error) = kept_map.keep(&top, &mut leaves)
        {
            tracing::warn!(%error, "the subject map can't be kept; the next start reads it from the database");
        }
    }

    /// Ends the sequencer as a failed commit does, for the reason given: what is not planned yet is refused.
    pub fn halt(&self, reason: String) {
        self.shared.ending.halt(reason);
        // Fails if it has ended already, or has enough to look at.
        let _ = self.queue.try_send(Command::Wake);
    }

    /// The receipt of a statement recorded before.
    fn first_receipt(&self, event: &rows::Event) -> Result<proto::Receipt, ReadError> {
        let damaged = |what: String| ReadError::Damaged { table: "entries", what };
        let bytes = rows::entry(&*self.shared.store, event.index)?;
        let entry = SignedEntry::decode(&bytes).map_err(|e| damaged(format!("entry {}: {e}", event.index)))?;
        let crate::ledger::entry::Body::Record(record, _) = entry.body else {
            return Err(damaged(format!("entry {} is not a record", event.index)));
        };
        Ok(proto::Receipt {
            index: event.index,
            entry_count: event.entry_count,
            outcome: record.outcome,
            rule: record.rule,
            detail: record.detail,
            duplicate: true,
            binding: None,
        })
    }

    /// Asks something of one state of the ledger: the newest commit and the rows that go with it. Blocks on the disk.
    pub fn read<T>(&self, ask: impl FnOnce(&Reader<'_>) -> T) -> Result<T, ReadError> {
        Ok(ask(&self.reader()?))
    }

    fn reader(&self) -> Result<Reader<'_>, ReadError> {
        for _ in 0..SNAPSHOTS {
            let rows = self.shared.store.snapshot();
            let head = rows::head(&*rows)?
                .ok_or_else(|| ReadError::Damaged { table: "meta", what: "the head is missing".into() })?;
            if let Some(moment) = self.shared.moments.at(head.size) {
                return Ok(Reader::new(rows, head, moment, &self.shared.upper, &self.shared.has_news));
            }
        }
        Err(ReadError::Storage { table: "meta", reason: "it changes faster than it can be read".into() })
    }

    /// Proves entries, most of them from a commit that is still in memory.
    pub fn prove(&self, committed: &Committed, indexes: &[u64]) -> Result<proto::Evidence, ReadError> {
        let nodes =
            NewestFirst { newest: &committed.nodes, rest: StoredNodes::with(&*self.shared.store, &self.shared.upper) };
        let entry = |&index: &u64| {
            let known =
                index.checked_sub(committed.first).and_then(|at| committed.entries.get(usize::try_from(at).ok()?));
            let entry = match known {
                Some(bytes) => bytes.clone(),
                None => rows::entry(&*self.shared.store, index)?,
            };
            Ok(proto::LogEntry { index, entry })
        };
        Ok(proto::Evidence {
            subjects: Vec::new(),
            checkpoint: committed.head.checkpoint.clone(),
            entries: indexes.iter().map(entry).collect::<Result<_, ReadError>>()?,
            proof: multi_proof(&nodes, indexes, committed.head.size)?.into_iter().map(Vec::from).collect(),
        })
    }
}

/// What is odd about a reading of the clock.
fn see(watch: &Mutex<clock::Watch>, last_us: u64, reading_us: u64, now: Instant) -> Option<clock::Oddity> {
    // Each look leaves it whole.
    watch.lock().unwrap_or_else(PoisonError::into_inner).see(last_us, reading_us, now)
}

/// A request whose place in the order of entries is taken.
pub struct InQueue {
    ledger: Ledger,
    answer: oneshot::Receiver<Result<Decided, AppendError>>,
}

impl InQueue {
    /// Returns when the statements are durable, in a signed checkpoint and provable.
    pub async fn decided(self) -> Result<Appended, AppendError> {
        let Ok(decided) = self.answer.await else {
            // Nobody will answer any more, and why is about to be known.
            let _ = self.ledger.stopped().wait_for(Option::is_some).await;
            return Err(self.ledger.stopped_error());
        };
        let (accepted, committed) = decided?;
        let receipt = |accepted| match accepted {
            Accepted::New(receipt) => Ok(receipt),
            Accepted::Duplicate(event) => self.ledger.first_receipt(&event),
        };
        let receipts = accepted.into_iter().map(receipt).collect::<Result<_, ReadError>>();
        Ok(Appended { receipts: receipts.map_err(AppendError::Unread)?, committed })
    }
}

/// Complete subtrees never change, so a node in memory is as good as one on disk.
struct NewestFirst<'a> {
    newest: &'a MemoryNodes,
    rest: StoredNodes<'a, dyn Store>,
}

impl Nodes for NewestFirst<'_> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        match self.newest.node(level, index) {
            Ok(hash) => Ok(hash),
            Err(_) => self.rest.node(level, index),
        }
    }
}
