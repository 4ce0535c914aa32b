//! A channel: the end-to-end session between two nodes. Streams take their keys from it; its control stream carries both sides'
//! credentials.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use minicbor::{Decode, Encode};
use postern_proto::channel::{ChannelSecret, Side as Part};
use postern_proto::credential::VerifiedCredential;
use postern_proto::handshake::{HandshakeError, Initiator, Label, Responder};
use postern_proto::id::{ChannelId, Identifier, InstanceId, NodeId};
use postern_proto::path::{ChannelMessage, ChannelMessageError, ChannelMessages, Open, OpenHead, frame_channel_message};
use postern_proto::record::{HEADER_LEN, Header, Kind, MAX_BODY, OVERHEAD, PREFIX_LEN};
use postern_proto::replay::{NotOnce, OnceWindow};
use postern_proto::stream::{Received, Side, Stream, StreamError, StreamKeys};
use postern_runtime::session::preferred_suite;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::link::{Link, LinkError};
use super::trust::{OwnCredentials, PublishedPeer, Trust, TrustError};

/// A handshake that takes longer is given up (`docs/protocol/handshake.md`).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// A channel that carried no stream for so long is closed.
const IDLE_CLOSE: Duration = Duration::from_secs(300);

/// New streams go to a new channel after so long, so that old secrets go away.
const GENERATION: Duration = Duration::from_secs(3600);

/// How long a joined path waits for its next stream.
pub const PATH_IDLE: Duration = Duration::from_secs(60);

/// Most joined paths that wait for their next stream, per channel.
const MAX_IDLE_PATHS: usize = 256;

/// Messages of a control stream that make work (credentials, and requests for ours) at once, and one more a second after. A peer
/// renews hourly.
const COSTLY_MESSAGES: u32 = 8;

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

/// A path that waits for its next stream.
struct IdlePath {
    link: Link,
    since: Instant,
}

/// One generation of the session between this node and a run of another.
pub struct Channel {
    id: ChannelId,
    part: Part,
    secret: ChannelSecret,
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
    streams: AtomicUsize,
    created: Instant,
    closed: CancellationToken,
}

impl Channel {
    fn new(part: Part, secret: ChannelSecret, peer: (NodeId, InstanceId), credential: VerifiedCredential) -> Arc<Self> {
        Arc::new(Self {
            id: secret.id(),
            part,
            secret,
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
            streams: AtomicUsize::new(0),
            created: Instant::now(),
            closed: CancellationToken::new(),
        })
    }

    #[must_use]
    pub const fn id(&self) -> ChannelId {
        self.id
    }

    #[must_use]
    pub const fn peer(&self) -> Identifier {
        self.peer
    }

    #[must_use]
    pub const fn peer_instance(&self) -> (NodeId, InstanceId) {
        (self.peer_node, self.peer_instance)
    }

