//! Refusals come in bursts: a node that tries again every second, or a guesser. One row a minute for each actor and action says
//! as much as all of them, and cannot fill the disk.

use std::collections::HashMap;
use std::time::Duration;

use postern_proto::id::Identifier;
use postern_proto::time::Timestamp;

use crate::store::Action;

/// One row for each actor and action in this time.
const EVERY: Duration = Duration::from_secs(60);

/// Most actors that are told apart. Strangers cost an identity each, which is cheap to make: when the table is full, what is
/// older than [`EVERY`] goes, and then all strangers count as one.
const MAX_ACTORS: usize = 1_024;

type Key = (Option<Identifier>, Action);

#[derive(Debug, Default)]
pub struct Bursts(HashMap<Key, (Timestamp, u64)>);

impl Bursts {
    /// Whether this refusal gets a row; then, how many before it got none.
    pub fn note(&mut self, actor: Option<Identifier>, action: Action, now: Timestamp) -> Option<u64> {
        let mut key = (actor, action);
        if self.0.len() >= MAX_ACTORS && !self.0.contains_key(&key) {
            self.0.retain(|_, (last, _)| now.since(*last) < EVERY);
            if self.0.len() >= MAX_ACTORS {
                key = (None, action);
            }
        }
        match self.0.get_mut(&key) {
            Some((last, left_out)) if now.since(*last) < EVERY => {
                *left_out += 1;
                None
            }
            Some(entry) => {
                let left_out = entry.1;
                *entry = (now, 0);
                Some(left_out)
            }
            None => {
                self.0.insert(key, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, identifier};

    #[test]
    fn one_row_a_minute() {
        let mut bursts = Bursts::default();
        let one = Some(identifier(1));
        assert_eq!(bursts.note(one, Action::RedeemTicket, NOW), Some(0));
        assert_eq!(bursts.note(one, Action::RedeemTicket, NOW), None);
        assert_eq!(bursts.note(one, Action::IssueTicket, NOW), Some(0), "another act");
        assert_eq!(bursts.note(Some(identifier(2)), Action::RedeemTicket, NOW), Some(0), "another actor");
        assert_eq!(bursts.note(one, Action::RedeemTicket, NOW.plus(EVERY)), Some(1));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut bursts = Bursts::default();
        let rows = (0..20_000_u32)
            .filter(|number| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                bursts.note(Some(Identifier::from_bytes(bytes)), Action::RedeemTicket, NOW).is_some()
            })
            .count();
        assert_eq!(rows, MAX_ACTORS + 1);
        assert!(bursts.0.len() <= MAX_ACTORS + 1);
        bursts.note(Some(identifier(1)), Action::RedeemTicket, NOW.plus(EVERY));
        assert!(bursts.0.len() <= 1);
    }
}
