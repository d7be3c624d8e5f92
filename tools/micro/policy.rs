//! How long a decision takes under a policy of a thousand rules, in several shapes. The names asked about are all different, so nothing
//! is remembered from one to the next.
//!
//! `cargo bench --bench policy --no-default-features` measures; `cargo test --bench policy` only runs every line once.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

use tagledger::ledger::names::{Tag, TagRef};
use tagledger::ledger::policy::{Change, Policy};

const RULES: usize = 1000;

/// A shape of a policy: its name, and the rule of a number.
type Shape = (&'static str, fn(usize) -> String);

const SHAPES: [Shape; 7] = [
    ("a team each: repositories = [\"team-N/**\"]", |n| format!("repositories=['team-{n}/**']")),
    ("a repository each: repositories = [\"team-N/app\"], tags = [\"v*\"]", |n| {
        format!("repositories=['t-{n}/app']\ntags=['v*']")
    }),
    ("a pattern each: repositories = [\"team-N/*/app\"]", |n| format!("repositories=['t-{n}/*/app']")),
    ("an ending each: repositories = [\"**/app-N\"]", |n| format!("repositories=['**/app-{n}']")),
    ("tags of all: tags = [\"vN.*\"]", |n| format!("tags=['v{n}.*']")),
    ("250 expressions: tags_regex = [\"^vN[.]\"]", |n| format!("tags_regex=['^v{}[.]']", n % 250)),
    ("all about every tag: allow = [\"create\"]", |_| "allow=['create']".to_owned()),
];

fn main() {
    let is_benchmark = std::env::args().any(|argument| argument == "--bench");
    let names = if is_benchmark { 200_000 } else { 100 };
    println!("{RULES} rules; a decision about {names} tags, each asked about once, in microseconds");
    for (shape, rule) in SHAPES {
        let text: String = (0..RULES).map(|n| format!("[[rule]]\nid='{n}'\n{}\n", rule(n))).collect();
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{shape}: {error}"));
        let tags: Vec<TagRef> = (0..names).map(name).collect();
        let begun = Instant::now();
        let decide = |tag: &TagRef| policy.forbids(tag, Change::Overwrite, || Ok::<Vec<Tag>, Infallible>(Vec::new()));
        black_box(decide(&tags[0])).expect("decided");
        let built = begun.elapsed();
        let begun = Instant::now();
        let mut longest = 0.0_f64;
        let mut forbidden = 0;
        for hundred in tags.chunks(100) {
            let begun = Instant::now();
            for tag in hundred {
                let Ok(found) = decide(black_box(tag));
                forbidden += usize::from(found.is_some());
            }
            longest = longest.max(begun.elapsed().as_secs_f64() * 1e6 / 100.0);
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / f64::from(u32::try_from(names).expect("few"));
        let ready = built.as_secs_f64() * 1e3;
        println!(
            "{each:8.3}  (slowest hundred {longest:7.3}; ready in {ready:6.1} ms; {forbidden:6} forbidden)  {shape}"
        );
    }
}

/// Names that differ everywhere, some of them under a rule.
fn name(number: usize) -> TagRef {
    let (team, part) = (number % 1500, number * 7919 % 104_729);
    let repository = match number % 4 {
        0 => format!("team-{team}/service-{part}"),
        1 => format!("t-{team}/app"),
        2 => format!("t-{team}/x{part}/app"),
        _ => format!("group-{part}/app-{team}"),
    };
    format!("registry.example/{repository}:v{}.{part}", number * 31 % 1500).parse().expect("a reference")
}
