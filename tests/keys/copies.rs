//! Copies and repairs of a ledger that changed its key, where one of the keys, or what tells of it, is lost.

use tagledger::ledger::entry::{Body, SignedEntry};
use tagledger::ledger::statement::Kind;
use tagledger::store::rocks::RocksStore;
use tagledger::store::{Batch, Store as _, Table, rows};

use super::*;

fn run(arguments: &[&str]) -> Output {
    tagledgerd().args(arguments).output().expect("it runs")
}

fn fsck(directory: &Path) -> String {
    good(run(&["fsck", "--data-dir", path(directory)]))
}

/// A ledger that changed its key once, between two pushes, and was stopped; its keys.
fn changed_once(overlap_days: u32) -> (Place, [Vkey; 2]) {
    let place = Place::new();
    let server = Server::start(&place.data_dir, overlap_days);
    let first = place.vkey();
    place.push(&server, "admin", "v1");
    let second = place.change_key(&server, "admin");
    place.push(&server, "admin", "v2");
    let private_keys = if overlap_days == 0 { 1 } else { 2 };
    soon("the files follow", || place.vkey() == second && place.text("ledger.key").lines().count() == private_keys);
    server.stop();
    (place, [first, second])
}

/// Takes a row out of a database that nobody has open.
fn remove(data_dir: &Path, table: Table, key: &[u8]) {
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let mut batch = Batch::default();
    batch.delete(table, key);
    store.commit(rows::tree_size(&store).expect("read"), batch).expect("written");
}

/// Where the key was changed.
fn change_index(data_dir: &Path) -> u64 {
    let store = RocksStore::open(&data_dir.join("db")).expect("opened");
    let is_change = |index: &u64| {
        let entry = SignedEntry::decode(&rows::entry(&store, *index).expect("there")).expect("an entry");
        matches!(entry.body, Body::Record(_, statement) if matches!(statement.kind, Kind::KeyChange { .. }))
    };
    (0..rows::tree_size(&store).expect("read")).find(is_change).expect("it was changed")
}

#[test]
fn without_the_file_of_earlier_keys_the_log_leads_back_to_them() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 0);
    let first = place.vkey();
    place.push(&server, "admin", "v1");
    let (data_dir, before, backup) = (place.data_dir.clone(), place.at("before"), place.at("backup"));
    soon("the mark follows", || {
        run(&["backup", "--data-dir", path(&data_dir), "--to", path(&before)]).status.success()
    });
    for round in 0..2 {
        place.change_key(&server, "admin");
        place.push(&server, "admin", &format!("v2-{round}"));
    }
    let newest = place.vkey();
    soon("the files follow", || place.text("earlier.vkeys").lines().count() == 2);
    server.stop();
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]));
    let lost = |directory: &Path| fs::remove_file(directory.join("earlier.vkeys")).expect("removed");
    lost(&data_dir);
    lost(&backup);
    for directory in [&data_dir, &backup] {
        let told = fsck(directory);
        assert!(told.contains(&format!("the log leads back to {first}")), "{told}");
    }
    let rebuilt = place.at("rebuilt");
    good(run(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&rebuilt)]));
    fsck(&rebuilt);
    // Also while copies are made.
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]));
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&before)]));

    // A copy that ends before the first change leads nowhere.
    let old = place.at("old");
    fs::rename(data_dir.join("db"), place.at("db")).expect("moved");
    let copied = Command::new("cp").args(["-r", path(&before), path(&old)]).status().expect("cp");
    assert!(copied.success());
    let note = Checkpoint { size: 3, root: [7; 32] };
    let key = Skey::from_seed(newest.origin().clone(), &[6; 32]);
    fs::write(old.join("checkpoint"), note.sign(&key)).expect("written");
    let told = refused(run(&["restore", "--data-dir", path(&data_dir), "--from", path(&old)]), 1);
    assert!(told.contains("earlier.vkeys is missing beside ledger.vkey") && told.contains("key show"), "{told}");

    // One that goes on beyond it does, also where it is not the first.
    good(run(&["restore", "--data-dir", path(&data_dir), "--from", path(&backup)]));
    fsck(&data_dir);
    let server = Server::start(&data_dir, 0);
    soon("the file is there again", || place.text("earlier.vkeys").lines().next() == Some(&first.to_string()));
    good(place.cli(&server, "late", &["--vkey", &first.to_string(), "audit"]));
}

