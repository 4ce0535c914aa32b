//! The side that dialled.

use super::kem::{CIPHERTEXT_LEN, Decapsulator};
use super::noise::{Fixed, Noise};
use super::offer::{self, ANSWER, UNSUPPORTED};
use super::{Choice, Finished, HandshakeError, KeyExchange, Label, MAX_PAYLOAD_3, MAX_SECOND, StaticKey};
use crate::id::StaticPublic;

/// An initiator whose first body is on its way.
pub struct Initiator {
    noise: Noise,
    /// In a hybrid exchange.
    kem: Option<Decapsulator>,
}

impl Initiator {
    /// Starts a handshake with whoever holds `remote`, and gives the first body.
    ///
    /// # Errors
    /// [`HandshakeError::BadPublicKey`] where `remote` is not a key that anybody could hold alone.
    pub fn new(label: Label, pick: Choice, local: &StaticKey, remote: StaticPublic) -> Result<(Self, Vec<u8>), HandshakeError> {
        Self::start(label, pick, local, remote, Fixed::default())
    }

    pub(super) fn start(
        label: Label,
        pick: Choice,
        local: &StaticKey,
        remote: StaticPublic,
        fixed: Fixed<'_>,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let first = offer::encode(pick);
        let prologue = offer::prologue(label, &first[..first.len() - 1], pick);
        let noise = Noise::initiator(pick, &prologue, local, remote, fixed)?;
        let (kem, payload) = match pick.exchange {
            KeyExchange::X25519 => (None, Vec::new()),
            KeyExchange::Hybrid => Decapsulator::generate().map(|(key, public)| (Some(key), public))?,
        };
        let (noise, body) = noise.write(&payload, &first)?;
        Ok((Self { noise, kem }, body))
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
                let (mut noise, mut payload) = self.noise.read(message)?;
                if let Some(kem) = self.kem {
                    if payload.len() < CIPHERTEXT_LEN {
                        return Err(HandshakeError::Malformed("an answer without a ciphertext"));
                    }
                    let rest = payload.split_off(CIPHERTEXT_LEN);
                    noise.add_secret(kem.open(&payload)?.as_ref())?;
                    payload = rest;
                }
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
