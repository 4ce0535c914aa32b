//! Two hosts that are far from each other: network namespaces joined by a cable with delay.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use postern_test_support::{Namespace, namespaces_unavailable};

use crate::Result;
use crate::warden::{Entrusted, Warden};
use crate::wire::Wire;

/// On which host something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where clients connect.
    Client,
    /// Where the service is, and whatever stands between that is not beside the client.
    Service,
}

pub struct Hosts {
    // Before the namespaces, whose devices it uses.
    pub wire: Wire,
    client: Namespace,
    service: Namespace,
    _entrusted: Entrusted,
}

impl Hosts {
    /// # Errors
    /// Why there can be none here.
    pub fn apart(delay: Duration, warden: &Warden) -> Result<Self> {
        if let Some(why) = namespaces_unavailable() {
            return Err(why.into());
        }
        let entrusted = warden.namespaces();
        let (client, service) = (Namespace::new("client"), Namespace::new("service"));
        let ends = [(&client, Self::cidr(Side::Client)), (&service, Self::cidr(Side::Service))];
        let ends = ends.each_ref().map(|(namespace, cidr)| (*namespace, namespace.name(), cidr.as_str()));
        let wire = Wire::between(ends, delay)?;
        Ok(Self { wire, client, service, _entrusted: entrusted })
    }

    /// The address by which the other host reaches this one.
    pub const fn ip(side: Side) -> IpAddr {
        IpAddr::V4(match side {
            Side::Client => Ipv4Addr::new(10, 99, 0, 1),
            Side::Service => Ipv4Addr::new(10, 99, 0, 2),
        })
    }

    fn cidr(side: Side) -> String {
        format!("{}/24", Self::ip(side))
    }

    const fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Client => &self.client,
            Side::Service => &self.service,
        }
    }

    /// The same command, on that host.
    pub fn around(&self, side: Side, command: &Command) -> Command {
        self.namespace(side).around(command)
    }

    /// Runs `work`, and the threads that it starts, on that host.
    pub fn enter<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        self.namespace(side).enter(work)
    }
}