#[test]
fn a_copy_from_before_the_change_says_which_file_is_missing() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 0);
    place.push(&server, "admin", "v1");
    server.stop();
    let (data_dir, before) = (place.data_dir.clone(), place.at("before"));
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&before)]));
    let server = Server::start(&data_dir, 0);
    place.change_key(&server, "admin");
    place.push(&server, "admin", "v2");
    soon("the files follow", || !place.text("earlier.vkeys").is_empty());
    let noted = place.text("earlier.vkeys");
    server.stop();
    fs::remove_file(data_dir.join("earlier.vkeys")).expect("removed");
    let restore =
        |more: &[&str]| run(&[&["restore", "--data-dir", path(&data_dir), "--from", path(&before)], more].concat());
    // As long as the database is there, it says.
    assert!(good(restore(&[])).contains("nothing to restore"));
    fs::rename(data_dir.join("db"), place.at("db")).expect("moved");
    let told = refused(restore(&[]), 1);
    assert!(told.contains("is of this ledger by its name") && told.contains("no key that is known here"), "{told}");
    assert!(told.contains("earlier.vkeys is missing beside ledger.vkey, or too short"), "{told}");
    assert!(told.contains("tagledger key show prints them"), "{told}");
    // And that helps as far as it can.
    fs::write(data_dir.join("earlier.vkeys"), noted).expect("written");
    let told = refused(restore(&[]), 1);
    assert!(told.contains("is in none of the copies"), "{told}");
}

#[test]
fn a_ledger_that_lost_its_newest_private_key_is_rebuilt_and_goes_on_under_another_name_only() {
    let (place, [_, second]) = changed_once(30);
    let data_dir = place.data_dir.clone();
    let old = place.text("ledger.key").lines().next().expect("a key").to_owned();
    fs::write(data_dir.join("ledger.key"), format!("{old}\n")).expect("written");
    assert!(place.refusal().contains("is not in ledger.key; put it back from a backup"));
    let told = refused(run(&["restore", "--data-dir", path(&data_dir)]), 1);
    assert!(told.contains(&format!("does not hold the private key of {second}")), "{told}");

    let (anew, rebuilt, headless) = (place.at("anew"), place.at("rebuilt"), place.at("headless"));
    let name = ["--new-origin", "ledger.example/again", "--into", path(&anew)];
    let told = good(run(&[&["restore", "--data-dir", path(&data_dir)], &name[..]].concat()));
    assert!(told.contains("is a new ledger"), "{told}");
    fsck(&anew);
    let again = Place { folder: tempfile::tempdir().expect("a folder"), data_dir: anew };
    let server = Server::start(&again.data_dir, 0);
    good(again.cli(&server, "x", &["audit"]));
    assert_ne!(again.change_key(&server, "x"), second);
    server.stop();

    // The checkpoint that was recorded needs no key.
    good(run(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&rebuilt)]));
    fsck(&rebuilt);
    // Where it is gone, nobody can sign it again.
    remove(&data_dir, Table::Meta, rows::KEY_HEAD);
    let told = refused(run(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&headless)]), 3);
    assert!(told.contains(&format!("the private key that was in force there ({second}) is not in")), "{told}");
}

