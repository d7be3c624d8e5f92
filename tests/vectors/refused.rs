//! The refused part of `evidence.json`: what a server, a ledger, or whoever passes a file on may try.
//!
//! Each case has one thing wrong with it, as far as that can be: signatures, proofs and checksum are right wherever a liar
//! could make them so. The word beside a case is one of our own refusal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use sha2::Digest as _;

use tagledger::ledger::answer::{Claimed, Part, Question};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::sign_record;
use tagledger::ledger::note::Skey;
use tagledger::ledger::subject::Subject;
use tagledger::proto;
use tagledger::proto::Disposition::Happened;
use tagledger::proto::subject_proof::Terminal;

use crate::evidence::{
    Cases, LATEST, V1, absent, catalogue, compact, growth, history_on_pages, inclusion, single, story, subject, t, tag,
    tag_at, tag_history, tags_at, tags_on_pages, workload,
};
use crate::ledger::little_ledger::{LittleLedger, attest, delete, push};
use crate::page::Page;
use crate::skey;

pub(crate) fn add(cases: &mut Cases, ledger: &LittleLedger) {
    files(cases, ledger);
    questions(cases, ledger);
    checkpoints(cases, ledger);
    entries(cases, ledger);
    map_proofs(cases, ledger);
    histories(cases, ledger);
    states(cases, ledger);
    parts(cases, ledger);
    lists(cases, ledger);
    pages(cases, ledger);
    single_entries(cases, ledger);
    lying_ledgers(cases);
}

impl Cases {
    /// An honest answer, spoilt.
    pub(crate) fn spoilt(
        &mut self,
        name: &str,
        why: &str,
        honest: &Claimed,
        word: &str,
        spoil: impl FnOnce(&mut Claimed),
    ) {
        let mut claimed = honest.clone();
        spoil(&mut claimed);
        assert_ne!(&claimed, honest, "{name}");
        self.claimed(name, why, &claimed, word);
    }

    pub(crate) fn claimed(&mut self, name: &str, why: &str, claimed: &Claimed, word: &str) {
        self.refused(name, why, compact(claimed), word);
    }
}

/// What is asked of the honest ledger before something is spoilt: v1 after the denied push.
fn asked(ledger: &LittleLedger) -> Claimed {
    tag_at(ledger, V1, t(7), ledger.size())
}

// Not of the form.

fn files(cases: &mut Cases, ledger: &LittleLedger) {
    let file = compact(&asked(ledger));
    let mut changed = |name: &str, why: &str, from: &str, to: &str, word: &str| {
        cases.refused(name, why, replaced(&file, from, to), word);
    };
    changed(
        "file of version 1",
        "the version is 1",
        "\"version\":2,\"checksum\"",
        "\"version\":1,\"checksum\"",
        "version 1",
    );
    changed(
        "file of version 3 without keys",
        "version 3 has keys",
        "\"version\":2,\"checksum\"",
        "\"version\":3,\"checksum\"",
        "it has keys or it has none",
    );
    let float = "\"version\":2.0,\"checksum\"";
    changed(
        "file whose version is a float",
        "the version is 2.0",
        "\"version\":2,\"checksum\"",
        float,
        "floating point",
    );
    let other = "tagledger-evidences";
    changed("file of another format", "the format is another", "tagledger-evidence", other, "its format is");
    let unknown = "unknown field `extra`";
    let places = [
        ("file", "{\"format\"", "{\"extra\":0,\"format\""),
        ("content", "{\"question\"", "{\"extra\":0,\"question\""),
        ("question", "{\"kind\"", "{\"extra\":0,\"kind\""),
        ("page", "{\"checkpoint\"", "{\"extra\":0,\"checkpoint\""),
        ("entry", "{\"index\":3,", "{\"extra\":0,\"index\":3,"),
        ("subject", "{\"key\"", "{\"extra\":0,\"key\""),
        ("history", "{\"count\"", "{\"extra\":0,\"count\""),
        ("history leaf", "{\"version\":1,", "{\"extra\":0,\"version\":1,"),
    ];
    for (place, from, to) in places {
        let name = format!("unknown field in a {place}");
        changed(&name, "it has a field that the specification does not know", from, to, unknown);
    }
    let missing = [
        ("checksum", file[file.find("\"checksum\"").expect("it is there")..].split_once(',').expect("more follows").0),
        ("growth", "\"growth\":[]"),
        ("path", "\"path\":[]"),
        ("at_us", "\"at_us\":1767225607000000"),
        ("effective", "\"effective\":4"),
    ];
    for (field, text) in missing {
        let name = format!("field {field} missing");
        let from = if field == "checksum" { format!("{text},") } else { format!(",{text}") };
        let why = format!("the field {field} is missing");
        changed(&name, &why, &from, "", &format!("missing field `{field}`"));
    }
    let number = "\"index\":3,";
    let numbers = [
        ("a float", "3.0", "floating point"),
        ("a float with an exponent", "3e0", "floating point"),
        ("negative", "-3", "integer `-3`"),
        ("text", "\"3\"", "expected u64"),
        ("2^64", "18446744073709551616", "expected u64"),
        ("null", "null", "expected u64"),
    ];
    for (what, text, word) in numbers {
        let to = format!("\"index\":{text},");
        changed(&format!("number that is {what}"), &format!("an index is {what}"), number, &to, word);
    }
    let flag = tags_at(ledger, 0, false, 0, 3);
    let flag = replaced(&compact(&flag), "\"include_unbound\":false", "\"include_unbound\":0");
    cases.refused("flag that is a number", "include_unbound is neither true nor false", flag, "expected a boolean");

    let key = BASE64.encode(subject(V1).key().0);
    let unpadded = key.trim_end_matches('=');
    let bits = format!("{}{}", &key[..42], &last_bits(&key));
    let short = BASE64.encode(&subject(V1).key().0[..31]);
    let mut changed = |name: &str, why: &str, to: &str, word: &str| {
        cases.refused(name, why, replaced(&file, &format!("\"key\":\"{key}\""), &format!("\"key\":\"{to}\"")), word);
    };
    changed("base64 without padding", "a key is not padded", unpadded, "not base64");
    changed("base64 with bits that are not used", "the unused bits of a key are not zero", &bits, "not base64");
    changed(
        "base64 with a line break",
        "a key has a line break",
        &format!("{}\\n{}", &key[..20], &key[20..]),
        "not base64",
    );
    changed("key of 31 bytes", "a key has 31 bytes", &short, "31 bytes");
    changed("key in hexadecimal", "a key is hexadecimal", &hex::encode(subject(V1).key().0), "48 bytes");

    let empty = replaced(
        &file,
        &file[file.find("\"pages\":[").expect("there")..file.find(",\"growth\"").expect("there")],
        "\"pages\":[]",
    );
    cases.refused("file without pages", "there is no page", empty, "no page");
    let history = &file[file.find("\"terminal\":").expect("there")..file.find("}],\"growth\"").expect("there")];
    let history = history.rsplit_once("}]").expect("the subject ends").0;
    let terminal = |to: &str| replaced(&file, history, &format!("\"terminal\":{to}"));
    cases.refused(
        "terminal that is null",
        "the path of a subject ends in null",
        terminal("null"),
        "not an evidence file",
    );
    let unheard = terminal("{\"full\":{}}");
    cases.refused("terminal of an unknown kind", "the path of a subject ends in \"full\"", unheard, "unknown variant");
    let two = history.replacen("\"terminal\":{", "\"terminal\":{\"empty\":{},", 1);
    let two = replaced(&file, history, &two);
    cases.refused("terminal of two kinds", "the path of a subject ends in two things", two, "not an evidence file");
    cases.refused("file cut short", "it ends early", file[..file.len() - 2].to_owned(), "EOF");
    cases.refused("file with more behind it", "a second value follows", format!("{file}{{}}"), "trailing");
    cases.refused("file that is empty", "there is nothing", String::new(), "EOF");
}

