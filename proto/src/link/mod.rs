//! What a node and a relay say to each other: the messages of a control link, and the fixed-length frames that open a data
//! link. The formats are specified in `docs/protocol/links.md`.

mod frame;

use minicbor::{Decode, Encode};

pub use self::frame::{Frame, FrameError, LinkFrames, Opening};
use crate::id::{Identifier, InstanceId, NodeId};
use crate::name::RelayName;
use crate::weight::Weight;

/// Payload of handshake message 3 on a control link: who connects. The relay verifies `credential` for the `relay` audience
/// against the handshake's remote static before it believes anything else here.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub credential: Vec<u8>,
    #[n(1)]
    pub node_id: NodeId,
    #[n(2)]
    pub instance: InstanceId,
}

/// What a node says on its control link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToRelay {
    /// Register `name` for this node. The name must stand in the credential that the relay holds.
    #[n(0)]
    #[cbor(map)]
    Register {
        #[n(0)]
        request: u32,
        #[n(1)]
        name: RelayName,
        /// Absent where it is 1. Registering again changes it.
        #[n(2)]
        weight: Option<Weight>,
    },
    #[n(1)]
    #[cbor(map)]
    Unregister {
        #[n(0)]
        request: u32,
        #[n(1)]
        name: RelayName,
    },
    /// Keep telling me who is registered under `name`.
    #[n(2)]
    #[cbor(map)]
    Watch {
        #[n(0)]
        name: RelayName,
    },
    #[n(3)]
    #[cbor(map)]
    Unwatch {
        #[n(0)]
        name: RelayName,
    },
    /// A newer `relay` credential, to replace the one that the relay holds.
    #[n(4)]
    #[cbor(map)]
    Renew {
        #[cbor(n(0), with = "minicbor::bytes")]
        credential: Vec<u8>,
    },
    #[n(5)]
    #[cbor(map)]
    Ping {
        #[n(0)]
        number: u64,
    },
}

/// What a relay says on a control link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromRelay {
    /// First message: the session exists. `observed` is the node's address as the relay sees it.
    #[n(0)]
    #[cbor(map)]
    Welcome {
        #[n(0)]
        observed: String,
    },
    /// Answer to [`ToRelay::Register`] and [`ToRelay::Unregister`]. Under request 0, which no node uses, the relay says unasked
    /// what is wrong with this session: another copy of the home was refused, a registration or a watch is not kept.
    #[n(1)]
    #[cbor(map)]
    Answer {
        #[n(0)]
        request: u32,
        #[n(1)]
        refused: Option<Refusal>,
    },
    /// All instances registered under a watched name now, at most [`MAX_INSTANCES`].
    #[n(2)]
    #[cbor(map)]
    Instances {
        #[n(0)]
        name: RelayName,
        #[n(1)]
        instances: Vec<Instance>,
    },
    /// Somebody waits for this node: park `count` more data links.
    #[n(3)]
    #[cbor(map)]
    MoreLinks {
        #[n(0)]
        count: u8,
    },
    #[n(4)]
    #[cbor(map)]
    Pong {
        #[n(0)]
        number: u64,
    },
    /// Last message: the relay closes this link.
    #[n(5)]
    #[cbor(map)]
    Closing {
        #[n(0)]
        reason: Refusal,
    },
    /// A signed statement of the authority, passed on unread.
    #[n(6)]
    #[cbor(map)]
    Statement {
        #[cbor(n(0), with = "minicbor::bytes")]
        statement: Vec<u8>,
    },
}

/// One run of a node, as look-up hands it out. The dialler verifies `credential` before it sends anything.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Instance {
    #[n(0)]
    pub identifier: Identifier,
    #[n(1)]
    pub node_id: NodeId,
    #[n(2)]
    pub instance: InstanceId,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub credential: Vec<u8>,
    /// The share of new streams that it asks for among the nodes under the name. Absent where it is 1, and in a knock.
    #[n(4)]
    pub weight: Option<Weight>,
}

/// Longest knock, and longest answer to one: a stranger makes a node hold no more.
pub const MAX_KNOCK: usize = 4096;

impl Instance {
    /// The knock that shows this run of a node to another one, and the answer to it: behind its length as `u16`.
    #[must_use]
    pub fn knock(&self) -> Vec<u8> {
        let mut body = Vec::new();
        // Writing to a vector does not fail.
        let _ = minicbor::encode(self, &mut body);
        let mut knock = (body.len() as u16).to_be_bytes().to_vec();
        knock.extend(body);
        knock
    }

    /// How many bytes follow the first two of a knock; `None` where that is more than [`MAX_KNOCK`].
    #[must_use]
    pub fn knock_length(first: [u8; 2]) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(first))).filter(|length| *length <= MAX_KNOCK)
    }

    /// Who knocks, by the bytes behind the length. Nothing of it is proven yet.
    #[must_use]
    pub fn of_knock(body: &[u8]) -> Option<Self> {
        minicbor::decode(body).ok()
    }
}

/// Most instances in one [`FromRelay::Instances`].
pub const MAX_INSTANCES: usize = 16;

/// Longest message on a control link: 16 instances with their credentials, and room.
pub const MAX_CONTROL_MESSAGE: usize = 128 * 1024;

