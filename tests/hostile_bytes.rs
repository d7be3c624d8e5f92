//! Bytes from anywhere, a short while: the fuzz targets of `tools/fuzz` over their corpus and changes of it, and what is small on
//! the wire and large in memory.
//!
//! This needs no tool, and repeats itself: the changes follow from the seed. `tools/fuzz/run` goes on from the same corpus with
//! libFuzzer, which looks where they lead. What it ever found is in the corpus under a name that begins with `found-`.

#![cfg(feature = "server")]

#[path = "../tools/fuzz/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message as _;
use tagledger::client::saved;
use tagledger::edge::distribution;
use tagledger::ledger::policy::Policy;
use tagledger::ledger::policy::import::{Format, Place, import};
use tagledger::ledger::replay::{Replay, state};
use tagledger::ledger::statement::Statement;
use tagledger::proto;
use targets::{TARGETS, Target};

/// Between two targets, unless `TAGLEDGER_FUZZ_SECONDS` says how long all of them take together.
const EACH: Duration = Duration::from_millis(600);
/// Longest time for one input: most take microseconds; other tests run at the same time.
const ONE: Duration = Duration::from_secs(5);
/// Longest input that is made.
const MAX_LENGTH: usize = 20_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).expect("fits")).expect("fits")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// What is odd wherever it stands.
const ODD: [&[u8]; 16] = [
    b"\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"%2e%2e/",
    b"../",
    b"\n\n",
    b"\r\n",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":",
    b"18446744073709551615",
    b"-1",
    b"1e400",
    b"\xe2\x80\x94",
    b"\xc3\x28",
    b"\\u0000",
    b"sha256:",
];

fn change(random: &mut Random, corpus: &[Vec<u8>], seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.insert(at, random.byte()),
            3 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            4 => drop(bytes.splice(at..at, ODD[random.below(ODD.len())].iter().copied())),
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 => {
                let piece = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
                for _ in 0..random.below(20) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            _ => bytes.truncate(at),
        }
    }
    bytes.truncate(MAX_LENGTH);
    bytes
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("listed").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

/// Hands bytes to a target; where it panics or takes too long, they are told.
fn hand(name: &str, target: Target, bytes: &[u8], what: &dyn std::fmt::Display) {
    let begin = Instant::now();
    let outcome = std::panic::catch_unwind(|| target(bytes));
    if outcome.is_err() || begin.elapsed() > ONE {
        panic!(
            "{name}, {what}, after {:?}: keep this as tools/fuzz/corpus/{name}/found-...: {}",
            begin.elapsed(),
            hex::encode(bytes)
        );
    }
}

fn each_for(each: Duration, seed: u64) {
    let mut told = String::new();
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has a corpus");
        for (path, bytes) in &corpus {
            hand(name, target, bytes, &path.display());
        }
        let seeds: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
        let mut random = Random(seed);
        let (begin, mut inputs) = (Instant::now(), 0u64);
        while begin.elapsed() < each {
            let bytes = change(&mut random, &seeds, &seeds[random_index(inputs, seeds.len())]);
            hand(name, target, &bytes, &format!("input {inputs} of seed {seed}"));
            inputs += 1;
        }
        told.push_str(&format!("\n  {name}: {} of the corpus, {inputs} changes", seeds.len()));
    }
    println!("seed {seed}:{told}");
}

fn random_index(input: u64, count: usize) -> usize {
    usize::try_from(input % u64::try_from(count).expect("fits")).expect("fits")
}

