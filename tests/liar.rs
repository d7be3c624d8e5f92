//! A ledger that lies, and the real CLI that catches it.
//!
//! The server is the real one, over a real socket; its store tells other rows than it holds ([`store`]). What readers are told
//! becomes false evidence; what the sequencer is told becomes an entry or a map that the ledger signs. Where the engine would
//! not make a certain piece of evidence from any rows, somebody before the server exchanges it ([`proxy`]), for one that is put
//! together from true rows ([`evidence`]).
//!
//! Each question is answered honestly before and after the lie, also out of its file, so that a test fails if the CLI refuses
//! too much; and each lie is refused for a stated reason, so that none is refused by accident.

#![cfg(feature = "server")]

mod world;

#[path = "liar/evidence.rs"]
mod evidence;
#[path = "cli/proxy.rs"]
mod proxy;
#[path = "liar/stage.rs"]
mod stage;
#[path = "liar/store.rs"]
mod store;

use std::convert::Infallible;
use std::sync::Arc;

use evidence::{entries_at, entry, shown, subject_proof, time_of};
use proxy::Answer;
use stage::{Stage, skey, submissions, words};
use store::LyingStore;
use tagledger::engine::known::Known;
use tagledger::engine::plan::{Base, plan};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry, entry_hash, sign_record};
use tagledger::ledger::keys::Chain;
use tagledger::ledger::map::{LeafHash, LeafHashes, MAX_DEPTH, Top};
use tagledger::ledger::merkle::{Nodes as _, Tree};
use tagledger::ledger::names::TagRef;
use tagledger::ledger::note::Skey;
use tagledger::ledger::statement::{Kind, Workload};
use tagledger::ledger::subject::{Subject, SubjectKey};
use tagledger::ledger::transition::Binding;
use tagledger::proto::subject_proof::Terminal;
use tagledger::proto::{self, Evidence, HistoryProof, Outcome, SubjectProof};
use tagledger::store::leaf_pages::LeafPages;
use tagledger::store::log_tree::LogTree;
use tagledger::store::memory::MemoryStore;
use tagledger::store::rows::{self, StoredHistory, StoredLeaves, SubjectRow, Version};
use tagledger::store::{Batch, Read, ReadError, Store as _, Table};
use world::{delete, deploy, digest, happened, requested};

const APP: &str = "registry.example/team/app";
const V1: &str = "registry.example/team/app:v1";
const AT_V1: [&str; 2] = ["at", V1];

const MAP: &str = "the map proof does not lead to the map root of the commitment";
const HISTORY: &str = "the versions are not proven to be in the history of 3: the proof leads to another root";

/// The entries of the story. What is not named here is a commitment.
const V1_FIRST: u64 = 42;
const LATEST: u64 = 44;
const V1_SECOND: u64 = 46;
const WEB: u64 = 48;
const GONE: u64 = 51;
const V1_THIRD: u64 = 55;
const SIZE: u64 = 57;

/// 1 to 40: tags of another repository, so that the map has some depth. 42: v1 -> a. 44: latest -> b. 46: v1 -> c. 48, 49: web runs c
/// in prod, job runs b in test. 51: gone -> a. 53: gone deleted. 55: v1 -> d.
fn story() -> Stage {
    let stage = Stage::new();
    let others: Vec<_> = (0..40).map(|number| in_repository("team/other", &format!("t{number}"), 'a')).collect();
    stage.record(&others);
    assert_eq!(stage.record(&[happened("v1", &digest('a'))]), V1_FIRST);
    assert_eq!(stage.record(&[happened("latest", &digest('b'))]), LATEST);
    assert_eq!(stage.record(&[happened("v1", &digest('c'))]), V1_SECOND);
    let deployments = [deploy("prod", "web", "", &digest('c')), deploy("test", "job", "", &digest('b'))];
    assert_eq!(stage.record(&deployments), WEB);
    assert_eq!(stage.record(&[happened("gone", &digest('a'))]), GONE);
    stage.record(&[delete("gone")]);
    assert_eq!(stage.record(&[happened("v1", &digest('d'))]), V1_THIRD);
    assert_eq!(rows::tree_size(truth(&stage)), Ok(SIZE));
    stage
}

fn in_repository(repository: &str, tag: &str, digit: char) -> proto::Statement {
    let mut statement = requested(tag, &digest(digit));
    let Some(proto::statement::Kind::TagPush(push)) = &mut statement.kind else { panic!("a push") };
    push.repository = repository.into();
    statement
}

fn truth(stage: &Stage) -> &MemoryStore {
    &stage.store.truth
}

fn name(text: &str) -> TagRef {
    text.parse().expect("a reference")
}

fn tag(text: &str) -> Subject {
    Subject::Tag(name(text))
}

fn v1() -> Subject {
    tag(V1)
}

fn latest() -> Subject {
    tag("registry.example/team/app:latest")
}

fn gone() -> Subject {
    tag("registry.example/team/app:gone")
}

fn tags_of_app() -> Subject {
    let name = name(V1);
    Subject::TagsOf(name.registry, name.repository)
}

fn workload(environment: &str, workload: &str) -> Subject {
    Subject::Workload(Workload {
        environment: environment.into(),
        cluster: String::new(),
        namespace: "default".into(),
        workload: workload.into(),
        container: "main".into(),
    })
}

fn at_time(rows: &MemoryStore, index: u64) -> String {
    format!("{}us", time_of(rows, index))
}

/// The rows that readers are told, from the true ones.
fn tell(stage: &Stage, changes: impl FnOnce(&MemoryStore, &mut Batch)) {
    let mut batch = Batch::default();
    changes(truth(stage), &mut batch);
    stage.store.tell_readers(batch);
}

/// A subject's row, as it was when its history had so many entries.
fn shortened(rows: &MemoryStore, subject: &Subject, count: u64) -> SubjectRow {
    let history = Tree::load(&StoredHistory { read: rows, key: subject.key() }, count).expect("all nodes are kept");
    SubjectRow { history, ..rows::subject(rows, &subject.key()).expect("readable") }
}

