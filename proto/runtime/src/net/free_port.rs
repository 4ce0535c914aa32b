//! Where any port will do: one that is still free when the process comes back to it.
//!
//! Inlets and servers keep the port that they found, so that whoever uses them finds them again after a restart. The port that the system gives to
//! a listener that asks for none is one that it also gives to outgoing connections, and one of those could have it while the process is away.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use postern_proto::secret::random_array;
use tokio::net::TcpListener;

/// The ports that the system gives to outgoing connections, and to listeners that ask for none: first and last (ip(7)).
const OF_CONNECTIONS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The first port that belongs to no service (RFC 6335, section 6).
const FIRST_DYNAMIC: u16 = 49_152;

/// Ports that are tried before the system chooses: enough where half of them are taken, and little to lose where all are.
const TRIES: usize = 32;

/// Listens on a free port of `address`, whose own port is ignored: one that no outgoing connection is given, where there are such.
pub(super) async fn bind(mut address: SocketAddr) -> io::Result<TcpListener> {
    if let Some(lasting) = std::fs::read_to_string(OF_CONNECTIONS).ok().as_deref().and_then(beyond) {
        for _ in 0..TRIES {
            address.set_port(random_of(&lasting));
            match TcpListener::bind(address).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
    }
    address.set_port(0);
    TcpListener::bind(address).await
}

/// The ports of no service above those of outgoing connections: 61000 to 65535 on Linux as it comes.
fn beyond(of_connections: &str) -> Option<RangeInclusive<u16>> {
    let last: u16 = of_connections.split_whitespace().nth(1)?.parse().ok()?;
    Some(last.checked_add(1)?.max(FIRST_DYNAMIC)..=u16::MAX)
}

fn random_of(ports: &RangeInclusive<u16>) -> u16 {
    let count = u32::from(ports.end() - ports.start()) + 1;
    let random = u32::from_le_bytes(random_array()) % count;
    ports.start() + u16::try_from(random).expect("less than the count of ports")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_outgoing_connections_and_of_services_are_left_alone() {
        assert_eq!(beyond("32768\t60999\n"), Some(61_000..=65_535));
        assert_eq!(beyond("10000 20000"), Some(49_152..=65_535));
        assert_eq!(beyond("1024 65534"), Some(65_535..=65_535));
        for none in ["1024 65535", "", "32768", "a b", "1 70000"] {
            assert_eq!(beyond(none), None, "{none:?}");
        }
    }

    #[test]
    fn every_port_of_a_range_is_found() {
        let found: std::collections::BTreeSet<u16> = (0..200).map(|_| random_of(&(65_533..=65_535))).collect();
        assert_eq!(found, [65_533, 65_534, 65_535].into());
    }

    #[tokio::test]
    async fn a_free_port_is_none_that_a_connection_is_given() {
        let range = std::fs::read_to_string(OF_CONNECTIONS).ok();
        let lasting = range.as_deref().and_then(beyond).filter(|ports| ports.len() > 1_000);
        for _ in 0..20 {
            let port = bind("127.0.0.1:1".parse().unwrap()).await.unwrap().local_addr().unwrap().port();
            assert!(port != 1 && lasting.as_ref().is_none_or(|lasting| lasting.contains(&port)), "{port} of {lasting:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_address_of_this_machine_is_said_at_once() {
        let error = bind("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
