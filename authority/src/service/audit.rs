//! The audit log as members see it: its rows for administrators; its checkpoints, and the proofs that it only grows, for everybody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::audit::{AuditCheckpoint, merkle};
use postern_proto::authority::{Answer, Refusal};
use postern_proto::id::TreeHash;
use postern_proto::statement;
use tokio_util::sync::CancellationToken;

use super::tickets::no_project;
use super::{Caller, Service, ServiceError, calling, kept, page_of};
use crate::ActError;
use crate::failpoint;
use crate::store::{StoreError, audit_log};

/// A checkpoint is signed so long after a row that none covers, or earlier where there are [`CHECKPOINT_ROWS`].
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
const CHECKPOINT_ROWS: u64 = 1_000;

/// Rows and checkpoints that are read at once for one answer: more than fit one, of the common sizes.
const PAGE_ROWS: u32 = 2_048;

/// A signed checkpoint, and the proof that the log of the one before it is its beginning.
#[derive(Debug)]
pub struct SignedCheckpoint {
    pub size: u64,
    pub statement: Vec<u8>,
    /// The size of the checkpoint before; its own, where none is known to be before it.
    pub since: u64,
    pub proof: Vec<TreeHash>,
}

impl SignedCheckpoint {
    /// As it is pushed.
    #[must_use]
    pub fn to_answer(&self) -> Answer {
        Answer::AuditCheckpoint { statement: self.statement.clone(), since: self.since, proof: self.proof.clone() }
    }
}

