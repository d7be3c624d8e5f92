//! Writing over gRPC.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::api::failures::Reason;
use crate::api::limits::{InFlight, TooMuch, Who};
use crate::api::principals::{Access, Caller, Peer};
use crate::api::{door, status};
use crate::engine::plan::{Rejected, Submission as Admitted};
use crate::engine::{AppendError, Appended, Ledger};
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
    pub(super) access: Arc<Access>,
}

/// Why statements are not recorded that were let in.
enum Spent {
    /// Whoever signed them asks for too much.
    TooMuch(TooMuch),
    /// Whether they are new can't be read.
    Unread(Status),
}

impl From<Spent> for Status {
    fn from(spent: Spent) -> Self {
        match spent {
            Spent::TooMuch(error) => status::of_limit(&error),
            Spent::Unread(status) => status,
        }
    }
}

/// A request that was let in, and what lets in its statements.
#[derive(Clone)]
struct Call {
    access: Arc<Access>,
    caller: Caller,
    peer: Peer,
    in_flight: Arc<InFlight>,
}

impl Call {
    /// What the guard noted with the request.
    fn of<T>(access: &Arc<Access>, request: &Request<T>) -> Self {
        let extensions = request.extensions();
        let noted = "nobody reaches this service unguarded";
        Self {
            access: Arc::clone(access),
            caller: extensions.get::<Caller>().expect(noted).clone(),
            peer: extensions.get::<Peer>().expect(noted).clone(),
            in_flight: Arc::clone(extensions.get::<Arc<InFlight>>().expect(noted)),
        }
    }

    fn admit(&self, submissions: Vec<Submission>) -> Result<Vec<Admitted>, Status> {
        let admitted = door::admit(&self.access, &self.caller, self.peer.address, submissions);
        admitted.map_err(|refused| status::of_refused(&refused))
    }

    /// The request counted for whoever was known when it came. Where that was nobody, statements count for those who signed them,
    /// but for repetitions of what is recorded: those anybody can send.
    fn spend(&self, ledger: &Ledger, admitted: &[Admitted]) -> Result<(), Spent> {
        if self.caller.name.is_some() {
            return Ok(());
        }
        let new = ledger.new_by_principal(admitted).map_err(|error| Spent::Unread(status::of_read(&error)))?;
        for (principal, count) in new {
            self.access.limits.spend(Who::Principal(principal), count).map_err(Spent::TooMuch)?;
        }
        Ok(())
    }

    /// The first statement came with the request.
    fn charge(&self, statements: usize) -> Result<(), Status> {
        let further = statements.saturating_sub(1);
        self.access.limits.charge(&self.in_flight, further).map_err(|error| status::of_limit(&error))
    }

    /// A stream goes as slow as it has to, and is not read meanwhile.
    async fn pace(&self) {
        while let Err(error) = self.access.limits.charge(&self.in_flight, 1) {
            tokio::time::sleep(error.retry_after).await;
        }
    }

    /// The same, once it is known whose the statement is.
    async fn pace_for(&self, ledger: &Ledger, admitted: &[Admitted]) -> Result<(), Status> {
        loop {
            match self.spend(ledger, admitted) {
                Ok(()) => return Ok(()),
                Err(Spent::TooMuch(error)) => tokio::time::sleep(error.retry_after).await,
                Err(Spent::Unread(status)) => return Err(status),
            }
        }
    }

    fn not_recorded(&self, error: &AppendError) -> Status {
        if let AppendError::Rejected(Rejected::Unauthorized { unauthorized, .. }) = error {
            self.access.failures.note(Reason::Changed, self.peer.address, unauthorized);
        }
        status::of_append(error)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<AppendStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AppendService for Append {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let call = Call::of(&self.access, &request);
        let submissions = call.admit(vec![request.into_inner().submission.unwrap_or_default()])?;
        call.spend(&self.ledger, &submissions)?;
        let appended = self.ledger.append(submissions).await.map_err(|error| call.not_recorded(&error))?;
        Ok(Response::new(single(&self.ledger, appended)?))
    }

    async fn append_batch(
        &self,
        request: Request<AppendBatchRequest>,
    ) -> Result<Response<AppendBatchResponse>, Status> {
        let call = Call::of(&self.access, &request);
        let submissions = request.into_inner().submissions;
        call.charge(submissions.len())?;
        let submissions = call.admit(submissions)?;
        call.spend(&self.ledger, &submissions)?;
        let appended = self.ledger.append(submissions).await.map_err(|error| call.not_recorded(&error))?;
        let evidence = prove(&self.ledger, &appended)?;
        Ok(Response::new(AppendBatchResponse { receipts: appended.receipts, evidence: Some(evidence) }))
    }

    type AppendStreamStream = Pin<Box<dyn Stream<Item = Result<AppendStreamResponse, Status>> + Send>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let call = Call::of(&self.access, &request);
        let ledger = self.ledger.clone();
        let mut incoming = request.into_inner();
        let (answers, answered) = mpsc::channel::<Answer>(STREAM_WINDOW);
        tokio::spawn(async move {
            // A place for the answer comes first: no room, no reading. That is the flow control.
            while let Ok(place) = answers.reserve().await {
                match incoming.message().await {
                    Ok(Some(message)) => {
                        call.pace().await;
                        place.send(take(&ledger, &call, message.submission).await);
                    }
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

/// Takes one statement of a stream to its place in the queue; its answer comes later.
async fn take(ledger: &Ledger, call: &Call, submission: Option<Submission>) -> Answer {
    let queued = async {
        let submissions = call.admit(vec![submission.unwrap_or_default()])?;
        call.pace_for(ledger, &submissions).await?;
        ledger.enqueue(submissions).await.map_err(|error| call.not_recorded(&error))
    };
    let queued = queued.await;
    let (ledger, call) = (ledger.clone(), call.clone());
    Box::pin(async move {
        let recorded = match queued {
            Ok(queued) => match queued.decided().await {
                Ok(appended) => single(&ledger, appended),
                Err(error) => Err(call.not_recorded(&error)),
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
