//! TLS: the certificate of the service, and the certificates it takes from clients; read anew when the files change.
//!
//! The files are looked at every few seconds, and when the process gets SIGHUP. What does not load is said, and what was loaded
//! before stays: a broken file takes no service down. Connections that are there go on under the server certificate they began
//! with. Sessions are not resumed: each connection shows its certificate, and has it checked. It is checked again when the
//! authorities change and when it expires ([`Judged`]): a connection whose certificate is judged otherwise then ends.
//!
//! A client's certificate that does not hold does not end the handshake: most clients could not tell why. The handshake proves that
//! the client has the key; [`Served::check`] then says whether the certificate counts, and who calls is told if it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::config::TlsSettings;
use super::secrets::{self, SecretError};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often a certificate is looked at at least while its connection lasts.
const JUDGE_EVERY: Duration = Duration::from_secs(60);
/// Names that are read of one certificate.
const MAX_NAMES: usize = 100;

/// Why TLS can't be served, or not anew.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// Which.
        path: String,
        /// The system's words.
        reason: std::io::Error,
    },
    /// The key's file.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Not what should be in it.
    #[error("{path} holds no {what} in PEM: {reason}")]
    Content {
        /// Which file.
        path: String,
        /// What should be in it.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// They don't fit together, or can't be used.
    #[error("the certificate {certificate} and the key {key}: {reason}")]
    Pair {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
        /// What is wrong.
        reason: rustls::Error,
    },
}

/// What clients may choose in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 as well, as gRPC needs.
    Http2Too,
}

/// What new connections are served with, and keeps up with the files.
pub struct Tls {
    settings: TlsSettings,
    speaks: Speaks,
    seen: Option<[u8; 32]>,
    current: watch::Sender<Arc<Served>>,
}

/// What connections are served with.
pub struct Served {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// By whom clients' certificates have to be signed.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// Reads the files.
    pub fn load(settings: TlsSettings, speaks: Speaks) -> Result<Self, TlsError> {
        let files = Files::read(&settings)?;
        let current = watch::Sender::new(Arc::new(files.served(&settings, speaks)?));
        Ok(Self { seen: Some(files.digest()), settings, speaks, current })
    }

    /// What new connections are served with.
    pub fn current(&self) -> watch::Receiver<Arc<Served>> {
        self.current.subscribe()
    }

    /// Reads the files anew whenever they change, or the process gets SIGHUP, until nobody is served any more.
    pub async fn keep_up(mut self) {
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP is not heard; the files are looked at all the same"))
            .ok();
        loop {
            let asked = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = asked => {}
                () = self.current.closed() => return,
            }
            self.look();
        }
    }

    /// One look. What is wrong is said once for each content of the files.
    fn look(&mut self) {
        let files = Files::read(&self.settings);
        let digest = files.as_ref().ok().map(Files::digest);
        if digest == self.seen {
            return;
        }
        self.seen = digest;
        match files.and_then(|files| files.served(&self.settings, self.speaks)) {
            Ok(config) => {
                self.current.send_replace(Arc::new(config));
                tracing::info!(certificate = %self.settings.certificate.display(), "certificates were read anew");
            }
            Err(error) => tracing::error!(%error, "the new certificates are not used; those from before still are"),
        }
    }
}

/// What is in the files.
struct Files {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let unreadable = |path: &Path| {
            let path = path.display().to_string();
            move |reason| TlsError::Read { path, reason }
        };
        let read = |path: &PathBuf| fs::read(path).map_err(unreadable(path));
        Ok(Self {
            certificate: read(&settings.certificate)?,
            key: secrets::bytes(&settings.key)?,
            client_ca: settings.client_ca.as_ref().map(read).transpose()?,
        })
    }

    /// Tells one content from another.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.certificate, &*self.key, self.client_ca.as_ref().unwrap_or(&Vec::new())] {
            hash = hash.chain_update(part.len().to_be_bytes()).chain_update(part);
        }
        hash.finalize().into()
    }

    fn served(&self, settings: &TlsSettings, speaks: Speaks) -> Result<Served, TlsError> {
        let content =
            |path: &Path, what, reason: String| TlsError::Content { path: path.display().to_string(), what, reason };
        let certificates = |pem: &[u8], path: &Path| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            match read {
                Ok(read) if read.is_empty() => Err(content(path, "certificate", "there is none in it".into())),
                Ok(read) => Ok(read),
                Err(error) => Err(content(path, "certificate", error.to_string())),
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&self.certificate, &settings.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| content(&settings.key, "private key", error.to_string()))?;
        let pair = |reason| TlsError::Pair {
            certificate: settings.certificate.display().to_string(),
            key: settings.key.display().to_string(),
            reason,
        };
        // TLS 1.2 and 1.3: what rustls has.
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let clients: Option<Arc<dyn ClientCertVerifier>> = match (&self.client_ca, &settings.client_ca) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem, path)? {
                    roots
                        .add(certificate)
                        .map_err(|error| content(path, "certificate authority", error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| content(path, "certificate authority", error.to_string()))?;
                Some(verifier)
            }
            _ => None,
        };
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::new(Later(Arc::clone(clients)))),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = match speaks {
            Speaks::Http1 => vec![b"http/1.1".to_vec()],
            Speaks::Http2Too => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Served { config: Arc::new(config), clients })
    }
}

