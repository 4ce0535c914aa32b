//! bore: a server that others can reach, and a client beside the service, in plain text.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::{Held, Kind, Part, Place, Setting, Started, find, free, listens, printed};
use crate::Result;
use crate::process::Owned;

const INSTALL: &str = "`cargo install bore-cli`, or name it with --bore PATH";

/// Where its server listens: an address of loopback that nobody else uses, because the port is fixed in the program.
const SERVER: &str = "127.7.8.35";
const CONTROL_PORT: u16 = 7835;

pub fn start(setting: &Setting<'_>) -> Result<Started> {
    let Some(bore) = find("bore", setting.options.bore.as_ref()) else { return Ok(Started::Missing(INSTALL.to_owned())) };
    let mut held = Held::new(setting)?;
    let control: SocketAddr = format!("{SERVER}:{CONTROL_PORT}").parse()?;
    let entry = SocketAddr::new(control.ip(), free().port());
    let mut server = Command::new(&bore);
    server.args(["server", "--min-port", "1024", "--bind-addr", SERVER, "--bind-tunnels", SERVER]);
    let mut client = Command::new(&bore);
    client.args(["local", &setting.service.port().to_string(), "--local-host", "127.0.0.1", "--to", SERVER]);
    client.args(["--port", &entry.port().to_string()]);
    let mut parts = Vec::new();
    for (place, mut command) in [(Place::Middle, server), (Place::Far, client)] {
        command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null());
        let process = Owned::spawn(&mut command, setting.warden)?;
        parts.push(Part { place, name: "bore", pid: process.pid() });
        held.process(process);
        if place == Place::Middle {
            listens(control, "bore's server")?;
        }
    }
    listens(entry, "bore's tunnel")?;
    Ok(Started::Runs(held.way(Kind::Bore, printed(Command::new(&bore).arg("--version"))?, entry, parts)))
}
