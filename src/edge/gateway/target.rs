//! What a request is about: the path and parameters of the distribution API, parsed strictly.
//!
//! What is not known is refused, and what is forwarded is written anew from what was understood, never copied: if gateway and
//! registry could read one path in two ways, a change could get past the check. So there is one spelling of each path, and no
//! percent-encoding in it; and where a repository's name could pass for a part of the path, it may be read but not written.

use axum::http::{Method, StatusCode};

use super::errors::{Code, Refusal};
use crate::ledger::names::{Digest, Registry, Repository, Tag};

/// Most tags that one push may set.
const MAX_TAGS: usize = 32;
/// Longest identifier of an upload, in bytes. Registries put state into it.
const MAX_UPLOAD_ID: usize = 2048;
/// What paths are made of; a repository with such a component could be read as another path.
const WORDS: [&str; 6] = ["manifests", "blobs", "uploads", "tags", "referrers", "_oci"];

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `/v2/`
    Version,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(Repository),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(Repository, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(Repository, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(Repository),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(Repository, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(Repository, Digest),
    /// A path that the configuration lets through, as where tokens are had.
    Passed(String),
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Reference {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl Target {
    /// Reads a path of the API of `registry`, or one of `passed`.
    pub(super) fn parse(path: &str, registry: &Registry, passed: &[String]) -> Result<Self, Refusal> {
        if passed.iter().any(|known| known == path) {
            return Ok(Self::Passed(path.to_owned()));
        }
        if path.contains('%') {
            let message = "a path of this API has no percent-encoding";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, Code::NameInvalid, message));
        }
        let Some(rest) = path.strip_prefix("/v2") else { return Err(unknown(path)) };
        if matches!(rest, "" | "/") {
            return Ok(Self::Version);
        }
        let segments: Vec<&str> = rest.split('/').skip(1).collect();
        let name = |parts: &[&str]| {
            let name = parts.join("/");
            Repository::parse(registry, &name).map_err(|error| {
                let message = format!("repository name {name:?} {error}");
                Refusal::new(StatusCode::BAD_REQUEST, Code::NameInvalid, message)
            })
        };
        match segments.as_slice() {
            ["_catalog"] => Ok(Self::Catalog),
            [repository @ .., "tags", "list"] if !repository.is_empty() => Ok(Self::Tags(name(repository)?)),
            [repository @ .., "manifests", reference] if !repository.is_empty() => {
                Ok(Self::Manifest(name(repository)?, parse_reference(reference)?))
            }
            [repository @ .., "referrers", digest] if !repository.is_empty() => {
                Ok(Self::Referrers(name(repository)?, parse_digest(digest)?))
            }
            [repository @ .., "blobs", "uploads"] | [repository @ .., "blobs", "uploads", ""]
                if !repository.is_empty() =>
            {
                Ok(Self::Uploads(name(repository)?))
            }
            [repository @ .., "blobs", "uploads", id] if !repository.is_empty() => {
                let is_plain =
                    |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=' | b'~' | b':');
                if matches!(*id, "." | "..") || id.len() > MAX_UPLOAD_ID || !id.bytes().all(is_plain) {
                    let message = "the identifier of an upload is of letters, digits and \"-_.=~:\"";
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, Code::BlobUploadInvalid, message));
                }
                Ok(Self::Upload(name(repository)?, (*id).to_owned()))
            }
            [repository @ .., "blobs", digest] if !repository.is_empty() => {
                Ok(Self::Blob(name(repository)?, parse_digest(digest)?))
            }
            _ => Err(unknown(path)),
        }
    }

    /// Whether this method is known for it, and may be used on this repository.
    pub(super) fn check(&self, method: &Method) -> Result<(), Refusal> {
        let allowed: &[Method] = match self {
            Self::Version | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => &[Method::GET, Method::HEAD],
            Self::Manifest(..) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::Blob(..) => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Uploads(_) => &[Method::POST],
            Self::Upload(..) => &[Method::GET, Method::PATCH, Method::PUT, Method::DELETE],
            Self::Passed(_) => &[Method::GET, Method::HEAD, Method::POST],
        };
        if !allowed.contains(method) {
            let message = format!("{method} is not a method of {}", self.path());
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message));
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if let Some(repository) = self.repository().filter(|_| !reads)
            && let Some(word) = repository.as_str().split('/').find(|part| WORDS.contains(part))
        {
            let message =
                format!("a repository with the component {word:?} is read only here: its paths are ambiguous");
            return Err(Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message));
        }
        Ok(())
    }

    fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Version | Self::Catalog | Self::Passed(_) => None,
            Self::Tags(repository)
            | Self::Manifest(repository, _)
            | Self::Blob(repository, _)
            | Self::Uploads(repository)
            | Self::Upload(repository, _)
            | Self::Referrers(repository, _) => Some(repository),
        }
    }

    /// The path in its one spelling.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Version => "/v2/".to_owned(),
            Self::Catalog => "/v2/_catalog".to_owned(),
            Self::Tags(repository) => format!("/v2/{repository}/tags/list"),
            Self::Manifest(repository, reference) => format!("/v2/{repository}/manifests/{}", reference.as_str()),
            Self::Blob(repository, digest) => format!("/v2/{repository}/blobs/{digest}"),
            Self::Uploads(repository) => format!("/v2/{repository}/blobs/uploads/"),
            Self::Upload(repository, id) => format!("/v2/{repository}/blobs/uploads/{id}"),
            Self::Referrers(repository, digest) => format!("/v2/{repository}/referrers/{digest}"),
            Self::Passed(path) => path.clone(),
        }
    }
}

