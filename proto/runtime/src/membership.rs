//! What a member of a project keeps of it: whom it trusts, where the authority is, and the newest signed project information.
//! Nodes, relays and commands all read it from the same form.

use minicbor::{Decode, Encode};
use postern_proto::address::HostPort;
use postern_proto::authority::ProjectInfo;
use postern_proto::credential::{KeyRing, RingError};
use postern_proto::id::{Identifier, ProjectId, StaticPublic};
use postern_proto::identity::{ForkOrRollback, History, HistoryError};
use postern_proto::statement::{self, StatementError};
use postern_proto::ticket::Ticket;

/// A verified membership: the project information in it was signed by the authority that the ticket pinned.
#[derive(Debug, Clone)]
pub struct Membership {
    stored: Stored,
    history: History,
    info: ProjectInfo,
    ring: KeyRing,
}

#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
struct Stored {
    #[n(0)]
    project: ProjectId,
    #[n(1)]
    authority: Identifier,
    #[n(2)]
    authority_static: StaticPublic,
    /// Addresses from the ticket, in case the signed ones become unreachable.
    #[n(3)]
    addresses: Vec<HostPort>,
    #[cbor(n(4), with = "minicbor::bytes")]
    history: Vec<u8>,
    #[cbor(n(5), with = "minicbor::bytes")]
    statement: Vec<u8>,
}

