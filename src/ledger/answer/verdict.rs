//! The verdict on an answer, in words: what was checked, what that proves, and what rests on the server's word.

use super::history::{After, History};
use super::question::{Part, Question};
use super::state::{Grounds, State};
use super::{Answer, Finding};
use crate::ledger::subject::Subject;
use crate::ledger::time::rfc3339;

/// What a check was worth. Sentences without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Under which key, and as of which checkpoint.
    pub checked: String,
    /// What follows.
    pub proven: Vec<String>,
    /// What only the server says.
    pub unproven: Vec<String>,
}

impl Answer {
    /// The verdict on it.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { checked: self.checked(), proven: Vec::new(), unproven: Vec::new() };
        match &self.finding {
            Finding::States(states) => {
                verdict.add_as_of(self);
                match (&self.question, &states[..]) {
                    (Question::TagAt { .. }, [state]) => verdict.add_state(state, self.as_of_us),
                    _ => {
                        verdict.add_states(states.iter());
                        verdict.add_completeness(&self.question, states.len());
                    }
                }
            }
            Finding::Changes(changes) => {
                verdict.add_as_of(self);
                verdict.add_states(changes.iter().flat_map(|(from, to)| [from, to]));
                verdict.add_completeness(&self.question, changes.len());
            }
            Finding::History(history) => verdict.add_history(history, &self.question),
            Finding::Entry(index) => verdict.proven.push(format!("entry {index} is in the log")),
            Finding::Inclusion { index, tree_size, .. } => {
                verdict.proven.push(format!("entry {index} is in the log of size {tree_size}"));
                if *tree_size != self.entries.checkpoint().size {
                    verdict.proven.push("the checkpoint's log continues that log".to_owned());
                }
            }
        }
        verdict
    }

    fn checked(&self) -> String {
        let (vkey, size) = (self.entries.vkey(), self.entries.checkpoint().size);
        let key = hex::encode(vkey.hash());
        let entries = match self.entries.iter().len() {
            0 => "the checkpoint is".to_owned(),
            1 => "1 entry is".to_owned(),
            count => format!("{count} entries, each"),
        };
        let log = if self.entries.iter().len() == 0 { "" } else { " and included in its log" };
        let closed = self.entries.closed_at_us().map_or(String::new(), |time| format!(", closed at {}", words(time)));
        format!("{entries} signed by {} (key {key}){log}; checkpoint of size {size}{closed}", vkey.origin())
    }
}

impl Verdict {
    fn add_as_of(&mut self, answer: &Answer) {
        let Some(as_of_us) = answer.as_of_us else { return };
        let closed_us = answer.entries.closed_at_us();
        if answer.question.is_about_now() {
            if closed_us != Some(as_of_us) {
                self.unproven.push(format!("that nothing was recorded after {}, taken as now", words(as_of_us)));
            }
        } else if let Some(closed_us) = closed_us.filter(|closed_us| *closed_us < as_of_us) {
            self.unproven.push(format!(
                "anything later than {}, when the checkpoint was closed: the time asked for lies after it",
                words(closed_us)
            ));
        }
    }

    fn add_state(&mut self, state: &State, as_of_us: Option<u64>) {
        let name = subject_words(&state.subject);
        let time = words(as_of_us.unwrap_or_default());
        match (&state.at, &state.next) {
            (Some(at), Some(next)) => self.proven.push(format!(
                "entry {} is the last about {name} recorded at or before {time}: the next, entry {}, came at {}",
                at.index,
                next.index,
                words(next.recorded_at_us)
            )),
            (Some(at), None) => {
                self.proven.push(format!("entry {} about {name} was recorded at or before {time}", at.index));
                self.unproven.push(format!("that no newer entry about {name} is in the log"));
            }
            (None, Some(next)) => self.proven.push(format!(
                "the history of {name} begins with entry {}, recorded at {}",
                next.index,
                words(next.recorded_at_us)
            )),
            (None, None) => self.unproven.push(format!("that no entry about {name} is in the log")),
        }
        let Some(at) = &state.at else { return };
        match (&state.setting, state.grounds) {
            (Some(setting), _) if setting.set_by == *at => {}
            (Some(setting), Grounds::Shown) => {
                self.proven.push(format!("it left in force what entry {} had set", setting.set_by.index))
            }
            (Some(setting), Grounds::Confirmed) => {
                self.proven.push(format!("it confirmed {}", setting.digest));
                self.unproven.push(format!("that entry {} had set it", setting.set_by.index));
            }
            (Some(setting), Grounds::Inherited) => self
                .unproven
                .push(format!("that nothing between entry {} and entry {} changed it", setting.set_by.index, at.index)),
            (None, Grounds::Inherited) => {
                self.unproven.push(format!("that nothing was bound before entry {}, which changed nothing", at.index))
            }
            (None, _) => {}
        }
    }

