//! The authority's clock, which every other clock of the project follows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use postern_proto::time::Timestamp;

/// A clock that never goes back while the process lives, whatever happens to the wall clock.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    latest: Arc<AtomicU64>,
}

impl Clock {
    /// The machine's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_unix(since.as_secs())
        })
    }

    /// A clock that reads `read`.
    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), latest: Arc::default() }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        let read = (self.read)().as_unix();
        Timestamp::from_unix(self.latest.fetch_max(read, Ordering::Relaxed).max(read))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_back() {
        let wall = Arc::new(AtomicU64::new(10));
        let clock = Clock::new({
            let wall = Arc::clone(&wall);
            move || Timestamp::from_unix(wall.load(Ordering::Relaxed))
        });
        assert_eq!(clock.now(), Timestamp::from_unix(10));
        wall.store(5, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp::from_unix(10));
        wall.store(11, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp::from_unix(11));
    }
}
