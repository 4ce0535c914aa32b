//! What runs: relay links, channels, streams, inlets, outlets and the decisions about them.
//!
//! [`Engine`] is the whole of a running node, as plan, control and daemon use it. It never waits for the network: what cannot
//! work yet is started, tried again, and told in [`Engine::status`].

mod attach;
mod balance;
mod buffers;
mod channel;
mod circle;
pub mod code;
mod credentials;
mod direct;
mod explain;
mod failure;
mod held;
mod inlet;
mod link;
mod live;
pub mod metrics;
mod outlet_target;
mod peers;
mod places;
mod policy;
mod presence;
mod pump;
mod refusals;
mod relay_choice;
mod relay_link;
mod relays;
mod revocation;
mod serve;
mod shared;
mod status;
mod target;
mod trust;
mod witness;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::id::{InstanceId, NodeId, RefusalId};
use postern_proto::identity::Identity;
use postern_proto::name::{Alias, OutletName, RelayName};
use postern_proto::record::ResetCode;
use postern_proto::secret::SecretBytes;
use postern_proto::spec::{InletSpec, MaxStaleness, OutletSpec, PolicySpec, RelaySpec};
use postern_runtime::clock::Clock;
use postern_runtime::home::{Home, IdentityHome, NodeHome};
use postern_runtime::membership::Membership;
use postern_runtime::metrics::Exposition;
use postern_runtime::net::{Acceptor, BindError, SocketKind, bind, bind_lasting};
use postern_runtime::open_files;
use postern_runtime::statics::Statics;
use postern_runtime::supervise::Supervisor;
use postern_runtime::workers::Workers;
use tokio::sync::watch;
use tracing::info;

pub use self::explain::{Asked, Question, Stage, Told, Verdict};
pub use self::failure::{Failure, Step};
pub use self::live::Through;
pub use self::outlet_target::LastFailure;
pub use self::policy::{Denial, Guardrail, Policies, PolicySource, Resource, Rule};
use self::refusals::Refusals;
pub use self::refusals::{By, Refusal};
pub use self::status::{EngineStatus, InletStatus, OutletStatus, PortalCheck, RelayServer, RelayState, RelayStatus};
pub use self::target::ShareStatus;
pub use self::trust::Freshness;

use self::inlet::Inlet;
use self::shared::Shared;
use crate::stream_log::{StreamLog, Syslog, syslog};
use postern_runtime::home::RefusalLog;

/// Most connections that one inlet serves at once; further ones wait in the kernel's queue. All inlets together serve as many as
/// there are [`places`].
const MAX_INLET_CONNECTIONS: usize = 8_192;

/// Most direct paths that are served at once, and no more than a quarter of the open files.
const MAX_DIRECT_PATHS: usize = 4_096;

/// How long telling peers that their streams end may take when the node stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a node that stops goes on taking new streams of peers that have a channel with it: a relay tells them at most once a second who is
/// registered.
const HEARD: Duration = Duration::from_millis(1_200);

/// What a node is made of when it starts.
pub struct Settings {
    pub home: Home,
    pub node_home: NodeHome,
    pub identity_home: IdentityHome,
    pub identity: Identity,
    pub node_id: NodeId,
    pub statics: Arc<Statics>,
    /// How long each of them is shown.
    pub static_period: Duration,
    /// The project that the identity is a member of.
    pub membership: Option<Membership>,
    /// The key by which a home without a project issues credentials; `None` for a node that waits to be enrolled.
    pub local_issuer: Option<SecretBytes<32>>,
    /// Where peers may connect without a relay. Without it, only nodes of the same machine find this one.
    pub listener: Option<HostPort>,
    pub max_staleness: MaxStaleness,
    /// A syslog that is sent the log of streams, too.
    pub syslog: Option<syslog::Target>,
    pub clock: Arc<Clock>,
    pub supervisor: Supervisor,
}

/// Why something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Listen(#[from] BindError),
    #[error("the threads that move bytes cannot be started")]
    Workers(#[source] io::Error),
    #[error("the listener has no address")]
    Address(#[from] io::Error),
}

/// Everything that runs in one node. Cheap to clone; clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// Where the listener for peers is bound.
    listener: SocketAddr,
}

