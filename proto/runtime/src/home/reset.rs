//! Removing everything that Postern made in a home, and nothing else.

use std::path::PathBuf;

use super::layout;
use super::{Home, HomeError};
use crate::files::{Dir, FileError};

impl Home {
    /// Removes all that Postern made here; nothing of this home may run any more. What it did not make is kept and returned.
    ///
    /// # Errors
    /// Where something of ours cannot be removed.
    pub fn reset(&self) -> Result<Vec<PathBuf>, HomeError> {
        let _lock = self.dir.lock_changes()?;
        for (parent, known) in [(layout::NODES, layout::node::ALL), (layout::IDENTITIES, layout::identity::ALL)] {
            let Some(dir) = self.dir.dir(parent)? else { continue };
            for entry in dir.entries()? {
                if entry.is_dir {
                    if let Some(child) = dir.dir(&entry.name)? {
                        remove_known(&child, known)?;
                    }
                    remove_if_empty(&dir, &entry.name)?;
                }
            }
            remove_if_empty(&self.dir, parent)?;
        }
        for (name, known) in [
            (layout::AUTHORITY, layout::authority::ALL),
            (layout::RELAY, layout::relay::ALL),
            (layout::SERVERS, layout::servers::ALL),
            (layout::LOCAL, &[layout::LOCAL_ISSUER]),
        ] {
            if let Some(dir) = self.dir.dir(name)? {
                remove_known(&dir, known)?;
                remove_if_empty(&self.dir, name)?;
            }
        }
        remove_known(&self.dir, &[layout::HOME_JSON, layout::PROTECTION, layout::REFUSALS[0], layout::REFUSALS[1]])?;
        Ok(self.dir.entries()?.into_iter().map(|entry| self.path().join(entry.name)).collect())
    }
}

/// Removes the files `known`, and what unfinished writes of them left. Secrets are overwritten first.
pub(super) fn remove_known(dir: &Dir, known: &[&str]) -> Result<(), FileError> {
    for name in known {
        remove_unfinished(dir, name)?;
    }
    // In the order given: a lock comes last.
    for name in known {
        if is_secret(name) { dir.remove_secret(name) } else { dir.remove(name) }?;
    }
    Ok(())
}

/// Removes what writes of the file `name` left that were not finished.
pub(super) fn remove_unfinished(dir: &Dir, name: &str) -> Result<(), FileError> {
    for entry in dir.entries()? {
        if !entry.is_dir && Dir::is_unfinished_write(&entry.name, name) {
            // Nobody reads it, so it keeps its name until it is gone: a crash leaves nothing under a name that nobody looks for.
            if is_secret(name) { dir.remove_secret_in_place(&entry.name) } else { dir.remove(&entry.name) }?;
        }
    }
    Ok(())
}

/// Whether files of that name are overwritten before they are removed.
fn is_secret(name: &str) -> bool {
    layout::SECRETS.contains(&name) || name == layout::PROTECTION
}

/// Removes the directory `name`, unless something of somebody else is in it.
pub(super) fn remove_if_empty(parent: &Dir, name: &str) -> Result<(), FileError> {
    match parent.dir(name)? {
        Some(dir) if dir.entries()?.is_empty() => parent.remove_dir(name).map(drop),
        _ => Ok(()),
    }
}
