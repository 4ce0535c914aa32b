//! Paths that peers opened to this node: handshakes of new channels, and streams to its outlets, one after another.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::channel::Side as Part;
use postern_proto::id::{Identifier, InstanceId, RefusalId};
use postern_proto::path::{AttachHead, Open, OpenHead};
use postern_proto::record::{Control, HEADER_LEN, Header, Kind, Reject, RejectCode, ResetCode};
use postern_proto::spec::{Disclose, OutletSpec};
use postern_proto::stream::{Early, Stream};
use postern_runtime::workers::Load;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};

use super::attach::RESUME_TIMEOUT;
use super::channel::{self, Attached, Channel, ChannelError, OpenError, PATH_IDLE};
use super::circle::{Dial, MAX_HOPS};
use super::code;
use super::link::{Link, LinkError};
use super::live::{Event, LiveGuard, Through};
use super::metrics::{Cause, Counted};
use super::outlet_target::{self, Unreached};
use super::policy::{Denial, Resource};
use super::pump::{self, End, Outcome, Pump, reset_application};
use super::refusals::{By, Refusal};
use super::shared::Shared;
use crate::code::Code;
use crate::stream_log::{OpenStream, Side};

/// How long a path that was just joined may take to say what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(5);

/// How long the answer to an open may take to leave; paths are always read.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// A path that a peer opened to this node.
pub struct Path {
    link: Link,
    /// Whom the relay says that it joined, if there is a relay.
    joined: Option<(Identifier, InstanceId)>,
    /// Of a direct path: its place among them.
    permit: Option<OwnedSemaphorePermit>,
    /// The stream that it carried last.
    carried: Option<(Arc<Channel>, u64)>,
    /// What it is to do next, where that was read already on another thread, and its weight on this one.
    read: Option<Box<(Header, Vec<u8>, Load)>>,
}

impl Path {
    #[must_use]
    pub fn new(socket: TcpStream, joined: Option<(Identifier, InstanceId)>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { link: Link::new(socket), joined, permit, carried: None, read: None }
    }
}

/// Serves a path until it is closed or breaks.
pub async fn serve_path(shared: Arc<Shared>, path: Path) {
    let Path { link, joined, permit, mut carried, mut read } = path;
    // It may come from another thread. A socket that no reactor takes is closed, which its peer sees.
    let Ok(mut link) = link.adopted() else { return };
    let mut patience = FIRST_FRAME;
    loop {
        let (header, frame, load) = match read.take().map(|read| *read) {
            Some((header, frame, load)) => (header, frame, Some(load)),
            None => match link.read_frame(patience).await {
                Ok((header, frame)) => (header, frame, None),
                Err(LinkError::Closed | LinkError::Timeout) => return,
                Err(error) => {
                    debug!(%error, "a path broke");
                    return;
                }
            },
        };
        match header.kind {
            Kind::Handshake => return Box::pin(serve_handshake(&shared, &frame[HEADER_LEN..], joined, link)).await,
            Kind::Open | Kind::Attach => {
                // Once: the thread that was better when it was read is good enough.
                if load.is_none()
                    && let Some(worker) = shared.workers.better()
                {
                    let load = shared.workers.begin_on(worker);
                    let path = Path { link, joined, permit, carried, read: Some(Box::new((header, frame, load))) };
                    return shared.spawn_waiting(Some(worker), "path", moved(Arc::clone(&shared), path));
                }
                if let Some((channel, stream)) = carried.take() {
                    channel.forget_ended(stream);
                }
                let load = load.or_else(|| shared.workers.begin());
                // Each in an allocation of its own: a stream that is carried holds nothing of how it was opened, nor does an idle path.
                let carrying = match Box::pin(begin(&shared, header.kind, frame, link)).await {
                    Some(begun) => Box::pin(carry(&shared, Box::new(begun))),
                    None => return,
                };
                let Some(Carried { channel, stream, path }) = carrying.await else { return };
                drop(load);
                (link, carried) = (path, Some((channel, stream)));
            }
            Kind::Data | Kind::Control | Kind::NoChannel => {
                debug!(kind = ?header.kind, "a path began with a frame that cannot begin anything");
                return;
            }
        }
        patience = PATH_IDLE + FIRST_FRAME;
    }
}

