//! The servers of a home, as others of the same home find them: what other machines are told need not lead anywhere on this one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use postern_proto::address::{HostPort, InvalidAddress};
use serde::{Deserialize, Serialize};

use super::{Home, HomeError, servers};
use crate::files::MAX_SMALL_FILE;
use crate::membership::Membership;

/// What other machines are told: a host, with a port where it is not the one that is listened on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Advertise {
    host: HostPort,
    /// The port was written.
    has_port: bool,
}

impl Advertise {
    /// The address, where the servers listen on `port`.
    #[must_use]
    pub fn address(&self, port: u16) -> HostPort {
        if self.has_port { self.host.clone() } else { self.host.with_port(port) }
    }
}

impl FromStr for Advertise {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        // A bare number would be a port of this machine, which nobody needs to be told.
        let whole = if text.contains(':') {
            text.parse::<HostPort>().and_then(HostPort::dialable)
        } else {
            Err(InvalidAddress::PortZero)
        };
        match whole {
            Ok(host) => Ok(Self { host, has_port: true }),
            Err(error) => {
                let host = text.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(text);
                match HostPort::new(host, 0) {
                    Ok(host) => Ok(Self { host, has_port: false }),
                    Err(plain) => Err(if matches!(error, InvalidAddress::PortZero) { plain } else { error }),
                }
            }
        }
    }
}

impl TryFrom<String> for Advertise {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Advertise> for String {
    fn from(advertise: Advertise) -> Self {
        if advertise.has_port {
            advertise.host.to_string()
        } else {
            let text = advertise.host.to_string();
            text.strip_suffix(":0").unwrap_or(&text).to_owned()
        }
    }
}

/// Where the servers of a home listen, as `servers/settings.json` has it beside other things.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OwnServers {
    pub listen: HostPort,
    #[serde(default)]
    pub advertise: Option<Advertise>,
}

impl OwnServers {
    /// What other machines are told, once `listen` has its port.
    #[must_use]
    pub fn advertised(&self) -> HostPort {
        match &self.advertise {
            Some(advertise) => advertise.address(self.listen.port()),
            None => self.local(),
        }
    }

    /// Where they are reached on this machine, once `listen` has its port.
    #[must_use]
    pub fn local(&self) -> HostPort {
        let everywhere = self.listen.as_socket_addr().filter(|address| address.ip().is_unspecified());
        match everywhere {
            // Nobody can dial the address that means all addresses.
            Some(SocketAddr::V4(_)) => SocketAddr::from((Ipv4Addr::LOCALHOST, self.listen.port())).into(),
            Some(SocketAddr::V6(_)) => SocketAddr::from((Ipv6Addr::LOCALHOST, self.listen.port())).into(),
            None => self.listen.clone(),
        }
    }
}

impl Home {
    /// Where the servers of this home listen, if some were ever started.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn own_servers(&self) -> Result<Option<OwnServers>, HomeError> {
        if !self.has_servers()? {
            return Ok(None);
        }
        let dir = self.servers()?;
        let Some(bytes) = dir.read(servers::SETTINGS, MAX_SMALL_FILE)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| HomeError::Malformed { path: dir.path().join(servers::SETTINGS), reason: error.to_string() })
    }

    /// Where the authority may be, in the order to try. Its own home need not be able to use the address that others are told.
    ///
    /// # Errors
    /// Where the home cannot be read.
    pub fn authority_addresses(&self, membership: &Membership) -> Result<Vec<HostPort>, HomeError> {
        let mut addresses = membership.authority_addresses();
        if self.has_authority()?
            && let Some(own) = self.own_servers()?
        {
            let local = own.local();
            addresses.retain(|address| *address != local);
            addresses.insert(0, local);
        }
        Ok(addresses)
    }

    /// Where the server that others find at `advertised` may be, in the order to try: one of this home is tried on this machine first.
    ///
    /// # Errors
    /// Where the home cannot be read.
    pub fn addresses_of(&self, advertised: &HostPort) -> Result<Vec<HostPort>, HomeError> {
        let own = self.own_servers()?.filter(|own| own.advertised() == *advertised);
        let local = own.map(|own| own.local()).filter(|local| local != advertised);
        Ok(local.into_iter().chain([advertised.clone()]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_machines_are_told() {
        let told = |text: &str| text.parse::<Advertise>().map(|advertise| advertise.address(4000).to_string());
        assert_eq!(told("gate.example"), Ok("gate.example:4000".into()));
        assert_eq!(told("gate.example:443"), Ok("gate.example:443".into()));
        assert_eq!(told("10.0.0.1"), Ok("10.0.0.1:4000".into()));
        assert_eq!(told("[2001:db8::1]"), Ok("[2001:db8::1]:4000".into()));
        assert_eq!(told("[2001:db8::1]:7"), Ok("[2001:db8::1]:7".into()));
        for bad in ["", "a b", "h:0", "h:x", "http://h"] {
            assert!(told(bad).is_err(), "{bad}");
        }
        for text in ["gate.example", "gate.example:443", "[2001:db8::1]:7"] {
            assert_eq!(String::from(text.parse::<Advertise>().unwrap()), text);
        }
    }

    #[test]
    fn a_server_of_this_home_is_tried_here_first() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(&place.path().join("home")).unwrap();
        let advertised: HostPort = "gate.example:4000".parse().unwrap();
        assert_eq!(home.addresses_of(&advertised).unwrap(), std::slice::from_ref(&advertised));
        assert_eq!(home.own_servers().unwrap(), None);

        let settings = br#"{"roles": "all", "listen": "0.0.0.0:4000", "advertise": "gate.example", "project": "p"}"#;
        home.servers().unwrap().write(servers::SETTINGS, settings).unwrap();
        assert_eq!(home.addresses_of(&advertised).unwrap(), ["127.0.0.1:4000".parse().unwrap(), advertised]);
        let other: HostPort = "other.example:4000".parse().unwrap();
        assert_eq!(home.addresses_of(&other).unwrap(), [other], "another relay is elsewhere");
    }
}
