//! Auditing a ledger: its whole log, fetched over HTTP and judged anew.
//!
//! The server's newest checkpoint is verified and compared with what was seen before, as for any other question; then every
//! entry up to it is replayed ([`crate::ledger::replay`]), and what comes out must have the checkpoint's root. Fetches, and
//! signatures, go side by side; the replay takes the entries one after the other. What was found is kept now and then, and at
//! the end: a [`StateFile`] to go on from.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::credentials::Connection;

use super::remote::GrowthError;
use super::tiles::{self, InOrder, TileError, tiles_of};
use super::trust::{Remembered, TrustError, replace};
use super::{ClientError, RemoteLedger};
use crate::ledger::answer::Verdict;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::entry::{EntryError, entry_hash};
use crate::ledger::evidence::check_same_log;
use crate::ledger::keys::{Chain, Keys};
use crate::ledger::merkle::tile::{TILE_WIDTH, Tile};
use crate::ledger::merkle::{Hash, Tree};
use crate::ledger::policy::Policy;
use crate::ledger::replay::state::{self, Loaded, StateError};
use crate::ledger::replay::what_if::WhatIf;
use crate::ledger::replay::{CheckpointLie, Counts, Examined, Replay, ReplayError, examine};
use crate::ledger::time::rfc3339;

/// Tiles that are fetched and examined at once, or wait for the replay.
const SIDE_BY_SIDE: usize = 16;
/// Between two states kept on the way. What is lost when an audit is interrupted, at most.
const KEEP_EVERY: Duration = Duration::from_secs(15);
/// And no more of the time than one part in so many goes into keeping it.
const KEEP_SHARE: u32 = 20;

/// Why an audit found a lie, or came to no end.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// As for any question.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A tile.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// The first entry that is not what it must be.
    #[error(transparent)]
    Lie(#[from] ReplayError),
    /// The entries are not those of the checkpoint.
    #[error("{lie}{}", difference.as_ref().map_or(String::new(), |difference| format!("; {difference}")))]
    Checkpoint {
        /// How that shows.
        lie: CheckpointLie,
        /// Where they part.
        difference: Option<Box<Difference>>,
    },
    /// What an earlier audit read is not the beginning of the log.
    #[error(
        "the {size} entries of the earlier audit are not the first {size} of this log ({error}): they were served otherwise \
         then, or {} is not what an audit of this log kept. Audit the log from its first entry", path.display()
    )]
    NotAPrefix {
        /// The state.
        path: PathBuf,
        /// How many entries it covers.
        size: u64,
        /// Why not.
        error: crate::ledger::evidence::ForkError,
    },
    /// The state of an earlier audit.
    #[error("cannot go on from {}: {error}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: StateError,
    },
    /// A file that is something else, in the place of a state.
    #[error("{} is not the state of an audit of this log, and is left as it is; name another file with --state", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// The state can't be kept.
    #[error("cannot keep the state of the audit: {0}")]
    Keep(TrustError),
}

impl AuditError {
    /// Something was served, and it does not hold.
    pub fn is_verification(&self) -> bool {
        match self {
            Self::Client(error) => error.is_verification(),
            Self::Tile(error) => error.is_verification(),
            Self::Lie(_) | Self::Checkpoint { .. } | Self::NotAPrefix { .. } => true,
            Self::State { error, .. } => match error {
                StateError::Checkpoint(_) | StateError::Commitment(_) | StateError::OtherMap { .. } => true,
                StateError::Io(_)
                | StateError::Magic
                | StateError::Damaged(_)
                | StateError::OtherLog { .. }
                | StateError::Policy(_) => false,
            },
            Self::InTheWay { .. } | Self::Keep(_) => false,
        }
    }
}

/// Where the entries served part from the log that was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// At this entry; the hash tiles are those of the checkpoint.
    #[error(
        "the first that differs is entry {index}: as served it has the leaf hash {}, and in the log {}",
        hex::encode(served),
        hex::encode(logged)
    )]
    Entry {
        /// Its position.
        index: u64,
        /// The leaf hash of what was served.
        served: Hash,
        /// The leaf hash in the tile.
        logged: Hash,
    },
    /// The hash tiles are those of the entries, or of something else again.
    #[error("the hash tiles do not lead to the checkpoint's root either{}",
        entry.map_or(String::new(), |index| format!("; they differ from the entries from entry {index} on")))]
    Tiles {
        /// The first entry that differs from its hash in the tiles.
        entry: Option<u64>,
    },
}

