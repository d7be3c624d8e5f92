//! Trying a request: what its statements would do one after the other, without planning anything.
//!
//! A request is all or none, so whether its last statement has to wait for the intent of its first must be known before
//! anything of it is planned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::note::Origin;
use crate::ledger::subject::{Subject, SubjectKey};
use crate::ledger::transition::{Step, SubjectState, View};

/// A view, and what was tried on top of it.
pub(super) struct Trial<'a, V> {
    base: &'a V,
    states: HashMap<SubjectKey, SubjectState>,
    bound: BTreeMap<(Registry, Repository, Digest, Tag), bool>,
}

impl<'a, V: View> Trial<'a, V> {
    pub(super) fn new(base: &'a V) -> Self {
        Self { base, states: HashMap::new(), bound: BTreeMap::new() }
    }

    pub(super) fn apply(&mut self, steps: &[Step]) {
        for touch in steps.iter().flat_map(|step| &step.touches) {
            let state =
                SubjectState { count: touch.version + 1, binding: touch.after.clone(), hold: touch.hold.clone() };
            self.states.insert(touch.key, state);
            let Subject::Tag(name) = &touch.subject else { continue };
            for (digest, is_bound) in [(touch.before.digest(), false), (touch.after.digest(), true)] {
                let Some(digest) = digest else { continue };
                let key = (name.registry.clone(), name.repository.clone(), digest.clone(), name.tag.clone());
                self.bound.insert(key, is_bound);
            }
        }
    }
}

impl<V: View> View for Trial<'_, V> {
    type Error = V::Error;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, V::Error> {
        self.states.get(key).map_or_else(|| self.base.subject(key), |state| Ok(state.clone()))
    }

    fn origin(&self) -> Option<&Origin> {
        self.base.origin()
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, V::Error> {
        let before = self.base.tags_bound_to(registry, repository, digest)?;
        let mut tags: BTreeMap<Tag, bool> = before.into_iter().map(|tag| (tag, true)).collect();
        for ((of, within, to, tag), is_bound) in &self.bound {
            if (of, within, to) == (registry, repository, digest) {
                tags.insert(tag.clone(), *is_bound);
            }
        }
        Ok(tags.into_iter().filter(|(_, is_bound)| *is_bound).map(|(tag, _)| tag).collect())
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, V::Error> {
        let mut tags: BTreeSet<Tag> = self.base.tags_ever_bound_to(registry, repository, digest)?.into_iter().collect();
        // What was unbound here was bound before.
        let here = self.bound.keys().filter(|(of, within, to, _)| (of, within, to) == (registry, repository, digest));
        tags.extend(here.map(|(.., tag)| tag.clone()));
        Ok(tags.into_iter().collect())
    }
}
