//! Why a peer may reach an outlet, or may not: the same decisions as for a stream, step by step, without one.
//!
//! A node knows what it decides itself. Of the two nodes of a portal, the inlet's tells of look-up and of its own policy, and asks
//! the outlet's by a probe; the outlet's tells of its relay name, its policy and its target.

use std::sync::Arc;

use postern_proto::credential::VerifiedCredential;
use postern_proto::id::{Identifier, RefusalId};
use postern_proto::name::OutletName;
use postern_proto::policy::{Decision, Reason};
use postern_proto::spec::{PeerRoute, RelayAt, RelaySpec};
use postern_proto::time::Timestamp;

use super::channel::Channel;
use super::code;
use super::failure::{Failure, Step};
use super::inlet::{Inlet, ask};
use super::outlet_target::{self, Unreached};
use super::policy::{Resource, Rule};
use super::relays::{Gone, Patience};
use super::shared::Shared;
use super::status::{RelayState, relay_status};
use crate::code::Code;

/// May the node of `from` open a stream to `outlet` of the node that is found by `route`?
#[derive(Debug, Clone)]
pub struct Question {
    pub from: Identifier,
    pub route: PeerRoute,
    pub outlet: OutletName,
    /// The time at which credentials are looked at; now where absent. Policies are those of now.
    pub at: Option<Timestamp>,
}

/// The steps of a decision, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    RelayClaim,
    RelayLookUp,
    InletPolicy,
    OutletPolicy,
    OutletTarget,
}

impl Stage {
    pub const ALL: [Self; 5] = [Self::RelayClaim, Self::RelayLookUp, Self::InletPolicy, Self::OutletPolicy, Self::OutletTarget];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RelayClaim => "relay-claim",
            Self::RelayLookUp => "relay-look-up",
            Self::InletPolicy => "inlet-policy",
            Self::OutletPolicy => "outlet-policy",
            Self::OutletTarget => "outlet-target",
        }
    }

    /// What the step is, for a person.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::RelayClaim => "the outlet's node holds the relay name",
            Self::RelayLookUp => "the inlet's node finds a node under the relay name",
            Self::InletPolicy => "the inlet's node may send to the outlet's node",
            Self::OutletPolicy => "the outlet's node lets the inlet's node in",
            Self::OutletTarget => "the outlet's target answers",
        }
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// Somebody decides against it.
    Denied,
    /// It does not work now, and nobody decided so.
    Failed,
    /// This node cannot tell.
    Unknown,
}

impl Verdict {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// A policy that was asked, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub rule: Rule,
    /// `None`: it allows.
    pub reason: Option<Reason>,
}

/// One step as this node sees it.
#[derive(Debug, Clone)]
pub struct Told {
    pub stage: Stage,
    pub verdict: Verdict,
    /// The inlet or outlet that was asked, where it is this node's.
    pub resource: Option<String>,
    pub code: Option<Code>,
    pub reason: String,
    /// Whom the policies were asked about.
    pub peer: Option<Identifier>,
    /// What that peer's credential says of it.
    pub attributes: Vec<(String, String)>,
    pub policies: Vec<Asked>,
    /// Of the peer's node, where it refused and its operator can look it up.
    pub refusal: Option<RefusalId>,
}

impl Told {
    fn new(stage: Stage, verdict: Verdict, reason: impl Into<String>) -> Self {
        Self {
            stage,
            verdict,
            resource: None,
            code: None,
            reason: reason.into(),
            peer: None,
            attributes: Vec::new(),
            policies: Vec::new(),
            refusal: None,
        }
    }

    fn failed(stage: Stage, verdict: Verdict, failure: &Failure) -> Self {
        let (code, refusal) = (Some(failure.code), failure.refusal);
        Self { code, refusal, ..Self::new(stage, verdict, failure.reason.clone()) }
    }
}

/// What this node can tell; nothing where it is neither of the two nodes.
pub async fn explain(shared: &Arc<Shared>, question: &Question) -> Vec<Told> {
    let mut told = Vec::new();
    if has_outlet_side(shared, question) {
        told.extend(relay_claim(shared, question));
        let policy = outlet_policy(shared, question);
        let target = outlet_target(shared, question, policy.verdict).await;
        told.extend([policy, target]);
    }
    if question.from == shared.trust.identifier {
        told.extend(inlet_side(shared, question).await);
    }
    told
}

