//! What stands between the processes is hostile: a network that changes what it carries, a relay that joins other nodes than it says, a name
//! server that says something else each time. Real nodes, real sockets (R1, R2, R3 and B3 of the threat model).

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postern_test_support::{
    Chaos, DAMAGES, Damages, EchoServer, Mispairing, NameServer, Namespace, PATIENCE, Pattern, Portal, Project, Proxy, Reserved,
    TcpServer, TestHome, Value, connect, contains, echoes, eventually, http_get, is_reset, live, namespaces_unavailable, pings,
    skipped,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// Services by their number in a connection's preface: control links of relays, and data links.
const CONTROL: u8 = 2;
const DATA: u8 = 3;

/// A project whose servers are reached through `address` alone, and listen on `port`.
#[track_caller]
fn project_behind(address: SocketAddr, port: u16) -> Project {
    let admin = TestHome::new(POSTERN);
    admin.ok(&["enroll", "--listen", &format!("127.0.0.1:{port}"), "--advertise", &address.to_string()]);
    Project::of(admin)
}

/// How a direction of a connection ended for who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Every byte came, and the end.
    Whole,
    /// Bytes from the beginning, and then an error.
    Broken,
}

/// Sends a pattern and its end, and takes another one: a prefix of it, and a clean end behind all of it only.
///
/// # Panics
/// Where anything else comes.
fn exchange(stream: &TcpStream, mut sends: Pattern, takes: Pattern) -> Ended {
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut stream = stream;
            std::io::copy(&mut sends, &mut stream).and_then(|_| stream.shutdown(Shutdown::Write))
        });
        let mut stream = stream;
        let taken = takes.check(&mut stream);
        // A socket tells of its reset once: to whoever asks first. Behind that, who reads sees an end.
        let reset = || sent.join().expect("no panic").is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        match taken {
            Ok(()) => Ended::Whole,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ended::Broken,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && reset() => Ended::Broken,
            Err(error) => panic!("neither a prefix nor a reset: {error}"),
        }
    })
}

/// Which directions carry bytes; the client says so by its first one, in front of the exchange's number.
#[derive(Debug, Clone, Copy)]
enum Way {
    Both = 1,
    /// What breaks off leaves nothing unread then, which would make any end a reset.
    Down,
}

impl Way {
    const fn of(byte: u8) -> Self {
        if byte == Self::Both as u8 { Self::Both } else { Self::Down }
    }

    /// What the client sends.
    const fn up(self, size: u64) -> Pattern {
        Pattern::new(1, if matches!(self, Self::Both) { size } else { 0 })
    }
}

/// How an exchange ended at the server.
struct ServerEnd {
    /// Which one: the server may tell of it when the client has begun others. `None` where it ended before it was said.
    number: Option<u64>,
    /// `None` where what came was neither a prefix and a reset, nor all of it and the end.
    ended: Option<Ended>,
}

/// A portal through a network that the test rules, to a service that exchanges patterns.
struct Carried {
    network: Proxy,
    portal: Portal,
    /// Gives its streams up as soon as they have no path.
    hasty: SocketAddr,
    ends: Mutex<Receiver<ServerEnd>>,
    /// How many exchanges were begun.
    begun: AtomicU64,
    size: u64,
    _server: TcpServer,
}

impl Carried {
    #[track_caller]
    fn new(size: u64) -> Self {
        let (end, ends) = channel();
        let end = Mutex::new(end);
        let server = TcpServer::start(move |mut stream| {
            let mut begin = [0; 9];
            let end_of = match stream.read_exact(&mut begin) {
                Ok(()) => {
                    let [way, number @ ..] = begin;
                    let up = Way::of(way).up(size);
                    let ended = std::panic::catch_unwind(|| exchange(&stream, Pattern::new(2, size), up)).ok();
                    ServerEnd { number: Some(u64::from_be_bytes(number)), ended }
                }
                begun => ServerEnd { number: None, ended: is_reset(&begun).then_some(Ended::Broken) },
            };
            // The test has ended where nobody takes it.
            let _ = end.lock().expect("no panic").send(end_of);
            Ok(())
        });
        let network = Proxy::start();
        let servers = Reserved::new().release();
        network.point_at(SocketAddr::from(([127, 0, 0, 1], servers)));
        let portal = Portal::in_project(project_behind(network.address, servers), server.port());
        let hasty = portal.customer.ok(&[
            "tcp-inlet",
            "create",
            "--alias",
            "hasty",
            "--via",
            "vendor",
            "--to",
            "service",
            "--resume-timeout",
            "0",
        ]);
        let hasty = hasty.parse().expect("an address");
        let carried = Self { network, portal, hasty, ends: Mutex::new(ends), begun: AtomicU64::new(0), size, _server: server };
        for (inlet, way) in [carried.portal.inlet, hasty].into_iter().flat_map(|inlet| [(inlet, Way::Both), (inlet, Way::Down)]) {
            assert_eq!(carried.through(inlet, way), [Some(Ended::Whole); 2], "without chaos");
        }
        carried
    }

