//! The scenario that Postern is for, as a user types it: a SaaS vendor and its customer reach one service of each other.
//!
//! Ports 7000 and 8000 and the names `http-server`, `github.local` and `jira.local` belong to the scenario, so what uses them runs in
//! network namespaces, which only root makes. The same with free ports runs everywhere.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use postern_test_support::{
    HttpServer, Namespace, PATIENCE, Project, TcpServer, TestHome, eventually, http_get, namespaces_unavailable,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// The files of the scenario, letter for letter.
const SAAS_YAML: &str = "\
relay: saas-relay

tcp-outlet:
  from: saas
  to: http-server:80
  allow: inlet-to-saas

policy:
  resource-type: tcp-inlet
  allow: outlet-from-saas
";

const CUSTOMER_YAML: &str = "\
relay: $RELAY

tcp-inlet:
  from: 0.0.0.0:7000
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

/// The commands of the scenario, letter for letter, by the machine on which they are typed. Tickets travel as files.
const ADMINISTRATOR: &str = r"
postern enroll
postern project ticket --expires-in 24h --usage-count 1 --attribute outlet-to-saas --attribute inlet-from-saas \
        --relay saas-relay --enroller > saas.ticket
";

const ADMINISTRATOR_ELSEWHERE: &str = r"
postern enroll --listen 10.77.0.1:4000 --advertise 10.77.0.1:4000
postern project ticket --expires-in 24h --usage-count 1 --attribute outlet-to-saas --attribute inlet-from-saas \
        --relay saas-relay --enroller > saas.ticket
";

const VENDOR: &str = r"
postern node create saas.yaml --enrollment-ticket saas.ticket
postern project ticket --expires-in 24h --usage-count 1 --attribute inlet-to-saas --attribute outlet-from-saas \
        --relay acme-relay > acme.ticket
";

const CUSTOMER: &str = r"
postern node create customer.yaml --enrollment-ticket acme.ticket --variable RELAY=acme-relay --variable GITHUB_ADDRESS=github.local:80
";

const CUSTOMER_ASKS: &str = "curl http://localhost:7000";

const CUSTOMER_OFFERS_MORE: &str = "postern tcp-outlet create --from jira --to jira.local:443";

const VENDOR_LATER: &str = "postern tcp-inlet create --from 0.0.0.0:8000 --via acme-relay --to github";

const VENDOR_ASKS: &str = "curl http://localhost:8000";

const SHORTEST: &str =
    "postern enroll && postern tcp-outlet create --to 6000 && postern relay create && postern tcp-inlet create --from 7000";

const SHORTEST_ASKS: &str = "curl --head 127.0.0.1:7000";

const FROM_VENDOR: &str = "this is the vendor's http-server\n";

const FROM_CUSTOMER: &str = "this is the customer's github\n";

/// Why what needs namespaces and `curl` is not tested here, if so.
fn impossible() -> bool {
    let curl = Command::new("curl").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let why = namespaces_unavailable().or_else(|| curl.err().map(|error| format!("the program `curl` cannot be run: {error}")));
    if let Some(why) = &why {
        postern_test_support::skipped(format_args!("{why}"));
    }
    why.is_some()
}

/// A machine: a home, and the network that its commands and nodes live in.
struct Machine<'a> {
    home: TestHome,
    network: &'a Namespace,
}

impl<'a> Machine<'a> {
    fn new(network: &'a Namespace) -> Self {
        Self { home: TestHome::new(POSTERN), network }
    }

