//! A relay's control link: registers this node's relay names, and hears who is registered under others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::handshake::Label;
use postern_proto::id::RefusalId;
use postern_proto::link::{CLOSING, FromRelay, Hello, MAX_CONTROL_MESSAGE, Refusal, ToRelay};
use postern_proto::name::RelayName;
use postern_proto::preface::Service;
use postern_proto::weight::Weight;
use postern_runtime::backoff::Backoff;
use postern_runtime::error::chain;
use postern_runtime::net::{SocketKind, dial};
use postern_runtime::session::{self, Connect};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::super::credentials::jittered;
use super::super::metrics::LinkKind;
use super::super::refusals::By;
use super::super::revocation;
use super::super::shared::Shared;
use super::data::PARKED_FLOOR;
use super::{CONNECT_DEADLINE, Registration, RelayLink, Session, State, lock};

/// A node pings so often, ± 10 % so that nodes do not ping in step. With [`PONG_DEADLINE`], a dead link is found within 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(9);

/// A control link whose ping is not answered in this time is dead.
const PONG_DEADLINE: Duration = Duration::from_secs(5);

/// However many connections wait for a relay, it is dialled no more often than with this time between.
const LEAST_DELAY: Duration = Duration::from_millis(500);

/// Why a control link ends that is made anew at once: this node shows another static key.
const NEXT_KEY: &str = "this node shows another static key from now on";