/// A file that keeps what an audit found.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    /// How far the audit came whose state is there. It is not given up for one that is not yet as far.
    size: u64,
}

impl StateFile {
    /// A place to keep the state of audits of one log. What is there already must be such a state.
    pub fn at(path: PathBuf, keys: &impl Keys) -> Result<Self, AuditError> {
        let size = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(AuditError::State { path, error: error.into() }),
            Ok(file) => match state::header(file) {
                Ok(header) if header.vkey == keys.first().to_string() => header.size,
                _ => return Err(AuditError::InTheWay { path }),
            },
        };
        Ok(Self { path, size })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn keep(&mut self, replay: &Replay, note: &str) -> Result<(), AuditError> {
        replace(&self.path, |file| state::save(replay, note, file)).map_err(AuditError::Keep)?;
        self.size = replay.size();
        Ok(())
    }
}

/// Reads the state of an earlier audit; none if there is no such file.
pub fn load(path: &Path, keys: &impl Keys) -> Result<Option<Loaded>, AuditError> {
    let wrong = |error: StateError| AuditError::State { path: path.to_owned(), error };
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.into())),
        Ok(file) => state::load(file, keys).map(Some).map_err(wrong),
    }
}

/// An audit that is about to begin: the log up to a checkpoint, from where an earlier one ended.
pub struct Audit {
    channel: Connection,
    newest: Remembered,
    replay: Replay,
    /// Followed from the pinned one.
    keys: Arc<Chain>,
    /// The tree of what was audited earlier.
    earlier: Tree,
}

/// What an audit found: all is as it must be.
#[derive(Debug, Clone)]
pub struct Audited {
    /// The keys of the log.
    pub keys: Arc<Chain>,
    /// The signed checkpoint that it went up to.
    pub note: String,
    /// What that says.
    pub checkpoint: Checkpoint,
    /// When it was closed, by the ledger's clock.
    pub closed_at_us: u64,
    /// How many of its entries an earlier audit had replayed.
    pub earlier: u64,
    /// All that was replayed, by this audit and the earlier one.
    pub counts: Counts,
    /// What the earlier one had replayed.
    pub counts_before: Counts,
    /// Number of subjects.
    pub subjects: u64,
    /// The policy in force.
    pub policy: Policy,
    /// What another policy would have made of what this audit replayed, if it was asked.
    pub what_if: Option<WhatIf>,
}

impl RemoteLedger {
    /// Prepares an audit up to the newest checkpoint. What an earlier audit read must be the beginning of this log.
    pub async fn audit(&self, from: Option<(PathBuf, Loaded)>) -> Result<Audit, AuditError> {
        let mut newest = self.checkpoint().await?;
        // The entries up to it may be signed by a key that was announced since this was opened. Asked in the other order, a key
        // announced in between would be missed.
        self.follow().await?;
        let keys = self.keys();
        newest.checkpoint = Checkpoint::open(&newest.note, &*keys).map_err(ClientError::from)?;
        let replay = match from {
            None => Replay::new(keys.first().clone()),
            Some((path, loaded)) => self.go_on(path, loaded, &newest).await?,
        };
        let earlier = replay.log().clone();
        Ok(Audit { channel: self.channel(), newest, replay, keys, earlier })
    }

    async fn go_on(&self, path: PathBuf, loaded: Loaded, newest: &Remembered) -> Result<Replay, AuditError> {
        let Loaded { replay, note, checkpoint } = loaded;
        let known = Remembered { note, checkpoint };
        self.compare(&known, &newest.checkpoint, &newest.note).await?;
        if newest.checkpoint.size < checkpoint.size {
            return Err(self.rollback(&known, newest.checkpoint.size, &newest.note).into());
        }
        // An audit that was interrupted had not come to its checkpoint.
        let read = Checkpoint { size: replay.size(), root: replay.root() };
        let growth = self.growth(read.size, newest.checkpoint.size).await;
        let growth = growth.map_err(|error: GrowthError| error.between(read.size, newest.checkpoint.size))?;
        check_same_log(&read, &newest.checkpoint, &growth).map_err(|error| AuditError::NotAPrefix {
            path,
            size: read.size,
            error,
        })?;
        Ok(replay)
    }
}

