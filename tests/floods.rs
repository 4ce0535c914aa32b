//! Servers whose port is crowded by connections that never prove who they are.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_test_support::{PATIENCE, TestHome, eventually, resident};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// Connections at a time: twice as many as the servers leave unproven.
const CONNECTIONS: usize = 2_000;

/// From so many neighbourhoods.
const SOURCES: usize = 100;

/// How often one of them says another byte.
const DRIP: Duration = Duration::from_millis(500);

/// What a flood may cost a server in memory.
const MEMORY: u64 = 100 << 20;

/// How long a member waits meanwhile, on a machine that has more to do. An idle one takes some 50 ms.
const LONGEST: Duration = Duration::from_secs(4);

/// A connection from an address of this machine that is no other's.
fn connection(number: usize, to: SocketAddr) -> Option<TcpStream> {
    let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    let source = Ipv4Addr::new(127, 1, (number % SOURCES) as u8, 1 + (number / SOURCES % 250) as u8);
    bind(&socket, &SocketAddrV4::new(source, 0)).ok()?;
    connect(&socket, &to).ok()?;
    Some(TcpStream::from(socket))
}

/// Holds `count` connections, each of which says how a session with the authority begins, and then a byte from time to time; what is closed
/// is opened anew.
fn flood(first: usize, count: usize, to: SocketAddr, stop: &AtomicBool, open: &AtomicUsize) {
    use std::io::Write;

    let mut connections: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for (number, slot) in connections.iter_mut().enumerate() {
            if let Some(connection) = slot {
                if connection.write_all(&[0]).is_err() {
                    *slot = None;
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            } else if let Some(mut connection) = connection(first + number, to) {
                // The preface of the authority's service, and the length of a first message that fits.
                if connection.write_all(b"PSTN\x01\x01\0\0\x04\xc8").is_ok() {
                    *slot = Some(connection);
                    open.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        std::thread::sleep(DRIP);
    }
}

#[test]
fn whoever_proves_nothing_holds_up_nobody() {
    let home = TestHome::new(POSTERN);
    home.ok(&["enroll"]);
    let told = home.json(&["enroll", "--output", "json"]);
    let to: SocketAddr = told["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let (pid, before) = (home.servers_pid(), resident(home.servers_pid()));
    let (stop, open) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (stop, open) = (&stop, &open);
            scope.spawn(move || flood(part * CONNECTIONS / 4, CONNECTIONS / 4, to, stop, open));
        }
        // Whatever fails below, the flood ends.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(PATIENCE, "the flood is there", || (open.load(Ordering::Relaxed) > CONNECTIONS / 3).then_some(()));
            let mut took: Vec<Duration> = (0..20)
                .map(|_| {
                    let since = Instant::now();
                    home.ok(&["project-member", "list"]);
                    since.elapsed()
                })
                .collect();
            took.sort_unstable();
            let more = resident(pid).saturating_sub(before);
            let open = open.load(Ordering::Relaxed);
            println!("{open} open; half of 20 within {:?}, all within {:?}; {} MiB more", took[9], took[19], more >> 20);
            assert!(took[19] < LONGEST, "{took:?}");
            assert!(more < MEMORY, "{more} bytes");
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(home.servers_pid(), pid, "it is the same process");
    home.ok(&["project-member", "list"]);
}
