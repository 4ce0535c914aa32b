//! What nodes, relays and authorities tell to monitoring systems: that it is there, and that it is right.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use postern_proto::preface::Service;
use postern_test_support::{
    EchoServer, Foreground, HttpServer, PATIENCE, Project, Reserved, Signal, TcpServer, TestHome, Value, connect, echoes,
    eventually, http_get, refused, reset,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// The values of one moment, by name with labels.
#[derive(Debug)]
struct Values {
    by_name: BTreeMap<String, u64>,
    text: String,
}

impl Values {
    #[track_caller]
    fn at(address: &str) -> Self {
        let reply = http_get(address, "/metrics").expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(
            reply.head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{}",
            reply.head
        );
        let text = reply.text();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let by_name = samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
            })
            .collect();
        Self { by_name, text }
    }

    /// The value of `postern_NAME`; 0 where it is not told, as of refusals that were never given.
    fn get(&self, name: &str) -> u64 {
        self.by_name.get(&format!("postern_{name}")).copied().unwrap_or(0)
    }

    /// The sum over all labels.
    fn sum(&self, name: &str) -> u64 {
        let (bare, labelled) = (format!("postern_{name}"), format!("postern_{name}{{"));
        self.by_name.iter().filter(|(key, _)| **key == bare || key.starts_with(&labelled)).map(|(_, value)| value).sum()
    }

    #[track_caller]
    fn are(&self, expected: &[(&str, u64)]) {
        for (name, value) in expected {
            assert_eq!(self.get(name), *value, "{name}, of\n{}", self.text);
        }
    }
}

/// Servers in the foreground, and where they tell.
fn servers(home: &TestHome) -> (Foreground, String) {
    let servers = home.spawn(&["serve", "--metrics", "0"]);
    servers.line_with("serving on", PATIENCE);
    let line = servers.line_with("metrics at http://", PATIENCE);
    let address = line.split("http://").nth(1).and_then(|rest| rest.strip_suffix("/metrics")).expect("an address").to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    (servers, address)
}

/// Where the node `name` tells.
fn http_address(home: &TestHome, name: &str) -> String {
    home.json(&["node", "show", name])["http_server_address"].as_str().expect("an address").to_owned()
}

fn connected(inlet: SocketAddr) -> TcpStream {
    let mut stream = connect(inlet).expect("the inlet listens");
    stream.write_all(b"x").expect("one byte");
    stream.read_exact(&mut [0]).expect("one byte back");
    stream
}

