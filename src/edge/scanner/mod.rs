//! The scanner: looks through a registry by itself, and records what nobody announced.
//!
//! One round goes through the repositories (`scope`), lists the tags of each on both sides, and looks at every tag that is on
//! either (`look`). Where both say the same and a claim is open ([`standing`](standing())), the look is recorded as its confirmation; where they
//! differ, the tag is looked at again after a pause, and what is then recorded holds only if the tag has got no entry since.
//! What agrees and was looked after is not recorded again: the ledger must not fill with what did not change. When each tag was
//! last seen, and as what, is remembered in a `state`, which gives the interval in which something came about; a scanner that is
//! killed goes on from there. What was found is a [`Report`].
//!
//! A look is a sample: what came and went between two of them nobody saw.

mod look;
mod report;
mod scope;
mod standing;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

pub use self::report::{Failure, Finding, Kind, Report, Watching};
pub use self::scope::{Scope, ScopeError};
pub use self::standing::standing;
pub use self::state::StateError;
pub use self::state::kept_again;

use self::look::{Found, Interval, Job, Looked, look, now_us, patiently};
use self::state::{Other, State, StateFile};
use super::port::{PortError, Recorded, ScannerPort};
use super::registry::{AskError, Registry as Client, Settings as ClientSettings};
use super::source::RegistryAccess;
use crate::ledger::names::{Digest, Registry, Repository, Tag, TagRef};

/// A round that was interrupted longer ago is not gone on with: too much of what it saw is old.
const LONGEST_INTERRUPTION: Duration = Duration::from_secs(24 * 3600);

/// How a registry is scanned.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How it is asked.
    pub client: ClientSettings,
    /// Tags looked at side by side.
    pub parallel: usize,
    /// Between two looks that must agree.
    pub pause: Duration,
    /// Looks at one tag in one round, before it is left to the next.
    pub looks: u32,
    /// An intent that is older is settled by looking.
    pub intent_patience: Duration,
    /// Requests in a row that got no answer, before the round is given up.
    pub silence: u32,
    /// Report, and record nothing.
    pub dry_run: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client: ClientSettings::default(),
            parallel: 8,
            pause: Duration::from_secs(10),
            looks: 6,
            intent_patience: Duration::from_secs(600),
            silence: 8,
            dry_run: false,
        }
    }
}

/// Why a scan cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// No client can be made.
    #[error("cannot prepare to ask the registry: {0}")]
    Client(String),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] PortError),
}

/// What is scanned.
#[derive(Debug, Clone)]
pub struct Target {
    /// The registry, as the ledger calls it.
    pub registry: Registry,
    /// Where it is, and as whom it is asked.
    pub access: RegistryAccess,
    /// Which of its repositories.
    pub scope: Scope,
}

/// Scans one registry.
pub struct Scanner<P> {
    shared: Arc<Shared<P>>,
    scope: Scope,
    file: StateFile,
    state: State,
    /// Requests in a row that got no answer.
    silence: u32,
    /// Parts of the round in a row for which the ledger gave no answer.
    ledger_silence: u32,
}

/// What the looks share.
struct Shared<P> {
    port: P,
    client: Client,
    registry: Registry,
    settings: Settings,
    watching: Arc<dyn Watching>,
    stop: watch::Receiver<bool>,
}

impl<P> Shared<P> {
    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits, or until the scanner is to stop.
    async fn sleep(&self, wait: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Where nobody is left who could stop it, only the time counts.
            Ok(_) = stop.wait_for(|stop| *stop) => {}
        }
    }
}

