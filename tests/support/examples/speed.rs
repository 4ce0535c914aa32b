//! A first figure for speed: a portal through a relay beside the same bytes through three plaintext hops that splice, in one run.
//!
//! `cargo build --release -p postern-cli && cargo run --release -p postern-test-support --example speed -- target/release/postern`
//!
//! Everything runs on loopback and ends by itself.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::pipe::SpliceFlags;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const GIB: usize = 1 << 30;
const ROUNDS: usize = 5;
const CONNECTIONS_FOR: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("hop") => hop(arguments.get(2).ok_or("hop needs a target")?.parse()?),
        Some(postern) => compare(Path::new(postern)),
        None => Err("usage: speed PATH-OF-POSTERN".into()),
    }
}

/// A plaintext hop: prints its address, then splices each connection to `target`, both ways.
fn hop(target: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for near in listener.incoming() {
        let near = Arc::new(near?);
        near.set_nodelay(true)?;
        std::thread::spawn(move || -> Result<()> {
            let far = Arc::new(TcpStream::connect(target)?);
            far.set_nodelay(true)?;
            let (near_too, far_too) = (Arc::clone(&near), Arc::clone(&far));
            let back = std::thread::spawn(move || splice(&far_too, &near_too));
            splice(&near, &far)?;
            back.join().map_err(|_| "a hop's thread panicked")?
        });
    }
    Ok(())
}

fn splice(from: &TcpStream, to: &TcpStream) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    // As an ordinary user's pipes may be smaller, a failure changes only the figure.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20);
    loop {
        let mut left = rustix::pipe::splice(from.as_fd(), None, &writer, None, 1 << 20, SpliceFlags::MOVE)?;
        if left == 0 {
            to.shutdown(Shutdown::Write)?;
            return Ok(());
        }
        while left > 0 {
            left -= rustix::pipe::splice(&reader, None, to.as_fd(), None, left, SpliceFlags::MOVE)?;
        }
    }
}

/// Children that end with this process.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn compare(postern: &Path) -> Result<()> {
    let target = serve()?;
    let mut hops = Children(Vec::new());
    let mut chain = target;
    for _ in 0..3 {
        let mut child =
            Command::new(std::env::current_exe()?).args(["hop", &chain.to_string()]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().ok_or("no output")?), &mut line)?;
        chain = line.trim().parse()?;
        hops.0.push(child);
    }
    let portal = Portal::start(postern, target)?;
    let ways = [("direct", target), ("plaintext chain", chain), ("postern", portal.inlet)];
    println!("{:<18}{:>14}{:>14}{:>14}{:>12}{:>12}", "way", "1 stream", "8 streams", "conn/s at 8", "rtt p50", "rtt p99");
    let mut figures = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, (_, address)) in ways.iter().enumerate() {
            let one = throughput(*address, 1)?;
            let eight = throughput(*address, 8)?;
            let connections = connections(*address, 8)?;
            let (p50, p99) = round_trips(*address)?;
            figures[way].push([one, eight, connections, p50, p99]);
        }
    }
    let medians: Vec<[f64; 5]> = figures
        .iter()
        .map(|rounds| {
            std::array::from_fn(|figure| {
                let mut values: Vec<f64> = rounds.iter().map(|round| round[figure]).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            })
        })
        .collect();
    for ((name, _), [one, eight, connections, p50, p99]) in ways.iter().zip(&medians) {
        println!("{name:<18}{one:>9.2} Gb/s{eight:>9.2} Gb/s{connections:>14.0}{p50:>9.1} µs{p99:>9.1} µs");
    }
    let ratio = |figure: usize| medians[2][figure] / medians[1][figure];
    println!(
        "postern / plaintext chain: 1 stream {:.2}, 8 streams {:.2}, connections {:.2}, round trip p50 {:.2}, p99 {:.2} (medians of {ROUNDS} rounds)",
        ratio(0),
        ratio(1),
        ratio(2),
        ratio(3),
        ratio(4)
    );
    Ok(())
}

/// The service: a connection begins with a byte that says what it is for. `d`: takes bytes until the end, then answers with one.
/// `e`: answers each 64 bytes with the same.
fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve_one(socket));
        }
    });
    Ok(address)
}