/// The tags that the parameters of a push set beside its reference (distribution-spec, "Pushing manifests with tags"). Any
/// other parameter is refused: a registry might take it for more than we do.
pub(super) fn tags_of(query: Option<&str>) -> Result<Vec<Tag>, Refusal> {
    let mut tags = Vec::new();
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        let Some(tag) = parameter.strip_prefix("tag=") else {
            let name = parameter.split('=').next().unwrap_or_default();
            let message = format!("the parameter {name:?} is not known for the writing of a manifest");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, Code::Unsupported, message));
        };
        tags.push(parse_tag(tag)?);
    }
    tags.sort();
    tags.dedup();
    if tags.len() > MAX_TAGS {
        let message = format!("{} tags at once; at most {MAX_TAGS} are allowed", tags.len());
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, Code::Unsupported, message));
    }
    Ok(tags)
}

/// distribution-spec: a reference with a colon is a digest.
fn parse_reference(text: &str) -> Result<Reference, Refusal> {
    if text.contains(':') { parse_digest(text).map(Reference::Digest) } else { parse_tag(text).map(Reference::Tag) }
}

fn parse_tag(text: &str) -> Result<Tag, Refusal> {
    text.parse().map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, Code::TagInvalid, format!("{text:?} is no tag: {error}"))
    })
}

fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, format!("{text:?} is no digest: {error}"))
    })
}