/// Whether this node is one that the route leads to.
fn has_outlet_side(shared: &Shared, question: &Question) -> bool {
    match &question.route {
        PeerRoute::Relay(name) => shared.relay_specs().contains_key(name),
        PeerRoute::Node(name) => name == shared.node_home.name(),
        PeerRoute::Address(_) => false,
    }
}

fn relay_claim(shared: &Shared, question: &Question) -> Option<Told> {
    let PeerRoute::Relay(name) = &question.route else { return None };
    let known = shared.relay_specs().get(name).cloned();
    let spec = known.unwrap_or_else(|| RelaySpec { name: name.clone(), at: RelayAt::Project, weight: Default::default() });
    Some(match relay_status(shared, spec).state {
        RelayState::Up => {
            let reason = format!("this node's credential permits the relay name `{name}`, and it is registered");
            Told::new(Stage::RelayClaim, Verdict::Allowed, reason)
        }
        RelayState::Refused(failure) => Told::failed(Stage::RelayClaim, Verdict::Denied, &failure),
        RelayState::Waiting(failure) => Told::failed(Stage::RelayClaim, Verdict::Failed, &failure),
    })
}

/// What the policies in force say of a peer, in words and one by one.
fn judge(shared: &Shared, stage: Stage, question: &Question, resource: &Resource<'_>, credential: &VerifiedCredential) -> Told {
    let facts = credential.facts();
    let attributes = facts.attributes.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let told = |verdict, reason: String| Told {
        resource: Some(resource.name.to_owned()),
        peer: Some(credential.subject()),
        attributes,
        ..Told::new(stage, verdict, reason)
    };
    let now = question.at.unwrap_or_else(|| shared.trust.now());
    if let Err(error) = shared.trust.recheck_at(credential, now) {
        let reason = format!("the peer's credential is not good: {error}");
        return Told { code: Some(code::CREDENTIAL), ..told(Verdict::Denied, reason) };
    }
    let policies: Vec<Asked> = shared
        .policies
        .in_force(resource)
        .into_iter()
        .map(|rule| match rule.decide(resource, facts) {
            Decision::Allowed => Asked { rule, reason: None },
            Decision::Denied(reason) => Asked { rule, reason: Some(reason) },
        })
        .collect();
    // The decision is the one that a stream gets; the policies one by one say how it came about.
    match shared.decide(resource, credential) {
        Ok(()) => Told { policies, ..told(Verdict::Allowed, "every policy in force allows the peer".to_owned()) },
        Err(denial) => Told { code: Some(code::DENIED), policies, ..told(Verdict::Denied, denial.to_string()) },
    }
}

fn outlet_policy(shared: &Shared, question: &Question) -> Told {
    let Some(outlet) = shared.outlet(&question.outlet) else {
        let reason = format!("this node has no outlet `{}`", question.outlet);
        return Told { code: Some(code::NO_SUCH_OUTLET), ..Told::new(Stage::OutletPolicy, Verdict::Denied, reason) };
    };
    let Some(credential) = shared.seen(question.from) else {
        let reason = "this node has seen no credential of that member since it was started, so it does not know its attributes";
        return Told {
            resource: Some(outlet.name.to_string()),
            peer: Some(question.from),
            ..Told::new(Stage::OutletPolicy, Verdict::Unknown, reason)
        };
    };
    let resource = Resource::outlet(outlet.name.as_str(), outlet.allow.as_ref());
    judge(shared, Stage::OutletPolicy, question, &resource, &credential)
}

async fn outlet_target(shared: &Shared, question: &Question, policy: Verdict) -> Told {
    let Some(outlet) = shared.outlet(&question.outlet) else {
        return Told::new(Stage::OutletTarget, Verdict::Unknown, "there is no outlet to ask");
    };
    let told = |verdict, reason: String| Told {
        resource: Some(outlet.name.to_string()),
        ..Told::new(Stage::OutletTarget, verdict, reason)
    };
    if question.at.is_some() {
        return told(Verdict::Unknown, "whether the target answers is known of now alone".to_owned());
    }
    if policy == Verdict::Denied {
        return told(Verdict::Unknown, "it is not dialled for a peer that is refused".to_owned());
    }
    match outlet_target::reach(shared, &outlet).await {
        Ok(_) => told(Verdict::Allowed, format!("{} accepts connections", outlet.to)),
        Err(Unreached { code, reason, .. }) => Told { code: Some(code), ..told(Verdict::Failed, reason) },
    }
}

