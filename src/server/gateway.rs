//! `tagledgerd gateway`: reads its configuration, connects it to its ledger, and serves it on one port.
//!
//! Everything that can be a flag is one, and stands in the configuration file under the same name; a flag wins.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use prometheus_client::registry::Registry as FigureRegistry;
use serde::Deserialize;

use super::config::TlsSettings;
use super::crowd::Crowd;
use super::listen::{self, Patience};
use super::over_grpc::{LedgerSettings, LedgerSettingsError, Needs, OverGrpc, RightsError, warn_if_plain};
use super::panics;
use super::secrets::{self, SecretError};
use super::tls::{Speaks, Tls, TlsError};
use crate::api::limits::{Limit, LimitSettings, Limits, Weight, Who};
use crate::edge::gateway::figures::Figures;
use crate::edge::gateway::protection::Unreachable;
use crate::edge::gateway::{Attempts, Gateway, GatewayConfig, GatewayError, MEMORY_PART};
use crate::edge::port::GatewayPort;
use crate::edge::registry::MAX_MANIFEST_LENGTH;
use crate::edge::source::Credentials;
use crate::proto::{Role, StatementKind};

/// What a gateway listens on unless told otherwise: 127.0.0.1:7430.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7430);
/// What a gateway states.
const STATES: [(StatementKind, &str); 4] = [
    (StatementKind::TagPush, "push"),
    (StatementKind::TagDelete, "delete"),
    (StatementKind::ManifestDelete, "delete-digest"),
    (StatementKind::TagObserved, "observe"),
];
/// How long changes under way may take on shutdown.
const GRACE: Duration = Duration::from_secs(45);

