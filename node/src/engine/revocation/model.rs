//! Everything that can happen between an authority that voids credentials and one node: statements that are lost, late, repeated, or come
//! in another order; a disk that fails; a process that dies at any moment. The node's side is the real code: [`Voided`], as it is kept,
//! and [`Progress`].

use std::collections::BTreeSet;

use postern_explore::{Explored, Model, explore};
use postern_proto::authority::{VoidEntry, Voiding};
use postern_proto::credential::Voided;
use postern_proto::id::{Identifier, ProjectId};
use postern_proto::time::Timestamp;

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

#[derive(Debug, Clone, Copy)]
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

#[derive(Clone)]
struct State {
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
}

impl Model for Node {
    type State = State;
    type Action = Act;
    type Key = (Vec<(Identifier, Timestamp)>, [Vec<u8>; 2], Progress, BTreeSet<u64>, u64);

    fn start(&self) -> State {
        let (events, memory, disk, progress, enforcing) = Default::default();
        State { events, memory, disk, progress, enforcing, told: 0 }
    }

    fn actions(&self, state: &State) -> Vec<Act> {
        let mut acts = vec![Act::Store, Act::Tell, Act::Restart];
        acts.extend(state.enforcing.iter().map(|epoch| Act::Enforced(*epoch)));
        if state.events.len() < EVENTS {
            acts.extend((0..MEMBERS).flat_map(|member| [true, false].map(|for_ever| Act::Void { member, for_ever })));
        }
        for until in 1..=state.events.len() {
            for since in 0..until {
                acts.extend([Disk::Takes, Disk::Fails, Disk::Dies].map(|disk| Act::Hear { since, until, disk }));
            }
        }
        acts
    }

    fn step(&self, state: &State, act: &Act) -> State {
        let mut next = state.clone();
        match *act {
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
        next
    }

    fn key(&self, state: &State) -> Self::Key {
        let events = state.events.iter().map(|event| (event.member, event.not_before)).collect();
        (events, [kept(&state.memory), kept(&state.disk)], state.progress, state.enforcing.clone(), state.told)
    }

    fn check(&self, state: &State) -> Result<(), String> {
        let State { memory, disk, told, progress, .. } = state;
        let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        must(state.holds(memory, memory.epoch()), "an epoch is known, and not what was said up to it")?;
        must(disk.epoch() <= memory.epoch(), "the disk knows more than the process")?;
        must(progress.done() <= memory.epoch(), "what is not known is done")?;
        must(*told <= disk.epoch(), "the authority was told what a restart forgets")?;
        must(state.holds(memory, *told), "who was said to be out is believed")
    }
}

/// How many acts are tried in every order.
const DEPTH: usize = 7;

#[test]
fn whoever_is_said_to_be_out_is_never_believed_again() {
    let explored = explore(&Node { careless: false }, DEPTH).unwrap();
    let Explored { states, steps, .. } = explored;
    println!("{states} states, {steps} steps");
    assert!(states > 10_000, "{explored:?}");
}

/// That the model would see it.
#[test]
fn a_node_that_counts_what_it_has_not_written_is_found_out() {
    let fault = explore(&Node { careless: true }, DEPTH).unwrap_err();
    assert_eq!(fault.what, "the authority was told what a restart forgets");
    assert!(matches!(fault.path[..], [Act::Void { .. }, Act::Hear { disk: Disk::Fails, .. }, Act::Enforced(1), Act::Tell]));
}
