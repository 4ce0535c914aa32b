//! The nodes of a home: a directory each.

use std::path::PathBuf;

use postern_proto::id::NodeId;
use postern_proto::name::NodeName;
use postern_proto::secret::{SecretText, random_array};
use postern_proto::time::Timestamp;
use rustix::process::Pid;
use zeroize::Zeroizing;

use super::layout::{self, node};
use super::{Home, HomeError, reset};
use crate::files::{ChangeLock, Dir, FileError, MAX_SMALL_FILE};
use crate::lock::{Lock, LockError};
use crate::statics::Statics;

/// Longest ticket file that is read: a ticket has a few hundred bytes.
const MAX_TICKET: usize = 16 * 1024;

/// What a node whose making or deletion was interrupted may have left, and a new one of its name must not take for its own.
const LEFT_BEHIND: [&str; 9] = [
    node::STATIC,
    node::NODE_ID,
    node::TICKET,
    node::PRESENCE,
    node::EPOCH,
    node::HEARD,
    node::CREDENTIALS,
    node::GUARDRAILS,
    node::AUDIT,
];

/// The directory of one node.
#[derive(Debug)]
pub struct NodeHome {
    name: NodeName,
    dir: Dir,
}

impl Home {
    /// All nodes, sorted by name.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn nodes(&self) -> Result<Vec<NodeHome>, HomeError> {
        let Some(parent) = self.dir.dir(layout::NODES)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in parent.entries()? {
            let Ok(name) = entry.name.parse::<NodeName>() else { continue };
            if entry.is_dir {
                found.extend(self.node(&name)?);
            }
        }
        Ok(found)
    }

    /// The node `name`, if there is one.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn node(&self, name: &NodeName) -> Result<Option<NodeHome>, HomeError> {
        let Some(parent) = self.dir.dir(layout::NODES)? else { return Ok(None) };
        let Some(dir) = parent.dir(name.as_str())? else { return Ok(None) };
        // A process that was killed may have left the directory without its content.
        Ok(if dir.contains(node::STORED)? { Some(NodeHome { name: name.clone(), dir }) } else { None })
    }

    /// Waits for, and holds, the lock under which a command looks whether there is a node, and makes and starts one if not: two that come at
    /// once make one. It is another one than [`Home::lock_changes`], and taken before it.
    ///
    /// # Errors
    /// Where the system cannot lock it.
    pub fn lock_making(&self) -> Result<ChangeLock, HomeError> {
        Ok(self.dir.dir_or_create(layout::NODES)?.lock_changes()?)
    }

    /// Makes a node with what it is to run. The first one becomes the default.
    ///
    /// # Errors
    /// [`HomeError::NodeExists`].
    pub fn create_node(&self, name: &NodeName, stored: &[u8]) -> Result<NodeHome, HomeError> {
        let _lock = self.dir.lock_changes()?;
        if self.node(name)?.is_some() {
            return Err(HomeError::NodeExists(name.clone()));
        }
        let dir = self.dir.dir_or_create(layout::NODES)?.dir_or_create(name.as_str())?;
        reset::remove_known(&dir, &LEFT_BEHIND)?;
        dir.write_new(node::STORED, stored)?;
        self.change_defaults(|defaults| {
            defaults.default_node.get_or_insert_with(|| name.clone());
        })?;
        Ok(NodeHome { name: name.clone(), dir })
    }

    /// The node that commands mean when they name none; `None` in a home without nodes.
    ///
    /// # Errors
    /// Where it cannot be looked up.
    pub fn default_node(&self) -> Result<Option<NodeName>, HomeError> {
        if let Some(name) = self.defaults()?.default_node
            && self.node(&name)?.is_some()
        {
            return Ok(Some(name));
        }
        Ok(self.nodes()?.into_iter().next().map(|node| node.name))
    }

    /// Makes `name` the default.
    ///
    /// # Errors
    /// [`HomeError::NoNode`].
    pub fn set_default_node(&self, name: &NodeName) -> Result<(), HomeError> {
        let _lock = self.dir.lock_changes()?;
        if self.node(name)?.is_none() {
            return Err(HomeError::NoNode(name.clone()));
        }
        self.change_defaults(|defaults| defaults.default_node = Some(name.clone()))
    }

    /// Deletes a node that does not run. Files that are not ours stay, and with them the directory.
    ///
    /// # Errors
    /// [`HomeError::NoNode`]; [`HomeError::NodeLocked`] where it runs.
    pub fn delete_node(&self, name: &NodeName) -> Result<(), HomeError> {
        let _changes = self.dir.lock_changes()?;
        let found = self.node(name)?.ok_or_else(|| HomeError::NoNode(name.clone()))?;
        // Held until the files are gone, so that no daemon starts on half of them.
        let _lock = found.lock()?;
        reset::remove_known(&found.dir, node::ALL)?;
        if let Some(parent) = self.dir.dir(layout::NODES)? {
            reset::remove_if_empty(&parent, name.as_str())?;
        }
        self.change_defaults(|defaults| {
            defaults.default_node.take_if(|default| default == name);
        })
    }
}

