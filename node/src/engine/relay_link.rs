//! One relay: what is wanted of it and known from it, and whether it can be used. Its control link is in [`control`], the data links
//! to it in [`data`].

mod control;
mod data;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::RelayRow;
use postern_proto::channel::LinkSession;
use postern_proto::id::{Identifier, InstanceId};
use postern_proto::link::{Instance, Refusal};
use postern_proto::name::RelayName;
use postern_proto::weight::Weight;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::code;
use super::failure::{Failure, Step};

/// How long reaching a relay may take, and a join's answer behind the relay's own wait for a parked link (3 s).
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A relay that is not connected for so long is away: another one takes its place meanwhile, where there is one. A restart takes less.
const AWAY_AFTER: Duration = Duration::from_secs(2);

/// A relay through which no path was to be had is passed over for so long, where there is another one. When it is dead, its control link
/// will have shown it by then, give or take ([`control`]).
const FAILED_FOR: Duration = Duration::from_secs(15);

/// So many relays are named where several cannot be reached: what is said stays a line that is read to its end.
const MOST_NAMED: usize = 3;

/// Whether a relay is connected, and with which session.
#[derive(Clone, Default)]
enum State {
    #[default]
    Down,
    Up(Arc<Session>),
}

/// One control link's session: what its data links are proven with.
pub(super) struct Session {
    link: LinkSession,
    /// Where the relay was reached.
    address: HostPort,
    /// Numbers of data links; none is used twice.
    counter: AtomicU64,
    parked: AtomicUsize,
    began: Instant,
    ended: CancellationToken,
}

/// How a registration stands at one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    Waiting,
    Up,
    Refused(Refusal),
}

/// What a relay says of a relay name.
#[derive(Debug, Default)]
struct Lookup {
    /// Who is registered; `None` while the relay has not said.
    answer: Option<Vec<Instance>>,
    /// Somebody was registered there at some time.
    had_any: bool,
    /// Since when the relay says that nobody is.
    empty_since: Option<Instant>,
}

impl Lookup {
    fn answered(&mut self, instances: Vec<Instance>) {
        self.had_any |= !instances.is_empty();
        self.empty_since = instances.is_empty().then(|| self.empty_since.unwrap_or_else(Instant::now));
        self.answer = Some(instances);
    }

    /// What the relay knew is not known any more.
    fn forget(&mut self) {
        (self.answer, self.empty_since) = (None, None);
    }
}

/// How a relay can be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The first attempt to connect is under way, or it was connected until a moment ago.
    Connecting,
    Up,
    /// It could not be reached.
    Away,
}

/// One relay of the project, as this node uses it.
pub struct RelayLink {
    pub identifier: Identifier,
    row: Mutex<RelayRow>,
    state: watch::Sender<State>,
    /// What is wanted of the relay changed.
    changed: Notify,
    /// A connection waits for this link: try now, whatever the back-off.
    kick: Notify,
    /// Names whose instances are wanted, with what the relay said of each.
    watched: Mutex<BTreeMap<RelayName, Lookup>>,
    registrations: Mutex<BTreeMap<RelayName, (Weight, Registration)>>,
    /// Names that the relay holds for this node, or was asked to; also those that it was asked to give up and has not yet.
    held: AtomicUsize,
    last_error: Mutex<Option<String>>,
    /// Since when it is not connected.
    down_since: Mutex<Option<Instant>>,
    /// Smoothed time of a ping and its pong in microseconds; 0 before the first.
    round_trip: AtomicU64,
    /// When a path through it was last not to be had, though it is connected.
    failed: Mutex<Option<Instant>>,
    stop: CancellationToken,
}

