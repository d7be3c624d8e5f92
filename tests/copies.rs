//! Backup, restore and rebuild, with the real program: what was acknowledged comes back, under the same checkpoint, or nothing
//! is changed.

#![cfg(feature = "server")]

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::note::Vkey;
use tagledger::server::config::Config;
use tagledger::store::rocks::RocksStore;
use tagledger::store::{Batch, Read as _, Store as _, Table, rows};
use world::{World, digest, happened};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

fn tagledgerd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagledgerd")).args(arguments).output().expect("it runs")
}

fn tagledger(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagledger")).args(arguments).output().expect("it runs")
}

fn said(printed: &Output) -> String {
    String::from_utf8_lossy(&[printed.stdout.as_slice(), &printed.stderr].concat()).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Appends so many entries, and stops; all entries there are then.
fn append(data_dir: &Path, tags: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    runtime().block_on(async {
        let world = World::open(data_dir).await;
        for number in tags {
            world.recorded(&happened(&format!("t{number}"), &digest('a'))).await;
        }
        let entries = world.check_ledger().await;
        world.stop().await;
        entries
    })
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    for file in fs::read_dir(from).expect("a folder") {
        let file = file.expect("listed");
        let target = to.join(file.file_name());
        if file.file_type().expect("a type").is_dir() {
            copy(&file.path(), &target);
        } else {
            // A server that is copied while it writes renames what it has written.
            if let Err(error) = fs::copy(file.path(), target) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            }
        }
    }
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("listed").path());
    files.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn mark(data_dir: &Path) -> Checkpoint {
    opened(&fs::read_to_string(data_dir.join("high-water")).expect("a mark"), data_dir)
}

fn opened(note: &str, data_dir: &Path) -> Checkpoint {
    let vkey = fs::read_to_string(data_dir.join("ledger.vkey")).expect("a key");
    let vkey: Vkey = vkey.trim().parse().expect("a key");
    Checkpoint::open(note, &vkey).expect("signed")
}

/// Changes rows of a database that nobody has open.
fn change(data_dir: &Path, change: impl FnOnce(&mut Batch)) {
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let mut batch = Batch::default();
    change(&mut batch);
    store.commit(rows::tree_size(&store).expect("read"), batch).expect("written");
}

/// A ledger as `kill -9` leaves it, with a mark that is behind what was acknowledged.
struct Killed {
    folder: tempfile::TempDir,
    data_dir: PathBuf,
    /// A copy that goes as far as the mark.
    backup: PathBuf,
    /// A copy that goes as far as the ledger did.
    mirror: PathBuf,
    /// The newest checkpoint that a client saw, in a file.
    newest: PathBuf,
    /// One that somebody saw long before.
    older: PathBuf,
    entries: Vec<Vec<u8>>,
}

fn killed() -> Killed {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (running, data_dir, backup, mirror, newest) =
        (at("running"), at("ledger"), at("backup"), at("mirror"), at("newest"));
    append(&running, 0..3);
    let older = at("older");
    fs::copy(running.join("high-water"), &older).expect("copied");
    let entries = runtime().block_on(async {
        let world = World::open(&running).await;
        let mut number = 3;
        loop {
            let response = world.record(&happened(&format!("t{number}"), &digest('a'))).await.expect("recorded");
            let note = response.evidence.expect("evidence").checkpoint;
            copy(&running, &data_dir);
            if opened(&note, &running).size > mark(&data_dir).size + 2 {
                fs::write(&newest, note).expect("written");
                break;
            }
            number += 1;
        }
        let entries = world.check_ledger().await;
        world.stop().await;
        entries
    });
    for (from, to) in [(&data_dir, &backup), (&running, &mirror)] {
        let printed = tagledgerd(&["backup", "--data-dir", path(from), "--to", path(to), "--quick"]);
        assert!(printed.status.success(), "{}", said(&printed));
    }
    Killed { folder, data_dir, backup, mirror, newest, older, entries }
}

fn all_rows(data_dir: &Path) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let mut rows = Vec::new();
    for table in Table::ALL {
        let mut cursor = store.cursor(table, &[]);
        let mut row = cursor.seek(&[]).expect("read");
        while let Some((key, value)) = row {
            rows.push((table, key.to_vec(), value.to_vec()));
            row = cursor.next().expect("read");
        }
    }
    rows
}

fn is_refused_at_the_start(data_dir: &Path) -> String {
    let printed = tagledgerd(&["serve", "--listen", "127.0.0.1:0", "--data-dir", path(data_dir)]);
    assert_eq!(printed.status.code(), Some(1), "it started");
    said(&printed)
}

struct Place {
    folder: tempfile::TempDir,
    data_dir: PathBuf,
    /// The whole directory as it was at its newest.
    newest: PathBuf,
    /// What it had acknowledged by then.
    entries: Vec<Vec<u8>>,
}

