//! The relays that a node uses, as a set: links to those that are chosen, look-ups at all of them, and a path through whichever carries it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::RelayRow;
use postern_proto::id::{Identifier, InstanceId};
use postern_proto::link::Instance;
use postern_proto::name::RelayName;
use postern_proto::spec::{RelayAt, RelaySpec};
use postern_proto::weight::Weight;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info};

use super::code;
use super::failure::{Failure, Step};
use super::relay_choice::{Candidate, MOST_RELAYS, RELAYS, choose};
use super::relay_link::{RelayLink, all_down, lock};
use super::shared::Shared;

/// How long a new connection waits for a relay that is being connected, or for the first answer to a look-up.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// How long a new connection waits for a peer that was registered until a moment ago and may be restarting, counted from when it was seen
/// to be away: one that stays away is refused at once from then on.
const RETURN: Duration = Duration::from_secs(2);

/// A path that is not there after so long is tried through another relay as well.
const HEDGE: Duration = Duration::from_millis(250);

/// A peer that is not found at the relays that this node uses is looked for at others after so long.
const LOOK_FURTHER: Duration = Duration::from_millis(500);

/// A relay that is not wanted any more is kept for so long: peers that found this node there have found it elsewhere by then.
const LINGER: Duration = Duration::from_secs(30);

/// How long a node that stops waits for its relays to hear that.
const WITHDRAW: Duration = Duration::from_secs(1);

/// A relay that goes away together with a path may be seen to be away so much earlier than the path: a silent link is found within 15 s.
const LOSS_IS_SEEN: Duration = Duration::from_secs(20);

/// How often the choice of relays is looked at again, where there is one.
const REVIEW: Duration = Duration::from_millis(500);

/// All relays of the project that this node uses.
#[derive(Default)]
pub struct RelayLinks {
    state: Mutex<State>,
    /// What the choice depends on has changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// All relays of the project.
    rows: Vec<RelayRow>,
    links: Vec<Arc<RelayLink>>,
    /// Names that inlets lead to, also while no relay is known yet.
    watched: BTreeSet<RelayName>,
    /// Links that are not wanted any more, and since when.
    leaving: BTreeMap<Identifier, Instant>,
    /// Since when a name is not found at the relays that this node uses.
    missing_since: Option<Instant>,
    /// This node stops: it registers nothing any more.
    withdrawn: bool,
}

/// How long the look-ups of one attempt wait.
#[derive(Debug, Default)]
pub struct Patience {
    /// Until when a relay's answer is waited for, once one had to be: [`FIRST_ANSWER`] is for all look-ups together.
    answer: Option<Instant>,
    /// Waits also for a peer that may be restarting.
    pub returns: bool,
}

/// What a look-up at all relays came to.
enum Found {
    Instances(Vec<Instance>),
    /// Nobody yet; to be asked again when something changed, and not later than then.
    Wait(Instant),
    Nobody,
    Failed(Failure),
}

impl RelayLinks {
    /// Uses these relays from now on: starts links to new ones, ends those to relays that are gone.
    pub fn set(&self, shared: &Arc<Shared>, rows: &[RelayRow]) {
        lock(&self.state).rows = rows.to_vec();
        self.choose(shared);
        self.changed.notify_one();
    }

    /// Chooses again whenever there is reason to, until the node stops.
    pub async fn run(&self, shared: &Arc<Shared>) {
        loop {
            // Without a choice, nothing changes but by `set`.
            let choice = {
                let state = lock(&self.state);
                state.rows.len() > RELAYS || !state.leaving.is_empty()
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(REVIEW), if choice => {}
            }
            self.choose(shared);
        }
    }