/// The last character before the padding, with a bit set that no byte has.
fn last_bits(key: &str) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let last = key.as_bytes()[42];
    let value = alphabet.iter().position(|c| *c == last).expect("base64");
    format!("{}=", char::from(alphabet[value | 1]))
}

/// With one part of the text replaced, and the checksum as it must then be.
fn replaced(file: &str, from: &str, to: &str) -> String {
    assert_eq!(file.matches(from).count().min(1), 1, "{from} is not there");
    let changed = file.replacen(from, to, 1);
    let (head, content) = changed.split_once("\"content\":").expect("it has content");
    let content = content.strip_suffix('}').expect("the file ends after it");
    let sum = format!("sha256:{}", hex::encode(sha2::Sha256::digest(content)));
    let Some(begin) = head.find("\"checksum\":\"").map(|at| at + "\"checksum\":\"".len()) else { return changed };
    let end = begin + sum.len();
    format!("{}{sum}{}\"content\":{content}}}", &head[..begin], &head[end..])
}

fn questions(cases: &mut Cases, ledger: &LittleLedger) {
    let file = compact(&asked(ledger));
    let mut changed = |name: &str, why: &str, from: &str, to: &str, word: &str| {
        cases.refused(name, why, replaced(&file, from, to), word);
    };
    changed("question of an unknown kind", "nobody knows the kind", "\"tag_at\"", "\"tag_was\"", "unknown variant");
    let tag = "\"tag\":\"r/app:v1\"";
    for (name, why, to, word) in [
        (
            "question about a tag without a registry",
            "a tag is registry/repository:tag",
            "app:v1",
            "registry/repository",
        ),
        ("question about a tag in upper case", "a registry is in lower case", "R/app:v1", "registry"),
        ("question about a tag in the short form", "an official image is written out", "docker.io/nginx:1", "library"),
        ("question about a tag with a digest", "a tag has no digest", "r/app:v1@sha256:00", "without a digest"),
    ] {
        changed(name, why, tag, &format!("\"tag\":\"{to}\""), word);
    }
    let late = "\"at_us\":253402300800000000";
    changed(
        "question about a time beyond time",
        "the time is above 253402300799999999",
        "\"at_us\":1767225607000000",
        late,
        "question.at_us",
    );
    let page = Page::new(ledger, ledger.size()).absent(&Subject::WorkloadsOf("prod".into()));
    let running = |environment: &str, workload: &str| {
        let (environment, workload) = (environment.to_owned(), workload.to_owned());
        let question = Question::RunningAt { environment, workload, at_us: 0, include_stopped: false, limit: 0 };
        Claimed::new(question, vec![page.evidence()])
    };
    let (line, control) = ("an environment that draws a line of its own", "the environment has a control character");
    cases.claimed(line, control, &running("prod\nall is well", ""), "question.environment");
    let (name, why) =
        ("an environment with a control character of two bytes", "the environment has a control character");
    cases.claimed(name, why, &running("prod\u{9b}2J", ""), "question.environment");
    let (name, why) = ("an environment of 129 bytes", "the environment has more than 128 bytes");
    cases.claimed(name, why, &running(&"p".repeat(129), ""), "question.environment");
    cases.claimed(
        "a workload that clears the screen",
        "the workload has a control character",
        &running("prod", "\u{1b}[2J"),
        "question.workload",
    );
    let part = Part { until_us: 253_402_300_800_000_000, ..Part::default() };
    let (name, why) = ("a part until a time beyond time", "the time is above 253402300799999999");
    cases.claimed(name, why, &tag_history(ledger, part, 0..7), "question.part.until_us");
}

// Checkpoints and entries.

fn checkpoints(cases: &mut Cases, ledger: &LittleLedger) {
    let honest = asked(ledger);
    let checkpoint = ledger.checkpoint_at(ledger.size());
    let mut with = |name: &str, why: &str, note: String, word: &str| {
        cases.spoilt(name, why, &honest, word, |claimed| claimed.pages[0].checkpoint = note);
    };
    let own = &honest.pages[0].checkpoint;
    let impostor = Skey::from_seed(skey().origin().clone(), &[9; 32]);
    let elsewhere = Skey::from_seed("ledger.example/other".parse().expect("valid"), &crate::LEDGER_SEED);
    let (text, _) = own.split_once("\n\n").expect("signed");
    with("checkpoint that is not signed", "there is no signature line", format!("{text}\n\n"), "sign");
    with("checkpoint by another key", "another key of the same name signed it", checkpoint.sign(&impostor), "sign");
    with("checkpoint of another origin", "it is of another log by the same key", checkpoint.sign(&elsewhere), "sign");
    let foreign = skey().sign_note(&format!("ledger.example/other\n35\n{}\n", BASE64.encode(checkpoint.root)));
    with("checkpoint of another origin, signed as this one", "its first line is another origin", foreign, "origin");
    let resized = own.replacen("\n35\n", "\n36\n", 1);
    with("checkpoint with another size than was signed", "the signature is over another text", resized, "signature");
    let changed = flipped_signature(own);
    with("checkpoint with a changed signature", "a byte of the signature is changed", changed, "signature");
    let extended = skey().sign_note(&format!("{}\n35\n{}\nx\n", skey().origin(), BASE64.encode(checkpoint.root)));
    with("checkpoint with a fourth line", "it has an extension line", extended, "three lines");
    let other_root = Checkpoint { root: [7; 32], ..checkpoint };
    with("checkpoint of other entries", "its root is another", other_root.sign(&skey()), "not proven to be in the log");
    let larger = Checkpoint { size: 36, ..checkpoint };
    with("checkpoint of more entries", "its size is another", larger.sign(&skey()), "not proven to be in the log");
    let nothing = Checkpoint { size: 0, ..ledger.checkpoint_at(0) };
    with("checkpoint of nothing", "its size is 0", nothing.sign(&skey()), "not proven to be in the log");
}

/// With a byte of the signature changed.
fn flipped_signature(note: &str) -> String {
    let (head, signature) = note.trim_end().rsplit_once(' ').expect("a signature line");
    let mut bytes = BASE64.decode(signature).expect("base64");
    bytes[40] ^= 1;
    format!("{head} {}\n", BASE64.encode(bytes))
}

