//! Network addresses as a person writes them. A name is never resolved here: it is resolved at every dial.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// `HOST:PORT`, where the host is a name, an IPv4 address or an IPv6 address in brackets. A bare `PORT` means `127.0.0.1:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    #[error("`{0}` is not an address: write HOST:PORT, such as db.internal:5432, or [::1]:5432 for IPv6")]
    Form(String),
    #[error("`{0}` is not a port: ports are numbers from 0 to 65535")]
    Port(String),
    #[error("port 0 cannot be dialled: name the port that the service listens on")]
    PortZero,
    #[error("`{0}` is not a host name or IP address")]
    Host(String),
}

impl HostPort {
    /// # Errors
    /// [`InvalidAddress::Host`] where `host` is neither an IP address nor a host name.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidAddress> {
        let name = host.parse::<IpAddr>().is_err();
        let label = |label: &str| {
            !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let trimmed = host.strip_suffix('.').unwrap_or(host);
        if name && (trimmed.len() > MAX_HOST || !trimmed.split('.').all(label)) {
            return Err(InvalidAddress::Host(host.chars().take(80).collect()));
        }
        // `1.2.3`, `127.0.0.256` and `0x7f000001` are misspelt addresses, not names; some resolvers would read them as addresses.
        if name && trimmed.rsplit('.').next().is_some_and(is_number) {
            return Err(InvalidAddress::Host(host.chars().take(80).collect()));
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// The name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// The socket address, where the host is an IP address.
    #[must_use]
    pub fn as_socket_addr(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Whether only the machine itself can reach this address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// This address as something to dial, for which port 0 means nothing.
    ///
    /// # Errors
    /// [`InvalidAddress::PortZero`].
    pub fn dialable(self) -> Result<Self, InvalidAddress> {
        if self.port == 0 { Err(InvalidAddress::PortZero) } else { Ok(self) }
    }
}

/// Whether the last part of a host is a number, decimal or hexadecimal, as it is in addresses alone.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let short = || text.chars().take(80).collect::<String>();
        let port = |digits: &str| {
            // `parse` alone would take a sign.
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                digits.parse::<u16>().map_err(|_| InvalidAddress::Port(digits.chars().take(20).collect()))
            } else {
                Err(InvalidAddress::Port(digits.chars().take(20).collect()))
            }
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self { host: "127.0.0.1".to_owned(), port: port(text)? });
        }
        let (host, digits) = text.rsplit_once(':').ok_or_else(|| InvalidAddress::Form(short()))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .filter(|inner| inner.parse::<Ipv6Addr>().is_ok())
                .ok_or_else(|| InvalidAddress::Form(short()))?,
            None if host.contains(':') || host.is_empty() => return Err(InvalidAddress::Form(short())),
            None => host,
        };
        Self::new(host, port(digits)?)
    }
}

impl Serialize for HostPort {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<C> minicbor::Encode<C> for HostPort {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.to_string())?;
        Ok(())
    }
}

impl<'b, C> minicbor::Decode<'b, C> for HostPort {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.str()?.parse().map_err(|_| minicbor::decode::Error::message("not an address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for (text, shown) in [
            ("5432", "127.0.0.1:5432"),
            ("localhost:80", "localhost:80"),
            ("http-server:80", "http-server:80"),
            ("0.0.0.0:7000", "0.0.0.0:7000"),
            ("[::1]:80", "[::1]:80"),
            ("db.internal.:1", "db.internal.:1"),
            ("0xbeef.example:1", "0xbeef.example:1"),
            ("0xen:1", "0xen:1"),
        ] {
            assert_eq!(text.parse::<HostPort>().map(|a| a.to_string()), Ok(shown.to_owned()));
        }
        for bad in [
            "",
            ":80",
            "host",
            "host:",
            "host:65536",
            "host:-1",
            "host:+1",
            "::1:80",
            "[::1:80",
            "a b:80",
            "x\0:80",
            "127.0.0.256:80",
            "1.2.3:80",
            "2130706433:80",
            "0x7f000001:80",
            "0X7F.0x1:80",
            "127.0x1.:80",
            "0x:80",
            "a..b:80",
            "http://x:80",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad:?}");
        }
    }
}
