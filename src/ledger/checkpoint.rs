//! Checkpoints: C2SP tlog-checkpoint, the signed size and root of the log. Three lines, no extensions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::keys::Keys;
use super::merkle::Hash;
use super::note::{NoteError, Skey, Vkey, open_by};

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// Why a checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Signed, but not a checkpoint of this log.
    #[error("the checkpoint is of origin {found:?}, not {expected:?}")]
    Origin {
        /// First line of the text.
        found: String,
        /// The pinned origin.
        expected: String,
    },
    /// Signed, but not three lines of origin, size and root.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// Signed by a key that had been replaced before.
    #[error(
        "the checkpoint of size {size} is signed by the key {key} alone, which was replaced from entry {from} on: whoever has that key signs in the ledger's name; ask its operator"
    )]
    Retired {
        /// Its size.
        size: u64,
        /// By whom.
        key: String,
        /// The first entry that is not that key's.
        from: u64,
    },
}

impl Checkpoint {
    /// Signs it as a note.
    pub fn sign(&self, skey: &Skey) -> String {
        skey.sign_note(&format!("{}\n{}\n{}\n", skey.origin(), self.size, BASE64.encode(self.root)))
    }

    /// Signs it as a note together with another key of the ledger, whose line comes second.
    pub fn sign_with(&self, skey: &Skey, other: &Skey) -> String {
        let note = self.sign(skey);
        let (text, _) = note.split_once("\n\n").expect("a note has an empty line");
        format!("{note}{}", other.line(&format!("{text}\n")))
    }

    /// Opens a note that is signed by the key in force at its end, or by one that came later.
    pub fn open(note: &str, keys: &impl Keys) -> Result<Self, CheckpointError> {
        let (checkpoint, signer) = Self::open_by(note, keys.all())?;
        let size = checkpoint.size;
        let due = keys.of_entry(size.saturating_sub(1));
        let mut from_there = keys.all().skip_while(|key| *key != due);
        if from_there.any(|key| key == signer) {
            return Ok(checkpoint);
        }
        let mut after = keys.all().zip(keys.later()).skip_while(|(key, _)| *key != signer);
        let from = after.next().map_or(0, |(_, link)| link.from);
        Err(CheckpointError::Retired { size, key: hex::encode(signer.hash()), from })
    }

    /// Opens a note that is signed by one of these keys of one ledger, whichever, and says by which.
    pub fn open_by<'k>(
        note: &str,
        keys: impl Iterator<Item = &'k Vkey> + Clone,
    ) -> Result<(Self, &'k Vkey), CheckpointError> {
        let (text, signer) = open_by(note, keys)?;
        Ok((Self::parse(text, signer)?, signer))
    }

    fn parse(text: &str, vkey: &Vkey) -> Result<Self, CheckpointError> {
        let mut lines = text.split('\n');
        let mut line = || lines.next().ok_or(CheckpointError::Malformed("fewer than three lines"));
        let (origin, size, root) = (line()?, line()?, line()?);
        if origin != vkey.origin().as_str() {
            return Err(CheckpointError::Origin { found: origin.to_owned(), expected: vkey.origin().to_string() });
        }
        if lines.next() != Some("") || lines.next().is_some() {
            return Err(CheckpointError::Malformed("more than three lines"));
        }
        let size = Some(size)
            .filter(|text| *text == "0" || !text.starts_with(['0', '+']))
            .and_then(|text| text.parse().ok())
            .ok_or(CheckpointError::Malformed("the size is not a decimal number"))?;
        let root = BASE64
            .decode(root)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(CheckpointError::Malformed("the root is not 32 bytes in base64"))?;
        Ok(Self { size, root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_survives_and_belongs_to_its_origin() {
        let skey = Skey::from_seed("ledger.example".parse().expect("valid"), &[1; 32]);
        let checkpoint = Checkpoint { size: 42, root: [3; 32] };
        let note = checkpoint.sign(&skey);
        assert!(note.starts_with("ledger.example\n42\n"));
        assert_eq!(Checkpoint::open(&note, &skey.vkey()), Ok(checkpoint));
    }

    #[test]
    fn signed_text_that_is_no_checkpoint_is_refused() {
        let skey = Skey::from_seed("ledger.example".parse().expect("valid"), &[1; 32]);
        let root = BASE64.encode([3; 32]);
        for text in [
            format!("other.example\n42\n{root}\n"),
            format!("ledger.example\n042\n{root}\n"),
            format!("ledger.example\n+42\n{root}\n"),
            format!("ledger.example\n-1\n{root}\n"),
            format!("ledger.example\n42\n{root}\nextension\n"),
            "ledger.example\n42\nAAAA\n".to_owned(),
            "ledger.example\n42\n".to_owned(),
        ] {
            assert!(Checkpoint::open(&skey.sign_note(&text), &skey.vkey()).is_err(), "{text}");
        }
    }
}
