//! Large buffers, taken only while bytes flow and used again last-in-first-out: the one given back last is still in the CPU's
//! cache. (First-in-first-out cost 15 % of throughput in a prototype.)

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::record::{MAX_BODY, MAX_RECORD};
use postern_runtime::memory;

/// How many records a buffer of each size has room for. A read of sixteen costs every hop behind it a quarter of the wake-ups that a read of
/// four does; but what is kept of a small read must not hold the room of a large one.
const RECORDS: [usize; 3] = [1, 4, MOST_RECORDS];

/// How many records go out in one write, or come in with one read, at most.
pub const MOST_RECORDS: usize = 16;

/// Free buffers of each size that are kept: 16 MiB. Beyond that they are given back to the allocator.
const MAX_FREE_BYTES: usize = 16 * 1024 * 1024;

/// Free buffers that were not needed for so long are given back, too: what a busy moment took is not held for ever.
const UNUSED: Duration = Duration::from_secs(10);

static FREE: [Mutex<Free>; RECORDS.len()] = [const { Mutex::new(Free::new()) }; RECORDS.len()];

/// Free buffers of one size.
struct Free {
    /// The one given back last stands last.
    buffers: Vec<Box<[u8]>>,
    /// How many of them, from the first, were not taken since [`Free::unused`] was called.
    untouched: usize,
}

impl Free {
    const fn new() -> Self {
        Self { buffers: Vec::new(), untouched: 0 }
    }

    fn take(&mut self) -> Option<Box<[u8]>> {
        let taken = self.buffers.pop();
        self.untouched = self.untouched.min(self.buffers.len());
        taken
    }

    fn give(&mut self, buffer: Box<[u8]>) {
        if self.buffers.len() < MAX_FREE_BYTES / buffer.len() {
            self.buffers.push(buffer);
        }
    }

    /// Those that were not taken since the last call.
    fn unused(&mut self) -> Vec<Box<[u8]>> {
        let unused = self.buffers.drain(..self.untouched).collect();
        self.untouched = self.buffers.len();
        unused
    }
}

/// Gives back what is not used any more, until it is cancelled by being dropped.
pub async fn give_back_unused() {
    loop {
        tokio::time::sleep(UNUSED).await;
        // Dropped behind the locks, which streams wait for.
        let unused: Vec<_> = FREE.iter().flat_map(|free| free.lock().unwrap_or_else(PoisonError::into_inner).unused()).collect();
        if !unused.is_empty() {
            drop(unused);
            memory::give_back();
        }
    }
}

/// How large a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(usize);

impl Size {
    /// Room for one record.
    pub const SMALLEST: Self = Self(0);
    pub const LARGEST: Self = Self(RECORDS.len() - 1);

    /// How many whole records a buffer has room for.
    #[must_use]
    pub const fn records(self) -> usize {
        RECORDS[self.0]
    }

    const fn bytes(self) -> usize {
        self.records() * MAX_RECORD
    }

    /// What to read into after a read of `count` bytes of bodies into a buffer of this size: a larger one where it was filled, else the smallest
    /// that would have done.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        if count == self.records() * MAX_BODY {
            return Self(self.0 + 1).min(Self::LARGEST);
        }
        Self::of_bodies(count)
    }

    /// The smallest with room for `count` bytes of bodies, or the largest.
    #[must_use]
    pub fn of_bodies(count: usize) -> Self {
        Self::smallest(|size| count <= size.records() * MAX_BODY)
    }

    /// The smallest with room for `bytes`, or the largest.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self::smallest(|size| bytes <= size.bytes())
    }

    fn smallest(does: impl Fn(&Self) -> bool) -> Self {
        (0..RECORDS.len()).map(Self).find(does).unwrap_or(Self::LARGEST)
    }
}

/// A buffer that goes back to the pool when dropped. Its contents are leftovers.
pub struct Buffer {
    size: Size,
    /// None only while it is dropped.
    bytes: Option<Box<[u8]>>,
}

impl Buffer {
    /// Takes a free buffer, or makes one.
    #[must_use]
    pub fn take(size: Size) -> Self {
        let free = free(size).take();
        Self { size, bytes: Some(free.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice())) }
    }

    #[must_use]
    pub const fn size(&self) -> Size {
        self.size
    }
}

fn free(size: Size) -> MutexGuard<'static, Free> {
    FREE[size.0].lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buffer")
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.bytes.take() {
            free(self.size).give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_busy_moment_took_is_given_back() {
        let mut free = Free::new();
        let buffer = |mark| vec![mark; 1024].into_boxed_slice();
        (0..8).for_each(|mark| free.give(buffer(mark)));
        assert!(free.unused().is_empty(), "they came since the last look");
        // Two at a time are enough for what goes on now.
        for _ in 0..3 {
            let (one, other) = (free.take().unwrap(), free.take().unwrap());
            assert_eq!((one[0], other[0]), (7, 6), "the one that was given back last");
            free.give(other);
            free.give(one);
        }
        let unused = free.unused();
        assert_eq!(unused.iter().map(|buffer| buffer[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert!(free.take().is_some() && free.unused().len() == 1 && free.unused().is_empty() && free.take().is_none());
    }

    #[test]
    fn reads_grow_while_they_are_filled_and_fit_what_comes() {
        let [small, middle, large] = [Size(0), Size(1), Size(2)];
        assert_eq!((Size::SMALLEST, Size::LARGEST), (small, large));
        assert_eq!((small.after(MAX_BODY), middle.after(4 * MAX_BODY), large.after(16 * MAX_BODY)), (middle, large, large));
        assert_eq!((small.after(0), small.after(MAX_BODY - 1)), (small, small));
        assert_eq!((middle.after(MAX_BODY), middle.after(MAX_BODY + 1)), (small, middle));
        assert_eq!((large.after(1), large.after(4 * MAX_BODY), large.after(4 * MAX_BODY + 1)), (small, middle, large));
        assert_eq!(
            [0, MAX_BODY, MAX_BODY + 1, 17 * MAX_BODY].map(Size::of_bodies),
            [small, small, middle, large],
            "no larger than there is room for"
        );
        assert_eq!([0, MAX_RECORD, MAX_RECORD + 1, 17 * MAX_RECORD].map(Size::of), [small, small, middle, large]);
        assert_eq!((Buffer::take(small).len(), Buffer::take(large).len()), (MAX_RECORD, 16 * MAX_RECORD));
    }
}
