//! Policies for tests that need immutable tags and no more: a rule for each `registry/repository:tag`, which is its id too.

use tagledger::ledger::policy::{Document, RuleText};

/// The text of such a policy; of no patterns, that of a policy without rules.
pub(crate) fn immutable<S: AsRef<str>>(patterns: &[S]) -> String {
    let rule = |pattern: &S| {
        let (path, tag) = pattern.as_ref().rsplit_once(':').expect("registry/repository:tag");
        let of_one_registry = path.split_once('/').filter(|(registry, _)| *registry != "**");
        let (registry, repository) = of_one_registry.unwrap_or(("*", path));
        let list = |pattern: &str| Some(vec![pattern.to_owned()]);
        RuleText {
            id: pattern.as_ref().to_owned(),
            registries: list(registry),
            repositories: list(repository),
            tags: list(tag),
            ..RuleText::default()
        }
    };
    Document { rule: patterns.iter().map(rule).collect(), ..Document::default() }.to_text()
}
