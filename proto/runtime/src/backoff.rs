//! How long to wait before trying again.

use std::time::Duration;

use postern_proto::secret::random_array;

/// A network that blinks should cost little more than the blink.
const FIRST: Duration = Duration::from_millis(200);

/// Long enough that thousands of nodes do not crowd a relay that comes back, short enough that they are back within 30 s.
const LONGEST: Duration = Duration::from_secs(15);

/// However long a relay was away, nearly all of its nodes are back 10 s after it is: a dial that fails costs nobody much.
const LONGEST_OF_LINKS: Duration = Duration::from_secs(9);

/// Even luck does not make it spin.
const LEAST: Duration = Duration::from_millis(20);

/// Exponential back-off with full jitter: each delay is uniform between nearly nothing and a ceiling that doubles. Those who
/// failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
}

impl Default for Backoff {
    /// From 0.2 s to 15 s, as sessions with the authority are dialled again.
    fn default() -> Self {
        Self::new(FIRST, LONGEST)
    }
}

impl Backoff {
    /// From 0.2 s to 9 s, as control links to relays are dialled again.
    #[must_use]
    pub const fn of_links() -> Self {
        Self::new(FIRST, LONGEST_OF_LINKS)
    }

    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, ceiling: first }
    }

    /// The next delay; the one after may be twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling.min(self.longest);
        self.ceiling = ceiling.saturating_mul(2).min(self.longest);
        let random = u32::from_be_bytes(random_array());
        let jittered = ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX));
        jittered.max(LEAST.min(ceiling))
    }

    /// What was tried has succeeded, and lasted.
    pub const fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_and_start_again() {
        let mut backoff = Backoff::default();
        let mut ceiling = FIRST;
        let mut total = Duration::ZERO;
        for _ in 0..1000 {
            let delay = backoff.next_delay();
            assert!(delay >= LEAST && delay <= ceiling, "{delay:?} under {ceiling:?}");
            ceiling = (ceiling * 2).min(LONGEST);
            total += delay;
        }
        // Half the longest on average: 1000 uniform draws do not stray further.
        assert!((6_500..8_500).contains(&total.as_secs()), "{total:?}");
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
