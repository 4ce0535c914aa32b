//! Who of several gets the next connection: by weights, passing over those that fail.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use postern_proto::weight::Weight;
use tokio::time::Instant;

/// One that failed is passed over for so long at first, twice as long each time that it fails again, and not longer than [`LONGEST`].
const SHORTEST: Duration = Duration::from_secs(1);

/// See [`SHORTEST`].
const LONGEST: Duration = Duration::from_secs(16);

/// One that fails is asked again after its time, by a probe that may take this long; only where that never says anything is it tried with a
/// connection.
const PROBE: Duration = Duration::from_secs(20);

/// More are not remembered once they are idle: a name has 16 nodes at a relay, and a restart makes each another one.
const REMEMBERED: usize = 256;

/// What is known of each that can be chosen.
#[derive(Debug)]
pub struct Balance<K> {
    entries: HashMap<K, Entry>,
    rule: Rule,
    turns: u64,
}

/// What "by weights" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Each gets its share of the connections.
    Shares,
    /// Who has the fewest live streams for its weight; where they have about the same, as [`Rule::Shares`].
    FewestStreams,
}

#[derive(Debug, Default)]
struct Entry {
    live: u32,
    /// How much of its share it has coming: smooth weighted round robin.
    credit: i64,
    /// The last turn in which it could be chosen.
    turn: u64,
    failing: Option<Failing>,
    /// It is being asked again, until [`Balance::probed`].
    probing: bool,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    until: Instant,
    delay: Duration,
}

