//! Why the authority refuses.

use minicbor::{Decode, Encode};

use crate::id::{Identifier, KeyId};
use crate::name::RelayName;
use crate::time::Timestamp;

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
