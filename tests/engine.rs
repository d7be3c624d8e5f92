//! The engine against a store that fails on demand, and directories that are not what they should be.

mod world;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use prost::Message as _;
use tagledger::engine::clock::Bounds;
use tagledger::engine::plan::{Rejected, Submission};
use tagledger::engine::recovery::OpenError;
use tagledger::engine::{AppendError, Ledger, OPERATOR, Options};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry, index_and_time};
use tagledger::ledger::names::TagRef;
use tagledger::ledger::note::Skey;
use tagledger::ledger::statement::Statement;
use tagledger::ledger::subject::Subject;
use tagledger::proto::{self, Outcome};
use tagledger::server::data_dir::{DataDir, DataDirError};
use tagledger::server::secrets::SecretError;
use tagledger::store::memory::{MemoryStore, NextCommit};
use tagledger::store::rocks::{RocksStore, open_databases};
use tagledger::store::rows;
use tagledger::store::{Batch, CommitError, Cursor, Read, ReadError, Store, Table};
use world::{check_log, delete_manifest, digest, happened, prove};

fn skey() -> Skey {
    Skey::from_seed("engine.example/test".parse().expect("an origin"), &[5; 32])
}

fn open_at(store: &Arc<MemoryStore>, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Result<Ledger, OpenError> {
    open_with(Arc::clone(store) as Arc<dyn Store>, clock)
}

fn open_with(store: Arc<dyn Store>, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Result<Ledger, OpenError> {
    Ledger::open(Options {
        store,
        keys: tagledger::engine::signer::only(&skey()),
        key_overlap_us: 0,
        has_begun: false,
        high_water: None,
        clock: Arc::new(clock),
        clock_bounds: Bounds::default(),
        kept_map: None,
    })
}

fn open(store: &Arc<MemoryStore>) -> Ledger {
    open_at(store, tagledger::engine::clock::system_clock).expect("it opens")
}

fn submission(statement: &proto::Statement) -> Submission {
    let bytes = statement.encode_to_vec();
    Submission {
        statement: Statement::parse(&bytes).expect("valid"),
        bytes,
        principal: "tester".into(),
        assurance: proto::Assurance::Authenticated,
        producer: None,
        shown: None,
        only_at_version: None,
    }
}

/// The log in a store, checked as a whole.
fn check(store: &MemoryStore) -> Vec<Vec<u8>> {
    let head = rows::head(store).expect("readable").expect("a head");
    let entries = rows::entries(store, 0..head.size).expect("all there");
    let checkpoint = Checkpoint::open(&head.checkpoint, &skey().vkey()).expect("signed");
    check_log(&entries, &checkpoint, &skey().vkey());
    entries
}

#[tokio::test]
async fn a_refused_commit_records_nothing_and_stops_the_sequencer() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
    let before = store.dump();
    store.next_commit(NextCommit::IsRefused);
    let error = ledger.append(vec![submission(&happened("v1", &digest('b')))]).await.err();
    assert!(matches!(error, Some(AppendError::Stopped(_))), "{error:?}");
    assert!(ledger.health().is_err());
    let error = ledger.append(vec![submission(&happened("v1", &digest('c')))]).await.err();
    assert!(matches!(error, Some(AppendError::Stopped(_))), "appends stay refused: {error:?}");
    assert_eq!(store.dump(), before);
    assert_eq!(ledger.read(|reader| reader.head().size).expect("reads go on"), 3);
    // After a restart it goes on.
    let store = Arc::new(store.reopen());
    let ledger = open(&store);
    ledger.append(vec![submission(&happened("v1", &digest('b')))]).await.expect("recorded");
    check(&store);
}

#[tokio::test]
async fn a_commit_that_fails_after_it_was_stored_is_found_after_the_restart_and_answered_once() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    let mut event = happened("v1", &digest('a'));
    event.event_id = "only-once".into();
    store.next_commit(NextCommit::FailsAfterStoring);
    assert!(ledger.append(vec![submission(&event)]).await.is_err());
    let store = Arc::new(store.reopen());
    let ledger = open(&store);
    let before = check(&store).len();
    let again = ledger.append(vec![submission(&event)]).await.expect("answered");
    assert!(again.receipts[0].duplicate);
    assert_eq!(check(&store).len(), before, "nothing was recorded twice");
}