impl Engine {
    /// Starts without any resources. Does not wait for the network.
    ///
    /// # Errors
    /// [`EngineError`] where the listener for peers cannot be bound.
    pub async fn start(settings: Settings) -> Result<Self, EngineError> {
        let period = settings.static_period;
        let address = settings.listener.clone().unwrap_or_else(presence::default_listener);
        let open_files = open_files::raise_limit();
        let acceptor = Acceptor::new(bind(&address).await?, SocketKind::Link, MAX_DIRECT_PATHS.min(open_files / 4));
        let bound = acceptor.local_addr()?;
        let (mut stream_log, writer) = StreamLog::new(Arc::clone(&settings.clock));
        let mut sender = None;
        if let Some(target) = &settings.syslog {
            let (syslog, sends) = Syslog::new(target.clone());
            stream_log = stream_log.with_syslog(syslog);
            sender = Some(sends);
        }
        let refusals = match RefusalLog::start(&settings.home, &settings.supervisor) {
            Ok(log) => Refusals::new(log, settings.node_home.name().to_string()),
            Err(error) => {
                tracing::error!(%error, "refusals are not kept beyond the life of this process");
                Refusals::default()
            }
        };
        let workers = Workers::start().map_err(EngineError::Workers)?;
        let shared = Arc::new(Shared::new(settings, workers, open_files, stream_log, refusals));
        match shared.node_home.dir().try_clone() {
            Ok(dir) => {
                shared.supervisor.spawn("log of streams", writer.run(dir, shared.stop.child_token()));
            }
            Err(error) => tracing::error!(%error, "the log of streams cannot be written"),
        }
        if let Some(sender) = sender {
            shared.supervisor.spawn("syslog", sender.run(shared.stop.child_token()));
        }
        presence::publish(&shared, bound);
        info!(listener = %bound, instance = %shared.trust.instance, "node started");
        shared.spawn("credentials", credentials::run(Arc::clone(&shared)));
        let choosing = Arc::clone(&shared);
        shared.spawn("choice of relays", async move { choosing.relays.run(&choosing).await });
        let keeping = Arc::clone(&shared);
        shared.spawn("static keys", async move { keeping.trust.statics.keep(period, || keeping.trust.now()).await });
        shared.spawn("unused buffers", buffers::give_back_unused());
        shared.spawn("credential expiry", Arc::clone(&shared).watch_expiry());
        let stop = shared.stop.child_token();
        shared.spawn_worker("direct listener", direct::listen(Arc::clone(&shared), acceptor, stop));
        Ok(Self { shared, listener: bound })
    }

    /// The node's identity joined a project, or learned something new about it.
    pub fn set_membership(&self, membership: Membership) {
        self.shared.membership.send_replace(Some(membership));
        self.shared.changed();
    }