fn entries(cases: &mut Cases, ledger: &LittleLedger) {
    let honest = asked(ledger);
    assert_eq!(honest.pages[0].entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [3, 7, 8, 34]);
    let mut page = |name: &str, why: &str, word: &str, spoil: &dyn Fn(&mut proto::Evidence)| {
        cases.spoilt(name, why, &honest, word, |claimed| spoil(&mut claimed.pages[0]));
    };
    let log = "not proven to be in the log";
    page("entry of another ledger", "entry 3 was signed by another key", "signature", &|page| {
        page.entries[0].entry = signed_by(&Skey::from_seed(skey().origin().clone(), &[9; 32]), &page.entries[0].entry);
    });
    page("entry of another origin", "entry 3 was signed for another log, by the same key", "signature", &|page| {
        let elsewhere = Skey::from_seed("ledger.example/other".parse().expect("valid"), &crate::LEDGER_SEED);
        page.entries[0].entry = signed_by(&elsewhere, &page.entries[0].entry);
    });
    page("entry with a changed byte", "a digit of the digest in entry 3 is changed", "signature", &|page| {
        let entry = &mut page.entries[0].entry;
        let digit = entry.windows(8).position(|window| window == b"aaaaaaaa").expect("a digest");
        entry[digit] = b'b';
    });
    page("entry under another index", "entry 3 is said to be entry 2", "in truth", &|page| page.entries[0].index = 2);
    page(
        "entry that the ledger signed and did not log",
        "entry 3 is signed, but another is in the log",
        log,
        &|page| {
            let Ok(entry) = proto::Entry::decode(&page.entries[0].entry[..]) else { panic!("own entry") };
            let Some(proto::entry::Body::Record(record)) = entry.body else { panic!("a record") };
            let mut record = proto::Record::decode(&record[..]).expect("own record");
            record.principal = "somebody".into();
            page.entries[0].entry = sign_record(&record, &skey());
        },
    );
    page("entry twice", "entry 3 is there twice", log, &|page| page.entries.insert(0, page.entries[0].clone()));
    page("entries that fall", "two entries are swapped", log, &|page| page.entries.swap(0, 1));
    page("entry left out", "entry 3 is left out, and its hash put into the proof", "not in the evidence", &|page| {
        *page = proto::Evidence { subjects: page.subjects.clone(), ..ledger.evidence(&[7, 8, 34]) };
    });
    page("entry of a version left out", "entry 7 is left out", "not in the evidence", &|page| {
        *page = proto::Evidence { subjects: page.subjects.clone(), ..ledger.evidence(&[3, 8, 34]) };
    });
    page("entry of the next version left out", "entry 8 is left out", "not in the evidence", &|page| {
        *page = proto::Evidence { subjects: page.subjects.clone(), ..ledger.evidence(&[3, 7, 34]) };
    });
    page("log proof with a hash behind it", "a hash trails the proof of the entries", log, &|page| {
        page.proof.push(vec![0; 32]);
    });
    page("log proof that is too short", "the last hash of the proof is missing", log, &|page| drop(page.proof.pop()));
    page("log proof with a changed hash", "a bit of a hash is changed", log, &|page| page.proof[0][0] ^= 1);
    page("log proof with a hash of 31 bytes", "a hash has 31 bytes", "31 bytes", &|page| page.proof[0].truncate(31));
    page("log proof without hashes", "the proof is empty", log, &|page| page.proof.clear());
    page("no commitment that closes the checkpoint", "the last leaf is not shown", "lacks the commitment", &|page| {
        *page = proto::Evidence { subjects: page.subjects.clone(), ..ledger.evidence(&[3, 7, 8]) };
    });
    page(
        "commitment that is not the last leaf",
        "another commitment is shown in its place",
        "lacks the commitment",
        &|page| {
            *page = proto::Evidence { subjects: page.subjects.clone(), ..ledger.evidence(&[3, 7, 8, 32]) };
        },
    );
    page("older map under a newer checkpoint", "the subject proof is of the commitment before", "map root", &|page| {
        page.subjects = vec![ledger.subject_proof_at(&subject(V1), &[1, 2], 27)];
    });
    let nothing = Claimed::new(
        Question::Entry { index: 3 },
        vec![proto::Evidence { proof: vec![vec![0; 32]], ..ledger.evidence(&[]) }],
    );
    cases.claimed("proof of no entries", "there are hashes, and nothing that they prove", &nothing, log);

    // In the log as they are: the ledger wrote what none may.
    let is_refused = |cases: &mut Cases, name: &str, why: &str, entry: Vec<u8>, word: &str| {
        let mut ledger = story();
        ledger.append(entry);
        ledger.commit_but(|commitment| commitment.recorded_at_us = t(36));
        let question = Question::Entry { index: 35 };
        cases.claimed(name, why, &Claimed::new(question, vec![ledger.evidence(&[34, 35, 36])]), word);
    };
    let draft = || ledger.draft(&push("v3", 'a', Happened).into()).remove(0).record;
    let mut late = sign_record(&draft(), &skey());
    late.extend([0x20, 0x01]);
    is_refused(cases, "entry with an unknown field", "a field of a later version trails", late, "canonical");
    let mut padded = draft().encode_to_vec();
    assert_eq!(padded[..2], [0x08, 35]);
    padded.splice(0..2, [0x08, 35 | 0x80, 0x00]);
    let padded = signed_body(padded);
    is_refused(
        cases,
        "entry that is not canonical",
        "its index is a longer varint than it need be",
        padded,
        "canonical",
    );
    let mut statement = draft();
    statement.statement.extend(b"\xa2\x06\x00");
    let statement = sign_record(&statement, &skey());
    is_refused(
        cases,
        "entry with a statement that is not canonical",
        "an unknown field trails the statement",
        statement,
        "statement",
    );
    let mut outcome = draft();
    outcome.outcome = 8;
    is_refused(cases, "entry with an unknown outcome", "outcome 8", sign_record(&outcome, &skey()), "outcome");
    let mut name = draft();
    let sent = proto::Statement { kind: Some(push("v3", 'a', Happened)), ..Default::default() }.encode_to_vec();
    name.statement = sent.iter().map(|byte| if *byte == b'v' { b'/' } else { *byte }).collect();
    is_refused(
        cases,
        "entry with a name outside of the grammar",
        "the tag is /3",
        sign_record(&name, &skey()),
        "statement",
    );
    let mut early = draft();
    early.recorded_at_us = t(30);
    is_refused(
        cases,
        "entry earlier than the one before it",
        "time does not rise",
        sign_record(&early, &skey()),
        "not after",
    );
}

/// The same body, signed by another.
fn signed_by(skey: &Skey, entry: &[u8]) -> Vec<u8> {
    let entry = proto::Entry::decode(entry).expect("own entry");
    let Some(proto::entry::Body::Record(record)) = entry.body else { panic!("a record") };
    sign_record(&proto::Record::decode(&record[..]).expect("own record"), skey)
}

/// Whatever bytes as a record, signed.
fn signed_body(body: Vec<u8>) -> Vec<u8> {
    use tagledger::ledger::signature;
    let signature = signature::sign(skey().key(), &signature::entry_message(skey().origin(), &body));
    proto::Entry { body: Some(proto::entry::Body::Record(body)), signature: signature.to_vec() }.encode_to_vec()
}

// Subject proofs.

fn own<'a>(claimed: &'a mut Claimed, of: &Subject) -> &'a mut proto::SubjectProof {
    let key = of.key().0.to_vec();
    claimed.pages[0].subjects.iter_mut().find(|proof| proof.key == key).expect("it is shown")
}

