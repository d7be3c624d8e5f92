//! What is protected, by the last policy seen: all that is known while the ledger can't be reached.

use std::sync::RwLock;

use serde::Deserialize;

use crate::ledger::names::{Registry, Repository, TagRef};
use crate::ledger::policy::{Change, Outlook, Policy};

/// What passes while the ledger can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unreachable {
    /// What changes no protected tag.
    #[default]
    Protect,
    /// Nothing that changes a tag.
    Refuse,
    /// Everything.
    Pass,
}

/// The last policy seen.
#[derive(Default)]
pub(super) struct Protection(RwLock<Option<Policy>>);

impl Protection {
    pub(super) fn saw(&self, policy: Policy) {
        *self.0.write().expect("nobody panics while holding it") = Some(policy);
    }

    /// Whether a rule may stand against a change of this tag. Before any policy was seen, one may.
    pub(super) fn covers(&self, tag: &TagRef) -> bool {
        let seen = self.0.read().expect("nobody panics while holding it");
        let may_forbid = |policy: &Policy, change| {
            matches!(policy.outlook(tag, change), Outlook::ForbiddenBy(_) | Outlook::NeedsPromotion(_))
        };
        seen.as_ref().is_none_or(|policy| Change::ALL.into_iter().any(|change| may_forbid(policy, change)))
    }

    /// Whether a rule may stand against the deletion of some tag of a repository. Before any policy was seen, one may.
    pub(super) fn covers_some(&self, registry: &Registry, repository: &Repository) -> bool {
        let seen = self.0.read().expect("nobody panics while holding it");
        seen.as_ref().is_none_or(|policy| policy.may_forbid_within(registry, repository, Change::Delete))
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.read().expect("nobody panics while holding it").is_some()
    }
}

impl Unreachable {
    /// Whether a change may pass unrecorded. `tag`: of which tag; none: of whatever tags a manifest has.
    pub(super) fn lets_pass(self, protection: &Protection, tag: Option<&TagRef>) -> bool {
        match self {
            Self::Protect => tag.is_some_and(|tag| !protection.covers(tag)),
            Self::Refuse => false,
            Self::Pass => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_a_policy_was_seen_everything_is_protected_and_then_what_it_says() {
        let protection = Protection::default();
        let [fixed, free] = ["r/app:v1", "r/app:latest"].map(|name| name.parse::<TagRef>().expect("a tag"));
        let passes = |protection: &Protection, tag| Unreachable::Protect.lets_pass(protection, tag);
        assert!(!passes(&protection, Some(&fixed)) && !passes(&protection, Some(&free)));
        assert!(protection.covers_some(&fixed.registry, &fixed.repository));
        protection.saw(Policy::parse("[[rule]]\nid = 'v'\nrepositories = ['app']\ntags = ['v*']\n").expect("a policy"));
        assert!(!passes(&protection, Some(&fixed)) && passes(&protection, Some(&free)) && !passes(&protection, None));
        assert!(!Unreachable::Refuse.lets_pass(&protection, Some(&free)));
        let covers_some = |repository: &str| {
            let repository = Repository::parse(&fixed.registry, repository).expect("a repository");
            protection.covers_some(&fixed.registry, &repository)
        };
        assert!(covers_some("app") && !covers_some("other"));
        assert!(
            Unreachable::Pass.lets_pass(&protection, Some(&fixed)) && Unreachable::Pass.lets_pass(&protection, None)
        );
    }
}