/// Stands for the request in the [id](crate::id::RefusalId::of_request) of a refusal that ends a session.
pub const CLOSING: u32 = u32::MAX;

impl Refusal {
    /// The code by which logs name it, and what it means; `None` of what is no refusal but a circumstance.
    #[must_use]
    pub const fn code(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::NotPermitted => Some(("NOT_PERMITTED", "The node may not claim this relay name.")),
            Self::BadCredential => Some(("CREDENTIAL", "A credential is not good, or no longer; the reason says whose and why.")),
            Self::Limit | Self::TooManyRequests | Self::CopiedHome | Self::Malformed => {
                Some(("RELAY_REFUSED", "The relay refused; the reason says why."))
            }
            Self::NotConnected | Self::NoLink | Self::TakenOver | Self::ShuttingDown => None,
        }
    }
}

/// Why a relay refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(index_only)]
pub enum Refusal {
    #[n(1)]
    #[error("the credential does not permit it")]
    NotPermitted,
    #[n(2)]
    #[error("no such node is connected here")]
    NotConnected,
    #[n(3)]
    #[error("a limit of the relay is reached; try again later")]
    Limit,
    #[n(4)]
    #[error("the credential was refused")]
    BadCredential,
    #[n(5)]
    #[error("the same node connected again from elsewhere")]
    TakenOver,
    #[n(6)]
    #[error("two live copies of one home contend for this node")]
    CopiedHome,
    #[n(7)]
    #[error("the peer's queue of requests is full")]
    TooManyRequests,
    #[n(8)]
    #[error("the relay is shutting down")]
    ShuttingDown,
    #[n(9)]
    #[error("the peer parked no link in time")]
    NoLink,
    #[n(10)]
    #[error("a malformed message")]
    Malformed,
}

impl Refusal {
    /// All refusals, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NotPermitted,
        Self::NotConnected,
        Self::Limit,
        Self::BadCredential,
        Self::TakenOver,
        Self::CopiedHome,
        Self::TooManyRequests,
        Self::ShuttingDown,
        Self::NoLink,
        Self::Malformed,
    ];

    /// A stable name, for what is counted.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotPermitted => "not-permitted",
            Self::NotConnected => "not-connected",
            Self::Limit => "limit",
            Self::BadCredential => "bad-credential",
            Self::TakenOver => "taken-over",
            Self::CopiedHome => "copied-home",
            Self::TooManyRequests => "too-many-requests",
            Self::ShuttingDown => "shutting-down",
            Self::NoLink => "no-link",
            Self::Malformed => "malformed",
        }
    }

    /// The number in a [`Frame`], the same as in messages.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        Self::ALL.iter().zip(1..).find(|(refusal, _)| **refusal == self).map_or(0, |(_, number)| number)
    }

    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_one_number_in_messages_and_frames() {
        for (refusal, number) in Refusal::ALL.into_iter().zip(1..) {
            assert_eq!(refusal.to_wire(), number);
            assert_eq!(Refusal::from_wire(number), Some(refusal));
            assert_eq!(minicbor::to_vec(refusal).unwrap(), [number]);
        }
        assert_eq!(Refusal::from_wire(0), None);
        assert_eq!(Refusal::from_wire(11), None);
    }

    #[test]
    fn the_examples_of_the_document() {
        let to_relay = |message: ToRelay| hex::encode(minicbor::to_vec(message).unwrap());
        let from_relay = |message: FromRelay| hex::encode(minicbor::to_vec(message).unwrap());
        let knock = Instance {
            identifier: Identifier::from_bytes([0x11; 32]),
            node_id: NodeId::from_bytes([0x22; 16]),
            instance: InstanceId::from_bytes([0x33; 16]),
            credential: vec![1, 2, 3],
            weight: None,
        };
        let knock = hex::encode(knock.knock());
        let examples = [
            (
                "register `saas-relay` as request 5",
                to_relay(ToRelay::Register { request: 5, name: "saas-relay".parse().unwrap(), weight: None }),
            ),
            (
                "register `saas-relay` as request 5, with weight 90",
                to_relay(ToRelay::Register { request: 5, name: "saas-relay".parse().unwrap(), weight: "90".parse().ok() }),
            ),
            ("ping 42", to_relay(ToRelay::Ping { number: 42 })),
            ("answer: request 5 was done", from_relay(FromRelay::Answer { request: 5, refused: None })),
            (
                "answer: request 5 refused, copied home",
                from_relay(FromRelay::Answer { request: 5, refused: Some(Refusal::CopiedHome) }),
            ),
            ("closing: taken over", from_relay(FromRelay::Closing { reason: Refusal::TakenOver })),
            ("refused, no link", hex::encode(Frame::Refused(Refusal::NoLink).encode())),
            ("identifier 32 × `11`, node id 16 × `22`, instance 16 × `33`, credential `01 02 03`", knock),
        ];
        let document = include_str!("../../../docs/protocol/links.md");
        for (name, hex) in &examples {
            assert!(document.contains(&format!("| {name} | `{hex}` |")), "| {name} | `{hex}` |");
        }
        let shown =
            document.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |") && !line.contains("Noise")).count();
        assert_eq!(shown, examples.len(), "every example is checked");
    }
}
