//! A file per noun: its arguments, and what they do.

pub mod completion;
pub mod daemon;
pub mod enroll;
pub mod identity;
pub mod project;
pub mod project_member;
pub mod reset;
pub mod serve;
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
        Command::Serve(args) => return serve::run(context, &args),
        Command::Project(command) => project::run(context, command)?,
        Command::ProjectMember(command) => project_member::run(context, command)?,
        Command::Ticket(command) => ticket::run(context, command)?,
        Command::Identity(command) => identity::run(context, command)?,
        Command::Reset(args) => reset::run(context, &args)?,
        Command::Completion(args) => completion::run(context, &args)?,
        Command::Daemon(command) => return daemon::run(context, command),
        Command::Version(args) => version::run(context, &args)?,
    }
    Ok(ExitCode::SUCCESS)
}
