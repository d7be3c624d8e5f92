//! `evidence.json`: answers with all that proves them, answers that don't hold, and pairs of files held against each other.
//!
//! The valid ones are here; `refused.rs` has the others, `against.rs` the pairs. What a verifier must find is written beside
//! each case in a few signs ([`in_short`]), and in full in the file ([`summary`]).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use tagledger::client::saved;
use tagledger::ledger::answer::{Answer, Claimed, Finding, Growth, Part, Question, State, subject_words};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::names::TagRef;
use tagledger::ledger::note::Vkey;
use tagledger::ledger::statement::Workload;
use tagledger::ledger::subject::Subject;
use tagledger::ledger::tlog_proof;
use tagledger::proto;
use tagledger::proto::Disposition::{Happened, Refused, Requested};
use tagledger::proto::deployment::Phase;
use tagledger::proto::statement::Kind;

use crate::ledger::little_ledger::{
    LittleLedger, Submission, attest, change_policy, delete, delete_manifest, deploy, deployment, digest, observe, push,
};
use crate::log::cosigned;
use crate::page::{Page, members};
use crate::values::{list, read, text};
use crate::{FIRST_TIME_US, against, principals, refused, skey};

/// What the cases are about, unless they say otherwise.
pub(crate) const V1: &str = "r/app:v1";
/// A tag that came and went.
pub(crate) const LATEST: &str = "r/app:latest";

/// The file.
pub(crate) fn evidence() -> Value {
    let ledger = story();
    let mut cases = Cases::new(ledger.skey.vkey());
    states(&mut cases, &ledger);
    histories(&mut cases, &ledger);
    lists(&mut cases, &ledger);
    repositories(&mut cases);
    entries(&mut cases, &ledger);
    pages(&mut cases, &ledger);
    principals::add(&mut cases);
    refused::add(&mut cases, &ledger);
    assert!(cases.wrong.is_empty(), "\n{}", cases.wrong.join("\n"));
    let vkey = ledger.skey.vkey().to_string();
    json!({ "vkey": vkey, "cases": cases.list, "against": against::pairs(&ledger) })
}

/// A commitment closes each line. v1 may not move; what it is bound to comes first.
///
/// ```text
///  0 -
///  1 policy           3 push v1 a            5 push latest b        7 push v1 c: DENIED, 8 push v1 a: UNCHANGED
/// 10 push v1 d: VIOLATION                   12 push v1 e: FAILED   14 start prod/web v1 d
/// 16 start staging/web latest b             18 push latest e, 19 start prod/worker latest e
/// 21 delete latest   23 again: UNCHANGED    25 push v2 d: FAILED   27 observe latest a: DRIFT
/// 29 stop prod/web v1 d                     31 delete manifest a   33 attest d
/// ```
pub(crate) fn story() -> LittleLedger {
    let mut ledger = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    ledger.commit();
    let staging = deployment("staging", "web", "latest", 'b', Phase::Started);
    let seen = Submission { assurance: proto::Assurance::Confirmed, ..observe("latest", Some('a')).into() };
    let batches: Vec<Vec<Submission>> = vec![
        vec![Submission { principal: "operator".into(), ..change_policy(&["**:v*"]).into() }],
        vec![push("v1", 'a', Happened).into()],
        vec![push("latest", 'b', Happened).into()],
        vec![push("v1", 'c', Requested).into(), push("v1", 'a', Happened).into()],
        vec![push("v1", 'd', Happened).into()],
        vec![push("v1", 'e', Refused).into()],
        vec![deploy("web", "v1", 'd', Phase::Started).into()],
        vec![Kind::Deployment(staging).into()],
        vec![push("latest", 'e', Happened).into(), deploy("worker", "latest", 'e', Phase::Started).into()],
        vec![delete("latest").into()],
        vec![delete("latest").into()],
        vec![push("v2", 'd', Refused).into()],
        vec![seen],
        vec![deploy("web", "v1", 'd', Phase::Stopped).into()],
        vec![delete_manifest('a', Happened).into()],
        vec![attest('d').into()],
    ];
    for batch in batches {
        for sent in &batch {
            ledger.add(sent);
        }
        ledger.commit();
    }
    assert_eq!(ledger.size(), 35, "as the table above has it");
    ledger
}

/// The time of an entry of the story; of entries that are yet to come as well.
pub(crate) fn t(index: u64) -> u64 {
    FIRST_TIME_US + 1_000_000 * index
}

pub(crate) fn tag(text: &str) -> TagRef {
    text.parse().expect("a reference")
}

pub(crate) fn subject(text: &str) -> Subject {
    Subject::Tag(tag(text))
}

pub(crate) fn catalogue() -> Subject {
    let TagRef { registry, repository, .. } = tag(V1);
    Subject::TagsOf(registry, repository)
}

