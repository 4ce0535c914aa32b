//! The fixed-length frames that open a data link. The relay reads exactly these lengths, so it holds no byte of a stream when it
//! begins to splice. The formats are specified in `docs/protocol/links.md`.

use super::Refusal;
use crate::aead::{AeadError, Opener, Sealer, TAG_LEN};
use crate::channel::{LinkSession, Side};
use crate::id::{Identifier, InstanceId, SessionId};

/// A frame of a data link, before it is joined. On the wire each is [`Frame::LEN`] bytes sealed to [`Frame::SEALED_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Node → relay: this link waits to be joined.
    Park,
    /// Node → relay: join this link with a parked link of that instance.
    Join { identifier: Identifier, instance: InstanceId },
    /// Relay → node: from here on, bytes come from and go to that instance.
    Joined { identifier: Identifier, instance: InstanceId },
    /// Relay → node: not joined; the relay closes the link.
    Refused(Refusal),
}

/// The first bytes of a data link, in clear: which session it belongs to, and its number in that session (never repeated).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    pub session: SessionId,
    pub counter: u64,
}

/// Why a frame was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Authentic, but no frame of version 1. Only a peer of another version sends it.
    #[error("a malformed frame")]
    Malformed,
    #[error(transparent)]
    Aead(#[from] AeadError),
}

impl Opening {
    /// Length on the wire.
    pub const LEN: usize = SessionId::LEN + 8;

    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..SessionId::LEN].copy_from_slice(self.session.as_bytes());
        bytes[SessionId::LEN..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Any bytes are an opening; whether the session exists, and its frames are authentic, comes after.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (session, counter) = bytes.split_first_chunk().expect("a fixed length");
        Self {
            session: SessionId::from_bytes(*session),
            counter: u64::from_be_bytes(counter.try_into().expect("a fixed length")),
        }
    }
}

impl Frame {
    /// `u8 type ‖ identifier 32 ‖ instance 16 ‖ u8 code ‖ zeros`.
    pub const LEN: usize = 64;

    /// Length on the wire.
    pub const SEALED_LEN: usize = Self::LEN + TAG_LEN;

    const PARK: u8 = 1;
    const JOIN: u8 = 2;
    const JOINED: u8 = 3;
    const REFUSED: u8 = 4;

    const INSTANCE: usize = 1 + Identifier::LEN;
    const CODE: usize = Self::INSTANCE + InstanceId::LEN;

    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut whom = |kind, identifier: &Identifier, instance: &InstanceId| {
            bytes[0] = kind;
            bytes[1..Self::INSTANCE].copy_from_slice(identifier.as_bytes());
            bytes[Self::INSTANCE..Self::CODE].copy_from_slice(instance.as_bytes());
        };
        match self {
            Self::Park => bytes[0] = Self::PARK,
            Self::Join { identifier, instance } => whom(Self::JOIN, identifier, instance),
            Self::Joined { identifier, instance } => whom(Self::JOINED, identifier, instance),
            Self::Refused(refusal) => {
                bytes[0] = Self::REFUSED;
                bytes[Self::CODE] = refusal.to_wire();
            }
        }
        bytes
    }

    /// # Errors
    /// [`FrameError::Malformed`]: an unknown type or code, or anything but zeros in a field that the type does not have.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, FrameError> {
        let identifier = || Identifier::from_bytes(bytes[1..Self::INSTANCE].try_into().expect("a fixed length"));
        let instance = || InstanceId::from_bytes(bytes[Self::INSTANCE..Self::CODE].try_into().expect("a fixed length"));
        let frame = match bytes[0] {
            Self::PARK => Self::Park,
            Self::JOIN => Self::Join { identifier: identifier(), instance: instance() },
            Self::JOINED => Self::Joined { identifier: identifier(), instance: instance() },
            Self::REFUSED => Self::Refused(Refusal::from_wire(bytes[Self::CODE]).ok_or(FrameError::Malformed)?),
            _ => return Err(FrameError::Malformed),
        };
        if frame.encode() == *bytes { Ok(frame) } else { Err(FrameError::Malformed) }
    }
}

/// Seals and opens the frames of one data link, for one side of it: the node is the initiator, as on its control link.
/// Frames are numbered per direction from 0, and carry the opening as additional data.
pub struct LinkFrames {
    opening: Opening,
    sends: Sealer,
    receives: Opener,
}

impl LinkFrames {
    /// The caller sees to it that no `counter` is used twice in a session: a node counts up, and a relay refuses a number that
    /// it has seen.
    #[must_use]
    pub fn new(session: &LinkSession, counter: u64, side: Side) -> Self {
        Self {
            opening: Opening { session: session.id, counter },
            sends: Sealer::new(session.suite(), &session.frame_key(counter, side.sends())),
            receives: Opener::new(session.suite(), &session.frame_key(counter, side.receives())),
        }
    }

