//! The service: wires store, engine, gRPC, HTTP and webhooks together, and runs them on one port.
//!
//! The only module that knows all others. [`config`] says what is wanted, [`data_dir`] where it lives, [`keys`] which files hold its keys, [`listen`] how
//! connections are served, [`in_process`] how the edge reaches the ledger. Beside the service, [`fsck`] looks at a ledger that
//! does not run, and [`copies`] makes copies of one, and a ledger of copies.

pub mod config;
pub mod copies;
pub mod crowd;
pub mod data_dir;
pub mod fsck;
pub mod gateway;
mod gathered;
pub mod high_water;
pub mod in_process;
pub mod keys;
pub mod listen;
pub mod over_grpc;
pub mod panics;
pub mod scan;
pub mod secrets;
pub mod space;
pub mod tls;
mod untaken;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::api::failures::Failures;
use crate::api::limits::Limits as CallerLimits;
use crate::api::principals::Access;
use crate::api::{grpc, guard, http};
use crate::edge::aside::Limits;
use crate::edge::confirm::Pace;
use crate::edge::metrics::Metrics;
use crate::edge::source::SourceConfig;
use crate::edge::webhook::{WebhookConfig, WebhookError, webhook};
use crate::engine::{self, Defect, Ledger, clock};
use crate::ledger::note::Vkey;
use crate::store::kept_map::KeptMap;
use crate::store::rocks::RocksStore;
use config::Config;
use data_dir::{DataDir, DataDirError};
use high_water::{HighWater, HighWaterError};
use space::Reserve;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the service does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The high-water mark.
    #[error(transparent)]
    HighWater(#[from] HighWaterError),
    /// The database.
    #[error(transparent)]
    Store(#[from] crate::store::rocks::OpenError),
    /// What is in the database.
    #[error(transparent)]
    Open(#[from] engine::recovery::OpenError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The first principal.
    #[error("cannot record the first principal: {0}")]
    Principals(engine::AppendError),
    /// Nobody could change anything.
    #[error(
        "the ledger has no principals yet, and {0} holds no token for the first; write one of at least 16 characters into it (mode 0600), and start again"
    )]
    NoToken(String),
    /// The address.
    #[error("cannot listen on {address}: {reason}; stop what listens there, or choose another with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// The webhooks.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] gateway::GatewayServeError),
    /// The scanner.
    #[error(transparent)]
    Scan(#[from] scan::ScanServeError),
    /// Checking, rebuilding, backing up, restoring.
    #[error(transparent)]
    Care(#[from] fsck::CareError),
    /// The system gives no threads.
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// What is running.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The ledger's public key.
    pub vkey: Vkey,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The data directory was made just now.
    pub is_new: bool,
    /// Connections are encrypted.
    pub has_tls: bool,
}

/// Serves until `shutdown` completes. Calls `started` once requests are answered.
pub async fn serve(
    config: Config,
    data_dir: DataDir,
    started: impl FnOnce(&Running),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let needs = Needs {
        first_token: data_dir.first_token()?,
        tls: config.tls_files().map(|files| tls::Tls::load(files, tls::Speaks::Http2Too)).transpose()?,
        sources: config.sources()?,
        mark: HighWater::new(config.high_water(&data_dir.high_water())),
    };
    let store = Arc::new(RocksStore::open(&data_dir.database())?);
    let in_use = store.in_use();
    let ledger = Ledger::open(engine::Options {
        high_water: needs.mark.read(data_dir.has_begun())?,
        store,
        keys: data_dir.read_keys(),
        key_overlap_us: config.keys.overlap_us(),
        has_begun: data_dir.has_begun(),
        clock: Arc::new(clock::system_clock),
        clock_bounds: config.clock.bounds(),
        kept_map: Some(KeptMap::new(data_dir.map())),
    })?;
    let served = serve_ledger(config, &data_dir, needs, ledger.clone(), started, shutdown).await;
    // Also where it could not begin: RocksDB aborts a process that ends while a database is open.
    ledger.close().await;
    // Last of all: it takes as long as it takes to bring the leaves of the map to disk.
    let keeping = ledger.clone();
    let _ = tokio::task::spawn_blocking(move || keeping.keep_map()).await;
    drop(ledger);
    closed(&in_use).await;
    served
}

/// What is read before anything is opened.
struct Needs {
    first_token: Option<[u8; 32]>,
    tls: Option<tls::Tls>,
    sources: Vec<SourceConfig>,
    mark: HighWater,
}

/// Serves a ledger, and stops it in order.
async fn serve_ledger(
    config: Config,
    data_dir: &DataDir,
    Needs { first_token, tls, sources, mark }: Needs,
    ledger: Ledger,
    started: impl FnOnce(&Running),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let checkpoint = ledger.newest().borrow().head.checkpoint.clone();
    mark.reopen()?;
    // Also where the mark was before another place was configured.
    HighWater::new(data_dir.high_water()).reopen()?;
    mark.write(&checkpoint)?;
    data_dir.note_begun()?;
    let following = tokio::spawn(follow(mark.clone(), ledger.clone()));
    let settling = tokio::spawn(keys::follow(data_dir.path().to_owned(), ledger.clone(), config.keys.overlap()));
    tokio::spawn(panics::tell(ledger.clone()));
    let mut reserve = Reserve::new(&data_dir.database(), mark.folder(), config.keep_free_mib);
    reserve.look(&ledger);
    let watching = tokio::spawn(reserve.watch(ledger.clone()));
    if ledger.principals().borrow().is_empty() {
        let token =
            first_token.ok_or_else(|| ServeError::NoToken(data_dir.path().join("token").display().to_string()))?;
        ledger.begin_principals(token).await.map_err(ServeError::Principals)?;
    }
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|error| ServeError::Listen { address: config.listen, reason: error.to_string() })?;
    let address = listener.local_addr().unwrap_or(config.listen);
    data_dir.announce(address);
    if !address.ip().is_loopback() && tls.is_none() {
        tracing::warn!(%address, "tokens and answers travel unencrypted: give certificates with [tls], or put a proxy that ends TLS in front");
    }

    let mut registry = Registry::with_prefix("tagledger");
    in_process::register_metrics(&mut registry, &ledger);
    let metrics = Metrics::register(&mut registry);
    let limits = CallerLimits::new(config.limits.clone());
    let access = Arc::new(Access::new(
        ledger.principals(),
        config.reads,
        config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
        limits.clone(),
        Failures::register(&mut registry),
    ));
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let stopped = move || {
        let mut stopping = stopping.clone();
        async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        }
    };
    let port = Arc::new(in_process::InProcess::new(ledger.clone(), limits));
    let receiver =
        WebhookConfig { sources, aside: data_dir.aside(), aside_limits: Limits::default(), pace: Pace::default() };
    let (webhooks, confirmer) = webhook(receiver, port, metrics)?;
    let confirming = tokio::spawn(confirmer.run(stopped()));
    let idle = config.idle_after().map(|after| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.commit_when_idle(after).await })
    });
    let source = Arc::new(in_process::EngineSource::new(ledger.clone()));
    let http = guard::guarded(http::routes(source, Arc::new(registry)).merge(webhooks), Arc::clone(&access));
    let grpc = guard::guarded(grpc::routes(&ledger, Arc::clone(&access)).await.into_axum_router(), access);
    let has_tls = tls.is_some();
    let secured = tls.map(listen::secured);

    started(&Running {
        address,
        vkey: ledger.vkey(),
        data_dir: data_dir.path().to_owned(),
        is_new: data_dir.is_new(),
        has_tls,
    });
    let closing = ledger.clone();
    tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // What is queued is recorded and answered, what comes later is refused; streams end with the sequencer.
        closing.close().await;
    });
    let crowd = crowd::Crowd::new(config.limits.connections, config.limits.connections_per_address, Vec::new());
    listen::serve(listener, secured, crowd, grpc, http, &config.limits, stopped()).await;
    let _ = confirming.await;
    ledger.close().await;
    let is_marked = following.await.unwrap_or(false);
    if is_marked && ledger.was_closed() {
        let newest = ledger.newest().borrow().head.checkpoint.clone();
        if let Err(error) = mark.close_in_time(newest).await {
            tracing::warn!(%error, "it can't be noted that the ledger was stopped in order");
        }
    }
    let _ = watching.await;
    let _ = settling.await;
    if let Some(idle) = idle {
        let _ = idle.await;
    }
    Ok(())
}

/// Keeps the mark behind the ledger; without it there are no more entries. Returns whether it is where the ledger ended.
async fn follow(mark: HighWater, ledger: Ledger) -> bool {
    let reason = match tokio::spawn(mark.follow(ledger.clone())).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a bug was hit, and the high-water mark is not written any more".to_owned(),
    };
    tracing::error!(reason, "the high-water mark can't be written");
    // Health is red also where the sequencer hangs on the same disk.
    ledger.set_defect(Defect::HighWater, Some(reason.clone()));
    ledger.halt(reason);
    false
}

/// Waits, a bounded time, until the database is closed: only then may the data directory's lock be given up.
async fn closed(in_use: &Weak<()>) {
    for _ in 0..500 {
        if in_use.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!("the database is still in use by a request that does not end");
}
