//! Why bytes cannot pass through a portal now: the step that failed, with a stable code and a sentence. The same for the log, for
//! `status` and for a probe.

use postern_proto::policy::Reason;
use postern_proto::record::RejectCode;
use postern_runtime::net::DialError;
use serde::{Deserialize, Serialize};

use super::code;
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
}

impl Failure {
    pub fn new(step: Step, code: Code, reason: impl Into<String>) -> Self {
        Self { step, code, reason: reason.into() }
    }

    /// This node's policy refuses the peer.
    #[must_use]
    pub fn denied(reason: &Reason) -> Self {
        Self::new(Step::InletPolicy, code::DENIED, format!("this node's policy does not allow the peer: {reason}"))
    }

    /// The peer's node answered the open with a reject.
    #[must_use]
    pub fn rejected(code: RejectCode) -> Self {
        let listed = match code {
            RejectCode::NotAvailable => code::NOT_AVAILABLE,
            RejectCode::TargetRefused => code::TARGET_REFUSED,
            RejectCode::TargetTimeout => code::TARGET_TIMEOUT,
            RejectCode::TargetUnreachable => code::TARGET_UNREACHABLE,
            RejectCode::TargetName => code::TARGET_NAME,
            RejectCode::Busy => code::BUSY,
            RejectCode::StreamId => code::STREAM_ID,
            RejectCode::ShuttingDown => code::SHUTTING_DOWN,
            RejectCode::Loop => code::LOOP,
        };
        let step = match code {
            RejectCode::TargetRefused
            | RejectCode::TargetTimeout
            | RejectCode::TargetUnreachable
            | RejectCode::TargetName
            | RejectCode::Loop => Step::Target,
            RejectCode::NotAvailable | RejectCode::Busy | RejectCode::StreamId | RejectCode::ShuttingDown => Step::Outlet,
        };
        Self::new(step, listed, format!("the peer's node answered: {code}"))
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
