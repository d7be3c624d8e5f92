//! The verdict on an answer, in words: what was checked, what that proves, and what the evidence can't reach.

use super::history::History;
use super::question::{Part, Question};
use super::state::State;
use super::{Answer, Finding, List};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::evidence::VerifiedEntries;
use crate::ledger::keys::Keys as _;
use crate::ledger::subject::Subject;
use crate::ledger::time::rfc3339;

/// What a check was worth. Sentences without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Under which key, and as of which checkpoint.
    pub checked: String,
    /// What follows.
    pub proven: Vec<String>,
    /// What was asked and does not follow.
    pub unproven: Vec<String>,
}

impl Answer {
    /// The verdict on it.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { checked: self.checked(), proven: Vec::new(), unproven: Vec::new() };
        match &self.finding {
            Finding::State(state) => verdict.add_state(state, self.as_of_us, &self.by_then()),
            Finding::States(list) => verdict.add_list(&self.question, list, self.as_of_us),
            Finding::Changes(list) => verdict.add_list(&self.question, list, self.as_of_us),
            Finding::History(history) => verdict.add_history(history, &self.question, &self.by_then()),
            Finding::Principals(found) => {
                verdict.add_history(&found.history, &self.question, &self.by_then());
                let summary = format!("they leave {}", found.principals.summary());
                verdict.proven.extend((!found.history.versions.is_empty()).then_some(summary));
            }
            Finding::Entry(index) => verdict.proven.push(format!("entry {index} is in the log")),
            Finding::Inclusion { index, tree_size, .. } => {
                verdict.proven.push(format!("entry {index} is in the log of size {tree_size}"));
                if *tree_size != self.entries.checkpoint().size {
                    verdict.proven.push("the checkpoint's log continues that log".to_owned());
                }
            }
        }
        verdict.unproven.extend(self.beyond());
        verdict.unproven.extend(self.before_another_key());
        verdict
    }

    fn checked(&self) -> String {
        checked(&self.entries, self.subject_count)
    }

    /// Up to when nothing is left out, where that is not as far as the checkpoint.
    fn by_then(&self) -> String {
        let short = self.reach.filter(|reach| reach.size < self.entries.checkpoint().size);
        short.map_or(String::new(), |reach| format!(" up to {}", words(reach.closed_at_us)))
    }

    /// Whoever has a key that was replaced can sign old checkpoints with it; the later key signed none of them.
    fn before_another_key(&self) -> Option<String> {
        let size = self.entries.checkpoint().size;
        let keys = self.entries.keys();
        let from = keys.replaced_from(size)?;
        // At first both sign.
        let (_, signer) = Checkpoint::open_by(self.entries.note(), keys.all()).ok()?;
        if signer != self.entries.vkey() {
            return None;
        }
        let key = hex::encode(self.entries.vkey().hash());
        Some(format!(
            "that the log of the later keys continues this one: key {key} was replaced from entry {from} on, and this rests on it alone; ask the ledger again"
        ))
    }

    /// The time asked about that lies after the newest commitment.
    fn beyond(&self) -> Option<String> {
        let asked_us = match &self.question {
            Question::TagHistory { part, .. } | Question::Sightings { part, .. } => part.until_us,
            Question::RepositoryDiff { from_us, to_us, .. } | Question::EnvironmentDiff { from_us, to_us, .. } => {
                *from_us.max(to_us)
            }
            question => question.until_us()?,
        };
        let closed_us = self.reach?.closed_at_us;
        (asked_us > closed_us).then(|| {
            format!("anything later than {}: the time asked for lies after the newest commitment", words(closed_us))
        })
    }
}

impl Verdict {
    fn add_state(&mut self, state: &State, as_of_us: Option<u64>, by_then: &str) {
        let name = subject_words(&state.subject);
        let time = words(as_of_us.unwrap_or_default());
        self.proven.push(match (&state.at, &state.next) {
            (Some(at), Some(next)) => format!(
                "entry {} is the last about {name} recorded at or before {time}: the next, entry {}, came at {}",
                at.index,
                next.index,
                words(next.recorded_at_us)
            ),
            (Some(at), None) => {
                format!("entry {} is the last of all {} about {name} up to {time}", at.index, entries(state.count))
            }
            (None, Some(next)) => format!(
                "the history of {name} begins with entry {}, recorded at {}",
                next.index,
                words(next.recorded_at_us)
            ),
            (None, None) => never(&name, by_then),
        });
        let (Some(at), setting) = (&state.at, &state.setting) else { return };
        match setting {
            Some(setting) if setting.set_by != *at => {
                self.proven.push(format!("it left in force what entry {} had set", setting.set_by.index));
            }
            Some(_) => {}
            None => self.proven.push("nothing was in force after it".to_owned()),
        }
    }

