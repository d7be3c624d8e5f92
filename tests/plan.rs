//! The planner against a plain model: random requests over few names, planned on a store in memory batch by batch.
//!
//! The model knows nothing of rows, overlays or trees. It keeps the accepted statements in a list, and asks of every batch
//! what the specification asks: which requests are refused, which are duplicates, what each index and outcome is, that a
//! request is all or none, and that planning in one batch or in many gives the same entries.

mod world;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;
use tagledger::engine::known::Known as Ahead;
use tagledger::engine::plan::{Accepted, Base, Plan, Rejected, Submission, plan, plan_genesis, plan_idle};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry};
use tagledger::ledger::hold::asks;
use tagledger::ledger::map;
use tagledger::ledger::merkle::multi::{multi_proof, verify_multi};
use tagledger::ledger::merkle::{Nodes as _, Tree};
use tagledger::ledger::note::Skey;
use tagledger::ledger::policy::Policy;
use tagledger::ledger::principals::ChangeError;
use tagledger::ledger::principals::authority::Shown;
use tagledger::ledger::statement::Kind as Parsed;
use tagledger::ledger::statement::Statement;
use tagledger::proto::Disposition::{Happened, Intended};
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, Credential, Role, principal_change};
use tagledger::store::leaf_pages::LeafPages;
use tagledger::store::log_tree::LogTree;
use tagledger::store::memory::MemoryStore;
use tagledger::store::rows::{self, StoredHistory, StoredLeaves};
use tagledger::store::{Batch, Read, Store};
use world::{check_log, delete, delete_manifest, deploy, digest, happened, policy, push, requested};

const RULE: &str = "registry.example/team/**:v*";

fn skey() -> Skey {
    Skey::from_seed("plan.example/test".parse().expect("an origin"), &[9; 32])
}

/// A statement small enough to meet others: few tags, digests and event ids.
fn any_statement() -> impl Strategy<Value = proto::Statement> {
    let tag = prop::sample::select(vec!["v1", "v2", "latest"]);
    let digit = prop::sample::select(vec!['a', 'b', 'c']);
    let id = prop::option::of(prop::sample::select(vec!["e1", "e2", "e3", "e4"]));
    // Of whatever entry, as often as not of an intent.
    let settles = 3..40u64;
    (0..11u8, tag, digit, id, settles).prop_map(|(kind, tag, digit, id, settles)| {
        let mut statement = match kind {
            0 | 1 => happened(tag, &digest(digit)),
            2 => requested(tag, &digest(digit)),
            3 => delete(tag),
            4 => delete_manifest(&digest(digit)),
            5 if tag == "latest" => policy(&[]),
            5 => policy(&[&format!("registry.example/team/**:{tag}")]),
            6 => deploy("prod", "web", tag, &digest(digit)),
            7 | 8 => push(tag, &digest(digit), Intended),
            9 => {
                let mut statement = delete_manifest(&digest(digit));
                let Some(Kind::ManifestDelete(delete)) = &mut statement.kind else { unreachable!("as made") };
                delete.disposition = Intended.into();
                statement
            }
            _ => {
                let mut statement = push(tag, &digest(digit), Happened);
                let Some(Kind::TagPush(push)) = &mut statement.kind else { unreachable!("as made") };
                push.settles = settles;
                statement
            }
        };
        statement.event_id = id.unwrap_or_default().to_owned();
        statement
    })
}

/// Batches of requests of statements, each by one of two principals.
fn any_batches() -> impl Strategy<Value = Vec<Vec<Vec<(proto::Statement, bool)>>>> {
    let request = prop::collection::vec((any_statement(), any::<bool>()), 1..4);
    prop::collection::vec(prop::collection::vec(request, 1..5), 1..6)
}

fn submission((statement, first): &(proto::Statement, bool)) -> Submission {
    let bytes = statement.encode_to_vec();
    Submission {
        statement: Statement::parse(&bytes).expect("valid"),
        bytes,
        principal: if *first { "first" } else { "second" }.into(),
        assurance: proto::Assurance::Authenticated,
        producer: None,
        shown: None,
        only_at_version: None,
    }
}

