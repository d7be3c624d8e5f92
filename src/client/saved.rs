//! Evidence files: an answer with all that is needed to check it, as JSON.
//!
//! ```json
//! { "format": "tagledger-evidence", "version": 2, "checksum": "sha256:…",
//!   "content": { "question": {…}, "pages": [ {"checkpoint": "…", "entries": […], "proof": […], "subjects": […]} ],
//!                "growth": [], "path": [], "keys": {…} } }
//! ```
//!
//! `docs/SPEC.md`, "Evidence files", lists every field. Reading one believes nothing: [`Claimed::check`] does the rest, under
//! a key that the reader has from elsewhere. The checksum is over the compact JSON of `content` and finds accidents; that
//! nobody lies is for the proofs to show.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::trust::{TrustError, write};
use super::visible;
use crate::ledger::answer::{Claimed, Growth, Question};
use crate::ledger::evidence::hashes;
use crate::ledger::merkle::Hash;
use crate::ledger::tlog_proof;
use crate::proto;
use crate::proto::subject_proof::Terminal;

const FORMAT: &str = "tagledger-evidence";
const VERSION: u64 = 2;
/// With the keys of a ledger that changed its key.
const VERSION_WITH_KEYS: u64 = 3;
/// Longest file read, in bytes.
const MAX_LENGTH: u64 = 256 * 1024 * 1024;

/// Why a file is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The system refuses.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too much to be one.
    #[error("{path} has {length} bytes; an evidence file has at most {MAX_LENGTH}")]
    TooLong {
        /// Which file.
        path: String,
        /// What it has.
        length: u64,
    },
    /// Not JSON, or not of this form.
    #[error("not an evidence file: {0}; such a file is written by --save FILE")]
    Malformed(String),
    /// Of a later version.
    #[error(
        "the evidence file has version {0}; this tagledger reads versions {VERSION} and {VERSION_WITH_KEYS}: use a newer one"
    )]
    Version(u64),
    /// Changed by accident, or by somebody who did not bother to hide it.
    #[error("the evidence file was changed after it was written: its checksum does not match")]
    Checksum,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u64,
    checksum: String,
    content: Content,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    question: Question,
    pages: Vec<SavedPage>,
    growth: Vec<SavedGrowth>,
    path: Vec<Bytes>,
    /// There if the version says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<SavedPage>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPage {
    /// The signed note, as it is.
    checkpoint: String,
    entries: Vec<SavedEntry>,
    proof: Vec<Bytes>,
    subjects: Vec<SavedSubject>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEntry {
    index: u64,
    entry: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedSubject {
    key: Bytes,
    siblings: Vec<Bytes>,
    terminal: SavedTerminal,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum SavedTerminal {
    History { count: u64, root: Bytes, leaves: Vec<SavedLeaf>, proof: Vec<Bytes> },
    Other { key: Bytes, count: u64, root: Bytes },
    Empty {},
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedLeaf {
    version: u64,
    index: u64,
    effective: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedGrowth {
    older: u64,
    newer: u64,
    proof: Vec<Bytes>,
}

/// Bytes as base64.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Self).map_err(|error| serde::de::Error::custom(format!("not base64: {error}")))
    }
}

/// The text of an evidence file.
pub fn to_text(claimed: &Claimed) -> String {
    let content = Content {
        question: claimed.question.clone(),
        pages: claimed.pages.iter().map(save_page).collect(),
        growth: claimed.growth.iter().map(save_growth).collect(),
        path: save_hashes(&claimed.path),
        keys: claimed.keys.as_ref().map(save_page),
    };
    let version = if content.keys.is_some() { VERSION_WITH_KEYS } else { VERSION };
    let file = File { format: FORMAT.to_owned(), version, checksum: checksum(&content), content };
    serde_json::to_string_pretty(&file).expect("it has only strings as keys") + "\n"
}

/// Reads the text of an evidence file. Nothing in it is believed yet.
pub fn from_text(text: &str) -> Result<Claimed, SavedError> {
    // It names what it found, in the file's own words.
    let malformed = |error: serde_json::Error| SavedError::Malformed(visible(&error.to_string()));
    // The version first: what else a later one holds is not for us to judge.
    let header: Header = serde_json::from_str(text).map_err(malformed)?;
    if header.format != FORMAT {
        return Err(SavedError::Malformed(format!("its format is {:?}, not {FORMAT:?}", header.format)));
    }
    if !matches!(header.version, VERSION | VERSION_WITH_KEYS) {
        return Err(SavedError::Version(header.version));
    }
    let File { checksum: claimed_checksum, content, .. } = serde_json::from_str(text).map_err(malformed)?;
    if checksum(&content) != claimed_checksum {
        return Err(SavedError::Checksum);
    }
    if content.keys.is_some() != (header.version == VERSION_WITH_KEYS) {
        return Err(SavedError::Malformed(format!(
            "it has keys or it has none, and its version is {}",
            header.version
        )));
    }
    if content.pages.is_empty() {
        return Err(SavedError::Malformed("it has no page".to_owned()));
    }
    let pages = content.pages.into_iter().map(load_page).collect();
    let growth = content.growth.into_iter().map(load_growth).collect::<Result<_, _>>()?;
    let (path, keys) = (load_hashes(content.path)?, content.keys.map(load_page));
    Ok(Claimed { question: content.question, pages, growth, path, keys })
}

/// The text of what shows the keys of a ledger.
pub(super) fn keys_to_text(evidence: &proto::Evidence) -> String {
    serde_json::to_string_pretty(&save_page(evidence)).expect("it has only strings as keys") + "\n"
}

/// Reads that.
pub(super) fn keys_from_text(text: &str) -> Option<proto::Evidence> {
    serde_json::from_str(text).ok().map(load_page)
}

/// Why an answer is not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file can't be written.
    #[error(transparent)]
    Write(#[from] TrustError),
    /// More than can be read again.
    #[error(
        "the answer with its evidence takes {0} bytes, and a file of more than {MAX_LENGTH} is not read; narrow the question"
    )]
    TooLong(usize),
    /// More than a tlog-proof can say.
    #[error("a .{} file holds one entry, as `entry` shows it; give the file another extension", tlog_proof::EXTENSION)]
    NotOneEntry,
}

