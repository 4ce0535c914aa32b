//! What opens a protected home, and the files that it is read from. It is never an argument nor a variable: others could see those.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Shortest passphrase that is set (NIST SP 800-63B, section 5.1.1.2).
const MIN: usize = 8;
/// Longest one: a key file of any kind, and nothing that was meant to be another file.
const MAX: usize = 4096;
/// Rights that a key file must not give: reading to others than its group, writing to anybody but its owner.
const FOREIGN_RIGHTS: u32 = 0o037;

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    #[error("a passphrase has {MIN} bytes or more")]
    TooShort,
    #[error("a passphrase has {MAX} bytes or fewer")]
    TooLong,
    #[error("the key file `{}` cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the key file `{}` can be read or changed by others (mode {mode:04o})", path.display())]
    Rights { path: PathBuf, mode: u32 },
    #[error("the key file `{}` belongs to user {owner}, who is neither this one nor root", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("the key file `{}` holds no passphrase: {reason}", path.display())]
    Content { path: PathBuf, reason: Box<PassphraseError> },
    #[error("standard input held no passphrase")]
    Input(#[source] io::Error),
}

/// A passphrase, or the content of a key file, which is used in the same way. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(Vec<u8>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl Passphrase {
    /// `bytes` without the end of the line.
    ///
    /// # Errors
    /// Where it is too short or too long.
    pub fn new(bytes: &[u8]) -> Result<Self, PassphraseError> {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() {
            0..MIN => Err(PassphraseError::TooShort),
            MIN..=MAX => Ok(Self(line.to_vec())),
            _ => Err(PassphraseError::TooLong),
        }
    }

    /// The content of a key file, which only its owner (this user or root) may change, and only its owner and group may read.
    ///
    /// # Errors
    /// Where it cannot be read, others could, or it holds none.
    pub fn from_file(path: &Path) -> Result<Self, PassphraseError> {
        let file = open(path)?;
        let stat = file.metadata().map_err(|source| PassphraseError::Unreadable { path: path.to_owned(), source })?;
        // A pipe (of a shell, of a password manager) has no lasting content that others could read.
        if stat.file_type().is_file() {
            let user = rustix::process::geteuid().as_raw();
            if stat.uid() != user && stat.uid() != 0 {
                return Err(PassphraseError::Owner { path: path.to_owned(), owner: stat.uid() });
            }
            if stat.mode() & FOREIGN_RIGHTS != 0 {
                return Err(PassphraseError::Rights { path: path.to_owned(), mode: stat.mode() & 0o7777 });
            }
        }
        read(file, path)
    }

    /// A file of a directory that the service manager made for this process alone (`$CREDENTIALS_DIRECTORY` of systemd), whose rights are its
    /// matter; `None` where there is no such file.
    ///
    /// # Errors
    /// Where it cannot be read or holds none.
    pub fn from_credential(path: &Path) -> Result<Option<Self>, PassphraseError> {
        match open(path) {
            Ok(file) => read(file, path).map(Some),
            Err(PassphraseError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first line of `input`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn from_line(input: impl io::BufRead) -> Result<Self, PassphraseError> {
        use io::BufRead;
        let mut line = Zeroizing::new(Vec::with_capacity(MAX + 2));
        input.take(MAX as u64 + 2).read_until(b'\n', &mut line).map_err(PassphraseError::Input)?;
        Self::new(&line)
    }

    /// The bytes themselves. The name is long so that each use can be found.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

fn open(path: &Path) -> Result<File, PassphraseError> {
    File::open(path).map_err(|source| PassphraseError::Unreadable { path: path.to_owned(), source })
}

fn read(file: File, path: &Path) -> Result<Passphrase, PassphraseError> {
    // Room for all of it from the start: a vector that grows leaves unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 3));
    file.take(MAX as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(|source| PassphraseError::Unreadable { path: path.to_owned(), source })?;
    Passphrase::new(&bytes).map_err(|reason| PassphraseError::Content { path: path.to_owned(), reason: Box::new(reason) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_a_passphrase() {
        assert_eq!(Passphrase::new(b"12345678\n").unwrap().expose_secret(), b"12345678");
        assert_eq!(Passphrase::new(b"12345678\r\n").unwrap().expose_secret(), b"12345678");
        assert!(matches!(Passphrase::new(b"1234567\n"), Err(PassphraseError::TooShort)));
        assert!(matches!(Passphrase::new(&[1; MAX + 1]), Err(PassphraseError::TooLong)));
        assert_eq!(Passphrase::from_line(&b"first line\nsecond"[..]).unwrap().expose_secret(), b"first line");
        assert!(Passphrase::from_line(&b""[..]).is_err());
        assert_eq!(format!("{:?}", Passphrase::new(b"canary-canary").unwrap()), "[secret]");
    }

    #[test]
    fn a_key_file_of_which_others_know_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("key");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o604, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Passphrase::from_file(&path).is_ok(), fine, "{mode:o}");
        }
        assert!(Passphrase::from_credential(&path).unwrap().is_some(), "its rights are the service manager's matter");
        assert!(Passphrase::from_credential(&scratch.path().join("none")).unwrap().is_none());
        assert!(matches!(Passphrase::from_file(&scratch.path().join("none")), Err(PassphraseError::Unreadable { .. })));
    }
}
