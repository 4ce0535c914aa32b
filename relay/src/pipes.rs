//! What bytes sit in while they pass from one link to the other: a kernel pipe for as long as they move, a buffer when they
//! do not. Both come from one [`Pool`], which bounds them for the whole process; a link on which nothing is in flight holds
//! neither.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Capacity asked of the kernel for each pipe. Larger ones gained nothing measurable; smaller ones cost system calls.
pub const PIPE_SIZE: usize = 256 * 1024;

/// Pipes in the pool. With [`PIPE_SIZE`] 32 MiB, under the 64 MiB that Linux grants an unprivileged user before it makes
/// pipes of 8 KiB (`pipe-user-pages-soft`); with [`MOST_SPLICED`], 64 MiB are in them at most. A pipe is held for microseconds, so that a
/// few dozen serve thousands of links.
pub const MAX_PIPES: usize = 128;

/// Bytes in buffers for which the pool answers: 512 stalled links of [`CROWDED_SPLICED`] beside 64 that flowed, [`MOST_SPLICED`] each.
pub const MAX_BUFFERED: usize = 64 * 1024 * 1024;

/// A buffer of the copy loop.
const BUFFER_SIZE: usize = 64 * 1024;

/// Where neither a pipe nor a counted buffer is to be had, a direction goes on with this much, so that other peers' stalled
/// links slow it down and never stop it. Uncounted: two a join at most, and joins are bounded.
const LAST_RESORT_SIZE: usize = 8 * 1024;

/// What one splice asks for. A pipe has a slot for each page of its capacity and puts a whole network buffer into each, so it takes several
/// times its capacity of a fast stream; what is moved at once wakes the hops behind it once.
const MOST_SPLICED: usize = 512 * 1024;

/// What it asks for once half of the pipes, or of the buffers' bytes, are used or may be: whoever stalls links on purpose has to stall many.
const CROWDED_SPLICED: usize = 64 * 1024;

/// Bounds of a [`Pool`].
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Most pipes alive at once; 0 means that everything is copied.
    pub pipes: usize,
    /// Bytes, as asked of the kernel, which may grant less.
    pub pipe_size: usize,
    /// Most bytes of counted buffers.
    pub buffered: usize,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { pipes: MAX_PIPES, pipe_size: PIPE_SIZE, buffered: MAX_BUFFERED }
    }
}

/// The pipes and the buffer budget of a process.
pub struct Pool {
    settings: PoolSettings,
    /// Empty pipes; the one used last is taken first, since its memory is warm.
    // Each in an allocation of its own, so that a join without any holds the room of a pointer.
    #[expect(clippy::vec_box, reason = "a pipe moves between here and its user as a pointer")]
    pub(crate) free: Mutex<Vec<Box<Pipe>>>,
    alive: AtomicUsize,
    /// How many of them hold something, or are about to.
    lent: AtomicUsize,
    buffered: AtomicUsize,
    /// Set once the kernel refused to make a pipe or to splice, so that it is logged once.
    refused: AtomicBool,
}

