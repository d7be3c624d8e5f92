//! What is asked, and what a server claims the answer to be.
//!
//! These are the forms in which questions and claims are kept in evidence files (`docs/SPEC.md`, "Evidence files"): plain
//! data, names parsed, nothing believed. Believing is left to the parent module.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ledger::names::{Digest, RefError, Registry, Repository, Tag, TagRef, parse_repository};
use crate::ledger::statement::Workload;
use crate::ledger::subject::Subject;

/// A question to a ledger. Times are in microseconds since the Unix epoch; where a state is asked for, 0 means now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// What did this tag point to?
    TagAt {
        /// Which tag.
        #[serde(with = "as_text")]
        tag: TagRef,
        /// When.
        at_us: u64,
    },
    /// What was asserted about this tag?
    TagHistory {
        /// Which tag.
        #[serde(with = "as_text")]
        tag: TagRef,
        /// Which part of it.
        part: Part,
    },
    /// Which entries name this digest?
    Sightings {
        /// Which digest.
        #[serde(with = "as_text")]
        digest: Digest,
        /// Which part of them; times are always 0.
        part: Part,
    },
    /// Which tags did this repository have?
    TagsAt {
        /// Which repository.
        #[serde(with = "as_text")]
        repository: RepositoryName,
        /// When.
        at_us: u64,
        /// Also tags that were known but unbound.
        include_unbound: bool,
        /// At most so many; 0: all.
        limit: u64,
    },
    /// What ran?
    RunningAt {
        /// In which environment; empty: in any.
        environment: String,
        /// Which workload; empty: any.
        workload: String,
        /// When.
        at_us: u64,
        /// Also workloads that were known but stopped.
        include_stopped: bool,
        /// At most so many; 0: all.
        limit: u64,
    },
    /// Which tags of a repository changed?
    RepositoryDiff {
        /// Which repository.
        #[serde(with = "as_text")]
        repository: RepositoryName,
        /// From when.
        from_us: u64,
        /// Until when.
        to_us: u64,
        /// At most so many; 0: all.
        limit: u64,
    },
    /// What runs differently in an environment?
    EnvironmentDiff {
        /// Which environment.
        environment: String,
        /// From when.
        from_us: u64,
        /// Until when.
        to_us: u64,
        /// At most so many; 0: all.
        limit: u64,
    },
    /// Which entry is at this index?
    Entry {
        /// Position in the log.
        index: u64,
    },
    /// Which entry has this leaf hash?
    Leaf {
        /// 32 bytes.
        #[serde(with = "as_hex")]
        hash: [u8; 32],
    },
    /// Is the entry at this index in the tree of this size?
    Inclusion {
        /// Position in the log.
        index: u64,
        /// Leaves of the tree; 0: of the newest checkpoint.
        tree_size: u64,
    },
}

/// A part of a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Recorded at or after this time; 0: from the beginning.
    pub since_us: u64,
    /// Recorded before this time; 0: to the end.
    pub until_us: u64,
    /// Newest first.
    pub newest_first: bool,
    /// At most so many; 0: all.
    pub limit: u64,
}

/// What a server claims, for the entries of one page of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Claims {
    /// States of subjects at a time.
    States {
        /// The time answered for.
        as_of_us: u64,
        /// One for each subject.
        states: Vec<MemberState>,
    },
    /// Versions of one history, in the order asked for.
    Versions {
        /// Some of them.
        versions: Vec<VersionClaim>,
        /// How many versions the history has in all.
        total: u64,
    },
    /// States of subjects at two times.
    Changes {
        /// The later time answered for.
        as_of_us: u64,
        /// One for each subject.
        changes: Vec<MemberChange>,
    },
    /// One entry.
    Entry,
    /// One entry in the tree of another size than the checkpoint's.
    Inclusion {
        /// Leaves of that tree.
        tree_size: u64,
        /// Its root.
        #[serde(with = "as_hex")]
        root: [u8; 32],
        /// The audit path of the entry in it.
        #[serde(with = "as_hex_list")]
        path: Vec<[u8; 32]>,
        /// The proof that the checkpoint's tree continues it.
        #[serde(with = "as_hex_list")]
        consistency: Vec<[u8; 32]>,
    },
}

