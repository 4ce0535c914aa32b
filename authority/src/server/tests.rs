mod replays;

use std::net::SocketAddr;
use std::time::Duration;

use postern_proto::authority::{Answer, Enrolment, Hello, Refusal, Request, TicketRequest};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{NodeId, StaticPublic, TicketId};
use postern_proto::identity::Attestation;
use postern_proto::preface::Service as Wanted;
use postern_proto::secret::SecretBytes;
use postern_proto::ticket::Ticket;
use postern_runtime::authority::{AuthorityClient, AuthorityError, Pinned, Pushed};
use postern_runtime::net::read_preface;
use postern_runtime::supervise::Supervisor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::testing::{Fixture, NOW, Person, request};

/// A fixture behind a real socket.
struct Listening {
    f: Fixture,
    address: SocketAddr,
    tasks: Supervisor,
}

impl Listening {
    async fn new() -> Self {
        let f = Fixture::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Supervisor::new();
        let (server, spawner) = (f.authority.server().clone(), tasks.clone());
        tasks.spawn("accept", async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                let server = server.clone();
                spawner.spawn("connection", async move {
                    if matches!(read_preface(&mut stream).await, Ok(Wanted::Authority)) {
                        server.serve_connection(stream, peer).await;
                    }
                });
            }
        });
        Self { f, address, tasks }
    }

    fn pinned_key(&self) -> StaticPublic {
        self.f.authority.service().keys().static_key.public()
    }

    async fn connect(&self, person: &Person, hello: &Hello) -> Result<(AuthorityClient, Pushed), AuthorityError> {
        let addresses = [self.address.into()];
        let pinned = Pinned { addresses: &addresses, static_key: self.pinned_key() };
        AuthorityClient::connect(&self.tasks, pinned, &person.key, hello).await
    }

    async fn enrol(&self, person: &Person, ticket: &Ticket) -> Result<(AuthorityClient, Pushed), AuthorityError> {
        self.connect(person, &hello(person, Some((ticket.id, ticket.secret.clone())))).await
    }
}

fn hello(person: &Person, ticket: Option<(TicketId, SecretBytes<32>)>) -> Hello {
    Hello {
        history: person.identity.history().encode(),
        attestation: person.identity.attest(&attestation(person)),
        enrolment: ticket.map(|(ticket, secret)| Enrolment {
            ticket,
            secret,
            name: person.newcomer.name.clone(),
            relay_server: person.newcomer.relay_server,
        }),
    }
}

fn attestation(person: &Person) -> Attestation {
    Attestation {
        identifier: person.id(),
        node_id: NodeId::from_bytes([1; 16]),
        static_key: person.key.public(),
        created: NOW,
        expires: NOW.plus(Duration::from_secs(86_400)),
    }
}