    fn choose(&self, shared: &Arc<Shared>) {
        // Not under the lock of the links: the specs have one of their own.
        let specs: Vec<RelaySpec> = shared.relay_specs().values().cloned().collect();
        let pinned = |address: &HostPort| specs.iter().any(|spec| spec.at != RelayAt::Project && spec.at.means(address));
        let mut state = lock(&self.state);
        let state = &mut *state;
        let wanted_at = |address: &HostPort| -> BTreeMap<RelayName, Weight> {
            let here = specs.iter().filter(|spec| spec.at.means(address) && !state.withdrawn);
            here.map(|spec| (spec.name.clone(), spec.weight)).collect()
        };
        let candidate = |row: &RelayRow| Candidate {
            identifier: row.identifier,
            pinned: pinned(&row.address),
            standing: state.links.iter().find(|link| link.identifier == row.identifier).map(|link| link.standing()),
        };
        let choice = choose(state.rows.iter().map(candidate).collect());
        let used = |link: &Arc<RelayLink>| choice.used.contains(&link.identifier);
        let is_missing = |name: &RelayName| {
            let mut answers = state.links.iter().filter(|link| used(link)).filter_map(|link| link.is_registered(name)).peekable();
            answers.peek().is_some() && !answers.any(|found| found)
        };
        if state.watched.iter().any(is_missing) {
            state.missing_since.get_or_insert_with(Instant::now);
        } else {
            state.missing_since = None;
        }
        let further = state.missing_since.is_some_and(|since| since.elapsed() >= LOOK_FURTHER);
        let wanted: HashSet<Identifier> = choice.used.iter().chain(choice.further.iter().filter(|_| further)).copied().collect();
        let (rows, leaving) = (&state.rows, &mut state.leaving);
        state.links.retain(|link| {
            let stays = rows.iter().any(|row| row.identifier == link.identifier) && {
                if wanted.contains(&link.identifier) {
                    leaving.remove(&link.identifier);
                    true
                } else {
                    leaving.entry(link.identifier).or_insert_with(Instant::now).elapsed() < LINGER
                }
            };
            if !stays {
                leaving.remove(&link.identifier);
                link.stop();
            }
            stays
        });
        for row in &state.rows {
            if let Some(link) = state.links.iter().find(|link| link.identifier == row.identifier) {
                link.set_row(row.clone());
                link.set_names(&wanted_at(&row.address));
            } else if wanted.contains(&row.identifier) {
                let link = RelayLink::new(row.clone(), shared.stop.child_token());
                link.set_names(&wanted_at(&row.address));
                state.watched.iter().for_each(|name| link.watch(name));
                state.links.push(Arc::clone(&link));
                shared.spawn("relay link", link.run(Arc::clone(shared)));
            }
        }
    }

    /// The relay names of this node are others now.
    pub fn names_changed(&self) {
        self.changed.notify_one();
    }

