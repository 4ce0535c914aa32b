//! What the relay keeps on disk: who it is, whom it believes, and whose credentials are void. Nothing about nodes or streams.
//! With this it restarts while the authority is down, and never forgets a revocation.

use std::sync::Arc;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use postern_proto::authority::Voiding;
use postern_proto::credential::Voided;
use postern_proto::id::NodeId;
use postern_proto::identity::{ChangeReason, Identity, IdentityError, RotateError};
use postern_proto::statement;
use postern_proto::time::Timestamp;
use postern_runtime::files::{Dir, FileError, MAX_SMALL_FILE};
use postern_runtime::home::{Home, HomeError, fixed_file, relay};
use postern_runtime::membership::{Membership, MembershipError};
use postern_runtime::statics::Statics;

use crate::trust::{PassedOn, Statements, TrustState};

/// Longest void list: 65,536 members, and the statements that they came from.
const MAX_EPOCH_FILE: usize = 16 * 1024 * 1024;

/// Why the relay's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the relay's identity: {0}")]
    Identity(#[from] IdentityError),
    #[error("the key of the relay's identity is not replaced: {0}")]
    Rotate(#[from] RotateError),
    #[error("no relay server of this home has started yet")]
    NoIdentity,
    #[error("the relay's membership: {0}")]
    Membership(#[from] MembershipError),
    #[error("the relay's list of void credentials is damaged: join again with a new ticket, in an empty relay directory")]
    Epoch,
}

/// The relay's directory.
pub struct RelayHome {
    dir: Dir,
}

/// Void credentials, as they are kept.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Epoch {
    #[n(0)]
    voided: Voided,
    /// The signed statements, to be passed on.
    #[n(1)]
    statements: Vec<ByteVec>,
}

/// A statement that was kept to be passed on, if it still verifies: the authority may have another key since.
fn passed_on(membership: &Membership, signed: Vec<u8>) -> Option<PassedOn> {
    let voiding: Voiding = statement::verify(membership.history(), membership.project(), &signed).ok()?;
    Some(PassedOn { since: voiding.since, epoch: voiding.epoch, signed: signed.into() })
}

impl RelayHome {
    /// # Errors
    /// Where the directory cannot be made or could be used by others.
    pub fn open(home: &Home) -> Result<Self, StateError> {
        Ok(Self { dir: home.relay()? })
    }

    /// The relay's identity, made at first use.
    ///
    /// # Errors
    /// Where it cannot be read or written, or is damaged.
    pub fn identity(&self, now: Timestamp) -> Result<Identity, StateError> {
        if let Some(secret) = self.dir.read_secret(relay::IDENTITY, MAX_SMALL_FILE)? {
            return Ok(Identity::from_secret_bytes(&secret)?);
        }
        let fresh = Identity::generate(now);
        match self.dir.write_new_secret(relay::IDENTITY, &fresh.to_secret_bytes()) {
            Ok(()) => Ok(fresh),
            Err(FileError::Exists { .. }) => self.identity(now),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the key of the relay's identity in `home`, its home, by a fresh one, for `reason`; the relay takes it when it connects to the
    /// authority next.
    ///
    /// # Errors
    /// Where there is no identity, and where it cannot be read, changed or written.
    pub fn rotate_identity(&self, home: &Home, now: Timestamp, reason: ChangeReason) -> Result<Identity, StateError> {
        // Of two changes at a time one would be lost, or a secret would be written as the home was before its protection changed.
        let _changes = home.lock_changes()?;
        let secret = self.dir.read_secret(relay::IDENTITY, MAX_SMALL_FILE)?.ok_or(StateError::NoIdentity)?;
        let mut identity = Identity::from_secret_bytes(&secret)?;
        identity.rotate(now, reason)?;
        self.dir.write_secret(relay::IDENTITY, &identity.to_secret_bytes())?;
        Ok(identity)
    }

    /// The relay's static keys, made at first use.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub fn statics(&self, now: Timestamp) -> Result<Statics, StateError> {
        Ok(Statics::open(&self.dir, relay::STATIC, now)?)
    }

    /// The relay's node id, made at first use: its attestation has one, as every member's.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn node_id(&self) -> Result<NodeId, StateError> {
        Ok(NodeId::from_bytes(fixed_file(&self.dir, relay::NODE_ID)?))
    }

    /// What the relay believes, verified again; `None` where it has joined no project.
    ///
    /// # Errors
    /// Where it cannot be read, could be read by others, or does not verify.
    pub fn trust(&self) -> Result<Option<TrustState>, StateError> {
        let Some(bytes) = self.dir.read(relay::MEMBERSHIP, MAX_SMALL_FILE)? else { return Ok(None) };
        let membership = Membership::decode(&bytes)?;
        let epoch = match self.dir.read(relay::EPOCH, MAX_EPOCH_FILE)? {
            // A damaged list must not be taken for an empty one: it would let revoked members in.
            Some(bytes) => minicbor::decode(&bytes).map_err(|_| StateError::Epoch)?,
            None => Epoch { voided: Voided::default(), statements: Vec::new() },
        };
        let statements = Statements {
            project_info: membership.statement().into(),
            voidings: epoch.statements.into_iter().filter_map(|signed| passed_on(&membership, signed.into())).collect(),
            heartbeat: None,
        };
        Ok(Some(TrustState { membership: Arc::new(membership), voided: Arc::new(epoch.voided), statements }))
    }

    /// Keeps the membership.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn set_membership(&self, membership: &Membership) -> Result<(), StateError> {
        Ok(self.dir.write(relay::MEMBERSHIP, &membership.encode())?)
    }

    /// Keeps whose credentials are void.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn set_voided(&self, voided: &Voided, statements: &[PassedOn]) -> Result<(), StateError> {
        let statements = statements.iter().map(|statement| ByteVec::from(statement.signed.to_vec())).collect();
        let mut bytes = Vec::new();
        minicbor::encode(Epoch { voided: voided.clone(), statements }, &mut bytes).map_err(|_| StateError::Epoch)?;
        Ok(self.dir.write(relay::EPOCH, &bytes)?)
    }
}
