//! Files that hold secrets: keys, tokens, passwords. One that others may read is refused, whatever it is for.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

/// Why a secret is not taken from its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It can't be read, or there is nothing in it.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// Which.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Others may read it.
    #[error("{path} may be read by others (mode {mode:04o}); run: chmod 600 {path}")]
    Loose {
        /// Which.
        path: String,
        /// Who may do what.
        mode: u32,
    },
}

/// All that is in a file.
pub(super) fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let shown = || path.display().to_string();
    let unreadable = |error: std::io::Error| SecretError::Read { path: shown(), reason: error.to_string() };
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    let handed = std::env::var_os("CREDENTIALS_DIRECTORY");
    if is_loose(path, mode, handed.as_deref().map(Path::new)) {
        return Err(SecretError::Loose { path: shown(), mode });
    }
    let mut content = Zeroizing::new(Vec::new());
    file.read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// All that is in a file, as text.
pub(super) fn text(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    match std::str::from_utf8(&bytes(path)?) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(SecretError::Read { path: path.display().to_string(), reason: "it is no text".to_owned() }),
    }
}

/// A token or password: all that is in a file, without the line's end.
pub(super) fn word(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    match text(path)?.trim_end_matches(['\n', '\r']) {
        "" => Err(SecretError::Read { path: path.display().to_string(), reason: "it is empty".to_owned() }),
        word => Ok(Zeroizing::new(word.to_owned())),
    }
}

/// Whether others may read or write it. systemd hands out credentials with an access list, which shows as the group's right to read.
fn is_loose(path: &Path, mode: u32, handed: Option<&Path>) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_handed = || handed.is_some_and(|folder| folder.is_absolute() && whole(path).starts_with(whole(folder)));
    mode & 0o007 != 0 || mode & 0o070 != 0 && !is_handed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_is_refused_but_for_what_systemd_hands_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "secret\n").expect("written");
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        for mode in [0o600, 0o400] {
            set(mode);
            assert_eq!(word(&path).expect("read").as_str(), "secret");
        }
        for mode in [0o640, 0o604, 0o602] {
            set(mode);
            let said = word(&path).expect_err("refused").to_string();
            assert!(said.contains(&format!("{mode:04o}")) && said.contains("chmod 600"), "{said}");
        }
        let is_loose = |mode, handed| is_loose(&path, mode, handed);
        assert!(!is_loose(0o440, Some(folder.path())));
        assert!(is_loose(0o440, None) && is_loose(0o440, Some(Path::new("/elsewhere"))));
        assert!(is_loose(0o440, Some(Path::new(""))), "set, and empty");
        assert!(is_loose(0o444, Some(folder.path())), "handed out to everybody");
    }

    /// Compiles only for what is wiped when it goes.
    fn is_wiped<T: zeroize::ZeroizeOnDrop>() {}

    #[test]
    fn keys_tokens_and_passwords_are_wiped_from_memory_when_they_go() {
        is_wiped::<ed25519_dalek::SigningKey>();
        fn of_a_file<T: zeroize::ZeroizeOnDrop>(_: fn(&Path) -> Result<T, SecretError>) {}
        of_a_file(bytes);
        of_a_file(text);
        of_a_file(word);
        let crate::client::Credentials { token, identity, .. } = crate::client::Credentials::default();
        fn held<T: zeroize::ZeroizeOnDrop>(_: Option<T>) {}
        held(token);
        held(identity.map(|identity| identity.key));
    }

    #[test]
    fn what_is_empty_or_no_text_is_no_word() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        for (content, words) in [(&b"\n"[..], "empty"), (b"\xff", "no text")] {
            std::fs::write(&path, content).expect("written");
            assert!(word(&path).expect_err("refused").to_string().contains(words));
        }
    }
}
