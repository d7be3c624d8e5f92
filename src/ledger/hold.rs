//! Holds: whoever is about to change a tag has it for itself until it is known what became of that.
//!
//! A gateway stands before a registry. It has to ask before it lets a change through, and can say only afterwards whether the
//! change came about; in between it may die. So it *intends*: a statement with the disposition INTENDED is judged like one that
//! asks, but one that is allowed is only NOTED: it binds nothing, and the tag has a hold. The hold ends with
//!
//! - the same statement as HAPPENED or REFUSED that names the intent in `settles`, by the principal whose intent it is;
//! - an observation that names it in `checks_entry`: somebody went and looked;
//! - for the deletion of a manifest also with anything that takes the digest from under the tag.
//!
//! While a tag is held, nothing else may be intended or asked about it ([`must_wait`]): two gateways that both were allowed
//! could otherwise reach the registry in the other order than the ledger. Facts are recorded all the same; the world is as
//! it is. There is no time in here: whoever finds a hold too old looks into the registry and says what is there.

use super::names::Digest;
use super::statement::{Disposition, Kind, Statement, TagName};
use super::subject::Subject;
use super::transition::View;

/// An intent of which it is not known yet what became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Index of its entry; of the first, where it became several.
    pub index: u64,
    /// Whose it is: nobody else can say what became of it but by looking.
    pub by: String,
    /// What it is to lead to.
    pub aim: Aim,
}

/// What is intended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aim {
    /// To bind the tag to this digest.
    Push(Digest),
    /// To remove the tag.
    Delete,
    /// To delete the manifest that the tag is bound to.
    DeleteManifest,
}

impl Aim {
    /// Whether the registry, where this was seen of the tag, is as it was to be.
    pub fn is_reached_by(&self, seen: Option<&Digest>) -> bool {
        match self {
            Self::Push(digest) => seen == Some(digest),
            Self::Delete | Self::DeleteManifest => seen.is_none(),
        }
    }
}

/// A tag is held by somebody else, who is at work on it right now, or died at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which tag.
    pub tag: TagName,
    /// Index of the intent that holds it.
    pub index: u64,
}

/// Whether a statement has to wait for an intent to be settled. No ledger records one that has to.
pub fn must_wait<V: View>(view: &V, statement: &Statement) -> Result<Option<Held>, V::Error> {
    let tags = match &statement.kind {
        Kind::TagPush { tag, disposition, .. } | Kind::TagDelete { tag, disposition, .. } if asks(*disposition) => {
            vec![tag.clone()]
        }
        Kind::ManifestDelete { registry, repository, digest, disposition, .. } if asks(*disposition) => {
            let name = |tag| TagName { registry: registry.clone(), repository: repository.clone(), tag };
            view.tags_bound_to(registry, repository, digest)?.into_iter().map(name).collect()
        }
        _ => return Ok(None),
    };
    for tag in tags {
        if let Some(Hold { index, .. }) = view.subject(&Subject::Tag(tag.clone()).key())?.hold {
            return Ok(Some(Held { tag, index }));
        }
    }
    Ok(None)
}

/// Whether a statement wants to be decided, and so to know what the tag will be.
pub fn asks(disposition: Disposition) -> bool {
    matches!(disposition, Disposition::Requested | Disposition::Intended)
}
