//! Honest evidence is accepted and says what follows; every dishonest piece is refused, also where the ledger itself lies.

use super::*;
use crate::ledger::entry::Body;
use crate::ledger::little_ledger::{LittleLedger, delete, deploy, digest, push};
use crate::ledger::map::MapProofError;
use crate::ledger::names::TagRef;
use crate::ledger::statement::Workload;
use crate::ledger::time::rfc3339;
use crate::proto::Disposition::{Happened, Refused, Requested};
use crate::proto::deployment::Phase;
use crate::proto::subject_proof::Terminal;

const TAG: &str = "r/app:v1";

/// 0: v1 -> a. 2: latest -> b. 4: v1 -> c denied. 6: v1 -> a again. 8: v1 -> d all the same. 10: push of v1 that failed.
/// 12: web starts v1 with d. 14: latest -> e. 16: latest deleted. 18: latest deleted again. 20: v2 -> d failed.
fn ledger() -> LittleLedger {
    let mut ledger = LittleLedger::new("ledger.example", 1);
    ledger.record(push("v1", 'a', Happened));
    ledger.record(push("latest", 'b', Happened));
    ledger.record(push("v1", 'c', Requested));
    ledger.record(push("v1", 'a', Happened));
    ledger.record(push("v1", 'd', Happened));
    ledger.record(push("v1", 'e', Refused));
    ledger.record(deploy("web", "v1", 'd', Phase::Started));
    ledger.record(push("latest", 'e', Happened));
    ledger.record(delete("latest"));
    ledger.record(delete("latest"));
    ledger.record(push("v2", 'd', Refused));
    ledger
}

fn tag(text: &str) -> TagRef {
    text.parse().expect("a reference")
}

fn subject(text: &str) -> Subject {
    Subject::Tag(tag(text))
}

fn catalogue() -> Subject {
    let of: RepositoryName = "r/app".parse().expect("a repository");
    of.tags()
}

fn history_of(ledger: &LittleLedger, subject: &Subject, part: Part) -> Claimed {
    let question = match subject {
        Subject::Tag(tag) => Question::TagHistory { tag: tag.clone(), part },
        Subject::Digest(digest) => Question::Sightings { digest: digest.clone(), part },
        other => panic!("{other:?} has no history question"),
    };
    let all = (0..ledger.history(subject).len() as u64).collect();
    Claimed::new(question, vec![ledger.shown(&[(subject.clone(), all)])])
}

fn web() -> Subject {
    Subject::Workload(Workload {
        environment: "prod".into(),
        cluster: String::new(),
        namespace: String::new(),
        workload: "web".into(),
        container: String::new(),
    })
}

/// Everything known of these subjects.
fn all_of(ledger: &LittleLedger, subjects: &[Subject]) -> Vec<(Subject, Vec<u64>)> {
    let all = |subject: &Subject| (subject.clone(), (0..ledger.history(subject).len() as u64).collect());
    subjects.iter().map(all).collect()
}

fn tags_at(ledger: &LittleLedger, at_us: u64) -> Claimed {
    let repository = "r/app".parse().expect("a repository");
    let question = Question::TagsAt { repository, at_us, include_unbound: false, limit: 0 };
    let subjects = [catalogue(), subject(TAG), subject("r/app:latest"), subject("r/app:v2")];
    Claimed::new(question, vec![ledger.shown(&all_of(ledger, &subjects))])
}

fn running(ledger: &LittleLedger, environment: &str, at_us: u64) -> Claimed {
    let question = Question::RunningAt {
        environment: environment.into(),
        workload: String::new(),
        at_us,
        include_stopped: false,
        limit: 0,
    };
    let subjects = [Subject::Environments, Subject::WorkloadsOf("prod".into()), web()];
    Claimed::new(question, vec![ledger.shown(&all_of(ledger, &subjects))])
}

fn state_of(answer: &Answer) -> &State {
    match &answer.finding {
        Finding::State(state) => state,
        other => panic!("{other:?}"),
    }
}

fn names(answer: &Answer) -> Vec<String> {
    match &answer.finding {
        Finding::States(list) => list.items.iter().map(|state| subject_words(&state.subject)).collect(),
        other => panic!("{other:?}"),
    }
}

fn time_of(ledger: &LittleLedger, index: u64) -> u64 {
    crate::ledger::entry::index_and_time(&ledger.entry(index)).expect("own entry").1
}

fn history_in<'a>(evidence: &'a mut proto::Evidence, subject: &Subject) -> &'a mut proto::HistoryProof {
    match &mut proof_in(evidence, subject).terminal {
        Some(Terminal::History(history)) => history,
        other => panic!("{other:?}"),
    }
}

fn proof_in<'a>(evidence: &'a mut proto::Evidence, subject: &Subject) -> &'a mut proto::SubjectProof {
    let key = subject.key().0.to_vec();
    evidence.subjects.iter_mut().find(|proof| proof.key == key).expect("it is shown")
}

#[test]
fn the_state_of_a_tag_is_derived_at_every_moment() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let (a, d) = (digest('a'), digest('d'));
    for (index, expected) in [(0, &a), (2, &a), (4, &a), (6, &a), (8, &d), (10, &d), (12, &d), (14, &d)] {
        for at_us in [time_of(&ledger, index), time_of(&ledger, index) + 1, time_of(&ledger, index + 1)] {
            let answer = ledger.tag_at(&tag(TAG), at_us).check(&vkey).expect("honest");
            assert_eq!(state_of(&answer).digest().map(ToString::to_string).as_ref(), Some(expected), "at {at_us}");
            assert!(answer.verdict().unproven.is_empty(), "{:?}", answer.verdict());
        }
    }
    let before = ledger.tag_at(&tag(TAG), 1).check(&vkey).expect("honest");
    assert_eq!((state_of(&before).setting.clone(), state_of(&before).count), (None, 6));
    let unbound = ledger.tag_at(&tag("r/app:latest"), 0).check(&vkey).expect("honest");
    assert_eq!((state_of(&unbound).digest(), state_of(&unbound).at.map(|at| at.index)), (None, Some(18)));
}

#[test]
fn the_verdict_says_what_was_proven() {
    let ledger = ledger();
    let words =
        |name: &str, at_us| ledger.tag_at(&tag(name), at_us).check(&ledger.skey.vkey()).expect("honest").verdict();
    assert!(words(TAG, time_of(&ledger, 0)).proven[0].contains("entry 0 is the last about r/app:v1"));
    let verdict = words(TAG, time_of(&ledger, 4));
    assert!(verdict.proven[1].contains("left in force what entry 0 had set"), "{verdict:?}");
    let verdict = words(TAG, 0);
    assert!(verdict.proven[0].contains("entry 12 is the last of all 6 entries about r/app:v1"), "{verdict:?}");
    let verdict = words("r/app:unheard-of", 0);
    assert!(verdict.proven[0].contains("no entry about r/app:unheard-of is in the log"), "{verdict:?}");
    assert!(verdict.checked.contains("ledger.example") && verdict.checked.contains("checkpoint of size 22"));
    // What lies after the commitment can't be known.
    let verdict = words(TAG, ledger.now_us() + 5);
    assert!(verdict.unproven[0].contains("anything later than"), "{verdict:?}");
}

