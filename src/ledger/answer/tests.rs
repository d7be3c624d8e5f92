//! Honest answers are accepted and say what follows; every dishonest claim is refused.

use super::*;
use crate::ledger::little_ledger::{LittleLedger, delete, deploy, digest, push};
use crate::ledger::names::TagRef;
use crate::proto::Disposition::{Happened, Refused, Requested};
use crate::proto::deployment::Phase;

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

fn member(subject: &Subject) -> Member {
    match subject {
        Subject::Tag(tag) => Member::Tag(tag.tag.clone()),
        Subject::Workload(w) => Member::Workload(WorkloadName {
            environment: w.environment.clone(),
            cluster: w.cluster.clone(),
            namespace: w.namespace.clone(),
            workload: w.workload.clone(),
            container: w.container.clone(),
        }),
        other => panic!("{other:?} is no member"),
    }
}

/// The honest answer to what a tag was.
fn tag_at(ledger: &LittleLedger, name: &str, at_us: u64) -> Claimed {
    let subject = Subject::Tag(tag(name));
    let (state, mut indexes) = ledger.state(&subject, if at_us == 0 { u64::MAX } else { at_us });
    indexes.push(ledger.size() - 1);
    let as_of_us = if at_us == 0 { ledger.now_us() } else { at_us };
    let claims = Claims::States { as_of_us, states: vec![MemberState { member: member(&subject), state }] };
    Claimed {
        question: Question::TagAt { tag: tag(name), at_us },
        pages: vec![Page { claims, evidence: ledger.evidence(&indexes) }],
        growth: Vec::new(),
    }
}

fn history_of(ledger: &LittleLedger, subject: &Subject, part: Part) -> Claimed {
    let mut versions = ledger.history(subject);
    let total = versions.len() as u64;
    versions.retain(|v| v.recorded_at_us >= part.since_us && (part.until_us == 0 || v.recorded_at_us < part.until_us));
    if part.newest_first {
        versions.reverse();
    }
    let indexes: Vec<u64> = versions.iter().map(|version| version.index).collect();
    let question = match subject {
        Subject::Tag(tag) => Question::TagHistory { tag: tag.clone(), part },
        Subject::Digest(digest) => Question::Sightings { digest: digest.clone(), part },
        other => panic!("{other:?} has no history question"),
    };
    let page = Page { claims: Claims::Versions { versions, total }, evidence: ledger.evidence(&indexes) };
    Claimed { question, pages: vec![page], growth: Vec::new() }
}

fn state_of(answer: &Answer) -> &State {
    match &answer.finding {
        Finding::States(states) => &states[0],
        other => panic!("{other:?}"),
    }
}

fn time_of(ledger: &LittleLedger, index: u64) -> u64 {
    crate::ledger::entry::index_and_time(&ledger.entry(index)).expect("own entry").1
}

#[test]
fn the_state_of_a_tag_is_derived_at_every_moment() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let (a, d) = (digest('a'), digest('d'));
    for (index, expected) in [(0, &a), (2, &a), (4, &a), (6, &a), (8, &d), (10, &d), (12, &d), (14, &d)] {
        for at_us in [time_of(&ledger, index), time_of(&ledger, index) + 1, time_of(&ledger, index + 1)] {
            let answer = tag_at(&ledger, TAG, at_us).check(&vkey).expect("honest");
            assert_eq!(state_of(&answer).digest().map(ToString::to_string).as_ref(), Some(expected), "at {at_us}");
        }
    }
    let before = tag_at(&ledger, TAG, 1).check(&vkey).expect("honest");
    assert_eq!(state_of(&before).setting, None);
    assert!(before.verdict().unproven.is_empty(), "{:?}", before.verdict());
    let unbound = tag_at(&ledger, "r/app:latest", 0).check(&vkey).expect("honest");
    assert_eq!((state_of(&unbound).digest(), state_of(&unbound).grounds), (None, Grounds::Shown));
}