fn history(claimed: &mut Claimed) -> &mut proto::HistoryProof {
    match &mut own(claimed, &subject(V1)).terminal {
        Some(Terminal::History(history)) => history,
        other => panic!("{other:?}"),
    }
}

fn map_proofs(cases: &mut Cases, ledger: &LittleLedger) {
    let (now, honest, v1) = (ledger.size(), asked(ledger), subject(V1));
    let mut spoilt = |name: &str, why: &str, word: &str, spoil: &dyn Fn(&mut proto::SubjectProof)| {
        cases.spoilt(name, why, &honest, word, |claimed| spoil(own(claimed, &v1)));
    };
    let root = "map root";
    for (name, count) in [("one less", 6), ("one more", 8), ("as many as are shown", 3)] {
        let why = format!("the count is {count}, and 7 is true");
        spoilt(&format!("count of a history that is {name}"), &why, root, &|proof| {
            let Some(Terminal::History(history)) = &mut proof.terminal else { panic!("a history") };
            history.count = count;
        });
    }
    spoilt("count of a history that is 0", "a history has entries", "without entries", &|proof| {
        let Some(Terminal::History(history)) = &mut proof.terminal else { panic!("a history") };
        history.count = 0;
    });
    spoilt("root of a history that is changed", "a bit of the history's root is changed", root, &|proof| {
        let Some(Terminal::History(history)) = &mut proof.terminal else { panic!("a history") };
        history.root[31] ^= 1;
    });
    let empty = || Some(Terminal::Empty(proto::EmptySubtree {}));
    let other =
        |key: [u8; 32]| Some(Terminal::Other(proto::OtherLeaf { key: key.into(), count: 1, root: vec![1; 32] }));
    let key = v1.key();
    let bit = |depth| key.with_bit(depth, !key.bit(depth)).0;
    let depth = honest.pages[0].subjects[0].siblings.len();
    let (name, why) = ("absence of a tag that is there: an empty subtree", "the path is said to end in nothing");
    spoilt(name, why, root, &|proof| proof.terminal = empty());
    let (name, why) = ("absence of a tag that is there: another leaf", "the path is said to end in another key's leaf");
    spoilt(name, why, root, &|proof| proof.terminal = other(bit(255)));
    let (name, why) = ("absence of a tag that is there: its own leaf", "the other leaf is the key's own");
    spoilt(name, why, "very key", &|proof| {
        let Some(Terminal::History(history)) = &proof.terminal else { panic!("a history") };
        let (count, root) = (history.count, history.root.clone());
        proof.terminal = Some(Terminal::Other(proto::OtherLeaf { key: proof.key.clone(), count, root }));
    });
    let (name, why) =
        ("absence of a tag that is there: a leaf of another path", "it parts from the path at its first bit");
    spoilt(name, why, "does not share", &|proof| proof.terminal = other(bit(0)));
    let (name, why) =
        ("absence of a tag that is there: a leaf that parts at the last sibling", "it parts one bit too early");
    spoilt(name, why, "does not share", &|proof| proof.terminal = other(bit(depth - 1)));
    let (name, why) =
        ("absence of a tag that is there: the path of another", "path and leaf are another key's, and true");
    spoilt(name, why, "does not share", &|proof| {
        let other = ledger.subject_proof_at(&subject(LATEST), &[], now);
        let Some(Terminal::History(history)) = &other.terminal else { panic!("a history") };
        let (key, count, root) = (other.key.clone(), history.count, history.root.clone());
        proof.siblings = other.siblings;
        proof.terminal = Some(Terminal::Other(proto::OtherLeaf { key, count, root }));
    });
    let (name, why) = ("absence of a tag that is there: halfway down", "the path ends at a node that is not empty");
    spoilt(name, why, root, &|proof| {
        proof.siblings.pop();
        proof.terminal = empty();
    });
    let (name, why) = ("absence of a tag that is there: a leaf without entries", "the other leaf's count is 0");
    spoilt(name, why, "without entries", &|proof| {
        let Some(Terminal::Other(mut leaf)) = other(bit(255)) else { panic!("another leaf") };
        leaf.count = 0;
        proof.terminal = Some(Terminal::Other(leaf));
    });
    spoilt("map proof with a sibling behind it", "a sibling trails", root, &|proof| proof.siblings.push(vec![0; 32]));
    spoilt("map proof that is too short", "the last sibling is missing", root, &|proof| drop(proof.siblings.pop()));
    spoilt("map proof upside down", "the siblings are in the other order", root, &|proof| proof.siblings.reverse());
    spoilt("map proof with a changed sibling", "a bit is changed", root, &|proof| proof.siblings[1][5] ^= 1);
    spoilt("map proof with a sibling of 33 bytes", "it has 33 bytes", "33 bytes", &|proof| proof.siblings[0].push(0));
    spoilt("map proof of 257 siblings", "a path has at most 256", "at most 256", &|proof| {
        proof.siblings = vec![vec![0; 32]; 257];
        proof.terminal = empty();
    });
    spoilt("map proof of another subject under this one's key", "the key is exchanged", root, &|proof| {
        let other = ledger.subject_proof_at(&subject(LATEST), &[], now);
        *proof = proto::SubjectProof { key: proof.key.clone(), ..other };
    });
    let (nothing, _) = absent(ledger);
    let absence = tag_at(ledger, &nothing, 0, now);
    cases.spoilt("absence under another key", "it is true of another tag", &absence, "shows nothing of", |claimed| {
        let Question::TagAt { tag: asked, .. } = &mut claimed.question else { panic!("a tag") };
        *asked = tag(V1);
    });
    cases.spoilt(
        "presence of a tag never seen",
        "another tag's history is shown as its own",
        &absence,
        root,
        |claimed| {
            let Some(Terminal::History(history)) = ledger.subject_proof_at(&subject("r/app:v2"), &[], now).terminal
            else {
                panic!("a history")
            };
            claimed.pages[0].subjects[0].terminal = Some(Terminal::History(history));
        },
    );
    cases.spoilt("subject twice", "a subject is proven twice on one page", &honest, "twice", |claimed| {
        let again = claimed.pages[0].subjects[0].clone();
        claimed.pages[0].subjects.push(again);
    });
}

fn histories(cases: &mut Cases, ledger: &LittleLedger) {
    let honest = asked(ledger);
    let mut spoilt = |name: &str, why: &str, word: &str, spoil: &dyn Fn(&mut proto::HistoryProof)| {
        cases.spoilt(name, why, &honest, word, |claimed| spoil(history(claimed)));
    };
    let not_proven = "not proven to be in the history";
    spoilt("history proof with a hash behind it", "a hash trails", not_proven, &|history| {
        history.proof.push(vec![0; 32])
    });
    spoilt("history proof that is too short", "a hash is missing", not_proven, &|history| drop(history.proof.pop()));
    spoilt("history proof with a changed hash", "a bit is changed", not_proven, &|history| history.proof[0][0] ^= 1);
    spoilt("history leaf with another effective", "4 is true, and 1 is shown", not_proven, &|history| {
        history.leaves[0].effective = 1;
    });
    spoilt(
        "history leaf with another effective that an entry bears out",
        "it is said to set",
        not_proven,
        &|history| {
            history.leaves[1].effective = 9;
        },
    );
    spoilt("history leaf with another index", "entry 8 is shown as version 1", "leads to another root", &|history| {
        history.leaves[0].index = 8;
    });
    spoilt("history leaf with another version", "entry 7 is shown as version 0", "leads to another root", &|history| {
        history.leaves[0].version = 0;
    });
    spoilt("history leaves that fall", "two leaves are swapped", "must be rising", &|history| {
        history.leaves.swap(0, 1)
    });
    spoilt("history leaf twice", "a leaf is there twice", "must be rising", &|history| {
        history.leaves.insert(0, history.leaves[0]);
    });
    spoilt("history leaf of a commitment", "entry 34 is none of a tag", "leads to another root", &|history| {
        history.leaves[1].index = 34;
    });
    spoilt("history leaf beyond the count", "version 7 of 7, from 0", "lies beyond the tree", &|history| {
        history.leaves[1].version = 7;
    });
    spoilt("history proof without leaves", "there are hashes, and nothing that they prove", not_proven, &|history| {
        history.leaves.clear();
    });
}

