//! What a peer may take of the relay, and for how long. The names that a node registers are bounded by its credential, which
//! names at most [`MAX_RELAY_NAMES`](postern_proto::credential::MAX_RELAY_NAMES).

use std::time::Duration;

/// Bounds that depend on the machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions in total.
    pub sessions: usize,
    /// Parked links in total: at most a fifth of the process's descriptors.
    pub parked: usize,
}

/// Nodes of one identity at one relay. A fleet under one identity fits; a member that floods does not fill the relay.
pub const SESSIONS_PER_IDENTITY: usize = 256;

/// Names that one node watches: one an inlet, and room.
pub const WATCHES: usize = 256;

/// Answers that wait to be sent to one node. A node that asks without reading the answers is closed.
pub const ANSWERS: usize = 64;

/// Requests of one node at once: all its registrations and watches after a reconnect, and room.
pub const REQUEST_BURST: u32 = 512;

/// And one more of one node each time, in the long run: 32 a second.
pub const REQUEST_EVERY: Duration = Duration::from_micros(31_250);

/// Joins of one node at once: a program that opens some thousand connections at a stroke is served.
pub const JOIN_BURST: u32 = 4096;

/// And one more of one node each time, in the long run: 2,048 a second. Short connections reuse joined paths, so this bounds new concurrency.
pub const JOIN_EVERY: Duration = Duration::from_nanos(488_281);

/// Links that one node parks.
pub const PARKED: usize = 256;

/// Links that wait for one node to park one.
pub const WAITING: usize = 4096;

/// Links that a node is asked for at once; further ones when half of these have come. Below what a node is ready to have parked,
/// so that it need not leave a request half done.
pub const ASKED: usize = 48;

/// Links of one dialler that wait, so that it cannot fill another node's queue alone.
pub const DIALLING: usize = 2048;

/// How long a link waits for the other node to park one. A node answers within a round trip or is gone.
pub const WAIT: Duration = Duration::from_secs(3);

/// A node pings every 10 s; two lost pings and a slow network fit.
pub const RECEIPT: Duration = Duration::from_secs(25);

/// A node pings every 10 s, give or take one. A control link that closes after a longer silence is one that the node gave up because the
/// network had fallen silent: the word of that comes late.
pub const QUIET: Duration = Duration::from_secs(12);

/// Least time between two updates of one name to one watcher.
pub const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// The same after it was told that nobody is there: new connections wait for the arrival of a node that restarts.
pub const ARRIVAL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a departure waits to be told, in case that the node only reconnects.
pub const SETTLE: Duration = Duration::from_millis(250);