/// Why bytes are no membership, or project information does not belong to it.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("the stored membership is damaged; enrol again with a new ticket")]
    Damaged,
    #[error("the authority's identity does not verify: {0}")]
    History(#[from] HistoryError),
    #[error("the authority's identity went backwards or forked")]
    Rollback(#[from] ForkOrRollback),
    #[error("the project information is of another authority")]
    OtherAuthority,
    #[error("the project information does not verify: {0}")]
    Statement(#[from] StatementError),
    #[error("the project's key ring is malformed: {0}")]
    Ring(#[from] RingError),
    #[error("the project information is older than what is known")]
    Older,
    /// Two that differ have one number: the authority was doubled, or set back.
    #[error("the project information differs from the known one of the same number: it was forked")]
    Forked,
}

impl Membership {
    /// What a ticket's authority answered to the enrolment.
    ///
    /// # Errors
    /// [`MembershipError`] where the answer is not of the authority that the ticket pins.
    pub fn from_ticket(ticket: &Ticket, history: Vec<u8>, statement: Vec<u8>) -> Result<Self, MembershipError> {
        Self::verify(Stored {
            project: ticket.project,
            authority: ticket.authority,
            authority_static: ticket.authority_static,
            addresses: ticket.addresses.clone(),
            history,
            statement,
        })
    }

    /// A membership of the authority's own host, which needs no ticket.
    ///
    /// # Errors
    /// [`MembershipError`] where the statement does not belong to `info`'s authority.
    pub fn from_own_authority(info: &ProjectInfo, history: Vec<u8>, statement: Vec<u8>) -> Result<Self, MembershipError> {
        Self::verify(Stored {
            project: info.project,
            authority: info.authority,
            authority_static: info.authority_static,
            addresses: info.authority_addresses.clone(),
            history,
            statement,
        })
    }

    /// Reads what [`Self::encode`] wrote, and verifies it again.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        Self::verify(minicbor::decode(bytes).map_err(|_| MembershipError::Damaged)?)
    }

    /// # Panics
    /// Never: writing to memory does not fail.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(&self.stored).expect("writing to memory does not fail")
    }

    fn verify(stored: Stored) -> Result<Self, MembershipError> {
        let history = History::decode(&stored.history)?;
        if history.identifier() != stored.authority {
            return Err(MembershipError::OtherAuthority);
        }
        let info: ProjectInfo = statement::verify(&history, stored.project, &stored.statement)?;
        if info.authority != stored.authority || info.authority_static != stored.authority_static {
            return Err(MembershipError::OtherAuthority);
        }
        let ring = KeyRing::of(&info)?;
        Ok(Self { stored, history, info, ring })
    }

    /// Takes newer project information. Returns whether anything changed.
    ///
    /// # Errors
    /// [`MembershipError`] where it is of another authority or goes backwards; nothing changes then.
    pub fn update(&mut self, history: Vec<u8>, statement: Vec<u8>) -> Result<bool, MembershipError> {
        let newer = Self::verify(Stored { history, statement, ..self.stored.clone() })?;
        newer.history.succeeds(&self.history)?;
        if newer.info.sequence < self.info.sequence || newer.info.epoch < self.info.epoch {
            return Err(MembershipError::Older);
        }
        if newer.info.sequence == self.info.sequence && newer.info != self.info {
            return Err(MembershipError::Forked);
        }
        let changed = newer.stored.statement != self.stored.statement || newer.stored.history != self.stored.history;
        *self = newer;
        Ok(changed)
    }

    #[must_use]
    pub const fn project(&self) -> ProjectId {
        self.stored.project
    }

    #[must_use]
    pub const fn authority(&self) -> Identifier {
        self.stored.authority
    }

    #[must_use]
    pub const fn authority_static(&self) -> StaticPublic {
        self.stored.authority_static
    }

    /// Where the authority may be, the newest known addresses first.
    #[must_use]
    pub fn authority_addresses(&self) -> Vec<HostPort> {
        let mut addresses = self.info.authority_addresses.clone();
        addresses
            .extend(self.stored.addresses.iter().filter(|address| !self.info.authority_addresses.contains(address)).cloned());
        addresses
    }

    #[must_use]
    pub const fn info(&self) -> &ProjectInfo {
        &self.info
    }

    /// The signed statement that [`Self::info`] is what it says, to be passed on.
    #[must_use]
    pub fn statement(&self) -> &[u8] {
        &self.stored.statement
    }

    /// The keys that sign this project's credentials.
    #[must_use]
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The authority's identity, for verifying its other statements.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }
}

#[cfg(test)]
mod tests {
    use postern_proto::authority::{KeyState, RingKey};
    use postern_proto::identity::{ChangeReason, Identity};
    use postern_proto::sign::SigningKey;
    use postern_proto::time::Timestamp;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

    fn info(authority: &Identity, sequence: u64, keys: &[(&SigningKey, KeyState)]) -> ProjectInfo {
        let ring_key = |(key, state): &(&SigningKey, KeyState)| {
            RingKey::new(&key.public(), NOW, Timestamp::from_unix(1_900_000_000)).in_state(*state)
        };
        ProjectInfo {
            project: ProjectId::from_bytes([1; 16]),
            name: "default".parse().unwrap(),
            authority: authority.identifier(),
            authority_static: StaticPublic::from_bytes([9; 32]),
            authority_addresses: Vec::new(),
            key_ring: keys.iter().map(ring_key).collect(),
            relays: Vec::new(),
            epoch: 1,
            sequence,
            issued_at: NOW,
        }
    }

    fn told(authority: &Identity, info: &ProjectInfo) -> (Vec<u8>, Vec<u8>) {
        (authority.history().encode(), statement::sign(authority, info).unwrap())
    }

    #[test]
    fn keys_and_the_authoritys_own_identity_change_and_neither_goes_back_nor_forks() {
        let mut authority = Identity::generate(NOW);
        let (first, next) = (SigningKey::generate(), SigningKey::generate());
        let before = info(&authority, 7, &[(&first, KeyState::Active)]);
        let (history, statement) = told(&authority, &before);
        let mut member = Membership::from_own_authority(&before, history.clone(), statement.clone()).unwrap();
        assert!(!member.update(history.clone(), statement.clone()).unwrap());

        // Of two that have one number, the known one counts.
        let other = info(&authority, 7, &[(&next, KeyState::Active)]);
        let (_, fork) = told(&authority, &other);
        assert!(matches!(member.update(history.clone(), fork), Err(MembershipError::Forked)));

        // Whoever missed what was between follows all the same.
        let (mut twin, old_authority) = (authority.clone(), authority.clone());
        authority.rotate(NOW, ChangeReason::Renewed).unwrap();
        authority.rotate(NOW, ChangeReason::Renewed).unwrap();
        let after = info(&authority, 9, &[(&next, KeyState::Active)]);
        let (newer, signed) = told(&authority, &after);
        assert!(member.update(newer.clone(), signed).unwrap());
        assert!(member.ring().is_active(next.key_id()) && !member.ring().is_active(first.key_id()));
        assert_eq!(member.info().sequence, 9);

        assert!(matches!(member.update(history.clone(), statement), Err(MembershipError::Rollback(_))));
        let (_, stale) = told(&old_authority, &info(&authority, 10, &[(&next, KeyState::Active)]));
        assert!(matches!(member.update(newer.clone(), stale), Err(MembershipError::Statement(_))), "by a key that was replaced");
        twin.rotate(NOW, ChangeReason::Renewed).unwrap();
        let (forked, signed) = told(&twin, &info(&twin, 10, &[(&next, KeyState::Active)]));
        assert!(matches!(member.update(forked, signed), Err(MembershipError::Rollback(ForkOrRollback::Fork { .. }))));
        let (_, older) = told(&authority, &info(&authority, 8, &[(&next, KeyState::Active)]));
        assert!(matches!(member.update(newer, older), Err(MembershipError::Older)));
        assert_eq!(Membership::decode(&member.encode()).unwrap().info(), member.info());
    }
}
