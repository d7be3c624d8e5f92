//! `audit`: the whole log, judged anew.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::show::{outcome_name, verdict, words};
use super::table::Rows;
use super::{Ending, Failure, Globals, Outcome, Output, complain, json, print};
use crate::client::audit::{self, AuditError, Audited, StateFile};
use crate::ledger::keys::Keys as _;
use crate::proto;

/// Between two lines on how far it got, where no bar can be drawn.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Check the whole log: every signature, every decision, every commitment
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger audit\n  tagledger audit --from last\n  \
    tagledger audit --from monday.state --state tuesday.state --json\n\n\
    Fetches every entry, and does again what the ledger did: it checks the signatures, decides every statement anew by the \
    policy that the log held at the time, computes every history and every commitment, and compares. The first entry that \
    is not what it must be is named, with what it should have been. Answers of the ledger show what it committed to; an \
    audit shows that it committed to the truth.\n\n\
    An audit reads the log from its first entry, unless it goes on from the state that an earlier one kept. It goes on from \
    what that one found without checking it again, so use only a state that you made, and that nobody else could change. \
    That its entries are still the beginning of the log is checked. The state is kept every few seconds and at the end, in \
    the trust folder or in the file named with --state. An audit that was interrupted goes on with --from last.\n\n\
    Exits 0 if everything is as it must be, 3 if not, and 1 if the log could not be read to its end. Run it now and then, \
    with --from last: a lie is found by the first audit after it.")]
pub(super) struct Audit {
    /// Go on from the state of an earlier audit: the last one kept in the trust folder, or that in a file [default: begin with
    /// the first entry]
    #[arg(long, value_name = "last|FILE")]
    from: Option<From>,
    /// Keep the state in this file [default: in the trust folder, for --from last]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Where to go on from.
#[derive(Debug, Clone)]
enum From {
    Last,
    File(PathBuf),
}

impl FromStr for From {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "last" { Self::Last } else { Self::File(text.into()) })
    }
}

impl std::convert::From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Client(error) => error.into(),
            error if error.is_verification() => Self::Verification(error.to_string()),
            error => Self::Operational(error.to_string()),
        }
    }
}

impl Audit {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let ledger = globals.open().await?;
        let keys = ledger.keys();
        let origin = keys.first().origin();
        let last = || Ok::<_, Failure>(globals.trust_folder()?.audit_state(origin));
        let file = match &self.state {
            Some(path) => path.clone(),
            None => last()?,
        };
        let file = StateFile::at(file, &*keys)?;
        let from = match &self.from {
            None => None,
            Some(From::File(path)) => {
                let missing = || Failure::Operational(format!("there is no file {}", path.display()));
                Some((path.clone(), audit::load(path, &*keys)?.ok_or_else(missing)?))
            }
            Some(From::Last) => {
                let path = last()?;
                let loaded = audit::load(&path, &*keys)?;
                if loaded.is_none() {
                    complain(&format!("no earlier audit of {} is kept; this one begins with the first entry", origin));
                }
                loaded.map(|loaded| (path, loaded))
            }
        };
        let audit = ledger.audit(from).await?;
        let (path, progress) = (file.path().to_owned(), Progress::new(audit.size(), audit.end()));
        let audited = audit.run(file, |size| progress.tell(size)).await;
        progress.end();
        let audited = audited?;
        let path = path.display().to_string();
        print(&if self.output.json { json::text(&document(&audited, &path)) } else { text(&audited, &path) })?;
        Ok(Ending::Answered)
    }
}

/// How far an audit got, on standard error: a bar on a terminal, elsewhere a line now and then.
pub(super) struct Progress {
    bar: ProgressBar,
    is_drawn: bool,
    told: std::cell::Cell<Instant>,
    end: u64,
}

impl Progress {
    pub(super) fn new(begin: u64, end: u64) -> Self {
        let is_drawn = io::stderr().is_terminal();
        let target = if is_drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = "{bar:30} {human_pos} of {human_len} entries, {eta} left";
        let style = ProgressStyle::with_template(style).expect("a valid template");
        let bar = ProgressBar::with_draw_target(Some(end), target).with_style(style).with_position(begin);
        bar.reset_eta();
        Self { bar, is_drawn, told: std::cell::Cell::new(Instant::now()), end }
    }

    pub(super) fn tell(&self, size: u64) {
        self.bar.set_position(size);
        if !self.is_drawn && self.told.get().elapsed() >= TELL_EVERY {
            self.told.set(Instant::now());
            complain(&format!("audited {size} of {} entries", self.end));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn text(audited: &Audited, path: &str) -> String {
    let counts = audited.counts;
    let mut rows = Rows::list();
    rows.field("log", audited.keys.first().origin());
    rows.field("entries", audited.checkpoint.size);
    rows.field(
        "audited",
        match audited.earlier {
            0 => "all of them now".to_owned(),
            earlier if earlier == audited.checkpoint.size => {
                "all of them before: nothing was recorded since".to_owned()
            }
            earlier => format!("the first {earlier} before, {} now", audited.checkpoint.size - earlier),
        },
    );
    let outcomes: Vec<String> = outcomes(audited).map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let outcomes = if outcomes.is_empty() { String::new() } else { format!(": {}", outcomes.join(", ")) };
    rows.field("records", format!("{}{outcomes}", counts.records()));
    rows.field("commitments", counts.commitments);
    rows.field("subjects", audited.subjects);
    let has_rules = !audited.policy.text().trim().is_empty();
    rows.field("policy", if has_rules { audited.policy.digest().as_str() } else { "none: no rules" });
    rows.field("closed", words(audited.closed_at_us));
    rows.field("state", path);
    rows.text() + &verdict(&audited.verdict())
}

/// Outcomes that occurred, and how often.
fn outcomes(audited: &Audited) -> impl Iterator<Item = (&'static str, u64)> {
    let numbers = 0..8;
    numbers
        .filter_map(|number| proto::Outcome::try_from(number).ok())
        .map(|outcome| (outcome_name(outcome), audited.counts.of(outcome)))
        .filter(|(_, count)| *count > 0)
}

fn document(audited: &Audited, path: &str) -> serde_json::Value {
    let (verdict, checkpoint) = (audited.verdict(), audited.checkpoint);
    json!({
        "answer": {
            "entries": checkpoint.size,
            "audited_before": audited.earlier,
            "records": audited.counts.records(),
            "outcomes": outcomes(audited).map(|(name, count)| (name.to_owned(), count.into())).collect::<serde_json::Map<_, _>>(),
            "commitments": audited.counts.commitments,
            "subjects": audited.subjects,
            "policy": audited.policy.text(),
            "policy_digest": audited.policy.digest().as_str(),
            "state": path,
        },
        "verification": {
            "origin": audited.keys.first().origin().as_str(),
            "vkey": audited.keys.newest().to_string(),
            "checkpoint": {
                "size": checkpoint.size,
                "root": hex::encode(checkpoint.root),
                "closed_at": crate::ledger::time::rfc3339(audited.closed_at_us),
                "note": audited.note,
            },
            "checked": verdict.checked,
            "proven": verdict.proven,
            "unproven": verdict.unproven,
        },
    })
}
