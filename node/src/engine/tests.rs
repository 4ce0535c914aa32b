//! Two nodes of one home that has joined no project, with real sockets between them.

mod impostors;
mod modified;

use postern_proto::handshake::KeyExchange;
use postern_proto::spec::{Destination, Disclose, PolicyTarget, ResourceType, ResumeTimeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

pub(super) struct TestHome {
    pub(super) home: Home,
    _dir: tempfile::TempDir,
}

impl TestHome {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { home: Home::open(&dir.path().join("home")).unwrap(), _dir: dir }
    }

    pub(super) async fn node(&self, name: &str) -> Engine {
        let name = name.parse().unwrap();
        let clock = Clock::new();
        let node_home = self.home.create_node(&name, b"{}").unwrap();
        let identity_home = self.home.default_identity_or_create(clock.now()).unwrap();
        let seed = self.home.local_issuer_or(|| zeroize::Zeroizing::new(vec![7; 32])).unwrap();
        let settings = Settings {
            home: Home::open(self.home.path()).unwrap(),
            node_id: node_home.node_id().unwrap(),
            statics: Arc::new(node_home.statics(clock.now()).unwrap()),
            static_period: postern_runtime::statics::DEFAULT_PERIOD,
            node_home,
            identity: identity_home.load().unwrap(),
            identity_home,
            membership: None,
            local_issuer: Some(SecretBytes::new(seed.as_slice().try_into().unwrap())),
            listener: None,
            max_staleness: Default::default(),
            syslog: None,
            clock: Arc::new(clock),
            supervisor: Supervisor::new(),
        };
        let engine = Engine::start(settings).await.unwrap();
        engine.shared.trust.watch_own().wait_for(Option::is_some).await.unwrap();
        engine
    }
}

/// The channel to the peer of an inlet, made where there is none.
async fn channel_of(engine: &Engine, inlet: &InletSpec) -> Arc<super::channel::Channel> {
    let shared = &engine.shared;
    let candidates =
        shared.peers.candidates(shared, &inlet.to.first().peer, &Default::default(), &mut Default::default()).await.unwrap();
    shared.peers.channel(shared, &candidates[0]).await.unwrap()
}

/// Echoes each connection until its end, then ends its own direction.
async fn echo_server() -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    HostPort::from(address)
}

fn inlet(alias: &str, to: &str) -> InletSpec {
    InletSpec {
        alias: alias.parse().unwrap(),
        from: "127.0.0.1:0".parse().unwrap(),
        to: Destination::try_from(to.to_owned()).unwrap().into(),
        allow: None,
        resume_timeout: ResumeTimeout::DEFAULT,
        disclose: Disclose::Code,
    }
}

async fn ask(inlet: &InletSpec, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(inlet.from.to_string()).await?;
    socket.write_all(question).await?;
    socket.shutdown().await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// An outlet for all members.
fn outlet(name: &str, to: HostPort) -> OutletSpec {
    OutletSpec { name: name.parse().unwrap(), to, allow: None, resume_timeout: ResumeTimeout::DEFAULT, disclose: Disclose::Code }
}

/// Behaviour 9b.
#[tokio::test]
async fn two_nodes_of_one_home() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    b.add_outlet(outlet("echo", echo_server().await)).await;
    let inlet = a.add_inlet(inlet("in", "/node/b/service/echo")).await.unwrap();
    for round in 0..20 {
        let question = vec![round; 1000 * usize::from(round)];
        assert_eq!(ask(&inlet, &question).await.unwrap(), question);
    }
    assert_eq!(a.probe(&inlet.alias).await.unwrap().passes, Ok(KeyExchange::Hybrid));
    assert!(a.status().inlets[0].failure.is_none());
    // The application hears of its end a moment before the stream is gone.
    a.shared.live.drained().await;
    assert_eq!(a.status().streams, 0);
}

