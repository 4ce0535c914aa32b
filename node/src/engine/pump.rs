//! Moves the bytes of one stream between the application's socket and a path, both ways, in one task.
//!
//! The path is always read, so nothing on it ever waits for an application: what the application does not take at once is kept
//! in a backlog that the stream's credit bounds. Large buffers are held only while bytes flow.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::time::Duration;

use postern_proto::record::{HEADER_LEN, MAX_BODY, MAX_RECORD, OVERHEAD, PREFIX_LEN, RejectCode, ResetCode};
use postern_proto::stream::{Received, Stream, StreamError};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::buffers::{BUFFER_SIZE, Buffer, RECORDS_PER_BUFFER};
use super::link::Link;

/// How long the peer may wait for the count of records that were opened, where no acknowledgement was due before.
const ACK_DELAY: Duration = Duration::from_secs(1);

/// How long a stream of which one direction has ended may stay without a byte in the other. Long enough for slow answers to a
/// request that was sent whole, short enough that forgotten connections go away.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(3600);

/// Rounds after which a busy stream lets others of its thread run.
const ROUNDS_PER_TURN: u32 = 32;

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended cleanly; the path can carry another stream.
    Clean,
    /// The outlet's node did not open it; no byte reached the target.
    Rejected(RejectCode),
    /// The peer gave it up.
    ResetByPeer(ResetCode),
    /// This side gave it up.
    Reset(ResetCode),
    /// The path was lost. `opened` tells whether the peer had accepted the stream.
    PathLost { opened: bool, error: io::Error },
    /// The peer broke the protocol.
    Protocol(StreamError),
}

/// One stream with what it stands on.
pub struct Pump<'a> {
    pub stream: &'a mut Stream,
    pub application: &'a TcpStream,
    pub link: &'a mut Link,
    /// Fires when the stream must end, with the reason.
    pub kill: &'a mut oneshot::Receiver<ResetCode>,
}

/// What leaves on the path: a run of sealed records, then small control records.
#[derive(Default)]
struct Outgoing {
    buffer: Option<Buffer>,
    position: usize,
    end: usize,
    small: Vec<u8>,
    small_position: usize,
}

impl Outgoing {
    const fn is_empty(&self) -> bool {
        self.position == self.end && self.small_position == self.small.len()
    }

    /// Small records go first, unless the run has begun to leave: no record is ever cut by another. (A FIN is made only when no
    /// run is left.)
    const fn small_first(&self) -> bool {
        self.position == 0
    }

    /// What is to be written, in order.
    fn pending(&self) -> [&[u8]; 2] {
        let large = self.buffer.as_deref().map_or(&[][..], |buffer| &buffer[self.position..self.end]);
        let small = &self.small[self.small_position..];
        if self.small_first() { [small, large] } else { [large, small] }
    }

    /// `count` bytes of [`Self::pending`] were written; they are also copied to `kept`.
    fn advance(&mut self, count: usize, kept: Option<&mut Vec<u8>>) {
        let [first, second] = self.pending();
        let of_first = count.min(first.len());
        if let Some(kept) = kept {
            kept.extend_from_slice(&first[..of_first]);
            kept.extend_from_slice(&second[..count - of_first]);
        }
        let (small, large) = if self.small_first() { (of_first, count - of_first) } else { (count - of_first, of_first) };
        self.small_position += small;
        self.position += large;
        if self.position == self.end {
            (self.position, self.end) = (0, 0);
        }
    }
}

/// Bytes that the application has not taken yet.
#[derive(Default)]
struct Backlog {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk is gone.
    taken: usize,
}

impl Backlog {
    /// Small runs share a chunk, so that a peer that sends a byte at a time cannot make the bookkeeping larger than the bytes.
    const CHUNK: usize = 64 * 1024;

    fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn push(&mut self, mut bytes: &[u8]) {
        if let Some(last) = self.chunks.back_mut() {
            let (fits, rest) = bytes.split_at(bytes.len().min(last.capacity() - last.len()));
            last.extend_from_slice(fits);
            bytes = rest;
        }
        for bytes in bytes.chunks(Self::CHUNK) {
            let mut chunk = Vec::with_capacity(Self::CHUNK);
            chunk.extend_from_slice(bytes);
            self.chunks.push_back(chunk);
        }
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.chunks.front() {
            let left = first.len() - self.taken;
            if count < left {
                self.taken += count;
                return;
            }
            count -= left;
            self.taken = 0;
            self.chunks.pop_front();
        }
    }
}

