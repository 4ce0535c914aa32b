//! `postern-bench`: a portal beside what else could carry the same bytes, in one run, as one table.
//!
//! Everything is started by the bench, on loopback or in network namespaces of its own, and ends with it. What is measured, and how
//! to read it, is in `docs/guides/benchmarks.md`.

mod apart;
mod endings;
mod hop;
mod hosts;
mod idle_nodes;
mod machine;
mod measure;
mod missing;
mod options;
mod process;
mod results;
mod run;
mod service;
mod session;
mod storm;
mod table;
mod targets;
mod warden;
mod ways;
mod wire;

use clap::Parser;

use options::{Internal, Options};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let done = match &options.internal {
        None => run::compare(&options),
        Some(Internal::Hop { listen, target }) => hop::run(*listen, *target),
        Some(Internal::IdleNodes(wanted)) => idle_nodes::measure(&options, wanted),
        Some(Internal::IdleLoad { ticket, nodes }) => idle_nodes::load(ticket, *nodes),
        Some(Internal::Storm(wanted)) => storm::measure(&options, wanted),
        Some(Internal::StormLoad { ticket, nodes }) => storm::load(ticket, *nodes),
        Some(Internal::Session { command }) => session::run(command),
        Some(Internal::Warden) => warden::run(),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
