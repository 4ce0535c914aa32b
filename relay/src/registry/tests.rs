mod model;

use std::time::Duration;

use postern_proto::aead::Suite;
use postern_proto::authority::{Attributes, RingKey};
use postern_proto::credential::{Audience, Claims, Holder, KeyRing, VerifiedCredential, Verifier, Voided, issue};
use postern_proto::handshake::{Choice, Initiator, Label, Responder, StaticKey};
use postern_proto::id::{CredentialId, ProjectId};
use postern_proto::link::{Frame, FromRelay, MAX_INSTANCES, ToRelay};
use postern_proto::secret::SecretBytes;
use postern_proto::sign::SigningKey;
use postern_proto::weight::Weight;
use proptest::prelude::*;

use super::*;

/// A virtual clock and what the machine said. Control links are numbers, and so are data links.
struct Bench {
    registry: Registry<u32, u32>,
    now: Now,
    commands: Vec<Command<u32, u32>>,
    template: LinkSession,
    sessions: u8,
    counter: u64,
}

fn name(text: &str) -> RelayName {
    text.parse().unwrap()
}

/// A session of some handshake; only its id matters here.
fn template() -> LinkSession {
    let (node, relay) = (StaticKey::generate(), StaticKey::generate());
    let (initiator, first) = Initiator::new(Label::RelayLink, Choice::hybrid(Suite::AesGcm), &node, relay.public()).unwrap();
    let (_, second) = Responder::read_offer(Label::RelayLink, &first, &[&relay]).unwrap().answer(&[]).unwrap();
    let (answered, _) = initiator.read_answer(&second).unwrap();
    answered.finish(&[]).unwrap().1.secret.link_session()
}

/// A credential for a day until `expires`, verified.
pub(crate) fn credential(identity: u8, names: &[&str], expires: u64) -> VerifiedCredential {
    let key = SigningKey::from_seed(&SecretBytes::new([1; 32]));
    let (project, issuer) = (ProjectId::from_bytes([8; 16]), Identifier::from_bytes([8; 32]));
    let until = Timestamp::from_unix(1_000_000);
    let ring = KeyRing::new(project, issuer, vec![RingKey::new(&key.public(), Timestamp::from_unix(0), until)]).unwrap();
    let mut relay_names: Vec<_> = names.iter().map(|text| name(text)).collect();
    relay_names.sort();
    let not_before = Timestamp::from_unix(expires.saturating_sub(86_400));
    let claims = Claims {
        issuer,
        subject: Identifier::from_bytes([identity; 32]),
        project,
        audience: Audience::Relay,
        not_before,
        expires: Timestamp::from_unix(expires),
        id: CredentialId::from_bytes([2; 16]),
        confirmation: StaticKey::from_secret(&SecretBytes::new([3; 32])).public(),
        attributes: Attributes::new(),
        relay_names,
    };
    let verifier = Verifier { ring: &ring, voided: &Voided::default(), now: not_before };
    verifier.verify(&issue(&key, &claims).unwrap(), Audience::Relay, Holder::Published).unwrap()
}

fn peer(identity: u8, node: u8, instance: u8, names: &[&str]) -> Peer {
    Peer {
        identifier: Identifier::from_bytes([identity; 32]),
        node_id: NodeId::from_bytes([node; 16]),
        instance: InstanceId::from_bytes([instance; 16]),
        credential: credential(identity, names, 86_400),
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits { sessions: 1000, parked: 300 })
    }

    fn with(limits: Limits) -> Self {
        let now = Now { instant: Instant::now(), time: Timestamp::from_unix(1000) };
        Self { registry: Registry::new(limits), now, commands: Vec::new(), template: template(), sessions: 0, counter: 0 }
    }

    /// Opens a session whose control link bears the session's number.
    fn open(&mut self, peer: Peer) -> Result<SessionId, Refusal> {
        self.sessions += 1;
        let mut link = self.template.clone();
        link.id = SessionId::from_bytes([self.sessions; 16]);
        let id = link.id;
        self.registry.handle_open(self.now, peer, link, u32::from(self.sessions))?;
        Ok(id)
    }

    fn collect(&mut self) -> Vec<Command<u32, u32>> {
        self.commands.extend(std::iter::from_fn(|| self.registry.poll_command()));
        std::mem::take(&mut self.commands).into_iter().filter(|command| !matches!(command, Command::Wake(_))).collect()
    }

    fn say(&mut self, session: SessionId, message: ToRelay) -> Vec<FromRelay> {
        self.registry.handle_message(self.now, session, message);
        self.hear(session)
    }

    fn hear(&mut self, session: SessionId) -> Vec<FromRelay> {
        std::iter::from_fn(|| self.registry.poll_transmit(self.now, session)).collect()
    }

    fn register(&mut self, session: SessionId, text: &str) -> Option<Refusal> {
        let answers = self.say(session, ToRelay::Register { request: 7, name: name(text), weight: None });
        answers
            .iter()
            .find_map(|answer| match answer {
                FromRelay::Answer { request: 7, refused } => Some(*refused),
                _ => None,
            })
            .expect("an answer")
    }

    /// Lets time pass, and every timer go off in its turn.
    fn pass(&mut self, time: Duration) {
        let end = self.now.instant + time;
        let start = self.now;
        while let Some(at) = self.registry.poll_timeout().filter(|at| *at <= end) {
            self.now.instant = self.now.instant.max(at);
            self.now.time = start.time.plus(self.now.instant - start.instant);
            self.registry.handle_timeout(self.now);
        }
        self.now = Now { instant: end, time: start.time.plus(time) };
        self.registry.handle_timeout(self.now);
    }

    fn link(&mut self, session: SessionId, frame: Frame, link: u32) -> Option<LinkId> {
        self.counter += 1;
        self.registry.handle_frame(self.now, First { session, counter: self.counter, frame }, link)
    }
}

