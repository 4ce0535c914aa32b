//! Servers whose port is crowded by connections that never prove who they are, while members come and go.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_proto::authority::{Answer, Hello, MAX_MESSAGE, Reply};
use postern_proto::handshake::{Label, StaticKey};
use postern_proto::id::NodeId;
use postern_proto::identity::Identity;
use postern_proto::preface::Service;
use postern_proto::ticket::Ticket;
use postern_runtime::clock::Clock;
use postern_runtime::enrol;
use postern_runtime::session::{self, Connect};
use postern_runtime::supervise::Supervisor;
use postern_test_support::{PATIENCE, Project, TestHome, eventually, resident};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// Connections at a time that drip: twice as many as the servers leave unproven; where `POSTERN_TEST_LONG` is set, many more.
const CONNECTIONS: usize = 2_000;
const CONNECTIONS_LONG: usize = 5_000;

/// From so many neighbourhoods.
const SOURCES: usize = 100;

/// How often one of them says another byte.
const DRIP: Duration = Duration::from_secs(1);

/// What a flood may cost a server in memory.
const MEMORY: u64 = 100 << 20;

/// How long a member's handshake takes meanwhile, of a hundred the slowest but one, on a machine that is this test's alone
/// (`POSTERN_TEST_LONG`).
const HANDSHAKE_LONG: Duration = Duration::from_millis(500);

/// The usual run has two cores with much else to do, where any process may stand still for a second: of twenty, the slowest but one takes less
/// than twice the promise, and each is answered.
const HANDSHAKE: Duration = Duration::from_millis(900);
const SLOWEST: Duration = Duration::from_secs(4);

/// How long one of four attackers waits before his next first message. They are answered as they come: who sends more of them than the cores can
/// answer holds up everybody, however many are left unproven.
const BREATH: Duration = Duration::from_millis(10);

/// How many handshakes are timed.
const HANDSHAKES: usize = 40;
const HANDSHAKES_LONG: usize = 200;

/// The neighbourhood of which a flood of first messages comes, a /24.
const CROWDED: [u8; 3] = [127, 2, 7];

/// How often a member of the crowded neighbourhood may have to try.
const TRIES: usize = 3;

fn long() -> bool {
    std::env::var_os("POSTERN_TEST_LONG").is_some()
}

/// Where the servers of `home` listen.
fn servers(home: &TestHome) -> SocketAddr {
    let told = home.json(&["enroll", "--output", "json"]);
    told["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

/// A member that connects as often as a test likes, from addresses of this machine.
struct Member {
    ticket: Ticket,
    key: StaticKey,
    hello: Hello,
    runtime: Runtime,
}

impl Member {
    fn join(project: &Project) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ticket: Ticket = project.ticket(&[]).parse().expect("a ticket");
        let (now, key, node) = (Clock::new().now(), StaticKey::generate(), NodeId::random());
        let identity = Identity::generate(now);
        let hello = enrol::hello(&identity, node, &key, now);
        let name = "member".parse().expect("a name");
        runtime.block_on(async {
            enrol::enrol(&Supervisor::new(), (&identity, &name), (node, &key), &ticket, now).await.expect("it joins");
        });
        Self { ticket, key, hello, runtime }
    }

    /// One connection, from its first packet to what the authority says first; how long it took.
    fn connects(&self, from: Ipv4Addr, to: SocketAddr) -> Result<Duration, String> {
        let begun = Instant::now();
        let stream = connection(from, to).ok_or("no connection")?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let payload = minicbor::to_vec(&self.hello).expect("writing to memory");
        let how = Connect {
            service: Service::Authority,
            label: Label::Authority,
            local: &self.key,
            remote: self.ticket.authority_static,
            payload: &payload,
            limit: MAX_MESSAGE,
        };
        self.runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream).map_err(|error| error.to_string())?;
            let (mut session, _) = session::connect(stream, how).await.map_err(|error| error.to_string())?;
            match session.receiver.receive_message::<Reply>().await {
                Ok(Some(Reply { answer: Answer::Refused(refusal), .. })) => Err(refusal.to_string()),
                Ok(Some(_)) => Ok(begun.elapsed()),
                Ok(None) => Err("closed".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// What this member says first, whole, before anybody has answered.
    fn first_message(&self) -> Vec<u8> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::scope(|scope| {
            let heard = scope.spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut said = vec![0; 8_192];
                let length = stream.read(&mut said).expect("a first message, in one segment");
                said.truncate(length);
                said
            });
            // It hears nothing: the connection is closed once it is read.
            assert!(self.connects(Ipv4Addr::LOCALHOST, address).is_err());
            heard.join().expect("no panic")
        })
    }
}

/// Times `count` handshakes from `from`; sorted.
fn handshakes(member: &Member, count: usize, from: Ipv4Addr, to: SocketAddr) -> Vec<Duration> {
    let mut took: Vec<Duration> =
        (0..count).map(|number| member.connects(from, to).unwrap_or_else(|why| panic!("handshake {number}: {why}"))).collect();
    took.sort_unstable();
    took
}

/// The longest time of so many in a hundred.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// Requires that members were not held up.
#[track_caller]
fn not_held_up(sorted: &[Duration]) {
    if long() {
        assert!(percentile(sorted, 99) < HANDSHAKE_LONG, "{sorted:?}");
    } else {
        assert!(percentile(sorted, 95) < HANDSHAKE && percentile(sorted, 100) < SLOWEST, "{sorted:?}");
    }
}

/// A connection from an address of this machine that is no other's.
fn connection(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    bind(&socket, &SocketAddrV4::new(from, 0)).ok()?;
    connect(&socket, &to).ok()?;
    Some(TcpStream::from(socket))
}

