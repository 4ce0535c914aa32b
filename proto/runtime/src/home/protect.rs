//! Protecting a home with a passphrase, and opening it for good.
//!
//! First the file `protection` says that the home changes; then each secret is written anew; then it says that the home is whole, or is removed. While
//! it changes, sealed and open secrets are both read, so an interruption at any point leaves a home that the passphrase opens, and the same command
//! finishes what was begun.

use std::path::PathBuf;

use postern_proto::secret::SecretBytes;

use super::layout::{self, servers};
use super::{Home, HomeError, reset};
use crate::files::{Dir, FileError, MAX_SMALL_FILE};
use crate::lock::{Lock, LockError};
use crate::vault::{self, HomeKey, Opened, PROTECTION, Passphrase, Protection, State, Unlocked, VaultError};

/// How a home was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protecting {
    /// It was open. So many secrets were sealed.
    Sealed(usize),
    /// It was protected, and has another passphrase now.
    Changed,
}

/// A file that holds a secret.
struct Secret {
    dir: Dir,
    name: &'static str,
}

impl Home {
    /// Whether the secrets of this home are sealed; also while they are being sealed.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn is_protected(&self) -> Result<bool, HomeError> {
        Ok(self.dir.contains(PROTECTION)?)
    }

    /// Whether the home was being protected, or opened for good, and that was interrupted.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn is_half_protected(&self) -> Result<bool, HomeError> {
        Ok(self.protection()?.is_some_and(|(_, protection)| protection.state() == State::Changing))
    }

    /// The key of a protected home, for a process that is started for it; `None` where it is not protected.
    ///
    /// # Errors
    /// [`FileError::Vault`] where the passphrase is wrong or not known, or one was given for a home that is not protected: the process that is
    /// started knows nothing of what was given to this one.
    pub fn key(&self) -> Result<Option<Opened>, HomeError> {
        match self.protection()? {
            Some((vault, protection)) => Ok(Some(vault.opened(&protection)?)),
            None if self.keys.are_demanded() => {
                Err(FileError::from(VaultError::NotProtected { path: self.path().join(PROTECTION) }).into())
            }
            None => Ok(None),
        }
    }

    /// Protects a home that has no secret yet, if a passphrase was given for it.
    ///
    /// # Errors
    /// Where the passphrase cannot be read, or the home cannot be written.
    pub fn protect_if_new(&self) -> Result<(), HomeError> {
        if !self.keys.are_demanded() || self.is_protected()? || !self.secrets()?.is_empty() {
            return Ok(());
        }
        let passphrase = self.keys.passphrase().map_err(FileError::from)?;
        let made = fresh(&passphrase)?;
        match self.dir.write_new(PROTECTION, &made.file(State::Whole).encode()) {
            Ok(()) => self.keys.set(Some(made.key)),
            // Another command was faster; the passphrase is looked at when a secret is kept.
            Err(FileError::Exists { .. }) => {}
            Err(fault) => return Err(fault.into()),
        }
        Ok(())
    }

    /// Seals all secrets under `new`; where they are sealed, they are sealed under `new` instead. Nothing of this home may run.
    ///
    /// # Errors
    /// [`HomeError::Runs`]; [`FileError::Vault`] where the home is protected and cannot be opened.
    pub fn protect(&self, new: &Passphrase) -> Result<Protecting, HomeError> {
        self.protect_by(new, &mut || Ok(()))
    }

    /// Writes all secrets as they are, and forgets the passphrase; whether the home was protected. Nothing of this home may run.
    ///
    /// # Errors
    /// As [`Home::protect`].
    pub fn unprotect(&self) -> Result<bool, HomeError> {
        self.unprotect_by(&mut || Ok(()))
    }

    /// That nothing of this home runs, as [`Home::protect`] and [`Home::unprotect`] need it.
    ///
    /// # Errors
    /// [`HomeError::NodeLocked`] or [`HomeError::ServersLocked`].
    pub fn check_stopped(&self) -> Result<(), HomeError> {
        self.stopped().map(drop)
    }

    /// `step` is called before every change on disk; where it fails, the rest is not done.
    fn protect_by(&self, new: &Passphrase, step: &mut dyn FnMut() -> Result<(), HomeError>) -> Result<Protecting, HomeError> {
        let _changes = self.dir.lock_changes()?;
        let _stopped = self.stopped()?;
        let before = self.protection()?;
        let made = match &before {
            Some((vault, before)) => Unlocked::new(new, vault.key(before)?).map_err(|source| self.fault(source))?,
            None => fresh(new)?,
        };
        if before.as_ref().map(|(_, before)| before.state()) != Some(State::Whole) {
            if before.is_none() {
                step()?;
                self.dir.write(PROTECTION, &made.file(State::Changing).encode())?;
            }
            let sealed = self.rewrite(&made.key, step, |place, open| vault::seal_with(&made.key, place, open))?;
            step()?;
            self.dir.replace_secret(PROTECTION, &made.file(State::Whole).encode())?;
            self.keys.set(Some(made.key));
            return Ok(Protecting::Sealed(sealed));
        }
        step()?;
        self.dir.replace_secret(PROTECTION, &made.file(State::Whole).encode())?;
        self.sweep()?;
        self.keys.set(Some(made.key));
        Ok(Protecting::Changed)
    }

    fn unprotect_by(&self, step: &mut dyn FnMut() -> Result<(), HomeError>) -> Result<bool, HomeError> {
        let _changes = self.dir.lock_changes()?;
        let _stopped = self.stopped()?;
        let Some((_, protection)) = self.protection()? else { return Ok(false) };
        let passphrase = self.keys.passphrase().map_err(FileError::from)?;
        let unlocked = vault::unlock(&protection, &passphrase).map_err(FileError::from)?;
        step()?;
        self.dir.replace_secret(PROTECTION, &unlocked.file(State::Changing).encode())?;
        self.rewrite(&unlocked.key, step, |_, open| open.to_vec().into())?;
        step()?;
        self.dir.remove_secret(PROTECTION)?;
        self.keys.set(None);
        Ok(true)
    }

    /// Writes every secret as `form` says; how many there are.
    fn rewrite(
        &self,
        key: &HomeKey,
        step: &mut dyn FnMut() -> Result<(), HomeError>,
        form: impl Fn(&str, &[u8]) -> zeroize::Zeroizing<Vec<u8>>,
    ) -> Result<usize, HomeError> {
        let secrets = self.secrets()?;
        for Secret { dir, name } in &secrets {
            let Some((_, place)) = dir.vault_and_place(name) else { continue };
            let Some(bytes) = dir.read_as_it_is(name, MAX_SMALL_FILE)? else { continue };
            let damaged = || FileError::from(VaultError::Damaged { path: dir.path().join(name) });
            let was_sealed = vault::is_sealed(&bytes);
            let open = vault::open_with(Some(key), &place, bytes).ok_or_else(damaged)?;
            let after = form(&place, &open);
            if vault::is_sealed(&after) != was_sealed {
                step()?;
                dir.replace_secret(name, &after)?;
            }
        }
        self.sweep()?;
        Ok(secrets.len())
    }

    /// Overwrites and removes what was left of secrets, and of the file that seals them, by processes that were killed; also where no such file is.
    fn sweep(&self) -> Result<(), FileError> {
        reset::remove_unfinished(&self.dir, PROTECTION)?;
        for dir in self.folders()? {
            for name in layout::SECRETS {
                reset::remove_unfinished(&dir, name)?;
            }
        }
        Ok(())
    }

    fn protection(&self) -> Result<Option<(&vault::Vault, Protection)>, HomeError> {
        let Some((vault, _)) = self.dir.vault_and_place(PROTECTION) else { return Ok(None) };
        Ok(vault.protection()?.map(|protection| (vault, protection)))
    }

    /// The folders of the home in which secrets can be.
    fn folders(&self) -> Result<Vec<Dir>, FileError> {
        let mut folders = Vec::new();
        for parent in [layout::IDENTITIES, layout::NODES] {
            let Some(parent) = self.dir.dir(parent)? else { continue };
            for entry in parent.entries()? {
                if entry.is_dir {
                    folders.extend(parent.dir(&entry.name)?);
                }
            }
        }
        for folder in [layout::AUTHORITY, layout::RELAY, layout::LOCAL] {
            folders.extend(self.dir.dir(folder)?);
        }
        Ok(folders)
    }

    /// All secrets of the home.
    fn secrets(&self) -> Result<Vec<Secret>, HomeError> {
        let mut secrets = Vec::new();
        for dir in self.folders()? {
            for name in layout::SECRETS {
                if dir.contains(name)? {
                    secrets.push(Secret { dir: dir.try_clone()?, name });
                }
            }
        }
        Ok(secrets)
    }

    /// The locks of everything that could run: a running process would write secrets as it found the home at its start.
    fn stopped(&self) -> Result<Vec<Lock>, HomeError> {
        let mut locks = Vec::new();
        for node in self.nodes()? {
            locks.push(node.lock()?);
        }
        if let Some(dir) = self.servers_if_any()? {
            match Lock::acquire(&dir, servers::LOCK) {
                Ok(lock) => locks.push(lock),
                Err(LockError::File(fault)) => return Err(fault.into()),
                Err(source @ LockError::Held { .. }) => return Err(HomeError::ServersLocked { source }),
            }
        }
        Ok(locks)
    }

    fn fault(&self, source: vault::ProtectionError) -> FileError {
        VaultError::Protection { path: self.path().join(PROTECTION), source }.into()
    }
}

fn fresh(passphrase: &Passphrase) -> Result<Unlocked, FileError> {
    let made = Unlocked::new(passphrase, SecretBytes::random());
    Ok(made.map_err(|source| VaultError::Protection { path: PathBuf::from(PROTECTION), source })?)
}

#[cfg(test)]
#[path = "protect_tests.rs"]
mod tests;
