//! `completion`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::Context;
use crate::error::CliError;

/// Print the completion script of a shell
///
/// For bash: postern completion bash > ~/.local/share/bash-completion/completions/postern
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "postern", &mut script);
    context.output().write(&String::from_utf8_lossy(&script))
}
