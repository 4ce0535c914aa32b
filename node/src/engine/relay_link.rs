//! One relay: the control link to it, which registers this node's relay names and looks up others', and the data links.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::RelayRow;
use postern_proto::channel::{LinkSession, Side as Part};
use postern_proto::handshake::Label;
use postern_proto::id::{Identifier, InstanceId};
use postern_proto::link::{Frame, FromRelay, Hello, Instance, LinkFrames, MAX_CONTROL_MESSAGE, Refusal, ToRelay};
use postern_proto::name::RelayName;
use postern_proto::preface::Service;
use postern_proto::spec::RelaySpec;
use postern_runtime::backoff::Backoff;
use postern_runtime::error::chain;
use postern_runtime::net::{SocketKind, dial};
use postern_runtime::session::{self, Connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::code;
use super::credentials::jittered;
use super::failure::{Failure, Step};
use super::metrics::LinkKind;
use super::serve::serve_path;
use super::shared::Shared;

/// How long reaching a relay may take, and a join's answer behind the relay's own wait for a parked link (3 s).
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a new connection waits for a relay that is being connected, or for the first answer to a look-up.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// A node pings so often, ± 10 % so that nodes do not ping in step. With [`PONG_DEADLINE`], a dead link is found within 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(9);

/// A control link whose ping is not answered in this time is dead.
const PONG_DEADLINE: Duration = Duration::from_secs(5);

/// Links that wait at the relay while this node has a channel there.
const PARKED_FLOOR: usize = 2;

/// Most links that wait at one relay.
const PARKED_MOST: usize = 64;

/// Parked links beyond the floor go away after so long without a join.
const PARKED_IDLE: Duration = Duration::from_secs(60);

/// Whether a relay is connected, and with which session.
#[derive(Clone, Default)]
enum State {
    #[default]
    Down,
    Up(Arc<Session>),
}

/// One control link's session: what its data links are proven with.
struct Session {
    link: LinkSession,
    /// Numbers of data links; none is used twice.
    counter: AtomicU64,
    parked: AtomicUsize,
    ended: CancellationToken,
}

/// How a registration stands at one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    Waiting,
    Up,
    Refused(Refusal),
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
    /// Names whose instances are wanted, with what the relay said last; `None` before its first answer.
    watched: Mutex<HashMap<RelayName, watch::Sender<Option<Vec<Instance>>>>>,
    registrations: Mutex<BTreeMap<RelayName, Registration>>,
    last_error: Mutex<Option<String>>,
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
            last_error: Mutex::default(),
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

    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    #[must_use]
    pub fn registration(&self, name: &RelayName) -> Option<Registration> {
        lock(&self.registrations).get(name).cloned()
    }

    /// Which names this node wants here.
    pub fn set_names(&self, names: &BTreeSet<RelayName>) {
        let mut registrations = lock(&self.registrations);
        registrations.retain(|name, _| names.contains(name));
        for name in names {
            registrations.entry(name.clone()).or_insert(Registration::Waiting);
        }
        drop(registrations);
        self.changed.notify_one();
    }

    /// Wants to know who is registered under `name`, from now on.
    pub fn watch(&self, name: &RelayName) -> watch::Receiver<Option<Vec<Instance>>> {
        let mut watched = lock(&self.watched);
        if let Some(sender) = watched.get(name) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        watched.insert(name.clone(), sender);
        drop(watched);
        self.changed.notify_one();
        receiver
    }

    /// Who is registered under `name` now. Waits for a relay that is being connected, and for its first answer, but not long.
    pub async fn instances(&self, name: &RelayName) -> Result<Vec<Instance>, Failure> {
        self.up().await?;
        let mut watched = self.watch(name);
        let answer = tokio::time::timeout(FIRST_ANSWER, watched.wait_for(Option::is_some)).await;
        match answer {
            Ok(Ok(instances)) => Ok(instances.clone().unwrap_or_default()),
            Ok(Err(_)) | Err(_) => {
                Err(Failure::new(Step::Relay, code::NO_ANSWER, format!("the relay at {} did not answer", self.address())))
            }
        }
    }

    async fn up(&self) -> Result<Arc<Session>, Failure> {
        let mut state = self.state.subscribe();
        if let State::Up(session) = &*state.borrow() {
            return Ok(Arc::clone(session));
        }
        self.kick.notify_one();
        let up = tokio::time::timeout(FIRST_ANSWER, state.wait_for(|state| matches!(state, State::Up(_)))).await;
        match up.ok().and_then(Result::ok).as_deref() {
            Some(State::Up(session)) => Ok(Arc::clone(session)),
            _ => {
                let why = self.last_error().unwrap_or_else(|| "no connection in time".to_owned());
                Err(Failure::new(
                    Step::Relay,
                    code::RELAY_DOWN,
                    format!("the relay at {} cannot be reached: {why}", self.address()),
                ))
            }
        }
    }

    /// A path to that run of a peer's node.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn join(&self, identifier: Identifier, instance: InstanceId) -> Result<TcpStream, Failure> {
        let session = self.up().await?;
        let lost = |error: &dyn std::fmt::Display| {
            Failure::new(Step::Relay, code::RELAY_LOST, format!("the relay at {} broke off a join: {error}", self.address()))
        };
        let join = async {
            let (mut socket, mut frames) = self.open_data_link(&session, &Frame::Join { identifier, instance }).await?;
            let mut sealed = [0; Frame::SEALED_LEN];
            socket.read_exact(&mut sealed).await.map_err(|error| lost(&error))?;
            match frames.open(sealed).map_err(|error| lost(&error))? {
                Frame::Joined { identifier: joined, instance: run } if (joined, run) == (identifier, instance) => Ok(socket),
                Frame::Refused(refusal @ (Refusal::NotConnected | Refusal::NoLink)) => {
                    Err(Failure::new(Step::Peer, code::NOT_CONNECTED, format!("the peer's node is not there: {refusal}")))
                }
                Frame::Refused(refusal) => {
                    Err(Failure::new(Step::Relay, code::RELAY_REFUSED, format!("the relay refused: {refusal}")))
                }
                other => Err(lost(&format!("it answered {other:?}"))),
            }
        };
        tokio::time::timeout(CONNECT_DEADLINE, join).await.unwrap_or_else(|_| Err(lost(&"no answer in time")))
    }

    async fn open_data_link(&self, session: &Session, first: &Frame) -> Result<(TcpStream, LinkFrames), Failure> {
        let address = self.address();
        let lost = |error: &dyn std::fmt::Display| {
            Failure::new(Step::Relay, code::RELAY_DOWN, format!("the relay at {address} cannot be reached: {error}"))
        };
        let mut socket = dial(&address, SocketKind::Link, CONNECT_DEADLINE).await.map_err(|error| lost(&error))?;
        let mut frames = LinkFrames::new(&session.link, session.counter.fetch_add(1, Ordering::Relaxed), Part::Initiator);
        let mut out = Service::RelayData.preface().to_vec();
        out.extend_from_slice(&frames.opening().encode());
        out.extend_from_slice(&frames.seal(first).map_err(|error| lost(&error))?);
        socket.write_all(&out).await.map_err(|error| lost(&error))?;
        Ok((socket, frames))
    }

    /// Parks one link, and serves it once it is joined.
    async fn park(self: Arc<Self>, shared: Arc<Shared>, session: Arc<Session>) {
        let parked = async {
            let (mut socket, mut frames) = self.open_data_link(&session, &Frame::Park).await?;
            shared.metrics.link(LinkKind::Parked);
            let mut sealed = [0; Frame::SEALED_LEN];
            let surplus = session.parked.load(Ordering::Relaxed) > PARKED_FLOOR;
            let patience = if surplus { PARKED_IDLE } else { Duration::MAX };
            let read = tokio::time::timeout(patience, socket.read_exact(&mut sealed)).await;
            let lost = |what: &str| Failure::new(Step::Relay, code::PARKED_LINK, what.to_owned());
            read.map_err(|_| lost("nobody joined it"))?.map_err(|error| lost(&error.to_string()))?;
            match frames.open(sealed) {
                Ok(Frame::Joined { identifier, instance }) => Ok((socket, identifier, instance)),
                Ok(Frame::Refused(refusal)) => Err(lost(&refusal.to_string())),
                Ok(_) => Err(lost("an unexpected frame")),
                Err(error) => Err(lost(&error.to_string())),
            }
        };
        let joined = tokio::select! {
            () = session.ended.cancelled() => None,
            parked = parked => match parked {
                Ok(joined) => Some(joined),
                Err(failure) => {
                    debug!(relay = %self.address(), reason = %failure, "a parked link ended");
                    None
                }
            },
        };
        let left = session.parked.fetch_sub(1, Ordering::Relaxed) - 1;
        if let Some((socket, identifier, instance)) = joined {
            if left < PARKED_FLOOR {
                self.park_more(&shared, &session, PARKED_FLOOR - left);
            }
            serve_path(shared, socket, Some((identifier, instance))).await;
        }
    }

    fn park_more(self: &Arc<Self>, shared: &Arc<Shared>, session: &Arc<Session>, count: usize) {
        for _ in 0..count {
            if session.parked.fetch_add(1, Ordering::Relaxed) >= PARKED_MOST {
                session.parked.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            shared.spawn("parked link", Arc::clone(self).park(Arc::clone(shared), Arc::clone(session)));
        }
    }

    /// Keeps the control link until the relay is no longer wanted.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut backoff = Backoff::default();
        loop {
            let ended = tokio::select! {
                () = self.stop.cancelled() => return,
                ended = self.connection(&shared, &mut backoff) => ended,
            };
            let was_up = self.is_up();
            if let State::Up(session) = self.state.send_replace(State::Down) {
                session.ended.cancel();
            }
            lock(&self.registrations).values_mut().for_each(|registration| {
                if *registration == Registration::Up {
                    *registration = Registration::Waiting;
                }
            });
            // What the relay knew is not known any more.
            lock(&self.watched).values().for_each(|watched| drop(watched.send_replace(None)));
            if was_up || lock(&self.last_error).as_deref() != Some(ended.as_str()) {
                warn!(relay = %self.address(), reason = %ended, "the relay is not connected; trying again");
            }
            *lock(&self.last_error) = Some(ended);
            shared.changed();
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = self.kick.notified() => {}
            }
        }
    }

    /// One connection; returns why it ended.
    async fn connection(self: &Arc<Self>, shared: &Arc<Shared>, backoff: &mut Backoff) -> String {
        let mut own = shared.trust.watch_own();
        let Ok(credentials) = own.wait_for(Option::is_some).await.map(|own| own.clone()) else {
            return "this node is stopping".to_owned();
        };
        let Some(mut credentials) = credentials else { return "this node has no credential yet".to_owned() };
        let row = lock(&self.row).clone();
        let hello = Hello {
            credential: credentials.relay.bytes().to_vec(),
            node_id: shared.trust.node_id,
            instance: shared.trust.instance,
        };
        let mut payload = Vec::new();
        // Writing to a vector does not fail.
        let _ = minicbor::encode(&hello, &mut payload);
        let socket = match dial(&row.address, SocketKind::Link, CONNECT_DEADLINE).await {
            Ok(socket) => socket,
            Err(error) => return chain(&error),
        };
        let how = Connect {
            service: Service::RelayControl,
            label: Label::RelayLink,
            local: &shared.trust.static_key,
            remote: row.static_key,
            payload: &payload,
            limit: MAX_CONTROL_MESSAGE,
        };
        let session::Session { mut sender, mut receiver, finished } = match session::connect(socket, how).await {
            Ok((session, _)) => session,
            Err(error) => return chain(&error),
        };
        let session = Arc::new(Session {
            link: finished.secret.link_session(),
            counter: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            ended: CancellationToken::new(),
        });
        let mut control =
            ControlLink { requests: HashMap::new(), next: 1, watched: BTreeSet::new(), registered: BTreeSet::new() };
        let mut ping = tokio::time::interval_at(Instant::now() + jittered(PING_INTERVAL), jittered(PING_INTERVAL));
        let mut unanswered: Option<(u64, Instant)> = None;
        let mut number = 0;
        loop {
            for message in control.due(self, self.is_up(), credentials.relay.relay_names()) {
                if let Err(error) = sender.send_message(&message).await {
                    return chain(&error);
                }
            }
            let pong_late = async {
                match unanswered {
                    Some((_, since)) => tokio::time::sleep_until(since + PONG_DEADLINE).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = receiver.receive_message::<FromRelay>() => {
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => return "the relay closed the link".to_owned(),
                        Err(error) => return chain(&error),
                    };
                    match message {
                        FromRelay::Welcome { observed } => {
                            // Text of the relay's: only what reads as an address stands in the log.
                            let observed = observed.parse::<SocketAddr>().ok();
                            shared.metrics.link(LinkKind::Control);
                            info!(relay = %row.address, ?observed, "connected to the relay");
                            *lock(&self.last_error) = None;
                            backoff.reset();
                            self.state.send_replace(State::Up(Arc::clone(&session)));
                            shared.changed();
                        }
                        FromRelay::Pong { number } if unanswered.is_some_and(|(sent, _)| sent == number) => unanswered = None,
                        FromRelay::Pong { .. } => {}
                        FromRelay::MoreLinks { count } => self.park_more(shared, &session, usize::from(count).max(PARKED_FLOOR)),
                        FromRelay::Closing { reason } => return format!("the relay closed the link: {reason}"),
                        other => {
                            control.handle(self, other);
                            shared.changed();
                        }
                    }
                }
                () = self.changed.notified() => {}
                changed = own.changed() => {
                    if changed.is_err() {
                        return "this node is stopping".to_owned();
                    }
                    let newer = own.borrow_and_update().clone();
                    if let Some(newer) = newer && newer.relay.id() != credentials.relay.id() {
                        let renew = ToRelay::Renew { credential: newer.relay.bytes().to_vec() };
                        credentials = newer;
                        if let Err(error) = sender.send_message(&renew).await {
                            return chain(&error);
                        }
                    }
                }
                _ = ping.tick() => {
                    number += 1;
                    unanswered.get_or_insert((number, Instant::now()));
                    if let Err(error) = sender.send_message(&ToRelay::Ping { number }).await {
                        return chain(&error);
                    }
                }
                () = pong_late => return "the relay did not answer a ping in time".to_owned(),
            }
        }
    }
}