/// Who is handed a file has not asked its question, and has to be told which one it was.
#[test]
fn the_verdict_says_what_was_asked() {
    let ledger = ledger();
    let words = |time_us| rfc3339(time_us).replace(".000000", "");
    let verdict = |claimed: Claimed| claimed.check(&ledger.skey.vkey()).expect("honest").verdict().proven.remove(0);
    let (since_us, until_us) = (time_of(&ledger, 4), time_of(&ledger, 8));
    let (since, until) = (words(since_us), words(until_us));
    for (part, during) in [
        (Part { since_us, ..Part::default() }, format!("about {TAG} since {since}: ")),
        (Part { until_us, ..Part::default() }, format!("about {TAG} before {until}: ")),
        (Part { since_us, until_us, ..Part::default() }, format!("about {TAG} since {since} and before {until}: ")),
    ] {
        let said = verdict(history_of(&ledger, &subject(TAG), part));
        assert!(said.contains(&during), "{said}");
    }
    let mut cut = tags_at(&ledger, until_us);
    let Question::TagsAt { limit, .. } = &mut cut.question else { panic!("not it") };
    *limit = 1;
    let said = verdict(cut);
    assert!(said.contains(&format!("the first 1 tags of r/app that were bound, as of {until}")), "{said}");
    let mut named = running(&ledger, "prod", 0);
    let Question::RunningAt { workload, .. } = &mut named.question else { panic!("not it") };
    *workload = "job".into();
    let said = verdict(named);
    assert!(said.contains("there are no workloads of prod named job that ran"), "{said}");
    let question = Question::RepositoryDiff {
        repository: "r/app".parse().expect("a repository"),
        from_us: since_us,
        to_us: 0,
        limit: 0,
    };
    let said = verdict(Claimed { question, ..tags_at(&ledger, 0) });
    assert!(
        said.contains(&format!("tags of r/app that differ from what they were at {since}, of the 3 seen by ")),
        "{said}"
    );
}

/// Evidence about v1 as of entry 4, with what is to be done to it.
fn spoilt(ledger: &LittleLedger, spoil: impl FnOnce(&mut proto::Evidence)) -> Result<Answer, AnswerError> {
    let mut claimed = ledger.tag_at(&tag(TAG), time_of(ledger, 4));
    claimed.check(&ledger.skey.vkey()).expect("honest");
    spoil(&mut claimed.pages[0]);
    claimed.check(&ledger.skey.vkey())
}

fn map_error(answer: Result<Answer, AnswerError>) -> MapProofError {
    match answer {
        Err(AnswerError::Subject { error: SubjectProofError::Map(error), .. }) => error,
        other => panic!("{other:?}"),
    }
}

/// The tag's versions are 0: entry 0, 1: entry 4, 2: entry 6, 3: entry 8, 4: entry 10, 5: entry 12.
fn with_versions(ledger: &LittleLedger, versions: &[u64], at_us: u64) -> Result<Answer, AnswerError> {
    let question = Question::TagAt { tag: tag(TAG), at_us };
    Claimed::new(question, vec![ledger.shown(&[(subject(TAG), versions.to_vec())])]).check(&ledger.skey.vkey())
}

#[test]
fn a_pair_that_does_not_bound_the_time_is_refused() {
    let ledger = ledger();
    let gap = |expected| AnswerError::Gap { subject: TAG.into(), expected, count: 6 };
    let at_us = time_of(&ledger, 6);
    assert!(with_versions(&ledger, &[2, 3], at_us).is_ok());
    assert!(with_versions(&ledger, &[0, 1, 2, 3, 4, 5], at_us).is_ok(), "more than needed does no harm");
    // A dropped last version; a pair that is not adjacent; a time outside of the pair; half a pair.
    assert_eq!(with_versions(&ledger, &[4], 0), Err(gap(5)));
    assert_eq!(with_versions(&ledger, &[2, 4], at_us), Err(gap(3)));
    assert_eq!(with_versions(&ledger, &[1, 3], at_us), Err(gap(2)));
    assert_eq!(with_versions(&ledger, &[0, 1], at_us), Err(gap(2)));
    assert_eq!(with_versions(&ledger, &[3, 4], at_us), Err(gap(0)));
    assert_eq!(with_versions(&ledger, &[2], at_us), Err(gap(3)));
    assert_eq!(with_versions(&ledger, &[3], at_us), Err(gap(0)));
    assert_eq!(with_versions(&ledger, &[], at_us), Err(gap(0)));
}

#[test]
fn proofs_of_other_subjects_and_other_moments_are_refused() {
    let ledger = ledger();
    // Of another subject, under its own key and under this one's.
    let other = ledger.subject_proof_at(&subject("r/app:latest"), &[0, 1], 22);
    let mut claimed = ledger.tag_at(&tag(TAG), time_of(&ledger, 4));
    claimed.pages[0] = ledger.shown(&[(subject("r/app:latest"), vec![0, 1])]);
    let not_shown = AnswerError::NotShown { subject: TAG.into() };
    assert_eq!(claimed.check(&ledger.skey.vkey()), Err(not_shown));
    let renamed = spoilt(&ledger, |evidence| {
        *proof_in(evidence, &subject(TAG)) = proto::SubjectProof { key: subject(TAG).key().0.to_vec(), ..other };
    });
    assert_eq!(map_error(renamed), MapProofError::Root);
    // An older map under a newer checkpoint.
    let stale = spoilt(&ledger, |evidence| {
        *proof_in(evidence, &subject(TAG)) = ledger.subject_proof_at(&subject(TAG), &[1], 8);
    });
    assert_eq!(map_error(stale), MapProofError::Root);
    // A commitment, but not the last leaf; and a record as the last leaf.
    let unclosed = spoilt(&ledger, |evidence| {
        let subjects = std::mem::take(&mut evidence.subjects);
        *evidence = ledger.evidence(&[0, 4, 6, 7]);
        evidence.subjects = subjects;
    });
    assert_eq!(unclosed, Err(AnswerError::Unclosed { size: 22 }));
    let open = spoilt(&ledger, |evidence| {
        let subjects = std::mem::take(&mut evidence.subjects);
        *evidence = ledger.evidence_at(&[0, 4, 6], 7);
        evidence.subjects = subjects;
    });
    assert_eq!(open, Err(AnswerError::Evidence(EvidenceError::NotClosed { size: 7 })));
}

#[test]
fn wrong_counts_false_absence_and_trailing_hashes_are_refused() {
    let ledger = ledger();
    let spoil = |change: &dyn Fn(&mut proto::SubjectProof)| {
        spoilt(&ledger, |evidence| change(proof_in(evidence, &subject(TAG))))
    };
    let history = |change: &dyn Fn(&mut proto::HistoryProof)| {
        spoilt(&ledger, |evidence| change(history_in(evidence, &subject(TAG))))
    };
    for count in [1, 2, 5, 7, u64::MAX] {
        assert_eq!(map_error(history(&|history| history.count = count)), MapProofError::Root);
    }
    assert_eq!(map_error(history(&|history| history.count = 0)), MapProofError::NoEntries);
    let other = |key: [u8; 32]| Terminal::Other(proto::OtherLeaf { key: key.into(), count: 1, root: vec![1; 32] });
    let own = subject(TAG).key();
    let near = own.with_bit(255, !own.bit(255));
    let far = own.with_bit(0, !own.bit(0));
    let empty = Terminal::Empty(proto::EmptySubtree {});
    let absent = |terminal: Terminal| spoil(&|proof| proof.terminal = Some(terminal.clone()));
    assert_eq!(map_error(absent(empty)), MapProofError::Root);
    assert_eq!(map_error(absent(other(near.0))), MapProofError::Root);
    assert_eq!(map_error(absent(other(own.0))), MapProofError::NotOther);
    let depth = ledger.subject_proof_at(&subject(TAG), &[], 22).siblings.len();
    assert_eq!(map_error(absent(other(far.0))), MapProofError::ElsewhereLeaf { depth });
    let endless = spoil(&|proof| proof.terminal = None);
    assert!(matches!(endless, Err(AnswerError::Subject { error: SubjectProofError::NoTerminal, .. })));
    assert_eq!(map_error(spoil(&|proof| proof.siblings.push(vec![0; 32]))), MapProofError::Root);
    assert_eq!(map_error(spoil(&|proof| drop(proof.siblings.pop()))), MapProofError::Root);
    assert!(spoil(&|proof| proof.siblings[0].truncate(31)).is_err());
    // `rs_merkle` alone would take these.
    let trailing = history(&|history| history.proof.push(vec![0; 32]));
    let length = |answer: &Result<Answer, AnswerError>| match answer {
        Err(AnswerError::Subject { error: SubjectProofError::History { count: 6, error }, .. }) => *error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(length(&trailing), ProofError::Length { .. }));
    let short = history(&|history| drop(history.proof.pop()));
    assert!(matches!(length(&short), ProofError::Length { .. }));
    let log = spoilt(&ledger, |evidence| evidence.proof.push(vec![0; 32]));
    assert!(matches!(log, Err(AnswerError::Evidence(EvidenceError::Proof(ProofError::Length { .. })))));
}

