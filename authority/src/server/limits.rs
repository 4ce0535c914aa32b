//! How often something may happen.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use postern_runtime::net::Source;
use tokio::time::Instant;

/// Failed redemptions of one neighbourhood: a few mistakes at once, then one in this time.
const SOURCE_BURST: u32 = 10;
const SOURCE_EVERY: Duration = Duration::from_secs(6);

/// Failed redemptions of everybody: each costs the database two look-ups, and none can guess a secret of 256 bits.
const GLOBAL_BURST: u32 = 200;
const GLOBAL_EVERY: Duration = Duration::from_millis(50);

/// Most neighbourhoods that are remembered. Beyond it the global limit alone holds.
const MAX_SOURCES: usize = 16_384;

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

    fn is_empty(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == 0
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.burst
    }
}

/// Failed redemptions: an unknown ticket or a wrong secret. Nothing else counts, so honest mistakes of other kinds lock nobody out.
#[derive(Debug)]
pub struct Failures {
    global: Bucket,
    sources: HashMap<Source, Bucket>,
}

impl Failures {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { global: Bucket::new(GLOBAL_BURST, GLOBAL_EVERY, now), sources: HashMap::new() }
    }

    /// How long `address` has to wait before it may try a ticket; none where it may now.
    pub fn must_wait(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        if self.sources.get_mut(&Source::of(address)).is_some_and(|bucket| bucket.is_empty(now)) {
            return Some(SOURCE_EVERY);
        }
        // In whole seconds it is said to the peer, so not less than one.
        self.global.is_empty(now).then_some(Duration::from_secs(1))
    }

    /// Counts a failure of `address`.
    pub fn count(&mut self, address: IpAddr, now: Instant) {
        self.global.take(now);
        let source = Source::of(address);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= MAX_SOURCES {
                return;
            }
        }
        self.sources.entry(source).or_insert_with(|| Bucket::new(SOURCE_BURST, SOURCE_EVERY, now)).take(now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(number: u32) -> IpAddr {
        // One neighbourhood (/24) for each number.
        Ipv4Addr::from(number << 8).into()
    }

    #[test]
    fn a_source_is_slowed_and_others_are_not() {
        let start = Instant::now();
        let mut failures = Failures::new(start);
        for _ in 0..SOURCE_BURST {
            assert_eq!(failures.must_wait(ip(1), start), None);
            failures.count(ip(1), start);
        }
        assert_eq!(failures.must_wait(ip(1), start), Some(SOURCE_EVERY));
        assert_eq!(failures.must_wait(ip(2), start), None);
        let later = start + SOURCE_EVERY;
        assert_eq!(failures.must_wait(ip(1), later), None);
        failures.count(ip(1), later);
        assert_eq!(failures.must_wait(ip(1), later), Some(SOURCE_EVERY));
    }

    #[test]
    fn all_sources_together_are_slowed() {
        let start = Instant::now();
        let mut failures = Failures::new(start);
        for number in 0..GLOBAL_BURST {
            assert_eq!(failures.must_wait(ip(number), start), None);
            failures.count(ip(number), start);
        }
        assert!(failures.must_wait(ip(1_000_000), start).is_some());
        assert_eq!(failures.must_wait(ip(1_000_000), start + GLOBAL_EVERY), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let start = Instant::now();
        let mut failures = Failures::new(start);
        for number in 0..40_000 {
            failures.count(ip(number), start);
        }
        assert_eq!(failures.sources.len(), MAX_SOURCES);
        failures.count(ip(50_000), start + SOURCE_EVERY);
        assert_eq!(failures.sources.len(), 1, "those that are full again are forgotten");
    }

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