#[tokio::test]
async fn a_node_of_another_home_is_refused() {
    let (home, other) = (TestHome::new(), TestHome::new());
    // The same seed would be the same home.
    other.home.local_issuer_or(|| zeroize::Zeroizing::new(vec![8; 32])).unwrap();
    let (a, b) = (other.node("a").await, home.node("b").await);
    b.add_outlet(outlet("echo", echo_server().await)).await;
    let presence = b.shared.presence_of(&"b".parse().unwrap()).unwrap();
    let route = format!("/ip4/127.0.0.1/tcp/{}/service/echo", presence.address.port());
    let inlet = a.add_inlet(inlet("in", &route)).await.unwrap();
    assert!(ask(&inlet, b"x").await.is_err());
    let failure = a.probe(&inlet.alias).await.unwrap().passes.unwrap_err();
    assert_eq!((failure.step, failure.code.as_str()), (Step::Peer, "REFUSED"));
}

/// What a peer may not use looks like what does not exist; this node's own refusals name the term.
#[tokio::test]
async fn refusals() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    let allow = Some("trusted".parse().unwrap());
    b.add_outlet(OutletSpec { allow: allow.clone(), ..outlet("closed", echo_server().await) }).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    b.add_outlet(outlet("dead", HostPort::from(nobody))).await;
    let mut refused = Vec::new();
    for (alias, to) in [("i1", "closed"), ("i2", "missing"), ("i3", "dead")] {
        let inlet = a.add_inlet(inlet(alias, &format!("/node/b/service/{to}"))).await.unwrap();
        assert!(ask(&inlet, b"x").await.is_err());
        let failure = a.probe(&inlet.alias).await.unwrap().passes.unwrap_err();
        refused.push((failure.step, failure.code.as_str(), failure.reason));
    }
    assert_eq!(refused[0], refused[1], "denied and unknown cannot be told apart");
    assert_eq!((refused[0].0, refused[0].1), (Step::Outlet, "NOT_AVAILABLE"));
    assert_eq!((refused[2].0, refused[2].1), (Step::Target, "TARGET_REFUSED"));
    let closed = a.add_inlet(InletSpec { allow, ..inlet("i4", "/node/b/service/dead") }).await.unwrap();
    assert!(ask(&closed, b"x").await.is_err());
    let failure = a.probe(&closed.alias).await.unwrap().passes.unwrap_err();
    assert_eq!((failure.step, failure.code.as_str()), (Step::InletPolicy, "DENIED"));
    assert!(failure.reason.contains("trusted"), "{}", failure.reason);
}

/// An inlet whose outlet leads back to it: one connection must not be followed by another, for ever.
#[tokio::test]
async fn an_outlet_that_leads_back_is_not_followed() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    let back = |from: &InletSpec| outlet("back", from.from.clone());
    for from in ["127.0.0.1:0", "0.0.0.0:0"] {
        let spec = InletSpec { from: from.parse().unwrap(), ..inlet("in", "/node/a/service/back") };
        let inlet = a.add_inlet(spec).await.unwrap();
        let to = HostPort::new("127.0.0.1", inlet.from.port()).unwrap();
        a.add_outlet(OutletSpec { to: to.clone(), ..back(&inlet) }).await;
        // A reset may come before the program is told that it is connected.
        if let Ok(mut application) = TcpStream::connect(to.to_string()).await {
            assert!(application.read(&mut [0]).await.map_or(true, |read| read == 0));
        }
        for _ in 0..3 {
            let failure = a.probe(&inlet.alias).await.unwrap().passes.unwrap_err();
            assert_eq!((failure.step, failure.code.as_str()), (Step::Target, "LOOP"), "{failure}");
        }
        let status = a.shared.inlets().values().next().unwrap().targets.status();
        assert_eq!(status[0].connections, 1, "the one that a program made");
        a.remove_inlet(&inlet.alias).await;
    }
    drop(b);
}

fn leading_to(name: &str, to: &InletSpec) -> OutletSpec {
    let to = HostPort::new("127.0.0.1", to.from.port()).unwrap();
    outlet(name, to)
}

