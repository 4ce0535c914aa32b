//! Two live copies of one home: both have the same keys and the same node id, and take the node from each other for ever,
//! unless one is told to stop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use postern_proto::id::InstanceId;

/// Take-overs between the same two runs within [`PERIOD`] that are let pass. A restart is one; a node that restarts in a loop
/// never sees an earlier run come back.
const TAKE_OVERS: usize = 3;

/// How far back take-overs count, and how long after its last try the later run stays refused.
const PERIOD: Duration = Duration::from_secs(60);

/// Recent take-overs of one node.
#[derive(Debug, Default)]
pub(super) struct Contention {
    /// When, and between which two; at most [`KEPT`].
    recent: VecDeque<(Instant, [InstanceId; 2])>,
    /// While this run is connected, others are refused until then.
    refused: Option<(InstanceId, Instant)>,
}

/// A node in a restart loop makes take-overs without end; only the newest matter.
const KEPT: usize = 2 * TAKE_OVERS;

impl Contention {
    /// Whether `later` may take the node from `incumbent`, which is connected.
    pub(super) fn take_over(&mut self, now: Instant, incumbent: InstanceId, later: InstanceId) -> bool {
        if let Some((owner, until)) = &mut self.refused {
            if *owner == incumbent && now < *until {
                *until = now + PERIOD;
                return false;
            }
            self.refused = None;
        }
        self.recent.retain(|(at, _)| now < *at + PERIOD);
        let pair = if incumbent < later { [incumbent, later] } else { [later, incumbent] };
        if self.recent.iter().filter(|(_, between)| *between == pair).count() >= TAKE_OVERS {
            self.refused = Some((incumbent, now + PERIOD));
            return false;
        }
        if self.recent.len() >= KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((now, pair));
        true
    }

    /// How many take-overs are remembered.
    #[cfg(test)]
    pub(super) fn recent(&self) -> usize {
        self.recent.len()
    }

    /// From when on this is nothing worth remembering; `now` or earlier where it is so already.
    pub(super) fn expires(&self, now: Instant) -> Instant {
        let last = self.recent.back().map(|(at, _)| *at + PERIOD);
        last.into_iter().chain(self.refused.map(|(_, until)| until)).max().unwrap_or(now)
    }
}