fn version(rows: &MemoryStore, subject: &Subject, version: u64) -> Version {
    rows::version(rows, &subject.key(), version).expect("it is there")
}

/// Tells something else of one version. The subtrees that it completes stay those that there are.
fn retell(rows: &MemoryStore, batch: &mut Batch, subject: &Subject, number: u64, version: Version) {
    let (key, history) = (subject.key(), StoredHistory { read: rows, key: subject.key() });
    let levels = 1..=u8::try_from(number.trailing_ones()).expect("few");
    let completed = levels.map(|level| history.node(level, number >> level).unwrap_or_default());
    rows::put_version(batch, &key, number, &version, &completed.collect::<Vec<_>>());
}

/// Changes the evidence of the answer to `at`.
fn spoil(stage: &Stage, mut change: impl FnMut(&mut Evidence) + Send + 'static) {
    stage.proxy.edit("ResolveTag", move |answer: &mut proto::ResolveTagResponse| {
        change(answer.evidence.as_mut().expect("evidence"));
    });
}

fn proof_of<'a>(evidence: &'a mut Evidence, subject: &Subject) -> &'a mut SubjectProof {
    let key = subject.key();
    evidence.subjects.iter_mut().find(|proof| proof.key == key.0).expect("it is shown")
}

fn history_of<'a>(evidence: &'a mut Evidence, subject: &Subject) -> &'a mut HistoryProof {
    match &mut proof_of(evidence, subject).terminal {
        Some(Terminal::History(history)) => history,
        other => panic!("{other:?}"),
    }
}

/// What the server claims a tag to point to, without evidence.
fn claimed(stage: &Stage, tag: &str) -> String {
    let request = proto::ResolveTagRequest { without_evidence: true, ..proto::ResolveTagRequest::default() };
    stage.ledger.read(|reader| reader.resolve(&name(tag), &request)).expect("readable").expect("answered").digest
}

#[test]
fn a_dropped_last_version_is_missed() {
    let stage = story();
    // The row of an older moment: so the server believes it itself, and says so.
    let dropped = |stage: &Stage| {
        tell(stage, |rows, batch| rows::put_subject(batch, &v1().key(), &shortened(rows, &v1(), 2)));
        assert_eq!(claimed(stage, V1), digest('c'));
    };
    stage.catches(&AT_V1, dropped, MAP);
    // The count stays, and what is shown holds; only the last version is not.
    let hidden = |stage: &Stage| {
        let without_last = shown(truth(stage), &[(&v1(), &[1])]);
        spoil(stage, move |evidence| *evidence = without_last.clone());
    };
    let missed = format!("version 2 of {V1} is missing from the evidence; the history has 3");
    stage.catches(&AT_V1, hidden, &missed);
    let of_history = |stage: &Stage| {
        let without_last = shown(truth(stage), &[(&v1(), &[0, 1])]);
        stage.proxy.edit("ListTagHistory", move |answer: &mut proto::ListTagHistoryResponse| {
            answer.versions.pop();
            answer.evidence = Some(without_last.clone());
        });
    };
    stage.catches(&["history", V1], of_history, &missed);
}

#[test]
fn a_pair_that_is_not_adjacent_or_does_not_bound_the_time_is_refused() {
    let stage = story();
    let question = ["at", V1, "--time", &at_time(truth(&stage), V1_FIRST)];
    let apart = |stage: &Stage| {
        let apart = shown(truth(stage), &[(&v1(), &[0, 2])]);
        spoil(stage, move |evidence| *evidence = apart.clone());
    };
    stage.catches(&question, apart, &format!("version 1 of {V1} is missing from the evidence; the history has 3"));
    // The server says of two versions that they came later, and so shows a pair that lies before the time.
    let question = ["at", V1, "--time", &at_time(truth(&stage), V1_THIRD)];
    let outside = |stage: &Stage| {
        tell(stage, |rows, batch| {
            for number in [1, 2] {
                let late = Version { recorded_at_us: u64::MAX, ..version(rows, &v1(), number) };
                retell(rows, batch, &v1(), number, late);
            }
        });
    };
    stage.catches(&question, outside, &format!("version 2 of {V1} is missing from the evidence; the history has 3"));
    let middle = |stage: &Stage| {
        let apart = shown(truth(stage), &[(&v1(), &[0, 2])]);
        stage.proxy.edit("ListTagHistory", move |answer: &mut proto::ListTagHistoryResponse| {
            answer.evidence = Some(apart.clone());
        });
    };
    stage.catches(&["history", V1], middle, &format!("version 1 of {V1} is missing"));
}

#[test]
fn a_pair_of_another_subject_is_refused() {
    let stage = story();
    let whole_other = |stage: &Stage| {
        tell(stage, |rows, batch| {
            rows::put_subject(batch, &v1().key(), &rows::subject(rows, &latest().key()).expect("readable"));
            retell(rows, batch, &v1(), 0, version(rows, &latest(), 0));
        });
        assert_eq!(claimed(stage, V1), digest('b'));
    };
    stage.catches(&AT_V1, whole_other, MAP);
    let in_its_history = |stage: &Stage| {
        tell(stage, |rows, batch| retell(rows, batch, &v1(), 2, version(rows, &latest(), 0)));
        assert_eq!(claimed(stage, V1), digest('b'));
    };
    stage.catches(&AT_V1, in_its_history, HISTORY);
    let another_answer = |stage: &Stage| {
        let of_latest = shown(truth(stage), &[(&latest(), &[0])]);
        spoil(stage, move |evidence| *evidence = of_latest.clone());
    };
    stage.catches(&AT_V1, another_answer, &format!("the evidence shows nothing of {V1} as of the time asked for"));
}

