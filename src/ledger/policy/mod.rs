//! The policy: which changes of tags are forbidden, by which rule.
//!
//! A policy is a TOML document (docs/POLICY.md; the exact language is appendix B of docs/SPEC.md). Its text is what the log
//! holds, and two policies are the same if their texts are. From outside in: `document` (what the text may say), `rule` (what
//! one rule says, and of which tags), `pattern`, `machine`, `regex` and `classes` (how a name is matched, within bounds that no
//! text can exceed), `index` (which of a thousand rules match a tag, in microseconds), `decide` (what they say to a change). [`import`] writes
//! policies from what registries export.

mod classes;
mod decide;
mod difference;
mod document;
pub mod import;
mod index;
mod machine;
mod pattern;
mod regex;
mod rule;

use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};

use super::names::Digest;
pub use decide::{Forbidden, Outlook};
pub use difference::difference;
pub use document::{Document, RuleText};
use index::Index;
pub use pattern::{MAX_POLICY_SIZE as MAX_GLOB_SIZE, Pattern};
pub use regex::MAX_POLICY_SIZE as MAX_REGEX_SIZE;
pub use rule::{Change, Rule, Says};

/// Most rules.
pub const MAX_RULES: usize = 1000;
/// Longest pattern or regular expression, in bytes.
pub const MAX_PATTERN_LENGTH: usize = 512;
/// Longest id of a rule, in bytes.
pub const MAX_ID_LENGTH: usize = 128;
/// Deepest nesting of alternatives in a pattern, or of groups in a regular expression.
pub const MAX_NESTING: usize = 16;
/// Longest text, in bytes: with it a statement, and the entry that holds it, stay below 65,535 bytes.
pub const MAX_TEXT_LENGTH: usize = 60_000;

/// The rules of one text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    text: String,
    digest: Digest,
    /// Tags that hang on a digest (`sha256-….sig`) are judged by no rule.
    exempt_referrers: bool,
    rules: Vec<Rule>,
    /// Made when it is first needed: whoever only reads a policy, a stranger's perhaps, does not pay for it.
    index: OnceLock<Index>,
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Does not fit into a statement.
    #[error("the text of the policy is {0} bytes long; at most {MAX_TEXT_LENGTH} are allowed")]
    TooLong(usize),
    /// Would garble what shows it.
    #[error("the text of the policy contains the control character U+{0:04X}; only line breaks and tabs are allowed")]
    ControlCharacter(u32),
    /// Not TOML, or not what a policy may say.
    #[error("the text is not that of a policy: {0}")]
    Syntax(String),
    /// Too many.
    #[error("{0} rules; at most {MAX_RULES} are allowed")]
    TooMany(usize),
    /// Two rules that no entry could tell apart.
    #[error("rule {0:?} is there twice; an entry names the rule that decided, so each id may be there once")]
    DuplicateId(String),
    /// Not an id.
    #[error("the id {0:?} of a rule is not 1 to {MAX_ID_LENGTH} printable ASCII characters without spaces")]
    Id(String),
    /// Says nothing, or several things at once.
    #[error("rule {rule:?}: {problem}")]
    Says {
        /// Its id.
        rule: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern that can't be matched with.
    #[error("rule {rule:?}: {field} has {pattern:?}: {problem}")]
    Pattern {
        /// Its id.
        rule: String,
        /// Which list it stands in.
        field: &'static str,
        /// The pattern, or the regular expression.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The patterns together could run away.
    #[error(
        "the patterns have {0} characters in all once alternatives are written out; at most {MAX_GLOB_SIZE} are allowed"
    )]
    PatternSize(usize),
    /// The regular expressions together could run away.
    #[error(
        "the different regular expressions have {0} characters in all once repetitions are written out; at most {MAX_REGEX_SIZE} are allowed"
    )]
    RegexSize(usize),
}

impl PolicyError {
    /// A stable word for programs, as in `google.rpc.BadRequest`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "TOO_LONG",
            Self::ControlCharacter(_) => "CONTROL_CHARACTER",
            Self::Syntax(_) => "INVALID_FORMAT",
            Self::TooMany(_) | Self::PatternSize(_) | Self::RegexSize(_) => "TOO_MANY",
            Self::DuplicateId(_) => "DUPLICATE_ID",
            Self::Id(_) => "INVALID_ID",
            Self::Says { .. } => "INVALID_RULE",
            Self::Pattern { .. } => "INVALID_PATTERN",
        }
    }
}

/// No rules: what is in force in a ledger whose policy was never set.
impl Default for Policy {
    fn default() -> Self {
        Self::parse("").expect("nothing is a policy without rules")
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Policy {}

impl Policy {
    /// Reads a policy from its text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let document = Document::parse(text)?;
        let rules = rule::rules(&document)?;
        Ok(Self(Arc::new(Inner {
            text: text.to_owned(),
            digest: digest_of_text(text),
            exempt_referrers: document.exempt_referrers.unwrap_or(true),
            rules,
            index: OnceLock::new(),
        })))
    }

    /// The text, as the log holds it.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// `sha256:` of the text: what the policy, as a subject, is bound to.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.0.rules
    }

    /// Whether tags that hang on a digest are judged by no rule.
    pub fn exempts_referrers(&self) -> bool {
        self.0.exempt_referrers
    }

    fn index(&self) -> &Index {
        self.0.index.get_or_init(|| Index::new(&self.0.rules))
    }
}

fn digest_of_text(text: &str) -> Digest {
    format!("sha256:{}", hex::encode(Sha256::digest(text))).parse().expect("a digest in canonical form")
}
