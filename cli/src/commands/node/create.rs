//! `node create`: from nothing, or from a configuration, to a node that runs; or nothing at all.

use std::path::Path;
use std::time::Duration;

use postern_node::access;
use postern_node::config::{self, NodeConfig, Variables};
use postern_node::control::document::NodeDocument;
use postern_node::control::fault::Fault;
use postern_node::daemon::Start;
use postern_node::store::Stored;
use postern_proto::address::HostPort;
use postern_proto::name::{IdentityName, NodeName};
use postern_proto::spec::MaxStaleness;
use postern_proto::time::parse_duration;
use postern_runtime::files::ChangeLock;
use postern_runtime::home::{Home, NodeHome};

use super::earlier;
use crate::code;
use crate::commands::identity::user_of;
use crate::commands::tcp_outlet::warn_of_own_name;
use crate::context::Context;
use crate::error::{AccessChanges, CliError};
use crate::node_choice::free_node_name;
use crate::{node_process, source};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command returns when everything is up, or after --connection-wait; the node goes on trying.
If the configuration or the ticket is refused, nothing is left behind.

Examples:
  postern node create n1
  postern node create customer.yaml --enrollment-ticket acme.ticket --variable RELAY=acme-relay
  postern node create --configuration '{name: n2, tcp-outlets: {db: {to: 5432}}}'
  postern node create http://files.example/node.yaml --foreground")]
pub struct CreateArgs {
    /// A name, or the path or URL of a configuration [default: a random name]
    #[arg(value_name = "NAME|FILE|URL")]
    what: Option<String>,
    /// Join a project first: a path, a URL, - for standard input, or the ticket itself
    #[arg(long, value_name = "TICKET", env = "ENROLLMENT_TICKET", hide_env_values = true)]
    enrollment_ticket: Option<String>,
    /// A configuration, in the command itself; YAML or JSON
    #[arg(long, value_name = "YAML")]
    configuration: Option<String>,
    /// What $NAME stands for in the configuration; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    variable: Vec<String>,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// The identity that the node acts as; made if it is missing [default: the default identity]
    #[arg(long, value_name = "NAME")]
    pub(super) identity: Option<IdentityName>,
    /// Listen here for peers that connect without a relay [default: only for nodes of this home]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) tcp_listener_address: Option<HostPort>,
    /// Serve /livez, /readyz, /metrics and /show over HTTP on this port of 127.0.0.1; 0 is a free one
    #[arg(long, value_name = "PORT")]
    pub(super) http_server_port: Option<u16>,
    /// The same on a free port
    #[arg(long, conflicts_with = "http_server_port")]
    pub(super) http_server: bool,
    /// Open no stream, and end those that live, when the authority was not heard for so long: 15s to 24h [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub(super) max_staleness: Option<MaxStaleness>,
    /// How long to wait until everything is up
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration, conflicts_with = "no_connection_wait")]
    connection_wait: Duration,
    /// Do not wait until everything is up
    #[arg(long)]
    no_connection_wait: bool,
}

pub fn run(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let request = Request::read(context, &args)?;
    let home = context.home_or_new()?;
    let foreground = args.foreground || request.config.foreground == Some(true);
    // Only now is it known whether this process stays.
    context.start_logging(foreground)?;
    let how = How { foreground, connection_wait: if args.no_connection_wait { Duration::ZERO } else { args.connection_wait } };
    // Held until the node runs, so that two at once make one node of one configuration, and nobody starts the other's.
    let making = request.configured.then(|| home.lock_making()).transpose()?;
    if let Some(node) = request.made_before(&home)? {
        earlier::warn_of_flags(context, &node, &args)?;
        return again(context, &node, how, making);
    }
    let name = match request.config.name.clone() {
        Some(name) => name,
        None => free_node_name(&home)?,
    };
    if let Some(node) = home.node(&name)? {
        return same_name(context, &node, &request, how, &args);
    }
    if request.configured && request.config.name.is_none() {
        earlier::warn_of_overlaps(context, &home, &request.config)?;
    }
    request.config.outlets.iter().for_each(|outlet| warn_of_own_name(context, &outlet.to));
    Creation::make(context, &home, &name, &request, &args)?.run(context, how, making)
}

/// How the node is to run.
#[derive(Debug, Clone, Copy)]
struct How {
    foreground: bool,
    connection_wait: Duration,
}

/// What the command asks for, checked as a whole before anything happens.
struct Request {
    config: NodeConfig,
    /// Whether a configuration was given, rather than a bare name.
    configured: bool,
}

