//! A log that an honest ledger wrote passes; each lie is found, and named with its index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use proptest::prelude::*;
use prost::Message as _;

use super::state::{self, StateError};
use super::*;
use crate::ledger::entry::{sign_commitment, sign_record};
use crate::ledger::history::map_leaf;
use crate::ledger::little_ledger::{LittleLedger, Submission, delete, deploy, digest, push};
use crate::ledger::map::Leaf;
use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::note::Skey;
use crate::ledger::signature::SignatureError;
use crate::ledger::subject::Subject;
use crate::ledger::transition::{SubjectState, TAGS_PER_ENTRY, View};
use crate::proto::Disposition::{Happened, Intended, Requested};
use crate::proto::deployment::Phase;
use crate::proto::statement::Kind as Said;

/// A ledger that says whatever it is told to, and keeps its books as an honest one.
struct Writer {
    skey: Skey,
    policy: Policy,
    entries: Vec<Vec<u8>>,
    log: Tree,
    time_us: u64,
    states: HashMap<SubjectKey, SubjectState>,
    bound: BTreeMap<(Registry, Repository, Tag), Digest>,
    /// What tags were ever bound to.
    carried: BTreeSet<(Registry, Repository, Digest, Tag)>,
    histories: BTreeMap<SubjectKey, Tree>,
}

impl View for Writer {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        Ok(self.states.get(key).cloned().unwrap_or_default())
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let here = self.bound.iter().filter(|((a, b, _), bound)| a == registry && b == repository && *bound == digest);
        Ok(here.map(|((_, _, tag), _)| tag.clone()).collect())
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        let carried = self.carried.iter();
        let here = carried.filter(|(a, b, c, _)| (a, b, c) == (registry, repository, digest));
        Ok(here.map(|(.., tag)| tag.clone()).collect())
    }
}

impl Writer {
    /// With the commitment that a log begins with.
    fn new() -> Self {
        let mut writer = Self {
            skey: Skey::from_seed("ledger.example/test".parse().expect("an origin"), &[1; 32]),
            policy: Policy::default(),
            entries: Vec::new(),
            log: Tree::default(),
            time_us: 1_000_000,
            states: HashMap::new(),
            bound: BTreeMap::new(),
            carried: BTreeSet::new(),
            histories: BTreeMap::new(),
        };
        writer.commit();
        writer
    }

    fn size(&self) -> u64 {
        self.log.size()
    }

    fn append(&mut self, entry: Vec<u8>) {
        self.log.append(entry_hash(&entry), |_| {});
        self.entries.push(entry);
    }

    /// Records a statement in as many entries as it takes, without closing the batch.
    fn say(&mut self, kind: Said) -> u64 {
        self.say_but(kind, |_| {})
    }

    /// The same, but signs other records than it should.
    fn say_but(&mut self, kind: Said, change: impl FnMut(&mut proto::Record)) -> u64 {
        self.submit(proto::Statement { kind: Some(kind), ..proto::Statement::default() }, change)
    }

    fn submit(&mut self, message: proto::Statement, mut change: impl FnMut(&mut proto::Record)) -> u64 {
        let bytes = message.encode_to_vec();
        let statement = Statement::parse(&bytes).expect("valid");
        let first = self.size();
        let Ok(steps) = transition(self, &self.policy, "ci", &statement, first);
        for step in steps {
            self.time_us += 7;
            let subject = |touch: &crate::ledger::transition::Touch| proto::Subject {
                kind: touch.subject.kind().into(),
                version: touch.version,
                name: touch.name.clone(),
            };
            let mut record = proto::Record {
                index: self.size(),
                recorded_at_us: self.time_us,
                statement: bytes.clone(),
                principal: "ci".into(),
                assurance: proto::Assurance::Authenticated.into(),
                producer: None,
                outcome: step.outcome.into(),
                rule: step.rule,
                detail: step.detail,
                subjects: step.touches.iter().map(subject).collect(),
            };
            change(&mut record);
            let entry = sign_record(&record, &self.skey);
            let index = self.size();
            for touch in step.touches {
                if let Subject::Tag(tag) = &touch.subject {
                    let key = (tag.registry.clone(), tag.repository.clone(), tag.tag.clone());
                    if let Some(digest) = touch.after.digest() {
                        self.carried.insert((key.0.clone(), key.1.clone(), digest.clone(), key.2.clone()));
                    }
                    match touch.after.digest() {
                        Some(digest) => self.bound.insert(key, digest.clone()),
                        None => self.bound.remove(&key),
                    };
                }
                let key = touch.subject.key();
                let leaf = history_leaf(index, &entry_hash(&entry), touch.after.effective());
                self.histories.entry(key).or_default().append(leaf, |_| {});
                self.states
                    .insert(key, SubjectState { count: touch.version + 1, binding: touch.after, hold: touch.hold });
            }
            if let Kind::PolicyChange { policy, .. } = &statement.kind
                && step.outcome == Outcome::Applied
            {
                self.policy = policy.clone();
            }
            self.append(entry);
        }
        first
    }

