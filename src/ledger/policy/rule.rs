//! Rules: which tags one is about, and what it says to a change of them.

use std::collections::HashSet;

use super::document::{Document, RuleText};
use super::pattern::{Glob, glob};
use super::regex::{Regex, regex};
use super::{MAX_GLOB_SIZE, MAX_ID_LENGTH, MAX_REGEX_SIZE, MAX_RULES, PolicyError};

/// What may happen to a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was never bound and now is, or it comes back as what it was.
    Create,
    /// It is bound, and is to be bound to another digest.
    Overwrite,
    /// It is unbound, and comes back with another digest than it last had.
    Recreate,
    /// It is bound, and is to be unbound.
    Delete,
}

/// A rule that can be decided by.
#[derive(Debug)]
pub struct Rule {
    pub(super) id: String,
    pub(super) registries: Names,
    pub(super) repositories: Names,
    pub(super) tags: Names,
    pub(super) says: Says,
}

/// Which names are meant: those that one of the first matches, or all if there are none, but for those that one of the last
/// matches.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) patterns: Vec<Glob>,
    pub(super) regexes: Vec<Regex>,
    pub(super) excluding_patterns: Vec<Glob>,
    pub(super) excluding_regexes: Vec<Regex>,
}

/// What a rule says.
#[derive(Debug)]
pub enum Says {
    /// These changes are forbidden.
    Forbid(Vec<Change>),
    /// These changes are allowed, whatever later rules say.
    Allow(Vec<Change>),
    /// A tag may only be pointed to a digest that a tag with one of these patterns carried before.
    PromotedFrom(Vec<Glob>),
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Create, Self::Overwrite, Self::Recreate, Self::Delete];

    /// Its place among them.
    pub(super) fn place(self) -> usize {
        self as usize
    }

    /// As a policy has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Overwrite => "overwrite",
            Self::Recreate => "recreate",
            Self::Delete => "delete",
        }
    }
}

impl Says {
    /// Whether it says anything about a change.
    pub(super) fn speaks_of(&self, change: Change) -> bool {
        match self {
            Self::Forbid(changes) | Self::Allow(changes) => changes.contains(&change),
            Self::PromotedFrom(_) => change != Change::Delete,
        }
    }
}

impl Rule {
    /// Its name in the entries it decides.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it says.
    pub fn says(&self) -> &Says {
        &self.says
    }

    /// The characters of its patterns once alternatives are written out.
    fn glob_size(&self) -> usize {
        let names = [&self.registries, &self.repositories, &self.tags];
        let globs = names.into_iter().flat_map(|names| names.patterns.iter().chain(&names.excluding_patterns));
        let sources: &[Glob] = if let Says::PromotedFrom(sources) = &self.says { sources } else { &[] };
        globs.chain(sources).map(|glob| glob.size).sum()
    }
}

/// The rules of a document, or the first thing that is wrong with them.
pub(super) fn rules(document: &Document) -> Result<Vec<Rule>, PolicyError> {
    if document.rule.len() > MAX_RULES {
        return Err(PolicyError::TooMany(document.rule.len()));
    }
    let mut ids = HashSet::new();
    let mut rules = Vec::with_capacity(document.rule.len());
    for written in &document.rule {
        let rule = Rule::new(written)?;
        if !ids.insert(&written.id) {
            return Err(PolicyError::DuplicateId(rule.id));
        }
        rules.push(rule);
    }
    let globs = rules.iter().map(Rule::glob_size).sum();
    if globs > MAX_GLOB_SIZE {
        return Err(PolicyError::PatternSize(globs));
    }
    // An expression that many rules have is looked for once in a name.
    let different = |names: fn(&Rule) -> &Names| {
        let names = rules.iter().map(names);
        let expressions: HashSet<_> =
            names.flat_map(|names| names.regexes.iter().chain(&names.excluding_regexes)).collect();
        expressions.into_iter().map(|regex| regex.size).sum::<usize>()
    };
    let regexes = different(|rule| &rule.repositories) + different(|rule| &rule.tags);
    if regexes > MAX_REGEX_SIZE { Err(PolicyError::RegexSize(regexes)) } else { Ok(rules) }
}

