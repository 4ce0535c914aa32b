//! How an act fails.

use postern_proto::authority::Refusal;

use crate::service::ServiceError;
use crate::store::StoreError;

/// Why an act was not done. A refusal changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The caller may not, or what it asks for is not there: told to it in full.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authority could not: told to the log only.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The act is done, but what everybody is to be told of it could not be made: told to the log only.
    #[error(transparent)]
    Publish(#[from] ServiceError),
}
