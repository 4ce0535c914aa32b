//! What the servers of a home were started with, kept for restarts in `servers/settings.json`.

use std::net::SocketAddr;

use postern_proto::address::HostPort;
use postern_proto::name::{IdentityName, ProjectName};
use postern_runtime::files::MAX_SMALL_FILE;
pub use postern_runtime::home::Advertise;
use postern_runtime::home::{Home, OwnServers, servers};
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
        OwnServers { listen: self.listen.clone(), advertise: self.advertise.clone() }.advertised()
    }

    /// What is odd about the address that others are told, where it leads here only if something else forwards it.
    pub fn told_elsewhere(&self) -> Option<String> {
        let (listen, told) = (&self.listen, self.advertised());
        if listen.is_loopback() && !told.is_loopback() {
            return Some(format!(
                "the servers listen on {listen}, where only this machine reaches them, and others are told {told}"
            ));
        }
        (listen.port() != told.port())
            .then(|| format!("the servers listen on port {}, and others are told {told}", listen.port()))
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
    fn an_address_that_leads_elsewhere_is_told() {
        let with = |listen: &str, advertise: Option<&str>| {
            let mut settings = Settings::new(Roles::All);
            settings.listen = listen.parse().unwrap();
            settings.advertise = advertise.map(|told| told.parse().unwrap());
            settings.told_elsewhere()
        };
        assert!(with("127.0.0.1:4000", None).is_none() && with("0.0.0.0:4000", Some("gate.example")).is_none());
        assert!(
            with("127.0.0.1:4001", Some("127.0.0.1:4000")).unwrap().contains("port 4001, and others are told 127.0.0.1:4000")
        );
        assert!(with("127.0.0.1:4000", Some("gate.example")).unwrap().contains("only this machine"));
    }

    #[test]
    fn what_is_kept_says_where_the_servers_are() {
        let mut settings = Settings::new(Roles::All);
        settings.listen = "0.0.0.0:4000".parse().unwrap();
        assert_eq!(settings.advertised().to_string(), "127.0.0.1:4000");
        settings.advertise = Some("gate.example".parse().unwrap());
        // Nodes of the home read the same file, without what does not concern them.
        let own: OwnServers = serde_json::from_slice(&serde_json::to_vec(&settings).unwrap()).unwrap();
        assert_eq!((own.advertised(), own.local()), (settings.advertised(), "127.0.0.1:4000".parse().unwrap()));
    }
}
