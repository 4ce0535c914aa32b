//! `tcp-outlet`: where TCP leaves a node, to a fixed target.

use clap::Subcommand;
use postern_node::config::resource::{OutletArguments, outlet};
use postern_node::control::document::{OutletDocument, TargetFailureDocument};
use postern_node::control::fault::Fault;
use postern_proto::address::HostPort;
use postern_proto::name::OutletName;
use postern_runtime::net::own_name;

use crate::args::Yes;
use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::{At, Need, ask, existing, existing_or_made, none_at};
use crate::output::{fields, table};
use crate::prompt::confirm;

/// Let peers reach one service through a node
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an outlet; its target is looked up and dialled for each connection, not now
    #[command(after_help = "\
Examples:
  postern tcp-outlet create --to 6000
  postern tcp-outlet create --from db --to db.internal:5432 --allow 'app = \"billing\"'")]
    Create {
        /// The service; a bare port is one of 127.0.0.1
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        /// The name by which peers ask for it [default: outlet; if that is taken, a random one]
        #[arg(long, value_name = "NAME")]
        from: Option<String>,
        /// Which peers may reach it: an expression about their attributes [default: the policy for tcp-outlet, else
        /// every member of the project]
        #[arg(long, value_name = "EXPRESSION")]
        allow: Option<String>,
        /// How long a connection goes on without a path to the peer before it is reset, at most 1h; 0 resets it at once. The
        /// shorter one of both ends decides [default: 60s]
        #[arg(long, value_name = "DURATION")]
        resume_timeout: Option<String>,
        /// What a peer that may not use it is told: reason, code (the same one as for an outlet that is not there), or nothing (not
        /// even what the target does); always with the id for `postern explain` [default: code]
        #[arg(long, value_name = "reason|code|nothing")]
        disclose: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// List the outlets of a node
    List {
        #[command(flatten)]
        at: At,
    },
    /// Show an outlet
    Show {
        /// The outlet, as NAME or /service/NAME
        #[arg(value_parser = parse_outlet)]
        name: OutletName,
        #[command(flatten)]
        at: At,
    },
    /// Delete an outlet; its connections are cut
    Delete {
        /// The outlet, as NAME or /service/NAME
        #[arg(value_parser = parse_outlet)]
        name: OutletName,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        yes: Yes,
    },
}

/// `db` or `/service/db`.
pub fn parse_outlet(text: &str) -> Result<OutletName, postern_proto::name::InvalidName> {
    text.strip_prefix("/service/").unwrap_or(text).parse()
}

/// Warns of a target whose name will not be followed. Names of others are not looked up: their addresses change.
pub fn warn_of_own_name(context: &Context, to: &HostPort) {
    if let Some(own) = own_name(to) {
        context.output().warn(own.warning(to));
    }
}

fn last_failure(last: &TargetFailureDocument) -> String {
    format!("{}: {} ({})", last.at, last.reason, last.code)
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let home = if matches!(command, Command::Create { .. }) { context.home_or_new()? } else { context.home()? };
    match command {
        Command::Create { to, from, allow, resume_timeout, disclose, at } => {
            let arguments = OutletArguments {
                from: from.as_deref(),
                to: Some(&to),
                allow: allow.as_deref(),
                resume_timeout: resume_timeout.as_deref(),
                disclose: disclose.as_deref(),
            };
            let request = outlet(arguments).map_err(|errors| Fault::usage(&errors))?;
            warn_of_own_name(context, &request.to);
            let node = existing_or_made(context, &home, at.at.as_ref(), Need::Any)?;
            let made = ask(context, &node, async |client| client.create_outlet(&request).await)?;
            context.output().say(format_args!("the outlet `{}` of node `{}` leads to {}", made.name, node.name(), made.to));
            context.output().created(&made.worker_address, &made)
        }
        Command::List { at } => {
            let node = existing(&home, at.at.as_ref())?;
            let outlets = super::node::document(context, &home, &node)?.outlets;
            context.output().list(&outlets, || {
                let row = |outlet: &OutletDocument| {
                    let last = outlet.last_failure.as_ref().map(last_failure).unwrap_or_default();
                    vec![outlet.name.clone(), outlet.to.clone(), outlet.allow.clone().unwrap_or_default(), last]
                };
                table(&["NAME", "TO", "ALLOW", "LAST FAILURE"], &outlets.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Show { name, at } => {
            let node = existing(&home, at.at.as_ref())?;
            let outlets = super::node::document(context, &home, &node)?.outlets;
            let found = outlets.into_iter().find(|outlet| outlet.name == name.as_str());
            let outlet = found.ok_or_else(|| none_at(&node, "outlet", &name))?;
            context.output().show(&outlet, || {
                fields(&[
                    ("name", outlet.name.clone()),
                    ("to", outlet.to.clone()),
                    ("address", outlet.worker_address.clone()),
                    ("allow", outlet.allow.clone().unwrap_or_default()),
                    ("resume timeout", outlet.resume_timeout.clone()),
                    ("disclose", outlet.disclose.to_string()),
                    ("last failure", outlet.last_failure.as_ref().map(last_failure).unwrap_or_default()),
                ])
            })
        }
        Command::Delete { name, at, yes } => {
            let node = existing(&home, at.at.as_ref())?;
            ask(context, &node, async |client| client.outlet(&name).await)?;
            confirm(context, &format!("Delete the outlet `{name}`?"), yes.yes)?;
            ask(context, &node, async |client| client.delete_outlet(&name).await)?;
            context.output().say(format_args!("deleted the outlet `{name}`"));
            Ok(())
        }
    }
}