#[test]
fn a_map_of_an_older_moment_is_refused_under_a_newer_checkpoint() {
    let stage = story();
    let older = truth(&stage).reopen();
    stage.record(&[happened("v1", &digest('e')), happened("new", &digest('a'))]);
    let stale = |stage: &Stage| {
        tell(stage, |rows, batch| {
            for (table, key, _) in rows.dump().into_iter().filter(|(table, ..)| *table == Table::Subjects) {
                batch.delete(table, key);
            }
            for (table, key, row) in older.dump().into_iter().filter(|(table, ..)| *table == Table::Subjects) {
                batch.put(table, key, row);
            }
        });
        assert_eq!(claimed(stage, V1), digest('d'));
    };
    stage.catches(&AT_V1, stale, MAP);
    // A tag that came with the last batch: in the older map it is not there.
    stage.catches(&["at", "registry.example/team/app:new"], stale, MAP);
    stage.catches(&["tags", APP], stale, MAP);
    stage.catches(&["ran"], stale, MAP);
}

#[test]
fn a_commitment_that_is_not_the_last_leaf_closes_nothing() {
    let stage = story();
    let older = |stage: &Stage| {
        tell(stage, |rows, batch| batch.put(Table::Entries, (SIZE - 1).to_be_bytes(), entry(rows, V1_THIRD - 1)));
    };
    stage.catches(&AT_V1, older, "entry 56 is in truth entry 54");
    let unclosed = |stage: &Stage| {
        let entries = entries_at(truth(stage), &[V1_THIRD - 1, V1_THIRD], SIZE);
        spoil(stage, move |evidence| {
            let subjects = std::mem::take(&mut evidence.subjects);
            *evidence = Evidence { subjects, ..entries.clone() };
        });
    };
    stage.catches(&AT_V1, unclosed, "the evidence lacks the commitment that closes the checkpoint of size 57");
    // The ledger signs a checkpoint in the middle of a batch.
    let open = |stage: &Stage| {
        let entries = entries_at(truth(stage), &[V1_THIRD], V1_THIRD + 1);
        spoil(stage, move |evidence| {
            let subjects = std::mem::take(&mut evidence.subjects);
            *evidence = Evidence { subjects, ..entries.clone() };
        });
    };
    stage.catches(&AT_V1, open, "the checkpoint of size 56 does not end with a commitment");
}

#[test]
fn a_wrong_count_is_refused() {
    let stage = story();
    let question = ["at", V1, "--time", &at_time(truth(&stage), V1_SECOND)];
    // Two versions more than there are. As many bits as the true count has, so that the edge is of the right length.
    let more = |stage: &Stage| {
        tell(stage, |rows, batch| {
            let row = rows::subject(rows, &v1().key()).expect("readable");
            let edge = row.history.edge().map(|node| node.hash).collect();
            let history = Tree::from_edge(5, edge).expect("two bits");
            rows::put_subject(batch, &v1().key(), &SubjectRow { history, ..row });
            for number in [3, 4] {
                retell(rows, batch, &v1(), number, version(rows, &v1(), 2));
            }
        });
    };
    stage.catches(&question, more, MAP);
    for count in [1, 2, 4, u64::MAX] {
        let lie = |stage: &Stage| spoil(stage, move |evidence| history_of(evidence, &v1()).count = count);
        stage.catches(&AT_V1, lie, MAP);
    }
    let none = |stage: &Stage| spoil(stage, |evidence| history_of(evidence, &v1()).count = 0);
    stage.catches(&AT_V1, none, "the map proof shows a history without entries");
}

#[test]
fn absence_is_not_believed_of_what_is_there() {
    let stage = story();
    let tags: Vec<String> = (0..40).map(|number| format!("registry.example/team/other:t{number}")).collect();
    let hide = |stage: &Stage, text: &str| tell(stage, |_, batch| batch.delete(Table::Subjects, tag(text).key().0));
    let terminal = |text: &str| {
        hide(&stage, text);
        let request = proto::ResolveTagRequest::default();
        let answer = stage.ledger.read(|reader| reader.resolve(&name(text), &request)).expect("readable");
        stage.repent();
        answer.expect("answered").evidence.expect("evidence").subjects.remove(0).terminal.expect("a terminal")
    };
    let empty = tags.iter().find(|text| matches!(terminal(text), Terminal::Empty(_))).expect("there is one");
    let other = tags.iter().find(|text| matches!(terminal(text), Terminal::Other(_))).expect("there is one");
    for text in [empty, other] {
        let hidden = |stage: &Stage| {
            hide(stage, text);
            assert_eq!(claimed(stage, text), "");
        };
        stage.catches(&["at", text], hidden, MAP);
    }
    // A leaf that is there, but could not stand in this place.
    let depth = subject_proof(truth(&stage), &v1(), &[]).siblings.len();
    assert!(depth > 0);
    let elsewhere = |stage: &Stage| {
        let far = v1().key().with_bit(0, !v1().key().bit(0));
        spoil(stage, move |evidence| {
            let leaf = proto::OtherLeaf { key: far.0.to_vec(), count: 1, root: vec![1; 32] };
            proof_of(evidence, &v1()).terminal = Some(Terminal::Other(leaf));
        });
    };
    let reason = format!("ends in a leaf whose key does not share the first {depth} bits of the path");
    stage.catches(&AT_V1, elsewhere, &reason);
    let own = |stage: &Stage| {
        spoil(stage, |evidence| {
            let (count, root) = (history_of(evidence, &v1()).count, history_of(evidence, &v1()).root.clone());
            let leaf = proto::OtherLeaf { key: v1().key().0.to_vec(), count, root };
            proof_of(evidence, &v1()).terminal = Some(Terminal::Other(leaf));
        });
    };
    stage.catches(&AT_V1, own, "the map proof claims absence with the leaf of the very key");
}

