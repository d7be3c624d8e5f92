//! Lists that come in pages: the tags of a repository, the repositories of a registry.
//!
//! Registries differ in all of it (some ignore `n`, some do not sort, some point back to where one came from), so a list is a
//! set, pages are counted, and where a list goes on is only believed within the registry that was asked.

use std::collections::{BTreeSet, HashSet};

use reqwest::header::{HeaderMap, HeaderValue, LINK};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::token::Scope;
use super::{AskError, Registry, error_code, read, unusable};
use crate::ledger::names::Repository;

/// Names asked for at a time; a registry may give fewer, or more.
const PAGE_SIZE: usize = 1000;
/// Longest page that is read: a registry that does not page gives all in one.
const MAX_PAGE_LENGTH: usize = 32 << 20;
/// Most names of a list.
const MAX_NAMES: usize = 2_000_000;
/// The longest of them, in bytes: a repository has at most 255 characters with its registry (distribution-spec, "Pulling manifests"), a tag
/// 128. Together they bound what a list takes in memory.
pub const MAX_NAME_LENGTH: usize = 255;
/// Most bytes of all names of a list.
const MAX_NAMES_LENGTH: usize = 128 << 20;
/// Pages in a row that may bring nothing new; registries that hide what one may not see give empty ones.
const MAX_PAGES_WITHOUT_NEWS: usize = 3;

/// What a registry lists.
#[derive(Debug, Default)]
pub(in crate::edge) struct Listing {
    /// As the registry writes them.
    pub(in crate::edge) names: BTreeSet<String>,
    /// Why there may be more.
    pub(in crate::edge) broken: Option<AskError>,
}

#[derive(Deserialize)]
struct Page {
    /// `null` for a repository without tags.
    #[serde(alias = "repositories")]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// The tags of a repository; none, if the registry says that there is no such repository. `lent` as for a look.
    pub(in crate::edge) async fn tags(&self, repository: &Repository, lent: Option<&HeaderValue>) -> Listing {
        let url = format!("{}/v2/{repository}/tags/list?n={PAGE_SIZE}", self.access.base);
        self.list(&url, &Scope::Pull(repository.clone()), lent).await
    }

    /// The repositories that the registry lists.
    pub(in crate::edge) async fn repositories(&self) -> Listing {
        let url = format!("{}/v2/_catalog?n={PAGE_SIZE}", self.access.base);
        self.list(&url, &Scope::Catalogue, None).await
    }

    async fn list(&self, url: &str, scope: &Scope, lent: Option<&HeaderValue>) -> Listing {
        let mut listing = Listing::default();
        if let Err(error) = self.fill(&mut listing.names, url, scope, lent).await {
            listing.broken = Some(error);
        }
        listing
    }

    async fn fill(
        &self,
        names: &mut BTreeSet<String>,
        url: &str,
        scope: &Scope,
        lent: Option<&HeaderValue>,
    ) -> Result<(), AskError> {
        let refused = |reason: &str| AskError::Refused(reason.to_owned());
        let mut url: Url = url.parse().map_err(|_| refused("its address makes no URL"))?;
        let (mut visited, mut without_news, mut length) = (HashSet::new(), 0, 0);
        loop {
            if visited.len() >= self.settings.pages {
                return Err(AskError::Refused(format!("its list does not end: {} pages were read", visited.len())));
            }
            if !visited.insert(url.clone()) {
                return Err(refused("its list does not end: it leads back to a page that was read"));
            }
            let response = self.send(Method::GET, url.as_str(), scope, &HeaderMap::new(), lent).await?;
            let status = response.status();
            let next = next_page(&url, response.headers());
            if status == StatusCode::NOT_FOUND && matches!(scope, Scope::Pull(_)) {
                let body = read(response, super::MAX_ERROR_LENGTH).await?;
                return match error_code(&body).as_deref() {
                    // Distribution forgets a repository whose last tag is gone.
                    Some("NAME_UNKNOWN" | "NOT_FOUND") => Ok(()),
                    _ => Err(super::no_registry()),
                };
            }
            if status != StatusCode::OK {
                return Err(unusable(status));
            }
            let page = read(response, MAX_PAGE_LENGTH).await?;
            let before = names.len();
            add(names, &mut length, &page)?;
            without_news = if names.len() > before { 0 } else { without_news + 1 };
            match next? {
                None => return Ok(()),
                Some(_) if without_news >= MAX_PAGES_WITHOUT_NEWS => {
                    return Err(refused("its list does not end: page after page brings nothing new"));
                }
                Some(next) => url = next,
            }
        }
    }
}