/// Goes on with a path on another thread.
// No `async fn`: its type would hold itself. And nothing around the future, which would take its room twice.
fn moved(shared: Arc<Shared>, path: Path) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(serve_path(shared, path))
}

async fn serve_handshake(shared: &Arc<Shared>, offer: &[u8], joined: Option<(Identifier, InstanceId)>, link: Link) {
    let load = shared.workers.begin();
    let answered = Box::pin(channel::answer(&shared.trust, offer, joined, link)).await;
    drop(load);
    match answered {
        Ok((channel, control)) => {
            shared.metrics.handshake(Part::Responder, true);
            info!(peer = %channel.peer(), channel = %channel.id(), "a peer made a channel");
            forget_earlier_runs(shared, &channel);
            shared.peers.accepted(Arc::clone(&channel));
            shared.run_control(channel, control).await;
        }
        Err(error) => {
            shared.metrics.handshake(Part::Responder, false);
            match error {
                ChannelError::Link(error) => debug!(%error, "a peer's handshake was not finished"),
                error => shared.refusals.note(Refusal {
                    id: RefusalId::random(),
                    at: shared.trust.now(),
                    by: By::Us,
                    through: None,
                    outlet: None,
                    peer: joined.map(|(identifier, _)| identifier),
                    code: match error {
                        ChannelError::Trust(_) => code::CREDENTIAL,
                        ChannelError::Mispaired { .. } | ChannelError::OtherRun(_) => code::MISPAIRED,
                        _ => code::HANDSHAKE,
                    },
                    told: None,
                    reason: format!("a peer's channel was refused: {error}"),
                    denial: None,
                }),
            }
        }
    }
}

/// A node runs once at a time: whatever lives of an earlier run than the one that made `channel` will never be brought another path.
fn forget_earlier_runs(shared: &Shared, channel: &Channel) {
    let (node, run) = channel.peer_instance();
    shared.live.review(|other, _, _| {
        let (other_node, other_run) = other.peer_instance();
        (other.peer() == channel.peer() && other_node == node && other_run != run).then_some(ResetCode::LinkLost)
    });
}

/// A stream that has ended cleanly, and the path that can carry another one.
pub(super) struct Carried {
    channel: Arc<Channel>,
    stream: u64,
    path: Link,
}

/// A stream that its opener has proven.
struct Opened {
    channel: Arc<Channel>,
    id: u64,
    stream: Stream,
    open: Open,
}

/// A stream whose target was reached.
pub(super) struct Begun {
    opened: Opened,
    application: TcpStream,
    link: Link,
    live: LiveGuard,
    /// Dropped behind `live`: a stream that is counted as closed lives no more.
    counted: Counted,
    _dial: Option<Dial>,
    _place: OwnedSemaphorePermit,
}

/// The target of a stream.
struct Reached {
    application: TcpStream,
    dial: Option<Dial>,
    place: OwnedSemaphorePermit,
}

/// Does what the frame that opens or attaches a stream asks for; gives the stream, where it is one that is to be carried now.
async fn begin(shared: &Arc<Shared>, kind: Kind, frame: Vec<u8>, link: Link) -> Option<Begun> {
    match kind {
        Kind::Open => serve_open(shared, frame, link).await,
        _ => serve_attach(shared, frame, link).await,
    }
}

async fn serve_open(shared: &Arc<Shared>, mut frame: Vec<u8>, mut link: Link) -> Option<Begun> {
    let head = OpenHead::of_frame(&frame)?;
    let Some(channel) = shared.peers.by_id(head.channel) else {
        no_channel(&mut link).await;
        return None;
    };
    // A repeated id has no keys left to answer with; closing the path is the only answer that cannot repeat a nonce.
    match channel.accept_open(head, &mut frame) {
        Ok((stream, open)) => serve_stream(shared, Opened { channel, id: head.stream, stream, open }, link).await,
        Err(error) => {
            unanswerable(shared, &channel, head.stream, &error);
            None
        }
    }
}

