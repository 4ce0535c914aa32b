//! A data link: its first flight, then parked, refused or joined.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::channel::Side;
use postern_proto::id::{Identifier, SessionId};
use postern_proto::link::{Frame, LinkFrames, Opening, Refusal};
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Shared;
use super::drops::DropReason;
use super::link::{Link, Opened, Verdict};
use crate::ending;
use crate::registry::{self, LinkId, Whom};
use crate::splice::End;

/// From the first byte to an authentic frame; a node sends it all at once.
const FIRST_FLIGHT: Duration = Duration::from_secs(5);

/// What a link sends before it is decided about. The relay reads no byte more: what follows is a stream's.
const FIRST_LEN: usize = Opening::LEN + Frame::SEALED_LEN;

/// Serves a data link until it ends or is joined; says why, where it was dropped.
///
/// What is over before a long wait, and what comes after it, stand in allocations of their own: a parked link is as small as its wait.
pub(super) async fn serve(shared: &Arc<Shared>, link: Link) -> Option<DropReason> {
    let First { opened, session, id, mut verdict } = match Box::pin(first_flight(shared, link)).await {
        Ok(first) => first,
        Err(reason) => return Some(reason),
    };
    let verdict = match id {
        Some(id) => match wait_parked(shared, session, id, &opened, &mut verdict).await {
            Ok(verdict) => verdict,
            Err(reason) => return Some(reason),
        },
        None => verdict.await.ok(),
    };
    match verdict {
        // Its session ended, or its number had been used before.
        None => Some(DropReason::Closed),
        Some(verdict) => Box::pin(carry_out(shared, opened, verdict)).await,
    }
}

/// A data link that the registry knows.
struct First {
    opened: Opened,
    session: SessionId,
    /// Where it is parked.
    id: Option<LinkId>,
    verdict: oneshot::Receiver<Verdict>,
}

/// Reads what opens a link, and hands its first frame to the registry.
async fn first_flight(shared: &Arc<Shared>, link: Link) -> Result<First, DropReason> {
    let mut link = link.adopted().map_err(|_| DropReason::Closed)?;
    let half_open = shared.half_open_links.enter(link.accepted.peer.ip());
    let mut first = [0; FIRST_LEN];
    match half_open.run(timeout(FIRST_FLIGHT, link.accepted.stream.read_exact(&mut first))).await {
        Ok(Ok(Ok(_))) => {}
        Ok(Ok(Err(_))) => return Err(DropReason::Closed),
        Ok(Err(_)) => return Err(DropReason::Deadline),
        Err(_) => return Err(DropReason::Evicted),
    }
    drop(half_open);

    let (opening, sealed) = first.split_first_chunk::<{ Opening::LEN }>().ok_or(DropReason::NotAuthentic)?;
    let Opening { session, counter } = Opening::decode(opening);
    let Some(key) = shared.with(|registry, _| registry.link_session(session).cloned()) else {
        return Err(DropReason::UnknownSession);
    };
    let mut frames = LinkFrames::new(&key, counter, Side::Responder);
    drop(key);
    let sealed = sealed.try_into().map_err(|_| DropReason::NotAuthentic)?;
    let Ok(frame) = frames.open(sealed) else { return Err(DropReason::NotAuthentic) };
    let opened = Opened { link, frames };
    if matches!(frame, Frame::Join { .. }) && !shared.admits_join() {
        refuse(opened, Refusal::Limit).await;
        return Err(DropReason::Full);
    }
    let (handle, verdict) = oneshot::channel();
    let id = shared.with(|registry, now| registry.handle_frame(now, registry::First { session, counter, frame }, handle));
    Ok(First { opened, session, id, verdict })
}

