//! Moves the bytes of one stream between the application's socket and a path, both ways, in one task, for as long as the stream
//! lives: a path that is lost is replaced by another one, and the application notices nothing but time.
//!
//! The path is read until the stream has ended, so nothing on it ever waits for an application: what the application does not take at once is kept
//! in a backlog that the stream's credit bounds. Sealed records are kept until the peer has acknowledged them. Large buffers are
//! held only while bytes flow.

mod backlog;
mod paths;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::time::Duration;

use postern_proto::record::{HEADER_LEN, Kind, MAX_BODY, MAX_RECORD, OVERHEAD, PREFIX_LEN, Reject, ResetCode};
use postern_proto::stream::{Early, INITIAL_CREDIT, MAX_CREDIT, Outbox, Received, SMALL, Stream, StreamError};
use postern_runtime::metrics::Count;
use postern_runtime::workers::keeps_busy;
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;

use self::backlog::Backlog;
use self::paths::Lost;
use super::buffers::{Buffer, MOST_RECORDS, Size};
use super::code;
use super::failure::{Failure, Step};
use super::held::Held;
use super::link::{Link, read};
use super::live::{Event, Signal};
use super::metrics::Counted;

/// How long the peer may wait for the count of records that were opened, where no acknowledgement was due before.
const ACK_DELAY: Duration = Duration::from_secs(1);

/// How long the accept may wait for something that goes with it, as a target's first bytes: a record of its own costs each hop a wake-up.
const ANSWER_DELAY: Duration = Duration::from_millis(1);

/// How long a stream of which one direction has ended may stay without a byte in the other. Long enough for slow answers to a
/// request that was sent whole, short enough that forgotten connections go away.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long the peer may take to answer an attach, or an open before it is said again on another path.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How long opening a stream may take, with the dial of its target.
const OPEN_DEADLINE: Duration = Duration::from_secs(20);

/// A path on which records wait for their acknowledgement and nothing at all was heard for so long is dead: a peer that hears acknowledges
/// within [`ACK_DELAY`].
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// How long a stream that the peer has given up may take what is still on its path.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Rounds after which a busy stream lets others of its thread run.
const ROUNDS_PER_TURN: u32 = 8;

/// Records of a path that are opened in one round: most of one read, and what is left over from the read before.
const RECORDS_PER_ROUND: usize = MOST_RECORDS * 4;

/// A stream that moves so many bytes in such a moment keeps its thread busy.
const MUCH: u64 = 4 * 1024 * 1024;
const MOMENT: Duration = Duration::from_millis(100);

/// Small unacknowledged records may take this much more room than their bytes, which the credit bounds.
const MAX_KEPT: usize = 8 * 1024 * 1024;

/// Control records that wait for their path to take them: behind so many bytes none is added. What there is to say is then said once, and not
/// as often as a peer asks that does not read.
const MAX_SMALL: usize = 8 * 1024;

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended cleanly; the path can carry another stream.
    Clean,
    /// The outlet's node did not open it; no byte reached the target.
    Rejected(Box<Reject>),
    /// The outlet's node did not answer, or could not be asked.
    NotOpened(Box<Failure>),
    /// The peer gave it up.
    ResetByPeer(ResetCode),
    /// This side gave it up, and said so on the path. Whether that arrived is not known: a path that is closed with something unread on it
    /// loses what was written last.
    Reset { code: ResetCode },
    /// The path was lost, and no other one was found in time.
    PathLost { error: io::Error },
    /// The peer broke the protocol.
    Protocol(StreamError),
}

/// How the opener's side brings its stream to another path.
pub trait Resume: Sync {
    /// Asks for a path, which comes by the stream's [`Signal`]. `attempt` counts from 0 for each loss, which was at `since`.
    fn ask(&self, attempt: u32, since: Instant);

    /// Appends the frame that attaches `stream` to a path.
    ///
    /// # Errors
    /// Where it cannot be sealed.
    fn attach(&self, stream: &mut Stream, out: &mut Vec<u8>) -> Result<(), StreamError>;

    /// Whether another stream of the channel is likely to use the path in a moment, and to say what is owed on it.
    fn is_followed(&self) -> bool;
}

