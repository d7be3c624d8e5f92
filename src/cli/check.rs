//! `verify`: a saved answer, checked without any server, by itself or against another.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Globals, Outcome, Output, show};
use crate::client::ClientError;
use crate::client::saved::{self, SavedError};
use crate::client::trust::TrustFolder;
use crate::ledger::answer::{AnswerError, Claimed, Proven};
use crate::ledger::checkpoint::CheckpointError;
use crate::ledger::evidence::{EvidenceError, VerifiedEntries, check_same_log};
use crate::ledger::keys::{Chain, ChainError, Keys as _};
use crate::ledger::note::{NoteError, Vkey};

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
    keys: Chain,
    trust: Option<TrustFolder>,
}

impl Verify {
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        let one = Loaded::new(&self.file, globals)?;
        let Some(against) = &self.against else {
            let answer = one.claimed.check(&one.keys).map_err(|error| one.wrong(&error))?;
            one.compare_with_memory(&answer.entries)?;
            return show::answer(&answer, &self.output);
        };
        let mut one = one;
        let mut other = Loaded::new(against, globals)?;
        let both = one.keys.clone().longer(other.keys.clone());
        if one.keys.first().origin() != other.keys.first().origin() {
            return Err(Failure::Usage(format!(
                "{} is of {}, and {} of {}: only evidence of one ledger can contradict itself",
                one.path.display(),
                one.keys.first(),
                other.path.display(),
                other.keys.first()
            )));
        }
        one.keys = both.map_err(|error| {
            Failure::Verification(format!(
                "MISBEHAVIOUR: {error}. {} and {} show one each. Keep both, and ask the operator",
                one.path.display(),
                other.path.display()
            ))
        })?;
        other.keys = one.keys.clone();
        // Whether they answer their questions does not matter: what they show is signed.
        let (mine, theirs) = (one.prove()?, other.prove()?);
        let pairs = [(&mine, &mine), (&theirs, &theirs), (&mine, &theirs)];
        match pairs.into_iter().find_map(|(one, other)| one.contradiction(other)) {
            Some(contradiction) => Err(Failure::Verification(format!(
                "MISBEHAVIOUR: {} contradicts itself: {contradiction}. Each file verifies by itself under its key; together \
                 {} and {} prove this to anyone. Keep both, and ask the operator",
                one.keys.first().origin(),
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
        let keys = keys_of(path, &claimed, vkey, trust.as_ref())?;
        Ok(Self { path: path.to_owned(), claimed, keys, trust })
    }

    /// Verifies the evidence, whatever it answers.
    fn prove(&self) -> Result<Proven, Failure> {
        let proven = self.claimed.prove(&self.keys).map_err(|error| self.wrong(&error))?;
        self.compare_with_memory(&proven.entries)?;
        Ok(proven)
    }

    fn wrong(&self, error: &AnswerError) -> Failure {
        let is_unsigned = matches!(
            error,
            AnswerError::Evidence(EvidenceError::Checkpoint(CheckpointError::Note(NoteError::NotSigned(_))))
        );
        let hint = if is_unsigned && self.keys.later().is_empty() {
            "; if the ledger has changed its key, `tagledger key show` follows from one to the other"
        } else {
            ""
        };
        Failure::Verification(format!("{}: {error}{hint}", self.path.display()))
    }

    /// Without a server only checkpoints of one size can be compared.
    fn compare_with_memory(&self, entries: &VerifiedEntries) -> Result<(), Failure> {
        let Some(trust) = &self.trust else { return Ok(()) };
        let Some(remembered) = trust.checkpoint(&self.keys).map_err(ClientError::from)? else { return Ok(()) };
        let checkpoint = entries.checkpoint();
        if checkpoint.size != remembered.checkpoint.size {
            return Ok(());
        }
        check_same_log(&remembered.checkpoint, checkpoint, &[]).map_err(|error| {
            match trust.keep_fork(self.keys.first().origin(), &remembered, entries.note()) {
                Ok(kept) => ClientError::Fork { origin: self.keys.first().origin().to_string(), error, kept }.into(),
                Err(failed) => ClientError::from(failed).into(),
            }
        })
    }
}

/// The keys of the log, as far as the file, or what was kept before, shows how they follow from the trusted one.
fn keys_of(path: &Path, claimed: &Claimed, trusted: Vkey, trust: Option<&TrustFolder>) -> Result<Chain, Failure> {
    let wrong = |error: String| Failure::Verification(format!("{}: the keys in it: {error}", path.display()));
    let kept = trust.map_or(Ok(None), |trust| trust.keys(&trusted)).map_err(ClientError::from)?;
    let kept = kept.map(|(kept, _)| kept);
    let shown = claimed.keys.as_ref().map(|evidence| {
        // What was saved before the trusted key's time does not show it; what was kept leads from one to the other.
        Chain::follow(evidence, &trusted).or_else(|error| match (error, &kept) {
            (ChainError::Elsewhere(_), Some(kept)) => Chain::follow(evidence, kept.first()),
            (error, _) => Err(error),
        })
    });
    let shown = shown.transpose().map_err(|error| wrong(error.to_string()))?;
    match (shown, kept) {
        (Some(shown), Some(kept)) => shown.longer(kept).map_err(|error| wrong(error.to_string())),
        (Some(keys), None) | (None, Some(keys)) => Ok(keys),
        (None, None) => Ok(Chain::of(trusted)),
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
