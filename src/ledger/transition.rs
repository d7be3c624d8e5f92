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
//! | push | otherwise, and no rule forbids the change | APPLIED |
//! | push | otherwise | DENIED if REQUESTED or INTENDED, VIOLATION if HAPPENED |
//! | delete | unbound | UNCHANGED |
//! | delete | bound | APPLIED; if a rule forbids it, as for a push |
//! | delete of a manifest | none bound to it | UNCHANGED |
//! | delete of a manifest | some bound to it | as a delete of each, one outcome for all: none is unbound if one may not be |
//! | push, delete, delete of a manifest, INTENDED | would be APPLIED | NOTED, and the tag is held: see [`super::hold`] |
//! | observation | as seen | UNCHANGED |
//! | observation | held, and as intended | APPLIED |
//! | observation | otherwise, and a rule forbids the change | VIOLATION |
//! | observation | never bound | APPLIED |
//! | observation | otherwise | DRIFT |
//! | deployment naming a tag, not STOPPED | bound once, and now not to that digest | DRIFT |
//! | deployment | otherwise | UNCHANGED if the workload's state stays, else APPLIED |
//! | attestation | - | NOTED |
//! | push, delete, delete of a manifest, HAPPENED | held by the intent of the same principal that it settles | APPLIED, whatever the policy is by now |
//! | policy change | (the policy) has this very text | UNCHANGED |
//! | policy change | (the policy) is not the one to be replaced | DENIED |
//! | policy change | (the policy) has another text, or was never changed | APPLIED |
//! | principal change | (the principal) is this already | UNCHANGED |
//! | principal change | (the principal) is another, or nobody | APPLIED |
//! | key change | - | APPLIED; NOTED if the keys are another ledger's, whose records these were |
//!
//! An applied policy change rules from the entry after its own on: whoever calls [`transition`] then calls it with that policy.
//! So does an applied principal change. Who may state what, and which changes of principals and keys are refused, is settled before
//! ([`super::principals`], [`super::keys`]).

use std::collections::HashMap;
use std::sync::Arc;

use super::hold::{Aim, Hold};
use super::keys::KeyChange;
use super::names::{Digest, Registry, Repository, Tag};
use super::note::Origin;
use super::policy::{Change, Policy};
use super::principals::{self, Principals};
use super::referrer;
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
    /// Who is about to change it; only tags are held.
    pub hold: Option<Hold>,
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

    /// The tags of a repository that are or ever were bound to a digest, in byte order.
    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Self::Error>;

    /// The principals in force; none, unless a ledger keeps them.
    fn principals(&self) -> Arc<Principals> {
        Arc::default()
    }

    /// The log's name, where it is known: keys of another one change nothing.
    fn origin(&self) -> Option<&Origin> {
        None
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
    /// Its key.
    pub key: SubjectKey,
    /// The entry's place in the subject's history.
    pub version: u64,
    /// What the statement does not say: the tag, where a deletion by digest unbinds it.
    pub name: String,
    /// The subject's binding before the entry.
    pub before: Binding,
    /// Its binding afterwards.
    pub after: Binding,
    /// Who holds it afterwards.
    pub hold: Option<Hold>,
}

