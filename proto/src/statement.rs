//! Statements of an authority to everybody in its project: signed by its identity, verified through its [`History`].
//!
//! A receiver pins the authority's identifier when it joins, and keeps the newest history that it has seen.

use minicbor::{Decode, Encode};

use crate::audit::AuditCheckpoint;
use crate::authority::{Guardrails, Heartbeat, ProjectInfo, Voiding};
use crate::id::ProjectId;
use crate::identity::{History, Identity};
use crate::sign::{Purpose, SignError};

mod sealed {
    pub trait Sealed {}
}

/// A kind of statement.
pub trait Statement: sealed::Sealed + Encode<()> + for<'b> Decode<'b, ()> {
    const PURPOSE: Purpose;

    fn project(&self) -> ProjectId;

    /// Whether it speaks for the identity that `history` belongs to.
    fn is_of(&self, _history: &History) -> bool {
        true
    }
}

impl sealed::Sealed for ProjectInfo {}
impl Statement for ProjectInfo {
    const PURPOSE: Purpose = Purpose::ProjectInfo;

    fn project(&self) -> ProjectId {
        self.project
    }

    fn is_of(&self, history: &History) -> bool {
        self.authority == history.identifier()
    }
}

impl sealed::Sealed for Heartbeat {}
impl Statement for Heartbeat {
    const PURPOSE: Purpose = Purpose::Heartbeat;

    fn project(&self) -> ProjectId {
        self.project
    }
}

impl sealed::Sealed for Voiding {}
impl Statement for Voiding {
    const PURPOSE: Purpose = Purpose::Voiding;

    fn project(&self) -> ProjectId {
        self.project
    }
}

impl sealed::Sealed for AuditCheckpoint {}
impl Statement for AuditCheckpoint {
    const PURPOSE: Purpose = Purpose::AuditCheckpoint;

    fn project(&self) -> ProjectId {
        self.project
    }
}

impl sealed::Sealed for Guardrails {}
impl Statement for Guardrails {
    const PURPOSE: Purpose = Purpose::Guardrails;

    fn project(&self) -> ProjectId {
        self.project
    }
}

/// Why a statement was refused, or could not be made. In the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    #[error("the authority's statement was refused: {0}")]
    Sign(#[from] SignError),
    #[error("the authority's statement is malformed, has unknown fields, or is not in the one deterministic encoding")]
    Malformed,
    #[error("the statement is for the project {found}, not for {expected}")]
    OtherProject { expected: ProjectId, found: ProjectId },
    #[error("the statement names another authority than the one that signed it")]
    OtherAuthority,
}

/// Signs `statement` by the authority's identity.
///
/// # Errors
/// [`SignError::TooLarge`] where receivers would refuse it.
pub fn sign<T: Statement>(authority: &Identity, statement: &T) -> Result<Vec<u8>, StatementError> {
    let signed = authority.sign(T::PURPOSE, &encode(statement));
    let (len, max) = (signed.len(), T::PURPOSE.max_len());
    if len > max {
        return Err(SignError::TooLarge { len, max }.into());
    }
    Ok(signed)
}

/// The statement in `signed`, if the authority with this history made it for `project`. Whether it is newer than what is known
/// is for the caller to see (`sequence`, `epoch`, `time`).
///
/// # Errors
/// [`StatementError`] for the first check that fails.
pub fn verify<T: Statement>(authority: &History, project: ProjectId, signed: &[u8]) -> Result<T, StatementError> {
    let payload = authority.verify(T::PURPOSE, signed)?;
    of_project(project, read::<T>(authority, &payload)?)
}

/// As [`verify`], by any key that the authority ever had: for statements that a newer one, verified with the key of now, confirms.
///
/// # Errors
/// [`StatementError`] for the first check that fails.
pub fn verify_past<T: Statement>(authority: &History, project: ProjectId, signed: &[u8]) -> Result<T, StatementError> {
    let payload = authority.verify_past(T::PURPOSE, signed)?;
    of_project(project, read::<T>(authority, &payload)?)
}

fn of_project<T: Statement>(project: ProjectId, statement: T) -> Result<T, StatementError> {
    if statement.project() != project {
        return Err(StatementError::OtherProject { expected: project, found: statement.project() });
    }
    Ok(statement)
}

fn read<T: Statement>(authority: &History, payload: &[u8]) -> Result<T, StatementError> {
    let statement: T = minicbor::decode(payload).map_err(|_| StatementError::Malformed)?;
    // What is signed has one encoding, and no field that this version does not know.
    if encode(&statement) != payload {
        return Err(StatementError::Malformed);
    }
    if !statement.is_of(authority) {
        return Err(StatementError::OtherAuthority);
    }
    Ok(statement)
}

