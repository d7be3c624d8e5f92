//! The files, and the small things that they are made of: byte strings in hexadecimal, lists, numbers below 2^53.

use std::path::PathBuf;

use serde_json::{Value, json};

use tagledger::ledger::merkle::Hash;

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

pub(crate) fn read(name: &str) -> Value {
    let file = std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_slice(&file).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn hexes(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(hex::encode).collect()
}

pub(crate) fn because(reason: &str, case: Value) -> Value {
    with(case, "reason", json!(reason))
}

pub(crate) fn with(mut case: Value, field: &str, value: Value) -> Value {
    case[field] = value;
    case
}

pub(crate) fn changed(mut hashes: Vec<Hash>, position: usize) -> Vec<Hash> {
    hashes[position][0] ^= 1;
    hashes
}

pub(crate) fn swapped(mut hashes: Vec<Hash>) -> Vec<Hash> {
    hashes.swap(0, 1);
    hashes
}

pub(crate) fn at(index: u64) -> usize {
    usize::try_from(index).expect("small")
}

pub(crate) fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not text: {value}"))
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap_or_else(|error| panic!("{value}: {error}"))
}

pub(crate) fn hash(value: &Value) -> Hash {
    bytes(value).try_into().unwrap_or_else(|_| panic!("not 32 bytes: {value}"))
}

pub(crate) fn hashes(value: &Value) -> Vec<Hash> {
    list(value).iter().map(hash).collect()
}
