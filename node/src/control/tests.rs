//! The server and the client together, over a real socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::name::{NodeName, OutletName};
use postern_runtime::home::{Home, NodeHome};
use postern_runtime::supervise::Supervisor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::document::{Connection, NodeState, PolicySource};
use super::server::{Socket, serve};
use super::{Class, Client, ClientError, Fault, api};
use crate::config::resource::{InletArguments, OutletArguments, PolicyArguments, RelayArguments, inlet, outlet, policy, relay};
use crate::keeper::Keeper;
use crate::store::Stored;

struct Running {
    _place: tempfile::TempDir,
    home: Arc<Home>,
    node: Arc<NodeHome>,
    keeper: Arc<Keeper>,
    stop: CancellationToken,
    closed: CancellationToken,
}

async fn running(subdirectory: &str) -> Running {
    let place = tempfile::tempdir().unwrap();
    let parent = place.path().join(subdirectory);
    std::fs::create_dir_all(&parent).unwrap();
    let home = Arc::new(Home::open(&parent.join("home")).unwrap());
    let name: NodeName = "n1".parse().unwrap();
    let stored = Stored::new("me".parse().unwrap());
    let node = Arc::new(home.create_node(&name, &stored.encode().unwrap()).unwrap());
    let supervisor = Supervisor::new();
    let engine = crate::testing::engine(home.path(), &name, &supervisor).await;
    let keeper = Arc::new(Keeper::new(engine, Arc::clone(&home), Arc::clone(&node), &stored));
    let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
    let socket = Socket::bind(&node).unwrap();
    tokio::spawn(serve(socket, Arc::clone(&keeper), stop.clone(), closed.clone()));
    Running { _place: place, home, node, keeper, stop, closed }
}

impl Running {
    fn client(&self) -> Client<'_> {
        Client::new(&self.node)
    }
}

fn code_of<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (String, Class) {
    match result.unwrap_err() {
        ClientError::Fault(fault) => (fault.code.clone(), fault.class),
        other => panic!("{other}"),
    }
}

fn outlet_to(from: Option<&str>, to: &str) -> api::OutletRequest {
    outlet(OutletArguments { from, to: Some(to), ..Default::default() }).unwrap()
}

#[tokio::test]
async fn outlets_and_inlets_come_go_and_are_kept() {
    let node = running("").await;
    let client = node.client();
    let first = client.create_outlet(&outlet_to(None, "6000")).await.unwrap();
    assert_eq!((first.name.as_str(), first.worker_address.as_str()), ("outlet", "/service/outlet"));
    let second = client.create_outlet(&outlet_to(None, "6001")).await.unwrap();
    assert!(!second.name.starts_with("outlet"));
    assert_eq!(code_of(client.create_outlet(&outlet_to(Some("outlet"), "1")).await), ("EXISTS".into(), Class::Failure));

    let spec =
        inlet(InletArguments { alias: Some("web"), via: Some("r"), to: vec![("db", None)], ..Default::default() }).unwrap();
    let web = client.create_inlet(&spec).await.unwrap();
    assert!(web.status == Connection::Down && !web.bind_addr.ends_with(":0"));
    assert_eq!(code_of(client.create_inlet(&spec).await).0, "EXISTS");

    let shown = client.show().await.unwrap();
    assert_eq!((shown.status, shown.is_default, shown.identity_name.as_str()), (NodeState::Running, true, "me"));
    assert_eq!((shown.outlets.len(), shown.inlets.len()), (2, 1));
    assert_eq!(client.outlets().await.unwrap(), shown.outlets);
    assert_eq!(client.inlet(&"web".parse().unwrap()).await.unwrap(), web);

    let kept = Stored::load(&node.node).unwrap().specs;
    assert_eq!(kept.outlets.len(), 2);
    assert_eq!(kept.inlets[0].from.to_string(), web.bind_addr, "the port that was found is kept");

    let db: OutletName = "db".parse().unwrap();
    assert_eq!(code_of(client.outlet(&db).await).0, "NOT_FOUND");
    assert_eq!(code_of(client.delete_outlet(&db).await), ("NOT_FOUND".into(), Class::Failure));
    client.delete_outlet(&"outlet".parse().unwrap()).await.unwrap();
    client.delete_inlet(&"web".parse().unwrap()).await.unwrap();
    assert_eq!(client.create_outlet(&outlet_to(None, "6002")).await.unwrap().name, "outlet");
    assert!(Stored::load(&node.node).unwrap().specs.inlets.is_empty());
}