fn instances(message: &FromRelay) -> Vec<u8> {
    match message {
        FromRelay::Instances { instances, .. } => instances.iter().map(|instance| instance.instance.as_bytes()[0]).collect(),
        other => panic!("{other:?}"),
    }
}

fn join_to(peer: &Peer) -> Frame {
    Frame::Join { identifier: peer.identifier, instance: peer.instance }
}

#[test]
fn a_name_is_registered_by_permission_only() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &["saas"])).unwrap();
    assert_eq!(bench.register(node, "saas"), None);
    assert_eq!(bench.register(node, "other"), Some(Refusal::NotPermitted));
    assert_eq!(bench.registry.registered(&name("saas")), 1);
    assert_eq!(bench.registry.registered(&name("other")), 0);
}

#[test]
fn watchers_see_arrivals_at_once_and_changes_once_a_second() {
    let mut bench = Bench::new();
    let watcher = bench.open(peer(9, 9, 9, &[])).unwrap();
    let said = bench.say(watcher, ToRelay::Watch { name: name("saas") });
    assert_eq!(instances(&said[0]), [0; 0], "an empty answer says that nobody is there");
    bench.pass(Duration::from_secs(2));
    for number in 1..=5 {
        let node = bench.open(peer(number, number, number, &["saas"])).unwrap();
        bench.register(node, "saas");
    }
    let said = bench.hear(watcher);
    assert_eq!(said.len(), 1, "one update for five changes");
    assert_eq!(instances(&said[0]), [1, 2, 3, 4, 5]);
    let node = bench.open(peer(6, 6, 6, &["saas"])).unwrap();
    bench.register(node, "saas");
    assert_eq!(bench.hear(watcher), [], "not within the second");
    bench.pass(Duration::from_millis(999));
    assert_eq!(bench.hear(watcher), []);
    bench.collect();
    bench.pass(Duration::from_millis(1));
    bench.commands.extend(std::iter::from_fn(|| bench.registry.poll_command()));
    assert!(bench.commands.contains(&Command::Wake(1)), "the timer wakes the watcher");
    assert_eq!(instances(&bench.hear(watcher)[0]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(bench.hear(watcher), []);
}

#[test]
fn an_arrival_is_not_held_back_by_the_departure_before_it() {
    let mut bench = Bench::new();
    let watcher = bench.open(peer(9, 9, 9, &[])).unwrap();
    let old = bench.open(peer(1, 1, 1, &["saas"])).unwrap();
    bench.register(old, "saas");
    bench.say(watcher, ToRelay::Watch { name: name("saas") });
    bench.pass(Duration::from_secs(2));
    bench.registry.handle_closed(bench.now, old);
    bench.pass(limits::SETTLE);
    assert_eq!(instances(&bench.hear(watcher)[0]), [0; 0]);
    bench.pass(Duration::from_millis(50));
    let new = bench.open(peer(1, 1, 2, &["saas"])).unwrap();
    bench.register(new, "saas");
    assert_eq!(bench.hear(watcher), [], "not at any rate");
    bench.pass(limits::ARRIVAL_INTERVAL);
    assert_eq!(instances(&bench.hear(watcher)[0]), [2]);
}

#[test]
fn a_weight_is_handed_out_and_changed() {
    let mut bench = Bench::new();
    let watcher = bench.open(peer(9, 9, 9, &[])).unwrap();
    let nodes = [1, 2].map(|number| bench.open(peer(number, number, number, &["saas"])).unwrap());
    bench.register(nodes[0], "saas");
    let weigh = |bench: &mut Bench, weight: &str| {
        bench.say(nodes[1], ToRelay::Register { request: 7, name: name("saas"), weight: weight.parse().ok() })
    };
    let weights = |message: &FromRelay| match message {
        FromRelay::Instances { instances, .. } => {
            instances.iter().map(|instance| instance.weight.map(Weight::get)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    weigh(&mut bench, "90");
    let said = bench.say(watcher, ToRelay::Watch { name: name("saas") });
    assert_eq!(weights(&said[0]), [None, Some(90)]);
    bench.pass(Duration::from_secs(2));
    weigh(&mut bench, "90");
    assert_eq!(bench.hear(watcher), [], "the same again is no change");
    weigh(&mut bench, "1");
    assert_eq!(weights(&bench.hear(watcher)[0]), [None, None]);
    assert_eq!(bench.registry.counts().registrations, 2);
}

#[test]
fn an_answer_has_at_most_sixteen_instances_and_watchers_share_the_rest() {
    let mut bench = Bench::new();
    for number in 1..=40 {
        let node = bench.open(peer(number, number, number, &["saas"])).unwrap();
        bench.register(node, "saas");
    }
    let mut seen = BTreeSet::new();
    for number in 41..=80 {
        let watcher = bench.open(peer(number, number, number, &[])).unwrap();
        let said = bench.say(watcher, ToRelay::Watch { name: name("saas") });
        let part = instances(&said[0]);
        assert_eq!(part.len(), MAX_INSTANCES);
        seen.extend(part);
    }
    assert_eq!(seen.len(), 40);
}

#[test]
fn the_same_node_takes_over_at_once_and_nobody_sees_it_gone() {
    let mut bench = Bench::new();
    let watcher = bench.open(peer(9, 9, 9, &[])).unwrap();
    let old = bench.open(peer(1, 1, 1, &["saas"])).unwrap();
    bench.register(old, "saas");
    bench.say(watcher, ToRelay::Watch { name: name("saas") });
    bench.pass(Duration::from_secs(2));
    bench.collect();
    let new = bench.open(peer(1, 1, 2, &["saas"])).unwrap();
    assert_eq!(bench.collect(), [Command::End { control: 2, reason: Some(Refusal::TakenOver) }]);
    assert_eq!(bench.hear(watcher), []);
    assert_eq!(bench.register(new, "saas"), None);
    assert_eq!(instances(&bench.hear(watcher)[0]), [2]);
    bench.registry.handle_closed(bench.now, old);
    assert_eq!(bench.registry.registered(&name("saas")), 1, "the old session's end takes nothing from the new one");
    bench.registry.handle_closed(bench.now, new);
    bench.pass(Duration::from_secs(2));
    assert_eq!(instances(&bench.hear(watcher)[0]), [0; 0], "a departure is told");
}

#[test]
fn nodes_of_one_identity_are_several_nodes() {
    let mut bench = Bench::new();
    for node in 1..=3 {
        let session = bench.open(peer(1, node, node, &["saas"])).unwrap();
        assert_eq!(bench.register(session, "saas"), None);
    }
    assert_eq!(bench.registry.registered(&name("saas")), 3);
    assert_eq!(bench.collect(), []);
}

#[test]
fn two_copies_of_a_home_are_stopped_and_both_hear_why() {
    let mut bench = Bench::new();
    let mut current = bench.open(peer(1, 1, 1, &[])).unwrap();
    for instance in [2, 1, 2] {
        bench.pass(Duration::from_secs(5));
        current = bench.open(peer(1, 1, instance, &[])).unwrap();
    }
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.open(peer(1, 1, 1, &[])), Err(Refusal::CopiedHome));
    let notice = FromRelay::Answer { request: 0, refused: Some(Refusal::CopiedHome) };
    assert_eq!(bench.hear(current), [notice]);
    // It stays refused for as long as it tries, and only that long.
    for _ in 0..10 {
        bench.pass(Duration::from_secs(15));
        bench.say(current, ToRelay::Ping { number: 1 });
        assert_eq!(bench.open(peer(1, 1, 1, &[])), Err(Refusal::CopiedHome));
    }
    for _ in 0..5 {
        bench.pass(Duration::from_secs(15));
        bench.say(current, ToRelay::Ping { number: 1 });
    }
    assert!(bench.open(peer(1, 1, 1, &[])).is_ok());
    assert!(bench.registry.contention.len() <= 1);
    bench.pass(Duration::from_secs(300));
    assert!(bench.registry.contention.is_empty(), "nothing is remembered for ever");
}

#[test]
fn a_node_that_restarts_in_a_loop_is_no_copy() {
    let mut bench = Bench::new();
    for instance in 1..=30 {
        bench.open(peer(1, 1, instance, &[])).unwrap();
        bench.pass(Duration::from_secs(1));
    }
    // And one run may reconnect as often as its network makes it.
    for _ in 0..30 {
        bench.open(peer(2, 2, 77, &[])).unwrap();
        bench.pass(Duration::from_secs(1));
    }
}

#[test]
fn silence_ends_a_session_after_the_receipt_time() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &["saas"])).unwrap();
    bench.register(node, "saas");
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.say(node, ToRelay::Ping { number: 5 }), [FromRelay::Pong { number: 5 }]);
    bench.pass(Duration::from_millis(24_999));
    assert_eq!(bench.collect(), []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.collect(), [Command::End { control: 1, reason: None }]);
    assert_eq!(bench.registry.counts(), Counts::default());
    assert_eq!(bench.registry.registered(&name("saas")), 0);
}

