//! What a node writes down of every stream that it carried or refused: a line of JSON each, when the stream is over, in its own directory. The
//! peer's node writes the same stream under the same id, so that two companies can compare.
//!
//! Lines leave through a bounded queue, and a task writes them: nothing that moves bytes waits for a disk. What does not fit is counted,
//! and a line says how many are missing. What a node that is killed had not written is missing, too: its next start says so.

mod line;
pub mod syslog;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_proto::id::{ChannelId, Identifier, RefusalId};
use postern_runtime::bucket::Buckets;
use postern_runtime::clock::Clock;
use tokio::sync::mpsc;

pub use self::line::{Decision, Entry, Killed, Lost, Side, StreamLine};
pub use self::syslog::Syslog;
pub use self::writer::{FILES, Writer};

/// Lines that wait to be written: what a busy node ends in a tenth of a second. A waiting line has about 400 bytes.
const QUEUE: usize = 8_192;

/// Refusals of one peer that are written at once, and then one more in this time; others are counted. A peer that may use nothing must not
/// push out of the files what others did.
const REFUSALS: u32 = 1_000;
const REFUSAL_EVERY: Duration = Duration::from_secs(1);

/// Peers whose refusals are counted apart.
const MAX_PEERS: usize = 4_096;

/// Where a node's streams are written down. Clones are the same log.
#[derive(Debug, Clone)]
pub struct StreamLog {
    lines: mpsc::Sender<StreamLine>,
    lost: Arc<AtomicU64>,
    /// How many refusals of each peer are still written one by one.
    refusals: Arc<Mutex<Buckets<Option<Identifier>>>>,
    clock: Arc<Clock>,
    /// Where lines are sent beside the file.
    syslog: Option<Syslog>,
}

/// A stream that is not over: what will be written of it. In an allocation of its own, because whatever carries a stream waits for long
/// with it.
#[derive(Debug)]
pub struct OpenStream {
    log: StreamLog,
    began: Instant,
    line: StreamLine,
}

impl StreamLog {
    /// A log, and what writes it into its file.
    #[must_use]
    pub fn new(clock: Arc<Clock>) -> (Self, Writer) {
        let (lines, queue) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let refusals = Buckets::new(REFUSALS, REFUSAL_EVERY, MAX_PEERS, Instant::now());
        let log = Self {
            lines,
            lost: Arc::clone(&lost),
            refusals: Arc::new(Mutex::new(refusals)),
            clock: Arc::clone(&clock),
            syslog: None,
        };
        (log, Writer::new(queue, lost, clock))
    }

    /// The same log, which sends its lines to `syslog`, too.
    #[must_use]
    pub fn with_syslog(self, syslog: Syslog) -> Self {
        Self { syslog: Some(syslog), ..self }
    }

    /// A connection of an application begins, through the inlet or outlet `name` of this node's identity `own`.
    #[must_use]
    pub fn open(&self, side: Side, name: &str, outlet: &str, own: Identifier) -> Box<OpenStream> {
        let now = self.clock.now().to_string();
        let line = StreamLine::new(side, name, outlet, own, now);
        Box::new(OpenStream { log: self.clone(), began: Instant::now(), line })
    }

    fn put(&self, line: StreamLine) {
        let wanted = line.decision == Decision::Allowed || {
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take(line.peer(), Instant::now())
        };
        if let Some(syslog) = self.syslog.as_ref().filter(|_| wanted) {
            syslog.send(&line);
        }
        // Full, or closed because the node is at its end.
        if !wanted || self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written since the node started.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Lines that the syslog was not sent; 0 where there is none.
    #[must_use]
    pub fn not_sent(&self) -> u64 {
        self.syslog.as_ref().map_or(0, Syslog::lost)
    }
}

impl OpenStream {
    /// It is stream `id` of a channel with `peer`.
    pub fn with(&mut self, channel: ChannelId, id: u64, peer: Identifier) {
        self.line.stream = Some(format!("{channel}-{id}"));
        self.line.set_peer(peer);
    }

    /// The outlet that it leads to.
    pub fn through(&mut self, outlet: &str) {
        outlet.clone_into(&mut self.line.outlet);
    }

    /// It was refused, here or by the peer's node.
    pub fn refused(&mut self, code: &str, id: Option<RefusalId>) {
        self.line.decision = Decision::Refused;
        self.line.code = Some(code.to_owned());
        self.line.refusal = id;
    }

    /// It was refused, for a reason that nobody has told.
    pub fn refused_unless_said(&mut self) {
        self.line.decision = Decision::Refused;
    }

    /// It is over: `cause` as metrics call it, `sent` to the peer and `received` from it.
    pub fn ended(mut self: Box<Self>, cause: &'static str, (sent, received): (u64, u64)) {
        self.line.at = self.log.clock.now().to_string();
        self.line.duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.line.end = cause.to_owned();
        self.line.set_bytes(sent, received);
        let Self { log, line, .. } = *self;
        log.put(line);
    }
}

#[cfg(test)]
mod tests;
