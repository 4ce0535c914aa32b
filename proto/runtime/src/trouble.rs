//! A fault of the environment that lasts, such as a full disk, in a log: a line when it begins, one a minute while it lasts, and one when it
//! is over, however many things fail by it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// While it lasts, it is said once in this time.
const EVERY: Duration = Duration::from_secs(60);

/// What succeeds so soon behind a failure may be what was small enough: a full disk takes this and refuses that.
const QUIET: Duration = Duration::from_secs(1);

/// See the module. Whoever meets the fault or its end asks this whether to say so.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<Option<Lasting>>);

#[derive(Debug)]
struct Lasting {
    failed: u64,
    unsaid: u64,
    said: Instant,
    last: Instant,
}

impl Trouble {
    /// Something failed: whether that is to be said now, and then how many failures before it were not.
    #[must_use]
    pub fn fails(&self) -> Option<u64> {
        self.fails_at(Instant::now())
    }

    /// Something succeeded: where that is the end of a fault that was said, how many failed by it.
    #[must_use]
    pub fn succeeds(&self) -> Option<u64> {
        self.succeeds_at(Instant::now())
    }

    fn fails_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lasting) = state.as_mut() else {
            *state = Some(Lasting { failed: 1, unsaid: 0, said: now, last: now });
            return Some(0);
        };
        lasting.failed += 1;
        lasting.last = now;
        if now.duration_since(lasting.said) < EVERY {
            lasting.unsaid += 1;
            return None;
        }
        lasting.said = now;
        Some(std::mem::take(&mut lasting.unsaid))
    }

    fn succeeds_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = state.as_ref().is_some_and(|lasting| now.duration_since(lasting.last) >= QUIET);
        if over { state.take().map(|lasting| lasting.failed) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_said_when_it_begins_once_a_minute_and_when_it_is_over() {
        let (trouble, begun) = (Trouble::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(trouble.succeeds_at(at(0)), None, "nothing was wrong");
        assert_eq!(trouble.fails_at(at(0)), Some(0));
        assert!((1..60).all(|second| trouble.fails_at(at(second)).is_none()));
        assert_eq!(trouble.fails_at(at(60)), Some(59));
        assert_eq!(trouble.succeeds_at(at(60)), None, "what was small enough");
        assert_eq!(trouble.fails_at(at(60)), None);
        assert_eq!(trouble.succeeds_at(at(61)), Some(62));
        assert_eq!(trouble.succeeds_at(at(62)), None);
        assert_eq!(trouble.fails_at(at(63)), Some(0), "another one");
    }
}
