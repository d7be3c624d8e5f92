//! Pushes to a manifest and its deletion by digest, through whatever gateways: never both at the registry.
//!
//! A registry deletes a manifest under all the tags that it has by then. The ledger holds those that were bound to it when the
//! deletion was intended; another tag that is pushed to it meanwhile would go with them, a protected one too, and undecided. But every
//! intent names the digest, so all of them stand in its history, in one order, and each gateway looks there once its own is
//! recorded. So the later of two always sees the earlier, and keeps out of its way:
//!
//! - a push waits until the deletions that were intended before it are over: an entry says what became of them;
//! - a deletion that sees a push before it of which that is not known yet is taken back, and so is one that was decided before a
//!   tag was bound to the manifest. When the push is over it is intended anew, and decided with the tag.
//!
//! Who is earlier waits for nobody who is later, and what is taken back is over, so no two wait for each other. An intent counts
//! for as long as something of it may come, should its gateway be gone: `hold_bound` and `late_bound`. A push that changes nothing
//! keeps nobody away: a deletion after it holds its tag, or finds it unbound. What passes without the ledger is not seen, nor is a
//! manifest that is pushed under no tag.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use tokio::time::Instant;

use super::Gateway;
use super::change::{Aim, Open};
use super::errors::Refusal;
use super::unknown::Manifest;
use super::waiting::Waiting;
use crate::edge::port::{GatewayPort, Intent, Sighting};
use crate::ledger::names::{Digest, TagRef};
use crate::ledger::statement::{Disposition, Kind};
use crate::proto::Outcome;

/// What the deletion of a manifest was taken back for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rival {
    /// A tag is about to be bound to it.
    Push { tag: TagRef, intent: Intent },
    /// A tag was, since it was decided.
    Bound { tag: TagRef },
}

impl<P: GatewayPort> Gateway<P> {
    /// Before a push is sent: waits until the deletions of its manifest that were intended before are over. Returns whether there
    /// were any.
    pub(super) async fn await_deletions(&self, pushes: &[Open], deadline: Instant) -> Result<bool, Refusal> {
        // Those of one request are all of one manifest.
        let Some(Aim::Push { tag, digest, .. }) = pushes.first().map(|open| &open.aim) else { return Ok(false) };
        let manifest = Manifest { registry: &tag.registry, repository: &tag.repository, digest };
        let entries = || pushes.iter().filter_map(|open| open.entry.map(|entry| (entry, open.holds)));
        // From the first on that holds its tag, deletions that are intended see the request.
        let holding = entries().filter(|(_, holds)| *holds).map(|(entry, _)| entry).min_by_key(|entry| entry.index);
        let Some(own) = holding.or_else(|| entries().map(|(entry, _)| entry).max_by_key(|entry| entry.index)) else {
            return Ok(false);
        };
        let (mut waiting, mut waited) = (Waiting::until(deadline), false);
        loop {
            let history = self.history_of(&manifest, own).await?;
            let Some((index, principal)) = history.deletion_before(own.index) else { return Ok(waited) };
            waited = true;
            if !waiting.pause().await {
                return Err(Refusal::later(format!(
                    "manifest {digest} is about to be deleted by the intent of {principal} in entry {index} of the ledger, of which it is \
                     not known yet what became; try again later"
                )));
            }
        }
    }

    /// Before a manifest is deleted: what stands against it that was not known when it was intended.
    pub(super) async fn rival(&self, manifest: &Manifest<'_>, own: Intent) -> Result<Option<Rival>, Refusal> {
        let mut over = BTreeSet::new();
        loop {
            let history = self.history_of(manifest, own).await?;
            if let Some(tag) = history.bound_after(own.index) {
                return Ok(Some(Rival::Bound { tag }));
            }
            let mut pushes = history.pushes_before(own.index);
            pushes.retain(|(_, intent)| !over.contains(&intent.index));
            if pushes.is_empty() {
                return Ok(None);
            }
            for (tag, intent) in pushes {
                if self.port.holds(intent, &tag).await.map_err(|error| Refusal::later(error.to_string()))? {
                    return Ok(Some(Rival::Push { tag, intent }));
                }
                // What ended it does not name the digest, or came after the look: so there is another.
                over.insert(intent.index);
            }
        }
    }

