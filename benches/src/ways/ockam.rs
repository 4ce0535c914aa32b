//! Ockam: a portal between two nodes with a relay on a third, through a secure channel of its own from end to end.

use std::process::Command;

use super::{Held, Kind, Part, Place, Setting, Started, find, printed, side};
use crate::Result;
use crate::hosts::Side;
use crate::process::Owned;

const INSTALL: &str = "`cargo install --locked ockam_command`, or name it with --ockam PATH";

pub fn start(setting: &Setting<'_>) -> Result<Started> {
    let Some(program) = find("ockam", setting.options.ockam.as_ref()) else {
        return Ok(Started::Missing(INSTALL.to_owned()));
    };
    let mut held = Held::new(setting)?;
    let home = held.directory().join("home");
    let ockam = |side: Side, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("OCKAM_HOME", &home).env("NO_INPUT", "true");
        // It would tell others of what it does, and look for newer versions.
        command.env("OCKAM_TELEMETRY_EXPORT", "0").env("OCKAM_DISABLE_UPGRADE_CHECK", "1");
        setting.on(side, command)
    };
    let mut parts = Vec::new();
    for (place, name) in [(Place::Middle, "relay"), (Place::Far, "outlet"), (Place::Near, "inlet")] {
        let host = side(place, Place::Near);
        let address = setting.free(host);
        let arguments = ["node", "create", name, "--foreground", "--tcp-listener-address", &address.to_string()];
        let process = Owned::spawn(&ockam(host, &arguments), setting.warden)?;
        parts.push(Part { place, name: "ockam", pid: process.pid() });
        held.process(process);
        setting.listens_at(host, address, "ockam's node")?;
    }
    parts.sort_by_key(|part| part.place);
    let entry = setting.free(Side::Client);
    let run = |side: Side, arguments: &[&str]| printed(&mut ockam(side, arguments));
    run(Side::Service, &["tcp-outlet", "create", "--at", "outlet", "--to", &setting.service.to_string()])?;
    run(Side::Service, &["relay", "create", "outlet", "--at", "/node/relay", "--to", "outlet"])?;
    let route = "/node/relay/service/forward_to_outlet/secure/api/service/outlet";
    run(Side::Client, &["tcp-inlet", "create", "--at", "inlet", "--from", &entry.to_string(), "--to", route])?;
    setting.listens(entry, "ockam's inlet")?;
    // In colours, wherever it is printed to.
    let version = printed(Command::new(&program).arg("--version"))?;
    let mut numbers = version.split(|c: char| c != '.' && !c.is_ascii_digit());
    let version = numbers.find(|number| number.split('.').count() == 3).unwrap_or_default();
    Ok(Started::Runs(held.way(Kind::Ockam, format!("ockam {version}"), entry, parts)))
}
