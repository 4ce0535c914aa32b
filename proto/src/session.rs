//! Messages on the connection of a finished handshake: control links and authority sessions. Each message is cut into frames,
//! `u16 length ‖ sealed(u8 more ‖ chunk)`, numbered per direction. Specified in `docs/protocol/handshake.md`.
//!
//! Sans-IO: bytes that arrive go into [`SessionOpener::handle_input`], whole messages come out of
//! [`SessionOpener::poll_message`], to be called until it has none. Any error is final.

use crate::aead::{AeadError, Opener, Sealer, TAG_LEN};
use crate::channel::{ChannelSecret, Side};

/// Length of the clear length before each frame. It is the frame's additional data.
const LENGTH: usize = 2;

/// Longest chunk of a message in one frame: what a 16-bit length leaves beside `more` and the tag.
pub const MAX_CHUNK: usize = u16::MAX as usize - 1 - TAG_LEN;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The caller wanted to send more than the session's limit.
    #[error("a message of {length} bytes is longer than the session's limit of {limit}")]
    TooLongToSend { length: usize, limit: usize },
    /// The peer sent more than the session's limit.
    #[error("the peer sent a message longer than the session's limit of {limit} bytes")]
    TooLong { limit: usize },
    /// The peer's frame has a form that no version 1 peer sends.
    #[error("the peer sent a malformed frame: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Aead(#[from] AeadError),
}

/// The two halves of one side's session. No message is longer than `limit` bytes, either way.
#[must_use]
pub fn session(secret: &ChannelSecret, side: Side, limit: usize) -> (SessionSealer, SessionOpener) {
    let keys = secret.session_keys();
    let (mine, theirs) = match side {
        Side::Initiator => (&keys.initiator, &keys.responder),
        Side::Responder => (&keys.responder, &keys.initiator),
    };
    (
        SessionSealer { sealer: Sealer::new(secret.suite(), mine), limit },
        SessionOpener {
            opener: Opener::new(secret.suite(), theirs),
            limit,
            input: Vec::new(),
            consumed: 0,
            message: Vec::new(),
            failed: None,
        },
    )
}

/// Seals messages. One for each direction of a session.
pub struct SessionSealer {
    sealer: Sealer,
    limit: usize,
}

impl SessionSealer {
    /// Appends the frames of `message` to `out`.
    ///
    /// # Errors
    /// [`SessionError::TooLongToSend`], with nothing appended and the session as it was; [`SessionError::Aead`], final.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SessionError> {
        if message.len() > self.limit {
            return Err(SessionError::TooLongToSend { length: message.len(), limit: self.limit });
        }
        let mut rest = message;
        loop {
            let (chunk, behind) = rest.split_at(rest.len().min(MAX_CHUNK));
            rest = behind;
            let sealed = u16::try_from(1 + chunk.len() + TAG_LEN).expect("MAX_CHUNK fits").to_be_bytes();
            out.extend_from_slice(&sealed);
            let body = out.len();
            out.push(u8::from(!rest.is_empty()));
            out.extend_from_slice(chunk);
            let tag = self.sealer.seal(&sealed, &mut out[body..])?;
            out.extend_from_slice(&tag);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Opens messages. Holds at most one message in the making, one frame, and what the last input had behind it.
pub struct SessionOpener {
    opener: Opener,
    limit: usize,
    input: Vec<u8>,
    /// How much of `input` was opened already.
    consumed: usize,
    message: Vec<u8>,
    failed: Option<SessionError>,
}

impl SessionOpener {
    /// Takes bytes as they arrived. Poll until there is no message left before the next call, so that input stays bounded.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.input.drain(..self.consumed);
            self.consumed = 0;
            self.input.extend_from_slice(bytes);
        }
    }

    /// The next whole message, where one has arrived.
    ///
    /// # Errors
    /// Whatever ends the session; the same error at every later call.
    pub fn poll_message(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.next_message().inspect_err(|error| {
            self.failed = Some(*error);
            self.input = Vec::new();
            self.message = Vec::new();
        })
    }

