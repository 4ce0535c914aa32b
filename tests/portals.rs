//! Portals between real processes: what applications at both ends see, when all is well and when something breaks (behaviours
//! 10–17 of the acceptance list, by number in each test).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postern_test_support::{
    EchoServer, PATIENCE, Pattern, Portal, Project, Proxy, Reserved, TcpServer, TestHome, connect, echoes, eventually, holds,
    live, refused, reset,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

const MIB: u64 = 1 << 20;

/// Reads until the connection ends in some way, for at most `limit`, and returns the way and how long it took.
fn end_of(mut stream: &TcpStream, limit: Duration) -> (std::io::Result<u64>, Duration) {
    let begun = Instant::now();
    stream.set_read_timeout(Some(limit)).expect("a deadline");
    (std::io::copy(&mut stream, &mut std::io::sink()), begun.elapsed())
}

/// Behaviour 10.
#[test]
fn names_are_given_once_and_missing_ones_are_said_so() {
    let home = TestHome::new(POSTERN);
    assert_eq!(home.ok(&["tcp-outlet", "create", "--to", "5000"]), "/service/outlet");
    let second = home.ok(&["tcp-outlet", "create", "--to", "5001"]);
    let name = second.strip_prefix("/service/").unwrap_or_else(|| panic!("{second}"));
    assert!(!name.is_empty() && !name.starts_with("outlet"), "{second}");

    home.ok(&["tcp-outlet", "create", "--from", "db", "--to", "5002"]);
    home.fails(&["tcp-outlet", "create", "--from", "db", "--to", "5003"], 1).says("db");
    assert_eq!(home.json(&["tcp-outlet", "show", "db"])["to"], "127.0.0.1:5002", "the first stays as it was");

    let to = ["--to", "/node/elsewhere/service/db"];
    home.ok(&[&["tcp-inlet", "create", "--alias", "db", "--from", "127.0.0.1:0"], &to[..]].concat());
    let before = home.inlet("db");
    home.fails(&[&["tcp-inlet", "create", "--alias", "db", "--from", "127.0.0.1:0"], &to[..]].concat(), 1).says("db");
    let taken = before.to_string();
    home.fails(&[&["tcp-inlet", "create", "--alias", "other", "--from", &taken], &to[..]].concat(), 1).says(&taken);
    assert_eq!(home.inlet("db"), before);
    assert_eq!(home.json(&["tcp-inlet", "list"]).as_array().map(Vec::len), Some(1), "what failed left nothing");

    for noun in ["tcp-outlet", "tcp-inlet"] {
        home.fails(&[noun, "show", "nothing"], 1).says("not found");
        home.fails(&[noun, "delete", "nothing", "--yes"], 1).says("not found");
    }
    home.ok(&["tcp-outlet", "delete", "db", "--yes"]);
    home.fails(&["tcp-outlet", "show", "db"], 1).says("not found");
}

/// Behaviours 11 and 16: an inlet whose outlet does not exist yet, then exists without its target, then works.
#[test]
fn an_inlet_waits_for_its_outlet_and_its_target() {
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    vendor.ok(&["node", "create", "--configuration", "{name: vendor, relay: vendor}"]);
    let (customer, inlet) = Portal::customer(&project);

    let waiting = customer.portal("service");
    assert_eq!((&waiting["ok"], &waiting["step"]), (&false.into(), &"outlet".into()), "{waiting}");
    assert_eq!(customer.json(&["tcp-inlet", "show", "service"])["status"], "Down");
    let took = refused(inlet);
    assert!(took < Duration::from_secs(3), "{took:?}");

    // The outlet appears; nothing listens at its target.
    let target = Reserved::new();
    vendor.ok(&["tcp-outlet", "create", "--from", "service", "--to", &target.port().to_string()]);
    let waiting = customer.portal("service");
    assert_eq!((&waiting["ok"], &waiting["step"]), (&false.into(), &"target".into()), "{waiting}");
    let took = refused(inlet);
    assert!(took < Duration::from_secs(1), "{took:?}");

    // The target appears.
    let _server = TcpServer::start_on(target.listen(), |mut stream| stream.write_all(b"here"));
    let mut answered = connect(inlet).expect("the inlet listens");
    let mut answer = String::new();
    answered.read_to_string(&mut answer).expect("what failed before is tried again");
    assert_eq!(answer, "here");
    assert_eq!(customer.portal("service")["ok"], true);
    assert_eq!(customer.json(&["tcp-inlet", "show", "service"])["status"], "Up");
}