#[test]
fn the_numbers_are_exactly_right() {
    let admin = TestHome::new(POSTERN);
    let (running, servers_at) = servers(&admin);
    admin.ok(&["enroll"]);
    let project = Project::of(admin);
    let echo = EchoServer::start();
    let nothing = Reserved::new();

    let vendor = project.member(&["--relay", "vendor"]);
    vendor.ok(&["node", "create", "--configuration", &format!(
        "{{name: vendor, relay: vendor, http-server-port: 0, tcp-outlets: {{service: {{to: {0}}}, closed: {{to: {0}, allow: nobody}}, dead: {{to: {1}}}}}}}",
        echo.port(),
        nothing.port(),
    )]);
    let customer = project.member(&[]);
    let inlet = |name: &str, to: &str, more: &str| format!("{name}: {{from: '127.0.0.1:0', via: vendor, to: {to}{more}}}");
    let inlets = [
        inlet("service", "service", ""),
        inlet("closed", "closed", ""),
        inlet("missing", "missing", ""),
        inlet("dead", "dead", ""),
        inlet("own", "service", ", allow: nobody"),
    ];
    let configuration = format!("{{name: customer, http-server-port: 0, tcp-inlets: {{{}}}}}", inlets.join(", "));
    customer.ok(&["node", "create", "--configuration", &configuration]);
    let (customer_at, vendor_at) = (http_address(&customer, "customer"), http_address(&vendor, "vendor"));

    // Three that end well, one that its client breaks off, one that is open (its byte counts already), and some that are not carried.
    let service = customer.inlet("service");
    for size in [1_000, 5_000, 70_000] {
        echoes(service, &vec![7; size]).expect("an echo");
    }
    reset(&connected(service));
    let open = connected(service);
    for name in ["closed", "missing", "dead", "own", "closed"] {
        refused(customer.inlet(name));
    }

    let settled = |at: &str, opened: u64| {
        eventually(PATIENCE, "all that has ended is counted, and one is open", || {
            let values = Values::at(at);
            let closed = values.sum("node_connections_closed_total");
            (values.sum("node_connections_opened_total") == opened && closed == opened - 1).then_some(values)
        })
    };
    let values = settled(&customer_at, 10);
    values.are(&[
        ("node_connections_opened_total{resource_type=\"tcp-inlet\",resource=\"service\"}", 5),
        ("node_connections_closed_total{resource_type=\"tcp-inlet\",resource=\"service\",cause=\"clean\"}", 3),
        ("node_connections_closed_total{resource_type=\"tcp-inlet\",resource=\"service\",cause=\"application\"}", 1),
        ("node_connections_closed_total{resource_type=\"tcp-inlet\",resource=\"closed\",cause=\"refused\"}", 2),
        ("node_connections_refused_total{resource_type=\"tcp-inlet\",resource=\"closed\",code=\"NOT_AVAILABLE\"}", 2),
        ("node_connections_refused_total{resource_type=\"tcp-inlet\",resource=\"missing\",code=\"NOT_AVAILABLE\"}", 1),
        ("node_connections_refused_total{resource_type=\"tcp-inlet\",resource=\"dead\",code=\"TARGET_REFUSED\"}", 1),
        ("node_connections_refused_total{resource_type=\"tcp-inlet\",resource=\"own\",code=\"DENIED\"}", 1),
        ("node_sent_bytes_total{resource_type=\"tcp-inlet\",resource=\"service\"}", 76_002),
        ("node_received_bytes_total{resource_type=\"tcp-inlet\",resource=\"service\"}", 76_002),
        ("node_streams", 1),
        ("node_inlet_up{resource=\"service\"}", 1),
        ("node_inlet_up{resource=\"closed\"}", 0),
        ("node_handshakes_total{part=\"initiator\",result=\"ok\"}", 1),
        ("node_handshakes_total{part=\"initiator\",result=\"failed\"}", 0),
        ("node_links_opened_total{kind=\"control\"}", 1),
        ("node_channels", 1),
        ("node_authority_connected", 1),
        ("task_panics_total", 0),
        (&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1),
    ]);
    assert_eq!(values.sum("node_connections_refused_total"), 5);
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let expires = values.get("node_credential_expiry_timestamp_seconds");
    assert!((now + 3600..now + 100_000).contains(&expires), "{expires} at {now}");

    let values = settled(&vendor_at, 5);
    values.are(&[
        ("node_connections_opened_total{resource_type=\"tcp-outlet\",resource=\"service\"}", 5),
        ("node_connections_closed_total{resource_type=\"tcp-outlet\",resource=\"service\",cause=\"clean\"}", 3),
        ("node_connections_closed_total{resource_type=\"tcp-outlet\",resource=\"service\",cause=\"peer-application\"}", 1),
        ("node_connections_refused_total{resource_type=\"tcp-outlet\",resource=\"closed\",code=\"DENIED\"}", 2),
        ("node_connections_refused_total{resource_type=\"tcp-outlet\",resource=\"\",code=\"NO_SUCH_OUTLET\"}", 1),
        ("node_connections_refused_total{resource_type=\"tcp-outlet\",resource=\"dead\",code=\"TARGET_REFUSED\"}", 1),
        ("node_sent_bytes_total{resource_type=\"tcp-outlet\",resource=\"service\"}", 76_002),
        ("node_received_bytes_total{resource_type=\"tcp-outlet\",resource=\"service\"}", 76_002),
        ("node_streams", 1),
        ("node_relay_name_up{relay_name=\"vendor\"}", 1),
        ("node_handshakes_total{part=\"responder\",result=\"ok\"}", 1),
    ]);
    assert_eq!(values.sum("node_connections_refused_total"), 4);
    assert_eq!(values.sum("node_relay_connected"), 1);
    assert!(values.get("node_links_parked") >= 2, "{}", values.text);
    drop(open);

    let values = Values::at(&servers_at);
    values.are(&[
        ("relay_sessions", 2),
        ("relay_names_registered", 1),
        ("relay_handshakes_total{result=\"ok\"}", 2),
        ("relay_handshakes_total{result=\"failed\"}", 0),
        ("authority_members", 4),
        ("authority_requests_total{request=\"issue-ticket\",result=\"ok\"}", 2),
        ("authority_requests_total{request=\"redeem-ticket\",result=\"ok\"}", 2),
        ("authority_requests_total{request=\"claim-relay-name\",result=\"ok\"}", 1),
        ("authority_handshakes_total{result=\"failed\"}", 0),
    ]);
    for refusals in ["relay_refusals_total", "authority_refusals_total"] {
        assert_eq!(values.sum(refusals), 0, "{}", values.text);
    }
    eventually(PATIENCE, "each join that was opened lives or has ended", || {
        let values = Values::at(&servers_at);
        let now = values.get("relay_joins");
        (now >= 2 && values.get("relay_joins_opened_total") == now + values.sum("relay_joins_closed_total")).then_some(())
    });
    // What applications sent, and for all of it some hundred bytes of headers, tags, opens and acknowledgements.
    for to in ["parked", "dialler"] {
        let moved = values.get(&format!("relay_forwarded_bytes_total{{to=\"{to}\"}}"));
        assert!((76_002..90_000).contains(&moved), "{to}: {moved}");
    }
    assert!(values.get("authority_signing_key_expiry_timestamp_seconds") > expires);

    // A ticket twice, a stranger at the door, and a member that is removed.
    let ticket = project.ticket(&[]);
    let (first, second) = (project.stranger(), project.stranger());
    for (home, exit) in [(&first, 0), (&second, 77)] {
        let file = home.file("ticket", &ticket);
        home.invoke(["project", "enroll"]).arg(file).run().exits(exit);
    }
    let at = project.json(&["enroll", "--output", "json"])["address"].as_str().expect("an address").to_owned();
    let mut stranger = connect(at.as_str()).expect("it listens");
    stranger.write_all(&Service::RelayControl.preface()).and_then(|()| stranger.write_all(&[0; 256])).expect("some bytes");
    // A reset is as good as an end.
    let _ = stranger.read_to_end(&mut Vec::new());
    let values = eventually(PATIENCE, "the stranger is counted", || {
        let values = Values::at(&servers_at);
        (values.get("relay_connections_dropped_total{reason=\"handshake\"}") == 1).then_some(values)
    });
    values.are(&[
        ("relay_handshakes_total{result=\"ok\"}", 2),
        ("relay_handshakes_total{result=\"failed\"}", 1),
        ("authority_requests_total{request=\"redeem-ticket\",result=\"ok\"}", 3),
        ("authority_requests_total{request=\"redeem-ticket\",result=\"refused\"}", 1),
        ("authority_refusals_total{reason=\"ticket-used-up\"}", 1),
        ("authority_members", 5),
    ]);
    let member = customer.json(&["identity", "show"])["identifier"].as_str().expect("an identifier").to_owned();
    project.ok(&["project-member", "delete", &member, "-y"]);
    let values = eventually(PATIENCE, "the removed member's node is gone", || {
        let values = Values::at(&servers_at);
        let removed = values.get("authority_sessions_closed_total{cause=\"removed\"}");
        (values.get("relay_sessions") == 1 && removed == 1).then_some(values)
    });
    // Its node goes on trying.
    assert!(values.get("relay_refusals_total{reason=\"bad-credential\"}") >= 1, "{}", values.text);
    values.are(&[("authority_requests_total{request=\"delete-member\",result=\"ok\"}", 1), ("authority_members", 4)]);
    drop((first, second, customer, vendor));
    running.signal(Signal::TERM);
    running.wait().exits(0);
}

