//! Replacing keys between real processes: nobody is cut off, what was away follows, and what is retired or rolled back is refused.

use postern_test_support::{
    EchoServer, PATIENCE, Portal, Project, RelayServer, TestHome, Value, echoes, eventually, live, pings,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// The keys that sign credentials as `home` has heard, with their states.
fn keys(home: &TestHome) -> Vec<(String, String)> {
    let shown = home.json(&["project", "show"]);
    let text = |key: &Value, name: &str| key[name].as_str().expect("text").to_owned();
    let keys = shown["signing_keys"].as_array().expect("keys");
    keys.iter().map(|key| (text(key, "key"), text(key, "state"))).collect()
}

fn states(home: &TestHome) -> Vec<String> {
    keys(home).into_iter().map(|(_, state)| state).collect()
}

fn hears(home: &TestHome, expected: &[&str]) {
    eventually(PATIENCE, "the keys of the project", || (states(home) == expected).then_some(()));
}

/// Retires once the nodes that run have renewed.
fn retire(admin: &TestHome) {
    let retired = eventually(PATIENCE, "credentials by the new key", || {
        let outcome = admin.run(&["project", "key", "retire", "-y"]);
        assert!(outcome.status == 0 || outcome.status == 75, "{outcome:?}");
        (outcome.status == 0).then_some(outcome)
    });
    assert_eq!(retired.line(), keys(admin)[0].0);
}

#[test]
fn the_signing_key_changes_and_no_stream_notices() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let relay = RelayServer::join(&portal.project);
    portal.vendor.registered_at("vendor", 2);
    let (away, inlet) = Portal::customer(&portal.project);
    let _ = live(inlet);
    away.ok(&["node", "stop", "customer"]);
    let mut stream = live(portal.inlet);
    let admin = &portal.project;
    let first = keys(admin);
    assert_eq!(states(admin), ["active"]);

    admin.fails(&["project", "key", "activate"], 1).says("prepare one first");
    admin.fails(&["project", "key", "retire", "-y"], 1).says("activate another first");
    portal.vendor.fails(&["project", "key", "prepare"], 77);
    let next = admin.ok(&["project", "key", "prepare"]);
    assert_eq!(admin.ok(&["project", "key", "prepare"]), next, "again: the same");
    for home in [&portal.vendor, &portal.customer] {
        hears(home, &["active", "prepared"]);
    }
    assert!(pings(&mut stream));

    assert_eq!(admin.ok(&["project", "key", "activate"]), next);
    for home in [&portal.vendor, &portal.customer] {
        hears(home, &["replaced", "active"]);
    }
    assert!(pings(&mut stream) && echoes(portal.inlet, b"between").is_ok());
    // The node that is away has nothing else; it is waited for, or left to the time when it comes.
    let waits = admin.fails(&["project", "key", "retire", "-y"], 75);
    assert!(waits.stderr.contains(&first[0].0) && waits.stderr.contains("--force"), "{waits:?}");

    // It never saw the key being prepared, and goes on as if it had.
    away.ok(&["node", "start", "customer"]);
    eventually(PATIENCE, "the node that was away", || echoes(inlet, b"back").ok());
    retire(admin);
    for home in [&portal.vendor, &portal.customer, &away] {
        hears(home, &["active"]);
        assert_eq!(keys(home)[0].0, next);
    }
    assert!(pings(&mut stream), "it lived through all of it");
    for inlet in [portal.inlet, inlet] {
        let mut fresh = live(inlet);
        assert!(pings(&mut fresh));
    }
    portal.vendor.registered_at("vendor", 2);
    let rows = admin.json(&["audit", "list"]);
    let done = rows.as_array().expect("rows").iter().filter(|row| row["result"] == "ok");
    let acts: Vec<&str> = done.filter_map(|row| row["action"].as_str()).filter(|act| act.ends_with("-key")).collect();
    assert_eq!(acts, ["prepare-key", "activate-key", "retire-key"]);
    drop(relay);
}

#[test]
fn a_node_that_was_away_through_the_whole_change_comes_back() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let _ = live(portal.inlet);
    let stopped = portal.customer.node_pid("customer");
    portal.customer.kill(stopped);
    let admin = &portal.project;
    for _ in 0..2 {
        admin.ok(&["project", "key", "prepare"]);
        admin.ok(&["project", "key", "activate"]);
        // A stolen key is not waited for.
        admin.ok(&["project", "key", "retire", "--force", "-y"]);
    }
    assert_eq!(states(&portal.customer), ["active"]);
    assert_ne!(keys(&portal.customer), keys(admin), "it knows the first key alone");
    // Those that stayed have renewed what they had, and serve.
    let (_other, inlet) = Portal::customer(admin);
    let mut others = live(inlet);
    portal.customer.ok(&["node", "start", "customer"]);
    eventually(PATIENCE, "the node that was away", || echoes(portal.inlet, b"back").ok());
    assert_eq!(keys(&portal.customer), keys(admin));
    assert!(pings(&mut others));
}

