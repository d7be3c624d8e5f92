//! Subjects: things with a history, and their keys.

use sha2::{Digest as _, Sha256};

use super::names::{Digest, Registry, Repository};
use super::referrer::subject_of;
use super::statement::{Kind, Phase, Statement, TagName, Workload};
use crate::proto::{self, Outcome, SubjectKind};

/// Something with a history.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Everything asserted about a tag.
    Tag(TagName),
    /// Every statement that names a digest.
    Digest(Digest),
    /// Deployments of one container of a workload.
    Workload(Workload),
    /// The tags of a repository, in order of appearance.
    TagsOf(Registry, Repository),
    /// All repositories, in order of appearance.
    Repositories,
    /// All environments, in order of appearance.
    Environments,
    /// The workloads of an environment, in order of appearance.
    WorkloadsOf(String),
    /// The rules in force.
    Policy,
    /// Who may state what.
    Principals,
    /// Whose signatures are the ledger's.
    Keys,
}

/// `SHA-256("tagledger.v1.subject\n" || kind || for each component: u32 BE length || bytes)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectKey(pub [u8; 32]);

impl Subject {
    /// Its kind; the number is the kind byte of the key.
    pub fn kind(&self) -> SubjectKind {
        match self {
            Self::Tag(_) => SubjectKind::Tag,
            Self::Digest(_) => SubjectKind::Digest,
            Self::Workload(_) => SubjectKind::Workload,
            Self::TagsOf(..) => SubjectKind::TagsOf,
            Self::Repositories => SubjectKind::Repositories,
            Self::Environments => SubjectKind::Environments,
            Self::WorkloadsOf(_) => SubjectKind::WorkloadsOf,
            Self::Policy => SubjectKind::Policy,
            Self::Principals => SubjectKind::Principals,
            Self::Keys => SubjectKind::Keys,
        }
    }

    /// What it is stored and proven under.
    pub fn key(&self) -> SubjectKey {
        let kind = u8::try_from(i32::from(self.kind())).expect("subject kinds are small");
        let mut hash = Sha256::new().chain_update(b"tagledger.v1.subject\n").chain_update([kind]);
        for component in self.components() {
            let length = u32::try_from(component.len()).expect("names are short");
            hash = hash.chain_update(length.to_be_bytes()).chain_update(component);
        }
        SubjectKey(hash.finalize().into())
    }

    fn components(&self) -> Vec<&str> {
        match self {
            Self::Tag(name) => vec![name.registry.as_str(), name.repository.as_str(), name.tag.as_str()],
            Self::Digest(digest) => vec![digest.as_str()],
            Self::Workload(w) => vec![&w.environment, &w.cluster, &w.namespace, &w.workload, &w.container],
            Self::TagsOf(registry, repository) => vec![registry.as_str(), repository.as_str()],
            Self::Repositories | Self::Environments | Self::Policy | Self::Principals | Self::Keys => vec![],
            Self::WorkloadsOf(environment) => vec![environment],
        }
    }
}

/// What an entry does to the binding of one of its subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Points it at this digest.
    Sets(Digest),
    /// Unbinds it.
    Clears,
    /// Leaves it, and says that it is this digest.
    Confirms(Digest),
    /// Leaves it, whatever it is.
    Keeps,
}

/// The subject that a record names with `reference`; `None` if its statement has no such subject.
pub fn named_by(statement: &Statement, reference: &proto::Subject) -> Option<Subject> {
    let kind = SubjectKind::try_from(reference.kind).ok()?;
    let place = || place_of(statement).map(|(registry, repository)| (registry.clone(), repository.clone()));
    match (kind, &statement.kind) {
        (SubjectKind::Tag, Kind::ManifestDelete { .. }) => {
            let (registry, repository) = place()?;
            Some(Subject::Tag(TagName { registry, repository, tag: reference.name.parse().ok()? }))
        }
        // The digest that a referrer tag of the record hangs on, beside the one that the statement names.
        (SubjectKind::Digest, _) if !reference.name.is_empty() => {
            Some(Subject::Digest(reference.name.parse().ok().filter(|digest| may_link(statement, digest))?))
        }
        // Only a deletion by digest leaves a name unsaid.
        _ if !reference.name.is_empty() => None,
        // Its digest is that of a policy, and no image's.
        (kind, Kind::PolicyChange { .. }) => (kind == SubjectKind::Policy).then_some(Subject::Policy),
        (kind, Kind::PrincipalChange { .. }) => (kind == SubjectKind::Principals).then_some(Subject::Principals),
        (kind, Kind::KeyChange { .. }) => (kind == SubjectKind::Keys).then_some(Subject::Keys),
        (SubjectKind::Tag, _) => tag_of(statement).map(Subject::Tag),
        (SubjectKind::Digest, _) => digest_of(statement).cloned().map(Subject::Digest),
        (SubjectKind::Workload, Kind::Deployment { workload, .. }) => Some(Subject::Workload(workload.clone())),
        (SubjectKind::WorkloadsOf, Kind::Deployment { workload, .. }) => {
            Some(Subject::WorkloadsOf(workload.environment.clone()))
        }
        (SubjectKind::Environments, Kind::Deployment { .. }) => Some(Subject::Environments),
        (SubjectKind::TagsOf, _) => place().map(|(registry, repository)| Subject::TagsOf(registry, repository)),
        (SubjectKind::Repositories, _) => place_of(statement).map(|_| Subject::Repositories),
        _ => None,
    }
}

