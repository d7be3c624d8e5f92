//! Free space: a full disk is noticed before it is full.
//!
//! A write that fails for want of space stops the ledger until a restart. So while less than a set amount is free on the
//! database's disk, appends are refused, which costs nobody anything but time: reads go on, and appends too once there is room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::Ledger;

/// How often it is looked at. What a ledger can write in that time has to fit into what is kept free.
const EVERY: Duration = Duration::from_secs(1);
const MEBIBYTE: u64 = 1 << 20;

/// What is kept free on the disk of a directory.
#[derive(Debug, Clone)]
pub struct Reserve {
    directory: PathBuf,
    least_mib: u64,
}

impl Reserve {
    /// So many MiB on the disk of a directory.
    pub fn new(directory: &Path, least_mib: u64) -> Self {
        Self { directory: directory.to_owned(), least_mib }
    }

    /// Looks once, and tells the ledger.
    pub fn look(&self, ledger: &Ledger) {
        let shortage = match free_mib(&self.directory) {
            Ok(free_mib) if free_mib >= self.least_mib => None,
            Ok(free_mib) => Some(format!(
                "only {free_mib} MiB are free on the disk of {}, and {} MiB are kept free; make room, and appends go on",
                self.directory.display(),
                self.least_mib
            )),
            // What can't be told is no reason to refuse; a write that fails is noticed anyway.
            Err(error) => {
                tracing::debug!(%error, "cannot tell how much space is free");
                None
            }
        };
        ledger.set_shortage(shortage);
    }

    /// Looks now and then, until the ledger ends.
    pub async fn watch(self, ledger: Ledger) {
        let mut stopped = ledger.stopped();
        while tokio::time::timeout(EVERY, stopped.wait_for(Option::is_some)).await.is_err() {
            self.look(&ledger);
        }
    }
}

/// What may be written by anybody but the superuser.
fn free_mib(directory: &Path) -> Result<u64, rustix::io::Errno> {
    let disk = rustix::fs::statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize) / MEBIBYTE)
}
