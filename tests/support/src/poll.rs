//! Waiting for what another process does. Processes cannot be awaited, so this is the one place that sleeps between two looks.

use std::time::{Duration, Instant};

/// How long to wait for what should come at once: generous, because tests share few cores with other work.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(25);

/// Looks until `look` finds something, and returns it.
///
/// # Panics
/// Where it finds nothing within `deadline`; `what` says in words what was waited for.
#[track_caller]
pub fn eventually<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for: {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Checks that `look` stays true for all of `span`: for what must *not* happen, where there is no event to wait for.
///
/// # Panics
/// As soon as it is not.
#[track_caller]
pub fn holds(span: Duration, what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(look(), "did not stay so for {span:?}: {what}");
        std::thread::sleep(INTERVAL);
    }
}
