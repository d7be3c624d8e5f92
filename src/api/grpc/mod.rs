//! The three services of `tagledger.v1`, with health and reflection.

mod append;
mod log;
mod query;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tonic::service::Routes;

use super::limits::Room;
use super::principals::Access;
use crate::engine::Ledger;
use crate::ledger::names::{NameError, Registry, Repository};
use crate::ledger::statement::{Violation, check_text};
use crate::proto;
use crate::proto::append_service_server::AppendServiceServer;
use crate::proto::log_service_server::LogServiceServer;
use crate::proto::query_service_server::QueryServiceServer;

/// Longest request message of the writing service, in bytes: the statements of a batch, and what is around them.
pub const MAX_APPEND_MESSAGE: usize = 6 << 20;
/// Longest message of a stream of statements, in bytes: the longest statement, and what is around it.
pub const MAX_STREAMED_MESSAGE: usize = 80 << 10;
/// Longest question, in bytes.
pub const MAX_QUESTION: usize = 64 << 10;
/// Longest question about health, which anybody may ask: a service's name.
const MAX_PROBE: usize = 1 << 10;

/// Everything gRPC, as routes for the one server, which has to guard them ([`super::guard`]).
pub async fn routes(ledger: &Ledger, access: Arc<Access>) -> Routes {
    let append = Arc::new(append::Append { ledger: ledger.clone(), access: Arc::clone(&access) });
    // What is announced as longer is refused before it is read: of a stream nothing is counted until a message of it is whole.
    let stream = AppendServiceServer::from_arc(Arc::clone(&append)).max_decoding_message_size(MAX_STREAMED_MESSAGE);
    let log = log::Log { ledger: ledger.clone(), access };
    let query = query::Query { ledger: ledger.clone() };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()
        .expect("the descriptors were made by this build");
    let mut routes = Routes::builder();
    routes
        .add_service(AppendServiceServer::from_arc(append).max_decoding_message_size(MAX_APPEND_MESSAGE))
        .add_service(LogServiceServer::new(log).max_decoding_message_size(MAX_QUESTION))
        .add_service(QueryServiceServer::new(query).max_decoding_message_size(MAX_QUESTION))
        .add_service(reflection)
        .add_service(health(ledger).await.max_decoding_message_size(MAX_PROBE));
    let routes = routes.routes().into_axum_router();
    Routes::from(routes.route_service("/tagledger.v1.AppendService/AppendStream", stream))
}

/// `grpc.health.v1`: reading serves as long as the process does; appending, until the sequencer stops; the whole server, until
/// that, and while anything is wrong with it (`Defect`).
async fn health(
    ledger: &Ledger,
) -> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    let mut stopped = ledger.stopped();
    let (mut shortage, mut defects) = (ledger.shortage(), ledger.defects());
    reporter.set_serving::<LogServiceServer<log::Log>>().await;
    reporter.set_serving::<QueryServiceServer<query::Query>>().await;
    // Whoever asks first hears what is so.
    let (is_well, appends) = (defects.borrow_and_update().is_empty(), shortage.borrow_and_update().is_none());
    tell(&reporter, is_well, appends).await;
    let ledger = ledger.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = stopped.wait_for(Option::is_some) => break,
                changed = shortage.changed() => if changed.is_err() { break },
                changed = defects.changed() => if changed.is_err() { break },
            }
            let (is_well, appends) = (defects.borrow_and_update().is_empty(), shortage.borrow_and_update().is_none());
            tell(&reporter, is_well, appends).await;
        }
        drop(ledger);
        tell(&reporter, false, false).await;
    });
    service
}

async fn tell(reporter: &tonic_health::server::HealthReporter, is_well: bool, appends: bool) {
    let status = |serves| match serves {
        true => tonic_health::ServingStatus::Serving,
        false => tonic_health::ServingStatus::NotServing,
    };
    reporter.set_service_status("", status(is_well)).await;
    reporter.set_service_status(crate::proto::append_service_server::SERVICE_NAME, status(appends)).await;
}

/// A stream whose messages a task of its own makes, at most `window` of them ahead of whoever takes them. If the task hits a bug,
/// the stream ends with an error: an end without one would say that this was all.
fn made_by<T, F>(window: usize, make: impl FnOnce(mpsc::Sender<Made<T>>) -> F) -> Messages<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(window);
    let making = tokio::spawn(make(sender.clone()));
    tokio::spawn(async move {
        if making.await.is_err() {
            let _ = sender.send(Err(super::status::bug()).into()).await;
        }
    });
    Box::pin(ReceiverStream::new(receiver).map(|made: Made<T>| made.message))
}

/// A message of a stream, and the room it takes, with others perhaps, until somebody takes it.
struct Made<T> {
    message: Result<T, Status>,
    _room: Option<Arc<Room>>,
}

impl<T> From<Result<T, Status>> for Made<T> {
    fn from(message: Result<T, Status>) -> Self {
        Self { message, _room: None }
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Parses the fields of a question, and reports all that are wrong.
#[derive(Default)]
struct Fields {
    violations: Vec<Violation>,
}

impl Fields {
    fn name<T: std::str::FromStr<Err = NameError>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.violations.push(Violation::of_name(field, &error))).ok()
    }

    fn place(&mut self, registry: &str, repository: &str) -> Option<(Registry, Repository)> {
        let registry: Option<Registry> = self.name("registry", registry);
        // With a bad registry, the repository's grammar can still be checked.
        let judged_for = registry.clone().or_else(|| "registry.invalid".parse().ok())?;
        let repository = Repository::parse(&judged_for, repository)
            .map_err(|error| self.violations.push(Violation::of_name("repository", &error)))
            .ok();
        Some((registry?, repository?))
    }

    fn text(&mut self, field: &str, value: &str, shortest: usize) {
        if let Err(violation) = check_text(field, value, shortest, 128) {
            self.violations.push(violation);
        }
    }

    /// What was parsed, or the status that refuses it.
    fn finish<T>(self, parsed: Option<T>) -> Result<T, Status> {
        match parsed {
            Some(parsed) if self.violations.is_empty() => Ok(parsed),
            _ => Err(super::status::invalid(&self.violations)),
        }
    }
}