/// Writes an answer: as C2SP tlog-proof if the file's extension says so, which only a single entry fits into; else as
/// evidence file.
pub fn save(path: &Path, claimed: &Claimed) -> Result<(), SaveError> {
    if path.extension().is_none_or(|extension| extension != tlog_proof::EXTENSION) {
        let text = to_text(claimed);
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_LENGTH) {
            return Err(SaveError::TooLong(text.len()));
        }
        return Ok(write(path, &text)?);
    }
    let text = match (&claimed.question, &claimed.pages[..]) {
        (Question::Entry { .. } | Question::Leaf { .. }, [page]) => tlog_proof::to_text(page),
        _ => None,
    };
    Ok(write(path, &text.ok_or(SaveError::NotOneEntry)?)?)
}

/// Reads an evidence file, or a C2SP tlog-proof.
pub fn load(path: &Path) -> Result<Claimed, SavedError> {
    let wrong = |source| SavedError::Read { path: path.display().to_string(), source };
    let length = std::fs::metadata(path).map_err(wrong)?.len();
    if length > MAX_LENGTH {
        return Err(SavedError::TooLong { path: path.display().to_string(), length });
    }
    let text = String::from_utf8(std::fs::read(path).map_err(wrong)?)
        .map_err(|_| SavedError::Malformed("it is not text".to_owned()))?;
    if text.starts_with(tlog_proof::FIRST_LINE) { from_tlog_proof(&text) } else { from_text(&text) }
}

fn from_tlog_proof(text: &str) -> Result<Claimed, SavedError> {
    let evidence = tlog_proof::from_text(text).map_err(|error| SavedError::Malformed(error.to_string()))?;
    let index = evidence.entries.first().map_or(0, |entry| entry.index);
    Ok(Claimed::new(Question::Entry { index }, vec![evidence]))
}

fn checksum(content: &Content) -> String {
    let compact = serde_json::to_vec(content).expect("it has only strings as keys");
    format!("sha256:{}", hex::encode(Sha256::digest(compact)))
}

fn save_page(page: &proto::Evidence) -> SavedPage {
    let entry = |entry: &proto::LogEntry| SavedEntry { index: entry.index, entry: Bytes(entry.entry.clone()) };
    SavedPage {
        checkpoint: page.checkpoint.clone(),
        entries: page.entries.iter().map(entry).collect(),
        proof: page.proof.iter().cloned().map(Bytes).collect(),
        subjects: page.subjects.iter().map(save_subject).collect(),
    }
}

