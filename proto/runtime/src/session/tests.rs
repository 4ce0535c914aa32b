use postern_proto::authority::{Call, Request};
use postern_proto::handshake::Choice;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::net::read_preface;

const LIMIT: usize = 200_000;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled, listener.accept().await.unwrap().0)
}

fn dialling<'a>(local: &'a StaticKey, remote: StaticPublic) -> Connect<'a> {
    Connect { service: Service::RelayControl, label: Label::RelayLink, local, remote, payload: b"who I am", limit: LIMIT }
}

fn answering<'a>(statics: &'a [&'a StaticKey]) -> Accept<'a> {
    Accept { label: Label::RelayLink, statics, payload: b"hello", limit: LIMIT, deadline: Instant::now() + HANDSHAKE_DEADLINE }
}

async fn sessions() -> (Session, Session) {
    let (dialled, mut accepted) = sockets().await;
    let (client, server) = (StaticKey::generate(), StaticKey::generate());
    let (ours, theirs) = tokio::join!(connect(dialled, dialling(&client, server.public())), async {
        assert_eq!(read_preface(&mut accepted).await.unwrap(), Service::RelayControl);
        accept(accepted, answering(&[&server])).await
    });
    let ((ours, hello), (theirs, who)) = (ours.unwrap(), theirs.unwrap());
    assert_eq!((hello.as_slice(), who.as_slice()), (&b"hello"[..], &b"who I am"[..]));
    assert_eq!(ours.finished.remote_static, server.public());
    assert_eq!(theirs.finished.remote_static, client.public());
    assert_eq!(ours.finished.secret.link_session().id, theirs.finished.secret.link_session().id);
    (ours, theirs)
}

#[tokio::test]
async fn messages_go_both_ways_over_sockets() {
    let (mut ours, mut theirs) = sessions().await;
    let big = vec![7; LIMIT];
    let (sent, received) = tokio::join!(ours.sender.send(&big), theirs.receiver.receive());
    sent.unwrap();
    assert_eq!(received.unwrap().unwrap(), big);
    theirs.sender.send(b"").await.unwrap();
    assert_eq!(ours.receiver.receive().await.unwrap().unwrap(), b"");
    theirs.sender.send_message(&Call { number: 7, request: Request::ListProjectPolicies }).await.unwrap();
    assert_eq!(ours.receiver.receive_message::<Call>().await.unwrap().unwrap().number, 7);
    ours.sender.send(b"\x00\x00").await.unwrap();
    assert!(matches!(theirs.receiver.receive_message::<u8>().await, Err(SessionError::Malformed(_))), "bytes behind the message");
    ours.sender.close().await.unwrap();
    assert!(theirs.receiver.receive().await.unwrap().is_none());
}

#[tokio::test]
async fn a_message_over_the_limit_is_not_sent_and_harms_nothing() {
    let (mut ours, mut theirs) = sessions().await;
    assert!(matches!(
        ours.sender.send(&vec![0; LIMIT + 1]).await,
        Err(SessionError::Framing(FramingError::TooLongToSend { .. }))
    ));
    ours.sender.send(b"small").await.unwrap();
    assert_eq!(theirs.receiver.receive().await.unwrap().unwrap(), b"small");
}

/// Polls once and gives up.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn cancelling_loses_nothing() {
    let secret = sessions().await;
    let (mut ours, mut theirs) = secret;
    // Larger than any socket buffer that this machine gives, so that the send stops half way.
    let messages: Vec<Vec<u8>> = (0..100).map(|n| vec![n; LIMIT]).collect();
    let mut sent = 0;
    for message in &messages {
        let done = once(ours.sender.send(message)).await;
        sent += 1;
        if done.is_none() {
            break;
        }
    }
    let rest = tokio::spawn(async move {
        ours.sender.send(b"last").await.unwrap();
        ours
    });
    let mut received = Vec::new();
    loop {
        if let Some(message) = once(theirs.receiver.receive()).await {
            let message = message.unwrap().unwrap();
            if message == b"last" {
                break;
            }
            received.push(message);
        }
        tokio::task::yield_now().await;
    }
    // The cancelled one may have been given up before it was sealed; what was sealed arrived whole and in order.
    assert!(received.len() + 1 >= sent, "{} of {sent}", received.len());
    assert!(received.iter().zip(&messages).all(|(a, b)| a == b));
    drop(rest.await.unwrap());
}

