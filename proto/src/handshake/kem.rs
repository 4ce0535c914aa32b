//! ML-KEM-768 (FIPS 203): the half of the hybrid exchange that a quantum computer does not break. The shared secret is mixed into the
//! handshake as a preshared key, beside all that X25519 gives, so that both must break.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768, SharedSecret};

use super::HandshakeError;

/// Bytes of an encapsulation key: the payload of message 1.
pub(super) const ENCAPSULATION_KEY_LEN: usize = 1184;

/// Bytes of a ciphertext, in front of the payload of message 2.
pub(super) const CIPHERTEXT_LEN: usize = 1088;

/// The initiator's key of one handshake.
pub(super) struct Decapsulator(DecapsulationKey);

impl Decapsulator {
    /// A new key, and its public half.
    pub fn generate() -> Result<(Self, Vec<u8>), HandshakeError> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| HandshakeError::Internal)?;
        let public = key.encapsulation_key().and_then(|key| Ok(key.key_bytes()?.as_ref().to_vec()));
        Ok((Self(key), public.map_err(|_| HandshakeError::Internal)?))
    }

    /// The secret in `ciphertext`. One that was not made for this key gives another secret (FIPS 203, section 6.3), with which message 3
    /// fails.
    pub fn open(self, ciphertext: &[u8]) -> Result<SharedSecret, HandshakeError> {
        self.0
            .decapsulate(Ciphertext::from(ciphertext))
            .map_err(|_| HandshakeError::Malformed("a ciphertext of the wrong length"))
    }
}

/// A secret for whoever holds the other half of `key`, and the ciphertext that tells it.
pub(super) fn encapsulate(key: &[u8]) -> Result<(Vec<u8>, SharedSecret), HandshakeError> {
    if key.len() != ENCAPSULATION_KEY_LEN {
        return Err(HandshakeError::Malformed("an encapsulation key of the wrong length"));
    }
    // The check of FIPS 203, section 7.2, is in one of the two steps.
    let key = EncapsulationKey::new(&ML_KEM_768, key).map_err(|_| HandshakeError::BadPublicKey)?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| HandshakeError::BadPublicKey)?;
    Ok((ciphertext.as_ref().to_vec(), secret))
}