#[test]
fn a_digest_that_came_back_is_not_proven_to_have_stayed() {
    let mut ledger = LittleLedger::new("ledger.example", 1);
    let first = ledger.record(push("v1", 'a', Happened));
    ledger.record(push("v1", 'b', Happened));
    ledger.record(push("v1", 'a', Happened));
    let last = ledger.record(push("v1", 'a', Happened));
    let mut claimed = tag_at(&ledger, TAG, 0);
    let Claims::States { states, .. } = &mut claimed.pages[0].claims else { panic!("states") };
    // The server hides that the digest went and came back.
    states[0].state.at.as_mut().expect("a version").effective = first + 1;
    claimed.pages[0].evidence = ledger.evidence(&[first, last, ledger.size() - 1]);
    let answer = claimed.check(&ledger.skey.vkey()).expect("nothing shown contradicts it");
    let state = state_of(&answer);
    assert_eq!((state.grounds, state.digest_is_proven()), (Grounds::Confirmed, false));
    let word = format!("that entry {first} had set it");
    assert!(answer.verdict().unproven.contains(&word), "{:?}", answer.verdict());
}

#[test]
fn the_verdict_says_what_is_the_servers_word() {
    let ledger = ledger();
    let words = |name: &str, at_us| tag_at(&ledger, name, at_us).check(&ledger.skey.vkey()).expect("honest").verdict();
    // Between a push and the denied one: both neighbours are there.
    let verdict = words(TAG, time_of(&ledger, 0));
    assert_eq!(verdict.unproven, Vec::<String>::new());
    assert!(verdict.proven[0].contains("entry 0 is the last about r/app:v1"), "{verdict:?}");
    // A denied attempt right after the push: nothing fits in between.
    let verdict = words(TAG, time_of(&ledger, 4));
    assert_eq!(verdict.unproven, Vec::<String>::new());
    assert!(verdict.proven[1].contains("what entry 0 had set"), "{verdict:?}");
    // The deployment kept what entry 8 had set, with the failed push in between.
    let verdict = words(TAG, 0);
    assert!(verdict.unproven.iter().any(|word| word.contains("no newer entry about r/app:v1")), "{verdict:?}");
    assert!(verdict.unproven.iter().any(|word| word.contains("between entry 8 and entry 12")), "{verdict:?}");
    let verdict = words("r/app:unheard-of", 0);
    assert_eq!(verdict.unproven, ["that no entry about r/app:unheard-of is in the log"]);
    assert!(verdict.checked.contains("ledger.example") && verdict.checked.contains("checkpoint of size 22"));
    // A time after the checkpoint says so.
    let verdict = words(TAG, ledger.now_us() + 5);
    assert!(verdict.unproven[0].contains("anything later than"), "{verdict:?}");
}

/// Applies a lie to the only state claimed, and to what goes with it.
fn lie(honest: &Claimed, lie: impl FnOnce(&mut StateClaim)) -> Claimed {
    let mut claimed = honest.clone();
    let Claims::States { states, .. } = &mut claimed.pages[0].claims else { panic!("no states") };
    lie(&mut states[0].state);
    claimed
}

#[test]
fn every_false_claim_about_a_state_is_refused() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let history = ledger.history(&Subject::Tag(tag(TAG)));
    for at_us in [0, 1].into_iter().chain((0..22).map(|index| time_of(&ledger, index))) {
        let mut honest = tag_at(&ledger, TAG, at_us);
        // Every entry is at hand: what is refused is refused for what it claims.
        honest.pages[0].evidence = ledger.evidence(&(0..22).collect::<Vec<_>>());
        let truth = honest.check(&vkey).expect("honest");
        let refused = |what: &str, claimed: Claimed| {
            let checked = claimed.check(&vkey);
            assert!(checked.is_err(), "{what} at {at_us}");
        };
        for digit in ['a', 'b', 'c', 'd', 'e'].into_iter().map(digest).chain([String::new(), "sha256:".into()]) {
            if state_of(&truth).digest().map_or("", |digest| digest.as_str()) != digit {
                refused("digest", lie(&honest, |state| state.digest = digit));
            }
        }
        let Claims::States { states, .. } = &honest.pages[0].claims else { panic!("no states") };
        let (at, next) = (states[0].state.at, states[0].state.next);
        for other in &history {
            if Some(*other) != at {
                refused("at", lie(&honest, |state| state.at = Some(*other)));
            }
            if Some(*other) != next {
                refused("next", lie(&honest, |state| state.next = Some(*other)));
            }
        }
        for change in [
            |version: &mut VersionClaim| version.version += 1,
            |version: &mut VersionClaim| version.index += 1,
            |version: &mut VersionClaim| version.index += 2,
            |version: &mut VersionClaim| version.recorded_at_us -= 1,
            |version: &mut VersionClaim| version.recorded_at_us += 1,
        ] {
            if at.is_some() {
                refused("field of at", lie(&honest, |state| state.at.iter_mut().for_each(change)));
            }
            if next.is_some() {
                refused("field of next", lie(&honest, |state| state.next.iter_mut().for_each(change)));
            }
        }
        for effective in (0..24).filter(|effective| at.is_some_and(|at| at.effective != *effective)) {
            let claimed = lie(&honest, |state| state.at.as_mut().expect("there").effective = effective);
            refused("effective", claimed);
        }
    }
}