pub(crate) fn workload(environment: &str, workload: &str) -> Subject {
    Subject::Workload(Workload {
        environment: environment.into(),
        cluster: String::new(),
        namespace: String::new(),
        workload: workload.into(),
        container: String::new(),
    })
}

fn workloads_of(environment: &str) -> Subject {
    Subject::WorkloadsOf(environment.into())
}

// The cases.

/// Collects them.
pub(crate) struct Cases {
    pub(crate) vkey: Vkey,
    pub(crate) list: Vec<Value>,
    names: BTreeSet<String>,
    /// What is not as it is said to be: all of it is shown at once.
    wrong: Vec<String>,
}

impl Cases {
    fn new(vkey: Vkey) -> Self {
        Self { vkey, list: Vec::new(), names: BTreeSet::new(), wrong: Vec::new() }
    }

    /// An answer that holds, and what it says. Without white space, to keep the file small; the one of the command line
    /// stands beside it here and there.
    pub(crate) fn holds(&mut self, name: &str, claimed: &Claimed, says: &str) {
        self.text_holds(name, compact(claimed), says);
    }

    fn text_holds(&mut self, name: &str, file: String, says: &str) {
        match check(&file, &self.vkey) {
            Ok(answer) if in_short(&answer) == says => {
                let summary = summary(&answer);
                self.add(name, json!({ "name": name, "file": file, "valid": true, "summary": summary }));
            }
            Ok(answer) => self.wrong.push(format!("{name}: says {:?}, not {says:?}", in_short(&answer))),
            Err(why) => self.wrong.push(format!("{name}: is refused: {why}")),
        }
    }

    /// A file that is refused, and a word of ours that says why: that it is not refused for something else.
    pub(crate) fn refused(&mut self, name: &str, why: &str, file: String, word: &str) {
        match check(&file, &self.vkey) {
            Err(found) if found.contains(word) => {
                self.add(name, json!({ "name": name, "file": file, "valid": false, "why": why }));
            }
            Err(found) => self.wrong.push(format!("{name}: is refused for {found:?}, not for {word:?}")),
            Ok(answer) => self.wrong.push(format!("{name}: holds: {}", in_short(&answer))),
        }
    }

    fn add(&mut self, name: &str, case: Value) {
        assert!(self.names.insert(name.to_owned()), "{name} is there twice");
        self.list.push(case);
    }
}

/// What the command `verify` does with a file.
fn check(file: &str, vkey: &Vkey) -> Result<Answer, String> {
    load(file)?.check(vkey).map_err(|error| error.to_string())
}

pub(crate) fn load(file: &str) -> Result<Claimed, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, file).expect("written");
    saved::load(&path).map_err(|error| error.to_string())
}

/// What an answer says, for programs.
fn summary(answer: &Answer) -> Value {
    let state = |state: &State| {
        let name = match &state.subject {
            Subject::Workload(w) => json!([w.environment, w.cluster, w.namespace, w.workload, w.container]),
            Subject::TagsOf(registry, repository) => json!([registry.as_str(), repository.as_str()]),
            other => json!(subject_words(other)),
        };
        json!({
            "name": name,
            "digest": state.digest().map(ToString::to_string),
            "set_by": state.setting.as_ref().map(|setting| setting.set_by.index),
            "at": state.at.map(|place| place.index),
            "next": state.next.map(|place| place.index),
            "total": state.count,
        })
    };
    let mut summary = match &answer.finding {
        Finding::State(found) => json!({ "state": state(found) }),
        Finding::States(list) => {
            json!({ "states": list.items.iter().map(state).collect::<Vec<_>>(), "is_cut": list.is_cut })
        }
        Finding::Changes(list) => {
            let change = |(from, to): &(State, State)| json!({ "from": state(from), "to": state(to) });
            json!({ "changes": list.items.iter().map(change).collect::<Vec<_>>(), "is_cut": list.is_cut })
        }
        Finding::History(history) => {
            let versions = history.versions.iter().map(|version| {
                json!({
                    "version": version.place.version,
                    "index": version.place.index,
                    "recorded_at_us": version.place.recorded_at_us,
                    "digest": version.after.as_ref().map(|setting| setting.digest.to_string()),
                    "set_by": version.after.as_ref().map(|setting| setting.set_by.index),
                })
            });
            json!({ "versions": versions.collect::<Vec<_>>(), "is_cut": history.is_cut, "total": history.count })
        }
        Finding::Principals(found) => json!({
            "principals": found.principals.iter().map(|principal| principal.name()).collect::<Vec<_>>(),
            "digest": found.principals.digest().as_str(),
            "set_by": found.set_by.iter().map(|(name, place)| (name.clone(), place.index.into())).collect::<serde_json::Map<_, _>>(),
            "total": found.history.count,
        }),
        Finding::Entry(index) => json!({ "index": index }),
        Finding::Inclusion { index, tree_size, root, .. } => {
            json!({ "index": index, "tree_size": tree_size, "root": hex::encode(root) })
        }
    };
    summary["as_of_us"] = json!(answer.as_of_us);
    summary
}

