//! A session of its own for each process that the bench starts.
//!
//! Linux schedules the processes of one session as a group (autogroup, sched(7)). Postern's nodes and servers are daemons, each in its own; a
//! chain or a peer that shared the session of the client and the service would be measured under other rules than these, and than its own users
//! run it. On two cores that alone gave the chain half as many connections again.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Result;

/// The same command, in a session of its own and under the same process id.
pub fn around(command: &Command) -> Result<Command> {
    let mut apart = Command::new(std::env::current_exe()?);
    apart.arg("session").arg("--").arg(command.get_program()).args(command.get_args());
    command.get_current_dir().map(|directory| apart.current_dir(directory));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => apart.env(name, value),
            None => apart.env_remove(name),
        };
    }
    Ok(apart)
}

/// Becomes `command`, the program and its arguments, in a new session. Returns only where that fails.
pub fn run(command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().ok_or("no program")?;
    rustix::process::setsid()?;
    let error = Command::new(program).args(arguments).exec();
    Err(format!("{}: {error}", program.display()).into())
}
