//! `tagledgerd scan`: reads its configuration, connects the scanner to its registry and its ledger, and goes round once or again
//! and again.
//!
//! Everything that can be a flag is one, and stands in the configuration file under the same name; a flag wins. What was found
//! is shown by `show`.

mod show;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::watch;

use super::over_grpc::{LedgerSettings, LedgerSettingsError, Needs, OverGrpc, RightsError, warn_if_plain};
use super::secrets::{self, SecretError};
use crate::edge::port::PortError;
use crate::edge::registry::{MAX_MANIFEST_LENGTH, Settings as ClientSettings};
use crate::edge::scanner::{Report, ScanError, Scanner, Scope, Target};
use crate::edge::source::{Credentials, RegistryAccess};
use crate::ledger::names::Registry;
use crate::proto::{Role, StatementKind};

/// All settings; those without a default have to be given, here or as a flag.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Base URL of the registry.
    pub registry_url: Option<String>,
    /// The registry's canonical name, as it is to stand in entries.
    pub registry: Option<String>,
    /// User that may pull, and list the catalogue.
    pub registry_user: Option<String>,
    /// A file that holds the user's password.
    pub registry_password_file: Option<PathBuf>,
    /// The realm of tokens that the password may go to by plain http, on another port.
    pub registry_token_realm: Option<String>,
    /// `[ledger]`
    pub ledger: LedgerSettings,
    /// Patterns of repositories to scan; none: all that the registry lists.
    pub repository: Vec<String>,
    /// Patterns of repositories to leave out.
    pub exclude: Vec<String>,
    /// Between the beginnings of two rounds; unset: one round.
    pub every: Option<Span>,
    /// Requests to the registry in a second.
    pub rate: f64,
    /// Tags looked at side by side.
    pub parallel: usize,
    /// Between two looks that have to agree before a difference is recorded.
    pub pause: Span,
    /// How long one answer of the registry may take.
    pub timeout: Span,
    /// How long a call to the ledger may take.
    pub ledger_timeout: Span,
    /// How old an intent has to be for its gateway to be gone.
    pub intent_patience: Span,
    /// Longest manifest that is read to be hashed, in bytes.
    pub manifest_limit: usize,
    /// The folder that is remembered in; none: nothing is remembered.
    pub state: Option<PathBuf>,
    /// Report, and record nothing.
    pub dry_run: bool,
    /// Reports as JSON.
    pub json: bool,
    /// The folder that relative paths in the file start from.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registry_url: None,
            registry: None,
            registry_user: None,
            registry_password_file: None,
            registry_token_realm: None,
            ledger: LedgerSettings::default(),
            repository: Vec::new(),
            exclude: Vec::new(),
            every: None,
            rate: 20.0,
            parallel: 8,
            pause: Span(Duration::from_secs(10)),
            timeout: Span(Duration::from_secs(30)),
            ledger_timeout: Span(Duration::from_secs(60)),
            intent_patience: Span(Duration::from_secs(600)),
            manifest_limit: MAX_MANIFEST_LENGTH,
            state: None,
            dry_run: false,
            json: false,
            folder: PathBuf::new(),
        }
    }
}

