//! What an answer rests on, and the evidence made of it.
//!
//! An answer shows entries, and for each subject some versions of its history; which ones is what makes it checkable
//! (docs/SPEC.md, "Answers"). Collected while the answer is made, proven at the end, all under the newest commitment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::{Reader, bytes};
use crate::engine::ReadError;
use crate::ledger::map::Terminal;
use crate::ledger::merkle::multi::multi_proof;
use crate::ledger::subject::SubjectKey;
use crate::proto;
use crate::proto::subject_proof::Terminal as WireTerminal;
use crate::store::rows::{self, StoredHistory, StoredLeaves, Version};

/// What an answer rests on.
#[derive(Default)]
pub(super) struct Shown {
    entries: BTreeSet<u64>,
    /// Versions by subject. Without any, how long the history is; or that there is none.
    subjects: BTreeMap<SubjectKey, BTreeMap<u64, Version>>,
}

impl Shown {
    /// An entry.
    pub(super) fn entry(&mut self, index: u64) {
        self.entries.insert(index);
    }

    /// How long the history of a subject is.
    pub(super) fn subject(&mut self, key: SubjectKey) {
        self.subjects.entry(key).or_default();
    }

    /// A version of a subject, and its entry.
    pub(super) fn version(&mut self, key: SubjectKey, version: u64, row: Version) {
        self.entry(row.index);
        self.version_alone(key, version, row);
    }

    /// A version of a subject, whose entry is shown elsewhere.
    pub(super) fn version_alone(&mut self, key: SubjectKey, version: u64, row: Version) {
        self.subjects.entry(key).or_default().insert(version, row);
    }
}

impl Reader<'_> {
    /// Evidence that holds the last entry of the checkpoint too: the commitment that subjects are proven under, which also
    /// says as of when the answer is.
    pub(super) fn closed_evidence(&self, mut shown: Shown) -> Result<proto::Evidence, ReadError> {
        self.has_news.store(true, Ordering::Relaxed);
        shown.entries.extend(self.head.size.checked_sub(1));
        let mut evidence = self.evidence(shown.entries)?;
        let leaves = StoredLeaves::new(&*self.rows);
        let proof = |(key, versions)| self.prove_history(&leaves, key, &versions);
        evidence.subjects = shown.subjects.into_iter().map(proof).collect::<Result<_, _>>()?;
        Ok(evidence)
    }

    /// Entries with their proof, and nothing about subjects.
    pub(super) fn evidence(&self, indexes: BTreeSet<u64>) -> Result<proto::Evidence, ReadError> {
        let indexes: Vec<u64> = indexes.into_iter().collect();
        let entry = |&index: &u64| Ok(proto::LogEntry { index, entry: rows::entry(&*self.rows, index)? });
        let proof = match indexes.as_slice() {
            [] => Vec::new(),
            indexes => multi_proof(&self.tree(), indexes, self.head.size)?,
        };
        Ok(proto::Evidence {
            checkpoint: self.head.checkpoint.clone(),
            entries: indexes.iter().map(entry).collect::<Result<_, ReadError>>()?,
            proof: bytes(proof),
            subjects: Vec::new(),
        })
    }

    fn prove_history(
        &self,
        leaves: &StoredLeaves<'_>,
        key: SubjectKey,
        versions: &BTreeMap<u64, Version>,
    ) -> Result<proto::SubjectProof, ReadError> {
        let map_proof = self.moment.top.prove(leaves, &key)?;
        let terminal = match map_proof.terminal {
            Terminal::Own { count, root } => {
                let numbers: Vec<u64> = versions.keys().copied().collect();
                let proof = match numbers.as_slice() {
                    [] => Vec::new(),
                    numbers => multi_proof(&StoredHistory { read: &*self.rows, key }, numbers, count)?,
                };
                let leaf = |(&version, row): (&u64, &Version)| {
                    let Version { index, effective, .. } = *row;
                    proto::HistoryLeaf { version, index, effective }
                };
                let leaves = versions.iter().map(leaf).collect();
                WireTerminal::History(proto::HistoryProof { count, root: root.to_vec(), leaves, proof: bytes(proof) })
            }
            Terminal::Other(other) => WireTerminal::Other(proto::OtherLeaf {
                key: other.key.0.to_vec(),
                count: other.count,
                root: other.root.to_vec(),
            }),
            Terminal::Empty => WireTerminal::Empty(proto::EmptySubtree {}),
        };
        let siblings = bytes(map_proof.siblings);
        Ok(proto::SubjectProof { key: key.0.to_vec(), siblings, terminal: Some(terminal) })
    }
}
