//! Two pumps with a real path between them and real applications at both ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use postern_proto::aead::Suite;
use postern_proto::id::{ChannelId, Identifier};
use postern_proto::path::{AttachHead, Open, OpenHead};
use postern_proto::record::{HEADER_LEN, Header, Kind, OVERHEAD, PREFIX_LEN};
use postern_proto::secret::SecretBytes;
use postern_proto::stream::{Attachment, ControlKeys, Side, StreamKeys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::send::MAX_SMALL;
use super::*;
use crate::engine::held::Holdings;
use crate::engine::metrics::ResourceCounts;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    dialled.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (dialled, accepted)
}

/// Control keys of the path of attach number `attach`, for the opener; the acceptor has them the other way round.
fn control_keys(attach: u64) -> ControlKeys {
    let key = |direction: u8| {
        let mut key = [direction; 32];
        key[..8].copy_from_slice(&attach.to_be_bytes());
        SecretBytes::new(key)
    };
    ControlKeys { suite: Suite::AesGcm, send: key(1), receive: key(2) }
}

fn mirrored(keys: ControlKeys) -> ControlKeys {
    ControlKeys { suite: keys.suite, send: keys.receive, receive: keys.send }
}

fn streams() -> (Stream, Stream) {
    let [a, b] = [(); 2].map(|()| SecretBytes::random());
    let keys = |send_data: &SecretBytes<32>, receive_data: &SecretBytes<32>, control: ControlKeys| StreamKeys {
        suite: Suite::AesGcm,
        send_data: send_data.clone(),
        receive_data: receive_data.clone(),
        send_control: control.send,
        receive_control: control.receive,
    };
    let mut acceptor = Stream::new(Side::Acceptor, keys(&b, &a, mirrored(control_keys(0))));
    acceptor.accept();
    (Stream::new(Side::Opener, keys(&a, &b, control_keys(0))), acceptor)
}

/// What a stream stands on beside its sockets.
struct Around {
    signal: Signal,
    resumed: Count,
    counted: Counted,
}

impl Around {
    fn new() -> Self {
        Self { signal: Signal::default(), resumed: Count::default(), counted: Arc::<ResourceCounts>::default().open() }
    }

    /// A stream that nobody brings to another path.
    fn pump<'a>(&'a mut self, stream: &'a mut Stream, application: &'a TcpStream, path: TcpStream) -> Pump<'a> {
        Pump {
            stream,
            application,
            link: Link::new(path),
            signal: &self.signal,
            resume: None,
            patience: Duration::ZERO,
            resumed: &self.resumed,
            counted: &mut self.counted,
            held: Holdings::default().of(Identifier::from_bytes([1; 32])),
            early: Early::default(),
        }
    }
}

/// What the network does to one path: after so many bytes in a direction it cuts the path, or first changes one bit.
#[derive(Debug, Clone, Copy)]
struct Fault {
    after: usize,
    flip: bool,
}

/// A path between two nodes through a network that breaks it.
async fn faulty_path(fault: Option<Fault>) -> (TcpStream, TcpStream) {
    let (near, at_near) = sockets().await;
    let (at_far, far) = sockets().await;
    tokio::spawn(async move {
        let (mut near_read, mut near_write) = at_near.into_split();
        let (mut far_read, mut far_write) = at_far.into_split();
        tokio::select! {
            () = forward(&mut near_read, &mut far_write, fault) => {}
            () = forward(&mut far_read, &mut near_write, fault) => {}
        }
    });
    (near, far)
}

async fn forward(read: &mut tokio::net::tcp::OwnedReadHalf, write: &mut tokio::net::tcp::OwnedWriteHalf, fault: Option<Fault>) {
    let mut left = fault.map_or(usize::MAX, |fault| fault.after);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let most = buffer.len().min(left.max(1));
        let Ok(count @ 1..) = read.read(&mut buffer[..most]).await else { return };
        if left == 0 && fault.is_some_and(|fault| fault.flip) {
            buffer[0] ^= 0x10;
            left = usize::MAX;
        }
        if left == 0 || write.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        left -= count;
    }
}

/// Finds further paths for a portal's stream, and carries its attaches to the other side, as a node would.
struct Finder {
    opener: Arc<Signal>,
    acceptor: Arc<Signal>,
    /// What becomes of the paths to come; whole ones after the last.
    faults: Arc<Mutex<Vec<Fault>>>,
    found: AtomicU64,
    /// Whether other streams are at work beside this one.
    followed: AtomicBool,
}

