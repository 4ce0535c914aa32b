//! A channel: the end-to-end session between two nodes. Streams take their keys from it; its control stream carries both sides'
//! credentials.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use minicbor::{Decode, Encode};
use postern_proto::channel::{ChannelSecret, Side as Part};
use postern_proto::credential::VerifiedCredential;
use postern_proto::handshake::{Finished, HandshakeError, Initiator, KeyExchange, Label, Responder};
use postern_proto::id::{ChannelId, CredentialId, Identifier, InstanceId, NodeId, RefusalId, StaticPublic};
use postern_proto::path::{
    AttachHead, ChannelMessage, ChannelMessageError, ChannelMessages, Open, OpenHead, frame_channel_message,
};
use postern_proto::record::{self, HEADER_LEN, Header, Kind, MAX_BODY, OVERHEAD, PREFIX_LEN, ResetCode};
use postern_proto::replay::{NotOnce, OnceWindow};
use postern_proto::stream::{Attachment, ControlKeys, Outbox, Received, Side, Stream, StreamError, StreamKeys};
use postern_runtime::bucket::Bucket;
use postern_runtime::session::preferred_choice;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::attach::{self, RESUME_TIMEOUT};
use super::link::{Link, LinkError};
use super::live::{Event, Signal};
use super::shared::Shared;
use super::trust::{OwnCredentials, PublishedPeer, Trust, TrustError};

/// A handshake that takes longer is given up (`docs/protocol/handshake.md`).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// A peer whose credential became void, because its member was changed, has so long to show its newer one before its streams end.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(1);

/// A channel that carried no stream for so long is closed.
const IDLE_CLOSE: Duration = Duration::from_secs(300);

/// New streams go to a new channel after so long, so that old secrets go away.
const GENERATION: Duration = Duration::from_secs(3600);

/// How long a joined path waits for its next stream.
pub const PATH_IDLE: Duration = Duration::from_secs(60);

/// Most joined paths that wait for their next stream, per channel.
const MAX_IDLE_PATHS: usize = 256;

/// Most ended streams that a channel remembers, and most resets that wait to be said.
const MAX_ENDED: usize = 4096;

/// Messages of a control stream that make work (credentials, and requests for ours) at once, and one more a second after. A peer
/// renews hourly.
const COSTLY_MESSAGES: u32 = 8;

/// Refusals that a peer may tell of at once, and then one more in this time: as many as somebody looks at. What is told beyond is not heard;
/// each costs a look through those that are kept.
const TOLD_REFUSALS: u32 = 256;
const TOLD_EVERY: Duration = Duration::from_millis(50);

/// How long a small write on a control stream may take; paths are always read, so only a dead one is slower.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// Payload of handshake message 3 of a channel.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct ChannelHello {
    #[cbor(n(0), with = "minicbor::bytes")]
    credential: Vec<u8>,
    #[n(1)]
    node_id: NodeId,
    #[n(2)]
    instance: InstanceId,
}

