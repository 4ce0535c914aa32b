//! Projects with several relays, and relay names with several nodes, between real processes.

use std::time::{Duration, Instant};

use postern_test_support::{EchoServer, PATIENCE, Portal, Project, RelayServer, TestHome, echoes, eventually};

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
    second.kill();
    connections("with one");
    portal.vendor.registered_at("vendor", 1);
    second.start();
    portal.vendor.registered_at("vendor", 2);
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
