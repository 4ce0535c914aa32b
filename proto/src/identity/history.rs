//! The change history of an identity, as others see and verify it.

use minicbor::{Decoder, Encoder};

use super::RotateError;
use super::attestation::{self, Attestation, AttestationError};
use super::change::{ChangeReason, VerifiedChange};
use crate::id::Identifier;
use crate::sign::{self, InvalidKey, PublicKey, Purpose, SignError, SigningKey};
use crate::time::Timestamp;

/// Longest encoded history: it is sent before authentication, where nothing larger than 4 KiB is read, together with an
/// attestation and a ticket's secret. The first record and nine changes fit.
pub const MAX_HISTORY: usize = 3584;

/// Most records of a history, so that the number of signatures to verify is bounded by more than the length.
pub const MAX_CHANGES: usize = 16;

/// The verified change history of an identity. Only [`History::decode`] and one's own [`super::Identity`] make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    first: VerifiedChange,
    later: Vec<VerifiedChange>,
}

/// Why a history was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("the history has {len} bytes, more than the limit of {MAX_HISTORY}")]
    TooLarge { len: usize },
    #[error("not a change history")]
    Malformed,
    #[error("the history has {count} records; 1 to {MAX_CHANGES} are allowed")]
    Count { count: u64 },
    #[error("record {sequence} is malformed or not in its one deterministic encoding")]
    Record { sequence: u64 },
    #[error("the key of record {sequence} is not usable")]
    Key { sequence: u64, error: InvalidKey },
    #[error("record {sequence} is not signed by its new key: {error}")]
    NewSignature { sequence: u64, error: SignError },
    #[error("record {sequence} is not signed by the key before it: {error}")]
    OldSignature { sequence: u64, error: SignError },
    #[error("record {sequence} does not follow the record before it")]
    Link { sequence: u64 },
    #[error("the times of record {sequence} contradict each other or the record before it")]
    Times { sequence: u64 },
    #[error("record {sequence} brings back a key that the identity had before")]
    KeyReused { sequence: u64 },
}

/// How a history relates to one of the same identity that was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Same,
    /// It has all that was seen, and more.
    Newer,
}

/// Why a history may not replace one that was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForkOrRollback {
    #[error("the history is of another identity")]
    OtherIdentity,
    /// It ends before what was seen: a key that was replaced would be trusted again.
    #[error("the history ends with change {got}, but change {known} was seen before: rolled back")]
    Rollback { known: u64, got: u64 },
    /// Two different changes have the same number: somebody else holds a key of this identity.
    #[error("change {sequence} differs from the one seen before: the history was forked")]
    Fork { sequence: u64 },
}

impl History {
    pub(super) fn first(key: &SigningKey, now: Timestamp) -> Self {
        Self { first: VerifiedChange::first(key, now), later: Vec::new() }
    }

    /// This history with one more change, from `old`, the current key, to `new`.
    pub(super) fn extended(
        &self,
        old: &SigningKey,
        new: &SigningKey,
        now: Timestamp,
        reason: ChangeReason,
    ) -> Result<Self, RotateError> {
        let last = &self.last().change;
        if now > last.expires {
            return Err(RotateError::Expired { at: last.expires });
        }
        if now < last.created {
            return Err(RotateError::BeforeLastChange { at: last.created });
        }
        // `Created` is the reason of a first record only.
        let reason = if reason == ChangeReason::Created { ChangeReason::Renewed } else { reason };
        let mut extended = self.clone();
        extended.later.push(self.last().next(self.identifier(), old, new, now, reason));
        if extended.later.len() >= MAX_CHANGES || extended.encode().len() > MAX_HISTORY {
            return Err(RotateError::Full);
        }
        Ok(extended)
    }