impl Audit {
    /// Number of entries that were replayed.
    pub fn size(&self) -> u64 {
        self.replay.size()
    }

    /// Number of entries it goes up to.
    pub fn end(&self) -> u64 {
        self.newest.checkpoint.size
    }

    /// Also tells what another policy would have made of the entries it replays.
    pub fn also_judge_by(&mut self, policy: Policy) {
        self.replay.also_judge_by(policy);
    }

    /// Audits. Tells how many entries of the log are replayed whenever there are more.
    pub async fn run(self, mut file: StateFile, mut progress: impl FnMut(u64)) -> Result<Audited, AuditError> {
        let Self { channel, newest: Remembered { note, checkpoint }, mut replay, keys, earlier } = self;
        let counts_before = replay.counts();
        let mut tiles =
            tiles_of(replay.size()..checkpoint.size).map(|tile| examined(channel.clone(), Arc::clone(&keys), tile));
        let mut keeping = Keeping { due: Instant::now() + KEEP_EVERY };
        let mut fetched = InOrder::new();
        loop {
            fetched.fill(SIDE_BY_SIDE, &mut tiles);
            let Some(bundle) = fetched.next().await else { break };
            let (bundle, on_the_way) = (bundle?, note.clone());
            // Elsewhere, so that fetches go on meanwhile.
            let replayed = tokio::task::spawn_blocking(move || {
                keeping.replay(&mut replay, bundle, &mut file, &on_the_way)?;
                Ok::<_, AuditError>((replay, file, keeping))
            });
            (replay, file, keeping) = replayed.await.expect("a replay does not panic")?;
            progress(replay.size());
        }
        if let Err(lie) = replay.check(&checkpoint) {
            let difference = match &lie {
                CheckpointLie::Root { .. } => Some(Box::new(difference(&channel, earlier, &checkpoint).await?)),
                CheckpointLie::Size { .. } | CheckpointLie::NotClosed { .. } => None,
            };
            return Err(AuditError::Checkpoint { lie, difference });
        }
        let audited = Audited {
            keys,
            note,
            checkpoint,
            closed_at_us: replay.last_time_us(),
            earlier: earlier.size(),
            counts: replay.counts(),
            counts_before,
            subjects: replay.map_size(),
            policy: replay.policy().clone(),
            what_if: replay.what_if().cloned(),
        };
        let kept = tokio::task::spawn_blocking({
            let note = audited.note.clone();
            move || file.keep(&replay, &note)
        });
        kept.await.expect("keeping does not panic")?;
        Ok(audited)
    }
}

/// A tile's entries, each examined.
type Bundle = (Tile, Vec<Result<Examined, EntryError>>);

async fn examined(channel: Connection, keys: Arc<Chain>, tile: Tile) -> Result<Bundle, TileError> {
    let entries = tiles::entries(channel, tile).await?;
    let examined =
        tokio::task::spawn_blocking(move || entries.iter().map(|entry| examine(entry, &*keys)).collect::<Vec<_>>());
    Ok((tile, examined.await.expect("an examination does not panic")))
}

/// When the state is to be kept next.
struct Keeping {
    due: Instant,
}

impl Keeping {
    fn replay(
        &mut self,
        replay: &mut Replay,
        (tile, entries): Bundle,
        file: &mut StateFile,
        note: &str,
    ) -> Result<(), AuditError> {
        let Range { start, .. } = tile.range();
        for (index, entry) in (start..).zip(entries) {
            // The first tile may begin before where the earlier audit ended.
            if index < replay.size() {
                continue;
            }
            replay.accept(entry)?;
            if replay.is_closed() && replay.size() > file.size && Instant::now() >= self.due {
                let begun = Instant::now();
                file.keep(replay, note)?;
                self.due = Instant::now() + KEEP_EVERY.max(begun.elapsed() * KEEP_SHARE);
            }
        }
        Ok(())
    }
}

