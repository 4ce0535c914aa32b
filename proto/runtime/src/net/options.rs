//! Which options a socket gets, by what it carries.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

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
/// (a tenth of the throughput). Every kernel has this one and lets every user set it.
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

impl SocketKind {
    /// # Errors
    /// Whatever the operating system says, as when the peer has reset the connection already.
    pub fn apply(self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        #[cfg(target_os = "linux")]
        if stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
            // Where it cannot be set, the default is only slower.
            let _ = socket.set_tcp_congestion(LOOPBACK_CONGESTION);
        }
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
