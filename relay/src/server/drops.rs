//! Why connections were dropped without a word: counted by reason, so that an operator sees what kind of trouble there is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Why a connection was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// It did not speak the protocol, or its handshake did not hold.
    Handshake,
    /// It did not prove in time who it is.
    Deadline,
    /// Too many connections had not proven who they are, and it was the oldest.
    Evicted,
    /// The process has hardly a descriptor left.
    Full,
    /// It asked for a service that a relay does not have.
    Service,
    /// A data link of a session that does not exist (any more).
    UnknownSession,
    /// A data link that did not prove that it belongs to the session that it names.
    NotAuthentic,
    /// The peer broke the protocol after it was known.
    Malformed,
    /// The peer stopped reading its control link.
    WriteStalled,
    /// The connection broke, or was closed by the peer.
    Closed,
    /// A node said nothing for too long.
    Silent,
    /// The relay is shutting down.
    Draining,
}

impl DropReason {
    pub const ALL: [Self; 12] = [
        Self::Handshake,
        Self::Deadline,
        Self::Evicted,
        Self::Full,
        Self::Service,
        Self::UnknownSession,
        Self::NotAuthentic,
        Self::Malformed,
        Self::WriteStalled,
        Self::Closed,
        Self::Silent,
        Self::Draining,
    ];

    /// A stable name, for what is counted.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Deadline => "deadline",
            Self::Evicted => "evicted",
            Self::Full => "full",
            Self::Service => "service",
            Self::UnknownSession => "unknown-session",
            Self::NotAuthentic => "not-authentic",
            Self::Malformed => "malformed",
            Self::WriteStalled => "write-stalled",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Draining => "draining",
        }
    }

    /// A sentence for the reference.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Handshake => "It did not speak the protocol, or its handshake did not hold",
            Self::Deadline => "It did not prove in time who it is",
            Self::Evicted => "Too many connections had not proven who they are, and it was the oldest",
            Self::Full => "The process has hardly a descriptor left",
            Self::Service => "It asked for a service that a relay does not have",
            Self::UnknownSession => "A data link of a session that does not exist, or not any more",
            Self::NotAuthentic => "A data link that did not prove that it belongs to the session that it names",
            Self::Malformed => "The peer broke the protocol after it was known",
            Self::WriteStalled => "The peer stopped reading its control link",
            Self::Closed => "It was closed by the peer, or broke: the usual end of a link",
            Self::Silent => "A node said nothing for too long",
            Self::Draining => "The relay is being stopped",
        }
    }
}

/// How often each happened.
#[derive(Debug, Default)]
pub(super) struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Drops {
    pub(super) fn count(&self, reason: DropReason, peer: SocketAddr) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
        match reason {
            DropReason::Full => tracing::warn!(%peer, "a connection was dropped: the limit of open files is reached"),
            _ => tracing::debug!(%peer, ?reason, "a connection was dropped"),
        }
    }

    pub(super) fn counts(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL.iter().map(|reason| (*reason, self.0[*reason as usize].load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }
}