/// Runs `during` while `parts` threads do `flood`, each with its number, until told to stop.
fn beside<T>(parts: usize, flood: impl Fn(usize, &AtomicBool) + Sync, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for part in 0..parts {
            let (stop, flood) = (&stop, &flood);
            scope.spawn(move || flood(part, stop));
        }
        // Whatever fails in it, the flood ends.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Holds `count` connections, each of which says how a session with the authority begins, and then a byte from time to time; what is closed
/// is opened anew.
fn drip(first: usize, count: usize, to: SocketAddr, stop: &AtomicBool, open: &AtomicUsize) {
    let mut connections: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for (number, slot) in connections.iter_mut().enumerate() {
            let number = first + number;
            if let Some(connection) = slot {
                if connection.write_all(&[0]).is_err() {
                    *slot = None;
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            } else if let Some(mut connection) =
                connection(Ipv4Addr::new(127, 1, (number % SOURCES) as u8, 1 + (number / SOURCES % 250) as u8), to)
            {
                // The preface of the authority's service, and the length of a first message that fits.
                if connection.write_all(b"PSTN\x01\x01\0\0\x04\xc8").is_ok() {
                    *slot = Some(connection);
                    open.fetch_add(1, Ordering::Relaxed);
                }
            }
            // One after the other, so that each says a byte in that time.
            std::thread::sleep(DRIP / count as u32);
        }
    }
}

/// This process needs a descriptor for each end that it holds.
fn raise_descriptors(wanted: usize) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(wanted as u64, |most| most.min(wanted as u64));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).expect("up to the hard limit");
}

/// N1: first bytes that come one at a time, from everywhere at once.
#[test]
fn whoever_proves_nothing_holds_up_nobody() {
    let (connections, count) = if long() { (CONNECTIONS_LONG, HANDSHAKES_LONG) } else { (CONNECTIONS, HANDSHAKES) };
    raise_descriptors(connections + 1_000);
    let project = Project::new(POSTERN);
    let (to, member) = (servers(&project), Member::join(&project));
    let (pid, before) = (project.servers_pid(), resident(project.servers_pid()));
    let open = AtomicUsize::new(0);
    let idle = handshakes(&member, 10, Ipv4Addr::LOCALHOST, to);
    beside(
        4,
        |part, stop| drip(part * connections / 4, connections / 4, to, stop, &open),
        || {
            // The servers leave some 1,000 unproven; the others were closed, and come again.
            eventually(PATIENCE, "the flood is there", || (open.load(Ordering::Relaxed) > CONNECTIONS / 3).then_some(()));
            let took = handshakes(&member, count, Ipv4Addr::LOCALHOST, to);
            let more = resident(pid).saturating_sub(before);
            println!(
                "{} open; without them half of the handshakes within {:?}, with them {:?}, p99 {:?}; {} MiB more",
                open.load(Ordering::Relaxed),
                idle[idle.len() / 2],
                took[took.len() / 2],
                percentile(&took, 99),
                more >> 20
            );
            not_held_up(&took);
            assert!(more < MEMORY, "{more} bytes");
            project.ok(&["project-member", "list"]);
        },
    );
    assert_eq!(project.servers_pid(), pid, "it is the same process");
}

/// First messages that are whole, so that each is answered, from one /24; then nothing more. Whoever lives there too gets in, if not
/// always at once; whoever lives elsewhere notices nothing.
#[test]
fn a_flood_of_first_messages_keeps_nobody_out() {
    raise_descriptors(4_000);
    let project = Project::new(POSTERN);
    let (to, member) = (servers(&project), Member::join(&project));
    let (pid, before) = (project.servers_pid(), resident(project.servers_pid()));
    let first = member.first_message();
    assert!(first.len() > 1_000, "{} bytes", first.len());
    let [a, b, c] = CROWDED;
    let (answered, sent) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let flood = |part: usize, stop: &AtomicBool| {
        let mut held = std::collections::VecDeque::new();
        for number in (part..).step_by(4) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(mut stream) = connection(Ipv4Addr::new(a, b, c, 1 + (number % 200) as u8), to)
                && stream.write_all(&first).is_ok()
            {
                sent.fetch_add(1, Ordering::Relaxed);
                held.push_back(stream);
            }
            // Far more than the servers leave unproven of one neighbourhood.
            if held.len() > 250
                && let Some(mut oldest) = held.pop_front()
                && oldest.read(&mut [0; 1]).is_ok_and(|read| read == 1)
            {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(BREATH);
        }
    };
    beside(4, flood, || {
        eventually(PATIENCE, "first messages are answered", || (answered.load(Ordering::Relaxed) > 200).then_some(()));
        let outside = handshakes(&member, HANDSHAKES / 2, Ipv4Addr::LOCALHOST, to);
        let (mut inside, mut again) = (Vec::new(), 0);
        for number in 0..HANDSHAKES / 2 {
            let mut tries = (0..TRIES).map(|_| member.connects(Ipv4Addr::new(a, b, c, 250), to));
            let took = tries.find_map(|tried| tried.inspect_err(|_| again += 1).ok());
            inside.push(took.unwrap_or_else(|| panic!("handshake {number} from the crowded neighbourhood, {TRIES} times")));
        }
        inside.sort_unstable();
        let more = resident(pid).saturating_sub(before);
        println!(
            "{} first messages; outside p99 {:?}, inside {:?} with {again} refusals; {} MiB more",
            sent.load(Ordering::Relaxed),
            percentile(&outside, 99),
            percentile(&inside, 99),
            more >> 20
        );
        not_held_up(&outside);
        not_held_up(&inside);
        assert!(more < MEMORY, "{more} bytes");
    });
    assert_eq!(project.servers_pid(), pid, "it is the same process");
}
