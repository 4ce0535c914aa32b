//! Who may use what, from a user's side: attributes, policies on both ends, their changes on live nodes, and reasons that can be read.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use postern_test_support::{
    EchoServer, HttpServer, Outcome, PATIENCE, Project, Reserved, TestHome, Value, echoes, eventually, http_get, json, live,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A stream that is no longer allowed ends within this, from when the command has returned.
const CUT: Duration = Duration::from_secs(1);

/// What a busy machine may add: less than the promise once more.
const SLACK: Duration = Duration::from_millis(500);

const SAAS: &str = "\
relay: saas-relay

tcp-outlet:
  from: saas
  to: $HTTP_SERVER
  allow: inlet-to-saas

policy:
  resource-type: tcp-inlet
  allow: outlet-from-saas
";

const CUSTOMER: &str = "\
relay: $RELAY

tcp-inlet:
  from: $FROM
  via: saas-relay
  to: saas
  allow: outlet-to-saas

tcp-outlet:
  from: github
  to: $GITHUB_ADDRESS
  allow: inlet-from-saas

policy:
  resource-type: tcp-outlet
  allow: inlet-from-saas
";

#[track_caller]
fn passes(address: &str) {
    eventually(PATIENCE, "bytes through the portal", || echoes(address, b"there and back").ok());
}

#[track_caller]
fn refused(address: &str) {
    let error = echoes(address, b"there and back").expect_err("bytes passed a portal that is closed to them");
    assert!(error.kind() != std::io::ErrorKind::WouldBlock && error.kind() != std::io::ErrorKind::TimedOut, "it hangs: {error}");
}

/// What `status` says of the portal.
#[track_caller]
fn portal(home: &TestHome, alias: &str) -> Value {
    let status = home.run(&["status"]).json();
    let portals = status["portals"].as_array().unwrap();
    portals.iter().find(|portal| portal["inlet"] == alias).unwrap_or_else(|| panic!("{alias} is not in {status}")).clone()
}

