//! `verify`: a saved answer, checked without any server, by itself or against another.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Globals, Outcome, Output, show};
use crate::client::ClientError;
use crate::client::saved::{self, SavedError};
use crate::client::trust::TrustFolder;
use crate::ledger::answer::{AnswerError, Claimed, Proven};
use crate::ledger::evidence::{VerifiedEntries, check_same_log};
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

/// A file of evidence, and whom to believe of it.
struct Loaded {
    path: PathBuf,
    claimed: Claimed,
    vkey: Vkey,
    trust: Option<TrustFolder>,
}

impl Verify {
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        let one = Loaded::new(&self.file, globals)?;
        let Some(against) = &self.against else {
            let answer = one.claimed.check(&one.vkey).map_err(|error| one.wrong(&error))?;
            one.compare_with_memory(&answer.entries)?;
            return show::answer(&answer, &self.output);
        };
        let other = Loaded::new(against, globals)?;
        if one.vkey != other.vkey {
            return Err(Failure::Usage(format!(
                "{} is of {}, and {} of {}: only evidence of one ledger can contradict itself",
                one.path.display(),
                one.vkey,
                other.path.display(),
                other.vkey
            )));
        }
        // Whether they answer their questions does not matter: what they show is signed.
        let (mine, theirs) = (one.prove()?, other.prove()?);
        let pairs = [(&mine, &mine), (&theirs, &theirs), (&mine, &theirs)];
        match pairs.into_iter().find_map(|(one, other)| one.contradiction(other)) {
            Some(contradiction) => Err(Failure::Verification(format!(
                "MISBEHAVIOUR: {} contradicts itself: {contradiction}. Each file verifies by itself under its key; together \
                 {} and {} prove this to anyone. Keep both, and ask the operator",
                one.vkey.origin(),
                one.path.display(),
                other.path.display()
            ))),
            None => show::agreement([(&one.path, mine.checked()), (&other.path, theirs.checked())], &self.output),
        }
    }
}

impl Loaded {
    fn new(path: &Path, globals: &Globals) -> Result<Self, Failure> {
        let claimed = saved::load(path).map_err(|error| {
            let message = format!("{}: {error}", path.display());
            match error {
                SavedError::Read { .. } | SavedError::TooLong { .. } => Failure::Operational(error.to_string()),
                SavedError::Version(_) => Failure::Operational(message),
                SavedError::Malformed(_) | SavedError::Checksum => Failure::Verification(message),
            }
        })?;
        let (vkey, trust) = match &globals.vkey {
            // A key by hand needs no trust folder; where there is one, what it remembers counts all the same.
            Some(vkey) => (vkey.clone(), globals.trust_folder().ok()),
            None => {
                let trust = globals.trust_folder()?;
                (pinned_key(&trust, &claimed)?, Some(trust))
            }
        };
        Ok(Self { path: path.to_owned(), claimed, vkey, trust })
    }

    /// Verifies the evidence, whatever it answers.
    fn prove(&self) -> Result<Proven, Failure> {
        let proven = self.claimed.prove(&self.vkey).map_err(|error| self.wrong(&error))?;
        self.compare_with_memory(&proven.entries)?;
        Ok(proven)
    }

    fn wrong(&self, error: &AnswerError) -> Failure {
        Failure::Verification(format!("{}: {error}", self.path.display()))
    }

    /// Without a server only checkpoints of one size can be compared.
    fn compare_with_memory(&self, entries: &VerifiedEntries) -> Result<(), Failure> {
        let Some(trust) = &self.trust else { return Ok(()) };
        let Some(remembered) = trust.checkpoint(&self.vkey).map_err(ClientError::from)? else { return Ok(()) };
        let checkpoint = entries.checkpoint();
        if checkpoint.size != remembered.checkpoint.size {
            return Ok(());
        }
        check_same_log(&remembered.checkpoint, checkpoint, &[]).map_err(|error| {
            match trust.keep_fork(self.vkey.origin(), &remembered, entries.note()) {
                Ok(kept) => ClientError::Fork { origin: self.vkey.origin().to_string(), error, kept }.into(),
                Err(failed) => ClientError::from(failed).into(),
            }
        })
    }
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