/// Connects to `inlet`, which must break off, and says how many connections it has carried since it was made.
async fn breaks_off(engine: &Engine, inlet: &InletSpec) -> u64 {
    // A reset may come before the program is told that it is connected.
    if let Ok(mut application) = TcpStream::connect(inlet.from.to_string()).await {
        // Whether or not the end is seen while the bytes are written.
        let _ = application.write_all(b"round and round").await;
        assert!(is_cut(&mut application).await, "it goes on for ever");
    }
    let inlet = engine.shared.inlets().get(&inlet.alias).cloned().unwrap();
    inlet.targets.status()[0].connections
}

/// B4, over two nodes: the outlet of each leads to an inlet of its own that leads to the other one's outlet.
#[tokio::test]
async fn a_circle_over_inlets_of_two_nodes_is_refused_at_its_first_outlet() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    let of_a = a.add_inlet(inlet("in", "/node/b/service/on")).await.unwrap();
    let of_b = b.add_inlet(inlet("in", "/node/a/service/on")).await.unwrap();
    a.add_outlet(leading_to("on", &of_a)).await;
    b.add_outlet(leading_to("on", &of_b)).await;
    assert_eq!(breaks_off(&a, &of_a).await, 1);
    let failure = a.probe(&of_a.alias).await.unwrap().passes.unwrap_err();
    assert_eq!((failure.step, failure.code.as_str()), (Step::Target, "LOOP"), "{failure}");
}

/// B4, where no node sees it at once: an outlet leads to an inlet of another node, which leads back to it.
#[tokio::test]
async fn a_circle_through_another_node_ends_at_the_last_hop() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    let back = b.add_inlet(inlet("back", "/node/a/service/on")).await.unwrap();
    a.add_outlet(leading_to("on", &back)).await;
    let connections = breaks_off(&b, &back).await;
    // The application's own, and one for each portal that it passes. Where a node has heard of a connection before it wrote it down, the
    // count begins anew.
    assert!((9..=27).contains(&connections), "{connections} connections");
    let known: Vec<&str> = a.shared.refusals.all().iter().map(|refusal| refusal.code.as_str()).collect();
    assert!(known.contains(&"LOOP"), "{known:?}");
    // What is no circle goes on, also over an inlet of another node.
    b.add_outlet(OutletSpec { to: echo_server().await, ..leading_to("echo", &back) }).await;
    let last = a.add_inlet(inlet("last", "/node/b/service/echo")).await.unwrap();
    b.add_outlet(leading_to("chained", &last)).await;
    let first = a.add_inlet(inlet("first", "/node/b/service/chained")).await.unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&first, b"straight").await.unwrap(), b"straight");
    }
    a.shared.live.drained().await;
    b.shared.live.drained().await;
}

/// Behaviour 20: a policy that changes cuts live streams, and lets new ones pass once it allows them again.
#[tokio::test]
async fn a_changed_policy_cuts_live_streams() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    b.add_outlet(outlet("echo", echo_server().await)).await;
    let inlet = a.add_inlet(inlet("in", "/node/b/service/echo")).await.unwrap();
    let mut live = TcpStream::connect(inlet.from.to_string()).await.unwrap();
    live.write_all(b"x").await.unwrap();
    live.read_exact(&mut [0]).await.unwrap();
    let target = PolicyTarget::ResourceType(ResourceType::TcpOutlet);
    b.set_policies(vec![PolicySpec { target, expression: "nobody-has-this".parse().unwrap() }]).await;
    assert!(live.read_exact(&mut [0]).await.is_err());
    assert!(ask(&inlet, b"x").await.is_err());
    b.set_policies(Vec::new()).await;
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
    b.remove_outlet(&"echo".parse().unwrap()).await;
    assert!(ask(&inlet, b"x").await.is_err());
}

/// A node that comes back is found again, though the channel to its former run is gone.
#[tokio::test]
async fn a_peer_that_restarts() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    let echo = outlet("echo", echo_server().await);
    b.add_outlet(echo.clone()).await;
    let inlet = a.add_inlet(inlet("in", "/node/b/service/echo")).await.unwrap();
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
    b.shutdown(Duration::ZERO).await;
    drop(b);
    assert!(ask(&inlet, b"x").await.is_err());
    home.home.delete_node(&"b".parse().unwrap()).unwrap();
    let b = home.node("b").await;
    b.add_outlet(echo).await;
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
}

