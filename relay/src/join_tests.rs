use std::time::Duration;

use postern_proto::authority::{Call, Heartbeat, Hello, MAX_MESSAGE, Refusal, Reply, RingKey, VoidEntry, Voiding};
use postern_proto::handshake::Label;
use postern_proto::id::{Identifier, TicketId};
use postern_proto::identity::ChangeReason;
use postern_proto::preface::Service;
use postern_proto::secret::SecretBytes;
use postern_proto::sign::SigningKey;
use postern_runtime::home::Home;
use postern_runtime::net::read_preface;
use postern_runtime::session::{self, Accept, HANDSHAKE_DEADLINE, Session};
use postern_runtime::supervise::Shutdown;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::testing::{Authority, clock, run, time};

const SECOND: Duration = Duration::from_secs(1);

/// An authority on a port of its own, that says what a test tells it.
struct Server {
    authority: Authority,
    listener: TcpListener,
}

impl Server {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut authority = Authority::new();
        authority.info.authority_addresses = vec![HostPort::from(listener.local_addr().unwrap())];
        Self { authority, listener }
    }

    fn ticket(&self) -> Ticket {
        let info = &self.authority.info;
        Ticket {
            project: info.project,
            authority: info.authority,
            authority_static: info.authority_static,
            addresses: info.authority_addresses.clone(),
            id: TicketId::random(),
            secret: SecretBytes::random(),
            expires: time().plus(SECOND),
        }
    }

    async fn accept(&self) -> (Session, Hello) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        assert_eq!(read_preface(&mut stream).await.unwrap(), Service::Authority);
        let how = Accept {
            label: Label::Authority,
            statics: &[&self.authority.static_key],
            payload: &[],
            limit: MAX_MESSAGE,
            deadline: Instant::now() + HANDSHAKE_DEADLINE,
        };
        let (session, hello) = session::accept(stream, how).await.unwrap();
        (session, minicbor::decode(&hello).unwrap())
    }

    fn info(&self) -> Answer {
        Answer::ProjectInfo { statement: self.authority.project_info(), history: self.authority.history() }
    }

    fn voiding(&self, epoch: u64, member: u8) -> Answer {
        let voiding = self.authority.voiding(epoch, Identifier::from_bytes([member; 32]));
        Answer::Voiding { statement: self.authority.sign(&voiding) }
    }
}

async fn push(session: &mut Session, answer: Answer) {
    session.sender.send_message(&Reply { number: 0, answer }).await.unwrap();
}

/// Answers the call by which a relay says where it is.
async fn advertised(session: &mut Session) -> HostPort {
    let Some(Call { number, request: Request::AdvertiseRelay { address } }) = session.receiver.receive_message().await.unwrap()
    else {
        panic!("an address")
    };
    session.sender.send_message(&Reply { number, answer: Answer::Done }).await.unwrap();
    address
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn home(&self) -> RelayHome {
        RelayHome::open(&Home::open(&self.0.path().join("home")).unwrap()).unwrap()
    }
}

fn voided(trust: &TrustState, member: u8) -> bool {
    trust.voided.not_before(&Identifier::from_bytes([member; 32])).is_some()
}

fn address() -> HostPort {
    "relay.example:4000".parse().unwrap()
}

