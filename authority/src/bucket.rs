//! How often something may happen.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back with time.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    burst: u32,
    every: Duration,
    left: u32,
    counted: Instant,
}

impl Bucket {
    /// Full: `burst` tokens now, and one more after each `every`.
    #[must_use]
    pub const fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { burst, every, left: burst, counted: now }
    }

    fn refill(&mut self, now: Instant) {
        let came = now.saturating_duration_since(self.counted).as_nanos() / self.every.as_nanos().max(1);
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(came).min(self.burst);
        // What is left of an interval counts for the next one.
        self.counted = self.every.checked_mul(came).and_then(|time| self.counted.checked_add(time)).unwrap_or(now);
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let had = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had
    }

    /// Whether nothing is left now.
    pub fn is_empty(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == 0
    }

    /// Whether it is as if it had never been taken from.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_keeps_the_rest_of_an_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::new(1, second, start);
        assert!(bucket.take(start));
        assert!(!bucket.take(start + second / 2));
        assert!(bucket.take(start + second));
        assert!(!bucket.take(start + second));
    }
}
