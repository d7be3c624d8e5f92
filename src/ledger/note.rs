//! C2SP signed notes: text, a blank line, and signature lines; and the keys that go with them.
//!
//! ```text
//! ledger.example/tags
//! 42
//! n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=
//!
//! — ledger.example/tags Wk4sFg…==
//! ```
//!
//! The same format as `golang.org/x/mod/sumdb/note`. Lines by keys that a verifier does not know are ignored; a line by a
//! known key whose signature does not match is an error. Which text a note may carry is left to [`super::checkpoint`].

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::signature::{self, SIGNATURE_LENGTH};

/// Signature type byte of Ed25519 in signed-note keys.
const ED25519: u8 = 0x01;
/// Longest note read, in bytes: room for a checkpoint and a hundred signatures.
const MAX_NOTE_LENGTH: usize = 64 * 1024;

/// The name of a log, which is also the name of its key: "ledger.example/tags". Chosen once and for ever.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(String);

impl Origin {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Origin {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
        if text.is_empty() || text.len() > 255 || !text.chars().all(is_plain) || text.starts_with("tagledger.v1.") {
            return Err(KeyError::Origin);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why a key or origin is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not usable as an origin.
    #[error(
        "an origin has 1 to 255 bytes without spaces, '+' or control characters and does not begin with \"tagledger.v1.\""
    )]
    Origin,
    /// Not `<name>+<hash>+<base64>`.
    #[error("not a signed-note key: expected {0}")]
    Shape(&'static str),
    /// The hash in it is not the key's.
    #[error("the key's hash does not match its name and bytes")]
    Hash,
    /// Another algorithm than Ed25519.
    #[error("signature type {0} is not supported; only Ed25519 (1) is")]
    Algorithm(u8),
    /// Not a valid, strong Ed25519 key.
    #[error("not a usable Ed25519 key")]
    Key,
}

/// A public key with its name, written `<origin>+<hash>+<base64>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Vkey {
    origin: Origin,
    key: VerifyingKey,
}

impl Vkey {
    /// The key's name.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The Ed25519 key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The first four bytes of `SHA-256(name || "\n" || 0x01 || key)`.
    pub fn hash(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(self.origin.as_str())
            .chain_update(b"\n")
            .chain_update([ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.origin, hex::encode(self.hash()), BASE64.encode(bytes))
    }
}

impl fmt::Debug for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Vkey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        const SHAPE: KeyError = KeyError::Shape("<origin>+<8 hexadecimal digits>+<base64>");
        let (origin, hash, bytes) = split_key(text.trim_end_matches('\n')).ok_or(SHAPE)?;
        let vkey = Self {
            origin: origin.parse()?,
            key: signature::public_key(ed25519_part(&bytes)?).map_err(|_| KeyError::Key)?,
        };
        if vkey.hash() == hash { Ok(vkey) } else { Err(KeyError::Hash) }
    }
}

/// A private key with its name, written `PRIVATE+KEY+<origin>+<hash>+<base64>`. Wiped from memory when dropped.
pub struct Skey {
    origin: Origin,
    key: SigningKey,
}

impl Skey {
    /// Names a key made from 32 random bytes.
    pub fn from_seed(origin: Origin, seed: &[u8; 32]) -> Self {
        Self { origin, key: SigningKey::from_bytes(seed) }
    }

    /// The public half.
    pub fn vkey(&self) -> Vkey {
        Vkey { origin: self.origin.clone(), key: self.key.verifying_key() }
    }

    /// The key's name.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The Ed25519 key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The text form, for a file of mode 0600.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(vec![ED25519]);
        bytes.extend_from_slice(self.key.as_bytes());
        let encoded = Zeroizing::new(BASE64.encode(&*bytes));
        Zeroizing::new(format!("PRIVATE+KEY+{}+{}+{}", self.origin, hex::encode(self.vkey().hash()), *encoded))
    }

    /// Parses the text form.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        const SHAPE: KeyError = KeyError::Shape("PRIVATE+KEY+<origin>+<8 hexadecimal digits>+<base64>");
        let text = text.trim_end_matches('\n').strip_prefix("PRIVATE+KEY+").ok_or(SHAPE)?;
        let (origin, hash, bytes) = split_key(text).ok_or(SHAPE)?;
        let bytes = Zeroizing::new(bytes);
        let seed = ed25519_part(&bytes)?.try_into().map_err(|_| KeyError::Key)?;
        let skey = Self::from_seed(origin.parse()?, seed);
        if skey.vkey().hash() == hash { Ok(skey) } else { Err(KeyError::Hash) }
    }

    /// Signs a note's text, which ends in a newline.
    pub fn sign_note(&self, text: &str) -> String {
        assert!(text.ends_with('\n'), "a note's text ends in a newline");
        format!("{text}\n{}", self.line(text))
    }

    /// The line with its signature over a note's text: another one for a note that somebody signed.
    pub fn line(&self, text: &str) -> String {
        let mut bytes = self.vkey().hash().to_vec();
        bytes.extend_from_slice(&signature::sign(&self.key, text.as_bytes()));
        format!("\u{2014} {} {}\n", self.origin, BASE64.encode(bytes))
    }
}