#[test]
fn every_changed_number_and_hash_of_a_history_is_refused() {
    let ledger = ledger();
    let whole = all_of(&ledger, &[subject(TAG)]);
    let honest = Claimed::new(Question::TagAt { tag: tag(TAG), at_us: 0 }, vec![ledger.shown(&whole)]);
    let refused = |what: &str, change: &dyn Fn(&mut proto::HistoryProof)| {
        let mut claimed = honest.clone();
        change(history_in(&mut claimed.pages[0], &subject(TAG)));
        assert!(claimed.check(&ledger.skey.vkey()).is_err(), "{what}");
    };
    for position in 0..6 {
        for other in (0..24).filter(|index| *index != ledger.history(&subject(TAG))[position].index) {
            refused("index", &|history| history.leaves[position].index = other);
        }
        for other in (0..24).filter(|effective| *effective != ledger.history(&subject(TAG))[position].effective) {
            refused("effective", &|history| history.leaves[position].effective = other);
        }
        refused("version", &|history| history.leaves[position].version += 1);
        refused("dropped", &|history| {
            history.leaves.remove(position);
        });
        refused("twice", &|history| history.leaves.insert(position, history.leaves[position]));
    }
    for byte in 0..32 {
        refused("root", &|history| history.root[byte] ^= 1);
    }
}

/// A ledger that lies in what it signs: `lie` comes between a record of latest and the commitment that closes the batch.
fn lying(lie: impl FnOnce(&mut LittleLedger)) -> LittleLedger {
    let mut ledger = ledger();
    lie(&mut ledger);
    ledger.commit();
    ledger
}

#[test]
fn a_ledger_that_signs_a_false_history_is_found_out() {
    let (v1, latest) = (subject(TAG), subject("r/app:latest"));
    let ask_all = |ledger: &LittleLedger, name: &str| {
        let all = all_of(ledger, &[subject(name)]);
        Claimed::new(Question::TagAt { tag: tag(name), at_us: 0 }, vec![ledger.shown(&all)]).check(&ledger.skey.vkey())
    };
    let ask = |ledger: &LittleLedger, name: &str| ledger.tag_at(&tag(name), 0).check(&ledger.skey.vkey());
    // What is in force was set by an entry of another tag, or by one that set nothing, or later, or by none.
    let with_effective = |effective: u64| {
        // Entry 12 keeps; it is taken out of the history and put back with another effective.
        lying(|ledger| {
            let mut history = ledger.history(&v1);
            ledger.histories.remove(&v1.key());
            history.last_mut().expect("entry 12").effective = effective;
            history.iter().for_each(|version| ledger.extend_history(v1.key(), version.index, version.effective));
        })
    };
    assert!(ask(&with_effective(9), TAG).is_ok(), "the truth");
    assert_eq!(
        ask(&with_effective(3), TAG),
        Err(AnswerError::NotNamed { index: 2, subject: TAG.into() }),
        "another tag"
    );
    assert!(matches!(ask(&with_effective(5), TAG), Err(AnswerError::Contradiction { index: 4, .. })), "denied");
    assert!(matches!(ask(&with_effective(15), TAG), Err(AnswerError::Contradiction { index: 12, .. })), "later");
    // With the version before beside it, a state that did not stay is found out even where an entry of the tag had set it.
    for effective in [0, 1, 3, 5, 15] {
        let answer = ask_all(&with_effective(effective), TAG);
        assert!(matches!(answer, Err(AnswerError::Contradiction { index: 12, .. })), "{effective}: {answer:?}");
    }
    assert!(ask_all(&with_effective(9), TAG).is_ok(), "the truth");
    // An entry of another tag in the history, and one of this tag twice.
    let foreign = lying(|ledger| ledger.extend_history(latest.key(), 20, 0));
    let error = SubjectProofError::Foreign { index: 20, version: 4 };
    let key = hex::encode(latest.key().0);
    assert_eq!(ask(&foreign, "r/app:latest"), Err(AnswerError::Subject { key, error }));
    let twice = lying(|ledger| ledger.extend_history(latest.key(), 18, 0));
    assert!(matches!(
        ask(&twice, "r/app:latest"),
        Err(AnswerError::Subject { error: SubjectProofError::Foreign { index: 18, version: 4 }, .. })
    ));
}

#[test]
fn a_history_that_skips_an_entry_is_a_proof_of_misbehaviour() {
    let vkey = ledger().skey.vkey();
    let receipt = |ledger: &LittleLedger, index, size| {
        let claimed = Claimed::new(Question::Entry { index }, vec![ledger.evidence_at(&[index], size)]);
        claimed.check(&vkey).expect("it is in the log");
        claimed.prove(&vkey).expect("it verifies")
    };
    let v1 = subject(TAG);
    let ask = |ledger: &LittleLedger, at_us| {
        let all = all_of(ledger, std::slice::from_ref(&v1));
        let claimed = Claimed::new(Question::TagAt { tag: tag(TAG), at_us }, vec![ledger.shown(&all)]);
        claimed.check(&vkey).map(|_| ()).expect("by itself it holds");
        claimed.prove(&vkey).expect("it verifies")
    };
    let honest = ledger();
    assert_eq!(receipt(&honest, 12, 14).contradiction(&ask(&honest, 0)), None);
    assert_eq!(ask(&honest, 0).contradiction(&receipt(&honest, 12, 22)), None);
    // The last entry about the tag is dropped from its history.
    let dropped = lying(|ledger| {
        let history = ledger.history(&v1);
        ledger.histories.remove(&v1.key());
        history[..5].iter().for_each(|version| ledger.extend_history(v1.key(), version.index, version.effective));
    });
    let expected = Contradiction::Skipped { index: 12, subject: TAG.into(), version: 5, size: 23, count: 5 };
    assert_eq!(receipt(&dropped, 12, 14).contradiction(&ask(&dropped, 0)), Some(expected.clone()));
    assert_eq!(ask(&dropped, 0).contradiction(&receipt(&dropped, 12, 23)), Some(expected), "either way round");
    // In one file the contradiction needs no other.
    let mut both = ask_claimed(&dropped);
    both.pages[0] = {
        let mut evidence = dropped.evidence(&[0, 4, 6, 8, 10, 12, 22]);
        evidence.subjects = both.pages[0].subjects.clone();
        evidence
    };
    assert!(matches!(both.check(&vkey), Err(AnswerError::Misbehaviour(Contradiction::Skipped { index: 12, .. }))));
    // The whole tag never was.
    let erased = lying(|ledger| drop(ledger.histories.remove(&v1.key())));
    let never = Claimed::new(Question::TagAt { tag: tag(TAG), at_us: 0 }, vec![erased.shown(&[(v1.clone(), vec![])])]);
    assert_eq!(state_of(&never.check(&vkey).expect("by itself it holds")).count, 0);
    let found = receipt(&erased, 0, 2).contradiction(&never.prove(&vkey).expect("it verifies"));
    assert!(matches!(found, Some(Contradiction::Skipped { index: 0, version: 0, count: 0, .. })), "{found:?}");
    // Two histories of one length: of versions that neither shows.
    let other = lying(|ledger| {
        let mut history = ledger.history(&v1);
        ledger.histories.remove(&v1.key());
        history[2].effective = 5;
        history.iter().for_each(|version| ledger.extend_history(v1.key(), version.index, version.effective));
    });
    let now = |ledger: &LittleLedger| ledger.tag_at(&tag(TAG), 0).prove(&vkey).expect("by itself it holds");
    let found = now(&honest).contradiction(&now(&other));
    let two = Contradiction::TwoHistories { key: hex::encode(v1.key().0), older: 6, newer: 6 };
    assert_eq!(found, Some(two));
    assert_eq!(now(&honest).contradiction(&now(&honest)), None);
    // Two histories, two entries, two logs.
    let found = ask(&honest, 0).contradiction(&ask(&dropped, 0));
    assert!(matches!(found, Some(Contradiction::Skipped { .. } | Contradiction::TwoHistories { .. })), "{found:?}");
    let mut other = LittleLedger::new("ledger.example", 1);
    other.record(push("v1", 'b', Happened));
    assert_eq!(receipt(&honest, 0, 2).contradiction(&receipt(&other, 0, 2)), Some(Contradiction::TwoRoots { size: 2 }));
    assert_eq!(
        receipt(&honest, 0, 22).contradiction(&receipt(&other, 0, 2)),
        Some(Contradiction::TwoEntries { index: 0 })
    );
}