fn encode<T: Statement>(statement: &T) -> Vec<u8> {
    minicbor::to_vec(statement).expect("writing to memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{RelayRow, RingKey, VoidEntry};
    use crate::id::{Identifier, StaticPublic};
    use crate::identity::ChangeReason;
    use crate::secret::SecretBytes;
    use crate::sign::MAX_STATEMENT;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
    const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);

    fn authority() -> Identity {
        Identity::from_seed(&SecretBytes::new([1; 32]), NOW)
    }

    fn info() -> ProjectInfo {
        ProjectInfo {
            project: PROJECT,
            name: "default".parse().unwrap(),
            authority: authority().identifier(),
            authority_static: StaticPublic::from_bytes([9; 32]),
            authority_addresses: vec!["authority.example:7000".parse().unwrap()],
            key_ring: vec![RingKey::new(authority().history().current_key(), NOW, Timestamp::from_unix(1_900_000_000))],
            relays: vec![RelayRow {
                identifier: Identifier::from_bytes([3; 32]),
                static_key: StaticPublic::from_bytes([9; 32]),
                address: "relay.example:7000".parse().unwrap(),
                next_static: Some(StaticPublic::from_bytes([8; 32])),
            }],
            epoch: 1,
            sequence: 2,
            issued_at: NOW,
        }
    }

    fn heartbeat() -> Heartbeat {
        Heartbeat { project: PROJECT, epoch: 7, time: NOW }
    }

    fn voiding(entries: usize) -> Voiding {
        let member = |i: usize| Identifier::from_bytes([i as u8; 32]);
        let entries = (0..entries).map(|i| VoidEntry { member: member(i), not_before: NOW }).collect();
        Voiding { project: PROJECT, epoch: 7, time: NOW, entries, since: 3 }
    }

    #[test]
    fn statements_verify() {
        let (signer, history) = (authority(), authority().history().clone());
        assert_eq!(verify(&history, PROJECT, &sign(&signer, &info()).unwrap()), Ok(info()));
        assert_eq!(verify(&history, PROJECT, &sign(&signer, &heartbeat()).unwrap()), Ok(heartbeat()));
        assert_eq!(verify(&history, PROJECT, &sign(&signer, &voiding(3)).unwrap()), Ok(voiding(3)));
    }

    #[test]
    fn one_kind_is_not_another() {
        let signed = sign(&authority(), &heartbeat()).unwrap();
        let refused = verify::<Voiding>(authority().history(), PROJECT, &signed);
        assert_eq!(refused, Err(SignError::Type { expected: Purpose::Voiding }.into()));
    }

    #[test]
    fn of_another_project_or_authority() {
        let signed = sign(&authority(), &heartbeat()).unwrap();
        let expected = ProjectId::from_bytes([7; 16]);
        let refused = verify::<Heartbeat>(authority().history(), expected, &signed);
        assert_eq!(refused, Err(StatementError::OtherProject { expected, found: PROJECT }));

        let stranger = Identity::generate(NOW);
        let refused = verify::<Heartbeat>(stranger.history(), PROJECT, &signed);
        assert!(matches!(refused, Err(StatementError::Sign(SignError::OtherKey { .. }))));
        let signed = sign(&stranger, &info()).unwrap();
        assert_eq!(verify::<ProjectInfo>(stranger.history(), PROJECT, &signed), Err(StatementError::OtherAuthority));
    }

    #[test]
    fn a_replaced_key_speaks_no_more() {
        let old = authority();
        let mut new = authority();
        new.rotate(NOW, ChangeReason::Compromised).unwrap();
        let by_old = sign(&old, &heartbeat()).unwrap();
        assert!(matches!(verify::<Heartbeat>(new.history(), PROJECT, &by_old), Err(StatementError::Sign(_))));
        let by_new = sign(&new, &heartbeat()).unwrap();
        assert!(verify::<Heartbeat>(new.history(), PROJECT, &by_new).is_ok());
    }

    #[test]
    fn unknown_fields_and_other_encodings_are_refused() {
        let refused = |payload: &[u8]| {
            let signed = authority().sign(Purpose::Heartbeat, payload);
            verify::<Heartbeat>(authority().history(), PROJECT, &signed)
        };
        let good = encode(&heartbeat());
        assert_eq!(refused(&good), Ok(heartbeat()));
        let mut unknown = good.clone();
        unknown[0] += 1;
        unknown.extend([9, 0]);
        let indefinite = [&[0xbf], &good[1..], &[0xff]].concat();
        let longer = [&good[..], &[0]].concat();
        for payload in [unknown, indefinite, longer, good[..good.len() - 1].to_vec(), vec![], vec![0x81; 900]] {
            assert_eq!(refused(&payload), Err(StatementError::Malformed), "{}", hex::encode(&payload));
        }
    }

    #[test]
    fn the_longest_is_refused_where_it_is_made() {
        // An entry has 42 bytes.
        assert!(sign(&authority(), &voiding((MAX_STATEMENT - 500) / 42)).is_ok());
        let refused = sign(&authority(), &voiding(MAX_STATEMENT / 42));
        assert!(matches!(refused, Err(StatementError::Sign(SignError::TooLarge { .. }))));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let good = sign(&authority(), &info()).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert!(verify::<ProjectInfo>(authority().history(), PROJECT, &bad).is_err(), "byte {position}");
        }
    }
}
