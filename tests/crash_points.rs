//! Crashes at every point of a commit: whatever of the unsynced writes reached the disk, in whatever order, torn or whole, what
//! was acknowledged is there, no checkpoint that anybody was given is contradicted, and the ledger goes on.
//!
//! The engine runs on a disk that remembers every state it could be found in (`crash_points/disk.rs`). A script is run once, and
//! every such state is looked at; long random runs crash again and again, with a seed that is printed. In the midst of the script
//! the ledger changes its key.

#![cfg(feature = "server")]

mod random;
mod rich;
mod world;

#[path = "crash_points/disk.rs"]
mod disk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{CrashDisk, Failure, Image};
use random::Random;
use tagledger::engine::check::check;
use tagledger::engine::clock::Bounds;
use tagledger::engine::plan::Submission;
use tagledger::engine::recovery::OpenError;
use tagledger::engine::{AppendError, Ledger, Options};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry};
use tagledger::ledger::keys::KeyChange;
use tagledger::ledger::merkle::Tree;
use tagledger::ledger::note::Skey;
use tagledger::ledger::statement::Kind;
use tagledger::proto;
use tagledger::store::Read;
use tagledger::store::log_tree::StoredNodes;
use tagledger::store::memory::MemoryStore;
use tagledger::store::rows;
use world::{delete, digest, happened, requested};

/// What anybody outside was given, in the order in which it was.
#[derive(Default, Clone)]
struct Given {
    /// By index, byte for byte.
    entries: BTreeMap<u64, Vec<u8>>,
    /// Notes of checkpoints.
    checkpoints: Vec<String>,
}

/// The key that the script changes to.
fn next_key() -> Skey {
    Skey::from_seed(rich::skey().origin().clone(), &[13; 32])
}

/// The rich script, with a change of the key in the midst of it.
fn script() -> Vec<Vec<Submission>> {
    let mut script = rich::script();
    let change = KeyChange::to_next(&rich::skey().vkey(), &next_key());
    let change = world::statement(proto::statement::Kind::KeyChange(change));
    script.insert(script.len() / 2, vec![rich::own(&change)]);
    script
}

fn open(store: Arc<CrashDisk>, given: &Given) -> Result<Ledger, OpenError> {
    let clock = AtomicU64::new(1_767_225_600_000_000);
    Ledger::open(Options {
        store,
        keys: Arc::new(|| Ok(vec![rich::skey(), next_key()])),
        // A few commits: checkpoints by the one key, by both, and by the other.
        key_overlap_us: 6_000_000,
        has_begun: !given.checkpoints.is_empty(),
        // The newest that anybody knows, which is stricter than any high-water mark.
        high_water: given.checkpoints.last().cloned(),
        clock: Arc::new(move || clock.fetch_add(1_000_000, Ordering::SeqCst)),
        clock_bounds: Bounds::default(),
        kept_map: None,
    })
}

/// Appends, and remembers what was given for it. The disk is told how much that is, for the states it remembers.
async fn append(
    ledger: &Ledger,
    disk: &CrashDisk,
    given: &mut Given,
    request: Vec<Submission>,
) -> Result<(), AppendError> {
    let appended = ledger.append(request).await?;
    let note = appended.committed.head.checkpoint.clone();
    for receipt in &appended.receipts {
        for index in receipt.index..receipt.index + u64::from(receipt.entry_count) {
            let read = ledger.read(|reader| reader.entries(index..index + 1)).expect("a snapshot");
            given.entries.insert(index, read.expect("read").remove(0));
        }
    }
    given.checkpoints.push(note);
    disk.note_given(given.checkpoints.len());
    Ok(())
}

/// What was given up to a moment: as many checkpoints, and the entries below them.
fn given_until(given: &Given, checkpoints: usize) -> Given {
    let checkpoints = given.checkpoints[..checkpoints].to_vec();
    let size = checkpoints.last().map_or(0, |note| opened(note).size);
    Given { entries: given.entries.range(..size).map(|(index, entry)| (*index, entry.clone())).collect(), checkpoints }
}

fn opened(note: &str) -> Checkpoint {
    let keys = [rich::skey().vkey(), next_key().vkey()];
    Checkpoint::open_by(note, keys.iter()).expect("signed").0
}

/// Looks at a ledger as it is found: everything that was given is there, and nothing is contradicted.
fn keeps_its_word(store: &dyn Read, given: &Given) -> Result<(), String> {
    let size = rows::tree_size(store).map_err(|error| error.to_string())?;
    for (index, entry) in &given.entries {
        if rows::entry(store, *index).as_ref() != Ok(entry) {
            return Err(format!("entry {index} was acknowledged, and is not there"));
        }
    }
    for note in &given.checkpoints {
        let known = opened(note);
        let found =
            (known.size <= size).then(|| Tree::load(&StoredNodes::new(store), known.size).map(|tree| tree.root()));
        if found != Some(Ok(known.root)) {
            return Err(format!(
                "the checkpoint over {} entries was given, and {size} entries contradict it",
                known.size
            ));
        }
    }
    Ok(())
}