async fn echoing_pair() -> (TestHome, Engine, Engine, InletSpec) {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    b.add_outlet(outlet("echo", echo_server().await)).await;
    let inlet = a.add_inlet(inlet("in", "/node/b/service/echo")).await.unwrap();
    (home, a, b, inlet)
}

/// Whether the stream behind `live` is cut, soon.
async fn is_cut(live: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_secs(8), live.read_exact(&mut [0])).await.is_ok_and(|read| read.is_err())
}

/// Nor may a change fall between the decision about a stream and its beginning: here the target takes a second to accept.
#[tokio::test]
async fn a_policy_that_changes_while_the_target_is_dialled() {
    let (_home, a, b, _) = echoing_pair().await;
    let slow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    slow.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    slow.listen(0).unwrap();
    let target = slow.local_addr().unwrap().as_socket().unwrap();
    // Fills its queue: the kernel lets the next one knock again after a second.
    let _queued = TcpStream::connect(target).await.unwrap();
    b.add_outlet(outlet("slow", HostPort::from(target))).await;
    let inlet = a.add_inlet(inlet("slow", "/node/b/service/slow")).await.unwrap();
    let mut live = TcpStream::connect(inlet.from.to_string()).await.unwrap();
    live.write_all(b"secret").await.unwrap();
    while b.shared.live.total() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let target = PolicyTarget::ResourceType(ResourceType::TcpOutlet);
    b.set_policies(vec![PolicySpec { target, expression: "nobody-has-this".parse().unwrap() }]).await;
    slow.accept().unwrap();
    assert!(is_cut(&mut live).await);
    b.shared.live.drained().await;
}

/// A peer that closes its channel's control stream does not thereby outlive its credential.
#[tokio::test]
async fn an_expired_credential_ends_streams_without_a_channel() {
    let (_home, a, b, inlet) = echoing_pair().await;
    let mut live = TcpStream::connect(inlet.from.to_string()).await.unwrap();
    live.write_all(b"x").await.unwrap();
    live.read_exact(&mut [0]).await.unwrap();
    let channel = channel_of(&a, &inlet).await;
    channel.close();
    while b.shared.peers.by_id(channel.id()).is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    live.write_all(b"y").await.unwrap();
    live.read_exact(&mut [0]).await.unwrap();
    let clock = b.shared.trust.clock();
    clock.synchronise(clock.now().plus(Duration::from_secs(25 * 3600)));
    assert!(is_cut(&mut live).await);
}

/// Behaviour 27a: a credential that nobody renews is good until a minute after its expiry, for clocks that differ; then live streams end.
#[tokio::test]
async fn live_streams_end_a_minute_after_the_credential_has() {
    let (_home, a, b, inlet) = echoing_pair().await;
    let mut live = TcpStream::connect(inlet.from.to_string()).await.unwrap();
    let mut passes = async || {
        live.write_all(b"x").await?;
        live.read_exact(&mut [0]).await
    };
    passes().await.unwrap();
    let expiry = |node: &Engine| node.shared.trust.own().unwrap().member.expires();
    let (first, last) = (expiry(&a).min(expiry(&b)), expiry(&a).max(expiry(&b)));
    let both = [&a, &b].map(|node| node.shared.trust.clock());
    let at = |time: postern_proto::time::Timestamp| both.iter().for_each(|clock| clock.synchronise(time));
    // The rest of the minute is for a busy machine.
    at(first.plus(Duration::from_secs(50)));
    for node in [&a, &b] {
        node.shared.review();
    }
    passes().await.unwrap();
    at(last.plus(Duration::from_secs(60)));
    assert!(is_cut(&mut live).await);
}