impl Pool {
    #[must_use]
    pub fn new(settings: PoolSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            free: Mutex::default(),
            alive: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        })
    }

    /// Pipes alive now, in use or not.
    #[must_use]
    pub fn pipes(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Bytes of counted buffers now.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Something empty to carry bytes in: a pipe unless `copy`, else a buffer.
    pub(crate) fn carrier(self: &Arc<Self>, copy: bool) -> Carrier {
        match (!copy).then(|| self.pipe()).flatten() {
            Some(pipe) => Carrier::Pipe(pipe),
            None => Carrier::Buffer(Box::new(self.buffer(BUFFER_SIZE).unwrap_or_else(|| self.uncounted(LAST_RESORT_SIZE)))),
        }
    }

    fn pipe(self: &Arc<Self>) -> Option<PooledPipe> {
        let pooled = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pipe = match pooled {
            Some(pipe) => pipe,
            None => {
                reserve(&self.alive, 1, self.settings.pipes).then_some(())?;
                match Pipe::open(self.settings.pipe_size) {
                    Ok(pipe) => Box::new(pipe),
                    Err(error) => {
                        self.alive.fetch_sub(1, Ordering::Relaxed);
                        self.report_refusal("pipe", error);
                        return None;
                    }
                }
            }
        };
        self.lent.fetch_add(1, Ordering::Relaxed);
        Some(PooledPipe { pipe: Some(pipe), pool: Arc::clone(self) })
    }

    /// What one splice asks for now. Whatever is in a pipe may have to be read out into a buffer.
    fn most(&self) -> usize {
        let lent = self.lent.load(Ordering::Relaxed);
        let PoolSettings { pipes, buffered, .. } = self.settings;
        let crowded = lent > pipes / 2 || self.buffered() + lent * MOST_SPLICED > buffered / 2;
        if crowded { CROWDED_SPLICED } else { MOST_SPLICED }
    }

    fn buffer(self: &Arc<Self>, size: usize) -> Option<Buffer> {
        reserve(&self.buffered, size, self.settings.buffered).then(|| {
            let mut buffer = self.uncounted(size);
            buffer.counted = size;
            buffer
        })
    }

    fn uncounted(self: &Arc<Self>, size: usize) -> Buffer {
        Buffer { bytes: vec![0; size].into_boxed_slice(), start: 0, end: 0, counted: 0, pool: Arc::clone(self) }
    }

    fn report_refusal(&self, call: &'static str, error: Errno) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(call, %error, "the kernel refused; links are copied where it does");
        }
    }
}

/// Adds `amount` to `counter` unless it would exceed `limit`.
fn reserve(counter: &AtomicUsize, amount: usize, limit: usize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| now.checked_add(amount).filter(|sum| *sum <= limit)).is_ok()
}

/// A kernel pipe, and how many bytes are in it.
pub(crate) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    fn open(size: usize) -> Result<Self, Errno> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Above the user's limit the kernel refuses and leaves a smaller pipe, which serves too.
        let _ = fcntl_setpipe_size(&writer, size);
        Ok(Self { reader, writer, held: 0 })
    }
}

/// A pipe on loan. It goes back when it is empty, and is closed when it is not: no byte ever reaches another link.
pub(crate) struct PooledPipe {
    /// Present until dropped.
    pipe: Option<Box<Pipe>>,
    pool: Arc<Pool>,
}

impl Drop for PooledPipe {
    fn drop(&mut self) {
        self.pool.lent.fetch_sub(1, Ordering::Relaxed);
        match self.pipe.take() {
            Some(pipe) if pipe.held == 0 => self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(pipe),
            _ => {
                self.pool.alive.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Bytes in memory, between a read and the writes that follow it.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// How much of the pool's budget it holds.
    counted: usize,
    pool: Arc<Pool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.buffered.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Bytes of one direction of a join, on their way.
pub(crate) enum Carrier {
    Pipe(PooledPipe),
    Buffer(Box<Buffer>),
}

/// What [`Carrier::fill`] found.
pub(crate) enum Filled {
    Bytes,
    /// Clean end of file.
    End,
    /// This socket cannot be spliced from; nothing was read.
    CannotSplice,
}

impl Carrier {
    /// Bytes read and not yet written.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Pipe(PooledPipe { pipe, .. }) => pipe.as_ref().map_or(0, |pipe| pipe.held),
            Self::Buffer(buffer) => buffer.end - buffer.start,
        }
    }

    /// Reads once from `from`. Only an empty carrier may be filled: that `WouldBlock` then means an empty socket, and never a
    /// full pipe, is what makes it right to wait for readability.
    ///
    /// # Errors
    /// `WouldBlock` after which readability may be awaited; any other error is the socket's.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<Filled> {
        debug_assert_eq!(self.held(), 0, "only an empty carrier is filled");
        let count = match self {
            Self::Pipe(PooledPipe { pipe: Some(pipe), pool }) => {
                let most = pool.most();
                match from.try_io(Interest::READABLE, || move_bytes(from, &pipe.writer, most)) {
                    Ok(count) => {
                        pipe.held = count;
                        count
                    }
                    Err(error) if cannot_splice(&error) => {
                        pool.report_refusal("splice", Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
                        return Ok(Filled::CannotSplice);
                    }
                    Err(error) => return Err(error),
                }
            }
            Self::Pipe(_) => 0,
            Self::Buffer(buffer) => {
                let count = from.try_read(&mut buffer.bytes)?;
                (buffer.start, buffer.end) = (0, count);
                count
            }
        };
        Ok(if count == 0 { Filled::End } else { Filled::Bytes })
    }

    /// Writes once to `to`, and returns how many bytes went.
    ///
    /// # Errors
    /// `WouldBlock` after which writability may be awaited; any other error is the socket's.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        match self {
            Self::Pipe(PooledPipe { pipe: Some(pipe), .. }) => {
                let held = pipe.held;
                let moved = match to.try_io(Interest::WRITABLE, || move_bytes(&pipe.reader, to, held)) {
                    // A socket that takes nothing of a full pipe cannot be spliced to; a write of the same bytes says why.
                    Ok(0) => Err(io::Error::from(Errno::INVAL)),
                    moved => moved,
                };
                match moved {
                    Ok(count) => {
                        pipe.held -= count.min(held);
                        Ok(count)
                    }
                    Err(error) if cannot_splice(&error) => {
                        self.read_out(true)?;
                        Ok(0)
                    }
                    Err(error) => Err(error),
                }
            }
            Self::Pipe(_) => Ok(0),
            Self::Buffer(buffer) => {
                let count = to.try_write(&buffer.bytes[buffer.start..buffer.end])?;
                buffer.start += count;
                Ok(count)
            }
        }
    }

