//! What is asked, in the form in which it is kept in evidence files (`docs/SPEC.md`, "Evidence files").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ledger::names::{Digest, RefError, Registry, Repository, TagRef, parse_repository};
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
        /// Which part of them.
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
    /// Which repositories had been seen?
    RepositoriesAt {
        /// When.
        at_us: u64,
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
    /// Which policy was in force?
    PolicyAt {
        /// When.
        at_us: u64,
    },
    /// Who might state what?
    Principals {
        /// When.
        at_us: u64,
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

/// `registry/repository`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    /// The registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: Repository,
}

impl Question {
    /// The last moment asked about, where states are asked for; 0: now.
    pub fn until_us(&self) -> Option<u64> {
        match self {
            Self::TagAt { at_us, .. }
            | Self::TagsAt { at_us, .. }
            | Self::RepositoriesAt { at_us, .. }
            | Self::RunningAt { at_us, .. }
            | Self::PolicyAt { at_us } => Some(*at_us),
            Self::Principals { at_us } => Some(*at_us),
            Self::RepositoryDiff { to_us, .. } | Self::EnvironmentDiff { to_us, .. } => Some(*to_us),
            Self::TagHistory { .. }
            | Self::Sightings { .. }
            | Self::Entry { .. }
            | Self::Leaf { .. }
            | Self::Inclusion { .. } => None,
        }
    }

    /// Most members or versions asked for; `None`: all.
    pub fn limit(&self) -> Option<u64> {
        let limit = match self {
            Self::TagHistory { part, .. } | Self::Sightings { part, .. } => part.limit,
            Self::TagsAt { limit, .. }
            | Self::RepositoriesAt { limit, .. }
            | Self::RunningAt { limit, .. }
            | Self::RepositoryDiff { limit, .. }
            | Self::EnvironmentDiff { limit, .. } => *limit,
            Self::Principals { .. } => 0,
            Self::TagAt { .. }
            | Self::PolicyAt { .. }
            | Self::Entry { .. }
            | Self::Leaf { .. }
            | Self::Inclusion { .. } => 1,
        };
        (limit > 0).then_some(limit)
    }
}

impl Part {
    /// The last moment of it, if it is asked for at a time.
    pub fn last_us(&self, now_us: u64) -> u64 {
        self.until_us.checked_sub(1).map_or(now_us, |last_us| last_us.min(now_us))
    }
}

impl RepositoryName {
    /// The catalogue of its tags.
    pub fn tags(&self) -> Subject {
        Subject::TagsOf(self.registry.clone(), self.repository.clone())
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
        let text = String::deserialize(deserializer)?;
        let hash = hex::decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        hash.ok_or_else(|| D::Error::custom(format!("{text:?} is not 32 bytes in hexadecimal")))
    }
}