/// What one control link was told so far, against what is wanted of it.
struct ControlLink {
    /// Requests without an answer yet, by number.
    requests: HashMap<u32, RelayName>,
    next: u32,
    watched: BTreeSet<RelayName>,
    registered: BTreeSet<RelayName>,
}

impl ControlLink {
    /// What has to be said now. A name that the credential does not hold yet is asked for once it does.
    fn due(&mut self, link: &RelayLink, up: bool, permitted: &[RelayName]) -> Vec<ToRelay> {
        let mut due = Vec::new();
        if !up {
            return due;
        }
        let wanted: Vec<RelayName> = lock(&link.registrations).keys().cloned().collect();
        for name in wanted.iter().filter(|name| permitted.contains(name)) {
            if self.registered.insert(name.clone()) {
                let request = self.number();
                self.requests.insert(request, name.clone());
                due.push(ToRelay::Register { request, name: name.clone() });
            }
        }
        for name in self.registered.clone() {
            if !wanted.contains(&name) {
                self.registered.remove(&name);
                let request = self.number();
                due.push(ToRelay::Unregister { request, name });
            }
        }
        for name in lock(&link.watched).keys() {
            if self.watched.insert(name.clone()) {
                due.push(ToRelay::Watch { name: name.clone() });
            }
        }
        due
    }