#[test]
fn links_are_joined_parked_first_or_last() {
    let mut bench = Bench::new();
    let (callee, caller) = (peer(1, 1, 1, &[]), peer(2, 2, 2, &[]));
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(caller.clone()).unwrap());
    bench.hear(outlet);
    let joined = |dialler, parked| Command::Join { dialler, dialled_by: caller.whom(), parked, parked_by: callee.whom() };
    assert!(bench.link(outlet, Frame::Park, 10).is_some());
    assert_eq!(bench.link(inlet, join_to(&callee), 20), None);
    assert_eq!(bench.collect(), [joined(20, 10)]);
    // Nothing parked: the other node is asked for as many as are wanted.
    bench.link(inlet, join_to(&callee), 21);
    bench.link(inlet, join_to(&callee), 22);
    assert_eq!(bench.collect(), []);
    assert_eq!(bench.hear(outlet), [FromRelay::MoreLinks { count: 2 }]);
    assert_eq!(bench.link(outlet, Frame::Park, 11), None);
    assert_eq!(bench.link(outlet, Frame::Park, 12), None);
    assert_eq!(bench.collect(), [joined(21, 11), joined(22, 12)]);
    let counts = bench.registry.counts();
    assert_eq!((counts.parked, counts.waiting, counts.joined), (0, 0, 3));
}

