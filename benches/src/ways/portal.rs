//! A portal of Postern: inlet node, relay (in one process with the authority), outlet node, in three homes of one project.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use postern_test_support::TestHome;

use super::{Kind, Part, Place, Setting, Way, printed};
use crate::Result;
use crate::hosts::Side;
use crate::options::Options;
use crate::warden::Entrusted;

/// A home on one of the hosts. Fields are dropped in this order: the home is reset before nobody looks after it any more.
pub struct Home {
    pub home: TestHome,
    side: Side,
    _entrusted: [Entrusted; 2],
}

impl Home {
    fn new(binary: &Path, side: Side, setting: &Setting<'_>) -> Self {
        let home = TestHome::new(binary);
        let entrusted = [setting.warden.home(binary, &home.path()), setting.warden.directory(home.scratch())];
        Self { home, side, _entrusted: entrusted }
    }

    /// The home of a project's administrator, with authority and relay running in it.
    pub fn servers(binary: &Path, setting: &Setting<'_>) -> Result<Self> {
        let admin = Self::new(binary, Side::Service, setting);
        admin.run(setting, &["enroll", "--listen", &setting.free(Side::Service).to_string()])?;
        Ok(admin)
    }

    /// A member of the project by a ticket that the administrator makes.
    fn member(admin: &Self, side: Side, setting: &Setting<'_>, flags: &[&str]) -> Result<Self> {
        let member = Self::new(admin.home.binary(), side, setting);
        let ticket = admin.run(setting, &[&["project", "ticket"], flags].concat())?;
        let file = member.home.file("join.ticket", ticket);
        member.run(setting, &["project", "enroll", &file.to_string_lossy()])?;
        Ok(member)
    }

    /// What a command prints, run on the home's host.
    pub fn run(&self, setting: &Setting<'_>, arguments: &[&str]) -> Result<String> {
        let mut command: Command = self.home.invoke(arguments).command();
        command.stderr(std::process::Stdio::piped());
        printed(&mut setting.on(self.side, command))
    }
}

pub fn start(setting: &Setting<'_>) -> Result<Way> {
    let binary = binary(setting.options)?;
    let admin = Home::servers(&binary, setting)?;
    let what = admin.run(setting, &["--version"])?;
    let (vendor, customer, entry) = nodes(setting, &admin)?;
    let parts = vec![
        Part { place: Place::Near, name: "inlet node", pid: customer.home.node_pid("customer") },
        Part { place: Place::Middle, name: "relay", pid: admin.home.servers_pid() },
        Part { place: Place::Far, name: "outlet node", pid: vendor.home.node_pid("vendor") },
    ];
    let customer = Rc::new(customer);
    let restarted = Rc::clone(&customer);
    let forget = move |setting: &Setting<'_>| {
        restarted.run(setting, &["node", "stop", "customer"])?;
        restarted.run(setting, &["node", "start", "customer"]).map(drop)
    };
    // Nodes first, then the servers that they would look for.
    Ok(Way {
        kind: Kind::Postern,
        what,
        entry,
        parts,
        forget: Some(Box::new(forget)),
        _held: Box::new((customer, vendor, admin)),
    })
}

/// Two members of a project: the node `vendor` with an outlet to the service, the node `customer` with an inlet; and where that listens.
pub fn nodes(setting: &Setting<'_>, admin: &Home) -> Result<(Home, Home, SocketAddr)> {
    let vendor = Home::member(admin, Side::Service, setting, &["--relay", "vendor"])?;
    let outlet = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: service, to: '{}'}}}}", setting.service);
    vendor.run(setting, &["node", "create", "--configuration", &outlet])?;
    let customer = Home::member(admin, Side::Client, setting, &[])?;
    // A port that stays through a restart.
    let entry = setting.free(Side::Client);
    let inlet = format!("{{name: customer, tcp-inlet: {{alias: service, from: '{entry}', via: vendor, to: service}}}}");
    customer.run(setting, &["node", "create", "--configuration", &inlet])?;
    Ok((vendor, customer, entry))
}

/// The `postern` to measure: the one named, or the one that stands beside this program.
pub fn binary(options: &Options) -> Result<PathBuf> {
    let path = match &options.postern {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("postern"),
    };
    if fs::metadata(&path).is_ok_and(|file| file.is_file()) {
        return Ok(path.canonicalize()?);
    }
    let profile = if cfg!(debug_assertions) { "" } else { "--release " };
    Err(format!(
        "there is no {}: build it with `cargo build {profile}-p postern-cli`, or name another with --postern PATH",
        path.display()
    )
    .into())
}
