//! The subject map that is kept from an end in order to the next start: what that start saves, and that no damage to the folder, and no
//! mixture of files in it, makes the ledger sign what is not so.

#![cfg(feature = "server")]

mod random;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use random::Random;
use tagledger::engine::clock::{Bounds, system_clock};
use tagledger::engine::plan::Submission;
use tagledger::engine::recovery::OpenError;
use tagledger::engine::{AppendError, Ledger, Options};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::names::TagRef;
use tagledger::ledger::note::Skey;
use tagledger::ledger::statement::Statement;
use tagledger::ledger::subject::Subject;
use tagledger::proto;
use tagledger::store::kept_map::KeptMap;
use tagledger::store::memory::{MemoryStore, NextCommit};
use tagledger::store::{Batch, CommitError, Cursor, Read, ReadError, Store, Table, rows};
use world::{check_log, digest, happened};

fn skey() -> Skey {
    Skey::from_seed("kept.example/test".parse().expect("an origin"), &[6; 32])
}

/// Tells how often somebody goes through the table of subjects.
struct Watched {
    rows: MemoryStore,
    walks: AtomicUsize,
}

impl Watched {
    fn new(rows: MemoryStore) -> Arc<Self> {
        Arc::new(Self { rows, walks: AtomicUsize::new(0) })
    }

    fn walks(&self) -> usize {
        self.walks.load(Ordering::SeqCst)
    }

    /// As after a restart.
    fn reopen(&self) -> Arc<Self> {
        Self::new(self.rows.reopen())
    }
}

impl Read for Watched {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.rows.get(table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        self.walks.fetch_add(usize::from(table == Table::Subjects), Ordering::SeqCst);
        self.rows.cursor(table, prefix)
    }
}

impl Store for Watched {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        self.rows.commit(expected_size, batch)
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        self.rows.snapshot()
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        self.rows.scratch()
    }
}

fn open(store: &Arc<Watched>, folder: Option<&Path>) -> Ledger {
    try_open(store, folder).expect("it opens")
}

fn try_open(store: &Arc<Watched>, folder: Option<&Path>) -> Result<Ledger, OpenError> {
    let options = Options {
        store: Arc::clone(store) as Arc<dyn Store>,
        keys: tagledger::engine::signer::only(&skey()),
        key_overlap_us: 0,
        has_begun: false,
        high_water: None,
        clock: Arc::new(system_clock),
        clock_bounds: Bounds::default(),
        kept_map: folder.map(|folder| KeptMap::new(folder.to_owned())),
    };
    Ledger::open(options)
}

/// Ends it as a server does.
async fn end(ledger: &Ledger) {
    ledger.close().await;
    ledger.keep_map();
}

async fn push(ledger: &Ledger, tag: &str, digit: char) -> Result<(), AppendError> {
    let bytes = happened(tag, &digest(digit)).encode_to_vec();
    let submission = Submission {
        statement: Statement::parse(&bytes).expect("valid"),
        bytes,
        principal: "tester".into(),
        assurance: proto::Assurance::Authenticated,
        producer: None,
        shown: None,
        only_at_version: None,
    };
    ledger.append(vec![submission]).await.map(drop)
}

async fn push_all(ledger: &Ledger, tags: std::ops::Range<u32>, digit: char) {
    for tag in tags {
        push(ledger, &format!("v{tag}"), digit).await.expect("recorded");
    }
}

/// The log is what follows from its statements, and the subjects are those that the newest checkpoint commits to.
async fn check(store: &Watched) {
    let head = rows::head(store).expect("readable").expect("a head");
    let entries = rows::entries(store, 0..head.size).expect("all there");
    let checkpoint = Checkpoint::open(&head.checkpoint, &skey().vkey()).expect("signed");
    check_log(&entries, &checkpoint, &skey().vkey());
    end(&open(&store.reopen(), None)).await;
}

