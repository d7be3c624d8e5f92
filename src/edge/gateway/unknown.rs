//! The tags that a registry has and the ledger does not know, before a manifest is deleted under all of its tags.
//!
//! A delete by digest is decided by the tags that the ledger has bound to the digest. One that the registry had before there was a
//! ledger would go with them, however protected. So the registry is asked for the tags of the repository, and for each of which
//! the ledger has no binding what it is; what has the digest is recorded, as what was seen, and then decided about with the rest.
//! Where that can't be found out, nothing is deleted in a repository where a rule may forbid it.

use std::sync::Arc;

use axum::http::StatusCode;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::Gateway;
use super::change::Client;
use super::errors::{Code, Refusal};
use crate::edge::port::{GatewayPort, PortError};
use crate::ledger::names::{Digest, Registry, Repository, Tag, TagRef};

/// Most tags that are looked at before a deletion; a scan looks at any number.
const MOST: usize = 10_000;
/// How many of them at once.
const AT_ONCE: usize = 8;

/// A manifest.
pub(super) struct Manifest<'a> {
    pub(super) registry: &'a Registry,
    pub(super) repository: &'a Repository,
    pub(super) digest: &'a Digest,
}

impl<P: GatewayPort> Gateway<P> {
    /// Records which tags of its repository that the ledger does not know have a manifest. False: the ledger can't be reached.
    pub(super) async fn meet_tags(self: &Arc<Self>, manifest: &Manifest<'_>, client: &Client) -> Result<bool, Refusal> {
        let known = match self.port.tags_of(manifest.registry, manifest.repository).await {
            Ok(known) => known,
            Err(PortError::Unavailable(_)) => return Ok(false),
            Err(error) => return Err(Refusal::later(error.to_string())),
        };
        let lent = client.authorization.as_ref();
        let looking = async {
            let listing = self.looks.tags(manifest.repository, lent).await;
            if let Some(error) = listing.broken {
                return Err(format!("its tags can't be listed: {error}"));
            }
            let tags = listing.names.iter().filter_map(|name| name.parse::<Tag>().ok());
            let version_of = |tag: Tag| match known.get(&tag) {
                Some(view) if view.digest.is_some() => None,
                view => Some((tag, view.map_or(0, |view| view.version))),
            };
            let unknown: Vec<(Tag, u64)> = tags.filter_map(version_of).collect();
            if unknown.len() > MOST {
                return Err(format!("of its tags the ledger does not know {}, more than {MOST}", unknown.len()));
            }
            self.with_digest(manifest, unknown, client).await
        };
        // Nothing is held yet but the repository, in this process.
        let looked = timeout(self.config.hold_bound, looking).await;
        let found = match looked.unwrap_or_else(|_| Err("looking at its tags takes too long".to_owned())) {
            Ok(found) => found,
            Err(reason) if self.protection.covers_some(manifest.registry, manifest.repository) => {
                let message = format!(
                    "can't tell which tags of {} go with {}: {reason}; let tagledgerd scan look through it first, or \
                     give the gateway a user that may list and pull (upstream_user)",
                    manifest.repository, manifest.digest
                );
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, Code::Upstream, message));
            }
            Err(reason) => {
                tracing::warn!(repository = %manifest.repository, reason, "a manifest is deleted with tags that are not known");
                return Ok(true);
            }
        };
        for (tag, version) in found {
            let recorded = self.record_if_at(client.saw(&tag, manifest.digest, None), version).await;
            recorded.map_err(|error| Refusal::later(error.to_string()))?;
        }
        Ok(true)
    }

    /// Which of these tags have a manifest in the registry.
    async fn with_digest(
        &self,
        manifest: &Manifest<'_>,
        tags: Vec<(Tag, u64)>,
        client: &Client,
    ) -> Result<Vec<(TagRef, u64)>, String> {
        let mut found = Vec::new();
        let (repository, expected) = (manifest.repository, Some(manifest.digest));
        for some in tags.chunks(AT_ONCE) {
            let mut asked = Vec::with_capacity(some.len());
            for (tag, _) in some {
                asked.push(self.looks.ask_as(repository, tag.as_str(), expected, client.authorization.as_ref()));
            }
            for ((tag, version), seen) in some.iter().zip(join_all(asked).await) {
                let seen = seen.map_err(|error| format!("can't look at tag {tag}: {error}"))?;
                if seen.as_ref() == expected {
                    let (registry, repository) = (manifest.registry.clone(), repository.clone());
                    found.push((TagRef { registry, repository, tag: tag.clone() }, *version));
                }
            }
        }
        Ok(found)
    }
}
