//! `at`, `history`, `tags`, `repositories`: tags, what they pointed to, and where they are.

use clap::Args;

use super::when::{Moment, check_order, moment, time_us};
use super::{Answering, Globals, Outcome};
use crate::ledger::answer::{Part, Question, RepositoryName};
use crate::ledger::names::TagRef;

/// Show what a tag points to, or pointed to at a time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger at registry.example/team/app:v1\n  \
    tagledger at registry.example/team/app:v1 --time \"14:00 yesterday\" --save answer.json\n\n\
    Exits 4 if nothing was bound to the tag then: never seen, not yet seen, or deleted.")]
pub(super) struct At {
    /// The tag, registry/repository:tag
    #[arg(value_name = "REF")]
    tag: TagRef,
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    #[command(flatten)]
    answering: Answering,
}

/// Show everything that was asserted about a tag, denied attempts included
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger history registry.example/team/app:v1\n  \
    tagledger history registry.example/team/app:v1 --newest-first --limit 10\n  \
    tagledger history registry.example/team/app:v1 --since yesterday\n\nExits 4 if there is nothing.")]
pub(super) struct History {
    /// The tag, registry/repository:tag
    #[arg(value_name = "REF")]
    tag: TagRef,
    /// Only what was recorded at or after this time
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    since: Option<u64>,
    /// Only what was recorded before this time
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    until: Option<u64>,
    /// At most so many entries [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Newest first instead of oldest first
    #[arg(long)]
    newest_first: bool,
    #[command(flatten)]
    answering: Answering,
}

/// List the tags of a repository, now or at a time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger tags registry.example/team/app\n  \
    tagledger tags registry.example/team/app --time 2026-11-21T10:00:00Z --all\n\nExits 4 if there is none.")]
pub(super) struct Tags {
    /// The repository, registry/repository
    #[arg(value_name = "REPO")]
    repository: RepositoryName,
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    /// Also tags that were known but bound to nothing
    #[arg(long)]
    all: bool,
    /// At most so many tags [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    answering: Answering,
}

/// List the repositories that were ever heard of, now or at a time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger repositories\n  \
    tagledger repositories --time \"3 days ago\" --json\n\nExits 4 if there is none.")]
pub(super) struct Repositories {
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    /// At most so many repositories [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    answering: Answering,
}

impl Repositories {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let question = Question::RepositoriesAt { at_us: self.time.as_us(), limit: self.limit.unwrap_or(0) };
        globals.answer(question, &self.answering).await
    }
}

impl At {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let question = Question::TagAt { tag: self.tag, at_us: self.time.as_us() };
        globals.answer(question, &self.answering).await
    }
}

impl History {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let part = Part {
            since_us: self.since.unwrap_or(0),
            until_us: self.until.unwrap_or(0),
            newest_first: self.newest_first,
            limit: self.limit.unwrap_or(0),
        };
        check_order(("--since", part.since_us), ("--until", part.until_us))?;
        globals.answer(Question::TagHistory { tag: self.tag, part }, &self.answering).await
    }
}

impl Tags {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let question = Question::TagsAt {
            repository: self.repository,
            at_us: self.time.as_us(),
            include_unbound: self.all,
            limit: self.limit.unwrap_or(0),
        };
        globals.answer(question, &self.answering).await
    }
}