/// One stream with what it stands on.
pub struct Pump<'a> {
    pub stream: &'a mut Stream,
    pub application: &'a TcpStream,
    pub link: Link,
    /// What happens to the stream from outside.
    pub signal: &'a Signal,
    /// How it comes to another path; the acceptor's side waits for the opener to bring one.
    pub resume: Option<&'a dyn Resume>,
    /// How long it may be without a path.
    pub patience: Duration,
    /// Counts each time that the stream goes on with another path.
    pub resumed: &'a Count,
    /// Counts what the stream carries.
    pub counted: &'a mut Counted,
    /// Its part of what streams hold for others.
    pub held: Held,
    /// What the application has written already.
    pub early: Early,
}

/// What one round did.
#[derive(Default)]
struct Progress {
    moved: bool,
    end: Option<End>,
}

struct State<'a> {
    stream: &'a mut Stream,
    application: &'a TcpStream,
    signal: &'a Signal,
    resume: Option<&'a dyn Resume>,
    patience: Duration,
    /// None while the stream has no path.
    link: Option<Link>,
    lost: Option<Lost>,
    outbox: Outbox<Buffer>,
    held: Held,
    /// Control records, and the frame that opens or attaches, in front of them: they belong to the path of now.
    small: Vec<u8>,
    small_position: usize,
    backlog: Backlog,
    /// How much is read from the application at once.
    reads: Size,
    application_ended: bool,
    /// The application was told that the peer's direction has ended.
    told_end: bool,
    began: Instant,
    /// When the open or attach that waits for its answer was said.
    asked: Option<Instant>,
    acknowledge_by: Option<Instant>,
    /// Until when the accept waits.
    answer_by: Option<Instant>,
    /// The peer said on the control stream that it has given the stream up, and how long its last bytes may take.
    given_up: Option<(ResetCode, Instant)>,
    /// The path has brought something since [`Self::owed_since`] was set.
    heard: bool,
    /// Since when the peer owes something and was not heard.
    owed_since: Option<Instant>,
    idle_since: Instant,
    /// Bytes that had moved when it was last looked whether the stream keeps its thread busy, and when that was.
    noted: (u64, Instant),
    corruptions: u32,
    resumed: &'a Count,
    counted: &'a mut Counted,
}

/// What became of a stream.
#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    /// The path that it had then.
    pub path: Option<Link>,
    /// Of a stream that was rejected: the data records that were sealed for it.
    pub sealed: Vec<u8>,
}

/// Moves bytes until the stream ends.
///
/// `first` is sent before anything else: the frame that opens the stream, or nothing where the stream is accepted already.
pub async fn run(pump: Pump<'_>, first: Vec<u8>) -> Outcome {
    let mut state = match State::new(pump, first) {
        Ok(state) => state,
        Err(error) => return Outcome { end: End::Protocol(error), path: None, sealed: Vec::new() },
    };
    let end = state.run().await;
    let State { link: mut path, outbox, .. } = state;
    // The path may wait for long before it carries another one.
    path.iter_mut().for_each(Link::release);
    let sealed = if matches!(end, End::Rejected(_)) { outbox.into_sealed() } else { Vec::new() };
    Outcome { end, path, sealed }
}

impl<'a> State<'a> {
    fn new(pump: Pump<'a>, first: Vec<u8>) -> Result<Self, StreamError> {
        let Pump { stream, application, mut link, signal, resume, patience, resumed, counted, held, early } = pump;
        let now = Instant::now();
        let answer_by = stream.has_only_answer().then(|| now + ANSWER_DELAY);
        let mut outbox = Outbox::default();
        early.seal(stream, &mut outbox).inspect_err(|_| _ = link.settle())?;
        let mut small = std::mem::take(&mut link.owed);
        small.extend(first);
        Ok(Self {
            asked: (!stream.is_accepted()).then_some(now),
            stream,
            application,
            signal,
            resume,
            patience,
            link: Some(link),
            lost: None,
            outbox,
            held,
            small,
            small_position: 0,
            backlog: Backlog::default(),
            reads: Size::SMALLEST,
            application_ended: early.is_finished(),
            told_end: false,
            began: now,
            acknowledge_by: None,
            answer_by,
            given_up: None,
            heard: false,
            owed_since: None,
            idle_since: now,
            noted: (0, now),
            corruptions: 0,
            resumed,
            counted,
        })
    }