    const fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn handle(&mut self, link: &RelayLink, message: FromRelay) {
        match message {
            // Said unasked, of something that was granted before.
            FromRelay::Answer { request: 0, refused: Some(refusal) } => {
                error!(relay = %link.address(), reason = %refusal, "the relay took something back");
            }
            FromRelay::Answer { request, refused } => {
                let Some(name) = self.requests.remove(&request) else { return };
                if let Some(registration) = lock(&link.registrations).get_mut(&name) {
                    *registration = refused.map_or(Registration::Up, Registration::Refused);
                }
                match refused {
                    None => info!(relay = %link.address(), %name, "registered the relay name"),
                    Some(refusal) => warn!(relay = %link.address(), %name, %refusal, "the relay refused the relay name"),
                }
            }
            FromRelay::Instances { name, instances } => {
                debug!(relay = %link.address(), %name, count = instances.len(), "look-up");
                if let Some(watched) = lock(&link.watched).get(&name) {
                    watched.send_replace(Some(instances));
                }
            }
            // Statements of the authority arrive over its own session too, which is the road that this node relies on.
            FromRelay::Statement { .. } => {}
            FromRelay::Welcome { .. } | FromRelay::Pong { .. } | FromRelay::MoreLinks { .. } | FromRelay::Closing { .. } => {}
        }
    }
}

