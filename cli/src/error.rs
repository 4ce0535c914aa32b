//! Errors as a person meets them: what happened, why, what to try, a stable code, and the exit code. All exit codes are here.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

/// What the exit code of the process says. The numbers above 2 are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[repr(u8)]
pub enum Exit {
    /// It failed; also: what was named does not exist.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Something could not be reached.
    Unreachable = 69,
    /// It was reached, but said to come back: a limit, busy, a lock.
    TryLater = 75,
    /// Denied.
    Denied = 77,
    /// Bad configuration.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error on its way to the person.
#[derive(Debug, Clone)]
pub struct CliError {
    /// One sentence without a full stop; may have further lines where a place in a text is shown.
    pub what: String,
    pub why: Vec<String>,
    pub try_this: Vec<String>,
    /// Stable: scripts and searches rely on it.
    pub code: String,
    pub exit: Exit,
}

impl CliError {
    pub fn new(exit: Exit, code: &str, what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Vec::new(), try_this: Vec::new(), code: code.to_owned(), exit }
    }

    pub fn failure(code: &str, what: impl Into<String>) -> Self {
        Self::new(Exit::Failure, code, what)
    }

    pub fn usage(code: &str, what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, what)
    }

    pub fn not_found(kind: &str, name: impl Display) -> Self {
        Self::failure("NOT_FOUND", format!("{kind} `{name}` was not found"))
    }

    pub fn configuration(code: &str, what: impl Into<String>) -> Self {
        Self::new(Exit::Configuration, code, what)
    }

    /// What a home without a project cannot do.
    pub fn no_project() -> Self {
        Self::configuration("NO_PROJECT", "this home has not joined a project")
            .try_this("join a project first: `postern enroll` to make one, or `postern project enroll TICKET` to join one")
    }

    pub fn why(mut self, reason: impl Display) -> Self {
        self.why.push(reason.to_string());
        self
    }

    pub fn try_this(mut self, hint: impl Into<String>) -> Self {
        self.try_this.push(hint.into());
        self
    }

    /// `error` with everything that it says is behind it.
    pub fn from_error(exit: Exit, code: &str, error: &(dyn Error + 'static)) -> Self {
        let mut built = Self::new(exit, code, error.to_string());
        let mut cause = error.source();
        while let Some(source) = cause {
            let text = source.to_string();
            // Transparent errors repeat what they wrap.
            if text != built.what && built.why.last() != Some(&text) {
                built.why.push(text);
            }
            cause = source.source();
        }
        built
    }
}

impl From<postern_runtime::home::NoPlace> for CliError {
    fn from(error: postern_runtime::home::NoPlace) -> Self {
        Self::from_error(Exit::Configuration, "NO_HOME", &error).try_this("set POSTERN_HOME to a directory")
    }
}

impl From<postern_runtime::telemetry::InvalidFilter> for CliError {
    fn from(error: postern_runtime::telemetry::InvalidFilter) -> Self {
        Self::from_error(Exit::Configuration, "LOG_FILTER", &error)
    }
}

impl From<postern_runtime::files::FileError> for CliError {
    fn from(error: postern_runtime::files::FileError) -> Self {
        if error.is_unsafe_place() {
            return Self::from_error(Exit::Configuration, "HOME_UNSAFE", &error);
        }
        Self::from_error(Exit::Failure, "STORAGE", &error)
    }
}

impl From<postern_runtime::home::HomeError> for CliError {
    fn from(error: postern_runtime::home::HomeError) -> Self {
        use postern_runtime::home::HomeError;
        match error {
            HomeError::File(fault) => fault.into(),
            HomeError::NoIdentity(name) => Self::not_found("identity", name),
            HomeError::NoNode(name) => Self::not_found("node", name),
            HomeError::IdentityExists(_) | HomeError::NodeExists(_) => Self::from_error(Exit::Failure, "EXISTS", &error),
            HomeError::NodeLocked { .. } => Self::from_error(Exit::Failure, "RUNNING", &error),
            HomeError::Malformed { .. } | HomeError::Identity { .. } | HomeError::Membership { .. } => {
                Self::from_error(Exit::Configuration, "DAMAGED_HOME", &error)
            }
        }
    }
}

impl From<postern_node::control::fault::Fault> for CliError {
    fn from(fault: postern_node::control::fault::Fault) -> Self {
        use postern_node::control::fault::Class;
        let exit = match fault.class {
            Class::Failure => Exit::Failure,
            Class::Usage => Exit::Usage,
            Class::Unreachable => Exit::Unreachable,
            Class::TryLater => Exit::TryLater,
            Class::Denied => Exit::Denied,
            Class::Configuration => Exit::Configuration,
        };
        Self {
            what: fault.what,
            why: fault.why.into_iter().collect(),
            try_this: fault.help.into_iter().collect(),
            code: fault.code,
            exit,
        }
    }
}

impl From<postern_proto::name::InvalidName> for CliError {
    fn from(error: postern_proto::name::InvalidName) -> Self {
        Self::from_error(Exit::Usage, "INVALID_NAME", &error)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(Exit::Failure, "IO", &error)
    }
}