    /// Reads a history and verifies every record of it.
    ///
    /// # Errors
    /// [`HistoryError`], for the first record that is not right.
    pub fn decode(encoded: &[u8]) -> Result<Self, HistoryError> {
        if encoded.len() > MAX_HISTORY {
            return Err(HistoryError::TooLarge { len: encoded.len() });
        }
        let malformed = |_: minicbor::decode::Error| HistoryError::Malformed;
        let mut decoder = Decoder::new(encoded);
        let count = decoder.array().map_err(malformed)?.ok_or(HistoryError::Malformed)?;
        if count == 0 || count > MAX_CHANGES as u64 {
            return Err(HistoryError::Count { count });
        }
        let first = VerifiedChange::verify_first(decoder.bytes().map_err(malformed)?)?;
        let mut history = Self { first, later: Vec::new() };
        for sequence in 1..count {
            let signed = decoder.bytes().map_err(malformed)?;
            let next = history.last().verify_next(history.identifier(), signed)?;
            if history.had_key(&next.key) {
                return Err(HistoryError::KeyReused { sequence });
            }
            history.later.push(next);
        }
        if decoder.position() != encoded.len() || history.encode() != encoded {
            return Err(HistoryError::Malformed);
        }
        Ok(history)
    }

    /// An array of the signed records, oldest first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        let written = encoder.array(1 + self.later.len() as u64).and_then(|encoder| {
            for record in self.records() {
                encoder.bytes(&record.signed)?;
            }
            Ok(())
        });
        written.expect("writing to memory");
        encoder.into_writer()
    }

    /// SHA-256 of the first record.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.first.identifier()
    }

    #[must_use]
    pub fn current_key(&self) -> &PublicKey {
        &self.last().key
    }

    /// When the current key expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.last().change.expires
    }

    /// Number of the newest change; the first is 0.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.later.len() as u64
    }

    /// Whether this history may replace `old`, which was seen before.
    ///
    /// # Errors
    /// [`ForkOrRollback`]: what was seen must be kept.
    pub fn succeeds(&self, old: &Self) -> Result<Order, ForkOrRollback> {
        if self.identifier() != old.identifier() {
            return Err(ForkOrRollback::OtherIdentity);
        }
        let differs = self.records().zip(old.records()).position(|(new, old)| new.hash != old.hash);
        if let Some(sequence) = differs {
            return Err(ForkOrRollback::Fork { sequence: sequence as u64 });
        }
        if self.sequence() < old.sequence() {
            return Err(ForkOrRollback::Rollback { known: old.sequence(), got: self.sequence() });
        }
        Ok(if self.sequence() == old.sequence() { Order::Same } else { Order::Newer })
    }

    /// Whether a change that `old`, which this history succeeds, does not have was made because a key is in other hands.
    #[must_use]
    pub fn compromised_since(&self, old: &Self) -> bool {
        self.compromised_after(old.sequence())
    }

    /// Whether a change behind the one of this number was made because a key is in other hands.
    #[must_use]
    pub fn compromised_after(&self, sequence: u64) -> bool {
        let behind = usize::try_from(sequence).unwrap_or(usize::MAX);
        self.later.iter().skip(behind).any(|record| record.change.reason == ChangeReason::Compromised)
    }

    /// The payload of `signed`, if this identity's current key signed it for `purpose`.
    ///
    /// # Errors
    /// As [`sign::verify`].
    pub fn verify(&self, purpose: Purpose, signed: &[u8]) -> Result<Vec<u8>, SignError> {
        sign::verify(purpose, self.current_key(), signed)
    }

    /// As [`Self::verify`], by any key that the identity ever had: for what a later statement confirms, and never for that one.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn verify_past(&self, purpose: Purpose, signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let past = self.records().find_map(|record| sign::verify(purpose, &record.key, signed).ok());
        past.map_or_else(|| self.verify(purpose, signed), Ok)
    }

    /// The attestation in `signed`, if this identity signed it and it is valid now.
    ///
    /// # Errors
    /// [`AttestationError`].
    pub fn verify_attestation(&self, signed: &[u8], now: Timestamp) -> Result<Attestation, AttestationError> {
        attestation::verify(self, signed, now)
    }

    /// Whether `key` is or was a key of this identity.
    pub(super) fn had_key(&self, key: &PublicKey) -> bool {
        self.records().any(|record| record.key == *key)
    }

    fn last(&self) -> &VerifiedChange {
        self.later.last().unwrap_or(&self.first)
    }

    fn records(&self) -> impl Iterator<Item = &VerifiedChange> {
        std::iter::once(&self.first).chain(&self.later)
    }
}
