//! What the suites with real processes stand on: homes that clean up after themselves, commands with a deadline, servers on free
//! ports in the test's process, and waiting for events.
//!
//! Nothing here uses a fixed port or a directory of its own choosing, so suites run beside each other and beside themselves.

mod chaos;
mod client;
mod cut;
mod disk;
mod endings;
mod home;
mod inspect;
mod mispairing;
mod name_server;
mod netns;
mod pattern;
mod poll;
mod portal;
mod postgres;
mod processes;
mod project;
mod proxy;
mod relay_server;
mod run;
mod servers;
mod skips;
mod squatter;
mod terminal;

pub use chaos::{Chaos, DAMAGES, Damages};
pub use client::{HttpReply, connect, echoes, http_get, is_reset, live, pings, refused};
pub use cut::Cut;
pub use disk::Disk;
pub use endings::{ENDINGS, Ending, EndingServer, NOBODY, Patience, nobody_there};
pub use home::TestHome;
pub use inspect::{busy, command_lines, contains, descriptors, files_below, found_in_memory, resident};
pub use mispairing::{Mispairing, Pair};
pub use name_server::NameServer;
pub use netns::{Namespace, unavailable as namespaces_unavailable};
pub use pattern::Pattern;
pub use poll::{PATIENCE, eventually, holds};
pub use portal::Portal;
pub use postgres::{Postgres, PostgresSession, program};
pub use processes::{Process, signal};
pub use project::Project;
pub use proxy::{Proxy, reset};
pub use relay_server::RelayServer;
pub use run::{DEADLINE, Foreground, Invocation, Outcome, binary_or};
pub use rustix::process::Signal;
pub use serde_json::{Value, json};
pub use servers::{EchoServer, HttpServer, Reserved, SinkServer, TcpServer};
pub use skips::skipped;
pub use squatter::listen_as;
pub use terminal::OnTerminal;
