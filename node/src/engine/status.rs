//! How a running node is, told truthfully: what works, and which step the rest waits for.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::Refusal;
use postern_proto::handshake::KeyExchange;
use postern_proto::name::Alias;
use postern_proto::spec::{Destination, InletSpec, OutletSpec, PeerRoute, RelayAt, RelaySpec};
use postern_proto::time::Timestamp;

use super::code;
use super::failure::{Failure, Step};
use super::inlet::Inlet;
use super::live::Through;
use super::outlet_target::LastFailure;
use super::relay_link::{Registration, RelayLink, all_down};
use super::shared::Shared;
use super::target::ShareStatus;
use super::trust::{Freshness, TrustError};
use super::witness::code_of;

/// What runs, and how it is.
#[derive(Debug, Clone, Default)]
pub struct EngineStatus {
    pub inlets: Vec<InletStatus>,
    pub outlets: Vec<OutletStatus>,
    pub relays: Vec<RelayStatus>,
    /// When this node's credential expires; `None` where it has none.
    pub credential_expires: Option<Timestamp>,
    /// Why the authority is not connected, where it should be.
    pub authority_trouble: Option<String>,
    /// Why the authority's audit log is not believed.
    pub audit_fault: Option<Failure>,
    /// This node's identity is no member of its project any more.
    pub revoked: bool,
    /// How old the newest word of the authority is; `None` where none is needed, or none was heard yet.
    pub freshness: Option<Freshness>,
    /// Live streams.
    pub streams: usize,
}

#[derive(Debug, Clone)]
pub struct InletStatus {
    pub spec: InletSpec,
    /// `None`: the peer was found and the last stream, if there was one, was opened.
    pub failure: Option<Failure>,
    pub streams: usize,
    /// What each of its outlets got.
    pub outlets: Vec<ShareStatus>,
}

#[derive(Debug, Clone)]
pub struct OutletStatus {
    pub spec: OutletSpec,
    /// Why its target was not reached when it was dialled last; `None` where it was, or nobody has asked for it yet.
    pub last_failure: Option<LastFailure>,
}

#[derive(Debug, Clone)]
pub struct RelayStatus {
    pub spec: RelaySpec,
    pub state: RelayState,
    /// The relay servers that this node uses for the name.
    pub servers: Vec<RelayServer>,
}