const STREAM: OpenHead = OpenHead { channel: ChannelId::from_bytes([9; 16]), stream: 2 };

impl Resume for Finder {
    fn ask(&self, _attempt: u32, _since: Instant) {
        self.found.fetch_add(1, Ordering::Relaxed);
        let (opener, acceptor, faults) = (Arc::clone(&self.opener), Arc::clone(&self.acceptor), Arc::clone(&self.faults));
        tokio::spawn(async move {
            let fault = faults.lock().unwrap().pop();
            let (near, far) = faulty_path(fault).await;
            opener.send(Event::Path(Link::new(near), None));
            let mut far = Link::new(far);
            let Ok((header, mut frame)) = far.read_frame(Duration::from_secs(10)).await else { return };
            let Some(head) = AttachHead::of_frame(&frame).filter(|head| header.kind == Kind::Attach && head.head == STREAM)
            else {
                return;
            };
            // A path may have changed it.
            if let Ok(attachment) = Attachment::verify(&mirrored(control_keys(head.attach)), head, &mut frame) {
                acceptor.send(Event::Path(far, Some(attachment)));
            }
        });
    }

    fn attach(&self, stream: &mut Stream, out: &mut Vec<u8>) -> Result<(), StreamError> {
        let attach = stream.attach_number() + 1;
        let open = Open { outlet: "echo".parse().unwrap(), probe: false, hops: 0, mark: None };
        stream.seal_attach(&control_keys(attach), AttachHead { head: STREAM, attach }, Some(open), out)
    }

    fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }
}

/// A portal without names: what is written at one end comes out at the other.
struct Portal {
    client: TcpStream,
    server: TcpStream,
    inlet: tokio::task::JoinHandle<(End, Option<Link>)>,
    outlet: tokio::task::JoinHandle<(End, Option<Link>)>,
    finder: Arc<Finder>,
}

async fn portal() -> Portal {
    faulty_portal(Vec::new(), Duration::ZERO).await
}

/// A portal whose paths have `faults`, the last one first, and that goes on with another path for `patience`.
async fn faulty_portal(mut faults: Vec<Fault>, patience: Duration) -> Portal {
    let (client, inlet_application) = sockets().await;
    let (outlet_application, server) = sockets().await;
    let (near, far) = faulty_path(faults.pop()).await;
    let (opener, acceptor) = streams();
    let finder = Arc::new(Finder {
        opener: Arc::default(),
        acceptor: Arc::default(),
        faults: Arc::new(Mutex::new(faults)),
        found: AtomicU64::new(0),
        followed: AtomicBool::new(false),
    });
    let spawn = |mut stream: Stream, application: TcpStream, socket: TcpStream, opens: bool| {
        let finder = Arc::clone(&finder);
        tokio::spawn(async move {
            let mut around = Around::new();
            let signal = if opens { &finder.opener } else { &finder.acceptor };
            let resume = opens.then_some(&*finder as &dyn Resume);
            let pump = Pump { signal, resume, patience, ..around.pump(&mut stream, &application, socket) };
            let Outcome { end, path, .. } = run(pump, Vec::new()).await;
            if !matches!(end, End::Clean) {
                reset_application(application);
            }
            (end, path)
        })
    };
    Portal {
        client,
        server,
        inlet: spawn(opener, inlet_application, near, true),
        outlet: spawn(acceptor, outlet_application, far, false),
        finder,
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Sends `sent` and takes what comes, both to their clean end.
async fn exchange(socket: TcpStream, sent: Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut read, mut write) = socket.into_split();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    });
    let mut got = Vec::new();
    read.read_to_end(&mut got).await?;
    writer.await.unwrap()?;
    Ok(got)
}

#[tokio::test]
async fn megabytes_both_ways_at_once_and_a_clean_end() {
    let Portal { client, server, inlet, outlet, finder: _finder } = portal().await;
    let sent = pattern(20_000_000);
    let (at_client, at_server) = tokio::join!(exchange(client, sent.clone()), exchange(server, sent.clone()));
    let (at_client, at_server) = (at_client.unwrap(), at_server.unwrap());
    assert!(at_client == sent && at_server == sent);
    let ((a, near), (b, far)) = (inlet.await.unwrap(), outlet.await.unwrap());
    assert!(matches!((a, b), (End::Clean, End::Clean)));
    let (near, far) = (near.unwrap(), far.unwrap());
    assert!(near.is_usable() && far.is_usable(), "the path can carry the next stream");
    assert!(near.buffer.is_none() && far.buffer.is_none(), "and holds no room until then");
}

