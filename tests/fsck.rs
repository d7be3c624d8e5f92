//! `tagledgerd fsck`: every flipped bit of every row is found and named, and what RocksDB can't read is said, never a panic.

#![cfg(feature = "server")]

mod random;
mod rich;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use random::Random;
use tagledger::engine::check::{Findings, check, compare};
use tagledger::engine::clock::Bounds;
use tagledger::engine::derive::{Signers, examined};
use tagledger::engine::plan::Submission;
use tagledger::engine::{Ledger, Options};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::keys::KeyChange;
use tagledger::ledger::note::Skey;
use tagledger::proto::statement::Kind;
use tagledger::server::data_dir::Existing;
use tagledger::server::fsck::checked;
use tagledger::server::high_water::HighWater;
use tagledger::store::memory::MemoryStore;
use tagledger::store::rocks::RocksStore;
use tagledger::store::rows;
use tagledger::store::{Batch, Read, Store, Table};
use world::{World, delete_manifest, digest, happened, statement};

fn open(store: Arc<dyn Store>) -> Ledger {
    let clock = std::sync::atomic::AtomicU64::new(1_767_225_600_000_000);
    let tick = move || clock.fetch_add(1_000_000, std::sync::atomic::Ordering::SeqCst);
    Ledger::open(Options {
        store,
        keys: Arc::new(|| Ok(vec![rich::skey(), next_key()])),
        // For as long as it lasts, two keys sign.
        key_overlap_us: u64::MAX,
        has_begun: false,
        high_water: None,
        clock: Arc::new(tick),
        clock_bounds: Bounds::default(),
        kept_map: None,
    })
    .expect("it opens")
}

/// The key that it goes on with.
fn next_key() -> Skey {
    Skey::from_seed(rich::skey().origin().clone(), &[13; 32])
}

/// What is recorded: early on, the key is changed.
fn script() -> Vec<Vec<Submission>> {
    let mut script = rich::script();
    let change = KeyChange::to_next(&rich::skey().vkey(), &next_key());
    script.insert(2, vec![rich::own(&statement(Kind::KeyChange(change)))]);
    script
}

/// The small rich ledger, in memory.
fn small() -> MemoryStore {
    begun(usize::MAX)
}

/// The same, after so many requests.
fn begun(requests: usize) -> MemoryStore {
    let store = Arc::new(MemoryStore::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let ledger = open(Arc::clone(&store) as Arc<dyn Store>);
        for request in script().into_iter().take(requests) {
            ledger.append(request).await.expect("recorded");
        }
        ledger.close().await;
    });
    store.reopen()
}

fn mark_of(store: &dyn Read) -> Checkpoint {
    let head = rows::head(store).expect("readable").expect("a head");
    Checkpoint::open(&head.checkpoint, &rich::skey().vkey()).expect("signed")
}

/// The check of a database, as the command makes it.
fn fsck(store: &MemoryStore, mark: &Checkpoint) -> Findings {
    let beside = MemoryStore::default();
    check(store, &rich::skey().vkey(), Some(mark), &beside, &mut |_, _, _| {}).expect("it comes to an end")
}

fn changed(store: &MemoryStore, change: impl FnOnce(&mut Batch)) -> MemoryStore {
    let store = store.reopen();
    let mut batch = Batch::default();
    change(&mut batch);
    store.put_unchecked(batch);
    store
}

#[test]
fn a_ledger_with_something_of_everything_is_whole() {
    let store = small();
    let findings = fsck(&store, &mark_of(&store));
    assert_eq!(findings.damages, []);
    assert!(findings.is_whole());
    assert_eq!(findings.derived, findings.entries);
    // It is rich: every table has rows.
    assert!(findings.rows.iter().all(|(_, rows)| *rows > 1), "{:?}", findings.rows);
    assert_eq!(findings.rows.len(), Table::ALL.len());
}

/// The bits of a row's value, then those of its key, one at a time.
fn flips(key: &[u8], value: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let (key, value) = (key.to_vec(), value.to_vec());
    (0..(value.len() + key.len()) * 8).map(move |bit| {
        let (mut key, mut value) = (key.clone(), value.clone());
        match bit / 8 < value.len() {
            true => value[bit / 8] ^= 1 << (bit % 8),
            false => key[bit / 8 - value.len()] ^= 1 << (bit % 8),
        }
        (key, value)
    })
}

