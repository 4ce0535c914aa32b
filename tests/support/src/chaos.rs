//! What a hostile network does to the bytes of connections that pass it: which, and where, a seed says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything that is done, in the order of [`Damages`].
pub const DAMAGES: [&str; 7] = ["drop", "repeat", "reorder", "flip", "insert", "split", "merge"];

/// Longest piece that is damaged at once: more than a small record, less than a large one.
const MAX_PIECE: usize = 8 * 1024;

/// A network that does all of [`DAMAGES`].
#[derive(Debug, Clone, Copy)]
pub struct Chaos {
    pub seed: u64,
    /// Bytes of one direction of a connection between two damages, on average.
    pub every: u64,
    /// Services, by the number in the preface of a connection, whose connections are damaged.
    pub services: &'static [u8],
}

/// How often each of [`DAMAGES`] was done.
pub type Damages = [u64; DAMAGES.len()];

/// The same, while it is counted.
pub(crate) type Counts = Arc<[AtomicU64; DAMAGES.len()]>;

/// Damages one direction of one connection.
pub(crate) struct Damager {
    random: u64,
    every: u64,
    /// Bytes that pass before the next damage.
    left: usize,
    /// Waits for what comes behind it.
    held: Vec<u8>,
    counts: Counts,
}

impl Damager {
    /// For direction `direction` of connection `number`.
    pub(crate) fn new(chaos: Chaos, number: u64, direction: u64, counts: Counts) -> Self {
        // Neighbours begin far from each other, and none at 0, where the sequence would stay.
        let random = (1 + chaos.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (1 + 2 * number + direction).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut made = Self { random: random | 1, every: chaos.every, left: 0, held: Vec::new(), counts };
        made.next();
        made
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % limit.max(1)
    }

    fn next(&mut self) {
        self.left = self.below(2 * usize::try_from(self.every).unwrap_or(usize::MAX / 2));
    }

    /// Whether something waits for what comes next.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What waited, where nothing comes.
    pub(crate) fn flush(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// What goes on of `bytes`, in portions to be written one by one.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut portions, mut current) = (Vec::new(), self.flush());
        loop {
            let (whole, rest) = bytes.split_at(self.left.min(bytes.len()));
            current.extend_from_slice(whole);
            self.left -= whole.len();
            if rest.is_empty() {
                break;
            }
            let length = 1 + self.below(rest.len().min(MAX_PIECE));
            let (piece, rest) = rest.split_at(length);
            bytes = rest;
            let which = self.below(DAMAGES.len());
            self.counts[which].fetch_add(1, Ordering::Relaxed);
            match DAMAGES[which] {
                "drop" => {}
                "repeat" => current.extend([piece, piece].concat()),
                "reorder" => {
                    let behind = rest.len().min(length);
                    current.extend([&rest[..behind], piece].concat());
                    bytes = &rest[behind..];
                }
                "flip" => {
                    let bit = self.below(length * 8);
                    let begin = current.len();
                    current.extend_from_slice(piece);
                    current[begin + bit / 8] ^= 1 << (bit % 8);
                }
                "insert" => {
                    let count = 1 + self.below(64);
                    current.extend((0..count).map(|_| self.below(256) as u8).collect::<Vec<_>>());
                    current.extend_from_slice(piece);
                }
                "split" => {
                    portions.push(std::mem::take(&mut current));
                    portions.extend(piece.chunks(1 + length / 3).map(<[u8]>::to_vec));
                }
                _ => {
                    self.held = [&current, piece, rest].concat();
                    self.next();
                    break;
                }
            }
            self.next();
        }
        if self.held.is_empty() {
            portions.push(current);
        }
        portions.retain(|portion| !portion.is_empty());
        portions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed is a network; split and merged bytes are what they were, and other damage changes them.
    #[test]
    fn a_seed_is_a_network() {
        let sent: Vec<u8> = (0..100_000_u32).map(|n| (n * 31 + n / 251) as u8).collect();
        let counts = Counts::default();
        let through = |seed| {
            let mut damager = Damager::new(Chaos { seed, every: 5_000, services: &[] }, 1, 0, Arc::clone(&counts));
            let mut out: Vec<u8> = sent.chunks(7_001).flat_map(|chunk| damager.pass(chunk)).flatten().collect();
            out.extend(damager.flush());
            out
        };
        let seen: Vec<Vec<u8>> = (0..50).map(through).collect();
        assert_eq!(seen[7], through(7));
        assert!(seen.iter().all(|seen| *seen != sent) && seen[0] != seen[1]);
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 50), "{counts:?}");
        let mut quiet = Damager::new(Chaos { seed: 1, every: 1 << 40, services: &[] }, 1, 0, Counts::default());
        assert_eq!(quiet.pass(&sent).concat(), sent, "where nothing is done, nothing is");
    }
}