/// What an answer says, in a few signs. A state is the digit of the digest, or `-`; the entry that set it; the entry at the
/// time; the next one; and how many there are in all.
fn in_short(answer: &Answer) -> String {
    let number = |index: Option<u64>| index.map_or("-".to_owned(), |index| index.to_string());
    let digit = |digest: Option<&tagledger::ledger::names::Digest>| {
        digest.map_or("-".to_owned(), |digest| digest.as_str()[7..8].to_owned())
    };
    let state = |state: &State| {
        let set_by = number(state.setting.as_ref().map(|setting| setting.set_by.index));
        let places = [state.at, state.next].map(|place| number(place.map(|place| place.index)));
        format!("{}/{set_by}/{}/{}/{}", digit(state.digest()), places[0], places[1], state.count)
    };
    let short = |state: &State| {
        let name = subject_words(&state.subject);
        format!("{}={}", name.trim_start_matches("r/app:"), digit(state.digest()))
    };
    let cut = |is_cut: bool| if is_cut { " ..." } else { "" };
    match &answer.finding {
        Finding::State(found) => state(found),
        Finding::States(list) => {
            format!("{}{}", list.items.iter().map(short).collect::<Vec<_>>().join(" "), cut(list.is_cut))
        }
        Finding::Changes(list) => {
            let changes = list.items.iter().map(|(from, to)| format!("{}>{}", short(from), digit(to.digest())));
            format!("{}{}", changes.collect::<Vec<_>>().join(" "), cut(list.is_cut))
        }
        Finding::History(history) => {
            let version = |version: &tagledger::ledger::answer::HistoryVersion| {
                let after = digit(version.after.as_ref().map(|setting| &setting.digest));
                format!("{}{after}", version.place.index)
            };
            let versions: Vec<String> = history.versions.iter().map(version).collect();
            format!("{}{} of {}", versions.join(" "), cut(history.is_cut), history.count)
        }
        Finding::Principals(found) => {
            let names: Vec<String> =
                found.set_by.iter().map(|(name, place)| format!("{name}={}", place.index)).collect();
            format!("{} of {}", names.join(" "), found.history.count)
        }
        Finding::Entry(index) => format!("entry {index}"),
        Finding::Inclusion { index, tree_size, .. } => format!("entry {index} of {tree_size}"),
    }
}

// Questions, answered honestly.

pub(crate) fn tag_at(ledger: &LittleLedger, name: &str, at_us: u64, size: u64) -> Claimed {
    let page = Page::new(ledger, size).state(&subject(name), moment(at_us));
    Claimed::new(Question::TagAt { tag: tag(name), at_us }, vec![page.evidence()])
}

pub(crate) fn tag_history(ledger: &LittleLedger, part: Part, versions: std::ops::Range<u64>) -> Claimed {
    let page = Page::new(ledger, ledger.size()).part(&subject(V1), versions);
    Claimed::new(Question::TagHistory { tag: tag(V1), part }, vec![page.evidence()])
}

pub(crate) fn sightings(ledger: &LittleLedger, digit: char, part: Part, versions: std::ops::Range<u64>) -> Claimed {
    let digest: tagledger::ledger::names::Digest = digest(digit).parse().expect("a digest");
    let page = Page::new(ledger, ledger.size()).part(&Subject::Digest(digest.clone()), versions);
    Claimed::new(Question::Sightings { digest, part }, vec![page.evidence()])
}

/// Goes through the first `shown` members of the catalogue by then.
pub(crate) fn tags_at(ledger: &LittleLedger, at_us: u64, include_unbound: bool, limit: u64, shown: u64) -> Claimed {
    let page = slice(Page::new(ledger, ledger.size()), ledger, &catalogue(), &[at_us], 0..shown);
    let repository = "r/app".parse().expect("a repository");
    Claimed::new(Question::TagsAt { repository, at_us, include_unbound, limit }, vec![page.evidence()])
}

/// A page with a slice of a catalogue, and the states of its members at some times, the last of which is that of the list.
fn slice<'a>(
    page: Page<'a>,
    ledger: &LittleLedger,
    catalogue: &Subject,
    times_us: &[u64],
    shown: std::ops::Range<u64>,
) -> Page<'a> {
    let at_us = moment(*times_us.last().expect("a time"));
    let all = members(ledger, catalogue, at_us, page.size());
    let shown = shown.start..shown.end.min(all.len() as u64);
    let page = page.members(catalogue, shown.clone());
    let members = all.iter().enumerate().filter(|(position, _)| shown.contains(&(*position as u64)));
    members.fold(page, |page, (_, member)| {
        times_us.iter().fold(page, |page, time_us| page.state(member, moment(*time_us).min(at_us)))
    })
}