fn ask_claimed(ledger: &LittleLedger) -> Claimed {
    let all = all_of(ledger, &[subject(TAG)]);
    Claimed::new(Question::TagAt { tag: tag(TAG), at_us: 0 }, vec![ledger.shown(&all)])
}

#[test]
fn histories_are_whole_and_carry_the_state_along() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let answer = history_of(&ledger, &subject(TAG), Part::default()).check(&vkey).expect("honest");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    let after = history.versions.iter().map(|version| &version.after);
    let after: String = after.map(|set| set.as_ref().map_or("-", |set| &set.digest.as_str()[7..8])).collect();
    assert_eq!(after, "aaaddd");
    assert_eq!(answer.verdict().proven, ["these are all 6 entries about r/app:v1: no other is in the log"]);
    let newest = Part { newest_first: true, since_us: time_of(&ledger, 4), ..Part::default() };
    let answer = history_of(&ledger, &subject(TAG), newest).check(&vkey).expect("honest");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    assert_eq!(history.versions.iter().map(|v| v.place.version).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    // The denied attempt left what was set before the part.
    assert_eq!(history.versions[4].after.as_ref().map(|set| set.set_by.index), Some(0));
    let never = history_of(&ledger, &subject("r/app:unheard-of"), Part::default()).check(&vkey).expect("honest");
    assert!(never.verdict().proven[0].contains("the subject map does not hold it"), "{:?}", never.verdict());
}

#[test]
fn a_part_of_a_history_needs_its_neighbours_and_all_in_between() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let history = ledger.history(&subject(TAG));
    let check = |part: Part, versions: &[u64]| {
        let question = Question::TagHistory { tag: tag(TAG), part };
        let claimed = Claimed::new(question, vec![ledger.shown(&[(subject(TAG), versions.to_vec())])]);
        claimed.check(&vkey).map(|answer| match answer.finding {
            Finding::History(history) => history.versions.iter().map(|version| version.place.version).collect(),
            other => panic!("{other:?}"),
        })
    };
    for begin in 0..7u64 {
        for end in begin..7 {
            for newest_first in [false, true] {
                let bound =
                    |version: u64| history.get(usize::try_from(version).expect("few")).map(|v| v.recorded_at_us);
                let part = Part {
                    since_us: bound(begin).unwrap_or(ledger.now_us()),
                    until_us: bound(end).unwrap_or(0),
                    newest_first,
                    limit: 0,
                };
                let mut expected: Vec<u64> = (begin..end).collect();
                if newest_first {
                    expected.reverse();
                }
                let needed: Vec<u64> = (begin.saturating_sub(1)..(end + 1).min(6)).collect();
                assert_eq!(check(part, &needed), Ok(expected.clone()), "{begin}..{end}");
                for dropped in &needed {
                    let shown: Vec<u64> = needed.iter().copied().filter(|version| version != dropped).collect();
                    // What is proven to begin with version 0 needs nothing before it.
                    assert!(check(part, &shown).is_err(), "{begin}..{end} without {dropped}");
                }
                // With a limit the far end needs no neighbour, and the near one still does.
                let limited = Part { limit: 1, ..part };
                let Some(first) = expected.first().copied() else { continue };
                let near = if newest_first { first + 1 } else { first.wrapping_sub(1) };
                let mut needed: Vec<u64> = [first, near].into_iter().filter(|version| *version < 6).collect();
                needed.sort_unstable();
                assert_eq!(check(limited, &needed), Ok(vec![first]), "{begin}..{end}, the first");
                if needed.len() > 1 {
                    assert!(check(limited, &[first]).is_err(), "{begin}..{end}, the first alone");
                }
            }
        }
    }
}

#[test]
fn sightings_of_a_digest_are_its_history() {
    let ledger = ledger();
    let subject = Subject::Digest(digest('d').parse().expect("a digest"));
    let answer = history_of(&ledger, &subject, Part::default()).check(&ledger.skey.vkey()).expect("honest");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    assert_eq!(history.versions.iter().map(|v| v.place.index).collect::<Vec<_>>(), [8, 12, 20]);
}

#[test]
fn lists_are_derived_at_every_moment() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    for index in 0..22 {
        let answer = tags_at(&ledger, time_of(&ledger, index)).check(&vkey).expect("honest");
        let mut expected = vec![TAG];
        if (2..16).contains(&index) {
            expected.push("r/app:latest");
        }
        assert_eq!(names(&answer), expected, "as of entry {index}");
        assert!(answer.verdict().proven[0].contains("these are all tags of r/app"), "{:?}", answer.verdict());
        for environment in ["prod", ""] {
            let answer = running(&ledger, environment, time_of(&ledger, index)).check(&vkey).expect("honest");
            assert_eq!(names(&answer).len(), usize::from(index >= 12), "as of entry {index}");
        }
    }
    let mut everything = tags_at(&ledger, 0);
    let Question::TagsAt { include_unbound, .. } = &mut everything.question else { panic!("not it") };
    *include_unbound = true;
    assert_eq!(names(&everything.check(&vkey).expect("honest")), [TAG, "r/app:latest", "r/app:v2"]);
    let nowhere = Subject::WorkloadsOf("staging".into());
    let mut none = running(&ledger, "staging", 0);
    none.pages[0] = ledger.shown(&[(nowhere, vec![])]);
    let answer = none.check(&vkey).expect("honest");
    assert!(names(&answer).is_empty());
    assert!(answer.verdict().proven[0].contains("no workload of staging had been seen"), "{:?}", answer.verdict());
}