impl Request {
    fn read(context: &Context, args: &CreateArgs) -> Result<Self, CliError> {
        let variables = Variables::with_process_environment(args.variable.iter().map(String::as_str))
            .map_err(|error| CliError::from(Fault::from(error)))?;
        let name = args.what.as_deref().filter(|what| is_name(what)).map(str::parse::<NodeName>).transpose()?;
        let (label, text) = match (&args.configuration, args.what.as_deref()) {
            (Some(_), Some(what)) if name.is_none() => {
                return Err(CliError::new(code::USAGE, format!("both `{what}` and --configuration are configurations"))
                    .try_this("give one of them"));
            }
            (Some(text), _) => ("--configuration".to_owned(), text.clone()),
            (None, Some(what)) if name.is_none() => (what.to_owned(), Self::file(context, what)?),
            (None, _) => (String::new(), String::new()),
        };
        let configured = !label.is_empty();
        let mut config = if configured {
            config::load(&label, &text, &variables, name.as_ref()).map_err(|problems| CliError::from(Fault::from(&problems)))?
        } else {
            if let Some(idle) = variables.without_configuration() {
                context.output().warn(idle);
            }
            NodeConfig { name, ..NodeConfig::default() }
        };
        for warning in &config.warnings {
            context.output().warn(warning);
        }
        // Flags win over the file.
        config.identity = args.identity.clone().or(config.identity);
        config.tcp_listener_address = args.tcp_listener_address.clone().or(config.tcp_listener_address);
        config.max_staleness = args.max_staleness.unwrap_or(config.max_staleness);
        config.http_server_port = args.http_server_port.or(args.http_server.then_some(0)).or(config.http_server_port);
        Ok(Self { config, configured })
    }

    fn file(context: &Context, what: &str) -> Result<String, CliError> {
        let looks_like_a_name = !what.contains(['/', '.', ':']);
        if looks_like_a_name && !Path::new(what).exists() && what != "-" {
            return Err(CliError::new(code::INVALID_NAME, format!("`{what}` is neither a node's name nor a file"))
                .try_this("name a node with 1 to 64 of the characters A-Z a-z 0-9 _ -"));
        }
        let bytes = source::configuration(context, what)?;
        config::text(what, &bytes).map_err(|problems| Fault::from(&problems).into())
    }

    /// The node of this home that the same configuration made before.
    fn made_before(&self, home: &Home) -> Result<Option<NodeHome>, CliError> {
        if !self.configured {
            return Ok(None);
        }
        for node in home.nodes()? {
            if self.config.name.as_ref().is_some_and(|name| name != node.name()) {
                continue;
            }
            let stored = Stored::load(&node).map_err(Fault::from)?;
            if stored.fingerprint.as_ref() == Some(&self.config.fingerprint) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }
}

/// Anything that is not a name is a path or URL.
fn is_name(what: &str) -> bool {
    what.parse::<NodeName>().is_ok()
}

/// The configuration made this node before: it runs, or is started.
fn again(context: &Context, node: &NodeHome, how: How, making: Option<ChangeLock>) -> Result<(), CliError> {
    if node_process::runs(context, node)? {
        context
            .output()
            .say(format_args!("the node `{}` runs already, from the same configuration; nothing was changed", node.name()));
        return context.output().created(node.name(), &super::document(context, &context.home()?, node)?);
    }
    started(context, node, how, making)
}

/// A node of that name is there: stopped and bare means started; anything else would lose something.
fn same_name(context: &Context, node: &NodeHome, request: &Request, how: How, args: &CreateArgs) -> Result<(), CliError> {
    if request.configured {
        let stored = Stored::load(node).map_err(Fault::from)?;
        let mut error =
            CliError::new(code::EXISTS, format!("the node `{}` exists, and was made from something else", node.name()));
        match &stored.fingerprint {
            Some(before) => {
                for key in before.differences(&request.config.fingerprint) {
                    error = error.why(key);
                }
            }
            None => error = error.why("it was made by commands, without a configuration"),
        }
        // Of what it has now, commands of later among it, because that is what would go.
        let wanted = Stored::from_config(&request.config, stored.identity.clone());
        let changes = access::changes(&stored.specs, &wanted.specs);
        error.access = (!changes.is_empty()).then(|| Box::new(AccessChanges(changes)));
        return Err(error.try_this(format!("delete it first: postern node delete {}", node.name())));
    }
    if node_process::runs(context, node)? {
        return Err(CliError::new(code::RUNNING, format!("the node `{}` exists and runs", node.name()))
            .try_this(format!("look at it: postern node show {}", node.name())));
    }
    earlier::warn_of_flags(context, node, args)?;
    started(context, node, how, None)
}

fn started(context: &Context, node: &NodeHome, how: How, making: Option<ChangeLock>) -> Result<(), CliError> {
    let start = Start { creating: false, connection_wait: how.connection_wait };
    if how.foreground {
        return node_process::foreground(context.home()?, node.name(), start, |document| {
            drop(making);
            ready(context, document, false);
        });
    }
    let document = node_process::start(context, node, start)?;
    ready(context, &document, true);
    context.output().created(&document.name, &document)
}

fn ready(context: &Context, document: &NodeDocument, background: bool) {
    let how = if background { "runs in the background" } else { "runs; Ctrl-C stops it" };
    context.output().say(format_args!("the node `{}` {how}", document.name));
    super::tell_waiting(context, document);
}

/// A node that is being made; what was made for it goes again where it does not come up.
struct Creation<'a> {
    home: &'a Home,
    node: NodeHome,
    /// The identity, where it was made for this node.
    new_identity: Option<IdentityName>,
}

