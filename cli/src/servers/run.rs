//! The life of the servers: lock, listen, open, admit, serve, drain, end.

use std::sync::Arc;
use std::time::Duration;

use postern_authority::{Authority, Newcomer, Settings as AuthoritySettings};
use postern_proto::address::HostPort;
use postern_proto::handshake::StaticKey;
use postern_proto::id::ProjectId;
use postern_proto::name::ProjectName;
use postern_proto::preface::Service;
use postern_proto::ticket::Ticket;
use postern_relay::pipes::PoolSettings;
use postern_relay::server::Descriptors;
use postern_relay::{Member, Relay, RelayHandle, RelayHome, RelaySettings};
use postern_runtime::clock::Clock;
use postern_runtime::daemon::{Signal, Signals};
use postern_runtime::home::{Home, RefusalLog, servers};
use postern_runtime::lock::{Lock, LockError};
use postern_runtime::membership::Membership;
use postern_runtime::net::{Accepted, Acceptor, BindError, HalfOpen, SocketKind, bind, bind_lasting, read_preface};
use postern_runtime::supervise::Supervisor;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::metrics::{self, Sources};
use super::settings::Settings;
use crate::code;
use crate::error::CliError;

/// The project that `enroll` makes.
const DEFAULT_PROJECT: &str = "default";
/// How long joined links and requests get to finish. Container runtimes kill after 10 s.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the rest gets after that.
const END: Duration = Duration::from_secs(2);
/// Connections at a time; what a relay does with its descriptors is a matter of its own.
const CONNECTIONS: usize = 60_000;
/// Connections that have not said yet what they want; that takes a few bytes of one flight.
const UNDECIDED: usize = 4096;
const UNDECIDED_PER_SOURCE: usize = 1024;
/// How long a connection may take to say what it wants.
const PREFACE: Duration = Duration::from_secs(5);

/// What is told of servers that have come up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    pub address: HostPort,
    pub advertised: HostPort,
    /// Where they answer monitoring systems, if that was asked for.
    pub metrics: Option<HostPort>,
    /// Of the authority, where one runs.
    pub project: Option<ProjectName>,
    pub project_id: Option<ProjectId>,
}

