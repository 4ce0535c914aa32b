//! What the servers of a home were started with, kept for restarts in `servers/settings.json`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use postern_proto::address::{HostPort, InvalidAddress};
use postern_proto::name::{IdentityName, ProjectName};
use postern_runtime::files::MAX_SMALL_FILE;
use postern_runtime::home::{Home, servers};
use serde::{Deserialize, Serialize};

use crate::code;
use crate::error::CliError;

/// Which servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Roles {
    #[default]
    All,
    Authority,
    Relay,
}

impl Roles {
    pub const fn authority(self) -> bool {
        matches!(self, Self::All | Self::Authority)
    }

    pub const fn relay(self) -> bool {
        matches!(self, Self::All | Self::Relay)
    }

    /// As `status` lists them.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::All => &["authority", "relay"],
            Self::Authority => &["authority"],
            Self::Relay => &["relay"],
        }
    }
}

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

/// The content of `servers/settings.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    pub roles: Roles,
    /// Port 0 is replaced by the one that was found free, so that a restart takes the same.
    pub listen: HostPort,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Advertise>,
    /// The identity that the authority takes for its administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub administrator: Option<IdentityName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Where counts are served to a monitoring system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<HostPort>,
}

impl Settings {
    pub fn new(roles: Roles) -> Self {
        let listen = HostPort::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        Self { roles, listen, advertise: None, administrator: None, project: None, metrics: None }
    }

    /// What other machines are told, once `listen` has its port.
    pub fn advertised(&self) -> HostPort {
        let port = self.listen.port();
        match &self.advertise {
            Some(advertise) => advertise.address(port),
            None => self.local(),
        }
    }

    /// Where they are reached on this machine, once `listen` has its port.
    pub fn local(&self) -> HostPort {
        let everywhere = self.listen.as_socket_addr().filter(|address| address.ip().is_unspecified());
        match everywhere {
            // Nobody can dial the address that means all addresses.
            Some(SocketAddr::V4(_)) => SocketAddr::from((Ipv4Addr::LOCALHOST, self.listen.port())).into(),
            Some(SocketAddr::V6(_)) => SocketAddr::from((Ipv6Addr::LOCALHOST, self.listen.port())).into(),
            None => self.listen.clone(),
        }
    }

    /// What is kept, if servers were ever started in this home.
    pub fn load(home: &Home) -> Result<Option<Self>, CliError> {
        if !home.has_servers()? {
            return Ok(None);
        }
        let Some(bytes) = home.servers()?.read(servers::SETTINGS, MAX_SMALL_FILE)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| CliError::new(code::SERVER_SETTINGS, "`servers/settings.json` is damaged").why(error))
    }

    pub fn save(&self, home: &Home) -> Result<(), CliError> {
        let json = serde_json::to_vec_pretty(self).map_err(std::io::Error::from)?;
        Ok(home.servers()?.write(servers::SETTINGS, &json)?)
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
        let mut settings = Settings::new(Roles::All);
        settings.listen = "0.0.0.0:4000".parse().unwrap();
        assert_eq!(settings.advertised().to_string(), "127.0.0.1:4000");
    }
}
