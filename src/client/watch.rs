//! Watching the log grow: every entry is proven to be in it before it is handed on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tokio_stream::{Stream, StreamExt as _};

use super::{ClientError, RemoteLedger};
use crate::ledger::evidence::{VerifiedEntry, verify};
use crate::proto::{self, GetMultiProofRequest, LogEntry, WatchRequest, WatchResponse};

/// Most entries proven at once; a multi-proof holds at most 1,024 leaves.
const BATCH: usize = 256;
/// How long entries wait for others to be proven together with them.
const BATCH_WAIT: Duration = Duration::from_millis(20);

/// What came in one go.
type Batch = Vec<Result<WatchResponse, tonic::Status>>;

/// Entries as they come.
pub struct Watcher<'a> {
    ledger: &'a RemoteLedger,
    stream: Pin<Box<dyn Stream<Item = Batch> + Send>>,
    ready: VecDeque<Watched>,
    last: Option<u64>,
}

/// An entry that is proven to be in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// Position in the log.
    pub index: u64,
    /// The entry.
    pub entry: VerifiedEntry,
    /// Size of the checkpoint it was proven under.
    pub tree_size: u64,
}

impl RemoteLedger {
    /// Begins to watch. Which entries pass the filter is the server's word.
    pub async fn watch(&self, request: WatchRequest) -> Result<Watcher<'_>, ClientError> {
        let stream = self.log().watch(request).await?.into_inner();
        let stream = Box::pin(stream.chunks_timeout(BATCH, BATCH_WAIT));
        Ok(Watcher { ledger: self, stream, ready: VecDeque::new(), last: None })
    }
}

impl Watcher<'_> {
    /// The next entry; `None` once the server ends the stream.
    pub async fn next(&mut self) -> Result<Option<Watched>, ClientError> {
        while self.ready.is_empty() {
            let Some(batch) = self.stream.next().await else { return Ok(None) };
            let mut entries = Vec::with_capacity(batch.len());
            for response in batch {
                entries.push(response?.entry.ok_or(ClientError::Incomplete("entry"))?);
            }
            self.prove(entries).await?;
        }
        Ok(self.ready.pop_front())
    }

    async fn prove(&mut self, entries: Vec<LogEntry>) -> Result<(), ClientError> {
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
        if let (Some(last), Some(&first)) = (self.last, indexes.first())
            && first <= last
        {
            return Err(ClientError::Incomplete("rising order in its stream"));
        }
        let request = GetMultiProofRequest { indexes: indexes.clone(), tree_size: 0 };
        let proof = self.ledger.log().get_multi_proof(request).await?.into_inner();
        let (checkpoint, proof) = (proof.checkpoint, proof.hashes);
        let evidence = proto::Evidence { checkpoint, entries, proof, subjects: Vec::new() };
        let verified = self.ledger.checked(|keys| verify(&evidence, keys)).await??;
        self.ledger.observe(verified.note()).await?;
        let tree_size = verified.checkpoint().size;
        self.ready.extend(verified.iter().map(|(index, entry)| Watched { index, entry: entry.clone(), tree_size }));
        self.last = indexes.last().copied().or(self.last);
        Ok(())
    }
}
