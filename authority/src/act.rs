//! How an act fails.

use postern_proto::authority::Refusal;

use crate::store::StoreError;

/// Why an act was not done. Either way it changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The caller may not, or what it asks for is not there: told to it in full.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authority could not: told to the log only.
    #[error(transparent)]
    Store(#[from] StoreError),
}