#[test]
fn trailing_hashes_are_refused() {
    let stage = story();
    let log = |stage: &Stage| spoil(stage, |evidence| evidence.proof.push(vec![0; 32]));
    stage.catches(&AT_V1, log, "the entries are not proven to be in the log: the proof has ");
    let history = |stage: &Stage| spoil(stage, |evidence| history_of(evidence, &v1()).proof.push(vec![0; 32]));
    let reason = "the versions are not proven to be in the history of 3: the proof has 2 hashes, it must have 1";
    stage.catches(&AT_V1, history, reason);
    let map = |stage: &Stage| spoil(stage, |evidence| proof_of(evidence, &v1()).siblings.push(vec![0; 32]));
    stage.catches(&AT_V1, map, MAP);
    let longest = |stage: &Stage| {
        spoil(stage, |evidence| proof_of(evidence, &v1()).siblings.resize(257, vec![0; 32]));
    };
    stage.catches(&AT_V1, longest, "the map proof has 257 hashes; a path has at most 256");
    // Of nothing there is no proof.
    let of_nothing = |stage: &Stage| {
        spoil(stage, |evidence| {
            let history = history_of(evidence, &v1());
            history.leaves.clear();
        });
    };
    let reason = "the versions are not proven to be in the history of 3: the proof has 1 hashes, it must have 0";
    stage.catches(&AT_V1, of_nothing, reason);
    let path = |stage: &Stage| {
        stage.proxy.edit("GetInclusionProof", |answer: &mut proto::GetInclusionProofResponse| {
            answer.hashes.push(vec![0; 32]);
        });
    };
    stage.catches(&["prove", "42"], path, "the proof for the tree of size 57 does not hold: the proof has 7 hashes");
    let growth = |stage: &Stage| {
        stage.proxy.edit("GetConsistencyProof", |answer: &mut proto::GetConsistencyProofResponse| {
            answer.hashes.push(vec![0; 32]);
        });
    };
    stage.catches(&["prove", "42", "--size", "50"], growth, "the proof for the tree of size 50 does not hold");
}

#[test]
fn what_another_ledger_signed_is_refused() {
    let stage = story();
    let stranger = Skey::from_seed(stage::ORIGIN.parse().expect("an origin"), &[4; 32]);
    let renamed = Skey::from_seed("other.example/liar".parse().expect("an origin"), &[3; 32]);
    for signer in [&stranger, &renamed] {
        let foreign = |stage: &Stage| {
            tell(stage, |rows, batch| {
                let Ok(Body::Record(record, _)) = SignedEntry::decode(&entry(rows, V1_THIRD)).map(|entry| entry.body)
                else {
                    panic!("a record")
                };
                batch.put(Table::Entries, V1_THIRD.to_be_bytes(), sign_record(&record, signer));
            });
        };
        let reason = "entry 55: the ledger's signature: the signature does not match: another key, or other bytes";
        stage.catches(&AT_V1, foreign, reason);
        stage.catches(&["entry", "55"], foreign, reason);
        foreign(&stage);
        stage.is_found_out(reason);
        stage.repent();
        stage.is_audited();
    }
    for signer in [&stranger, &renamed] {
        let foreign = |stage: &Stage| {
            tell(stage, |rows, batch| {
                let head = rows::head(rows).expect("readable").expect("it has begun");
                let true_checkpoint = Checkpoint::open(&head.checkpoint, &skey().vkey()).expect("its own");
                rows::put_head(batch, &rows::Head { checkpoint: true_checkpoint.sign(signer), ..head });
            });
        };
        stage.catches(&AT_V1, foreign, "not signed by ledger.example/liar");
    }
}

#[test]
fn what_is_in_force_is_not_taken_from_another_tag() {
    let stage = story();
    let lie = |stage: &Stage| {
        tell(stage, |rows, batch| {
            let false_row = Version { effective: LATEST + 1, ..version(rows, &v1(), 2) };
            retell(rows, batch, &v1(), 2, false_row);
        });
        assert_eq!(claimed(stage, V1), digest('b'));
    };
    stage.catches(&AT_V1, lie, HISTORY);
    stage.catches(&["history", V1], lie, HISTORY);
    stage.catches(&["tags", APP], lie, HISTORY);
}

#[test]
fn a_server_that_forgot_what_it_signed_is_behind() {
    let stage = story();
    let older = truth(&stage).reopen();
    stage.record(&[happened("v1", &digest('e'))]);
    let newer = truth(&stage).reopen();
    stage.holds(0, &AT_V1);
    let stage = stage.restarted_over(older);
    let reason = "answers from a log of 57 entries, but 59 were seen before under the same key";
    stage.refused(&AT_V1, reason);
    stage.refused(&["tags", APP], reason);
    stage.refused(&["at", "registry.example/team/app:never"], reason);
    // It could prove what was, but not that this is the log it signed.
    stage.refused(&["at", V1, "--time", &at_time(truth(&stage), V1_SECOND)], reason);
    let stage = stage.restarted_over(newer);
    stage.holds(0, &AT_V1);
}