// What does not follow.

/// The named versions of v1, or of another tag, for the state of v1 at a time.
fn shown(ledger: &LittleLedger, name: &str, versions: &[u64], at_us: u64) -> Claimed {
    let page = ledger.shown(&[(subject(name), versions.to_vec())]);
    Claimed::new(Question::TagAt { tag: tag(V1), at_us }, vec![page])
}

fn states(cases: &mut Cases, ledger: &LittleLedger) {
    let mut with = |name: &str, why: &str, versions: &[u64], at_us: u64, word: &str| {
        cases.claimed(name, why, &shown(ledger, V1, versions, at_us), word);
    };
    with("dropped last version", "version 6 of 7 is left out", &[5], 0, "version 6");
    with("pair that is not adjacent", "versions 2 and 4", &[2, 4], t(8), "version 3");
    with("pair that is not adjacent, around the time", "versions 1 and 3", &[1, 3], t(8), "version 2");
    with("pair before the time", "versions 0 and 1 came before", &[0, 1], t(8), "version 2");
    with("pair after the time", "versions 3 and 4 came after", &[3, 4], t(8), "version 0");
    with("version without the next", "what came next is not shown", &[2], t(8), "version 3");
    with("next version alone", "what came before is not shown", &[3], t(8), "version 0");
    with("last version for the past", "the last one came after", &[6], t(8), "version 0");
    with("no version at all", "nothing of the history is shown", &[], t(8), "version 0");
    with("first version for now", "it is not the last", &[0], 0, "version 1");
    let name = "pair from another subject";
    cases.claimed(name, "what is shown is of latest", &shown(ledger, LATEST, &[0, 1], t(8)), "shows nothing of");
    let nothing = Page::new(ledger, ledger.size()).evidence();
    let nothing = Claimed::new(Question::TagAt { tag: tag(V1), at_us: 0 }, vec![nothing]);
    cases.claimed("state without a subject proof", "nothing is shown", &nothing, "shows nothing of");
}

fn parts(cases: &mut Cases, ledger: &LittleLedger) {
    let mut with = |name: &str, why: &str, part: (u64, u64, bool, u64), versions: &[u64], word: &str| {
        let (since_us, until_us, newest_first, limit) = part;
        let part = Part { since_us, until_us, newest_first, limit };
        let page = ledger.shown(&[(subject(V1), versions.to_vec())]);
        cases.claimed(name, why, &Claimed::new(Question::TagHistory { tag: tag(V1), part }, vec![page]), word);
    };
    let (all, middle) = ((0, 0, false, 0), (t(7), t(12), false, 0));
    with("history without its last version", "version 6 is left out", all, &[0, 1, 2, 3, 4, 5], "version 6");
    with("history without its first version", "version 0 is left out", all, &[1, 2, 3, 4, 5, 6], "version 0");
    with("history with a gap", "version 3 is left out", all, &[0, 1, 2, 4, 5, 6], "version 3");
    with("history without anything", "no version is shown", all, &[], "version 0");
    with("part without what came before it", "version 0 is left out", middle, &[1, 2, 3, 4], "version 0");
    with("part without what came after it", "version 4 is left out", middle, &[0, 1, 2, 3], "version 4");
    with("part without its first version", "version 1 is left out", middle, &[0, 2, 3, 4], "version 1");
    with("part without its last version", "version 3 is left out", middle, &[0, 1, 2, 4], "version 3");
    with("empty part that is not empty", "only the neighbours are shown", middle, &[0, 4], "version 1");
    let cut = (0, 0, false, 2);
    with("cut history that begins too late", "version 0 is left out", cut, &[1, 2, 3], "version 0");
    with("cut history with a gap", "version 1 is left out", cut, &[0, 2, 3], "version 1");
    with("cut history that is too short", "the limit is 2, and one is shown", cut, &[0], "version 1");
    let newest = (0, 0, true, 2);
    with("cut history that begins too late, newest first", "version 6 is left out", newest, &[4, 5], "version 6");
    with("cut history with a gap, newest first", "version 5 is left out", newest, &[3, 4, 6], "version 5");
}

/// Subjects with their versions.
type Shown = Vec<(Subject, Vec<u64>)>;

/// The tags at a time, with these versions of the catalogue and of its members.
fn catalogued(ledger: &LittleLedger, at_us: u64, limit: u64, shown: &[(Subject, Vec<u64>)]) -> Claimed {
    let repository = "r/app".parse().expect("a repository");
    let question = Question::TagsAt { repository, at_us, include_unbound: false, limit };
    Claimed::new(question, vec![ledger.shown(shown)])
}

