//! The rules: what a statement does to the ledger.
//!
//! [`transition`] is the whole state machine. From what is known of the subjects, the policy and a statement, it returns the
//! entries to record: outcome, reason, and the state of every subject afterwards. It touches nothing. The sequencer uses it
//! to plan a batch; whoever replays the log uses it to check one.
//!
//! | statement | tag is | outcome |
//! |---|---|---|
//! | any, disposition REFUSED | any | FAILED |
//! | push | bound to the same digest | UNCHANGED |
//! | push | new, or not immutable | APPLIED |
//! | push | immutable, bound, or unbound after another digest | DENIED if REQUESTED, VIOLATION if HAPPENED |
//! | push | immutable, unbound after the same digest | APPLIED |
//! | delete | unbound | UNCHANGED |
//! | delete | bound | APPLIED; immutable: DENIED if REQUESTED, VIOLATION if HAPPENED |
//! | delete of a manifest | none bound to it | UNCHANGED |
//! | delete of a manifest | some bound to it | as a delete of each, one outcome for all: none is unbound if one may not be |
//! | observation | as seen | UNCHANGED |
//! | observation | never bound | APPLIED |
//! | observation | otherwise | DRIFT; VIOLATION if immutable and a push or delete would be one |
//! | deployment naming a tag, not STOPPED | bound once, and now not to that digest | DRIFT |
//! | deployment | otherwise | UNCHANGED if the workload's state stays, else APPLIED |
//! | attestation | - | NOTED |
//! | policy change | (the policy) has this very text | UNCHANGED |
//! | policy change | (the policy) has another text, or was never changed | APPLIED |
//! | principal change | (the principal) is this already | UNCHANGED |
//! | principal change | (the principal) is another, or nobody | APPLIED |
//!
//! An applied policy change rules from the entry after its own on: whoever calls [`transition`] then calls it with that policy.
//! So does an applied principal change. Who may state what, and which principal changes are refused, is settled before
//! ([`super::principals`]).

use std::collections::HashMap;
use std::sync::Arc;

use super::names::{Digest, Registry, Repository, Tag};
use super::policy::Policy;
use super::principals::{Change, Principals};
use super::statement::{Disposition, Kind, Phase, Statement, TagName, Workload};
use super::subject::{Subject, SubjectKey};
use crate::proto::Outcome;

/// Most tags that one entry unbinds; a deletion that unbinds more becomes several entries.
/// 256 tags of 128 bytes and a statement of 16 KiB stay below the 65,535 bytes of an entry.
pub const TAGS_PER_ENTRY: usize = 256;

/// What a tag points to, a workload runs, or the policy is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Binding {
    /// Nothing, ever.
    #[default]
    Never,
    /// This digest, since that entry.
    Bound {
        /// The digest.
        digest: Digest,
        /// Index of the entry that set it.
        set_by: u64,
    },
    /// Nothing, since that entry.
    Unbound {
        /// What it was bound to before.
        last: Digest,
        /// Index of the entry that unbound it.
        set_by: u64,
    },
}

impl Binding {
    /// The digest, if there is one now.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Bound { digest, .. } => Some(digest),
            Self::Never | Self::Unbound { .. } => None,
        }
    }

    /// 1 + the index of the entry that set the binding; 0: unbound. As in history leaves.
    pub fn effective(&self) -> u64 {
        match self {
            Self::Bound { set_by, .. } => set_by + 1,
            Self::Never | Self::Unbound { .. } => 0,
        }
    }
}

/// A subject as it is after some entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectState {
    /// Number of entries in its history.
    pub count: u64,
    /// Its binding; always [`Binding::Never`] for digests and catalogues, which bind nothing.
    pub binding: Binding,
}

/// What the rules need to know of the ledger.
pub trait View {
    /// Why a look failed.
    type Error;

    /// A subject's state; the default for one that never occurred.
    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Self::Error>;

    /// The tags of a repository bound to a digest, in byte order.
    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Self::Error>;

    /// The principals in force; none, unless a ledger keeps them.
    fn principals(&self) -> Arc<Principals> {
        Arc::default()
    }
}

/// One entry to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the ledger makes of the statement.
    pub outcome: Outcome,
    /// The rule that decided; empty if none did.
    pub rule: String,
    /// Why, in words; empty if the outcome says it all.
    pub detail: String,
    /// The subjects, in the order they are recorded.
    pub touches: Vec<Touch>,
}

