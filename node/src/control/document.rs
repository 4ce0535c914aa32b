//! The JSON documents that scripts rely on (`docs/reference/json.md`). A field, once here, keeps its name and meaning within an
//! `api_version`; new fields may come.

use postern_proto::handshake::KeyExchange;
use postern_proto::id::RefusalId;
use postern_proto::name::{IdentityName, NodeName};
use postern_proto::policy::Expr;
use postern_proto::spec::{
    Destination, Disclose, InletSpec, OutletSpec, PeerRoute, PolicySpec, PolicyTarget, RelayAt, RelaySpec, ResourceType, Share,
};
use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::engine::{
    Engine, EngineStatus, Failure, Freshness, InletStatus, LastFailure, OutletStatus, PortalCheck, RelayServer, RelayState,
    RelayStatus, Resource, ShareStatus, code,
};
use crate::findings::{Finding, findings};
use crate::store::{Specs, Stored};

/// In every document, as `"api_version": "1"`. A document of another version is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiVersion;

impl ApiVersion {
    const TEXT: &'static str = "1";
}

impl Serialize for ApiVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::TEXT)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            Self::TEXT => Ok(Self),
            other => Err(serde::de::Error::custom(format!("api_version {other:?}, not {:?}", Self::TEXT))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Running,
    /// It was told to stop, and lets its streams finish. It answers no commands any more.
    Stopping,
    Stopped,
}

impl NodeState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connection {
    Up,
    Down,
}

/// `node show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDocument {
    pub api_version: ApiVersion,
    pub name: String,
    pub identity_name: String,
    pub is_default: bool,
    pub status: NodeState,
    pub pid: Option<u32>,
    pub http_server_address: Option<String>,
    pub tcp_listener_address: Option<String>,
    /// When the node last heard its authority, and how long it goes on without.
    pub authority: Option<FreshnessDocument>,
    /// What the node waits for, if it is not all up.
    pub waiting: Vec<WaitingDocument>,
    /// Resources without a policy, which every member of the project may use, as `TYPE NAME`.
    pub open_to_every_member: Vec<String>,
    /// Policies that nobody can meet, and that decide nothing.
    pub policy_findings: Vec<Finding>,
    /// The project's policies for this node, which no policy of its own can widen; empty for a node that is stopped.
    pub guardrails: Vec<GuardrailDocument>,
    pub inlets: Vec<InletDocument>,
    pub outlets: Vec<OutletDocument>,
    pub relays: Vec<RelayDocument>,
    pub policies: Vec<PolicyDocument>,
}

/// How old the newest word of the authority is: what a node in a project goes on by while the authority is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessDocument {
    /// By the authority's clock.
    pub heard_at: String,
    pub max_staleness: String,
    /// How long until the node opens no stream any more and ends those that live.
    pub seconds_left: u64,
}

impl FreshnessDocument {
    fn new(freshness: Freshness) -> Self {
        Self {
            heard_at: freshness.heard.to_string(),
            max_staleness: format!("{}s", freshness.max.as_secs()),
            seconds_left: freshness.left().as_secs(),
        }
    }

    #[must_use]
    pub fn of_engine(status: &EngineStatus) -> Option<Self> {
        status.freshness.map(Self::new)
    }
}

/// What waits, where it is the authority that is not connected.
pub const AUTHORITY: &str = "authority";

/// What waits, where the authority's audit log is another one than the node has seen.
pub const AUDIT: &str = "audit";

/// A step that waits: not a failure, because the node goes on trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingDocument {
    /// `enrolment`, `authority`, `audit`, `relay NAME` or `tcp-inlet ALIAS`; `step` is the step within it.
    pub what: String,
    pub step: String,
    pub code: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InletDocument {
    pub api_version: ApiVersion,
    pub bind_addr: String,
    pub alias: String,
    pub outlet_route: String,
    pub status: Connection,
    /// The outlet's name.
    pub to: String,
    /// The relay name, where the peer is found at the relays.
    pub via: Option<String>,
    pub allow: Option<String>,
    /// How long a connection may be without a path, such as `60s`.
    pub resume_timeout: String,
    /// What a peer that is refused is told: `reason`, `code` or `nothing`.
    pub disclose: Disclose,
    /// Why it is not up.
    pub reason: Option<String>,
    /// All outlets that it leads to; `to`, `via` and `outlet_route` are of the first.
    pub outlets: Vec<ShareDocument>,
}