#[test]
fn a_claim_whose_entries_are_missing_or_of_another_subject_is_refused() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let honest = tag_at(&ledger, TAG, time_of(&ledger, 4));
    for dropped in [0, 4, 6] {
        let mut claimed = honest.clone();
        let indexes: Vec<u64> = [0, 4, 6].into_iter().filter(|index| *index != dropped).collect();
        claimed.pages[0].evidence = ledger.evidence(&indexes);
        assert_eq!(claimed.check(&vkey), Err(AnswerError::Missing { index: dropped }));
    }
    let mut other = honest.clone();
    other.question = Question::TagAt { tag: tag("r/app:v2"), at_us: time_of(&ledger, 4) };
    assert!(matches!(other.check(&vkey), Err(AnswerError::BesideThePoint(_))));
    let mut elsewhere = honest.clone();
    elsewhere.question = Question::TagAt { tag: tag("r/other:v1"), at_us: time_of(&ledger, 4) };
    assert!(matches!(elsewhere.check(&vkey), Err(AnswerError::NotNamed { .. })));
    let mut later = honest.clone();
    later.question = Question::TagAt { tag: tag(TAG), at_us: time_of(&ledger, 6) };
    assert!(matches!(later.check(&vkey), Err(AnswerError::WrongTime { index: 6, .. })));
    let mut now = honest;
    now.question = Question::TagAt { tag: tag(TAG), at_us: 0 };
    assert!(matches!(now.check(&vkey), Err(AnswerError::WrongTime { .. })));
}

#[test]
fn histories_are_gapless_and_carry_the_state_along() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let subject = Subject::Tag(tag(TAG));
    let answer = history_of(&ledger, &subject, Part::default()).check(&vkey).expect("honest");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    let after: Vec<String> = history
        .versions
        .iter()
        .map(|version| match &version.after {
            After::Bound(digest) => digest.as_str()[7..8].to_owned(),
            After::Nothing => "-".into(),
            After::SetBefore { .. } => "?".into(),
        })
        .collect();
    assert_eq!(after.concat(), "aaaddd");
    let newest = Part { newest_first: true, since_us: time_of(&ledger, 4), ..Part::default() };
    let answer = history_of(&ledger, &subject, newest).check(&vkey).expect("honest");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    assert_eq!(history.versions.iter().map(|v| v.place.version).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    // The denied attempt left what was set before: the part shown cannot say what.
    assert_eq!(history.versions[4].after, After::SetBefore { claimed_index: Some(0) });
    assert!(answer.verdict().unproven.iter().any(|word| word == "what was in force before version 1"));
}

