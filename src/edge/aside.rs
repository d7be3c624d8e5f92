//! What could not be understood, kept aside for people.
//!
//! A sender retries what is refused, for ever and before anything else, so bad content is answered with success and must
//! not be lost: each body or event becomes one JSON file in a folder, named by time, source and content. The same content
//! of the same source is kept once, however often it is sent. Files are written whole or not at all, and are synced before
//! [`Aside::keep`] returns. Past a bound, nothing more is kept: a broken sender must not fill the disk of the ledger.
//!
//! Blocking: call it where that is allowed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::ledger::time::rfc3339;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most files.
    pub files: usize,
    /// Most bytes, over all files.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 10_000, bytes: 256 << 20 }
    }
}

/// Something that was not understood.
#[derive(Debug, Clone, Copy)]
pub struct Misfit<'a> {
    /// Who sent it. Letters, digits, `.`, `_` and `-`, as it becomes part of a file name.
    pub source: &'a str,
    /// When, by the ledger's clock.
    pub received_at_us: u64,
    /// Why it was not understood.
    pub reason: &'a str,
    /// What was sent.
    pub body: &'a [u8],
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is on disk now.
    New(PathBuf),
    /// It was there before.
    Before(PathBuf),
    /// The folder is full; it is not kept.
    Full,
}

/// How long the folder is believed full before it is looked at again: somebody may have tidied up.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The folder.
#[derive(Debug)]
pub struct Aside {
    folder: PathBuf,
    limits: Limits,
    contents: Mutex<Contents>,
}

/// Files by the hash in their name.
#[derive(Debug)]
struct Contents {
    files: HashMap<String, PathBuf>,
    bytes: u64,
    looked_at: Instant,
}

impl Aside {
    /// Opens the folder, making it if need be, and removes what a crash left half written.
    pub fn open(folder: impl Into<PathBuf>, limits: Limits) -> io::Result<Self> {
        let folder = folder.into();
        make_folder(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                fs::remove_file(path)?;
            }
        }
        let contents = Mutex::new(look(&folder)?);
        Ok(Self { folder, limits, contents })
    }

    /// Keeps a misfit. Durable when this returns [`Kept::New`].
    pub fn keep(&self, misfit: &Misfit<'_>) -> io::Result<Kept> {
        let hash = content_hash(misfit);
        let json = render(misfit);
        let length = json.len() as u64;
        // A panic while the lock was held leaves at worst a count that is off until the next look.
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = contents.files.get(&hash)
            && path.exists()
        {
            return Ok(Kept::Before(path.clone()));
        }
        if self.is_full(&contents, length) {
            if contents.looked_at.elapsed() < LOOK_AGAIN {
                return Ok(Kept::Full);
            }
            *contents = look(&self.folder)?;
            if self.is_full(&contents, length) {
                return Ok(Kept::Full);
            }
        }
        let time: String = rfc3339(misfit.received_at_us).replace([':', '-'], "");
        let path = self.folder.join(format!("{time}-{}-{hash}.json", misfit.source));
        write_whole(&self.folder, &path, &json)?;
        contents.bytes += length;
        contents.files.insert(hash, path.clone());
        Ok(Kept::New(path))
    }

    fn is_full(&self, contents: &Contents, length: u64) -> bool {
        contents.files.len() >= self.limits.files || contents.bytes + length > self.limits.bytes
    }
}

/// What the folder holds. Files of other names count too: they take room.
fn look(folder: &Path) -> io::Result<Contents> {
    let mut contents = Contents { files: HashMap::new(), bytes: 0, looked_at: Instant::now() };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let hash = name.strip_suffix(".json").and_then(|stem| stem.rsplit_once('-')).map(|(_, hash)| hash.to_owned());
        contents.bytes += entry.metadata()?.len();
        contents.files.insert(hash.unwrap_or(name), path);
    }
    Ok(contents)
}

/// In hexadecimal. The reason and the time are left out: the same content is the same whenever it comes.
fn content_hash(misfit: &Misfit<'_>) -> String {
    let hash = Sha256::new().chain_update(misfit.source).chain_update([0]).chain_update(misfit.body).finalize();
    hex::encode(hash)
}

fn render(misfit: &Misfit<'_>) -> Vec<u8> {
    let (field, body) = match std::str::from_utf8(misfit.body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", BASE64.encode(misfit.body)),
    };
    let mut json = serde_json::to_vec_pretty(&serde_json::json!({
        "source": misfit.source,
        "received_at_us": misfit.received_at_us,
        "reason": misfit.reason,
        field: body,
    }))
    .expect("strings and numbers are JSON");
    json.push(b'\n');
    json
}

