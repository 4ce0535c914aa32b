//! Who is connected, under which names, and which links wait for whom: the relay's state, as a machine over events.
//!
//! Sans-IO. `handle_*` takes what happened, and may leave [`Command`]s, which the shell takes with [`Registry::poll_command`]
//! after every call and performs; [`Registry::poll_transmit`] is what to say next on a control link; at
//! [`Registry::poll_timeout`] the shell calls [`Registry::handle_timeout`]. Everything that a peer can make grow has a limit
//! in [`limits`].

mod away;
mod contention;
mod joins;
pub mod limits;
mod names;
mod session;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use postern_proto::channel::LinkSession;
use postern_proto::id::{Identifier, InstanceId, NodeId, SessionId};
use postern_proto::link::Refusal;
use postern_proto::name::RelayName;
use postern_proto::time::Timestamp;
use serde::Serialize;

use self::away::Away;
use self::contention::Contention;
pub use self::joins::{First, LinkId};
pub use self::limits::Limits;
use self::names::Names;
pub use self::session::Peer;
use self::session::Session;

/// The moment of an event.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For delays.
    pub instant: Instant,
    /// For credentials: the project's time.
    pub time: Timestamp,
}

/// What the shell is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<C, L> {
    /// There is something to say on this control link.
    Wake(C),
    /// Close this control link, with a last word where there is a reason. Its session is gone.
    End { control: C, reason: Option<Refusal> },
    /// Tell both links of each other and join them.
    Join { dialler: L, dialled_by: Whom, parked: L, parked_by: Whom },
    /// Tell this link why it is not joined, and close it.
    Refuse { link: L, reason: Refusal },
    /// Close this parked link: its session is gone.
    Drop(L),
}

/// Whom a link belongs to, as the other end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Whom {
    pub identifier: Identifier,
    pub instance: InstanceId,
}

/// Signed statements of the authority that are passed on. Only the newest of each kind are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    ProjectInfo = 0,
    Voiding = 1,
    Heartbeat = 2,
}

/// What there is, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    pub sessions: usize,
    pub registrations: usize,
    pub watches: usize,
    /// Links that wait to be joined.
    pub parked: usize,
    /// Links that want to be joined and wait for the other node to park one.
    pub waiting: usize,
    /// Links joined since the start.
    pub joined: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The session may have been silent for too long, or its credential have expired.
    Receipt(SessionId),
    /// An update of a watched name may be due.
    Watches(SessionId),
    /// A link that waits for this session to park one may have waited for too long.
    Waiting(SessionId),
    Contention(Identifier, NodeId),
}

/// The state. `C` is the shell's handle of a control link, `L` that of a data link.
pub struct Registry<C, L> {
    limits: Limits,
    sessions: HashMap<SessionId, Session<C, L>>,
    /// The session of each node.
    nodes: HashMap<(Identifier, NodeId), SessionId>,
    /// The session of each run of a node.
    instances: HashMap<Whom, SessionId>,
    /// How many sessions each identity has.
    identities: HashMap<Identifier, usize>,
    names: Names,
    contention: HashMap<(Identifier, NodeId), Contention>,
    away: Away,
    /// The newest statements of each kind, and how often they have changed.
    statements: [(u64, Vec<Arc<[u8]>>); 3],
    timers: BTreeSet<(Instant, Timer)>,
    commands: VecDeque<Command<C, L>>,
    counts: Counts,
    next_link: u64,
    /// How often each refusal was given, by its number.
    refused: [u64; Refusal::ALL.len() + 1],
}