    /// Moves what is in the pipe into memory, so that the pipe can serve others. Without budget it stays where it is, unless
    /// `must`.
    ///
    /// # Errors
    /// The pipe's, which loses bytes and so must end the join.
    pub(crate) fn read_out(&mut self, must: bool) -> io::Result<()> {
        let Self::Pipe(PooledPipe { pipe: Some(pipe), pool }) = self else { return Ok(()) };
        let held = pipe.held;
        let Some(mut buffer) = pool.buffer(held).or_else(|| must.then(|| pool.uncounted(held))) else { return Ok(()) };
        while buffer.end < held {
            match rustix::io::read(&pipe.reader, &mut buffer.bytes[buffer.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer.end += count;
                    pipe.held -= count;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        *self = Self::Buffer(Box::new(buffer));
        Ok(())
    }
}

fn move_bytes(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    loop {
        match splice(&from, None, &to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Err(Errno::INTR) => {}
            moved => return moved.map_err(io::Error::from),
        }
    }
}

/// Whether the kernel, or a filter before it, does not splice this pair.
fn cannot_splice(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_pool_lends_less() {
        let pool = Pool::new(PoolSettings { pipes: 4, ..PoolSettings::default() });
        assert_eq!(pool.most(), MOST_SPLICED);
        let lent = [(); 3].map(|()| pool.pipe().unwrap());
        assert_eq!(pool.most(), CROWDED_SPLICED, "most of the pipes are used");
        drop(lent);
        assert_eq!(pool.most(), MOST_SPLICED, "there is room again");
    }

    /// Whoever stalls on purpose what flowed is given less long before nothing is left for others.
    #[test]
    fn what_is_in_pipes_counts_as_if_it_were_stalled() {
        let pool = Pool::new(PoolSettings::default());
        let mut stalled = Vec::new();
        let mut used = 0;
        for batch in 0..8 {
            // As many at once as there are pipes; then they are read out.
            let pipes: Vec<_> = std::iter::from_fn(|| pool.pipe().map(|pipe| (pipe, pool.most()))).collect();
            for (pipe, most) in pipes {
                drop(pipe);
                stalled.extend(pool.buffer(most));
                used += usize::from(most == MOST_SPLICED);
            }
            assert!(used <= MAX_BUFFERED / 2 / MOST_SPLICED, "batch {batch}: {used} stalled what flowed");
        }
        assert!(stalled.len() > 512, "{} directions are stalled", stalled.len());
    }
}
