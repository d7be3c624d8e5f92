//! How a check shows: a bar on a terminal while it goes on, damages and a table or JSON at the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::client::visible;
use crate::engine::check::{Damage, Findings};
use crate::ledger::note::Vkey;

/// Between two lines on how far it got, where no bar can be drawn.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How far something long got, on standard error.
pub struct Progress {
    bar: ProgressBar,
    is_drawn: bool,
    told: Mutex<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Nothing is done yet.
    pub fn new() -> Self {
        let is_drawn = io::stderr().is_terminal();
        let target = if is_drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{msg:14} {bar:30} {human_pos} of {human_len}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        Self { bar, is_drawn, told: Mutex::new(Instant::now()) }
    }

    /// So much of a step is done.
    pub fn tell(&self, step: &'static str, done: u64, of: Option<u64>) {
        if self.bar.message() != step {
            self.bar.set_message(step);
            self.bar.reset_eta();
        }
        match of {
            Some(of) => self.bar.set_length(of),
            None => self.bar.unset_length(),
        }
        self.bar.set_position(done);
        if let Ok(mut told) = self.told.lock()
            && !self.is_drawn
            && let Some(line) = line(step, done, of, &mut told, Instant::now())
        {
            eprintln!("{line}");
        }
    }

    /// Makes room for the report.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far it got, unless that was told just now.
fn line(step: &str, done: u64, of: Option<u64>, told: &mut Instant, now: Instant) -> Option<String> {
    if now.saturating_duration_since(*told) < TELL_EVERY {
        return None;
    }
    *told = now;
    let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
    Some(format!("tagledgerd: {step}: {done}{of}"))
}

/// Prints what was found.
pub(super) fn report(findings: &Findings, vkey: &Vkey, path: &Path, json: bool) {
    let text = if json { document(findings, vkey, path) } else { text(findings, vkey, path) };
    // Who does not want to read it all closes the pipe.
    let _ = io::stdout().write_all(text.as_bytes());
}

fn text(findings: &Findings, vkey: &Vkey, path: &Path) -> String {
    let mut text = String::new();
    for damage in &findings.damages {
        let Damage { table, place, key, found, expected } = damage;
        let key = if key.is_empty() { String::new() } else { format!(" (key {})", hex::encode(key)) };
        text += &visible(&format!("{table}: {place}{key}"));
        text += &format!("\n    is       {}\n    must be  {}\n", visible(found), visible(expected));
    }
    let told: u64 = findings.counts.iter().map(|(_, count)| count).sum();
    let untold = told - findings.damages.len() as u64;
    if untold > 0 {
        text += &format!("and {untold} more\n");
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["TABLE", "ROWS", "DAMAGES"]);
    for (name, rows, damages) in tables(findings) {
        table.add_row([name.to_owned(), rows.map_or("-".to_owned(), |rows| rows.to_string()), damages.to_string()]);
    }
    text += &table.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>();
    text + "\n" + &verdict(findings, vkey, path) + "\n"
}

/// Tables that were read or are damaged.
fn tables(findings: &Findings) -> Vec<(&'static str, Option<u64>, u64)> {
    let damages = |name| findings.counts.iter().find(|(table, _)| *table == name).map_or(0, |(_, count)| *count);
    let mut tables: Vec<_> = findings.rows.iter().map(|(name, rows)| (*name, Some(*rows), damages(*name))).collect();
    let others = findings.counts.iter().filter(|(name, _)| findings.rows.iter().all(|(table, _)| table != name));
    tables.extend(others.map(|(name, count)| (*name, None, *count)));
    tables
}

fn verdict(findings: &Findings, vkey: &Vkey, path: &Path) -> String {
    let origin = vkey.origin();
    if findings.is_whole() && findings.entries == 0 {
        return format!(
            "{} is the ledger {origin}, in which nothing is yet: there is nothing to check",
            path.display()
        );
    }
    if findings.is_whole() {
        return format!(
            "{} is whole: {} entries of {origin}, each signed, and every other row is what follows from them",
            path.display(),
            findings.entries
        );
    }
    let compared = match findings.entries - findings.derived.min(findings.entries) {
        0 => String::new(),
        _ if findings.derived == 0 => "; nothing could be derived, so no other row was compared".to_owned(),
        _ => format!(
            "; rows were compared as far as they follow from the first {} of {} entries",
            findings.derived, findings.entries
        ),
    };
    format!(
        "{} is DAMAGED{compared}. Keep the directory as it is, and see \"A damaged database\" in docs/OPERATIONS.md",
        path.display()
    )
}

fn document(findings: &Findings, vkey: &Vkey, path: &Path) -> String {
    let damage = |damage: &Damage| {
        json!({
            "table": damage.table,
            "place": damage.place,
            "key": hex::encode(&damage.key),
            "found": damage.found,
            "expected": damage.expected,
        })
    };
    let tables = tables(findings).into_iter();
    let tables = tables.map(|(name, rows, damages)| json!({ "table": name, "rows": rows, "damages": damages }));
    let document = json!({
        "database": path.display().to_string(),
        "origin": vkey.origin().as_str(),
        "is_whole": findings.is_whole(),
        "entries": findings.entries,
        "derived": findings.derived,
        "tables": tables.collect::<Vec<_>>(),
        "damages": findings.damages.iter().map(damage).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_check_got_is_told_every_ten_seconds_where_no_bar_can_be_drawn() {
        let begin = Instant::now();
        let mut told = begin;
        let mut at = |seconds, done, of| line("entries", done, of, &mut told, begin + Duration::from_secs(seconds));
        assert_eq!([at(1, 5, Some(90)), at(9, 50, Some(90))], [None, None]);
        assert_eq!(at(10, 60, Some(90)).as_deref(), Some("tagledgerd: entries: 60 of 90"));
        assert_eq!(at(19, 70, Some(90)), None);
        assert_eq!(at(21, 80, None).as_deref(), Some("tagledgerd: entries: 80"));
    }
}