/// A ledger whose database was put back to an older copy.
fn rolled_back() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let (data_dir, newest) = (folder.path().join("ledger"), folder.path().join("newest"));
    append(&data_dir, 0..3);
    let older = folder.path().join("older-db");
    copy(&data_dir.join("db"), &older);
    let entries = append(&data_dir, 3..150);
    copy(&data_dir, &newest);
    copy(&older, &data_dir.join("db"));
    Place { folder, data_dir, newest, entries }
}

#[test]
fn an_older_copy_is_refused_until_it_is_restored_from_a_mirror_and_then_nothing_is_missing() {
    let Place { folder, data_dir, newest, entries } = rolled_back();
    let known = mark(&data_dir);
    let refused = is_refused_at_the_start(&data_dir);
    assert!(refused.contains("tagledgerd restore --from"), "{refused}");
    let runtime = runtime();
    let printed = runtime.block_on(async {
        // Anybody who serves the same tiles.
        let mirror = World::open(&newest).await;
        let address = format!("http://{}", mirror.address);
        let restored = data_dir.clone();
        let printed = tokio::task::spawn_blocking(move || {
            tagledgerd(&["restore", "--data-dir", path(&restored), "--from", &address])
        });
        let printed = printed.await.expect("it runs");
        mirror.stop().await;
        printed
    });
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert!(said(&printed).contains(&hex::encode(known.root)), "{}", said(&printed));
    assert_eq!(mark(&data_dir), known, "the same checkpoint");
    let fsck = tagledgerd(&["fsck", "--data-dir", path(&data_dir)]);
    assert_eq!(fsck.status.code(), Some(0), "{}", said(&fsck));
    assert!(data_dir.join("db.before-restore-1").exists(), "what was there is kept");
    let now = append(&data_dir, 150..152);
    assert_eq!(now[..entries.len()], entries, "every acknowledged entry is there");
    // A second time there is nothing to do, and nothing is done.
    let again = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(&data_dir.join("nothing"))]);
    assert_eq!(again.status.code(), Some(1));
    let again = tagledgerd(&["restore", "--data-dir", path(&data_dir)]);
    assert!(again.status.success() && said(&again).contains("nothing to restore"), "{}", said(&again));
    drop(folder);
}

#[test]
fn copies_that_are_not_of_this_log_or_not_enough_are_refused_and_change_nothing() {
    let Place { folder, data_dir, newest, .. } = rolled_back();
    let (known, before) = (mark(&data_dir), all_rows(&data_dir));
    let restore = |from: &Path| {
        let printed = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(from)]);
        assert_eq!(printed.status.code(), Some(1), "{}", said(&printed));
        said(&printed)
    };
    let backup = |data_dir: &Path, to: &str| {
        let to = folder.path().join(to);
        let printed = tagledgerd(&["backup", "--data-dir", path(data_dir), "--to", path(&to), "--quick"]);
        assert!(printed.status.success(), "{}", said(&printed));
        to
    };
    // Another ledger.
    let other = folder.path().join("other");
    append(&other, 0..200);
    let refused = restore(&backup(&other, "backup-of-another"));
    assert!(refused.contains("is no copy of this ledger"), "{refused}");
    // The same key, and another history: an older copy that somebody went on with.
    let forked = folder.path().join("forked");
    copy(&data_dir, &forked);
    fs::remove_file(forked.join("high-water")).expect("removed");
    fs::remove_file(forked.join("begun")).expect("removed");
    append(&forked, 500..700);
    let fork = backup(&forked, "backup-of-a-fork");
    let refused = restore(&fork);
    assert!(refused.contains("more may have been acknowledged"), "{refused}");
    let theirs = forked.join("high-water");
    let arguments = ["restore", "--data-dir", path(&data_dir), "--from", path(&fork), "--checkpoint", path(&theirs)];
    let refused = said(&tagledgerd(&arguments));
    assert!(
        refused.contains("these are not copies of one log") && refused.contains("Nothing was changed"),
        "{refused}"
    );
    assert!(refused.contains(&hex::encode(known.root)), "{refused}");
    // Not enough.
    let refused = tagledgerd(&["restore", "--data-dir", path(&data_dir)]);
    let refused = said(&refused);
    let first = before.iter().filter(|(table, ..)| *table == Table::Entries).count();
    assert!(refused.contains(&format!("entry {first} is in none of the copies")), "{refused}");
    assert!(
        refused.contains(&format!("{} entries with the root {}", known.size, hex::encode(known.root))),
        "{refused}"
    );
    // One that is damaged in what is missing.
    let damaged = backup(&newest, "damaged-backup");
    let bundle = damaged.join("tile/entries/000");
    let mut bytes = fs::read(&bundle).expect("a bundle");
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&bundle, bytes).expect("written");
    let refused = restore(&damaged);
    assert!(refused.contains("is in none of the copies") && refused.contains("has something else"), "{refused}");
    assert!(all_rows(&data_dir) == before && mark(&data_dir) == known, "nothing was changed");
    // The next backup mends that one, and it is enough.
    let mended = tagledgerd(&["backup", "--data-dir", path(&newest), "--to", path(&damaged)]);
    assert!(said(&mended).contains("1 of them in place of damaged ones"), "{}", said(&mended));
    let restored = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(&damaged)]);
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    assert_eq!(mark(&data_dir), known);
    append(&data_dir, 150..151);
}

