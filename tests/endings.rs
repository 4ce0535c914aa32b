//! Every way in which a TCP connection can end, through a portal: what both applications see is what they see with plain TCP. The cases
//! stand in `tests/support`, where the bench takes them for other programs. (Behaviour 16.)

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_test_support::{
    ENDINGS, EchoServer, EndingServer, PATIENCE, Patience, Project, Reserved, TcpServer, TestHome, connect, echoes, eventually,
    nobody_there, refused, reset,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A refusal reaches the client as fast as the network and the target say it.
const SOON: Duration = Duration::from_secs(1);

/// When a stream without a path is given up (`resume-timeout`), where nothing else is set.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// How late a late answer is: `POSTERN_TEST_PAUSE` (seconds) makes it as late as one likes.
fn patience() -> Patience {
    let pause = std::env::var("POSTERN_TEST_PAUSE").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let usual = Patience::default();
    Patience { pause: pause.unwrap_or(usual.pause), step: PATIENCE }
}

/// Tries all of them twice, so that the second time streams use the paths of those before them.
#[track_caller]
fn all_endings(server: &EndingServer, inlet: SocketAddr) {
    for round in 1..=2 {
        for ending in ENDINGS {
            let tried = server.tries(ending, inlet, patience());
            tried.unwrap_or_else(|fault| panic!("{}, round {round}: {fault}", ending.name));
        }
    }
}

/// A member's inlets by relay, or directly, to the outlets of `vendor`.
#[track_caller]
fn inlets<const N: usize>(project: &Project, to: [String; N]) -> (TestHome, [SocketAddr; N]) {
    let customer = project.member(&[]);
    let addresses = to.map(|to| {
        let flags = ["tcp-inlet", "create", "--to", &to];
        let by_relay: &[&str] = if to.starts_with('/') { &[] } else { &["--via", "vendor"] };
        customer.ok(&[&flags[..], by_relay].concat()).parse().expect("an address")
    });
    (customer, addresses)
}

#[test]
fn as_with_plain_tcp_by_relay_and_directly() {
    let server = EndingServer::start();
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    let configuration = format!(
        "{{name: vendor, relay: vendor, tcp-listener-address: '127.0.0.1:0', tcp-outlet: {{from: service, to: {}}}}}",
        server.address().port()
    );
    vendor.ok(&["node", "create", "--configuration", &configuration]);
    let listener = vendor.json(&["node", "show", "vendor"])["tcp_listener_address"].as_str().expect("an address").to_owned();
    let listener: SocketAddr = listener.parse().expect("an address");
    let direct = format!("/ip4/127.0.0.1/tcp/{}/service/service", listener.port());
    let (_customer, [by_relay, directly]) = inlets(&project, ["service".to_owned(), direct]);
    all_endings(&server, by_relay);
    all_endings(&server, directly);
}

#[test]
fn a_target_that_is_not_there() {
    let nobody = Reserved::new();
    // A group of machines: for TCP, Linux says at once that there is no way to one. (A machine that is not there would be looked for first.)
    let nowhere: SocketAddr = "224.0.0.1:9".parse().expect("an address");
    let has_no_way = TcpStream::connect_timeout(&nowhere, SOON)
        .is_err_and(|error| matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable));
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    let outlets = format!("{{refuses: {{to: {}}}, nowhere: {{to: '{nowhere}'}}}}", nobody.port());
    vendor.ok(&["node", "create", "--configuration", &format!("{{name: vendor, relay: vendor, tcp-outlets: {outlets}}}")]);
    let (customer, [refuses, unreachable, missing]) =
        inlets(&project, ["refuses".to_owned(), "nowhere".to_owned(), "missing".to_owned()]);
    eventually(PATIENCE, "the portal's target is asked", || (customer.run(&["status"]).stdout.contains("target")).then_some(()));
    for (what, inlet) in
        [("refuses", refuses), ("is not told from one that is denied", missing), ("cannot be reached", unreachable)]
    {
        if inlet == unreachable && !has_no_way {
            postern_test_support::skipped(format_args!("this system does not say that it has no way to {nowhere}"));
            continue;
        }
        // The first one has to make the channel.
        nobody_there(inlet, patience()).unwrap_or_else(|fault| panic!("a target that {what}: {fault}"));
        let took = nobody_there(inlet, patience()).unwrap_or_else(|fault| panic!("a target that {what}: {fault}"));
        println!("a target that {what}: the client's connection broke after {took:?}");
        assert!(took < SOON, "a target that {what}: {took:?}");
        assert!(echoes(inlet, b"nobody").is_err());
    }
}

/// What a node writes last on a path is lost where the path is closed with something unread on it. The target must not wait for that.
#[test]
fn a_client_that_breaks_off_while_its_target_sends() {
    let held = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&held);
    let server = TcpServer::start(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        while stream.write_all(&[7; 16 * 1024]).is_ok() {}
        counted.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    });
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    vendor.ok(&[
        "node",
        "create",
        "--configuration",
        &format!("{{name: vendor, relay: vendor, tcp-outlet: {{to: {}}}}}", server.port()),
    ]);
    let (_customer, [inlet]) = inlets(&project, ["outlet".to_owned()]);
    for read in [0, 1, 1_000, 500_000].into_iter().cycle().take(100) {
        let mut client = connect(inlet).expect("the inlet listens");
        client.write_all(b"x").expect("the inlet takes it");
        client.read_exact(&mut vec![0; read]).expect("the target sends");
        reset(&client);
    }
    // Long before a stream without a path is given up.
    let none = || (held.load(Ordering::Relaxed) == 0).then_some(());
    eventually(GIVEN_UP / 4, "every target has seen its client break off", none);
}