#[tokio::test]
async fn the_clock_may_do_what_it_likes_and_time_still_goes_forward() {
    let store = Arc::new(MemoryStore::default());
    let clock = Arc::new(AtomicU64::new(2_000_000_000_000_000));
    let reading = Arc::clone(&clock);
    let ledger = open_at(&store, move || reading.load(Ordering::SeqCst)).expect("it opens");
    let year_us = 365 * 86_400_000_000;
    let mut alarms = Vec::new();
    for step in [0, 0, 5, -3_600_000_000_i64, 3_600_000_000, year_us, 5, 3_600_000_000, -year_us, 5] {
        clock.store(clock.load(Ordering::SeqCst).checked_add_signed(step).expect("a time"), Ordering::SeqCst);
        ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
        alarms.push(ledger.clock_alarm());
    }
    assert_eq!(alarms, [false, false, false, true, false, true, true, true, true, true]);
    let times: Vec<u64> = check(&store).iter().map(|entry| index_and_time(entry).expect("valid").1).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[tokio::test]
async fn what_held_at_a_time_is_answered_rightly_whatever_the_clock_did() {
    let store = Arc::new(MemoryStore::default());
    let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000));
    let hour_us = 3_600_000_000_i64;
    let mut bound = Vec::new();
    // An hour back, a year forward, standing still; and over a restart in between.
    for (part, steps) in [[5, -hour_us, 1_000, 0], [365 * 24 * hour_us, 0, 0, -365 * 24 * hour_us]].iter().enumerate() {
        let reading = Arc::clone(&clock);
        let ledger = open_at(&store, move || reading.load(Ordering::SeqCst)).expect("it opens");
        for (at, step) in steps.iter().enumerate() {
            clock.store(clock.load(Ordering::SeqCst).checked_add_signed(*step).expect("a time"), Ordering::SeqCst);
            let digit = char::from_digit(u32::try_from(4 * part + at).expect("small"), 16).expect("a digit");
            let appended = ledger.append(vec![submission(&happened("v1", &digest(digit)))]).await.expect("recorded");
            bound.push((appended.receipts[0].index, digest(digit)));
        }
        ledger.close().await;
    }
    let ledger = open(&store);
    let entries = check(&store);
    let time = |index: u64| index_and_time(&entries[usize::try_from(index).expect("small")]).expect("valid").1;
    let tag: TagRef = "registry.example/team/app:v1".parse().expect("a tag");
    for (at, (index, digest)) in bound.iter().enumerate() {
        let last = bound.get(at + 1).map_or(time(*index), |(next, _)| time(*next) - 1);
        for moment in [time(*index), last] {
            let at_us = i64::try_from(moment).expect("a time");
            let request = proto::ResolveTagRequest { at_us, ..Default::default() };
            let answer = ledger.read(|reader| reader.resolve(&tag, &request)).expect("read").expect("answered");
            let evidence = answer.evidence.as_ref().expect("evidence");
            let (_, _, proven) = prove(evidence, &skey().vkey()).state(&Subject::Tag(tag.clone()), moment);
            assert_eq!(proven, *digest, "at {moment}, of entry {index}");
        }
    }
}

