//! One stream: a TCP connection carried between two nodes, as a state machine over records.
//!
//! The owner moves bytes; this machine says how many may be sent, seals and opens them, and keeps both sides' counts.
//! Order of calls: [`Stream::seal_data`] for what the application wrote, while [`Stream::budget`] allows it;
//! [`Stream::seal_fin`] at its end of file; [`Stream::poll_transmit`] whenever something may have changed;
//! [`Stream::handle_record`] for each record that arrives; [`Stream::consumed`] for what the application took.
//!
//! Flow control is by credit (`docs/protocol/streams.md`): a receiver always reads its path and buffers at most what it granted.
//!
//! A stream outlives its path. The owner keeps sealed data records in an [`Outbox`] until [`Stream::acknowledged`] covers them. Where the
//! path is lost, the opener says [`Stream::seal_attach`] on another one and the acceptor takes it with [`Stream::attach`]; each side
//! then goes on from the record that the other states ([`Received::Attached`], or what `attach` returns).

mod attach;
mod early;
mod outbox;

use crate::aead::Suite;
use crate::channel::{self, ChannelSecret, KeyKind};
use crate::record::{
    Control, ControlOpener, ControlSealer, DataOpener, DataSealer, DataType, Header, Kind, RecordError, Reject, ResetCode,
};
use crate::secret::SecretBytes;

pub use self::attach::{Attachment, ControlKeys};
pub use self::early::Early;
pub use self::outbox::{Outbox, SMALL};

/// What each side may send before it hears from the other; also the limit of early data. Enough for a round trip of 20 ms at
/// 100 Mbit/s, little enough to be held for every stream at once.
pub const INITIAL_CREDIT: u64 = 256 * 1024;

/// Data records after which a receiver acknowledges, however small they are.
pub const MAX_UNACKNOWLEDGED: u64 = 1024;

/// What a receiver grants at most to one stream whose application keeps up.
pub const MAX_CREDIT: u64 = 4 * 1024 * 1024;

/// Keys of one stream, for one side.
pub struct StreamKeys {
    pub suite: Suite,
    pub send_data: SecretBytes<32>,
    pub receive_data: SecretBytes<32>,
    pub send_control: SecretBytes<32>,
    pub receive_control: SecretBytes<32>,
}

impl StreamKeys {
    /// The keys of stream `id` of the channel with `secret`, for the side that played `part` in the channel's handshake; control
    /// keys are those of the path that the open went over.
    #[must_use]
    pub fn derive(secret: &ChannelSecret, id: u64, part: channel::Side) -> Self {
        let control = ControlKeys::derive(secret, id, part, 0);
        Self {
            suite: secret.suite(),
            send_data: secret.stream_key(id, part.sends(), KeyKind::Data),
            receive_data: secret.stream_key(id, part.receives(), KeyKind::Data),
            send_control: control.send,
            receive_control: control.receive,
        }
    }
}

/// What a record turned out to be. Bytes are inside the record that was handed in.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// The next bytes of the peer's application.
    Data(&'a mut [u8]),
    /// The peer's application has ended its direction.
    Fin,
    /// The target was reached.
    Accepted,
    /// The stream is over: no byte reached the target.
    Rejected(Box<Reject>),
    /// The stream is over: the peer gave it up.
    Reset(ResetCode),
    /// Counts changed: [`Stream::budget`] may be larger, [`Stream::is_finished`] may be true.
    Progress,
    /// The peer still has this stream and has opened this many of our data records: those behind them are to be sent again.
    Attached { received: u64 },
    /// The stream is over: the peer has everything, and this side too.
    Finished,
}