/// Finds where the entries served part from the log's own hashes.
async fn difference(channel: &Connection, mut log: Tree, checkpoint: &Checkpoint) -> Result<Difference, AuditError> {
    let mut tiles = tiles_of(log.size()..checkpoint.size).map(|tile| {
        let channel = channel.clone();
        async move {
            let served: Vec<Hash> =
                tiles::entries(channel.clone(), tile).await?.iter().map(|entry| entry_hash(entry)).collect();
            Ok::<_, TileError>((tile, served, tiles::leaf_hashes(channel, tile).await?))
        }
    });
    let mut first = None;
    let mut fetched = InOrder::new();
    loop {
        fetched.fill(SIDE_BY_SIDE, &mut tiles);
        let Some(hashes) = fetched.next().await else { break };
        let (tile, served, logged) = hashes?;
        for (index, (served, logged)) in (tile.index * TILE_WIDTH..).zip(served.into_iter().zip(logged)) {
            if index < log.size() {
                continue;
            }
            log.append(logged, |_| {});
            if served != logged && first.is_none() {
                first = Some((index, served, logged));
            }
        }
    }
    Ok(match first {
        Some((index, served, logged)) if log.root() == checkpoint.root => Difference::Entry { index, served, logged },
        first => Difference::Tiles { entry: first.map(|(index, ..)| index) },
    })
}

