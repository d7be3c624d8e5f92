//! `where`: every entry that names a digest.

use clap::Args;

use super::{Answering, Globals, Outcome};
use crate::ledger::answer::{Part, Question};
use crate::ledger::names::Digest;

/// List every entry that names a digest
#[derive(Debug, Args)]
#[command(
    after_help = "Pushed where, deployed where, deleted when: everything, oldest first.\n\nExits 4 if there is nothing."
)]
pub(super) struct Where {
    /// sha256: or sha512: and hexadecimal digits
    digest: Digest,
    /// At most so many entries [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    answering: Answering,
}

impl Where {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let part = Part { limit: self.limit.unwrap_or(0), ..Part::default() };
        globals.answer(Question::Sightings { digest: self.digest, part }, &self.answering).await
    }
}