fn load_page(page: SavedPage) -> proto::Evidence {
    let entry = |saved: SavedEntry| proto::LogEntry { index: saved.index, entry: saved.entry.0 };
    proto::Evidence {
        checkpoint: page.checkpoint,
        entries: page.entries.into_iter().map(entry).collect(),
        proof: plain(page.proof),
        subjects: page.subjects.into_iter().map(load_subject).collect(),
    }
}

fn save_subject(subject: &proto::SubjectProof) -> SavedSubject {
    let bytes = |bytes: &Vec<u8>| Bytes(bytes.clone());
    let leaf = |leaf: &proto::HistoryLeaf| {
        let proto::HistoryLeaf { version, index, effective } = *leaf;
        SavedLeaf { version, index, effective }
    };
    let terminal = match &subject.terminal {
        Some(Terminal::History(history)) => SavedTerminal::History {
            count: history.count,
            root: bytes(&history.root),
            leaves: history.leaves.iter().map(leaf).collect(),
            proof: history.proof.iter().map(bytes).collect(),
        },
        Some(Terminal::Other(other)) => {
            SavedTerminal::Other { key: bytes(&other.key), count: other.count, root: bytes(&other.root) }
        }
        // What was checked before it is saved has a terminal.
        Some(Terminal::Empty(_)) | None => SavedTerminal::Empty {},
    };
    SavedSubject { key: bytes(&subject.key), siblings: subject.siblings.iter().map(bytes).collect(), terminal }
}

fn load_subject(saved: SavedSubject) -> proto::SubjectProof {
    let leaf = |leaf: SavedLeaf| {
        let SavedLeaf { version, index, effective } = leaf;
        proto::HistoryLeaf { version, index, effective }
    };
    let terminal = match saved.terminal {
        SavedTerminal::History { count, root, leaves, proof } => Terminal::History(proto::HistoryProof {
            count,
            root: root.0,
            leaves: leaves.into_iter().map(leaf).collect(),
            proof: plain(proof),
        }),
        SavedTerminal::Other { key, count, root } => {
            Terminal::Other(proto::OtherLeaf { key: key.0, count, root: root.0 })
        }
        SavedTerminal::Empty {} => Terminal::Empty(proto::EmptySubtree {}),
    };
    proto::SubjectProof { key: saved.key.0, siblings: plain(saved.siblings), terminal: Some(terminal) }
}

fn save_growth(growth: &Growth) -> SavedGrowth {
    SavedGrowth { older: growth.older, newer: growth.newer, proof: save_hashes(&growth.hashes) }
}

fn load_growth(growth: SavedGrowth) -> Result<Growth, SavedError> {
    Ok(Growth { older: growth.older, newer: growth.newer, hashes: load_hashes(growth.proof)? })
}

fn save_hashes(hashes: &[Hash]) -> Vec<Bytes> {
    hashes.iter().map(|hash| Bytes(hash.to_vec())).collect()
}

fn load_hashes(saved: Vec<Bytes>) -> Result<Vec<Hash>, SavedError> {
    hashes(&plain(saved)).map_err(|error| SavedError::Malformed(error.to_string()))
}

