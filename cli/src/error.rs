//! Errors as a person meets them: what happened, why, what to try, a stable code, and the class that decides the exit code.
//! Errors of the crates below become a person's errors here.

use std::error::Error;
use std::fmt::Display;

use postern_node::access::AccessChange;
use postern_node::code::Code;
pub use postern_node::control::fault::Class as Exit;
use postern_node::control::fault::Fault;

use postern_authority::keys::KeysError;
use postern_runtime::files::FileError;

use postern_proto::id::RefusalId;
use postern_proto::identity::RotateError;

use crate::code;

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
    /// By which the authority knows it, where it refused.
    pub refusal: Option<RefusalId>,
    /// What would change in who may reach what, where the error is about that.
    pub access: Option<Box<AccessChanges>>,
}

/// Of one error; apart, because every function of a command returns room for an error.
#[derive(Debug, Clone)]
pub struct AccessChanges(pub Vec<AccessChange>);

impl CliError {
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: Vec::new(),
            try_this: Vec::new(),
            code: code.into(),
            exit: code.class(),
            refusal: None,
            access: None,
        }
    }

    pub fn not_found(kind: &str, name: impl Display) -> Self {
        Fault::not_found(kind, name).into()
    }

    /// What a home without a project cannot do.
    pub fn no_project() -> Self {
        Self::new(code::NO_PROJECT, "this home has not joined a project")
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
    pub fn from_error(code: Code, error: &(dyn Error + 'static)) -> Self {
        let mut built = Self::new(code, error.to_string());
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
        Self::from_error(code::NO_HOME, &error).try_this("set POSTERN_HOME to a directory")
    }
}

impl From<postern_runtime::telemetry::InvalidFilter> for CliError {
    fn from(error: postern_runtime::telemetry::InvalidFilter) -> Self {
        Self::from_error(code::LOG_FILTER, &error)
    }
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        Self {
            what: fault.what,
            why: fault.why.into_iter().collect(),
            try_this: fault.help.into_iter().collect(),
            code: fault.code,
            exit: fault.class,
            refusal: None,
            access: None,
        }
    }
}

impl From<postern_runtime::files::FileError> for CliError {
    fn from(error: postern_runtime::files::FileError) -> Self {
        Fault::from(error).into()
    }
}

impl From<postern_runtime::home::HomeError> for CliError {
    fn from(error: postern_runtime::home::HomeError) -> Self {
        Fault::from(error).into()
    }
}

impl From<postern_node::control::ClientError> for CliError {
    fn from(error: postern_node::control::ClientError) -> Self {
        Fault::from(error).into()
    }
}

impl From<postern_node::store::StoreError> for CliError {
    fn from(error: postern_node::store::StoreError) -> Self {
        Fault::from(error).into()
    }
}

impl From<postern_runtime::net::BindError> for CliError {
    fn from(error: postern_runtime::net::BindError) -> Self {
        use postern_runtime::net::BindError;
        let built = Self::from_error(code::LISTEN, &error);
        match error {
            BindError::InUse { .. } => {
                Self { code: code::ADDRESS_IN_USE.into(), ..built }.try_this("find out who listens there, and end it: ss -ltnp")
            }
            _ => built,
        }
    }
}

impl From<postern_authority::OpenError> for CliError {
    fn from(error: postern_authority::OpenError) -> Self {
        // A home that cannot be opened is no fault of the authority's own.
        match error {
            postern_authority::OpenError::Keys(KeysError::File(error @ FileError::Vault(_))) => error.into(),
            error => Self::from_error(code::AUTHORITY_OPEN, &error),
        }
    }
}

impl From<postern_authority::ActError> for CliError {
    fn from(error: postern_authority::ActError) -> Self {
        match error {
            postern_authority::ActError::Refused(refusal) => refusal.into(),
            other => Self::from_error(code::AUTHORITY_OPEN, &other),
        }
    }
}

impl From<postern_relay::state::StateError> for CliError {
    fn from(error: postern_relay::state::StateError) -> Self {
        use postern_relay::state::StateError;
        match error {
            StateError::Home(error) => error.into(),
            StateError::File(error) => error.into(),
            StateError::Rotate(RotateError::Full) => Self::from_error(code::HISTORY_FULL, &error)
                .try_this("delete the folder `relay` of the home, and let the relay join again with a new ticket"),
            other => Self::from_error(code::RELAY_STATE, &other),
        }
    }
}

impl From<postern_relay::join::JoinError> for CliError {
    fn from(error: postern_relay::join::JoinError) -> Self {
        use postern_relay::join::JoinError;
        match error {
            JoinError::State(error) => error.into(),
            JoinError::Enrol(error) => error.into(),
            JoinError::NoTicket => Self::from_error(code::NO_TICKET, &error),
            JoinError::Stopped => Self::from_error(code::STOPPED, &error),
        }
    }
}

impl From<postern_proto::name::InvalidName> for CliError {
    fn from(error: postern_proto::name::InvalidName) -> Self {
        Self::from_error(code::INVALID_NAME, &error)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(code::IO, &error)
    }
}