    /// How an exchange through `inlet` ended at the client and, where it was reached, at the server.
    #[track_caller]
    fn through(&self, inlet: SocketAddr, way: Way) -> [Option<Ended>; 2] {
        // A refusal may come before the client has its connection.
        let mut stream = match connect(inlet) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return [Some(Ended::Broken), None],
            connected => connected.expect("the inlet listens"),
        };
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(2 * PATIENCE)).expect("a deadline");
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let begun = stream.write_all(&[&[way as u8][..], &number.to_be_bytes()].concat());
        if is_reset(&begun) {
            return [Some(Ended::Broken), None];
        }
        begun.expect("the inlet takes it");
        let near = exchange(&stream, way.up(self.size), Pattern::new(2, self.size));
        drop(stream);
        let ends = self.ends.lock().expect("no panic");
        // Where the client's end was broken before the target was dialled, nobody was there.
        let patience = if near == Ended::Whole { PATIENCE } else { Duration::from_secs(2) };
        let deadline = Instant::now() + patience;
        let far = loop {
            let Ok(far) = ends.recv_timeout(deadline.saturating_duration_since(Instant::now())) else { break None };
            let ended = far.ended.expect("the server takes a prefix, and then a reset or the end");
            // Others are of exchanges whose client did not wait so long.
            if far.number == Some(number) {
                break Some(ended);
            }
        };
        [Some(near), far]
    }

    /// Both inlets, each in its turn, through the network that `seed` makes.
    #[track_caller]
    fn weather(&self, seed: u64, services: &'static [u8]) -> [[Option<Ended>; 2]; 2] {
        // Several damages on the way of one exchange.
        self.network.chaos(Some(Chaos { seed, every: self.size / 2, services }));
        let way = if seed.is_multiple_of(2) { Way::Both } else { Way::Down };
        let ends = [self.portal.inlet, self.hasty].map(|inlet| self.through(inlet, way));
        self.network.chaos(None);
        ends
    }
}

/// R1 and R2: whatever the network does to the bytes of links, what arrives is a prefix of what was sent, an end is clean behind everything only, and
/// everything else is an error that the application sees; where the stream may look for another path, most of them come whole all the same.
/// `POSTERN_TEST_LONG` does it to control links, too, for as many seeds as `POSTERN_TEST_SEEDS` says; `POSTERN_TEST_SEED` is the first.
#[test]
fn a_network_that_changes_what_it_carries() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let long = std::env::var_os("POSTERN_TEST_LONG").is_some();
    let first: u64 = number("POSTERN_TEST_SEED").unwrap_or(0);
    let count = if long { number("POSTERN_TEST_SEEDS").unwrap_or(200) } else { 6 };
    let carried = Carried::new(if long { 2 << 20 } else { 1 << 20 });
    let (mut whole, mut broken) = ([0_u64; 2], [0_u64; 2]);
    for seed in first..first + count {
        let begun = Instant::now();
        let services: &[u8] = if long && seed % 4 == 3 { &[CONTROL, DATA] } else { &[DATA] };
        let ends = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| carried.weather(seed, services)));
        let ends = ends.unwrap_or_else(|cause| {
            println!("POSTERN_TEST_SEED={seed}");
            std::panic::resume_unwind(cause)
        });
        println!("seed {seed}: {ends:?} after {:?}", begun.elapsed());
        for (which, ends) in ends.iter().enumerate() {
            if *ends == [Some(Ended::Whole); 2] {
                whole[which] += 1;
            } else {
                broken[which] += 1;
            }
        }
    }
    let damages: Damages = carried.network.damages();
    println!(
        "{count} networks, {DAMAGES:?} {damages:?}: {whole:?} exchanges whole, {broken:?} broken, with and without resuming"
    );
    assert!(damages.iter().sum::<u64>() >= 4 * count, "{damages:?}");
    assert!(whole[0] > count / 2 && broken[1] > count / 2, "{whole:?} whole, {broken:?} broken");
    // And all is well when the network is.
    let well = || {
        let ends = [carried.portal.inlet, carried.hasty].map(|inlet| carried.through(inlet, Way::Both));
        (ends == [[Some(Ended::Whole); 2]; 2]).then_some(())
    };
    eventually(2 * PATIENCE, "whole exchanges", well);
}