#[test]
fn a_list_that_leaves_out_a_member_or_its_state_is_refused() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let subjects = [catalogue(), subject(TAG), subject("r/app:latest"), subject("r/app:v2")];
    for at in 0..subjects.len() {
        let mut shown = all_of(&ledger, &subjects);
        shown.remove(at);
        let mut claimed = tags_at(&ledger, 0);
        claimed.pages[0] = ledger.shown(&shown);
        let missing = AnswerError::NotShown { subject: subject_words(&subjects[at]) };
        assert_eq!(claimed.check(&vkey), Err(missing), "also what is unbound has to be shown");
    }
    for dropped in 0..3u64 {
        let mut shown = all_of(&ledger, &subjects);
        shown[0].1.retain(|version| *version != dropped);
        let mut claimed = tags_at(&ledger, 0);
        claimed.pages[0] = ledger.shown(&shown);
        let gap = AnswerError::Gap { subject: subject_words(&catalogue()), expected: dropped, count: 3 };
        assert_eq!(claimed.check(&vkey), Err(gap));
    }
    // Cut at a limit, what comes later need not be shown.
    let mut shown = all_of(&ledger, &subjects[..2]);
    shown[0].1.truncate(1);
    let mut claimed = tags_at(&ledger, 0);
    claimed.pages[0] = ledger.shown(&shown);
    let Question::TagsAt { limit, .. } = &mut claimed.question else { panic!("not it") };
    *limit = 1;
    let answer = claimed.check(&vkey).expect("the first one");
    assert_eq!(names(&answer), [TAG]);
    assert!(answer.verdict().proven[0].contains("may go on"), "{:?}", answer.verdict());
    let none = Claimed { pages: Vec::new(), ..claimed };
    assert!(matches!(none.check(&vkey), Err(AnswerError::BesideThePoint(_))));
}

#[test]
fn a_diff_has_all_that_changed_and_nothing_else() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let subjects = [catalogue(), subject(TAG), subject("r/app:latest"), subject("r/app:v2")];
    let diff = |from_us, to_us| {
        let repository = "r/app".parse().expect("a repository");
        let question = Question::RepositoryDiff { repository, from_us, to_us, limit: 0 };
        let answer = Claimed::new(question, vec![ledger.shown(&all_of(&ledger, &subjects))]).check(&vkey);
        match answer.expect("honest").finding {
            Finding::Changes(list) => list.items,
            other => panic!("{other:?}"),
        }
    };
    let changes = diff(time_of(&ledger, 0), time_of(&ledger, 8));
    let digests = |(from, to): &(State, State)| [from, to].map(|state| state.digest().map(ToString::to_string));
    assert_eq!(digests(&changes[0]), [Some(digest('a')), Some(digest('d'))]);
    assert_eq!(digests(&changes[1]), [None, Some(digest('b'))]);
    assert_eq!(changes.len(), 2);
    assert!(diff(time_of(&ledger, 16), 0).is_empty());
    assert_eq!(diff(0, 0).len(), 1, "latest came and went");
    let question = Question::EnvironmentDiff { environment: "prod".into(), from_us: 0, to_us: 0, limit: 0 };
    let shown = all_of(&ledger, &[Subject::WorkloadsOf("prod".into()), web()]);
    let answer = Claimed::new(question, vec![ledger.shown(&shown)]).check(&vkey).expect("honest");
    assert!(matches!(answer.finding, Finding::Changes(List { items, .. }) if items.len() == 1));
}

#[test]
fn pages_of_different_checkpoints_are_sealed_by_one_proof() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let v1 = subject(TAG);
    let part = |versions: std::ops::Range<u64>, size| ledger.shown_at(&[(v1.clone(), versions.collect())], size);
    // Two entries until now, the first page says at size 6; later pages are as of that moment.
    let question = Question::TagHistory { tag: tag(TAG), part: Part::default() };
    let mut claimed = Claimed::new(question, vec![part(0..1, 6), part(1..3, 22)]);
    claimed.growth = vec![Growth { older: 6, newer: 22, hashes: ledger.consistency(6, 22) }];
    // Neither proof holds all of it, so nothing is proven to be whole.
    assert!(matches!(claimed.check(&vkey), Err(AnswerError::Gap { .. })));
    claimed.pages.push({
        let mut seal = ledger.evidence(&[21]);
        seal.subjects = vec![ledger.subject_proof_at(&v1, &[0, 1, 2], 22)];
        seal
    });
    let answer = claimed.check(&vkey).expect("sealed");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    assert_eq!(history.versions.iter().map(|v| v.place.index).collect::<Vec<_>>(), [0, 4]);
    assert_eq!(answer.entries.checkpoint().size, 22);
    claimed.growth.clear();
    assert!(matches!(claimed.check(&vkey), Err(AnswerError::Evidence(EvidenceError::Fork(_)))));
}

#[test]
fn entries_and_inclusion_proofs_answer_for_the_one_asked() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let entry = |question, index| Claimed::new(question, vec![ledger.evidence(&[index])]);
    assert!(entry(Question::Entry { index: 4 }, 4).check(&vkey).is_ok());
    assert!(entry(Question::Entry { index: 4 }, 6).check(&vkey).is_err());
    let hash = crate::ledger::entry::entry_hash(&ledger.entry(4));
    assert!(entry(Question::Leaf { hash }, 4).check(&vkey).is_ok());
    assert!(entry(Question::Leaf { hash }, 6).check(&vkey).is_err());

    for tree_size in [6, 22] {
        let path: Vec<Hash> =
            ledger.evidence_at(&[4], tree_size).proof.iter().map(|h| h[..].try_into().expect("a hash")).collect();
        let hashes = ledger.consistency(tree_size, 22);
        let claimed = |path: &[Hash], hashes: &[Hash]| {
            let mut claimed = entry(Question::Inclusion { index: 4, tree_size }, 4);
            claimed.path = path.to_vec();
            if tree_size < 22 {
                claimed.growth = vec![Growth { older: tree_size, newer: 22, hashes: hashes.to_vec() }];
            }
            claimed.check(&vkey)
        };
        let answer = claimed(&path, &hashes).expect("honest");
        assert!(
            matches!(answer.finding, Finding::Inclusion { root, .. } if root == ledger.checkpoint_at(tree_size).root)
        );
        assert!(claimed(&path[1..], &hashes).is_err());
        for position in 0..path.len() {
            let mut changed = path.clone();
            changed[position][0] ^= 1;
            assert!(claimed(&changed, &hashes).is_err());
        }
        assert_eq!(hashes.is_empty(), tree_size == 22);
        if !hashes.is_empty() {
            assert!(claimed(&path, &hashes[1..]).is_err());
        }
    }
}

#[test]
fn texts_that_draw_lines_and_times_beyond_time_are_refused() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let refused = |claimed: &Claimed, field: &str| match claimed.check(&vkey) {
        Err(AnswerError::Form(violation)) => assert_eq!(violation.field, field),
        other => panic!("{field}: {other:?}"),
    };
    let honest = running(&ledger, "prod", ledger.now_us());
    for text in ["prod\nproven: all is well", "prod\u{1b}[2J", "prod\u{9b}2J", &"p".repeat(129)] {
        let mut asked = honest.clone();
        let Question::RunningAt { environment, .. } = &mut asked.question else { panic!("not it") };
        *environment = text.to_owned();
        refused(&asked, "question.environment");
        let mut asked = honest.clone();
        let Question::RunningAt { workload, .. } = &mut asked.question else { panic!("not it") };
        *workload = text.to_owned();
        refused(&asked, "question.workload");
    }
    let part = Part { until_us: u64::MAX, ..Part::default() };
    refused(&history_of(&ledger, &subject(TAG), part), "question.part.until_us");
    let never = crate::ledger::time::MAX_TIME_US;
    assert!(ledger.tag_at(&tag(TAG), never).check(&vkey).is_ok(), "the last time that there is");
    refused(&ledger.tag_at(&tag(TAG), never + 1), "question.at_us");
}

