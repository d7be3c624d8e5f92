//! What a client shows: a token with every call, a certificate with every connection; and whom it trusts in turn.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use super::ClientError;

/// What to show a server, and by which certificates to know it.
#[derive(Clone, Default)]
pub struct Credentials {
    /// A bearer token.
    pub token: Option<Zeroizing<String>>,
    /// Certificates that a server's must lead to, in PEM; `None`: those of the system.
    pub ca: Option<String>,
    /// A client certificate.
    pub identity: Option<Identity>,
}

/// A client certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and those between it and the authority, in PEM.
    pub certificate: String,
    /// The private key, in PEM.
    pub key: Zeroizing<String>,
}

/// A connection on which the token goes with every call.
pub(super) type Connection = InterceptedService<Channel, Bearer>;

/// Adds the token.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Credentials {
    pub(super) fn bearer(&self) -> Result<Bearer, ClientError> {
        let Some(token) = &self.token else { return Ok(Bearer(None)) };
        let text = Zeroizing::new(format!("Bearer {}", **token));
        let mut value = MetadataValue::try_from(text.as_str()).map_err(|_| ClientError::Token)?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    pub(super) fn tls(&self) -> ClientTlsConfig {
        let config = match &self.ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some(identity) => {
                config.identity(tonic::transport::Identity::from_pem(&identity.certificate, identity.key.as_bytes()))
            }
            None => config,
        }
    }
}
