//! Settling: finding out what became of an intent, and recording it.
//!
//! Known outcomes are recorded at once, and again until the ledger takes them. What is not known is looked at: what is as it
//! was to be is believed at once, anything else only when two looks in a row say the same, and the request is over. One that was
//! left unanswered is not: a registry that has it may carry it out long after its connection is gone, and a hold that ended
//! before would let somebody else have the tag. So it keeps its hold, and is looked at now and then, until `late_bound` has passed since it was
//! given up; of a gateway that is gone, which could have waited until `hold_bound` after the intent, as much later.
//! What passed without the ledger is looked at too, under the hold of its late intent: several such changes of one
//! tag are recorded in no order of theirs, and all of them as what is there in the end. Nothing is given up; what waits is in the journal and in a gauge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::Gateway;
use super::change::{Aim, Open, observed};
use super::journal::Left;
use crate::edge::port::{GatewayPort, PortError};
use crate::ledger::names::{Digest, Repository, TagRef};
use crate::proto::{self, Disposition};

/// After a first failure; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl<P: GatewayPort> Gateway<P> {
    /// Settles what a gateway before left open.
    pub(super) fn settle_left(self: &Arc<Self>, left: BTreeMap<String, Left>) {
        if !left.is_empty() {
            tracing::info!(count = left.len(), "settling what was under way when the gateway before ended");
        }
        for (id, left) in left {
            match Open::read(&id, &left) {
                Some(open) => self.settle_later(open),
                None => {
                    tracing::warn!(id, "the journal has an intent that can't be read; it is left out");
                    self.journal.end(&id);
                }
            }
        }
    }

    /// Records a known outcome before the client hears of it; what is not known, or not taken, is for later.
    pub(super) async fn settle_first(self: &Arc<Self>, mut open: Open) {
        if open.known.is_some() && open.holds && !self.is_given_up(&open) {
            match self.settle(&mut open).await {
                Ok(by) => {
                    self.figures.settled(by);
                    self.journal.end(&open.id);
                    return;
                }
                Err(reason) => tracing::warn!(reason, "what became of a change can't be recorded yet"),
            }
        }
        if open.known == Some(Disposition::Refused) && !open.holds {
            self.settle_refused(open);
        } else {
            self.settle_later(open);
        }
    }

    /// Nothing came of it. That it was attempted is recorded once the ledger is back; the ledger may have the intent already, and with
    /// it a hold that nobody else would end for long.
    pub(super) fn settle_refused(self: &Arc<Self>, open: Open) {
        // The ledger surely has none of it, and who is refused again and again must not fill the journal.
        if open.is_unasked && !self.journal.has_room_to_refuse() {
            self.figures.forgotten.inc();
            return self.journal.end(&open.id);
        }
        self.journal.refuse(&open.id);
        self.settle_later(Open { known: Some(Disposition::Refused), ..open });
    }

    /// Goes on until it is recorded what became of it.
    pub(super) fn settle_later(self: &Arc<Self>, mut open: Open) {
        let gateway = Arc::clone(self);
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let place = Arc::clone(&gateway.settling).acquire_owned().await.expect("it is never closed");
                if gateway.is_given_up(&open) {
                    (open.known, open.holds) = (None, false);
                }
                match gateway.settle(&mut open).await {
                    Ok(by) => {
                        tracing::info!(intent = open.index(), aim = ?open.aim.place(), by, "settled");
                        gateway.figures.settled(by);
                        gateway.journal.end(&open.id);
                        return;
                    }
                    Err(reason) => {
                        tracing::warn!(intent = open.index(), aim = ?open.aim.place(), reason, "not settled yet");
                    }
                }
                drop(place);
                // Not longer than until nothing of it can come any more.
                let rest = open.abandoned.and_then(|at| gateway.config.late_bound.checked_sub(at.elapsed()));
                sleep(rest.map_or(pause, |rest| rest.min(pause))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Whether the registry may still carry out what it has of this.
    fn may_come_late(&self, open: &Open) -> bool {
        if open.abandoned.is_none_or(|at| at.elapsed() >= self.config.late_bound) {
            return false;
        }
        open.entry.is_none_or(|entry| age(entry.recorded_at_us) < self.config.hold_bound + self.config.late_bound)
    }

    /// Others may have settled it by now and changed the tag since: that it happened says nothing of what is there.
    fn is_given_up(&self, open: &Open) -> bool {
        open.known == Some(Disposition::Happened)
            && open.since.is_some_and(|since| since.elapsed() >= self.config.hold_bound)
    }

    /// One try. Returns how it was settled.
    async fn settle(&self, open: &mut Open) -> Result<&'static str, String> {
        if open.entry.is_none() {
            let is_refused = open.known == Some(Disposition::Refused);
            match self.record(open.intent.clone()).await {
                Ok(recorded) => open.note_entry(&recorded),
                Err(error @ PortError::Overloaded(_)) => return Err(error.to_string()),
                // It makes room. While somebody else holds the tag, it has no entry; and where the gateway may not say that it intended
                // something, it may not say either what became of that.
                Err(error) if is_refused && error.is_refusal() && !self.journal.has_room_to_refuse() => {
                    tracing::warn!(%error, aim = ?open.aim.place(), "what was refused is not recorded");
                    self.figures.forgotten.inc();
                    return Ok("known");
                }
                // Somebody else is at work on the tag: what is there is known once they are done, or gone.
                Err(PortError::Held { tag, index }) => {
                    self.settle_old(&tag, index, open.authorization.as_ref()).await?;
                    return Err(PortError::Held { tag, index }.to_string());
                }
                // Who is refused now may have been heard before: it may have an entry.
                Err(error) if is_refused || !error.is_refusal() => return Err(error.to_string()),
                Err(error) => tracing::error!(%error, "an intent is not taken by the ledger"),
            }
        }
        // Nothing is changed under a hold but by whoever has it; without one, this process at least keeps away.
        let _guard = match open.aim.tag().filter(|_| !open.holds) {
            Some(tag) => Some(self.locks.tags(tag.repository.as_str(), std::iter::once(tag.tag.to_string())).await),
            None => None,
        };
        match open.known {
            // It was denied, or changes nothing: that is recorded already.
            Some(Disposition::Refused) if !open.holds => Ok("known"),
            Some(known) => self.say(open.outcome(known), None).await.map(|()| "known"),
            None => {
                let (repository, reference) = open.aim.place();
                // Before the look: what is recorded after it may be about something newer than what was seen.
                let mut view = None;
                if let Some(tag) = open.aim.tag() {
                    let standing = self.port.standing_of(tag).await.map_err(|error| error.to_string())?;
                    // Somebody else is at work on it: a look now would end their hold.
                    if let Some(intent) =
                        standing.intent.filter(|intent| !open.holds && Some(intent.index) != open.index())
                    {
                        self.settle_old(&tag.to_string(), intent.index, open.authorization.as_ref()).await?;
                        return Err(format!("the tag is held by the intent in entry {}", intent.index));
                    }
                    view = Some(standing.view);
                }
                let lent = open.authorization.as_ref();
                let seen = if self.may_come_late(open) {
                    let seen = self.look_once(repository, reference, open.aim.digest(), lent).await?;
                    // Without a hold somebody else may change the tag, and this come after it. What changes nothing was as intended before.
                    if !open.holds || open.is_idle || seen.as_ref() != open.aim.digest() {
                        return Err("the registry left it unanswered and may still carry it out".to_owned());
                    }
                    seen
                } else {
                    self.look(repository, reference, open.aim.digest(), lent).await?
                };
                if !open.holds && view.as_ref().is_some_and(|view| view.digest == seen) {
                    // As the ledger has it, and nobody is kept waiting.
                    return Ok("look");
                }
                let statement = match &open.aim {
                    // What the client can't see need not be gone.
                    Aim::Push { .. } if seen.is_none() && self.lends(lent) => open.outcome(Disposition::Refused),
                    Aim::Push { tag, .. } | Aim::Delete { tag } => open.observation(tag, seen.as_ref()),
                    Aim::DeleteManifest { .. } if seen.is_none() => open.outcome(Disposition::Happened),
                    Aim::DeleteManifest { .. } => open.outcome(Disposition::Refused),
                };
                self.say(statement, view.map(|view| view.version)).await.map(|()| "look")
            }
        }
    }

    /// `version`: how long the history of the tag has to be still.
    async fn say(&self, statement: proto::Statement, version: Option<u64>) -> Result<(), String> {
        let recorded = match version {
            Some(version) => self.record_if_at(statement, version).await,
            None => self.record(statement).await,
        };
        match recorded {
            // An earlier look at the same saw something else, and is recorded: that has settled it.
            Ok(_) | Err(PortError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What a reference is in the registry. What was to be is believed at once, anything else when it is seen twice.
    async fn look(
        &self,
        repository: &Repository,
        reference: &str,
        expected: Option<&Digest>,
        lent: Option<&HeaderValue>,
    ) -> Result<Option<Digest>, String> {
        let mut seen = self.look_once(repository, reference, expected, lent).await?;
        while seen.as_ref() != expected {
            sleep(self.config.look_pause).await;
            let again = self.look_once(repository, reference, expected, lent).await?;
            if again == seen {
                break;
            }
            seen = again;
        }
        Ok(seen)
    }

    async fn look_once(
        &self,
        repository: &Repository,
        reference: &str,
        expected: Option<&Digest>,
        lent: Option<&HeaderValue>,
    ) -> Result<Option<Digest>, String> {
        let asked = self.looks.ask_as(repository, reference, expected, lent).await;
        asked.map_err(|error| format!("can't look at {reference} in {repository}: {error}"))
    }

    /// Settles an intent of whoever it is, if it is so old that its gateway must be gone: by a look that finds it carried out, or by
    /// any look once it is so old that the registry does not carry it out any more. Returns whether it did.
    pub(super) async fn settle_old(&self, tag: &str, index: u64, lent: Option<&HeaderValue>) -> Result<bool, String> {
        let intent = self.port.intent(index).await.map_err(|error| error.to_string())?;
        let age = age(intent.recorded_at_us);
        if age < self.config.hold_bound {
            return Ok(false);
        }
        let tag: TagRef = tag.parse().map_err(|error| format!("{tag:?}: {error}"))?;
        let version = self.port.standing_of(&tag).await.map_err(|error| error.to_string())?.view.version;
        let (repository, reference, expected) = (&tag.repository, tag.tag.as_str(), intent.digest.as_ref());
        let seen = if age < self.config.hold_bound + self.config.late_bound {
            let seen = self.look_once(repository, reference, expected, lent).await?;
            if seen.as_ref() != expected {
                return Ok(false);
            }
            seen
        } else {
            self.look(repository, reference, expected, lent).await?
        };
        if seen.is_none() && self.lends(lent) {
            // Registries hide by a 404 what a client may not see.
            return Err(
                "absent is only what the client who asks can't see; give the gateway credentials of its own".into()
            );
        }
        let who: String = hex::encode(Sha256::digest(tag.to_string()))[..32].to_owned();
        let statement = proto::Statement {
            kind: Some(observed(&tag, seen.as_ref(), Some(index))),
            event_id: format!("gateway/hold/{index}/{who}"),
            source: self.config.name.clone(),
            ..proto::Statement::default()
        };
        self.say(statement, Some(version)).await?;
        tracing::warn!(%tag, index, seconds = age.as_secs(), "settled an intent whose gateway said nothing for too long");
        self.figures.settled("look");
        Ok(true)
    }
}

/// How long ago something was recorded, as far as clocks agree.
fn age(recorded_at_us: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_micros(recorded_at_us))
}
