//! A mirror of the log over HTTP: any server of its checkpoint and its bundles of entries, as tlog-tiles has them.

use std::time::Duration;

use reqwest::StatusCode;

use crate::ledger::entry::MAX_ENTRY_LENGTH;

/// Longest bundle: 256 of the longest entries, each with its length.
pub(super) const MAX_BUNDLE: usize = 256 * (MAX_ENTRY_LENGTH + 2);
/// For one attempt, from the request to the last byte.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between attempts; after the last there is none.
const PAUSES: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];

/// A mirror, and what it takes to ask it.
pub(super) struct Mirror {
    base: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Mirror {
    pub(super) fn new(base: &str) -> Result<Self, String> {
        // reqwest is built without a crypto provider of its own. An error means that one was installed before: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        if base.starts_with("http://") {
            // Without TLS no root certificates are needed, and a machine without any must not fail over that.
            client = client.tls_certs_only([]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            client: client.build().map_err(|error| in_full(&error))?,
            runtime: runtime.map_err(|error| error.to_string())?,
        })
    }

    /// What it serves at a path; nothing where it has none.
    pub(super) fn get(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, String> {
        self.runtime.block_on(async {
            let mut pauses = PAUSES.into_iter();
            loop {
                let error = match self.attempt(path, most).await {
                    Ok(body) => return Ok(body),
                    Err(error) => error,
                };
                let Some(pause) = pauses.next() else { return Err(format!("/{path}: {error}")) };
                tokio::time::sleep(pause).await;
            }
        })
    }

    async fn attempt(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, String> {
        let url = format!("{}/{path}", self.base);
        let mut response = self.client.get(url).send().await.map_err(|error| in_full(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(format!("the mirror answers {status}")),
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| in_full(&error))? {
            if body.len() + part.len() > most {
                return Err(format!("longer than {most} bytes"));
            }
            body.extend_from_slice(&part);
        }
        Ok(Some(body))
    }
}

/// An error with its causes: reqwest's own words leave out why.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
