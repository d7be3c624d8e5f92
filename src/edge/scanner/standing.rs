//! What is open about a tag, from the newest entries of its history.

use std::collections::BTreeSet;

use crate::edge::port::{Intent, Standing, TagView};
use crate::ledger::statement::{Disposition, Kind, Statement};
use crate::proto::{Outcome, Record};

/// What a tag stands at, from its entries, the newest first. What lies before them counts as looked after.
///
/// A claim is open if it says what became of the tag and nobody has looked since; older claims are covered by what came after
/// them. An intent is open if nothing says what became of it.
pub fn standing<'a>(view: TagView, newest_first: impl Iterator<Item = (&'a Record, &'a Statement)>) -> Standing {
    let (mut claim, mut intent, mut has_looked) = (None, None, false);
    // Anybody who looked settles it, and its own principal with a word.
    let (mut looked_at, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for (record, statement) in newest_first {
        let (disposition, settles) = match &statement.kind {
            Kind::TagObserved { checks, .. } => {
                has_looked = true;
                looked_at.extend(*checks);
                continue;
            }
            Kind::TagPush { disposition, settles, .. }
            | Kind::TagDelete { disposition, settles, .. }
            | Kind::ManifestDelete { disposition, settles, .. } => (*disposition, *settles),
            _ => continue,
        };
        settled.extend(settles.map(|intent| (intent, record.principal.as_str())));
        match disposition {
            Disposition::Intended if record.outcome() == Outcome::Noted && intent.is_none() => {
                let gone = match &statement.kind {
                    // Its hold ends with whatever takes the digest from under the tag.
                    Kind::ManifestDelete { digest, .. } => view.digest.as_ref() != Some(digest),
                    _ => false,
                };
                // Only one intent holds a tag at a time, so an older one is settled.
                let is_settled =
                    looked_at.contains(&record.index) || settled.contains(&(record.index, record.principal.as_str()));
                let open = !gone && !is_settled;
                intent = Some(open.then_some(Intent { index: record.index, recorded_at_us: record.recorded_at_us }));
            }
            Disposition::Happened | Disposition::Requested if !has_looked && claim.is_none() => {
                let tells = matches!(record.outcome(), Outcome::Applied | Outcome::Unchanged | Outcome::Violation);
                claim = tells.then_some(record.index);
            }
            _ => {}
        }
    }
    Standing { view, claim, intent: intent.flatten() }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{self, statement::Kind as Wire};

    fn digest(letter: char) -> String {
        format!("sha256:{}", letter.to_string().repeat(64))
    }

    fn parsed(kind: Wire) -> Statement {
        let statement = proto::Statement { kind: Some(kind), ..proto::Statement::default() };
        Statement::parse(&statement.encode_to_vec()).expect("valid")
    }

    fn push(disposition: proto::Disposition, settles: u64) -> Statement {
        parsed(Wire::TagPush(proto::TagPush {
            registry: "r.example".into(),
            repository: "a/b".into(),
            tag: "v1".into(),
            digest: digest('a'),
            disposition: disposition.into(),
            settles,
            ..proto::TagPush::default()
        }))
    }

    fn look(checks_entry: u64) -> Statement {
        parsed(Wire::TagObserved(proto::TagObserved {
            registry: "r.example".into(),
            repository: "a/b".into(),
            tag: "v1".into(),
            digest: digest('a'),
            checks_entry,
            ..proto::TagObserved::default()
        }))
    }

    fn delete_manifest(letter: char) -> Statement {
        parsed(Wire::ManifestDelete(proto::ManifestDelete {
            registry: "r.example".into(),
            repository: "a/b".into(),
            digest: digest(letter),
            disposition: proto::Disposition::Intended.into(),
            settles: 0,
        }))
    }

    /// What is open after these entries, with indexes from 10 on.
    fn open(entries: &[(Statement, Outcome)]) -> (Option<u64>, Option<u64>) {
        let records: Vec<_> = (10..)
            .zip(entries)
            .map(|(index, (_, outcome))| Record {
                index,
                recorded_at_us: index,
                outcome: (*outcome).into(),
                ..Record::default()
            })
            .collect();
        let view = TagView { version: 9, digest: digest('a').parse().ok() };
        let newest_first = records.iter().zip(entries.iter().map(|(statement, _)| statement)).rev();
        let found = standing(view, newest_first);
        (found.claim, found.intent.map(|intent| intent.index))
    }

    #[test]
    fn the_newest_claim_is_open_until_somebody_looks() {
        use proto::Disposition::{Happened, Refused, Requested};
        let (happened, looked) = ((push(Happened, 0), Outcome::Applied), (look(0), Outcome::Unchanged));
        assert_eq!(open(&[]), (None, None));
        assert_eq!(open(std::slice::from_ref(&happened)), (Some(10), None));
        assert_eq!(open(&[happened.clone(), looked.clone()]), (None, None));
        assert_eq!(open(&[happened.clone(), looked.clone(), happened.clone()]), (Some(12), None));
        assert_eq!(open(&[happened.clone(), (push(Happened, 0), Outcome::Unchanged)]), (Some(11), None));
        for (asked, outcome) in [(Requested, Outcome::Denied), (Refused, Outcome::Failed)] {
            assert_eq!(
                open(&[happened.clone(), (push(asked, 0), outcome)]),
                (Some(10), None),
                "{asked:?} moved nothing"
            );
        }
        assert_eq!(open(&[(push(Requested, 0), Outcome::Applied)]), (Some(10), None));
    }

    #[test]
    fn an_intent_is_open_until_it_is_settled() {
        use proto::Disposition::{Happened, Intended, Refused};
        let intent = (push(Intended, 0), Outcome::Noted);
        assert_eq!(open(std::slice::from_ref(&intent)), (None, Some(10)));
        assert_eq!(open(&[intent.clone(), (push(Happened, 11), Outcome::Applied)]), (Some(11), None));
        assert_eq!(open(&[intent.clone(), (push(Refused, 11), Outcome::Failed)]), (None, None));
        assert_eq!(open(&[intent.clone(), (look(11), Outcome::Applied)]), (None, None));
        assert_eq!(
            open(&[intent.clone(), (look(0), Outcome::Unchanged)]),
            (None, Some(10)),
            "that look was at something else"
        );
        assert_eq!(open(&[(push(Intended, 0), Outcome::Denied)]), (None, None));
        assert_eq!(open(&[(delete_manifest('a'), Outcome::Noted)]), (None, Some(10)));
        assert_eq!(open(&[(delete_manifest('b'), Outcome::Noted)]), (None, None), "the tag has moved on");
    }

    #[test]
    fn who_may_not_look_settles_nobody_elses_intent() {
        use proto::Disposition::{Intended, Refused};
        let entries = [(push(Intended, 0), "g"), (push(Refused, 11), "m"), (look(11), "m")];
        let record = |(index, (_, principal)): (u64, &(Statement, &str))| Record {
            index,
            principal: (*principal).to_owned(),
            outcome: Outcome::Noted.into(),
            ..Record::default()
        };
        let records: Vec<_> = (10..).zip(&entries).map(record).collect();
        let intent_after = |count: usize| {
            let statements = entries.iter().map(|(statement, _)| statement);
            let newest_first = records[..count].iter().zip(statements).rev();
            standing(TagView { version: 9, digest: None }, newest_first).intent.map(|intent| intent.index)
        };
        assert_eq!([intent_after(1), intent_after(2), intent_after(3)], [Some(10), Some(10), None]);
    }
}
