//! An hour, or however long, of work and faults: at the end every process has as many descriptors and tasks as at the beginning, and
//! hardly more memory. Not part of a usual run:
//!
//! ```text
//! POSTERN_SOAK_MINUTES=60 POSTERN_BINARY=target/release/postern cargo test -p postern-cli --test soak -- --nocapture
//! ```
//!
//! `POSTERN_SOAK_PAUSE` is how many milliseconds each application rests between two connections, where the machine has other work.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postern_test_support::{
    PATIENCE, Pattern, Portal, Project, RelayServer, Signal, TcpServer, TestHome, binary_or, connect, descriptors, eventually,
    holds, http_get, reset, resident, signal,
};

/// Between two faults.
const FAULTS: Duration = Duration::from_secs(5);

/// Applications at work at once.
const WORKERS: u64 = 8;

/// How long a server is silent at least: longer than nodes need to leave it.
const SILENCE: Duration = Duration::from_secs(12);

/// After this, paths that waited for their next stream are closed, and so is all that belonged to the work.
const SETTLED: Duration = Duration::from_secs(90);

/// A random number, of a sequence that is the same in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 8
}

/// What became of connections.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    bytes: AtomicU64,
    reset_by_us: AtomicU64,
    /// Connections that were not carried to their end.
    broken: AtomicU64,
    /// Wrong bytes, and ends that nobody sent. There must be none.
    wrong: AtomicU64,
}

/// A connection says how many bytes it wants to exchange each way, and for which seed.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut wish = [0; 16];
    stream.read_exact(&mut wish)?;
    let [size, seed] = [&wish[..8], &wish[8..]].map(|half| u64::from_be_bytes(half.try_into().expect("eight bytes")));
    let sender = stream.try_clone()?;
    let sent = thread::spawn(move || {
        io::copy(&mut Pattern::new(seed, size), &mut &sender)?;
        sender.shutdown(Shutdown::Write)
    });
    let checked = Pattern::new(seed + 1, size).check(&mut stream);
    sent.join().map_err(|_| io::Error::other("a panic"))??;
    checked
}

fn work(inlet: SocketAddr, mut state: u64, stop: &AtomicBool, tally: &Tally) {
    let pause = std::env::var("POSTERN_SOAK_PAUSE").ok().and_then(|text| text.parse().ok()).map(Duration::from_millis);
    while !stop.load(Ordering::Relaxed) {
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        let size = match random(&mut state) % 4 {
            0 => 0,
            1 => random(&mut state) % 2_000,
            2 => random(&mut state) % 500_000,
            _ => random(&mut state) % 8_000_000,
        };
        let resets = random(&mut state).is_multiple_of(16);
        let seed = random(&mut state) % 1_000;
        match exchange(inlet, size, seed, resets) {
            Ok(()) if resets => tally.reset_by_us.fetch_add(1, Ordering::Relaxed),
            Ok(()) => {
                tally.bytes.fetch_add(2 * size, Ordering::Relaxed);
                tally.done.fetch_add(1, Ordering::Relaxed)
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionRefused => {
                    // Where no relay is there, new connections are refused at once.
                    thread::sleep(Duration::from_millis(20));
                    tally.broken.fetch_add(1, Ordering::Relaxed)
                }
                _ => {
                    println!("WRONG: {error} ({size} bytes, seed {seed})");
                    tally.wrong.fetch_add(1, Ordering::Relaxed)
                }
            },
        };
    }
}

fn exchange(inlet: SocketAddr, size: u64, seed: u64, resets: bool) -> io::Result<()> {
    let mut stream = connect(inlet)?;
    stream.set_read_timeout(Some(Duration::from_secs(100)))?;
    stream.set_write_timeout(Some(Duration::from_secs(100)))?;
    stream.write_all(&[size.to_be_bytes(), seed.to_be_bytes()].concat())?;
    if resets {
        reset(&stream);
        return Ok(());
    }
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            io::copy(&mut Pattern::new(seed + 1, size), &mut &stream)?;
            match stream.shutdown(Shutdown::Write) {
                // It was reset meanwhile, which whoever reads is told.
                Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
                shut => shut,
            }
        });
        let checked = Pattern::new(seed, size).check(&mut &stream);
        sent.join().map_err(|_| io::Error::other("a panic"))??;
        checked
    })
}

/// Descriptors, tasks and bytes of memory of a process; no tasks where it does not tell them.
#[derive(Debug, Clone, Copy)]
struct State {
    descriptors: usize,
    tasks: u64,
    memory: u64,
}

fn state(pid: u32, metrics: Option<&str>) -> State {
    let tasks = metrics.map_or(0, |address| {
        let text = http_get(address, "/metrics").expect("an answer").text();
        text.lines().find_map(|line| line.strip_prefix("postern_tasks ")).and_then(|value| value.parse().ok()).expect("told")
    });
    State { descriptors: descriptors(pid), tasks, memory: resident(pid) }
}

