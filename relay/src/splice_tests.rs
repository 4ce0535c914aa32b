use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use super::*;

/// A test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("no hang") });
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Two ends, joined.
async fn joined(splicer: &Splicer) -> (TcpStream, TcpStream, JoinHandle<Report>) {
    let ((a, first), (b, second)) = (pair().await, pair().await);
    let splicer = splicer.clone();
    (a, b, tokio::spawn(async move { splicer.join(first, second).await }))
}

/// Repeats after a prime, so that blocks that were lost, doubled or moved by a buffer's length show.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(65_521)
    .collect();
    let mut bytes = block.repeat(len / block.len() + 1);
    bytes.truncate(len);
    bytes
}

/// Sends each way at once and checks that each arrives.
async fn exchange(a: TcpStream, b: TcpStream, len: usize) -> (TcpStream, TcpStream) {
    async fn side(link: TcpStream, own: u64, other: u64, len: usize) -> TcpStream {
        let (mut read, mut write) = link.into_split();
        let sender = tokio::spawn(async move {
            write.write_all(&pattern(own, len)).await.unwrap();
            write
        });
        let mut got = vec![0; len];
        read.read_exact(&mut got).await.unwrap();
        assert!(got == pattern(other, len), "bytes differ");
        read.reunite(sender.await.unwrap()).unwrap()
    }
    let (a, b) = tokio::join!(tokio::spawn(side(a, 7, 9, len)), tokio::spawn(side(b, 9, 7, len)));
    (a.unwrap(), b.unwrap())
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn every_kind_of_carrier() -> Vec<(&'static str, PoolSettings)> {
    let all = PoolSettings::default();
    vec![
        ("large pipes", all),
        ("pipes of the least size", PoolSettings { pipe_size: 8192, ..all }),
        ("buffers", PoolSettings { pipes: 0, ..all }),
        ("the last resort", PoolSettings { pipes: 0, buffered: 0, ..all }),
        ("one pipe for both directions", PoolSettings { pipes: 1, buffered: 0, ..all }),
    ]
}

#[test]
fn large_transfers_both_ways_at_once_are_equal() {
    run(async {
        for (kind, settings) in every_kind_of_carrier() {
            let splicer = Splicer::new(settings);
            let (a, b, join) = joined(&splicer).await;
            const LEN: usize = 8 << 20;
            let (a, mut b) = exchange(a, b, LEN).await;
            drop(a);
            assert_eq!(b.read(&mut [0]).await.unwrap(), 0, "{kind}");
            drop(b);
            let report = join.await.unwrap();
            assert_eq!((report.forward, report.backward), (LEN as u64, LEN as u64), "{kind}");
            assert!(matches!(report.end, End::Closed(Side::First)), "{kind}: {:?}", report.end);
            assert_eq!(splicer.totals().forward.load(Ordering::Relaxed), LEN as u64);
            assert_eq!((splicer.pool().buffered(), splicer.totals().live.load(Ordering::Relaxed)), (0, 0));
        }
    });
}

#[test]
fn a_message_of_one_byte_passes_at_once() {
    run(async {
        let (mut a, mut b, _join) = joined(&Splicer::new(PoolSettings::default())).await;
        let mut byte = [0];
        for number in 0..500_u32 {
            a.write_all(&[number as u8]).await.unwrap();
            b.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte[0], number as u8);
            b.write_all(&byte).await.unwrap();
            a.read_exact(&mut byte).await.unwrap();
        }
    });
}

/// The far end of `first` reads nothing; the bytes that wait for it leave the pipe, which others then use.
#[test]
fn what_a_slow_reader_leaves_behind_does_not_keep_the_pipe() {
    run(async {
        let splicer = Splicer::new(PoolSettings { pipes: 1, ..PoolSettings::default() });
        let (mut a, mut b, _join) = joined(&splicer).await;
        let len = 32 << 20;
        let writer = tokio::spawn(async move {
            a.write_all(&pattern(3, len)).await.unwrap();
            a
        });
        while splicer.pool().buffered() == 0 {
            tokio::task::yield_now().await;
        }
        let pooled = || splicer.pool().free.lock().unwrap().len();
        while pooled() == 0 {
            tokio::task::yield_now().await;
        }
        let (c, d, _other) = joined(&splicer).await;
        exchange(c, d, 4 << 20).await;
        let mut got = vec![0; len];
        b.read_exact(&mut got).await.unwrap();
        assert!(got == pattern(3, len), "bytes differ");
        writer.await.unwrap();
    });
}

#[test]
fn stalled_joins_hold_bounded_memory_and_stop_nobody() {
    run(async {
        let settings = PoolSettings { pipes: 2, buffered: 300 * 1024, ..PoolSettings::default() };
        let splicer = Splicer::new(settings);
        let mut stalled = Vec::new();
        for _ in 0..12 {
            let (mut a, b, join) = joined(&splicer).await;
            let writer = tokio::spawn(async move { a.write_all(&vec![1; 64 << 20]).await });
            stalled.push((b, join, writer));
        }
        while splicer.pool().buffered() < 128 * 1024 {
            tokio::task::yield_now().await;
        }
        let (c, d, _join) = joined(&splicer).await;
        exchange(c, d, 2 << 20).await;
        assert!(splicer.pool().buffered() <= settings.buffered && splicer.pool().pipes() <= settings.pipes);
        for (b, join, writer) in stalled {
            // A socket that is closed with something unread in it is reset.
            b.peek(&mut [0]).await.unwrap();
            drop(b);
            assert!(matches!(join.await.unwrap().end, End::Failed(Side::Second, _)));
            assert!(writer.await.unwrap().is_err(), "an end that fails resets the other");
        }
        assert_eq!(splicer.pool().buffered(), 0);
    });
}