#[test]
fn a_node_is_asked_for_many_links_bit_by_bit() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    const DIALS: u32 = 1000;
    for number in 0..DIALS {
        bench.link(inlet, join_to(&callee), number);
    }
    // It parks as many as it is asked for, and all are served.
    let (mut asked, mut link) = (0, DIALS);
    while bench.registry.counts().waiting > 0 {
        let said = bench.hear(outlet);
        let [FromRelay::MoreLinks { count }] = said[..] else { panic!("{said:?}") };
        assert!(usize::from(count) <= limits::ASKED);
        asked += u32::from(count);
        for _ in 0..count {
            link += 1;
            bench.link(outlet, Frame::Park, link);
        }
    }
    assert_eq!(asked, DIALS);
    assert_eq!(bench.registry.counts().joined, u64::from(DIALS));
    // One that does not is asked again, when somebody else wants a link.
    for number in 0..100 {
        bench.link(inlet, join_to(&callee), number);
    }
    assert_eq!(bench.hear(outlet), [FromRelay::MoreLinks { count: limits::ASKED as u8 }]);
    bench.pass(limits::WAIT);
    bench.link(inlet, join_to(&callee), 1);
    assert_eq!(bench.hear(outlet), [FromRelay::MoreLinks { count: 1 }]);
}

#[test]
fn a_node_may_reach_its_own_outlet() {
    let mut bench = Bench::new();
    let node = peer(1, 1, 1, &[]);
    let session = bench.open(node.clone()).unwrap();
    bench.link(session, Frame::Park, 1);
    bench.link(session, join_to(&node), 2);
    assert_eq!(bench.collect(), [Command::Join { dialler: 2, dialled_by: node.whom(), parked: 1, parked_by: node.whom() }]);
}

#[test]
fn a_join_without_a_link_or_a_node_is_refused() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    bench.link(inlet, join_to(&peer(1, 1, 3, &[])), 20);
    assert_eq!(bench.collect(), [Command::Refuse { link: 20, reason: Refusal::NotConnected }], "another run of the node");
    bench.link(inlet, join_to(&callee), 21);
    bench.pass(Duration::from_millis(2999));
    assert_eq!(bench.collect(), []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.collect(), [Command::Refuse { link: 21, reason: Refusal::NoLink }]);
    bench.link(inlet, join_to(&callee), 22);
    bench.registry.handle_closed(bench.now, outlet);
    assert_eq!(bench.collect(), [Command::Refuse { link: 22, reason: Refusal::NotConnected }]);
    assert_eq!(bench.registry.sessions[&inlet].dialling, 0);
    assert_eq!(bench.registry.refusals().find(|(reason, _)| *reason == Refusal::NotConnected).unwrap().1, 2);
}

