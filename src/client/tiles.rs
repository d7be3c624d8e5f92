//! The log over HTTP, as C2SP tlog-tiles, from the same port and over the same connection as gRPC.
//!
//! Nothing in here verifies anything: what a tile holds is for others to check. A fetch that fails for now is tried again.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::codegen::{Bytes, http};

use super::credentials::Connection;
use super::visible;
use crate::ledger::entry::MAX_ENTRY_LENGTH;
use crate::ledger::merkle::Hash;
use crate::ledger::merkle::tile::{TILE_WIDTH, Tile, TilePath, split_bundle};

/// Longest tile: 256 of the longest entries, each with its length.
const MAX_TILE_LENGTH: usize = 256 * (MAX_ENTRY_LENGTH + 2);
/// For one attempt, from the request to the last byte.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between attempts; after the last there is none.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(20),
];

/// Why a tile is not there.
#[derive(Debug, thiserror::Error)]
pub enum TileError {
    /// No answer, after several attempts.
    #[error("cannot fetch /tile/{path}: {reason}, {} times in a row", PAUSES.len() + 1)]
    Unreachable {
        /// Of the tile.
        path: TilePath,
        /// Of the last attempt.
        reason: String,
    },
    /// The server does not have what its checkpoint covers.
    #[error("the server does not serve /tile/{path}, which its checkpoint covers: it answers {status}")]
    Withheld {
        /// Of the tile.
        path: TilePath,
        /// Its words.
        status: http::StatusCode,
    },
    /// Served, but not a tile of that width.
    #[error("/tile/{path} is not a tile: {problem}")]
    Malformed {
        /// Of the tile.
        path: TilePath,
        /// What is wrong with it.
        problem: String,
    },
}

impl TileError {
    /// Something was served, and it does not hold.
    pub fn is_verification(&self) -> bool {
        matches!(self, Self::Malformed { .. })
    }
}

/// The tiles that hold these leaves, each as wide as they reach: the first may begin before them.
pub(super) fn tiles_of(leaves: Range<u64>) -> impl Iterator<Item = Tile> {
    let first = leaves.start / TILE_WIDTH;
    let end = leaves.end;
    let past_last = if leaves.is_empty() { first } else { end.div_ceil(TILE_WIDTH) };
    (first..past_last).map(move |index| Tile { index, width: TILE_WIDTH.min(end - index * TILE_WIDTH) })
}

/// The entries of a tile.
pub(super) async fn entries(channel: Connection, tile: Tile) -> Result<Vec<Vec<u8>>, TileError> {
    let path = TilePath::Entries(tile);
    let bytes = fetch(channel, path).await?;
    let malformed = |problem: String| TileError::Malformed { path, problem };
    let entries = split_bundle(&bytes).ok_or_else(|| malformed("it ends within an entry".to_owned()))?;
    match u64::try_from(entries.len()) {
        Ok(width) if width == tile.width => Ok(entries.into_iter().map(<[u8]>::to_vec).collect()),
        _ => Err(malformed(format!("it has {} entries, not {}", entries.len(), tile.width))),
    }
}

/// The leaf hashes of a tile.
pub(super) async fn leaf_hashes(channel: Connection, tile: Tile) -> Result<Vec<Hash>, TileError> {
    let path = TilePath::Hashes { level: 0, tile };
    let bytes = fetch(channel, path).await?;
    let (hashes, rest) = bytes.as_chunks();
    match u64::try_from(hashes.len()) {
        Ok(width) if width == tile.width && rest.is_empty() => Ok(hashes.to_vec()),
        _ => Err(TileError::Malformed {
            path,
            problem: format!("it has {} bytes, not {}", bytes.len(), tile.width * 32),
        }),
    }
}

async fn fetch(mut channel: Connection, path: TilePath) -> Result<Bytes, TileError> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let reason = match tokio::time::timeout(TIMEOUT, attempt(&mut channel, path)).await {
            Ok(Ok((http::StatusCode::OK, bytes))) => return Ok(bytes),
            Ok(Ok((status, _))) if !is_transient(status) => return Err(TileError::Withheld { path, status }),
            Ok(Ok((status, _))) => format!("the server answers {status}"),
            Ok(Err(error)) => error,
            Err(_) => format!("no whole answer within {} seconds", TIMEOUT.as_secs()),
        };
        let Some(pause) = pauses.next() else { return Err(TileError::Unreachable { path, reason }) };
        tokio::time::sleep(pause).await;
    }
}

fn is_transient(status: http::StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, http::StatusCode::TOO_MANY_REQUESTS | http::StatusCode::REQUEST_TIMEOUT)
}

async fn attempt(channel: &mut Connection, path: TilePath) -> Result<(http::StatusCode, Bytes), String> {
    let request = http::Request::get(format!("/tile/{path}")).version(http::Version::HTTP_2).body(Body::empty());
    let request = request.expect("a tile's path is a valid request");
    poll_fn(|context| channel.poll_ready(context)).await.map_err(|error| cause_of(&error))?;
    let response = channel.call(request).await.map_err(|error| cause_of(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_TILE_LENGTH).collect().await;
    body.map(|body| (status, body.to_bytes())).map_err(|error| cause_of(&*error))
}

/// The innermost reason, in the system's words.
fn cause_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    visible(&cause.to_string())
}

/// Tasks that run side by side, and whose results are taken in the order in which they began. Dropped, it stops them.
pub(super) struct InOrder<T>(VecDeque<JoinHandle<T>>);

impl<T: Send + 'static> InOrder<T> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Begins tasks until `most` of them run or wait to be taken.
    pub(super) fn fill<F: Future<Output = T> + Send + 'static>(
        &mut self,
        most: usize,
        mut tasks: impl Iterator<Item = F>,
    ) {
        while self.0.len() < most {
            let Some(task) = tasks.next() else { return };
            self.0.push_back(tokio::spawn(task));
        }
    }

    /// What the oldest of them came to; none if there is none.
    pub(super) async fn next(&mut self) -> Option<T> {
        // Taken out only once it is done: a caller that gives up on waiting leaves it in its place.
        let result = self.0.front_mut()?.await.expect("a fetch does not panic, and nobody else stops it");
        self.0.pop_front();
        Some(result)
    }
}

impl<T> Drop for InOrder<T> {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_the_leaves_asked_for_and_reach_no_further() {
        let paths =
            |leaves: Range<u64>| tiles_of(leaves).map(|tile| TilePath::Entries(tile).to_string()).collect::<Vec<_>>();
        assert_eq!(paths(0..0), Vec::<String>::new());
        assert_eq!(paths(300..300), Vec::<String>::new());
        assert_eq!(paths(0..1), ["entries/000.p/1"]);
        assert_eq!(paths(0..256), ["entries/000"]);
        assert_eq!(paths(0..257), ["entries/000", "entries/001.p/1"]);
        assert_eq!(paths(255..513), ["entries/000", "entries/001", "entries/002.p/1"]);
        assert_eq!(paths(256..512), ["entries/001"]);
        assert_eq!(paths(256_000..256_010), ["entries/x001/000.p/10"]);
    }
}
