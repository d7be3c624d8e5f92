//! The pairs of `evidence.json`: files that both hold, and what one says of the other.
//!
//! A receipt is an entry with its inclusion proof, as a client keeps it that recorded the entry. Held against what the ledger
//! says later, it shows whether the ledger left the entry out.

use serde_json::{Value, json};

use tagledger::ledger::answer::{Claimed, Part, Question};
use tagledger::ledger::note::Vkey;
use tagledger::proto::Disposition::Happened;

use crate::evidence::{
    LATEST, V1, catalogue, compact, load, single, story, subject, t, tag, tag_at, tag_history, tags_at,
};
use crate::ledger::little_ledger::{LittleLedger, push};
use crate::page::Page;
use crate::refused::{lying, with_effective};
use crate::values::{list, read, text};

pub(crate) fn pairs(ledger: &LittleLedger) -> Vec<Value> {
    let (mut pairs, mut wrong) = (Vec::new(), Vec::new());
    let vkey = ledger.skey.vkey();
    // A word of our own finding, or nothing.
    let mut add = |name: &str, one: String, other: String, found: Option<&str>| {
        for file in [&one, &other] {
            let loaded = load(file).unwrap_or_else(|error| panic!("{name}: {error}"));
            loaded.check(&vkey).unwrap_or_else(|error| panic!("{name}: by itself it does not hold: {error}"));
        }
        let contradiction = contradiction(&one, &other, &vkey);
        let is_as_told = match (found, &contradiction) {
            (Some(word), Some(contradiction)) => contradiction.contains(word),
            (None, None) => true,
            _ => false,
        };
        if !is_as_told {
            wrong.push(format!("{name}: {contradiction:?}"));
        }
        pairs.push(json!({ "name": name, "files": [one, other], "contradiction": found.is_some() }));
    };
    let receipt = |ledger: &LittleLedger, index: u64, size: u64| {
        let page = Page::new(ledger, size).entry(index).evidence();
        compact(&Claimed::new(Question::Entry { index }, vec![page]))
    };
    let now = |ledger: &LittleLedger, name: &str| compact(&tag_at(ledger, name, 0, ledger.size()));

    let v1_now = now(ledger, V1);
    let whole = compact(&tag_history(ledger, Part::default(), 0..7));
    add("honest: a receipt and the state after it", receipt(ledger, 29, 31), v1_now.clone(), None);
    add("honest: a receipt and the whole history", whole.clone(), receipt(ledger, 7, 10), None);
    add("honest: a receipt as tlog-proof", single(ledger, 10, 12), v1_now.clone(), None);
    add(
        "honest: a receipt of an entry that came later",
        receipt(ledger, 29, 31),
        compact(&tag_at(ledger, V1, 0, 29)),
        None,
    );
    add("honest: a receipt about another tag", receipt(ledger, 27, 35), v1_now.clone(), None);
    add("honest: the state before and after", compact(&tag_at(ledger, V1, 0, 12)), v1_now.clone(), None);
    add("honest: a tag that was not there, and is", compact(&tag_at(ledger, LATEST, 0, 5)), now(ledger, LATEST), None);
    add("honest: the same file twice", v1_now.clone(), v1_now.clone(), None);

    let v1 = subject(V1);
    let shortened = lying(|ledger| {
        let history = ledger.history(&v1);
        ledger.rewrite_history(&v1, &history[..6]);
    });
    let skips = Some("a history that skips it");
    add("last entry dropped from a history", receipt(ledger, 29, 31), now(&shortened, V1), skips);
    add("last entry dropped, receipt as tlog-proof", single(ledger, 29, 31), now(&shortened, V1), skips);
    add("last entry dropped, the files the other way round", now(&shortened, V1), receipt(ledger, 29, 31), skips);
    add("last entry dropped, and known from another answer", now(&shortened, V1), v1_now, skips);
    let erased = lying(|ledger| drop(ledger.histories.remove(&v1.key())));
    add("tag erased", receipt(ledger, 3, 5), now(&erased, V1), skips);
    let unlisted = lying(|ledger| {
        let history = ledger.history(&catalogue());
        ledger.rewrite_history(&catalogue(), &history[..2]);
    });
    let listed = compact(&tags_at(&unlisted, 0, true, 0, 2));
    add("tag dropped from the catalogue", receipt(ledger, 25, 27), listed, skips);

    // Entry 29 is forgotten, and what comes next takes its version.
    let replaced = lying(|ledger| {
        let history = ledger.history(&v1);
        ledger.rewrite_history(&v1, &history[..6]);
        ledger.states.get_mut(&v1.key()).expect("it is known").count = 6;
        ledger.add(&push("v1", 'd', Happened).into());
    });
    add(
        "another entry in the place of one",
        receipt(ledger, 29, 31),
        now(&replaced, V1),
        Some("version 6 of r/app:v1"),
    );
    let until = Claimed::new(
        Question::TagAt { tag: tag(V1), at_us: t(30) },
        vec![Page::new(&replaced, replaced.size()).state(&v1, t(30)).evidence()],
    );
    let of_the_past = compact(&until);
    add(
        "another entry in the place of one, in the past",
        receipt(ledger, 29, 31),
        of_the_past,
        Some("version 6 of r/app:v1"),
    );

    // The history as of a later commitment is another: shorter, or with another effective.
    let mut later = lying(|ledger| with_effective(ledger, &subject(LATEST), 7, 28));
    later.record(push("latest", 'c', Happened));
    let (one, other) = (beside(ledger, LATEST, &[7], 35), beside(&later, LATEST, &[7], later.size()));
    add("effective of one version that changed", one, other, Some("two histories"));
    // Of as many entries, and neither shows the one in which they differ.
    let changed = lying(|ledger| with_effective(ledger, &subject(V1), 4, 9));
    let (one, other) = (beside(ledger, V1, &[6], 35), beside(&changed, V1, &[6], 36));
    add("one count and two roots", one, other, Some("two histories"));
    let (one, other) = (beside(ledger, V1, &[], 35), beside(&shortened, V1, &[], 36));
    add("history that is shorter later", one, other, Some("two histories"));

    let mut one = story();
    one.record(push("v3", 'a', Happened));
    let mut other = story();
    other.record(push("v3", 'b', Happened));
    add("two roots", receipt(&one, 3, 37), receipt(&other, 3, 37), Some("different roots"));
    other.record(push("v4", 'b', Happened));
    add("two entries", receipt(&one, 35, 37), receipt(&other, 35, 39), Some("two different entries"));
    let disordered = lying(|ledger| {
        ledger.add_but(&push("v1", 'd', Happened).into(), |_, draft| draft.record.subjects[0].version = 3);
    });
    let (one, other) = (receipt(&disordered, 29, 37), receipt(&disordered, 35, 37));
    add("version that falls", one, other, Some("as version"));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    pairs
}

