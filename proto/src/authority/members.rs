//! Who may be in a project, and by what: roles, grants, tickets, and the members that came of them.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::Attributes;
use crate::address::HostPort;
use crate::id::{Identifier, TicketId};
use crate::name::{IdentityName, RelayName};
use crate::time::Timestamp;

/// Who a member may admit, fixed by the ticket it joined with.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum Role {
    #[n(0)]
    Member,
    /// May issue tickets. `may_grant` empty: any attribute, and any relay name not held by a member that somebody else enrolled.
    #[n(1)]
    #[cbor(map)]
    Enroller {
        #[n(0)]
        may_grant: Vec<Grant>,
    },
    #[n(2)]
    Administrator,
    /// A relay server.
    #[n(3)]
    #[cbor(map)]
    RelayServer {
        #[n(0)]
        address: HostPort,
    },
}

/// One thing that an enroller may put into a ticket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// An attribute; without a value, with any value.
    #[n(0)]
    #[cbor(map)]
    Attribute {
        #[n(0)]
        key: String,
        #[n(1)]
        value: Option<String>,
    },
    /// A relay name, or all that begin with what stands before a final `*`.
    #[n(1)]
    #[cbor(map)]
    Relay {
        #[n(0)]
        pattern: String,
    },
    /// The role of enroller, with no more than these grants, and this one where it is to go on.
    #[n(2)]
    Enroller,
}

/// What a member may register at the relays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelayPermission {
    /// Any name that was granted to nobody.
    #[n(0)]
    Any,
    /// This name, which belongs to this member alone.
    #[n(1)]
    Name(#[n(0)] RelayName),
    /// This name, together with others.
    #[n(2)]
    Shared(#[n(0)] RelayName),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TicketRequest {
    #[n(0)]
    pub attributes: Attributes,
    #[n(1)]
    pub relays: Vec<RelayPermission>,
    #[n(2)]
    pub role: Role,
    /// Seconds from now, by the authority's clock.
    #[n(3)]
    pub expires_in: u64,
    #[n(4)]
    pub max_uses: u32,
    /// Who alone may use it; absent for whoever has it.
    #[n(5)]
    pub bound: Option<Bound>,
}

/// Whom a ticket is for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// An identity whose name is this, or begins with what stands before a final `*`. An identity names itself: this keeps tickets from
    /// going to the wrong machine by mistake, and nobody out.
    #[n(0)]
    Name(#[n(0)] String),
    /// This identity, which must prove its key.
    #[n(1)]
    Identity(#[n(0)] Identifier),
}

/// A use of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct TicketUse {
    #[n(0)]
    pub by: Identifier,
    #[n(1)]
    pub at: Timestamp,
}

/// A ticket as it can be listed: never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct TicketRow {
    #[n(0)]
    pub id: TicketId,
    #[n(1)]
    pub issued_by: Identifier,
    #[n(2)]
    pub issued_at: Timestamp,
    #[n(3)]
    pub expires_at: Timestamp,
    #[n(4)]
    pub uses: u32,
    #[n(5)]
    pub max_uses: u32,
    #[n(6)]
    pub revoked: bool,
    #[n(7)]
    pub attributes: Attributes,
    #[n(8)]
    pub relays: Vec<RelayPermission>,
    #[n(9)]
    pub role: Role,
    /// Who joined with it, and when: the first ones.
    #[n(10)]
    pub uses_by: Vec<TicketUse>,
    #[n(11)]
    pub bound: Option<Bound>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct MemberRow {
    #[n(0)]
    pub identifier: Identifier,
    #[n(1)]
    pub name: IdentityName,
    #[n(2)]
    pub attributes: Attributes,
    #[n(3)]
    pub relays: Vec<RelayPermission>,
    #[n(4)]
    pub role: Role,
    /// Who issued the ticket that it joined with.
    #[n(5)]
    pub attested_by: Identifier,
    #[n(6)]
    pub added_at: Timestamp,
    /// When the newest credential issued to it expires.
    #[n(7)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked; absent for a member.
    #[n(8)]
    pub revoked_at: Option<Timestamp>,
}