/// A store, the tree and the map over it, and the time of its last entry. As in the running ledger, the store lacks the last batch
/// while the next one is planned.
struct Log {
    store: MemoryStore,
    /// The last batch, and how many entries come before it.
    ahead: RefCell<Option<(u64, Batch)>>,
    tree: LogTree,
    top: map::Top,
    leaves: LeafPages,
    known: Ahead,
    last_time_us: u64,
    policy: Policy,
    principals: std::sync::Arc<tagledger::ledger::principals::Principals>,
    keys: std::sync::Arc<tagledger::ledger::keys::Chain>,
    skey: Arc<Skey>,
}

impl Log {
    fn new() -> Self {
        let mut log = Self {
            store: MemoryStore::default(),
            ahead: RefCell::default(),
            tree: LogTree::default(),
            top: map::Top::default(),
            leaves: LeafPages::new(tempfile::tempfile().expect("a file"), 0),
            known: Ahead::default(),
            last_time_us: 0,
            policy: Policy::default(),
            principals: std::sync::Arc::default(),
            keys: std::sync::Arc::new(tagledger::ledger::keys::Chain::of(skey().vkey())),
            skey: Arc::new(skey()),
        };
        let genesis = plan_genesis(&log.base(), 1_000).expect("planned");
        log.commit(genesis);
        let rules = log.plan(&[vec![submission(&(policy(&[RULE]), true))]]);
        log.commit(rules);
        log
    }

    fn base(&self) -> Base<'_> {
        Base {
            read: &self.store,
            known: &self.known,
            tree: &self.tree,
            top: &self.top,
            leaves: &self.leaves,
            last_time_us: self.last_time_us,
            policy: &self.policy,
            principals: &self.principals,
            keys: &self.keys,
            seal: &self.skey,
        }
    }

    fn plan(&self, requests: &[Vec<Submission>]) -> Plan {
        plan(&self.base(), self.last_time_us + 1_000, requests).expect("planned")
    }

    fn commit(&mut self, plan: Plan) {
        self.write();
        if plan.head.is_some() {
            self.ahead.replace(Some((self.tree.size(), plan.batch)));
        }
        self.leaves.put(&plan.leaves).expect("written");
        drop(self.known.learn(plan.learned));
        if let Some(head) = plan.head {
            (self.tree, self.top, self.last_time_us) = (plan.tree, plan.top, head.recorded_at_us);
        }
        self.policy = plan.policy.unwrap_or_else(|| self.policy.clone());
        self.principals = plan.principals;
    }

    /// Brings the last batch into the store.
    fn write(&self) {
        if let Some((size, batch)) = self.ahead.take() {
            self.store.commit(size, batch).expect("committed");
        }
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        self.write();
        rows::entries(&self.store, 0..self.tree.size()).expect("all there")
    }

    /// Recomputes the world from the bytes, and holds against it what is kept of the histories.
    fn check(&self) {
        self.write();
        let head = rows::head(&self.store).expect("readable").expect("a head");
        let checkpoint = Checkpoint::open(&head.checkpoint, &self.skey.vkey()).expect("signed");
        let policy = check_log(&self.entries(), &checkpoint, &self.skey.vkey());
        assert_eq!(policy, self.policy);
        let mut next = StoredLeaves::new(&self.store).all();
        let leaves: Vec<map::Leaf> = std::iter::from_fn(|| next().expect("readable")).collect();
        assert_eq!((self.top.root(), self.top.size()), (map::root_of(&map::hashed(&leaves), 0), leaves.len() as u64));
        for leaf in leaves {
            let history = StoredHistory { read: &self.store, key: leaf.key };
            let row = rows::subject(&self.store, &leaf.key).expect("readable");
            assert_eq!(Tree::load(&history, leaf.count), Ok(row.history), "its edge is that of the kept nodes");
            for version in 0..leaf.count {
                let hash = history.node(0, version).expect("there");
                let proof = multi_proof(&history, &[version], leaf.count).expect("all nodes are kept");
                assert_eq!(verify_multi(&[(version, hash)], leaf.count, &proof, &leaf.root), Ok(()));
            }
        }
    }
}

