//! Reading the log from the authority, page by page.

use std::time::Duration;

use postern_proto::audit::{AuditCheckpoint, AuditRow};
use postern_proto::authority::{Answer, Request};
use postern_proto::statement;

use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::{CliError, Exit};

/// How long the authority may go on being busy. A long log is read faster than it lets one member ask.
const PATIENCE: u32 = 60;

/// Asks, and asks again where the authority says that it is busy.
pub fn ask(context: &Context, session: &Session, request: &Request) -> Result<Answer, CliError> {
    let mut tries = 0;
    loop {
        match session.call(context, request.clone()) {
            Err(error) if error.exit == Exit::TryLater && tries < PATIENCE => {
                tries += 1;
                context.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await })?;
            }
            answered => return answered,
        }
    }
}

/// Gives every row to `take`, in the order in which the authority keeps them.
pub fn rows(
    context: &Context,
    session: &Session,
    mut take: impl FnMut(AuditRow) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut after = 0;
    loop {
        let Answer::Audit { rows, more } = ask(context, session, &Request::ListAudit { after })? else {
            return Err(unexpected());
        };
        let Some(last) = rows.last().map(|row| row.seq) else { return Ok(()) };
        // An authority that turns no page must not be asked for ever.
        let turned = last > after;
        after = last;
        for row in rows {
            take(row)?;
        }
        if !more || !turned {
            return Ok(());
        }
    }
}

/// A checkpoint whose signature was verified.
#[derive(Debug, Clone)]
pub struct Verified {
    pub checkpoint: AuditCheckpoint,
    pub statement: Vec<u8>,
}

/// The signed checkpoints of more than `after` rows, the smallest first, verified; `all`, or those that one answer holds.
///
/// # Errors
/// Names the first that was changed, or that stands where another one should.
pub fn checkpoints(context: &Context, session: &Session, after: u64, all: bool) -> Result<Vec<Verified>, CliError> {
    let mut found: Vec<Verified> = Vec::new();
    let mut size = after;
    loop {
        let Answer::AuditCheckpoints { statements, more } = ask(context, session, &Request::AuditCheckpoints { after: size })?
        else {
            return Err(unexpected());
        };
        let last_page = statements.is_empty();
        for signed in statements {
            let place = format!("it is the checkpoint that the authority keeps behind the one of {size} rows");
            let verified = verify(session, &signed).map_err(|error| error.why(&place))?;
            if verified.checkpoint.size <= size {
                let what = format!(
                    "the checkpoints are not as they were written: one of {} rows stands where one of more than {size} should",
                    verified.checkpoint.size
                );
                return Err(CliError::new(code::AUDIT_CHANGED, what).why(place));
            }
            size = verified.checkpoint.size;
            found.push(verified);
        }
        if !all || !more || last_page {
            return Ok(found);
        }
    }
}

/// The checkpoint in `signed`, if this project's authority signed it, with whichever of its keys.
pub fn verify(session: &Session, signed: &[u8]) -> Result<Verified, CliError> {
    verify_of(&session.membership, signed)
}

/// As [`verify`], for a membership without a session.
pub fn verify_of(membership: &postern_runtime::membership::Membership, signed: &[u8]) -> Result<Verified, CliError> {
    let checkpoint = statement::verify_past::<AuditCheckpoint>(membership.history(), membership.project(), signed)
        .map_err(|error| CliError::from_error(code::AUDIT_CHECKPOINT, &error))?;
    Ok(Verified { checkpoint, statement: signed.to_vec() })
}