/// Whoever has seen a channel's id on the way can open nothing on it, and uses up none of its stream ids.
#[tokio::test]
async fn a_forged_open_takes_no_stream_id() {
    use postern_proto::path::OpenHead;
    use postern_proto::record::{Header, Kind};

    let (_home, a, b, inlet) = echoing_pair().await;
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
    let channel = channel_of(&a, &inlet).await;
    let address = b.shared.presence_of(&"b".parse().unwrap()).unwrap().address;
    let (mut forger, _) = a.shared.direct.dial(&a.shared.trust, &address).await.unwrap();
    let mut open = Header { kind: Kind::Open, length: OpenHead::LEN + 40 }.to_bytes().to_vec();
    open.extend(OpenHead { channel: channel.id(), stream: 1 << 40 }.to_bytes());
    open.extend([0; 40]);
    forger.write_all(&open).await.unwrap();
    assert_eq!(forger.read(&mut [0]).await.unwrap(), 0, "closed without an answer");
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
}

/// A relay, or whoever holds the network, that joins a path with another node than the one which was asked for: another member's node, with
/// credentials of its own, to which nothing is said.
#[tokio::test]
async fn a_mispaired_node_learns_nothing_and_is_not_taken_for_the_other() {
    let home = TestHome::new();
    let (a, b, other) = (home.node("a").await, home.node("b").await, home.node("z").await);
    let address = |of: &Engine, name: &str| of.shared.presence_of(&name.parse().unwrap()).unwrap().address;
    let (_, wanted) = a.shared.direct.dial(&a.shared.trust, &address(&b, "b")).await.unwrap();
    let (socket, found) = a.shared.direct.dial(&a.shared.trust, &address(&other, "z")).await.unwrap();
    let refused = channel::dial(&a.shared.trust, &wanted, link::Link::new(socket), false).await.map(|_| ());
    assert!(refused.is_err());
    assert!(other.shared.peers.channels().is_empty() && a.shared.peers.channels().is_empty());
    // And the other node wrote down that somebody asked for what it is not.
    let noted = async {
        while other.shared.refusals.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), noted).await.unwrap();
    assert_eq!(other.shared.refusals.all()[0].code.as_str(), "HANDSHAKE");
    // The same connection, asked for as what it is.
    let (socket, _) = a.shared.direct.dial(&a.shared.trust, &address(&other, "z")).await.unwrap();
    let (channel, _control) = channel::dial(&a.shared.trust, &found, link::Link::new(socket), false).await.unwrap();
    assert!(other.shared.peers.by_id(channel.id()).is_some());
}

