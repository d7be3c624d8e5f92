//! Writing over gRPC.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use super::{Made, Messages, made_by};
use crate::api::failures::Reason;
use crate::api::limits::{InFlight, Room, TooMuch, Who};
use crate::api::principals::{Access, Caller, Peer};
use crate::api::turns::at_length;
use crate::api::{door, status};
use crate::engine::plan::{Rejected, Submission as Admitted};
use crate::engine::{AppendError, Appended, Held, Ledger};
use crate::proto::append_service_server::AppendService;
use crate::proto::append_stream_response::Result as StreamResult;
use crate::proto::{
    AppendBatchRequest, AppendBatchResponse, AppendRequest, AppendResponse, AppendStreamRequest, AppendStreamResponse,
    Evidence, Receipt, Submission,
};

/// Most statements of a stream that wait for their answer, or whose answer waits to be taken; past that the stream is not read.
const STREAM_WINDOW: usize = 1024;
/// Answers of a stream that are ready to go out in one piece. Those to the statements of a batch are made at once.
const AHEAD: usize = 32;
/// What a statement of a stream holds besides its bytes, about: receipt, proof and checkpoint.
const ANSWER_BYTES: usize = 2048;
/// The same of a statement of a batch, which has one proof and one checkpoint for all.
const BATCHED_BYTES: usize = 512;
/// How long a stream is not read when its caller holds all the memory it may.
const PAUSE: Duration = Duration::from_millis(20);

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

    /// The answer to a batch has all its statements, in entries: room for it comes before they are recorded.
    fn set_aside(&self, submissions: &[Submission]) -> Result<(), Status> {
        let bytes = submissions.iter().map(|submission| submission.statement.len() + BATCHED_BYTES).sum();
        self.access.limits.set_aside(&self.in_flight, bytes).map_err(|error| status::of_limit(&error))
    }

    /// What counts until the statements are recorded, whoever waits for that.
    fn held(&self) -> Held {
        Some(Arc::clone(&self.in_flight) as _)
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

    /// The same, where it is memory that is short.
    async fn room(&self, bytes: usize) -> Room {
        loop {
            match self.access.limits.hold_patiently(&self.in_flight, bytes) {
                Ok(room) => return room,
                Err(_) => tokio::time::sleep(PAUSE).await,
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

/// An answer of a stream, which is made as soon as it can be and not only when somebody takes it: what it is made from is a whole
/// commit.
struct Answer {
    made: JoinHandle<AppendStreamResponse>,
    room: Arc<Room>,
}

#[tonic::async_trait]
impl AppendService for Append {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let call = Call::of(&self.access, &request);
        let submissions = call.admit(vec![request.into_inner().submission.unwrap_or_default()])?;
        call.spend(&self.ledger, &submissions)?;
        let appended = self.ledger.append_holding(submissions, call.held()).await;
        let appended = appended.map_err(|error| call.not_recorded(&error))?;
        Ok(Response::new(single(&self.ledger, appended)?))
    }

    async fn append_batch(
        &self,
        request: Request<AppendBatchRequest>,
    ) -> Result<Response<AppendBatchResponse>, Status> {
        let call = Call::of(&self.access, &request);
        let submissions = request.into_inner().submissions;
        call.charge(submissions.len())?;
        call.set_aside(&submissions)?;
        let submissions = at_length(|| call.admit(submissions)).await?;
        call.spend(&self.ledger, &submissions)?;
        let appended = self.ledger.append_holding(submissions, call.held()).await;
        let appended = appended.map_err(|error| call.not_recorded(&error))?;
        let evidence = at_length(|| prove(&self.ledger, &appended)).await?;
        Ok(Response::new(AppendBatchResponse { receipts: appended.receipts, evidence: Some(evidence) }))
    }

    type AppendStreamStream = Messages<AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let call = Call::of(&self.access, &request);
        let ledger = self.ledger.clone();
        let incoming = request.into_inner();
        Ok(Response::new(made_by(AHEAD, |sender| async move {
            let (answers, mut answered) = mpsc::channel::<Answer>(STREAM_WINDOW - AHEAD);
            let reading = tokio::spawn(read(ledger, call, incoming, answers));
            while let Some(Answer { made, room }) = answered.recv().await {
                let message = made.await.map_err(|_| status::bug());
                if sender.send(Made { message, _room: Some(room) }).await.is_err() {
                    return reading.abort();
                }
            }
            // Once every answer to what was read is given.
            if let Err(end) = reading.await.unwrap_or_else(|_| Err(status::bug())) {
                let _ = sender.send(Err(end).into()).await;
            }
        })))
    }
}

/// Reads a stream to its end. An error ends it with this status.
async fn read(
    ledger: Ledger,
    call: Call,
    mut incoming: Streaming<AppendStreamRequest>,
    answers: mpsc::Sender<Answer>,
) -> Result<(), Status> {
    let mut stopped = ledger.stopped();
    loop {
        // A place for the answer comes first: no room, no reading. That is the flow control.
        let Ok(place) = answers.reserve().await else { return Ok(()) };
        let message = tokio::select! {
            message = incoming.message() => message?,
            _ = stopped.wait_for(Option::is_some) => return Err(status::stops()),
        };
        let Some(AppendStreamRequest { submission }) = message else { return Ok(()) };
        let submission = submission.unwrap_or_default();
        let taken = async {
            let room = Arc::new(call.room(submission.statement.len() + ANSWER_BYTES).await);
            call.pace().await;
            Answer { made: take(&ledger, &call, submission, Arc::clone(&room)).await, room }
        };
        // There may be no room for long, and nobody left who waits for some.
        let answer = tokio::select! {
            answer = taken => answer,
            () = answers.closed() => return Ok(()),
            _ = stopped.wait_for(Option::is_some) => return Err(status::stops()),
        };
        place.send(answer);
    }
}

/// Takes one statement of a stream to its place in the queue; its answer comes later.
async fn take(
    ledger: &Ledger,
    call: &Call,
    submission: Submission,
    room: Arc<Room>,
) -> JoinHandle<AppendStreamResponse> {
    let queued = async {
        let submissions = call.admit(vec![submission])?;
        call.pace_for(ledger, &submissions).await?;
        ledger.enqueue(submissions, Some(room)).await.map_err(|error| call.not_recorded(&error))
    };
    let queued = queued.await;
    let (ledger, call) = (ledger.clone(), call.clone());
    tokio::spawn(async move {
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
        AppendStreamResponse { result: Some(result) }
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