/// Whether a record of a statement may belong to this digest for a referrer tag that it is about. Of a deletion by digest any may:
/// the statement does not say which tags were bound.
fn may_link(statement: &Statement, digest: &Digest) -> bool {
    if digest_of(statement) == Some(digest) {
        return false;
    }
    match &statement.kind {
        Kind::ManifestDelete { .. } => true,
        _ => tag_of(statement).is_some_and(|tag| subject_of(&tag.tag).as_ref() == Some(digest)),
    }
}

/// What a record does to a subject it names.
pub fn effect_on(subject: &Subject, outcome: Outcome, statement: &Statement) -> Effect {
    let changes = matches!(outcome, Outcome::Applied | Outcome::Violation);
    match (subject, &statement.kind) {
        (Subject::Tag(_), Kind::TagPush { digest, .. }) if changes => Effect::Sets(digest.clone()),
        (Subject::Tag(_), Kind::TagPush { digest, .. }) if outcome == Outcome::Unchanged => {
            Effect::Confirms(digest.clone())
        }
        (Subject::Tag(_), Kind::TagDelete { .. } | Kind::ManifestDelete { .. }) if changes => Effect::Clears,
        (Subject::Tag(_), Kind::TagObserved { digest, .. }) => match digest {
            Some(digest) if outcome == Outcome::Unchanged => Effect::Confirms(digest.clone()),
            Some(digest) => Effect::Sets(digest.clone()),
            None if outcome == Outcome::Unchanged => Effect::Keeps,
            None => Effect::Clears,
        },
        // A deployment says what a workload runs, also where that disagrees with the tag it was asked for by.
        (Subject::Workload(_), Kind::Deployment { digest, phase, .. }) => match (phase, outcome) {
            (Phase::Stopped, Outcome::Unchanged) => Effect::Keeps,
            (Phase::Stopped, _) => Effect::Clears,
            (_, Outcome::Unchanged) => Effect::Confirms(digest.clone()),
            _ => Effect::Sets(digest.clone()),
        },
        (Subject::Policy, Kind::PolicyChange { policy, .. }) if changes => Effect::Sets(policy.digest().clone()),
        (Subject::Policy, Kind::PolicyChange { policy, .. }) if outcome == Outcome::Unchanged => {
            Effect::Confirms(policy.digest().clone())
        }
        (Subject::Principals, Kind::PrincipalChange { change }) if changes => Effect::Sets(change.digest().clone()),
        (Subject::Keys, Kind::KeyChange { change }) if changes => Effect::Sets(change.digest().clone()),
        _ => Effect::Keeps,
    }
}

/// The digest that a statement names; of a policy change, that of the policy's text; of a principal change, its own; of a key
/// change, that of the new key's text.
pub fn digest_of(statement: &Statement) -> Option<&Digest> {
    match &statement.kind {
        Kind::TagPush { digest, .. }
        | Kind::ManifestDelete { digest, .. }
        | Kind::Deployment { digest, .. }
        | Kind::Attestation { digest } => Some(digest),
        Kind::TagObserved { digest, .. } => digest.as_ref(),
        Kind::PolicyChange { policy, .. } => Some(policy.digest()),
        Kind::PrincipalChange { change } => Some(change.digest()),
        Kind::KeyChange { change } => Some(change.digest()),
        Kind::TagDelete { .. } => None,
    }
}

/// The tag that a statement names.
pub fn tag_of(statement: &Statement) -> Option<TagName> {
    match &statement.kind {
        Kind::TagPush { tag, .. } | Kind::TagDelete { tag, .. } | Kind::TagObserved { tag, .. } => Some(tag.clone()),
        Kind::Deployment { registry, repository, tag: Some(tag), .. } => {
            Some(TagName { registry: registry.clone(), repository: repository.clone(), tag: tag.clone() })
        }
        _ => None,
    }
}

/// The repository that a statement is about.
pub fn place_of(statement: &Statement) -> Option<(&Registry, &Repository)> {
    match &statement.kind {
        Kind::TagPush { tag, .. } | Kind::TagDelete { tag, .. } | Kind::TagObserved { tag, .. } => {
            Some((&tag.registry, &tag.repository))
        }
        Kind::ManifestDelete { registry, repository, .. } | Kind::Deployment { registry, repository, .. } => {
            Some((registry, repository))
        }
        Kind::Attestation { .. }
        | Kind::PolicyChange { .. }
        | Kind::PrincipalChange { .. }
        | Kind::KeyChange { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_cannot_run_into_each_other() {
        let workload = |environment: &str, cluster: &str| {
            Subject::Workload(Workload {
                environment: environment.into(),
                cluster: cluster.into(),
                namespace: String::new(),
                workload: "w".into(),
                container: String::new(),
            })
        };
        assert_ne!(workload("ab", "c").key(), workload("a", "bc").key());
        let plain = [Subject::Repositories, Subject::Environments, Subject::Policy, Subject::Principals, Subject::Keys];
        for (position, subject) in plain.iter().enumerate() {
            assert!(plain[..position].iter().all(|other| other.key() != subject.key()), "{subject:?}");
        }
    }
}
