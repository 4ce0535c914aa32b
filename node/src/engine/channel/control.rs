//! The control stream of a channel: both sides' credentials, resets and refusals, on whatever path there is.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use postern_proto::channel::Side as Part;
use postern_proto::id::{CredentialId, RefusalId};
use postern_proto::path::{AttachHead, ChannelMessage, ChannelMessages, OpenHead, frame_channel_message};
use postern_proto::record::{self, Kind, MAX_BODY, OVERHEAD, PREFIX_LEN};
use postern_proto::stream::{Attachment, Outbox, Received, Stream, StreamError};
use postern_runtime::bucket::Bucket;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Channel, ChannelError, GENERATION, HANDSHAKE_DEADLINE, PATH_IDLE, SaidRefusal, lock};
use crate::engine::attach;
use crate::engine::link::Link;
use crate::engine::live::Event;
use crate::engine::shared::Shared;
use crate::engine::trust::{OwnCredentials, Trust, TrustError};

/// A channel that carried no stream for so long is closed.
const IDLE_CLOSE: Duration = Duration::from_secs(300);

/// Messages of a control stream that make work (credentials, and requests for ours) at once, and one more a second after. A peer
/// renews hourly.
const COSTLY_MESSAGES: u32 = 8;

/// Refusals that a peer may tell of at once, and then one more in this time: as many as somebody looks at. What is told beyond is not heard;
/// each costs a look through those that are kept.
const TOLD_REFUSALS: u32 = 256;
const TOLD_EVERY: Duration = Duration::from_millis(50);

/// How long a small write on a control stream may take; paths are always read, so only a dead one is slower.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// The control stream of a channel.
pub struct Control {
    wire: Wire,
    own: watch::Receiver<Option<Arc<OwnCredentials>>>,
    /// Times that a path changed what it carried.
    corruptions: u32,
    /// The credential of this side that the peer has.
    shown: Option<CredentialId>,
}

/// A control stream's messages on the path that they travel on.
pub(super) struct Wire {
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
    /// `shown` is the credential of this side that the peer has already.
    pub(super) fn new(wire: Wire, trust: &Trust, shown: Option<CredentialId>) -> Self {
        Self { wire, own: trust.watch_own(), corruptions: 0, shown }
    }

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
            let lost = match self.serve(&shared.trust, channel, &mut event).await {
                Err(error @ ChannelError::Link(_)) => error,
                Err(ChannelError::Stream(error)) if error.may_be_the_path() && self.corruptions < attach::MAX_CORRUPTIONS => {
                    self.corrupted(channel, error).await;
                    error.into()
                }
                ended => break ended,
            };
            debug!(channel = %channel.id(), error = %lost, "the control stream lost its path");
            if Box::pin(self.recover(shared, channel)).await.is_none() {
                break Err(lost);
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

    /// What arrived was not sealed by the peer: the path is at fault, and another one may not be.
    async fn corrupted(&mut self, channel: &Channel, error: StreamError) {
        self.corruptions += 1;
        // Once for each channel: a network that does this does it often.
        if self.corruptions == 1 {
            warn!(channel = %channel.id(), %error, "the path changed what it carried; the control stream goes on with another one");
        }
        // Whoever is at the other end has to look for another one, too.
        self.wire.link.close().await;
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
                // That the peer knows nothing of the channel may be a lie of the path's, too; a new channel is made then.
                Err(ChannelError::Stream(error))
                    if error.may_be_the_path() && error != StreamError::UnexpectedKind(Kind::NoChannel) =>
                {
                    debug!(channel = %channel.id(), %error, "the path changed the answer");
                }
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
    pub(super) fn new(link: Link, stream: Stream) -> Self {
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
    pub(super) async fn receive(&mut self) -> Result<ChannelMessage, ChannelError> {
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
