//! What the authority takes back: voiding statements and heartbeats, by either road, and what they end.
//!
//! The authority tells this node over its session; relays pass the same signed statements on. Which comes first does not matter. A member
//! that was revoked loses its channels and streams at once. One that was changed is asked for its newer credential, and its streams are
//! judged by that.

#[cfg(test)]
mod model;
mod progress;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::authority::{Heartbeat, Voiding};
use postern_proto::credential::{Voided, VoidedError};
use postern_proto::id::ProjectId;
use postern_proto::identity::History;
use postern_proto::sign::SignError;
use postern_proto::statement::{self, StatementError};
use postern_proto::time::Timestamp;
use postern_runtime::backoff::Backoff;
use postern_runtime::files::FileError;
use postern_runtime::home::layout;
use postern_runtime::membership::Membership;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::progress::Progress;
use super::channel::RENEWAL_GRACE;
use super::live::Enders;
use super::shared::Shared;

/// Largest file of void credentials: as many entries as [`Voided`] takes, with room.
const MAX_VOIDED: usize = 8 * 1024 * 1024;

/// The file of the newest heartbeat: one number.
const HEARD_LEN: usize = 8;

/// The newest heartbeat is written down so many times before it would be too old, and not more often than [`LEAST_WRITE`]: a restart takes
/// what it knows for a little older than it is.
const WRITES: u32 = 20;

/// See [`WRITES`].
const LEAST_WRITE: Duration = Duration::from_secs(10);

/// How a statement came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// From the authority itself, which made it for this moment.
    Authority,
    /// Passed on by a relay. Nobody knows how long it was on the way.
    Relay,
}

/// What this node knows of its authority's statements.
#[derive(Default)]
pub struct Revocation {
    state: Mutex<State>,
    /// The epoch up to which everything that is void is enforced here, and on the disk.
    enforced: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// By what statements are verified.
    authority: Option<(History, ProjectId)>,
    /// The newest heartbeat that is written down.
    written: Option<Timestamp>,
    /// A rollback was told of, until the authority is heard as it should be.
    told: bool,
    /// It was told of that a relay passes on what is not the authority's.
    odd: bool,
    progress: Progress,
    /// The list could not be written, and is tried again.
    storing: bool,
}

impl State {
    /// Says that a statement is none of this project's authority.
    fn ignored(&mut self, what: &str, error: &StatementError, road: Road) {
        match (road, error) {
            (Road::Authority, _) => warn!(%error, "ignored {what}"),
            // A relay does not say of what kind it is: it is read as each, and some are longer than others may be.
            (Road::Relay, StatementError::Sign(SignError::Type { .. } | SignError::TooLarge { .. })) => {}
            // Once, until there is a new one again: a relay can do that without end, and say old ones in between.
            (Road::Relay, _) if std::mem::replace(&mut self.odd, true) => {}
            (Road::Relay, _) => warn!(%error, "ignored {what} that a relay passed on: it is not of this project's authority"),
        }
    }
}

impl Revocation {
    /// Statements are those of this project's authority.
    pub fn set_authority(&self, membership: &Membership) {
        lock(&self.state).authority = Some((membership.history().clone(), membership.project()));
    }

    /// What was void when this node last ran is enforced from its start.
    pub fn begins_with(&self, voided: &Voided) {
        self.progressed(&mut lock(&self.state), |progress| progress.begin(voided.epoch()));
    }

    /// How far this node is.
    #[must_use]
    pub fn enforced(&self) -> watch::Receiver<u64> {
        self.enforced.subscribe()
    }

    fn has_enforced(&self, epoch: u64) {
        self.progressed(&mut lock(&self.state), |progress| progress.has_enforced(epoch));
    }

    fn has_stored(&self, state: &mut State, epoch: u64) {
        self.progressed(state, |progress| progress.has_stored(epoch));
    }

    fn progressed(&self, state: &mut State, how: impl FnOnce(&mut Progress)) {
        how(&mut state.progress);
        let done = state.progress.done();
        self.enforced.send_if_modified(|known| {
            let newer = *known < done;
            *known = done.max(*known);
            newer
        });
    }
}

