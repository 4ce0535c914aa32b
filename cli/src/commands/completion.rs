//! `completion`: what a shell needs to complete the command line.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory};
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
    clap_complete::generate(args.shell, &mut visible(&Cli::command()), "postern", &mut script);
    context.output().write(&String::from_utf8_lossy(&script))
}

/// The command line without what is hidden in it, which the scripts would offer, too.
fn visible(command: &Command) -> Command {
    let shown = |arg: &Arg| {
        let values = arg.get_possible_values();
        if values.iter().any(|value| value.is_hide_set()) {
            let values: Vec<_> = values.into_iter().filter(|value| !value.is_hide_set()).collect();
            arg.clone().value_parser(PossibleValuesParser::new(values))
        } else {
            arg.clone()
        }
    };
    // clap takes names that live as long as the process; this one ends when the script is printed.
    let lasting = |text: &str| -> &'static str { text.to_owned().leak() };
    let mut built = Command::new(lasting(command.get_name()))
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).map(shown))
        .subcommands(command.get_subcommands().filter(|child| !child.is_hide_set()).map(visible));
    if let Some(about) = command.get_about() {
        built = built.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        built = built.version(lasting(version));
    }
    built.disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_offer_what_is_shown() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut visible(&Cli::command()), "postern", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(!script.contains("daemon"), "{shell}");
            for word in ["tcp-inlet", "enrollment-ticket", "authority"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