#[test]
fn what_clients_saved_is_enough_if_it_is_all_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    append(&data_dir, 0..3);
    let older = folder.path().join("older-db");
    copy(&data_dir.join("db"), &older);
    let missing = u64::try_from(append(&data_dir, 0..0).len()).expect("few");
    let entries = append(&data_dir, 3..6);
    let saved = folder.path().join("saved");
    fs::create_dir(&saved).expect("made");
    runtime().block_on(async {
        let world = World::open(&data_dir).await;
        let (server, trust, saved) = (format!("http://{}", world.address), folder.path().join("trust"), saved.clone());
        let end = u64::try_from(entries.len()).expect("few");
        let save = tokio::task::spawn_blocking(move || {
            for index in missing..end {
                let file = saved.join(format!("{index}.json"));
                let (index, trust) = (index.to_string(), path(&trust).to_owned());
                let printed =
                    tagledger(&["--server", &server, "--trust", &trust, "entry", &index, "--save", path(&file)]);
                assert!(printed.status.success(), "{}", said(&printed));
            }
            fs::write(saved.join("notes.txt"), "something else").expect("written");
        });
        save.await.expect("saved");
        world.stop().await;
    });
    let known = mark(&data_dir);
    copy(&older, &data_dir.join("db"));
    let lent = saved.join(format!("{missing}.json"));
    let away = folder.path().join("away.json");
    fs::rename(&lent, &away).expect("moved");
    let printed = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(&saved)]);
    assert!(said(&printed).contains(&format!("entry {missing} is in none of the copies")), "{}", said(&printed));
    fs::rename(&away, &lent).expect("moved");
    let printed = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(&saved)]);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert_eq!(mark(&data_dir), known);
    assert_eq!(append(&data_dir, 6..7)[..entries.len()], entries);
}

#[test]
fn what_is_left_goes_on_under_a_new_origin_and_old_evidence_does_not_pass_for_it() {
    let Place { folder, data_dir, newest, .. } = rolled_back();
    let into = folder.path().join("anew");
    let evidence = folder.path().join("old.json");
    let trust = folder.path().join("trust");
    runtime().block_on(async {
        let world = World::open(&newest).await;
        let server = format!("http://{}", world.address);
        let (trust, evidence) = (trust.clone(), evidence.clone());
        let ask = move || {
            let arguments = ["--server", &server, "--trust", path(&trust), "at", "registry.example/team/app:t1"];
            tagledger(&[&arguments[..], &["--save", path(&evidence)]].concat())
        };
        let printed = tokio::task::spawn_blocking(ask).await.expect("it runs");
        assert!(printed.status.success(), "{}", said(&printed));
        world.stop().await;
    });
    let arguments =
        ["restore", "--data-dir", path(&data_dir), "--new-origin", "ledger.example/second", "--into", path(&into)];
    let before = all_rows(&data_dir);
    let printed = tagledgerd(&arguments);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    for words in ["ledger.example/second", "Clients must pin its key", "prove nothing about the new log"] {
        assert!(said(&printed).contains(words), "{}", said(&printed));
    }
    assert!(all_rows(&data_dir) == before, "the old one stays as it was");
    let again = tagledgerd(&arguments);
    assert!(again.status.code() == Some(1) && said(&again).contains("is there already"), "{}", said(&again));
    let fsck = tagledgerd(&["fsck", "--data-dir", path(&into)]);
    assert_eq!(fsck.status.code(), Some(0), "{}", said(&fsck));
    let count = |rows: &[(Table, Vec<u8>, Vec<u8>)]| rows.iter().filter(|(table, ..)| *table == Table::Entries).count();
    let kept = count(&before);
    // It goes on, with the token that wrote before, and holds what was bound before.
    let entries = append(&into, 3..6);
    assert_eq!(entries.len(), kept + 6);
    let vkey = fs::read_to_string(into.join("ledger.vkey")).expect("a key");
    let printed = tagledger(&["verify", path(&evidence), "--vkey", vkey.trim()]);
    assert_eq!(printed.status.code(), Some(3), "{}", said(&printed));
    assert!(said(&printed).contains("ledger.example/second"), "{}", said(&printed));
    let same =
        tagledgerd(&["restore", "--data-dir", path(&into), "--new-origin", "ledger.example/second", "--into", "x"]);
    assert!(said(&same).contains("a new origin is another one"), "{}", said(&same));
}

