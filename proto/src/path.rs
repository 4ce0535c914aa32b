//! What travels on a joined path before and between streams: opens, and the messages of a channel's control stream.
//!
//! A path carries frames with the header of [`crate::record::Header`]. Its first frame is a handshake of a new channel, an
//! open, or an attach. After a stream has finished cleanly, the side that dialled the path may open another one of the same
//! channel on it.

use minicbor::{Decode, Encode};

use crate::id::{ChannelId, ConnectionMark, InstanceId, NodeId, RefusalId};
use crate::name::OutletName;
use crate::record::{HEADER_LEN, Kind};

/// Payload of handshake message 3 of a channel: who dialled. Whoever was dialled verifies `credential` for the `member` audience against the
/// handshake's remote static before it believes anything else here.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChannelHello {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub credential: Vec<u8>,
    #[n(1)]
    pub node_id: NodeId,
    #[n(2)]
    pub instance: InstanceId,
}

/// What an open says in clear, so that the stream's keys can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenHead {
    pub channel: ChannelId,
    /// Even where the channel's initiator opens, odd where its responder does; 0 is the control stream.
    pub stream: u64,
}

impl OpenHead {
    /// Length in bytes.
    pub const LEN: usize = ChannelId::LEN + 8;

    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..ChannelId::LEN].copy_from_slice(self.channel.as_bytes());
        bytes[ChannelId::LEN..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    /// Reads the head of an open or attach frame (header included); `None` where it is too short.
    #[must_use]
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        let (channel, rest) = frame.get(HEADER_LEN..)?.split_first_chunk::<{ ChannelId::LEN }>()?;
        let stream = rest.first_chunk::<8>()?;
        Some(Self { channel: ChannelId::from_bytes(*channel), stream: u64::from_be_bytes(*stream) })
    }
}

/// What an open says sealed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Open {
    #[n(0)]
    pub outlet: OutletName,
    /// A question whether a byte could pass: the target is dialled, the answer sent, and the stream ended without data.
    #[n(1)]
    pub probe: bool,
    /// How many portals this connection has passed already, as far as the opener knows, so that a loop ends.
    #[n(2)]
    pub hops: u8,
    /// The connection that is carried, where it was made on the same machine; absent in a probe. An acceptor that made it itself knows how many portals it has passed.
    #[n(3)]
    pub mark: Option<ConnectionMark>,
}

/// What an attach says in clear: the head of the stream's open, and which attach this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachHead {
    pub head: OpenHead,
    /// Higher than that of every attach of this stream before; 0 is the open's. Control keys of this path are made with it.
    pub attach: u64,
}

impl AttachHead {
    /// Length in bytes.
    pub const LEN: usize = OpenHead::LEN + 8;

    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..OpenHead::LEN].copy_from_slice(&self.head.to_bytes());
        bytes[OpenHead::LEN..].copy_from_slice(&self.attach.to_be_bytes());
        bytes
    }

    /// Reads the head of an attach frame (header included); `None` where it is too short.
    #[must_use]
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        let attach = frame.get(HEADER_LEN + OpenHead::LEN..)?.first_chunk::<8>()?;
        Some(Self { head: OpenHead::of_frame(frame)?, attach: u64::from_be_bytes(*attach) })
    }
}

/// What an attach says sealed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attach {
    /// How many of the peer's data records were opened here; no more are read from the path before.
    #[n(0)]
    pub received: u64,
    /// The open, where it has not been answered: it may never have arrived.
    #[n(1)]
    pub open: Option<Open>,
}

/// A message on a channel's control stream (stream 0). On the stream each stands behind its length as `u16`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ChannelMessage {
    /// The sender's `member` credential: the responder's first message, and each renewal of either side.
    #[n(0)]
    #[cbor(map)]
    Credential {
        #[cbor(n(0), with = "minicbor::bytes")]
        credential: Vec<u8>,
    },
    /// A stream was given up; also said on the stream's own path.
    #[n(1)]
    #[cbor(map)]
    Reset {
        #[n(0)]
        stream: u64,
        #[n(1)]
        code: u8,
    },
    /// The receiver's credential is void or about to expire: a newer one is wanted.
    #[n(2)]
    WantCredential,
    /// The sender closes the channel for new streams.
    #[n(3)]
    Close,
    /// The sender's policy refused the receiver where no reject says so: an inlet did not open a stream, or a live one was cut.
    #[n(4)]
    #[cbor(map)]
    Refused {
        /// What both sides log it under.
        #[n(0)]
        id: RefusalId,
        /// The stream that was cut; absent where none was opened.
        #[n(1)]
        stream: Option<u64>,
        /// Why, where the resource discloses it; at most [`MAX_REASON`](crate::record::MAX_REASON) bytes.
        #[n(2)]
        reason: Option<String>,
    },
}

