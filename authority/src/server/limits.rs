//! How often a ticket may be tried in vain.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_runtime::bucket::{Bucket, Buckets};
use postern_runtime::net::Source;

/// Failed redemptions of one neighbourhood: a few mistakes at once, then one in this time.
const SOURCE_BURST: u32 = 10;
const SOURCE_EVERY: Duration = Duration::from_secs(6);

/// Failed redemptions of everybody: each costs the database two look-ups, and none can guess a secret of 256 bits.
const GLOBAL_BURST: u32 = 200;
const GLOBAL_EVERY: Duration = Duration::from_millis(50);

/// Most neighbourhoods that are remembered. Beyond it the global limit alone holds.
const MAX_SOURCES: usize = 16_384;

/// Failed redemptions: an unknown ticket or a wrong secret. Nothing else counts, so honest mistakes of other kinds lock nobody out.
#[derive(Debug)]
pub struct Failures {
    global: Bucket,
    sources: Buckets<Source>,
}

impl Failures {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            global: Bucket::new(GLOBAL_BURST, GLOBAL_EVERY, now),
            sources: Buckets::new(SOURCE_BURST, SOURCE_EVERY, MAX_SOURCES, now),
        }
    }

    /// How long `address` has to wait before it may try a ticket; none where it may now.
    pub fn must_wait(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        if self.sources.is_empty(&Source::of(address), now) {
            return Some(SOURCE_EVERY);
        }
        // In whole seconds it is said to the peer, so not less than one.
        self.global.is_empty(now).then_some(Duration::from_secs(1))
    }

    /// Counts a failure of `address`.
    pub fn count(&mut self, address: IpAddr, now: Instant) {
        self.global.take(now);
        self.sources.take(Source::of(address), now);
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
}
