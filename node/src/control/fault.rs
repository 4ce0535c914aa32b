//! An error as a person or a script gets it: what happened, why, what to try, a stable code, and how the command ends.

use serde::{Deserialize, Serialize};

use super::code;
use super::document::ApiVersion;
use crate::code::Code;
use crate::config::resource::{ArgumentError, ArgumentFault};
use crate::config::{Problems, VariableError};
use crate::engine::EngineError;
use crate::store::StoreError;
use postern_proto::authority::Refusal;
use postern_proto::identity::RotateError;
use postern_proto::ticket::TicketError;
use postern_runtime::authority::AuthorityError;
use postern_runtime::enrol::EnrolError;
use postern_runtime::files::FileError;
use postern_runtime::home::HomeError;
use postern_runtime::lock::LockError;
use postern_runtime::net::BindError;
use postern_runtime::vault::{PassphraseError, VaultError};

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

/// What lists all that there are of a kind of thing.
#[must_use]
fn look_up(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "node" => "look at those that there are: postern node list",
        "outlet" => "look at those that there are: postern tcp-outlet list; of another node with --at NODE",
        "inlet" => "look at those that there are: postern tcp-inlet list; of another node with --at NODE",
        "relay" => "look at those that there are: postern relay list; of another node with --at NODE",
        "policy" | "resource" => {
            "look at what there is: postern policy list, tcp-outlet list and tcp-inlet list; of another node with --at NODE"
        }
        "identity" => "look at those that there are: postern identity list",
        "member" => "look at those that there are: postern project-member list",
        "ticket" => "look at those that there are: postern ticket list",
        "project" => "look at the one of this home: postern project list",
        "refusal" => "look at those that are known here: postern explain; the other side may know it, too",
        "audit row" => "look at those that there are: postern audit list",
        _ => return None,
    })
}

