//! The part of `evidence.json` about who was known at a time: every change of principals until then, and what a server or a
//! ledger may try with them.

use tagledger::ledger::answer::{Claimed, Question};
use tagledger::ledger::subject::Subject;
use tagledger::proto;
use tagledger::proto::Role;
use tagledger::proto::subject_proof::Terminal;

use crate::authority::{beginning, by, change, ci, principal};
use crate::evidence::{Cases, story, t};
use crate::ledger::little_ledger::{LittleLedger, digest};
use crate::page::Page;

/// After the beginning, with a commitment at the end of each line:
///
/// ```text
///  9 ci is revoked   11 admin as it is: UNCHANGED, 12 build, with what was ci's   14 reader is made an admin
/// ```
fn changes() -> LittleLedger {
    let mut ledger = beginning();
    let admin = principal(5, &[Role::Admin], &[], &[]);
    let promoted = principal(4, &[Role::Reader, Role::Admin], &[], &[]);
    for batch in [
        vec![change("ci", None)],
        vec![change("admin", Some(admin)), change("build", Some(ci()))],
        vec![change("reader", Some(promoted))],
    ] {
        for kind in batch {
            ledger.add(&by("operator", kind));
        }
        ledger.commit();
    }
    assert_eq!(ledger.size(), 16, "as the lines above have it");
    ledger
}

/// Who was known at a time, with every change until then, and the one after.
fn principals_at(ledger: &LittleLedger, at_us: u64) -> Claimed {
    let size = ledger.size();
    let moment = if at_us == 0 { t(size - 1) } else { at_us };
    let by_then =
        ledger.history(&Subject::Principals).iter().filter(|version| version.recorded_at_us <= moment).count();
    let page = Page::new(ledger, size).part(&Subject::Principals, 0..by_then as u64);
    Claimed::new(Question::Principals { at_us }, vec![page.evidence()])
}

pub(crate) fn add(cases: &mut Cases) {
    let ledger = changes();
    let now = principals_at(&ledger, 0);
    let all = "admin=7 build=12 operator=1 reader=14 scanner=5 signer=4 of 10";
    cases.holds("principals now", &now, all);
    let then = principals_at(&ledger, t(8));
    let beginning = "admin=7 ci=3 operator=1 reader=6 scanner=5 signer=4 of 10";
    cases.holds("principals before one was revoked", &then, beginning);
    cases.holds("principals after one was revoked", &principals_at(&ledger, t(10)), &beginning.replace("ci=3 ", ""));
    cases.holds("principals before there were any", &principals_at(&ledger, t(0)), " of 10");
    let absent = Page::new(&story(), 35).absent(&Subject::Principals).evidence();
    let absent = Claimed::new(Question::Principals { at_us: 0 }, vec![absent]);
    cases.holds("principals of a log without", &absent, " of 0");
    refused(cases, &now, &then);
    lying(cases);
}

fn history(claimed: &mut Claimed) -> &mut proto::HistoryProof {
    match &mut claimed.pages[0].subjects[0].terminal {
        Some(Terminal::History(history)) => history,
        other => panic!("{other:?}"),
    }
}

fn refused(cases: &mut Cases, now: &Claimed, then: &Claimed) {
    let ledger = changes();
    let without = |version: u64| {
        let versions: Vec<u64> = (0..10).filter(|at| *at != version).collect();
        let page = ledger.shown(&[(Subject::Principals, versions)]);
        Claimed::new(Question::Principals { at_us: 0 }, vec![page])
    };
    cases.claimed("principals without a revocation", "entry 9 is left out", &without(6), "is missing");
    cases.claimed("principals without the last change", "entry 14 is left out", &without(9), "is missing");
    cases.claimed("principals without the first change", "entry 1 is left out", &without(0), "is missing");
    cases.spoilt(
        "principals at another time",
        "entry 9 came after t(8), and 10 was asked for",
        then,
        "is missing",
        |claimed| {
            claimed.question = Question::Principals { at_us: t(10) };
        },
    );
    cases.spoilt("principals with another root of their history", "a bit is changed", now, "map proof", |claimed| {
        history(claimed).root[0] ^= 1;
    });
    cases.spoilt("principals with an entry that is another", "entry 9 has another place", now, "history", |claimed| {
        history(claimed).leaves[6].index = 11;
    });
    cases.spoilt("principals said to be none", "the subject is there", now, "map proof", |claimed| {
        claimed.pages[0].subjects[0].terminal = Some(Terminal::Empty(proto::EmptySubtree {}));
    });
    cases.spoilt("principals without an entry", "entry 4 is not shown", now, "not", |claimed| {
        claimed.pages[0] = {
            let mut page = ledger.evidence(&[1, 3, 5, 6, 7, 9, 11, 12, 14, 15]);
            page.subjects = claimed.pages[0].subjects.clone();
            page
        };
    });
}

/// What the ledger itself signed, and could not have made.
fn lying(cases: &mut Cases) {
    let mut lie = |name: &str, why: &str, lie: &dyn Fn(&mut LittleLedger)| {
        let mut ledger = changes();
        lie(&mut ledger);
        ledger.commit();
        cases.claimed(
            &format!("principals, signed: {name}"),
            why,
            &principals_at(&ledger, 0),
            "what became of the principals",
        );
    };
    lie("another digest of all of them", "the digest is of nobody's", &|ledger| {
        ledger.add_but(&by("operator", change("scanner", None)), |_, draft| {
            let (count, _) = draft.record.detail.split_once(", ").expect("a summary");
            draft.record.detail = format!("{count}, {}", digest('a'));
        });
    });
    lie("another number of them", "there are five, and it says six", &|ledger| {
        ledger.add_but(&by("operator", change("scanner", None)), |_, draft| {
            let (_, digest) = draft.record.detail.split_once(", ").expect("a summary");
            draft.record.detail = format!("6 principals, {digest}");
        });
    });
    lie("the revocation of nobody", "nobody is called so", &|ledger| {
        ledger.add(&by("operator", change("nobody", None)));
    });
    lie("a token of another", "the hash is build's", &|ledger| {
        ledger.add(&by("operator", change("new", Some(principal(2, &[Role::Reader], &[], &[])))));
    });
}