/// What `statement` does in the name of `principal`, if its first entry gets `index`. It is not one that
/// [must wait](super::hold::must_wait).
pub fn transition<V: View>(
    view: &V,
    policy: &Policy,
    principal: &str,
    statement: &Statement,
    index: u64,
) -> Result<Vec<Step>, V::Error> {
    let mut rules = Rules { view, policy, counts: HashMap::new() };
    let mut steps = match &statement.kind {
        Kind::TagPush { tag, digest, disposition, settles } => {
            rules.push(tag, digest, Asked { by: principal, disposition: *disposition, settles: *settles }, index)
        }
        Kind::TagDelete { tag, disposition, settles } => {
            rules.delete(tag, Asked { by: principal, disposition: *disposition, settles: *settles }, index)
        }
        Kind::ManifestDelete { registry, repository, digest, disposition, settles } => {
            let asked = Asked { by: principal, disposition: *disposition, settles: *settles };
            rules.delete_manifest(registry, repository, digest, asked, index)
        }
        Kind::TagObserved { tag, digest, checks } => rules.observe(tag, digest.as_ref(), *checks, index),
        Kind::Deployment { workload, registry, repository, tag, digest, phase } => {
            let tag =
                tag.clone().map(|tag| TagName { registry: registry.clone(), repository: repository.clone(), tag });
            rules.deploy(workload, tag.as_ref(), digest, *phase, index)
        }
        Kind::Attestation { digest } => {
            let touches = vec![rules.touch_digest(digest)?];
            Ok(vec![Verdict::plain(Outcome::Noted).into_step(touches)])
        }
        Kind::PolicyChange { policy, replaces } => rules.change_policy(policy, replaces.as_ref(), index),
        Kind::PrincipalChange { change } => rules.change_principal(change, index),
        Kind::KeyChange { change } => rules.change_key(change, index),
    }?;
    for step in &mut steps {
        rules.link(step)?;
    }
    Ok(steps)
}

/// How a statement about a tag is meant.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// By whom.
    by: &'a str,
    disposition: Disposition,
    /// The intent of which it is the outcome.
    settles: Option<u64>,
}

