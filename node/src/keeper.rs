//! The running node as commands see it: what is wanted, what runs, and what is on disk, kept the same by every edit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::name::{Alias, OutletName, RelayName};
use postern_proto::policy::Expr;
use postern_proto::spec::{InletSpec, OutletSpec, PeerRoute, PolicySpec, PolicyTarget, RelaySpec, ResourceType};
use postern_runtime::home::{Home, NodeHome};
use postern_runtime::membership::Membership;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::resource::OutletRequest;
use crate::control::document::{
    ApiVersion, DeletedDocument, InletDocument, NodeDocument, NodeFacts, NodeState, NodeStatusDocument, OutletDocument,
    PolicyDocument, PolicySource, PortalDocument, RelayDocument, WaitingDocument,
};
use crate::control::fault::{Class, Fault, code};
use crate::engine::{Engine, RelayState};
use crate::plan;
use crate::store::{Specs, Stored};

/// Most resources of one kind; the same bound as a configuration's.
const MAX_RESOURCES: usize = 4096;
/// Most portals that are probed at once: a probe is a stream, and a node has hundreds of portals at most.
const MAX_PROBES: usize = 64;

/// See the module. Shared by the control server, the HTTP server and the daemon.
pub struct Keeper {
    engine: Engine,
    home: Arc<Home>,
    node: Arc<NodeHome>,
    /// Held over a whole edit, so that edits follow each other.
    stored: tokio::sync::Mutex<Stored>,
    /// What is stored, for those who only look, who must not wait for an edit.
    seen: watch::Sender<Stored>,
    http_server_address: Mutex<Option<String>>,
    /// What the node waits for beside the engine: its enrolment.
    waiting: watch::Sender<Option<WaitingDocument>>,
    /// Whether the home has joined no project, and so has no relays.
    without_project: AtomicBool,
    member: AtomicBool,
    reload: Notify,
}

impl Keeper {
    /// A node on which nothing runs yet.
    #[must_use]
    pub fn new(engine: Engine, home: Arc<Home>, node: Arc<NodeHome>, stored: &Stored) -> Self {
        let mut nothing = stored.clone();
        nothing.specs = Specs::default();
        Self {
            engine,
            home,
            node,
            seen: watch::Sender::new(nothing.clone()),
            stored: tokio::sync::Mutex::new(nothing),
            http_server_address: Mutex::default(),
            waiting: watch::Sender::new(None),
            without_project: AtomicBool::new(false),
            member: AtomicBool::new(false),
            reload: Notify::new(),
        }
    }

    /// Whether commands that need relays are refused.
    pub fn set_without_project(&self, without: bool) {
        self.without_project.store(without, Ordering::Relaxed);
    }

    /// Takes a membership into use: the node's own enrolment succeeded, or a command's.
    pub fn join(&self, membership: Membership) {
        self.set_without_project(false);
        self.member.store(true, Ordering::Relaxed);
        self.engine.set_membership(membership);
        self.set_waiting(None);
    }

