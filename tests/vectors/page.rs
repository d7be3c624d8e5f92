//! Pages of evidence, as the service makes them: with all that a question needs, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tagledger::ledger::entry::{Body, SignedEntry};
use tagledger::ledger::statement::{Kind, Statement};
use tagledger::ledger::subject::{Subject, SubjectKey, tag_of};
use tagledger::proto;

use crate::ledger::little_ledger::{LittleLedger, LittleVersion};
use crate::values::at;

/// A page under the checkpoint of one size.
#[derive(Clone)]
pub(crate) struct Page<'a> {
    ledger: &'a LittleLedger,
    size: u64,
    indexes: BTreeSet<u64>,
    subjects: BTreeMap<SubjectKey, (Subject, BTreeSet<u64>)>,
}

impl<'a> Page<'a> {
    /// With the commitment that closes it.
    pub(crate) fn new(ledger: &'a LittleLedger, size: u64) -> Self {
        Self { ledger, size, indexes: BTreeSet::from([size - 1]), subjects: BTreeMap::new() }
    }

    /// With an entry.
    pub(crate) fn entry(mut self, index: u64) -> Self {
        self.indexes.insert(index);
        self
    }

    /// With the state of a subject at a time: its last version by then, and the next.
    pub(crate) fn state(mut self, subject: &Subject, at_us: u64) -> Self {
        let history = self.history(subject);
        let by_then = history.iter().take_while(|version| version.recorded_at_us <= at_us).count() as u64;
        self.show(subject, by_then.saturating_sub(1)..by_then + 1);
        if let Some(last) = by_then.checked_sub(1) {
            self.show_effective(&history[at(last)]);
        }
        self
    }

    /// With versions of a subject, and their neighbours.
    pub(crate) fn part(mut self, subject: &Subject, versions: Range<u64>) -> Self {
        self.show(subject, versions.start.saturating_sub(1)..versions.end + 1);
        for version in self.history(subject).get(at(versions.start)..at(versions.end)).expect("it has these") {
            self.show_effective(version);
        }
        self
    }

    /// With some members of a catalogue, and the one after them.
    pub(crate) fn members(mut self, catalogue: &Subject, members: Range<u64>) -> Self {
        self.show(catalogue, members.start..members.end + 1);
        self
    }

    /// With what the map says of a subject, and nothing of its history.
    pub(crate) fn absent(mut self, subject: &Subject) -> Self {
        self.show(subject, 0..0);
        self
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn evidence(&self) -> proto::Evidence {
        let indexes: Vec<u64> = self.indexes.iter().copied().collect();
        let mut evidence = self.ledger.evidence_at(&indexes, self.size);
        let proof = |(subject, versions): &(Subject, BTreeSet<u64>)| {
            let versions: Vec<u64> = versions.iter().copied().collect();
            self.ledger.subject_proof_at(subject, &versions, self.size)
        };
        evidence.subjects = self.subjects.values().map(proof).collect();
        evidence
    }

    /// As far as the commitment knows it.
    fn history(&self, subject: &Subject) -> Vec<LittleVersion> {
        let mut history = self.ledger.history(subject);
        history.retain(|version| version.index < self.size - 1);
        history
    }

    fn show(&mut self, subject: &Subject, versions: Range<u64>) {
        let history = self.history(subject);
        let versions = versions.start..versions.end.min(history.len() as u64);
        let (_, shown) = self.subjects.entry(subject.key()).or_insert_with(|| (subject.clone(), BTreeSet::new()));
        shown.extend(versions.clone());
        self.indexes.extend(versions.map(|version| history[at(version)].index));
    }

    fn show_effective(&mut self, version: &LittleVersion) {
        self.indexes.extend(version.effective.checked_sub(1));
    }
}

/// The members of a catalogue by a time, as of a size.
pub(crate) fn members(ledger: &LittleLedger, catalogue: &Subject, at_us: u64, size: u64) -> Vec<Subject> {
    let history = ledger.history(catalogue);
    let by_then = history.iter().filter(|version| version.recorded_at_us <= at_us && version.index < size - 1);
    by_then.map(|version| member(catalogue, &statement(ledger, version.index))).collect()
}

fn member(catalogue: &Subject, statement: &Statement) -> Subject {
    match (catalogue, &statement.kind) {
        (Subject::TagsOf(..), _) => Subject::Tag(tag_of(statement).expect("it names a tag")),
        (Subject::Repositories, _) => {
            let name = tag_of(statement).expect("it names a tag");
            Subject::TagsOf(name.registry, name.repository)
        }
        (Subject::WorkloadsOf(_), Kind::Deployment { workload, .. }) => Subject::Workload(workload.clone()),
        (Subject::Environments, Kind::Deployment { workload, .. }) => {
            Subject::WorkloadsOf(workload.environment.clone())
        }
        other => panic!("{other:?}"),
    }
}

fn statement(ledger: &LittleLedger, index: u64) -> Statement {
    match SignedEntry::decode(&ledger.entry(index)).expect("own entry").body {
        Body::Record(_, statement) => *statement,
        Body::Commitment(_) => panic!("entry {index} is a commitment"),
    }
}
