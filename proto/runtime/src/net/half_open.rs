//! Connections that have not proven who they are: how many there may be, in all and from one neighbourhood of the network.
//!
//! When a cap is reached the oldest half-open connection gives way to the newest: a handshake takes two round trips, so the
//! oldest is the one most likely to be held open for nothing, and one who opens many crowds out himself first.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// A neighbourhood: whoever has one of its addresses is likely to have them all. /24 in IPv4, /56 in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source([u8; 7], bool);

impl Source {
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut prefix = [0; 7];
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                prefix[..3].copy_from_slice(&v4.octets()[..3]);
                Self(prefix, false)
            }
            IpAddr::V6(v6) => {
                let octets = Ipv6Addr::octets(&v6);
                prefix.copy_from_slice(&octets[..7]);
                Self(prefix, true)
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    number: u64,
    evicted: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    total: usize,
    /// Oldest first.
    sources: HashMap<Source, VecDeque<Entry>>,
}

impl Table {
    fn evict_oldest_of(&mut self, source: Source) {
        let Some(entries) = self.sources.get_mut(&source) else { return };
        if let Some(entry) = entries.pop_front() {
            entry.evicted.cancel();
            self.total -= 1;
        }
        if entries.is_empty() {
            self.sources.remove(&source);
        }
    }
}

/// Counts half-open connections. Clones share the count.
#[derive(Debug, Clone)]
pub struct HalfOpen {
    table: Arc<Mutex<Table>>,
    most: usize,
    most_per_source: usize,
}

/// The connection gave way to a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections are waiting to prove who they are; this one was the oldest")]
pub struct Evicted;

impl HalfOpen {
    /// At most `most` half-open connections, and `most_per_source` from one /24 or /56; at least one of each.
    #[must_use]
    pub fn new(most: usize, most_per_source: usize) -> Self {
        Self { table: Arc::default(), most: most.max(1), most_per_source: most_per_source.max(1) }
    }

    /// Counts a connection from `address`, until the guard is dropped. Another may have to give way.
    #[must_use]
    pub fn enter(&self, address: IpAddr) -> HalfOpenGuard {
        let source = Source::of(address);
        let mut table = self.lock();
        while table.sources.get(&source).is_some_and(|entries| entries.len() >= self.most_per_source) {
            table.evict_oldest_of(source);
        }
        while table.total >= self.most {
            // Whoever holds most gives way. Only at the cap is the whole table looked at, and it has `most` entries at most.
            let Some((fullest, _)) = table.sources.iter().max_by_key(|(_, entries)| entries.len()) else { break };
            let fullest = *fullest;
            table.evict_oldest_of(fullest);
        }
        let number = table.next;
        table.next += 1;
        table.total += 1;
        let evicted = CancellationToken::new();
        table.sources.entry(source).or_default().push_back(Entry { number, evicted: evicted.clone() });
        HalfOpenGuard { half_open: self.clone(), source, number, evicted }
    }

    /// How many are half-open now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // No code that holds the lock can leave the table half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One half-open connection. Drop it when the peer has proven who it is, or is gone.
#[derive(Debug)]
pub struct HalfOpenGuard {
    half_open: HalfOpen,
    source: Source,
    number: u64,
    evicted: CancellationToken,
}

impl HalfOpenGuard {
    /// Runs `work` until it ends or this connection has to give way.
    ///
    /// # Errors
    /// [`Evicted`]; `work` was dropped then.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Evicted> {
        // Handed on by reference: by value, the room for it would be taken once more in each future that it passes.
        self.evicted.run_until_cancelled(pin!(work)).await.ok_or(Evicted)
    }
}

impl Drop for HalfOpenGuard {
    fn drop(&mut self) {
        let mut table = self.half_open.lock();
        let table = &mut *table;
        let Some(entries) = table.sources.get_mut(&self.source) else { return };
        // Absent where it gave way.
        if let Some(position) = entries.iter().position(|entry| entry.number == self.number) {
            entries.remove(position);
            table.total -= 1;
        }
        if entries.is_empty() {
            table.sources.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn neighbourhoods() {
        let same = |a, b| Source::of(ip(a)) == Source::of(ip(b));
        assert!(same("192.0.2.1", "192.0.2.254"));
        assert!(!same("192.0.2.1", "192.0.3.1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.9"), "one address in two forms");
        assert!(same("2001:db8:0:ff00::1", "2001:db8:0:ffff::1"));
        assert!(!same("2001:db8:0:fe00::1", "2001:db8:0:ff00::1"));
        assert!(!same("0.0.0.0", "::"));
    }

    #[tokio::test]
    async fn the_oldest_of_a_source_gives_way() {
        let half_open = HalfOpen::new(100, 2);
        let first = half_open.enter(ip("192.0.2.1"));
        let second = half_open.enter(ip("192.0.2.2"));
        let elsewhere = half_open.enter(ip("198.51.100.1"));
        let third = half_open.enter(ip("192.0.2.3"));
        assert_eq!(half_open.count(), 3);
        assert_eq!(first.run(std::future::pending::<()>()).await, Err(Evicted));
        for kept in [&second, &third, &elsewhere] {
            assert_eq!(kept.run(std::future::ready(())).await, Ok(()));
        }
        drop((first, second, third, elsewhere));
        assert_eq!(half_open.count(), 0);
        assert!(half_open.lock().sources.is_empty(), "nothing is remembered of who left");
    }

    #[tokio::test]
    async fn in_all_the_fullest_source_gives_way() {
        let half_open = HalfOpen::new(5, 4);
        let flood: Vec<_> = (0..4).map(|n| half_open.enter(ip(&format!("192.0.2.{n}")))).collect();
        let others: Vec<_> = (0..3).map(|n| half_open.enter(ip(&format!("198.51.{n}.1")))).collect();
        assert_eq!(half_open.count(), 5);
        for kept in &others {
            assert!(kept.run(std::future::ready(())).await.is_ok());
        }
        assert!(flood[0].run(std::future::pending::<()>()).await.is_err());
        assert!(flood[1].run(std::future::pending::<()>()).await.is_err());
        drop((flood, others));
        assert_eq!(half_open.count(), 0);
    }
}