fn serve_one(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut kind = [0];
    socket.read_exact(&mut kind)?;
    if kind == *b"d" {
        let mut buffer = vec![0; 1 << 20];
        while socket.read(&mut buffer)? > 0 {}
        socket.write_all(b"!")?;
        return Ok(());
    }
    let mut message = [0; 64];
    while socket.read_exact(&mut message).is_ok() {
        socket.write_all(&message)?;
    }
    Ok(())
}

/// Gbit/s of 1 GiB over `streams` connections, until the receiver has acknowledged the last byte.
fn throughput(address: SocketAddr, streams: usize) -> Result<f64> {
    let began = Instant::now();
    let senders: Vec<_> = (0..streams)
        .map(|_| {
            std::thread::spawn(move || -> Result<()> {
                let mut socket = TcpStream::connect(address)?;
                socket.write_all(b"d")?;
                let chunk = vec![0x5a; 1 << 20];
                for _ in 0..GIB / streams / chunk.len() {
                    socket.write_all(&chunk)?;
                }
                socket.shutdown(Shutdown::Write)?;
                Ok(socket.read_exact(&mut [0])?)
            })
        })
        .collect();
    for sender in senders {
        sender.join().map_err(|_| "a sender panicked")??;
    }
    Ok(GIB as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64())
}

/// New connections per second, each with one request of 64 bytes and its answer.
fn connections(address: SocketAddr, concurrency: usize) -> Result<f64> {
    let began = Instant::now();
    let count = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..concurrency)
        .map(|_| {
            let count = Arc::clone(&count);
            std::thread::spawn(move || -> Result<()> {
                while began.elapsed() < CONNECTIONS_FOR {
                    let mut socket = TcpStream::connect(address)?;
                    socket.set_nodelay(true)?;
                    let mut request = [0x5a; 65];
                    request[0] = b'e';
                    socket.write_all(&request)?;
                    socket.read_exact(&mut request[1..])?;
                    socket.shutdown(Shutdown::Write)?;
                    // Until the far end has closed too, so that the connection is whole.
                    let _ = socket.read(&mut [0]);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    Ok(count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// Microseconds of a round trip of 64 bytes on one connection: median and 99th percentile.
fn round_trips(address: SocketAddr) -> Result<(f64, f64)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.write_all(b"e")?;
    let mut message = [0x5a; 64];
    let mut times = Vec::new();
    for _ in 0..5_000 {
        let began = Instant::now();
        socket.write_all(&message)?;
        socket.read_exact(&mut message)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

/// Two companies with homes of their own, and a portal between them.
struct Portal {
    postern: PathBuf,
    homes: tempfile::TempDir,
    inlet: SocketAddr,
}

impl Portal {
    fn start(postern: &Path, target: SocketAddr) -> Result<Self> {
        let mut portal =
            Self { postern: postern.canonicalize()?, homes: tempfile::tempdir()?, inlet: SocketAddr::from(([127, 0, 0, 1], 0)) };
        portal.run("first", &["enroll"])?;
        let ticket = portal.run("first", &["project", "ticket", "--relay", "bench"])?;
        std::fs::write(portal.homes.path().join("a.ticket"), ticket)?;
        let ticket = portal.run("first", &["project", "ticket"])?;
        std::fs::write(portal.homes.path().join("b.ticket"), ticket)?;
        portal.node("a", &format!("{{name: a, relay: bench, tcp-outlet: {{from: bench, to: '{target}'}}}}"))?;
        portal.node("b", "{name: b, tcp-inlet: {from: '127.0.0.1:0', via: bench, to: bench, alias: bench}}")?;
        let shown: serde_json::Value =
            serde_json::from_str(&portal.run("b", &["tcp-inlet", "show", "bench", "--output", "json"])?)?;
        portal.inlet = shown["bind_addr"].as_str().ok_or("the inlet has no address")?.parse()?;
        Ok(portal)
    }

    fn node(&self, home: &str, configuration: &str) -> Result<()> {
        let ticket = self.homes.path().join(format!("{home}.ticket"));
        let ticket = ticket.to_str().ok_or("a path that is no text")?;
        self.run(home, &["node", "create", "--configuration", configuration, "--enrollment-ticket", ticket]).map(drop)
    }

    fn run(&self, home: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.postern).args(arguments).env("POSTERN_HOME", self.homes.path().join(home)).output()?;
        if !output.status.success() {
            return Err(format!("postern {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        for home in ["a", "b", "first"] {
            if let Err(error) = self.run(home, &["reset", "-y"]) {
                eprintln!("{error}");
            }
        }
    }
}
