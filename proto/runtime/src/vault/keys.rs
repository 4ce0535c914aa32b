//! Where a process has the passphrase of its home from, and the home key once it was needed.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use postern_proto::secret::SecretBytes;

use super::{Passphrase, PassphraseError, Protection, ProtectionError, State, Unlocked, VaultError};

/// Seals the secrets of a home.
pub type HomeKey = SecretBytes<32>;

/// What a passphrase opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    pub key: HomeKey,
    /// Whether all secrets of the home were sealed then: one that is not was put there by somebody else, whatever the home says later.
    pub whole: bool,
}

/// Reads the passphrase, or asks for it; `None` where nobody is there to be asked.
type Source = Box<dyn Fn() -> Result<Option<Passphrase>, PassphraseError> + Send + Sync>;

/// What a process can open its home with. The passphrase is looked for when a sealed secret is met, once.
pub struct Keys {
    source: Option<Source>,
    demanded: bool,
    unlocked: Mutex<Option<Opened>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("demanded", &self.demanded).finish_non_exhaustive()
    }
}

impl Keys {
    /// Nothing: only an open home can be used.
    #[must_use]
    pub const fn none() -> Self {
        Self { source: None, demanded: false, unlocked: Mutex::new(None) }
    }

    /// A passphrase that somebody gave: a home that is not protected is refused, because its protection was taken away.
    #[must_use]
    pub fn given(source: impl Fn() -> Result<Option<Passphrase>, PassphraseError> + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), demanded: true, unlocked: Mutex::new(None) }
    }

    /// Somebody who can be asked, if that is needed.
    #[must_use]
    pub fn asked(source: impl Fn() -> Result<Option<Passphrase>, PassphraseError> + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), demanded: false, unlocked: Mutex::new(None) }
    }

    /// The home key itself, handed over by the process that started this one.
    #[must_use]
    pub const fn handed(opened: Opened) -> Self {
        Self { source: None, demanded: true, unlocked: Mutex::new(Some(opened)) }
    }

    /// Whether the home must be a protected one.
    #[must_use]
    pub const fn are_demanded(&self) -> bool {
        self.demanded
    }

    /// The passphrase; read or asked for anew at every call.
    ///
    /// # Errors
    /// [`VaultError::NoPassphrase`], or where it cannot be read.
    pub fn passphrase(&self) -> Result<Passphrase, VaultError> {
        match &self.source {
            Some(source) => source()?.ok_or(VaultError::NoPassphrase),
            None => Err(VaultError::NoPassphrase),
        }
    }

    /// The home key of a home that is protected so.
    pub(super) fn unlocked(&self, protection: &Protection) -> Result<Opened, VaultError> {
        // Held while somebody is asked, so that nobody is asked twice.
        let mut unlocked = self.unlocked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*unlocked {
            return Ok(opened.clone());
        }
        let key = unlock(protection, &self.passphrase()?)?.key;
        let opened = Opened { key, whole: protection.state() == State::Whole };
        *unlocked = Some(opened.clone());
        Ok(opened)
    }

    /// Whether the home was whole when it was opened.
    pub(super) fn opened_whole(&self) -> bool {
        self.unlocked.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|opened| opened.whole)
    }

    /// Remembers the key of a home that was protected just now, as a whole, or forgets it.
    pub(crate) fn set(&self, key: Option<HomeKey>) {
        *self.unlocked.lock().unwrap_or_else(PoisonError::into_inner) = key.map(|key| Opened { key, whole: true });
    }
}

/// Opens `protection`.
pub(crate) fn unlock(protection: &Protection, passphrase: &Passphrase) -> Result<Unlocked, VaultError> {
    let fault = |source: ProtectionError| VaultError::Protection { path: super::PROTECTION.into(), source };
    protection.unlock(passphrase).map_err(fault)?.ok_or(VaultError::WrongPassphrase)
}
