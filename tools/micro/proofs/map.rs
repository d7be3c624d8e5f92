//! Updating the subject map in batches, as the sequencer does, over a store on disk.
//!
//! The subjects are made up, and all of them are tags bound to a digest, which have the longest rows. A batch is what the
//! engine makes of so many touched subjects (`engine::plan`), without the log: rows are read, histories extended, the map
//! updated, rows written and synced. Like the engine this keeps the maps of the last batches for readers, so an update copies
//! what it changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use tagledger::engine::recovery::load_map;
use tagledger::ledger::history::{history_leaf, map_leaf};
use tagledger::ledger::map::{Top, hashed};
use tagledger::ledger::merkle::Hash;
use tagledger::ledger::names::Digest;
use tagledger::ledger::subject::SubjectKey;
use tagledger::ledger::transition::Binding;
use tagledger::store::leaf_pages::LeafPages;
use tagledger::store::rocks::RocksStore;
use tagledger::store::rows::{self, SubjectRow, Version};
use tagledger::store::{Batch, Read, Store as _};

use super::measure::{Figure, Limits, Progress, Random, Report, Samples, process_us, resident_memory, thread_us};
use super::{Arguments, Failure, made, settle, warm};

/// Rows in one commit while a store is made.
const ROWS: u64 = 50_000;
/// Maps that are kept for readers, as in `engine::tops`.
const KEPT: usize = 16;
/// Batches before measuring: caches fill.
const WARM_UP: u64 = 20;

/// The key of a made-up subject.
pub(crate) fn key(number: u64) -> SubjectKey {
    SubjectKey(made_up("subject", number))
}

/// A made-up hash.
pub(crate) fn made_up(what: &str, number: u64) -> Hash {
    Sha256::new().chain_update(what).chain_update(number.to_be_bytes()).finalize().into()
}

/// Writes made-up subjects, each with one entry in its history.
pub(crate) fn put_subjects(store: &RocksStore, count: u64) -> Result<(), Failure> {
    let mut progress = Progress::new("making subjects", count);
    for first in (0..count).step_by(usize::try_from(ROWS)?) {
        let mut batch = Batch::default();
        for number in first..count.min(first + ROWS) {
            let mut row = SubjectRow::default();
            extend(&mut row, number)?;
            rows::put_subject(&mut batch, &key(number), &row);
        }
        store.commit(0, batch)?;
        progress.at(first);
    }
    Ok(())
}

/// Puts a made-up entry at `index` into a history; it sets the binding. Returns its version, and the subtrees it completes.
fn extend(row: &mut SubjectRow, index: u64) -> Result<(Version, Vec<Hash>), Failure> {
    let version = Version { index, recorded_at_us: 1 + index, effective: 1 + index };
    let (leaf, mut completed) = (history_leaf(index, &made_up("entry", index), version.effective), Vec::new());
    row.history.append(leaf, |node| completed.extend((node.level > 0).then_some(node.hash)));
    let digest: Digest = format!("sha256:{}", hex::encode(made_up("manifest", index))).parse()?;
    row.binding = Binding::Bound { digest, set_by: index };
    Ok((version, completed))
}

/// A map over a store, and what is known of its updates.
struct Updates<'a> {
    store: &'a RocksStore,
    top: Top,
    leaves: LeafPages,
    /// The maps of the last batches.
    tops: VecDeque<Top>,
    random: Random,
    next_index: u64,
    /// An update: wall time, and CPU time of the thread.
    update_us: Samples,
    update_cpu_us: Samples,
    /// Everything of the batch, for each of its updates, and how much of that is the commit.
    whole_us: Samples,
    commit_us: Samples,
}