/// A statement that a relay passed on. It does not say of what kind it is; project information comes with a history, by the authority's
/// own road alone.
pub fn take_from_relay(shared: &Arc<Shared>, signed: &[u8]) {
    take_voiding(shared, signed, Road::Relay);
    take_heartbeat(shared, signed, Road::Relay);
}

/// The authority lives, and says what time it is.
pub fn take_heartbeat(shared: &Arc<Shared>, signed: &[u8], road: Road) {
    let mut state = lock(&shared.revocation.state);
    let Some((history, project)) = &state.authority else { return };
    let heartbeat: Heartbeat = match statement::verify(history, *project, signed) {
        Ok(heartbeat) => heartbeat,
        Err(error) => return state.ignored("a heartbeat", &error, road),
    };
    let known = shared.trust.domain().map_or(0, |domain| domain.voided.epoch());
    if heartbeat.epoch < known {
        if road == Road::Relay {
            // An old one, which says nothing of the authority's state: a relay can keep it and pass it on as long as it likes.
            debug!(epoch = heartbeat.epoch, known, "ignored an old heartbeat that a relay passed on");
        } else if !std::mem::replace(&mut state.told, true) {
            warn!(epoch = heartbeat.epoch, known, "the authority's state was set back: its heartbeats do not count");
        }
        return;
    }
    if road == Road::Authority {
        state.told = false;
    }
    match road {
        Road::Authority => shared.trust.clock().synchronise(heartbeat.time),
        Road::Relay => shared.trust.clock().at_least(heartbeat.time),
    }
    if heartbeat.epoch > known {
        // What was voided since then is not known here, and whoever brought this may be keeping it back: it vouches for nothing.
        return;
    }
    if shared.trust.freshness().is_none_or(|known| heartbeat.time > known.heard) {
        state.odd = false;
    }
    shared.trust.heard(heartbeat.time);
    let interval = (shared.max_staleness.get() / WRITES).max(LEAST_WRITE);
    if state.written.is_none_or(|written| heartbeat.time.since(written) >= interval) {
        state.written = Some(heartbeat.time);
        let written = shared.node_home.dir().write(layout::node::HEARD, &heartbeat.time.as_unix().to_be_bytes());
        if let Err(error) = written {
            warn!(error = &error as &dyn std::error::Error, "the newest heartbeat was not stored");
        }
    }
}

/// Credentials became void: what stands on them ends.
pub fn take_voiding(shared: &Arc<Shared>, signed: &[u8], road: Road) {
    // One statement after the other: each adds to what those before said.
    let mut state = lock(&shared.revocation.state);
    let Some((history, project)) = &state.authority else { return };
    let voiding: Voiding = match statement::verify(history, *project, signed) {
        Ok(voiding) => voiding,
        Err(error) => return state.ignored("a voiding statement", &error, road),
    };
    let Some(domain) = shared.trust.domain() else { return };
    let mut voided = domain.voided.clone();
    match voided.apply(&voiding) {
        Ok(true) => state.odd = false,
        Ok(false) => return,
        // Told by the other road before, or said again when a session begins.
        Err(error @ VoidedError::Rollback { .. }) => return debug!(%error, ?road, "ignored a voiding statement"),
        Err(error) if road == Road::Relay && std::mem::replace(&mut state.odd, true) => {
            return debug!(%error, ?road, "ignored a voiding statement");
        }
        Err(error) => return warn!(%error, ?road, "ignored a voiding statement"),
    }
    voided.forget_expired(shared.trust.now());
    let epoch = voided.epoch();
    info!(epoch, ?road, "credentials became void");
    shared.trust.set_voided(domain.ring.project(), voided.clone());
    // It is acted on before it is written down: a disk takes longer than a stream lasts. It is acknowledged behind both, and told again
    // to a node that was not that far.
    let ended = enforce(shared);
    match store_voided(shared, &voided) {
        Ok(()) => shared.revocation.has_stored(&mut state, epoch),
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "the list of void credentials was not stored; the authority is not told that it is enforced before it is"
            );
            if !std::mem::replace(&mut state.storing, true) {
                shared.spawn("void list", store_later(Arc::clone(shared)));
            }
        }
    }
    drop(state);
    finish(shared, epoch, ended);
}

/// What was begun to enforce an epoch.
struct Begun {
    /// Streams that were told to end.
    enders: Enders,
    /// Peers were asked for newer credentials.
    asked: bool,
}