/// What is derived depends on entries and head alone, so a flip elsewhere is found, or not, by comparing its table with what
/// was derived once: the very function that the whole check ends with. The next two tests make whole checks.
#[test]
fn every_flipped_bit_of_every_derived_row_is_found_and_named() {
    let (store, beside) = (small(), MemoryStore::default());
    let mark = mark_of(&store);
    assert!(check(&store, &rich::skey().vkey(), Some(&mark), &beside, &mut |_, _, _| {}).expect("made").is_whole());
    let (beside, dump) = (&beside, &store.dump());
    let flipped: usize = std::thread::scope(|scope| {
        let tables = Table::ALL.into_iter().filter(|table| !matches!(table, Table::Entries | Table::Meta));
        let each = tables.map(|table| {
            let damaged = store.reopen();
            scope.spawn(move || {
                let rows = dump.iter().filter(|(of, ..)| *of == table);
                rows.map(|(_, key, value)| flip_every_bit(table, key, value, &damaged, beside)).sum::<usize>()
            })
        });
        each.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("found")).sum()
    });
    println!("{flipped} flips in derived rows found");
    assert!(flipped > 70_000, "the ledger is not rich: {flipped}");
}

/// Flips every bit of a row in turn, and puts it back.
fn flip_every_bit(table: Table, key: &[u8], value: &[u8], store: &MemoryStore, beside: &MemoryStore) -> usize {
    let mut flipped = 0;
    for (new_key, new_value) in flips(key, value) {
        let change = |from: &[u8], to: &[u8], value: &[u8]| {
            let mut batch = Batch::default();
            batch.delete(table, from);
            batch.put(table, to, value);
            store.put_unchecked(batch);
        };
        // The key of another row may be one bit away; that row is lost then, too.
        let other = if new_key == key { None } else { store.get(table, &new_key).expect("in memory") };
        change(key, &new_key, &new_value);
        let mut findings = Findings::default();
        compare(table, store, beside, true, &mut findings, &mut |_, _, _| {}).expect("compared");
        let named = findings.damages.iter().any(|damage| damage.key == key || damage.key == new_key);
        assert!(named && findings.damages.len() <= 2, "{table:?} {}: {findings:?}", hex::encode(key));
        change(&new_key, key, value);
        if let Some(other) = other {
            change(&new_key, &new_key, &other);
        }
        flipped += 1;
    }
    flipped
}

#[test]
fn every_flipped_bit_of_every_entry_is_found_by_its_own_signature() {
    let store = small();
    let mut flipped = 0;
    for (table, key, value) in store.dump() {
        if table != Table::Entries {
            continue;
        }
        let index = rows::index_of(&key).expect("an index");
        let all: Vec<Vec<u8>> = flips(&[], &value).map(|(_, value)| value).collect();
        for bytes in &all {
            let mut signers = Signers::new([rich::skey().vkey(), next_key().vkey()]);
            let result = examined(std::slice::from_ref(bytes), index, &mut signers);
            assert!(result[0].is_err(), "entry {index}");
        }
        flipped += all.len();
    }
    println!("{flipped} flips in entries found");
    assert!(flipped > 50_000, "{flipped}");
}

#[test]
fn every_flipped_bit_of_an_entrys_key_and_of_the_facts_is_found_by_a_whole_check() {
    // Each of them takes a whole check, so of a smaller ledger.
    let store = begun(4);
    let mark = mark_of(&store);
    let mut flipped = 0;
    for (table, key, value) in store.dump() {
        let value_of_facts = if table == Table::Meta { value.as_slice() } else { &[] };
        if !matches!(table, Table::Entries | Table::Meta) {
            continue;
        }
        for (new_key, new_value) in flips(&key, value_of_facts) {
            let new_value = if table == Table::Meta { new_value } else { value.clone() };
            let damaged = changed(&store, |batch| {
                batch.delete(table, key.as_slice());
                batch.put(table, new_key.as_slice(), new_value);
            });
            assert!(!fsck(&damaged, &mark).is_whole(), "{table:?} {}", hex::encode(&new_key));
            flipped += 1;
        }
    }
    println!("{flipped} flips in keys of entries and in facts found");
}

#[test]
fn flips_anywhere_are_found_by_a_whole_check_that_names_their_table() {
    let (store, mut random) = (small(), Random::new());
    let (mark, all) = (mark_of(&store), store.dump());
    for _ in 0..200 {
        let (table, key, value) = &all[usize::try_from(random.below(all.len() as u64)).expect("an index")];
        let count = (key.len() + value.len()) * 8;
        let at = usize::try_from(random.below(count as u64)).expect("a bit");
        let (new_key, new_value) = flips(key, value).nth(at).expect("a flip");
        let damaged = changed(&store, |batch| {
            batch.delete(*table, key.as_slice());
            batch.put(*table, new_key, new_value);
        });
        let findings = fsck(&damaged, &mark);
        let named = findings.damages.iter().any(|damage| damage.table == table.name());
        assert!(named, "{table:?} {}, bit {at}: {findings:?}", hex::encode(key));
    }
}

