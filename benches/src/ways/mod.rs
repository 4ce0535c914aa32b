//! The ways that the same bytes can take from a client to the service.

mod bore;
mod chain;
mod held;
mod ockam;
mod portal;
mod rathole;
mod ssh;

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use clap::ValueEnum;
use postern_test_support::Reserved;

use held::{Held, STARTS, find, printed};

pub use portal::{Home, binary as postern, nodes as portal_nodes};

use crate::Result;
use crate::hosts::{Hosts, Side};
use crate::options::Options;
use crate::warden::Warden;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// One connection from the client to the service
    Direct,
    /// Three plaintext hops that splice
    Chain,
    /// Inlet, relay, outlet
    Postern,
    /// rathole by plain TCP
    RatholeTcp,
    /// rathole with Noise between server and client
    RatholeNoise,
    /// bore, in plain text
    Bore,
    /// Ockam: inlet, relay, outlet
    Ockam,
    /// ssh -L through one sshd
    SshL,
    /// ssh -R through one sshd
    SshR,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Chain => "chain",
            Self::Postern => "postern",
            Self::RatholeTcp => "rathole-tcp",
            Self::RatholeNoise => "rathole-noise",
            Self::Bore => "bore",
            Self::Ockam => "ockam",
            Self::SshL => "ssh-l",
            Self::SshR => "ssh-r",
        }
    }
}

/// Where in a way a process stands. Ways with two processes have no one far from, or near to, the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Beside the client.
    Near,
    /// In the middle, where others can reach it.
    Middle,
    /// Beside the service.
    Far,
}

/// On which host a place is: between a way's first process and its next is the distance.
const fn side(place: Place, first: Place) -> Side {
    if place as u8 == first as u8 { Side::Client } else { Side::Service }
}

impl Place {
    pub const ALL: [Self; 3] = [Self::Near, Self::Middle, Self::Far];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Middle => "middle",
            Self::Far => "far",
        }
    }
}

/// A process of a way.
#[derive(Debug, Clone)]
pub struct Part {
    pub place: Place,
    /// What it is called where it comes from.
    pub name: &'static str,
    pub pid: u32,
}

/// See [`Way::forget`].
pub type Forget = Box<dyn Fn(&Setting<'_>) -> Result<()>>;

/// A way that runs, until it is dropped.
pub struct Way {
    pub kind: Kind,
    /// What was measured: program and version.
    pub what: String,
    /// Where a client connects.
    pub entry: SocketAddr,
    pub parts: Vec<Part>,
    /// Makes the way forget its peers, so that the next connection is its first; for those that remember any.
    pub forget: Option<Forget>,
    _held: Box<dyn Any>,
}

impl Way {
    /// The processes at a place.
    pub fn at(&self, place: Place) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.place == place)
    }
}

/// What became of a way that was to be started.
pub enum Started {
    Runs(Way),
    /// It is not on this machine; the text says how it comes there.
    Missing(String),
}

/// What every way is started with.
pub struct Setting<'a> {
    pub options: &'a Options,
    pub warden: &'a Warden,
    pub service: SocketAddr,
    /// Where the way runs, unless all of it runs here.
    pub hosts: Option<&'a Hosts>,
}

impl Setting<'_> {
    /// The address of that host for the other one.
    pub fn ip(&self, side: Side) -> IpAddr {
        self.hosts.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |_| Hosts::ip(side))
    }

    /// An address of that host at which nobody listens.
    pub fn free(&self, side: Side) -> SocketAddr {
        SocketAddr::new(self.ip(side), Reserved::new().release())
    }

    /// The command, on that host.
    pub fn on(&self, side: Side, command: Command) -> Command {
        match self.hosts {
            None => command,
            Some(hosts) => hosts.around(side, &command),
        }
    }

    /// Runs `work` where clients are.
    pub fn as_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.at(Side::Client, work)
    }

    /// Runs `work` on that host.
    fn at<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        match self.hosts {
            None => work(),
            Some(hosts) => hosts.enter(side, work),
        }
    }

    /// Waits until connections of clients are taken.
    fn listens(&self, address: SocketAddr, who: &str) -> Result<()> {
        self.listens_at(Side::Client, address, who)
    }

    /// Waits until connections from that host are taken.
    fn listens_at(&self, side: Side, address: SocketAddr, who: &str) -> Result<()> {
        self.at(side, || held::listens(address, who))
    }
}

pub fn start(kind: Kind, setting: &Setting<'_>) -> Result<Started> {
    match kind {
        Kind::Direct => Ok(Started::Runs(Way {
            kind,
            what: "a TCP connection".to_owned(),
            entry: setting.service,
            parts: Vec::new(),
            forget: None,
            _held: Box::new(()),
        })),
        Kind::Chain => chain::start(setting).map(Started::Runs),
        Kind::Postern => portal::start(setting).map(Started::Runs),
        Kind::RatholeTcp | Kind::RatholeNoise => rathole::start(kind, setting),
        Kind::Bore => bore::start(setting),
        Kind::Ockam => ockam::start(setting),
        Kind::SshL | Kind::SshR => ssh::start(kind, setting),
    }
}
