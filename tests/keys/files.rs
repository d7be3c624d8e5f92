//! The files of the keys: where they are kept, that they follow the log or health says why not, and when a private key goes.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU64, Ordering};

use tagledger::engine::clock::Bounds;
use tagledger::engine::{Defect, Ledger, Options};
use tagledger::server::data_dir::DataDir;
use tagledger::server::keys;
use tagledger::store::Store;
use tagledger::store::memory::MemoryStore;

use super::*;

const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;
const START_US: u64 = 1_767_225_600_000_000;

fn lines(note: &str) -> usize {
    note.split_once("\n\n").expect("signed").1.lines().count()
}

/// The status of `/readyz`, and what it says.
fn ready(server: &Server) -> String {
    let address = format!("{}/readyz", server.address);
    let printed = Command::new("curl").args(["-s", "-w", "%{http_code}", &address]).output().expect("curl");
    String::from_utf8(printed.stdout).expect("text")
}

#[test]
fn private_keys_behind_a_link_stay_where_somebody_put_them() {
    let place = Place::new();
    Server::start(&place.data_dir, 0).stop();
    let (file, real) = (place.data_dir.join("ledger.key"), place.at("elsewhere").join("keys"));
    fs::create_dir(place.at("elsewhere")).expect("made");
    fs::rename(&file, &real).expect("moved");
    symlink(&real, &file).expect("linked");
    let server = Server::start(&place.data_dir, 0);
    let first = fs::read_to_string(&real).expect("readable");
    let second = place.change_key(&server, "admin");
    soon("the old key goes", || fs::read_to_string(&real).is_ok_and(|text| text.lines().count() == 1));
    assert_ne!(fs::read_to_string(&real).expect("readable"), first);
    assert_eq!(fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(file.is_symlink(), "the directory holds the link, and no private key");
    server.stop();
    let server = Server::start(&place.data_dir, 0);
    assert_eq!(place.vkey(), second);
    place.push(&server, "admin", "v1");
}

#[test]
fn health_says_that_the_files_cannot_be_put_in_place_until_they_are() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    let first = place.vkey();
    assert!(ready(&server).ends_with("200"), "{}", ready(&server));
    // Nothing can be written under the name of a folder.
    let in_the_way = place.data_dir.join("earlier.vkeys.new");
    fs::create_dir(&in_the_way).expect("made");
    let second = place.change_key(&server, "admin");
    soon("health says so", || ready(&server).ends_with("503"));
    let told = ready(&server);
    assert!(told.contains("the files of the ledger's keys can't be brought up to date"), "{told}");
    assert!(told.contains("earlier.vkeys.new"), "{told}");
    // What counts is the log, and it goes on.
    place.push(&server, "admin", "v1");
    assert_eq!(place.vkey(), first);
    fs::remove_dir(&in_the_way).expect("removed");
    soon("health is well again", || ready(&server).ends_with("200"));
    assert_eq!((place.vkey(), place.text("earlier.vkeys").trim()), (second, first.to_string().as_str()));
}

#[test]
fn a_second_change_ends_the_time_of_the_first_key() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    let first = place.vkey();
    let second = place.change_key(&server, "admin");
    soon("the files follow", || place.vkey() == second);
    let prepared =
        tagledgerd().args(["key", "prepare", "--data-dir", path(&place.data_dir)]).output().expect("it runs");
    let told = good(prepared);
    assert!(told.contains(&format!("{first} still signs checkpoints, and does not once this is announced")), "{told}");
    let third = place.change_key(&server, "admin");
    place.push(&server, "admin", "v1");
    let note = server.checkpoint();
    assert_eq!(lines(&note), 2);
    for (vkey, signs) in [(&first, false), (&second, true), (&third, true)] {
        assert_eq!(Checkpoint::open(&note, vkey).is_ok(), signs, "{vkey}");
    }
    soon("the first private key goes", || place.text("ledger.key").lines().count() == 2);
    assert_eq!(place.text("earlier.vkeys"), format!("{first}\n{second}\n"));
}