impl Served {
    /// The names in a client's certificate, or why it does not hold. `chain` begins with the certificate; empty: none was shown.
    pub fn check(&self, chain: &[CertificateDer<'_>]) -> Result<Vec<String>, String> {
        let (Some(clients), [certificate, between @ ..]) = (&self.clients, chain) else { return Ok(Vec::new()) };
        match clients.verify_client_cert(certificate, between, UnixTime::now()) {
            Ok(_) => Ok(names_in(certificate)),
            Err(rustls::Error::InvalidCertificate(reason)) => Err(reason.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A client's certificate, judged when its connection began, and again as long as that lasts.
pub struct Judged {
    served: watch::Receiver<Arc<Served>>,
    chain: Vec<CertificateDer<'static>>,
    /// Its names, or why it does not hold.
    pub verdict: Result<Vec<String>, String>,
}

impl Judged {
    /// Judges a chain, by what is served now.
    pub fn new(mut served: watch::Receiver<Arc<Served>>, chain: Option<&[CertificateDer<'_>]>) -> Self {
        let chain: Vec<_> =
            chain.unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned()).collect();
        let verdict = served.borrow_and_update().check(&chain);
        Self { served, chain, verdict }
    }

    /// Returns once the certificate is to be judged otherwise: it expired, or the authorities are others now. The connection is
    /// then to end; whoever comes again is judged anew.
    pub async fn turns(mut self) {
        if self.chain.is_empty() {
            return std::future::pending().await;
        }
        loop {
            // The clock may jump, so no wait is long.
            let wait = self.until_next_end().min(JUDGE_EVERY);
            tokio::select! {
                changed = self.served.changed() => if changed.is_err() {
                    // The server ends.
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(wait) => {}
            }
            let verdict = self.served.borrow_and_update().check(&self.chain);
            if verdict != self.verdict {
                tracing::info!(before = ?self.verdict, now = ?verdict, "a connection ends: its client certificate is judged otherwise");
                return;
            }
        }
    }

    /// Until the first of the certificates expires that have not yet, and a moment longer: the last second still counts.
    fn until_next_end(&self) -> Duration {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        let end = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            let left = certificate.validity().not_after.timestamp().saturating_sub(now);
            u64::try_from(left).ok().map(|left| Duration::from_secs(left.saturating_add(1)))
        };
        self.chain.iter().filter_map(end).min().unwrap_or(JUDGE_EVERY)
    }
}

/// Asks for a certificate, and has the client prove that it has the key. Whether the certificate counts is for later.
#[derive(Debug)]
struct Later(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Later {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The names that whoever shows a certificate may be known by, from its file (PEM); or why it proves nothing.
pub(super) fn names_shown(pem: &str) -> Result<Vec<String>, String> {
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("holds none in PEM: {error}"))?;
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| format!("can't be read: {error}"))?;
    let validity = parsed.validity();
    match validity.is_valid() {
        true => Ok(names_in(&certificate)),
        false => Err(format!("counts from {} to {}, and not now", validity.not_before, validity.not_after)),
    }
}

/// The names in a certificate that principals may be known by: DNS names, URIs and e-mail addresses among the subject's alternative
/// names. The subject's common names count only in a certificate without any alternative names (RFC 9525 section 6.3 has them count
/// no more): who asks an authority for a certificate may put into them what the authority never looked at.
fn names_in(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let text = |name: &str| Some(name.to_owned());
    let mut names: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(alternative)) => {
            let names = alternative.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => text(name),
                _ => None,
            });
            names.collect()
        }
        Ok(None) => certificate.subject().iter_common_name().filter_map(|name| text(name.as_str().ok()?)).collect(),
        // Two of them, or one that can't be read: nobody's names.
        Err(_) => Vec::new(),
    };
    names.truncate(MAX_NAMES);
    names.sort();
    names.dedup();
    names
}
