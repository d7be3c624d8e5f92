//! `policy`: the rules in force, others to come, and what those would change.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::audit::Progress;
use super::record::Sent;
use super::show::{outcome_name, verdict, words};
use super::table::Rows;
use super::when::{Moment, moment};
use super::{Answering, Ending, Failure, Globals, Outcome, Output, complain, json, print, show, write_out};
use crate::client::audit::{Audited, StateFile};
use crate::ledger::answer::{Answer, Question};
use crate::ledger::entry::Body;
use crate::ledger::keys::Keys as _;
use crate::ledger::names::{Registry, Repository, TagRef};
use crate::ledger::policy::import::{Format, Place, import};
use crate::ledger::policy::{Change, Outlook, Policy, difference};
use crate::ledger::replay::what_if::WhatIf;
use crate::ledger::statement::Kind;
use crate::proto;

/// Show, try, compare and set the rules on which tags may change
///
/// A policy is one TOML file. docs/POLICY.md has the language, and an example for the way of every registry.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Show the policy in force, now or at a time
    Show(ShowPolicy),
    /// Set the policy: it is in force from its entry on
    Set(Set),
    /// Try a policy: on tags, or on everything that the ledger recorded
    Test(Test),
    /// Show what changes between the policy in force and one in a file
    Diff(Difference),
    /// Write a policy from what a registry exports about its own rules
    Import(Import),
}

/// Show the policy in force, now or at a time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger policy show\n  tagledger policy show --raw > policy.toml\n  \
    tagledger policy show --time \"3 days ago\" --save policy.json\n\nExits 4 if none was set yet: then there are no rules.")]
pub(super) struct ShowPolicy {
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    /// Print the text of the policy and nothing else
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    answering: Answering,
}

/// Set the policy: it is in force from its entry on
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tagledger policy set policy.toml --token-file token\n\n\
    Shows what changes, and sends the policy as one that replaces the one it was compared with: if somebody else was faster, it \
    is denied (exit 1). Past entries keep what they were judged by.")]
pub(super) struct Set {
    /// The policy; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    sent: Sent,
}

/// Try a policy: on tags, or on everything that the ledger recorded
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tagledger policy test policy.toml registry.example/team/app:v1 registry.example/team/app:latest\n  \
    tagledger policy test policy.toml\n\n\
    With tags, says for each what the policy makes of a change of it; no server is asked. Without, audits the whole log \
    (see `tagledger audit`), and says which changes of the past the policy would have judged otherwise, and which tags of now it \
    protects. Each statement is judged against what the tags really were then."
)]
pub(super) struct Test {
    /// The policy; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tags, registry/repository:tag [default: the whole ledger]
    #[arg(value_name = "REF")]
    tags: Vec<TagRef>,
    #[command(flatten)]
    output: Output,
}

/// Show what changes between the policy in force and one in a file
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tagledger policy diff policy.toml")]
pub(super) struct Difference {
    /// The policy; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    answering: Answering,
}

/// Write a policy from what a registry exports about its own rules
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    curl -u USER https://harbor.example/api/v2.0/projects/team/immutabletagrules |\n    \
    tagledger policy import harbor - --registry harbor.example --under team > policy.toml\n  \
    aws ecr describe-repositories | tagledger policy import ecr -\n\n\
    What each format is, and where to get it, is in docs/POLICY.md. What was left out is told on standard error. Policies are put \
    together by writing their rules one below the other.")]
pub(super) struct Import {
    /// Whose export it is
    #[arg(value_enum, value_name = "FORMAT")]
    format: Exported,
    /// The export, JSON; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The registry's name in the ledger, where the export does not say it
    #[arg(long, value_name = "HOST")]
    registry: Option<Registry>,
    /// The project, organisation or repository that was asked for the export, where it does not say it
    #[arg(long, value_name = "PATH")]
    under: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Exported {
    Acr,
    Dockerhub,
    Ecr,
    Gitlab,
    Google,
    Harbor,
    Nexus,
    Quay,
}

impl PolicyCommand {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        match self {
            Self::Show(show) => show.run(globals).await,
            Self::Set(set) => set.run(globals).await,
            Self::Test(test) => test.run(globals).await,
            Self::Diff(diff) => diff.run(globals).await,
            Self::Import(import) => import.run(),
        }
    }
}

