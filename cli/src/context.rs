//! What every command works with: the global flags, where output goes, and the home.

use std::io::IsTerminal;
use std::path::PathBuf;

use postern_runtime::home::{self, Home};

use crate::args::Global;
use crate::error::CliError;
use crate::output::Output;

#[derive(Debug)]
pub struct Context {
    global: Global,
    output: Output,
}

impl Context {
    pub fn new(global: Global) -> Self {
        // The convention of NO_COLOR: any value but the empty one counts.
        let no_color = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let output = Output::new(global.output, global.quiet, !no_color);
        Self { global, output }
    }

    pub const fn global(&self) -> &Global {
        &self.global
    }

    pub const fn output(&self) -> &Output {
        &self.output
    }

    /// Where the home is, whether or not it exists.
    pub fn home_path(&self) -> Result<PathBuf, CliError> {
        Ok(home::locate(self.global.home.as_deref(), |name| std::env::var_os(name))?)
    }

    /// The home, made if it is missing.
    pub fn home(&self) -> Result<Home, CliError> {
        Ok(Home::open(&self.home_path()?)?)
    }

    /// Whether somebody is there who could answer a question.
    pub fn may_ask(&self) -> bool {
        !self.global.no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }
}
