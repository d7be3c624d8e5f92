//! A real ledger for tests: the whole service on a free port, a client, and one check that recomputes the world.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry, entry_hash};
use tagledger::ledger::evidence::VerifiedEntries;
use tagledger::ledger::history::{history_leaf, map_leaf};
use tagledger::ledger::hold::must_wait;
use tagledger::ledger::map;
use tagledger::ledger::merkle::Tree;
use tagledger::ledger::names::{Digest, Registry, Repository, Tag, TagRef};
use tagledger::ledger::note::Vkey;
use tagledger::ledger::policy::Policy;
use tagledger::ledger::principals::Principals;
use tagledger::ledger::statement::{Kind, Statement};
use tagledger::ledger::subject::{Subject, SubjectKey, digest_of};
use tagledger::ledger::subject_proof::{ProvenSubject, verify_subject};
use tagledger::ledger::transition::{SubjectState, View, transition};
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::query_service_client::QueryServiceClient;
use tagledger::proto::{self, Outcome};
use tagledger::server::config::Config;
use tagledger::server::data_dir::DataDir;
use tagledger::server::serve;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Request, Status};

#[path = "../immutable/mod.rs"]
mod immutable;
pub(crate) use immutable::immutable;
/// Entries that a new ledger begins with: a commitment over nothing, its first principal, a commitment.
pub const BEGUN: u64 = 3;

thread_local! {
    /// A test's thread ends after its runtime, which leaves closing the database to the sequencer; and RocksDB aborts a
    /// process that ends while it closes one. So the last test waits; others not for long.
    static CLOSING: Closing = const { Closing };
}

struct Closing;