/// Everything that the reference lists is there, and nothing else.
#[test]
fn what_is_told_is_what_the_reference_says() {
    let admin = TestHome::new(POSTERN);
    let (_running, servers_at) = servers(&admin);
    admin.ok(&["enroll"]);
    let service = HttpServer::start("hello");
    admin.ok(&["node", "create", "--configuration", &format!(
        "{{name: n, relay: n, http-server-port: 0, tcp-outlet: {{from: o, to: {}}}, tcp-inlet: {{alias: i, from: '127.0.0.1:0', via: n, to: missing}}}}",
        service.port(),
    )]);
    refused(admin.inlet("i"));
    let told: BTreeSet<String> = [servers_at, http_address(&admin, "n")]
        .iter()
        .flat_map(|at| Values::at(at).by_name.into_keys().collect::<Vec<_>>())
        .map(|name| name.split('{').next().unwrap_or_default().to_owned())
        .collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md")).expect("the page");
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `postern_")?.split_once('`')?.0))
        .map(|name| format!("postern_{name}"))
        .collect();
    assert!(listed.len() > 40, "{listed:?}");
    assert_eq!(told, listed);
}

/// The one portal of `document`: whether bytes pass, and else the step and the code.
fn portal(document: &Value) -> (bool, String, String) {
    let portal = &document["portals"][0];
    let text = |key: &str| portal[key].as_str().unwrap_or_default().to_owned();
    (portal["ok"] == true, text("step"), text("code"))
}

