//! Everything that can happen to one name, in every order: a node that registers, leaves, comes back or is taken over by its next run while
//! its old link lives on for a while; another node beside it; and a watcher that asks only when it is woken, soon or late. Whatever
//! happened, a little later the watcher knows who is there. The registry is the real one.

use postern_explore::{Explored, Model, explore};

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

impl Model for OneName {
    type State = Vec<Act>;
    type Action = Act;
    type Key = Key;

    fn start(&self) -> Vec<Act> {
        Vec::new()
    }

    fn actions(&self, _: &Vec<Act>) -> Vec<Act> {
        let both = [false, true];
        let mut acts =
            vec![Act::Open(0), Act::Open(1), Act::Unregister, Act::Other, Act::Pass(100), Act::Pass(1000), Act::Listen];
        acts.extend(both.map(|late| Act::Close { late }));
        acts.extend(both.map(|late| Act::Register { late }));
        acts
    }

    fn step(&self, acts: &Vec<Act>, act: &Act) -> Vec<Act> {
        acts.iter().copied().chain([*act]).collect()
    }

    fn key(&self, acts: &Vec<Act>) -> Key {
        self.world(acts).key()
    }

    fn check(&self, acts: &Vec<Act>) -> Result<(), String> {
        self.world(acts).settle().map_or(Ok(()), Err)
    }
}

/// How many acts are tried in every order.
const DEPTH: usize = 9;

#[test]
fn a_watcher_knows_who_is_there_whatever_happened() {
    let Explored { states, steps, .. } = explore(&OneName::new(false), DEPTH).unwrap();
    println!("{states} states, {steps} steps");
    assert!(states > 2_000, "{states}");
}

/// That the model would see it.
#[test]
fn a_watcher_that_no_timer_wakes_is_found_out() {
    let fault = explore(&OneName::new(true), DEPTH).unwrap_err();
    assert!(fault.what.starts_with("the watcher knows of"), "{fault:?}");
}