#[test]
fn a_list_that_leaves_something_out_is_refused() {
    let stage = story();
    let (catalogue, members) = (tags_of_app(), [v1(), latest(), gone()]);
    let [one, two, three] = &members;
    let edit = |stage: &Stage, evidence: Evidence| {
        stage.proxy.edit("ListTags", move |answer: &mut proto::ListTagsResponse| {
            answer.evidence = Some(evidence.clone());
        });
    };
    let question = ["tags", APP];
    // The catalogue as it was before the last member appeared: the server believes it itself.
    let forgotten = |stage: &Stage| {
        tell(stage, |rows, batch| rows::put_subject(batch, &catalogue.key(), &shortened(rows, &catalogue, 2)));
    };
    stage.catches(&question, forgotten, MAP);
    for (versions, missing) in [([0, 1], 2), ([0, 2], 1), ([1, 2], 0)] {
        let left_out = |stage: &Stage| {
            let subjects: [(&Subject, &[u64]); 4] = [(&catalogue, &versions), (one, &[2]), (two, &[0]), (three, &[1])];
            edit(stage, shown(truth(stage), &subjects));
        };
        let reason = format!("version {missing} of the tags of {APP} is missing from the evidence; the history has 3");
        stage.catches(&question, left_out, &reason);
    }
    // Also of what is unbound it has to be shown.
    for left_out in &members {
        let lie = |stage: &Stage| {
            let subjects = [(&catalogue, &[0, 1, 2][..]), (one, &[2]), (two, &[0]), (three, &[1])];
            let subjects: Vec<_> = subjects.into_iter().filter(|(subject, _)| *subject != left_out).collect();
            edit(stage, shown(truth(stage), &subjects));
        };
        let Subject::Tag(name) = left_out else { panic!("a tag") };
        stage.catches(&question, lie, &format!("the evidence shows nothing of {name} as of the time asked for"));
    }
    let wrong_state = |stage: &Stage| {
        let subjects: [(&Subject, &[u64]); 4] = [(&catalogue, &[0, 1, 2]), (one, &[1]), (two, &[0]), (three, &[1])];
        edit(stage, shown(truth(stage), &subjects));
    };
    stage.catches(&question, wrong_state, &format!("version 2 of {V1} is missing"));
    // It stops in the middle, and says that this was all.
    let cut = |stage: &Stage| {
        let subjects: [(&Subject, &[u64]); 2] = [(&catalogue, &[0, 1]), (one, &[2])];
        edit(stage, shown(truth(stage), &subjects));
    };
    stage.catches(&question, cut, "the evidence shows nothing of registry.example/team/app:latest");
    let diff = ["diff", APP, "--from", &at_time(truth(&stage), V1_FIRST)];
    let unchanged = |stage: &Stage| {
        let subjects: [(&Subject, &[u64]); 4] =
            [(&catalogue, &[0, 1, 2]), (one, &[0, 1]), (two, &[0]), (three, &[0, 1])];
        let evidence = shown(truth(stage), &subjects);
        stage.proxy.edit("DiffRepository", move |answer: &mut proto::DiffRepositoryResponse| {
            answer.evidence = Some(evidence.clone());
        });
    };
    stage.catches(&diff, unchanged, &format!("version 2 of {V1} is missing"));
}

#[test]
fn what_ran_is_not_left_out() {
    let stage = story();
    let (prod, test) = (Subject::WorkloadsOf("prod".into()), Subject::WorkloadsOf("test".into()));
    let (web, job) = (workload("prod", "web"), workload("test", "job"));
    let lie = |leave_out: &Subject, versions: &[u64]| {
        let environments = Subject::Environments;
        let subjects: [(&Subject, &[u64]); 5] =
            [(&environments, &[0, 1]), (&prod, &[0]), (&test, &[0]), (&web, &[0]), (&job, &[0])];
        let told = |(subject, all)| (subject, if subject == leave_out { versions } else { all });
        let evidence = shown(truth(&stage), &subjects.map(told));
        move |stage: &Stage| {
            stage.proxy.edit("ListRunning", move |answer: &mut proto::ListRunningResponse| {
                answer.evidence = Some(evidence.clone());
            });
        }
    };
    stage.catches(&["ran"], lie(&Subject::Environments, &[0]), "version 1 of the environments is missing");
    stage.catches(&["ran"], lie(&test, &[]), "version 0 of the workloads of test is missing");
    stage.catches(&["ran"], lie(&web, &[]), "version 0 of prod/default/web/main is missing");
    let hidden = |stage: &Stage| tell(stage, |_, batch| batch.delete(Table::Subjects, web.key().0));
    stage.catches(&["ran", "--env", "prod"], hidden, MAP);
    let no_environment = |stage: &Stage| tell(stage, |_, batch| batch.delete(Table::Subjects, test.key().0));
    stage.catches(&["ran", "--env", "test"], no_environment, MAP);
}

#[test]
fn a_sighting_is_not_left_out() {
    let stage = story();
    let (text, subject) = (digest('a'), Subject::Digest(digest('a').parse().expect("a digest")));
    let question = ["where", text.as_str()];
    let last = rows::count(truth(&stage), &subject.key()).expect("readable") - 1;
    let without = |left_out: u64| {
        let versions: Vec<u64> = (0..=last).filter(|version| *version != left_out).collect();
        let evidence = shown(truth(&stage), &[(&subject, &versions)]);
        move |stage: &Stage| {
            stage.proxy.edit("ListDigestSightings", move |answer: &mut proto::ListDigestSightingsResponse| {
                answer.evidence = Some(evidence.clone());
            });
        }
    };
    for left_out in [0, 7, last] {
        stage.catches(&question, without(left_out), &format!("version {left_out} of {text} is missing"));
    }
    let never = |stage: &Stage| tell(stage, |_, batch| batch.delete(Table::Subjects, subject.key().0));
    stage.catches(&question, never, MAP);
}

#[test]
fn what_a_server_says_beside_its_evidence_is_not_looked_at() {
    let stage = story();
    let at = stage.holds(0, &AT_V1);
    let tags = stage.holds(0, &["tags", APP]);
    spoil(&stage, |_| {});
    stage.proxy.edit("ResolveTag", |answer: &mut proto::ResolveTagResponse| {
        answer.digest = digest('f');
        answer.state = None;
        answer.as_of_us = 1;
    });
    stage.proxy.edit("ListTags", |answer: &mut proto::ListTagsResponse| {
        answer.tags.reverse();
        answer.tags[0].digest = digest('f');
        answer.tags.push(answer.tags[0].clone());
        answer.as_of_us = 1;
    });
    assert_eq!(stage.holds(0, &AT_V1), at);
    assert_eq!(stage.holds(0, &["tags", APP]), tags);
}

