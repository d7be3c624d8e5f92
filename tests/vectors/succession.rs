//! `succession.json`: a ledger that changed its key twice, and what was forged about that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::{Value, json};

use tagledger::ledger::answer::{Claimed, Question};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::keys::{Chain, KeyChange, Keys as _};
use tagledger::ledger::note::{Skey, Vkey};
use tagledger::ledger::replay::Replay;
use tagledger::ledger::statement::Statement;
use tagledger::ledger::subject::Subject;
use tagledger::proto;
use tagledger::proto::Disposition::Happened;
use tagledger::proto::statement::Kind;

use crate::evidence::{compact, load};
use crate::ledger::little_ledger::{LittleLedger, push};
use crate::values::{bytes, list, number, read, text};
use crate::{FIRST_TIME_US, ORIGIN, skey};

/// The keys after the first.
fn later(number: u8) -> Skey {
    Skey::from_seed(ORIGIN.parse().expect("an origin"), &[0x40 + number; 32])
}

/// ```text
/// 0 -   1 push   3 key   5 push   7 key   9 push
/// ```
fn story() -> LittleLedger {
    let mut ledger = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    ledger.commit();
    for number in 1..=2 {
        ledger.record(push("v1", char::from(b'0' + number), Happened));
        ledger.change_key(later(number));
    }
    ledger.record(push("v1", '3', Happened));
    ledger
}

fn change(replaces: &Skey, next: &Skey) -> Kind {
    Kind::KeyChange(KeyChange::to_next(&replaces.vkey(), next))
}

/// The file.
pub(crate) fn succession() -> Value {
    let ledger = story();
    let keys = [skey(), later(1), later(2)].map(|skey| skey.vkey().to_string());
    let chain: Vec<Value> =
        keys.iter().zip([0, 5, 9]).map(|(vkey, from)| json!({ "vkey": vkey, "from": from })).collect();
    json!({ "chain": chain, "statements": statements(), "evidence": evidence(&ledger), "against": against(&ledger), "logs": logs() })
}

fn statements() -> Value {
    let encoded = |kind: Kind| {
        let statement = proto::Statement { kind: Some(kind), ..proto::Statement::default() };
        hex::encode(statement.encode_to_vec())
    };
    let honest = KeyChange::to_next(&skey().vkey(), &later(1));
    let other = Skey::from_seed("ledger.example/other".parse().expect("an origin"), &[0x41; 32]);
    let changed = |change: &dyn Fn(&mut proto::KeyChange)| {
        let mut changed = honest.clone();
        change(&mut changed);
        encoded(Kind::KeyChange(changed))
    };
    let refused = [
        (
            "the consent is another key's",
            changed(&|it| it.consent = KeyChange::to_next(&skey().vkey(), &later(2)).consent),
        ),
        (
            "the consent is to follow another key",
            changed(&|it| it.consent = KeyChange::to_next(&later(2).vkey(), &later(1)).consent),
        ),
        ("the consent is cut", changed(&|it| it.consent.truncate(63))),
        ("there is no consent", changed(&|it| it.consent.clear())),
        ("there is no new key", changed(&|it| it.vkey.clear())),
        ("it replaces no key", changed(&|it| it.replaces.clear())),
        ("the new key is the old one", encoded(change(&skey(), &skey()))),
        ("the new key is of another origin", encoded(change(&skey(), &other))),
        ("a key in another spelling", changed(&|it| it.replaces.push('\n'))),
    ];
    let refused = refused.map(|(reason, statement)| json!({ "reason": reason, "statement": statement }));
    json!({ "valid": [encoded(Kind::KeyChange(honest.clone()))], "refused": refused })
}

