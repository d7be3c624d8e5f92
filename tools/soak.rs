//! A soak: clients that write as fast as they are answered, for as long as told. Each minute says how much memory the server has
//! and how long an answer took; at the end everything acknowledged must be in the log, and the minutes must be alike.
//!
//! The first minute is for warming up. Of the others, the second half is held against the first; and none may be without answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::evidence::verify;
use tagledger::ledger::note::Vkey;
use tagledger::proto;
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use super::{Failure, Random, Torture, kind, with_token};

/// Requests of each connection under way at once.
const AT_ONCE: u64 = 16;
/// Every so many answers one is verified: this machine serves, too.
const VERIFY_EVERY: u64 = 50;
/// How much more the second half may have: memory in MiB, latency in microseconds, and a share of the first half's in percent.
const MORE_MIB: u64 = 48;
const MORE_US: u64 = 5_000;
const MORE_PERCENT: u64 = 25;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What clients were told.
#[derive(Default)]
struct Told {
    /// A part of the hash of each entry acknowledged, by index.
    entries: HashMap<u64, [u8; 12]>,
    /// Of the minute, in microseconds.
    latencies: Vec<u64>,
    failures: Vec<String>,
}

struct Minute {
    rss_mib: u64,
    p50_us: u64,
    p99_us: u64,
    entries: usize,
}

/// What of a minute is held against others.
type Figure = fn(&Minute) -> u64;

fn part(entry: &[u8]) -> [u8; 12] {
    let hash: [u8; 32] = Sha256::digest(entry).into();
    *hash.first_chunk().expect("it is longer")
}

/// One soak.
pub(super) async fn run(torture: &mut Torture, minutes: u64) -> Result<(), Failure> {
    // As fast as it can, not as fast as one principal may.
    std::fs::write(torture.config(), "[limits.principal]\nper_second = 0\nconcurrent = 0\n")?;
    let mut server = torture.start().await?;
    let (vkey, token) = (torture.vkey()?, torture.token()?);
    let (told, stop) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicBool::new(false)));
    let mut writers = Vec::new();
    for connection in 0..torture.arguments.writers {
        let channel = torture.channel().await?;
        for number in 0..AT_ONCE {
            let writer = Writer {
                client: AppendServiceClient::new(channel.clone()),
                vkey: vkey.clone(),
                token: token.clone(),
                random: Random(torture.random.next()),
                prefix: format!("soak-{connection}-{number}"),
            };
            writers.push(tokio::spawn(writer.write(Arc::clone(&told), Arc::clone(&stop))));
        }
    }
    let mut seen: Vec<Minute> = Vec::new();
    for number in 1..=minutes {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut state = told.lock().expect("nobody panicked");
        if let Some(failure) = state.failures.first() {
            return Err(failure.clone().into());
        }
        let mut latencies = std::mem::take(&mut state.latencies);
        let before = seen.iter().map(|minute| minute.entries).sum::<usize>();
        let entries = state.entries.len() - before;
        drop(state);
        latencies.sort_unstable();
        let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or_default();
        let minute = Minute { rss_mib: rss_mib(server.id())?, p50_us: at(50), p99_us: at(99), entries };
        println!(
            "soak: minute {number}: {} MiB, {} answers, {entries} entries, p50 {:.1} ms, p99 {:.1} ms",
            minute.rss_mib,
            latencies.len(),
            ms(minute.p50_us),
            ms(minute.p99_us)
        );
        if entries == 0 {
            return Err("a minute without an answer".into());
        }
        seen.push(minute);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await?;
    }
    let mut told = std::mem::take(&mut *told.lock().expect("nobody panicked"));
    if let Some(failure) = told.failures.first() {
        return Err(failure.clone().into());
    }
    let acknowledged = told.entries.len();
    compare(torture.channel().await?, &vkey, &mut told.entries).await?;
    println!("soak: {acknowledged} entries acknowledged in {minutes} minutes, every one of them in the log");
    server.kill()?;
    server.wait()?;
    judge(&seen)
}

