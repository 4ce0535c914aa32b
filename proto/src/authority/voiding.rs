//! That credentials are void, how members hear of it, and how far it has come.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{Identifier, ProjectId, StaticPublic};
use crate::name::IdentityName;
use crate::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Heartbeat {
    #[n(0)]
    pub project: ProjectId,
    #[n(1)]
    pub epoch: u64,
    #[n(2)]
    pub time: Timestamp,
}

/// That credentials of these members from before a moment are void: everything that was voided behind epoch `since`, up to and with
/// `epoch`. Of a member that was voided several times, the last counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Voiding {
    #[n(0)]
    pub project: ProjectId,
    #[n(1)]
    pub epoch: u64,
    #[n(2)]
    pub time: Timestamp,
    #[n(3)]
    pub entries: Vec<VoidEntry>,
    #[n(4)]
    pub since: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct VoidEntry {
    #[n(0)]
    pub member: Identifier,
    #[n(1)]
    pub not_before: Timestamp,
}

impl VoidEntry {
    /// As `not_before`: the member was revoked. Only a later entry for it, of an identity that was admitted again, changes that.
    pub const FOR_EVER: Timestamp = Timestamp::from_unix(i64::MAX as u64);
}

/// What is known of how far a revocation or change has come: which nodes and relays enforce its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct Enforcement {
    #[n(0)]
    pub epoch: u64,
    /// Nodes that said that they enforce it.
    #[n(1)]
    pub nodes: u32,
    /// Relays that said so.
    #[n(2)]
    pub relays: u32,
    /// Milliseconds from its commit at the authority until half of them had said so, 99 of 100, and all that have. Absent where the
    /// authority did not see it begin.
    #[n(3)]
    pub times: Option<EnforcementTimes>,
    /// Connected nodes and relays that have not said so yet.
    #[n(4)]
    pub waiting: u32,
    /// Nodes with credentials that are still valid, and relays, that are not connected. They enforce it when they connect.
    #[n(5)]
    pub offline: u32,
    /// Of those that wait or are offline, the first [`Enforcement::MAX_MISSING`].
    #[n(6)]
    pub missing: Vec<MissingEnforcer>,
}

impl Enforcement {
    /// Most that are named in one answer.
    pub const MAX_MISSING: usize = 256;
}

/// How long an epoch took to be enforced, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct EnforcementTimes {
    #[n(0)]
    pub p50: u64,
    #[n(1)]
    pub p99: u64,
    #[n(2)]
    pub max: u64,
}

/// A node or relay that does not enforce an epoch, as far as the authority knows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct MissingEnforcer {
    #[n(0)]
    pub member: Identifier,
    #[n(1)]
    pub name: IdentityName,
    /// The static key of the node or relay, which tells nodes of one member apart.
    #[n(2)]
    pub static_key: StaticPublic,
    #[n(3)]
    pub relay: bool,
    /// It has a session with the authority, and has not said yet that it enforces the epoch.
    #[n(4)]
    pub connected: bool,
}
