//! Signed statements: COSE_Sign1 (RFC 9052) with Ed25519 (RFC 8032, RFC 9864), in exactly one form.
//!
//! Tag 18; the protected header holds exactly `alg` (−19), `kid` and `typ`; the unprotected header is empty; the external
//! additional data is the context string of the [`Purpose`]. A statement made for one purpose therefore verifies for no other:
//! both `typ` and the signed bytes differ. The format is specified in `docs/protocol/credentials.md`.

mod envelope;
mod key;

pub use key::{InvalidKey, PublicKey, SigningKey};

pub(crate) use envelope::Envelope;

use crate::id::KeyId;

/// What a signature is for. Each purpose has its own `typ` and context string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// [`crate::credential`], by a key of the project's key ring.
    Credential,
    /// [`crate::identity::Attestation`], by an identity's current key.
    Attestation,
    /// A change record, by the key that it introduces: proof that the key is held.
    Change,
    /// A change record, by the key that it replaces.
    ChangeApproval,
    /// [`crate::authority::ProjectInfo`], by the authority's identity.
    ProjectInfo,
    /// [`crate::authority::Heartbeat`], by the authority's identity.
    Heartbeat,
    /// [`crate::authority::Voiding`], by the authority's identity.
    Voiding,
    /// [`crate::authority::Guardrails`], by the authority's identity.
    Guardrails,
    /// The head of the authority's audit log, by the authority's identity.
    AuditCheckpoint,
}

/// Longest signed credential: it is sent before authentication, where nothing larger than 4 KiB is read, together with a
/// node id, an instance id and the handshake's own bytes.
pub const MAX_CREDENTIAL: usize = 3584;

/// Longest statement of an authority: it must fit a control link's message (128 KiB) when a relay passes it on.
pub const MAX_STATEMENT: usize = 120 * 1024;

/// Longest attestation: its fields have fixed lengths and need about 240 bytes.
pub const MAX_ATTESTATION: usize = 512;

/// Longest signed change record: its fields have fixed lengths and need about 400 bytes with both signatures.
pub const MAX_CHANGE: usize = 512;

/// Longest heartbeat or audit checkpoint: their fields have fixed lengths.
const MAX_SMALL_STATEMENT: usize = 1024;

impl Purpose {
    pub const ALL: [Self; 9] = [
        Self::Credential,
        Self::Attestation,
        Self::Change,
        Self::ChangeApproval,
        Self::ProjectInfo,
        Self::Heartbeat,
        Self::Voiding,
        Self::Guardrails,
        Self::AuditCheckpoint,
    ];

    /// The context string, signed as external additional data.
    #[must_use]
    pub const fn context(self) -> &'static str {
        match self {
            Self::Credential => "postern/1 credential",
            Self::Attestation => "postern/1 attestation",
            Self::Change => "postern/1 change by the new key",
            Self::ChangeApproval => "postern/1 change by the old key",
            Self::ProjectInfo => "postern/1 project information",
            Self::Heartbeat => "postern/1 heartbeat",
            Self::Voiding => "postern/1 voiding",
            Self::Guardrails => "postern/1 guardrails",
            Self::AuditCheckpoint => "postern/1 audit checkpoint",
        }
    }

    /// The `typ` of the protected header (RFC 9596).
    #[must_use]
    pub const fn typ(self) -> &'static str {
        match self {
            Self::Credential => "application/vnd.postern.credential+cwt",
            Self::Attestation => "application/vnd.postern.attestation",
            Self::Change => "application/vnd.postern.change",
            Self::ChangeApproval => "application/vnd.postern.change-approval",
            Self::ProjectInfo => "application/vnd.postern.project-info",
            Self::Heartbeat => "application/vnd.postern.heartbeat",
            Self::Voiding => "application/vnd.postern.voiding",
            Self::Guardrails => "application/vnd.postern.guardrails",
            Self::AuditCheckpoint => "application/vnd.postern.audit-checkpoint",
        }
    }

    /// The longest statement that is looked at, in bytes, with its envelope.
    #[must_use]
    pub const fn max_len(self) -> usize {
        match self {
            Self::Credential => MAX_CREDENTIAL,
            Self::Attestation => MAX_ATTESTATION,
            Self::Change | Self::ChangeApproval => MAX_CHANGE,
            Self::ProjectInfo | Self::Voiding | Self::Guardrails => MAX_STATEMENT,
            Self::Heartbeat | Self::AuditCheckpoint => MAX_SMALL_STATEMENT,
        }
    }
}

/// Why signed bytes were refused. In the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("{len} bytes are longer than the limit of {max}")]
    TooLarge { len: usize, max: usize },
    #[error("not a signed statement (COSE_Sign1 under tag 18)")]
    NotSigned,
    #[error("the protected header is not exactly `alg`, `kid` and `typ`")]
    ProtectedHeader,
    #[error("the unprotected header is not empty")]
    UnprotectedHeader,
    #[error("the signature algorithm is not Ed25519 (-19)")]
    Algorithm,
    #[error("it was signed for another purpose than `{}`", expected.typ())]
    Type { expected: Purpose },
    #[error("it was signed by the key {found}, not by {expected}")]
    OtherKey { expected: KeyId, found: KeyId },
    #[error("the signature is not valid")]
    Signature,
    #[error("it is not in the one deterministic encoding")]
    NotDeterministic,
}

/// Signs `payload` for `purpose`. The length is the caller's to bound: [`verify`] refuses more than [`Purpose::max_len`].
#[must_use]
pub fn sign(purpose: Purpose, key: &SigningKey, payload: &[u8]) -> Vec<u8> {
    envelope::seal(purpose, key, payload)
}

/// The payload of `signed`, if `key` signed it for `purpose`.
///
/// # Errors
/// [`SignError`], one variant per check, in the order of the checks.
pub fn verify(purpose: Purpose, key: &PublicKey, signed: &[u8]) -> Result<Vec<u8>, SignError> {
    let envelope = Envelope::parse(purpose, signed)?;
    if envelope.key_id() != key.key_id() {
        return Err(SignError::OtherKey { expected: key.key_id(), found: envelope.key_id() });
    }
    envelope.open(key)
}

/// The payload of `signed` before its signature is verified, for a statement that names its own key.
pub(crate) fn unverified_payload(purpose: Purpose, signed: &[u8]) -> Result<Vec<u8>, SignError> {
    Envelope::parse(purpose, signed).map(Envelope::into_unverified_payload)
}

/// Which key `signed` says that it was signed by. This proves nothing; it only selects the key to verify with.
///
/// # Errors
/// [`SignError`] where the envelope is not one of this protocol's, for any purpose.
pub fn peek_key_id(signed: &[u8]) -> Result<KeyId, SignError> {
    let mut refusal = SignError::NotSigned;
    for purpose in Purpose::ALL {
        match Envelope::parse(purpose, signed) {
            Ok(envelope) => return Ok(envelope.key_id()),
            Err(SignError::Type { .. }) => {}
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

#[cfg(test)]
mod tests;
