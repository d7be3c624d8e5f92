//! Reading the log as a log, over gRPC.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{Fields, Made, Messages, made_by};
use crate::api::limits::{InFlight, Room};
use crate::api::principals::{Access, Caller};
use crate::api::status;
use crate::api::turns::at_length;
use crate::engine::Ledger;
use crate::engine::query::{QueryError, Reader};
use crate::ledger::entry::{Body, SignedEntry};
use crate::ledger::keys::Keys as _;
use crate::ledger::statement::{Kind, Violation};
use crate::ledger::subject::{place_of, tag_of};
use crate::proto::log_service_server::LogService;
use crate::proto::{
    GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest, GetConsistencyProofResponse,
    GetEntryRequest, GetEntryResponse, GetInclusionProofRequest, GetInclusionProofResponse, GetKeysRequest,
    GetKeysResponse, GetLedgerRequest, GetLedgerResponse, GetMultiProofRequest, GetMultiProofResponse,
    ListEntriesRequest, ListEntriesResponse, LogEntry, Outcome, WatchRequest, WatchResponse, get_entry_request::By,
};

/// Entries read at once for a stream.
const CHUNK: u64 = 64;
/// Bytes of entries that are handed on at once; the last of them may go beyond.
const CHUNK_BYTES: usize = 64 << 10;
/// Entries of a stream on their way to a reader. A slow reader holds up nobody but itself.
const WINDOW: usize = 256;
/// How long a stream waits when its caller holds all the memory it may.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Log {
    pub(super) ledger: Ledger,
    pub(super) access: Arc<Access>,
}

