//! Verification of credentials, in the one order: size, tag and headers, key ring, signature, encoding, limits, times,
//! issuer and audience, holder, voiding.

use std::sync::Arc;

use std::time::Duration;

use super::claims::{Audience, Claims, ClaimsError};
use super::ring::{KeyRing, Unusable};
use super::voided::Voided;
use crate::authority::{Attributes, VoidEntry};
use crate::id::{CredentialId, Identifier, KeyId, ProjectId, StaticPublic};
use crate::name::RelayName;
use crate::policy::Facts;
use crate::sign::{Envelope, Purpose, SignError};
use crate::time::{CLOCK_TOLERANCE, Timestamp};

/// What a credential is verified against. `now` is the authority's time as this process knows it.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    pub ring: &'a KeyRing,
    pub voided: &'a Voided,
    pub now: Timestamp,
}

/// Where a credential came from, which decides what its `cnf` must equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// From the other side of a handshake, which authenticated this static key.
    Handshake(StaticPublic),
    /// From look-up at a relay. The dialler then requires [`VerifiedCredential::static_key`] in the handshake.
    Published,
}

/// Why a credential was refused. In the order of the checks.
///
/// The peer that showed it is told only that it was refused; the text is for this side's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Size, tag, headers, signature, or the envelope's encoding.
    #[error("the credential was refused: {0}")]
    Sign(#[from] SignError),
    #[error("the credential was signed by the key {0}, which is not in this project's key ring")]
    UnknownKey(KeyId),
    #[error("the credential's signing key {key} is valid from {at} on, {} s from now by the authority's clock ({now})", by.as_secs())]
    KeyNotYetValid { key: KeyId, at: Timestamp, now: Timestamp, by: Duration },
    #[error("the credential's signing key {key} was retired at {at}, {} s ago by the authority's clock ({now})", by.as_secs())]
    KeyRetired { key: KeyId, at: Timestamp, now: Timestamp, by: Duration },
    #[error("the credential's claims are malformed")]
    Malformed,
    #[error("the credential's claims are not in the one deterministic encoding")]
    NotDeterministic,
    #[error("the credential's claims are not allowed: {0}")]
    Claims(#[from] ClaimsError),
    #[error("the credential is valid from {at} on, {} s from now by the authority's clock ({now})", by.as_secs())]
    NotYetValid { at: Timestamp, now: Timestamp, by: Duration },
    #[error("the credential expired at {at}, {} s ago by the authority's clock ({now})", by.as_secs())]
    Expired { at: Timestamp, now: Timestamp, by: Duration },
    #[error("the credential was issued by {0}, which is not this project's authority")]
    OtherIssuer(Identifier),
    #[error("the credential is for the project {0}, not for this one")]
    OtherProject(ProjectId),
    #[error("the credential is for the audience `{found}`, not for `{expected}`")]
    OtherAudience { expected: Audience, found: Audience },
    #[error("the credential belongs to another static key than the one that the handshake proved")]
    OtherHolder,
    #[error("{0} was revoked: it is no member of the project any more")]
    Revoked(Identifier),
    #[error("credentials of {member} from before {limit} are void, and this one is from {not_before}")]
    Void { member: Identifier, limit: Timestamp, not_before: Timestamp },
}

impl Verifier<'_> {
    /// Verifies `bytes` as a credential for `audience`, shown by `holder`.
    ///
    /// # Errors
    /// [`CredentialError`] for the first check that fails.
    pub fn verify(&self, bytes: &[u8], audience: Audience, holder: Holder) -> Result<VerifiedCredential, CredentialError> {
        let envelope = Envelope::parse(Purpose::Credential, bytes)?;
        let key = envelope.key_id();
        let public = self.ring.key(key, self.now).map_err(|reason| self.unusable(key, reason))?;
        let payload = envelope.open(public)?;
        let claims = Claims::decode(&payload).map_err(|_| CredentialError::Malformed)?;
        if claims.encode() != payload {
            return Err(CredentialError::NotDeterministic);
        }
        claims.check()?;
        self.check_times(&claims)?;
        if claims.issuer != self.ring.authority() {
            return Err(CredentialError::OtherIssuer(claims.issuer));
        }
        if claims.project != self.ring.project() {
            return Err(CredentialError::OtherProject(claims.project));
        }
        if claims.audience != audience {
            return Err(CredentialError::OtherAudience { expected: audience, found: claims.audience });
        }
        if let Holder::Handshake(proved) = holder
            && claims.confirmation != proved
        {
            return Err(CredentialError::OtherHolder);
        }
        self.check_void(&claims)?;
        Ok(VerifiedCredential { claims: Arc::new(claims), key, bytes: bytes.into() })
    }

    /// Whether `credential`, verified before, would still be accepted: for when time passed, or the ring or the voided members
    /// changed.
    ///
    /// # Errors
    /// [`CredentialError`] for the first check that fails.
    pub fn recheck(&self, credential: &VerifiedCredential) -> Result<(), CredentialError> {
        let VerifiedCredential { claims, key, .. } = credential;
        self.ring.key(*key, self.now).map_err(|reason| self.unusable(*key, reason))?;
        self.check_times(claims)?;
        if claims.issuer != self.ring.authority() {
            return Err(CredentialError::OtherIssuer(claims.issuer));
        }
        if claims.project != self.ring.project() {
            return Err(CredentialError::OtherProject(claims.project));
        }
        self.check_void(claims)
    }

    fn unusable(&self, key: KeyId, reason: Unusable) -> CredentialError {
        let now = self.now;
        match reason {
            Unusable::Unknown => CredentialError::UnknownKey(key),
            Unusable::NotYet { at, by } => CredentialError::KeyNotYetValid { key, at, now, by },
            Unusable::Retired { at, by } => CredentialError::KeyRetired { key, at, now, by },
        }
    }

    /// Valid while `nbf − tolerance ≤ now < exp + tolerance` (RFC 8392, sections 3.1.4 and 3.1.5).
    fn check_times(&self, claims: &Claims) -> Result<(), CredentialError> {
        let (now, begin, end) = (self.now, claims.not_before, claims.expires);
        if now.plus(CLOCK_TOLERANCE) < begin {
            return Err(CredentialError::NotYetValid { at: begin, now, by: begin.since(now) });
        }
        if now >= end.plus(CLOCK_TOLERANCE) {
            return Err(CredentialError::Expired { at: end, now, by: now.since(end) });
        }
        Ok(())
    }

    fn check_void(&self, claims: &Claims) -> Result<(), CredentialError> {
        let (member, not_before) = (claims.subject, claims.not_before);
        match self.voided.not_before(&member) {
            Some(limit) if limit >= VoidEntry::FOR_EVER => Err(CredentialError::Revoked(member)),
            Some(limit) if not_before < limit => Err(CredentialError::Void { member, limit, not_before }),
            _ => Ok(()),
        }
    }
}