impl<P: ScannerPort> Scanner<P> {
    /// Prepares to scan. Remembers in the folder `state`, if there is one; in a dry run that is read and left as it is. Ends soon
    /// after `stop` turns true.
    pub fn new(
        port: P,
        target: Target,
        settings: Settings,
        state: Option<&Path>,
        watching: Arc<dyn Watching>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, ScanError> {
        let Target { registry, access, scope } = target;
        let client = Client::new(access, settings.client.clone()).map_err(ScanError::Client)?;
        let (mut file, state) = StateFile::open(state, &registry)?;
        if settings.dry_run {
            file = file.read_only();
        }
        let shared = Arc::new(Shared { port, client, registry, settings, watching, stop });
        Ok(Self { shared, scope, file, state, silence: 0, ledger_silence: 0 })
    }

    /// Goes once through the registry, or through what an interrupted round left.
    pub async fn round(&mut self) -> Result<Report, ScanError> {
        self.begin();
        let mut again = Vec::new();
        let repositories = self.repositories().await?;
        self.shared.watching.repositories(repositories.len());
        for repository in repositories {
            if self.is_over() {
                break;
            }
            let compared = self.repository(&repository, &mut again).await;
            self.or_gap(&format!("repository {repository}"), compared)?;
        }
        let compared = self.look_again(again).await;
        self.or_gap("what was to be looked at again", compared)?;
        self.end()
    }

    /// What can't be compared with the ledger is a gap, and the round goes on: unless what the ledger says does not verify,
    /// or it did not answer several times in a row.
    fn or_gap(&mut self, what: &str, compared: Result<(), ScanError>) -> Result<(), ScanError> {
        let error = match compared {
            Ok(()) => {
                self.ledger_silence = 0;
                return Ok(());
            }
            Err(ScanError::Ledger(error)) if !matches!(error, PortError::Untrusted(_)) => error,
            Err(error) => return Err(error),
        };
        self.ledger_silence = if matches!(error, PortError::Unavailable(_)) { self.ledger_silence + 1 } else { 0 };
        if self.ledger_silence >= self.shared.settings.silence {
            self.file.keep(&self.state)?;
            return Err(error.into());
        }
        self.fail(what, &format!("cannot be compared with the ledger: {error}"), true);
        Ok(())
    }

    fn begin(&mut self) {
        let now = now_us();
        (self.silence, self.ledger_silence) = (0, 0);
        let oldest = now.saturating_sub(u64::try_from(LONGEST_INTERRUPTION.as_micros()).unwrap_or(u64::MAX));
        if let Some(round) =
            self.state.round.as_mut().filter(|round| round.started_us >= oldest && round.started_us <= now)
        {
            tracing::info!(tags = round.tags, "going on with the round that was interrupted");
            // What could not be gone through is tried again; what stayed open, too.
            round.failures.clear();
            round.findings.retain(|finding| !finding.kind.is_open());
            return;
        }
        let registry = self.shared.registry.to_string();
        self.state.round =
            Some(Report { registry, started_us: now, dry_run: self.shared.settings.dry_run, ..Report::default() });
    }

    fn end(&mut self) -> Result<Report, ScanError> {
        if self.is_over() {
            let reason = if self.shared.is_stopping() {
                "it was interrupted; the next round goes on from here"
            } else {
                "the registry does not answer; the next round goes on from here"
            };
            self.fail("the round", reason, true);
            let report = self.report().clone();
            self.file.keep(&self.state)?;
            return Ok(report);
        }
        self.report().finished_us = now_us();
        let report = self.state.round.take().unwrap_or_default();
        self.file.keep(&self.state)?;
        Ok(report)
    }

    /// Nothing more is asked for in this round.
    fn is_over(&self) -> bool {
        self.shared.is_stopping() || self.silence >= self.shared.settings.silence
    }

    fn report(&mut self) -> &mut Report {
        self.state.round.get_or_insert_default()
    }

    fn fail(&mut self, what: &str, reason: &str, is_gap: bool) {
        self.shared.watching.failed(what, reason);
        self.report().fail(what, reason, is_gap);
    }

    /// What is to be gone through: what the registry lists, what the ledger knows, what is named, and what was seen before.
    async fn repositories(&mut self) -> Result<Vec<Repository>, ScanError> {
        let mut found: BTreeSet<Repository> = self.scope.named().iter().cloned().collect();
        if self.scope.needs_catalogue() {
            let listing = self.shared.client.repositories().await;
            self.heard(listing.broken.as_ref());
            for name in &listing.names {
                match Repository::parse(&self.shared.registry, name) {
                    Ok(repository) => drop(found.insert(repository)),
                    Err(error) => {
                        self.fail(&format!("repository {name:?}"), &format!("is left out: it {error}"), false)
                    }
                }
            }
            if let Some(error) = listing.broken {
                let reason = format!("{}; repositories can be named with --repository instead", error.reason());
                self.fail("the catalogue", &reason, true);
            }
            // Those that the registry does not list, or not any more.
            let shared = Arc::clone(&self.shared);
            let known = patiently(&shared, || shared.port.repositories(&shared.registry)).await;
            let known = known.map(|known| found.extend(known)).map_err(ScanError::from);
            self.or_gap("the repositories of the ledger", known)?;
            // And those that the ledger does not know, until what they held is known to be gone.
            let held = self
                .state
                .repositories
                .iter()
                .filter(|(_, seen)| seen.tags.values().any(|tag| tag.digest.is_some() || tag.other.is_some()));
            found.extend(held.filter_map(|(name, _)| Repository::parse(&self.shared.registry, name).ok()));
        }
        Ok(found.into_iter().filter(|repository| self.scope.holds(repository)).collect())
    }

    /// Looks at the tags of one repository. Those that are to be looked at again go into `again`.
    async fn repository(&mut self, repository: &Repository, again: &mut Vec<Job>) -> Result<(), ScanError> {
        let shared = Arc::clone(&self.shared);
        let started_us = self.report().started_us;
        let name = repository.as_str();
        let seen_before = self.state.repositories.get(name).cloned().unwrap_or_default();
        let is_done = seen_before.done_us >= started_us;
        let ledger = patiently(&shared, || shared.port.tags(&shared.registry, repository)).await?;
        let mut tags: BTreeSet<Tag> = BTreeSet::new();
        let (listed_us, mut is_whole) = (now_us(), true);
        if !is_done {
            let listing = shared.client.tags(repository, None).await;
            self.heard(listing.broken.as_ref());
            for tag in &listing.names {
                match tag.parse() {
                    Ok(tag) => drop(tags.insert(tag)),
                    Err(error) => {
                        self.fail(&format!("tag {tag:?} of {name}"), &format!("is left out: it {error}"), false)
                    }
                }
            }
            if let Some(error) = &listing.broken {
                is_whole = false;
                self.fail(&format!("the tags of {name}"), error.reason(), true);
            }
        }
        let remembered = seen_before.tags.iter().filter(|(_, seen)| {
            // What an interrupted round saw once; and where it is not gone on with, whatever was there.
            seen.other.is_some() || !is_done && seen.digest.is_some()
        });
        tags.extend(remembered.filter_map(|(tag, _)| tag.parse::<Tag>().ok()));
        let unknown =
            |tag: &Tag, version: u64| seen_before.tags.get(tag.as_str()).is_none_or(|seen| seen.version != version);
        tags.extend(
            ledger
                .iter()
                .filter(|(tag, view)| unknown(tag, view.version) || !is_done && view.digest.is_some())
                .map(|(tag, _)| tag.clone()),
        );
        let mut jobs = Vec::new();
        for tag in tags {
            let known = seen_before.tags.get(tag.as_str()).cloned().unwrap_or_default();
            let view = ledger.get(&tag).cloned().unwrap_or(super::port::TagView { version: 0, digest: None });
            // An interrupted round was through with it, and nothing came since.
            if known.seen_us >= started_us && known.other.is_none() && known.version == view.version {
                continue;
            }
            let pause_us = micros(shared.settings.pause);
            let not_before_us = known.other.as_ref().map_or(0, |other| other.since_us.saturating_add(pause_us));
            let tag = TagRef { registry: shared.registry.clone(), repository: repository.clone(), tag };
            let absent_us = seen_before.listed_us;
            jobs.push(Job { tag, view: Some(view), known, absent_us, looks: 0, not_before_us });
        }
        shared.watching.repository(name, jobs.len());
        self.run(jobs, again).await?;
        let is_over = self.is_over();
        let seen = self.state.repositories.entry(name.to_owned()).or_default();
        if !is_over && !is_done {
            if is_whole {
                (seen.listed_us, seen.done_us) = (listed_us, now_us());
            }
            self.report().repositories += 1;
        }
        self.file.keep_now_and_then(&self.state)?;
        Ok(())
    }

    /// Looks once more at what differs, after a pause, until it is settled.
    async fn look_again(&mut self, mut waiting: Vec<Job>) -> Result<(), ScanError> {
        self.file.keep(&self.state)?;
        while !waiting.is_empty() && !self.is_over() {
            self.shared.watching.looking_again(waiting.len());
            waiting.sort_by_key(|job| job.not_before_us);
            let first_us = waiting.first().map_or(0, |job| job.not_before_us);
            self.shared.sleep(Duration::from_micros(first_us.saturating_sub(now_us()))).await;
            if self.is_over() {
                break;
            }
            let due_us = now_us();
            let (due, mut later): (Vec<Job>, Vec<Job>) =
                waiting.into_iter().partition(|job| job.not_before_us <= due_us);
            self.run(due, &mut later).await?;
            waiting = later;
        }
        // Whoever goes on with an interrupted round counts these once more.
        let started_us = self.report().started_us;
        let counted_anew = waiting.iter().filter(|job| !job.was_counted(started_us)).count();
        let report = self.report();
        report.tags = report.tags.saturating_sub(u64::try_from(counted_anew).unwrap_or_default());
        Ok(())
    }

    /// Looks at tags, several at a time.
    async fn run(&mut self, jobs: Vec<Job>, again: &mut Vec<Job>) -> Result<(), ScanError> {
        let mut looks = JoinSet::new();
        let mut tags = HashMap::new();
        let mut jobs = jobs.into_iter();
        loop {
            while looks.len() < self.shared.settings.parallel.max(1) && !self.is_over() {
                let Some(job) = jobs.next() else { break };
                let (shared, tag) = (Arc::clone(&self.shared), job.tag.to_string());
                let begun = looks.spawn(async move {
                    let looked = look(&shared, &job).await;
                    (job, looked)
                });
                tags.insert(begun.id(), tag);
            }
            let Some(ended) = looks.join_next_with_id().await else { return Ok(()) };
            let tag = tags.remove(&ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id)).unwrap_or_default();
            match ended {
                Ok((_, (job, looked))) => {
                    let looked = match looked {
                        Ok(looked) => looked,
                        Err(error) if !matches!(error, PortError::Untrusted(_) | PortError::Unavailable(_)) => {
                            let reason = format!("cannot be compared with the ledger: {error}");
                            self.fail(&tag, &reason, true);
                            continue;
                        }
                        Err(error) => {
                            // What is known so far is kept; the others' answers are not waited for.
                            self.file.keep(&self.state)?;
                            return Err(error.into());
                        }
                    };
                    self.shared.watching.looked();
                    again.extend(self.take(job, looked));
                    self.file.keep_now_and_then(&self.state)?;
                }
                Err(error) => {
                    tracing::error!(tag, %error, "a look at a tag ended in a panic; this is a bug");
                    self.fail(&tag, "the look at it ended in a panic; this is a bug", true);
                }
            }
        }
    }