#[test]
fn every_target_holds_for_its_corpus_and_changes_of_it() {
    let seconds = std::env::var("TAGLEDGER_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    let targets = u32::try_from(TARGETS.len()).expect("few");
    let seed = std::env::var("TAGLEDGER_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    each_for(seconds.map_or(EACH, |seconds| Duration::from_secs(seconds) / targets), seed);
}

#[test]
fn honest_seeds_are_understood() {
    // A corpus of nothing but nonsense would test only the first line of each decoder.
    let understood = |target: &str, is: &dyn Fn(&[u8]) -> bool| {
        assert!(corpus(target).iter().any(|(_, bytes)| is(bytes)), "no seed of {target} is understood");
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    understood("statement", &|bytes| Statement::parse(bytes).is_ok());
    understood("entry", &|bytes| tagledger::ledger::entry::SignedEntry::decode(bytes).is_ok());
    understood("policy", &|bytes| Policy::parse(&text(bytes)).is_ok());
    understood("evidence", &|bytes| saved::from_text(&text(bytes)).is_ok());
    understood("tlog_proof", &|bytes| tagledger::ledger::tlog_proof::from_text(&text(bytes)).is_ok());
    understood("names", &|bytes| text(bytes).parse::<tagledger::ledger::names::TagRef>().is_ok());
    understood("journal", &|bytes| !tagledger::edge::gateway::journal::read(&text(bytes)).is_empty());
    let registry = "registry.example".parse().expect("a registry");
    understood("webhook", &|bytes| distribution::read_envelope(&registry, bytes).is_ok_and(|found| !found.is_empty()));
    understood("deadline", &|bytes| tagledger::api::grpc_timeout(&text(bytes)).is_some());
    understood("scanner_state", &|bytes| tagledger::edge::scanner::kept_again(bytes, &registry).is_some());
    let answer = |which: u8, is: &dyn Fn(&[u8]) -> bool| {
        understood("registry", &|bytes| bytes.split_first().is_some_and(|(first, rest)| *first == which && is(rest)));
    };
    answer(0, &|page| tagledger::edge::registry::listing::add(&mut Default::default(), &mut 0, page).is_ok());
    answer(2, &|text_| tagledger::edge::registry::token::Challenge::parse(&text(text_)).is_some());
    answer(3, &|body| tagledger::edge::registry::token::granted(body).is_some());
    understood("configuration", &|bytes| toml::from_str::<tagledger::server::config::Config>(&text(bytes)).is_ok());
}

/// What an audit of the log of the vectors is saved as.
fn audit_of_the_vectors() -> Vec<u8> {
    let vectors = std::fs::read_to_string("tests/vectors/log.json").expect("readable");
    let log: serde_json::Value = serde_json::from_str(&vectors).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let mut replay = Replay::new(text(&log["vkey"]).parse().expect("a key"));
    for entry in log["entries"].as_array().expect("entries") {
        replay.push(&hex::decode(text(&entry["entry"])).expect("hexadecimal")).expect("as it must be");
    }
    let mut saved = Vec::new();
    state::save(&replay, &text(&log["checkpoint"]["note"]), &mut saved).expect("memory can be written");
    saved
}

#[test]
fn the_seed_of_an_audit_is_one() {
    let (path, expected) = ("tools/fuzz/corpus/audit_state/00", audit_of_the_vectors());
    if std::env::var_os("TAGLEDGER_WRITE_VECTORS").is_some() {
        std::fs::write(path, &expected).expect("written");
    }
    assert!(std::fs::read(path).expect("readable") == expected, "write it anew with TAGLEDGER_WRITE_VECTORS=1");
}

/// Runs something that may take neither time nor memory to speak of.
fn quick<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let (begin, before) = (Instant::now(), memory_mib());
    let result = run();
    let (took, grown) = (begin.elapsed(), memory_mib().saturating_sub(before));
    assert!(took < Duration::from_secs(10) && grown < 200, "{what} took {took:?} and {grown} MiB");
    result
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn deep_nesting_is_refused_and_costs_nothing() {
    let registry = "registry.example".parse().expect("a registry");
    for depth in [200, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let json = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            let events = format!("{{\"events\":[{json}]}}");
            quick("webhook", || {
                if let Ok(readings) = distribution::read_envelope(&registry, events.as_bytes()) {
                    assert!(readings.iter().all(|reading| matches!(reading, distribution::Reading::Refused { .. })));
                }
            });
            assert!(quick("evidence", || saved::from_text(&json)).is_err());
            for format in [
                Format::Acr,
                Format::DockerHub,
                Format::Ecr,
                Format::GitLab,
                Format::Google,
                Format::Harbor,
                Format::Nexus,
                Format::Quay,
            ] {
                assert!(quick("import", || import(format, &json, &Place::default())).is_err(), "{format:?}");
            }
        }
        let array = format!("x = {}{}", "[".repeat(depth), "]".repeat(depth));
        let table = format!("[{}x]\ny = 1", "a.".repeat(depth.min(20_000)));
        let inline = format!("x = {}1{}", "{a=".repeat(depth), "}".repeat(depth));
        for toml in [array, table, inline] {
            assert!(quick("configuration", || toml::from_str::<tagledger::server::config::Config>(&toml)).is_err());
            assert!(quick("policy", || Policy::parse(&toml)).is_err());
        }
    }
    // Messages do not nest in themselves, but unknown groups could.
    let groups = [vec![0x0b; 100_000], vec![0x0c; 100_000]].concat();
    assert!(quick("groups", || proto::AppendBatchRequest::decode(&*groups)).is_err());
    assert!(quick("groups", || Statement::parse(&groups)).is_err());
}

#[test]
fn many_fields_are_bounded_before_they_take_memory() {
    // Two bytes each on the wire, a hundred and more in memory: as many as fit into the largest message.
    let empty_attributes = [0xb2, 0x01, 0x00].repeat(5_000);
    assert!(quick("attributes", || Statement::parse(&empty_attributes)).is_err());
    let too_long = [0xb2, 0x01, 0x00].repeat(2_000_000);
    assert!(quick("attributes", || Statement::parse(&too_long)).is_err(), "refused by its length");
    let registry = "registry.example".parse().expect("a registry");
    for count in [10_001, 2_000_000] {
        let events = format!("{{\"events\":[{}0]}}", "0,".repeat(count - 1));
        let refused = quick("events", || distribution::read_envelope(&registry, events.as_bytes()).map(drop));
        assert!(
            matches!(refused, Err(distribution::EnvelopeError::TooManyEvents(found)) if found == count),
            "{refused:?}"
        );
    }
    let rules = "[[rule]]\nid = 'a'\n".repeat(3_000);
    assert!(quick("rules", || Policy::parse(&rules)).is_err());
    let patterns =
        format!("[[rule]]\nid='a'\nrepositories=[{}]\n", "'{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}',".repeat(1_400));
    let _ = quick("patterns", || Policy::parse(&patterns));
    for expression in ["(a{1000}){1000}", "((((a{100}){100}){100}){100})", &"(".repeat(300), "(\\p{L}{500}){500}"] {
        let rule =
            format!("[[rule]]\nid='a'\nrepositories=['**']\ntags_regex=['{expression}']\nforbid=['overwrite']\n");
        assert!(quick(expression, || Policy::parse(&rule)).is_err(), "{expression}");
    }
}
