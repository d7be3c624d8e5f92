//! The configuration file (TOML). None is needed: every setting has a default, and every unknown one is refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::secrets::{self, SecretError};
use crate::api::limits::LimitSettings;
use crate::api::principals::Reads;
use crate::edge::source::{Credentials, RegistryAccess, Secret, SourceConfig};
use crate::engine::clock::Bounds;

/// What the service does unless told otherwise: 127.0.0.1:7420.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7420);

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where the newest checkpoint is kept a second time, best on another disk than the database. By default in the data
    /// directory.
    pub high_water: Option<PathBuf>,
    /// MiB that stay free on the database's disk: with less, appends are refused.
    pub keep_free_mib: u64,
    /// How long nothing is committed until an idle ledger commits to that; 0: never.
    pub idle_commitment_seconds: u64,
    /// Who may read.
    pub reads: Reads,
    /// How much each may ask for.
    pub limits: LimitSettings,
    /// Certificates; without them nothing is encrypted.
    pub tls: Option<TlsSettings>,
    /// Registries that post events, by the last part of their webhook's URL.
    pub webhooks: BTreeMap<String, WebhookSettings>,
    /// When the clock is an alarm.
    pub clock: ClockSettings,
    /// What happens when the ledger's key changes.
    pub keys: KeySettings,
    /// The folder that relative paths in the file start from.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            high_water: None,
            keep_free_mib: 256,
            idle_commitment_seconds: 600,
            reads: Reads::default(),
            limits: LimitSettings::default(),
            tls: None,
            webhooks: BTreeMap::new(),
            clock: ClockSettings::default(),
            keys: KeySettings::default(),
            folder: PathBuf::new(),
        }
    }
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The server's certificate, and those between it and its authority (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Authorities whose client certificates are taken (PEM); without it none are.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// The same files, where relative paths start from a folder.
    #[must_use]
    pub fn within(&self, folder: &Path) -> Self {
        let at = |path: &PathBuf| folder.join(path);
        Self { certificate: at(&self.certificate), key: at(&self.key), client_ca: self.client_ca.as_ref().map(at) }
    }
}

/// `[webhooks.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// The registry's canonical name, as it is to stand in entries.
    registry: String,
    /// A file that holds the secret of the `Authorization: Bearer` header.
    secret_file: PathBuf,
    /// Base URL of the registry, to confirm claims with.
    confirm: Option<String>,
    /// User for that, if it needs one.
    confirm_user: Option<String>,
    /// A file that holds the user's password.
    confirm_password_file: Option<PathBuf>,
    /// The realm of tokens that the password may go to by plain http, on another port.
    confirm_token_realm: Option<String>,
}

/// `[clock]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockSettings {
    /// How far ahead of the last entry the clock may be.
    alarm_ahead_seconds: u64,
    /// How far behind it.
    alarm_behind_seconds: u64,
}

impl Default for ClockSettings {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self { alarm_ahead_seconds: bounds.ahead_us / 1_000_000, alarm_behind_seconds: bounds.behind_us / 1_000_000 }
    }
}

impl ClockSettings {
    /// The same in microseconds.
    pub fn bounds(self) -> Bounds {
        Bounds {
            ahead_us: self.alarm_ahead_seconds.saturating_mul(1_000_000),
            behind_us: self.alarm_behind_seconds.saturating_mul(1_000_000),
        }
    }
}

/// `[keys]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeySettings {
    /// For how long a key that was replaced signs checkpoints too.
    overlap_days: u64,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self { overlap_days: 30 }
    }
}

impl KeySettings {
    /// For how long a key that was replaced signs checkpoints too.
    pub fn overlap(self) -> Duration {
        Duration::from_secs(self.overlap_days.saturating_mul(24 * 60 * 60))
    }

    /// The same in microseconds.
    pub fn overlap_us(self) -> u64 {
        u64::try_from(self.overlap().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file can't be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// A file that holds a secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Not TOML, or not these settings.
    #[error("{path}: {reason}")]
    Syntax {
        /// Which.
        path: String,
        /// What, and where.
        reason: String,
    },
    /// A setting has no sensible value.
    #[error("{setting}: {reason}")]
    Setting {
        /// Its path.
        setting: String,
        /// What is wrong.
        reason: String,
    },
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.display().to_string(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        config.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(config)
    }

    /// Where the certificates are, if there are any.
    pub fn tls_files(&self) -> Option<TlsSettings> {
        Some(self.tls.as_ref()?.within(&self.folder))
    }

    /// Where the high-water mark is.
    pub fn high_water(&self, usual: &Path) -> PathBuf {
        self.high_water.as_ref().map_or_else(|| usual.to_owned(), |path| self.folder.join(path))
    }

    /// After how long an idle ledger writes a commitment.
    pub fn idle_after(&self) -> Option<Duration> {
        (self.idle_commitment_seconds > 0).then(|| Duration::from_secs(self.idle_commitment_seconds))
    }

    /// The registries that post events.
    pub fn sources(&self) -> Result<Vec<SourceConfig>, ConfigError> {
        self.webhooks.iter().map(|(name, settings)| self.source(name, settings)).collect()
    }

    fn source(&self, name: &str, settings: &WebhookSettings) -> Result<SourceConfig, ConfigError> {
        let refuse =
            |field: &str, reason: String| ConfigError::Setting { setting: format!("webhooks.{name}.{field}"), reason };
        let confirm = match &settings.confirm {
            None => None,
            Some(url) => Some(RegistryAccess {
                base: url.parse().map_err(|error| refuse("confirm", format!("{url:?}: {error}")))?,
                credentials: self.credentials(name, settings)?,
                token_realm: settings.confirm_token_realm.clone(),
            }),
        };
        Ok(SourceConfig {
            name: name.parse().map_err(|error| refuse("name", format!("{error}")))?,
            registry: settings
                .registry
                .parse()
                .map_err(|error| refuse("registry", format!("{:?} {error}", settings.registry)))?,
            secret: Secret::new(&self.secret(&settings.secret_file)?)
                .map_err(|error| refuse("secret_file", error.to_string()))?,
            confirm,
        })
    }

    fn credentials(&self, name: &str, settings: &WebhookSettings) -> Result<Option<Credentials>, ConfigError> {
        match (&settings.confirm_user, &settings.confirm_password_file) {
            (None, None) => Ok(None),
            (Some(user), Some(file)) => Ok(Some(Credentials { user: user.clone(), password: self.secret(file)? })),
            _ => Err(ConfigError::Setting {
                setting: format!("webhooks.{name}.confirm_user"),
                reason: "needs confirm_password_file with it, and the other way round".into(),
            }),
        }
    }

    /// The content of a file that holds a secret, without the line's end.
    fn secret(&self, path: &Path) -> Result<Zeroizing<String>, ConfigError> {
        Ok(secrets::word(&self.folder.join(path))?)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError::File { path: path.display().to_string(), reason: error.to_string() })
}
