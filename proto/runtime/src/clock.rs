//! What time it is for this process: the authority's time, once it is known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_proto::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Where raw time comes from; tests have another source.
trait Source: Send + Sync {
    /// Time since the machine started, suspended time included.
    fn boot_time(&self) -> Duration;
    /// The wall clock, since the Unix epoch.
    fn wall(&self) -> Duration;
}

struct System;

impl Source for System {
    fn boot_time(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn wall(&self) -> Duration {
        // A wall clock before 1970 is broken, and no time is as good as any.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// The authority's time, as last learnt.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    /// The authority's time since the Unix epoch …
    time: Duration,
    /// … when the machine's boot time was this.
    boot_time: Duration,
    /// Nothing earlier is told any more.
    floor: Duration,
}

/// The one clock of a process; clones are the same clock. Before the first exchange with the authority it is the wall clock;
/// from then on the authority's time, advanced by `CLOCK_BOOTTIME`, and never going back. Setting the machine's clock then
/// changes nothing.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Source>,
    anchor: Arc<Mutex<Option<Anchor>>>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { source: Arc::new(System), anchor: Arc::default() }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

impl Clock {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        let mut anchor = self.lock();
        Timestamp::from_unix(anchor.as_mut().map_or_else(|| self.source.wall(), |anchor| self.advanced(anchor)).as_secs())
    }

    /// The authority says, in an answer of an authenticated session, that it is `time` now. Replaces what was known; where the
    /// clock is ahead, it stands until `time` has caught up. The first time, it goes wherever `time` is.
    pub fn synchronise(&self, time: Timestamp) {
        let mut anchor = self.lock();
        let floor = anchor.as_mut().map_or(Duration::ZERO, |anchor| self.advanced(anchor));
        *anchor = Some(Anchor { time: Duration::from_secs(time.as_unix()), boot_time: self.source.boot_time(), floor });
    }

    /// It is at least `time`: a signed statement of the authority says so, of which nobody knows how long it was on the way.
    /// It moves the clock forward and never holds it back, so whoever delays or replays statements gains nothing.
    pub fn at_least(&self, time: Timestamp) {
        let mut anchor = self.lock();
        let time = Duration::from_secs(time.as_unix());
        if anchor.as_mut().is_none_or(|known| self.advanced(known) < time) {
            *anchor = Some(Anchor { time, boot_time: self.source.boot_time(), floor: time });
        }
    }

    /// Whether the authority's time is known.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        self.lock().is_some()
    }

    /// How many seconds the wall clock is ahead of this one (negative: behind), for messages about times.
    #[must_use]
    pub fn wall_is_ahead_by(&self) -> i64 {
        let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        seconds(self.source.wall().as_secs()).saturating_sub(seconds(self.now().as_unix()))
    }

    fn advanced(&self, anchor: &mut Anchor) -> Duration {
        let elapsed = self.source.boot_time().saturating_sub(anchor.boot_time);
        anchor.floor = anchor.floor.max(anchor.time.saturating_add(elapsed));
        anchor.floor
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Anchor>> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand {
        boot_time: AtomicU64,
        wall: AtomicU64,
    }

    impl Source for Hand {
        fn boot_time(&self) -> Duration {
            Duration::from_secs(self.boot_time.load(Ordering::Relaxed))
        }

        fn wall(&self) -> Duration {
            Duration::from_secs(self.wall.load(Ordering::Relaxed))
        }
    }

    fn clock() -> (Clock, Arc<Hand>) {
        let hand = Arc::new(Hand::default());
        (Clock { source: Arc::clone(&hand) as Arc<dyn Source>, anchor: Arc::default() }, hand)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(seconds)
    }

    #[test]
    fn the_wall_clock_counts_until_first_contact_only() {
        let (clock, hand) = clock();
        hand.wall.store(5_000, Ordering::Relaxed);
        assert_eq!((clock.now(), clock.is_synchronised()), (at(5_000), false));
        clock.synchronise(at(1_000));
        assert_eq!((clock.now(), clock.is_synchronised()), (at(1_000), true), "a wall clock that is ahead is left behind");
        assert_eq!(clock.wall_is_ahead_by(), 4_000);
        hand.wall.store(0, Ordering::Relaxed);
        hand.boot_time.store(10, Ordering::Relaxed);
        assert_eq!(clock.now(), at(1_010), "setting the wall clock changes nothing");
        assert_eq!(clock.wall_is_ahead_by(), -1_010);
    }

    #[test]
    fn it_never_goes_back() {
        let (clock, hand) = clock();
        clock.synchronise(at(1_000));
        hand.boot_time.store(10, Ordering::Relaxed);
        clock.synchronise(at(1_005));
        assert_eq!(clock.now(), at(1_010), "it stands");
        hand.boot_time.store(14, Ordering::Relaxed);
        assert_eq!(clock.now(), at(1_010));
        hand.boot_time.store(20, Ordering::Relaxed);
        assert_eq!(clock.now(), at(1_015), "the authority's time has caught up");
    }

    #[test]
    fn an_old_statement_holds_nothing_back() {
        let (clock, hand) = clock();
        clock.synchronise(at(1_000));
        hand.boot_time.store(100, Ordering::Relaxed);
        clock.at_least(at(1_010));
        hand.boot_time.store(200, Ordering::Relaxed);
        assert_eq!(clock.now(), at(1_200));
        clock.at_least(at(1_300));
        assert_eq!(clock.now(), at(1_300));
    }

    #[test]
    fn the_system_has_both_clocks() {
        let clock = Clock::new();
        assert!(clock.now() > at(1_600_000_000));
        assert!(System.boot_time() > Duration::ZERO);
    }
}