    fn commit(&mut self) -> u64 {
        self.commit_but(|_| {})
    }

    fn commit_but(&mut self, change: impl Fn(&mut proto::Commitment)) -> u64 {
        self.time_us += 7;
        let map: Vec<Leaf> = self.histories.iter().map(|(key, history)| map_leaf(*key, history)).collect();
        let mut rising = map.iter().map(Leaf::hashed);
        let Ok(map) = Top::load(|| Ok::<_, Infallible>(rising.next()));
        let mut commitment = proto::Commitment {
            index: self.size(),
            recorded_at_us: self.time_us,
            map_root: map.root().to_vec(),
            map_size: map.size(),
        };
        change(&mut commitment);
        let index = self.size();
        self.append(sign_commitment(&commitment, &self.skey));
        index
    }

    fn note(&self) -> String {
        self.checkpoint().sign(&self.skey)
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: self.size(), root: self.log.root() }
    }

    fn replay(&self) -> Result<Replay, ReplayError> {
        let mut replay = Replay::new(self.skey.vkey());
        for entry in &self.entries {
            replay.push(entry)?;
        }
        Ok(replay)
    }

    /// The one who is caught, and how.
    fn caught(&self) -> ReplayError {
        self.replay().map(|_| ()).expect_err("a lie is found")
    }
}

fn policy(text: &str) -> Said {
    Said::PolicyChange(proto::PolicyChange { policy: text.into(), replaces: String::new() })
}

fn delete_manifest(digit: char) -> Said {
    Said::ManifestDelete(proto::ManifestDelete {
        registry: "r".into(),
        repository: "app".into(),
        digest: digest(digit),
        disposition: Happened.into(),
        settles: 0,
    })
}

fn observe(tag: &str, digit: Option<char>) -> Said {
    Said::TagObserved(proto::TagObserved {
        registry: "r".into(),
        repository: "app".into(),
        tag: tag.into(),
        digest: digit.map(digest).unwrap_or_default(),
        checks_entry: 0,
        last_seen_us: 0,
        first_seen_us: 0,
    })
}

const RULE: &str = "[[rule]]\nid = \"r/app:v*\"\nregistries = [\"r\"]\nrepositories = [\"app\"]\ntags = [\"v*\"]\n";

/// A policy, a tag that it keeps, one that it doesn't, and a denied attempt.
fn story() -> Writer {
    let mut writer = Writer::new();
    writer.say(policy(RULE));
    writer.commit();
    writer.say(push("v1", 'a', Requested));
    writer.say(push("latest", 'a', Happened));
    writer.commit();
    writer.say(push("v1", 'b', Requested));
    writer.say(deploy("web", "v1", 'a', Phase::Started));
    writer.commit();
    writer
}

#[test]
fn an_honest_log_passes_and_its_state_is_known() {
    let mut writer = story();
    writer.commit();
    writer.say(delete("latest"));
    writer.say(policy(""));
    writer.say(push("v1", 'b', Requested));
    writer.commit();
    let replay = writer.replay().expect("honest");
    assert_eq!(replay.check(&writer.checkpoint()), Ok(()));
    assert_eq!(replay.counts().commitments, 6);
    assert_eq!(replay.counts().records(), 8);
    assert_eq!((replay.counts().of(Outcome::Denied), replay.counts().of(Outcome::Applied)), (1, 7));
    assert_eq!(replay.map_size(), u64::try_from(writer.histories.len()).expect("small"));
    assert_eq!(replay.policy(), &Policy::default());
    assert_eq!(replay.last_time_us(), writer.time_us);
}

#[test]
fn a_deletion_over_many_entries_passes_whole_and_is_refused_without_one_of_them() {
    let mut writer = Writer::new();
    for number in 0..2 * TAGS_PER_ENTRY + 1 {
        writer.say(push(&format!("t{number:04}"), 'a', Happened));
    }
    writer.commit();
    let first = writer.say(delete_manifest('a'));
    writer.commit();
    assert_eq!(writer.size(), first + 4);
    let replay = writer.replay().expect("honest");
    assert_eq!(replay.check(&writer.checkpoint()), Ok(()));

    let mut left_out = story();
    for number in 0..TAGS_PER_ENTRY + 1 {
        left_out.say(push(&format!("t{number:04}"), 'c', Happened));
    }
    let rest = |writer: &mut Writer| {
        let first = writer.say(delete_manifest('c'));
        let last = writer.entries.pop().expect("two entries");
        (first, last)
    };
    // Closed without the second; as if no more had been asked for.
    let mut closed = left_out;
    let (first, _) = rest(&mut closed);
    closed.log = Tree::default();
    for entry in closed.entries.clone() {
        closed.log.append(entry_hash(&entry), |_| {});
    }
    let index = closed.commit();
    let lie = |found| Lie::Unfinished { first, total: 2, number: 2, found };
    assert_eq!(closed.caught(), ReplayError { index, lie: lie("a commitment") });
    // Something else in between, though it be true.
    closed.entries.pop();
    closed.log = Tree::default();
    for entry in closed.entries.clone() {
        closed.log.append(entry_hash(&entry), |_| {});
    }
    closed.say(push("latest", 'd', Happened));
    assert_eq!(closed.caught(), ReplayError { index, lie: lie("a record of something else") });
}

