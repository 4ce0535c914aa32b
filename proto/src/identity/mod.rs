//! Identities: an Ed25519 key with the signed history of its changes. The format is specified in `docs/protocol/identity.md`.
//!
//! An [`Identity`] is one's own, with its secret key; a [`History`] is what others are shown of it and verify. The
//! [`Identifier`] is the SHA-256 of the first change record, so it stays when the key is replaced.

mod attestation;
mod change;
mod history;

pub use attestation::{Attestation, AttestationError};
pub use change::{ChangeReason, KEY_LIFETIME};
pub use history::{ForkOrRollback, History, HistoryError, MAX_CHANGES, MAX_HISTORY, Order};

use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::id::Identifier;
use crate::secret::SecretBytes;
use crate::sign::{self, Purpose, SigningKey};
use crate::time::Timestamp;

/// One's own identity. It has no `Debug`; the secret key is wiped when it is dropped.
#[derive(Clone)]
pub struct Identity {
    history: History,
    key: SigningKey,
}

/// Why stored bytes are not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("not a stored identity")]
    Malformed,
    #[error("the identity was stored by a newer version of this program (form {0})")]
    NewerForm(u8),
    #[error("the stored change history is not valid")]
    History(#[from] HistoryError),
    #[error("the stored secret key is not the one that the change history ends with")]
    OtherKey,
}

/// Why a key was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    #[error("the change history is full; make a new identity")]
    Full,
    #[error("the current key expired at {at}; make a new identity")]
    Expired { at: Timestamp },
    #[error("the identity had this key before")]
    KeyReused,
    /// The clock stands before the last change; nobody would accept the record.
    #[error("the last change was at {at}, which is later than now")]
    BeforeLastChange { at: Timestamp },
}

const STORED_FORM: u8 = 1;

#[derive(Encode, Decode)]
#[cbor(map)]
struct Stored<'a> {
    #[n(0)]
    form: u8,
    #[n(1)]
    seed: SecretBytes<32>,
    #[cbor(b(2), with = "minicbor::bytes")]
    history: &'a [u8],
}

impl Identity {
    /// A new identity with a fresh key, valid for [`KEY_LIFETIME`].
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        Self::from_seed(&SecretBytes::random(), now)
    }

    /// The identity whose first key has this seed. The same seed and time make the same identity.
    #[must_use]
    pub fn from_seed(seed: &SecretBytes<32>, now: Timestamp) -> Self {
        let key = SigningKey::from_seed(seed);
        Self { history: History::first(&key, now), key }
    }

    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.history.identifier()
    }

    /// What others are shown.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Signs `payload` for `purpose` with the current key.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, payload: &[u8]) -> Vec<u8> {
        sign::sign(purpose, &self.key, payload)
    }

    /// Signs an attestation. It verifies only where it names this identity.
    #[must_use]
    pub fn attest(&self, attestation: &Attestation) -> Vec<u8> {
        self.sign(Purpose::Attestation, &attestation.encode())
    }

    /// Replaces the key by a fresh one. The old key signs the change, and is then wiped.
    ///
    /// # Errors
    /// [`RotateError`]; the identity is then unchanged.
    pub fn rotate(&mut self, now: Timestamp, reason: ChangeReason) -> Result<(), RotateError> {
        self.rotate_to(SigningKey::generate(), now, reason)
    }

    /// As [`Self::rotate`], with a key that the caller made.
    ///
    /// # Errors
    /// [`RotateError`]; the identity is then unchanged.
    pub fn rotate_to(&mut self, key: SigningKey, now: Timestamp, reason: ChangeReason) -> Result<(), RotateError> {
        if self.history.had_key(&key.public()) {
            return Err(RotateError::KeyReused);
        }
        self.history = self.history.extended(&self.key, &key, now, reason)?;
        self.key = key;
        Ok(())
    }

    /// This identity with its secret key, to be kept in a file that only its owner can read.
    #[must_use]
    pub fn to_secret_bytes(&self) -> Zeroizing<Vec<u8>> {
        let history = self.history.encode();
        // The whole capacity at once, so that no copy of the seed is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(history.len() + 64));
        let stored = Stored { form: STORED_FORM, seed: self.key.seed(), history: &history };
        minicbor::encode(&stored, &mut *bytes).expect("writing to memory");
        bytes
    }

    /// Reads what [`Self::to_secret_bytes`] wrote, and verifies it.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let stored: Stored<'_> = decoder.decode().map_err(|_| IdentityError::Malformed)?;
        if stored.form != STORED_FORM {
            return Err(IdentityError::NewerForm(stored.form));
        }
        if decoder.position() != bytes.len() {
            return Err(IdentityError::Malformed);
        }
        let history = History::decode(stored.history)?;
        let key = SigningKey::from_seed(&stored.seed);
        if key.public() != *history.current_key() {
            return Err(IdentityError::OtherKey);
        }
        Ok(Self { history, key })
    }
}

#[cfg(test)]
mod tests;
