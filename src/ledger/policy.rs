//! Which tags may not move: a list of patterns, and the text it is written in.
//!
//! A pattern is `registry/repository:tag`; `*` matches within one path component, `**` across components, `?` one
//! character, `{a,b}` alternatives. A tag that matches any of them may be created once; afterwards it may neither be moved
//! nor deleted, nor come back with another digest. The pattern itself is the rule's id in the entries it decides.
//!
//! A policy is a TOML document, `immutable = ["pattern", ...]`. Its text is what the log holds, and two policies are the same
//! if their texts are; so a list of patterns has one text, that of [`text_of`], which must never change.

use std::sync::OnceLock;

use globset::{Glob, GlobBuilder, GlobMatcher};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::names::Digest;
use super::statement::TagName;

/// Most patterns.
pub const MAX_RULES: usize = 1000;
/// Longest pattern, in bytes.
pub const MAX_PATTERN_LENGTH: usize = 512;
/// Longest text, in bytes: what fits into a statement.
pub const MAX_TEXT_LENGTH: usize = 15_000;

/// The rules of one text.
#[derive(Debug, Clone)]
pub struct Policy {
    text: String,
    digest: Digest,
    immutable: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: String,
    path: Matcher,
    tag: Matcher,
}

/// Compiles its pattern when it is first needed: whoever only reads a policy, a stranger's perhaps, does not pay for it.
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    glob: Glob,
    compiled: OnceLock<GlobMatcher>,
}

/// What the text may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    immutable: Vec<String>,
}

/// Why a policy is refused.
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
    /// Does not fit into a statement.
    #[error("the text of the policy is {0} bytes long; at most {MAX_TEXT_LENGTH} are allowed")]
    TooLong(usize),
    /// Would garble what shows it.
    #[error("the text of the policy contains the control character U+{0:04X}")]
    ControlCharacter(u32),
    /// Not TOML, or not what a policy may say.
    #[error("the text is not that of a policy: {0}")]
    Syntax(String),
}

impl PolicyError {
    /// A stable word for programs, as in `google.rpc.BadRequest`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoTag(_) | Self::Pattern { .. } => "INVALID_PATTERN",
            Self::TooMany(_) => "TOO_MANY",
            Self::TooLong(_) => "TOO_LONG",
            Self::ControlCharacter(_) => "CONTROL_CHARACTER",
            Self::Syntax(_) => "INVALID_FORMAT",
        }
    }
}

/// No rules: what is in force in a ledger whose policy was never changed.
impl Default for Policy {
    fn default() -> Self {
        Self { text: String::new(), digest: digest_of_text(""), immutable: Vec::new() }
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Policy {}

impl Policy {
    /// The policy of a list of patterns.
    pub fn new<S: AsRef<str>>(immutable: &[S]) -> Result<Self, PolicyError> {
        Self::of(text_of(immutable), immutable)
    }

    /// Reads a policy from its text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        check_text(text)?;
        let document: Document =
            toml::from_str(text).map_err(|error| PolicyError::Syntax(error.message().trim_end().to_owned()))?;
        Self::of(text.to_owned(), &document.immutable)
    }

    fn of<S: AsRef<str>>(text: String, immutable: &[S]) -> Result<Self, PolicyError> {
        if immutable.len() > MAX_RULES {
            return Err(PolicyError::TooMany(immutable.len()));
        }
        let immutable = immutable.iter().map(|pattern| Rule::new(pattern.as_ref())).collect::<Result<_, _>>()?;
        check_text(&text)?;
        Ok(Self { digest: digest_of_text(&text), text, immutable })
    }

    /// The text, as the log holds it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `sha256:` of the text: what the policy, as a subject, is bound to.
    pub fn digest(&self) -> &Digest {
        &self.digest
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

/// The one text of a list of patterns: nothing for none, else each on a line of its own, as a basic string of TOML.
pub fn text_of<S: AsRef<str>>(immutable: &[S]) -> String {
    if immutable.is_empty() {
        return String::new();
    }
    let mut text = "immutable = [\n".to_owned();
    for pattern in immutable {
        text.push_str("  \"");
        for character in pattern.as_ref().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                control if control.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(control))),
                plain => text.push(plain),
            }
        }
        text.push_str("\",\n");
    }
    text + "]\n"
}

fn check_text(text: &str) -> Result<(), PolicyError> {
    if text.len() > MAX_TEXT_LENGTH {
        return Err(PolicyError::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        Some(control) => Err(PolicyError::ControlCharacter(control.into())),
        None => Ok(()),
    }
}

fn digest_of_text(text: &str) -> Digest {
    format!("sha256:{}", hex::encode(Sha256::digest(text))).parse().expect("a digest in canonical form")
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
        let matcher = |text: &str| Matcher::new(text).map_err(refuse);
        Ok(Self { pattern: pattern.to_owned(), path: matcher(path)?, tag: matcher(tag)? })
    }
}

