//! Projects with several relays, and relay names with several nodes, between real processes.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postern_test_support::{
    EchoServer, PATIENCE, Portal, Project, RelayServer, Reserved, TcpServer, TestHome, Value, connect, echoes, eventually, json,
    live, pings,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A connection that no dead relay delays takes less; a busy machine is allowed for.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn a_relay_that_is_killed_delays_no_connection() {
    let server = EchoServer::start();
    let project = Project::new(POSTERN);
    let mut second = RelayServer::join(&project);
    let portal = Portal::in_project(project, server.port());
    portal.vendor.registered_at("vendor", 2);
    eventually(PATIENCE, "bytes", || echoes(portal.inlet, b"before").ok());

    // Either of them, in turn.
    let connections = |when: &str| {
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let begun = Instant::now();
            echoes(portal.inlet, when.as_bytes()).unwrap_or_else(|error| panic!("{when}: {error}"));
            longest = longest.max(begun.elapsed());
        }
        assert!(longest < AT_ONCE, "{when}: {longest:?}");
        println!("{when}: the longest of 50 took {longest:?}");
    };
    connections("with two relays");
    let connected = format!("connected to the relay relay={}", second.address);
    second.kill();
    connections("with one");
    portal.vendor.registered_at("vendor", 1);
    second.start();
    portal.vendor.registered_at("vendor", 2);
    let again = || (portal.customer.node_log("customer").matches(&connected).count() == 2).then_some(());
    eventually(PATIENCE, "the customer's node is connected to it again, too", again);
    // The other's process is the authority's, too.
    portal.project.kill(portal.project.servers_pid());
    connections("with the other");
}

#[test]
fn any_two_nodes_meet_at_one_of_many_relays() {
    let server = EchoServer::start();
    let project = Project::new(POSTERN);
    let relays: Vec<RelayServer> = (0..4).map(|_| RelayServer::join(&project)).collect();
    let vendor = project.member(&["--relay", "*"]);
    vendor.ok(&["node", "create", "vendor"]);
    vendor.ok(&["tcp-outlet", "create", "--from", "service", "--to", &server.port().to_string()]);
    // One name at all relays, which are three of five; and one at each of four, of which two or three are no other node's.
    vendor.ok(&["relay", "create", "all"]);
    vendor.registered_at("all", 3);
    for (number, relay) in relays.iter().enumerate() {
        vendor.ok(&["relay", "create", &format!("only-{number}"), "--at", &relay.address]);
    }
    let customer = project.member(&[]);
    for name in ["all", "only-0", "only-1", "only-2", "only-3"] {
        let inlet = customer.ok(&["tcp-inlet", "create", "--alias", name, "--via", name, "--to", "service"]);
        eventually(PATIENCE, name, || echoes(inlet.as_str(), name.as_bytes()).ok());
    }
}

#[test]
fn a_node_beside_its_servers_needs_no_address_that_others_are_told() {
    let server = EchoServer::start();
    let home = TestHome::new(POSTERN);
    home.ok(&["enroll", "--advertise", "gate.invalid"]);
    home.ok(&["tcp-outlet", "create", "--to", &server.port().to_string()]);
    home.ok(&["relay", "create"]);
    let inlet = home.ok(&["tcp-inlet", "create", "--from", "127.0.0.1:0"]);
    eventually(PATIENCE, "bytes", || echoes(inlet.as_str(), b"here").ok());
    assert_eq!(home.json(&["relay", "show", "default"])["servers"][0]["status"], "Up");
}

/// A service that answers each connection with one byte, and ends.
fn says(byte: u8) -> TcpServer {
    TcpServer::start(move |mut stream| stream.write_all(&[byte]))
}

