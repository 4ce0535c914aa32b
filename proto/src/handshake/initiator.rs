//! The side that dialled.

use super::noise::{Fixed, Noise};
use super::offer::{self, ANSWER, UNSUPPORTED};
use super::{Finished, HandshakeError, Label, MAX_PAYLOAD_3, MAX_SECOND, StaticKey};
use crate::aead::Suite;
use crate::id::StaticPublic;

/// An initiator whose first body is on its way.
pub struct Initiator {
    noise: Noise,
}

impl Initiator {
    /// Starts a handshake with whoever holds `remote`, and gives the first body.
    ///
    /// # Errors
    /// [`HandshakeError::BadPublicKey`] where `remote` is not a key that anybody could hold alone.
    pub fn new(label: Label, suite: Suite, local: &StaticKey, remote: StaticPublic) -> Result<(Self, Vec<u8>), HandshakeError> {
        Self::start(label, suite, local, remote, Fixed::default())
    }

    pub(super) fn start(
        label: Label,
        suite: Suite,
        local: &StaticKey,
        remote: StaticPublic,
        fixed: Fixed<'_>,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let first = offer::encode(suite);
        let prologue = offer::prologue(label, &first[..first.len() - 1], suite);
        let noise = Noise::initiator(suite, &prologue, local, remote, fixed)?;
        let (noise, body) = noise.write(&[], &first)?;
        Ok((Self { noise }, body))
    }

    /// Reads the second body: the responder has proven itself. Gives its payload.
    ///
    /// # Errors
    /// [`HandshakeError::UnsupportedByPeer`], [`HandshakeError::Malformed`], [`HandshakeError::BadPublicKey`] of the responder's
    /// ephemeral key, [`HandshakeError::NotAuthentic`] where it does not hold `remote`.
    pub fn read_answer(self, body: &[u8]) -> Result<(InitiatorAnswered, Vec<u8>), HandshakeError> {
        if body.len() > MAX_SECOND {
            return Err(HandshakeError::Malformed("a second message over its limit"));
        }
        match body {
            [ANSWER, message @ ..] => {
                let (noise, payload) = self.noise.read(message)?;
                Ok((InitiatorAnswered { noise }, payload))
            }
            &[UNSUPPORTED, max_version] => Err(HandshakeError::UnsupportedByPeer { max_version }),
            _ => Err(HandshakeError::Malformed("an answer of no known form")),
        }
    }
}

/// An initiator that knows its responder, and has not shown itself yet.
pub struct InitiatorAnswered {
    noise: Noise,
}

impl InitiatorAnswered {
    /// Shows this side's static key and `payload`, and gives the third body. The responder may still refuse it.
    ///
    /// # Errors
    /// [`HandshakeError::PayloadTooLong`] over [`MAX_PAYLOAD_3`].
    pub fn finish(self, payload: &[u8]) -> Result<(Vec<u8>, Finished), HandshakeError> {
        if payload.len() > MAX_PAYLOAD_3 {
            return Err(HandshakeError::PayloadTooLong { length: payload.len(), limit: MAX_PAYLOAD_3 });
        }
        let (noise, body) = self.noise.write(payload, &[])?;
        Ok((body, noise.finish()?))
    }
}
