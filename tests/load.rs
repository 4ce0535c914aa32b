//! More than a node or a relay can take, or than one would expect of it: others are unaffected, memory stays within its bound, what is
//! refused is refused at once and says why.
//!
//! `POSTERN_LOAD_STREAMS` and `POSTERN_LOAD_STALLED` set how many streams are open at once, and how many readers stall.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postern_test_support::{
    EchoServer, PATIENCE, Pattern, Portal, Project, Reserved, TcpServer, TestHome, connect, descriptors, echoes, eventually,
    refused, reset,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

const MIB: u64 = 1 << 20;

/// Each test loads the machine, and some measure it: they run one after another.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes there and back on an open connection.
fn says(mut stream: &TcpStream, what: &[u8]) -> std::io::Result<()> {
    stream.write_all(what)?;
    let mut back = vec![0; what.len()];
    stream.read_exact(&mut back)?;
    if back == what { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// A number that the environment may set.
fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// How many streams are opened: as many as this process can hold both ends of.
fn streams() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    // A relay takes joins until four fifths are used, of which each stream has two; and there are nodes, links and paths that wait.
    let fit = usize::try_from(limit / 2).unwrap_or(usize::MAX).saturating_sub(500) / 2;
    fit.min(number("POSTERN_LOAD_STREAMS", 4_000))
}

#[test]
fn thousands_of_streams_at_once() {
    let _alone = alone();
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    echoes(portal.inlet, b"first").expect("all is well");
    let before = portal.resident();
    let many = streams();
    let begun = Instant::now();
    let open: Vec<TcpStream> = thread::scope(|scope| {
        let openers: Vec<_> = (0..8)
            .map(|_| {
                let opener = || -> Vec<TcpStream> {
                    let open = || {
                        let stream = connect(portal.inlet).expect("the inlet listens");
                        says(&stream, b"hello").expect("it is carried");
                        stream
                    };
                    (0..many / 8).map(|_| open()).collect()
                };
                scope.spawn(opener)
            })
            .collect();
        openers.into_iter().flat_map(|opener| opener.join().expect("no panic")).collect()
    });
    println!("{} streams open after {:?}", open.len(), begun.elapsed());
    for stream in &open {
        says(stream, b"still here").expect("every one of them lives");
    }
    for ((process, before), after) in ["inlet node", "relay", "outlet node"].iter().zip(before).zip(portal.resident()) {
        let each = after.saturating_sub(before) / open.len() as u64;
        println!("{process}: {each} bytes for each");
        // Idle streams hold no buffers. Builds without optimisation have larger tasks.
        assert!(each < 48 << 10, "the {process} holds {each} bytes for each idle stream");
    }
    let fds = [portal.customer.node_pid("customer"), portal.project.servers_pid(), portal.vendor.node_pid("vendor")];
    drop(open);
    for pid in fds {
        // Paths wait for their next streams for a minute, 256 of a channel at most; all else is closed.
        eventually(PATIENCE, "the descriptors are given back", || (descriptors(pid) < 700).then_some(()));
    }
}

/// The readers of one member stall, many at once: what the nodes hold for them is bounded, and another member notices nothing.
#[test]
fn a_member_whose_readers_stall() {
    /// A stream's largest window.
    const WINDOW: u64 = 4 * MIB;
    const SIZE: u64 = 24 * MIB;
    let _alone = alone();
    let stalled = number("POSTERN_LOAD_STALLED", 16);
    // The client's first byte says what the server does: send a pattern, or more than anybody reads.
    let server = TcpServer::start(|mut stream| {
        stream.set_write_timeout(None)?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        let size = if &kind == b"p" { SIZE } else { u64::MAX };
        std::io::copy(&mut Pattern::new(7, size), &mut stream)?;
        stream.shutdown(Shutdown::Write)
    });
    let portal = Portal::to(POSTERN, server.port());
    let (_other, other) = Portal::customer(&portal.project);
    let begin = |inlet, kind: &[u8]| {
        let mut stream = connect(inlet).expect("the inlet listens");
        stream.write_all(kind).expect("it is taken");
        stream
    };
    let download = || {
        let begun = Instant::now();
        Pattern::new(7, SIZE).check(&mut begin(other, b"p")).expect("a whole download");
        begun.elapsed()
    };
    download();
    // The fastest of a few, because the machine has other things to do.
    let alone = (0..3).map(|_| download()).min().expect("three");
    let before = portal.resident();
    let readers: Vec<TcpStream> = (0..stalled)
        .map(|_| {
            let mut stream = begin(portal.inlet, b"f");
            // It begins to read, and then stops.
            stream.read_exact(&mut vec![0; MIB as usize]).expect("a flood");
            stream
        })
        .collect();
    let during = (0..4).map(|_| download()).min().expect("four");
    println!("{SIZE} bytes in {alone:?} alone, in {during:?} beside {stalled} stalled readers");
    assert!(during < 2 * alone + Duration::from_millis(200), "{during:?} beside stalled readers, {alone:?} alone");
    for ((process, before), after) in ["inlet node", "relay", "outlet node"].iter().zip(before).zip(portal.resident()) {
        let (grown, bound) = (after.saturating_sub(before), stalled as u64 * WINDOW + 32 * MIB);
        println!("{process}: {} MiB more, of at most {}", grown / MIB, bound / MIB);
        assert!(grown < bound, "the {process} grew by {} MiB", grown / MIB);
    }
    readers.iter().for_each(reset);
}

#[test]
fn a_flood_of_opens_and_resets() {
    let _alone = alone();
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    echoes(portal.inlet, b"first").expect("all is well");
    let others = connect(portal.inlet).expect("the inlet listens");
    says(&others, b"hello").expect("it is carried");
    let before = portal.resident();
    let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    let slowest = thread::scope(|scope| {
        for number in 0..6 {
            let (stop, opened, inlet) = (&stop, &opened, portal.inlet);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(stream) = connect(inlet) else { continue };
                    // Before the open has left, behind it, or after the answer.
                    match number % 3 {
                        0 => {}
                        1 => drop((&stream).write_all(b"bye")),
                        _ => drop(says(&stream, b"bye")),
                    }
                    reset(&stream);
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            says(&others, b"how are you").expect("others are unaffected");
            slowest = slowest.max(asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        slowest
    });
    println!("{} connections opened and reset; the slowest answer to others took {slowest:?}", opened.into_inner());
    assert!(slowest < Duration::from_secs(2), "others waited for {slowest:?}");
    for ((process, before), after) in ["inlet node", "relay", "outlet node"].iter().zip(before).zip(portal.resident()) {
        let grown = after.saturating_sub(before);
        println!("{process}: {} MiB more", grown / MIB);
        assert!(grown < 64 * MIB, "the {process} grew by {} MiB", grown / MIB);
    }
    eventually(PATIENCE, "a new connection", || echoes(portal.inlet, b"after").ok());
}

/// The command, with a limit of open files that holds for all that it starts.
fn with_open_files(limit: usize, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    command.get_current_dir().map(|directory| limited.current_dir(directory));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

#[track_caller]
fn run_with_open_files(limit: usize, home: &TestHome, arguments: &[&str]) {
    let output = with_open_files(limit, &home.invoke(arguments).command()).output().expect("a shell");
    assert!(output.status.success(), "{output:?}");
}

/// A node serves as many connections as its limit of open files allows, with their paths; further ones wait, the log says so once, and
/// what lives goes on.
#[test]
fn a_node_without_descriptors() {
    const LIMIT: usize = 200;
    let _alone = alone();
    let server = EchoServer::start();
    let project = Project::new(POSTERN);
    let _vendor = Portal::vendor(&project, server.port());
    let customer = project.member(&[]);
    let configuration = "{name: customer, tcp-inlet: {alias: service, from: '127.0.0.1:0', via: vendor, to: service}}";
    run_with_open_files(LIMIT, &customer, &["node", "create", "--configuration", configuration]);
    let inlet = customer.inlet("service");
    let live = connect(inlet).expect("the inlet listens");
    eventually(PATIENCE, "a stream", || says(&live, b"before").ok());
    // The kernel takes them; the node cannot.
    let crowd: Vec<TcpStream> = (0..LIMIT).filter_map(|_| connect(inlet).ok()).collect();
    crowd.iter().for_each(|stream| drop((&*stream).write_all(b"anybody there?")));
    let lines = || {
        customer
            .node_log("customer")
            .lines()
            .filter(|line| line.contains("as many connections as this node has open files for"))
            .count()
    };
    eventually(PATIENCE, "the log says that others wait", || (lines() > 0).then_some(()));
    for _ in 0..20 {
        says(&live, b"what lives goes on").expect("it goes on");
    }
    let log = customer.node_log("customer");
    assert_eq!(lines(), 1, "{log}");
    assert!(!log.contains("not carried") && !log.contains("ERROR"), "none of them lacks a path:\n{log}");
    drop(crowd);
    eventually(PATIENCE, "a new connection", || echoes(inlet, b"after").ok());
    says(&live, b"after").expect("it lives");
}

/// A relay that is full refuses at once, and the node's log says why; what is joined lives on.
#[test]
fn a_full_relay() {
    const LIMIT: usize = 150;
    let _alone = alone();
    let server = TcpServer::start(|stream| {
        let mut writer = stream.try_clone()?;
        std::io::copy(&mut &stream, &mut writer).map(drop)
    });
    let admin = TestHome::new(POSTERN);
    let port = Reserved::new().release();
    admin.ok(&["enroll", "--listen", &format!("127.0.0.1:{port}")]);
    admin.ok(&["serve", "stop"]);
    run_with_open_files(LIMIT, &admin, &["enroll"]);
    let portal = Portal::in_project(Project::of(admin), server.port());
    let mut open = Vec::new();
    let full = eventually(PATIENCE, "the relay is full", || {
        let stream = connect(portal.inlet).ok()?;
        match says(&stream, b"hello") {
            Ok(()) => {
                open.push(stream);
                None
            }
            Err(error) => Some(error),
        }
    });
    println!("{} streams, then: {full}", open.len());
    assert!(open.len() > 10);
    let mut took: Vec<Duration> = (0..9).map(|_| refused(portal.inlet)).collect();
    took.sort_unstable();
    println!("refusals take {took:?}");
    assert!(took[took.len() / 2] < Duration::from_millis(100), "half of the refusals took longer: {took:?}");
    let log = portal.customer.node_log("customer");
    assert!(log.contains("limit") || log.contains("full"), "the log says why:\n{log}");
    for stream in &open {
        says(stream, b"still here").expect("what is joined lives");
    }
    drop(open);
    eventually(PATIENCE, "a new connection", || echoes(portal.inlet, b"after").ok());
}