/// A file appears under its name only when all of it is on disk, and the name is on disk when this returns.
fn write_whole(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let written = (|| {
        let mut file = create(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: what remains is removed at the next start.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Readable by the service's user alone: what registries send may name internal hosts and people.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misfit(body: &[u8]) -> Misfit<'_> {
        Misfit { source: "lab", received_at_us: 1_795_244_560_000_001, reason: "no sense", body }
    }

    fn open(folder: &Path, limits: Limits) -> Aside {
        Aside::open(folder, limits).expect("a folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    fn json(path: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
    }

    #[test]
    fn a_misfit_is_a_file_that_says_who_when_why_and_what() {
        let folder = tempfile::tempdir().expect("a folder");
        let aside = open(&folder.path().join("deeper/aside"), Limits::default());
        let Ok(Kept::New(path)) = aside.keep(&misfit(b"{\"a\":\n")) else { panic!("kept") };
        assert!(path.file_name().is_some_and(|name| {
            name.to_string_lossy().starts_with("20261121T070240.000001Z-lab-")
                && name.to_string_lossy().ends_with(".json")
        }));
        let expected = serde_json::json!({
            "source": "lab", "received_at_us": 1_795_244_560_000_001_u64, "reason": "no sense", "body": "{\"a\":\n",
        });
        assert_eq!(json(&path), expected);
        assert_eq!(names(&folder.path().join("deeper/aside")).len(), 1, "nothing half written stays");
    }

    #[test]
    fn what_is_no_text_is_kept_in_base64() {
        let folder = tempfile::tempdir().expect("a folder");
        let Ok(Kept::New(path)) = open(folder.path(), Limits::default()).keep(&misfit(b"\xff\x00")) else {
            panic!("kept")
        };
        assert_eq!(json(&path)["body_base64"], "/wA=");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_service_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("aside");
        let Ok(Kept::New(path)) = open(&inner, Limits::default()).keep(&misfit(b"a")) else { panic!("kept") };
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&inner)), (0o600, 0o700));
    }

    #[test]
    fn the_same_content_is_kept_once_also_over_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let aside = open(folder.path(), Limits::default());
        let Ok(Kept::New(path)) = aside.keep(&misfit(b"a")) else { panic!("kept") };
        let later = Misfit { received_at_us: 1_795_244_999_000_000, reason: "other words", ..misfit(b"a") };
        assert_eq!(aside.keep(&later).expect("kept"), Kept::Before(path.clone()));
        let reopened = open(folder.path(), Limits::default());
        assert_eq!(reopened.keep(&later).expect("kept"), Kept::Before(path.clone()));
        assert!(matches!(reopened.keep(&Misfit { source: "other", ..later }), Ok(Kept::New(_))), "another source");
        fs::remove_file(&path).expect("removed");
        assert!(matches!(reopened.keep(&later), Ok(Kept::New(_))), "somebody dealt with it, and it came again");
    }

    #[test]
    fn past_the_bounds_nothing_is_kept_and_what_is_there_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let aside = open(folder.path(), Limits { files: 2, bytes: 1 << 20 });
        assert!(matches!(aside.keep(&misfit(b"a")), Ok(Kept::New(_))));
        assert!(matches!(aside.keep(&misfit(b"b")), Ok(Kept::New(_))));
        assert_eq!(aside.keep(&misfit(b"c")).expect("no error"), Kept::Full);
        assert!(matches!(aside.keep(&misfit(b"a")), Ok(Kept::Before(_))));
        assert_eq!(names(folder.path()).len(), 2);
        let reopened = open(folder.path(), Limits { files: 2, bytes: 1 << 20 });
        assert_eq!(reopened.keep(&misfit(b"c")).expect("no error"), Kept::Full, "files of earlier runs count");

        let small = tempfile::tempdir().expect("a folder");
        let aside = open(small.path(), Limits { files: 100, bytes: 400 });
        assert!(matches!(aside.keep(&misfit(b"a")), Ok(Kept::New(_))));
        assert_eq!(aside.keep(&misfit(&[b'x'; 400])).expect("no error"), Kept::Full);
        assert!(matches!(aside.keep(&misfit(b"b")), Ok(Kept::New(_))), "a small one still fits");
    }

    #[test]
    fn what_a_crash_left_half_written_is_gone_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("20261121T070240.000001Z-lab-00.partial"), b"{").expect("written");
        drop(open(folder.path(), Limits::default()));
        assert!(names(folder.path()).is_empty());
    }
}