    /// Whether [`Self::join`] was called.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.member.load(Ordering::Relaxed)
    }

    /// Asks for what SIGHUP does.
    pub fn request_reload(&self) {
        self.reload.notify_one();
    }

    /// Waits until a reload is asked for.
    pub async fn told_to_reload(&self) {
        self.reload.notified().await;
    }

    fn needs_project(&self, what: impl std::fmt::Display) -> Result<(), Fault> {
        if self.without_project.load(Ordering::Relaxed) { Err(Fault::no_project(what)) } else { Ok(()) }
    }

    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    #[must_use]
    pub fn node(&self) -> &NodeHome {
        &self.node
    }

    pub fn set_http_server_address(&self, address: String) {
        *self.http_server_address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Says what the node waits for beside its relays and peers, or that it no longer does.
    pub fn set_waiting(&self, waiting: Option<WaitingDocument>) {
        self.waiting.send_replace(waiting);
    }

    /// Runs what is wanted, all of it or, on an error, nothing of it; and keeps it.
    ///
    /// # Errors
    /// What a step or the disk answered.
    pub async fn replace(&self, wanted: Stored) -> Result<(), Fault> {
        self.edit(|stored| {
            *stored = wanted;
            Ok(())
        })
        .await
    }

    /// One edit: what runs follows it, then the disk. On an error nothing changed. Not to be dropped half-way: callers that can be
    /// cancelled run it in a task.
    async fn edit<T>(&self, edit: impl FnOnce(&mut Stored) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut stored = self.stored.lock().await;
        let mut wanted = stored.clone();
        let value = edit(&mut wanted)?;
        let taken = plan::apply(&self.engine, &stored.specs, &mut wanted.specs).await?;
        if let Err(fault) = self.save(wanted.clone()).await {
            plan::undo(&self.engine, &taken).await;
            return Err(fault);
        }
        self.seen.send_replace(wanted.clone());
        *stored = wanted;
        Ok(value)
    }

    async fn save(&self, stored: Stored) -> Result<(), Fault> {
        let node = Arc::clone(&self.node);
        // It waits for the disk.
        match tokio::task::spawn_blocking(move || stored.save(&node)).await {
            Ok(saved) => Ok(saved?),
            Err(_) => Err(Fault::new(Class::Failure, code::INTERNAL, "the node could not write what it is to run")),
        }
    }

    // ---- looking

    fn facts(&self) -> NodeFacts {
        let stored = self.seen.borrow();
        NodeFacts {
            name: self.node.name().clone(),
            identity: stored.identity.clone(),
            is_default: self.home.default_node().ok().flatten().is_some_and(|name| name == *self.node.name()),
            http_server_address: self.http_server_address.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            tcp_listener_address: stored.options.tcp_listener_address.as_ref().map(ToString::to_string),
        }
    }

    /// Everything that is not up, and why.
    #[must_use]
    pub fn waiting(&self) -> Vec<WaitingDocument> {
        let enrolment = self.waiting.borrow().clone();
        enrolment.into_iter().chain(WaitingDocument::of_engine(&self.engine.status())).collect()
    }

    #[must_use]
    pub fn show(&self) -> NodeDocument {
        let policies = self.seen.borrow().specs.policies.clone();
        NodeDocument::running(&self.facts(), &self.engine.status(), self.waiting(), &policies)
    }

    /// Probes every portal with a stream that carries no byte.
    pub async fn status(self: &Arc<Self>) -> NodeStatusDocument {
        let aliases: Vec<Alias> = self.seen.borrow().specs.inlets.iter().map(|inlet| inlet.alias.clone()).collect();
        let mut portals = Vec::with_capacity(aliases.len());
        for some in aliases.chunks(MAX_PROBES) {
            let probes: Vec<_> = some
                .iter()
                .cloned()
                .map(|alias| {
                    let keeper = Arc::clone(self);
                    tokio::spawn(async move { keeper.engine.probe(&alias).await })
                })
                .collect();
            for probe in probes {
                if let Ok(Some(check)) = probe.await {
                    portals.push(PortalDocument::new(&check));
                }
            }
        }
        NodeStatusDocument {
            api_version: ApiVersion,
            name: self.node.name().to_string(),
            status: NodeState::Running,
            pid: Some(std::process::id()),
            waiting: self.waiting(),
            portals,
        }
    }

    /// Waits until nothing waits any more, or for `limit`; whether nothing does.
    pub async fn settled(&self, limit: Duration) -> bool {
        self.settled_or(limit, || false).await
    }

    /// As [`Self::settled`], but also returns as soon as `given_up`.
    pub async fn settled_or(&self, limit: Duration, given_up: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut engine = self.engine.watch();
        let mut enrolment = self.waiting.subscribe();
        loop {
            if self.waiting().is_empty() {
                return true;
            }
            if given_up() {
                return false;
            }
            let changed = async {
                tokio::select! {
                    changed = engine.changed() => changed.is_ok(),
                    changed = enrolment.changed() => changed.is_ok(),
                }
            };
            if !tokio::time::timeout_at(deadline, changed).await.unwrap_or(false) {
                return self.waiting().is_empty();
            }
        }
    }

    #[must_use]
    pub fn outlets(&self) -> Vec<OutletDocument> {
        self.engine.status().outlets.iter().map(OutletDocument::new).collect()
    }

    #[must_use]
    pub fn inlets(&self) -> Vec<InletDocument> {
        self.engine.status().inlets.iter().map(InletDocument::running).collect()
    }

    #[must_use]
    pub fn relays(&self) -> Vec<RelayDocument> {
        self.engine.status().relays.iter().map(|relay| RelayDocument::running(self.node.name(), relay)).collect()
    }

    #[must_use]
    pub fn policies(&self) -> Vec<PolicyDocument> {
        self.seen.borrow().specs.policies.iter().map(PolicyDocument::own).collect()
    }

    /// The policy in force for a resource or a type.
    ///
    /// # Errors
    /// Where there is no such resource and no policy for one.
    pub fn policy(&self, target: &PolicyTarget) -> Result<PolicyDocument, Fault> {
        let seen = self.seen.borrow();
        let specs = &seen.specs;
        if let Some(own) = specs.policy(target) {
            return Ok(PolicyDocument::own(own));
        }
        let of_type = |kind| match specs.policy(&PolicyTarget::ResourceType(kind)) {
            Some(policy) => PolicyDocument::inherited(&policy.expression, PolicySource::Type),
            None => PolicyDocument::inherited(&Expr::members_only(), PolicySource::Default),
        };
        match target {
            PolicyTarget::ResourceType(_) => Ok(PolicyDocument::inherited(&Expr::members_only(), PolicySource::Default)),
            PolicyTarget::Resource(name) => {
                let (kind, allow) = resource(specs, name).ok_or_else(|| Fault::not_found("resource", name))?;
                Ok(match allow {
                    Some(expression) => PolicyDocument::own(&PolicySpec { target: target.clone(), expression }),
                    None => of_type(kind),
                })
            }
        }
    }

    // ---- edits

    /// # Errors
    /// Where the name is taken.
    pub async fn create_outlet(&self, request: OutletRequest) -> Result<OutletDocument, Fault> {
        let spec = self
            .edit(|stored| {
                let specs = &mut stored.specs;
                room_for(specs.outlets.len())?;
                let spec = request.named(|name| specs.outlets.iter().any(|outlet| outlet.name.as_str() == name));
                if specs.outlet(&spec.name).is_some() {
                    return Err(Fault::exists("an outlet", &spec.name).try_this("choose another name with --from"));
                }
                forget_policy(specs, spec.name.as_str(), spec.allow.is_some());
                specs.outlets.push(spec.clone());
                Ok(spec)
            })
            .await?;
        Ok(OutletDocument::new(&spec))
    }

    /// # Errors
    /// Where there is none of that name.
    pub async fn delete_outlet(&self, name: &OutletName) -> Result<DeletedDocument, Fault> {
        self.edit(|stored| remove(&mut stored.specs.outlets, |outlet: &OutletSpec| outlet.name == *name, "outlet", name)).await?;
        Ok(DeletedDocument::new(name))
    }

    /// # Errors
    /// Where the alias is taken or the address cannot be listened on.
    pub async fn create_inlet(&self, spec: InletSpec) -> Result<InletDocument, Fault> {
        let alias = spec.alias.clone();
        if matches!(spec.to.peer, PeerRoute::Relay(_)) {
            self.needs_project(format!("inlet `{alias}`"))?;
        }
        self.edit(|stored| {
            let specs = &mut stored.specs;
            room_for(specs.inlets.len())?;
            if specs.inlet(&spec.alias).is_some() {
                return Err(Fault::exists("an inlet", &spec.alias).try_this("choose another name with --alias"));
            }
            forget_policy(specs, spec.alias.as_str(), spec.allow.is_some());
            specs.inlets.push(spec);
            Ok(())
        })
        .await?;
        self.inlet(&alias)
    }

    /// # Errors
    /// Where there is none of that alias.
    pub fn inlet(&self, alias: &Alias) -> Result<InletDocument, Fault> {
        let status = self.engine.status();
        let found = status.inlets.iter().find(|inlet| inlet.spec.alias == *alias);
        found.map(InletDocument::running).ok_or_else(|| Fault::not_found("inlet", alias))
    }

    /// # Errors
    /// Where there is none of that alias.
    pub async fn delete_inlet(&self, alias: &Alias) -> Result<DeletedDocument, Fault> {
        self.edit(|stored| remove(&mut stored.specs.inlets, |inlet: &InletSpec| inlet.alias == *alias, "inlet", alias)).await?;
        Ok(DeletedDocument::new(alias))
    }

    /// Claims a relay name, and waits up to `wait` for the relays' answer. A name that this node holds already is a success.
    ///
    /// # Errors
    /// Where the credential does not permit the name; the claim is taken back then.
    pub async fn create_relay(&self, spec: RelaySpec, wait: Duration) -> Result<RelayDocument, Fault> {
        let name = spec.name.clone();
        self.needs_project(format!("relay name `{name}`"))?;
        let mut changes = self.engine.watch();
        self.edit(|stored| {
            room_for(stored.specs.relays.len())?;
            stored.specs.relays.retain(|relay| relay.name != spec.name);
            stored.specs.relays.push(spec);
            Ok(())
        })
        .await?;
        let deadline = Instant::now() + wait;
        loop {
            changes.mark_unchanged();
            match self.relay_state(&name) {
                Some(RelayState::Refused(failure)) => {
                    let why = failure.reason.clone();
                    self.delete_relay(&name).await?;
                    return Err(relay_denied(&name).because(why));
                }
                Some(RelayState::Up) | None => break,
                Some(RelayState::Waiting(_)) => {}
            }
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        self.relay(&name)
    }

    fn relay_state(&self, name: &RelayName) -> Option<RelayState> {
        self.engine.status().relays.into_iter().find(|relay| relay.spec.name == *name).map(|relay| relay.state)
    }

    /// A relay name of this node that no retry will make it hold.
    #[must_use]
    pub fn refused_relay(&self) -> Option<Fault> {
        self.engine.status().relays.into_iter().find_map(|relay| match relay.state {
            RelayState::Refused(failure) => Some(relay_denied(&relay.spec.name).because(failure.reason)),
            RelayState::Up | RelayState::Waiting(_) => None,
        })
    }

    /// # Errors
    /// Where this node does not claim the name.
    pub fn relay(&self, name: &RelayName) -> Result<RelayDocument, Fault> {
        let status = self.engine.status();
        let found = status.relays.iter().find(|relay| relay.spec.name == *name);
        found.map(|relay| RelayDocument::running(self.node.name(), relay)).ok_or_else(|| Fault::not_found("relay", name))
    }

    /// # Errors
    /// Where this node does not claim the name.
    pub async fn delete_relay(&self, name: &RelayName) -> Result<DeletedDocument, Fault> {
        self.edit(|stored| remove(&mut stored.specs.relays, |relay: &RelaySpec| relay.name == *name, "relay", name)).await?;
        Ok(DeletedDocument::new(name))
    }

    /// Sets the policy of a resource or a type, in the place of the one it had.
    ///
    /// # Errors
    /// Where it cannot be stored.
    pub async fn create_policy(&self, policy: PolicySpec) -> Result<PolicyDocument, Fault> {
        let document = PolicyDocument::own(&policy);
        self.edit(|stored| {
            let policies = &mut stored.specs.policies;
            room_for(policies.len())?;
            // In its place, so that listing keeps the order in which policies were first made.
            match policies.iter_mut().find(|other| other.target == policy.target) {
                Some(other) => *other = policy,
                None => policies.push(policy),
            }
            Ok(())
        })
        .await?;
        Ok(document)
    }

    /// Removes the policy of a resource or a type; for a resource also the `allow` that it was created with.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn delete_policy(&self, target: &PolicyTarget) -> Result<DeletedDocument, Fault> {
        let name = match target {
            PolicyTarget::Resource(name) => name.clone(),
            PolicyTarget::ResourceType(kind) => kind.to_string(),
        };
        self.edit(|stored| {
            let specs = &mut stored.specs;
            let before = specs.policies.len();
            specs.policies.retain(|policy| policy.target != *target);
            let mut found = specs.policies.len() < before;
            if matches!(target, PolicyTarget::Resource(_)) {
                let outlets =
                    specs.outlets.iter_mut().filter(|outlet| outlet.name.as_str() == name).map(|outlet| &mut outlet.allow);
                let inlets = specs.inlets.iter_mut().filter(|inlet| inlet.alias.as_str() == name).map(|inlet| &mut inlet.allow);
                for allow in outlets.chain(inlets) {
                    found |= allow.take().is_some();
                }
            }
            if found { Ok(()) } else { Err(Fault::not_found("policy", &name)) }
        })
        .await?;
        Ok(DeletedDocument::new(&name))
    }
}

