//! An operator puts an older copy of the database back: the ledger refuses to sign on it.

#![cfg(feature = "server")]

mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::note::Skey;
use tagledger::server::config::Config;
use world::{World, digest, happened};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// Appends so many entries, and stops.
fn append(data_dir: &Path, tags: std::ops::Range<usize>) {
    runtime().block_on(async {
        let world = World::open(data_dir).await;
        for number in tags {
            world.recorded(&happened(&format!("t{number}"), &digest('a'))).await;
        }
        world.check_ledger().await;
        world.stop().await;
    });
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).expect("made");
    for file in fs::read_dir(from).expect("a folder") {
        let file = file.expect("listed").path();
        let copied = to.join(file.file_name().expect("a name"));
        if file.is_dir() {
            copy(&file, &copied);
        } else {
            fs::copy(file, copied).expect("copied");
        }
    }
}

/// Why the real program does not start.
fn refusal(data_dir: &Path) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tagledgerd"));
    program.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
    let printed = program.output().expect("it runs");
    assert_eq!(printed.status.code(), Some(1), "it started");
    String::from_utf8(printed.stderr).expect("text")
}

fn mark(data_dir: &Path) -> (String, Checkpoint) {
    let note = fs::read_to_string(data_dir.join("high-water")).expect("a mark");
    let vkey = fs::read_to_string(data_dir.join("ledger.vkey")).expect("a key");
    let checkpoint =
        Checkpoint::open(&note, &vkey.trim().parse::<tagledger::ledger::note::Vkey>().expect("a key")).expect("signed");
    (note, checkpoint)
}

struct Place {
    _folder: tempfile::TempDir,
    data_dir: PathBuf,
    db: PathBuf,
    backup: PathBuf,
    /// Where the backup ends.
    ends: Checkpoint,
}

/// A ledger with a backup of its database from earlier.
fn place() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let (db, backup) = (data_dir.join("db"), folder.path().join("backup"));
    append(&data_dir, 0..3);
    copy(&db, &backup);
    let (_, ends) = mark(&data_dir);
    append(&data_dir, 3..6);
    Place { _folder: folder, data_dir, db, backup, ends }
}

#[test]
fn an_older_copy_of_the_database_is_refused_with_sizes_and_roots() {
    let Place { data_dir, db, backup, ends, _folder } = place();
    let newer = data_dir.with_extension("newer");
    copy(&db, &newer);
    let (_, known) = mark(&data_dir);
    copy(&backup, &db);
    let refused = refusal(&data_dir);
    assert!(refused.contains("an older copy was put back"), "{refused}");
    let expected = format!("a checkpoint over {} entries (root {})", known.size, hex::encode(known.root));
    assert!(refused.contains(&expected), "{refused}");
    assert_eq!(ends.size, known.size - 6);
    let found = format!("the database ends at {} entries (root {})", ends.size, hex::encode(ends.root));
    assert!(refused.contains(&found), "{refused}");
    // Nothing was signed meanwhile, and the newer one goes on.
    assert_eq!(mark(&data_dir).1, known);
    copy(&newer, &db);
    append(&data_dir, 6..8);
    assert!(mark(&data_dir).1.size > known.size);
}

#[test]
fn a_history_other_than_the_marked_one_is_refused_also_if_it_is_longer() {
    let Place { data_dir, db, backup, _folder, .. } = place();
    let (note, known) = mark(&data_dir);
    copy(&backup, &db);
    // Somebody helps it along with the mark of the backup, and it signs a second history.
    fs::remove_file(data_dir.join("high-water")).expect("removed");
    fs::remove_file(data_dir.join("begun")).expect("removed");
    append(&data_dir, 10..30);
    assert!(mark(&data_dir).1.size > known.size);
    // Whoever has the first one shows that.
    fs::write(data_dir.join("high-water"), note).expect("written");
    let refused = refusal(&data_dir);
    assert!(refused.contains("this is another history"), "{refused}");
    assert!(refused.contains(&hex::encode(known.root)), "{refused}");
}

#[test]
fn without_a_mark_of_its_own_a_ledger_that_has_begun_does_not_start() {
    let Place { data_dir, _folder, .. } = place();
    let path = data_dir.join("high-water");
    let (note, known) = mark(&data_dir);
    fs::remove_file(&path).expect("removed");
    let refused = refusal(&data_dir);
    assert!(refused.contains("high-water is missing") && refused.contains("put the newest checkpoint"), "{refused}");
    let other = Skey::from_seed("other.example/ledger".parse().expect("an origin"), &[1; 32]);
    let resized = note.replacen(&format!("\n{}\n", known.size), &format!("\n{}\n", known.size - 1), 1);
    assert_ne!(resized, note);
    for wrong in [String::new(), "not a note".into(), known.sign(&other), resized] {
        fs::write(&path, &wrong).expect("written");
        let refused = refusal(&data_dir);
        assert!(refused.contains("the high-water mark: "), "{wrong:?}: {refused}");
    }
    fs::write(&path, vec![b'a'; 70_000]).expect("written");
    assert!(refusal(&data_dir).contains("which no checkpoint is"));
    fs::write(&path, note).expect("written");
    append(&data_dir, 6..7);
}

#[test]
fn the_mark_is_at_most_a_second_behind_and_up_to_date_after_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    runtime().block_on(async {
        let world = World::open(&data_dir).await;
        // Before the first request is answered it is there.
        let begun = mark(&data_dir).1.size;
        let receipt = world.recorded(&happened("v1", &digest('a'))).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(begun > 0 && mark(&data_dir).1.size == receipt.index + 2, "the entry, and the commitment");
        let receipt = world.recorded(&happened("v2", &digest('a'))).await;
        world.stop().await;
        assert_eq!(mark(&data_dir).1.size, receipt.index + 2);
    });
}

#[test]
fn a_mark_that_cant_be_written_stops_acknowledgement() {
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("another-disk");
    fs::create_dir(&elsewhere).expect("made");
    let data_dir = folder.path().join("ledger");
    runtime().block_on(async {
        let config = Config { high_water: Some(elsewhere.join("mark")), ..Config::default() };
        let world = World::open_with(&data_dir, config.clone()).await;
        world.recorded(&happened("v1", &digest('a'))).await;
        assert!(!data_dir.join("high-water").exists(), "it is where it was configured");
        fs::remove_dir_all(&elsewhere).expect("gone");
        let mut refused = None;
        for number in 0..200 {
            if let Err(status) = world.record(&happened(&format!("t{number}"), &digest('a'))).await {
                refused = Some(status);
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let refused = refused.expect("within a few seconds");
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
        assert!(
            refused.message().contains("the high-water mark") && refused.message().contains("No such file"),
            "{refused:?}"
        );
        world.check_ledger().await;
        world.stop().await;
        // Who restores the place, with what any client remembers, goes on.
        fs::create_dir(&elsewhere).expect("made");
        let note = {
            let vkey = fs::read_to_string(data_dir.join("ledger.vkey")).expect("a key");
            let seed = tagledger::server::data_dir::DataDir::open(&data_dir, None).expect("opened").take_key();
            assert_eq!(seed.vkey().to_string(), vkey.trim());
            Checkpoint { size: 0, root: empty_root() }.sign(&seed)
        };
        fs::write(elsewhere.join("mark"), note).expect("written");
        let world = World::open_with(&data_dir, config).await;
        world.recorded(&happened("v2", &digest('b'))).await;
        world.check_ledger().await;
        world.stop().await;
    });
}

/// RFC 6962 section 2.1: the hash of no leaves.
fn empty_root() -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest([]).into()
}
