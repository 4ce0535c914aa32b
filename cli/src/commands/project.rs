//! `project`: the trust domains that this home's identities belong to, and tickets for new members.

mod key;
mod policy;
pub(super) mod ticket;

use clap::Subcommand;
use postern_proto::address::HostPort;
use postern_proto::id::{Identifier, ProjectId};
use postern_proto::name::{IdentityName, ProjectName};
use postern_runtime::home::{Home, IdentityHome};
use postern_runtime::membership::Membership;
use serde::Serialize;

use crate::authority::enrol;
use crate::context::Context;
use crate::error::CliError;
use crate::node_process;
use crate::output::{Versioned, fields, table};
use crate::source;

/// Join and look at projects, and make tickets for new members
#[derive(Debug, Subcommand)]
pub enum Command {
    Ticket(ticket::Args),
    /// Join a project with a ticket
    #[command(after_help = "\
Examples:
  postern project enroll acme.ticket
  postern project enroll - < acme.ticket")]
    Enroll {
        /// The ticket: a path, a URL, - for standard input, or its text
        #[arg(env = "ENROLLMENT_TICKET", hide_env = true)]
        ticket: String,
        /// Join with this identity, made if it is missing [default: the default identity]
        #[arg(long, value_name = "NAME")]
        identity: Option<IdentityName>,
    },
    /// Show a project
    Show {
        /// The project [default: the one that commands of this home act in]
        name: Option<ProjectName>,
    },
    /// List the projects of this home's identities
    List,
    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Key(key::Command),
}

#[derive(Debug, Serialize)]
struct Document {
    name: ProjectName,
    id: ProjectId,
    identity_name: IdentityName,
    is_default: bool,
    authority_identifier: Identifier,
    authority_addresses: Vec<HostPort>,
    relays: Vec<HostPort>,
    /// The keys that sign credentials, as far as this home has heard.
    signing_keys: Vec<key::Document>,
    epoch: u64,
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Ticket(args) => ticket::run(context, args),
        Command::Enroll { ticket, identity } => join(context, &ticket, identity),
        Command::Show { name } => show(context, name),
        Command::List => list(context),
        Command::Policy(command) => policy::run(context, command),
        Command::Key(command) => key::run(context, command),
    }
}

fn join(context: &Context, ticket: &str, identity: Option<IdentityName>) -> Result<(), CliError> {
    let source = source::ticket(context, ticket, source::is_in_arguments(ticket))?;
    let home = context.home_or_new()?;
    let identity = match identity {
        Some(name) => home.identity_or_create(&name, context.now())?,
        None => home.default_identity_or_create(context.now())?,
    };
    let enrolled = enrol(context, &identity, &source.ticket)?;
    let project = &enrolled.membership.info().name;
    if enrolled.already {
        context.output().say(format_args!("identity `{}` is a member of project `{project}` already", enrolled.name));
    } else {
        context.output().say(format_args!("identity `{}` joined project `{project}`", enrolled.name));
        node_process::reload(&home, &enrolled.name)?;
    }
    context.output().created(project, &document(&home, &identity, &enrolled.membership)?)
}

fn show(context: &Context, name: Option<ProjectName>) -> Result<(), CliError> {
    let documents = documents(&context.home()?)?;
    let found = match &name {
        Some(name) => documents.iter().find(|document| document.name == *name),
        None => documents.iter().find(|document| document.is_default).or(documents.first()),
    };
    let Some(document) = found else {
        return Err(match name {
            Some(name) => CliError::not_found("project", name),
            None => CliError::not_found("project", "default")
                .try_this("`postern enroll` to make a project, or `postern project enroll TICKET` to join one"),
        });
    };
    context.output().show(document, || {
        fields(&[
            ("name", document.name.to_string()),
            ("id", document.id.to_string()),
            ("identity", document.identity_name.to_string()),
            ("authority", document.authority_identifier.to_string()),
            ("addresses", joined(&document.authority_addresses)),
            ("relays", joined(&document.relays)),
            ("signing keys", keys(&document.signing_keys)),
        ])
    })
}

fn list(context: &Context) -> Result<(), CliError> {
    let documents = documents(&context.home()?)?;
    context.output().list(&documents, || {
        let row = |document: &Versioned<Document>| {
            vec![
                document.name.to_string(),
                document.id.to_string(),
                document.identity_name.to_string(),
                joined(&document.authority_addresses),
            ]
        };
        table(&["NAME", "ID", "IDENTITY", "AUTHORITY"], &documents.iter().map(row).collect::<Vec<_>>())
    })
}

/// One for every identity that belongs to a project.
fn documents(home: &Home) -> Result<Vec<Versioned<Document>>, CliError> {
    let mut found = Vec::new();
    for identity in home.identities()? {
        if let Some(membership) = identity.membership()? {
            found.push(document(home, &identity, &membership)?);
        }
    }
    Ok(found)
}

fn document(home: &Home, identity: &IdentityHome, membership: &Membership) -> Result<Versioned<Document>, CliError> {
    let info = membership.info();
    Ok(Versioned::new(Document {
        name: info.name.clone(),
        id: info.project,
        identity_name: identity.name().clone(),
        is_default: home.default_identity()?.as_ref() == Some(identity.name()),
        authority_identifier: info.authority,
        authority_addresses: info.authority_addresses.clone(),
        relays: info.relays.iter().map(|relay| relay.address.clone()).collect(),
        signing_keys: info.key_ring.iter().map(key::Document::of).collect(),
        epoch: info.epoch,
    }))
}

fn keys(keys: &[key::Document]) -> String {
    keys.iter().map(|key| format!("{} {}", key.key, key.state.as_str())).collect::<Vec<_>>().join(", ")
}

fn joined(addresses: &[HostPort]) -> String {
    addresses.iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ")
}
