//! `watch`: the log as it grows.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};

use super::{Ending, Failure, Globals, Outcome, Output, json, show, visible_lines};
use crate::ledger::answer::RepositoryName;
use crate::ledger::names::TagRef;
use crate::proto::{self, WatchRequest};

/// Follow the log as it grows
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger watch --outcome denied --outcome violation\n  \
    tagledger watch --repo registry.example/team/app --from 0 --json\n\n\
    Each entry is proven to be in the log before it is printed. JSON comes as one object a line. Which entries pass the \
    filter is the server's word. Ends with --limit, or when interrupted.")]
pub(super) struct Watch {
    /// Index of the first entry to look at [default: from now on]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Only this tag, registry/repository:tag
    #[arg(long = "ref", value_name = "REF", conflicts_with = "repo")]
    tag: Option<TagRef>,
    /// Only this repository, registry/repository
    #[arg(long, value_name = "REPO")]
    repo: Option<RepositoryName>,
    /// Only deployments to this environment
    #[arg(long, value_name = "ENV")]
    env: Option<String>,
    /// Only these outcomes; may be repeated
    #[arg(long, value_name = "OUTCOME", ignore_case = true)]
    outcome: Vec<WatchedOutcome>,
    /// Commitments too
    #[arg(long)]
    commitments: bool,
    /// End after so many entries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WatchedOutcome {
    Applied,
    Unchanged,
    Denied,
    Violation,
    Failed,
    Drift,
    Noted,
}

impl From<WatchedOutcome> for proto::Outcome {
    fn from(outcome: WatchedOutcome) -> Self {
        match outcome {
            WatchedOutcome::Applied => Self::Applied,
            WatchedOutcome::Unchanged => Self::Unchanged,
            WatchedOutcome::Denied => Self::Denied,
            WatchedOutcome::Violation => Self::Violation,
            WatchedOutcome::Failed => Self::Failed,
            WatchedOutcome::Drift => Self::Drift,
            WatchedOutcome::Noted => Self::Noted,
        }
    }
}

impl Watch {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let ledger = globals.open().await?;
        let mut watcher = ledger.watch(self.request()).await?;
        let mut left = self.limit;
        while left != Some(0) {
            let Some(watched) = watcher.next().await? else {
                return Err(Failure::Operational("the server ended the stream; it may be stopping".to_owned()));
            };
            let line = match self.output.json {
                true => format!("{}\n", json::entry(watched.index, &watched.entry)),
                false => show::line(&watched),
            };
            let line = visible_lines(&line);
            let mut out = io::stdout().lock();
            match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
                // Whoever read along has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(Failure::Operational(format!("cannot write to standard output: {error}"))),
                Ok(()) => left = left.map(|left| left - 1),
            }
        }
        Ok(Ending::Answered)
    }

    fn request(&self) -> WatchRequest {
        let repository = self.repo.clone().or_else(|| {
            let TagRef { registry, repository, .. } = self.tag.clone()?;
            Some(RepositoryName { registry, repository })
        });
        WatchRequest {
            begin: self.from,
            registry: repository.as_ref().map(|name| name.registry.to_string()).unwrap_or_default(),
            repository: repository.as_ref().map(|name| name.repository.to_string()).unwrap_or_default(),
            tag: self.tag.as_ref().map(|name| name.tag.to_string()).unwrap_or_default(),
            environment: self.env.clone().unwrap_or_default(),
            outcomes: self.outcome.iter().map(|&outcome| proto::Outcome::from(outcome).into()).collect(),
            commitments: self.commitments,
        }
    }
}
