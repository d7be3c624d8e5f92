//! How a scan shows: a bar on a terminal and lines in a log while it goes on, a table or JSON at the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::edge::scanner::{Failure, Finding, Kind, Report, Watching};
use crate::ledger::time::rfc3339;

/// Follows a round.
pub(super) struct Progress {
    /// Hidden where standard error is no terminal; then lines tell.
    bar: ProgressBar,
    is_terminal: bool,
    looked: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{spinner} {pos} of {len} repositories  {elapsed}  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        if is_terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar, is_terminal, looked: AtomicU64::new(0) }
    }

    /// Makes room for the report.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, text: &str) {
        if self.is_terminal { self.bar.println(text) } else { tracing::info!("{text}") }
    }
}

impl Watching for Progress {
    fn repositories(&self, count: usize) {
        self.bar.reset();
        self.bar.set_length(u64::try_from(count).unwrap_or_default());
        self.looked.store(0, Ordering::Relaxed);
        if !self.is_terminal {
            tracing::info!(repositories = count, "a round begins");
        }
    }

    fn repository(&self, name: &str, tags: usize) {
        self.bar.inc(1);
        self.bar.set_message(format!("{name}: {tags} tags to look at"));
        if !self.is_terminal {
            tracing::info!(repository = name, tags, "looking");
        }
    }

    fn looked(&self) {
        let looked = self.looked.fetch_add(1, Ordering::Relaxed) + 1;
        if looked.is_multiple_of(1000) && !self.is_terminal {
            tracing::info!(tags = looked, "looked at");
        }
    }

    fn found(&self, finding: &Finding) {
        let Finding { tag, kind, .. } = finding;
        let entry = finding.entry.map_or(String::new(), |index| format!(", entry {index}"));
        let why = if finding.reason.is_empty() { String::new() } else { format!(": {}", visible(&finding.reason)) };
        self.line(&format!("{} {tag}{entry}{why}", kind.as_str()));
    }

    fn looking_again(&self, tags: usize) {
        self.bar.set_message(format!("{tags} tags differ; they are looked at again after a pause"));
        if !self.is_terminal {
            tracing::info!(tags, "looking again, after a pause");
        }
    }

    fn failed(&self, what: &str, reason: &str) {
        let text = format!("{}: {}", visible(what), visible(reason));
        if self.is_terminal { self.bar.println(text) } else { tracing::warn!("{text}") }
    }
}

