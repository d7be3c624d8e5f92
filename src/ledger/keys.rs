//! The keys of a ledger, one after another.
//!
//! A ledger changes its key as it changes everything: by a statement, in its log. A [`KeyChange`] names the new key, and the new
//! key consents to it. Its entry is signed by the key in force, and so is the commitment after it, which closes the batch; from
//! then on the new key signs. So the entry `n` of a change says of every entry whose it is: those below `n + 2` are the old
//! key's, the others the new one's. That is a [`Chain`], and whoever trusts one key of it can follow it both ways:
//!
//! - forward, since the old key signed the entry that names the new one;
//! - backward, since the new key signs checkpoints over that entry, and it names the old one.
//!
//! [`Chain::follow`] does so. A ledger that never changed its key has a chain of one.

use sha2::{Digest as _, Sha256};

use super::answer::{AnswerError, Claimed, Proven, Question};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::entry::{Body, SignedEntry};
use super::names::Digest;
use super::note::{Skey, Vkey};
use super::signature::{self, SIGNATURE_LENGTH};
use super::statement::{Kind, Violation};
use super::subject::Subject;
use crate::proto::{self, Outcome};

/// Entries from that of a change to the first of the new key: itself, and the commitment that closes its batch.
const UNTIL_IN_FORCE: u64 = 2;

/// A change of the ledger's key, to which the new key consents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    vkey: Vkey,
    replaces: Vkey,
    digest: Digest,
}

impl KeyChange {
    /// The change from a key to the next, with its consent.
    pub fn to_next(replaces: &Vkey, next: &Skey) -> proto::KeyChange {
        let (replaces, vkey) = (replaces.to_string(), next.vkey().to_string());
        let consent = signature::sign(next.key(), &signature::consent_message(&replaces, &vkey)).to_vec();
        proto::KeyChange { vkey, replaces, consent }
    }

    /// Parses one, or says everything that is wrong with it.
    pub fn parse(message: &proto::KeyChange) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut key = |field: &str, text: &str| {
            let parsed = text.parse::<Vkey>().ok().filter(|vkey| vkey.to_string() == text);
            if parsed.is_none() {
                let message = "is not a verifier key in the form <origin>+<hash>+<base64>";
                violations.push(Violation::new(format!("key_change.{field}"), "INVALID", message));
            }
            parsed
        };
        let (vkey, replaces) = (key("vkey", &message.vkey), key("replaces", &message.replaces));
        let (Some(vkey), Some(replaces)) = (vkey, replaces) else { return Err(violations) };
        let refuse = |field: &str, reason, message: &str| Err(vec![Violation::new(field, reason, message)]);
        if vkey.origin() != replaces.origin() {
            return refuse("key_change.vkey", "OTHER_ORIGIN", "is of another origin than the key that it replaces");
        }
        if vkey == replaces {
            return refuse("key_change.vkey", "UNCHANGED", "is the key that it is to replace");
        }
        let consent = signature::consent_message(&message.replaces, &message.vkey);
        if signature::verify(vkey.key(), &consent, &message.consent).is_err() {
            let message = format!("is not the consent of the new key: {SIGNATURE_LENGTH} bytes, by it, over both keys");
            return refuse("key_change.consent", "SIGNATURE", &message);
        }
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&message.vkey)));
        let digest = digest.parse().expect("a digest in canonical form");
        Ok(Self { vkey, replaces, digest })
    }

    /// The new key.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// The key that it follows.
    pub fn replaces(&self) -> &Vkey {
        &self.replaces
    }

    /// `sha256:` of the new vkey's text.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// The keys of one ledger: one alone, or as many as are known to have followed each other.
pub trait Keys {
    /// The key of entry 0.
    fn first(&self) -> &Vkey;

    /// Those after it.
    fn later(&self) -> &[Link];

    /// The key that signs the entry with this index.
    fn of_entry(&self, index: u64) -> &Vkey {
        self.later().iter().rev().find(|link| link.from <= index).map_or(self.first(), |link| &link.vkey)
    }

    /// The key in force.
    fn newest(&self) -> &Vkey {
        self.later().last().map_or(self.first(), |link| &link.vkey)
    }