/// A subject and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberState {
    /// Which.
    pub member: Member,
    /// Its state.
    pub state: StateClaim,
}

/// A subject and its states at two times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberChange {
    /// Which.
    pub member: Member,
    /// Its state at the earlier time.
    pub from: StateClaim,
    /// Its state at the later time.
    pub to: StateClaim,
}

/// A subject, inside what was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Member {
    /// A tag of the repository asked about.
    Tag(#[serde(with = "as_text")] Tag),
    /// A workload.
    Workload(WorkloadName),
}

/// The state of a subject at a time, as claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateClaim {
    /// What it points to, or what runs; empty: nothing.
    pub digest: String,
    /// The last version at or before the time; none: the subject did not exist yet.
    pub at: Option<VersionClaim>,
    /// The version after it; none: there is none as of the checkpoint.
    pub next: Option<VersionClaim>,
}

/// An entry of a subject's history, as claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionClaim {
    /// Position in the history, from 0.
    pub version: u64,
    /// Position in the log.
    pub index: u64,
    /// The ledger's clock.
    pub recorded_at_us: u64,
    /// 1 + index of the entry that set the state in force after this one; 0: none.
    pub effective: u64,
}

/// A workload's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadName {
    /// "prod".
    pub environment: String,
    /// May be empty, as the next may.
    pub cluster: String,
    /// A namespace.
    pub namespace: String,
    /// The workload.
    pub workload: String,
    /// The container in it; may be empty.
    pub container: String,
}

/// `registry/repository`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    /// The registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: Repository,
}

impl Question {
    /// The subject that a member of the answer stands for; `None` if the question has no such members.
    pub fn subject(&self, member: &Member) -> Option<Subject> {
        match (self, member) {
            (Self::TagAt { tag, .. }, Member::Tag(name)) if tag.tag == *name => Some(Subject::Tag(tag.clone())),
            (Self::TagsAt { repository, .. } | Self::RepositoryDiff { repository, .. }, Member::Tag(name)) => {
                Some(Subject::Tag(repository.tag(name.clone())))
            }
            (Self::RunningAt { environment, workload, .. }, Member::Workload(name))
                if (environment.is_empty() || *environment == name.environment)
                    && (workload.is_empty() || *workload == name.workload) =>
            {
                Some(Subject::Workload(name.clone().into()))
            }
            (Self::EnvironmentDiff { environment, .. }, Member::Workload(name)) if *environment == name.environment => {
                Some(Subject::Workload(name.clone().into()))
            }
            _ => None,
        }
    }

    /// Most members or versions asked for; `None`: all.
    pub fn limit(&self) -> Option<u64> {
        let limit = match self {
            Self::TagHistory { part, .. } | Self::Sightings { part, .. } => part.limit,
            Self::TagsAt { limit, .. }
            | Self::RunningAt { limit, .. }
            | Self::RepositoryDiff { limit, .. }
            | Self::EnvironmentDiff { limit, .. } => *limit,
            Self::TagAt { .. } | Self::Entry { .. } | Self::Leaf { .. } | Self::Inclusion { .. } => 1,
        };
        (limit > 0).then_some(limit)
    }
}

impl RepositoryName {
    /// A tag of it.
    pub fn tag(&self, tag: Tag) -> TagRef {
        TagRef { registry: self.registry.clone(), repository: self.repository.clone(), tag }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

impl FromStr for RepositoryName {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        parse_repository(text).map(|(registry, repository)| Self { registry, repository })
    }
}

impl From<WorkloadName> for Workload {
    fn from(name: WorkloadName) -> Self {
        let WorkloadName { environment, cluster, namespace, workload, container } = name;
        Self { environment, cluster, namespace, workload, container }
    }
}

/// Names as the text they are parsed from.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A hash in hexadecimal.
mod as_hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    pub(super) fn parse(text: &str) -> Result<[u8; 32], String> {
        let hash = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        hash.ok_or_else(|| format!("{text:?} is not 32 bytes in hexadecimal"))
    }
}

/// Hashes in hexadecimal.
mod as_hex_list {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(hashes: &[[u8; 32]], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(hashes.iter().map(hex::encode))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| super::as_hex::parse(text).map_err(D::Error::custom)).collect()
    }
}