/// A relay name at one relay server.
#[derive(Debug, Clone)]
pub struct RelayServer {
    pub address: HostPort,
    /// The name is registered there now.
    pub registered: bool,
    /// From this node and back, where it was measured.
    pub round_trip: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayState {
    /// Registered, and a relay is connected.
    Up,
    Waiting(Failure),
    /// The credential does not permit the name: no retry will change that.
    Refused(Failure),
}

/// What a probe of a portal came to.
#[derive(Debug, Clone)]
pub struct PortalCheck {
    pub alias: Alias,
    /// How the keys with the peer's node were agreed on, where a byte can pass now.
    pub passes: Result<KeyExchange, Failure>,
}

pub fn status(shared: &Shared) -> EngineStatus {
    let inlets = shared.inlets().values().cloned().collect::<Vec<_>>();
    let specs = shared.relay_specs().values().cloned().collect::<Vec<_>>();
    EngineStatus {
        inlets: inlets
            .iter()
            .map(|inlet| InletStatus {
                spec: inlet.spec.clone(),
                failure: inlet_failure(shared, inlet),
                streams: shared.live.count(&Through::Inlet(inlet.spec.alias.clone())),
                outlets: inlet.targets.status(),
            })
            .collect(),
        outlets: shared
            .outlets()
            .values()
            .map(|spec| OutletStatus { spec: spec.clone(), last_failure: shared.unreached.of(&spec.name) })
            .collect(),
        relays: specs.into_iter().map(|spec| relay_status(shared, spec)).collect(),
        credential_expires: shared.trust.own().map(|own| own.member.expires()),
        authority_trouble: shared.authority_trouble(),
        audit_fault: shared.witness.fault().map(|fault| Failure::new(Step::Credential, code_of(&fault), fault.to_string())),
        revoked: shared.is_revoked(),
        freshness: shared.trust.freshness(),
        streams: shared.live.total(),
    }
}

pub(super) fn relay_status(shared: &Shared, spec: RelaySpec) -> RelayStatus {
    let all = shared.relays.all();
    let links: Vec<_> = all.iter().filter(|link| spec.at.means(&link.address())).cloned().collect();
    if let RelayAt::Server(address) = &spec.at
        && links.is_empty()
        && !all.is_empty()
    {
        let reason = format!("the project has no relay at {address}");
        let state = RelayState::Waiting(Failure::new(Step::Relay, code::NO_RELAY, reason));
        return RelayStatus { spec, state, servers: Vec::new() };
    }
    let server = |link: &Arc<RelayLink>| RelayServer {
        address: link.address(),
        registered: link.is_up() && link.registration(&spec.name) == Some(Registration::Up),
        round_trip: link.round_trip().filter(|_| link.is_up()),
    };
    let servers: Vec<_> = links.iter().map(server).collect();
    if servers.iter().any(|server| server.registered) {
        return RelayStatus { spec, state: RelayState::Up, servers };
    }
    let refused = links.iter().find_map(|link| match link.registration(&spec.name) {
        Some(Registration::Refused(refusal)) => Some(refusal),
        _ => None,
    });
    let state = match (shared.name_answer(&spec.name), refused) {
        (Some(Err(refusal @ (Refusal::NotPermitted { .. } | Refusal::RelayNameHeld { .. } | Refusal::Invalid { .. }))), _) => {
            RelayState::Refused(Failure::new(Step::Relay, code::NOT_PERMITTED, refusal.to_string()))
        }
        (Some(Err(refusal)), _) => {
            RelayState::Waiting(Failure::new(Step::Credential, code::AUTHORITY_REFUSED, refusal.to_string()))
        }
        (_, Some(refusal)) => {
            RelayState::Waiting(Failure::new(Step::Relay, code::RELAY_REFUSED, format!("the relay refuses: {refusal}")))
        }
        _ => RelayState::Waiting(relay_failure(shared, &links).unwrap_or_else(|| {
            Failure::new(Step::Relay, code::REGISTERING, format!("the relay name `{}` is being registered", spec.name))
        })),
    };
    RelayStatus { spec, state, servers }
}

/// Why no relay can be used now.
fn relay_failure(shared: &Shared, links: &[Arc<RelayLink>]) -> Option<Failure> {
    if shared.trust.own().is_none() {
        return Some(Failure::new(Step::Credential, code::NO_CREDENTIAL, shared.why_no_credential()));
    }
    if links.is_empty() {
        return Some(Failure::new(Step::Relay, code::NO_RELAY, "the project has no relay that this node knows of"));
    }
    if links.iter().any(|link| link.is_up()) {
        return None;
    }
    // While one is being connected, that says more than why others are away.
    let link = match links.iter().find(|link| link.last_error().is_none()).or_else(|| links.first().filter(|_| links.len() == 1))
    {
        Some(link) => link,
        None => return Some(all_down(links)),
    };
    let why = link.last_error().unwrap_or_else(|| "it is being connected".to_owned());
    Some(Failure::new(Step::Relay, code::RELAY_DOWN, format!("the relay at {} is not connected: {why}", link.address())))
}

fn inlet_failure(shared: &Shared, inlet: &Inlet) -> Option<Failure> {
    // Where one of several outlets can be reached, connections pass.
    let failures: Option<Vec<Failure>> = inlet.spec.to.iter().map(|to| peer_failure(shared, to)).collect();
    failures.and_then(|failures| failures.into_iter().next()).or_else(|| inlet.last_failure())
}

/// Why no node of an outlet can be reached, as far as it is known without trying.
fn peer_failure(shared: &Shared, to: &Destination) -> Option<Failure> {
    if let Some(freshness) = shared.trust.freshness().filter(Freshness::is_over) {
        let reason = TrustError::Stale { age: freshness.age, max: freshness.max }.to_string();
        return Some(Failure::new(Step::Credential, code::STALE, reason));
    }
    let PeerRoute::Relay(name) = &to.peer else { return None };
    if let Some(failure) = relay_failure(shared, &shared.relays.all()) {
        return Some(failure);
    }
    match shared.relays.is_registered(name) {
        Some(true) => None,
        Some(false) => {
            let reason = format!("no node is registered under the relay name `{name}` now");
            Some(Failure::new(Step::Peer, code::NO_PEER, reason))
        }
        None => {
            let reason = format!("the relay is being asked who is registered under the relay name `{name}`");
            Some(Failure::new(Step::Peer, code::LOOKING_UP, reason))
        }
    }
}