    /// Many states: the same, counted.
    fn add_states<'a>(&mut self, states: impl Iterator<Item = &'a State>) {
        let (mut total, mut bounded, mut open, mut absent, mut confirmed, mut inherited) = (0, 0, 0, 0, 0, 0);
        for state in states {
            total += 1;
            match (&state.at, &state.next) {
                (_, Some(_)) => bounded += 1,
                (Some(_), None) => open += 1,
                (None, None) => absent += 1,
            }
            confirmed += u64::from(state.grounds == Grounds::Confirmed);
            inherited += u64::from(state.grounds == Grounds::Inherited);
        }
        if total == 0 {
            return;
        }
        if bounded > 0 {
            self.proven
                .push(format!("for {bounded} of {total} states: the next entry came later, with none in between"));
        }
        if open > 0 {
            self.proven.push(format!("for {open} of {total} states: the last entry was recorded by then"));
            self.unproven.push(format!("that no newer entry is in the log, for {open} of {total} states"));
        }
        if absent > 0 {
            self.unproven.push(format!("that no entry at all is in the log, for {absent} of {total} states"));
        }
        if confirmed > 0 {
            self.unproven.push(format!(
                "which entry had set the digest that the last one confirmed, for {confirmed} of {total} states"
            ));
        }
        if inherited > 0 {
            self.unproven.push(format!(
                "that nothing changed the state before its last entry, for {inherited} of {total} states"
            ));
        }
    }

    fn add_completeness(&mut self, question: &Question, found: usize) {
        let all = match question {
            Question::TagsAt { repository, .. } => format!("tags of {repository}"),
            Question::RunningAt { environment, .. } if environment.is_empty() => "workloads that ran".to_owned(),
            Question::RunningAt { environment, .. } => format!("workloads that ran in {environment}"),
            Question::RepositoryDiff { repository, .. } => format!("tags of {repository} that changed"),
            Question::EnvironmentDiff { environment, .. } => format!("workloads of {environment} that changed"),
            _ => return,
        };
        let cut = question.limit().is_some_and(|limit| u64::try_from(found).is_ok_and(|found| found >= limit));
        self.unproven.push(match found {
            0 => format!("that there are no {all}"),
            _ if cut => format!("that these are the first {all}; the list was cut at {found}"),
            _ => format!("that these are all {all}"),
        });
    }

    fn add_history(&mut self, history: &History, question: &Question) {
        let name = subject_words(&history.subject);
        let part = match question {
            Question::TagHistory { part, .. } | Question::Sightings { part, .. } => *part,
            _ => Part::default(),
        };
        let (Some(one), Some(other)) = (history.versions.first(), history.versions.last()) else {
            let during = if part.since_us == 0 && part.until_us == 0 { "" } else { " in that time" };
            self.unproven.push(format!("that no entry about {name} is in the log{during}"));
            return;
        };
        let (first, last) = if part.newest_first { (other, one) } else { (one, other) };
        self.proven.push(match (first.place.version, last.place.version) {
            (0, 0) => format!("version 0 is the first of {name}"),
            (first, last) if first == last => format!("this is version {first} of {name}"),
            (0, last) => format!("versions 0 to {last} of {name} are complete: no entry is missing between them"),
            (first, last) => {
                format!("versions {first} to {last} of {name} follow each other: no entry is missing between them")
            }
        });
        if first.place.version > 0 && part.since_us > 0 {
            self.unproven.push(format!("that version {} came before the time asked for", first.place.version - 1));
        }
        if last.place.version + 1 == history.claimed_total {
            self.unproven.push(format!("that no newer entry about {name} is in the log"));
        } else if part.until_us > 0 {
            self.unproven.push(format!("that version {} came after the time asked for", last.place.version + 1));
        } else {
            self.unproven.push(format!("that there are {} versions in all", history.claimed_total));
        }
        if let After::SetBefore { .. } = first.after
            && matches!(history.subject, Subject::Tag(_) | Subject::Workload(_))
        {
            self.unproven.push(format!("what was in force before version {}", first.place.version));
        }
    }
}

impl Question {
    /// The state as of now is asked for, not one at a time in the past.
    pub fn is_about_now(&self) -> bool {
        match self {
            Self::TagAt { at_us, .. } | Self::TagsAt { at_us, .. } | Self::RunningAt { at_us, .. } => *at_us == 0,
            Self::RepositoryDiff { to_us, .. } | Self::EnvironmentDiff { to_us, .. } => *to_us == 0,
            _ => false,
        }
    }
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
    }
}

/// A time to the second, or to the microsecond where it has any.
fn words(time_us: u64) -> String {
    rfc3339(time_us).replace(".000000", "")
}