/// What the peer did wrong, or the path ([`StreamError::may_be_the_path`]). What only the peer can have done is final, and the stream must be
/// reset with [`ResetCode::Protocol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("a frame of kind {0:?} inside a stream")]
    UnexpectedKind(Kind),
    #[error("a control message that does not belong here")]
    UnexpectedControl,
    /// Data: that was not opened, so a network may have exchanged the two. A control record is [`Self::UnexpectedControl`].
    #[error("a record before the answer to the open")]
    BeforeAnswer,
    #[error("{sent} bytes sent with credit for {credit}")]
    OverCredit { sent: u64, credit: u64 },
    #[error("{received} records acknowledged of {sent} sent")]
    AckOfUnsent { received: u64, sent: u64 },
    #[error("{received} records opened, after {acknowledged} were acknowledged")]
    AttachBehind { received: u64, acknowledged: u64 },
    #[error("attach number {attach} after {last}")]
    AttachOld { attach: u64, last: u64 },
    /// Data, as with [`Self::BeforeAnswer`].
    #[error("a record before the answer to the attach")]
    BeforeAttached,
    #[error("a stream that ended after {count} data records, of which {received} arrived here")]
    FinishedElsewhere { count: u64, received: u64 },
    #[error("a record after the end of its direction")]
    AfterFin,
    /// The caller sealed more than the peer granted, or after it had finished: a bug on this side.
    #[error("sealed without credit or after the end")]
    NoBudget,
}

impl StreamError {
    /// Whether a path alone can have done it, without the peer: by changing, repeating or reordering what the peer sent. Nothing was taken from
    /// the record then, and another path may bring it as it was sent.
    #[must_use]
    pub const fn may_be_the_path(&self) -> bool {
        matches!(self, Self::Record(RecordError::Aead(_)) | Self::UnexpectedKind(_) | Self::BeforeAnswer | Self::BeforeAttached)
    }
}

/// Which side of the stream this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The inlet's: sent the open.
    Opener,
    /// The outlet's: answers it.
    Acceptor,
}

/// One stream on one side. See the module's text for the order of calls.
pub struct Stream {
    side: Side,
    /// The opener has seen, or the acceptor has sent, the accept.
    accepted: bool,
    /// Number of the attach that brought the path of now; 0 for the open's.
    attach: u64,
    /// The opener has sent an attach that has no answer yet.
    attaching: bool,
    send: Sending,
    receive: Receiving,
    control_sealer: ControlSealer,
    control_opener: ControlOpener,
    /// Control records to send, in order; each kind stands here at most once, so this is bounded.
    queue: Queue,
}

#[derive(Default)]
struct Queue {
    attached: bool,
    answer: Option<Control>,
    pong: Option<u64>,
    ack: bool,
    reset: Option<ResetCode>,
}

struct Sending {
    sealer: DataSealer,
    /// Bytes sealed so far.
    offset: u64,
    /// Byte offset up to which the peer lets us send.
    credit: u64,
    /// Data records that the peer has opened.
    acknowledged: u64,
    /// The FIN was sealed.
    fin: bool,
}

struct Receiving {
    opener: DataOpener,
    /// Bytes opened so far.
    offset: u64,
    /// Bytes that the application has taken.
    consumed: u64,
    /// Byte offset that the peer was last told it may send up to.
    granted: u64,
    /// How far ahead of `consumed` the next grant goes.
    window: u64,
    /// How large `window` may become.
    max_window: u64,
    /// `consumed` when the window last grew.
    grew_at: u64,
    /// Records counted in the last acknowledgement.
    acknowledged: u64,
    fin: bool,
}

impl Stream {
    #[must_use]
    pub fn new(side: Side, keys: StreamKeys) -> Self {
        Self {
            side,
            accepted: false,
            attach: 0,
            attaching: false,
            control_sealer: ControlSealer::new(keys.suite, &keys.send_control),
            control_opener: ControlOpener::new(keys.suite, &keys.receive_control),
            send: Sending {
                sealer: DataSealer::new(keys.suite, keys.send_data),
                offset: 0,
                credit: INITIAL_CREDIT,
                acknowledged: 0,
                fin: false,
            },
            receive: Receiving {
                opener: DataOpener::new(keys.suite, keys.receive_data),
                offset: 0,
                consumed: 0,
                granted: INITIAL_CREDIT,
                window: INITIAL_CREDIT,
                max_window: MAX_CREDIT,
                grew_at: 0,
                acknowledged: 0,
                fin: false,
            },
            queue: Queue::default(),
        }
    }

