//! What a relay counts, and what it tells to monitoring systems.

use std::sync::atomic::Ordering;

use postern_runtime::metrics::{Count, Counts, Exposition, Label};

use super::RelayHandle;
use crate::splice::End;

const RESULT: Label = Label { name: "result", values: "`ok` or `failed`" };
const CAUSE: Label = Label {
    name: "cause",
    values: "`closed` (by one of the two nodes), `failed` (one of the two links broke), `cut` (the relay was stopped, or one of the two was revoked)",
};
const TO: Label = Label { name: "to", values: "`parked` (from the node that dialled) or `dialler` (back to it)" };
const REFUSAL: Label = Label { name: "reason", values: "[why](#why-a-relay-refuses)" };
const DROP: Label = Label { name: "reason", values: "[why](#why-a-relay-drops-connections)" };

postern_runtime::metrics! {
    ALL;

    SESSIONS: Gauge "postern_relay_sessions" [], "Nodes that are connected now.";
    HANDSHAKES: Counter "postern_relay_handshakes_total" [RESULT], "Handshakes with nodes; failed are also those that took too long.";
    NAMES: Gauge "postern_relay_names_registered" [], "Relay names under which nodes can be found now, each as often as there are nodes under it.";
    WATCHES: Gauge "postern_relay_names_watched" [], "Relay names that nodes want to hear of now.";
    LINKS: Gauge "postern_relay_links" [], "Connections now, of all kinds.";
    DESCRIPTORS: Gauge "postern_relay_descriptors_limit" [], "How many descriptors the process may have; beyond four fifths, joins are refused.";
    PARKED: Gauge "postern_relay_links_parked" [], "Links that wait to be joined now.";
    WAITING: Gauge "postern_relay_links_waiting" [], "Links that want to be joined now, and wait for the other node to park one.";
    JOINS: Gauge "postern_relay_joins" [], "Pairs of links that are joined now. A pair carries one stream after another.";
    OPENED: Counter "postern_relay_joins_opened_total" [], "Pairs of links that were joined.";
    CLOSED: Counter "postern_relay_joins_closed_total" [CAUSE], "Pairs of links that have ended, each once.";
    BYTES: Counter "postern_relay_forwarded_bytes_total" [TO], "Ciphertext that was moved from one link of a pair to the other.";
    PIPES: Gauge "postern_relay_pipes" [], "Kernel pipes in the pool now, in use or not.";
    BUFFERED: Gauge "postern_relay_buffered_bytes" [], "Memory for pairs whose far side takes nothing, now.";
    REFUSED: Counter "postern_relay_refusals_total" [REFUSAL], "Refusals that nodes were told.";
    DROPPED: Counter "postern_relay_connections_dropped_total" [DROP], "Connections that ended without a word from the relay.";
}

/// How joins end, in the order of their counts.
const CAUSES: [&str; 3] = ["closed", "failed", "cut"];

/// What is counted beside what the registry and the splicer know.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    joins_opened: Count,
    joins_closed: Counts<{ CAUSES.len() }>,
    handshakes: [Count; 2],
}

impl Metrics {
    pub(super) fn handshake(&self, ok: bool) {
        self.handshakes[usize::from(!ok)].one();
    }

    /// A join begins. It is counted as ended when what is returned is dropped.
    pub(super) fn join(&self) -> CountedJoin<'_> {
        self.joins_opened.one();
        CountedJoin { metrics: self, cause: 2 }
    }
}

/// A join, while it lives.
pub(super) struct CountedJoin<'a> {
    metrics: &'a Metrics,
    cause: usize,
}

impl CountedJoin<'_> {
    /// How it ended; without this, it was cut with its task.
    pub(super) fn ended(&mut self, end: &End) {
        self.cause = match end {
            End::Closed(_) => 0,
            End::Failed(..) => 1,
        };
    }
}

impl Drop for CountedJoin<'_> {
    fn drop(&mut self) {
        self.metrics.joins_closed.one(self.cause);
    }
}

impl RelayHandle {
    /// Adds everything of the relay to `out`.
    pub fn expose(&self, out: &mut Exposition) {
        let shared = &self.shared;
        let (counts, refused): (_, Vec<_>) = {
            let state = shared.lock();
            (state.registry.counts(), state.registry.refusals().collect())
        };
        let (metrics, totals, pool) = (&shared.metrics, shared.splicer.totals(), shared.splicer.pool());
        out.put(&SESSIONS, &[], counts.sessions as u64);
        for (result, count) in ["ok", "failed"].into_iter().zip(&metrics.handshakes) {
            out.put(&HANDSHAKES, &[result], count.get());
        }
        out.put(&NAMES, &[], counts.registrations as u64);
        out.put(&WATCHES, &[], counts.watches as u64);
        out.put(&LINKS, &[], shared.descriptors.links() as u64);
        out.put(&DESCRIPTORS, &[], shared.descriptors.limit() as u64);
        out.put(&PARKED, &[], counts.parked as u64);
        out.put(&WAITING, &[], counts.waiting as u64);
        out.put(&JOINS, &[], totals.live.load(Ordering::Relaxed) as u64);
        // Closed before opened: what ends meanwhile must not make more closed ones than opened ones.
        for (cause, count) in CAUSES.into_iter().zip(metrics.joins_closed.iter()) {
            out.put(&CLOSED, &[cause], count);
        }
        out.put(&OPENED, &[], metrics.joins_opened.get());
        out.put(&BYTES, &["parked"], totals.forward.load(Ordering::Relaxed));
        out.put(&BYTES, &["dialler"], totals.backward.load(Ordering::Relaxed));
        out.put(&PIPES, &[], pool.pipes() as u64);
        out.put(&BUFFERED, &[], pool.buffered() as u64);
        for (reason, count) in refused {
            out.put(&REFUSED, &[reason.as_str()], count);
        }
        for (reason, count) in shared.drops.counts() {
            out.put(&DROPPED, &[reason.as_str()], count);
        }
    }
}
