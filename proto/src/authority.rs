//! What members say to their authority and what it answers: CBOR over a Noise XK session. The formats are specified in
//! `docs/protocol/authority.md`. No request names its caller: the authority knows it from the handshake.

mod members;
mod project;
mod refusal;
mod voiding;

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

pub use self::members::{Bound, Grant, MemberRow, RelayPermission, Role, TicketRequest, TicketRow, TicketUse};
pub use self::project::{Guardrails, KeyState, ProjectInfo, ProjectPolicyRow, RelayRow, RingKey};
pub use self::refusal::Refusal;
pub use self::voiding::{Enforcement, EnforcementTimes, Heartbeat, MissingEnforcer, VoidEntry, Voiding};
use crate::address::HostPort;
use crate::audit::AuditRow;
use crate::id::{CredentialId, Identifier, TicketId, TreeHash};
use crate::name::{IdentityName, RelayName};
use crate::secret::{SecretBytes, SecretText};
use crate::time::Timestamp;

/// Attributes of a member, bounded by [`crate::credential`]'s limits where they are issued and where they are verified.
pub type Attributes = BTreeMap<String, String>;

/// Longest message in either direction.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// Payload of handshake message 3: who calls. The authority verifies the history, the attestation of the handshake's remote
/// static by it, and then the ticket, if there is one.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// The caller's identity: its change history, encoded.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub history: Vec<u8>,
    /// Attestation of the handshake's static key by that identity.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub attestation: Vec<u8>,
    /// Present when the caller wants to join with a ticket.
    #[n(2)]
    pub enrolment: Option<Enrolment>,
}

/// A request to become a member.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub struct Enrolment {
    #[n(0)]
    pub ticket: TicketId,
    #[n(1)]
    pub secret: SecretBytes<32>,
    /// The identity's name in its home, shown as the member's name.
    #[n(2)]
    pub name: IdentityName,
    /// Whether the caller is a relay server. It must be what the ticket is for, so that no ticket is spent on the wrong thing.
    #[n(3)]
    pub relay_server: bool,
}

/// A request with its number; the answer carries the same number. Number 0 is never used by a request.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub struct Call {
    #[n(0)]
    pub number: u32,
    #[n(1)]
    pub request: Request,
}

/// What a member may ask. Who may ask what is decided from the caller's identity and role alone.
#[derive(Debug, Clone, Encode, Decode)]
pub enum Request {
    /// The current [`ProjectInfo`], signed. Also the answer to a successful enrolment, unasked, under number 0.
    #[n(0)]
    ProjectInfo,
    /// Credentials for the caller's static key: `member` with all attributes, and `relay` naming `relay_names`.
    #[n(1)]
    #[cbor(map)]
    Credentials {
        #[n(0)]
        relay_names: Vec<RelayName>,
    },
    /// Claim `name` for the caller's identity, or find that it may not.
    #[n(2)]
    #[cbor(map)]
    ClaimRelayName {
        #[n(0)]
        name: RelayName,
    },
    #[n(3)]
    #[cbor(map)]
    ReleaseRelayName {
        #[n(0)]
        name: RelayName,
    },
    #[n(4)]
    IssueTicket(#[n(0)] TicketRequest),
    #[n(5)]
    #[cbor(map)]
    ListTickets {
        /// Rows after this one; empty for the first page.
        #[n(0)]
        after: Option<TicketId>,
    },
    #[n(6)]
    #[cbor(map)]
    RevokeTicket {
        #[n(0)]
        ticket: TicketId,
    },
    #[n(7)]
    #[cbor(map)]
    ListMembers {
        #[n(0)]
        after: Option<Identifier>,
    },
    #[n(8)]
    #[cbor(map)]
    DeleteMember {
        #[n(0)]
        member: Identifier,
    },
    /// A relay tells where it can be reached.
    #[n(9)]
    #[cbor(map)]
    AdvertiseRelay {
        #[n(0)]
        address: HostPort,
    },
    #[n(10)]
    #[cbor(map)]
    ListAudit {
        /// Rows with a larger `seq`.
        #[n(0)]
        after: u64,
    },
    #[n(11)]
    #[cbor(map)]
    SetProjectPolicy {
        #[n(0)]
        resource_type: String,
        /// Canonical expression; absent deletes the policy.
        #[n(1)]
        expression: Option<String>,
        /// Which nodes it is for: an expression about their own attributes. Absent: for all.
        #[n(2)]
        applies_to: Option<String>,
    },
    #[n(12)]
    ListProjectPolicies,
    /// Ends a membership for good: every credential of the member is void for ever. It stays in the list.
    #[n(20)]
    #[cbor(map)]
    RevokeMember {
        #[n(0)]
        member: Identifier,
    },
    /// Replaces a member's attributes. Its credentials become void, and it gets new ones.
    #[n(21)]
    #[cbor(map)]
    UpdateMember {
        #[n(0)]
        member: Identifier,
        #[n(1)]
        attributes: Attributes,
    },
    /// The caller, a node or a relay, enforces everything that was voided up to this epoch.
    #[n(22)]
    #[cbor(map)]
    Acknowledge {
        #[n(0)]
        epoch: u64,
    },
    /// How far an epoch has come.
    #[n(23)]
    #[cbor(map)]
    Enforcement {
        #[n(0)]
        epoch: u64,
    },
    /// The signed form of the project's policies, for nodes, which keep to it.
    #[n(40)]
    Guardrails,
    /// Signed checkpoints of the audit log.
    #[n(30)]
    #[cbor(map)]
    AuditCheckpoints {
        /// Those of more rows than this.
        #[n(0)]
        after: u64,
    },
    /// The proof that the audit log of `from` rows is the beginning of the one of `to`.
    #[n(31)]
    #[cbor(map)]
    AuditConsistency {
        #[n(0)]
        from: u64,
        #[n(1)]
        to: u64,
    },
    /// The proof that a row is in the audit log of `size` rows.
    #[n(32)]
    #[cbor(map)]
    AuditInclusion {
        #[n(0)]
        seq: u64,
        #[n(1)]
        size: u64,
    },
    /// Makes the key that is to sign credentials next, and tells everybody of it. Done before, it changes nothing.
    #[n(50)]
    PrepareKey,
    /// The prepared key signs from now on.
    #[n(51)]
    ActivateKey,
    /// The replaced key ends: what it signed is refused everywhere.
    #[n(52)]
    #[cbor(map)]
    RetireKey {
        /// Though nodes have nothing else yet.
        #[n(0)]
        force: bool,
    },
    /// A `member` credential for the static key that the caller's node showed before: its channels with that key go on. The answer has
    /// no `relay` credential.
    #[n(60)]
    #[cbor(map)]
    CredentialBefore {
        /// Of that key, by the caller's identity.
        #[cbor(n(0), with = "minicbor::bytes")]
        attestation: Vec<u8>,
    },
    /// A relay server shows the static key of this session, and will show another one next.
    #[n(61)]
    #[cbor(map)]
    AnnounceStatic {
        /// Of the next key, by the caller's identity.
        #[cbor(n(0), with = "minicbor::bytes")]
        next: Vec<u8>,
    },
}

/// What the authority says: answers, and under number 0 what it pushes.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub struct Reply {
    #[n(0)]
    pub number: u32,
    #[n(1)]
    pub answer: Answer,
}

