//! The identities of a home, and what each knows of the project that it belongs to.

use postern_proto::identity::{ChangeReason, Identity};
use postern_proto::name::IdentityName;
use postern_proto::time::Timestamp;

use super::layout::{self, identity};
use super::{Home, HomeError};
use crate::files::{Dir, FileError, MAX_SMALL_FILE};
use crate::membership::Membership;

/// The name of the identity that is made when one is needed and none is named.
const DEFAULT_IDENTITY: &str = "default";

/// The directory of one identity.
#[derive(Debug)]
pub struct IdentityHome {
    name: IdentityName,
    dir: Dir,
}

impl Home {
    /// All identities, sorted by name.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn identities(&self) -> Result<Vec<IdentityHome>, HomeError> {
        let Some(parent) = self.dir.dir(layout::IDENTITIES)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in parent.entries()? {
            let Ok(name) = entry.name.parse::<IdentityName>() else { continue };
            if entry.is_dir {
                found.extend(self.identity(&name)?);
            }
        }
        Ok(found)
    }

    /// The identity `name`, if there is one.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn identity(&self, name: &IdentityName) -> Result<Option<IdentityHome>, HomeError> {
        let Some(parent) = self.dir.dir(layout::IDENTITIES)? else { return Ok(None) };
        let Some(dir) = parent.dir(name.as_str())? else { return Ok(None) };
        // A process that was killed may have left the directory without the key.
        Ok(if dir.contains(identity::IDENTITY)? { Some(IdentityHome { name: name.clone(), dir }) } else { None })
    }

    /// Makes a new identity. The first one becomes the default.
    ///
    /// # Errors
    /// [`HomeError::IdentityExists`].
    pub fn create_identity(&self, name: &IdentityName, now: Timestamp) -> Result<IdentityHome, HomeError> {
        let _lock = self.dir.lock_changes()?;
        if self.identity(name)?.is_some() {
            return Err(HomeError::IdentityExists(name.clone()));
        }
        self.write_identity(name, now)
    }

    /// The identity `name`, made if there is none.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn identity_or_create(&self, name: &IdentityName, now: Timestamp) -> Result<IdentityHome, HomeError> {
        let _lock = self.dir.lock_changes()?;
        match self.identity(name)? {
            Some(found) => Ok(found),
            None => self.write_identity(name, now),
        }
    }

    /// The default identity, made under the name `default` if there is none.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn default_identity_or_create(&self, now: Timestamp) -> Result<IdentityHome, HomeError> {
        let name = match self.default_identity()? {
            Some(name) => name,
            None => DEFAULT_IDENTITY.parse().map_err(|_| FileError::Name { name: DEFAULT_IDENTITY.to_owned() })?,
        };
        self.identity_or_create(&name, now)
    }

    fn write_identity(&self, name: &IdentityName, now: Timestamp) -> Result<IdentityHome, HomeError> {
        let dir = self.dir.dir_or_create(layout::IDENTITIES)?.dir_or_create(name.as_str())?;
        // What is left of one that was deleted, as by a process that was killed, is not this one's: least of all its membership.
        super::reset::remove_known(&dir, identity::ALL)?;
        dir.write_new_secret(identity::IDENTITY, &Identity::generate(now).to_secret_bytes())?;
        self.change_defaults(|defaults| {
            defaults.default_identity.get_or_insert_with(|| name.clone());
        })?;
        Ok(IdentityHome { name: name.clone(), dir })
    }

    /// The identity that commands mean when they name none; `None` in a home without identities.
    ///
    /// # Errors
    /// Where it cannot be looked up.
    pub fn default_identity(&self) -> Result<Option<IdentityName>, HomeError> {
        if let Some(name) = self.defaults()?.default_identity
            && self.identity(&name)?.is_some()
        {
            return Ok(Some(name));
        }
        Ok(self.identities()?.into_iter().next().map(|identity| identity.name))
    }

    /// Makes `name` the default.
    ///
    /// # Errors
    /// [`HomeError::NoIdentity`].
    pub fn set_default_identity(&self, name: &IdentityName) -> Result<(), HomeError> {
        let _lock = self.dir.lock_changes()?;
        if self.identity(name)?.is_none() {
            return Err(HomeError::NoIdentity(name.clone()));
        }
        self.change_defaults(|defaults| defaults.default_identity = Some(name.clone()))
    }

    /// Replaces the key of the identity `name` by a fresh one, for `reason`. Its identifier stays. Whoever has the identity open goes on with
    /// the key before it until it is read again, which daemons do whenever they connect.
    ///
    /// # Errors
    /// [`HomeError::NoIdentity`], [`HomeError::Rotate`]; nothing changed then.
    pub fn rotate_identity(&self, name: &IdentityName, now: Timestamp, reason: ChangeReason) -> Result<Identity, HomeError> {
        let _lock = self.dir.lock_changes()?;
        let found = self.identity(name)?.ok_or_else(|| HomeError::NoIdentity(name.clone()))?;
        let mut identity = found.load()?;
        identity.rotate(now, reason).map_err(|source| HomeError::Rotate { name: name.clone(), source })?;
        found.store(&identity)?;
        Ok(identity)
    }

    /// Deletes an identity with its membership. Whether a node uses it is for the caller to know.
    ///
    /// # Errors
    /// [`HomeError::NoIdentity`].
    pub fn delete_identity(&self, name: &IdentityName) -> Result<(), HomeError> {
        let _lock = self.dir.lock_changes()?;
        let found = self.identity(name)?.ok_or_else(|| HomeError::NoIdentity(name.clone()))?;
        super::reset::remove_known(&found.dir, identity::ALL)?;
        if let Some(parent) = self.dir.dir(layout::IDENTITIES)? {
            super::reset::remove_if_empty(&parent, name.as_str())?;
        }
        self.change_defaults(|defaults| {
            defaults.default_identity.take_if(|default| default == name);
        })
    }
}

impl IdentityHome {
    #[must_use]
    pub const fn name(&self) -> &IdentityName {
        &self.name
    }

    /// The identity with its key.
    ///
    /// # Errors
    /// Where it cannot be read, could be read by others, or is damaged.
    pub fn load(&self) -> Result<Identity, HomeError> {
        let secret =
            self.dir.read_secret(identity::IDENTITY, MAX_SMALL_FILE)?.ok_or_else(|| HomeError::NoIdentity(self.name.clone()))?;
        Identity::from_secret_bytes(&secret).map_err(|source| HomeError::Identity { name: self.name.clone(), source })
    }

    /// Keeps the identity after its key was replaced.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn store(&self, changed: &Identity) -> Result<(), HomeError> {
        Ok(self.dir.write_secret(identity::IDENTITY, &changed.to_secret_bytes())?)
    }

    /// The stored membership, verified again, if this identity has joined a project.
    ///
    /// # Errors
    /// Where it cannot be read, could be read by others, or does not verify.
    pub fn membership(&self) -> Result<Option<Membership>, HomeError> {
        let Some(bytes) = self.dir.read(identity::MEMBERSHIP, MAX_SMALL_FILE)? else { return Ok(None) };
        Membership::decode(&bytes).map(Some).map_err(|source| HomeError::Membership { name: self.name.clone(), source })
    }

    /// Keeps the membership.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn set_membership(&self, membership: &Membership) -> Result<(), HomeError> {
        Ok(self.dir.write(identity::MEMBERSHIP, &membership.encode())?)
    }

    /// The directory itself, for a process that keeps it open.
    #[must_use]
    pub const fn dir(&self) -> &Dir {
        &self.dir
    }
}
