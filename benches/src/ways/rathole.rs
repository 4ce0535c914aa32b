//! rathole: a server that others can reach, and a client beside the service; by plain TCP, or with Noise between the two.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Held, Kind, Part, Place, Setting, Started, find, printed, side};
use crate::Result;
use crate::hosts::Side;
use crate::process::Owned;

const INSTALL: &str = "`cargo install rathole`, or name it with --rathole PATH";

pub fn start(kind: Kind, setting: &Setting<'_>) -> Result<Started> {
    let Some(rathole) = find("rathole", setting.options.rathole.as_ref()) else {
        return Ok(Started::Missing(INSTALL.to_owned()));
    };
    let (control, entry) = (setting.free(Side::Client), setting.free(Side::Client));
    let (server, client) = match kind {
        Kind::RatholeNoise => noise(&rathole)?,
        _ => Default::default(),
    };
    let mut held = Held::new(setting)?;
    let server = format!(
        "[server]\nbind_addr = '{control}'\ndefault_token = 'bench'\n{server}[server.services.bench]\nbind_addr = '{entry}'\n"
    );
    let client = format!(
        "[client]\nremote_addr = '{control}'\ndefault_token = 'bench'\n{client}[client.services.bench]\nlocal_addr = '{}'\n",
        setting.service
    );
    let mut parts = Vec::new();
    for (place, flag, configuration) in [(Place::Middle, "--server", server), (Place::Far, "--client", client)] {
        let file = held.directory().join(format!("{}.toml", place.name()));
        fs::write(&file, configuration)?;
        let mut command = Command::new(&rathole);
        command.arg(flag).arg(file).env("RUST_LOG", "error");
        let process = Owned::spawn(&setting.on(side(place, Place::Middle), command), setting.warden)?;
        parts.push(Part { place, name: "rathole", pid: process.pid() });
        held.process(process);
        if place == Place::Middle {
            setting.listens(control, "rathole's server")?;
        }
    }
    setting.listens(entry, "rathole's service")?;
    let version = printed(Command::new(&rathole).arg("--version"))?;
    let version = version.lines().find_map(|line| line.strip_prefix("Build Version:")).map_or(&*version, str::trim);
    let transport = if kind == Kind::RatholeNoise { "noise" } else { "tcp" };
    Ok(Started::Runs(held.way(kind, format!("rathole {version}, {transport}"), entry, parts)))
}

/// What makes both sides speak Noise: the server's and the client's lines.
fn noise(rathole: &Path) -> Result<(String, String)> {
    let keys = printed(Command::new(rathole).arg("--genkey"))?;
    let key = |title: &str| {
        let mut lines = keys.lines().skip_while(|line| !line.starts_with(title)).skip(1);
        lines.next().map(str::trim).ok_or_else(|| format!("rathole --genkey printed no {title}"))
    };
    let section = |side: &str, name: &str, key: &str| {
        format!("[{side}.transport]\ntype = 'noise'\n[{side}.transport.noise]\n{name} = '{key}'\n")
    };
    Ok((section("server", "local_private_key", key("Private Key")?), section("client", "remote_public_key", key("Public Key")?)))
}
