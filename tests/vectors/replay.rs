//! `replay.json`: whole logs for auditors, honest ones and ones in which the ledger lied.
//!
//! The liar has the key: what it signs is signed right, and after the lie it goes on as if nothing was. A case names the first
//! entry at which an auditor must stop.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::{Value, json};

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry, sign_record};
use tagledger::ledger::note::{Skey, Vkey};
use tagledger::ledger::replay::Replay;
use tagledger::ledger::signature;
use tagledger::ledger::subject::Subject;
use tagledger::proto::Disposition::{self, Happened, Intended, Refused, Requested};
use tagledger::proto::Outcome::{self, Applied, Denied, Drift, Failed, Noted, Unchanged, Violation};
use tagledger::proto::deployment::Phase::{self, Observed, Started, Stopped};
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, SubjectKind};

use crate::evidence::subject;
use crate::ledger::little_ledger::{
    Draft, LittleLedger, Submission, attest, change_policy, delete, delete_manifest, deployment, digest, immutable,
    observe, push, set_policy,
};
use crate::values::{at, list, number, read, text};
use crate::{FIRST_TIME_US, LEDGER_SEED, producer, skey};

/// The file.
pub(crate) fn replay() -> Value {
    let mut cases = Cases { list: Vec::new(), wrong: Vec::new() };
    honest(&mut cases);
    lying_records(&mut cases);
    lying_subjects(&mut cases);
    lying_about_policy(&mut cases);
    lying_about_deletions(&mut cases);
    lying_about_intents(&mut cases);
    lying_maps(&mut cases);
    lying_logs(&mut cases);
    crate::authority::honest(&mut cases);
    crate::authority::lying(&mut cases);
    assert!(cases.wrong.is_empty(), "\n{}", cases.wrong.join("\n"));
    json!({ "cases": cases.list })
}

pub(crate) struct Cases {
    list: Vec<Value>,
    /// What is not as it is said to be: all of it is shown at once.
    wrong: Vec<String>,
}

impl Cases {
    pub(crate) fn holds(&mut self, name: &str, ledger: &LittleLedger) {
        let note = ledger.checkpoint_at(ledger.size()).sign(&skey());
        let entries = ledger.entries();
        if let Err((index, why)) = replayed(entries, &note, &skey().vkey()) {
            self.wrong.push(format!("{name}: is refused at {index:?}: {why}"));
        }
        let last = SignedEntry::decode(entries.last().expect("a beginning")).expect("own entry").body;
        let Body::Commitment(commitment) = last else { panic!("{name} does not end with a commitment") };
        let mut case = case(name, entries, &note);
        case["valid"] = json!(true);
        case["map_root"] = json!(hex::encode(&commitment.map_root));
        case["map_size"] = json!(commitment.map_size);
        self.list.push(case);
    }

    /// A log that the ledger went on with after a lie, closed and signed. `index`: where an auditor must stop. `word`: one of
    /// our own refusal.
    fn lie(&mut self, name: &str, why: &str, index: u64, word: &str, lie: impl FnOnce(&mut LittleLedger)) {
        let mut ledger = beginning();
        lie(&mut ledger);
        let is_closed = ledger.entries().last().and_then(|entry| SignedEntry::decode(entry).ok());
        if !is_closed.is_some_and(|entry| matches!(entry.body, Body::Commitment(_))) {
            ledger.commit();
        }
        let note = ledger.checkpoint_at(ledger.size()).sign(&skey());
        self.refused(name, why, (Some(index), word), ledger.entries(), &note);
    }

    /// A whole log of a liar. `index` and `word` as above.
    pub(crate) fn lies(&mut self, name: &str, why: &str, index: u64, word: &str, ledger: &LittleLedger) {
        let note = ledger.checkpoint_at(ledger.size()).sign(&skey());
        self.refused(name, why, (Some(index), word), ledger.entries(), &note);
    }

    fn refused(&mut self, name: &str, why: &str, (index, word): (Option<u64>, &str), entries: &[Vec<u8>], note: &str) {
        match replayed(entries, note, &skey().vkey()) {
            Err((found, said)) if found == index && said.contains(word) => {}
            Err(other) => self.wrong.push(format!("{name}: is refused for {other:?}, not for {word:?} at {index:?}")),
            Ok(_) => self.wrong.push(format!("{name}: holds")),
        }
        let mut case = case(name, entries, note);
        case["valid"] = json!(false);
        case["index"] = json!(index);
        case["why"] = json!(why);
        self.list.push(case);
    }
}

fn case(name: &str, entries: &[Vec<u8>], note: &str) -> Value {
    json!({
        "name": name,
        "vkey": skey().vkey().to_string(),
        "checkpoint": note,
        "entries": entries.iter().map(|entry| BASE64.encode(entry)).collect::<Vec<_>>(),
    })
}

/// What an audit does with a log: nothing, or the entry at which it stops, `None` at the end, and why.
fn replayed(entries: &[Vec<u8>], note: &str, vkey: &Vkey) -> Result<Replay, (Option<u64>, String)> {
    let checkpoint = Checkpoint::open(note, vkey).map_err(|error| (None, error.to_string()))?;
    let mut replay = Replay::new(vkey.clone());
    for entry in entries {
        replay.push(entry).map_err(|error| (Some(error.index), error.lie.to_string()))?;
    }
    replay.check(&checkpoint).map_err(|error| (None, error.to_string()))?;
    Ok(replay)
}

// What is sent.

fn operator(kind: Kind) -> Submission {
    Submission { principal: "operator".into(), ..kind.into() }
}

fn policy(text: &str) -> Submission {
    operator(Kind::PolicyChange(proto::PolicyChange { policy: text.into(), replaces: String::new() }))
}

fn with_event(kind: Kind, event_id: &str) -> Submission {
    proto::Statement { kind: Some(kind), event_id: event_id.into(), ..Default::default() }.into()
}

fn signed(kind: Kind) -> Submission {
    let statement = proto::Statement { kind: Some(kind), ..Default::default() };
    let signature = signature::sign(&producer(), &signature::statement_message(&statement.encode_to_vec())).to_vec();
    let key_id = signature::key_id(&producer().verifying_key());
    let producer = Some(proto::Producer { key_id, signature });
    Submission { assurance: proto::Assurance::Signed, producer, ..statement.into() }
}

