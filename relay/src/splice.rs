//! Joining two links: bytes of each go to the other, moved by the kernel without being seen, until either ends.
//!
//! A joined link is closed as a whole. Half-close travels inside the encrypted stream; so the end of either link, clean or
//! not, ends the join: what was read is delivered, then both are closed. After an error both are reset, so that neither end
//! can take the end of file for a clean one (the streams inside would not be fooled, but hear of it sooner).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::ending;
use crate::pipes::{Carrier, Filled, Pool, PoolSettings};

/// How long bytes may wait in a pipe for the far socket before they are read out and the pipe is given back.
const STALL: Duration = Duration::from_millis(100);

/// Reads of one direction in one turn of the task; then other tasks get theirs.
const TURN: usize = 8;

/// How long what was read may take to be delivered after one link ended: the time after which a link that takes nothing is
/// dead (its `TCP_USER_TIMEOUT`).
const DELIVERY: Duration = Duration::from_secs(15);

/// Joins links over one pool of pipes. Cheap to clone.
#[derive(Clone)]
pub struct Splicer(Arc<Parts>);

struct Parts {
    pool: Arc<Pool>,
    totals: Totals,
}

/// What all joins of a [`Splicer`] have carried.
#[derive(Debug, Default)]
pub struct Totals {
    /// Bytes from first links to second ones, as they were taken by the second.
    pub forward: AtomicU64,
    /// Bytes from second links to first ones.
    pub backward: AtomicU64,
    /// Joins alive now.
    pub live: AtomicUsize,
}

/// One of the two links of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    First,
    Second,
}

/// How a join ended.
#[derive(Debug)]
pub enum End {
    /// This link came to its clean end.
    Closed(Side),
    /// This link failed.
    Failed(Side, io::Error),
}

/// What a join did.
#[derive(Debug)]
pub struct Report {
    /// Bytes that the second link took from the first.
    pub forward: u64,
    /// Bytes that the first link took from the second.
    pub backward: u64,
    pub end: End,
}

impl Splicer {
    #[must_use]
    pub fn new(settings: PoolSettings) -> Self {
        Self(Arc::new(Parts { pool: Pool::new(settings), totals: Totals::default() }))
    }

    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.0.totals
    }

    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Carries bytes both ways until a link ends, then closes both. Dropping the future closes both at once.
    // No `async fn`: that would hold its arguments beside what is made of them.
    pub fn join(&self, first: TcpStream, second: TcpStream) -> impl Future<Output = Report> + Send + use<> {
        let mut join = Join {
            first,
            second,
            forward: Direction::new(),
            backward: Direction::new(),
            timer: None,
            live: Live::new(Arc::clone(&self.0)),
        };
        async move {
            let end = poll_fn(|cx| join.poll_carry(cx)).await;
            // In an allocation of its own, so that the many joins that go on do not carry the room for their end.
            Box::pin(join.finish(end)).await
        }
    }
}

/// A join's part in what all of them share: it counts for as long as it lives.
struct Live(Arc<Parts>);