/// One of the outlets of an inlet, and what it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareDocument {
    /// The outlet's name.
    pub to: String,
    /// As of an inlet.
    pub via: Option<String>,
    pub outlet_route: String,
    pub weight: u16,
    /// Connections that went there since the inlet was made or its node started.
    pub connections: u64,
    /// Those of them that are open.
    pub open: u32,
    /// Whether it failed just now, and others are preferred.
    pub failing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutletDocument {
    pub api_version: ApiVersion,
    pub to: String,
    pub name: String,
    pub worker_address: String,
    pub allow: Option<String>,
    /// How long a connection may be without a path, such as `60s`.
    pub resume_timeout: String,
    /// What a peer that is refused is told: `reason`, `code` or `nothing`.
    pub disclose: Disclose,
    /// Why its target was not reached when it was dialled last; `null` where it was, or was not dialled yet.
    pub last_failure: Option<TargetFailureDocument>,
}

/// A target that was not reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFailureDocument {
    pub at: String,
    pub code: String,
    pub reason: String,
}

impl TargetFailureDocument {
    fn new(last: &LastFailure) -> Self {
        Self { at: last.at.to_string(), code: last.failure.code.into(), reason: last.failure.reason.clone() }
    }
}

/// An outlet whose target was not reached when it was dialled last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreachedDocument {
    pub outlet: String,
    pub to: String,
    pub at: String,
    pub code: String,
    pub reason: String,
}

impl UnreachedDocument {
    /// All of a running node.
    #[must_use]
    pub fn of_engine(status: &EngineStatus) -> Vec<Self> {
        let unreached = |outlet: &OutletStatus| {
            let TargetFailureDocument { at, code, reason } = TargetFailureDocument::new(outlet.last_failure.as_ref()?);
            Some(Self { outlet: outlet.spec.name.to_string(), to: outlet.spec.to.to_string(), at, code, reason })
        };
        status.outlets.iter().filter_map(unreached).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayDocument {
    pub api_version: ApiVersion,
    pub name: String,
    /// The node that is found under the name.
    pub destination: String,
    pub connection_status: Connection,
    pub relay_route: String,
    pub remote_address: String,
    pub at: String,
    /// Its share of new streams beside other nodes under the name.
    pub weight: u16,
    /// Why it is not up.
    pub reason: Option<String>,
    /// The relay servers that the node uses for the name; empty for a node that is stopped.
    pub servers: Vec<RelayServerDocument>,
}

/// A relay name at one relay server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayServerDocument {
    pub address: String,
    /// Whether the name is registered there.
    pub status: Connection,
    /// From the node to the server and back, in microseconds, where it was measured.
    pub round_trip_us: Option<u64>,
}

/// Where a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicySource {
    /// The resource's, or the type's, that was asked about.
    Own,
    /// The one of the resource's type.
    Type,
    /// Open to every member.
    Default,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDocument {
    pub api_version: ApiVersion,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// In canonical prefix form.
    pub expression: String,
    pub source: PolicySource,
    /// The rule in words, where it is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A policy of the project that is in force on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardrailDocument {
    pub resource_type: String,
    /// For which nodes it is; `null` for all.
    pub applies_to: Option<String>,
    /// In canonical form.
    pub expression: String,
}

impl GuardrailDocument {
    /// Those that are for this node.
    #[must_use]
    pub fn of_engine(engine: &Engine) -> Vec<Self> {
        let types = [ResourceType::TcpInlet, ResourceType::TcpOutlet];
        let of_type = |kind: ResourceType| {
            engine.guardrails(&Resource::of_type(kind)).into_iter().map(move |rule| Self {
                resource_type: kind.to_string(),
                applies_to: rule.applies_to.map(|nodes| nodes.to_string()),
                expression: rule.expression.to_string(),
            })
        };
        types.into_iter().flat_map(of_type).collect()
    }
}

/// Whether a byte can pass through one portal now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalDocument {
    /// The inlet's alias.
    pub inlet: String,
    pub ok: bool,
    /// How the keys with the peer's node were agreed on, where `ok`: `x25519+ml-kem-768`, or `x25519` with a node that picked that.
    pub key_exchange: Option<String>,
    /// The step that failed.
    pub step: Option<String>,
    pub code: Option<String>,
    pub reason: Option<String>,
    /// What it is logged under at both ends, where somebody refused it; `postern explain ID` tells more.
    pub refusal: Option<RefusalId>,
}

/// The part of `status` that one node gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatusDocument {
    pub api_version: ApiVersion,
    pub name: String,
    pub status: NodeState,
    pub pid: Option<u32>,
    /// As in [`NodeDocument`].
    pub authority: Option<FreshnessDocument>,
    pub waiting: Vec<WaitingDocument>,
    /// As in [`NodeDocument`].
    pub open_to_every_member: Vec<String>,
    /// As in [`NodeDocument`].
    pub policy_findings: Vec<Finding>,
    /// Outlets whose target was not reached when it was dialled last; a portal is looked at from its inlet's side.
    pub unreached: Vec<UnreachedDocument>,
    pub portals: Vec<PortalDocument>,
}

