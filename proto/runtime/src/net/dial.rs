//! Dialling: a name is resolved at every attempt, and its addresses are raced (RFC 8305).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use postern_proto::address::HostPort;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::SocketKind;

/// How long an address has the race for itself (RFC 8305, section 5: the recommended Connection Attempt Delay).
const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one name that are tried. A name with more has them for balancing, not for reaching.
const MAX_ADDRESSES: usize = 16;

/// Why nothing was reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("cannot resolve `{host}`")]
    Dns { host: String, source: io::Error },
    /// The name resolves only to addresses that the caller does not want.
    #[error("{}", not_followed(host, *address))]
    Forbidden { host: String, address: SocketAddr },
    /// Something answered that nobody listens there.
    #[error("{address} refuses connections")]
    Refused { address: SocketAddr },
    /// A connection was made and broken off at once: by who listens there, or by something on the way.
    #[error("{address} breaks connections off")]
    Reset { address: SocketAddr },
    /// The network has no way there.
    #[error("{address} cannot be reached")]
    Unreachable { address: SocketAddr, source: io::Error },
    /// Nothing answered in time.
    #[error("{to} did not answer within {} s", after.as_secs_f32())]
    Timeout { to: HostPort, after: Duration },
    /// This process or machine is at fault, as when it has no descriptor left.
    #[error("cannot open a connection to {address}")]
    Local { address: SocketAddr, source: io::Error },
}

impl DialError {
    /// The error of one attempt at one address.
    fn of_attempt(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            io::ErrorKind::ConnectionReset => Self::Reset { address },
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::TimedOut => Self::Unreachable { address, source },
            _ => Self::Local { address, source },
        }
    }

    /// Of several failures, the one that says most is reported.
    const fn weight(&self) -> u8 {
        match self {
            Self::Local { .. } => 5,
            Self::Refused { .. } | Self::Reset { .. } => 4,
            Self::Unreachable { .. } => 3,
            Self::Timeout { .. } => 2,
            Self::Forbidden { .. } => 1,
            Self::Dns { .. } => 0,
        }
    }
}

/// Why a name is not followed to `address`, and what to write instead.
fn not_followed(host: &str, address: SocketAddr) -> String {
    let ip = address.ip();
    if ip.to_canonical().is_loopback() {
        let local = format!("localhost:{}", address.port());
        return format!(
            "`{host}` means this machine itself ({ip}), which a name may not lead to; write `{local}` or `{address}` if it is meant"
        );
    }
    format!("`{host}` leads to {ip}, which a name may not lead to; write `{address}` if it is meant")
}

/// Connects to `to` within `deadline`, resolution included, and sets the options of `kind`.
///
/// # Errors
/// [`DialError`].
pub async fn dial(to: &HostPort, kind: SocketKind, deadline: Duration) -> Result<TcpStream, DialError> {
    dial_allowed(to, kind, deadline, |_| true).await
}

/// As [`dial`], to those addresses only that `allowed` takes. The address that was judged is the one that is dialled.
///
/// # Errors
/// [`DialError`]; [`DialError::Forbidden`] where `allowed` takes none.
pub async fn dial_allowed(
    to: &HostPort,
    kind: SocketKind,
    deadline: Duration,
    allowed: impl Fn(SocketAddr) -> bool + Send,
) -> Result<TcpStream, DialError> {
    dial_resolved(to, kind, deadline, allowed, resolve(to)).await
}

/// As [`dial_allowed`], where `resolved` are the addresses. They are asked for once: whoever answers for the name could say something else the
/// next time.
async fn dial_resolved(
    to: &HostPort,
    kind: SocketKind,
    deadline: Duration,
    allowed: impl Fn(SocketAddr) -> bool + Send,
    resolved: impl Future<Output = Result<Vec<SocketAddr>, DialError>> + Send,
) -> Result<TcpStream, DialError> {
    let race = async {
        let addresses = resolved.await?;
        let first = addresses.first().copied();
        let wanted: Vec<SocketAddr> = interleaved(addresses.into_iter().filter(|address| allowed(*address)).collect());
        match (wanted.is_empty(), first) {
            (true, Some(address)) => Err(DialError::Forbidden { host: to.host().to_owned(), address }),
            _ => race(&wanted, |address| connect(address, kind)).await,
        }
    };
    tokio::time::timeout(deadline, race).await.unwrap_or_else(|_| Err(DialError::Timeout { to: to.clone(), after: deadline }))
}