#[test]
fn only_what_reaches_past_the_end_of_a_log_could_change_with_it() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let size = ledger.size();
    let changes = |claimed: Claimed| claimed.check(&vkey).expect("honest").could_change_after(size);
    assert!(changes(ledger.tag_at(&tag(TAG), 0)));
    assert!(changes(ledger.tag_at(&tag(TAG), ledger.now_us() + 1)));
    assert!(!changes(ledger.tag_at(&tag(TAG), ledger.now_us())));
    assert!(changes(history_of(&ledger, &subject(TAG), Part::default())));
    let past = Part { until_us: time_of(&ledger, 8), ..Part::default() };
    assert!(!changes(history_of(&ledger, &subject(TAG), past)));
}

/// Proofs between the checkpoints of pages, in the order in which these are put together.
fn with_growth(ledger: &LittleLedger, mut claimed: Claimed, sizes: &[u64]) -> Claimed {
    let mut largest = sizes[0];
    for &size in &sizes[1..] {
        let (older, newer) = (largest.min(size), largest.max(size));
        if older < newer {
            claimed.growth.push(Growth { older, newer, hashes: ledger.consistency(older, newer) });
        }
        largest = newer;
    }
    claimed
}

#[test]
fn an_answer_of_several_moments_holds_up_to_the_first() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let v1 = subject(TAG);
    let closed_at = |size: u64| rfc3339(time_of(&ledger, size - 1)).replace(".000000", "");
    let pages = |first: &[(Subject, Vec<u64>)]| {
        vec![ledger.shown_at(first, 6), ledger.shown_at(&[(v1.clone(), vec![1, 2, 3, 4, 5])], 22)]
    };
    let ask = |part| {
        let question = Question::TagHistory { tag: tag(TAG), part };
        let claimed = Claimed::new(question, pages(&[(v1.clone(), vec![0, 1])]));
        with_growth(&ledger, claimed, &[6, 22]).check(&vkey).expect("it holds as of its first page").verdict()
    };
    let (then, later) = (closed_at(6), time_of(&ledger, 12) + 1);
    let whole = ask(Part::default());
    assert_eq!(
        whole.proven,
        [format!("these are all 2 entries about {TAG} up to {then}: no other is in the log of then")]
    );
    assert!(whole.checked.contains("checkpoint of size 22"), "{whole:?}");
    let newest = ask(Part { newest_first: true, limit: 1, ..Part::default() });
    assert!(newest.proven[0].contains(&format!("the newest 1 entry about {TAG} up to {then}")), "{newest:?}");
    // What was asked for goes beyond that.
    let until = ask(Part { until_us: later, ..Part::default() });
    assert_eq!(until.unproven.len(), 1, "{until:?}");
    assert!(until.unproven[0].contains(&format!("anything later than {then}")), "{until:?}");
    let past = ask(Part { until_us: time_of(&ledger, 4), ..Part::default() });
    assert!(past.unproven.is_empty(), "{past:?}");
    // Absent as of then is not absent for ever.
    let v2 = subject("r/app:v2");
    let mut absent = Claimed::new(Question::TagAt { tag: tag("r/app:v2"), at_us: 0 }, pages(&[(v2, vec![])]));
    absent = with_growth(&ledger, absent, &[6, 22]);
    let verdict = absent.check(&vkey).expect("it holds as of its first page").verdict();
    let expected = format!("no entry about r/app:v2 is in the log up to {then}: the subject map does not hold it");
    assert_eq!(verdict.proven, [expected]);
    // A diff from a time that the first page does not reach.
    let repository = "r/app".parse().expect("a repository");
    let question = Question::RepositoryDiff { repository, from_us: later, to_us: 0, limit: 0 };
    let first = ledger.shown_at(&[(catalogue(), vec![0, 1]), (v1, vec![0, 1]), (subject("r/app:latest"), vec![0])], 6);
    let verdict = Claimed::new(question, vec![first]).check(&vkey).expect("as of then nothing changed").verdict();
    assert!(verdict.unproven[0].contains(&format!("anything later than {then}")), "{verdict:?}");
}