/// What one round did.
#[derive(Default)]
struct Progress {
    moved: bool,
    end: Option<End>,
}

struct State<'a> {
    pump: Pump<'a>,
    outgoing: Outgoing,
    backlog: Backlog,
    /// Everything written before the peer accepted, to be said again on another path if this one fails before.
    unanswered: Option<Vec<u8>>,
    application_ended: bool,
    /// The application was told that the peer's direction has ended.
    told_end: bool,
}

/// Moves bytes until the stream ends. Returns how it ended and, where the path was lost before the peer answered, what has to
/// be sent again on another path (the bytes are sealed; they mean the same there).
///
/// `first` is sent before anything else: the frame that opens the stream, or nothing. `answered` tells whether the peer has
/// accepted the stream already.
pub async fn run(pump: Pump<'_>, first: Vec<u8>, answered: bool) -> (End, Option<Vec<u8>>) {
    let mut state = State {
        outgoing: Outgoing { small: first, ..Outgoing::default() },
        unanswered: (!answered).then(Vec::new),
        pump,
        backlog: Backlog::default(),
        application_ended: false,
        told_end: false,
    };
    let end = state.run().await;
    let again = match &end {
        End::PathLost { opened: false, .. } => state.unanswered.take(),
        _ => None,
    };
    (end, again)
}

