//! The running node as commands see it: what is wanted, what runs, and what is on disk, kept the same by every edit.

mod edit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::id::RefusalId;
use postern_proto::name::Alias;
use postern_proto::policy::Expr;
use postern_proto::spec::{PeerRoute, PolicySpec, PolicyTarget};
use postern_runtime::home::{Home, NodeHome};
use postern_runtime::membership::Membership;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::control::code;
use crate::control::document::{
    ApiVersion, FreshnessDocument, InletDocument, NodeDocument, NodeFacts, NodeState, NodeStatusDocument, OutletDocument,
    PolicyDocument, PolicySource, PortalDocument, RelayDocument, UnreachedDocument, WaitingDocument,
};
use crate::control::explain::{ExplainDocument, ExplainRequest, RefusalDocument, StepDocument};
use crate::control::fault::Fault;
use crate::engine::{Engine, Question};
use crate::findings::findings;
use crate::plan;
use crate::store::{Specs, Stored};

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
        self.set_member();
        self.engine.set_membership(membership);
        self.set_waiting(None);
    }

    /// The node started as a member.
    pub fn set_member(&self) {
        self.set_without_project(false);
        self.member.store(true, Ordering::Relaxed);
    }

    /// Whether the node's identity is a member of a project, as far as this process knows.
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
            tracing::error!(code = fault.code, why = fault.why, "a change could not be kept, and was taken back: {fault}");
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
            Err(_) => Err(Fault::new(code::INTERNAL, "the node could not write what it is to run")),
        }
    }

    // ---- looking

    fn facts(&self) -> NodeFacts {
        let stored = self.seen.borrow();
        let listener = stored.options.tcp_listener_address.as_ref();
        NodeFacts {
            name: self.node.name().clone(),
            identity: stored.identity.clone(),
            is_default: self.home.default_node().ok().flatten().is_some_and(|name| name == *self.node.name()),
            http_server_address: self.http_server_address.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            tcp_listener_address: listener.map(|address| address.with_port(self.engine.listener().port()).to_string()),
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
        let specs = self.seen.borrow().specs.clone();
        NodeDocument::running(&self.facts(), &self.engine, self.waiting(), &specs)
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
            authority: FreshnessDocument::of_engine(&self.engine.status()),
            waiting: self.waiting(),
            open_to_every_member: self.seen.borrow().specs.open_to_every_member(),
            policy_findings: findings(&self.seen.borrow().specs, &|resource| self.engine.guardrails(resource)),
            // Behind the probes: what a node asks of itself is known by now.
            unreached: UnreachedDocument::of_engine(&self.engine.status()),
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
        let seen = self.seen.borrow();
        self.engine.status().outlets.iter().map(|outlet| OutletDocument::running(outlet, &seen.specs)).collect()
    }

    #[must_use]
    pub fn inlets(&self) -> Vec<InletDocument> {
        let seen = self.seen.borrow();
        self.engine.status().inlets.iter().map(|inlet| InletDocument::running(inlet, &seen.specs)).collect()
    }

    #[must_use]
    pub fn relays(&self) -> Vec<RelayDocument> {
        self.engine.status().relays.iter().map(|relay| RelayDocument::running(self.node.name(), relay)).collect()
    }

    /// The refusals that are remembered, the newest first.
    #[must_use]
    pub fn refusals(&self) -> Vec<RefusalDocument> {
        let name = self.node.name().to_string();
        self.engine.refusals().iter().map(|refusal| RefusalDocument::new(&name, refusal)).collect()
    }

    /// # Errors
    /// Where it is not known, or not any more.
    pub fn refusal(&self, id: RefusalId) -> Result<RefusalDocument, Fault> {
        let refusal = self.engine.refusal(id).ok_or_else(|| Fault::not_found("refusal", id))?;
        Ok(RefusalDocument::new(self.node.name().as_str(), &refusal))
    }

    /// What this node can tell of a way to an outlet.
    ///
    /// # Errors
    /// Where the request names no way, or two.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainDocument, Fault> {
        let route = match (&request.relay, &request.node) {
            (Some(relay), None) => PeerRoute::Relay(relay.clone()),
            (None, Some(node)) => PeerRoute::Node(node.clone()),
            _ => return Err(Fault::new(code::USAGE, "either a relay name or a node says how the outlet's node is found")),
        };
        let question = Question { from: request.from, route, outlet: request.outlet.clone(), at: request.time() };
        let name = self.node.name().to_string();
        let steps = self.engine.explain(&question).await.iter().map(|told| StepDocument::new(&name, told)).collect();
        Ok(ExplainDocument { api_version: ApiVersion, node: name, steps })
    }

    #[must_use]
    pub fn policies(&self) -> Vec<PolicyDocument> {
        self.seen.borrow().specs.own_policies().iter().map(PolicyDocument::own).collect()
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
                let (kind, allow) = specs.resource(name).ok_or_else(|| Fault::not_found("resource", name))?;
                Ok(match allow {
                    Some(expression) => {
                        PolicyDocument::own(&PolicySpec { target: target.clone(), expression: expression.clone() })
                    }
                    None => of_type(kind),
                })
            }
        }
    }
}