async fn inlet_side(shared: &Arc<Shared>, question: &Question) -> Vec<Told> {
    let candidates = match shared.peers.candidates(shared, &question.route, &Gone::default(), &mut Patience::default()).await {
        Ok(candidates) => candidates,
        Err(failure) => return vec![look_up_failed(&failure)],
    };
    let found = format!(
        "{} found",
        match candidates.len() {
            1 => "1 node is".to_owned(),
            count => format!("{count} nodes are"),
        }
    );
    let mut told = vec![Told::new(Stage::RelayLookUp, Verdict::Allowed, found)];
    // The nodes under one name are replicas: the first that can be reached speaks for them.
    let mut reached = None;
    let mut failed = None;
    for candidate in &candidates {
        match shared.peers.channel(shared, candidate).await {
            Ok(channel) => {
                reached = Some(channel);
                break;
            }
            Err(failure) => failed = Some(failure),
        }
    }
    let Some(channel) = reached else {
        let failure = failed.unwrap_or_else(|| Failure::new(Step::Peer, code::NO_PEER, "there is no node to try"));
        told.push(Told::failed(Stage::InletPolicy, Verdict::Unknown, &failure));
        return told;
    };
    let policy = inlet_policy(shared, question, &channel);
    let (verdict, at) = (policy.verdict, question.at.is_some());
    told.push(policy);
    if verdict == Verdict::Allowed && !at {
        told.extend(asked_of_peer(shared, question, &channel).await);
    }
    told
}

fn look_up_failed(failure: &Failure) -> Told {
    let verdict = if failure.step == Step::Credential { Verdict::Denied } else { Verdict::Failed };
    Told::failed(Stage::RelayLookUp, verdict, failure)
}

/// By the first inlet that leads there; without one, by what stands for all inlets.
fn inlet_policy(shared: &Shared, question: &Question, channel: &Channel) -> Told {
    let leads = |inlet: &Arc<Inlet>| inlet.spec.to.iter().any(|to| to.peer == question.route && to.outlet == question.outlet);
    let inlet = shared.inlets().values().find(|inlet| leads(inlet)).cloned();
    let credential = channel.credential();
    match &inlet {
        Some(inlet) => {
            let resource = Resource::inlet(inlet.spec.alias.as_str(), inlet.spec.allow.as_ref());
            judge(shared, Stage::InletPolicy, question, &resource, &credential)
        }
        None => {
            let told = judge(shared, Stage::InletPolicy, question, &Resource::inlet("", None), &credential);
            let reason = format!("{}; no inlet of this node leads there yet", told.reason);
            Told { resource: None, reason, ..told }
        }
    }
}

/// What the outlet's node answers to a stream that carries nothing.
async fn asked_of_peer(shared: &Arc<Shared>, question: &Question, channel: &Arc<Channel>) -> Vec<Told> {
    let asked = match shared.peers.path(shared, channel).await {
        Ok(link) => ask(&question.outlet, channel, link).await,
        Err(failure) => Err(failure),
    };
    let allowed = |stage, reason: &str| Told::new(stage, Verdict::Allowed, reason);
    match asked {
        Ok(()) => vec![
            allowed(Stage::OutletPolicy, "the outlet's node opens it"),
            allowed(Stage::OutletTarget, "the outlet's node reached the target"),
        ],
        Err(failure) if failure.step == Step::Target => vec![
            allowed(Stage::OutletPolicy, "the outlet's node lets this node in"),
            Told::failed(Stage::OutletTarget, Verdict::Failed, &failure),
        ],
        Err(failure) if failure.code == code::NOT_AVAILABLE || failure.code == code::DENIED => {
            vec![Told { peer: Some(channel.peer()), ..Told::failed(Stage::OutletPolicy, Verdict::Denied, &failure) }]
        }
        Err(failure) => vec![Told::failed(Stage::OutletPolicy, Verdict::Failed, &failure)],
    }
}
