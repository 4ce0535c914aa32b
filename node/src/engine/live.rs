//! The streams that live now, so that each can be judged again when a policy or a credential changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::id::Identifier;
use postern_proto::name::{Alias, OutletName};
use postern_proto::record::ResetCode;
use tokio::sync::{oneshot, watch};

use super::channel::Channel;

/// What a stream goes through on this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Through {
    Inlet(Alias),
    Outlet(OutletName),
}

impl Through {
    /// The inlet's alias or the outlet's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Inlet(alias) => alias.as_str(),
            Self::Outlet(name) => name.as_str(),
        }
    }
}

struct Live {
    channel: Arc<Channel>,
    through: Through,
    kill: oneshot::Sender<ResetCode>,
}

#[derive(Default)]
struct Table {
    streams: HashMap<u64, Live>,
    /// How many each peer has opened through outlets.
    peers: HashMap<Identifier, usize>,
}

impl Table {
    fn insert(&mut self, number: u64, live: Live) {
        if matches!(live.through, Through::Outlet(_)) {
            *self.peers.entry(live.channel.peer()).or_default() += 1;
        }
        live.channel.stream_began();
        self.streams.insert(number, live);
    }

    fn remove(&mut self, number: u64) -> Option<Live> {
        let live = self.streams.remove(&number)?;
        live.channel.stream_ended();
        if matches!(live.through, Through::Outlet(_))
            && let Entry::Occupied(mut count) = self.peers.entry(live.channel.peer())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(live)
    }
}

/// All live streams of a node.
#[derive(Default)]
pub struct LiveStreams {
    next: AtomicU64,
    table: Mutex<Table>,
    count: watch::Sender<usize>,
}

/// A stream's place among the live ones; leaves it when dropped.
pub struct LiveGuard {
    streams: Arc<LiveStreams>,
    number: u64,
}

impl LiveStreams {
    /// Enters a stream; the receiver fires when it must end.
    #[must_use]
    pub fn enter(self: &Arc<Self>, channel: Arc<Channel>, through: Through) -> (LiveGuard, oneshot::Receiver<ResetCode>) {
        let (kill, killed) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut table = self.lock();
        table.insert(number, Live { channel, through, kill });
        self.count.send_replace(table.streams.len());
        drop(table);
        (LiveGuard { streams: Arc::clone(self), number }, killed)
    }

    /// Ends every stream for which `verdict` has a reason to.
    pub fn review(&self, verdict: impl Fn(&Channel, &Through) -> Option<ResetCode>) {
        let mut table = self.lock();
        let doomed: Vec<(u64, ResetCode)> = table
            .streams
            .iter()
            .filter_map(|(number, live)| verdict(&live.channel, &live.through).map(|code| (*number, code)))
            .collect();
        for (number, code) in doomed {
            if let Some(live) = table.remove(number) {
                self.count.send_replace(table.streams.len());
                // A stream that has just ended by itself needs no telling.
                let _ = live.kill.send(code);
            }
        }
    }

    /// Returns once no stream lives any more.
    pub async fn drained(&self) {
        let mut count = self.count.subscribe();
        // The sender lives as long as `self`.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// How many streams go through `through`.
    #[must_use]
    pub fn count(&self, through: &Through) -> usize {
        self.lock().streams.values().filter(|live| live.through == *through).count()
    }

    #[must_use]
    pub fn total(&self) -> usize {
        self.lock().streams.len()
    }

    /// How many streams `peer` has opened through outlets.
    #[must_use]
    pub fn of_peer(&self, peer: Identifier) -> usize {
        self.lock().peers.get(&peer).copied().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        let mut table = self.streams.lock();
        if table.remove(self.number).is_some() {
            self.streams.count.send_replace(table.streams.len());
        }
    }
}
