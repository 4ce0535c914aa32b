//! A file per noun: its arguments, and what they do.

pub mod audit;
pub mod completion;
pub mod demo;
pub mod enroll;
pub mod explain;
pub mod identity;
pub mod node;
pub mod policy;
pub mod project;
pub mod project_member;
pub mod relay;
pub mod reset;
pub mod serve;
pub mod status;
pub mod tcp_inlet;
pub mod tcp_outlet;
pub mod ticket;
pub mod version;

use std::process::ExitCode;

use crate::args::Command;
use crate::context::Context;
use crate::error::CliError;

/// Does what the command line asks for.
pub fn run(context: &Context, command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Enroll(args) => enroll::run(context, &args)?,
        Command::Serve(args) => serve::run(context, &args)?,
        Command::Node(command) => node::run(context, command)?,
        Command::Relay(command) => relay::run(context, command)?,
        Command::TcpOutlet(command) => tcp_outlet::run(context, command)?,
        Command::TcpInlet(command) => tcp_inlet::run(context, command)?,
        Command::Policy(command) => return policy::run(context, command),
        Command::Demo(args) => demo::run(context, &args)?,
        Command::Project(command) => project::run(context, command)?,
        Command::ProjectMember(command) => project_member::run(context, command)?,
        Command::Ticket(command) => ticket::run(context, command)?,
        Command::Audit(command) => return audit::run(context, command),
        Command::Identity(command) => identity::run(context, command)?,
        Command::Status(args) => return status::run(context, &args),
        Command::Explain(args) => return explain::run(context, &args),
        Command::Reset(args) => reset::run(context, &args)?,
        Command::Completion(args) => completion::run(context, &args)?,
        Command::Version(args) => version::run(context, &args)?,
    }
    Ok(ExitCode::SUCCESS)
}
