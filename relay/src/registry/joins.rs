//! Data links: parked until they are wanted, or waiting until the wanted one is parked.

use std::collections::VecDeque;
use std::time::Instant;

use postern_proto::id::SessionId;
use postern_proto::link::{Frame, Refusal};

use super::{Command, Now, Registry, Timer, Whom, limits};

/// A parked data link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(u64);

/// The first frame of a data link, as it was opened under its session's key for `counter`.
#[derive(Debug, Clone, Copy)]
pub struct First {
    pub session: SessionId,
    pub counter: u64,
    pub frame: Frame,
}

/// A link that wants to be joined with one that is not parked yet.
pub(super) struct Waiting<L> {
    link: L,
    dialler: SessionId,
    deadline: Instant,
}

impl<C: Clone, L> Registry<C, L> {
    /// A data link's first frame arrived, and was authentic. A command says what becomes of the link, now or later. Where it
    /// was parked its id is returned, for [`Self::handle_link_ended`].
    pub fn handle_frame(&mut self, now: Now, first: First, link: L) -> Option<LinkId> {
        let First { session: id, counter, frame } = first;
        let Some(session) = self.sessions.get_mut(&id) else {
            self.refuse(link, Refusal::NotConnected);
            return None;
        };
        if session.counters.take(counter).is_err() {
            // A replay: nothing is told to whoever sent it.
            self.commands.push_back(Command::Drop(link));
            return None;
        }
        session.heard = now.instant;
        let outcome = match frame {
            Frame::Park => self.park(now, id, link),
            Frame::Join { identifier, instance } => self.dial(now, id, Whom { identifier, instance }, link),
            Frame::Joined { .. } | Frame::Refused(_) => Err((link, Refusal::Malformed)),
        };
        outcome.unwrap_or_else(|(link, reason)| {
            self.refuse(link, reason);
            None
        })
    }

