//! One change record: a key, and the link to the key before it.

use std::time::Duration;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::HistoryError;
use crate::id::{Identifier, SigningPublic};
use crate::sign::{self, PublicKey, Purpose, SigningKey};
use crate::time::Timestamp;

/// How long a key of an identity is valid. Identities are meant to last; keys are replaced when there is a reason.
pub const KEY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Value of `typ`: the only kind of record there is.
pub(super) const TYP: u8 = 1;

/// Why a key was introduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ChangeReason {
    /// The first key. No other record has this reason.
    #[n(0)]
    Created,
    /// Replaced on a schedule or at will.
    #[n(1)]
    Renewed,
    /// The old key may be known to somebody else.
    #[n(2)]
    Compromised,
}

/// The fields of a change record, as they are signed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Change {
    #[n(0)]
    pub(super) typ: u8,
    /// Absent in the first record, whose hash it is.
    #[n(1)]
    pub(super) identifier: Option<Identifier>,
    #[n(2)]
    pub(super) sequence: u64,
    /// SHA-256 of the record before; absent in the first.
    #[n(3)]
    pub(super) previous: Option<RecordHash>,
    #[n(4)]
    pub(super) new_key: SigningPublic,
    #[n(5)]
    pub(super) created: Timestamp,
    #[n(6)]
    pub(super) expires: Timestamp,
    #[n(7)]
    pub(super) reason: ChangeReason,
}

/// SHA-256 of a change record's signed fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(super) struct RecordHash(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl RecordHash {
    pub(super) fn of(record: &[u8]) -> Self {
        Self(Sha256::digest(record).into())
    }
}

/// A record that was verified, with what the next one is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VerifiedChange {
    pub(super) signed: Vec<u8>,
    pub(super) hash: RecordHash,
    pub(super) key: PublicKey,
    pub(super) change: Change,
}

impl VerifiedChange {
    /// The record that makes an identity. Its only signature is the new key's.
    pub(super) fn first(key: &SigningKey, now: Timestamp) -> Self {
        Self::make(None, None, key, now, ChangeReason::Created)
    }

    /// The record that replaces `self`'s key, which is `old`, by `new`.
    pub(super) fn next(
        &self,
        identifier: Identifier,
        old: &SigningKey,
        new: &SigningKey,
        now: Timestamp,
        reason: ChangeReason,
    ) -> Self {
        Self::make(Some((self, identifier)), Some(old), new, now, reason)
    }

    fn make(
        before: Option<(&Self, Identifier)>,
        old: Option<&SigningKey>,
        new: &SigningKey,
        now: Timestamp,
        reason: ChangeReason,
    ) -> Self {
        let change = Change {
            typ: TYP,
            identifier: before.map(|(_, identifier)| identifier),
            sequence: before.map_or(0, |(before, _)| before.change.sequence + 1),
            previous: before.map(|(before, _)| before.hash),
            new_key: new.public().to_bytes(),
            created: now,
            expires: now.plus(KEY_LIFETIME),
            reason,
        };
        let record = change.encode();
        let by_new = sign::sign(Purpose::Change, new, &record);
        let signed = match old {
            Some(old) => sign::sign(Purpose::ChangeApproval, old, &by_new),
            None => by_new,
        };
        Self { signed, hash: RecordHash::of(&record), key: new.public(), change }
    }

    /// Verifies the first record of a history.
    pub(super) fn verify_first(signed: &[u8]) -> Result<Self, HistoryError> {
        let verified = Self::verify_new(signed, signed, 0)?;
        let change = &verified.change;
        if change.identifier.is_some() || change.previous.is_some() || change.reason != ChangeReason::Created {
            return Err(HistoryError::Link { sequence: 0 });
        }
        Ok(verified)
    }

    /// Verifies `signed` as the record after `self` in the history of `identifier`.
    pub(super) fn verify_next(&self, identifier: Identifier, signed: &[u8]) -> Result<Self, HistoryError> {
        let sequence = self.change.sequence + 1;
        let by_new = sign::verify(Purpose::ChangeApproval, &self.key, signed)
            .map_err(|error| HistoryError::OldSignature { sequence, error })?;
        let verified = Self::verify_new(signed, &by_new, sequence)?;
        let change = &verified.change;
        if change.identifier != Some(identifier) || change.previous != Some(self.hash) || change.reason == ChangeReason::Created {
            return Err(HistoryError::Link { sequence });
        }
        // A key that expired can name no successor, and time does not run backwards.
        if change.created < self.change.created || change.created > self.change.expires {
            return Err(HistoryError::Times { sequence });
        }
        Ok(verified)
    }

    /// Verifies the signature by the key that the record introduces, and the fields that need no other record.
    fn verify_new(signed: &[u8], by_new: &[u8], sequence: u64) -> Result<Self, HistoryError> {
        // The key to verify with stands in the payload, which therefore is read first. It is believed only afterwards.
        let unverified =
            sign::unverified_payload(Purpose::Change, by_new).map_err(|error| HistoryError::NewSignature { sequence, error })?;
        let change = Change::decode(&unverified).ok_or(HistoryError::Record { sequence })?;
        let key = PublicKey::try_from(change.new_key).map_err(|error| HistoryError::Key { sequence, error })?;
        let record =
            sign::verify(Purpose::Change, &key, by_new).map_err(|error| HistoryError::NewSignature { sequence, error })?;
        if change.encode() != record {
            return Err(HistoryError::Record { sequence });
        }
        if change.typ != TYP || change.sequence != sequence {
            return Err(HistoryError::Link { sequence });
        }
        if change.created >= change.expires {
            return Err(HistoryError::Times { sequence });
        }
        Ok(Self { signed: signed.to_vec(), hash: RecordHash::of(&record), key, change })
    }

    /// The identifier of the identity that this, the first record, makes.
    pub(super) fn identifier(&self) -> Identifier {
        Identifier::from_bytes(self.hash.0)
    }
}

impl Change {
    pub(super) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory")
    }

    fn decode(record: &[u8]) -> Option<Self> {
        minicbor::decode(record).ok()
    }
}