impl Fault {
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { api_version: ApiVersion, code: code.into(), class: code.class(), what: what.into(), why: None, help: None }
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
        let fault = Self::new(code::NOT_FOUND, format!("{kind} `{name}` was not found"));
        match look_up(kind) {
            Some(command) => fault.try_this(command),
            None => fault,
        }
    }

    /// There is a `kind` called `name` already.
    #[must_use]
    pub fn exists(kind: &str, name: impl std::fmt::Display) -> Self {
        Self::new(code::EXISTS, format!("there is already {kind} `{name}`"))
    }

    /// `what` needs relays, and the home has joined no project.
    #[must_use]
    pub fn no_project(what: impl std::fmt::Display) -> Self {
        Self::new(code::NO_PROJECT, format!("{what} needs a project's relays"))
            .because("this home has joined no project")
            .try_this("join a project first: postern enroll, or postern project enroll TICKET")
    }

    /// Why a ticket was not redeemed.
    #[must_use]
    pub fn from_enrolment(error: &EnrolError) -> Self {
        match error {
            EnrolError::Authority(error) => Self::from_authority(error),
            EnrolError::Membership(_) => Self::new(code::AUTHORITY_NOT_PROVEN, error.to_string()),
            EnrolError::Unexpected => Self::new(code::AUTHORITY_UNEXPECTED, error.to_string())
                .try_this("compare the versions of this program and of the authority: postern version"),
        }
    }

    /// Why the authority did not do what it was asked.
    #[must_use]
    pub fn from_authority(error: &AuthorityError) -> Self {
        let code = match error {
            AuthorityError::Refused(refusal, id) => {
                return Self::from_refusal(refusal).because(format!("the authority has logged it as {id}"));
            }
            AuthorityError::Unreachable { .. } => code::AUTHORITY_UNREACHABLE,
            AuthorityError::Handshake { .. } => code::AUTHORITY_NOT_PROVEN,
            AuthorityError::Timeout | AuthorityError::Unproven { .. } => code::AUTHORITY_TIMEOUT,
            AuthorityError::Closed | AuthorityError::Broken(_) => code::AUTHORITY_CLOSED,
            AuthorityError::NotTaken | AuthorityError::TooManyCalls => code::AUTHORITY_BUSY,
            AuthorityError::NoAddress => code::AUTHORITY_NO_ADDRESS,
        };
        let fault = Self::new(code, error.to_string());
        let fault = match causes(error) {
            why if why.is_empty() => fault,
            why => fault.because(why),
        };
        match code {
            code::AUTHORITY_NOT_PROVEN => {
                fault.try_this("something else may run at that address now; ask for a new ticket if the authority has moved")
            }
            code if code.class() == Class::Unreachable => {
                fault.try_this("on the authority's machine: `postern status`, and `postern enroll` to start it")
            }
            _ => fault,
        }
    }

    /// What the authority answered.
    #[must_use]
    pub fn from_refusal(refusal: &Refusal) -> Self {
        let ask = "ask whoever sent it for a new one, which they make with `postern project ticket`";
        let (code, help) = match refusal {
            Refusal::TicketExpired { .. } => (code::TICKET_EXPIRED, Some(ask)),
            Refusal::TicketRevoked => (code::TICKET_REVOKED, Some(ask)),
            Refusal::TicketUsedUp { .. } => (
                code::TICKET_USED_UP,
                Some("ask whoever sent it for a new one; if nobody of yours used it, tell them: they should delete that member"),
            ),
            Refusal::TicketUnknown => (code::TICKET_UNKNOWN, Some(ask)),
            Refusal::NotAMember => (
                code::NOT_A_MEMBER,
                Some(
                    "it was revoked or deleted, or never joined; ask for a new ticket, and join with it: postern project enroll TICKET",
                ),
            ),
            // There is no other one to ask.
            Refusal::NotPermitted { reason } if reason.contains("the project's only administrator") => {
                (code::NOT_PERMITTED, Some("make a ticket for another one: postern project ticket --administrator"))
            }
            Refusal::NotPermitted { .. } => (code::NOT_PERMITTED, Some("ask an administrator of the project")),
            Refusal::RelayNameHeld { .. } => {
                (code::RELAY_NAME_HELD, Some("choose another name, or delete the member that holds it"))
            }
            Refusal::NotFound { what } => {
                let kinds = ["member", "ticket", "audit row"];
                (code::NOT_FOUND, kinds.into_iter().find(|kind| what.starts_with(kind)).and_then(look_up))
            }
            Refusal::Invalid { .. } => (code::INVALID_REQUEST, None),
            Refusal::Busy { .. } => (code::AUTHORITY_BUSY, None),
            Refusal::KeyInUse { .. } => (
                code::KEY_IN_USE,
                Some(
                    "nodes that are connected renew within seconds, the others when they connect; those of a node that was deleted count until they expire. --force cuts them off until then",
                ),
            ),
            Refusal::Internal => (code::AUTHORITY_FAILED, Some("look into the log of the servers on that machine")),
        };
        let fault = Self::new(code, refusal.to_string());
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
        Self::new(code::USAGE, lines)
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
        let code = match &error {
            TicketError::NotATicket => code::NOT_A_TICKET,
            TicketError::NewerVersion { .. } => code::TICKET_NEWER,
            TicketError::Truncated => code::TICKET_TRUNCATED,
            TicketError::Broken | TicketError::Corrupt | TicketError::TooLong => code::TICKET_CORRUPT,
            TicketError::Invalid(_) => code::TICKET_INVALID,
            TicketError::OtherProject { .. } => code::TICKET_OTHER_PROJECT,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&Problems> for Fault {
    fn from(problems: &Problems) -> Self {
        Self::new(code::CONFIGURATION, problems.to_string())
            .try_this("nothing was changed; correct the configuration and run the command again")
    }
}

impl From<VariableError> for Fault {
    fn from(error: VariableError) -> Self {
        Self::new(code::USAGE, error.to_string())
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Listen(error) => error.into(),
            EngineError::Workers(error) => Self::new(code::INTERNAL, "the threads that move bytes cannot be started")
                .because(error.to_string())
                .try_this("raise the limits on processes and open files of the user who runs it"),
            EngineError::Address(error) => Self::new(code::LISTEN, "a listener has no address").because(error.to_string()),
        }
    }
}

impl From<BindError> for Fault {
    fn from(error: BindError) -> Self {
        if let BindError::InUse { address } = &error {
            return Self::new(code::ADDRESS_IN_USE, format!("{address} is in use"))
                .because("another program, or another inlet, listens there")
                .try_this("choose another port, or leave the address out for a free one");
        }
        let fault = Self::new(code::LISTEN, error.to_string());
        match std::error::Error::source(&error) {
            Some(source) => fault.because(source.to_string()),
            None => fault,
        }
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        if let FileError::Vault(error) = &error {
            return error.into();
        }
        let code = if error.is_unsafe_place() { code::HOME_UNSAFE } else { code::STORAGE };
        let fault = Self::new(code, error.to_string());
        let fault = match std::error::Error::source(&error) {
            Some(source) => fault.because(source.to_string()),
            None => fault,
        };
        match error.io_kind().and_then(disk_help) {
            Some(help) => fault.try_this(help),
            None => fault,
        }
    }
}

/// What helps where the disk does not take what is written.
fn disk_help(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::StorageFull => Some("make room on the disk of that file (df -h), and try again"),
        ErrorKind::QuotaExceeded => Some("make room within the quota of the user whose file it is, and try again"),
        ErrorKind::ReadOnlyFilesystem => {
            Some("find out why the disk of that file is read-only (dmesg, mount), make it writable, and try again")
        }
        _ => None,
    }
}