impl<K: Eq + Hash + Clone> Balance<K> {
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self { entries: HashMap::new(), rule, turns: 0 }
    }

    /// The order in which to try `candidates`, by their places: the one whose turn it is, then the others that work, then those that fail, the
    /// one that failed longest ago first. Each call is a turn.
    pub fn turn(&mut self, candidates: &[(K, Weight)], now: Instant) -> Vec<usize> {
        if self.entries.len() > REMEMBERED {
            self.entries.retain(|key, entry| entry.live > 0 || candidates.iter().any(|(candidate, _)| candidate == key));
        }
        self.turns += 1;
        for (key, _) in candidates {
            self.entries.entry(key.clone()).or_default().turn = self.turns;
        }
        let entry = |place: &usize| candidates.get(*place).and_then(|(key, _)| self.entries.get(key));
        let failing = |place: &usize| entry(place).and_then(|entry| entry.failing).filter(|failing| failing.until > now);
        let load = |place: &usize| (entry(place).map_or(0, |entry| u64::from(entry.live)), u64::from(candidates[*place].1.get()));
        let (mut working, mut failed): (Vec<usize>, Vec<usize>) =
            (0..candidates.len()).partition(|place| failing(place).is_none());
        failed.sort_by_key(|place| failing(place).map(|failing| failing.until));
        let mut first: Vec<usize> = working.clone();
        if self.rule == Rule::FewestStreams {
            working.sort_by(|a, b| {
                let ((a, a_weight), (b, b_weight)) = (load(a), load(b));
                (a * b_weight).cmp(&(b * a_weight))
            });
            // Who already has more than anybody would have with this stream has no claim. Less of a difference is none: the stream before this
            // one may be ending just now.
            let with_it = |place: &usize| (load(place).0 + 1, load(place).1);
            let least = working.iter().map(with_it).min_by(|(a, a_weight), (b, b_weight)| (a * b_weight).cmp(&(b * a_weight)));
            if let Some((most, of_weight)) = least {
                first.retain(|place| {
                    let (live, weight) = load(place);
                    live * of_weight <= most * weight
                });
            }
        }
        // Of those with an equal claim, each is given what its weight says, and who has most coming pays for all.
        let total: i64 = first.iter().map(|place| i64::from(candidates[*place].1.get())).sum();
        let mut chosen: Option<(usize, i64)> = None;
        for place in first {
            let (key, weight) = &candidates[place];
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.credit += i64::from(weight.get());
            if chosen.is_none_or(|(_, most)| entry.credit > most) {
                chosen = Some((place, entry.credit));
            }
        }
        if let Some((place, _)) = chosen {
            if let Some(entry) = self.entries.get_mut(&candidates[place].0) {
                entry.credit -= total;
            }
            working.retain(|other| *other != place);
            working.insert(0, place);
        }
        working.extend(failed);
        working
    }

    /// A stream goes there, until [`Self::ended`].
    pub fn began(&mut self, key: &K) {
        self.entries.entry(key.clone()).or_default().live += 1;
    }

    pub fn ended(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.live = entry.live.saturating_sub(1);
        }
    }

    /// It did not serve: it is passed over, and to be asked again after the time that is returned. `None` where that is under way already.
    pub fn failed(&mut self, key: &K, now: Instant) -> Option<Duration> {
        if self.is_failing(key, now) {
            return None;
        }
        let delay = self.fails_still(key, now);
        let entry = self.entries.get_mut(key)?;
        (!std::mem::replace(&mut entry.probing, true)).then_some(delay)
    }

    /// It was asked again, and does not serve: to be asked after that time.
    pub fn fails_still(&mut self, key: &K, now: Instant) -> Duration {
        let entry = self.entries.entry(key.clone()).or_default();
        let delay = entry.failing.map_or(SHORTEST, |failing| (failing.delay * 2).min(LONGEST));
        entry.failing = Some(Failing { until: now + delay + PROBE, delay });
        // What it did not get is not made up for when it is back.
        entry.credit = 0;
        delay
    }

    /// It was asked again, and serves, or there is nothing to ask any more.
    pub fn probed(&mut self, key: &K) {
        self.served(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.probing = false;
        }
    }

    /// It serves, as somebody else has found who asked.
    pub fn served(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.failing = None;
        }
    }

    /// Whether it is being passed over.
    #[must_use]
    pub fn is_failing(&self, key: &K, now: Instant) -> bool {
        self.entries.get(key).and_then(|entry| entry.failing).is_some_and(|failing| failing.until > now)
    }

    /// Whether each that could be chosen in the last turn is being passed over.
    #[must_use]
    pub fn all_fail(&self, now: Instant) -> bool {
        self.entries.iter().filter(|(_, entry)| entry.turn == self.turns).all(|(key, _)| self.is_failing(key, now))
    }

    /// How many streams go to all of them.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.entries.values().map(|entry| entry.live).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates<const N: usize>(weights: [u16; N]) -> Vec<(usize, Weight)> {
        weights.into_iter().map(|weight| Weight::try_from(weight).unwrap()).enumerate().collect()
    }

    /// Whom each of `turns` connections goes to, each ending at once.
    fn counts<const N: usize>(balance: &mut Balance<usize>, candidates: &[(usize, Weight)], turns: usize) -> [usize; N] {
        let mut counts = [0; N];
        for _ in 0..turns {
            counts[balance.turn(candidates, Instant::now())[0]] += 1;
        }
        counts
    }

    #[test]
    fn each_gets_its_share() {
        for rule in [Rule::Shares, Rule::FewestStreams] {
            let mut balance = Balance::new(rule);
            assert_eq!(counts(&mut balance, &candidates([90, 10]), 100), [90, 10]);
            assert_eq!(counts(&mut balance, &candidates([1, 1, 2]), 40), [10, 10, 20]);
            assert_eq!(counts(&mut balance, &candidates([7]), 3), [3]);
        }
        assert!(Balance::<usize>::new(Rule::Shares).turn(&[], Instant::now()).is_empty());
    }

    #[test]
    fn who_has_fewest_streams_for_its_weight_is_first() {
        let (mut balance, candidates) = (Balance::new(Rule::FewestStreams), candidates([1, 3]));
        for _ in 0..40 {
            let first = balance.turn(&candidates, Instant::now())[0];
            balance.began(&first);
        }
        assert_eq!(([0, 1].map(|key| balance.entries[&key].live), balance.live()), ([10, 30], 40));
        // The streams of one end: it gets the next ones.
        for _ in 0..20 {
            balance.ended(&1);
        }
        for _ in 0..19 {
            let first = balance.turn(&candidates, Instant::now())[0];
            assert_eq!(first, 1);
            balance.began(&first);
        }
    }

    #[test]
    fn one_that_fails_is_passed_over_until_it_serves_again() {
        let (mut balance, candidates) = (Balance::new(Rule::Shares), candidates([1, 1, 1]));
        let begun = Instant::now();
        let at = |millis: u64| begun + Duration::from_millis(millis);
        assert_eq!(balance.failed(&0, at(0)), Some(SHORTEST));
        assert_eq!(balance.failed(&0, at(0)), None, "once for one fault");
        assert_eq!(counts(&mut balance, &candidates, 10), [0, 5, 5]);
        balance.failed(&1, at(500));
        assert!(!balance.all_fail(at(500)));
        assert_eq!(balance.turn(&candidates, at(500)), [2, 0, 1], "those that fail come last, the first to be asked again first");
        assert_eq!(balance.fails_still(&0, at(1_000)), SHORTEST * 2);
        assert_eq!(counts(&mut balance, &candidates, 10), [0, 0, 10]);
        // The third is gone.
        balance.turn(&candidates[..2], at(1_000));
        assert!(balance.all_fail(at(1_000)));
        balance.served(&0);
        assert_eq!(balance.failed(&0, at(1_500)), None, "it is being asked already");
        balance.probed(&0);
        balance.probed(&1);
        assert!(counts::<3>(&mut balance, &candidates, 9).iter().all(|count| *count >= 2), "nothing is made up for at once");
        assert_eq!(balance.failed(&0, at(1_800)), Some(SHORTEST), "another fault");
        for _ in 0..10 {
            assert!(balance.fails_still(&0, at(2_000)) <= LONGEST);
        }
        assert!(!balance.is_failing(&0, at(2_000) + LONGEST + PROBE), "whatever became of its probe");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut balance = Balance::new(Rule::FewestStreams);
        for key in 0..10 * REMEMBERED {
            balance.turn(&[(key, Weight::ONE)], Instant::now());
        }
        assert!(balance.entries.len() <= REMEMBERED + 1);
    }
}
