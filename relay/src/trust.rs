//! Whom the relay believes: its project's key ring, and whose credentials are void.

use std::sync::Arc;

use postern_proto::credential::{Verifier, Voided};
use postern_proto::time::Timestamp;
use postern_runtime::membership::Membership;

/// Verified project information and voided members, as of one moment, with the signed statements that they came from.
#[derive(Debug, Clone)]
pub struct TrustState {
    pub membership: Arc<Membership>,
    pub voided: Arc<Voided>,
    pub statements: Statements,
}

/// Signed statements of the authority, which the relay passes on as a second road: the newest of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statements {
    pub project_info: Arc<[u8]>,
    /// Several where the list is long.
    pub voidings: Vec<Arc<[u8]>>,
    pub heartbeat: Option<Arc<[u8]>>,
}

impl TrustState {
    /// What credentials are verified against at `now`.
    #[must_use]
    pub fn verifier(&self, now: Timestamp) -> Verifier<'_> {
        Verifier { ring: self.membership.ring(), voided: &self.voided, now }
    }
}