/// Prints what a round found.
pub(super) fn report(report: &Report, as_json: bool) -> io::Result<()> {
    let text = if as_json { format!("{}\n", json(report)) } else { text(report) };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

pub(super) fn json(report: &Report) -> Value {
    let time = |time_us: u64| (time_us > 0).then(|| rfc3339(time_us));
    let counts: serde_json::Map<String, Value> =
        Kind::ALL.iter().map(|kind| (kind.as_str().to_owned(), report.count(*kind).into())).collect();
    let finding = |finding: &Finding| {
        json!({
            "tag": finding.tag,
            "kind": finding.kind.as_str(),
            "ledger": finding.ledger,
            "registry": finding.registry,
            "last_seen": time(finding.last_seen_us),
            "first_seen": time(finding.first_seen_us),
            "checks_entry": finding.checks_entry,
            "entry": finding.entry,
            "outcome": finding.outcome,
            "reason": finding.reason,
        })
    };
    let failure = |failure: &Failure| json!({ "what": failure.what, "reason": failure.reason, "gap": failure.is_gap });
    json!({
        "registry": report.registry,
        "complete": report.is_complete(),
        "dry_run": report.dry_run,
        "started": time(report.started_us),
        "finished": time(report.finished_us),
        "repositories": report.repositories,
        "tags": report.tags,
        "agreed": report.agreed,
        "counts": counts,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_left_out": report.left_out.values().sum::<u64>(),
        "failures": report.failures.iter().map(failure).collect::<Vec<_>>(),
        "failures_left_out": report.failures_left_out,
    })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if !report.findings.is_empty() {
        let mut table = plain(&["WHAT", "TAG", "LEDGER", "REGISTRY", "CAME ABOUT", "RECORDED", "WHY"]);
        for finding in &report.findings {
            let recorded = match (finding.entry, &finding.outcome) {
                (Some(index), Some(outcome)) => format!("entry {index} {outcome}"),
                _ => "-".to_owned(),
            };
            table.add_row([
                finding.kind.as_str().to_owned(),
                finding.tag.clone(),
                short(finding.ledger.as_deref()),
                short(finding.registry.as_deref()),
                interval(finding),
                recorded,
                visible(&finding.reason),
            ]);
        }
        text.push_str(&lines(&mut table));
    }
    text.push_str(&and_more(report.left_out.values().sum()));
    for Failure { what, reason, .. } in &report.failures {
        text.push_str(&format!("{}: {}\n", visible(what), visible(reason)));
    }
    text.push_str(&and_more(report.failures_left_out));
    if !text.is_empty() {
        text.push('\n');
    }
    let found: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| (report.count(*kind), kind.as_str()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    let found = if found.is_empty() { "no differences".to_owned() } else { found.join(", ") };
    let recorded = if report.dry_run { "; nothing was recorded (dry run)" } else { "" };
    let end = if report.is_complete() { "complete" } else { "NOT complete" };
    let repositories = counted(report.repositories, "repository", "repositories");
    let tags = counted(report.tags, "tag", "tags");
    text.push_str(&format!(
        "{}: {repositories}, {tags}, of which ledger and registry now agree on {}; {found}{recorded}\nthe round is {end}\n",
        report.registry, report.agreed
    ));
    text
}

fn and_more(left_out: u64) -> String {
    if left_out > 0 { format!("and {left_out} more\n") } else { String::new() }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Between which two looks it came about.
fn interval(finding: &Finding) -> String {
    match (finding.last_seen_us, finding.first_seen_us) {
        (_, 0) => "-".to_owned(),
        (0, first) => format!("before {}", seconds(first)),
        (last, first) => format!("{} to {}", seconds(last), seconds(first)),
    }
}

fn seconds(time_us: u64) -> String {
    rfc3339(time_us - time_us % 1_000_000).replace(".000000Z", "Z")
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

fn lines(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A digest by its first digits; whole ones are in the JSON.
fn short(digest: Option<&str>) -> String {
    match digest {
        None => "-".to_owned(),
        Some(digest) => digest.chars().take(7 + 12).collect(),
    }
}

/// Without control characters: what a registry says must not move the cursor.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round() -> Report {
        let digest = |letter: &str| Some(format!("sha256:{}", letter.repeat(64)));
        let finding = Finding {
            tag: "r.example/a/b:v1".into(),
            kind: Kind::Retagged,
            ledger: digest("a"),
            registry: digest("b"),
            last_seen_us: 1_790_000_000_000_001,
            first_seen_us: 1_790_000_600_000_000,
            checks_entry: None,
            entry: Some(7),
            outcome: Some("DRIFT".into()),
            reason: "recorded is\nanother".into(),
        };
        Report {
            registry: "r.example".into(),
            started_us: 1,
            finished_us: 2,
            repositories: 1,
            tags: 2,
            agreed: 2,
            findings: vec![finding],
            ..Report::default()
        }
    }

    #[test]
    fn a_report_names_every_difference_and_ends_in_a_verdict() {
        let text = text(&round());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("WHAT"), "{text}");
        assert!(
            lines[1].starts_with("retagged  r.example/a/b:v1  sha256:aaaaaaaaaaaa  sha256:bbbbbbbbbbbb  "),
            "{text}"
        );
        assert!(lines[1].ends_with("entry 7 DRIFT  recorded is another"), "{text}");
        assert_eq!(
            &lines[2..],
            [
                "",
                "r.example: 1 repository, 2 tags, of which ledger and registry now agree on 2; 1 retagged",
                "the round is complete"
            ]
        );
    }

    #[test]
    fn what_stayed_open_makes_a_round_incomplete() {
        let mut report = round();
        report.findings[0].kind = Kind::Unreachable;
        assert!(text(&report).ends_with("the round is NOT complete\n"));
        assert_eq!(
            (json(&report)["complete"].clone(), json(&report)["counts"]["unreachable"].clone()),
            (false.into(), 1.into())
        );
        report.findings.clear();
        assert!(report.is_complete());
        (report.failures_left_out, report.gaps_left_out) = (7, 1);
        assert!(text(&report).starts_with("and 7 more\n"));
        assert_eq!(json(&report)["failures_left_out"], 7);
        assert!(text(&report).ends_with("the round is NOT complete\n"));
        report.gaps_left_out = 0;
        report.failures.push(Failure { what: "the catalogue".into(), reason: "it answers 500".into(), is_gap: true });
        assert!(!report.is_complete() && text(&report).contains("the catalogue: it answers 500\n"));
    }
}
