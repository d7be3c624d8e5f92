//! Commitments of an idle ledger.
//!
//! An answer holds as of the newest commitment. Where nothing is recorded there is none for hours, and nobody can prove that
//! nothing happened since. So an idle ledger writes one now and then, but only if there is something new to say it about: since
//! the last one something was recorded, or somebody asked. A ledger that nobody uses does not grow.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::{Command, Ledger};

impl Ledger {
    /// Has a commitment written whenever nothing was committed for as long as `after`, if it is of use. Runs until the ledger
    /// stops.
    pub async fn commit_when_idle(&self, after: Duration) {
        let (mut newest, mut stopped) = (self.newest(), self.stopped());
        let mut is_over = std::pin::pin!(stopped.wait_for(Option::is_some));
        loop {
            newest.mark_unchanged();
            tokio::select! {
                _ = &mut is_over => return,
                () = quiet(&mut newest, after) => {}
            }
            // On a disk that is nearly full it could be the write that fails, and that would be the end.
            if self.check_accepts().is_err() {
                continue;
            }
            // What happens between this line and the commitment counts for the next one: better one too many.
            if self.shared.has_news.swap(false, Ordering::Relaxed) {
                let _ = self.queue.send(Command::Commit).await;
            }
        }
    }
}

/// Waits until nothing was committed for so long.
async fn quiet<T>(newest: &mut watch::Receiver<T>, after: Duration) {
    while let Ok(Ok(())) = tokio::time::timeout(after, newest.changed()).await {}
}
