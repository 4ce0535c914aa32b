//! `version`: which program this is.

use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::Versioned;

/// Print the version
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    protocol: u8,
}

pub fn run(context: &Context, _args: &Args) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    context.output().created(format_args!("postern {version}"), &Versioned::new(Version { version, protocol: 1 }))
}
