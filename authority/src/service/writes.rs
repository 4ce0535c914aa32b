//! How often one member may make the database write: for credentials, for relay names that it claims and releases, and, where it is no
//! administrator, for tickets, members and addresses. Each is a transaction that others wait for, and rows that stay.

use std::collections::HashMap;
use std::time::Duration;

use postern_proto::id::Identifier;
use tokio::time::Instant;

use crate::bucket::Bucket;

/// At once: every node of a fleet under one identity starts, and claims its names. Then one in this time; a node renews hourly.
const BURST: u32 = 512;
const EVERY: Duration = Duration::from_secs(2);

/// From so many members on, those that have written nothing lately are forgotten.
const MANY: usize = 4_096;

/// What is left to each member. Only members are counted, so there are never more than those.
#[derive(Debug, Default)]
pub struct Writes(HashMap<Identifier, Bucket>);

impl Writes {
    /// Takes a write of `member`, if it has one left.
    pub fn take(&mut self, member: Identifier, now: Instant) -> bool {
        if self.0.len() >= MANY && !self.0.contains_key(&member) {
            self.0.retain(|_, bucket| !bucket.is_full(now));
        }
        self.0.entry(member).or_insert_with(|| Bucket::new(BURST, EVERY, now)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::identifier;

    #[test]
    fn each_member_has_its_own() {
        let (start, mut writes) = (Instant::now(), Writes::default());
        for _ in 0..BURST {
            assert!(writes.take(identifier(1), start));
        }
        assert!(!writes.take(identifier(1), start));
        assert!(writes.take(identifier(2), start));
        assert!(writes.take(identifier(1), start + EVERY));
        assert!(!writes.take(identifier(1), start + EVERY));
    }
}
