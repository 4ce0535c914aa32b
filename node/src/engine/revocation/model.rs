//! Everything that can happen between an authority that voids credentials and one node: statements that are lost, late, repeated, or come
//! in another order; a disk that fails; a process that dies at any moment. The node's side is the real code: [`Voided`], as it is kept,
//! and [`Progress`]. Stateright tries it all, in every order.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use postern_proto::authority::{VoidEntry, Voiding};
use postern_proto::credential::Voided;
use postern_proto::id::{Identifier, ProjectId};
use postern_proto::time::Timestamp;
use stateright::{Checker, Model, Property};

use super::progress::Progress;

/// Members that can be voided, and how often anything is.
const MEMBERS: u8 = 2;
const EVENTS: usize = 3;

/// What becomes of the list when it is written after a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Takes,
    Fails,
    /// The process dies before it is written.
    Dies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The authority revokes a member, or voids what it has until now.
    Void {
        member: u8,
        for_ever: bool,
    },
    /// A statement of what was voided in these epochs arrives, by any road, for the first time or again.
    Hear {
        since: usize,
        until: usize,
        disk: Disk,
    },
    /// What could not be written is written.
    Store,
    /// The streams that an epoch ends have ended.
    Enforced(u64),
    /// The authority hears how far the node is.
    Tell,
    Restart,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// How many acts led here.
    acts: usize,
    /// Event `i` has epoch `i + 1`.
    events: Vec<VoidEntry>,
    memory: Voided,
    disk: Voided,
    progress: Progress,
    enforcing: BTreeSet<u64>,
    /// What the authority was told.
    told: u64,
}

struct Node {
    /// A list that was not written counts as written: what must not be.
    careless: bool,
    /// Whether the model comes to what it is about is looked for, too.
    reaches: bool,
}

fn kept(voided: &Voided) -> Vec<u8> {
    minicbor::to_vec(voided).unwrap()
}

impl State {
    fn restart(&mut self) {
        self.memory = minicbor::decode(&kept(&self.disk)).unwrap();
        self.progress = Progress::default();
        self.progress.begin(self.memory.epoch());
        self.enforcing.clear();
    }

    fn store(&mut self) {
        self.disk = self.memory.clone();
        self.progress.has_stored(self.memory.epoch());
    }

    fn statement(&self, since: usize, until: usize) -> Voiding {
        let said = &self.events[since..until];
        let last = |member| said.iter().rfind(|entry| entry.member == Identifier::from_bytes([member; 32]));
        Voiding {
            project: ProjectId::from_bytes([1; 16]),
            epoch: until as u64,
            time: Timestamp::from_unix(1000 + until as u64),
            entries: (0..MEMBERS).filter_map(last).copied().collect(),
            since: since as u64,
        }
    }

    /// Whether everything that was voided up to `epoch` is void by `list`, or what was said of that member later.
    fn holds(&self, list: &Voided, epoch: u64) -> bool {
        (0..epoch as usize).all(|at| {
            let member = self.events[at].member;
            let later = self.events[at..].iter().filter(|event| event.member == member);
            later.map(|event| Some(event.not_before)).any(|limit| limit == list.not_before(&member))
        })
    }

    /// What tells states apart: states with one key have one future, however many acts led there.
    fn key(&self) -> impl PartialEq + Hash + use<> {
        let events: Vec<_> = self.events.iter().map(|event| (event.member, event.not_before)).collect();
        (events, [kept(&self.memory), kept(&self.disk)], self.progress, self.enforcing.clone(), self.told)
    }

