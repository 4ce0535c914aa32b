//! The `postern` command.

mod args;
mod authority;
mod background;
mod code;
mod commands;
mod context;
mod error;
mod http;
mod node_choice;
mod node_process;
mod output;
mod prompt;
mod servers;
mod source;
mod stop;

use std::process::ExitCode;

use clap::Parser;
use postern_runtime::daemon;

use crate::args::Cli;
use crate::context::Context;
use crate::error::CliError;

fn main() -> ExitCode {
    daemon::harden();
    let cli = Cli::parse();
    let context = Context::new(cli.global);
    match start(&context, cli.command) {
        Ok(code) => code,
        Err(error) => context.output().report(&error),
    }
}

fn start(context: &Context, command: args::Command) -> Result<ExitCode, CliError> {
    if let Some(daemon) = command.is_daemon() {
        context.start_logging(daemon)?;
    }
    commands::run(context, command)
}
