//! What proofs cost: updating the subject map, and making and checking evidence, in ledgers large enough to tell.
//!
//! ```text
//! cargo bench --bench proofs                                      what docs/PERFORMANCE.md shows: some minutes, 8 GB of disk
//! cargo bench --bench proofs -- --subjects 100k --entries 100k --versions 10k --ledger-subjects 10k      a quick look
//! ```
//!
//! Beside the figures stand the limits of the machine, taken in the same run. Figures are wall time on a warm store unless
//! they say CPU; that of the whole process includes RocksDB's background work.
//!
//! Run by `cargo test`, so without `--bench`, it goes once through everything with little, for the sake of what it asserts.

#[path = "proofs/evidence.rs"]
mod evidence;
#[path = "proofs/map.rs"]
mod map;
#[path = "proofs/measure.rs"]
mod measure;

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use measure::{Limits, Report};

type Failure = Box<dyn Error>;

/// Measures what proofs cost, in large ledgers that it makes for it.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo bench --bench proofs --")]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Map, Part::Evidence])]
    parts: Vec<Part>,
    /// Map: sizes to measure at; "10k" and "1m" are understood
    #[arg(long, value_name = "NUMBERS", value_parser = number, value_delimiter = ',', default_value = "1m,10m")]
    subjects: Vec<u64>,
    /// Map: subjects that a batch changes, every tenth of them new
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "1000")]
    updates: u64,
    /// Map: batches; too few don't reach through a cycle of the store's files, which cost more the more there are
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "400")]
    batches: u64,
    /// Evidence: entries of the ledger
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "10m")]
    entries: u64,
    /// Evidence: how many of them are about the tag asked for
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "1m")]
    versions: u64,
    /// Evidence: subjects of the ledger
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "1m")]
    ledger_subjects: u64,
    /// Evidence: questions of each kind
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "2000")]
    questions: u64,
    /// Keep the stores here, and use what is here already [default: nothing is kept]
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Map,
    Evidence,
}

fn number(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'm']) {
        Some(digits) => (digits, if text.ends_with('k') { 1_000 } else { 1_000_000 }),
        None => (text, 1),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.filter(|number| *number > 0).ok_or_else(|| format!("{text:?} is not a number like 500, 10k or 1m"))
}

fn main() -> Result<(), Failure> {
    let is_benchmark = std::env::args().any(|argument| argument == "--bench");
    if is_benchmark { run(&Arguments::parse()) } else { run(&smoke()) }
}

/// Enough for every line to be run once. What the test runner says is not for us.
fn smoke() -> Arguments {
    let arguments = "proofs --subjects 2k --updates 100 --batches 3 --entries 3k --versions 300 --ledger-subjects 1k --questions 20";
    Arguments::parse_from(arguments.split(' '))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let directory = arguments.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(directory)?;
    let report = Report { json: arguments.json };
    let limits = Limits::measure(temporary.path())?;
    report.limits(&limits);
    if arguments.parts.contains(&Part::Map) {
        for &subjects in &arguments.subjects {
            map::measure(arguments, subjects, directory, &limits, &report)?;
        }
    }
    if arguments.parts.contains(&Part::Evidence) {
        evidence::measure(arguments, directory, &limits, &report)?;
    }
    Ok(())
}

/// Makes a store in `directory`, unless a whole one is there.
fn made(directory: &Path, make: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<PathBuf, Failure> {
    let (store, whole) = (directory.join("db"), directory.join("whole"));
    if !whole.exists() {
        if directory.exists() {
            std::fs::remove_dir_all(directory)?;
        }
        std::fs::create_dir_all(directory)?;
        make(&store)?;
        std::fs::write(whole, "")?;
    }
    Ok(store)
}

/// Reads a store's files, so that the system has them in memory, as it has those of a server that is asked things.
fn warm(store: &Path) -> Result<(), Failure> {
    for file in std::fs::read_dir(store)? {
        std::io::copy(&mut File::open(file?.path())?, &mut std::io::sink())?;
    }
    Ok(())
}

/// Waits until the store has put its files in order, as one that runs for long has.
fn settle() {
    loop {
        let before = measure::process_us();
        std::thread::sleep(Duration::from_millis(100));
        if measure::process_us() - before < 2_000.0 {
            return;
        }
    }
}