/// What no relay may find, nor anybody but the node that was asked for.
const CANARY: &[u8] = b"the first bytes of an application, which are for one node alone";

/// The codes of what was refused at a home, the newest first.
#[track_caller]
fn refusals(home: &TestHome) -> Vec<Value> {
    home.json(&["explain"]).as_array().expect("a list").clone()
}

/// R3: a relay joins two nodes each of which asked for, or was asked for by, another one.
#[test]
fn a_relay_that_joins_other_nodes() {
    let servers = Reserved::new().release();
    let relay = Mispairing::of(SocketAddr::from(([127, 0, 0, 1], servers)));
    let project = project_behind(relay.address, servers);
    let targets = [EchoServer::start(), EchoServer::start()];
    let sides = [("b", &targets[0]), ("z", &targets[1])].map(|(name, target)| {
        let vendor = project.member(&["--relay", name]);
        let outlet = format!("{{name: vendor, relay: {name}, tcp-outlet: {{from: service, to: {}}}}}", target.port());
        vendor.ok(&["node", "create", "--configuration", &outlet]);
        vendor.registered_at(name, 1);
        let customer = project.member(&[]);
        let inlet = format!("{{name: customer, tcp-inlet: {{alias: service, from: '127.0.0.1:0', via: {name}, to: service}}}}");
        customer.ok(&["node", "create", "--configuration", &inlet]);
        let inlet = customer.inlet("service");
        (vendor, customer, inlet)
    });
    let [(_, to_b, at_b), (z, _, at_z)] = &sides;
    let reached = || [&targets[0], &targets[1]].map(|target| target.accepted());

    // Each of two connections is joined in turn; then either goes to whom the other one asked for.
    let exchanged = || {
        relay.lies(true);
        let applications = [*at_b, *at_z].map(|inlet| {
            let mut application = connect(inlet).expect("the inlet listens");
            application.write_all(CANARY).expect("the inlet takes it");
            (application, relay.pair())
        });
        let [(first, one), (second, other)] = applications;
        relay.lies(false);
        let said = one.exchange(other).map(|mispaired| mispaired.heard());
        for mut application in [first, second] {
            let end = application.read(&mut [0; 1]).expect_err("nobody has an answer for it");
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        }
        for said in &said {
            assert!(!said.is_empty() && !contains(said, CANARY), "{} bytes", said.len());
        }
        said
    };
    // Without a channel: all that was said is the first message of a handshake, which names nobody and asks for the other one's key.
    for said in exchanged() {
        let (header, body) = said.split_at(4);
        assert_eq!(header, [&[4][..], &u32::try_from(body.len()).expect("short").to_be_bytes()[1..]].concat());
    }
    assert_eq!(reached(), [0, 0], "a target was dialled");
    let noted = refusals(to_b);
    assert_eq!((&noted[0]["code"], &noted[0]["by"]), (&"MISPAIRED".into(), &"this-node".into()), "{noted:?}");
    let noted = refusals(z);
    assert_eq!(noted[0]["code"], "HANDSHAKE", "{noted:?}");
    // The relay is honest again, and nothing has to be done.
    let mut lives = [*at_b, *at_z].map(live);
    assert_eq!(reached(), [1, 1]);

    // On channels that stand: the open, and what is with it, is for one of them alone.
    exchanged();
    assert_eq!(reached(), [1, 1], "a target was dialled");
    assert!(lives.iter_mut().all(pings), "streams on paths that are what they say go on");
    for inlet in [at_b, at_z] {
        eventually(PATIENCE, "the portal carries again", || echoes(*inlet, b"there and back").ok());
    }
}