#[tokio::test]
async fn after_an_end_in_order_a_start_reads_no_subjects_and_goes_on_with_the_same_map() {
    let folder = tempfile::tempdir().expect("a folder");
    let (map, upper) = (folder.path().join("map"), folder.path().join("map/upper"));
    let mut store = Watched::new(MemoryStore::default());
    let ledger = open(&store, Some(&map));
    assert!(store.walks() > 0, "there was none");
    push_all(&ledger, 0..300, 'a').await;
    assert!(!upper.exists(), "a running ledger has none: it could fail at any time");
    end(&ledger).await;
    assert!(upper.exists());
    for digit in ['b', 'c'] {
        store = store.reopen();
        let ledger = open(&store, Some(&map));
        assert_eq!(store.walks(), 0);
        assert!(!upper.exists());
        end(&ledger).await;
        assert!(upper.exists(), "also where nothing was recorded");
        let ledger = open(&store, Some(&map));
        push_all(&ledger, 200..400, digit).await;
        end(&ledger).await;
        assert_eq!(store.walks(), 0);
        check(&store).await;
    }
}

#[tokio::test]
async fn a_map_that_is_not_of_this_state_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let map = folder.path().join("map");
    let store = Watched::new(MemoryStore::default());
    let ledger = open(&store, Some(&map));
    push_all(&ledger, 0..100, 'a').await;
    end(&ledger).await;
    let older = store.reopen();
    let ledger = open(&store, Some(&map));
    push_all(&ledger, 50..150, 'b').await;
    end(&ledger).await;
    // The database of before, with the map of after.
    let ledger = open(&older, Some(&map));
    assert!(older.walks() > 0);
    push_all(&ledger, 0..20, 'c').await;
    end(&ledger).await;
    check(&older).await;
}

#[tokio::test]
async fn after_a_failed_commit_no_map_is_kept() {
    for next in [NextCommit::IsRefused, NextCommit::FailsAfterStoring] {
        let folder = tempfile::tempdir().expect("a folder");
        let map = folder.path().join("map");
        let store = Watched::new(MemoryStore::default());
        let ledger = open(&store, Some(&map));
        push_all(&ledger, 0..50, 'a').await;
        store.rows.next_commit(next);
        push(&ledger, "v1", 'b').await.expect_err("it fails");
        end(&ledger).await;
        assert!(!map.join("upper").exists());
        let store = store.reopen();
        let ledger = open(&store, Some(&map));
        push_all(&ledger, 0..50, 'c').await;
        end(&ledger).await;
        check(&store).await;
    }
}

#[tokio::test]
async fn nothing_is_built_on_a_row_that_is_not_the_one_of_the_map() {
    let folder = tempfile::tempdir().expect("a folder");
    let map = folder.path().join("map");
    let store = Watched::new(MemoryStore::default());
    let ledger = open(&store, Some(&map));
    push_all(&ledger, 0..50, 'a').await;
    let tag: TagRef = "registry.example/team/app:v7".parse().expect("a tag");
    let key = Subject::Tag(tag).key();
    let before = store.get(Table::Subjects, &key.0).expect("readable");
    push_all(&ledger, 0..50, 'b').await;
    end(&ledger).await;
    let now = store.get(Table::Subjects, &key.0).expect("readable");
    assert!(before.is_some() && before != now, "{before:?}");
    // One row is set back; or it is gone.
    for row in [before, None] {
        let store = store.reopen();
        let mut batch = Batch::default();
        match row {
            Some(row) => batch.put(Table::Subjects, key.0.as_slice(), row),
            None => batch.delete(Table::Subjects, key.0.as_slice()),
        }
        store.rows.put_unchecked(batch);
        let kept = copy(&map);
        let ledger = open(&store, Some(kept.path()));
        push(&ledger, "v8", 'c').await.expect("another subject");
        let error = push(&ledger, "v7", 'c').await.expect_err("it is not signed");
        assert!(error.to_string().contains("is not the one that the map has"), "{error}");
    }
}

