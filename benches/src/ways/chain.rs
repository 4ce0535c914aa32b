//! Three plaintext hops, each a process: as many as a portal has, without encryption and without anybody who decides.

use std::process::Command;

use super::{Kind, Part, Place, Setting, Way, side};
use crate::Result;
use crate::process::Owned;

pub fn start(setting: &Setting<'_>) -> Result<Way> {
    let mut target = setting.service;
    let mut hops = Vec::new();
    let mut parts = Vec::new();
    // From the service towards the client, since each has to know the next.
    for place in [Place::Far, Place::Middle, Place::Near] {
        let mut command = Command::new(std::env::current_exe()?);
        let side = side(place, Place::Near);
        command.args(["hop", &setting.ip(side).to_string(), &target.to_string()]);
        let (hop, line) = Owned::spawn_telling(&setting.on(side, command), setting.warden)?;
        target = line.parse().map_err(|_| format!("a hop printed {line:?}, not its address"))?;
        parts.insert(0, Part { place, name: "hop", pid: hop.pid() });
        hops.push(hop);
    }
    Ok(Way {
        kind: Kind::Chain,
        what: "three splicing hops".to_owned(),
        entry: target,
        parts,
        forget: None,
        _held: Box::new(hops),
    })
}