#[test]
fn every_false_history_is_refused() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    for name in [TAG, "r/app:latest"] {
        for newest_first in [false, true] {
            let part = Part { newest_first, ..Part::default() };
            let honest = history_of(&ledger, &Subject::Tag(tag(name)), part);
            let Claims::Versions { versions, total } = honest.pages[0].claims.clone() else { panic!("no versions") };
            let with = |versions: Vec<VersionClaim>, total| {
                let mut claimed = honest.clone();
                claimed.pages[0].claims = Claims::Versions { versions, total };
                claimed.pages[0].evidence = ledger.evidence(&(0..22).collect::<Vec<_>>());
                claimed.check(&vkey)
            };
            assert!(with(versions.clone(), total).is_ok());
            assert!(with(versions.clone(), total - 1).is_err(), "fewer in all than shown");
            for position in 0..versions.len() {
                for effective in (0..24).filter(|effective| *effective != versions[position].effective) {
                    let mut changed = versions.clone();
                    changed[position].effective = effective;
                    assert!(with(changed, total).is_err(), "{name} version {position} effective {effective}");
                }
                if position > 0 {
                    let mut swapped = versions.clone();
                    swapped.swap(position - 1, position);
                    assert!(with(swapped, total).is_err(), "{name} swapped at {position}");
                }
                if position > 0 && position + 1 < versions.len() {
                    let mut gap = versions.clone();
                    gap.remove(position);
                    assert!(matches!(with(gap, total), Err(AnswerError::Gap { .. })), "{name} gap at {position}");
                }
                let mut twice = versions.clone();
                twice.insert(position, versions[position]);
                assert!(with(twice, total).is_err(), "{name} twice at {position}");
            }
            let mut limited = honest.clone();
            let part = Part { limit: 1, ..part };
            limited.question = Question::TagHistory { tag: tag(name), part };
            assert!(matches!(limited.check(&vkey), Err(AnswerError::BesideThePoint(_))));
            let part = Part { limit: 0, since_us: time_of(&ledger, 3), ..part };
            limited.question = Question::TagHistory { tag: tag(name), part };
            assert!(matches!(limited.check(&vkey), Err(AnswerError::WrongTime { .. })));
        }
    }
}

#[test]
fn sightings_of_a_digest_are_its_history() {
    let ledger = ledger();
    let subject = Subject::Digest(digest('d').parse().expect("a digest"));
    let honest = history_of(&ledger, &subject, Part::default());
    let answer = honest.check(&ledger.skey.vkey()).expect("honest");
    let Finding::History(history) = &answer.finding else { panic!("no history") };
    assert_eq!(history.versions.iter().map(|v| v.place.index).collect::<Vec<_>>(), [8, 12, 20]);
}

fn running(ledger: &LittleLedger, at_us: u64) -> Claimed {
    let workload = Member::Workload(WorkloadName {
        environment: "prod".into(),
        cluster: String::new(),
        namespace: String::new(),
        workload: "web".into(),
        container: String::new(),
    });
    let question = Question::RunningAt {
        environment: "prod".into(),
        workload: String::new(),
        at_us,
        include_stopped: false,
        limit: 0,
    };
    let subject = question.subject(&workload).expect("asked about");
    let (state, indexes) = ledger.state(&subject, at_us);
    let claims = Claims::States { as_of_us: at_us, states: vec![MemberState { member: workload, state }] };
    Claimed { question, pages: vec![Page { claims, evidence: ledger.evidence(&indexes) }], growth: Vec::new() }
}

#[test]
fn lists_hold_only_what_was_asked_for_and_each_subject_once() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let honest = running(&ledger, ledger.now_us());
    let answer = honest.check(&vkey).expect("honest");
    assert_eq!(state_of(&answer).digest().map(ToString::to_string), Some(digest('d')));
    assert!(answer.verdict().unproven.iter().any(|word| word == "that these are all workloads that ran in prod"));

    let mut twice = honest.clone();
    twice.pages.push(honest.pages[0].clone());
    assert!(matches!(twice.check(&vkey), Err(AnswerError::Twice(_))));

    let mut elsewhere = honest.clone();
    let Question::RunningAt { environment, .. } = &mut elsewhere.question else { panic!("not it") };
    *environment = "staging".into();
    assert!(matches!(elsewhere.check(&vkey), Err(AnswerError::BesideThePoint(_))));

    let early = running(&ledger, 1);
    assert!(matches!(early.check(&vkey), Err(AnswerError::BesideThePoint(_))), "it did not run yet");

    let none = Claimed { pages: Vec::new(), ..honest };
    assert!(matches!(none.check(&vkey), Err(AnswerError::BesideThePoint(_))));
}

