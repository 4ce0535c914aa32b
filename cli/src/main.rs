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
mod passphrase;
mod prompt;
#[cfg(test)]
mod reference;
mod servers;
mod source;
mod stop;

use std::process::ExitCode;

use clap::Parser;
use postern_runtime::daemon;

use crate::args::{Cli, Format};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::output::Output;

fn main() -> ExitCode {
    daemon::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let context = Context::new(cli.global);
    match start(&context, cli.command) {
        Ok(code) => code,
        Err(error) => context.output().report(&error),
    }
}

/// A command line that is wrong, or a question for help.
fn not_understood(error: &clap::Error) -> ExitCode {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--output" && word != "--output=json");
    let json =
        arguments.next().is_some_and(|word| word == "--output=json" || arguments.next().is_some_and(|word| word == "json"));
    if json && error.use_stderr() {
        let text = error.to_string();
        let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        return Output::new(Some(Format::Json), false, false).report(&CliError::new(code::USAGE, what));
    }
    // Nobody can be told that the output is closed.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Exit::Usage.exit_code() } else { 0 })
}

fn start(context: &Context, command: args::Command) -> Result<ExitCode, CliError> {
    if let Some(daemon) = command.is_daemon() {
        context.start_logging(daemon)?;
    }
    commands::run(context, command)
}