#[tokio::test]
async fn what_is_in_force_is_held_against_the_map_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let map = folder.path().join("map");
    let store = Watched::new(MemoryStore::default());
    let ledger = open(&store, Some(&map));
    ledger.begin_principals([1; 32]).await.expect("recorded");
    end(&ledger).await;
    let mut batch = Batch::default();
    batch.delete(Table::Subjects, Subject::Principals.key().0.as_slice());
    store.rows.put_unchecked(batch);
    let store = store.reopen();
    let error = try_open(&store, Some(&map)).err().expect("refused");
    assert!(matches!(error, OpenError::Inconsistent(_)) && store.walks() > 0, "{error}");
}

#[tokio::test]
async fn a_page_that_changed_by_itself_stops_the_ledger_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let map = folder.path().join("map");
    let store = Watched::new(MemoryStore::default());
    let ledger = open(&store, Some(&map));
    push_all(&ledger, 0..400, 'a').await;
    end(&ledger).await;
    let tag: TagRef = "registry.example/team/app:v7".parse().expect("a tag");
    let mut leaves = std::fs::read(map.join("leaves")).expect("leaves");
    let at = leaves.windows(32).position(|bytes| bytes == Subject::Tag(tag.clone()).key().0).expect("its leaf");
    leaves[at + 3] ^= 1;
    std::fs::write(map.join("leaves"), leaves).expect("written");
    let ledger = open(&store, Some(&map));
    let error = push(&ledger, "v7", 'c').await.expect_err("it is not signed");
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
    end(&ledger).await;
    assert!(!map.join("upper").exists());
    let store = store.reopen();
    let ledger = open(&store, Some(&map));
    push_all(&ledger, 0..50, 'c').await;
    end(&ledger).await;
    check(&store).await;
}

/// A folder with the same files.
fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in ["upper", "leaves"] {
        if folder.join(file).exists() {
            std::fs::copy(folder.join(file), copy.path().join(file)).expect("copied");
        }
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_the_folder_the_ledger_goes_on_rightly_after_one_more_start_at_most() {
    let mut random = Random::new();
    let folder = tempfile::tempdir().expect("a folder");
    let map = folder.path().join("map");
    let mut store = Watched::new(MemoryStore::default());
    let ledger = open(&store, Some(&map));
    push_all(&ledger, 0..400, 'a').await;
    end(&ledger).await;
    // Files from different times.
    let mut files: Vec<tempfile::TempDir> = Vec::new();
    let (mut stopped, mut kept) = (0, 0);
    for round in 1..=60 {
        // Often as it was left; else each file as it was at some time, or gone.
        for file in ["upper", "leaves"] {
            if !files.is_empty() && random.below(3) == 0 {
                let from = files[usize::try_from(random.below(files.len() as u64)).expect("small")].path().join(file);
                let _ = std::fs::remove_file(map.join(file));
                if from.exists() && random.below(5) > 0 {
                    std::fs::copy(from, map.join(file)).expect("copied");
                }
            }
        }
        store = store.reopen();
        let mut ledger = open(&store, Some(&map));
        kept += usize::from(store.walks() == 0);
        for _ in 0..random.below(30) {
            let (tag, digit) = (
                format!("v{}", random.below(400)),
                ['a', 'b', 'c', 'd'][usize::try_from(random.below(4)).expect("small")],
            );
            if push(&ledger, &tag, digit).await.is_err() {
                stopped += 1;
                end(&ledger).await;
                store = store.reopen();
                ledger = open(&store, Some(&map));
                push(&ledger, &tag, digit).await.expect("once more is enough");
            }
        }
        files.push(copy(&map));
        end(&ledger).await;
        files.push(copy(&map));
        if round % 6 == 0 {
            check(&store).await;
        }
    }
    // Most mixtures are noticed at the start already.
    println!("{stopped} stopped");
    assert!((10..60).contains(&kept), "{kept} of 60 were kept");
}
