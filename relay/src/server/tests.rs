use std::collections::BTreeSet;

use postern_proto::authority::{Attributes, Voiding};
use postern_proto::channel::{LinkSession, Side};
use postern_proto::credential::{Audience, Claims, issue};
use postern_proto::handshake::Label;
use postern_proto::id::{CredentialId, Identifier, InstanceId, NodeId};
use postern_proto::identity::Identity;
use postern_proto::link::{Frame, FromRelay, Hello, LinkFrames, MAX_CONTROL_MESSAGE, ToRelay};
use postern_proto::name::RelayName;
use postern_proto::statement;
use postern_runtime::metrics::Exposition;
use postern_runtime::net::{Acceptor, SocketKind, bind, read_preface};
use postern_runtime::session::{self, Connect, Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::testing::{Authority, clock, run, time};

impl Authority {
    fn claims(&self, node: &Node, names: &[&str]) -> Claims {
        Claims {
            issuer: self.identity.identifier(),
            subject: node.identifier,
            project: self.info.project,
            audience: Audience::Relay,
            not_before: time(),
            expires: time().plus(Duration::from_secs(86_400)),
            id: CredentialId::random(),
            confirmation: node.key.public(),
            attributes: Attributes::new(),
            relay_names: names.iter().copied().collect::<BTreeSet<_>>().iter().map(|name| name.parse().unwrap()).collect(),
        }
    }

    fn credential(&self, node: &Node, names: &[&str]) -> Vec<u8> {
        issue(&self.key, &self.claims(node, names)).unwrap()
    }
}

/// A node, as far as a relay sees one.
struct Node {
    key: StaticKey,
    identifier: Identifier,
    node_id: NodeId,
    instance: InstanceId,
}

impl Node {
    fn new() -> Self {
        Self {
            key: StaticKey::generate(),
            identifier: Identity::generate(time()).identifier(),
            node_id: NodeId::random(),
            instance: InstanceId::random(),
        }
    }

    fn hello(&self, credential: Vec<u8>) -> Hello {
        Hello { credential, node_id: self.node_id, instance: self.instance }
    }
}

/// A relay on a port of its own.
struct Rig {
    authority: Authority,
    trust: watch::Sender<Arc<TrustState>>,
    relay: RelayHandle,
    address: SocketAddr,
    key: StaticKey,
}

impl Rig {
    async fn new() -> Self {
        Self::with(Descriptors::with_limit(10_000)).await
    }

    async fn with(descriptors: Descriptors) -> Self {
        let authority = Authority::new();
        let (trust, receiver) = watch::channel(authority.trust(&[]));
        let key = StaticKey::generate();
        let relay = Relay::start(RelaySettings {
            refusals: Default::default(),
            trust: receiver,
            statics: Arc::new({
                let key = key.clone();
                move || vec![key.clone()]
            }),
            clock: clock(),
            descriptors,
            pool: PoolSettings::default(),
            supervisor: Supervisor::new(),
        })
        .unwrap();
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener, SocketKind::Link, 10_000);
        let handle = relay.clone();
        tokio::spawn(async move {
            loop {
                let mut accepted = acceptor.accept().await;
                let handle = handle.clone();
                tokio::spawn(async move {
                    if let Ok(service) = read_preface(&mut accepted.stream).await {
                        handle.serve_connection(accepted, service);
                    }
                });
            }
        });
        Self { authority, trust, relay, address, key }
    }

    async fn dial(&self, service: Service) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&service.preface()).await.unwrap();
        stream
    }

    /// A control link whose handshake ended with `hello`.
    async fn control(&self, node: &Node, hello: &[u8]) -> ControlLink {
        let how = Connect {
            service: Service::RelayControl,
            label: Label::RelayLink,
            local: &node.key,
            remote: self.key.public(),
            payload: hello,
            limit: MAX_CONTROL_MESSAGE,
        };
        let (session, _) = session::connect(TcpStream::connect(self.address).await.unwrap(), how).await.unwrap();
        let links = session.finished.secret.link_session();
        ControlLink { session, links, counter: 0 }
    }

    /// A node's session, past its welcome and the statements that everybody gets.
    async fn connect(&self, node: &Node, names: &[&str]) -> ControlLink {
        let hello = minicbor::to_vec(node.hello(self.authority.credential(node, names))).unwrap();
        let mut link = self.control(node, &hello).await;
        assert!(matches!(link.hear().await, FromRelay::Welcome { .. }));
        link
    }

    async fn data(&self, control: &mut ControlLink, first: Frame) -> DataLink {
        let mut stream = self.dial(Service::RelayData).await;
        control.counter += 1;
        let mut frames = LinkFrames::new(&control.links, control.counter, Side::Initiator);
        stream.write_all(&frames.opening().encode()).await.unwrap();
        stream.write_all(&frames.seal(&first).unwrap()).await.unwrap();
        DataLink { stream, frames }
    }

    /// Waits until the relay's status is as wanted.
    async fn until(&self, what: impl Fn(&RelayStatus) -> bool) {
        while !what(&self.relay.status()) {
            tokio::task::yield_now().await;
        }
    }

    fn exposed(&self) -> String {
        let mut out = Exposition::of_process("0.0.0", &Supervisor::new());
        self.relay.expose(&mut out);
        out.into_text()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.relay.status().dropped.iter().find(|(each, _)| *each == reason).unwrap().1
    }
}

