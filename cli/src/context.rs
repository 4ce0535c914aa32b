//! What every command works with: the global flags, where output goes, and the home.

use std::cell::OnceCell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use postern_proto::time::Timestamp;
use postern_runtime::clock::Clock;
use postern_runtime::home::{self, Home};
use postern_runtime::telemetry::{self, Telemetry};
use postern_runtime::vault::{Keys, Opened};
use tokio::runtime::{Builder, Runtime};

use crate::args::Global;
use crate::code;
use crate::error::CliError;
use crate::output::Output;
use crate::passphrase;

#[derive(Debug)]
pub struct Context {
    global: Global,
    output: Output,
    runtime: OnceCell<Runtime>,
    /// What opens the home, if it is protected; the same for every handle of it, so that nobody is asked twice.
    keys: OnceCell<Arc<Keys>>,
    clock: Clock,
    /// Set once a person was told that the home is protected by halves.
    told_half_protected: OnceCell<()>,
}

impl Context {
    pub fn new(global: Global) -> Self {
        // The convention of NO_COLOR: any value but the empty one counts.
        let no_color = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let output = Output::new(global.output, global.quiet, !no_color);
        Self {
            global,
            output,
            runtime: OnceCell::new(),
            keys: OnceCell::new(),
            clock: Clock::new(),
            told_half_protected: OnceCell::new(),
        }
    }

    pub const fn output(&self) -> &Output {
        &self.output
    }

    /// Where the home is, whether or not it exists.
    pub fn home_path(&self) -> Result<PathBuf, CliError> {
        let home = self.global.home.clone().or_else(|| std::env::var_os("POSTERN_HOME").map(PathBuf::from));
        Ok(home::locate(home.as_deref(), |name| std::env::var_os(name))?)
    }

    /// The home, made if it is missing, and protected from the start if a passphrase was given for it.
    pub fn home(&self) -> Result<Home, CliError> {
        let home = self.home_as_it_is()?;
        home.protect_if_new()?;
        // Where it cannot be told, whatever needs a key says why.
        if self.told_half_protected.get().is_none() && home.is_half_protected().is_ok_and(|half| half) {
            let _ = self.told_half_protected.set(());
            self.output.warn(
                "not all keys of this home are sealed: protecting it, or opening it for good, was interrupted. Finish it with\n  \
                 postern identity protect, or postern identity unprotect",
            );
        }
        Ok(home)
    }

    /// The home, which must be there: a command that only looks makes none, and a wrong place is no empty one.
    pub fn home_that_is(&self) -> Result<Home, CliError> {
        let path = self.home_path()?;
        // What cannot be looked at is an error of its own.
        if path.try_exists().is_ok_and(|there| !there) {
            return Err(CliError::new(code::HOME_MISSING, format!("there is no home at `{}`", path.display()))
                .try_this("look at POSTERN_HOME and --home; or begin with `postern enroll`, or `postern node create`"));
        }
        self.home()
    }

    /// The home, made if it is missing.
    pub fn home_as_it_is(&self) -> Result<Home, CliError> {
        Ok(Home::open_with(&self.home_path()?, Arc::clone(self.keys()))?)
    }

    /// The file that was named for the passphrase.
    pub fn key_file(&self) -> Option<PathBuf> {
        passphrase::named(self.global.key_file.clone())
    }

    /// What opens the home, if it is protected.
    pub fn keys(&self) -> &Arc<Keys> {
        self.keys.get_or_init(|| Arc::new(passphrase::of_home(self.global.key_file.clone(), self.may_ask())))
    }

    /// Uses the key that this process was handed, and no other. To be called before the home is opened.
    pub fn use_key(&self, key: Option<Opened>) {
        // It was opened already only where nobody hands anything over.
        let _ = self.keys.set(Arc::new(key.map_or_else(Keys::none, Keys::handed)));
    }

    /// Whether somebody is there who could answer a question.
    pub fn may_ask(&self) -> bool {
        !self.global.no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Now, by this machine's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The global flags that a background process takes over from the command that starts it.
    pub fn daemon_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["--log-format".into(), self.global.log_format.to_string().into()];
        arguments.extend((0..self.global.verbose).map(|_| "-v".into()));
        arguments
    }

    /// Starts to log, as a process that stays or as a command that is silent unless asked.
    pub fn start_logging(&self, daemon: bool) -> Result<(), CliError> {
        let Global { log_format, verbose, .. } = self.global;
        Ok(telemetry::init(Telemetry { format: log_format, verbosity: verbose, daemon, color: self.output.color() })?)
    }

    /// Runs what waits for others, on the one thread that a command needs.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, CliError> {
        let runtime = match self.runtime.get() {
            Some(runtime) => runtime,
            None => {
                let built = Builder::new_current_thread().enable_all().build()?;
                self.runtime.get_or_init(|| built)
            }
        };
        Ok(runtime.block_on(work))
    }
}