/// One subject of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// Which.
    pub subject: Subject,
    /// The entry's place in the subject's history.
    pub version: u64,
    /// What the statement does not say: the tag, where a deletion by digest unbinds it.
    pub name: String,
    /// The subject's binding before the entry.
    pub before: Binding,
    /// Its binding afterwards.
    pub after: Binding,
}

/// What `statement` does, if its first entry gets `index`.
pub fn transition<V: View>(
    view: &V,
    policy: &Policy,
    statement: &Statement,
    index: u64,
) -> Result<Vec<Step>, V::Error> {
    let mut rules = Rules { view, policy, counts: HashMap::new() };
    match &statement.kind {
        Kind::TagPush { tag, digest, disposition } => rules.push(tag, digest, *disposition, index),
        Kind::TagDelete { tag, disposition } => rules.delete(tag, *disposition, index),
        Kind::ManifestDelete { registry, repository, digest, disposition } => {
            rules.delete_manifest(registry, repository, digest, *disposition, index)
        }
        Kind::TagObserved { tag, digest } => rules.observe(tag, digest.as_ref(), index),
        Kind::Deployment { workload, registry, repository, tag, digest, phase } => {
            let tag =
                tag.clone().map(|tag| TagName { registry: registry.clone(), repository: repository.clone(), tag });
            rules.deploy(workload, tag.as_ref(), digest, *phase, index)
        }
        Kind::Attestation { digest } => {
            let touches = vec![rules.touch_digest(digest)?];
            Ok(vec![Verdict::plain(Outcome::Noted).into_step(touches)])
        }
        Kind::PolicyChange { policy } => rules.change_policy(policy, index),
        Kind::PrincipalChange { change } => rules.change_principal(change, index),
    }
}

struct Rules<'a, V> {
    view: &'a V,
    policy: &'a Policy,
    /// Histories this statement has already lengthened.
    counts: HashMap<SubjectKey, u64>,
}

/// An outcome with its reason.
struct Verdict {
    outcome: Outcome,
    rule: String,
    detail: String,
}

impl Verdict {
    fn plain(outcome: Outcome) -> Self {
        Self::new(outcome, "", String::new())
    }

    fn new(outcome: Outcome, rule: &str, detail: String) -> Self {
        Self { outcome, rule: rule.to_owned(), detail }
    }

    fn into_step(self, touches: Vec<Touch>) -> Step {
        Step { outcome: self.outcome, rule: self.rule, detail: self.detail, touches }
    }
}