/// Why a channel was not made, or broke.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("this node has no credential yet")]
    NoCredential,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the handshake with the peer failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the peer's credential was refused: {0}")]
    Trust(#[from] TrustError),
    #[error("the peer sent something else than a channel's handshake")]
    Unexpected,
    #[error("the peer broke the protocol: {0}")]
    Stream(#[from] StreamError),
    #[error("the peer broke the protocol: {0}")]
    Message(#[from] ChannelMessageError),
    #[error("the peer is {found}, but the relay joined {expected}")]
    Mispaired { expected: Identifier, found: Identifier },
    #[error("the peer sends credentials, or asks for ours, without end")]
    TooManyMessages,
    #[error("the channel was closed")]
    Closed,
}

/// Why an open was not taken. There is no answer to any of these: nothing shows that its keys are unused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("it is not sealed by the channel's peer: {0}")]
    Stream(#[from] StreamError),
    #[error(transparent)]
    NotOnce(#[from] NotOnce),
    #[error("the peer broke the protocol: an open that cannot be read")]
    Malformed,
}

/// Most refusals that wait to be said: they are for the peer's log, where more of the same would say nothing.
const MAX_REFUSALS: usize = 16;

/// That this node's policy refused the peer.
struct SaidRefusal {
    id: RefusalId,
    stream: Option<u64>,
    reason: Option<String>,
}

/// A path that waits for its next stream.
struct IdlePath {
    link: Link,
    since: Instant,
}

/// How a stream of the peer's ended.
struct Ended {
    id: u64,
    /// The last attach that was answered; one with a lower number is answered by nothing, or a nonce would be used twice.
    attach: u64,
    how: record::Control,
    /// Nobody asks after that any more.
    until: Instant,
}

/// The streams of a channel.
#[derive(Default)]
struct Streams {
    live: HashMap<u64, Arc<Signal>>,
    /// Streams of the peer's, the oldest first.
    ended: VecDeque<Ended>,
}

/// What a peer's attach turned out to be for.
pub enum Attached {
    /// A stream that lives here.
    Live(Arc<Signal>, Attachment),
    /// A stream that has ended: the answer.
    Over(Vec<u8>),
    /// A stream whose open never arrived.
    Unseen(Box<Stream>, Open),
    /// The channel's control stream.
    Control(Attachment),
    /// A stream of which nothing is known any more.
    Unknown,
}

/// One generation of the session between this node and a run of another.
pub struct Channel {
    id: ChannelId,
    part: Part,
    exchange: KeyExchange,
    secret: ChannelSecret,
    /// This side's static key in it.
    own_static: StaticPublic,
    peer: Identifier,
    peer_node: NodeId,
    peer_instance: InstanceId,
    /// The peer's newest credential.
    credential: RwLock<VerifiedCredential>,
    /// Ids of streams that this side opens.
    next_stream: AtomicU64,
    /// Ids of streams that the peer opened.
    opened: Mutex<OnceWindow>,
    idle: Mutex<Vec<IdlePath>>,
    streams: Mutex<Streams>,
    /// The way to the task of the control stream.
    control: Signal,
    /// Resets that the control stream has to say.
    resets: Mutex<Vec<(u64, ResetCode)>>,
    /// Refusals that it has to say.
    refusals: Mutex<Vec<SaidRefusal>>,
    resets_wait: Notify,
    /// Since when the peer is to show a newer credential, the one that it showed being void.
    newer_wanted: Mutex<Option<Instant>>,
    /// The peer is to be asked for it.
    asks: Notify,
    /// The peer showed it.
    renewed: Notify,
    created: Instant,
    closed: CancellationToken,
}

impl Channel {
    fn new(
        part: Part,
        finished: Finished,
        own_static: StaticPublic,
        peer: (NodeId, InstanceId),
        credential: VerifiedCredential,
    ) -> Arc<Self> {
        let Finished { secret, exchange, .. } = finished;
        Arc::new(Self {
            exchange,
            id: secret.id(),
            part,
            secret,
            own_static,
            peer: credential.subject(),
            peer_node: peer.0,
            peer_instance: peer.1,
            credential: RwLock::new(credential),
            // Even ids for the initiator, odd ones for the responder; 0 is the control stream.
            next_stream: AtomicU64::new(match part {
                Part::Initiator => 2,
                Part::Responder => 1,
            }),
            opened: Mutex::default(),
            idle: Mutex::default(),
            streams: Mutex::default(),
            control: Signal::default(),
            resets: Mutex::default(),
            refusals: Mutex::default(),
            resets_wait: Notify::new(),
            newer_wanted: Mutex::default(),
            asks: Notify::new(),
            renewed: Notify::new(),
            created: Instant::now(),
            closed: CancellationToken::new(),
        })
    }

    #[must_use]
    pub const fn id(&self) -> ChannelId {
        self.id
    }

    /// How the two nodes agreed on keys.
    #[must_use]
    pub const fn exchange(&self) -> KeyExchange {
        self.exchange
    }

    #[must_use]
    pub const fn peer(&self) -> Identifier {
        self.peer
    }

    #[must_use]
    pub const fn peer_instance(&self) -> (NodeId, InstanceId) {
        (self.peer_node, self.peer_instance)
    }

    /// The static key that this node has in it.
    #[must_use]
    pub const fn own_static(&self) -> StaticPublic {
        self.own_static
    }

    /// The peer's newest credential; it may have expired since.
    #[must_use]
    pub fn credential(&self) -> VerifiedCredential {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The peer's credential is void because its member was changed: asks for its newer one.
    pub fn want_newer(&self) {
        lock(&self.newer_wanted).get_or_insert_with(Instant::now);
        self.asks.notify_one();
    }

    /// When the peer has had its time to show a newer credential; `None` where none is wanted, or that time has passed.
    fn newer_until(&self) -> Option<Instant> {
        lock(&self.newer_wanted).map(|since| since + RENEWAL_GRACE).filter(|until| Instant::now() < *until)
    }

    /// Whether the peer's credential is good, or void for a moment only, until its newer one is here.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, trust: &Trust) -> Result<(), TrustError> {
        match trust.recheck(&self.credential()) {
            Err(error) if error.wants_newer() && self.newer_until().is_some() => Ok(()),
            checked => checked,
        }
    }

    /// Returns once the peer has shown the newer credential that is wanted of it, if one is, or has had its time to.
    pub async fn settled(&self) {
        let renewed = self.renewed.notified();
        tokio::pin!(renewed);
        renewed.as_mut().enable();
        if let Some(until) = self.newer_until() {
            let _ = tokio::time::timeout_at(until, renewed).await;
        }
    }

    #[must_use]
    pub const fn created(&self) -> Instant {
        self.created
    }

    /// Ends the channel for new streams, and its control stream.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether new streams may go over this channel.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        !self.closed.is_cancelled() && self.created.elapsed() < GENERATION
    }

    pub(super) fn stream_began(&self, id: u64, signal: Arc<Signal>) {
        lock(&self.streams).live.insert(id, signal);
    }

    pub(super) fn stream_ended(&self, id: u64) {
        lock(&self.streams).live.remove(&id);
    }

    /// Returns once there was no stream for long enough, which is as long as a stream waits for a path.
    async fn forsaken(&self) {
        loop {
            tokio::time::sleep(RESUME_TIMEOUT).await;
            // Each of them gives up by itself, when its own patience ends.
            if lock(&self.streams).live.is_empty() {
                return;
            }
        }
    }

    /// Remembers how a stream of the peer's ended, for a peer that lost its path before it knew. `attach` is the number of the last
    /// attach that was answered; `patience` is how long the peer may look for another path, if it does so for longer than is usual.
    pub fn remember(&self, id: u64, attach: u64, ended: record::Control, patience: Duration) {
        let now = Instant::now();
        let ended_streams = &mut lock(&self.streams).ended;
        while ended_streams.front().is_some_and(|oldest| now >= oldest.until) || ended_streams.len() >= MAX_ENDED {
            ended_streams.pop_front();
        }
        ended_streams.push_back(Ended { id, attach, how: ended, until: now + patience.max(RESUME_TIMEOUT) });
    }

    /// The path that carried stream `id` carries the next one, so its end is known.
    pub fn forget_ended(&self, id: u64) {
        let ended = &mut lock(&self.streams).ended;
        if let Some(at) = ended.iter().rposition(|ended| ended.id == id) {
            ended.remove(at);
        }
    }

    /// Says on the control stream that a stream was given up: its own path may have lost the word for it.
    pub fn say_reset(&self, id: u64, code: ResetCode) {
        let mut resets = lock(&self.resets);
        if resets.len() < MAX_ENDED {
            resets.push((id, code));
        }
        drop(resets);
        self.resets_wait.notify_one();
    }

    /// Says on the control stream that this node's policy refused the peer: what no reject says. Not while many wait to be said.
    pub fn say_refused(&self, id: RefusalId, stream: Option<u64>, reason: Option<String>) {
        let mut refusals = lock(&self.refusals);
        if refusals.len() < MAX_REFUSALS {
            refusals.push(SaidRefusal { id, stream, reason: reason.map(|reason| record::bounded_reason(&reason)) });
        }
        drop(refusals);
        self.resets_wait.notify_one();
    }

    /// The peer said on the control stream that it has given stream `id` up.
    pub(super) fn reset_by_peer(&self, id: u64, code: u8) {
        let Some(code) = ResetCode::from_wire(code) else { return };
        let signal = lock(&self.streams).live.get(&id).cloned();
        match signal {
            Some(signal) => signal.send(Event::Reset(code)),
            // Its open may be on the way still, and must not reach a target any more. One that has ended has used its id already.
            None if !self.is_own(id) => drop(lock(&self.opened).take(id)),
            None => {}
        }
    }

    /// Whether stream `id` is one that this side opens.
    const fn is_own(&self, id: u64) -> bool {
        matches!(self.part, Part::Initiator) == id.is_multiple_of(2)
    }

    /// Keys of the control records of stream `id` on the path of attach number `attach`.
    #[must_use]
    pub fn control_keys(&self, id: u64, attach: u64) -> ControlKeys {
        ControlKeys::derive(&self.secret, id, self.part, attach)
    }

    /// What the peer's attach `frame`, which begins with `head`, is for.
    ///
    /// # Errors
    /// [`OpenError`]. There is no answer to any of these.
    pub fn accept_attach(&self, head: AttachHead, frame: &mut [u8]) -> Result<Attached, OpenError> {
        let id = head.head.stream;
        if self.is_own(id) {
            return Err(NotOnce::Used.into());
        }
        let attachment = Attachment::verify(&self.control_keys(id, head.attach), head, frame)?;
        if id == 0 {
            return Ok(Attached::Control(attachment));
        }
        let mut streams = lock(&self.streams);
        if let Some(signal) = streams.live.get(&id) {
            return Ok(Attached::Live(Arc::clone(signal), attachment));
        }
        if let Some(ended) = streams.ended.iter_mut().rfind(|ended| ended.id == id) {
            if head.attach <= ended.attach {
                return Err(StreamError::AttachOld { attach: head.attach, last: ended.attach }.into());
            }
            ended.attach = head.attach;
            let how = ended.how.clone();
            drop(streams);
            return Ok(Attached::Over(attachment.refuse(how)?));
        }
        drop(streams);
        let Some(open) = attachment.open().cloned() else { return Ok(Attached::Unknown) };
        if lock(&self.opened).take(id).is_err() {
            return Ok(Attached::Unknown);
        }
        let mut stream = Stream::new(Side::Acceptor, StreamKeys::derive(&self.secret, id, self.part));
        stream.attach(attachment)?;
        Ok(Attached::Unseen(Box::new(stream), open))
    }

    /// The peer brings another path for the control stream.
    pub fn attach_control(&self, link: Link, attachment: Attachment) {
        self.control.send(Event::Path(link, Some(attachment)));
    }

    /// A new stream of this side, with its id.
    #[must_use]
    pub fn open_stream(&self) -> (u64, Stream) {
        let id = self.next_stream.fetch_add(2, Ordering::Relaxed);
        (id, Stream::new(Side::Opener, StreamKeys::derive(&self.secret, id, self.part)))
    }

    /// The stream that the peer opens with `frame`, which begins with `head`, and what it asks for.
    ///
    /// An id is taken, once ever, only after the peer has proven that it is its own: a stranger who has seen the channel's id on the
    /// way could use up all of them otherwise.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn accept_open(&self, head: OpenHead, frame: &mut [u8]) -> Result<(Stream, Open), OpenError> {
        if self.is_own(head.stream) {
            return Err(NotOnce::Used.into());
        }
        let mut stream = Stream::new(Side::Acceptor, StreamKeys::derive(&self.secret, head.stream, self.part));
        let text = stream.open_open(OpenHead::LEN, frame)?;
        let open = minicbor::decode(text).map_err(|_| OpenError::Malformed)?;
        lock(&self.opened).take(head.stream)?;
        Ok((stream, open))
    }

    /// A joined path that waits for a stream, if there is one that still stands.
    pub fn take_idle(&self) -> Option<Link> {
        let mut idle = lock(&self.idle);
        while !idle.is_empty() {
            // One of this thread's own, if there is one.
            let at = idle.iter().rposition(|path| path.link.is_at_home()).unwrap_or(idle.len() - 1);
            let path = idle.remove(at);
            // The far side closes at the same age; a path that is about to go would lose the race.
            if path.since.elapsed() < PATH_IDLE - Duration::from_secs(5)
                && path.link.is_usable()
                && let Ok(link) = path.link.adopted()
            {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a path for the next stream.
    pub fn give_idle(&self, link: Link) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest stand first; what is too old goes with the next that comes.
        idle.retain(|path| path.since.elapsed() < PATH_IDLE);
        if idle.len() < MAX_IDLE_PATHS && !self.closed.is_cancelled() {
            idle.push(IdlePath { link, since: Instant::now() });
        }
    }

    /// How many joined paths wait for a stream.
    #[must_use]
    pub fn idle_paths(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn forget_idle(&self, older_than: Duration) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| path.since.elapsed() < older_than);
    }
}

/// Makes a channel to `peer` over a fresh path, which becomes the path of its control stream.
///
/// The peer's credential arrives as the first message of the control stream; it must be of the identity that look-up named.
///
/// # Errors
/// [`ChannelError`].
pub async fn dial(trust: &Trust, peer: &PublishedPeer, mut link: Link) -> Result<(Arc<Channel>, Control), ChannelError> {
    let own = trust.own().ok_or(ChannelError::NoCredential)?;
    // The key that the credentials are for: a newer one has none for a moment.
    let key = trust.key_of(&own).ok_or(ChannelError::NoCredential)?;
    let (initiator, offer) = Initiator::new(Label::Channel, preferred_choice(), &key, peer.static_key)?;
    write_handshake(&mut link, &offer).await?;
    let (answered, _) = initiator.read_answer(&read_handshake(&mut link).await?)?;
    let hello = ChannelHello { credential: own.member.bytes().to_vec(), node_id: trust.node_id, instance: trust.instance };
    let (message, finished) = answered.finish(&minicbor::to_vec(&hello).map_err(|_| ChannelError::Unexpected)?)?;
    write_handshake(&mut link, &message).await?;
    let stream = Stream::new(Side::Opener, StreamKeys::derive(&finished.secret, 0, Part::Initiator));
    let mut wire = Wire::new(link, stream);
    let credential = match tokio::time::timeout(HANDSHAKE_DEADLINE, wire.receive()).await {
        Ok(Ok(ChannelMessage::Credential { credential })) => trust.verify_member(&credential, finished.remote_static)?,
        Ok(Ok(_)) => return Err(ChannelError::Unexpected),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(LinkError::Timeout.into()),
    };
    if credential.subject() != peer.identifier {
        return Err(ChannelError::Mispaired { expected: peer.identifier, found: credential.subject() });
    }
    let control = Control { wire, own: trust.watch_own(), shown: Some(own.member.id()) };
    Ok((Channel::new(Part::Initiator, finished, key.public(), (peer.node_id, peer.instance), credential), control))
}

/// Answers the handshake whose first message is `offer`. `joined` is whom the relay says that it joined, if a relay did.
///
/// # Errors
/// [`ChannelError`].
pub async fn answer(
    trust: &Trust,
    offer: &[u8],
    joined: Option<(Identifier, InstanceId)>,
    mut link: Link,
) -> Result<(Arc<Channel>, Control), ChannelError> {
    // Without a credential of its own, this node has nothing to answer with.
    trust.own().ok_or(ChannelError::NoCredential)?;
    let statics = trust.statics.all();
    let responder = match Responder::read_offer(Label::Channel, offer, &statics.iter().collect::<Vec<_>>()) {
        Ok(responder) => responder,
        Err(error) => {
            if let Some(reply) = error.reply() {
                write_handshake(&mut link, &reply).await?;
            }
            return Err(error.into());
        }
    };
    drop(statics);
    let own_static = responder.local_static();
    let (answered, message) = responder.answer(&[])?;
    write_handshake(&mut link, &message).await?;
    let (finished, payload) = answered.read_final(&read_handshake(&mut link).await?)?;
    let hello: ChannelHello = minicbor::decode(&payload).map_err(|_| ChannelError::Unexpected)?;
    let credential = trust.verify_member(&hello.credential, finished.remote_static)?;
    if let Some((expected, _)) = joined.filter(|joined| *joined != (credential.subject(), hello.instance)) {
        return Err(ChannelError::Mispaired { expected, found: credential.subject() });
    }
    let mut stream = Stream::new(Side::Acceptor, StreamKeys::derive(&finished.secret, 0, Part::Responder));
    stream.accept();
    let wire = Wire::new(link, stream);
    let control = Control { wire, own: trust.watch_own(), shown: None };
    Ok((Channel::new(Part::Responder, finished, own_static, (hello.node_id, hello.instance), credential), control))
}

async fn write_handshake(link: &mut Link, body: &[u8]) -> Result<(), LinkError> {
    let mut frame = Header { kind: Kind::Handshake, length: body.len() }.to_bytes().to_vec();
    frame.extend_from_slice(body);
    link.write_all(&frame, HANDSHAKE_DEADLINE).await
}

async fn read_handshake(link: &mut Link) -> Result<Vec<u8>, ChannelError> {
    let (header, frame) = link.read_frame(HANDSHAKE_DEADLINE).await?;
    if header.kind != Kind::Handshake {
        return Err(ChannelError::Unexpected);
    }
    Ok(frame[HEADER_LEN..].to_vec())
}

/// The control stream of a channel.
pub struct Control {
    wire: Wire,
    own: watch::Receiver<Option<Arc<OwnCredentials>>>,
    /// The credential of this side that the peer has.
    shown: Option<CredentialId>,
}

/// A control stream's messages on the path that they travel on.
struct Wire {
    link: Link,
    stream: Stream,
    messages: ChannelMessages,
    /// What the peer has not acknowledged, to be said again on another path.
    outbox: Outbox<Vec<u8>>,
}

/// What happened on a control stream that others have to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEvent {
    /// The peer showed a newer credential.
    Renewed,
    /// The peer's credential is past its time.
    Expired,
    /// The peer's policy refused this node where no reject says so: `stream` was cut, or none was opened.
    Refused { id: RefusalId, stream: Option<u64>, reason: String },
}

impl Control {
    /// Runs the control stream until the channel is closed, by either side or because it was idle. Where this side
    /// dialled the channel, it brings it to another path when the one that it has is lost.
    ///
    /// # Errors
    /// [`ChannelError`]: the channel is closed for new streams; live ones go on.
    pub async fn run(
        mut self,
        shared: &Arc<Shared>,
        channel: &Channel,
        mut event: impl FnMut(ControlEvent),
    ) -> Result<(), ChannelError> {
        let ended = loop {
            let ended = self.serve(&shared.trust, channel, &mut event).await;
            let Err(ChannelError::Link(error)) = ended else { break ended };
            debug!(channel = %channel.id(), %error, "the control stream lost its path");
            if Box::pin(self.recover(shared, channel)).await.is_none() {
                break Err(ChannelError::Link(error));
            }
        };
        channel.close();
        channel.forget_idle(Duration::ZERO);
        match &ended {
            Ok(()) => debug!(channel = %channel.id(), "channel closed"),
            Err(error) => debug!(channel = %channel.id(), %error, "channel lost"),
        }
        ended
    }

    async fn serve(
        &mut self,
        trust: &Trust,
        channel: &Channel,
        event: &mut impl FnMut(ControlEvent),
    ) -> Result<(), ChannelError> {
        let mut used = Instant::now();
        let mut costly = COSTLY_MESSAGES;
        let mut told = Bucket::new(TOLD_REFUSALS, TOLD_EVERY, used.into_std());
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            self.show(trust, channel).await?;
            tokio::select! {
                () = channel.closed.cancelled() => {
                    return self.wire.send(&ChannelMessage::Close).await;
                }
                event = channel.control.next() => {
                    if let Event::Path(link, Some(attachment)) = event {
                        self.wire.attached(link, attachment).await?;
                    }
                }
                () = channel.resets_wait.notified() => {
                    let resets = std::mem::take(&mut *lock(&channel.resets));
                    for (stream, code) in resets {
                        self.wire.send(&ChannelMessage::Reset { stream, code: code as u8 }).await?;
                    }
                    let refusals = std::mem::take(&mut *lock(&channel.refusals));
                    for SaidRefusal { id, stream, reason } in refusals {
                        self.wire.send(&ChannelMessage::Refused { id, stream, reason }).await?;
                    }
                }
                () = channel.asks.notified() => self.wire.send(&ChannelMessage::WantCredential).await?,
                message = self.wire.receive() => match message? {
                    ChannelMessage::Credential { .. } | ChannelMessage::WantCredential if costly == 0 => {
                        return Err(ChannelError::TooManyMessages);
                    }
                    ChannelMessage::Credential { credential } => {
                        costly -= 1;
                        let newer = match trust.verify_member(&credential, channel.credential().static_key()) {
                            Ok(newer) => newer,
                            // The peer has not heard yet that it is void, and will show another one when it has.
                            Err(error) if error.wants_newer() => {
                                debug!(peer = %channel.peer(), %error, "the peer showed a void credential");
                                continue;
                            }
                            Err(error) => return Err(error.into()),
                        };
                        if newer.subject() != channel.peer() {
                            return Err(TrustError::OtherIdentity { expected: channel.peer(), found: newer.subject() }.into());
                        }
                        info!(peer = %channel.peer(), expires = %newer.expires(), "the peer renewed its credential");
                        *channel.credential.write().unwrap_or_else(PoisonError::into_inner) = newer;
                        *lock(&channel.newer_wanted) = None;
                        channel.renewed.notify_waiters();
                        event(ControlEvent::Renewed);
                    }
                    ChannelMessage::WantCredential => {
                        costly -= 1;
                        self.shown = None;
                    }
                    ChannelMessage::Reset { stream, code } => channel.reset_by_peer(stream, code),
                    ChannelMessage::Refused { .. } if !told.take(Instant::now().into_std()) => {}
                    ChannelMessage::Refused { id, stream, reason } => {
                        let reason = record::bounded_reason(&reason.unwrap_or_default());
                        event(ControlEvent::Refused { id, stream, reason });
                    }
                    ChannelMessage::Close => return Ok(()),
                },
                changed = self.own.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {
                    costly = COSTLY_MESSAGES.min(costly + 1);
                    channel.forget_idle(PATH_IDLE);
                    if !lock(&channel.streams).live.is_empty() {
                        used = Instant::now();
                    } else if used.elapsed() > IDLE_CLOSE {
                        channel.closed.cancel();
                    }
                    if channel.check(trust).is_err() {
                        event(ControlEvent::Expired);
                        channel.closed.cancel();
                    }
                    self.wire.stream.acknowledge();
                    self.wire.flush().await?;
                }
            }
        }
    }

    /// Brings the control stream to another path, or waits for one that the peer brings. `None` where there is none in time.
    async fn recover(&mut self, shared: &Arc<Shared>, channel: &Channel) -> Option<()> {
        let recovered = async {
            match channel.part {
                Part::Initiator => self.reattach(shared, channel).await,
                Part::Responder => loop {
                    if let Event::Path(link, Some(attachment)) = channel.control.next().await
                        && self.wire.attached(link, attachment).await.is_ok()
                    {
                        return Some(());
                    }
                },
            }
        };
        tokio::select! {
            () = channel.closed.cancelled() => None,
            recovered = recovered => recovered,
            () = channel.forsaken() => None,
        }
    }

    async fn reattach(&mut self, shared: &Arc<Shared>, channel: &Channel) -> Option<()> {
        for attempt in 0_u32.. {
            tokio::time::sleep(attach::delay(attempt)).await;
            let mut link = match shared.peers.path(shared, channel).await {
                Ok(link) => link,
                Err(failure) => {
                    debug!(channel = %channel.id(), %failure, "no path for the control stream yet");
                    continue;
                }
            };
            match self.wire.reattach(channel, &mut link).await {
                Ok(()) => {
                    debug!(channel = %channel.id(), "the control stream has another path");
                    self.wire.link = link;
                    return Some(());
                }
                Err(ChannelError::Link(error)) => debug!(channel = %channel.id(), %error, "the path was of no use"),
                // The peer does not know the channel any more, or speaks nonsense.
                Err(_) => return None,
            }
        }
        None
    }

    /// Says what no node of ours says.
    #[cfg(test)]
    pub async fn say(&mut self, message: &ChannelMessage) -> Result<(), ChannelError> {
        self.wire.send(message).await
    }

    /// Shows this side's credential, where the peer does not have the newest one.
    async fn show(&mut self, trust: &Trust, channel: &Channel) -> Result<(), ChannelError> {
        let Some(own) = trust.own() else { return Ok(()) };
        let Some(member) = own.member_for(channel.own_static()).filter(|member| self.shown != Some(member.id())) else {
            return Ok(());
        };
        self.shown = Some(member.id());
        self.wire.send(&ChannelMessage::Credential { credential: member.bytes().to_vec() }).await
    }
}