#[test]
fn every_row_deleted_and_a_row_added_to_every_table_is_found() {
    let store = small();
    let mark = mark_of(&store);
    for (table, key, _) in store.dump() {
        let damaged = changed(&store, |batch| batch.delete(table, key.as_slice()));
        let findings = fsck(&damaged, &mark);
        let named = findings.damages.iter().any(|damage| damage.table == table.name() && damage.key == key);
        assert!(named, "{table:?} {}: {findings:?}", hex::encode(&key));
    }
    for table in Table::ALL {
        for key in [vec![], vec![0xff; 3], vec![0xff; 8], vec![0xff; 40]] {
            let damaged = changed(&store, |batch| batch.put(table, key.as_slice(), [1]));
            let findings = fsck(&damaged, &mark);
            let named = findings.damages.iter().any(|damage| damage.table == table.name() && damage.key == key);
            assert!(named, "{table:?} {}: {findings:?}", hex::encode(&key));
        }
    }
}

#[test]
fn a_damaged_entry_is_named_and_what_does_not_hang_on_it_is_still_compared() {
    let store = small();
    let mark = mark_of(&store);
    let entry = rows::entry(&store, 20).expect("there");
    let damaged = changed(&store, |batch| {
        let mut entry = entry.clone();
        entry[30] ^= 1;
        batch.put(Table::Entries, 20u64.to_be_bytes(), entry);
        // And a node over the first entries, and a later entry.
        batch.delete(Table::Nodes, [&[0], &0u64.to_be_bytes()[..]].concat());
        batch.put(Table::Entries, 25u64.to_be_bytes(), b"nothing");
    });
    let findings = fsck(&damaged, &mark);
    let places: Vec<_> = findings.damages.iter().map(|damage| (damage.table, damage.place.as_str())).collect();
    assert_eq!(places, [("entries", "entry 20"), ("entries", "entry 25"), ("nodes", "nodes 0 to 15 on level 0")]);
    assert!(findings.damages[0].expected.contains("the entry with the leaf hash"), "{findings:?}");
    assert!(findings.derived > 10 && findings.derived <= 20, "{findings:?}");
}

#[test]
fn a_ledger_that_ends_before_its_mark_or_is_another_is_found() {
    let store = small();
    let mark = mark_of(&store);
    for other in [Checkpoint { size: mark.size + 2, ..mark }, Checkpoint { root: [1; 32], ..mark }] {
        let findings = fsck(&store, &other);
        assert_eq!(findings.counts, [("high-water", 1)]);
        assert!(findings.damages[0].expected.contains(&hex::encode(other.root)));
    }
}

#[test]
fn a_deletion_that_takes_several_entries_is_derived_as_it_was_recorded() {
    let store = Arc::new(MemoryStore::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let ledger = open(Arc::clone(&store) as Arc<dyn Store>);
        let tags = (0..600).map(|number| rich::own(&happened(&format!("t{number}"), &digest('a')))).collect();
        ledger.append(tags).await.expect("recorded");
        let receipts = ledger.append(vec![rich::own(&delete_manifest(&digest('a')))]).await.expect("recorded").receipts;
        assert_eq!(receipts[0].entry_count, 3);
        ledger.close().await;
    });
    assert_eq!(fsck(&store, &mark_of(&*store)).damages, []);
}

// The real program, and RocksDB's files.

/// A data directory with a small rich database of the real kind, closed.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let world = World::open(&data_dir).await;
        for number in 0..12 {
            world.recorded(&happened(&format!("t{}", number % 5), &digest('a'))).await;
        }
        world.stop().await;
    });
    (folder, data_dir)
}