/// Tells a link that it is refused or joined, and joins it.
async fn carry_out(shared: &Arc<Shared>, mut opened: Opened, verdict: Verdict) -> Option<DropReason> {
    match verdict {
        // The other task is gone only where the dialler is.
        Verdict::HandOver(to) => to.send(opened).err().map(|_| DropReason::Closed),
        Verdict::Refused(reason) => {
            refuse(opened, reason).await;
            None
        }
        Verdict::Join { parked, dialled_by, parked_by } => {
            let Ok(mut parked) = parked.await else {
                refuse(opened, Refusal::NoLink).await;
                return None;
            };
            if parked.say(&joined(dialled_by)).await.is_err() {
                refuse(opened, Refusal::NoLink).await;
                return None;
            }
            if opened.say(&joined(parked_by)).await.is_err() {
                return Some(DropReason::Closed);
            }
            shared.join([dialled_by.identifier, parked_by.identifier], opened.link, parked.link);
            None
        }
    }
}

const fn joined(whom: Whom) -> Frame {
    Frame::Joined { identifier: whom.identifier, instance: whom.instance }
}

/// Waits for a parked link's verdict, or its end: nothing may come on it before it is joined.
async fn wait_parked(
    shared: &Shared,
    session: SessionId,
    id: LinkId,
    opened: &Opened,
    verdict: &mut oneshot::Receiver<Verdict>,
) -> Result<Option<Verdict>, DropReason> {
    let mut byte = [0];
    tokio::select! {
        biased;
        verdict = &mut *verdict => return Ok(verdict.ok()),
        // Readiness alone may be left over from the first flight; this sees an end, an error or a byte.
        _ = opened.link.stream().peek(&mut byte) => {}
    }
    match shared.with(|registry, _| registry.handle_link_ended(session, id)) {
        Some(_) => Err(DropReason::Closed),
        // It was joined, or dropped, at the same moment.
        None => Ok(verdict.await.ok()),
    }
}

async fn refuse(mut opened: Opened, reason: Refusal) {
    if opened.say(&Frame::Refused(reason)).await.is_ok() {
        // The dialler may have sent early data behind its frame. A reset, which unread bytes cause, would overtake the refusal.
        ending::close_one(opened.link.stream()).await;
    }
}

impl Shared {
    /// Splices two links, in a task of its own: what their tasks needed until here is freed.
    fn join(self: &Arc<Self>, whose: [Identifier; 2], dialler: Link, parked: Link) {
        let (tell, task) = oneshot::channel();
        let beginning = Box::pin(begin(Arc::clone(self), task, whose, [dialler, parked]));
        let task = self.workers.spawn(&self.supervisor, "relay: join", async move {
            // A join holds nothing of how it began.
            if let Some(joined) = beginning.await {
                joined.await;
            }
        });
        // Where nobody hears it, the task has been dropped, with all others.
        let _ = tell.send(task);
    }
}

/// Takes two links to the calling thread, where their `task` runs. `None` where one cannot be taken, or its member is revoked: both are
/// closed, and their nodes dial anew.
async fn begin(
    shared: Arc<Shared>,
    task: oneshot::Receiver<AbortHandle>,
    whose: [Identifier; 2],
    links: [Link; 2],
) -> Option<Joined> {
    let [Ok(one), Ok(other)] = links.map(Link::adopted) else { return None };
    let place = shared.cuts.enter(whose, task.await.ok()?);
    // A revocation cuts what has entered, and this one may have been under way when it came.
    let voided = Arc::clone(&shared.trust().voided);
    if whose.iter().any(|end| voided.is_revoked(end)) {
        return None;
    }
    let carrying = Box::pin(shared.splicer.join(one.accepted.stream, other.accepted.stream));
    let held = [(one.accepted.permit, one.counted), (other.accepted.permit, other.counted)];
    Some(Box::pin(async move {
        let mut counted = shared.metrics.join();
        let report = carrying.await;
        counted.ended(&report.end);
        drop((place, held));
        let (to_parked, to_dialler) = (report.forward, report.backward);
        match report.end {
            End::Closed(side) => tracing::debug!(?side, to_parked, to_dialler, "a join ended"),
            End::Failed(side, error) => tracing::debug!(?side, %error, to_parked, to_dialler, "a join failed"),
        }
    }))
}

/// Two links that are joined, until one ends.
type Joined = Pin<Box<dyn Future<Output = ()> + Send>>;