impl RelayLink {
    /// Keeps the control link until the relay is no longer wanted.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut backoff = Backoff::of_links();
        loop {
            let ended = tokio::select! {
                () = self.stop.cancelled() => None,
                ended = self.connection(&shared, &mut backoff) => Some(ended),
            };
            let was_up = self.is_up();
            if let State::Up(session) = self.state.send_replace(State::Down) {
                session.ended.cancel();
            }
            lock(&self.registrations).values_mut().for_each(|(_, registration)| {
                if *registration == Registration::Up {
                    *registration = Registration::Waiting;
                }
            });
            // What the relay knew is not known any more.
            lock(&self.watched).values_mut().for_each(super::Lookup::forget);
            if was_up {
                *lock(&self.down_since) = Some(Instant::now());
            }
            let Some(ended) = ended else {
                info!(relay = %self.address(), "the relay is not used any more");
                return shared.changed();
            };
            if ended != NEXT_KEY && (was_up || lock(&self.last_error).as_deref() != Some(ended.as_str())) {
                warn!(relay = %self.address(), reason = %ended, "the relay is not connected; trying again");
            }
            if ended == NEXT_KEY {
                continue;
            }
            *lock(&self.last_error) = Some(ended);
            shared.changed();
            let wait = async {
                tokio::time::sleep(jittered(LEAST_DELAY)).await;
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    () = self.kick.notified() => {}
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = wait => {}
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
        let Some(key) = shared.trust.key_of(&credentials) else {
            return "the credentials are for no key of this node".to_owned();
        };
        let row = lock(&self.row).clone();
        let hello = Hello {
            credential: credentials.relay.bytes().to_vec(),
            node_id: shared.trust.node_id,
            instance: shared.trust.instance,
        };
        let mut payload = Vec::new();
        // Writing to a vector does not fail.
        let _ = minicbor::encode(&hello, &mut payload);
        // A relay that is known from long ago may show the key by now that it was to show next then, and have forgotten the other.
        let mut reached = Err("the relay has no key".to_owned());
        for remote in std::iter::once(row.static_key).chain(row.next_static) {
            let how = Connect {
                service: Service::RelayControl,
                label: Label::RelayLink,
                local: &key,
                remote,
                payload: &payload,
                limit: MAX_CONTROL_MESSAGE,
            };
            reached = match reach(shared, &row.address, how).await {
                Err(Unreached::NotProven(error)) => Err(error),
                Err(Unreached::Dial(error)) => return error,
                Ok(reached) => Ok(reached),
            };
            if reached.is_ok() {
                break;
            }
        }
        let (address, session) = match reached {
            Ok(reached) => reached,
            Err(error) => return error,
        };
        let session::Session { mut sender, mut receiver, finished } = session;
        let session = Arc::new(Session {
            address,
            link: finished.secret.link_session(),
            counter: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            began: Instant::now(),
            ended: CancellationToken::new(),
        });
        let mut control = ControlLink {
            requests: HashMap::new(),
            next: 1,
            watched: BTreeSet::new(),
            registered: BTreeMap::new(),
            leaving: BTreeSet::new(),
        };
        // The first one measures the round trip, by which relays are chosen.
        let mut ping = tokio::time::interval_at(Instant::now(), jittered(PING_INTERVAL));
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
                            (*lock(&self.down_since), *lock(&self.failed)) = (None, None);
                            backoff.reset();
                            self.state.send_replace(State::Up(Arc::clone(&session)));
                            shared.changed();
                        }
                        FromRelay::Pong { number } => {
                            if let Some((_, sent)) = unanswered.take_if(|(sent, _)| *sent == number) {
                                self.note_round_trip(sent.elapsed());
                            }
                        }
                        FromRelay::MoreLinks { count } => self.park_more(shared, &session, usize::from(count).max(PARKED_FLOOR)),
                        FromRelay::Closing { reason } => {
                             note_refused(shared, self, &session, CLOSING, reason, "the session of this node");
                            return format!("the relay closed the link: {reason}");
                        }
                        FromRelay::Statement { statement } => revocation::take_from_relay(shared, &statement),
                        other => {
                            control.handle(shared, self, &session, other);
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
                    if newer.as_ref().is_some_and(|newer| newer.relay.static_key() != credentials.relay.static_key()) {
                        return NEXT_KEY.to_owned();
                    }
                    if let Some(newer) = newer && newer.relay.id() != credentials.relay.id() {
                        let renew = ToRelay::Renew { credential: newer.relay.bytes().to_vec() };
                        credentials = newer;
                        if let Err(error) = sender.send_message(&renew).await {
                            return chain(&error);
                        }
                    }
                }
                _ = ping.tick(), if self.is_up() => {
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

/// Why there is no session with a relay.
enum Unreached {
    /// Nothing answers.
    Dial(String),
    /// What answers did not take the handshake, which says no more than that.
    NotProven(String),
}

/// A session with the relay that others find at `advertised`, and where it was.
async fn reach(shared: &Shared, advertised: &HostPort, how: Connect<'_>) -> Result<(HostPort, session::Session), Unreached> {
    // A home that cannot be read now has nothing better than what is signed.
    let addresses = shared.home.addresses_of(advertised).unwrap_or_else(|_| vec![advertised.clone()]);
    let mut last = Unreached::Dial(String::new());
    for address in addresses {
        let connected = match dial(&address, SocketKind::Link, CONNECT_DEADLINE).await {
            Ok(socket) => session::connect(socket, how).await.map_err(|error| Unreached::NotProven(chain(&error))),
            Err(error) => Err(Unreached::Dial(chain(&error))),
        };
        match connected {
            Ok((session, _)) => return Ok((address, session)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What one control link was told so far, against what is wanted of it.
struct ControlLink {
    /// Requests without an answer yet, by number.
    requests: HashMap<u32, RelayName>,
    next: u32,
    watched: BTreeSet<RelayName>,
    registered: BTreeMap<RelayName, Weight>,
    /// Requests to give a name up that have no answer yet.
    leaving: BTreeSet<u32>,
}

impl ControlLink {
    /// What has to be said now. A name that the credential does not hold yet is asked for once it does.
    fn due(&mut self, link: &RelayLink, up: bool, permitted: &[RelayName]) -> Vec<ToRelay> {
        let mut due = Vec::new();
        if !up {
            return due;
        }
        let registrations = lock(&link.registrations);
        let wanted: BTreeMap<RelayName, Weight> =
            registrations.iter().map(|(name, (weight, _))| (name.clone(), *weight)).collect();
        drop(registrations);
        for (name, weight) in wanted.iter().filter(|(name, _)| permitted.contains(name)) {
            if self.registered.insert(name.clone(), *weight) != Some(*weight) {
                let request = self.number();
                self.requests.insert(request, name.clone());
                let weight = Some(*weight).filter(|weight| !weight.is_one());
                due.push(ToRelay::Register { request, name: name.clone(), weight });
            }
        }
        for name in self.registered.keys().cloned().collect::<Vec<_>>() {
            if !wanted.contains_key(&name) {
                self.registered.remove(&name);
                let request = self.number();
                self.leaving.insert(request);
                due.push(ToRelay::Unregister { request, name });
            }
        }
        self.tell_held(link);
        for name in lock(&link.watched).keys() {
            if self.watched.insert(name.clone()) {
                due.push(ToRelay::Watch { name: name.clone() });
            }
        }
        due
    }

    fn tell_held(&self, link: &RelayLink) {
        link.held.store(self.registered.len() + self.leaving.len(), Ordering::Relaxed);
    }

    const fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn handle(&mut self, shared: &Shared, link: &RelayLink, session: &Session, message: FromRelay) {
        match message {
            // Said unasked, of something that was granted before.
            FromRelay::Answer { request: 0, refused: Some(refusal) } => {
                error!(relay = %link.address(), reason = %refusal, "the relay took something back");
                note_refused(shared, link, session, 0, refusal, "what it had granted");
            }
            FromRelay::Answer { request, .. } if self.leaving.remove(&request) => self.tell_held(link),
            FromRelay::Answer { request, refused } => {
                let Some(name) = self.requests.remove(&request) else { return };
                if let Some((_, registration)) = lock(&link.registrations).get_mut(&name) {
                    *registration = refused.map_or(Registration::Up, Registration::Refused);
                }
                match refused {
                    None => info!(relay = %link.address(), %name, "registered the relay name"),
                    Some(refusal) => {
                        warn!(relay = %link.address(), %name, %refusal, "the relay refused the relay name");
                        note_refused(shared, link, session, request, refusal, &format!("the relay name `{name}`"));
                    }
                }
            }
            FromRelay::Instances { name, instances } => {
                debug!(relay = %link.address(), %name, count = instances.len(), "look-up");
                if let Some(lookup) = lock(&link.watched).get_mut(&name) {
                    lookup.answered(instances);
                }
            }
            FromRelay::Statement { .. }
            | FromRelay::Welcome { .. }
            | FromRelay::Pong { .. }
            | FromRelay::MoreLinks { .. }
            | FromRelay::Closing { .. } => {}
        }
    }
}

/// Keeps what the relay refused under the id that it knows, too: both make it of the session and the request.
fn note_refused(shared: &Shared, link: &RelayLink, session: &Session, request: u32, refusal: Refusal, what: &str) {
    let Some((code, _)) = refusal.code() else { return };
    let id = RefusalId::of_request(session.link.id.as_bytes(), request);
    let reason = format!("the relay at {} refused {what}: {refusal}", link.address());
    shared.refusals.told(By::Relay, id, shared.trust.now(), code, reason);
}
