//! Certificates for tests: authorities, what they sign, and a ledger that serves with TLS.

#![allow(dead_code, reason = "shared by the tests beside it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tagledger::server::config::Config;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::world::World;

/// An authority, and what it signs.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("signed").pem(), key.serialize_pem())
    }

    pub(crate) fn server(&self) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().expect("an address")));
        self.sign(params)
    }

    pub(crate) fn client(&self, name: &str) -> (String, String) {
        self.sign(CertificateParams::new(vec![name.to_owned()]).expect("parameters"))
    }
}

/// A folder with the files of a server with TLS.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) ca: Authority,
    pub(crate) clients: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().expect("a folder"),
            ca: Authority::new("servers"),
            clients: Authority::new("clients"),
        };
        files.serve(&files.ca.server());
        std::fs::write(files.path("clients.pem"), files.clients.pem()).expect("written");
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn serve(&self, (certificate, key): &(String, String)) {
        write_private(&self.path("key.new"), key);
        std::fs::rename(self.path("key.new"), self.path("server.key")).expect("moved");
        std::fs::write(self.path("server.pem"), certificate).expect("written");
    }

    pub(crate) fn config(&self, more: &str) -> Config {
        let path = self.path("ledger.toml");
        let text =
            format!("{more}\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"clients.pem\"\n");
        std::fs::write(&path, text).expect("written");
        Config::read(&path).expect("a configuration")
    }

    pub(crate) async fn world(&self) -> World {
        World::open_with(&self.path("ledger"), self.config("")).await
    }

    pub(crate) fn tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.ca.pem())).domain_name("localhost")
    }

    pub(crate) async fn connect(&self, world: &World, identity: Option<&(String, String)>) -> Result<Channel, String> {
        let mut tls = self.tls();
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Channel::from_shared(format!("https://{}", world.address)).expect("an address");
        let endpoint = endpoint.tls_config(tls).map_err(|error| format!("{error:?}"))?;
        endpoint.connect().await.map_err(|error| format!("{error:?}"))
    }
}

pub(crate) fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("changed");
}