/// That the peer's end has arrived is said with the next open, or alone; until then the peer's side waits, and neither application does.
#[tokio::test]
async fn the_last_word_goes_with_what_follows() {
    let open: Vec<u8> = Header { kind: Kind::Open, length: 3 }.to_bytes().into_iter().chain(*b"...").collect();
    for follows in [Some(open), None] {
        let Portal { client, server, inlet, outlet, finder } = portal().await;
        finder.followed.store(true, Ordering::Relaxed);
        let answering = tokio::spawn(async move {
            let (mut read, mut write) = server.into_split();
            let mut question = Vec::new();
            read.read_to_end(&mut question).await?;
            write.write_all(&question).await?;
            write.shutdown().await
        });
        assert_eq!(exchange(client, b"question".to_vec()).await.unwrap(), b"question");
        answering.await.unwrap().unwrap();
        let (end, path) = inlet.await.unwrap();
        let mut path = path.unwrap();
        assert!(matches!(end, End::Clean) && path.owes());
        // There is nothing that it could end by.
        assert!(!outlet.is_finished());
        match &follows {
            Some(open) => path.write_all(open.as_slice(), Duration::from_secs(10)).await.unwrap(),
            None => assert!(path.settle()),
        }
        assert!(!path.owes() && path.settle(), "said once");
        let (end, far) = outlet.await.unwrap();
        assert!(matches!(end, End::Clean));
        if follows.is_some() {
            let (header, _) = far.unwrap().read_frame(Duration::from_secs(10)).await.unwrap();
            assert_eq!(header.kind, Kind::Open);
        }
    }
}

/// Behaviour 16: the client shuts its write side, then reads a long answer.
#[tokio::test]
async fn half_close() {
    let Portal { mut client, mut server, inlet, outlet, finder: _finder } = portal().await;
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
    let Portal { mut client, mut server, inlet: _inlet, outlet: _outlet, finder: _finder } = portal().await;
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
    let Portal { mut client, mut server, inlet, outlet, finder: _finder } = portal().await;
    client.write_all(b"x").await.unwrap();
    let mut one = [0];
    server.read_exact(&mut one).await.unwrap();
    reset_application(client);
    let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(inlet.await.unwrap().0, End::Reset { code: ResetCode::Application }));
    assert!(matches!(outlet.await.unwrap().0, End::ResetByPeer(ResetCode::Application)));
}

/// Behaviour 20: a decision that is taken back ends a live stream.
#[tokio::test]
async fn a_killed_stream_is_reset_at_both_ends() {
    let Portal { mut client, mut server, inlet, outlet, finder } = portal().await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    finder.opener.send(Event::Kill(ResetCode::Policy));
    assert!(client.read_to_end(&mut Vec::new()).await.is_err());
    assert!(server.read_to_end(&mut Vec::new()).await.is_err());
    assert!(matches!(inlet.await.unwrap().0, End::Reset { code: ResetCode::Policy }));
    assert!(matches!(outlet.await.unwrap().0, End::ResetByPeer(ResetCode::Policy)));
}

/// R2 of the threat model: a path that ends without a FIN, and has no successor, is an error at both applications.
#[tokio::test]
async fn a_lost_path_is_no_clean_end() {
    let fault = Fault { after: 100_000, flip: false };
    let Portal { client, server, inlet, outlet, finder: _finder } = faulty_portal(vec![fault], Duration::ZERO).await;
    let (at_client, at_server) = tokio::join!(exchange(client, pattern(1_000_000)), exchange(server, pattern(1_000_000)));
    assert!(at_client.is_err() && at_server.is_err());
    assert!(matches!(inlet.await.unwrap().0, End::PathLost { .. } | End::NotOpened(_)));
    assert!(matches!(outlet.await.unwrap().0, End::PathLost { .. }));
}