/// All settings; those without a default have to be given, here or as a flag.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Base URL of the registry.
    pub upstream: Option<String>,
    /// The registry's canonical name, as it is to stand in entries.
    pub registry: Option<String>,
    /// `[ledger]`
    pub ledger: LedgerSettings,
    /// Where what is under way is kept.
    pub journal: PathBuf,
    /// What it calls itself in entries.
    pub name: String,
    /// `client`: the registry gets the `Host` that clients sent; `upstream`: its own.
    pub host: Host,
    /// Paths outside the API that are forwarded.
    pub pass: Vec<String>,
    /// What passes while the ledger can't be reached.
    pub when_ledger_unreachable: Unreachable,
    /// User for looks at the registry.
    pub upstream_user: Option<String>,
    /// A file that holds the user's password.
    pub upstream_password_file: Option<PathBuf>,
    /// The realm of tokens that the password may go to by plain http, on another port.
    pub upstream_token_realm: Option<String>,
    /// Longest manifest, in bytes.
    pub manifest_limit: usize,
    /// Most bytes of manifests that are held at once, of all changes under way; of one client address a quarter.
    pub manifest_memory: usize,
    /// How many changes one client address may attempt a second, in the long run; 0: any number.
    pub changes_per_second: u32,
    /// How long a call to the ledger may take.
    pub ledger_timeout_ms: u64,
    /// Until the registry takes a connection.
    pub connect_timeout_ms: u64,
    /// Until the registry's answer begins, and between two pieces of a body.
    pub idle_timeout_ms: u64,
    /// How long a client waits for a tag that somebody else holds.
    pub hold_wait_ms: u64,
    /// How old an intent has to be for its gateway to be gone.
    pub hold_bound_ms: u64,
    /// How long the registry may still carry out what it has of a request that nobody waits for any more.
    pub late_bound_ms: u64,
    /// How long the whole of a manifest may take to come.
    pub manifest_timeout_ms: u64,
    /// Addresses of proxies whose `X-Forwarded-` headers are believed and passed on.
    pub proxies: Vec<IpAddr>,
    /// Until a client begins, its TLS handshake included.
    pub begin_timeout_ms: u64,
    /// How long a connection may rest between two requests, and the head of the next may take.
    pub keep_alive_ms: u64,
    /// Until a client takes a piece of what it asked for.
    pub unread_timeout_ms: u64,
    /// Connections at once, of all clients, if the system gives as many files; 0: any number.
    pub connections: usize,
    /// Connections at once of one client address that is no proxy; 0: any number.
    pub connections_per_address: usize,
    /// `[tls]`: what clients are served with; none: plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Between two looks that have to agree.
    pub look_pause_ms: u64,
    /// How often the policy is fetched.
    pub policy_every_ms: u64,
    /// The folder that relative paths in the file start from.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Which `Host` the registry gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// What the client sent.
    #[default]
    Client,
    /// The registry's own.
    Upstream,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            upstream: None,
            registry: None,
            ledger: LedgerSettings::default(),
            journal: "tagledger-gateway.journal".into(),
            name: "gateway".to_owned(),
            host: Host::Client,
            pass: Vec::new(),
            when_ledger_unreachable: Unreachable::Protect,
            upstream_user: None,
            upstream_password_file: None,
            upstream_token_realm: None,
            manifest_limit: MAX_MANIFEST_LENGTH,
            manifest_memory: 64 << 20,
            changes_per_second: 100,
            ledger_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            idle_timeout_ms: 30_000,
            hold_wait_ms: 10_000,
            hold_bound_ms: 60_000,
            late_bound_ms: 300_000,
            manifest_timeout_ms: 60_000,
            proxies: Vec::new(),
            begin_timeout_ms: 10_000,
            keep_alive_ms: 75_000,
            unread_timeout_ms: 60_000,
            connections: 4096,
            connections_per_address: 256,
            tls: None,
            look_pause_ms: 1_000,
            policy_every_ms: 15_000,
            folder: PathBuf::new(),
        }
    }
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayServeError {
    /// A file can't be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// Not TOML, or not these settings.
    #[error("{path}: {reason}")]
    Syntax {
        /// Which.
        path: String,
        /// What, and where.
        reason: String,
    },
    /// How the ledger is reached.
    #[error(transparent)]
    Ledger(#[from] LedgerSettingsError),
    /// A file that holds a secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What its principal may not do.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The certificate that clients are shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting has no sensible value, or none at all.
    #[error("{setting}: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The address.
    #[error("cannot listen on {address}: {reason}; stop what listens there, or choose another with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
}

impl Settings {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, GatewayServeError> {
        let text = read(path)?;
        let mut settings: Self = toml::from_str(&text).map_err(|error| GatewayServeError::Syntax {
            path: path.display().to_string(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        settings.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(settings)
    }

    fn gateway(&self) -> Result<GatewayConfig, GatewayServeError> {
        let upstream = self.upstream.as_ref().ok_or_else(|| refuse("upstream", "say where the registry is"))?;
        let registry = self.registry.as_ref().ok_or_else(|| {
            refuse("registry", "say what the registry is called in entries, such as registry.example or 127.0.0.1:5000")
        })?;
        let credentials = match (&self.upstream_user, &self.upstream_password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => {
                Some(Credentials { user: user.clone(), password: secrets::word(&self.folder.join(file))? })
            }
            _ => return Err(refuse("upstream_user", "needs upstream_password_file with it, and the other way round")),
        };
        if let Some(path) = self.pass.iter().find(|path| !path.starts_with('/') || path.starts_with("/v2")) {
            let reason = format!("{path:?} must begin with / and be outside of /v2");
            return Err(refuse("pass", reason));
        }
        let never = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("ledger_timeout_ms", self.ledger_timeout_ms),
            ("manifest_timeout_ms", self.manifest_timeout_ms),
            ("begin_timeout_ms", self.begin_timeout_ms),
            ("keep_alive_ms", self.keep_alive_ms),
            ("unread_timeout_ms", self.unread_timeout_ms),
            ("policy_every_ms", self.policy_every_ms),
        ];
        if let Some((setting, _)) = never.into_iter().find(|(_, wait)| *wait == 0) {
            return Err(refuse(setting, "is 0; a wait of no time is never long enough"));
        }
        if self.manifest_limit == 0 {
            return Err(refuse("manifest_limit", "is 0; no manifest would ever pass"));
        }
        if self.manifest_memory / MEMORY_PART < self.manifest_limit {
            let reason = "must hold four manifests of manifest_limit bytes: one client address gets a quarter of it";
            return Err(refuse("manifest_memory", reason));
        }
        let waits = [self.connect_timeout_ms, self.idle_timeout_ms, self.ledger_timeout_ms];
        if waits.into_iter().fold(0, u64::saturating_add) >= self.hold_bound_ms {
            let reason = "must be longer than connect_timeout_ms, idle_timeout_ms and ledger_timeout_ms together: a gateway \
                          that still waits for the registry is not gone";
            return Err(refuse("hold_bound_ms", reason));
        }
        Ok(GatewayConfig {
            name: self.name.clone(),
            registry: registry.parse().map_err(|error| refuse("registry", format!("{registry:?} {error}")))?,
            upstream: upstream.parse().map_err(|error| refuse("upstream", format!("{error}")))?,
            credentials,
            token_realm: self.upstream_token_realm.clone(),
            keeps_host: self.host == Host::Client,
            passed: self.pass.clone(),
            manifest_limit: self.manifest_limit,
            manifest_memory: self.manifest_memory,
            when_unreachable: self.when_ledger_unreachable,
            hold_wait: Duration::from_millis(self.hold_wait_ms),
            hold_bound: Duration::from_millis(self.hold_bound_ms),
            late_bound: Duration::from_millis(self.late_bound_ms),
            manifest_timeout: Duration::from_millis(self.manifest_timeout_ms),
            proxies: self.proxies.iter().map(IpAddr::to_canonical).collect(),
            has_tls: self.tls.is_some(),
            look_pause: Duration::from_millis(self.look_pause_ms),
            ledger_timeout: Duration::from_millis(self.ledger_timeout_ms),
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            policy_every: Duration::from_millis(self.policy_every_ms),
            journal: Some(self.folder.join(&self.journal)),
        })
    }

    fn patience(&self) -> Patience {
        let [begin, head, unread] =
            [self.begin_timeout_ms, self.keep_alive_ms, self.unread_timeout_ms].map(Duration::from_millis);
        // No client speaks HTTP/2 to it.
        Patience { begin, head, unread, silent: head }
    }

    fn port(&self) -> Result<OverGrpc, GatewayServeError> {
        Ok(self.ledger.open(&self.folder, Duration::from_millis(self.ledger_timeout_ms), false)?)
    }

    /// What clients are served with, if that is TLS.
    fn tls(&self) -> Result<Option<Tls>, GatewayServeError> {
        let Some(files) = &self.tls else { return Ok(None) };
        if files.client_ca.is_some() {
            return Err(refuse(
                "tls.client_ca",
                "who may do what is for the registry to know, which sees no certificates",
            ));
        }
        Ok(Some(Tls::load(files.within(&self.folder), Speaks::Http1)?))
    }
}

fn refuse(setting: &'static str, reason: impl Into<String>) -> GatewayServeError {
    GatewayServeError::Setting { setting, reason: reason.into() }
}

fn read(path: &Path) -> Result<String, GatewayServeError> {
    std::fs::read_to_string(path)
        .map_err(|error| GatewayServeError::File { path: path.display().to_string(), reason: error.to_string() })
}

/// Serves until `shutdown` completes, and until the changes under way are through. Calls `started` once requests are
/// answered.
pub async fn serve(
    settings: Settings,
    started: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), GatewayServeError> {
    let mut figures = FigureRegistry::with_prefix("tagledger");
    // All that can be wrong with the settings, before anybody is asked anything.
    let (config, tls, port) = (settings.gateway()?, settings.tls()?, settings.port()?);
    let needs = Needs {
        registry: &config.registry,
        roles: &[Role::Writer],
        kinds: &STATES,
        gives: &[Role::Writer, Role::Reader],
    };
    port.check_rights(&needs).await?;
    let gateway = Gateway::new(config, port, attempts(settings.changes_per_second), Figures::register(&mut figures))?;
    let secured = tls.map(listen::secured);
    let proxies = settings.proxies.iter().map(IpAddr::to_canonical).collect();
    let crowd = Crowd::new(settings.connections, settings.connections_per_address, proxies);
    let address = settings.listen;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| GatewayServeError::Listen { address, reason: error.to_string() })?;
    let address = listener.local_addr().unwrap_or(address);
    if !address.ip().is_loopback() && secured.is_none() {
        tracing::warn!(%address, "what clients send travels unencrypted: give certificates with [tls], or put a proxy that ends TLS in front");
    }
    if let (Some(_), Some(upstream)) = (&settings.upstream_user, &settings.upstream) {
        warn_if_plain("upstream", upstream, "the password of upstream_user");
    }
    let following = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.follow_policy().await }
    });
    started(address);
    let patience = settings.patience();
    listen::serve(listener, secured, crowd, Router::new(), routes(&gateway, figures), patience, shutdown).await;
    following.abort();
    if tokio::time::timeout(GRACE, gateway.finished()).await.is_err() {
        tracing::warn!("changes are still under way; they are settled after the next start");
    }
    let open = gateway.open_intents();
    if open > 0 {
        tracing::warn!(open, "intents are not settled yet; they are after the next start");
    }
    Ok(())
}