#[test]
fn the_entries_of_a_deletion_are_of_one_principal() {
    let mut writer = Writer::new();
    for number in 0..TAGS_PER_ENTRY + 1 {
        writer.say(push(&format!("t{number:04}"), 'a', Happened));
    }
    let mut number = 0;
    let first = writer.say_but(delete_manifest('a'), |record| {
        number += 1;
        if number == 2 {
            record.principal = "somebody else".into();
        }
    });
    let lie = Lie::Unfinished { first, total: 2, number: 2, found: "a record of something else" };
    assert_eq!(writer.caught(), ReplayError { index: first + 1, lie });
}

/// Signs one record otherwise than it should after the story, and says how that is found.
fn changed(kind: Said, change: impl FnMut(&mut proto::Record)) -> Lie {
    let mut writer = story();
    let index = writer.say_but(kind, change);
    writer.commit();
    let caught = writer.caught();
    assert_eq!(caught.index, index, "{caught}");
    assert!(caught.to_string().starts_with(&format!("entry {index}: ")), "{caught}");
    caught.lie
}

#[test]
fn another_outcome_is_found() {
    let applied = |record: &mut proto::Record| {
        record.outcome = Outcome::Applied.into();
        record.rule.clear();
        record.detail.clear();
    };
    let of = |lie: &Lie| match lie {
        Lie::Outcome { expected, found, .. } => (*expected, *found),
        other => panic!("{other}"),
    };
    // The two that matter most: a refusal, and an alarm, kept quiet.
    let denied = changed(push("v1", 'b', Requested), applied);
    assert_eq!(of(&denied), (Outcome::Denied, Outcome::Applied));
    let because =
        "its outcome is APPLIED, but by the rules it is DENIED: tag \"v1\" is immutable since entry 3 bound it";
    assert!(denied.to_string().starts_with(because), "{denied}");
    assert_eq!(of(&changed(push("v1", 'b', Happened), applied)), (Outcome::Violation, Outcome::Applied));
    assert_eq!(of(&changed(delete("v1"), applied)), (Outcome::Violation, Outcome::Applied));
    assert_eq!(of(&changed(observe("v1", None), applied)), (Outcome::Violation, Outcome::Applied));
    assert_eq!(of(&changed(observe("latest", Some('b')), applied)), (Outcome::Drift, Outcome::Applied));
    assert_eq!(of(&changed(deploy("db", "latest", 'b', Phase::Started), applied)), (Outcome::Drift, Outcome::Applied));
    let denied = |record: &mut proto::Record| record.outcome = Outcome::Denied.into();
    assert_eq!(of(&changed(push("new", 'b', Requested), denied)), (Outcome::Applied, Outcome::Denied));
    assert_eq!(of(&changed(policy(RULE), applied)), (Outcome::Unchanged, Outcome::Applied));
}

#[test]
fn another_rule_or_detail_is_found() {
    let rule = changed(push("v1", 'b', Requested), |record| record.rule = "r/app:*".into());
    assert_eq!(rule, Lie::Reason { field: "rule", expected: "r/app:v*".into(), found: "r/app:*".into() });
    let detail = changed(push("v1", 'b', Requested), |record| record.detail.push('!'));
    assert!(matches!(detail, Lie::Reason { field: "detail", .. }), "{detail}");
    let invented = changed(push("latest", 'b', Requested), |record| record.detail = "as you like".into());
    let none = Lie::Reason { field: "detail", expected: String::new(), found: "as you like".into() };
    assert_eq!(invented, none);
}

