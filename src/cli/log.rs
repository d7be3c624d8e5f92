//! `entry`, `prove`, `checkpoint`: the log as a log.

use clap::Args;
use serde_json::json;

use super::{Answering, Ending, Globals, Outcome, Output, json, print};
use crate::ledger::answer::Question;

/// Show one entry of the log
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger entry 41\n  tagledger entry 41 --save entry41.tlog-proof\n  \
    tagledger entry 9a4e1f0c22d3b5a6978877665544332211ffeeddccbbaa998877665544332211 --json\n\n\
    Saved with the extension .tlog-proof, the file is a C2SP tlog-proof, which any tlog client can check.")]
pub(super) struct ShowEntry {
    /// Its index, or its leaf hash in hexadecimal
    #[arg(value_name = "INDEX|LEAFHASH", value_parser = which_entry)]
    which: Question,
    #[command(flatten)]
    answering: Answering,
}

/// Prove that an entry is in the log
#[derive(Debug, Args)]
#[command(
    after_help = "Prints leaf hash, root and audit path (RFC 6962 section 2.1.1), for whoever wants to check by hand."
)]
pub(super) struct Prove {
    /// Index of the entry
    index: u64,
    /// In the log as it was at this size [default: the newest checkpoint's]
    #[arg(long, value_name = "SIZE", value_parser = clap::value_parser!(u64).range(1..))]
    size: Option<u64>,
    #[command(flatten)]
    answering: Answering,
}

/// Show the newest checkpoint, once it continues the one remembered
#[derive(Debug, Args)]
#[command(after_help = "Compare it with what others saw: two that contradict each other prove a fork.")]
pub(super) struct ShowCheckpoint {
    #[command(flatten)]
    output: Output,
}

fn which_entry(text: &str) -> Result<Question, String> {
    // The hash first: one made of decimal digits is still a hash.
    if let Some(hash) = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok()) {
        return Ok(Question::Leaf { hash });
    }
    text.parse()
        .map(|index| Question::Entry { index })
        .map_err(|_| "neither an index nor a leaf hash of 64 hexadecimal digits".to_owned())
}

impl ShowEntry {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        globals.answer(self.which, &self.answering).await
    }
}

impl Prove {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let question = Question::Inclusion { index: self.index, tree_size: self.size.unwrap_or(0) };
        globals.answer(question, &self.answering).await
    }
}

impl ShowCheckpoint {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        let ledger = globals.open().await?;
        let newest = ledger.checkpoint().await?;
        let (size, root) = (newest.checkpoint.size, hex::encode(newest.checkpoint.root));
        let vkey = ledger.vkey();
        if self.output.json {
            let document = json!({
                "answer": { "size": size, "root": root, "checkpoint": newest.note },
                "verification": { "origin": vkey.origin().as_str(), "vkey": vkey.to_string() },
            });
            print(&json::text(&document))?;
            return Ok(Ending::Answered);
        }
        print(&format!(
            "{}\nverified: signed by {} (key {}); the log of {size} entries continues every log seen before\n",
            newest.note,
            vkey.origin(),
            hex::encode(vkey.hash())
        ))?;
        Ok(Ending::Answered)
    }
}
