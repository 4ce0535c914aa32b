//! What members say to their authority and what it answers: CBOR over a Noise XK session. The formats are specified in
//! `docs/protocol/authority.md`. No request names its caller: the authority knows it from the handshake.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::address::HostPort;
use crate::audit::AuditRow;
use crate::id::{CredentialId, Identifier, KeyId, ProjectId, SigningPublic, StaticPublic, TicketId, TreeHash};
use crate::name::{IdentityName, ProjectName, RelayName};
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

/// Why the authority refuses. The text of each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    #[n(0)]
    #[error("the ticket expired at {at} by the authority's clock")]
    #[cbor(map)]
    TicketExpired {
        #[n(0)]
        at: Timestamp,
    },
    #[n(1)]
    #[error("the ticket was revoked")]
    TicketRevoked,
    /// `at`, `by`: of its last use.
    #[n(2)]
    #[error("the ticket is used up: last used at {at} by {by}")]
    #[cbor(map)]
    TicketUsedUp {
        #[n(0)]
        at: Timestamp,
        #[n(1)]
        by: Identifier,
    },
    /// Unknown id and wrong secret are one answer.
    #[n(3)]
    #[error("this authority issued no such ticket")]
    TicketUnknown,
    #[n(4)]
    #[error("this identity is no member of the project")]
    NotAMember,
    #[n(5)]
    #[error("not permitted: {reason}")]
    #[cbor(map)]
    NotPermitted {
        #[n(0)]
        reason: String,
    },
    #[n(6)]
    #[error("not found: {what}")]
    #[cbor(map)]
    NotFound {
        #[n(0)]
        what: String,
    },
    #[n(7)]
    #[error("{reason}")]
    #[cbor(map)]
    Invalid {
        #[n(0)]
        reason: String,
    },
    #[n(8)]
    #[error("the authority is busy; try again in {after} s")]
    #[cbor(map)]
    Busy {
        #[n(0)]
        after: u32,
    },
    #[n(9)]
    #[error("the relay name `{name}` is held by another member")]
    #[cbor(map)]
    RelayNameHeld {
        #[n(0)]
        name: RelayName,
    },
    #[n(10)]
    #[error("the authority failed to do it; its log says why")]
    Internal,
    /// Nodes that have credentials by the key, and none by another.
    #[n(11)]
    #[error("nodes that have only credentials by the key {key}: {nodes}")]
    #[cbor(map)]
    KeyInUse {
        #[n(0)]
        key: KeyId,
        #[n(1)]
        nodes: u64,
    },
}

impl Refusal {
    /// The names of all refusals, in the order of their numbers.
    pub const NAMES: [&str; 12] = [
        "ticket-expired",
        "ticket-revoked",
        "ticket-used-up",
        "ticket-unknown",
        "not-a-member",
        "not-permitted",
        "not-found",
        "invalid",
        "busy",
        "relay-name-held",
        "internal",
        "key-in-use",
    ];

    /// The codes by which commands and logs name them, in the same order.
    pub const CODES: [&str; 12] = [
        "TICKET_EXPIRED",
        "TICKET_REVOKED",
        "TICKET_USED_UP",
        "TICKET_UNKNOWN",
        "NOT_A_MEMBER",
        "NOT_PERMITTED",
        "NOT_FOUND",
        "INVALID_REQUEST",
        "AUTHORITY_BUSY",
        "RELAY_NAME_HELD",
        "AUTHORITY_FAILED",
        "KEY_IN_USE",
    ];

    /// What each means, in the same order.
    pub const MEANINGS: [&str; 12] = [
        "The ticket has expired",
        "The ticket was revoked",
        "The ticket is used up",
        "There is no such ticket, or its secret is wrong",
        "The caller is no member of the project, or not any more",
        "The caller may not do that",
        "What was asked for is not there",
        "The request makes no sense, or its proof does not hold",
        "A limit of the authority is reached, or its database is busy; try again later",
        "The relay name is held by another member",
        "The authority failed to do it; its log says why",
        "Nodes have no credentials by another key than the one that is to be retired",
    ];

    /// A stable name, for what is counted.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        Self::NAMES[self.number()]
    }

    /// Its code, and what it means.
    #[must_use]
    pub const fn code(&self) -> (&'static str, &'static str) {
        (Self::CODES[self.number()], Self::MEANINGS[self.number()])
    }

    const fn number(&self) -> usize {
        match self {
            Self::TicketExpired { .. } => 0,
            Self::TicketRevoked => 1,
            Self::TicketUsedUp { .. } => 2,
            Self::TicketUnknown => 3,
            Self::NotAMember => 4,
            Self::NotPermitted { .. } => 5,
            Self::NotFound { .. } => 6,
            Self::Invalid { .. } => 7,
            Self::Busy { .. } => 8,
            Self::RelayNameHeld { .. } => 9,
            Self::Internal => 10,
            Self::KeyInUse { .. } => 11,
        }
    }
}

/// A credential that the authority issued: what it keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    pub credential: CredentialId,
    pub expires: Timestamp,
}
