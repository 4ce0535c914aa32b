//! The side that was dialled.

use super::kem::{ENCAPSULATION_KEY_LEN, encapsulate};
use super::noise::{Fixed, Noise};
use super::offer::{self, ANSWER, Offer};
use super::{Choice, Finished, HandshakeError, KeyExchange, Label, MAX_FIRST, MAX_PAYLOAD_2, MAX_THIRD, StaticKey};
use crate::id::StaticPublic;

/// Most static keys that a responder tries: the current, the next and the previous one. Each costs one X25519 of whoever asks.
pub const MAX_STATICS: usize = 3;

/// A responder that was asked for by someone who knows one of its static keys. Who that is comes with the third body.
pub struct Responder {
    noise: Noise,
    choice: Choice,
    /// The initiator's, in a hybrid exchange; else empty.
    encapsulation_key: Vec<u8>,
    local: StaticPublic,
}

impl Responder {
    /// Reads the first body, which must be meant for one of `statics`, tried in order.
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`]; [`HandshakeError::Unsupported`], to be answered with [`HandshakeError::reply`];
    /// [`HandshakeError::BadPublicKey`]; [`HandshakeError::NotAuthentic`] where it is meant for none of `statics`.
    pub fn read_offer(label: Label, body: &[u8], statics: &[&StaticKey]) -> Result<Self, HandshakeError> {
        Self::start(label, body, statics, Fixed::default())
    }

    pub(super) fn start(label: Label, body: &[u8], statics: &[&StaticKey], fixed: Fixed<'_>) -> Result<Self, HandshakeError> {
        if statics.is_empty() || statics.len() > MAX_STATICS {
            return Err(HandshakeError::StaticKeys);
        }
        if body.len() > MAX_FIRST {
            return Err(HandshakeError::Malformed("a first message over its limit"));
        }
        let (Offer { offer, pick }, message) = Offer::decode(body)?;
        let prologue = offer::prologue(label, offer, pick);
        let expected = if pick.exchange == KeyExchange::Hybrid { ENCAPSULATION_KEY_LEN } else { 0 };
        for local in statics {
            match Noise::responder(pick, &prologue, local, fixed)?.read(message) {
                Ok((noise, encapsulation_key)) if encapsulation_key.len() == expected => {
                    return Ok(Self { noise, choice: pick, encapsulation_key, local: local.public() });
                }
                Ok(_) => return Err(HandshakeError::Malformed("a first message with another payload than its choice has")),
                Err(HandshakeError::NotAuthentic) => {}
                Err(error) => return Err(error),
            }
        }
        Err(HandshakeError::NotAuthentic)
    }

    #[must_use]
    pub const fn choice(&self) -> Choice {
        self.choice
    }

    /// Which of the static keys the initiator asked for.
    #[must_use]
    pub const fn local_static(&self) -> StaticPublic {
        self.local
    }

    /// Gives the second body, with a payload that only the initiator can read. Who that is, is not known yet.
    ///
    /// # Errors
    /// [`HandshakeError::PayloadTooLong`] over [`MAX_PAYLOAD_2`]; [`HandshakeError::BadPublicKey`] of the initiator's encapsulation key.
    pub fn answer(self, payload: &[u8]) -> Result<(ResponderAnswered, Vec<u8>), HandshakeError> {
        if payload.len() > MAX_PAYLOAD_2 {
            return Err(HandshakeError::PayloadTooLong { length: payload.len(), limit: MAX_PAYLOAD_2 });
        }
        if self.choice.exchange == KeyExchange::X25519 {
            let (noise, body) = self.noise.write(payload, &[ANSWER])?;
            return Ok((ResponderAnswered { noise }, body));
        }
        let (mut message, secret) = encapsulate(&self.encapsulation_key)?;
        message.extend_from_slice(payload);
        let (mut noise, body) = self.noise.write(&message, &[ANSWER])?;
        noise.add_secret(secret.as_ref())?;
        Ok((ResponderAnswered { noise }, body))
    }
}

/// A responder that waits for the initiator to show itself.
pub struct ResponderAnswered {
    noise: Noise,
}

impl ResponderAnswered {
    /// Reads the third body: the initiator has proven itself. Gives its payload.
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`]; [`HandshakeError::BadPublicKey`] of the initiator's static key;
    /// [`HandshakeError::NotAuthentic`], a replay among other things.
    pub fn read_final(self, body: &[u8]) -> Result<(Finished, Vec<u8>), HandshakeError> {
        if body.len() > MAX_THIRD {
            return Err(HandshakeError::Malformed("a third message over its limit"));
        }
        let (noise, payload) = self.noise.read(body)?;
        Ok((noise.finish()?, payload))
    }
}