/// `{"api_version", "deleted"}`: what a deletion answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedDocument {
    pub api_version: ApiVersion,
    pub deleted: String,
}

/// `{"api_version", "pid"}`: what stopping and reloading answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessDocument {
    pub api_version: ApiVersion,
    pub pid: u32,
}

impl DeletedDocument {
    #[must_use]
    pub fn new(deleted: impl std::fmt::Display) -> Self {
        Self { api_version: ApiVersion, deleted: deleted.to_string() }
    }
}

impl ProcessDocument {
    #[must_use]
    pub fn this_process() -> Self {
        Self { api_version: ApiVersion, pid: std::process::id() }
    }
}

/// What is said of a node beside its resources.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub name: NodeName,
    pub identity: IdentityName,
    pub is_default: bool,
    pub http_server_address: Option<String>,
    pub tcp_listener_address: Option<String>,
}

impl NodeDocument {
    /// A node that takes no commands, as it is stored; `ending` is the process that ran it, while that lets its streams finish.
    #[must_use]
    pub fn stopped(name: &NodeName, is_default: bool, stored: &Stored, ending: Option<u32>) -> Self {
        let specs = &stored.specs;
        Self {
            api_version: ApiVersion,
            name: name.to_string(),
            identity_name: stored.identity.to_string(),
            is_default,
            status: if ending.is_some() { NodeState::Stopping } else { NodeState::Stopped },
            pid: ending,
            http_server_address: None,
            tcp_listener_address: stored.options.tcp_listener_address.as_ref().map(ToString::to_string),
            authority: None,
            waiting: Vec::new(),
            open_to_every_member: specs.open_to_every_member(),
            policy_findings: findings(specs, &|_| Vec::new()),
            guardrails: Vec::new(),
            inlets: specs.inlets.iter().map(|inlet| InletDocument::stopped(inlet, specs)).collect(),
            outlets: specs.outlets.iter().map(|outlet| OutletDocument::new(outlet, specs)).collect(),
            relays: specs.relays.iter().map(|spec| RelayDocument::stopped(name, spec)).collect(),
            policies: specs.own_policies().iter().map(PolicyDocument::own).collect(),
        }
    }

    /// A node that runs in this process.
    #[must_use]
    pub fn running(facts: &NodeFacts, engine: &Engine, waiting: Vec<WaitingDocument>, specs: &Specs) -> Self {
        let status = engine.status();
        Self {
            api_version: ApiVersion,
            name: facts.name.to_string(),
            identity_name: facts.identity.to_string(),
            is_default: facts.is_default,
            status: NodeState::Running,
            pid: Some(std::process::id()),
            http_server_address: facts.http_server_address.clone(),
            tcp_listener_address: facts.tcp_listener_address.clone(),
            authority: FreshnessDocument::of_engine(&status),
            waiting,
            open_to_every_member: specs.open_to_every_member(),
            policy_findings: findings(specs, &|resource| engine.guardrails(resource)),
            guardrails: GuardrailDocument::of_engine(engine),
            inlets: status.inlets.iter().map(|inlet| InletDocument::running(inlet, specs)).collect(),
            outlets: status.outlets.iter().map(|outlet| OutletDocument::running(outlet, specs)).collect(),
            relays: status.relays.iter().map(|relay| RelayDocument::running(&facts.name, relay)).collect(),
            policies: specs.own_policies().iter().map(PolicyDocument::own).collect(),
        }
    }
}

impl InletDocument {
    fn new(spec: &InletSpec, specs: &Specs, reason: Option<String>) -> Self {
        Self {
            api_version: ApiVersion,
            bind_addr: spec.from.to_string(),
            alias: spec.alias.to_string(),
            outlet_route: spec.to.first().to_string(),
            status: if reason.is_none() { Connection::Up } else { Connection::Down },
            to: spec.to.first().outlet.to_string(),
            via: via(spec.to.first()),
            allow: specs.own_policy(spec.alias.as_str(), spec.allow.as_ref()).map(ToString::to_string),
            resume_timeout: spec.resume_timeout.to_string(),
            disclose: spec.disclose,
            reason,
            outlets: spec.to.shares().iter().map(ShareDocument::unused).collect(),
        }
    }

    #[must_use]
    pub fn stopped(spec: &InletSpec, specs: &Specs) -> Self {
        Self::new(spec, specs, Some(STOPPED.to_owned()))
    }