#[tokio::test]
async fn an_address_in_use_changes_nothing() {
    let node = running("").await;
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let from = occupied.local_addr().unwrap().to_string();
    let spec = inlet(InletArguments { from: Some(&from), ..Default::default() }).unwrap();
    assert_eq!(code_of(node.client().create_inlet(&spec).await), ("ADDRESS_IN_USE".into(), Class::Failure));
    assert!(node.client().inlets().await.unwrap().is_empty());
    assert!(Stored::load(&node.node).unwrap().specs.inlets.is_empty());
}

#[tokio::test]
async fn relays() {
    let node = running("").await;
    let spec = relay(RelayArguments { name: Some("r"), ..Default::default() }).unwrap();
    let document = node.client().create_relay(&spec, Duration::ZERO).await.unwrap();
    assert_eq!(document.remote_address, "forward_to_r");
    node.client().create_relay(&spec, Duration::ZERO).await.unwrap();
    assert_eq!(node.client().relays().await.unwrap().len(), 1);
    assert_eq!(code_of(node.client().relay(&"s".parse().unwrap()).await).0, "NOT_FOUND");
    node.client().delete_relay(&"r".parse().unwrap()).await.unwrap();
    assert_eq!(code_of(node.client().delete_relay(&"r".parse().unwrap()).await).0, "NOT_FOUND");
}

#[tokio::test]
async fn the_policy_in_force() {
    let node = running("").await;
    let client = node.client();
    let of = |name: &str| name.parse::<OutletName>().unwrap();
    client
        .create_outlet(
            &outlet(OutletArguments { from: Some("db"), to: Some("1"), allow: Some("a"), ..Default::default() }).unwrap(),
        )
        .await
        .unwrap();
    client.create_outlet(&outlet_to(Some("web"), "2")).await.unwrap();

    let own = client.policy(&of("db")).await.unwrap();
    assert_eq!(
        (own.source, own.resource.as_deref(), own.expression.as_str()),
        (PolicySource::Own, Some("db"), "(= subject.a \"true\")")
    );
    let default = client.policy(&of("web")).await.unwrap();
    assert_eq!(
        (default.source, default.resource, default.expression.as_str()),
        (PolicySource::Default, None, "subject.has_credential")
    );
    assert_eq!(client.policy(&of("tcp-outlet")).await.unwrap().source, PolicySource::Default);

    let kind = policy(PolicyArguments { resource: Some("tcp-outlet"), allow: Some("t"), ..Default::default() }).unwrap();
    client.create_policy(&kind).await.unwrap();
    let inherited = client.policy(&of("web")).await.unwrap();
    assert_eq!(
        (inherited.source, inherited.resource_type, inherited.expression.as_str()),
        (PolicySource::Type, None, "(= subject.t \"true\")")
    );
    assert_eq!(client.policy(&of("tcp-outlet")).await.unwrap().source, PolicySource::Own);
    assert_eq!(client.policy(&of("tcp-inlet")).await.unwrap().source, PolicySource::Default);

    let new = policy(PolicyArguments { resource: Some("db"), expression: Some("c"), ..Default::default() }).unwrap();
    client.create_policy(&new).await.unwrap();
    assert_eq!(client.policy(&of("db")).await.unwrap().expression, "(= subject.c \"true\")");
    assert_eq!(client.policies().await.unwrap().len(), 2);
    let shown = |outlets: Vec<crate::control::document::OutletDocument>| {
        outlets.into_iter().find(|outlet| outlet.name == "db").and_then(|outlet| outlet.allow)
    };
    assert_eq!(shown(client.outlets().await.unwrap()).as_deref(), Some("(= subject.c \"true\")"), "what is in force");
    client.delete_policy(&of("db")).await.unwrap();
    let made_with = client.policy(&of("db")).await.unwrap();
    assert_eq!(
        (made_with.source, made_with.expression.as_str()),
        (PolicySource::Own, "(= subject.a \"true\")"),
        "it is not open now"
    );
    client.delete_policy(&of("db")).await.unwrap();
    assert_eq!(client.policy(&of("db")).await.unwrap().source, PolicySource::Type);
    assert_eq!(code_of(client.delete_policy(&of("db")).await).0, "NOT_FOUND");
    assert_eq!(code_of(client.policy(&of("nothing")).await).0, "NOT_FOUND");
    client.delete_policy(&of("tcp-outlet")).await.unwrap();
    assert!(Stored::load(&node.node).unwrap().specs.policies.is_empty());
}