    /// What does not hold, and must.
    fn fault(&self) -> Option<&'static str> {
        let Self { memory, disk, told, progress, .. } = self;
        let must = [
            (self.holds(memory, memory.epoch()), "an epoch is known, and not what was said up to it"),
            (disk.epoch() <= memory.epoch(), "the disk knows more than the process"),
            (progress.done() <= memory.epoch(), "what is not known is done"),
            (*told <= disk.epoch(), FORGETS),
            (self.holds(memory, *told), "who was said to be out is believed"),
        ];
        must.into_iter().find_map(|(holds, what)| (!holds).then_some(what))
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

const FORGETS: &str = "the authority was told what a restart forgets";

/// How many acts are tried in every order.
const DEPTH: usize = 7;
/// What must hold in every state. It is one property: where several are looked for, Stateright goes on after the first fault, and what it
/// tells in the end need not be the shortest way to one. So for a fault of the real code it looks again, for this alone.
const BELIEVED: &str = "whoever is said to be out is never believed again";

impl Model for Node {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        if state.acts == DEPTH {
            return;
        }
        acts.extend([Act::Store, Act::Tell, Act::Restart]);
        acts.extend(state.enforcing.iter().map(|epoch| Act::Enforced(*epoch)));
        if state.events.len() < EVENTS {
            acts.extend((0..MEMBERS).flat_map(|member| [true, false].map(|for_ever| Act::Void { member, for_ever })));
        }
        for until in 1..=state.events.len() {
            for since in 0..until {
                acts.extend([Disk::Takes, Disk::Fails, Disk::Dies].map(|disk| Act::Hear { since, until, disk }));
            }
        }
    }

    fn next_state(&self, state: &State, act: Act) -> Option<State> {
        let mut next = State { acts: state.acts + 1, ..state.clone() };
        match act {
            Act::Void { member, for_ever } => {
                let at = Timestamp::from_unix(1000 + state.events.len() as u64);
                let not_before = if for_ever { VoidEntry::FOR_EVER } else { at };
                next.events.push(VoidEntry { member: Identifier::from_bytes([member; 32]), not_before });
            }
            Act::Hear { since, until, disk } => {
                if next.memory.apply(&next.statement(since, until)) == Ok(true) {
                    next.enforcing.insert(next.memory.epoch());
                    match disk {
                        Disk::Takes => next.store(),
                        Disk::Fails if self.careless => next.progress.has_stored(next.memory.epoch()),
                        Disk::Fails => {}
                        Disk::Dies => next.restart(),
                    }
                }
            }
            Act::Store => next.store(),
            Act::Enforced(epoch) => {
                next.enforcing.remove(&epoch);
                next.progress.has_enforced(epoch);
            }
            Act::Tell => next.told = next.told.max(next.progress.done()),
            Act::Restart => next.restart(),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(BELIEVED, |_, state: &State| state.fault().is_none())];
        if self.reaches {
            properties.push(Property::sometimes("all is heard, done and told", |_, state: &State| state.told == EVENTS as u64));
            properties
                .push(Property::sometimes("a restart forgets", |_, state: &State| state.disk.epoch() < state.memory.epoch()));
        }
        properties
    }
}

#[test]
fn whoever_is_said_to_be_out_is_never_believed_again() {
    let checker = Node { careless: false, reaches: true }.checker().spawn_bfs().join();
    if checker.discovery(BELIEVED).is_some() {
        let path = Node { careless: false, reaches: false }.checker().spawn_bfs().join().assert_any_discovery(BELIEVED);
        panic!("{:?}: {:?}", path.last_state().fault(), path.into_actions());
    }
    checker.assert_properties();
    println!("{} states, {} steps", checker.unique_state_count(), checker.state_count());
    assert!(checker.unique_state_count() > 10_000, "{}", checker.unique_state_count());
}

/// That the model would see it.
#[test]
fn a_node_that_counts_what_it_has_not_written_is_found_out() {
    let path = Node { careless: true, reaches: false }.checker().spawn_bfs().join().assert_any_discovery(BELIEVED);
    assert_eq!(path.last_state().fault(), Some(FORGETS));
    let acts = path.into_actions();
    assert!(matches!(acts[..], [Act::Void { .. }, Act::Hear { disk: Disk::Fails, .. }, Act::Enforced(1), Act::Tell]), "{acts:?}");
}
