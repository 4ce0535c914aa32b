//! Why bytes cannot pass through a portal now: the step that failed, with a stable code and a sentence. The same for the log, for
//! `status` and for a probe.

use postern_proto::id::RefusalId;
use postern_proto::record::{Reject, RejectCode};
use postern_runtime::net::DialError;
use serde::{Deserialize, Serialize};

use super::code;
use super::policy::Denial;
use super::refusals::By;
use crate::code::Code;

/// The steps of a portal, in the order in which bytes pass them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// This node holds a credential.
    Credential,
    /// A relay is connected.
    Relay,
    /// The peer's node is found.
    Peer,
    /// The channel with the peer's node is made.
    Channel,
    /// This node's policy allows the peer.
    InletPolicy,
    /// The peer's node opens the outlet for this node.
    Outlet,
    /// The outlet's target answers.
    Target,
}

impl Step {
    pub const ALL: [Self; 7] =
        [Self::Credential, Self::Relay, Self::Peer, Self::Channel, Self::InletPolicy, Self::Outlet, Self::Target];

    /// A sentence for the reference.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Credential => "This node holds a credential",
            Self::Relay => "A relay is connected",
            Self::Peer => "The peer's node is found",
            Self::Channel => "The two nodes have made a channel",
            Self::InletPolicy => "This node's policy allows the peer",
            Self::Outlet => "The peer's node opens the outlet for this node",
            Self::Target => "The outlet's target answers",
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Relay => "relay",
            Self::Peer => "peer",
            Self::Channel => "channel",
            Self::InletPolicy => "inlet-policy",
            Self::Outlet => "outlet",
            Self::Target => "target",
        }
    }
}

/// Why a stream was not opened, or would not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    pub step: Step,
    pub code: Code,
    pub reason: String,
    /// What it is logged under, where somebody refused it.
    pub refusal: Option<RefusalId>,
    /// This node's decision, where that is why.
    pub denial: Option<Box<Denial>>,
}

impl Failure {
    pub fn new(step: Step, code: Code, reason: impl Into<String>) -> Self {
        Self { step, code, reason: reason.into(), refusal: None, denial: None }
    }

    /// This node's policy refuses the peer.
    #[must_use]
    pub fn denied(denial: Box<Denial>) -> Self {
        let reason = format!("this node's policy does not allow the peer: {denial}");
        Self { denial: Some(denial), ..Self::new(Step::InletPolicy, code::DENIED, reason) }
    }

    /// Who is to be asked about it.
    #[must_use]
    pub const fn by(&self) -> By {
        if self.refusal.is_some() && self.denial.is_none() { By::Peer } else { By::Us }
    }

    /// The peer's node answered the open with a reject.
    #[must_use]
    pub fn rejected(reject: &Reject) -> Self {
        let code = reject.code;
        let why = if reject.reason.is_empty() { String::new() } else { format!(": {}", reject.reason) };
        let reason = format!("the peer's node answered: {code}{why}");
        Self { refusal: Some(reject.id), ..Self::new(Self::step_of(code), Self::code_of(code), reason) }
    }

    /// The code by which a reject is listed here.
    #[must_use]
    pub const fn code_of(code: RejectCode) -> Code {
        match code {
            RejectCode::NotAvailable => code::NOT_AVAILABLE,
            RejectCode::TargetRefused => code::TARGET_REFUSED,
            RejectCode::TargetTimeout => code::TARGET_TIMEOUT,
            RejectCode::TargetUnreachable => code::TARGET_UNREACHABLE,
            RejectCode::TargetName => code::TARGET_NAME,
            RejectCode::Busy => code::BUSY,
            RejectCode::StreamId => code::STREAM_ID,
            RejectCode::ShuttingDown => code::SHUTTING_DOWN,
            RejectCode::Loop => code::LOOP,
            RejectCode::Denied => code::DENIED,
        }
    }

    const fn step_of(code: RejectCode) -> Step {
        match code {
            RejectCode::TargetRefused
            | RejectCode::TargetTimeout
            | RejectCode::TargetUnreachable
            | RejectCode::TargetName
            | RejectCode::Loop => Step::Target,
            RejectCode::NotAvailable
            | RejectCode::Denied
            | RejectCode::Busy
            | RejectCode::StreamId
            | RejectCode::ShuttingDown => Step::Outlet,
        }
    }
}

/// What a failed dial of a target tells the inlet's side.
#[must_use]
pub const fn reject_of_dial(error: &DialError) -> RejectCode {
    match error {
        DialError::Dns { .. } => RejectCode::TargetName,
        DialError::Refused { .. } | DialError::Reset { .. } => RejectCode::TargetRefused,
        DialError::Timeout { .. } => RejectCode::TargetTimeout,
        DialError::Unreachable { .. } | DialError::Forbidden { .. } | DialError::Local { .. } => RejectCode::TargetUnreachable,
    }
}
