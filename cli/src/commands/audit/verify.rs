//! `audit verify`: reads the whole log, and compares it with its hashes and with everything that was signed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use postern_proto::audit::check::{BadLog, Checker};
use postern_proto::audit::merkle::verify_inclusion;
use postern_proto::audit::{AuditCheckpoint, NO_ROW};
use postern_proto::authority::{Answer, Request};
use postern_proto::id::TreeHash;
use postern_proto::statement;
use postern_runtime::membership::Membership;
use serde::Serialize;

use super::{checkpoint, log, proof};
use crate::authority::{Session, member, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compare with this checkpoint too: a file of audit checkpoint or audit prove
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Check the proof of one row, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "checkpoint")]
    proof: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Document {
    ok: bool,
    rows: u64,
    /// How many rows stand in a signed checkpoint; the rest is signed within 10 s.
    signed_rows: u64,
    root: String,
    checkpoints: usize,
    /// Checkpoints that others kept, with which the log was compared.
    witnesses: Vec<String>,
}

/// Who has a checkpoint: for what a person is told.
struct Witness {
    name: String,
    checkpoint: AuditCheckpoint,
}

pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    if let Some(file) = &args.proof {
        let (_, membership) = member(&context.home()?)?.ok_or_else(CliError::no_project)?;
        return proof::check(context, file, &membership);
    }
    let session = Session::open(context)?;
    let mut witnesses = Vec::new();
    for file in &args.checkpoint {
        let checkpoint = checkpoint::read(context, file, &session.membership)?.checkpoint;
        witnesses.push(Witness { name: file.display().to_string(), checkpoint });
    }
    witnesses.extend(remembered(context, &session.membership)?);
    // The checkpoints before the rows: what is signed now is there then.
    let signed = signed(context, &session)?;
    let mut by_size: BTreeMap<u64, Vec<(Option<&str>, &AuditCheckpoint)>> = BTreeMap::new();
    for checkpoint in &signed {
        by_size.entry(checkpoint.size).or_default().push((None, checkpoint));
    }
    for witness in &witnesses {
        by_size.entry(witness.checkpoint.size).or_default().push((Some(&witness.name), &witness.checkpoint));
    }
    let mut checker = Checker::default();
    let compare = |checker: &mut Checker| -> Result<(), CliError> {
        for (witness, checkpoint) in by_size.get(&checker.size()).into_iter().flatten() {
            checker.checkpoint(checkpoint).map_err(|bad| changed(&bad, *witness))?;
        }
        Ok(())
    };
    let mut last = NO_ROW;
    log::rows(context, &session, |row| {
        last = row.hash;
        checker.row(&row).map_err(|bad| changed(&bad, None))?;
        compare(&mut checker)
    })?;
    if let Some((witness, checkpoint)) = by_size.range(checker.size() + 1..).flat_map(|(_, found)| found).next() {
        return Err(changed(&checker.cut(checkpoint), *witness));
    }
    tree(context, &session, &checker, &last)?;
    let document = Versioned::new(Document {
        ok: true,
        rows: checker.size(),
        signed_rows: checker.confirmed(),
        root: checker.root().to_string(),
        checkpoints: signed.len(),
        witnesses: witnesses.into_iter().map(|witness| witness.name).collect(),
    });
    context.output().show(&document, || {
        fields(&[
            ("audit", "every row is as it was written".to_owned()),
            ("rows", document.rows.to_string()),
            ("signed", format!("{} of them, by {} checkpoints", document.signed_rows, document.checkpoints)),
            ("root", document.root.clone()),
            ("compared with", document.witnesses.join(", ")),
        ])
    })
}

/// The checkpoints that the authority keeps, verified. The newest must be signed with the key of now; it confirms the others.
fn signed(context: &Context, session: &Session) -> Result<Vec<AuditCheckpoint>, CliError> {
    let found = log::checkpoints(context, session, 0, true)?;
    if let Some(newest) = found.last() {
        statement::verify::<AuditCheckpoint>(session.membership.history(), session.membership.project(), &newest.statement)
            .map_err(|error| CliError::from_error(code::AUDIT_CHECKPOINT, &error))?;
    }
    Ok(found.into_iter().map(|verified| verified.checkpoint).collect())
}

/// That the hashes from which the authority makes its proofs and checkpoints are those of the rows. The proof of the last row has the roots of
/// all complete subtrees before it, which is what further rows grow from.
fn tree(context: &Context, session: &Session, checker: &Checker, last: &TreeHash) -> Result<(), CliError> {
    let size = checker.size();
    let Some(index) = size.checked_sub(1) else { return Ok(()) };
    let Answer::AuditProof { hashes } = log::ask(context, session, &Request::AuditInclusion { seq: size, size })? else {
        return Err(unexpected());
    };
    if verify_inclusion(last, index, size, &checker.root(), &hashes) {
        return Ok(());
    }
    let what = "the audit log is not as it was written: the authority's tree of hashes is not that of the rows";
    Err(CliError::new(code::AUDIT_CHANGED, what)
        .why("every row is as it was written, but its hashes prove nothing, and no further row is signed")
        .try_this("restore the authority's database from a back-up; somebody who can write its file did this"))
}

/// What the nodes of this home have seen of the same project's log.
fn remembered(context: &Context, membership: &Membership) -> Result<Vec<Witness>, CliError> {
    let mut found = Vec::new();
    for node in context.home()?.nodes()? {
        let Some(signed) = node.audit_checkpoint()? else { continue };
        // Of another project that this home belongs to, or once did.
        let Ok(verified) = log::verify_of(membership, &signed) else { continue };
        found.push(Witness { name: format!("node {}", node.name()), checkpoint: verified.checkpoint });
    }
    Ok(found)
}

fn changed(bad: &BadLog, witness: Option<&str>) -> CliError {
    let error = CliError::new(code::AUDIT_CHANGED, format!("the audit log is not as it was written: {bad}"))
        .why(format!("the first bad row is {}", bad.row()));
    let error = match witness {
        Some(witness) => error.why(format!("the checkpoint is the one that is kept by {witness}")),
        None => error,
    };
    error.try_this("compare with a back-up of the authority's database; somebody who can write its file did this")
}
