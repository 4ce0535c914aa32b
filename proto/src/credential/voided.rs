//! Whose credentials were voided, and up to when.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::claims::MAX_LIFETIME;
use crate::authority::Voiding;
use crate::id::Identifier;
use crate::time::{CLOCK_TOLERANCE, Timestamp};

/// Most members whose credentials are void at once. Each entry is needed for at most [`MAX_LIFETIME`].
pub const MAX_VOIDED: usize = 65_536;

/// What voiding statements of one project add up to. Statements only ever add: the order in which they arrive does not matter
/// to the result, and none is undone by leaving it out. It can be encoded, to be kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Voided {
    #[n(0)]
    epoch: u64,
    #[n(1)]
    entries: BTreeMap<Identifier, Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Entry {
    #[n(0)]
    not_before: Timestamp,
    /// When the authority last said so.
    #[n(1)]
    stated: Timestamp,
}

/// Why a voiding statement was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VoidedError {
    /// The statement is older than what is known, or the authority's state was set back.
    #[error("the statement has epoch {got}, but epoch {known} was seen before")]
    Rollback { known: u64, got: u64 },
    #[error("more than {MAX_VOIDED} members would be void")]
    TooMany,
}

impl Voided {
    /// Takes in a statement that [`crate::statement::verify`] returned. Whether anything changed.
    ///
    /// # Errors
    /// [`VoidedError`]; nothing is changed then.
    pub fn apply(&mut self, statement: &Voiding) -> Result<bool, VoidedError> {
        if statement.epoch < self.epoch {
            return Err(VoidedError::Rollback { known: self.epoch, got: statement.epoch });
        }
        let mut next = self.clone();
        next.epoch = statement.epoch;
        for void in &statement.entries {
            let entry = next.entries.entry(void.member).or_insert(Entry { not_before: void.not_before, stated: statement.time });
            entry.not_before = entry.not_before.max(void.not_before);
            entry.stated = entry.stated.max(statement.time);
        }
        if next.entries.len() > MAX_VOIDED {
            return Err(VoidedError::TooMany);
        }
        let changed = next != *self;
        *self = next;
        Ok(changed)
    }

    /// Forgets entries that no valid credential can be older than any more.
    pub fn forget_expired(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| entry.stated.plus(MAX_LIFETIME).plus(CLOCK_TOLERANCE).plus(CLOCK_TOLERANCE) >= now);
    }

    /// The highest epoch seen.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Since when a credential of `member` must be valid not to be void.
    #[must_use]
    pub fn not_before(&self, member: &Identifier) -> Option<Timestamp> {
        self.entries.get(member).map(|entry| entry.not_before)
    }
}