#[tokio::test]
async fn a_clock_that_stands_still_is_an_alarm_after_a_while() {
    let store = Arc::new(MemoryStore::default());
    let clock = Arc::new(AtomicU64::new(2_000_000_000_000_000));
    let reading = Arc::clone(&clock);
    let ledger = Ledger::open(Options {
        store: Arc::clone(&store) as Arc<dyn Store>,
        keys: tagledger::engine::signer::only(&skey()),
        key_overlap_us: 0,
        has_begun: false,
        high_water: None,
        clock: Arc::new(move || reading.load(Ordering::SeqCst)),
        clock_bounds: Bounds { behind_us: 100_000, ..Bounds::default() },
        kept_map: None,
    });
    let ledger = ledger.expect("it opens");
    let mut alarms = Vec::new();
    for (wait_ms, step) in [(0, 0), (0, 0), (150, 0), (0, 1_000_000), (0, 0)] {
        tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
        clock.fetch_add(step, Ordering::SeqCst);
        ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
        alarms.push(ledger.clock_alarm());
    }
    assert_eq!(alarms, [false, false, true, false, false]);
    let times: Vec<u64> = check(&store).iter().map(|entry| index_and_time(entry).expect("valid").1).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[tokio::test]
async fn a_store_that_contradicts_itself_is_not_opened() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    for tag in ["v1", "v2", "v3"] {
        ledger.append(vec![submission(&happened(tag, &digest('a')))]).await.expect("recorded");
    }
    drop(ledger);
    let size = rows::tree_size(&*store).expect("readable");
    let change = |change: &dyn Fn(&mut Batch)| {
        let store = store.reopen();
        let mut batch = Batch::default();
        change(&mut batch);
        store.commit(size, batch).expect("stored");
        open_at(&Arc::new(store), || 1).err().map(|error| error.to_string())
    };
    assert_eq!(change(&|_| {}), None);
    let newer = change(&|batch| batch.put(Table::Meta, "format", (rows::FORMAT + 1).to_be_bytes()));
    assert!(newer.as_deref().is_some_and(|text| text.contains(&format!("format {}", rows::FORMAT + 1))), "{newer:?}");
    let older = change(&|batch| batch.put(Table::Meta, "format", 1u32.to_be_bytes()));
    assert!(older.as_deref().is_some_and(|text| text.contains("format 1") && text.contains("go on with")), "{older:?}");
    let foreign = change(&|batch| batch.put(Table::Meta, "origin", "other.example"));
    assert!(foreign.as_deref().is_some_and(|text| text.contains("other.example")), "{foreign:?}");
    let beyond = change(&|batch| batch.put(Table::Entries, size.to_be_bytes(), "x"));
    assert!(beyond.as_deref().is_some_and(|text| text.contains("beyond")), "{beyond:?}");
    let lost = change(&|batch| batch.delete(Table::Entries, (size - 1).to_be_bytes()));
    assert!(lost.as_deref().is_some_and(|text| text.contains("missing")), "{lost:?}");
    let bent = change(&|batch| batch.put(Table::Entries, (size - 2).to_be_bytes(), "x"));
    assert!(bent.as_deref().is_some_and(|text| text.contains("root")), "{bent:?}");
    // Subjects that are not those of the last commitment: one lost, one that never occurred, one with another history.
    let key = |tag: &str| Subject::Tag(format!("registry.example/team/app:{tag}").parse().expect("a tag")).key();
    let mut other = rows::subject(&*store, &key("v2")).expect("readable");
    let forgotten = change(&|batch| batch.delete(Table::Subjects, key("v1").0));
    let invented = change(&|batch| rows::put_subject(batch, &key("v9"), &other));
    other.history.append([7; 32], |_| {});
    let longer = change(&|batch| rows::put_subject(batch, &key("v2"), &other));
    let swapped = rows::subject(&*store, &key("v3")).expect("readable");
    let another = change(&|batch| rows::put_subject(batch, &key("v2"), &swapped));
    for refused in [forgotten, invented, longer, another] {
        assert!(refused.as_deref().is_some_and(|text| text.contains("subjects are not")), "{refused:?}");
    }
    let cut = change(&|batch| batch.put(Table::Subjects, key("v1").0, [0; 20]));
    assert!(cut.as_deref().is_some_and(|text| text.contains("table subjects is damaged")), "{cut:?}");
    let other_key = Ledger::open(Options {
        store: Arc::new(store.reopen()),
        keys: tagledger::engine::signer::only(&Skey::from_seed(
            "engine.example/test".parse().expect("an origin"),
            &[6; 32],
        )),
        key_overlap_us: 0,
        has_begun: true,
        high_water: None,
        clock: Arc::new(|| 1),
        clock_bounds: Bounds::default(),
        kept_map: None,
    });
    assert!(matches!(other_key.err(), Some(OpenError::Checkpoint(_))));
    let lost = Ledger::open(Options {
        store: Arc::new(MemoryStore::default()),
        keys: tagledger::engine::signer::only(&skey()),
        key_overlap_us: 0,
        has_begun: true,
        high_water: None,
        clock: Arc::new(|| 1),
        clock_bounds: Bounds::default(),
        kept_map: None,
    });
    assert!(matches!(lost.err(), Some(OpenError::Lost)), "a second log under the same key is never begun");
}