/// A credential that passed every check. Only a [`Verifier`] makes one. Cheap to clone: every stream looks at its peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCredential {
    claims: Arc<Claims>,
    key: KeyId,
    bytes: Arc<[u8]>,
}

impl VerifiedCredential {
    #[cfg(test)]
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    #[must_use]
    pub fn subject(&self) -> Identifier {
        self.claims.subject
    }

    /// The node's static key (`cnf`).
    #[must_use]
    pub fn static_key(&self) -> StaticPublic {
        self.claims.confirmation
    }

    /// The key of the ring that signed it.
    #[must_use]
    pub fn signing_key(&self) -> KeyId {
        self.key
    }

    #[must_use]
    pub fn audience(&self) -> Audience {
        self.claims.audience
    }

    #[must_use]
    pub fn project(&self) -> ProjectId {
        self.claims.project
    }

    /// Empty for the audience `relay`.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.claims.attributes
    }

    /// In ascending order; empty for the audience `member`.
    #[must_use]
    pub fn relay_names(&self) -> &[RelayName] {
        &self.claims.relay_names
    }

    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.claims.not_before
    }

    /// When it expires by the authority's clock. It is accepted for [`CLOCK_TOLERANCE`] longer.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.claims.expires
    }

    #[must_use]
    pub fn id(&self) -> CredentialId {
        self.claims.id
    }

    /// What policies are asked about this peer. Only a credential for peers is one to them: a relay credential can be had by anybody
    /// who looks up the name.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            identifier: Some(self.claims.subject),
            has_credential: self.claims.audience == Audience::Member,
            attributes: &self.claims.attributes,
        }
    }

    /// The exact bytes that were verified.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