/// Behaviour 12.
#[test]
fn fifty_megabytes_down_and_up() {
    const SIZE: u64 = 50_000_000;
    // The server sends its pattern and checks the client's.
    let (checked, verdicts) = channel();
    let verdicts_of = Mutex::new(checked);
    let server = TcpServer::start(move |stream| {
        let sender = stream.try_clone()?;
        let sent = thread::spawn(move || {
            std::io::copy(&mut Pattern::new(1, SIZE), &mut &sender)?;
            sender.shutdown(Shutdown::Write)
        });
        let verdict = Pattern::new(2, SIZE).check(&mut &stream);
        sent.join().expect("the sender does not panic")?;
        let _ = verdicts_of.lock().expect("no panic").send(verdict);
        Ok(())
    });
    let portal = Portal::to(POSTERN, server.port());
    let stream = connect(portal.inlet).expect("the inlet listens");
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            std::io::copy(&mut Pattern::new(2, SIZE), &mut &stream).expect("all is taken");
            stream.shutdown(Shutdown::Write).expect("an end");
        });
        Pattern::new(1, SIZE).check(&mut &stream).expect("50 MB down");
    });
    verdicts.recv_timeout(PATIENCE).expect("the server gets to its end").expect("50 MB up");
    println!("50 MB down and up at once in {:?}", begun.elapsed());
}

/// 10 GiB each way at once, every byte compared as it comes. Where `POSTERN_TEST_LONG` is set; `POSTERN_BINARY` runs another build.
#[test]
fn ten_gibibytes_both_ways() {
    if std::env::var_os("POSTERN_TEST_LONG").is_none() {
        postern_test_support::skipped("POSTERN_TEST_LONG is not set");
        return;
    }
    const SIZE: u64 = 10 << 30;
    /// A connection on which nothing comes for this long is a failure; all of it may take many times as long.
    const STANDSTILL: Duration = Duration::from_secs(60);
    let (checked, verdicts) = channel();
    let checked = Mutex::new(checked);
    let both = |stream: &TcpStream, sends: u64, takes: u64| {
        stream.set_read_timeout(Some(STANDSTILL))?;
        stream.set_write_timeout(Some(STANDSTILL))?;
        thread::scope(|scope| {
            let sent = scope.spawn(move || {
                let mut stream = stream;
                std::io::copy(&mut Pattern::new(sends, SIZE), &mut stream)?;
                stream.shutdown(Shutdown::Write)
            });
            let mut stream = stream;
            let taken = Pattern::new(takes, SIZE).check(&mut stream);
            sent.join().expect("no panic").and(taken)
        })
    };
    let server = TcpServer::start(move |stream| {
        let verdict = both(&stream, 11, 12);
        let _ = checked.lock().expect("no panic").send(verdict);
        Ok(())
    });
    let portal = Portal::to(postern_test_support::binary_or(POSTERN), server.port());
    let before = portal.resident();
    let stream = connect(portal.inlet).expect("the inlet listens");
    let begun = Instant::now();
    both(&stream, 12, 11).expect("10 GiB, and the end");
    verdicts.recv_timeout(PATIENCE).expect("the server gets to its end").expect("10 GiB, and the end");
    let took = begun.elapsed();
    let after = portal.resident();
    println!("10 GiB each way in {took:?}, {} MiB/s each way", (SIZE / MIB) as f64 / took.as_secs_f64());
    println!("resident memory of inlet node, relay and outlet node: {before:?} before, {after:?} after");
    for (before, after) in before.iter().zip(after) {
        assert!(after < before + 64 * MIB, "{before} bytes of memory before, {after} after");
    }
}

/// Behaviour 12: TLS between the applications passes through untouched, so the client sees the server's own certificate.
#[test]
fn tls_of_the_application_passes_through() {
    for program in ["openssl", "curl"] {
        if Command::new(program).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            postern_test_support::skipped(format_args!("the program `{program}` is not installed"));
            return;
        }
    }
    let port = Reserved::new();
    let portal = Portal::to(POSTERN, port.port());
    let directory = portal.vendor.scratch();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
    let port = port.release();
    let mut server = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-key", "key.pem", "-cert", "cert.pem", "-accept", &format!("127.0.0.1:{port}")])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    eventually(PATIENCE, "the TLS server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "30", "--noproxy", "*", "--cacert", "cert.pem"])
        .arg(format!("https://localhost:{}/", portal.inlet.port()))
        .current_dir(directory)
        .output();
    let _ = server.kill();
    let _ = server.wait();
    let output = output.expect("curl runs");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && page.contains("s_server"), "{output:?}");
}

