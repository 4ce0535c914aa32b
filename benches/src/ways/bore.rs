//! bore: a server that others can reach, and a client beside the service, in plain text.

use std::net::SocketAddr;
use std::process::Command;

use super::{Held, Kind, Part, Place, Setting, Started, find, printed, side};
use crate::Result;
use crate::hosts::Side;
use crate::process::Owned;

const INSTALL: &str = "`cargo install bore-cli`, or name it with --bore PATH";

/// Where its server listens: an address of loopback that nobody else uses, because the port is fixed in the program.
const SERVER: &str = "127.7.8.35";
const CONTROL_PORT: u16 = 7835;

pub fn start(setting: &Setting<'_>) -> Result<Started> {
    let Some(bore) = find("bore", setting.options.bore.as_ref()) else { return Ok(Started::Missing(INSTALL.to_owned())) };
    let mut held = Held::new(setting)?;
    let server_ip = &match setting.hosts {
        None => SERVER.to_owned(),
        Some(_) => setting.ip(Side::Client).to_string(),
    };
    let control: SocketAddr = format!("{server_ip}:{CONTROL_PORT}").parse()?;
    let entry = SocketAddr::new(control.ip(), setting.free(Side::Client).port());
    let mut server = Command::new(&bore);
    server.args(["server", "--min-port", "1024", "--bind-addr", server_ip, "--bind-tunnels", server_ip]);
    let mut client = Command::new(&bore);
    client.args([
        "local",
        &setting.service.port().to_string(),
        "--local-host",
        &setting.service.ip().to_string(),
        "--to",
        server_ip,
    ]);
    client.args(["--port", &entry.port().to_string()]);
    let mut parts = Vec::new();
    for (place, mut command) in [(Place::Middle, server), (Place::Far, client)] {
        command.env("RUST_LOG", "error");
        let process = Owned::spawn(&setting.on(side(place, Place::Middle), command), setting.warden)?;
        parts.push(Part { place, name: "bore", pid: process.pid() });
        held.process(process);
        if place == Place::Middle {
            setting.listens(control, "bore's server")?;
        }
    }
    setting.listens(entry, "bore's tunnel")?;
    Ok(Started::Runs(held.way(Kind::Bore, printed(Command::new(&bore).arg("--version"))?, entry, parts)))
}