fn enforce(shared: &Arc<Shared>) -> Begun {
    let mut asked = false;
    for channel in shared.peers.channels() {
        match shared.trust.recheck(&channel.credential()) {
            Ok(()) => {}
            Err(error) if error.wants_newer() => {
                channel.want_newer();
                asked = true;
            }
            Err(error) => {
                info!(peer = %channel.peer(), channel = %channel.id(), %error, "a channel is closed");
                channel.close();
            }
        }
    }
    let enders = shared.review();
    if shared.trust.own_is_void() {
        shared.renew.notify_one();
    }
    shared.changed();
    Begun { enders, asked }
}

/// Keys left the ring: what they signed ends, unless the peer shows something newer at once.
pub fn keys_left(shared: &Arc<Shared>) {
    info!("a key that signed credentials was retired");
    if !enforce(shared).asked {
        return;
    }
    let shared_too = Arc::clone(shared);
    shared.spawn("retired key", async move {
        tokio::time::sleep(RENEWAL_GRACE).await;
        shared_too.review();
    });
}

/// Says that `epoch` is enforced once it is: the streams that had to end have ended, and peers that were asked for newer credentials have
/// shown them, or lost their streams.
fn finish(shared: &Arc<Shared>, epoch: u64, Begun { enders, asked }: Begun) {
    if !asked && enders.is_empty() {
        return shared.revocation.has_enforced(epoch);
    }
    let shared_too = Arc::clone(shared);
    shared.spawn("enforcement", async move {
        let since = Instant::now();
        enders.ended(&shared_too.live).await;
        if asked {
            tokio::time::sleep_until(since + RENEWAL_GRACE).await;
            // Those that have not shown a newer one end now.
            let late = shared_too.review();
            late.ended(&shared_too.live).await;
        }
        shared_too.revocation.has_enforced(epoch);
    });
}

fn store_voided(shared: &Shared, voided: &Voided) -> Result<(), FileError> {
    let mut bytes = Vec::new();
    // Writing to a vector does not fail.
    let _ = minicbor::encode(voided, &mut bytes);
    shared.node_home.dir().write(layout::node::EPOCH, &bytes)
}

/// A disk that is full or away may come back. What is void then is written, which may be more than when it failed.
async fn store_later(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        tokio::time::sleep(backoff.next_delay()).await;
        let mut state = lock(&shared.revocation.state);
        let Some(domain) = shared.trust.domain() else { continue };
        if store_voided(&shared, &domain.voided).is_ok() {
            info!(epoch = domain.voided.epoch(), "the list of void credentials is stored");
            state.storing = false;
            return shared.revocation.has_stored(&mut state, domain.voided.epoch());
        }
    }
}

/// What was void when this node last ran: a restart forgets no revocation.
///
/// A list that cannot be read is not taken for an empty one: `None`.
pub fn load_voided(shared: &Shared) -> Option<Voided> {
    match shared.node_home.dir().read(layout::node::EPOCH, MAX_VOIDED) {
        Ok(None) => Some(Voided::default()),
        Ok(Some(bytes)) => match minicbor::decode(&bytes) {
            Ok(voided) => Some(voided),
            Err(error) => {
                warn!(%error, "the list of void credentials is damaged: nobody is believed until the authority has said it anew");
                None
            }
        },
        Err(error) => {
            warn!(%error, "the list of void credentials cannot be read: nobody is believed until the authority has said it anew");
            None
        }
    }
}

/// When the authority was last heard, as far as it was written down; else when it issued the credentials that this node has.
pub fn load_heard(shared: &Shared) {
    let stored = match shared.node_home.dir().read(layout::node::HEARD, HEARD_LEN) {
        Ok(stored) => stored.and_then(|bytes| <[u8; HEARD_LEN]>::try_from(bytes.as_slice()).ok()),
        Err(error) => {
            warn!(%error, "the newest heartbeat was not read");
            None
        }
    };
    let stored = stored.map(|bytes| Timestamp::from_unix(u64::from_be_bytes(bytes)));
    if let Some(heard) = stored.or_else(|| shared.trust.own().map(|own| own.member.not_before())) {
        shared.trust.heard(heard);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
