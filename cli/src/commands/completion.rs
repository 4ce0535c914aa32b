//! `completion`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::Context;
use crate::error::CliError;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postern completion bash > ~/.local/share/bash-completion/completions/postern
  postern completion zsh > ~/.zfunc/_postern    # with fpath+=~/.zfunc before compinit in ~/.zshrc
  postern completion fish > ~/.config/fish/completions/postern.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "postern", &mut script);
    context.output().write(&String::from_utf8_lossy(&script))
}