fn running_at(
    environment: &str,
    workload: &str,
    at_us: u64,
    include_stopped: bool,
    limit: u64,
    page: &Page,
) -> Claimed {
    let question = Question::RunningAt {
        environment: environment.into(),
        workload: workload.into(),
        at_us,
        include_stopped,
        limit,
    };
    Claimed::new(question, vec![page.evidence()])
}

/// 0 is now.
fn moment(time_us: u64) -> u64 {
    if time_us == 0 { u64::MAX } else { time_us }
}

// The valid ones.

fn states(cases: &mut Cases, ledger: &LittleLedger) {
    let now = ledger.size();
    let ask = |name: &str, at_us: u64| tag_at(ledger, name, at_us, now);
    cases.holds("tag now", &ask(V1, 0), "d/10/29/-/7");
    cases.holds("tag at the time of its first entry", &ask(V1, t(3)), "a/3/3/7/7");
    cases.holds("tag between two entries", &ask(V1, t(5) + 1), "a/3/3/7/7");
    cases.holds("tag after a denied push", &ask(V1, t(7)), "a/3/7/8/7");
    cases.holds("tag after the same push again", &ask(V1, t(8)), "a/3/8/10/7");
    cases.holds("tag after a violation", &ask(V1, t(10)), "d/10/10/12/7");
    cases.holds("tag after a failed push", &ask(V1, t(12)), "d/10/12/14/7");
    cases.holds("tag after a deployment", &ask(V1, t(14)), "d/10/14/29/7");
    cases.holds("tag before its first entry", &ask(V1, t(2)), "-/-/-/3/7");
    cases.holds("tag at the beginning of time", &ask(V1, 1), "-/-/-/3/7");
    cases.holds("tag at a time after the checkpoint", &ask(V1, t(1000)), "d/10/29/-/7");
    cases.holds("tag at the last time that there is", &ask(V1, 253_402_300_799_999_999), "d/10/29/-/7");
    cases.holds("tag when the checkpoint was closed", &ask(V1, t(34)), "d/10/29/-/7");
    cases.holds("tag deployed to another environment", &ask(LATEST, t(16)), "b/5/16/18/8");
    cases.holds("tag deleted", &ask(LATEST, t(21)), "-/-/21/23/8");
    cases.holds("tag deleted twice", &ask(LATEST, t(23)), "-/-/23/27/8");
    cases.holds("tag after drift", &ask(LATEST, t(27)), "a/27/27/31/8");
    cases.holds("tag whose manifest was deleted", &ask(LATEST, 0), "-/-/31/-/8");
    cases.holds("tag as of an older checkpoint", &tag_at(ledger, LATEST, 0, 7), "b/5/5/-/1");
    cases.holds("tag of which only an attempt is known", &ask("r/app:v2", 0), "-/-/25/-/1");
    let whole = Page::new(ledger, now).part(&subject(V1), 0..7).state(&subject(LATEST), t(20));
    let claimed = Claimed::new(Question::TagAt { tag: tag(V1), at_us: t(8) }, vec![whole.evidence()]);
    cases.holds("tag with more shown than is needed", &claimed, "a/3/8/10/7");

    let (empty, other) = absent(ledger);
    cases.holds("tag never seen: an empty subtree", &ask(&empty, 0), "-/-/-/-/0");
    cases.holds("tag never seen: another leaf", &ask(&other, 0), "-/-/-/-/0");
    cases.holds("tag never seen in the past", &ask(&other, t(7)), "-/-/-/-/0");
    cases.holds("tag in a ledger without subjects", &tag_at(ledger, V1, 0, 1), "-/-/-/-/0");
    cases.holds("tag in a ledger with one subject", &tag_at(ledger, V1, 0, 3), "-/-/-/-/0");

    let policy_at = |at_us: u64, size: u64| {
        let page = Page::new(ledger, size).state(&Subject::Policy, moment(at_us));
        Claimed::new(Question::PolicyAt { at_us }, vec![page.evidence()])
    };
    let rules = &ledger.policy.digest().as_str()[7..8];
    cases.holds("policy now", &policy_at(0, now), &format!("{rules}/1/1/-/1"));
    cases.holds("policy before it was set", &policy_at(t(0), now), "-/-/-/1/1");
    cases.holds("policy that was never set", &policy_at(0, 1), "-/-/-/-/0");

    let mut witnessed = ask(V1, 0);
    let checkpoint = Checkpoint::open(&witnessed.pages[0].checkpoint, &cases.vkey).expect("own checkpoint");
    witnessed.pages[0].checkpoint = cosigned(&checkpoint);
    cases.holds("tag under a checkpoint with the line of a witness", &witnessed, "d/10/29/-/7");
    cases.text_holds("tag in a file as --save writes it", saved::to_text(&ask(V1, 0)), "d/10/29/-/7");
}

