//! One node's session: what it registered, what it watches, and what is to be said to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use postern_proto::channel::LinkSession;
use postern_proto::credential::VerifiedCredential;
use postern_proto::id::{Identifier, InstanceId, NodeId, SessionId};
use postern_proto::link::{FromRelay, Instance, Refusal, ToRelay};
use postern_proto::name::RelayName;
use postern_proto::replay::OnceWindow;
use postern_proto::time::{CLOCK_TOLERANCE, Timestamp};
use postern_proto::weight::Weight;
use postern_runtime::bucket::Bucket;

use super::joins::{LinkId, Waiting};
use super::{Now, Registry, Timer, Whom, limits};

/// A node as its control link's handshake and credential prove it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub identifier: Identifier,
    pub node_id: NodeId,
    pub instance: InstanceId,
    /// Its `relay` credential, verified against the handshake. It names relay names and no attributes.
    pub credential: VerifiedCredential,
}

impl Peer {
    pub(super) const fn node(&self) -> (Identifier, NodeId) {
        (self.identifier, self.node_id)
    }

    #[must_use]
    pub const fn whom(&self) -> Whom {
        Whom { identifier: self.identifier, instance: self.instance }
    }

    fn may_register(&self, name: &RelayName) -> bool {
        // In ascending order, as the credential has them.
        self.credential.relay_names().binary_search(name).is_ok()
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        now >= self.credential.expires().plus(CLOCK_TOLERANCE)
    }
}

pub(super) struct Session<C, L> {
    pub(super) control: C,
    pub(super) peer: Peer,
    pub(super) link: LinkSession,
    /// Numbers of data links that were used.
    pub(super) counters: OnceWindow,
    pub(super) heard: Instant,
    /// With the weight that each is registered with.
    pub(super) names: BTreeMap<RelayName, Weight>,
    pub(super) watches: BTreeMap<RelayName, Watch>,
    answers: VecDeque<FromRelay>,
    /// How many more data links the node is to be asked to park.
    pub(super) more: u8,
    /// How many it was asked for, or will be, that have not come yet.
    pub(super) asked: usize,
    /// Which statements the node was sent, by kind: of which change, and how many of them.
    told: [(u64, usize); 3],
    requests: Bucket,
    pub(super) joins: Bucket,
    pub(super) parked: Vec<(LinkId, L)>,
    pub(super) waiting: VecDeque<Waiting<L>>,
    /// Links of this node that wait in other sessions' queues.
    pub(super) dialling: usize,
}

/// What a node is to be told about a name: state, not a queue.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// There is something new, to be told at this time or later.
    dirty: Option<Instant>,
    told: Option<Instant>,
    /// That nobody is there. Whoever waits for an arrival should not wait for the second to be over.
    told_nobody: bool,
}

impl Watch {
    /// When an update was last told.
    #[cfg(test)]
    pub(super) const fn told(&self) -> Option<Instant> {
        self.told
    }

    /// When the update is due, where there is one.
    pub(super) fn due(&self) -> Option<Instant> {
        let dirty = self.dirty?;
        let interval = if self.told_nobody { limits::ARRIVAL_INTERVAL } else { limits::UPDATE_INTERVAL };
        Some(self.told.map_or(dirty, |told| dirty.max(told + interval)))
    }
}

impl<C, L> Session<C, L> {
    pub(super) fn new(now: Now, peer: Peer, link: LinkSession, control: C) -> Self {
        Self {
            control,
            peer,
            link,
            counters: OnceWindow::default(),
            heard: now.instant,
            names: BTreeMap::new(),
            watches: BTreeMap::new(),
            answers: VecDeque::new(),
            more: 0,
            asked: 0,
            told: [(0, 0); 3],
            requests: Bucket::new(limits::REQUEST_BURST, limits::REQUEST_EVERY, now.instant),
            joins: Bucket::new(limits::JOIN_BURST, limits::JOIN_EVERY, now.instant),
            parked: Vec::new(),
            waiting: VecDeque::new(),
            dialling: 0,
        }
    }