/// Files under each trusted key.
fn evidence(ledger: &LittleLedger) -> Vec<Value> {
    let about = |size: u64, shown: Option<u64>| Claimed {
        keys: shown.map(|size| ledger.keys_at(size)),
        ..Claimed::new(Question::Entry { index: 1 }, vec![ledger.evidence_at(&[1, size - 1], size)])
    };
    let size = ledger.size();
    let all = [skey(), later(1), later(2)].map(|skey| skey.vkey());
    let stranger = later(9).vkey();
    let mut cases = Vec::new();
    let mut add = |name: &str, vkey: &Vkey, claimed: &Claimed, why: Option<&str>| {
        let file = compact(claimed);
        assert_eq!(verified(&file, vkey).is_ok(), why.is_none(), "{name}: {:?}", verified(&file, vkey));
        let mut case = json!({ "name": name, "vkey": vkey.to_string(), "file": file, "valid": why.is_none() });
        if let Some(why) = why {
            case["why"] = json!(why);
        }
        cases.push(case);
    };
    for (number, vkey) in all.iter().enumerate() {
        add(&format!("all keys shown, key {number} trusted"), vkey, &about(size, Some(size)), None);
        add(&format!("an old answer, key {number} trusted"), vkey, &about(3, Some(size)), None);
    }
    add("an old answer alone, and its key", &all[0], &about(3, None), None);
    add("of the log up to the first change, and its key", &all[0], &about(5, None), None);
    add("keys up to the first change, by both keys", &all[1], &about(5, Some(5)), None);
    add(
        "an old answer alone, and a later key",
        &all[2],
        &about(3, None),
        Some("nothing shows that its key came before"),
    );
    add("a stranger's key", &stranger, &about(size, Some(size)), Some("the trusted key is none of those shown"));
    add("without the keys", &all[0], &about(size, None), Some("nothing shows that its key followed"));
    // Everything in it is by the keys that are shown.
    let one_left_out = Claimed {
        keys: Some(ledger.shown(&[(Subject::Keys, vec![1])])),
        ..Claimed::new(Question::Entry { index: 5 }, vec![ledger.evidence_at(&[5, size - 1], size)])
    };
    add("a change left out", &all[2], &one_left_out, Some("the history of the keys has two"));
    let mut by_retired = about(size, Some(size));
    by_retired.pages[0].checkpoint = ledger.checkpoint_at(size).sign(&skey());
    add("a checkpoint by the first key", &all[0], &by_retired, Some("that key was replaced before"));
    let mut keys_by_retired = about(size, Some(size));
    keys_by_retired.keys.as_mut().expect("shown").checkpoint = ledger.checkpoint_at(size).sign(&later(1));
    add("keys under a checkpoint of the second", &all[0], &keys_by_retired, Some("that key was replaced before"));
    // Whoever stole the first key has the consent of the second, which is public.
    let stolen = stolen();
    let mut announced_again = Claimed {
        keys: Some(stolen.keys_at(5)),
        ..Claimed::new(Question::Entry { index: 1 }, vec![stolen.evidence_at(&[1, 4], 5)])
    };
    let by_thief = stolen.checkpoint_at(5).sign(&skey());
    announced_again.pages[0].checkpoint.clone_from(&by_thief);
    announced_again.keys.as_mut().expect("shown").checkpoint = by_thief;
    let why = "the newest key did not sign the checkpoint that shows the keys";
    add("the second key announced again, by who stole the first", &all[1], &announced_again, Some(why));
    let mut by_both = about(size, Some(size));
    by_both.pages[0].checkpoint = ledger.checkpoint_at(size).sign_with(&later(2), &later(1));
    add("a checkpoint by two keys", &all[0], &by_both, None);
    let mut thief = story();
    thief.skey = skey();
    thief.record(push("v1", '9', Happened));
    thief.skey = later(2);
    thief.commit();
    let of_thief = Claimed {
        keys: Some(thief.keys_at(thief.size())),
        ..Claimed::new(Question::Entry { index: 11 }, vec![thief.evidence(&[11, thief.size() - 1])])
    };
    add("an entry by the first key", &all[0], &of_thief, Some("that key was replaced before"));
    cases
}

/// What whoever stole the first key can make of it: they announce the second.
fn stolen() -> LittleLedger {
    let mut ledger = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    ledger.commit();
    ledger.record(push("v1", '9', Happened));
    ledger.change_key(later(1));
    ledger
}

