//! Members with modified clients: what they say on a channel that is theirs, and how little comes of it.

use std::sync::atomic::{AtomicUsize, Ordering as Memory};

use postern_proto::path::{ChannelMessage, Open, OpenHead};
use postern_proto::record::{Header, Kind, ResetCode};
use postern_proto::stream::{Received, Stream};

use super::*;
use crate::engine::channel::{Channel, Control, OpenError};
use crate::engine::link::Link;
use crate::engine::live::{Event, Through};

const PATIENCE: Duration = Duration::from_secs(10);

/// How often somebody does what may be done without end: 100,000 times where `POSTERN_TEST_LONG` is set.
fn many() -> u64 {
    if std::env::var_os("POSTERN_TEST_LONG").is_some() { 100_000 } else { 25_000 }
}

/// A target that counts who comes, and echoes.
async fn counting_echo() -> (HostPort, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Memory::Relaxed);
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (HostPort::from(address), count)
}

/// `b` with an outlet `echo`, `c` with an inlet to it, and `a`, whose client is modified.
struct Rig {
    a: Engine,
    b: Engine,
    _c: Engine,
    honest: InletSpec,
    reached: Arc<AtomicUsize>,
    address: HostPort,
    _home: TestHome,
}

impl Rig {
    async fn new() -> Self {
        let home = TestHome::new();
        let (a, b, c) = (home.node("a").await, home.node("b").await, home.node("c").await);
        let (to, reached) = counting_echo().await;
        b.add_outlet(outlet("echo", to)).await;
        let honest = c.add_inlet(inlet("in", "/node/b/service/echo")).await.unwrap();
        a.shared.trust.watch_own().wait_for(Option::is_some).await.unwrap();
        let address = b.shared.presence_of(&"b".parse().unwrap()).unwrap().address;
        let rig = Self { a, b, _c: c, honest, reached, address, _home: home };
        rig.others_are_served().await;
        rig
    }

    async fn others_are_served(&self) {
        let asked = tokio::time::timeout(PATIENCE, ask(&self.honest, b"question")).await.expect("an answer in time");
        assert_eq!(asked.unwrap(), b"question");
    }

    async fn path(&self) -> Link {
        Link::new(self.a.shared.direct.dial(&self.a.shared.trust, &self.address).await.unwrap().0)
    }

    async fn channel(&self) -> (Arc<Channel>, Control) {
        let (socket, peer) = self.a.shared.direct.dial(&self.a.shared.trust, &self.address).await.unwrap();
        channel::dial(&self.a.shared.trust, &peer, Link::new(socket), false).await.unwrap()
    }

    /// Everything of `channel` is over, and the node has kept nothing of it.
    async fn nothing_lives(&self) {
        tokio::time::timeout(PATIENCE, self.b.shared.live.drained()).await.expect("no stream lives");
    }
}

/// An open that asks for `outlet`, which may be no name at all.
fn open(channel: &Channel, outlet: &[u8], is_text: bool) -> Option<(u64, Vec<u8>, Stream)> {
    let mut text = vec![0xa3, 0x00];
    let length = (outlet.len() as u16).to_be_bytes();
    text.extend([if is_text { 0x79 } else { 0x59 }, length[0], length[1]]);
    text.extend_from_slice(outlet);
    text.extend([0x01, 0xf4, 0x02, 0x00]);
    let (id, mut stream) = channel.open_stream();
    let mut frame = Vec::new();
    let head = OpenHead { channel: channel.id(), stream: id }.to_bytes();
    stream.seal_open(&head, text, &mut frame).ok()?;
    Some((id, frame, stream))
}

