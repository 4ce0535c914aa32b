//! Circles of portals: what an outlet dials may be an inlet that leads back to it, over other nodes, and so for ever. How many portals a
//! connection has passed goes with it as far as a node can know: an inlet marks each stream with the connection that it carries, in words that
//! only nodes of the same machine can compare, and the outlet's node looks whether it has made that connection itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::id::ConnectionMark;
use postern_proto::path::Open;
use postern_proto::secret::random_array;
use tokio::net::TcpStream;

/// Most portals that one connection may pass, one behind the other. Nobody stands so many behind each other on purpose.
pub const MAX_HOPS: u8 = 8;

/// The connections that this node's outlets have to their targets.
pub struct Dialled {
    /// Names this machine and its network to whoever runs on it, and is told to nobody.
    machine: Vec<u8>,
    /// How many portals each has passed, this node's outlet included.
    live: Mutex<HashMap<ConnectionMark, u8>>,
}

impl Default for Dialled {
    fn default() -> Self {
        Self { machine: machine(), live: Mutex::default() }
    }
}

/// One of them; forgotten when this is dropped.
pub struct Dial {
    dialled: Arc<Dialled>,
    mark: ConnectionMark,
}

impl Dialled {
    /// The mark of a connection that an inlet has taken. `None` where another machine made it.
    #[must_use]
    pub fn taken(&self, application: &TcpStream) -> Option<ConnectionMark> {
        self.mark(application.peer_addr().ok()?, application.local_addr().ok()?)
    }

    /// How many portals the connection `mark` has passed, where an outlet of this node made it; otherwise 0.
    #[must_use]
    pub fn hops(&self, mark: Option<ConnectionMark>) -> u8 {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        mark.and_then(|mark| live.get(&mark).copied()).unwrap_or(0)
    }

    /// How many portals the connection that `open` is for has passed, as far as this node and the one that opens it know.
    #[must_use]
    pub fn hops_of(&self, open: &Open) -> u8 {
        open.hops.max(self.hops(open.mark))
    }

    /// Remembers a connection to a target, for a stream that came by `open`. `None` where it leads to another machine, or is broken already.
    #[must_use]
    pub fn enter(self: &Arc<Self>, target: &TcpStream, open: &Open) -> Option<Dial> {
        let mark = self.mark(target.local_addr().ok()?, target.peer_addr().ok()?)?;
        let hops = self.hops_of(open).saturating_add(1);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(mark, hops);
        Some(Dial { dialled: Arc::clone(self), mark })
    }

    fn mark(&self, from: SocketAddr, to: SocketAddr) -> Option<ConnectionMark> {
        let (here, there) = (from.ip().to_canonical(), to.ip().to_canonical());
        // Who connects to an address of its own machine has that one itself, or loopback's first (Linux takes it from its table of local routes).
        let stays = here == there || (here.is_loopback() && there.is_loopback());
        stays.then(|| ConnectionMark::of(&self.machine, from, to))
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.dialled.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.mark);
    }
}

/// This boot of this machine, and the network that this process has on it: addresses mean the same to all who read the same here.
fn machine() -> Vec<u8> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    let network = std::fs::read_link("/proc/self/ns/net");
    match (boot, network) {
        (Ok(boot), Ok(network)) => [boot.as_slice(), network.as_os_str().as_encoded_bytes()].concat(),
        // This process alone, then.
        _ => random_array::<32>().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_machine_is_marked() {
        let dialled = Dialled::default();
        let mark = |from: &str, to: &str| dialled.mark(from.parse().unwrap(), to.parse().unwrap());
        for (from, to) in [
            ("127.0.0.1:40000", "127.0.0.1:80"),
            ("127.0.0.1:40000", "127.0.0.9:80"),
            ("10.0.0.1:40000", "10.0.0.1:80"),
            ("[::1]:40000", "[::1]:80"),
            ("[::ffff:10.0.0.1]:40000", "10.0.0.1:80"),
        ] {
            assert!(mark(from, to).is_some(), "{from} {to}");
        }
        for (from, to) in [("10.0.0.1:40000", "10.0.0.2:80"), ("[2001:db8::1]:40000", "[2001:db8::2]:80")] {
            assert!(mark(from, to).is_none(), "{from} {to}");
        }
        assert_eq!(dialled.hops(mark("10.0.0.1:1", "10.0.0.2:80")), 0);
    }
}