/// Whether the change of the key is on disk.
fn is_changed(store: &dyn Read) -> bool {
    let entries = rows::entries(store, 0..rows::tree_size(store).expect("read")).expect("read");
    entries.iter().any(|entry| match SignedEntry::decode(entry).expect("an entry").body {
        Body::Record(_, statement) => matches!(statement.kind, Kind::KeyChange { .. }),
        Body::Commitment(_) => false,
    })
}

/// Everything that ought to be there follows from the entries, and nothing else is there.
fn replays_equal(store: &dyn Read) {
    let findings = check(store, &rich::skey().vkey(), None, &MemoryStore::default(), &mut |_, _, _| {}).expect("done");
    assert_eq!(findings.damages, []);
}

/// A ledger that crashed in a state keeps its word, opens, goes on, and is whole.
async fn survives(image: &Image, given: &Given, next: Vec<Submission>) -> Result<(), String> {
    let disk = Arc::new(CrashDisk::found(image));
    keeps_its_word(&*disk, given)?;
    let ledger = open(Arc::clone(&disk), given).map_err(|error| error.to_string())?;
    // The key follows the log: where its change is on disk, whether anybody heard of it or not.
    let in_force = if is_changed(&*disk) { next_key() } else { rich::skey() };
    if ledger.vkey() != in_force.vkey() {
        return Err(format!("it signs with {}", ledger.vkey()));
    }
    let mut given = given.clone();
    append(&ledger, &disk, &mut given, next).await.map_err(|error| error.to_string())?;
    ledger.close().await;
    // As it is found after yet another crash, with nothing unsynced left.
    let again = CrashDisk::found(&disk.synced());
    keeps_its_word(&again, &given)?;
    replays_equal(&again);
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

fn afterwards() -> Vec<Submission> {
    vec![rich::by("webhook/main", &happened("afterwards", &digest('9')))]
}

/// Runs the script, and returns what was given, and the disk with every state it could have been found in.
async fn run(disk: CrashDisk) -> (Given, Arc<CrashDisk>) {
    let (disk, mut given) = (Arc::new(disk), Given::default());
    let ledger = open(Arc::clone(&disk), &given).expect("it opens");
    for request in script() {
        append(&ledger, &disk, &mut given, request).await.expect("recorded");
    }
    ledger.close().await;
    (given, disk)
}

/// Looks at every state of a run. States that are recovered to the same rows, with the same given before, are opened once.
async fn look_at_all(given: &Given, disk: &CrashDisk) -> (usize, usize, Result<(), String>) {
    let (mut states, mut opened_states) = (0, BTreeMap::new());
    for moment in disk.moments() {
        let given = given_until(given, moment.given);
        for image in moment.images() {
            states += 1;
            let found = CrashDisk::found(&image);
            let size = rows::tree_size(&found).expect("it reads");
            if let Err(lost) = keeps_its_word(&found, &given) {
                return (states, opened_states.len(), Err(lost));
            }
            opened_states.entry((size, moment.given)).or_insert((image, given.clone()));
        }
    }
    let count = opened_states.len();
    for (image, given) in opened_states.into_values() {
        if let Err(lost) = survives(&image, &given, afterwards()).await {
            return (states, count, Err(lost));
        }
    }
    (states, count, Ok(()))
}

#[test]
fn every_crash_point_of_a_scripted_run_is_survived() {
    runtime().block_on(async {
        let (given, disk) = run(CrashDisk::honest()).await;
        let (states, opened, result) = look_at_all(&given, &disk).await;
        println!("{} moments, {states} states of the disk, {opened} of them different ledgers", disk.moments().len());
        result.expect("survived");
        assert!(states > 1000 && opened > 2 * script().len(), "{states} states, {opened} ledgers");
    });
}

/// That the test above can fail.
#[test]
fn a_disk_that_lies_about_syncs_is_noticed() {
    runtime().block_on(async {
        let (given, disk) = run(CrashDisk::lying()).await;
        let (.., result) = look_at_all(&given, &disk).await;
        let lost = result.expect_err("what was acknowledged was not on disk");
        assert!(lost.contains("was acknowledged") || lost.contains("was given"), "{lost}");
    });
}

#[test]
fn every_commit_point_fails_twice_refused_and_refused_after_it_was_stored() {
    runtime().block_on(async {
        // The first commit is that of the new ledger.
        for failing in 1..=script().len() {
            for failure in [Failure::Refused, Failure::StoredAndRefused, Failure::TornAndRefused] {
                let (disk, mut given) = (Arc::new(CrashDisk::honest()), Given::default());
                let ledger = open(Arc::clone(&disk), &given).expect("it opens");
                let script = script();
                for request in &script[..failing - 1] {
                    append(&ledger, &disk, &mut given, request.clone()).await.expect("recorded");
                }
                disk.fail_next(failure);
                let refused = append(&ledger, &disk, &mut given, script[failing - 1].clone()).await;
                assert!(matches!(refused, Err(AppendError::Stopped(_))), "{failing} {failure:?}: {refused:?}");
                // It takes nothing any more, whatever the disk would do by now.
                let refused = append(&ledger, &disk, &mut given, afterwards()).await;
                assert!(matches!(refused, Err(AppendError::Stopped(_))), "{failing} {failure:?}: {refused:?}");
                drop(ledger);
                for image in disk.now().images() {
                    survives(&image, &given, afterwards())
                        .await
                        .unwrap_or_else(|lost| panic!("{failing} {failure:?}: {lost}"));
                }
            }
        }
    });
}

#[test]
fn a_new_ledger_whose_first_commit_fails_begins_again() {
    for failure in [Failure::Refused, Failure::StoredAndRefused, Failure::TornAndRefused] {
        let disk = Arc::new(CrashDisk::honest());
        disk.fail_next(failure);
        assert!(matches!(open(Arc::clone(&disk), &Given::default()), Err(OpenError::Commit(_))), "{failure:?}");
        runtime().block_on(async {
            for image in disk.now().images() {
                let first = rich::script().remove(0);
                survives(&image, &Given::default(), first).await.expect("survived");
            }
        });
    }
}

fn any_request(random: &mut Random, number: u64) -> Vec<Submission> {
    let mut statements = Vec::new();
    for part in 0..=random.below(3) {
        let tag = format!("t{}", random.below(6));
        let digit = char::from(b'a' + u8::try_from(random.below(6)).expect("small"));
        let mut statement = match random.below(4) {
            0 => delete(&tag),
            1 => requested(&tag, &digest(digit)),
            _ => happened(&tag, &digest(digit)),
        };
        statement.event_id = format!("e{number}-{part}");
        statements.push(rich::own(&statement));
    }
    statements
}

/// Crashes again and again, each time in a state that the disk could have been in, and goes on from there. What was sent and not
/// answered is sent again, and recorded once.
#[test]
fn random_crashes_in_long_runs_are_survived() {
    let mut random = Random::new();
    runtime().block_on(async {
        let (mut crashes, mut commits) = (0, 0);
        for _ in 0..6 {
            let (mut given, mut image, mut number) = (Given::default(), CrashDisk::honest().synced(), 0);
            let mut unanswered: Option<Vec<Submission>> = None;
            for _ in 0..12 {
                let disk = Arc::new(CrashDisk::found(&image));
                disk.note_given(given.checkpoints.len());
                let ledger = open(Arc::clone(&disk), &given).expect("it opens");
                if let Some(request) = unanswered.take() {
                    append(&ledger, &disk, &mut given, request.clone()).await.expect("answered this time");
                    once(&*disk, &request);
                }
                let before = disk.moments().len();
                for _ in 0..=random.below(6) {
                    let request = any_request(&mut random, number);
                    number += 1;
                    append(&ledger, &disk, &mut given, request.clone()).await.expect("recorded");
                    unanswered = Some(request);
                    commits += 1;
                }
                ledger.close().await;
                // One of the moments since, and one of the states at that moment.
                let moments = disk.moments();
                let since = moments.len() - before;
                let moment = &moments[before + usize::try_from(random.below(since as u64)).expect("an index")];
                let images: Vec<Image> = moment.images().collect();
                image = images[usize::try_from(random.below(images.len() as u64)).expect("an index")].clone();
                given = given_until(&given, moment.given);
                let found = CrashDisk::found(&image);
                keeps_its_word(&found, &given).expect("it keeps its word");
                // Only what nobody was told of may be lost, and only that is sent again.
                let told = given.checkpoints.last().map_or(0, |note| opened(note).size);
                assert!(rows::tree_size(&found).expect("read") >= told);
                crashes += 1;
            }
            replays_equal(&CrashDisk::found(&image));
        }
        println!("{crashes} crashes in {commits} commits survived");
    });
}

/// Each event id of a request is recorded once.
fn once(store: &dyn Read, request: &[Submission]) {
    let entries = rows::entries(store, 0..rows::tree_size(store).expect("read")).expect("read");
    for submission in request {
        let count = entries.iter().filter(|entry| {
            let Ok(entry) = SignedEntry::decode(entry) else { return false };
            match entry.body {
                Body::Record(record, _) => record.statement == submission.bytes,
                Body::Commitment(_) => false,
            }
        });
        assert_eq!(count.count(), 1, "{}", submission.statement.event_id);
    }
}