impl Wire {
    fn new(link: Link, stream: Stream) -> Self {
        Self { link, stream, messages: ChannelMessages::default(), outbox: Outbox::default() }
    }

    async fn send(&mut self, message: &ChannelMessage) -> Result<(), ChannelError> {
        for body in frame_channel_message(message).chunks(MAX_BODY) {
            let mut record = vec![0; OVERHEAD + body.len()];
            record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(body);
            self.stream.seal_data(&mut record)?;
            self.outbox.push_copy(&record);
        }
        self.flush().await
    }

    /// Writes what waits to be written: the accept of the responder's side goes first.
    async fn flush(&mut self) -> Result<(), ChannelError> {
        let mut out = Vec::new();
        self.stream.poll_transmit(&mut out)?;
        while !self.outbox.is_written() {
            let pending = self.outbox.pending();
            out.extend_from_slice(pending);
            let count = pending.len();
            // A path that takes it only in part is lost, and all of it is said again.
            self.outbox.advance(count);
        }
        if !out.is_empty() {
            self.link.write_all(&out, WRITE_DEADLINE).await?;
        }
        Ok(())
    }

    /// The next message. May be given up and called again: nothing is lost between the calls.
    async fn receive(&mut self) -> Result<ChannelMessage, ChannelError> {
        loop {
            if let Some(message) = self.messages.poll()? {
                return Ok(message);
            }
            // Longer than any silence that a living control stream may have.
            let (header, mut record) = self.link.read_frame(IDLE_CLOSE * 2 + GENERATION * 48).await?;
            match self.stream.handle_record(header, &mut record)? {
                Received::Data(body) => {
                    let length = body.len() as u64;
                    self.messages.push(body);
                    self.stream.consumed(length);
                }
                Received::Accepted => {}
                Received::Progress => self.outbox.acknowledge(self.stream.acknowledged()),
                Received::Fin | Received::Rejected(_) | Received::Reset(_) | Received::Attached { .. } | Received::Finished => {
                    return Err(ChannelError::Closed);
                }
            }
        }
    }

    /// The peer has brought another path.
    async fn attached(&mut self, link: Link, attachment: Attachment) -> Result<(), ChannelError> {
        match self.stream.attach(attachment) {
            Ok(received) => {
                self.link = link;
                self.outbox.rewind(received);
                self.flush().await
            }
            // Somebody says again what was said.
            Err(StreamError::AttachOld { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Attaches the control stream to `link`, which is to take the place of the path that was lost.
    async fn reattach(&mut self, channel: &Channel, link: &mut Link) -> Result<(), ChannelError> {
        let attach = self.stream.attach_number() + 1;
        let head = AttachHead { head: OpenHead { channel: channel.id(), stream: 0 }, attach };
        let mut out = Vec::new();
        self.stream.seal_attach(&channel.control_keys(0, attach), head, None, &mut out)?;
        link.write_all(&out, HANDSHAKE_DEADLINE).await?;
        let (header, mut record) = link.read_frame(HANDSHAKE_DEADLINE).await?;
        match self.stream.handle_record(header, &mut record)? {
            Received::Attached { received } => {
                self.outbox.rewind(received);
                Ok(())
            }
            _ => Err(ChannelError::Unexpected),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
