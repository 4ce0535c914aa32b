//! The relay as it runs: connections come in, sessions and joins come out. The registry decides; this performs.

mod control;
mod cuts;
mod data;
mod descriptors;
mod drops;
mod link;
pub mod metrics;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_proto::credential::CredentialError;
use postern_proto::handshake::StaticKey;
use postern_proto::id::{Identifier, RefusalId, SessionId};
use postern_proto::link::{CLOSING, Refusal};
use postern_proto::preface::Service;
use postern_runtime::clock::Clock;
use postern_runtime::home::{RefusalLog, RefusalRecord};
use postern_runtime::net::{Accepted, HalfOpen};
use postern_runtime::supervise::{Shutdown, Supervisor};
use postern_runtime::workers::Workers;
use serde::Serialize;
use tokio::sync::{Notify, oneshot, watch};

use self::control::Control;
use self::cuts::Cuts;
pub use self::descriptors::Descriptors;
pub use self::drops::DropReason;
use self::drops::Drops;
use self::link::{Link, LinkHandle, Verdict};
use self::metrics::Metrics;
use crate::pipes::PoolSettings;
use crate::registry::{Command, Counts, Limits, Now, Registry, StatementKind};
use crate::splice::Splicer;
use crate::trust::{Statements, TrustState};

/// Control links in the handshake: two round trips each, and some 10 KiB.
const HALF_OPEN_SESSIONS: usize = 1024;
const HALF_OPEN_SESSIONS_PER_SOURCE: usize = 256;

/// Data links whose first flight has not arrived: one round trip each, and no state. Counted apart, so that a flood of
/// handshakes does not keep members from opening links.
const HALF_OPEN_LINKS: usize = 4096;
const HALF_OPEN_LINKS_PER_SOURCE: usize = 1024;

/// How long a node whose credential became void, because its member was changed, has to show its newer one. It hears of the change when this
/// relay does, and asks its authority at once.
const RENEWAL_GRACE: Duration = Duration::from_secs(2);

/// Sessions in total. Each holds some 8 KiB.
const SESSIONS: usize = 10_000;

/// Sessions take at most one descriptor in this many: most nodes are idle most of the time, and two parked links for five of them fit beside.
const SESSION_SHARE: usize = 2;

/// What a relay needs.
pub struct RelaySettings {
    /// What credentials are verified against, and the statements to pass on. Changes take effect at once.
    pub trust: watch::Receiver<Arc<TrustState>>,
    /// Gives the relay's static keys, of which a node may know any: one to three.
    pub statics: Arc<dyn Fn() -> Vec<StaticKey> + Send + Sync>,
    pub clock: Clock,
    pub descriptors: Descriptors,
    pub pool: PoolSettings,
    /// What the relay's tasks hang on. When it stops, every node is told to go, and joined links go on until it aborts.
    pub supervisor: Supervisor,
    /// Where refusals are kept, for `explain`.
    pub refusals: RefusalLog,
}

/// The relay.
pub struct Relay;

impl Relay {
    /// Starts a relay that serves what it is handed. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// Where the operating system gives no threads to move bytes with.
    pub fn start(settings: RelaySettings) -> io::Result<RelayHandle> {
        let descriptors = Arc::new(settings.descriptors);
        let limits = Limits { sessions: SESSIONS.min(descriptors.limit() / SESSION_SHARE), parked: descriptors.parked() };
        let shared = Arc::new(Shared {
            state: Mutex::new(State { registry: Registry::new(limits), armed: None }),
            timer: Notify::new(),
            trust: settings.trust,
            statics: settings.statics,
            clock: settings.clock,
            descriptors,
            half_open_sessions: HalfOpen::new(HALF_OPEN_SESSIONS, HALF_OPEN_SESSIONS_PER_SOURCE),
            half_open_links: HalfOpen::new(HALF_OPEN_LINKS, HALF_OPEN_LINKS_PER_SOURCE),
            splicer: Splicer::new(settings.pool),
            cuts: Arc::default(),
            enforced: watch::Sender::new(0),
            drops: Drops::default(),
            metrics: Metrics::default(),
            refusals: settings.refusals,
            supervisor: settings.supervisor,
            workers: Workers::start_half()?,
        });
        shared.spawn_until_stopped("relay: timers", run_timers(Arc::clone(&shared)));
        shared.spawn_until_stopped("relay: trust", follow_trust(Arc::clone(&shared)));
        shared.supervisor.spawn("relay: drain", drain(Arc::clone(&shared)));
        Ok(RelayHandle { shared })
    }
}

