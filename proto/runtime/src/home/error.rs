//! Why something of a home cannot be used.

use std::path::PathBuf;

use postern_proto::identity::{IdentityError, RotateError};
use postern_proto::name::{IdentityName, NodeName};

use crate::files::FileError;
use crate::lock::LockError;
use crate::membership::MembershipError;

#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{}` is damaged: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("there is already an identity `{0}`")]
    IdentityExists(IdentityName),
    #[error("there is no identity `{0}`")]
    NoIdentity(IdentityName),
    #[error("identity `{name}`: {source}")]
    Identity { name: IdentityName, source: IdentityError },
    #[error("the key of identity `{name}` is not replaced: {source}")]
    Rotate { name: IdentityName, source: RotateError },
    #[error("identity `{name}`: {source}")]
    Membership { name: IdentityName, source: MembershipError },
    #[error("there is already a node `{0}`")]
    NodeExists(NodeName),
    #[error("there is no node `{0}`")]
    NoNode(NodeName),
    #[error("node `{name}`: {source}")]
    NodeLocked { name: NodeName, source: LockError },
    #[error("the servers of this home: {source}")]
    ServersLocked { source: LockError },
}
