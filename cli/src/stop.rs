//! Ending the background processes of a home.

use std::time::Duration;

use postern_runtime::files::Dir;
use postern_runtime::home::{Home, NodeHome, node, servers};
use postern_runtime::lock::Lock;
use rustix::process::Signal;

use crate::code;
use crate::error::CliError;

/// How long a process may drain before it is killed: longer than the deadline that it gives itself.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Stops a node, which may run in the foreground; whether it ran.
pub fn node(node: &NodeHome) -> Result<bool, CliError> {
    process(node.dir(), node::LOCK)
}

/// Stops the servers of the home; whether they ran.
pub fn servers(home: &Home) -> Result<bool, CliError> {
    // By their lock, and not by what they keep: that comes later.
    match home.servers_if_any()? {
        Some(dir) => process(&dir, servers::LOCK),
        None => Ok(false),
    }
}

fn process(dir: &Dir, lock: &str) -> Result<bool, CliError> {
    let Some(signalled) = Lock::signal_holder(dir, lock, Signal::TERM)? else { return Ok(false) };
    if !signalled.wait(DRAIN) {
        tracing::warn!(pid = signalled.pid().as_raw_nonzero(), "it does not stop when asked; killing it");
        signalled.kill();
        if !signalled.wait(DRAIN) {
            let pid = signalled.pid().as_raw_nonzero();
            return Err(CliError::new(code::NOT_STOPPED, format!("process {pid} cannot be stopped")));
        }
    }
    Ok(true)
}
