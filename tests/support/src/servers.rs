//! Services to reach through portals, in the test's process, each on a free port.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A connection on which nothing comes for this long is given up, so that no thread outlives a test for long.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves each connection on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct TcpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl TcpServer {
    /// `serve` handles one connection; its errors end that connection and nothing else.
    #[must_use]
    pub fn start(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), serve)
    }

    /// The same on a listener that the test has made.
    #[must_use]
    pub fn start_on(listener: TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().expect("an address");
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let serve = Arc::new(serve);
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&accepted));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                count.fetch_add(1, Ordering::AcqRel);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(SILENCE))?;
                    stream.set_nodelay(true)?;
                    serve(stream)
                });
            }
        });
        Self { address, stop, accepted }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections have come.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread that accepts; where that fails, it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

macro_rules! is_a_tcp_server {
    ($name:ty) => {
        impl std::ops::Deref for $name {
            type Target = TcpServer;

            fn deref(&self) -> &TcpServer {
                &self.server
            }
        }
    };
}

/// Sends back what comes, and ends its half when the client ends its.
#[derive(Debug)]
pub struct EchoServer {
    server: TcpServer,
}

is_a_tcp_server!(EchoServer);

impl EchoServer {
    #[must_use]
    pub fn start() -> Self {
        let server = TcpServer::start(|stream| {
            let mut writer = stream.try_clone()?;
            io::copy(&mut &stream, &mut writer)?;
            writer.shutdown(Shutdown::Write)
        });
        Self { server }
    }
}

/// Answers every request with 200 and one body.
#[derive(Debug)]
pub struct HttpServer {
    server: TcpServer,
    paths: Arc<Mutex<Vec<String>>>,
}

is_a_tcp_server!(HttpServer);

impl HttpServer {
    #[must_use]
    pub fn start(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::answering(move |_| Some(body.clone()))
    }

    /// The same on a listener that the test has made.
    #[must_use]
    pub fn start_on(listener: TcpListener, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::answering_on(listener, move |_| Some(body.clone()))
    }

    /// Answers with what `answer` gives for the path, else 404.
    #[must_use]
    pub fn answering(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::answering_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), answer)
    }

    /// The same on a listener that the test has made.
    #[must_use]
    pub fn answering_on(listener: TcpListener, answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let paths = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&paths);
        let server = TcpServer::start_on(listener, move |stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut request = String::new();
            reader.read_line(&mut request)?;
            let path = request.split_whitespace().nth(1).unwrap_or("/").to_owned();
            let mut header = String::new();
            while reader.read_line(&mut header)? > 2 {
                header.clear();
            }
            asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(path.clone());
            let (status, body) = answer(&path).map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            (&stream).write_all(head.as_bytes())?;
            if !request.starts_with("HEAD") {
                (&stream).write_all(&body)?;
            }
            stream.shutdown(Shutdown::Write)
        });
        Self { server, paths }
    }

    /// The paths that were asked for, in order.
    pub fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Swallows what comes, and reports each connection's bytes at its end.
#[derive(Debug)]
pub struct SinkServer {
    server: TcpServer,
    received: Mutex<Receiver<io::Result<Vec<u8>>>>,
}

is_a_tcp_server!(SinkServer);

impl SinkServer {
    #[must_use]
    pub fn start() -> Self {
        let (done, received): (Sender<io::Result<Vec<u8>>>, _) = channel();
        let server = TcpServer::start(move |mut stream| {
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).map(|_| bytes);
            // Nobody waits where the test ended first.
            let _ = done.send(end);
            Ok(())
        });
        Self { server, received: Mutex::new(received) }
    }

    /// What one connection sent, when it has ended; an error where it did not end cleanly.
    ///
    /// # Panics
    /// Where none ends within `limit`.
    #[track_caller]
    pub fn received(&self, limit: Duration) -> io::Result<Vec<u8>> {
        let received = self.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        received.recv_timeout(limit).expect("a connection that ends")
    }
}

/// The first port that tests set aside: below are those of well-known services.
const FIRST_RESERVED: u16 = 20_000;

/// Connections that wait to be accepted, as many as the standard library lets wait.
const BACKLOG: i32 = 128;

/// Another one for each test, also of processes that run at once.
fn random_of(range: &Range<u16>) -> u16 {
    let random = RandomState::new().build_hasher().finish();
    range.start + (random % u64::from(range.end - range.start)) as u16
}

/// A port that is taken but refuses connections, for as long as the value lives.
#[derive(Debug)]
pub struct Reserved {
    socket: OwnedFd,
    port: u16,
}

impl Reserved {
    /// One that no outgoing connection can have, now or once it is given up: those take their ports from a range of the system's.
    ///
    /// # Panics
    /// Where nearly all ports are taken.
    #[must_use]
    pub fn new() -> Self {
        let of_clients = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let first_of_clients = of_clients.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768);
        let ours = FIRST_RESERVED..u16::max(first_of_clients, FIRST_RESERVED + 1_000);
        let (socket, port) = (0..1_000).find_map(|_| Self::take(random_of(&ours))).expect("a free port");
        Self { socket, port }
    }

    /// Takes `port` on all addresses, if it is free.
    fn take(port: u16) -> Option<(OwnedFd, u16)> {
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).ok().map(|()| (socket, port))
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Listens on it. (A port that is given up first may be held a moment longer: a process that another test starts just then has the socket
    /// until it runs its program.)
    ///
    /// # Panics
    /// Where the system refuses.
    #[must_use]
    pub fn listen(self) -> TcpListener {
        rustix::net::listen(&self.socket, BACKLOG).expect("the port is held");
        TcpListener::from(self.socket)
    }

    /// Gives the port up to another process, which is to listen on it.
    #[must_use]
    pub fn release(self) -> u16 {
        self.port
    }
}

impl Default for Reserved {
    fn default() -> Self {
        Self::new()
    }
}
