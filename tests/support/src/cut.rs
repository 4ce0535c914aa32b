//! Connections that are to be cut, and when they are: the clock of a promise runs from before the command that asks for it, which may return
//! long after it was kept.

use std::io::{self, Read};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::is_reset;

/// A connection that is read beside the test.
#[derive(Debug)]
pub struct Cut {
    ended: JoinHandle<(io::Result<usize>, Instant)>,
}

impl Cut {
    /// Looks for the end of `stream` from now on. Nothing else may come on it.
    #[must_use]
    pub fn of(mut stream: TcpStream) -> Self {
        Self { ended: std::thread::spawn(move || (stream.read(&mut [0; 1]), Instant::now())) }
    }

    /// Waits for the end, and returns how long after `since` it came.
    ///
    /// # Panics
    /// Where it came later than `limit`, or is no reset: a clean end would say that all was sent.
    #[track_caller]
    pub fn within(self, limit: Duration, since: Instant) -> Duration {
        let (end, at) = self.ended.join().expect("no panic");
        let took = at.saturating_duration_since(since);
        assert!(is_reset(&end), "not a reset, after {took:?}: {end:?}");
        assert!(took <= limit, "reset after {took:?}, which is more than {limit:?}");
        took
    }
}