/// Adds the names of a page, within bounds: `length` is that of all names so far.
pub fn add(names: &mut BTreeSet<String>, length: &mut usize, page: &[u8]) -> Result<(), AskError> {
    let no_list = |_| AskError::Refused("it answers with something else than a list".to_owned());
    let page: Page = serde_json::from_slice(page).map_err(no_list)?;
    for name in page.tags.unwrap_or_default() {
        if name.len() > MAX_NAME_LENGTH {
            return Err(AskError::Refused(format!("it lists a name of {} bytes, which none may have", name.len())));
        }
        *length += name.len();
        names.insert(name);
        if names.len() > MAX_NAMES || *length > MAX_NAMES_LENGTH {
            return Err(AskError::Refused(format!(
                "its list has more than {MAX_NAMES} names, or {MAX_NAMES_LENGTH} bytes of them"
            )));
        }
    }
    Ok(())
}

/// Where a list goes on (RFC 8288; distribution-spec, "Listing Tags").
pub fn next_page(url: &Url, headers: &HeaderMap) -> Result<Option<Url>, AskError> {
    let target = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_target);
    let Some(target) = target else { return Ok(None) };
    let next =
        url.join(target).map_err(|_| AskError::Refused("its list goes on at something that is no URL".into()))?;
    if next.origin() != url.origin() || !next.username().is_empty() || next.password().is_some() {
        let elsewhere = next.host_str().unwrap_or_default();
        return Err(AskError::Refused(format!("its list goes on at another address, {elsewhere}, which is not asked")));
    }
    Ok(Some(next))
}

/// The target of the link whose relation is `next`.
fn next_target(links: &str) -> Option<&str> {
    let mut rest = links;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        // Its parameters reach to the next link.
        let parameters = after.split_once('<').map_or(after, |(parameters, _)| parameters);
        let is_next =
            parameters.split([';', ',']).filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        for (links, expected) in [
            ("</v2/a/tags/list?last=b&n=5>; rel=\"next\"", Some("/v2/a/tags/list?last=b&n=5")),
            ("</x>; rel=prev, </y?a=1,2>; rel=next", Some("/y?a=1,2")),
            ("</x>;rel=\"Next\";title=\"more\"", Some("/x")),
            ("</x>; rel=prev", None),
            ("</x>", None),
            ("</x", None),
            ("", None),
        ] {
            assert_eq!(next_target(links), expected, "{links}");
        }
    }

    #[test]
    fn a_list_is_bounded_in_what_it_takes() {
        let mut names = BTreeSet::new();
        let mut length = 0;
        let page = |names: &[String]| serde_json::json!({ "tags": names }).to_string();
        let add = |names: &mut BTreeSet<String>, length: &mut usize, page: String| add(names, length, page.as_bytes());
        assert!(add(&mut names, &mut length, page(&["a".repeat(255), "b".into()])).is_ok());
        let refused = add(&mut names, &mut length, page(&["c".into(), "d".repeat(256)])).expect_err("too long");
        assert!(matches!(refused, AskError::Refused(reason) if reason.contains("256 bytes")));
        assert_eq!((names.len(), length), (3, 257), "what came before it stays");
        length = MAX_NAMES_LENGTH;
        assert!(add(&mut names, &mut length, page(&["e".into()])).is_err());
    }

    #[test]
    fn a_list_goes_on_within_its_registry_only() {
        let url: Url = "http://r.example:5000/v2/a/tags/list?n=5".parse().expect("a URL");
        let next = |link: &str| {
            let headers = HeaderMap::from_iter([(LINK, format!("<{link}>; rel=next").parse().expect("a header"))]);
            next_page(&url, &headers).map(|next| next.map(|next| next.to_string()))
        };
        assert_eq!(next("?last=b").ok().flatten().as_deref(), Some("http://r.example:5000/v2/a/tags/list?last=b"));
        assert_eq!(next("/v2/x").ok().flatten().as_deref(), Some("http://r.example:5000/v2/x"));
        for elsewhere in
            ["http://r.example/v2/x", "https://r.example:5000/", "//evil.example/", "http://u:p@r.example:5000/"]
        {
            assert!(matches!(next(elsewhere), Err(AskError::Refused(_))), "{elsewhere}");
        }
    }
}