/// Files that hold each by itself, under keys that follow from the trusted one.
fn against(ledger: &LittleLedger) -> Vec<Value> {
    let mut cases = Vec::new();
    let mut add = |name: &str, vkey: &Vkey, files: [String; 2], found: bool| {
        files.iter().for_each(|file| verified(file, vkey).unwrap_or_else(|error| panic!("{name}: {error}")));
        assert_eq!(contradicts(&files, vkey), found, "{name}");
        cases.push(json!({ "name": name, "vkey": vkey.to_string(), "files": files, "contradiction": found }));
    };
    let about = |ledger: &LittleLedger, size: u64, shown: Option<u64>| {
        compact(&Claimed {
            keys: shown.map(|size| ledger.keys_at(size)),
            ..Claimed::new(Question::Entry { index: 1 }, vec![ledger.evidence_at(&[1, size - 1], size)])
        })
    };
    let mut other = LittleLedger::empty(skey(), FIRST_TIME_US, 1_000_000);
    other.commit();
    other.record(push("v1", '1', Happened));
    other.change_key(later(3));
    let (size, first) = (ledger.size(), skey().vkey());
    let all = about(ledger, size, Some(size));
    add("honest: before and after the changes", &first, [about(ledger, 3, None), all.clone()], false);
    add("honest: one change, and two", &first, [about(ledger, 5, Some(5)), all.clone()], false);
    // Neither's entries contradict the other's.
    add("two successors of one key", &first, [about(&other, 3, Some(5)), all.clone()], true);
    add("two successors of one key, the files the other way round", &first, [all, about(&other, 3, Some(5))], true);
    cases
}

fn logs() -> Vec<Value> {
    let mut cases = Vec::new();
    let mut add = |name: &str, vkey: &Vkey, ledger: &LittleLedger, lie: Option<(u64, &str)>| {
        let note = ledger.checkpoint_at(ledger.size()).sign(&ledger.skey);
        let found = replayed(ledger.entries(), &note, vkey);
        assert_eq!(found.as_ref().err(), lie.map(|(index, _)| Some(index)).as_ref(), "{name}");
        let entries: Vec<String> = ledger.entries().iter().map(|entry| BASE64.encode(entry)).collect();
        let mut case = json!({
            "name": name, "vkey": vkey.to_string(), "checkpoint": note, "entries": entries, "valid": lie.is_none(),
        });
        if let Some((index, why)) = lie {
            (case["index"], case["why"]) = (json!(index), json!(why));
        }
        cases.push(case);
    };
    add("two changes", &skey().vkey(), &story(), None);
    let lie = |kind: Kind| {
        let mut ledger = story();
        ledger.record(kind);
        ledger
    };
    let first = skey().vkey();
    add(
        "a change that replaces an old key",
        &first,
        &lie(change(&later(1), &later(3))),
        Some((11, "it replaces another key")),
    );
    add("a key comes back", &first, &lie(change(&later(2), &skey())), Some((11, "no key comes back")));
    let mut goes_on = story();
    goes_on.add(&change(&later(2), &later(3)).into());
    goes_on.add(&push("v1", '1', Happened).into());
    goes_on.commit();
    add("the batch of a change goes on", &first, &goes_on, Some((12, "a commitment is due")));
    let mut too_long = lie(change(&later(2), &later(3)));
    too_long.record(push("v1", '1', Happened));
    add("the old key goes on", &first, &too_long, Some((13, "the new key is in force")));
    let mut too_soon = story();
    too_soon.add(&change(&later(2), &later(3)).into());
    too_soon.skey = later(3);
    too_soon.commit();
    add("the new key begins too soon", &first, &too_soon, Some((12, "the old key closes the batch")));
    let other = Skey::from_seed("ledger.example/other".parse().expect("an origin"), &[0x41; 32]);
    let another = Skey::from_seed("ledger.example/other".parse().expect("an origin"), &[0x42; 32]);
    add("keys of another origin", &first, &lie(change(&other, &another)), Some((11, "they are NOTED")));
    let stolen = stolen();
    let note = stolen.checkpoint_at(stolen.size()).sign(&skey());
    assert_eq!(replayed(stolen.entries(), &note, &first).err(), Some(None));
    let entries: Vec<String> = stolen.entries().iter().map(|entry| BASE64.encode(entry)).collect();
    cases.push(json!({
        "name": "the second key announced again, by who stole the first", "vkey": first.to_string(),
        "checkpoint": note, "entries": entries, "valid": false, "index": null,
        "why": "the newest key did not sign the checkpoint",
    }));
    cases
}

