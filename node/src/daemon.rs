//! The life of a node's process: lock, load, start, enrol, run what is wanted, serve, drain, end.
//!
//! A node starts, and keeps trying, whatever of network, authority and relays is there. What no trying can mend ends a start:
//! a refused ticket, a relay name that is not permitted, an address in use.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::id::NodeId;
use postern_proto::identity::Identity;
use postern_proto::name::NodeName;
use postern_proto::secret::{SecretBytes, random_array};
use postern_proto::spec::PeerRoute;
use postern_proto::ticket::{Ticket, TicketError};
use postern_runtime::authority::AuthorityError;
use postern_runtime::backoff::Backoff;
use postern_runtime::clock::Clock;
use postern_runtime::daemon::{Signal, Signals};
use postern_runtime::enrol::{EnrolError, enrol};
use postern_runtime::home::{Home, IdentityHome, NodeHome, node};
use postern_runtime::membership::Membership;
use postern_runtime::statics::{self, Statics};
use postern_runtime::supervise::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::control::code;
use crate::control::document::{NodeDocument, WaitingDocument};
use crate::control::fault::Fault;
use crate::control::server::{Socket, serve};
use crate::engine::{Engine, Settings};
use crate::http::Local;
use crate::keeper::Keeper;
use crate::store::{Specs, Stored};
use crate::stream_log::syslog;

/// How long live streams get to finish once the node is told to stop. Container runtimes kill after 10 s.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the rest gets after that.
const END: Duration = Duration::from_secs(2);

/// The variable that names a syslog.
const SYSLOG: &str = "POSTERN_SYSLOG";

/// How a node starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// The node is being made: what is final ends it, so that whoever makes it can take it back. A node that existed before
    /// goes on, and says in its status what is refused.
    pub creating: bool,
    /// How long to wait until everything is up before the node is called ready; zero does not wait.
    pub connection_wait: Duration,
}

/// Runs the node `name` until it is told to stop. `ready` is called once: with the node as it is when everything is up, or
/// after [`Start::connection_wait`] with what it still waits for.
///
/// To be called within a runtime of several threads. The caller removes a node that was being made where this fails before
/// `ready`, and turns the fault into the exit code.
///
/// # Errors
/// Why the node did not start. After `ready`, never: a node that was told to stop ends well.
pub async fn run(home: Home, name: &NodeName, start: Start, ready: impl FnOnce(&NodeDocument)) -> Result<(), Fault> {
    let mut signals =
        Signals::new().map_err(|error| Fault::new(code::INTERNAL, "cannot listen for signals").because(error.to_string()))?;
    let supervisor = Supervisor::new();
    let stop = CancellationToken::new();
    let mut daemon = tokio::select! {
        started = Daemon::start(home, name, start, &supervisor, &stop) => match started {
            Ok(daemon) => daemon,
            Err(fault) => {
                supervisor.shutdown(END).await;
                return Err(fault);
            }
        },
        // What was started is dropped, and with it ends.
        () = told_to_stop(&mut signals, &stop) => {
            supervisor.shutdown(END).await;
            return Ok(());
        }
    };
    let settled = tokio::select! {
        settled = daemon.settle(start) => settled,
        () = told_to_stop(&mut signals, &stop) => {
            // The word of a signal is said once, and heard again below.
            stop.cancel();
            Ok(())
        }
    };
    if let Err(fault) = settled {
        // What cannot be written changes only what another command says meanwhile.
        let _ = daemon.lock.say_stopping();
        daemon.end(&supervisor, Duration::ZERO).await;
        return Err(fault);
    }
    let document = daemon.keeper.show();
    tracing::info!(node = %name, waiting = document.waiting.len(), "node is ready");
    ready(&document);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => break,
                Signal::Reload => daemon.reload().await,
            },
            () = stop.cancelled() => break,
            () = daemon.keeper.told_to_reload() => daemon.reload().await,
        }
    }
    tracing::info!(node = %name, "stopping");
    // Before the control socket closes: who starts the node from then on waits for the end of this process.
    if let Err(error) = daemon.lock.say_stopping() {
        tracing::warn!(%error, "commands take this node for one that runs until it has ended");
    }
    tokio::select! {
        () = daemon.end(&supervisor, DRAIN) => {}
        // Told a second time: at once.
        _ = signals.next() => tracing::warn!("streams are cut"),
    }
    supervisor.shutdown(END).await;
    tracing::info!(node = %name, "stopped");
    Ok(())
}