impl Matcher {
    /// A pattern of a path, or what is wrong with it.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        Ok(Self { glob: glob.map_err(|error| error.kind().to_string())?, compiled: OnceLock::new() })
    }

    /// Whether it matches all of a path.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| self.glob.compile_matcher()).is_match(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_pattern_that_is_accepted_can_be_matched_with(pattern in "[a-c*?\\[\\]{}!^,\\-\\\\/:.é漢\u{7f}]{1,24}:[a-c*?\\[\\]{}!,\\-\\\\é]{1,12}") {
            // It is compiled when it is first needed: too late to refuse it.
            if let Ok(policy) = Policy::new(&[&pattern]) {
                policy.immutable(&"a/b:c".parse().expect("a reference"));
                let read = Policy::parse(policy.text()).expect("its own text");
                prop_assert_eq!(&read.immutable[0].pattern, &pattern);
            }
        }
    }

    #[test]
    fn broken_patterns_are_refused_by_name() {
        for pattern in ["r/a", "r:5000/a", "latest", ":v1", "r/{a:v1", "r/a:[z"] {
            let error = Policy::new(&[pattern]).expect_err(pattern);
            assert!(error.to_string().contains(pattern), "{error}");
        }
    }

    #[test]
    fn a_list_of_patterns_has_one_text_which_reads_as_that_list() {
        assert_eq!(text_of::<&str>(&[]), "");
        let patterns = ["docker.io/library/**:v*", r"r/a\*:v1", "r/\"a\":v1", "r/\u{7f}\t:v1"];
        let text = concat!(
            "immutable = [\n",
            "  \"docker.io/library/**:v*\",\n",
            "  \"r/a\\\\*:v1\",\n",
            "  \"r/\\\"a\\\":v1\",\n",
            "  \"r/\\u007F\\u0009:v1\",\n",
            "]\n"
        );
        assert_eq!(text_of(&patterns), text);
        let (listed, read) = (Policy::new(&patterns).expect("patterns"), Policy::parse(text).expect("a policy"));
        assert_eq!(listed, read);
        assert_eq!(listed.digest(), read.digest());
        let rules = |policy: &Policy| policy.immutable.iter().map(|rule| rule.pattern.clone()).collect::<Vec<_>>();
        assert_eq!(rules(&read), patterns);
        assert_eq!(rules(&listed), patterns);
    }

    #[test]
    fn a_text_says_what_it_says_however_it_is_written() {
        for text in ["", "# nothing\n", "immutable = []", "\n\t\n"] {
            let policy = Policy::parse(text).expect(text);
            assert_eq!(policy.immutable(&"r/a:v1".parse().expect("a reference")), None);
            assert_eq!(policy == Policy::default(), text.is_empty(), "{text:?} is another text than none");
        }
        let policy = Policy::parse("immutable = ['r/a:*', \"r/b:*\"] # two\n").expect("a policy");
        assert_eq!(policy.immutable(&"r/b:v1".parse().expect("a reference")), Some("r/b:*"));
        // From another program: sha256sum of nothing.
        let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Policy::default().digest().as_str(), nothing);
        assert_eq!(Policy::default(), Policy::new::<&str>(&[]).expect("no patterns"));
    }

    #[test]
    fn what_is_no_policy_is_refused_with_the_reason() {
        let refused = |text: &str| Policy::parse(text).expect_err(text);
        for text in ["immutable", "immutable = 1", "immutable = [1]", "mutable = []", "[immutable]", "a = 'b'"] {
            assert!(matches!(refused(text), PolicyError::Syntax(_)), "{text}: {:?}", refused(text));
        }
        assert!(matches!(refused("immutable = []\nimmutable = []"), PolicyError::Syntax(_)));
        assert!(matches!(refused(&("immutable = ".to_owned() + &"[".repeat(14_000))), PolicyError::Syntax(_)));
        assert!(refused("mutable = []").to_string().contains("mutable"));
        assert!(matches!(refused("immutable = ['r/a']"), PolicyError::NoTag(_)));
        assert!(matches!(refused("immutable = ['r/a:[z']"), PolicyError::Pattern { .. }));
        assert_eq!(refused("# \r\n"), PolicyError::ControlCharacter(0x0d));
        assert_eq!(refused("# \u{85}\n"), PolicyError::ControlCharacter(0x85));
        let of_length = |length: usize| "#".repeat(length);
        assert!(Policy::parse(&of_length(MAX_TEXT_LENGTH)).is_ok());
        assert_eq!(refused(&of_length(MAX_TEXT_LENGTH + 1)), PolicyError::TooLong(15_001));
        let patterns = |count: usize| vec!["r/a:b"; count];
        assert!(Policy::new(&patterns(MAX_RULES)).is_ok());
        assert_eq!(Policy::new(&patterns(MAX_RULES + 1)), Err(PolicyError::TooMany(1001)));
        assert_eq!(Policy::new(&vec![format!("r/{}:v1", "a".repeat(500)); 40]), Err(PolicyError::TooLong(20_456)));
    }
}
