//! A channel: the end-to-end session between two nodes. Streams take their keys from it; its control stream carries both sides'
//! credentials.

mod control;
mod handshake;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use postern_proto::channel::{ChannelSecret, Side as Part};
use postern_proto::credential::VerifiedCredential;
use postern_proto::handshake::{Finished, HandshakeError, KeyExchange};
use postern_proto::id::{ChannelId, Identifier, InstanceId, NodeId, RefusalId, StaticPublic};
use postern_proto::path::{AttachHead, ChannelMessageError, Open, OpenHead};
use postern_proto::record::{self, ResetCode};
use postern_proto::replay::{NotOnce, OnceWindow};
use postern_proto::stream::{Attachment, ControlKeys, Early, Side, Stream, StreamError, StreamKeys};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::control::{Control, ControlEvent};
pub use self::handshake::{answer, dial};
use super::attach::RESUME_TIMEOUT;
use super::link::{Link, LinkError};
use super::live::{Event, Signal};
use super::trust::{Trust, TrustError};

/// A handshake that takes longer is given up (`docs/protocol/handshake.md`).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// A peer whose credential became void, because its member was changed, has so long to show its newer one before its streams end.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(1);

/// New streams go to a new channel after so long, so that old secrets go away.
const GENERATION: Duration = Duration::from_secs(3600);

/// How long a joined path waits for its next stream.
pub const PATH_IDLE: Duration = Duration::from_secs(60);

/// How long a path's last stream may leave its last word unsaid. The next stream of a busy channel comes sooner; and a peer's streams wait for
/// their end no longer than they would for a slow network.
const LAST_WORD_DELAY: Duration = Duration::from_millis(2);

/// Most joined paths that wait for their next stream, per channel.
const MAX_IDLE_PATHS: usize = 256;

/// Most ended streams that a channel remembers, and most resets that wait to be said.
const MAX_ENDED: usize = 4096;

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
    #[error("whoever the relay connected does not hold the key of the node that was asked for, or the network says so")]
    NotAskedFor,
    #[error("the peer is another run of a node of {0} than the one that the relay joined")]
    OtherRun(Identifier),
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
    #[error("the peer has given it up already")]
    GivenUp,
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
    /// Streams that the peer gave up before they were live here, the oldest first: the word for it came by another path than the open.
    given_up: VecDeque<(u64, ResetCode)>,
}

/// Most of them that are remembered. An open that is on the way when its stream is given up arrives soon.
const MAX_GIVEN_UP: usize = 256;

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
        let mut streams = lock(&self.streams);
        if let Some((_, code)) = streams.given_up.iter().find(|(other, _)| *other == id) {
            signal.send(Event::Reset(*code));
        }
        streams.live.insert(id, signal);
    }

    pub(super) fn stream_ended(&self, id: u64) {
        lock(&self.streams).live.remove(&id);
    }

    /// Whether it carries several streams. Of one after another, the peer is done with each by the time that the next one comes, if it has heard
    /// of its end; of several at once, whatever each of them makes the peer do holds up the others.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.streams).live.len() > 1
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
        let mut streams = lock(&self.streams);
        if let Some(signal) = streams.live.get(&id) {
            return signal.send(Event::Reset(code));
        }
        if self.is_own(id) || streams.ended.iter().any(|ended| ended.id == id) {
            return;
        }
        // Its open may be on the way still, and must not reach a target any more; or it has just been accepted, and is not live yet.
        let _ = lock(&self.opened).take(id);
        if streams.given_up.len() >= MAX_GIVEN_UP {
            streams.given_up.pop_front();
        }
        streams.given_up.push_back((id, code));
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

    /// What this side has sealed for stream `id`, which the peer has rejected.
    ///
    /// # Errors
    /// Where `sealed` are not all the `count` data records of that stream.
    pub fn take_back(&self, id: u64, sealed: Vec<u8>, count: u64) -> Result<Early, StreamError> {
        Early::take_back(&self.secret, id, self.part, sealed, count)
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
        let Err(used) = lock(&self.opened).take(head.stream) else { return Ok((stream, open)) };
        let given_up = lock(&self.streams).given_up.iter().any(|(id, _)| *id == head.stream);
        Err(if given_up { OpenError::GivenUp } else { used.into() })
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

    /// Keeps a path for the next stream. Returns whether something is owed on it: then [`Self::last_words`] follows.
    pub fn give_idle(&self, mut link: Link) -> bool {
        let mut idle = lock(&self.idle);
        // The oldest stand first; what is too old goes with the next that comes.
        idle.retain(|path| path.since.elapsed() < PATH_IDLE);
        if idle.len() < MAX_IDLE_PATHS && !self.closed.is_cancelled() {
            let owes = link.owes();
            idle.push(IdlePath { link, since: Instant::now() });
            return owes;
        }
        drop(idle);
        link.settle();
        false
    }

    /// Says what is owed on idle paths, after a moment in which their next streams may come and say it. Whatever ends this says it at once.
    pub async fn last_words(&self) {
        let mut words = LastWords { channel: self, after: Duration::ZERO };
        tokio::time::sleep(LAST_WORD_DELAY).await;
        words.after = LAST_WORD_DELAY;
    }

    fn settle_idle(&self, after: Duration) {
        let now = Instant::now();
        // What cannot be said ends the path; the peer's side waits then, as for any path that was lost.
        lock(&self.idle).retain_mut(|path| now - path.since < after || path.link.settle());
    }

    /// How many joined paths wait for a stream.
    #[must_use]
    pub fn idle_paths(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn forget_idle(&self, older_than: Duration) {
        self.settle_idle(older_than);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| path.since.elapsed() < older_than);
    }
}

/// What idle paths of a channel owe, until this is dropped.
struct LastWords<'a> {
    channel: &'a Channel,
    /// For how long a path has to be idle.
    after: Duration,
}

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        self.channel.settle_idle(self.after);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
