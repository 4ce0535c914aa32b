//! Checkpoints as files: what somebody keeps who wants to see later that the log still begins with the same rows.

use std::time::Duration;

use postern_proto::authority::Answer;
use postern_runtime::membership::Membership;
use serde::{Deserialize, Serialize};

use super::log::{Verified, verify_of};
use crate::authority::Session;
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields};
use crate::source::text_file;

/// What to do about a file that is something else.
const GIVE: &str = "give a file that `postern audit checkpoint` or `postern audit prove` printed";

/// The authority signs every 10 s where there is something to sign, and says so when a session begins.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longest file of a checkpoint or a proof: a row of 20 KiB, with room for escapes.
pub const MAX_FILE: u64 = 128 * 1024;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckpointDocument {
    pub project: String,
    pub size: u64,
    pub root: String,
    pub time: String,
    /// The signed statement, which alone counts.
    pub statement: String,
}

impl CheckpointDocument {
    pub fn of(verified: &Verified) -> Self {
        let checkpoint = &verified.checkpoint;
        Self {
            project: checkpoint.project.to_string(),
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
            time: checkpoint.time.to_string(),
            statement: hex::encode(&verified.statement),
        }
    }

    /// What the statement in the document says, if it is the authority's.
    pub fn verify(&self, membership: &Membership) -> Result<Verified, CliError> {
        let signed = hex::decode(self.statement.trim()).map_err(|_| {
            CliError::new(code::AUDIT_CHECKPOINT, "the statement of the checkpoint is not hexadecimal").try_this(GIVE)
        })?;
        verify_of(membership, &signed)
    }
}

/// Reads a file that `audit checkpoint` printed, or the proof of a row, which has a checkpoint in it.
pub fn read(context: &Context, file: &std::path::Path, membership: &Membership) -> Result<Verified, CliError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum File {
        Checkpoint(CheckpointDocument),
        Proof { checkpoint: CheckpointDocument },
    }
    let text = text_file(context, file, MAX_FILE)?;
    let (File::Checkpoint(document) | File::Proof { checkpoint: document }) = serde_json::from_str(&text).map_err(|error| {
        CliError::new(code::AUDIT_CHECKPOINT, format!("{} holds no checkpoint", file.display())).why(error).try_this(GIVE)
    })?;
    document.verify(membership)
}

pub fn run(context: &Context) -> Result<(), CliError> {
    let (session, mut pushed) = Session::open_listening(context)?;
    let newest = context.block_on(async {
        tokio::time::timeout(PATIENCE, async {
            while let Some(push) = pushed.recv().await {
                if let Answer::AuditCheckpoint { statement, .. } = push {
                    return Some(statement);
                }
            }
            None
        })
        .await
    })?;
    let signed = newest.ok().flatten().ok_or_else(|| {
        CliError::new(code::AUTHORITY_TIMEOUT, "the authority did not tell a checkpoint").try_this("try again in a minute")
    })?;
    let document = Versioned::new(CheckpointDocument::of(&super::log::verify(&session, &signed)?));
    context.output().show(&document, || {
        fields(&[
            ("rows", document.size.to_string()),
            ("root", document.root.clone()),
            ("time", document.time.clone()),
            ("statement", document.statement.clone()),
        ])
    })
}
