//! What a scan found: ledger against registry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Findings and failures that a report holds, and as many again of those that leave a round incomplete; what comes on top is
/// counted.
const MAX_LISTED: usize = 10_000;

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
    #[serde(default)]
    pub left_out: BTreeMap<Kind, u64>,
    /// What could not be gone through, besides tags.
    pub failures: Vec<Failure>,
    /// Failures beyond those listed.
    #[serde(default)]
    pub failures_left_out: u64,
    /// Of them, those over which something may have been missed.
    #[serde(default)]
    pub gaps_left_out: u64,
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
        let is_gap = self.gaps_left_out > 0 || self.failures.iter().any(|failure| failure.is_gap);
        self.finished_us > 0 && !is_gap && !self.kinds().any(Kind::is_open)
    }

    /// Ledger and registry said the same of every tag before anything was recorded.
    pub fn has_no_differences(&self) -> bool {
        self.kinds().all(|kind| kind == Kind::Unconfirmed)
    }

    /// How many findings there are of a kind, listed or not.
    pub fn count(&self, kind: Kind) -> u64 {
        let listed = self.findings.iter().map(|finding| u64::from(finding.kind == kind)).sum::<u64>();
        listed + self.left_out.get(&kind).copied().unwrap_or_default()
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.findings.iter().map(|finding| finding.kind).chain(self.left_out.keys().copied())
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if is_listed(self.findings.len(), finding.kind.is_open()) {
            self.findings.push(finding);
        } else {
            *self.left_out.entry(finding.kind).or_default() += 1;
        }
    }

    pub(super) fn fail(&mut self, what: impl Into<String>, reason: impl Into<String>, is_gap: bool) {
        if is_listed(self.failures.len(), is_gap) {
            self.failures.push(Failure { what: what.into(), reason: reason.into(), is_gap });
        } else {
            self.failures_left_out += 1;
            self.gaps_left_out += u64::from(is_gap);
        }
    }
}

/// Whether one more is. However much else there is, there is room for what leaves a round incomplete.
fn is_listed(listed: usize, is_open: bool) -> bool {
    listed < MAX_LISTED || (is_open && listed < 2 * MAX_LISTED)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(number: usize, kind: Kind) -> Finding {
        Finding {
            tag: format!("r.example/app:{number}"),
            kind,
            ledger: None,
            registry: None,
            last_seen_us: 0,
            first_seen_us: 0,
            checks_entry: None,
            entry: None,
            outcome: None,
            reason: String::new(),
        }
    }

    #[test]
    fn a_gap_after_any_number_of_other_failures_leaves_the_round_incomplete_and_is_listed() {
        let mut report = Report { finished_us: 1, ..Report::default() };
        (0..30_000).for_each(|number| report.fail(format!("app {number}"), "its name is none", false));
        assert!(report.is_complete());
        assert_eq!((report.failures.len(), report.failures_left_out, report.gaps_left_out), (10_000, 20_000, 0));
        (0..10_001).for_each(|number| report.fail(format!("app {number}"), "it answers 403", true));
        assert!(!report.is_complete());
        assert_eq!((report.failures.len(), report.failures_left_out, report.gaps_left_out), (20_000, 20_001, 1));
        // Also where it is the only one that is known of.
        report.failures.clear();
        assert!(!report.is_complete());
    }

    #[test]
    fn what_is_left_out_counts_for_the_verdict_as_what_is_listed_does() {
        let mut report = Report { finished_us: 1, ..Report::default() };
        (0..10_000).for_each(|number| report.add(finding(number, Kind::Unconfirmed)));
        assert!(report.is_complete() && report.has_no_differences());
        report.add(finding(0, Kind::Retagged));
        assert!(report.is_complete() && !report.has_no_differences());
        (0..50_000).for_each(|number| report.add(finding(number, Kind::Unreachable)));
        assert_eq!((report.findings.len(), report.count(Kind::Unreachable)), (20_000, 50_000));
        report.findings.clear();
        assert!(!report.is_complete());
        assert_eq!(report.left_out, BTreeMap::from([(Kind::Retagged, 1), (Kind::Unreachable, 40_000)]));
    }

    #[test]
    fn a_round_that_was_kept_before_failures_were_counted_is_read() {
        let kept = serde_json::to_value(Report::default()).expect("JSON");
        let mut kept = kept.as_object().expect("an object").clone();
        for name in ["left_out", "failures_left_out", "gaps_left_out"] {
            kept.remove(name).expect("there");
        }
        kept.insert("findings_left_out".to_owned(), 7.into());
        let read: Report = serde_json::from_value(kept.into()).expect("read");
        assert_eq!(read, Report::default());
        let some = Report { left_out: BTreeMap::from([(Kind::Held, 2)]), ..Report::default() };
        let text = serde_json::to_string(&some).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("read"), some);
    }
}
