//! What is common to a project: its keys, its relays, and the policies that its administrators set.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::address::HostPort;
use crate::id::{Identifier, KeyId, ProjectId, SigningPublic, StaticPublic};
use crate::name::ProjectName;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct ProjectPolicyRow {
    #[n(0)]
    pub resource_type: String,
    #[n(1)]
    pub expression: String,
    /// Which nodes it is for: an expression about their own attributes. Absent: for all.
    #[n(2)]
    pub applies_to: Option<String>,
}

/// The policies that a project's administrators set for its nodes; signed by the authority's identity. A node keeps the newest, and every
/// decision of its own needs theirs, too.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Guardrails {
    #[n(0)]
    pub project: ProjectId,
    /// The sequence of the project information at which they stand: a lower one than a node knows is refused.
    #[n(1)]
    pub epoch: u64,
    #[n(2)]
    pub rows: Vec<ProjectPolicyRow>,
}

/// What every member knows of its project; signed by the authority's identity.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct ProjectInfo {
    #[n(0)]
    pub project: ProjectId,
    #[n(1)]
    pub name: ProjectName,
    #[n(2)]
    pub authority: Identifier,
    #[n(3)]
    pub authority_static: StaticPublic,
    #[n(4)]
    pub authority_addresses: Vec<HostPort>,
    #[n(5)]
    pub key_ring: Vec<RingKey>,
    #[n(6)]
    pub relays: Vec<RelayRow>,
    #[n(7)]
    pub epoch: u64,
    /// Rises with every change, so that an older statement cannot replace a newer one.
    #[n(8)]
    pub sequence: u64,
    #[n(9)]
    pub issued_at: Timestamp,
}

/// A key that signs this project's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct RingKey {
    #[n(0)]
    pub id: KeyId,
    #[n(1)]
    pub public: SigningPublic,
    #[n(2)]
    pub not_before: Timestamp,
    #[n(3)]
    pub not_after: Timestamp,
    #[n(4)]
    pub state: KeyState,
}

/// What a key of the ring is for. Whoever verifies takes a credential by any of them: who issues goes from one to the next while
/// others have not heard of it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum KeyState {
    /// It is told to everybody, and signs nothing yet.
    #[n(0)]
    Prepared,
    /// It signs. A ring has one such key.
    #[n(1)]
    Active,
    /// It signs nothing any more; what it signed is good until it is retired, which takes it out of the ring.
    #[n(2)]
    Replaced,
}

impl KeyState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Replaced => "replaced",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct RelayRow {
    #[n(0)]
    pub identifier: Identifier,
    #[n(1)]
    pub static_key: StaticPublic,
    #[n(2)]
    pub address: HostPort,
    /// The static key that it shows next. It answers to both.
    #[n(3)]
    pub next_static: Option<StaticPublic>,
}
