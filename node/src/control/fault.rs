//! An error as a person or a script gets it: what happened, why, what to try, a stable code, and how the command ends.

use serde::{Deserialize, Serialize};

use super::document::ApiVersion;
use crate::config::resource::ArgumentError;
use crate::config::{Problems, VariableError};
use crate::engine::EngineError;
use crate::store::StoreError;
use postern_runtime::files::FileError;
use postern_runtime::home::HomeError;
use postern_runtime::net::BindError;

/// What kind of failure it is; each has an exit code that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It failed, or what was named does not exist.
    Failure,
    /// The command or request is malformed.
    Usage,
    /// Something that had to be reached could not be.
    Unreachable,
    /// It was reached, and said to come back: a limit, a lock.
    TryLater,
    /// It is not permitted.
    Denied,
    /// The configuration is wrong.
    Configuration,
}

impl Class {
    pub const ALL: [Self; 6] = [Self::Failure, Self::Usage, Self::Unreachable, Self::TryLater, Self::Denied, Self::Configuration];

    /// How a command that ends with this exits.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unreachable => 69,
            Self::TryLater => 75,
            Self::Denied => 77,
            Self::Configuration => 78,
        }
    }
}

/// The stable codes of this crate. Those of streams and portals are [`crate::engine::Failure`]'s.
pub mod code {
    pub const NOT_FOUND: &str = "NOT_FOUND";
    pub const EXISTS: &str = "EXISTS";
    pub const USAGE: &str = "USAGE";
    pub const ADDRESS_IN_USE: &str = "ADDRESS_IN_USE";
    pub const LISTEN: &str = "LISTEN";
    pub const CONFIGURATION: &str = "CONFIGURATION";
    pub const RELAY_DENIED: &str = "RELAY_DENIED";
    pub const NOT_RUNNING: &str = "NOT_RUNNING";
    pub const RUNNING: &str = "RUNNING";
    pub const HOME_UNSAFE: &str = "HOME_UNSAFE";
    pub const STORAGE: &str = "STORAGE";
    pub const CONTROL: &str = "CONTROL";
    pub const TIMEOUT: &str = "TIMEOUT";
    pub const STOPPING: &str = "STOPPING";
    pub const INTERNAL: &str = "INTERNAL";
    /// All of them, for the reference documentation.
    pub const ALL: [&str; 15] = [
        NOT_FOUND,
        EXISTS,
        USAGE,
        ADDRESS_IN_USE,
        LISTEN,
        CONFIGURATION,
        RELAY_DENIED,
        NOT_RUNNING,
        RUNNING,
        HOME_UNSAFE,
        STORAGE,
        CONTROL,
        TIMEOUT,
        STOPPING,
        INTERNAL,
    ];
}

/// An error document. In JSON: `{"api_version", "code", "class", "what", "why", "try"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    pub api_version: ApiVersion,
    /// Stable.
    pub code: String,
    pub class: Class,
    /// What happened: one sentence without a full stop.
    pub what: String,
    /// Why, where that is known and is not said already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do.
    #[serde(rename = "try", default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Fault {
    #[must_use]
    pub fn new(class: Class, code: &str, what: impl Into<String>) -> Self {
        Self { api_version: ApiVersion, code: code.to_owned(), class, what: what.into(), why: None, help: None }
    }

    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    #[must_use]
    pub fn try_this(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// There is no `kind` called `name`.
    #[must_use]
    pub fn not_found(kind: &str, name: impl std::fmt::Display) -> Self {
        Self::new(Class::Failure, code::NOT_FOUND, format!("{kind} `{name}` not found"))
    }

    /// There is a `kind` called `name` already.
    #[must_use]
    pub fn exists(kind: &str, name: impl std::fmt::Display) -> Self {
        Self::new(Class::Failure, code::EXISTS, format!("there is already {kind} `{name}`"))
    }

    /// Arguments of a command, or of a resource in a request, that are wrong; all of them.
    #[must_use]
    pub fn usage(errors: &[ArgumentError]) -> Self {
        let lines: Vec<String> = errors.iter().map(|error| format!("--{}: {}", error.argument, error.fault)).collect();
        let lines = if lines.is_empty() { "the arguments are wrong".to_owned() } else { lines.join("\n") };
        Self::new(Class::Usage, code::USAGE, lines)
    }
}

impl From<&Problems> for Fault {
    fn from(problems: &Problems) -> Self {
        Self::new(Class::Configuration, code::CONFIGURATION, problems.to_string())
            .try_this("nothing was changed; correct the configuration and run the command again")
    }
}

impl From<VariableError> for Fault {
    fn from(error: VariableError) -> Self {
        Self::new(Class::Usage, code::USAGE, error.to_string())
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Listen(error) => error.into(),
            EngineError::Address(error) => {
                Self::new(Class::Failure, code::LISTEN, "a listener has no address").because(error.to_string())
            }
        }
    }
}

impl From<BindError> for Fault {
    fn from(error: BindError) -> Self {
        if let BindError::InUse { address } = &error {
            return Self::new(Class::Failure, code::ADDRESS_IN_USE, format!("{address} is in use"))
                .because("another program, or another inlet, listens there")
                .try_this("choose another port, or leave the address out for a free one");
        }
        let fault = Self::new(Class::Failure, code::LISTEN, error.to_string());
        match std::error::Error::source(&error) {
            Some(source) => fault.because(source.to_string()),
            None => fault,
        }
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        let (class, code) =
            if error.is_unsafe_place() { (Class::Configuration, code::HOME_UNSAFE) } else { (Class::Failure, code::STORAGE) };
        let fault = Self::new(class, code, error.to_string());
        match std::error::Error::source(&error) {
            Some(source) => fault.because(source.to_string()),
            None => fault,
        }
    }
}

impl From<HomeError> for Fault {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::File(error) => error.into(),
            HomeError::NoNode(name) => Self::not_found("node", name),
            HomeError::NoIdentity(name) => Self::not_found("identity", name),
            HomeError::NodeExists(name) => Self::exists("a node", name),
            HomeError::IdentityExists(name) => Self::exists("an identity", name),
            HomeError::NodeLocked { .. } => Self::new(Class::Failure, code::RUNNING, error.to_string()),
            error => Self::new(Class::Failure, code::STORAGE, error.to_string()),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Home(error) => error.into(),
            error => Self::new(Class::Failure, code::STORAGE, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_and_exit_codes() {
        let fault = Fault::not_found("outlet", "db").because("w").try_this("t");
        assert_eq!(
            serde_json::to_string(&fault).unwrap(),
            r#"{"api_version":"1","code":"NOT_FOUND","class":"failure","what":"outlet `db` not found","why":"w","try":"t"}"#
        );
        assert_eq!(Class::ALL.map(Class::exit_code), [1, 2, 69, 75, 77, 78]);
        let mut codes = code::ALL.to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), code::ALL.len());
    }
}
