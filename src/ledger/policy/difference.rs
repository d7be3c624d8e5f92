//! What changes between two policies, rule by rule.

use std::collections::BTreeMap;

use super::Policy;
use super::document::{Document, RuleText};

/// What changes, in lines: `+` a rule that is new, `-` one that goes, `~` one that says something else.
pub fn difference(from: &Policy, to: &Policy) -> Vec<String> {
    let read = |policy: &Policy| Document::parse(policy.text()).expect("it was read before");
    let (old, new) = (read(from), read(to));
    let by_id = |document: &Document| -> BTreeMap<String, RuleText> {
        document.rule.iter().map(|rule| (rule.id.clone(), rule.clone())).collect()
    };
    let (old_rules, new_rules) = (by_id(&old), by_id(&new));
    let mut lines = Vec::new();
    if from.exempts_referrers() != to.exempts_referrers() {
        lines.push(format!("~ exempt_referrers: {} -> {}", from.exempts_referrers(), to.exempts_referrers()));
    }
    for rule in &old.rule {
        match new_rules.get(&rule.id) {
            None => lines.push(format!("- rule {}: {}", rule.id, says(rule))),
            Some(other) if other != rule => {
                lines.push(format!("~ rule {}: {} -> {}", rule.id, says(rule), says(other)));
            }
            Some(_) => {}
        }
    }
    let added = new.rule.iter().filter(|rule| !old_rules.contains_key(&rule.id));
    lines.extend(added.map(|rule| format!("+ rule {}: {}", rule.id, says(rule))));
    let order = |document: &Document, others: &BTreeMap<String, RuleText>| -> Vec<String> {
        document.rule.iter().map(|rule| rule.id.clone()).filter(|id| others.contains_key(id)).collect()
    };
    let (before, after) = (order(&old, &new_rules), order(&new, &old_rules));
    if before != after {
        lines.push(format!("~ order: {} -> {}", before.join(", "), after.join(", ")));
    }
    lines
}

/// A rule in one line, as its text has it, without the id.
fn says(rule: &RuleText) -> String {
    let document = Document { exempt_referrers: None, rule: vec![rule.clone()] };
    let text = document.to_text();
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with("[[rule]]")).skip(1).collect();
    if lines.is_empty() { "every tag is immutable".to_owned() } else { lines.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(text).expect(text)
    }

    #[test]
    fn rules_that_come_go_change_or_move_are_told_and_nothing_else() {
        let rule = |id: &str, rest: &str| format!("[[rule]]\nid = '{id}'\n{rest}\n");
        let old = policy(&(rule("a", "tags = ['v*']") + &rule("b", "") + &rule("c", "forbid = ['delete']")));
        let new = policy(&(rule("c", "forbid = ['delete']") + &rule("a", "tags = ['v*', 'w*']") + &rule("d", "")));
        let expected = [
            "~ rule a: tags = [\"v*\"] -> tags = [\"v*\", \"w*\"]",
            "- rule b: every tag is immutable",
            "+ rule d: every tag is immutable",
            "~ order: a, c -> c, a",
        ];
        assert_eq!(difference(&old, &new), expected);
        assert_eq!(difference(&old, &old), [""; 0]);
        let same = policy(&format!("# the same\n{}", old.text()));
        assert_eq!(difference(&old, &same), [""; 0], "comments say nothing");
        let told = difference(&Policy::default(), &policy("exempt_referrers = false"));
        assert_eq!(told, ["~ exempt_referrers: true -> false"]);
    }
}