/// M3: a peer that asks for a target, a path, or what is no name: closed without an answer, and nothing is dialled.
#[tokio::test]
async fn an_outlet_that_has_no_name_reaches_no_target() {
    let rig = Rig::new().await;
    let (channel, _control) = rig.channel().await;
    let before = rig.reached.load(Memory::Relaxed);
    let (dot, many) = ("echo.".repeat(20), "a".repeat(3_000));
    let names: [&[u8]; 14] = [
        b"x:80",
        b"127.0.0.1:22",
        b"echo:80",
        b"../",
        b"..",
        b"echo/../echo",
        b"/node/b/service/echo",
        b"echo\0",
        b"\0",
        b"",
        b" echo",
        "ech\u{f6}".as_bytes(),
        dot.as_bytes(),
        many.as_bytes(),
    ];
    for name in names {
        for is_text in [true, false] {
            let (_, frame, _) = open(&channel, name, is_text).expect("it fits into a frame");
            let mut path = rig.path().await;
            path.write_all(&frame, PATIENCE).await.unwrap();
            assert!(path.read_frame(PATIENCE).await.is_err(), "{:?} was answered", String::from_utf8_lossy(name));
        }
    }
    // As bytes, even a name is none.
    let (_, frame, _) = open(&channel, b"echo", false).unwrap();
    let mut path = rig.path().await;
    path.write_all(&frame, PATIENCE).await.unwrap();
    assert!(path.read_frame(PATIENCE).await.is_err());
    // No frame has room for 64 KiB, and one that says so is not waited for.
    assert!(open(&channel, &[b'a'; 65_000], true).is_none());
    let mut path = rig.path().await;
    path.write_all(&Header { kind: Kind::Open, length: 65_536 - 16 }.to_bytes(), PATIENCE).await.unwrap();
    assert!(path.read_frame(PATIENCE).await.is_err());
    assert_eq!(rig.reached.load(Memory::Relaxed), before, "no target was dialled");
    let asker = rig.a.shared.trust.identifier;
    let noted = rig.b.shared.refusals.all();
    let noted: Vec<_> = noted.iter().filter(|refusal| refusal.code.as_str() == "STREAM_ID").collect();
    assert!(noted.iter().all(|refusal| refusal.peer == Some(asker)));
    // Written down for whoever looks, and not more often than is kept of anything.
    assert!((20..=32).contains(&noted.len()), "{}", noted.len());
    // The same frame with a name in it, and with one that is not there.
    for (name, reached) in [(&b"missing"[..], 0), (b"echo", 1)] {
        let (_, frame, mut stream) = open(&channel, name, true).unwrap();
        let mut path = rig.path().await;
        path.write_all(&frame, PATIENCE).await.unwrap();
        let (header, mut record) = path.read_frame(PATIENCE).await.unwrap();
        let answer = stream.handle_record(header, &mut record).unwrap();
        assert_eq!(matches!(answer, Received::Accepted), reached == 1, "{answer:?}");
    }
    while rig.reached.load(Memory::Relaxed) != before + 1 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(rig.b.shared.peers.by_id(channel.id()).is_some(), "the channel itself was not to blame");
    rig.others_are_served().await;
    rig.b.shutdown(Duration::ZERO).await;
}

/// Streams that are given up without end, and opens of what is not there. The node keeps what it keeps of anybody, and others are served.
#[tokio::test]
async fn resets_and_opens_without_end_change_nothing() {
    let rig = Rig::new().await;
    let (mut channel, mut control) = rig.channel().await;
    // Ids that were never used, some again and again; those that the other side opens; and the last one.
    for number in 0..many() {
        let stream = match number % 4 {
            0 => 4 * number,
            1 => 4 * (number - 1),
            2 => number | 1,
            _ => u64::MAX - 1,
        };
        let code = (number % 12) as u8;
        if control.say(&ChannelMessage::Reset { stream, code }).await.is_err() {
            // Its credit is used up, because it reads nothing.
            (channel, control) = rig.channel().await;
            control.say(&ChannelMessage::Reset { stream, code }).await.unwrap();
        }
        if number.is_multiple_of(10_000) {
            rig.others_are_served().await;
        }
    }
    let far = rig.b.shared.peers.by_id(channel.id()).expect("a channel");
    assert_eq!(rig.b.shared.live.total(), 0);
    // Forged, for ids of either side: none is taken, and none is remembered.
    for number in 0..many() {
        let head = OpenHead { channel: channel.id(), stream: number };
        let mut frame = Header { kind: Kind::Open, length: OpenHead::LEN + 40 }.to_bytes().to_vec();
        frame.extend(head.to_bytes());
        frame.extend([0; 40]);
        assert!(far.accept_open(head, &mut frame).is_err());
    }
    // Real ones, one path each, half of them given up at once, whose answers nobody reads.
    let (channel, mut control) = rig.channel().await;
    for number in 0..300 {
        let (id, frame, _) = open(&channel, if number % 3 == 0 { b"echo" } else { b"missing" }, true).unwrap();
        let mut path = rig.path().await;
        path.write_all(&frame, PATIENCE).await.unwrap();
        if number % 2 == 0 {
            control.say(&ChannelMessage::Reset { stream: id, code: 1 }).await.unwrap();
        }
    }
    rig.others_are_served().await;
    assert!(rig.b.shared.refusals.all().len() <= 64, "those of one kind are kept together");
    channel.close();
    rig.a.shutdown(Duration::ZERO).await;
    rig.b.shared.live.review(|live, _, _| (live.id() == channel.id()).then_some(postern_proto::record::ResetCode::LinkLost));
    rig.nothing_lives().await;
    rig.others_are_served().await;
}