/// What the service behind the inlet says.
fn asked(inlet: &str) -> std::io::Result<u8> {
    let mut answer = Vec::new();
    connect(inlet)?.read_to_end(&mut answer)?;
    answer.first().copied().ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// Of `count` connections, how many each of the services answered.
#[track_caller]
fn split<const N: usize>(inlet: &str, count: usize, services: [u8; N]) -> [usize; N] {
    let answers: Vec<u8> =
        (0..count).map(|number| asked(inlet).unwrap_or_else(|error| panic!("connection {number}: {error}"))).collect();
    services.map(|service| answers.iter().filter(|answer| **answer == service).count())
}

/// Two nodes of one member under the relay name `shop`, each with an outlet `service` to a service of its own, and a customer's inlet.
fn two_nodes(weights: [u16; 2]) -> (Project, TestHome, TestHome, String, [TcpServer; 2]) {
    let services = [says(b'a'), says(b'b')];
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    for (number, (service, weight)) in services.iter().zip(weights).enumerate() {
        let configuration = format!(
            "{{name: n{number}, relay: {{name: shop, weight: {weight}}}, tcp-outlet: {{from: service, to: {}}}}}",
            service.port()
        );
        vendor.ok(&["node", "create", "--configuration", &configuration]);
    }
    let customer = project.member(&[]);
    let inlet = customer.ok(&["tcp-inlet", "create", "--alias", "shop", "--via", "shop", "--to", "service"]);
    eventually(PATIENCE, "the first node", || (asked(&inlet).ok()? == b'a').then_some(()));
    eventually(PATIENCE, "the second node", || (asked(&inlet).ok()? == b'b').then_some(()));
    (project, vendor, customer, inlet, services)
}

#[test]
fn nodes_under_one_name_share_its_connections_by_weight() {
    let (_project, vendor, _customer, inlet, _services) = two_nodes([3, 1]);
    // Three quarters, give or take: a stream that ends just as the next one begins still counts.
    let three_quarters = || {
        let [first, second] = split(&inlet, 40, [b'a', b'b']);
        assert!((25..=35).contains(&first) && first + second == 40, "{first} {second}");
    };
    three_quarters();

    // One is killed: the other serves everything, from the first connection after the relay knows.
    vendor.kill(vendor.node_pid("n0"));
    eventually(PATIENCE, "the other one", || asked(&inlet).ok());
    assert_eq!(split(&inlet, 20, [b'a', b'b']), [0, 20]);
    vendor.ok(&["node", "start", "n0"]);
    eventually(PATIENCE, "the first one again", || (asked(&inlet).ok()? == b'a').then_some(()));
    three_quarters();
}

#[test]
fn a_node_that_stops_takes_no_new_streams_and_loses_none() {
    let (_project, vendor, _customer, inlet, _services) = two_nodes([1, 1]);
    let stopped = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = Vec::new();
            while !stopped.load(Ordering::Acquire) || answers.len() < 20 {
                answers.push(asked(&inlet).unwrap_or_else(|error| panic!("after {} connections: {error}", answers.len())));
            }
            answers
        });
        let stop = vendor.run(&["node", "stop", "n0"]);
        stopped.store(true, Ordering::Release);
        stop.success();
        asking.join().expect("no connection fails")
    });
    assert_eq!(answers.last(), Some(&b'b'));
    println!("{} connections while a node stopped", answers.len());
}

/// The node `stops` of a portal is told to stop: it takes nothing new, and carries what it carries for 5 s.
#[track_caller]
fn lets_its_streams_finish(stops: &str) {
    let service = EchoServer::start();
    let portal = Portal::to(POSTERN, service.port());
    let [mut ends, mut stays] = [(); 2].map(|()| live(portal.inlet));
    let home = if stops == "vendor" { &portal.vendor } else { &portal.customer };
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| home.run(&["node", "stop", stops]));
        eventually(PATIENCE, "nothing new is taken", || echoes(portal.inlet, b"new").is_err().then_some(()));
        let shown = home.json(&["node", "show", stops]);
        assert_eq!((&shown["status"], shown["pid"].is_u64()), (&json!("stopping"), true), "{shown}");
        let status = home.run(&["status", "--output", "plain"]).exits(1).stdout;
        assert!(status.contains("stopping; it lets its streams finish"), "{status}");
        assert!(pings(&mut ends) && pings(&mut stays) && !stop.is_finished(), "what lives goes on");
        ends.shutdown(Shutdown::Write).expect("an open stream");
        assert_eq!(ends.read(&mut [0]).expect("a clean end"), 0);
        assert!(pings(&mut stays) && !stop.is_finished(), "one is not done yet");
        // Nobody waits for ever.
        let error = stays.read(&mut [0]).expect_err("what was cut off must not look like an end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        stop.join().expect("a command").success();
    });
}

