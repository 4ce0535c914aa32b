//! The streams that live now: each can be judged again when a policy or a credential changes, and found when its peer brings it
//! another path.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_proto::id::{Identifier, StaticPublic};
use postern_proto::name::{Alias, OutletName};
use postern_proto::record::ResetCode;
use postern_proto::stream::Attachment;
use tokio::sync::{Notify, watch};

use super::channel::Channel;
use super::failure::Failure;
use super::link::Link;

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

/// What happens to a stream from outside its task.
pub enum Event {
    /// It must end, and this side says so.
    Kill(ResetCode),
    /// The peer said on the channel's control stream that it has given the stream up.
    Reset(ResetCode),
    /// Another path: one that this side asked for, or one that the peer has brought, with its attach.
    Path(Link, Option<Attachment>),
    /// The path that this side asked for was not found.
    NoPath(NoPath),
}

/// Why there is no other path.
pub struct NoPath {
    pub failure: Failure,
    /// The run of the peer's node that has the stream is gone for good.
    pub gone: bool,
}

/// The way to a live stream's task. An event takes the place of one that was not taken yet, but nothing takes the place of an end.
#[derive(Default)]
pub struct Signal {
    event: Mutex<Option<Event>>,
    notify: Notify,
}

impl Signal {
    pub fn send(&self, event: Event) {
        let mut waiting = lock(&self.event);
        if !matches!(*waiting, Some(Event::Kill(_) | Event::Reset(_))) {
            *waiting = Some(event);
        }
        drop(waiting);
        self.notify.notify_one();
    }

    /// What happened, if anything has.
    pub fn take(&self) -> Option<Event> {
        lock(&self.event).take()
    }

    /// What happens next. One task waits; a wait that is given up loses nothing.
    pub async fn next(&self) -> Event {
        loop {
            self.notify.notified().await;
            if let Some(event) = self.take() {
                return event;
            }
        }
    }
}

struct Live {
    channel: Arc<Channel>,
    /// Its number in the channel.
    id: u64,
    through: Through,
    signal: Arc<Signal>,
    /// It was told to end.
    doomed: bool,
}

#[derive(Default)]
struct Table {
    streams: HashMap<u64, Live>,
    /// How many each peer has opened through outlets.
    peers: HashMap<Identifier, usize>,
}

/// All live streams of a node.
#[derive(Default)]
pub struct LiveStreams {
    next: AtomicU64,
    table: Mutex<Table>,
    count: watch::Sender<usize>,
}

/// Streams that were told to end.
#[derive(Debug, Default)]
pub struct Enders(Vec<u64>);

impl Enders {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns once all of them have ended: no byte of theirs is delivered any more.
    pub async fn ended(mut self, streams: &LiveStreams) {
        let mut count = streams.count.subscribe();
        loop {
            count.mark_unchanged();
            {
                let table = streams.lock();
                self.0.retain(|number| table.streams.contains_key(number));
            }
            // The sender lives as long as `streams`.
            if self.0.is_empty() || count.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A stream's place among the live ones; leaves it when dropped.
pub struct LiveGuard {
    streams: Arc<LiveStreams>,
    channel: Arc<Channel>,
    id: u64,
    number: u64,
    pub signal: Arc<Signal>,
}

impl LiveStreams {
    /// Enters stream `id` of `channel`.
    #[must_use]
    pub fn enter(self: &Arc<Self>, channel: &Arc<Channel>, id: u64, through: Through) -> LiveGuard {
        let signal = Arc::new(Signal::default());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        channel.stream_began(id, Arc::clone(&signal));
        let mut table = self.lock();
        if matches!(through, Through::Outlet(_)) {
            *table.peers.entry(channel.peer()).or_default() += 1;
        }
        table
            .streams
            .insert(number, Live { channel: Arc::clone(channel), id, through, signal: Arc::clone(&signal), doomed: false });
        self.count.send_replace(table.streams.len());
        drop(table);
        LiveGuard { streams: Arc::clone(self), channel: Arc::clone(channel), id, number, signal }
    }

    /// Ends every stream for which `verdict` has a reason to; returns those that are ending.
    pub fn review(&self, mut verdict: impl FnMut(&Channel, u64, &Through) -> Option<ResetCode>) -> Enders {
        let mut enders = Vec::new();
        for (number, live) in &mut self.lock().streams {
            if !live.doomed
                && let Some(code) = verdict(&live.channel, live.id, &live.through)
            {
                live.doomed = true;
                live.signal.send(Event::Kill(code));
            }
            if live.doomed {
                enders.push(*number);
            }
        }
        Enders(enders)
    }

    /// Whether a live stream's channel has this static key of the node.
    #[must_use]
    pub fn use_static(&self, key: StaticPublic) -> bool {
        self.lock().streams.values().any(|live| live.channel.own_static() == key)
    }

    /// What a live stream of `channel` goes through.
    #[must_use]
    pub fn through(&self, channel: &Channel, stream: u64) -> Option<Through> {
        let table = self.lock();
        let found = table.streams.values().find(|live| live.id == stream && live.channel.id() == channel.id());
        found.map(|live| live.through.clone())
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

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn leave(&self, number: u64) {
        let mut table = self.lock();
        let Some(live) = table.streams.remove(&number) else { return };
        if matches!(live.through, Through::Outlet(_))
            && let Entry::Occupied(mut count) = table.peers.entry(live.channel.peer())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.count.send_replace(table.streams.len());
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.channel.stream_ended(self.id);
        self.streams.leave(self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