    #[must_use]
    pub fn running(status: &InletStatus, specs: &Specs) -> Self {
        let reason = status.failure.as_ref().map(|failure| failure.reason.clone());
        let outlets = status.outlets.iter().map(ShareDocument::running).collect();
        Self { outlets, ..Self::new(&status.spec, specs, reason) }
    }
}

/// The relay name, where a peer is found at the relays.
fn via(to: &Destination) -> Option<String> {
    match &to.peer {
        PeerRoute::Relay(relay) => Some(relay.to_string()),
        PeerRoute::Node(_) | PeerRoute::Address(_) => None,
    }
}

impl ShareDocument {
    fn unused(share: &Share) -> Self {
        Self {
            to: share.to.outlet.to_string(),
            via: via(&share.to),
            outlet_route: share.to.to_string(),
            weight: share.weight.get(),
            connections: 0,
            open: 0,
            failing: false,
        }
    }

    fn running(status: &ShareStatus) -> Self {
        let ShareStatus { share, connections, open, failing } = status;
        Self { connections: *connections, open: *open, failing: *failing, ..Self::unused(share) }
    }
}

impl OutletDocument {
    #[must_use]
    pub fn new(spec: &OutletSpec, specs: &Specs) -> Self {
        Self {
            api_version: ApiVersion,
            to: spec.to.to_string(),
            name: spec.name.to_string(),
            worker_address: format!("/service/{}", spec.name),
            allow: specs.own_policy(spec.name.as_str(), spec.allow.as_ref()).map(ToString::to_string),
            resume_timeout: spec.resume_timeout.to_string(),
            disclose: spec.disclose,
            last_failure: None,
        }
    }

    #[must_use]
    pub fn running(status: &OutletStatus, specs: &Specs) -> Self {
        let last_failure = status.last_failure.as_ref().map(TargetFailureDocument::new);
        Self { last_failure, ..Self::new(&status.spec, specs) }
    }
}

impl RelayDocument {
    fn new(node: &NodeName, spec: &RelaySpec, reason: Option<String>) -> Self {
        Self {
            api_version: ApiVersion,
            name: spec.name.to_string(),
            destination: format!("/node/{node}"),
            connection_status: if reason.is_none() { Connection::Up } else { Connection::Down },
            relay_route: format!("/project/default/service/forward_to_{}/secure/api", spec.name),
            remote_address: format!("forward_to_{}", spec.name),
            at: match &spec.at {
                RelayAt::Project => "/project/default".to_owned(),
                RelayAt::Server(address) => address.to_string(),
            },
            weight: spec.weight.get(),
            reason,
            servers: Vec::new(),
        }
    }

    #[must_use]
    pub fn stopped(node: &NodeName, spec: &RelaySpec) -> Self {
        Self::new(node, spec, Some(STOPPED.to_owned()))
    }

    #[must_use]
    pub fn running(node: &NodeName, status: &RelayStatus) -> Self {
        let reason = match &status.state {
            RelayState::Up => None,
            RelayState::Waiting(failure) | RelayState::Refused(failure) => Some(failure.reason.clone()),
        };
        let servers = status.servers.iter().map(RelayServerDocument::new).collect();
        Self { servers, ..Self::new(node, &status.spec, reason) }
    }
}

impl RelayServerDocument {
    fn new(server: &RelayServer) -> Self {
        Self {
            address: server.address.to_string(),
            status: if server.registered { Connection::Up } else { Connection::Down },
            round_trip_us: server.round_trip.and_then(|time| u64::try_from(time.as_micros()).ok()),
        }
    }
}

const STOPPED: &str = "the node is stopped";

impl PolicyDocument {
    /// A policy that was written for a resource or a type.
    #[must_use]
    pub fn own(spec: &PolicySpec) -> Self {
        let (resource, resource_type) = match &spec.target {
            PolicyTarget::Resource(name) => (Some(name.clone()), None),
            PolicyTarget::ResourceType(kind) => (None, Some(kind.to_string())),
        };
        let expression = spec.expression.to_string();
        Self { api_version: ApiVersion, resource, resource_type, expression, source: PolicySource::Own, note: None }
    }

    /// The policy in force for something that has none of its own.
    #[must_use]
    pub fn inherited(expression: &Expr, source: PolicySource) -> Self {
        let note = (source == PolicySource::Default).then(|| "open to every member".to_owned());
        Self { api_version: ApiVersion, resource: None, resource_type: None, expression: expression.to_string(), source, note }
    }
}