    /// Remembers and reports what a look came to; returns the tag if it is to be looked at again.
    fn take(&mut self, job: Job, looked: Looked) -> Option<Job> {
        let failed = match &looked {
            Looked::Failed { error, .. } => Some(error),
            _ => None,
        };
        self.heard(failed);
        let started_us = self.report().started_us;
        if job.looks == 0 && !job.was_counted(started_us) {
            self.report().tags += 1;
        }
        match looked {
            Looked::Agreed { seen, interval, at_us, version } => {
                self.remember(&job, seen.as_ref(), interval, at_us, version);
                self.report().agreed += 1;
                None
            }
            Looked::Recorded { found, at_us, version, recorded } => {
                if recorded.is_some() {
                    self.remember(&job, found.seen.as_ref(), found.interval, at_us, version);
                    self.report().agreed += 1;
                }
                self.found(&job, found, recorded, String::new());
                None
            }
            Looked::Seen { found, at_us } => self.again(job, found, Kind::Unsettled, Some(at_us)),
            Looked::Changed { found } => self.again(job, found, Kind::Unsettled, None),
            Looked::Held { intent, ledger } => {
                let nothing = Interval { last_us: 0, first_us: 0 };
                let found =
                    Found { kind: Kind::Held, ledger, seen: None, interval: nothing, checks: Some(intent.index) };
                self.again(job, found, Kind::Held, None)
            }
            Looked::Failed { error, ledger } => {
                let nothing = Interval { last_us: 0, first_us: 0 };
                let found = Found { kind: Kind::Unreachable, ledger, seen: None, interval: nothing, checks: None };
                self.found(&job, found, None, error.reason().to_owned());
                None
            }
            Looked::Refused { found, reason } => {
                self.found(&job, Found { kind: Kind::Unrecorded, ..found }, None, reason);
                None
            }
        }
    }