    /// Waits until a deletion that was taken back may be intended anew.
    pub(super) async fn await_rival(
        &self,
        rival: &Rival,
        digest: &Digest,
        lent: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let (Rival::Push { tag, .. } | Rival::Bound { tag }) = rival;
        if let Rival::Push { intent, .. } = rival {
            let index = intent.index;
            let mut waiting = Waiting::until(deadline);
            while self.port.holds(*intent, tag).await.map_err(|error| Refusal::later(error.to_string()))? {
                match self.settle_old(&tag.to_string(), index, lent).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(reason) => tracing::warn!(%tag, index, reason, "can't settle an old intent"),
                }
                if !waiting.pause().await {
                    return Err(Refusal::later(format!(
                        "tag {tag} is about to be pushed to manifest {digest} by the intent in entry {index} of the ledger, of which it is \
                         not known yet what became; try again later"
                    )));
                }
            }
        }
        if Instant::now() < deadline {
            return Ok(());
        }
        let message =
            format!("tag {tag} was pushed to manifest {digest} while that was about to be deleted; try again");
        Err(Refusal::later(message))
    }

    /// What was stated about a manifest for as long as it may matter to an intent that is recorded.
    async fn history_of<'a>(&self, manifest: &'a Manifest<'a>, own: Intent) -> Result<History<'a>, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let bound = self.config.hold_bound + self.config.late_bound;
        // By the ledger's clock, unless that has leapt ahead.
        let since_us =
            own.recorded_at_us.min(now_us).saturating_sub(u64::try_from(bound.as_micros()).unwrap_or(u64::MAX));
        // An answer may be large: only some are in memory at a time.
        let _turn = self.histories.acquire().await.expect("it is never closed");
        let sightings = self.port.sightings(manifest.digest, since_us).await;
        let sightings = sightings.map_err(|error| {
            Refusal::later(format!("can't tell who else changes manifest {}: {error}", manifest.digest))
        })?;
        Ok(History { manifest, sightings })
    }
}

/// Entries that name a manifest's digest, in their order.
struct History<'a> {
    manifest: &'a Manifest<'a>,
    sightings: Vec<Sighting>,
}

