//! `tcp-inlet`: where TCP enters a node, to reach a peer's outlet.

use clap::Subcommand;
use postern_node::config::resource::{InletArguments, inlet};
use postern_node::control::document::{Connection, InletDocument, ShareDocument};
use postern_node::control::fault::Fault;
use postern_proto::name::Alias;
use postern_proto::spec::PeerRoute;

use crate::args::Yes;
use crate::authority::check_project;
use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::{At, Need, ask, existing, existing_or_made, none_at};
use crate::output::{fields, table};
use crate::prompt::confirm;
use crate::source;

/// Reach a peer's outlet from a local address
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an inlet; it listens at once, whether or not its peer is there
    #[command(after_help = "\
Examples:
  postern tcp-inlet create --from 7000      # the outlet `outlet` of the node found as `default`
  postern tcp-inlet create --from 0.0.0.0:8000 --via acme-relay --to github
  postern tcp-inlet create --from 7000 --to /node/n1/service/db      # a node of this home
  postern tcp-inlet create --from 7000 --via shop --to ratings-v1=90 --to ratings-v2=10
  postern tcp-inlet create --to /dns4/db.example/tcp/4100/service/db # a node that can be dialled")]
    Create {
        /// Where to listen; a bare port is one of 127.0.0.1 [default: a free port of 127.0.0.1]
        #[arg(long, value_name = "ADDRESS")]
        from: Option<String>,
        /// The relay name under which the peer's node can be found [default: default]
        #[arg(long, value_name = "RELAY")]
        via: Option<String>,
        /// The outlet: its name, /service/NAME, /node/NODE/service/NAME, or a full route; several, each with =WEIGHT, share the
        /// connections [default: outlet]
        #[arg(long, value_name = "ROUTE", allow_hyphen_values = true)]
        to: Vec<String>,
        /// The name by which commands mean this inlet [default: a random one]
        #[arg(long, value_name = "NAME")]
        alias: Option<String>,
        /// To which peers it may send: an expression about their attributes [default: the policy for tcp-inlet, else
        /// every member of the project]
        #[arg(long, value_name = "EXPRESSION")]
        allow: Option<String>,
        /// How long a connection goes on without a path to the peer before it is reset, at most 1h; 0 resets it at once. The
        /// shorter one of both ends decides [default: 60s]
        #[arg(long, value_name = "DURATION")]
        resume_timeout: Option<String>,
        /// What a peer's node is told that this inlet may not send to: reason, code or nothing [default: code]
        #[arg(long, value_name = "reason|code|nothing")]
        disclose: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// List the inlets of a node
    List {
        #[command(flatten)]
        at: At,
    },
    /// Show an inlet
    Show {
        /// The inlet's alias
        alias: Alias,
        #[command(flatten)]
        at: At,
    },
    /// Delete an inlet; its connections are cut
    Delete {
        /// The inlet's alias
        alias: Alias,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        yes: Yes,
    },
}

/// What each of several outlets got.
fn split(inlet: &InletDocument) -> String {
    if inlet.outlets.len() < 2 {
        return String::new();
    }
    let share = |outlet: &ShareDocument| {
        let failing = if outlet.failing { ", failing" } else { "" };
        format!("{}: weight {}, {} connections, {} open{failing}", outlet.to, outlet.weight, outlet.connections, outlet.open)
    };
    inlet.outlets.iter().map(share).collect::<Vec<_>>().join("; ")
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let home = if matches!(command, Command::Create { .. }) { context.home_or_new()? } else { context.home()? };
    match command {
        Command::Create { from, via, to, alias, allow, resume_timeout, disclose, at } => {
            let to = to.iter().map(|to| source::route(to)).collect::<Result<Vec<_>, _>>()?;
            // No route has a `=` in it.
            let shares =
                to.iter().map(|to| to.split_once('=').map_or((to.as_str(), None), |(route, weight)| (route, Some(weight))));
            let arguments = InletArguments {
                from: from.as_deref(),
                via: via.as_deref(),
                to: shares.clone().collect(),
                alias: alias.as_deref(),
                allow: allow.as_deref(),
                resume_timeout: resume_timeout.as_deref(),
                disclose: disclose.as_deref(),
            };
            let spec = inlet(arguments).map_err(|errors| Fault::usage(&errors))?;
            for (route, _) in shares {
                check_project(&home, route)?;
            }
            let by_relay = spec.to.iter().any(|to| matches!(to.peer, PeerRoute::Relay(_)));
            let need = if by_relay { Need::Project } else { Need::Any };
            let node = existing_or_made(context, &home, at.at.as_ref(), need)?;
            let made = ask(context, &node, async |client| client.create_inlet(&spec).await)?;
            context.output().say(format_args!(
                "the inlet `{}` of node `{}` listens at {} and leads to {}",
                made.alias,
                node.name(),
                made.bind_addr,
                destination(&made)
            ));
            if let (Connection::Down, Some(reason)) = (made.status, &made.reason) {
                context.output().say(format_args!("it is not up yet: {reason}"));
            }
            context.output().created(&made.bind_addr, &made)
        }
        Command::List { at } => {
            let node = existing(&home, at.at.as_ref())?;
            let inlets = super::node::document(context, &home, &node)?.inlets;
            context.output().list(&inlets, || {
                let row = |inlet: &InletDocument| {
                    vec![inlet.alias.clone(), inlet.bind_addr.clone(), destination(inlet), format!("{:?}", inlet.status)]
                };
                table(&["ALIAS", "FROM", "TO", "STATUS"], &inlets.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Show { alias, at } => {
            let node = existing(&home, at.at.as_ref())?;
            let inlets = super::node::document(context, &home, &node)?.inlets;
            let found = inlets.into_iter().find(|inlet| inlet.alias == alias.as_str());
            let inlet = found.ok_or_else(|| none_at(&node, "inlet", &alias))?;
            context.output().show(&inlet, || {
                fields(&[
                    ("alias", inlet.alias.clone()),
                    ("from", inlet.bind_addr.clone()),
                    ("to", destination(&inlet)),
                    ("route", inlet.outlets.iter().map(|outlet| outlet.outlet_route.as_str()).collect::<Vec<_>>().join(", ")),
                    ("status", format!("{:?}", inlet.status)),
                    ("because", inlet.reason.clone().unwrap_or_default()),
                    ("allow", inlet.allow.clone().unwrap_or_default()),
                    ("resume timeout", inlet.resume_timeout.clone()),
                    ("disclose", inlet.disclose.to_string()),
                    ("split", split(&inlet)),
                ])
            })
        }
        Command::Delete { alias, at, yes } => {
            let node = existing(&home, at.at.as_ref())?;
            ask(context, &node, async |client| client.inlet(&alias).await)?;
            confirm(context, &format!("Delete the inlet `{alias}`?"), yes.yes)?;
            ask(context, &node, async |client| client.delete_inlet(&alias).await)?;
            context.output().say(format_args!("deleted the inlet `{alias}`"));
            Ok(())
        }
    }
}

/// Where an inlet leads, as it was asked for: an outlet and a relay name, else the whole route; each of several.
pub fn destination(inlet: &InletDocument) -> String {
    let one = |outlet: &ShareDocument| match &outlet.via {
        Some(via) => format!("{} via {via}", outlet.to),
        None => outlet.outlet_route.clone(),
    };
    inlet.outlets.iter().map(one).collect::<Vec<_>>().join(", ")
}
