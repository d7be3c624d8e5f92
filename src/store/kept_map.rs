//! The subject map as an end in order left it, so that the next start need not read all subjects.
//!
//! Two files in a folder of their own. `leaves` holds the [`LeafPages`] of the running ledger. `upper` says where in it each page is, and
//! what the upper part of the map is; it is written at an end in order, and removed once it was read. So there is none after a crash, and
//! the map is read from the table of subjects.
//!
//! `upper` is whole or not taken, the map in it must have the root and the size that the ledger has signed, and pages of leaves have the
//! checksums that stand there with it: so files that are damaged, or of different times, are noticed, at the latest where a page is read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::ReadError;
use super::leaf_pages::LeafPages;
use crate::ledger::map::{self, Outline};
use crate::ledger::merkle::Hash;

/// What `upper` begins with.
const FORMAT: &[u8] = b"tagledger map 1\n";
/// What stands before a subtree that is split, and before the root of one that is not.
const SPLIT: u8 = 0;
const BUCKET: u8 = 1;

/// The folder. One process at a time uses it.
pub struct KeptMap {
    folder: PathBuf,
}

impl KeptMap {
    /// In this folder, which need not be there.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Takes the map that was kept, if it is the one with this root and size.
    pub fn take(&self, root: &Hash, size: u64) -> Option<(map::Top, LeafPages)> {
        match self.try_take() {
            Ok(kept) => kept.filter(|(top, _)| (top.root(), top.size()) == (*root, size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "the map that was kept can't be read; it is made again");
                None
            }
        }
    }

    fn try_take(&self) -> io::Result<Option<(map::Top, LeafPages)>> {
        let upper = fs::read(self.folder.join("upper"))?;
        // From here on it is out of date as soon as anything is written, also where the machine fails then.
        fs::remove_file(self.folder.join("upper"))?;
        self.sync()?;
        let leaves = OpenOptions::new().read(true).write(true).open(self.folder.join("leaves"))?;
        Ok(decode(&upper, leaves))
    }

    /// A file for leaves. What is in it counts for nothing, and is written over: that is quicker than to begin with an empty one.
    pub fn begin(&self) -> Result<File, ReadError> {
        self.try_begin().map_err(|error| {
            let what = "the subject map can't be kept there, and nothing that is there is needed";
            let reason = format!("{}: {error}; {what}: take it away, or see to its disk", self.folder.display());
            ReadError::Storage { table: "subjects", reason }
        })
    }

    fn try_begin(&self) -> io::Result<File> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        match fs::remove_file(self.folder.join("upper")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.sync()?,
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(self.folder.join("leaves"))
    }

