//! What the servers of a home were started with, kept for restarts in `servers/settings.json`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::name::{IdentityName, ProjectName};
use postern_proto::time::parse_duration;
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
    /// How long the authority's credentials are good; its default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_lifetime: Option<CredentialLifetime>,
}

/// How long the authority's credentials are good. Nodes renew them after an hour, or after a third of their life where that is shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialLifetime(Duration);

impl CredentialLifetime {
    /// A third of it is time enough to renew, and to try once more.
    const MIN: Duration = Duration::from_secs(10);
    /// In whole days, what verifiers accept.
    const MAX: Duration = Duration::from_secs(6 * 86_400);

    pub const fn get(self) -> Duration {
        self.0
    }
}

const _: () = assert!(CredentialLifetime::MAX.as_secs() <= postern_authority::MAX_CREDENTIAL_LIFETIME.as_secs());

impl FromStr for CredentialLifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lifetime = parse_duration(text).map_err(|error| error.to_string())?;
        if (Self::MIN..=Self::MAX).contains(&lifetime) {
            Ok(Self(lifetime))
        } else {
            Err(format!("credentials are good for 10s to 6d, not for `{}`", text.chars().take(40).collect::<String>()))
        }
    }
}

impl TryFrom<String> for CredentialLifetime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for CredentialLifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

impl From<CredentialLifetime> for String {
    fn from(lifetime: CredentialLifetime) -> Self {
        lifetime.to_string()
    }
}

impl Settings {
    pub fn new(roles: Roles) -> Self {
        let listen = HostPort::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        Self { roles, listen, advertise: None, administrator: None, project: None, metrics: None, credential_lifetime: None }
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
        let servers = home.servers()?;
        // Servers that start again have nothing new to keep, and then need no room on the disk.
        if matches!(servers.read(servers::SETTINGS, MAX_SMALL_FILE), Ok(Some(kept)) if kept.as_slice() == json) {
            return Ok(());
        }
        Ok(servers.write(servers::SETTINGS, &json)?)
    }

    /// Whether servers of `home` belong to a project: to one that was made here, or that their relay has joined.
    pub fn are_of_a_project(home: &Home) -> Result<bool, CliError> {
        Ok(home.has_authority()? || home.has_joined_relay()?)
    }

    /// Whether they are those of an authority that never made its project: nobody knows the address, and nobody misses it. (A relay alone
    /// waits for its project, and is started again by what is kept of it.)
    pub fn are_unused(&self, home: &Home) -> Result<bool, CliError> {
        Ok(self.roles.authority() && !Self::are_of_a_project(home)?)
    }

    /// Removes what is kept, where it is of no use; whether it was. For whoever holds the lock of the servers.
    pub fn forget_unused(&self, home: &Home) -> Result<bool, CliError> {
        Ok(self.are_unused(home)? && home.servers()?.remove(servers::SETTINGS)?)
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
    fn how_long_credentials_may_be_good() {
        for (text, seconds) in [("10s", 10), ("10", 10), ("24h", 86_400), ("6d", 518_400)] {
            let lifetime: CredentialLifetime = text.parse().unwrap();
            assert_eq!(lifetime.get(), Duration::from_secs(seconds));
            let kept = serde_json::to_string(&lifetime).unwrap();
            assert_eq!(serde_json::from_str::<CredentialLifetime>(&kept).unwrap(), lifetime, "{kept}");
        }
        for text in ["9s", "9999ms", "0", "7d", "soon", ""] {
            text.parse::<CredentialLifetime>().unwrap_err();
        }
        assert!("7d".parse::<CredentialLifetime>().unwrap_err().contains("10s to 6d"));
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
