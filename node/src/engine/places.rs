//! Room for streams: each takes two descriptors of the process, and one that finds none is a fault in the middle of things. So no more
//! begin than there are descriptors for; connections of applications wait until others end, streams of peers are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// Most streams through one node at once, also those whose path is still being made or whose target is being dialled.
const MAX_STREAMS: usize = 16_384;

/// Fewer where the process may not have as many open files: each stream has a socket and a path, and a fifth stays for links and
/// whatever else there is.
const SHARE: (usize, usize) = (2, 5);

/// Most of them that one identity may have opened, so that a member that floods leaves room for others.
const SHARE_OF_PEER: (usize, usize) = (3, 4);

/// That there is no room is said again after so many places were free meanwhile.
const ROOM_AGAIN: usize = 16;

/// The places of one node.
pub struct Places {
    free: Arc<Semaphore>,
    most: usize,
    /// It was said that there is no room, and there was not much since.
    full: AtomicBool,
}

impl Places {
    /// As many as a process has room for that may have `open_files` open.
    #[must_use]
    pub fn new(open_files: usize) -> Self {
        let most = MAX_STREAMS.min(open_files / SHARE.1 * SHARE.0).max(1);
        Self { free: Arc::new(Semaphore::new(most)), most, full: AtomicBool::new(false) }
    }

    /// A place for the connection of an application, once there is one.
    pub async fn wait(&self) -> OwnedSemaphorePermit {
        if let Some(place) = self.take() {
            return place;
        }
        if !self.full.swap(true, Ordering::Relaxed) {
            warn!(
                streams = self.most,
                "as many connections as this node has open files for; further ones wait until others end (see the limit of open files)"
            );
        }
        match Arc::clone(&self.free).acquire_owned().await {
            Ok(place) => place,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// A place for a stream of a peer, where there is one now.
    #[must_use]
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.free).try_acquire_owned().ok()?;
        if self.free.available_permits() > ROOM_AGAIN {
            self.full.store(false, Ordering::Relaxed);
        }
        Some(place)
    }

    /// How many places the streams that one peer has opened may have.
    #[must_use]
    pub const fn of_peer(&self) -> usize {
        self.most.div_ceil(SHARE_OF_PEER.1) * SHARE_OF_PEER.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_into_the_descriptors() {
        assert_eq!(Places::new(1_000).most, 400);
        assert_eq!(Places::new(usize::MAX).most, MAX_STREAMS);
        assert_eq!(Places::new(0).most, 1);
        assert!(Places::new(1_024).of_peer() < 400);
    }

    #[tokio::test]
    async fn whoever_comes_first_has_the_place() {
        let places = Places::new(5);
        let (one, two) = (places.wait().await, places.take().unwrap());
        assert!(places.take().is_none());
        let waits = places.wait();
        tokio::pin!(waits);
        assert!(futures_poll(&mut waits).await, "there is none");
        drop(one);
        drop((waits.await, two));
        assert_eq!(places.free.available_permits(), 2);
    }

    /// Whether `future` is pending when it is asked once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())).await
    }
}
