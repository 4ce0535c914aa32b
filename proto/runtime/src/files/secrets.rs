//! Secret files of a home: sealed where it is protected, and overwritten before what they held is let go.
//!
//! Overwriting reaches what the file system keeps in place. What a journal, a snapshot or the wear levelling of a flash chip has copied
//! elsewhere it does not reach: there, only a protected home helps.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;

use rustix::fs::{AtFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::dir::temporary_name;
use super::{Dir, FileError};
use crate::vault::{OVERHEAD, Vault};

/// How often a secret is read again that was replaced meanwhile, which overwrites what was open.
const ATTEMPTS: usize = 16;

impl Dir {
    /// This directory as the top of a home.
    pub(crate) fn with_vault(mut self, vault: Arc<Vault>) -> Self {
        self.vault = Some((vault, String::new()));
        self
    }

    /// What seals the secrets of this directory's child `name`.
    pub(super) fn vault_of(&self, name: &str) -> Option<(Arc<Vault>, String)> {
        self.vault.as_ref().map(|(vault, place)| (Arc::clone(vault), format!("{place}{name}/")))
    }

    /// The home's [`Vault`], with the place in it of the file `name`.
    pub(crate) fn vault_and_place(&self, name: &str) -> Option<(&Vault, String)> {
        self.vault.as_ref().map(|(vault, place)| (&**vault, format!("{place}{name}")))
    }

    /// The secret that the file `name` holds; `None` where there is none. It is wiped from memory when dropped.
    ///
    /// # Errors
    /// As [`Dir::read`]; [`FileError::Vault`] where the home is protected and cannot be opened.
    pub fn read_secret(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
        let Some(bytes) = self.read_as_it_is(name, limit)? else { return Ok(None) };
        match self.vault_and_place(name) {
            Some((vault, place)) => vault.open(&place, bytes).map(Some),
            None => Ok(Some(bytes)),
        }
    }

    /// What stands in the secret file `name`, sealed or not.
    pub(crate) fn read_as_it_is(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
        for _ in 0..ATTEMPTS {
            let Some(file) = self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK)? else { return Ok(None) };
            let bytes = self.read_file(&file, name, limit + OVERHEAD)?;
            // What is replaced is renamed over or away first, and overwritten then: what still has its name was whole.
            if self.is_still(name, &file)? {
                return Ok(Some(bytes));
            }
        }
        let again = io::Error::other("it is replaced again and again");
        Err(FileError::io("read", &self.child_path(name)?, again))
    }

    /// Keeps `secret` in the file `name`: after a crash at any moment, either the old or the new secret is there. The old one is overwritten.
    ///
    /// # Errors
    /// As [`Dir::write`]; [`FileError::Vault`] where the home is protected and cannot be opened.
    pub fn write_secret(&self, name: &str, secret: &[u8]) -> Result<(), FileError> {
        self.replace_secret(name, &self.sealed(name, secret)?)
    }

    /// As [`Dir::write_secret`], but only where there is nothing of that name.
    ///
    /// # Errors
    /// [`FileError::Exists`] where there is.
    pub fn write_new_secret(&self, name: &str, secret: &[u8]) -> Result<(), FileError> {
        self.write_new(name, &self.sealed(name, secret)?)
    }

    /// Puts `bytes`, sealed or not, in the place of the secret file `name`, and overwrites what was there.
    pub(crate) fn replace_secret(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let old = self.open_to_overwrite(name)?;
        self.write(name, bytes)?;
        match old {
            Some(old) => overwrite(&old).map_err(|e| FileError::io("overwrite what was in", &self.path().join(name), e)),
            None => Ok(()),
        }
    }

    fn sealed(&self, name: &str, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, FileError> {
        match self.vault_and_place(name) {
            Some((vault, place)) => vault.seal(&place, secret),
            None => Ok(Zeroizing::new(secret.to_vec())),
        }
    }

    /// Removes the secret file `name` after it was overwritten; whether there was one. What is not a file of this user alone, such as a
    /// symbolic link, is removed as it is.
    ///
    /// # Errors
    /// Where it is a directory or cannot be removed.
    pub fn remove_secret(&self, name: &str) -> Result<bool, FileError> {
        let Some(file) = self.open_to_overwrite(name)? else { return self.remove(name) };
        // Under another name first: nobody reads a secret that is half overwritten, and a crash leaves what the next reset finds.
        let away = temporary_name(name);
        match rustix::fs::renameat_with(self, name, self, away.as_str(), RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(FileError::io("remove", &self.path().join(name), errno)),
        }
        self.sync()?;
        overwrite(&file).map_err(|e| FileError::io("overwrite", &self.path().join(name), e))?;
        self.remove(&away)
    }

    /// As [`Dir::remove_secret`], for a file that nobody reads: it is overwritten where it is.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn remove_secret_in_place(&self, name: &str) -> Result<bool, FileError> {
        if let Some(file) = self.open_to_overwrite(name)? {
            overwrite(&file).map_err(|e| FileError::io("overwrite", &self.path().join(name), e))?;
        }
        self.remove(name)
    }

    /// `None` where nothing is there that may be overwritten: through a second name, somebody else's file would be.
    fn open_to_overwrite(&self, name: &str) -> Result<Option<File>, FileError> {
        match self.open_to_write(name, OFlags::WRONLY) {
            Err(error) if error.is_unsafe_place() => Ok(None),
            other => other,
        }
    }

    fn is_still(&self, name: &str, file: &File) -> Result<bool, FileError> {
        let fault = |errno: Errno| FileError::io("look at", &self.path().join(name), errno);
        let held = rustix::fs::fstat(file).map_err(fault)?;
        match rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(fault(errno)),
        }
    }
}

/// Puts zeros over the whole of `file`, down to the device.
fn overwrite(mut file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    file.rewind()?;
    let zeros = [0; 4096];
    let mut left = length;
    while left > 0 {
        let some = left.min(zeros.len() as u64);
        file.write_all(&zeros[..some as usize])?;
        left -= some;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::files::scratch;

    /// What an open descriptor of the old file still sees.
    fn seen(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_replaced_or_removed_is_overwritten() {
        let (_scratch, dir) = scratch();
        dir.write_new_secret("key", b"first").unwrap();
        let first = File::open(dir.path().join("key")).unwrap();
        dir.write_secret("key", b"second").unwrap();
        assert_eq!(seen(&first), [0; 5]);
        assert_eq!(dir.read_secret("key", 100).unwrap().unwrap().as_slice(), b"second");
        let second = File::open(dir.path().join("key")).unwrap();
        assert!(dir.remove_secret("key").unwrap() && !dir.remove_secret("key").unwrap());
        assert_eq!(seen(&second), [0; 6]);
        assert!(dir.entries().unwrap().is_empty());
    }

    #[test]
    fn nothing_of_others_is_overwritten_through_a_link() {
        let (scratch, dir) = scratch();
        let precious = scratch.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join("key")).unwrap();
        assert!(dir.remove_secret("key").unwrap());
        std::fs::hard_link(&precious, dir.path().join("key")).unwrap();
        assert!(dir.remove_secret("key").unwrap());
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn readers_meet_no_secret_that_is_half_overwritten() {
        let (_scratch, dir) = scratch();
        dir.write_new_secret("key", &[1; 64]).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..50u8).for_each(|n| dir.write_secret("key", &[n % 7 + 1; 64]).unwrap()));
            while !writer.is_finished() {
                let bytes = dir.read_secret("key", 100).unwrap().unwrap();
                assert!(bytes.len() == 64 && bytes[0] != 0 && bytes.iter().all(|byte| *byte == bytes[0]));
            }
        });
    }
}