impl ShowPolicy {
    async fn run(self, globals: &Globals) -> Outcome {
        let question = Question::PolicyAt { at_us: self.time.as_us() };
        if !self.raw {
            return globals.answer(question, &self.answering).await;
        }
        let (answer, claimed) = globals.open().await?.ask(question).await?;
        self.answering.keep(&claimed)?;
        let (policy, is_set) = in_force(&answer);
        // It has no other control characters than line breaks and tabs.
        write_out(policy.text())?;
        Ok(if is_set { Ending::Answered } else { Ending::Absent })
    }
}

impl Set {
    async fn run(self, globals: &Globals) -> Outcome {
        let policy = read(&self.file)?;
        let ledger = globals.open().await?;
        let (answer, _) = ledger.ask(Question::PolicyAt { at_us: 0 }).await?;
        let (before, is_set) = in_force(&answer);
        if is_set && before == policy {
            complain(&format!("the policy in force is this very text, {}: nothing is recorded", before.digest()));
            return show::answer(&answer, self.sent.output());
        }
        if !self.sent.output().json {
            print(&(lines(&before, &policy) + "\n"))?;
        }
        let change = proto::PolicyChange { policy: policy.text().to_owned(), replaces: before.digest().to_string() };
        let kind = proto::statement::Kind::PolicyChange(change);
        let receipt = self.sent.send_to(&ledger, kind).await?;
        show::receipt(&receipt, self.sent.output())
    }
}

impl Test {
    async fn run(self, globals: &Globals) -> Outcome {
        let policy = read(&self.file)?;
        if !self.tags.is_empty() {
            let tags = self.tags.iter();
            print(&if self.output.json {
                json::text(
                    &json!({ "policy_digest": policy.digest().as_str(), "tags": tags.map(|tag| outlook(&policy, tag)).collect::<Vec<_>>() }),
                )
            } else {
                let mut rows = Rows::new(&["TAG", "CREATE", "OVERWRITE", "RECREATE", "DELETE"]);
                tags.for_each(|tag| {
                    let words = Change::ALL.map(|change| outlook_words(policy.outlook(tag, change)));
                    rows.add(std::iter::once(tag.to_string()).chain(words));
                });
                rows.text()
            })?;
            return Ok(Ending::Answered);
        }
        let ledger = globals.open().await?;
        let keys = ledger.keys();
        let file = StateFile::at(globals.trust_folder()?.audit_state(keys.first().origin()), &*keys)?;
        let mut audit = ledger.audit(None).await?;
        audit.also_judge_by(policy);
        let progress = Progress::new(audit.size(), audit.end());
        let audited = audit.run(file, |size| progress.tell(size)).await;
        progress.end();
        let audited = audited?;
        let what_if = audited.what_if.as_ref().expect("it was asked for");
        print(&if self.output.json { json::text(&document(&audited, what_if)) } else { text(&audited, what_if) })?;
        Ok(Ending::Answered)
    }
}

impl Difference {
    async fn run(self, globals: &Globals) -> Outcome {
        let policy = read(&self.file)?;
        let (answer, claimed) = globals.open().await?.ask(Question::PolicyAt { at_us: 0 }).await?;
        self.answering.keep(&claimed)?;
        let (before, _) = in_force(&answer);
        if self.answering.output.json {
            let mut document = json::answer(&answer);
            document["difference"] = json!({
                "from": before.digest().as_str(),
                "to": policy.digest().as_str(),
                "lines": difference(&before, &policy),
            });
            print(&json::text(&document))?;
        } else {
            print(&(lines(&before, &policy) + &verdict(&answer.verdict())))?;
        }
        Ok(Ending::Answered)
    }
}

