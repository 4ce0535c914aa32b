//! Two pumps with a real path between them and real applications at both ends.

use postern_proto::aead::Suite;
use postern_proto::secret::SecretBytes;
use postern_proto::stream::{Side, StreamKeys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    dialled.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (dialled, accepted)
}

fn streams() -> (Stream, Stream) {
    let [a, b, c, d] = [(); 4].map(|()| SecretBytes::random());
    let keys = |send_data: &SecretBytes<32>,
                receive_data: &SecretBytes<32>,
                send_control: &SecretBytes<32>,
                receive_control: &SecretBytes<32>| StreamKeys {
        suite: Suite::AesGcm,
        send_data: send_data.clone(),
        receive_data: receive_data.clone(),
        send_control: send_control.clone(),
        receive_control: receive_control.clone(),
    };
    let mut acceptor = Stream::new(Side::Acceptor, keys(&b, &a, &d, &c));
    acceptor.accept();
    (Stream::new(Side::Opener, keys(&a, &b, &c, &d)), acceptor)
}

/// A portal without names: what is written at one end comes out at the other.
struct Portal {
    client: TcpStream,
    server: TcpStream,
    inlet: tokio::task::JoinHandle<(End, Link)>,
    outlet: tokio::task::JoinHandle<(End, Link)>,
    kill: oneshot::Sender<ResetCode>,
    _kill_outlet: oneshot::Sender<ResetCode>,
}

async fn portal() -> Portal {
    let (client, inlet_application) = sockets().await;
    let (outlet_application, server) = sockets().await;
    let (near, far) = sockets().await;
    let (opener, acceptor) = streams();
    let spawn =
        |mut stream: Stream, application: TcpStream, socket: TcpStream, mut kill: oneshot::Receiver<ResetCode>, answered| {
            tokio::spawn(async move {
                let mut link = Link::new(socket);
                let pump = Pump { stream: &mut stream, application: &application, link: &mut link, kill: &mut kill };
                let (end, _) = run(pump, Vec::new(), answered).await;
                if !matches!(end, End::Clean) {
                    reset_application(application);
                }
                (end, link)
            })
        };
    let (kill, killed) = oneshot::channel();
    let (kill_outlet, outlet_killed) = oneshot::channel();
    Portal {
        client,
        server,
        inlet: spawn(opener, inlet_application, near, killed, false),
        outlet: spawn(acceptor, outlet_application, far, outlet_killed, true),
        kill,
        _kill_outlet: kill_outlet,
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[tokio::test]
async fn megabytes_both_ways_at_once_and_a_clean_end() {
    let Portal { client, server, inlet, outlet, kill: _kill, _kill_outlet } = portal().await;
    let sent = pattern(20_000_000);
    let side = |socket: TcpStream, sent: Vec<u8>| async move {
        let (mut read, mut write) = socket.into_split();
        let writer = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        got
    };
    let (at_client, at_server) = tokio::join!(side(client, sent.clone()), side(server, sent.clone()));
    assert!(at_client == sent && at_server == sent);
    let ((a, near), (b, far)) = (inlet.await.unwrap(), outlet.await.unwrap());
    assert!(matches!((a, b), (End::Clean, End::Clean)));
    assert!(near.is_usable() && far.is_usable(), "the path can carry the next stream");
}

/// Behaviour 16: the client shuts its write side, then reads a long answer.
#[tokio::test]
async fn half_close() {
    let Portal { mut client, mut server, inlet, outlet, kill: _kill, _kill_outlet } = portal().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    let answer = pattern(5_000_000);
    let sent = answer.clone();
    tokio::spawn(async move { server.write_all(&sent).await });
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got == answer);
    assert!(matches!((inlet.await.unwrap().0, outlet.await.unwrap().0), (End::Clean, End::Clean)));
}

/// Behaviour 16a: a server that answers before it reads, while the client uploads before it reads.
#[tokio::test]
async fn both_write_before_they_read() {
    let Portal { mut client, mut server, inlet: _inlet, outlet: _outlet, kill: _kill, _kill_outlet } = portal().await;
    // More than all socket buffers hold, less than socket buffers and credit together.
    let bulk = pattern(6_000_000);
    let (sent, expected) = (bulk.clone(), bulk.clone());
    let server = tokio::spawn(async move {
        let (mut read, mut write) = server.split();
        let mut got = vec![0; sent.len()];
        write.write_all(&sent[..1_000_000]).await.unwrap();
        let (written, received) = tokio::join!(write.write_all(&sent[1_000_000..]), read.read_exact(&mut got));
        written.unwrap();
        received.unwrap();
        got
    });
    let (mut read, mut write) = client.split();
    let mut got = vec![0; bulk.len()];
    let (written, received) = tokio::join!(write.write_all(&bulk), read.read_exact(&mut got));
    written.unwrap();
    received.unwrap();
    assert!(got == expected && server.await.unwrap() == expected);
}

/// A reset at one application is a reset at the other, never a clean end.
#[tokio::test]
async fn a_reset_is_a_reset() {
    let Portal { mut client, mut server, inlet, outlet, kill: _kill, _kill_outlet } = portal().await;
    client.write_all(b"x").await.unwrap();
    let mut one = [0];
    server.read_exact(&mut one).await.unwrap();
    reset_application(client);
    let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(inlet.await.unwrap().0, End::Reset(ResetCode::Application)));
    assert!(matches!(outlet.await.unwrap().0, End::ResetByPeer(ResetCode::Application)));
}

/// Behaviour 20: a decision that is taken back ends a live stream.
#[tokio::test]
async fn a_killed_stream_is_reset_at_both_ends() {
    let Portal { mut client, mut server, inlet, outlet, kill, _kill_outlet } = portal().await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    kill.send(ResetCode::Policy).unwrap();
    assert!(client.read_to_end(&mut Vec::new()).await.is_err());
    assert!(server.read_to_end(&mut Vec::new()).await.is_err());
    assert!(matches!(inlet.await.unwrap().0, End::Reset(ResetCode::Policy)));
    assert!(matches!(outlet.await.unwrap().0, End::ResetByPeer(ResetCode::Policy)));
}

/// R2 of the threat model: a path that ends without a FIN is an error at both applications.
#[tokio::test]
async fn a_lost_path_is_no_clean_end() {
    let (mut client, inlet_application) = sockets().await;
    let (near, far) = sockets().await;
    let (mut opener, _) = streams();
    let (_kill, mut killed) = oneshot::channel();
    client.write_all(b"early").await.unwrap();
    let pump = tokio::spawn(async move {
        let mut link = Link::new(near);
        let pump = Pump { stream: &mut opener, application: &inlet_application, link: &mut link, kill: &mut killed };
        let ended = run(pump, b"open".to_vec(), false).await;
        reset_application(inlet_application);
        ended
    });
    let mut far = far;
    let mut got = vec![0; 4 + OVERHEAD + 5];
    far.read_exact(&mut got).await.unwrap();
    assert!(got.starts_with(b"open"));
    drop(far);
    let (end, again) = pump.await.unwrap();
    assert!(matches!(end, End::PathLost { opened: false, .. }));
    assert_eq!(again.as_deref(), Some(&got[..]), "what was said before the answer can be said again, byte for byte");
    assert!(client.read_to_end(&mut Vec::new()).await.is_err());
}