#[test]
fn a_diff_shows_only_what_changed() {
    let ledger = ledger();
    let (vkey, from_us, to_us) = (ledger.skey.vkey(), time_of(&ledger, 0), time_of(&ledger, 8));
    let question = |from_us| Question::RepositoryDiff {
        repository: "r/app".parse().expect("a repository"),
        from_us,
        to_us,
        limit: 0,
    };
    let subject = Subject::Tag(tag(TAG));
    let claimed = |from_us| {
        let ((from, mut indexes), (to, more)) = (ledger.state(&subject, from_us), ledger.state(&subject, to_us));
        indexes.extend(more);
        let changes = vec![MemberChange { member: member(&subject), from, to }];
        let claims = Claims::Changes { as_of_us: to_us, changes };
        Claimed {
            question: question(from_us),
            pages: vec![Page { claims, evidence: ledger.evidence(&indexes) }],
            growth: Vec::new(),
        }
    };
    let answer = claimed(from_us).check(&vkey).expect("honest");
    let Finding::Changes(changes) = &answer.finding else { panic!("no changes") };
    assert_eq!(changes[0].0.digest().map(ToString::to_string), Some(digest('a')));
    assert_eq!(changes[0].1.digest().map(ToString::to_string), Some(digest('d')));
    assert!(matches!(claimed(to_us).check(&vkey), Err(AnswerError::BesideThePoint(_))), "nothing changed");
}

#[test]
fn pages_of_different_checkpoints_need_proof_of_growth() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let history = ledger.history(&Subject::Tag(tag(TAG)));
    let (first, second) = history.split_at(2);
    let page = |versions: &[VersionClaim], size| {
        let indexes: Vec<u64> = versions.iter().map(|version| version.index).collect();
        let claims = Claims::Versions { versions: versions.to_vec(), total: 6 };
        Page { claims, evidence: ledger.evidence_at(&indexes, size) }
    };
    let mut claimed = Claimed {
        question: Question::TagHistory { tag: tag(TAG), part: Part::default() },
        pages: vec![page(first, 6), page(second, 22)],
        growth: vec![Growth { older: 6, newer: 22, hashes: ledger.consistency(6, 22) }],
    };
    assert_eq!(claimed.check(&vkey).expect("honest").entries.checkpoint().size, 22);
    claimed.growth.clear();
    assert!(matches!(claimed.check(&vkey), Err(AnswerError::Evidence(EvidenceError::Fork(_)))));
}

#[test]
fn entries_and_inclusion_proofs_answer_for_the_one_asked() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let page = |claims, index| Page { claims, evidence: ledger.evidence(&[index]) };
    let entry = |question, index| Claimed { question, pages: vec![page(Claims::Entry, index)], growth: Vec::new() };
    assert!(entry(Question::Entry { index: 4 }, 4).check(&vkey).is_ok());
    assert!(entry(Question::Entry { index: 4 }, 6).check(&vkey).is_err());
    let hash = crate::ledger::entry::entry_hash(&ledger.entry(4));
    assert!(entry(Question::Leaf { hash }, 4).check(&vkey).is_ok());
    assert!(entry(Question::Leaf { hash }, 6).check(&vkey).is_err());

    for tree_size in [6, 22] {
        let path: Vec<Hash> =
            ledger.evidence_at(&[4], tree_size).proof.iter().map(|h| h[..].try_into().expect("a hash")).collect();
        let consistency = ledger.consistency(tree_size, 22);
        let root = ledger.checkpoint_at(tree_size).root;
        let claimed = |path: &[Hash], root, consistency: &[Hash]| {
            let (path, consistency) = (path.to_vec(), consistency.to_vec());
            let claims = Claims::Inclusion { tree_size, root, path, consistency };
            let pages = vec![page(claims, 4)];
            Claimed { question: Question::Inclusion { index: 4, tree_size }, pages, growth: Vec::new() }.check(&vkey)
        };
        assert!(claimed(&path, root, &consistency).is_ok());
        assert!(claimed(&path, [0; 32], &consistency).is_err());
        assert!(claimed(&path[1..], root, &consistency).is_err());
        for position in 0..path.len() {
            let mut changed = path.clone();
            changed[position][0] ^= 1;
            assert!(claimed(&changed, root, &consistency).is_err());
        }
        assert_eq!(consistency.is_empty(), tree_size == 22);
        if !consistency.is_empty() {
            assert!(claimed(&path, root, &consistency[1..]).is_err());
        }
    }
}

