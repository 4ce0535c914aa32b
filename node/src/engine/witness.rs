//! Remembers the newest signed checkpoint of the authority's audit log, across restarts, and refuses one that does not have all rows
//! of it: somebody who rewrites the log, or puts an older database in its place, is seen by every node.
//!
//! Such a log takes no credential away: what is void stays void by the epoch, which never goes back either. It is for people to act on.

use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::audit::AuditCheckpoint;
use postern_proto::audit::witness::{LogFault, Succession, succeeds};
use postern_proto::authority::{Answer, Refusal, Request};
use postern_proto::id::TreeHash;
use postern_proto::statement;
use postern_runtime::authority::{AuthorityClient, AuthorityError};
use postern_runtime::home::layout;
use postern_runtime::membership::Membership;
use tracing::{debug, error, info, warn};

use super::code;
use super::shared::Shared;
use crate::code::Code;

/// What this node has seen of the log.
#[derive(Debug, Default)]
pub struct Witness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Verified. Of the project of now, or of one before it.
    known: Option<AuditCheckpoint>,
    fault: Option<LogFault>,
}

/// A checkpoint as the authority pushes it.
pub struct Pushed {
    pub statement: Vec<u8>,
    pub since: u64,
    pub proof: Vec<TreeHash>,
}

impl Witness {
    /// Why the log of now is not believed.
    #[must_use]
    pub fn fault(&self) -> Option<LogFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fault
    }

    fn known(&self) -> Option<AuditCheckpoint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known
    }

    fn set(&self, known: AuditCheckpoint) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State { known: Some(known), fault: None };
    }

    /// True where it is news.
    fn set_fault(&self, fault: LogFault) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fault.replace(fault).is_none()
    }
}

/// The code of a fault.
#[must_use]
pub const fn code_of(fault: &LogFault) -> Code {
    match fault {
        LogFault::Shrank { .. } => code::AUDIT_SHRANK,
        LogFault::Forked { .. } => code::AUDIT_FORKED,
    }
}

/// Judges a checkpoint that the authority told, and remembers it where it has all that is remembered.
///
/// # Errors
/// What ended the session.
pub async fn take(
    shared: &Arc<Shared>,
    membership: &Membership,
    client: &AuthorityClient,
    pushed: Pushed,
) -> Result<(), AuthorityError> {
    let (history, project) = (membership.history(), membership.project());
    let new = match statement::verify::<AuditCheckpoint>(history, project, &pushed.statement) {
        Ok(new) => new,
        Err(error) => {
            warn!(%error, "ignored a checkpoint of the audit log");
            return Ok(());
        }
    };
    let Some(known) = shared.witness.known().filter(|known| known.project == project).or_else(|| load(shared, membership)) else {
        remember(shared, new, &pushed.statement);
        return Ok(());
    };
    let proof = (pushed.since == known.size).then_some(pushed.proof.as_slice());
    let judged = match succeeds(&new, &known, proof) {
        // What was pushed is a proof from another size; or a proof that somebody else may give right.
        Ok(Succession::Unproven) => {
            let Some(proof) = ask(client, &known, &new).await? else { return Ok(()) };
            succeeds(&new, &known, Some(&proof))
        }
        judged => judged,
    };
    match judged {
        Ok(Succession::Same) => shared.witness.set(known),
        Ok(_) => remember(shared, new, &pushed.statement),
        Err(fault) => {
            // Once for each time that it begins; `status` says it for as long as it lasts.
            if shared.witness.set_fault(fault) {
                error!(code = code_of(&fault).as_str(), %fault, "the authority's audit log was changed");
            }
            shared.changed();
        }
    }
    Ok(())
}

/// Asks for the proof that the log only grew; none where the authority cannot give it now. One that gives none otherwise has none.
async fn ask(
    client: &AuthorityClient,
    known: &AuditCheckpoint,
    new: &AuditCheckpoint,
) -> Result<Option<Vec<TreeHash>>, AuthorityError> {
    match client.call(Request::AuditConsistency { from: known.size, to: new.size }).await {
        Ok(Answer::AuditProof { hashes }) => Ok(Some(hashes)),
        Ok(_) => Ok(Some(Vec::new())),
        Err(AuthorityError::Refused(Refusal::Busy { .. } | Refusal::Internal, _)) => Ok(None),
        Err(AuthorityError::Refused(refusal, _)) => {
            debug!(%refusal, "the authority gives no proof that its audit log only grew");
            Ok(Some(Vec::new()))
        }
        Err(error) => Err(error),
    }
}

fn remember(shared: &Shared, checkpoint: AuditCheckpoint, signed: &[u8]) {
    if shared.witness.fault().is_some() {
        info!(rows = checkpoint.size, "the authority's audit log has all that was seen of it again");
    }
    if let Err(error) = shared.node_home.dir().write(layout::node::AUDIT, signed) {
        warn!(%error, "the checkpoint of the audit log was not stored");
    }
    shared.witness.set(checkpoint);
    shared.changed();
}

/// What this node remembered when it last ran.
fn load(shared: &Shared, membership: &Membership) -> Option<AuditCheckpoint> {
    let stored = match shared.node_home.audit_checkpoint() {
        Ok(stored) => stored?,
        Err(error) => {
            warn!(%error, "the checkpoint of the audit log was not read");
            return None;
        }
    };
    // Verified when it was stored; by a key that may have been replaced since. Of another project: this one is new to the node.
    statement::verify_past::<AuditCheckpoint>(membership.history(), membership.project(), &stored).ok()
}
