//! The directory in which one user's identities, memberships, nodes and servers are kept between commands.

mod error;
mod identities;
pub mod layout;
mod nodes;
mod own_servers;
mod place;
mod protect;
mod refusals;
mod reset;

use std::path::Path;
use std::sync::Arc;

use postern_proto::name::{IdentityName, NodeName};
use serde::{Deserialize, Serialize};

use crate::files::{ChangeLock, Dir, FileError, MAX_SMALL_FILE};
use crate::vault::{Keys, Vault};

pub use error::HomeError;
pub use identities::IdentityHome;
pub use layout::{authority, node, relay, servers};
pub use nodes::{NodeHome, fixed_file};
pub use own_servers::{Advertise, OwnServers};
pub use place::{NoPlace, locate};
pub use protect::Protecting;
pub use refusals::{RefusalLog, RefusalRecord};

/// An open home, whose owner and mode were checked.
#[derive(Debug)]
pub struct Home {
    dir: Dir,
    keys: Arc<Keys>,
}

/// What commands mean when they name nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Defaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_identity: Option<IdentityName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_node: Option<NodeName>,
}

impl Home {
    /// Opens the home at `path`, an absolute path; makes it if nothing is there, and takes an empty directory over.
    ///
    /// # Errors
    /// Where it cannot be made, or is not empty and could be used by others.
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        Self::open_with(path, Arc::new(Keys::none()))
    }

    /// As [`Home::open`], with what opens the secrets of a protected home.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub fn open_with(path: &Path, keys: Arc<Keys>) -> Result<Self, HomeError> {
        let dir = Dir::open_or_take_over(path)?;
        let root = dir.try_clone()?;
        Ok(Self { dir: dir.with_vault(Arc::new(Vault::new(root, Arc::clone(&keys)))), keys })
    }

    /// Whether the directory at `path` holds something of a home; not whether it is safe to use. What cannot be looked at may.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        let mut entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
        };
        entries.any(|entry| entry.map_or(true, |entry| layout::TOP.iter().any(|name| entry.file_name() == *name)))
    }

    /// A second handle of the same home.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, HomeError> {
        Ok(Self { dir: self.dir.try_clone()?, keys: Arc::clone(&self.keys) })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Waits for, and holds, the lock under which short changes to several files of the home are made, as those of its secrets.
    ///
    /// # Errors
    /// Where the system cannot lock it.
    pub fn lock_changes(&self) -> Result<ChangeLock, HomeError> {
        Ok(self.dir.lock_changes()?)
    }

    /// The directory of the authority; see [`authority`] for what is in it.
    ///
    /// # Errors
    /// Where it cannot be made or could be used by others.
    pub fn authority(&self) -> Result<Dir, HomeError> {
        Ok(self.dir.dir_or_create(layout::AUTHORITY)?)
    }

    /// The directory of the relay; see [`relay`] for what is in it.
    ///
    /// # Errors
    /// As [`Home::authority`].
    pub fn relay(&self) -> Result<Dir, HomeError> {
        Ok(self.dir.dir_or_create(layout::RELAY)?)
    }

    /// The directory of the process that runs authority and relay; see [`servers`] for what is in it.
    ///
    /// # Errors
    /// As [`Home::authority`].
    pub fn servers(&self) -> Result<Dir, HomeError> {
        Ok(self.dir.dir_or_create(layout::SERVERS)?)
    }

    /// As [`Home::servers`]; `None` where nobody ever started any.
    ///
    /// # Errors
    /// Where it cannot be looked at, or could be used by others.
    pub fn servers_if_any(&self) -> Result<Option<Dir>, HomeError> {
        Ok(self.dir.dir(layout::SERVERS)?)
    }

    /// Whether a relay of this home has joined a project.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn has_joined_relay(&self) -> Result<bool, HomeError> {
        match self.dir.dir(layout::RELAY)? {
            Some(dir) => Ok(dir.contains(relay::MEMBERSHIP)?),
            None => Ok(false),
        }
    }

    /// Whether an authority was ever set up here.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn has_authority(&self) -> Result<bool, HomeError> {
        match self.dir.dir(layout::AUTHORITY)? {
            Some(dir) => Ok(dir.contains(authority::IDENTITY)?),
            None => Ok(false),
        }
    }

    /// Whether servers were ever set up here.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn has_servers(&self) -> Result<bool, HomeError> {
        match self.dir.dir(layout::SERVERS)? {
            Some(dir) => Ok(dir.contains(servers::SETTINGS)?),
            None => Ok(false),
        }
    }

    /// The secret key by which a home without a project issues credentials to its own nodes, if it was made.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn local_issuer(&self) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, HomeError> {
        match self.dir.dir(layout::LOCAL)? {
            Some(dir) => Ok(dir.read_secret(layout::LOCAL_ISSUER, MAX_SMALL_FILE)?),
            None => Ok(None),
        }
    }

    /// As [`Home::local_issuer`], from `make` if there was none; all callers get the one that was made first.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn local_issuer_or(
        &self,
        make: impl FnOnce() -> zeroize::Zeroizing<Vec<u8>>,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, HomeError> {
        if let Some(secret) = self.local_issuer()? {
            return Ok(secret);
        }
        let dir = self.dir.dir_or_create(layout::LOCAL)?;
        match dir.write_new_secret(layout::LOCAL_ISSUER, &make()) {
            Ok(()) | Err(FileError::Exists { .. }) => {}
            Err(fault) => return Err(fault.into()),
        }
        self.local_issuer()?.ok_or_else(|| HomeError::Malformed {
            path: dir.path().join(layout::LOCAL_ISSUER),
            reason: "it vanished while it was made".to_owned(),
        })
    }

    fn defaults(&self) -> Result<Defaults, HomeError> {
        let Some(bytes) = self.dir.read(layout::HOME_JSON, MAX_SMALL_FILE)? else { return Ok(Defaults::default()) };
        serde_json::from_slice(&bytes)
            .map_err(|error| HomeError::Malformed { path: self.path().join(layout::HOME_JSON), reason: error.to_string() })
    }

    /// Changes the defaults; the caller holds the lock on changes.
    fn change_defaults(&self, change: impl FnOnce(&mut Defaults)) -> Result<(), HomeError> {
        let before = self.defaults()?;
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            let json = serde_json::to_vec_pretty(&after).unwrap_or_default();
            self.dir.write(layout::HOME_JSON, &json)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