/// All relays of the project that this node uses.
#[derive(Default)]
pub struct RelayLinks {
    links: Mutex<Vec<Arc<RelayLink>>>,
    /// Names that inlets lead to, also while no relay is known yet.
    watched: Mutex<BTreeSet<RelayName>>,
}

/// A node keeps control links to so many relays.
const MAX_RELAYS: usize = 3;

impl RelayLinks {
    /// Uses these relays from now on: starts links to new ones, ends those to relays that are gone.
    pub fn set(&self, shared: &Arc<Shared>, rows: &[RelayRow]) {
        // Not under the lock of the links: the specs have one of their own.
        let specs: Vec<RelaySpec> = shared.relay_specs().values().cloned().collect();
        let wanted_at = |address: &HostPort| {
            specs.iter().filter(|spec| spec.at.means(address)).map(|spec| spec.name.clone()).collect::<BTreeSet<_>>()
        };
        let mut links = lock(&self.links);
        links.retain(|link| {
            let stays = rows.iter().any(|row| row.identifier == link.identifier);
            if !stays {
                link.stop();
            }
            stays
        });
        for row in rows {
            if let Some(link) = links.iter().find(|link| link.identifier == row.identifier) {
                link.set_row(row.clone());
                link.set_names(&wanted_at(&row.address));
            } else if links.len() < MAX_RELAYS {
                let link = RelayLink::new(row.clone(), shared.stop.child_token());
                link.set_names(&wanted_at(&row.address));
                lock(&self.watched).iter().for_each(|name| drop(link.watch(name)));
                links.push(Arc::clone(&link));
                shared.spawn("relay link", link.run(Arc::clone(shared)));
            }
        }
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<RelayLink>> {
        lock(&self.links).clone()
    }

    /// Whether the relays say that `name` is registered; `None` while none has answered.
    #[must_use]
    pub fn is_registered(&self, name: &RelayName) -> Option<bool> {
        let links = self.all();
        let answers = links.iter().filter_map(|link| {
            lock(&link.watched).get(name).and_then(|watched| watched.borrow().as_ref().map(|found| !found.is_empty()))
        });
        answers.reduce(|any, this| any || this)
    }

    /// Wants to know who is registered under `name`, at every relay that there is and at those that come.
    pub fn watch(&self, name: &RelayName) {
        // Before the links are looked at: one that is made meanwhile finds the name here.
        lock(&self.watched).insert(name.clone());
        self.all().iter().for_each(|link| drop(link.watch(name)));
    }

    /// Who is registered under `name`, at any relay.
    ///
    /// # Errors
    /// Where no relay could be asked.
    pub async fn instances(&self, name: &RelayName) -> Result<Vec<(Arc<RelayLink>, Instance)>, Failure> {
        let links = self.all();
        if links.is_empty() {
            return Err(Failure::new(Step::Relay, code::NO_RELAY, "the project has no relay that this node knows of"));
        }
        let mut asking = tokio::task::JoinSet::new();
        for link in links {
            let name = name.clone();
            asking.spawn(async move { (Arc::clone(&link), link.instances(&name).await) });
        }
        let (mut found, mut failure, mut answered) = (Vec::new(), None, false);
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((link, Ok(instances))) => {
                    answered = true;
                    found.extend(instances.into_iter().map(|instance| (Arc::clone(&link), instance)));
                    if !found.is_empty() {
                        break;
                    }
                }
                Ok((_, Err(error))) => failure = Some(error),
                Err(error) => debug!(%error, "a look-up was given up"),
            }
        }
        match failure {
            // Where one says that nobody is there, that is the reason, whatever became of the others.
            Some(failure) if !answered => Err(failure),
            _ => Ok(found),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
