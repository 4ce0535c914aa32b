//! The process of a node: started in the background from here, or run as this process.

use std::ffi::OsString;
use std::time::Duration;

use postern_node::control::document::NodeDocument;
use postern_node::control::fault::{Class, Fault, code};
use postern_node::daemon::{self, Start};
use postern_proto::name::NodeName;
use postern_runtime::daemon::{Attached, Launch, StartError};
use postern_runtime::home::{Home, NodeHome, node};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::{CliError, Exit};

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

/// Starts a node in the background and waits until it says that it is up, or why not.
pub fn start(context: &Context, node: &NodeHome, how: Start) -> Result<NodeDocument, CliError> {
    let told = Told { creating: how.creating, connection_wait: how.connection_wait };
    let settings = Zeroizing::new(serde_json::to_vec(&told).map_err(std::io::Error::from)?);
    let mut arguments: Vec<OsString> = vec!["--home".into(), context.home_path()?.into(), "node".into(), "daemon".into()];
    arguments.push(node.name().as_str().into());
    arguments.extend(context.daemon_arguments());
    let launch = Launch { arguments, log: node.dir().append(node::LOG)?, settings };
    let starting = launch.spawn().map_err(|error| CliError::from_error(Exit::Failure, "START", &error))?;
    match starting.wait(how.connection_wait + START_DEADLINE, |_| {}) {
        Ok(started) => serde_json::from_value(started.detail).map_err(|error| {
            CliError::failure("START", format!("the node's process reported something that is no report: {error}"))
        }),
        Err(StartError::Failed(detail)) => Err(failed(detail)),
        Err(error) => {
            Err(CliError::from_error(Exit::Failure, "START", &error)
                .try_this(format!("its log is {}", node.log_path().display())))
        }
    }
}

fn failed(detail: Value) -> CliError {
    match serde_json::from_value::<Fault>(detail) {
        Ok(fault) => fault.into(),
        Err(error) => CliError::failure("START", format!("the node's process failed and did not say why: {error}")),
    }
}

/// The background process itself. To be called before any thread is made.
pub fn daemon(context: &Context, args: &DaemonArgs) -> Result<(), CliError> {
    let attached = Attached::take().map_err(|error| CliError::from_error(Exit::Usage, "NO_CALLER", &error))?;
    let mut attached = Some(attached);
    let ended = run_attached(context, &args.name, &mut attached);
    match (ended, attached) {
        // The caller tells the person.
        (Err(fault), Some(attached)) => {
            attached.failed(&fault);
            Err(fault.into())
        }
        (ended, _) => ended.map_err(CliError::from),
    }
}

fn run_attached(context: &Context, name: &NodeName, attached: &mut Option<Attached>) -> Result<(), Fault> {
    let internal = |what: &str| Fault::new(Class::Failure, code::INTERNAL, what);
    let settings = attached.as_ref().map(|attached| attached.settings().to_vec()).unwrap_or_default();
    let told: Told =
        serde_json::from_slice(&settings).map_err(|_| internal("the node's process was told something malformed"))?;
    let home = context.home_path().map_err(|error| internal(&error.what))?;
    let start = Start { creating: told.creating, connection_wait: told.connection_wait };
    run(Home::open(&home)?, name, start, |document| {
        if let Some(attached) = attached.take() {
            attached.ready(document);
        }
    })
}

/// Runs a node as this process until it is told to stop.
pub fn foreground(home: Home, name: &NodeName, start: Start, ready: impl FnOnce(&NodeDocument)) -> Result<(), CliError> {
    run(home, name, start, ready).map_err(CliError::from)
}

fn run(home: Home, name: &NodeName, start: Start, ready: impl FnOnce(&NodeDocument)) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(Class::Failure, code::INTERNAL, "no runtime").because(error.to_string()))?;
    runtime.block_on(daemon::run(home, name, start, ready))
}