/// `status` and `/readyz` are a round trip, and name the step that fails: here each is broken in turn, from the target to the relay.
#[test]
fn readiness_is_a_round_trip_that_names_the_step_that_fails() {
    let project = Project::new(POSTERN);
    let target = Reserved::new();
    let vendor = project.member(&["--relay", "vendor"]);
    let configuration = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: o, to: {}}}}}", target.port());
    vendor.ok(&["node", "create", "--configuration", &configuration]);
    let customer = project.member(&[]);
    let configuration = "{name: customer, http-server-port: 0, tcp-inlet: {alias: i, from: '127.0.0.1:0', via: vendor, to: o}}";
    customer.ok(&["node", "create", "--configuration", configuration]);
    let at = http_address(&customer, "customer");
    let becomes = |ok: bool, step: &str, codes: &[&str]| {
        let as_wanted =
            |told: &(bool, String, String)| told.0 == ok && told.1 == step && (ok || codes.contains(&told.2.as_str()));
        eventually(PATIENCE, &format!("ready: {ok} {step}"), || {
            let reply = http_get(at.as_str(), "/readyz").expect("an answer");
            let told = portal(&serde_json::from_str(&reply.text()).expect("a document"));
            (as_wanted(&told) && reply.status == if ok { 200 } else { 503 }).then_some(())
        });
        let asked = customer.run(&["status"]);
        assert!(asked.status == i32::from(!ok) && as_wanted(&portal(&asked.json())), "{step} {codes:?}: {asked:?}");
    };

    becomes(false, "target", &["TARGET_REFUSED"]);
    let service = TcpServer::start_on(target.listen(), |mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    becomes(true, "", &[]);
    let dialled = service.accepted();
    customer.ok(&["status"]);
    eventually(PATIENCE, "one look dials the target once", || (service.accepted() == dialled + 1).then_some(()));

    vendor.ok(&["tcp-outlet", "delete", "o", "-y"]);
    becomes(false, "outlet", &["NOT_AVAILABLE"]);
    customer.ok(&["policy", "create", "--resource", "i", "--allow", "nobody"]);
    becomes(false, "inlet-policy", &["DENIED"]);
    customer.ok(&["policy", "delete", "--resource", "i", "-y"]);
    vendor.ok(&["node", "stop", "vendor"]);
    becomes(false, "peer", &["NO_PEER", "NOT_CONNECTED"]);
    vendor.ok(&["node", "start", "vendor"]);
    vendor.ok(&["tcp-outlet", "create", "--from", "o", "--to", &service.port().to_string()]);
    becomes(true, "", &[]);
    project.ok(&["serve", "stop"]);
    becomes(false, "relay", &["RELAY_DOWN"]);
    project.ok(&["enroll"]);
    becomes(true, "", &[]);
    customer.ok(&["node", "stop", "customer"]);
    assert_eq!(portal(&customer.fails(&["status"], 1).json()).1, "node");
}

/// Running portals do not need the authority, and so are ready without it. That it is away is told.
#[test]
fn a_node_is_ready_while_its_authority_is_away() {
    let project = Project::new(POSTERN);
    let echo = EchoServer::start();
    let outlet = format!("{{name: b, tcp-outlet: {{from: o, to: {}}}}}", echo.port());
    project.ok(&["node", "create", "--configuration", &outlet]);
    let inlet = "{name: a, http-server-port: 0, tcp-inlet: {alias: i, from: '127.0.0.1:0', to: /node/b/service/o}}";
    project.ok(&["node", "create", "--configuration", inlet]);
    let at = http_address(&project, "a");
    let ready = |away: bool| {
        eventually(PATIENCE, &format!("ready, the authority away: {away}"), || {
            let reply = http_get(at.as_str(), "/readyz").expect("an answer");
            (reply.status == 200 && reply.text().contains("AUTHORITY_DOWN") == away).then_some(())
        });
    };
    ready(false);
    project.ok(&["serve", "stop"]);
    ready(true);
    Values::at(&at).are(&[("node_authority_connected", 0), ("node_inlet_up{resource=\"i\"}", 1)]);
}

