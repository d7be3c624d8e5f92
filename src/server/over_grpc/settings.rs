//! How a gateway or a scanner reaches its ledger, and what it shows it: `[ledger]` in their configuration files, and the flags beside
//! it, which win. Files are read once, at the start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::secrets::{self, SecretError};
use super::OverGrpc;
use crate::client::trust::TrustFolder;
use crate::client::{Credentials, Identity, Server};
use crate::edge::source::BaseUrl;
use crate::ledger::note::{Skey, Vkey};

const DEFAULT_URL: &str = "http://127.0.0.1:7420";

/// `[ledger]`, and the flags.
#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerSettings {
    /// Where the ledger is served [default: http://127.0.0.1:7420]
    #[arg(id = "ledger", long = "ledger", value_name = "URL")]
    pub url: Option<String>,
    /// File that holds the token to write to the ledger with
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates to trust an https:// ledger by (PEM), instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate to show an https:// ledger (PEM); needs --key
    #[arg(long = "cert", value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Sign statements with this private key (a file in signed-note form), readable by its owner alone
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Folder where the ledger's key and newest checkpoint are pinned
    #[arg(long, value_name = "DIR")]
    pub trust: Option<PathBuf>,
    /// The ledger's verifier key [default: pinned at the first contact]
    #[arg(long, value_name = "VKEY")]
    pub vkey: Option<String>,
}

/// Why the ledger can't be reached with these settings.
#[derive(Debug, thiserror::Error)]
pub enum LedgerSettingsError {
    /// A file can't be read, or holds something else.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that holds a secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A setting is missing, has no sensible value, or does not go with another.
    #[error("ledger.{setting}: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// What is shown.
pub struct Shown {
    pub(super) credentials: Credentials,
    pub(super) sign_key: Option<Skey>,
}

impl Shown {
    /// A token alone.
    pub fn token(token: Zeroizing<String>) -> Self {
        Self { credentials: Credentials { token: Some(token), ..Credentials::default() }, sign_key: None }
    }

    fn is_somebody(&self) -> bool {
        self.credentials.token.is_some() || self.credentials.identity.is_some() || self.sign_key.is_some()
    }
}

impl LedgerSettings {
    /// Flags over a file. A path on the command line starts from here, one in a file from the file's folder.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        let here = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Self {
            url: self.url.or(file.url),
            token_file: self.token_file.map(here).or(file.token_file),
            ca_file: self.ca_file.map(here).or(file.ca_file),
            certificate: self.certificate.map(here).or(file.certificate),
            key: self.key.map(here).or(file.key),
            sign_key: self.sign_key.map(here).or(file.sign_key),
            trust: self.trust.map(here).or(file.trust),
            vkey: self.vkey.or(file.vkey),
        }
    }

    /// The ledger. Relative paths start from `folder`; no call takes longer than `timeout`; `only_reads`: nobody has to be shown.
    pub fn open(&self, folder: &Path, timeout: Duration, only_reads: bool) -> Result<OverGrpc, LedgerSettingsError> {
        let url = self.url.as_deref().unwrap_or(DEFAULT_URL);
        let server: Server = url.parse().map_err(|error| refuse("url", format!("{error}")))?;
        let shown = self.shown(folder, &server)?;
        if shown.credentials.token.is_some() {
            warn_if_plain("ledger.url", &server.to_string(), "the token");
        }
        if !shown.is_somebody() && !only_reads {
            let reason = "say where the token to write with is, or show a certificate or a signature instead";
            return Err(refuse("token_file", reason));
        }
        let trust = self.trust.as_ref().ok_or_else(|| refuse("trust", "say where keys and checkpoints are pinned"))?;
        let vkey = self.vkey.as_ref().map(|text| text.parse::<Vkey>());
        let vkey = vkey.transpose().map_err(|error| refuse("vkey", format!("{error}")))?;
        Ok(OverGrpc::new(server, TrustFolder::new(folder.join(trust)), vkey, shown, timeout))
    }

    /// Reads the files. What only goes with TLS is refused for a `server` without.
    fn shown(&self, folder: &Path, server: &Server) -> Result<Shown, LedgerSettingsError> {
        let has_certificates = self.ca_file.is_some() || self.certificate.is_some() || self.key.is_some();
        if has_certificates && !server.to_string().starts_with("https://") {
            return Err(refuse("url", "certificates are for https:// ledgers"));
        }
        let at = |path: &PathBuf| folder.join(path);
        let token = self.token_file.as_ref().map(|path| secrets::word(&at(path))).transpose()?;
        let token = token.map(|token| Zeroizing::new(token.trim().to_owned()));
        let ca = self.ca_file.as_ref().map(|path| read(&at(path))).transpose()?;
        let identity = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: read(&at(certificate))?, key: secrets::text(&at(key))? })
            }
            (Some(_), None) => return Err(refuse("certificate", "needs key with it")),
            (None, Some(_)) => return Err(refuse("key", "needs certificate with it")),
        };
        let sign_key = self.sign_key.as_ref().map(|path| skey(&at(path))).transpose()?;
        Ok(Shown { credentials: Credentials { token, ca, identity }, sign_key })
    }
}

/// Says so where secrets leave this machine unencrypted.
pub fn warn_if_plain(setting: &str, url: &str, what: &str) {
    if is_plain(url) {
        tracing::warn!(setting, url, "{what} travels unencrypted to another machine: use https://");
    }
}

fn is_plain(url: &str) -> bool {
    url.parse::<BaseUrl>().is_ok_and(|url| !url.is_https() && !url.is_loopback())
}

fn refuse(setting: &'static str, reason: impl Into<String>) -> LedgerSettingsError {
    LedgerSettingsError::Setting { setting, reason: reason.into() }
}

fn skey(path: &Path) -> Result<Skey, LedgerSettingsError> {
    Skey::from_text(&secrets::text(path)?)
        .map_err(|error| LedgerSettingsError::File { path: path.to_owned(), reason: error.to_string() })
}

fn read(path: &Path) -> Result<String, LedgerSettingsError> {
    std::fs::read_to_string(path)
        .map_err(|error| LedgerSettingsError::File { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_machine_unencrypted_is_told_from_what_does_not() {
        for url in ["http://ledger.example:7420", "http://192.0.2.1"] {
            assert!(is_plain(url), "{url}");
        }
        for url in
            ["https://ledger.example:7420", "http://127.0.0.1:7420", "http://localhost:7420", "http://[::1]:7420"]
        {
            assert!(!is_plain(url), "{url}");
        }
        let server = |text: &str| text.parse::<Server>().expect("an address").to_string();
        assert!(
            is_plain(&server("ledger.example:7420")) && !is_plain(&server("127.0.0.1:7420")),
            "as it is parsed here"
        );
    }
}