fn changes(home: &TestHome) -> u64 {
    home.json(&["identity", "show", "default"])["changes"].as_u64().expect("a number")
}

fn change_rows(admin: &TestHome, identifier: &str) -> Vec<(String, String)> {
    let rows = admin.json(&["audit", "list", "--action", "change-identity"]);
    let of = |row: &&Value| row["subject"] == identifier;
    let text = |row: &Value, name: &str| row[name].as_str().expect("text").to_owned();
    rows.as_array().expect("rows").iter().filter(of).map(|row| (text(row, "result"), text(row, "reason"))).collect()
}

#[test]
fn an_identity_gets_another_key_and_stays_who_it_is() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let mut stream = live(portal.inlet);
    let (home, admin) = (&portal.customer, &portal.project);
    let identifier = home.json(&["identity", "show", "default"])["identifier"].as_str().expect("text").to_owned();
    let file = home.path().join("identities/default/identity");
    let stolen = std::fs::read(&file).unwrap();

    let rotated = home.run(&["identity", "rotate"]).success();
    assert_eq!((rotated.line(), changes(home)), (identifier.as_str(), 1));
    assert!(rotated.stderr.contains("the authority knows it"), "{rotated:?}");
    assert_eq!(change_rows(admin, &identifier), [("ok".to_owned(), "renewed".to_owned())]);
    assert!(pings(&mut stream) && echoes(portal.inlet, b"new").is_ok());

    // The running node takes it when it connects next, and a node that starts has it.
    admin.ok(&["serve", "stop"]);
    admin.ok(&["enroll"]);
    let connected =
        |home: &TestHome| home.run(&["status", "--output", "json"]).json()["nodes"][0]["waiting"] == Value::Array(Vec::new());
    eventually(PATIENCE, "the authority again", || connected(home).then_some(()));
    assert!(pings(&mut stream), "it outlived the servers too");
    home.ok(&["node", "stop", "customer"]);
    home.ok(&["node", "start", "customer"]);
    eventually(PATIENCE, "bytes", || echoes(portal.inlet, b"restarted").ok());

    // A copy of before, and one that forks: both are refused, and told in the audit.
    let fresh = std::fs::read(&file).unwrap();
    std::fs::write(&file, &stolen).unwrap();
    home.fails(&["project-member", "list"], 77).says("rolled back");
    home.fails(&["identity", "rotate"], 77).says("forked");
    std::fs::write(&file, &fresh).unwrap();
    home.ok(&["identity", "rotate", "default"]);
    let rows = change_rows(admin, &identifier);
    assert_eq!(rows.iter().filter(|(result, _)| result == "ok").count(), 2, "{rows:?}");
    let refused: Vec<&str> = rows.iter().filter(|(result, _)| result == "refused").map(|(_, reason)| reason.as_str()).collect();
    assert!(refused.iter().any(|reason| reason.contains("rolled back")), "{refused:?}");
    eventually(PATIENCE, "bytes", || echoes(portal.inlet, b"still").ok());
    let listed = admin.json(&["project-member", "list"]);
    assert!(listed.as_array().expect("rows").iter().any(|row| row["identifier"] == identifier.as_str()));
}

#[test]
fn a_stolen_identity_is_worth_nothing_once_its_key_was_replaced() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let (home, admin) = (&portal.vendor, &portal.project);
    let mut stream = live(portal.inlet);
    home.ok(&["identity", "rotate", "--compromised"]);
    // Everything that was issued before is void; the true nodes have new ones at once, and show them.
    eventually(PATIENCE, "newer credentials at the peer", || {
        portal.customer.node_log("customer").contains("the peer renewed its credential").then_some(())
    });
    assert!(pings(&mut stream), "streams go on\n{}", home.node_log("vendor"));
    eventually(PATIENCE, "new connections", || echoes(portal.inlet, b"new").ok());
    let identifier = home.json(&["identity", "show", "default"])["identifier"].as_str().expect("text").to_owned();
    assert_eq!(change_rows(admin, &identifier), [("ok".to_owned(), "compromised; 0 of its tickets revoked".to_owned())]);
}

