//! `project-member`: who belongs to the project.

use clap::Subcommand;
use postern_proto::authority::{Answer, Attributes, MemberRow, Request, Role};
use postern_proto::id::Identifier;
use postern_proto::name::{IdentityName, is_beginning_of_identifier};
use serde::Serialize;

use super::ticket::{attributes, begins, relays};
use crate::args::Yes;
use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields, table};
use crate::prompt::confirm;

mod enforcement;

/// Look at the members of the project, change what they may do, and remove them
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the members
    List,
    /// Show a member
    Show {
        /// Its identifier, or 8 of its first characters or more, or the name of its identity
        member: String,
    },
    /// Revoke a member: its streams end at once, everywhere, and its credentials are void for ever
    #[command(after_help = "\
Every node and relay that is connected is told within a moment, and refuses the member from
then on; one that is offline enforces it when it connects. The member stays in the list, as
revoked. Only a ticket made afterwards admits it again.

Examples:
  postern project-member revoke customer --wait
  postern project-member revoke Pb0b5... --wait --output json")]
    Revoke {
        /// Its identifier, or 8 of its first characters or more, or the name of its identity
        member: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        yes: Yes,
    },
    /// Replace a member's attributes; its streams that the new ones do not allow end
    #[command(after_help = "\
What is not named is gone. The member's nodes get new credentials by themselves; streams that
the new attributes still allow go on, the others end within 2 seconds.

Examples:
  postern project-member update customer --attribute app=billing --attribute inlet-to-saas
  postern project-member update customer --no-attributes --wait")]
    Update {
        /// Its identifier, or 8 of its first characters or more, or the name of its identity
        member: String,
        /// An attribute that it has from now on; without a value it is "true". May be given several times
        #[arg(long = "attribute", value_name = "K[=V]", required_unless_present = "no_attributes")]
        attributes: Vec<String>,
        /// It has none any more
        #[arg(long, conflicts_with = "attributes")]
        no_attributes: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Revoke a member, and take it out of the list
    Delete {
        /// Its identifier, or 8 of its first characters or more, or the name of its identity
        member: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, clap::Args)]
