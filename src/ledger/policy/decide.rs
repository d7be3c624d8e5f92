//! The decision: what the rules say to a change of a tag.

use std::convert::Infallible;

use super::Policy;
use super::rule::{Change, Rule, Says};
use crate::ledger::names::{Registry, Repository, Tag};
use crate::ledger::referrer;
use crate::ledger::statement::TagName;

/// Why a change is forbidden.
#[derive(Debug, Clone, Copy)]
pub struct Forbidden<'a> {
    /// By which rule.
    pub rule: &'a Rule,
    /// Because the digest was not carried by a tag that the rule promotes from.
    pub lacks_promotion: bool,
}

/// One thing that a policy says of a tag, for whoever wants to know before anything happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook<'a> {
    /// No rule forbids it.
    Allowed,
    /// This rule allows it, whatever the later ones say.
    AllowedBy(&'a str),
    /// This rule forbids it.
    ForbiddenBy(&'a str),
    /// This rule forbids it unless the digest was carried before by a tag that it promotes from.
    NeedsPromotion(&'a str),
}

impl Policy {
    /// Whether some rule forbids a change of some tag of a repository. Which tags those are, and whether another rule allows it for all
    /// of them, is not looked into.
    pub fn may_forbid_within(&self, registry: &Registry, repository: &Repository, change: Change) -> bool {
        let mut within = self.index().within(registry.as_str(), repository.as_str(), change);
        within.any(|position| !matches!(self.rules()[position].says, Says::Allow(_)))
    }

    /// The first rule that forbids a change of a tag. `carried` has the tags of its repository that were ever bound to the digest
    /// that the tag is to be bound to; it is asked only if a promotion depends on it.
    pub fn forbids<E>(
        &self,
        tag: &TagName,
        change: Change,
        carried: impl Fn() -> Result<Vec<Tag>, E>,
    ) -> Result<Option<Forbidden<'_>>, E> {
        let mut known = None;
        for (position, rule) in self.about(tag, change) {
            match &rule.says {
                Says::Forbid(_) => return Ok(Some(Forbidden { rule, lacks_promotion: false })),
                Says::Allow(_) => return Ok(None),
                Says::PromotedFrom(patterns) => {
                    let sources = match &mut known {
                        Some(sources) => sources,
                        unknown => unknown.insert(carried()?),
                    };
                    let is_source = |tag: &Tag| self.index().promotes_from(position, patterns, tag.as_str());
                    if !sources.iter().any(is_source) {
                        return Ok(Some(Forbidden { rule, lacks_promotion: true }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the rules say to a change of a tag, whatever digest it is about.
    pub fn outlook(&self, tag: &TagName, change: Change) -> Outlook<'_> {
        let nothing_carried = || Ok::<_, Infallible>(Vec::new());
        let Ok(forbidden) = self.forbids(tag, change, nothing_carried);
        if let Some(Forbidden { rule, lacks_promotion }) = forbidden {
            return if lacks_promotion { Outlook::NeedsPromotion(rule.id()) } else { Outlook::ForbiddenBy(rule.id()) };
        }
        // What forbids nothing allows, or waits for a promotion, which was not there.
        let allowing = self.about(tag, change).find(|(_, rule)| matches!(rule.says, Says::Allow(_)));
        allowing.map_or(Outlook::Allowed, |(_, rule)| Outlook::AllowedBy(rule.id()))
    }

    /// The rules that are about a tag and say something about the change, in order, with their positions.
    fn about(&self, tag: &TagName, change: Change) -> impl Iterator<Item = (usize, &Rule)> {
        let is_exempt = self.exempts_referrers() && referrer::is_referrer(&tag.tag);
        let positions = (!self.rules().is_empty() && !is_exempt).then(|| self.index().of(tag, change));
        positions.into_iter().flatten().map(|position| (position, &self.rules()[position]))
    }
}