/// A running relay. Cheap to clone.
#[derive(Clone)]
pub struct RelayHandle {
    shared: Arc<Shared>,
}

/// What a relay is doing.
#[derive(Debug, Clone, Serialize)]
pub struct RelayStatus {
    #[serde(flatten)]
    pub counts: Counts,
    /// Joins alive now.
    pub joins: usize,
    /// Bytes moved from diallers to those they dialled.
    pub bytes_forward: u64,
    pub bytes_backward: u64,
    /// Pipes alive, and bytes in buffers of stalled joins.
    pub pipes: usize,
    pub buffered: usize,
    /// Connections now, and how many descriptors the process may have.
    pub links: usize,
    pub descriptors: usize,
    /// How often each refusal was given, in its words.
    pub refused: Vec<(String, u64)>,
    /// Why connections were dropped without one.
    pub dropped: Vec<(DropReason, u64)>,
    pub draining: bool,
}

impl RelayHandle {
    /// Serves a connection whose preface asked for `service`, in a task of its own. Other services than a relay's are dropped.
    pub fn serve_connection(&self, accepted: Accepted, service: Service) {
        let (shared, peer) = (&self.shared, accepted.peer);
        if shared.is_draining() {
            return shared.drops.count(DropReason::Draining, peer);
        }
        let Some(counted) = shared.descriptors.enter(shared.splicer.pool().pipes()) else {
            return shared.drops.count(DropReason::Full, peer);
        };
        let link = Link { accepted, counted };
        let task = Arc::clone(shared);
        match service {
            Service::RelayControl => {
                let session = shared.counted(peer, async move { Some(control::serve(&task, link).await) });
                shared.supervisor.spawn("relay: session", session);
            }
            // On the thread that may splice it: what it held until then makes room for the next one's.
            Service::RelayData => {
                let link = shared.counted(peer, async move { data::serve(&task, link).await });
                shared.workers.spawn_waiting(&shared.supervisor, "relay: link", link);
            }
            Service::Authority | Service::Peer => shared.drops.count(DropReason::Service, peer),
        }
    }

    #[must_use]
    pub fn status(&self) -> RelayStatus {
        let shared = &self.shared;
        let (counts, refused) = {
            let state = shared.lock();
            (state.registry.counts(), state.registry.refusals().map(|(reason, n)| (reason.to_string(), n)).collect())
        };
        let (totals, pool) = (shared.splicer.totals(), shared.splicer.pool());
        let load = std::sync::atomic::Ordering::Relaxed;
        RelayStatus {
            counts,
            joins: totals.live.load(load),
            bytes_forward: totals.forward.load(load),
            bytes_backward: totals.backward.load(load),
            pipes: pool.pipes(),
            buffered: pool.buffered(),
            links: shared.descriptors.links(),
            descriptors: shared.descriptors.limit(),
            refused,
            dropped: shared.drops.counts(),
            draining: shared.is_draining(),
        }
    }

    /// The epoch up to which this relay enforces what is void: no session, no join of a revoked member is left.
    #[must_use]
    pub fn enforced(&self) -> watch::Receiver<u64> {
        self.shared.enforced.subscribe()
    }

    /// Stops: every node is told to go, joined links may go on until `deadline` has passed, then what is left is aborted.
    /// Nothing is left running when it returns.
    pub async fn shutdown(&self, deadline: Duration) -> Shutdown {
        self.shared.supervisor.shutdown(deadline).await
    }
}

type SessionRegistry = Registry<Arc<Control>, LinkHandle>;

struct State {
    registry: SessionRegistry,
    /// For when the timer task sleeps.
    armed: Option<Instant>,
}

