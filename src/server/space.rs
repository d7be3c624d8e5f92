//! Free space: a full disk is noticed before it is full.
//!
//! A write that fails for want of space stops the ledger until a restart. So while less than a set amount is free on the
//! database's disk, or on that of the high-water mark, appends are refused, which costs nobody anything but time: reads go on, and
//! appends too once there is room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::engine::Ledger;

/// How often it is looked at. What a ledger can write in that time has to fit into what is kept free.
const EVERY: Duration = Duration::from_secs(1);
const MEBIBYTE: u64 = 1 << 20;
/// What is kept free for the high-water mark at most, in MiB. It takes 128 KiB, and may have a small disk of its own.
const FOR_MARK_MIB: u64 = 1;

/// What is kept free, and where.
#[derive(Debug)]
pub struct Reserve(Vec<Disk>);

#[derive(Debug)]
struct Disk {
    directory: PathBuf,
    least_mib: u64,
    /// Why it is too little, by the last look that could tell.
    shortage: Option<String>,
    /// Why the last look could not.
    unread: Option<Errno>,
}

impl Reserve {
    /// So many MiB on the disk of the database, and some on that of the mark; often it is the same.
    pub fn new(database: &Path, mark: &Path, least_mib: u64) -> Self {
        let disk = |directory: &Path, least_mib| Disk {
            directory: directory.to_owned(),
            least_mib,
            shortage: None,
            unread: None,
        };
        Self(vec![disk(database, least_mib), disk(mark, least_mib.min(FOR_MARK_MIB))])
    }

    /// Looks once, and tells the ledger.
    pub fn look(&mut self, ledger: &Ledger) {
        ledger.set_shortage(self.judge(free_mib));
    }

    /// Looks now and then, until the ledger ends.
    pub async fn watch(mut self, ledger: Ledger) {
        let mut stopped = ledger.stopped();
        while tokio::time::timeout(EVERY, stopped.wait_for(Option::is_some)).await.is_err() {
            // A disk that does not answer keeps who asks, and nobody else.
            let looking = tokio::task::spawn_blocking(move || {
                let shortage = self.judge(free_mib);
                (self, shortage)
            });
            let looked = tokio::select! {
                looked = looking => looked,
                _ = stopped.wait_for(Option::is_some) => return,
            };
            let Ok((reserve, shortage)) = looked else { return };
            self = reserve;
            ledger.set_shortage(shortage);
        }
    }

    fn judge(&mut self, free_mib: impl Fn(&Path) -> Result<u64, Errno>) -> Option<String> {
        for disk in &mut self.0 {
            disk.judge(free_mib(&disk.directory));
        }
        self.0.iter().find_map(|disk| disk.shortage.clone())
    }
}

impl Disk {
    fn judge(&mut self, free_mib: Result<u64, Errno>) {
        let place = self.directory.display();
        match free_mib {
            Ok(free_mib) => {
                self.unread = None;
                self.shortage = (free_mib < self.least_mib).then(|| {
                    format!(
                        "only {free_mib} MiB are free on the disk of {place}, and {} MiB are kept free; make room, and appends go on",
                        self.least_mib
                    )
                });
            }
            // What was too little still is, as far as anybody knows; and what can't be told is no reason to refuse.
            Err(error) => {
                if self.unread.replace(error) != Some(error) {
                    let is_short = self.shortage.is_some();
                    tracing::warn!(%error, is_short, "cannot tell how much space is free on the disk of {place}; what was last known holds");
                }
            }
        }
    }
}

/// What may be written by anybody but the superuser.
fn free_mib(directory: &Path) -> Result<u64, Errno> {
    let disk = rustix::fs::statvfs(directory)?;
    // Some file systems don't say how large they are.
    if disk.f_blocks == 0 {
        return Err(Errno::NOTSUP);
    }
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize) / MEBIBYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve() -> Reserve {
        Reserve::new(Path::new("/database"), Path::new("/mark"), 256)
    }

    #[test]
    fn a_disk_that_does_not_say_how_full_it_is_ends_no_shortage_and_begins_none() {
        let mut reserve = reserve();
        assert_eq!(reserve.judge(|_| Err(Errno::IO)), None);
        let shortage = reserve.judge(|_| Ok(255)).expect("too little");
        assert!(shortage.contains("only 255 MiB are free on the disk of /database, and 256 MiB"), "{shortage}");
        assert_eq!(reserve.judge(|_| Err(Errno::IO)), Some(shortage));
        assert_eq!(reserve.judge(|_| Ok(256)), None);
        assert_eq!(reserve.judge(|_| Err(Errno::IO)), None);
    }

    #[test]
    fn the_disk_of_the_mark_is_watched_too() {
        let mut reserve = reserve();
        let free = |on_mark| move |place: &Path| Ok(if place == Path::new("/mark") { on_mark } else { 10_000 });
        assert_eq!(reserve.judge(free(1)), None);
        let shortage = reserve.judge(free(0)).expect("too little");
        assert!(shortage.contains("only 0 MiB are free on the disk of /mark, and 1 MiB"), "{shortage}");
        // Of what is not known of one disk, the other says nothing.
        let unread = |place: &Path| if place == Path::new("/mark") { Err(Errno::IO) } else { Ok(10_000) };
        assert_eq!(reserve.judge(unread), Some(shortage));
        assert_eq!(reserve.judge(free(1)), None);
    }

    #[test]
    fn who_keeps_nothing_free_is_refused_nothing() {
        assert_eq!(Reserve::new(Path::new("/database"), Path::new("/mark"), 0).judge(|_| Ok(0)), None);
    }
}