/// All addresses of `to`, in the order of the operating system's preference (RFC 6724).
async fn resolve(to: &HostPort) -> Result<Vec<SocketAddr>, DialError> {
    if let Some(address) = to.as_socket_addr() {
        return Ok(vec![address]);
    }
    let failed = |source| DialError::Dns { host: to.host().to_owned(), source };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((to.host(), to.port())).await.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// Both families in turn, beginning with that of the first (RFC 8305, section 4), each address once.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return addresses };
    let first_is_ipv6 = first.is_ipv6();
    let (mut preferred, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        let family = if address.is_ipv6() == first_is_ipv6 { &mut preferred } else { &mut other };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut order = Vec::new();
    while order.len() < MAX_ADDRESSES {
        let before = order.len();
        order.extend(preferred.next());
        order.extend(other.next());
        if order.len() == before {
            break;
        }
    }
    order.truncate(MAX_ADDRESSES);
    order
}

/// Tries each address in order. The next one starts when one fails, or has taken [`STAGGER`]; the first that succeeds wins.
async fn race<T, F>(addresses: &[SocketAddr], attempt: impl Fn(SocketAddr) -> F) -> Result<T, DialError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, DialError>> + Send + 'static,
{
    if let [address] = addresses {
        return attempt(*address).await;
    }
    let mut waiting = addresses.iter();
    // The attempts that lose are dropped with the set, and their sockets with them.
    let mut running = JoinSet::new();
    let mut worst: Option<DialError> = None;
    loop {
        let next_start = match waiting.next() {
            Some(address) => {
                running.spawn(attempt(*address));
                Some(Instant::now() + STAGGER)
            }
            None => None,
        };
        loop {
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                () = until(next_start) => break,
            };
            match ended {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => {
                    if worst.as_ref().is_none_or(|worst| error.weight() > worst.weight()) {
                        worst = Some(error);
                    }
                    if next_start.is_some() && waiting.len() > 0 {
                        break;
                    }
                }
                // A cancelled attempt: the runtime shuts down, and this future will not be polled again.
                Some(Err(_)) => {}
                None if waiting.len() > 0 => break,
                None => {
                    return Err(worst.unwrap_or_else(|| DialError::Dns {
                        host: String::new(),
                        source: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
                    }));
                }
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn connect(address: SocketAddr, kind: SocketKind) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::of_attempt(address, source);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP)).map_err(failed)?;
    kind.apply(&SockRef::from(&socket), address).map_err(failed)?;
    let stream = established(socket, address).await.map_err(failed)?;
    // A dial to a free port of this machine's own ephemeral range can meet itself (TCP's simultaneous open).
    let own = stream.local_addr().map_err(failed)?;
    if own.port() == address.port() && own == stream.peer_addr().map_err(failed)? {
        return Err(DialError::Refused { address });
    }
    Ok(stream)
}

/// A connection to `address`. Whoever listens on this machine has as a rule answered before the system call returns, and is not waited for then:
/// what is written to it next finds it before it has slept again.
async fn established(socket: Socket, address: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
        begun => begun?,
    }
    let stream = TcpStream::from_std(socket.into())?;
    if stream.peer_addr().is_err() {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_and_nothing_is_tried_twice() {
        let order = interleaved(addresses(&["[::1]:1", "[::2]:1", "[::1]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1"]));
        assert_eq!(order, addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]));
        let many: Vec<SocketAddr> = (0..50).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect();
        assert_eq!(interleaved(many).len(), MAX_ADDRESSES);
    }

    /// Attempts that take `Ok(after)` or fail after a time, on the virtual clock; each writes down when it began.
    async fn run(plan: Vec<(Duration, bool)>) -> (Result<usize, DialError>, Vec<Duration>, Duration) {
        let start = Instant::now();
        let began = Arc::new(Mutex::new(vec![Duration::ZERO; plan.len()]));
        let targets: Vec<SocketAddr> = (0..plan.len()).map(|n| SocketAddr::from(([127, 0, 0, 1], n as u16))).collect();
        let result = race(&targets, |address| {
            let number = usize::from(address.port());
            let (after, succeeds) = plan[number];
            let began = Arc::clone(&began);
            async move {
                began.lock().unwrap()[number] = start.elapsed();
                tokio::time::sleep(after).await;
                if succeeds { Ok(number) } else { Err(DialError::Refused { address }) }
            }
        })
        .await;
        let began = began.lock().unwrap().clone();
        (result, began, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_race_is_staggered() {
        let (winner, began, took) = run(vec![(10 * SECOND, true), (10 * SECOND, true), (SECOND, true)]).await;
        assert_eq!(winner.unwrap(), 2);
        assert_eq!(began, [Duration::ZERO, STAGGER, 2 * STAGGER]);
        assert_eq!(took, SECOND + 2 * STAGGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once() {
        let (winner, began, _) = run(vec![(Duration::ZERO, false), (Duration::ZERO, false), (SECOND, true)]).await;
        assert_eq!(winner.unwrap(), 2);
        assert_eq!(began, [Duration::ZERO; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_address_may_still_win() {
        let (winner, ..) = run(vec![(SECOND, true), (10 * SECOND, true)]).await;
        assert_eq!(winner.unwrap(), 0);
        let (all_failed, ..) = run(vec![(SECOND, false), (Duration::ZERO, false)]).await;
        assert!(matches!(all_failed, Err(DialError::Refused { .. })));
    }

    #[tokio::test]
    async fn loopback() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            for kind in [SocketKind::Link, SocketKind::Application] {
                let stream = dial(&HostPort::new(host, port).unwrap(), kind, 5 * SECOND).await.unwrap();
                assert!(stream.nodelay().unwrap());
                let socket = socket2::SockRef::from(&stream);
                assert!(socket.keepalive().unwrap());
                #[cfg(target_os = "linux")]
                assert_eq!(socket.tcp_user_timeout().unwrap().is_some_and(|t| !t.is_zero()), kind == SocketKind::Link);
            }
        }
        drop(listener);
        let refused = dial(&HostPort::new("127.0.0.1", port).unwrap(), SocketKind::Link, 5 * SECOND).await;
        assert!(matches!(refused, Err(DialError::Refused { .. })), "{refused:?}");
    }

    /// The reactor is not asked. The kernel may put its answer off, but hardly ten times in a row.
    #[tokio::test]
    async fn what_this_machine_answers_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = HostPort::from(listener.local_addr().unwrap());
        for _ in 0..10 {
            tokio::select! {
                biased;
                dialled = dial(&to, SocketKind::Application, SECOND) => {
                    assert_eq!(dialled.unwrap().peer_addr().unwrap(), listener.local_addr().unwrap());
                    return;
                }
                () = std::future::ready(()) => {}
            }
        }
        panic!("it was waited for");
    }

    #[tokio::test]
    async fn only_allowed_addresses_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = HostPort::new("localhost", listener.local_addr().unwrap().port()).unwrap();
        let refused = dial_allowed(&to, SocketKind::Application, 5 * SECOND, |address| !address.ip().is_loopback()).await;
        assert!(matches!(refused, Err(DialError::Forbidden { .. })), "{refused:?}");
    }

    /// B3: whoever answers for a name says something else each time. What is dialled was judged in that very dial; where nothing that may be
    /// dialled was said, nothing is.
    #[tokio::test]
    async fn what_was_judged_is_what_is_dialled() {
        let (listening, bad) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let (good, lured) = (listening.local_addr().unwrap(), bad.local_addr().unwrap());
        let to = HostPort::new("rebinding.example", 80).unwrap();
        let mut served = 0;
        for time in 0..60 {
            let said = [vec![good], vec![lured], vec![lured, good], vec![good, lured]][time % 4].clone();
            let judged = Mutex::new(Vec::new());
            let allowed = |address| {
                judged.lock().unwrap().push(address);
                address == good
            };
            let resolved = std::future::ready(Ok(said.clone()));
            let dialled = dial_resolved(&to, SocketKind::Application, 5 * SECOND, allowed, resolved).await;
            assert_eq!(judged.into_inner().unwrap(), said, "each is judged, once");
            match dialled {
                Ok(stream) => {
                    assert_eq!(stream.peer_addr().unwrap(), good);
                    served += 1;
                }
                Err(DialError::Forbidden { address, .. }) => assert_eq!((said, address), (vec![lured], lured)),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(served, 45);
        bad.set_nonblocking(true).unwrap();
        assert_eq!(bad.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "somebody was led there");
    }

    #[test]
    fn a_name_that_is_not_followed_says_what_to_write() {
        let said = |host: &str, address: &str| {
            DialError::Forbidden { host: host.to_owned(), address: address.parse().unwrap() }.to_string()
        };
        assert_eq!(
            said("myhost", "127.0.1.1:5432"),
            "`myhost` means this machine itself (127.0.1.1), which a name may not lead to; write `localhost:5432` or `127.0.1.1:5432` if it is meant"
        );
        assert!(said("six", "[::1]:80").ends_with("write `localhost:80` or `[::1]:80` if it is meant"));
        // Not loopback, which `localhost` would be.
        assert_eq!(
            said("cloud", "169.254.169.254:80"),
            "`cloud` leads to 169.254.169.254, which a name may not lead to; write `169.254.169.254:80` if it is meant"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_covers_everything() {
        // TEST-NET-1 (RFC 5737): nobody answers, or the machine has no route.
        let to = HostPort::new("192.0.2.1", 9).unwrap();
        let error = dial(&to, SocketKind::Link, SECOND).await.unwrap_err();
        assert!(
            matches!(error, DialError::Timeout { .. } | DialError::Unreachable { .. } | DialError::Refused { .. }),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve() {
        // RFC 6761, section 6.4: never resolves.
        let error = dial(&HostPort::new("postern.invalid", 1).unwrap(), SocketKind::Link, 20 * SECOND).await.unwrap_err();
        assert!(matches!(error, DialError::Dns { .. } | DialError::Timeout { .. }), "{error:?}");
    }
}