#[test]
fn a_running_ledger_is_backed_up_again_and_again_and_each_copy_is_a_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data_dir, to) = (folder.path().join("ledger"), folder.path().join("backup"));
    runtime().block_on(async {
        let world = World::open(&data_dir).await;
        let stop = std::sync::atomic::AtomicBool::new(false);
        let write = async {
            let mut number = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                world.recorded(&happened(&format!("w{number}"), &digest('b'))).await;
                number += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let backups = async {
            let mut before = 0;
            for round in 0..4 {
                tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
                let (data_dir, to) = (data_dir.clone(), to.clone());
                let backup = move || tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&to)]);
                let printed = tokio::task::spawn_blocking(backup).await.expect("it runs");
                assert_eq!(printed.status.code(), Some(0), "round {round}: {}", said(&printed));
                let size = said(&printed).split_whitespace().nth(2).and_then(|word| word.parse::<u64>().ok());
                let size = size.unwrap_or_else(|| panic!("{}", said(&printed)));
                assert!(size > before, "{}", said(&printed));
                assert!(said(&printed).contains(&format!("{size} entries, {} of them new", size - before)));
                before = size;
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        };
        tokio::join!(write, backups);
        world.stop().await;
    });
    for (file, mode) in [("ledger.key", 0o600), ("token", 0o600), ("tile/entries/000", 0o600)] {
        let path = to.join(file);
        if path.exists() {
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode, "{file}");
        }
    }
    assert_eq!(fs::metadata(&to).expect("there").permissions().mode() & 0o777, 0o700);
    assert!(!to.join("db").exists() && fs::read_dir(&to).expect("a folder").count() <= 7, "nothing else is left there");
    // The same command, stopped: what came since, and nothing again.
    let printed = tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&to)]);
    assert!(printed.status.success(), "{}", said(&printed));
    let printed = tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&to)]);
    assert!(said(&printed).contains("0 of them new; 0 bundles written"), "{}", said(&printed));
    // fsck looks at a backup, too.
    let printed = tagledgerd(&["fsck", "--data-dir", path(&to)]);
    assert!(printed.status.success() && said(&printed).contains("is whole"), "{}", said(&printed));
    let odd = folder.path().join("odd");
    copy(&to, &odd);
    let bundles = walk(&odd.join("tile"));
    let mut bytes = fs::read(&bundles[0]).expect("a bundle");
    bytes[40] ^= 1;
    fs::write(&bundles[0], bytes).expect("written");
    let printed = tagledgerd(&["fsck", "--data-dir", path(&odd)]);
    assert!(printed.status.code() == Some(3) && said(&printed).contains("DAMAGED"), "{}", said(&printed));
    // A machine is lost, and nothing but the backup is left: somebody has to say that it is the newest.
    let new = folder.path().join("new");
    let printed = tagledgerd(&["restore", "--data-dir", path(&new), "--from", path(&to)]);
    assert!(printed.status.code() == Some(1) && said(&printed).contains("--checkpoint"), "{}", said(&printed));
    assert!(is_refused_at_the_start(&new).contains("high-water is missing"), "keys alone begin no second log");
    let newest = data_dir.join("high-water");
    let printed =
        tagledgerd(&["restore", "--data-dir", path(&new), "--from", path(&to), "--checkpoint", path(&newest)]);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert!(all_rows(&new) == all_rows(&data_dir), "table by table it is the same ledger");
    append(&new, 0..2);
}

#[test]
fn a_backup_never_loses_what_an_earlier_one_had() {
    let Place { folder, data_dir, newest, .. } = rolled_back();
    let to = folder.path().join("backup");
    let good = tagledgerd(&["backup", "--data-dir", path(&newest), "--to", path(&to), "--without-key"]);
    assert!(good.status.success(), "{}", said(&good));
    assert!(!to.join("ledger.key").exists() && !to.join("token").exists());
    let note = fs::read(to.join("checkpoint")).expect("there");
    // The database was rolled back, and its mark was not.
    let refused = tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&to)]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("tagledgerd restore"), "{}", said(&refused));
    // Both were.
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let older = rows::head(&store).expect("read").expect("a head").checkpoint;
    drop(store);
    fs::write(data_dir.join("high-water"), older).expect("written");
    let refused = tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&to)]);
    assert!(
        refused.status.code() == Some(1) && said(&refused).contains("was an older copy put back?"),
        "{}",
        said(&refused)
    );
    assert_eq!(fs::read(to.join("checkpoint")).expect("there"), note);
}

#[test]
fn a_backup_of_another_history_changes_nothing_of_an_earlier_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other, to) = (folder.path().join("one"), folder.path().join("other"), folder.path().join("backup"));
    append(&one, 0..1);
    copy(&one, &other);
    append(&one, 1..4);
    append(&other, 4..20);
    let good = tagledgerd(&["backup", "--data-dir", path(&one), "--to", path(&to)]);
    assert!(good.status.success(), "{}", said(&good));
    let lock = to.join("lock");
    let files = || walk(&to).into_iter().filter(|file| *file != lock);
    let bytes = || files().map(|file| (fs::read(&file).expect("there"), file)).collect::<Vec<_>>();
    let before = bytes();
    let refused = tagledgerd(&["backup", "--data-dir", path(&other), "--to", path(&to)]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("root"), "{}", said(&refused));
    let (mut before, mut after) = (before, bytes());
    before.sort();
    after.sort();
    assert!(before == after, "something was changed");
}