    /// All keys, in their order.
    fn all(&self) -> impl DoubleEndedIterator<Item = &Vkey> + Clone {
        std::iter::once(self.first()).chain(self.later().iter().map(|link| &link.vkey))
    }

    /// The same as a chain.
    fn to_chain(&self) -> Chain {
        Chain { first: self.first().clone(), later: self.later().to_vec() }
    }
}

impl Keys for Vkey {
    fn first(&self) -> &Vkey {
        self
    }

    fn later(&self) -> &[Link] {
        &[]
    }
}

/// Keys that followed each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    first: Vkey,
    later: Vec<Link>,
}

/// A key that followed another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// It.
    pub vkey: Vkey,
    /// Index of the first entry that it signs.
    pub from: u64,
}

impl Link {
    /// Index of the entry that announced it.
    pub fn announced_in(&self) -> u64 {
        self.from - UNTIL_IN_FORCE
    }
}

/// Why a change of keys does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Made for another moment.
    #[error(
        "the key in force is {in_force}, and this change replaces {replaces}; make one that replaces the key in force"
    )]
    Replaces {
        /// The key in force.
        in_force: String,
        /// What it was made for.
        replaces: String,
    },
    /// No key comes back.
    #[error("{0} was a key of this ledger before, or can't be told from one; a new one is needed")]
    Known(String),
    /// Another ledger's.
    #[error("the keys in it are of {found}, and this ledger is {expected}")]
    OtherOrigin {
        /// Whose they are.
        found: String,
        /// Whose they must be.
        expected: String,
    },
}

/// Why keys do not follow from the trusted one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry that changes no key.
    #[error("entry {0} is said to change the key, and does not")]
    NoChange(u64),
    /// A change that does not follow from those before it.
    #[error("entry {index}: {error}")]
    Change {
        /// The entry.
        index: u64,
        /// Why not.
        error: ChangeError,
    },
    /// Made by a key that was not in force any more.
    #[error("entry {0} changes the key at a place where the key that it replaces was not in force")]
    Retired(u64),
    /// Keys of somebody else.
    #[error("the trusted key, {0}, is none of them")]
    Elsewhere(String),
    /// Shown by somebody who need not have the newest key.
    #[error("the newest of the keys, {key}, did not sign the checkpoint that shows them: {error}")]
    NotByNewest {
        /// The newest key.
        key: String,
        /// What is wrong with the checkpoint under it.
        error: CheckpointError,
    },
    /// Not in the log.
    #[error(transparent)]
    Evidence(Box<AnswerError>),
    /// Some of them are not shown.
    #[error("{shown} changes of the key are shown, and there are {count}")]
    Incomplete {
        /// How many are shown.
        shown: u64,
        /// How many there are.
        count: u64,
    },
}

/// Two chains of one ledger that part: the key before announced two successors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key} announced two successors: {one}, and {other}")]
pub struct TwoSuccessors {
    key: String,
    one: String,
    other: String,
}

impl Chain {
    /// A key that nothing followed yet.
    pub fn of(first: Vkey) -> Self {
        Self { first, later: Vec::new() }
    }

    /// With the key that a change in the entry with this index brings.
    pub fn after(&self, change: &KeyChange, index: u64) -> Result<Self, ChangeError> {
        if change.vkey.origin() != self.first.origin() {
            let (found, expected) = (change.vkey.origin().to_string(), self.first.origin().to_string());
            return Err(ChangeError::OtherOrigin { found, expected });
        }
        if change.replaces != *self.newest() {
            let (in_force, replaces) = (self.newest().to_string(), change.replaces.to_string());
            return Err(ChangeError::Replaces { in_force, replaces });
        }
        // Lines of notes name keys by their hashes, so two that share one could not be told apart.
        if self.all().any(|known| known.hash() == change.vkey.hash() || known.key() == change.vkey.key()) {
            return Err(ChangeError::Known(change.vkey.to_string()));
        }
        let mut chain = self.clone();
        chain.later.push(Link { vkey: change.vkey.clone(), from: index.saturating_add(UNTIL_IN_FORCE) });
        Ok(chain)
    }