    /// The peer's newest credential; it may have expired since.
    #[must_use]
    pub fn credential(&self) -> VerifiedCredential {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
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

    pub(super) fn stream_began(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_ended(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
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
        let ours = matches!(self.part, Part::Initiator) == head.stream.is_multiple_of(2);
        if ours {
            return Err(NotOnce::Used.into());
        }
        let mut stream = Stream::new(Side::Acceptor, StreamKeys::derive(&self.secret, head.stream, self.part));
        let text = stream.open_open(OpenHead::LEN, frame)?;
        let open = minicbor::decode(text).map_err(|_| OpenError::Malformed)?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).take(head.stream)?;
        Ok((stream, open))
    }

    /// A joined path that waits for a stream, if there is one that still stands.
    pub fn take_idle(&self) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(path) = idle.pop() {
            // The far side closes at the same age; a path that is about to go would lose the race.
            if path.since.elapsed() < PATH_IDLE - Duration::from_secs(5) && path.link.is_usable() {
                return Some(path.link);
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
    let (initiator, offer) = Initiator::new(Label::Channel, preferred_suite(), &trust.static_key, peer.static_key)?;
    write_handshake(&mut link, &offer).await?;
    let (answered, _) = initiator.read_answer(&read_handshake(&mut link).await?)?;
    let hello = ChannelHello { credential: own.member.bytes().to_vec(), node_id: trust.node_id, instance: trust.instance };
    let (message, finished) = answered.finish(&minicbor::to_vec(&hello).map_err(|_| ChannelError::Unexpected)?)?;
    write_handshake(&mut link, &message).await?;
    let stream = Stream::new(Side::Opener, StreamKeys::derive(&finished.secret, 0, Part::Initiator));
    let mut wire = Wire { link, stream, messages: ChannelMessages::default() };
    let credential = match tokio::time::timeout(HANDSHAKE_DEADLINE, wire.receive()).await {
        Ok(Ok(ChannelMessage::Credential { credential })) => trust.verify_member(&credential, finished.remote_static)?,
        Ok(Ok(_)) => return Err(ChannelError::Unexpected),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(LinkError::Timeout.into()),
    };
    if credential.subject() != peer.identifier {
        return Err(ChannelError::Mispaired { expected: peer.identifier, found: credential.subject() });
    }
    let control = Control { wire, own: trust.watch_own(), shown: Some(own) };
    Ok((Channel::new(Part::Initiator, finished.secret, (peer.node_id, peer.instance), credential), control))
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
    let responder = match Responder::read_offer(Label::Channel, offer, &[&trust.static_key]) {
        Ok(responder) => responder,
        Err(error) => {
            if let Some(reply) = error.reply() {
                write_handshake(&mut link, &reply).await?;
            }
            return Err(error.into());
        }
    };
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
    let wire = Wire { link, stream, messages: ChannelMessages::default() };
    let control = Control { wire, own: trust.watch_own(), shown: None };
    Ok((Channel::new(Part::Responder, finished.secret, (hello.node_id, hello.instance), credential), control))
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
    /// The credentials of this side that the peer has.
    shown: Option<Arc<OwnCredentials>>,
}

/// A control stream's messages on the path that they travel on.
struct Wire {
    link: Link,
    stream: Stream,
    messages: ChannelMessages,
}

/// What happened on a control stream that others have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlEvent {
    /// The peer showed a newer credential.
    Renewed,
    /// The peer's credential is past its time.
    Expired,
}

impl Control {
    /// Runs the control stream until the channel is closed, by either side or because it was idle.
    ///
    /// # Errors
    /// [`ChannelError`]: the channel is closed for new streams; live ones go on.
    pub async fn run(
        mut self,
        trust: &Trust,
        channel: &Channel,
        mut event: impl FnMut(ControlEvent),
    ) -> Result<(), ChannelError> {
        let ended = self.serve(trust, channel, &mut event).await;
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
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            self.show(trust).await?;
            tokio::select! {
                () = channel.closed.cancelled() => {
                    return self.wire.send(&ChannelMessage::Close).await;
                }
                message = self.wire.receive() => match message? {
                    ChannelMessage::Credential { .. } | ChannelMessage::WantCredential if costly == 0 => {
                        return Err(ChannelError::TooManyMessages);
                    }
                    ChannelMessage::Credential { credential } => {
                        costly -= 1;
                        let newer = trust.verify_member(&credential, channel.credential().static_key())?;
                        if newer.subject() != channel.peer() {
                            return Err(TrustError::OtherIdentity { expected: channel.peer(), found: newer.subject() }.into());
                        }
                        info!(peer = %channel.peer(), expires = %newer.expires(), "the peer renewed its credential");
                        *channel.credential.write().unwrap_or_else(PoisonError::into_inner) = newer;
                        event(ControlEvent::Renewed);
                    }
                    ChannelMessage::WantCredential => {
                        costly -= 1;
                        self.shown = None;
                    }
                    // A reset is also said on the stream's own path, which both sides watch.
                    ChannelMessage::Reset { .. } => {}
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
                    if channel.streams.load(Ordering::Relaxed) > 0 {
                        used = Instant::now();
                    } else if used.elapsed() > IDLE_CLOSE {
                        channel.closed.cancel();
                    }
                    if trust.recheck(&channel.credential()).is_err() {
                        event(ControlEvent::Expired);
                        channel.closed.cancel();
                    }
                    self.wire.stream.acknowledge();
                    self.wire.flush().await?;
                }
            }
        }
    }

    /// Says what no node of ours says.
    #[cfg(test)]
    pub async fn say(&mut self, message: &ChannelMessage) -> Result<(), ChannelError> {
        self.wire.send(message).await
    }

    /// Shows this side's credential, where the peer does not have the newest one.
    async fn show(&mut self, trust: &Trust) -> Result<(), ChannelError> {
        let Some(own) = trust.own() else { return Ok(()) };
        if self.shown.as_ref().is_some_and(|shown| shown.member.id() == own.member.id()) {
            return Ok(());
        }
        let message = ChannelMessage::Credential { credential: own.member.bytes().to_vec() };
        self.shown = Some(own);
        self.wire.send(&message).await
    }
}

impl Wire {
    async fn send(&mut self, message: &ChannelMessage) -> Result<(), ChannelError> {
        let mut out = Vec::new();
        for body in frame_channel_message(message).chunks(MAX_BODY) {
            let start = out.len();
            out.resize(start + OVERHEAD + body.len(), 0);
            out[start + PREFIX_LEN..start + PREFIX_LEN + body.len()].copy_from_slice(body);
            self.stream.seal_data(&mut out[start..])?;
        }
        // The accept of the responder's side goes first.
        let mut first = Vec::new();
        self.stream.poll_transmit(&mut first)?;
        first.extend(out);
        Ok(self.link.write_all(&first, WRITE_DEADLINE).await?)
    }

    async fn flush(&mut self) -> Result<(), ChannelError> {
        let mut out = Vec::new();
        if self.stream.poll_transmit(&mut out)? {
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
                Received::Accepted | Received::Progress | Received::Attached { .. } => {}
                Received::Fin | Received::Rejected(_) | Received::Reset(_) => return Err(ChannelError::Closed),
            }
        }
    }
}
