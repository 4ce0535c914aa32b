//! Who enforces what was voided: the nodes and relays that are connected, and the epoch that each has said it enforces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::authority::{Enforcement as Report, EnforcementTimes, MissingEnforcer};
use postern_proto::id::StaticPublic;
use tokio::time::Instant;

use crate::store::members::Enforcer;

/// Most epochs whose beginning is remembered. Who waits for one asks within seconds.
const MAX_BEGUN: usize = 64;

#[derive(Debug, Default)]
struct Connected {
    /// A node that connects again has two for a moment.
    sessions: usize,
    relay: bool,
    epoch: u64,
}

/// One epoch since it was committed.
#[derive(Debug)]
struct Begun {
    at: Instant,
    /// When each said that it enforces it.
    told: HashMap<StaticPublic, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    relay: bool,
    after: Duration,
}

#[derive(Debug, Default)]
struct Table {
    connected: HashMap<StaticPublic, Connected>,
    begun: BTreeMap<u64, Begun>,
}

/// What sessions tell, for whoever asks how far a revocation has come. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Enforcement(Arc<Mutex<Table>>);

/// A session of a node or relay that has told an epoch; dropping it says that it is over.
#[derive(Debug)]
pub struct Presence {
    of: Enforcement,
    key: StaticPublic,
}

impl Enforcement {
    /// Something was voided in `epoch`, now.
    pub(super) fn begin(&self, epoch: u64) {
        let mut table = self.lock();
        table.begun.insert(epoch, Begun { at: Instant::now(), told: HashMap::new() });
        while table.begun.len() > MAX_BEGUN {
            table.begun.pop_first();
        }
    }

    /// A session of the node or relay with this static key speaks of epochs.
    pub fn enter(&self, key: StaticPublic, relay: bool) -> Presence {
        let mut table = self.lock();
        let connected = table.connected.entry(key).or_default();
        connected.sessions += 1;
        connected.relay = relay;
        drop(table);
        Presence { of: self.clone(), key }
    }

    /// The node or relay with this static key, which has entered, enforces everything up to `epoch`.
    pub(super) fn acknowledge(&self, key: StaticPublic, epoch: u64) {
        let mut table = self.lock();
        let Some(connected) = table.connected.get_mut(&key) else { return };
        connected.epoch = connected.epoch.max(epoch);
        let relay = connected.relay;
        for begun in table.begun.range_mut(..=epoch).map(|(_, begun)| begun) {
            let after = begun.at.elapsed();
            begun.told.entry(key).or_insert(Told { relay, after });
        }
    }

    /// How far `epoch` has come, given who is to enforce it.
    pub(super) fn report(&self, epoch: u64, enforcers: Vec<Enforcer>) -> Report {
        let table = self.lock();
        let begun = table.begun.get(&epoch);
        let mut enforcing: HashMap<StaticPublic, bool> =
            begun.into_iter().flat_map(|begun| &begun.told).map(|(key, told)| (*key, told.relay)).collect();
        enforcing.extend(table.connected.iter().filter(|(_, node)| node.epoch >= epoch).map(|(key, node)| (*key, node.relay)));
        let mut times: Vec<Duration> = begun.into_iter().flat_map(|begun| begun.told.values()).map(|told| told.after).collect();
        times.sort_unstable();
        let mut report = Report {
            epoch,
            relays: count(enforcing.values().filter(|relay| **relay)),
            nodes: count(enforcing.values().filter(|relay| !**relay)),
            times: (!times.is_empty()).then(|| EnforcementTimes {
                p50: quantile(&times, 50),
                p99: quantile(&times, 99),
                max: quantile(&times, 100),
            }),
            ..Report::default()
        };
        let mut seen = HashSet::new();
        for Enforcer { member, name, static_key, relay } in enforcers {
            if enforcing.contains_key(&static_key) || !seen.insert(static_key) {
                continue;
            }
            let connected = table.connected.contains_key(&static_key);
            *(if connected { &mut report.waiting } else { &mut report.offline }) += 1;
            if report.missing.len() < Report::MAX_MISSING {
                report.missing.push(MissingEnforcer { member, name, static_key, relay, connected });
            }
        }
        report
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code that holds the lock can leave the table half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut table = self.of.lock();
        if let Some(connected) = table.connected.get_mut(&self.key) {
            connected.sessions -= 1;
            if connected.sessions == 0 {
                table.connected.remove(&self.key);
            }
        }
    }
}

fn count<T>(of: impl Iterator<Item = T>) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

/// The time in milliseconds, rounded up, within which `percent` of the sorted `times` are. They are not empty.
fn quantile(times: &[Duration], percent: usize) -> u64 {
    let place = (times.len() * percent).div_ceil(100).clamp(1, times.len()) - 1;
    u64::try_from(times[place].as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::identifier;

    fn key(number: u8) -> StaticPublic {
        StaticPublic::from_bytes([number; 32])
    }

    fn enforcer(number: u8, relay: bool) -> Enforcer {
        Enforcer { member: identifier(number), name: "node".parse().unwrap(), static_key: key(number), relay }
    }

    #[tokio::test(start_paused = true)]
    async fn who_enforces_waits_and_is_offline() {
        let enforcement = Enforcement::default();
        let nodes: Vec<_> = (1..=3).map(|number| enforcement.enter(key(number), number == 3)).collect();
        let all = || (1..=4).map(|number| enforcer(number, number == 3)).collect::<Vec<_>>();
        enforcement.begin(5);
        let report = enforcement.report(5, all());
        assert_eq!((report.nodes, report.relays, report.waiting, report.offline, report.times), (0, 0, 3, 1, None));
        tokio::time::advance(Duration::from_millis(40)).await;
        enforcement.acknowledge(key(1), 5);
        enforcement.acknowledge(key(2), 4);
        tokio::time::advance(Duration::from_millis(60)).await;
        enforcement.acknowledge(key(3), 7);
        enforcement.acknowledge(key(1), 7);
        let report = enforcement.report(5, all());
        assert_eq!((report.nodes, report.relays, report.waiting, report.offline), (1, 1, 1, 1));
        assert_eq!(report.times, Some(EnforcementTimes { p50: 40, p99: 100, max: 100 }));
        let missing: Vec<_> = report.missing.iter().map(|missing| (missing.static_key, missing.connected)).collect();
        assert_eq!(missing, [(key(2), true), (key(4), false)]);

        // One that enforced it and left has enforced it; of one that was not heard of since, nothing is known.
        drop(nodes);
        let report = enforcement.report(5, all());
        assert_eq!((report.nodes, report.relays, report.waiting, report.offline), (1, 1, 0, 2));
        enforcement.acknowledge(key(2), 9);
        assert_eq!(enforcement.report(5, all()).nodes, 1, "only who is connected speaks");
    }

    #[tokio::test(start_paused = true)]
    async fn an_epoch_whose_beginning_is_forgotten_has_no_times() {
        let enforcement = Enforcement::default();
        let _node = enforcement.enter(key(1), false);
        for epoch in 1..=100 {
            enforcement.begin(epoch);
        }
        assert_eq!(enforcement.lock().begun.len(), MAX_BEGUN);
        enforcement.acknowledge(key(1), 100);
        let report = enforcement.report(1, vec![enforcer(1, false)]);
        assert_eq!((report.nodes, report.times, report.missing.len()), (1, None, 0));
    }
}