impl PortalDocument {
    #[must_use]
    pub fn new(check: &PortalCheck) -> Self {
        let part = |text: fn(&Failure) -> String| check.passes.as_ref().err().map(text);
        Self {
            inlet: check.alias.to_string(),
            ok: check.passes.is_ok(),
            key_exchange: check.passes.as_ref().ok().map(KeyExchange::to_string),
            step: part(|failure| failure.step.as_str().to_owned()),
            code: part(|failure| failure.code.into()),
            reason: part(|failure| failure.reason.clone()),
            refusal: check.passes.as_ref().err().and_then(|failure| failure.refusal),
        }
    }
}

impl WaitingDocument {
    #[must_use]
    pub fn new(what: impl Into<String>, failure: &Failure) -> Self {
        Self {
            what: what.into(),
            step: failure.step.as_str().to_owned(),
            code: failure.code.into(),
            reason: failure.reason.clone(),
        }
    }

    /// Everything of the engine that is not up.
    #[must_use]
    pub fn of_engine(status: &EngineStatus) -> Vec<Self> {
        let relays = status.relays.iter().filter_map(|relay| match &relay.state {
            RelayState::Up => None,
            RelayState::Waiting(failure) | RelayState::Refused(failure) => {
                Some(Self::new(format!("relay {}", relay.spec.name), failure))
            }
        });
        let inlets = status.inlets.iter().filter_map(|inlet| {
            inlet.failure.as_ref().map(|failure| Self::new(format!("tcp-inlet {}", inlet.spec.alias), failure))
        });
        let authority = |code: Code, reason: String| Self {
            what: AUTHORITY.to_owned(),
            step: AUTHORITY.to_owned(),
            code: code.into(),
            reason,
        };
        let authority = match (status.revoked, &status.authority_trouble) {
            (true, _) => {
                let reason = "this node's identity was revoked or deleted: peers refuse it; only a new ticket admits it again";
                Some(authority(code::NOT_A_MEMBER, reason.to_owned()))
            }
            (false, trouble) => trouble.as_ref().map(|reason| authority(code::AUTHORITY_DOWN, reason.clone())),
        };
        let audit = status.audit_fault.as_ref().map(|failure| Self { step: AUTHORITY.to_owned(), ..Self::new(AUDIT, failure) });
        authority.into_iter().chain(audit).chain(relays).chain(inlets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    #[test]
    fn the_form_that_scripts_rely_on() {
        let text = "name: n\nrelay: r\ntcp-outlet: {from: db, to: 5432, allow: a}\n\
                    tcp-inlet: {alias: web, from: 7000, via: other, to: x}\npolicy: {resource-type: tcp-inlet, allow: b}\n";
        let stored = Stored::from_config(&load("f", text, &Variables::default(), None).unwrap(), "me".parse().unwrap());
        let document = NodeDocument::stopped(&"n".parse().unwrap(), true, &stored, None);
        let expected = serde_json::json!({
            "api_version": "1", "name": "n", "identity_name": "me", "is_default": true, "status": "stopped", "pid": null,
            "http_server_address": null, "tcp_listener_address": null, "authority": null, "waiting": [], "open_to_every_member": [], "policy_findings": [], "guardrails": [],
            "inlets": [{
                "api_version": "1", "bind_addr": "127.0.0.1:7000", "alias": "web",
                "outlet_route": "/project/default/service/forward_to_other/secure/api/service/x",
                "status": "Down", "to": "x", "via": "other", "allow": null, "resume_timeout": "60s", "disclose": "code", "reason": "the node is stopped",
                "outlets": [{
                    "to": "x", "via": "other", "outlet_route": "/project/default/service/forward_to_other/secure/api/service/x",
                    "weight": 1, "connections": 0, "open": 0, "failing": false,
                }],
            }],
            "outlets": [{
                "api_version": "1", "to": "127.0.0.1:5432", "name": "db", "worker_address": "/service/db", "allow": "(= subject.a \"true\")", "resume_timeout": "60s", "disclose": "code", "last_failure": null,
            }],
            "relays": [{
                "api_version": "1", "name": "r", "destination": "/node/n", "connection_status": "Down",
                "relay_route": "/project/default/service/forward_to_r/secure/api", "remote_address": "forward_to_r",
                "at": "/project/default", "weight": 1, "reason": "the node is stopped", "servers": [],
            }],
            "policies": [
                {"api_version": "1", "resource_type": "tcp-inlet", "expression": "(= subject.b \"true\")", "source": "own"},
                {"api_version": "1", "resource": "db", "expression": "(= subject.a \"true\")", "source": "own"},
            ],
        });
        assert_eq!(serde_json::to_value(&document).unwrap(), expected);
        assert_eq!(serde_json::from_value::<NodeDocument>(expected).unwrap(), document);
    }
}
