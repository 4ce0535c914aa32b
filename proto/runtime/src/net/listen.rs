//! Listening. The loop that accepts never waits for a peer: it takes a permit, takes a connection, and hands both on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use postern_proto::address::HostPort;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

use super::free_port;
use super::options::{Inherited, SocketKind};

/// First and longest pause after an accept that failed for want of descriptors or memory. Waiting is all that helps then;
/// without it the loop would spin, since the connection stays in the queue.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Each connection that ends makes room for one, so a process without descriptors may fail to accept again and again: that is said
/// once in so long.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// That all permits are taken is said again after so many were free meanwhile.
const ROOM_AGAIN: usize = 16;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address} is in use by another process")]
    InUse { address: HostPort },
    #[error("listening on {address} is not permitted: ports below 1024 need CAP_NET_BIND_SERVICE")]
    NotPermitted { address: HostPort },
    #[error("{address} is not an address of this machine")]
    NotLocal { address: HostPort },
    #[error("cannot resolve `{}`", address.host())]
    Dns { address: HostPort, source: io::Error },
    #[error("cannot listen on {address}")]
    Other { address: HostPort, source: io::Error },
}

/// Listens on `address`; on the first of a name's addresses that works. Port 0 takes a free one.
///
/// # Errors
/// [`BindError`].
pub async fn bind(address: &HostPort) -> Result<TcpListener, BindError> {
    listen(address, false).await
}

/// As [`bind`], where the port is kept for a later process: port 0 takes one that no outgoing connection has meanwhile, where the system leaves
/// such ports.
///
/// # Errors
/// [`BindError`].
pub async fn bind_lasting(address: &HostPort) -> Result<TcpListener, BindError> {
    listen(address, true).await
}

async fn listen(address: &HostPort, lasting: bool) -> Result<TcpListener, BindError> {
    let named = || address.clone();
    let candidates: Vec<SocketAddr> = match address.as_socket_addr() {
        Some(literal) => vec![literal],
        None => tokio::net::lookup_host((address.host(), address.port()))
            .await
            .map_err(|source| BindError::Dns { address: named(), source })?
            .collect(),
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        let bound = match candidate.port() {
            0 if lasting => free_port::bind(candidate).await,
            _ => TcpListener::bind(candidate).await,
        };
        match bound {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(match failed.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address: named() },
        io::ErrorKind::PermissionDenied => BindError::NotPermitted { address: named() },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { address: named() },
        _ => BindError::Other { address: named(), source: failed },
    })
}

/// A connection that came in, with the permit that it holds for as long as it is served.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// Whose reactor `stream` belongs to.
    pub home: ThreadId,
    pub permit: OwnedSemaphorePermit,
}

/// Accepts connections, at most as many at a time as there are permits.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    kind: SocketKind,
    inherited: Inherited,
    permits: Arc<Semaphore>,
    /// The next pause, while accepting fails.
    pause: Option<Duration>,
    /// When it was last said that accepting fails, while that is not over.
    said: Option<Instant>,
    /// It was said that there are no permits, and most of them have not come back yet.
    full: bool,
}

impl Acceptor {
    /// `most` connections at a time; further ones wait in the kernel's queue.
    #[must_use]
    pub fn new(listener: TcpListener, kind: SocketKind, most: usize) -> Self {
        Self::sharing(listener, kind, Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))))
    }

    /// As [`Self::new`], with permits that several listeners share.
    #[must_use]
    pub fn sharing(listener: TcpListener, kind: SocketKind, permits: Arc<Semaphore>) -> Self {
        let inherited = kind.prepare(&listener);
        Self { listener, kind, inherited, permits, pause: None, said: None, full: false }
    }

    /// As an acceptor of the calling thread's reactor, where it was another's.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn adopted(self) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(self.listener.into_std()?)?, ..self })
    }

    /// # Errors
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, with the options of its kind set. Errors never come out: a connection that died in the queue is
    /// skipped, and where descriptors have run out this waits, and says so once. Cancelling loses nothing.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            let Some(permit) = self.permit().await else {
                // A closed semaphore: whoever closed it wants no more connections.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if self.pause.take().is_some() {
                        tracing::debug!("accepting connections again");
                    }
                    match self.kind.complete(self.inherited, &stream, peer) {
                        Ok(()) => return Accepted { stream, peer, home: thread::current().id(), permit },
                        Err(error) => tracing::debug!(%peer, %error, "the connection was gone when it was accepted"),
                    }
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    let pause = self.pause.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
                    if self.pause.is_none() && self.said.is_none_or(|said| said.elapsed() >= SAID_AGAIN) {
                        self.said = Some(Instant::now());
                        tracing::error!(%error, "cannot accept connections; those that wait are accepted when this ends");
                    }
                    self.pause = Some(pause);
                    drop(permit);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

impl Acceptor {
    /// Leave to take one more connection; `None` where there will be none any more.
    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => {
                if self.full && self.permits.available_permits() > ROOM_AGAIN {
                    self.full = false;
                }
                return Some(permit);
            }
            Err(TryAcquireError::Closed) => return None,
            Err(TryAcquireError::NoPermits) => {}
        }
        if !std::mem::replace(&mut self.full, true) {
            let listener = self.listener.local_addr().ok();
            tracing::warn!(?listener, "as many connections as are served at once; further ones wait until others end");
        }
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}

/// Whether an error of `accept` is about the connection rather than the process (accept(2): those of the network stack).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn loopback(most: usize) -> (Acceptor, SocketAddr) {
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        (Acceptor::new(listener, SocketKind::Link, most), address)
    }

    #[tokio::test]
    async fn a_permit_comes_before_a_connection() {
        let (mut acceptor, address) = loopback(1).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let accepted = acceptor.accept().await;
        assert!(accepted.stream.nodelay().unwrap());
        let mut next = Box::pin(acceptor.accept());
        assert!(futures_poll_once(&mut next).await.is_none(), "no permit is left");
        drop(accepted);
        let Accepted { peer, .. } = next.await;
        assert!(peer.ip().is_loopback());
    }

    /// Polls once, after everything that is ready has had its turn.
    async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = tokio::task::yield_now() => None,
        }
    }

    #[tokio::test]
    async fn what_cannot_be_bound_says_why() {
        let (acceptor, address) = loopback(1).await;
        let again = bind(&HostPort::from(address)).await;
        assert!(matches!(again, Err(BindError::InUse { .. })), "{again:?}");
        let foreign = bind(&"192.0.2.1:1".parse().unwrap()).await;
        assert!(matches!(foreign, Err(BindError::NotLocal { .. })), "{foreign:?}");
        drop(acceptor);
        assert!(bind(&"localhost:0".parse().unwrap()).await.is_ok());
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_delays_nobody() {
        let (mut acceptor, address) = loopback(8).await;
        let silent: Vec<TcpStream> = {
            let mut streams = Vec::new();
            for _ in 0..4 {
                streams.push(TcpStream::connect(address).await.unwrap());
            }
            streams
        };
        let mut held = Vec::new();
        for _ in &silent {
            held.push(acceptor.accept().await);
        }
        drop(silent);
        let mut byte = [0; 1];
        assert_eq!(held[0].stream.read(&mut byte).await.unwrap(), 0);
    }
}
