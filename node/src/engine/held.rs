//! What streams hold of others' bytes, in the whole process: sealed records that a peer has not acknowledged, and opened ones that
//! an application has not taken. Each stream's share is bounded by its credit; this bounds the sum.

use std::sync::atomic::{AtomicUsize, Ordering};

/// While more than this is held, streams hold no more than their initial credit each, and windows do not grow. Room for 128 streams
/// at full speed over a long way.
const BUDGET: usize = 512 * 1024 * 1024;

static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// One stream's part.
#[derive(Debug, Default)]
pub struct Held(usize);

impl Held {
    /// It holds so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.0 {
            TOTAL.fetch_add(bytes - self.0, Ordering::Relaxed);
        } else if bytes < self.0 {
            TOTAL.fetch_sub(self.0 - bytes, Ordering::Relaxed);
        }
        self.0 = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Whether the budget is used up.
#[must_use]
pub fn is_scarce() -> bool {
    TOTAL.load(Ordering::Relaxed) > BUDGET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_of_all_streams_together() {
        let (mut one, mut other) = (Held::default(), Held::default());
        one.set(BUDGET);
        other.set(BUDGET);
        assert!(is_scarce());
        one.set(1);
        other.set(0);
        drop(one);
        // Streams of other tests hold little.
        assert!(!is_scarce());
    }
}
