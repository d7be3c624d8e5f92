//! The language of expressions, read by somebody else: Go's `regexp`, whose language is RE2's, as `tests/go/regexp/main.go`.
//!
//! What a policy takes, Go takes and matches alike. What only Go takes is what docs/SPEC.md, appendix B, says a policy does not.

mod random;

use std::convert::Infallible;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use random::Random;
use tagledger::ledger::names::{Tag, TagRef};
use tagledger::ledger::policy::{Change, Document, Policy, RuleText};

const EXPRESSIONS: usize = 6_000;

fn roll(random: &mut Random, sides: u64) -> usize {
    usize::try_from(random.below(sides)).expect("small")
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[roll(random, from.len() as u64)]
}

const ATOMS: [&str; 54] = [
    "a",
    "b",
    "K",
    "k",
    "1",
    "_",
    "-",
    ".",
    "^",
    "$",
    "]",
    "}",
    "{",
    "{,2}",
    "{01}",
    "{a}",
    "\\A",
    "\\z",
    "\\b",
    "\\B",
    "\\d",
    "\\D",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\n",
    "\\t",
    "\\.",
    "\\_",
    "\\x41",
    "\\x{6b}",
    "\\101",
    "\\0",
    "\\608",
    "\\Qa.\\E",
    "\\Q*|\\E",
    "\\Q\\E",
    "(?i)",
    "(?-i)",
    "(?i-i)",
    "(?msU)",
    "[]a]",
    "[^]a]",
    "[a-]",
    "[[a]",
    "[\\d-z]",
    "[[:upper:]]",
    "[[:^lower:]]",
    "[^[:alnum:]_]",
    "[[:alpha:]",
    "[Z-a]",
    "[\\x00-\\x60]",
    "[^\\W-]",
];
const GROUPS: [&str; 7] = ["(", "(?:", "(?i:", "(?-i:", "(?P<n>", "(?sU-m:", "(?P<a_1>"];
const REPETITIONS: [&str; 10] = ["*", "+", "?", "*?", "??", "{2}", "{0,1}", "{1,}?", "{0}", "{2,3}"];
/// What mostly makes it none.
const STRAYS: [&str; 24] = [
    "(", ")", "[", "*", "{2}", "{2,1}", "\\", "\\1", "\\8", "\\C", "\\Z", "\\E", "\\Q", "\\pL", "\\x", "\\x{}",
    "\\xff", "(?", "(?=a)", "(?x)", "(?i-)", "(?P<>a)", "[[:a:]]", "[b-a]",
];

fn expression(random: &mut Random, depth: usize) -> String {
    let branch = |random: &mut Random| (0..roll(random, 4)).map(|_| piece(random, depth)).collect::<String>();
    let branches: Vec<String> = (0..=roll(random, 3) / 2).map(|_| branch(random)).collect();
    branches.join("|")
}

fn piece(random: &mut Random, depth: usize) -> String {
    let atom = match roll(random, 30) {
        0 => pick(random, &STRAYS).to_owned(),
        1..8 if depth > 0 => format!("{}{})", pick(random, &GROUPS), expression(random, depth - 1)),
        _ => pick(random, &ATOMS).to_owned(),
    };
    if roll(random, 3) == 0 { atom + pick(random, &REPETITIONS) } else { atom }
}

fn tag(random: &mut Random) -> String {
    let rest: String =
        (0..roll(random, 7)).map(|_| pick(random, &["a", "A", "b", "k", "K", "1", "8", "0", "_", "-", "."])).collect();
    format!("{}{rest}", pick(random, &["a", "b", "K", "1", "_"]))
}

#[test]
fn what_a_policy_takes_go_takes_and_matches_alike() {
    let mut random = Random::new();
    let cases: Vec<(String, Vec<String>)> = (0..EXPRESSIONS)
        .map(|_| {
            let expression = ["", "^"][roll(&mut random, 2)].to_owned()
                + &expression(&mut random, 3)
                + ["", "$"][roll(&mut random, 2)];
            (expression, (0..10).map(|_| tag(&mut random)).collect())
        })
        .filter(|(expression, _): &(String, _)| (1..=512).contains(&expression.len()))
        .collect();
    let answers = go(&cases);
    assert_eq!(answers.len(), cases.len());
    let (mut taken, mut found, mut refused, mut only_go) = (0, 0, 0, 0);
    for ((expression, tags), go) in cases.iter().zip(answers) {
        let rule = RuleText { id: "one".to_owned(), tags_regex: Some(vec![expression.clone()]), ..RuleText::default() };
        match Policy::parse(&Document { exempt_referrers: None, rule: vec![rule] }.to_text()) {
            Ok(policy) => {
                let ours: String = tags.iter().map(|tag| if is_matched(&policy, tag) { '1' } else { '0' }).collect();
                assert_eq!(ours, go, "{expression} in {tags:?}");
                taken += 1;
                found += ours.matches('1').count();
            }
            Err(error) if go != "refused" => {
                let says = error.to_string();
                let documented = ["repeats nothing", "beyond ASCII", "Unicode"];
                assert!(documented.iter().any(|reason| says.contains(reason)), "Go takes it: {says}");
                only_go += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("{taken} taken, {found} matches; {refused} refused by both, {only_go} by the policy alone");
    assert!(taken > 2_000 && found > 5_000 && refused > 500, "{taken} taken, {found} matches, {refused} refused");
}

fn is_matched(policy: &Policy, tag: &str) -> bool {
    let tag: TagRef = format!("r/app:{tag}").parse().expect("a reference");
    let Ok(found) = policy.forbids(&tag, Change::Overwrite, || Ok::<Vec<Tag>, Infallible>(Vec::new()));
    found.is_some()
}

/// What Go says to each of the cases.
fn go(cases: &[(String, Vec<String>)]) -> Vec<String> {
    let needed = "this test needs Go; run: apt-get install golang-go";
    let mut go = Command::new("go")
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .args(["run", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go/regexp/main.go")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("go does not start ({error}); {needed}"));
    let lines: String = cases.iter().map(|(expression, tags)| format!("{expression}\t{}\n", tags.join("\t"))).collect();
    let mut input = go.stdin.take().expect("piped");
    let writer = thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = go.wait_with_output().expect("go ends");
    writer.join().expect("no panic").expect("go reads");
    assert!(output.status.success(), "{needed}");
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}