impl From<&VaultError> for Fault {
    fn from(error: &VaultError) -> Self {
        let (code, help) = match error {
            VaultError::NoPassphrase => (
                code::NO_PASSPHRASE,
                "give a file with it: --key-file FILE, POSTERN_KEY_FILE, or the systemd credential `postern-key`",
            ),
            VaultError::WrongPassphrase => (code::WRONG_PASSPHRASE, "look whether it is the key file of this home"),
            VaultError::Passphrase(PassphraseError::Rights { .. }) => (code::KEY_FILE, "chmod 600 the file"),
            VaultError::Passphrase(_) => {
                (code::KEY_FILE, "give a file that holds the passphrase, or a line of standard input with -")
            }
            VaultError::NotProtected { .. } => {
                (code::NOT_PROTECTED, "if nothing is wrong with it, protect it: postern identity protect")
            }
            VaultError::NotSealed { .. } => (code::NOT_SEALED, "move it away, and restore the sealed one from a back-up"),
            VaultError::Damaged { .. } | VaultError::Lost { .. } | VaultError::Protection { .. } => {
                (code::SEAL_BROKEN, "restore the home from a back-up, all of it together")
            }
        };
        let fault = Self::new(code, error.to_string()).try_this(help);
        match causes(error) {
            why if why.is_empty() => fault,
            why => fault.because(why),
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
            HomeError::NodeLocked { ref name, source: LockError::Held { .. } } => Self::new(code::RUNNING, error.to_string())
                .try_this(format!("this needs it to be stopped: postern node stop {name}")),
            HomeError::ServersLocked { source: LockError::Held { .. } } => {
                Self::new(code::RUNNING, error.to_string()).try_this("this needs them to be stopped: postern serve stop")
            }
            HomeError::Rotate { source: RotateError::Full, .. } => Self::new(code::HISTORY_FULL, error.to_string())
                .try_this("make another identity and let it join with a new ticket; then remove this one from the project"),
            error => Self::new(code::STORAGE, error.to_string()),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Home(error) => error.into(),
            error => Self::new(code::STORAGE, error.to_string()),
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
            r#"{"api_version":"1","code":"NOT_FOUND","class":"failure","what":"outlet `db` was not found","why":"w","try":"t"}"#
        );
        assert_eq!(Class::ALL.map(Class::exit_code), [1, 2, 69, 75, 77, 78]);
        let mut codes: Vec<&str> = code::ALL.iter().map(|code| code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), code::ALL.len());
    }

    #[test]
    fn the_authority_names_its_refusals_as_commands_do() {
        let refusals = [
            Refusal::TicketRevoked,
            Refusal::TicketUnknown,
            Refusal::NotAMember,
            Refusal::NotPermitted { reason: String::new() },
            Refusal::NotFound { what: String::new() },
            Refusal::Invalid { reason: String::new() },
            Refusal::Busy { after: 1 },
            Refusal::Internal,
        ];
        for refusal in refusals {
            assert_eq!(Fault::from_refusal(&refusal).code, refusal.code().0);
        }
        let listed = |code: &str| code::ALL.iter().any(|listed| listed.as_str() == code);
        assert!(Refusal::CODES.into_iter().all(listed));
        let of_relays = |refusal: postern_proto::link::Refusal| refusal.code();
        for (code, meaning) in postern_proto::link::Refusal::ALL.into_iter().filter_map(of_relays) {
            assert!(
                crate::engine::code::ALL.iter().any(|listed| listed.as_str() == code && listed.meaning() == meaning),
                "{code}"
            );
        }
    }
}
