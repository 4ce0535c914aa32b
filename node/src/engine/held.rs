//! What streams hold of others' bytes, in the whole node: sealed records that a peer has not acknowledged, and opened ones that an
//! application has not taken. Each stream's part is bounded by its credit; this bounds what the streams of one peer hold, and the sum.
//!
//! A peer whose streams hold too much is held to the initial credit of each of them; other peers notice nothing. What is held is at
//! most twice `BUDGET`, with the initial credit of every stream and direction beside it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use postern_proto::id::Identifier;

/// While more than this is held, those peers of whose streams more is held than their equal part of it hold no more than the initial
/// credit of each stream. Room for 128 streams at full speed over a long way.
const BUDGET: usize = 512 * 1024 * 1024;

/// The streams of one peer hold no more beyond their initial credit, even where nobody else holds anything: what comes next finds room.
const PEER_BUDGET: usize = BUDGET / 2;

/// What all streams of a node hold.
#[derive(Debug, Default)]
pub struct Holdings(Arc<Sum>);

#[derive(Debug, Default)]
struct Sum {
    held: AtomicUsize,
    /// Peers of whose streams anything is held.
    holders: AtomicUsize,
    peers: Mutex<HashMap<Identifier, Weak<Share>>>,
}

/// What the streams of one peer hold, through all channels with its nodes.
#[derive(Debug)]
struct Share {
    held: AtomicUsize,
    peer: Identifier,
    sum: Arc<Sum>,
}

/// One stream's part.
#[derive(Debug)]
pub struct Held {
    bytes: usize,
    share: Arc<Share>,
}

impl Holdings {
    /// The part of a new stream of `peer`.
    #[must_use]
    pub fn of(&self, peer: Identifier) -> Held {
        let mut peers = self.0.peers();
        let share = peers.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| {
            let share = Arc::new(Share { held: AtomicUsize::new(0), peer, sum: Arc::clone(&self.0) });
            peers.insert(peer, Arc::downgrade(&share));
            share
        });
        Held { bytes: 0, share }
    }
}

impl Sum {
    fn peers(&self) -> MutexGuard<'_, HashMap<Identifier, Weak<Share>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut peers = self.sum.peers();
        // A stream that began meanwhile has put another one there.
        if peers.get(&self.peer).is_some_and(|share| share.strong_count() == 0) {
            peers.remove(&self.peer);
        }
    }
}

impl Held {
    /// It holds so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        let Share { held, sum, .. } = &*self.share;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            if held.fetch_add(more, Ordering::Relaxed) == 0 {
                sum.holders.fetch_add(1, Ordering::Relaxed);
            }
            sum.held.fetch_add(more, Ordering::Relaxed);
        } else if bytes < self.bytes {
            let less = self.bytes - bytes;
            sum.held.fetch_sub(less, Ordering::Relaxed);
            if held.fetch_sub(less, Ordering::Relaxed) == less {
                sum.holders.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.bytes = bytes;
    }

    /// Whether the streams of this one's peer hold all that they may.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        let Share { held, sum, .. } = &*self.share;
        let held = held.load(Ordering::Relaxed);
        if held > PEER_BUDGET {
            return true;
        }
        sum.held.load(Ordering::Relaxed) > BUDGET && held > BUDGET / sum.holders.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Identifier {
        Identifier::from_bytes([number; 32])
    }

    #[test]
    fn a_peer_that_holds_much_makes_room_scarce_for_itself_only() {
        let holdings = Holdings::default();
        let mut much: Vec<Held> = (0..100).map(|_| holdings.of(peer(1))).collect();
        let mut little = holdings.of(peer(2));
        much.iter_mut().for_each(|held| held.set(PEER_BUDGET / 99));
        little.set(4 << 20);
        assert!(much.iter().all(Held::is_scarce));
        assert!(!little.is_scarce());
        much.truncate(50);
        assert!(!much[0].is_scarce(), "what has ended holds nothing");
    }

    #[test]
    fn of_a_budget_that_is_used_up_each_peer_has_an_equal_part() {
        let holdings = Holdings::default();
        let mut many: Vec<Held> = (1..=3).map(|number| holdings.of(peer(number))).collect();
        many.iter_mut().for_each(|held| held.set(BUDGET / 3 + 1));
        let mut little = holdings.of(peer(4));
        little.set(BUDGET / 4);
        assert!(many.iter().all(Held::is_scarce), "each holds more than a fourth");
        assert!(!little.is_scarce());
        // Those that hold nothing have no part.
        let nothing: Vec<Held> = (5..100).map(|number| holdings.of(peer(number))).collect();
        assert!(!little.is_scarce());
        drop((many.pop(), nothing));
        assert!(many.iter().chain([&little]).all(|held| !held.is_scarce()), "there is room again");
    }

    #[test]
    fn who_has_no_stream_is_forgotten() {
        let holdings = Holdings::default();
        let mut held = holdings.of(peer(1));
        held.set(7);
        drop(holdings.of(peer(2)));
        assert_eq!(holdings.0.peers().len(), 1);
        drop(held);
        assert!(holdings.0.peers().is_empty());
        assert_eq!((holdings.0.held.load(Ordering::Relaxed), holdings.0.holders.load(Ordering::Relaxed)), (0, 0));
    }
}