    /// Limits how far this side's window may grow, where its owner's budget is smaller than [`MAX_CREDIT`].
    pub fn set_max_window(&mut self, bytes: u64) {
        self.receive.max_window = bytes.clamp(INITIAL_CREDIT, MAX_CREDIT);
    }

    /// Appends the frame that opens this stream; `clear` and `text` are [`crate::path::OpenHead`]'s.
    ///
    /// # Errors
    /// [`StreamError::Record`] where it would be too long.
    pub fn seal_open(&mut self, clear: &[u8], text: Vec<u8>, out: &mut Vec<u8>) -> Result<(), StreamError> {
        Ok(self.control_sealer.seal_opening(Kind::Open, clear, text, out)?)
    }

    /// Opens the frame that opened this stream and returns its sealed part.
    ///
    /// # Errors
    /// [`StreamError::Record`] where it was not sealed by the peer for this stream.
    pub fn open_open<'a>(&mut self, clear: usize, frame: &'a mut [u8]) -> Result<&'a mut [u8], StreamError> {
        Ok(self.control_opener.open_opening(clear, frame)?)
    }

    /// Tells the opener that the target was reached.
    pub fn accept(&mut self) {
        self.queue.answer = Some(Control::Accept);
        self.accepted = true;
    }

    /// Tells the opener that no byte reached the target.
    pub fn reject(&mut self, reject: Reject) {
        self.queue.answer = Some(Control::Reject(Box::new(reject)));
    }

    /// Gives the stream up. After the next [`Self::poll_transmit`], nothing more may be sent.
    pub const fn reset(&mut self, code: ResetCode) {
        self.queue.reset = Some(code);
    }

    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// How many bytes may be sealed now. 0 after [`Self::seal_fin`].
    #[must_use]
    pub const fn budget(&self) -> u64 {
        if self.send.fin { 0 } else { self.send.credit - self.send.offset }
    }

    /// Seals `record` in place; its body stands already where [`crate::record`] says.
    ///
    /// # Errors
    /// [`StreamError::NoBudget`] where the body is longer than [`Self::budget`]; [`StreamError::Record`].
    pub fn seal_data(&mut self, record: &mut [u8]) -> Result<(), StreamError> {
        let body = record.len().saturating_sub(crate::record::OVERHEAD) as u64;
        if body > self.budget() || self.send.fin {
            return Err(StreamError::NoBudget);
        }
        self.send.sealer.seal(DataType::Data, record)?;
        self.send.offset += body;
        Ok(())
    }

    /// This side's application has ended its direction: seals the FIN, which follows all data sealed before and is kept like it.
    ///
    /// # Errors
    /// [`StreamError::NoBudget`] the second time; [`StreamError::Record`].
    pub fn seal_fin(&mut self) -> Result<[u8; crate::record::OVERHEAD], StreamError> {
        if self.send.fin {
            return Err(StreamError::NoBudget);
        }
        let mut record = [0; crate::record::OVERHEAD];
        self.send.sealer.seal(DataType::Fin, &mut record)?;
        self.send.fin = true;
        self.acknowledge();
        Ok(record)
    }

    /// How many of this side's data records the peer has opened; they need not be kept any more.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.send.acknowledged
    }

    /// How many data records of this side were sealed, FIN included.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.send.sealer.count()
    }

    /// How many data records of the peer were opened.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.receive.opener.count()
    }

    /// The application took `bytes` more of what was received.
    pub fn consumed(&mut self, bytes: u64) {
        let receive = &mut self.receive;
        receive.consumed = (receive.consumed + bytes).min(receive.offset);
        // A window that was drained whole since it last grew is one that held the sender back.
        if receive.consumed - receive.grew_at >= receive.window && receive.window < receive.max_window {
            receive.window = (receive.window * 2).min(receive.max_window);
            receive.grew_at = receive.consumed;
        }
        // Grants come in quarters of the window, so that their cost vanishes beside that of the data. Many small records are
        // acknowledged earlier, because the peer keeps each of them until then.
        let granted = !receive.fin && receive.consumed + receive.window >= receive.granted + receive.window / 4;
        if granted || receive.opener.count() - receive.acknowledged >= MAX_UNACKNOWLEDGED {
            self.queue.ack = true;
        }
    }

    /// Whether records were opened that the peer has not been told of. The owner calls [`Self::acknowledge`] within a second.
    #[must_use]
    pub const fn has_unacknowledged(&self) -> bool {
        self.receive.opener.count() > self.receive.acknowledged
    }

    /// Whether nothing but the accept or reject waits to be sent.
    #[must_use]
    pub const fn has_only_answer(&self) -> bool {
        let Queue { attached, answer, pong, ack, reset } = &self.queue;
        answer.is_some() && !*attached && pong.is_none() && !*ack && reset.is_none()
    }

    /// Whether all is done but to tell the peer that its end has arrived, which nobody waits for.
    #[must_use]
    pub fn has_only_last_word(&self) -> bool {
        let Queue { attached, answer, pong, ack: _, reset } = &self.queue;
        let quiet = answer.is_none() && !*attached && pong.is_none() && reset.is_none();
        quiet && self.has_both_ends() && !self.is_finished()
    }

    /// Whether each direction has ended, and the peer is known to have all of this one's.
    const fn has_both_ends(&self) -> bool {
        self.send.fin && self.send.acknowledged == self.send.sealer.count() && self.receive.fin
    }

    /// Queues an acknowledgement where one is due.
    pub const fn acknowledge(&mut self) {
        if self.has_unacknowledged() {
            self.queue.ack = true;
        }
    }

    /// Appends what is to be sent now beside data: answers, acknowledgements, a reset. Returns whether anything was. Nothing while an
    /// attach waits for its answer.
    ///
    /// # Errors
    /// [`StreamError::Record`] where a counter is used up.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Result<bool, StreamError> {
        let before = out.len();
        if self.attaching {
            return Ok(false);
        }
        if std::mem::take(&mut self.queue.attached) {
            self.control_sealer.seal(Control::Attached { received: self.received() }, out)?;
        }
        if let Some(answer) = self.queue.answer.take() {
            self.control_sealer.seal(answer, out)?;
        }
        if let Some(code) = self.queue.reset.take() {
            self.control_sealer.seal(Control::Reset(code), out)?;
            self.queue = Queue::default();
            return Ok(true);
        }
        if std::mem::take(&mut self.queue.ack) {
            let receive = &mut self.receive;
            receive.granted = receive.granted.max(receive.consumed + receive.window);
            receive.acknowledged = receive.opener.count();
            let ack = Control::Ack { received: receive.acknowledged, credit: receive.granted };
            self.control_sealer.seal(ack, out)?;
        }
        if let Some(number) = self.queue.pong.take() {
            self.control_sealer.seal(Control::Pong { number }, out)?;
        }
        Ok(out.len() > before)
    }

    /// Handles one whole record (header included), opening it in place.
    ///
    /// # Errors
    /// What the peer did wrong; final, unless it [may be the path's doing](StreamError::may_be_the_path).
    pub fn handle_record<'a>(&mut self, header: Header, record: &'a mut [u8]) -> Result<Received<'a>, StreamError> {
        // The answer is the acceptor's first record: until it is here, nothing that the peer says makes this side send or hold more
        // than the early data, which it may have to say again on another path.
        let unanswered = self.side == Side::Opener && !self.accepted;
        match header.kind {
            Kind::Data if self.attaching => Err(StreamError::BeforeAttached),
            Kind::Data if unanswered => Err(StreamError::BeforeAnswer),
            Kind::Data => self.handle_data(record),
            Kind::Control if self.attaching => self.handle_attach_answer(record),
            Kind::Control => match self.control_opener.open(record)? {
                // The peer's own first record: it opened under the number that comes first.
                Control::Ack { .. } | Control::Ping { .. } | Control::Pong { .. } if unanswered => {
                    Err(StreamError::UnexpectedControl)
                }
                control => self.handle_control(control),
            },
            other => Err(StreamError::UnexpectedKind(other)),
        }
    }

    fn handle_data<'a>(&mut self, record: &'a mut [u8]) -> Result<Received<'a>, StreamError> {
        let receive = &mut self.receive;
        // Opened first: that the peer goes on behind its end is said of what is the peer's only, not of what the path repeats.
        let (data_type, body) = receive.opener.open(record)?;
        if receive.fin {
            return Err(StreamError::AfterFin);
        }
        match data_type {
            DataType::Data => {
                receive.offset += body.len() as u64;
                if receive.offset > receive.granted {
                    return Err(StreamError::OverCredit { sent: receive.offset, credit: receive.granted });
                }
                Ok(Received::Data(body))
            }
            DataType::Fin => {
                receive.fin = true;
                // While this side's own direction goes on, its FIN or a grant takes the acknowledgement along.
                self.queue.ack |= self.send.fin;
                Ok(Received::Fin)
            }
        }
    }

    /// Whether the peer may still say that no byte reached its target: not after it has said that it opened some, or the opener would take what it
    /// kept for all that it sent.
    fn may_be_rejected(&self) -> bool {
        self.side == Side::Opener && !self.accepted && self.send.acknowledged == 0
    }

    fn handle_control(&mut self, control: Control) -> Result<Received<'static>, StreamError> {
        match control {
            Control::Accept if self.side == Side::Opener && !self.accepted => {
                self.accepted = true;
                Ok(Received::Accepted)
            }
            Control::Reject(reject) if self.may_be_rejected() => Ok(Received::Rejected(reject)),
            Control::Ack { received, credit } => {
                let sent = self.send.sealer.count();
                if received > sent {
                    return Err(StreamError::AckOfUnsent { received, sent });
                }
                // Grants and counts only rise; an older one says nothing new.
                self.send.acknowledged = self.send.acknowledged.max(received);
                self.send.credit = self.send.credit.max(credit);
                Ok(Received::Progress)
            }
            Control::Reset(code) => Ok(Received::Reset(code)),
            Control::Ping { number } => {
                self.queue.pong = Some(number);
                Ok(Received::Progress)
            }
            Control::Pong { .. } => Ok(Received::Progress),
            Control::Accept | Control::Reject(_) | Control::Attached { .. } | Control::Finished { .. } => {
                Err(StreamError::UnexpectedControl)
            }
        }
    }

    /// Whether the peer has ended its direction.
    #[must_use]
    pub const fn peer_finished(&self) -> bool {
        self.receive.fin
    }

    /// Whether both directions ended cleanly and both sides know it: the peer has our FIN, and we have told it that we have
    /// its. Nothing more will be sent either way, so the path can carry another stream.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.has_both_ends() && !self.has_unacknowledged() && !self.queue.ack
    }

    /// Bytes sealed and opened so far: what this stream carried (sent, received).
    #[must_use]
    pub const fn bytes(&self) -> (u64, u64) {
        (self.send.offset, self.receive.offset)
    }

    /// Bytes that were opened and not yet taken by the application; never more than was granted.
    #[must_use]
    pub const fn buffered(&self) -> u64 {
        self.receive.offset - self.receive.consumed
    }
}

#[cfg(test)]
mod tests;