#[tokio::test]
async fn another_key_is_seen_as_a_closed_connection() {
    let (dialled, mut accepted) = sockets().await;
    let (client, server, other) = (StaticKey::generate(), StaticKey::generate(), StaticKey::generate());
    let (ours, theirs) = tokio::join!(connect(dialled, dialling(&client, other.public())), async {
        read_preface(&mut accepted).await.unwrap();
        accept(accepted, answering(&[&server])).await
    });
    assert!(matches!(ours.map(|_| ()), Err(ConnectError::Closed)));
    assert!(matches!(theirs.map(|_| ()), Err(ConnectError::Handshake(HandshakeError::NotAuthentic))));
}

#[tokio::test]
async fn a_newer_peer_is_told_our_version() {
    let (mut dialled, accepted) = sockets().await;
    let server = StaticKey::generate();
    write_frame(&mut dialled, &[2, 1, 9, 9]).await.unwrap();
    let answered = accept(accepted, answering(&[&server])).await.map(|_| ());
    assert!(matches!(answered, Err(ConnectError::Handshake(HandshakeError::Unsupported { version: 2 }))));
    assert_eq!(read_frame(&mut dialled, 10).await.unwrap(), [1, 1]);
}

#[tokio::test]
async fn a_length_over_the_limit_ends_it_before_anything_is_allocated() {
    let (mut dialled, accepted) = sockets().await;
    dialled.write_all(&[0xff, 0xff]).await.unwrap();
    let answered = accept(accepted, answering(&[&StaticKey::generate()])).await.map(|_| ());
    assert!(matches!(answered, Err(ConnectError::Handshake(HandshakeError::Malformed(_)))));
}

/// Every point at which a peer may stop, on the virtual clock: the deadline ends it.
#[tokio::test(start_paused = true)]
async fn whoever_stops_is_gone_after_the_deadline() {
    let (client, server) = (StaticKey::generate(), StaticKey::generate());
    let (_, first) = Initiator::new(Label::RelayLink, Choice::hybrid(Suite::AesGcm), &client, server.public()).unwrap();
    let mut whole = Vec::new();
    push_frame(&mut whole, &first);
    for cut in [0, 1, 2, whole.len() - 1, whole.len()] {
        let (mut dialled, accepted) = tokio::io::duplex(64 * 1024);
        dialled.write_all(&whole[..cut]).await.unwrap();
        let start = Instant::now();
        let answered = accept(accepted, answering(&[&server])).await.map(|_| ());
        assert!(matches!(answered, Err(ConnectError::Timeout)), "after {cut} bytes");
        assert_eq!(start.elapsed(), HANDSHAKE_DEADLINE);
    }
    let (silent, accepted) = tokio::io::duplex(64 * 1024);
    let start = Instant::now();
    let dialled = connect(accepted, dialling(&client, server.public())).await.map(|_| ());
    assert!(matches!(dialled, Err(ConnectError::Timeout)));
    assert_eq!(start.elapsed(), HANDSHAKE_DEADLINE);
    drop(silent);
}

#[tokio::test]
async fn an_end_inside_a_message_is_no_end() {
    let (client, server) = (StaticKey::generate(), StaticKey::generate());
    // A man in the middle that passes the handshake and 100 bytes more.
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let (mut other_far, other_near) = tokio::io::duplex(64 * 1024);
    let middle = tokio::spawn(async move {
        let mut preface = [0; postern_proto::preface::LEN];
        far.read_exact(&mut preface).await.unwrap();
        let first = read_frame(&mut far, MAX_FIRST).await.unwrap();
        write_frame(&mut other_far, &first).await.unwrap();
        let second = read_frame(&mut other_far, MAX_SECOND).await.unwrap();
        write_frame(&mut far, &second).await.unwrap();
        let third = read_frame(&mut far, MAX_THIRD).await.unwrap();
        write_frame(&mut other_far, &third).await.unwrap();
        let mut some = [0; 100];
        far.read_exact(&mut some).await.unwrap();
        other_far.write_all(&some).await.unwrap();
        far
    });
    let statics = [&server];
    let (ours, theirs) = tokio::join!(connect(near, dialling(&client, server.public())), accept(other_near, answering(&statics)));
    let (mut ours, mut theirs) = (ours.unwrap().0, theirs.unwrap().0);
    ours.sender.send(&[0; 1000]).await.unwrap();
    assert!(matches!(theirs.receiver.receive().await, Err(SessionError::Cut)));
    drop(middle.await.unwrap());
}