#[test]
fn parked_links_die_with_their_session_and_ended_ones_are_forgotten() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    let first = bench.link(outlet, Frame::Park, 10).unwrap();
    bench.link(outlet, Frame::Park, 11);
    assert_eq!(bench.registry.handle_link_ended(outlet, first), Some(10));
    assert_eq!(bench.registry.handle_link_ended(outlet, first), None);
    bench.registry.handle_closed(bench.now, outlet);
    assert_eq!(bench.collect(), [Command::Drop(11)]);
    bench.link(inlet, join_to(&callee), 20);
    bench.link(outlet, Frame::Park, 12);
    assert_eq!(
        bench.collect(),
        [
            Command::Refuse { link: 20, reason: Refusal::NotConnected },
            Command::Refuse { link: 12, reason: Refusal::NotConnected }
        ]
    );
}

#[test]
fn the_dialler_s_admission_is_judged_again_when_links_are_joined() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    bench.link(inlet, join_to(&callee), 20);
    bench.registry.end(bench.now, inlet, Some(Refusal::BadCredential));
    bench.collect();
    assert!(bench.link(outlet, Frame::Park, 10).is_some());
    assert_eq!(bench.collect(), [Command::Refuse { link: 20, reason: Refusal::NotConnected }]);
}

#[test]
fn an_expired_credential_joins_and_registers_nothing() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &["saas"]);
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    bench.now.time = Timestamp::from_unix(86_400 + 59);
    bench.link(outlet, Frame::Park, 10);
    bench.link(inlet, join_to(&callee), 20);
    assert!(matches!(bench.collect()[..], [Command::Join { .. }]), "within the tolerance");
    bench.now.time = Timestamp::from_unix(86_400 + 60);
    bench.link(inlet, join_to(&callee), 21);
    assert_eq!(bench.collect(), [Command::Refuse { link: 21, reason: Refusal::BadCredential }]);
    assert_eq!(bench.register(outlet, "saas"), Some(Refusal::BadCredential));
    bench.registry.handle_renewed(bench.now, inlet, credential(2, &[], 200_000));
    bench.link(inlet, join_to(&callee), 22);
    assert_eq!(bench.collect(), [Command::Refuse { link: 22, reason: Refusal::NotConnected }], "the other's has expired, too");
    bench.pass(Duration::from_secs(25));
    bench.collect();
    assert_eq!(bench.registry.counts().sessions, 0);
}

#[test]
fn a_renewal_changes_what_look_up_hands_out_and_what_is_permitted() {
    let mut bench = Bench::new();
    let watcher = bench.open(peer(9, 9, 9, &[])).unwrap();
    let node = bench.open(peer(1, 1, 1, &["kept", "lost"])).unwrap();
    bench.register(node, "kept");
    bench.register(node, "lost");
    for text in ["kept", "lost"] {
        bench.say(watcher, ToRelay::Watch { name: name(text) });
    }
    bench.pass(Duration::from_secs(2));
    let newer = credential(1, &["kept"], 90_000);
    bench.registry.handle_renewed(bench.now, node, newer.clone());
    assert_eq!(bench.hear(node), [FromRelay::Answer { request: 0, refused: Some(Refusal::NotPermitted) }]);
    let said = bench.hear(watcher);
    assert!(said.iter().any(|message| matches!(message, FromRelay::Instances { name, instances } if name.as_str() == "kept" && instances[0].credential == newer.bytes())));
    assert!(said.iter().any(
        |message| matches!(message, FromRelay::Instances { name, instances } if name.as_str() == "lost" && instances.is_empty())
    ));
    // An older credential does not come back.
    bench.registry.handle_renewed(bench.now, node, credential(1, &["kept", "lost"], 86_400));
    assert_eq!(bench.register(node, "lost"), Some(Refusal::NotPermitted));
}

#[test]
fn a_link_number_is_used_once() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &[])).unwrap();
    let first = First { session: node, counter: 4, frame: Frame::Park };
    bench.registry.handle_frame(bench.now, first, 1);
    bench.registry.handle_frame(bench.now, first, 2);
    assert_eq!(bench.collect(), [Command::Drop(2)]);
    assert_eq!(bench.registry.counts().parked, 1);
}

#[test]
fn frames_that_only_a_relay_sends_are_refused() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let node = bench.open(callee.clone()).unwrap();
    bench.link(node, Frame::Joined { identifier: callee.identifier, instance: callee.instance }, 1);
    bench.link(node, Frame::Refused(Refusal::Limit), 2);
    let refused = |link| Command::Refuse { link, reason: Refusal::Malformed };
    assert_eq!(bench.collect(), [refused(1), refused(2)]);
}