impl Asked<'_> {
    /// Whether it says what became of the intent that holds a tag.
    fn settles(self, hold: Option<&Hold>, aim: &Aim) -> bool {
        hold.is_some_and(|hold| Some(hold.index) == self.settles && hold.by == self.by && hold.aim == *aim)
    }

    /// The hold that it leaves if it is an intent.
    fn hold(self, index: u64, aim: Aim) -> Hold {
        Hold { index, by: self.by.to_owned(), aim }
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
    fn push(&mut self, tag: &TagName, digest: &Digest, asked: Asked<'_>, index: u64) -> Result<Vec<Step>, V::Error> {
        let SubjectState { binding: before, hold, .. } = self.state_of(tag)?;
        let aim = Aim::Push(digest.clone());
        let settles = asked.settles(hold.as_ref(), &aim);
        let verdict = if asked.disposition == Disposition::Refused {
            Verdict::plain(Outcome::Failed)
        } else if before.digest() == Some(digest) {
            Verdict::plain(Outcome::Unchanged)
        } else if settles {
            Verdict::plain(Outcome::Applied)
        } else if let Some((rule, detail)) = self.forbidden(tag, &before, Some(digest))? {
            Verdict::new(against_policy(asked), rule, detail)
        } else {
            Verdict::plain(allowed(asked))
        };
        let after = if changes_binding(verdict.outcome) { bound(digest, index) } else { before.clone() };
        let hold = held_after(hold, settles, verdict.outcome, asked.hold(index, aim));
        let mut touches = self.touch_tag(tag, before, after, hold, String::new())?;
        touches.insert(1, self.touch_digest(digest)?);
        Ok(vec![verdict.into_step(touches)])
    }

    fn delete(&mut self, tag: &TagName, asked: Asked<'_>, index: u64) -> Result<Vec<Step>, V::Error> {
        let SubjectState { binding: before, hold, .. } = self.state_of(tag)?;
        let settles = asked.settles(hold.as_ref(), &Aim::Delete);
        let verdict = if asked.disposition == Disposition::Refused {
            Verdict::plain(Outcome::Failed)
        } else if before.digest().is_none() {
            Verdict::new(Outcome::Unchanged, "", nothing_bound(&before))
        } else if settles {
            Verdict::plain(Outcome::Applied)
        } else if let Some((rule, detail)) = self.forbidden(tag, &before, None)? {
            Verdict::new(against_policy(asked), rule, detail)
        } else {
            Verdict::plain(allowed(asked))
        };
        let after = if changes_binding(verdict.outcome) { unbound(&before, index) } else { before.clone() };
        let hold = held_after(hold, settles, verdict.outcome, asked.hold(index, Aim::Delete));
        let touches = self.touch_tag(tag, before, after, hold, String::new())?;
        Ok(vec![verdict.into_step(touches)])
    }

    /// A manifest goes, and every tag bound to it: one outcome for all of them, in as many entries as they need.
    fn delete_manifest(
        &mut self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        asked: Asked<'_>,
        first_index: u64,
    ) -> Result<Vec<Step>, V::Error> {
        let name = |tag| TagName { registry: registry.clone(), repository: repository.clone(), tag };
        let tags: Vec<TagName> = self.view.tags_bound_to(registry, repository, digest)?.into_iter().map(name).collect();
        let mut forbidden = None;
        for tag in &tags {
            let SubjectState { binding: before, hold, .. } = self.state_of(tag)?;
            if asked.settles(hold.as_ref(), &Aim::DeleteManifest) {
                continue;
            }
            forbidden = self.forbidden(tag, &before, None)?.map(|(rule, detail)| (rule.to_owned(), detail));
            if forbidden.is_some() {
                break;
            }
        }
        let (outcome, rule, detail) = match forbidden {
            _ if asked.disposition == Disposition::Refused => (Outcome::Failed, String::new(), String::new()),
            _ if tags.is_empty() => (Outcome::Unchanged, String::new(), "no tag is bound to it".to_owned()),
            Some((rule, detail)) => (against_policy(asked), rule, detail),
            None => (allowed(asked), String::new(), String::new()),
        };
        let mut steps = Vec::new();
        // Without tags there is still the statement to record.
        let chunks: Vec<&[TagName]> = if tags.is_empty() { vec![&[]] } else { tags.chunks(TAGS_PER_ENTRY).collect() };
        for (index, chunk) in (first_index..).zip(chunks) {
            let mut touches = vec![self.touch_digest(digest)?];
            for tag in chunk {
                let SubjectState { binding: before, hold, .. } = self.state_of(tag)?;
                let after = if changes_binding(outcome) { unbound(&before, index) } else { before.clone() };
                let settles = asked.settles(hold.as_ref(), &Aim::DeleteManifest);
                // One intent, whatever the number of its entries: the first names it.
                let hold = held_after(hold, settles, outcome, asked.hold(first_index, Aim::DeleteManifest));
                touches.extend(self.touch_tag(tag, before, after, hold, tag.tag.to_string())?);
            }
            steps.push(Step { outcome, rule: rule.clone(), detail: detail.clone(), touches });
        }
        Ok(steps)
    }

    fn observe(
        &mut self,
        tag: &TagName,
        seen: Option<&Digest>,
        checks: Option<u64>,
        index: u64,
    ) -> Result<Vec<Step>, V::Error> {
        let SubjectState { binding: before, hold, .. } = self.state_of(tag)?;
        let is_as_intended = hold.as_ref().is_some_and(|hold| hold.aim.is_reached_by(seen));
        let verdict = if before.digest() == seen {
            Verdict::plain(Outcome::Unchanged)
        } else if is_as_intended {
            Verdict::plain(Outcome::Applied)
        } else if let Some((rule, detail)) = self.forbidden(tag, &before, seen)? {
            Verdict::new(Outcome::Violation, rule, detail)
        } else if before == Binding::Never {
            Verdict::plain(Outcome::Applied)
        } else {
            Verdict::new(Outcome::Drift, "", recorded(&before))
        };
        let after = match seen {
            _ if verdict.outcome == Outcome::Unchanged => before.clone(),
            Some(digest) => bound(digest, index),
            None => unbound(&before, index),
        };
        // A look at what became of the intent ends it, whatever was seen.
        let hold = hold.filter(|hold| Some(hold.index) != checks);
        let mut touches = self.touch_tag(tag, before, after, hold, String::new())?;
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
            let SubjectState { binding, hold, .. } = self.state_of(tag)?;
            let disagrees = binding != Binding::Never && binding.digest() != Some(digest);
            drift = (disagrees && phase != Phase::Stopped).then(|| recorded(&binding));
            tag_touches = self.touch_tag(tag, binding.clone(), binding, hold, String::new())?;
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
        let mut touches = vec![self.touch(subject, before, after, None, String::new())?, self.touch_digest(digest)?];
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
    fn change_policy(&mut self, to: &Policy, replaces: Option<&Digest>, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.view.subject(&Subject::Policy.key())?.binding;
        let without_rules = Policy::default();
        let in_force = before.digest().unwrap_or(without_rules.digest());
        let verdict = match replaces {
            _ if before.digest() == Some(to.digest()) => Verdict::plain(Outcome::Unchanged),
            Some(other) if other != in_force => {
                Verdict::new(Outcome::Denied, "", format!("the policy in force is {in_force}, not {other}"))
            }
            _ => Verdict::plain(Outcome::Applied),
        };
        let after = if changes_binding(verdict.outcome) { bound(to.digest(), index) } else { before.clone() };
        let touches = vec![self.touch(Subject::Policy, before, after, None, String::new())?];
        Ok(vec![verdict.into_step(touches)])
    }

    /// What is in force is told by the principals, and not by the binding: that is only the newest change. A change that is
    /// refused is no entry, so what became of them can be said.
    fn change_principal(&mut self, change: &principals::Change, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.view.subject(&Subject::Principals.key())?.binding;
        let principals = self.view.principals();
        let verdict = if principals.are_as(change) {
            Verdict::plain(Outcome::Unchanged)
        } else {
            let summary = principals.after(change).map_or(String::new(), |after| after.summary());
            Verdict::new(Outcome::Applied, "", summary)
        };
        let after = if changes_binding(verdict.outcome) { bound(change.digest(), index) } else { before.clone() };
        let touches = vec![self.touch(Subject::Principals, before, after, None, String::new())?];
        Ok(vec![verdict.into_step(touches)])
    }

    /// One that does not fit is refused and no entry. But records that go on under another name may hold changes of the keys
    /// they were signed with before.
    fn change_key(&mut self, change: &KeyChange, index: u64) -> Result<Vec<Step>, V::Error> {
        let before = self.view.subject(&Subject::Keys.key())?.binding;
        let is_own = self.view.origin().is_none_or(|origin| origin == change.vkey().origin());
        let verdict = Verdict::plain(if is_own { Outcome::Applied } else { Outcome::Noted });
        let after = if changes_binding(verdict.outcome) { bound(change.digest(), index) } else { before.clone() };
        let touches = vec![self.touch(Subject::Keys, before, after, None, String::new())?];
        Ok(vec![verdict.into_step(touches)])
    }

    /// The rule that forbids a tag to go from `before` to `to`, which it is not at already, with the reason in words.
    fn forbidden(
        &self,
        tag: &TagName,
        before: &Binding,
        to: Option<&Digest>,
    ) -> Result<Option<(&str, String)>, V::Error> {
        let change = match (before, to) {
            (Binding::Never | Binding::Unbound { .. }, None) => return Ok(None),
            (Binding::Never, Some(_)) => Change::Create,
            (Binding::Unbound { last, .. }, Some(digest)) if digest == last => Change::Create,
            (Binding::Unbound { .. }, Some(_)) => Change::Recreate,
            (Binding::Bound { .. }, Some(_)) => Change::Overwrite,
            (Binding::Bound { .. }, None) => Change::Delete,
        };
        let carried = || match to {
            Some(digest) => self.view.tags_ever_bound_to(&tag.registry, &tag.repository, digest),
            None => Ok(Vec::new()),
        };
        let Some(forbidden) = self.policy.forbids(tag, change, carried)? else { return Ok(None) };
        let name = &tag.tag;
        let detail = match (before, to) {
            (_, Some(digest)) if forbidden.lacks_promotion => {
                format!(
                    "tag \"{name}\" may not be bound to {digest}: no tag that it is promoted from carried that before"
                )
            }
            (Binding::Bound { digest, set_by }, Some(_)) => {
                format!("tag \"{name}\" is immutable since entry {set_by} bound it to {digest}")
            }
            (Binding::Bound { digest, set_by }, None) => {
                format!("tag \"{name}\" may not be deleted since entry {set_by} bound it to {digest}")
            }
            (Binding::Unbound { last, set_by }, _) if change == Change::Recreate => {
                format!("tag \"{name}\" is immutable: it may only come back as {last}, which entry {set_by} unbound")
            }
            _ => format!("tag \"{name}\" may not be created"),
        };
        Ok(Some((forbidden.rule.id(), detail)))
    }

    /// Adds the digests that referrer tags of the entry hang on, each once, if the entry is not in their history already.
    fn link(&mut self, step: &mut Step) -> Result<(), V::Error> {
        let hangs_on = |touch: &Touch| match &touch.subject {
            Subject::Tag(tag) => referrer::subject_of(&tag.tag).map(Subject::Digest),
            _ => None,
        };
        for subject in step.touches.iter().filter_map(hangs_on).collect::<Vec<_>>() {
            if !step.touches.iter().any(|touch| touch.subject == subject) {
                let Subject::Digest(digest) = &subject else { unreachable!("only digests are hung on") };
                let name = digest.to_string();
                step.touches.push(self.touch(subject, Binding::Never, Binding::Never, None, name)?);
            }
        }
        Ok(())
    }

    fn state_of(&self, tag: &TagName) -> Result<SubjectState, V::Error> {
        self.view.subject(&Subject::Tag(tag.clone()).key())
    }

    /// The tag, and the catalogues in which it appears for the first time.
    fn touch_tag(
        &mut self,
        tag: &TagName,
        before: Binding,
        after: Binding,
        hold: Option<Hold>,
        name: String,
    ) -> Result<Vec<Touch>, V::Error> {
        // Where the digest is gone from under it, there is nothing left for the deletion of a manifest to unbind.
        let hold = hold.filter(|hold| hold.aim != Aim::DeleteManifest || before.digest() == after.digest());
        let mut touches = vec![self.touch(Subject::Tag(tag.clone()), before, after, hold, name)?];
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
        self.touch(Subject::Digest(digest.clone()), Binding::Never, Binding::Never, None, String::new())
    }

    fn touch_catalogue(&mut self, catalogue: Subject) -> Result<Touch, V::Error> {
        self.touch(catalogue, Binding::Never, Binding::Never, None, String::new())
    }

    fn touch(
        &mut self,
        subject: Subject,
        before: Binding,
        after: Binding,
        hold: Option<Hold>,
        name: String,
    ) -> Result<Touch, V::Error> {
        let key = subject.key();
        let version = match self.counts.get(&key) {
            Some(&count) => count,
            None => self.view.subject(&key)?.count,
        };
        self.counts.insert(key, version + 1);
        Ok(Touch { subject, key, version, name, before, after, hold })
    }
}

/// Whether an outcome of a tag statement changes the binding.
pub fn changes_binding(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Applied | Outcome::Violation)
}

fn against_policy(asked: Asked<'_>) -> Outcome {
    match asked.disposition {
        Disposition::Requested | Disposition::Intended => Outcome::Denied,
        Disposition::Happened | Disposition::Refused => Outcome::Violation,
    }
}

/// An intent binds nothing: what becomes of it is yet to be seen.
fn allowed(asked: Asked<'_>) -> Outcome {
    if asked.disposition == Disposition::Intended { Outcome::Noted } else { Outcome::Applied }
}

fn held_after(before: Option<Hold>, settles: bool, outcome: Outcome, own: Hold) -> Option<Hold> {
    match outcome {
        Outcome::Noted => Some(own),
        _ if settles => None,
        _ => before,
    }
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