/// Behaviour 13.
#[test]
fn the_peer_comes_later() {
    let server = EchoServer::start();
    let project = Project::new(POSTERN);
    let (customer, inlet) = Portal::customer(&project);
    let waiting = customer.portal("service");
    assert_eq!((&waiting["ok"], &waiting["step"]), (&false.into(), &"peer".into()), "{waiting}");
    assert!(echoes(inlet, b"too early").is_err());
    let _vendor = Portal::vendor(&project, server.port());
    let up = Instant::now();
    eventually(Duration::from_secs(5), "traffic within 5 s of the peer being up", || echoes(inlet, b"hello").ok());
    println!("traffic {:?} after the peer was up", up.elapsed());
}

/// Behaviour 14.
#[test]
fn the_outlet_node_is_killed_and_comes_back() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let live = live(portal.inlet);

    portal.vendor.kill(portal.vendor.node_pid("vendor"));
    let (end, took) = end_of(&live, PATIENCE);
    assert!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "a live stream is reset, never ended cleanly");
    assert!(took < Duration::from_secs(3), "a live stream was reset after {took:?}");
    let begun = Instant::now();
    assert!(echoes(portal.inlet, b"gone").is_err());
    assert!(begun.elapsed() < Duration::from_secs(3), "a new connection failed after {:?}", begun.elapsed());

    portal.vendor.ok(&["node", "start", "vendor"]);
    let up = Instant::now();
    eventually(Duration::from_secs(5), "the inlet recovers by itself", || echoes(portal.inlet, b"again").ok());
    println!("recovered {:?} after the node was back", up.elapsed());
}

/// A portal all whose links pass a network that the test rules.
fn portal_behind_a_proxy(target: u16) -> (Proxy, Portal) {
    let proxy = Proxy::start();
    let servers = Reserved::new().release();
    proxy.point_at(SocketAddr::from(([127, 0, 0, 1], servers)));
    let admin = TestHome::new(POSTERN);
    admin.ok(&["enroll", "--listen", &format!("127.0.0.1:{servers}"), "--advertise", &proxy.address.to_string()]);
    (proxy, Portal::in_project(Project::of(admin), target))
}

fn relay_status(home: &TestHome) -> String {
    home.json(&["relay", "show", "vendor"])["connection_status"].as_str().unwrap_or_default().to_owned()
}

/// Behaviour 15, where the network says so.
#[test]
fn the_link_to_the_relay_is_cut() {
    let server = EchoServer::start();
    let (proxy, portal) = portal_behind_a_proxy(server.port());
    let live = live(portal.inlet);

    proxy.cut();
    let cut = Instant::now();
    eventually(Duration::from_secs(15), "the relay shows as down", || (relay_status(&portal.vendor) == "Down").then_some(()));
    println!("shown as down {:?} after the cut", cut.elapsed());
    assert!(echoes(portal.inlet, b"cut").is_err());

    proxy.restore();
    let restored = Instant::now();
    // The back-off is 15 s at most.
    eventually(PATIENCE, "the relay shows as up", || (relay_status(&portal.vendor) == "Up").then_some(()));
    eventually(PATIENCE, "traffic", || echoes(portal.inlet, b"after").ok());
    println!("up and carrying {:?} after the network was back", restored.elapsed());
    assert_no_clean_end(live);
}

/// Behaviour 15, where the network says nothing any more.
#[test]
fn the_link_to_the_relay_falls_silent() {
    let server = EchoServer::start();
    let (proxy, portal) = portal_behind_a_proxy(server.port());
    let live = live(portal.inlet);

    proxy.silence();
    let silent = Instant::now();
    let margin = Duration::from_secs(2);
    eventually(Duration::from_secs(15) + margin, "the relay shows as down", || {
        (relay_status(&portal.vendor) == "Down").then_some(())
    });
    let noticed = silent.elapsed();
    assert!(noticed < Duration::from_secs(15) + margin, "noticed after {noticed:?}");
    println!("shown as down {noticed:?} after the silence began");

    proxy.restore();
    eventually(PATIENCE, "the relay shows as up", || (relay_status(&portal.vendor) == "Up").then_some(()));
    eventually(PATIENCE, "traffic", || echoes(portal.inlet, b"after").ok());
    assert_no_clean_end(live);
}

