//! Clocks, the limits of the machine, and how figures are shown.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tagledger::ledger::map::node_hash;
use tagledger::store::rocks::RocksStore;
use tagledger::store::{Batch, Store as _, Table};

use super::Failure;

/// CPU time of the whole process, in microseconds.
pub(crate) fn process_us() -> f64 {
    clock_us(ClockId::ProcessCPUTime)
}

/// CPU time of this thread, in microseconds.
pub(crate) fn thread_us() -> f64 {
    clock_us(ClockId::ThreadCPUTime)
}

fn clock_us(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Memory of the process, in bytes.
pub(crate) fn resident_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// What was measured again and again.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Does something, and keeps how many microseconds it took.
    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.push(started.elapsed().as_secs_f64() * 1e6);
        result
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The smallest sample that so many percent of all don't exceed.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

/// What this machine can do at best, in microseconds.
pub(crate) struct Limits {
    /// One inner node of the subject map.
    pub(crate) node_hash_us: f64,
    /// One Ed25519 signature.
    pub(crate) sign_us: f64,
    /// One Ed25519 signature, checked strictly.
    pub(crate) verify_us: f64,
    /// 4 KiB appended to a file and synced.
    pub(crate) file_sync_us: f64,
    /// A commit of one row.
    pub(crate) empty_commit_us: f64,
}

impl Limits {
    pub(crate) fn measure(directory: &Path) -> Result<Self, Failure> {
        let (mut hash, mut hashes) = ([1; 32], Samples::default());
        for _ in 0..50 {
            hashes.time(|| (0..100).for_each(|_| hash = node_hash(&hash, &hash)));
        }
        let key = SigningKey::from_bytes(&[7; 32]);
        let (mut signing, mut verifying) = (Samples::default(), Samples::default());
        for _ in 0..50 {
            let signature = signing.time(|| key.sign(&hash));
            verifying.time(|| key.verifying_key().verify_strict(&hash, &signature))?;
        }
        let mut file = File::create(directory.join("file"))?;
        let mut syncs = Samples::default();
        for _ in 0..20 {
            syncs.time(|| file.write_all(&[7; 4096]).and_then(|()| file.sync_data()))?;
        }
        let store = RocksStore::open(&directory.join("limits"))?;
        let mut commits = Samples::default();
        for _ in 0..20 {
            let mut batch = Batch::default();
            batch.put(Table::Meta, "row", "");
            commits.time(|| store.commit(0, batch))?;
        }
        Ok(Self {
            node_hash_us: hashes.median() / 100.0,
            sign_us: signing.median(),
            verify_us: verifying.median(),
            file_sync_us: syncs.median(),
            empty_commit_us: commits.median(),
        })
    }
}

/// One figure.
pub(crate) struct Figure<'a> {
    pub(crate) what: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) value: f64,
    /// What only one in a hundred exceeds.
    pub(crate) p99: Option<f64>,
    /// What it must stay below.
    pub(crate) target: Option<f64>,
    /// What to hold it against: a limit of the machine, in the same unit.
    pub(crate) limit: Option<(&'a str, f64)>,
}

impl<'a> Figure<'a> {
    pub(crate) fn new(what: &'a str, unit: &'a str, value: f64) -> Self {
        Self { what, unit, value, p99: None, target: None, limit: None }
    }

    /// The median of samples, in microseconds.
    pub(crate) fn of(what: &'a str, samples: &Samples) -> Self {
        Self { p99: Some(samples.percentile(99)), ..Self::new(what, "us", samples.median()) }
    }

    pub(crate) fn below(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    pub(crate) fn beside(self, name: &'a str, limit: f64) -> Self {
        Self { limit: Some((name, limit)), ..self }
    }
}

/// Where figures go.
pub(crate) struct Report {
    pub(crate) json: bool,
}

impl Report {
    /// Begins a group of figures.
    pub(crate) fn group(&self, name: &str) {
        if !self.json {
            println!("\n{name}");
        }
    }

    pub(crate) fn figure(&self, group: &str, figure: &Figure<'_>) {
        let Figure { what, unit, value, p99, target, limit } = figure;
        if self.json {
            let limit = limit.map(|(name, value)| json!({ "name": name, "value": value }));
            let line = json!({ "group": group, "figure": what, "unit": unit, "value": value, "p99": p99,
                "target": target, "limit": limit });
            println!("{line}");
            return;
        }
        let p99 = p99.map(|p99| format!("p99 {}", shown(p99))).unwrap_or_default();
        let target = target.map(|target| {
            let verdict = if *value < target { "below" } else { "NOT below" };
            format!("{verdict} {}", shown(target))
        });
        let limit = limit.map(|(name, limit)| format!("{} x {name} ({})", shown(value / limit), shown(limit)));
        let line = format!("  {what:<46}{:>9} {unit:<6}{p99:<12}{:<16}", shown(*value), target.unwrap_or_default());
        println!("{}", (line + &limit.unwrap_or_default()).trim_end());
    }

    pub(crate) fn limits(&self, limits: &Limits) {
        let group = "this machine";
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        self.group(&format!(
            "{group}: {cores} cores, load averages {}",
            load.rsplitn(3, ' ').last().unwrap_or_default()
        ));
        for (what, value) in [
            ("one SHA-256 node hash", limits.node_hash_us),
            ("one Ed25519 signature", limits.sign_us),
            ("one Ed25519 signature checked", limits.verify_us),
            ("4 KiB appended to a file and synced", limits.file_sync_us),
            ("one row committed", limits.empty_commit_us),
        ] {
            self.figure(group, &Figure::new(what, "us", value));
        }
    }
}

fn shown(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Tells those who wait how far something is.
pub(crate) struct Progress {
    what: String,
    of: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(what: impl Into<String>, of: u64) -> Self {
        Self { what: what.into(), of, started: Instant::now(), told: Instant::now() }
    }

    pub(crate) fn at(&mut self, done: u64) {
        if self.told.elapsed() >= Duration::from_secs(5) {
            let seconds = self.started.elapsed().as_secs();
            eprintln!("  {}: {done} of {} after {seconds} s", self.what, self.of);
            self.told = Instant::now();
        }
    }
}

/// Random numbers that are the same in every run: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