fn lists(cases: &mut Cases, ledger: &LittleLedger) {
    let [v1, latest, v2] = [V1, LATEST, "r/app:v2"].map(subject);
    let all = [(catalogue(), vec![0, 1, 2]), (v1.clone(), vec![6]), (latest, vec![7]), (v2, vec![0])];
    let mut with = |name: &str, why: &str, word: &str, limit: u64, shown: Shown| {
        cases.claimed(name, why, &catalogued(ledger, 0, limit, &shown), word);
    };
    let but = |left_out: usize| {
        let mut shown = all.to_vec();
        shown.remove(left_out);
        shown
    };
    let of_catalogue = |versions: &[u64]| {
        let mut shown = all.to_vec();
        shown[0].1 = versions.to_vec();
        shown
    };
    with("list without its catalogue", "the catalogue is not shown", "the tags of r/app", 0, but(0));
    with("list with a member without state", "the state of v1 is not shown", "shows nothing of r/app:v1", 0, but(1));
    let name = "list with a member without state that is no item";
    with(name, "that latest is unbound is not shown", "shows nothing of r/app:latest", 0, but(2));
    with("list without the last member", "version 2 is left out", "version 2", 0, of_catalogue(&[0, 1]));
    with("list with a gap", "version 1 is left out", "version 1", 0, of_catalogue(&[0, 2]));
    with("list without the first member", "version 0 is left out", "version 0", 0, of_catalogue(&[1, 2]));
    with("list without members", "no version of the catalogue is shown", "version 0", 0, of_catalogue(&[]));
    with("cut list that is too short", "the limit is 2, and one is shown", "version 1", 2, of_catalogue(&[0]));
    let elsewhere = tagged_elsewhere();
    let shown: Shown = [(elsewhere.0.clone(), vec![0])].into();
    let claimed = catalogued(&elsewhere.1, 0, 0, &shown);
    cases.claimed(
        "list with the catalogue of another repository",
        "it is that of r/other",
        &claimed,
        "the tags of r/app",
    );
    // In the past the member that came later must be shown, else it could have come earlier.
    let shown = [(catalogue(), vec![0, 1]), (subject(V1), vec![2, 3]), (subject(LATEST), vec![0, 1])];
    let claimed = catalogued(ledger, t(8), 0, &shown);
    cases.claimed("list without the member that came next", "version 2 is left out", &claimed, "version 2");
    let shown = [(catalogue(), vec![0, 1, 2]), (subject(V1), vec![6]), (subject(LATEST), vec![0, 1])];
    let claimed = catalogued(ledger, t(8), 0, &shown);
    let name = "list with a state of another time";
    cases.claimed(name, "v1 is shown as it is now, and the past was asked for", &claimed, "version 0 of r/app:v1");

    let [prod, staging] = ["prod", "staging"].map(|environment| Subject::WorkloadsOf(environment.into()));
    let [web, worker, staged] = [workload("prod", "web"), workload("prod", "worker"), workload("staging", "web")];
    let all = [
        (Subject::Environments, vec![0, 1]),
        (prod, vec![0, 1]),
        (staging, vec![0]),
        (web, vec![1]),
        (worker, vec![0]),
        (staged, vec![0]),
    ];
    let mut with = |name: &str, why: &str, word: &str, change: &dyn Fn(&mut Shown)| {
        let (environment, workload) = (String::new(), String::new());
        let question = Question::RunningAt { environment, workload, at_us: 0, include_stopped: false, limit: 0 };
        let mut shown = all.to_vec();
        change(&mut shown);
        cases.claimed(name, why, &Claimed::new(question, vec![ledger.shown(&shown)]), word);
    };
    with("running without an environment", "the second is left out", "version 1 of the environments", &|shown| {
        shown[0].1.pop();
    });
    with(
        "running without the workloads of an environment",
        "those of staging are not shown",
        "the workloads of staging",
        &|shown| {
            shown.remove(2);
        },
    );
    with("running without a workload", "worker is left out", "version 1 of the workloads of prod", &|shown| {
        shown[1].1.pop();
    });
    with("running without the state of a workload", "that web stopped is not shown", "prod/web", &|shown| {
        shown.remove(3);
    });
    let repository = "r/app".parse().expect("a repository");
    let question = Question::RepositoryDiff { repository, from_us: t(4), to_us: t(20), limit: 0 };
    let mut shown =
        vec![(catalogue(), vec![0, 1, 2]), (subject(V1), vec![0, 1, 5, 6]), (subject(LATEST), vec![2, 3, 4])];
    let claimed = Claimed::new(question.clone(), vec![ledger.shown(&shown)]);
    let name = "diff without a state at its beginning";
    cases.claimed(name, "what latest was at first is not shown", &claimed, "version 0 of r/app:latest");
    shown[2].1 = vec![0, 1];
    let claimed = Claimed::new(question, vec![ledger.shown(&shown)]);
    let name = "diff without a state at its end";
    cases.claimed(name, "what latest was at last is not shown", &claimed, "version 2 of r/app:latest");
}

/// A ledger that knows another repository, and that one's catalogue.
fn tagged_elsewhere() -> (Subject, LittleLedger) {
    let mut ledger = story();
    let proto::statement::Kind::TagPush(mut pushed) = push("v1", 'a', Happened) else { panic!("a push") };
    pushed.repository = "other".into();
    ledger.record(proto::statement::Kind::TagPush(pushed));
    let other: tagledger::ledger::answer::RepositoryName = "r/other".parse().expect("a repository");
    (other.tags(), ledger)
}

fn pages(cases: &mut Cases, ledger: &LittleLedger) {
    let history = history_on_pages(ledger);
    let mut spoilt = |name: &str, why: &str, word: &str, spoil: &dyn Fn(&mut Claimed)| {
        cases.spoilt(name, why, &history, word, |claimed| spoil(claimed));
    };
    spoilt(
        "pages without a proof that the log grew",
        "the second growth is missing",
        "not proven to continue",
        &|claimed| {
            claimed.growth.pop();
        },
    );
    spoilt("pages with a changed proof that the log grew", "a bit is changed", "not proven to continue", &|claimed| {
        claimed.growth[0].hashes[0][0] ^= 1;
    });
    spoilt(
        "pages with a hash behind a proof that the log grew",
        "a hash trails",
        "not proven to continue",
        &|claimed| {
            claimed.growth[0].hashes.push([0; 32]);
        },
    );
    spoilt("pages without a seal", "no proof has all versions", "is missing", &|claimed| {
        claimed.pages.pop();
    });
    spoilt(
        "pages of which one is left out",
        "the entries of versions 3 and 4 are not shown",
        "not in the evidence",
        &|claimed| {
            claimed.pages.remove(1);
            claimed.growth = vec![growth(ledger, 14, 35)];
        },
    );
    let tags = tags_on_pages(ledger);
    let mut spoilt = |name: &str, why: &str, word: &str, spoil: &dyn Fn(&mut Claimed)| {
        cases.spoilt(name, why, &tags, word, |claimed| spoil(claimed));
    };
    spoilt(
        "pages of a list without a seal",
        "no proof has all members",
        "of the tags of r/app is missing",
        &|claimed| {
            claimed.pages.pop();
        },
    );
    spoilt(
        "pages of a list of which one is left out",
        "what latest was is not shown",
        "nothing of r/app:latest",
        &|claimed| {
            claimed.pages.remove(1);
            claimed.growth = vec![growth(ledger, 29, 35)];
        },
    );
    spoilt("pages of which the first shows no commitment", "so there is no now", "lacks the commitment", &|claimed| {
        claimed.pages[0] = ledger.evidence_at(&[3], 29);
    });
    // What an older page says of a subject does not reach to the newer page's now.
    let question = Question::TagAt { tag: tag(V1), at_us: 0 };
    let old = vec![Page::new(ledger, 35).evidence(), tag_at(ledger, V1, 0, 16).pages.remove(0)];
    let mut old = Claimed::new(question.clone(), old);
    old.growth = vec![growth(ledger, 16, 35)];
    let name = "state from a page that was closed before its time";
    cases.claimed(name, "the proof is of an older commitment than now", &old, "shows nothing of");
    // Two logs under one key.
    let mut forked = story();
    forked.record(push("latest", 'c', Happened));
    let mut other = story();
    other.record(delete("v1"));
    let fork = vec![tag_at(&forked, V1, 0, 37).pages.remove(0), tag_at(&other, LATEST, 0, 37).pages.remove(0)];
    let name = "pages of two logs of one size";
    cases.claimed(
        name,
        "the checkpoints have different roots",
        &Claimed::new(question.clone(), fork),
        "different roots",
    );
    let mut longer = LittleLedger::empty(skey(), t(0), 1_000_000);
    longer.commit();
    while longer.size() < 61 {
        longer.record(push("v1", 'a', Happened));
    }
    let fork = vec![tag_at(ledger, V1, 0, 35).pages.remove(0), tag_at(&longer, LATEST, 0, 61).pages.remove(0)];
    let mut fork = Claimed::new(question, fork);
    fork.growth = vec![growth(&longer, 35, 61)];
    let name = "pages of two logs of different sizes";
    cases.claimed(name, "the larger log is not proven to continue the other", &fork, "not proven to continue");
}