/// A bucket for each address: so many changes a second in the long run, ten seconds' worth at once; 0: any number.
fn attempts(per_second: u32) -> Attempts {
    let each = Limit { per_second, burst: per_second.saturating_mul(10), concurrent: 0 };
    let limits = Limits::new(LimitSettings { memory_mib: 0, concurrent: 0, address: each, ..LimitSettings::default() });
    Box::new(move |address| {
        let begun = limits.begin(address.map_or(Who::Others, Who::at), Weight::Light);
        begun.map(drop).map_err(|too_much| too_much.retry_after)
    })
}

/// What a gateway serves: what is its own, and everything else.
pub fn routes<P: GatewayPort>(gateway: &Arc<Gateway<P>>, figures: FigureRegistry) -> Router {
    let ready = Arc::clone(gateway);
    let readyz = move || async move {
        match panics::first().map_or_else(|| ready.readiness(), Err) {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    };
    let (figures, counted) = (Arc::new(figures), Arc::clone(gateway));
    let metrics = move || async move {
        counted.count_open();
        let mut body = String::new();
        match prometheus_client::encoding::text::encode(&mut body, &figures) {
            Ok(()) => ([(header::CONTENT_TYPE, super::OPENMETRICS)], body).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let own = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    own.fallback_service(gateway.routes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_said_by_name() {
        let full = Settings {
            upstream: Some("http://127.0.0.1:5000".into()),
            registry: Some("registry.example".into()),
            ..Settings::default()
        };
        assert!(full.gateway().is_ok());
        let said = |settings: Settings| settings.gateway().expect_err("refused").to_string();
        assert!(said(Settings { upstream: None, ..full.clone() }).starts_with("upstream: "));
        assert!(said(Settings { registry: None, ..full.clone() }).starts_with("registry: "));
        assert!(said(Settings { registry: Some("R.example".into()), ..full.clone() }).contains("R.example"));
        assert!(said(Settings { pass: vec!["/v2/x".into()], ..full.clone() }).starts_with("pass: "));
        assert!(said(Settings { upstream_user: Some("u".into()), ..full.clone() }).starts_with("upstream_user: "));
        assert!(said(Settings { hold_bound_ms: 40_000, ..full.clone() }).starts_with("hold_bound_ms: "));
        assert!(full.port().is_err_and(|error| error.to_string().starts_with("ledger.token_file: ")));
        assert!(toml::from_str::<Settings>("upstrem = 'x'").is_err());
        let read: Settings = toml::from_str("when_ledger_unreachable = 'refuse'\nhost = 'upstream'").expect("settings");
        assert_eq!((read.when_ledger_unreachable, read.host), (Unreachable::Refuse, Host::Upstream));
    }
}
