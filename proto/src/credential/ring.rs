//! The keys that sign a project's credentials.

use std::time::Duration;

use crate::authority::{KeyState, ProjectInfo, RingKey};
use crate::id::{Identifier, KeyId, ProjectId};
use crate::sign::{InvalidKey, PublicKey};
use crate::time::{CLOCK_TOLERANCE, Timestamp};

/// Most keys of a ring: one in use, one announced, and those that were replaced and not retired yet.
pub const MAX_RING_KEYS: usize = 8;

/// A project's checked key ring.
#[derive(Debug, Clone)]
pub struct KeyRing {
    project: ProjectId,
    authority: Identifier,
    keys: Vec<(RingKey, PublicKey)>,
}

/// Why keys make no ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    #[error("{count} keys in the ring; 1 to {MAX_RING_KEYS} are allowed")]
    Count { count: usize },
    #[error("the ring's key {id} is not usable: {error}")]
    Key { id: KeyId, error: InvalidKey },
    /// The id is a function of the key, so that one id never selects between two keys.
    #[error("the id {id} in the ring is not its key's, which is {computed}")]
    Id { id: KeyId, computed: KeyId },
    #[error("the key {id} stands twice in the ring")]
    Duplicate { id: KeyId },
    #[error("the ring's key {id} is never valid")]
    Times { id: KeyId },
    #[error("{count} keys of the ring sign; it must be one")]
    Active { count: usize },
}

/// Why a ring gives no key to verify with.
pub(super) enum Unusable {
    Unknown,
    NotYet { at: Timestamp, by: Duration },
    Retired { at: Timestamp, by: Duration },
}

impl KeyRing {
    /// # Errors
    /// [`RingError`].
    pub fn new(project: ProjectId, authority: Identifier, keys: Vec<RingKey>) -> Result<Self, RingError> {
        if keys.is_empty() || keys.len() > MAX_RING_KEYS {
            return Err(RingError::Count { count: keys.len() });
        }
        let mut ring = Self { project, authority, keys: Vec::new() };
        for key in keys {
            let id = key.id;
            let public = PublicKey::try_from(key.public).map_err(|error| RingError::Key { id, error })?;
            if public.key_id() != id {
                return Err(RingError::Id { id, computed: public.key_id() });
            }
            if ring.keys.iter().any(|(known, _)| known.id == id) {
                return Err(RingError::Duplicate { id });
            }
            if key.not_before >= key.not_after {
                return Err(RingError::Times { id });
            }
            ring.keys.push((key, public));
        }
        let count = ring.keys.iter().filter(|(key, _)| key.state == KeyState::Active).count();
        if count != 1 {
            return Err(RingError::Active { count });
        }
        Ok(ring)
    }

    /// The ring of a project, as its authority states it.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn of(info: &ProjectInfo) -> Result<Self, RingError> {
        Self::new(info.project, info.authority, info.key_ring.clone())
    }

    #[must_use]
    pub fn project(&self) -> ProjectId {
        self.project
    }

    #[must_use]
    pub fn authority(&self) -> Identifier {
        self.authority
    }

    /// Whether this is the key that signs now.
    #[must_use]
    pub fn is_active(&self, id: KeyId) -> bool {
        self.keys.iter().any(|(key, _)| key.id == id && key.state == KeyState::Active)
    }

    /// Whether everything that `other` takes is taken by this one, too.
    #[must_use]
    pub fn has_keys_of(&self, other: &Self) -> bool {
        other
            .keys
            .iter()
            .all(|(key, _)| self.keys.iter().any(|(known, _)| known.id == key.id && known.not_after >= key.not_after))
    }

    pub(super) fn key(&self, id: KeyId, now: Timestamp) -> Result<&PublicKey, Unusable> {
        let (key, public) = self.keys.iter().find(|(key, _)| key.id == id).ok_or(Unusable::Unknown)?;
        if now.plus(CLOCK_TOLERANCE) < key.not_before {
            return Err(Unusable::NotYet { at: key.not_before, by: key.not_before.since(now) });
        }
        if now >= key.not_after.plus(CLOCK_TOLERANCE) {
            return Err(Unusable::Retired { at: key.not_after, by: now.since(key.not_after) });
        }
        Ok(public)
    }
}

impl RingKey {
    /// The entry of a key ring for `public`, as the key that signs.
    #[must_use]
    pub fn new(public: &PublicKey, not_before: Timestamp, not_after: Timestamp) -> Self {
        Self { id: public.key_id(), public: public.to_bytes(), not_before, not_after, state: KeyState::Active }
    }

    /// The same in another state.
    #[must_use]
    pub fn in_state(self, state: KeyState) -> Self {
        Self { state, ..self }
    }
}
