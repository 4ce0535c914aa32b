use postern_proto::authority::Enrolment;
use postern_proto::id::TicketId;
use postern_proto::secret::SecretBytes;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::net::read_preface;
use crate::session::{Accept, HANDSHAKE_DEADLINE, accept};

/// An authority that does what a test tells it.
struct Server {
    listener: TcpListener,
    key: StaticKey,
    address: HostPort,
}

impl Server {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HostPort::from(listener.local_addr().unwrap());
        Self { listener, key: StaticKey::generate(), address }
    }

    async fn accept(&self) -> Result<(Session, Hello), ConnectError> {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        assert_eq!(read_preface(&mut stream).await.unwrap(), Service::Authority);
        let how = Accept {
            label: Label::Authority,
            statics: &[&self.key],
            payload: &[],
            limit: MAX_MESSAGE,
            deadline: Instant::now() + HANDSHAKE_DEADLINE,
        };
        let (session, payload) = accept(stream, how).await?;
        Ok((session, minicbor::decode(&payload).unwrap()))
    }
}

fn hello(enrolment: bool) -> Hello {
    Hello {
        history: vec![1; 300],
        attestation: vec![2; 200],
        enrolment: enrolment.then(|| Enrolment {
            ticket: TicketId::from_bytes([1; 16]),
            secret: SecretBytes::new([2; 32]),
            name: "alice".parse().unwrap(),
            relay_server: false,
        }),
    }
}

struct Pair {
    client: AuthorityClient,
    pushed: Pushed,
    server: Session,
    supervisor: Supervisor,
}

async fn pair() -> Pair {
    let server = Server::new().await;
    let supervisor = Supervisor::new();
    let pinned = Pinned { addresses: std::slice::from_ref(&server.address), static_key: server.key.public() };
    let (local, hello) = (StaticKey::generate(), hello(false));
    let (client, accepted) = tokio::join!(AuthorityClient::connect(&supervisor, pinned, &local, &hello), server.accept());
    let (client, pushed) = client.unwrap();
    let (session, hello) = accepted.unwrap();
    assert_eq!(hello.history, [1; 300]);
    assert_eq!(session.finished.remote_static, local.public());
    Pair { client, pushed, server: session, supervisor }
}

async fn reply(session: &mut Session, number: u32, answer: Answer) {
    session.sender.send_message(&Reply { number, answer }).await.unwrap();
}

async fn next_call(session: &mut Session) -> Call {
    session.receiver.receive_message().await.unwrap().unwrap()
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let Pair { client, mut pushed, mut server, .. } = pair().await;
    let asks = async {
        tokio::join!(
            client.call(Request::ProjectInfo),
            client.call(Request::ListProjectPolicies),
            client.call(Request::ListAudit { after: 0 })
        )
    };
    let answers = async {
        let calls = [next_call(&mut server).await, next_call(&mut server).await, next_call(&mut server).await];
        reply(&mut server, 0, Answer::Heartbeat { statement: vec![9] }).await;
        for call in calls.into_iter().rev() {
            let answer = match call.request {
                Request::ProjectInfo => Answer::ProjectInfo { statement: vec![1], history: vec![] },
                Request::ListProjectPolicies => Answer::Policies { rows: vec![] },
                _ => Answer::Refused(Refusal::NotAMember),
            };
            reply(&mut server, call.number, answer).await;
        }
    };
    let ((info, policies, audit), ()) = tokio::join!(asks, answers);
    assert!(matches!(info, Ok(Answer::ProjectInfo { .. })));
    assert!(matches!(policies, Ok(Answer::Policies { .. })));
    assert!(matches!(audit, Err(AuthorityError::Refused(Refusal::NotAMember, _))));
    assert!(matches!(pushed.recv().await, Some(Answer::Heartbeat { .. })));
}