#[test]
fn a_rebuilt_ledger_is_the_same_table_by_table_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data_dir, into) = (folder.path().join("ledger"), folder.path().join("rebuilt"));
    let entries = append(&data_dir, 0..20);
    let healthy = all_rows(&data_dir);
    // Everything but the entries is lost or wrong; the checkpoint too.
    let change = |change: &dyn Fn(&mut Batch)| {
        let store = RocksStore::open(&data_dir.join("db")).expect("opened");
        let mut batch = Batch::default();
        change(&mut batch);
        store.commit(rows::tree_size(&store).expect("read"), batch).expect("written");
    };
    change(&|batch| {
        for (table, key, _) in &healthy {
            match table {
                Table::Entries => {}
                Table::Nodes => batch.put(*table, key.as_slice(), [1; 32]),
                _ => batch.delete(*table, key.as_slice()),
            }
        }
    });
    let fsck = tagledgerd(&["fsck", "--data-dir", path(&data_dir)]);
    assert_eq!(fsck.status.code(), Some(3), "{}", said(&fsck));
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&into)]);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert!(said(&printed).contains("not derived: signatures of others below the checkpoint"), "{}", said(&printed));
    assert!(all_rows(&into) == healthy, "table by table");
    assert_eq!(append(&into, 20..22)[..entries.len()], entries);
    // An entry is lost: what came before it is all that can be derived, and that is said.
    let lost = 9u64.to_be_bytes();
    change(&|batch| {
        for (table, key, value) in &healthy {
            batch.put(*table, key.as_slice(), value.as_slice());
        }
    });
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let mut batch = Batch::default();
    batch.delete(Table::Entries, lost);
    store.commit(rows::tree_size(&store).expect("read"), batch).expect("written");
    drop(store);
    let partly = folder.path().join("partly");
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&partly)]);
    assert_eq!(printed.status.code(), Some(3), "{}", said(&printed));
    assert!(
        said(&printed).contains("not derived: everything from entry 9 on: entry 9 is missing"),
        "{}",
        said(&printed)
    );
    assert!(is_refused_at_the_start(&partly).contains("tagledgerd restore"));
    let printed = tagledgerd(&["restore", "--data-dir", path(&partly), "--from", path(&partly.join("db"))]);
    assert_eq!(printed.status.code(), Some(1), "{}", said(&printed));
    // With what is lost from another copy, it is the ledger again.
    let backup = folder.path().join("backup");
    let printed = tagledgerd(&["backup", "--data-dir", path(&into), "--to", path(&backup)]);
    assert!(printed.status.success(), "{}", said(&printed));
    // It is newer than where the ledger was stopped in order, so somebody has to say that it is the newest.
    let arguments = ["restore", "--data-dir", path(&partly), "--from", path(&backup)];
    let printed = tagledgerd(&arguments);
    assert!(printed.status.code() == Some(1) && said(&printed).contains("--checkpoint"), "{}", said(&printed));
    let newest = into.join("high-water");
    let printed = tagledgerd(&[&arguments[..], &["--checkpoint", path(&newest)]].concat());
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert_eq!(append(&partly, 0..0)[..entries.len()], entries);
}

#[test]
fn a_ledger_that_was_killed_is_restored_only_when_somebody_says_what_the_newest_checkpoint_is() {
    let Killed { folder, data_dir, backup, mirror, newest, older, entries } = killed();
    let known = opened(&fs::read_to_string(&newest).expect("there"), &data_dir);
    fs::rename(data_dir.join("db"), folder.path().join("lost")).expect("lost");
    let before = walk(&data_dir);
    for copy in [&backup, &mirror] {
        let refused = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(copy)]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        for words in ["more may have been acknowledged after it", "--checkpoint FILE", "--new-origin"] {
            assert!(said(&refused).contains(words), "{words}: {}", said(&refused));
        }
        assert_eq!(walk(&data_dir), before, "nothing was changed");
        // One that is older than what is known says nothing about the newest.
        let arguments = ["restore", "--data-dir", path(&data_dir), "--from", path(copy), "--checkpoint", path(&older)];
        let refused = tagledgerd(&arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("more may have been acknowledged after it"), "{}", said(&refused));
        assert_eq!(walk(&data_dir), before, "nothing was changed");
    }
    // The newest that a client saw is not reached by every copy.
    let restore = |copy: &Path| {
        let arguments = ["restore", "--data-dir", path(&data_dir), "--checkpoint", path(&newest), "--from", path(copy)];
        tagledgerd(&arguments)
    };
    let refused = restore(&backup);
    assert!(said(&refused).contains("is in none of the copies"), "{}", said(&refused));
    let printed = restore(&mirror);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert_eq!(mark(&data_dir), known);
    assert_eq!(append(&data_dir, 200..202)[..entries.len()], entries);
}

