//! A store on a disk that loses what was not synced, in every way a disk can.
//!
//! A commit appends one record to a log, sector by sector, and syncs. Until the sync has returned, any of the sectors may have
//! reached the disk and any other not, in whatever order, and the last of them in part: [`Moment::images`] gives all the
//! states that the disk could then be found in. Who finds it reads the log up to the first record whose checksum does not match.
//! The disk remembers the moment before each write, after each, and after each sync.

use std::io::{Read as _, Write as _};
use std::sync::{Mutex, MutexGuard};

use sha2::{Digest as _, Sha256};
use tagledger::store::memory::MemoryStore;
use tagledger::store::{Batch, Change, CommitError, Cursor, Read, ReadError, Store, Table, rows};

/// Sectors that a record takes; all subsets of them are looked at.
const SECTORS: usize = 5;

/// The bytes of a log, as they are found.
pub(crate) type Image = Vec<u8>;

/// A moment in which the machine could have crashed.
#[derive(Clone)]
pub(crate) struct Moment {
    /// What is on disk for sure.
    synced: Image,
    /// What was written since: where, and what.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// How many checkpoints somebody outside was given by then.
    pub(crate) given: usize,
}

impl Moment {
    /// Every state of the disk: each subset of what is not synced, and the last of it whole, or torn in one of two places.
    pub(crate) fn images(&self) -> impl Iterator<Item = Image> {
        let count = self.unsynced.len();
        assert!(count <= 2 * SECTORS + 2, "too many to look at them all");
        (0..1usize << count).flat_map(move |kept| {
            let tears: &[usize] = if kept == 0 { &[0] } else { &[0, 1, 2] };
            tears.iter().map(move |tear| self.image(kept, *tear))
        })
    }

    fn image(&self, kept: usize, tear: usize) -> Image {
        let mut image = self.synced.clone();
        let last = (0..self.unsynced.len()).rfind(|at| kept >> at & 1 == 1);
        for (at, (offset, bytes)) in self.unsynced.iter().enumerate() {
            if kept >> at & 1 == 0 {
                continue;
            }
            // Torn after one byte, or in the middle.
            let length = match (last == Some(at), tear) {
                (true, 1) => 1,
                (true, 2) => bytes.len() / 2,
                _ => bytes.len(),
            };
            // What was not written between is zeros, as in a hole of a file.
            image.resize(image.len().max(offset + length), 0);
            image[*offset..offset + length].copy_from_slice(&bytes[..length]);
        }
        image
    }
}

/// How the next commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing is written.
    Refused,
    /// Half of it is written, and nothing is synced.
    TornAndRefused,
    /// It is written and synced.
    StoredAndRefused,
}

/// The store.
pub(crate) struct CrashDisk {
    /// What the process sees.
    rows: MemoryStore,
    disk: Mutex<Disk>,
    /// Says that it synced, and did not.
    lies: bool,
}

struct Disk {
    now: Moment,
    end: usize,
    moments: Vec<Moment>,
    failure: Option<Failure>,
}

impl Disk {
    fn remember(&mut self) {
        self.moments.push(self.now.clone());
    }
}

impl CrashDisk {
    /// An empty one that does what it says.
    pub(crate) fn honest() -> Self {
        Self::found(&Image::new())
    }

    /// An empty one that does not sync.
    pub(crate) fn lying() -> Self {
        Self { lies: true, ..Self::honest() }
    }

    /// As it is found after a crash: every whole record at the beginning of the log, and nothing else.
    pub(crate) fn found(image: &Image) -> Self {
        let (rows, mut end) = (MemoryStore::default(), 0);
        while let Some((batch, length)) = decode(&image[end..]) {
            rows.put_unchecked(batch);
            end += length;
        }
        let now = Moment { synced: image[..end].to_vec(), unsynced: Vec::new(), given: 0 };
        Self { rows, disk: Mutex::new(Disk { now, end, moments: Vec::new(), failure: None }), lies: false }
    }

    /// So many checkpoints were given to somebody.
    pub(crate) fn note_given(&self, count: usize) {
        let mut disk = self.lock();
        disk.now.given = count;
        disk.remember();
    }

