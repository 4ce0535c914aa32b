//! The handshake of every leg: Noise XK (<https://noiseprotocol.org/noise.html>, revision 34) between a peer that knows whom it
//! dials and one that learns who dialled. Specified in `docs/protocol/handshake.md`.
//!
//! Three messages, each a body of at most a fixed length:
//!
//! ```text
//! initiator                                                responder
//! Initiator::new               ── offer ‖ pick ‖ msg1 ──►  Responder::read_offer
//! Initiator::read_answer       ◄── 0 ‖ msg2(payload2) ──   Responder::answer
//! InitiatorAnswered::finish    ── msg3(payload3) ──────►   ResponderAnswered::read_final
//! ```
//!
//! Each state is consumed by its transition, so that an error ends the handshake: there is nothing left to go on with. A peer
//! learns nothing from an error but that the connection closes, save from [`HandshakeError::reply`].
//!
//! Where ML-KEM-768 takes part, message 1 carries an encapsulation key and message 2 a ciphertext before its payload, and the secret
//! goes in as a preshared key at the end of message 3 (XKpsk3).
//!
//! snow runs the state machine; the Diffie-Hellman function is our own, which refuses bad public keys. snow does not wipe its
//! chaining keys when it drops them, so states are dropped as early as can be.

mod choice;
mod dh;
mod initiator;
mod kem;
mod noise;
mod offer;
mod responder;
#[cfg(test)]
mod tests;

pub use self::choice::{Choice, KeyExchange};
pub use self::dh::{StaticKey, is_acceptable_public};
pub use self::initiator::{Initiator, InitiatorAnswered};
pub use self::offer::VERSION;
pub use self::responder::{MAX_STATICS, Responder, ResponderAnswered};
use crate::aead::{Suite, TAG_LEN};
use crate::channel::{ChannelSecret, HASH_LEN};
use crate::id::StaticPublic;

/// Longest first body: an offer of 16 choices and message 1 with an encapsulation key, and room.
pub const MAX_FIRST: usize = 1536;

/// Longest second body. With [`MAX_THIRD`], what a stranger can make a process hold: the budget before authentication is 4 KiB.
pub const MAX_SECOND: usize = 4096;

/// Longest third body.
pub const MAX_THIRD: usize = 4096;

/// Longest payload of message 2: what the status byte, the ephemeral key, a ciphertext and the tag leave.
pub const MAX_PAYLOAD_2: usize = MAX_SECOND - 1 - StaticPublic::LEN - kem::CIPHERTEXT_LEN - TAG_LEN;

/// Longest payload of message 3: what the sealed static key and the tag leave.
pub const MAX_PAYLOAD_3: usize = MAX_THIRD - StaticPublic::LEN - TAG_LEN - TAG_LEN;

/// What a handshake is for. Both sides must mean the same, or it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// A member or an applicant, and the authority.
    Authority,
    /// A node and a relay: a control link.
    RelayLink,
    /// Two nodes, end to end.
    Channel,
}

impl Label {
    /// First part of the prologue.
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Authority => b"postern/1 authority",
            Self::RelayLink => b"postern/1 relay link",
            Self::Channel => b"postern/1 channel",
        }
    }
}

/// A handshake that both sides finished: who is there, and the secret that is shared with it alone.
#[derive(Debug)]
pub struct Finished {
    /// The peer's static key, which it has proven to hold.
    pub remote_static: StaticPublic,
    pub exchange: KeyExchange,
    pub suite: Suite,
    pub secret: ChannelSecret,
    /// The handshake hash, the same on both sides and on no other handshake.
    pub hash: [u8; HASH_LEN],
}

/// Why a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The peer's bytes have no form of this protocol.
    #[error("the peer sent a malformed handshake message: {0}")]
    Malformed(&'static str),
    /// The peer wants a version, or a suite of one, that this process does not have. [`HandshakeError::reply`] tells it so.
    #[error("the peer asks for version {version} of the protocol; this program's newest is {VERSION}")]
    Unsupported { version: u8 },
    /// The peer says that it does not speak ours. It is not authenticated: the handshake is never retried with another version.
    #[error("the peer does not speak version {VERSION} of the protocol: it says that its newest is {max_version}")]
    UnsupportedByPeer { max_version: u8 },
    /// A public key of low order or in a form that no honest peer sends.
    #[error("the peer's public key is not acceptable")]
    BadPublicKey,
    /// Changed on the way, replayed, meant for another static key, or from a peer that disagrees about offer or purpose.
    #[error(
        "a handshake message failed authentication: the peer does not hold the expected key, or the message was changed on the way"
    )]
    NotAuthentic,
    /// The caller's payload does not fit its message.
    #[error("a handshake payload of {length} bytes is longer than the limit of {limit}")]
    PayloadTooLong { length: usize, limit: usize },
    /// The caller gave no static key, or more than [`MAX_STATICS`].
    #[error("a handshake needs 1 to {MAX_STATICS} static keys")]
    StaticKeys,
    /// The operating system has no random source, or the handshake library contradicts itself.
    #[error("the handshake failed inside this program")]
    Internal,
}

impl HandshakeError {
    /// The one answer that a responder gives to an error: its newest version. Everything else ends in silence.
    #[must_use]
    pub const fn reply(&self) -> Option<[u8; 2]> {
        match self {
            Self::Unsupported { .. } => Some([offer::UNSUPPORTED, VERSION]),
            _ => None,
        }
    }
}