#[test]
fn one_peer_s_limits() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &[])).unwrap();
    for number in 0..limits::PARKED as u32 {
        assert!(bench.link(node, Frame::Park, number).is_some());
    }
    bench.link(node, Frame::Park, 1000);
    assert_eq!(bench.collect(), [Command::Refuse { link: 1000, reason: Refusal::Limit }]);
    for number in 0..limits::WATCHES {
        bench.say(node, ToRelay::Watch { name: name(&format!("w{number}")) });
    }
    assert_eq!(bench.collect(), []);
    let said = bench.say(node, ToRelay::Watch { name: name("one-more") });
    assert_eq!(said, [FromRelay::Answer { request: 0, refused: Some(Refusal::Limit) }]);
    assert_eq!(bench.registry.counts().watches, limits::WATCHES);
}

#[test]
fn a_peer_that_asks_without_listening_is_closed() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &[])).unwrap();
    for number in 0..=limits::ANSWERS as u64 {
        bench.registry.handle_message(bench.now, node, ToRelay::Ping { number });
    }
    assert_eq!(bench.collect(), [Command::End { control: 1, reason: Some(Refusal::TooManyRequests) }]);
    let node = bench.open(peer(1, 1, 1, &[])).unwrap();
    for number in 0..=u64::from(limits::REQUEST_BURST) {
        bench.say(node, ToRelay::Ping { number });
    }
    assert_eq!(bench.collect(), [Command::End { control: 2, reason: Some(Refusal::TooManyRequests) }]);
}

#[test]
fn one_dialler_cannot_fill_a_node_s_queue_nor_dial_without_end() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    bench.open(callee.clone()).unwrap();
    let inlet = bench.open(peer(2, 2, 2, &[])).unwrap();
    for number in 0..limits::DIALLING as u32 {
        bench.link(inlet, join_to(&callee), number);
    }
    assert_eq!(bench.collect(), []);
    bench.link(inlet, join_to(&callee), 5000);
    assert_eq!(bench.collect(), [Command::Refuse { link: 5000, reason: Refusal::Limit }]);
    let other = bench.open(peer(3, 3, 3, &[])).unwrap();
    bench.link(other, join_to(&callee), 6000);
    assert_eq!(bench.collect(), [], "others still wait");
    for number in 0..limits::JOIN_BURST {
        bench.link(other, join_to(&peer(7, 7, 7, &[])), number);
    }
    let refused = bench.collect();
    assert_eq!(refused.last(), Some(&Command::Refuse { link: limits::JOIN_BURST - 1, reason: Refusal::Limit }));
    assert_eq!(refused.first(), Some(&Command::Refuse { link: 0, reason: Refusal::NotConnected }));
}

#[test]
fn totals_are_bounded() {
    let mut bench = Bench::with(Limits { sessions: 2, parked: 1 });
    let (a, b) = (bench.open(peer(1, 1, 1, &[])).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    assert_eq!(bench.open(peer(3, 3, 3, &[])), Err(Refusal::Limit));
    bench.link(a, Frame::Park, 1);
    bench.link(b, Frame::Park, 2);
    assert_eq!(bench.collect(), [Command::Refuse { link: 2, reason: Refusal::Limit }]);
    let mut bench = Bench::new();
    for node in 0..limits::SESSIONS_PER_IDENTITY {
        let mut peer = peer(1, node as u8, node as u8, &[]);
        peer.node_id = NodeId::from_bytes([node as u8; 16]);
        let mut link = bench.template.clone();
        link.id = SessionId::from_bytes([&[1; 8][..], &(node as u64).to_be_bytes()].concat().try_into().unwrap());
        bench.registry.handle_open(bench.now, peer, link, 0).unwrap();
    }
    let mut one_more = peer(1, 1, 1, &[]);
    one_more.node_id = NodeId::from_bytes([[1; 8], [2; 8]].concat().try_into().unwrap());
    assert_eq!(bench.open(one_more), Err(Refusal::Limit));
    assert!(bench.open(peer(2, 1, 1, &[])).is_ok(), "another identity is not concerned");
}

#[test]
fn an_instance_of_another_node_cannot_be_claimed() {
    let mut bench = Bench::new();
    bench.open(peer(1, 1, 1, &[])).unwrap();
    assert_eq!(bench.open(peer(1, 2, 1, &[])), Err(Refusal::Malformed));
    assert!(bench.open(peer(2, 1, 1, &[])).is_ok(), "an instance is named together with its identity");
}

#[test]
fn statements_reach_everybody_once_and_only_the_newest() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &[])).unwrap();
    let statement = |text: &str| FromRelay::Statement { statement: text.as_bytes().to_vec() };
    for text in ["h1", "h2"] {
        bench.registry.handle_statements(StatementKind::Heartbeat, vec![text.as_bytes().into()]);
    }
    bench.registry.handle_statements(StatementKind::Voiding, vec![b"v1"[..].into(), b"v2"[..].into()]);
    assert_eq!(bench.hear(node), [statement("v1"), statement("v2"), statement("h2")]);
    assert_eq!(bench.hear(node), []);
    let late = bench.open(peer(2, 2, 2, &[])).unwrap();
    assert_eq!(bench.hear(late), [statement("v1"), statement("v2"), statement("h2")]);
}

