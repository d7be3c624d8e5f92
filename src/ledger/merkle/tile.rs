//! Tile coordinates of C2SP tlog-tiles: which hashes are in which tile, and what its path says.
//!
//! Tiles have height 8. Tile `(level, index)` holds the nodes of tree level `8 * level` at positions
//! `[index * 256, index * 256 + width)`; entry bundles are cut like the tiles of level 0.

use std::ops::Range;

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree that one level of tiles spans.
pub const TILE_HEIGHT: u8 = 8;
/// The highest tile level that a tree of 2^63 leaves can have.
pub const MAX_TILE_LEVEL: u8 = 7;

/// What a request path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TilePath {
    /// `/tile/<L>/<N>[.p/<W>]`
    Hashes {
        /// Tile level, 0 to 7.
        level: u8,
        /// Which of the tiles.
        tile: Tile,
    },
    /// `/tile/entries/<N>[.p/<W>]`
    Entries(Tile),
}

/// One tile of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Position within the level, from 0.
    pub index: u64,
    /// 1 to 256; below 256 the tile is partial.
    pub width: u64,
}

impl Tile {
    /// Positions within the level that the tile holds.
    pub fn range(self) -> Range<u64> {
        let begin = self.index * TILE_WIDTH;
        begin..begin + self.width
    }
}

impl TilePath {
    /// Parses what follows `/tile/`. There is one spelling of each path; anything else is none.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        if level == "entries" {
            return parse_tile(rest).map(Self::Entries);
        }
        let level =
            decimal(level).and_then(|level| u8::try_from(level).ok()).filter(|level| *level <= MAX_TILE_LEVEL)?;
        Some(Self::Hashes { level, tile: parse_tile(rest)? })
    }

    /// Whether the tree of `size` leaves has the tile, whole or in this partial width.
    ///
    /// A partial tile is served as long as the tree has at least its width there: a client that saw an older checkpoint may
    /// still ask for it.
    pub fn is_covered_by(self, size: u64) -> bool {
        let (level, tile) = match self {
            Self::Hashes { level, tile } => (level, tile),
            Self::Entries(tile) => (0, tile),
        };
        tile.range().end <= size >> (TILE_HEIGHT * level)
    }
}

impl std::fmt::Display for TilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tile = match self {
            Self::Hashes { level, tile } => {
                write!(f, "{level}/")?;
                tile
            }
            Self::Entries(tile) => {
                f.write_str("entries/")?;
                tile
            }
        };
        let mut groups = vec![tile.index % 1000];
        let mut rest = tile.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups.iter().skip(1).rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if tile.width < TILE_WIDTH { write!(f, ".p/{}", tile.width) } else { Ok(()) }
    }
}

/// `<N>[.p/<W>]`, where N is in groups of three digits, all but the last with an `x`.
fn parse_tile(path: &str) -> Option<Tile> {
    let (path, width) = match path.split_once(".p/") {
        Some((path, width)) => (path, decimal(width).filter(|width| (1..TILE_WIDTH).contains(width))?),
        None => (path, TILE_WIDTH),
    };
    let groups: Vec<&str> = path.split('/').collect();
    let (last, leading) = groups.split_last()?;
    let mut index: u64 = 0;
    for (position, group) in leading.iter().map(|group| group.strip_prefix('x')).chain([Some(*last)]).enumerate() {
        let digits = group.filter(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))?;
        // One spelling: no leading group of zeros.
        if position == 0 && digits == "000" && !leading.is_empty() {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    // Beyond this no tree has tiles, and positions would overflow.
    (index < 1 << 55).then_some(Tile { index, width })
}

/// A number without sign or leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

/// Appends one entry to a bundle: its length in two bytes, big-endian, then its bytes (tlog-tiles, "Log Entries").
///
/// Panics above 65,535 bytes: no such entry gets into the log.
pub fn push_bundled(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).expect("an entry is at most 65,535 bytes");
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
}

/// Takes a bundle apart; `None` if it is cut short.
pub fn split_bundle(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for path in ["0/000", "0/x001/234", "7/067", "entries/x001/x234/067", "0/005.p/1", "entries/000.p/255"] {
            assert_eq!(TilePath::parse(path).map(|tile| tile.to_string()), Some(path.to_owned()));
        }
        for path in [
            "",
            "0",
            "0/",
            "8/000",
            "00/000",
            "0/0",
            "0/0000",
            "0/x000/001",
            "0/001/002",
            "0/x001",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/+01",
            "entries/",
            "Entries/000",
            "-1/000",
            "0/000/",
            "0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(TilePath::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_tile_is_covered_exactly_from_its_last_leaf_on() {
        let covered = |path: &str, size| TilePath::parse(path).expect("valid").is_covered_by(size);
        assert!(!covered("0/000", 255) && covered("0/000", 256));
        assert!(!covered("0/000.p/5", 4) && covered("0/000.p/5", 5) && covered("0/000.p/5", 1000));
        assert!(!covered("1/000.p/1", 255) && covered("1/000.p/1", 256));
        assert!(!covered("entries/001", 511) && covered("entries/001", 512));
    }

    #[test]
    fn bundles_are_taken_apart_as_they_were_put_together_and_no_truncation_passes() {
        let entries: [&[u8]; 3] = [b"", b"a", &[7; 300]];
        let mut bundle = Vec::new();
        for entry in entries {
            push_bundled(&mut bundle, entry);
        }
        assert_eq!(split_bundle(&bundle).as_deref(), Some(entries.as_slice()));
        let boundaries = [0, 2, 5, bundle.len()];
        for length in 0..bundle.len() {
            assert_eq!(split_bundle(&bundle[..length]).is_some(), boundaries.contains(&length), "{length}");
        }
    }
}