impl<'a> Creation<'a> {
    fn make(context: &Context, home: &'a Home, name: &NodeName, request: &Request, args: &CreateArgs) -> Result<Self, CliError> {
        let config = &request.config;
        let wanted = match &config.identity {
            Some(identity) => Some(identity.clone()),
            None => home.default_identity()?,
        };
        let had = match &wanted {
            Some(wanted) => home.identity(wanted)?.is_some(),
            None => false,
        };
        let ticket = match wanted.as_ref().filter(|_| had).map(|wanted| home.identity(wanted)).transpose()?.flatten() {
            // Who is a member never looks at a ticket again.
            Some(identity) if identity.membership()?.is_some() => None,
            _ => match (&args.enrollment_ticket, &config.ticket) {
                (Some(argument), _) => Some(source::ticket(context, argument, source::is_in_arguments(argument))?),
                (None, Some(argument)) => Some(source::ticket(context, argument.expose_secret(), false)?),
                (None, None) => None,
            },
        };
        let identity = match &wanted {
            Some(wanted) => home.identity_or_create(wanted, context.now())?,
            None => home.default_identity_or_create(context.now())?,
        };
        let new_identity = (!had).then(|| identity.name().clone());
        let mut stored = Stored::from_config(config, identity.name().clone());
        if !request.configured {
            stored.fingerprint = None;
        }
        let made =
            stored.encode().map_err(Fault::from).map_err(CliError::from).and_then(|stored| Ok(home.create_node(name, &stored)?));
        let node = match made {
            Ok(node) => node,
            Err(error) => {
                if let Some(identity) = &new_identity {
                    withdraw_identity(home, identity)?;
                }
                return Err(error);
            }
        };
        let creation = Self { home, node, new_identity };
        if let Some(ticket) = ticket
            && let Err(error) = creation.node.set_ticket(&ticket.text)
        {
            creation.undo(context);
            return Err(error.into());
        }
        Ok(creation)
    }

    fn run(self, context: &Context, how: How, making: Option<ChangeLock>) -> Result<(), CliError> {
        let start = Start { creating: true, connection_wait: how.connection_wait };
        if how.foreground {
            let mut came_up = false;
            let ended = node_process::foreground(context.home()?, self.node.name(), start, |document| {
                came_up = true;
                drop(making);
                ready(context, document, false);
            });
            if ended.is_err() && !came_up {
                self.undo(context);
            }
            return ended;
        }
        match node_process::start(context, &self.node, start) {
            Ok(document) => {
                ready(context, &document, true);
                context.output().created(&document.name, &document)
            }
            Err(error) => {
                self.undo(context);
                Err(error)
            }
        }
    }

    /// Leaves nothing behind, except an identity that has joined: the ticket was spent for it, and would be lost with it.
    fn undo(&self, context: &Context) {
        if let Err(error) =
            self.home.delete_node(self.node.name()).map_err(CliError::from).and_then(|()| self.undo_identity(context))
        {
            let name = self.node.name();
            context.output().warn(format_args!("something of the node `{name}` stays behind: {}", error.what));
        }
    }

    fn undo_identity(&self, context: &Context) -> Result<(), CliError> {
        let Some(name) = &self.new_identity else { return Ok(()) };
        match self.home.identity(name)? {
            Some(identity) if identity.membership()?.is_some() => {
                context
                    .output()
                    .say(format_args!("the identity `{name}` stays: it has joined the project, and needs no ticket again"));
                Ok(())
            }
            Some(_) => withdraw_identity(self.home, name),
            None => Ok(()),
        }
    }
}

/// Deletes an identity that was made for a node that did not come to be, unless another one has taken it up meanwhile.
fn withdraw_identity(home: &Home, name: &IdentityName) -> Result<(), CliError> {
    if user_of(home, name)?.is_none() {
        home.delete_identity(name)?;
    }
    Ok(())
}
