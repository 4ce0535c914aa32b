//! Which options a socket gets, by what it carries.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

/// How long a link may be silent before the kernel asks whether the peer is still there. Below the idle limits of the address
/// translators in the field, and short enough that with [`LINK_USER_TIMEOUT`] a dead peer shows in time.
const LINK_KEEPALIVE: Duration = Duration::from_secs(10);
const LINK_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// How long sent bytes may stay unacknowledged on a link. A stall must be noticed within 15 s, and links are always read.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Applications set their own deadlines; this only finds those that are gone.
const APPLICATION_KEEPALIVE: Duration = Duration::from_secs(60);
const APPLICATION_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Within one machine nobody shares the way and nothing is lost: an algorithm that paces what it sends, as BBR does, only costs there
/// (a tenth of the throughput). Every kernel has this one and lets every user set it. A socket on which BBR has begun goes on pacing under
/// another algorithm, so it is set before a connection is made, and on a listener that only this machine reaches.
#[cfg(target_os = "linux")]
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// What a TCP socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// A connection between Postern processes: always read, so a peer that acknowledges nothing is dead.
    Link,
    /// A connection of an application or a target. It may leave its data unread for as long as it likes, which a user timeout
    /// would take for death.
    Application,
}

/// What the connections that a listener accepts have inherited from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherited {
    Nothing,
    /// All options of their kind, but what depends on where they come from.
    Kind,
    /// That too: they all come from this machine.
    Everything,
}

impl SocketKind {
    /// Sets the options of a socket that is to be connected to `peer`.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn apply(self, socket: &SockRef<'_>, peer: SocketAddr) -> io::Result<()> {
        stay_on_this_machine(socket, peer);
        self.apply_to_any(socket)
    }

    /// Sets on a listener what the connections that it accepts inherit.
    pub fn prepare(self, listener: &TcpListener) -> Inherited {
        // Linux copies the whole socket (net/ipv4/tcp_minisocks.c). Elsewhere it differs by system and option.
        if cfg!(not(target_os = "linux")) || self.apply_to_any(&SockRef::from(listener)).is_err() {
            return Inherited::Nothing;
        }
        match listener.local_addr() {
            Ok(own) if stay_on_this_machine(&SockRef::from(listener), own) => Inherited::Everything,
            _ => Inherited::Kind,
        }
    }

    /// Sets what an accepted connection from `peer` has not inherited.
    ///
    /// # Errors
    /// Whatever the operating system says, as when the peer has reset the connection already.
    pub fn complete(self, inherited: Inherited, stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
        let socket = SockRef::from(stream);
        // One that was there before its listener was prepared has inherited nothing.
        if inherited == Inherited::Nothing || !socket.tcp_nodelay()? {
            return self.apply(&socket, peer);
        }
        if inherited == Inherited::Kind {
            stay_on_this_machine(&socket, peer);
        }
        Ok(())
    }

    fn apply_to_any(self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        let keepalive = |time, interval| TcpKeepalive::new().with_time(time).with_interval(interval);
        match self {
            Self::Link => {
                socket.set_tcp_keepalive(&keepalive(LINK_KEEPALIVE, LINK_KEEPALIVE_INTERVAL))?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(LINK_USER_TIMEOUT))
            }
            Self::Application => socket.set_tcp_keepalive(&keepalive(APPLICATION_KEEPALIVE, APPLICATION_KEEPALIVE_INTERVAL)),
        }
    }
}

/// See [`LOOPBACK_CONGESTION`]. Returns whether `address` is of this machine, and the algorithm was set.
fn stay_on_this_machine(socket: &SockRef<'_>, address: SocketAddr) -> bool {
    #[cfg(target_os = "linux")]
    // Where it cannot be set, the default is only slower.
    let set = address.ip().to_canonical().is_loopback() && socket.set_tcp_congestion(LOOPBACK_CONGESTION).is_ok();
    #[cfg(not(target_os = "linux"))]
    let set = false;
    set
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use postern_proto::address::HostPort;

    use super::super::{Acceptor, bind, dial};
    use super::*;

    fn has_the_options_of(kind: SocketKind, socket: &TcpStream, how: &str) {
        let options = SockRef::from(socket);
        let (time, interval, user_timeout) = match kind {
            SocketKind::Link => (LINK_KEEPALIVE, LINK_KEEPALIVE_INTERVAL, Some(LINK_USER_TIMEOUT)),
            SocketKind::Application => (APPLICATION_KEEPALIVE, APPLICATION_KEEPALIVE_INTERVAL, None),
        };
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap(), "{how}");
        assert_eq!(options.tcp_keepalive_time().unwrap(), time, "{how}");
        assert_eq!(options.tcp_keepalive_interval().unwrap(), interval, "{how}");
        assert_eq!(options.tcp_user_timeout().unwrap(), user_timeout, "{how}");
        let congestion = options.tcp_congestion().unwrap();
        assert_eq!(congestion.split(|byte| *byte == 0).next(), Some(LOOPBACK_CONGESTION), "{how}");
    }

    #[tokio::test]
    async fn a_socket_has_its_options_however_it_was_made() {
        for kind in [SocketKind::Link, SocketKind::Application] {
            for (listening, inherited) in [("127.0.0.1:0", Inherited::Everything), ("0.0.0.0:0", Inherited::Kind)] {
                let listener = bind(&listening.parse().unwrap()).await.unwrap();
                assert_eq!(kind.prepare(&listener), inherited);
                let to = HostPort::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
                let mut acceptor = Acceptor::new(listener, kind, 1);
                let dialled = dial(&to, kind, LINK_USER_TIMEOUT).await.unwrap();
                has_the_options_of(kind, &dialled, "dialled");
                has_the_options_of(kind, &acceptor.accept().await.stream, listening);
            }
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut acceptor = Acceptor::new(listener, kind, 1);
            has_the_options_of(kind, &acceptor.accept().await.stream, "there before its listener was prepared");
        }
    }
}