/// Two tags that were never seen: one whose path in the map ends in nothing, one whose path ends in another key's leaf.
pub(crate) fn absent(ledger: &LittleLedger) -> (String, String) {
    let find = |is_empty: bool| {
        let names = (0..).map(|number| format!("r/app:t{number}"));
        let mut fitting = names.filter(|name| {
            let terminal = ledger.subject_proof_at(&subject(name), &[], ledger.size()).terminal;
            matches!(terminal, Some(proto::subject_proof::Terminal::Empty(_))) == is_empty
        });
        fitting.next().expect("there is no end of names")
    };
    (find(true), find(false))
}

fn histories(cases: &mut Cases, ledger: &LittleLedger) {
    let part = |since_us, until_us, newest_first, limit| Part { since_us, until_us, newest_first, limit };
    let ask = |part, versions| tag_history(ledger, part, versions);
    let all = "3a 7a 8a 10d 12d 14d 29d of 7";
    cases.holds("history, all of it", &ask(Part::default(), 0..7), all);
    cases.holds("history, newest first", &ask(part(0, 0, true, 0), 0..7), "29d 14d 12d 10d 8a 7a 3a of 7");
    cases.holds("history, a part in the middle", &ask(part(t(7), t(12), false, 0), 1..4), "7a 8a 10d of 7");
    cases.holds("history, newest of a part first", &ask(part(t(7), t(12), true, 0), 1..4), "10d 8a 7a of 7");
    cases.holds("history, from the beginning to a time", &ask(part(0, t(8), false, 0), 0..2), "3a 7a of 7");
    cases.holds("history, from a time on", &ask(part(t(13), 0, false, 0), 5..7), "14d 29d of 7");
    cases.holds("history, cut", &ask(part(0, 0, false, 3), 0..3), "3a 7a 8a ... of 7");
    cases.holds("history, cut newest first", &ask(part(0, 0, true, 2), 5..7), "29d 14d ... of 7");
    cases.holds("history, cut in the middle", &ask(part(t(7), t(15), false, 2), 1..3), "7a 8a ... of 7");
    cases.holds("history, as many as there are", &ask(part(0, 0, false, 7), 0..7), &all.replace(" of", " ... of"));
    cases.holds("history, fewer than the limit", &ask(part(0, 0, false, 8), 0..7), all);
    cases.holds("history, a part without entries", &ask(part(t(4), t(6), false, 0), 1..1), " of 7");
    cases.holds("history, before its first entry", &ask(part(0, t(3), false, 0), 0..0), " of 7");
    cases.holds("history, after its last entry", &ask(part(t(30), 0, false, 0), 7..7), " of 7");
    cases.holds("history, to a time after the checkpoint", &ask(part(0, t(1000), false, 0), 0..7), all);
    cases.holds("history, from a time after the checkpoint", &ask(part(t(1000), 0, false, 0), 7..7), " of 7");
    let (_, never) = absent(ledger);
    let nothing = Page::new(ledger, ledger.size()).absent(&subject(&never));
    let question = Question::TagHistory { tag: tag(&never), part: Part::default() };
    cases.holds("history of a tag never seen", &Claimed::new(question, vec![nothing.evidence()]), " of 0");
    cases.holds(
        "sightings of a digest",
        &sightings(ledger, 'd', part(0, 0, false, 0), 0..5),
        "10- 14- 25- 29- 33- of 5",
    );
    cases.holds(
        "sightings of a digest, newest of a part first",
        &sightings(ledger, 'd', part(t(14), t(30), true, 0), 1..4),
        "29- 25- 14- of 5",
    );
    cases.holds(
        "sightings of a digest, since a time",
        &sightings(ledger, 'd', part(t(26), 0, false, 0), 3..5),
        "29- 33- of 5",
    );
    cases.holds("sightings of a digest, cut", &sightings(ledger, 'd', part(0, 0, false, 2), 0..2), "10- 14- ... of 5");
    cases.holds(
        "sightings of a digest whose push was denied",
        &sightings(ledger, 'c', part(0, 0, false, 0), 0..1),
        "7- of 1",
    );
    cases.holds("sightings of a digest never seen", &sightings(ledger, 'f', part(0, 0, false, 0), 0..0), " of 0");
}

