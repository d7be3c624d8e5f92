//! The load tool: drives a real server in another process over loopback, and prints one JSON object for each scenario.
//!
//! [`traffic`] says what is recorded, [`preload`] makes ledgers of a size once and keeps them, [`server`] runs the server and
//! reads what the system knows of it, [`drive`] is how clients ask and what is measured of it, [`scenarios`] what they ask,
//! [`limits`] what the machine could do at best. Started by `tools/bench`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures, none of which comes near a bound"
)]

mod drive;
mod limits;
mod preload;
mod scenarios;
mod server;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use serde_json::{Map, Value, json};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::note::Vkey;
use tagledger::proto;
use tagledger::proto::log_service_client::LogServiceClient;

use tokio_stream::StreamExt as _;

use drive::{Seen, histogram};
use scenarios::{Measured, Place};
use server::{Server, bytes_below, copy_of};
use traffic::Traffic;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// All scenarios, in the order they run in by default.
const SCENARIOS: [&str; 16] = [
    "append-1",
    "append-64",
    "append-1024",
    "stream",
    "stream-signed",
    "batch",
    "proof-64",
    "resolve-1",
    "resolve-64",
    "resolve-bare-64",
    "history",
    "tiles",
    "mixed",
    "audit",
    "start",
    "slow-disk",
];
/// What the model of a slow disk adds to every sync.
const SLOW_SYNC: Duration = Duration::from_millis(1);

