//! What a scan found: ledger against registry.

use serde::{Deserialize, Serialize};

/// Findings that a report holds; what comes on top is counted.
const MAX_FINDINGS: usize = 10_000;

/// One round over a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The registry, as the ledger calls it.
    pub registry: String,
    /// When the round began, microseconds since the Unix epoch.
    pub started_us: u64,
    /// When it ended; 0: it was interrupted.
    pub finished_us: u64,
    /// Nothing was recorded.
    pub dry_run: bool,
    /// Repositories that were gone through.
    pub repositories: u64,
    /// Tags that were looked at, on either side.
    pub tags: u64,
    /// Tags of which ledger and registry say the same, once the round is over and all that was found is recorded.
    pub agreed: u64,
    /// Where they differed, or where it stays open whether they do.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub findings_left_out: u64,
    /// What could not be gone through, besides tags.
    pub failures: Vec<Failure>,
}

/// One tag of which ledger and registry did not say the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `registry/repository:tag`
    pub tag: String,
    /// What it comes to.
    pub kind: Kind,
    /// What the ledger had.
    pub ledger: Option<String>,
    /// What the registry has.
    pub registry: Option<String>,
    /// When the scanner last saw it otherwise, microseconds since the Unix epoch; 0: never.
    pub last_seen_us: u64,
    /// When it first saw it like this; 0: it was not seen.
    pub first_seen_us: u64,
    /// The entry whose claim was checked.
    pub checks_entry: Option<u64>,
    /// The entry that records it; none in a dry run, and where nothing is certain.
    pub entry: Option<u64>,
    /// What the ledger made of that.
    pub outcome: Option<String>,
    /// In words.
    pub reason: String,
}

/// What a finding comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The registry has it, and the ledger had no binding.
    Unannounced,
    /// It moved, and nobody said so.
    Retagged,
    /// It is gone, and nobody said so.
    Vanished,
    /// It is as claimed; nobody had looked.
    Unconfirmed,
    /// Somebody is about to change it.
    Held,
    /// The registry says something else each time, or the ledger gets new entries all the while.
    Unsettled,
    /// The registry gives no answer, or none that can be believed.
    Unreachable,
    /// The ledger does not take what was seen.
    Unrecorded,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Unannounced,
        Self::Retagged,
        Self::Vanished,
        Self::Unconfirmed,
        Self::Held,
        Self::Unsettled,
        Self::Unreachable,
        Self::Unrecorded,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unannounced => "unannounced",
            Self::Retagged => "retagged",
            Self::Vanished => "vanished",
            Self::Unconfirmed => "unconfirmed",
            Self::Held => "held",
            Self::Unsettled => "unsettled",
            Self::Unreachable => "unreachable",
            Self::Unrecorded => "unrecorded",
        }
    }

    /// What became of the tag is not known, or not recorded.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Held | Self::Unsettled | Self::Unreachable | Self::Unrecorded)
    }
}

/// Something that could not be gone through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A repository, the catalogue, the round.
    pub what: String,
    /// Why.
    pub reason: String,
    /// Something may have been missed over it.
    pub is_gap: bool,
}

impl Report {
    /// Everything was gone through, and nothing stayed open.
    pub fn is_complete(&self) -> bool {
        let open = self.findings.iter().any(|finding| finding.kind.is_open());
        self.finished_us > 0 && !open && !self.failures.iter().any(|failure| failure.is_gap)
    }

    /// Ledger and registry said the same of every tag before anything was recorded.
    pub fn has_no_differences(&self) -> bool {
        self.findings.iter().all(|finding| finding.kind == Kind::Unconfirmed)
    }

    /// How many findings there are of a kind, of those that are listed.
    pub fn count(&self, kind: Kind) -> usize {
        self.findings.iter().filter(|finding| finding.kind == kind).count()
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS || finding.kind.is_open() {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    pub(super) fn fail(&mut self, what: impl Into<String>, reason: impl Into<String>, is_gap: bool) {
        if self.failures.len() < MAX_FINDINGS {
            self.failures.push(Failure { what: what.into(), reason: reason.into(), is_gap });
        }
    }
}

/// Who follows a round.
pub trait Watching: Send + Sync + 'static {
    /// So many repositories are to be gone through.
    fn repositories(&self, _count: usize) {}
    /// A repository with so many tags to look at comes next.
    fn repository(&self, _name: &str, _tags: usize) {}
    /// A tag was looked at.
    fn looked(&self) {}
    /// Something was found.
    fn found(&self, _finding: &Finding) {}
    /// So many tags are looked at once more, after a pause.
    fn looking_again(&self, _tags: usize) {}
    /// Something could not be gone through.
    fn failed(&self, _what: &str, _reason: &str) {}
}

/// Nobody.
impl Watching for () {}
