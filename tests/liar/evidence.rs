//! Evidence put together by hand from true rows: each part of it holds, and what is left out an honest server would have shown.

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::index_and_time;
use tagledger::ledger::map::{Terminal, Top};
use tagledger::ledger::merkle::Hash;
use tagledger::ledger::merkle::multi::multi_proof;
use tagledger::ledger::merkle::tree::subtree;
use tagledger::ledger::subject::Subject;
use tagledger::proto::subject_proof::Terminal as WireTerminal;
use tagledger::proto::{self, Evidence, SubjectProof};
use tagledger::store::ReadError;
use tagledger::store::log_tree::StoredNodes;
use tagledger::store::memory::MemoryStore;
use tagledger::store::rows::{self, StoredHistory, StoredLeaves};

use crate::stage::skey;

/// The bytes of an entry.
pub(crate) fn entry(rows: &MemoryStore, index: u64) -> Vec<u8> {
    rows::entry(rows, index).expect("it is there")
}

/// When an entry was recorded.
pub(crate) fn time_of(rows: &MemoryStore, index: u64) -> u64 {
    index_and_time(&entry(rows, index)).expect("an entry").1
}

/// Entries as of a size of the log, under the newest checkpoint, or under one that the ledger signs for this.
pub(crate) fn entries_at(rows: &MemoryStore, indexes: &[u64], size: u64) -> Evidence {
    let head = rows::head(rows).expect("readable").expect("it has begun");
    let root = subtree(&StoredNodes::new(rows), 0..size).expect("all nodes are kept");
    let mut indexes = indexes.to_vec();
    indexes.sort_unstable();
    indexes.dedup();
    Evidence {
        checkpoint: if size == head.size { head.checkpoint } else { Checkpoint { size, root }.sign(&skey()) },
        entries: indexes.iter().map(|&index| proto::LogEntry { index, entry: entry(rows, index) }).collect(),
        proof: bytes(multi_proof(&StoredNodes::new(rows), &indexes, size).expect("all nodes are kept")),
        subjects: Vec::new(),
    }
}

/// What the newest map says of a subject, with some of its versions.
pub(crate) fn subject_proof(rows: &MemoryStore, subject: &Subject, versions: &[u64]) -> SubjectProof {
    let (key, leaves) = (subject.key(), StoredLeaves::new(rows));
    let mut all = StoredLeaves::new(rows).all();
    let top = Top::load(|| Ok::<_, ReadError>(all()?.map(|leaf| leaf.hashed()))).expect("readable");
    let proof = top.prove(&leaves, &key).expect("readable");
    let terminal = match proof.terminal {
        Terminal::Empty => WireTerminal::Empty(proto::EmptySubtree {}),
        Terminal::Other(other) => WireTerminal::Other(proto::OtherLeaf {
            key: other.key.0.to_vec(),
            count: other.count,
            root: other.root.to_vec(),
        }),
        Terminal::Own { count, root } => {
            let leaf = |&version: &u64| {
                let row = rows::version(rows, &key, version).expect("it is there");
                proto::HistoryLeaf { version, index: row.index, effective: row.effective }
            };
            let history = StoredHistory { read: rows, key };
            let proof = match versions {
                [] => Vec::new(),
                versions => multi_proof(&history, versions, count).expect("all nodes are kept"),
            };
            let leaves = versions.iter().map(leaf).collect();
            WireTerminal::History(proto::HistoryProof { count, root: root.to_vec(), leaves, proof: bytes(proof) })
        }
    };
    SubjectProof { key: key.0.to_vec(), siblings: bytes(proof.siblings), terminal: Some(terminal) }
}

/// Versions of subjects, with their entries, what is in force after each, and the commitment that closes the log.
pub(crate) fn shown(rows: &MemoryStore, shown: &[(&Subject, &[u64])]) -> Evidence {
    let size = rows::tree_size(rows).expect("readable");
    let mut indexes = vec![size - 1];
    for (subject, versions) in shown {
        for version in *versions {
            let row = rows::version(rows, &subject.key(), *version).expect("it is there");
            indexes.extend([Some(row.index), row.effective.checked_sub(1)].into_iter().flatten());
        }
    }
    let mut evidence = entries_at(rows, &indexes, size);
    evidence.subjects = shown.iter().map(|(subject, versions)| subject_proof(rows, subject, versions)).collect();
    evidence.subjects.sort_by(|one, other| one.key.cmp(&other.key));
    evidence
}

fn bytes(hashes: Vec<Hash>) -> Vec<Vec<u8>> {
    hashes.into_iter().map(Vec::from).collect()
}