fn single_entries(cases: &mut Cases, ledger: &LittleLedger) {
    let now = ledger.size();
    let page = |index| vec![Page::new(ledger, now).entry(index).evidence()];
    let other = Claimed::new(Question::Entry { index: 10 }, page(12));
    cases.claimed("entry that is another", "entry 12 is shown, and 10 was asked for", &other, "another entry");
    let hash = tagledger::ledger::entry::entry_hash(&ledger.entry(7));
    let other = Claimed::new(Question::Leaf { hash }, page(8));
    cases.claimed("entry of another leaf hash", "entry 8 is shown, and the hash is entry 7's", &other, "another entry");
    let short = format!("\"hash\":\"{}\"", hex::encode(&hash[..31]));
    let file = compact(&Claimed::new(Question::Leaf { hash }, page(7)));
    let short = replaced(&file, &format!("\"hash\":\"{}\"", hex::encode(hash)), &short);
    cases.refused("leaf hash of 31 bytes", "the hash has 31 bytes", short, "not 32 bytes");

    let honest = inclusion(ledger, 16);
    let mut spoilt = |name: &str, why: &str, word: &str, spoil: &dyn Fn(&mut Claimed)| {
        cases.spoilt(name, why, &honest, word, |claimed| spoil(claimed));
    };
    let wrong = "the proof for the tree of size 16";
    spoilt("inclusion with a hash behind its path", "a hash trails", wrong, &|claimed| claimed.path.push([0; 32]));
    spoilt("inclusion with a path that is too short", "a hash is missing", wrong, &|claimed| {
        claimed.path.pop();
    });
    spoilt("inclusion with a changed path", "a bit is changed", wrong, &|claimed| claimed.path[0][0] ^= 1);
    spoilt("inclusion without growth", "the logs are not joined", wrong, &|claimed| claimed.growth.clear());
    spoilt("inclusion with changed growth", "a bit is changed", wrong, &|claimed| claimed.growth[0].hashes[0][0] ^= 1);
    spoilt("inclusion of an entry beyond the tree", "entry 10 in a tree of 10", "the tree of size 10", &|claimed| {
        claimed.question = Question::Inclusion { index: 10, tree_size: 10 };
    });
    spoilt("inclusion in a tree larger than the checkpoint's", "36 of 35", "the tree of size 36", &|claimed| {
        claimed.question = Question::Inclusion { index: 10, tree_size: 36 };
    });
    spoilt("inclusion of an entry that is not shown", "entry 12 is asked for", "not in the evidence", &|claimed| {
        claimed.question = Question::Inclusion { index: 12, tree_size: 16 };
    });

    let proof = single(ledger, 10, now);
    let lines: Vec<&str> = proof.split('\n').collect();
    let mut changed = |name: &str, why: &str, file: String, word: &str| {
        assert_ne!(file, proof, "{name}");
        cases.refused(&format!("tlog-proof {name}"), why, file, word);
    };
    let without = |line: usize| {
        let mut lines = lines.clone();
        lines.remove(line);
        lines.join("\n")
    };
    changed("of another version", "the first line is another", proof.replacen("@v1", "@v2", 1), "not an evidence file");
    changed("without its entry", "the line \"extra\" is missing", without(1), "extra");
    changed("without its index", "the line \"index\" is missing", without(2), "index");
    changed("with an index that has a leading zero", "index 010", proof.replacen("index 10", "index 010", 1), "index");
    changed("with an index that has a sign", "index +10", proof.replacen("index 10", "index +10", 1), "index");
    changed(
        "with another index",
        "entry 10 is said to be entry 11",
        proof.replacen("index 10", "index 11", 1),
        "truth",
    );
    changed("without a hash", "the first hash is missing", without(3), "not proven");
    let swapped = proof.replacen(&format!("{}\n{}", lines[3], lines[4]), &format!("{}\n{}", lines[4], lines[3]), 1);
    changed("with swapped hashes", "two hashes are swapped", swapped, "not proven");
    let more = proof.replacen(lines[3], &format!("{}\n{}", lines[3], BASE64.encode([0; 32])), 1);
    changed("with a hash too many", "a hash more", more, "not proven");
    let short = proof.replacen(lines[3], &BASE64.encode([0; 31]), 1);
    changed("with a hash of 31 bytes", "a hash has 31 bytes", short, "32 bytes");
    changed(
        "with a changed entry",
        "another entry is in the line \"extra\"",
        {
            let other = BASE64.encode(ledger.entry(12));
            proof.replacen(lines[1], &format!("extra {other}"), 1)
        },
        "truth",
    );
    let (head, _) = proof.split_once("\n\n").expect("an empty line");
    changed("without a checkpoint", "nothing follows the hashes", format!("{head}\n"), "checkpoint");
    changed(
        "under a checkpoint that is not signed right",
        "the signature is changed",
        flipped_signature(&proof),
        "signature",
    );
    changed("with a line behind it", "a line follows the signature", format!("{proof}x\n"), "signed note");
}

// What the ledger itself signed.

/// The story, a lie, and a commitment over both: entry 35.
pub(crate) fn lying(lie: impl FnOnce(&mut LittleLedger)) -> LittleLedger {
    let mut ledger = story();
    lie(&mut ledger);
    ledger.commit();
    ledger
}

/// With one version's effective changed.
pub(crate) fn with_effective(ledger: &mut LittleLedger, of: &Subject, version: usize, effective: u64) {
    let mut history = ledger.history(of);
    assert_ne!(history[version].effective, effective, "it is a lie");
    history[version].effective = effective;
    ledger.rewrite_history(of, &history);
}