#[test]
fn a_relay_server_gets_another_identity_key_and_keeps_serving() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let mut stream = live(portal.inlet);
    let rotated = portal.project.run(&["identity", "rotate", "--relay"]).success();
    assert!(rotated.stderr.contains("the authority knows it"), "{rotated:?}");
    assert_eq!(change_rows(&portal.project, rotated.line()), [("ok".to_owned(), "renewed".to_owned())]);
    assert!(pings(&mut stream) && echoes(portal.inlet, b"new").is_ok());
    portal.project.ok(&["serve", "stop"]);
    portal.project.ok(&["enroll"]);
    eventually(PATIENCE, "bytes after a restart", || echoes(portal.inlet, b"restarted").ok());
    assert_eq!(change_rows(&portal.project, rotated.line()).len(), 1, "nothing is refused");
    portal.customer.fails(&["identity", "rotate", "--relay"], 78);
}

/// Says how long a static key is shown.
const PERIOD: &str = "POSTERN_STATIC_KEY_PERIOD";

/// Short enough to see several.
const SHORT: &str = "3s";

/// A portal whose nodes show each static key for `period`.
fn restless(target: u16, period: &str) -> Portal {
    let project = Project::new(POSTERN);
    let (vendor, customer) = (project.member(&["--relay", "vendor"]), project.member(&[]));
    let create = |home: &TestHome, configuration: &str| {
        home.invoke(["node", "create", "--configuration", configuration]).env(PERIOD, period).run().success();
    };
    create(&vendor, &format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: service, to: {target}}}}}"));
    create(&customer, "{name: customer, tcp-inlet: {alias: service, from: '127.0.0.1:0', via: vendor, to: service}}");
    let inlet = customer.inlet("service");
    Portal { inlet, customer, vendor, project }
}

/// How often the node `name` of `home` has shown another static key since its log began.
fn changes_of(home: &TestHome, name: &str) -> usize {
    shown(&home.node_log(name))
}

#[test]
fn static_keys_change_by_themselves_and_no_stream_notices() {
    let server = EchoServer::start();
    let portal = restless(server.port(), SHORT);
    let (customer, vendor) = (&portal.customer, &portal.vendor);
    let mut stream = live(portal.inlet);
    let (mut tried, mut failed) = (0, Vec::new());
    eventually(PATIENCE, "three changes at both nodes", || {
        assert!(pings(&mut stream), "{}\n{}", customer.node_log("customer"), vendor.node_log("vendor"));
        tried += 1;
        if let Err(error) = echoes(portal.inlet, b"new") {
            failed.push(error);
        }
        (changes_of(customer, "customer") >= 3 && changes_of(vendor, "vendor") >= 3).then_some(())
    });
    assert!(failed.is_empty(), "{failed:?} of {tried}\n{}\n{}", customer.node_log("customer"), vendor.node_log("vendor"));
    assert!(pings(&mut stream));
    // What was issued for the keys of before is not taken for nodes that are away.
    let other = portal.project.member(&[]);
    let gone = other.json(&["identity", "show", "default"])["identifier"].as_str().expect("text").to_owned();
    eventually(PATIENCE, "a revocation that everybody enforces", || {
        let told = portal.project.json(&["project-member", "update", &gone, "--attribute", "a", "--wait", "--output", "json"]);
        portal.project.ok(&["project-member", "update", &gone, "--no-attributes"]);
        (told["enforcement"]["offline"] == 0).then_some(())
    });
}

#[test]
fn a_channel_with_the_key_before_shows_new_credentials() {
    let server = EchoServer::start();
    let portal = restless(server.port(), "8s");
    let identifier = portal.vendor.json(&["identity", "show", "default"])["identifier"].as_str().expect("text").to_owned();
    let mut stream = live(portal.inlet);
    let begun = changes_of(&portal.vendor, "vendor");
    eventually(PATIENCE, "another key", || (changes_of(&portal.vendor, "vendor") > begun).then_some(()));
    // All that was issued is void, and what takes its place is for another key than the stream's channel has.
    // It is enforced when the newer one was shown, or the stream is gone.
    portal.project.ok(&["project-member", "update", &identifier, "--attribute", "zone=lab", "--wait"]);
    assert!(portal.customer.node_log("customer").contains("the peer renewed its credential"));
    assert!(pings(&mut stream), "{}\n{}", portal.customer.node_log("customer"), portal.vendor.node_log("vendor"));
}