    fn park(&mut self, now: Now, id: SessionId, link: L) -> Result<Option<LinkId>, (L, Refusal)> {
        if self.sessions.get(&id).is_none_or(|session| session.peer.has_expired(now.time)) {
            return Err((link, Refusal::BadCredential));
        }
        let mut link = Some(link);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.asked = session.asked.saturating_sub(1);
            let unasked = session.waiting.len().saturating_sub(session.asked + 1);
            if session.asked <= limits::ASKED / 2 && session.ask(unasked) {
                self.wake(id);
            }
        }
        while let Some(waiting) = self.sessions.get_mut(&id).and_then(|session| session.waiting.pop_front()) {
            self.counts.waiting -= 1;
            // Admission is judged when links are joined: the dialler's session may have ended, its credential expired.
            match self.admit(now, waiting.dialler) {
                Ok(()) => {
                    if let Some(parked) = link.take() {
                        self.join(waiting.dialler, waiting.link, id, parked);
                    }
                    self.undial(waiting.dialler);
                    return Ok(None);
                }
                Err(reason) => {
                    self.undial(waiting.dialler);
                    self.refuse(waiting.link, reason);
                }
            }
        }
        let (Some(link), Some(session)) = (link, self.sessions.get_mut(&id)) else { return Ok(None) };
        if session.parked.len() >= limits::PARKED || self.counts.parked >= self.limits.parked {
            return Err((link, Refusal::Limit));
        }
        let link_id = LinkId(self.next_link);
        self.next_link += 1;
        session.parked.push((link_id, link));
        self.counts.parked += 1;
        Ok(Some(link_id))
    }

    fn dial(&mut self, now: Now, id: SessionId, whom: Whom, link: L) -> Result<Option<LinkId>, (L, Refusal)> {
        if let Err(reason) = self.admit(now, id) {
            return Err((link, reason));
        }
        let Some(dialler) = self.sessions.get_mut(&id) else { return Err((link, Refusal::NotConnected)) };
        if !dialler.joins.take(now.instant) {
            return Err((link, Refusal::Limit));
        }
        let dialling = dialler.dialling;
        let Some(target) = self.instances.get(&whom).copied() else {
            let reason = if self.away.has(now.instant, whom) { Refusal::NoLink } else { Refusal::NotConnected };
            return Err((link, reason));
        };
        if let Err(reason) = self.admit(now, target) {
            let told = if reason == Refusal::BadCredential { Refusal::NotConnected } else { reason };
            return Err((link, told));
        }
        let Some(session) = self.sessions.get_mut(&target) else { return Err((link, Refusal::NotConnected)) };
        // The link that was parked last is the one most likely to be alive.
        if let Some((_, parked)) = session.parked.pop() {
            self.counts.parked -= 1;
            self.join(id, link, target, parked);
            return Ok(None);
        }
        if session.waiting.len() >= limits::WAITING || dialling >= limits::DIALLING {
            return Err((link, Refusal::Limit));
        }
        let deadline = now.instant + limits::WAIT;
        session.waiting.push_back(Waiting { link, dialler: id, deadline });
        let asks = session.ask(1);
        self.counts.waiting += 1;
        self.timers.insert((deadline, Timer::Waiting(target)));
        if let Some(dialler) = self.sessions.get_mut(&id) {
            dialler.dialling += 1;
        }
        if asks {
            self.wake(target);
        }
        Ok(None)
    }

    /// Whether links of `session` may be joined.
    fn admit(&self, now: Now, session: SessionId) -> Result<(), Refusal> {
        let session = self.sessions.get(&session).ok_or(Refusal::NotConnected)?;
        if session.peer.has_expired(now.time) { Err(Refusal::BadCredential) } else { Ok(()) }
    }

    fn join(&mut self, dialler: SessionId, dialling: L, target: SessionId, parked: L) {
        let whom = |id| self.sessions.get(&id).map(|session| session.peer.whom());
        if let (Some(dialled_by), Some(parked_by)) = (whom(dialler), whom(target)) {
            self.counts.joined += 1;
            self.commands.push_back(Command::Join { dialler: dialling, dialled_by, parked, parked_by });
        }
    }

    fn undial(&mut self, dialler: SessionId) {
        if let Some(session) = self.sessions.get_mut(&dialler) {
            session.dialling = session.dialling.saturating_sub(1);
        }
    }

    fn refuse(&mut self, link: L, reason: Refusal) {
        self.count_refusal(reason);
        self.commands.push_back(Command::Refuse { link, reason });
    }

    /// A parked link ended. Gives it back where it was still here; otherwise a command about it is under way.
    pub fn handle_link_ended(&mut self, session: SessionId, id: LinkId) -> Option<L> {
        let session = self.sessions.get_mut(&session)?;
        let place = session.parked.iter().position(|(parked, _)| *parked == id)?;
        self.counts.parked -= 1;
        Some(session.parked.remove(place).1)
    }

    pub(super) fn check_waiting(&mut self, now: Now, id: SessionId) {
        while let Some(session) = self.sessions.get_mut(&id) {
            match session.waiting.front() {
                Some(waiting) if waiting.deadline <= now.instant => {}
                Some(waiting) => {
                    self.timers.insert((waiting.deadline, Timer::Waiting(id)));
                    return;
                }
                None => return,
            }
            let Some(waiting) = session.waiting.pop_front() else { return };
            session.asked = session.asked.saturating_sub(1);
            self.counts.waiting -= 1;
            self.undial(waiting.dialler);
            self.refuse(waiting.link, Refusal::NoLink);
        }
    }

    /// The links of a session that is gone: parked ones die with it, and who waited for it hears so.
    pub(super) fn remove_links(&mut self, parked: Vec<(LinkId, L)>, waiting: VecDeque<Waiting<L>>, reason: Refusal) {
        self.counts.parked -= parked.len();
        self.counts.waiting -= waiting.len();
        self.commands.extend(parked.into_iter().map(|(_, link)| Command::Drop(link)));
        for waiting in waiting {
            self.undial(waiting.dialler);
            self.refuse(waiting.link, reason);
        }
    }
}