    /// A tag that is looked at again, if it was not often enough. `seen_us` is when it was seen as `found`.
    fn again(&mut self, mut job: Job, found: Found, kind: Kind, seen_us: Option<u64>) -> Option<Job> {
        if seen_us.is_some() {
            let digest = found.seen.as_ref().map(Digest::to_string);
            job.known.other = Some(Other { digest, since_us: found.interval.first_us });
            self.seen_tag(&job).other.clone_from(&job.known.other);
        }
        job.looks += 1;
        if job.looks >= self.shared.settings.looks {
            let reason = match kind {
                Kind::Held => "somebody is about to change it, and has not said yet what became of that",
                _ => "it changed each time it was looked at",
            };
            self.found(&job, Found { kind, ..found }, None, reason.to_owned());
            return None;
        }
        // From the second look on the ledger is read anew: what was announced meanwhile counts.
        job.view = None;
        job.not_before_us = now_us().saturating_add(micros(self.shared.settings.pause));
        Some(job)
    }

    fn found(&mut self, job: &Job, found: Found, recorded: Option<Recorded>, reason: String) {
        let outcome =
            recorded.as_ref().map(|recorded| recorded.outcome.as_str_name().trim_start_matches("OUTCOME_").to_owned());
        let why = recorded.as_ref().map(|recorded| match recorded.rule.as_str() {
            "" => recorded.detail.clone(),
            rule => format!("{} (rule {rule})", recorded.detail),
        });
        let finding = Finding {
            tag: job.tag.to_string(),
            kind: found.kind,
            ledger: found.ledger.map(|digest| digest.to_string()),
            registry: found.seen.map(|digest| digest.to_string()),
            last_seen_us: found.interval.last_us,
            first_seen_us: found.interval.first_us,
            checks_entry: found.checks,
            entry: recorded.map(|recorded| recorded.index),
            outcome,
            reason: why.unwrap_or(reason),
        };
        self.shared.watching.found(&finding);
        self.report().add(finding);
    }

    fn remember(&mut self, job: &Job, seen: Option<&Digest>, interval: Interval, at_us: u64, version: u64) {
        let tag = self.seen_tag(job);
        tag.digest = seen.map(Digest::to_string);
        (tag.before_us, tag.since_us) = (interval.last_us, interval.first_us);
        tag.seen_us = tag.seen_us.max(at_us);
        tag.version = version;
        tag.other = None;
        if version == 0 && seen.is_none() {
            // Neither side knows it; that its repository is listed without it will do.
            if let Some(repository) = self.state.repositories.get_mut(job.tag.repository.as_str()) {
                repository.tags.remove(job.tag.tag.as_str());
            }
        }
    }

    fn seen_tag(&mut self, job: &Job) -> &mut state::SeenTag {
        let repository = self.state.repositories.entry(job.tag.repository.to_string()).or_default();
        repository.tags.entry(job.tag.tag.to_string()).or_default()
    }

    /// Counts requests in a row that got no answer at all.
    fn heard(&mut self, failed: Option<&AskError>) {
        self.silence = if matches!(failed, Some(AskError::Unreachable(_))) { self.silence + 1 } else { 0 };
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
