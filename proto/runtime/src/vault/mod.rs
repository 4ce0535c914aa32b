//! Keys at rest: the secrets of a home, sealed under one key, which a passphrase opens.
//!
//! A home is *protected* where its file `protection` says so. That file holds the *home key*, 32 random bytes, sealed under what argon2id makes
//! of the passphrase ([`protection`]); every secret file is sealed under the home key and bound to its place ([`seal`]). So another passphrase
//! is one small file written anew, and no secret can be put in the place of another.
//!
//! While a home is being protected, or opened for good, `protection` says that too, and both kinds of files are read: a crash at any
//! instruction leaves a home that its passphrase opens. Once it is whole, a secret that is not sealed is refused, because somebody else put it there.
//!
//! What this keeps: whoever gets a copy of the home (a back-up, a disk, an image) learns no key. What it cannot keep: whoever can *write* the home
//! can put other keys and other settings into it, as into one that was never protected; and whoever can read the memory of a running daemon needs
//! no file. A process that was given a passphrase refuses a home whose protection was taken away ([`VaultError::NotProtected`]).

mod keys;
mod passphrase;
mod protection;
mod seal;

pub(crate) use keys::unlock;
pub use keys::{HomeKey, Keys, Opened};
pub use passphrase::{Passphrase, PassphraseError};
pub use protection::ProtectionError;
pub(crate) use protection::{Protection, State, Unlocked};
pub(crate) use seal::OVERHEAD;

use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::files::{Dir, FileError};

/// The file of a home that says that it is protected.
pub const PROTECTION: &str = "protection";
/// Longest such file: it has some 300 bytes.
const MAX_PROTECTION: usize = 4096;

/// Why a secret cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Nobody gave the passphrase, and nobody is there to be asked.
    #[error("the keys of this home are protected, and no passphrase was given")]
    NoPassphrase,
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error("this is not the passphrase of this home")]
    WrongPassphrase,
    #[error("`{}` is damaged: {source}", path.display())]
    Protection { path: PathBuf, source: ProtectionError },
    /// Changed, cut, or brought here from another place or home.
    #[error("`{}` is not what was sealed here", path.display())]
    Damaged { path: PathBuf },
    /// The process was given a passphrase, so its home must not be an open one.
    #[error("a passphrase was given, and the keys of this home are not protected (`{}`)", path.display())]
    NotProtected { path: PathBuf },
    /// The home is protected as a whole, so this file is of somebody else.
    #[error("`{}` is not sealed, though this home is protected: it was not used", path.display())]
    NotSealed { path: PathBuf },
    #[error("`{}` is sealed, and the file `{PROTECTION}` of this home is gone: restore it from a back-up", path.display())]
    Lost { path: PathBuf },
}

/// What seals and opens the secrets of one home. Its directories share it.
#[derive(Debug)]
pub(crate) struct Vault {
    /// The directory of the home.
    root: Dir,
    keys: Arc<Keys>,
}

impl Vault {
    pub(crate) const fn new(root: Dir, keys: Arc<Keys>) -> Self {
        Self { root, keys }
    }

    /// What protects the home, as it stands on disk now.
    pub(crate) fn protection(&self) -> Result<Option<Protection>, FileError> {
        // Beside a command that replaces it, and overwrites what was there.
        let Some(bytes) = self.root.read_as_it_is(PROTECTION, MAX_PROTECTION)? else { return Ok(None) };
        let fault = |source| VaultError::Protection { path: self.root.path().join(PROTECTION), source };
        Ok(Some(Protection::decode(&bytes).map_err(fault)?))
    }

    /// The home key.
    pub(crate) fn key(&self, protection: &Protection) -> Result<HomeKey, FileError> {
        Ok(self.opened(protection)?.key)
    }

    /// The home key, and whether the home was whole when it was opened.
    pub(crate) fn opened(&self, protection: &Protection) -> Result<Opened, FileError> {
        Ok(self.keys.unlocked(protection)?)
    }

    /// The secret that the file at `place` holds.
    pub(crate) fn open(&self, place: &str, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let path = || self.root.path().join(place);
        let opened = match (seal::is_sealed(&bytes), self.protection()?) {
            (true, Some(protection)) => {
                let key = self.key(&protection)?;
                seal::open(&key, place, &bytes).ok_or_else(|| VaultError::Damaged { path: path() })
            }
            (true, None) => Err(VaultError::Lost { path: path() }),
            (false, Some(protection)) if protection.state() == State::Whole || self.keys.opened_whole() => {
                Err(VaultError::NotSealed { path: path() })
            }
            (false, Some(protection)) => {
                // That the home changes counts only where the passphrase says that nobody else wrote it.
                self.key(&protection)?;
                Ok(bytes)
            }
            (false, None) if self.keys.are_demanded() => Err(VaultError::NotProtected { path: path() }),
            (false, None) => Ok(bytes),
        };
        Ok(opened?)
    }

    /// What the file at `place` has to hold, for `secret` to be in it.
    pub(crate) fn seal(&self, place: &str, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, FileError> {
        match self.protection()? {
            Some(protection) => Ok(seal::seal(&self.key(&protection)?, place, secret)),
            None if self.keys.are_demanded() => Err(VaultError::NotProtected { path: self.root.path().join(place) }.into()),
            None => Ok(Zeroizing::new(secret.to_vec())),
        }
    }
}

/// What a sealed file holds, for those who change how a home is protected.
pub(crate) fn open_with(key: Option<&HomeKey>, place: &str, bytes: Zeroizing<Vec<u8>>) -> Option<Zeroizing<Vec<u8>>> {
    match (seal::is_sealed(&bytes), key) {
        (false, _) => Some(bytes),
        (true, Some(key)) => seal::open(key, place, &bytes),
        (true, None) => None,
    }
}

/// As a sealed file.
pub(crate) fn seal_with(key: &HomeKey, place: &str, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    seal::seal(key, place, secret)
}

/// Whether `bytes` are those of a sealed file.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    seal::is_sealed(bytes)
}
