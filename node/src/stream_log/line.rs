//! One line of a stream log.

use postern_proto::id::{Identifier, RefusalId};
use serde::{Deserialize, Serialize};

use crate::control::document::ApiVersion;

/// Which end of a stream wrote the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Inlet,
    Outlet,
}

/// Whether the stream was carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    Allowed,
    Refused,
}

/// A stream that is over, or a connection that never became one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLine {
    pub api_version: ApiVersion,
    /// When it was over.
    pub at: String,
    pub started_at: String,
    pub duration_ms: u64,
    /// The same at both nodes; absent where no channel was found for a connection.
    pub stream: Option<String>,
    pub side: Side,
    /// The inlet's alias, or the outlet's name.
    pub name: String,
    /// Absent at the outlet only where the inlet's identity is not known: never for a stream.
    pub inlet_identity: Option<Identifier>,
    pub outlet_identity: Option<Identifier>,
    pub outlet: String,
    pub decision: Decision,
    /// Why it was refused.
    pub code: Option<String>,
    /// The id of the refusal, which `postern explain` takes; the same at both nodes.
    pub refusal: Option<RefusalId>,
    pub bytes_to_outlet: u64,
    pub bytes_to_inlet: u64,
    /// How it ended, as metrics call it.
    pub end: String,
}

/// A line in place of some that were not written: there were more than the disk took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub api_version: ApiVersion,
    pub at: String,
    pub lost: u64,
}

/// A line that says that some before it may be missing: the node did not end by a stop, and whatever ended then, or had just ended, is not
/// written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    pub api_version: ApiVersion,
    /// When the node came back.
    pub at: String,
    /// Always true.
    pub killed: bool,
}

/// What a line of a log is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    Stream(Box<StreamLine>),
    Lost(Lost),
    Killed(Killed),
}

impl StreamLine {
    pub(super) fn new(side: Side, name: &str, outlet: &str, own: Identifier, started_at: String) -> Self {
        let (inlet_identity, outlet_identity) = match side {
            Side::Inlet => (Some(own), None),
            Side::Outlet => (None, Some(own)),
        };
        Self {
            api_version: ApiVersion,
            at: String::new(),
            started_at,
            duration_ms: 0,
            stream: None,
            side,
            name: name.to_owned(),
            inlet_identity,
            outlet_identity,
            outlet: outlet.to_owned(),
            decision: Decision::Allowed,
            code: None,
            refusal: None,
            bytes_to_outlet: 0,
            bytes_to_inlet: 0,
            end: String::new(),
        }
    }

    pub(super) const fn set_peer(&mut self, peer: Identifier) {
        match self.side {
            Side::Inlet => self.outlet_identity = Some(peer),
            Side::Outlet => self.inlet_identity = Some(peer),
        }
    }

    pub(super) const fn set_bytes(&mut self, sent: u64, received: u64) {
        (self.bytes_to_outlet, self.bytes_to_inlet) = match self.side {
            Side::Inlet => (sent, received),
            Side::Outlet => (received, sent),
        };
    }

    /// Whose node wrote it.
    #[must_use]
    pub const fn own(&self) -> Option<Identifier> {
        match self.side {
            Side::Inlet => self.inlet_identity,
            Side::Outlet => self.outlet_identity,
        }
    }

    /// Whom the stream was with.
    #[must_use]
    pub const fn peer(&self) -> Option<Identifier> {
        match self.side {
            Side::Inlet => self.outlet_identity,
            Side::Outlet => self.inlet_identity,
        }
    }
}
