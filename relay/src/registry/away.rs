//! Runs of nodes whose network fell silent: whether they still run, nobody here can tell. Who dials one of them is told that it parked
//! no link, not that it is gone, and so keeps its streams for as long as it would wait for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postern_proto::id::{Identifier, InstanceId, NodeId};

use super::Whom;

/// How long a run is remembered: no stream waits longer for it.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Most runs that are remembered, so that they take less than a megabyte. Those beyond are told to be gone.
const MOST: usize = 4_096;

/// Runs that were lost without a word.
#[derive(Debug, Default)]
pub(super) struct Away {
    runs: HashMap<Whom, (NodeId, Instant)>,
    /// The run of each node.
    nodes: HashMap<(Identifier, NodeId), InstanceId>,
}

impl Away {
    pub(super) fn left(&mut self, now: Instant, node: NodeId, run: Whom) {
        if self.runs.len() >= MOST {
            let late: Vec<_> = self.runs.values().zip(self.runs.keys()).filter(|((_, until), _)| *until <= now).collect();
            let late: Vec<_> = late.into_iter().map(|((node, _), run)| (run.identifier, *node)).collect();
            late.into_iter().for_each(|node| self.returned(node));
        }
        self.returned((run.identifier, node));
        if self.runs.len() < MOST {
            self.runs.insert(run, (node, now + REMEMBERED));
            self.nodes.insert((run.identifier, node), run.instance);
        }
    }

    /// The node is connected: in that run, or in another one, which means that the run is over.
    pub(super) fn returned(&mut self, node: (Identifier, NodeId)) {
        if let Some(instance) = self.nodes.remove(&node) {
            self.runs.remove(&Whom { identifier: node.0, instance });
        }
    }

    pub(super) fn has(&self, now: Instant, run: Whom) -> bool {
        self.runs.get(&run).is_some_and(|(_, until)| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_until_it_returns_or_for_an_hour() {
        let mut away = Away::default();
        let now = Instant::now();
        let identifier = Identifier::from_bytes([1; 32]);
        let node = NodeId::from_bytes([2; 16]);
        let run = |number: u8| Whom { identifier, instance: InstanceId::from_bytes([number; 16]) };
        away.left(now, node, run(1));
        assert!(away.has(now, run(1)) && !away.has(now, run(2)));
        assert!(!away.has(now + REMEMBERED, run(1)));
        away.left(now, node, run(2));
        assert!(away.has(now, run(2)) && !away.has(now, run(1)), "a node has one run");
        away.returned((identifier, node));
        assert!(!away.has(now, run(2)));
    }

    #[test]
    fn bounded() {
        let mut away = Away::default();
        let now = Instant::now();
        let identifier = Identifier::from_bytes([1; 32]);
        let run = |number: u32| Whom { identifier, instance: InstanceId::from_bytes(u128::from(number).to_be_bytes()) };
        let node = |number: u32| NodeId::from_bytes(u128::from(number).to_be_bytes());
        for number in 0..2 * MOST as u32 {
            away.left(now, node(number), run(number));
        }
        assert_eq!((away.runs.len(), away.nodes.len()), (MOST, MOST));
        away.left(now + REMEMBERED, node(0), run(0));
        assert_eq!((away.runs.len(), away.nodes.len()), (1, 1), "what is over makes room");
    }
}
