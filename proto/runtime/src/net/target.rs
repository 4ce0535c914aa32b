//! Dialling the target of an outlet: its name says where to, and whoever answers for that name must not lead the outlet to what listens on
//! this machine for itself, or answers machines about themselves.
//!
//! Other addresses of this machine are dialled as those of any machine are: what listens there is offered to the network, and services of
//! the own host are targets by name, as are those of containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use postern_proto::address::HostPort;
use tokio::net::TcpStream;

use super::{DialError, SocketKind, dial_allowed};

/// Where clouds answer machines about themselves over IPv6, as 169.254.169.254 does over IPv4: Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// And over IPv4, beside the link's own addresses: Alibaba's and Azure's.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// IPv4 addresses behind a translator (RFC 6052, section 2.1).
const TRANSLATED: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// Connects to the target `to`, within `deadline`. A name that resolves to a loopback address, to addresses of the link alone, or to where
/// machines ask about themselves, is not followed there: that is for who wrote the outlet to say, by `localhost`, which leads to loopback
/// addresses only, or the address itself. The address that was judged is the one that is dialled.
///
/// # Errors
/// [`DialError`]; [`DialError::Forbidden`] where `to` leads only to such addresses, or to those that `allowed` does not take.
pub async fn dial_target(
    to: &HostPort,
    deadline: Duration,
    allowed: impl Fn(SocketAddr) -> bool + Send,
) -> Result<TcpStream, DialError> {
    let written = to.as_socket_addr().is_some();
    let localhost = is_localhost(to);
    let allowed = move |address| (written || may_lead(localhost, address)) && allowed(address);
    dial_allowed(to, SocketKind::Application, deadline, allowed).await
}

/// Whether `to` names the place that it is itself.
pub(super) fn is_named(to: &HostPort) -> bool {
    to.as_socket_addr().is_some() || is_localhost(to)
}

fn is_localhost(to: &HostPort) -> bool {
    to.host().eq_ignore_ascii_case("localhost")
}

/// Whether a name may lead to `address`: `localhost`, or another one.
fn may_lead(localhost: bool, address: SocketAddr) -> bool {
    if localhost { address.ip().to_canonical().is_loopback() } else { !is_of_this_place(address) }
}

pub(super) fn is_of_this_place(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(address) => is_of_this_place_v4(address),
        IpAddr::V6(address) => match v4_within(address) {
            Some(within) => is_of_this_place_v4(within),
            None => {
                address.is_loopback()
                    || address.is_unspecified()
                    || address.is_unicast_link_local()
                    || address.is_multicast()
                    || METADATA_V6.contains(&address)
            }
        },
    }
}

fn is_of_this_place_v4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 is "this network" (RFC 6890); Linux takes 0.0.0.0 for itself.
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.contains(&address)
}

/// The IPv4 address that stands in an IPv6 one: mapped, compatible or translated.
fn v4_within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let translated = segments.starts_with(&TRANSLATED);
    let compatible = segments[..6] == [0; 6] && !address.is_loopback() && !address.is_unspecified();
    if translated || compatible {
        let [.., a, b, c, d] = address.octets();
        return Some(Ipv4Addr::new(a, b, c, d));
    }
    address.to_ipv4_mapped()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_a_name_may_not_lead_to() {
        let of_this_place = [
            "127.0.0.1",
            "127.0.1.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "::ffff:168.63.129.16",
        ];
        for text in of_this_place {
            assert!(is_of_this_place(SocketAddr::new(text.parse().unwrap(), 80)), "{text}");
        }
        for text in
            ["10.0.0.1", "192.168.1.1", "172.17.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1", "64:ff9b::808:808"]
        {
            assert!(!is_of_this_place(SocketAddr::new(text.parse().unwrap(), 80)), "{text}");
        }
    }

    /// A resolver that somebody else answers for must not lead `localhost` away, either.
    #[test]
    fn localhost_is_loopback_only() {
        let leads = |localhost, text: &str| may_lead(localhost, SocketAddr::new(text.parse().unwrap(), 80));
        for text in ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"] {
            assert!(leads(true, text) && !leads(false, text), "{text}");
        }
        for text in ["10.0.0.1", "169.254.169.254", "8.8.8.8", "fe80::1", "0.0.0.0", "::"] {
            assert!(!leads(true, text), "{text}");
        }
        assert!(leads(false, "10.0.0.1"));
    }

    #[test]
    fn what_is_written_is_meant() {
        for text in ["127.0.0.1:80", "[::1]:80", "localhost:80", "LOCALHOST:80", "169.254.169.254:80", "[::ffff:127.0.0.1]:80"] {
            assert!(is_named(&text.parse().unwrap()), "{text}");
        }
        for text in ["db.example:80", "localhost.example:80", "127.1:80", "2130706433:80", "0x7f.1:80"] {
            assert!(text.parse::<HostPort>().is_ok_and(|to| !is_named(&to)) || text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    /// The system takes such texts for addresses, and a stranger's name server may give any.
    #[tokio::test]
    async fn a_name_for_this_machine_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let second = Duration::from_secs(5);
        for host in ["127.1", "2130706433", "0x7f000001", "0"] {
            let Ok(to) = HostPort::new(host, port) else { continue };
            let refused = dial_target(&to, second, |_| true).await;
            assert!(matches!(refused, Err(DialError::Forbidden { .. } | DialError::Dns { .. })), "{host}: {refused:?}");
        }
        for host in ["127.0.0.1", "localhost"] {
            dial_target(&HostPort::new(host, port).unwrap(), second, |_| true).await.unwrap();
        }
    }
}