#[test]
fn a_node_with_outlets_that_stops_lets_its_streams_finish() {
    lets_its_streams_finish("vendor");
}

#[test]
fn a_node_with_inlets_that_stops_lets_its_streams_finish() {
    lets_its_streams_finish("customer");
}

#[test]
fn a_node_whose_service_is_away_is_passed_over_until_it_is_back() {
    let [a, b] = [says(b'a'), says(b'b')];
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    let away = Reserved::new();
    for (name, port) in [("n0", away.port()), ("n1", b.port())] {
        let configuration = format!("{{name: {name}, relay: shop, tcp-outlet: {{from: service, to: {port}}}}}");
        vendor.ok(&["node", "create", "--configuration", &configuration]);
    }
    let customer = project.member(&[]);
    let inlet = customer.ok(&["tcp-inlet", "create", "--via", "shop", "--to", "service"]);
    eventually(PATIENCE, "the one that works", || asked(&inlet).ok());
    // One connection finds out, and goes to the other.
    assert_eq!(split(&inlet, 20, [b'a', b'b']), [0, 20]);

    let _back = TcpServer::start_on(away.listen(), |mut stream| stream.write_all(b"c"));
    eventually(PATIENCE, "it is asked again", || (asked(&inlet).ok()? == b'c').then_some(()));
    drop(a);
}

/// Where one node rejects a connection, what the client has said already, and its end, go to the other one.
#[test]
fn what_was_said_early_goes_to_the_node_that_takes_it() {
    const INLETS: usize = 4;
    let (away, echo) = (Reserved::new(), EchoServer::start());
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    for (name, port) in [("n0", away.port()), ("n1", echo.port())] {
        let configuration = format!("{{name: {name}, relay: shop, tcp-outlet: {{from: service, to: {port}}}}}");
        vendor.ok(&["node", "create", "--configuration", &configuration]);
    }
    let customer = project.member(&[]);
    customer.ok(&["node", "create", "--configuration", "{name: customer}"]);
    let create = || customer.ok(&["tcp-inlet", "create", "--via", "shop", "--to", "service"]);
    eventually(PATIENCE, "the one that works", || echoes(create().as_str(), b"?").ok());
    let rejected = || {
        let refusals = customer.json(&["explain"]);
        refusals.as_array().expect("a list").iter().filter(|refusal| refusal["code"] == "TARGET_REFUSED").count()
    };
    let before = rejected();
    // Each inlet finds out for itself: one of its first two connections begins at the node whose service is away.
    for number in 0..INLETS {
        let inlet = create();
        for said in [&b"little"[..], &vec![number as u8; 200_000]] {
            echoes(inlet.as_str(), said).unwrap_or_else(|error| panic!("{} bytes by inlet {number}: {error}", said.len()));
        }
    }
    assert!(rejected() - before >= INLETS, "{} of {INLETS} inlets tried the node whose service is away", rejected() - before);
    // Each attempt is one stream, of which both its nodes have written the same.
    let refused = |home: &TestHome, node: &str| {
        let lines = home.stream_lines(node).into_iter();
        let refused = lines.filter(|line| line["decision"] == "refused" && line["stream"].is_string());
        refused.map(|line| line["stream"].to_string()).collect::<Vec<_>>()
    };
    eventually(PATIENCE, "the lines of the streams", || {
        let (here, there) = (refused(&customer, "customer"), refused(&vendor, "n0"));
        (here.len() >= INLETS && here.iter().all(|stream| there.contains(stream))).then_some(())
    });

    // What a connection would do, `status` says, too.
    (0..INLETS).for_each(|_| drop(create()));
    customer.ok(&["status"]);

    // Nobody is asked without end.
    let nowhere = ["a=1", "b=1", "c=1", "d=1", "e=1"].map(|to| ["--to", to]).concat();
    let inlet = customer.ok(&[&["tcp-inlet", "create", "--alias", "nowhere", "--via", "shop"], &nowhere[..]].concat());
    postern_test_support::refused(inlet.as_str());
    let shown = customer.json(&["explain"]);
    let tried = shown.as_array().expect("a list").iter().filter(|refusal| refusal["inlet"] == "nowhere").count();
    assert_eq!(tried, 3, "{shown}");
}

