//! The executable half of `docs/ARCHITECTURE.md`: which layer may name which, and what the pure core may not touch.
//!
//! Reads the sources as text. A path counts wherever it stands (`use`, expression, attribute), groups are taken apart and
//! `super` is resolved; comments and strings do not count. Arrows do not bind `mod tests`, which may build the layers below
//! to test against; the other rules do. Every rule is shown to fail on a small source that breaks it, at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A layer, what it may name besides itself, and what it is for. From the inside out.
const ARROWS: [(&str, &[&str]); 10] = [
    ("proto", &[]),
    ("ledger", &["proto"]),
    ("store", &["ledger", "proto"]),
    ("engine", &["store", "ledger", "proto"]),
    ("api", &["engine", "ledger", "proto"]),
    // Reaches the ledger through its own port, so that it can run in another process.
    ("edge", &["ledger", "proto"]),
    ("client", &["ledger", "proto"]),
    ("cli", &["client", "ledger", "proto"]),
    // Wires everything together.
    ("server", &["api", "client", "edge", "engine", "store", "ledger", "proto"]),
    // Parse, run, exit code.
    ("bin", &["cli", "server", "ledger"]),
];

/// What would make the ledger's answers depend on more than its arguments. A path is forbidden if one of these is a run of
/// its segments.
const IMPURE: [&[&str]; 19] = [
    &["std", "fs"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["ToSocketAddrs"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["SystemTime"],
    &["Instant"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
    &["tokio"],
    &["rocksdb"],
    &["tracing"],
    &["rand"],
    &["rand_core"],
    &["getrandom"],
    &["OsRng"],
];

/// Crates that only one place may name, and why.
const CONFINED: [(&str, &str, &str); 2] = [
    ("rocksdb", "src/store/", "another backend must be able to take its place"),
    ("bincode", "src/store/rows.rs", "it is unmaintained; its bytes are rows and are never signed, hashed or sent"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"];

#[test]
fn every_layer_names_only_the_layers_it_stands_on() {
    report(sources("src").iter().flat_map(broken_arrows).collect());
}

#[test]
fn the_ledger_is_pure() {
    report(sources("src/ledger").iter().flat_map(impurities).collect());
}

#[test]
fn rocksdb_and_bincode_stay_where_they_can_be_replaced() {
    report(sources("src").iter().flat_map(escapes).collect());
}

#[test]
fn unsafe_is_forbidden_to_every_target() {
    // Cargo's lints hold for library, programs, tests, examples and benches alike, and "forbid" can't be allowed again.
    let manifest: toml::Table = fs::read_to_string("Cargo.toml").expect("readable").parse().expect("TOML");
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
}

#[test]
fn every_file_says_first_what_it_is() {
    report(sources("src").iter().chain(&sources("tests")).filter_map(missing_opening).collect());
}

#[test]
fn no_module_has_an_empty_name() {
    report(sources("src").iter().chain(&sources("tests")).filter_map(empty_name).collect());
}

// --- the rules ---------------------------------------------------------------------------------------------------------

fn broken_arrows(source: &Source) -> Vec<String> {
    let Some(layer) = source.layer() else { return Vec::new() };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: {layer:?} is in no layer; give it a place in ARROWS", source.path)];
    };
    let layers: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let mut broken = Vec::new();
    for Mention { line, path, in_tests } in source.mentions() {
        let [head, named, ..] = path.as_slice() else { continue };
        let ours = head == "crate" || (layer == "bin" && head == "tagledger");
        if ours && !in_tests && *named != layer && layers.contains(named.as_str()) && !allowed.contains(&named.as_str())
        {
            let may = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
            let path = path.join("::");
            broken.push(format!("{}:{line}: {layer} names {path}; besides itself it may name {may}", source.path));
        }
    }
    broken
}

fn impurities(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for Mention { line, path, .. } in source.mentions() {
        let forbidden = IMPURE.iter().find(|run| path.windows(run.len()).any(|segments| segments == **run));
        if forbidden.is_some() {
            let path = path.join("::");
            found.push(format!("{}:{line}: the ledger names {path}; let it arrive as an argument", source.path));
        }
    }
    found
}

fn escapes(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for Mention { line, path, .. } in source.mentions() {
        for (name, home, reason) in CONFINED {
            if path[0] == name && !source.path.starts_with(home) {
                found.push(format!("{}:{line}: {name} is named outside {home}: {reason}", source.path));
            }
        }
    }
    found
}

fn missing_opening(source: &Source) -> Option<String> {
    (!source.text.starts_with("//! "))
        .then(|| format!("{}:1: open it with //! and say what the file is for", source.path))
}

fn empty_name(source: &Source) -> Option<String> {
    let mut names = source.path.trim_end_matches(".rs").split('/');
    let name = names.find(|name| EMPTY_NAMES.contains(name))?;
    Some(format!("{}: {name:?} says nothing about what is inside", source.path))
}

fn report(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

// --- reading sources ---------------------------------------------------------------------------------------------------

/// A file of the project.
struct Source {
    /// From the project's root, with slashes.
    path: String,
    text: String,
}

/// A path that a source names.
struct Mention {
    /// From 1.
    line: usize,
    /// Its segments; never empty. Begins with `crate` if it is one of ours, however it was written.
    path: Vec<String>,
    /// It stands in an inline `mod tests`.
    in_tests: bool,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path: PathBuf = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let path = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {folder}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    /// The first module of its path; none for the crate's root, which declares them all.
    fn layer(&self) -> Option<String> {
        self.module().into_iter().next()
    }

    /// Its module path: `src/engine/plan.rs` is `engine::plan`.
    fn module(&self) -> Vec<String> {
        let path = self.path.strip_prefix("src/").expect("a file of src").trim_end_matches(".rs");
        let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        module
    }

    fn mentions(&self) -> Vec<Mention> {
        let tokens = tokens(&self.text);
        let module = self.module();
        let mut mentions = Vec::new();
        // What each open brace belongs to: an inline module by name, or anything else.
        let mut open: Vec<Option<&str>> = Vec::new();
        let mut at = 0;
        while let Some((text, line)) = tokens.get(at) {
            let word = |offset: usize| tokens.get(at + offset).map(|(text, _)| text.as_str());
            if text == "mod" && word(2) == Some("{") {
                open.push(word(1));
                at += 3;
            } else if text == "{" {
                open.push(None);
                at += 1;
            } else if text == "}" {
                open.pop();
                at += 1;
            } else if is_word(text) {
                let (paths, end) = paths_at(&tokens, at);
                let inner: Vec<&str> = open.iter().copied().flatten().collect();
                for path in paths {
                    let path = resolve(path, &module, &inner);
                    mentions.push(Mention { line: *line, path, in_tests: inner.contains(&"tests") });
                }
                at = end;
            } else {
                at += 1;
            }
        }
        mentions
    }
}

/// Spells out where a path that begins with `super` leads.
fn resolve(path: Vec<String>, module: &[String], inner: &[&str]) -> Vec<String> {
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    if ups == 0 {
        return path;
    }
    let here: Vec<String> = module.iter().cloned().chain(inner.iter().map(|name| (*name).to_owned())).collect();
    let above = here[..here.len().saturating_sub(ups)].iter().cloned();
    std::iter::once("crate".to_owned()).chain(above).chain(path.into_iter().skip(ups)).collect()
}

/// The paths that begin at a word, `a::{b, c::d}` being two, and the position after them.
fn paths_at(tokens: &[(String, usize)], start: usize) -> (Vec<Vec<String>>, usize) {
    let text = |at: usize| tokens.get(at).map(|(text, _)| text.as_str());
    let mut path = vec![tokens[start].0.clone()];
    let mut at = start + 1;
    while text(at) == Some("::") {
        match text(at + 1) {
            Some("{") => {
                let mut paths = Vec::new();
                at += 2;
                while let Some(token) = text(at).filter(|token| *token != "}") {
                    if is_word(token) {
                        let (tails, end) = paths_at(tokens, at);
                        paths.extend(tails.into_iter().map(|tail| [path.clone(), tail].concat()));
                        at = end;
                    } else {
                        at += 1;
                    }
                }
                return (paths, at + 1);
            }
            Some(next) if is_word(next) => {
                path.push(next.to_owned());
                at += 2;
            }
            _ => break,
        }
    }
    (vec![path], at)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::` and single signs with their lines; comments, strings, characters and lifetimes left out.
fn tokens(text: &str) -> Vec<(String, usize)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let is_token = is_word(rest) || !(first.is_whitespace() || first == '"' || first == '\'');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = string_length(rest) {
            length
        } else if first == '\'' {
            character_length(rest)
        } else {
            let length = if is_word(rest) {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if is_token {
                tokens.push((rest[..length].to_owned(), line));
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// Length of the string literal that the text begins with: plain, byte, C or raw.
fn string_length(text: &str) -> Option<usize> {
    let prefix = text.bytes().take_while(|byte| b"bcr".contains(byte)).count();
    if !["", "b", "c", "r", "br", "cr"].contains(&&text[..prefix]) {
        return None;
    }
    let hashes = text[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let is_raw = text[..prefix].ends_with('r');
    if !text[prefix + hashes..].starts_with('"') || (hashes > 0 && !is_raw) {
        return None;
    }
    let begin = prefix + hashes + 1;
    if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len()));
    }
    let mut is_escaped = false;
    for (at, c) in text[begin..].char_indices() {
        match c {
            '"' if !is_escaped => return Some(begin + at + 1),
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    Some(text.len())
}

/// Length of the character literal, or of the lifetime, that the text begins with.
fn character_length(text: &str) -> usize {
    let mut inside = text[1..].char_indices();
    match (inside.next(), inside.next()) {
        (Some((_, '\\')), Some((after, escaped))) => {
            let rest = 1 + after + escaped.len_utf8();
            text[rest..].find('\'').map_or(text.len(), |end| rest + end + 1)
        }
        (Some(_), Some((end, '\''))) => 1 + end + 1,
        _ => 1 + text[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len() - 1),
    }
}

// --- the rules can fail ------------------------------------------------------------------------------------------------

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn an_arrow_is_broken_however_the_path_is_written() {
    for text in [
        "use crate::engine::Engine;",
        "use crate::{ledger::names::Tag, engine};",
        "use crate::{\n    ledger::names::Tag,\n    engine::{Engine},\n};",
        "fn f() { crate::engine::open(\"//\") }",
        "use super::super::engine;",
        "use super::super::{ledger, engine};",
        "mod inner { use super::super::super::engine; }",
        "#[derive(crate::engine::Derived)] struct S;",
        "const QUOTE: char = '\"'; use crate::engine::Engine; const OTHER: char = '\"';",
        "fn f<'a>(x: &'a str) { crate::engine::f(x) } // 'b'",
        "const RAW: &str = r#\"\"\"#; use crate::engine::Engine;",
    ] {
        let broken = broken_arrows(&source("src/store/rows.rs", text));
        assert_eq!(broken.len(), 1, "{text}: {broken:?}");
        assert!(
            broken[0].starts_with("src/store/rows.rs:") && broken[0].contains("store names crate::engine"),
            "{broken:?}"
        );
    }
    assert_eq!(broken_arrows(&source("src/bin/tagledgerd.rs", "use tagledger::engine::Engine;")).len(), 1);
    assert_eq!(broken_arrows(&source("src/edge/gateway.rs", "use crate::engine::Engine;")).len(), 1);
    assert_eq!(broken_arrows(&source("src/cli/mod.rs", "use crate::server;")).len(), 1);
    assert_eq!(broken_arrows(&source("src/server.rs", "use crate::cli::Options;")).len(), 1);
    assert_eq!(broken_arrows(&source("src/surprise/mod.rs", "")).len(), 1);
}

#[test]
fn an_arrow_holds_for_what_only_looks_like_a_path() {
    for text in [
        "use crate::store::rows; use crate::ledger::names::Tag; use crate::proto;",
        "//! See [`crate::engine`].\n/* crate::engine */ const TEXT: &str = \"crate::engine\";",
        "const RAW: &str = r#\"\"crate::engine\"#;",
        "use super::engine; // a module of the store",
        "use other::crate_engine; fn f() { engine::run() }",
        "#[cfg(test)]\nmod tests {\n    use crate::engine::Engine;\n}",
    ] {
        assert_eq!(broken_arrows(&source("src/store/rows.rs", text)), Vec::<String>::new(), "{text}");
    }
    assert_eq!(broken_arrows(&source("src/lib.rs", "pub use crate::engine::Engine;")), Vec::<String>::new());
}

#[test]
fn a_broken_arrow_is_reported_with_its_line() {
    let text = "//! Rows.\n\n/* two\nlines */\nconst TEXT: &str = \"three\nlines\";\nuse crate::api::grpc;\n";
    assert_eq!(
        broken_arrows(&source("src/store/rows.rs", text)),
        ["src/store/rows.rs:7: store names crate::api::grpc; besides itself it may name ledger, proto"]
    );
}

#[test]
fn an_impure_ledger_is_noticed() {
    for text in [
        "use std::fs;",
        "use std::{collections::BTreeMap, net::TcpStream};",
        "use std::time::SystemTime;",
        "use std::time; fn f() { time::SystemTime::now(); }",
        "#[tokio::test] async fn f() {}",
        "fn f() { tracing::info!(\"x\") }",
        "fn f() { getrandom::fill(&mut []); }",
        "fn f() -> i64 { jiff::Timestamp::now().as_second() }",
        "#[cfg(test)] mod tests { use std::env; }",
    ] {
        assert_eq!(impurities(&source("src/ledger/time.rs", text)).len(), 1, "{text}");
    }
    assert_eq!(
        impurities(&source("src/ledger/time.rs", "use std::time::Duration; use std::net::IpAddr;")),
        Vec::<String>::new()
    );
}

#[test]
fn an_escaped_crate_is_noticed() {
    assert_eq!(escapes(&source("src/engine/plan.rs", "use rocksdb::DB;")).len(), 1);
    assert_eq!(
        escapes(&source("src/store/rocks.rs", "use rocksdb::DB; #[derive(bincode::Encode)] struct Row;")).len(),
        1
    );
    assert_eq!(escapes(&source("src/store/rows.rs", "use bincode::Encode;")), Vec::<String>::new());
}

#[test]
fn a_silent_file_and_an_empty_name_are_noticed() {
    assert!(missing_opening(&source("src/ledger/time.rs", "use std::fs;\n//! Late.")).is_some());
    assert!(missing_opening(&source("src/ledger/time.rs", "//! Time.\n")).is_none());
    assert!(empty_name(&source("src/ledger/utils.rs", "")).is_some());
    assert!(empty_name(&source("tests/common/mod.rs", "")).is_some());
    assert!(empty_name(&source("src/ledger/commonplace.rs", "")).is_none());
}