impl Service {
    pub(super) async fn list_audit(&self, caller: &Caller, after: u64) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        crate::rules::administrators_only(&caller, "read the audit")?;
        let (rows, more) = page_of(audit_log::list(&mut read, after, PAGE_ROWS).await?, PAGE_ROWS);
        Ok(Answer::Audit { rows, more })
    }

    pub(super) async fn list_checkpoints(&self, caller: &Caller, after: u64) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        crate::rules::administrators_only(&caller, "read the audit")?;
        let found = audit_log::checkpoints(&mut read, after, PAGE_ROWS).await?;
        let (statements, more) = page_of(found.into_iter().map(Into::into).collect(), PAGE_ROWS);
        Ok(Answer::AuditCheckpoints { statements, more })
    }

    /// Hashes tell nothing of the rows, each of which holds the hash of another one: any member may see that the log only grows.
    pub(super) async fn audit_consistency(&self, caller: &Caller, from: u64, to: u64) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        calling(&mut read, caller).await?;
        check_size(audit_log::size(&mut read).await?, to)?;
        let hashes = audit_log::proof(&mut read, &merkle::consistency(from, to)).await?;
        Ok(Answer::AuditProof { hashes })
    }

    pub(super) async fn audit_inclusion(&self, caller: &Caller, seq: u64, size: u64) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        crate::rules::administrators_only(&caller, "read the audit")?;
        check_size(audit_log::size(&mut read).await?, size)?;
        if seq == 0 || seq > size {
            return Err(Refusal::NotFound { what: format!("audit row {seq} in the first {size}") }.into());
        }
        let hashes = audit_log::proof(&mut read, &merkle::inclusion(seq - 1, size)).await?;
        Ok(Answer::AuditProof { hashes })
    }

    /// The newest checkpoint; the receiver is told of every further one.
    #[must_use]
    pub(crate) fn checkpoints(&self) -> tokio::sync::watch::Receiver<Option<Arc<SignedCheckpoint>>> {
        self.0.checkpoint.subscribe()
    }

    /// Signs a checkpoint of the log as it is, if it has rows that none covers, and tells every session. A log that is not what was signed
    /// grown by its rows is not signed, and said to be so once.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for such a log; what the database reports.
    pub(crate) async fn checkpoint(&self) -> Result<(), ServiceError> {
        let signed = self.sign_log().await;
        match &signed {
            Ok(()) => self.0.unsigned.store(false, Ordering::Relaxed),
            Err(error) if is_damaged(error) && !self.0.unsigned.swap(true, Ordering::Relaxed) => {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "the audit log is not signed any more: see `postern audit verify`"
                );
            }
            Err(_) => {}
        }
        signed
    }

    async fn sign_log(&self) -> Result<(), ServiceError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let newest = audit_log::newest_checkpoint(&mut write).await?;
        let size = audit_log::size(&mut write).await?;
        let known = newest.as_ref().map_or(0, |(known, _)| *known);
        let publish_known = |statement| {
            self.publish_checkpoint(SignedCheckpoint { size: known, statement, since: known, proof: Vec::new() });
        };
        if let Some((known, statement)) = &newest
            // Fewer rows than were signed: whoever has seen that is to go on seeing it.
            && *known >= size
        {
            publish_known(statement.clone());
            return Ok(());
        }
        let project = kept::load(&mut write).await?.ok_or_else(no_project)?;
        let mut last = None;
        if let Some((_, statement)) = newest {
            // By whichever key: the authority's identity may have changed since.
            let verified = statement::verify_past::<AuditCheckpoint>(self.0.keys.identity.history(), project.id, &statement);
            let Some(checkpoint) = verified.ok().filter(|checkpoint| checkpoint.size == known) else {
                let what = format!("the checkpoint of {known} rows of the audit log is not the one that was signed");
                return Err(StoreError::Damaged { what }.into());
            };
            last = Some(checkpoint.root);
            // Whoever connects is told of it also where no other can be signed.
            publish_known(statement);
        }
        let root = audit_log::grown_root(&mut write, (known, last), size).await?;
        let proof = audit_log::proof(&mut write, &merkle::consistency(known, size)).await?;
        let checkpoint = AuditCheckpoint { project: project.id, size, root, time: now };
        let statement = statement::sign(&self.0.keys.identity, &checkpoint)?;
        write.insert_checkpoint(size, now, &statement).await?;
        failpoint::hit("checkpoint-signed");
        // Nobody is told of what a crash could take back.
        write.commit().await?;
        self.publish_checkpoint(SignedCheckpoint { size, statement, since: known, proof });
        Ok(())
    }

    fn publish_checkpoint(&self, checkpoint: SignedCheckpoint) {
        self.0.checkpoint.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| checkpoint.size > known.size);
            if newer {
                *known = Some(Arc::new(checkpoint));
            }
            newer
        });
    }

    /// Signs checkpoints until `stop`, and a last one then.
    pub(crate) async fn keep_checkpoints(&self, stop: CancellationToken) {
        let mut audited = self.0.store.audited();
        loop {
            let covered = self.0.checkpoint.borrow().as_ref().map_or(0, |known| known.size);
            let due = async {
                // The senders live in the store, as long as `self`.
                let _ = audited.wait_for(|rows| *rows > covered).await;
                let many = audited.wait_for(|rows| *rows >= covered + CHECKPOINT_ROWS);
                let _ = tokio::time::timeout(CHECKPOINT_EVERY, many).await;
            };
            let stopped = stop.run_until_cancelled(due).await.is_none();
            if let Err(error) = self.checkpoint().await {
                if !is_damaged(&error) && self.says(&error) {
                    tracing::error!(error = &error as &dyn std::error::Error, "the audit log was not signed");
                }
                // The database says no to everything; not as fast as it can be asked.
                let _ = stop.run_until_cancelled(tokio::time::sleep(CHECKPOINT_EVERY)).await;
            }
            if stopped {
                return;
            }
        }
    }
}

/// Whether it is of a database that somebody changed, or that the disk did: then the log stays as it is, for `audit verify` to be read.
pub(crate) const fn is_damaged(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Store(StoreError::Damaged { .. }))
}

fn check_size(rows: u64, size: u64) -> Result<(), Refusal> {
    if size > rows { Err(Refusal::NotFound { what: format!("an audit log of {size} rows; it has {rows}") }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
