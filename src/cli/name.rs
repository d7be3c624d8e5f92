//! Names as people type them.

use std::str::FromStr;

use crate::ledger::answer::RepositoryName;
use crate::ledger::names::{Digest, RefError, Tag, TagRef};

/// `registry/repository[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) repository: RepositoryName,
    pub(super) tag: Option<Tag>,
    pub(super) digest: Option<Digest>,
}

impl FromStr for Image {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let (path, digest) = match text.split_once('@') {
            Some((path, digest)) => (path, Some(digest.parse().map_err(|error| RefError::Name("digest", error))?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let has_tag = path.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'));
        if !has_tag {
            return Ok(Self { repository: path.parse()?, tag: None, digest });
        }
        let TagRef { registry, repository, tag } = path.parse()?;
        Ok(Self { repository: RepositoryName { registry, repository }, tag: Some(tag), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_tags_and_digests_are_told_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let parts = |text: &str| {
            let image: Image = text.parse().expect(text);
            (image.repository.to_string(), image.tag.map(|tag| tag.to_string()), image.digest.is_some())
        };
        assert_eq!(parts("127.0.0.1:5000/a/b"), ("127.0.0.1:5000/a/b".into(), None, false));
        assert_eq!(parts("127.0.0.1:5000/a/b:v1"), ("127.0.0.1:5000/a/b".into(), Some("v1".into()), false));
        assert_eq!(parts(&format!("r/a@{digest}")), ("r/a".into(), None, true));
        assert_eq!(parts(&format!("r/a:v1@{digest}")), ("r/a".into(), Some("v1".into()), true));
        for text in ["", "a", "r/a:", "r/a@", "r/a@sha256:12", "r/A", "R/a"] {
            assert!(text.parse::<Image>().is_err(), "{text:?}");
        }
    }
}