#[test]
fn what_was_rebuilt_below_a_change_without_the_old_private_key_is_restored() {
    let (place, [first, second]) = changed_once(0);
    let (data_dir, backup, rebuilt) = (place.data_dir.clone(), place.at("backup"), place.at("rebuilt"));
    good(run(&["backup", "--data-dir", path(&data_dir), "--to", path(&backup)]));
    let index = change_index(&data_dir);
    remove(&data_dir, Table::Entries, &index.to_be_bytes());
    let told = refused(run(&["rebuild", "--data-dir", path(&data_dir), "--into", path(&rebuilt)]), 3);
    assert!(told.contains(&format!("everything from entry {index} on: entry {index} is missing")), "{told}");
    assert!(told.contains(&format!("the private key that was in force there ({first}) is not in")), "{told}");
    let moved = Place { folder: tempfile::tempdir().expect("a folder"), data_dir: rebuilt.clone() };
    moved.refusal();
    good(run(&["restore", "--data-dir", path(&rebuilt), "--from", path(&backup)]));
    fsck(&rebuilt);
    assert_eq!(moved.vkey(), second);
    let server = Server::start(&rebuilt, 0);
    moved.push(&server, "x", "v3");
    good(moved.cli(&server, "late", &["--vkey", &first.to_string(), "audit"]));
}

#[test]
fn evidence_by_a_key_that_is_not_known_is_refused_with_what_to_do() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 0);
    place.push(&server, "admin", "v1");
    server.stop();
    let (older, saved) = (place.at("older"), place.at("saved"));
    let copied = Command::new("cp").args(["-r", path(&place.data_dir), path(&older)]).status().expect("cp");
    assert!(copied.success());
    let server = Server::start(&place.data_dir, 0);
    place.change_key(&server, "admin");
    place.push(&server, "admin", "v2");
    fs::create_dir(&saved).expect("made");
    let file = saved.join("newest.json");
    good(place.cli(&server, "admin", &["history", "registry.example/team/app:v2", "--save", path(&file)]));
    server.stop();
    let told = refused(run(&["restore", "--data-dir", path(&older), "--from", path(&saved)]), 1);
    assert!(told.contains(path(&file)) && told.contains("no key that is known here opens its checkpoint"), "{told}");
    assert!(told.contains("give a copy with newer keys first"), "{told}");
    // Left out, as it says, it hinders nothing.
    fs::remove_file(&file).expect("removed");
    assert!(good(run(&["restore", "--data-dir", path(&older)])).contains("nothing to restore"));
}

/// Who asks for the keys first and for the checkpoint then misses a key that was announced in between.
#[test]
fn an_audit_during_which_the_key_is_changed_calls_nobody_a_liar() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    place.push(&server, "admin", "v1");
    let proxy = proxy::Proxy::before(server.address.trim_start_matches("http://"));
    let between = place.at("between");
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let audit = || place.offline("auditor", &["--server", &address, "audit"]);
    good(audit());
    // Whichever of the two is asked for first is answered as things were, and everything is different afterwards.
    let change = place.prepare();
    for method in ["GetCheckpoint", "GetKeys"] {
        let (server, data_dir, trust, change, between) =
            (server.address.clone(), place.data_dir.clone(), place.at("admin"), change.clone(), between.clone());
        let meanwhile = move || {
            if fs::OpenOptions::new().write(true).create_new(true).open(&between).is_err() {
                return;
            }
            let tell = |arguments: &[&str]| {
                let mut program = Command::new(env!("CARGO_BIN_EXE_tagledger"));
                program.env_clear().args(["--trust", path(&trust), "--server", &server]);
                good(
                    program
                        .args(["--token-file", path(&data_dir.join("token"))])
                        .args(arguments)
                        .output()
                        .expect("runs"),
                )
            };
            tell(&["key", "announce", &change]);
            let digest = format!("sha256:{}", "b".repeat(64));
            tell(&["record", "push", "registry.example/team/app:v2", "--digest", &digest]);
        };
        match method {
            "GetCheckpoint" => proxy.edit(method, move |_: &mut proto::GetCheckpointResponse| meanwhile()),
            _ => proxy.edit(method, move |_: &mut proto::GetKeysResponse| meanwhile()),
        }
    }
    good(audit());
    assert!(between.exists(), "the key was changed while it was audited");
    proxy.forward();
    assert!(good(audit()).contains("from entry"), "the next one sees both keys");
}