struct ControlLink {
    session: Session,
    links: LinkSession,
    counter: u64,
}

impl ControlLink {
    async fn say(&mut self, message: &ToRelay) {
        self.say_bytes(&minicbor::to_vec(message).unwrap()).await;
    }

    async fn say_bytes(&mut self, message: &[u8]) {
        self.session.sender.send(message).await.unwrap();
    }

    /// The next message, or `None` at the end.
    async fn next(&mut self) -> Option<FromRelay> {
        self.session.receiver.receive_message().await.unwrap_or_default()
    }

    /// The next message that is no statement.
    async fn hear(&mut self) -> FromRelay {
        loop {
            match self.next().await.expect("a message") {
                FromRelay::Statement { .. } => {}
                message => return message,
            }
        }
    }

    async fn register(&mut self, text: &str) -> Option<Refusal> {
        self.say(&ToRelay::Register { request: 3, name: name(text), weight: None }).await;
        match self.hear().await {
            FromRelay::Answer { request: 3, refused } => refused,
            other => panic!("{other:?}"),
        }
    }

    /// The instances of the next update, waiting for `count` of them.
    async fn instances(&mut self, count: usize) -> Vec<postern_proto::link::Instance> {
        loop {
            match self.hear().await {
                FromRelay::Instances { instances, .. } if instances.len() == count => return instances,
                FromRelay::Instances { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

struct DataLink {
    stream: TcpStream,
    frames: LinkFrames,
}

impl DataLink {
    async fn answer(&mut self) -> Frame {
        let mut sealed = [0; Frame::SEALED_LEN];
        self.stream.read_exact(&mut sealed).await.unwrap();
        self.frames.open(sealed).unwrap()
    }

    async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }
}

fn name(text: &str) -> RelayName {
    text.parse().unwrap()
}

fn join_to(node: &Node) -> Frame {
    Frame::Join { identifier: node.identifier, instance: node.instance }
}

fn joined(node: &Node) -> Frame {
    Frame::Joined { identifier: node.identifier, instance: node.instance }
}

#[test]
fn two_nodes_find_each_other_and_exchange_bytes() {
    run(async {
        let rig = Rig::new().await;
        let (outlet, inlet) = (Node::new(), Node::new());
        let mut callee = rig.connect(&outlet, &["saas"]).await;
        let mut caller = rig.connect(&inlet, &[]).await;
        caller.say(&ToRelay::Watch { name: name("saas") }).await;
        assert_eq!(caller.instances(0).await, []);
        assert_eq!(callee.register("saas").await, None);
        assert_eq!(callee.register("other").await, Some(Refusal::NotPermitted));
        let found = caller.instances(1).await.remove(0);
        assert_eq!((found.identifier, found.node_id, found.instance), (outlet.identifier, outlet.node_id, outlet.instance));
        let trust = rig.trust.borrow().clone();
        let shown = trust
            .verifier(time())
            .verify(&found.credential, Audience::Relay, postern_proto::credential::Holder::Published)
            .unwrap();
        assert_eq!(shown.static_key(), outlet.key.public(), "the dialler learns whom to expect");

        let mut parked = rig.data(&mut callee, Frame::Park).await;
        rig.until(|status| status.counts.parked == 1).await;
        let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
        // Early data, behind the frame and before the answer.
        dialled.stream.write_all(b"early").await.unwrap();
        assert_eq!(dialled.answer().await, joined(&outlet));
        assert_eq!(parked.answer().await, joined(&inlet));
        let mut early = [0; 5];
        parked.stream.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
        let sent = vec![7; 3 << 20];
        for back in [false, true] {
            let (from, to) =
                if back { (&mut parked.stream, &mut dialled.stream) } else { (&mut dialled.stream, &mut parked.stream) };
            let mut got = vec![0; sent.len()];
            let (wrote, read) = tokio::join!(from.write_all(&sent), to.read_exact(&mut got));
            wrote.unwrap();
            read.unwrap();
            assert!(got == sent);
        }
        drop(dialled);
        assert!(parked.is_closed().await);
        drop(parked);
        rig.until(|status| status.joins == 0 && status.links == 2).await;
        let status = rig.relay.status();
        assert_eq!((status.bytes_forward, status.bytes_backward), (5 + (3 << 20), 3 << 20));
        assert_eq!(status.counts.joined, 1);
    });
}

#[test]
fn a_node_is_asked_for_links_when_somebody_waits() {
    run(async {
        let rig = Rig::new().await;
        let (outlet, inlet) = (Node::new(), Node::new());
        let (mut callee, mut caller) = (rig.connect(&outlet, &[]).await, rig.connect(&inlet, &[]).await);
        let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
        assert_eq!(callee.hear().await, FromRelay::MoreLinks { count: 1 });
        let mut parked = rig.data(&mut callee, Frame::Park).await;
        assert_eq!((dialled.answer().await, parked.answer().await), (joined(&outlet), joined(&inlet)));
        // A node that does not answer is not waited for longer than 3 s.
        let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
        dialled.stream.write_all(&[9; 50_000]).await.unwrap();
        assert_eq!(dialled.answer().await, Frame::Refused(Refusal::NoLink), "early data does not keep the refusal away");
        assert!(dialled.is_closed().await);
        let mut dialled = rig.data(&mut caller, join_to(&Node::new())).await;
        assert_eq!(dialled.answer().await, Frame::Refused(Refusal::NotConnected));
    });
}

#[test]
fn many_dials_at_once_are_all_served() {
    run(async {
        const DIALS: usize = 300;
        let rig = Arc::new(Rig::new().await);
        let (outlet, inlet) = (Node::new(), Node::new());
        let (mut callee, mut caller) = (rig.connect(&outlet, &[]).await, rig.connect(&inlet, &[]).await);
        let parking = Arc::clone(&rig);
        let parks = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while tasks.len() < DIALS {
                let FromRelay::MoreLinks { count } = callee.hear().await else { panic!("a request for links") };
                for _ in 0..count {
                    let mut parked = parking.data(&mut callee, Frame::Park).await;
                    tasks.spawn(async move {
                        parked.answer().await;
                        let mut bytes = [0; 1000];
                        parked.stream.read_exact(&mut bytes).await.unwrap();
                        parked.stream.write_all(&bytes).await.unwrap();
                        assert!(parked.is_closed().await);
                    });
                }
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            callee
        });
        let mut dials = tokio::task::JoinSet::new();
        for number in 0..DIALS {
            let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
            let expected = joined(&outlet);
            dials.spawn(async move {
                let sent = [number as u8; 1000];
                dialled.stream.write_all(&sent).await.unwrap();
                assert_eq!(dialled.answer().await, expected);
                let mut echoed = [0; 1000];
                dialled.stream.read_exact(&mut echoed).await.unwrap();
                assert_eq!(echoed, sent, "no link is joined with another's");
            });
        }
        while let Some(done) = dials.join_next().await {
            done.unwrap();
        }
        let _callee = parks.await.unwrap();
        rig.until(|status| status.joins == 0 && status.links == 2).await;
        assert_eq!(rig.relay.status().counts.joined, DIALS as u64);
    });
}

#[test]
fn only_credentials_of_this_project_for_relays_and_for_this_key_are_taken() {
    run(async {
        let rig = Rig::new().await;
        let node = Node::new();
        let good = rig.authority.claims(&node, &["saas"]);
        let signed = |claims: &Claims| issue(&rig.authority.key, claims).unwrap();
        let mut flipped = signed(&good);
        *flipped.last_mut().unwrap() ^= 1;
        let refused = [
            ("another authority's", Authority::new().credential(&node, &["saas"])),
            ("another node's", rig.authority.credential(&Node::new(), &["saas"])),
            ("one with attributes", signed(&Claims { audience: Audience::Member, relay_names: vec![], ..good.clone() })),
            (
                "an expired one",
                signed(&Claims {
                    not_before: time().minus(Duration::from_secs(1000)),
                    expires: time().minus(Duration::from_secs(60)),
                    ..good.clone()
                }),
            ),
            ("a changed one", flipped),
            ("nothing", Vec::new()),
        ];
        for (kind, credential) in refused {
            let mut link = rig.control(&node, &minicbor::to_vec(node.hello(credential)).unwrap()).await;
            assert_eq!(link.next().await, Some(FromRelay::Closing { reason: Refusal::BadCredential }), "{kind}");
            assert_eq!(link.next().await, None, "{kind}");
        }
        let mut link = rig.control(&node, b"no greeting").await;
        assert_eq!(link.next().await, None);
        assert_eq!(rig.relay.status().counts, Counts::default());
    });
}

#[test]
fn strangers_get_no_answer_and_leave_nothing_behind() {
    run(async {
        let rig = Rig::new().await;
        let node = Node::new();
        let mut control = rig.connect(&node, &[]).await;
        let mut garbage = Vec::new();
        for service in [Service::RelayControl, Service::RelayData] {
            for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 200], &[0xff; 5000]] {
                let mut stream = rig.dial(service).await;
                // The relay may have closed it before all was written.
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                garbage.extend(answer);
            }
        }
        assert_eq!(garbage, b"");
        for service in [Service::Authority, Service::Peer] {
            assert_eq!(rig.dial(service).await.read(&mut [0; 1]).await.unwrap(), 0);
        }
        // A frame that was changed, one of another link, one twice.
        let mut frames = LinkFrames::new(&control.links, 100, Side::Initiator);
        let (opening, sealed) = (frames.opening().encode(), frames.seal(&Frame::Park).unwrap());
        let mut changed = sealed;
        changed[3] ^= 1;
        let other = LinkFrames::new(&control.links, 101, Side::Initiator).opening().encode();
        for (opening, sealed) in [(opening, changed), (other, sealed)] {
            let mut stream = rig.dial(Service::RelayData).await;
            stream.write_all(&[&opening[..], &sealed[..]].concat()).await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        }
        rig.until(|_| rig.dropped(DropReason::NotAuthentic) == 2).await;
        let mut first = rig.dial(Service::RelayData).await;
        first.write_all(&[&opening[..], &sealed[..]].concat()).await.unwrap();
        rig.until(|status| status.counts.parked == 1).await;
        let mut replay = rig.dial(Service::RelayData).await;
        replay.write_all(&[&opening[..], &sealed[..]].concat()).await.unwrap();
        assert_eq!(replay.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(rig.relay.status().counts.parked, 1);
        // What comes on a parked link before it is joined ends it.
        first.write_all(b"x").await.unwrap();
        rig.until(|status| status.counts.parked == 0 && status.links == 1).await;
        control.say(&ToRelay::Ping { number: 7 }).await;
        assert_eq!(control.hear().await, FromRelay::Pong { number: 7 }, "members are served all the while");
        control.say_bytes(&[0xff; 10]).await;
        assert_eq!(control.hear().await, FromRelay::Closing { reason: Refusal::Malformed });
        drop(control);
        rig.until(|status| status.counts.sessions == 0 && status.links == 0).await;
    });
}

/// N3 of the threat model: who recorded a node's handshake, and says it again, gets an answer that it cannot go on from, and no session.
#[test]
fn a_recorded_handshake_opens_no_session() {
    use postern_proto::handshake::Initiator;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u16).to_be_bytes()[..], body].concat()
    }
    async fn answer(stream: &mut TcpStream) -> Vec<u8> {
        let mut body = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        body
    }
    run(async {
        const REPLAYS: u64 = 20;
        let rig = Rig::new().await;
        let node = Node::new();
        let hello = minicbor::to_vec(node.hello(rig.authority.credential(&node, &["saas"]))).unwrap();
        let choice = session::preferred_choice();
        let (initiator, first) = Initiator::new(Label::RelayLink, choice, &node.key, rig.key.public()).unwrap();
        let mut honest = rig.dial(Service::RelayControl).await;
        honest.write_all(&framed(&first)).await.unwrap();
        let third = initiator.read_answer(&answer(&mut honest).await).unwrap().0.finish(&hello).unwrap().0;
        honest.write_all(&framed(&third)).await.unwrap();
        rig.until(|status| status.counts.sessions == 1).await;
        let mut answers = BTreeSet::new();
        for _ in 0..REPLAYS {
            let mut replay = rig.dial(Service::RelayControl).await;
            replay.write_all(&framed(&first)).await.unwrap();
            answers.insert(answer(&mut replay).await);
            replay.write_all(&framed(&third)).await.unwrap();
            assert!(matches!(replay.read(&mut [0]).await, Ok(0) | Err(_)), "closed without a word");
        }
        assert_eq!(answers.len() as u64, REPLAYS, "no answer is like another");
        rig.until(|_| rig.dropped(DropReason::Handshake) == REPLAYS).await;
        assert_eq!(rig.relay.status().counts.sessions, 1, "the honest one");
    });
}