/// An entry, and versions of a tag's history that the answer does not need.
fn beside(ledger: &LittleLedger, name: &str, versions: &[u64], size: u64) -> String {
    let page = ledger.shown_at(&[(subject(name), versions.to_vec())], size);
    compact(&Claimed::new(Question::Entry { index: size - 1 }, vec![page]))
}

fn contradiction(one: &str, other: &str, vkey: &Vkey) -> Option<String> {
    let prove = |file: &str| load(file).expect("readable").prove(vkey).expect("it verifies");
    prove(one).contradiction(&prove(other)).map(|contradiction| contradiction.to_string())
}

// Reading them, as a stranger would.

#[test]
fn pairs_contradict_each_other_where_they_are_said_to() {
    let file = read("evidence.json");
    let vkey: Vkey = text(&file["vkey"]).parse().expect("valid");
    let mut found = [0, 0];
    for case in list(&file["against"]) {
        let [one, other] = &list(&case["files"])[..] else { panic!("two files") };
        let contradicts = contradiction(text(one), text(other), &vkey).is_some();
        assert_eq!(contradicts, case["contradiction"].as_bool().expect("said"), "{}", case["name"]);
        found[usize::from(contradicts)] += 1;
    }
    assert!(found[0] > 5 && found[1] > 10, "{found:?}");
}