/// N2: whoever speaks something else to a node's listener, or stops in the middle: closed without a byte, and the node serves on.
#[tokio::test]
async fn noise_on_a_node_s_port_is_closed_without_an_answer() {
    use postern_proto::preface::Service;

    let rig = Rig::new().await;
    let peer = Service::Peer.preface();
    let behind = |rest: &[u8]| [&peer[..], rest].concat();
    // The beginning of a ClientHello: a record of 512 bytes, a handshake of 508.
    let tls = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[7; 500]].concat();
    let noise = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        tls.clone(),
        vec![0; 64],
        vec![0xff; 5_000],
        Service::Authority.preface().to_vec(),
        Service::RelayControl.preface().to_vec(),
        peer[..4].to_vec(),
        behind(&tls),
        behind(&[0xff, 0xff]),
        behind(&[0x10, 0x01]),
        behind(&[0, 0]),
        behind(&[&[0, 64][..], &[0; 64]].concat()),
        behind(&[0, 64, 0xa4, 0x00]),
    ];
    for bytes in noise {
        let mut socket = TcpStream::connect(rig.address.to_string()).await.unwrap();
        // It may be closed before all of it was said.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        // Closing with unread input resets; either way there is not one byte.
        let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it is closed");
        assert_eq!(answer, b"", "{:?}", String::from_utf8_lossy(&bytes));
    }
    rig.others_are_served().await;
}

/// N1: whoever says a byte now and then has no more time for it than others, and one that holds many connections crowds out its own: members are
/// served meanwhile.
#[tokio::test]
async fn who_drips_on_a_node_s_port_is_closed_at_the_deadline() {
    use postern_proto::preface::Service;

    let rig = Rig::new().await;
    let began = std::time::Instant::now();
    let mut dripping = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut socket = TcpStream::connect(rig.address.to_string()).await.unwrap();
        dripping.spawn(async move {
            // The knock's length is one that it may have.
            let said = [&Service::Peer.preface()[..], &[0x04, 0x00]].concat();
            if socket.write_all(&said).await.is_err() {
                return began.elapsed();
            }
            let (mut read, mut write) = socket.into_split();
            let drip = async {
                while write.write_all(&[0xa4]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            };
            let mut nothing = [0];
            tokio::select! {
                _ = read.read(&mut nothing) => {}
                () = drip => {}
            }
            began.elapsed()
        });
    }
    rig.others_are_served().await;
    let (mut crowded_out, mut late) = (0, 0);
    while let Some(closed) = dripping.join_next().await {
        match closed.unwrap() {
            early if early < Duration::from_millis(4_500) => crowded_out += 1,
            closed => {
                assert!(closed < PATIENCE, "{closed:?}");
                late += 1;
            }
        }
    }
    // One neighbourhood has 64 places. A machine that has more to do may take until the deadline for all of them.
    assert!(crowded_out > 0 && late > 0, "{crowded_out} were crowded out, {late} were closed at the deadline");
    rig.others_are_served().await;
}

/// The word that a stream was given up travels on the control stream, and overtakes its open, or the moment in which it goes live.
#[tokio::test]
async fn a_stream_is_given_up_before_it_lives() {
    let (_home, a, b, to) = echoing_pair().await;
    let ours = channel_of(&a, &to).await;
    let theirs = b.shared.peers.by_id(ours.id()).unwrap();
    let open = Open { outlet: "echo".parse().unwrap(), probe: false, hops: 0, mark: None };
    let begin = || crate::engine::inlet::begin(&ours, &open).unwrap();

    let (id, _stream, mut frame) = begin();
    theirs.reset_by_peer(id, ResetCode::Application as u8);
    let late = theirs.accept_open(OpenHead::of_frame(&frame).unwrap(), &mut frame);
    assert!(matches!(late.map(drop), Err(OpenError::GivenUp)));

    let (id, _stream, mut frame) = begin();
    theirs.accept_open(OpenHead::of_frame(&frame).unwrap(), &mut frame).unwrap();
    theirs.reset_by_peer(id, ResetCode::Application as u8);
    let live = b.shared.live.enter(&theirs, id, Through::Outlet("echo".parse().unwrap()));
    assert!(matches!(live.signal.take(), Some(Event::Reset(ResetCode::Application))));
}