pub(crate) fn measure(
    arguments: &Arguments,
    subjects: u64,
    directory: &Path,
    limits: &Limits,
    report: &Report,
) -> Result<(), Failure> {
    let path = made(&directory.join(format!("map-{subjects}")), |path| {
        put_subjects(&RocksStore::open(path)?, subjects)?;
        settle();
        Ok(())
    })?;
    let store = RocksStore::open(&path)?;
    settle();
    warm(&path)?;

    let (memory, started) = (resident_memory(), Instant::now());
    let (top, leaves) = load_map(&store, store.scratch()?, subjects)?;
    let load_s = started.elapsed().as_secs_f64();
    // One that is kept grows from run to run.
    let group = format!("map of {} subjects", top.size());
    report.group(&group);
    report.figure(&group, &Figure::new("loaded at the start", "s", load_s));
    report.figure(
        &group,
        &Figure::new("memory of the map, counted", "MB", megabytes(Top::memory([&top]) + leaves.memory())).below(128.0),
    );
    // Also what loading left in the cache of blocks.
    let grown = resident_memory().saturating_sub(memory);
    report.figure(&group, &Figure::new("memory of the process, grown by loading", "MB", megabytes(grown)));

    let mut updates = Updates {
        store: &store,
        // Those of an earlier run are beyond it.
        next_index: top.size(),
        top,
        leaves,
        tops: VecDeque::new(),
        random: Random(subjects),
        update_us: Samples::default(),
        update_cpu_us: Samples::default(),
        whole_us: Samples::default(),
        commit_us: Samples::default(),
    };
    for _ in 0..WARM_UP.min(arguments.batches) {
        updates.batch(arguments.updates)?;
    }
    updates.forget();
    let (cpu_us, started) = (process_us(), Instant::now());
    for _ in 0..arguments.batches {
        updates.batch(arguments.updates)?;
    }
    let wall_us = started.elapsed().as_secs_f64() * 1e6;
    settle();
    let all = (arguments.batches * arguments.updates) as f64;
    let cpu_us = (process_us() - cpu_us) / all;

    let mut reads = Samples::default();
    for _ in 0..1000 {
        let key = key(updates.random.below(subjects));
        reads.time(|| rows::subject(&store, &key))?;
    }
    let read_us = reads.median();
    report.figure(&group, &Figure::of("one row read", &reads));
    report.figure(
        &group,
        &Figure::of("map update, CPU", &updates.update_cpu_us).below(15.0).beside("node hash", limits.node_hash_us),
    );
    report.figure(&group, &Figure::of("map update, wall", &updates.update_us).beside("row read", read_us));
    let commit_us = limits.empty_commit_us / arguments.updates as f64;
    report.figure(&group, &Figure::of("its commit, wall", &updates.commit_us).beside("share of a commit", commit_us));
    report.figure(&group, &Figure::of("everything of the batch, wall", &updates.whole_us));
    report.figure(&group, &Figure::new("everything, mean, wall", "us", wall_us / all));
    report.figure(&group, &Figure::new("everything, mean, CPU of the process", "us", cpu_us));
    let held = megabytes(Top::memory(updates.tops.iter().chain([&updates.top])) + updates.leaves.memory());
    report.figure(&group, &Figure::new("memory of the map and the last ones, counted", "MB", held).below(128.0));
    report.figure(&group, &Figure::new("memory of the process at the end", "MB", megabytes(resident_memory())));

    let (again, _) = load_map(&store, store.scratch()?, subjects)?;
    assert_eq!((again.root(), again.size()), (updates.top.root(), updates.top.size()), "the map is that of the rows");
    assert_eq!(again.size(), updates.next_index, "and every new subject is in it");
    Ok(())
}

impl Updates<'_> {
    /// Changes so many subjects, every tenth a new one.
    fn batch(&mut self, count: u64) -> Result<(), Failure> {
        let keys: Vec<SubjectKey> = self.keys(count);
        let read: &dyn Read = self.store;
        let (each, started) = (keys.len() as f64, Instant::now());
        let mut batch = Batch::default();
        let mut changed = BTreeMap::new();
        for key in keys {
            let mut row = rows::subject(read, &key)?;
            let at = row.history.size();
            let (version, completed) = extend(&mut row, self.next_index)?;
            rows::put_version(&mut batch, &key, at, &version, &completed);
            changed.insert(key, row);
        }
        let mut leaves = Vec::with_capacity(changed.len());
        for (key, row) in &changed {
            rows::put_subject(&mut batch, key, row);
            leaves.push(map_leaf(*key, &row.history));
        }

        let (update_started, cpu_us) = (Instant::now(), thread_us());
        let mut top = self.top.clone();
        let leaves = hashed(&leaves);
        top.update(&self.leaves, &leaves)?;
        // The engine does this after the commit.
        self.leaves.put(&leaves)?;
        self.update_cpu_us.push((thread_us() - cpu_us) / each);
        self.update_us.push(update_started.elapsed().as_secs_f64() * 1e6 / each);

        self.tops.push_back(top.clone());
        if self.tops.len() > KEPT {
            self.tops.pop_front();
        }
        let commit_started = Instant::now();
        self.store.commit(0, batch)?;
        self.commit_us.push(commit_started.elapsed().as_secs_f64() * 1e6 / each);
        self.top = top;
        self.whole_us.push(started.elapsed().as_secs_f64() * 1e6 / each);
        Ok(())
    }

    /// The subjects of a batch, each once, in no order.
    fn keys(&mut self, count: u64) -> Vec<SubjectKey> {
        let known = self.next_index;
        let mut numbers = BTreeSet::new();
        while (numbers.len() as u64) < count {
            let is_new = numbers.len() % 10 == 9;
            numbers.insert(if is_new { self.next_index } else { self.random.below(known) });
            self.next_index += u64::from(is_new);
        }
        numbers.into_iter().map(key).collect()
    }

    fn forget(&mut self) {
        (self.update_us, self.update_cpu_us) = Default::default();
        (self.whole_us, self.commit_us) = Default::default();
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