impl State<'_> {
    async fn run(&mut self) -> End {
        let timer = tokio::time::sleep(HALF_CLOSED_TIMEOUT);
        tokio::pin!(timer);
        let mut ack_armed = false;
        let mut rounds = 0;
        loop {
            let progress = self.round();
            if let Some(end) = progress.end {
                return end;
            }
            if progress.moved {
                rounds += 1;
                if rounds % ROUNDS_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            self.release();
            if let Some(end) = self.wait(timer.as_mut(), &mut ack_armed).await {
                return end;
            }
        }
    }

    /// Buffers go back while nothing moves.
    fn release(&mut self) {
        self.pump.link.release();
        if self.outgoing.position == self.outgoing.end {
            self.outgoing.buffer = None;
        }
    }

    /// Waits until something can move, or the stream has to end.
    async fn wait(&mut self, mut timer: std::pin::Pin<&mut Sleep>, ack_armed: &mut bool) -> Option<End> {
        let acknowledge = self.pump.stream.has_unacknowledged();
        let half_closed = self.application_ended || self.pump.stream.peer_finished();
        if acknowledge && !*ack_armed {
            timer.as_mut().reset(Instant::now() + ACK_DELAY);
        } else if !acknowledge && half_closed {
            timer.as_mut().reset(Instant::now() + HALF_CLOSED_TIMEOUT);
        }
        *ack_armed = acknowledge;
        let link = if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let mut application = Interest::ERROR;
        if !self.application_ended && self.may_read_application() {
            application |= Interest::READABLE;
        }
        if !self.backlog.is_empty() {
            application |= Interest::WRITABLE;
        }
        tokio::select! {
            biased;
            code = &mut *self.pump.kill => {
                let code = code.unwrap_or(ResetCode::ShuttingDown);
                self.give_up(code);
                return Some(End::Reset(code));
            }
            ready = self.pump.link.socket.ready(link) => {
                if let Err(error) = ready {
                    return Some(self.path_lost(error));
                }
            }
            ready = self.pump.application.ready(application) => {
                let failed = match ready {
                    Ok(ready) if ready.is_error() => {
                        let failed = matches!(self.pump.application.take_error(), Ok(Some(_)) | Err(_));
                        // An error that something else took already must not wake this task for ever.
                        let _ = self.pump.application.try_io(Interest::ERROR, || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) });
                        failed
                    }
                    Ok(_) => false,
                    Err(_) => true,
                };
                if failed {
                    self.give_up(ResetCode::Application);
                    return Some(End::Reset(ResetCode::Application));
                }
            }
            () = timer.as_mut(), if acknowledge || half_closed => {
                if acknowledge {
                    self.pump.stream.acknowledge();
                } else {
                    self.give_up(ResetCode::Timeout);
                    return Some(End::Reset(ResetCode::Timeout));
                }
            }
        }
        None
    }

    /// Does once what can be done without waiting.
    fn round(&mut self) -> Progress {
        let mut progress = Progress::default();
        let steps = [Self::read_link, Self::write_application, Self::read_application, Self::control, Self::write_link];
        for step in steps {
            match step(self) {
                Ok(moved) => progress.moved |= moved,
                Err(end) => {
                    progress.end = Some(end);
                    return progress;
                }
            }
        }
        if self.pump.stream.is_finished() && self.outgoing.is_empty() && self.told_end && self.backlog.is_empty() {
            progress.end = Some(End::Clean);
        }
        progress
    }

    /// path → application: reads, opens in place, and writes at once what the application takes.
    fn read_link(&mut self) -> Result<bool, End> {
        let link = &mut *self.pump.link;
        link.compact();
        let end = link.end;
        let mut moved = false;
        if end < BUFFER_SIZE {
            let buffer = link.buffer.get_or_insert_with(Buffer::take);
            match read(&link.socket, &mut [IoSliceMut::new(&mut buffer[end..])]) {
                Ok(0) => return Err(self.path_lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    link.end += count;
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.path_lost(error)),
            }
        }
        // Most records of one read, and what is left over from the read before.
        let mut pieces = [(0, 0); RECORDS_PER_BUFFER * 4];
        let mut count = 0;
        loop {
            // A finished stream leaves what follows to the next one.
            if self.pump.stream.is_finished() || count == pieces.len() {
                break;
            }
            let link = &mut *self.pump.link;
            let header = match link.next_frame() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => return Err(self.protocol(error.into())),
            };
            let (start, length) = (link.start, HEADER_LEN + header.length);
            link.start += length;
            let Some(buffer) = &mut link.buffer else { break };
            let record = &mut buffer[start..start + length];
            moved = true;
            match self.pump.stream.handle_record(header, record) {
                Ok(Received::Data(body)) => {
                    pieces[count] = (start + PREFIX_LEN, start + PREFIX_LEN + body.len());
                    count += 1;
                }
                Ok(Received::Accepted) => self.unanswered = None,
                Ok(Received::Fin | Received::Progress | Received::Attached { .. }) => {}
                Ok(Received::Rejected(code)) => return Err(End::Rejected(code)),
                Ok(Received::Reset(code)) => return Err(End::ResetByPeer(code)),
                Err(error) => return Err(self.protocol(error)),
            }
        }
        self.deliver(&pieces[..count])?;
        Ok(moved)
    }

    /// Writes opened bytes to the application; what it does not take goes to the backlog.
    fn deliver(&mut self, pieces: &[(usize, usize)]) -> Result<(), End> {
        let Some(buffer) = &self.pump.link.buffer else { return Ok(()) };
        let mut written = 0;
        if self.backlog.is_empty() && !pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); RECORDS_PER_BUFFER * 4];
            for (slice, (start, end)) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(&buffer[*start..*end]);
            }
            match self.pump.application.try_write_vectored(&slices[..pieces.len()]) {
                Ok(count) => written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.give_up(ResetCode::Application);
                    return Err(End::Reset(ResetCode::Application));
                }
            }
        }
        self.pump.stream.consumed(written as u64);
        for (start, end) in pieces {
            let taken = written.min(end - start);
            written -= taken;
            if start + taken < *end {
                self.backlog.push(&buffer[start + taken..*end]);
            }
        }
        Ok(())
    }

    /// backlog → application, and the end of the peer's direction behind it.
    fn write_application(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while let Some(first) = self.backlog.chunks.front() {
            match self.pump.application.try_write(&first[self.backlog.taken..]) {
                Ok(count) => {
                    self.backlog.advance(count);
                    self.pump.stream.consumed(count as u64);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                Err(_) => {
                    self.give_up(ResetCode::Application);
                    return Err(End::Reset(ResetCode::Application));
                }
            }
        }
        if self.pump.stream.peer_finished() && !self.told_end {
            self.told_end = true;
            // Where the application has closed already, there is nobody to tell.
            let _ = SockRef::from(self.pump.application).shutdown(Shutdown::Write);
            moved = true;
        }
        Ok(moved)
    }

    fn may_read_application(&self) -> bool {
        self.pump.stream.budget() > 0 && self.outgoing.position == self.outgoing.end
    }

    /// application → path: several records with one read, sealed where they were read to.
    fn read_application(&mut self) -> Result<bool, End> {
        if self.application_ended || !self.may_read_application() {
            return Ok(false);
        }
        let mut budget = usize::try_from(self.pump.stream.budget()).unwrap_or(usize::MAX);
        let buffer = self.outgoing.buffer.get_or_insert_with(Buffer::take);
        let mut slots = buffer.chunks_exact_mut(MAX_RECORD);
        let mut targets = [(); RECORDS_PER_BUFFER].map(|()| {
            let body = slots.next().map_or(&mut [][..], |slot| &mut slot[PREFIX_LEN..PREFIX_LEN + MAX_BODY]);
            let length = body.len().min(budget);
            budget -= length;
            IoSliceMut::new(&mut body[..length])
        });
        let count = match read(self.pump.application, &mut targets) {
            Ok(0) => {
                self.application_ended = true;
                self.pump.stream.finish();
                return Ok(true);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => {
                self.give_up(ResetCode::Application);
                return Err(End::Reset(ResetCode::Application));
            }
        };
        // All slots but the last were filled, so the records stand one behind the other.
        let mut end = 0;
        for (slot, at) in (0..count).step_by(MAX_BODY).enumerate() {
            let start = slot * MAX_RECORD;
            end = start + OVERHEAD + (count - at).min(MAX_BODY);
            self.pump.stream.seal_data(&mut buffer[start..end]).map_err(End::Protocol)?;
        }
        (self.outgoing.position, self.outgoing.end) = (0, end);
        Ok(true)
    }

    /// Acknowledgements, FIN and the like, behind what is already on its way.
    fn control(&mut self) -> Result<bool, End> {
        if self.outgoing.small_position == self.outgoing.small.len() {
            self.outgoing.small.clear();
            self.outgoing.small_position = 0;
        }
        self.pump.stream.poll_transmit(&mut self.outgoing.small).map_err(End::Protocol)
    }

    fn write_link(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while !self.outgoing.is_empty() {
            let slices = self.outgoing.pending().map(IoSlice::new);
            match self.pump.link.socket.try_write_vectored(&slices) {
                Ok(count) => {
                    self.outgoing.advance(count, self.unanswered.as_mut());
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.path_lost(error)),
            }
        }
        Ok(moved)
    }

    /// Tells the peer that this side gives the stream up, as far as the path takes it at once, and resets the application.
    fn give_up(&mut self, code: ResetCode) {
        self.pump.stream.reset(code);
        // A record that is half written must be finished first, or the reset could not be read.
        if self.control().is_ok() {
            let _ = self.write_link();
        }
    }

    fn protocol(&mut self, error: StreamError) -> End {
        self.give_up(ResetCode::Protocol);
        End::Protocol(error)
    }

    fn path_lost(&mut self, error: io::Error) -> End {
        // What is still unsent would be lost with the path; said again elsewhere, the stream must be whole.
        if let Some(unanswered) = &mut self.unanswered {
            self.outgoing.pending().into_iter().for_each(|part| unanswered.extend_from_slice(part));
        }
        End::PathLost { opened: self.pump.stream.is_accepted(), error }
    }
}

/// Reads what has arrived. A read that does not fill the buffers has emptied the socket, so its readiness is cleared in the same
/// step and the next attempt costs no system call; what arrives in between raises it again, because it is edge-triggered.
fn read(socket: &TcpStream, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let room: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    let mut short = None;
    let read = socket.try_io(Interest::READABLE, || match rustix::io::readv(socket, buffers)? {
        count if count > 0 && count < room => {
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        }
        count => Ok(count),
    });
    match short {
        Some(count) => Ok(count),
        None => read,
    }
}

/// Closes an application's socket so that it sees a reset, never a clean end.
pub fn reset_application(socket: TcpStream) {
    // Where this fails the socket is gone already.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

#[cfg(test)]
mod tests;