fn deleted(tag: &str, disposition: Disposition) -> Kind {
    let Kind::TagDelete(mut deleted) = delete(tag) else { panic!("a deletion") };
    deleted.disposition = disposition.into();
    Kind::TagDelete(deleted)
}

fn pushed(place: &str, tag: &str, digest: String, disposition: Disposition) -> Kind {
    let (registry, repository) = place.split_once('/').expect("a place");
    let Kind::TagPush(pushed) = push(tag, 'a', disposition) else { panic!("a push") };
    Kind::TagPush(proto::TagPush { registry: registry.into(), repository: repository.into(), digest, ..pushed })
}

fn deploys(environment: &str, workload: &str, tag: &str, digit: char, phase: Phase) -> Kind {
    Kind::Deployment(deployment(environment, workload, tag, digit, phase))
}

// Honest logs.

pub(crate) fn empty() -> LittleLedger {
    LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000)
}

fn written(batches: Vec<Vec<(Submission, Outcome)>>) -> LittleLedger {
    let mut ledger = empty();
    ledger.commit();
    for batch in batches {
        for (sent, outcome) in batch {
            let index = ledger.size();
            let drafts = ledger.draft(&sent);
            assert_eq!(drafts[0].record.outcome(), outcome, "entry {index}: {:?}", sent.statement);
            ledger.add(&sent);
        }
        ledger.commit();
    }
    ledger
}

fn honest(cases: &mut Cases) {
    let mut beginning = empty();
    beginning.commit();
    cases.holds("a ledger that has just begun", &beginning);
    beginning.commit();
    beginning.commit();
    cases.holds("an idle ledger, which commits to the same again", &beginning);
    cases.holds("every kind of statement, and every outcome", &everything());
    cases.holds("policies in every spelling", &policies());
    cases.holds("every sign of a pattern", &patterns());
    cases.holds("intents, and what becomes of them", &intents());
    let mut many = many_tags();
    let intent = many.add(&delete_manifest('a', Intended).into());
    many.commit();
    many.add(&naming(delete_manifest('a', Happened), intent));
    many.add(&push("t0", 'b', Intended).into());
    many.commit();
    cases.holds("an intent that became two entries", &many);
    let mut many = many_tags();
    // One event, although it takes two entries.
    many.add(&with_event(delete_manifest('a', Happened), "gone"));
    many.commit();
    many.record(push("t0", 'a', Happened));
    cases.holds("a manifest deleted with 257 tags", &many);
}