#[test]
fn another_subject_or_version_is_found() {
    let words = |kind: Said, change: fn(&mut proto::Record)| changed(kind, change).to_string();
    let again = || push("latest", 'b', Happened);
    let skipped = words(again(), |record| record.subjects[0].version += 1);
    let expected =
        "subject 1 of the record is r/app:latest in version 2, but by the rules it is r/app:latest in version 1";
    assert_eq!(skipped, expected);
    let repeated = words(again(), |record| record.subjects[0].version -= 1);
    assert!(repeated.contains("is r/app:latest in version 0, but"), "{repeated}");
    let missing = words(again(), |record| {
        record.subjects.pop();
    });
    assert!(missing.starts_with("subject 2 of the record is none, but by the rules it is sha256:bbb"), "{missing}");
    let added = words(again(), |record| {
        let kind = proto::SubjectKind::Repositories.into();
        record.subjects.push(proto::Subject { kind, version: 1, name: String::new() });
    });
    assert_eq!(added, "subject 3 of the record is the repositories in version 1, but by the rules it is none");
    let swapped = words(again(), |record| record.subjects.swap(0, 1));
    assert!(swapped.starts_with("subject 1 of the record is sha256:bbb"), "{swapped}");
    let hidden = words(push("new", 'b', Happened), |record| {
        record.subjects.truncate(2);
    });
    assert!(hidden.ends_with("is none, but by the rules it is the tags of r/app in version 2"), "{hidden}");
    let renamed = words(delete_manifest('d'), |record| record.subjects[0].name = "v1".into());
    let expected = "subject 1 of the record is a DIGEST \"v1\" that its statement does not name, in version 0, but";
    assert!(renamed.starts_with(expected), "{renamed}");
    let spared = words(policy(""), |record| record.subjects[0].kind = proto::SubjectKind::Principals.into());
    let expected =
        "a PRINCIPALS \"\" that its statement does not name, in version 1, but by the rules it is the policy in";
    assert!(spared.contains(expected), "{spared}");
}

#[test]
fn a_tag_that_a_deletion_spares_is_found() {
    let mut writer = Writer::new();
    for tag in ["a", "b", "c"] {
        writer.say(push(tag, 'a', Happened));
    }
    let index = writer.say_but(delete_manifest('a'), |record| {
        record.subjects.remove(2);
    });
    let caught = writer.caught();
    let words = "subject 3 of the record is r/app:c in version 1, but by the rules it is r/app:b in version 1";
    assert_eq!((caught.index, caught.lie.to_string().as_str()), (index, words));
}

#[test]
fn time_that_does_not_rise_is_found() {
    let before_us = story().time_us;
    for back_us in [7, 8, before_us + 7] {
        let lie = changed(push("latest", 'b', Happened), |record| record.recorded_at_us -= back_us);
        assert_eq!(lie, Lie::Time { time_us: before_us + 7 - back_us, before_us });
    }
    let mut writer = story();
    let index = writer.commit_but(|commitment| commitment.recorded_at_us = before_us);
    assert_eq!(writer.caught(), ReplayError { index, lie: Lie::Time { time_us: before_us, before_us } });
}

#[test]
fn an_entry_in_another_place_is_found() {
    let lie = changed(push("latest", 'b', Happened), |record| record.index += 1);
    assert_eq!(lie, Lie::Index { signed: story().size() + 1 });
    let mut writer = story();
    let index = writer.commit_but(|commitment| commitment.index -= 1);
    assert_eq!(writer.caught(), ReplayError { index, lie: Lie::Index { signed: index - 1 } });
    // One entry taken out: all after it are signed for other places.
    for left_out in 0..story().entries.len() - 1 {
        let mut shorter = story();
        shorter.entries.remove(left_out);
        let index = u64::try_from(left_out).expect("small");
        assert_eq!(shorter.caught(), ReplayError { index, lie: Lie::Index { signed: index + 1 } });
    }
}

#[test]
fn a_log_that_begins_with_a_record_is_refused() {
    let mut writer = Writer::new();
    writer.entries.clear();
    writer.log = Tree::default();
    writer.say(push("v1", 'a', Happened));
    assert_eq!(writer.caught(), ReplayError { index: 0, lie: Lie::Beginning });
}

#[test]
fn a_statement_recorded_twice_under_one_event_id_is_found() {
    let with_id = |event_id: &str, kind| proto::Statement {
        kind: Some(kind),
        event_id: event_id.into(),
        ..proto::Statement::default()
    };
    let mut writer = story();
    let plain = |_: &mut proto::Record| {};
    writer.submit(with_id("build-1", push("latest", 'b', Happened)), plain);
    writer.submit(with_id("build-2", push("latest", 'c', Happened)), plain);
    // Another principal's ids are its own.
    writer.submit(with_id("build-1", push("latest", 'b', Happened)), |record| record.principal = "cd".into());
    writer.commit();
    writer.replay().expect("honest");
    for kind in [push("latest", 'b', Happened), push("other", 'b', Happened)] {
        let mut twice = story();
        twice.submit(with_id("build-1", push("latest", 'b', Happened)), plain);
        twice.commit();
        let index = twice.submit(with_id("build-1", kind), plain);
        let lie = Lie::Repeated { principal: "ci".into(), event_id: "build-1".into() };
        assert_eq!(twice.caught(), ReplayError { index, lie });
    }
}

#[test]
fn a_deletion_of_several_entries_uses_its_event_id_once() {
    let mut writer = Writer::new();
    for number in 0..TAGS_PER_ENTRY + 1 {
        writer.say(push(&format!("t{number:04}"), 'a', Happened));
    }
    let statement = proto::Statement {
        kind: Some(delete_manifest('a')),
        event_id: "cleanup".into(),
        ..proto::Statement::default()
    };
    writer.submit(statement, |_| {});
    writer.commit();
    writer.replay().expect("honest");
}

