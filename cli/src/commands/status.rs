//! `status`: for every portal, whether a byte can really pass now and, if not, which step fails.

mod watch;

use std::process::ExitCode;
use std::time::Duration;

use postern_node::control::document::{
    AUDIT, AUTHORITY, Connection, FreshnessDocument, NodeDocument, NodeState, NodeStatusDocument, PortalDocument,
    UnreachedDocument, WaitingDocument,
};
use postern_proto::address::HostPort;
use postern_proto::time::parse_duration;
use postern_runtime::home::{Home, servers};
use postern_runtime::lock::Lock;
use serde::Serialize;

use super::policy::{open, said};
use super::tcp_inlet::destination;
use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::answer_if_running;
use crate::output::{Versioned, table, time_left};
use crate::servers::Settings;

/// Tell for every portal whether bytes can pass now, and which step fails if not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every portal is tried, up to its target. The exit code is 0 only if all of them work, the relay
names of this home are up, and what was set up here runs; where there is no home, it is 78.
With --watch it goes on until Ctrl-C, and then exits 0; piped, each look is one line of JSON.

Examples:
  postern status
  postern status --output json
  postern status --watch --interval 5s")]
pub struct Args {
    /// Look again and again, until Ctrl-C; on a terminal in place
    #[arg(long)]
    watch: bool,
    /// How long to wait between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval, requires = "watch")]
    interval: Duration,
}

/// Each look opens a probe to every target: not more of them than a person can read.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST_INTERVAL { Err("the shortest interval is 100ms".to_owned()) } else { Ok(interval) }
}

#[derive(Debug, Serialize)]
struct Document {
    nodes: Vec<NodeStatusDocument>,
    servers: Vec<ServersDocument>,
    portals: Vec<PortalDocument>,
}

/// The servers of this home; they share one process and one port.
#[derive(Debug, Serialize)]
struct ServersDocument {
    roles: &'static [&'static str],
    pid: Option<u32>,
    address: HostPort,
    advertised: HostPort,
    status: NodeState,
    /// For persons: what `address` and `advertised` say together.
    #[serde(skip)]
    told_elsewhere: Option<String>,
}

/// One look at all that there is.
struct Look {
    document: Versioned<Document>,
    /// What the nodes show, for what a person reads.
    nodes: Vec<NodeDocument>,
}

pub fn run(context: &Context, args: &Args) -> Result<ExitCode, CliError> {
    let home = context.home()?;
    if args.watch {
        return watch::run(context, &home, args.interval);
    }
    let Look { document, nodes } = context.block_on(look(&home))??;
    context.output().show(&document, || plain(&document, &nodes))?;
    let ok = well(&document, &nodes);
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(home: &Home) -> Result<Look, CliError> {
    let (mut nodes, mut shown) = (Vec::new(), Vec::new());
    for node in home.nodes()? {
        let status = answer_if_running(&node, async |client| client.status().await).await?;
        // After the portals were tried, which takes a while: what it is judged by is no older than what is shown.
        let document = match answer_if_running(&node, async |client| client.show().await).await? {
            Some(running) => running,
            None => super::node::stopped(home, &node)?,
        };
        nodes.push(status.unwrap_or_else(|| stopped(&document)));
        shown.push(document);
    }
    let document = Versioned::new(Document {
        portals: nodes.iter().flat_map(|node| node.portals.iter().cloned()).collect(),
        nodes,
        servers: servers_of(home)?,
    });
    Ok(Look { document, nodes: shown })
}

/// A node that does not run, or is about to end: none of its portals takes a connection.
fn stopped(node: &NodeDocument) -> NodeStatusDocument {
    let how = if node.status == NodeState::Stopping { "is being stopped" } else { "does not run" };
    let portal = |inlet: &String| PortalDocument {
        inlet: inlet.clone(),
        ok: false,
        key_exchange: None,
        step: Some("node".to_owned()),
        code: Some(postern_node::engine::code::NODE_STOPPED.into()),
        reason: Some(format!("the node `{}` {how}; start it: postern node start {}", node.name, node.name)),
        refusal: None,
    };
    NodeStatusDocument {
        api_version: node.api_version,
        name: node.name.clone(),
        status: node.status,
        pid: node.pid,
        authority: None,
        waiting: Vec::new(),
        open_to_every_member: node.open_to_every_member.clone(),
        policy_findings: node.policy_findings.clone(),
        unreached: Vec::new(),
        portals: node.inlets.iter().map(|inlet| portal(&inlet.alias)).collect(),
    }
}

fn servers_of(home: &Home) -> Result<Vec<ServersDocument>, CliError> {
    let Some(settings) = Settings::load(home)? else { return Ok(Vec::new()) };
    let dir = home.servers()?;
    let holder = Lock::holder(&dir, servers::LOCK)?;
    let status = match holder {
        None => NodeState::Stopped,
        Some(_) if Lock::stopping(&dir, servers::LOCK)?.is_some() => NodeState::Stopping,
        Some(_) => NodeState::Running,
    };
    Ok(vec![ServersDocument {
        roles: settings.roles.names(),
        pid: holder.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()),
        status,
        advertised: settings.advertised(),
        told_elsewhere: settings.told_elsewhere(),
        address: settings.listen,
    }])
}

/// What a node says it waits for while it has joined no project.
const ENROLMENT: &str = "enrolment";

fn is_no_member(waiting: &WaitingDocument) -> bool {
    waiting.code == postern_node::engine::code::NOT_A_MEMBER.as_str()
}

