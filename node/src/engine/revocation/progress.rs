//! How far a node is with what was voided.

/// What a node has done about epochs. The authority is told of one once everything up to it is enforced *and* on this node's disk: a
/// restart must not forget what somebody was told is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Progress {
    enforced: u64,
    stored: u64,
}

impl Progress {
    /// What is on the disk when a node starts is enforced from its start.
    pub fn begin(&mut self, stored: u64) {
        self.has_stored(stored);
        self.has_enforced(stored);
    }

    /// Streams and channels that the void credentials of this epoch, and those before, had are gone.
    pub fn has_enforced(&mut self, epoch: u64) {
        self.enforced = self.enforced.max(epoch);
    }

    /// The list of this epoch is on the disk.
    pub fn has_stored(&mut self, epoch: u64) {
        self.stored = self.stored.max(epoch);
    }

    /// What the authority may be told.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.enforced.min(self.stored)
    }
}