#[test]
fn a_dead_session_takes_its_parked_links_with_it_and_leaves_joined_ones() {
    run(async {
        let rig = Rig::new().await;
        let (outlet, inlet) = (Node::new(), Node::new());
        let (mut callee, mut caller) = (rig.connect(&outlet, &["saas"]).await, rig.connect(&inlet, &[]).await);
        callee.register("saas").await;
        caller.say(&ToRelay::Watch { name: name("saas") }).await;
        caller.instances(1).await;
        let (mut a, mut b) = (rig.data(&mut callee, Frame::Park).await, rig.data(&mut callee, Frame::Park).await);
        rig.until(|status| status.counts.parked == 2).await;
        let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
        assert_eq!(dialled.answer().await, joined(&outlet));
        drop(callee);
        caller.instances(0).await;
        assert_eq!(rig.relay.status().counts.parked, 0);
        // One of the two was joined, and goes on; the other was closed.
        dialled.stream.write_all(b"still here").await.unwrap();
        let mut ends = Vec::new();
        for link in [&mut a, &mut b] {
            let mut got = Vec::new();
            let mut chunk = [0; Frame::SEALED_LEN + 10];
            while got.len() < chunk.len() {
                match link.stream.read(&mut chunk).await {
                    Ok(count @ 1..) => got.extend_from_slice(&chunk[..count]),
                    Ok(0) | Err(_) => break,
                }
            }
            ends.push(got.ends_with(b"still here"));
        }
        ends.sort_unstable();
        assert_eq!(ends, [false, true]);
        drop(caller);
        rig.until(|status| status.counts.sessions == 0 && status.joins == 1).await;
    });
}

