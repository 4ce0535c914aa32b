//! Ed25519 keys. A [`PublicKey`] is one that was checked: canonical, on the curve, not of low order.

use ed25519_dalek::Signer;
use sha2::{Digest, Sha256};

use crate::id::{KeyId, SigningPublic};
use crate::secret::SecretBytes;

/// An Ed25519 secret key. It is wiped when dropped and never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A fresh key from the operating system's random source.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_seed(&SecretBytes::random())
    }

    /// The key of this seed (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &SecretBytes<32>) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed.expose_secret()))
    }

    /// What [`Self::from_seed`] makes this key from.
    #[must_use]
    pub fn seed(&self) -> SecretBytes<32> {
        SecretBytes::new(self.0.to_bytes())
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.public().key_id()
    }

    pub(super) fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// An Ed25519 public key that signatures may be verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// Why bytes are not a public key to verify with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("the public key is not in canonical form")]
    NotCanonical,
    #[error("the public key is not a point of the curve")]
    NotOnCurve,
    /// Some signatures verify under such a key for almost every message.
    #[error("the public key has low order")]
    LowOrder,
}

impl PublicKey {
    #[must_use]
    pub fn to_bytes(&self) -> SigningPublic {
        SigningPublic::from_bytes(self.0.to_bytes())
    }

    /// The first 8 bytes of SHA-256 of the key. It selects a key; it authorises nothing.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        let digest = Sha256::digest(self.0.as_bytes());
        let mut id = [0; KeyId::LEN];
        id.copy_from_slice(&digest[..KeyId::LEN]);
        KeyId::from_bytes(id)
    }

    /// Whether `signature` is this key's over `message`, strictly: no malleable or low-order form is accepted.
    pub(super) fn verify_raw(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl TryFrom<SigningPublic> for PublicKey {
    type Error = InvalidKey;

    fn try_from(public: SigningPublic) -> Result<Self, InvalidKey> {
        if !is_canonical(public.as_bytes()) {
            return Err(InvalidKey::NotCanonical);
        }
        let key = ed25519_dalek::VerifyingKey::from_bytes(public.as_bytes()).map_err(|_| InvalidKey::NotOnCurve)?;
        if key.is_weak() {
            return Err(InvalidKey::LowOrder);
        }
        Ok(Self(key))
    }
}

/// Whether the y coordinate, the low 255 bits in little-endian order, is below p = 2²⁵⁵ − 19 (RFC 8032, section 5.1.3). The
/// curve library accepts more (ZIP 215). The other non-canonical form, x = 0 with its sign bit set, has low order.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    let not_less = bytes[31] & 0x7f == 0x7f && bytes[1..31].iter().all(|byte| *byte == 0xff) && bytes[0] >= 0xed;
    !not_less
}