    /// Whether the peer may end the connection here without cutting a message.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.failed.is_none() && self.consumed == self.input.len() && self.message.is_empty()
    }

    fn next_message(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        while let Some((length, rest)) = self.input[self.consumed..].split_first_chunk_mut::<LENGTH>() {
            let sealed = usize::from(u16::from_be_bytes(*length));
            if sealed < 1 + TAG_LEN {
                return Err(SessionError::Malformed("a frame shorter than its tag"));
            }
            // Judged before the frame is waited for: a peer must not make this side hold more than the limit.
            if self.message.len() + sealed - 1 - TAG_LEN > self.limit {
                return Err(SessionError::TooLong { limit: self.limit });
            }
            let Some(frame) = rest.get_mut(..sealed) else { return Ok(None) };
            let body = self.opener.open(length, frame)?;
            self.consumed += LENGTH + sealed;
            let (more, chunk) = body.split_first().ok_or(SessionError::Malformed("an empty frame"))?;
            self.message.extend_from_slice(chunk);
            match (*more, chunk.len()) {
                (0, _) => return Ok(Some(std::mem::take(&mut self.message))),
                // Any shorter and a peer could make work without end out of frames that carry nothing.
                (1, MAX_CHUNK) => {}
                (1, _) => return Err(SessionError::Malformed("a frame that more follows is not full")),
                _ => return Err(SessionError::Malformed("an unknown frame type")),
            }
        }
        if self.consumed == self.input.len() {
            // Nothing is on its way: a session that waits keeps no room for what came last.
            (self.input, self.consumed) = (Vec::new(), 0);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::Suite;
    use crate::secret::SecretBytes;

    const LIMIT: usize = 200_000;

    fn pair(suite: Suite) -> ((SessionSealer, SessionOpener), (SessionSealer, SessionOpener)) {
        let secret = ChannelSecret::extract(suite, [1; 32], &SecretBytes::random(), &SecretBytes::random());
        (session(&secret, Side::Initiator, LIMIT), session(&secret, Side::Responder, LIMIT))
    }

    fn sealed(sealer: &mut SessionSealer, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        sealer.seal(message, &mut out).unwrap();
        out
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        for suite in Suite::ALL {
            let ((mut sealer, _), (_, mut opener)) = pair(suite);
            let messages: Vec<Vec<u8>> =
                [0, 1, 100, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, LIMIT].iter().map(|n| vec![*n as u8; *n]).collect();
            let wire: Vec<u8> = messages.iter().flat_map(|m| sealed(&mut sealer, m)).collect();
            let mut got = Vec::new();
            for piece in wire.chunks(997) {
                opener.handle_input(piece);
                while let Some(message) = opener.poll_message().unwrap() {
                    got.push(message);
                }
            }
            assert!(got == messages && opener.is_between_messages());
        }
    }

    #[test]
    fn any_flipped_byte_ends_the_session() {
        let ((mut sealer, _), (_, _)) = pair(Suite::AesGcm);
        let wire = sealed(&mut sealer, b"hello");
        for position in 0..wire.len() {
            let secret = ChannelSecret::extract(Suite::AesGcm, [1; 32], &SecretBytes::new([1; 32]), &SecretBytes::new([2; 32]));
            let (mut sealer, _) = session(&secret, Side::Initiator, LIMIT);
            let (_, mut opener) = session(&secret, Side::Responder, LIMIT);
            let mut wire = sealed(&mut sealer, b"hello");
            wire.extend(sealed(&mut sealer, &[0; 70_000]));
            wire[position] ^= 1;
            opener.handle_input(&wire);
            let error = loop {
                match opener.poll_message() {
                    Ok(Some(message)) => assert_ne!(message, b"hello", "byte {position}"),
                    Ok(None) => panic!("byte {position} was not noticed"),
                    Err(error) => break error,
                }
            };
            opener.handle_input(&wire);
            assert_eq!(opener.poll_message(), Err(error), "an error is final");
        }
    }

    #[test]
    fn replayed_reordered_and_reflected_frames_end_the_session() {
        let ((mut ours, mut reflected), (_, mut opener)) = pair(Suite::ChaChaPoly);
        let (first, second) = (sealed(&mut ours, b"first"), sealed(&mut ours, b"second"));
        reflected.handle_input(&first);
        assert_eq!(reflected.poll_message(), Err(SessionError::Aead(AeadError::NotAuthentic)));
        opener.handle_input(&first);
        assert_eq!(opener.poll_message(), Ok(Some(b"first".to_vec())));
        opener.handle_input(&first);
        assert_eq!(opener.poll_message(), Err(SessionError::Aead(AeadError::NotAuthentic)));
        let ((mut sealer, _), (_, mut opener)) = pair(Suite::ChaChaPoly);
        sealed(&mut sealer, b"dropped");
        opener.handle_input(&second);
        assert!(opener.poll_message().is_err());
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let ((mut sealer, _), (_, mut opener)) = pair(Suite::AesGcm);
        let mut out = Vec::new();
        assert!(matches!(sealer.seal(&vec![0; LIMIT + 1], &mut out), Err(SessionError::TooLongToSend { .. })));
        assert!(out.is_empty());
        sealer.limit = LIMIT + 1;
        sealer.seal(&vec![0; LIMIT + 1], &mut out).unwrap();
        // The last frame's length alone already says that the message is too long.
        opener.handle_input(&out[..out.len() - 1]);
        assert_eq!(opener.poll_message(), Err(SessionError::TooLong { limit: LIMIT }));
    }

    #[test]
    fn frames_that_no_peer_sends() {
        for (body, reason) in [
            (&[][..], "a frame shorter than its tag"),
            (&[1, 7][..], "a frame that more follows is not full"),
            (&[1][..], "a frame that more follows is not full"),
            (&[2][..], "an unknown frame type"),
        ] {
            let ((mut sealer, _), (_, mut opener)) = pair(Suite::AesGcm);
            let length = u16::try_from(body.len() + TAG_LEN).unwrap().to_be_bytes();
            opener.handle_input(&length);
            opener.handle_input(&sealer.sealer.seal_vec(&length, body.to_vec()).unwrap());
            assert_eq!(opener.poll_message(), Err(SessionError::Malformed(reason)));
        }
    }

    #[test]
    fn an_end_inside_a_message_shows() {
        let ((mut sealer, _), (_, mut opener)) = pair(Suite::AesGcm);
        assert!(opener.is_between_messages());
        let wire = sealed(&mut sealer, &[0; 70_000]);
        for cut in [1, 2, 100, MAX_CHUNK + 19, wire.len() - 1] {
            let ((mut sealer, _), (_, mut opener)) = pair(Suite::AesGcm);
            let wire = sealed(&mut sealer, &[0; 70_000]);
            opener.handle_input(&wire[..cut]);
            assert_eq!(opener.poll_message(), Ok(None));
            assert!(!opener.is_between_messages(), "{cut}");
        }
        opener.handle_input(&wire);
        assert!(opener.poll_message().unwrap().is_some() && opener.is_between_messages());
    }
}
