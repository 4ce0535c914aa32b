//! Keeps what the relay believes up to date: each statement of the authority is verified, acted on, and written down where it must not be
//! forgotten. It is acted on even where it cannot be written down: a full disk keeps no revoked member and no retired key alive. Of what is
//! void the authority is not told then that it is enforced, because a restart would undo it. The next heartbeat tries again.

use std::sync::Arc;

use postern_proto::authority::{Heartbeat, Voiding};
use postern_proto::credential::VoidedError;
use postern_proto::statement::{self, StatementError};
use postern_proto::time::Timestamp;
use postern_runtime::membership::MembershipError;
use tokio::sync::watch;

use crate::state::{RelayHome, StateError};
use crate::trust::{PassedOn, TrustState};

/// Most voiding statements that are passed on. The authority puts 2,000 members into one, of 65,536, and says all again after 32 single ones.
/// With more of them the oldest are left out: who connects to this relay alone has not heard of these, and their credentials expire.
const MAX_VOIDINGS: usize = 128;

/// Why a statement changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error(transparent)]
    Voided(#[from] VoidedError),
    /// It is in force, and a restart would undo it.
    #[error("it cannot be kept: {0}")]
    State(#[from] StateError),
}

/// The one writer of the relay's trust.
pub struct Keeper {
    home: RelayHome,
    trust: watch::Sender<Arc<TrustState>>,
    /// Up to which epoch everything that is void is written down.
    stored: watch::Sender<u64>,
    /// The list of what is void is newer than what is written down.
    unwritten: bool,
    /// So is the project information.
    unwritten_info: bool,
    /// Something was not written down when it came.
    behind: bool,
}

impl Keeper {
    /// `trust` is what was read from `home`, or is new and was kept there.
    #[must_use]
    pub fn new(home: RelayHome, trust: TrustState) -> Self {
        let stored = watch::Sender::new(trust.voided.epoch());
        Self { home, trust: watch::Sender::new(Arc::new(trust)), stored, unwritten: false, unwritten_info: false, behind: false }
    }

    /// Where it is kept.
    #[must_use]
    pub const fn home(&self) -> &RelayHome {
        &self.home
    }

    /// What the relay believes, now and later.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<TrustState>> {
        self.trust.subscribe()
    }

    /// Up to which epoch a restart forgets nothing that is void.
    #[must_use]
    pub fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    #[must_use]
    pub fn trust(&self) -> Arc<TrustState> {
        Arc::clone(&self.trust.borrow())
    }

    /// Project information, with the history of the authority's identity.
    ///
    /// # Errors
    /// [`KeepError`]; nothing changed then, but with [`KeepError::State`], where it is in force and not written down.
    pub fn project_info(&mut self, statement: Vec<u8>, history: Vec<u8>) -> Result<(), KeepError> {
        let trust = self.trust();
        let mut membership = (*trust.membership).clone();
        if membership.update(history, statement)? {
            let mut newer = (*trust).clone();
            newer.statements.project_info = membership.statement().into();
            newer.membership = Arc::new(membership);
            self.trust.send_replace(Arc::new(newer));
            self.unwritten_info = true;
            let written = self.write_info();
            self.settle();
            written?;
        }
        Ok(())
    }

    /// Writes down what the project is, where that has changed.
    fn write_info(&mut self) -> Result<(), StateError> {
        if self.unwritten_info {
            self.home.set_membership(&self.trust().membership)?;
            self.unwritten_info = false;
        }
        Ok(())
    }

    /// A voiding statement. It takes the place of those whose epochs it covers.
    ///
    /// # Errors
    /// [`KeepError`]; nothing changed then, but with [`KeepError::State`], where it is in force and not written down.
    pub fn voiding(&mut self, signed: Vec<u8>) -> Result<(), KeepError> {
        let trust = self.trust();
        let voiding: Voiding = statement::verify(trust.membership.history(), trust.membership.project(), &signed)?;
        let mut voided = (*trust.voided).clone();
        let applied = voided.apply(&voiding);
        voided.forget_expired(voiding.time);
        let mut passed_on = trust.statements.voidings.clone();
        let one = PassedOn { since: voiding.since, epoch: voiding.epoch, signed: signed.into() };
        // Said again in other words, it need not be passed on again.
        let news = !passed_on.iter().any(|known| known.covers(&one));
        let changed = match applied {
            // Said again in parts, of which only the last is new: nodes may lack what the others say.
            Err(VoidedError::Rollback { .. }) if news => false,
            applied => applied?,
        };
        if !changed && !news {
            return Ok(());
        }
        if news {
            passed_on.retain(|known| !one.covers(known));
            let place = passed_on.partition_point(|known| known.epoch <= one.epoch);
            passed_on.insert(place, one);
            if passed_on.len() > MAX_VOIDINGS {
                passed_on.remove(0);
            }
        }
        let mut newer = (*trust).clone();
        newer.statements.voidings = passed_on;
        newer.voided = Arc::new(voided);
        self.trust.send_replace(Arc::new(newer));
        self.unwritten = true;
        let written = self.write();
        self.settle();
        Ok(written?)
    }

    /// Says it when everything is written down that was not when it came.
    fn settle(&mut self) {
        let behind = self.unwritten || self.unwritten_info;
        if std::mem::replace(&mut self.behind, behind) && !behind {
            tracing::info!("what the disk did not take of the authority's statements is kept now");
        }
    }

    /// Writes down what is void, where that has changed.
    fn write(&mut self) -> Result<(), StateError> {
        if self.unwritten {
            let trust = self.trust();
            self.home.set_voided(&trust.voided, &trust.statements.voidings)?;
            self.unwritten = false;
            self.stored.send_replace(trust.voided.epoch());
        }
        Ok(())
    }

    /// A heartbeat. Returns the authority's time in it.
    ///
    /// # Errors
    /// [`KeepError::Statement`]; [`KeepError::Voided`] where the authority's state was set back.
    pub fn heartbeat(&mut self, signed: Vec<u8>) -> Result<Timestamp, KeepError> {
        let trust = self.trust();
        let heartbeat: Heartbeat = statement::verify(trust.membership.history(), trust.membership.project(), &signed)?;
        let known = trust.voided.epoch();
        if heartbeat.epoch < known {
            return Err(VoidedError::Rollback { known, got: heartbeat.epoch }.into());
        }
        let mut newer = (*trust).clone();
        newer.statements.heartbeat = Some(signed.into());
        self.trust.send_replace(Arc::new(newer));
        // What it says is good whether or not the disk takes now what it did not take before.
        if let Err(error) = self.write() {
            tracing::debug!(%error, "what is void is still not written down");
        }
        if let Err(error) = self.write_info() {
            tracing::debug!(%error, "the project information is still not written down");
        }
        self.settle();
        Ok(heartbeat.time)
    }
}