fn program(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tagledgerd"));
    program.args(["fsck", "--data-dir"]).arg(data_dir).args(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn the_program_says_whole_or_names_the_damage_and_its_exit_code_tells() {
    let (_folder, data_dir) = place();
    let before = listing(&data_dir);
    let printed = program(&data_dir, &[]);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    assert!(text(&printed.stdout).contains("is whole: "), "{}", text(&printed.stdout));
    assert_eq!(listing(&data_dir), before, "it leaves everything as it was");
    // A bit of a history.
    let key = {
        let store = RocksStore::open(&data_dir.join("db")).expect("opened");
        let (key, mut value) = {
            let mut cursor = store.cursor(Table::Histories, &[]);
            let (key, value) = cursor.seek(&[]).expect("read").expect("a row");
            (key.to_vec(), value.to_vec())
        };
        value[0] ^= 4;
        let mut batch = Batch::default();
        batch.put(Table::Histories, key.as_slice(), value);
        store.commit(rows::tree_size(&store).expect("read"), batch).expect("written");
        hex::encode(key)
    };
    let printed = program(&data_dir, &[]);
    assert_eq!(printed.status.code(), Some(3));
    let said = text(&printed.stdout);
    let begins = format!("histories: version 0 of subject {}, ", &key[..64]);
    let line = said.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{said}"));
    assert!(line.ends_with(&format!(" (key {key})")) && line.len() > begins.len() + key.len() + 10, "{line}");
    assert!(said.contains("is DAMAGED"), "{said}");
    let printed = program(&data_dir, &["--json"]);
    assert_eq!(printed.status.code(), Some(3));
    let document: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(document["damages"][0]["key"], key.as_str());
    assert_eq!(document["is_whole"], false);
}

/// Names and contents of all files.
fn listing(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder).expect("a folder") {
        let path = file.expect("listed").path();
        match path.is_dir() {
            true => found.extend(listing(&path)),
            // Says who looks.
            false if path.ends_with("lock") => {}
            false => found.push((path.clone(), fs::read(path).expect("read"))),
        }
    }
    found.sort();
    found
}

#[test]
fn a_running_ledger_is_not_checked_and_a_directory_that_is_none_is_not_made_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let printed = program(&folder.path().join("nothing"), &[]);
    assert_eq!(printed.status.code(), Some(1));
    assert!(!folder.path().join("nothing").exists());
    let data_dir = folder.path().join("ledger");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let world = World::open(&data_dir).await;
        let printed = tokio::task::spawn_blocking(move || program(&data_dir, &[])).await.expect("it runs");
        assert_eq!(printed.status.code(), Some(1));
        assert!(text(&printed.stderr).contains("is in use by"), "{}", text(&printed.stderr));
        world.stop().await;
    });
}

#[test]
fn a_ledger_that_was_only_made_has_nothing_to_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let mut init = Command::new(env!("CARGO_BIN_EXE_tagledgerd"));
    let printed = init.args(["init", "--data-dir"]).arg(&data_dir).output().expect("it runs");
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    let has_nothing = || {
        let printed = program(&data_dir, &[]);
        assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stdout));
        assert!(text(&printed.stdout).contains("nothing is yet"), "{}", text(&printed.stdout));
    };
    has_nothing();
    // Its first start was cut short: before RocksDB had begun, and before there was an entry.
    fs::create_dir(data_dir.join("db")).expect("made");
    has_nothing();
    drop(RocksStore::open(&data_dir.join("db")).expect("opened"));
    has_nothing();
    // Once it has begun, as little as this is a loss.
    fs::write(data_dir.join("begun"), "").expect("written");
    assert_eq!(program(&data_dir, &[]).status.code(), Some(3));
}