/// Why a note is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not of the form.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// No line by the key that is trusted.
    #[error("not signed by {0}")]
    NotSigned(String),
    /// A line by that key, but not over this text.
    #[error("the signature of {0} does not match the text")]
    BadSignature(String),
}

/// Checks that a note carries a signature by this key, and returns its text.
pub fn open_note<'a>(note: &'a str, vkey: &Vkey) -> Result<&'a str, NoteError> {
    open_by(note, std::iter::once(vkey)).map(|(text, _)| text)
}

/// The same with several keys of one name. Every line by one of them must hold; the last of them, in their order, that has one
/// is returned with the text.
pub fn open_by<'a, 'k>(
    note: &'a str,
    keys: impl Iterator<Item = &'k Vkey> + Clone,
) -> Result<(&'a str, &'k Vkey), NoteError> {
    let (text, signatures) = split_note(note)?;
    let mut signer = None;
    for line in signatures.lines() {
        let (name, signature) = parse_signature_line(line)?;
        let named = |(_, vkey): &(usize, &Vkey)| name == vkey.origin().as_str() && signature[..4] == vkey.hash();
        let Some((position, vkey)) = keys.clone().enumerate().find(named) else { continue };
        if signature.len() != 4 + SIGNATURE_LENGTH
            || signature::verify(vkey.key(), text.as_bytes(), &signature[4..]).is_err()
        {
            return Err(NoteError::BadSignature(name.to_owned()));
        }
        if signer.is_none_or(|(before, _)| before < position) {
            signer = Some((position, vkey));
        }
    }
    let unsigned = || NoteError::NotSigned(keys.clone().next().map_or(String::new(), |vkey| vkey.origin().to_string()));
    signer.map(|(_, vkey)| (text, vkey)).ok_or_else(unsigned)
}

/// A note without the lines of all others than these keys: witnesses may add theirs to a copy. One that is none stays as it is.
pub fn without_others<'k>(note: &str, keys: impl Iterator<Item = &'k Vkey> + Clone) -> String {
    let is_by_one = |line: &&str| {
        parse_signature_line(line).is_ok_and(|(name, signature)| {
            keys.clone().any(|vkey| name == vkey.origin().as_str() && signature[..4] == vkey.hash())
        })
    };
    let Ok((text, signatures)) = split_note(note) else { return note.to_owned() };
    let kept: String =
        signatures.split_inclusive('\n').filter(|line| is_by_one(&line.trim_end_matches('\n'))).collect();
    format!("{text}\n{kept}")
}

fn split_note(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > MAX_NOTE_LENGTH {
        return Err(NoteError::Malformed("longer than 64 KiB"));
    }
    if note.chars().any(|c| c < ' ' && c != '\n') {
        return Err(NoteError::Malformed("control characters"));
    }
    let split = note.rfind("\n\n").ok_or(NoteError::Malformed("no blank line before the signatures"))?;
    let (text, signatures) = (&note[..=split], &note[split + 2..]);
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(NoteError::Malformed("no signature line, or the last one is cut short"));
    }
    Ok((text, signatures))
}

fn parse_signature_line(line: &str) -> Result<(&str, Vec<u8>), NoteError> {
    const MALFORMED: NoteError = NoteError::Malformed("a signature line that is not '— name base64'");
    let (name, encoded) = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' ')).ok_or(MALFORMED)?;
    let signature = BASE64.decode(encoded).map_err(|_| MALFORMED)?;
    if name.is_empty() || signature.len() < 5 { Err(MALFORMED) } else { Ok((name, signature)) }
}