    /// Has the node asked for `count` more links, as far as the window goes. Whether there is something to say.
    pub(super) fn ask(&mut self, count: usize) -> bool {
        let count = count.min(limits::ASKED.saturating_sub(self.asked));
        self.asked += count;
        // Never more than the window, which fits.
        self.more = self.more.saturating_add(count as u8);
        count > 0
    }

    /// Says `reason` unasked. Request 0 is no node's.
    pub(super) fn notice(&mut self, reason: Refusal) {
        let notice = FromRelay::Answer { request: 0, refused: Some(reason) };
        if self.answers.len() < limits::ANSWERS && !self.answers.contains(&notice) {
            self.answers.push_back(notice);
        }
    }

    /// Statements of this kind took the place of others. A node that had heard all of those, which `before` counts, has heard as much of
    /// the new ones as `told` says.
    pub(super) fn was_told(&mut self, kind: usize, before: (u64, usize), told: (u64, usize)) {
        if self.told[kind] == before {
            self.told[kind] = told;
        }
    }

    /// When the next update of a watched name is due.
    fn next_update(&self) -> Option<Instant> {
        self.watches.values().filter_map(Watch::due).min()
    }
}

impl<C: Clone, L> Registry<C, L> {
    /// A message arrived on `session`'s control link. [`ToRelay::Renew`] comes by [`Self::handle_renewed`] once it was verified.
    pub fn handle_message(&mut self, now: Now, id: SessionId, message: ToRelay) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.heard = now.instant;
        if session.answers.len() >= limits::ANSWERS || !session.requests.take(now.instant) {
            return self.end(now, id, Some(Refusal::TooManyRequests));
        }
        let answer = match message {
            ToRelay::Ping { number } => Some(FromRelay::Pong { number }),
            ToRelay::Register { request, name, weight } => {
                let refused = self.register(now, id, &name, weight.unwrap_or_default()).err();
                Some(FromRelay::Answer { request, refused })
            }
            ToRelay::Unregister { request, name } => {
                self.unregister(now, id, &name);
                Some(FromRelay::Answer { request, refused: None })
            }
            ToRelay::Watch { name } => {
                // A watch has no answer of its own: only a refusal is said.
                self.watch(now, id, name).err().map(|reason| FromRelay::Answer { request: 0, refused: Some(reason) })
            }
            ToRelay::Unwatch { name } => {
                if session.watches.remove(&name).is_some() {
                    self.names.unwatch(&name, id);
                    self.counts.watches -= 1;
                }
                None
            }
            ToRelay::Renew { .. } => return self.end(now, id, Some(Refusal::Malformed)),
        };
        if let Some(answer) = answer {
            if let FromRelay::Answer { refused: Some(reason), .. } = answer {
                self.count_refusal(reason);
            }
            if let Some(session) = self.sessions.get_mut(&id) {
                session.answers.push_back(answer);
            }
            self.wake(id);
        }
    }

    fn register(&mut self, now: Now, id: SessionId, name: &RelayName, weight: Weight) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::NotConnected)?;
        if session.peer.has_expired(now.time) {
            return Err(Refusal::BadCredential);
        }
        if !session.peer.may_register(name) {
            return Err(Refusal::NotPermitted);
        }
        match session.names.insert(name.clone(), weight) {
            Some(before) if before == weight => return Ok(()),
            Some(_) => {}
            None => {
                self.names.register(name, session.peer.node(), id);
                self.counts.registrations += 1;
            }
        }
        self.mark(now, name, now.instant);
        Ok(())
    }

    fn unregister(&mut self, now: Now, id: SessionId, name: &RelayName) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.names.remove(name).is_some() {
            self.names.unregister(name, session.peer.node(), id);
            self.counts.registrations -= 1;
            self.mark(now, name, now.instant);
        }
    }

    fn watch(&mut self, now: Now, id: SessionId, name: RelayName) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::NotConnected)?;
        if session.watches.contains_key(&name) {
            return Ok(());
        }
        if session.watches.len() >= limits::WATCHES {
            return Err(Refusal::Limit);
        }
        self.counts.watches += 1;
        self.names.watch(&name, id);
        session.watches.insert(name, Watch { dirty: Some(now.instant), ..Watch::default() });
        self.wake(id);
        Ok(())
    }

    /// `session` showed a newer credential, which was verified for the same identity and key.
    pub fn handle_renewed(&mut self, now: Now, id: SessionId, credential: VerifiedCredential) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.heard = now.instant;
        if !session.requests.take(now.instant) {
            return self.end(now, id, Some(Refusal::TooManyRequests));
        }
        if credential.not_before() < session.peer.credential.not_before() {
            // An older one, in which names may stand that are no longer granted.
            return;
        }
        session.peer.credential = credential;
        let (kept, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut session.names).into_iter().partition(|(name, _)| session.peer.may_register(name));
        session.names.clone_from(&kept);
        let node = session.peer.node();
        if !lost.is_empty() {
            session.notice(Refusal::NotPermitted);
            self.wake(id);
        }
        self.counts.registrations -= lost.len();
        for name in lost.keys() {
            self.names.unregister(name, node, id);
        }
        // Diallers need the newer credential: a look-up hands it out.
        for name in kept.keys().chain(lost.keys()) {
            self.mark(now, name, now.instant);
        }
    }

    /// Everybody who watches `name` is to hear of it, at `not_before` or later.
    pub(super) fn mark(&mut self, now: Now, name: &RelayName, not_before: Instant) {
        for id in self.names.watchers(name) {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Some(watch) = session.watches.get_mut(name) else { continue };
            // An arrival is told at once, even while a departure waits to settle.
            watch.dirty = Some(watch.dirty.map_or(not_before, |earlier| earlier.min(not_before)));
            match watch.due() {
                Some(due) if due > now.instant => {
                    self.timers.insert((due, Timer::Watches(id)));
                }
                _ => self.wake(id),
            }
        }
    }

    pub(super) fn check_watches(&mut self, now: Now, id: SessionId) {
        let Some(due) = self.sessions.get(&id).and_then(Session::next_update) else { return };
        if due <= now.instant {
            self.wake(id);
        } else {
            self.timers.insert((due, Timer::Watches(id)));
        }
    }

    /// What to say next on this control link; `None` until it is woken again. To be asked only when what was said before has
    /// left, so that updates stay states and never become a queue.
    pub fn poll_transmit(&mut self, now: Now, id: SessionId) -> Option<FromRelay> {
        let session = self.sessions.get_mut(&id)?;
        if let Some(answer) = session.answers.pop_front() {
            return Some(answer);
        }
        if session.more > 0 {
            return Some(FromRelay::MoreLinks { count: std::mem::take(&mut session.more) });
        }
        for ((told, sent), (version, statements)) in session.told.iter_mut().zip(&self.statements) {
            if *told < *version {
                (*told, *sent) = (*version, 0);
            }
            if let Some(statement) = statements.get(*sent) {
                *sent += 1;
                return Some(FromRelay::Statement { statement: statement.to_vec() });
            }
        }
        let due = session.watches.iter_mut().find(|(_, watch)| watch.due().is_some_and(|due| due <= now.instant));
        let Some((name, watch)) = due else {
            // A timer that was armed for an earlier update may have gone off already.
            if let Some(next) = session.next_update() {
                self.timers.insert((next, Timer::Watches(id)));
            }
            return None;
        };
        (watch.dirty, watch.told) = (None, Some(now.instant));
        let name = name.clone();
        let instances: Vec<Instance> = self
            .names
            .instances(&name, id)
            .filter_map(|registered| self.sessions.get(&registered))
            .map(|session| Instance {
                weight: session.names.get(&name).copied().filter(|weight| !weight.is_one()),
                identifier: session.peer.identifier,
                node_id: session.peer.node_id,
                instance: session.peer.instance,
                credential: session.peer.credential.bytes().to_vec(),
            })
            .collect();
        if let Some(watch) = self.sessions.get_mut(&id).and_then(|session| session.watches.get_mut(&name)) {
            watch.told_nobody = instances.is_empty();
        }
        Some(FromRelay::Instances { name, instances })
    }
}