#[test]
fn a_long_time_with_faults() {
    let Some(minutes) = std::env::var("POSTERN_SOAK_MINUTES").ok().and_then(|text| text.parse::<f64>().ok()) else {
        postern_test_support::skipped("POSTERN_SOAK_MINUTES is not set");
        return;
    };
    let binary = binary_or(env!("CARGO_BIN_EXE_postern"));
    let server = TcpServer::start(serve);
    let project = Project::new(binary);
    let mut second = RelayServer::join(&project);
    let vendor = project.member(&["--relay", "vendor"]);
    let outlet =
        format!("{{name: vendor, relay: vendor, http-server-port: 0, tcp-outlet: {{from: service, to: {}}}}}", server.port());
    vendor.ok(&["node", "create", "--configuration", &outlet]);
    let customer = project.member(&[]);
    let inlet =
        "{name: customer, http-server-port: 0, tcp-inlet: {alias: service, from: '127.0.0.1:0', via: vendor, to: service}}";
    customer.ok(&["node", "create", "--configuration", inlet]);
    let portal = Portal { inlet: customer.inlet("service"), customer, vendor, project };
    portal.vendor.registered_at("vendor", 2);

    let metrics = |home: &TestHome, node: &str| {
        home.json(&["node", "show", node])["http_server_address"].as_str().expect("an address").to_owned()
    };
    let at = [metrics(&portal.customer, "customer"), metrics(&portal.vendor, "vendor")];
    let pids = [portal.customer.node_pid("customer"), portal.vendor.node_pid("vendor")];
    let look = || [0, 1].map(|which| state(pids[which], Some(&at[which])));
    let tally = Tally::default();

    // What is made once is made before the first look.
    under_load(&portal, &tally, Duration::from_secs(20), |_| {});
    settle();
    let before = look();
    let servers = |second: &RelayServer| [portal.project.servers_pid(), second.pid()].map(|pid| state(pid, None));
    let servers_before = servers(&second);
    println!("before: {before:?}, servers {servers_before:?}");

    let mut seed = 0x5eed_u64;
    let mut faults = 0;
    under_load(&portal, &tally, Duration::from_secs_f64(minutes * 60.0), |begun| {
        let away = Duration::from_millis(random(&mut seed) % 4_000);
        match random(&mut seed) % 4 {
            0 => {
                second.kill();
                holds(away, "a fault", || true);
                second.start();
            }
            1 => {
                portal.project.kill(portal.project.servers_pid());
                holds(away, "a fault", || true);
                portal.project.ok(&["enroll"]);
            }
            2 => {
                // Its sockets stay open and say nothing: no process notices by anything but the time that passes.
                let silent = if random(&mut seed).is_multiple_of(2) { second.pid() } else { portal.project.servers_pid() };
                signal(silent, Signal::STOP);
                holds(SILENCE + away, "a fault", || true);
                signal(silent, Signal::CONT);
            }
            _ => {
                second.kill();
                portal.project.kill(portal.project.servers_pid());
                holds(away, "a fault", || true);
                second.start();
                portal.project.ok(&["enroll"]);
            }
        }
        faults += 1;
        if faults % 6 == 0 {
            println!("{:?}: {faults} faults, {tally:?}, {:?}, servers {:?}", begun.elapsed(), look(), servers(&second));
        }
    });
    settle();
    let after = look();
    let servers_after = servers(&second);
    println!("after {faults} faults: {after:?}, servers {servers_after:?}, {tally:?}");
    assert_eq!(tally.wrong.into_inner(), 0, "wrong bytes, or ends that nobody sent");
    let before = before.into_iter().chain(servers_before);
    let after = after.into_iter().chain(servers_after);
    for (who, (before, after)) in ["inlet node", "outlet node", "authority and relay", "relay"].iter().zip(before.zip(after)) {
        assert!(after.descriptors <= before.descriptors + 8, "{who}: descriptors {before:?} {after:?}");
        assert!(after.tasks <= before.tasks + 8, "{who}: tasks {before:?} {after:?}");
        assert!(after.memory < before.memory + before.memory / 4 + (8 << 20), "{who}: memory {before:?} {after:?}");
    }
    eventually(PATIENCE, "a new connection", || exchange(portal.inlet, 1_000, 1, false).ok());
}

/// Lets applications work for `span`, while faults happen.
fn under_load(portal: &Portal, tally: &Tally, span: Duration, mut fault: impl FnMut(Instant)) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (stop, inlet) = (&stop, portal.inlet);
            scope.spawn(move || work(inlet, 0x9e37_79b9 + worker, stop, tally));
        }
        let begun = Instant::now();
        while begun.elapsed() < span {
            holds(FAULTS.min(span), "between two faults", || true);
            fault(begun);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn settle() {
    holds(SETTLED, "all that is over goes away", || true);
}