#[tokio::test]
async fn what_is_kept_comes_back() {
    let node = running("").await;
    let client = node.client();
    client.create_outlet(&outlet_to(Some("db"), "1")).await.unwrap();
    client.create_relay(&relay(RelayArguments::default()).unwrap(), Duration::ZERO).await.unwrap();
    let stored = Stored::load(&node.node).unwrap();
    let engine = crate::testing::engine(node.home.path(), node.node.name(), &Supervisor::new()).await;
    let again = Keeper::new(engine, Arc::clone(&node.home), Arc::clone(&node.node), &stored);
    assert!(again.outlets().is_empty());
    again.replace(stored).await.unwrap();
    assert_eq!((again.outlets().len(), again.relays().len()), (1, 1));
}

#[tokio::test]
async fn probes_and_waiting() {
    let node = running("").await;
    assert!(node.keeper.settled(Duration::ZERO).await, "a node without anything waits for nothing");
    node.client().create_inlet(&inlet(InletArguments { alias: Some("web"), ..Default::default() }).unwrap()).await.unwrap();
    let status = node.client().status().await.unwrap();
    assert_eq!((status.portals[0].inlet.as_str(), status.portals[0].ok), ("web", false));
    assert!(status.portals[0].step.is_some() && status.portals[0].reason.is_some());
    assert!(status.waiting.iter().any(|waiting| waiting.what == "tcp-inlet web"));
    assert!(!node.keeper.settled(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn stopping_and_not_running() {
    let node = running("").await;
    assert_eq!(node.client().stop().await.unwrap().pid, std::process::id());
    node.stop.cancelled().await;
    node.closed.cancel();
    // The socket of a process that is gone.
    loop {
        match node.client().show().await {
            Err(ClientError::NotRunning(name)) => break assert_eq!(name.as_str(), "n1"),
            Err(ClientError::Io { .. } | ClientError::Timeout(_)) | Ok(_) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    let fault = Fault::from(node.client().show().await.unwrap_err());
    assert_eq!((fault.code.as_str(), fault.class.exit_code()), ("NOT_RUNNING", 69));
    std::fs::remove_file(node.node.dir().path().join("control.sock")).unwrap();
    assert!(matches!(node.client().show().await, Err(ClientError::NotRunning(_))));
}

#[tokio::test]
async fn a_path_too_long_for_a_socket() {
    let node = running(&"long/".repeat(40)).await;
    assert!(node.node.dir().path().as_os_str().len() > 108);
    assert_eq!(node.client().show().await.unwrap().name, "n1");
}

#[tokio::test]
async fn the_socket_is_for_its_user_alone() {
    let node = running("").await;
    let path = node.node.dir().path().join("control.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Something else in the socket's place is sent nothing.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(matches!(node.client().show().await, Err(ClientError::Protocol(_))));
}

async fn raw(node: &Running, request: &[u8]) -> String {
    let mut stream = tokio::net::UnixStream::connect(node.node.control_socket().unwrap()).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn malformed_requests_get_error_documents() {
    let node = running("").await;
    let request = |method: &str, path: &str, body: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    for (method, path, body, status, code) in [
        ("POST", "/v1/outlets", "{", "400", "USAGE"),
        ("POST", "/v1/outlets", r#"{"to": "h:0x"}"#, "400", "USAGE"),
        ("POST", "/v1/outlets", r#"{"to": "h:1", "extra": 1}"#, "400", "USAGE"),
        ("GET", "/v1/nothing", "", "400", "USAGE"),
        ("PUT", "/v1/node", "", "400", "USAGE"),
        ("DELETE", "/v1/outlets/a%2Fb", "", "404", "NOT_FOUND"),
        ("GET", "/v1/policies/a%00b", "", "404", "NOT_FOUND"),
    ] {
        let answer = raw(&node, &request(method, path, body)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(code), "{method} {path}: {answer}");
        assert!(answer.contains("\"api_version\":\"1\""));
    }
    let long = "x".repeat(api::MAX_REQUEST + 1);
    assert!(raw(&node, &request("POST", "/v1/outlets", &long)).await.starts_with("HTTP/1.1 413"));
    assert_eq!(node.client().outlets().await.unwrap().len(), 0);
}

#[tokio::test]
async fn two_edits_at_once_follow_each_other() {
    let node = running("").await;
    let edits: Vec<_> = (0..16)
        .map(|_| {
            let keeper = Arc::clone(&node.keeper);
            tokio::spawn(async move { keeper.create_outlet(outlet_to(Some("same"), "1")).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for edit in edits {
        made += usize::from(edit.await.unwrap());
    }
    assert_eq!((made, Stored::load(&node.node).unwrap().specs.outlets.len()), (1, 1));
}