/// A stream that lost its link either goes on or is reset. It never ends as if the peer had ended it.
#[track_caller]
fn assert_no_clean_end(mut live: TcpStream) {
    if live.write_all(b"pong").is_ok() {
        match live.read(&mut [0; 4]) {
            Ok(count) => assert_ne!(count, 0, "a stream that lost its link ended cleanly"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

/// Behaviour 16: a client that has asked and ended its side gets all of a long answer.
#[test]
fn half_close() {
    const ANSWER: u64 = 20 * MIB;
    let server = TcpServer::start(|mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        assert_eq!(question, "tell me everything");
        std::io::copy(&mut Pattern::new(3, ANSWER), &mut stream)?;
        stream.shutdown(Shutdown::Write)
    });
    let portal = Portal::to(POSTERN, server.port());
    for _ in 0..3 {
        let mut stream = connect(portal.inlet).expect("the inlet listens");
        stream.write_all(b"tell me everything").expect("it is taken");
        stream.shutdown(Shutdown::Write).expect("an end");
        Pattern::new(3, ANSWER).check(&mut stream).expect("all of the answer");
    }
}

/// Behaviour 16: a reset at either application is a reset at the other, at once.
#[test]
fn resets_are_resets() {
    let (ended, ends) = channel();
    let ended = Mutex::new(ended);
    let server = TcpServer::start(move |mut stream| {
        let mut word = [0; 5];
        stream.read_exact(&mut word)?;
        stream.write_all(&word)?;
        if &word == b"reset" {
            // Bytes shortly before a reset may be lost, here as without Postern; so it waits until they have arrived.
            stream.read_exact(&mut [0])?;
            reset(&stream);
            return Ok(());
        }
        let end = stream.read(&mut word).map_err(|error| error.kind());
        let _ = ended.lock().expect("no panic").send((end, Instant::now()));
        Ok(())
    });
    let portal = Portal::to(POSTERN, server.port());
    let said = |word: &[u8; 5]| {
        let mut stream = connect(portal.inlet).expect("the inlet listens");
        stream.write_all(word).expect("it is taken");
        stream.read_exact(&mut [0; 5]).expect("the answer");
        stream
    };
    let stream = said(b"going");
    let begun = Instant::now();
    reset(&stream);
    let (end, at) = ends.recv_timeout(PATIENCE).expect("the backend sees an end");
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "a reset is no clean end");
    assert!(at - begun < Duration::from_secs(1), "the backend saw it after {:?}", at - begun);

    let mut stream = said(b"reset");
    stream.write_all(b"!").expect("it is taken");
    let (end, took) = end_of(&stream, PATIENCE);
    assert!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "a reset is no clean end");
    assert!(took < Duration::from_secs(1), "the client saw it after {took:?}");
}

/// Behaviour 16: also where the backend has long stopped to read, so that everything on the way is full.
#[test]
fn a_reset_passes_what_is_full() {
    let (reached, backends) = channel();
    let reached = Mutex::new(reached);
    let server = TcpServer::start(move |stream| {
        let _ = reached.lock().expect("no panic").send(stream);
        Ok(())
    });
    let portal = Portal::to(POSTERN, server.port());
    let stream = connect(portal.inlet).expect("the inlet listens");
    let flooded = AtomicU64::new(0);
    let backend = thread::scope(|scope| {
        scope.spawn(|| flood(&stream, &flooded));
        let backend = backends.recv_timeout(PATIENCE).expect("the backend is reached");
        wait_until_still(&flooded);
        reset(&stream);
        backend
    });
    eventually(Duration::from_secs(1), "the backend's connection is reset", || {
        backend.take_error().expect("a socket").filter(|error| error.kind() == ErrorKind::ConnectionReset)
    });
}

/// Behaviour 16a: both sides send 64 MiB, and the server reads nothing before it has sent all of it.
#[test]
fn a_server_that_answers_before_it_reads() {
    const SIZE: u64 = 64 * MIB;
    let (checked, verdicts) = channel();
    let checked = Mutex::new(checked);
    let server = TcpServer::start(move |stream| {
        let sent = std::io::copy(&mut Pattern::new(4, SIZE), &mut &stream);
        let verdict = sent.and_then(|_| Pattern::new(5, SIZE).check(&mut &stream));
        stream.shutdown(Shutdown::Write)?;
        let _ = checked.lock().expect("no panic").send(verdict);
        Ok(())
    });
    let portal = Portal::to(POSTERN, server.port());
    let stream = connect(portal.inlet).expect("the inlet listens");
    thread::scope(|scope| {
        scope.spawn(|| {
            std::io::copy(&mut Pattern::new(5, SIZE), &mut &stream).expect("the upload completes");
            stream.shutdown(Shutdown::Write).expect("an end");
        });
        Pattern::new(4, SIZE).check(&mut &stream).expect("the answer completes");
    });
    verdicts.recv_timeout(PATIENCE).expect("the server gets to its end").expect("the upload is whole");
}

/// Behaviour 16a: a reader that pauses loses nothing. The pause is 20 s, longer than every deadline for what does not answer;
/// `POSTERN_TEST_PAUSE` (seconds) makes it as long as one likes.
#[test]
fn a_reader_that_pauses() {
    const SIZE: u64 = 64 * MIB;
    let pause = std::env::var("POSTERN_TEST_PAUSE").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let server = TcpServer::start(|stream| {
        stream.set_write_timeout(None)?;
        std::io::copy(&mut Pattern::new(6, SIZE), &mut &stream)?;
        stream.shutdown(Shutdown::Write)
    });
    let portal = Portal::to(POSTERN, server.port());
    let stream = connect(portal.inlet).expect("the inlet listens");
    let mut expected = Pattern::new(6, SIZE);
    let mut first = vec![0; 4 * MIB as usize];
    (&stream).read_exact(&mut first).expect("the beginning");
    expected.check_piece(&first).expect("the beginning");
    // Others are served meanwhile, and nothing happens to this one.
    holds(Duration::from_secs(pause), "the connection lives", || stream.take_error().is_ok_and(|error| error.is_none()));
    expected.check(&mut &stream).expect("all the rest");
}

/// Behaviour 17: readers that stall, at either end, hold up nobody else, and cost no more than what they were granted.
#[test]
fn stalled_readers_hold_up_nobody() {
    const STALLED: u64 = 3;
    /// A stream's largest window.
    const WINDOW: u64 = 16 * MIB;
    const SIZE: u64 = 48 * MIB;
    let flooded = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&flooded);
    // The client's first byte says what the server does: send a pattern, flood, or read nothing.
    let server = TcpServer::start(move |mut stream| {
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        match &kind {
            b"p" => {
                std::io::copy(&mut Pattern::new(7, SIZE), &mut stream)?;
                stream.shutdown(Shutdown::Write)
            }
            b"f" => flood(&stream, &counted),
            // Until the test's process ends.
            _ => loop {
                thread::park();
            },
        }
    });
    let portal = Portal::to(POSTERN, server.port());
    let begin = |kind: &[u8; 1]| {
        let mut stream = connect(portal.inlet).expect("the inlet listens");
        stream.write_all(kind).expect("it is taken");
        stream
    };
    let download = || {
        let begun = Instant::now();
        Pattern::new(7, SIZE).check(&mut begin(b"p")).expect("a whole download");
        begun.elapsed()
    };
    download();
    // The fastest of a few, because the machine has other things to do.
    let alone = (0..3).map(|_| download()).min().expect("three");
    let before = portal.resident();
    let clients: Vec<TcpStream> = (0..STALLED)
        .map(|_| {
            let mut stream = begin(b"f");
            // It begins to read, and then stops.
            stream.read_exact(&mut vec![0; MIB as usize]).expect("a flood");
            stream
        })
        .collect();
    let servers: Vec<TcpStream> = (0..STALLED)
        .map(|_| {
            let stream = begin(b"s");
            let (flooding, counted) = (stream.try_clone().expect("a handle"), Arc::clone(&flooded));
            thread::spawn(move || flood(&flooding, &counted));
            stream
        })
        .collect();
    wait_until_still(&flooded);
    let during = (0..4).map(|_| download()).min().expect("four");
    println!("{SIZE} bytes in {alone:?} alone, in {during:?} beside {} stalled readers", 2 * STALLED);
    assert!(during < 2 * alone + Duration::from_millis(200), "{during:?} beside stalled readers, {alone:?} alone");
    for ((process, before), after) in ["inlet node", "relay", "outlet node"].iter().zip(before).zip(portal.resident()) {
        let grown = after.saturating_sub(before);
        println!("{process}: {} MiB more", grown / MIB);
        assert!(grown < STALLED * WINDOW + 32 * MIB, "the {process} grew by {} MiB", grown / MIB);
    }
    clients.iter().chain(&servers).for_each(reset);
}

/// Writes until the peer has gone, and counts.
fn flood(mut stream: &TcpStream, count: &AtomicU64) -> std::io::Result<()> {
    stream.set_write_timeout(None)?;
    let chunk = vec![b'x'; 64 << 10];
    loop {
        count.fetch_add(stream.write(&chunk)? as u64, Ordering::Relaxed);
    }
}

/// Waits until a counter has stood still for a second.
#[track_caller]
fn wait_until_still(counter: &AtomicU64) {
    let mut last = (counter.load(Ordering::Relaxed), Instant::now());
    eventually(PATIENCE, "the flood stands still", || {
        let now = counter.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
}
