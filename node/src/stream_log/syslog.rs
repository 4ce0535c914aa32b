//! The log of streams, sent to a syslog as well: RFC 5424 messages whose text is the line of JSON.
//!
//! Lines leave through a queue of their own, and a task sends them: a syslog that is away or slow costs lines, which are counted, and nothing else.
//! The file has them all.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_runtime::backoff::Backoff;
use postern_runtime::net::{SocketKind, dial};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, lookup_host};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::line::{Decision, StreamLine};
use super::writer::GATHER;

/// Lines that wait for the syslog; a line has about 600 bytes.
const QUEUE: usize = 2_048;

/// How long a syslog may take to be reached, and to take one message.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the last lines of a node that ends may take.
const LAST: Duration = Duration::from_secs(1);

/// Facility local0 (RFC 5424, section 6.2.1): programs of a site.
const FACILITY: u8 = 16;
/// What was carried is informational, what was refused a notice.
const INFORMATIONAL: u8 = 6;
const NOTICE: u8 = 5;

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A datagram socket of this machine, such as `/dev/log`.
    Local(PathBuf),
    /// A datagram for each message (RFC 5426).
    Udp(HostPort),
    /// Messages behind their lengths (RFC 6587, section 3.4.1).
    Tcp(HostPort),
}

/// Why a text is no [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no place of a syslog: write unix:/dev/log, udp://HOST:PORT or tcp://HOST:PORT")]
pub struct InvalidTarget {
    text: String,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = || InvalidTarget { text: text.to_owned() };
        let address = |text: &str| text.parse::<HostPort>().and_then(HostPort::dialable).map_err(|_| invalid());
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Local(path.into())),
            Some(("udp", rest)) => Ok(Self::Udp(address(rest.strip_prefix("//").ok_or_else(invalid)?)?)),
            Some(("tcp", rest)) => Ok(Self::Tcp(address(rest.strip_prefix("//").ok_or_else(invalid)?)?)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// The way to a syslog. Clones are the same.
#[derive(Debug, Clone)]
pub struct Syslog {
    lines: mpsc::Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
    header: Arc<str>,
}

/// What sends to a syslog.
#[derive(Debug)]
pub struct Sender {
    target: Target,
    queue: mpsc::Receiver<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Syslog {
    /// A way to `target`, and what sends on it.
    #[must_use]
    pub fn new(target: Target) -> (Self, Sender) {
        let (lines, queue) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // A host name of the kernel has none of these; RFC 5424 forbids them.
        let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
        let host = if host.is_empty() { "-" } else { &host };
        let header = format!("{host} postern {} stream - ", std::process::id()).into();
        (Self { lines, lost: Arc::clone(&lost), header }, Sender { target, queue, lost })
    }

    /// Sends a line, unless too many wait.
    pub fn send(&self, line: &StreamLine) {
        let severity = if line.decision == Decision::Refused { NOTICE } else { INFORMATIONAL };
        let mut message = format!("<{}>1 {} {}", FACILITY * 8 + severity, line.at, self.header).into_bytes();
        // Writing to a vector does not fail. JSON escapes control characters: no name can begin another message.
        if serde_json::to_writer(&mut message, line).is_err() || self.lines.try_send(message).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not sent since the node started.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// An open way to the syslog.
enum Socket {
    Local(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Socket {
    async fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::Local(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Self::Local(socket))
            }
            Target::Udp(address) => {
                let to = lookup_host((address.host().to_string(), address.port())).await?.next();
                let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(to).await?;
                Ok(Self::Udp(socket))
            }
            Target::Tcp(address) => Ok(Self::Tcp(dial(address, SocketKind::Link, DEADLINE).await.map_err(io::Error::other)?)),
        }
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Local(socket) => socket.send(message).await.map(drop),
            Self::Udp(socket) => socket.send(message).await.map(drop),
            Self::Tcp(stream) => {
                let mut framed = format!("{} ", message.len()).into_bytes();
                framed.extend_from_slice(message);
                stream.write_all(&framed).await
            }
        }
    }
}

impl Sender {
    /// Sends what comes until `stop`, and then what is left, for a moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut socket = None;
        let mut backoff = Backoff::default();
        let mut failing = false;
        while let Some(Some(message)) = stop.run_until_cancelled(self.queue.recv()).await {
            match self.deliver(&mut socket, &message).await {
                Ok(()) => {
                    backoff.reset();
                    if std::mem::take(&mut failing) {
                        info!(syslog = %self.target, "the syslog takes lines again");
                    }
                    if self.queue.is_empty() {
                        let _ = stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
                    }
                }
                Err(error) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        warn!(syslog = %self.target, %error, "the syslog takes nothing; lines are counted, and stand in the file");
                    }
                    // Meanwhile the queue keeps the newest of what happens, as far as it goes.
                    let _ = stop.run_until_cancelled(tokio::time::sleep(backoff.next_delay())).await;
                }
            }
        }
        self.queue.close();
        let rest = async {
            while let Some(message) = self.queue.recv().await {
                if self.deliver(&mut socket, &message).await.is_err() {
                    return;
                }
            }
        };
        // Whoever takes nothing now has the file.
        let _ = timeout(LAST, rest).await;
    }

    /// Sends one message, on a new way where the old one is broken.
    async fn deliver(&self, socket: &mut Option<Socket>, message: &[u8]) -> io::Result<()> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        // The first try may find that the other side has gone since the last message.
        for _ in 0..2 {
            let mut open = match socket.take() {
                Some(open) => open,
                None => timeout(DEADLINE, Socket::open(&self.target)).await.map_err(late)??,
            };
            match timeout(DEADLINE, open.send(message)).await {
                Ok(Ok(())) => {
                    *socket = Some(open);
                    return Ok(());
                }
                Ok(Err(error)) => last = error,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use postern_proto::id::Identifier;
    use tokio::io::{AsyncReadExt, BufReader};

    use super::super::line::Side;
    use super::*;

    fn line(name: &str) -> StreamLine {
        let mut line =
            StreamLine::new(Side::Inlet, name, "db", Identifier::from_bytes([1; 32]), "2027-01-15T08:00:00Z".to_owned());
        line.at = "2027-01-15T08:00:01Z".to_owned();
        line
    }

    #[test]
    fn places() {
        for text in ["unix:/dev/log", "udp://log.example:514", "tcp://[2001:db8::1]:601"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "/dev/log", "unix:dev/log", "udp:log.example:514", "tcp://log.example", "tcp://h:0", "http://h:1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn messages_are_those_of_the_rfcs() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (syslog, sender) = Syslog::new(Target::Tcp(listener.local_addr().unwrap().into()));
        let stop = CancellationToken::new();
        let sending = tokio::spawn(sender.run(stop.clone()));
        syslog.send(&line("web\n<1>1 forged"));
        let mut refused = line("web");
        refused.decision = Decision::Refused;
        syslog.send(&refused);
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        for (priority, sent) in [(134, line("web\n<1>1 forged")), (133, refused)] {
            let mut length = Vec::new();
            loop {
                match stream.read_u8().await.unwrap() {
                    b' ' => break,
                    digit => length.push(digit),
                }
            }
            let mut message = vec![0; String::from_utf8(length).unwrap().parse().unwrap()];
            stream.read_exact(&mut message).await.unwrap();
            let text = String::from_utf8(message).unwrap();
            let fields: Vec<&str> = text.splitn(8, ' ').collect();
            let [first, at, _host, program, pid, kind, data, json] = fields[..] else { panic!("{text}") };
            assert_eq!((first, at, program), (format!("<{priority}>1").as_str(), "2027-01-15T08:00:01Z", "postern"));
            assert_eq!((pid, kind, data), (std::process::id().to_string().as_str(), "stream", "-"));
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<StreamLine>(json).unwrap(), sent);
        }
        stop.cancel();
        sending.await.unwrap();
        assert_eq!(syslog.lost(), 0);
    }

    #[tokio::test]
    async fn a_syslog_that_is_away_costs_lines_and_no_time() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let (syslog, sender) = Syslog::new(Target::Local(path.clone()));
        for _ in 0..2 * QUEUE {
            syslog.send(&line("web"));
        }
        assert_eq!(syslog.lost(), QUEUE as u64);
        // It comes, and takes what waits.
        let socket = UnixDatagram::bind(&path).unwrap();
        let sending = tokio::spawn(sender.run(CancellationToken::new()));
        let mut message = [0; 2_048];
        for _ in 0..QUEUE {
            let length = socket.recv(&mut message).await.unwrap();
            assert!(message[..length].starts_with(b"<134>1 "));
        }
        assert_eq!(syslog.lost(), QUEUE as u64);
        drop(syslog);
        sending.await.unwrap();
    }
}