impl NodeHome {
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// The directory itself, for what the node keeps beyond what has a method here.
    #[must_use]
    pub const fn dir(&self) -> &Dir {
        &self.dir
    }

    /// What the node is to run, as it was stored.
    ///
    /// # Errors
    /// Where it cannot be read or could be read by others.
    pub fn stored(&self) -> Result<Zeroizing<Vec<u8>>, HomeError> {
        self.dir.read(node::STORED, MAX_SMALL_FILE)?.ok_or_else(|| HomeError::NoNode(self.name.clone()))
    }

    /// Keeps what the node is to run.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn store(&self, stored: &[u8]) -> Result<(), HomeError> {
        // A node that starts has mostly nothing new to keep, and then needs no room on the disk.
        if matches!(self.dir.read(node::STORED, MAX_SMALL_FILE), Ok(Some(kept)) if kept.as_slice() == stored) {
            return Ok(());
        }
        Ok(self.dir.write(node::STORED, stored)?)
    }

    /// The node's id, made at first use.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn node_id(&self) -> Result<NodeId, HomeError> {
        Ok(NodeId::from_bytes(fixed_file(&self.dir, node::NODE_ID)?))
    }

    /// The node's static keys, made at first use.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub fn statics(&self, now: Timestamp) -> Result<Statics, HomeError> {
        Statics::open(&self.dir, node::STATIC, now)
    }

    /// The ticket that waits to be redeemed.
    ///
    /// # Errors
    /// Where it cannot be read or could be read by others.
    pub fn ticket(&self) -> Result<Option<SecretText>, HomeError> {
        let Some(bytes) = self.dir.read_secret(node::TICKET, MAX_TICKET)? else { return Ok(None) };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(SecretText::new(text.to_owned()))),
            Err(_) => Err(HomeError::Malformed { path: self.dir.path().join(node::TICKET), reason: "it is not text".to_owned() }),
        }
    }

    /// Keeps a ticket until it is redeemed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn set_ticket(&self, ticket: &SecretText) -> Result<(), HomeError> {
        Ok(self.dir.write_secret(node::TICKET, ticket.expose_secret().as_bytes())?)
    }

    /// Forgets the ticket.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove_ticket(&self) -> Result<(), HomeError> {
        self.dir.remove_secret(node::TICKET)?;
        Ok(())
    }

    /// The signed checkpoint of the authority's audit log that the node remembers.
    ///
    /// # Errors
    /// Where it cannot be read or could be read by others.
    pub fn audit_checkpoint(&self) -> Result<Option<Zeroizing<Vec<u8>>>, HomeError> {
        Ok(self.dir.read(node::AUDIT, MAX_SMALL_FILE)?)
    }

    /// Takes the lock that says that this node runs.
    ///
    /// # Errors
    /// [`HomeError::NodeLocked`] where it runs already.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        match Lock::acquire(&self.dir, node::LOCK) {
            Ok(lock) => Ok(lock),
            Err(LockError::File(fault)) => Err(fault.into()),
            Err(source @ LockError::Held { .. }) => Err(HomeError::NodeLocked { name: self.name.clone(), source }),
        }
    }

    /// The process that runs this node, if one does.
    ///
    /// # Errors
    /// Where the lock cannot be looked at.
    pub fn running(&self) -> Result<Option<Pid>, HomeError> {
        Ok(Lock::holder(&self.dir, node::LOCK)?)
    }

    /// The process that runs this node, where it was told to stop and has not ended yet.
    ///
    /// # Errors
    /// Where the lock cannot be looked at.
    pub fn stopping(&self) -> Result<Option<Pid>, HomeError> {
        Ok(Lock::stopping(&self.dir, node::LOCK)?)
    }

    /// Where to bind or connect the control socket; good while this value lives.
    ///
    /// # Errors
    /// Never, for the fixed name.
    pub fn control_socket(&self) -> Result<PathBuf, FileError> {
        self.dir.socket_path(node::CONTROL_SOCKET)
    }

    /// Where the log of the background process is.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join(node::LOG)
    }
}

/// The `N` bytes of the file `name`, random ones if it is not there yet; all callers get those that were made first.
///
/// # Errors
/// Where it cannot be read or written, or has another length.
pub fn fixed_file<const N: usize>(dir: &Dir, name: &str) -> Result<[u8; N], HomeError> {
    let mut found = dir.read(name, MAX_SMALL_FILE)?;
    if found.is_none() {
        match dir.write_new(name, &random_array::<N>()) {
            Ok(()) | Err(FileError::Exists { .. }) => found = dir.read(name, MAX_SMALL_FILE)?,
            Err(fault) => return Err(fault.into()),
        }
    }
    let malformed = |reason: String| HomeError::Malformed { path: dir.path().join(name), reason };
    let bytes = found.ok_or_else(|| malformed("it vanished while it was made".to_owned()))?;
    bytes.as_slice().try_into().map_err(|_| malformed(format!("it has {} bytes instead of {N}", bytes.len())))
}
