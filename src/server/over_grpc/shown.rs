//! What a gateway or a scanner shows its ledger, and by which certificates it knows it: read from files, once, at the start.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::client::{Credentials, Identity, Server};
use crate::ledger::note::Skey;

/// The files, as the settings name them.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The folder that relative paths start from.
    pub folder: &'a Path,
    /// A bearer token.
    pub token: Option<&'a PathBuf>,
    /// Certificates that the ledger's must lead to, instead of the system's.
    pub ca: Option<&'a PathBuf>,
    /// A client certificate, and those between it and its authority.
    pub certificate: Option<&'a PathBuf>,
    /// Its private key.
    pub key: Option<&'a PathBuf>,
    /// A private key to sign statements with.
    pub sign_key: Option<&'a PathBuf>,
}

/// What is shown.
pub struct Shown {
    pub(super) credentials: Credentials,
    pub(super) sign_key: Option<Skey>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ShownError {
    /// A file can't be read, or holds something else.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A private key that others may read.
    #[error("{path} may be read by others (mode {mode:04o}); run: chmod 600 {path}", path = path.display())]
    Loose {
        /// Its file.
        path: PathBuf,
        /// Who may do what.
        mode: u32,
    },
    /// Settings that don't fit together.
    #[error("{setting}: {reason}")]
    Setting {
        /// The name of one.
        setting: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Shown {
    /// A token alone.
    pub fn token(token: Zeroizing<String>) -> Self {
        Self { credentials: Credentials { token: Some(token), ..Credentials::default() }, sign_key: None }
    }

    /// Reads the files. What only goes with TLS is refused for a `server` without.
    pub fn read(files: &Files<'_>, server: &Server) -> Result<Self, ShownError> {
        let refuse = |setting, reason| ShownError::Setting { setting, reason };
        let has_certificates = files.ca.is_some() || files.certificate.is_some() || files.key.is_some();
        if has_certificates && !server.to_string().starts_with("https://") {
            return Err(refuse("ledger", "certificates are for https:// ledgers"));
        }
        let at = |path: &PathBuf| files.folder.join(path);
        let token = files.token.map(|path| token(&at(path))).transpose()?;
        let ca = files.ca.map(|path| read(&at(path))).transpose()?.map(|text| text.to_string());
        let identity = match (files.certificate, files.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: read(&at(certificate))?.to_string(), key: private(&at(key))? })
            }
            (Some(_), None) => return Err(refuse("certificate", "needs key with it")),
            (None, Some(_)) => return Err(refuse("key", "needs certificate with it")),
        };
        let sign_key = files.sign_key.map(|path| skey(&at(path))).transpose()?;
        Ok(Self { credentials: Credentials { token, ca, identity }, sign_key })
    }

    /// Whether there is anything a principal can be known by.
    pub fn is_somebody(&self) -> bool {
        self.credentials.token.is_some() || self.credentials.identity.is_some() || self.sign_key.is_some()
    }
}

fn token(path: &Path) -> Result<Zeroizing<String>, ShownError> {
    let text = read(path)?;
    match text.trim() {
        "" => Err(ShownError::File { path: path.to_owned(), reason: "it is empty".to_owned() }),
        token => Ok(token.to_owned().into()),
    }
}

fn skey(path: &Path) -> Result<Skey, ShownError> {
    Skey::from_text(&private(path)?)
        .map_err(|error| ShownError::File { path: path.to_owned(), reason: error.to_string() })
}

/// A private key that nobody else may read.
fn private(path: &Path) -> Result<Zeroizing<String>, ShownError> {
    let unreadable = |error: std::io::Error| ShownError::File { path: path.to_owned(), reason: error.to_string() };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(ShownError::Loose { path: path.to_owned(), mode });
    }
    read(path)
}

fn read(path: &Path) -> Result<Zeroizing<String>, ShownError> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| ShownError::File { path: path.to_owned(), reason: error.to_string() })
}