#[test]
fn another_map_is_found_at_the_commitment() {
    let mut writer = story();
    writer.say(push("latest", 'b', Happened));
    let index = writer.commit_but(|commitment| commitment.map_root[31] ^= 1);
    let ReplayError { index: at, lie: Lie::MapRoot { expected, found } } = writer.caught() else { panic!("a root") };
    assert_eq!(at, index);
    assert_eq!((expected[..31].to_vec(), expected[31]), (found[..31].to_vec(), found[31] ^ 1));

    let mut writer = story();
    let size = writer.replay().expect("honest").map_size();
    let index = writer.commit_but(|commitment| commitment.map_size += 1);
    assert_eq!(writer.caught(), ReplayError { index, lie: Lie::MapSize { expected: size, found: size + 1 } });

    // The map of one entry ago.
    let mut writer = story();
    let before = Top::clone(&writer.replay().expect("honest").top);
    writer.say(push("latest", 'b', Happened));
    let index = writer.commit_but(|commitment| commitment.map_root = before.root().to_vec());
    assert!(matches!(writer.caught(), ReplayError { index: at, lie: Lie::MapRoot { .. } } if at == index));
    assert!(matches!(zeros_caught(), Lie::MapRoot { found, .. } if found == [0; 32]));
}

/// As ledgers did before there was a map.
fn zeros_caught() -> Lie {
    let mut writer = story();
    writer.commit_but(|commitment| (commitment.map_root, commitment.map_size) = (vec![0; 32], 0));
    writer.caught().lie
}

#[test]
fn a_history_that_skips_an_entry_is_found_at_the_commitment() {
    let mut writer = story();
    let tag = Subject::Tag("r/app:latest".parse().expect("a tag")).key();
    let before = writer.histories[&tag].clone();
    writer.say(push("latest", 'b', Happened));
    writer.histories.insert(tag, before);
    let index = writer.commit();
    assert!(matches!(writer.caught(), ReplayError { index: at, lie: Lie::MapRoot { .. } } if at == index));

    // The same versions, but another binding in force after one of them.
    let mut writer = story();
    let index = writer.say(push("latest", 'b', Happened));
    let hash = entry_hash(writer.entries.last().expect("just pushed"));
    let mut history = Tree::default();
    history.append(history_leaf(4, &entry_hash(&writer.entries[4]), 5), |_| {});
    history.append(history_leaf(index, &hash, 5), |_| {});
    writer.histories.insert(tag, history);
    let index = writer.commit();
    assert!(matches!(writer.caught(), ReplayError { index: at, lie: Lie::MapRoot { .. } } if at == index));
}

#[test]
fn a_policy_that_is_not_followed_is_found() {
    // It says that the rules are other ones now, and goes on by the old ones.
    let mut writer = story();
    writer.say(policy("[[rule]]\nid = 'all'\nrepositories = ['app']\n"));
    writer.policy = Policy::parse(RULE).expect("a policy");
    let index = writer.say(push("latest", 'b', Requested));
    let caught = writer.caught();
    assert_eq!(caught.index, index);
    assert!(matches!(caught.lie, Lie::Outcome { expected: Outcome::Denied, found: Outcome::Applied, .. }), "{caught}");
    // It judges by rules that are nowhere in the log.
    let mut writer = Writer::new();
    writer.policy = Policy::parse(RULE).expect("a policy");
    writer.say(push("v1", 'a', Requested));
    let index = writer.say(push("v1", 'b', Requested));
    let caught = writer.caught();
    assert_eq!(caught.index, index);
    assert!(matches!(caught.lie, Lie::Outcome { expected: Outcome::Applied, found: Outcome::Denied, .. }), "{caught}");
}

#[test]
fn what_this_ledger_did_not_sign_is_refused() {
    let mut writer = story();
    let index = writer.size();
    let own = std::mem::replace(
        &mut writer.skey,
        Skey::from_seed("ledger.example/test".parse().expect("an origin"), &[2; 32]),
    );
    writer.say(push("latest", 'b', Happened));
    writer.skey = own;
    assert_eq!(writer.caught(), ReplayError { index, lie: EntryError::Signature(SignatureError::Mismatch).into() });
    let mut writer = story();
    let mut bytes = writer.entries[3].clone();
    bytes.extend_from_slice(&[0x28, 0]);
    writer.entries[3] = bytes;
    assert!(matches!(writer.caught(), ReplayError { index: 3, lie: Lie::Entry(EntryError::Encoding(_)) }));
}