/// Without a word from the opener, the acceptor's side gives a stream up when its patience ends.
#[tokio::test]
async fn a_stream_that_nobody_brings_back_is_reset() {
    let (_client, inlet_application) = sockets().await;
    let (near, far) = sockets().await;
    let (_, mut acceptor) = streams();
    drop(far);
    let mut around = Around::new();
    let patience = Duration::from_millis(500);
    let pump = Pump { patience, ..around.pump(&mut acceptor, &inlet_application, near) };
    let before = cpu_time();
    assert!(matches!(run(pump, Vec::new()).await.end, End::PathLost { .. }));
    let used = cpu_time() - before;
    assert!(used < patience / 2, "it does nothing while it waits, and used {used:?} of the processor");
}

/// What the processor did for this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The control stream is another path, and may be the faster one.
#[tokio::test]
async fn what_was_sent_before_a_reset_arrives_before_it() {
    let Portal { mut client, mut server, inlet, outlet: _outlet, finder } = portal().await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    let answer = pattern(10_000);
    server.write_all(&answer).await.unwrap();
    finder.opener.send(Event::Reset(ResetCode::Application));
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, answer);
    assert!(client.read_exact(&mut [0]).await.is_err(), "the reset follows, though the path did not bring it");
    assert!(matches!(inlet.await.unwrap().0, End::ResetByPeer(ResetCode::Application)));
}

/// A stream outlives its links. Cuts and flips at many offsets, both ways: the applications notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_broken_paths_change_no_byte() {
    let mut seed = 7_u32;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    // More where `PROPTEST_CASES` asks for more.
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(0);
    let mut broken = 0;
    while broken < asked.max(200) {
        // Early offsets break opens, attaches and their answers; late ones data and acknowledgements.
        let faults: Vec<Fault> = (0..10)
            .map(|_| {
                let after = match random(4) {
                    0 => random(200),
                    1 => random(20_000),
                    _ => random(2_000_000),
                };
                Fault { after, flip: random(2) == 0 }
            })
            .collect();
        let Portal { client, server, inlet, outlet, finder } = faulty_portal(faults.clone(), Duration::from_secs(60)).await;
        let (up, down) = (pattern(3_000_000 + random(999)), pattern(2_000_000 + random(999)));
        let (at_client, at_server) = tokio::join!(exchange(client, up.clone()), exchange(server, down.clone()));
        assert!(at_client.unwrap() == down && at_server.unwrap() == up, "{faults:?}");
        let ends = (inlet.await.unwrap().0, outlet.await.unwrap().0);
        assert!(matches!(ends, (End::Clean, End::Clean)), "{ends:?} {faults:?}");
        broken += finder.found.load(Ordering::Relaxed);
    }
}

/// Bytes that are late, while nothing else happens, on a clock that goes as fast as the test.
async fn after(pause: Duration, from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    tokio::time::sleep(pause).await;
    from.write_all(b"late").await?;
    to.read_exact(&mut [0; 4]).await.map(|_| ())
}

/// A half-closed connection waits for an answer for as long as it lasts, if something comes once in an hour.
#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_waits_long_for_its_answer() {
    let Portal { mut client, mut server, inlet, outlet, finder: _finder } = portal().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    server.read_to_end(&mut Vec::new()).await.unwrap();
    for minutes in [10, 59, 59] {
        after(Duration::from_secs(minutes * 60), &mut server, &mut client).await.unwrap();
    }
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert!(matches!((inlet.await.unwrap().0, outlet.await.unwrap().0), (End::Clean, End::Clean)));
}

/// And is reset at both ends where nothing comes.
#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_is_not_kept_for_ever() {
    let Portal { mut client, mut server, inlet, outlet, finder: _finder } = portal().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    server.read_to_end(&mut Vec::new()).await.unwrap();
    let begun = Instant::now();
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let waited = begun.elapsed();
    assert!(waited >= HALF_CLOSED_TIMEOUT && waited < HALF_CLOSED_TIMEOUT + Duration::from_secs(60), "{waited:?}");
    assert!(server.write_all(b"too late").await.is_err() || server.read(&mut [0]).await.is_err());
    let ends = (inlet.await.unwrap().0, outlet.await.unwrap().0);
    assert!(!matches!(ends.0, End::Clean) && !matches!(ends.1, End::Clean), "{ends:?}");
}

/// One that is open at both ends may be silent for as long as it likes.
#[tokio::test(start_paused = true)]
async fn an_open_connection_may_be_silent_for_a_week() {
    let Portal { mut client, mut server, inlet: _inlet, outlet: _outlet, finder: _finder } = portal().await;
    for _ in 0..2 {
        after(Duration::from_secs(7 * 24 * 3600), &mut client, &mut server).await.unwrap();
        after(Duration::from_secs(7 * 24 * 3600), &mut server, &mut client).await.unwrap();
    }
}