#[test]
fn a_clock_that_is_not_to_be_believed_retires_no_key() {
    let place = Place::new();
    let directory = DataDir::open(&place.data_dir, None).expect("made");
    let clock = Arc::new(AtomicU64::new(START_US));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let private_keys = || place.text("ledger.key").lines().count();
    runtime.block_on(async {
        let open = |store: &Arc<MemoryStore>| {
            let reading = Arc::clone(&clock);
            Ledger::open(Options {
                store: Arc::clone(store) as Arc<dyn Store>,
                keys: directory.read_keys(),
                key_overlap_us: DAY_US,
                has_begun: false,
                high_water: None,
                clock: Arc::new(move || reading.fetch_add(1000, Ordering::SeqCst)),
                clock_bounds: Bounds::default(),
                kept_map: None,
            })
            .expect("opened")
        };
        let store = Arc::new(MemoryStore::default());
        let ledger = open(&store);
        // What the service does with the files, begun anew each time: so it looks at once.
        let look = async |ledger: &Ledger| {
            let overlap = Duration::from_secs(24 * 60 * 60);
            let following = tokio::spawn(keys::follow(place.data_dir.clone(), ledger.clone(), overlap));
            tokio::time::sleep(Duration::from_millis(300)).await;
            following.abort();
            let _ = following.await;
        };
        let record = async |ledger: &Ledger, kind| {
            let statement = proto::Statement { kind: Some(kind), ..Default::default() };
            let appended = ledger.append(vec![own(&statement)]).await.expect("recorded");
            lines(&appended.committed.head.checkpoint)
        };
        let delete = |tag: &str| {
            proto::statement::Kind::TagDelete(proto::TagDelete {
                registry: "registry.example".into(),
                repository: "team/app".into(),
                tag: tag.into(),
                disposition: proto::Disposition::Happened.into(),
                settles: 0,
            })
        };
        let change = BASE64.decode(place.prepare()).expect("base64");
        let change = proto::KeyChange::decode(change.as_slice()).expect("a change");
        assert_eq!(record(&ledger, proto::statement::Kind::KeyChange(change)).await, 2);
        look(&ledger).await;
        assert_eq!((record(&ledger, delete("a")).await, private_keys()), (2, 2));

        // Two months at once: the clock alarm is on, and nobody knows whether the day is over.
        clock.store(START_US + 60 * DAY_US, Ordering::SeqCst);
        look(&ledger).await;
        assert_eq!(private_keys(), 2, "while nothing is recorded");
        // Nor does anybody for all that is recorded while it stays there.
        for tag in ["b", "c", "d"] {
            assert_eq!(record(&ledger, delete(tag)).await, 2, "{tag}");
            assert!(ledger.clock_alarm(), "{tag}");
            look(&ledger).await;
            assert_eq!(private_keys(), 2, "{tag}");
        }
        // Set right it is far behind, which is an alarm too.
        clock.store(START_US + 2 * DAY_US, Ordering::SeqCst);
        assert_eq!(record(&ledger, delete("e")).await, 2);
        look(&ledger).await;
        assert_eq!((ledger.clock_alarm(), private_keys()), (true, 2));
        clock.store(START_US + 61 * DAY_US, Ordering::SeqCst);
        assert_eq!(record(&ledger, delete("f")).await, 2);
        look(&ledger).await;
        assert_eq!((ledger.clock_alarm(), private_keys()), (true, 2));

        // Whoever restarts under this clock says that it is right: it ends the time of the old key.
        ledger.close().await;
        drop(ledger);
        let ledger = open(&Arc::new(store.reopen()));
        assert_eq!(record(&ledger, delete("g")).await, 1);
        assert!(!ledger.clock_alarm());
        look(&ledger).await;
        assert_eq!(private_keys(), 1);

        // Files that are in place again make no bug well.
        ledger.set_defect(Defect::Bug, Some("a bug".into()));
        look(&ledger).await;
        assert_eq!(ledger.health(), Err("a bug".into()));
        ledger.close().await;
    });
}

#[test]
fn a_backup_waits_for_whoever_is_changing_the_keys() {
    let place = Place::new();
    let server = Server::start(&place.data_dir, 30);
    place.push(&server, "admin", "v1");
    server.stop();
    let lock = fs::File::open(place.data_dir.join("ledger.key.lock")).expect("the service made it");
    lock.lock().expect("locked");
    let to = place.at("backup");
    let mut backing = tagledgerd()
        .args(["backup", "--data-dir", path(&place.data_dir), "--to", path(&to)])
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    soon("it has come to the keys", || to.join("tile/entries").exists());
    std::thread::sleep(Duration::from_millis(500));
    assert!(backing.try_wait().expect("asked").is_none(), "it waits");
    assert!(!to.join("ledger.vkey").exists() && !to.join("ledger.key").exists());
    // Whoever holds it writes one file after the other.
    let key = Skey::from_seed(place.vkey().origin().clone(), &[5; 32]);
    fs::write(place.data_dir.join("ledger.key"), format!("{}{}\n", place.text("ledger.key"), *key.to_text()))
        .expect("written");
    drop(lock);
    assert!(backing.wait().expect("it ends").success());
    assert_eq!(fs::read_to_string(to.join("ledger.key")).expect("copied"), place.text("ledger.key"));
}