    /// Whose signatures are under a log of this size, in words: "key ab2ed794", or "keys ab2ed794, and 0c1d2e3f from entry 42 on".
    pub fn words(&self, size: u64) -> String {
        let hash = |vkey: &Vkey| hex::encode(vkey.hash());
        let later = self.later.iter().filter(|link| link.from < size);
        let later: String =
            later.map(|link| format!(", and {} from entry {} on", hash(&link.vkey), link.from)).collect();
        format!("key{} {}{later}", if later.is_empty() { "" } else { "s" }, hash(&self.first))
    }

    /// How one key led to the next in a log of this size, in words.
    pub fn succession(&self, size: u64) -> String {
        let pairs = self.all().zip(&self.later).filter(|(_, link)| link.from < size);
        let words = |(before, link): (&Vkey, &Link)| {
            let (before, after) = (hex::encode(before.hash()), hex::encode(link.vkey.hash()));
            format!("; key {before} announced key {after} in entry {}", link.announced_in())
        };
        pairs.map(words).collect()
    }

    /// The first entry that is a later key's than that of a checkpoint of this size.
    pub fn replaced_from(&self, size: u64) -> Option<u64> {
        self.later.iter().map(|link| link.from).find(|from| *from >= size)
    }

    /// Keeps only the first of the later keys, as many as given.
    pub(super) fn cut(&mut self, later: usize) {
        self.later.truncate(later);
    }

    /// Whether the entry with this index must be the commitment that closes the batch of a change.
    pub fn closes(&self, index: u64) -> bool {
        self.later.last().is_some_and(|link| link.announced_in().checked_add(1) == Some(index))
    }

    /// Whether this one begins as the other: has all of its keys, in force from the same entries on.
    pub fn continues(&self, other: &Self) -> bool {
        self.first == other.first && self.later.starts_with(&other.later)
    }

    /// The longer of two chains of one ledger, of which one continues the other. Of a key alone it is not known what came before it.
    pub fn longer(self, other: Self) -> Result<Self, TwoSuccessors> {
        let is_of = |one: &Self, other: &Self| one.later.is_empty() && other.all().any(|key| *key == one.first);
        if is_of(&self, &other) {
            return Ok(other);
        }
        if is_of(&other, &self) || self.continues(&other) {
            return Ok(self);
        }
        if other.continues(&self) {
            return Ok(other);
        }
        let same = self.later.iter().zip(&other.later).take_while(|(one, other)| one == other).count();
        let words = |chain: &Self| match chain.later.get(same) {
            Some(link) if chain.first == self.first => format!("{} in entry {}", link.vkey, link.announced_in()),
            _ => format!("none, and began with {}", chain.first),
        };
        let before = same.checked_sub(1).map_or(&self.first, |at| &self.later[at].vkey);
        Err(TwoSuccessors { key: before.to_string(), one: words(&self), other: words(&other) })
    }

    /// The chain that evidence shows: all changes of the key, and that there are no others. One of its keys is trusted.
    ///
    /// Each change is signed by the key that it replaces and consented to by the next, and all of them are in the log under a
    /// checkpoint that the newest signed. Of two keys that follow each other, trust in either so leads to the other.
    pub fn follow(evidence: &proto::Evidence, trusted: &Vkey) -> Result<Self, ChainError> {
        let mut chain: Option<Self> = None;
        let mut shown = 0;
        for claimed in &evidence.entries {
            let index = claimed.index;
            let Ok(entry) = SignedEntry::decode(&claimed.entry) else { return Err(ChainError::NoChange(index)) };
            let Body::Record(record, statement) = entry.body else { continue };
            let Kind::KeyChange { change } = statement.kind else { return Err(ChainError::NoChange(index)) };
            shown += 1;
            if record.outcome() != Outcome::Applied {
                continue;
            }
            let before = chain.unwrap_or_else(|| Self::of(change.replaces.clone()));
            if before.of_entry(index) != before.newest() {
                return Err(ChainError::Retired(index));
            }
            chain = Some(before.after(&change, index).map_err(|error| ChainError::Change { index, error })?);
        }
        let chain = chain.unwrap_or_else(|| Self::of(trusted.clone()));
        if !chain.all().any(|key| key == trusted) {
            return Err(ChainError::Elsewhere(trusted.to_string()));
        }
        // The consent of the newest key is public. Without its line, whoever stole the one before it could announce it anew, in
        // a log of their own.
        if let Err(error) = Checkpoint::open_by(&evidence.checkpoint, std::iter::once(chain.newest())) {
            return Err(ChainError::NotByNewest { key: chain.newest().to_string(), error });
        }
        let wrong = |error| ChainError::Evidence(Box::new(error));
        let claimed = Claimed::new(Question::Entry { index: 0 }, vec![evidence.clone()]);
        let proven: Proven = claimed.prove(&chain).map_err(wrong)?;
        let count = proven.count_of(&Subject::Keys).map_err(wrong)?;
        if count != shown {
            return Err(ChainError::Incomplete { shown, count });
        }
        Ok(chain)
    }
}