    /// Types `script` into a shell on this machine.
    #[track_caller]
    fn types(&self, script: &str) -> Output {
        let binary = Path::new(POSTERN).parent().expect("a binary stands in a directory");
        let path = std::env::join_paths(
            std::iter::once(binary.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", script]).current_dir(self.home.scratch());
        // The environment that commands of this home have anywhere.
        for (name, value) in self.home.invoke([""; 0]).command().get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.env("PATH", path.expect("no colon in a path"));
        let mut command = self.network.around(&shell);
        let output = command.stdin(Stdio::null()).output().expect("a shell");
        assert!(output.status.success(), "{script}\n{output:?}\n{}", self.home.logs());
        output
    }

    #[track_caller]
    fn text(&self, script: &str) -> String {
        String::from_utf8(self.types(script).stdout).expect("text")
    }

    fn hands(&self, file: &str, other: &Self) {
        std::fs::copy(self.home.scratch().join(file), other.home.scratch().join(file)).expect("a file that was written");
    }
}

fn http_server(network: &Namespace, address: &str, body: &'static str) -> HttpServer {
    let listener = network.enter(|| TcpListener::bind(address)).expect("an address of the namespace");
    HttpServer::start_on(listener, body)
}

/// Everything on one host, which has a network of its own so that the ports are free.
#[test]
fn verbatim_on_one_host() {
    if impossible() {
        return;
    }
    let host = Namespace::new("host");
    // No names of this machine itself: an outlet does not follow those.
    for (address, name) in [("10.77.0.1", "http-server"), ("10.77.0.2", "github.local"), ("10.77.0.3", "jira.local")] {
        host.ip(&["address", "add", address, "dev", "lo"]).expect("an address of the host's own");
        host.add_hosts(&[(address, name)]).expect("a file below /etc/netns");
    }
    let _vendors = http_server(&host, "10.77.0.1:80", FROM_VENDOR);
    let _customers = http_server(&host, "10.77.0.2:80", FROM_CUSTOMER);
    let [administrator, vendor, customer] = [(); 3].map(|()| Machine::new(&host));
    play(ADMINISTRATOR, &administrator, &vendor, &customer);
}

/// Three companies, each in a network of its own; nothing joins vendor and customer but the relay.
#[test]
fn companies_apart() {
    if impossible() {
        return;
    }
    let [public, saas, acme] = ["public", "saas", "acme"].map(Namespace::new);
    // Nothing forwards: what reaches the public host goes no further.
    public.ip(&["addr", "add", "10.77.0.1/32", "dev", "lo"]).expect("an address");
    saas.connect("10.77.1.2/24", &public, "10.77.1.1/24");
    acme.connect("10.77.2.2/24", &public, "10.77.2.1/24");
    saas.ip(&["route", "add", "10.77.0.1/32", "via", "10.77.1.1"]).expect("a route");
    acme.ip(&["route", "add", "10.77.0.1/32", "via", "10.77.2.1"]).expect("a route");
    saas.add_hosts(&[("10.77.1.2", "http-server")]).expect("a file below /etc/netns");
    acme.add_hosts(&[("10.77.2.2", "github.local"), ("10.77.2.2", "jira.local")]).expect("a file below /etc/netns");
    let _vendors = http_server(&saas, "10.77.1.2:80", FROM_VENDOR);
    let _customers = http_server(&acme, "10.77.2.2:80", FROM_CUSTOMER);
    for (from, to) in [(&saas, "10.77.2.2:80"), (&acme, "10.77.1.2:80")] {
        let to: SocketAddr = to.parse().expect("an address");
        assert!(from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).is_err(), "nothing joins them");
    }
    let (administrator, vendor, customer) = (Machine::new(&public), Machine::new(&saas), Machine::new(&acme));
    play(ADMINISTRATOR_ELSEWHERE, &administrator, &vendor, &customer);
}

#[track_caller]
fn play(first: &str, administrator: &Machine<'_>, vendor: &Machine<'_>, customer: &Machine<'_>) {
    administrator.types(first);
    administrator.hands("saas.ticket", vendor);
    vendor.home.file("saas.yaml", SAAS_YAML);
    vendor.types(VENDOR);
    vendor.hands("acme.ticket", customer);
    customer.home.file("customer.yaml", CUSTOMER_YAML);
    customer.types(CUSTOMER);
    assert_eq!(customer.text(CUSTOMER_ASKS), FROM_VENDOR);
    assert_eq!(customer.text(CUSTOMER_OFFERS_MORE), "/service/jira\n");
    assert_eq!(vendor.text(VENDOR_LATER), "0.0.0.0:8000\n");
    assert_eq!(vendor.text(VENDOR_ASKS), FROM_CUSTOMER);
    for machine in [vendor, customer] {
        machine.types("postern status");
    }
}

/// Debian gives a machine's own name the address 127.0.1.1. Such a name is not followed, and whoever wrote it learns what to write.
#[test]
fn a_name_of_this_machine_says_what_to_write() {
    if impossible() {
        return;
    }
    let host = Namespace::new("host");
    host.add_hosts(&[("127.0.1.1", "myhost"), ("10.77.0.1", "elsewhere")]).expect("a file below /etc/netns");
    let _server = http_server(&host, "127.0.1.1:6000", FROM_VENDOR);
    let machine = Machine::new(&host);
    let said = |script: &str| String::from_utf8(machine.types(script).stderr).expect("text");
    let advice = "`myhost` means this machine itself (127.0.1.1), which a name may not lead to; write `localhost:6000` or \
                  `127.0.1.1:6000` if it is meant";
    machine.types("postern enroll");
    let configuration = "{name: n, http-server-port: 9100, tcp-outlets: {web: {to: 'myhost:6000'}, other: {to: 'elsewhere:1'}}}";
    let created = said(&format!("postern node create --configuration \"{configuration}\""));
    assert!(created.contains(advice) && !created.contains("elsewhere"), "{created}");
    let created = said("postern tcp-outlet create --from late --to MyHost:6000");
    assert!(created.contains("means this machine itself"), "{created}");
    machine.types("postern relay create && postern tcp-inlet create --from 7000 --to web");
    machine.types("! curl --fail --silent http://127.0.0.1:7000");

    // The peer is told no more than before; the outlet's side all of it, in every place.
    let json = |script: &str| -> postern_test_support::Value { machine.text(script).parse().expect("JSON") };
    let refusals = json("postern explain");
    let of = |by: &str| {
        let found = refusals.as_array().expect("a list").iter().find(|refusal| refusal["by"] == by);
        found.unwrap_or_else(|| panic!("{by}: {refusals}")).clone()
    };
    let (ours, theirs) = (of("this-node"), of("peer"));
    assert_eq!((&ours["code"], &ours["told"]), (&"TARGET_NOT_FOLLOWED".into(), &"TARGET_UNREACHABLE".into()));
    assert!(ours["reason"].as_str().is_some_and(|reason| reason.contains(advice)), "{ours}");
    assert_eq!(theirs["code"], "TARGET_UNREACHABLE");
    assert!(!theirs.to_string().contains("myhost"), "{theirs}");
    let log = machine.home.node_log("n");
    assert!(log.contains("TARGET_NOT_FOLLOWED") && log.contains("write `localhost:6000`"), "{log}");
    let metrics = machine.text("curl --fail --silent http://127.0.0.1:9100/metrics");
    assert!(metrics.contains("TARGET_NOT_FOLLOWED"), "{metrics}");
    let status = json("postern status || true");
    assert_eq!(status["portals"][0]["code"], "TARGET_UNREACHABLE");
    let unreached = &status["nodes"][0]["unreached"][0];
    assert_eq!((&unreached["outlet"], &unreached["code"]), (&"web".into(), &"TARGET_NOT_FOLLOWED".into()), "{status}");

    // What it says to write does work.
    machine.types("postern tcp-outlet delete web -y && postern tcp-outlet create --from web --to 127.0.1.1:6000");
    assert_eq!(machine.text("curl http://127.0.0.1:7000"), FROM_VENDOR);
    assert_eq!(json("postern status")["nodes"][0]["unreached"], postern_test_support::json!([]));
}

#[test]
fn the_shortest_form_verbatim() {
    if impossible() {
        return;
    }
    let host = Namespace::new("host");
    let _server = http_server(&host, "127.0.0.1:6000", FROM_VENDOR);
    let machine = Machine::new(&host);
    machine.types(SHORTEST);
    let head = machine.text(SHORTEST_ASKS);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
}

/// The scenario and a refused stranger, with ports that are free, on the network of the machine.
#[test]
fn with_free_ports() {
    let (vendors, customers) = (HttpServer::start(FROM_VENDOR), HttpServer::start(FROM_CUSTOMER));
    let project = Project::new(POSTERN);
    let vendor = project.stranger();
    let saas_ticket = vendor.file(
        "saas.ticket",
        project.ticket(&[
            "--attribute",
            "outlet-to-saas",
            "--attribute",
            "inlet-from-saas",
            "--relay",
            "saas-relay",
            "--enroller",
        ]),
    );
    let saas_yaml = vendor.file("saas.yaml", SAAS_YAML.replace("http-server:80", &vendors.address().to_string()));
    vendor.invoke(["node", "create"]).arg(saas_yaml).arg("--enrollment-ticket").arg(saas_ticket).run().success();
    // The vendor is an enroller: it makes the customer's ticket.
    let flags = ["--attribute", "inlet-to-saas", "--attribute", "outlet-from-saas", "--relay", "acme-relay"];
    let acme_ticket = vendor.invoke(["project", "ticket"]).args(flags).run().success().stdout;
    let customer = project.stranger();
    let acme_ticket = customer.file("acme.ticket", acme_ticket);
    let customer_yaml = customer.file("customer.yaml", CUSTOMER_YAML.replace("0.0.0.0:7000", "127.0.0.1:0"));
    customer
        .invoke(["node", "create"])
        .arg(&customer_yaml)
        .arg("--enrollment-ticket")
        .arg(acme_ticket)
        .args(["--variable", "RELAY=acme-relay", "--variable"])
        .arg(format!("GITHUB_ADDRESS={}", customers.address()))
        .run()
        .success();
    let inlet = only_inlet(&customer);
    assert_eq!(http_get(inlet, "/").expect("the vendor's service").text(), FROM_VENDOR);
    vendor.ok(&["tcp-inlet", "create", "--from", "127.0.0.1:0", "--via", "acme-relay", "--to", "github"]);
    assert_eq!(http_get(only_inlet(&vendor), "/").expect("the customer's service").text(), FROM_CUSTOMER);

    // A third member with other attributes reaches neither, and each side can read why.
    let stranger = project.member(&["--attribute", "something-else"]);
    for (via, to) in [("saas-relay", "saas"), ("acme-relay", "github")] {
        let alias = format!("to-{to}");
        stranger.ok(&["tcp-inlet", "create", "--alias", &alias, "--from", "127.0.0.1:0", "--via", via, "--to", to]);
        assert!(http_get(stranger.inlet(&alias), "/").is_err(), "{via} {to}");
    }
    let counts = [vendors.paths().len(), customers.paths().len()];
    assert_eq!(counts, [1, 1], "nothing of the stranger's reached a service");
    for home in [&vendor, &customer] {
        let names = home.json(&["node", "list"]);
        let name = names[0]["name"].as_str().expect("a node").to_owned();
        eventually(PATIENCE, "the reason in the log", || home.node_log(&name).contains("DENIED").then_some(()));
    }
}

#[track_caller]
fn only_inlet(home: &TestHome) -> SocketAddr {
    let inlets = home.json(&["tcp-inlet", "list"]);
    let address = inlets[0]["bind_addr"].as_str().and_then(|text| text.parse().ok());
    address.unwrap_or_else(|| panic!("no inlet in {inlets}"))
}

/// A node that reaches its own outlet through the relay, with free ports.
#[test]
fn the_shortest_form_with_free_ports() {
    let server = TcpServer::start(|mut stream| stream.write_all(b"hello"));
    let home = TestHome::new(POSTERN);
    home.ok(&["enroll"]);
    assert_eq!(home.ok(&["tcp-outlet", "create", "--to", &server.port().to_string()]), "/service/outlet");
    assert_eq!(home.ok(&["relay", "create"]), "/service/forward_to_default");
    let inlet: SocketAddr = home.ok(&["tcp-inlet", "create", "--from", "127.0.0.1:0"]).parse().expect("HOST:PORT");
    let mut stream = postern_test_support::connect(inlet).expect("the inlet listens");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer");
    assert_eq!(answer, "hello");
}
