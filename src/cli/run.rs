//! `ran`: which workloads ran which digests.

use clap::Args;

use super::when::{Moment, moment};
use super::{Answering, Globals, Outcome};
use crate::ledger::answer::Question;

/// List what runs, or ran at a time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger ran --env prod\n  \
    tagledger ran --env prod --time \"3 days ago\" --save what-ran.json\n  tagledger ran --workload web --all\n\n\
    Exits 4 if nothing ran.")]
pub(super) struct Ran {
    /// Only in this environment [default: all]
    #[arg(long, value_name = "ENV", default_value = "", hide_default_value = true)]
    env: String,
    /// Only this workload [default: all]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    workload: String,
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    /// Also workloads that were known but stopped
    #[arg(long)]
    all: bool,
    /// At most so many workloads [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    answering: Answering,
}

impl Ran {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let question = Question::RunningAt {
            environment: self.env,
            workload: self.workload,
            at_us: self.time.as_us(),
            include_stopped: self.all,
            limit: self.limit.unwrap_or(0),
        };
        globals.answer(question, &self.answering).await
    }
}