    fn add_list<T>(&mut self, question: &Question, list: &List<T>, as_of_us: Option<u64>) {
        let (one, many) = match question {
            Question::RunningAt { .. } | Question::EnvironmentDiff { .. } => ("workload", "workloads"),
            Question::RepositoriesAt { .. } => ("repository", "repositories"),
            _ => ("tag", "tags"),
        };
        let place = match question {
            Question::TagsAt { repository, .. } | Question::RepositoryDiff { repository, .. } => {
                format!(" of {repository}")
            }
            Question::RunningAt { environment, .. } | Question::EnvironmentDiff { environment, .. }
                if !environment.is_empty() =>
            {
                format!(" of {environment}")
            }
            _ => String::new(),
        };
        // What a member had to be, beside known. Whoever is handed a file has not asked: this is where the question is said.
        let name = match question {
            Question::RunningAt { workload, .. } if !workload.is_empty() => format!(" named {workload}"),
            _ => String::new(),
        };
        let state = match question {
            Question::TagsAt { include_unbound: false, .. } => " that were bound".to_owned(),
            Question::RunningAt { include_stopped: false, .. } => " that ran".to_owned(),
            Question::RepositoryDiff { from_us, .. } | Question::EnvironmentDiff { from_us, .. } => {
                format!(" that differ from what they were at {}", words(*from_us))
            }
            _ => String::new(),
        };
        let (found, time) = (list.items.len(), words(as_of_us.unwrap_or_default()));
        let known = list.looked_at;
        self.proven.push(if list.is_cut {
            format!("these are the first {found} {many}{place}{name}{state}, as of {time}; the list was cut there, and may go on")
        } else if known == 0 {
            format!("no {one}{place} had been seen by {time}")
        } else if found == 0 {
            format!("there are no {many}{place}{name}{state}, of the {known} seen by {time}")
        } else {
            format!("these are all {many}{place}{name}{state}, of the {known} seen by {time}")
        });
    }

    fn add_history(&mut self, history: &History, question: &Question, by_then: &str) {
        let name = subject_words(&history.subject);
        let part = match question {
            Question::TagHistory { part, .. } | Question::Sightings { part, .. } => *part,
            _ => Part::default(),
        };
        let during = match (part.since_us, part.until_us) {
            (0, 0) => match question.until_us() {
                Some(at_us) if at_us > 0 => format!(" up to {}", words(at_us)),
                _ => String::new(),
            },
            (since_us, 0) => format!(" since {}", words(since_us)),
            (0, until_us) => format!(" before {}", words(until_us)),
            (since_us, until_us) => format!(" since {} and before {}", words(since_us), words(until_us)),
        };
        let log = if by_then.is_empty() { "the log" } else { "the log of then" };
        self.proven.push(match history.versions.len() {
            0 if history.count == 0 => never(&name, by_then),
            0 => format!("no entry about {name} was recorded{during}{by_then}, out of {} in all", entries(history.count)),
            found if history.is_cut => {
                let which = if part.newest_first { "newest" } else { "first" };
                let found = u64::try_from(found).unwrap_or(u64::MAX);
                format!(
                    "these are the {which} {} about {name}{during}{by_then}, with none missing between them, out of {} in all",
                    entries(found),
                    entries(history.count)
                )
            }
            found => {
                let found = u64::try_from(found).unwrap_or(u64::MAX);
                let all = if found == history.count {
                    String::new()
                } else {
                    format!(", out of {} in all", entries(history.count))
                };
                format!("these are all {} about {name}{during}{by_then}: no other is in {log}{all}", entries(found))
            }
        });
    }
}

/// What was verified: what, under which key, as of which checkpoint.
pub(super) fn checked(verified: &VerifiedEntries, subject_count: usize) -> String {
    let (keys, size) = (verified.keys(), verified.checkpoint().size);
    let (origin, key, succession) = (keys.first().origin(), keys.words(size), keys.succession(size));
    let entries = match verified.iter().len() {
        0 => "the checkpoint is".to_owned(),
        1 => "1 entry is".to_owned(),
        count => format!("{count} entries, each"),
    };
    let log = if verified.iter().len() == 0 { "" } else { " and included in its log" };
    let subjects = match subject_count {
        0 => String::new(),
        1 => "1 subject proven by its subject map; ".to_owned(),
        count => format!("{count} subjects, each proven by its subject map; "),
    };
    let closed = verified.closed_at_us().map_or(String::new(), |time| format!(", closed at {}", words(time)));
    format!("{entries} signed by {origin} ({key}){log}; {subjects}checkpoint of size {size}{closed}{succession}")
}

fn never(name: &str, by_then: &str) -> String {
    format!("no entry about {name} is in the log{by_then}: the subject map does not hold it")
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// A subject as people write it.
pub fn subject_words(subject: &Subject) -> String {
    match subject {
        Subject::Tag(tag) => tag.to_string(),
        Subject::Digest(digest) => digest.to_string(),
        Subject::Workload(w) => {
            let parts = [&w.environment, &w.cluster, &w.namespace, &w.workload, &w.container];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
            parts.join("/")
        }
        Subject::TagsOf(registry, repository) => format!("the tags of {registry}/{repository}"),
        Subject::Repositories => "the repositories".to_owned(),
        Subject::Environments => "the environments".to_owned(),
        Subject::WorkloadsOf(environment) => format!("the workloads of {environment}"),
        Subject::Policy => "the policy".to_owned(),
        Subject::Principals => "the principals".to_owned(),
        Subject::Keys => "the ledger's keys".to_owned(),
    }
}

/// A time to the second, or to the microsecond where it has any.
fn words(time_us: u64) -> String {
    rfc3339(time_us).replace(".000000", "")
}
