//! Tries out everything that can happen, in every order, up to a number of steps: for tests of what must hold however events
//! interleave. It is breadth first, so that what it shows of a fault is the shortest way to it, and looks at each state once.
//!
//! A model holds the product's own code wherever it can. What that code keeps may be impossible to copy; then a state is the list of what
//! happened, and [`Model::step`] lets it happen again from the start.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What can happen, and what must hold.
pub trait Model {
    type State;
    type Action: Clone + Debug;
    /// What tells two states apart. States with one key have one future.
    type Key: Eq + Hash;

    fn start(&self) -> Self::State;

    /// What can happen next; an action that changes nothing costs little.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;

    fn step(&self, state: &Self::State, action: &Self::Action) -> Self::State;

    fn key(&self, state: &Self::State) -> Self::Key;

    /// What must hold in every state.
    ///
    /// # Errors
    /// What does not.
    fn check(&self, state: &Self::State) -> Result<(), String>;
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken between them.
    pub steps: usize,
    /// Nothing new can happen behind the last step: these are all states that there are.
    pub complete: bool,
}

/// A state in which something does not hold, with the shortest list of actions that leads there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault<A> {
    pub what: String,
    pub path: Vec<A>,
}

/// A state that was reached, from which other one and by what.
type Reached<A> = Option<(usize, A)>;

/// Takes up to `depth` actions in every order.
///
/// # Errors
/// The first [`Fault`].
pub fn explore<M: Model>(model: &M, depth: usize) -> Result<Explored, Fault<M::Action>> {
    let start = model.start();
    let mut seen = HashSet::from([model.key(&start)]);
    let mut reached: Vec<Reached<M::Action>> = vec![None];
    model.check(&start).map_err(|what| Fault { what, path: Vec::new() })?;
    let (mut border, mut steps) = (vec![(0, start)], 0);
    for _ in 0..depth {
        let mut next = Vec::new();
        for (number, state) in &border {
            for action in model.actions(state) {
                steps += 1;
                let after = model.step(state, &action);
                if !seen.insert(model.key(&after)) {
                    continue;
                }
                reached.push(Some((*number, action)));
                let last = reached.len() - 1;
                if let Err(what) = model.check(&after) {
                    return Err(Fault { what, path: path(&reached, last) });
                }
                next.push((last, after));
            }
        }
        border = next;
        if border.is_empty() {
            break;
        }
    }
    Ok(Explored { states: seen.len(), steps, complete: border.is_empty() })
}

fn path<A: Clone>(reached: &[Reached<A>], mut at: usize) -> Vec<A> {
    let mut path = Vec::new();
    while let Some(Some((before, action))) = reached.get(at) {
        path.push(action.clone());
        at = *before;
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads that each read a number and write one more.
    struct Counter {
        atomic: bool,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct State {
        number: u8,
        read: [Option<u8>; 2],
        done: [bool; 2],
    }

    impl Model for Counter {
        type State = State;
        type Action = usize;
        type Key = State;

        fn start(&self) -> State {
            State { number: 0, read: [None; 2], done: [false; 2] }
        }

        fn actions(&self, state: &State) -> Vec<usize> {
            (0..2).filter(|thread| !state.done[*thread]).collect()
        }

        fn step(&self, state: &State, thread: &usize) -> State {
            let (mut next, thread) = (state.clone(), *thread);
            match state.read[thread] {
                None if !self.atomic => next.read[thread] = Some(state.number),
                read => {
                    next.number = read.unwrap_or(state.number) + 1;
                    next.done[thread] = true;
                }
            }
            next
        }

        fn key(&self, state: &State) -> State {
            state.clone()
        }

        fn check(&self, state: &State) -> Result<(), String> {
            let lost = state.done == [true; 2] && state.number != 2;
            if lost { Err("an update is lost".to_owned()) } else { Ok(()) }
        }
    }

    #[test]
    fn the_shortest_way_to_a_fault_is_told() {
        let fault = explore(&Counter { atomic: false }, 10).unwrap_err();
        assert_eq!((fault.what.as_str(), fault.path), ("an update is lost", vec![0, 1, 0, 1]));
        assert!(explore(&Counter { atomic: false }, 3).is_ok_and(|explored| !explored.complete));
        assert_eq!(explore(&Counter { atomic: true }, 10), Ok(Explored { states: 4, steps: 4, complete: true }));
    }
}