impl History<'_> {
    /// The first deletion that was intended before an entry and is not over, and whose it is.
    fn deletion_before(&self, index: u64) -> Option<(u64, &str)> {
        let mut open: BTreeMap<u64, &str> = BTreeMap::new();
        // One that became several entries is known by the first.
        let goes_on = |one: &Sighting, next: &Sighting| {
            next.index == one.index + 1 && next.principal == one.principal && next.statement == one.statement
        };
        for first in self.sightings.chunk_by(goes_on).filter_map(<[_]>::first) {
            let Kind::ManifestDelete { registry, repository, digest, disposition, settles } = &first.statement.kind
            else {
                continue;
            };
            if (registry, repository, digest)
                != (self.manifest.registry, self.manifest.repository, self.manifest.digest)
            {
                continue;
            }
            let is_allowed = matches!(first.outcome, Outcome::Noted | Outcome::Unchanged);
            match settles {
                // Nobody else can say what became of it.
                Some(intent) if open.get(intent) == Some(&first.principal.as_str()) => drop(open.remove(intent)),
                None if *disposition == Disposition::Intended && is_allowed && first.index < index => {
                    open.insert(first.index, &first.principal);
                }
                _ => {}
            }
        }
        open.into_iter().next()
    }

    /// The pushes that were intended before an entry and of which none of these says the end; of each tag only the last, as no two
    /// hold it at once.
    fn pushes_before(&self, index: u64) -> Vec<(TagRef, Intent)> {
        let mut open: BTreeMap<&str, (&TagRef, Intent, &str)> = BTreeMap::new();
        for sighting in &self.sightings {
            let (tag, ends, by) = match &sighting.statement.kind {
                Kind::TagPush { tag, digest, disposition, settles } if self.is_here(tag, Some(digest)) => {
                    if *disposition == Disposition::Intended {
                        if sighting.outcome == Outcome::Noted && sighting.index < index {
                            let intent = Intent { index: sighting.index, recorded_at_us: sighting.recorded_at_us };
                            open.insert(tag.tag.as_str(), (tag, intent, &sighting.principal));
                        }
                        continue;
                    }
                    // Nobody else can say what became of it.
                    (tag, *settles, Some(sighting.principal.as_str()))
                }
                // But anybody who may look can look.
                Kind::TagObserved { tag, digest, checks } if self.is_here(tag, digest.as_ref()) => (tag, *checks, None),
                _ => continue,
            };
            let is_its =
                |(_, intent, of): &(&TagRef, Intent, &str)| Some(intent.index) == ends && by.is_none_or(|by| by == *of);
            if open.get(tag.tag.as_str()).is_some_and(is_its) {
                open.remove(tag.tag.as_str());
            }
        }
        open.into_values().map(|(tag, intent, _)| (tag.clone(), intent)).collect()
    }

    /// A tag that was bound to it after an entry.
    fn bound_after(&self, index: u64) -> Option<TagRef> {
        let binds = |outcome| matches!(outcome, Outcome::Applied | Outcome::Violation | Outcome::Drift);
        let later = self.sightings.iter().filter(|sighting| sighting.index > index && binds(sighting.outcome));
        let mut bound = later.filter_map(|sighting| match &sighting.statement.kind {
            Kind::TagPush { tag, digest, .. } => self.is_here(tag, Some(digest)).then_some(tag),
            Kind::TagObserved { tag, digest, .. } => self.is_here(tag, digest.as_ref()).then_some(tag),
            _ => None,
        });
        bound.next().cloned()
    }

    fn is_here(&self, tag: &TagRef, digest: Option<&Digest>) -> bool {
        (&tag.registry, &tag.repository, digest)
            == (self.manifest.registry, self.manifest.repository, Some(self.manifest.digest))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::ledger::statement::Statement;
    use crate::proto::{self, Disposition::*, statement::Kind as Wire};

    const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn digest() -> String {
        format!("sha256:{}", "a".repeat(64))
    }

    fn push(tag: &str, disposition: proto::Disposition, settles: u64) -> Wire {
        Wire::TagPush(proto::TagPush {
            registry: "r.example".into(),
            repository: "a/b".into(),
            tag: tag.into(),
            digest: digest(),
            disposition: disposition.into(),
            settles,
            ..proto::TagPush::default()
        })
    }

    fn delete(repository: &str, digest: &str, disposition: proto::Disposition, settles: u64) -> Wire {
        Wire::ManifestDelete(proto::ManifestDelete {
            registry: "r.example".into(),
            repository: repository.into(),
            digest: digest.into(),
            disposition: disposition.into(),
            settles,
        })
    }

    fn look(tag: &str, checks_entry: u64) -> Wire {
        Wire::TagObserved(proto::TagObserved {
            registry: "r.example".into(),
            repository: "a/b".into(),
            tag: tag.into(),
            digest: digest(),
            checks_entry,
            ..proto::TagObserved::default()
        })
    }

    /// What these entries, with indexes from 10 on, say of a manifest: one deletion, and the pushes, before an entry; and what
    /// was bound after it.
    fn said(entries: &[(&str, &str, Wire, Outcome)], index: u64) -> (Option<u64>, Vec<(String, u64)>, Option<String>) {
        let sighting = |(index, (principal, event_id, kind, outcome)): (u64, &(&str, &str, Wire, Outcome))| {
            let event_id = (*event_id).to_owned();
            let statement = proto::Statement { kind: Some(kind.clone()), event_id, ..proto::Statement::default() };
            let statement = Statement::parse(&statement.encode_to_vec()).expect("valid");
            let principal = (*principal).to_owned();
            Sighting { index, recorded_at_us: index, principal, outcome: *outcome, statement }
        };
        let (registry, digest) = ("r.example".parse().expect("a name"), digest().parse().expect("a digest"));
        let repository = crate::ledger::names::Repository::parse(&registry, "a/b").expect("a name");
        let manifest = Manifest { registry: &registry, repository: &repository, digest: &digest };
        let history = History { manifest: &manifest, sightings: (10..).zip(entries).map(sighting).collect() };
        let pushes = history.pushes_before(index);
        let pushes = pushes.into_iter().map(|(tag, intent)| (tag.tag.to_string(), intent.index)).collect();
        (
            history.deletion_before(index).map(|(index, _)| index),
            pushes,
            history.bound_after(index).map(|tag| tag.tag.to_string()),
        )
    }

    #[test]
    fn a_deletion_is_under_way_from_its_intent_until_its_own_principal_says_what_became_of_it() {
        let open = |entries: &[(&str, &str, Wire, Outcome)], index| said(entries, index).0;
        let here = |disposition, settles| delete("a/b", &digest(), disposition, settles);
        let intended = ("g", "1", here(Intended, 0), Outcome::Noted);
        let idle = ("g", "1", here(Intended, 0), Outcome::Unchanged);
        for intent in [&intended, &idle] {
            assert_eq!(open(std::slice::from_ref(intent), 11), Some(10));
            assert_eq!(open(std::slice::from_ref(intent), 10), None, "not before");
            for (disposition, outcome) in [(Refused, Outcome::Failed), (Happened, Outcome::Applied)] {
                let ended = |by, settles| [intent.clone(), (by, "2", here(disposition, settles), outcome)];
                assert_eq!(open(&ended("g", 11), 12), None);
                assert_eq!(open(&ended("somebody", 11), 12), Some(10), "it is not theirs");
                assert_eq!(open(&ended("g", 0), 12), Some(10), "that is of something else");
            }
        }
        let denied = ("g", "1", here(Intended, 0), Outcome::Denied);
        assert_eq!(open(&[denied], 11), None);
        for elsewhere in [delete("a/c", &digest(), Intended, 0), delete("a/b", OTHER, Intended, 0)] {
            assert_eq!(open(&[("g", "1", elsewhere, Outcome::Noted)], 11), None);
        }
        // A look at one of its tags says nothing of the others.
        assert_eq!(open(&[intended.clone(), ("h", "2", look("v1", 11), Outcome::Unchanged)], 12), Some(10));
        // Many tags take several entries.
        let several = [intended.clone(), intended.clone(), ("g", "2", here(Happened, 11), Outcome::Applied)];
        assert_eq!((open(&several[..2], 13), open(&several, 13)), (Some(10), None));
        let two = [intended, ("g", "other", here(Intended, 0), Outcome::Noted), several[2].clone()];
        assert_eq!((open(&two[..2], 13), open(&two, 13)), (Some(10), Some(11)));
    }

    #[test]
    fn a_push_is_under_way_from_its_intent_until_something_says_what_became_of_it() {
        let open = |entries: &[(&str, &str, Wire, Outcome)], index| said(entries, index).1;
        let intended = |tag: &str| ("g", "1", push(tag, Intended, 0), Outcome::Noted);
        assert_eq!(open(&[intended("v1"), intended("v2")], 12), [("v1".into(), 10), ("v2".into(), 11)]);
        assert_eq!(open(&[intended("v1"), intended("v2")], 11), [("v1".into(), 10)]);
        assert_eq!(open(&[intended("v1"), intended("v1")], 12), [("v1".into(), 11)], "one holds it at a time");
        let none: [(String, u64); 0] = [];
        for (ends, outcome) in [
            (push("v1", Happened, 11), Outcome::Applied),
            (push("v1", Refused, 11), Outcome::Failed),
            (look("v1", 11), Outcome::Applied),
        ] {
            let is_look = matches!(ends, Wire::TagObserved(_));
            assert_eq!(open(&[intended("v1"), ("g", "2", ends.clone(), outcome)], 12), none);
            let by_somebody_else = open(&[intended("v1"), ("somebody", "2", ends, outcome)], 12);
            assert_eq!(by_somebody_else.is_empty(), is_look, "who only writes ends nobody else's");
        }
        for goes_on in [push("v1", Happened, 0), push("v2", Happened, 11), look("v1", 0), look("v2", 11)] {
            assert_eq!(open(&[intended("v1"), ("g", "2", goes_on, Outcome::Applied)], 12), [("v1".into(), 10)]);
        }
        for outcome in [Outcome::Unchanged, Outcome::Denied] {
            assert_eq!(open(&[("g", "1", push("v1", Intended, 0), outcome)], 11), none, "{outcome:?}");
        }
    }

    #[test]
    fn a_tag_is_bound_later_by_whatever_is_recorded_later_and_sets_it() {
        let bound = |kind: Wire, outcome| said(&[("g", "1", kind, outcome)], 9).2;
        for (kind, outcome) in [
            (push("v1", Happened, 5), Outcome::Applied),
            (push("v1", Requested, 0), Outcome::Applied),
            (push("v1", Happened, 0), Outcome::Violation),
            (look("v1", 0), Outcome::Drift),
        ] {
            assert_eq!(bound(kind.clone(), outcome).as_deref(), Some("v1"), "{kind:?}");
            assert_eq!(said(&[("g", "1", kind, outcome)], 10).2, None, "known by then");
        }
        for (kind, outcome) in [
            (push("v1", Intended, 0), Outcome::Noted),
            (push("v1", Happened, 5), Outcome::Unchanged),
            (push("v1", Refused, 5), Outcome::Failed),
            (look("v1", 0), Outcome::Unchanged),
            (delete("a/b", &digest(), Happened, 5), Outcome::Applied),
        ] {
            assert_eq!(bound(kind.clone(), outcome), None, "{kind:?}");
        }
    }
}