fn everything() -> LittleLedger {
    let rule = &*immutable(&["r/app:v*"]);
    let full = proto::Statement {
        kind: Some(push("v1", 'a', Happened)),
        event_id: "build-1".into(),
        occurred_at_us: 1_767_225_599_000_000,
        actor: "Zoë".into(),
        source: "ci.example".into(),
        ci_run: "https://ci.example/runs/1".into(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        attributes: vec![proto::Attribute { key: "commit".into(), value: "9f86d08".into() }],
    };
    let somebody = Submission { principal: "somebody else".into(), ..with_event(push("x0", '1', Happened), "build-1") };
    let webhook = Submission { assurance: proto::Assurance::Claimed, ..push("x0", '2', Happened).into() };
    let seen = Submission { assurance: proto::Assurance::Confirmed, ..observe("latest", Some('a')).into() };
    let sha512 = format!("sha512:{}", "5".repeat(128));
    let attested = proto::Attestation {
        digest: sha512.clone(),
        predicate_type: "https://spdx.dev/Document".into(),
        envelope_digest: digest('0'),
        signer: "somebody@example.com".into(),
        result: proto::attestation::Result::Invalid.into(),
    };
    let mut placed = deployment("prod", "web", "v1", 'e', Started);
    (placed.cluster, placed.namespace, placed.container) = ("eu-1".into(), "shop".into(), "nginx".into());
    written(vec![
        vec![(policy(rule), Applied), (policy(rule), Unchanged)],
        vec![
            (full.into(), Applied),
            (signed(push("v1", 'a', Happened)), Unchanged),
            (push("v1", 'b', Requested).into(), Denied),
            (push("v1", 'b', Happened).into(), Violation),
            (push("v1", 'c', Refused).into(), Failed),
        ],
        vec![
            (deleted("v1", Requested).into(), Denied),
            (deleted("v1", Happened).into(), Violation),
            (deleted("v1", Happened).into(), Unchanged),
            (deleted("nothing", Requested).into(), Unchanged),
            (deleted("nothing", Refused).into(), Failed),
            (push("v1", 'c', Requested).into(), Denied),
            (push("v1", 'b', Requested).into(), Applied),
        ],
        vec![
            (push("latest", 'a', Happened).into(), Applied),
            (push("latest", 'b', Happened).into(), Applied),
            (deleted("latest", Requested).into(), Applied),
            (deleted("latest", Happened).into(), Unchanged),
            (push("latest", 'a', Requested).into(), Applied),
        ],
        vec![
            (seen, Unchanged),
            (observe("latest", Some('b')).into(), Drift),
            (observe("latest", None).into(), Drift),
            (observe("latest", None).into(), Unchanged),
            (observe("latest", Some('a')).into(), Drift),
            (observe("new", Some('c')).into(), Applied),
            (observe("nowhere", None).into(), Unchanged),
            (observe("v1", Some('c')).into(), Violation),
            (observe("v1", None).into(), Violation),
            (observe("v1", Some('b')).into(), Violation),
            (observe("v1", None).into(), Violation),
            (observe("v1", Some('b')).into(), Drift),
            (observe("v2", Some('b')).into(), Applied),
        ],
        vec![
            (deploys("prod", "web", "v1", 'b', Started).into(), Applied),
            (deploys("prod", "web", "v1", 'b', Started).into(), Unchanged),
            (deploys("prod", "web", "v1", 'b', Observed).into(), Unchanged),
            (deploys("prod", "web", "v1", 'd', Started).into(), Drift),
            (deploys("prod", "web", "v1", 'b', Stopped).into(), Unchanged),
            (deploys("prod", "web", "v1", 'd', Stopped).into(), Applied),
            (deploys("prod", "web", "v1", 'd', Stopped).into(), Unchanged),
            (deploys("prod", "web", "", 'e', Observed).into(), Applied),
            (deploys("staging", "job", "v9", 'a', Started).into(), Applied),
            (deploys("staging", "idle", "latest", 'a', Stopped).into(), Unchanged),
            (Kind::Deployment(placed).into(), Drift),
        ],
        vec![
            (deploys("prod", "worker", "latest", 'a', Started).into(), Applied),
            (delete("latest").into(), Applied),
            (deploys("prod", "worker", "latest", 'a', Started).into(), Drift),
        ],
        vec![(attest('a').into(), Noted), (Kind::Attestation(attested).into(), Noted)],
        vec![
            (delete_manifest('f', Happened).into(), Unchanged),
            (push("x2", 'f', Happened).into(), Applied),
            (push("x1", 'f', Happened).into(), Applied),
            (push("X3", 'f', Happened).into(), Applied),
            (pushed("r/app2", "x1", digest('f'), Happened).into(), Applied),
            (delete_manifest('f', Refused).into(), Failed),
            (delete_manifest('f', Requested).into(), Applied),
            (delete_manifest('f', Happened).into(), Unchanged),
            (push("a1", 'b', Happened).into(), Applied),
            (delete_manifest('b', Requested).into(), Denied),
            (delete_manifest('b', Happened).into(), Violation),
        ],
        vec![
            (policy(""), Applied),
            (push("v1", 'e', Requested).into(), Applied),
            (push("v1", 'd', Requested).into(), Applied),
            (policy(rule), Applied),
            (push("v1", 'e', Requested).into(), Denied),
        ],
        vec![
            (somebody, Applied),
            (webhook, Applied),
            (pushed("docker.io/library/nginx", "1.27", sha512.clone(), Happened).into(), Applied),
            (pushed("registry.example:5000/team/app", "v1", sha512, Happened).into(), Applied),
            (pushed("[2001:db8::1]/team/app", "_-.", digest('7'), Happened).into(), Applied),
        ],
    ])
}

/// Each line is a policy; the tag is v1, and moves unless it is immutable.
fn policies() -> LittleLedger {
    let texts = [
        ("", Applied),
        ("# nothing\n", Applied),
        ("rule = []", Applied),
        ("exempt_referrers = false", Applied),
        ("[[rule]]\nid = 'v'\nrepositories = ['app']\ntags = ['v*']\n", Denied),
        ("[[ \"rule\" ]] # all of them\n  \"id\"\t='v'\ntags=[ \"\\u0076?\" , ]", Denied),
        ("[['rule']]\nid = '''\nv'''\ntags = [\n\t# none yet\n\t'w*', # one\n\n\t\"v{1,2}\"\n]\n", Denied),
        ("[[rule]]\nid = \"\"\"\\\n  v\"\"\"\nforbid = ['delete', 'overwrite']", Denied),
        ("[[rule]]\nid = \"v\"\ntags = [\"v\\\\*\"]\n", Applied),
        ("[[rule]]\nid = 'v'\ntags = ['v\\*']\n", Applied),
    ];
    let batch = |((text, outcome), digit): (&(&str, Outcome), char)| {
        vec![(policy(text), Applied), (push("v1", digit, Requested).into(), *outcome)]
    };
    let mut batches = vec![vec![(push("v1", '0', Happened).into(), Applied)]];
    batches.extend(texts.iter().zip("123456789abcdef".chars()).map(batch));
    // The first text again is another than the last.
    batches.push(vec![(policy(""), Applied), (policy(""), Unchanged)]);
    written(batches)
}

/// Tags that are pushed, and may move or not; the pattern that decides is the rule of the entry.
fn patterns() -> LittleLedger {
    let rules = [
        "r/one/*:v*",
        "r/two/**:v?",
        "**/three:[a-c]*",
        "r/**/four:{x,y{1,2}}",
        "r/five/[!x]*:[^0-9]*",
        "r/six/a**b:**",
        "r/seven[./]a:[]_-]*",
        "**/eight:[-_]",
        "r/el[!x]even:*",
        "r/nine{,/a}:{,v}1",
        "r/t\\.en:v\\-1",
        "**:immutable",
        "**:imm*",
    ];
    let moves = [
        ("r/one/a", "v1", Denied),
        ("r/one/a/b", "v1", Applied),
        ("r/one", "v1", Applied),
        ("r/one/a", "w1", Applied),
        ("r/two/a/b", "v1", Denied),
        ("r/two", "v1", Applied),
        ("r/two/a", "v12", Applied),
        ("r/two/a", "v", Applied),
        ("x/y/three", "b2", Denied),
        ("x/three", "d", Applied),
        ("r/four", "x", Denied),
        ("r/a/b/four", "y2", Denied),
        ("r/a/four", "y3", Applied),
        ("r/five/a", "v1", Denied),
        ("r/five/xa", "v1", Applied),
        ("r/five/a", "1", Applied),
        ("r/six/a-b", "v1", Denied),
        ("r/six/ab", "v1", Denied),
        ("r/six/a/b", "v1", Applied),
        ("r/seven.a", "_", Denied),
        ("r/seven/a", "_", Denied),
        ("r/seven-a", "_", Applied),
        ("r/seven/a", "a-", Applied),
        ("r/el/even", "v1", Denied),
        ("r/elxeven", "v1", Applied),
        ("r/x/eight", "_", Denied),
        ("r/nine/a", "v1", Denied),
        ("r/nine", "1", Applied),
        ("r/nine", "v1", Applied),
        ("r/t.en", "v-1", Denied),
        ("x/y/z", "immutable", Denied),
        ("x/y/z", "immoveable", Denied),
        ("x/y/z", "v1", Applied),
    ];
    let pushes = moves.iter().map(|(place, tag, _)| (pushed(place, tag, digest('a'), Happened).into(), Applied));
    let changes =
        moves.iter().map(|(place, tag, outcome)| (pushed(place, tag, digest('b'), Requested).into(), *outcome));
    let change = (operator(change_policy(&rules)), Applied);
    written(vec![pushes.collect(), vec![change], changes.collect()])
}

/// The same, as what became of an intent.
fn naming(mut kind: Kind, intent: u64) -> Submission {
    match &mut kind {
        Kind::TagPush(push) => push.settles = intent + 1,
        Kind::TagDelete(delete) => delete.settles = intent + 1,
        Kind::ManifestDelete(delete) => delete.settles = intent + 1,
        Kind::TagObserved(seen) => seen.checks_entry = intent + 1,
        other => panic!("{other:?} settles nothing"),
    }
    kind.into()
}

/// The same, by somebody whose intent it is not.
fn operator_settles(kind: Kind, intent: u64) -> Submission {
    Submission { principal: "operator".into(), ..naming(kind, intent) }
}

/// Each way an intent is settled, or is not. Entries 1 and 2 bind v1 to a and latest to a; from 4 on, each batch begins with an
/// intent, at the index that the others name.
fn intents() -> LittleLedger {
    let mut ledger = written(vec![vec![
        (push("v1", 'a', Happened).into(), Applied),
        (push("latest", 'a', Happened).into(), Applied),
    ]]);
    let mut batch = |intent: Submission, becomes: Outcome, then: &[(&dyn Fn(u64) -> Submission, Outcome)]| {
        let index = ledger.size();
        assert_eq!(ledger.draft(&intent)[0].record.outcome(), becomes, "{:?}", intent.statement);
        ledger.add(&intent);
        for (sent, outcome) in then {
            let sent = sent(index);
            assert_eq!(ledger.draft(&sent)[0].record.outcome(), *outcome, "{:?}", sent.statement);
            ledger.add(&sent);
        }
        ledger.commit();
    };
    let rule = immutable(&["r/app:v*"]);
    batch(push("v1", 'a', Intended).into(), Unchanged, &[(&|_| push("v1", 'a', Requested).into(), Unchanged)]);
    // Allowed, then forbidden, then done all the same: it was allowed.
    batch(
        push("v1", 'b', Intended).into(),
        Noted,
        &[
            (&|_| policy(&rule), Applied),
            (&|intent| naming(push("v1", 'b', Happened), intent), Applied),
            (&|intent| naming(push("v1", 'a', Happened), intent), Violation),
        ],
    );
    batch(push("v1", 'b', Intended).into(), Denied, &[(&|_| push("v1", 'b', Happened).into(), Violation)]);
    batch(deleted("v1", Intended).into(), Denied, &[]);
    batch(delete_manifest('b', Intended).into(), Denied, &[]);
    batch(policy(""), Applied, &[]);
    batch(push("v1", 'c', Intended).into(), Noted, &[(&|intent| naming(push("v1", 'c', Refused), intent), Failed)]);
    // Another digest, another intent, another kind of statement, or somebody else does not settle it.
    batch(
        push("v1", 'c', Intended).into(),
        Noted,
        &[
            (&|_| policy(&rule), Applied),
            (&|intent| naming(push("v1", 'd', Refused), intent), Failed),
            (&|intent| naming(push("v1", 'c', Refused), intent + 1), Failed),
            (&|intent| operator_settles(push("v1", 'c', Refused), intent), Failed),
            (&|intent| naming(push("v1", 'd', Happened), intent), Violation),
            (&|intent| naming(push("v1", 'c', Happened), intent), Applied),
        ],
    );
    batch(policy(""), Applied, &[]);
    // Looks: one that does not settle, and sees what is intended; then one that does.
    batch(
        push("v1", 'd', Intended).into(),
        Noted,
        &[
            (&|_| observe("v1", Some('d')).into(), Applied),
            (&|intent| naming(observe("v1", Some('d')), intent), Unchanged),
            (&|_| push("v1", 'e', Requested).into(), Applied),
        ],
    );
    batch(push("v1", 'f', Intended).into(), Noted, &[(&|intent| naming(observe("v1", Some('f')), intent), Applied)]);
    batch(push("v1", '0', Intended).into(), Noted, &[(&|intent| naming(observe("v1", Some('f')), intent), Unchanged)]);
    batch(push("v1", '0', Intended).into(), Noted, &[(&|intent| naming(observe("v1", Some('1')), intent), Drift)]);
    batch(deleted("v1", Intended).into(), Noted, &[(&|intent| naming(observe("v1", None), intent), Applied)]);
    batch(deleted("v1", Intended).into(), Unchanged, &[]);
    batch(push("new", '2', Intended).into(), Noted, &[(&|intent| naming(observe("new", Some('3')), intent), Applied)]);
    batch(deleted("new", Intended).into(), Noted, &[(&|intent| naming(deleted("new", Happened), intent), Applied)]);
    // The manifest of latest: once settled, and once the digest goes from under the tag.
    batch(
        delete_manifest('a', Intended).into(),
        Noted,
        &[
            (&|_| policy(&immutable(&["r/app:*"])), Applied),
            (&|intent| naming(delete_manifest('a', Happened), intent), Applied),
            (&|_| policy(""), Applied),
            (&|_| push("latest", 'a', Requested).into(), Applied),
        ],
    );
    batch(
        delete_manifest('a', Intended).into(),
        Noted,
        &[
            (&|_| push("latest", 'b', Happened).into(), Applied),
            (&|_| push("latest", 'a', Requested).into(), Applied),
            (&|intent| naming(delete_manifest('a', Refused), intent), Failed),
            (&|_| delete_manifest('4', Intended).into(), Unchanged),
        ],
    );
    // The log ends while a tag is held.
    batch(push("latest", '5', Intended).into(), Noted, &[]);
    ledger
}

/// More tags of one digest than one entry unbinds.
fn many_tags() -> LittleLedger {
    let mut ledger = empty();
    ledger.commit();
    for number in 0..257 {
        ledger.add(&push(&format!("t{number}"), 'a', Happened).into());
    }
    ledger.commit();
    ledger
}

// Lies.

/// 1 policy, 2 push v1 a; 4 push latest b, 5 push v1 b: DENIED; 7 start prod/web v1 a. Entry 9 is next.
fn beginning() -> LittleLedger {
    let ledger = written(vec![
        vec![(policy(&immutable(&["r/app:v*"])), Applied), (with_event(push("v1", 'a', Happened), "build-1"), Applied)],
        vec![(push("latest", 'b', Happened).into(), Applied), (push("v1", 'b', Requested).into(), Denied)],
        vec![(deploys("prod", "web", "v1", 'a', Started).into(), Applied)],
    ]);
    assert_eq!(ledger.size(), 9, "as it is said above");
    ledger
}

impl Cases {
    /// A lie in entry 9, about what was sent.
    fn lie_about(&mut self, name: &str, why: &str, word: &str, kind: Kind, change: impl Fn(&mut Draft)) {
        self.lie(name, why, 9, word, |ledger| {
            ledger.add_but(&kind.into(), |_, draft| change(draft));
        });
    }

    /// A lie in an entry 9 that moves latest to c.
    fn lie_about_move(&mut self, name: &str, why: &str, word: &str, change: impl Fn(&mut proto::Record)) {
        self.lie_about(name, why, word, push("latest", 'c', Happened), |draft| change(&mut draft.record));
    }
}

fn judged(outcome: Outcome) -> impl Fn(&mut Draft) {
    move |draft| {
        draft.record.outcome = outcome.into();
        (draft.record.rule, draft.record.detail) = (String::new(), String::new());
    }
}

fn lying_records(cases: &mut Cases) {
    let (moved, outcome) = (push("v1", 'c', Requested), "outcome");
    cases.lie_about("outcome: applied, though policy forbids it", "DENIED is right", outcome, moved, judged(Applied));
    let happened = push("v1", 'c', Happened);
    cases.lie_about(
        "outcome: a violation kept quiet",
        "VIOLATION is right",
        outcome,
        happened.clone(),
        judged(Applied),
    );
    cases.lie_about("outcome: a violation called a refusal", "VIOLATION is right", outcome, happened, |draft| {
        draft.record.outcome = Denied.into();
    });
    let free = push("latest", 'c', Requested);
    cases.lie_about("outcome: denied, though no rule forbids it", "APPLIED is right", outcome, free, judged(Denied));
    let again = push("latest", 'b', Happened);
    cases.lie_about(
        "outcome: applied, though it was so already",
        "UNCHANGED is right",
        outcome,
        again,
        judged(Applied),
    );
    let failed = push("latest", 'c', Refused);
    cases.lie_about(
        "outcome: applied, though the registry refused",
        "FAILED is right",
        outcome,
        failed,
        judged(Applied),
    );
    let drifted = observe("latest", Some('c'));
    cases.lie_about("outcome: drift kept quiet", "DRIFT is right", outcome, drifted, judged(Applied));
    let drifted = deploys("prod", "worker", "latest", 'c', Started);
    cases.lie_about("outcome: drift of a deployment kept quiet", "DRIFT is right", outcome, drifted, judged(Applied));
    let stopped = deploys("prod", "web", "v1", 'b', Stopped);
    let name = "outcome: a workload stopped that runs something else";
    cases.lie_about(name, "UNCHANGED is right", outcome, stopped, judged(Applied));
    cases.lie_about(
        "outcome: an attestation that did something",
        "NOTED is right",
        outcome,
        attest('a'),
        judged(Applied),
    );
    cases.lie_about_move("outcome: none that there is", "8 is no outcome", "outcome", |record| record.outcome = 8);

    let denied = || push("v1", 'c', Requested);
    cases.lie_about("rule: another", "r/app:v* decides", "rule", denied(), |draft| draft.record.rule = "**".into());
    cases.lie_about("rule: none", "r/app:v* decides", "rule", denied(), |draft| draft.record.rule.clear());
    cases.lie_about_move("rule: one where none decides", "nothing forbids it", "rule", |record| {
        record.rule = "r/app:v*".into();
    });
    cases.lie_about("detail: another entry", "entry 2 bound v1", "detail", denied(), |draft| {
        draft.record.detail = draft.record.detail.replace("entry 2", "entry 4");
    });
    cases.lie_about("detail: none", "it says since when", "detail", denied(), |draft| draft.record.detail.clear());
    cases.lie_about_move("detail: one where nothing is to say", "it is empty", "detail", |record| {
        record.detail = "x".into()
    });

    cases.lie_about_move("principal: none", "it is empty", "principal", |record| record.principal.clear());
    let long = "it has 129 bytes";
    cases.lie_about_move("principal: too long", long, "principal", |record| record.principal = "p".repeat(129));
    let name = "producer: missing where the assurance is SIGNED";
    cases.lie_about_move(name, "nobody can check it", "producer", |record| {
        record.assurance = proto::Assurance::Signed.into();
    });
    let name = "producer: there where the assurance is not SIGNED";
    let Submission { producer, .. } = signed(push("latest", 'c', Happened));
    cases.lie_about_move(name, "the assurance is AUTHENTICATED", "producer", |record| {
        record.producer.clone_from(&producer);
    });
    cases.lie_about_move("producer: a key id in upper case", "a key id is in lower case", "key_id", |record| {
        let mut producer = producer.clone().expect("signed");
        producer.key_id = producer.key_id.to_uppercase();
        record.producer = Some(producer);
        record.assurance = proto::Assurance::Signed.into();
    });
    for (name, bytes) in [("the same bytes", 'a'), ("other bytes", 'c')] {
        let name = format!("event id twice, with {name}");
        cases.lie(&name, "build-1 was recorded as entry 2", 9, "build-1", |ledger| {
            ledger.add(&with_event(push("v1", bytes, Happened), "build-1"));
        });
    }

    cases.lie_about_move("time that stands still", "it is that of entry 8", "recorded at", |record| {
        record.recorded_at_us -= 1_000_000;
    });
    cases.lie_about_move("time that goes back", "it is that of entry 2", "recorded at", |record| {
        record.recorded_at_us = FIRST_TIME_US + 2_000_000;
    });
    cases.lie("time that stands still in a commitment", "it is that of entry 9", 10, "recorded at", |ledger| {
        ledger.add(&push("latest", 'c', Happened).into());
        ledger.commit_but(|commitment| commitment.recorded_at_us -= 1_000_000);
    });
    cases.lie_about_move("index of the next entry", "it is 10", "signed as entry 10", |record| record.index = 10);
    cases.lie_about_move("index of an entry before", "it is 4", "signed as entry 4", |record| record.index = 4);
    cases.lie("index of a commitment", "it is 10", 9, "signed as entry 10", |ledger| {
        ledger.commit_but(|commitment| commitment.index = 10);
    });
}

fn lying_subjects(cases: &mut Cases) {
    let word = "by the rules";
    cases.lie_about_move("version skipped", "latest has one version, and this is said to be 2", word, |record| {
        record.subjects[0].version = 2;
    });
    cases.lie_about_move("version again", "this is said to be version 0 of latest again", word, |record| {
        record.subjects[0].version = 0;
    });
    cases.lie_about_move("version of a digest skipped", "c is seen for the first time", word, |record| {
        record.subjects[1].version = 1;
    });
    cases.lie_about_move("subject missing", "the digest is left out", word, |record| drop(record.subjects.pop()));
    cases.lie_about_move("subject missing, the first", "the tag is left out", word, |record| {
        record.subjects.remove(0);
    });
    cases.lie_about_move("subject too many", "the repository was known", word, |record| {
        let kind = SubjectKind::Repositories.into();
        record.subjects.push(proto::Subject { kind, version: 1, name: String::new() });
    });
    cases.lie_about_move("subject twice", "the tag is there twice", word, |record| {
        record.subjects.push(record.subjects[0].clone());
    });
    cases.lie_about_move("subjects in another order", "the digest comes before the tag", word, |record| {
        record.subjects.swap(0, 1);
    });
    cases.lie_about_move("subject of another kind", "the digest is said to be the policy", word, |record| {
        record.subjects[1].kind = SubjectKind::Policy.into();
    });
    cases.lie_about_move("subject with a name", "the statement says the name", word, |record| {
        record.subjects[0].name = "latest".into();
    });
    cases.lie_about("catalogue without its new member", "v2 is new", word, push("v2", 'a', Happened), |draft| {
        draft.record.subjects.pop();
    });
    let new = deploys("test", "web", "", 'a', Started);
    cases.lie_about("environment that is not listed", "test is new", word, new, |draft| {
        drop(draft.record.subjects.pop())
    });
    let workload = deploys("prod", "web", "latest", 'b', Started);
    cases.lie_about("tag of a deployment left out", "the deployment names latest", word, workload, |draft| {
        draft.record.subjects.truncate(2);
    });
    let workload = deploys("prod", "worker", "", 'b', Started);
    cases.lie_about("tag of a deployment that names none", "the deployment names no tag", word, workload, |draft| {
        let kind = SubjectKind::Tag.into();
        draft.record.subjects.insert(2, proto::Subject { kind, version: 2, name: String::new() });
    });
    cases.lie_about_move("record without subjects", "there is at least one", "subjects", |record| {
        record.subjects.clear()
    });
}

fn lying_about_policy(cases: &mut Cases) {
    let outcome = "outcome";
    cases.lie("policy ignored", "latest may not move since entry 9", 10, outcome, |ledger| {
        ledger.add(&operator(change_policy(&["**:latest"])));
        ledger.add_but(&push("latest", 'c', Happened).into(), |_, draft| judged(Applied)(draft));
    });
    cases.lie("policy that rules on", "since entry 9 there are no rules", 10, outcome, |ledger| {
        let denied = ledger.draft(&push("v1", 'c', Requested).into()).remove(0).record;
        ledger.add(&policy(""));
        ledger.add_but(&push("v1", 'c', Requested).into(), |_, draft| {
            draft.record.outcome = denied.outcome;
            (draft.record.rule, draft.record.detail) = (denied.rule.clone(), denied.detail.clone());
        });
    });
    cases.lie(
        "policy that rules too early",
        "entry 10 is the policy's, and entry 9 is before it",
        9,
        outcome,
        |ledger| {
            ledger.add_but(&push("latest", 'c', Requested).into(), |_, draft| {
                draft.record.outcome = Denied.into();
                draft.record.rule = "**:latest".into();
                draft.record.detail = format!("tag \"latest\" is immutable since entry 4 bound it to {}", digest('b'));
            });
            ledger.add(&operator(change_policy(&["**:latest"])));
        },
    );
    let name = "policy that is said to be the same";
    let other = change_policy(&["r/app:w*"]);
    cases.lie_about(name, "the text is another", outcome, other, judged(Unchanged));
    let name = "policy with the same rules that is said to be the same";
    let spelt = set_policy(&format!("{} # the same\n", immutable(&["r/app:v*"])));
    cases.lie_about(name, "the text is another", outcome, spelt, judged(Unchanged));
    let same = set_policy(&immutable(&["r/app:v*"]));
    cases.lie_about("policy that is said to be another", "the text is the same", outcome, same, judged(Applied));
    let mut first = empty();
    first.commit();
    first.add_but(&policy(""), |_, draft| judged(Unchanged)(draft));
    first.commit();
    let note = first.checkpoint_at(first.size()).sign(&skey());
    let (name, why) = ("first policy that is said to be the same", "before it there was none, not even an empty one");
    cases.refused(name, why, (Some(1), outcome), first.entries(), &note);
}

fn lying_about_deletions(cases: &mut Cases) {
    let word = "by the rules";
    let three = |ledger: &mut LittleLedger| {
        for tag in ["b", "a", "c"] {
            ledger.add(&push(tag, 'f', Happened).into());
        }
    };
    // Entry 12 deletes the manifest of all three; its subjects are the digest and the tags.
    let mut lie = |name: &str, why: &str, change: &dyn Fn(&mut proto::Record)| {
        cases.lie(name, why, 12, word, |ledger| {
            three(ledger);
            ledger.add_but(&delete_manifest('f', Happened).into(), |_, draft| change(&mut draft.record));
        });
    };
    lie("deletion that spares a tag", "b is left out", &|record| drop(record.subjects.remove(2)));
    lie("deletion in another order", "b comes before a", &|record| record.subjects.swap(1, 2));
    lie("deletion of a tag that is bound to something else", "latest is bound to b", &|record| {
        let kind = SubjectKind::Tag.into();
        record.subjects.push(proto::Subject { kind, version: 1, name: "latest".into() });
    });
    lie("deletion of a tag under another name", "c is called d", &|record| record.subjects[3].name = "d".into());
    lie("deletion of a tag without its name", "the name of c is left out", &|record| record.subjects[3].name.clear());
    cases.lie("deletion although a tag is immutable", "v1 is bound to a", 9, "outcome", |ledger| {
        ledger.add_but(&delete_manifest('a', Requested).into(), |_, draft| judged(Applied)(draft));
    });
    let mut half = many_tags();
    let first = half.draft(&delete_manifest('a', Happened).into()).remove(0);
    half.write(first);
    half.commit();
    let note = half.checkpoint_at(half.size()).sign(&skey());
    let (name, why) =
        ("deletion of 257 tags that stops after 256", "entry 259 is the first half, and a commitment follows");
    cases.refused(name, why, (Some(260), "entries"), half.entries(), &note);
    let mut halves = many_tags();
    halves.add_but(&delete_manifest('a', Happened).into(), |part, draft| {
        if part == 1 {
            draft.record.principal = "somebody else".into();
        }
    });
    halves.commit();
    let note = halves.checkpoint_at(halves.size()).sign(&skey());
    let (name, why) = ("deletion of 257 tags by two principals", "entry 260 is the second half, by somebody else");
    cases.refused(name, why, (Some(260), "entries"), halves.entries(), &note);
}

fn lying_about_intents(cases: &mut Cases) {
    let intend = |ledger: &mut LittleLedger| ledger.add(&push("latest", 'c', Intended).into());
    cases.lie("an intent that is applied at once", "an intent binds nothing", 9, "outcome", |ledger| {
        ledger.add_but(&push("latest", 'c', Intended).into(), |_, draft| judged(Applied)(draft));
    });
    cases.lie("an intent that policy forbids is let through", "v1 is immutable", 9, "outcome", |ledger| {
        ledger.add_but(&push("v1", 'c', Intended).into(), |_, draft| judged(Noted)(draft));
    });
    for (what, kind) in [
        ("a push that asks", push("latest", 'd', Requested)),
        ("a second intent", push("latest", 'c', Intended)),
        ("the intent to delete", deleted("latest", Intended)),
        ("the intent to delete the manifest", delete_manifest('b', Intended)),
    ] {
        cases.lie(&format!("{what} about a tag that is held"), "it has to wait", 10, "held", |ledger| {
            intend(ledger);
            ledger.add(&kind.clone().into());
        });
    }
    cases.lie("the outcome of an intent is judged anew", "what was allowed is no violation", 11, "outcome", |ledger| {
        let intent = intend(ledger);
        ledger.add(&policy(&immutable(&["r/app:*"])));
        ledger.add_but(&naming(push("latest", 'c', Happened), intent), |_, draft| judged(Violation)(draft));
    });
    cases.lie("what settles another intent passes for allowed", "it names none of the tag", 11, "outcome", |ledger| {
        let intent = intend(ledger);
        ledger.add(&policy(&immutable(&["r/app:*"])));
        ledger.add_but(&naming(push("latest", 'c', Happened), intent - 1), |_, draft| judged(Applied)(draft));
    });
    cases.lie("what settles somebody else's intent passes for allowed", "ci intended it", 11, "outcome", |ledger| {
        let intent = intend(ledger);
        ledger.add(&policy(&immutable(&["r/app:*"])));
        let sent = operator_settles(push("latest", 'c', Happened), intent);
        ledger.add_but(&sent, |_, draft| judged(Applied)(draft));
    });
    cases.lie("a tag is let go by somebody whose intent did not hold it", "it is held still", 11, "held", |ledger| {
        let intent = intend(ledger);
        ledger.add(&operator_settles(push("latest", 'c', Refused), intent));
        ledger.add(&push("latest", 'd', Requested).into());
    });
    cases.lie("a look that sees what is intended is called drift", "somebody was about to", 10, "outcome", |ledger| {
        intend(ledger);
        ledger.add_but(&observe("latest", Some('c')).into(), |_, draft| judged(Drift)(draft));
    });
}

fn lying_maps(cases: &mut Cases) {
    let (root, latest) = ("map root", subject("r/app:latest"));
    cases.lie("map root of nothing", "it is 32 zero bytes", 10, root, |ledger| {
        ledger.add(&push("latest", 'c', Happened).into());
        ledger.commit_but(|commitment| commitment.map_root = vec![0; 32]);
    });
    cases.lie("map root of the commitment before", "entry 9 is not in it", 10, root, |ledger| {
        let stale = {
            let mut before = beginning();
            before.commit();
            SignedEntry::decode(&before.entry(9)).expect("own entry").body
        };
        let Body::Commitment(stale) = stale else { panic!("a commitment") };
        ledger.add(&push("latest", 'c', Happened).into());
        ledger.commit_but(|commitment| commitment.map_root = stale.map_root);
    });
    for (name, size) in [("one more", 1), ("one less", -1)] {
        let name = format!("map size of {name}");
        cases.lie(&name, "the number of subjects is another", 10, "subjects", |ledger| {
            ledger.add(&push("latest", 'c', Happened).into());
            ledger.commit_but(|commitment| {
                commitment.map_size = commitment.map_size.checked_add_signed(size).expect("there are some");
            });
        });
    }
    let mut lie = |name: &str, why: &str, lie: &dyn Fn(&mut LittleLedger)| {
        cases.lie(name, why, 10, root, |ledger| {
            ledger.add(&push("latest", 'c', Happened).into());
            lie(ledger);
        });
    };
    lie("history that skips an entry", "entry 9 is not in the history of latest", &|ledger| {
        let history = ledger.history(&latest);
        ledger.rewrite_history(&latest, &history[..1]);
    });
    lie("history that skips an old entry", "entry 4 is not in the history of latest", &|ledger| {
        let history = ledger.history(&latest);
        ledger.rewrite_history(&latest, &history[1..]);
    });
    lie("history of a digest that skips an entry", "entry 5 is not in the history of b", &|ledger| {
        let of = Subject::Digest(digest('b').parse().expect("a digest"));
        let history = ledger.history(&of);
        ledger.rewrite_history(&of, &history[..1]);
    });
    lie("history with an entry twice", "entry 9 is version 1 and 2 of latest", &|ledger| {
        ledger.extend_history(latest.key(), 9, 10);
    });
    lie("history with an entry of another subject", "entry 7 is in the history of latest", &|ledger| {
        ledger.extend_history(latest.key(), 7, 10);
    });
    lie("history of a subject that never was", "entry 9 is in the history of the principals", &|ledger| {
        ledger.extend_history(Subject::Principals.key(), 9, 0);
    });
    lie("subject without a history", "latest is in the map no more", &|ledger| {
        drop(ledger.histories.remove(&latest.key()))
    });
    lie("effective that names another entry", "entry 9 set latest, and 5 is said", &|ledger| {
        let mut history = ledger.history(&latest);
        history[1].effective = 5;
        ledger.rewrite_history(&latest, &history);
    });
    lie("effective of an entry that leaves things alone", "entry 7 left what entry 2 set, and 0 is said", &|ledger| {
        let mut history = ledger.history(&subject("r/app:v1"));
        history[2].effective = 0;
        ledger.rewrite_history(&subject("r/app:v1"), &history);
    });
    lie("effective of a digest", "a digest has none, and 10 is said", &|ledger| {
        let of = Subject::Digest(digest('c').parse().expect("a digest"));
        let mut history = ledger.history(&of);
        history[0].effective = 10;
        ledger.rewrite_history(&of, &history);
    });
}

fn lying_logs(cases: &mut Cases) {
    let latest = || push("latest", 'c', Happened);
    let signed_by = |skey: Skey| {
        move |ledger: &mut LittleLedger| {
            let record = ledger.draft(&latest().into()).remove(0).record;
            ledger.append(sign_record(&record, &skey));
        }
    };
    let impostor = Skey::from_seed(skey().origin().clone(), &[9; 32]);
    cases.lie("entry by another key", "another key of the same name signed it", 9, "signature", signed_by(impostor));
    let elsewhere = Skey::from_seed("ledger.example/other".parse().expect("valid"), &LEDGER_SEED);
    cases.lie(
        "entry of another origin",
        "it was signed for another log, by the same key",
        9,
        "signature",
        signed_by(elsewhere),
    );
    cases.lie("entry with an unknown field", "a field of a later version trails", 9, "canonical", |ledger| {
        let record = ledger.draft(&latest().into()).remove(0).record;
        let mut entry = sign_record(&record, &skey());
        entry.extend([0x20, 0x01]);
        ledger.append(entry);
    });
    cases.lie_about_move("entry with a statement that nobody may accept", "the tag is /atest", "statement", |record| {
        let tag = record.statement.windows(6).position(|window| window == b"latest").expect("the tag");
        record.statement[tag] = b'/';
    });

    let mut ledger = beginning();
    ledger.record(latest());
    let (entries, size) = (ledger.entries(), ledger.size());
    let note = ledger.checkpoint_at(size).sign(&skey());
    let mut swapped = entries.to_vec();
    swapped.swap(4, 5);
    cases.refused(
        "entries swapped",
        "4 and 5 are in each other's place",
        (Some(4), "signed as entry 5"),
        &swapped,
        &note,
    );
    let mut without = entries.to_vec();
    without.remove(4);
    cases.refused("entry left out", "entry 4 is left out", (Some(4), "signed as entry 5"), &without, &note);
    let cut = &entries[..9];
    cases.refused("log cut short", "the checkpoint is of 11 entries, and 9 are there", (None, "size 11"), cut, &note);
    let old = ledger.checkpoint_at(9).sign(&skey());
    let more = (None, "size 9");
    cases.refused(
        "log with more than its checkpoint",
        "the checkpoint is of 9 entries, and 11 are there",
        more,
        entries,
        &old,
    );
    let other = Checkpoint { size, root: [7; 32] }.sign(&skey());
    cases.refused("checkpoint with another root", "it stands for other entries", (None, "root"), entries, &other);
    let impostor = Skey::from_seed(skey().origin().clone(), &[9; 32]);
    let foreign = ledger.checkpoint_at(size).sign(&impostor);
    cases.refused("checkpoint by another key", "the ledger did not sign it", (None, "not signed"), entries, &foreign);
    let open = ledger.checkpoint_at(10).sign(&skey());
    let (name, why) = ("log that ends with a record", "entry 9 is the last, and no commitment");
    cases.refused(name, why, (None, "commitment"), &entries[..10], &open);

    let mut ledger = empty();
    ledger.add(&latest().into());
    ledger.commit();
    let note = ledger.checkpoint_at(2).sign(&skey());
    let (name, why) = ("log that begins with a record", "entry 0 is a commitment over nothing");
    cases.refused(name, why, (Some(0), "begins"), ledger.entries(), &note);
    for (name, root, map_size) in [("a root", vec![1; 32], 0), ("a size", vec![0; 32], 1)] {
        let mut ledger = empty();
        ledger.commit_but(|commitment| (commitment.map_root, commitment.map_size) = (root, map_size));
        let note = ledger.checkpoint_at(1).sign(&skey());
        let (name, why) = (format!("log that begins with {name}"), "entry 0 is a commitment over nothing");
        cases.refused(&name, why, (Some(0), "map"), ledger.entries(), &note);
    }
}

// Reading it, as a stranger would.

#[test]
fn honest_logs_replay_and_each_lie_is_found_where_it_is() {
    let file = read("replay.json");
    let (mut honest, mut lies) = (0, 0);
    for case in list(&file["cases"]) {
        let vkey: Vkey = text(&case["vkey"]).parse().expect("valid");
        let entries = list(&case["entries"]).iter().map(|entry| BASE64.decode(text(entry)).expect("base64"));
        let verdict = replayed(&entries.collect::<Vec<_>>(), text(&case["checkpoint"]), &vkey);
        match (case["valid"].as_bool().expect("said"), verdict) {
            (true, Ok(replay)) => {
                assert_eq!(replay.map_size(), number(&case["map_size"]), "{}", case["name"]);
                let last = list(&case["entries"])[at(replay.size() - 1)].as_str().expect("text");
                let last = SignedEntry::decode(&BASE64.decode(last).expect("base64")).expect("an entry");
                let Body::Commitment(commitment) = last.body else { panic!("no commitment") };
                assert_eq!(hex::encode(commitment.map_root), text(&case["map_root"]), "{}", case["name"]);
                honest += 1;
            }
            (false, Err((index, _))) => {
                assert_eq!(json!(index), case["index"], "{}", case["name"]);
                lies += 1;
            }
            (_, verdict) => panic!("{}: {:?}", case["name"], verdict.err()),
        }
    }
    assert!(honest >= 5 && lies > 70, "{honest} are honest, {lies} are not");
}