#[test]
fn a_producer_has_the_form_that_the_assurance_needs() {
    let producer = |key_id: &str| Some(proto::Producer { key_id: key_id.into(), signature: vec![7; 64] });
    let again = || push("latest", 'b', Happened);
    let field = |lie: Lie| match lie {
        Lie::Form { field, problem } => format!("{field} {problem}"),
        other => panic!("{other}"),
    };
    let signed = proto::Assurance::Signed.into();
    let lie = changed(again(), |record| record.assurance = signed);
    assert_eq!(field(lie), "producer is missing, although the assurance is SIGNED");
    let lie = changed(again(), |record| record.producer = producer("0123456789abcdef"));
    assert_eq!(field(lie), "producer is there, although the assurance is AUTHENTICATED");
    for key_id in ["", "0123456789abcde", "0123456789abcdeg", "0123456789ABCDEF", "0123456789abcdef0"] {
        let lie = changed(again(), |record| (record.assurance, record.producer) = (signed, producer(key_id)));
        assert_eq!(field(lie), format!("producer.key_id is {key_id:?}, not 16 hexadecimal digits in lower case"));
    }
    assert_eq!(field(changed(again(), |record| record.principal.clear())), "principal must not be empty");
    let lie = field(changed(again(), |record| record.principal = "a\nb".into()));
    assert_eq!(lie, "principal contains the control character U+000A");
    assert!(field(changed(again(), |record| record.principal = "x".repeat(129))).starts_with("principal is 129 bytes"));
    let mut writer = story();
    writer.say_but(again(), |record| {
        (record.assurance, record.producer) = (signed, producer("0123456789abcdef"));
        record.principal = "x".repeat(128);
    });
    writer.replay().expect("the form is right");
}

#[test]
fn checkpoints_are_held_against_the_entries() {
    let writer = story();
    let replay = writer.replay().expect("honest");
    let honest = writer.checkpoint();
    assert_eq!(replay.check(&honest), Ok(()));
    let (size, expected, found) = (honest.size, honest.root, [3; 32]);
    let other = Checkpoint { root: found, ..honest };
    assert_eq!(replay.check(&other), Err(CheckpointLie::Root { size, expected, found }));
    let longer = Checkpoint { size: size + 1, ..honest };
    assert_eq!(replay.check(&longer), Err(CheckpointLie::Size { found: size + 1, replayed: size }));
    let mut open = story();
    open.say(push("latest", 'b', Happened));
    let replay = open.replay().expect("honest so far");
    assert_eq!(replay.check(&open.checkpoint()), Err(CheckpointLie::NotClosed { size: size + 1 }));
}

// Saved states.

fn saved(replay: &Replay, note: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    state::save(replay, note, &mut bytes).expect("written");
    bytes
}

/// By the first principal, an admin, of a name.
fn admitted(name: &str, token: u8) -> Said {
    let principal = proto::Principal {
        roles: [proto::Role::Writer, proto::Role::Admin].map(i32::from).to_vec(),
        grants: vec![proto::Grant { repositories: vec!["**".into()], kinds: Vec::new() }],
        requires: vec![proto::Credential::Token.into()],
        token_sha256: vec![vec![token; 32]],
        ..proto::Principal::default()
    };
    let change = Some(proto::principal_change::Change::Principal(principal));
    Said::PrincipalChange(proto::PrincipalChange { name: name.into(), change })
}

fn sent(principal: &str, kind: Said) -> Submission {
    Submission { principal: principal.into(), ..kind.into() }
}

#[test]
fn a_state_keeps_the_principals_and_whose_intent_holds_a_tag() {
    let ledger = |then: &[Submission]| {
        let skey = Skey::from_seed("ledger.example/test".parse().expect("an origin"), &[1; 32]);
        let mut ledger = LittleLedger::empty(skey, 1_000_000, 1);
        ledger.commit();
        for kind in [admitted("operator", 1), admitted("ci", 2), push("v9", '9', Intended)] {
            ledger.add(&sent("operator", kind));
        }
        let kept = ledger.commit() + 1;
        then.iter().for_each(|sent| {
            ledger.add(sent);
        });
        ledger.commit();
        (ledger, kept)
    };
    let (honest, size) = ledger(&[]);
    let vkey = honest.skey.vkey();
    let mut replay = Replay::new(vkey.clone());
    honest.entries()[..usize::try_from(size).expect("small")]
        .iter()
        .for_each(|entry| replay.push(entry).expect("honest"));
    let state = saved(&replay, &honest.checkpoint_at(size).sign(&honest.skey));
    let goes_on = |then: &[Submission]| {
        let (ledger, size) = ledger(then);
        let mut replay = state::load(state.as_slice(), &vkey).expect("a state").replay;
        let rest = &ledger.entries()[usize::try_from(size).expect("small")..];
        rest.iter().try_for_each(|entry| replay.push(entry))
    };
    let settled = |principal: &str| {
        let Said::TagPush(mut push) = push("v9", '9', Happened) else { unreachable!("as made") };
        push.settles = 4;
        sent(principal, Said::TagPush(push))
    };
    let revoked = || {
        let change = Some(proto::principal_change::Change::Revocation(proto::Revocation {}));
        Said::PrincipalChange(proto::PrincipalChange { name: "ci".into(), change })
    };
    let asked = || push("v9", '8', Requested);
    assert_eq!(goes_on(&[sent("ci", push("v1", 'a', Happened)), settled("operator"), sent("ci", asked())]), Ok(()));
    assert_eq!(goes_on(&[sent("operator", admitted("new", 3)), sent("new", push("v1", 'a', Happened))]), Ok(()));
    let refused = |then: &[Submission]| goes_on(then).expect_err("a lie").lie;
    let unknown = |name: &str| Lie::Unauthorized(Unauthorized::Unknown(name.into()));
    assert_eq!(refused(&[sent("new", push("v1", 'a', Happened))]), unknown("new"));
    assert_eq!(refused(&[sent("operator", revoked()), sent("ci", push("v1", 'a', Happened))]), unknown("ci"));
    assert!(matches!(refused(&[sent("ci", admitted("new", 1))]), Lie::Principals(ChangeError::Taken { .. })));
    let held = Lie::Held { tag: "r/app:v9".into(), holder: 3 };
    assert_eq!(refused(&[settled("ci"), sent("ci", asked())]), held, "it is not ci's intent");
}

