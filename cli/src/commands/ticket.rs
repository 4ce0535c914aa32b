//! `ticket`: the tickets that this member may see, and their revocation.

use clap::Subcommand;
use postern_proto::authority::{Answer, Attributes, Bound, RelayPermission, Request, Role, TicketRow};
use postern_proto::id::{Identifier, TicketId};
use serde::Serialize;

use super::project_member::role;
use crate::args::Yes;
use crate::authority::{Session, unexpected};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields, table};
use crate::prompt::confirm;

/// Look at the tickets that were made, and revoke them
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List tickets; never their secrets
    List,
    /// Show a ticket and who used it
    Show {
        /// The ticket's id, as ticket list prints it
        id: TicketId,
    },
    /// Make a ticket useless; who joined with it stays a member
    Revoke {
        /// The ticket's id, as ticket list prints it
        id: TicketId,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Serialize)]
struct Document {
    id: TicketId,
    status: &'static str,
    issued_by: Identifier,
    issued_at: String,
    expires_at: String,
    uses: u32,
    usage_count: u32,
    attributes: Attributes,
    relays: Vec<String>,
    role: Role,
    used_by: Vec<Identifier>,
    /// When each of them did.
    used_at: Vec<String>,
    /// The identifier, or the name with `*` for all that begin so.
    #[serde(rename = "for")]
    bound: Option<String>,
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let session = Session::open(context)?;
    match command {
        Command::List => {
            let documents: Vec<_> = rows(context, &session)?.into_iter().map(|row| document(context, row)).collect();
            context.output().list(&documents, || {
                let row = |document: &Versioned<Document>| {
                    vec![
                        document.id.to_string(),
                        document.status.to_owned(),
                        format!("{}/{}", document.uses, document.usage_count),
                        document.expires_at.clone(),
                        role(&document.role),
                        attributes(&document.attributes),
                        document.relays.join(" "),
                    ]
                };
                let headings = ["ID", "STATUS", "USES", "EXPIRES", "ROLE", "ATTRIBUTES", "RELAYS"];
                table(&headings, &documents.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Show { id } => {
            let document = document(context, find(context, &session, id)?);
            context.output().show(&document, || {
                let uses = document.used_by.iter().zip(&document.used_at);
                let users: Vec<String> = uses.map(|(by, at)| format!("{by} at {at}")).collect();
                fields(&[
                    ("id", document.id.to_string()),
                    ("status", document.status.to_owned()),
                    ("issued by", document.issued_by.to_string()),
                    ("issued at", document.issued_at.clone()),
                    ("expires at", document.expires_at.clone()),
                    ("uses", format!("{} of {}", document.uses, document.usage_count)),
                    ("role", role(&document.role)),
                    ("attributes", attributes(&document.attributes)),
                    ("relays", document.relays.join(" ")),
                    ("for", document.bound.clone().unwrap_or_default()),
                    ("used by", users.join(", ")),
                ])
            })
        }
        Command::Revoke { id, yes } => {
            find(context, &session, id)?;
            confirm(context, &format!("Revoke the ticket {id}?"), yes.yes)?;
            match session.call(context, Request::RevokeTicket { ticket: id })? {
                Answer::Done => {
                    context.output().say(format_args!("revoked the ticket {id}"));
                    Ok(())
                }
                _ => Err(unexpected()),
            }
        }
    }
}

/// `k` for what is simply granted, else `k=v`.
pub fn attributes(attributes: &Attributes) -> String {
    let text = |(key, value): (&String, &String)| if value == "true" { key.clone() } else { format!("{key}={value}") };
    attributes.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// Relay permissions as `--relay` takes them.
pub fn relays(relays: &[RelayPermission]) -> Vec<String> {
    let text = |relay: &RelayPermission| match relay {
        RelayPermission::Any => "*".to_owned(),
        RelayPermission::Name(name) | RelayPermission::Shared(name) => name.to_string(),
    };
    relays.iter().map(text).collect()
}

fn rows(context: &Context, session: &Session) -> Result<Vec<TicketRow>, CliError> {
    let mut all: Vec<TicketRow> = Vec::new();
    loop {
        let after = all.last().map(|row| row.id);
        let Answer::Tickets { rows, more } = session.call(context, Request::ListTickets { after })? else {
            return Err(unexpected());
        };
        let none = rows.is_empty();
        all.extend(rows);
        if !more || none {
            return Ok(all);
        }
    }
}

fn find(context: &Context, session: &Session, id: TicketId) -> Result<TicketRow, CliError> {
    rows(context, session)?.into_iter().find(|row| row.id == id).ok_or_else(|| CliError::not_found("ticket", id))
}

fn document(context: &Context, row: TicketRow) -> Versioned<Document> {
    let status = if row.revoked {
        "revoked"
    } else if row.uses >= row.max_uses {
        "used-up"
    } else if row.expires_at <= context.now() {
        "expired"
    } else {
        "valid"
    };
    Versioned::new(Document {
        id: row.id,
        status,
        issued_by: row.issued_by,
        issued_at: row.issued_at.to_string(),
        expires_at: row.expires_at.to_string(),
        uses: row.uses,
        usage_count: row.max_uses,
        attributes: row.attributes,
        relays: relays(&row.relays),
        role: row.role,
        used_by: row.uses_by.iter().map(|used| used.by).collect(),
        used_at: row.uses_by.iter().map(|used| used.at.to_string()).collect(),
        bound: row.bound.map(|bound| match bound {
            Bound::Identity(identifier) => identifier.to_string(),
            Bound::Name(pattern) => pattern,
        }),
    })
}