#[test]
fn who_heard_all_voidings_hears_only_what_is_new() {
    let mut bench = Bench::new();
    let node = bench.open(peer(1, 1, 1, &[])).unwrap();
    let statement = |text: &str| FromRelay::Statement { statement: text.as_bytes().to_vec() };
    let all = |texts: &[&str]| -> Vec<Arc<[u8]>> { texts.iter().map(|text| text.as_bytes().into()).collect() };
    bench.registry.handle_voidings(all(&["v1", "v2"]), 2);
    assert_eq!(bench.hear(node), [statement("v1"), statement("v2")]);
    bench.registry.handle_voidings(all(&["v1", "v2", "v3"]), 1);
    assert_eq!(bench.hear(node), [statement("v3")]);
    // Two at once, of which the first was not heard yet: all is said.
    bench.registry.handle_voidings(all(&["v1", "v2", "v3", "v4"]), 1);
    bench.registry.handle_voidings(all(&["v1", "v2", "v3", "v4", "v5"]), 1);
    assert_eq!(bench.hear(node).last(), Some(&statement("v5")));
    // The same in fewer words is not said again.
    bench.registry.handle_voidings(all(&["all"]), 0);
    assert_eq!(bench.hear(node), []);
    let late = bench.open(peer(2, 2, 2, &[])).unwrap();
    assert_eq!(bench.hear(late), [statement("all")]);
}

#[test]
fn sessions_of_voided_members_end() {
    let mut bench = Bench::new();
    bench.open(peer(1, 1, 1, &[])).unwrap();
    bench.open(peer(2, 2, 2, &[])).unwrap();
    let voided = Identifier::from_bytes([1; 32]);
    bench.registry.end_unless(bench.now, Refusal::BadCredential, |peer| peer.identifier != voided);
    assert_eq!(bench.collect(), [Command::End { control: 1, reason: Some(Refusal::BadCredential) }]);
}

/// What a peer may do, honest or not.
#[derive(Debug, Clone)]
enum Event {
    Open { identity: u8, node: u8, instance: u8 },
    Close(u8),
    Register(u8, u8),
    Unregister(u8, u8),
    Watch(u8, u8),
    Unwatch(u8, u8),
    Park(u8),
    Dial(u8, u8, u8),
    Transmit(u8),
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let small = || 0..4u8;
    prop_oneof![
        (small(), small(), small()).prop_map(|(identity, node, instance)| Event::Open { identity, node, instance }),
        any::<u8>().prop_map(Event::Close),
        (any::<u8>(), small()).prop_map(|(s, n)| Event::Register(s, n)),
        (any::<u8>(), small()).prop_map(|(s, n)| Event::Unregister(s, n)),
        (any::<u8>(), small()).prop_map(|(s, n)| Event::Watch(s, n)),
        (any::<u8>(), small()).prop_map(|(s, n)| Event::Unwatch(s, n)),
        any::<u8>().prop_map(Event::Park),
        (any::<u8>(), small(), small()).prop_map(|(s, i, n)| Event::Dial(s, i, n)),
        any::<u8>().prop_map(Event::Transmit),
        (0..8000u16).prop_map(Event::Pass),
    ]
}