fn verified(file: &str, vkey: &Vkey) -> Result<(), String> {
    let claimed = load(file)?;
    let keys = match &claimed.keys {
        None => Chain::of(vkey.clone()),
        Some(shown) => Chain::follow(shown, vkey).map_err(|error| error.to_string())?,
    };
    claimed.check(&keys).map(drop).map_err(|error| error.to_string())
}

fn replayed(entries: &[Vec<u8>], note: &str, first: &Vkey) -> Result<Chain, Option<u64>> {
    let mut replay = Replay::new(first.clone());
    for entry in entries {
        replay.push(entry).map_err(|error| Some(error.index))?;
    }
    Checkpoint::open_by(note, std::iter::once(replay.keys().newest())).map_err(|_| None)?;
    let checkpoint = Checkpoint::open(note, replay.keys()).map_err(|_| None)?;
    replay.check(&checkpoint).map_err(|_| None)?;
    Ok(replay.keys().clone())
}

/// Whether two files that hold prove together that the ledger misbehaved.
fn contradicts(files: &[String], vkey: &Vkey) -> bool {
    let [one, other] = [&files[0], &files[1]].map(|file| load(file).expect("readable"));
    let chain = |claimed: &Claimed| match &claimed.keys {
        None => Chain::of(vkey.clone()),
        Some(shown) => Chain::follow(shown, vkey).expect("they follow"),
    };
    let Ok(keys) = chain(&one).longer(chain(&other)) else { return true };
    let prove = |claimed: &Claimed| claimed.prove(&keys).expect("it holds");
    prove(&one).contradiction(&prove(&other)).is_some()
}

#[test]
fn keys_follow_each_other_and_what_is_forged_about_that_is_refused() {
    let file = read("succession.json");
    for statement in list(&file["statements"]["valid"]) {
        Statement::parse(&bytes(statement)).expect("valid");
    }
    for case in list(&file["statements"]["refused"]) {
        assert!(Statement::parse(&bytes(&case["statement"])).is_err(), "{}", case["reason"]);
    }
    for case in list(&file["evidence"]) {
        let vkey = text(&case["vkey"]).parse().expect("a key");
        assert_eq!(verified(text(&case["file"]), &vkey).is_ok(), case["valid"] == true, "{}", case["name"]);
    }
    for case in list(&file["against"]) {
        let files: Vec<String> = list(&case["files"]).iter().map(|file| text(file).to_owned()).collect();
        let vkey = text(&case["vkey"]).parse().expect("a key");
        assert_eq!(contradicts(&files, &vkey), case["contradiction"] == true, "{}", case["name"]);
    }
    for case in list(&file["logs"]) {
        let decoded = |entry: &Value| BASE64.decode(text(entry)).expect("base64");
        let entries: Vec<Vec<u8>> = list(&case["entries"]).iter().map(decoded).collect();
        let found = replayed(&entries, text(&case["checkpoint"]), &text(&case["vkey"]).parse().expect("a key"));
        match found {
            Ok(keys) => {
                assert_eq!(case["valid"], true, "{}", case["name"]);
                let from = std::iter::once(0).chain(keys.later().iter().map(|link| link.from));
                let is = keys.all().map(ToString::to_string).zip(from);
                let chain = list(&file["chain"]);
                assert!(is.eq(chain.iter().map(|link| (text(&link["vkey"]).to_owned(), number(&link["from"])))));
            }
            Err(index) => {
                assert_eq!(case["valid"], false, "{}", case["name"]);
                assert_eq!(index, case["index"].as_u64(), "{}", case["name"]);
            }
        }
    }
}