/// A change of a principal that has one token, by an admin whose token that is, where no certificate can be shown.
fn admin(name: &str, byte: u8, requires: Credential) -> Submission {
    let principal = proto::Principal {
        roles: vec![Role::Admin.into()],
        requires: vec![requires.into()],
        certificate_names: vec![format!("{name}.example")],
        token_sha256: vec![vec![byte; 32]],
        ..proto::Principal::default()
    };
    let change = principal_change::Change::Principal(principal);
    let change = proto::PrincipalChange { name: name.to_owned(), change: Some(change) };
    let statement = proto::Statement { kind: Some(Kind::PrincipalChange(change)), ..proto::Statement::default() };
    let shown = Some(Shown { token: Some([byte; 32]), ..Shown::default() });
    Submission { principal: name.to_owned(), shown, ..submission(&(statement, true)) }
}

#[test]
fn of_two_admins_who_lock_themselves_out_in_one_batch_the_second_is_refused() {
    for takes_certificates in [false, true] {
        let mut log = Log::new();
        let first = Submission { shown: None, ..admin("one", 1, Credential::Token) };
        log.commit(log.plan(&[vec![first]]));
        let second = Submission { principal: "one".into(), shown: None, ..admin("two", 2, Credential::Token) };
        log.commit(log.plan(&[vec![second]]));
        let lock_out = [("one", 1), ("two", 2)].map(|(name, byte)| {
            let submission = admin(name, byte, Credential::Certificate);
            let shown = submission.shown.map(|shown| Shown { takes_certificates, ..shown });
            vec![Submission { shown, ..submission }]
        });
        let planned = log.plan(&lock_out);
        assert!(planned.decisions[0].is_ok(), "the other can still come in");
        if takes_certificates {
            assert!(planned.decisions[1].is_ok());
            continue;
        }
        let refused = planned.decisions[1].as_ref().expect_err("nobody could");
        assert!(matches!(refused, Rejected::Principals { error: ChangeError::NoWayIn(name), .. } if name == "two"));
    }
}

#[test]
fn what_a_full_batch_has_no_place_for_is_refused_and_recorded_when_it_comes_again() {
    let mut log = Log::new();
    let push = |request: usize, tag: usize| submission(&(happened(&format!("r{request}-{tag}"), &digest('a')), true));
    let requests: Vec<Vec<_>> = (0..6).map(|request| (0..1000).map(|tag| push(request, tag)).collect()).collect();
    let planned = log.plan(&requests);
    // The fifth begins below 4,096 entries, and is not split.
    assert!(planned.decisions[..5].iter().all(Result::is_ok));
    assert!(matches!(planned.decisions[5], Err(Rejected::BatchIsFull)), "{:?}", planned.decisions[5].as_ref().err());
    assert_eq!(planned.entries.len(), 5001, "nothing of what is refused, and the commitment");
    log.commit(planned);
    let again = log.plan(&requests[5..]);
    assert!(again.decisions[0].is_ok() && again.entries.len() == 1001);
}

/// What the model remembers: the first entry and the bytes of each (principal, event id).
#[derive(Default, Clone)]
struct Known(HashMap<(String, String), (u64, Vec<u8>)>);

impl Known {
    /// The position of the first statement of a request that reuses an id for other bytes.
    fn conflict(&self, request: &[Submission]) -> Option<usize> {
        let mut bytes: HashMap<(String, String), Vec<u8>> =
            self.0.iter().map(|(id, (_, bytes))| (id.clone(), bytes.clone())).collect();
        request.iter().position(|submission| {
            let id = (submission.principal.clone(), submission.statement.event_id.clone());
            !id.1.is_empty() && *bytes.entry(id).or_insert_with(|| submission.bytes.clone()) != submission.bytes
        })
    }
}

fn asks_for_something(submission: &Submission) -> bool {
    match submission.statement.kind {
        Parsed::TagPush { disposition, .. }
        | Parsed::TagDelete { disposition, .. }
        | Parsed::ManifestDelete { disposition, .. } => asks(disposition),
        _ => false,
    }
}

