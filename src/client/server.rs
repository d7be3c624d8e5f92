//! Where a ledger is served, and the way there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Endpoint, Uri};

use super::credentials::{Connection, Credentials};
use super::{ClientError, visible};

/// The port of a ledger, if none is given.
const DEFAULT_PORT: u16 = 7420;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one call; streams may go on for ever once they have begun.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The address of a server in its one spelling, `http://host:port` or `https://host:port`: keys are pinned by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(String);

impl FromStr for Server {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refuse = |expected| ClientError::Address { found: text.to_owned(), expected };
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| refuse("not a URL"))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            _ => return Err(refuse("only http:// and https:// are supported")),
        }
        let scheme = uri.scheme_str().unwrap_or("http");
        if uri.path() != "/" || uri.query().is_some() {
            return Err(refuse("it may have no path"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(refuse("it may have no user"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| refuse("it has no host"))?;
        // The last colon that is not inside an IPv6 address begins a port; one that is no port is not silently dropped.
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let port = match authority[host.len()..].strip_prefix(':') {
            None => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| refuse("its port is not 1 to 65535"))?,
        };
        Ok(Self(format!("{scheme}://{}:{port}", host.to_ascii_lowercase())))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Server {
    /// Connects, or says that nobody is there.
    pub(super) async fn connect(&self, credentials: Credentials) -> Result<Connection, ClientError> {
        let bearer = credentials.bearer()?;
        let mut endpoint = Endpoint::from_shared(self.0.clone())
            .expect("a server is a valid URL")
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let unreachable = |error: tonic::transport::Error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            ClientError::Unreachable { server: self.0.clone(), reason: visible(&cause.to_string()) }
        };
        if self.0.starts_with("https://") {
            endpoint = endpoint.tls_config(credentials.tls()).map_err(unreachable)?;
        } else if credentials.identity.is_some() || credentials.ca.is_some() {
            return Err(ClientError::Address {
                found: self.0.clone(),
                expected: "certificates are for https:// servers",
            });
        }
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(Connection::new(channel, bearer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for text in ["127.0.0.1:7420", "http://127.0.0.1:7420", "http://127.0.0.1:7420/", "127.0.0.1"] {
            assert_eq!(text.parse::<Server>().expect(text).to_string(), "http://127.0.0.1:7420");
        }
        assert_eq!("Ledger.Example:80".parse::<Server>().expect("valid").to_string(), "http://ledger.example:80");
        assert_eq!("[::1]:7421".parse::<Server>().expect("valid").to_string(), "http://[::1]:7421");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for text in ["", "https://", "ftp://a", "http://a/path", "http://a?x", "http://u:p@a:1", "a b", "a:99999"] {
            assert!(matches!(text.parse::<Server>(), Err(ClientError::Address { .. })), "{text:?}");
        }
    }
}
