//! The proof that a row is in the log: the row, a signed checkpoint, and the hashes between them.

use std::time::Duration;

use postern_proto::audit::merkle::verify_inclusion;
use postern_proto::audit::{AuditRow, NO_ROW};
use postern_proto::authority::{Answer, Request};
use postern_proto::id::TreeHash;
use postern_proto::time::parse_timestamp;
use postern_runtime::membership::Membership;
use serde::{Deserialize, Serialize};

use super::checkpoint::{CheckpointDocument, MAX_FILE};
use super::{Row, log};
use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields};
use crate::source::text_file;

/// A new row is signed after 10 s; it is asked for so often, and so many times.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOKS: u32 = 30;

#[derive(Debug, Serialize)]
struct Document {
    row: Row,
    checkpoint: CheckpointDocument,
    /// From the row up to the root.
    proof: Vec<TreeHash>,
}

/// What is read of a proof: as a document, but by whoever wrote the file.
#[derive(Debug, Deserialize)]
struct Given {
    row: GivenRow,
    checkpoint: CheckpointDocument,
    proof: Vec<TreeHash>,
}

#[derive(Debug, Deserialize)]
struct GivenRow {
    seq: u64,
    at: String,
    actor: String,
    action: String,
    subject: String,
    result: String,
    reason: String,
    before: Option<String>,
    after: Option<String>,
    previous: TreeHash,
}

pub fn run(context: &Context, seq: u64) -> Result<(), CliError> {
    let session = Session::open(context)?;
    let row = find(context, &session, seq)?;
    let checkpoint = covering(context, &session, seq)?;
    let size = checkpoint.checkpoint.size;
    let Answer::AuditProof { hashes } = log::ask(context, &session, &Request::AuditInclusion { seq, size })? else {
        return Err(unexpected());
    };
    // What does not prove it is not printed: the log was changed, and `verify` says where.
    if !verify_inclusion(&row.compute_hash(), seq - 1, size, &checkpoint.checkpoint.root, &hashes) {
        return Err(CliError::new(code::AUDIT_CHANGED, format!("row {seq} is not what was signed: the log was changed"))
            .try_this("see which row is the first that was changed: postern audit verify"));
    }
    let document = Versioned::new(Document { row: row.into(), checkpoint: CheckpointDocument::of(&checkpoint), proof: hashes });
    context.output().show(&document, || plain(&document.row, &document.checkpoint))
}

fn plain(row: &Row, checkpoint: &CheckpointDocument) -> String {
    let signed = format!("{} rows at {}, root {}", checkpoint.size, checkpoint.time, checkpoint.root);
    let cell = |text: &str| super::cell(text);
    fields(&[
        ("row", row.seq.to_string()),
        ("at", row.at.clone()),
        ("actor", cell(&row.actor)),
        ("action", cell(&row.action)),
        ("subject", cell(&row.subject)),
        ("result", cell(&row.result)),
        ("reason", cell(&row.reason)),
        ("before", cell(row.before.as_deref().unwrap_or_default())),
        ("after", cell(row.after.as_deref().unwrap_or_default())),
        ("is in", signed),
    ])
}

fn find(context: &Context, session: &Session, seq: u64) -> Result<AuditRow, CliError> {
    let missing = || CliError::not_found("audit row", seq);
    let after = seq.checked_sub(1).ok_or_else(missing)?;
    match log::ask(context, session, &Request::ListAudit { after })? {
        Answer::Audit { rows, .. } => rows.into_iter().next().filter(|row| row.seq == seq).ok_or_else(missing),
        _ => Err(unexpected()),
    }
}

/// The first checkpoint that has row `seq`, which may have to be signed yet.
fn covering(context: &Context, session: &Session, seq: u64) -> Result<log::Verified, CliError> {
    for _ in 0..LOOKS {
        if let Some(first) = log::checkpoints(context, session, seq - 1, false)?.into_iter().next() {
            return Ok(first);
        }
        context.block_on(async { tokio::time::sleep(LOOK_AGAIN).await })?;
    }
    Err(CliError::new(code::AUDIT_NOT_SIGNED, format!("no checkpoint has row {seq} yet")).try_this("try again in a minute"))
}

/// Checks the proof in `file` by itself; `membership` tells who the authority is.
pub fn check(context: &Context, file: &std::path::Path, membership: &Membership) -> Result<(), CliError> {
    let bad =
        |what: String| CliError::new(code::AUDIT_PROOF, what).try_this("have it printed again: postern audit prove N > FILE");
    let text = text_file(context, file, MAX_FILE)?;
    let given: Given =
        serde_json::from_str(&text).map_err(|error| bad(format!("{} is no proof of a row", file.display())).why(error))?;
    let checkpoint = given.checkpoint.verify(membership)?;
    let at = parse_timestamp(&given.row.at).ok_or_else(|| bad(format!("the row of {} has no time", file.display())))?;
    let GivenRow { seq, at: _, actor, action, subject, result, reason, before, after, previous } = given.row;
    let mut row = AuditRow { seq, at, actor, action, subject, result, reason, before, after, previous, hash: NO_ROW };
    row.hash = row.compute_hash();
    let (size, root) = (checkpoint.checkpoint.size, checkpoint.checkpoint.root);
    let index = seq.checked_sub(1).ok_or_else(|| bad("there is no row 0".to_owned()))?;
    if !verify_inclusion(&row.hash, index, size, &root, &given.proof) {
        return Err(bad(format!("row {seq} as it stands in {} is not in the log of the checkpoint", file.display()))
            .why("the row, the proof or the checkpoint is another one than that which was printed"));
    }
    #[derive(Debug, Serialize)]
    struct Shown {
        proven: bool,
        row: Row,
        checkpoint: CheckpointDocument,
    }
    let document = Versioned::new(Shown { proven: true, row: row.into(), checkpoint: CheckpointDocument::of(&checkpoint) });
    context.output().show(&document, || plain(&document.row, &document.checkpoint))
}