/// What all tasks of a relay share.
struct Shared {
    /// Never held over an await.
    state: Mutex<State>,
    timer: Notify,
    trust: watch::Receiver<Arc<TrustState>>,
    statics: Arc<dyn Fn() -> Vec<StaticKey> + Send + Sync>,
    clock: Clock,
    descriptors: Arc<Descriptors>,
    half_open_sessions: HalfOpen,
    half_open_links: HalfOpen,
    splicer: Splicer,
    cuts: Arc<Cuts>,
    /// The epoch up to which everything that is void is enforced.
    enforced: watch::Sender<u64>,
    drops: Drops,
    metrics: Metrics,
    refusals: RefusalLog,
    supervisor: Supervisor,
    workers: Arc<Workers>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic that left the registry half changed cannot be told from one that did not; going on serves the others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { instant: tokio::time::Instant::now().into_std(), time: self.clock.now() }
    }

    fn trust(&self) -> Arc<TrustState> {
        Arc::clone(&self.trust.borrow())
    }

    /// Keeps a refusal under the id that the node knows, too.
    fn note(&self, session: SessionId, number: u32, peer: Option<Identifier>, reason: Refusal) {
        self.note_because(session, number, peer, reason, &reason.to_string());
    }

    /// As [`Shared::note`], with more than the node is told. Whoever is refused again and again does not fill the log.
    fn note_because(&self, session: SessionId, number: u32, peer: Option<Identifier>, reason: Refusal, why: &str) {
        let Some((code, meaning)) = reason.code() else { return };
        let id = RefusalId::of_request(session.as_bytes(), number);
        let what = if number == CLOSING { "the session" } else { "a request of the session" };
        let record = RefusalRecord {
            node: "servers".to_owned(),
            peer,
            code: code.to_owned(),
            meaning: meaning.to_owned(),
            told: Some(reason.to_string()),
            reason: format!("{what}: {why}"),
            ..RefusalRecord::new(id, "relay", self.clock.now())
        };
        if let Some(unlogged) = self.refusals.note(peer, &record) {
            tracing::info!(refusal = %id, by = "relay", code, peer = peer.map(tracing::field::display), reason = why, unlogged, "refused");
        }
    }

    fn is_draining(&self) -> bool {
        self.supervisor.stopping().is_cancelled()
    }

    fn admits_join(&self) -> bool {
        self.descriptors.admits_join(self.splicer.pool().pipes())
    }

    /// Lets `act` happen to the registry, and performs what it commands.
    fn with<R>(&self, act: impl FnOnce(&mut SessionRegistry, Now) -> R) -> R {
        let now = self.now();
        let (result, commands) = {
            let mut state = self.lock();
            let result = act(&mut state.registry, now);
            let commands: Vec<_> = std::iter::from_fn(|| state.registry.poll_command()).collect();
            let next = state.registry.poll_timeout();
            if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
                state.armed = next;
                self.timer.notify_one();
            }
            (result, commands)
        };
        commands.into_iter().for_each(perform);
        result
    }

    /// `work`, which serves one connection, with why it was dropped counted.
    fn counted(
        self: &Arc<Self>,
        peer: SocketAddr,
        work: impl Future<Output = Option<DropReason>> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(self);
        // In an allocation of its own: captured by value and then awaited, its room would be taken twice.
        let work = Box::pin(work);
        async move {
            if let Some(reason) = work.await {
                shared.drops.count(reason, peer);
            }
        }
    }

    fn spawn_until_stopped(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.supervisor.spawn_until(self.supervisor.stopping(), name, work);
    }
}

/// A handle whose task is gone needs nothing any more: results of sends are not looked at.
fn perform(command: Command<Arc<Control>, LinkHandle>) {
    match command {
        Command::Wake(control) => control.notify.notify_one(),
        Command::End { control, reason } => {
            let _ = control.end.set(reason);
            control.notify.notify_one();
        }
        Command::Join { dialler, dialled_by, parked, parked_by } => {
            let (to, from) = oneshot::channel();
            let _ = parked.send(Verdict::HandOver(to));
            let _ = dialler.send(Verdict::Join { parked: from, dialled_by, parked_by });
        }
        Command::Refuse { link, reason } => {
            let _ = link.send(Verdict::Refused(reason));
        }
        Command::Drop(link) => drop(link),
    }
}

