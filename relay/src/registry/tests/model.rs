//! Everything that can happen to one name, in every order: a node that registers, leaves, comes back or is taken over by its next run while
//! its old link lives on for a while; another node beside it; and a watcher that asks only when it is woken, soon or late. Whatever
//! happened, a little later the watcher knows who is there. The registry is the real one. It cannot be copied, so that Stateright's states
//! are lists of acts, which are done again from the start.

use std::hash::{Hash, Hasher};

use stateright::{Checker, Model, Property};

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The node connects, in this run; a session that it has is taken over.
    Open(usize),
    /// The control link of the newest session ends, or of the one before, whose end comes late.
    Close {
        late: bool,
    },
    Register {
        late: bool,
    },
    Unregister,
    /// Another node comes with the name, or goes.
    Other,
    /// So many milliseconds.
    Pass(u64),
    /// The watcher reads what there is for it, if it was woken.
    Listen,
}

/// What there is after some acts.
struct World {
    bench: Bench,
    watcher: SessionId,
    sessions: Vec<SessionId>,
    other: Option<SessionId>,
    woken: bool,
    told: Option<Vec<u8>>,
    wrong: Option<String>,
    deaf: bool,
}

/// The acts that lead to a world. Two are the same to the checker if their worlds have one future.
#[derive(Debug, Clone)]
struct State {
    acts: Vec<Act>,
    key: Key,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key.hash(hasher);
    }
}

/// What tells worlds apart, in times from now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Run and registration of the newest sessions, where they live.
    sessions: Vec<Option<(u8, bool)>>,
    other: bool,
    woken: bool,
    told: Option<Vec<u8>>,
    /// When the update is due, and that it has been told for long.
    due: Option<Duration>,
    since: Option<Duration>,
    timers: Vec<Duration>,
    take_overs: usize,
    wrong: Option<String>,
}

struct OneName {
    template: LinkSession,
    watcher: Peer,
    runs: [Peer; 2],
    other: Peer,
    /// A watcher that timers do not wake: what must not be.
    deaf: bool,
}

impl OneName {
    fn new(deaf: bool) -> Self {
        Self {
            template: template(),
            watcher: peer(9, 9, 9, &[]),
            runs: [peer(1, 1, 1, &["saas"]), peer(1, 1, 2, &["saas"])],
            other: peer(2, 2, 3, &["saas"]),
            deaf,
        }
    }

    fn world(&self, acts: &[Act]) -> World {
        let now = Now { instant: Instant::now(), time: Timestamp::from_unix(1000) };
        let registry = Registry::new(Limits { sessions: 10, parked: 10 });
        let (template, commands) = (self.template.clone(), Vec::new());
        let mut bench = Bench { registry, now, commands, template, sessions: 0, counter: 0 };
        let watcher = bench.open(self.watcher.clone()).unwrap();
        bench.registry.handle_message(now, watcher, ToRelay::Watch { name: name("saas") });
        let (sessions, told) = Default::default();
        let mut world = World { bench, watcher, sessions, other: None, woken: false, told, wrong: None, deaf: self.deaf };
        world.collect(false);
        for act in acts {
            self.act(&mut world, *act);
            world.look();
        }
        world
    }

    fn act(&self, world: &mut World, act: Act) {
        let World { bench, .. } = world;
        let late = |late: bool, sessions: &[SessionId]| sessions.iter().rev().nth(usize::from(late)).copied();
        let register = ToRelay::Register { request: 1, name: name("saas"), weight: None };
        match act {
            Act::Open(run) => {
                if let Ok(session) = bench.open(self.runs[run].clone()) {
                    world.sessions.push(session);
                }
            }
            Act::Close { late: which } => {
                if let Some(session) = late(which, &world.sessions) {
                    bench.registry.handle_closed(bench.now, session);
                }
            }
            Act::Register { late: which } => {
                if let Some(session) = late(which, &world.sessions) {
                    bench.registry.handle_message(bench.now, session, register);
                }
            }
            Act::Unregister => {
                if let Some(session) = late(false, &world.sessions) {
                    let message = ToRelay::Unregister { request: 1, name: name("saas") };
                    bench.registry.handle_message(bench.now, session, message);
                }
            }
            Act::Other => match world.other.take() {
                Some(session) => bench.registry.handle_closed(bench.now, session),
                None => {
                    let session = bench.open(self.other.clone()).unwrap();
                    bench.registry.handle_message(bench.now, session, register);
                    world.other = Some(session);
                }
            },
            Act::Pass(ms) => return world.pass(ms),
            Act::Listen => return world.listen(),
        }
        world.collect(false);
    }
}

