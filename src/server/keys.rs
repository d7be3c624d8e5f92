//! The files of a ledger's keys, and how they follow the log.
//!
//! ```text
//! ledger.key        the private keys, one a line (0600): the one in force; for a while the one before; and one that is prepared
//! ledger.vkey       the verifier key in force
//! earlier.vkeys     those before it, one a line, the first one first; there if there were any
//! ```
//!
//! Which key is in force is what the log says, and nothing but the log: the commit of the change is the change. So the files may be behind
//! it, after a crash at whatever moment, and are brought up when the service starts and whenever the key changes. Each is
//! replaced as a whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use zeroize::Zeroizing;

use super::data_dir::{DataDirError, io, is_there, read_origin, shown, sync, write_synced};
use super::secrets;
use crate::engine::{Defect, Ledger};
use crate::ledger::keys::{Chain, KeyChange, Keys as _};
use crate::ledger::note::{Origin, Skey, Vkey};

const PRIVATE: &str = "ledger.key";
const PUBLIC: &str = "ledger.vkey";
const EARLIER: &str = "earlier.vkeys";
/// How often it is looked at whether the time of a key that was replaced is over.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How soon what failed is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The public keys that a directory knows of, all of one ledger.
#[derive(Debug, Clone)]
pub struct PublicKeys {
    earlier: Vec<Vkey>,
    vkey: Vkey,
    /// Of private keys that are there: also of one that is prepared, or in force and not noted yet.
    private: Vec<Vkey>,
}

impl PublicKeys {
    /// Reads them. A private key is there only of the same ledger, if at all.
    pub fn read(directory: &Path) -> Result<Self, DataDirError> {
        let origin = read_origin(directory)?;
        let vkey = read_public(&directory.join(PUBLIC))?.pop();
        let vkey = vkey.ok_or(DataDirError::Incomplete { path: shown(directory), file: PUBLIC })?;
        let earlier = match directory.join(EARLIER) {
            path if is_there(&path) => read_public(&path)?,
            _ => Vec::new(),
        };
        let private = match is_there(&directory.join(PRIVATE)) {
            true => read_private(directory, &origin)?.iter().map(Skey::vkey).collect(),
            false => Vec::new(),
        };
        let keys = Self { earlier, vkey, private };
        if let Some(other) = keys.all().find(|vkey| *vkey.origin() != origin) {
            let (found, expected) = (other.origin().to_string(), origin.to_string());
            return Err(DataDirError::OtherKey { path: shown(&directory.join(PUBLIC)), found, expected });
        }
        Ok(keys)
    }

    /// Where private keys are, that in force is among them: without it nothing goes on under this name.
    pub(super) fn demand_private(&self, directory: &Path) -> Result<(), DataDirError> {
        if self.private.is_empty() || self.private.contains(&self.vkey) {
            return Ok(());
        }
        let path = shown(&directory.join(PRIVATE));
        Err(DataDirError::NotInForce { path, in_force: self.vkey.to_string() })
    }

    /// With those before, as far as changes of the key lead back to them. The key in force consented to follow the one before it,
    /// and that to follow its own: so nobody but the ledger is believed.
    pub(super) fn led_back(&self, changes: &[KeyChange]) -> Self {
        let mut earlier = Vec::new();
        let mut at = &self.vkey;
        while let Some(change) = changes.iter().find(|change| change.vkey() == at)
            && !earlier.contains(change.replaces())
        {
            at = change.replaces();
            earlier.insert(0, at.clone());
        }
        let is_more = earlier.len() > self.earlier.len();
        Self { earlier: if is_more { earlier } else { self.earlier.clone() }, ..self.clone() }
    }

    /// How many changes of the key the files know of.
    pub(super) fn changes(&self) -> usize {
        self.earlier.len()
    }

    /// The first key of the ledger.
    pub fn first(&self) -> &Vkey {
        self.earlier.first().unwrap_or(&self.vkey)
    }

    /// The one in force, as far as the files know.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// The name of the ledger.
    pub fn origin(&self) -> &Origin {
        self.vkey.origin()
    }

    /// All of them, the first one first.
    pub fn all(&self) -> impl Iterator<Item = &Vkey> + Clone {
        let noted = self.earlier.iter().chain([&self.vkey]);
        noted.chain(self.private.iter().filter(|vkey| **vkey != self.vkey && !self.earlier.contains(vkey)))
    }
}

/// The files that copies of a ledger have, with their modes; with the private keys, if they are to have them.
pub(super) fn files(with_private: bool) -> impl Iterator<Item = (&'static str, u32)> {
    let private = with_private.then_some((PRIVATE, 0o600));
    [(PUBLIC, 0o644), (EARLIER, 0o644)].into_iter().chain(private)
}

/// The private keys in a directory, of the ledger with this name.
pub fn read_private(directory: &Path, origin: &Origin) -> Result<Vec<Skey>, DataDirError> {
    let path = directory.join(PRIVATE);
    if !is_there(&path) {
        return Err(DataDirError::Incomplete { path: shown(directory), file: PRIVATE });
    }
    let keys = parse_private(&path)?;
    match keys.iter().find(|skey| skey.origin() != origin) {
        None => Ok(keys),
        Some(other) => Err(DataDirError::OtherKey {
            path: shown(&path),
            found: other.origin().to_string(),
            expected: origin.to_string(),
        }),
    }
}

/// The private keys in a file; at least one.
pub(super) fn parse_private(path: &Path) -> Result<Vec<Skey>, DataDirError> {
    let wrong = |reason| DataDirError::Key { path: shown(path), reason };
    let text = secrets::text(path)?;
    let mut lines = text.lines().filter(|line| !line.is_empty()).peekable();
    if lines.peek().is_none() {
        Skey::from_text("").map_err(wrong)?;
    }
    lines.map(|line| Skey::from_text(line).map_err(wrong)).collect()
}

