//! What a replay keeps of every subject, as small as it can be: a log has millions of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::ledger::hold::Hold;
use crate::ledger::map::{Leaf, Leaves};
use crate::ledger::merkle::tree::edge_root;
use crate::ledger::merkle::{Hash, Tree};
use crate::ledger::names::{Digest, Registry, Repository, Tag};
use crate::ledger::note::Origin;
use crate::ledger::principals::Principals;
use crate::ledger::subject::{Subject, SubjectKey};
use crate::ledger::transition::{Binding, SubjectState, Touch, View};

/// All subjects that occurred.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subjects {
    /// In the order of the map.
    pub(super) rows: BTreeMap<SubjectKey, Row>,
    /// Which tags are or ever were bound to a digest, and whether they are: by what stands for the digest in its repository
    /// ([`place_hash`]), and the tag.
    pub(super) bound: BTreeMap<(Hash, Box<str>), bool>,
    /// In force for the next entry.
    pub(super) principals: Arc<Principals>,
    /// The log's name.
    pub(super) origin: Option<Origin>,
}

/// One of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Number of entries in its history.
    pub(super) count: u64,
    /// The right edge of its history's tree.
    pub(super) edge: Box<[Hash]>,
    /// None for what was never bound, which most subjects never are.
    pub(super) binding: Option<Box<Binding>>,
    /// Who is about to change it, which is hardly ever anybody.
    pub(super) hold: Option<Box<Hold>>,
}

/// The map's leaves as of the last commitment; those that changed since may be newer, for an update replaces them anyway.
pub(super) struct Kept<'a> {
    pub(super) subjects: &'a Subjects,
    /// What changed since, and whether it is new since.
    pub(super) changed: &'a BTreeMap<SubjectKey, bool>,
}

impl Row {
    fn leaf(&self, key: SubjectKey) -> Leaf {
        Leaf { key, count: self.count, root: edge_root(&self.edge) }
    }
}

impl Subjects {
    /// What the map holds of a subject, which must have occurred.
    pub(super) fn leaf(&self, key: &SubjectKey) -> Leaf {
        self.rows[key].leaf(*key)
    }

    /// What the map holds, by rising key.
    pub(super) fn leaves(&self) -> impl Iterator<Item = Leaf> {
        self.rows.iter().map(|(key, row)| row.leaf(*key))
    }

    /// The tags that are or ever were bound to a digest, in byte order, and whether they are.
    fn ever_bound(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> impl Iterator<Item = (Tag, bool)> {
        let place = place_hash(registry, repository, digest);
        let here = self.bound.range((place, Box::from(""))..).take_while(move |((other, _), _)| *other == place);
        here.map(|((_, tag), is_bound)| (tag.parse().expect("it was a tag when it was bound"), *is_bound))
    }

    /// Puts an entry into a subject's history, and its binding in force. Returns whether it is the first.
    pub(super) fn touch(&mut self, key: SubjectKey, touch: &Touch, leaf: Hash) -> bool {
        let row = self.rows.entry(key).or_default();
        let is_new = row.count == 0;
        let mut history =
            Tree::from_edge(row.count, std::mem::take(&mut row.edge).into_vec()).expect("its own count and edge");
        history.append(leaf, |_| {});
        row.count = history.size();
        row.edge = history.edge().map(|node| node.hash).collect();
        if touch.before != touch.after {
            row.binding = Some(Box::new(touch.after.clone()));
        }
        row.hold = touch.hold.clone().map(Box::new);
        if let Subject::Tag(name) = &touch.subject
            && touch.before.digest() != touch.after.digest()
        {
            let place = |digest: &Digest| {
                (place_hash(&name.registry, &name.repository, digest), name.tag.as_str().to_owned().into_boxed_str())
            };
            if let Some(digest) = touch.before.digest() {
                self.bound.insert(place(digest), false);
            }
            if let Some(digest) = touch.after.digest() {
                self.bound.insert(place(digest), true);
            }
        }
        is_new
    }
}

impl View for Subjects {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        let Some(row) = self.rows.get(key) else { return Ok(SubjectState::default()) };
        let binding = row.binding.as_deref().cloned().unwrap_or_default();
        Ok(SubjectState { count: row.count, binding, hold: row.hold.as_deref().cloned() })
    }

    fn tags_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        Ok(self
            .ever_bound(registry, repository, digest)
            .filter(|(_, is_bound)| *is_bound)
            .map(|(tag, _)| tag)
            .collect())
    }

    fn tags_ever_bound_to(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Infallible> {
        Ok(self.ever_bound(registry, repository, digest).map(|(tag, _)| tag).collect())
    }

    fn principals(&self) -> Arc<Principals> {
        Arc::clone(&self.principals)
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }
}

impl Leaves for Kept<'_> {
    type Error = Infallible;

    fn under(&self, path: &SubjectKey, depth: usize) -> Result<Vec<Leaf>, Infallible> {
        let inside = self.subjects.rows.range(path.first_below(depth)..);
        let inside = inside.take_while(|(key, _)| key.shares(path, depth));
        let old = inside.filter(|(key, _)| self.changed.get(key) != Some(&true));
        Ok(old.map(|(key, row)| row.leaf(*key)).collect())
    }
}

/// Stands for a digest in a repository; names contain no NUL.
fn place_hash(registry: &Registry, repository: &Repository, digest: &Digest) -> Hash {
    Sha256::digest(format!("{registry}\0{repository}\0{digest}")).into()
}