/// A server may have recorded something while pages were turned; then the answer is as of its first page. A liar takes an old
/// first page, to which the rest of the log is then nothing.
#[test]
fn an_old_first_page_does_not_make_an_answer_about_now() {
    let stage = story();
    let older = truth(&stage).reopen();
    stage.record(&[happened("v1", &digest('e'))]);
    let new_first = shown(&older, &[(&v1(), &[0, 1, 2])]);
    let new_second = shown(truth(&stage), &[(&v1(), &[2, 3])]);
    let lie = |stage: &Stage| {
        let (first, second) = (new_first.clone(), new_second.clone());
        let mut is_first = false;
        stage.proxy.lie("ListTagHistory", move || {
            is_first = !is_first;
            let (evidence, next) = if is_first { (&first, "more") } else { (&second, "") };
            Answer::message(&proto::ListTagHistoryResponse {
                evidence: Some(evidence.clone()),
                next_page_token: next.to_owned(),
                ..proto::ListTagHistoryResponse::default()
            })
        });
    };
    // Who remembers more than the first page knows is not told what is past.
    stage.catches(&["history", V1], lie, "answers from a log of 57 entries, but 59 were seen before");
    let later = at_time(truth(&stage), SIZE + 1);
    stage.catches(&["history", V1, "--until", &later], lie, "answers from a log of 57 entries");
    // Who does not is told up to when.
    lie(&stage);
    for (more, not_proven) in [(&[][..], false), (&["--until", &later][..], true)] {
        let trust = format!("fresh-{not_proven}");
        let printed = stage.tagledger(&[&["history", V1, "--trust", &trust], more].concat());
        assert_eq!(printed.status.code(), Some(0), "{}", words(&printed));
        let text = String::from_utf8_lossy(&printed.stdout);
        assert!(text.contains(" up to ") && text.contains("no other is in the log of then"), "{text}");
        assert_eq!(text.contains("not proven: anything later than"), not_proven, "{text}");
        assert!(!text.contains(&digest('e')), "{text}");
    }
}

/// A subject that several pages prove parts of is asked for once more. A liar could make that a question for each of thousands.
#[test]
fn parts_without_end_are_not_put_together() {
    let stage = story();
    let others: Vec<Subject> = (0..40).map(|number| tag(&format!("registry.example/team/other:t{number}"))).collect();
    let shown: Vec<_> = others.iter().map(|subject| (subject, &[0][..])).collect();
    let evidence = evidence::shown(truth(&stage), &shown);
    let mut is_first = false;
    stage.holds(0, &["tags", APP]);
    stage.proxy.lie("ListTags", move || {
        is_first = !is_first;
        Answer::message(&proto::ListTagsResponse {
            evidence: Some(evidence.clone()),
            next_page_token: if is_first { "more".to_owned() } else { String::new() },
            ..proto::ListTagsResponse::default()
        })
    });
    let printed = stage.tagledger(&["tags", APP]);
    assert_eq!(printed.status.code(), Some(1), "{}", words(&printed));
    assert!(words(&printed).contains("it proves more subjects in parts than it has pages"), "{}", words(&printed));
}

/// What the sequencer is told becomes what the ledger signs, as long as it does not contradict the map.
fn sign_a_lie(
    stage: &mut Stage,
    changes: impl FnOnce(&MemoryStore, &mut Batch),
    statements: &[proto::Statement],
) -> u64 {
    // A sequencer that has just begun knows nothing but what it reads.
    let rows = truth(stage).reopen();
    *stage = std::mem::replace(stage, Stage::new()).restarted_over(rows);
    let mut batch = Batch::default();
    changes(truth(stage), &mut batch);
    stage.store.tell_sequencer(batch);
    let index = stage.record(statements);
    stage.store.repent();
    index
}

/// The same with what contradicts the map: by another program than the service, which would notice.
fn sign_a_greater_lie(
    stage: &mut Stage,
    changes: impl FnOnce(&MemoryStore, &mut Batch),
    statements: &[proto::Statement],
) -> u64 {
    let rows = truth(stage).reopen();
    let (mut batch, told) = (Batch::default(), LyingStore::new(rows.reopen()));
    changes(&rows, &mut batch);
    told.tell_sequencer(batch);
    let mut leaves = StoredLeaves::new(&rows).all();
    let top = Top::load(|| Ok::<_, ReadError>(leaves()?.map(|leaf| leaf.hashed()))).expect("readable");
    drop(leaves);
    let leaves = TwoTales { of_one: StoredLeaves::new(&told), of_many: StoredLeaves::new(&rows) };
    let batch = next_batch(&rows, &told, &top, &leaves, statements);
    drop(leaves);
    let index = rows::head(&rows).expect("readable").expect("it has begun").size;
    rows.commit(index, batch).expect("stored");
    *stage = std::mem::replace(stage, Stage::new()).restarted_over(rows);
    index
}

/// Leaves for who asks for one, to decide something, and others for the map.
struct TwoTales<'a> {
    of_one: StoredLeaves<'a>,
    of_many: StoredLeaves<'a>,
}

impl LeafHashes for TwoTales<'_> {
    type Error = ReadError;

    fn hashes_under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<LeafHash>, ReadError> {
        if depth == MAX_DEPTH { self.of_one.hashes_under(path, depth) } else { self.of_many.hashes_under(path, depth) }
    }
}

/// The rows of the next batch, from what is read, and with this map.
fn next_batch(
    rows: &MemoryStore,
    read: &dyn Read,
    top: &Top,
    leaves: &dyn LeafHashes<Error = ReadError>,
    statements: &[proto::Statement],
) -> Batch {
    let head = rows::head(rows).expect("readable").expect("it has begun");
    let entries = rows::entries(rows, 0..head.size).expect("all there");
    let policy = |bytes: &Vec<u8>| match SignedEntry::decode(bytes).expect("whole").body {
        Body::Record(record, statement) if record.outcome() == Outcome::Applied => match statement.kind {
            Kind::PolicyChange { policy, .. } => Some(policy),
            _ => None,
        },
        _ => None,
    };
    let base = Base {
        read,
        known: &Known::default(),
        tree: &LogTree::load(rows, head.size).expect("all nodes are kept"),
        top,
        leaves,
        last_time_us: head.recorded_at_us,
        policy: &entries.iter().rev().find_map(policy).unwrap_or_default(),
        principals: &Arc::default(),
        keys: &Arc::new(Chain::of(skey().vkey())),
        seal: &Arc::new(skey()),
    };
    let reading_us = head.recorded_at_us + 1_000_000;
    plan(&base, reading_us, &[submissions(statements)]).expect("planned").batch
}