#[test]
fn that_a_ledger_was_stopped_in_order_is_noted_beside_its_mark_and_taken_back_before_it_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data_dir, elsewhere) = (folder.path().join("ledger"), folder.path().join("another-disk"));
    fs::create_dir(&elsewhere).expect("made");
    append(&data_dir, 0..1);
    let closed = data_dir.join("high-water.closed");
    let note = |path: &Path| fs::read_to_string(path).expect("there");
    assert_eq!(note(&closed), note(&data_dir.join("high-water")));
    // The mark moves to another disk: neither place claims anything while the ledger is served.
    let moved = elsewhere.join("mark");
    fs::copy(data_dir.join("high-water"), &moved).expect("copied");
    let config = Config { high_water: Some(moved.clone()), ..Config::default() };
    runtime().block_on(async {
        let world = World::open_with(&data_dir, config).await;
        assert!(!closed.exists() && !elsewhere.join("mark.closed").exists());
        world.recorded(&happened("v1", &digest('a'))).await;
        assert!(!closed.exists() && !elsewhere.join("mark.closed").exists());
        world.stop().await;
    });
    assert!(!closed.exists(), "the mark is not there any more");
    assert_eq!(note(&elsewhere.join("mark.closed")), note(&moved));
    // Another mark than the one it was closed at says nothing.
    let Place { folder, data_dir, newest, .. } = rolled_back();
    let backup = folder.path().join("backup");
    let printed = tagledgerd(&["backup", "--data-dir", path(&newest), "--to", path(&backup), "--quick"]);
    assert!(printed.status.success(), "{}", said(&printed));
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let older = rows::head(&store).expect("read").expect("a head").checkpoint;
    drop(store);
    fs::write(data_dir.join("high-water.closed"), older).expect("written");
    let refused = tagledgerd(&["restore", "--data-dir", path(&data_dir), "--from", path(&backup)]);
    assert!(said(&refused).contains("more may have been acknowledged"), "{}", said(&refused));
}

#[test]
fn an_entry_beyond_the_newest_checkpoint_says_that_more_was_recorded() {
    let Killed { folder, data_dir, backup, mirror, entries, .. } = killed();
    let known = mark(&data_dir);
    let marked = folder.path().join("marked");
    fs::copy(data_dir.join("high-water"), &marked).expect("copied");
    // The database lost its head, and has the entries still.
    change(&data_dir, |batch| batch.delete(Table::Meta, rows::KEY_HEAD));
    let restore = |data_dir: &Path, from: &Path| {
        let arguments = ["restore", "--data-dir", path(data_dir), "--from", path(from), "--checkpoint", path(&marked)];
        let printed = tagledgerd(&arguments);
        assert_eq!(printed.status.code(), Some(1), "{}", said(&printed));
        let words = format!("has entry {}, which the ledger signed", known.size);
        assert!(said(&printed).contains(&words), "{}", said(&printed));
    };
    restore(&data_dir, &backup);
    // A backup was cut short before it had its new checkpoint.
    fs::copy(backup.join("checkpoint"), mirror.join("checkpoint")).expect("copied");
    fs::rename(data_dir.join("db"), folder.path().join("lost")).expect("lost");
    restore(&data_dir, &mirror);
    assert!(entries.len() as u64 > known.size);
}

#[test]
fn a_restore_that_is_killed_anywhere_is_refused_at_the_start_or_done_and_can_be_repeated() {
    let Place { folder, data_dir, newest, entries } = rolled_back();
    let backup = folder.path().join("backup");
    let printed = tagledgerd(&["backup", "--data-dir", path(&newest), "--to", path(&backup), "--quick"]);
    assert!(printed.status.success(), "{}", said(&printed));
    let known = mark(&data_dir);
    // The mark was rolled back too, and somebody knows a newer checkpoint.
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let older = rows::head(&store).expect("read").expect("a head").checkpoint;
    drop(store);
    fs::write(data_dir.join("high-water"), older).expect("written");
    let newest = newest.join("high-water");
    let arguments = |tried: &Path| {
        let arguments = ["restore", "--from", path(&backup), "--checkpoint", path(&newest), "--data-dir", path(tried)];
        arguments.map(str::to_owned)
    };
    let (mut places, mut is_done) = (0, false);
    while !is_done {
        places += 1;
        let tried = folder.path().join("tried");
        copy(&data_dir, &tried);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e"]);
        strace.arg(format!("inject=rename:signal=KILL:when={places}"));
        strace.arg(env!("CARGO_BIN_EXE_tagledgerd")).args(arguments(&tried));
        is_done = strace.output().expect("strace is installed").status.success();
        // Either nothing has happened yet, or nothing is signed any more but what follows the newest checkpoint.
        let notes = tempfile::tempdir().expect("a folder");
        let database = RocksStore::open_read_only(&tried.join("db"), notes.path());
        let is_there = database.is_ok_and(|store| rows::tree_size(&store) == Ok(known.size));
        let is_known = mark(&tried) == known;
        assert!(is_known || !is_there, "killed at rename {places}: the database is beyond its mark");
        if is_known && !is_there {
            is_refused_at_the_start(&tried);
        }
        let printed = Command::new(env!("CARGO_BIN_EXE_tagledgerd")).args(arguments(&tried)).output().expect("it runs");
        assert_eq!(printed.status.code(), Some(0), "killed at rename {places}: {}", said(&printed));
        assert_eq!(mark(&tried), known);
        assert_eq!(append(&tried, 300..301)[..entries.len()], entries, "killed at rename {places}");
    }
    println!("killed at each of {} renames", places - 1);
    assert!(places > 5, "{places}");
}