impl Audited {
    /// What was checked, in words.
    pub fn verdict(&self) -> Verdict {
        let Self { keys, checkpoint: Checkpoint { size, root }, earlier, subjects, .. } = self;
        let log = format!("log of {} ({})", keys.first().origin(), keys.words(*size));
        let what = match earlier {
            0 => format!("the whole {log}"),
            earlier if earlier == size => format!("the {log} holds nothing new"),
            earlier => format!("the {log} from entry {earlier} on"),
        };
        let closed = rfc3339(self.closed_at_us).replace(".000000", "");
        let checked =
            format!("{what}, up to the checkpoint of size {size}, closed at {closed}{}", keys.succession(*size));
        let each = |count: u64, one: &str, many: &str| match count {
            1 => format!("the {one}"),
            count => format!("each of the {count} {many}"),
        };
        let new = |total: u64, before: u64| total - before;
        let mut proven = Vec::new();
        if let count @ 1.. = new(*size, *earlier) {
            let entries = each(count, "entry", "entries");
            proven.push(format!(
                "{entries} is signed by the ledger for its place, and was recorded after the one before it"
            ));
        }
        if let count @ 1.. = new(self.counts.records(), self.counts_before.records()) {
            let of = each(count, "record", "records");
            proven.push(format!(
                "outcome, reason and subjects of {of} follow from the rules, the policy in the log, and the entries before it"
            ));
        }
        let unjudged = self.counts.unjudged - self.counts_before.unjudged;
        if new(self.counts.records(), self.counts_before.records()) > unjudged {
            proven.push(
                "who stated each record was allowed to by the principals of then, and each producer's signature is by a key it had then"
                    .to_owned(),
            );
        }
        if let count @ 1.. = new(self.counts.commitments, self.counts_before.commitments) {
            let commitments = each(count, "commitment", "commitments");
            proven.push(format!(
                "{commitments} holds the root of the map of all histories before it, of {subjects} subjects in the end"
            ));
        }
        let mut unproven = Vec::new();
        if *earlier > 0 {
            proven.push(format!("the {earlier} entries of the earlier audit are the beginning of this log"));
            unproven.push("what that audit found, whose state was trusted".to_owned());
        }
        proven.push(format!("the entries lead to the root of the checkpoint, {}", hex::encode(root)));
        if unjudged > 0 {
            let of = each(unjudged, "record", "records");
            unproven.push(format!("who stated {of} from before the log had principals"));
        }
        unproven.push(
            "that who did not sign showed the ledger what it had to, and that the ledger's clock was right".to_owned(),
        );
        unproven.push("that others are shown the same log: compare the checkpoint with theirs".to_owned());
        Verdict { checked, proven, unproven }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::little_ledger::{LittleLedger, delete, push};
    use crate::ledger::note::Vkey;
    use crate::proto::Disposition::Happened;

    /// A ledger of thirty entries, its vkey, and where an audit may keep its state.
    fn ledger() -> (LittleLedger, Vkey, tempfile::TempDir) {
        let mut ledger = LittleLedger::new("ledger.example/test", 1);
        ledger.commit();
        for number in 0..14 {
            ledger.record(push(&format!("t{}", number % 5), 'a', Happened));
        }
        ledger.record(delete("t1"));
        let vkey = ledger.skey.vkey();
        (ledger, vkey, tempfile::tempdir().expect("a folder"))
    }

    fn bundle(ledger: &LittleLedger, size: u64) -> Bundle {
        let entries = (0..size).map(|index| examine(&ledger.entry(index), &ledger.skey.vkey())).collect();
        (Tile { index: 0, width: size }, entries)
    }

    fn note(ledger: &LittleLedger) -> String {
        ledger.checkpoint_at(ledger.size()).sign(&ledger.skey)
    }

    #[test]
    fn an_interrupted_audit_goes_on_from_the_last_commitment_kept() {
        let (ledger, vkey, folder) = ledger();
        let path = folder.path().join("audits/it.state");
        assert!(load(&path, &vkey).expect("readable").is_none());
        let mut file = StateFile::at(path.clone(), &vkey).expect("nothing is there yet");
        let (mut replay, mut keeping) = (Replay::new(vkey.clone()), Keeping { due: Instant::now() });
        // Up to a record: the commitment before it is kept, and what has just been kept is not kept again at once.
        keeping.replay(&mut replay, bundle(&ledger, 12), &mut file, &note(&ledger)).expect("honest");
        assert!(keeping.due > Instant::now() + KEEP_EVERY / 2);
        assert_eq!(file.size, 1);
        keeping.due = Instant::now();
        keeping.replay(&mut replay, bundle(&ledger, 20), &mut file, &note(&ledger)).expect("honest");
        assert_eq!(file.size, 13);
        assert_eq!(replay.size(), 20);

        let Loaded { mut replay, note: kept, checkpoint } = load(&path, &vkey).expect("readable").expect("kept");
        assert_eq!((replay.size(), kept, checkpoint.size), (13, note(&ledger), ledger.size()));
        keeping.replay(&mut replay, bundle(&ledger, ledger.size()), &mut file, &note(&ledger)).expect("honest");
        assert_eq!(replay.check(&ledger.checkpoint_at(ledger.size())), Ok(()));
    }

    #[test]
    fn the_state_of_an_audit_that_came_further_is_not_given_up_on_the_way() {
        let (ledger, vkey, folder) = ledger();
        let path = folder.path().join("it.state");
        let mut file = StateFile::at(path.clone(), &vkey).expect("nothing is there yet");
        let mut keeping = Keeping { due: Instant::now() };
        let mut replay = Replay::new(vkey.clone());
        keeping.replay(&mut replay, bundle(&ledger, ledger.size()), &mut file, &note(&ledger)).expect("honest");
        file.keep(&replay, &note(&ledger)).expect("kept");
        let mut file = StateFile::at(path.clone(), &vkey).expect("a state");
        assert_eq!(file.size, ledger.size());
        keeping.due = Instant::now();
        keeping.replay(&mut Replay::new(vkey.clone()), bundle(&ledger, 13), &mut file, &note(&ledger)).expect("honest");
        assert_eq!(load(&path, &vkey).expect("readable").expect("kept").replay.size(), ledger.size());
    }

    #[test]
    fn what_is_not_the_state_of_this_log_is_left_as_it_is() {
        let (ledger, vkey, folder) = ledger();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "tagledger audit state 3, said somebody\n").expect("written");
        assert!(matches!(StateFile::at(path, &vkey), Err(AuditError::InTheWay { .. })));
        let path = folder.path().join("other.state");
        let mut file = StateFile::at(path.clone(), &vkey).expect("nothing is there yet");
        let mut replay = Replay::new(vkey);
        Keeping { due: Instant::now() }
            .replay(&mut replay, bundle(&ledger, 1), &mut file, &note(&ledger))
            .expect("honest");
        let other = LittleLedger::new("ledger.example/other", 2).skey.vkey();
        assert!(matches!(StateFile::at(path.clone(), &other), Err(AuditError::InTheWay { .. })));
        let refused = load(&path, &other).map(|_| ()).expect_err("of another log");
        assert!(matches!(&refused, AuditError::State { error: StateError::OtherLog { .. }, .. }), "{refused}");
        assert!(!refused.is_verification());
    }
}
