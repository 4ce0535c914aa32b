//! `node`: the processes that run inlets and outlets beside an application.

mod create;
mod earlier;

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use clap::Subcommand;
use postern_node::control::document::{FreshnessDocument, NodeDocument};
use postern_node::daemon::Start;
use postern_node::store::Stored;
use postern_proto::name::NodeName;
use postern_runtime::home::{Home, NodeHome};

pub use self::create::CreateArgs;

use super::policy::guarded;
use super::tcp_inlet::destination;
use crate::args::Yes;
use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::{ask_if_running, existing, parse_node};
use crate::node_process::{self, DaemonArgs};
use crate::output::{fields, table, time_left};
use crate::prompt::confirm;
use crate::stop;

/// How long `node start` waits for authority, relays and peers.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// How often a followed log is looked at for more.
const FOLLOW: Duration = Duration::from_millis(200);

/// Make, start and look at nodes, which run inlets and outlets
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a node and start it: a bare one, or one from a configuration
    Create(Box<CreateArgs>),
    /// List the nodes of this home
    List,
    /// Show a node
    Show {
        /// The node, as NODE or /node/NODE [default: the default node]
        #[arg(value_name = "NODE", value_parser = parse_node)]
        node: Option<NodeName>,
    },
    /// Start a stopped node
    Start {
        /// The node, as NODE or /node/NODE [default: the default node]
        #[arg(value_name = "NODE", value_parser = parse_node)]
        node: Option<NodeName>,
    },
    /// Stop a node; what it runs comes back when it is started
    Stop {
        /// The node, as NODE or /node/NODE [default: the default node]
        #[arg(value_name = "NODE", value_parser = parse_node)]
        node: Option<NodeName>,
    },
    /// Stop a node and delete it with its outlets, inlets, relays and policies
    Delete {
        /// The node, as NODE or /node/NODE [default: the default node]
        #[arg(value_name = "NODE", value_parser = parse_node, conflicts_with = "all")]
        node: Option<NodeName>,
        /// Delete all nodes
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// Print the path of a node's log
    Logs {
        /// The node, as NODE or /node/NODE [default: the default node]
        #[arg(value_name = "NODE", value_parser = parse_node)]
        node: Option<NodeName>,
        /// Print the log itself, and what is added to it
        #[arg(short, long)]
        follow: bool,
    },
    /// Show which node is the default, or make NODE the default
    Default {
        /// The node that becomes the default
        #[arg(value_name = "NODE", value_parser = parse_node)]
        node: Option<NodeName>,
    },
    #[command(hide = true)]
    Daemon(DaemonArgs),
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Create(args) => create::run(context, *args),
        Command::Daemon(args) => node_process::daemon(context, &args),
        Command::List => list(context, &context.home()?),
        Command::Show { node } => show(context, &context.home()?, node.as_ref()),
        Command::Start { node } => start(context, &context.home()?, node.as_ref()),
        Command::Stop { node } => stop_node(context, &context.home()?, node.as_ref()),
        // Of none, there is nothing to do.
        Command::Delete { all: true, .. } if !context.is_there()? => {
            context.output().say("there are no nodes");
            Ok(())
        }
        Command::Delete { node, all, yes } => delete(context, &context.home()?, node.as_ref(), all, yes),
        Command::Logs { node, follow } => logs(context, &existing(&context.home()?, node.as_ref())?, follow),
        Command::Default { node: None } => {
            let home = context.home()?;
            context.output().line(existing(&home, None)?.name())
        }
        Command::Default { node: Some(node) } => {
            context.home()?.set_default_node(&node)?;
            context.output().say(format_args!("`{node}` is the default node"));
            Ok(())
        }
    }
}

/// What there is to say of a node, whether it runs or not.
pub fn document(context: &Context, home: &Home, node: &NodeHome) -> Result<NodeDocument, CliError> {
    match ask_if_running(context, node, async |client| client.show().await)? {
        Some(running) => Ok(running),
        None => stopped(home, node),
    }
}

/// What there is to say of a node that does not run.
pub fn stopped(home: &Home, node: &NodeHome) -> Result<NodeDocument, CliError> {
    let stored = Stored::load(node).map_err(|error| CliError::from(postern_node::control::fault::Fault::from(error)))?;
    let is_default = home.default_node()?.as_ref() == Some(node.name());
    let ending = node.stopping()?.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    Ok(NodeDocument::stopped(node.name(), is_default, &stored, ending))
}

fn list(context: &Context, home: &Home) -> Result<(), CliError> {
    let nodes = home.nodes()?;
    let documents = nodes.iter().map(|node| document(context, home, node)).collect::<Result<Vec<_>, _>>()?;
    context.output().list(&documents, || {
        let row = |node: &NodeDocument| {
            let count = |count: usize| count.to_string();
            let default = if node.is_default { "yes" } else { "" };
            vec![
                node.name.clone(),
                node.status.as_str().to_owned(),
                default.to_owned(),
                count(node.inlets.len()),
                count(node.outlets.len()),
                count(node.relays.len()),
            ]
        };
        table(&["NAME", "STATUS", "DEFAULT", "INLETS", "OUTLETS", "RELAYS"], &documents.iter().map(row).collect::<Vec<_>>())
    })
}

