//! RocksDB's own logs (the MANIFEST, and what was written last), as far as it takes to see what RocksDB would read for ever.
//!
//! A log is a row of records, in blocks of 32 KiB. A file that is used a second time has records of other kinds, which is told by the
//! first of them; one of those kinds further on, in a file that began otherwise, makes RocksDB stand still
//! (facebook/rocksdb#13333). Here no file is used twice, so such a record is damage; one flipped bit is enough.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const BLOCK: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER: usize = 7;

/// A record of a kind that RocksDB would read for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {at}: no record here is of kind {kind}")]
pub(super) struct Endless {
    file: String,
    at: usize,
    kind: u8,
}

/// Looks for one in the logs of a database. What can't be read is left to RocksDB, which says so.
pub(super) fn refuse_endless(database: &Path) -> Result<(), Endless> {
    for path in logs(database).unwrap_or_default() {
        let Ok(Some((at, kind))) = endless(&path) else { continue };
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(Endless { file, at, kind });
    }
    Ok(())
}

fn logs(database: &Path) -> io::Result<Vec<PathBuf>> {
    let files: io::Result<Vec<_>> = fs::read_dir(database)?.map(|file| Ok(file?.path())).collect();
    let manifest = fs::read_to_string(database.join("CURRENT"))?;
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    Ok(files?.into_iter().filter(is_log).chain([database.join(manifest.trim_end())]).collect())
}

/// Where the first such record of a file is, and its kind.
fn endless(path: &Path) -> io::Result<Option<(usize, u8)>> {
    let mut file = File::open(path)?;
    let (mut block, mut start) = (Vec::with_capacity(BLOCK), 0);
    loop {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let mut at = 0;
        // What is left of a block has no room for a record.
        while let Some(&[_, _, _, _, low, high, kind]) = block.get(at..at + HEADER) {
            let is_first = start + at == 0;
            match kind {
                5..=8 | 11 | 131 if is_first => return Ok(None),
                5..=8 | 11 | 131 => return Ok(Some((start + at, kind))),
                // Nothing was written here, as far as this block goes.
                0 => break,
                _ => at += HEADER + usize::from(u16::from_le_bytes([low, high])),
            }
        }
        if block.len() < BLOCK {
            return Ok(None);
        }
        start += BLOCK;
    }
}