async fn serve_attach(shared: &Arc<Shared>, mut frame: Vec<u8>, mut link: Link) -> Option<Begun> {
    let head = AttachHead::of_frame(&frame)?;
    let id = head.head.stream;
    let Some(channel) = shared.peers.by_id(head.head.channel) else {
        no_channel(&mut link).await;
        return None;
    };
    match channel.accept_attach(head, &mut frame) {
        Ok(Attached::Live(signal, attachment)) => signal.send(Event::Path(link, Some(attachment))),
        Ok(Attached::Control(attachment)) => channel.attach_control(link, attachment),
        Ok(Attached::Over(ended)) => {
            // The path is closed next; who does not read this asks again.
            let _ = link.write_all(&ended, ANSWER_DEADLINE).await;
        }
        Ok(Attached::Unseen(stream, open)) => {
            return serve_stream(shared, Opened { channel, id, stream: *stream, open }, link).await;
        }
        Ok(Attached::Unknown) => no_channel(&mut link).await,
        Err(error) => unanswerable(shared, &channel, id, &error),
    }
    None
}

/// An open or attach that there is no answer to. Whoever makes them without end is counted, like everybody who is refused. It is the peer's
/// only where nobody else can have said it: whoever is on the way can change, and repeat, what it said.
fn unanswerable(shared: &Shared, channel: &Channel, stream: u64, error: &OpenError) {
    if matches!(error, OpenError::GivenUp) {
        return debug!(peer = %channel.peer(), stream, "an open came behind the word that its stream was given up");
    }
    shared.refusals.note(Refusal {
        id: RefusalId::random(),
        at: shared.trust.now(),
        by: By::Us,
        through: None,
        outlet: None,
        peer: matches!(error, OpenError::Malformed).then(|| channel.peer()),
        code: code::STREAM_ID,
        told: None,
        reason: format!("stream {stream} was asked for in a way that has no answer: {error}"),
        denial: None,
    });
}

/// Judges a stream, reaches its target, and answers where it was not.
async fn serve_stream(shared: &Arc<Shared>, opened: Opened, mut link: Link) -> Option<Begun> {
    let Opened { channel, id, mut stream, open } = opened;
    // It counts, and a change of policies or credentials reaches it, from before it is judged: nothing falls in between, however
    // long the target takes.
    let live = shared.live.enter(&channel, id, Through::Outlet(open.outlet.clone()));
    // Where an attach brought the open, it is answered before the target is.
    flush(&mut stream, &mut link).await;
    let reached = {
        let reach = reach(shared, &channel, &open);
        tokio::pin!(reach);
        loop {
            tokio::select! {
                biased;
                event = live.signal.next() => match event {
                    Event::Kill(_) => {
                        let reason = "it was no longer allowed when its target was reached";
                        break Err(Refused::new(code::DENIED, RejectCode::NotAvailable, reason));
                    }
                    Event::Reset(reset) => {
                        if !open.probe {
                            let cause = Cause::of(&End::ResetByPeer(reset));
                            written(shared, &channel, id, &open).ended(cause.as_str(), (0, 0));
                        }
                        return None;
                    }
                    Event::Path(path, Some(attachment)) => {
                        if let Ok(path) = path.adopted()
                            && stream.attach(attachment).is_ok()
                        {
                            link = path;
                            flush(&mut stream, &mut link).await;
                        }
                    }
                    Event::Path(_, None) | Event::NoPath(_) => {}
                },
                reached = &mut reach => break reached,
            }
        }
    };
    let Reached { application, dial, place } = match reached {
        Ok(reached) => reached,
        Err(refused) => {
            let outlet = shared.outlet(&open.outlet);
            let reject = refused.as_told(outlet.as_ref());
            channel.remember(id, stream.attach_number(), Control::Reject(Box::new(reject.clone())), RESUME_TIMEOUT);
            stream.reject(reject.clone());
            flush(&mut stream, &mut link).await;
            if !open.probe {
                let mut written = written(shared, &channel, id, &open);
                written.refused(refused.code.as_str(), Some(reject.id));
                written.ended("refused", (0, 0));
            }
            // Behind the answer: how long it takes tells the peer nothing.
            refused.note(shared, &channel, &open, outlet.as_ref(), &reject);
            return None;
        }
    };
    stream.accept();
    if open.probe {
        drop((dial, application));
        flush(&mut stream, &mut link).await;
        return None;
    }
    let mut counted = shared.metrics.of(Through::Outlet(open.outlet.clone())).open();
    counted.written = Some(written(shared, &channel, id, &open));
    Some(Begun { opened: Opened { channel, id, stream, open }, application, link, live, counted, _dial: dial, _place: place })
}