impl Drop for Closing {
    fn drop(&mut self) {
        for _ in 0..100 {
            if tagledger::store::rocks::open_databases() == 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A running service.
pub struct World {
    pub address: SocketAddr,
    pub vkey: Vkey,
    pub data_dir: PathBuf,
    pub token: String,
    pub channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
    _folder: Option<tempfile::TempDir>,
}

impl World {
    /// A new ledger with no rules.
    pub async fn new() -> Self {
        Self::with_rules(&[]).await
    }

    /// A new ledger with immutable tags.
    pub async fn with_rules(immutable: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ledger");
        let mut world = Self::open(&path).await;
        world._folder = Some(folder);
        if !immutable.is_empty() {
            world.recorded(&policy(immutable)).await;
        }
        world
    }

    /// The ledger in a directory.
    pub async fn open(path: &Path) -> Self {
        Self::open_with(path, Config::default()).await
    }

    /// The same, with other settings; on a free port all the same.
    pub async fn open_with(path: &Path, config: Config) -> Self {
        let config = Config { listen: "127.0.0.1:0".parse().expect("an address"), ..config };
        CLOSING.with(|_| {});
        // For clients that tests build; an error means that one is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let data_dir = DataDir::open(path, None).expect("a data directory");
        let (stop, stopped) = oneshot::channel();
        let (started, running) = oneshot::channel();
        let ended = tokio::spawn(async move {
            let told = |running: &tagledger::server::Running| {
                let _ = started.send((running.address, running.vkey.clone()));
            };
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(config, data_dir, told, shutdown).await.expect("it serves");
        });
        let (address, vkey) = running.await.expect("it starts");
        let token = std::fs::read_to_string(path.join("token")).expect("the first token").trim().to_owned();
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        Self { address, vkey, data_dir: path.to_owned(), token, channel, stop: Some(stop), ended, _folder: None }
    }

    /// Stops it, and waits until it is gone.
    pub async fn stop(mut self) -> Option<tempfile::TempDir> {
        self.stop.take().expect("still running").send(()).expect("still running");
        drop(self.channel);
        self.ended.await.expect("it ends well");
        self._folder
    }

    pub fn append(&self) -> AppendServiceClient<Channel> {
        AppendServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn log(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn query(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// A request that carries the token.
    pub fn with_token<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = format!("Bearer {}", self.token).parse().expect("a header");
        request.metadata_mut().insert("authorization", token);
        request
    }

    /// Records one statement.
    pub async fn record(&self, statement: &proto::Statement) -> Result<proto::AppendResponse, Status> {
        let request = proto::AppendRequest { submission: Some(submission(statement)) };
        let response = self.append().append(self.with_token(request)).await?.into_inner();
        let receipt = response.receipt.as_ref().expect("a receipt");
        let indexes: Vec<u64> = (receipt.index..receipt.index + u64::from(receipt.entry_count)).collect();
        self.check_evidence(response.evidence.as_ref().expect("evidence"), &indexes);
        Ok(response)
    }

    /// Records one statement that must be accepted, and returns its receipt.
    pub async fn recorded(&self, statement: &proto::Statement) -> proto::Receipt {
        self.record(statement).await.expect("recorded").receipt.expect("a receipt")
    }

    /// Evidence holds exactly these entries, and they are in the tree.
    pub fn check_evidence(&self, evidence: &proto::Evidence, indexes: &[u64]) {
        let found: Vec<u64> = evidence.entries.iter().map(|entry| entry.index).collect();
        assert_eq!(found, indexes, "the entries of the evidence");
        let checkpoint = Checkpoint::open(&evidence.checkpoint, &self.vkey).expect("signed by this ledger");
        let leaves: Vec<_> = evidence.entries.iter().map(|entry| (entry.index, entry_hash(&entry.entry))).collect();
        let proof: Vec<_> = evidence.proof.iter().map(|hash| hash.as_slice().try_into().expect("32 bytes")).collect();
        if leaves.is_empty() {
            assert!(proof.is_empty(), "a proof of nothing");
            return;
        }
        tagledger::ledger::merkle::multi::verify_multi(&leaves, checkpoint.size, &proof, &checkpoint.root)
            .expect("the entries are in the tree");
    }

    async fn checkpoint(&self) -> Checkpoint {
        let note = self.log().get_checkpoint(proto::GetCheckpointRequest {}).await.expect("a checkpoint");
        Checkpoint::open(&note.into_inner().checkpoint, &self.vkey).expect("signed by this ledger")
    }

    /// Every entry.
    pub async fn entries(&self) -> Vec<Vec<u8>> {
        let request = proto::ListEntriesRequest { begin: 0, end: 0 };
        let mut stream = self.log().list_entries(request).await.expect("a stream").into_inner();
        let mut entries = Vec::new();
        while let Some(message) = stream.message().await.expect("an entry") {
            let entry = message.entry.expect("an entry");
            assert_eq!(entry.index, u64::try_from(entries.len()).expect("fits"), "entries come in order");
            entries.push(entry.entry);
        }
        entries
    }

    /// Recomputes the world from the bytes of the log: signatures, order, time, every decision, every history, the root of the
    /// subject map in every commitment, the root of the log. What somebody still adds meanwhile is left out.
    pub async fn check_ledger(&self) -> Vec<Vec<u8>> {
        let checkpoint = self.checkpoint().await;
        let mut entries = self.entries().await;
        let covered = checkpoint.size..=self.checkpoint().await.size;
        assert!(
            covered.contains(&(entries.len() as u64)),
            "checkpoints cover every entry: {} {covered:?}",
            entries.len()
        );
        entries.truncate(usize::try_from(checkpoint.size).expect("fits"));
        let policy = check_log(&entries, &checkpoint, &self.vkey);
        let said = self.query().get_policy(proto::GetPolicyRequest::default()).await.expect("answered").into_inner();
        assert_eq!(policy.text(), said.text, "what is said to be in force is");
        entries
    }
}

/// The same, for bytes from anywhere. Returns the policy that is in force at the end.
pub fn check_log(entries: &[Vec<u8>], checkpoint: &Checkpoint, vkey: &Vkey) -> Policy {
    let mut policy = Policy::default();
    let (mut tree, mut replay, mut last_time) = (Tree::default(), Replay::default(), 0);
    // Steps of a statement that became several entries, still to come.
    let mut expected = std::collections::VecDeque::new();
    for (index, bytes) in (0..).zip(entries) {
        let entry = SignedEntry::decode(bytes).unwrap_or_else(|error| panic!("entry {index}: {error}"));
        entry.verify(vkey).unwrap_or_else(|error| panic!("entry {index}: {error}"));
        assert_eq!(entry.body.index(), index, "an entry states its index");
        assert!(entry.body.recorded_at_us() > last_time, "entry {index}: time goes forward");
        last_time = entry.body.recorded_at_us();
        match &entry.body {
            Body::Commitment(commitment) => {
                assert!(expected.is_empty(), "entry {index}: a statement's entries are in one batch");
                let leaves = replay.leaves();
                assert_eq!(commitment.map_size, leaves.len() as u64, "entry {index}: subjects");
                assert_eq!(
                    commitment.map_root,
                    map::root_of(&map::hashed(&leaves), 0),
                    "entry {index}: the map's root"
                );
            }
            Body::Record(record, statement) => {
                if expected.is_empty() {
                    assert_eq!(must_wait(&replay, statement), Ok(None), "entry {index}: what is held is left alone");
                    let judged = replay.principals.judge(record, statement);
                    judged.unwrap_or_else(|error| panic!("entry {index}: {error}"));
                    let Ok(steps) = transition(&replay, &policy, &record.principal, statement, index);
                    expected = steps.into();
                }
                let step = expected.pop_front().expect("a step");
                assert_eq!(record.outcome(), step.outcome, "entry {index}: outcome");
                assert_eq!((&record.rule, &record.detail), (&step.rule, &step.detail), "entry {index}: reason");
                let named: Vec<_> = step.touches.iter().map(|touch| (touch.version, touch.name.clone())).collect();
                let stated: Vec<_> = record.subjects.iter().map(|s| (s.version, s.name.clone())).collect();
                assert_eq!(stated, named, "entry {index}: subjects");
                if let (Kind::PolicyChange { policy: changed, .. }, Outcome::Applied) = (&statement.kind, step.outcome)
                {
                    policy = changed.clone();
                }
                if let (Kind::PrincipalChange { change }, Outcome::Applied) = (&statement.kind, step.outcome) {
                    let after =
                        replay.principals.after(change).unwrap_or_else(|error| panic!("entry {index}: {error}"));
                    replay.principals = Arc::new(after);
                }
                for touch in step.touches {
                    if let (Subject::Tag(name), Some(digest)) = (&touch.subject, touch.after.digest()) {
                        replay.carried.insert((name.clone(), digest.clone()));
                    }
                    let leaf = history_leaf(index, &entry_hash(bytes), touch.after.effective());
                    let known = replay.subjects.entry(touch.subject.key());
                    let known = known.or_insert_with(|| (touch.subject, SubjectState::default(), Tree::default()));
                    known.1 = SubjectState { count: touch.version + 1, binding: touch.after, hold: touch.hold };
                    known.2.append(leaf, |_| {});
                    assert_eq!(known.1.count, known.2.size(), "entry {index}: a version is its place in the history");
                }
            }
        }
        tree.append(entry_hash(bytes), |_| {});
    }
    assert!(expected.is_empty(), "the log ends within a statement");
    let last = SignedEntry::decode(entries.last().expect("a ledger is never empty")).expect("an entry");
    assert!(matches!(last.body, Body::Commitment(_)), "the last entry of a checkpoint is a commitment");
    assert_eq!((tree.size(), tree.root()), (checkpoint.size, checkpoint.root), "the root is that of the entries");
    policy
}

/// The states and histories of all subjects, from the log alone.
#[derive(Default)]
struct Replay {
    subjects: BTreeMap<SubjectKey, (Subject, SubjectState, Tree)>,
    /// Tags, and the digests they were ever bound to.
    carried: BTreeSet<(TagRef, Digest)>,
    principals: Arc<Principals>,
}

impl Replay {
    fn leaves(&self) -> Vec<map::Leaf> {
        self.subjects.iter().map(|(key, (_, _, history))| map_leaf(*key, history)).collect()
    }
}

impl View for Replay {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        Ok(self.subjects.get(key).map(|(_, state, _)| state.clone()).unwrap_or_default())
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let mut tags: Vec<Tag> = self
            .subjects
            .values()
            .filter_map(|(subject, state, _)| match subject {
                Subject::Tag(name)
                    if (&name.registry, &name.repository) == (registry, repository)
                        && state.binding.digest() == Some(digest) =>
                {
                    Some(name.tag.clone())
                }
                _ => None,
            })
            .collect();
        tags.sort();
        Ok(tags)
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let here = self
            .carried
            .iter()
            .filter(|(name, carried)| (&name.registry, &name.repository, carried) == (registry, repository, digest));
        Ok(here.map(|(name, _)| name.tag.clone()).collect())
    }

    fn principals(&self) -> Arc<Principals> {
        Arc::clone(&self.principals)
    }
}

/// What evidence proves.
pub struct Proven {
    pub entries: VerifiedEntries,
    pub subjects: BTreeMap<SubjectKey, ProvenSubject>,
}

/// Checks all of the evidence of an answer.
pub fn prove(evidence: &proto::Evidence, vkey: &Vkey) -> Proven {
    let entries = tagledger::ledger::evidence::verify(evidence, vkey).expect("the entries are proven");
    let (last, closing) = entries.iter().last().expect("the commitment that closes the checkpoint");
    assert_eq!(last + 1, entries.checkpoint().size, "the last entry of the checkpoint is there");
    let Body::Commitment(commitment) = &closing.body else { panic!("the last entry is a commitment") };
    let map_root = commitment.map_root.as_slice().try_into().expect("32 bytes");
    assert!(evidence.subjects.windows(2).all(|pair| pair[0].key < pair[1].key), "keys rise");
    let proven = |proof: &proto::SubjectProof| {
        let proven = verify_subject(proof, &map_root, last, &entries).expect("the subject is proven");
        (proven.key, proven)
    };
    let subjects: BTreeMap<_, _> = evidence.subjects.iter().map(proven).collect();
    // Nothing is shown without a reason: an entry is a version that is shown, or what set the state after one.
    let versions = || subjects.values().flat_map(|subject| subject.versions.values());
    for (index, _) in entries.iter().filter(|(index, _)| *index != last) {
        let has_reason = versions().any(|version| version.index == index || version.effective == index + 1);
        assert!(has_reason, "entry {index} is shown for nothing");
    }
    Proven { entries, subjects }
}

impl Proven {
    fn of(&self, subject: &Subject) -> &ProvenSubject {
        self.subjects.get(&subject.key()).unwrap_or_else(|| panic!("nothing is shown of {subject:?}"))
    }

    /// The state of a subject at a time: its version, the one after it, and the digest in force; whatever the answer claims.
    pub fn state(&self, subject: &Subject, at_us: u64) -> (Option<u64>, Option<u64>, String) {
        let proven = self.of(subject);
        let at = proven.versions.iter().rfind(|(_, version)| version.recorded_at_us <= at_us);
        let next = at.map_or(0, |(at, _)| at + 1);
        let next = (next < proven.count).then_some(next);
        if let Some(next) = next {
            let shown = proven.versions.get(&next).unwrap_or_else(|| panic!("a gap: version {next} is not shown"));
            assert!(shown.recorded_at_us > at_us, "a version in between");
        }
        let setter = at.and_then(|(_, version)| version.effective.checked_sub(1));
        let digest = setter.map(|index| self.digest_in(index)).unwrap_or_default();
        (at.map(|(at, _)| *at), next, digest)
    }

    /// The same, as an answer claims it.
    pub fn check_state(&self, subject: &Subject, at_us: u64, claimed: Option<&proto::StateAt>, digest: &str) {
        let claimed = claimed.expect("a state");
        let version = |version: &Option<proto::Version>| version.as_ref().map(|version| version.version);
        let claimed = (version(&claimed.at), version(&claimed.next), digest.to_owned());
        assert_eq!(claimed, self.state(subject, at_us), "{subject:?} at {at_us}");
    }

    /// The versions that are shown of a subject.
    pub fn shown(&self, subject: &Subject) -> Vec<u64> {
        self.of(subject).versions.keys().copied().collect()
    }

    /// The statements of a slice of a catalogue, of which the version after it is shown too if there is one.
    pub fn members(&self, catalogue: &Subject, slice: std::ops::Range<u64>) -> Vec<Statement> {
        let proven = self.of(catalogue);
        let with_next = slice.start..(slice.end + 1).min(proven.count);
        assert_eq!(self.shown(catalogue), with_next.collect::<Vec<_>>(), "what is shown of {catalogue:?}");
        slice.map(|at| self.statement(proven.versions[&at].index)).collect()
    }

    fn statement(&self, index: u64) -> Statement {
        match &self.entries.get(index).unwrap_or_else(|| panic!("entry {index} is not shown")).body {
            Body::Record(_, statement) => (**statement).clone(),
            Body::Commitment(_) => panic!("entry {index} is a commitment"),
        }
    }

    fn digest_in(&self, index: u64) -> String {
        digest_of(&self.statement(index)).expect("what sets a state names a digest").to_string()
    }
}

pub const REGISTRY: &str = "registry.example";
pub const REPOSITORY: &str = "team/app";

pub fn submission(statement: &proto::Statement) -> proto::Submission {
    proto::Submission { statement: statement.encode_to_vec(), producer: None, only_at_version: None }
}

/// A digest made of one hexadecimal digit.
pub fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

pub fn statement(kind: proto::statement::Kind) -> proto::Statement {
    proto::Statement { kind: Some(kind), ..proto::Statement::default() }
}

pub fn push(tag: &str, digest: &str, disposition: proto::Disposition) -> proto::Statement {
    statement(proto::statement::Kind::TagPush(proto::TagPush {
        registry: REGISTRY.into(),
        repository: REPOSITORY.into(),
        tag: tag.into(),
        digest: digest.into(),
        media_type: String::new(),
        disposition: disposition.into(),
        settles: 0,
    }))
}

pub fn happened(tag: &str, digest: &str) -> proto::Statement {
    push(tag, digest, proto::Disposition::Happened)
}

pub fn requested(tag: &str, digest: &str) -> proto::Statement {
    push(tag, digest, proto::Disposition::Requested)
}

pub fn delete(tag: &str) -> proto::Statement {
    statement(proto::statement::Kind::TagDelete(proto::TagDelete {
        registry: REGISTRY.into(),
        repository: REPOSITORY.into(),
        tag: tag.into(),
        disposition: proto::Disposition::Happened.into(),
        settles: 0,
    }))
}

pub fn delete_manifest(digest: &str) -> proto::Statement {
    statement(proto::statement::Kind::ManifestDelete(proto::ManifestDelete {
        registry: REGISTRY.into(),
        repository: REPOSITORY.into(),
        digest: digest.into(),
        disposition: proto::Disposition::Happened.into(),
        settles: 0,
    }))
}

pub fn policy(immutable: &[&str]) -> proto::Statement {
    set_policy(&self::immutable(immutable))
}

/// These rules and no others.
pub fn set_policy(text: &str) -> proto::Statement {
    let change = proto::PolicyChange { policy: text.to_owned(), replaces: String::new() };
    statement(proto::statement::Kind::PolicyChange(change))
}

pub fn deploy(environment: &str, workload: &str, tag: &str, digest: &str) -> proto::Statement {
    statement(proto::statement::Kind::Deployment(proto::Deployment {
        environment: environment.into(),
        cluster: String::new(),
        namespace: "default".into(),
        workload: workload.into(),
        container: "main".into(),
        image: Some(proto::Image {
            registry: REGISTRY.into(),
            repository: REPOSITORY.into(),
            tag: tag.into(),
            digest: digest.into(),
        }),
        phase: proto::deployment::Phase::Started.into(),
    }))
}
