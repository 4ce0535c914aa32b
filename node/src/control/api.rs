//! Requests of the local control API: HTTP and JSON over a Unix socket that only the node's user can use.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/node` | | [`NodeDocument`] |
//! | `GET /v1/status` | | [`NodeStatusDocument`], every portal probed |
//! | `GET /v1/outlets` `inlets` `relays` `policies` | | a list |
//! | `POST /v1/outlets` | [`OutletRequest`] | [`OutletDocument`] |
//! | `POST /v1/inlets` | [`InletSpec`] | [`InletDocument`] |
//! | `POST /v1/relays` | [`RelayRequest`] | [`RelayDocument`] |
//! | `POST /v1/policies` | [`PolicySpec`] | [`PolicyDocument`] |
//! | `GET`, `DELETE /v1/outlets/NAME` … | | the document, [`DeletedDocument`] |
//! | `GET /v1/refusals` | | a list of [`RefusalDocument`], the newest first; `/v1/refusals/ID` is one |
//! | `POST /v1/explain` | [`ExplainRequest`] | [`ExplainDocument`] |
//! | `POST /v1/stop` | | [`ProcessDocument`] |
//! | `POST /v1/reload` | | [`ProcessDocument`]; what SIGHUP does |
//!
//! An answer that is no success is a [`Fault`].
//!
//! [`NodeDocument`]: super::document::NodeDocument
//! [`NodeStatusDocument`]: super::document::NodeStatusDocument
//! [`OutletDocument`]: super::document::OutletDocument
//! [`InletDocument`]: super::document::InletDocument
//! [`RelayDocument`]: super::document::RelayDocument
//! [`PolicyDocument`]: super::document::PolicyDocument
//! [`DeletedDocument`]: super::document::DeletedDocument
//! [`ProcessDocument`]: super::document::ProcessDocument
//! [`RefusalDocument`]: super::explain::RefusalDocument
//! [`ExplainRequest`]: super::explain::ExplainRequest
//! [`ExplainDocument`]: super::explain::ExplainDocument
//! [`InletSpec`]: postern_proto::spec::InletSpec
//! [`PolicySpec`]: postern_proto::spec::PolicySpec
//! [`Fault`]: super::fault::Fault

use std::time::Duration;

use postern_proto::spec::RelaySpec;
use serde::{Deserialize, Serialize};

pub use crate::config::resource::OutletRequest;

/// Longest body of a request: the longest policy expression with room.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Longest answer: a node with thousands of portals.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Longest that a request may ask to wait.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

pub const NODE: &str = "/v1/node";
pub const STATUS: &str = "/v1/status";
pub const OUTLETS: &str = "/v1/outlets";
pub const INLETS: &str = "/v1/inlets";
pub const RELAYS: &str = "/v1/relays";
pub const POLICIES: &str = "/v1/policies";
/// Refusals of late, the newest first; one of them with its id behind.
pub const REFUSALS: &str = "/v1/refusals";
pub const EXPLAIN: &str = "/v1/explain";
pub const STOP: &str = "/v1/stop";
pub const RELOAD: &str = "/v1/reload";

/// Claims a relay name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayRequest {
    pub relay: RelaySpec,
    /// How long to wait until the name is claimed, so that a refusal is told at once. At most [`MAX_WAIT`].
    #[serde(default)]
    pub wait_ms: u64,
}