proptest! {
    /// Whatever peers do: every link is answered for at most once, nothing leaks, and the counts are true.
    #[test]
    fn nothing_is_lost_or_answered_twice(events in prop::collection::vec(event(), 1..120)) {
        let mut bench = Bench::new();
        let mut sessions: Vec<SessionId> = Vec::new();
        let (mut next_link, mut settled) = (0_u32, BTreeSet::new());
        for event in events {
            let pick = |number: u8| sessions.get(usize::from(number) % sessions.len().max(1)).copied();
            let named = |number: u8| name(&format!("n{number}"));
            match event {
                Event::Open { identity, node, instance } => {
                    if let Ok(session) = bench.open(peer(identity, node, instance, &["n0", "n1", "n2"])) {
                        sessions.push(session);
                    }
                }
                Event::Close(s) => if let Some(s) = pick(s) { bench.registry.handle_closed(bench.now, s) },
                Event::Register(s, n) => if let Some(s) = pick(s) { bench.registry.handle_message(bench.now, s, ToRelay::Register { request: 1, name: named(n), weight: None }) },
                Event::Unregister(s, n) => if let Some(s) = pick(s) { bench.registry.handle_message(bench.now, s, ToRelay::Unregister { request: 1, name: named(n) }) },
                Event::Watch(s, n) => if let Some(s) = pick(s) { bench.registry.handle_message(bench.now, s, ToRelay::Watch { name: named(n) }) },
                Event::Unwatch(s, n) => if let Some(s) = pick(s) { bench.registry.handle_message(bench.now, s, ToRelay::Unwatch { name: named(n) }) },
                Event::Park(s) => if let Some(s) = pick(s) { next_link += 1; bench.link(s, Frame::Park, next_link); },
                Event::Dial(s, identity, instance) => if let Some(s) = pick(s) {
                    next_link += 1;
                    bench.link(s, join_to(&peer(identity, 0, instance, &[])), next_link);
                },
                Event::Transmit(s) => if let Some(s) = pick(s) { bench.hear(s); },
                Event::Pass(ms) => bench.pass(Duration::from_millis(u64::from(ms))),
            }
            for command in bench.collect() {
                let links = match command {
                    Command::Join { dialler, parked, .. } => vec![dialler, parked],
                    Command::Refuse { link, .. } | Command::Drop(link) => vec![link],
                    Command::Wake(_) | Command::End { .. } => vec![],
                };
                for link in links {
                    prop_assert!(settled.insert(link), "link {link} was answered for twice");
                }
            }
            let (registry, counts) = (&bench.registry, bench.registry.counts());
            let all = || registry.sessions.values();
            prop_assert_eq!(counts.sessions, all().count());
            prop_assert_eq!(counts.parked, all().map(|s| s.parked.len()).sum::<usize>());
            prop_assert_eq!(counts.waiting, all().map(|s| s.waiting.len()).sum::<usize>());
            prop_assert_eq!(counts.watches, all().map(|s| s.watches.len()).sum::<usize>());
            prop_assert_eq!(counts.registrations, all().map(|s| s.names.len()).sum::<usize>());
            prop_assert_eq!(registry.nodes.len(), counts.sessions);
            prop_assert_eq!(registry.instances.len(), counts.sessions);
            prop_assert_eq!(registry.identities.values().sum::<usize>(), counts.sessions);
            prop_assert_eq!(next_link as usize, settled.len() + counts.parked + counts.waiting);
            for (id, session) in &registry.sessions {
                for name in session.names.keys() {
                    prop_assert!(registry.names.instances(name, *id).any(|registered| registered == *id));
                }
            }
        }
        bench.pass(Duration::from_secs(200));
        prop_assert_eq!(bench.registry.counts().sessions, 0);
        prop_assert!(bench.registry.names.is_empty() && bench.registry.timers.is_empty());
    }
}

/// Whether a node whose network fell silent still runs, the relay cannot tell: who dials it is not told that it is gone.
#[test]
fn a_silent_node_is_away_and_not_gone() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let (outlet, inlet) = (bench.open(callee.clone()).unwrap(), bench.open(peer(2, 2, 2, &[])).unwrap());
    bench.link(inlet, join_to(&callee), 19);
    bench.registry.handle_silent(bench.now, outlet);
    bench.link(inlet, join_to(&callee), 20);
    let refused = |link| Command::Refuse { link, reason: Refusal::NoLink };
    assert_eq!(bench.collect(), [refused(19), refused(20)]);
    // In another run it is back, and the earlier one is over.
    bench.open(peer(1, 1, 3, &[])).unwrap();
    bench.link(inlet, join_to(&callee), 21);
    assert_eq!(bench.collect(), [Command::Refuse { link: 21, reason: Refusal::NotConnected }]);
}

/// A node that gives a silent network up closes its link, and the word of that arrives when the network is back.
#[test]
fn a_late_close_is_of_a_node_that_is_away() {
    let mut bench = Bench::new();
    let callee = peer(1, 1, 1, &[]);
    let outlet = bench.open(callee.clone()).unwrap();
    bench.pass(limits::QUIET);
    let inlet = bench.open(peer(2, 2, 2, &[])).unwrap();
    bench.registry.handle_closed(bench.now, outlet);
    bench.link(inlet, join_to(&callee), 20);
    assert_eq!(bench.collect(), [Command::Refuse { link: 20, reason: Refusal::NoLink }]);
}
