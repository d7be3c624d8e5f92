//! C2SP tlog-proof: one entry's inclusion, as a text that any tlog client can check.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <the entry's bytes, base64>
//! index 41
//! <hash, base64, from the leaf's sibling up>
//! …
//!
//! <the signed checkpoint, verbatim>
//! ```
//!
//! The format leaves `extra` to the application. Here it carries the entry itself: its leaf hash is what the proof is about,
//! so nothing needs to be trusted for being there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::proto;

/// The first line, and the file extension that goes with it.
pub const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// Proofs are kept in files of this extension.
pub const EXTENSION: &str = "tlog-proof";

/// Why a text is no proof that can be checked here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// Not of the form.
    #[error("not a tlog-proof: {0}")]
    Malformed(&'static str),
    /// A valid proof that does not bring its entry along.
    #[error("the proof carries no entry in its line \"extra\", so there is nothing to compute the leaf hash from")]
    NoEntry,
}

/// The proof of an entry whose evidence holds it alone; `None` if it holds several, or none.
pub fn to_text(evidence: &proto::Evidence) -> Option<String> {
    let [proto::LogEntry { index, entry }] = evidence.entries.as_slice() else { return None };
    let path: String = evidence.proof.iter().map(|hash| BASE64.encode(hash) + "\n").collect();
    Some(format!("{FIRST_LINE}\nextra {}\nindex {index}\n{path}\n{}", BASE64.encode(entry), evidence.checkpoint))
}

/// Reads a proof. Nothing in it is believed yet.
pub fn from_text(text: &str) -> Result<proto::Evidence, TlogProofError> {
    const MALFORMED: fn(&'static str) -> TlogProofError = TlogProofError::Malformed;
    let (head, checkpoint) = text.split_once("\n\n").ok_or(MALFORMED("no empty line before the checkpoint"))?;
    let mut lines = head.split('\n');
    if lines.next() != Some(FIRST_LINE) {
        return Err(MALFORMED("its first line is another"));
    }
    let second = lines.next().ok_or(MALFORMED("no line \"index\""))?;
    let entry = second.strip_prefix("extra ").ok_or(TlogProofError::NoEntry)?;
    let entry = BASE64.decode(entry).map_err(|_| MALFORMED("the line \"extra\" is not base64"))?;
    let index = lines
        .next()
        .and_then(|line| line.strip_prefix("index "))
        .filter(|text| *text == "0" || !text.starts_with(['0', '+']))
        .and_then(|text| text.parse().ok())
        .ok_or(MALFORMED("no line \"index\" with a decimal number"))?;
    let hash = |line| match BASE64.decode(line) {
        Ok(hash) if hash.len() == 32 => Ok(hash),
        _ => Err(MALFORMED("a hash is not 32 bytes in base64")),
    };
    Ok(proto::Evidence {
        subjects: Vec::new(),
        checkpoint: checkpoint.to_owned(),
        entries: vec![proto::LogEntry { index, entry }],
        proof: lines.map(hash).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::evidence::verify;
    use crate::ledger::little_ledger::{LittleLedger, push};
    use crate::proto::Disposition::Happened;

    fn ledger() -> LittleLedger {
        let mut ledger = LittleLedger::new("ledger.example", 1);
        for tag in ["v1", "v2", "v3"] {
            ledger.record(push(tag, 'a', Happened));
        }
        ledger
    }

    #[test]
    fn a_proof_of_every_entry_survives_its_text_and_verifies() {
        let ledger = ledger();
        for index in 0..ledger.size() {
            let evidence = ledger.evidence(&[index]);
            let text = to_text(&evidence).expect("one entry");
            assert!(text.starts_with(&format!("{FIRST_LINE}\nextra ")) && text.contains(&format!("\nindex {index}\n")));
            let again = from_text(&text).expect("own text");
            assert_eq!(again, evidence);
            assert!(verify(&again, &ledger.skey.vkey()).is_ok());
        }
        assert_eq!(to_text(&ledger.evidence(&[0, 1])), None);
    }

    #[test]
    fn every_changed_or_missing_byte_is_refused() {
        let ledger = ledger();
        let text = to_text(&ledger.evidence(&[3])).expect("one entry");
        let holds = |text: &str| from_text(text).is_ok_and(|evidence| verify(&evidence, &ledger.skey.vkey()).is_ok());
        assert!(holds(&text));
        for position in 0..text.len() {
            assert!(!text.get(..position).is_some_and(holds), "cut at {position}");
            let mut changed = text.clone().into_bytes();
            changed[position] = changed[position].wrapping_add(1);
            assert!(!std::str::from_utf8(&changed).is_ok_and(holds), "changed at {position}");
        }
    }

    #[test]
    fn a_proof_without_its_entry_says_so() {
        let text = to_text(&ledger().evidence(&[1])).expect("one entry");
        let bare: String = text.split_inclusive('\n').filter(|line| !line.starts_with("extra ")).collect();
        assert_eq!(from_text(&bare), Err(TlogProofError::NoEntry));
    }
}