impl Import {
    fn run(self) -> Outcome {
        let under = match (&self.under, &self.registry) {
            (None, _) => None,
            (Some(path), registry) => {
                let judged_for = registry.clone().unwrap_or_else(|| "registry.invalid".parse().expect("a registry"));
                let parsed = Repository::parse(&judged_for, path);
                Some(parsed.map_err(|error| Failure::Usage(format!("--under {path}: {error}")))?)
            }
        };
        let place = Place { registry: self.registry, under };
        let format = match self.format {
            Exported::Acr => Format::Acr,
            Exported::Dockerhub => Format::DockerHub,
            Exported::Ecr => Format::Ecr,
            Exported::Gitlab => Format::GitLab,
            Exported::Google => Format::Google,
            Exported::Harbor => Format::Harbor,
            Exported::Nexus => Format::Nexus,
            Exported::Quay => Format::Quay,
        };
        let shown = self.file.display().to_string();
        let imported = import(format, &contents(&self.file)?, &place)
            .map_err(|error| Failure::Operational(format!("{shown}: {error}")))?;
        imported.notes.iter().for_each(|note| complain(note));
        print(&imported.document.to_text())?;
        Ok(Ending::Answered)
    }
}

/// The policy that an answer shows to be in force, and whether one was ever set.
fn in_force(answer: &Answer) -> (Policy, bool) {
    match policy_of(answer) {
        Some(policy) => (policy.clone(), true),
        None => (Policy::default(), false),
    }
}

/// The policy that an answer shows to be in force, if one was ever set.
pub(super) fn policy_of(answer: &Answer) -> Option<&Policy> {
    let crate::ledger::answer::Finding::State(state) = &answer.finding else { return None };
    let entry = answer.entries.get(state.setting.as_ref()?.set_by.index)?;
    match &entry.body {
        Body::Record(_, statement) => match &statement.kind {
            Kind::PolicyChange { policy, .. } => Some(policy),
            _ => None,
        },
        Body::Commitment(_) => None,
    }
}

fn read(path: &Path) -> Result<Policy, Failure> {
    let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    Policy::parse(&contents(path)?).map_err(|error| Failure::Usage(format!("{shown}: {error}")))
}

