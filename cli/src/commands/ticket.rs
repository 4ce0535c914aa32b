//! `ticket`: the tickets that this member may see, and their revocation.

use std::path::Path;

use clap::Subcommand;
use postern_proto::authority::{Answer, Attributes, Bound, RelayPermission, Request, Role, TicketRow};
use postern_proto::id::{Identifier, TicketId};
use serde::Serialize;

use super::project_member::role;
use crate::args::Yes;
use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields, table};
use crate::prompt::confirm;
use crate::source;

/// Look at the tickets that were made, and revoke them
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List tickets; never their secrets
    List,
    /// Show a ticket and who used it
    Show {
        /// The ticket's id, as ticket list prints it, or 8 of its first characters or more, or its file
        id: String,
    },
    /// Make a ticket useless; who joined with it stays a member
    Revoke {
        /// The ticket's id, as ticket list prints it, or 8 of its first characters or more, or its file
        id: String,
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
    let command = match command {
        Command::Show { id } => Command::Show { id: of_file(context, id)? },
        Command::Revoke { id, yes } => Command::Revoke { id: of_file(context, id)?, yes },
        Command::List => Command::List,
    };
    match command {
        Command::List => {
            let documents: Vec<_> = rows(context, &session)?.into_iter().map(|row| document(context, row)).collect();
            context.output().list(&documents, || {
                let row = |document: &Versioned<Document>| {
                    vec![
                        document.id.to_string(),
                        document.status.to_owned(),
                        format!("{}/{}", document.uses, document.usage_count),
                        document.issued_at.clone(),
                        document.expires_at.clone(),
                        document.bound.clone().unwrap_or_else(|| "anybody".to_owned()),
                        role(&document.role),
                        attributes(&document.attributes),
                        document.relays.join(" "),
                    ]
                };
                let headings = ["ID", "STATUS", "USES", "ISSUED", "EXPIRES", "FOR", "ROLE", "ATTRIBUTES", "RELAYS"];
                table(&headings, &documents.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Show { id } => {
            let document = document(context, find(context, &session, &id)?);
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
            let id = find(context, &session, &id)?.id;
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

/// The id of the ticket in the file `text`; what is no file is an id already.
fn of_file(context: &Context, text: String) -> Result<String, CliError> {
    if text.parse::<TicketId>().is_ok() || is_beginning("", &text) || !Path::new(&text).is_file() {
        return Ok(text);
    }
    Ok(source::ticket(context, &text, false)?.ticket.id.to_string())
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

/// The one ticket whose id is `text`, or begins with it.
fn find(context: &Context, session: &Session, text: &str) -> Result<TicketRow, CliError> {
    if text.parse::<TicketId>().is_err() && !is_beginning("", text) {
        let wrong = CliError::new(code::USAGE, format!("`{text}` is no ticket's id, nor 8 of its first characters or more"));
        return Err(wrong.try_this("look at those that there are: postern ticket list"));
    }
    let mut found: Vec<TicketRow> = rows(context, session)?.into_iter().filter(|row| begins(row.id, text)).collect();
    match found.len() {
        0 => Err(CliError::not_found("ticket", text)),
        1 => Ok(found.swap_remove(0)),
        count => {
            let error = CliError::new(code::USAGE, format!("{count} tickets begin with `{text}`"));
            Err(found.iter().fold(error, |error, row| error.why(row.id)).try_this("write more of the id"))
        }
    }
}

/// Fewest characters that may stand for an id.
const SHORTEST: usize = 8;

/// Whether `text` can be the beginning of an id that begins with `prefix`.
pub fn is_beginning(prefix: &str, text: &str) -> bool {
    let digits = text.strip_prefix(prefix);
    text.len() >= SHORTEST && digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether `id` begins with `text`.
pub fn begins(id: impl ToString, text: &str) -> bool {
    id.to_string().starts_with(&text.to_ascii_lowercase()) || id.to_string().starts_with(text)
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