/// A name server's answers: where the outlet may be led, and where it must not be.
const ALLOWED: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const FORBIDDEN: [Ipv4Addr; 3] =
    [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(100, 100, 100, 200)];

/// What the name leads to when it is asked for the how manieth time: to each address behind each other one, alone and together.
fn rebound(time: usize) -> Vec<Ipv4Addr> {
    let forbidden = FORBIDDEN[time / 4 % FORBIDDEN.len()];
    match time % 4 {
        0 | 2 => vec![ALLOWED],
        1 => vec![forbidden],
        _ => vec![forbidden, ALLOWED],
    }
}

/// B3: between a look-up and the next one, a name comes to lead elsewhere. What is dialled is what was judged.
#[test]
fn a_name_that_leads_elsewhere_each_time() {
    const OPENS: usize = 50;
    if let Some(why) = namespaces_unavailable() {
        return skipped(why);
    }
    let host = Namespace::new("rebinding");
    for address in [ALLOWED, FORBIDDEN[0], FORBIDDEN[2]] {
        host.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]).expect("an address");
    }
    host.resolves_at("127.0.0.1").expect("files below /etc/netns");
    let names = NameServer::start(host.enter(|| UdpSocket::bind("127.0.0.1:53")).expect("a free port"), rebound);
    let listen = |address: Ipv4Addr| host.enter(|| TcpListener::bind((address, 8080))).expect("an address of its own");
    let allowed = TcpServer::start_on(listen(ALLOWED), |mut stream| stream.write_all(b"allowed"));
    let lured = Arc::new(AtomicUsize::new(0));
    let _forbidden = FORBIDDEN.map(|address| {
        let count = Arc::clone(&lured);
        TcpServer::start_on(listen(address), move |mut stream| {
            count.fetch_add(1, Ordering::AcqRel);
            stream.write_all(b"forbidden")
        })
    });

    // Everything runs in the namespace, where it resolves names as the namespace does.
    let scripts = TestHome::new(POSTERN);
    let inside = scripts.file("postern", format!("#!/bin/sh\nexec ip netns exec {} {POSTERN} \"$@\"\n", host.name()));
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o700)).expect("a program");
    let project = Project::new(&inside);
    let vendor = project.member(&["--relay", "vendor"]);
    let outlet = "{name: vendor, relay: vendor, http-server-port: 0, tcp-outlet: {from: service, to: 'rebinding.example:8080'}}";
    vendor.ok(&["node", "create", "--configuration", outlet]);
    vendor.registered_at("vendor", 1);
    let (_customer, inlet) = Portal::customer(&project);
    let (mut served, mut refused) = (0, 0);
    for _ in 0..OPENS {
        let said = host.enter(|| connect(inlet)).and_then(|stream| std::io::read_to_string(&stream));
        match &said {
            Ok(said) => {
                assert_eq!(said, "allowed");
                served += 1;
            }
            Err(error) => {
                assert!(is_reset(&said), "{error}");
                refused += 1;
            }
        }
    }
    println!("{OPENS} opens, {} look-ups: {served} served, {refused} refused", names.asked());
    assert_eq!(lured.load(Ordering::Acquire), 0, "somebody was led where no name may lead");
    assert_eq!((served, allowed.accepted()), (served, served));
    assert!(served >= OPENS / 2 && refused >= OPENS / 5, "{served} served, {refused} refused");
    assert_eq!(names.asked(), OPENS, "one look-up a dial: what is judged is what it said");
    let metrics = vendor.json(&["node", "show", "vendor"])["http_server_address"].as_str().expect("an address").to_owned();
    let text = host.enter(|| http_get(metrics, "/metrics")).expect("an answer").text();
    assert!(text.contains("TARGET_NOT_FOLLOWED"), "{text}");
}
