//! Statements of an authority to everybody in its project: signed by its identity, verified through its [`History`].
//!
//! A receiver pins the authority's identifier when it joins, and keeps the newest history that it has seen.

use minicbor::{Decode, Encode};

use crate::authority::{Heartbeat, ProjectInfo, Voiding};
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
    fn is_of(&self, history: &History) -> bool {
        let _ = history;
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
    let statement = verify_any_project::<T>(authority, signed)?;
    if statement.project() != project {
        return Err(StatementError::OtherProject { expected: project, found: statement.project() });
    }
    Ok(statement)
}

fn verify_any_project<T: Statement>(authority: &History, signed: &[u8]) -> Result<T, StatementError> {
    let payload = authority.verify(T::PURPOSE, signed)?;
    let statement: T = minicbor::decode(&payload).map_err(|_| StatementError::Malformed)?;
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
