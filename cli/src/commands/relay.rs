//! `relay`: the names under which a node can be found at the relays.

use std::time::Duration;

use clap::Subcommand;
use postern_node::config::resource::{RelayArguments, relay};
use postern_node::control::document::{Connection, RelayDocument, RelayServerDocument};
use postern_node::control::fault::Fault;
use postern_proto::name::{NodeName, RelayName};
use postern_proto::weight::Weight;

use crate::args::Yes;
use crate::authority::check_project;
use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::{At, Need, ask, existing, existing_or_made, none_at, parse_node};
use crate::output::{fields, table};
use crate::prompt::confirm;

/// How long `relay create` waits until the name is registered.
const WAIT: Duration = Duration::from_secs(5);

/// Claim and look at relay names, under which a node can be found
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Claim a relay name for a node
    #[command(after_help = "\
The ticket with which the node joined must have named it: postern project ticket --relay NAME

Of a name that the node holds already, what is not given stays as it is.

Examples:
  postern relay create
  postern relay create acme-relay --to n1")]
    Create {
        /// The relay name
        #[arg(default_value = "default")]
        name: String,
        /// The node, as NODE or /node/NODE [default: the default node]
        #[arg(long, value_name = "NODE", value_parser = parse_node)]
        to: Option<NodeName>,
        /// Where: /project/NAME for all relays of the project, or one relay server's HOST:PORT [default: all]
        #[arg(long, value_name = "ROUTE")]
        at: Option<String>,
        /// Its share of new connections beside other nodes under the name: a number from 1 to 1000 [default: 1]
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        weight: Option<String>,
    },
    /// List the relay names of a node
    List {
        /// The node, as NODE or /node/NODE; also --at NODE [default: the default node]
        #[arg(long, alias = "at", value_name = "NODE", value_parser = parse_node)]
        to: Option<NodeName>,
    },
    /// Show a relay name
    Show {
        /// The relay name
        #[arg(value_parser = parse_relay)]
        name: RelayName,
        #[command(flatten)]
        at: At,
    },
    /// Give a relay name up
    Delete {
        /// The relay name
        #[arg(value_parser = parse_relay)]
        name: RelayName,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        yes: Yes,
    },
}

/// A relay server as `show` tells it.
fn server(server: &RelayServerDocument) -> String {
    let status = format!("{} {:?}", server.address, server.status);
    match server.round_trip_us {
        Some(micros) => format!("{status} ({:.1} ms)", micros as f64 / 1000.0),
        None => status,
    }
}

/// `r`, `forward_to_r` or `/service/forward_to_r`.
fn parse_relay(text: &str) -> Result<RelayName, postern_proto::name::InvalidName> {
    let name = text.strip_prefix("/service/").unwrap_or(text);
    name.strip_prefix("forward_to_").unwrap_or(name).parse()
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let home = if matches!(command, Command::Create { .. }) { context.home_or_new()? } else { context.home()? };
    match command {
        Command::Create { name, to, at, weight } => {
            let mut spec = relay(RelayArguments { name: Some(&name), at: at.as_deref(), weight: weight.as_deref() })
                .map_err(|errors| Fault::usage(&errors))?;
            check_project(&home, at.as_deref().unwrap_or_default())?;
            let node = existing_or_made(context, &home, to.as_ref(), Need::Project)?;
            let made = ask(context, &node, async |client| {
                // Of a name that is held already, what is not given stays as it is.
                if let Some(held) = client.relays().await?.into_iter().find(|held| held.name == spec.name.as_str()) {
                    if at.is_none()
                        && let Ok(at) = held.at.parse()
                    {
                        spec.at = at;
                    }
                    if weight.is_none()
                        && let Ok(weight) = Weight::try_from(held.weight)
                    {
                        spec.weight = weight;
                    }
                }
                client.create_relay(&spec, WAIT).await
            })?;
            match made.connection_status {
                Connection::Up => {
                    context.output().say(format_args!("node `{}` can be found as `{name}` at the relays", node.name()))
                }
                Connection::Down => context.output().warn(format_args!(
                    "`{name}` is not registered yet: {}; the node goes on trying",
                    made.reason.as_deref().unwrap_or("no relay is connected")
                )),
            }
            context.output().created(format_args!("/service/{}", made.remote_address), &made)
        }
        Command::List { to } => {
            let node = existing(&home, to.as_ref())?;
            let relays = super::node::document(context, &home, &node)?.relays;
            context.output().list(&relays, || {
                let row = |relay: &RelayDocument| {
                    vec![
                        relay.name.clone(),
                        relay.destination.clone(),
                        format!("{:?}", relay.connection_status),
                        relay.remote_address.clone(),
                    ]
                };
                table(&["NAME", "NODE", "STATUS", "ADDRESS"], &relays.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Show { name, at } => {
            let node = existing(&home, at.at.as_ref())?;
            let relays = super::node::document(context, &home, &node)?.relays;
            let found = relays.into_iter().find(|relay| relay.name == name.as_str());
            let relay = found.ok_or_else(|| none_at(&node, "relay", &name))?;
            context.output().show(&relay, || {
                fields(&[
                    ("name", relay.name.clone()),
                    ("node", relay.destination.clone()),
                    ("status", format!("{:?}", relay.connection_status)),
                    ("because", relay.reason.clone().unwrap_or_default()),
                    ("route", relay.relay_route.clone()),
                    ("weight", relay.weight.to_string()),
                    ("servers", relay.servers.iter().map(server).collect::<Vec<_>>().join(", ")),
                ])
            })
        }
        Command::Delete { name, at, yes } => {
            let node = existing(&home, at.at.as_ref())?;
            ask(context, &node, async |client| client.relay(&name).await)?;
            confirm(context, &format!("Give the relay name `{name}` up?"), yes.yes)?;
            ask(context, &node, async |client| client.delete_relay(&name).await)?;
            context.output().say(format_args!("gave the relay name `{name}` up"));
            Ok(())
        }
    }
}
