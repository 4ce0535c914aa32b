//! How TCP connections end: a table of what two applications do, and what each of them has to see, for whatever carries the connection
//! between them. Plain TCP passes every case.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::pattern::Pattern;
use crate::proxy::reset;

/// What an application does, or has to see next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Sends so many bytes.
    Send(u64),
    /// Ends its writing (FIN).
    Finish,
    /// Breaks the connection off (RST).
    Reset,
    /// Does nothing for as long as the run says.
    Pause,
    /// So many bytes come, and they are those that were sent.
    Bytes(u64),
    /// The peer has ended its writing.
    End,
    /// The peer has broken the connection off.
    Broken,
}

use Step::{Broken, Bytes, End, Finish, Pause, Reset, Send};

/// One way in which a connection ends.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    pub name: &'static str,
    client: &'static [Step],
    server: &'static [Step],
}

/// A long answer: more than every buffer on the way holds.
const LONG: u64 = 32 << 20;

/// All of them that need a server which takes connections.
pub const ENDINGS: &[Ending] = &[
    Ending {
        name: "FIN of the client first",
        client: &[Send(100_000), Finish, Bytes(5_000), End],
        server: &[Bytes(100_000), End, Send(5_000), Finish],
    },
    Ending {
        name: "FIN of the server first",
        client: &[Bytes(100_000), End, Send(5_000), Finish],
        server: &[Send(100_000), Finish, Bytes(5_000), End],
    },
    Ending {
        name: "FIN of both at once",
        client: &[Send(5_000), Finish, Bytes(5_000), End],
        server: &[Send(5_000), Finish, Bytes(5_000), End],
    },
    Ending { name: "no byte, FIN of the client first", client: &[Finish, End], server: &[End, Finish] },
    Ending { name: "no byte, FIN of the server first", client: &[End, Finish], server: &[Finish, End] },
    Ending {
        name: "the server speaks first",
        client: &[Bytes(500), Send(500), Finish, End],
        server: &[Send(500), Bytes(500), End, Finish],
    },
    Ending {
        name: "half-close, a long answer",
        client: &[Send(20), Finish, Bytes(LONG), End],
        server: &[Bytes(20), End, Send(LONG), Finish],
    },
    Ending {
        name: "half-close, a late answer",
        client: &[Send(20), Finish, Bytes(20), End],
        server: &[Bytes(20), End, Pause, Send(20), Finish],
    },
    Ending { name: "RST of the client", client: &[Send(500), Bytes(1), Reset], server: &[Bytes(500), Send(1), Broken] },
    Ending { name: "RST of the server", client: &[Bytes(500), Send(1), Broken], server: &[Send(500), Bytes(1), Reset] },
    Ending {
        name: "RST of the client after the server's FIN",
        client: &[Bytes(500), End, Reset],
        server: &[Send(500), Finish, Broken],
    },
    Ending {
        name: "RST of the server after the client's FIN",
        client: &[Send(500), Finish, Broken],
        server: &[Bytes(500), End, Reset],
    },
];

/// What the client sees of a target that is not there: the connection breaks, and no byte comes.
pub const NOBODY: &str = "the target refuses";

/// How an ending is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long each step may take.
    pub step: Duration,
    /// How long a late answer is late.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { step: Duration::from_secs(20), pause: Duration::from_secs(2) }
    }
}

/// The server of all cases: what carries the connections leads to it.
#[derive(Debug)]
pub struct EndingServer {
    listener: TcpListener,
}

