//! The examples of docs/POLICY.md: every policy in it is one, and every line of its tables is judged as it says.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;

use prost::Message as _;
use tagledger::ledger::names::{Digest, Registry, Repository, Tag, TagRef};
use tagledger::ledger::policy::Policy;
use tagledger::ledger::statement::Statement;
use tagledger::ledger::subject::{Subject, SubjectKey};
use tagledger::ledger::transition::{SubjectState, View, transition};
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, Disposition, Outcome};

/// Lines of all tables: none is overlooked.
const LINES: usize = 59;
/// Where a tag without a repository is.
const PLACE: &str = "registry.example/team/app";

/// A part of the document: its heading, a policy, and the lines of the table after it.
struct Example {
    heading: String,
    policy: String,
    lines: Vec<[String; 3]>,
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut heading, mut policy): (String, Option<String>) = (String::new(), None);
    for line in include_str!("../docs/POLICY.md").lines() {
        match (&mut policy, line) {
            (None, "```toml") => policy = Some(String::new()),
            (Some(text), "```") => {
                let (heading, policy_text) = (heading.clone(), std::mem::take(text));
                examples.push(Example { heading, policy: policy_text, lines: Vec::new() });
                policy = None;
            }
            (Some(text), line) => text.extend([line, "\n"]),
            (None, line) => {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                if let Some(words) = line.strip_prefix("### ") {
                    heading = words.to_owned();
                } else if line.starts_with("## ") {
                    heading.clear();
                } else if let [before, asked, decision] = cells[..]
                    && asked.starts_with('`')
                    && asked.contains('=')
                    && !heading.is_empty()
                {
                    let line = [before, asked, decision].map(str::to_owned);
                    examples.last_mut().expect("a policy comes before its table").lines.push(line);
                }
            }
        }
    }
    examples
}

#[derive(Default)]
struct World {
    subjects: HashMap<SubjectKey, SubjectState>,
    carried: BTreeSet<(TagRef, Digest)>,
    next: u64,
}

impl View for World {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        Ok(self.subjects.get(key).cloned().unwrap_or_default())
    }

    fn tags_bound_to(&self, _: &Registry, _: &Repository, _: &Digest) -> Result<Vec<Tag>, Infallible> {
        Ok(Vec::new())
    }

    fn tags_ever_bound_to(&self, at: &Registry, within: &Repository, to: &Digest) -> Result<Vec<Tag>, Infallible> {
        let here =
            self.carried.iter().filter(|(name, digest)| (&name.registry, &name.repository, digest) == (at, within, to));
        Ok(here.map(|(name, _)| name.tag.clone()).collect())
    }
}

impl World {
    /// Judges `tag=A` or `tag=-`, and does it if it may be done. Returns the outcome and the rule.
    fn ask(&mut self, event: &str, policy: &Policy) -> (Outcome, String) {
        let (name, to) = event.rsplit_once('=').unwrap_or_else(|| panic!("{event:?} is no tag=digest"));
        let name = if name.contains('/') { name.to_owned() } else { format!("{PLACE}:{name}") };
        let TagRef { registry, repository, tag } = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let (registry, repository, tag) = (registry.to_string(), repository.to_string(), tag.to_string());
        let disposition = Disposition::Requested.into();
        let kind = match to {
            "-" => Kind::TagDelete(proto::TagDelete { registry, repository, tag, disposition, settles: 0 }),
            digit => {
                let digest = format!("sha256:{}", digit.to_lowercase().repeat(64));
                let media_type = String::new();
                Kind::TagPush(proto::TagPush { registry, repository, tag, digest, media_type, disposition, settles: 0 })
            }
        };
        let bytes = proto::Statement { kind: Some(kind), ..proto::Statement::default() }.encode_to_vec();
        let statement = Statement::parse(&bytes).expect(event);
        let Ok(steps) = transition(self, policy, "ci", &statement, self.next);
        self.next += 1;
        for touch in &steps[0].touches {
            if let (Subject::Tag(name), Some(digest)) = (&touch.subject, touch.after.digest()) {
                self.carried.insert((name.clone(), digest.clone()));
            }
            let state =
                SubjectState { count: touch.version + 1, binding: touch.after.clone(), hold: touch.hold.clone() };
            self.subjects.insert(touch.subject.key(), state);
        }
        (steps[0].outcome, steps[0].rule.clone())
    }
}

#[test]
fn every_example_of_the_document_decides_as_it_says() {
    let mut judged = 0;
    for Example { heading, policy: text, lines } in examples() {
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{heading}: {error}\n{text}"));
        for [before, asked, decision] in lines {
            let mut world = World::default();
            for event in before.split_whitespace().map(|event| event.trim_matches('`')) {
                let (outcome, _) = world.ask(event, &Policy::default());
                assert_eq!(outcome, Outcome::Applied, "{heading}: {before}");
            }
            let (outcome, rule) = world.ask(asked.trim_matches('`'), &policy);
            let found = if outcome == Outcome::Denied { format!("`{rule}`") } else { "allowed".to_owned() };
            assert_eq!(found, decision, "{heading}: {before} then {asked}");
            assert!(
                matches!(outcome, Outcome::Denied | Outcome::Applied | Outcome::Unchanged),
                "{heading}: {outcome:?}"
            );
            judged += 1;
        }
    }
    assert_eq!(judged, LINES);
}

#[test]
fn there_is_an_example_for_every_way() {
    let found: Vec<(String, usize)> =
        examples().into_iter().map(|example| (example.heading, example.lines.len())).collect();
    for expected in [
        "Harbor, STACKIT",
        "Docker Hub",
        "Quay",
        "GitLab",
        "Google Artifact Registry",
        "ECR, with exclusions",
        "ACR locks",
        "Nexus: write once, redeploy latest",
        "Delete and re-create",
        "Mutable aliases",
        "Referrer tags",
        "Promotion",
    ] {
        assert!(found.iter().any(|(heading, lines)| heading == expected && *lines >= 1), "{expected}: {found:?}");
    }
}
