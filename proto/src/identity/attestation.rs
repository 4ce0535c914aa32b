//! That an X25519 static key belongs to a node of an identity.

use std::time::Duration;

use minicbor::{Decode, Encode};

use super::History;
use crate::handshake::is_acceptable_public;
use crate::id::{Identifier, NodeId, StaticPublic};
use crate::sign::{Purpose, SignError};
use crate::time::{CLOCK_TOLERANCE, Timestamp};

/// An identity's statement about the static key of one of its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attestation {
    #[n(0)]
    pub identifier: Identifier,
    #[n(1)]
    pub node_id: NodeId,
    #[n(2)]
    pub static_key: StaticPublic,
    #[n(3)]
    pub created: Timestamp,
    #[n(4)]
    pub expires: Timestamp,
}

/// Why an attestation was refused. In the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    #[error("the attestation was refused: {0}")]
    Sign(#[from] SignError),
    #[error("the attestation is malformed or not in its one deterministic encoding")]
    Malformed,
    #[error("the attestation names another identity than the one that signed it")]
    OtherIdentity,
    #[error("the attestation's times contradict each other")]
    Times,
    #[error("the attestation holds from {at} on, {} s from now by the authority's clock ({now})", by.as_secs())]
    NotYetValid { at: Timestamp, now: Timestamp, by: Duration },
    #[error("the attestation expired at {at}, {} s ago by the authority's clock ({now})", by.as_secs())]
    Expired { at: Timestamp, now: Timestamp, by: Duration },
    #[error("the identity's key expired at {at}, {} s ago by the authority's clock ({now})", by.as_secs())]
    KeyExpired { at: Timestamp, now: Timestamp, by: Duration },
    /// Of low order or not canonical: no handshake would accept it.
    #[error("the attested static key is not usable")]
    UnusableStatic,
}

impl Attestation {
    pub(super) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory")
    }
}

pub(super) fn verify(history: &History, signed: &[u8], now: Timestamp) -> Result<Attestation, AttestationError> {
    let payload = history.verify(Purpose::Attestation, signed)?;
    let attestation: Attestation = minicbor::decode(&payload).map_err(|_| AttestationError::Malformed)?;
    if attestation.encode() != payload {
        return Err(AttestationError::Malformed);
    }
    if attestation.identifier != history.identifier() {
        return Err(AttestationError::OtherIdentity);
    }
    let Attestation { created, expires, .. } = attestation;
    if created >= expires {
        return Err(AttestationError::Times);
    }
    if now.plus(CLOCK_TOLERANCE) < created {
        return Err(AttestationError::NotYetValid { at: created, now, by: created.since(now) });
    }
    if now >= expires.plus(CLOCK_TOLERANCE) {
        return Err(AttestationError::Expired { at: expires, now, by: now.since(expires) });
    }
    let at = history.expires();
    if now >= at.plus(CLOCK_TOLERANCE) {
        return Err(AttestationError::KeyExpired { at, now, by: now.since(at) });
    }
    if !is_acceptable_public(&attestation.static_key) {
        return Err(AttestationError::UnusableStatic);
    }
    Ok(attestation)
}
