//! `reset`: the home as it was before the first command.

use crate::args::Yes;
use crate::context::Context;
use crate::error::CliError;
use crate::prompt::confirm;
use crate::stop;

/// Stop everything of this home and delete all that Postern made in it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    yes: Yes,
}

pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let path = context.home_path()?;
    if !path.exists() {
        context.output().say(format_args!("there is nothing at {}", path.display()));
        return Ok(());
    }
    confirm(context, &format!("Delete all nodes, identities and keys in {}?", path.display()), args.yes.yes)?;
    let home = context.home_as_it_is()?;
    for node in home.nodes()? {
        if stop::node(&node)? {
            context.output().say(format_args!("stopped the node `{}`", node.name()));
        }
    }
    if stop::servers(&home)? {
        context.output().say("stopped the servers");
    }
    for kept in home.reset()? {
        context.output().say(format_args!("kept {}, which was not made here", kept.display()));
    }
    context.output().say(format_args!("reset {}", path.display()));
    Ok(())
}
