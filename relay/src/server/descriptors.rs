//! File descriptors: how many there are for links, and when there are too few to begin anything new.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_runtime::open_files;

/// Descriptors that are not links or pipes: listeners, sessions with the authority, files, logs, and room.
const OTHERS: usize = 64;

/// Parked links take at most one descriptor in this many.
const PARKED_SHARE: usize = 5;

/// Descriptors of this process, as far as links use them.
#[derive(Debug)]
pub struct Descriptors {
    limit: usize,
    links: AtomicUsize,
}

impl Descriptors {
    /// As many as the process may have: its soft limit is raised to its hard one.
    #[must_use]
    pub fn of_process() -> Self {
        Self::with_limit(open_files::raise_limit())
    }

    /// As many as `limit`.
    #[must_use]
    pub const fn with_limit(limit: usize) -> Self {
        Self { limit, links: AtomicUsize::new(0) }
    }

    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Links now, of every kind.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.load(Ordering::Relaxed)
    }

    /// Most links that may be parked: a fifth.
    #[must_use]
    pub const fn parked(&self) -> usize {
        self.limit / PARKED_SHARE
    }

    /// Whether another join may begin: below 80 %, so that what is joined already never runs out.
    #[must_use]
    pub fn admits_join(&self, pipes: usize) -> bool {
        self.used(pipes) * 5 < self.limit * 4
    }

    /// Counts a link; `None` above 95 %, where even a refusal costs too much.
    pub(super) fn enter(self: &Arc<Self>, pipes: usize) -> Option<Descriptor> {
        if self.used(pipes) * 20 >= self.limit * 19 {
            return None;
        }
        self.links.fetch_add(1, Ordering::Relaxed);
        Some(Descriptor(Arc::clone(self)))
    }

    fn used(&self, pipes: usize) -> usize {
        OTHERS + self.links() + 2 * pipes
    }
}

/// The count of one link.
#[derive(Debug)]
pub(super) struct Descriptor(Arc<Descriptors>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let descriptors = Arc::new(Descriptors::with_limit(1000));
        assert_eq!(descriptors.parked(), 200);
        let mut held = Vec::new();
        while descriptors.admits_join(10) {
            held.push(descriptors.enter(10).unwrap());
        }
        assert_eq!(held.len(), 800 - OTHERS - 20);
        while let Some(descriptor) = descriptors.enter(10) {
            held.push(descriptor);
        }
        assert_eq!(held.len(), 950 - OTHERS - 20);
        drop(held);
        assert_eq!(descriptors.links(), 0);
    }
}
