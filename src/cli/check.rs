//! `verify`: a saved answer, checked without any server, by itself or against another.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Globals, Outcome, Output, show};
use crate::client::ClientError;
use crate::client::saved::{self, SavedError};
use crate::client::trust::TrustFolder;
use crate::ledger::answer::{Answer, AnswerError, Claimed, Proven};
use crate::ledger::evidence::check_same_log;
use crate::ledger::note::Vkey;

/// Check a saved answer, without any server
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tagledger at registry.example/team/app:v1 --save answer.json\n  \
    tagledger verify answer.json\n  tagledger verify answer.json --vkey 'ledger.example/tags+5a4e2c16+AZ…'\n\n\
    tagledger verify receipt.tlog-proof --against answer.json\n\n\
    The file is checked under the key pinned for its log, or the one given with --vkey; never under one from the file.\n\
    Exits like the question itself, and 3 if anything in the file does not hold.\n\n\
    With --against, two answers of one ledger are held against each other: say, an entry that proves to be in the log, and \
    an answer whose history skips it. An honest ledger never contradicts itself. If this one does, the exit code is 3, and \
    the two files are the proof, for anyone who has the ledger's key.")]
pub(super) struct Verify {
    /// A file written by --save
    file: PathBuf,
    /// Another such file: do the two contradict each other?
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A file, and what it proves.
struct Checked {
    path: PathBuf,
    answer: Answer,
    proven: Proven,
}

impl Verify {
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        let one = check(&self.file, globals)?;
        let Some(against) = &self.against else { return show::answer(&one.answer, &self.output) };
        let other = check(against, globals)?;
        if one.answer.entries.vkey() != other.answer.entries.vkey() {
            return Err(Failure::Usage(format!(
                "{} is of {}, and {} of {}: only answers of one ledger can contradict each other",
                one.path.display(),
                one.answer.entries.vkey(),
                other.path.display(),
                other.answer.entries.vkey()
            )));
        }
        match one.proven.contradiction(&other.proven) {
            Some(contradiction) => Err(Failure::Verification(format!(
                "MISBEHAVIOUR: {} contradicts itself: {contradiction}. Each file verifies by itself under its key; together \
                 {} and {} prove this to anyone. Keep both, and ask the operator",
                one.answer.entries.vkey().origin(),
                one.path.display(),
                other.path.display()
            ))),
            None => show::agreement(&one.path, &one.answer, &other.path, &other.answer, &self.output),
        }
    }
}

fn check(path: &Path, globals: &Globals) -> Result<Checked, Failure> {
    let claimed = saved::load(path).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        match error {
            SavedError::Read { .. } | SavedError::TooLong { .. } => Failure::Operational(error.to_string()),
            SavedError::Version(_) => Failure::Operational(message),
            SavedError::Malformed(_) | SavedError::Checksum => Failure::Verification(message),
        }
    })?;
    let wrong = |error: AnswerError| Failure::Verification(format!("{}: {error}", path.display()));
    let (vkey, trust) = match &globals.vkey {
        // A key by hand needs no trust folder; where there is one, what it remembers counts all the same.
        Some(vkey) => (vkey.clone(), globals.trust_folder().ok()),
        None => {
            let trust = globals.trust_folder()?;
            (pinned_key(&trust, &claimed)?, Some(trust))
        }
    };
    let answer = claimed.check(&vkey).map_err(wrong)?;
    if let Some(trust) = trust {
        compare_with_memory(&trust, &answer)?;
    }
    let proven = claimed.prove(&vkey).map_err(wrong)?;
    Ok(Checked { path: path.to_owned(), answer, proven })
}

/// The key pinned for the log that the file says it is of. A file can only choose among keys that are trusted already.
fn pinned_key(trust: &TrustFolder, claimed: &Claimed) -> Result<Vkey, Failure> {
    let note = claimed.pages.first().map_or("", |page| &page.checkpoint);
    let origin = note.lines().next().unwrap_or_default();
    let pinned = trust.key_of_origin(origin).map_err(ClientError::from)?;
    pinned.ok_or_else(|| {
        Failure::Operational(format!(
            "no key is pinned for the log {origin:?}; get its verifier key from the operator and give it with --vkey, or \
             ask its server once"
        ))
    })
}

/// Without a server only checkpoints of one size can be compared.
fn compare_with_memory(trust: &TrustFolder, answer: &Answer) -> Result<(), Failure> {
    let vkey = answer.entries.vkey();
    let Some(remembered) = trust.checkpoint(vkey).map_err(ClientError::from)? else { return Ok(()) };
    let checkpoint = answer.entries.checkpoint();
    if checkpoint.size != remembered.checkpoint.size {
        return Ok(());
    }
    check_same_log(&remembered.checkpoint, checkpoint, &[]).map_err(|error| {
        match trust.keep_fork(vkey.origin(), &remembered, answer.entries.note()) {
            Ok(kept) => ClientError::Fork { origin: vkey.origin().to_string(), error, kept }.into(),
            Err(failed) => ClientError::from(failed).into(),
        }
    })
}
