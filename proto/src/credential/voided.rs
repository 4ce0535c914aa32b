//! Whose credentials were voided, and up to when.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::claims::MAX_LIFETIME;
use crate::authority::{VoidEntry, Voiding};
use crate::id::Identifier;
use crate::time::{CLOCK_TOLERANCE, Timestamp};

/// Most members that are remembered. One whose credentials are void up to a moment is needed for [`MAX_LIFETIME`]; revoked ones are
/// kept for ever, until there is no room: then the oldest go of which no credential can be alive.
pub const MAX_VOIDED: usize = 65_536;

/// What voiding statements of one project add up to: for each member, what the statement with the highest epoch says. So statements may
/// come in any order, by several roads, and more than once. It can be encoded, to be kept on disk.
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
    /// The epoch of the statement that said so.
    #[n(2)]
    epoch: u64,
}

impl Entry {
    /// Whether some credential that it speaks of can be within its time.
    fn matters(&self, now: Timestamp) -> bool {
        self.stated.plus(MAX_LIFETIME).plus(CLOCK_TOLERANCE).plus(CLOCK_TOLERANCE) >= now
    }
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
    /// Takes in a statement that [`crate::statement::verify`] returned. Whether it says anything new.
    ///
    /// The epoch rises only where the statement follows on what is known: of what lies in a gap nothing was heard yet, and a statement
    /// that tells it must not be taken for an old one.
    ///
    /// # Errors
    /// [`VoidedError`]; nothing is changed then.
    pub fn apply(&mut self, statement: &Voiding) -> Result<bool, VoidedError> {
        if statement.epoch < self.epoch {
            return Err(VoidedError::Rollback { known: self.epoch, got: statement.epoch });
        }
        let mut next = self.clone();
        for void in &statement.entries {
            let said = Entry { not_before: void.not_before, stated: statement.time, epoch: statement.epoch };
            let known = next.entries.get(&void.member).copied();
            // Of one epoch there is one truth; where a statement, or an authority that was set back, says two, the stricter counts.
            if known.is_none_or(|known| (known.epoch, known.not_before) <= (said.epoch, said.not_before)) {
                let stated = known.map_or(said.stated, |known| known.stated.max(said.stated));
                next.entries.insert(void.member, Entry { stated, ..said });
            }
        }
        if statement.since <= next.epoch {
            next.epoch = statement.epoch;
        }
        next.make_room(statement.time);
        if next.entries.len() > MAX_VOIDED {
            return Err(VoidedError::TooMany);
        }
        // What it comes to, not each entry: a statement that names a member twice says nothing new the second time.
        let differs = |void: &VoidEntry| next.not_before(&void.member) != self.not_before(&void.member);
        let changed = next.epoch != self.epoch || statement.entries.iter().any(differs);
        *self = next;
        Ok(changed)
    }

    /// Forgets entries that no valid credential can be older than any more. What is void for ever stays.
    pub fn forget_expired(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| entry.not_before >= VoidEntry::FOR_EVER || entry.matters(now));
    }

    fn make_room(&mut self, now: Timestamp) {
        let Some(surplus) = self.entries.len().checked_sub(MAX_VOIDED).filter(|surplus| *surplus > 0) else { return };
        let mut old: Vec<_> =
            self.entries.iter().filter(|(_, entry)| !entry.matters(now)).map(|(member, entry)| (entry.stated, *member)).collect();
        old.sort_unstable();
        for (_, member) in old.into_iter().take(surplus) {
            self.entries.remove(&member);
        }
    }

    /// The epoch up to which everything is known.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Since when a credential of `member` must be valid not to be void.
    #[must_use]
    pub fn not_before(&self, member: &Identifier) -> Option<Timestamp> {
        self.entries.get(member).map(|entry| entry.not_before)
    }

    /// Whether `member` was revoked: all its credentials are void, for ever.
    #[must_use]
    pub fn is_revoked(&self, member: &Identifier) -> bool {
        self.not_before(member).is_some_and(|limit| limit >= VoidEntry::FOR_EVER)
    }
}