#[tokio::test]
async fn an_enrolment_waits_for_its_decision() {
    let server = Server::new().await;
    let supervisor = Supervisor::new();
    let local = StaticKey::generate();
    let hello = hello(true);
    for refused in [true, false] {
        let pinned = Pinned { addresses: std::slice::from_ref(&server.address), static_key: server.key.public() };
        let (client, _session) = tokio::join!(AuthorityClient::connect(&supervisor, pinned, &local, &hello), async {
            let (mut session, hello) = server.accept().await.unwrap();
            assert!(hello.enrolment.unwrap().secret == SecretBytes::new([2; 32]));
            let answer = if refused {
                Answer::Refused(Refusal::TicketRevoked)
            } else {
                Answer::ProjectInfo { statement: vec![5], history: vec![] }
            };
            reply(&mut session, 0, answer).await;
            session
        });
        match client {
            Err(AuthorityError::Refused(Refusal::TicketRevoked, _)) => assert!(refused),
            Ok((_client, mut pushed)) => {
                assert!(!refused);
                assert!(matches!(pushed.recv().await, Some(Answer::ProjectInfo { statement, .. }) if statement == [5]));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_first_address_that_proves_itself_is_taken() {
    let (server, impostor) = (Server::new().await, Server::new().await);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        HostPort::from(listener.local_addr().unwrap())
    };
    let (supervisor, local, hello) = (Supervisor::new(), StaticKey::generate(), hello(true));
    let addresses = [closed.clone(), impostor.address.clone(), server.address.clone()];
    let pinned = Pinned { addresses: &addresses, static_key: server.key.public() };
    let (client, tricked, _session) =
        tokio::join!(AuthorityClient::connect(&supervisor, pinned, &local, &hello), impostor.accept(), async {
            let (mut session, _) = server.accept().await.unwrap();
            reply(&mut session, 0, Answer::Done).await;
            session
        });
    assert!(tricked.is_err(), "the impostor learns no ticket");
    assert!(client.is_ok());

    let pinned = Pinned { addresses: &addresses[..1], ..pinned };
    let unreachable = AuthorityClient::connect(&supervisor, pinned, &local, &hello).await.map(|_| ());
    assert!(matches!(unreachable, Err(AuthorityError::Unreachable { address, .. }) if address == closed));
    let wrong_first = [impostor.address.clone(), closed];
    let pinned = Pinned { addresses: &wrong_first, ..pinned };
    let (wrong, _) = tokio::join!(AuthorityClient::connect(&supervisor, pinned, &local, &hello), impostor.accept());
    assert!(matches!(wrong.map(|_| ()), Err(AuthorityError::Handshake { .. })));
}

/// Who says nothing may be the authority, with too much to do: that is no wrong key.
#[tokio::test(start_paused = true)]
async fn silence_is_no_wrong_key_and_more_than_a_closed_port() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = HostPort::from(silent.local_addr().unwrap());
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        HostPort::from(listener.local_addr().unwrap())
    };
    let (supervisor, local, hello) = (Supervisor::new(), StaticKey::generate(), hello(true));
    for addresses in [[silent_at.clone(), closed.clone()], [closed, silent_at.clone()]] {
        let pinned = Pinned { addresses: &addresses, static_key: StaticKey::generate().public() };
        let failed = AuthorityClient::connect(&supervisor, pinned, &local, &hello).await.map(|_| ());
        assert!(matches!(&failed, Err(AuthorityError::Unproven { address }) if *address == silent_at), "{failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_too_much_to_do_holds_no_wrong_key_and_is_asked_once_more_for_a_command() {
    let server = Server::new().await;
    let (supervisor, local, hello) = (Supervisor::new(), StaticKey::generate(), hello(false));
    let pinned = Pinned { addresses: std::slice::from_ref(&server.address), static_key: server.key.public() };
    // It accepts, and its deadline passes before it has come to the first message.
    let asked = std::cell::Cell::new(0);
    let overworked = async {
        loop {
            let _accepted = server.listener.accept().await.unwrap();
            asked.set(asked.get() + 1);
            tokio::time::sleep(OVERWORKED + Duration::from_millis(100)).await;
        }
    };
    let unproven = async {
        for attempts in [1, 2] {
            let failed = match attempts {
                1 => AuthorityClient::connect(&supervisor, pinned, &local, &hello).await,
                _ => AuthorityClient::connect_for_a_command(&supervisor, pinned, &local, &hello).await,
            };
            let failed = failed.map(|_| ());
            assert!(matches!(&failed, Err(AuthorityError::Unproven { .. })), "{failed:?}");
            assert_eq!(asked.replace(0), attempts);
        }
    };
    tokio::select! {
        () = unproven => {}
        () = overworked => {}
    }
}

#[tokio::test]
async fn the_end_of_the_session_reaches_everybody() {
    let Pair { client, mut pushed, mut server, .. } = pair().await;
    let (waiting, ()) = tokio::join!(client.call(Request::ProjectInfo), async {
        next_call(&mut server).await;
        reply(&mut server, 0, Answer::Refused(Refusal::NotAMember)).await;
    });
    let refused = |error: &AuthorityError| matches!(error, AuthorityError::Refused(Refusal::NotAMember, _));
    assert!(refused(&waiting.unwrap_err()));
    assert!(refused(&client.ended().await));
    assert!(refused(&client.call(Request::ProjectInfo).await.unwrap_err()));
    assert!(pushed.recv().await.is_none());
}

#[tokio::test]
async fn a_call_without_an_answer_times_out_and_the_session_lives() {
    let Pair { client, mut server, .. } = pair().await;
    tokio::time::pause();
    assert!(matches!(client.call(Request::ProjectInfo).await, Err(AuthorityError::Timeout)));
    tokio::time::resume();
    assert!(client.shared.lock().waiting.is_empty());
    let late = next_call(&mut server).await.number;
    reply(&mut server, late, Answer::Done).await;
    let (answer, ()) = tokio::join!(client.call(Request::ListProjectPolicies), async {
        let number = next_call(&mut server).await.number;
        assert_ne!(number, late);
        reply(&mut server, number, Answer::Policies { rows: vec![] }).await;
    });
    assert!(matches!(answer, Ok(Answer::Policies { .. })));
}

#[tokio::test]
async fn pushes_that_nobody_takes_end_the_session() {
    let Pair { client, pushed, mut server, .. } = pair().await;
    for _ in 0..=MAX_PUSHED {
        reply(&mut server, 0, Answer::Heartbeat { statement: vec![] }).await;
    }
    assert!(matches!(client.ended().await, AuthorityError::NotTaken));
    drop(pushed);
}

#[tokio::test]
async fn the_session_ends_with_its_last_handle_or_its_supervisor() {
    let Pair { client, mut server, supervisor, .. } = pair().await;
    let other = client.clone();
    drop(client);
    assert_eq!(supervisor.running(), 2);
    drop(other);
    assert!(server.receiver.receive().await.unwrap().is_none());

    let Pair { client, supervisor, .. } = pair().await;
    assert_eq!(supervisor.shutdown(Duration::from_secs(5)).await, crate::supervise::Shutdown::Drained);
    assert!(matches!(client.ended().await, AuthorityError::Closed));
}