#[test]
fn the_same_node_replaces_its_session_at_once() {
    run(async {
        let rig = Rig::new().await;
        let mut node = Node::new();
        let mut old = rig.connect(&node, &["saas"]).await;
        old.register("saas").await;
        node.instance = InstanceId::random();
        let mut new = rig.connect(&node, &["saas"]).await;
        assert_eq!(old.hear().await, FromRelay::Closing { reason: Refusal::TakenOver });
        assert_eq!(new.register("saas").await, None);
        // A data link of the old session is one of nobody.
        let mut stale = rig.data(&mut old, Frame::Park).await;
        assert!(stale.is_closed().await);
        assert_eq!(rig.dropped(DropReason::UnknownSession), 1);
    });
}

#[test]
fn a_revocation_ends_the_member_s_session_and_is_passed_on() {
    run(async {
        let rig = Rig::new().await;
        let (revoked, other) = (Node::new(), Node::new());
        let (mut theirs, mut ours) = (rig.connect(&revoked, &[]).await, rig.connect(&other, &[]).await);
        let voiding = rig.authority.voiding(1, revoked.identifier);
        rig.trust.send(rig.authority.trust(std::slice::from_ref(&voiding))).unwrap();
        assert_eq!(theirs.hear().await, FromRelay::Closing { reason: Refusal::BadCredential });
        let history = rig.authority.identity.history();
        loop {
            let Some(FromRelay::Statement { statement }) = ours.next().await else { panic!("a statement") };
            if let Ok(passed) = statement::verify::<Voiding>(history, rig.authority.info.project, &statement) {
                assert_eq!(passed, voiding);
                break;
            }
        }
        // And the credential opens nothing any more.
        let hello = minicbor::to_vec(revoked.hello(rig.authority.credential(&revoked, &[]))).unwrap();
        let mut again = rig.control(&revoked, &hello).await;
        assert_eq!(again.next().await, Some(FromRelay::Closing { reason: Refusal::BadCredential }));
    });
}