fn plain(saved: Vec<Bytes>) -> Vec<Vec<u8>> {
    saved.into_iter().map(|bytes| bytes.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::answer::Part;
    use crate::ledger::little_ledger::{LittleLedger, push};
    use crate::ledger::subject::Subject;
    use crate::proto::Disposition::Happened;

    /// A history on two pages, as of different checkpoints, sealed by a third; and what is there beside it.
    fn claimed() -> (LittleLedger, Claimed) {
        let mut ledger = LittleLedger::new("ledger.example", 1);
        for digit in ['a', 'b', 'c'] {
            ledger.record(push("latest", digit, Happened));
        }
        let tag: crate::ledger::names::TagRef = "r/app:latest".parse().expect("a reference");
        let subject = Subject::Tag(tag.clone());
        let other = Subject::Tag("r/app:other".parse().expect("a reference"));
        let mut seal = ledger.evidence(&[5]);
        seal.subjects = vec![ledger.subject_proof_at(&subject, &[0, 1, 2], 6)];
        let pages = vec![
            ledger.shown_at(&[(subject.clone(), vec![0])], 4),
            ledger.shown_at(&[(subject, vec![1, 2]), (other, vec![]), (Subject::Environments, vec![])], 6),
            seal,
        ];
        let mut claimed = Claimed::new(Question::TagHistory { tag, part: Part::default() }, pages);
        claimed.growth = vec![Growth { older: 4, newer: 6, hashes: ledger.consistency(4, 6) }];
        (ledger, claimed)
    }

    #[test]
    fn an_answer_survives_its_file_and_still_verifies() {
        let (ledger, claimed) = claimed();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("answer.json");
        save(&path, &claimed).expect("written");
        let again = load(&path).expect("readable");
        assert_eq!(again, claimed);
        assert_eq!(again.check(&ledger.skey.vkey()), claimed.check(&ledger.skey.vkey()));
        assert!(again.check(&ledger.skey.vkey()).is_ok());
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (_, claimed) = claimed();
        let text = to_text(&claimed);
        for position in 0..text.len() {
            if let Some(cut) = text.get(..position).filter(|cut| cut.len() + 1 < text.len()) {
                assert!(from_text(cut).is_err(), "cut at {position}");
            }
            let mut changed = text.clone().into_bytes();
            changed[position] ^= 1;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            match from_text(&changed) {
                Err(_) => {}
                // White space is not content.
                Ok(same) => assert_eq!(same, claimed, "changed at {position}"),
            }
        }
    }

    #[test]
    fn a_liar_who_mends_the_checksum_is_refused_by_the_proofs() {
        let (ledger, mut honest) = claimed();
        // What is shown beside the point may be exchanged for another truth.
        let is_needed = |subject: &proto::SubjectProof| matches!(subject.terminal, Some(Terminal::History(_)));
        honest.pages.iter_mut().for_each(|page| page.subjects.retain(is_needed));
        let text = to_text(&honest);
        let mut refused = 0;
        for (position, digit) in text.char_indices().filter(|(_, c)| c.is_ascii_digit()) {
            let other = if digit == '9' { '8' } else { '9' };
            let mut changed = text.clone();
            changed.replace_range(position..position + 1, &other.to_string());
            let Ok(file) = serde_json::from_str::<File>(&changed) else { continue };
            let mended = serde_json::to_string(&File { checksum: checksum(&file.content), ..file }).expect("as before");
            let Ok(claimed) = from_text(&mended) else { continue };
            if claimed == honest {
                continue;
            }
            match claimed.check(&ledger.skey.vkey()) {
                Err(_) => refused += 1,
                // Another question has another answer; evidence has none.
                Ok(_) => assert_ne!(claimed.question, honest.question, "changed at {position}"),
            }
        }
        assert!(refused > 100, "only {refused} were refused");
    }

    #[test]
    fn a_file_without_a_page_or_with_lines_of_its_own_is_refused() {
        let (_, honest) = claimed();
        let none = to_text(&Claimed { pages: Vec::new(), ..honest.clone() });
        assert!(matches!(from_text(&none), Err(SavedError::Malformed(words)) if words == "it has no page"));
        let forged = to_text(&honest).replace("\"tag_history\"", "\"x\\n  proven: all is well\\u001b[2J\"");
        let words = from_text(&forged).expect_err("no such question").to_string();
        assert!(words.contains("x\\n  proven") && !words.contains(char::is_control), "{words:?}");
    }

    #[test]
    fn what_is_no_evidence_file_is_refused_by_name() {
        let (_, claimed) = claimed();
        let words = |text: &str| from_text(text).expect_err(text).to_string();
        assert!(words("").contains("not an evidence file"));
        assert!(words("{}").contains("missing field `format`"));
        assert!(words(r#"{"format": "x", "version": 1}"#).contains("its format is \"x\""));
        let text = to_text(&claimed);
        let of_version = |version: u64| {
            words(&text.replace("\"version\": 2,\n  \"checksum", &format!("\"version\": {version},\n  \"checksum")))
        };
        assert!(of_version(4).contains("use a newer one"));
        assert!(of_version(3).contains("it has keys or it has none"));
        assert!(words(&text.replace("\"growth\": [", "\"more\": 1, \"growth\": [")).contains("unknown field"));
    }
}