    /// Gives all relay names up, and returns once the relays have heard it: no look-up leads here any more. A relay that does not answer at
    /// once is not waited for.
    pub async fn withdraw(&self, shared: &Arc<Shared>) {
        lock(&self.state).withdrawn = true;
        let mut ticks = shared.ticks.subscribe();
        self.choose(shared);
        let heard = async {
            while self.all().iter().any(|link| link.holds_names()) {
                // The sender is a part of `shared`.
                let _ = ticks.changed().await;
            }
        };
        if tokio::time::timeout(WITHDRAW, heard).await.is_err() {
            info!("a relay did not confirm in time that this node is not found there any more");
        }
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<RelayLink>> {
        lock(&self.state).links.clone()
    }

    /// Whether relays have been connected since before `moment`, all but those that were away by then: what none of them knows is not
    /// there. One that was restarted, or that went away together with what is looked for, leaves it open.
    #[must_use]
    pub fn were_up_since(&self, moment: Instant) -> bool {
        let links = self.all();
        let long_before = moment.checked_sub(LOSS_IS_SEEN);
        let was_away = |link: &RelayLink| long_before.is_some_and(|moment| link.was_away_since(moment));
        links.iter().any(|link| link.was_up_since(moment)) && links.iter().all(|link| link.was_up_since(moment) || was_away(link))
    }

    /// Whether the relays say that `name` is registered; `None` while none has answered.
    #[must_use]
    pub fn is_registered(&self, name: &RelayName) -> Option<bool> {
        self.all().iter().filter_map(|link| link.is_registered(name)).reduce(|any, this| any || this)
    }

    /// Wants to know who is registered under `name`, at every relay that there is and at those that come.
    pub fn watch(&self, name: &RelayName) {
        let mut state = lock(&self.state);
        if state.watched.insert(name.clone()) {
            state.links.iter().for_each(|link| link.watch(name));
            self.changed.notify_one();
        }
    }

    /// Who is registered under `name`, at any relay, each run of a node once; those in `gone` are passed over. Waits for an answer where one
    /// is about to come.
    ///
    /// # Errors
    /// Where no relay could be asked.
    pub async fn instances(
        &self,
        shared: &Shared,
        name: &RelayName,
        gone: &Gone,
        patience: &mut Patience,
    ) -> Result<Vec<Instance>, Failure> {
        self.watch(name);
        let asked = Instant::now();
        let mut ticks = shared.ticks.subscribe();
        loop {
            ticks.mark_unchanged();
            match self.look_up(name, gone, asked, patience) {
                Found::Instances(found) => return Ok(found),
                Found::Wait(until) => {
                    // The sender is a part of `shared`; late or not, it is looked again.
                    let _ = tokio::time::timeout_at(until, ticks.changed()).await;
                }
                Found::Nobody => return Ok(Vec::new()),
                Found::Failed(failure) => return Err(failure),
            }
        }
    }

    fn look_up(&self, name: &RelayName, gone: &Gone, asked: Instant, patience: &mut Patience) -> Found {
        let (links, further) = {
            let state = lock(&self.state);
            // Relays at which this node does not look yet: it begins to in a moment ([`LOOK_FURTHER`]).
            (state.links.clone(), state.links.len() < state.rows.len().min(MOST_RELAYS))
        };
        if links.is_empty() {
            let reason = "the project has no relay that this node knows of";
            return Found::Failed(Failure::new(Step::Relay, code::NO_RELAY, reason));
        }
        let mut found: Vec<Instance> = Vec::new();
        let mut answered = false;
        for instance in links.iter().filter_map(|link| link.instances(name)).inspect(|_| answered = true).flatten() {
            let run = (instance.identifier, instance.instance);
            if !gone.runs.contains(&run) && !found.iter().any(|other| (other.identifier, other.instance) == run) {
                found.push(instance);
            }
        }
        if !found.is_empty() {
            return Found::Instances(found);
        }
        let now = Instant::now();
        // A relay that has failed is waited for only where there is no other.
        let pending = links.iter().any(|link| link.instances(name).is_none() && !link.has_failed());
        if pending || !answered {
            let until = *patience.answer.get_or_insert(now + FIRST_ANSWER);
            if now < until {
                if !answered {
                    links.iter().for_each(|link| link.hurry());
                }
                return Found::Wait(until);
            }
        }
        if !answered {
            let down: Vec<_> = links.iter().filter(|link| !link.is_up()).cloned().collect();
            return Found::Failed(match down.is_empty() {
                true => Failure::new(Step::Relay, code::NO_ANSWER, "no relay answered in time who is registered"),
                false => all_down(&down),
            });
        }
        if further && now < asked + 2 * (LOOK_FURTHER + REVIEW) {
            return Found::Wait(asked + 2 * (LOOK_FURTHER + REVIEW));
        }
        let deserted = links.iter().filter_map(|link| link.deserted(name)).chain(gone.since).max();
        match deserted.map(|since| since.min(asked) + RETURN).filter(|until| patience.returns && now < *until) {
            Some(until) => Found::Wait(until),
            None => Found::Nobody,
        }
    }

    /// The relays that are connected. Where there is none, one that is about to be is waited for, but not long.
    async fn up(&self) -> Result<Vec<Arc<RelayLink>>, Failure> {
        let all = self.all();
        if all.iter().all(|link| !link.is_up()) {
            let mut waiting = JoinSet::new();
            for link in &all {
                link.hurry();
                let link = Arc::clone(link);
                waiting.spawn(async move { link.connected().await });
            }
            // Late or not, what counts is which are up now.
            let _ = tokio::time::timeout(FIRST_ANSWER, waiting.join_next()).await;
        }
        let up: Vec<_> = all.iter().filter(|link| link.is_up()).cloned().collect();
        if up.is_empty() {
            return Err(match all.is_empty() {
                true => Failure::new(Step::Relay, code::NO_RELAY, "the project has no relay that this node knows of"),
                false => all_down(&all),
            });
        }
        Ok(up)
    }

    /// A path to that run of a peer's node, through the nearest relay at which it is registered; through the next one where that one
    /// fails, or takes its time.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn join(&self, identifier: Identifier, instance: InstanceId) -> Result<TcpStream, Failure> {
        let mut links = self.up().await?;
        links.sort_by_cached_key(|link| (!link.knows(identifier, instance), link.preference()));
        let mut waiting = links.into_iter();
        let mut running = JoinSet::new();
        let mut failure: Option<Failure> = None;
        loop {
            if let Some(link) = waiting.next() {
                running.spawn(async move { link.join(identifier, instance).await });
            }
            let hedge = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(HEDGE).await,
                }
            };
            tokio::select! {
                joined = running.join_next() => match joined {
                    // The others are dropped with the set, and their links with them.
                    Some(Ok(Ok(socket))) => return Ok(socket),
                    Some(Ok(Err(error))) if failure.as_ref().is_none_or(|failure| says_more(failure, &error)) => {
                        failure = Some(error);
                    }
                    Some(Ok(Err(_))) => {}
                    Some(Err(error)) => debug!(%error, "a join was given up"),
                    None => {}
                },
                () = hedge => {}
            }
            if running.is_empty() && waiting.len() == 0 {
                return Err(failure
                    .unwrap_or_else(|| Failure::new(Step::Relay, code::RELAY_LOST, "the joins at all relays were given up")));
            }
        }
    }
}