/// Measures a real server over loopback: one JSON object for each scenario, with the limits of the machine beside it.
#[derive(Parser)]
#[command(
    name = "tools/bench",
    after_help = "Examples:\n  tools/bench append-1 append-64\n  tools/bench --preload 1m stream proof-64\n  \
    tools/bench --preload 100k --vs main~3 append-64      # both builds in turn\n\n\
    Scenarios: append-1, append-64, append-1024: unary clients on 1, 8 and 16 connections; stream, stream-signed: 4 streams with \
    512 statements on their way each, without and with producers' signatures; batch: 4 clients, 250 statements a request; proof-64: \
    inclusion proofs; resolve-1, resolve-64 with evidence, resolve-bare-64 without; history: the last 20 versions; tiles: over HTTP; \
    mixed: half resolve, three tenths append; audit: the CLI's, whole log; start: clean and after kill -9; slow-disk: append-1, append-64 and \
    stream with a modelled 1 ms more for every sync.\n\n\
    Each scenario has a copy of the preloaded ledger. `per_s` counts statements or answers; p50_us to p999_us are of one call (of one \
    statement in a stream), corrected for coordinated omission; server_cpu_us and client_cpu_us are processor time for each of \
    what per_s counts."
)]
struct Arguments {
    /// What to measure, of the list below [default: all]
    scenarios: Vec<String>,
    /// Entries that are there before: 100k, 1m, 10m. Made once, and kept
    #[arg(long, value_name = "SIZE", default_value = "100k", value_parser = size)]
    preload: u64,
    /// How long each is measured
    #[arg(long, default_value = "10")]
    seconds: u64,
    /// How long each runs before it is measured
    #[arg(long, default_value = "3")]
    warm_up: u64,
    /// For the traffic
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Where preloaded ledgers are kept
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Where tagledgerd and tagledger are
    #[arg(long, value_name = "DIR", required = true)]
    programs: Vec<PathBuf>,
    /// What each of them is called in the output
    #[arg(long, value_name = "NAME")]
    revision: Vec<String>,
    /// How often both are measured, with --vs
    #[arg(long, default_value = "3")]
    rounds: u64,
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.to_ascii_lowercase() {
        text if text.ends_with('k') => (text.trim_end_matches('k').to_owned(), 1_000),
        text if text.ends_with('m') => (text.trim_end_matches('m').to_owned(), 1_000_000),
        text => (text, 1),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).filter(|count| *count >= 1_000);
    count.ok_or_else(|| format!("{text:?} is not a number of entries, 1k at least; give 100k, 1m or 10m"))
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let done = if std::env::args().nth(1).as_deref() == Some("echo") {
        runtime.block_on(limits::serve_echo())
    } else {
        runtime.block_on(run(Arguments::parse()))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tools/bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut chosen: Vec<&str> = arguments.scenarios.iter().map(String::as_str).collect();
    if chosen.is_empty() {
        chosen = SCENARIOS.to_vec();
    }
    if let Some(unknown) = chosen.iter().find(|name| !SCENARIOS.contains(name)) {
        return Err(format!("there is no scenario {unknown:?}; there are {}", SCENARIOS.join(", ")).into());
    }
    std::fs::create_dir_all(&arguments.cache)?;
    let ledger = preload::preload(&arguments.programs[0], &arguments.cache, arguments.seed, arguments.preload).await?;
    eprintln!("tools/bench: measuring the limits of this machine");
    let limits = limits::limits(&arguments.cache).await?;
    let machine = machine();
    let pairs = arguments.programs.len() > 1;
    for name in chosen {
        let mut per_s: Vec<Vec<f64>> = vec![Vec::new(); arguments.programs.len()];
        for round in 0..if pairs { arguments.rounds } else { 1 } {
            let mut order: Vec<usize> = (0..arguments.programs.len()).collect();
            // Whoever comes first in one round comes last in the next.
            if round % 2 == 1 {
                order.reverse();
            }
            for build in order {
                let revision = arguments.revision.get(build).map_or("", String::as_str);
                eprintln!(
                    "tools/bench: {name}{}",
                    if pairs { format!(" with {revision}, round {}", round + 1) } else { String::new() }
                );
                for mut line in measure(&arguments, &arguments.programs[build], &ledger, name).await? {
                    per_s[build].extend(line.get("per_s").and_then(Value::as_f64));
                    line.insert("preload".into(), arguments.preload.into());
                    line.insert("revision".into(), revision.into());
                    line.insert("limits".into(), limits.clone());
                    line.insert("machine".into(), machine.clone());
                    println!("{}", Value::Object(line));
                }
            }
        }
        if let [ours, theirs] = &mut per_s[..] {
            let middle = |values: &mut Vec<f64>| {
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let (ours, theirs) = (middle(ours), middle(theirs));
            eprintln!("tools/bench: {name}: {ours:.0}/s against {theirs:.0}/s, {:.2} times (medians)", ours / theirs);
        }
    }
    Ok(())
}

/// Runs a scenario on a copy of the ledger: a line, or several.
async fn measure(
    arguments: &Arguments,
    programs: &Path,
    ledger: &Path,
    name: &str,
) -> Result<Vec<Map<String, Value>>, Failure> {
    match name {
        "start" => start(arguments, programs, ledger).await,
        "slow-disk" => {
            let mut lines = Vec::new();
            for inner in ["append-1", "append-64", "stream"] {
                let mut line = scenario(arguments, programs, ledger, inner, Some(SLOW_SYNC)).await?;
                line.insert("scenario".into(), format!("slow-disk {inner}").into());
                line.insert("model".into(), "every fdatasync and fsync returns 1 ms later (LD_PRELOAD)".into());
                lines.push(line);
            }
            Ok(lines)
        }
        _ => Ok(vec![scenario(arguments, programs, ledger, name, None).await?]),
    }
}

async fn scenario(
    arguments: &Arguments,
    programs: &Path,
    ledger: &Path,
    name: &str,
    sync_delay: Option<Duration>,
) -> Result<Map<String, Value>, Failure> {
    let folder = tempfile::tempdir_in(&arguments.cache)?;
    let data_dir = folder.path().join("ledger");
    copy_of(ledger, &data_dir)?;
    let server = Server::start(programs, &data_dir, sync_delay)?;
    let place = place(arguments, programs, &server).await?;
    let measured = match name {
        "append-1" => place.append(1, 1).await?,
        "append-64" => place.append(64, 8).await?,
        "append-1024" => place.append(1024, 16).await?,
        "stream" => place.stream(false).await?,
        "stream-signed" => place.stream(true).await?,
        "batch" => place.batch().await?,
        "proof-64" => place.proof(64, 8).await?,
        "resolve-1" => place.resolve(1, 1, false).await?,
        "resolve-64" => place.resolve(64, 8, false).await?,
        "resolve-bare-64" => place.resolve(64, 8, true).await?,
        "history" => place.history(64, 8).await?,
        "tiles" => place.tiles(16).await?,
        "mixed" => place.mixed().await?,
        "audit" => place.audit()?,
        other => unreachable!("{other} is not a scenario of one server"),
    };
    let mut line = figures(name, &measured);
    line.insert("server_rss_mib".into(), (server.memory_kib("VmRSS")? / 1024).into());
    line.insert("server_rss_peak_mib".into(), (server.memory_kib("VmHWM")? / 1024).into());
    let (size, entry_bytes) = (place.size, place.entry_bytes);
    server.stop()?;
    // As it is found after the next start: what was written ahead has gone where it belongs.
    Server::start(programs, &data_dir, None)?.stop()?;
    line.insert("disk_bytes".into(), bytes_below(&data_dir.join("db"))?.into());
    line.insert("entry_bytes".into(), entry_bytes.into());
    line.insert("entries_before".into(), size.into());
    Ok(line)
}

async fn place<'a>(arguments: &Arguments, programs: &'a Path, server: &'a Server) -> Result<Place<'a>, Failure> {
    let vkey: Vkey = std::fs::read_to_string(server.data_dir.join("ledger.vkey"))?.trim().parse()?;
    let mut log = LogServiceClient::new(server.channels(1).await?.remove(0));
    let note = log.get_checkpoint(proto::GetCheckpointRequest {}).await?.into_inner().checkpoint;
    let size = Checkpoint::open(&note, &vkey)?.size;
    let request = proto::ListEntriesRequest { begin: size.saturating_sub(5_000), end: size };
    let (mut listed, mut count, mut bytes) = (log.list_entries(request).await?.into_inner(), 0, 0);
    while let Some(entry) = listed.next().await {
        count += 1;
        bytes += entry?.entry.map_or(0, |entry| entry.entry.len() as u64);
    }
    Ok(Place {
        entry_bytes: bytes / count.max(1),
        server,
        programs,
        traffic: Arc::new(Mutex::new(Traffic::after(arguments.seed, arguments.preload))),
        vkey,
        size,
        warm_up: Duration::from_secs(arguments.warm_up),
        time: Duration::from_secs(arguments.seconds),
    })
}

/// How long a start takes, after an orderly end and after kill -9 in the middle of writing: the median of several.
async fn start(arguments: &Arguments, programs: &Path, ledger: &Path) -> Result<Vec<Map<String, Value>>, Failure> {
    let folder = tempfile::tempdir_in(&arguments.cache)?;
    let data_dir = folder.path().join("ledger");
    copy_of(ledger, &data_dir)?;
    let (mut clean, mut killed) = (histogram(), histogram());
    let begun = std::time::Instant::now();
    for _ in 0..5 {
        let server = Server::start(programs, &data_dir, None)?;
        clean.record(u64::try_from(server.start.as_nanos())?)?;
        // Some seconds of writing, so that there is something to recover.
        let mut place = place(arguments, programs, &server).await?;
        (place.warm_up, place.time) = (Duration::ZERO, Duration::from_secs(arguments.seconds.min(3)));
        place.traffic = Arc::new(Mutex::new(Traffic::after(begun.elapsed().as_nanos() as u64, 1000)));
        place.batch().await?;
        server.kill()?;
        let server = Server::start(programs, &data_dir, None)?;
        killed.record(u64::try_from(server.start.as_nanos())?)?;
        server.stop()?;
    }
    let line = |name: &str, latency: hdrhistogram::Histogram<u64>| {
        let (count, elapsed) = (latency.len(), Duration::from_nanos(latency.mean() as u64 * latency.len()));
        let seen = Seen::new(count, elapsed, latency);
        figures(name, &Measured { seen, client: Duration::ZERO, server: Duration::ZERO })
    };
    Ok(vec![line("start clean", clean), line("start after kill -9", killed)])
}

fn figures(name: &str, measured: &Measured) -> Map<String, Value> {
    let seen = &measured.seen;
    let each_us = |time: Duration| json!(((time.as_secs_f64() * 1e6 / seen.count.max(1) as f64) * 10.0).round() / 10.0);
    let Value::Object(line) = json!({
        "scenario": name,
        "per_s": seen.per_s().round(),
        "p50_us": seen.median_us().round(),
        "p90_us": seen.quantile_us(0.9).round(),
        "p99_us": seen.quantile_us(0.99).round(),
        "p999_us": seen.quantile_us(0.999).round(),
        "max_us": seen.quantile_us(1.0).round(),
        "count": seen.count,
        "seconds": (seen.elapsed.as_secs_f64() * 10.0).round() / 10.0,
        "client_cpu_us": each_us(measured.client),
        "server_cpu_us": each_us(measured.server),
    }) else {
        unreachable!("an object")
    };
    line
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    json!({
        "cpu": field(&cpus, "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": field(&memory, "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").split_whitespace().next().unwrap_or_default(),
        "settings": "defaults, without limits for callers",
    })
}
