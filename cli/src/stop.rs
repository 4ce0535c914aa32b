//! Ending the background processes of a home.

use std::time::{Duration, Instant};

use postern_runtime::files::Dir;
use postern_runtime::home::{Home, NodeHome, node, servers};
use postern_runtime::lock::Lock;
use rustix::process::Signal;

use crate::code;
use crate::context::Context;
use crate::error::CliError;

/// How long a process may drain before it is killed: longer than the deadline that it gives itself.
pub const DRAIN: Duration = Duration::from_secs(20);

/// How often a process that is stopping is looked at: a lock tells nobody when it is free.
const LOOK: Duration = Duration::from_millis(50);

/// Whether a process holds the lock, and goes on to. One that was told to stop lets its streams finish first: it is waited for, so
/// that whoever wants it to run can start it. `what` says of it that it is stopping, `hint` what to try where it does not end.
///
/// # Errors
/// Where it is stopping and does not end.
pub fn goes_on(context: &Context, (dir, lock): (&Dir, &str), what: &str, hint: String) -> Result<bool, CliError> {
    let deadline = Instant::now() + DRAIN;
    let mut told = false;
    loop {
        if Lock::stopping(dir, lock)?.is_none() {
            return Ok(Lock::holder(dir, lock)?.is_some());
        }
        if Instant::now() >= deadline {
            let what = format!("{what}, and has not ended after {} s", DRAIN.as_secs());
            return Err(CliError::new(code::RUNNING, what).try_this(hint));
        }
        if !told {
            context.output().say(format_args!("{what}; waiting until it has ended"));
            told = true;
        }
        std::thread::sleep(LOOK);
    }
}

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