    /// Keeps the map. The leaves are those of the file of [`Self::begin`] or [`Self::take`], and do not change any more.
    pub fn keep(&self, top: &map::Top, leaves: &mut LeafPages) -> io::Result<()> {
        leaves.sync()?;
        let new = self.folder.join("upper.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&encode(top, leaves))?;
        file.sync_all()?;
        fs::rename(&new, self.folder.join("upper"))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// [`FORMAT`], the length of the index and the index, the number of keys, the outline; a checksum of all of it.
fn encode(top: &map::Top, leaves: &LeafPages) -> Vec<u8> {
    let index = leaves.index();
    let length = u64::try_from(index.len()).expect("it is in memory");
    let mut upper = [FORMAT, &length.to_be_bytes(), &index, &top.size().to_be_bytes()].concat();
    top.outline(|subtree| match subtree {
        Outline::Split => upper.push(SPLIT),
        Outline::Bucket(hash) => {
            upper.push(BUCKET);
            upper.extend(hash);
        }
    });
    upper.extend(crc32fast::hash(&upper).to_be_bytes());
    upper
}

fn decode(upper: &[u8], leaves: File) -> Option<(map::Top, LeafPages)> {
    let (upper, checksum) = upper.split_last_chunk()?;
    if crc32fast::hash(upper) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (length, rest) = upper.strip_prefix(FORMAT)?.split_first_chunk()?;
    let (index, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
    let (size, mut rest) = rest.split_first_chunk()?;
    let top = map::Top::of_outline(u64::from_be_bytes(*size), || {
        let (kind, after) = rest.split_first()?;
        let (subtree, after) = match *kind {
            SPLIT => (Outline::Split, after),
            BUCKET => after.split_first_chunk().map(|(hash, after)| (Outline::Bucket(*hash), after))?,
            _ => return None,
        };
        rest = after;
        Some(subtree)
    })?;
    Some((top, LeafPages::with_index(leaves, index)?)).filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::ledger::map::LeafHash;
    use crate::ledger::subject::SubjectKey;

    /// A folder in which a map of some leaves was kept, that map, and its leaves.
    fn kept() -> (tempfile::TempDir, KeptMap, map::Top, Vec<LeafHash>) {
        let folder = tempfile::tempdir().expect("a folder");
        let kept_map = KeptMap::new(folder.path().join("map"));
        let leaf = |number: u64| {
            let key: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
            LeafHash { key: SubjectKey(key), hash: Sha256::digest(key).into() }
        };
        let mut leaves: Vec<LeafHash> = (0..300).map(leaf).collect();
        leaves.sort_by_key(|leaf| leaf.key);
        let mut pages = LeafPages::new(kept_map.begin().expect("a file"), 300);
        pages.put(&leaves).expect("written");
        let mut rising = leaves.iter().copied();
        let Ok(top) = map::Top::load(|| Ok::<_, Infallible>(rising.next()));
        kept_map.keep(&top, &mut pages).expect("kept");
        (folder, kept_map, top, leaves)
    }

    #[test]
    fn what_was_kept_is_taken_once() {
        let (_folder, kept_map, top, leaves) = kept();
        let (mut taken, mut pages) = kept_map.take(&top.root(), 300).expect("kept");
        let changed: Vec<LeafHash> = leaves.iter().map(|leaf| LeafHash { hash: [7; 32], ..*leaf }).collect();
        taken.update(&pages, &changed).expect("its leaves");
        pages.put(&changed).expect("written");
        assert!(kept_map.take(&top.root(), 300).is_none(), "it is out of date");
        kept_map.keep(&taken, &mut pages).expect("kept");
        assert!(kept_map.take(&taken.root(), 300).is_some());
    }

    #[test]
    fn another_map_is_not_taken() {
        for (change, size) in [([0; 32], 301), ([1; 32], 300)] {
            let (_folder, kept_map, top, _) = kept();
            let root: Hash = std::array::from_fn(|at| top.root()[at] ^ change[at]);
            assert!(kept_map.take(&root, size).is_none());
        }
        let folder = tempfile::tempdir().expect("a folder");
        assert!(KeptMap::new(folder.path().join("map")).take(&map::EMPTY, 0).is_none(), "there is none");
    }

    #[test]
    fn what_changed_by_itself_is_not_taken_or_an_error_when_it_is_read() {
        let (folder, kept_map, top, leaves) = kept();
        let (upper_path, leaves_path) = (folder.path().join("map/upper"), folder.path().join("map/leaves"));
        let upper = fs::read(&upper_path).expect("kept");
        let take = |upper: &[u8]| {
            fs::write(&upper_path, upper).expect("written");
            kept_map.take(&top.root(), 300)
        };
        for at in (0..upper.len()).step_by(7) {
            let mut other = upper.clone();
            other[at] ^= 1 << (at % 8);
            assert!(take(&other).is_none(), "byte {at}");
            assert!(take(&upper[..at]).is_none(), "{at} bytes");
        }
        // Pages of another time, or none.
        let written = fs::read(&leaves_path).expect("kept");
        for other in [written.iter().map(|byte| byte ^ 4).collect(), written[..written.len() / 2].to_vec(), Vec::new()]
        {
            fs::write(&leaves_path, other).expect("written");
            let (mut taken, pages) = take(&upper).expect("it is whole");
            assert!(taken.update(&pages, &leaves).is_err());
        }
        fs::remove_file(&leaves_path).expect("gone");
        assert!(take(&upper).is_none());
    }
}
