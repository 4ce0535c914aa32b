//! The service behind every way. A connection begins with a byte that says what it is for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::Result;

/// Takes as many bytes as the eight after the kind say, then answers with one: so the last byte has arrived. No half-close, which not
/// every peer carries.
pub const TAKE: u8 = b't';
/// Answers each 64 bytes with the same.
pub const ECHO: u8 = b'e';
/// Answers 64 bytes with the moment at which they came, as [`now`] tells it, in the first eight.
pub const WHEN: u8 = b'w';
/// Answers 64 bytes with the same, and then nothing: the connection is kept until [`Service::forget_idle`].
pub const IDLE: u8 = b'i';

/// Bytes of a request and of its answer.
pub const MESSAGE: usize = 64;

/// What one read takes at most.
const CHUNK: usize = 256 << 10;

/// Threads of the service hold nothing large on their stacks.
const STACK: usize = 128 << 10;

/// Nanoseconds since the first call: client and service are one process, and so share a clock.
pub fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_nanos() as u64
}

/// Where the service listens. It runs for as long as the bench.
pub struct Service {
    pub address: SocketAddr,
    accepting: Arc<Accepting>,
}

struct Accepting {
    listener: TcpListener,
    /// Threads that wait for a connection.
    waiting: AtomicUsize,
    /// Connections that are kept without a thread.
    idle: Mutex<Vec<TcpStream>>,
}

impl Service {
    pub fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let accepting = Arc::new(Accepting { listener, waiting: AtomicUsize::new(0), idle: Mutex::default() });
        accept(&accepting)?;
        Ok(Self { address, accepting })
    }

    /// Closes the idle connections.
    pub fn forget_idle(&self) {
        self.accepting.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A thread for each connection, used again for the next one: the service's own cost must not be what is measured.
fn accept(accepting: &Arc<Accepting>) -> Result<()> {
    accepting.waiting.fetch_add(1, Ordering::Relaxed);
    let accepting = Arc::clone(accepting);
    thread::Builder::new().name("service".to_owned()).stack_size(STACK).spawn(move || {
        loop {
            let accepted = accepting.listener.accept();
            if accepting.waiting.fetch_sub(1, Ordering::Relaxed) == 1
                && let Err(error) = accept(&accepting)
            {
                eprintln!("the service takes no more connections: {error}");
            }
            if let Ok((socket, _)) = accepted {
                // How a connection ends is seen, and told, by the one who measures.
                let _ = serve(socket, &accepting.idle);
            }
            accepting.waiting.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    Ok(())
}

fn serve(mut socket: TcpStream, idle: &Mutex<Vec<TcpStream>>) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut kind = [0];
    socket.read_exact(&mut kind)?;
    match kind[0] {
        TAKE => take(socket),
        ECHO => echo(socket),
        WHEN => {
            let mut message = [0; MESSAGE];
            socket.read_exact(&mut message)?;
            message[..8].copy_from_slice(&now().to_be_bytes());
            Ok(socket.write_all(&message)?)
        }
        IDLE => {
            answer(&mut socket)?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
            Ok(())
        }
        other => Err(format!("a connection of the unknown kind {other}").into()),
    }
}

fn take(mut socket: TcpStream) -> Result<()> {
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let mut left = u64::from_be_bytes(length);
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err("the connection ended early".into());
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(socket.write_all(b"!")?)
}

fn echo(mut socket: TcpStream) -> Result<()> {
    loop {
        answer(&mut socket)?;
    }
}

fn answer(socket: &mut TcpStream) -> Result<()> {
    let mut message = [0; MESSAGE];
    socket.read_exact(&mut message)?;
    Ok(socket.write_all(&message)?)
}