/// Everything acknowledged is in the log, as it was acknowledged.
async fn compare(channel: Channel, vkey: &Vkey, expected: &mut HashMap<u64, [u8; 12]>) -> Result<(), Failure> {
    let mut log = LogServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let note = log.get_checkpoint(proto::GetCheckpointRequest {}).await?.into_inner().checkpoint;
    let size = Checkpoint::open(&note, vkey)?.size;
    let mut entries = log.list_entries(proto::ListEntriesRequest { begin: 0, end: size }).await?.into_inner();
    while let Some(message) = entries.next().await {
        let entry = message?.entry.ok_or("an answer without an entry")?;
        if expected.remove(&entry.index).is_some_and(|hash| hash != part(&entry.entry)) {
            return Err(format!("entry {} is not what was acknowledged", entry.index).into());
        }
    }
    match expected.keys().min() {
        None => Ok(()),
        Some(lost) => Err(format!("{} entries are lost, the first of them {lost}", expected.len()).into()),
    }
}

fn judge(minutes: &[Minute]) -> Result<(), Failure> {
    let steady = minutes.get(1..).unwrap_or_default();
    if steady.len() < 2 {
        println!("soak: too short to be judged; at least 3 minutes are");
        return Ok(());
    }
    let (first, second) = steady.split_at(steady.len() / 2);
    let middle = |minutes: &[Minute], of: Figure| {
        let mut values: Vec<u64> = minutes.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let figures: [(&str, Figure, u64, &str); 3] = [
        ("memory", |minute| minute.rss_mib, MORE_MIB, "MiB"),
        ("p50", |minute| minute.p50_us, MORE_US, "us"),
        ("p99", |minute| minute.p99_us, MORE_US, "us"),
    ];
    for (name, of, more, unit) in figures {
        let (before, after) = (middle(first, of), middle(second, of));
        println!("soak: {name}: {before} {unit} in the first half, {after} {unit} in the second");
        if after > before + before * MORE_PERCENT / 100 + more {
            return Err(format!("{name} is not flat: {before} {unit}, then {after} {unit}").into());
        }
    }
    let entries: Figure = |minute| minute.entries as u64;
    let (before, after) = (middle(first, entries), middle(second, entries));
    println!("soak: entries a minute: {before} in the first half, {after} in the second");
    if after * 100 < before * (100 - MORE_PERCENT) {
        return Err(format!("it became slower: {before} entries a minute, then {after}").into());
    }
    println!("soak: flat");
    Ok(())
}

fn rss_mib(process: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process has a size")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

fn ms(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1000.0
}

struct Writer {
    client: AppendServiceClient<Channel>,
    vkey: Vkey,
    token: String,
    random: Random,
    prefix: String,
}

impl Writer {
    async fn write(mut self, told: Arc<Mutex<Told>>, stop: Arc<AtomicBool>) {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let (begin, answer) = (Instant::now(), self.one(number).await);
            let mut told = told.lock().expect("nobody panicked");
            match answer {
                Ok(entries) => {
                    told.latencies.push(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
                    told.entries.extend(entries);
                }
                Err(failure) => {
                    told.failures.push(failure.to_string());
                    return;
                }
            }
        }
    }

    async fn one(&mut self, number: u64) -> Result<Vec<(u64, [u8; 12])>, Failure> {
        let event_id = format!("{}-{number}", self.prefix);
        let statement = proto::Statement { kind: Some(kind(&mut self.random)), event_id, ..Default::default() };
        let submission = Some(proto::Submission { statement: statement.encode_to_vec(), ..Default::default() });
        let request = with_token(&self.token, proto::AppendRequest { submission });
        let answer = tokio::time::timeout(PATIENCE, self.client.append(request)).await;
        let evidence = answer
            .map_err(|_| "no answer for half a minute")??
            .into_inner()
            .evidence
            .ok_or("an answer without evidence")?;
        if number.is_multiple_of(VERIFY_EVERY) {
            verify(&evidence, &self.vkey)?;
        }
        Ok(evidence.entries.iter().map(|entry| (entry.index, part(&entry.entry))).collect())
    }
}
