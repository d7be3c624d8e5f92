//! Which repositories of a registry are scanned.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::ledger::names::{Registry, Repository};

/// Patterns of repositories to scan and to leave out: `*` within a component, `**` over several, `?`, `[a-z]`, `{a,b}`, as in the
/// ledger's own patterns.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Repositories that are named in full. They are scanned whether the registry lists them or not.
    named: Vec<Repository>,
    included: GlobSet,
    excluded: GlobSet,
    needs_catalogue: bool,
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a pattern of repositories: {reason}")]
pub struct ScopeError {
    pattern: String,
    reason: String,
}

impl Scope {
    /// The repositories that match one of the first patterns, or all if there are none, and none of the second.
    pub fn new(registry: &Registry, included: &[String], excluded: &[String]) -> Result<Self, ScopeError> {
        let named: Vec<Repository> =
            included.iter().filter_map(|pattern| Repository::parse(registry, pattern).ok()).collect();
        // The alphabet of patterns and that of names share no special character.
        let needs_catalogue = included.is_empty() || named.len() < included.len();
        let all = ["**".to_owned()];
        let included = if included.is_empty() { &all[..] } else { included };
        Ok(Self { named, included: globs(included)?, excluded: globs(excluded)?, needs_catalogue })
    }

    /// Whether the registry's catalogue has to be read: not if all repositories are named in full.
    pub(super) fn needs_catalogue(&self) -> bool {
        self.needs_catalogue
    }

    pub(super) fn named(&self) -> &[Repository] {
        &self.named
    }

    /// Whether a repository is to be scanned.
    pub(super) fn holds(&self, repository: &Repository) -> bool {
        let name = repository.as_str();
        self.included.is_match(name) && !self.excluded.is_match(name)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, ScopeError> {
    let refuse = |pattern: &str, error: globset::Error| ScopeError {
        pattern: pattern.to_owned(),
        reason: error.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob: Glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .empty_alternates(true)
            .build()
            .map_err(|error| refuse(pattern, error))?;
        set.add(glob);
    }
    set.build().map_err(|error| refuse(&patterns.join(" "), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        "r.example".parse().expect("canonical")
    }

    fn scope(included: &[&str], excluded: &[&str]) -> Result<Scope, ScopeError> {
        let owned = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>();
        Scope::new(&registry(), &owned(included), &owned(excluded))
    }

    #[test]
    fn patterns_say_which_repositories_are_scanned() {
        let holds = |included: &[&str], excluded: &[&str], name: &str| {
            scope(included, excluded).expect("patterns").holds(&Repository::parse(&registry(), name).expect("a name"))
        };
        assert!(holds(&[], &[], "a") && holds(&[], &[], "a/b/c"));
        assert!(holds(&["team/*"], &[], "team/app") && !holds(&["team/*"], &[], "team/app/x"));
        assert!(holds(&["team/**"], &[], "team/app/x") && !holds(&["team/**"], &[], "other/app"));
        assert!(holds(&["{a,b}/x"], &[], "b/x") && holds(&["a/x", "b/x"], &[], "b/x"));
        assert!(!holds(&["team/**"], &["team/tmp-*"], "team/tmp-1") && holds(&[], &["team/tmp-*"], "team/app"));
        let error = scope(&["team/[a"], &[]).expect_err("no pattern").to_string();
        assert!(error.contains("team/[a") && error.contains("is not a pattern"), "{error}");
    }

    #[test]
    fn the_catalogue_is_read_only_where_a_pattern_asks_for_it() {
        for (included, expected) in [(vec![], true), (vec!["a/b"], false), (vec!["a/b", "c/*"], true)] {
            assert_eq!(scope(&included, &[]).expect("patterns").needs_catalogue(), expected, "{included:?}");
        }
    }
}