/// What an idle path owes is said after a moment, at once where whoever waits for that is stopped, and not at all where a stream has taken the path.
#[tokio::test]
async fn what_idle_paths_owe_is_said() {
    let (_home, a, b, _) = echoing_pair().await;
    let address = b.shared.presence_of(&"b".parse().unwrap()).unwrap().address;
    let (socket, peer) = a.shared.direct.dial(&a.shared.trust, &address).await.unwrap();
    let (channel, _control) = channel::dial(&a.shared.trust, &peer, link::Link::new(socket), false).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let owing = async || {
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut link = link::Link::new(near);
        link.owed = b"last".to_vec();
        assert!(channel.give_idle(link));
        listener.accept().await.unwrap().0
    };
    let mut word = [0; 4];
    let mut far = owing().await;
    channel.last_words().await;
    far.read_exact(&mut word).await.unwrap();
    let mut far = owing().await;
    tokio::select! {
        biased;
        () = channel.last_words() => unreachable!("it waits"),
        () = std::future::ready(()) => {}
    }
    far.read_exact(&mut word).await.unwrap();
    // Taken for a stream that does not begin after all.
    let mut far = owing().await;
    drop(link::Prepared::new(channel.take_idle().unwrap()));
    far.read_exact(&mut word).await.unwrap();
    let far = owing().await;
    let taken = channel.take_idle().unwrap();
    channel.last_words().await;
    assert!(taken.owes() && matches!(far.try_read(&mut word), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    // One for which there is no room says it as it goes.
    channel.close();
    assert!(!channel.give_idle(taken));
    let mut far = far;
    far.read_exact(&mut word).await.unwrap();
    assert_eq!((&word, far.read(&mut [0]).await.unwrap()), (b"last", 0));
}

/// A member that makes channels without end keeps its newest ones only.
#[tokio::test]
async fn channels_of_one_peer_are_bounded() {
    let (_home, a, b, _) = echoing_pair().await;
    let address = b.shared.presence_of(&"b".parse().unwrap()).unwrap().address;
    let mut channels = Vec::new();
    for _ in 0..300 {
        let (socket, peer) = a.shared.direct.dial(&a.shared.trust, &address).await.unwrap();
        channels.push(channel::dial(&a.shared.trust, &peer, link::Link::new(socket), false).await.unwrap());
    }
    let kept = || channels.iter().filter(|(channel, _)| b.shared.peers.by_id(channel.id()).is_some()).count();
    assert_eq!(kept(), 256);
    assert!(b.shared.peers.by_id(channels[299].0.id()).is_some());
}

/// Each request for a credential makes an answer a hundred times as long, and each credential a verification.
#[tokio::test]
async fn a_peer_that_asks_for_credentials_without_end_loses_its_channel() {
    use postern_proto::path::ChannelMessage;

    let (_home, a, b, _) = echoing_pair().await;
    let address = b.shared.presence_of(&"b".parse().unwrap()).unwrap().address;
    let (socket, peer) = a.shared.direct.dial(&a.shared.trust, &address).await.unwrap();
    let (channel, mut control) = channel::dial(&a.shared.trust, &peer, link::Link::new(socket), false).await.unwrap();
    assert!(b.shared.peers.by_id(channel.id()).is_some());
    for _ in 0..100 {
        // It fails once the other side has closed the path.
        let _ = control.say(&ChannelMessage::WantCredential).await;
    }
    let lost = async {
        while b.shared.peers.by_id(channel.id()).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), lost).await.unwrap();
}

/// An inlet whose open was answered, and did not hear it, says that it gave up: the target need not wait for another path.
#[tokio::test]
async fn a_stream_that_was_given_up_unheard_leaves_its_target() {
    let home = TestHome::new();
    let (a, b) = (home.node("a").await, home.node("b").await);
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outlet = outlet("echo", HostPort::from(target.local_addr().unwrap()));
    b.add_outlet(outlet).await;
    let far = b.shared.presence_of(&"b".parse().unwrap()).unwrap().address.to_string();
    let network = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("/ip4/127.0.0.1/tcp/{}/service/echo", network.local_addr().unwrap().port());
    let inlet = a.add_inlet(inlet("in", &route)).await.unwrap();
    let mut application = TcpStream::connect(inlet.from.to_string()).await.unwrap();

    let (mut control, mut far_control) = (network.accept().await.unwrap().0, TcpStream::connect(&far).await.unwrap());
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut control, &mut far_control).await });
    let (mut path, mut far_path) = (network.accept().await.unwrap().0, TcpStream::connect(&far).await.unwrap());
    let carrying = tokio::spawn(async move {
        let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (path.split(), far_path.split());
        let back = async {
            // The knock is answered at once; what comes behind that gets lost.
            let mut answer = [0; 4096];
            let length = far_read.read(&mut answer).await.unwrap();
            near_write.write_all(&answer[..length]).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
            () = back => {}
        }
    });
    let (mut reached, _) = target.accept().await.unwrap();
    // The path is lost, and there is no other one.
    drop(network);
    carrying.abort();
    assert!(application.read_exact(&mut [0]).await.is_err());
    assert!(is_cut(&mut reached).await, "the target is held");
}

/// An open that comes behind the word that its stream was given up reaches no target.
#[tokio::test]
async fn an_open_behind_its_reset_is_not_taken() {
    use postern_proto::path::OpenHead;
    use postern_proto::record::ResetCode;

    let (_home, a, b, inlet) = echoing_pair().await;
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
    let channel = channel_of(&a, &inlet).await;
    let far = b.shared.peers.by_id(channel.id()).unwrap();
    let asked = postern_proto::path::Open { outlet: "echo".parse().unwrap(), probe: false, hops: 0, mark: None };
    let (id, _, mut open) = super::inlet::begin(&channel, &asked).unwrap();
    far.reset_by_peer(id, ResetCode::Timeout as u8);
    assert!(far.accept_open(OpenHead::of_frame(&open).unwrap(), &mut open).is_err());
    assert_eq!(ask(&inlet, b"x").await.unwrap(), b"x");
}
