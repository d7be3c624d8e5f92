//! Answers for which much is read or made: each at its turn, so that only so many are in memory before anybody has counted them, and
//! health is heard beside them.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::sync::{Semaphore, SemaphorePermit};

/// So many of them are made at once: two for each processor, since a read may wait for the disk.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(2 * available_parallelism().map_or(1, std::num::NonZero::get)));

/// A turn, until it is dropped.
pub(super) async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("it is never closed")
}

/// Makes an answer for which many rows are read, while the runtime moves other work away. That costs more than the few rows of a
/// question about one thing, which is answered where it arrives.
pub(super) async fn at_length<T>(answer: impl FnOnce() -> T) -> T {
    let _turn = turn().await;
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(answer),
        _ => answer(),
    }
}