#[test]
fn a_database_of_another_format_is_named_and_not_called_damaged() {
    let (_folder, data_dir) = place();
    let with_number = |number: u32| {
        let store = RocksStore::open(&data_dir.join("db")).expect("opened");
        let mut batch = Batch::default();
        batch.put(Table::Meta, b"format".as_slice(), number.to_be_bytes());
        store.commit(rows::tree_size(&store).expect("read"), batch).expect("written");
    };
    // All tables are those of this format: it is the number that is wrong.
    with_number(rows::FORMAT - 1);
    let printed = program(&data_dir, &[]);
    assert_eq!(printed.status.code(), Some(3), "{}", text(&printed.stderr));
    assert!(text(&printed.stdout).contains("meta: the format"), "{}", text(&printed.stdout));
    // One of them was another one's.
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    let tables = Table::ALL.map(Table::name).into_iter().chain(["history_nodes"]);
    drop(rocksdb::DB::open_cf(&options, data_dir.join("db"), tables).expect("opened"));
    let printed = program(&data_dir, &[]);
    assert_eq!(printed.status.code(), Some(1), "{}", text(&printed.stdout));
    let said = text(&printed.stderr);
    let (found, expected) = (format!("has format {}", rows::FORMAT - 1), format!("reads format {}", rows::FORMAT));
    assert!(said.contains(&found) && said.contains(&expected), "{said}");
    assert!(said.contains("go on with the tagledgerd that wrote it"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    for (path, content) in listing(from) {
        let path = to.join(path.strip_prefix(from).expect("inside"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("copied");
    }
    let key = to.join("ledger.key");
    if key.exists() {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).expect("set");
    }
}

type Rows = Vec<(Table, Vec<u8>, Vec<u8>)>;

fn all_rows(store: &dyn Read) -> Option<Rows> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let mut cursor = store.cursor(table, &[]);
        let mut row = cursor.seek(&[]).ok()?;
        while let Some((key, value)) = row {
            rows.push((table, key.to_vec(), value.to_vec()));
            row = cursor.next().ok()?;
        }
    }
    Some(rows)
}

fn in_files(data_dir: &Path) -> Option<Rows> {
    let notes = tempfile::tempdir().expect("a folder");
    all_rows(&RocksStore::open_read_only(&data_dir.join("db"), notes.path()).ok()?)
}

/// Damages copies of a data directory, and looks whether each is found, or harmless: every row reads as it was.
fn damage_files(data_dir: &Path, times: u64, mut random: Random) {
    let healthy = in_files(data_dir).expect("it reads");
    let folder = tempfile::tempdir().expect("a folder");
    let copied = folder.path().join("copy");
    copy(data_dir, &copied);
    let files: Vec<(PathBuf, Vec<u8>)> = listing(&copied.join("db"));
    let kinds = ["sst", "log", "MANIFEST", "CURRENT", "OPTIONS"];
    let mut tally = std::collections::BTreeMap::<_, (u32, u32)>::new();
    for round in 0..times {
        let kind = kinds[usize::try_from(round % 5).expect("small")];
        let of_kind: Vec<_> = files
            .iter()
            .filter(|(path, content)| {
                let name = path.file_name().expect("a name").to_string_lossy();
                !content.is_empty() && (name.starts_with(kind) || name.ends_with(&format!(".{kind}")))
            })
            .collect();
        if of_kind.is_empty() {
            continue;
        }
        let (path, content) = of_kind[usize::try_from(random.below(of_kind.len() as u64)).expect("an index")];
        let mut damaged = content.clone();
        let at = usize::try_from(random.below(content.len() as u64)).expect("an index");
        let what = match random.below(8) {
            0 => {
                damaged.truncate(at);
                "cut"
            }
            1 => {
                damaged.clear();
                "emptied"
            }
            bit => {
                damaged[at] ^= 1 << bit;
                "flipped"
            }
        };
        fs::write(path, &damaged).expect("written");
        let directory = Existing::open(&copied).expect("opened");
        let mark = HighWater::new(copied.join("high-water"));
        let findings = checked(&directory, &mark, folder.path(), &mut |_, _, _| {}).expect("it comes to an end");
        if findings.is_whole() {
            assert_eq!(in_files(&copied).as_ref(), Some(&healthy), "{what} at {at} of {}: silently", path.display());
            tally.entry(kind).or_default().1 += 1;
        } else {
            assert!(findings.damages.iter().all(|damage| !damage.found.is_empty()), "{findings:?}");
            tally.entry(kind).or_default().0 += 1;
        }
        fs::write(path, content).expect("restored");
    }
    println!("files damaged, by kind (found, harmless): {tally:?}");
    assert!(tally.values().any(|(found, _)| *found > 0));
}

#[test]
fn damage_to_the_files_of_rocksdb_is_found_or_harmless_and_never_a_panic() {
    let (_folder, data_dir) = place();
    // As it was closed, most of it is in the log of the database.
    damage_files(&data_dir, 120, Random::new());
    // And with everything in sorted files.
    RocksStore::open(&data_dir.join("db")).expect("opened").finish().expect("flushed");
    damage_files(&data_dir, 120, Random::new());
}

#[test]
fn a_lost_file_is_named() {
    let (_folder, data_dir) = place();
    RocksStore::open(&data_dir.join("db")).expect("opened").finish().expect("flushed");
    let lost = listing(&data_dir.join("db")).into_iter().find(|(path, _)| path.extension().is_some_and(|e| e == "sst"));
    let (lost, _) = lost.expect("a sorted file");
    fs::remove_file(&lost).expect("removed");
    let printed = program(&data_dir, &[]);
    assert_eq!(printed.status.code(), Some(3), "{}", text(&printed.stderr));
    let name = lost.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(text(&printed.stdout).contains(&name), "{} is not in {}", name, text(&printed.stdout));
}
