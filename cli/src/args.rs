//! The command line: global flags and nouns. Each noun's own arguments stand in its file under `commands/`.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use postern_runtime::telemetry::LogFormat;

use crate::commands;

/// Let one service in one network be reached by one peer in another network, and nothing else.
#[derive(Debug, Parser)]
#[command(
    name = "postern",
    version,
    propagate_version = false,
    max_term_width = 110,
    disable_help_subcommand = true,
    after_help = START_HERE
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command; they stand before or after it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print results and errors only (also QUIET=1)
    #[arg(short, long, global = true, env = "QUIET", hide_env = true, value_parser = FalseyValueParser::new())]
    pub quiet: bool,
    /// Log what happens to standard error; -vv and -vvv say more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// How results are printed [default: plain on a terminal, bare lines and JSON in a pipe]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Use no colours (also NO_COLOR=1)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Ask no questions (also NO_INPUT=1)
    #[arg(long, global = true, env = "NO_INPUT", hide_env = true, value_parser = FalseyValueParser::new())]
    pub no_input: bool,
    /// Where state is kept (also POSTERN_HOME) [default: $XDG_STATE_HOME/postern or ~/.local/state/postern]
    // The variable is read in `Context`: what clap reads itself stands in its messages as if it had been typed.
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// The file with the passphrase of a protected home, - for a line of standard input (also POSTERN_KEY_FILE)
    // The variable is read where the file is, for the reason above.
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How log lines look: pretty or json [default: pretty]
    #[arg(long, global = true, value_name = "FORMAT", default_value_t, hide_default_value = true)]
    pub log_format: LogFormat,
}

/// What somebody sees who types `postern`.
const START_HERE: &str = "\
Start here:
  postern demo                            # two companies reach each other, on this machine
  postern enroll                          # set up a project on this machine
  postern tcp-outlet create --to 6000     # let peers reach what listens on port 6000
  postern relay create                    # be found at the relay
  postern tcp-inlet create --from 7000    # reach it through the relay, on port 7000
  postern status                          # do bytes pass, and what is missing if not

`postern COMMAND --help` says more of a command, with examples.
Exit codes: 0 done, 1 failed or not found, 2 wrong command line, 69 cannot be reached,
75 come back later, 77 denied, 78 wrong configuration.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Plain,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(commands::demo::DemoArgs),
    Enroll(commands::enroll::Args),
    Status(commands::status::Args),
    Explain(commands::explain::Args),
    #[command(subcommand)]
    TcpOutlet(commands::tcp_outlet::Command),
    #[command(subcommand)]
    TcpInlet(commands::tcp_inlet::Command),
    #[command(subcommand)]
    Relay(commands::relay::Command),
    #[command(subcommand)]
    Policy(commands::policy::Command),
    #[command(subcommand)]
    Node(commands::node::Command),
    #[command(subcommand)]
    Project(commands::project::Command),
    #[command(subcommand)]
    ProjectMember(commands::project_member::Command),
    #[command(subcommand)]
    Ticket(commands::ticket::Command),
    #[command(subcommand)]
    Audit(commands::audit::Command),
    #[command(subcommand)]
    Identity(commands::identity::Command),
    Serve(commands::serve::Args),
    Reset(commands::reset::Args),
    Completion(commands::completion::Args),
    Version(commands::version::Args),
}

impl Command {
    /// Whether the process stays and serves, and so logs its life; `None` where the command itself finds out.
    pub fn is_daemon(&self) -> Option<bool> {
        match self {
            Self::Serve(args) => Some(args.stays()),
            Self::Node(commands::node::Command::Create(_)) => None,
            Self::Node(commands::node::Command::Daemon(_)) => Some(true),
            _ => Some(false),
        }
    }
}

/// `-y`, where something is deleted.
#[derive(Debug, Clone, Copy, Args)]
pub struct Yes {
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
