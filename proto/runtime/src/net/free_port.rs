//! Where any port will do that is still free when a later process comes back to it.
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

/// Ports that it gives to nobody who does not ask for them by number: they belong to somebody. Numbers and ranges, such as `8080,9000-9100`.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The first port that belongs to no service (RFC 6335, section 6).
const FIRST_DYNAMIC: u16 = 49_152;

/// Among fewer ports, what another process of Postern has kept, and does not listen on just now, would be met too often.
const ENOUGH: usize = 1_000;

/// Ports that are tried before the system chooses.
const TRIES: usize = 32;

/// Listens on a free port of `address`, whose own port is ignored: one that no outgoing connection is given, where the system has enough of them.
pub(super) async fn bind(mut address: SocketAddr) -> io::Result<TcpListener> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    if let Some(lasting) = beyond(&read(OF_CONNECTIONS)) {
        let reserved = read(RESERVED);
        for port in (0..TRIES).map(|_| random_of(&lasting)).filter(|port| !lists(&reserved, *port)) {
            address.set_port(port);
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                // What may not be asked for by number may be given.
                Err(_) => break,
            }
        }
    }
    address.set_port(0);
    TcpListener::bind(address).await
}

/// The ports of no service above those of outgoing connections: 61000 to 65535 on Linux as it comes.
fn beyond(of_connections: &str) -> Option<RangeInclusive<u16>> {
    let last: u16 = of_connections.split_whitespace().nth(1)?.parse().ok()?;
    Some(last.checked_add(1)?.max(FIRST_DYNAMIC)..=u16::MAX).filter(|ports| ports.len() >= ENOUGH)
}

/// Whether `port` is one of `ports`, as [`RESERVED`] writes them.
fn lists(ports: &str, port: u16) -> bool {
    ports.trim().split(',').any(|entry| {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
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
        assert_eq!(beyond("1024 64535"), Some(64_536..=65_535));
        for none in ["1024 64536", "9000 65500", "1024 65535", "", "32768", "a b", "1 70000"] {
            assert_eq!(beyond(none), None, "{none:?}");
        }
    }

    #[test]
    fn reserved_ports() {
        let ports = "8080,61000-61002,65535\n";
        assert!([8080, 61_000, 61_002, 65_535].iter().all(|port| lists(ports, *port)));
        assert!([8081, 60_999, 61_003, 0].iter().all(|port| !lists(ports, *port)));
        assert!(!lists("", 0) && !lists("\n", 61_000) && !lists("a-b,-,61000-", 61_000));
    }

    #[test]
    fn every_port_of_a_range_is_found() {
        let found: std::collections::BTreeSet<u16> = (0..200).map(|_| random_of(&(65_533..=65_535))).collect();
        assert_eq!(found, [65_533, 65_534, 65_535].into());
    }

    #[tokio::test]
    async fn a_free_port_is_none_that_a_connection_is_given() {
        let range = std::fs::read_to_string(OF_CONNECTIONS).ok();
        let lasting = range.as_deref().and_then(beyond);
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