impl World {
    /// Whether the watcher was woken; `by_time`: by a timer.
    fn collect(&mut self, by_time: bool) {
        while let Some(command) = self.bench.registry.poll_command() {
            // The watcher's control link is the first.
            if command == Command::Wake(1) && !(by_time && self.deaf) {
                self.woken = true;
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.bench.pass(Duration::from_millis(ms));
        self.collect(true);
    }

    fn listen(&mut self) {
        if std::mem::take(&mut self.woken) {
            while let Some(message) = self.bench.registry.poll_transmit(self.bench.now, self.watcher) {
                self.told = Some(instances(&message));
            }
        }
    }

    fn present(&self) -> Vec<u8> {
        let here = self.bench.registry.sessions.values().filter(|session| session.names.contains_key(&name("saas")));
        let mut here: Vec<_> = here.map(|session| session.peer.instance.as_bytes()[0]).collect();
        here.sort_unstable();
        here
    }

    fn look(&mut self) {
        let registry = &self.bench.registry;
        let present = self.present();
        let mut listed: Vec<_> = registry
            .names
            .instances(&name("saas"), self.watcher)
            .map(|session| registry.sessions.get(&session).map_or(0, |session| session.peer.instance.as_bytes()[0]))
            .collect();
        listed.sort_unstable();
        if listed != present {
            self.wrong.get_or_insert(format!("registered are {listed:?}, and there are {present:?}"));
        }
        if self.told.as_ref().is_some_and(|told| told.contains(&1) && told.contains(&2)) {
            self.wrong.get_or_insert("the watcher was told of two runs of one node".to_owned());
        }
    }

    /// When nothing more happens, the watcher knows who is there.
    fn settle(mut self) -> Option<String> {
        for _ in 0..6 {
            self.listen();
            self.pass(250);
        }
        self.listen();
        let (told, present) = (self.told.clone().unwrap_or_default(), self.present());
        let stale = (told != present).then(|| format!("the watcher knows of {told:?}, and there are {present:?}"));
        self.wrong.or(stale)
    }

    fn key(&self) -> Key {
        let (registry, now) = (&self.bench.registry, self.bench.now.instant);
        let newest = self.sessions.iter().rev().take(2);
        let sessions = newest.map(|session| {
            let session = registry.sessions.get(session)?;
            Some((session.peer.instance.as_bytes()[0], !session.names.is_empty()))
        });
        let watch = registry.sessions.get(&self.watcher).and_then(|session| session.watches.get(&name("saas")));
        let from_now = |at: Instant| at.saturating_duration_since(now);
        let timers = registry.timers.iter().filter(|(_, timer)| matches!(timer, Timer::Watches(_)));
        Key {
            sessions: sessions.collect(),
            other: self.other.is_some(),
            woken: self.woken,
            told: self.told.clone(),
            due: watch.and_then(session::Watch::due).map(from_now),
            since: watch.and_then(session::Watch::told).map(|told| (now - told).min(limits::UPDATE_INTERVAL)),
            timers: timers.map(|(at, _)| from_now(*at)).collect(),
            take_overs: registry.contention.values().map(contention::Contention::recent).sum(),
            wrong: self.wrong.clone(),
        }
    }
}

impl OneName {
    fn state(&self, acts: Vec<Act>) -> State {
        let key = self.world(&acts).key();
        State { acts, key }
    }

    fn fault(&self, state: &State) -> Option<String> {
        self.world(&state.acts).settle()
    }
}

/// How many acts are tried in every order.
const DEPTH: usize = 9;
/// What must hold in every state. It is one property: where several are looked for, Stateright goes on after the first fault, and what it
/// tells in the end need not be the shortest way to one.
const KNOWN: &str = "a little later, the watcher knows who is there";

impl Model for OneName {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![self.state(Vec::new())]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        if state.acts.len() < DEPTH {
            let both = [false, true];
            acts.extend([Act::Open(0), Act::Open(1), Act::Unregister, Act::Other, Act::Pass(100), Act::Pass(1000), Act::Listen]);
            acts.extend(both.map(|late| Act::Close { late }));
            acts.extend(both.map(|late| Act::Register { late }));
        }
    }

    fn next_state(&self, state: &State, act: Act) -> Option<State> {
        Some(self.state(state.acts.iter().copied().chain([act]).collect()))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(KNOWN, |model, state| model.fault(state).is_none())]
    }
}

#[test]
fn a_watcher_knows_who_is_there_whatever_happened() {
    let checker = OneName::new(false).checker().spawn_bfs().join();
    if let Some(path) = checker.discovery(KNOWN) {
        panic!("{:?}: {:?}", checker.model().fault(path.last_state()), path.into_actions());
    }
    println!("{} states, {} steps", checker.unique_state_count(), checker.state_count());
    assert!(checker.is_done() && checker.unique_state_count() > 2_000, "{}", checker.unique_state_count());
}

/// That the model would see it.
#[test]
fn a_watcher_that_no_timer_wakes_is_found_out() {
    let checker = OneName::new(true).checker().spawn_bfs().join();
    let path = checker.assert_any_discovery(KNOWN);
    let fault = checker.model().fault(path.last_state());
    let actions = path.into_actions();
    assert!(fault.as_ref().is_some_and(|fault| fault.starts_with("the watcher knows of")), "{fault:?}: {actions:?}");
}
