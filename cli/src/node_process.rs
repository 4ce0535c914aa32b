//! The process of a node: started in the background from here, or run as this process.

use std::time::Duration;

use postern_node::control::document::NodeDocument;
use postern_node::daemon::{self, Start};
use postern_node::store::Stored;
use postern_proto::name::{IdentityName, NodeName};
use postern_runtime::home::{Home, NodeHome, node};
use postern_runtime::lock::Lock;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::background::{self, Background};
use crate::context::Context;
use crate::error::CliError;
use crate::stop;

/// How long a node may take beyond the time that it was told to wait for its peers.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What the background process is told in private.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    creating: bool,
    connection_wait: Duration,
}

/// The hidden command that [`start`] runs.
#[derive(Debug, clap::Args)]
pub struct DaemonArgs {
    name: NodeName,
}

/// Whether a process runs the node, and goes on to; one that was told to stop is waited for.
///
/// # Errors
/// Where it is stopping and does not end.
pub fn runs(context: &Context, node: &NodeHome) -> Result<bool, CliError> {
    let name = node.name();
    let hint = format!("end it at once: postern node stop {name}");
    stop::goes_on(context, (node.dir(), node::LOCK), &format!("the node `{name}` is stopping"), hint)
}

/// Starts a node in the background and waits until it says that it is up, or why not.
pub fn start(context: &Context, node: &NodeHome, how: Start) -> Result<NodeDocument, CliError> {
    let told = Told { creating: how.creating, connection_wait: how.connection_wait };
    background::start(
        context,
        Background {
            command: &["node", "daemon", node.name().as_str()],
            log: (node.dir(), node::LOG),
            settings: Zeroizing::new(serde_json::to_vec(&told).map_err(std::io::Error::from)?),
            limit: how.connection_wait + START_DEADLINE,
        },
    )
}

/// The background process itself. To be called before any thread is made.
pub fn daemon(context: &Context, args: &DaemonArgs) -> Result<(), CliError> {
    background::run(context, |attached, settings| {
        let told: Told = serde_json::from_slice(settings).map_err(std::io::Error::from)?;
        let start = Start { creating: told.creating, connection_wait: told.connection_wait };
        foreground(context.home()?, &args.name, start, |document| {
            if let Some(attached) = attached.take() {
                attached.ready(document);
            }
        })
    })
}

/// Tells the running nodes of an identity that what stands on disk has changed: it has joined a project.
pub fn reload(home: &Home, identity: &IdentityName) -> Result<(), CliError> {
    for node in home.nodes()? {
        if Stored::load(&node)?.identity == *identity {
            Lock::signal_holder(node.dir(), node::LOCK, Signal::HUP)?;
        }
    }
    Ok(())
}

/// Runs a node as this process until it is told to stop.
pub fn foreground(home: Home, name: &NodeName, start: Start, ready: impl FnOnce(&NodeDocument)) -> Result<(), CliError> {
    let runtime = postern_runtime::workers::runtime()?;
    Ok(runtime.block_on(daemon::run(home, name, start, ready))?)
}
