//! Bounds on a question before anything is checked: a file may hold any text and any number where one stands. What names and
//! hashes are is settled by their types; this settles the free texts and the times, so that nothing of them can draw lines of
//! its own on a terminal.

use super::question::Question;
use crate::ledger::statement::{Violation, check_text};
use crate::ledger::time::MAX_TIME_US;

/// As in a statement.
const MAX_NAME_LENGTH: usize = 128;

/// Refuses texts and times that no ledger accepts.
pub(super) fn check(question: &Question) -> Result<(), Violation> {
    match question {
        Question::TagAt { at_us, .. }
        | Question::TagsAt { at_us, .. }
        | Question::RepositoriesAt { at_us, .. }
        | Question::PolicyAt { at_us }
        | Question::Principals { at_us } => time("question.at_us", *at_us),
        Question::TagHistory { part, .. } | Question::Sightings { part, .. } => {
            time("question.part.since_us", part.since_us)?;
            time("question.part.until_us", part.until_us)
        }
        Question::RunningAt { environment, workload, at_us, .. } => {
            name("question.environment", environment)?;
            name("question.workload", workload)?;
            time("question.at_us", *at_us)
        }
        Question::RepositoryDiff { from_us, to_us, .. } => span(*from_us, *to_us),
        Question::EnvironmentDiff { environment, from_us, to_us, .. } => {
            name("question.environment", environment)?;
            span(*from_us, *to_us)
        }
        Question::Entry { .. } | Question::Leaf { .. } | Question::Inclusion { .. } => Ok(()),
    }
}

fn span(from_us: u64, to_us: u64) -> Result<(), Violation> {
    time("question.from_us", from_us)?;
    time("question.to_us", to_us)
}

fn name(field: &str, value: &str) -> Result<(), Violation> {
    check_text(field, value, 0, MAX_NAME_LENGTH)
}

fn time(field: &str, time_us: u64) -> Result<(), Violation> {
    if time_us <= MAX_TIME_US {
        return Ok(());
    }
    let message = format!("is {time_us}; at most {MAX_TIME_US} (the end of the year 9999) is allowed");
    Err(Violation::new(field, "TOO_FAR_AHEAD", message))
}