#[test]
fn a_relay_joins_once_and_is_kept_up_to_date() {
    run(async {
        let (mut server, place, supervisor, clock) = (Server::new().await, Place::new(), Supervisor::new(), clock());
        let ticket = server.ticket();
        let (member, mut session) = tokio::join!(Member::join(place.home(), Some(&ticket), &supervisor, &clock), async {
            let (mut session, hello) = server.accept().await;
            let enrolment = hello.enrolment.unwrap();
            assert!(enrolment.ticket == ticket.id && enrolment.secret == ticket.secret);
            assert_eq!(enrolment.name.as_str(), "relay");
            push(&mut session, server.info()).await;
            session
        });
        let member = member.unwrap();
        let (identifier, mut trust) = (member.identity().identifier(), member.trust());
        assert_eq!(trust.borrow().membership.project(), ticket.project);
        member.keep_session(&supervisor, clock.clone(), Some(address()));
        assert_eq!(advertised(&mut session).await, address());

        server.authority.info.sequence = 2;
        push(&mut session, server.info()).await;
        trust.wait_for(|trust| trust.membership.info().sequence == 2).await.unwrap();
        push(&mut session, server.voiding(1, 7)).await;
        trust.wait_for(|trust| voided(trust, 7)).await.unwrap();
        let later = time().plus(500 * SECOND);
        server.authority.info.epoch = 1;
        push(&mut session, Answer::Heartbeat { statement: server.authority.heartbeat(later) }).await;
        trust.wait_for(|trust| trust.statements.heartbeat.is_some()).await.unwrap();
        // The clock is set after the statement is kept.
        while clock.now() < later {
            tokio::task::yield_now().await;
        }
        // What goes backwards, or is another's, changes nothing.
        server.authority.info.sequence = 1;
        push(&mut session, server.info()).await;
        push(&mut session, server.voiding(0, 8)).await;
        push(&mut session, Answer::Voiding { statement: Authority::new().heartbeat(time()) }).await;
        push(&mut session, server.voiding(2, 9)).await;
        trust.wait_for(|trust| voided(trust, 9)).await.unwrap();
        let now = Arc::clone(&trust.borrow());
        assert!(now.membership.info().sequence == 2 && voided(&now, 7) && !voided(&now, 8));
        assert_eq!(now.statements.voidings.len(), 2, "all is passed on");

        // The session breaks, and comes back by itself, without the ticket.
        drop(session);
        let (mut session, hello) = server.accept().await;
        assert!(hello.enrolment.is_none());
        assert_eq!(advertised(&mut session).await, address());
        assert_eq!(supervisor.shutdown(5 * SECOND).await, Shutdown::Drained);

        // Started again while the authority is down: all is there, and no ticket is needed.
        drop((server, session));
        let supervisor = Supervisor::new();
        let member = Member::join(place.home(), None, &supervisor, &clock).await.unwrap();
        assert_eq!(member.identity().identifier(), identifier);
        let again = Arc::clone(&member.trust().borrow());
        assert!(again.membership.info().sequence == 2 && voided(&again, 7) && voided(&again, 9));
        assert_eq!(again.statements.voidings, now.statements.voidings);
    });
}

#[test]
fn what_is_passed_on_says_everything_and_nothing_twice() {
    run(async {
        let (server, place) = (Server::new().await, Place::new());
        let mut keeper = adopted(place.home(), server.authority.membership()).unwrap();
        let part = |since, epoch, members: &[u8]| {
            let not_before = VoidEntry::FOR_EVER;
            let entries =
                members.iter().map(|member| VoidEntry { member: Identifier::from_bytes([*member; 32]), not_before }).collect();
            server.authority.sign(&Voiding { project: server.authority.info.project, epoch, time: time(), entries, since })
        };
        let epochs = |keeper: &Keeper| -> Vec<(u64, u64)> {
            keeper.trust().statements.voidings.iter().map(|statement| (statement.since, statement.epoch)).collect()
        };
        for signed in [part(0, 2, &[1, 2]), part(2, 3, &[3]), part(2, 3, &[3]), part(3, 4, &[4])] {
            keeper.voiding(signed).unwrap();
        }
        assert_eq!(epochs(&keeper), [(0, 2), (2, 3), (3, 4)]);
        // The authority says all again, in fewer statements, when a session begins.
        keeper.voiding(part(0, 4, &[1, 2, 3, 4])).unwrap();
        keeper.voiding(part(4, 6, &[5, 6])).unwrap();
        assert_eq!(epochs(&keeper), [(0, 4), (4, 6)]);
        let trust = keeper.trust();
        assert!((1..=6).all(|member| voided(&trust, member)));
        assert!(matches!(keeper.voiding(part(0, 3, &[7])), Err(KeepError::Voided(_))), "the epoch does not go back");
        assert!(matches!(keeper.heartbeat(server.authority.heartbeat(time())), Err(KeepError::Voided(_))), "nor in heartbeats");
        let kept = place.home().trust().unwrap().unwrap();
        assert_eq!((&kept.statements.voidings, &kept.voided), (&trust.statements.voidings, &trust.voided));
    });
}

#[test]
fn a_refused_ticket_is_final_and_leaves_nothing() {
    run(async {
        let (server, place, supervisor, clock) = (Server::new().await, Place::new(), Supervisor::new(), clock());
        let ticket = server.ticket();
        assert!(matches!(Member::join(place.home(), None, &supervisor, &clock).await, Err(JoinError::NoTicket)));
        let (member, ()) = tokio::join!(Member::join(place.home(), Some(&ticket), &supervisor, &clock), async {
            let (mut session, _) = server.accept().await;
            push(&mut session, Answer::Refused(Refusal::TicketRevoked)).await;
        });
        let Err(JoinError::Enrol(error)) = member.map(|_| ()) else { panic!("refused") };
        assert_eq!(error.to_string(), "the ticket was revoked");
        assert!(place.home().trust().unwrap().is_none());
    });
}

