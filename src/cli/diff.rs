//! `diff`: what changed between two times.

use clap::{ArgGroup, Args};

use super::when::{Moment, check_order, moment, time_us};
use super::{Answering, Globals, Outcome};
use crate::ledger::answer::{Question, RepositoryName};

/// Show what changed between two times, in a repository or an environment
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").args(["repository", "env"]).required(true)))]
#[command(after_help = "Examples:\n  tagledger diff registry.example/team/app --from \"3 days ago\"\n  \
    tagledger diff --env prod --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z")]
pub(super) struct Diff {
    /// The repository, registry/repository
    #[arg(value_name = "REPO")]
    repository: Option<RepositoryName>,
    /// The environment
    #[arg(long, value_name = "ENV")]
    env: Option<String>,
    /// The earlier recorded time
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    from: u64,
    /// The later recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    to: Moment,
    /// At most so many changes [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    answering: Answering,
}

impl Diff {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let (from_us, to_us, limit) = (self.from, self.to.as_us(), self.limit.unwrap_or(0));
        check_order(("--from", from_us), ("--to", to_us))?;
        let question = match (self.repository, self.env) {
            (Some(repository), _) => Question::RepositoryDiff { repository, from_us, to_us, limit },
            (None, environment) => {
                let environment = environment.expect("clap requires one of the two");
                Question::EnvironmentDiff { environment, from_us, to_us, limit }
            }
        };
        globals.answer(question, &self.answering).await
    }
}
