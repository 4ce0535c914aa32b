//! Credentials: what an authority says of a member, for a short time. COSE_Sign1 over a CWT (RFC 8392) bound to a node's
//! X25519 static key (RFC 8747). The format and the order of verification are specified in `docs/protocol/credentials.md`.
//!
//! [`issue`] makes one. Only a [`Verifier`] makes a [`VerifiedCredential`], which is what policies are asked with.

mod attributes;
mod claims;
mod ring;
mod verify;
mod voided;

pub use attributes::{AttributeError, MAX_ATTRIBUTE_KEY, MAX_ATTRIBUTE_VALUE, MAX_ATTRIBUTES, RESERVED_PREFIX, check_attributes};
pub use claims::{Audience, Claims, ClaimsError, MAX_LIFETIME, MAX_RELAY_NAMES, issue};
pub use ring::{KeyRing, MAX_RING_KEYS, RingError};
pub use verify::{CredentialError, Holder, VerifiedCredential, Verifier};
pub use voided::{MAX_VOIDED, Voided, VoidedError};

pub use crate::sign::MAX_CREDENTIAL;

#[cfg(test)]
mod tests;