#[test]
fn an_authority_that_is_away_is_waited_for() {
    run(async {
        let (place, supervisor, clock) = (Place::new(), Supervisor::new(), clock());
        let mut server = Server::new().await;
        let address = server.listener.local_addr().unwrap();
        drop(std::mem::replace(&mut server.listener, TcpListener::bind("127.0.0.1:0").await.unwrap()));
        let ticket = server.ticket();
        let home = place.home();
        let (joining, time) = (supervisor.clone(), clock.clone());
        let join = tokio::spawn(async move { Member::join(home, Some(&ticket), &joining, &time).await.map(|_| ()) });
        server.listener = TcpListener::bind(address).await.unwrap();
        let (mut session, _) = server.accept().await;
        push(&mut session, server.info()).await;
        join.await.unwrap().unwrap();
        // And one that never comes is given up when the process stops.
        let (other, place) = (Server::new().await, Place::new());
        let (ticket, home, joining) = (other.ticket(), place.home(), supervisor.clone());
        drop(other);
        let join = tokio::spawn(async move { Member::join(home, Some(&ticket), &joining, &clock).await.map(|_| ()) });
        supervisor.stopping().cancel();
        assert!(matches!(join.await.unwrap(), Err(JoinError::Stopped)));
    });
}

/// A revocation is in force at once; that it is, is said when a restart will not undo it.
#[test]
fn what_the_disk_does_not_take_is_in_force_and_not_acknowledged() {
    run(async {
        let (server, place) = (Server::new().await, Place::new());
        let mut keeper = adopted(place.home(), server.authority.membership()).unwrap();
        let path = place.0.path().join("home/relay/epoch");
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir(&path).unwrap();
        let stored = keeper.stored();
        let voiding =
            |epoch, member| server.authority.sign(&server.authority.voiding(epoch, Identifier::from_bytes([member; 32])));
        assert!(matches!(keeper.voiding(voiding(1, 1)), Err(KeepError::State(_))));
        assert!(voided(&keeper.trust(), 1));
        let heartbeat = server.authority.sign(&Heartbeat { project: server.authority.info.project, epoch: 1, time: time() });
        keeper.heartbeat(heartbeat.clone()).unwrap();
        assert_eq!(*stored.borrow(), 0, "the authority would be told what a restart undoes");
        std::fs::remove_dir(&path).unwrap();
        keeper.heartbeat(heartbeat).unwrap();
        assert_eq!(*stored.borrow(), 1);
        drop(keeper);
        assert!(voided(&place.home().trust().unwrap().unwrap(), 1));
    });
}

/// A disk that is full keeps no retired key alive.
#[test]
fn project_information_that_cannot_be_written_is_in_force_and_is_written_later() {
    run(async {
        let (mut server, place) = (Server::new().await, Place::new());
        let mut keeper = adopted(place.home(), server.authority.membership()).unwrap();
        let path = place.0.path().join("home/relay/membership");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let newer = RingKey::new(&SigningKey::generate().public(), time(), time().plus(SECOND));
        server.authority.info.key_ring = vec![newer.clone()];
        server.authority.info.sequence += 1;
        let told = keeper.project_info(server.authority.project_info(), server.authority.history());
        assert!(matches!(told, Err(KeepError::State(_))));
        assert_eq!(keeper.trust().membership.info().key_ring[0], newer, "the retired key is believed");
        let heartbeat = server.authority.heartbeat(time());
        keeper.heartbeat(heartbeat.clone()).unwrap();
        std::fs::remove_dir(&path).unwrap();
        keeper.heartbeat(heartbeat).unwrap();
        drop(keeper);
        assert_eq!(place.home().trust().unwrap().unwrap().membership.info().key_ring[0], newer);
    });
}

#[test]
fn changes_of_the_identity_at_the_same_time_are_all_kept() {
    let place = Place::new();
    place.home().identity(time()).unwrap();
    let home = Home::open(&place.0.path().join("home")).unwrap();
    let rotate = || place.home().rotate_identity(&home, time(), ChangeReason::Renewed).map(drop);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..8).map(|_| scope.spawn(rotate)).collect();
        for thread in running {
            thread.join().unwrap().unwrap();
        }
    });
    assert_eq!(place.home().identity(time()).unwrap().history().sequence(), 8);
}

#[test]
fn a_damaged_void_list_is_no_empty_one() {
    run(async {
        let (server, place) = (Server::new().await, Place::new());
        let mut keeper = adopted(place.home(), server.authority.membership()).unwrap();
        let voiding = server.authority.voiding(1, Identifier::from_bytes([1; 32]));
        keeper.voiding(server.authority.sign(&voiding)).unwrap();
        drop(keeper);
        let path = place.0.path().join("home/relay/epoch");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() / 2);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(place.home().trust(), Err(StateError::Epoch)));
    });
}