fn show(context: &Context, home: &Home, name: Option<&NodeName>) -> Result<(), CliError> {
    let document = document(context, home, &existing(home, name)?)?;
    context.output().show(&document, || plain(&document))
}

/// For how long a node goes on without its authority, by the newest word of it.
fn heard(FreshnessDocument { heard_at, max_staleness, seconds_left }: &FreshnessDocument) -> String {
    match seconds_left {
        0 => format!("{heard_at}: nothing is let in (max-staleness {max_staleness})"),
        left => format!("{heard_at}; without it, nothing is let in after {} (max-staleness {max_staleness})", time_left(*left)),
    }
}

/// A node for a person.
pub fn plain(node: &NodeDocument) -> String {
    let mut text = fields(&[
        ("name", node.name.clone()),
        ("status", node.status.as_str().to_owned()),
        ("identity", node.identity_name.clone()),
        ("default", if node.is_default { "yes" } else { "" }.to_owned()),
        ("pid", node.pid.map(|pid| pid.to_string()).unwrap_or_default()),
        ("HTTP server", node.http_server_address.clone().unwrap_or_default()),
        ("listens for peers at", node.tcp_listener_address.clone().unwrap_or_default()),
        ("authority last heard", node.authority.as_ref().map(heard).unwrap_or_default()),
    ]);
    let mut section = |heading: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("{heading}:\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    };
    let because = |reason: &Option<String>| reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    section(
        "inlets",
        node.inlets
            .iter()
            .map(|i| format!("{}  {} -> {}  {:?}{}", i.alias, i.bind_addr, destination(i), i.status, because(&i.reason)))
            .collect(),
    );
    section("outlets", node.outlets.iter().map(|o| format!("{} -> {}", o.worker_address, o.to)).collect());
    section(
        "relays",
        node.relays.iter().map(|r| format!("{}  {:?}{}", r.name, r.connection_status, because(&r.reason))).collect(),
    );
    section(
        "policies",
        node.policies
            .iter()
            .map(|p| {
                let target = p.resource.as_ref().or(p.resource_type.as_ref()).map_or("", String::as_str);
                format!("{target}  {}", p.expression)
            })
            .collect(),
    );
    section("policies of the project", node.guardrails.iter().map(guarded).collect());
    section("waiting", node.waiting.iter().map(|w| format!("{}: {} ({})", w.what, w.reason, w.code)).collect());
    text
}

fn start(context: &Context, home: &Home, name: Option<&NodeName>) -> Result<(), CliError> {
    let node = existing(home, name)?;
    if node_process::runs(context, &node)? {
        context.output().say(format_args!("the node `{}` runs already", node.name()));
    } else {
        let document = node_process::start(context, &node, Start { creating: false, connection_wait: CONNECTION_WAIT })?;
        context.output().say(format_args!("started the node `{}`", node.name()));
        tell_waiting(context, &document);
    }
    Ok(())
}

/// Tells the person which steps a node still waits for.
pub fn tell_waiting(context: &Context, node: &NodeDocument) {
    for waiting in &node.waiting {
        context
            .output()
            .warn(format_args!("{} waits at step `{}`: {} ({})", waiting.what, waiting.step, waiting.reason, waiting.code));
    }
    if !node.waiting.is_empty() {
        context.output().say("the node goes on trying; `postern status` tells how it is");
    }
}

fn stop_node(context: &Context, home: &Home, name: Option<&NodeName>) -> Result<(), CliError> {
    let node = existing(home, name)?;
    if stop::node(&node)? {
        context.output().say(format_args!("stopped the node `{}`", node.name()));
    } else {
        context.output().say(format_args!("the node `{}` does not run", node.name()));
    }
    Ok(())
}

fn delete(context: &Context, home: &Home, name: Option<&NodeName>, all: bool, yes: Yes) -> Result<(), CliError> {
    let nodes = if all { home.nodes()? } else { vec![existing(home, name)?] };
    if nodes.is_empty() {
        context.output().say("there are no nodes");
        return Ok(());
    }
    let names: Vec<&str> = nodes.iter().map(|node| node.name().as_str()).collect();
    confirm(context, &format!("Delete {}, with all that stands in it, logs of streams too?", names.join(", ")), yes.yes)?;
    for node in &nodes {
        stop::node(node)?;
        home.delete_node(node.name())?;
        context.output().say(format_args!("deleted the node `{}`, and its log of streams", node.name()));
    }
    Ok(())
}

fn logs(context: &Context, node: &NodeHome, follow: bool) -> Result<(), CliError> {
    let path = node.log_path();
    if !follow {
        return context.output().line(path.display());
    }
    let mut file = std::fs::File::open(&path)?;
    let mut shown = 0;
    loop {
        // A log that was begun anew is shorter than what was shown of it.
        let length = file.metadata()?.len();
        if length < shown {
            shown = file.seek(SeekFrom::Start(0))?;
        }
        let mut more = Vec::new();
        shown += file.read_to_end(&mut more)? as u64;
        let mut out = std::io::stdout().lock();
        if out.write_all(&more).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        // Files tell nobody when they grow.
        std::thread::sleep(FOLLOW);
    }
}