#[test]
fn an_end_delivers_what_was_read_before_it() {
    run(async {
        for (kind, settings) in every_kind_of_carrier() {
            let (mut a, mut b, join) = joined(&Splicer::new(settings)).await;
            // The other direction is busy, so that the relay closes a link on which unread bytes wait.
            b.write_all(&pattern(5, 1 << 16)).await.unwrap();
            let expected = pattern(6, 3 << 20);
            let writer = tokio::spawn(async move {
                a.write_all(&pattern(6, 3 << 20)).await.unwrap();
                a.shutdown().await.unwrap();
                a
            });
            let mut got = Vec::new();
            b.read_to_end(&mut got).await.unwrap();
            assert!(got == expected, "{kind}: {} of {} bytes", got.len(), expected.len());
            drop((b, writer.await.unwrap()));
            assert!(matches!(join.await.unwrap().end, End::Closed(Side::First)));
        }
    });
}

#[test]
fn an_error_resets_the_other_link_after_delivery() {
    run(async {
        let (mut a, mut b, join) = joined(&Splicer::new(PoolSettings::default())).await;
        a.write_all(b"last words").await.unwrap();
        let mut got = [0; 10];
        b.read_exact(&mut got).await.unwrap();
        a.set_zero_linger().unwrap();
        drop(a);
        let error = b.read(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(join.await.unwrap().end, End::Failed(Side::First, _)));
    });
}

#[test]
fn an_idle_join_holds_no_pipe_and_little_memory() {
    run(async {
        let splicer = Splicer::new(PoolSettings::default());
        let mut joins = Vec::new();
        for _ in 0..50 {
            let (a, b, join) = joined(&splicer).await;
            let (a, b) = exchange(a, b, 1000).await;
            joins.push((a, b, join));
        }
        assert!(splicer.pool().pipes() < 10, "{} pipes for 50 idle joins", splicer.pool().pipes());
        assert_eq!(splicer.pool().buffered(), 0);
        let ((_, first), (_, second)) = (pair().await, pair().await);
        let size = size_of_val(&splicer.join(first, second));
        assert!(size <= 1024, "the future of a join is {size} bytes");
    });
}

#[test]
fn thousands_of_joins_leak_no_descriptor() {
    // The other tests of this process open descriptors, too, so it is counted in a process of its own.
    const MARK: &str = "POSTERN_TEST_DESCRIPTORS";
    if std::env::var_os(MARK).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "splice::tests::thousands_of_joins_leak_no_descriptor", "--nocapture"])
            .env(MARK, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    run(async {
        let settings = PoolSettings { pipes: 8, ..PoolSettings::default() };
        let splicer = Splicer::new(settings);
        let before = descriptors();
        for round in 0..20 {
            let mut joins = Vec::new();
            for _ in 0..100 {
                joins.push(joined(&splicer).await);
            }
            for (index, (mut a, mut b, join)) in joins.into_iter().enumerate() {
                a.write_all(b"x").await.unwrap();
                if index % 3 == round % 3 {
                    join.abort();
                } else {
                    b.read_exact(&mut [0]).await.unwrap();
                }
                drop((a, b));
                let _ = join.await;
            }
        }
        let limit = before + 2 * settings.pipes;
        assert!(descriptors() <= limit, "{} descriptors, {before} before", descriptors());
    });
}

#[test]
fn bytes_in_a_pipe_never_reach_another_join() {
    run(async {
        let splicer = Splicer::new(PoolSettings { pipes: 1, buffered: 0, ..PoolSettings::default() });
        let (mut a, b, join) = joined(&splicer).await;
        let writer = tokio::spawn(async move { a.write_all(&vec![0xee; 64 << 20]).await });
        // Stalled with bytes in the only pipe, and no budget to read them out.
        while !(splicer.pool().pipes() == 1 && splicer.pool().free.lock().unwrap().is_empty()) {
            tokio::task::yield_now().await;
        }
        join.abort();
        let _ = join.await;
        let _ = writer.await;
        drop(b);
        let (c, d, _join) = joined(&splicer).await;
        exchange(c, d, 1 << 20).await;
    });
}

/// A link of a peer whose receive buffer is tiny takes little at a time.
#[test]
fn a_trickling_reader_gets_every_byte() {
    run(async {
        let splicer = Splicer::new(PoolSettings { pipe_size: 64 * 1024, ..PoolSettings::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let (b, second) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
        let (mut b, second) = (b.unwrap(), second.unwrap().0);
        let (mut a, first) = pair().await;
        let join = tokio::spawn(async move { splicer.join(first, second).await });
        let writer = tokio::spawn(async move {
            a.write_all(&pattern(4, 1 << 20)).await.unwrap();
            a.shutdown().await.unwrap();
            a
        });
        let mut got = Vec::new();
        let mut piece = [0; 1500];
        loop {
            match b.read(&mut piece).await.unwrap() {
                0 => break,
                count => got.extend_from_slice(&piece[..count]),
            }
            tokio::task::yield_now().await;
        }
        assert!(got == pattern(4, 1 << 20), "{} bytes", got.len());
        drop((b, writer.await.unwrap()));
        join.await.unwrap();
    });
}
