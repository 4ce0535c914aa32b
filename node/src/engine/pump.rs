//! Moves the bytes of one stream between the application's socket and a path, both ways, in one task, for as long as the stream
//! lives: a path that is lost is replaced by another one, and the application notices nothing but time.
//!
//! The path is read until the stream has ended, so nothing on it ever waits for an application: what the application does not take at once is kept
//! in a backlog that the stream's credit bounds. Sealed records are kept until the peer has acknowledged them. Large buffers are
//! held only while bytes flow.

mod backlog;
mod paths;
mod receive;
mod send;

use std::io;
use std::time::Duration;

use postern_proto::record::{Reject, ResetCode};
use postern_proto::stream::{Early, INITIAL_CREDIT, MAX_CREDIT, Outbox, Stream, StreamError};
use postern_runtime::metrics::Count;
use postern_runtime::workers::keeps_busy;
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use self::backlog::Backlog;
use self::paths::Lost;
use super::buffers::{Buffer, Size};
use super::code;
use super::failure::{Failure, Step};
use super::held::Held;
use super::link::Link;
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

/// A stream that moves so many bytes in such a moment keeps its thread busy.
const MUCH: u64 = 4 * 1024 * 1024;
const MOMENT: Duration = Duration::from_millis(100);

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