async fn run_timers(shared: Arc<Shared>) {
    loop {
        let next = {
            let mut state = shared.lock();
            state.armed = state.registry.poll_timeout();
            state.armed
        };
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => shared.with(|registry, now| registry.handle_timeout(now)),
            () = shared.timer.notified() => {}
        }
    }
}

/// At a stop, tells every node to go. What is joined goes on.
async fn drain(shared: Arc<Shared>) {
    shared.supervisor.stopping().cancelled().await;
    let joins = shared.splicer.totals().live.load(std::sync::atomic::Ordering::Relaxed);
    tracing::info!(joins, "stopping: nodes are told to go, joined links may finish");
    shared.with(|registry, now| registry.end_unless(now, Refusal::ShuttingDown, |_| false));
}

/// Passes new statements on, and ends the sessions that a change of trust leaves without a valid credential.
async fn follow_trust(shared: Arc<Shared>) {
    let mut changes = shared.trust.clone();
    let mut known: Option<Arc<TrustState>> = None;
    let mut strict_at: Option<tokio::time::Instant> = None;
    loop {
        let trust = Arc::clone(&changes.borrow_and_update());
        let before = known.as_ref();
        let same = before.is_some_and(|before| {
            Arc::ptr_eq(&before.membership, &trust.membership) && Arc::ptr_eq(&before.voided, &trust.voided)
        });
        let (mut waits, mut cut) = (false, Vec::new());
        // What ends sessions comes before what is only passed on.
        if !same {
            waits = shared.end_void(&trust, false);
            cut = shared.cuts.cut(|identifier| trust.voided.is_revoked(identifier));
        }
        shared.pass_on(&trust, before.map(|before| &before.statements));
        shared.enforced.send_if_modified(|epoch| std::mem::replace(epoch, trust.voided.epoch()) != trust.voided.epoch());
        for [one, other] in cut {
            tracing::info!(%one, %other, epoch = trust.voided.epoch(), "a join was cut: one of them was revoked");
        }
        known = Some(trust);
        if waits {
            strict_at = Some(tokio::time::Instant::now() + RENEWAL_GRACE);
        }
        let strictly = async {
            match strict_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                // Nobody will change it any more: the caller is stopping, or a test.
                return;
            },
            () = strictly => {
                strict_at = None;
                shared.end_void(&shared.trust(), true);
            }
        }
    }
}

impl Shared {
    /// Ends the sessions whose credential is not good any more. One that is void because its member was changed has [`RENEWAL_GRACE`] to
    /// show its newer one, unless `strictly`; returns whether there is such a one.
    fn end_void(&self, trust: &TrustState, strictly: bool) -> bool {
        let waits = std::cell::Cell::new(false);
        self.with(|registry, now| {
            let verifier = trust.verifier(now.time);
            registry.end_unless(now, Refusal::BadCredential, |peer| match verifier.recheck(&peer.credential) {
                Ok(()) => true,
                Err(CredentialError::Void { .. }) if !strictly => {
                    waits.set(true);
                    true
                }
                Err(_) => false,
            });
        });
        waits.get()
    }

    fn pass_on(&self, trust: &TrustState, old: Option<&Statements>) {
        let new = &trust.statements;
        self.with(|registry, _| {
            if old.map_or(&[][..], |old| &old.voidings) != new.voidings {
                let heard = old.and_then(|old| old.voidings.last()).map_or(0, |last| last.epoch);
                let news = new.voidings.iter().filter(|statement| statement.epoch > heard).count();
                registry.handle_voidings(new.voidings.iter().map(|statement| Arc::clone(&statement.signed)).collect(), news);
            }
            if old.is_none_or(|old| old.project_info != new.project_info) {
                registry.handle_statements(StatementKind::ProjectInfo, vec![Arc::clone(&new.project_info)]);
            }
            if old.and_then(|old| old.heartbeat.as_ref()) != new.heartbeat.as_ref() {
                registry.handle_statements(StatementKind::Heartbeat, new.heartbeat.iter().cloned().collect());
            }
        });
    }
}

#[cfg(test)]
mod sizes;
#[cfg(test)]
mod tests;
