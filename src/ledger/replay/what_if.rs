//! What another policy would have made of a log: every statement judged by it beside the one that was in force.
//!
//! Each is judged against the states that the log really had then, not against those that the other policy would have led to:
//! the question is which of the changes that happened it would have refused, and which that were refused it would have let pass.

use std::collections::BTreeMap;

use crate::ledger::names::{Digest, TagRef};
use crate::ledger::policy::Policy;
use crate::ledger::statement::Statement;
use crate::ledger::subject::{Subject, tag_of};
use crate::ledger::transition::{Step, Touch};
use crate::proto::{self, Outcome};

/// Most judgements that are kept; the others are counted.
pub const MAX_KEPT: usize = 1000;

/// Another policy, and what it would have made of what was replayed.
#[derive(Debug, Clone)]
pub struct WhatIf {
    pub(super) policy: Policy,
    /// Statements about tags.
    pub statements: u64,
    /// How many of them it would have judged otherwise.
    pub otherwise: u64,
    /// The first of them.
    pub judgements: Vec<Judgement>,
    /// What tags are bound to.
    pub bound: BTreeMap<TagRef, Digest>,
}

/// A statement that it would have judged otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Its (first) entry.
    pub index: u64,
    /// When it was recorded.
    pub recorded_at_us: u64,
    /// A word for what it is.
    pub verb: &'static str,
    /// The tag, or for a deletion by digest the digest.
    pub about: String,
    /// What came of it.
    pub was: Outcome,
    /// The rule that decided; may be empty.
    pub was_by: String,
    /// What would have.
    pub would_be: Outcome,
    /// By which rule; may be empty.
    pub would_be_by: String,
    /// Why.
    pub detail: String,
}

impl WhatIf {
    /// Nothing is judged yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, statements: 0, otherwise: 0, judgements: Vec::new(), bound: BTreeMap::new() }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn compare(&mut self, record: &proto::Record, statement: &Statement, was: &Step, would_be: &Step) {
        let about_tags = was.touches.iter().any(|touch| matches!(touch.subject, Subject::Tag(_)));
        if !about_tags {
            return;
        }
        self.statements += 1;
        if was.outcome == would_be.outcome {
            return;
        }
        self.otherwise += 1;
        if self.judgements.len() < MAX_KEPT {
            let digest = || crate::ledger::subject::digest_of(statement).map(Digest::to_string).unwrap_or_default();
            self.judgements.push(Judgement {
                index: record.index,
                recorded_at_us: record.recorded_at_us,
                verb: statement.verb(),
                about: tag_of(statement).map_or_else(digest, |tag| tag.to_string()),
                was: was.outcome,
                was_by: was.rule.clone(),
                would_be: would_be.outcome,
                would_be_by: would_be.rule.clone(),
                detail: would_be.detail.clone(),
            });
        }
    }

    pub(super) fn touch(&mut self, touch: &Touch) {
        let Subject::Tag(tag) = &touch.subject else { return };
        match touch.after.digest() {
            Some(digest) => self.bound.insert(tag.clone(), digest.clone()),
            None => self.bound.remove(tag),
        };
    }
}
