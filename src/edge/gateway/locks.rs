//! One writer per tag, and a manifest's deletion apart from every push into its repository.
//!
//! Within one gateway this is what orders changes; between several, the hold in the ledger does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Locks that nobody holds are dropped once there are this many.
const MANY: usize = 1024;

/// Locks by name.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<String, Arc<RwLock<()>>>>);

/// What is held while a change is carried out.
pub(super) enum Guard {
    /// Some tags of a repository.
    Tags { _repository: OwnedRwLockReadGuard<()>, _tags: Vec<OwnedRwLockWriteGuard<()>> },
    /// All of it.
    Repository { _repository: OwnedRwLockWriteGuard<()> },
}

impl Locks {
    /// Waits until nobody else changes these tags. `tags` rise, so two callers never wait for each other.
    pub(super) async fn tags(&self, repository: &str, tags: impl Iterator<Item = String>) -> Guard {
        let shared = self.lock(repository).read_owned().await;
        let mut held = Vec::new();
        for tag in tags {
            held.push(self.lock(&format!("{repository}:{tag}")).write_owned().await);
        }
        Guard::Tags { _repository: shared, _tags: held }
    }

    /// Waits until nobody else changes anything in a repository.
    pub(super) async fn repository(&self, repository: &str) -> Guard {
        Guard::Repository { _repository: self.lock(repository).write_owned().await }
    }

    fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock().expect("nobody panics while holding it");
        if locks.len() >= MANY {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }
}