/// `<name>+<hash>+<base64>`; base64 may contain `+`, a name may not.
fn split_key(text: &str) -> Option<(&str, [u8; 4], Vec<u8>)> {
    let mut parts = text.splitn(3, '+');
    let (name, hash, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    // One spelling: hexadecimal digits in upper case name the same key, and make a pinned file differ from a served one.
    if hash.len() != 8 || hash.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    Some((name, hex::decode(hash).ok()?.try_into().ok()?, BASE64.decode(encoded).ok()?))
}

fn ed25519_part(bytes: &[u8]) -> Result<&[u8], KeyError> {
    match bytes.split_first() {
        Some((&ED25519, key)) => Ok(key),
        Some((&other, _)) => Err(KeyError::Algorithm(other)),
        None => Err(KeyError::Key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skey() -> Skey {
        Skey::from_seed("ledger.example/tags".parse().expect("valid"), &[7; 32])
    }

    #[test]
    fn keys_survive_their_text_form() {
        let skey = skey();
        let again = Skey::from_text(&skey.to_text()).expect("own text");
        assert_eq!(again.vkey(), skey.vkey());
        assert_eq!(skey.vkey().to_string().parse::<Vkey>().as_ref(), Ok(&skey.vkey()));
    }

    #[test]
    fn lines_of_others_are_left_out() {
        let (text, witness) =
            ("ledger.example/tags\n1\n", Skey::from_seed("w.example".parse().expect("valid"), &[8; 32]));
        let [own, by_witness] = [skey().sign_note(text), witness.sign_note(text)];
        let (_, line) = by_witness.rsplit_once("\n\n").expect("a note");
        let vkeys = [skey().vkey()];
        assert_eq!(without_others(&format!("{own}{line}"), vkeys.iter()), own);
        assert_eq!(without_others(&own, vkeys.iter()), own);
        assert_eq!(without_others("no note", vkeys.iter()), "no note");
    }

    #[test]
    fn every_changed_or_missing_byte_of_a_key_is_refused() {
        let text = skey().vkey().to_string();
        for position in 0..text.len() {
            assert!(text[..position].parse::<Vkey>().is_err(), "cut at {position}");
            for bit in 0..7 {
                let mut changed = text.clone().into_bytes();
                changed[position] ^= 1 << bit;
                let changed = String::from_utf8(changed).expect("still ASCII");
                assert!(changed.parse::<Vkey>().is_err(), "changed at {position}: {changed}");
            }
        }
    }

    #[test]
    fn every_changed_or_missing_byte_of_a_note_is_refused() {
        let (skey, text) = (skey(), "ledger.example/tags\n42\nbm90IGEgaGFzaA==\n");
        let note = skey.sign_note(text);
        assert_eq!(open_note(&note, &skey.vkey()), Ok(text));
        for position in 0..note.len() {
            if let Some(cut) = note.get(..position) {
                assert!(open_note(cut, &skey.vkey()).is_err(), "cut at {position}");
            }
            let mut changed = note.clone().into_bytes();
            changed[position] = changed[position].wrapping_add(1);
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(open_note(&changed, &skey.vkey()).is_err(), "changed at {position}");
            }
        }
    }

    #[test]
    fn foreign_signatures_are_ignored_but_do_not_count() {
        let other = Skey::from_seed("witness.example".parse().expect("valid"), &[8; 32]);
        let text = "x\n";
        let (ours, theirs) = (skey().sign_note(text), other.sign_note(text));
        let both = format!("{ours}{}", theirs.rsplit_once("\n\n").expect("signed").1);
        assert_eq!(open_note(&both, &skey().vkey()), Ok(text));
        assert_eq!(open_note(&theirs, &skey().vkey()), Err(NoteError::NotSigned("ledger.example/tags".into())));
        // The same name with another key is another signer.
        let impostor = Skey::from_seed("ledger.example/tags".parse().expect("valid"), &[9; 32]);
        assert!(matches!(open_note(&impostor.sign_note(text), &skey().vkey()), Err(NoteError::NotSigned(_))));
    }

    #[test]
    fn origins_cannot_be_mistaken_for_a_prefix_or_a_line() {
        for origin in ["", "a b", "a+b", "a\nb", "tagledger.v1.entry", "tagledger.v1.x", "a\u{a0}b"] {
            assert!(origin.parse::<Origin>().is_err(), "{origin:?}");
        }
        assert!("tagledger.example/prod".parse::<Origin>().is_ok());
    }
}