#[test]
fn every_checkpoint_that_clients_saved_is_held_against_the_entries() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (data_dir, forked, saved, backup) = (at("ledger"), at("forked"), at("saved"), at("backup"));
    append(&data_dir, 0..3);
    copy(&data_dir, &forked);
    copy(&data_dir.join("db"), &at("older-db"));
    append(&data_dir, 3..20);
    // A second history under the same key, that is shorter.
    append(&forked, 50..52);
    fs::create_dir(&saved).expect("made");
    for (directory, name) in [(&data_dir, "one"), (&forked, "other")] {
        runtime().block_on(async {
            let world = World::open(directory).await;
            let (server, trust) = (format!("http://{}", world.address), at(&format!("trust-{name}")));
            let file = saved.join(format!("{name}.json"));
            let save =
                move || tagledger(&["--server", &server, "--trust", path(&trust), "entry", "1", "--save", path(&file)]);
            let printed = tokio::task::spawn_blocking(save).await.expect("it runs");
            assert!(printed.status.success(), "{}", said(&printed));
            world.stop().await;
        });
    }
    let printed = tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup), "--quick"]);
    assert!(printed.status.success(), "{}", said(&printed));
    copy(&at("older-db"), &data_dir.join("db"));
    let arguments = ["restore", "--data-dir", path(&data_dir), "--from", path(&backup), "--from", path(&saved)];
    let printed = tagledgerd(&arguments);
    assert!(said(&printed).contains("these are not copies of one log"), "{}", said(&printed));
    fs::remove_file(saved.join("other.json")).expect("removed");
    let printed = tagledgerd(&arguments);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
}

#[test]
fn a_ledger_that_lost_its_last_entries_is_not_rebuilt_as_whole() {
    let Killed { folder, data_dir, mirror, newest, entries, .. } = killed();
    let note = fs::read_to_string(&newest).expect("there");
    let known = opened(&note, &data_dir);
    let headless = folder.path().join("headless");
    copy(&data_dir, &headless);
    // What came after the mark is damaged, and the head is not: so far the ledger came.
    let lost = mark(&data_dir).size + 1;
    change(&data_dir, |batch| batch.delete(Table::Entries, lost.to_be_bytes()));
    let into = folder.path().join("rebuilt");
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&into)]);
    assert_eq!(printed.status.code(), Some(3), "{}", said(&printed));
    assert!(said(&printed).contains(&format!("entry {lost} is missing")), "{}", said(&printed));
    assert_eq!(mark(&into), known, "the newest checkpoint that is known is its mark");
    assert!(is_refused_at_the_start(&into).contains(&format!("a checkpoint over {} entries", known.size)));
    // From the head it is known that it came so far, and not that this was the last.
    let arguments = ["restore", "--data-dir", path(&into), "--from", path(&mirror)];
    let refused = tagledgerd(&arguments);
    assert!(said(&refused).contains("more may have been acknowledged"), "{}", said(&refused));
    let printed = tagledgerd(&[&arguments[..], &["--checkpoint", path(&newest)]].concat());
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert_eq!(append(&into, 300..301)[..entries.len()], entries);
    // The head is lost: all entries that are there are no sign that these are all.
    change(&headless, |batch| batch.delete(Table::Meta, rows::KEY_HEAD));
    let into = folder.path().join("rebuilt-without-a-head");
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&headless), "--into", path(&into)]);
    assert_eq!(printed.status.code(), Some(3), "{}", said(&printed));
    assert!(said(&printed).contains("which checkpoint is the newest that was signed"), "{}", said(&printed));
    assert!(is_refused_at_the_start(&into).contains("high-water is missing"));
    fs::write(into.join("high-water"), note).expect("written");
    assert_eq!(append(&into, 300..301)[..entries.len()], entries);
    // Nor is a gap the end.
    change(&headless, |batch| batch.delete(Table::Entries, lost.to_be_bytes()));
    let into = folder.path().join("rebuilt-with-a-gap");
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&headless), "--into", path(&into)]);
    assert_eq!(printed.status.code(), Some(3), "{}", said(&printed));
    assert!(said(&printed).contains(&format!("entry {lost} is missing")), "{}", said(&printed));
}