impl RelayLink {
    #[must_use]
    pub fn new(row: RelayRow, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            identifier: row.identifier,
            row: Mutex::new(row),
            state: watch::Sender::default(),
            changed: Notify::new(),
            kick: Notify::new(),
            watched: Mutex::default(),
            registrations: Mutex::default(),
            held: AtomicUsize::new(0),
            last_error: Mutex::default(),
            down_since: Mutex::new(Some(Instant::now())),
            round_trip: AtomicU64::new(0),
            failed: Mutex::default(),
            stop,
        })
    }

    #[must_use]
    pub fn address(&self) -> HostPort {
        lock(&self.row).address.clone()
    }

    /// The relay moved, or has a new static key; a link to the old place stays for as long as it works.
    pub fn set_row(&self, row: RelayRow) {
        let moved = std::mem::replace(&mut *lock(&self.row), row.clone()) != row;
        if moved {
            self.kick.notify_one();
        }
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Links that wait there for a peer.
    #[must_use]
    pub fn parked(&self) -> usize {
        match &*self.state.borrow() {
            State::Up(session) => session.parked.load(Ordering::Relaxed),
            State::Down => 0,
        }
    }

    /// Whether it has been connected since before `moment`, without a break.
    #[must_use]
    pub fn was_up_since(&self, moment: Instant) -> bool {
        matches!(&*self.state.borrow(), State::Up(session) if session.began < moment)
    }

    /// Whether it has not been connected since before `moment`.
    #[must_use]
    pub fn was_away_since(&self, moment: Instant) -> bool {
        lock(&self.down_since).is_some_and(|since| since < moment)
    }

    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    #[must_use]
    pub fn registration(&self, name: &RelayName) -> Option<Registration> {
        lock(&self.registrations).get(name).map(|(_, registration)| registration.clone())
    }

    /// Which names this node wants here, and with what weights.
    pub fn set_names(&self, names: &BTreeMap<RelayName, Weight>) {
        let mut registrations = lock(&self.registrations);
        registrations.retain(|name, _| names.contains_key(name));
        for (name, weight) in names {
            registrations.entry(name.clone()).or_insert((*weight, Registration::Waiting)).0 = *weight;
        }
        drop(registrations);
        self.changed.notify_one();
    }

    /// Whether this node can be found there under a name, as far as it knows.
    #[must_use]
    pub fn holds_names(&self) -> bool {
        self.is_up() && self.held.load(Ordering::Relaxed) > 0
    }

    /// Wants to know who is registered under `name`, from now on.
    pub fn watch(&self, name: &RelayName) {
        let mut watched = lock(&self.watched);
        if !watched.contains_key(name) {
            watched.insert(name.clone(), Lookup::default());
            self.changed.notify_one();
        }
    }

    /// Who is registered under `name`, as far as the relay has said; `None` while it has not answered.
    #[must_use]
    pub fn instances(&self, name: &RelayName) -> Option<Vec<Instance>> {
        lock(&self.watched).get(name).and_then(|lookup| lookup.answer.clone())
    }

    /// Whether the relay says that `name` is registered; `None` while it has not answered.
    #[must_use]
    pub fn is_registered(&self, name: &RelayName) -> Option<bool> {
        lock(&self.watched).get(name).and_then(|lookup| lookup.answer.as_ref().map(|found| !found.is_empty()))
    }

    /// Since when the relay says that nobody is registered under `name`, where somebody was before.
    #[must_use]
    pub fn deserted(&self, name: &RelayName) -> Option<Instant> {
        lock(&self.watched).get(name).filter(|lookup| lookup.had_any).and_then(|lookup| lookup.empty_since)
    }

    /// Whether that run of a node is registered there under a name that this node looks up.
    #[must_use]
    pub fn knows(&self, identifier: Identifier, instance: InstanceId) -> bool {
        let is = |other: &Instance| (other.identifier, other.instance) == (identifier, instance);
        lock(&self.watched).values().any(|lookup| lookup.answer.iter().flatten().any(is))
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.is_up() {
            return Standing::Up;
        }
        let tried = lock(&self.last_error).is_some();
        let long = lock(&self.down_since).is_some_and(|since| since.elapsed() >= AWAY_AFTER);
        if tried && long { Standing::Away } else { Standing::Connecting }
    }

    /// Whether it is down and the last attempt has failed: nobody should wait for it who has another one.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.is_up() && lock(&self.last_error).is_some()
    }

    /// Returns once it is connected.
    pub async fn connected(&self) {
        // The sender is a part of `self`.
        let _ = self.state.subscribe().wait_for(|state| matches!(state, State::Up(_))).await;
    }

    /// Tries to connect now, whatever the back-off.
    pub fn hurry(&self) {
        if !self.is_up() {
            self.kick.notify_one();
        }
    }

    /// The time of a ping and its pong, smoothed; `None` before the first.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    fn note_round_trip(&self, measured: Duration) {
        let micros = u64::try_from(measured.as_micros()).unwrap_or(u64::MAX).max(1);
        let smoothed = match self.round_trip.load(Ordering::Relaxed) {
            0 => micros,
            // As TCP smoothes (RFC 6298, section 2).
            before => (before.saturating_mul(7).saturating_add(micros) / 8).max(1),
        };
        self.round_trip.store(smoothed, Ordering::Relaxed);
    }

    /// How gladly a path is made through this relay: the least first. One that has just failed comes last.
    #[must_use]
    pub fn preference(&self) -> (bool, Duration) {
        let failed = lock(&self.failed).is_some_and(|at| at.elapsed() < FAILED_FOR);
        (failed, self.round_trip().unwrap_or(Duration::MAX))
    }

    fn session(&self) -> Result<Arc<Session>, Failure> {
        match &*self.state.borrow() {
            State::Up(session) => Ok(Arc::clone(session)),
            State::Down => Err(self.down()),
        }
    }

    /// Why it cannot be used.
    #[must_use]
    pub fn down(&self) -> Failure {
        let reason = format!("the relay at {} cannot be reached: {}", self.address(), self.why_down());
        Failure::new(Step::Relay, code::RELAY_DOWN, reason)
    }

    fn why_down(&self) -> String {
        self.last_error().unwrap_or_else(|| "no connection in time".to_owned())
    }
}

/// Why none of `links` can be used. All are named, up to a limit: any of them may be the one that somebody can mend.
#[must_use]
pub fn all_down(links: &[Arc<RelayLink>]) -> Failure {
    if let [link] = links {
        return link.down();
    }
    let mut named: Vec<String> =
        links.iter().take(MOST_NAMED).map(|link| format!("{}: {}", link.address(), link.why_down())).collect();
    let more = links.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    Failure::new(Step::Relay, code::RELAY_DOWN, format!("{} relays cannot be reached: {}", links.len(), named.join("; ")))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