impl Keys for Chain {
    fn first(&self) -> &Vkey {
        &self.first
    }

    fn later(&self) -> &[Link] {
        &self.later
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::evidence::{EvidenceError, verify};
    use crate::ledger::little_ledger::{LittleLedger, push};
    use crate::ledger::replay::{Lie, Replay};
    use crate::proto::Disposition::Happened;
    use crate::proto::statement::Kind as Said;

    fn key(seed: u8) -> Skey {
        Skey::from_seed("ledger.example".parse().expect("an origin"), &[seed; 32])
    }

    /// Entries by three keys.
    fn ledger() -> LittleLedger {
        let mut ledger = LittleLedger::empty(key(1), 1_001_000, 1000);
        ledger.commit();
        for next in [2, 3] {
            ledger.record(push("v1", '1', Happened));
            ledger.change_key(key(next));
            ledger.record(push("v1", '2', Happened));
        }
        ledger
    }

    fn chain(ledger: &LittleLedger) -> Chain {
        Chain::follow(&ledger.keys_at(ledger.size()), &key(1).vkey()).expect("honest")
    }

    #[test]
    fn whichever_key_is_trusted_leads_to_all_of_them() {
        let ledger = ledger();
        let shown = ledger.keys_at(ledger.size());
        let chain = chain(&ledger);
        let from: Vec<u64> = chain.later().iter().map(|link| link.from).collect();
        assert_eq!(from, [5, 11]);
        assert!(chain.all().eq(&[key(1).vkey(), key(2).vkey(), key(3).vkey()]));
        for trusted in 1..=3 {
            assert_eq!(Chain::follow(&shown, &key(trusted).vkey()).as_ref(), Ok(&chain), "key {trusted}");
        }
        let stranger = Chain::follow(&shown, &key(4).vkey());
        assert!(matches!(stranger, Err(ChainError::Elsewhere(_))), "{stranger:?}");
        // Whoever trusts a key that nothing followed yet needs nothing.
        let mut young = LittleLedger::empty(key(1), 1_001_000, 1000);
        young.commit();
        assert_eq!(Chain::follow(&young.keys_at(1), &key(1).vkey()), Ok(Chain::of(key(1).vkey())));
    }

    #[test]
    fn entries_and_checkpoints_of_all_keys_verify_and_none_under_one_key_alone() {
        let ledger = ledger();
        let chain = chain(&ledger);
        let all: Vec<u64> = (0..ledger.size()).collect();
        for size in [1, 3, 5, 7, 9, 11, 13] {
            verify(&ledger.evidence_at(&all[..size], size as u64), &chain).expect("honest");
        }
        for seed in 1..=3 {
            assert!(verify(&ledger.evidence(&all), &key(seed).vkey()).is_err(), "key {seed}");
        }
        let mut replay = Replay::new(key(1).vkey());
        ledger.entries().iter().for_each(|entry| replay.push(entry).expect("honest"));
        assert_eq!(*replay.keys(), chain);
    }

    #[test]
    fn a_checkpoint_that_only_a_replaced_key_signed_is_refused() {
        let ledger = ledger();
        let chain = chain(&ledger);
        let at = |size: u64| ledger.checkpoint_at(size);
        // The checkpoint over the change itself is still the old key's.
        assert_eq!(Checkpoint::open(&at(5).sign(&key(1)), &chain), Ok(at(5)));
        let refused = Checkpoint::open(&at(7).sign(&key(1)), &chain).expect_err("of the next key's log");
        assert!(matches!(refused, CheckpointError::Retired { size: 7, from: 5, .. }), "{refused:?}");
        assert!(
            refused.to_string().contains("replaced from entry 5 on")
                && refused.to_string().contains("ask its operator")
        );
        let both = at(7).sign_with(&key(2), &key(1));
        for keys in [chain.clone(), Chain::of(key(1).vkey()), Chain::of(key(2).vkey())] {
            assert_eq!(Checkpoint::open(&both, &keys), Ok(at(7)), "whoever knows one of them");
        }
        // A line that does not hold spoils the note, whatever else is on it.
        let spoiled = both.replace(at(7).sign(&key(2)).split_once("\n\n").expect("signed").1, "");
        let spoiled = spoiled + at(9).sign(&key(2)).split_once("\n\n").expect("signed").1;
        assert!(matches!(Checkpoint::open(&spoiled, &chain), Err(CheckpointError::Note(_))));
    }

    #[test]
    fn an_entry_by_a_replaced_key_is_refused() {
        let mut ledger = ledger();
        let chain = chain(&ledger);
        // As it would be signed by whoever stole the second key.
        let thief = std::mem::replace(&mut ledger.skey, key(2));
        let index = ledger.record(push("v1", '9', Happened));
        ledger.skey = thief;
        ledger.commit();
        let error = verify(&ledger.evidence(&[index]), &chain).expect_err("not the key in force");
        assert!(matches!(error, EvidenceError::Entry { .. }), "{error:?}");
        let mut replay = Replay::new(key(1).vkey());
        let lies: Vec<_> = ledger.entries().iter().filter_map(|entry| replay.push(entry).err()).collect();
        assert!(lies[0].index == index && matches!(lies[0].lie, Lie::Entry(_)), "{:?}", lies[0]);
    }

    #[test]
    fn changes_that_do_not_fit_are_refused_wherever_they_are_read() {
        let chain = chain(&ledger());
        let change = |replaces: u8, next: Skey| {
            KeyChange::parse(&KeyChange::to_next(&key(replaces).vkey(), &next)).expect("consented to")
        };
        let refused = |change: &KeyChange| chain.after(change, 20).expect_err("refused");
        assert!(matches!(refused(&change(2, key(4))), ChangeError::Replaces { .. }));
        assert!(matches!(refused(&change(3, key(1))), ChangeError::Known(_)));
        assert!(chain.after(&change(3, key(4)), 20).is_ok());
        let honest = KeyChange::to_next(&key(3).vkey(), &key(4));
        let wrong = |changed: proto::KeyChange| KeyChange::parse(&changed).expect_err("refused")[0].field.clone();
        for byte in 0..64 {
            let mut forged = honest.clone();
            forged.consent[byte] ^= 1;
            assert_eq!(wrong(forged), "key_change.consent", "byte {byte}");
        }
        let consents_to = |replaces: u8, next: u8| KeyChange::to_next(&key(replaces).vkey(), &key(next)).consent;
        for consent in [Vec::new(), honest.consent[1..].to_vec(), consents_to(2, 4), consents_to(3, 5)] {
            assert_eq!(wrong(proto::KeyChange { consent, ..honest.clone() }), "key_change.consent");
        }
        assert_eq!(wrong(proto::KeyChange { vkey: honest.replaces.clone(), ..honest.clone() }), "key_change.vkey");
        assert_eq!(wrong(proto::KeyChange { replaces: "x".into(), ..honest.clone() }), "key_change.replaces");
        let other = Skey::from_seed("other.example".parse().expect("an origin"), &[4; 32]);
        assert_eq!(wrong(KeyChange::to_next(&key(3).vkey(), &other)), "key_change.vkey");
    }

    #[test]
    fn a_log_with_a_change_that_does_not_fit_is_a_lie() {
        for (replaces, next) in [(2, 4), (3, 1), (3, 2)] {
            let mut ledger = ledger();
            ledger.record(Said::KeyChange(KeyChange::to_next(&key(replaces).vkey(), &key(next))));
            let mut replay = Replay::new(key(1).vkey());
            let lie = ledger.entries().iter().find_map(|entry| replay.push(entry).err()).expect("found");
            assert!(matches!(lie.lie, Lie::Keys(_)), "{lie:?}");
            let shown = ledger.keys_at(ledger.size());
            let followed = Chain::follow(&shown, &key(3).vkey());
            assert!(matches!(followed, Err(ChainError::Change { .. })), "{followed:?}");
        }
        // And one whose batch goes on after it.
        let mut ledger = ledger();
        ledger.add(&Said::KeyChange(KeyChange::to_next(&key(3).vkey(), &key(4))).into());
        ledger.add(&push("v1", '1', Happened).into());
        ledger.commit();
        let mut replay = Replay::new(key(1).vkey());
        let lie = ledger.entries().iter().find_map(|entry| replay.push(entry).err()).expect("found");
        assert!(matches!(lie.lie, Lie::Unclosed), "{lie:?}");
    }

    #[test]
    fn keys_that_do_not_show_every_change_or_are_in_no_log_are_refused() {
        let ledger = ledger();
        let honest = ledger.keys_at(ledger.size());
        let mut without = ledger.shown(&[(Subject::Keys, vec![1])]);
        let left_out = Chain::follow(&without, &key(3).vkey());
        assert!(matches!(left_out, Err(ChainError::Incomplete { shown: 1, count: 2 })), "{left_out:?}");
        without.subjects.clear();
        assert!(Chain::follow(&without, &key(3).vkey()).is_err());
        // The newest key has to vouch for them: what a replaced key signed is what its thief could have signed.
        let mut by_thief = honest.clone();
        by_thief.checkpoint = ledger.checkpoint_at(ledger.size()).sign(&key(2));
        assert!(matches!(Chain::follow(&by_thief, &key(1).vkey()), Err(ChainError::NotByNewest { .. })));
        for position in 0..honest.proof.len() {
            let mut changed = honest.clone();
            changed.proof[position][0] ^= 1;
            assert!(matches!(Chain::follow(&changed, &key(1).vkey()), Err(ChainError::Evidence(_))));
        }
        for entry in 0..honest.entries.len() {
            for byte in 0..honest.entries[entry].entry.len() {
                let mut changed = honest.clone();
                changed.entries[entry].entry[byte] ^= 1;
                assert!(Chain::follow(&changed, &key(1).vkey()).is_err(), "entry {entry} byte {byte}");
            }
        }
    }

    #[test]
    fn a_retired_key_alone_shows_no_chain_to_who_trusts_the_next() {
        // Whoever stole the first key has the consent of the second, which is public, and announces it in a log of their own.
        let mut forged = LittleLedger::empty(key(1), 1_001_000, 1000);
        forged.commit();
        forged.record(push("v1", '9', Happened));
        forged.change_key(key(2));
        let size = forged.size();
        let by_both = forged.keys_at(size);
        let by_thief = proto::Evidence { checkpoint: forged.checkpoint_at(size).sign(&key(1)), ..by_both.clone() };
        for trusted in [1, 2].map(|seed| key(seed).vkey()) {
            assert!(Chain::follow(&by_both, &trusted).is_ok(), "an honest ledger's has the lines of both");
            let refused = Chain::follow(&by_thief, &trusted).expect_err("the second key signed nothing of it");
            assert!(matches!(&refused, ChainError::NotByNewest { key, .. } if *key == self::key(2).vkey().to_string()));
        }
    }

    #[test]
    fn two_successors_of_one_key_are_a_fork() {
        let ends = |next: u8| {
            let mut ledger = ledger();
            ledger.change_key(key(next));
            chain(&ledger)
        };
        let (one, other, before) = (ends(4), ends(5), chain(&ledger()));
        assert_eq!(one.clone().longer(before.clone()).as_ref(), Ok(&one));
        assert_eq!(before.longer(one.clone()).as_ref(), Ok(&one));
        assert_eq!(Chain::of(key(2).vkey()).longer(one.clone()).as_ref(), Ok(&one), "a key alone is part of it");
        let words = one.longer(other).expect_err("a fork").to_string();
        assert!(words.contains(&format!("key {} announced two successors", key(3).vkey())), "{words}");
        assert!(words.contains(&key(4).vkey().to_string()) && words.contains(&key(5).vkey().to_string()), "{words}");
    }
}