fn lists(cases: &mut Cases, ledger: &LittleLedger) {
    let now = ledger.size();
    let tags = |at_us, include_unbound, limit, shown| tags_at(ledger, at_us, include_unbound, limit, shown);
    cases.holds("tags now", &tags(0, false, 0, 3), "v1=d");
    cases.holds("tags in the past", &tags(t(20), false, 0, 3), "v1=d latest=e");
    cases.holds("tags, the unbound too", &tags(0, true, 0, 3), "v1=d latest=- v2=-");
    cases.holds("tags, cut", &tags(0, true, 2, 2), "v1=d latest=- ...");
    cases.holds("tags, cut at the last", &tags(t(20), false, 2, 2), "v1=d latest=e ...");
    cases.holds("tags, fewer than the limit", &tags(0, false, 2, 3), "v1=d");
    cases.holds("tags before the first", &tags(t(2), true, 0, 0), "");
    let elsewhere = "r/other".parse::<tagledger::ledger::answer::RepositoryName>().expect("a repository");
    let page = Page::new(ledger, now).absent(&elsewhere.tags());
    let question = Question::TagsAt { repository: elsewhere, at_us: 0, include_unbound: true, limit: 0 };
    cases.holds("tags of a repository never seen", &Claimed::new(question, vec![page.evidence()]), "");

    let prod = |at_us| slice(Page::new(ledger, now), ledger, &workloads_of("prod"), &[at_us], 0..9);
    let environments = |at_us, shown| {
        let page = Page::new(ledger, now).members(&Subject::Environments, 0..shown);
        let members = members(ledger, &Subject::Environments, moment(at_us), now);
        let shown = usize::try_from(shown).expect("few");
        members[..shown].iter().fold(page, |page, of| slice(page, ledger, of, &[at_us], 0..9))
    };
    cases.holds("running now", &running_at("prod", "", 0, false, 0, &prod(0)), "prod/worker=e");
    cases.holds(
        "running in the past",
        &running_at("prod", "", t(19), false, 0, &prod(t(19))),
        "prod/web=d prod/worker=e",
    );
    cases.holds("running, the stopped too", &running_at("prod", "", 0, true, 0, &prod(0)), "prod/web=- prod/worker=e");
    let all = environments(0, 2);
    cases.holds("running anywhere", &running_at("", "", 0, false, 0, &all), "prod/worker=e staging/web=b");
    let one = environments(t(15), 1);
    cases.holds("running anywhere, in the past", &running_at("", "", t(15), false, 0, &one), "prod/web=d");
    let none = environments(t(13), 0);
    cases.holds("running anywhere, before the first", &running_at("", "", t(13), false, 0, &none), "");
    // What the name rules out needs no proof of its state.
    let web = Page::new(ledger, now).members(&Subject::Environments, 0..2);
    let web = web.members(&workloads_of("prod"), 0..2).members(&workloads_of("staging"), 0..1);
    let web = web.state(&workload("prod", "web"), u64::MAX).state(&workload("staging", "web"), u64::MAX);
    cases.holds("running anywhere, by name", &running_at("", "web", 0, true, 0, &web), "prod/web=- staging/web=b");
    let cut = environments(0, 1);
    cases.holds("running anywhere, cut", &running_at("", "", 0, false, 1, &cut), "prod/worker=e ...");
    let nowhere = Page::new(ledger, now).absent(&workloads_of("test"));
    cases.holds("running in an environment never seen", &running_at("test", "", 0, true, 0, &nowhere), "");
    let nothing = Page::new(ledger, 7).absent(&Subject::Environments);
    cases.holds("running anywhere, where nothing was deployed", &running_at("", "", 0, true, 0, &nothing), "");

    let tags = |from_us: u64, to_us, limit, shown| {
        let page = slice(Page::new(ledger, now), ledger, &catalogue(), &[from_us.max(1), to_us], 0..shown);
        let repository = "r/app".parse().expect("a repository");
        Claimed::new(Question::RepositoryDiff { repository, from_us, to_us, limit }, vec![page.evidence()])
    };
    cases.holds("diff of a repository", &tags(t(4), t(20), 0, 3), "v1=a>d latest=->e");
    cases.holds("diff of a repository, from the beginning to now", &tags(0, 0, 0, 3), "v1=->d");
    cases.holds("diff of a repository, cut", &tags(t(4), t(20), 1, 1), "v1=a>d ...");
    cases.holds("diff of a repository, where nothing changed", &tags(t(31), 0, 0, 3), "");
    cases.holds("diff of a repository, from a time after its end", &tags(t(20), t(4), 0, 3), "");
    let workloads = |from_us: u64, to_us| {
        let page = Page::new(ledger, now);
        let page = slice(page, ledger, &workloads_of("prod"), &[from_us.max(1), to_us], 0..9);
        let environment = "prod".into();
        Claimed::new(Question::EnvironmentDiff { environment, from_us, to_us, limit: 0 }, vec![page.evidence()])
    };
    cases.holds("diff of an environment", &workloads(t(15), 0), "prod/web=d>- prod/worker=->e");
    cases.holds("diff of an environment, before the first", &workloads(0, t(13)), "");
}