/// A home with two nodes, whose portal's target may come and go.
fn portal_to(target: &Reserved) -> TestHome {
    let home = TestHome::new(POSTERN);
    let outlet = format!("{{name: b, tcp-outlet: {{from: o, to: {}}}}}", target.port());
    home.ok(&["node", "create", "--configuration", &outlet]);
    let inlet = "{name: a, tcp-inlet: {alias: i, from: '127.0.0.1:0', to: /node/b/service/o}}";
    home.ok(&["node", "create", "--configuration", inlet]);
    home
}

#[test]
fn watching_where_nobody_reads_is_a_line_of_json_for_each_look() {
    let target = Reserved::new();
    let home = portal_to(&target);
    let watching = home.spawn(&["status", "--watch", "--interval", "100ms"]);
    let down: Value = serde_json::from_str(&watching.line_with("TARGET_REFUSED", PATIENCE)).expect("JSON");
    assert_eq!((down["api_version"].as_str(), &down["portals"][0]["step"]), (Some("1"), &Value::from("target")));
    assert!(down["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{down}");
    let _service = TcpServer::start_on(target.listen(), |_| Ok(()));
    watching.line_with("\"ok\":true", PATIENCE);
    home.ok(&["node", "stop", "b"]);
    watching.line_with("NODE_STOPPED", PATIENCE);
    watching.signal(Signal::INT);
    let ended = watching.wait().exits(0);
    assert_eq!(ended.stderr, "");
    for line in ended.stdout.lines() {
        let look: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(look["nodes"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn watching_as_text_and_its_ends() {
    let home = portal_to(&Reserved::new());
    let text = home.spawn(&["status", "--watch", "--interval", "100ms", "--output", "plain"]);
    eventually(PATIENCE, "two looks", || (text.output().matches("PORTAL").count() >= 2).then_some(()));
    text.signal(Signal::TERM);
    assert!(!text.wait().exits(0).stdout.contains('\x1b'));
    // A reader that has seen enough.
    let shell = format!("timeout 30 '{POSTERN}' status --watch --interval 100ms | head -n 1; exit ${{PIPESTATUS[0]}}");
    let piped = Command::new("bash").args(["-c", &shell]).env("POSTERN_HOME", home.path()).output().expect("bash runs");
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(String::from_utf8_lossy(&piped.stdout).lines().count(), 1);
    home.fails(&["status", "--interval", "1s"], 2);
    home.fails(&["status", "--watch", "--interval", "1ms"], 2);
}

#[test]
fn watching_on_a_terminal_draws_in_place_and_leaves_nothing_behind() {
    let home = portal_to(&Reserved::new());
    let watching = home.invoke(["status", "--watch", "--interval", "100ms"]).start_on_terminal("").expect("a terminal");
    let looks = |shown: &str| shown.matches("PORTAL").count();
    eventually(PATIENCE, "three looks", || (looks(&watching.shown()) >= 3).then_some(()));
    watching.signal(Signal::INT);
    let (status, shown) = watching.end(PATIENCE).expect("it ends");
    assert_eq!(status, 0, "{shown}");
    // Each look but the first begins by going back over all the lines of the last.
    let first = shown.split("\x1b[J").next().unwrap_or_default();
    let back = format!("\r\x1b[{}A", first.matches('\n').count());
    assert_eq!(shown.matches(&back).count() + 1, looks(&shown), "{shown:?}");
    assert!(shown.ends_with("\n\x1b[J"), "the cursor stands below: {shown:?}");
    // No other screen, no hidden cursor, no colour: nothing that would have to be put back.
    assert!(!shown.contains("\x1b[?") && !shown.contains("\x1b[3"), "{shown:?}");
}

#[test]
fn nothing_listens_that_was_not_asked_for() {
    let project = Project::new(POSTERN);
    project.ok(&["node", "create", "n"]);
    assert!(project.json(&["node", "show", "n"])["http_server_address"].is_null());
    for pid in [project.node_pid("n"), project.servers_pid()] {
        // The servers' one port; the node's for its neighbours of this machine.
        assert_eq!(listening(pid), 1, "process {pid}");
    }
}

/// On how many TCP ports a process listens.
fn listening(pid: u32) -> usize {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a process of ours")
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    // Column 4 is the state, where 0A is LISTEN; column 10 the socket.
    lines
        .filter(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(3) == Some(&"0A") && columns.get(9).is_some_and(|inode| sockets.contains(*inode))
        })
        .count()
}