fn read_public(path: &Path) -> Result<Vec<Vkey>, DataDirError> {
    let text = fs::read_to_string(path).map_err(io(path))?;
    let wrong = |reason| DataDirError::Key { path: shown(path), reason };
    text.lines().map(|line| line.parse().map_err(wrong)).collect()
}

fn write_private(directory: &Path, keys: &[Skey]) -> Result<(), DataDirError> {
    let mut text = Zeroizing::new(String::new());
    for skey in keys {
        text.push_str(&skey.to_text());
        text.push('\n');
    }
    replace(&directory.join(PRIVATE), text.as_bytes(), 0o600)
}

/// Replaces a file as a whole, durably. Of a link what it leads to: private keys stay on the disk where somebody put them.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), DataDirError> {
    let place = if path.is_symlink() { fs::canonicalize(path).map_err(io(path))? } else { path.to_owned() };
    write_synced(&place, content, mode)?;
    sync(place.parent().expect("a file is in a folder"))
}

/// Held while the files are changed, or copied: by the service, and by whoever prepares a key or makes a backup beside it.
pub(super) fn held(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join("ledger.key.lock");
    // Who may only read the directory can wait for those who change it, too.
    let lock = File::open(&path).or_else(|_| File::options().create(true).append(true).open(&path));
    let lock = lock.map_err(io(&path))?;
    lock.lock().map_err(io(&path))?;
    Ok(lock)
}

/// Makes a key to follow the one in force, unless one is prepared already, and returns the change to it, for
/// `tagledger key announce`. The service may run.
pub fn prepare(directory: &Path) -> Result<Prepared, DataDirError> {
    let _held = held(directory)?;
    let public = PublicKeys::read(directory)?;
    public.demand_private(directory)?;
    let mut keys = read_private(directory, public.origin())?;
    let is_prepared = |skey: &Skey| skey.vkey() != public.vkey && !public.earlier.contains(&skey.vkey());
    if !keys.iter().any(is_prepared) {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).expect("the system has randomness");
        keys.push(Skey::from_seed(public.origin().clone(), &seed));
        write_private(directory, &keys)?;
    }
    let next = keys.iter().find(|skey| is_prepared(skey)).expect("it was there, or made");
    let change = BASE64.encode(KeyChange::to_next(&public.vkey, next).encode_to_vec());
    let before = public.earlier.last().filter(|before| public.private.contains(before)).cloned();
    Ok(Prepared { vkey: next.vkey(), change, before })
}

/// A key that is to follow the one in force.
pub struct Prepared {
    /// It.
    pub vkey: Vkey,
    /// What announces it.
    pub change: String,
    /// The one before that in force, where its time is not over yet: this change ends it.
    pub before: Option<Vkey>,
}

/// Brings the files up to what the log says. A key that was replaced goes once its time is over.
fn settle(directory: &Path, keys: &Chain, is_over: bool) -> Result<(), DataDirError> {
    let _held = held(directory)?;
    let public = PublicKeys::read(directory)?;
    let earlier: Vec<&Vkey> = keys.all().filter(|vkey| *vkey != keys.newest()).collect();
    if !public.earlier.iter().eq(earlier.iter().copied()) {
        let text: String = earlier.iter().map(|vkey| format!("{vkey}\n")).collect();
        replace(&directory.join(EARLIER), text.as_bytes(), 0o644)?;
    }
    if public.vkey != *keys.newest() {
        replace(&directory.join(PUBLIC), format!("{}\n", keys.newest()).as_bytes(), 0o644)?;
    }
    // The one before signs checkpoints until its time is over; those before it never will.
    let signs = |vkey: &Vkey| !earlier.contains(&vkey) || (!is_over && earlier.last() == Some(&vkey));
    if public.private.iter().all(signs) {
        return Ok(());
    }
    let mut private = read_private(directory, keys.first().origin())?;
    private.retain(|skey| signs(&skey.vkey()));
    write_private(directory, &private)
}

/// Keeps the files up with a ledger until it ends. Where it can't, health says why, until it can.
pub async fn follow(directory: PathBuf, ledger: Ledger, overlap: Duration) {
    let (mut changes, mut stopped) = (ledger.keys(), ledger.stopped());
    let overlap_us = u64::try_from(overlap.as_micros()).unwrap_or(u64::MAX);
    loop {
        let keys = changes.borrow_and_update().clone();
        // What is removed does not come back, so a clock that is not to be believed removes nothing.
        let is_over = ledger.believed_now_us().is_some_and(|now_us| {
            ledger.key_changed_at_us().is_ok_and(|at_us| at_us.saturating_add(overlap_us) <= now_us)
        });
        let folder = directory.clone();
        let settled = tokio::task::spawn_blocking(move || settle(&folder, &keys, is_over)).await;
        // A panic has made health red already.
        let reason = settled.ok().and_then(Result::err).map(|error| {
            format!("the files of the ledger's keys can't be brought up to date: {error}; it is tried again and again")
        });
        let look_after = if reason.is_some() { TRY_AGAIN_AFTER } else { LOOK_EVERY };
        match (ledger.set_defect(Defect::KeyFiles, reason.clone()), reason) {
            (true, Some(reason)) => tracing::error!(reason, "health is red until the files of the keys are in place"),
            (true, None) => tracing::info!("the files of the ledger's keys are up to date again"),
            (false, _) => {}
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = stopped.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(look_after) => {}
        }
    }
}