impl Rule {
    fn new(written: &RuleText) -> Result<Self, PolicyError> {
        let id = &written.id;
        if id.is_empty() || id.len() > MAX_ID_LENGTH || !id.chars().all(|character| character.is_ascii_graphic()) {
            return Err(PolicyError::Id(id.clone()));
        }
        let list = Lists { id };
        Ok(Self {
            id: id.clone(),
            registries: Names {
                patterns: list.globs("registries", &written.registries)?,
                excluding_patterns: list.globs("registries_excluding", &written.registries_excluding)?,
                ..Names::default()
            },
            repositories: Names {
                patterns: list.globs("repositories", &written.repositories)?,
                regexes: list.regexes("repositories_regex", &written.repositories_regex)?,
                excluding_patterns: list.globs("repositories_excluding", &written.repositories_excluding)?,
                excluding_regexes: list
                    .regexes("repositories_excluding_regex", &written.repositories_excluding_regex)?,
            },
            tags: Names {
                patterns: list.globs("tags", &written.tags)?,
                regexes: list.regexes("tags_regex", &written.tags_regex)?,
                excluding_patterns: list.globs("tags_excluding", &written.tags_excluding)?,
                excluding_regexes: list.regexes("tags_excluding_regex", &written.tags_excluding_regex)?,
            },
            says: list.says(written)?,
        })
    }
}

/// Reads the lists of one rule.
struct Lists<'a> {
    id: &'a str,
}

impl Lists<'_> {
    fn says(&self, written: &RuleText) -> Result<Says, PolicyError> {
        match (&written.forbid, &written.allow, &written.promoted_from) {
            // What immutable means wherever a registry knows the word.
            (None, None, None) => Ok(Says::Forbid(vec![Change::Overwrite, Change::Recreate, Change::Delete])),
            (Some(changes), None, None) => Ok(Says::Forbid(self.changes("forbid", changes)?)),
            (None, Some(changes), None) => Ok(Says::Allow(self.changes("allow", changes)?)),
            (None, None, Some(_)) => Ok(Says::PromotedFrom(self.globs("promoted_from", &written.promoted_from)?)),
            _ => {
                Err(self
                    .refuse("has more than one of forbid, allow and promoted_from; write a rule for each".to_owned()))
            }
        }
    }

    fn changes(&self, field: &str, words: &[String]) -> Result<Vec<Change>, PolicyError> {
        let known = || Change::ALL.map(Change::word).join(", ");
        let change = |word: &String| {
            let change = Change::ALL.into_iter().find(|change| change.word() == word);
            change.ok_or_else(|| self.refuse(format!("{field} has {word:?}; it may have {}", known())))
        };
        if words.is_empty() {
            return Err(self.refuse(format!("{field} is empty; it may have {}", known())));
        }
        words.iter().map(change).collect()
    }

    fn globs(&self, field: &'static str, list: &Option<Vec<String>>) -> Result<Vec<Glob>, PolicyError> {
        self.each(field, list, glob)
    }

    fn regexes(&self, field: &'static str, list: &Option<Vec<String>>) -> Result<Vec<Regex>, PolicyError> {
        self.each(field, list, regex)
    }

    /// An empty list would match nothing, or everything: whoever wrote it did not mean either.
    fn each<T>(
        &self,
        field: &'static str,
        list: &Option<Vec<String>>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, PolicyError> {
        let Some(list) = list else { return Ok(Vec::new()) };
        if list.is_empty() {
            return Err(self.refuse(format!("{field} is empty; leave it out to mean all")));
        }
        let one = |pattern: &String| {
            read(pattern).map_err(|problem| PolicyError::Pattern {
                rule: self.id.to_owned(),
                field,
                pattern: pattern.clone(),
                problem,
            })
        };
        list.iter().map(one).collect()
    }

    fn refuse(&self, problem: String) -> PolicyError {
        PolicyError::Says { rule: self.id.to_owned(), problem }
    }
}