#[test]
fn a_state_goes_on_where_it_was_saved() {
    let mut writer = story();
    writer.say(push("long", 'e', Happened));
    writer.submit(
        proto::Statement {
            kind: Some(push("sha512", 'a', Happened)),
            event_id: "once".into(),
            ..proto::Statement::default()
        },
        |_| {},
    );
    writer.say(delete("latest"));
    // Held each way.
    writer.say(push("away", 'f', Happened));
    writer.say(push("loose", '9', Happened));
    let Said::TagDelete(gone) = delete("away") else { panic!("a deletion") };
    let Said::ManifestDelete(loose) = delete_manifest('9') else { panic!("a deletion") };
    let asked = Intended.into();
    let pushing = writer.say(push("v9", '8', Intended));
    writer.say(Said::TagDelete(proto::TagDelete { disposition: asked, ..gone }));
    let deleting = writer.say(Said::ManifestDelete(proto::ManifestDelete { disposition: asked, ..loose.clone() }));
    writer.commit();
    let (note, vkey) = (writer.note(), writer.skey.vkey());
    let bytes = saved(&writer.replay().expect("honest"), &note);
    assert_eq!(state::header(bytes.as_slice()).expect("a state").size, writer.size());
    let loaded = state::load(bytes.as_slice(), &vkey).expect("a state");
    assert_eq!((&loaded.note, loaded.checkpoint), (&note, writer.checkpoint()));
    assert_eq!(saved(&loaded.replay, &note), bytes);
    let mut replay = loaded.replay;
    assert_eq!(replay.policy().text(), RULE);
    let known = writer.entries.len();
    // What was, counts: rules, bindings, versions, event ids.
    writer.say(push("v1", 'b', Requested));
    writer.say(delete_manifest('a'));
    let settles = deleting + 1;
    writer.say(Said::ManifestDelete(proto::ManifestDelete { disposition: Happened.into(), settles, ..loose }));
    writer.say(observe("away", None));
    writer.commit();
    for entry in &writer.entries[known..] {
        replay.push(entry).expect("honest");
    }
    assert_eq!(replay.check(&writer.checkpoint()), Ok(()));
    assert_eq!(saved(&replay, &writer.note()), saved(&writer.replay().expect("honest"), &writer.note()));
    writer.say(push("v9", '7', Requested));
    let caught = replay.push(writer.entries.last().expect("just pushed")).expect_err("it is held");
    assert_eq!(caught.lie, Lie::Held { tag: "r/app:v9".into(), holder: pushing });
    writer.entries.pop();
    writer.log = replay.log().clone();
    let index = writer.submit(
        proto::Statement {
            kind: Some(push("other", 'a', Happened)),
            event_id: "once".into(),
            ..proto::Statement::default()
        },
        |_| {},
    );
    let caught = replay.push(writer.entries.last().expect("just pushed")).expect_err("twice");
    assert_eq!(caught.index, index);
    assert!(matches!(caught.lie, Lie::Repeated { .. }));
}

#[test]
fn a_state_that_was_changed_or_cut_short_or_is_of_another_log_is_refused() {
    let writer = story();
    let vkey = writer.skey.vkey();
    let bytes = saved(&writer.replay().expect("honest"), &writer.note());
    for length in 0..bytes.len() {
        assert!(state::load(&bytes[..length], &vkey).is_err(), "cut at {length}");
    }
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 1;
        assert!(state::load(changed.as_slice(), &vkey).is_err(), "changed at {position}");
    }
    let longer = [&bytes[..], b"\n"].concat();
    assert!(matches!(state::load(longer.as_slice(), &vkey), Err(StateError::Damaged("something follows it"))));
    for other in ["ledger.example/test", "ledger.example/other"] {
        let other = Skey::from_seed(other.parse().expect("an origin"), &[2; 32]).vkey();
        assert!(matches!(state::load(bytes.as_slice(), &other), Err(StateError::OtherLog { .. })));
    }
    assert!(matches!(state::load(b"tagledger audit state 1\n{}\n".as_slice(), &vkey), Err(StateError::Magic)));
}

