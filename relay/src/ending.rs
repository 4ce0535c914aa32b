//! The last words of two joined links.

use std::ffi::c_int;
use std::time::Duration;

use rustix::ioctl::{Getter, ioctl};
use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long a closing link is listened to until its peer has closed, too.
const LINGER: Duration = Duration::from_secs(5);

/// How long a link that will be reset may take to send what it was given.
const FLUSH: Duration = Duration::from_secs(1);

/// The kernel tells of no event when a send queue has run empty.
const FLUSH_POLL: Duration = Duration::from_millis(20);

/// Closes both cleanly. Where the kernel closes a socket with unread bytes it sends a reset, which can overtake what the peer
/// has not read yet; so each is read, and what comes is dropped, until its peer has closed.
pub(crate) async fn close(first: TcpStream, second: TcpStream) {
    for link in [&first, &second] {
        // An error means that it is closed already.
        let _ = shutdown(link, Shutdown::Write);
    }
    let both = async {
        tokio::join!(discard(&first), discard(&second));
    };
    let _ = timeout(LINGER, both).await;
}

/// As [`close`], of a link that was not joined.
pub(crate) async fn close_one(link: &TcpStream) {
    let _ = shutdown(link, Shutdown::Write);
    let _ = timeout(LINGER, discard(link)).await;
}

async fn discard(link: &TcpStream) {
    while link.readable().await.is_ok() {
        match link.try_read(&mut vec![0; 16 * 1024]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Resets both, once those that are not `dead` have sent what they were given.
pub(crate) async fn reset(links: [(TcpStream, bool); 2]) {
    let deadline = Instant::now() + FLUSH;
    for (link, dead) in links {
        while !dead && unsent(&link) > 0 && Instant::now() < deadline {
            sleep(FLUSH_POLL).await;
        }
        // An error means that there is nothing left to reset.
        let _ = link.set_zero_linger();
    }
}

/// Bytes in the send queue that the peer has not acknowledged; 0 on a dead socket.
fn unsent(link: &TcpStream) -> c_int {
    /// `tcp(7)`; `TIOCOUTQ` of `asm-generic/ioctls.h`.
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    #[expect(
        unsafe_code,
        reason = "rustix has no safe wrapper; tcp(7) says that this request stores an int, and Getter gives it one"
    )]
    // SAFETY: the opcode is SIOCOUTQ, whose argument is a pointer to an int that the kernel fills.
    unsafe { ioctl(link, Getter::<SIOCOUTQ, c_int>::new()) }.unwrap_or(0)
}