/// Waits for the end of the connection, which must be an error: only the peer's own end is clean.
#[track_caller]
fn is_cut(mut stream: TcpStream, since: Instant) {
    let error = stream.read(&mut [0; 1]).expect_err("a clean end of a stream that was cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    assert!(since.elapsed() < CUT + SLACK, "cut after {:?}", since.elapsed());
}

/// Vendor and customer of the scenario, as in the documentation; returns them with the customer's inlet.
struct Scenario {
    project: Project,
    vendor: TestHome,
    customer: TestHome,
    inlet: String,
    vendor_service: HttpServer,
    customer_service: HttpServer,
}

impl Scenario {
    #[track_caller]
    fn new() -> Self {
        let project = Project::new(POSTERN);
        let (vendor_service, customer_service) = (HttpServer::start("the vendor's"), HttpServer::start("the customer's"));
        let vendor = project.stranger();
        let ticket = project.ticket(&[
            "--expires-in",
            "24h",
            "--usage-count",
            "1",
            "--attribute",
            "outlet-to-saas",
            "--attribute",
            "inlet-from-saas",
            "--relay",
            "saas-relay",
            "--enroller",
        ]);
        vendor.file("saas.ticket", ticket);
        vendor.file("saas.yaml", SAAS);
        let address = format!("HTTP_SERVER={}", vendor_service.address());
        vendor.ok(&["node", "create", "saas.yaml", "--enrollment-ticket", "saas.ticket", "--variable", &address]);

        let customer = project.stranger();
        let acme = vendor.ok(&[
            "project",
            "ticket",
            "--expires-in",
            "24h",
            "--usage-count",
            "1",
            "--attribute",
            "inlet-to-saas",
            "--attribute",
            "outlet-from-saas",
            "--relay",
            "acme-relay",
        ]);
        customer.file("acme.ticket", acme);
        customer.file("customer.yaml", CUSTOMER);
        let address = format!("GITHUB_ADDRESS={}", customer_service.address());
        let port = Reserved::new();
        let inlet = format!("0.0.0.0:{}", port.port());
        let from = format!("FROM={inlet}");
        let port = port.release();
        customer.ok(&[
            "node",
            "create",
            "customer.yaml",
            "--enrollment-ticket",
            "acme.ticket",
            "--variable",
            "RELAY=acme-relay",
            "--variable",
            &address,
            "--variable",
            &from,
        ]);
        let inlet = format!("127.0.0.1:{port}");
        Self { project, vendor, customer, inlet, vendor_service, customer_service }
    }
}

// Behaviours 19 and 25.
#[test]
fn the_scenario_admits_the_right_peers_and_nobody_else() {
    let Scenario { project, vendor, customer, inlet, vendor_service, customer_service } = Scenario::new();
    assert_eq!(http_get(inlet.as_str(), "/").unwrap().text(), "the vendor's");

    let port = Reserved::new();
    let from = format!("0.0.0.0:{}", port.port());
    customer.ok(&["tcp-outlet", "create", "--from", "jira", "--to", "jira.local:443"]);
    let port = port.release();
    vendor.ok(&["tcp-inlet", "create", "--from", &from, "--via", "acme-relay", "--to", "github"]);
    let back = eventually(PATIENCE, "the way back", || http_get(("127.0.0.1", port), "/").ok());
    assert_eq!(back.text(), "the customer's");
    let alias = customer.json(&["tcp-inlet", "list"])[0]["alias"].as_str().unwrap().to_owned();
    assert_eq!(portal(&customer, &alias)["ok"], true);

    // A third member, with other attributes and a relay name of its own.
    let third = project.member(&["--attribute", "something-else", "--relay", "third-relay"]);
    let decoy = EchoServer::start();
    third.ok(&["relay", "create", "third-relay"]);
    third.ok(&["tcp-outlet", "create", "--from", "github", "--to", &decoy.port().to_string()]);
    let seen = (vendor_service.accepted(), customer_service.accepted());
    for (alias, via, to) in [("s", "saas-relay", "saas"), ("g", "acme-relay", "github")] {
        // Where it may send to is its own affair; who may reach them is theirs.
        let address = third.ok(&["tcp-inlet", "create", "--alias", alias, "--via", via, "--to", to]);
        refused(&address);
        let told = portal(&third, alias);
        assert!(told["ok"] == false && told["reason"].is_string() && told["code"].is_string(), "{told}");
        assert!(!told.to_string().contains("inlet-to-saas"), "a stranger is told what it lacks: {told}");
    }
    assert_eq!((vendor_service.accepted(), customer_service.accepted()), seen);
    // The operators of the refusing nodes can read which term failed.
    let node = |home: &TestHome| home.json(&["node", "show"])["name"].as_str().unwrap().to_owned();
    for (home, term) in [(&vendor, "inlet-to-saas"), (&customer, "inlet-from-saas")] {
        eventually(PATIENCE, "the reason in the log", || home.node_log(&node(home)).contains(term).then_some(()));
    }

    // And the other end: the vendor's inlets send only to who has `outlet-from-saas`.
    let address = vendor.ok(&["tcp-inlet", "create", "--alias", "t", "--via", "third-relay", "--to", "github"]);
    refused(&address);
    let told = portal(&vendor, "t");
    assert!(told["ok"] == false && told["reason"].as_str().unwrap().contains("outlet-from-saas"), "{told}");
    assert_eq!(decoy.accepted(), 0);
    assert_eq!(http_get(inlet.as_str(), "/").unwrap().text(), "the vendor's");
}

/// Two nodes in the administrator's home, and a portal between them.
struct Pair {
    project: Project,
    peer: TestHome,
    inlet: String,
    echo: EchoServer,
}

impl Pair {
    /// An outlet `e` under the relay name `r` of the administrator's node, and an inlet `i` of another member with `attributes`.
    #[track_caller]
    fn new(attributes: &[&str]) -> Self {
        let project = Project::new(POSTERN);
        let echo = EchoServer::start();
        let flags: Vec<&str> = attributes.iter().flat_map(|attribute| ["--attribute", attribute]).collect();
        let peer = project.member(&flags);
        project.ok(&["relay", "create", "r"]);
        project.ok(&["tcp-outlet", "create", "--from", "e", "--to", &echo.port().to_string()]);
        let inlet = peer.ok(&["tcp-inlet", "create", "--alias", "i", "--via", "r", "--to", "e"]);
        Self { project, peer, inlet, echo }
    }

    #[track_caller]
    fn policy(&self, target: &[&str], expression: &str) -> Outcome {
        self.project.invoke(["policy", "create"]).args(target).args(["--allow", expression]).run().success()
    }
}

// Behaviour 20.
#[test]
fn a_changed_type_policy_cuts_at_once() {
    let pair = Pair::new(&["a"]);
    let of_type = ["--resource-type", "tcp-outlet"];
    passes(&pair.inlet);

    let open = live(pair.inlet.as_str());
    pair.policy(&of_type, "b");
    is_cut(open, Instant::now());
    let seen = pair.echo.accepted();
    refused(&pair.inlet);
    assert_eq!(pair.echo.accepted(), seen);
    let told = portal(&pair.peer, "i");
    assert_eq!(told["ok"], false, "{told}");

    pair.policy(&of_type, "a");
    passes(&pair.inlet);

    // It survives a restart, in both states.
    pair.policy(&of_type, "b");
    pair.project.ok(&["node", "stop"]);
    pair.project.ok(&["node", "start"]);
    eventually(PATIENCE, "the node to be found again", || {
        (pair.project.json(&["relay", "show", "r"])["connection_status"] == "Up").then_some(())
    });
    refused(&pair.inlet);
    assert_eq!(pair.echo.accepted(), seen + 1);
    pair.project.ok(&["policy", "delete", "--resource-type", "tcp-outlet", "-y"]);
    passes(&pair.inlet);
}

// The same at the other end.
#[test]
fn a_changed_policy_of_an_inlet_cuts_at_once() {
    let pair = Pair::new(&["a"]);
    let open = live(pair.inlet.as_str());
    pair.peer.ok(&["policy", "create", "--resource", "i", "--allow", "nobody-has-this"]);
    is_cut(open, Instant::now());
    let seen = pair.echo.accepted();
    refused(&pair.inlet);
    assert_eq!(pair.echo.accepted(), seen);
    let told = portal(&pair.peer, "i");
    assert!(told["reason"].as_str().unwrap().contains("nobody-has-this"), "{told}");
    pair.peer.ok(&["policy", "delete", "--resource", "i", "-y"]);
    passes(&pair.inlet);
}

// Behaviour 21.
#[test]
fn a_missing_attribute_on_either_side_is_refused() {
    let pair = Pair::new(&["a", "region=eu"]);
    let resource = ["--resource", "e"];
    for (expression, allowed) in [
        ("a", true),
        ("missing", false),
        ("missing or a", true),
        ("a and missing", false),
        ("not banned", true),
        ("not a", false),
        ("region = \"eu\"", true),
        ("region = \"us\"", false),
        ("(= subject.region \"eu\")", true),
        ("(and (= subject.a \"true\") (not (exists? subject.missing)))", true),
        ("(member? subject.region [\"us\" \"eu\"])", true),
        ("subject.has_credential", true),
    ] {
        pair.policy(&resource, expression);
        if allowed { passes(&pair.inlet) } else { refused(&pair.inlet) }
    }
    // The administrator, who runs the outlet, has no attribute either.
    pair.peer.ok(&["tcp-inlet", "create", "--alias", "j", "--via", "r", "--to", "e", "--allow", "outlet-attribute"]);
    let address = pair.peer.json(&["tcp-inlet", "show", "j"])["bind_addr"].as_str().unwrap().to_owned();
    refused(&address);
    assert!(portal(&pair.peer, "j")["reason"].as_str().unwrap().contains("outlet-attribute"));
}

// Behaviour 21.
#[test]
fn a_malformed_expression_is_refused_where_it_is_written() {
    let home = TestHome::new(POSTERN);
    home.ok(&["node", "create", "n"]);
    // A name that nothing has may come later, and may be a slip.
    home.run(&["policy", "create", "--resource", "slip", "--allow", "a"]).success().says("no outlet or inlet `slip`");
    home.ok(&["policy", "delete", "slip", "-y"]);
    let outcome = home.run(&["policy", "create", "--resource", "x", "--allow", "a and and b"]);
    assert!([2, 78].contains(&outcome.status), "{outcome:?}");
    // The text, and a caret under the second `and`.
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let shown = lines
        .iter()
        .position(|line| line.contains("a and and b") && !line.contains("--allow"))
        .unwrap_or_else(|| panic!("{outcome:?}"));
    let caret = lines[shown + 1..].iter().find_map(|line| line.find('^')).unwrap_or_else(|| panic!("{outcome:?}"));
    assert_eq!(caret, lines[shown].find("a and and b").unwrap() + "a and ".len(), "{outcome:?}");
    assert_eq!(home.json(&["policy", "list"]), json!([]));

    for wrong in ["(unknown? subject.a)", "(= subject.a", "subject.a < 3 and", "(< subject.a true)"] {
        let outcome = home.run(&["tcp-outlet", "create", "--to", "5432", "--allow", wrong]);
        assert!([2, 78].contains(&outcome.status), "{outcome:?}");
    }
    let yaml = "name: m\ntcp-outlet:\n  to: 5432\n  allow: a and and b\n";
    home.fails(&["node", "create", "--configuration", yaml], 78).says(":4:");
    assert_eq!(home.json(&["tcp-outlet", "list"]), json!([]));
}

// Behaviour 22.
#[test]
fn a_relay_name_is_claimed_only_with_permission() {
    let project = Project::new(POSTERN);
    let without = project.member(&[]);
    without.fails(&["relay", "create", "A"], 77).says("A");
    assert_eq!(without.json(&["relay", "list"]), json!([]));
    let yaml = "{name: y, relay: A}";
    without.fails(&["node", "create", "--configuration", yaml], 77);
    assert!(!without.ok(&["node", "list"]).contains("\"y\""));

    let with = project.member(&["--relay", "A"]);
    assert_eq!(with.ok(&["relay", "create", "A"]), "/service/forward_to_A");
    eventually(PATIENCE, "the relay", || (with.json(&["relay", "show", "A"])["connection_status"] == "Up").then_some(()));
    with.fails(&["relay", "create", "B"], 77).says("B");
    // A name that it holds is held.
    with.ok(&["relay", "create", "A"]);

    let any = project.member(&["--relay", "*"]);
    any.ok(&["relay", "create", "C"]);
    any.fails(&["relay", "create", "A"], 77);
}

#[test]
fn which_policy_applies_and_where_it_comes_from() {
    let home = TestHome::new(POSTERN);
    home.ok(&["node", "create", "n"]);
    home.ok(&["tcp-outlet", "create", "--from", "plain", "--to", "5432"]);
    home.ok(&["tcp-outlet", "create", "--from", "own", "--to", "5432", "--allow", "a or b"]);
    let show = |name: &str| home.json(&["policy", "show", "--resource", name]);

    let default = show("plain");
    assert_eq!((&default["source"], &default["expression"]), (&json!("default"), &json!("subject.has_credential")));
    assert_eq!(default.get("resource"), None);
    let own = show("own");
    assert_eq!(own["expression"], "(or (= subject.a \"true\") (= subject.b \"true\"))");
    assert_eq!((&own["source"], &own["resource"]), (&json!("own"), &json!("own")));

    home.ok(&["policy", "create", "--resource-type", "tcp-outlet", "--expression", "c"]);
    let of_type = show("plain");
    assert_eq!((&of_type["source"], &of_type["expression"]), (&json!("type"), &json!("(= subject.c \"true\")")));
    assert_eq!(show("own")["source"], "own");
    // A type's name is the type.
    home.ok(&["policy", "create", "--resource", "tcp-outlet", "--allow", "d"]);
    let shown = home.json(&["policy", "show", "--resource-type", "tcp-outlet"]);
    assert_eq!((&shown["resource_type"], &shown["expression"]), (&json!("tcp-outlet"), &json!("(= subject.d \"true\")")));
    assert_eq!(home.json(&["policy", "show", "tcp-outlet"]), shown);
    let listed = home.json(&["policy", "list"]);
    assert!(listed.as_array().unwrap().contains(&shown), "{listed}");

    home.ok(&["policy", "delete", "tcp-outlet", "-y"]);
    home.fails(&["policy", "delete", "tcp-outlet", "-y"], 1).says("not found");
    assert_eq!(show("plain")["source"], "default");
    home.fails(&["policy", "create", "--resource-type", "nonsense", "--allow", "a"], 2);

    // Policies come back with the node, and starting it resets none.
    let of_relays = home.run(&["policy", "create", "--resource-type", "relay", "--allow", "e"]).success();
    let of_relays = of_relays.says("decides nothing: relay names are granted by tickets");
    assert_eq!(of_relays.line(), "(= subject.e \"true\")");
    let listed = home.run(&["--output", "plain", "policy", "list"]).success();
    listed.says("the policy of relay decides nothing: relay names are granted by tickets");
    home.ok(&["policy", "create", "--resource", "plain", "--allow", "f"]);
    let before = home.json(&["policy", "list"]);
    home.ok(&["node", "stop"]);
    home.ok(&["node", "start"]);
    assert_eq!(home.json(&["policy", "list"]), before);
    let status = home.run(&["status", "--output", "plain"]);
    assert!(!status.stdout.is_empty(), "{status:?}");
}

#[test]
fn what_is_open_to_every_member_is_said() {
    let pair = Pair::new(&[]);
    passes(&pair.inlet);
    let list = pair.project.run(&["policy", "list", "--output", "plain"]);
    let show = pair.project.run(&["policy", "show", "e", "--output", "plain"]).success();
    let said = format!("{list:?}{show:?}");
    assert!(said.contains("open to every member"), "{said}");
}
