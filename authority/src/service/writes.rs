//! How often one member may make the database write: for credentials, for relay names that it claims and releases, and, where it is no
//! administrator, for tickets, members and addresses. Each is a transaction that others wait for, and rows that stay.

use std::time::{Duration, Instant};

use postern_proto::id::Identifier;
use postern_runtime::bucket::Buckets;

/// At once: every node of a fleet under one identity starts, and claims its names. Then one in this time; a node renews hourly.
const BURST: u32 = 512;
const EVERY: Duration = Duration::from_secs(2);

/// Members whose writes are counted apart.
const MANY: usize = 65_536;

/// What is left to each member.
pub type Writes = Buckets<Identifier>;

/// Everything is left to everybody.
pub fn writes() -> Writes {
    Buckets::new(BURST, EVERY, MANY, Instant::now())
}
