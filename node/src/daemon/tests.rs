use crate::control::fault::Class;
use std::path::Path;

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Hello, MAX_MESSAGE, ProjectInfo, Refusal, Reply, RingKey};
use postern_proto::handshake::Label;
use postern_proto::handshake::StaticKey;
use postern_proto::id::{Identifier, ProjectId, TicketId};
use postern_proto::sign::SigningKey;
use postern_proto::statement;
use postern_proto::time::Timestamp;
use postern_runtime::net::read_preface;
use postern_runtime::session::{Accept, HANDSHAKE_DEADLINE, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::config::resource::{OutletArguments, RelayArguments, outlet, relay};
use crate::config::{Variables, load};
use crate::control::document::NodeState;
use crate::control::{Client, ClientError};

const CREATE: Start = Start { creating: true, connection_wait: Duration::ZERO };

fn make(home: &Path, yaml: &str) -> NodeName {
    let config = load("node.yaml", yaml, &Variables::default(), None).unwrap();
    let name = config.name.clone().unwrap();
    let stored = Stored::from_config(&config, "default".parse().unwrap());
    Home::open(home).unwrap().create_node(&name, &stored.encode().unwrap()).unwrap();
    name
}

#[derive(Debug)]
struct Started {
    node: NodeHome,
    document: NodeDocument,
    task: JoinHandle<Result<(), Fault>>,
}

/// Runs a node until it is ready.
async fn start(home: &Path, name: &NodeName, how: Start) -> Result<Started, Fault> {
    let (tell, told) = oneshot::channel();
    let (opened, name_too) = (Home::open(home).unwrap(), name.clone());
    let task = tokio::spawn(async move { run(opened, &name_too, how, |document| drop(tell.send(document.clone()))).await });
    match told.await {
        Ok(document) => Ok(Started { node: Home::open(home).unwrap().node(name).unwrap().unwrap(), document, task }),
        Err(_) => Err(task.await.unwrap().unwrap_err()),
    }
}

impl Started {
    async fn stop(self) -> NodeHome {
        Client::new(&self.node).stop().await.unwrap();
        self.task.await.unwrap().unwrap();
        self.node
    }
}

/// Somebody takes the connection, although an inlet without a peer resets it at once.
async fn assert_listens(address: &str) {
    if let Err(error) = tokio::net::TcpStream::connect(address).await {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

async fn http(address: &str, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_serves_stops_and_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let name = make(
        &home,
        "name: n\nidentity: me\nhttp-server-port: 0\ntcp-outlet: {from: db, to: 1}\ntcp-inlet: {alias: web, to: /node/m/service/x}\n",
    );
    let node = start(&home, &name, CREATE).await.unwrap();
    assert_eq!(
        (node.document.status, node.document.identity_name.as_str(), node.document.is_default),
        (NodeState::Running, "me", true)
    );
    let inlet = node.document.inlets[0].bind_addr.clone();
    assert_listens(&inlet).await;
    assert!(node.node.running().unwrap().is_some());

    let again = start(&home, &name, CREATE).await.unwrap_err();
    assert_eq!((again.code.as_str(), again.class), (code::RUNNING.as_str(), Class::Failure));

    let address = node.document.http_server_address.clone().unwrap();
    assert!(http(&address, "GET / HTTP/1.1\r\nhost: 127.0.0.1").await.starts_with("HTTP/1.1 200"));
    assert!(http(&address, "HEAD / HTTP/1.1\r\nhost: 127.0.0.1").await.starts_with("HTTP/1.1 200"));
    assert!(http(&address, "GET /livez HTTP/1.1\r\nhost: localhost").await.starts_with("HTTP/1.1 200"));
    assert!(http(&address, "GET /show HTTP/1.1\r\nhost: localhost").await.contains("\"worker_address\":\"/service/db\""));
    assert!(http(&address, "GET /readyz HTTP/1.1\r\nhost: localhost").await.starts_with("HTTP/1.1 503"), "its peer does not run");
    assert!(http(&address, "GET /show HTTP/1.1\r\nhost: evil.example").await.starts_with("HTTP/1.1 403"));

    let client = Client::new(&node.node);
    client.create_outlet(&outlet(OutletArguments { to: Some("2"), ..Default::default() }).unwrap()).await.unwrap();
    let no_project = client.create_relay(&relay(RelayArguments::default()).unwrap(), Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(&no_project, ClientError::Fault(fault) if fault.class == Class::Configuration && fault.code == code::NO_PROJECT)
    );

    let stopped = node.stop().await;
    assert!(stopped.running().unwrap().is_none());
    assert!(matches!(Client::new(&stopped).show().await, Err(ClientError::NotRunning(_))));

    let node = start(&home, &name, Start::default()).await.unwrap();
    assert_eq!(node.document.inlets[0].bind_addr, inlet, "the port that was found is kept");
    assert_eq!(node.document.outlets.len(), 2, "what a command added came back");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_nothing_running() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = occupied.local_addr().unwrap().port();
    let name = make(
        &home,
        &format!(
            "name: n\ntcp-inlets: [{{alias: a, to: /node/m/service/x}}, {{alias: b, from: {port}, to: /node/m/service/x}}]\n"
        ),
    );
    let fault = start(&home, &name, CREATE).await.err().unwrap();
    assert_eq!(fault.code, code::ADDRESS_IN_USE);
    let kept = Home::open(&home).unwrap().node(&name).unwrap().unwrap();
    assert!(kept.running().unwrap().is_none());
    assert_eq!(Stored::load(&kept).unwrap().specs.inlets[0].from.port(), 0, "nothing was kept of what was taken back");

    let http = make(&home, &format!("name: h\nhttp-server-port: {port}\n"));
    assert_eq!(start(&home, &http, CREATE).await.err().unwrap().code, code::ADDRESS_IN_USE);
    let listener = make(&home, &format!("name: l\ntcp-listener-address: 127.0.0.1:{port}\n"));
    assert_eq!(start(&home, &listener, CREATE).await.err().unwrap().code, code::ADDRESS_IN_USE);
    drop(occupied);
    start(&home, &name, CREATE).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_need_a_project() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    for (name, yaml) in [("a", "relay: r"), ("b", "tcp-inlet: {via: r}"), ("c", "tcp-inlet: {}")] {
        let name = make(&home, &format!("name: {name}\n{yaml}\n"));
        let fault = start(&home, &name, CREATE).await.err().unwrap();
        assert_eq!((fault.code.as_str(), fault.class.exit_code()), (code::NO_PROJECT.as_str(), 78));
    }
    let missing = start(&home, &"nothing".parse().unwrap(), CREATE).await.err().unwrap();
    assert_eq!(missing.code, code::NOT_FOUND);
}

fn ticket(addresses: Vec<HostPort>) -> Ticket {
    Ticket {
        project: ProjectId::random(),
        authority: Identifier::from_bytes([1; 32]),
        authority_static: StaticKey::generate().public(),
        addresses,
        id: TicketId::random(),
        secret: SecretBytes::random(),
        expires: Timestamp::from_unix(u64::MAX / 2),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_down_stops_no_node() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let name = make(&home, "name: n\nrelay: r\ntcp-inlet: {alias: web, via: other}\n");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let opened = Home::open(&home).unwrap().node(&name).unwrap().unwrap();
    opened.set_ticket(&ticket(vec![free.into()]).to_text().unwrap()).unwrap();
    let node = start(&home, &name, Start { creating: true, connection_wait: Duration::from_millis(50) }).await.unwrap();
    assert_eq!(
        (node.document.waiting[0].what.as_str(), node.document.waiting[0].code.as_str()),
        ("enrolment", code::AUTHORITY_UNREACHABLE.as_str())
    );
    assert!(node.document.waiting[0].reason.contains(&free.to_string()));
    assert_listens(&node.document.inlets[0].bind_addr).await;
    let status = Client::new(&node.node).status().await.unwrap();
    assert!(!status.portals[0].ok && status.waiting.iter().any(|waiting| waiting.what == "relay r"));
    let kept = node.stop().await;
    assert!(kept.ticket().unwrap().is_some(), "a ticket that was not redeemed is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_ticket_is_final() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let name = make(&home, "name: n\n");
    let node = Home::open(&home).unwrap().node(&name).unwrap().unwrap();
    let text = ticket(vec!["127.0.0.1:1".parse().unwrap()]).to_text().unwrap();
    let secret = text.expose_secret();
    node.set_ticket(&postern_proto::secret::SecretText::new(secret[..secret.len() - 9].to_owned())).unwrap();
    let fault = start(&home, &name, CREATE).await.err().unwrap();
    assert_eq!((fault.code.as_str(), fault.class), (code::TICKET_TRUNCATED.as_str(), Class::Failure));
    assert!(!format!("{fault:?}").contains(&secret[20..40]), "no ticket in an error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_what_is_stored() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let name = make(&home, "name: n\ntcp-outlet: {from: db, to: 1}\n");
    let node = start(&home, &name, CREATE).await.unwrap();
    let mut stored = Stored::load(&node.node).unwrap();
    stored.specs.outlets[0].to = "2".parse().unwrap();
    stored.save(&node.node).unwrap();
    let client = Client::new(&node.node);
    client.reload().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while client.outlets().await.unwrap()[0].to != "127.0.0.1:2" {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    node.stop().await;
}

/// An authority that answers each enrolment with what a test gives it.
struct ScriptedAuthority {
    listener: tokio::net::TcpListener,
    key: StaticKey,
    identity: Identity,
    project: ProjectId,
}

impl ScriptedAuthority {
    async fn new() -> Self {
        Self {
            listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
            key: StaticKey::generate(),
            identity: Identity::generate(Timestamp::from_unix(1)),
            project: ProjectId::random(),
        }
    }

    fn address(&self) -> HostPort {
        self.listener.local_addr().unwrap().into()
    }

    fn ticket(&self) -> Ticket {
        Ticket {
            project: self.project,
            authority: self.identity.identifier(),
            authority_static: self.key.public(),
            ..ticket(vec![self.address()])
        }
    }

    fn membership(&self) -> Answer {
        let signing = SigningKey::generate();
        let info = ProjectInfo {
            project: self.project,
            name: "default".parse().unwrap(),
            authority: self.identity.identifier(),
            authority_static: self.key.public(),
            authority_addresses: vec![self.address()],
            key_ring: vec![RingKey::new(&signing.public(), Timestamp::from_unix(0), Timestamp::from_unix(u64::MAX))],
            relays: Vec::new(),
            epoch: 1,
            sequence: 1,
            issued_at: Timestamp::from_unix(1),
        };
        let statement = statement::sign(&self.identity, &info).unwrap();
        Answer::ProjectInfo { statement, history: self.identity.history().encode() }
    }

    /// Serves connections until one enrolment has been answered with each of `answers`.
    async fn answer(self, answers: Vec<Answer>) {
        let mut answers = answers.into_iter();
        loop {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            if read_preface(&mut stream).await.is_err() {
                continue;
            }
            let how = Accept {
                label: Label::Authority,
                statics: &[&self.key],
                payload: &[],
                limit: MAX_MESSAGE,
                deadline: tokio::time::Instant::now() + HANDSHAKE_DEADLINE,
            };
            let (mut session, payload) = accept(stream, how).await.unwrap();
            let hello: Hello = minicbor::decode(&payload).unwrap();
            if hello.enrolment.is_some() {
                let Some(answer) = answers.next() else { return };
                session.sender.send_message(&Reply { number: 0, answer }).await.unwrap();
                // Until the node has read it.
                let _ = session.receiver.receive().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_ticket_is_final_for_a_node_that_is_being_made() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let authority = ScriptedAuthority::new().await;
    let name = make(&home, "name: n\nrelay: r\n");
    let node = Home::open(&home).unwrap().node(&name).unwrap().unwrap();
    node.set_ticket(&authority.ticket().to_text().unwrap()).unwrap();
    let refusal = || Answer::Refused(Refusal::TicketExpired { at: Timestamp::from_unix(0) });
    let busy = Answer::Refused(Refusal::Busy { after: 1 });
    let server = tokio::spawn(authority.answer(vec![refusal(), busy, refusal(), refusal()]));

    let fault = start(&home, &name, CREATE).await.err().unwrap();
    assert_eq!((fault.code.as_str(), fault.class.exit_code()), (code::TICKET_EXPIRED.as_str(), 77));
    assert!(node.running().unwrap().is_none());

    // One that said to come back, and then refuses, while the node is still being made.
    let fault = start(&home, &name, Start { connection_wait: Duration::from_secs(30), ..CREATE }).await.err().unwrap();
    assert_eq!(fault.code, code::TICKET_EXPIRED);

    // One that existed before goes on.
    let started = start(&home, &name, Start::default()).await.unwrap();
    assert_eq!(started.document.waiting[0].code, code::TICKET_EXPIRED);
    started.stop().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeemed_ticket_is_forgotten() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    let authority = ScriptedAuthority::new().await;
    let (given, project) = (authority.ticket(), authority.project);
    let name = make(&home, "name: n\nidentity: me\nrelay: r\n");
    let node = Home::open(&home).unwrap().node(&name).unwrap().unwrap();
    node.set_ticket(&given.to_text().unwrap()).unwrap();
    let membership = authority.membership();
    let server = tokio::spawn(authority.answer(vec![membership]));
    let started = start(&home, &name, CREATE).await.unwrap();
    assert!(started.document.waiting.iter().all(|waiting| waiting.what != "enrolment"), "{:?}", started.document.waiting);
    assert!(node.ticket().unwrap().is_none());
    let identity = Home::open(&home).unwrap().identity(&"me".parse().unwrap()).unwrap().unwrap();
    assert_eq!(identity.membership().unwrap().unwrap().project(), project);
    started.stop().await;

    // Given again, it is not looked at; one of another project is refused.
    node.set_ticket(&given.to_text().unwrap()).unwrap();
    start(&home, &name, CREATE).await.unwrap().stop().await;
    assert!(node.ticket().unwrap().is_none());
    node.set_ticket(&ticket(vec!["127.0.0.1:1".parse().unwrap()]).to_text().unwrap()).unwrap();
    assert_eq!(start(&home, &name, CREATE).await.err().unwrap().code, code::TICKET_OTHER_PROJECT);
    server.abort();
}
