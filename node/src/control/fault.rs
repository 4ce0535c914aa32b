//! An error as a person or a script gets it: what happened, why, what to try, a stable code, and how the command ends.

use serde::{Deserialize, Serialize};

use super::document::ApiVersion;
use crate::config::resource::{ArgumentError, ArgumentFault};
use crate::config::{Problems, VariableError};
use crate::engine::EngineError;
use crate::store::StoreError;
use postern_proto::authority::Refusal;
use postern_proto::ticket::TicketError;
use postern_runtime::authority::AuthorityError;
use postern_runtime::enrol::EnrolError;
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
    pub const LIMIT: &str = "LIMIT";
    pub const NO_PROJECT: &str = "NO_PROJECT";
    pub const TICKET_EXPIRED: &str = "TICKET_EXPIRED";
    pub const TICKET_REVOKED: &str = "TICKET_REVOKED";
    pub const TICKET_USED_UP: &str = "TICKET_USED_UP";
    pub const TICKET_UNKNOWN: &str = "TICKET_UNKNOWN";
    pub const TICKET_MALFORMED: &str = "TICKET_MALFORMED";
    pub const TICKET_OTHER_PROJECT: &str = "TICKET_OTHER_PROJECT";
    pub const NOT_A_MEMBER: &str = "NOT_A_MEMBER";
    pub const NOT_PERMITTED: &str = "NOT_PERMITTED";
    pub const AUTHORITY_UNREACHABLE: &str = "AUTHORITY_UNREACHABLE";
    pub const AUTHORITY_UNPROVEN: &str = "AUTHORITY_UNPROVEN";
    pub const AUTHORITY_BUSY: &str = "AUTHORITY_BUSY";
    /// All of them, for the reference documentation.
    pub const ALL: [&str; 28] = [
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
        LIMIT,
        NO_PROJECT,
        TICKET_EXPIRED,
        TICKET_REVOKED,
        TICKET_USED_UP,
        TICKET_UNKNOWN,
        TICKET_MALFORMED,
        TICKET_OTHER_PROJECT,
        NOT_A_MEMBER,
        NOT_PERMITTED,
        AUTHORITY_UNREACHABLE,
        AUTHORITY_UNPROVEN,
        AUTHORITY_BUSY,
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

    /// `what` needs relays, and the home has joined no project.
    #[must_use]
    pub fn no_project(what: impl std::fmt::Display) -> Self {
        Self::new(Class::Configuration, code::NO_PROJECT, format!("{what} needs a project's relays"))
            .because("this home has joined no project")
            .try_this("join a project first: postern enroll, or postern project enroll TICKET")
    }

    /// Why a ticket was not redeemed.
    #[must_use]
    pub fn from_enrolment(error: &EnrolError) -> Self {
        match error {
            EnrolError::Authority(error) => Self::from_authority(error),
            EnrolError::Membership(_) | EnrolError::Unexpected => {
                Self::new(Class::Failure, code::AUTHORITY_UNPROVEN, error.to_string())
            }
        }
    }

    /// Why the authority did not do what it was asked.
    #[must_use]
    pub fn from_authority(error: &AuthorityError) -> Self {
        if let AuthorityError::Refused(refusal) = error {
            return Self::from_refusal(refusal);
        }
        let fault = match error {
            AuthorityError::Handshake { .. } => Self::new(Class::Unreachable, code::AUTHORITY_UNPROVEN, error.to_string())
                .try_this("something else may run at that address now; ask for a new ticket if the authority has moved"),
            AuthorityError::TooManyCalls => Self::new(Class::TryLater, code::AUTHORITY_BUSY, error.to_string()),
            _ => Self::new(Class::Unreachable, code::AUTHORITY_UNREACHABLE, error.to_string())
                .try_this("see whether the authority runs and can be reached from here"),
        };
        match causes(error) {
            why if why.is_empty() => fault,
            why => fault.because(why),
        }
    }

    /// What the authority answered.
    #[must_use]
    pub fn from_refusal(refusal: &Refusal) -> Self {
        let (class, code, help) = match refusal {
            Refusal::TicketExpired { .. } => (Class::Denied, code::TICKET_EXPIRED, Some("ask for a new ticket")),
            Refusal::TicketRevoked => (Class::Denied, code::TICKET_REVOKED, Some("ask for a new ticket")),
            Refusal::TicketUsedUp { .. } => (Class::Denied, code::TICKET_USED_UP, Some("ask for a ticket of your own")),
            Refusal::TicketUnknown => (Class::Denied, code::TICKET_UNKNOWN, Some("ask for a new ticket")),
            Refusal::NotAMember => (Class::Denied, code::NOT_A_MEMBER, Some("enrol with a ticket first")),
            Refusal::NotPermitted { .. } => (Class::Denied, code::NOT_PERMITTED, None),
            Refusal::RelayNameHeld { .. } => (Class::Denied, code::RELAY_DENIED, Some("choose another relay name")),
            Refusal::NotFound { .. } => (Class::Failure, code::NOT_FOUND, None),
            Refusal::Invalid { .. } => (Class::Usage, code::USAGE, None),
            Refusal::Busy { .. } => (Class::TryLater, code::AUTHORITY_BUSY, None),
            Refusal::Internal => (Class::Failure, code::INTERNAL, None),
        };
        let fault = Self::new(class, code, refusal.to_string());
        match help {
            Some(help) => fault.try_this(help),
            None => fault,
        }
    }

    /// Arguments of a command, or of a resource in a request, that are wrong; all of them.
    #[must_use]
    pub fn usage(errors: &[ArgumentError]) -> Self {
        let line = |error: &ArgumentError| match &error.fault {
            // With the place within it.
            ArgumentFault::Expression(fault) => format!("--{}: the policy expression is wrong\n{}", error.argument, fault.shown),
            fault => format!("--{}: {fault}", error.argument),
        };
        let lines: Vec<String> = errors.iter().map(line).collect();
        let lines = if lines.is_empty() { "the arguments are wrong".to_owned() } else { lines.join("\n") };
        Self::new(Class::Usage, code::USAGE, lines)
    }
}

/// The causes of an error below its own text, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}

impl From<EnrolError> for Fault {
    fn from(error: EnrolError) -> Self {
        Self::from_enrolment(&error)
    }
}

impl From<TicketError> for Fault {
    fn from(error: TicketError) -> Self {
        let code =
            if matches!(error, TicketError::OtherProject { .. }) { code::TICKET_OTHER_PROJECT } else { code::TICKET_MALFORMED };
        Self::new(Class::Configuration, code, error.to_string())
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