fn unknown(path: &str) -> Refusal {
    let shown: String = path.chars().take(200).collect();
    Refusal::new(StatusCode::NOT_FOUND, Code::Unsupported, format!("{shown:?} is not a path of this API"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Target, Refusal> {
        Target::parse(path, &"r.example".parse().expect("a registry"), &["/service/token".to_owned()])
    }

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn every_path_of_the_api_is_understood_and_written_as_it_was() {
        for path in [
            "/v2/".to_owned(),
            "/v2/_catalog".to_owned(),
            "/v2/app/tags/list".to_owned(),
            "/v2/team/app/manifests/v1".to_owned(),
            "/v2/team/app/manifests/_-.".to_owned(),
            format!("/v2/team/app/manifests/{DIGEST}"),
            format!("/v2/team/app/blobs/{DIGEST}"),
            format!("/v2/team/app/referrers/{DIGEST}"),
            "/v2/team/app/blobs/uploads/".to_owned(),
            "/v2/team/app/blobs/uploads/9b4ed4f0-c6b9-4b21-a2f7-2c64c2d0c6ff".to_owned(),
            "/v2/manifests/app/manifests/v1".to_owned(),
            "/service/token".to_owned(),
        ] {
            assert_eq!(parse(&path).map(|target| target.path()), Ok(path.clone()), "{path}");
        }
        assert_eq!(parse("/v2"), Ok(Target::Version));
        assert_eq!(parse("/v2/a/blobs/uploads"), parse("/v2/a/blobs/uploads/"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for path in [
            "",
            "/",
            "*",
            "/v1/app/manifests/v1",
            "/V2/app/manifests/v1",
            "/v2//app/manifests/v1",
            "//v2/app/manifests/v1",
            "/v2/app//manifests/v1",
            "/v2/app/manifests/v1/",
            "/v2/app/manifests//v1",
            "/v2/app/manifests/",
            "/v2/app/manifests",
            "/v2/manifests/v1",
            "/v2/app/MANIFESTS/v1",
            "/v2/app/manifest/v1",
            "/v2/app/m%61nifests/v1",
            "/v2/app/manifests/v%31",
            "/v2/app%2Fmanifests/v1",
            "/v2/app/%2e%2e/app/manifests/v1",
            "/v2/app/../app/manifests/v1",
            "/v2/./app/manifests/v1",
            "/v2/app/manifests/../manifests/v1",
            "/v2/app\\manifests/v1",
            "/v2/App/manifests/v1",
            "/v2/app/manifests/v1:2",
            "/v2/app/manifests/v1@sha256:00",
            "/v2/app/manifests/sha256:00",
            "/v2/app/manifests/-v1",
            "/v2/app/manifests/v1;x",
            "/v2/app/blobs/uploads/a/b",
            "/v2/app/blobs/uploads/..",
            "/v2/app/blobs/v1",
            "/v2/app/blobs/uploads/../../manifests/v1",
            "/v2/_catalog/",
            "/v2/app/_catalog",
            "/service/token/",
            "/service/../v2/",
        ] {
            assert!(parse(path).is_err(), "{path:?} is {:?}", parse(path));
        }
    }

    #[test]
    fn methods_are_those_of_the_api_and_ambiguous_repositories_are_only_read() {
        let check =
            |method: &Method, path: &str| parse(path).expect(path).check(method).map_err(|refusal| refusal.status);
        assert_eq!(check(&Method::PUT, "/v2/app/manifests/v1"), Ok(()));
        for method in [Method::POST, Method::PATCH, Method::OPTIONS, Method::TRACE, Method::CONNECT] {
            assert_eq!(check(&method, "/v2/app/manifests/v1"), Err(StatusCode::METHOD_NOT_ALLOWED), "{method}");
        }
        let odd = Method::from_bytes(b"put").expect("a token");
        assert_eq!(check(&odd, "/v2/app/manifests/v1"), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(check(&Method::PUT, "/v2/_catalog"), Err(StatusCode::METHOD_NOT_ALLOWED));
        for path in
            ["/v2/app/manifests/b/blobs/uploads/c", "/v2/app/manifests/b/manifests/v1", "/v2/blobs/manifests/v1"]
        {
            assert_eq!(check(&Method::PUT, path), Err(StatusCode::FORBIDDEN), "{path}");
        }
        assert_eq!(check(&Method::GET, "/v2/blobs/manifests/v1"), Ok(()));
    }

    #[test]
    fn only_tags_are_parameters_of_a_push() {
        let tags =
            |query: &str| tags_of(Some(query)).map(|tags| tags.iter().map(|tag| tag.to_string()).collect::<Vec<_>>());
        assert_eq!(tags_of(None), Ok(Vec::new()));
        assert_eq!(tags(""), Ok(Vec::new()));
        assert_eq!(tags("tag=b&tag=a&tag=b"), Ok(vec!["a".into(), "b".into()]));
        for query in ["tag", "tag=", "tag=a%62", "t%61g=a", "TAG=a", "tag=a&x=1", "tag=a;tag=b", "tag=a+b", "digest=x"]
        {
            assert!(tags(query).is_err(), "{query}");
        }
        let many = |count: usize| (0..count).map(|n| format!("tag=t{n}")).collect::<Vec<_>>().join("&");
        assert!(tags(&many(MAX_TAGS)).is_ok());
        assert!(tags(&many(MAX_TAGS + 1)).is_err());
    }
}