    async fn run(&mut self) -> End {
        let timer = tokio::time::sleep(HALF_CLOSED_TIMEOUT);
        tokio::pin!(timer);
        let mut rounds = 0;
        loop {
            let progress = self.round();
            if let Some(end) = progress.end {
                return end;
            }
            if progress.moved {
                rounds += 1;
                if rounds % ROUNDS_PER_TURN == 0 {
                    self.release();
                    if let Some(event) = self.signal.take()
                        && let Err(end) = self.handle(event)
                    {
                        return end;
                    }
                    tokio::task::yield_now().await;
                }
                continue;
            }
            self.release();
            if let Err(end) = self.wait(timer.as_mut()).await {
                return end;
            }
        }
    }

    fn note_moved(&mut self) {
        let (sent, received) = self.stream.bytes();
        self.counted.moved((sent, received));
        if sent + received >= self.noted.0 + MUCH {
            let now = Instant::now();
            if now - self.noted.1 < MOMENT {
                keeps_busy();
            }
            self.noted = (sent + received, now);
        }
    }

    /// Buffers go back while nothing moves.
    fn release(&mut self) {
        self.note_moved();
        let unread = self.link.as_ref().map_or(0, |link| link.unread().len());
        self.held.set(self.outbox.kept() + unread + usize::try_from(self.stream.buffered()).unwrap_or(usize::MAX));
        self.stream.set_max_window(if self.held.is_scarce() { INITIAL_CREDIT } else { MAX_CREDIT });
        if let Some(link) = &mut self.link {
            link.release();
        }
        if self.small.is_empty() {
            self.small = Vec::new();
        }
    }