#[tokio::test]
async fn a_ledger_that_was_opened_again_commits_to_the_same_map() {
    let (apart, together) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
    let ticking = || {
        let clock = AtomicU64::new(1_000_000);
        move || clock.fetch_add(1_000, Ordering::SeqCst)
    };
    let steady = open_at(&together, ticking()).expect("it opens");
    let clock = Arc::new(ticking());
    let open_again = || {
        let clock = Arc::clone(&clock);
        open_at(&apart, move || clock()).expect("it opens")
    };
    let mut ledger = open_again();
    for n in 0..40 {
        let statements: Vec<_> = (0..=n % 7).map(|m| happened(&format!("v{}", n * m), &digest('a'))).collect();
        let submissions = || statements.iter().map(submission).collect();
        steady.append(submissions()).await.expect("recorded");
        ledger.append(submissions()).await.expect("recorded");
        if n % 3 == 0 {
            ledger.close().await;
            ledger = open_again();
        }
    }
    assert_eq!(apart.dump(), together.dump());
    check(&apart);
}

#[tokio::test]
async fn the_policy_in_force_is_the_one_of_the_log() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    let change = async |ledger: &Ledger, rules: &[&str]| {
        let submission = Submission { principal: OPERATOR.into(), ..submission(&world::policy(rules)) };
        ledger.append(vec![submission]).await.expect("recorded").receipts[0].outcome()
    };
    let rules = ["registry.example/**:v*"];
    let outcome = async |ledger: &Ledger, digit| {
        let statement = world::requested("v1", &digest(digit));
        ledger.append(vec![submission(&statement)]).await.expect("recorded").receipts[0].outcome()
    };
    let size = |ledger: &Ledger| ledger.newest().borrow().head.size;
    assert_eq!(size(&ledger), 1);
    assert_eq!(outcome(&ledger, 'a').await, Outcome::Applied);
    assert_eq!(outcome(&ledger, 'b').await, Outcome::Applied);
    assert_eq!(change(&ledger, &rules).await, Outcome::Applied);
    assert_eq!(size(&ledger), 7);
    assert_eq!(outcome(&ledger, 'c').await, Outcome::Denied);
    ledger.close().await;
    let ledger = open(&store);
    assert_eq!(outcome(&ledger, 'c').await, Outcome::Denied, "after a restart too");
    assert_eq!(change(&ledger, &rules).await, Outcome::Unchanged, "it is in force");
    assert_eq!(size(&ledger), 13);
    assert_eq!(change(&ledger, &[]).await, Outcome::Applied);
    assert_eq!(outcome(&ledger, 'c').await, Outcome::Applied);
    ledger.close().await;
    let ledger = open(&store);
    assert_eq!(outcome(&ledger, 'd').await, Outcome::Applied);
    let entries = check(&store);
    let Body::Record(record, _) = SignedEntry::decode(&entries[5]).expect("an entry").body else { panic!("a record") };
    assert_eq!((record.principal.as_str(), record.assurance()), ("operator", proto::Assurance::Authenticated));
    // A log that no longer holds its policy can't go on.
    ledger.close().await;
    let (lost, mut batch) = (store.reopen(), Batch::default());
    batch.put(Table::Entries, 13u64.to_be_bytes(), entries[1].clone());
    lost.commit(rows::tree_size(&lost).expect("readable"), batch).expect("stored");
    let error = open_at(&Arc::new(lost), || 1).err().expect("refused").to_string();
    assert!(error.contains("entry 13 does not hold the policy in force"), "{error}");
}

/// Asks for the state of every tag as long as somebody writes, and checks each answer by itself.
async fn read_while_writing(store: Arc<dyn Store>) {
    let ledger = open_with(store, tagledger::engine::clock::system_clock).expect("it opens");
    let tag = |n: usize| -> TagRef { format!("registry.example/team/app:v{n}").parse().expect("a tag") };
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                let (mut sizes, mut n) = (BTreeSet::new(), reader);
                while sizes.len() < 50 {
                    n = (n + 1) % 30;
                    let request = proto::ResolveTagRequest::default();
                    let answer = ledger.read(|reader| reader.resolve(&tag(n), &request)).expect("read");
                    let answer = answer.expect("answered");
                    let proven = prove(&answer.evidence.expect("evidence"), &skey().vkey());
                    proven.check_state(&Subject::Tag(tag(n)), answer.as_of_us, answer.state.as_ref(), &answer.digest);
                    sizes.insert(proven.entries.checkpoint().size);
                }
            })
        })
        .collect();
    // Until every reader has seen it grow, or has failed.
    for n in 0.. {
        if readers.iter().all(|reader| reader.is_finished()) {
            break;
        }
        let digit = char::from_digit(n % 16, 16).expect("a digit");
        let statement = happened(&format!("v{}", n % 20), &digest(digit));
        ledger.append(vec![submission(&statement)]).await.expect("recorded");
    }
    for reader in readers {
        reader.join().expect("every answer holds");
    }
}