#[test]
fn what_comes_next_is_held_against_its_entry_too() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    for index in 0..22 {
        let mut honest = tag_at(&ledger, TAG, time_of(&ledger, index));
        honest.pages[0].evidence = ledger.evidence(&(0..22).collect::<Vec<_>>());
        let Claims::States { states, .. } = &honest.pages[0].claims else { panic!("no states") };
        let Some(next) = states[0].state.next else { continue };
        for effective in (0..24).filter(|effective| *effective != next.effective) {
            let claimed = lie(&honest, |state| state.next.as_mut().expect("there").effective = effective);
            assert!(claimed.check(&vkey).is_err(), "effective {effective} of the entry after entry {index}");
        }
    }
}

#[test]
fn a_part_of_a_history_may_not_begin_with_what_comes_later() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    // Entry 4, denied, and entry 6, a confirmation, leave in force what came before the part.
    for index in [4, 6] {
        let part = Part { since_us: time_of(&ledger, index), ..Part::default() };
        let honest = history_of(&ledger, &Subject::Tag(tag(TAG)), part);
        for effective in index + 1..24 {
            let mut claimed = honest.clone();
            let Claims::Versions { versions, .. } = &mut claimed.pages[0].claims else { panic!("no versions") };
            versions.truncate(1);
            claimed.check(&vkey).expect("honest");
            let Claims::Versions { versions, .. } = &mut claimed.pages[0].claims else { panic!("no versions") };
            versions[0].effective = effective;
            assert!(claimed.check(&vkey).is_err(), "effective {effective} of entry {index}");
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
    let honest = running(&ledger, ledger.now_us());
    for text in ["prod\nproven: all is well", "prod\u{1b}[2J", "prod\u{9b}2J", &"p".repeat(129)] {
        let mut asked = honest.clone();
        let Question::RunningAt { environment, .. } = &mut asked.question else { panic!("not it") };
        *environment = text.to_owned();
        refused(&asked, "question.environment");
        let mut asked = honest.clone();
        let Question::RunningAt { workload, .. } = &mut asked.question else { panic!("not it") };
        *workload = text.to_owned();
        refused(&asked, "question.workload");
        let mut given = honest.clone();
        let Claims::States { states, .. } = &mut given.pages[0].claims else { panic!("no states") };
        let Member::Workload(name) = &mut states[0].member else { panic!("no workload") };
        name.container = text.to_owned();
        refused(&given, "member.container");
    }
    refused(&lie(&honest, |state| state.digest.push('\n')), "state.digest");
    let next = lie(&honest, |state| state.at.as_mut().expect("there").recorded_at_us = u64::MAX);
    refused(&next, "version.recorded_at_us");

    let mut now = tag_at(&ledger, TAG, 0);
    let Claims::States { as_of_us, .. } = &mut now.pages[0].claims else { panic!("no states") };
    *as_of_us = crate::ledger::time::MAX_TIME_US;
    now.check(&vkey).expect("the last time that there is");
    let Claims::States { as_of_us, .. } = &mut now.pages[0].claims else { panic!("no states") };
    *as_of_us += 1;
    refused(&now, "as_of_us");
    let part = Part { until_us: u64::MAX, ..Part::default() };
    refused(&history_of(&ledger, &Subject::Tag(tag(TAG)), part), "question.part.until_us");
}

#[test]
fn only_what_reaches_past_the_end_of_a_log_could_change_with_it() {
    let ledger = ledger();
    let vkey = ledger.skey.vkey();
    let size = ledger.size();
    let changes = |claimed: Claimed| claimed.check(&vkey).expect("honest").could_change_after(size);
    assert!(changes(tag_at(&ledger, TAG, 0)));
    assert!(changes(tag_at(&ledger, TAG, ledger.now_us() + 1)));
    assert!(!changes(tag_at(&ledger, TAG, ledger.now_us())));
    let subject = Subject::Tag(tag(TAG));
    assert!(changes(history_of(&ledger, &subject, Part::default())));
    let past = Part { until_us: time_of(&ledger, 8), ..Part::default() };
    let mut part = history_of(&ledger, &subject, past);
    assert!(changes(part.clone()), "when the log was closed is not shown");
    let shown = part.pages[0].evidence.entries.iter().map(|entry| entry.index).chain([size - 1]).collect::<Vec<_>>();
    part.pages[0].evidence = ledger.evidence(&shown);
    assert!(!changes(part));
}