/// B2: what a target does to its own stream is done to no other one, and arrives as it is.
#[test]
fn targets_that_misbehave() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let takes_all = TcpServer::start(move |mut stream| {
        let taken = std::io::copy(&mut stream, &mut std::io::sink());
        counted.fetch_add(1, Ordering::Relaxed);
        taken.map(drop)
    });
    // A byte, and no more before it is answered.
    let drips = TcpServer::start(|mut stream| {
        let mut answer = [0; 1];
        loop {
            stream.write_all(b".")?;
            stream.read_exact(&mut answer)?;
        }
    });
    let closes = TcpServer::start(|_| Ok(()));
    let breaks = TcpServer::start(|stream| {
        reset(&stream);
        Ok(())
    });
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    let echo = EchoServer::start();
    let targets = [
        ("takes-all", takes_all.port()),
        ("drips", drips.port()),
        ("closes", closes.port()),
        ("breaks", breaks.port()),
        ("echo", echo.port()),
    ];
    let outlets = targets.map(|(name, port)| format!("{name}: {{to: {port}}}")).join(", ");
    vendor.ok(&["node", "create", "--configuration", &format!("{{name: vendor, relay: vendor, tcp-outlets: {{{outlets}}}}}")]);
    let (_customer, [takes_all, drips, closes, breaks, echo]) = inlets(&project, targets.map(|(name, _)| name.to_owned()));
    eventually(PATIENCE, "bytes through the portal", || echoes(echo, b"there and back").ok());

    let mut unanswered = connect(takes_all).expect("the inlet listens");
    unanswered.write_all(&[1; 100_000]).expect("the target takes it");
    let mut dripping = connect(drips).expect("the inlet listens");
    for _ in 0..20 {
        let mut byte = [0; 1];
        dripping.read_exact(&mut byte).expect("a byte comes when it is sent");
        dripping.write_all(&byte).expect("it is taken");
        assert!(echoes(echo, b"meanwhile").is_ok(), "a target that is slow with its own stream");
    }
    assert_eq!(connect(closes).expect("the inlet listens").read(&mut [0; 1]).expect("a clean end"), 0);
    refused(breaks);
    assert_eq!(ended.load(Ordering::Relaxed), 0, "it waits for more");
    unanswered.set_nonblocking(true).expect("a socket");
    let nothing = unanswered.read(&mut [0; 1]).expect_err("nothing came");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    drop(unanswered);
    eventually(SOON, "the target hears that its client is gone", || (ended.load(Ordering::Relaxed) == 1).then_some(()));
}

/// B5: a target that never answers. In the usual run with a clock of its own: `node/src/engine/outlet_target.rs`.
#[test]
fn a_target_that_never_answers() {
    if std::env::var_os("POSTERN_TEST_LONG").is_none() {
        postern_test_support::skipped("POSTERN_TEST_LONG is not set");
        return;
    }
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let made = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&made, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listen(&made, 0).expect("it listens");
    let silent = std::net::TcpListener::from(made);
    let target = silent.local_addr().expect("an address");
    // The kernel takes no more than fit the queue of who does not accept them.
    let _queued = connect(target).expect("the first one fits");
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    let configuration = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: silent, to: '{target}'}}}}");
    vendor.ok(&["node", "create", "--configuration", &configuration]);
    let (customer, [inlet]) = inlets(&project, ["silent".to_owned()]);
    let took = refused(inlet);
    assert!((10..13).contains(&took.as_secs()), "{took:?}");
    let status = customer.run(&["status"]).exits(1).json();
    let portal = &status["portals"][0];
    assert_eq!((&portal["step"], &portal["code"]), (&"target".into(), &"TARGET_TIMEOUT".into()), "{portal}");
    let refusals = vendor.json(&["explain"]);
    let reason = refusals[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("did not answer within 10 s"), "{reason}");
}

/// B4: the target of an outlet is an inlet of another process, which leads back to the outlet. Each connection ends, and nothing goes on
/// without it.
#[test]
fn a_circle_over_two_processes() {
    let port = Reserved::new();
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "vendor"]);
    let configuration = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: on, to: {}}}}}", port.port());
    vendor.ok(&["node", "create", "--configuration", &configuration]);
    let customer = project.member(&[]);
    let from = format!("127.0.0.1:{}", port.release());
    let inlet = customer.ok(&["tcp-inlet", "create", "--alias", "back", "--from", &from, "--via", "vendor", "--to", "on"]);
    let is_found =
        |home: &TestHome| home.json(&["explain"]).as_array().is_some_and(|all| all.iter().any(|row| row["code"] == "LOOP"));
    eventually(PATIENCE, "the circle is refused", || {
        refused(inlet.as_str());
        is_found(&vendor).then_some(())
    });
    let connections = || customer.json(&["tcp-inlet", "show", "back"])["outlets"][0]["connections"].as_u64();
    let before = connections();
    assert!(before.is_some());
    postern_test_support::holds(Duration::from_millis(500), "no connection makes another one", || connections() == before);
}