#[test]
fn what_nobody_signed_is_not_called_a_contradiction() {
    let ledger = ledger();
    // An entry of this tag, and one of another, where the history has a third.
    for index in [4, 2] {
        let answer = spoilt(&ledger, |evidence| {
            let subjects = evidence.subjects.clone();
            *evidence = ledger.evidence(&[0, 2, 4, 6, 21]);
            evidence.subjects = subjects;
            history_in(evidence, &subject(TAG)).leaves[1].index = index;
        });
        let Err(AnswerError::Subject { error: SubjectProofError::History { count: 6, error }, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(error, ProofError::Root);
    }
}

#[test]
fn an_entry_names_the_subjects_of_its_statement_and_no_others() {
    let check = |of: u64, change: &dyn Fn(&mut proto::Record)| {
        let mut ledger = ledger();
        let entry = crate::ledger::entry::SignedEntry::decode(&ledger.entry(of)).expect("own entry");
        let Body::Record(mut record, _) = entry.body else { panic!("a record") };
        (record.index, record.recorded_at_us) = (ledger.size(), ledger.now_us() + 1);
        change(&mut record);
        ledger.append(crate::ledger::entry::sign_record(&record, &ledger.skey));
        ledger.commit();
        let claimed = Claimed::new(Question::Entry { index: record.index }, vec![ledger.evidence(&[record.index])]);
        claimed.check(&ledger.skey.vkey()).map(|_| ())
    };
    let unnamed = |subject: &str| {
        let subject = subject.to_owned();
        Err(AnswerError::Misbehaviour(Contradiction::Unnamed { index: 22, subject }))
    };
    let misnamed = |subject: &str| {
        let subject = subject.to_owned();
        Err(AnswerError::Misbehaviour(Contradiction::Misnamed { index: 22, subject }))
    };
    // The first push of all: tag, digest, tags-of, repositories. The first deployment: workload, digest, tag, workloads-of,
    // environments.
    assert_eq!(check(0, &|_| {}), Ok(()));
    for (position, subject) in [TAG, &digest('a'), "the tags of r/app", "the repositories"].into_iter().enumerate() {
        assert_eq!(check(0, &|record| drop(record.subjects.remove(position))), unnamed(subject));
    }
    assert_eq!(check(12, &|_| {}), Ok(()));
    for (position, subject) in
        ["prod/web", &digest('d'), TAG, "the workloads of prod", "the environments"].into_iter().enumerate()
    {
        assert_eq!(check(12, &|record| drop(record.subjects.remove(position))), unnamed(subject));
    }
    // What is known already is not put into a catalogue again: a member stands there once.
    assert_eq!(check(0, &|record| record.subjects[0].version = 1), misnamed("the tags of r/app"));
    assert_eq!(check(0, &|record| record.subjects[2].version = 1), misnamed("the repositories"));
    assert_eq!(check(12, &|record| record.subjects[0].version = 1), misnamed("the workloads of prod"));
    let surplus = |kind: proto::SubjectKind| {
        move |record: &mut proto::Record| {
            record.subjects.push(proto::Subject { kind: kind.into(), version: 9, name: String::new() });
        }
    };
    assert_eq!(check(18, &surplus(proto::SubjectKind::TagsOf)), misnamed("the tags of r/app"));
    assert_eq!(check(12, &surplus(proto::SubjectKind::Repositories)), misnamed("the repositories"));
}

#[test]
fn numbers_as_large_as_they_get_are_judged_like_others() {
    let mut ledger = ledger();
    let (max, v1) = (u64::MAX, subject(TAG));
    let entry = crate::ledger::entry::SignedEntry::decode(&ledger.entry(8)).expect("own entry");
    let Body::Record(mut record, _) = entry.body else { panic!("a record") };
    (record.index, record.recorded_at_us) = (ledger.size(), u64::MAX - 1);
    record.subjects[0].version = max - 1;
    ledger.append(crate::ledger::entry::sign_record(&record, &ledger.skey));
    // A history of as many entries as there are numbers: one leaf, and made-up hashes beside its path.
    let hash = crate::ledger::entry::entry_hash(&ledger.entry(record.index));
    let leaf = crate::ledger::history::history_leaf(record.index, &hash, record.index + 1);
    let path = vec![[7; 32]; crate::ledger::merkle::proof::path_length(max - 1, max)];
    let root = root_from_inclusion(max - 1, max, &leaf, &path).expect("a path");
    let map_root = crate::ledger::map::Leaf { key: v1.key(), count: max, root }.hash().to_vec();
    let commitment = proto::Commitment { index: ledger.size(), recorded_at_us: max, map_root, map_size: max };
    ledger.append(crate::ledger::entry::sign_commitment(&commitment, &ledger.skey));
    let mut evidence = ledger.evidence(&[record.index, commitment.index]);
    let version = proto::HistoryLeaf { version: max - 1, index: record.index, effective: record.index + 1 };
    let proof = path.iter().map(|hash| hash.to_vec()).collect();
    let history = proto::HistoryProof { count: max, root: root.to_vec(), leaves: vec![version], proof };
    let terminal = Some(Terminal::History(history));
    evidence.subjects = vec![proto::SubjectProof { key: v1.key().0.to_vec(), siblings: Vec::new(), terminal }];
    let check = |question| Claimed::new(question, vec![evidence.clone()]).check(&ledger.skey.vkey());
    let answer = check(Question::TagAt { tag: tag(TAG), at_us: 0 }).expect("it is what was signed");
    assert_eq!(state_of(&answer).count, max);
    assert!(answer.verdict().proven[0].contains(&max.to_string()), "{:?}", answer.verdict());
    let part = |newest_first, limit| Part { newest_first, limit, ..Part::default() };
    let gap = AnswerError::Gap { subject: TAG.into(), expected: 0, count: max };
    assert_eq!(check(Question::TagHistory { tag: tag(TAG), part: part(false, 0) }), Err(gap.clone()));
    assert_eq!(check(Question::TagHistory { tag: tag(TAG), part: part(false, max) }), Err(gap));
    assert!(check(Question::TagHistory { tag: tag(TAG), part: part(true, 1) }).is_ok());
    let before = Part { since_us: 1, until_us: 2, ..Part::default() };
    assert!(check(Question::TagHistory { tag: tag(TAG), part: before }).is_err());
    // A log of as many entries.
    let closing = proto::Commitment { index: max - 1, recorded_at_us: max, map_root: vec![0; 32], map_size: 0 };
    let closing = crate::ledger::entry::sign_commitment(&closing, &ledger.skey);
    let root = root_from_inclusion(max - 1, max, &crate::ledger::entry::entry_hash(&closing), &path).expect("a path");
    let endless = proto::Evidence {
        checkpoint: crate::ledger::checkpoint::Checkpoint { size: max, root }.sign(&ledger.skey),
        entries: vec![proto::LogEntry { index: max - 1, entry: closing }],
        proof: path.iter().map(|hash| hash.to_vec()).collect(),
        subjects: vec![proto::SubjectProof {
            key: v1.key().0.to_vec(),
            siblings: Vec::new(),
            terminal: Some(Terminal::Empty(proto::EmptySubtree {})),
        }],
    };
    let check = |question, path: &[Hash]| {
        let claimed = Claimed { path: path.to_vec(), ..Claimed::new(question, vec![endless.clone()]) };
        claimed.check(&ledger.skey.vkey())
    };
    let never = check(Question::TagAt { tag: tag(TAG), at_us: 0 }, &[]).expect("it is what was signed");
    assert_eq!(state_of(&never).count, 0);
    assert!(check(Question::Inclusion { index: max - 1, tree_size: max }, &path).is_ok());
    assert!(check(Question::Inclusion { index: max - 1, tree_size: max - 1 }, &path).is_err());
    assert!(check(Question::Inclusion { index: max, tree_size: max }, &path).is_err());
}

#[test]
fn pages_that_show_nothing_prove_nothing() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let honest = ledger.tag_at(&tag(TAG), 0);
    let note = |size| ledger.checkpoint_at(size).sign(&ledger.skey);
    let nothing = |size| proto::Evidence { checkpoint: note(size), ..proto::Evidence::default() };
    let check = |pages: Vec<proto::Evidence>, sizes: &[u64]| {
        with_growth(&ledger, Claimed::new(honest.question.clone(), pages), sizes).check(&vkey)
    };
    let page = honest.pages[0].clone();
    assert!(check(vec![page.clone(), nothing(6)], &[22, 6]).is_ok());
    for size in [6, 22] {
        let unclosed = AnswerError::Unclosed { size: 22 };
        assert_eq!(check(vec![nothing(size), page.clone()], &[size, 22]), Err(unclosed), "it has no now");
    }
    // Every log continues the empty one, which has no last leaf.
    let empty = Claimed::new(honest.question.clone(), vec![nothing(0), page.clone()]);
    assert_eq!(empty.check(&vkey), Err(AnswerError::Unclosed { size: 22 }));
    let subjects = proto::Evidence { subjects: page.subjects.clone(), ..nothing(22) };
    assert_eq!(check(vec![subjects], &[22]), Err(AnswerError::Unclosed { size: 22 }));
    // A commitment on another page closes another checkpoint.
    let subjects = proto::Evidence { subjects: page.subjects.clone(), ..nothing(6) };
    assert_eq!(check(vec![page.clone(), subjects], &[22, 6]), Err(AnswerError::Unclosed { size: 6 }));
    // One subject, two proofs: on one page it is refused, on two it has to be the same.
    let mut twice = page.clone();
    twice.subjects.push(page.subjects[0].clone());
    assert!(matches!(check(vec![twice], &[22]), Err(AnswerError::BesideThePoint(_))));
    assert!(check(vec![page.clone(), page.clone()], &[22, 22]).is_ok());
    // Proofs of the same log, but of another question.
    for pages in [running(&ledger, "prod", 0).pages, history_of(&ledger, &subject("r/app:v2"), Part::default()).pages] {
        let not_shown = AnswerError::NotShown { subject: TAG.into() };
        assert_eq!(check(pages, &[22]), Err(not_shown));
    }
}

/// A small generator: what it gives depends on the seed alone.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).expect("few")].clone()
    }
}

/// What is true, from whole histories.
struct Truth<'a>(&'a LittleLedger);

impl Truth<'_> {
    fn digest_at(&self, subject: &Subject, at_us: u64) -> Option<String> {
        let history = self.0.history(subject);
        let last = history.iter().rfind(|version| version.recorded_at_us <= at_us)?;
        self.digest_of(last.effective)
    }

    fn digest_of(&self, effective: u64) -> Option<String> {
        let entry = crate::ledger::entry::SignedEntry::decode(&self.0.entry(effective.checked_sub(1)?));
        let Body::Record(_, statement) = entry.expect("own entry").body else { panic!("a record") };
        crate::ledger::subject::digest_of(&statement).map(ToString::to_string)
    }

    fn history(&self, subject: &Subject, part: Part, last_us: u64) -> Vec<(u64, Option<String>)> {
        let inside = |version: &&crate::ledger::little_ledger::LittleVersion| {
            (part.since_us..=last_us).contains(&version.recorded_at_us)
        };
        let history = self.0.history(subject);
        let mut found: Vec<_> =
            history.iter().filter(inside).map(|version| (version.index, self.digest_of(version.effective))).collect();
        if part.newest_first {
            found.reverse();
        }
        if part.limit > 0 {
            found.truncate(usize::try_from(part.limit).expect("small"));
        }
        found
    }

    /// Those of the subjects that had appeared by then, in order.
    fn known(&self, subjects: &[Subject], at_us: u64) -> Vec<Subject> {
        let first = |subject: &Subject| self.0.history(subject)[0].recorded_at_us;
        let mut known: Vec<_> = subjects.iter().filter(|subject| first(subject) <= at_us).cloned().collect();
        known.sort_by_key(first);
        known
    }
}