    /// When something is due though nothing arrives.
    fn due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if !self.stream.has_unacknowledged() {
            self.acknowledge_by = None;
        } else if self.acknowledge_by.is_none() {
            self.acknowledge_by = Some(now + ACK_DELAY);
        }
        let heard = std::mem::take(&mut self.heard);
        self.owed_since = self.is_owed().then(|| self.owed_since.filter(|_| !heard).unwrap_or(now));
        let dead = self.owed_since.map(|since| since + DEAD_AFTER);
        let lost = self.lost.as_ref().map(|lost| lost.until(self.patience));
        let asked = self.asked.map(|since| since + ANSWER_PATIENCE);
        let opened = (!self.stream.is_accepted()).then(|| self.began + OPEN_DEADLINE);
        let half_closed = self.is_half_closed().then(|| self.idle_since + HALF_CLOSED_TIMEOUT);
        let given_up = self.given_up.map(|(_, by)| by);
        [given_up, self.answer_by, self.acknowledge_by, dead, lost, asked, opened, half_closed].into_iter().flatten().min()
    }

    /// Whether the peer has to acknowledge something.
    fn is_owed(&self) -> bool {
        self.link.is_some() && self.lost.is_none() && self.stream.is_accepted() && self.outbox.kept() > 0
    }

    fn is_half_closed(&self) -> bool {
        self.application_ended || self.stream.peer_finished()
    }

    /// Waits until something can move, or the stream has to end.
    async fn wait(&mut self, mut timer: std::pin::Pin<&mut Sleep>) -> Result<(), End> {
        let due = self.due();
        // A timer that rings too early costs less than setting it each time.
        if let Some(due) = due
            && (due < timer.deadline() || timer.is_elapsed())
        {
            timer.as_mut().reset(due);
        }
        let reads = self.reads_path().then_some(Interest::READABLE);
        let writes = self.has_pending().then_some(Interest::WRITABLE);
        let path = reads.into_iter().chain(writes).reduce(Interest::add);
        let mut application = Interest::ERROR;
        if self.may_read_application() {
            application |= Interest::READABLE;
        }
        if !self.backlog.is_empty() {
            application |= Interest::WRITABLE;
        }
        tokio::select! {
            biased;
            event = self.signal.next() => self.handle(event),
            ready = readiness(self.link.as_ref(), path) => match ready {
                Ok(_) => Ok(()),
                Err(error) => self.path_lost(error),
            },
            ready = self.application.ready(application) => {
                let failed = match ready {
                    Ok(ready) if ready.is_error() => {
                        let failed = matches!(self.application.take_error(), Ok(Some(_)) | Err(_));
                        // An error that something else took already must not wake this task for ever.
                        let _ = self.application.try_io(Interest::ERROR, || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) });
                        failed
                    }
                    Ok(_) => false,
                    Err(_) => true,
                };
                if failed { Err(self.give_up(ResetCode::Application)) } else { Ok(()) }
            }
            () = timer.as_mut(), if due.is_some() => self.overdue(),
        }
    }

    /// The timer rang: does what is due.
    fn overdue(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let passed = |since: Instant, limit: Duration| now >= since + limit;
        if let Some((code, _)) = self.given_up.filter(|(_, by)| now >= *by) {
            return Err(End::ResetByPeer(code));
        }
        if !self.stream.is_accepted() && passed(self.began, OPEN_DEADLINE) {
            let failure = Failure::new(Step::Outlet, code::PATH_LOST, "the outlet's node did not answer in time");
            self.give_up(ResetCode::Timeout);
            return Err(End::NotOpened(Box::new(failure)));
        }
        if let Some(lost) = self.lost.take_if(|lost| now >= lost.until(self.patience)) {
            return Err(self.forsaken(lost.error));
        }
        if self.asked.is_some_and(|since| passed(since, ANSWER_PATIENCE)) {
            // An open or an attach without an answer is one that may have got lost. Whether the path works, another one tells.
            return self.path_lost(io::ErrorKind::TimedOut.into());
        }
        if self.is_owed() && !self.heard && self.owed_since.is_some_and(|since| passed(since, DEAD_AFTER)) {
            return self.path_lost(io::ErrorKind::TimedOut.into());
        }
        if self.acknowledge_by.take_if(|by| now >= *by).is_some() {
            self.stream.acknowledge();
        }
        if self.is_half_closed() && passed(self.idle_since, HALF_CLOSED_TIMEOUT) {
            return Err(self.give_up(ResetCode::Timeout));
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Kill(code) => Err(self.give_up(code)),
            // What was sent before it may still be on the path, which ends with the same word.
            Event::Reset(code) if self.link.is_some() => {
                self.given_up = Some((code, Instant::now() + LAST_BYTES));
                Ok(())
            }
            Event::Reset(code) => Err(End::ResetByPeer(code)),
            Event::Path(link, attachment) => match (link.adopted(), attachment) {
                (Ok(link), Some(attachment)) => self.attached(link, attachment),
                (Ok(link), None) => self.attach(link),
                (Err(error), _) => self.path_lost(error),
            },
            Event::NoPath(no_path) => self.no_path(no_path),
        }
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
        if self.stream.is_finished() && !self.has_pending() && self.told_end && self.backlog.is_empty() {
            progress.end = Some(End::Clean);
        }
        progress
    }

    /// Whether the path is read: a finished stream leaves what follows to the next one.
    fn reads_path(&self) -> bool {
        self.link.is_some() && !self.stream.is_finished()
    }

    /// path → application: reads, opens in place, and writes at once what the application takes.
    fn read_link(&mut self) -> Result<bool, End> {
        if !self.reads_path() {
            return Ok(false);
        }
        let Some(link) = &mut self.link else { return Ok(false) };
        let mut moved = false;
        // What was read is handled first: an end of the path may come behind it.
        let filled = match link.next_frame() {
            Ok(None) => link.fill(),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        };
        match filled {
            Ok(0) => return self.path_lost(io::ErrorKind::UnexpectedEof.into()).map(|()| true),
            Ok(_) => (moved, self.heard) = (true, true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return self.path_lost(error).map(|()| true),
        }
        let mut pieces = [(0, 0); RECORDS_PER_ROUND];
        let mut count = 0;
        for _ in 0..RECORDS_PER_ROUND {
            if !self.reads_path() {
                break;
            }
            let Some(link) = &mut self.link else { break };
            let header = match link.next_frame() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    self.deliver(&pieces[..count])?;
                    return self.corrupted(error.into()).map(|()| true);
                }
            };
            let (start, length) = (link.start, HEADER_LEN + header.length);
            link.start += length;
            let Some(buffer) = &mut link.buffer else { break };
            let record = &mut buffer[start..start + length];
            moved = true;
            match self.stream.handle_record(header, record) {
                Ok(Received::Data(body)) => {
                    pieces[count] = (start + PREFIX_LEN, start + PREFIX_LEN + body.len());
                    count += 1;
                }
                Ok(Received::Accepted) => self.asked = None,
                Ok(Received::Progress) => self.outbox.acknowledge(self.stream.acknowledged()),
                Ok(Received::Fin) => {}
                Ok(Received::Attached { received }) => {
                    debug!(received, "attached the stream to another path");
                    self.outbox.rewind(received);
                    self.resumed.add(1);
                    (self.lost, self.asked) = (None, None);
                }
                Ok(Received::Finished) => {
                    self.outbox.rewind(self.stream.acknowledged());
                    (self.lost, self.asked) = (None, None);
                }
                Ok(Received::Rejected(reject)) => return Err(End::Rejected(reject)),
                Ok(Received::Reset(code)) => return Err(End::ResetByPeer(code)),
                // Not authenticated, so it ends nothing that lives: whether the stream is known, another path may tell.
                Err(StreamError::UnexpectedKind(Kind::NoChannel)) if self.stream.is_accepted() => {
                    self.deliver(&pieces[..count])?;
                    return self.path_lost(io::ErrorKind::NotFound.into()).map(|()| true);
                }
                Err(error @ StreamError::UnexpectedKind(Kind::NoChannel)) => return Err(End::Protocol(error)),
                Err(error) if error.may_be_the_path() => {
                    self.deliver(&pieces[..count])?;
                    return self.corrupted(error).map(|()| true);
                }
                Err(error) => return Err(self.protocol(error)),
            }
        }
        self.deliver(&pieces[..count])?;
        Ok(moved)
    }

    /// Writes opened bytes to the application; what it does not take goes to the backlog.
    fn deliver(&mut self, pieces: &[(usize, usize)]) -> Result<(), End> {
        let Some(buffer) = self.link.as_ref().and_then(|link| link.buffer.as_ref()) else { return Ok(()) };
        let mut written = 0;
        if self.backlog.is_empty() && !pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); RECORDS_PER_ROUND];
            for (slice, (start, end)) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(&buffer[*start..*end]);
            }
            match self.application.try_write_vectored(&slices[..pieces.len()]) {
                Ok(count) => written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.give_up(ResetCode::Application)),
            }
        }
        self.stream.consumed(written as u64);
        for (start, end) in pieces {
            let taken = written.min(end - start);
            written -= taken;
            if start + taken < *end {
                self.backlog.push(&buffer[start + taken..*end]);
            }
        }
        if self.is_half_closed() && !pieces.is_empty() {
            self.idle_since = Instant::now();
        }
        Ok(())
    }

    /// backlog → application, and the end of the peer's direction behind it.
    fn write_application(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while let Some(first) = self.backlog.front() {
            match self.application.try_write(first) {
                Ok(count) => {
                    self.backlog.advance(count);
                    self.stream.consumed(count as u64);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                Err(_) => return Err(self.give_up(ResetCode::Application)),
            }
        }
        if self.stream.peer_finished() && !self.told_end {
            (self.told_end, self.idle_since) = (true, Instant::now());
            // Where the application has closed already, there is nobody to tell.
            let _ = SockRef::from(self.application).shutdown(Shutdown::Write);
            moved = true;
        }
        Ok(moved)
    }

    fn may_read_application(&self) -> bool {
        !self.application_ended && self.lost.is_none() && self.outbox.is_written() && self.room() > 0
    }

    /// How many bytes of the application there is room for.
    fn room(&self) -> usize {
        let most = if self.held.is_scarce() { INITIAL_CREDIT as usize } else { MAX_KEPT };
        let budget = usize::try_from(self.stream.budget()).unwrap_or(usize::MAX);
        budget.min(most.saturating_sub(self.outbox.kept()))
    }

    /// application → path: several records with one read, sealed where they were read to.
    fn read_application(&mut self) -> Result<bool, End> {
        if !self.may_read_application() {
            return Ok(false);
        }
        let room = self.room();
        let mut left = room;
        let size = self.reads.min(Size::of_bodies(room));
        let mut buffer = Buffer::take(size);
        let mut slots = buffer.chunks_exact_mut(MAX_RECORD);
        let mut targets = [(); MOST_RECORDS].map(|()| {
            let body = slots.next().map_or(&mut [][..], |slot| &mut slot[PREFIX_LEN..PREFIX_LEN + MAX_BODY]);
            let length = body.len().min(left);
            left -= length;
            IoSliceMut::new(&mut body[..length])
        });
        let count = match read(self.application, &mut targets[..size.records()]) {
            Ok(0) => {
                (self.application_ended, self.idle_since) = (true, Instant::now());
                self.outbox.push_copy(&self.stream.seal_fin().map_err(End::Protocol)?);
                return Ok(true);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Err(self.give_up(ResetCode::Application)),
        };
        // One that was short because there was no room for more says nothing of the next.
        if count < room || size == self.reads && count == size.records() * MAX_BODY {
            self.reads = self.reads.after(count);
        }
        // All slots but the last were filled, so the records stand one behind the other.
        let (mut end, mut records) = (0, 0);
        for (slot, at) in (0..count).step_by(MAX_BODY).enumerate() {
            let start = slot * MAX_RECORD;
            end = start + OVERHEAD + (count - at).min(MAX_BODY);
            self.stream.seal_data(&mut buffer[start..end]).map_err(End::Protocol)?;
            records += 1;
        }
        if end <= SMALL {
            self.outbox.push_copy(&buffer[..end]);
        } else {
            self.outbox.push(buffer, end, records);
        }
        if self.is_half_closed() {
            self.idle_since = Instant::now();
        }
        Ok(true)
    }

    /// Acknowledgements and the like.
    fn control(&mut self) -> Result<bool, End> {
        if self.link.is_none() || self.answer_waits() {
            return Ok(false);
        }
        if self.told_end
            && self.stream.has_only_last_word()
            && !self.has_pending()
            && self.resume.is_some_and(Resume::is_followed)
        {
            // It costs every hop a wake-up, and goes with the next stream's open for nothing.
            let Some(link) = &mut self.link else { return Ok(false) };
            return self.stream.poll_transmit(&mut link.owed).map_err(End::Protocol);
        }
        if self.small_position == self.small.len() {
            self.small.clear();
            self.small_position = 0;
        } else if self.small.len() >= MAX_SMALL {
            return Ok(false);
        }
        self.stream.poll_transmit(&mut self.small).map_err(End::Protocol)
    }

    /// Whether there is nothing to send but the accept, which has time.
    fn answer_waits(&mut self) -> bool {
        let waits = self.answer_by.is_some_and(|by| {
            let alone = self.stream.has_only_answer() && self.outbox.is_written();
            alone && Instant::now() < by
        });
        if !waits {
            self.answer_by = None;
        }
        waits
    }

    /// Whether something waits to be written to the path.
    fn has_pending(&self) -> bool {
        let data = !self.stream.is_attaching() && !self.outbox.is_written();
        self.link.is_some() && (data || self.small_position < self.small.len())
    }

    /// Control records go first, behind the rest of a record that has begun to leave: no record is ever cut by another.
    fn write_link(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while self.has_pending() {
            let Some(link) = &self.link else { break };
            let small = &self.small[self.small_position..];
            let data = if self.stream.is_attaching() { &[][..] } else { self.outbox.pending() };
            let (rest, data) = data.split_at(self.outbox.rest_of_record().min(data.len()));
            let slices = [rest, small, data].map(IoSlice::new);
            match link.socket.try_write_vectored(&slices) {
                Ok(count) => {
                    let of_small = count.saturating_sub(rest.len()).min(small.len());
                    self.small_position += of_small;
                    self.outbox.advance(count - of_small);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.path_lost(error).map(|()| true),
            }
        }
        Ok(moved)
    }

    /// Tells the peer that this side gives the stream up, as far as the path takes it at once.
    fn give_up(&mut self, code: ResetCode) -> End {
        self.stream.reset(code);
        // The path's own end, behind everything that was sent on it.
        let _ = self.control().and_then(|_| self.write_link());
        End::Reset { code }
    }

    fn protocol(&mut self, error: StreamError) -> End {
        self.give_up(ResetCode::Protocol);
        End::Protocol(error)
    }
}

/// Waits for a path to be ready; for ever where there is none, or nothing to do with it.
async fn readiness(link: Option<&Link>, interest: Option<Interest>) -> io::Result<Ready> {
    match link.zip(interest) {
        Some((link, interest)) => link.socket.ready(interest).await,
        None => std::future::pending().await,
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