/// Whether `next`, of another relay, is to be told in the place of `failure`: that a peer is not there says more than what a relay did
/// wrong, and that it joined another node more than that it is not there itself.
fn says_more(failure: &Failure, next: &Failure) -> bool {
    failure.step == Step::Relay || (failure.code == code::MISPAIRED && next.step != Step::Relay)
}

/// Runs of nodes that were seen to be away while a connection was made, though a relay still names them.
#[derive(Debug, Default)]
pub struct Gone {
    runs: HashSet<(Identifier, InstanceId)>,
    since: Option<Instant>,
}

impl Gone {
    pub fn add(&mut self, identifier: Identifier, instance: InstanceId) {
        self.runs.insert((identifier, instance));
        self.since.get_or_insert_with(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use postern_proto::id::StaticPublic;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn all_relays_that_are_down_are_named() {
        let link = |number: u8| {
            let row = RelayRow {
                identifier: Identifier::from_bytes([number; 32]),
                static_key: StaticPublic::from_bytes([9; 32]),
                address: format!("r{number}.example:4000").parse().unwrap(),
                next_static: None,
            };
            RelayLink::new(row, CancellationToken::new())
        };
        let links: Vec<_> = (1..=5).map(link).collect();
        for (count, said) in [
            (1, "the relay at r1.example:4000 cannot be reached: no connection in time"),
            (2, "2 relays cannot be reached: r1.example:4000: no connection in time; r2.example:4000: no connection in time"),
            (
                5,
                "5 relays cannot be reached: r1.example:4000: no connection in time; r2.example:4000: no connection in time; \
                 r3.example:4000: no connection in time; and 2 more",
            ),
        ] {
            let failure = all_down(&links[..count]);
            assert_eq!((failure.step, failure.code, failure.reason.as_str()), (Step::Relay, code::RELAY_DOWN, said));
        }
        assert!(!all_down(&links[..3]).reason.contains("more"), "three are named");
    }

    /// A relay that lies must not hide that another one knows nothing of the peer: streams would wait for it.
    #[test]
    fn that_a_peer_is_not_there_is_told_whatever_other_relays_did() {
        let failures = [
            (Step::Relay, code::RELAY_LOST),
            (Step::Relay, code::RELAY_REFUSED),
            (Step::Channel, code::MISPAIRED),
            (Step::Peer, code::NOT_CONNECTED),
        ];
        let told = |order: &[usize]| {
            let mut told: Option<Failure> = None;
            for (step, code) in order.iter().map(|at| failures[*at]) {
                let next = Failure::new(step, code, code.as_str());
                if told.as_ref().is_none_or(|told| says_more(told, &next)) {
                    told = Some(next);
                }
            }
            told.unwrap().code
        };
        for order in [[0, 2, 3], [2, 0, 3], [2, 3, 0], [3, 2, 0], [3, 0, 2], [0, 3, 2]] {
            assert_eq!(told(&order), code::NOT_CONNECTED, "{order:?}");
        }
        for order in [[0, 1, 2], [2, 0, 1], [0, 2, 1]] {
            assert_eq!(told(&order), code::MISPAIRED, "{order:?}");
        }
        assert_eq!(told(&[0, 1]), code::RELAY_REFUSED);
    }
}
