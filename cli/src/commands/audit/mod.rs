//! `audit`: what was done at the authority and by whom, and the proof that nobody changed it since.

mod checkpoint;
mod log;
mod proof;
mod reconcile;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;
use postern_authority::store::Action;
use postern_proto::audit::AuditRow;
use postern_proto::id::Identifier;
use postern_proto::time::Timestamp;
use serde::Serialize;

use super::project_member;
use crate::authority::Session;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, inert, table};
use crate::when::When;

/// See what was done at the authority, and prove that nobody changed it since
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the acts, the oldest first
    #[command(after_help = "\
Every act at the authority is a row, and every refusal (of one kind and member, one a minute).

Examples:
  postern audit list --since 24h
  postern audit list --actor saas --action issue-ticket
  postern audit list --result refused --limit 20")]
    List(ListArgs),
    /// Check every row against its hash, the row before it, and what was signed
    #[command(after_help = "\
Names the first row that is not as it was written. The log is also compared with the
checkpoints that the nodes of this home remember, and with those of --checkpoint: rows that were
cut off at the end are found by them alone. With --proof nobody is asked: the file is checked by
itself.

Examples:
  postern audit verify
  postern audit verify --checkpoint checkpoint.json
  postern audit verify --proof row-17.json")]
    Verify(verify::Args),
    /// Prove that a row is in the log, for somebody who has a checkpoint
    #[command(after_help = "\
Prints the row, a signed checkpoint, and the hashes between them. `postern audit verify --proof
FILE` checks it in any home of the project; docs/protocol/audit.md says how another program does.

Example:
  postern audit prove 17 > row-17.json")]
    Prove {
        /// The row's number, as audit list prints it
        #[arg(value_name = "N")]
        row: u64,
    },
    /// Print the newest signed checkpoint, for somebody to keep
    #[command(after_help = "\
Any member may ask for it. Kept elsewhere, it shows later whether the log still begins with the
same rows.

Example:
  postern audit checkpoint > checkpoint.json")]
    Checkpoint,
    /// Compare the stream log of the other side with the one of this home
    #[command(after_help = "\
Every node writes down each stream that it carried or refused, in nodes/NAME/streams.jsonl of its
home; both nodes of a stream give it the same id. Tells which streams only one side has, and what
differs. The exit code is 0 only if nothing does.

Example:
  postern audit reconcile streams-of-vendor.jsonl")]
    Reconcile(reconcile::Args),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only acts from then on: a time like 2026-11-22T08:00:00Z, or how long ago, like 24h
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Only acts before then
    #[arg(long, value_name = "WHEN")]
    until: Option<When>,
    /// Only what this member did: its identifier or name, or `authority` for the authority's own process
    #[arg(long, value_name = "MEMBER")]
    actor: Option<String>,
    /// Only this act, such as issue-ticket or redeem-ticket
    #[arg(long, value_name = "ACTION", value_parser = Action::ALL.map(Action::as_str), hide_possible_values = true)]
    action: Option<String>,
    /// Only what was done to this: a ticket, an identifier, a relay name
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only what was done (ok), or refused
    #[arg(long, value_name = "RESULT", value_parser = ["ok", "refused"])]
    result: Option<String>,
    /// Only the newest so many of these
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Reconcile(args) => return reconcile::run(context, &args),
        Command::List(args) => list(context, &args),
        Command::Verify(args) => verify::run(context, &args),
        Command::Prove { row } => proof::run(context, row),
        Command::Checkpoint => checkpoint::run(context),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// A row as it is printed.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub seq: u64,
    pub at: String,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub result: String,
    pub reason: String,
    pub before: Option<String>,
    pub after: Option<String>,
    pub previous: String,
    pub hash: String,
}

impl From<AuditRow> for Row {
    fn from(row: AuditRow) -> Self {
        Self {
            seq: row.seq,
            at: row.at.to_string(),
            actor: row.actor,
            action: row.action,
            subject: row.subject,
            result: row.result,
            reason: row.reason,
            before: row.before,
            after: row.after,
            previous: row.previous.to_string(),
            hash: row.hash.to_string(),
        }
    }
}

fn list(context: &Context, args: &ListArgs) -> Result<(), CliError> {
    let now = context.now();
    let since = args.since.map(|when| when.at(now));
    let until = args.until.map(|when| when.at(now));
    let session = Session::open(context)?;
    let actor = args.actor.as_deref().map(|text| actor(context, &session, text)).transpose()?;
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    let wanted = |row: &AuditRow| {
        since.is_none_or(|since: Timestamp| row.at >= since)
            && until.is_none_or(|until| row.at < until)
            && is(&actor, &row.actor)
            && is(&args.action, &row.action)
            && is(&args.subject, &row.subject)
            && is(&args.result, &row.result)
    };
    let mut found = std::collections::VecDeque::new();
    log::rows(context, &session, |row| {
        if wanted(&row) {
            found.push_back(row);
            if args.limit.is_some_and(|limit| found.len() > limit) {
                found.pop_front();
            }
        }
        Ok(())
    })?;
    let documents: Vec<_> = found.into_iter().map(|row| Versioned::new(Row::from(row))).collect();
    context.output().list(&documents, || {
        let row = |row: &Versioned<Row>| {
            vec![
                row.seq.to_string(),
                row.at.clone(),
                short(&row.actor),
                cell(&row.action),
                short(&row.subject),
                cell(&row.result),
                cell(&row.reason),
            ]
        };
        let headings = ["ROW", "AT", "ACTOR", "ACTION", "SUBJECT", "RESULT", "REASON"];
        table(&headings, &documents.iter().map(row).collect::<Vec<_>>())
    })
}

/// What rows call the actor that `text` names: the identifier of a member, or `authority`.
fn actor(context: &Context, session: &Session, text: &str) -> Result<String, CliError> {
    if text == "authority" || text.parse::<Identifier>().is_ok() {
        return Ok(text.to_owned());
    }
    Ok(project_member::find(context, session, text)?.identifier.to_string())
}

/// Text of a row in one line, whatever somebody wrote into the database.
fn cell(text: &str) -> String {
    inert(text).replace('\n', "\u{fffd}")
}

/// As [`cell`]; identifiers, keys and ticket ids as far as people compare them.
fn short(text: &str) -> String {
    let digits = text.strip_prefix('P').unwrap_or(text);
    let is_id = matches!(digits.len(), 32 | 64) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { format!("{}…", &text[..text.len() - digits.len() + 12]) } else { cell(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_one_line() {
        assert_eq!(cell("a\nb\x1b[0m"), "a\u{fffd}b\u{fffd}[0m");
        assert_eq!(short(&format!("P{}", "ab".repeat(32))), "Pabababababab…");
        assert_eq!(short(&"ab".repeat(16)), "abababababab…");
        assert_eq!(short("acme-relay"), "acme-relay");
    }
}
