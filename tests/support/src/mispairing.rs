//! A relay that joins other nodes than it says, made of one that is honest: between it and the nodes, links that it has joined are exchanged.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::poll::{PATIENCE, eventually};

/// Preface and opening of a data link, with the first frame: what a node says before the relay has answered.
const OPENING: usize = 8 + 24 + SEALED;

/// A frame of a data link: the relay's answer is one.
const SEALED: usize = 80;

/// Where a preface says which service a connection asks for, and that of data links.
const SERVICE: (usize, u8) = (5, 3);

#[derive(Default)]
struct Inside {
    relay: Option<SocketAddr>,
    /// Links that are joined wait, and do not go to whom the relay joined.
    lies: bool,
    waiting: Vec<TcpStream>,
}

/// Stands between nodes and their relay, and passes on what they say, until it is told otherwise.
pub struct Mispairing {
    pub address: SocketAddr,
    inside: Arc<Mutex<Inside>>,
}

/// Two nodes that the relay has joined, and that are not connected yet.
pub struct Pair {
    /// Who asked for the other one.
    dialler: TcpStream,
    /// Who was asked for.
    dialled: TcpStream,
}

/// Two nodes that are connected, though the relay joined neither with the other.
pub struct Mispaired(JoinHandle<Vec<u8>>);

impl Mispairing {
    /// Listens on a free port of 127.0.0.1, for connections to the relay at `relay`.
    #[must_use]
    pub fn of(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let inside = Arc::new(Mutex::new(Inside { relay: Some(relay), ..Inside::default() }));
        let accepting = Arc::clone(&inside);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let inside = Arc::clone(&accepting);
                // What fails here is a connection that breaks, which its two ends see.
                thread::spawn(move || carry(&inside, near));
            }
        });
        Self { address, inside }
    }

    /// Whether links that the relay joins from now on are kept for [`Self::pair`].
    pub fn lies(&self, lies: bool) {
        lock(&self.inside).lies = lies;
    }

    /// The two nodes that the relay joins next.
    ///
    /// # Panics
    /// Where it joins none.
    #[track_caller]
    #[must_use]
    pub fn pair(&self) -> Pair {
        let two = || {
            let mut inside = lock(&self.inside);
            (inside.waiting.len() >= 2).then(|| inside.waiting.drain(..2).collect::<Vec<_>>())
        };
        let links: [TcpStream; 2] = eventually(PATIENCE, "two links that the relay has joined", two).try_into().expect("two");
        for link in &links {
            link.set_read_timeout(Some(Duration::from_millis(10))).expect("a deadline");
        }
        // Only who asked has something to say; who was asked waits for it.
        let speaks = || links.iter().position(|link| link.peek(&mut [0]).is_ok_and(|count| count > 0));
        let which = eventually(PATIENCE, "who asked to be joined says something", speaks);
        let [first, second] = links;
        let (dialler, dialled) = if which == 0 { (first, second) } else { (second, first) };
        Pair { dialler, dialled }
    }
}

impl Pair {
    /// Connects the dialler of each pair with the node that the other one asked for.
    #[must_use]
    pub fn exchange(self, other: Self) -> [Mispaired; 2] {
        [(self.dialler, other.dialled), (other.dialler, self.dialled)]
            .map(|(dialler, dialled)| Mispaired(thread::spawn(move || join(&dialler, &dialled))))
    }
}

impl Mispaired {
    /// Waits until one of them has closed the connection; returns all that the dialler said on it.
    ///
    /// # Panics
    /// Where the thread did.
    #[must_use]
    pub fn heard(self) -> Vec<u8> {
        self.0.join().expect("no panic")
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(inside: &Mutex<Inside>, mut near: TcpStream) -> io::Result<()> {
    let relay = lock(inside).relay.ok_or(io::ErrorKind::NotConnected)?;
    let mut far = TcpStream::connect(relay)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let mut preface = [0; 8];
    near.read_exact(&mut preface)?;
    far.write_all(&preface)?;
    if preface[SERVICE.0] == SERVICE.1 {
        let mut opening = [0; OPENING - 8];
        near.read_exact(&mut opening)?;
        far.write_all(&opening)?;
        // Who parks a link waits for this for as long as it likes.
        let mut answer = [0; SEALED];
        if let Err(error) = far.read_exact(&mut answer) {
            near.shutdown(Shutdown::Both)?;
            return Err(error);
        }
        near.write_all(&answer)?;
        let mut inside = lock(inside);
        if inside.lies {
            inside.waiting.push(near);
            return Ok(());
        }
    }
    join(&near, &far);
    Ok(())
}

/// Carries what two ends say until both have ended; returns what the first said.
fn join(near: &TcpStream, far: &TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| forward(far, near, |_| {}));
        forward(near, far, |bytes| said.extend_from_slice(bytes));
    });
    said
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, mut heard: impl FnMut(&[u8])) {
    // A link that is joined is silent for as long as its nodes are.
    let _ = from.set_read_timeout(None);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        heard(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Nodes close a path as a whole.
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}
