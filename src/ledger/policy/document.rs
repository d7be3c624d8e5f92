//! What the text of a policy may say, and the text that says it.
//!
//! The text is TOML 1.0 without inline tables. The reader used here knows TOML 1.1; what that adds and a policy could use
//! (escapes `\e` and `\x`, line breaks in inline tables) is refused, so that readers of either version agree.

use serde::{Deserialize, Serialize};

use super::{MAX_TEXT_LENGTH, PolicyError};

/// A whole policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Whether tags that hang on a digest are judged by no rule; they are not, unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt_referrers: Option<bool>,
    /// The rules, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleText>,
}

/// One rule, as it is written. A list that is not there says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// Its name in the entries it decides.
    pub id: String,
    /// Patterns of registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries: Option<Vec<String>>,
    /// Patterns of registries that are not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries_excluding: Option<Vec<String>>,
    /// Patterns of repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Vec<String>>,
    /// Patterns of repositories that are not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repositories_excluding: Option<Vec<String>>,
    /// Regular expressions of repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repositories_regex: Option<Vec<String>>,
    /// Regular expressions of repositories that are not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repositories_excluding_regex: Option<Vec<String>>,
    /// Patterns of tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Patterns of tags that are not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags_excluding: Option<Vec<String>>,
    /// Regular expressions of tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags_regex: Option<Vec<String>>,
    /// Regular expressions of tags that are not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags_excluding_regex: Option<Vec<String>>,
    /// Changes that are forbidden.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forbid: Option<Vec<String>>,
    /// Changes that are allowed, whatever later rules say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Patterns of tags one of which has to have carried a digest before these may point to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promoted_from: Option<Vec<String>>,
}

impl Document {
    /// Reads the text of a policy. What its rules say is not looked at yet.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT_LENGTH {
            return Err(PolicyError::TooLong(text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            return Err(PolicyError::ControlCharacter(control.into()));
        }
        let document = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            PolicyError::Syntax(line + error.message().trim_end())
        })?;
        match newer_than_toml_1_0(text) {
            Some(problem) => Err(PolicyError::Syntax(problem)),
            None => Ok(document),
        }
    }

    /// A text that says this.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("strings, lists of strings and a flag")
    }
}

/// What of a TOML 1.1 document a reader of TOML 1.0 could not read. Only asked of documents that are TOML 1.1.
fn newer_than_toml_1_0(text: &str) -> Option<String> {
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'', '#', '{']) {
        rest = &rest[at..];
        let inside = match rest.as_bytes()[0] {
            b'{' => {
                return Some(format!(
                    "line {}: inline tables are not allowed; begin each rule with [[rule]]",
                    line_of(rest)
                ));
            }
            b'#' => {
                rest = rest.split_once('\n').map_or("", |(_, next)| next);
                continue;
            }
            _ if rest.starts_with("\"\"\"") => Quoted { quote: "\"\"\"", escapes: true },
            _ if rest.starts_with("'''") => Quoted { quote: "'''", escapes: false },
            b'"' => Quoted { quote: "\"", escapes: true },
            _ => Quoted { quote: "'", escapes: false },
        };
        let begin = rest;
        match inside.skip(rest) {
            Ok(after) => rest = after,
            Err(escape) => {
                return Some(format!("line {}: the escape \\{escape} is not one of TOML 1.0", line_of(begin)));
            }
        }
    }
    None
}

struct Quoted {
    quote: &'static str,
    escapes: bool,
}

impl Quoted {
    /// What comes after the string that `text` begins with, or the escape in it that TOML 1.0 does not know.
    fn skip<'a>(&self, text: &'a str) -> Result<&'a str, char> {
        let mut rest = &text[self.quote.len()..];
        while !rest.is_empty() {
            if self.escapes
                && let Some(escaped) = rest.strip_prefix('\\')
            {
                let mut characters = escaped.chars();
                if let Some(escape @ ('e' | 'x')) = characters.next() {
                    return Err(escape);
                }
                rest = characters.as_str();
            } else if let Some(mut after) = rest.strip_prefix(self.quote) {
                // A string of several lines may end in up to two more quotes, which belong to it.
                while self.quote.len() == 3 && after.starts_with(&self.quote[..1]) {
                    after = &after[1..];
                }
                return Ok(after);
            } else {
                let mut characters = rest.chars();
                characters.next();
                rest = characters.as_str();
            }
        }
        Ok(rest)
    }
}