/// At most what could be one: a file is not read to its end whatever it holds.
fn contents(path: &Path) -> Result<String, Failure> {
    const MAX_LENGTH: u64 = 64 << 20;
    let failed = |error: std::io::Error| Failure::Operational(format!("cannot read {}: {error}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(MAX_LENGTH).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_LENGTH).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

/// What changes, for people.
fn lines(from: &Policy, to: &Policy) -> String {
    let lines = difference(from, to);
    if lines.is_empty() {
        let same = if from == to { "the same text" } else { "other words, the same rules" };
        return format!("nothing changes: {same}\n");
    }
    lines.join("\n") + "\n"
}

fn outlook_words(outlook: Outlook<'_>) -> String {
    match outlook {
        Outlook::Allowed => "allowed".to_owned(),
        Outlook::AllowedBy(rule) => format!("allowed by {rule}"),
        Outlook::ForbiddenBy(rule) => format!("forbidden by {rule}"),
        Outlook::NeedsPromotion(rule) => format!("promotion by {rule}"),
    }
}

fn outlook(policy: &Policy, tag: &TagRef) -> Value {
    let change = |change: Change| {
        let (word, rule) = match policy.outlook(tag, change) {
            Outlook::Allowed => ("ALLOWED", None),
            Outlook::AllowedBy(rule) => ("ALLOWED", Some(rule)),
            Outlook::ForbiddenBy(rule) => ("FORBIDDEN", Some(rule)),
            Outlook::NeedsPromotion(rule) => ("NEEDS_PROMOTION", Some(rule)),
        };
        (change.word().to_owned(), json!({ "is": word, "rule": rule }))
    };
    let changes: serde_json::Map<String, Value> = Change::ALL.map(change).into_iter().collect();
    json!({ "tag": tag.to_string(), "changes": changes })
}

/// The tags that are bound now and that a rule protects, by what it forbids.
fn protected(what_if: &WhatIf) -> Vec<(&TagRef, [Outlook<'_>; 2])> {
    let of = |tag| [Change::Overwrite, Change::Delete].map(|change| what_if.policy().outlook(tag, change));
    let is_protected = |outlook: &Outlook<'_>| matches!(outlook, Outlook::ForbiddenBy(_) | Outlook::NeedsPromotion(_));
    let tags = what_if.bound.keys().map(|tag| (tag, of(tag)));
    tags.filter(|(_, outlooks)| outlooks.iter().any(is_protected)).collect()
}

fn text(audited: &Audited, what_if: &WhatIf) -> String {
    let protected = protected(what_if);
    let mut rows = Rows::list();
    rows.field("policy", what_if.policy().digest());
    rows.field("rules", what_if.policy().rules().len());
    rows.field("tags", format!("{} bound now, {} of them protected", what_if.bound.len(), protected.len()));
    rows.field("past", format!("{} statements about tags, {} judged otherwise", what_if.statements, what_if.otherwise));
    let mut text = rows.text();
    if !protected.is_empty() {
        let mut rows = Rows::new(&["TAG", "OVERWRITE", "DELETE"]);
        protected.iter().for_each(|(tag, outlooks)| {
            rows.add(std::iter::once(tag.to_string()).chain(outlooks.map(outlook_words)));
        });
        text.push_str(&format!("\n{}", rows.text()));
    }
    if !what_if.judgements.is_empty() {
        let mut rows = Rows::new(&["ENTRY", "RECORDED", "WHAT", "ABOUT", "WAS", "WOULD BE", "RULE", "WHY"]);
        for judged in &what_if.judgements {
            rows.add([
                judged.index.to_string(),
                words(judged.recorded_at_us),
                judged.verb.to_owned(),
                judged.about.clone(),
                outcome_name(judged.was).to_owned(),
                outcome_name(judged.would_be).to_owned(),
                if judged.would_be_by.is_empty() { judged.was_by.clone() } else { judged.would_be_by.clone() },
                judged.detail.clone(),
            ]);
        }
        text.push_str(&format!("\n{}", rows.text()));
        let left = what_if.otherwise - u64::try_from(what_if.judgements.len()).unwrap_or(what_if.otherwise);
        if left > 0 {
            text.push_str(&format!("and {left} more\n"));
        }
    }
    text + &verdict(&audited.verdict())
}

fn document(audited: &Audited, what_if: &WhatIf) -> Value {
    let judged = |judged: &crate::ledger::replay::what_if::Judgement| {
        json!({
            "index": judged.index,
            "verb": judged.verb,
            "about": judged.about,
            "was": { "outcome": outcome_name(judged.was), "rule": judged.was_by },
            "would_be": { "outcome": outcome_name(judged.would_be), "rule": judged.would_be_by, "detail": judged.detail },
        })
    };
    let tags: BTreeMap<String, Value> =
        protected(what_if).iter().map(|(tag, _)| (tag.to_string(), outlook(what_if.policy(), tag))).collect();
    let verdict = audited.verdict();
    json!({
        "answer": {
            "policy_digest": what_if.policy().digest().as_str(),
            "bound": what_if.bound.len(),
            "protected": tags.into_values().collect::<Vec<_>>(),
            "statements": what_if.statements,
            "otherwise": what_if.otherwise,
            "judgements": what_if.judgements.iter().map(judged).collect::<Vec<_>>(),
        },
        "verification": {
            "origin": audited.keys.first().origin().as_str(),
            "vkey": audited.keys.newest().to_string(),
            "size": audited.checkpoint.size,
            "checked": verdict.checked,
            "proven": verdict.proven,
            "unproven": verdict.unproven,
        },
    })
}
