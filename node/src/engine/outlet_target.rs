//! The way from an outlet to its target.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::record::RejectCode;
use postern_runtime::net::{DialError, dial_target};
use tokio::net::TcpStream;

use super::failure::reject_of_dial;
use super::shared::Shared;

/// How long an outlet's target may take to accept.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Why a target was not reached.
pub struct Unreached {
    pub reject: RejectCode,
    pub reason: String,
}

/// Connects to the target `to` of an outlet. An inlet of this node is none, and is not even connected to: it would take the connection for an
/// application's, open a stream for it, and so come here again before anybody could say no, for ever.
///
/// # Errors
/// [`Unreached`].
pub async fn reach(shared: &Shared, to: &HostPort) -> Result<TcpStream, Unreached> {
    let inlets: Vec<SocketAddr> = shared.inlets().values().map(|inlet| inlet.bound).collect();
    let leads_back = |address: SocketAddr| inlets.iter().any(|inlet| is_listened_at(address, *inlet));
    dial_target(to, DIAL_DEADLINE, |address| !leads_back(address)).await.map_err(|error| match error {
        DialError::Forbidden { address, .. } if leads_back(address) => {
            Unreached { reject: RejectCode::Loop, reason: format!("the target {to} is an inlet of this node") }
        }
        error => Unreached { reject: reject_of_dial(&error), reason: format!("the target {to} was not reached: {error}") },
    })
}

/// Whether who dials `address` comes to a socket that listens at `bound`.
fn is_listened_at(address: SocketAddr, bound: SocketAddr) -> bool {
    let (to, at) = (address.ip().to_canonical(), bound.ip().to_canonical());
    // Linux takes the unspecified address for this machine's own.
    address.port() == bound.port()
        && (to == at || (to.is_unspecified() && at.is_loopback()) || (at.is_unspecified() && is_of_this_machine(to)))
}

fn is_of_this_machine(address: IpAddr) -> bool {
    // Only an address of one's own can be bound; a port of no service is taken for that, for no time.
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_inlet_listens() {
        let is = |address: &str, bound: &str| is_listened_at(address.parse().unwrap(), bound.parse().unwrap());
        for (address, bound) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.9:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::1]:80", "[::]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "[::]:80"),
        ] {
            assert!(is(address, bound), "{address} at {bound}");
        }
        for (address, bound) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("192.0.2.1:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "192.0.2.1:80"),
        ] {
            assert!(!is(address, bound), "{address} at {bound}");
        }
    }
}
