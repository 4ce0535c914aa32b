//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::ways::Kind;

/// Postern beside what else could carry the same bytes: everything is started here, on this machine, and ends with the run.
#[derive(Debug, Parser)]
#[command(name = "postern-bench", version)]
pub struct Options {
    /// Measure only these ways; the plaintext chain is what the others are compared with
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WAY,…")]
    pub ways: Vec<Kind>,

    /// Measure only these figures
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FIGURE,…")]
    pub only: Vec<Group>,

    /// Rounds; in each, every figure is taken of every way in turn, and the table shows medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Bytes of one measurement of throughput, such as 1GiB or 64MiB
    #[arg(long, default_value = "1GiB", value_parser = size, value_name = "SIZE")]
    pub bytes: u64,

    /// Milliseconds each way between hosts that are far apart
    #[arg(long, default_value_t = 30, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub delay: u64,

    /// Percent of packets that are lost between them, for the measurement with loss
    #[arg(long, default_value_t = 0.1, value_name = "PERCENT")]
    pub loss: f64,

    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,

    /// A run of a few seconds that checks only that everything works; its figures mean nothing
    #[arg(long, global = true)]
    pub smoke: bool,

    /// The `postern` to measure [default: the one built beside this program]
    #[arg(long, value_name = "PATH", global = true)]
    pub postern: Option<PathBuf>,

    /// A `rathole` that is not in PATH
    #[arg(long, value_name = "PATH")]
    pub rathole: Option<PathBuf>,

    /// A `bore` that is not in PATH
    #[arg(long, value_name = "PATH")]
    pub bore: Option<PathBuf>,

    /// An `ockam` that is not in PATH
    #[arg(long, value_name = "PATH")]
    pub ockam: Option<PathBuf>,

    /// An `ssh` that is not in PATH
    #[arg(long, value_name = "PATH")]
    pub ssh: Option<PathBuf>,

    /// An `sshd` that is neither in PATH nor in /usr/sbin
    #[arg(long, value_name = "PATH")]
    pub sshd: Option<PathBuf>,

    #[command(subcommand)]
    pub internal: Option<Internal>,
}

impl Options {
    /// Whether figures of this group are wanted.
    pub fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    /// How much is done to take one figure once.
    pub fn effort(&self) -> Effort {
        if self.smoke { Effort::smoke() } else { Effort::full(self.rounds, self.bytes) }
    }
}

/// What else than a comparison.
#[derive(Debug, Subcommand)]
pub enum Internal {
    /// What many nodes that do nothing cost one relay: links lost, memory, CPU
    IdleNodes(IdleNodes),
    /// Holds the control links of NODES nodes that enrol with the ticket in a file
    #[command(hide = true)]
    IdleLoad { ticket: PathBuf, nodes: usize },
    /// What happens when the servers of many nodes are killed and come back: how long nodes are away, streams lost
    Storm(Storm),
    /// Holds links and sessions of NODES nodes that enrol with the ticket in a file, and brings them back
    #[command(hide = true)]
    StormLoad { ticket: PathBuf, nodes: usize },
    /// One plaintext hop: splices each connection to TARGET
    #[command(hide = true)]
    Hop { listen: IpAddr, target: SocketAddr },
    /// Becomes COMMAND in a session of its own
    #[command(hide = true)]
    Session {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Ends what the bench has started, should it die before it can
    #[command(hide = true)]
    Warden,
}

#[derive(Debug, clap::Args)]
pub struct IdleNodes {
    #[arg(long, default_value_t = 8_000)]
    pub nodes: usize,

    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,

    /// Processes that the nodes are spread over
    #[arg(long, default_value_t = 2, value_parser = loads)]
    pub loads: usize,
}

#[derive(Debug, clap::Args)]
pub struct Storm {
    #[arg(long, default_value_t = 2_000)]
    pub nodes: usize,

    /// Streams that are open meanwhile, through a portal of two further nodes
    #[arg(long, default_value_t = 500)]
    pub streams: usize,

    /// Seconds until the servers are started again
    #[arg(long, default_value_t = 5.0, value_parser = away)]
    pub away: f64,

    /// Processes that the nodes are spread over
    #[arg(long, default_value_t = 2, value_parser = loads)]
    pub loads: usize,
}

/// Figures that are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Gbit/s with 1, 8 and 64 streams, CPU and memory
    Throughput,
    /// New connections per second at 1, 8 and 64 at once
    Connections,
    /// Round trips of 64 bytes
    RoundTrip,
    /// Memory of idle streams
    Idle,
    /// Throughput and times to the first byte between hosts that are far apart
    Far,
    /// Whether every way in which a connection can end is what it is with plain TCP
    Endings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// How much is done to take one figure once.
#[derive(Debug, Clone)]
pub struct Effort {
    pub rounds: u32,
    /// Bytes of one measurement of throughput.
    pub bytes: u64,
    /// How long connections are made.
    pub connecting: Duration,
    /// Round trips of one measurement, and how many measurements a round has: scheduling makes them differ more than other figures.
    pub round_trips: u32,
    pub round_trip_rounds: u32,
    /// How many streams are idle, and for how long when their memory is looked at.
    pub idle: [usize; 2],
    pub idle_for: Duration,
    pub far: Far,
}

/// How much is done between hosts that are far apart. Each measurement takes seconds there, whatever the machine does.
#[derive(Debug, Clone)]
pub struct Far {
    pub rounds: u32,
    /// Bytes of a stream without and with loss: a few seconds each.
    pub bytes: u64,
    pub bytes_with_loss: u64,
    /// Connections for the time to the first byte.
    pub connections: u32,
}

impl Effort {
    fn full(rounds: u32, bytes: u64) -> Self {
        Self {
            rounds,
            bytes,
            connecting: Duration::from_secs(2),
            round_trips: 5_000,
            round_trip_rounds: 4,
            idle: [1_000, 4_000],
            idle_for: Duration::from_secs(4),
            far: Far { rounds: rounds.min(3), bytes: 256 << 20, bytes_with_loss: 8 << 20, connections: 20 },
        }
    }

    fn smoke() -> Self {
        Self {
            rounds: 1,
            bytes: 4 << 20,
            connecting: Duration::from_millis(100),
            round_trips: 50,
            round_trip_rounds: 1,
            idle: [16, 64],
            idle_for: Duration::from_millis(50),
            far: Far { rounds: 1, bytes: 256 << 10, bytes_with_loss: 64 << 10, connections: 2 },
        }
    }
}

fn loads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| (1..=64).contains(number)).ok_or_else(|| "1 to 64".to_owned())
}

fn away(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.0..=50.0).contains(seconds)).ok_or_else(|| "0 to 50 seconds".to_owned())
}

/// A number of bytes, with a binary unit or none.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err("a number of bytes, KiB, MiB or GiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes >= 64).ok_or_else(|| "64 bytes at least".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(super::size("64"), Ok(64));
        assert_eq!(super::size("64MiB"), Ok(64 << 20));
        assert_eq!(super::size("2 GiB"), Ok(2 << 30));
        assert!(super::size("1GB").is_err());
        assert!(super::size("0").is_err());
        assert!(super::size("99999999999GiB").is_err());
    }
}