/// Each line is a batch: r/app:v1, then another tag there, then the first of r/other and of q/app.
fn three_repositories() -> LittleLedger {
    let mut ledger = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    ledger.commit();
    for (registry, repository, tag) in
        [("r", "app", "v1"), ("r", "app", "v2"), ("r", "other", "v1"), ("q", "app", "v1")]
    {
        let Kind::TagPush(push) = push(tag, 'a', Happened) else { panic!("it is a push") };
        let push = proto::TagPush { registry: registry.into(), repository: repository.into(), ..push };
        ledger.add(&Kind::TagPush(push).into());
        ledger.commit();
    }
    ledger
}

/// Goes through the first `shown` repositories by then.
fn repositories_at(ledger: &LittleLedger, at_us: u64, limit: u64, shown: u64) -> Claimed {
    let page = slice(Page::new(ledger, ledger.size()), ledger, &Subject::Repositories, &[at_us], 0..shown);
    Claimed::new(Question::RepositoriesAt { at_us, limit }, vec![page.evidence()])
}

fn repositories(cases: &mut Cases) {
    let ledger = three_repositories();
    let all = "the tags of r/app=- the tags of r/other=- the tags of q/app=-";
    cases.holds("repositories now", &repositories_at(&ledger, 0, 0, 3), all);
    let first = "the tags of r/app=-";
    cases.holds("repositories in the past", &repositories_at(&ledger, t(3), 0, 1), first);
    cases.holds("repositories, cut", &repositories_at(&ledger, 0, 1, 1), &format!("{first} ..."));
    cases.holds("repositories before the first", &repositories_at(&ledger, t(0), 0, 0), "");
    let mut empty = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    empty.commit();
    let question = Question::RepositoriesAt { at_us: 0, limit: 0 };
    let page = Page::new(&empty, empty.size()).absent(&Subject::Repositories);
    cases.holds("repositories of a ledger without any", &Claimed::new(question.clone(), vec![page.evidence()]), "");
    // One is left out: at the end, in between, and as a member without its state.
    let members = members(&ledger, &Subject::Repositories, u64::MAX, ledger.size());
    let mut refuse = |name: &str, why: &str, word: &str, versions: &[u64], shown: &[&Subject]| {
        let states = shown.iter().map(|member| ((*member).clone(), vec![ledger.history(member).len() as u64 - 1]));
        let catalogue = (Subject::Repositories, versions.to_vec());
        let shown: Vec<_> = states.chain((!versions.is_empty()).then_some(catalogue)).collect();
        let claimed = Claimed::new(question.clone(), vec![ledger.shown(&shown)]);
        cases.refused(name, why, compact(&claimed), word);
    };
    let [app, other, elsewhere] = [&members[0], &members[1], &members[2]];
    refuse("repositories without the last", "version 2 is left out", "version 2", &[0, 1], &[app, other]);
    refuse("repositories with a gap", "version 1 is left out", "version 1", &[0, 2], &[app, elsewhere]);
    let name = "repositories with one whose tags are not shown";
    refuse(name, "those of r/other are not", "the tags of r/other", &[0, 1, 2], &[app, elsewhere]);
    refuse(
        "repositories without their catalogue",
        "it is not shown",
        "the repositories",
        &[],
        &[app, other, elsewhere],
    );
}

fn entries(cases: &mut Cases, ledger: &LittleLedger) {
    let now = ledger.size();
    let page = |index| vec![Page::new(ledger, now).entry(index).evidence()];
    cases.holds("entry", &Claimed::new(Question::Entry { index: 10 }, page(10)), "entry 10");
    cases.holds("entry that is a commitment", &Claimed::new(Question::Entry { index: 34 }, page(34)), "entry 34");
    let hash = tagledger::ledger::entry::entry_hash(&ledger.entry(7));
    cases.holds("entry by its leaf hash", &Claimed::new(Question::Leaf { hash }, page(7)), "entry 7");
    cases.holds("inclusion in the log", &inclusion(ledger, 0), "entry 10 of 35");
    cases.holds("inclusion in the log, its size named", &inclusion(ledger, 35), "entry 10 of 35");
    cases.holds("inclusion in an earlier log", &inclusion(ledger, 16), "entry 10 of 16");
    cases.holds("inclusion in a log that was no checkpoint's", &inclusion(ledger, 11), "entry 10 of 11");
    for index in [0, 10, 34] {
        let name = format!("tlog-proof of entry {index}");
        cases.text_holds(&name, single(ledger, index, now), &format!("entry {index}"));
    }
    cases.text_holds("tlog-proof in a log of one entry", single(ledger, 0, 1), "entry 0");
}