async fn told_to_stop(signals: &mut Signals, stop: &CancellationToken) {
    loop {
        tokio::select! {
            signal = signals.next() => if signal == Signal::Stop { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Who this node is, for as long as it runs.
struct Who {
    home: IdentityHome,
    identity: Identity,
    node_id: NodeId,
    statics: Arc<Statics>,
}

struct Daemon {
    keeper: Arc<Keeper>,
    who: Arc<Who>,
    /// What the authority finally said to the ticket, once it did.
    refused: watch::Receiver<Option<Fault>>,
    /// Cancelled to take no more requests.
    closed: CancellationToken,
    /// Held until the process is done with all that the node has.
    lock: postern_runtime::lock::Lock,
}

impl Daemon {
    async fn start(
        home: Home,
        name: &NodeName,
        start: Start,
        supervisor: &Supervisor,
        stop: &CancellationToken,
    ) -> Result<Self, Fault> {
        let node = Arc::new(home.node(name)?.ok_or_else(|| Fault::not_found("node", name))?);
        let lock = node.lock()?;
        let stored = Stored::load(&node)?;
        let clock = Arc::new(Clock::new());
        let identity_home = home.identity_or_create(&stored.identity, clock.now())?;
        let who = Arc::new(Who {
            identity: identity_home.load()?,
            node_id: node.node_id()?,
            statics: Arc::new(node.statics(clock.now())?),
            home: identity_home,
        });
        let membership = who.home.membership()?;
        let ticket = kept_ticket(&node, membership.as_ref())?;
        let is_member = membership.is_some();
        let without_project = membership.is_none() && ticket.is_none();
        if without_project {
            needs_no_project(&stored.specs)?;
        }
        let http = match stored.options.http_server_port {
            Some(port) => Some(Local::bind(port).await?),
            None => None,
        };
        let engine = Engine::start(Settings {
            home: home.try_clone()?,
            node_home: home.node(name)?.ok_or_else(|| Fault::not_found("node", name))?,
            identity_home: home.identity(who.home.name())?.ok_or_else(|| Fault::not_found("identity", who.home.name()))?,
            identity: who.home.load()?,
            node_id: who.node_id,
            statics: Arc::clone(&who.statics),
            static_period: statics::period(),
            membership,
            local_issuer: if without_project { Some(local_issuer(&home)?) } else { None },
            listener: stored.options.tcp_listener_address.clone(),
            max_staleness: stored.options.max_staleness,
            syslog: syslog()?,
            clock: Arc::clone(&clock),
            supervisor: supervisor.clone(),
        })
        .await?;
        let keeper = Arc::new(Keeper::new(engine, Arc::new(home), Arc::clone(&node), &stored));
        keeper.set_without_project(without_project);
        if is_member {
            keeper.set_member();
        }

        let (refusals, refused) = watch::channel(None);
        if let Some(ticket) = ticket {
            let enrolment =
                Enrolment { keeper: Arc::clone(&keeper), who: Arc::clone(&who), clock, supervisor: supervisor.clone(), ticket };
            match enrolment.attempt().await {
                Ok(()) => {}
                Err(error) if error.is_temporary() || !start.creating => {
                    enrolment.note(&error);
                    if error.is_temporary() {
                        supervisor.spawn("enrolment", enrolment.keep_trying(refusals));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        keeper.replace(stored).await?;

        let closed = CancellationToken::new();
        if let Some(http) = http {
            keeper.set_http_server_address(http.address().to_string());
            supervisor.spawn("http server", http.serve(Arc::clone(&keeper), closed.clone()));
        }
        let served = serve(Socket::bind(&node)?, Arc::clone(&keeper), stop.clone(), closed.clone());
        supervisor.spawn("control server", async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the control server ended");
            }
        });
        Ok(Self { keeper, who, refused, closed, lock })
    }

    /// Waits until everything is up, or for as long as was asked.
    async fn settle(&mut self, start: Start) -> Result<(), Fault> {
        let keeper = Arc::clone(&self.keeper);
        let settled = keeper.settled_or(start.connection_wait, || start.creating && self.final_fault().is_some());
        settled.await;
        match self.final_fault() {
            Some(fault) if start.creating => Err(fault),
            _ => Ok(()),
        }
    }

    fn final_fault(&self) -> Option<Fault> {
        self.refused.borrow().clone().or_else(|| self.keeper.refused_relay())
    }

    /// SIGHUP: what is stored, and the membership, may have been changed by a command.
    async fn reload(&self) {
        tracing::info!("reloading");
        let reloaded = async {
            // Also of a member: it may have been deleted and come back, and its authority is asked at once.
            if let Some(membership) = self.who.home.membership()? {
                self.keeper.join(membership);
            }
            self.keeper.replace(Stored::load(self.keeper.node())?).await
        };
        if let Err(fault) = reloaded.await {
            tracing::error!(code = fault.code, why = fault.why, "the reload failed and changed nothing: {fault}");
        }
    }

    async fn end(&self, supervisor: &Supervisor, drain: Duration) {
        self.closed.cancel();
        self.keeper.engine().shutdown(drain).await;
        supervisor.shutdown(END).await;
        // The lock still says that the node runs, so nobody else has bound it.
        if let Err(error) = self.keeper.node().dir().remove(node::CONTROL_SOCKET) {
            tracing::warn!(%error, "the control socket stays behind");
        }
    }
}

/// Where the log of streams is sent, too, as the environment says: a matter of the machine, not of the node.
fn syslog() -> Result<Option<syslog::Target>, Fault> {
    let Some(text) = std::env::var_os(SYSLOG).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.to_string_lossy().parse() {
        Ok(target) => Ok(Some(target)),
        Err(error) => Err(Fault::new(code::CONFIGURATION, format!("{SYSLOG} is wrong")).because(format!("{error}"))),
    }
}

/// The ticket that waits to be redeemed. Who is a member already has no use for it, unless it is of another project.
fn kept_ticket(node: &NodeHome, membership: Option<&Membership>) -> Result<Option<Ticket>, Fault> {
    let Some(text) = node.ticket()? else { return Ok(None) };
    let ticket: Ticket = text.expose_secret().trim().parse()?;
    match membership {
        Some(membership) if membership.project() != ticket.project => {
            Err(TicketError::OtherProject { ticket: ticket.project, member: membership.project() }.into())
        }
        Some(_) => {
            node.remove_ticket()?;
            Ok(None)
        }
        None => Ok(Some(ticket)),
    }
}

/// Without a project there are no relays.
fn needs_no_project(specs: &Specs) -> Result<(), Fault> {
    if let Some(relay) = specs.relays.first() {
        return Err(Fault::no_project(format!("relay name `{}`", relay.name)));
    }
    match specs.inlets.iter().find(|inlet| inlet.to.iter().any(|to| matches!(to.peer, PeerRoute::Relay(_)))) {
        Some(inlet) => Err(Fault::no_project(format!("inlet `{}`", inlet.alias))),
        None => Ok(()),
    }
}

fn local_issuer(home: &Home) -> Result<SecretBytes<32>, Fault> {
    let secret = home.local_issuer_or(|| Zeroizing::new(random_array::<32>().to_vec()))?;
    let bytes: Zeroizing<[u8; 32]> = match secret.as_slice().try_into() {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(_) => return Err(Fault::new(code::STORAGE, "the home's own key (`local/issuer`) is damaged")),
    };
    Ok(SecretBytes::new(*bytes))
}

/// The redeeming of a ticket.
struct Enrolment {
    keeper: Arc<Keeper>,
    who: Arc<Who>,
    clock: Arc<Clock>,
    supervisor: Supervisor,
    ticket: Ticket,
}

impl Enrolment {
    async fn attempt(&self) -> Result<(), EnrolError> {
        let who = &self.who;
        let identity = (&who.identity, who.home.name());
        let enrolled =
            enrol(&self.supervisor, identity, (who.node_id, &who.statics.current()), &self.ticket, self.clock.now()).await;
        if let Err(EnrolError::Authority(AuthorityError::Refused(refusal, id))) = &enrolled {
            self.keeper.engine().refused_by_authority(*id, refusal, "to enrol this node");
        }
        let (membership, ..) = enrolled?;
        // A membership that is not on disk can be asked for again with the same ticket, so this order loses nothing.
        let kept = who.home.set_membership(&membership).and_then(|()| self.keeper.node().remove_ticket());
        if let Err(error) = kept {
            tracing::error!(%error, "the membership could not be kept; the ticket will be redeemed again at the next start");
        }
        tracing::info!(project = %membership.project(), "joined the project");
        self.keeper.join(membership);
        Ok(())
    }

    /// Says in the node's status why it is not enrolled.
    fn note(&self, error: &EnrolError) {
        let fault = Fault::from_enrolment(error);
        let reason = match &fault.why {
            Some(why) => format!("{}: {why}", fault.what),
            None => fault.what.clone(),
        };
        tracing::warn!(code = fault.code, "not enrolled yet: {reason}");
        self.keeper.set_waiting(Some(WaitingDocument {
            what: "enrolment".to_owned(),
            step: "authority".to_owned(),
            code: fault.code,
            reason,
        }));
    }

    async fn keep_trying(self, refusals: watch::Sender<Option<Fault>>) {
        let mut backoff = Backoff::default();
        let stopping = self.supervisor.stopping().clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
            if self.keeper.is_member() {
                return;
            }
            match self.attempt().await {
                Ok(()) => return,
                Err(error) if error.is_temporary() => self.note(&error),
                Err(error) => {
                    // First, because the note wakes those who look for it.
                    refusals.send_replace(Some(Fault::from_enrolment(&error)));
                    self.note(&error);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