#[tokio::test]
async fn whoever_reads_while_others_write_gets_evidence_that_holds() {
    read_while_writing(Arc::new(MemoryStore::default())).await;
    let folder = tempfile::tempdir().expect("a folder");
    read_while_writing(Arc::new(RocksStore::open(folder.path()).expect("a database"))).await;
    // RocksDB aborts a process that ends while another thread closes a database.
    while open_databases() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the log has a size, and a bit longer: it must not grow on.
async fn settles_at(ledger: &Ledger, size: u64) {
    let grown = async {
        let mut newest = ledger.newest();
        let _ = newest.wait_for(|newest| newest.head.size >= size).await;
    };
    tokio::time::timeout(Duration::from_secs(30), grown).await.expect("it grows");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(ledger.newest().borrow().head.size, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_ledger_commits_once_after_what_was_recorded_and_after_what_was_asked() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    let idle = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.commit_when_idle(Duration::from_millis(20)).await })
    };
    // Nothing was recorded or asked yet.
    settles_at(&ledger, 1).await;
    ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
    settles_at(&ledger, 4).await;
    let tag: TagRef = "registry.example/team/app:v1".parse().expect("a tag");
    let ask = |without_evidence| {
        let request = proto::ResolveTagRequest { without_evidence, ..Default::default() };
        ledger.read(|reader| reader.resolve(&tag, &request)).expect("read").expect("answered")
    };
    let before = ask(false).as_of_us;
    settles_at(&ledger, 5).await;
    // What proves nothing needs no commitment, and neither does whoever only follows the log.
    assert!(ask(true).as_of_us > before, "the answer to the same question holds for longer");
    ledger.read(|reader| reader.entries(0..5)).expect("read").expect("all there");
    settles_at(&ledger, 5).await;
    check(&store);
    ledger.close().await;
    idle.await.expect("it ends with the ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_ledger_commits_nothing_to_a_disk_that_is_nearly_full() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
    ledger.set_shortage(Some("too little".into()));
    let idle = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.commit_when_idle(Duration::from_millis(20)).await })
    };
    settles_at(&ledger, 3).await;
    // What was recorded before is still news.
    ledger.set_shortage(None);
    settles_at(&ledger, 4).await;
    ledger.close().await;
    idle.await.expect("it ends with the ledger");
}

#[tokio::test]
async fn evidence_holds_after_a_failed_commit_whether_or_not_it_was_stored() {
    for (failure, size) in [(NextCommit::IsRefused, 3), (NextCommit::FailsAfterStoring, 5)] {
        let store = Arc::new(MemoryStore::default());
        let ledger = open(&store);
        ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
        store.next_commit(failure);
        ledger.append(vec![submission(&happened("v2", &digest('b')))]).await.err().expect("it failed");
        let tag: TagRef = "registry.example/team/app:v2".parse().expect("a tag");
        let answer = ledger.read(|reader| reader.resolve(&tag, &proto::ResolveTagRequest::default())).expect("read");
        let answer = answer.expect("answered");
        let proven = prove(&answer.evidence.expect("evidence"), &skey().vkey());
        assert_eq!(proven.entries.checkpoint().size, size, "{failure:?}");
        proven.check_state(&Subject::Tag(tag), answer.as_of_us, answer.state.as_ref(), &answer.digest);
    }
}

#[test]
fn a_data_directory_is_used_by_one_server_and_belongs_to_one_origin() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    let origin = "first.example/log".parse().expect("an origin");
    let first = DataDir::open(&path, Some(&origin)).expect("new");
    assert!(first.is_new());
    first.announce("127.0.0.1:7420".parse().expect("an address"));
    let second = DataDir::open(&path, None).err().expect("in use").to_string();
    assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
    assert!(second.contains("127.0.0.1:7420"), "{second}");
    let vkey = first.take_key().vkey();
    drop(first);
    let other = "second.example/log".parse().expect("an origin");
    let error = DataDir::open(&path, Some(&other)).err().expect("refused").to_string();
    assert!(error.contains("first.example/log") && error.contains("second.example/log"), "{error}");
    let again = DataDir::open(&path, Some(&origin)).expect("the same");
    assert!(!again.is_new());
    assert_eq!(again.take_key().vkey(), vkey);
}