/// A length of time as people write it: `10m`, `1h 30m`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
        span.map(Self).ok_or_else(|| format!("{text:?} is not a length of time; write 30s, 10m or 1h"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Why the scanner does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ScanServeError {
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
    /// A setting has no sensible value, or none at all.
    #[error("{setting}: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// What its principal may not do.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The scan.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Standard output.
    #[error("cannot write the report: {0}")]
    Output(std::io::Error),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Ledger and registry agree of everything that was to be gone through, now that the differences are recorded.
    Complete,
    /// Something could not be gone through, or stayed open.
    Incomplete,
    /// The ledger answered what does not verify.
    Untrusted,
}

impl Settings {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ScanServeError> {
        let text = read(path)?;
        let mut settings: Self = toml::from_str(&text).map_err(|error| ScanServeError::Syntax {
            path: path.display().to_string(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        settings.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(settings)
    }

    fn registry(&self) -> Result<Registry, ScanServeError> {
        let registry = self.registry.as_ref().ok_or_else(|| {
            refuse("registry", "say what the registry is called in entries, such as registry.example or 127.0.0.1:5000")
        })?;
        registry.parse().map_err(|error| refuse("registry", format!("{registry:?} {error}")))
    }

    fn access(&self) -> Result<RegistryAccess, ScanServeError> {
        let url = self.registry_url.as_ref().ok_or_else(|| refuse("registry_url", "say where the registry is"))?;
        let credentials = match (&self.registry_user, &self.registry_password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => {
                Some(Credentials { user: user.clone(), password: secrets::word(&self.folder.join(file))? })
            }
            _ => return Err(refuse("registry_user", "needs registry_password_file with it, and the other way round")),
        };
        Ok(RegistryAccess {
            base: url.parse().map_err(|error| refuse("registry_url", format!("{error}")))?,
            credentials,
            token_realm: self.registry_token_realm.clone(),
        })
    }

    fn scan(&self) -> Result<crate::edge::scanner::Settings, ScanServeError> {
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(refuse("rate", format!("is {}; requests a second must be above 0", self.rate)));
        }
        if !(1..=256).contains(&self.parallel) {
            return Err(refuse("parallel", format!("is {}; 1 to 256 are allowed", self.parallel)));
        }
        for (setting, span) in [("timeout", self.timeout), ("ledger_timeout", self.ledger_timeout)] {
            if span.0.is_zero() {
                return Err(refuse(setting, "must be above 0"));
            }
        }
        let client = ClientSettings {
            timeout: self.timeout.0,
            rate: Some(self.rate),
            manifest_limit: self.manifest_limit,
            ..ClientSettings::default()
        };
        Ok(crate::edge::scanner::Settings {
            client,
            parallel: self.parallel,
            pause: self.pause.0,
            intent_patience: self.intent_patience.0,
            dry_run: self.dry_run,
            ..crate::edge::scanner::Settings::default()
        })
    }

    fn port(&self) -> Result<OverGrpc, ScanServeError> {
        // A dry run only reads, and where reading is open that needs no token.
        Ok(self.ledger.open(&self.folder, self.ledger_timeout.0, self.dry_run)?)
    }
}

fn refuse(setting: &'static str, reason: impl Into<String>) -> ScanServeError {
    ScanServeError::Setting { setting, reason: reason.into() }
}

fn read(path: &Path) -> Result<String, ScanServeError> {
    std::fs::read_to_string(path)
        .map_err(|error| ScanServeError::File { path: path.display().to_string(), reason: error.to_string() })
}

/// Scans until a round is through, or, if it is to go on, until `shutdown` completes. Prints a report after each round.
pub async fn run(
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Ending, ScanServeError> {
    // All that can be wrong with the settings, before anybody is asked anything.
    let (registry, access, scan) = (settings.registry()?, settings.access()?, settings.scan()?);
    let scope = Scope::new(&registry, &settings.repository, &settings.exclude)
        .map_err(|error| refuse("repository", error.to_string()))?;
    let port = settings.port()?;
    if !settings.dry_run {
        let (roles, kinds) = (&[Role::Scanner, Role::Writer], &[(StatementKind::TagObserved, "observe")]);
        let needs = Needs { registry: &registry, roles, kinds, gives: &[Role::Scanner, Role::Reader] };
        match port.check_rights(&needs).await {
            Err(error @ RightsError::Untrusted(_)) => {
                tracing::error!(%error, "stopped");
                return Ok(Ending::Untrusted);
            }
            checked => checked?,
        }
    }
    if settings.state.is_none() {
        tracing::warn!("without --state nothing is remembered: since when something changed will not be known");
    }
    if let (Some(_), Some(url)) = (&settings.registry_user, &settings.registry_url) {
        warn_if_plain("registry_url", url, "the password of registry_user");
    }
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // Kept alive: a closed channel would wake everybody who waits for it at once, again and again.
        std::future::pending::<()>().await;
    });
    let state = settings.state.as_ref().map(|state| settings.folder.join(state));
    let watching = Arc::new(show::Progress::new());
    let mut scanner = Scanner::new(
        port,
        Target { registry, access, scope },
        scan,
        state.as_deref(),
        watching.clone(),
        stopping.clone(),
    )?;
    loop {
        let began = Instant::now();
        let round = scanner.round().await;
        watching.clear();
        let ending = match round {
            Ok(report) => {
                show::report(&report, settings.json).map_err(ScanServeError::Output)?;
                if report.is_complete() { Ending::Complete } else { Ending::Incomplete }
            }
            Err(ScanError::Ledger(error @ PortError::Untrusted(_))) => {
                tracing::error!(%error, "stopped");
                return Ok(Ending::Untrusted);
            }
            // What cannot be recorded now may be later; a scanner that is to go on goes on.
            Err(ScanError::Ledger(error)) if settings.every.is_some() => {
                tracing::error!(%error, "the round ended early; the next goes on from here");
                Ending::Incomplete
            }
            Err(error) => return Err(error.into()),
        };
        let Some(every) = settings.every else { return Ok(ending) };
        let mut stopping = stopping.clone();
        let wait = every.0.saturating_sub(began.elapsed());
        let is_stopped =
            *stopping.borrow() || tokio::time::timeout(wait, stopping.wait_for(|stop| *stop)).await.is_ok();
        if is_stopped {
            // Whoever stops it knows that the round under way is not through.
            return Ok(Ending::Complete);
        }
    }
}

/// What a round found, as JSON.
pub fn json(report: &Report) -> serde_json::Value {
    show::json(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_said_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "t\n").expect("written");
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        let full = Settings {
            registry_url: Some("http://127.0.0.1:5000".into()),
            registry: Some("registry.example".into()),
            ledger: LedgerSettings {
                token_file: Some(token),
                trust: Some(folder.path().join("trust")),
                ..LedgerSettings::default()
            },
            ..Settings::default()
        };
        assert!(full.access().is_ok() && full.port().is_ok() && full.scan().is_ok());
        assert!(full.registry().is_ok_and(|registry| registry.as_str() == "registry.example"));
        let started = |error: Result<(), ScanServeError>, setting: &str| {
            let error = error.expect_err(setting).to_string();
            assert!(error.starts_with(&format!("{setting}: ")), "{error}");
        };
        let without = |change: &dyn Fn(&mut Settings)| {
            let mut settings = full.clone();
            change(&mut settings);
            settings
        };
        started(without(&|s| s.registry_url = None).access().map(drop), "registry_url");
        started(without(&|s| s.registry_user = Some("u".into())).access().map(drop), "registry_user");
        started(without(&|s| s.registry = None).registry().map(drop), "registry");
        started(without(&|s| s.registry = Some("R".into())).registry().map(drop), "registry");
        started(without(&|s| s.ledger.token_file = None).port().map(drop), "ledger.token_file");
        started(without(&|s| s.ledger.trust = None).port().map(drop), "ledger.trust");
        started(without(&|s| s.rate = 0.0).scan().map(drop), "rate");
        started(without(&|s| s.rate = f64::NAN).scan().map(drop), "rate");
        started(without(&|s| s.parallel = 0).scan().map(drop), "parallel");
        started(without(&|s| s.timeout = Span(Duration::ZERO)).scan().map(drop), "timeout");
        assert!(without(&|s| (s.ledger.token_file, s.dry_run) = (None, true)).port().is_ok());
        assert!(toml::from_str::<Settings>("registery = 'x'").is_err());
    }

    #[test]
    fn lengths_of_time_are_written_as_people_do() {
        for (text, seconds) in [("10m", 600), ("1h 30m", 5400), ("90s", 90), ("0s", 0)] {
            assert_eq!(text.parse::<Span>(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "10", "-5s", "soon"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
        let read: Settings = toml::from_str("every = '10m'\nrepository = ['team/**']").expect("settings");
        assert_eq!((read.every, read.repository), (Some(Span(Duration::from_secs(600))), vec!["team/**".to_owned()]));
    }
}