impl<C: Clone, L> Registry<C, L> {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: HashMap::new(),
            nodes: HashMap::new(),
            instances: HashMap::new(),
            identities: HashMap::new(),
            names: Names::default(),
            contention: HashMap::new(),
            away: Away::default(),
            statements: std::array::from_fn(|_| (0, Vec::new())),
            timers: BTreeSet::new(),
            commands: VecDeque::new(),
            counts: Counts::default(),
            next_link: 0,
            refused: [0; Refusal::ALL.len() + 1],
        }
    }

    /// A node's control link finished its handshake with a credential that was verified. Replaces the node's earlier session
    /// at once.
    ///
    /// # Errors
    /// The reason to close the new link with; nothing changed but for contention.
    pub fn handle_open(&mut self, now: Now, peer: Peer, link: LinkSession, control: C) -> Result<(), Refusal> {
        self.open(now, peer, link, control).inspect_err(|reason| self.count_refusal(*reason))
    }

    fn open(&mut self, now: Now, peer: Peer, link: LinkSession, control: C) -> Result<(), Refusal> {
        if self.sessions.len() >= self.limits.sessions || self.sessions.contains_key(&link.id) {
            return Err(Refusal::Limit);
        }
        let node = peer.node();
        let earlier = self.nodes.get(&node).copied();
        if earlier.is_none() && self.identities.get(&peer.identifier).is_some_and(|n| *n >= limits::SESSIONS_PER_IDENTITY) {
            return Err(Refusal::Limit);
        }
        let whom = peer.whom();
        if self.instances.get(&whom).is_some_and(|session| Some(*session) != earlier) {
            // An instance id is random: no other node of this identity has it unless it was made to.
            return Err(Refusal::Malformed);
        }
        if let Some(earlier) = earlier {
            self.contend(now, node, earlier, peer.instance)?;
            self.end(now, earlier, Some(Refusal::TakenOver));
        }
        let id = link.id;
        *self.identities.entry(peer.identifier).or_default() += 1;
        self.nodes.insert(node, id);
        self.instances.insert(whom, id);
        self.away.returned(node);
        self.timers.insert((now.instant + limits::RECEIPT, Timer::Receipt(id)));
        self.sessions.insert(id, Session::new(now, peer, link, control));
        self.counts.sessions = self.sessions.len();
        self.wake(id);
        Ok(())
    }

    /// Counts a take-over; refused where two live runs of one node keep taking it from each other.
    fn contend(&mut self, now: Now, node: (Identifier, NodeId), earlier: SessionId, later: InstanceId) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get_mut(&earlier) else { return Ok(()) };
        let incumbent = session.peer.instance;
        if incumbent == later {
            return Ok(());
        }
        let contention = self.contention.entry(node).or_default();
        let allowed = contention.take_over(now.instant, incumbent, later);
        self.timers.insert((contention.expires(now.instant), Timer::Contention(node.0, node.1)));
        if allowed {
            return Ok(());
        }
        // Unasked, so that both say what is wrong. The incumbent stays.
        session.notice(Refusal::CopiedHome);
        self.wake(earlier);
        Err(Refusal::CopiedHome)
    }

    /// The control link of `session` ended by itself.
    pub fn handle_closed(&mut self, now: Now, session: SessionId) {
        let heard = self.sessions.get(&session).map(|session| session.heard);
        if heard.is_some_and(|heard| now.instant >= heard + limits::QUIET) {
            self.note_away(now, session);
        }
        self.remove(now, session);
    }

    /// The control link of `session` fell silent: its node may live on, and come back.
    pub fn handle_silent(&mut self, now: Now, session: SessionId) {
        self.note_away(now, session);
        self.remove(now, session);
    }

    fn note_away(&mut self, now: Now, session: SessionId) {
        if let Some(session) = self.sessions.get(&session) {
            self.away.left(now.instant, session.peer.node_id, session.peer.whom());
        }
    }

    /// Ends `session` for `reason`, which its node is told.
    pub fn end(&mut self, now: Now, session: SessionId, reason: Option<Refusal>) {
        if let Some(control) = self.remove(now, session) {
            if let Some(reason) = reason {
                self.count_refusal(reason);
            }
            self.commands.push_back(Command::End { control, reason });
        }
    }

    /// Ends every session whose peer does not pass `still`: what they were admitted by is void.
    pub fn end_unless(&mut self, now: Now, reason: Refusal, still: impl Fn(&Peer) -> bool) {
        let ended: Vec<_> = self.sessions.iter().filter(|(_, session)| !still(&session.peer)).map(|(id, _)| *id).collect();
        for session in ended {
            self.end(now, session, Some(reason));
        }
    }

    fn remove(&mut self, now: Now, id: SessionId) -> Option<C> {
        let session = self.sessions.remove(&id)?;
        self.counts.sessions = self.sessions.len();
        let peer = &session.peer;
        let node = peer.node();
        self.nodes.remove(&node);
        self.instances.remove(&peer.whom());
        if let Some(count) = self.identities.get_mut(&peer.identifier) {
            *count -= 1;
            if *count == 0 {
                self.identities.remove(&peer.identifier);
            }
        }
        for name in session.watches.keys() {
            self.names.unwatch(name, id);
        }
        self.counts.watches -= session.watches.len();
        for name in session.names.keys() {
            self.names.unregister(name, node, id);
            // A node that comes back at once under the same names should not be seen to have been away.
            self.mark(now, name, now.instant + limits::SETTLE);
        }
        self.counts.registrations -= session.names.len();
        let reason = if self.away.has(now.instant, peer.whom()) { Refusal::NoLink } else { Refusal::NotConnected };
        self.remove_links(session.parked, session.waiting, reason);
        Some(session.control)
    }

    /// Keeps `statements` as the newest of their kind, to be passed on to every node once. A heartbeat goes with the next answer to a
    /// ping: nodes ping about as often, and a message of its own would double what an idle node costs.
    pub fn handle_statements(&mut self, kind: StatementKind, statements: Vec<Arc<[u8]>>) {
        let (version, kept) = &mut self.statements[kind as usize];
        *version += 1;
        *kept = statements;
        if kind == StatementKind::Heartbeat {
            return;
        }
        self.commands.extend(self.sessions.values().map(|session| Command::Wake(session.control.clone())));
    }

    /// Keeps `all` as the voiding statements to be passed on, of which the last `news` say what is new: who was told everything before needs
    /// only those.
    pub fn handle_voidings(&mut self, all: Vec<Arc<[u8]>>, news: usize) {
        let kind = StatementKind::Voiding as usize;
        let (version, kept) = &mut self.statements[kind];
        let before = (*version, kept.len());
        *version += 1;
        let told = (*version, all.len().saturating_sub(news));
        *kept = all;
        for session in self.sessions.values_mut() {
            session.was_told(kind, before, told);
        }
        self.commands.extend(self.sessions.values().map(|session| Command::Wake(session.control.clone())));
    }

    /// What to do next, until there is nothing.
    pub fn poll_command(&mut self) -> Option<Command<C, L>> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called, as far as is known now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now.instant) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Receipt(session) => self.check_receipt(now, session),
                Timer::Watches(session) => self.check_watches(now, session),
                Timer::Waiting(session) => self.check_waiting(now, session),
                Timer::Contention(identifier, node_id) => {
                    if let Some(contention) = self.contention.get(&(identifier, node_id)) {
                        let expires = contention.expires(now.instant);
                        if expires <= now.instant {
                            self.contention.remove(&(identifier, node_id));
                        } else {
                            self.timers.insert((expires, timer));
                        }
                    }
                }
            }
        }
    }

    fn check_receipt(&mut self, now: Now, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let silent_until = session.heard + limits::RECEIPT;
        if silent_until <= now.instant {
            self.note_away(now, id);
            return self.end(now, id, None);
        }
        if session.peer.has_expired(now.time) {
            return self.end(now, id, Some(Refusal::BadCredential));
        }
        self.timers.insert((silent_until, Timer::Receipt(id)));
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How often each reason was given.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().map(|refusal| (refusal, self.refused[usize::from(refusal.to_wire())]))
    }

    /// The session under which data links prove that they belong to a node; `None` where there is none.
    #[must_use]
    pub fn link_session(&self, session: SessionId) -> Option<&LinkSession> {
        self.sessions.get(&session).map(|session| &session.link)
    }

    /// The peer of a session.
    #[must_use]
    pub fn peer(&self, session: SessionId) -> Option<&Peer> {
        self.sessions.get(&session).map(|session| &session.peer)
    }

    /// How many nodes are registered under `name`.
    #[must_use]
    pub fn registered(&self, name: &RelayName) -> usize {
        self.names.count(name)
    }

    fn wake(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.get(&session) {
            self.commands.push_back(Command::Wake(session.control.clone()));
        }
    }

    /// Counts a refusal that was not decided here, too.
    pub fn count_refusal(&mut self, reason: Refusal) {
        self.refused[usize::from(reason.to_wire())] += 1;
    }
}

#[cfg(test)]
mod tests;