#[test]
fn secrets_are_private_and_a_key_is_never_made_anew() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    drop(DataDir::open(&path, None).expect("new"));
    for secret in ["ledger.key", "token"] {
        let mode = std::fs::metadata(path.join(secret)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    std::fs::set_permissions(path.join("ledger.key"), std::fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(matches!(
        DataDir::open(&path, None).err(),
        Some(DataDirError::Secret(SecretError::Loose { mode: 0o644, .. }))
    ));
    std::fs::remove_file(path.join("ledger.key")).expect("removed");
    assert!(matches!(DataDir::open(&path, None).err(), Some(DataDirError::Incomplete { file: "ledger.key", .. })));
    std::fs::create_dir(path.join("db")).expect("made");
    std::fs::remove_file(path.join("origin")).expect("removed");
    assert!(matches!(DataDir::open(&path, None).err(), Some(DataDirError::Incomplete { file: "origin", .. })));
}

#[test]
fn a_start_that_was_cut_short_is_completed_with_the_key_it_had_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    let vkey = DataDir::open(&path, None).expect("new").take_key().vkey();
    for lost in ["origin", "token", "ledger.vkey"] {
        std::fs::remove_file(path.join(lost)).expect("removed");
        std::fs::remove_file(path.join("origin")).ok();
        let again = DataDir::open(&path, None).expect("completed");
        assert_eq!(again.take_key().vkey(), vkey, "without {lost}");
        assert!(path.join(lost).exists());
    }
}

#[test]
fn a_ledger_that_has_begun_knows_it_without_its_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    let data_dir = DataDir::open(&path, None).expect("new");
    assert!(!data_dir.has_begun());
    data_dir.note_begun().expect("noted");
    drop(data_dir);
    assert!(DataDir::open(&path, None).expect("opened").has_begun());
    // Without the key there is nothing to begin with.
    std::fs::remove_file(path.join("ledger.key")).expect("removed");
    std::fs::remove_file(path.join("origin")).expect("removed");
    assert!(matches!(DataDir::open(&path, None).err(), Some(DataDirError::Incomplete { file: "origin", .. })));
}

#[test]
fn an_empty_token_lets_nobody_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    let data_dir = DataDir::open(&path, None).expect("new");
    assert!(data_dir.first_token().expect("read").is_some());
    std::fs::write(path.join("token"), "\n").expect("emptied");
    assert!(matches!(data_dir.first_token().err(), Some(DataDirError::Token { .. })));
}

/// A store whose commits, once it has a gate, come to it, and wait until they are let through.
struct Gated {
    rows: Arc<MemoryStore>,
    has_gate: AtomicBool,
    arrived: Mutex<mpsc::Sender<()>>,
    let_through: Mutex<mpsc::Receiver<NextCommit>>,
    /// The threads that committed, one after the other.
    writers: Mutex<Vec<String>>,
}

impl Read for Gated {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.rows.get(table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        self.rows.cursor(table, prefix)
    }
}

impl Store for Gated {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        let writer = std::thread::current().name().unwrap_or_default().to_owned();
        self.writers.lock().expect("whole").push(writer);
        if self.has_gate.load(Ordering::SeqCst) {
            self.arrived.lock().expect("whole").send(()).expect("the test waits");
            self.rows.next_commit(self.let_through.lock().expect("whole").recv().expect("the test decides"));
        }
        self.rows.commit(expected_size, batch)
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        self.rows.snapshot()
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        self.rows.scratch()
    }
}

/// A ledger of one tag, bound to one digest. Its next commit is at the gate, and the one after that is planned.
struct PlannedAhead {
    ledger: Ledger,
    rows: Arc<MemoryStore>,
    store: Arc<Gated>,
    /// What the first commit at the gate adds: the tag moves, under an event id.
    first: tokio::task::JoinHandle<Result<tagledger::engine::Appended, AppendError>>,
    /// What the second does, with the first below it: the same event, and the deletion of what the first bound the tag to.
    second: tokio::task::JoinHandle<Result<tagledger::engine::Appended, AppendError>>,
    arrived: mpsc::Receiver<()>,
    let_through: mpsc::Sender<NextCommit>,
    before: u64,
}

fn event() -> proto::Statement {
    proto::Statement { event_id: "moved-once".into(), ..happened("v1", &digest('b')) }
}