#[test]
fn a_node_that_is_killed_while_keys_change_has_good_ones() {
    let server = EchoServer::start();
    let portal = restless(server.port(), SHORT);
    let (home, file) = (&portal.vendor, portal.vendor.path().join("nodes/vendor/static"));
    let _ = live(portal.inlet);
    for round in 0..4 {
        // At any moment of a change: around the time when the file is another one.
        let before = std::fs::read(&file).unwrap();
        eventually(PATIENCE, "another file", || (std::fs::read(&file).unwrap() != before).then_some(()));
        home.kill(home.node_pid("vendor"));
        home.invoke(["node", "start", "vendor"]).env(PERIOD, SHORT).run().success();
        eventually(PATIENCE, "bytes after a kill", || echoes(portal.inlet, b"again").ok());
        assert!(std::fs::read(&file).unwrap().len() > 64, "round {round}");
    }
}

/// How often a process has shown another static key, by its log.
fn shown(log: &str) -> usize {
    log.matches("another static key is shown").count()
}

#[test]
fn relays_show_other_keys_and_nobody_is_cut_off() {
    let server = EchoServer::start();
    let admin = TestHome::new(POSTERN);
    admin.invoke(["enroll"]).env(PERIOD, SHORT).run().success();
    let portal = Portal::in_project(Project::of(admin), server.port());
    let relay = RelayServer::join_with(&portal.project, &[(PERIOD, SHORT)]);
    portal.vendor.registered_at("vendor", 2);
    let mut stream = live(portal.inlet);
    let changed = |times: usize, what: &str| {
        let begun = (shown(&portal.project.servers_log()), shown(&relay.output()));
        eventually(PATIENCE, what, || {
            let now = (shown(&portal.project.servers_log()), shown(&relay.output()));
            (now.0 >= begun.0 + times && now.1 >= begun.1 + times).then_some(())
        });
    };
    changed(3, "three changes at both relays");
    assert!(pings(&mut stream) && echoes(portal.inlet, b"new").is_ok());
    // One that was away for two of them knows keys that are almost forgotten.
    portal.customer.kill(portal.customer.node_pid("customer"));
    changed(2, "two more");
    portal.customer.ok(&["node", "start", "customer"]);
    eventually(PATIENCE, "the node that was away", || echoes(portal.inlet, b"back").ok());
    let (_other, inlet) = Portal::customer(&portal.project);
    assert!(pings(&mut live(inlet)), "and one that is new");
    portal.vendor.registered_at("vendor", 2);
    // The relay itself comes back with what it has.
    portal.project.ok(&["serve", "stop"]);
    portal.project.ok(&["enroll"]);
    portal.vendor.registered_at("vendor", 2);
    eventually(PATIENCE, "bytes", || echoes(portal.inlet, b"end").ok());
}

#[test]
fn a_relay_is_followed_over_two_keys_while_the_authority_is_away() {
    let server = EchoServer::start();
    let portal = Portal::to(POSTERN, server.port());
    let mut relay = RelayServer::join_with(&portal.project, &[(PERIOD, "8s")]);
    portal.vendor.registered_at("vendor", 2);
    eventually(PATIENCE, "bytes", || echoes(portal.inlet, b"new").ok());
    portal.project.ok(&["serve", "stop"]);
    let begun = shown(&relay.output());
    eventually(PATIENCE, "two changes", || (shown(&relay.output()) >= begun + 2).then_some(()));
    // All that nodes know of it is the key before the one before, and the one that came behind it.
    relay.kill();
    relay.start();
    eventually(PATIENCE, "bytes again", || echoes(portal.inlet, b"again").ok());
}

/// The guide's way to other keys of the authority itself: another project, to which members move with an identity of their own for it.
#[test]
fn members_move_to_a_project_with_another_authority() {
    let (old, new) = (Project::new(POSTERN), Project::new(POSTERN));
    let echo = EchoServer::start();
    for project in [&old, &new] {
        project.ok(&["relay", "create", "r"]);
        project.ok(&["tcp-outlet", "create", "--from", "e", "--to", &echo.port().to_string()]);
    }
    let home = old.stranger();
    home.file("node.yaml", "name: n\ntcp-inlet: {alias: i, from: '127.0.0.1:0', via: r, to: e}\n");
    let node = |project: &Project, more: &[&str]| {
        home.file("join.ticket", project.ticket(&[]));
        home.ok(&[&["node", "create", "node.yaml", "--enrollment-ticket", "join.ticket"], more].concat());
        eventually(PATIENCE, "bytes", || echoes(home.inlet("i"), b"there and back").ok());
    };
    node(&old, &[]);
    home.ok(&["node", "delete", "--all", "-y"]);
    old.ok(&["serve", "stop"]);
    node(&new, &["--identity", "second"]);
    home.ok(&["identity", "delete", "default", "-y"]);
    let authority = |home: &TestHome| home.json(&["project", "show"])["authority_identifier"].clone();
    assert_eq!(authority(&home), authority(&new));
    assert!(authority(&home).is_string());
}
