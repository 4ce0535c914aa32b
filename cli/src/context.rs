//! What every command works with: the global flags, where output goes, and the home.

use std::cell::OnceCell;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_proto::time::Timestamp;
use postern_runtime::clock::Clock;
use postern_runtime::files::FileError;
use postern_runtime::home::{self, Home, HomeError};
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

    /// The home, made if it is missing, and protected from the start if a passphrase was given for it: for commands that make something.
    pub fn home_or_new(&self) -> Result<Home, CliError> {
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
    pub fn home(&self) -> Result<Home, CliError> {
        self.must_be_there()?;
        self.home_or_new()
    }

    /// Whether a home is there, or something that cannot be looked at, which is an error of its own. A directory without anything of a home is none.
    pub fn is_there(&self) -> Result<bool, CliError> {
        Ok(Home::is_at(&self.home_path()?))
    }

    /// That there is a home.
    pub fn must_be_there(&self) -> Result<(), CliError> {
        if !self.is_there()? {
            let path = self.home_path()?;
            let what = if path.exists() { "nothing of a home is in" } else { "there is no home at" };
            return Err(CliError::new(code::HOME_MISSING, format!("{what} `{}`", path.display()))
                .try_this("look at POSTERN_HOME and --home; or begin with `postern enroll`, or `postern node create`"));
        }
        Ok(())
    }

    /// The home, made if it is missing.
    pub fn home_as_it_is(&self) -> Result<Home, CliError> {
        let path = self.home_path()?;
        Home::open_with(&path, Arc::clone(self.keys())).map_err(|error| match &error {
            HomeError::File(file) if file.io_kind() == Some(ErrorKind::PermissionDenied) => not_permitted(&path, error),
            // Its mode may be right for what it is: no advice to change it.
            HomeError::File(FileError::Mode { .. } | FileError::Owner { .. }) if !Home::is_at(&path) => {
                CliError::new(code::HOME_UNSAFE, format!("`{}` holds no home, and is not for this user alone", path.display()))
                    .try_this("name a directory that is empty, or not there yet, with --home or POSTERN_HOME")
            }
            _ => error.into(),
        })
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

/// `error`, by which the home at `path` may not be opened or made: whose it is, and what helps.
fn not_permitted(path: &Path, error: HomeError) -> CliError {
    let own = rustix::process::geteuid().as_raw();
    // Of a home that cannot be seen, the directory that hides it tells.
    let seen = path.ancestors().find_map(|path| Some((path, std::fs::metadata(path).ok()?.uid())));
    let built = CliError::from(error);
    match seen.filter(|(_, owner)| *owner != own) {
        Some((place, owner)) => {
            let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let owner = user(&users, owner);
            built
                .why(format!("`{}` belongs to {owner}, and this is {}", place.display(), user(&users, own)))
                .try_this(format!("run it as {owner}, or set POSTERN_HOME to a directory of your own"))
        }
        None => built.try_this("look at the rights of that directory, or set POSTERN_HOME to another one"),
    }
}

/// The user `uid` by its name and number, where `users`, the text of `/etc/passwd`, has the name.
fn user(users: &str, uid: u32) -> String {
    let named = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| format!("user {name} ({uid})"))
    };
    users.lines().find_map(named).unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    use postern_runtime::files::FileError;

    use super::*;

    #[test]
    fn who_may_not_use_a_home_is_told_whose_it_is() {
        let users = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user(users, 1000), "user ann (1000)");
        assert_eq!(user(users, 7), "user 7");

        let denied = |path: &Path| {
            let source = std::io::Error::from(ErrorKind::PermissionDenied);
            not_permitted(path, HomeError::File(FileError::Io { action: "open", path: path.to_owned(), source }))
        };
        let scratch = tempfile::tempdir().unwrap();
        let hidden = scratch.path().join("a/home");
        let of_mine = denied(&hidden);
        assert!(of_mine.code == "STORAGE" && of_mine.try_this[0].contains("POSTERN_HOME"), "{of_mine:?}");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(scratch.path(), Some(54321), None).unwrap();
            let of_another = denied(&hidden);
            assert!(of_another.why.iter().any(|why| why.contains("belongs to user 54321")), "{of_another:?}");
            assert!(of_another.try_this[0].starts_with("run it as user 54321, or set POSTERN_HOME"), "{of_another:?}");
        }
    }
}