/// What is written down of stream `id`.
fn written(shared: &Shared, channel: &Channel, id: u64, open: &Open) -> Box<OpenStream> {
    let outlet = open.outlet.as_str();
    let mut written = shared.stream_log.open(Side::Outlet, outlet, outlet, shared.trust.identifier);
    written.with(channel.id(), id, channel.peer());
    written
}

/// Why a stream is not opened.
struct Refused {
    code: Code,
    /// What the peer is told where the outlet discloses codes.
    reject: RejectCode,
    reason: String,
    denial: Option<Box<Denial>>,
}

impl Refused {
    fn new(code: Code, reject: RejectCode, reason: impl Into<String>) -> Self {
        Self { code, reject, reason: reason.into(), denial: None }
    }

    /// As much of it as `outlet` discloses, under a new id. An outlet that is not there discloses nothing.
    fn as_told(&self, outlet: Option<&OutletSpec>) -> Reject {
        let id = RefusalId::random();
        match (outlet.map_or(Disclose::Nothing, |outlet| outlet.disclose), &self.denial, self.reject) {
            // What is said of the whole node, to a peer that may use the outlet.
            (_, None, reject @ (RejectCode::ShuttingDown | RejectCode::Busy)) => Reject::new(reject, id),
            (Disclose::Nothing, ..) => Reject::new(RejectCode::NotAvailable, id),
            (Disclose::Code, _, reject) => Reject::new(reject, id),
            (Disclose::Reason, Some(denial), _) => Reject::new(RejectCode::Denied, id).because(&denial.to_string()),
            (Disclose::Reason, None, reject) if self.code == code::CREDENTIAL => Reject::new(reject, id).because(&self.reason),
            (Disclose::Reason, None, reject) => Reject::new(reject, id),
        }
    }

    /// Keeps it, counts it and logs it.
    fn note(self, shared: &Shared, channel: &Channel, open: &Open, outlet: Option<&OutletSpec>, reject: &Reject) {
        let through = outlet.map(|outlet| Through::Outlet(outlet.name.clone()));
        shared.metrics.refuse(through.clone(), self.code);
        shared.refusals.note(Refusal {
            id: reject.id,
            at: shared.trust.now(),
            by: By::Us,
            through,
            outlet: Some(open.outlet.to_string()),
            peer: Some(channel.peer()),
            code: self.code,
            told: Some(reject.code.as_str()),
            reason: self.reason,
            denial: self.denial.map(|denial| *denial),
        });
    }
}

/// Decides about an open and dials the outlet's target. An unknown outlet and a denied one take the same steps and give the same
/// code; only this node's log tells them apart.
async fn reach(shared: &Shared, channel: &Channel, open: &Open) -> Result<Reached, Refused> {
    // One whose member was changed just now shows its newer credential first.
    channel.settled().await;
    let outlet = shared.outlet(&open.outlet);
    let credential = channel.credential();
    let resource = Resource::outlet(open.outlet.as_str(), outlet.as_ref().and_then(|outlet| outlet.allow.as_ref()));
    let decision = shared.decide(&resource, &credential);
    if let Err(error) = shared.trust.recheck(&credential) {
        let reason = format!("the peer's credential is no longer good: {error}");
        return Err(Refused::new(error.code(), RejectCode::NotAvailable, reason));
    }
    let Some(outlet) = &outlet else {
        return Err(Refused::new(code::NO_SUCH_OUTLET, RejectCode::NotAvailable, "there is no such outlet here"));
    };
    if let Err(denial) = decision {
        let reason = format!("the outlet's policy does not allow the peer: {denial}");
        return Err(Refused { denial: Some(denial), ..Refused::new(code::DENIED, RejectCode::NotAvailable, reason) });
    }
    if shared.draining.load(Ordering::Relaxed) {
        return Err(Refused::new(code::SHUTTING_DOWN, RejectCode::ShuttingDown, "this node is being stopped"));
    }
    if shared.dialled.hops_of(open) >= MAX_HOPS {
        let reason = format!("the connection has passed {MAX_HOPS} portals already: their outlets lead to inlets in a circle");
        return Err(Refused::new(code::LOOP, RejectCode::Loop, reason));
    }
    let peer = channel.peer();
    let place = Some(()).filter(|()| shared.live.of_peer(peer) <= shared.places.of_peer()).and_then(|()| shared.places.take());
    let Some(place) = place else {
        return Err(Refused::new(code::BUSY, RejectCode::Busy, "too many live streams"));
    };
    let application = outlet_target::reach(shared, outlet)
        .await
        .map_err(|Unreached { code, reject, reason }| Refused::new(code, reject, reason))?;
    let dial = shared.dialled.enter(&application, open);
    Ok(Reached { application, dial, place })
}