/// Longest message on a control stream; a credential fits.
pub const MAX_CHANNEL_MESSAGE: usize = 4096;

/// Puts `message` behind its length.
#[must_use]
pub fn frame_channel_message(message: &ChannelMessage) -> Vec<u8> {
    let mut body = Vec::new();
    let Ok(()) = minicbor::encode(message, &mut body).map_err(|_| ()) else {
        unreachable!("writing to a vector cannot fail, and no type here has an encoder that can");
    };
    let mut framed = (body.len() as u16).to_be_bytes().to_vec();
    framed.extend(body);
    framed
}

/// Collects the bytes of a control stream into messages.
#[derive(Debug, Default)]
pub struct ChannelMessages {
    buffer: Vec<u8>,
}

/// Why a control stream's bytes are no messages. Final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelMessageError {
    #[error("a message of {0} bytes on a control stream")]
    TooLong(usize),
    #[error("a malformed message on a control stream")]
    Malformed,
}

impl ChannelMessages {
    /// Takes more bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`ChannelMessageError`]: the peer broke the protocol.
    pub fn poll(&mut self) -> Result<Option<ChannelMessage>, ChannelMessageError> {
        let Some(length) = self.buffer.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length))) else {
            return Ok(None);
        };
        if length > MAX_CHANNEL_MESSAGE {
            return Err(ChannelMessageError::TooLong(length));
        }
        let Some(body) = self.buffer.get(2..2 + length) else {
            return Ok(None);
        };
        let message = minicbor::decode(body).map_err(|_| ChannelMessageError::Malformed)?;
        self.buffer.drain(..2 + length);
        Ok(Some(message))
    }
}

/// Whether a frame of `kind` may begin something on a path.
#[must_use]
pub const fn may_begin(kind: Kind) -> bool {
    matches!(kind, Kind::Open | Kind::Attach | Kind::Handshake)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_messages_come_whole_however_they_are_cut() {
        let sent = [
            ChannelMessage::Credential { credential: vec![7; 3000] },
            ChannelMessage::WantCredential,
            ChannelMessage::Reset { stream: 6, code: 2 },
            ChannelMessage::Close,
            ChannelMessage::Refused { id: RefusalId::from_bytes([1; 8]), stream: Some(4), reason: None },
        ];
        let wire: Vec<u8> = sent.iter().flat_map(frame_channel_message).collect();
        for step in [1, 7, wire.len()] {
            let (mut messages, mut got) = (ChannelMessages::default(), Vec::new());
            for chunk in wire.chunks(step) {
                messages.push(chunk);
                while let Some(message) = messages.poll().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn malformed_channel_messages_are_refused() {
        let mut messages = ChannelMessages::default();
        messages.push(&[0xff, 0xff]);
        assert_eq!(messages.poll(), Err(ChannelMessageError::TooLong(65_535)));
        let mut messages = ChannelMessages::default();
        messages.push(&[0, 1, 0xff]);
        assert_eq!(messages.poll(), Err(ChannelMessageError::Malformed));
    }

    #[test]
    fn an_open_has_a_mark_or_none() {
        let mut open = Open { outlet: "saas".parse().unwrap(), probe: false, hops: 1, mark: None };
        let encoded = |open: &Open| hex::encode(minicbor::to_vec(open).unwrap());
        assert_eq!(encoded(&open), "a3006473616173 01f4 0201".replace(' ', ""));
        open.mark = Some(ConnectionMark::from_bytes([0xab; 16]));
        assert_eq!(encoded(&open), format!("a4006473616173 01f4 0201 0350{}", "ab".repeat(16)).replace(' ', ""));
        assert_eq!(minicbor::decode::<Open>(&minicbor::to_vec(&open).unwrap()).unwrap(), open);
        // As one that knows no marks says it.
        let without = hex::decode("a300647361617301f40201").unwrap();
        assert_eq!(minicbor::decode::<Open>(&without).unwrap().mark, None);
    }

    #[test]
    fn heads() {
        let head = OpenHead { channel: ChannelId::from_bytes([5; 16]), stream: 8 };
        let mut frame = vec![2, 0, 0, 40];
        frame.extend_from_slice(&head.to_bytes());
        assert_eq!(OpenHead::of_frame(&frame), Some(head));
        assert_eq!(OpenHead::of_frame(&frame[..frame.len() - 1]), None);

        let attach = AttachHead { head, attach: 3 };
        let mut frame = vec![3, 0, 0, 50];
        frame.extend_from_slice(&attach.to_bytes());
        assert_eq!(AttachHead::of_frame(&frame), Some(attach));
        assert_eq!(OpenHead::of_frame(&frame), Some(head));
        assert_eq!(AttachHead::of_frame(&frame[..frame.len() - 1]), None);
    }
}