/// What an outlet's side, whose target has said `said`, writes to its path first.
async fn first_words(said: &[u8]) -> Vec<u8> {
    let (application, mut target) = sockets().await;
    let (near, far) = sockets().await;
    let (_, mut stream) = streams();
    target.write_all(said).await.unwrap();
    let mut around = Around::new();
    let pump = around.pump(&mut stream, &application, far);
    let mut words = vec![0; 1024];
    let mut near = near;
    tokio::select! {
        outcome = run(pump, Vec::new()) => panic!("ended: {outcome:?}"),
        count = near.read(&mut words) => words.truncate(count.unwrap()),
    }
    words
}

/// The kinds of the frames that `bytes` are.
fn kinds(mut bytes: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while let Some(header) = bytes.first_chunk() {
        let header = postern_proto::record::Header::parse(*header).unwrap();
        kinds.push(header.kind);
        bytes = &bytes[HEADER_LEN + header.length..];
    }
    kinds
}

#[tokio::test]
async fn an_accept_goes_with_the_first_bytes_of_the_target() {
    assert_eq!(kinds(&first_words(b"SSH-2.0").await), [Kind::Control, Kind::Data]);
}

#[tokio::test]
async fn an_accept_does_not_wait_for_a_silent_target() {
    assert_eq!(kinds(&first_words(b"").await), [Kind::Control]);
}

