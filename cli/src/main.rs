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
mod when;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use postern_runtime::daemon;
use postern_runtime::home::RefusalRecord;

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
        Err(error) => {
            keep_refusal(&context, &error);
            context.output().report(&error)
        }
    }
}

/// A command line that is wrong, or a question for help.
fn not_understood(error: &clap::Error) -> ExitCode {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--output" && word != "--output=json");
    let json =
        arguments.next().is_some_and(|word| word == "--output=json" || arguments.next().is_some_and(|word| word == "json"));
    if json && error.use_stderr() {
        let text = error.to_string();
        let mut parts = text.split("\n\n");
        let what = parts.next().unwrap_or_default().trim_start_matches("error: ");
        let lines = parts.flat_map(str::lines).map(str::trim);
        let hints =
            lines.filter_map(|line| line.strip_prefix("tip: ").or(line.starts_with("For more information").then_some(line)));
        let error = hints.fold(CliError::new(code::USAGE, what), CliError::try_this);
        return Output::new(Some(Format::Json), false, false).report(&error);
    }
    // Nobody can be told that the output is closed.
    let _ = error.print();
    // Help that was not asked for is no error with a code.
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = writeln!(std::io::stderr(), "  code: {}", code::USAGE);
    }
    ExitCode::from(if error.use_stderr() { Exit::Usage.exit_code() } else { 0 })
}

/// Keeps what the authority refused, so that `explain` finds it here, too.
fn keep_refusal(context: &Context, error: &CliError) {
    let Some(id) = error.refusal else { return };
    let meaning = code::ALL.iter().chain(postern_node::control::code::ALL).find(|code| code.as_str() == error.code);
    let record = RefusalRecord {
        node: "command".to_owned(),
        code: error.code.clone(),
        meaning: meaning.map(|code| code.meaning().to_owned()).unwrap_or_default(),
        reason: format!("the authority refused a command: {}", error.what),
        ..RefusalRecord::new(id, "authority", context.now())
    };
    // The error itself is what matters.
    if let Ok(home) = context.home_as_it_is()
        && let Err(fault) = home.note_refusal(&record)
    {
        tracing::warn!(%fault, "the refusal could not be kept");
    }
}

fn start(context: &Context, command: args::Command) -> Result<ExitCode, CliError> {
    if let Some(daemon) = command.is_daemon() {
        context.start_logging(daemon)?;
    }
    commands::run(context, command)
}