    /// Where peers may connect, with the port that it really has.
    #[must_use]
    pub const fn listener(&self) -> SocketAddr {
        self.listener
    }

    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared.trust.node_id
    }

    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.shared.trust.instance
    }

    /// Runs an outlet, in place of one of the same name.
    pub async fn add_outlet(&self, spec: OutletSpec) {
        info!(outlet = %spec.name, to = %spec.to, "outlet added");
        self.shared.unreached.forget(&spec.name);
        self.shared.outlets().insert(spec.name.clone(), spec);
        self.shared.review();
        self.shared.changed();
    }

    /// Ends an outlet and its streams.
    pub async fn remove_outlet(&self, name: &OutletName) {
        self.shared.outlets().remove(name);
        self.shared.unreached.forget(name);
        self.shared.review();
        self.shared.changed();
    }

    /// Runs an inlet. Returns it with the port that it listens on, where any port was asked for.
    ///
    /// # Errors
    /// [`EngineError::Listen`].
    pub async fn add_inlet(&self, spec: InletSpec) -> Result<InletSpec, EngineError> {
        self.remove_inlet(&spec.alias).await;
        let acceptor = Acceptor::new(bind_lasting(&spec.from).await?, SocketKind::Application, MAX_INLET_CONNECTIONS);
        let bound = acceptor.local_addr()?;
        let spec = InletSpec { from: spec.from.with_port(bound.port()), ..spec };
        info!(inlet = %spec.alias, from = %bound, to = %spec.to, "inlet added");
        let counts = self.shared.metrics.of(Through::Inlet(spec.alias.clone()));
        let inlet = Arc::new(Inlet::new(spec.clone(), bound, self.shared.stop.child_token(), counts));
        self.shared.inlets().insert(spec.alias.clone(), Arc::clone(&inlet));
        self.shared.spawn_worker("inlet", inlet::run(Arc::clone(&self.shared), inlet, acceptor));
        self.shared.changed();
        Ok(spec)
    }

    /// Ends an inlet and its streams.
    pub async fn remove_inlet(&self, alias: &Alias) {
        let removed = self.shared.inlets().remove(alias);
        if let Some(inlet) = removed {
            inlet.stop.cancel();
            self.shared.review();
            self.shared.changed();
        }
    }

    /// Claims a relay name and registers it. Whether it is permitted shows in [`Self::status`].
    pub async fn add_relay(&self, spec: RelaySpec) {
        self.shared.relay_specs().insert(spec.name.clone(), spec);
        self.shared.names_changed();
    }

    pub async fn remove_relay(&self, name: &RelayName) {
        self.shared.relay_specs().remove(name);
        self.shared.names_changed();
    }

    /// Replaces the policies that do not stand on a resource itself. Live streams are judged again at once.
    pub async fn set_policies(&self, policies: Vec<PolicySpec>) {
        self.shared.policies.set(policies);
        self.shared.review();
        self.shared.changed();
    }

    #[must_use]
    pub fn status(&self) -> EngineStatus {
        status::status(&self.shared)
    }

    /// Everything that is counted, for monitoring systems.
    #[must_use]
    pub fn metrics(&self) -> Exposition {
        let mut out = Exposition::of_process(env!("CARGO_PKG_VERSION"), &self.shared.supervisor);
        metrics::expose(&self.shared, &mut out);
        out
    }

    /// Ticks whenever [`Self::status`] may say something new.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.ticks.subscribe()
    }

    /// Asks whether a byte can pass through an inlet's portal now: through relay, peer and policies to the target, which is dialled
    /// and sent nothing. `None` where there is no such inlet.
    pub async fn probe(&self, alias: &Alias) -> Option<PortalCheck> {
        let inlet = self.shared.inlets().get(alias).cloned()?;
        let passes = inlet::probe(&self.shared, &inlet).await;
        self.shared.changed();
        Some(PortalCheck { alias: alias.clone(), passes })
    }

    /// Why a peer may reach an outlet, or may not, as far as this node can tell.
    pub async fn explain(&self, question: &Question) -> Vec<Told> {
        explain::explain(&self.shared, question).await
    }

    /// The policies of the project for a resource of this node.
    #[must_use]
    pub fn guardrails(&self, resource: &Resource<'_>) -> Vec<Rule> {
        self.shared.policies.guardrails(resource)
    }

    /// The authority refused what this node asked for, under an id that it logs too.
    pub fn refused_by_authority(&self, id: RefusalId, refusal: &postern_proto::authority::Refusal, what: &str) {
        self.shared.refused_by_authority(id, refusal, what);
    }

    /// What was refused lately, the newest first.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        self.shared.refusals.all()
    }

    /// The refusal of this id, if it is still known.
    #[must_use]
    pub fn refusal(&self, id: RefusalId) -> Option<Refusal> {
        self.shared.refusals.find(id)
    }

    /// Stops: no new connections, no relay names, so that peers choose other nodes; then up to `deadline` for live streams to finish, then
    /// the rest is cut.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shared.inlets().values().for_each(|inlet| inlet.stop.cancel());
        self.shared.relays.withdraw(&self.shared).await;
        if self.shared.peers.has_accepted() {
            info!("peers are told to choose other nodes");
            tokio::time::sleep(HEARD).await;
        }
        self.shared.draining.store(true, Ordering::Relaxed);
        let drained = self.shared.live.drained();
        if self.shared.live.total() > 0 && tokio::time::timeout(deadline, drained).await.is_err() {
            info!(streams = self.shared.live.total(), "cutting the streams that did not finish in time");
            // The peers are told, or they would wait for these streams to come back.
            self.shared.live.review(|_, _, _| Some(ResetCode::ShuttingDown));
            let _ = tokio::time::timeout(LAST_WORDS, self.shared.live.drained()).await;
        }
        self.shared.stop.cancel();
        presence::withdraw(&self.shared);
    }
}

#[cfg(test)]
mod sizes;
#[cfg(test)]
mod tests;