fn lying_ledgers(cases: &mut Cases) {
    let [v1, latest, v2] = [V1, LATEST, "r/app:v2"].map(subject);
    let mut effective =
        |name: &str, why: &str, of: &str, (version, effective): (usize, u64), at_us: u64, word: &str| {
            let ledger = lying(|ledger| with_effective(ledger, &subject(of), version, effective));
            let name = format!("signed effective {name}");
            cases.claimed(&name, why, &tag_at(&ledger, of, at_us, ledger.size()), word);
        };
    effective(
        "that names an entry of another tag",
        "entry 29 leaves alone what entry 5 set",
        V1,
        (6, 6),
        0,
        "does not name",
    );
    effective("that names a commitment", "entry 29 leaves alone what entry 4 set", V1, (6, 5), 0, "does not name");
    effective("that names a denied push", "entry 29 leaves alone what entry 7 set", V1, (6, 8), 0, "the effect");
    effective("that names the entry itself", "entry 29 is a deployment", V1, (6, 30), 0, "before it");
    effective(
        "of an observation that names another",
        "entry 27 set what entry 18 had",
        LATEST,
        (6, 19),
        t(27),
        "signed 28",
    );
    effective("of an observation that names nothing", "entry 27 set nothing", LATEST, (6, 0), t(27), "signed 28");
    effective(
        "of a deletion that names an entry",
        "entry 31 left what entry 27 had set",
        LATEST,
        (7, 28),
        0,
        "signed 0",
    );
    effective(
        "of a push that found it so, and names nothing",
        "entry 8 found a",
        V1,
        (2, 0),
        t(8),
        "signed sha256:aaaa",
    );
    let (name, why) = ("of a failed first push that names an entry", "entry 25 left what entry 10 had set");
    effective(name, why, "r/app:v2", (0, 11), 0, "signed 0");

    // The version before is shown beside it.
    let beside = |lie: &dyn Fn(&mut LittleLedger), versions: &[u64], at_us: u64| {
        let ledger = lying(lie);
        shown(&ledger, V1, versions, at_us)
    };
    let claimed = beside(&|ledger| with_effective(ledger, &subject(V1), 6, 0), &[5, 6], 0);
    let name = "signed effective that forgets what was in force";
    cases.claimed(name, "entry 29 leaves nothing alone, and entry 14 what entry 10 set", &claimed, "stays 11");
    let claimed = beside(&|ledger| with_effective(ledger, &subject(V1), 6, 4), &[5, 6], 0);
    let name = "signed effective that goes back";
    cases.claimed(name, "entry 29 leaves alone what entry 3 set, and entry 14 what entry 10 set", &claimed, "stays 11");
    let claimed = beside(&|ledger| with_effective(ledger, &subject(V1), 6, 4), &[5, 6], t(14));
    let name = "signed effective of the next version that goes back";
    cases.claimed(name, "entry 14 was asked for, and entry 29, shown as the next, lies", &claimed, "stays 11");
    let confirming = lying(|ledger| {
        let index = ledger.add(&push("v1", 'd', Happened).into());
        with_effective(ledger, &subject(V1), 7, 4);
        assert_eq!(index, 35);
    });
    let name = "signed effective of a push that found another digest";
    let why = "entry 35 found d, and names entry 3, which set a";
    cases.claimed(name, why, &tag_at(&confirming, V1, 0, 37), "signed sha256:dddd");

    let ask = |ledger: &LittleLedger, of: &str| tag_at(ledger, of, 0, ledger.size());
    let foreign = lying(|ledger| ledger.extend_history(latest.key(), 33, 0));
    let name = "signed history with an entry of something else";
    cases.claimed(name, "entry 33 is an attestation", &ask(&foreign, LATEST), "does not say so");
    let twice = lying(|ledger| ledger.extend_history(latest.key(), 31, 0));
    let name = "signed history with an entry twice";
    cases.claimed(name, "entry 31 is version 7 and 8", &ask(&twice, LATEST), "does not say so");
    let closing = lying(|ledger| ledger.extend_history(latest.key(), 34, 0));
    let name = "signed history with a commitment";
    cases.claimed(name, "entry 34 is a commitment", &ask(&closing, LATEST), "does not say so");
    let renumbered = lying(|ledger| {
        ledger.add_but(&delete("latest").into(), |_, draft| draft.record.subjects[0].version = 9);
    });
    let name = "signed record with another version than its place";
    cases.claimed(name, "entry 35 is version 8 of latest, and says 9", &ask(&renumbered, LATEST), "does not say so");
    for (what, kept) in [("its digest", [0, 2]), ("its tag's repository", [0, 1])] {
        let unnamed = lying(|ledger| {
            ledger.add_but(&push("v3", 'a', Happened).into(), |_, draft| {
                let record = &mut draft.record;
                record.subjects = kept.iter().map(|&at: &usize| record.subjects[at].clone()).collect();
                draft.touches = kept.iter().map(|&at| draft.touches[at].clone()).collect();
            });
        });
        let claimed = Claimed::new(Question::Entry { index: 35 }, vec![unnamed.evidence(&[35, 36])]);
        let name = format!("signed record that does not name {what}");
        cases.claimed(
            &name,
            "entry 35 is a push, and in the histories of two subjects only",
            &claimed,
            "without naming it",
        );
    }
    let swapped = lying(|ledger| {
        ledger.add_but(&push("v2", 'a', Happened).into(), |_, draft| draft.record.subjects[0].version = 2);
        ledger.add_but(&push("v2", 'b', Happened).into(), |_, draft| draft.record.subjects[0].version = 1);
        let mut history = ledger.history(&v2);
        history.swap(1, 2);
        ledger.rewrite_history(&v2, &history);
    });
    let claimed = Claimed::new(
        Question::TagAt { tag: tag("r/app:v2"), at_us: 0 },
        vec![swapped.shown(&[(v2.clone(), vec![0, 1, 2])])],
    );
    let name = "signed history in another order than the log";
    cases.claimed(name, "entry 36 is version 1, entry 35 version 2", &claimed, "does not come after");

    // Entry 36 is in the history that entry 35 commits to.
    let mut early = story();
    let mut record = early.draft(&push("latest", 'c', Happened).into()).remove(0).record;
    (record.index, record.recorded_at_us) = (36, t(36));
    let entry = sign_record(&record, &skey());
    early.extend_history_by(latest.key(), 36, &entry, 37);
    early.commit();
    early.append(entry);
    early.commit_but(|commitment| commitment.recorded_at_us = t(37));
    let mut page = early.evidence_at(&[31, 35], 36);
    page.subjects = vec![early.subject_proof_at(&latest, &[7, 8], 36)];
    let question = Question::TagAt { tag: tag(LATEST), at_us: 0 };
    let mut claimed = Claimed::new(question, vec![page, early.evidence(&[36, 37])]);
    claimed.growth = vec![growth(&early, 36, 38)];
    let name = "signed history with an entry that came after its commitment";
    cases.claimed(name, "entry 36 is in the history that entry 35 commits to", &claimed, "before the commitment");

    let mut open = Claimed::new(Question::TagAt { tag: tag(V1), at_us: 0 }, vec![story().evidence_at(&[8, 10], 11)]);
    open.pages[0].subjects = vec![story().subject_proof_at(&v1, &[2], 10)];
    let name = "signed checkpoint that ends with a record";
    cases.claimed(name, "the last leaf is entry 10, a push", &open, "does not end with a commitment");

    // The catalogue has what names no tag.
    let catalogued_by = lying(|ledger| {
        ledger.add_but(&attest('a').into(), |_, draft| {
            let subject = proto::Subject { kind: proto::SubjectKind::TagsOf.into(), version: 3, name: String::new() };
            draft.record.subjects.push(subject);
        });
        ledger.extend_history(catalogue().key(), 35, 0);
    });
    let all =
        [(catalogue(), vec![0, 1, 2, 3]), (v1.clone(), vec![6]), (latest.clone(), vec![7]), (v2.clone(), vec![0])];
    let name = "signed catalogue with an entry that names no tag";
    cases.claimed(name, "entry 35 is an attestation", &catalogued(&catalogued_by, 0, 0, &all), "does not say so");

    // One file that holds both: the entry, and the history without it.
    let skipping = lying(|ledger| {
        let history = ledger.history(&v1);
        ledger.rewrite_history(&v1, &history[..6]);
    });
    let mut page = skipping.evidence(&[10, 14, 29, 35]);
    page.subjects = vec![skipping.subject_proof_at(&v1, &[5], 36)];
    let claimed = Claimed::new(Question::TagAt { tag: tag(V1), at_us: 0 }, vec![page]);
    let name = "signed history that skips an entry which is shown";
    cases.claimed(name, "entry 29 is version 6, and the history has 6", &claimed, "contradicts itself");
}
