//! What applications do at an inlet.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::poll::{PATIENCE, eventually};

/// A peer that says nothing for this long is taken for dead.
const SILENCE: Duration = Duration::from_secs(30);

/// Connects, with a deadline on every later read and write.
pub fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection to an echo service on which bytes have come back. Waits until there is one.
///
/// # Panics
/// Where there is none within [`PATIENCE`].
#[track_caller]
pub fn live(address: impl ToSocketAddrs + Copy) -> TcpStream {
    eventually(PATIENCE, "a live connection", || {
        let mut stream = connect(address).ok()?;
        pings(&mut stream).then_some(stream)
    })
}

/// Connects where nothing is carried, and returns how long it took until the connection was reset. That can be before whoever makes it
/// has it.
///
/// # Panics
/// Where it ends in another way.
#[track_caller]
pub fn refused(address: impl ToSocketAddrs) -> Duration {
    let begun = Instant::now();
    let end = connect(address).and_then(|mut stream| stream.read(&mut [0; 1]));
    let took = begun.elapsed();
    assert!(is_reset(&end), "not a reset, after {took:?}: {end:?}");
    took
}

/// Whether it failed because the connection was reset, which an application must see: an end is clean only if the peer made it.
pub fn is_reset<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Whether four bytes come back on a connection to an echo service.
pub fn pings(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"ping"
}

/// Sends `bytes` and requires them back; then an end of the stream, which is clean.
pub fn echoes(address: impl ToSocketAddrs, bytes: &[u8]) -> io::Result<()> {
    let mut stream = connect(address)?;
    let mut writer = stream.try_clone()?;
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || writer.write_all(bytes).and_then(|()| writer.shutdown(Shutdown::Write)));
        let received = stream.read_to_end(&mut back).map(drop);
        let sent = sent.join().map_err(|_| io::Error::other("the writer panicked"))?;
        // Whichever of the two comes to a broken connection first is told how it broke; the other one only that it has.
        if is_reset(&sent) { sent } else { received.and(sent) }
    })?;
    if back == bytes { Ok(()) } else { Err(io::Error::other(format!("{} bytes of {} came back", back.len(), bytes.len()))) }
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl HttpReply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET path`, on a connection of its own.
pub fn http_get(address: impl ToSocketAddrs, path: &str) -> io::Result<HttpReply> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {head}")))?;
    Ok(HttpReply { status, head, body: bytes[end + 4..].to_vec() })
}