#[test]
fn a_revocation_cuts_what_is_joined() {
    run(async {
        let rig = Rig::new().await;
        let (outlet, revoked, other) = (Node::new(), Node::new(), Node::new());
        let mut callee = rig.connect(&outlet, &[]).await;
        let mut joined = Vec::new();
        for node in [&revoked, &other] {
            let mut caller = rig.connect(node, &[]).await;
            let mut parked = rig.data(&mut callee, Frame::Park).await;
            rig.until(|status| status.counts.parked == 1).await;
            let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
            let _ = (dialled.answer().await, parked.answer().await);
            joined.push((caller, dialled, parked));
        }
        rig.until(|status| status.joins == 2).await;
        let mut enforced = rig.relay.enforced();
        let voiding = rig.authority.voiding(1, revoked.identifier);
        rig.trust.send(rig.authority.trust(std::slice::from_ref(&voiding))).unwrap();
        enforced.wait_for(|epoch| *epoch == 1).await.unwrap();
        let (mut caller, mut dialled, mut parked) = joined.remove(0);
        assert_eq!(caller.hear().await, FromRelay::Closing { reason: Refusal::BadCredential });
        assert!(dialled.is_closed().await && parked.is_closed().await);
        rig.until(|status| status.joins == 1).await;
        let cut = "postern_relay_joins_closed_total{cause=\"cut\"} 1\n";
        while !rig.exposed().contains(cut) {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_changed_member_has_time_to_renew() {
    run(async {
        let rig = Rig::new().await;
        let (prompt, late) = (Node::new(), Node::new());
        let (mut renews, mut sleeps) = (rig.connect(&prompt, &["kept"]).await, rig.connect(&late, &[]).await);
        let voidings = [rig.authority.changing(1, prompt.identifier), rig.authority.changing(2, late.identifier)];
        rig.trust.send(rig.authority.trust(&voidings)).unwrap();
        let claims = rig.authority.claims(&prompt, &["kept"]);
        let newer = Claims { not_before: claims.not_before.plus(Duration::from_secs(1)), ..claims };
        renews.say(&ToRelay::Renew { credential: issue(&rig.authority.key, &newer).unwrap() }).await;
        assert_eq!(renews.register("kept").await, None);
        assert_eq!(sleeps.hear().await, FromRelay::Closing { reason: Refusal::BadCredential });
        assert_eq!(renews.register("kept").await, None, "its session goes on");
    });
}

#[test]
fn a_renewed_credential_must_be_of_the_same_node() {
    run(async {
        let rig = Rig::new().await;
        let node = Node::new();
        let mut link = rig.connect(&node, &["old"]).await;
        let claims = rig.authority.claims(&node, &["new"]);
        let newer = Claims { expires: claims.expires.plus(Duration::from_secs(60)), ..claims };
        link.say(&ToRelay::Renew { credential: issue(&rig.authority.key, &newer).unwrap() }).await;
        assert_eq!(link.register("new").await, None);
        assert_eq!(link.register("old").await, Some(Refusal::NotPermitted));
        let stolen = rig.authority.credential(&Node::new(), &["new"]);
        link.say(&ToRelay::Renew { credential: stolen }).await;
        assert_eq!(link.hear().await, FromRelay::Closing { reason: Refusal::BadCredential });
    });
}

#[test]
fn joins_are_refused_before_descriptors_run_out() {
    run(async {
        // Room for the two sessions, and then 80 % are reached.
        let rig = Rig::with(Descriptors::with_limit(84)).await;
        let (outlet, inlet) = (Node::new(), Node::new());
        let (mut callee, mut caller) = (rig.connect(&outlet, &[]).await, rig.connect(&inlet, &[]).await);
        let _parked = rig.data(&mut callee, Frame::Park).await;
        rig.until(|status| status.counts.parked == 1).await;
        let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
        assert_eq!(dialled.answer().await, Frame::Refused(Refusal::Limit));
    });
}

#[test]
fn a_stop_tells_every_node_and_leaves_nothing_running() {
    run(async {
        let rig = Rig::new().await;
        let (outlet, inlet) = (Node::new(), Node::new());
        let (mut callee, mut caller) = (rig.connect(&outlet, &[]).await, rig.connect(&inlet, &[]).await);
        let mut parked = rig.data(&mut callee, Frame::Park).await;
        // Else the dial may be first, and the node is asked for a link.
        rig.until(|status| status.counts.parked == 1).await;
        let mut dialled = rig.data(&mut caller, join_to(&outlet)).await;
        assert_eq!((dialled.answer().await, parked.answer().await), (joined(&outlet), joined(&inlet)));
        let relay = rig.relay.clone();
        let stop = tokio::spawn(async move { relay.shutdown(Duration::from_millis(300)).await });
        for link in [&mut callee, &mut caller] {
            assert_eq!(link.hear().await, FromRelay::Closing { reason: Refusal::ShuttingDown });
            assert_eq!(link.next().await, None);
        }
        drop((callee, caller));
        // What is joined goes on until the deadline.
        dialled.stream.write_all(b"x").await.unwrap();
        assert_eq!(parked.stream.read(&mut [0; 1]).await.unwrap(), 1);
        assert!(parked.is_closed().await && dialled.is_closed().await);
        stop.await.unwrap();
        let status = rig.relay.status();
        assert!(status.draining && status.links == 0 && status.joins == 0, "{status:?}");
        let mut late = rig.dial(Service::RelayControl).await;
        assert_eq!(late.read(&mut [0; 1]).await.unwrap(), 0);
    });
}
