//! Patterns: `*`, `**`, `?`, `{a,b}` and sets, matched against whole names component by component.
//!
//! `globset` does the matching. What is checked here first keeps it from accepting a pattern that it then can't compile, or
//! that a reader in another language would take in another way: appendix B of docs/SPEC.md has the rules.

use std::sync::OnceLock;

use globset::{Glob, GlobBuilder, GlobMatcher};

use super::{MAX_NESTING, MAX_PATTERN_LENGTH};

/// One pattern by itself. Compiles when it is first needed: whoever only reads it, a stranger's perhaps, does not pay for it.
#[derive(Debug, Clone)]
pub struct Pattern {
    glob: Glob,
    compiled: OnceLock<GlobMatcher>,
}

impl Pattern {
    /// A pattern, or what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(Self { glob: glob(text)?, compiled: OnceLock::new() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.glob.glob()
    }

    /// Whether it matches all of a name.
    pub fn is_match(&self, name: &str) -> bool {
        self.compiled.get_or_init(|| self.glob.compile_matcher()).is_match(name)
    }
}

/// A pattern that can be matched with, or what is wrong with it.
pub(super) fn glob(text: &str) -> Result<Glob, String> {
    check_characters(text)?;
    let (mut depth, mut characters) = (0usize, text.chars());
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next();
                if escaped.is_some_and(|escaped| escaped.is_ascii_alphanumeric()) {
                    return Err("only signs may be escaped, not letters and digits".to_owned());
                }
            }
            // A set takes what is in it as it is. Its first sign may be a `]`.
            '[' => {
                let set = characters.as_str();
                let set = set.strip_prefix(['!', '^']).unwrap_or(set);
                let end = set.char_indices().skip(1).find(|(_, sign)| *sign == ']');
                let Some((end, _)) = end else { return Err("a set does not end; write [abc]".to_owned()) };
                characters = set[end + 1..].chars();
            }
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(format!("alternatives are nested more than {MAX_NESTING} deep"));
        }
    }
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    glob.map_err(|error| error.kind().to_string())
}

/// Names are ASCII, so nothing else could match; and bytes are characters in every language.
pub(super) fn check_characters(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX_PATTERN_LENGTH {
        return Err(format!("is {} bytes long; at most {MAX_PATTERN_LENGTH} are allowed", text.len()));
    }
    match text.chars().find(|character| !character.is_ascii_graphic()) {
        Some(character) => Err(format!("has the character {character:?}, which no name has")),
        None => Ok(()),
    }
}