/// Writes what the stream has to say. A path that does not take it is lost, which is found out when it is read.
async fn flush(stream: &mut Stream, link: &mut Link) {
    let mut out = Vec::new();
    if stream.poll_transmit(&mut out).is_ok_and(|any| any)
        && let Err(error) = link.write_all(&out, ANSWER_DEADLINE).await
    {
        debug!(%error, "an answer was not taken");
    }
}

/// Carries one stream to its end. What it is handed stays where it stands: an argument takes its room twice in a future.
pub(super) async fn carry(shared: &Shared, mut begun: Box<Begun>) -> Option<Carried> {
    let (channel, id, stream) = (&begun.opened.channel, begun.opened.id, &mut begun.opened.stream);
    let (peer, outlet) = (channel.peer(), &begun.opened.open.outlet);
    debug!(%peer, %outlet, stream = id, "stream opened");
    let patience = shared.outlet(outlet).map_or(RESUME_TIMEOUT, |outlet| outlet.resume_timeout.get());
    let pump = Pump {
        stream,
        application: &begun.application,
        link: begun.link,
        signal: &begun.live.signal,
        resume: None,
        patience,
        resumed: &shared.metrics.resumes,
        counted: &mut begun.counted,
        held: shared.holdings.of(peer),
        early: Early::default(),
    };
    let Outcome { end, path, .. } = pump::run(pump, Vec::new()).await;
    let stream = &begun.opened.stream;
    let (sent, received) = stream.bytes();
    begun.counted.ended(&end, (sent, received));
    let how = match end {
        End::Clean => {
            debug!(%peer, %outlet, stream = id, sent, received, "stream ended");
            channel.remember(id, stream.attach_number(), Control::Finished { count: stream.sent() }, patience);
            return path.map(|path| Carried { channel: Arc::clone(channel), stream: id, path });
        }
        End::Reset { code } => {
            if matches!(code, ResetCode::Policy | ResetCode::Credential) {
                warn!(%peer, %outlet, stream = id, reason = %code, "a live stream was cut");
            } else {
                debug!(%peer, %outlet, stream = id, sent, received, reason = %code, "stream broke");
            }
            channel.say_reset(id, code);
            code
        }
        End::PathLost { error } => {
            warn!(%peer, %outlet, stream = id, sent, received, %error, "a stream lost its path, and the peer brought no other one in time");
            channel.say_reset(id, ResetCode::LinkLost);
            ResetCode::LinkLost
        }
        other => {
            debug!(%peer, %outlet, stream = id, sent, received, end = ?other, "stream broke");
            if matches!(other, End::Protocol(_)) {
                channel.say_reset(id, ResetCode::Protocol);
            }
            ResetCode::Protocol
        }
    };
    channel.remember(id, stream.attach_number(), Control::Reset(how), patience);
    reset_application(begun.application);
    None
}

/// Says that a channel is not known here. Not authenticated; the peer makes a new channel.
async fn no_channel(link: &mut Link) {
    let frame = Header { kind: Kind::NoChannel, length: 0 }.to_bytes();
    // The path is closed next; who does not read this finds that out too.
    let _ = link.write_all(&frame, ANSWER_DEADLINE).await;
}