pub struct Wait {
    /// Wait until every node and relay that is connected enforces it, and say how long that took and which are offline
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    identifier: Identifier,
    name: IdentityName,
    attributes: Attributes,
    relays: Vec<String>,
    role: Role,
    attested_by: Identifier,
    added_at: String,
    expires_at: Option<String>,
    /// When it was revoked.
    revoked_at: Option<String>,
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let session = Session::open(context)?;
    match command {
        Command::List => {
            let documents: Vec<_> = rows(context, &session)?.into_iter().map(document).collect();
            context.output().list(&documents, || {
                let row = |document: &Versioned<Document>| {
                    vec![
                        document.name.to_string(),
                        document.identifier.to_string(),
                        role(&document.role),
                        attributes(&document.attributes),
                        document.relays.join(" "),
                        if document.revoked_at.is_some() { "revoked" } else { "" }.to_owned(),
                    ]
                };
                let headings = ["NAME", "IDENTIFIER", "ROLE", "ATTRIBUTES", "RELAYS", "STATUS"];
                table(&headings, &documents.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Show { member } => {
            let document = document(find(context, &session, &member)?);
            context.output().show(&document, || {
                fields(&[
                    ("identifier", document.identifier.to_string()),
                    ("name", document.name.to_string()),
                    ("role", role(&document.role)),
                    ("attributes", attributes(&document.attributes)),
                    ("relays", document.relays.join(" ")),
                    ("attested by", document.attested_by.to_string()),
                    ("added at", document.added_at.clone()),
                    ("expires at", document.expires_at.clone().unwrap_or_default()),
                    ("revoked at", document.revoked_at.clone().unwrap_or_default()),
                ])
            })
        }
        Command::Revoke { member, wait, yes } => {
            let row = find(context, &session, &member)?;
            confirm(context, &format!("Revoke the member `{}` ({})?", row.name, row.identifier), yes.yes)?;
            let epoch = voided(session.call(context, Request::RevokeMember { member: row.identifier })?)?;
            enforcement::report(context, &session, &row, ("revoked", epoch), wait.wait)
        }
        Command::Update { member, attributes, no_attributes: _, wait } => {
            let attributes = super::project::ticket::attributes(&attributes)?;
            let row = find(context, &session, &member)?;
            let epoch = voided(session.call(context, Request::UpdateMember { member: row.identifier, attributes })?)?;
            enforcement::report(context, &session, &row, ("updated", epoch), wait.wait)
        }
        Command::Delete { member, wait, yes } => {
            let row = find(context, &session, &member)?;
            confirm(context, &format!("Delete the member `{}` ({})?", row.name, row.identifier), yes.yes)?;
            let epoch = voided(session.call(context, Request::DeleteMember { member: row.identifier })?)?;
            if wait.wait {
                return enforcement::report(context, &session, &row, ("deleted", epoch), true);
            }
            context.output().say(format_args!("deleted the member `{}` ({})", row.name, row.identifier));
            Ok(())
        }
    }
}

fn voided(answer: Answer) -> Result<u64, CliError> {
    match answer {
        Answer::Voided { epoch } => Ok(epoch),
        _ => Err(unexpected()),
    }
}

/// A role, with what belongs to it.
pub fn role(role: &Role) -> String {
    match role {
        Role::Member => "member".to_owned(),
        Role::Enroller { .. } => "enroller".to_owned(),
        Role::Administrator => "administrator".to_owned(),
        Role::RelayServer { address } => format!("relay-server {address}"),
    }
}

fn rows(context: &Context, session: &Session) -> Result<Vec<MemberRow>, CliError> {
    let mut all: Vec<MemberRow> = Vec::new();
    loop {
        let after = all.last().map(|row| row.identifier);
        let Answer::Members { rows, more } = session.call(context, Request::ListMembers { after })? else {
            return Err(unexpected());
        };
        let none = rows.is_empty();
        all.extend(rows);
        if !more || none {
            return Ok(all);
        }
    }
}

/// The identifier of the member that is called `name`.
pub fn identifier_of(context: &Context, name: &str) -> Result<Identifier, CliError> {
    Ok(find(context, &Session::open(context)?, name)?.identifier)
}

/// The one member that `text` names.
pub fn find(context: &Context, session: &Session, text: &str) -> Result<MemberRow, CliError> {
    choose(rows(context, session)?, text)
}

fn choose(all: Vec<MemberRow>, text: &str) -> Result<MemberRow, CliError> {
    let beginning = is_beginning_of_identifier(text);
    let mut found: Vec<MemberRow> = match text.parse::<Identifier>() {
        Ok(identifier) => all.into_iter().filter(|row| row.identifier == identifier).collect(),
        // Names are chosen by those who have them: one that looks like an identifier's beginning must not stand in for it.
        Err(_) => {
            all.into_iter().filter(|row| row.name.as_str() == text || (beginning && begins(row.identifier, text))).collect()
        }
    };
    // A member comes before those of its name that were revoked.
    if !beginning && found.len() > 1 && found.iter().any(|row| row.revoked_at.is_none()) {
        found.retain(|row| row.revoked_at.is_none());
    }
    match found.len() {
        0 => Err(CliError::not_found("member", text)),
        1 => Ok(found.swap_remove(0)),
        count => {
            let error = CliError::new(code::AMBIGUOUS_MEMBER, format!("`{text}` means {count} members"));
            // What tells them apart for a person.
            let said = |row: &MemberRow| {
                let held = format!("{} {}", role(&row.role), attributes(&row.attributes));
                format!("`{text}` is {}: {}", row.identifier, held.trim_end())
            };
            let listed = found.iter().fold(error, |error, row| error.why(said(row)));
            Err(listed.try_this("name one by its identifier"))
        }
    }
}

fn document(row: MemberRow) -> Versioned<Document> {
    Versioned::new(Document {
        identifier: row.identifier,
        name: row.name,
        attributes: row.attributes,
        relays: relays(&row.relays),
        role: row.role,
        attested_by: row.attested_by,
        added_at: row.added_at.to_string(),
        expires_at: row.expires_at.map(|at| at.to_string()),
        revoked_at: row.revoked_at.map(|at| at.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use postern_proto::time::Timestamp;

    fn row(identifier: u8, name: &str, revoked: bool) -> MemberRow {
        let at = Timestamp::from_unix(1_800_000_000);
        MemberRow {
            identifier: Identifier::from_bytes([identifier; 32]),
            name: name.parse().unwrap(),
            attributes: Attributes::new(),
            relays: Vec::new(),
            role: Role::Member,
            attested_by: Identifier::from_bytes([1; 32]),
            added_at: at,
            expires_at: None,
            revoked_at: revoked.then_some(at),
        }
    }

    fn chosen(all: &[MemberRow], text: &str) -> Result<u8, String> {
        choose(all.to_vec(), text).map(|row| row.identifier.as_bytes()[0]).map_err(|error| error.code)
    }

    /// A member chooses its own name: it must not get what is meant for the one whose identifier begins so.
    #[test]
    fn a_name_does_not_stand_in_for_an_identifier() {
        let ambiguous = Err(code::AMBIGUOUS_MEMBER.as_str().to_owned());
        let victim = row(0xee, "web", false);
        for decoy_revoked in [false, true] {
            for victim_revoked in [false, true] {
                let victim = row(0xee, "web", victim_revoked);
                let all = [row(2, "Peeeeeee", decoy_revoked), victim];
                assert_eq!(chosen(&all, "Peeeeeee"), ambiguous, "{decoy_revoked} {victim_revoked}");
                assert_eq!(chosen(&all, "Peeeeeeee"), Ok(0xee), "longer than the name");
                assert_eq!(chosen(&all, &Identifier::from_bytes([0xee; 32]).to_string()), Ok(0xee));
            }
        }
        // Of one that is called so, and nobody whose identifier begins so.
        assert_eq!(chosen(&[row(2, "Pabcdef0", false), victim], "Pabcdef0"), Ok(2));
    }

    #[test]
    fn a_member_comes_before_those_of_its_name_that_were_revoked() {
        let all = [row(2, "web", true), row(3, "web", false), row(4, "web", true), row(5, "db", true)];
        assert_eq!(chosen(&all, "web"), Ok(3));
        assert_eq!(chosen(&all, "db"), Ok(5));
        assert_eq!(chosen(&all, "none"), Err(code::NOT_FOUND.as_str().to_owned()));
        assert_eq!(chosen(&[row(2, "web", true), row(3, "web", true)], "web"), Err(code::AMBIGUOUS_MEMBER.as_str().to_owned()));
    }
}
