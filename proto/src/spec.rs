//! What a user wants: outlets, inlets, relay names, policies. These are the types that YAML parses into, flags build, the
//! control API carries, the store keeps and the node runs.

mod destinations;
mod disclose;
mod max_staleness;
mod resume_timeout;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::address::{HostPort, InvalidAddress};
use crate::name::{Alias, InvalidName, NodeName, OutletName, ProjectName, RelayName};
use crate::policy::Expr;
use crate::weight::Weight;

pub use self::destinations::{Destinations, InvalidDestinations, MAX_DESTINATIONS, Share};
pub use self::disclose::{Disclose, InvalidDisclose};
pub use self::max_staleness::{InvalidMaxStaleness, MaxStaleness};
pub use self::resume_timeout::{InvalidResumeTimeout, ResumeTimeout};

/// Where TCP leaves: a fixed target, under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutletSpec {
    pub name: OutletName,
    pub to: HostPort,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Expr>,
    #[serde(default, skip_serializing_if = "ResumeTimeout::is_default")]
    pub resume_timeout: ResumeTimeout,
    /// What a peer that is refused is told.
    #[serde(default, skip_serializing_if = "Disclose::is_default")]
    pub disclose: Disclose,
}

/// Where TCP enters: a local listener, and the outlet that it reaches, or several that share its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InletSpec {
    pub alias: Alias,
    /// Port 0 is replaced by the port found free when the inlet first listens, and kept.
    pub from: HostPort,
    pub to: Destinations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Expr>,
    #[serde(default, skip_serializing_if = "ResumeTimeout::is_default")]
    pub resume_timeout: ResumeTimeout,
    /// What a peer that is refused is told.
    #[serde(default, skip_serializing_if = "Disclose::is_default")]
    pub disclose: Disclose,
}

/// An outlet, and how its node is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Destination {
    pub peer: PeerRoute,
    pub outlet: OutletName,
}

/// How the node of an outlet is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerRoute {
    /// At the relays, under this name.
    Relay(RelayName),
    /// A node of the same home, directly.
    Node(NodeName),
    /// A node's `--tcp-listener-address`.
    Address(HostPort),
}

/// A relay name that a node claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySpec {
    pub name: RelayName,
    #[serde(default)]
    pub at: RelayAt,
    /// The share of new streams that this node gets of those under the name, beside others that claim it.
    #[serde(default, skip_serializing_if = "Weight::is_one")]
    pub weight: Weight,
}

/// At which relays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RelayAt {
    /// All of the project's.
    #[default]
    Project,
    /// One relay server.
    Server(HostPort),
}

/// Who may use a resource, or all resources of a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    #[serde(flatten)]
    pub target: PolicyTarget,
    pub expression: Expr,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyTarget {
    /// The outlet or inlet of this name or alias.
    Resource(String),
    ResourceType(ResourceType),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceType {
    TcpInlet,
    TcpOutlet,
    Relay,
}

impl ResourceType {
    pub const ALL: [Self; 3] = [Self::TcpInlet, Self::TcpOutlet, Self::Relay];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcpInlet => "tcp-inlet",
            Self::TcpOutlet => "tcp-outlet",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a resource type: use tcp-inlet, tcp-outlet or relay")]
pub struct InvalidResourceType(String);

impl FromStr for ResourceType {
    type Err = InvalidResourceType;

    fn from_str(text: &str) -> Result<Self, InvalidResourceType> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidResourceType(text.chars().take(40).collect()))
    }
}

/// Why a text is not a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    #[error(
        "`{0}` is not a route: write an outlet's name, /service/NAME, /node/NODE/service/NAME, \
         /ip4/A/tcp/P/service/NAME or /project/P/service/forward_to_RELAY/secure/api/service/NAME"
    )]
    Form(String),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Address(#[from] InvalidAddress),
}

/// A route as `--to` takes it, before the relay name of `--via` is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The project that a full route names; `default` or the project's own name.
    pub project: Option<ProjectName>,
    /// Absent where only an outlet is named.
    pub peer: Option<PeerRoute>,
    pub outlet: OutletName,
}