/// What the rows become when the map forgets a subject, with the next batch.
fn forgetting(stage: &Stage, subject: &Subject, statements: &[proto::Statement]) -> MemoryStore {
    let rows = truth(stage).reopen();
    let mut stored = StoredLeaves::new(&rows).all();
    let leaves = std::iter::from_fn(|| stored().expect("readable")).filter(|leaf| leaf.key != subject.key());
    let leaves: Vec<_> = leaves.map(|leaf| leaf.hashed()).collect();
    let mut pages = LeafPages::new(tempfile::tempfile().expect("a file"), 0);
    pages.put(&leaves).expect("written");
    let mut rising = leaves.into_iter();
    let Ok(top) = Top::load(|| Ok::<_, Infallible>(rising.next()));
    let mut batch = next_batch(&rows, &rows, &top, &pages, statements);
    batch.delete(Table::Subjects, subject.key().0);
    drop(stored);
    let size = rows::head(&rows).expect("readable").expect("it has begun").size;
    rows.commit(size, batch).expect("stored");
    rows
}

/// The sequencer believes that a tag is bound like this.
fn believed(rows: &MemoryStore, batch: &mut Batch, text: &str, binding: Binding) {
    let key = tag(text).key();
    let row = rows::subject(rows, &key).expect("readable");
    rows::put_subject(batch, &key, &SubjectRow { binding, ..row });
}

fn bound(digit: char, set_by: u64) -> Binding {
    Binding::Bound { digest: digest(digit).parse().expect("a digest"), set_by }
}

#[test]
fn a_signed_state_that_another_entry_is_said_to_have_set_is_a_contradiction() {
    let mut stage = story();
    let name = "registry.example/team/app:moved";
    let first = stage.record(&[happened("moved", &digest('a'))]);
    stage.holds(0, &["at", name]);
    stage.is_audited();
    // It finds that what the tag is bound to was set by the first entry about v1, which set the same.
    let believed_of = |rows: &MemoryStore, batch: &mut Batch| believed(rows, batch, name, bound('a', V1_FIRST));
    let index = sign_a_lie(&mut stage, believed_of, &[happened("moved", &digest('a'))]);
    let reason = format!(
        "the history says that entry {V1_FIRST} set the state of {name}, but the ledger signed an entry that does not name it"
    );
    stage.refused(&["at", name], &reason);
    stage.refused(&["tags", APP], &reason);
    // With the version before it beside it, it did not stay what it was.
    let stays = format!("but the ledger signed that it stays {}", first + 1);
    stage.refused(&["history", name], &stays);
    stage.refused(&["at", name, "--time", &at_time(truth(&stage), first)], &stays);
    stage.holds(0, &AT_V1);
    stage.is_found_out(&format!("entry {}: it commits to the map root ", index + 1));
}

#[test]
fn a_signed_state_that_its_entry_did_not_set_is_a_contradiction() {
    let mut stage = story();
    let name = "registry.example/team/app:other";
    let first = stage.record(&[happened("other", &digest('a'))]);
    stage.holds(0, &["at", name]);
    // It finds that the tag was bound to b, by the entry that bound it to a.
    let believed_of = |rows: &MemoryStore, batch: &mut Batch| believed(rows, batch, name, bound('b', first));
    let index = sign_a_lie(&mut stage, believed_of, &[happened("other", &digest('b'))]);
    let reason = format!("of entry {index} is {} in the history, but the ledger signed {}", first + 1, digest('b'));
    stage.refused(&["at", name], &reason);
    stage.is_found_out(&format!("entry {index}: its outcome is UNCHANGED, but by the rules it is APPLIED"));
}

/// Two files that each hold, and that one ledger cannot both have made.
fn contradict(stage: &Stage, receipt: &str, answer: &str, reason: &str) {
    for (one, other) in [(receipt, answer), (answer, receipt)] {
        let printed = stage.tagledger(&["verify", one, "--against", other]);
        let error = String::from_utf8_lossy(&printed.stderr);
        assert_eq!(printed.status.code(), Some(3), "{}", words(&printed));
        assert!(error.contains("MISBEHAVIOUR: ") && error.contains(reason), "{error}");
        println!("{one} against {other} -> {}", error.trim());
    }
}

/// Saves an answer that holds.
fn saved(stage: &Stage, code: i32, question: &[&str], file: &str) {
    let printed = stage.tagledger(&[question, &["--save", file]].concat());
    assert_eq!(printed.status.code(), Some(code), "{}", words(&printed));
    let again = stage.tagledger(&["verify", file]);
    assert_eq!(again.status.code(), Some(code), "{}", words(&again));
}

#[test]
fn a_history_that_skips_an_entry_is_caught_by_its_receipt() {
    let mut stage = story();
    let twice = "registry.example/team/app:twice";
    stage.record(&[happened("twice", &digest('a'))]);
    let skipped = stage.record(&[happened("twice", &digest('b'))]);
    let entry = skipped.to_string();
    saved(&stage, 0, &["entry", &entry], "receipt.json");
    saved(&stage, 0, &["entry", &entry], "receipt.tlog-proof");
    saved(&stage, 0, &["at", twice], "before.json");
    let agreeing = stage.tagledger(&["verify", "receipt.json", "--against", "before.json"]);
    assert_eq!(agreeing.status.code(), Some(0), "{}", words(&agreeing));
    // It finds the history as it was before that entry, and signs its place a second time.
    let shorten = |rows: &MemoryStore, batch: &mut Batch| {
        rows::put_subject(batch, &tag(twice).key(), &shortened(rows, &tag(twice), 1));
    };
    let second = sign_a_greater_lie(&mut stage, shorten, &[happened("twice", &digest('c'))]);
    assert!(stage.holds(0, &["at", twice]).contains(&digest('c')), "by itself it holds");
    stage.holds(0, &["history", twice]);
    saved(&stage, 0, &["at", twice], "answer.json");
    let reason = format!("it signed entry {skipped} as version 1 of {twice}, and entry {second} as version 1");
    contradict(&stage, "receipt.json", "answer.json", &reason);
    contradict(&stage, "receipt.tlog-proof", "answer.json", &reason);
    contradict(&stage, "before.json", "answer.json", &reason);
    stage.is_found_out(&format!("entry {second}: subject 1 of the record is "));
}

