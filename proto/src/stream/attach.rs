//! A stream changes its path (`docs/protocol/streams.md`, "Attaching").

use super::{Received, Side, Stream, StreamError};
use crate::aead::Suite;
use crate::channel::{self, ChannelSecret, KeyKind};
use crate::path::{Attach, AttachHead, Open};
use crate::record::{Control, ControlOpener, ControlSealer, Kind};
use crate::secret::SecretBytes;

/// Keys of a stream's control records on one path, for one side.
pub struct ControlKeys {
    pub suite: Suite,
    pub send: SecretBytes<32>,
    pub receive: SecretBytes<32>,
}

impl ControlKeys {
    /// The keys of the path that attach number `attach` brings to stream `id`; 0 is the open's.
    #[must_use]
    pub fn derive(secret: &ChannelSecret, id: u64, part: channel::Side, attach: u64) -> Self {
        let kind = KeyKind::Control { attach };
        Self {
            suite: secret.suite(),
            send: secret.stream_key(id, part.sends(), kind),
            receive: secret.stream_key(id, part.receives(), kind),
        }
    }

    fn machines(&self) -> (ControlSealer, ControlOpener) {
        (ControlSealer::new(self.suite, &self.send), ControlOpener::new(self.suite, &self.receive))
    }
}

/// An attach that the stream's opener has proven to be its own. Whether it is new, only the stream can tell: a frame that is said
/// again proves the same, so nothing may be sealed before [`Stream::attach`] or [`Attachment::refuse`] has taken its number.
pub struct Attachment {
    attach: u64,
    text: Attach,
    sealer: ControlSealer,
    opener: ControlOpener,
}

impl Attachment {
    /// Reads an ATTACH frame (header included) that begins with `head`.
    ///
    /// # Errors
    /// [`StreamError::Record`] where it was not sealed by the opener for this stream and number; [`StreamError::UnexpectedControl`]
    /// where it cannot be read.
    pub fn verify(keys: &ControlKeys, head: AttachHead, frame: &mut [u8]) -> Result<Self, StreamError> {
        let (sealer, mut opener) = keys.machines();
        let text = opener.open_opening(AttachHead::LEN, frame)?;
        let text = minicbor::decode(text).map_err(|_| StreamError::UnexpectedControl)?;
        Ok(Self { attach: head.attach, text, sealer, opener })
    }

    /// Number of this attach.
    #[must_use]
    pub const fn attach(&self) -> u64 {
        self.attach
    }

    /// The open, where its opener does not know whether it arrived.
    #[must_use]
    pub const fn open(&self) -> Option<&Open> {
        self.text.open.as_ref()
    }

    /// The one answer to an attach of a stream that is over: how it ended. The caller has made sure that its number was not
    /// answered before.
    ///
    /// # Errors
    /// [`StreamError::Record`].
    pub fn refuse(mut self, ended: Control) -> Result<Vec<u8>, StreamError> {
        let mut out = Vec::new();
        self.sealer.seal(ended, &mut out)?;
        Ok(out)
    }
}

impl Stream {
    /// The opener goes to another path: appends the frame that attaches the stream to it. `open` is the stream's open while it is not
    /// accepted. Nothing else is to be written on the new path until [`Received::Attached`].
    ///
    /// # Errors
    /// [`StreamError::AttachOld`] where the head's number is not higher than the last; [`StreamError::Record`].
    pub fn seal_attach(
        &mut self,
        keys: &ControlKeys,
        head: AttachHead,
        open: Option<Open>,
        out: &mut Vec<u8>,
    ) -> Result<(), StreamError> {
        self.take_number(head.attach)?;
        (self.control_sealer, self.control_opener) = keys.machines();
        let text = Attach { received: self.received(), open: open.filter(|_| !self.accepted) };
        let mut sealed = Vec::new();
        // Writing to a vector does not fail.
        let _ = minicbor::encode(&text, &mut sealed);
        self.control_sealer.seal_opening(Kind::Attach, &head.to_bytes(), sealed, out)?;
        self.attaching = true;
        // A PONG belongs to the path of its PING.
        self.queue.pong = None;
        // What was said of counts and credit may be lost.
        self.queue.ack = self.accepted;
        Ok(())
    }

    /// The acceptor takes the stream to the path of `attachment` and says so with the next [`Stream::poll_transmit`]. Returns how many
    /// of this side's data records the opener has: those behind them are to be sent again.
    ///
    /// # Errors
    /// [`StreamError::AttachOld`]: the attach is said again by somebody; the stream is untouched. Others are final.
    pub fn attach(&mut self, attachment: Attachment) -> Result<u64, StreamError> {
        self.take_number(attachment.attach)?;
        self.check_received(attachment.text.received)?;
        (self.control_sealer, self.control_opener) = (attachment.sealer, attachment.opener);
        self.send.acknowledged = attachment.text.received;
        self.queue.attached = true;
        self.queue.pong = None;
        self.queue.ack = self.accepted;
        if self.accepted && attachment.text.open.is_some() {
            self.queue.answer = Some(Control::Accept);
        }
        Ok(attachment.text.received)
    }

    /// Whether an attach of this side waits for its answer: until then only the attach itself may be on the new path.
    #[must_use]
    pub const fn is_attaching(&self) -> bool {
        self.attaching
    }

    /// The number of the last attach.
    #[must_use]
    pub const fn attach_number(&self) -> u64 {
        self.attach
    }

    fn take_number(&mut self, attach: u64) -> Result<(), StreamError> {
        if attach <= self.attach {
            return Err(StreamError::AttachOld { attach, last: self.attach });
        }
        self.attach = attach;
        Ok(())
    }

    /// What a peer may say that it has of our data records: not more than were sent, not fewer than it said before.
    const fn check_received(&self, received: u64) -> Result<(), StreamError> {
        let (sent, acknowledged) = (self.send.sealer.count(), self.send.acknowledged);
        if received > sent {
            return Err(StreamError::AckOfUnsent { received, sent });
        }
        if received < acknowledged {
            return Err(StreamError::AttachBehind { received, acknowledged });
        }
        Ok(())
    }

    /// The first record behind an attach.
    pub(super) fn handle_attach_answer(&mut self, record: &mut [u8]) -> Result<Received<'static>, StreamError> {
        match self.control_opener.open(record)? {
            Control::Attached { received } if self.side == Side::Opener => {
                self.check_received(received)?;
                self.send.acknowledged = received;
                self.attaching = false;
                Ok(Received::Attached { received })
            }
            Control::Finished { count } => {
                let received = self.received();
                if !self.receive.fin || !self.send.fin || count != received {
                    return Err(StreamError::FinishedElsewhere { count, received });
                }
                self.attaching = false;
                self.send.acknowledged = self.send.sealer.count();
                self.receive.acknowledged = received;
                self.queue = super::Queue::default();
                Ok(Received::Finished)
            }
            Control::Reject(reject) if self.may_be_rejected() => Ok(Received::Rejected(reject)),
            Control::Reset(code) => Ok(Received::Reset(code)),
            _ => Err(StreamError::UnexpectedControl),
        }
    }
}