impl EndingServer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        Self { listener }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never, of a socket that is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    fn accept(&self, limit: Duration) -> Result<TcpStream, String> {
        let end = Instant::now() + limit;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(|error| error.to_string())?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(format!("no connection reached the server: {error}")),
            }
        }
    }

    /// Tries an ending through `entry`, which leads to this server.
    ///
    /// # Errors
    /// What one of the applications saw that it would not have seen with plain TCP, in words.
    ///
    /// # Panics
    /// Where a thread of the case does.
    pub fn tries(&self, ending: &Ending, entry: SocketAddr, patience: Patience) -> Result<(), String> {
        // Who looked whether somebody listens, or gave up before, is not meant.
        while self.listener.accept().is_ok() {}
        let client = TcpStream::connect(entry).map_err(|error| format!("client: {error}"))?;
        let server = self.accept(patience.step)?;
        // Each application holds its end of the connection until both are done: closing it would be something to see.
        thread::scope(|scope| {
            let far = scope.spawn(|| play(ending.server, &server, 2, 1, patience));
            let near = play(ending.client, &client, 1, 2, patience);
            let far = far.join().expect("no panic");
            near.map_err(|fault| format!("client: {fault}")).and(far.map_err(|fault| format!("server: {fault}")))
        })
    }
}

/// What a client of `entry` sees, which leads to a target that is not there.
///
/// # Errors
/// Where it is anything else than a connection that breaks: with how it differs.
pub fn nobody_there(entry: SocketAddr, patience: Patience) -> Result<Duration, String> {
    let begun = Instant::now();
    let Ok(stream) = TcpStream::connect(entry) else { return Ok(begun.elapsed()) };
    play(&[Broken], &stream, 1, 2, patience).map(|()| begun.elapsed())
}

/// Goes through the steps of one side, which sends the pattern `mine` and takes the pattern `theirs`.
fn play(steps: &[Step], stream: &TcpStream, mine: u64, theirs: u64, patience: Patience) -> Result<(), String> {
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience.step + patience.pause))?;
        stream.set_write_timeout(Some(patience.step + patience.pause))
    };
    set().map_err(|error| error.to_string())?;
    let mut stream = stream;
    for step in steps {
        match *step {
            Step::Send(count) => {
                io::copy(&mut Pattern::new(mine, count), &mut stream).map_err(|error| format!("could not send: {error}"))?;
            }
            Step::Finish => stream.shutdown(Shutdown::Write).map_err(|error| format!("could not finish: {error}"))?,
            Step::Reset => reset(stream),
            Step::Pause => thread::sleep(patience.pause),
            Step::Bytes(count) => bytes(stream, theirs, count)?,
            Step::End => match stream.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => return Err("more bytes instead of an end".to_owned()),
                Err(error) => return Err(format!("{} instead of an end", word(&error))),
            },
            Step::Broken => match stream.read(&mut [0]) {
                Ok(0) => return Err("a clean end instead of a reset".to_owned()),
                Ok(_) => return Err("bytes instead of a reset".to_owned()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Err(error) => return Err(format!("{} instead of a reset", word(&error))),
            },
        }
    }
    Ok(())
}

fn bytes(mut stream: &TcpStream, seed: u64, count: u64) -> Result<(), String> {
    let mut expected = Pattern::new(seed, count);
    let mut buffer = vec![0; 64 << 10];
    while expected.position() < count {
        let left = usize::try_from(count - expected.position()).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        match stream.read(&mut buffer[..room]) {
            Ok(0) => return Err(format!("an end at byte {} of {count}", expected.position())),
            Ok(got) => expected.check_piece(&buffer[..got]).map_err(|error| error.to_string())?,
            Err(error) => return Err(format!("{} at byte {} of {count}", word(&error), expected.position())),
        }
    }
    Ok(())
}

fn word(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "nothing".to_owned(),
        ErrorKind::ConnectionReset => "a reset".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::Reserved;

    #[test]
    fn plain_tcp_passes() {
        let server = EndingServer::start();
        for ending in ENDINGS {
            server
                .tries(ending, server.address(), Patience::default())
                .unwrap_or_else(|fault| panic!("{}: {fault}", ending.name));
        }
        let nobody = Reserved::new();
        nobody_there(SocketAddr::from(([127, 0, 0, 1], nobody.port())), Patience::default()).unwrap();
    }
}