/// Runs the servers until they are told to stop. `ready` is called once they serve.
///
/// To be called within a runtime of several threads.
pub async fn run(
    home: &Home,
    mut settings: Settings,
    ticket: Option<Ticket>,
    ready: impl FnOnce(&Ready),
) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let lock = match Lock::acquire(&home.servers()?, servers::LOCK) {
        Ok(lock) => lock,
        Err(LockError::File(error)) => return Err(error.into()),
        Err(held @ LockError::Held { .. }) => {
            return Err(CliError::new(code::RUNNING, "the servers of this home run already")
                .why(held)
                .try_this("stop them first: postern serve stop"));
        }
    };
    let listener = bind_lasting(&settings.listen).await.map_err(|error| not_listening(home, &settings, error))?;
    settings.listen = settings.listen.with_port(listener.local_addr()?.port());
    let monitored = match &settings.metrics {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let before = Settings::load(home)?;
    // Not later: `status` tells of servers that still wait for their authority.
    settings.save(home)?;
    let advertised = settings.advertised();

    let supervisor = Supervisor::new();
    let started = tokio::select! {
        started = Servers::start(home, &settings, ticket.as_ref(), &supervisor) => started,
        () = told_to_stop(&mut signals) => {
            supervisor.shutdown(END).await;
            settings.forget_unused(home)?;
            return Ok(());
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            supervisor.shutdown(END).await;
            // While the lock is held, so that they are nobody else's. What cannot be removed, the next `enroll` removes.
            let undone = match before {
                Some(before) => before.save(home),
                None => settings.forget_unused(home).map(drop),
            };
            if let Err(left) = undone {
                tracing::warn!(why = %left.what, "the settings of a start that failed are still kept");
            }
            return Err(error);
        }
    };
    let mut metrics = None;
    if let Some(listener) = monitored {
        metrics = Some(HostPort::from(listener.local_addr()?));
        let sources = Sources { authority: running.authority.clone(), relay: running.relay.clone() };
        supervisor.spawn("metrics listener", metrics::serve(listener, sources, supervisor.clone()));
    }
    let serving = supervisor.child();
    serving.spawn("listener", accept(listener, running.clone(), serving.clone()));

    let project = running.authority.as_ref().map(|authority| authority.service().published().borrow().info().clone());
    tracing::info!(address = %settings.listen, %advertised, roles = ?settings.roles.names(), "servers are ready");
    ready(&Ready {
        address: settings.listen.clone(),
        advertised,
        metrics,
        project_id: project.as_ref().map(|info| info.project),
        project: project.map(|info| info.name),
    });
    told_to_stop(&mut signals).await;

    tracing::info!("stopping");
    if let Err(error) = lock.say_stopping() {
        tracing::warn!(%error, "`status` takes these servers for ones that run until they have ended");
    }
    let end = async {
        serving.stopping().cancel();
        // Both at once: a node that is told to go by its relay asks the authority nothing any more.
        tokio::join!(
            async {
                if let Some(relay) = &running.relay {
                    relay.shutdown(DRAIN).await;
                }
            },
            async {
                if let Some(authority) = &running.authority {
                    authority.shutdown(DRAIN).await;
                }
            }
        );
        supervisor.shutdown(END).await;
    };
    tokio::select! {
        () = end => {}
        () = told_to_stop(&mut signals) => tracing::warn!("told a second time: links are cut"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Why the servers cannot listen, and what to try: that depends on who knows the address.
fn not_listening(home: &Home, settings: &Settings, error: BindError) -> CliError {
    let in_use = matches!(error, BindError::InUse { .. });
    let mut error = CliError::from(error);
    if !in_use {
        return error;
    }
    // What cannot be read is no reason to say less of the address.
    if Settings::load(home).ok().flatten().is_some_and(|kept| kept.listen == settings.listen) {
        error = error.why("it is the address that these servers had when they were started last, and is kept in this home");
    }
    // Another address comes last: the one that is known to members would lead nowhere.
    error.try_this(match Settings::are_of_a_project(home) {
        Ok(false) => "or choose another address: --listen HOST:PORT",
        Ok(true) | Err(_) => "or choose another address, which members and tickets from before do not know: --listen HOST:PORT",
    })
}

/// SIGHUP changes nothing here: what is in the settings is bound to sockets, told to members or signed, and the rest is in the database.
async fn told_to_stop(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {
        tracing::info!(
            "SIGHUP: nothing to read again; addresses, metrics, roles and the lifetime of credentials are those of the start, and change with a restart"
        );
    }
}

#[derive(Clone)]
struct Servers {
    authority: Option<Authority>,
    relay: Option<RelayHandle>,
}

impl Servers {
    async fn start(home: &Home, settings: &Settings, ticket: Option<&Ticket>, supervisor: &Supervisor) -> Result<Self, CliError> {
        let clock = Clock::new();
        let advertised = settings.advertised();
        let refusals = RefusalLog::start(home, supervisor)?;
        let authority = match settings.roles.authority() {
            true => Some(start_authority(home, settings, &advertised, refusals.clone()).await?),
            false => None,
        };
        let member = match (&authority, settings.roles.relay()) {
            (_, false) => None,
            (Some(authority), true) => Some(join_own(home, authority, &advertised, &clock).await?),
            (None, true) => Some(Member::join(RelayHome::open(home)?, ticket, supervisor, &clock).await?),
        };
        if let Some(authority) = &authority {
            admit_administrator(home, settings, authority, &clock).await?;
        }
        let start = |member: Member| -> Result<_, CliError> {
            let statics = Arc::clone(member.statics());
            let relay = Relay::start(RelaySettings {
                refusals: refusals.clone(),
                trust: member.trust(),
                statics: Arc::new(move || statics.all()),
                clock: clock.clone(),
                descriptors: Descriptors::of_process(),
                pool: PoolSettings::default(),
                supervisor: supervisor.child(),
            })?;
            // A relay on its own is where its ticket says, until it is told otherwise: what it listens on is often no address for others.
            let own_address = settings.roles.authority() || settings.advertise.is_some();
            let member = member.telling(relay.enforced());
            member.keep_session(supervisor, clock.clone(), own_address.then_some(advertised));
            Ok(relay)
        };
        let relay = member.map(start).transpose()?;
        Ok(Self { authority, relay })
    }
}

async fn start_authority(
    home: &Home,
    settings: &Settings,
    advertised: &HostPort,
    refusals: RefusalLog,
) -> Result<Authority, CliError> {
    let project = match &settings.project {
        Some(name) => name.clone(),
        None => DEFAULT_PROJECT.parse()?,
    };
    let mut with = AuthoritySettings::new(project);
    with.addresses = vec![advertised.clone()];
    if let Some(lifetime) = settings.credential_lifetime {
        with.credential_lifetime = lifetime.get();
    }
    with.refusals = refusals;
    Ok(Authority::open_or_create(&home.authority()?, with).await?)
}

/// The relay beside its authority needs no ticket.
async fn join_own(home: &Home, authority: &Authority, advertised: &HostPort, clock: &Clock) -> Result<Member, CliError> {
    let relay_home = RelayHome::open(home)?;
    let (identity, static_key) = (relay_home.identity(clock.now())?, relay_home.statics(clock.now())?.current());
    let newcomer = Newcomer::of(&identity, static_key.public(), "relay".parse()?);
    authority.admit_relay(&newcomer, advertised).await?;
    Ok(Member::adopt(relay_home, own_membership(authority)?, clock)?)
}

/// The identity that `enroll` named is the administrator, and knows its project.
async fn admit_administrator(home: &Home, settings: &Settings, authority: &Authority, clock: &Clock) -> Result<(), CliError> {
    let Some(name) = &settings.administrator else { return Ok(()) };
    let identity = home.identity_or_create(name, clock.now())?;
    // It signs in with keys of its nodes and of single commands; none of them is known yet.
    let newcomer = Newcomer::of(&identity.load()?, StaticKey::generate().public(), name.clone());
    authority.bootstrap_administrator(&newcomer).await?;
    Ok(identity.set_membership(&own_membership(authority)?)?)
}

fn own_membership(authority: &Authority) -> Result<Membership, CliError> {
    let published = authority.service().published().borrow().clone();
    Membership::from_own_authority(published.info(), published.history.clone(), published.statement.clone())
        .map_err(|error| CliError::new(code::AUTHORITY_STATE, "the authority's own project information is not valid").why(error))
}

/// Accepts connections, and hands each to the server that it asks for.
async fn accept(listener: TcpListener, to: Servers, supervisor: Supervisor) {
    let mut acceptor = Acceptor::new(listener, SocketKind::Link, CONNECTIONS);
    let undecided = HalfOpen::new(UNDECIDED, UNDECIDED_PER_SOURCE);
    while let Some(accepted) = supervisor.stopping().run_until_cancelled(acceptor.accept()).await {
        let guard = undecided.enter(accepted.peer.ip());
        let (to, stopping) = (to.clone(), supervisor.stopping().clone());
        supervisor.spawn("connection", async move {
            let mut accepted = accepted;
            let preface = stopping.run_until_cancelled(guard.run(timeout(PREFACE, read_preface(&mut accepted.stream)))).await;
            drop(guard);
            match preface {
                Some(Ok(Ok(Ok(service)))) => dispatch(accepted, service, &to).await,
                // Garbage, silence, or one too many: closed without an answer.
                other => tracing::debug!(peer = %accepted.peer, ?other, "a connection did not say what it wants"),
            }
        });
    }
}

async fn dispatch(accepted: Accepted, service: Service, to: &Servers) {
    match (service, &to.authority, &to.relay) {
        (Service::Authority, Some(authority), _) => {
            let Accepted { stream, peer, permit, .. } = accepted;
            authority.server().serve_connection(stream, peer).await;
            drop(permit);
        }
        (Service::RelayControl | Service::RelayData, _, Some(relay)) => relay.serve_connection(accepted, service),
        _ => tracing::debug!(peer = %accepted.peer, ?service, "a connection asks for what does not run here"),
    }
}