    pub(crate) fn fail_next(&self, failure: Failure) {
        self.lock().failure = Some(failure);
    }

    /// Every moment so far.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        self.lock().moments.clone()
    }

    /// This moment.
    pub(crate) fn now(&self) -> Moment {
        self.lock().now.clone()
    }

    /// What is on disk for sure.
    pub(crate) fn synced(&self) -> Image {
        self.lock().now.synced.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no test panics while it holds the disk")
    }
}

impl Read for CrashDisk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.rows.get(table, key)
    }

    fn cursor<'a>(&'a self, table: Table, prefix: &[u8]) -> Box<dyn Cursor + 'a> {
        self.rows.cursor(table, prefix)
    }
}

impl Store for CrashDisk {
    fn commit(&self, expected_size: u64, batch: Batch) -> Result<(), CommitError> {
        let found = rows::tree_size(&self.rows).map_err(|error| CommitError::Storage(error.to_string()))?;
        if found != expected_size {
            return Err(CommitError::Size { expected: expected_size, found });
        }
        let mut disk = self.lock();
        let failure = disk.failure.take();
        disk.remember();
        if failure == Some(Failure::Refused) {
            return Err(CommitError::Storage("refused on demand".into()));
        }
        let record = encode(&batch);
        let sector = record.len().div_ceil(SECTORS);
        let sectors: Vec<Vec<u8>> = record.chunks(sector).map(<[u8]>::to_vec).collect();
        let torn = failure == Some(Failure::TornAndRefused);
        for bytes in sectors.into_iter().take(if torn { SECTORS / 2 } else { SECTORS }) {
            let at = disk.end;
            disk.end += bytes.len();
            disk.now.unsynced.push((at, bytes));
            disk.remember();
        }
        if torn {
            return Err(CommitError::Storage("torn on demand".into()));
        }
        if self.lies {
            // It gets there some time; here, with the next commit.
            let late = disk.now.unsynced.len().saturating_sub(SECTORS);
            let written: Vec<_> = disk.now.unsynced.drain(..late).collect();
            written.into_iter().for_each(|(_, bytes)| disk.now.synced.extend(bytes));
        } else {
            let all = (1 << disk.now.unsynced.len()) - 1;
            disk.now = Moment { synced: disk.now.image(all, 0), unsynced: Vec::new(), given: disk.now.given };
        }
        disk.remember();
        drop(disk);
        if failure == Some(Failure::StoredAndRefused) {
            return Err(CommitError::Storage("refused on demand, after it was stored".into()));
        }
        self.rows.put_unchecked(batch);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        self.rows.snapshot()
    }

    fn scratch(&self) -> std::io::Result<std::fs::File> {
        tempfile::tempfile()
    }
}

/// Length, checksum, changes.
fn encode(batch: &Batch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut part = |bytes: &[u8]| {
        body.write_all(&u32::try_from(bytes.len()).expect("short").to_be_bytes()).expect("memory");
        body.write_all(bytes).expect("memory");
    };
    for Change { table, key, value } in batch.changes() {
        part(table.name().as_bytes());
        part(key);
        match value {
            Some(value) => part(&[&[1], value].concat()),
            None => part(&[0]),
        }
    }
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&length[..], &Sha256::digest(&body), &body].concat()
}

fn decode(mut bytes: &[u8]) -> Option<(Batch, usize)> {
    fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let mut length = [0; 4];
        bytes.read_exact(&mut length).ok()?;
        bytes.split_off(..usize::try_from(u32::from_be_bytes(length)).ok()?)
    }
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let whole = bytes.get(..36 + length)?;
    let (checksum, mut body) = whole[4..].split_at(32);
    if length == 0 || checksum != <[u8; 32]>::from(Sha256::digest(body)) {
        return None;
    }
    bytes = whole;
    let mut batch = Batch::default();
    while !body.is_empty() {
        let name = part(&mut body)?;
        let table = Table::ALL.into_iter().find(|table| table.name().as_bytes() == name)?;
        let key = part(&mut body)?;
        match part(&mut body)?.split_first()? {
            (1, value) => batch.put(table, key, value),
            _ => batch.delete(table, key),
        }
    }
    Some((batch, bytes.len()))
}