#[test]
fn a_map_that_forgets_a_subject_is_caught_by_a_receipt_and_by_its_catalogue() {
    let stage = story();
    saved(&stage, 0, &["entry", &V1_THIRD.to_string()], "receipt.json");
    let many: Vec<_> = (0..60).map(|number| in_repository("team/more", &format!("t{number}"), 'b')).collect();
    let rows = forgetting(&stage, &v1(), &many);
    let stage = stage.restarted_over(rows);
    let never = stage.holds(4, &AT_V1);
    assert!(never.contains("the subject map does not hold it"), "{never}");
    saved(&stage, 4, &AT_V1, "answer.json");
    let reason = format!(
        "it signed entry {V1_THIRD} as version 2 of {V1}, and in the commitment of the log of size 118 a \
                          history that skips it: 0 versions in all"
    );
    contradict(&stage, "receipt.json", "answer.json", &reason);
    // The entry by which it appeared is in the catalogue: there it needs no receipt.
    let reason = format!("the ledger contradicts itself: it signed entry {V1_FIRST} as version 0 of {V1}");
    stage.refused(&["tags", APP], &reason);
    stage.holds(0, &["at", "registry.example/team/app:latest"]);
    stage.is_found_out("entry 117: it commits to the map root ");
}

#[test]
fn a_catalogue_that_forgets_a_member_is_caught_by_its_receipt() {
    let mut stage = story();
    let question = ["tags", APP, "--all"];
    saved(&stage, 0, &["entry", &GONE.to_string()], "receipt.json");
    assert!(stage.holds(0, &question).contains("gone"));
    let forget = |rows: &MemoryStore, batch: &mut Batch| {
        rows::put_subject(batch, &tags_of_app().key(), &shortened(rows, &tags_of_app(), 2));
    };
    let new = sign_a_greater_lie(&mut stage, forget, &[happened("new", &digest('a'))]);
    assert!(!stage.holds(0, &question).contains("gone"), "by itself it holds");
    saved(&stage, 0, &question, "answer.json");
    let reason = format!("it signed entry {GONE} as version 2 of the tags of {APP}, and entry {new} as version 2");
    contradict(&stage, "receipt.json", "answer.json", &reason);
    stage.is_found_out(&format!("entry {new}: subject 3 of the record is "));
}

#[test]
fn a_tag_that_appears_twice_is_a_contradiction() {
    let mut stage = story();
    stage.holds(0, &["tags", APP]);
    stage.is_audited();
    let forget = |_: &MemoryStore, batch: &mut Batch| batch.delete(Table::Subjects, latest().key().0);
    let again = sign_a_greater_lie(&mut stage, forget, &[happened("latest", &digest('e'))]);
    let name = "registry.example/team/app:latest";
    let reason = format!("it signed entry {LATEST} as version 0 of {name}, and entry {again} as version 0");
    stage.refused(&["tags", APP], &reason);
    stage.is_found_out(&format!("entry {again}: subject 1 of the record is "));
}

/// The rules are for an audit to do again: evidence says what a ledger decided, not that it had to.
#[test]
fn an_outcome_that_the_rules_do_not_give_holds_until_it_is_audited() {
    let mut stage = story();
    let strict = "registry.example/strict:v1";
    stage.record(&[world::policy(&["registry.example/strict:*"])]);
    let first = stage.record(&[in_repository("strict", "v1", 'a')]);
    stage.record(&[in_repository("strict", "v1", 'b')]);
    assert!(stage.holds(0, &["history", strict]).contains("DENIED"));
    stage.is_audited();
    // It finds that the tag was unbound, and may come back as what it was.
    let unbound = Binding::Unbound { last: digest('c').parse().expect("a digest"), set_by: first };
    let believed_of = |rows: &MemoryStore, batch: &mut Batch| believed(rows, batch, strict, unbound);
    let index = sign_a_lie(&mut stage, believed_of, &[in_repository("strict", "v1", 'c')]);
    assert!(stage.holds(0, &["at", strict]).contains(&digest('c')));
    assert!(stage.holds(0, &["history", strict]).contains("APPLIED"));
    stage.is_found_out(&format!("entry {index}: its outcome is APPLIED, but by the rules it is DENIED"));
}

/// The store itself lies only as it is told.
#[test]
fn an_honest_store_tells_what_it_holds() {
    use tagledger::store::Store as _;
    let stage = story();
    let key = v1().key();
    let honest = rows::subject(&*stage.store.snapshot(), &key).expect("readable");
    assert_eq!(Ok(honest.clone()), rows::subject(truth(&stage), &key));
    tell(&stage, |rows, batch| rows::put_subject(batch, &key, &shortened(rows, &v1(), 1)));
    let told = rows::subject(&*stage.store.snapshot(), &key).expect("readable");
    assert_eq!((told.history.size(), honest.history.size()), (1, 3));
    assert_eq!(rows::subject(&*stage.store, &key), Ok(honest.clone()), "the sequencer is told the truth");
    let leaves = |read: &dyn tagledger::store::Read| {
        let mut next = rows::StoredLeaves::new(read).all();
        std::iter::from_fn(move || next().expect("readable")).map(|leaf| (leaf.key, leaf.count)).collect::<Vec<_>>()
    };
    let (told, honest) = (leaves(&*stage.store.snapshot()), leaves(truth(&stage)));
    assert_eq!(told.len(), honest.len());
    assert_eq!(told.iter().zip(&honest).filter(|(one, other)| one != other).count(), 1);
    stage.repent();
    assert_eq!(leaves(&*stage.store.snapshot()), honest);
    assert_eq!(entry_hash(&entry(truth(&stage), 0)).len(), 32);
}