fn refusal<T>(result: Result<T, AuthorityError>) -> Refusal {
    match result.map(drop) {
        Err(AuthorityError::Refused(refusal, _)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Why a session that was let in, so far as its client can tell, is over.
async fn end(connected: Result<(AuthorityClient, Pushed), AuthorityError>) -> Refusal {
    let (client, _pushed) = connected.unwrap();
    refusal::<()>(Err(client.ended().await))
}

#[tokio::test]
async fn enrol_get_credentials_and_list() {
    let l = Listening::new().await;
    let granted = TicketRequest { attributes: [("inlet-to-saas".to_owned(), String::new())].into(), ..request() };
    let ticket = l.f.issue(&l.f.administrator, granted).await.unwrap();
    let node = Person::new("node");
    let (client, mut pushed) = l.enrol(&node, &ticket).await.unwrap();
    assert!(matches!(pushed.recv().await, Some(Answer::ProjectInfo { .. })));
    assert!(matches!(pushed.recv().await, Some(Answer::Heartbeat { .. })));
    assert!(matches!(client.call(Request::Credentials { relay_names: vec![] }).await, Ok(Answer::Credentials { .. })));
    assert!(matches!(
        client.call(Request::ListMembers { after: None }).await,
        Err(AuthorityError::Refused(Refusal::NotPermitted { .. }, _))
    ));

    let (administrator, _pushed) = l.connect(&l.f.administrator, &hello(&l.f.administrator, None)).await.unwrap();
    let Ok(Answer::Members { rows, more: false }) = administrator.call(Request::ListMembers { after: None }).await else {
        panic!()
    };
    assert_eq!(rows.len(), 2);
    assert_eq!(l.f.authority.status().await.unwrap().sessions, 2);

    // The answer to the enrolment was lost, as far as the node knows.
    drop(client);
    let (_client, mut pushed) = l.enrol(&node, &ticket).await.unwrap();
    assert!(matches!(pushed.recv().await, Some(Answer::ProjectInfo { .. })));
    let Ok(Answer::Tickets { rows, .. }) = administrator.call(Request::ListTickets { after: None }).await else { panic!() };
    assert_eq!(rows[0].uses, 1);
}

#[tokio::test]
async fn refusals_reach_the_applicant() {
    let l = Listening::new().await;
    let ticket = l.f.issue(&l.f.administrator, request()).await.unwrap();
    let wrong = Ticket { secret: SecretBytes::random(), ..ticket.clone() };
    assert_eq!(refusal(l.enrol(&Person::new("a"), &wrong).await), Refusal::TicketUnknown);
    let first = Person::new("first");
    let _session = l.enrol(&first, &ticket).await.unwrap();
    assert_eq!(refusal(l.enrol(&Person::new("b"), &ticket).await), Refusal::TicketUsedUp { at: NOW, by: first.id() });
    let stranger = Person::new("stranger");
    assert_eq!(end(l.connect(&stranger, &hello(&stranger, None)).await).await, Refusal::NotAMember);
}

#[tokio::test]
async fn who_calls_is_who_the_handshake_proves() {
    let l = Listening::new().await;
    let administrator = &l.f.administrator;
    // Another key than the attested one: somebody copied the greeting.
    let thief = Person { key: StaticKey::generate(), ..Person::new("thief") };
    let greeting = hello(administrator, None);
    assert!(matches!(end(l.connect(&thief, &greeting).await).await, Refusal::Invalid { .. }));
    // An attestation by another identity than the one that is shown.
    let mixed = Hello { history: greeting.history.clone(), ..hello(&thief, None) };
    assert!(matches!(end(l.connect(&thief, &mixed).await).await, Refusal::Invalid { .. }));
    // An attestation that has expired.
    let old = Attestation {
        created: NOW.minus(Duration::from_secs(1_000)),
        expires: NOW.minus(Duration::from_secs(500)),
        ..attestation(administrator)
    };
    let late = Hello { attestation: administrator.identity.attest(&old), ..hello(administrator, None) };
    assert!(matches!(end(l.connect(administrator, &late).await).await, Refusal::Invalid { .. }));
    let garbage = Hello { history: vec![0xff; 40], attestation: vec![], enrolment: None };
    assert!(matches!(end(l.connect(administrator, &garbage).await).await, Refusal::Invalid { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_ticket_and_many_applicants_over_sockets() {
    let l = std::sync::Arc::new(Listening::new().await);
    let ticket = l.f.issue(&l.f.administrator, request()).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let (l, ticket) = (std::sync::Arc::clone(&l), ticket.clone());
            tokio::spawn(async move { l.enrol(&Person::new(&format!("n{number}")), &ticket).await.map(drop) })
        })
        .collect();
    let mut joined = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => joined += 1,
            Err(AuthorityError::Refused(Refusal::TicketUsedUp { .. }, _)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((joined, l.f.authority.status().await.unwrap().members), (1, 2));
}

#[tokio::test]
async fn guessing_is_slowed_and_members_are_not() {
    let l = Listening::new().await;
    let ticket = l.f.issue(&l.f.administrator, request()).await.unwrap();
    let wrong = Ticket { secret: SecretBytes::random(), ..ticket.clone() };
    let guesser = Person::new("guesser");
    let mut unknown = 0;
    let busy = loop {
        match refusal(l.enrol(&guesser, &wrong).await) {
            Refusal::TicketUnknown => unknown += 1,
            other => break other,
        }
    };
    assert!(unknown >= 10, "{unknown}");
    assert!(matches!(busy, Refusal::Busy { after } if after > 0));
    assert!(matches!(refusal(l.enrol(&guesser, &ticket).await), Refusal::Busy { .. }), "right or wrong: one answer");
    let administrator = &l.f.administrator;
    let member = hello(administrator, Some((TicketId::random(), SecretBytes::random())));
    assert!(l.connect(administrator, &member).await.is_ok(), "a member's ticket is not looked at");
}

#[tokio::test]
async fn a_removed_member_hears_why() {
    let l = Listening::new().await;
    let ticket = l.f.issue(&l.f.administrator, request()).await.unwrap();
    let node = Person::new("node");
    let (client, mut pushed) = l.enrol(&node, &ticket).await.unwrap();
    assert!(matches!(pushed.recv().await, Some(Answer::ProjectInfo { .. })));
    let (observer, mut observed) = l.connect(&l.f.administrator, &hello(&l.f.administrator, None)).await.unwrap();
    observer.call(Request::DeleteMember { member: node.id() }).await.unwrap();
    assert_eq!(refusal::<()>(Err(client.ended().await)), Refusal::NotAMember);
    // Everybody else is told what is void: at first nothing was.
    loop {
        match observed.recv().await.unwrap() {
            Answer::Voiding { .. } => break,
            Answer::ProjectInfo { .. } | Answer::Heartbeat { .. } | Answer::AuditCheckpoint { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(end(l.connect(&node, &hello(&node, None)).await).await, Refusal::NotAMember);
}

#[tokio::test]
async fn a_revocation_comes_before_all_else_and_who_enforces_it_is_counted() {
    let l = Listening::new().await;
    let f = &l.f;
    let (node, gone) = (f.enrol("node", request()).await, f.enrol("gone", request()).await);
    let (client, mut pushed) = l.connect(&node, &hello(&node, None)).await.unwrap();
    client.call(Request::Credentials { relay_names: Vec::new() }).await.unwrap();
    client.call(Request::Acknowledge { epoch: 0 }).await.unwrap();
    while !matches!(pushed.recv().await.unwrap(), Answer::Heartbeat { .. }) {}
    let (administrator, _pushed) = l.connect(&f.administrator, &hello(&f.administrator, None)).await.unwrap();
    let revoked = administrator.call(Request::RevokeMember { member: gone.id() }).await.unwrap();
    let Answer::Voided { epoch } = revoked else { panic!("{revoked:?}") };
    let mut news = Vec::new();
    while news.len() < 2 {
        match pushed.recv().await.unwrap() {
            Answer::Voiding { .. } => news.push("voiding"),
            Answer::ProjectInfo { .. } => news.push("project information"),
            // They come when their time has come.
            Answer::Heartbeat { .. } | Answer::AuditCheckpoint { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(news, ["voiding", "project information"]);
    let report = async || match administrator.call(Request::Enforcement { epoch }).await.unwrap() {
        Answer::Enforcement(report) => report,
        other => panic!("{other:?}"),
    };
    assert_eq!(report().await.waiting, 1);
    client.call(Request::Acknowledge { epoch }).await.unwrap();
    let enforced = report().await;
    assert_eq!((enforced.nodes, enforced.waiting, enforced.offline), (1, 0, 0), "{enforced:?}");
}

#[tokio::test]
async fn changes_are_pushed() {
    let l = Listening::new().await;
    let (_client, mut pushed) = l.connect(&l.f.administrator, &hello(&l.f.administrator, None)).await.unwrap();
    let Some(Answer::ProjectInfo { statement: first, .. }) = pushed.recv().await else { panic!() };
    let relay = Person::new("relay");
    l.f.authority.admit_relay(&relay.newcomer, &"relay.example:4000".parse().unwrap()).await.unwrap();
    loop {
        match pushed.recv().await.unwrap() {
            Answer::ProjectInfo { statement, .. } => {
                assert_ne!(statement, first);
                break;
            }
            Answer::Heartbeat { .. } | Answer::AuditCheckpoint { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn too_many_requests_are_put_off() {
    let l = Listening::new().await;
    let (client, _pushed) = l.connect(&l.f.administrator, &hello(&l.f.administrator, None)).await.unwrap();
    let mut answered = 0;
    while client.call(Request::ListProjectPolicies).await.is_ok() {
        answered += 1;
    }
    assert!(answered >= 128);
    assert!(matches!(client.call(Request::ListProjectPolicies).await, Err(AuthorityError::Refused(Refusal::Busy { .. }, _))));
}

#[tokio::test]
async fn noise_is_closed_without_an_answer() {
    let l = Listening::new().await;
    let authority = Wanted::Authority.preface();
    let tls = [&authority[..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc]].concat();
    let zeros = [&authority[..], &[0, 64], &[0; 64]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.6\r\n", &tls, &zeros] {
        let mut stream = TcpStream::connect(l.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Closing with unread input resets; either way there is not one byte.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "{bytes:?}");
    }
}

#[tokio::test]
async fn silence_is_closed_at_the_deadline() {
    let l = Listening::new().await;
    let (ours, theirs) = tokio::io::duplex(1_024);
    let started = tokio::time::Instant::now();
    tokio::time::pause();
    l.f.authority.server().serve_connection(theirs, l.address).await;
    assert_eq!(started.elapsed().as_secs(), 5);
    drop(ours);
}

#[tokio::test]
async fn shutdown_ends_every_session() {
    let l = Listening::new().await;
    let (client, _pushed) = l.connect(&l.f.administrator, &hello(&l.f.administrator, None)).await.unwrap();
    client.call(Request::ProjectInfo).await.unwrap();
    let mut half_open = TcpStream::connect(l.address).await.unwrap();
    half_open.write_all(&Wanted::Authority.preface()).await.unwrap();
    l.f.authority.shutdown(Duration::from_secs(5)).await;
    assert!(matches!(client.ended().await, AuthorityError::Closed));
    assert_eq!(l.f.authority.server().sessions(), 0);
    let refused = l.connect(&l.f.administrator, &hello(&l.f.administrator, None)).await.map(drop);
    assert!(matches!(refused, Err(AuthorityError::Handshake { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_wrong_pin_learns_nothing() {
    let l = Listening::new().await;
    let ticket = l.f.issue(&l.f.administrator, request()).await.unwrap();
    let addresses = [l.address.into()];
    let pinned = Pinned { addresses: &addresses, static_key: StaticKey::generate().public() };
    let person = Person::new("person");
    let greeting = hello(&person, Some((ticket.id, ticket.secret.clone())));
    let refused = AuthorityClient::connect(&l.tasks, pinned, &person.key, &greeting).await.map(drop);
    assert!(matches!(refused, Err(AuthorityError::Handshake { .. })), "{refused:?}");
    assert!(l.enrol(&person, &ticket).await.is_ok(), "the ticket was not spent");
}