/// Goes through a plan's decisions as the model expects them; returns the index after the last entry.
fn follow(known: &mut Known, mut next: u64, requests: &[Vec<Submission>], plan: &Plan) -> u64 {
    assert_eq!(plan.decisions.len(), requests.len());
    for (request, decision) in requests.iter().zip(&plan.decisions) {
        match (known.conflict(request), decision) {
            (Some(expected), Err(Rejected::Conflict { position, event_id, .. })) => {
                assert_eq!((*position, event_id), (expected, &request[expected].statement.event_id));
            }
            // That it was right to refuse, and to refuse nothing else, is for `check_log` to see.
            (None, Err(Rejected::Held { index, .. })) => {
                assert!(*index <= next + 2 && request.iter().any(asks_for_something), "{request:?} waits for {index}");
            }
            (None, Ok(accepted)) => {
                assert_eq!(accepted.len(), request.len());
                for (submission, accepted) in request.iter().zip(accepted) {
                    let id = (submission.principal.clone(), submission.statement.event_id.clone());
                    let first = known.0.get(&id).map(|(index, _)| *index);
                    match (first, accepted) {
                        (Some(index), Accepted::Duplicate(event)) => assert_eq!(event.index, index),
                        (None, Accepted::New(receipt)) => {
                            assert_eq!(receipt.index, next, "indexes are given in order");
                            next += u64::from(receipt.entry_count);
                            if !id.1.is_empty() {
                                known.0.insert(id, (receipt.index, submission.bytes.clone()));
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    next
}

/// The bodies of records without what depends on how they were cut into batches: index, time, and indexes in words.
fn decisions_of(entries: &[Vec<u8>]) -> Vec<(Vec<u8>, i32, String)> {
    let decided = |bytes: &Vec<u8>| match SignedEntry::decode(bytes).expect("valid").body {
        Body::Record(record, _) => Some((record.statement.clone(), record.outcome, record.rule.clone())),
        Body::Commitment(_) => None,
    };
    entries.iter().filter_map(decided).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_is_what_the_model_says(batches in any_batches()) {
        let (mut log, mut known) = (Log::new(), Known::default());
        for batch in &batches {
            let requests: Vec<Vec<_>> = batch.iter().map(|request| request.iter().map(submission).collect()).collect();
            let before = log.store.dump();
            let plan = log.plan(&requests);
            prop_assert_eq!(&log.store.dump(), &before, "planning touches nothing");
            let again = log.plan(&requests);
            prop_assert_eq!(&plan.batch, &again.batch, "the same is planned the same");
            prop_assert_eq!(plan.top.root(), again.top.root());
            let size = log.tree.size();
            let next = follow(&mut known, size, &requests, &plan);
            if next == size {
                prop_assert!(plan.entries.is_empty() && plan.batch.is_empty(), "nothing new, nothing written");
                continue;
            }
            // The records, and the commitment that closes them.
            prop_assert_eq!(plan.tree.size(), next + 1);
            let head_size = plan.head.as_ref().expect("something is new").size;
            prop_assert_eq!(head_size, next + 1);
            // The new entries can be proven from the plan alone, before anything is read back.
            let indexes: Vec<u64> = (size..=next).collect();
            let proof = multi_proof(&plan.nodes, &indexes, head_size).expect("all nodes are in the plan");
            let leaves: Vec<_> = indexes
                .iter()
                .zip(&plan.entries)
                .map(|(index, entry)| (*index, tagledger::ledger::entry::entry_hash(entry)))
                .collect();
            prop_assert_eq!(verify_multi(&leaves, head_size, &proof, &plan.tree.root()), Ok(()));
            log.commit(plan);
        }
        log.check();
    }

    #[test]
    fn one_batch_or_many_decide_the_same(mut batches in any_batches()) {
        // Which entry an index names depends on how they were cut.
        for (statement, _) in batches.iter_mut().flatten().flatten() {
            if let Some(Kind::TagPush(push)) = &mut statement.kind {
                push.settles = 0;
            }
        }
        let requests: Vec<Vec<_>> =
            batches.iter().flatten().map(|request| request.iter().map(submission).collect()).collect();
        let (mut together, mut apart) = (Log::new(), Log::new());
        let plan = together.plan(&requests);
        if !plan.entries.is_empty() {
            together.commit(plan);
        }
        for request in requests {
            let plan = apart.plan(&[request]);
            if !plan.entries.is_empty() {
                apart.commit(plan);
            }
        }
        prop_assert_eq!(decisions_of(&together.entries()), decisions_of(&apart.entries()));
        together.check();
        apart.check();
    }
}

#[test]
fn a_request_with_something_that_has_to_wait_is_refused_whole_and_a_repetition_never_waits() {
    let with_id = |id: &str, statement: proto::Statement| proto::Statement { event_id: id.into(), ..statement };
    let one = |statement: &proto::Statement| vec![submission(&(statement.clone(), true))];
    let intent = with_id("intent", push("latest", &digest('a'), Intended));
    let mut log = Log::new();
    let plan = log.plan(&[one(&intent)]);
    let holder = log.tree.size();
    log.commit(plan);
    let held = |tag: &str, index| Err(Rejected::Held { tag: format!("registry.example/team/app:{tag}"), index });
    // In the same batch, and in a later one.
    let asked = push("latest", &digest('b'), proto::Disposition::Requested);
    let with_other = [one(&happened("other", &digest('c'))), one(&asked)].concat();
    let plan = log.plan(&[one(&asked), one(&intent), with_other.clone()]);
    assert_eq!(plan.decisions[0], held("latest", holder));
    assert!(matches!(&plan.decisions[1], Ok(accepted) if matches!(accepted[0], Accepted::Duplicate(_))));
    assert_eq!(plan.decisions[2], held("latest", holder));
    assert!(plan.entries.is_empty(), "all or none");
    // What is intended and settled in one request leaves nothing to wait for; what is intended twice does.
    let (first, second) = (push("x", &digest('a'), Intended), push("x", &digest('b'), Intended));
    let mut settled = push("x", &digest('a'), Happened);
    let Some(Kind::TagPush(message)) = &mut settled.kind else { unreachable!("as made") };
    message.settles = log.tree.size() + 1;
    let twice = [one(&first), one(&second)].concat();
    assert_eq!(log.plan(&[twice]).decisions, [held("x", log.tree.size())]);
    let settling = [one(&first), one(&settled), one(&second)].concat();
    let plan = log.plan(&[settling]);
    assert_eq!(plan.decisions[0].as_ref().expect("accepted").len(), 3);
    log.commit(plan);
    // A manifest to be deleted whose tag a statement before it binds while it is held.
    let mut gone = delete_manifest(&digest('d'));
    let Some(Kind::ManifestDelete(delete)) = &mut gone.kind else { unreachable!("as made") };
    delete.disposition = Intended.into();
    let bound_first = [one(&happened("latest", &digest('d'))), one(&gone)].concat();
    assert_eq!(log.plan(&[bound_first]).decisions, [held("latest", holder)]);
    log.check();
}

fn time_of(plan: &Plan) -> u64 {
    plan.head.as_ref().expect("something is new").recorded_at_us
}

#[test]
fn an_idle_batch_is_one_commitment_over_the_same_subjects() {
    let mut log = Log::new();
    let plan = log.plan(&[vec![submission(&(happened("v1", &digest('a')), true))]]);
    log.commit(plan);
    let before = log.top.root();
    let plan = plan_idle(&log.base(), log.last_time_us + 5).expect("planned");
    assert_eq!((plan.entries.len(), time_of(&plan)), (1, log.last_time_us + 5));
    assert_eq!(plan.top.root(), before);
    log.commit(plan);
    log.check();
    // A clock that stands still does not hold it up.
    let plan = plan_idle(&log.base(), log.last_time_us).expect("planned");
    assert_eq!(time_of(&plan), log.last_time_us + 1);
}

#[test]
fn a_commit_for_another_size_is_refused() {
    let mut log = Log::new();
    let request = vec![submission(&(happened("v1", &digest('a')), true))];
    let (first, second) = (log.plan(std::slice::from_ref(&request)), log.plan(&[request]));
    log.commit(first);
    log.write();
    let error = log.store.commit(3, second.batch).expect_err("the store has moved on");
    assert!(error.to_string().contains("planned for 3"), "{error}");
    assert!(log.store.get(tagledger::store::Table::Meta, b"head").is_ok());
    log.check();
}