/// Pages of any moments, in any order, each with any part of the truth: an answer that is derived from them is true as of the
/// moment that it names, or there is none.
#[test]
fn no_choice_of_true_proofs_makes_a_false_answer() {
    let mut ledger = ledger();
    ledger.record(deploy("job", "latest", 'b', Phase::Started));
    ledger.record(deploy("web", "v1", 'd', Phase::Stopped));
    ledger.record(push("latest", 'c', Happened));
    let vkey = ledger.skey.vkey();
    let job = || {
        let Subject::Workload(web) = web() else { panic!("a workload") };
        Subject::Workload(Workload { workload: "job".into(), ..web })
    };
    let tags = [subject(TAG), subject("r/app:latest"), subject("r/app:v2")];
    let workloads = [web(), job()];
    let seen = Subject::Digest(digest('d').parse().expect("a digest"));
    let mut subjects = vec![catalogue(), Subject::Environments, Subject::WorkloadsOf("prod".into()), seen.clone()];
    subjects.extend(tags.iter().chain(&workloads).cloned());
    let sizes: Vec<u64> = (1..=ledger.size() / 2).map(|batch| batch * 2).collect();
    let times: Vec<u64> = std::iter::once(0).chain((0..ledger.size()).map(|index| time_of(&ledger, index))).collect();
    let (mut dice, truth) = (Dice(1), Truth(&ledger));
    let (mut believed, mut of_several) = ([0; 6], 0);
    for round in 0..2400 {
        let count = 1 + dice.below(3);
        let of: Vec<u64> = (0..count).map(|_| dice.one_of(&sizes)).collect();
        // From nearly everything to about half.
        let density = [40, 12, 4][usize::try_from(dice.below(3)).expect("small")];
        let page = |size: u64, dice: &mut Dice| {
            let mut shown = Vec::new();
            for subject in &subjects {
                let history = ledger.history(subject);
                let known = history.iter().take_while(|version| version.index < size - 1).count() as u64;
                if dice.below(density) > 0 {
                    shown.push((subject.clone(), (0..known).filter(|_| dice.below(density) > 0).collect()));
                }
            }
            ledger.shown_at(&shown, size)
        };
        let pages = of.iter().map(|size| page(*size, &mut dice)).collect();
        let (at_us, from_us) = (dice.one_of(&times), dice.one_of(&times));
        let (limit, everything) = (dice.below(4), dice.below(2) == 0);
        let part = Part { since_us: from_us, until_us: at_us, newest_first: everything, limit };
        let repository = || "r/app".parse().expect("a repository");
        let environment = if everything { String::new() } else { "prod".into() };
        let kind = usize::try_from(dice.below(6)).expect("small");
        let asked = dice.one_of(&tags);
        let Subject::Tag(name) = asked.clone() else { panic!("a tag") };
        let question = match kind {
            0 => Question::TagAt { tag: name, at_us },
            1 => Question::TagHistory { tag: name, part },
            2 => Question::Sightings { digest: digest('d').parse().expect("a digest"), part },
            3 => Question::TagsAt { repository: repository(), at_us, include_unbound: everything, limit },
            4 => Question::RunningAt { environment, workload: String::new(), at_us, include_stopped: false, limit },
            _ => Question::RepositoryDiff { repository: repository(), from_us, to_us: at_us, limit },
        };
        let claimed = with_growth(&ledger, Claimed::new(question.clone(), pages), &of);
        let Ok(answer) = claimed.check(&vkey) else { continue };
        believed[kind] += 1;
        of_several += usize::from(count > 1);
        // The moment is that of the question, but no later than the first page knows.
        let now_us = time_of(&ledger, of[0] - 1);
        let asked_us = match &question {
            Question::TagHistory { part, .. } | Question::Sightings { part, .. } if part.until_us > 0 => {
                part.until_us - 1
            }
            Question::TagHistory { .. } | Question::Sightings { .. } => now_us,
            question => question.until_us().filter(|us| *us > 0).unwrap_or(now_us),
        };
        let context = format!("round {round}: {question:?} of {of:?}");
        let as_of_us = asked_us.min(now_us);
        assert_eq!(answer.as_of_us, (!matches!(kind, 1 | 2)).then_some(as_of_us), "{context}");
        assert!(answer.reach.is_some_and(|reach| reach.closed_at_us >= as_of_us && reach.size <= of[0]), "{context}");
        let text = |state: &State| state.digest().map(ToString::to_string);
        let cut = |mut all: Vec<(Subject, Option<String>, Option<String>)>| {
            if limit > 0 {
                all.truncate(usize::try_from(limit).expect("small"));
            }
            all
        };
        let states = |members: &[Subject], everything: bool| {
            let known = truth.known(members, as_of_us).into_iter();
            let state = known.map(|member| (member.clone(), truth.digest_at(&member, as_of_us), None));
            cut(state.filter(|(_, digest, _)| everything || digest.is_some()).collect())
        };
        let found = |list: &List<State>| {
            list.items.iter().map(|state| (state.subject.clone(), text(state), None)).collect::<Vec<_>>()
        };
        match &answer.finding {
            Finding::State(state) => {
                assert_eq!(text(state), truth.digest_at(&asked, as_of_us), "{context}");
                let history = ledger.history(&asked);
                let by_then = history.iter().filter(|version| version.recorded_at_us <= as_of_us).count() as u64;
                assert_eq!(state.at.map(|at| at.version + 1).unwrap_or_default(), by_then, "{context}");
                assert!(state.next.is_none_or(|next| next.version == by_then), "{context}");
            }
            Finding::History(history) => {
                let of = if kind == 1 { &asked } else { &seen };
                let found: Vec<_> = history
                    .versions
                    .iter()
                    .map(|version| {
                        (version.place.index, version.after.as_ref().map(|setting| setting.digest.to_string()))
                    })
                    .collect();
                assert_eq!(found, truth.history(of, part, as_of_us), "{context}");
            }
            Finding::States(list) if kind == 3 => assert_eq!(found(list), states(&tags, everything), "{context}"),
            Finding::States(list) => assert_eq!(found(list), states(&workloads, false), "{context}"),
            Finding::Changes(list) => {
                let both = |member: Subject| {
                    let from = truth.digest_at(&member, from_us.min(as_of_us));
                    (member.clone(), from, truth.digest_at(&member, as_of_us))
                };
                let known = truth.known(&tags, as_of_us).into_iter();
                let expected = cut(known.map(both).filter(|(_, from, to)| from != to).collect());
                let found: Vec<_> =
                    list.items.iter().map(|(from, to)| (from.subject.clone(), text(from), text(to))).collect();
                assert_eq!(found, expected, "{context}");
            }
            other => panic!("{context}: {other:?}"),
        }
    }
    // Enough of each were believed, or this shows nothing.
    assert!(
        believed.iter().all(|count| *count > 40) && of_several > 200,
        "{believed:?}, of several pages {of_several}"
    );
}
