//! Which tags may not move: a list of patterns.
//!
//! A pattern is `registry/repository:tag`; `*` matches within one path component, `**` across components, `?` one
//! character, `{a,b}` alternatives. A tag that matches any of them may be created once; afterwards it may neither be moved
//! nor deleted, nor come back with another digest. The pattern itself is the rule's id in the entries it decides.

use globset::{GlobBuilder, GlobMatcher};

use super::statement::TagName;

/// Most patterns.
pub const MAX_RULES: usize = 1000;
/// Longest pattern, in bytes.
pub const MAX_PATTERN_LENGTH: usize = 512;

/// The rules in force.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    immutable: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: String,
    path: GlobMatcher,
    tag: GlobMatcher,
}

/// Why a list of patterns is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not `path:tag`.
    #[error(
        "immutable pattern {0:?} has no tag part; write registry/repository:tag, for instance \"docker.io/library/**:v*\""
    )]
    NoTag(String),
    /// Does not compile.
    #[error("immutable pattern {pattern:?}: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many.
    #[error("{0} immutable patterns; at most {MAX_RULES} are allowed")]
    TooMany(usize),
}

impl Policy {
    /// Compiles a list of patterns.
    pub fn new<S: AsRef<str>>(immutable: &[S]) -> Result<Self, PolicyError> {
        if immutable.len() > MAX_RULES {
            return Err(PolicyError::TooMany(immutable.len()));
        }
        let immutable = immutable.iter().map(|pattern| Rule::new(pattern.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { immutable })
    }

    /// The first rule that makes a tag immutable.
    pub fn immutable(&self, tag: &TagName) -> Option<&str> {
        if self.immutable.is_empty() {
            return None;
        }
        let path = format!("{}/{}", tag.registry, tag.repository);
        let matches = |rule: &&Rule| rule.path.is_match(&path) && rule.tag.is_match(tag.tag.as_str());
        self.immutable.iter().find(matches).map(|rule| rule.pattern.as_str())
    }
}

impl Rule {
    fn new(pattern: &str) -> Result<Self, PolicyError> {
        let refuse = |reason: String| PolicyError::Pattern { pattern: pattern.to_owned(), reason };
        if pattern.len() > MAX_PATTERN_LENGTH {
            return Err(refuse(format!("longer than {MAX_PATTERN_LENGTH} bytes")));
        }
        let no_tag = || PolicyError::NoTag(pattern.to_owned());
        let (path, tag) = pattern.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).ok_or_else(no_tag)?;
        if !path.contains('/') && path != "**" {
            return Err(no_tag());
        }
        let glob = |text: &str| {
            GlobBuilder::new(text)
                .literal_separator(true)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| refuse(error.kind().to_string()))
        };
        Ok(Self { pattern: pattern.to_owned(), path: glob(path)?, tag: glob(tag)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decides(pattern: &str, tag: &str) -> bool {
        Policy::new(&[pattern]).expect("compiles").immutable(&tag.parse().expect("a reference")).is_some()
    }

    #[test]
    fn patterns_match_whole_names_component_by_component() {
        assert!(decides("127.0.0.1:5000/team/**:v*", "127.0.0.1:5000/team/app:v1"));
        assert!(decides("127.0.0.1:5000/team/**:v*", "127.0.0.1:5000/team/a/b:v1"));
        assert!(!decides("127.0.0.1:5000/team/*:v*", "127.0.0.1:5000/team/a/b:v1"));
        assert!(!decides("127.0.0.1:5000/team/**:v*", "127.0.0.1:5000/team/app:latest"));
        assert!(!decides("127.0.0.1:5000/team/app:v1", "127.0.0.1:5000/team/app:v10"));
        assert!(decides("r/{a,b}:{v?,w}", "r/b:v2"));
        assert!(decides("**:v*", "r/a/b:v2"));
    }

    #[test]
    fn broken_patterns_are_refused_by_name() {
        for pattern in ["r/a", "r:5000/a", "latest", ":v1", "r/{a:v1", "r/a:[z"] {
            let error = Policy::new(&[pattern]).expect_err(pattern);
            assert!(error.to_string().contains(pattern), "{error}");
        }
    }
}
