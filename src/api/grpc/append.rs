//! Writing over gRPC.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::api::principals::Principal;
use crate::api::{door, status};
use crate::engine::{Appended, Ledger};
use crate::proto::append_service_server::AppendService;
use crate::proto::append_stream_response::Result as StreamResult;
use crate::proto::{
    AppendBatchRequest, AppendBatchResponse, AppendRequest, AppendResponse, AppendStreamRequest, AppendStreamResponse,
    Evidence, Receipt, Submission,
};

/// Most statements of a stream that wait for their answer; past that the stream is not read.
const STREAM_WINDOW: usize = 1024;

pub(super) struct Append {
    pub(super) ledger: Ledger,
}

type Answer = Pin<Box<dyn Future<Output = Result<AppendStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AppendService for Append {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let principal = principal(&request);
        let submission = request.into_inner().submission.unwrap_or_default();
        let submissions = door::admit(&principal, vec![submission]).map_err(|found| status::invalid(&found))?;
        let appended = self.ledger.append(submissions).await.map_err(|error| status::of_append(&error))?;
        Ok(Response::new(single(&self.ledger, appended)?))
    }

    async fn append_batch(
        &self,
        request: Request<AppendBatchRequest>,
    ) -> Result<Response<AppendBatchResponse>, Status> {
        let principal = principal(&request);
        let submissions =
            door::admit(&principal, request.into_inner().submissions).map_err(|found| status::invalid(&found))?;
        let appended = self.ledger.append(submissions).await.map_err(|error| status::of_append(&error))?;
        let evidence = prove(&self.ledger, &appended)?;
        Ok(Response::new(AppendBatchResponse { receipts: appended.receipts, evidence: Some(evidence) }))
    }

    type AppendStreamStream = Pin<Box<dyn Stream<Item = Result<AppendStreamResponse, Status>> + Send>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let principal = principal(&request);
        let ledger = self.ledger.clone();
        let mut incoming = request.into_inner();
        let (answers, answered) = mpsc::channel::<Answer>(STREAM_WINDOW);
        tokio::spawn(async move {
            // A place for the answer comes first: no room, no reading. That is the flow control.
            while let Ok(place) = answers.reserve().await {
                match incoming.message().await {
                    Ok(Some(message)) => place.send(take(&ledger, &principal, message.submission).await),
                    Ok(None) => break,
                    Err(broken) => {
                        place.send(Box::pin(async { Err(broken) }));
                        break;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered).then(|answer| answer))))
    }
}

/// Who was let in.
fn principal<T>(request: &Request<T>) -> Arc<Principal> {
    let principal = request.extensions().get::<Arc<Principal>>();
    Arc::clone(principal.expect("nobody reaches this service unauthenticated"))
}

/// Takes one statement of a stream to its place in the queue; its answer comes later.
async fn take(ledger: &Ledger, principal: &Principal, submission: Option<Submission>) -> Answer {
    let queued = match door::admit(principal, vec![submission.unwrap_or_default()]) {
        Ok(submissions) => ledger.enqueue(submissions).await.map_err(|error| status::of_append(&error)),
        Err(found) => Err(status::invalid(&found)),
    };
    let ledger = ledger.clone();
    Box::pin(async move {
        let recorded = match queued {
            Ok(queued) => match queued.decided().await {
                Ok(appended) => single(&ledger, appended),
                Err(error) => Err(status::of_append(&error)),
            },
            Err(refused) => Err(refused),
        };
        let result = match recorded {
            Ok(response) => StreamResult::Recorded(response),
            Err(refused) => StreamResult::Refused(status::refusal(&refused)),
        };
        Ok(AppendStreamResponse { result: Some(result) })
    })
}

fn single(ledger: &Ledger, appended: Appended) -> Result<AppendResponse, Status> {
    let evidence = prove(ledger, &appended)?;
    Ok(AppendResponse { receipt: appended.receipts.into_iter().next(), evidence: Some(evidence) })
}

fn prove(ledger: &Ledger, appended: &Appended) -> Result<Evidence, Status> {
    let all = |receipt: &Receipt| receipt.index..receipt.index + u64::from(receipt.entry_count);
    let indexes: BTreeSet<u64> = appended.receipts.iter().flat_map(all).collect();
    let indexes: Vec<u64> = indexes.into_iter().collect();
    ledger.prove(&appended.committed, &indexes).map_err(|error| status::recorded_but_unread(&error))
}