impl Log {
    fn ask<T>(&self, question: impl FnOnce(&Reader<'_>) -> Result<T, QueryError>) -> Result<Response<T>, Status> {
        let answer = self.ledger.read(question).map_err(|error| status::of_read(&error))?;
        answer.map(Response::new).map_err(|error| status::of_query(&error))
    }
}

#[tonic::async_trait]
impl LogService for Log {
    async fn get_ledger(&self, _: Request<GetLedgerRequest>) -> Result<Response<GetLedgerResponse>, Status> {
        let keys = Arc::clone(&self.ledger.keys().borrow());
        Ok(Response::new(GetLedgerResponse {
            origin: keys.first().origin().to_string(),
            vkey: keys.newest().to_string(),
            key_changes: u64::try_from(keys.later().len()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_keys(&self, _: Request<GetKeysRequest>) -> Result<Response<GetKeysResponse>, Status> {
        self.ask(|reader| Ok(GetKeysResponse { evidence: Some(reader.key_changes()?) }))
    }

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let checkpoint = self.ledger.newest().borrow().head.checkpoint.clone();
        Ok(Response::new(GetCheckpointResponse { checkpoint }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<GetEntryResponse>, Status> {
        let by = request
            .into_inner()
            .by
            .ok_or_else(|| status::invalid(&[Violation::new("by", "REQUIRED", "must be an index or a leaf hash")]))?;
        self.ask(|reader| {
            let evidence = match by {
                By::Index(index) => reader.entry(index)?,
                By::LeafHash(hash) => reader.entry_by_leaf(&hash)?,
            };
            Ok(GetEntryResponse { evidence: Some(evidence) })
        })
    }

    type ListEntriesStream = Messages<ListEntriesResponse>;

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<Self::ListEntriesStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let ahead = Ahead::of(self, &request);
        let ListEntriesRequest { begin, end } = request.into_inner();
        let range = self.ask(|reader| reader.entry_range(begin, end))?.into_inner();
        let access = Arc::clone(&self.access);
        Ok(Response::new(made_by(WINDOW, |sender| async move {
            let mut next = range.start;
            while next < range.end {
                if !access.still_reads(caller.as_ref()) {
                    let _ = sender.send(Err(status::no_reader_any_more()).into()).await;
                    return;
                }
                let (chunk, room) = match ahead.chunk(next, range.end, &sender).await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => return,
                    Err(failed) => {
                        let _ = sender.send(Err(failed).into()).await;
                        return;
                    }
                };
                for entry in chunk {
                    let message = Ok(ListEntriesResponse { entry: Some(LogEntry { index: next, entry }) });
                    if sender.send(Made { message, _room: Some(Arc::clone(&room)) }).await.is_err() {
                        return;
                    }
                    next += 1;
                }
            }
        })))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        let GetInclusionProofRequest { index, tree_size } = request.into_inner();
        self.ask(|reader| reader.inclusion(index, tree_size))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        let GetConsistencyProofRequest { first, second } = request.into_inner();
        self.ask(|reader| reader.consistency(first, second))
    }

    async fn get_multi_proof(
        &self,
        request: Request<GetMultiProofRequest>,
    ) -> Result<Response<GetMultiProofResponse>, Status> {
        let GetMultiProofRequest { indexes, tree_size } = request.into_inner();
        at_length(|| self.ask(|reader| reader.multi(&indexes, tree_size))).await
    }

    type WatchStream = Messages<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let ahead = Ahead::of(self, &request);
        let request = request.into_inner();
        let filter = Filter::parse(&request)?;
        let mut newest = self.ledger.newest();
        let size = newest.borrow().head.size;
        let mut next = request.begin.unwrap_or(size);
        if next > size {
            let allowed = format!("the log has {size} entries; at most {size} is allowed");
            return Err(status::of_query(&QueryError::OutOfRange { field: "begin", value: next, allowed }));
        }
        let access = Arc::clone(&self.access);
        let mut principals = access.changes();
        Ok(Response::new(made_by(WINDOW, |sender| async move {
            loop {
                principals.mark_unchanged();
                if !access.still_reads(caller.as_ref()) {
                    let _ = sender.send(Err(status::no_reader_any_more()).into()).await;
                    return;
                }
                let tree_size = newest.borrow_and_update().head.size;
                while next < tree_size {
                    let (chunk, room) = match ahead.chunk(next, tree_size, &sender).await {
                        Ok(Some(chunk)) => chunk,
                        Ok(None) => return,
                        Err(failed) => {
                            let _ = sender.send(Err(failed).into()).await;
                            return;
                        }
                    };
                    for entry in chunk {
                        let index = next;
                        next += 1;
                        if !filter.wants(&entry) {
                            continue;
                        }
                        let message = Ok(WatchResponse { entry: Some(LogEntry { index, entry }), tree_size });
                        if sender.send(Made { message, _room: Some(Arc::clone(&room)) }).await.is_err() {
                            return;
                        }
                    }
                }
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { return },
                    changed = principals.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        })))
    }
}

/// What reads ahead for a stream, and counts what it has read until somebody takes it.
struct Ahead {
    ledger: Ledger,
    access: Arc<Access>,
    request: Arc<InFlight>,
}

impl Ahead {
    fn of<T>(log: &Log, request: &Request<T>) -> Self {
        let request = request.extensions().get::<Arc<InFlight>>().expect("nobody reaches this service unguarded");
        Self { ledger: log.ledger.clone(), access: Arc::clone(&log.access), request: Arc::clone(request) }
    }

    /// The next entries, at least one, with the room they take; nothing if nobody waits for them any more. Where there is no room
    /// they are read again once there is.
    async fn chunk<T>(
        &self,
        begin: u64,
        end: u64,
        sender: &mpsc::Sender<Made<T>>,
    ) -> Result<Option<(Vec<Vec<u8>>, Arc<Room>)>, Status> {
        let entries = self.read(begin, end).await?;
        let length = entries.iter().map(Vec::len).sum();
        if let Ok(room) = self.access.limits.hold_patiently(&self.request, length) {
            return Ok(Some((entries, Arc::new(room))));
        }
        let count = entries.len() as u64;
        drop(entries);
        loop {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = sender.closed() => return Ok(None),
            }
            if let Ok(room) = self.access.limits.hold_patiently(&self.request, length) {
                return Ok(Some((self.read(begin, begin + count).await?, Arc::new(room))));
            }
        }
    }

    async fn read(&self, begin: u64, end: u64) -> Result<Vec<Vec<u8>>, Status> {
        let range = begin..end.min(begin + CHUNK);
        let entries = at_length(|| self.ledger.read(|reader| reader.entries(range))).await.and_then(|entries| entries);
        let mut entries = entries.map_err(|error| status::of_read(&error))?;
        let mut length = 0;
        let fit = entries
            .iter()
            .take_while(|entry| {
                length < CHUNK_BYTES && {
                    length += entry.len();
                    true
                }
            })
            .count();
        entries.truncate(fit);
        Ok(entries)
    }
}

/// What a watcher wants to see.
struct Filter {
    registry: String,
    repository: String,
    tag: String,
    environment: String,
    outcomes: Vec<Outcome>,
    commitments: bool,
}

impl Filter {
    fn parse(request: &WatchRequest) -> Result<Self, Status> {
        let mut fields = Fields::default();
        // A narrower name without the wider one would match by accident.
        for (field, value, needs, wider) in [
            ("repository", &request.repository, "registry", &request.registry),
            ("tag", &request.tag, "repository", &request.repository),
        ] {
            if !value.is_empty() && wider.is_empty() {
                fields.violations.push(Violation::new(field, "INCOMPLETE", format!("needs {needs} with it")));
            }
        }
        let outcomes: Vec<Outcome> = request
            .outcomes
            .iter()
            .filter_map(|&value| match Outcome::try_from(value) {
                Ok(outcome) if outcome != Outcome::Unspecified => Some(outcome),
                _ => {
                    let message = format!("contains {value}; it must be 1 to 7");
                    fields.violations.push(Violation::new("outcomes", "UNKNOWN_VALUE", message));
                    None
                }
            })
            .collect();
        if !request.registry.is_empty() {
            match request.repository.as_str() {
                "" => {
                    fields.name::<crate::ledger::names::Registry>("registry", &request.registry);
                }
                repository => {
                    fields.place(&request.registry, repository);
                }
            }
        }
        if !request.tag.is_empty() {
            fields.name::<crate::ledger::names::Tag>("tag", &request.tag);
        }
        fields.text("environment", &request.environment, 0);
        fields.finish(Some(Self {
            registry: request.registry.clone(),
            repository: request.repository.clone(),
            tag: request.tag.clone(),
            environment: request.environment.clone(),
            outcomes,
            commitments: request.commitments,
        }))
    }

    fn wants(&self, entry: &[u8]) -> bool {
        let (record, statement) = match SignedEntry::decode(entry).map(|entry| entry.body) {
            Ok(Body::Record(record, statement)) => (record, statement),
            Ok(Body::Commitment(_)) => return self.commitments,
            // What does not decode is shown: a watcher checks for itself.
            Err(_) => return true,
        };
        if !self.outcomes.is_empty() && !self.outcomes.contains(&record.outcome()) {
            return false;
        }
        let is = |wanted: &str, found: Option<&str>| wanted.is_empty() || found == Some(wanted);
        let place = place_of(&statement);
        let environment = match &statement.kind {
            Kind::Deployment { workload, .. } => Some(workload.environment.as_str()),
            _ => None,
        };
        let names_tag = || {
            let unbinds = record.subjects.iter().any(|subject| !subject.name.is_empty() && subject.name == self.tag);
            unbinds || is(&self.tag, tag_of(&statement).as_ref().map(|name| name.tag.as_str()))
        };
        is(&self.registry, place.as_ref().map(|(registry, _)| registry.as_str()))
            && is(&self.repository, place.as_ref().map(|(_, repository)| repository.as_str()))
            && is(&self.environment, environment)
            && names_tag()
    }
}