#[test]
fn a_rebuild_of_a_ledger_that_was_killed_does_not_say_that_it_was_stopped_in_order() {
    let Killed { folder, data_dir, entries, .. } = killed();
    let into = folder.path().join("rebuilt");
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&into)]);
    assert_eq!(printed.status.code(), Some(3), "{}", said(&printed));
    assert!(said(&printed).contains("which checkpoint is the newest that was signed"), "{}", said(&printed));
    assert!(!said(&printed).contains("it is whole"), "{}", said(&printed));
    assert!(into.join("high-water").exists() && !into.join("high-water.closed").exists());
    assert!(mark(&into).size >= mark(&data_dir).size);
    // It goes on as the one that was killed would have.
    let now = append(&into, 300..301);
    let known = entries.len().min(now.len() - 2);
    assert_eq!(now[..known], entries[..known]);
}

#[test]
fn what_is_written_beside_a_file_has_its_whole_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data_dir, marks) = (folder.path().join("ledger"), folder.path().join("marks"));
    fs::create_dir(&data_dir).expect("made");
    fs::create_dir(&marks).expect("made");
    // What another ledger, or another file of this one, is just writing there.
    let others = [data_dir.join("ledger.new"), marks.join("ledger.new")];
    others.iter().for_each(|other| fs::write(other, "of another").expect("written"));
    let config = Config { high_water: Some(marks.join("ledger.prod")), ..Config::default() };
    runtime().block_on(async {
        let world = World::open_with(&data_dir, config).await;
        world.recorded(&happened("v1", &digest('a'))).await;
        world.stop().await;
    });
    assert!(data_dir.join("ledger.key").exists() && marks.join("ledger.prod.closed").exists());
    for other in others {
        assert_eq!(fs::read_to_string(&other).ok().as_deref(), Some("of another"), "{}", other.display());
    }
}

#[test]
fn two_backups_into_one_folder_do_not_interleave() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data_dir, to) = (folder.path().join("ledger"), folder.path().join("backup"));
    append(&data_dir, 0..2);
    fs::create_dir(&to).expect("made");
    let lock = fs::File::create(to.join("lock")).expect("made");
    lock.try_lock().expect("free");
    let arguments = ["backup", "--data-dir", path(&data_dir), "--to", path(&to)];
    let refused = tagledgerd(&arguments);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("the backup in"), "{}", said(&refused));
    assert!(said(&refused).contains("is in use by"), "{}", said(&refused));
    assert_eq!(walk(&to), [to.join("lock")], "nothing was written");
    drop(lock);
    let printed = tagledgerd(&arguments);
    assert!(printed.status.success(), "{}", said(&printed));
}

#[test]
fn a_directory_that_is_in_use_gets_no_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (data_dir, to, new) = (at("ledger"), at("backup"), at("new"));
    append(&data_dir, 0..2);
    let printed = tagledgerd(&["backup", "--data-dir", path(&data_dir), "--to", path(&to), "--quick"]);
    assert!(printed.status.success(), "{}", said(&printed));
    fs::create_dir(&new).expect("made");
    let lock = fs::File::create(new.join("lock")).expect("made");
    lock.try_lock().expect("free");
    let newest = to.join("checkpoint");
    let arguments = ["restore", "--data-dir", path(&new), "--from", path(&to), "--checkpoint", path(&newest)];
    let refused = tagledgerd(&arguments);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("is in use by"), "{}", said(&refused));
    assert_eq!(walk(&new), [new.join("lock")], "nothing was written");
    drop(lock);
    let printed = tagledgerd(&arguments);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
}

#[test]
fn a_database_on_another_disk_is_restored_there_and_the_link_stays() {
    let Place { folder, data_dir, newest, entries } = rolled_back();
    let at = |name: &str| folder.path().join(name);
    let (disk, backup, link) = (at("disk"), at("backup"), data_dir.join("db"));
    let printed = tagledgerd(&["backup", "--data-dir", path(&newest), "--to", path(&backup), "--quick"]);
    assert!(printed.status.success(), "{}", said(&printed));
    fs::create_dir(&disk).expect("made");
    let real = disk.join("tags");
    fs::rename(&link, &real).expect("moved");
    std::os::unix::fs::symlink(disk.join("nothing"), &link).expect("linked");
    let arguments = ["restore", "--data-dir", path(&data_dir), "--from", path(&backup)];
    let refused = tagledgerd(&arguments);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("leads nowhere"), "{}", said(&refused));
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    let printed = tagledgerd(&arguments);
    assert_eq!(printed.status.code(), Some(0), "{}", said(&printed));
    assert_eq!(fs::read_link(&link).expect("still a link"), real);
    assert!(disk.join("tags.before-restore-1").is_dir() && !data_dir.join("db.before-restore-1").exists());
    assert_eq!(append(&data_dir, 300..301)[..entries.len()], entries);
    // What is rebuilt lies elsewhere, and that is said.
    let into = at("rebuilt");
    let printed = tagledgerd(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&into)]);
    assert!(printed.status.success() && said(&printed).contains("is a link"), "{}", said(&printed));
    assert_eq!(fs::read_link(&link).expect("still a link"), real);
}
