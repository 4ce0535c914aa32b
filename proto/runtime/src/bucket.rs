//! How often something may happen.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

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

/// A bucket for each of many, in bounded room.
#[derive(Debug)]
pub struct Buckets<K> {
    new: Bucket,
    most: usize,
    of: HashMap<K, Bucket>,
    /// Of all for whom there was no room.
    others: Bucket,
}

impl<K: Eq + Hash> Buckets<K> {
    /// A bucket as [`Bucket::new`] for each of `most`; those beyond share one.
    #[must_use]
    pub fn new(burst: u32, every: Duration, most: usize, now: Instant) -> Self {
        let new = Bucket::new(burst, every, now);
        Self { new, most, of: HashMap::new(), others: new }
    }

    /// Takes a token of `key`, if it has one.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        if self.of.len() >= self.most && !self.of.contains_key(&key) {
            self.of.retain(|_, bucket| !bucket.is_full(now));
            if self.of.len() >= self.most {
                return self.others.take(now);
            }
        }
        let new = Bucket { counted: now, ..self.new };
        self.of.entry(key).or_insert(new).take(now)
    }

    /// Whether `key` has nothing left now.
    pub fn is_empty(&mut self, key: &K, now: Instant) -> bool {
        self.of.get_mut(key).is_some_and(|bucket| bucket.is_empty(now))
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

    #[test]
    fn each_has_its_own_and_the_table_is_bounded() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut buckets = Buckets::new(2, second, 100, start);
        assert!(buckets.take(0, start) && buckets.take(0, start) && !buckets.take(0, start));
        assert!(buckets.is_empty(&0, start) && !buckets.is_empty(&1, start));
        for key in 1..100 {
            assert!(buckets.take(key, start));
        }
        let beyond = (100..200).filter(|key| buckets.take(*key, start)).count();
        assert_eq!((buckets.of.len(), beyond), (100, 2), "they share one");
        assert!(buckets.take(500, start + 2 * second));
        assert_eq!(buckets.of.len(), 1, "those that are full again are forgotten");
    }
}