/// Puts the right checksum under a changed state.
fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 32);
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

#[test]
fn a_state_with_other_histories_than_the_ledger_committed_to_is_refused() {
    let writer = story();
    let vkey = writer.skey.vkey();
    let replay = writer.replay().expect("honest");
    let bytes = saved(&replay, &writer.note());
    let rows = bytes.len() - 32 - replay.events.len() * 32;
    let header = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).expect("two lines").0 + 1;
    assert!(header < rows);
    let row = &bytes[header..];
    let count = u64::from_be_bytes(row[32..40].try_into().expect("8 bytes"));
    assert!((1..10).contains(&count));
    // A byte of its key, of its count, of its history's edge.
    for position in [31, 39, 40] {
        let mut changed = bytes.clone();
        changed[header + position] ^= if position == 39 { 3 } else { 1 };
        let refused = state::load(reseal(changed).as_slice(), &vkey).map(|_| ()).expect_err("another map");
        assert!(matches!(refused, StateError::OtherMap { .. } | StateError::Damaged(_)), "{refused}");
    }
    // A checkpoint that its ledger signed, but over other entries.
    for other in [Checkpoint { root: [9; 32], ..writer.checkpoint() }, Checkpoint { size: 3, root: [9; 32] }] {
        let bytes = saved(&replay, &other.sign(&writer.skey));
        let refused = state::load(bytes.as_slice(), &vkey).map(|_| ()).expect_err("another checkpoint");
        assert!(matches!(refused, StateError::Damaged("its checkpoint is not over what it covers")), "{refused}");
    }
    // Saved on the way to a larger one it is fine.
    let later = Checkpoint { size: writer.size() + 5, root: [9; 32] }.sign(&writer.skey);
    assert!(state::load(saved(&replay, &later).as_slice(), &vkey).is_ok());
}

// Whatever is said.

fn said() -> impl Strategy<Value = Said> {
    let tag = || (0..60usize).prop_map(|number| if number < 20 { format!("v{number}") } else { format!("t{number}") });
    let digit = || prop::sample::select(vec!['a', 'b', 'c']);
    let asked = || prop::sample::select(vec![Requested, Happened, proto::Disposition::Refused]);
    let phase = prop::sample::select(vec![Phase::Started, Phase::Stopped, Phase::Observed]);
    let rules = ["", RULE, "[[rule]]\nid = 'all'\n", "[[rule]]\nid = 'p'\ntags = ['v*']\npromoted_from = ['la*']\n"];
    prop_oneof![
        8 => (tag(), digit(), asked()).prop_map(|(tag, digit, asked)| push(&tag, digit, asked)),
        3 => tag().prop_map(|tag| delete(&tag)),
        1 => digit().prop_map(delete_manifest),
        3 => (tag(), prop::option::of(digit())).prop_map(|(tag, digit)| observe(&tag, digit)),
        3 => (0..30usize, tag(), digit(), phase)
            .prop_map(|(workload, tag, digit, phase)| deploy(&format!("w{workload}"), &tag, digit, phase)),
        1 => prop::sample::select(rules.to_vec()).prop_map(policy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_an_honest_log_passes_and_can_be_gone_on_from(
        batches in prop::collection::vec(prop::collection::vec(said(), 0..8), 1..30),
        pause in 0..30usize,
    ) {
        let mut writer = Writer::new();
        let mut pauses_at = 1;
        for (position, batch) in batches.into_iter().enumerate() {
            for kind in batch {
                writer.say(kind);
            }
            writer.commit();
            if position <= pause {
                pauses_at = writer.entries.len();
            }
        }
        let (note, vkey) = (writer.note(), writer.skey.vkey());
        let mut replay = Replay::new(vkey.clone());
        for (position, entry) in writer.entries.iter().enumerate() {
            if position == pauses_at {
                replay = state::load(saved(&replay, &note).as_slice(), &vkey).expect("its own state").replay;
            }
            replay.push(entry).unwrap_or_else(|error| panic!("{error}"));
        }
        prop_assert_eq!(replay.check(&writer.checkpoint()), Ok(()));
        prop_assert_eq!(saved(&replay, &note), saved(&writer.replay().expect("honest"), &note));
        for (key, expected) in &writer.states {
            prop_assert_eq!(&replay.subjects.subject(key), &Ok(expected.clone()));
        }
    }
}
