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
    /// All that is void, by epochs: each follows on the one before.
    pub voidings: Vec<PassedOn>,
    pub heartbeat: Option<Arc<[u8]>>,
}

/// A voiding statement: what was voided behind epoch `since`, up to and with `epoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOn {
    pub since: u64,
    pub epoch: u64,
    pub signed: Arc<[u8]>,
}

impl PassedOn {
    /// Whether it says all that `other` says.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        self.since <= other.since && self.epoch >= other.epoch
    }
}

impl TrustState {
    /// What credentials are verified against at `now`.
    #[must_use]
    pub fn verifier(&self, now: Timestamp) -> Verifier<'_> {
        Verifier { ring: self.membership.ring(), voided: &self.voided, now }
    }
}