impl FromStr for Route {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        let malformed = || InvalidRoute::Form(text.chars().take(120).collect());
        let Some(path) = text.strip_prefix('/') else {
            return Ok(Self { project: None, peer: None, outlet: text.parse()? });
        };
        let segments: Vec<&str> = path.split('/').collect();
        // `/secure/api` says that the rest runs over a secure channel, which is always so.
        let (head, outlet) = match segments.as_slice() {
            [head @ .., "secure", "api", "service", outlet] | [head @ .., "service", outlet] => (head, outlet.parse()?),
            _ => return Err(malformed()),
        };
        let (project, peer) = match head {
            [] => (None, None),
            ["node", node] => (None, Some(PeerRoute::Node(node.parse()?))),
            // Without the project, it begins as `relay create` prints it.
            [project @ .., "service", relay] if matches!(project, [] | ["project", _]) => {
                let relay = relay.strip_prefix("forward_to_").ok_or_else(malformed)?;
                (project.last().map(|name| name.parse()).transpose()?, Some(PeerRoute::Relay(relay.parse()?)))
            }
            [kind @ ("ip4" | "ip6" | "dns4" | "dns6" | "dnsaddr"), host, "tcp", port] => {
                let port = port.parse().map_err(|_| InvalidAddress::Port((*port).chars().take(20).collect()))?;
                let address = HostPort::new(host, port)?.dialable()?;
                let is = address.as_socket_addr();
                let fits = match *kind {
                    "ip4" => is.is_some_and(|address| address.is_ipv4()),
                    "ip6" => is.is_some_and(|address| address.is_ipv6()),
                    _ => is.is_none(),
                };
                if !fits {
                    return Err(malformed());
                }
                (None, Some(PeerRoute::Address(address)))
            }
            _ => return Err(malformed()),
        };
        Ok(Self { project, peer, outlet })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            PeerRoute::Relay(relay) => {
                write!(f, "/project/default/service/forward_to_{relay}/secure/api/service/{}", self.outlet)
            }
            PeerRoute::Node(node) => write!(f, "/node/{node}/secure/api/service/{}", self.outlet),
            PeerRoute::Address(address) => {
                let kind = match address.as_socket_addr() {
                    Some(address) if address.is_ipv4() => "ip4",
                    Some(_) => "ip6",
                    None => "dns4",
                };
                write!(f, "/{kind}/{}/tcp/{}/secure/api/service/{}", address.host(), address.port(), self.outlet)
            }
        }
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl TryFrom<String> for Destination {
    type Error = InvalidRoute;

    fn try_from(text: String) -> Result<Self, InvalidRoute> {
        let route: Route = text.parse()?;
        let peer = route.peer.ok_or(InvalidRoute::Form(text))?;
        Ok(Self { peer, outlet: route.outlet })
    }
}

impl From<RelayAt> for String {
    fn from(at: RelayAt) -> Self {
        match at {
            RelayAt::Project => "/project/default".to_owned(),
            RelayAt::Server(address) => address.to_string(),
        }
    }
}

impl TryFrom<String> for RelayAt {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl RelayAt {
    /// Whether the relay server at `address` is meant.
    #[must_use]
    pub fn means(&self, address: &HostPort) -> bool {
        match self {
            Self::Project => true,
            Self::Server(server) => server == address,
        }
    }
}

impl FromStr for RelayAt {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text == "/project" || text.starts_with("/project/") {
            Ok(Self::Project)
        } else {
            Ok(Self::Server(text.parse::<HostPort>()?.dialable()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let route: Route = "db".parse().unwrap();
        assert_eq!((route.peer, route.outlet.as_str()), (None, "db"));
        for (text, peer) in [
            ("/service/db", None),
            ("/secure/api/service/db", None),
            ("/node/n1/service/db", Some(PeerRoute::Node("n1".parse().unwrap()))),
            ("/node/n1/secure/api/service/db", Some(PeerRoute::Node("n1".parse().unwrap()))),
            ("/ip4/10.0.0.1/tcp/7/service/db", Some(PeerRoute::Address("10.0.0.1:7".parse().unwrap()))),
            ("/dnsaddr/h.x/tcp/7/service/db", Some(PeerRoute::Address("h.x:7".parse().unwrap()))),
            ("/project/default/service/forward_to_r/secure/api/service/db", Some(PeerRoute::Relay("r".parse().unwrap()))),
            ("/service/forward_to_r/service/db", Some(PeerRoute::Relay("r".parse().unwrap()))),
        ] {
            let route: Route = text.parse().unwrap();
            assert_eq!(route.peer, peer, "{text}");
            if let Some(peer) = peer {
                let destination = Destination { peer, outlet: route.outlet };
                assert_eq!(Destination::try_from(destination.to_string()), Ok(destination));
            }
        }
        for bad in [
            "",
            "/",
            "/service/",
            "/node/service/db",
            "/x/db",
            "/ip4/::1/tcp/1/service/a",
            "/service/x/service/db",
            "/project/service/forward_to_r/service/db",
            "/ip4/1.2.3.4/tcp/0/service/a",
            "x:80",
        ] {
            assert!(bad.parse::<Route>().is_err(), "{bad}");
        }
    }
}
