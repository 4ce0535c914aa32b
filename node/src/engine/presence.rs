//! How nodes of one home find each other without a relay: each writes where it listens into its directory.

use std::net::SocketAddr;

use postern_proto::address::HostPort;
use postern_proto::id::{InstanceId, NodeId};
use postern_proto::name::NodeName;
use postern_runtime::home::layout;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::code;
use super::failure::{Failure, Step};
use super::shared::Shared;

/// Largest presence file.
const MAX_PRESENCE: usize = 4096;

/// Where a run of a node can be reached. Not secret, and not trusted: who answers there has to prove who it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Presence {
    pub address: HostPort,
    pub node_id: NodeId,
    pub instance: InstanceId,
}

/// A node that was told no address listens for its neighbours of the same machine only.
pub fn default_listener() -> HostPort {
    HostPort::from(SocketAddr::from(([127, 0, 0, 1], 0)))
}

pub fn publish(shared: &Shared, bound: SocketAddr) {
    let address = if bound.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], bound.port())) } else { bound };
    let presence = Presence { address: HostPort::from(address), node_id: shared.trust.node_id, instance: shared.trust.instance };
    let written = serde_json::to_vec(&presence)
        .map_err(|error| error.to_string())
        .and_then(|bytes| shared.node_home.dir().write(layout::node::PRESENCE, &bytes).map_err(|error| error.to_string()));
    if let Err(error) = written {
        warn!(%error, "this node's address was not published in the home");
    }
}

pub fn withdraw(shared: &Shared) {
    if let Err(error) = shared.node_home.dir().remove(layout::node::PRESENCE) {
        warn!(%error, "this node's address stays published in the home");
    }
}

impl Shared {
    /// Where the node `name` of this home can be reached.
    ///
    /// # Errors
    /// The step that failed.
    pub fn presence_of(&self, name: &NodeName) -> Result<Presence, Failure> {
        let missing = |code, reason| Failure::new(Step::Peer, code, reason);
        let node = match self.home.node(name) {
            Ok(Some(node)) => node,
            Ok(None) => return Err(missing(code::NO_NODE, format!("this home has no node `{name}`"))),
            Err(error) => return Err(missing(code::NO_NODE, error.to_string())),
        };
        let stopped = || missing(code::NODE_STOPPED, format!("the node `{name}` does not run"));
        let bytes = node.dir().read(layout::node::PRESENCE, MAX_PRESENCE).ok().flatten().ok_or_else(stopped)?;
        serde_json::from_slice(&bytes).map_err(|_| stopped())
    }
}
