//! What background processes are started with. Not for people: it speaks with the process that starts it.

use std::process::ExitCode;

use clap::Subcommand;
use postern_runtime::daemon::{AttachError, Attached};

use crate::background::written;
use crate::context::Context;
use crate::error::{Class, CliError};
use crate::servers::{self, Settings};

/// Run as a background process
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The servers of a home
    Servers,
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode, CliError> {
    let attached = Attached::take().map_err(|error| match &error {
        AttachError::NoCaller => CliError::from_error(Class::Usage, "NO_CALLER", &error),
        _ => CliError::from_error(Class::Failure, "ATTACH", &error),
    })?;
    let mut attached = Some(attached);
    let ended = match command {
        Command::Servers => serve(context, &mut attached),
    };
    match (ended, attached) {
        (Ok(()), _) => Ok(ExitCode::SUCCESS),
        // The caller says it; saying it here too would only fill the log.
        (Err(error), Some(attached)) => {
            tracing::error!(code = error.code, why = ?error.why, "cannot start: {}", error.what);
            attached.failed(&written(&error));
            Ok(ExitCode::from(error.class.exit_code()))
        }
        (Err(error), None) => Err(error),
    }
}

fn serve(context: &Context, attached: &mut Option<Attached>) -> Result<(), CliError> {
    let home = context.home()?;
    let settings =
        Settings::load(&home)?.ok_or_else(|| CliError::configuration("SERVER_SETTINGS", "these servers were never set up"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(servers::run(&home, settings, None, |ready| {
        if let Some(attached) = attached.take() {
            attached.ready(ready);
        }
    }))
}