impl Live {
    fn new(parts: Arc<Parts>) -> Self {
        parts.totals.live.fetch_add(1, Ordering::Relaxed);
        Self(parts)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.totals.live.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Join {
    first: TcpStream,
    second: TcpStream,
    forward: Direction,
    backward: Direction,
    /// Armed when bytes begin to wait in a pipe; left to run out rather than disarmed.
    timer: Option<Pin<Box<Sleep>>>,
    live: Live,
}

impl Join {
    /// Carries until one link ends.
    fn poll_carry(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let (forward, backward, Parts { pool, totals }) = (&mut self.forward, &mut self.backward, &*self.live.0);
            if let Poll::Ready(stop) = forward.poll_carry(cx, &self.first, &self.second, pool, &totals.forward) {
                return Poll::Ready(stop.end(Side::First, Side::Second));
            }
            if let Poll::Ready(stop) = backward.poll_carry(cx, &self.second, &self.first, pool, &totals.backward) {
                return Poll::Ready(stop.end(Side::Second, Side::First));
            }
            let Some(oldest) = forward.stalled.into_iter().chain(backward.stalled).min() else {
                self.timer.take_if(|timer| timer.is_elapsed());
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(oldest + STALL)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            let now = Instant::now();
            for (direction, from, to) in [(forward, Side::First, Side::Second), (backward, Side::Second, Side::First)] {
                if let Err(error) = direction.vacate(now) {
                    return Poll::Ready(Stop::Read(error).end(from, to));
                }
            }
        }
    }

    /// Delivers what was read and closes both links.
    async fn finish(mut self, end: End) -> Report {
        let failed = match end {
            End::Closed(_) => None,
            End::Failed(side, _) => Some(side),
        };
        let delivered = timeout(DELIVERY, poll_fn(|cx| self.poll_deliver(cx, failed))).await.unwrap_or(false);
        let Join { first, second, forward, backward, timer: _, live } = self;
        let report = Report { forward: forward.moved, backward: backward.moved, end };
        // Pipes go back before the last words of the sockets are waited for.
        drop((forward, backward));
        if failed.is_none() && delivered {
            ending::close(first, second).await;
        } else {
            // A link that failed, or took nothing for long, has no last words to wait for.
            let dead = |side| !delivered || failed == Some(side);
            ending::reset([(first, dead(Side::First)), (second, dead(Side::Second))]).await;
        }
        drop(live);
        report
    }

    /// Delivers what was read, except to the side that `failed`. False where it cannot be delivered.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, failed: Option<Side>) -> Poll<bool> {
        let mut delivered = true;
        let mut waiting = false;
        let (first, second, totals) = (&self.first, &self.second, &self.live.0.totals);
        for (direction, to, side, total) in [
            (&mut self.forward, second, Side::Second, &totals.forward),
            (&mut self.backward, first, Side::First, &totals.backward),
        ] {
            if failed != Some(side) {
                match direction.poll_drain(cx, to, total) {
                    Poll::Pending => waiting = true,
                    Poll::Ready(outcome) => delivered &= outcome.is_ok(),
                }
            }
        }
        if waiting && delivered { Poll::Pending } else { Poll::Ready(delivered) }
    }
}

/// Why one direction carries no more.
enum Stop {
    /// The source's clean end.
    End,
    Read(io::Error),
    Write(io::Error),
}

impl Stop {
    fn end(self, from: Side, to: Side) -> End {
        match self {
            Self::End => End::Closed(from),
            Self::Read(error) => End::Failed(from, error),
            Self::Write(error) => End::Failed(to, error),
        }
    }
}

/// Bytes from one link to the other.
struct Direction {
    /// Present only while bytes are in flight.
    carrier: Option<Carrier>,
    /// Set where the source cannot be spliced from.
    copy: bool,
    /// Since when the far socket has taken nothing of what is in a pipe.
    stalled: Option<Instant>,
    moved: u64,
}

impl Direction {
    const fn new() -> Self {
        Self { carrier: None, copy: false, stalled: None, moved: 0 }
    }

    fn poll_carry(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        pool: &Arc<Pool>,
        total: &AtomicU64,
    ) -> Poll<Stop> {
        for _ in 0..TURN {
            if let Err(error) = ready!(self.poll_drain(cx, to, total)) {
                return Poll::Ready(Stop::Write(error));
            }
            match from.poll_read_ready(cx) {
                Poll::Pending => {
                    self.carrier = None;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Stop::Read(error)),
                Poll::Ready(Ok(())) => {}
            }
            // A stalled pipe was read out into a buffer of its own length: what follows goes by pipe again.
            self.carrier.take_if(|carrier| matches!(carrier, Carrier::Buffer(_)) && !self.copy);
            match self.carrier.get_or_insert_with(|| pool.carrier(self.copy)).fill(from) {
                Ok(Filled::Bytes) => {}
                Ok(Filled::End) => return Poll::Ready(Stop::End),
                Ok(Filled::CannotSplice) => {
                    self.copy = true;
                    self.carrier = None;
                }
                // `try_io` has taken the readiness back, so the next turn of the loop waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Stop::Read(error)),
            }
        }
        // Its turn is over, not its work. What it holds is kept: the next poll begins by writing it.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is held until nothing is.
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream, total: &AtomicU64) -> Poll<io::Result<()>> {
        let Some(carrier) = &mut self.carrier else { return Poll::Ready(Ok(())) };
        while carrier.held() > 0 {
            let ready = to.poll_write_ready(cx);
            if ready.is_pending() {
                if matches!(carrier, Carrier::Pipe(_)) {
                    self.stalled.get_or_insert_with(Instant::now);
                }
                return Poll::Pending;
            }
            if let Poll::Ready(Err(error)) = ready {
                return Poll::Ready(Err(error));
            }
            match carrier.drain(to) {
                Ok(count) => {
                    self.stalled = None;
                    self.moved += count as u64;
                    total.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.stalled = None;
        Poll::Ready(Ok(()))
    }

    /// Gives the pipe back if its bytes have waited too long. Without budget for a buffer they wait another [`STALL`].
    fn vacate(&mut self, now: Instant) -> io::Result<()> {
        let Some(carrier) = &mut self.carrier else { return Ok(()) };
        if self.stalled.is_none_or(|since| now < since + STALL) {
            return Ok(());
        }
        carrier.read_out(false)?;
        self.stalled = matches!(carrier, Carrier::Pipe(_)).then_some(now);
        Ok(())
    }
}

#[cfg(test)]
#[path = "splice_tests.rs"]
mod tests;
