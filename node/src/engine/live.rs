//! The streams that live now, so that each can be judged again when a policy or a credential changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

struct Live {
    channel: Arc<Channel>,
    through: Through,
    kill: oneshot::Sender<ResetCode>,
}

/// All live streams of a node.
#[derive(Default)]
pub struct LiveStreams {
    next: AtomicU64,
    streams: Mutex<HashMap<u64, Live>>,
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
        channel.stream_began();
        let mut streams = self.lock();
        streams.insert(number, Live { channel, through, kill });
        self.count.send_replace(streams.len());
        drop(streams);
        (LiveGuard { streams: Arc::clone(self), number }, killed)
    }

    /// Ends every stream for which `verdict` has a reason to.
    pub fn review(&self, verdict: impl Fn(&Channel, &Through) -> Option<ResetCode>) {
        let mut streams = self.lock();
        let doomed: Vec<(u64, ResetCode)> = streams
            .iter()
            .filter_map(|(number, live)| verdict(&live.channel, &live.through).map(|code| (*number, code)))
            .collect();
        for (number, code) in doomed {
            if let Some(live) = streams.remove(&number) {
                self.count.send_replace(streams.len());
                live.channel.stream_ended();
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
        self.lock().values().filter(|live| live.through == *through).count()
    }

    #[must_use]
    pub fn total(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Live>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        if let Some(live) = streams.remove(&self.number) {
            self.streams.count.send_replace(streams.len());
            live.channel.stream_ended();
        }
    }
}