#[derive(Debug, Clone, Encode, Decode)]
pub enum Answer {
    #[n(0)]
    Done,
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// A signed [`ProjectInfo`], with the change history of the authority's identity, whose identifier the ticket pinned.
    #[n(2)]
    #[cbor(map)]
    ProjectInfo {
        #[cbor(n(0), with = "minicbor::bytes")]
        statement: Vec<u8>,
        #[cbor(n(1), with = "minicbor::bytes")]
        history: Vec<u8>,
    },
    #[n(3)]
    #[cbor(map)]
    Credentials {
        #[cbor(n(0), with = "minicbor::bytes")]
        member: Vec<u8>,
        #[cbor(n(1), with = "minicbor::bytes")]
        relay: Vec<u8>,
    },
    /// The ticket's text form; this is the only time that the authority can tell it.
    #[n(4)]
    #[cbor(map)]
    Ticket {
        #[n(0)]
        ticket: SecretText,
    },
    #[n(5)]
    #[cbor(map)]
    Tickets {
        #[n(0)]
        rows: Vec<TicketRow>,
        #[n(1)]
        more: bool,
    },
    #[n(6)]
    #[cbor(map)]
    Members {
        #[n(0)]
        rows: Vec<MemberRow>,
        #[n(1)]
        more: bool,
    },
    #[n(7)]
    #[cbor(map)]
    Audit {
        #[n(0)]
        rows: Vec<AuditRow>,
        #[n(1)]
        more: bool,
    },
    /// A signed [`Heartbeat`]; pushed every 10 s.
    #[n(8)]
    #[cbor(map)]
    Heartbeat {
        #[cbor(n(0), with = "minicbor::bytes")]
        statement: Vec<u8>,
    },
    #[n(9)]
    #[cbor(map)]
    Policies {
        #[n(0)]
        rows: Vec<ProjectPolicyRow>,
    },
    /// A signed [`Voiding`]; pushed when a session begins and at every change.
    #[n(10)]
    #[cbor(map)]
    Voiding {
        #[cbor(n(0), with = "minicbor::bytes")]
        statement: Vec<u8>,
    },
    /// Members were voided: what they had is enforced where this epoch is.
    #[n(20)]
    #[cbor(map)]
    Voided {
        #[n(0)]
        epoch: u64,
    },
    #[n(21)]
    Enforcement(#[n(0)] Enforcement),
    /// A signed [`Guardrails`].
    #[n(40)]
    #[cbor(map)]
    Guardrails {
        #[cbor(n(0), with = "minicbor::bytes")]
        statement: Vec<u8>,
    },
    /// Signed [`crate::audit::AuditCheckpoint`]s, the smallest first.
    #[n(30)]
    #[cbor(map)]
    AuditCheckpoints {
        #[n(0)]
        statements: Vec<minicbor::bytes::ByteVec>,
        #[n(1)]
        more: bool,
    },
    /// The hashes of a proof, in the order of [`crate::audit::merkle`].
    #[n(31)]
    #[cbor(map)]
    AuditProof {
        #[n(0)]
        hashes: Vec<TreeHash>,
    },
    /// A signed [`crate::audit::AuditCheckpoint`], pushed when a session begins and for every new one.
    #[n(32)]
    #[cbor(map)]
    AuditCheckpoint {
        #[cbor(n(0), with = "minicbor::bytes")]
        statement: Vec<u8>,
        /// The size of the checkpoint before it; whoever has that one needs no other proof than `proof`.
        #[n(1)]
        since: u64,
        /// That the log of `since` rows is the beginning of this one.
        #[n(2)]
        proof: Vec<TreeHash>,
    },
    /// The keys that sign credentials, as they are now.
    #[n(50)]
    #[cbor(map)]
    SigningKeys {
        #[n(0)]
        keys: Vec<RingKey>,
    },
}

/// A credential that the authority issued: what it keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    pub credential: CredentialId,
    pub expires: Timestamp,
}