#[test]
fn an_inlet_shares_its_connections_among_outlets() {
    let [v1, v2] = [says(b'1'), says(b'2')];
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    let configuration = format!(
        "{{name: shop, relay: shop, tcp-outlets: {{ratings-v1: {{to: {}}}, ratings-v2: {{to: {}}}}}}}",
        v1.port(),
        v2.port()
    );
    vendor.ok(&["node", "create", "--configuration", &configuration]);
    let customer = project.member(&[]);
    let configuration = "
        name: customer
        tcp-inlet:
          alias: ratings
          via: shop
          to: {ratings-v1: 90, ratings-v2: 10}";
    customer.ok(&["node", "create", "--configuration", configuration]);
    let inlet = customer.inlet("ratings").to_string();
    eventually(PATIENCE, "bytes", || asked(&inlet).ok());

    let before = customer.json(&["tcp-inlet", "show", "ratings"]);
    assert_eq!(split(&inlet, 100, [b'1', b'2']), [90, 10]);
    let after = customer.json(&["tcp-inlet", "show", "ratings"]);
    let got = |number: usize| {
        let connections = |document: &Value| document["outlets"][number]["connections"].as_u64().expect("a count");
        connections(&after) - connections(&before)
    };
    assert_eq!([got(0), got(1)], [90, 10], "{after}");
    assert_eq!((&after["outlets"][1]["to"], &after["outlets"][1]["weight"]), (&json!("ratings-v2"), &json!(10)));
    let shown = customer.ok(&["tcp-inlet", "show", "ratings", "--output", "plain"]);
    assert!(shown.contains("ratings-v2: weight 10"), "{shown}");

    // By flags, it is the same; and one that is not there loses nothing.
    let flags = ["--to", "ratings-v1=1", "--to", "none=1"];
    let inlet = customer.ok(&[&["tcp-inlet", "create", "--alias", "half", "--via", "shop"], &flags[..]].concat());
    assert_eq!(split(&inlet, 10, [b'1']), [10]);
    let half = customer.json(&["tcp-inlet", "show", "half"]);
    assert_eq!(half["outlets"][1]["failing"], true, "{half}");
    assert_eq!((&half["outlets"][0]["connections"], &half["outlets"][1]["connections"]), (&json!(10), &json!(0)), "{half}");
}

#[test]
fn an_outlet_that_fails_at_all_nodes_is_passed_over() {
    let service = says(b'1');
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    for name in ["n0", "n1"] {
        let configuration = format!("{{name: {name}, relay: shop, tcp-outlet: {{from: ratings-v1, to: {}}}}}", service.port());
        vendor.ok(&["node", "create", "--configuration", &configuration]);
    }
    let customer = project.member(&[]);
    let outlets = ["--to", "ratings-v1=1", "--to", "none=1"];
    let inlet = customer.ok(&[&["tcp-inlet", "create", "--alias", "half", "--via", "shop"], &outlets[..]].concat());
    assert_eq!(split(&inlet, 10, [b'1']), [10]);
    let half = customer.json(&["tcp-inlet", "show", "half"]);
    assert_eq!((&half["outlets"][0]["failing"], &half["outlets"][1]["failing"]), (&json!(false), &json!(true)), "{half}");
    // At each node once; from then on it is asked in the background.
    let refusals = customer.json(&["explain"]);
    let refused: Vec<&Value> = refusals.as_array().expect("a list").iter().map(|refusal| &refusal["outlet"]).collect();
    assert_eq!(refused, ["none", "none"], "{refusals}");
}