/// Whether all that was set up here does what it is for. A node whose relay name is down cannot be found, and the machine that would
/// find that out is another one; an audit log that was changed is for somebody to act on.
fn well(document: &Document, nodes: &[NodeDocument]) -> bool {
    let empty = |node: &NodeDocument| node.inlets.is_empty() && node.outlets.is_empty() && node.relays.is_empty();
    let node_is_well = |node: &NodeDocument| match node.status {
        NodeState::Stopping | NodeState::Stopped => empty(node),
        NodeState::Running => {
            node.relays.iter().all(|relay| relay.connection_status == Connection::Up)
                && node.waiting.iter().all(|waiting| waiting.what != ENROLMENT && waiting.what != AUDIT && !is_no_member(waiting))
        }
    };
    document.portals.iter().all(|portal| portal.ok)
        && document.servers.iter().all(|servers| servers.status == NodeState::Running)
        && nodes.iter().all(node_is_well)
}

fn plain(document: &Document, nodes: &[NodeDocument]) -> String {
    let mut text = String::new();
    for servers in &document.servers {
        let roles = servers.roles.join(" and ");
        text.push_str(&format!(
            "{roles}: {} on {}, told to others as {}{}\n",
            servers.status.as_str(),
            servers.address,
            servers.advertised,
            match servers.status {
                NodeState::Running | NodeState::Stopping => "",
                NodeState::Stopped if servers.roles.contains(&"authority") => "; start them: postern enroll",
                NodeState::Stopped => "; start it: postern serve",
            }
        ));
        if let Some(odd) = &servers.told_elsewhere {
            text.push_str(&format!("note: {odd}\n"));
        }
    }
    for node in &document.nodes {
        let hint = match node.status {
            NodeState::Running => String::new(),
            NodeState::Stopping => "; it lets its streams finish".to_owned(),
            NodeState::Stopped => format!("; start it: postern node start {}", node.name),
        };
        text.push_str(&format!("node {}: {}{hint}\n", node.name, node.status.as_str()));
        let away = |waiting: &WaitingDocument| waiting.what == AUTHORITY && !is_no_member(waiting);
        if let Some(authority) = node.authority.as_ref().filter(|_| node.waiting.iter().any(away)) {
            let FreshnessDocument { heard_at, max_staleness, seconds_left } = authority;
            text.push_str(&match seconds_left {
                0 => format!("  the authority was last heard at {heard_at}: nothing is let in (max-staleness {max_staleness})\n"),
                left => format!(
                    "  the authority was last heard at {heard_at}: in {} nothing is let in any more (max-staleness {max_staleness})\n",
                    time_left(*left)
                ),
            });
        }
        // What an inlet waits for stands beside its portal.
        let told: Vec<String> = node.portals.iter().map(|portal| format!("tcp-inlet {}", portal.inlet)).collect();
        for waiting in node.waiting.iter().filter(|waiting| !told.contains(&waiting.what)) {
            // Nothing that waits: it takes somebody with a ticket.
            if is_no_member(waiting) {
                text.push_str(&format!("  no member any more: {} ({})\n", waiting.reason, waiting.code));
                continue;
            }
            text.push_str(&format!(
                "  {} waits at step `{}`: {} ({})\n",
                waiting.what, waiting.step, waiting.reason, waiting.code
            ));
        }
        for outlet in &node.unreached {
            let UnreachedDocument { outlet, at, code, reason, .. } = outlet;
            text.push_str(&format!("  tcp-outlet {outlet}, when it was asked for last ({at}): {reason} ({code})\n"));
        }
    }
    for node in nodes {
        for resource in &node.open_to_every_member {
            text.push_str(&format!("note: on node {}, {}\n", node.name, open(resource)));
        }
        for finding in &node.policy_findings {
            text.push_str(&format!("note: on node {}, {}\n", node.name, said(finding)));
        }
    }
    if document.nodes.is_empty() && document.servers.is_empty() {
        text.push_str(
            "nothing is set up here; begin with `postern enroll`, or with `postern node create --enrollment-ticket TICKET`\n",
        );
    }
    let row = |node: &str, portal: &PortalDocument| {
        let inlets = nodes.iter().filter(|shown| shown.name == node).flat_map(|shown| &shown.inlets);
        let inlet = inlets.into_iter().find(|inlet| inlet.alias == portal.inlet);
        let verdict = if portal.ok { "ok" } else { "DOWN" };
        let why = match (&portal.step, &portal.code, &portal.reason) {
            (Some(step), Some(code), Some(reason)) => match &portal.refusal {
                Some(refusal) => format!("{step}: {reason} ({code}, {refusal})"),
                None => format!("{step}: {reason} ({code})"),
            },
            _ => String::new(),
        };
        let from = inlet.map(|inlet| inlet.bind_addr.clone()).unwrap_or_default();
        let keys = portal.key_exchange.clone().unwrap_or_default();
        vec![portal.inlet.clone(), from, inlet.map(destination).unwrap_or_default(), verdict.to_owned(), keys, why]
    };
    if !document.portals.is_empty() {
        let rows = document.nodes.iter().flat_map(|node| node.portals.iter().map(|portal| row(&node.name, portal)));
        text.push_str(&table(&["PORTAL", "FROM", "TO", "BYTES PASS", "KEYS", "WHY NOT"], &rows.collect::<Vec<_>>()));
    }
    text
}