    /// What goes in clear before this link's first frame.
    #[must_use]
    pub const fn opening(&self) -> Opening {
        self.opening
    }

    /// # Errors
    /// [`FrameError::Aead`], only where the counter is used up.
    pub fn seal(&mut self, frame: &Frame) -> Result<[u8; Frame::SEALED_LEN], FrameError> {
        let mut sealed = [0; Frame::SEALED_LEN];
        let (body, tag) = sealed.split_at_mut(Frame::LEN);
        body.copy_from_slice(&frame.encode());
        tag.copy_from_slice(&self.sends.seal(&self.opening.encode(), body)?);
        Ok(sealed)
    }

    /// # Errors
    /// [`FrameError`]; final, the link is to be closed.
    pub fn open(&mut self, mut sealed: [u8; Frame::SEALED_LEN]) -> Result<Frame, FrameError> {
        let body = self.receives.open(&self.opening.encode(), &mut sealed)?;
        Frame::decode((&*body).try_into().expect("a fixed length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::Suite;
    use crate::channel::ChannelSecret;
    use crate::secret::SecretBytes;

    fn frames() -> Vec<Frame> {
        let (identifier, instance) = (Identifier::from_bytes([3; 32]), InstanceId::from_bytes([4; 16]));
        let mut frames = vec![Frame::Park, Frame::Join { identifier, instance }, Frame::Joined { identifier, instance }];
        frames.extend(Refusal::ALL.map(Frame::Refused));
        frames
    }

    fn session(fill: u8) -> LinkSession {
        ChannelSecret::extract(Suite::AesGcm, [fill; 32], &SecretBytes::new([1; 32]), &SecretBytes::new([2; 32])).link_session()
    }

    fn pair(counter: u64) -> (LinkFrames, LinkFrames) {
        let session = session(1);
        (LinkFrames::new(&session, counter, Side::Initiator), LinkFrames::new(&session, counter, Side::Responder))
    }

    #[test]
    fn frames_round_trip_both_ways() {
        let (mut node, mut relay) = pair(9);
        assert_eq!(Opening::decode(&node.opening().encode()), relay.opening());
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
            let sealed = node.seal(&frame).unwrap();
            assert_eq!(relay.open(sealed), Ok(frame));
            let sealed = relay.seal(&frame).unwrap();
            assert_eq!(node.open(sealed), Ok(frame));
        }
    }

    #[test]
    fn wire() {
        let opening = Opening { session: SessionId::from_bytes([0xaa; 16]), counter: 0x0102 };
        assert_eq!(hex::encode(opening.encode()), format!("{}0000000000000102", "aa".repeat(16)));
        let join = Frame::Join { identifier: Identifier::from_bytes([0x11; 32]), instance: InstanceId::from_bytes([0x22; 16]) };
        let hex = |frame: Frame| hex::encode(frame.encode());
        assert_eq!(hex(join), format!("02{}{}00{}", "11".repeat(32), "22".repeat(16), "00".repeat(14)));
        assert_eq!(hex(Frame::Refused(Refusal::NoLink)), format!("04{}09{}", "00".repeat(48), "00".repeat(14)));
        assert_eq!(hex(Frame::Park), format!("01{}", "00".repeat(63)));
    }

    #[test]
    fn every_other_form_is_refused() {
        assert_eq!(Frame::decode(&[0; Frame::LEN]), Err(FrameError::Malformed));
        for frame in frames() {
            let used = match frame {
                Frame::Park => 0..0,
                Frame::Join { .. } | Frame::Joined { .. } => 1..49,
                Frame::Refused(_) => 49..50,
            };
            for position in (1..Frame::LEN).filter(|p| !used.contains(p)) {
                let mut bytes = frame.encode();
                bytes[position] = 1;
                assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed), "{frame:?} byte {position}");
            }
        }
        for code in (0..=255).filter(|code| Refusal::from_wire(*code).is_none()) {
            let mut bytes = Frame::Refused(Refusal::Limit).encode();
            bytes[Frame::CODE] = code;
            assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed));
        }
    }

    #[test]
    fn only_the_frame_of_this_link_direction_and_number_opens() {
        let refused = Err(FrameError::Aead(AeadError::NotAuthentic));
        let (mut node, mut relay) = pair(9);
        let first = node.seal(&Frame::Park).unwrap();
        for position in 0..first.len() {
            let mut changed = first;
            changed[position] ^= 1;
            assert_eq!(pair(9).1.open(changed), refused);
        }
        assert_eq!(pair(10).1.open(first), refused, "another link's");
        assert_eq!(node.open(first), refused, "reflected");
        assert_eq!(LinkFrames::new(&session(2), 9, Side::Responder).open(first), refused, "another session's");
        assert_eq!(relay.open(first), Ok(Frame::Park));
        assert_eq!(relay.open(first), refused, "replayed");
    }
}
