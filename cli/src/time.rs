//! The wall clock, for what a command makes by itself.

use std::time::{SystemTime, UNIX_EPOCH};

use postern_proto::time::Timestamp;

/// Now, by this machine's clock; the epoch where that stands before it.
pub fn now() -> Timestamp {
    Timestamp::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