async fn planned_ahead() -> PlannedAhead {
    let rows = Arc::new(MemoryStore::default());
    let ((arrived, arrival), (let_through, decided)) = (mpsc::channel(), mpsc::channel());
    let store = Arc::new(Gated {
        rows: Arc::clone(&rows),
        has_gate: AtomicBool::new(false),
        arrived: Mutex::new(arrived),
        let_through: Mutex::new(decided),
        writers: Mutex::default(),
    });
    // The sequencer reads the clock once for each batch, when it begins to plan it. The first one waits there until the second is in
    // the queue: a batch with nothing behind it is written by the sequencer itself, and nothing is planned meanwhile.
    let planned = Arc::new(AtomicU64::new(0));
    let (counted, (queued, is_queued)) = (Arc::clone(&planned), mpsc::channel::<()>());
    let waits = Arc::new(AtomicBool::new(false));
    let (waiting, is_queued) = (Arc::clone(&waits), Mutex::new(is_queued));
    let clock = move || {
        if std::thread::current().name() == Some("sequencer") {
            counted.fetch_add(1, Ordering::SeqCst);
            if waiting.swap(false, Ordering::SeqCst) {
                is_queued.lock().expect("no panic").recv().expect("it is sent");
            }
        }
        tagledger::engine::clock::system_clock()
    };
    let ledger = open_with(Arc::clone(&store) as Arc<dyn Store>, clock).expect("it opens");
    ledger.append(vec![submission(&happened("v1", &digest('a')))]).await.expect("recorded");
    let before = ledger.read(|reader| reader.head().size).expect("read");
    store.has_gate.store(true, Ordering::SeqCst);
    waits.store(true, Ordering::SeqCst);
    let planning = async |count: u64| {
        while planned.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let begun = planned.load(Ordering::SeqCst);
    let queue = async |statements: Vec<proto::Statement>| {
        let submissions = statements.iter().map(submission).collect();
        ledger.enqueue(submissions, None).await.expect("there is room")
    };
    let first = tokio::spawn(queue(vec![event()]).await.decided());
    planning(begun + 1).await;
    let second = tokio::spawn(queue(vec![event(), delete_manifest(&digest('b'))]).await.decided());
    queued.send(()).expect("it waits");
    let arrival = tokio::task::spawn_blocking(move || {
        arrival.recv().expect("a commit");
        arrival
    });
    let arrived = arrival.await.expect("no panic");
    planning(begun + 2).await;
    // Planning a batch of two takes less than this, and what holds must hold in the midst of it as well.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!first.is_finished() && !second.is_finished(), "nobody hears of what is not on disk");
    assert_eq!(ledger.read(|reader| reader.head().size), Ok(before), "nor sees it");
    PlannedAhead { ledger, rows, store, first, second, arrived, let_through, before }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_batch_is_written_by_the_sequencer_and_one_with_more_behind_it_is_not() {
    let PlannedAhead { ledger, rows, store, first, second, let_through, arrived: _arrived, .. } = planned_ahead().await;
    let writers = || std::mem::take(&mut *store.writers.lock().expect("whole"));
    // Who begins the ledger, the lone batch before, and that with another behind it.
    assert_eq!(writers()[1..], ["sequencer", "committer"]);
    for _ in 0..2 {
        let_through.send(NextCommit::Succeeds).expect("it waits");
    }
    first.await.expect("no panic").expect("recorded");
    second.await.expect("no panic").expect("recorded");
    // While one is being written the next is not overtaken, lone or not.
    assert_eq!(writers(), ["committer"]);
    store.has_gate.store(false, Ordering::SeqCst);
    // The thread may still be on its way back from the last one.
    for number in 0.. {
        ledger.append(vec![submission(&happened(&format!("t{number}"), &digest('a')))]).await.expect("recorded");
        if writers() == ["sequencer"] {
            break;
        }
        assert!(number < 1000, "lone again, and not written by the sequencer");
    }
    // A lone one that fails stops everything, too.
    rows.next_commit(NextCommit::IsRefused);
    let refused = ledger.append(vec![submission(&happened("v2", &digest('a')))]).await.err();
    assert!(matches!(refused, Some(AppendError::Stopped(_))), "{refused:?}");
    assert_eq!(writers(), ["sequencer"]);
    let refused = ledger.append(vec![submission(&happened("v3", &digest('a')))]).await.err();
    assert!(matches!(refused, Some(AppendError::Stopped(_))), "{refused:?}");
    check(&rows);
}

#[tokio::test]
async fn a_request_becomes_only_so_many_entries_whatever_the_tags_that_it_is_about() {
    let store = Arc::new(MemoryStore::default());
    let ledger = open(&store);
    let push = |number: usize| submission(&happened(&format!("t{number}"), &digest('a')));
    // A deletion of their digest becomes three entries.
    ledger.append((0..600).map(push).collect()).await.expect("recorded");
    let before = ledger.newest().borrow().head.size;
    let deletions = |count: usize| {
        let mut statement = delete_manifest(&digest('a'));
        let Some(proto::statement::Kind::ManifestDelete(deletion)) = &mut statement.kind else { unreachable!() };
        deletion.disposition = proto::Disposition::Refused.into();
        vec![submission(&statement); count]
    };
    let refused = ledger.append(deletions(1000)).await.err();
    assert!(matches!(refused, Some(AppendError::Rejected(Rejected::TooManyEntries))), "{refused:?}");
    assert_eq!(ledger.newest().borrow().head.size, before, "nothing of it is recorded");
    let few = ledger.append(deletions(10)).await.expect("recorded");
    assert_eq!(few.receipts.iter().map(|receipt| receipt.entry_count).sum::<u32>(), 30);
    ledger.close().await;
    check(&store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_planned_ahead_falls_with_the_one_below_it() {
    for how in [NextCommit::IsRefused, NextCommit::FailsAfterStoring] {
        let PlannedAhead { ledger, rows, first, second, arrived, let_through, before, .. } = planned_ahead().await;
        let_through.send(how).expect("it waits");
        for append in [first, second] {
            let answer = append.await.expect("no panic");
            assert!(matches!(answer, Err(AppendError::Stopped(_))), "{how:?}: {:?}", answer.err());
        }
        assert!(arrived.try_recv().is_err(), "{how:?}: the second was never written");
        assert!(ledger.health().is_err());
        let refused = ledger.append(vec![submission(&happened("v2", &digest('a')))]).await.err();
        assert!(matches!(refused, Some(AppendError::Stopped(_))), "{how:?}: {refused:?}");
        assert_eq!(ledger.newest().borrow().head.size, before, "{how:?}: nothing was published");
        let evidence = ledger.read(|reader| reader.entry(before - 2)).expect("reads go on").expect("it is there");
        tagledger::ledger::evidence::verify(&evidence, &skey().vkey()).expect("it verifies");
        // After a restart the first is there if it was stored, and the second is not.
        let store = Arc::new(rows.reopen());
        let ledger = open(&store);
        let stored = if how == NextCommit::FailsAfterStoring { 2 } else { 0 };
        assert_eq!(check(&store).len() as u64, before + stored, "{how:?}");
        let again = ledger.append(vec![submission(&event())]).await.expect("recorded");
        assert_eq!(again.receipts[0].duplicate, stored > 0, "{how:?}");
        check(&store);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_planned_ahead_knows_what_the_one_below_it_changed() {
    let PlannedAhead { ledger, rows, first, second, arrived, let_through, before, .. } = planned_ahead().await;
    let_through.send(NextCommit::Succeeds).expect("it waits");
    let first = first.await.expect("no panic").expect("recorded");
    assert_eq!(first.receipts[0].index, before);
    let arrived = tokio::task::spawn_blocking(move || {
        arrived.recv().expect("the second commit");
        arrived
    });
    drop(arrived.await.expect("no panic"));
    assert!(!second.is_finished(), "nobody hears of what is not on disk");
    assert_eq!(ledger.newest().borrow().head.size, before + 2, "the first alone is published");
    let_through.send(NextCommit::Succeeds).expect("it waits");
    let second = second.await.expect("no panic").expect("recorded");
    let [same, deletion] = second.receipts.as_slice() else { panic!("{:?}", second.receipts) };
    assert!(same.duplicate && same.index == before, "the event was recorded by the batch below: {same:?}");
    assert_eq!(deletion.index, before + 2);
    for appended in [&first, &second] {
        let index = appended.receipts.last().expect("one").index;
        let evidence = ledger.prove(&appended.committed, &[index]).expect("proven");
        tagledger::ledger::evidence::verify(&evidence, &skey().vkey()).expect("it verifies");
    }
    // The tag lost its binding: that it had it stands in the batch below, too.
    let tag: TagRef = "registry.example/team/app:v1".parse().expect("a tag");
    let (version, bound) = ledger.read(|reader| reader.tag_version(&tag)).expect("read").expect("read");
    assert_eq!((version, bound), (3, None));
    ledger.close().await;
    check(&rows);
}