fn relay_denied(name: &RelayName) -> Fault {
    Fault::new(Class::Denied, code::RELAY_DENIED, format!("this node may not claim the relay name `{name}`"))
        .try_this(format!("enrol with a ticket that was issued with `--relay {name}`"))
}

fn room_for(present: usize) -> Result<(), Fault> {
    if present < MAX_RESOURCES {
        Ok(())
    } else {
        Err(Fault::new(Class::TryLater, code::LIMIT, format!("a node has at most {MAX_RESOURCES} of these")))
    }
}

/// A resource that comes with an `allow` of its own takes the place of one whose policy stayed behind.
fn forget_policy(specs: &mut Specs, name: &str, has_allow: bool) {
    if has_allow {
        specs.policies.retain(|policy| !matches!(&policy.target, PolicyTarget::Resource(resource) if resource == name));
    }
}

fn remove<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, kind: &str, name: impl std::fmt::Display) -> Result<(), Fault> {
    let before = list.len();
    list.retain(|item| !is(item));
    if list.len() < before { Ok(()) } else { Err(Fault::not_found(kind, name)) }
}

/// The type and the `allow` of a resource.
fn resource(specs: &Specs, name: &str) -> Option<(ResourceType, Option<Expr>)> {
    let outlet =
        specs.outlets.iter().find(|outlet| outlet.name.as_str() == name).map(|o| (ResourceType::TcpOutlet, o.allow.clone()));
    let inlet =
        || specs.inlets.iter().find(|inlet| inlet.alias.as_str() == name).map(|i| (ResourceType::TcpInlet, i.allow.clone()));
    let relay = || specs.relays.iter().find(|relay| relay.name.as_str() == name).map(|_| (ResourceType::Relay, None));
    outlet.or_else(inlet).or_else(relay)
}
