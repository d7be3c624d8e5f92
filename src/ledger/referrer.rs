//! Referrer tags: where a registry has no referrers API, what hangs on a digest (a signature, an attestation, an SBOM, an index
//! of them) is found under a tag that is the digest in another spelling, `sha256-<hex>` with or without an ending.
//!
//! Such a tag moves with everything that is newly attached, so policy lets it. And an entry about it belongs to the history of
//! the digest that it hangs on.

use super::names::{Digest, Tag};

/// What may follow the digest.
const ENDINGS: [&str; 4] = ["", ".sig", ".att", ".sbom"];

/// Whether a tag hangs on a digest.
pub fn is_referrer(tag: &Tag) -> bool {
    split(tag).is_some()
}

/// The digest that a referrer tag hangs on, as far as its name tells: OCI distribution-spec cuts what follows the algorithm to
/// 64 characters, so a SHA-512 digest is not all there.
pub fn subject_of(tag: &Tag) -> Option<Digest> {
    let ("sha256", digits) = split(tag)? else { return None };
    Some(format!("sha256:{digits}").parse().expect("64 digits of lower-case hexadecimal"))
}

/// The algorithm and the 64 digits in the name of a referrer tag.
fn split(tag: &Tag) -> Option<(&str, &str)> {
    let (algorithm, rest) =
        tag.as_str().split_at_checked(6).filter(|(name, _)| matches!(*name, "sha256" | "sha512"))?;
    let (digits, ending) = rest.strip_prefix('-')?.split_at_checked(64)?;
    let is_hex = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex && ENDINGS.contains(&ending)).then_some((algorithm, digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_tag_is_a_digest_in_another_spelling() {
        let hex = "0123456789abcdef".repeat(4);
        let tag = |text: String| text.parse::<Tag>().expect("a tag");
        let subject = |text: String| subject_of(&tag(text)).map(|digest| digest.to_string());
        for ending in ["", ".sig", ".att", ".sbom"] {
            assert_eq!(subject(format!("sha256-{hex}{ending}")), Some(format!("sha256:{hex}")));
            assert!(is_referrer(&tag(format!("sha512-{hex}{ending}"))));
            assert_eq!(subject(format!("sha512-{hex}{ending}")), None, "half of a digest is none");
        }
        for other in ["", "x", ".sig.sig", ".sbom2", "-sig", "0"] {
            let text = format!("sha256-{}{other}", &hex[usize::from(other.is_empty())..]);
            assert!(!is_referrer(&tag(text.clone())), "{text}");
            assert_eq!(subject(text.clone()), None, "{text}");
        }
        assert_eq!(subject(format!("sha256-{}", hex.to_uppercase())), None);
        assert_eq!(subject(format!("v-sha256-{hex}")), None);
        assert_eq!(subject("sha256-".to_owned()), None);
        assert_eq!(subject(format!("sha384-{hex}")), None);
    }
}