/// What an application writes in the smallest pieces arrives as it was written.
#[tokio::test]
async fn a_hundred_thousand_single_bytes() {
    let Portal { mut client, server, inlet, outlet, finder: _finder } = portal().await;
    let sent = pattern(100_000);
    let writing = async {
        for byte in &sent {
            client.write_all(std::slice::from_ref(byte)).await.unwrap();
        }
        client.shutdown().await.unwrap();
    };
    let (mut read, mut write) = server.into_split();
    let mut got = Vec::new();
    let reading = async {
        read.read_to_end(&mut got).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(writing, reading);
    assert!(got == sent);
    assert!(matches!((inlet.await.unwrap().0, outlet.await.unwrap().0), (End::Clean, End::Clean)));
}

/// An outlet's side of a stream, whose opener is the test.
struct Modified {
    /// The opener's end of the path.
    path: TcpStream,
    target: TcpStream,
    opener: Stream,
    /// The opener's control records.
    control: postern_proto::record::ControlSealer,
}

impl Modified {
    /// Runs `what` beside the rounds of the outlet's side, which `each` looks at.
    async fn beside<T>(what: impl AsyncFnOnce(Self) -> T, mut each: impl FnMut(&mut State<'_>)) -> T {
        let (application, target) = sockets().await;
        // A path that takes little, so that it is soon full.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = tokio::net::TcpSocket::new_v4().unwrap();
        path.set_recv_buffer_size(4096).unwrap();
        let path = path.connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        far.set_nodelay(true).unwrap();
        SockRef::from(&far).set_send_buffer_size(4096).unwrap();
        let (opener, mut stream) = streams();
        let control = postern_proto::record::ControlSealer::new(Suite::AesGcm, &control_keys(0).send);
        let mut around = Around::new();
        let pump = around.pump(&mut stream, &application, far);
        let mut state = State::new(pump, Vec::new()).unwrap();
        let rounds = async {
            loop {
                let progress = state.round();
                if let Some(end) = progress.end {
                    panic!("it ended: {end:?}");
                }
                each(&mut state);
                if progress.moved {
                    tokio::task::yield_now().await;
                } else {
                    // Whatever can happen; the next round sees what it was.
                    let link = state.link.as_ref().unwrap();
                    tokio::select! {
                        ready = link.socket.readable() => ready.unwrap(),
                        () = tokio::time::sleep(Duration::from_millis(5)) => {}
                    }
                }
            }
        };
        tokio::select! {
            () = rounds => unreachable!("they do not end"),
            done = what(Self { path, target, opener, control }) => done,
        }
    }
}

/// A peer that asks without end, and reads no answer.
#[tokio::test]
async fn answers_that_nobody_reads_are_not_kept() {
    let (most, reads) = (std::cell::Cell::new(0), std::cell::Cell::new(0_u64));
    let flood = async |mut modified: Modified| {
        // How much the kernel takes before the path is full, is its own affair; then there are a thousand more.
        let (mut number, mut more) = (0, 1_000);
        while more > 0 {
            (number, more) = (number + 1, more - u64::from(most.get() >= MAX_SMALL));
            assert!(number < 100_000, "the path was never full");
            let mut ping = Vec::new();
            modified.control.seal(postern_proto::record::Control::Ping { number }, &mut ping).unwrap();
            let before = reads.get();
            modified.path.write_all(&ping).await.unwrap();
            // One by one: each is answered by itself, if it is.
            while reads.get() == before {
                tokio::task::yield_now().await;
            }
        }
        let record = &mut [0; OVERHEAD + 5];
        record[PREFIX_LEN..PREFIX_LEN + 5].copy_from_slice(b"still");
        modified.opener.seal_data(record).unwrap();
        modified.path.write_all(record).await.unwrap();
        let mut got = [0; 5];
        modified.target.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"still");
    };
    Modified::beside(flood, |state| {
        most.set(most.get().max(state.small.len()));
        reads.set(reads.get() + u64::from(std::mem::take(&mut state.heard)));
    })
    .await;
    assert!(most.get() < 2 * MAX_SMALL, "{} bytes wait", most.get());
}

/// Records without a byte: each is counted and acknowledged, none is kept or handed on.
#[tokio::test]
async fn empty_records_without_end_are_nothing() {
    let flood = async |mut modified: Modified| {
        let (mut from, mut to) = modified.path.into_split();
        let drained = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
        for _ in 0..100 {
            let mut records = Vec::new();
            for _ in 0..1_000 {
                let mut record = [0; OVERHEAD];
                modified.opener.seal_data(&mut record).unwrap();
                records.extend_from_slice(&record);
            }
            to.write_all(&records).await.unwrap();
        }
        let mut record = [0; OVERHEAD + 1];
        modified.opener.seal_data(&mut record).unwrap();
        to.write_all(&record).await.unwrap();
        let mut got = [1; 2];
        assert_eq!(modified.target.read(&mut got).await.unwrap(), 1, "the one byte that was sent");
        drained.abort();
    };
    Modified::beside(flood, |state| {
        assert!(state.small.len() < 2 * MAX_SMALL && state.backlog.is_empty() && state.outbox.kept() == 0);
    })
    .await;
}

/// More on the path behind a stream's end than any buffer takes, while the application has not taken all of the stream: the thread goes on.
#[test]
fn what_follows_a_stream_that_its_application_has_not_taken_waits() {
    let follows = async {
        let ((far, path), (application, target)) = (sockets().await, sockets().await);
        SockRef::from(&application).set_send_buffer_size(4096).unwrap();
        SockRef::from(&target).set_recv_buffer_size(4096).unwrap();
        let (mut opener, mut acceptor) = streams();
        let carrying = tokio::spawn(async move {
            let mut around = Around::new();
            run(around.pump(&mut acceptor, &application, path), Vec::new()).await.end
        });
        let (mut from, mut to) = target.into_split();
        to.shutdown().await.unwrap();
        let mut far = Link::new(far);
        let mut said = Vec::new();
        for _ in 0..4 {
            let mut record = vec![7; OVERHEAD + 60_000];
            opener.seal_data(&mut record).unwrap();
            said.extend_from_slice(&record);
        }
        said.extend_from_slice(&opener.seal_fin().unwrap());
        far.write_all(&said, Duration::from_secs(10)).await.unwrap();
        while !(opener.peer_finished() && opener.acknowledged() == opener.sent()) {
            let (header, mut record) = far.read_frame(Duration::from_secs(10)).await.unwrap();
            opener.handle_record(header, &mut record).unwrap();
        }
        let mut last = Vec::new();
        opener.poll_transmit(&mut last).unwrap();
        assert!(opener.is_finished());
        last.resize(16 * 1024 * 1024, 0xff);
        // As much as the kernel takes: nobody reads it.
        let _ = far.write_all(&last, Duration::from_millis(500)).await;
        assert!(!carrying.is_finished(), "the application has not taken all");
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 4 * 60_000);
        assert!(matches!(carrying.await.unwrap(), End::Clean));
    };
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(follows);
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("the thread still runs");
}
