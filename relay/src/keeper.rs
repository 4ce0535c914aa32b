//! Keeps what the relay believes up to date: each statement of the authority is verified, written down where it must not be
//! forgotten, and only then acted on.

use std::sync::Arc;

use postern_proto::authority::{Heartbeat, Voiding};
use postern_proto::credential::VoidedError;
use postern_proto::statement::{self, StatementError};
use postern_proto::time::Timestamp;
use postern_runtime::membership::MembershipError;
use tokio::sync::watch;

use crate::state::{RelayHome, StateError};
use crate::trust::TrustState;

/// Most statements that one void list comes in. The authority puts 2,000 members into one, of 65,536.
const MAX_VOIDINGS: usize = 64;

/// Why a statement changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error(transparent)]
    Voided(#[from] VoidedError),
    #[error("the void list comes in more than {MAX_VOIDINGS} statements")]
    TooMany,
    /// What cannot be written down is not acted on either: a restart would undo it.
    #[error("it cannot be kept: {0}")]
    State(#[from] StateError),
}

/// The one writer of the relay's trust.
pub struct Keeper {
    home: RelayHome,
    trust: watch::Sender<Arc<TrustState>>,
    /// Epoch and time of the void list that is passed on.
    newest: (u64, Timestamp),
}

impl Keeper {
    /// `trust` is what was read from `home`, or is new and was kept there.
    #[must_use]
    pub fn new(home: RelayHome, trust: TrustState) -> Self {
        let newest = (trust.voided.epoch(), Timestamp::from_unix(0));
        Self { home, trust: watch::Sender::new(Arc::new(trust)), newest }
    }

    /// What the relay believes, now and later.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<TrustState>> {
        self.trust.subscribe()
    }

    #[must_use]
    pub fn trust(&self) -> Arc<TrustState> {
        Arc::clone(&self.trust.borrow())
    }

    /// Project information, with the history of the authority's identity.
    ///
    /// # Errors
    /// [`KeepError`]; nothing changed then.
    pub fn project_info(&mut self, statement: Vec<u8>, history: Vec<u8>) -> Result<(), KeepError> {
        let trust = self.trust();
        let mut membership = (*trust.membership).clone();
        if membership.update(history, statement)? {
            self.home.set_membership(&membership)?;
            let mut newer = (*trust).clone();
            newer.statements.project_info = membership.statement().into();
            newer.membership = Arc::new(membership);
            self.trust.send_replace(Arc::new(newer));
        }
        Ok(())
    }

    /// A voiding statement. A list that comes in several has one epoch and time in all of them.
    ///
    /// # Errors
    /// [`KeepError`]; nothing changed then.
    pub fn voiding(&mut self, signed: Vec<u8>) -> Result<(), KeepError> {
        let trust = self.trust();
        let voiding: Voiding = statement::verify(trust.membership.history(), trust.membership.project(), &signed)?;
        let mut newer = (*trust).clone();
        let mut voided = (*trust.voided).clone();
        let changed = voided.apply(&voiding)?;
        voided.forget_expired(voiding.time);
        let stamp = (voiding.epoch, voiding.time);
        let signed: Arc<[u8]> = signed.into();
        let passed_on = &mut newer.statements.voidings;
        if stamp > self.newest {
            passed_on.clear();
        } else if stamp < self.newest || passed_on.contains(&signed) {
            // Older than what is passed on, or known: what it adds is kept, it is not passed on.
            if !changed {
                return Ok(());
            }
        }
        if stamp >= self.newest && !passed_on.contains(&signed) {
            if passed_on.len() >= MAX_VOIDINGS {
                return Err(KeepError::TooMany);
            }
            passed_on.push(signed);
        }
        self.home.set_voided(&voided, passed_on)?;
        self.newest = self.newest.max(stamp);
        if changed {
            newer.voided = Arc::new(voided);
        }
        self.trust.send_replace(Arc::new(newer));
        Ok(())
    }

    /// A heartbeat. Returns the authority's time in it.
    ///
    /// # Errors
    /// [`KeepError::Statement`].
    pub fn heartbeat(&mut self, signed: Vec<u8>) -> Result<Timestamp, KeepError> {
        let trust = self.trust();
        let heartbeat: Heartbeat = statement::verify(trust.membership.history(), trust.membership.project(), &signed)?;
        let mut newer = (*trust).clone();
        newer.statements.heartbeat = Some(signed.into());
        self.trust.send_replace(Arc::new(newer));
        Ok(heartbeat.time)
    }
}
