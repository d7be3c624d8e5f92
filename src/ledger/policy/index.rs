//! Which of many rules match a tag: a set of rules is a row of bits, and every pattern knows the rules it stands in.
//!
//! The names of each kind are matched against all patterns of that kind at once, so the cost grows with what matches, not
//! with what is written. Patterns that stand in many rules are there once.

use std::collections::HashMap;
use std::sync::OnceLock;

use regex::bytes::{RegexSet, RegexSetBuilder};

use super::machine::Machine;
use super::pattern::Glob;
use super::rule::{Change, Names, Rule, Says};
use crate::ledger::statement::TagName;

/// Bytes that the compiled expressions of a policy may take. The bound on their size keeps them far below it.
const REGEX_BYTES: usize = 256 << 20;

/// The rules of a policy, ready to be looked up.
#[derive(Debug)]
pub(super) struct Index {
    /// Rules that say something about a change, by its place in [`Change::ALL`].
    speaking: [RuleSet; 4],
    registries: Matcher,
    repositories: Matcher,
    tags: Matcher,
    /// Where a rule demands a promotion: the patterns of the tags it is from, by the rule's position.
    promotions: HashMap<usize, OnceLock<Machine>>,
}

/// Some of the rules, a bit for each by its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleSet(Vec<u64>);

/// The rules that a name of one kind may belong to.
#[derive(Debug)]
struct Matcher {
    /// Rules that mean every name of the kind.
    always: RuleSet,
    globs: Machine,
    glob_rules: Vec<Owners>,
    regexes: Option<RegexSet>,
    regex_rules: Vec<Owners>,
    excludes: bool,
}

/// The rules that a pattern stands in.
#[derive(Debug)]
struct Owners {
    including: RuleSet,
    excluding: RuleSet,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let promotion = |(position, rule): (usize, &Rule)| match rule.says {
            Says::PromotedFrom(_) => Some((position, OnceLock::new())),
            Says::Forbid(_) | Says::Allow(_) => None,
        };
        let speaking = Change::ALL.map(|change| {
            let mut speaking = RuleSet::none(rules.len());
            let speak = rules.iter().enumerate().filter(|(_, rule)| rule.says.speaks_of(change));
            speak.for_each(|(position, _)| speaking.add(position));
            speaking
        });
        Self {
            speaking,
            registries: Matcher::new(rules, |rule| &rule.registries),
            repositories: Matcher::new(rules, |rule| &rule.repositories),
            tags: Matcher::new(rules, |rule| &rule.tags),
            promotions: rules.iter().enumerate().filter_map(promotion).collect(),
        }
    }

    /// The positions of the rules that are about a tag and say something about the change, in order.
    pub(super) fn of(&self, tag: &TagName, change: Change) -> impl Iterator<Item = usize> {
        let mut rules = self.speaking[change.place()].clone();
        for (matcher, name) in [
            (&self.repositories, tag.repository.as_str()),
            (&self.tags, tag.tag.as_str()),
            (&self.registries, tag.registry.as_str()),
        ] {
            if rules.is_empty() {
                break;
            }
            rules.keep(&matcher.of(name));
        }
        rules.into_positions()
    }

    /// The positions of the rules that are about some tag of a repository, and say something about the change, in order.
    pub(super) fn within(&self, registry: &str, repository: &str, change: Change) -> impl Iterator<Item = usize> {
        let mut rules = self.speaking[change.place()].clone();
        rules.keep(&self.repositories.of(repository));
        rules.keep(&self.registries.of(registry));
        rules.into_positions()
    }

    /// Whether a tag is one that the rule in this position promotes from.
    pub(super) fn promotes_from(&self, position: usize, patterns: &[Glob], tag: &str) -> bool {
        !self.promotions[&position].get_or_init(|| Machine::new(patterns)).matches(tag).is_empty()
    }
}

impl Matcher {
    fn new(rules: &[Rule], names: impl Fn(&Rule) -> &Names) -> Self {
        let none = RuleSet::none(rules.len());
        let mut always = none.clone();
        let mut patterns: Owned<Glob> = Owned::new(&none);
        let mut regexes: Owned<String> = Owned::new(&none);
        let mut excludes = false;
        for (position, rule) in rules.iter().enumerate() {
            let names = names(rule);
            if names.patterns.is_empty() && names.regexes.is_empty() {
                always.add(position);
            }
            for glob in &names.patterns {
                patterns.owners(&glob.text, || glob.clone()).including.add(position);
            }
            for regex in &names.regexes {
                regexes.owners(&regex.canonical, || regex.canonical.clone()).including.add(position);
            }
            for glob in &names.excluding_patterns {
                patterns.owners(&glob.text, || glob.clone()).excluding.add(position);
            }
            for regex in &names.excluding_regexes {
                regexes.owners(&regex.canonical, || regex.canonical.clone()).excluding.add(position);
            }
            excludes |= !names.excluding_patterns.is_empty() || !names.excluding_regexes.is_empty();
        }
        let set = (!regexes.patterns.is_empty()).then(|| {
            let set = RegexSetBuilder::new(&regexes.patterns).unicode(false).size_limit(REGEX_BYTES).build();
            set.expect("canonical expressions of bounded size compile")
        });
        Self {
            always,
            globs: Machine::new(&patterns.patterns),
            glob_rules: patterns.owners,
            regexes: set,
            regex_rules: regexes.owners,
            excludes,
        }
    }

    fn of(&self, name: &str) -> RuleSet {
        let mut rules = self.always.clone();
        let found = self.globs.matches(name);
        let globs = found.iter().map(|&at| &self.glob_rules[at]);
        let regexes: Vec<usize> =
            self.regexes.as_ref().map_or(Vec::new(), |set| set.matches(name.as_bytes()).iter().collect());
        let matching: Vec<&Owners> = globs.chain(regexes.iter().map(|&at| &self.regex_rules[at])).collect();
        matching.iter().for_each(|owners| rules.join(&owners.including));
        if self.excludes {
            matching.iter().for_each(|owners| rules.drop(&owners.excluding));
        }
        rules
    }
}

/// Patterns, each once, with the rules they stand in.
struct Owned<T> {
    places: HashMap<String, usize>,
    patterns: Vec<T>,
    owners: Vec<Owners>,
    none: RuleSet,
}

impl<T> Owned<T> {
    fn new(none: &RuleSet) -> Self {
        Self { places: HashMap::new(), patterns: Vec::new(), owners: Vec::new(), none: none.clone() }
    }

    fn owners(&mut self, text: &str, pattern: impl Fn() -> T) -> &mut Owners {
        let place = *self.places.entry(text.to_owned()).or_insert_with(|| {
            self.patterns.push(pattern());
            self.owners.push(Owners { including: self.none.clone(), excluding: self.none.clone() });
            self.owners.len() - 1
        });
        &mut self.owners[place]
    }
}

impl RuleSet {
    fn none(rules: usize) -> Self {
        Self(vec![0; rules.div_ceil(64)])
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn add(&mut self, position: usize) {
        self.0[position / 64] |= 1 << (position % 64);
    }

    fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    fn drop(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
    }

    fn into_positions(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(at, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.wrapping_sub(1);
                (bit < 64).then(|| at * 64 + usize::try_from(bit).expect("below 64"))
            })
        })
    }
}
