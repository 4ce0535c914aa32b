//! Whoever has a recording of an honest conversation, or sits where the authority should be.

use postern_proto::handshake::{Initiator, InitiatorAnswered, Label, Responder};
use postern_runtime::session::preferred_choice;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes()[..], body].concat()
}

async fn read_framed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut body = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// The first bytes of a session by `person`, and who goes on with them.
fn first_flight(person: &Person, authority: StaticPublic) -> (Initiator, Vec<u8>) {
    let (initiator, first) = Initiator::new(Label::Authority, preferred_choice(), &person.key, authority).unwrap();
    (initiator, [&Wanted::Authority.preface()[..], &framed(&first)].concat())
}

/// Until nothing of anybody who has proven nothing is left.
async fn nothing_half_open(l: &Listening) {
    let settled = async {
        while l.f.authority.server().0.half_open.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("all of them are gone");
}

async fn audited(l: &Listening) -> u64 {
    crate::testing::checked_log(l.f.authority.service().store()).await.unwrap()
}

/// N3: message 1 again and again: each gets an answer of its own, which nobody can go on from. After 5 s nothing is left of it.
#[tokio::test]
async fn a_replayed_first_message_is_nothing_after_the_deadline() {
    const REPLAYS: usize = 100;
    let l = Listening::new().await;
    let (_, recorded) = first_flight(&l.f.administrator, l.pinned_key());
    let before = audited(&l).await;
    let (mut held, mut answers) = (Vec::new(), std::collections::BTreeSet::new());
    for _ in 0..REPLAYS {
        let mut stream = TcpStream::connect(l.address).await.unwrap();
        stream.write_all(&recorded).await.unwrap();
        answers.insert(read_framed(&mut stream).await.unwrap());
        held.push(stream);
    }
    assert_eq!(answers.len(), REPLAYS, "none is like another");
    assert_eq!(l.f.authority.server().0.half_open.count(), REPLAYS);
    // They wait for a message 3, for so long and no longer.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    nothing_half_open(&l).await;
    for mut stream in held {
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "closed without a word");
    }
    assert_eq!((l.f.authority.server().sessions(), audited(&l).await), (0, before));
}

/// N3: a whole recorded enrolment, message 3 included, is neither a session nor a use of its ticket.
#[tokio::test]
async fn a_replayed_third_message_opens_no_session() {
    let l = Listening::new().await;
    let ticket = l.f.issue(&l.f.administrator, TicketRequest { max_uses: 5, ..request() }).await.unwrap();
    let person = Person::new("person");
    let greeting = minicbor::to_vec(hello(&person, Some((ticket.id, ticket.secret.clone())))).unwrap();
    let (initiator, first) = first_flight(&person, l.pinned_key());
    let mut honest = TcpStream::connect(l.address).await.unwrap();
    honest.write_all(&first).await.unwrap();
    let finish = |answered: (InitiatorAnswered, Vec<u8>)| answered.0.finish(&greeting).unwrap().0;
    let third = finish(initiator.read_answer(&read_framed(&mut honest).await.unwrap()).unwrap());
    honest.write_all(&framed(&third)).await.unwrap();
    read_framed(&mut honest).await.expect("the first words of a session");
    let (members, before) = (l.f.authority.status().await.unwrap().members, audited(&l).await);
    assert_eq!(members, 2);
    for _ in 0..50 {
        let mut stream = TcpStream::connect(l.address).await.unwrap();
        stream.write_all(&first).await.unwrap();
        read_framed(&mut stream).await.unwrap();
        stream.write_all(&framed(&third)).await.unwrap();
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "closed without a word");
    }
    nothing_half_open(&l).await;
    assert_eq!(l.f.authority.server().sessions(), 1, "the honest one");
    assert_eq!((l.f.authority.status().await.unwrap().members, audited(&l).await), (members, before));
}

/// N1: one byte in a second, behind each part of what an honest applicant says first: closed at the deadline, and the place is free.
#[tokio::test]
async fn who_drips_is_closed_at_the_deadline() {
    let l = Listening::new().await;
    let person = Person::new("person");
    for whole in [0, 1, 100, usize::MAX] {
        let (_, first) = first_flight(&person, l.pinned_key());
        // Behind the preface, which whoever accepted the connection has read.
        let first = &first[Wanted::Authority.preface().len()..];
        let (said, rest) = first.split_at(first.len().min(whole));
        // What an honest one says next; of message 3, the beginning of a length that fits.
        let mut next = rest.iter().copied().chain(std::iter::repeat(4));
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        ours.write_all(said).await.unwrap();
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let byte = next.next().unwrap_or_default();
                if ours.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        };
        let server = l.f.authority.server();
        tokio::select! {
            () = server.serve_connection(theirs, l.address) => {}
            () = drip => panic!("it was closed before"),
        }
        assert_eq!(began.elapsed().as_secs(), 5, "behind {whole} bytes");
        assert_eq!(server.0.half_open.count(), 0);
        tokio::time::resume();
    }
}

/// Somebody at the authority's address who does not hold its key, and yet answers: with what it likes, or with what it got elsewhere. It is
/// told nothing behind message 1, in which there is no secret.
#[tokio::test]
async fn a_false_authority_that_answers_is_told_nothing() {
    let l = Listening::new().await;
    let ticket = l.f.issue(&l.f.administrator, request()).await.unwrap();
    let (person, thief) = (Person::new("person"), StaticKey::generate());
    let greeting = hello(&person, Some((ticket.id, ticket.secret.clone())));
    // An answer of the thief's own key to its own message 1, and one of the real authority to somebody else.
    let (_, own) = Initiator::new(Label::Authority, preferred_choice(), &thief, thief.public()).unwrap();
    let own = Responder::read_offer(Label::Authority, &own, &[&thief]).unwrap().answer(&[]).unwrap().1;
    let mut real = TcpStream::connect(l.address).await.unwrap();
    real.write_all(&first_flight(&Person::new("other"), l.pinned_key()).1).await.unwrap();
    let forwarded = read_framed(&mut real).await.unwrap();
    for answer in [own, forwarded, vec![0; 1200], vec![1, 0], vec![1, 1], vec![0], Vec::new()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [listener.local_addr().unwrap().into()];
        let false_authority = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(read_preface(&mut stream).await.unwrap(), Wanted::Authority);
            let first = read_framed(&mut stream).await.unwrap();
            stream.write_all(&framed(&answer)).await.unwrap();
            let mut more = Vec::new();
            let _ = stream.read_to_end(&mut more).await;
            (first, more)
        };
        let pinned = Pinned { addresses: &addresses, static_key: l.pinned_key() };
        let (refused, (first, more)) = tokio::time::timeout(PATIENCE, async {
            tokio::join!(AuthorityClient::connect(&l.tasks, pinned, &person.key, &greeting), false_authority)
        })
        .await
        .unwrap();
        assert!(matches!(refused.map(drop), Err(AuthorityError::Handshake { .. })), "{answer:02x?}");
        assert!(more.is_empty(), "{} bytes were said to somebody unknown", more.len());
        assert!(!first.windows(32).any(|window| window == ticket.secret.expose_secret()));
    }
    assert!(l.enrol(&person, &ticket).await.is_ok(), "the ticket was not spent");
}