/// However many outlets an inlet has, their look-ups wait together for a relay that may come back.
#[test]
fn without_a_relay_a_connection_waits_once() {
    let service = says(b'1');
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    let configuration = format!("{{name: n0, relay: shop, tcp-outlet: {{from: service, to: {}}}}}", service.port());
    vendor.ok(&["node", "create", "--configuration", &configuration]);
    let customer = project.member(&[]);
    let outlets = ["--to", "service=1", "--to", "b=1", "--to", "c=1", "--to", "d=1"];
    let inlet = customer.ok(&[&["tcp-inlet", "create", "--via", "shop"], &outlets[..]].concat());
    eventually(PATIENCE, "bytes", || asked(&inlet).ok());
    project.kill(project.servers_pid());
    // One that its node still takes for connected may be tried.
    let _ = asked(&inlet);
    let begun = Instant::now();
    assert!(asked(&inlet).is_err());
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    println!("refused after {waited:?}");
}

#[test]
fn a_relay_name_that_is_held_keeps_what_is_not_given_anew() {
    let project = Project::new(POSTERN);
    let vendor = project.member(&["--relay", "shop"]);
    vendor.ok(&["relay", "create", "shop", "--weight", "3"]);
    let at = vendor.json(&["relay", "show", "shop"])["servers"][0]["address"].as_str().expect("an address").to_owned();
    let created = |arguments: &[&str]| {
        vendor.ok(&[&["relay", "create", "shop"], arguments].concat());
        let shown = vendor.json(&["relay", "show", "shop"]);
        (shown["at"].as_str().expect("a place").to_owned(), shown["weight"].clone())
    };
    assert_eq!(created(&["--at", &at]), (at.clone(), json!(3)));
    assert_eq!(created(&["--weight", "4"]), (at.clone(), json!(4)));
    assert_eq!(created(&[]), (at.clone(), json!(4)));
    assert_eq!(created(&["--at", "/project/default", "--weight", "1"]), ("/project/default".to_owned(), json!(1)));
}

#[test]
fn a_connection_waits_for_a_peer_that_restarts_and_not_for_one_that_is_away() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    eventually(PATIENCE, "bytes", || echoes(portal.inlet, b"before").ok());
    let restarted = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echoing = scope.spawn(|| {
            let mut count = 0;
            while !restarted.load(Ordering::Acquire) {
                // A stream that is cut while it lives is another matter: only what is refused counts.
                match echoes(portal.inlet, b"while") {
                    Ok(()) => count += 1,
                    Err(error) => println!("{error}"),
                }
            }
            count
        });
        portal.vendor.kill(portal.vendor.node_pid("vendor"));
        portal.vendor.ok(&["node", "start", "vendor"]);
        portal.vendor.registered_at("vendor", 1);
        restarted.store(true, Ordering::Release);
        println!("{} connections around a restart", echoing.join().expect("no panic"));
    });
    let log = portal.customer.node_log("customer");
    assert!(!log.contains("NO_PEER"), "{log}");

    portal.vendor.kill(portal.vendor.node_pid("vendor"));
    let begun = Instant::now();
    assert!(echoes(portal.inlet, b"gone").is_err());
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(3), "{first:?}");
    eventually(Duration::from_secs(5), "a refusal at once", || {
        let begun = Instant::now();
        assert!(echoes(portal.inlet, b"gone").is_err());
        (begun.elapsed() < Duration::from_millis(200)).then_some(())
    });
    println!("refused after {first:?} at first");
}