impl<V: View> Rules<'_, V> {
    fn push(&mut self, tag: &TagName, digest: &Digest, asked: Disposition, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.binding_of(tag)?;
        let verdict = if asked == Disposition::Refused {
            Verdict::plain(Outcome::Failed)
        } else if before.digest() == Some(digest) {
            Verdict::plain(Outcome::Unchanged)
        } else if let Some((rule, detail)) = self.forbidden(tag, &before, Some(digest)) {
            Verdict::new(against_policy(asked), rule, detail)
        } else {
            Verdict::plain(Outcome::Applied)
        };
        let after = if changes_binding(verdict.outcome) { bound(digest, index) } else { before.clone() };
        let mut touches = self.touch_tag(tag, before, after, String::new())?;
        touches.insert(1, self.touch_digest(digest)?);
        Ok(vec![verdict.into_step(touches)])
    }

    fn delete(&mut self, tag: &TagName, asked: Disposition, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.binding_of(tag)?;
        let verdict = if asked == Disposition::Refused {
            Verdict::plain(Outcome::Failed)
        } else if before.digest().is_none() {
            Verdict::new(Outcome::Unchanged, "", nothing_bound(&before))
        } else if let Some((rule, detail)) = self.forbidden(tag, &before, None) {
            Verdict::new(against_policy(asked), rule, detail)
        } else {
            Verdict::plain(Outcome::Applied)
        };
        let after = if changes_binding(verdict.outcome) { unbound(&before, index) } else { before.clone() };
        let touches = self.touch_tag(tag, before, after, String::new())?;
        Ok(vec![verdict.into_step(touches)])
    }

    /// A manifest goes, and every tag bound to it: one outcome for all of them, in as many entries as they need.
    fn delete_manifest(
        &mut self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        asked: Disposition,
        first_index: u64,
    ) -> Result<Vec<Step>, V::Error> {
        let name = |tag| TagName { registry: registry.clone(), repository: repository.clone(), tag };
        let tags: Vec<TagName> = self.view.tags_bound_to(registry, repository, digest)?.into_iter().map(name).collect();
        let mut forbidden = None;
        for tag in &tags {
            let before = self.binding_of(tag)?;
            forbidden = self.forbidden(tag, &before, None).map(|(rule, detail)| (rule.to_owned(), detail));
            if forbidden.is_some() {
                break;
            }
        }
        let (outcome, rule, detail) = match forbidden {
            _ if asked == Disposition::Refused => (Outcome::Failed, String::new(), String::new()),
            _ if tags.is_empty() => (Outcome::Unchanged, String::new(), "no tag is bound to it".to_owned()),
            Some((rule, detail)) => (against_policy(asked), rule, detail),
            None => (Outcome::Applied, String::new(), String::new()),
        };
        let mut steps = Vec::new();
        // Without tags there is still the statement to record.
        let chunks: Vec<&[TagName]> = if tags.is_empty() { vec![&[]] } else { tags.chunks(TAGS_PER_ENTRY).collect() };
        for (index, chunk) in (first_index..).zip(chunks) {
            let mut touches = vec![self.touch_digest(digest)?];
            for tag in chunk {
                let before = self.binding_of(tag)?;
                let after = if changes_binding(outcome) { unbound(&before, index) } else { before.clone() };
                touches.extend(self.touch_tag(tag, before, after, tag.tag.to_string())?);
            }
            steps.push(Step { outcome, rule: rule.clone(), detail: detail.clone(), touches });
        }
        Ok(steps)
    }

    fn observe(&mut self, tag: &TagName, seen: Option<&Digest>, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.binding_of(tag)?;
        let verdict = if before.digest() == seen {
            Verdict::plain(Outcome::Unchanged)
        } else if before == Binding::Never {
            Verdict::plain(Outcome::Applied)
        } else if let Some((rule, detail)) = self.forbidden(tag, &before, seen) {
            Verdict::new(Outcome::Violation, rule, detail)
        } else {
            Verdict::new(Outcome::Drift, "", recorded(&before))
        };
        let after = match seen {
            _ if verdict.outcome == Outcome::Unchanged => before.clone(),
            Some(digest) => bound(digest, index),
            None => unbound(&before, index),
        };
        let mut touches = self.touch_tag(tag, before, after, String::new())?;
        if let Some(digest) = seen {
            touches.insert(1, self.touch_digest(digest)?);
        }
        Ok(vec![verdict.into_step(touches)])
    }

    fn deploy(
        &mut self,
        workload: &Workload,
        tag: Option<&TagName>,
        digest: &Digest,
        phase: Phase,
        index: u64,
    ) -> Result<Vec<Step>, V::Error> {
        let subject = Subject::Workload(workload.clone());
        let state = self.view.subject(&subject.key())?;
        let before = state.binding;
        let runs = before.digest() == Some(digest);
        let mut tag_touches = Vec::new();
        let mut drift = None;
        if let Some(tag) = tag {
            let binding = self.binding_of(tag)?;
            let disagrees = binding != Binding::Never && binding.digest() != Some(digest);
            drift = (disagrees && phase != Phase::Stopped).then(|| recorded(&binding));
            tag_touches = self.touch_tag(tag, binding.clone(), binding, String::new())?;
        }
        let after = match phase {
            Phase::Started | Phase::Observed if !runs || drift.is_some() => bound(digest, index),
            // Only what runs can stop: in a rolling update the old container stops after the new one has started.
            Phase::Stopped if runs => unbound(&before, index),
            _ => before.clone(),
        };
        let verdict = match drift {
            Some(detail) => Verdict::new(Outcome::Drift, "", detail),
            None if after == before => Verdict::plain(Outcome::Unchanged),
            None => Verdict::plain(Outcome::Applied),
        };
        let mut touches = vec![self.touch(subject, before, after, String::new())?, self.touch_digest(digest)?];
        touches.extend(tag_touches);
        if state.count == 0 {
            let members = Subject::WorkloadsOf(workload.environment.clone());
            let is_first = self.view.subject(&members.key())?.count == 0;
            touches.push(self.touch_catalogue(members)?);
            if is_first {
                touches.push(self.touch_catalogue(Subject::Environments)?);
            }
        }
        Ok(vec![verdict.into_step(touches)])
    }

    /// What is in force is told by the subject's binding, as for a tag; only the first change finds none, so it is always new.
    fn change_policy(&mut self, to: &Policy, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.view.subject(&Subject::Policy.key())?.binding;
        let outcome = if before.digest() == Some(to.digest()) { Outcome::Unchanged } else { Outcome::Applied };
        let after = if changes_binding(outcome) { bound(to.digest(), index) } else { before.clone() };
        let touches = vec![self.touch(Subject::Policy, before, after, String::new())?];
        Ok(vec![Verdict::plain(outcome).into_step(touches)])
    }

    /// What is in force is told by the principals, and not by the binding: that is only the newest change. A change that is
    /// refused is no entry, so what became of them can be said.
    fn change_principal(&mut self, change: &Change, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.view.subject(&Subject::Principals.key())?.binding;
        let principals = self.view.principals();
        let verdict = if principals.are_as(change) {
            Verdict::plain(Outcome::Unchanged)
        } else {
            let summary = principals.after(change).map_or(String::new(), |after| after.summary());
            Verdict::new(Outcome::Applied, "", summary)
        };
        let after = if changes_binding(verdict.outcome) { bound(change.digest(), index) } else { before.clone() };
        let touches = vec![self.touch(Subject::Principals, before, after, String::new())?];
        Ok(vec![verdict.into_step(touches)])
    }

    /// The rule that forbids a tag to go from `before` to `to`, with the reason in words.
    fn forbidden(&self, tag: &TagName, before: &Binding, to: Option<&Digest>) -> Option<(&str, String)> {
        let detail = match before {
            Binding::Never => return None,
            Binding::Unbound { last, .. } if to == Some(last) => return None,
            Binding::Bound { digest, set_by } => {
                format!("tag \"{}\" is immutable since entry {set_by} bound it to {digest}", tag.tag)
            }
            Binding::Unbound { last, set_by } => format!(
                "tag \"{}\" is immutable: it may only come back as {last}, which entry {set_by} unbound",
                tag.tag
            ),
        };
        self.policy.immutable(tag).map(|rule| (rule, detail))
    }

    fn binding_of(&self, tag: &TagName) -> Result<Binding, V::Error> {
        Ok(self.view.subject(&Subject::Tag(tag.clone()).key())?.binding)
    }

    /// The tag, and the catalogues in which it appears for the first time.
    fn touch_tag(
        &mut self,
        tag: &TagName,
        before: Binding,
        after: Binding,
        name: String,
    ) -> Result<Vec<Touch>, V::Error> {
        let mut touches = vec![self.touch(Subject::Tag(tag.clone()), before, after, name)?];
        if touches[0].version == 0 {
            let tags = Subject::TagsOf(tag.registry.clone(), tag.repository.clone());
            touches.push(self.touch_catalogue(tags)?);
            if touches[1].version == 0 {
                touches.push(self.touch_catalogue(Subject::Repositories)?);
            }
        }
        Ok(touches)
    }

    fn touch_digest(&mut self, digest: &Digest) -> Result<Touch, V::Error> {
        self.touch(Subject::Digest(digest.clone()), Binding::Never, Binding::Never, String::new())
    }

    fn touch_catalogue(&mut self, catalogue: Subject) -> Result<Touch, V::Error> {
        self.touch(catalogue, Binding::Never, Binding::Never, String::new())
    }

    fn touch(&mut self, subject: Subject, before: Binding, after: Binding, name: String) -> Result<Touch, V::Error> {
        let key = subject.key();
        let version = match self.counts.get(&key) {
            Some(&count) => count,
            None => self.view.subject(&key)?.count,
        };
        self.counts.insert(key, version + 1);
        Ok(Touch { subject, version, name, before, after })
    }
}

/// Whether an outcome of a tag statement changes the binding.
pub fn changes_binding(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Applied | Outcome::Violation)
}

fn against_policy(asked: Disposition) -> Outcome {
    if asked == Disposition::Requested { Outcome::Denied } else { Outcome::Violation }
}

fn bound(digest: &Digest, index: u64) -> Binding {
    Binding::Bound { digest: digest.clone(), set_by: index }
}

fn unbound(before: &Binding, index: u64) -> Binding {
    match before {
        Binding::Bound { digest, .. } => Binding::Unbound { last: digest.clone(), set_by: index },
        Binding::Never | Binding::Unbound { .. } => before.clone(),
    }
}

fn recorded(binding: &Binding) -> String {
    match binding {
        Binding::Never => "nothing was recorded".to_owned(),
        Binding::Bound { digest, set_by } => format!("recorded is {digest}, by entry {set_by}"),
        Binding::Unbound { set_by, .. } => format!("recorded is no binding, since entry {set_by}"),
    }
}

fn nothing_bound(binding: &Binding) -> String {
    match binding {
        Binding::Unbound { set_by, .. } => format!("already unbound by entry {set_by}"),
        _ => "never bound".to_owned(),
    }
}
