//! How a process becomes a daemon, tells the one that started it, and is told to stop.
//!
//! A daemon is the same program, run again in a session of its own. It gets no descriptor, terminal or working directory of
//! its caller: standard input is first a socket to the caller and then `/dev/null`, standard output and error are its log.
//! Over the socket the caller sends settings (so that no secret stands in the arguments) and the daemon reports, one JSON
//! document a line, how the start goes.

mod child;
mod launch;
mod signals;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

pub use child::{AttachError, Attached};
pub use launch::{Launch, LaunchError, StartError, Started, Starting};
pub use signals::{Signal, Signals};

/// Longest settings, and longest line of a report: a node's configuration with room.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// What the daemon says on its socket.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "event", content = "detail")]
enum Report {
    Progress(serde_json::Value),
    Ready(serde_json::Value),
    Failed(serde_json::Value),
}

/// Keeps what this process holds from other users and from disk: files it makes are its owner's alone, and it leaves no core
/// dump and no memory for others to read, because both would hold keys.
pub fn harden() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Neither can fail for a process that lowers its own limits; where a sandbox forbids it, the process is no worse than before.
    let _ = rustix::process::setrlimit(Resource::Core, none);
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