/// Of entry 10.
pub(crate) fn inclusion(ledger: &LittleLedger, tree_size: u64) -> Claimed {
    let now = ledger.size();
    let (question, size) = (Question::Inclusion { index: 10, tree_size }, if tree_size == 0 { now } else { tree_size });
    let mut claimed = Claimed::new(question, vec![Page::new(ledger, now).entry(10).evidence()]);
    claimed.path = ledger.inclusion(10, size);
    if size != now {
        claimed.growth = vec![growth(ledger, size, now)];
    }
    claimed
}

pub(crate) fn growth(ledger: &LittleLedger, older: u64, newer: u64) -> Growth {
    Growth { older, newer, hashes: ledger.consistency(older, newer) }
}

/// A tlog-proof.
pub(crate) fn single(ledger: &LittleLedger, index: u64, size: u64) -> String {
    tlog_proof::to_text(&ledger.evidence_at(&[index], size)).expect("one entry")
}

fn pages(cases: &mut Cases, ledger: &LittleLedger) {
    cases.holds("history on two pages, sealed by a third", &history_on_pages(ledger), "3a 7a 8a 10d 12d of 7");
    cases.holds("tags on pages of a growing log", &tags_on_pages(ledger), "v1=d latest=a");
    let as_saved = saved::to_text(&history_on_pages(ledger));
    cases.text_holds("history on pages in a file as --save writes it", as_saved, "3a 7a 8a 10d 12d of 7");
    // Older pages after newer ones: each is joined to the largest so far.
    let mut entries = Claimed::new(Question::Entry { index: 3 }, Vec::new());
    entries.pages = [(35, 10), (12, 7), (35, 8), (21, 3)].map(|(size, index)| page(ledger, size, index)).into();
    entries.growth = vec![growth(ledger, 12, 35), growth(ledger, 21, 35)];
    cases.holds("entries under checkpoints in any order", &entries, "entry 3");
}

fn page(ledger: &LittleLedger, size: u64, index: u64) -> proto::Evidence {
    Page::new(ledger, size).entry(index).evidence()
}

/// v1 as of the log of size 14: two pages while the log grows, and one proof of all versions.
pub(crate) fn history_on_pages(ledger: &LittleLedger) -> Claimed {
    let v1 = subject(V1);
    let mut seal = Page::new(ledger, 35).evidence();
    seal.subjects = vec![ledger.subject_proof_at(&v1, &[0, 1, 2, 3, 4, 5], 35)];
    let question = Question::TagHistory { tag: tag(V1), part: Part::default() };
    let pages =
        vec![Page::new(ledger, 14).part(&v1, 0..2).evidence(), Page::new(ledger, 29).part(&v1, 2..5).evidence(), seal];
    let mut claimed = Claimed::new(question, pages);
    claimed.growth = vec![growth(ledger, 14, 29), growth(ledger, 29, 35)];
    claimed
}

/// The tags as of the log of size 29, one page for each, and one proof of the catalogue.
pub(crate) fn tags_on_pages(ledger: &LittleLedger) -> Claimed {
    let repository = "r/app".parse().expect("a repository");
    let question = Question::TagsAt { repository, at_us: 0, include_unbound: false, limit: 0 };
    let one = |size, member| slice(Page::new(ledger, size), ledger, &catalogue(), &[t(28)], member..member + 1);
    let mut seal = Page::new(ledger, 35).evidence();
    seal.subjects = vec![ledger.subject_proof_at(&catalogue(), &[0, 1, 2], 35)];
    let pages = vec![one(29, 0).evidence(), one(33, 1).evidence(), one(35, 2).evidence(), seal];
    let mut claimed = Claimed::new(question, pages);
    claimed.growth = vec![growth(ledger, 29, 33), growth(ledger, 33, 35)];
    claimed
}

/// The file that `--save` writes, without its white space.
pub(crate) fn compact(claimed: &Claimed) -> String {
    let mut is_text = false;
    let mut is_escaped = false;
    let mut compact = saved::to_text(claimed);
    compact.retain(|c| {
        let is_kept = is_text || !c.is_whitespace();
        match c {
            '"' if !is_escaped => is_text = !is_text,
            _ => {}
        }
        is_escaped = is_text && c == '\\' && !is_escaped;
        is_kept
    });
    compact
}

// Reading it, as a stranger would.

#[test]
fn the_evidence_holds_and_what_is_refused_does_not() {
    let file = read("evidence.json");
    let vkey: Vkey = text(&file["vkey"]).parse().expect("valid");
    let (mut valid, mut refused) = (0, 0);
    for case in list(&file["cases"]) {
        let answer = check(text(&case["file"]), &vkey);
        match case["valid"].as_bool().expect("said") {
            true => {
                let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
                assert_eq!(summary(&answer), case["summary"], "{}", case["name"]);
                valid += 1;
            }
            false => {
                assert!(answer.is_err(), "{}: {}", case["name"], case["why"]);
                refused += 1;
            }
        }
    }
    assert!(valid > 70 && refused > 100, "{valid} are valid, {refused} are refused");
}
